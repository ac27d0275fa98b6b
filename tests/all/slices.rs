//! A first run that a proxy or a line cuts, again and again: it arrives in slices, and a run that was
//! ended in between continues where it was.

use crate::support::{git_http, local_git};
use git_http::{GitHttp, Options as Http};
use local_git::{Repo, assert_same_repository};
use mirror_git_to_s3::http::Client;
use mirror_git_to_s3::mirror::{Layout, MirrorError, Options, Status, Summary, mirror};
use mirror_git_to_s3::progress::Silent;
use mirror_git_to_s3::source::auth::Auth;
use mirror_git_to_s3::source::smart_http::SmartHttp;
use mirror_git_to_s3::store::Store;
use mirror_git_to_s3::store::dir::DirStore;
use mirror_git_to_s3::store::memory::{Fault, MemoryStore, Operation};

/// What a connection lasts for, in bytes of an answer.
const PATIENCE: usize = 150_000;

fn source(server: &GitHttp) -> SmartHttp {
    let client = Client::with_environment(&Default::default(), &Default::default()).unwrap();
    SmartHttp::new(&format!("{}/", server.url()), client, Auth::none()).unwrap()
}

fn cut() -> Http {
    Http { cut_post_after: Some(PATIENCE), ..Http::default() }
}

fn pack() -> Options {
    Options { layout: Layout::Pack, ..Options::default() }
}

fn run(server: &GitHttp, store: &dyn Store, options: &Options) -> Result<Summary, MirrorError> {
    mirror(&source(server), store, options, &Silent)
}

/// 300 commits with a file of 2 KiB that does not compress, a merge, branches, tags, a ref at an
/// older commit: some 700 kB.
fn repo() -> Repo {
    let repo = Repo::new();
    let mut random = fastrand::Rng::with_seed(1);
    let mut noise =
        |len: usize| -> Vec<u8> { std::iter::repeat_with(|| random.u8(..)).take(len).collect() };
    for number in 0..150 {
        let name = format!("f{}", number % 10);
        repo.commit("refs/heads/main", &[(&name, &noise(2048)), ("same", b"same")]);
    }
    repo.git(&["tag", "old", "refs/heads/main~70"]);
    repo.git(&["tag", "-a", "-m", "annotated", "v1", "refs/heads/main~20"]);
    repo.git(&["update-ref", "refs/heads/side", "refs/heads/main~50"]);
    for _ in 0..30 {
        repo.commit("refs/heads/side", &[("side", &noise(2048))]);
    }
    let tips = [repo.rev("refs/heads/main").unwrap(), repo.rev("refs/heads/side").unwrap()];
    let merge = repo.commit_with_parents(&[&tips[0], &tips[1]], &[("merged", b"merged")]);
    repo.git(&["update-ref", "refs/heads/main", &merge]);
    for _ in 0..120 {
        repo.commit("refs/heads/main", &[("later", &noise(2048))]);
    }
    repo.git(&["update-ref", "refs/heads/apart", "refs/heads/main~200"]);
    for _ in 0..10 {
        repo.commit("refs/heads/apart", &[("apart", &noise(2048))]);
    }
    repo.git(&["symbolic-ref", "HEAD", "refs/heads/main"]);
    repo
}

#[test]
fn repository_that_is_longer_than_any_connection_lasts_arrives_in_slices() {
    let repo = repo();
    let server = GitHttp::start(repo.path(), cut());
    let target = tempfile::tempdir().unwrap();
    let store = DirStore::new(target.path()).unwrap();
    let summary = run(&server, &store, &pack()).unwrap();
    assert_eq!(summary.status, Status::Ok);
    assert_same_repository(repo.path(), target.path());
    let left = |folder: &str| store.list(folder, None).unwrap().objects.len();
    assert_eq!((left("mirror_tmp/"), left("mirror_state/slices")), (0, 0));
    assert!(left("objects/pack/") >= 10, "{} files of packs", left("objects/pack/"));
    // And then it is a mirror like others.
    assert_eq!(run(&server, &store, &pack()).unwrap().status, Status::Unchanged);
    repo.commit("refs/heads/main", &[("new", b"new")]);
    assert_eq!(run(&server, &store, &pack()).unwrap().objects_written, 3);
    assert_same_repository(repo.path(), target.path());
}

#[test]
fn slices_are_fetched_from_the_start_if_asked_for() {
    let repo = repo();
    let server = GitHttp::start(repo.path(), Http::default());
    let target = tempfile::tempdir().unwrap();
    let store = DirStore::new(target.path()).unwrap();
    run(&server, &store, &Options { slices: true, ..pack() }).unwrap();
    assert_same_repository(repo.path(), target.path());
    let packs = store.list("objects/pack/", None).unwrap().objects.len();
    assert!(packs >= 4, "{packs} files of packs");
}

/// A slice that is cut from history at its lower end would bring what has not changed since: here more
/// than a connection lasts for, and of curl's history 5 MB each.
#[test]
fn what_does_not_change_comes_once() {
    let repo = Repo::new();
    let mut random = fastrand::Rng::with_seed(2);
    let mut noise =
        |len: usize| -> Vec<u8> { std::iter::repeat_with(|| random.u8(..)).take(len).collect() };
    let old = noise(100_000);
    for _ in 0..150 {
        repo.commit("refs/heads/main", &[("old", &old), ("new", &noise(2048))]);
    }
    repo.git(&["symbolic-ref", "HEAD", "refs/heads/main"]);
    let server = GitHttp::start(repo.path(), cut());
    let target = tempfile::tempdir().unwrap();
    let store = DirStore::new(target.path()).unwrap();
    let summary = run(&server, &store, &pack()).unwrap();
    assert_same_repository(repo.path(), target.path());
    assert_eq!(summary.objects_written, repo.objects().len() as u64);
    let packs = store.list("objects/pack/", None).unwrap().objects.len() / 2;
    assert!(packs >= 3, "{packs} packs");
}

/// Whatever ends a run, the next one needs only the rest.
#[test]
fn run_that_ends_in_between_goes_on_where_it_was() {
    let repo = repo();
    let server = GitHttp::start(repo.path(), cut());
    for broken in [2, 4] {
        let store = MemoryStore::new();
        // The index is the last that is stored of a slice.
        let fault = Fault::new(mirror_git_to_s3::store::StoreErrorKind::Other);
        store.inject(fault.on(Operation::Put).key(|key| key.ends_with(".idx")).nth(broken));
        run(&server, &store, &pack()).unwrap_err();
        store.clear_faults();
        assert!(store.bytes("info/refs").is_none());
        assert_eq!(store.open_uploads(), 0);
        let had = store.keys().iter().filter(|key| key.ends_with(".idx")).count();
        assert_eq!(had as u64, broken - 1);
        let before = store.bytes("objects/info/packs").unwrap().to_vec();
        let summary = run(&server, &store, &pack()).unwrap();
        assert_eq!(summary.status, Status::Ok);
        let after = store.bytes("objects/info/packs").unwrap().to_vec();
        assert!(after.starts_with(before.trim_ascii_end()), "what was there is kept");
        assert!(store.bytes("mirror_state/slices.json").is_none());
        let dir = tempfile::tempdir().unwrap();
        let copy = DirStore::new(dir.path()).unwrap();
        for key in store.keys() {
            let key = mirror_git_to_s3::store::Key::new(key).unwrap();
            let headers = mirror_git_to_s3::store::ObjectHeaders::changing("text/plain");
            copy.put(&key, &store.bytes(key.as_str()).unwrap(), headers, None).unwrap();
        }
        let mirror_again = run(&server, &copy, &pack()).unwrap();
        assert_eq!(mirror_again.status, Status::Unchanged);
        let verified = std::process::Command::new(env!("CARGO_BIN_EXE_mirror-git-to-s3"))
            .args(["verify", "--target", &format!("file://{}", dir.path().display())])
            .output()
            .unwrap();
        assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
    }
}

#[test]
fn server_of_version_0_sends_no_slices_and_nothing_is_published() {
    let repo = repo();
    let server = GitHttp::start(repo.path(), Http { only_v0: true, ..cut() });
    let store = MemoryStore::new();
    assert!(matches!(run(&server, &store, &pack()), Err(MirrorError::Source(_))));
    assert!(store.bytes("info/refs").is_none());
    assert_eq!(store.open_uploads(), 0);
    assert!(!store.keys().iter().any(|key| key.starts_with("mirror_tmp/")), "{:?}", store.keys());
}

local_git::also_with_sha256! {
    repository_that_is_longer_than_any_connection_lasts_arrives_in_slices,
}
