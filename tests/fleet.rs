//! Many repositories through the binary: 200 from one manifest, five of them failing in different
//! ways; shares for several machines; refusals before anything is begun.

#[path = "support/git_http.rs"]
mod git_http;
#[path = "support/local_git.rs"]
mod local_git;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output};

use git_http::{Canned, GitHttp, Options};
use local_git::Repo;

fn program(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mirror-git-to-s3"));
    command.args(words).env_clear();
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.env("AWS_MAX_ATTEMPTS", "1");
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

#[test]
fn of_200_repositories_five_fail_in_their_own_ways_and_195_are_mirrored() {
    let (root, targets, dir) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    copies(root.path(), 200);
    let advertised = "application/x-git-upload-pack-advertisement";
    let canned = vec![
        Canned::new("/r10.git/", 404, "text/plain", "no such repository"),
        Canned::new("/r50.git/", 200, "text/html", "<html>log in</html>"),
        Canned::new("/r90.git/", 403, "text/plain", "not yours"),
        Canned::new("/r130.git/info/refs", 200, advertised, "garbage"),
    ];
    let server = GitHttp::start(root.path(), Options { canned, ..Options::default() });
    // A file stands where the folder should be.
    std::fs::write(targets.path().join("t170"), b"in the way").unwrap();
    let list = manifest(&server.url(), targets.path(), 200);
    let ran = run(&list, dir.path(), &["--jobs", "8"]);
    let (out, err) = (text(&ran.stdout), text(&ran.stderr));
    assert_eq!(ran.status.code(), Some(3), "{err}");
    for n in [10, 50, 90, 130, 170] {
        assert!(err.contains(&format!("/r{n}.git")), "r{n} is not named: {err}");
    }
    let whole = (0..200).filter(|n| targets.path().join(format!("t{n}/info/refs")).exists());
    assert_eq!(whole.count(), 195, "{out}");
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
    assert!(targets.path().join("t0/info/refs").exists());
    assert!((2..5).all(|n| !targets.path().join(format!("t{n}/info/refs")).exists()));
}

/// `xargs -P` stands in for GNU parallel where that is not installed.
#[test]
fn shares_run_side_by_side_are_the_whole_list_in_any_order() {
    let (root, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    copies(root.path(), 12);
    let server = GitHttp::start(root.path(), Options::default());
    let mut shares = Vec::new();
    for reversed in [false, true] {
        let targets = tempfile::tempdir().unwrap();
        let list = manifest(&server.url(), targets.path(), 12);
        let mut lines: Vec<&str> = list.lines().collect();
        if reversed {
            lines.reverse();
        }
        let file = dir.path().join("list.txt");
        std::fs::write(&file, lines.join("\n")).unwrap();
        let program = env!("CARGO_BIN_EXE_mirror-git-to-s3");
        let parallel = Command::new("parallel").arg("--version").output().is_ok();
        let script = if parallel {
            "parallel \"$1\" -q --manifest \"$2\" --shard {}/3 ::: 0 1 2"
        } else {
            "printf '%s\\n' 0 1 2 | xargs -P 3 -I {} \"$1\" -q --manifest \"$2\" --shard {}/3"
        };
        let ran = Command::new("sh").args(["-c", script, "sh", program]).arg(&file).output();
        let ran = ran.expect("sh runs");
        assert!(ran.status.success(), "{}", text(&ran.stderr));
        let whole = (0..12).filter(|n| targets.path().join(format!("t{n}/info/refs")).exists());
        assert_eq!(whole.count(), 12);
        shares.push(ran.status.code());
    }
    assert_eq!(shares, [Some(0), Some(0)]);
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
fn two_sources_for_one_target_are_refused_with_the_line_before_anything_is_begun() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("t");
    let list = format!(
        "http://127.0.0.1:9/a file://{0}\n# two\nhttp://127.0.0.1:9/b file://{0}\n",
        target.display()
    );
    let ran = run(&list, dir.path(), &[]);
    assert_eq!(ran.status.code(), Some(2));
    assert!(text(&ran.stderr).contains("list.txt:3: line 1 has this target"));
    assert!(!target.exists());
}
