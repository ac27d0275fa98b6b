//! No secret reaches standard output or standard error, however loud the log and whatever fails.

#[path = "support/git_http.rs"]
mod git_http;
#[path = "support/local_git.rs"]
mod local_git;
#[path = "support/program.rs"]
mod program;
#[path = "support/s3_server.rs"]
mod s3_server;

use std::process::Output;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use git_http::{Canned, GitHttp};
use local_git::Repo;
use s3_server::S3Server;

const USERINFO: &str = "userinfo-hush-1";
const NETRC: &str = "netrc-hush-2";
const HEADER: &str = "header-hush-3";
const SESSION: &str = "session-hush-4";
const WRONG_SECRET: &str = "wrong-secret-hush-5";

/// Runs with secrets everywhere; `wrong` gives the store a secret key that it refuses.
fn run(source: &str, s3: &S3Server, wrong: bool, loud: &[&str]) -> Output {
    let home = tempfile::tempdir().unwrap();
    let netrc = home.path().join("netrc");
    std::fs::write(&netrc, format!("default login somebody password {NETRC}\n")).unwrap();
    let headers = home.path().join("headers");
    std::fs::write(&headers, format!("X-Token: {HEADER}\n")).unwrap();
    let secret = if wrong { WRONG_SECRET } else { &s3.secret_key };
    program::program(home.path())
        .args(["--source", source, "--target", "s3://bucket/prefix"])
        .args(["--endpoint-url", &s3.endpoint(), "--source-header-file"])
        .arg(&headers)
        .args(loud)
        .env("NETRC", &netrc)
        .env("RUST_LOG", "trace")
        .env("AWS_MAX_ATTEMPTS", "1")
        .env("AWS_ACCESS_KEY_ID", &s3.access_key)
        .env("AWS_SECRET_ACCESS_KEY", secret)
        .env("AWS_SESSION_TOKEN", SESSION)
        .output()
        .unwrap()
}

fn assert_silent(out: &Output, s3: &S3Server, what: &str) {
    let text = [&out.stdout[..], &out.stderr[..]].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(!text.is_empty(), "{what}: nothing was said at all");
    let mut secrets: Vec<String> =
        [USERINFO, NETRC, HEADER, SESSION, WRONG_SECRET, &s3.secret_key, "X-Amz-Signature="]
            .map(str::to_owned)
            .into();
    for (user, password) in [("user", USERINFO), ("somebody", NETRC)] {
        secrets.push(STANDARD.encode(format!("{user}:{password}")));
    }
    for secret in [USERINFO, NETRC, HEADER, SESSION, WRONG_SECRET, &s3.secret_key] {
        secrets.push(STANDARD.encode(secret));
    }
    for secret in secrets {
        assert!(!text.contains(&secret), "{what}: {secret} is in the output:\n{text}");
    }
}

#[test]
fn no_secret_is_printed_however_a_run_ends() {
    let repo = Repo::new();
    repo.commit("refs/heads/main", &[("file", b"content\n")]);
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("bucket")).unwrap();
    let s3 = S3Server::start(dir.path());
    let basic = Some(("user".to_owned(), USERINFO.to_owned()));
    let canned = |status| vec![Canned::new("info/refs", status, "text/plain", "no")];
    let plain = git_http::Options::default();
    let servers = [
        ("well", git_http::Options { basic_auth: basic, ..plain.clone() }, Some(0)),
        ("denied", git_http::Options { canned: canned(403), ..plain.clone() }, Some(12)),
        ("broken", git_http::Options { canned: canned(400), ..plain.clone() }, Some(1)),
        ("cut", git_http::Options { cut_post_after: Some(10), ..plain }, Some(5)),
    ];
    for (what, options, code) in servers {
        let server = GitHttp::start(repo.path(), options);
        let place = server.url().replace("http://", "");
        for (login, loud) in [(format!("user:{USERINFO}@"), &["-vv"][..]), (String::new(), &[])] {
            let source = format!("http://{login}{place}/");
            let out = run(&source, &s3, false, loud);
            assert_silent(&out, &s3, what);
            if !login.is_empty() {
                let words = String::from_utf8_lossy(&out.stderr);
                assert_eq!(out.status.code(), code, "{what}: {words}");
            }
        }
        if what == "well" {
            let out = run(&format!("http://user:{USERINFO}@{place}/"), &s3, true, &["-vv"]);
            assert_silent(&out, &s3, "a wrong secret key");
            assert_eq!(out.status.code(), Some(12));
        }
    }
    // Nobody listens there, and the usage error of a URL that can't be read.
    for source in ["http://user:userinfo-hush-1@127.0.0.1:1/x", "ssh://user:userinfo-hush-1@h/x"] {
        assert_silent(&run(source, &s3, false, &["-vv", "--json"]), &s3, "unreachable");
    }
}
