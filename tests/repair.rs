//! Repair: every kind of file in the bucket, damaged in every way, is named by `verify` and mended by
//! `repair`, wherever it is killed.

#[path = "support/git_http.rs"]
mod git_http;
#[path = "support/hooked_store.rs"]
mod hooked_store;
#[path = "support/lfs_server.rs"]
mod lfs_server;
#[path = "support/local_git.rs"]
mod local_git;

use std::io::Read;

use git_http::StaticHttp;
use lfs_server::{LfsServer, pointer};
use local_git::{LocalGit, Repo, assert_same_repository, git, run};
use mirror_git_to_s3::git::object::Oid;
use mirror_git_to_s3::git::refs::Advertisement;
use mirror_git_to_s3::http::Client;
use mirror_git_to_s3::maintain::verify::{VerifyOptions, verify};
use mirror_git_to_s3::mirror::{Layout, MirrorError, Options, mirror};
use mirror_git_to_s3::progress::Silent;
use mirror_git_to_s3::repair::{Mirroring, RepairReport, repair};
use mirror_git_to_s3::source::auth::{Auth, Credentials};
use mirror_git_to_s3::source::{LfsSource, Source, SourceError, lfs};
use mirror_git_to_s3::store::memory::{Fault, MemoryStore, Operation};
use mirror_git_to_s3::store::{Key, ObjectHeaders, Store, StoreErrorKind};
use url::Url;

const LARGE_FILE: &[u8] = b"a file that git-lfs keeps";

/// A local repository whose LFS objects are on `server`.
struct WithLfs<'a>(LocalGit, &'a LfsServer);

impl Source for WithLfs<'_> {
    fn describe(&self) -> String {
        self.0.describe()
    }
    fn advertisement(&self) -> Result<Advertisement, SourceError> {
        self.0.advertisement()
    }
    fn fetch<'a>(
        &'a self,
        wants: &[Oid],
        haves: &[Oid],
        words: Box<dyn FnMut(&str) + Send + 'a>,
    ) -> Result<Box<dyn Read + Send + 'a>, SourceError> {
        self.0.fetch(wants, haves, words)
    }
    fn lfs(&self, _: Option<&[u8]>) -> Option<Box<dyn LfsSource + '_>> {
        let mut url = Url::parse(&self.1.url()).unwrap();
        url.set_username("user").unwrap();
        url.set_password(Some("word")).unwrap();
        let credentials = Credentials::take_from(&mut url, &Auth::none());
        let client = Client::with_environment(&Default::default(), &Default::default()).unwrap();
        Some(Box::new(lfs::LfsServer::new(url, client, credentials)))
    }
    fn requests(&self) -> u64 {
        self.0.requests()
    }
}

/// A source with every kind of object, and its mirror.
struct World {
    repo: Repo,
    lfs: LfsServer,
}

impl World {
    fn new() -> World {
        let (repo, lfs) = (Repo::new(), LfsServer::start(lfs_server::Options::default()));
        lfs.add(LARGE_FILE);
        let pointer = pointer(LARGE_FILE);
        let mut text = String::new();
        for round in 0..8 {
            text += &format!("line {round} of a file that grows, so that deltas are worth it\n");
            let files: [(&str, &[u8]); 3] = [
                (".gitattributes", b"*.bin filter=lfs\n"),
                ("a.bin", pointer.as_bytes()),
                ("grows", text.as_bytes()),
            ];
            repo.commit("refs/heads/main", &files);
        }
        repo.git(&["tag", "-a", "-m", "annotated", "v1", "main~2"]);
        World { repo, lfs }
    }

    fn source(&self) -> WithLfs<'_> {
        WithLfs(LocalGit::new(self.repo.path()), &self.lfs)
    }

    fn mirrored(&self, layout: Layout) -> MemoryStore {
        let store = MemoryStore::new();
        let options = Options { layout, ..Options::default() };
        mirror(&self.source(), &store, &options, &Silent).unwrap();
        assert!(verify(&store, &verifying()).unwrap().is_sound());
        store
    }

    fn repair(&self, store: &dyn Store) -> Result<RepairReport, MirrorError> {
        let options = Options { concurrency: 4, ..Options::default() };
        let source = self.source();
        let run: &Mirroring<'_> =
            &|store, options, progress| mirror(&source, store, options, progress);
        repair(Some(run), store, &verifying(), &options, &Silent)
    }

    /// Stock git clones what is there, and it is what the source has.
    fn assert_clones(&self, store: &MemoryStore) {
        let dir = tempfile::tempdir().unwrap();
        assert!(hooked_store::dump(store, &dir.path().join("published")));
        let server = StaticHttp::start(&dir.path().join("published"));
        let url = format!("{}/", server.url());
        run(git(dir.path()).args(["clone", "-q", "--mirror", &url, "clone"]), b"");
        assert_same_repository(self.repo.path(), &dir.path().join("clone"));
        run(git(&dir.path().join("clone")).args(["fsck", "--full", "--strict"]), b"");
    }

    fn key_of(&self, name: &str) -> String {
        let oid = self.repo.rev(name).unwrap();
        format!("objects/{}/{}", &oid[..2], &oid[2..])
    }

    /// The keys of the bucket's files, by what they are.
    fn files(&self, store: &MemoryStore) -> Vec<(&'static str, String)> {
        let mut files = vec![
            ("refs", "info/refs".to_owned()),
            ("HEAD", "HEAD".to_owned()),
            ("state", "mirror_state/state.json".to_owned()),
        ];
        let find = |end: &str| store.keys().into_iter().find(|key| key.ends_with(end));
        if let Some(pack) = find(".pack") {
            files.push(("list", "objects/info/packs".to_owned()));
            files.push(("index", pack.replace(".pack", ".idx")));
            files.push(("pack", pack));
        } else {
            for (what, name) in [
                ("commit", "main~1"),
                ("tree", "main^{tree}"),
                ("blob", "main:grows"),
                ("tag", "v1"),
            ] {
                files.push((what, self.key_of(name)));
            }
        }
        let lfs = store.keys().into_iter().find(|key| key.starts_with("lfs/"));
        files.push(("LFS", lfs.expect("one")));
        files
    }
}

fn verifying() -> VerifyOptions {
    VerifyOptions { concurrency: 4, ..VerifyOptions::default() }
}

fn put(store: &MemoryStore, key: &str, body: &[u8]) {
    let headers = ObjectHeaders::immutable("application/octet-stream");
    store.put(&Key::new(key).unwrap(), body, headers, None).unwrap();
}

/// Another repository's file of this kind.
fn of_another_mirror(what: &str, layout: Layout) -> Vec<u8> {
    let other = World::new();
    let files: [(&str, &[u8]); 2] = [("grows", b"of another mirror\n"), ("a.bin", b"no pointer\n")];
    other.repo.commit("refs/heads/main", &files);
    other.repo.git(&["tag", "-f", "-a", "-m", "another", "v1", "main"]);
    let pack = layout == Layout::Pack;
    let store = MemoryStore::new();
    let options = Options { layout, ..Options::default() };
    mirror(&other.source(), &store, &options, &Silent).unwrap();
    let key = match what {
        "commit" => other.key_of("main"),
        "LFS" => return b"another large file, of another mirror".to_vec(),
        "HEAD" => return b"ref: refs/heads/another\n".to_vec(),
        _ => other.files(&store).into_iter().find(|(found, _)| *found == what).unwrap().1,
    };
    assert!(pack || !key.ends_with(".pack"));
    store.bytes(&key).unwrap().to_vec()
}

/// Ways to damage a file. `None`: it is missing.
fn damages(what: &str, layout: Layout, sound: &[u8]) -> Vec<(&'static str, Option<Vec<u8>>)> {
    let mut flipped = sound.to_vec();
    // The state has no checksum: a flipped bit in words for people is nobody's loss.
    let of_state = || String::from_utf8_lossy(sound).find("ref_fingerprint").map(|at| at + 30);
    let at = if what == "state" { of_state().unwrap() } else { sound.len() / 2 };
    flipped[at] ^= 0x01;
    vec![
        ("missing", None),
        ("truncated", Some(sound[..sound.len() / 2].to_vec())),
        ("flipped", Some(flipped)),
        ("empty", Some(Vec::new())),
        ("another's", Some(of_another_mirror(what, layout))),
    ]
}

fn damage(store: &MemoryStore, key: &str, bytes: Option<&[u8]>) {
    match bytes {
        Some(bytes) => put(store, key, bytes),
        None => store.delete(&[Key::new(key).unwrap()]).unwrap(),
    }
}

/// Is it a state that no check can tell from a right one?
fn is_no_damage(what: &str, how: &str) -> bool {
    // An older program wrote none, nor was a list needed for git.
    matches!((what, how), ("state" | "list", "missing"))
}

fn matrix(layout: Layout) {
    let world = World::new();
    let sound = world.mirrored(layout);
    for (what, key) in world.files(&sound) {
        let bytes = sound.bytes(&key).unwrap().to_vec();
        for (how, damaged) in damages(what, layout, &bytes) {
            let context = format!("{layout:?}: {what} {how}");
            let store = world.mirrored(layout);
            damage(&store, &key, damaged.as_deref());
            let report = verify(&store, &verifying()).unwrap();
            if is_no_damage(what, how) && report.is_sound() {
                continue;
            }
            let words: String = report.findings.iter().map(|f| format!("{f}\n")).collect();
            assert!(report.damaged.contains(&key), "{context} is not named: {words}");
            let repaired = world.repair(&store).unwrap_or_else(|e| panic!("{context}: {e}"));
            assert!(repaired.after.is_sound(), "{context}: {:?}", repaired.after.findings);
            assert!(repaired.mended.contains(&key), "{context}: {:?}", repaired.mended);
            world.assert_clones(&store);
        }
    }
}

#[test]
fn every_file_of_a_loose_mirror_is_mended_however_it_is_damaged() {
    matrix(Layout::Loose);
}

#[test]
fn every_file_of_a_pack_mirror_is_mended_however_it_is_damaged() {
    matrix(Layout::Pack);
}

#[test]
fn sound_mirror_is_left_as_it_is() {
    let world = World::new();
    for layout in [Layout::Loose, Layout::Pack] {
        let store = world.mirrored(layout);
        store.clear_recorded();
        let report = world.repair(&store).unwrap();
        assert!(report.after.is_sound() && report.mended.is_empty());
        let writes = [Operation::Put, Operation::Delete, Operation::Copy];
        assert!(store.recorded().iter().all(|request| !writes.contains(&request.operation)));
    }
}

#[test]
fn of_a_loose_mirror_only_what_is_damaged_is_written() {
    let world = World::new();
    let store = world.mirrored(Layout::Loose);
    let key = world.key_of("main:grows");
    put(&store, &key, b"damaged");
    store.clear_recorded();
    assert!(world.repair(&store).unwrap().after.is_sound());
    let put: Vec<String> = store
        .recorded()
        .iter()
        .filter(|request| request.operation == Operation::Put)
        .map(|request| request.key().to_owned())
        .filter(|key| key.starts_with("objects/") && !key.ends_with("info/packs"))
        .collect();
    assert_eq!(put, [key]);
}

#[test]
fn index_is_made_again_without_a_source_byte_for_byte() {
    let world = World::new();
    let store = world.mirrored(Layout::Pack);
    let key = store.keys().into_iter().find(|key| key.ends_with(".idx")).unwrap();
    let sound = store.bytes(&key).unwrap();
    put(&store, &key, b"damaged");
    let report = repair(None, &store, &verifying(), &Options::default(), &Silent).unwrap();
    assert!(report.after.is_sound());
    assert_eq!((report.mended, store.bytes(&key).unwrap()), (vec![key.clone()], sound));
}

#[test]
fn what_only_the_source_has_is_named_when_there_is_none() {
    let world = World::new();
    let store = world.mirrored(Layout::Loose);
    put(&store, &world.key_of("main:grows"), b"damaged");
    let report = repair(None, &store, &verifying(), &Options::default(), &Silent).unwrap();
    assert_eq!((report.mended.len(), report.after.finding_count), (0, 1));
}

#[test]
fn repair_that_is_killed_at_any_request_is_ended_by_the_next() {
    let world = World::new();
    for layout in [Layout::Loose, Layout::Pack] {
        for nth in 1.. {
            let store = world.mirrored(layout);
            for (what, key) in world.files(&store) {
                if ["refs", "index", "pack", "blob", "tag", "LFS"].contains(&what) {
                    let bytes = store.bytes(&key).unwrap().to_vec();
                    put(&store, &key, &bytes[..bytes.len() / 2]);
                }
            }
            // From the n-th request on nothing comes through any more.
            store.inject(Fault::new(StoreErrorKind::Other).nth(nth).always());
            let killed = world.repair(&store);
            store.clear_faults();
            if let Ok(report) = killed
                && report.after.is_sound()
            {
                assert!(nth > 10);
                break;
            }
            let report = world.repair(&store).unwrap_or_else(|e| panic!("{layout:?} {nth}: {e}"));
            assert!(report.after.is_sound(), "{layout:?} {nth}: {:?}", report.after.findings);
            if nth % 10 == 1 {
                world.assert_clones(&store);
            }
        }
    }
}
