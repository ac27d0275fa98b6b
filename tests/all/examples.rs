//! The files in `examples/` work with this version: command lines are ones that the program takes,
//! metrics are ones that it writes, and formats are read by those who read them, where a tool for that
//! is installed: systemd, nginx, Prometheus' promtool.
//!
//! The shares of a manifest are tested in `fleet.rs`, the policies in `operators.rs`.

use crate::support::{git_http, local_git, program};
use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use git_http::{Canned, StaticHttp};
use local_git::Repo;
use mirror_git_to_s3::cli::help_texts;
use program::{program, wait_until};
use saphyr::{LoadableYamlNode, Yaml};

const TIMERS: [&str; 3] = ["mirror-git", "mirror-git-verify", "mirror-git-gc"];

fn example(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn say(words: &str) {
    // The test harness swallows print macros, not this.
    let _ = writeln!(std::io::stderr(), "examples: {words}");
}

/// Is this tool here? If not, says that something is skipped.
fn has(tool: &str, argument: &str) -> bool {
    let ran = Command::new(tool).arg(argument).stdout(Stdio::null()).stderr(Stdio::null()).status();
    if ran.is_err() {
        say(&format!("SKIPPED, not passed: {tool} is not installed"));
    }
    ran.is_ok()
}

fn service(name: &str) -> String {
    example(&format!("{name}.service"))
}

/// The words of a service's command, without the program.
fn words_of(service: &str) -> Vec<&str> {
    let line = service.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
    let mut words = line.split(' ');
    assert_eq!(words.next(), Some("mirror-git-to-s3"), "systemd finds it by this name");
    words.collect()
}

/// Every command line of this program in the examples: the file, and the words.
fn command_lines() -> Vec<(String, Vec<String>)> {
    let mut found = Vec::new();
    for name in ["mirror-git.cron", "shards-parallel.sh", "shards-slurm.sh", "mirrors.txt"] {
        for line in example(name).lines() {
            // Of a comment only what looks like a command; of GNU parallel's not its own arguments.
            let Some((_, words)) = line.split_once("mirror-git-to-s3 ") else { continue };
            let words = words.split(" ::: ").next().unwrap_or_default();
            found.push((name.to_owned(), words.split(' ').map(str::to_owned).collect()));
        }
    }
    for name in TIMERS {
        let words = words_of(&service(name)).into_iter().map(str::to_owned).collect();
        found.push((format!("{name}.service"), words));
    }
    let text = example("kubernetes.yaml");
    let job = &Yaml::load_from_str(&text).unwrap()[0];
    let pod = &job["spec"]["jobTemplate"]["spec"]["template"]["spec"];
    let args = pod["containers"][0]["args"].as_sequence().unwrap();
    let args = args.iter().map(|word| word.as_str().unwrap().to_owned()).collect();
    found.push(("kubernetes.yaml".to_owned(), args));
    found
}

#[test]
fn command_lines_have_options_that_the_program_knows() {
    let home = tempfile::tempdir().unwrap();
    let lines = command_lines();
    assert!(lines.len() >= 10, "{lines:?}");
    for (file, words) in lines {
        // With --help at the end all words before it are looked up, and nothing is done.
        let ran = program(home.path()).args(&words).arg("--help").output().unwrap();
        assert_eq!(ran.status.code(), Some(0), "{file}: {words:?}: {}", text(&ran.stderr));
    }
}

#[test]
fn commands_of_the_services_are_complete() {
    for name in TIMERS {
        let dir = tempfile::tempdir().unwrap();
        let list = dir.path().join("mirrors.txt");
        fs::write(&list, example("mirrors.txt")).unwrap();
        let service = service(name);
        let words = words_of(&service).into_iter().map(|word| {
            let word = word.replace("/etc/mirror-git/mirrors.txt", list.to_str().unwrap());
            word.replace("${STATE_DIRECTORY}", dir.path().to_str().unwrap())
        });
        // A share that nothing belongs to: all is read, and nothing is begun.
        let mut command = program(dir.path());
        let ran = command.args(words).args(["--shard", "0/1000003"]).output().unwrap();
        assert_eq!(ran.status.code(), Some(0), "{name}: {}", text(&ran.stderr));
        // Each has a metrics file of its own, in the one directory that it may write.
        let written = fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap().path());
        assert_eq!(written.filter(|path| path.extension() == Some("prom".as_ref())).count(), 1);
    }
}

/// The units with this program, in a folder of their own.
fn units() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let exec = format!("ExecStart={} ", env!("CARGO_BIN_EXE_mirror-git-to-s3"));
    for name in TIMERS {
        let service = service(name).replace("ExecStart=mirror-git-to-s3 ", &exec);
        fs::write(dir.path().join(format!("{name}.service")), service).unwrap();
        let timer = example(&format!("{name}.timer"));
        fs::write(dir.path().join(format!("{name}.timer")), timer).unwrap();
    }
    dir
}

#[test]
fn units_are_ones_that_systemd_takes() {
    if !has("systemd-analyze", "--version") {
        return;
    }
    let dir = units();
    for name in TIMERS {
        let path = |kind: &str| dir.path().join(format!("{name}.{kind}"));
        let mut verify = Command::new("systemd-analyze");
        verify.arg("verify").arg(path("service")).arg(path("timer"));
        let ran = verify.output().unwrap();
        // Complaints about units of the machine are none of ours.
        let said = text(&ran.stderr);
        let ours: Vec<&str> = said.lines().filter(|line| line.contains("mirror-git")).collect();
        assert!(ours.is_empty(), "{said}");
    }
}

#[test]
fn services_are_exposed_by_less_than_three() {
    if !has("systemd-analyze", "--version") {
        return;
    }
    let dir = units();
    for name in TIMERS {
        let mut security = Command::new("systemd-analyze");
        // The threshold is in tenths.
        security.args(["security", "--offline=true", "--threshold=29", "--no-pager"]);
        let ran = security.arg(dir.path().join(format!("{name}.service"))).output().unwrap();
        let said = text(&ran.stdout) + &text(&ran.stderr);
        if said.contains("unrecognized option") || said.contains("Unknown option") {
            say("SKIPPED, not passed: this systemd-analyze cannot judge a file");
            return;
        }
        assert!(ran.status.success(), "{said}");
    }
}

#[test]
fn the_example_manifest_is_one() {
    let list = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/mirrors.txt");
    let dir = tempfile::tempdir().unwrap();
    // A share that nothing belongs to is read to its end, and nothing is begun.
    let words = ["--manifest", list.to_str().unwrap(), "--shard", "0/1000003", "-v"];
    let ran = program(dir.path()).args(words).output().unwrap();
    assert_eq!(ran.status.code(), Some(0), "{}", text(&ran.stderr));
    assert!(text(&ran.stderr).contains("no pair in the manifest belongs to this shard"));
}

#[test]
fn the_job_needs_no_shell_and_its_index_is_in_its_environment() {
    let text = example("kubernetes.yaml");
    let jobs = Yaml::load_from_str(&text).unwrap();
    let spec = &jobs[0]["spec"]["jobTemplate"]["spec"];
    let container = &spec["template"]["spec"]["containers"][0];
    assert!(container.as_mapping_get("command").is_none(), "the image's entry point");
    let names: Vec<&str> = container["env"]
        .as_sequence()
        .unwrap()
        .iter()
        .map(|variable| variable["name"].as_str().unwrap())
        .collect();
    let args = container["args"].as_sequence().unwrap();
    let args: Vec<&str> = args.iter().map(|word| word.as_str().unwrap()).collect();
    let shard = args.iter().find_map(|word| word.strip_prefix("--shard=$(")).unwrap();
    let (variable, shares) = shard.split_once(")/").unwrap();
    assert!(names.contains(&variable), "{variable}");
    for pods in ["completions", "parallelism"] {
        assert_eq!(spec[pods].as_integer().unwrap().to_string(), shares, "{pods}");
    }
    // Every mount has its volume.
    let volumes = spec["template"]["spec"]["volumes"].as_sequence().unwrap();
    for mount in container["volumeMounts"].as_sequence().unwrap() {
        assert!(volumes.iter().any(|volume| volume["name"] == mount["name"]));
    }
}

/// Names of metrics in a text.
fn metrics_in(text: &str) -> BTreeSet<String> {
    let names = text.match_indices("mirror_git_to_s3_").map(|(start, _)| {
        let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        let rest = &text[start..];
        rest[..rest.find(|c| !is_name(c)).unwrap_or(rest.len())].to_owned()
    });
    names.collect()
}

/// Names of the metrics that a run, verify and gc write.
fn metrics_written() -> BTreeSet<String> {
    let repo = Repo::new();
    repo.commit("refs/heads/main", &[("file", b"content\n")]);
    repo.git(&["bundle", "create", "-q", "all.bundle", "--all"]);
    let home = tempfile::tempdir().unwrap();
    let target = format!("file://{}", home.path().join("mirror").display());
    let source = format!("bundle:{}", repo.path().join("all.bundle").display());
    let mut names = BTreeSet::new();
    for words in [&["--source", &source][..], &["verify"], &["gc"]] {
        let file = home.path().join("metrics.prom");
        let mut command = program(home.path());
        command.args(words).args(["--target", &target, "--metrics-file"]).arg(&file);
        let ran = command.output().unwrap();
        assert_eq!(ran.status.code(), Some(0), "{}", text(&ran.stderr));
        let written = fs::read_to_string(&file).unwrap();
        let types = written.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        names.extend(types.filter_map(|line| Some(line.split_once(' ')?.0.to_owned())));
        fs::remove_file(file).unwrap();
    }
    names
}

#[test]
fn alerts_and_dashboard_use_metrics_that_are_written() {
    let written = metrics_written();
    assert!(written.contains("mirror_git_to_s3_verify_findings"), "{written:?}");
    for file in ["prometheus-alerts.yml", "prometheus-alerts.test.yml", "grafana-dashboard.json"] {
        let used = metrics_in(&example(file));
        assert!(!used.is_empty(), "{file}");
        for name in used {
            assert!(written.contains(&name), "{file}: nothing writes {name}");
        }
    }
}

#[test]
fn alerts_name_options_that_exist_and_have_a_severity_and_a_summary() {
    let text = example("prometheus-alerts.yml");
    let help: String = help_texts().iter().map(|(_, text)| *text).collect();
    for (start, _) in text.match_indices("--") {
        let option = text[start..].split(|c: char| !c.is_ascii_lowercase() && c != '-').next();
        let option = option.unwrap();
        assert!(help.split([' ', ',', '\n']).any(|word| word == option), "{option}");
    }
    let rules = Yaml::load_from_str(&text).unwrap();
    let rules = rules[0]["groups"][0]["rules"].as_sequence().unwrap();
    let names: BTreeSet<&str> = rules.iter().map(|rule| rule["alert"].as_str().unwrap()).collect();
    assert_eq!(names.len(), rules.len());
    for rule in rules {
        assert!(matches!(rule["labels"]["severity"].as_str(), Some("warning" | "critical")));
        assert!(!rule["annotations"]["summary"].as_str().unwrap().is_empty());
    }
}

/// Every expression of the dashboard, by the panel's title.
fn expressions(dashboard: &serde_json::Value) -> Vec<(String, String)> {
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let of = |panel: &serde_json::Value| {
        let title = panel["title"].as_str().unwrap().to_owned();
        let targets = panel["targets"].as_array().unwrap().iter();
        let expressions = targets.map(|target| target["expr"].as_str().unwrap().to_owned());
        expressions.map(|expression| (title.clone(), expression)).collect::<Vec<_>>()
    };
    panels.flat_map(of).collect()
}

#[test]
fn panels_of_the_dashboard_stand_apart_and_use_its_variables() {
    let dashboard: serde_json::Value =
        serde_json::from_str(&example("grafana-dashboard.json")).unwrap();
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let variables: Vec<&str> = variables.iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert_eq!(variables, ["datasource", "target"]);
    let (mut ids, mut cells) = (BTreeSet::new(), BTreeSet::new());
    for panel in dashboard["panels"].as_array().unwrap() {
        assert!(ids.insert(panel["id"].as_u64().unwrap()));
        assert_eq!(panel["datasource"]["uid"], "${datasource}");
        let at = |name: &str| panel["gridPos"][name].as_u64().unwrap();
        assert!(at("x") + at("w") <= 24, "{}", panel["title"]);
        for (x, y) in (at("x")..at("x") + at("w"))
            .flat_map(|x| (at("y")..at("y") + at("h")).map(move |y| (x, y)))
        {
            assert!(cells.insert((x, y)), "{} overlaps", panel["title"]);
        }
    }
    assert!(expressions(&dashboard).len() > 15);
}

#[test]
fn prometheus_takes_the_alerts_and_the_dashboards_expressions() {
    if !has("promtool", "--version") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let promtool = |words: &[&str]| {
        let ran = Command::new("promtool").args(words).current_dir(dir.path()).output().unwrap();
        let said = text(&ran.stdout) + &text(&ran.stderr);
        assert!(ran.status.success(), "{words:?}: {said}");
    };
    for name in ["prometheus-alerts.yml", "prometheus-alerts.test.yml"] {
        fs::write(dir.path().join(name), example(name)).unwrap();
    }
    promtool(&["check", "rules", "prometheus-alerts.yml"]);
    promtool(&["test", "rules", "prometheus-alerts.test.yml"]);
    let dashboard = serde_json::from_str(&example("grafana-dashboard.json")).unwrap();
    let rules = expressions(&dashboard).into_iter().enumerate().map(|(number, (_, expression))| {
        let expression = expression.replace("$target", ".*");
        serde_json::json!({"record": format!("panel:{number}"), "expr": expression})
    });
    let rules = rules.collect::<Vec<_>>();
    // YAML reads JSON.
    let file = serde_json::json!({"groups": [{"name": "dashboard", "rules": rules}]});
    fs::write(dir.path().join("dashboard.yml"), file.to_string()).unwrap();
    promtool(&["check", "rules", "dashboard.yml"]);
}

#[test]
fn lifecycle_rules_touch_nothing_that_a_mirror_is_made_of() {
    let rules: serde_json::Value = serde_json::from_str(&example("lifecycle.json")).unwrap();
    let rules = rules["Rules"].as_array().unwrap();
    let mut ids = BTreeSet::new();
    for rule in rules {
        assert!(ids.insert(rule["ID"].as_str().unwrap()));
        assert_eq!(rule["Status"], "Enabled");
        let prefix = rule["Filter"]["Prefix"].as_str().unwrap();
        // Current versions expire only among temporary keys.
        if !rule["Expiration"]["Days"].is_null() {
            assert!(prefix.ends_with("/mirror_tmp/"), "{prefix}");
        }
    }
    let has = |name: &str| rules.iter().any(|rule| !rule[name].is_null());
    assert!(has("AbortIncompleteMultipartUpload") && has("NoncurrentVersionExpiration"));
}

/// nginx with the example's configuration, on a port of this machine, before `upstream`.
struct Cache {
    child: Child,
    port: u16,
    _dir: tempfile::TempDir,
}

impl Drop for Cache {
    fn drop(&mut self) {
        program::signal(&self.child, "TERM");
        let _ = self.child.wait();
    }
}

impl Cache {
    fn start(nginx: &Path, upstream: &str) -> Cache {
        let dir = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let ours = example("nginx-cache.conf");
        let ours: String = ours
            .lines()
            // The test speaks plain HTTP.
            .filter(|line| !line.trim_start().starts_with("ssl_certificate"))
            .map(|line| line.to_owned() + "\n")
            .collect();
        let ours = ours
            .replace("listen 443 ssl;", &format!("listen 127.0.0.1:{port};"))
            .replace("https://mirrors.s3.eu-central-1.amazonaws.com", upstream)
            .replace("/var/cache/nginx/mirrors", dir.path().join("cache").to_str().unwrap());
        assert!(ours.contains(upstream) && ours.contains(&port.to_string()));
        let own = dir.path().display();
        let conf = format!(
            "daemon off; pid {own}/pid; error_log {own}/error; events {{}}\n\
             http {{ access_log off; client_body_temp_path {own}/b; proxy_temp_path {own}/p;\n\
             fastcgi_temp_path {own}/f; uwsgi_temp_path {own}/u; scgi_temp_path {own}/s;\n\
             {ours} }}\n"
        );
        let path = dir.path().join("nginx.conf");
        fs::write(&path, conf).unwrap();
        let mut command = Command::new(nginx);
        command.arg("-e").arg(dir.path().join("error")).arg("-c").arg(&path);
        let child = command.stderr(Stdio::null()).spawn().unwrap();
        wait_until("nginx", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        Cache { child, port, _dir: dir }
    }

    /// The status and the headers of a GET.
    fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: git.example.com\r\nAuthorization: Basic eDp5\r\n\
             Connection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        text(&answer)
    }
}

#[test]
fn the_cache_asks_once_for_what_never_changes_and_each_time_for_refs() {
    let nginx = ["/usr/sbin/nginx", "/usr/local/sbin/nginx", "/usr/bin/nginx", "/sbin/nginx"];
    let Some(nginx) = nginx.iter().map(PathBuf::from).find(|path| path.exists()) else {
        say("SKIPPED, not passed: nginx is not installed");
        return;
    };
    let with = |on: &str, control: &str| {
        let mut canned = Canned::new(on, 200, "text/plain", "body");
        canned.headers.push(("Cache-Control".to_owned(), control.to_owned()));
        canned
    };
    let empty = tempfile::tempdir().unwrap();
    let canned = vec![
        with("/a.git/objects/pack/pack-1.pack", "public, max-age=31536000, immutable"),
        with("/a.git/info/refs", "no-cache"),
    ];
    let bucket = StaticHttp::start_with(empty.path(), 404, canned);
    let cache = Cache::start(&nginx, &bucket.url());
    for path in [
        "/a.git/objects/pack/pack-1.pack",
        "/a.git/info/refs?service=git-upload-pack",
        "/a.git/objects/00/not-yet",
    ] {
        for _ in 0..3 {
            let wanted = if path.contains("not-yet") { "HTTP/1.1 404 " } else { "HTTP/1.1 200 " };
            let answer = cache.get(path);
            assert!(answer.starts_with(wanted), "{path}: {answer}");
        }
    }
    let times = |part: &str| bucket.seen().iter().filter(|seen| seen.target.contains(part)).count();
    assert_eq!((times("pack-1.pack"), times("info/refs"), times("not-yet")), (1, 3, 3));
    assert!(bucket.seen().iter().all(|seen| seen.header("authorization").is_none()));
}

#[test]
fn every_example_is_in_the_list_of_examples_and_the_other_way_round() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let list = example("README.md");
    let linked: BTreeSet<String> = list
        .split("](")
        .skip(1)
        .filter_map(|rest| Some(rest.split_once(')')?.0.to_owned()))
        .collect();
    let files = fs::read_dir(folder).unwrap().map(|file| file.unwrap().file_name());
    let files = files.map(|name| name.into_string().unwrap());
    let files: BTreeSet<String> =
        files.filter(|name| name != "README.md" && !name.ends_with(".rs")).collect();
    assert_eq!(linked, files);
}
