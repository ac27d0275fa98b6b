//! A first run that begins with a bundle which the source offers, and what of it is not taken.

use crate::support::{fault_proxy, git_http, local_git};
use std::path::{Path, PathBuf};

use fault_proxy::{Fate, Proxy};
use git_http::{Canned, GitHttp, Options as Http, StaticHttp};
use local_git::{Repo, assert_same_repository};
use mirror_git_to_s3::git::refs::RefFilter;
use mirror_git_to_s3::http::Client;
use mirror_git_to_s3::mirror::{Layout, Options, Status, mirror};
use mirror_git_to_s3::progress::Silent;
use mirror_git_to_s3::source::auth::Auth;
use mirror_git_to_s3::source::smart_http::SmartHttp;
use mirror_git_to_s3::store::Store;
use mirror_git_to_s3::store::dir::DirStore;

fn noise(random: &mut fastrand::Rng, len: usize) -> Vec<u8> {
    std::iter::repeat_with(|| random.u8(..)).take(len).collect()
}

/// Some 400 kB that do not compress, a bundle of them, and then a little more.
struct Fixture {
    repo: Repo,
    web: tempfile::TempDir,
    bundle: PathBuf,
}

impl Fixture {
    fn new() -> Self {
        let (repo, web) = (Repo::new(), tempfile::tempdir().unwrap());
        let mut random = fastrand::Rng::with_seed(1);
        for number in 0..50 {
            let name = format!("f{number}");
            repo.commit("refs/heads/main", &[(&name, &noise(&mut random, 8192))]);
        }
        repo.git(&["tag", "-a", "-m", "annotated", "v1", "refs/heads/main~20"]);
        repo.git(&["symbolic-ref", "HEAD", "refs/heads/main"]);
        let bundle = web.path().join("all.bundle");
        make_bundle(&repo, &bundle, &["--all", "HEAD"]);
        repo.commit("refs/heads/main", &[("later", b"later")]);
        repo.git(&["update-ref", "refs/heads/old", "refs/heads/main~10"]);
        Fixture { repo, web, bundle }
    }

    /// Lets `git http-backend` say where the bundle is.
    fn advertise(&self, uri: &str) {
        for (name, value) in [
            ("uploadpack.advertiseBundleURIs", "true"),
            ("bundle.version", "1"),
            ("bundle.mode", "all"),
            ("bundle.one.uri", uri),
        ] {
            self.repo.git(&["config", name, value]);
        }
    }

    fn bundle_bytes(&self) -> Vec<u8> {
        std::fs::read(&self.bundle).unwrap()
    }
}

fn make_bundle(repo: &Repo, path: &Path, what: &[&str]) {
    let mut git = local_git::git(repo.path());
    git.args(["bundle", "create", "-q"]).arg(path).args(what);
    local_git::run(&mut git, b"");
}

fn source(server: &GitHttp) -> SmartHttp {
    let client = Client::with_environment(&Default::default(), &Default::default()).unwrap();
    SmartHttp::new(&format!("{}/", server.url()), client, Auth::none()).unwrap()
}

fn pack() -> Options {
    Options { layout: Layout::Pack, ..Options::default() }
}

/// Mirrors into a new directory, and checks that it is the same repository.
fn first_run(fixture: &Fixture, source: &SmartHttp, options: &Options) -> usize {
    let target = tempfile::tempdir().unwrap();
    let store = DirStore::new(target.path()).unwrap();
    let summary = mirror(source, &store, options, &Silent).unwrap();
    assert_eq!(summary.status, Status::Ok);
    // None comes twice.
    assert_eq!(summary.objects_written, fixture.repo.objects().len() as u64);
    assert_same_repository(fixture.repo.path(), target.path());
    assert!(store.list("mirror_state/slices", None).unwrap().objects.is_empty());
    assert!(store.list("mirror_tmp/", None).unwrap().objects.is_empty());
    let packs = store.list("objects/pack/", None).unwrap().objects.len() / 2;
    assert_eq!(mirror(source, &store, options, &Silent).unwrap().status, Status::Unchanged);
    packs
}

fn posts(server: &GitHttp) -> usize {
    server.seen().iter().filter(|seen| seen.method == "POST").count()
}

#[test]
fn bundle_that_the_server_advertises_comes_first_and_an_increment_follows() {
    let fixture = Fixture::new();
    let web = StaticHttp::start(fixture.web.path());
    fixture.advertise(&format!("{}/all.bundle", web.url()));
    let server = GitHttp::start(fixture.repo.path(), Http::default());
    let source = source(&server).with_redirect_other_host(true);
    let packs = first_run(&fixture, &source, &pack());
    assert_eq!(packs, 2, "the bundle's and the increment's");
    assert!(web.requests() >= 1);
    assert_eq!(posts(&server), 4, "refs, bundles, a pack; the second run asks for refs alone");
}

#[test]
fn broken_bundle_is_read_on_where_it_broke() {
    let fixture = Fixture::new();
    let web = StaticHttp::start(fixture.web.path());
    // Half of what was asked for, three times.
    let proxy = Proxy::start(&web.url(), |_, number| match number {
        0..3 => Fate::Truncate,
        3 => Fate::Status(503, None),
        _ => Fate::Pass,
    });
    fixture.advertise(&format!("{}/all.bundle", proxy.url));
    let server = GitHttp::start(fixture.repo.path(), Http::default());
    let source = source(&server).with_redirect_other_host(true);
    let packs = first_run(&fixture, &source, &pack());
    assert_eq!(packs, 2);
    let ranges: Vec<String> =
        web.seen().iter().filter_map(|seen| seen.header("range").map(str::to_owned)).collect();
    assert!(ranges.len() >= 3, "{ranges:?}");
    let begins = |range: &String| range[6..range.len() - 1].parse::<u64>().unwrap();
    assert!(ranges.iter().map(begins).is_sorted() && begins(&ranges[0]) > 100_000, "{ranges:?}");
}

#[test]
fn bundle_on_another_host_needs_the_users_word() {
    let fixture = Fixture::new();
    let web = StaticHttp::start(fixture.web.path());
    fixture.advertise(&format!("{}/all.bundle", web.url()));
    let server = GitHttp::start(fixture.repo.path(), Http::default());
    let packs = first_run(&fixture, &source(&server), &pack());
    assert_eq!((packs, web.requests()), (1, 0));
}

#[test]
fn login_of_the_source_never_reaches_the_host_of_a_bundle() {
    let fixture = Fixture::new();
    let web = StaticHttp::start(fixture.web.path());
    fixture.advertise(&format!("{}/all.bundle", web.url()));
    let login = ("me".to_owned(), "hush".to_owned());
    let options = Http { basic_auth: Some(login), ..Http::default() };
    let server = GitHttp::start(fixture.repo.path(), options);
    let client = Client::with_environment(&Default::default(), &Default::default()).unwrap();
    let url = format!("{}/", server.url()).replacen("://", "://me:hush@", 1);
    let source = SmartHttp::new(&url, client, Auth::none()).unwrap().with_redirect_other_host(true);
    let packs = first_run(&fixture, &source, &pack());
    assert_eq!(packs, 2);
    assert!(web.seen().iter().all(|seen| seen.header("authorization").is_none()));
    assert!(web.requests() > 0);
}

#[test]
fn clone_bundle_beside_the_repository_is_found_without_being_named() {
    let fixture = Fixture::new();
    let canned = Canned::new("clone.bundle", 200, "text/plain", fixture.bundle_bytes());
    let server =
        GitHttp::start(fixture.repo.path(), Http { canned: vec![canned], ..Http::default() });
    let packs = first_run(&fixture, &source(&server), &pack());
    assert_eq!(packs, 2);
}

#[test]
fn what_is_no_whole_bundle_is_left_and_the_run_is_as_without() {
    let fixture = Fixture::new();
    let thin = fixture.web.path().join("thin.bundle");
    make_bundle(&fixture.repo, &thin, &["main", "^main~5"]);
    let mut damaged = fixture.bundle_bytes();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    for (status, body) in [
        (404, b"".to_vec()),
        (401, b"".to_vec()),
        (500, b"".to_vec()),
        (200, b"<html>welcome</html>".to_vec()),
        (200, b"".to_vec()),
        (200, std::fs::read(&thin).unwrap()),
        (200, damaged),
        (200, b"# v3 git bundle\n@object-format=sha256\n\n".to_vec()),
        (302, b"".to_vec()),
    ] {
        let mut canned = Canned::new("clone.bundle", status, "text/html", body.clone());
        if status == 302 {
            canned.headers.push(("Location".into(), "http://127.0.0.1:1/x".into()));
        }
        let server =
            GitHttp::start(fixture.repo.path(), Http { canned: vec![canned], ..Http::default() });
        let packs = first_run(&fixture, &source(&server), &pack());
        assert_eq!(packs, 1, "{status} {}", body.len());
    }
}

/// A bundle has all refs, an increment and the loose layout need none.
#[test]
fn bundle_is_not_asked_for_where_it_does_not_help() {
    let fixture = Fixture::new();
    let filter = RefFilter::new(&["refs/heads/*".to_owned()], &[]).unwrap();
    for options in [
        Options { bundle_uri: false, ..pack() },
        Options { refs: filter, ..pack() },
        Options { layout: Layout::Loose, ..Options::default() },
    ] {
        let canned = Canned::new("clone.bundle", 200, "text/plain", fixture.bundle_bytes());
        let server =
            GitHttp::start(fixture.repo.path(), Http { canned: vec![canned], ..Http::default() });
        let target = tempfile::tempdir().unwrap();
        let store = DirStore::new(target.path()).unwrap();
        mirror(&source(&server), &store, &options, &Silent).unwrap();
        assert!(server.seen().iter().all(|seen| !seen.target.contains("bundle")));
    }
}
