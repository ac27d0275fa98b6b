//! The smart HTTP source against the real `git http-backend`, and against servers that misbehave.
//!
//! Repositories are made in temporary folders; everything is on loopback. What git itself says of a
//! pack (`git index-pack` without `--fix-thin`, in a repository that has nothing) is the judge.

use crate::support::git_http;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use git_http::{Canned, GitHttp, Options, StaticHttp};
use mirror_git_to_s3::git::object::Oid;
use mirror_git_to_s3::git::refs::{Advertisement, Head, RefName};
use mirror_git_to_s3::http::{Client, Environment, Settings};
use mirror_git_to_s3::source::auth::Auth;
use mirror_git_to_s3::source::bundle::Bundle;
use mirror_git_to_s3::source::smart_http::{Policy, SmartHttp};
use mirror_git_to_s3::source::{Source, SourceError, SourceErrorKind};
use tempfile::TempDir;

/// A folder with repositories, and git without the machine's configuration.
struct Repos(TempDir);

impl Repos {
    fn new() -> Repos {
        Repos(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A bare repository, filled by `git` commands of the caller.
    fn init(&self, name: &str, options: &[&str]) -> PathBuf {
        let mut args = vec!["init", "-q", "--bare", "-b", "main"];
        args.extend_from_slice(options);
        args.push(name);
        git(self.0.path(), &args);
        self.path(name)
    }

    /// A bare repository with two commits, a branch, a light, an annotated and a nested tag, and a
    /// ref that git's clients don't fetch by default.
    fn full(&self) -> PathBuf {
        let repo = self.init("x.git", &[]);
        commit(&repo, "main", 1);
        commit(&repo, "main", 2);
        git(&repo, &["branch", "topic", "main~1"]);
        git(&repo, &["tag", "light", "main"]);
        git(&repo, &["tag", "-a", "-m", "one", "v1", "main~1"]);
        git(&repo, &["tag", "-a", "-m", "nested", "v1-signed", "v1"]);
        git(&repo, &["update-ref", "refs/pull/1/head", "main"]);
        repo
    }
}

fn git_command(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new("git");
    command.current_dir(dir).args(args);
    for (name, value) in [
        ("GIT_CONFIG_NOSYSTEM", "1"),
        ("GIT_CONFIG_GLOBAL", "/dev/null"),
        ("GIT_AUTHOR_NAME", "A"),
        ("GIT_AUTHOR_EMAIL", "a@example.org"),
        ("GIT_AUTHOR_DATE", "1700000000 +0000"),
        ("GIT_COMMITTER_NAME", "A"),
        ("GIT_COMMITTER_EMAIL", "a@example.org"),
        ("GIT_COMMITTER_DATE", "1700000000 +0000"),
    ] {
        command.env(name, value);
    }
    command
}

fn git_in(dir: &Path, args: &[&str], stdin: &[u8]) -> String {
    let mut command = git_command(dir, args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut pipe = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || drop(pipe.write_all(stdin)));
        let output = child.wait_with_output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "git {args:?}: {errors}");
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    })
}

fn git(dir: &Path, args: &[&str]) -> String {
    git_in(dir, args, b"")
}

/// Commits a file of 2,000 lines of which one depends on `number`, so that packs have deltas.
fn commit(repo: &Path, branch: &str, number: u32) {
    let mut lines: Vec<String> =
        (0..2000u32).map(|n| format!("{:x}", n.wrapping_mul(2654435761))).collect();
    lines[1000] = format!("the line of commit {number}");
    let data = lines.join("\n");
    let stream = format!(
        "commit refs/heads/{branch}\ncommitter A <a@example.org> 17000000{number:02} +0000\n\
         data 1\n{number}\n{}M 100644 inline file\ndata {}\n{data}\n",
        parent(repo, branch),
        data.len(),
    );
    git_in(repo, &["fast-import", "--quiet"], stream.as_bytes());
}

fn parent(repo: &Path, branch: &str) -> String {
    let found = git(repo, &["for-each-ref", &format!("refs/heads/{branch}")]);
    if found.is_empty() { String::new() } else { format!("from refs/heads/{branch}^0\n") }
}

fn oid(repo: &Path, what: &str) -> Oid {
    git(repo, &["rev-parse", what]).parse().unwrap()
}

fn name(name: &str) -> RefName {
    RefName::new(name).unwrap()
}

fn client() -> Client {
    Client::with_environment(&Settings::default(), &Environment::default()).unwrap()
}

/// A source that does not wait long between tries.
fn source(url: &str) -> SmartHttp {
    let first_delay = Duration::from_millis(1);
    let max_total = Duration::from_secs(30);
    let policy = Policy { max_attempts: 3, first_delay, max_delay: Duration::MAX, max_total };
    SmartHttp::new(url, client(), Auth::none()).unwrap().with_policy(policy)
}

fn serve(repos: &Repos, options: Options) -> (GitHttp, SmartHttp) {
    let server = GitHttp::start(repos.0.path(), options);
    let source = source(&format!("{}/x.git", server.url()));
    (server, source)
}

fn v0() -> Options {
    Options { only_v0: true, ..Options::default() }
}

fn canned(canned: Canned) -> Options {
    Options { canned: vec![canned], ..Options::default() }
}

fn tips(advertisement: &Advertisement) -> Vec<Oid> {
    advertisement.refs.iter().map(|r| r.oid).collect()
}

fn fetch(source: &dyn Source, wants: &[Oid], haves: &[Oid]) -> std::io::Result<Vec<u8>> {
    let mut pack = Vec::new();
    source
        .fetch(wants, haves, Box::new(|_: &str| ()))
        .map_err(std::io::Error::other)?
        .read_to_end(&mut pack)?;
    Ok(pack)
}

fn source_error(error: std::io::Error) -> SourceError {
    SourceError::from_io(&error).expect("an error of the source").clone()
}

/// All objects of a repository, by name.
fn objects(repo: &Path) -> Vec<String> {
    let list = git(repo, &["cat-file", "--batch-all-objects", "--batch-check=%(objectname)"]);
    list.lines().map(str::to_owned).collect()
}

/// The objects of a pack, read by git into a repository that has nothing.
fn unpack(pack: &[u8]) -> Vec<String> {
    let repos = Repos::new();
    let repo = repos.init("new.git", &[]);
    git_in(&repo, &["index-pack", "--stdin"], pack);
    objects(&repo)
}

fn is_transient(kind: SourceErrorKind) -> bool {
    matches!(kind, SourceErrorKind::Transient { .. })
}

#[test]
fn both_versions_give_all_refs_and_a_pack_with_all_objects() {
    let repos = Repos::new();
    let repo = repos.full();
    git(&repo, &["repack", "-adq"]);
    for (options, requests) in [(Options::default(), 3), (v0(), 2)] {
        let (server, source) = serve(&repos, options);
        let advertisement = source.advertisement().unwrap();
        let found: Vec<_> = advertisement
            .refs
            .iter()
            .map(|r| {
                format!(
                    "{} {} {}",
                    r.oid,
                    r.name,
                    r.peeled.map_or(String::new(), |p| p.to_string())
                )
            })
            .collect();
        let format = "--format=%(objectname) %(refname) %(*objectname)";
        let mut expected = git(&repo, &["for-each-ref", format]);
        // %(*objectname) of a nested tag is peeled once in older gits and all the way in newer ones.
        let commit = oid(&repo, "v1^{}").to_string();
        expected = expected
            .lines()
            .map(|line| match line.split_once(" refs/tags/v1-signed ") {
                Some((tag, _)) => format!("{tag} refs/tags/v1-signed {commit}\n"),
                None => format!("{line}\n"),
            })
            .collect();
        assert_eq!(found, expected.lines().collect::<Vec<_>>());
        assert_eq!(advertisement.head, Head::Branch(name("refs/heads/main")));
        assert!(advertisement.find(&name("refs/pull/1/head")).is_some());
        let pack = fetch(&source, &tips(&advertisement), &[]).unwrap();
        assert_eq!(unpack(&pack), objects(&repo));
        assert_eq!((source.requests(), server.requests()), (requests, requests as usize));
        let agent = server.seen()[0].header("user-agent").unwrap().to_owned();
        assert!(agent.starts_with("git/2.0 (mirror-git-to-s3 "), "{agent}");
    }
}

#[test]
fn all_requests_of_a_source_share_one_connection() {
    let repos = Repos::new();
    repos.full();
    for options in [Options::default(), v0()] {
        let (server, source) = serve(&repos, options);
        for _ in 0..2 {
            let wants = tips(&source.advertisement().unwrap());
            fetch(&source, &wants, &[]).unwrap();
        }
        assert_eq!(server.connections(), 1, "{} requests", server.requests());
    }
}

#[test]
fn a_fetch_with_haves_is_small_and_self_contained() {
    let repos = Repos::new();
    let repo = repos.full();
    let old = oid(&repo, "main");
    commit(&repo, "main", 3);
    git(&repo, &["repack", "-adq"]);
    for options in [Options::default(), v0()] {
        let (_server, source) = serve(&repos, options);
        let advertisement = source.advertisement().unwrap();
        let wants = [advertisement.find(&name("refs/heads/main")).unwrap().oid];
        let pack = fetch(&source, &wants, &[old]).unwrap();
        // One commit, one tree, one blob: the blob is no delta, as its base is not sent.
        assert_eq!(unpack(&pack).len(), 3);
        assert_eq!(&pack[..4], b"PACK");
    }
}

#[test]
fn the_sources_progress_is_heard() {
    let repos = Repos::new();
    repos.full();
    let (_server, source) = serve(&repos, Options::default());
    let wants = tips(&source.advertisement().unwrap());
    let lines = Arc::new(Mutex::new(Vec::new()));
    let heard = lines.clone();
    let words = Box::new(move |line: &str| heard.lock().unwrap().push(line.to_owned()));
    source.fetch(&wants, &[], words).unwrap().read_to_end(&mut Vec::new()).unwrap();
    let lines = lines.lock().unwrap();
    assert!(lines.iter().any(|line| line.starts_with("Enumerating objects:")), "{lines:?}");
}

#[test]
fn an_empty_repository_has_no_refs_and_with_version_2_an_unborn_head() {
    let repos = Repos::new();
    repos.init("x.git", &[]);
    let (_server, source) = serve(&repos, Options::default());
    let unborn = Head::Unborn(name("refs/heads/main"));
    assert_eq!(source.advertisement().unwrap(), Advertisement::of(vec![], unborn));
    let (_server, source) = serve(&repos, v0());
    assert_eq!(source.advertisement().unwrap(), Advertisement::of(vec![], Head::Absent));
}

#[test]
fn a_head_may_be_unborn_or_detached_beside_other_branches() {
    let repos = Repos::new();
    let repo = repos.full();
    git(&repo, &["symbolic-ref", "HEAD", "refs/heads/nowhere"]);
    let (_server, source) = serve(&repos, Options::default());
    let unborn = Head::Unborn(name("refs/heads/nowhere"));
    assert_eq!(source.advertisement().unwrap().head, unborn);
    let tip = oid(&repo, "topic");
    std::fs::write(repo.join("HEAD"), format!("{tip}\n")).unwrap();
    for options in [Options::default(), v0()] {
        let (_server, source) = serve(&repos, options);
        assert_eq!(source.advertisement().unwrap().head, Head::Detached(tip));
    }
}

#[test]
fn a_redirect_is_followed_once_and_kept_for_what_follows() {
    let repos = Repos::new();
    let repo = repos.full();
    let options = Options { redirect: Some(("old".into(), String::new())), ..Options::default() };
    let server = GitHttp::start(repos.0.path(), options);
    let source = source(&format!("{}/old/x.git", server.url()));
    let wants = tips(&source.advertisement().unwrap());
    assert_eq!(unpack(&fetch(&source, &wants, &[]).unwrap()), objects(&repo));
    let targets: Vec<_> = server.seen().into_iter().map(|seen| seen.target).collect();
    assert_eq!(
        targets,
        [
            "/old/x.git/info/refs?service=git-upload-pack",
            "/x.git/info/refs?service=git-upload-pack",
            "/x.git/git-upload-pack",
            "/x.git/git-upload-pack",
        ]
    );
    assert!(source.describe().ends_with("/old/x.git"));
    assert_eq!(source.redirected_to(), Some(format!("{}/x.git", server.url())));
    assert!(source.url().path() == "/x.git");
}

#[test]
fn credentials_stay_with_their_host_through_a_redirect() {
    let repos = Repos::new();
    repos.full();
    let target = GitHttp::start(repos.0.path(), Options::default());
    let options = Options { redirect: Some(("old".into(), target.url())), ..Options::default() };
    let server = GitHttp::start(repos.0.path(), options);
    let url = server.url().replace("http://", "http://me:hush@");
    let source = source(&format!("{url}/old/x.git"));
    let refused = source.advertisement().unwrap_err();
    assert_eq!(refused.kind, SourceErrorKind::Fatal);
    assert!(refused.message.contains("--allow-redirect-host"), "{refused}");
    assert!(refused.message.contains(&format!("{}/x.git", target.url())), "{refused}");
    assert_eq!((server.requests(), target.requests()), (1, 0), "it was not even asked");
    let source = source.with_redirect_other_host(true);
    let wants = tips(&source.advertisement().unwrap());
    assert_eq!(source.redirected_to(), Some(format!("{}/x.git", target.url())));
    fetch(&source, &wants, &[]).unwrap();
    assert!(server.seen().iter().all(|seen| seen.header("authorization").is_some()));
    assert_eq!((server.requests(), target.requests()), (2, 3));
    assert!(target.seen().iter().all(|seen| seen.header("authorization").is_none()));
}

#[test]
fn redirects_that_never_end_or_lead_elsewhere_are_errors() {
    let repos = Repos::new();
    let redirect = |to: &str| Canned {
        headers: vec![("Location".into(), to.into())],
        ..Canned::new("info/refs", 302, "text/plain", "")
    };
    let error = |to: &str| {
        let (server, source) = serve(&repos, canned(redirect(to)));
        let error = source.advertisement().unwrap_err();
        assert_eq!(error.kind, SourceErrorKind::Fatal);
        (error.to_string(), server.requests())
    };
    let (text, requests) = error("/x.git/info/refs?again");
    assert!(text.contains("more than 5 redirects") && requests == 6, "{text}");
    assert!(error("file:///etc/passwd").0.contains("neither http nor https"));
    assert!(error("http://").0.contains("invalid URL"));
}

#[test]
fn a_login_is_asked_for_in_words_that_help_and_a_good_one_is_let_in() {
    let repos = Repos::new();
    repos.full();
    let login = ("me".to_owned(), "p@ss".to_owned());
    let options = Options { basic_auth: Some(login), ..Options::default() };
    let server = GitHttp::start(repos.0.path(), options);
    let at = |userinfo: &str| {
        let url = server.url().replace("http://", &format!("http://{userinfo}"));
        source(&format!("{url}/x.git")).advertisement()
    };
    assert_eq!(at("me:p%40ss@").unwrap().refs.len(), 6);
    let without = at("").unwrap_err();
    assert_eq!(without.kind, SourceErrorKind::Denied);
    assert!(without.message.contains("--source-header-file"), "{without}");
    let wrong = at("me:hush@").unwrap_err();
    assert_eq!(wrong.kind, SourceErrorKind::Denied);
    assert!(wrong.message.contains("were rejected"), "{wrong}");
    assert!(!wrong.to_string().contains("hush"), "{wrong}");
}

#[test]
fn logins_from_files_are_sent() {
    let repos = Repos::new();
    repos.full();
    let options = Options { basic_auth: Some(("me".into(), "pw".into())), ..Options::default() };
    let server = GitHttp::start(repos.0.path(), options);
    let (netrc, headers) = (repos.path("netrc"), repos.path("headers"));
    std::fs::write(&netrc, "machine 127.0.0.1 login me password pw\n").unwrap();
    std::fs::write(&headers, "# token\nAuthorization: Basic bWU6cHc=\n").unwrap();
    for auth in [Auth::from_files(None, Some(&netrc)), Auth::from_files(Some(&headers), None)] {
        let url = format!("{}/x.git", server.url());
        let source = SmartHttp::new(&url, client(), auth.unwrap()).unwrap();
        assert_eq!(source.advertisement().unwrap().refs.len(), 6);
    }
}

#[test]
fn a_missing_repository_is_denied_as_it_may_be_a_private_one() {
    let repos = Repos::new();
    let (_server, source) = serve(&repos, Options::default());
    let error = source.advertisement().unwrap_err();
    assert_eq!(error.kind, SourceErrorKind::Denied);
    assert!(error.message.contains("HTTP 404"), "{error}");
}

#[test]
fn answers_that_are_not_a_smart_servers_are_named() {
    let repos = Repos::new();
    let dumb = format!("{}\trefs/heads/main\n", "1".repeat(40));
    let cases: &[(&str, &str, &str)] = &[
        ("text/html; charset=utf-8", "<!DOCTYPE html><html>", "web page"),
        ("", " <html>", "web page"),
        ("text/plain", &dumb, "dumb protocol"),
        ("text/plain; charset=utf-8", "", "dumb protocol"),
        (
            "application/json",
            "{}",
            "not a git repository: the response has the type \"application/json\"",
        ),
        ("application/x-git-upload-pack-advertisement", "zzzz", "not a packet length"),
    ];
    for (content_type, body, expected) in cases {
        let (_server, source) =
            serve(&repos, canned(Canned::new("info/refs", 200, content_type, *body)));
        let error = source.advertisement().unwrap_err();
        assert_eq!(error.kind, SourceErrorKind::Fatal);
        assert!(error.message.contains(expected), "{error}");
    }
}

#[test]
fn a_smart_answer_with_a_wrong_type_is_taken() {
    let repos = Repos::new();
    let body = include_bytes!("../../fixtures/wire/v0/advertisement.response");
    let (_server, source) =
        serve(&repos, canned(Canned::new("info/refs", 200, "text/plain", *body)));
    assert_eq!(source.advertisement().unwrap().refs.len(), 4);
}

#[test]
fn the_servers_own_words_end_up_in_the_error() {
    let repos = Repos::new();
    let repo = repos.full();
    let wants = [oid(&repo, "main")];
    let advertisement = "application/x-git-upload-pack-advertisement";
    let result = "application/x-git-upload-pack-result";
    let err = Canned::new("info/refs", 200, advertisement, "0015ERR quota used up");
    let (_server, source) = serve(&repos, canned(err));
    let error = source.advertisement().unwrap_err();
    assert_eq!(error.kind, SourceErrorKind::Fatal);
    assert!(error.message.contains("the server says: quota used up"), "{error}");

    let band_3 = "000dpackfile\n0009\x01PACK000a\x03died\n0000";
    let (_server, source) =
        serve(&repos, canned(Canned::new("/git-upload-pack", 200, result, band_3)));
    let error = source_error(fetch(&source, &wants, &[]).unwrap_err());
    assert_eq!(error.kind, SourceErrorKind::Fatal);
    assert!(error.message.contains("the server reported a fatal error: died"), "{error}");

    let plain = Canned::new("info/refs", 410, "text/plain", "moved\n to \x1b[1mmars");
    let (_server, source) = serve(&repos, canned(plain));
    let error = source.advertisement().unwrap_err();
    assert!(error.message.ends_with("(moved  to [1mmars)"), "{error}");
}

#[test]
fn an_object_that_went_away_meanwhile_may_be_asked_for_again() {
    let repos = Repos::new();
    repos.full();
    for options in [Options::default(), v0()] {
        let (_server, source) = serve(&repos, options);
        let Err(error) = source.fetch(&[Oid::from_bytes([7; 20])], &[], Box::new(|_: &str| ()))
        else {
            panic!("the server has no such object")
        };
        assert!(is_transient(error.kind), "{error}");
        assert!(error.message.contains("not our ref"), "{error}");
    }
}

#[test]
fn a_shallow_source_is_refused() {
    let repos = Repos::new();
    let repo = repos.full();
    let from = format!("file://{}", repo.display());
    git(repos.0.path(), &["clone", "-q", "--bare", "--depth=1", &from, "shallow.git"]);
    let wants = [oid(&repo, "main")];
    for options in [Options::default(), v0()] {
        let server = GitHttp::start(repos.0.path(), options);
        let source = source(&format!("{}/shallow.git", server.url()));
        let error = source
            .advertisement()
            .err()
            .or_else(|| source.fetch(&wants, &[], Box::new(|_: &str| ())).err());
        let error = error.expect("a shallow source is an error at the latest with the pack");
        assert_eq!(error.kind, SourceErrorKind::Fatal);
        assert!(error.message.contains("shallow"), "{error}");
    }
}

#[test]
fn names_of_a_sha256_source_have_64_digits() {
    let repos = Repos::new();
    let repo = repos.init("x.git", &["--object-format=sha256"]);
    commit(&repo, "main", 1);
    for options in [Options::default(), v0()] {
        let (_server, source) = serve(&repos, options);
        let refs = source.advertisement().unwrap().refs;
        assert_eq!(refs[0].oid.to_string().len(), 64);
    }
}

#[test]
fn thousands_of_haves_are_sent_gzipped_and_understood() {
    let repos = Repos::new();
    let repo = repos.full();
    let (wants, known) = ([oid(&repo, "main")], oid(&repo, "topic"));
    let mut haves: Vec<Oid> = (0..3000u32)
        .map(|n| {
            let mut bytes = [0; 20];
            bytes[..4].copy_from_slice(&n.wrapping_mul(2654435761).to_be_bytes());
            Oid::from_bytes(bytes)
        })
        .collect();
    haves.push(known);
    for options in [Options::default(), v0()] {
        let (server, source) = serve(&repos, options);
        let pack = fetch(&source, &wants, &haves).unwrap();
        assert_eq!(unpack(&pack).len(), 3);
        let last = server.seen().pop().unwrap();
        assert_eq!(last.header("content-encoding"), Some("gzip"));
        assert!(last.body_len < haves.len() * 50 / 2, "{}", last.body_len);
    }
}

#[test]
fn what_fails_for_a_while_is_tried_again_and_each_try_is_counted() {
    let repos = Repos::new();
    let repo = repos.full();
    for status in [408, 429, 500, 503] {
        let busy = |on: &str| Canned { times: 2, ..Canned::new(on, status, "text/plain", "busy") };
        let canned = vec![busy("info/refs"), busy("/git-upload-pack")];
        let (server, source) = serve(&repos, Options { canned, ..Options::default() });
        let wants = tips(&source.advertisement().unwrap());
        assert_eq!(unpack(&fetch(&source, &wants, &[]).unwrap()), objects(&repo));
        assert_eq!((source.requests(), server.requests()), (7, 7));
    }
}

#[test]
fn the_servers_wait_is_kept_in_seconds_and_as_a_date() {
    use time::{OffsetDateTime, macros::format_description};
    let repos = Repos::new();
    repos.full();
    let http = format_description!(
        "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
    );
    // A date is in whole seconds, the last of which may be nearly over; and this machine may be busy.
    let date = || (OffsetDateTime::now_utc() + Duration::from_secs(4)).format(http).unwrap();
    for (status, wait, at_least) in
        [(429, &(|| "2".to_owned()) as &dyn Fn() -> String, 2000), (503, &date, 900)]
    {
        let wait = wait();
        let mut busy = Canned { times: 1, ..Canned::new("info/refs", status, "text/plain", "") };
        busy.headers.push(("Retry-After".into(), wait));
        let (server, source) = serve(&repos, canned(busy));
        let begun = Instant::now();
        source.advertisement().unwrap();
        // Without the header it would be a millisecond.
        assert!(begun.elapsed() >= Duration::from_millis(at_least), "{status}");
        assert_eq!(server.requests(), 3);
    }
}

#[test]
fn tries_are_bounded_and_the_servers_wait_is_told() {
    let repos = Repos::new();
    let busy = Canned {
        headers: vec![
            ("Retry-After".into(), "0".into()),
            ("Content-Type".into(), "text/plain".into()),
        ],
        ..Canned::new("info/refs", 429, "text/plain", "slow down")
    };
    let (server, source) = serve(&repos, canned(busy));
    let error = source.advertisement().unwrap_err();
    assert_eq!(error.kind, SourceErrorKind::Transient { retry_after: Some(Duration::ZERO) });
    assert!(error.message.contains("HTTP 429") && error.message.contains("slow down"), "{error}");
    assert_eq!(server.requests(), 3);
    // Longer than all patience: no wait at all.
    let busy = Canned {
        headers: vec![("Retry-After".into(), "86400".into())],
        ..Canned::new("info/refs", 503, "text/html", "<p>later")
    };
    let (server, source) = serve(&repos, canned(busy));
    assert!(is_transient(source.advertisement().unwrap_err().kind));
    assert_eq!(server.requests(), 1);
}

#[test]
fn denials_are_not_tried_again() {
    let repos = Repos::new();
    let (server, source) =
        serve(&repos, canned(Canned::new("info/refs", 403, "text/html", "<p>no")));
    assert_eq!(source.advertisement().unwrap_err().kind, SourceErrorKind::Denied);
    assert_eq!(server.requests(), 1);
}

#[test]
fn a_pack_that_breaks_off_is_a_transient_error_in_the_stream() {
    let repos = Repos::new();
    let repo = repos.full();
    let wants = [oid(&repo, "main")];
    let options = Options { cut_post_after: Some(9000), ..v0() };
    let (_server, source) = serve(&repos, options);
    let error = source_error(fetch(&source, &wants, &[]).unwrap_err());
    assert!(is_transient(error.kind), "{error}");
    // The same with an answer that is whole by HTTP, but has no end by git.
    let body = "000dpackfile\n0009\x01PACK";
    let result = "application/x-git-upload-pack-result";
    let (_server, source) =
        serve(&repos, canned(Canned::new("/git-upload-pack", 200, result, body)));
    let error = source_error(fetch(&source, &wants, &[]).unwrap_err());
    assert!(is_transient(error.kind), "{error}");
    assert!(error.message.contains("ended early"), "{error}");
}

#[test]
fn a_server_that_is_not_there_is_a_transient_error() {
    let server = GitHttp::start(Repos::new().0.path(), Options::default());
    let url = server.url();
    drop(server);
    // The thread that listens may take a moment to end; connections until then are closed.
    let error = source(&format!("{url}/x.git")).advertisement().unwrap_err();
    assert!(is_transient(error.kind), "{error}");
}

#[test]
fn nothing_wanted_is_an_error_and_not_a_request() {
    let repos = Repos::new();
    repos.full();
    let (server, source) = serve(&repos, Options::default());
    source.advertisement().unwrap();
    assert!(source.fetch(&[], &[], Box::new(|_: &str| ())).is_err());
    assert_eq!(server.requests(), 2);
}

#[test]
fn git_clones_from_the_static_server_and_ranges_work() {
    let repos = Repos::new();
    let repo = repos.full();
    git(&repo, &["repack", "-adq"]);
    git(&repo, &["update-server-info"]);
    let server = StaticHttp::start(repos.0.path());
    let url = format!("{}/x.git", server.url());
    git(repos.0.path(), &["clone", "-q", "--mirror", &url, "copy.git"]);
    assert_eq!(objects(&repos.path("copy.git")), objects(&repo));
    assert!(server.requests() > 3);

    let mut socket = TcpStream::connect(server.url().strip_prefix("http://").unwrap()).unwrap();
    let get =
        |range: &str| format!("GET /x.git/HEAD HTTP/1.1\r\nHost: x\r\nRange: bytes={range}\r\n");
    let last = format!("{}Connection: close\r\n\r\n", get("99-"));
    let requests = format!("{}\r\n{}\r\n{last}", get("5-8"), get("-5"));
    socket.write_all(requests.as_bytes()).unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("Content-Range: bytes 5-8/21\r\n"), "{answer}");
    assert!(answer.contains("\r\n\r\nrefsHTTP/1.1 206"), "{answer}");
    assert!(answer.contains("\r\n\r\nmain\nHTTP/1.1 416"), "{answer}");
}

#[test]
fn the_git_server_takes_chunked_bodies_and_expect() {
    let repos = Repos::new();
    repos.full();
    let server = GitHttp::start(repos.0.path(), Options::default());
    let mut socket = TcpStream::connect(server.url().strip_prefix("http://").unwrap()).unwrap();
    let body = "0014command=ls-refs\n00010009peel\n0000";
    let (first, second) = body.split_at(7);
    let head = "POST /x.git/git-upload-pack HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n\
                Git-Protocol: version=2\r\nContent-Type: application/x-git-upload-pack-request\r\n\
                Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n";
    let chunks = format!("7\r\n{first}\r\n{:x}\r\n{second}\r\n0\r\n\r\n", second.len());
    socket.write_all(format!("{head}{chunks}").as_bytes()).unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("refs/pull/1/head"), "{answer}");
}

#[test]
fn a_bundle_that_git_made_is_a_source() {
    let repos = Repos::new();
    let repo = repos.full();
    git(&repo, &["bundle", "create", "-q", "../all.bundle", "--all"]);
    git(&repo, &["bundle", "create", "-q", "--version=3", "../new.bundle", "main", "^main~1"]);
    let bundle = Bundle::file(repos.path("all.bundle"));
    let advertisement = bundle.advertisement().unwrap();
    assert_eq!(advertisement.head, Head::Branch(name("refs/heads/main")));
    assert_eq!(advertisement.refs.len(), 6);
    let pack = fetch(&bundle, &tips(&advertisement), &[]).unwrap();
    assert_eq!(unpack(&pack), objects(&repo));
    let bundle = Bundle::file(repos.path("new.bundle"));
    let wants = tips(&bundle.advertisement().unwrap());
    assert_eq!(bundle.prerequisites().unwrap(), [oid(&repo, "main~1")]);
    assert!(fetch(&bundle, &wants, &[]).unwrap().starts_with(b"PACK"));
}
