//! Bundles beside the packs: stock git begins a clone with them, they follow increments and
//! compactions, and whatever fails leaves them right.

use crate::support::{git_http, hooked_store, local_git};
use std::path::{Path, PathBuf};
use std::time::Duration;

use git_http::StaticHttp;
use hooked_store::dump;
use local_git::{LocalGit, Repo, all_refs, assert_same_repository, git, run};
use mirror_git_to_s3::maintain::gc::{GcOptions, gc};
use mirror_git_to_s3::maintain::verify::{VerifyOptions, verify};
use mirror_git_to_s3::mirror::{Layout, MirrorError, Options, Summary, mirror};
use mirror_git_to_s3::progress::Silent;
use mirror_git_to_s3::repair::repair;
use mirror_git_to_s3::source::bundle::Bundle;
use mirror_git_to_s3::store::memory::{Fault, MemoryStore, Operation};
use mirror_git_to_s3::store::{Key, Limits, ObjectHeaders, Store, StoreErrorKind};
use tempfile::TempDir;

/// Bytes that don't compress.
fn noise(seed: u32, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as u8
    };
    std::iter::repeat_with(next).take(len).collect()
}

fn commit(repo: &Repo, branch: &str, number: u32) {
    let (name, content) = (format!("f{}", number % 7), noise(number, 400));
    repo.commit(branch, &[(&name, &content)]);
}

fn repo() -> Repo {
    let repo = Repo::new();
    (0..30).for_each(|number| commit(&repo, "refs/heads/main", number));
    repo.git(&["tag", "-a", "-m", "v1", "v1", "refs/heads/main~3"]);
    repo
}

fn options(max_packs: usize) -> Options {
    Options { bundle: true, layout: Layout::Pack, max_packs, ..Options::default() }
}

fn mirrored(repo: &Repo, store: &dyn Store, options: &Options) -> Result<Summary, MirrorError> {
    mirror(&LocalGit::new(repo.path()), store, options, &Silent)
}

fn put(store: &MemoryStore, key: &str, bytes: &[u8]) {
    let headers = ObjectHeaders::changing("application/octet-stream");
    store.put(&Key::new(key).unwrap(), bytes, headers, None).unwrap();
}

fn copy_of(store: &MemoryStore) -> MemoryStore {
    let copy = MemoryStore::new();
    store.snapshot().into_iter().for_each(|(key, object)| put(&copy, &key, &object.bytes));
    copy.clear_recorded();
    copy
}

fn text(store: &MemoryStore, key: &str) -> String {
    String::from_utf8(store.bytes(key).unwrap_or_else(|| panic!("no {key}")).to_vec()).unwrap()
}

/// The keys that the list names.
fn listed(store: &MemoryStore) -> Vec<String> {
    let list = text(store, "bundle-list");
    list.lines().filter_map(|line| Some(line.strip_prefix("\turi = ")?.to_owned())).collect()
}

fn assert_sound(store: &MemoryStore) {
    let report = verify(store, &VerifyOptions::default()).unwrap();
    assert!(report.is_sound(), "{:?}", report.findings);
}

/// The files of the mirror on disk, served over HTTP.
struct Served {
    files: TempDir,
    server: StaticHttp,
}

impl Served {
    fn new(store: &MemoryStore) -> Self {
        let files = tempfile::tempdir().unwrap();
        assert!(dump(store, files.path()));
        let server = StaticHttp::start(files.path());
        Served { files, server }
    }

    fn asked(&self) -> Vec<String> {
        self.server.seen().into_iter().map(|seen| seen.target).collect()
    }
}

/// Clones with stock git by way of the list; answers the clone.
fn clone_by_list(served: &Served, to: &Path) -> PathBuf {
    let (url, clone) = (served.server.url(), to.join("clone"));
    let list = format!("--bundle-uri={url}/bundle-list");
    run(git(to).args(["clone", "-q", "--mirror", &list, &url, "clone"]), b"");
    run(git(&clone).args(["fsck", "--full", "--strict"]), b"");
    without_refs_of_bundles(&clone);
    clone
}

/// git keeps the refs of bundles beside those of the remote.
fn without_refs_of_bundles(clone: &Path) {
    let refs = String::from_utf8(run(
        git(clone).args(["for-each-ref", "--format=delete %(refname)", "refs/bundles"]),
        b"",
    ))
    .unwrap();
    assert!(!refs.is_empty(), "no bundle was used");
    run(git(clone).args(["update-ref", "--stdin"]), refs.as_bytes());
}

/// All objects of the repository are in the bundles of the list.
fn assert_bundles_have_all(repo: &Repo, store: &MemoryStore) {
    let files = tempfile::tempdir().unwrap();
    assert!(dump(store, files.path()));
    let target = Repo::new();
    for (at, key) in listed(store).iter().enumerate() {
        let bundle = files.path().join(key);
        let bundle = bundle.to_str().unwrap();
        // git itself finds the prerequisites, with all that they reach.
        let refspec = format!("+refs/*:refs/b{at}/*");
        target.git(&["bundle", "verify", "-q", bundle]);
        target.git(&["-c", "transfer.fsckObjects=true", "fetch", "-q", bundle, &refspec]);
    }
    for line in repo.refs().lines() {
        let oid = line.split(' ').next().unwrap();
        target.git(&["rev-list", "--objects", "--quiet", oid]);
    }
    target.git(&["fsck", "--full", "--strict"]);
}

#[test]
fn stock_git_clones_by_the_list_and_asks_for_little_else() {
    let (repo, store) = (repo(), MemoryStore::new());
    mirrored(&repo, &store, &options(20)).unwrap();
    commit(&repo, "refs/heads/main", 100);
    commit(&repo, "refs/heads/side", 101);
    mirrored(&repo, &store, &options(20)).unwrap();
    assert_eq!(listed(&store).len(), 2);
    assert_eq!(listed(&store)[0], "clone.bundle");
    assert_sound(&store);
    assert_bundles_have_all(&repo, &store);
    let (served, to) = (Served::new(&store), tempfile::tempdir().unwrap());
    let clone = clone_by_list(&served, to.path());
    assert_same_repository(repo.path(), &clone);
    let asked = served.asked();
    assert!(!asked.iter().any(|path| path.ends_with(".pack")), "{asked:?}");
    assert!(asked.iter().filter(|path| path.ends_with(".bundle")).count() == 2, "{asked:?}");
}

/// Android's `repo` fetches `clone.bundle`, and so may anybody with curl.
#[test]
fn whole_bundle_is_one_that_git_clones_from() {
    let (repo, store) = (repo(), MemoryStore::new());
    mirrored(&repo, &store, &options(20)).unwrap();
    let served = Served::new(&store);
    let bundle = served.files.path().join("clone.bundle");
    let to = tempfile::tempdir().unwrap();
    run(git(to.path()).args(["clone", "-q", "--mirror", bundle.to_str().unwrap(), "c"]), b"");
    let clone = to.path().join("c");
    assert_eq!(all_refs(&clone), all_refs(repo.path()));
    run(git(&clone).args(["fsck", "--full", "--strict"]), b"");
}

/// The list as an accelerator for the source itself.
#[test]
fn list_serves_clones_of_the_source() {
    let (repo, store) = (repo(), MemoryStore::new());
    mirrored(&repo, &store, &options(20)).unwrap();
    commit(&repo, "refs/heads/main", 100);
    let source = git_http::GitHttp::start(repo.path(), git_http::Options::default());
    let (served, to) = (Served::new(&store), tempfile::tempdir().unwrap());
    let list = format!("--bundle-uri={}/bundle-list", served.server.url());
    let url = format!("{}/", source.url());
    run(git(to.path()).args(["clone", "-q", "--mirror", &list, &url, "c"]), b"");
    assert!(served.asked().iter().any(|path| path.ends_with("clone.bundle")));
    without_refs_of_bundles(&to.path().join("c"));
    assert_same_repository(repo.path(), &to.path().join("c"));
}

#[test]
fn increments_and_compactions_keep_the_bundles_right() {
    let (repo, store) = (repo(), MemoryStore::new());
    let options = options(4);
    for round in 0..14_u32 {
        let branch = if round % 3 == 0 { "refs/heads/side" } else { "refs/heads/main" };
        match round {
            // Nothing to fetch, and a branch that starts from what no branch has now.
            5 => drop(repo.git(&["update-ref", "refs/heads/old", "refs/heads/main~2"])),
            7 => {
                repo.git(&["tag", "kept", "refs/heads/side"]);
                repo.git(&["update-ref", "refs/heads/side", "refs/heads/main"]);
            }
            8 => drop(repo.git(&["update-ref", "refs/heads/again", "refs/tags/kept"])),
            9 => commit(&repo, "refs/heads/again", 900),
            _ => commit(&repo, branch, 200 + round),
        }
        mirrored(&repo, &store, &options).unwrap();
        assert!(listed(&store).len() <= 4, "{:?}", listed(&store));
        assert_sound(&store);
        assert_bundles_have_all(&repo, &store);
        let tokens: Vec<u64> = text(&store, "bundle-list")
            .lines()
            .filter_map(|line| line.strip_prefix("\tcreationToken = ")?.parse().ok())
            .collect();
        assert!(tokens.is_sorted() && tokens.len() == listed(&store).len(), "{tokens:?}");
    }
    let (served, to) = (Served::new(&store), tempfile::tempdir().unwrap());
    let clone = clone_by_list(&served, to.path());
    assert_same_repository(repo.path(), &clone);
}

#[test]
fn run_with_nothing_new_costs_no_more_than_without_bundles() {
    let (repo, store) = (repo(), MemoryStore::new());
    mirrored(&repo, &store, &options(20)).unwrap();
    assert_eq!(mirrored(&repo, &store, &options(20)).unwrap().store_requests, 3);
}

#[test]
fn bundles_begin_on_a_mirror_that_has_none() {
    for layout in [Layout::Loose, Layout::Pack] {
        let (repo, store) = (repo(), MemoryStore::new());
        for round in 0..3 {
            let before = Options { layout, ..Options::default() };
            mirrored(&repo, &store, &before).unwrap();
            commit(&repo, "refs/heads/main", 50 + round);
        }
        // With news, then without.
        for _ in 0..2 {
            mirrored(&repo, &store, &options(20)).unwrap();
            assert_eq!(listed(&store), ["clone.bundle"], "{layout:?}");
            assert_bundles_have_all(&repo, &store);
            assert_sound(&store);
        }
        // Runs without bundles in between: the chain is broken, and begins anew.
        commit(&repo, "refs/heads/main", 60);
        mirrored(&repo, &store, &Options { bundle: false, ..options(20) }).unwrap();
        assert_sound(&store);
        mirrored(&repo, &store, &options(20)).unwrap();
        assert_eq!(listed(&store), ["clone.bundle"], "{layout:?}");
        assert_bundles_have_all(&repo, &store);
    }
}

#[test]
fn increment_that_needs_nothing_begins_the_bundles_anew() {
    // From bundles that have everything.
    let (repo, store, folder) = (repo(), MemoryStore::new(), tempfile::tempdir().unwrap());
    for round in 0..3 {
        commit(&repo, "refs/heads/main", 70 + round);
        let path = folder.path().join("a.bundle");
        repo.git(&["bundle", "create", "-q", path.to_str().unwrap(), "--all"]);
        mirror(&Bundle::file(path), &store, &options(20), &Silent).unwrap();
        assert_eq!(listed(&store), ["clone.bundle"]);
        assert_sound(&store);
        assert_bundles_have_all(&repo, &store);
    }
    // From a history of its own, which has a file that was published by a tag.
    let (repo, store) = (Repo::new(), MemoryStore::new());
    let file: &[(&str, &[u8])] = &[("file", b"content")];
    let tagged = repo.commit_with_parents(&[], file);
    repo.git(&["update-ref", "refs/tags/v1", &tagged]);
    mirrored(&repo, &store, &options(20)).unwrap();
    repo.commit("refs/heads/main", &[file[0], ("other", b"more")]);
    mirrored(&repo, &store, &options(20)).unwrap();
    assert_eq!(listed(&store), ["clone.bundle"]);
    assert_sound(&store);
    assert_bundles_have_all(&repo, &store);
}

/// A large pack is copied by the store behind a first part.
#[test]
fn large_pack_is_copied_by_the_store() {
    let repo = Repo::new();
    repo.commit("refs/heads/main", &[("large", &noise(1, 20 << 20))]);
    let s3 = Limits { min_part_bytes: 5 << 20, max_copy_bytes: 6 << 20, ..Limits::S3 };
    let store = MemoryStore::new().with_limits(s3);
    let memory_bytes = 16 << 20;
    mirrored(&repo, &store, &Options { memory_bytes, ..options(20) }).unwrap();
    assert_bundles_have_all(&repo, &store);
    assert_sound(&store);
    let of_bundle = |operation| {
        let recorded = store.recorded();
        recorded.iter().filter(|r| r.operation == operation && r.key() == "clone.bundle").count()
    };
    assert_eq!((of_bundle(Operation::PutPart), of_bundle(Operation::CopyPart)), (1, 3));
    assert_eq!(store.open_uploads(), 0);
}

#[test]
fn nothing_is_lost_whatever_request_fails() {
    let repo = repo();
    let first = MemoryStore::new();
    let options = options(2);
    mirrored(&repo, &first, &options).unwrap();
    commit(&repo, "refs/heads/main", 70);
    mirrored(&repo, &first, &options).unwrap();
    commit(&repo, "refs/heads/main", 71);
    let whole = copy_of(&first);
    mirrored(&repo, &whole, &options).unwrap();
    assert_eq!(listed(&whole).len(), 2, "merged");
    let requests = whole.recorded().len();
    assert!(requests > 40);
    for at in 1..=requests as u64 {
        for after_effect in [false, true] {
            let store = copy_of(&first);
            let fault = Fault::new(StoreErrorKind::Other).nth(at);
            store.inject(if after_effect { fault.after_effect() } else { fault });
            let _ = mirrored(&repo, &store, &options);
            store.clear_faults();
            // Whatever is listed is right, and the next run completes it.
            let findings = verify(&store, &VerifyOptions::default()).unwrap().findings;
            assert!(!findings.iter().any(|f| f.key.contains("bundle")), "{at}: {findings:?}");
            mirrored(&repo, &store, &options).unwrap();
            assert_sound(&store);
            assert_bundles_have_all(&repo, &store);
        }
    }
}

fn age(store: &MemoryStore, hours: u64) {
    for (key, object) in store.snapshot() {
        store.set_last_modified(&key, object.last_modified - Duration::from_secs(hours * 3600));
    }
}

#[test]
fn gc_deletes_a_bundle_with_its_pack_and_no_other() {
    let (repo, store) = (repo(), MemoryStore::new());
    let options = options(3);
    for round in 0..4 {
        commit(&repo, "refs/heads/main", 80 + round);
        mirrored(&repo, &store, &options).unwrap();
    }
    let bundles = || store.keys().into_iter().filter(|key| key.ends_with(".bundle")).count();
    let before = bundles();
    assert!(before > listed(&store).len(), "some were merged");
    let collected = |settle| gc(&store, &GcOptions { settle, ..GcOptions::default() }, &|_| {});
    assert_eq!(collected(Duration::ZERO).unwrap().bundles, 0, "their packs are young");
    age(&store, 25);
    let summary = collected(Duration::ZERO).unwrap();
    assert_eq!(summary.bundles as usize, before - bundles());
    assert_eq!(bundles(), listed(&store).len());
    assert_sound(&store);
    assert_bundles_have_all(&repo, &store);
}

#[test]
fn damage_is_found_and_repaired() {
    let repo = repo();
    let sound = MemoryStore::new();
    mirrored(&repo, &sound, &options(20)).unwrap();
    commit(&repo, "refs/heads/main", 90);
    mirrored(&repo, &sound, &options(20)).unwrap();
    let increment = listed(&sound)[1].clone();
    let (other, foreign) = (Repo::new(), MemoryStore::new());
    commit(&other, "refs/heads/main", 1000);
    mirrored(&other, &foreign, &options(20)).unwrap();
    for key in ["clone.bundle", &increment, "bundle-list"] {
        let bytes = sound.bytes(key).unwrap();
        let mut flipped = bytes.to_vec();
        *flipped.iter_mut().rev().nth(40).unwrap() ^= 0x21;
        let cut = bytes[..bytes.len() - 1].to_vec();
        let another = b"# v2 git bundle\n\nPACK".to_vec();
        let mut damages = vec![Some(flipped), Some(cut), Some(Vec::new()), Some(another), None];
        // Sound, but not of this mirror.
        let of_the_other = foreign.bytes(key).map(|bytes| bytes.to_vec());
        damages.extend(of_the_other.clone().map(Some));
        for damaged in damages {
            let store = copy_of(&sound);
            match &damaged {
                Some(bytes) => put(&store, key, bytes),
                None => store.delete(&[Key::new(key).unwrap()]).unwrap(),
            }
            let report = verify(&store, &VerifyOptions::default()).unwrap();
            let keys: Vec<_> = report.findings.iter().map(|finding| &finding.key).collect();
            assert_eq!(keys, [key], "{:?}", report.findings);
            if damaged.is_none() || damaged == of_the_other {
                let quick = VerifyOptions { quick: true, ..VerifyOptions::default() };
                let report = verify(&store, &quick).unwrap();
                assert_eq!(Vec::from_iter(report.damaged), [key], "quick");
            }
            let verifying = VerifyOptions::default();
            let report = repair(None, &store, &verifying, &Options::default(), &Silent).unwrap();
            assert_eq!(report.mended, [key]);
            assert_sound(&store);
            for gone in ["bundle-list", "clone.bundle", key] {
                assert_eq!(store.bytes(gone), None, "{gone} is left, though {key} was damaged");
            }
            mirrored(&repo, &store, &options(20)).unwrap();
            assert_bundles_have_all(&repo, &store);
            assert_sound(&store);
        }
    }
}

local_git::also_with_sha256! {
    stock_git_clones_by_the_list_and_asks_for_little_else,
    whole_bundle_is_one_that_git_clones_from,
    increments_and_compactions_keep_the_bundles_right,
    large_pack_is_copied_by_the_store,
    damage_is_found_and_repaired,
}
