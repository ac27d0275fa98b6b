//! The binary as users meet it: help, version, usage errors, and exit codes that need no source and
//! no store. The environment is cleared, so that a developer's own settings change nothing.

use std::io::Write;
use std::process::{Command, Output, Stdio};

fn program(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mirror-git-to-s3"));
    command.args(words).env_clear().stdin(Stdio::null());
    command
}

struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

fn ran(output: Output) -> Ran {
    Ran {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).expect("output is UTF-8"),
        err: String::from_utf8(output.stderr).expect("errors are UTF-8"),
    }
}

fn run(words: &[&str]) -> Ran {
    ran(program(words).output().expect("the binary runs"))
}

fn run_with_stdin(words: &[&str], stdin: &str) -> Ran {
    let mut child = program(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    // It may end without reading: a broken pipe here is no failure.
    let _ = child.stdin.take().expect("piped").write_all(stdin.as_bytes());
    ran(child.wait_with_output().expect("the binary ends"))
}

const PAIR: [&str; 4] = ["--source", "https://127.0.0.1:9/r", "--target", "s3://b/p"];

#[test]
fn help_is_on_standard_output_with_code_0() {
    for words in [&["--help"][..], &["-h"], &["--source", "x", "--help"]] {
        let ran = run(words);
        assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{words:?}");
        assert!(ran.out.contains("Usage: mirror-git-to-s3 --source URL"), "{}", ran.out);
        assert!(ran.out.contains("Examples:") && ran.out.ends_with('\n'));
    }
}

#[test]
fn version_is_the_packages() {
    let ran = run(&["--version"]);
    let wanted = format!("mirror-git-to-s3 {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!((ran.code, ran.out, ran.err.as_str()), (Some(0), wanted, ""));
}

#[test]
fn every_action_has_help_and_version_wherever_they_stand() {
    for action in ["verify", "gc", "lfs-agent", "completions"] {
        for before in [&[][..], &["-q"], &["--target", "s3://b/p"], &["https://h/m"]] {
            let fits = match action {
                "lfs-agent" => !before.contains(&"--target"),
                "completions" => before.is_empty(),
                _ => !before.contains(&"https://h/m"),
            };
            if !fits {
                continue;
            }
            let words = [&[action], before].concat();
            for (option, wanted) in [
                ("--help", format!("Usage: mirror-git-to-s3 {action} ")),
                ("-h", "Example".to_owned()),
                ("--version", format!("mirror-git-to-s3 {}\n", env!("CARGO_PKG_VERSION"))),
                ("-V", "mirror-git-to-s3 ".to_owned()),
            ] {
                let ran = run(&[&words[..], &[option]].concat());
                assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{words:?} {option}");
                assert!(ran.out.contains(&wanted), "{words:?} {option}: {}", ran.out);
            }
        }
    }
}

#[test]
fn usage_errors_of_the_other_actions_end_with_2() {
    for (words, wanted) in [
        (&["verify"][..], "--target or --manifest is required"),
        (&["gc", "--target", "https://h/m"], "target: expected s3://"),
        (&["gc", "--target", "s3://b/p", "--grace", "1w"], "cannot use option '--grace'"),
        (&["verify", "--target", "s3://b/p", "-n"], "unknown option -n"),
        (&["lfs-agent"], "lfs-agent needs the mirror's URL"),
        (&["completions", "csh"], "completions: expected bash, fish or zsh"),
    ] {
        let ran = run(words);
        assert_eq!((ran.code, ran.out.as_str()), (Some(2), ""), "{words:?}");
        assert!(ran.err.starts_with(&format!("mirror-git-to-s3: {wanted}")), "{}", ran.err);
    }
}

#[test]
fn usage_errors_end_with_2_and_say_what_is_wrong() {
    for (words, wanted) in [
        (&[][..], "--source and --target, or --manifest, are required"),
        (&["--source", "https://h/r"], "1 --source but 0 --target: each --source needs its"),
        (&["--sauce=x"], "unknown option --sauce"),
        (&["--source"], "--source needs a value"),
        (&["verify-me"], "unexpected argument 'verify-me'\n"),
        (&["--source=ssh://h/r", "--target=s3://b/p"], "source: ssh is not supported"),
        (
            &["--source=https://h/r", "--target=s3://b/../p"],
            "target: its path must not contain empty, . or .. segments",
        ),
        (&["--manifest", "/nowhere/list"], "cannot read the manifest /nowhere/list: "),
        (&["--jobs", "many"], "cannot use option '--jobs' with value 'many': expected a number"),
    ] {
        let ran = run(words);
        assert_eq!((ran.code, ran.out.as_str()), (Some(2), ""), "{words:?}");
        assert!(ran.err.starts_with(&format!("mirror-git-to-s3: {wanted}")), "{}", ran.err);
        assert!(ran.err.ends_with("\nSee 'mirror-git-to-s3 --help'.\n"), "{}", ran.err);
    }
}

#[test]
fn stray_words_are_named_with_the_help_that_fits() {
    for (words, wanted, help) in [
        (
            &["-q", "verify", "--target", "x"][..],
            "unexpected argument 'verify': a command must come first",
            "--help",
        ),
        (&["help"], "unexpected argument 'help'", "--help"),
        (&["verify", "foo"], "unexpected argument 'foo'", "verify --help"),
    ] {
        let ran = run(words);
        assert_eq!((ran.code, ran.out.as_str()), (Some(2), ""), "{words:?}");
        let wanted = format!("mirror-git-to-s3: {wanted}\nSee 'mirror-git-to-s3 {help}'.\n");
        assert_eq!(ran.err, wanted, "{words:?}");
    }
}

#[test]
fn a_manifest_on_standard_input_is_checked_line_by_line() {
    for (text, wanted) in [
        ("# nothing\n", "standard input: contains no pairs"),
        ("https://h/a s3://b/a\nhttps://h/b\n", "standard input:2: expected SOURCE TARGET"),
        (
            "https://h/a s3://b/a\nhttps://h/b s3://b/a\n",
            "standard input:2: line 1 already has this target",
        ),
    ] {
        let ran = run_with_stdin(&["--manifest", "-"], text);
        assert_eq!(ran.code, Some(2), "{text:?}");
        assert!(ran.err.contains(wanted), "{}", ran.err);
    }
}

#[test]
fn a_shard_without_a_pair_is_done() {
    let dir = tempfile::tempdir().unwrap();
    let text = format!("bundle:/nowhere/0 file://{}/0\n", dir.path().display());
    let codes = [0, 1].map(|index| {
        let shard = format!("{index}/2");
        let ran = run_with_stdin(&["--manifest=-", "--shard", &shard, "-v"], &text);
        (ran.code, ran.err.contains("info: no pair in the manifest belongs to this shard"))
    });
    let empty = codes.iter().filter(|(code, said)| *code == Some(0) && *said).count();
    assert_eq!(empty, 1, "{codes:?}");
}

#[test]
fn files_of_the_settings_that_cannot_be_read_are_usage_errors() {
    for (option, wanted) in [
        ("--ca-bundle", "cannot read the certificates of --ca-bundle in /nowhere/x: "),
        ("--source-header-file", "cannot read /nowhere/x: "),
    ] {
        let ran = run(&[&PAIR[..], &[option, "/nowhere/x"]].concat());
        assert_eq!(ran.code, Some(2));
        assert!(ran.err.contains(wanted), "{}", ran.err);
    }
}

#[test]
fn secrets_on_the_command_line_are_not_repeated() {
    for words in [
        &["https://u:hunter2@h/r"][..],
        &["--sauce=https://u:hunter2@h/r"],
        &["--source=https://u:hunter2@h/r?x", "--target=s3://b"],
        &["--source=https://u:hunter2@h/r", "--target=s3://k:hunter2@b/p"],
        &["--endpoint-url=https://u:hunter2@h", "--source=https://h/r", "--target=s3://b"],
        &["--manifest=https://u:hunter2@h/r", "--manifest=https://u:hunter2@h/r"],
        &["--full=hunter2"],
    ] {
        let ran = run(words);
        assert_eq!(ran.code, Some(2), "{words:?}");
        assert!(!ran.err.contains("hunter2") && ran.out.is_empty(), "{}", ran.err);
    }
}

#[test]
fn a_failing_repository_is_told_on_standard_error_with_code_1() {
    let dir = tempfile::tempdir().unwrap();
    let target = format!("--target=file://{}/m", dir.path().display());
    let ran = run(&["--source=bundle:/nowhere/b", &target]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(1), ""), "{}", ran.err);
    assert!(ran.err.starts_with("error: bundle:/nowhere/b -> file://"), "{}", ran.err);
}

#[test]
fn json_tells_a_failure_on_standard_output_too() {
    let dir = tempfile::tempdir().unwrap();
    let target = format!("--target=file://{}/m", dir.path().display());
    let ran = run(&["--source=bundle:/nowhere/b", &target, "--json", "-q"]);
    assert_eq!(ran.code, Some(1), "{}", ran.err);
    let value: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(value["status"], "failed");
    assert_eq!(value["exit_code"], 1);
    assert_eq!(value["source"], "bundle:/nowhere/b");
    assert!(value["error"].is_string());
}

#[test]
fn several_failing_repositories_end_with_3_and_each_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let list = dir.path().join("list");
    let metrics = dir.path().join("m.prom");
    let line =
        |name: &str| format!("bundle:/nowhere/{name} file://{}/{name}\n", dir.path().display());
    std::fs::write(&list, line("a") + &line("b") + &line("c")).unwrap();
    let list = list.to_str().unwrap();
    let ran = run(&["--manifest", list, "--jobs=2", "--metrics-file", metrics.to_str().unwrap()]);
    assert_eq!(ran.code, Some(3));
    assert!(ran.err.contains("3 repositories: 3 failed\n"), "{}", ran.err);
    for name in ["a", "b", "c"] {
        assert!(
            ran.err.contains(&format!("  failed (1) bundle:/nowhere/{name} -> ")),
            "{}",
            ran.err
        );
    }
    let metrics = std::fs::read_to_string(&metrics).unwrap();
    assert_eq!(metrics.matches("\nmirror_git_to_s3_success{").count(), 3, "{metrics}");

    let ran = run(&["--manifest", list, "--fail-fast", "--json"]);
    assert_eq!(ran.code, Some(3));
    assert_eq!(ran.out.lines().count(), 1, "{}", ran.out);
    assert_eq!(ran.err.matches("  not started bundle:").count(), 2, "{}", ran.err);
}

#[test]
fn a_metrics_file_that_cannot_be_written_is_a_usage_error_before_anything_is_begun() {
    let dir = tempfile::tempdir().unwrap();
    let target = format!("--target=file://{}/m", dir.path().display());
    let ran = run(&["--source=bundle:/nowhere/b", &target, "--metrics-file=/dev/null/m.prom"]);
    assert_eq!(ran.code, Some(2));
    assert!(!ran.err.contains("nowhere") && !dir.path().join("m").exists(), "{}", ran.err);
    assert!(ran.err.contains("cannot write the metrics file /dev/null/m.prom: "), "{}", ran.err);
}

#[test]
fn a_closed_standard_output_is_no_panic() {
    let dir = tempfile::tempdir().unwrap();
    let target = format!("--target=file://{}/m", dir.path().display());
    let mut child = program(&["--source=bundle:/nowhere/b", &target, "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let ran = ran(child.wait_with_output().unwrap());
    assert_eq!(ran.code, Some(1));
    assert!(!ran.err.contains("panicked"), "{}", ran.err);
}
