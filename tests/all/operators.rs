//! What operators rely on: the state beside a mirror, metrics, verbosity, and the examples of
//! policies, held against what the program really does.

use crate::support::{git_http, local_git, program, s3_server};
use std::collections::BTreeSet;
use std::process::{Command, Output, Stdio};

use git_http::{Canned, GitHttp};
use local_git::{Repo, run};
use program::program;
use s3_server::S3Server;

struct World {
    repo: Repo,
    home: tempfile::TempDir,
    s3: S3Server,
}

impl World {
    fn new() -> World {
        let repo = Repo::new();
        repo.commit("refs/heads/main", &[("a", b"a\n")]);
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(home.path().join("s3/mirrors")).unwrap();
        World { repo, s3: S3Server::start(home.path().join("s3")), home }
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = program(self.home.path());
        command
            .args(words)
            .env("AWS_ENDPOINT_URL", self.s3.endpoint())
            .env("AWS_ACCESS_KEY_ID", &self.s3.access_key)
            .env("AWS_SECRET_ACCESS_KEY", &self.s3.secret_key);
        command
    }

    fn mirror(&self, source: &GitHttp, words: &[&str]) -> Output {
        let url = format!("{}/", source.url().replace("http://", "http://me:hunter2@"));
        let pair = ["--source", &url, "--target", "s3://mirrors/tools/m"];
        self.command(&[&pair[..], words].concat()).output().unwrap()
    }

    fn file(&self, key: &str) -> Vec<u8> {
        std::fs::read(self.home.path().join("s3/mirrors/tools/m").join(key)).unwrap()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("output is UTF-8")
}

#[test]
fn state_json_tells_what_was_published_and_a_run_with_nothing_new_writes_nothing() {
    let world = World::new();
    let source = GitHttp::start(world.repo.path(), git_http::Options::default());
    let metrics = world.home.path().join("m.prom");
    let metrics = ["--metrics-file", metrics.to_str().unwrap()];
    assert_eq!(world.mirror(&source, &metrics).status.code(), Some(0));
    let file = text(&world.file("mirror_state/state.json"));
    assert!(!file.contains("hunter2") && file.ends_with("}\n"), "{file}");
    let state: serde_json::Value = serde_json::from_str(&file).unwrap();
    let fields: Vec<&String> = state.as_object().unwrap().keys().collect();
    let wanted = [
        "checksum",
        "holds",
        "layout",
        "lfs_missing",
        "loose_objects",
        "published_at",
        "ref_fingerprint",
        "refs",
        "repository",
        "source",
        "tool",
    ];
    assert_eq!(fields, wanted);
    assert_eq!(state["source"], format!("{}/", source.url()));
    assert_eq!(state["tool"], concat!("mirror-git-to-s3 ", env!("CARGO_PKG_VERSION")));
    assert_eq!((&state["layout"], &state["refs"]), (&"auto".into(), &1.into()));
    assert_eq!(state["lfs_missing"], 0);
    let published_at = state["published_at"].as_str().unwrap();
    let form = time::format_description::well_known::Rfc3339;
    let age = time::OffsetDateTime::now_utc()
        - time::OffsetDateTime::parse(published_at, &form).expect("RFC 3339");
    assert!(published_at.ends_with('Z') && age.whole_seconds() < 600, "{published_at}");
    // As the README says it.
    let files = world.home.path().join("s3/mirrors/tools/m");
    let mut fingerprint = Command::new("sh");
    fingerprint.args(["-c", "cat info/refs HEAD | sha256sum"]).current_dir(files);
    let fingerprint = text(&run(&mut fingerprint, b""));
    assert_eq!(state["ref_fingerprint"], fingerprint.split(' ').next().unwrap());

    let before = world.s3.seen().len();
    let ran = world.mirror(&source, &metrics);
    assert!(text(&ran.stdout).starts_with("unchanged "), "{}", text(&ran.stdout));
    let seen = world.s3.seen();
    let writes = seen[before..].iter().filter(|line| !line.starts_with("GET "));
    assert_eq!(writes.count(), 0, "{:?}", &seen[before..]);
    assert_eq!(text(&world.file("mirror_state/state.json")), file);
    // What tells of such runs.
    let metrics = std::fs::read_to_string(metrics[1]).unwrap();
    let line = format!(
        "mirror_git_to_s3_success{{source=\"{}/\",target=\"s3://mirrors/tools/m\"}} 1",
        source.url()
    );
    assert!(metrics.lines().any(|l| l == line), "{metrics}");
    assert!(metrics.contains("\nmirror_git_to_s3_last_run_timestamp_seconds "), "{metrics}");
    assert!(!metrics.contains("hunter2"));
}

#[test]
fn each_verbosity_says_what_it_promises() {
    let world = World::new();
    let source = GitHttp::start(world.repo.path(), git_http::Options::default());
    // A certificate of somebody's that is trusted, and a file that is not there: a warning.
    let pem = world.home.path().join("ca.pem");
    let der = webpki_root_certs::TLS_SERVER_ROOT_CERTS[0].as_ref();
    let encoded = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, der);
    let lines: Vec<&str> =
        encoded.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    let file =
        format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"));
    std::fs::write(&pem, file).unwrap();
    let run = |words: &[&str], env: &[(&str, &str)]| {
        let url = format!("{}/", source.url());
        let pair = ["--source", &url, "--target", "s3://mirrors/tools/m"];
        let mut command = world.command(&[&pair[..], words].concat());
        command.env("AWS_CA_BUNDLE", &pem).env("GIT_SSL_CAINFO", "/nowhere/ca.pem");
        let ran = command.envs(env.iter().copied()).output().unwrap();
        assert_eq!(ran.status.code(), Some(0), "{}", text(&ran.stderr));
        (text(&ran.stdout), text(&ran.stderr))
    };
    let kinds = |err: &str| -> BTreeSet<String> {
        err.lines().map(|line| line.split(':').next().unwrap_or_default().to_owned()).collect()
    };
    let set = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    let (out, err) = run(&[], &[]);
    assert!(out.starts_with("ok ") && out.lines().count() == 1, "{out}");
    assert_eq!(kinds(&err), set(&["warning"]), "{err}");
    assert!(err.contains("GIT_SSL_CAINFO in /nowhere/ca.pem"), "{err}");
    assert_eq!(run(&["-q"], &[]), (String::new(), String::new()));
    let (out, err) = run(&["-v", "--full"], &[]);
    assert!(out.starts_with("unchanged "), "{out}");
    assert_eq!(kinds(&err), set(&["info", "warning"]), "{err}");
    let (_, err) = run(&["-vv", "--full"], &[]);
    assert_eq!(kinds(&err), set(&["debug", "info", "warning"]), "{err}");
    // RUST_LOG beats them both ways; the summary is a result, not the log's.
    let (out, err) = run(&["-q", "--full"], &[("RUST_LOG", "info")]);
    assert_eq!((out.as_str(), kinds(&err)), ("", set(&["info", "warning"])), "{err}");
    let (out, err) = run(&["-vv"], &[("RUST_LOG", "error")]);
    assert!(out.starts_with("unchanged ") && err.is_empty(), "{err}");
    // Results as JSON, quiet or not.
    for words in [&["--json"][..], &["--json", "-q"]] {
        let (out, _) = run(words, &[]);
        let value: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!(value["status"], "unchanged");
    }
}

/// Runs under script(1), which gives the program a terminal.
fn on_a_terminal(command: &Command) -> Option<String> {
    let quoted: Vec<String> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| format!("'{}'", word.to_string_lossy()))
        .collect();
    let mut script = Command::new("script");
    script.args(["-qec", &quoted.join(" "), "/dev/null"]);
    // Its standard input must stay open: at its end script(1) hangs up.
    script.stdin(Stdio::piped()).stdout(Stdio::piped());
    script.env_clear();
    script.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    script.env("TERM", "xterm-256color");
    match script.spawn() {
        Ok(mut child) => {
            let _stdin = child.stdin.take();
            let output = child.wait_with_output().expect("it is ours");
            assert!(output.status.success(), "{}", text(&output.stdout));
            Some(text(&output.stdout))
        }
        Err(error) => {
            eprintln!("SKIPPED: script(1) does not run: {error}");
            None
        }
    }
}

#[test]
fn bars_are_on_a_terminal_only_and_without_colours_if_no_color_says_so() {
    let world = World::new();
    let source = GitHttp::start(world.repo.path(), git_http::Options::default());
    let url = format!("{}/", source.url());
    // Slow enough to be seen.
    let latency = std::time::Duration::from_millis(40);
    let slow = s3_server::Options { latency, ..Default::default() };
    let s3 = S3Server::start_with(world.home.path().join("s3"), slow);
    let command = |target: &str, words: &[&str]| {
        let target = format!("s3://mirrors/{target}");
        let words = [&["--source", &url, "--target", &target][..], words].concat();
        let mut command = world.command(&words);
        command.env("AWS_ENDPOINT_URL", s3.endpoint());
        command
    };
    let (moves, cyan) = ("\x1b[", "\x1b[36m");
    let Some(coloured) = on_a_terminal(&command("1", &[])) else { return };
    assert!(coloured.contains(cyan) && coloured.contains("ok http"), "{coloured:?}");
    let mut plain = command("2", &[]);
    plain.env("NO_COLOR", "1");
    let plain = on_a_terminal(&plain).unwrap();
    assert!(plain.contains(moves) && !plain.contains(cyan), "{plain:?}");
    let never = on_a_terminal(&command("3", &["--progress", "never"])).unwrap();
    assert!(!never.contains(moves) && never.contains("ok http"), "{never:?}");
    let quiet = on_a_terminal(&command("4", &["-q"])).unwrap();
    assert_eq!(quiet, "");
    // No terminal: none, unless they are asked for.
    let auto = command("5", &[]).output().unwrap();
    assert_eq!(text(&auto.stderr), "");
    let always = command("6", &["--progress", "always"]).output().unwrap();
    assert!(text(&always.stderr).contains("0.0.1:"), "{:?}", text(&always.stderr));
    assert!(text(&always.stdout).starts_with("ok "));
}

/// The action that IAM asks for when this request comes.
fn action_of(line: &str, headers: &hyper::HeaderMap) -> Vec<&'static str> {
    let (method, url) = line.split_once(' ').unwrap();
    let (path, query) = url.split_once('?').unwrap_or((url, ""));
    let of_bucket = path.trim_matches('/').split('/').count() == 1;
    let names: Vec<&str> = query.split('&').map(|pair| pair.split('=').next().unwrap()).collect();
    let has = |name: &str| names.contains(&name);
    match method {
        "GET" if of_bucket && has("list-type") => vec!["s3:ListBucket"],
        "GET" if of_bucket && has("uploads") => vec!["s3:ListBucketMultipartUploads"],
        "GET" | "HEAD" if !of_bucket => vec!["s3:GetObject"],
        "PUT" if headers.contains_key("x-amz-copy-source") => vec!["s3:GetObject", "s3:PutObject"],
        "PUT" if !of_bucket => vec!["s3:PutObject"],
        "POST" if of_bucket && has("delete") => vec!["s3:DeleteObject"],
        "POST" if has("uploads") || has("uploadId") => vec!["s3:PutObject"],
        "DELETE" if has("uploadId") => vec!["s3:AbortMultipartUpload"],
        "DELETE" if !of_bucket => vec!["s3:DeleteObject"],
        _ => panic!("no action is known for {line}"),
    }
}

/// Actions and resources of an example, which must be JSON.
fn policy(text: &str) -> Vec<(BTreeSet<String>, String)> {
    let policy: serde_json::Value = serde_json::from_str(text).expect("it is JSON");
    assert_eq!(policy["Version"], "2012-10-17");
    let statements = policy["Statement"].as_array().expect("a list");
    let statement = |s: &serde_json::Value| {
        assert_eq!(s["Effect"], "Allow");
        let actions = match &s["Action"] {
            serde_json::Value::Array(list) => list.clone(),
            one => vec![one.clone()],
        };
        let actions = actions.iter().map(|a| a.as_str().expect("a name").to_owned()).collect();
        (actions, s["Resource"].as_str().expect("an ARN").to_owned())
    };
    statements.iter().map(statement).collect()
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    std::iter::repeat_with(|| random.u8(..)).take(len).collect()
}

#[test]
fn the_writers_policy_allows_what_the_program_asks_for_and_nothing_else() {
    let world = World::new();
    let small = ("small", noise(2, 3000));
    // Uploaded in parts and copied; as a pack, too.
    let large = noise(1, 20 << 20);
    world.repo.commit("refs/heads/main", &[("large", &large), (small.0, &small.1)]);
    let cut = git_http::Options { cut_post_after: Some(14 << 20), ..Default::default() };
    let broken = GitHttp::start(world.repo.path(), cut);
    let memory = ["--memory", "8"];
    assert_eq!(world.mirror(&broken, &memory).status.code(), Some(5), "its upload is aborted");
    let source = GitHttp::start(world.repo.path(), git_http::Options::default());
    for words in [&[][..], &["--full"], &["--layout=pack", "--full"]] {
        let ran = world.mirror(&source, &[&memory[..], words].concat());
        assert_eq!(ran.status.code(), Some(0), "{}", text(&ran.stderr));
    }
    world.repo.git(&["update-ref", "-d", "refs/heads/main"]);
    world.repo.commit("refs/heads/main", &[("b", b"another\n")]);
    let ran = world.mirror(&source, &[]);
    assert_eq!(ran.status.code(), Some(0), "{}", text(&ran.stderr));
    let target = ["--target", "s3://mirrors/tools/m"];
    let ran = world.command(&[&["gc", "--grace", "0"][..], &target].concat()).output().unwrap();
    assert_eq!(ran.status.code(), Some(0), "{}", text(&ran.stderr));
    assert!(!text(&ran.stdout).contains("deleted 0 objects"), "{}", text(&ran.stdout));
    let ran = world.command(&[&["verify", "--quick"][..], &target].concat()).output().unwrap();
    assert_eq!(ran.status.code(), Some(0), "{}", text(&ran.stdout));

    let mut asked: BTreeSet<String> = BTreeSet::new();
    for (line, headers) in world.s3.seen_with_headers() {
        // Is there a mirror around this one? A refusal is as good as a no.
        if ["HEAD /mirrors/mirror_state/state.json", "HEAD /mirrors/tools/mirror_state/state.json"]
            .iter()
            .any(|look| line.starts_with(look))
        {
            continue;
        }
        let below = line.contains("/mirrors/tools/") || line.contains("prefix=tools%2F");
        assert!(below || line.starts_with("POST /mirrors") && line.contains("delete"), "{line}");
        asked.extend(action_of(&line, &headers).into_iter().map(str::to_owned));
    }
    let allowed = policy(include_str!("../../examples/writer-policy.json"));
    let all: BTreeSet<String> = allowed.iter().flat_map(|(actions, _)| actions.clone()).collect();
    assert_eq!(asked, all);
    for (actions, resource) in allowed {
        let bucket = actions.iter().all(|action| action.starts_with("s3:ListBucket"));
        let wanted = if bucket { "arn:aws:s3:::mirrors" } else { "arn:aws:s3:::mirrors/tools/*" };
        assert_eq!(resource, wanted);
    }
    let docs = include_str!("../../docs/operating.md");
    for action in all {
        assert!(docs.contains(&format!("`{}`", action.trim_start_matches("s3:"))), "{action}");
    }
}

#[test]
fn a_mirror_inside_another_is_refused_whichever_was_first() {
    let world = World::new();
    let source = GitHttp::start(world.repo.path(), git_http::Options::default());
    let dir = format!("file://{}", world.home.path().join("dir").display());
    for root in ["s3://mirrors", &dir] {
        let mirror = |path: &str, words: &[&str]| {
            let target = format!("{root}{path}");
            let pair = ["--source", &source.url(), "--target", &target];
            world.command(&[&pair[..], words].concat()).output().unwrap()
        };
        let refused = |path: &str, words: &[&str], says: &str| {
            let ran = mirror(path, words);
            let said = text(&ran.stderr);
            assert_eq!(ran.status.code(), Some(13), "{root}{path}: {said}");
            assert!(said.contains(&says.replace("ROOT", root)), "{said}");
        };
        assert_eq!(mirror("/a/b", &[]).status.code(), Some(0));
        refused(
            "/a/b/c",
            &[],
            "ROOT/a/b/c lies inside the mirror ROOT/a/b: each mirror needs its own",
        );
        refused("/a/b/c/d", &["-n"], "ROOT/a/b/c/d lies inside the mirror ROOT/a/b");
        refused("/a", &[], "ROOT/a has the mirror ROOT/a/b inside");
        for path in ["/a/c", "/a/b"] {
            assert_eq!(mirror(path, &[]).status.code(), Some(0), "{root}{path}");
        }
    }
    assert!(!world.home.path().join("dir/a/b/c").exists());
    assert!(!world.home.path().join("s3/mirrors/a/b/c").exists());
}

#[test]
fn the_readers_policy_is_what_a_reader_needs() {
    let reader = policy(include_str!("../../examples/reader-policy.json"));
    let names = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    let wanted: [(BTreeSet<String>, String); 2] = [
        (names(&["s3:GetObject"]), "arn:aws:s3:::mirrors/*".into()),
        (names(&["s3:ListBucket"]), "arn:aws:s3:::mirrors".into()),
    ];
    assert_eq!(reader, wanted);
}

#[test]
fn several_repositories_share_the_requests_in_flight() {
    let world = World::new();
    let root = tempfile::tempdir().unwrap();
    for n in 0..4 {
        let repo = Repo::new();
        let blobs: Vec<Vec<u8>> = (0..40).map(|seed| noise(seed + 100 * n, 2000)).collect();
        let names: Vec<String> = (0..40).map(|number| format!("f{number}")).collect();
        let files: Vec<(&str, &[u8])> =
            names.iter().zip(&blobs).map(|(name, blob)| (name.as_str(), &blob[..])).collect();
        repo.commit("refs/heads/main", &files);
        let to = root.path().join(format!("r{n}.git"));
        assert!(Command::new("cp").arg("-r").arg(repo.path()).arg(to).status().unwrap().success());
    }
    let canned = vec![Canned::new("/none", 404, "text/plain", "no")];
    let source = GitHttp::start(root.path(), git_http::Options { canned, ..Default::default() });
    let slow =
        s3_server::Options { latency: std::time::Duration::from_millis(20), ..Default::default() };
    let s3 = S3Server::start_with(world.home.path().join("s3"), slow);
    let list: String =
        (0..4).map(|n| format!("{}/r{n}.git s3://mirrors/shared/{n}\n", source.url())).collect();
    let file = world.home.path().join("list");
    std::fs::write(&file, list).unwrap();
    let words =
        ["--manifest", file.to_str().unwrap(), "--layout=loose", "--jobs=4", "--concurrency=8"];
    let ran = world.command(&words).env("AWS_ENDPOINT_URL", s3.endpoint()).output().unwrap();
    assert_eq!(ran.status.code(), Some(0), "{}", text(&ran.stderr));
    // Each connection carries one request at a time: besides the eight, each repository's own thread
    // asks for lists and refs.
    assert!(s3.connections() <= 8 + 4, "{} connections", s3.connections());
    assert!(s3.requests() > 160);
}
