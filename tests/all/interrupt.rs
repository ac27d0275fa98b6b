//! SIGINT, SIGTERM and SIGHUP: the program cleans up, and ends with their exit codes within five seconds,
//! also when its source or its store hangs.

use crate::support::{git_http, local_git, program, s3_server};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use git_http::GitHttp;
use local_git::Repo;
use program::{files, program, signal, wait, wait_until};
use s3_server::{Options, S3Server};

/// The five seconds, and what a busy machine takes to start and end a process.
const LIMIT: Duration = Duration::from_millis(6500);

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    std::iter::repeat_with(|| random.u8(..)).take(len).collect()
}

/// A blob that is uploaded in parts, and some small ones.
fn repository() -> Repo {
    let repo = Repo::new();
    let large = noise(1, 24 << 20);
    let small: Vec<Vec<u8>> = (0..40).map(|seed| noise(seed, 5000)).collect();
    let names: Vec<String> = (0..40).map(|number| format!("small-{number}")).collect();
    let mut files: Vec<(&str, &[u8])> =
        names.iter().zip(&small).map(|(name, blob)| (name.as_str(), &blob[..])).collect();
    files.insert(0, ("large", &large));
    repo.commit("refs/heads/main", &files);
    repo.git(&["repack", "-q", "-a", "-d"]);
    repo
}

fn start(home: &Path, source: &str, s3: &S3Server) -> Child {
    s3_command(home, source, &s3.endpoint(), s3).spawn().unwrap()
}

fn s3_command(home: &Path, source: &str, endpoint: &str, s3: &S3Server) -> Command {
    let mut command = program(home);
    command
        .args(["--source", source, "--target", "s3://bucket/prefix", "--memory", "16"])
        .args(["--endpoint-url", endpoint])
        .env("AWS_ACCESS_KEY_ID", &s3.access_key)
        .env("AWS_SECRET_ACCESS_KEY", &s3.secret_key);
    command
}

/// Passes bytes on in both directions; from the server only `most` a connection, and then nothing
/// more while the connection stays open. With `until`, only once that is set.
struct Stalling {
    url: String,
    stalled: Arc<AtomicUsize>,
}

impl Stalling {
    fn start(upstream: &str, most: usize, until: Arc<AtomicBool>) -> Stalling {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let upstream = upstream.trim_start_matches("http://").to_owned();
        let stalled = Arc::new(AtomicUsize::new(0));
        let count = stalled.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let server = TcpStream::connect(&upstream).unwrap();
                let (up, down) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                std::thread::spawn(move || pass(up, server));
                let (count, until) = (count.clone(), until.clone());
                std::thread::spawn(move || {
                    pass_some(down, client, most, &count, &until);
                });
            }
        });
        Stalling { url, stalled }
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream) {
    let _ = std::io::copy(&mut from, &mut to);
    let _ = to.shutdown(std::net::Shutdown::Both);
}

fn pass_some(
    mut from: TcpStream,
    mut to: TcpStream,
    most: usize,
    stalled: &AtomicUsize,
    until: &AtomicBool,
) {
    let mut passed = 0;
    let mut buffer = vec![0; 16 << 10];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        passed += read;
        if passed > most && until.load(Ordering::SeqCst) {
            stalled.fetch_add(1, Ordering::SeqCst);
            // Held open until the test's process ends.
            loop {
                std::thread::park();
            }
        }
        if to.write_all(&buffer[..read]).is_err() {
            return;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Both);
}

fn uploads_begun(s3: &S3Server) -> usize {
    s3.seen().iter().filter(|line| line.starts_with("POST") && line.contains("?uploads")).count()
}

fn bucket() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("bucket")).unwrap();
    dir
}

/// Nothing was published, and nothing temporary is left.
fn assert_cleaned(dir: &Path) {
    for part in ["mirror_tmp", "upload", "info/refs"] {
        assert_eq!(files(dir, part), Vec::<String>::new(), "{part}");
    }
}

fn interrupted_with_a_slow_store(layout: &str, name: &str, code: i32) {
    let repo = repository();
    let source = GitHttp::start(repo.path(), git_http::Options::default());
    let dir = bucket();
    let slow = Options { latency: Duration::from_millis(400), ..Options::default() };
    let s3 = S3Server::start_with(dir.path(), slow);
    let source = format!("{}/", source.url());
    let mut command = s3_command(dir.path(), &source, &s3.endpoint(), &s3);
    let mut child = command.args(["--layout", layout]).spawn().unwrap();
    wait_until("an upload", || s3.seen().iter().any(|line| line.contains("partNumber=")));
    signal(&child, name);
    let status = wait(&mut child, LIMIT).expect("it ends in time");
    assert_eq!(status.code(), Some(code));
    assert_cleaned(dir.path());
}

#[test]
fn sigint_with_a_slow_store_cleans_up_and_ends_with_130() {
    interrupted_with_a_slow_store("loose", "INT", 130);
    interrupted_with_a_slow_store("pack", "INT", 130);
}

#[test]
fn sigterm_with_a_slow_store_cleans_up_and_ends_with_143() {
    interrupted_with_a_slow_store("loose", "TERM", 143);
    interrupted_with_a_slow_store("pack", "TERM", 143);
}

/// Is SIGHUP ignored here, and by what is started from here (signal(7), proc_pid_status(5))?
fn ignores_sighup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & 1 == 1)
}

#[test]
fn sighup_is_as_sigterm() {
    if ignores_sighup() {
        eprintln!("!! SKIPPED: these tests run under nohup, and so would the program");
        return;
    }
    interrupted_with_a_slow_store("pack", "HUP", 143);
}

#[test]
fn signal_while_the_source_hangs_in_the_middle_of_the_pack_cleans_up() {
    let repo = repository();
    let source = GitHttp::start(repo.path(), git_http::Options::default());
    let hanging = Stalling::start(&source.url(), 12 << 20, Arc::new(AtomicBool::new(true)));
    let dir = bucket();
    let s3 = S3Server::start(dir.path());
    let mut child = start(dir.path(), &format!("{}/", hanging.url), &s3);
    wait_until("the source to hang", || hanging.stalled.load(Ordering::SeqCst) > 0);
    wait_until("an upload", || uploads_begun(&s3) > 0);
    signal(&child, "TERM");
    let status = wait(&mut child, LIMIT).expect("it ends in time");
    assert_eq!(status.code(), Some(143));
    assert_cleaned(dir.path());
    let state = files(dir.path(), "mirror_state");
    assert_eq!(state, Vec::<String>::new(), "a first run that has stored nothing leaves no state");
}

#[test]
fn a_first_run_into_a_directory_leaves_no_directory_when_it_is_interrupted() {
    let repo = repository();
    let source = GitHttp::start(repo.path(), git_http::Options::default());
    let hanging = Stalling::start(&source.url(), 12 << 20, Arc::new(AtomicBool::new(true)));
    let home = tempfile::tempdir().unwrap();
    let target = home.path().join("a.git");
    let mut command = program(home.path());
    command.args(["--source", &format!("{}/", hanging.url), "--memory", "16"]);
    command.args(["--target", &format!("file://{}", target.display())]);
    let mut child = command.spawn().unwrap();
    wait_until("the source to hang", || hanging.stalled.load(Ordering::SeqCst) > 0);
    wait_until("the run to write", || target.join("mirror_state/state.json").exists());
    signal(&child, "INT");
    let status = wait(&mut child, LIMIT).expect("it ends in time");
    assert_eq!(status.code(), Some(130));
    assert!(!target.exists(), "{:?}", files(home.path(), "a.git"));
}

#[test]
fn signal_while_the_source_does_not_answer_ends_the_run() {
    let repo = Repo::new();
    let source = GitHttp::start(repo.path(), git_http::Options::default());
    let hanging = Stalling::start(&source.url(), 0, Arc::new(AtomicBool::new(true)));
    let dir = bucket();
    let s3 = S3Server::start(dir.path());
    let mut child = start(dir.path(), &format!("{}/", hanging.url), &s3);
    wait_until("the source to hang", || hanging.stalled.load(Ordering::SeqCst) > 0);
    signal(&child, "INT");
    let status = wait(&mut child, LIMIT).expect("it ends in time");
    assert_eq!(status.code(), Some(130));
}

#[test]
fn signal_while_the_store_hangs_ends_the_run() {
    let repo = repository();
    let source = GitHttp::start(repo.path(), git_http::Options::default());
    let dir = bucket();
    let s3 = S3Server::start(dir.path());
    let hang = Arc::new(AtomicBool::new(false));
    let hanging = Stalling::start(&s3.endpoint(), 0, hang.clone());
    let url = format!("{}/", source.url());
    let mut child = s3_command(dir.path(), &url, &hanging.url, &s3).spawn().unwrap();
    wait_until("the run to begin", || s3.requests() > 1);
    hang.store(true, Ordering::SeqCst);
    wait_until("the store to hang", || hanging.stalled.load(Ordering::SeqCst) > 0);
    signal(&child, "INT");
    let status = wait(&mut child, LIMIT).expect("it ends in time");
    assert_eq!(status.code(), Some(130));
    assert_eq!(files(dir.path(), "info/refs"), Vec::<String>::new());
}

/// A second and a half is theirs: what has been sent need not be sent again by the next run.
#[test]
fn requests_to_the_store_that_are_under_way_come_to_their_end() {
    let repo = Repo::new();
    let small: Vec<Vec<u8>> = (0..200).map(|seed| noise(seed, 5000)).collect();
    let names: Vec<String> = (0..200).map(|number| format!("small-{number}")).collect();
    let files: Vec<(&str, &[u8])> =
        names.iter().zip(&small).map(|(name, blob)| (name.as_str(), &blob[..])).collect();
    repo.commit("refs/heads/main", &files);
    let source = GitHttp::start(repo.path(), git_http::Options::default());
    let dir = bucket();
    let slow = Options { latency: Duration::from_millis(700), ..Options::default() };
    let s3 = S3Server::start_with(dir.path(), slow);
    let puts = || -> Vec<String> {
        let seen = s3.seen().into_iter();
        seen.filter_map(|line| Some(line.strip_prefix("PUT /bucket/prefix/objects/")?.to_owned()))
            .collect()
    };
    let url = format!("{}/", source.url());
    let mut command = s3_command(dir.path(), &url, &s3.endpoint(), &s3);
    let mut child = command.args(["--layout", "loose"]).spawn().unwrap();
    wait_until("many requests", || puts().len() > 20);
    signal(&child, "INT");
    let under_way = puts();
    assert_eq!(wait(&mut child, LIMIT).and_then(|status| status.code()), Some(130));
    for key in under_way {
        let key = key.split('?').next().unwrap();
        assert!(dir.path().join("bucket/prefix/objects").join(key).exists(), "{key} was cut off");
    }
}
