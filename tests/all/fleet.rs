//! Many repositories through the binary: 200 from one manifest, some of them failing in different
//! ways; shares for several machines; refusals before anything is begun.

use crate::support::{git_http, local_git};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use git_http::{Canned, GitHttp, Options};
use local_git::{Repo, git};

fn program(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mirror-git-to-s3"));
    command.args(words).env_clear();
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.env("AWS_MAX_ATTEMPTS", "1");
    command.env("AWS_ACCESS_KEY_ID", "KEY").env("AWS_SECRET_ACCESS_KEY", "secret");
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("output is UTF-8")
}

/// `count` copies of one small repository, named `r0.git` and so on.
fn copies(root: &Path, count: usize) {
    let repo = Repo::new();
    repo.commit("refs/heads/main", &[("a", b"a\n"), ("b", b"b\n")]);
    for n in 0..count {
        let to = root.join(format!("r{n}.git"));
        let copied = Command::new("cp").arg("-r").arg(repo.path()).arg(&to).status();
        assert!(copied.expect("cp runs").success());
    }
}

fn manifest(url: &str, targets: &Path, count: usize) -> String {
    let line = |n| format!("{url}/r{n}.git file://{}/t{n}\n", targets.display());
    (0..count).map(line).collect()
}

fn run(text: &str, dir: &Path, options: &[&str]) -> Output {
    let list = dir.join("list.txt");
    std::fs::write(&list, text).unwrap();
    let mut words = vec!["--manifest", list.to_str().unwrap()];
    words.extend(options);
    program(&words).output().expect("the binary runs")
}

/// A server's answers for `/rN.git`: a version 0 advertisement of `oid`, then a pack that is none.
fn broken_pack(name: &str, oid: &str) -> [Canned; 2] {
    let packet = |text: &str| format!("{:04x}{text}", text.len() + 4);
    let advertised = packet("# service=git-upload-pack\n")
        + "0000"
        + &packet(&format!("{oid} HEAD\0side-band-64k ofs-delta symref=HEAD:refs/heads/main\n"))
        + &packet(&format!("{oid} refs/heads/main\n"))
        + "0000";
    let answer = packet("NAK\n") + &packet("\x01PACK\0\0\0\x02\0\0\0\x01\x7fno entry") + "0000";
    let of = |what: &str| format!("application/x-git-upload-pack-{what}");
    [
        Canned::new(&format!("{name}/info/refs"), 200, &of("advertisement"), advertised),
        Canned::new(&format!("{name}/git-upload-pack"), 200, &of("result"), answer),
    ]
}

#[test]
fn of_200_repositories_seven_fail_in_their_own_ways_and_193_are_mirrored() {
    let (root, targets, dir) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    copies(root.path(), 200);
    let tip = text(
        &git(&root.path().join("r90.git")).args(["rev-parse", "main"]).output().unwrap().stdout,
    );
    let mut canned = vec![
        Canned::new("/r10.git/", 404, "text/plain", "no such repository"),
        Canned::new("/r30.git/", 200, "text/html", "<html>log in</html>"),
        Canned::new("/r50.git/", 401, "text/plain", "who are you?"),
    ];
    canned.extend(broken_pack("/r90.git", tip.trim()));
    let server = GitHttp::start(root.path(), Options { canned, ..Options::default() });
    let denying = vec![Canned::new(
        "/",
        403,
        "application/xml",
        "<Error><Code>AccessDenied</Code><Message>not yours</Message></Error>",
    )];
    let store = GitHttp::start(root.path(), Options { canned: denying, ..Options::default() });
    // Mirrored once, and then the source is emptied.
    let list = manifest(&server.url(), targets.path(), 200);
    let line = list.lines().nth(130).unwrap();
    assert!(run(line, dir.path(), &[]).status.success());
    std::fs::remove_dir_all(root.path().join("r130.git")).unwrap();
    assert!(
        git(root.path()).args(["init", "-q", "--bare", "r130.git"]).status().unwrap().success()
    );
    // A file stands where the folder should be.
    std::fs::write(targets.path().join("t170"), b"in the way").unwrap();
    let file = |n| format!("file://{}/t{n}\n", targets.path().display());
    let list = list.replace(&file(180), "s3://bucket/t180\n");
    let metrics = dir.path().join("fleet.prom");
    let options = ["--jobs", "8", "--endpoint-url", &store.url(), "--metrics-file"];
    let ran = run(&list, dir.path(), &[&options[..], &[metrics.to_str().unwrap()]].concat());
    let (out, err) = (text(&ran.stdout), text(&ran.stderr));
    assert_eq!(ran.status.code(), Some(3), "{err}");
    let (_, summary) = err.split_once("200 repositories: 193 ok, 7 failed\n").expect(&err);
    let failures = [
        // It may also be one that needs a login.
        (10, 12, "404"),
        (30, 1, "a web page, not a git repository"),
        (50, 12, "401"),
        (90, 1, "the source's pack is invalid: "),
        (130, 13, "the source has 0 refs and the mirror 1"),
        (170, 1, "it is not a directory"),
        (180, 12, "AccessDenied"),
    ];
    let lines: Vec<&str> = summary.lines().collect();
    assert_eq!(lines.len(), failures.len(), "{summary}");
    for ((n, code, why), line) in failures.iter().zip(lines) {
        let begin = format!("  failed ({code}) {}/r{n}.git -> ", server.url());
        assert!(line.starts_with(&begin) && line.contains(why), "r{n}, {why}: {line}");
    }
    assert_eq!(out.lines().filter(|line| line.starts_with("ok ")).count(), 193, "{out}");
    // The sources are copies of one repository, so the mirrors are, too.
    local_git::assert_same_repository(&root.path().join("r0.git"), &targets.path().join("t0"));
    let first = contents(&targets.path().join("t0"));
    assert!(first.len() > 5, "{first:?}");
    for n in (0..200).filter(|n| failures.iter().all(|(failed, ..)| failed != n)) {
        assert!(contents(&targets.path().join(format!("t{n}"))) == first, "t{n} differs from t0");
    }
    // What failed before has published nothing, and what the guard protects is still there.
    for n in [10, 30, 50, 90] {
        assert!(!targets.path().join(format!("t{n}/info/refs")).exists(), "t{n}");
    }
    let kept = contents(&targets.path().join("t130"));
    assert_eq!(kept, first, "the guard keeps what was mirrored");
    let metrics = std::fs::read_to_string(metrics).unwrap();
    let well = metrics.lines().filter(|line| line.starts_with("mirror_git_to_s3_success{"));
    assert_eq!(well.filter(|line| line.ends_with("} 1")).count(), 193);
}

/// Every file of a mirror but its news, which name source and time.
fn contents(mirror: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let (mut found, mut folders) = (BTreeMap::new(), vec![mirror.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if !path.ends_with("mirror_state/state.json") {
                let bytes = std::fs::read(&path).unwrap();
                found.insert(path.strip_prefix(mirror).unwrap().to_owned(), bytes);
            }
        }
    }
    found
}

#[test]
fn fail_fast_begins_no_other_repository() {
    let (root, targets, dir) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    copies(root.path(), 5);
    let canned = vec![Canned::new("/r1.git/", 404, "text/plain", "no")];
    let server = GitHttp::start(root.path(), Options { canned, ..Options::default() });
    let ran = run(&manifest(&server.url(), targets.path(), 5), dir.path(), &["--fail-fast"]);
    assert_eq!(ran.status.code(), Some(3));
    let err = text(&ran.stderr);
    assert!(err.contains("5 repositories: 1 ok, 1 failed, 3 not started\n"), "{err}");
    assert_eq!(err.matches("\n  not started http").count(), 3, "{err}");
    assert!(targets.path().join("t0/info/refs").exists());
    assert!((2..5).all(|n| !targets.path().join(format!("t{n}/info/refs")).exists()));
}

/// Runs a script with this program and `tools` in its PATH, in `dir`.
fn script(text: &str, dir: &Path, env: &[(&str, String)]) -> Output {
    let program = Path::new(env!("CARGO_BIN_EXE_mirror-git-to-s3"));
    let path = std::env::var("PATH").unwrap_or_default();
    let path = format!("{}:{path}", program.parent().unwrap().display());
    let mut command = Command::new("/bin/sh");
    command.args(["-euc", text]).current_dir(dir).env("PATH", path).env("HOME", dir);
    command.envs(env.iter().map(|(name, value)| (name, value))).output().expect("sh runs")
}

/// The arguments of the container in examples/kubernetes.yaml, as a line for a shell: Kubernetes
/// expands `$(NAME)` itself.
fn kubernetes_line() -> String {
    let text = include_str!("../../examples/kubernetes.yaml");
    let (_, args) = text.split_once("              args:\n").expect("there are arguments");
    let args = args.lines().map_while(|line| line.trim_start().strip_prefix("- "));
    let args = args.take_while(|word| word.starts_with("--")).collect::<Vec<_>>().join(" ");
    let args = args.replace("$(JOB_COMPLETION_INDEX)", "\"$JOB_COMPLETION_INDEX\"");
    format!("mirror-git-to-s3 {}", args.replace("/etc/mirrors/mirrors.txt", "mirrors.txt"))
}

/// The examples for GNU parallel, a Slurm array and a Kubernetes Indexed Job: together the shares are
/// the whole list, each repository once.
#[test]
fn shares_as_the_examples_run_them_are_the_whole_list_each_once() {
    let (root, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    copies(root.path(), 24);
    let parallel = Command::new("parallel").arg("--version").output().is_ok();
    if !parallel {
        eprintln!("SKIPPED in part: GNU parallel is not installed");
    }
    let kubernetes = kubernetes_line();
    let slurm = include_str!("../../examples/shards-slurm.sh");
    let ways = [
        ("parallel", include_str!("../../examples/shards-parallel.sh"), None),
        ("Slurm", slurm, Some("SLURM_ARRAY_TASK_ID")),
        ("Kubernetes", kubernetes.as_str(), Some("JOB_COMPLETION_INDEX")),
    ];
    for (name, text_of, index) in ways {
        if name == "parallel" && !parallel {
            continue;
        }
        let targets = tempfile::tempdir().unwrap();
        let server = GitHttp::start(root.path(), Options::default());
        let list = manifest(&server.url(), targets.path(), 24);
        std::fs::write(dir.path().join("mirrors.txt"), list).unwrap();
        let indices = if index.is_some() { 8 } else { 1 };
        for number in 0..indices {
            let count = ("SLURM_ARRAY_TASK_COUNT", "8".to_owned());
            let env = [(index.unwrap_or("UNUSED"), number.to_string()), count];
            let ran = script(text_of, dir.path(), &env);
            assert!(ran.status.success(), "{name}: {}", text(&ran.stderr));
        }
        let whole = (0..24).filter(|n| targets.path().join(format!("t{n}/info/refs")).exists());
        assert_eq!(whole.count(), 24, "{name}");
        for n in 0..24 {
            let asked = format!("/r{n}.git/info/refs");
            let times = server.seen().iter().filter(|seen| seen.target.starts_with(&asked)).count();
            assert_eq!(times, 1, "{name}: {asked}");
        }
    }
}

#[test]
fn a_share_does_not_depend_on_the_order_of_the_list() {
    let dir = tempfile::tempdir().unwrap();
    let mut shares = Vec::new();
    for reversed in [false, true] {
        // Nothing listens there: each pair of the share is named in an error.
        let list = manifest("http://127.0.0.1:9", Path::new("/dev/null/nowhere"), 20);
        let mut lines: Vec<&str> = list.lines().collect();
        if reversed {
            lines.reverse();
        }
        let ran = run(&lines.join("\n"), dir.path(), &["--shard", "1/4", "--json"]);
        let named = text(&ran.stdout);
        let named: BTreeSet<String> = named
            .lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
            .filter_map(|value| value["source"].as_str().map(str::to_owned))
            .collect();
        assert!(!named.is_empty() && named.len() < 20);
        shares.push(named);
    }
    assert_eq!(shares[0], shares[1]);
}

#[test]
fn an_unusable_manifest_is_refused_with_the_line_before_anything_is_begun() {
    let (root, targets, dir) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    copies(root.path(), 2);
    let server = GitHttp::start(root.path(), Options::default());
    let good = manifest(&server.url(), targets.path(), 2);
    let target = |n| format!("file://{}/t{n}", targets.path().display());
    for (line, why) in [
        (format!("http://127.0.0.1:9/b {}", target(1)), "line 2 already has this target"),
        (format!("http://127.0.0.1:9/b {}/", target(1)), "line 2 already has this target"),
        ("http://127.0.0.1:9/only".to_owned(), "expected SOURCE TARGET"),
        (format!("ssh://host/r {}", target(2)), "source: ssh is not supported"),
    ] {
        let list = format!("{good}# the next one is wrong\n{line}\n");
        let ran = run(&list, dir.path(), &["--jobs", "2"]);
        let err = text(&ran.stderr);
        assert_eq!((ran.status.code(), text(&ran.stdout).as_str()), (Some(2), ""), "{err}");
        assert!(err.contains(&format!("list.txt:4: {why}")), "{err}");
        // A share is refused for a line of another share, too.
        for share in ["0/2", "1/2"] {
            assert_eq!(run(&list, dir.path(), &["--shard", share]).status.code(), Some(2));
        }
    }
    assert_eq!(server.requests(), 0);
    assert_eq!(targets.path().read_dir().unwrap().count(), 0);
}

#[test]
fn a_manifest_comes_from_standard_input_too() {
    let (root, targets) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    copies(root.path(), 3);
    let server = GitHttp::start(root.path(), Options::default());
    let list = manifest(&server.url(), targets.path(), 3);
    let mut child = program(&["--manifest", "-", "--jobs=3", "--json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(list.as_bytes()).unwrap();
    let ran = child.wait_with_output().unwrap();
    assert_eq!(ran.status.code(), Some(0));
    assert_eq!(text(&ran.stdout).matches("\"status\":\"ok\"").count(), 3);
    assert!((0..3).all(|n| targets.path().join(format!("t{n}/info/refs")).exists()));
}
