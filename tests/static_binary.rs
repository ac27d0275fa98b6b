//! The static binary, alone: in an empty folder that is its whole file system, with CA roots,
//! `/etc/hosts` and `/etc/resolv.conf`, as in the image that the `Dockerfile` makes, and as root with its
//! user: it finds the hosts, speaks TLS to a private CA and mirrors into S3.
//!
//! `MIRROR_TEST_STATIC_BINARY=path cargo test --test static_binary`, or `just static`, which builds
//! it. Wants root, or user namespaces. One name comes from `/etc/hosts`; as root the other comes from
//! a name server, which needs port 53.

#[path = "support/git_http.rs"]
mod git_http;
#[path = "support/local_git.rs"]
mod local_git;
#[path = "support/network.rs"]
mod network;
#[path = "support/s3_server.rs"]
mod s3_server;

use std::io::Write;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::Command;

use git_http::{GitHttp, StaticHttp};
use local_git::{Repo, assert_same_repository};
use network::{Ca, TlsFront};
use s3_server::S3Server;

fn say(words: &str) {
    // The test harness swallows print macros, not this.
    let _ = writeln!(std::io::stderr(), "static_binary: {words}");
}

fn binary() -> Option<PathBuf> {
    let path = std::env::var_os("MIRROR_TEST_STATIC_BINARY").filter(|path| !path.is_empty());
    if path.is_none() {
        say("SKIPPED, not passed: MIRROR_TEST_STATIC_BINARY is not set (just static)");
    }
    Some(std::path::absolute(path?).unwrap())
}

/// What follows this instruction of the Dockerfile.
fn in_dockerfile(instruction: &str) -> &'static str {
    let mut lines = include_str!("../Dockerfile").lines();
    lines.find_map(|line| line.strip_prefix(instruction)).expect("the instruction is there")
}

/// Where the image has its CA roots, and its program.
fn in_image() -> (&'static str, &'static str) {
    let mut copies = include_str!("../Dockerfile")
        .lines()
        .filter_map(|line| line.strip_prefix("COPY --from=build ")?.split_once(' '))
        .map(|(_, to)| to.trim_start_matches('/'));
    (copies.next().expect("the CA roots"), copies.next().expect("the program"))
}

/// `chroot`, as root or as who believes to be root.
fn chroot(dir: &Path) -> Option<Command> {
    // Not everybody's path has chroot.
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let command = |words: &[&str]| {
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).env_clear().env("PATH", &path);
        command
    };
    for words in [&["chroot"][..], &["unshare", "-r", "chroot"]] {
        if command(words).args(["/", "true"]).output().is_ok_and(|out| out.status.success()) {
            let mut command = command(words);
            // In a user namespace there is no such user.
            if words.len() == 1 {
                command.arg(format!("--userspec={}", in_dockerfile("USER ")));
            }
            command.arg(dir).arg("/mirror-git-to-s3");
            return Some(command);
        }
    }
    say("SKIPPED, not passed: neither root nor user namespaces");
    None
}

/// Answers every question for an address with 127.0.0.1, in a thread of its own. `None`: this user
/// may not have port 53.
fn name_server() -> Option<&'static str> {
    let address = "127.0.0.53";
    let socket = UdpSocket::bind((address, 53)).ok()?;
    std::thread::spawn(move || {
        let mut packet = [0; 512];
        while let Ok((len, from)) = socket.recv_from(&mut packet) {
            let question = &packet[12..len];
            let Some(end) = question.iter().position(|&byte| byte == 0) else { continue };
            let is_a = question.get(end + 1..end + 3) == Some(&[0, 1]);
            // The id; an answer, recursion available; one question, and one answer if it is for A.
            let mut answer = packet[..2].to_vec();
            answer.extend([0x81, 0x80, 0, 1, 0, u8::from(is_a), 0, 0, 0, 0]);
            answer.extend(&question[..end + 5]);
            if is_a {
                // The question's name; A, IN; a minute; four bytes.
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 1]);
            }
            let _ = socket.send_to(&answer, from);
        }
    });
    Some(address)
}

#[test]
fn in_an_empty_chroot_it_resolves_speaks_tls_and_mirrors() {
    let Some(binary) = binary() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (root, s3_dir) = (dir.path().join("root"), dir.path().join("s3"));
    let Some(mut mirror) = chroot(&root) else { return };
    std::fs::create_dir_all(root.join("etc")).unwrap();
    std::fs::create_dir_all(s3_dir.join("bucket")).unwrap();

    let repo = Repo::new();
    for n in 0..50 {
        repo.commit("refs/heads/main", &[("file", format!("{n}\n").repeat(1000).as_bytes())]);
    }
    repo.git(&["repack", "-adq"]);
    let git = GitHttp::start(repo.path(), git_http::Options::default());
    let s3 = S3Server::start(&s3_dir);
    let ca = Ca::new();
    let git_tls = TlsFront::start(&ca, &["git.test"], &git.url());
    let s3_tls = TlsFront::start(&ca, &["s3.test"], &s3.endpoint());

    let (roots, program) = in_image();
    assert_eq!(in_dockerfile("ENTRYPOINT "), format!("[\"/{program}\"]"));
    std::fs::copy(binary, root.join(program)).unwrap();
    std::fs::create_dir_all(root.join(roots).parent().unwrap()).unwrap();
    std::fs::write(root.join(roots), ca.pem()).unwrap();
    let (mut hosts, mut resolv) = ("127.0.0.1 git.test\n".to_owned(), String::new());
    match name_server() {
        Some(address) => resolv = format!("nameserver {address}\n"),
        None => {
            say("s3.test comes from /etc/hosts as well: port 53 can't be had");
            hosts += "127.0.0.1 s3.test\n";
        }
    }
    std::fs::write(root.join("etc/hosts"), hosts).unwrap();
    std::fs::write(root.join("etc/resolv.conf"), resolv).unwrap();

    mirror
        .args(["--source", &format!("https://git.test:{}/", git_tls.port())])
        .args(["--target", "s3://bucket/mirror"])
        .args(["--endpoint-url", &format!("https://s3.test:{}", s3_tls.port())])
        .env("AWS_ACCESS_KEY_ID", &s3.access_key)
        .env("AWS_SECRET_ACCESS_KEY", &s3.secret_key);
    for expected in ["ok https://git.test", "unchanged https://git.test"] {
        let out = mirror.output().unwrap();
        let text =
            String::from_utf8_lossy(&[&out.stdout[..], &out.stderr[..]].concat()).into_owned();
        assert!(out.status.success() && text.starts_with(expected), "{:?}: {text}", out.status);
    }
    let (server, copy) =
        (StaticHttp::start(&s3_dir.join("bucket/mirror")), dir.path().join("copy"));
    std::fs::create_dir(&copy).unwrap();
    let clone = ["clone", "-q", "--mirror", &server.url(), "."];
    local_git::run(local_git::git(&copy).args(clone), b"");
    assert_same_repository(repo.path(), &copy);
    // It left nothing behind and found nothing else.
    let mut left: Vec<_> =
        std::fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["etc", "mirror-git-to-s3"]);
}
