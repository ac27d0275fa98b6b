//! Repair: every kind of file in the bucket, damaged in every way, is named by `verify` and mended by
//! `repair`, wherever it is killed.

use crate::support::{git_http, hooked_store, lfs_server, local_git, program};
use std::io::Read;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use git_http::{GitHttp, StaticHttp};
use lfs_server::{LfsServer, pointer};
use local_git::{LocalGit, Repo, assert_same_repository, git, run};
use mirror_git_to_s3::git::object::{Kind, Oid, hash_object};
use mirror_git_to_s3::git::refs::Advertisement;
use mirror_git_to_s3::http::Client;
use mirror_git_to_s3::maintain::verify::{VerifyOptions, verify};
use mirror_git_to_s3::mirror::{
    Layout, MirrorError, Options, Status, Summary, mirror, store_objects,
};
use mirror_git_to_s3::pack::index::{IndexReader, parse_index};
use mirror_git_to_s3::progress::Silent;
use mirror_git_to_s3::repair::{
    Helper, Mirroring, RepairReport, StoringObjects, mirror_in_full, repair,
};
use mirror_git_to_s3::source::auth::{Auth, Credentials};
use mirror_git_to_s3::source::smart_http::SmartHttp;
use mirror_git_to_s3::source::{LfsSource, Source, SourceError, lfs};
use mirror_git_to_s3::store::dir::DirStore;
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
        // This source sends no single objects.
        let some: &StoringObjects<'_> = &|store, keys, options, progress| {
            store_objects(&source, store, keys, options, progress)
        };
        let helper = Helper { all: run, some: Some(some) };
        repair(Some(helper), store, &verifying(), &options, &Silent)
    }

    /// `--full`.
    fn mirror_in_full(&self, store: &MemoryStore, layout: Layout) -> (Summary, Vec<String>) {
        let options = Options { layout, full: true, concurrency: 4, ..Options::default() };
        let source = self.source();
        let run: &Mirroring<'_> =
            &|store, options, progress| mirror(&source, store, options, progress);
        mirror_in_full(run, store, &verifying(), &options, &Silent).unwrap()
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
    flipped[sound.len() / 2] ^= 0x01;
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

/// May it be missing without harm?
fn is_no_damage(what: &str, how: &str) -> bool {
    // An older program wrote none.
    matches!((what, how), ("state", "missing"))
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
            // From the n-th request on nothing comes through.
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

/// A bit that flips in the bucket stays forever if only keys are compared.
#[test]
fn full_run_writes_again_what_is_damaged_and_names_it() {
    let world = World::new();
    for layout in [Layout::Loose, Layout::Pack] {
        let sound = world.mirrored(layout);
        for (what, key) in world.files(&sound) {
            let bytes = sound.bytes(&key).unwrap().to_vec();
            let damages = damages(what, layout, &bytes);
            for (how, damaged) in damages.into_iter().filter(|(how, _)| *how != "another's") {
                let context = format!("{layout:?}: {what} {how}");
                let store = world.mirrored(layout);
                damage(&store, &key, damaged.as_deref());
                if verify(&store, &verifying()).unwrap().is_sound()
                    || (what, how) == ("refs", "missing")
                {
                    continue;
                }
                let (summary, mended) = world.mirror_in_full(&store, layout);
                assert!(mended.contains(&key), "{context}: {mended:?}");
                assert_eq!(summary.status, Status::Ok, "{context}");
                let after = verify(&store, &verifying()).unwrap();
                assert!(after.is_sound(), "{context}: {:?}", after.findings);
            }
        }
        let store = world.mirrored(layout);
        let (summary, mended) = world.mirror_in_full(&store, layout);
        assert_eq!((summary.status, mended), (Status::Unchanged, Vec::new()), "{layout:?}");
    }
}

/// The pack is content-addressed: its bytes never change, so it is not written again.
#[test]
fn full_run_that_makes_an_index_again_leaves_the_pack_alone() {
    let world = World::new();
    let store = world.mirrored(Layout::Pack);
    let index = store.keys().into_iter().find(|key| key.ends_with(".idx")).unwrap();
    let pack = index.replace(".idx", ".pack");
    damage(&store, &index, None);
    store.clear_recorded();
    let options = Options { layout: Layout::Pack, full: true, ..Options::default() };
    mirror(&world.source(), &store, &options, &Silent).unwrap();
    assert!(store.bytes(&index).is_some());
    let reads = [Operation::Get, Operation::Head, Operation::Open];
    let requests = store.recorded();
    let of_pack = requests.iter().filter(|request| request.key() == pack);
    assert!(of_pack.clone().all(|request| reads.contains(&request.operation)), "{requests:?}");
}

/// Counts what is asked for besides single objects.
struct Asked<S>(S, AtomicUsize);

impl<S: Source> Source for Asked<S> {
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
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.fetch(wants, haves, words)
    }
    fn fetch_objects<'a>(
        &'a self,
        wants: &[Oid],
        words: Box<dyn FnMut(&str) + Send + 'a>,
    ) -> Result<Option<Box<dyn Read + Send + 'a>>, SourceError> {
        self.0.fetch_objects(wants, words)
    }
    fn requests(&self) -> u64 {
        self.0.requests()
    }
}

/// A repository without LFS objects.
fn plain_repository() -> Repo {
    let repo = Repo::new();
    let mut text = String::new();
    for round in 0..8 {
        text += &format!("line {round} of a file that grows, so that deltas are worth it\n");
        repo.commit("refs/heads/main", &[("grows", text.as_bytes())]);
    }
    repo.git(&["tag", "-a", "-m", "annotated", "v1", "main~2"]);
    repo
}

/// How often everything was asked for until the mirror was sound again, and which objects were written.
fn repair_over_http(repo: &Repo, damaged: &[&str]) -> (usize, Vec<String>) {
    let server = GitHttp::start(repo.path(), git_http::Options::default());
    let client = Client::with_environment(&Default::default(), &Default::default()).unwrap();
    let source = SmartHttp::new(&format!("{}/", server.url()), client, Auth::none()).unwrap();
    let source = Asked(source, AtomicUsize::new(0));
    let store = MemoryStore::new();
    let options = Options { layout: Layout::Loose, lfs: false, ..Options::default() };
    mirror(&source, &store, &options, &Silent).unwrap();
    source.1.store(0, Ordering::Relaxed);
    for name in damaged {
        let oid = repo.rev(name).unwrap();
        damage(&store, &format!("objects/{}/{}", &oid[..2], &oid[2..]), None);
    }
    store.clear_recorded();
    let run: &Mirroring<'_> = &|store, options, progress| mirror(&source, store, options, progress);
    let some: &StoringObjects<'_> =
        &|store, keys, options, progress| store_objects(&source, store, keys, options, progress);
    let helper = Helper { all: run, some: Some(some) };
    let report = repair(Some(helper), &store, &verifying(), &options, &Silent).unwrap();
    assert!(report.after.is_sound(), "{:?}", report.after.findings);
    let mut written: Vec<String> = store
        .recorded()
        .iter()
        .filter(|request| request.operation == Operation::Put)
        .filter_map(|request| Some(request.key().strip_prefix("objects/")?.replacen('/', "", 1)))
        .filter(|oid| oid.len() == local_git::format().hex_len())
        .collect();
    written.sort();
    (source.1.into_inner(), written)
}

#[test]
fn single_objects_of_every_kind_are_asked_for_alone_where_the_server_sends_them() {
    let repo = plain_repository();
    // An old commit, its tree, a blob of another one, and a tag.
    let damaged = ["main~3", "main~4^{tree}", "main~2:grows", "v1"];
    let mut wanted: Vec<String> = damaged.iter().map(|name| repo.rev(name).unwrap()).collect();
    wanted.sort();
    // A server without `filter`, which is git's default, is asked for everything.
    let (asked, written) = repair_over_http(&repo, &damaged);
    assert!(asked > 0 && wanted.iter().all(|oid| written.contains(oid)), "{asked} {written:?}");
    repo.git(&["config", "uploadpack.allowFilter", "true"]);
    let (asked, written) = repair_over_http(&repo, &damaged);
    assert_eq!((asked, written), (0, wanted));
}

/// Two objects are damaged: one that the source has, and one that only a past publication needs. The source
/// is asked for both by name, three times in all, and for nothing else.
#[test]
fn object_that_the_source_has_no_more_is_not_looked_for_in_all_that_it_has() {
    let repo = plain_repository();
    repo.git(&["config", "uploadpack.allowFilter", "true"]);
    let server = GitHttp::start(repo.path(), git_http::Options::default());
    let client = Client::with_environment(&Default::default(), &Default::default()).unwrap();
    let source = SmartHttp::new(&format!("{}/", server.url()), client, Auth::none()).unwrap();
    let source = Asked(source, AtomicUsize::new(0));
    let store = MemoryStore::new();
    let keeping = Options { layout: Layout::Loose, ..with_history() };
    repo.commit("refs/heads/gone", &[("g", b"of a branch that goes away\n")]);
    mirror(&source, &store, &keeping, &Silent).unwrap();
    let key = |oid: String| format!("objects/{}/{}", &oid[..2], &oid[2..]);
    let (gone, there) = (key(repo.rev("gone:g").unwrap()), key(repo.rev("main:grows").unwrap()));
    repo.git(&["update-ref", "-d", "refs/heads/gone"]);
    repo.git(&["reflog", "expire", "--expire=all", "--all"]);
    repo.git(&["gc", "-q", "--prune=now"]);
    mirror(&source, &store, &keeping, &Silent).unwrap();
    source.1.store(0, Ordering::Relaxed);
    damage(&store, &gone, Some(b"damaged"));
    damage(&store, &there, None);
    let before = source.requests();
    let report = repair_from(&source, &store).unwrap();
    let asked = source.requests() - before;
    assert_eq!(report.mended, [there]);
    assert_eq!(report.after.damaged, [gone].into());
    assert!(report.source_error.unwrap().contains("does not have the objects"));
    assert_eq!(source.1.load(Ordering::Relaxed), 0, "everything was asked for");
    // Both, one, and what the refs are: with the handshakes before.
    assert!(asked <= 6, "{asked}");
}

/// A source that is asked by HTTP and counts, its mirror in packs, which also keeps what a deleted branch
/// had, and the name of the one pack.
fn with_a_past(repo: &Repo) -> (Asked<SmartHttp>, MemoryStore, GitHttp, String) {
    repo.git(&["config", "uploadpack.allowFilter", "true"]);
    repo.commit("refs/heads/gone", &[("old", b"what only the past has\n")]);
    let server = GitHttp::start(repo.path(), git_http::Options::default());
    let client = Client::with_environment(&Default::default(), &Default::default()).unwrap();
    let source = SmartHttp::new(&format!("{}/", server.url()), client, Auth::none()).unwrap();
    let source = Asked(source, AtomicUsize::new(0));
    let store = MemoryStore::new();
    mirror(&source, &store, &with_history(), &Silent).unwrap();
    repo.git(&["update-ref", "-d", "refs/heads/gone"]);
    repo.git(&["reflog", "expire", "--expire=now", "--all"]);
    repo.git(&["gc", "-q", "--prune=now"]);
    mirror(&source, &store, &with_history(), &Silent).unwrap();
    source.1.store(0, Ordering::Relaxed);
    let pack = listed_pack(&store);
    (source, store, server, pack)
}

fn with_history() -> Options {
    let keep_history = Some(Duration::from_secs(90 * 24 * 3600));
    Options { layout: Layout::Pack, lfs: false, keep_history, concurrency: 4, ..Options::default() }
}

/// The key of the one pack that is listed, without its end.
fn listed_pack(store: &MemoryStore) -> String {
    let list = String::from_utf8(store.bytes("objects/info/packs").unwrap().to_vec()).unwrap();
    let name = list.trim().strip_prefix("P ").and_then(|name| name.strip_suffix(".pack"));
    format!("objects/pack/{}", name.unwrap_or_else(|| panic!("one pack: {list}")))
}

fn index_of(store: &MemoryStore, pack: &str) -> IndexReader<Vec<u8>> {
    let index = store.bytes(&format!("{pack}.idx")).unwrap().to_vec();
    parse_index(index, local_git::format()).unwrap()
}

fn copy_of(store: &MemoryStore) -> MemoryStore {
    let copy = MemoryStore::new();
    store.keys().iter().for_each(|key| put(&copy, key, &store.bytes(key).unwrap()));
    copy
}

/// What readers see.
fn lasting(store: &MemoryStore) -> Vec<(String, Vec<u8>)> {
    let keys = store.keys().into_iter().filter(|key| !key.starts_with("mirror_state/"));
    keys.map(|key| (key.clone(), store.bytes(&key).unwrap().to_vec())).collect()
}

fn repair_alone(store: &MemoryStore) -> RepairReport {
    repair(None, store, &verifying(), &with_history(), &Silent).unwrap()
}

#[test]
fn of_a_damaged_pack_only_what_is_broken_is_asked_for_and_its_past_stays() {
    let repo = plain_repository();
    let (source, store, _server, pack) = with_a_past(&repo);
    let index = index_of(&store, &pack);
    let mut bytes = store.bytes(&format!("{pack}.pack")).unwrap().to_vec();
    let oid = |name: &str| Oid::from_hex(repo.rev(name).unwrap().as_bytes()).unwrap();
    let broken = ["v1", "main~7^{tree}"].map(oid);
    for oid in &broken {
        bytes[index.lookup(oid).unwrap() as usize + 3] ^= 0x10;
    }
    put(&store, &format!("{pack}.pack"), &bytes);
    store.clear_recorded();
    let report = repair_from(&source, &store).unwrap();
    assert!(report.after.is_sound(), "{:?}", report.after.findings);
    assert!(report.mended.contains(&format!("{pack}.pack")), "{:?}", report.mended);
    assert_eq!(source.1.load(Ordering::Relaxed), 0, "everything was asked for");
    let new = listed_pack(&store);
    assert_ne!(new, pack);
    assert_eq!(store.bytes(&format!("{pack}.pack")), None, "a run could take it for stored");
    let kept = index_of(&store, &new);
    let content = b"what only the past has\n";
    let past = hash_object(local_git::format(), Kind::Blob, content).unwrap();
    assert!(kept.lookup(&past).is_some(), "the past is lost");
    for entry in index.entries() {
        let hex = entry.oid.to_string();
        let loose = store.bytes(&format!("objects/{}/{}", &hex[..2], &hex[2..])).is_some();
        assert!(kept.lookup(&entry.oid).is_some() || loose, "{hex} is lost");
        assert!(loose || !broken.contains(&entry.oid), "{hex} was broken");
    }
    let dir = tempfile::tempdir().unwrap();
    assert!(hooked_store::dump(&store, &dir.path().join("published")));
    let server = StaticHttp::start(&dir.path().join("published"));
    let url = format!("{}/", server.url());
    run_git(dir.path(), &["clone", "-q", "--mirror", &url, "clone"]);
    assert_same_repository(repo.path(), &dir.path().join("clone"));
    run_git(&dir.path().join("clone"), &["fsck", "--full", "--strict"]);
}

fn run_git(dir: &std::path::Path, words: &[&str]) {
    run(git(dir).args(words), b"");
}

/// Whatever byte of a pack flips, and wherever it ends: what remains is a sound pack, its entries and what
/// was broken are all that there was, and header and trailer are made again.
#[test]
fn pack_is_sound_without_its_source_but_for_the_objects_whose_bytes_are_damaged() {
    let (_, sound, _, pack) = with_a_past(&plain_repository());
    let key = format!("{pack}.pack");
    let right = sound.bytes(&key).unwrap().to_vec();
    let index = index_of(&sound, &pack);
    let all = index.object_count();
    let mut offsets: Vec<u64> = index.entries().map(|entry| entry.offset).collect();
    offsets.sort_unstable();
    let second = offsets[1] as usize;
    let trailer = right.len() - local_git::format().raw_len();
    let mut damages: Vec<(String, Vec<u8>, bool)> = Vec::new();
    for at in (0..12).chain((12..right.len()).step_by(7)).chain(trailer..right.len()) {
        let mut bytes = right.clone();
        bytes[at] ^= 0x21;
        damages.push((format!("byte {at}"), bytes, at < 12 || at >= trailer));
    }
    for len in (1..right.len()).step_by(61) {
        damages.push((format!("cut at {len}"), right[..len].to_vec(), len >= trailer));
    }
    for len in [trailer, right.len() - 1] {
        damages.push((format!("trailer cut at {len}"), right[..len].to_vec(), true));
    }
    damages.push(("more at the end".to_owned(), [&right[..], b"more"].concat(), true));
    for (how, bytes, is_outside) in damages {
        let store = copy_of(&sound);
        put(&store, &key, &bytes);
        let report = repair_alone(&store);
        if is_outside {
            assert!(report.after.is_sound(), "{how}: {:?}", report.after.findings);
            assert_eq!(store.bytes(&key).unwrap()[..], right, "{how}");
            continue;
        }
        let new = listed_pack(&store);
        if bytes.len() < second {
            // Not even the first entry is whole.
            assert!(!report.after.is_sound() && new == pack, "{how}");
            continue;
        }
        let kept = index_of(&store, &new).object_count();
        assert!(kept < all && new != pack, "{how}: {kept} of {all}");
        assert!(store.bytes(&key).is_some(), "{how}: it is kept while something is missing");
        let packs = report.after.damaged.iter().filter(|key| key.starts_with("objects/pack/"));
        assert_eq!(packs.count(), 0, "{how}: {:?}", report.after.findings);
        assert!(!report.after.is_sound(), "{how}: {kept} of {all}");
    }
}

/// The pack of `with_a_past` with a damaged tag.
fn damage_a_tag(repo: &Repo, store: &MemoryStore, pack: &str) {
    let oid = Oid::from_hex(repo.rev("v1").unwrap().as_bytes()).unwrap();
    let at = index_of(store, pack).lookup(&oid).unwrap() as usize + 3;
    let mut bytes = store.bytes(&format!("{pack}.pack")).unwrap().to_vec();
    bytes[at] ^= 0x10;
    put(store, &format!("{pack}.pack"), &bytes);
}

fn repair_from(source: &dyn Source, store: &dyn Store) -> Result<RepairReport, MirrorError> {
    let run: &Mirroring<'_> = &|store, options, progress| mirror(source, store, options, progress);
    let some: &StoringObjects<'_> =
        &|store, keys, options, progress| store_objects(source, store, keys, options, progress);
    let helper = Helper { all: run, some: Some(some) };
    repair(Some(helper), store, &verifying(), &with_history(), &Silent)
}

/// How a list of packs gets lost.
const LOST_LISTS: [Option<&[u8]>; 3] = [None, Some(b""), Some(b"<html>\n")];

#[test]
fn past_that_a_damaged_pack_holds_stays_when_the_list_of_packs_is_damaged_too() {
    let repo = plain_repository();
    let (source, sound, _server, pack) = with_a_past(&repo);
    for list in LOST_LISTS {
        let store = copy_of(&sound);
        damage_a_tag(&repo, &store, &pack);
        damage(&store, "objects/info/packs", list);
        let report = repair_from(&source, &store).unwrap();
        assert!(report.after.is_sound(), "{list:?}: {:?}", report.after.findings);
        assert_ne!(listed_pack(&store), pack);
        assert_eq!(source.1.load(Ordering::Relaxed), 0, "everything was asked for");
        assert_eq!(store.bytes(&format!("{pack}.pack")), None);
    }
}

#[test]
fn index_and_list_are_made_again_together_without_a_source() {
    let (_, sound, _server, pack) = with_a_past(&plain_repository());
    let index = sound.bytes(&format!("{pack}.idx"));
    for list in LOST_LISTS {
        for damaged in [None, Some(&b"damaged"[..])] {
            let store = copy_of(&sound);
            damage(&store, &format!("{pack}.idx"), damaged);
            damage(&store, "objects/info/packs", list);
            let report = repair_alone(&store);
            assert!(report.after.is_sound(), "{list:?}: {:?}", report.after.findings);
            assert_eq!(
                (listed_pack(&store), store.bytes(&format!("{pack}.idx"))),
                (pack.clone(), index.clone())
            );
        }
    }
}

/// What killed runs have left, and what a compaction has replaced, belongs to no list.
#[test]
fn list_that_is_made_again_has_neither_unreadable_packs_nor_replaced_ones() {
    let (_, store, _server, pack) = with_a_past(&plain_repository());
    let of = |digit: &str| format!("pack-{}", digit.repeat(local_git::format().hex_len()));
    let bytes = store.bytes(&format!("{pack}.pack")).unwrap();
    for (digit, bytes) in [("1", &bytes[..]), ("2", &b"nothing"[..]), ("3", &bytes[..40])] {
        put(&store, &format!("objects/pack/{}.pack", of(digit)), bytes);
    }
    let index = store.bytes(&format!("{pack}.idx")).unwrap();
    put(&store, &format!("objects/pack/{}.idx", of("3")), &index);
    let new = pack.strip_prefix("objects/pack/").unwrap();
    put(&store, &format!("mirror_state/replaced/{new}"), format!("{}\n", of("1")).as_bytes());
    for list in LOST_LISTS {
        damage(&store, "objects/info/packs", list);
        let report = repair_alone(&store);
        assert!(report.after.is_sound(), "{list:?}: {:?}", report.after.findings);
        assert_eq!(listed_pack(&store), pack);
    }
}

#[test]
fn repair_of_a_list_and_a_pack_that_is_killed_at_any_request_keeps_the_past() {
    let repo = plain_repository();
    let (source, sound, _server, pack) = with_a_past(&repo);
    for nth in 1.. {
        let store = copy_of(&sound);
        damage_a_tag(&repo, &store, &pack);
        damage(&store, "objects/info/packs", Some(b"<html>\n"));
        store.inject(Fault::new(StoreErrorKind::Other).nth(nth).always());
        let killed = repair_from(&source, &store);
        store.clear_faults();
        let report = repair_from(&source, &store).unwrap_or_else(|e| panic!("{nth}: {e}"));
        assert!(report.after.is_sound(), "{nth}: {:?}", report.after.findings);
        if killed.is_ok_and(|report| report.after.is_sound()) {
            assert!(nth > 10);
            break;
        }
    }
}

/// git reads a directory by path, and then `packed-refs` instead of `info/refs`.
#[test]
fn refs_that_git_reads_by_path_are_compared_with_those_that_are_published_and_mended() {
    let (repo, home) = (plain_repository(), tempfile::tempdir().unwrap());
    let source = LocalGit::new(repo.path());
    let store = DirStore::new(home.path().join("mirror")).unwrap();
    mirror(&source, &store, &with_history(), &Silent).unwrap();
    let path = home.path().join("mirror/packed-refs");
    let sound = std::fs::read(&path).unwrap();
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = sound.clone();
        change(&mut bytes);
        Some(bytes)
    };
    let at = sound.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    let damages = [
        None,
        Some(Vec::new()),
        Some(b"<html>".to_vec()),
        with(&|bytes| bytes.truncate(at + 9)),
        with(&|bytes| bytes[at] ^= 1),
        with(&|bytes| bytes.resize(64 << 20, 0)),
    ];
    for damaged in damages {
        let len = damaged.as_ref().map(Vec::len);
        match damaged {
            Some(bytes) => std::fs::write(&path, bytes).unwrap(),
            None => std::fs::remove_file(&path).unwrap(),
        }
        let report = verify(&store, &verifying()).unwrap();
        let keys: Vec<&str> = report.findings.iter().map(|found| found.key.as_str()).collect();
        assert_eq!(keys, ["packed-refs"], "{len:?}: {:?}", report.findings);
        let report = repair(None, &store, &verifying(), &with_history(), &Silent).unwrap();
        assert!(report.after.is_sound(), "{len:?}: {:?}", report.after.findings);
        assert_eq!(report.mended, ["packed-refs"]);
        assert_eq!(std::fs::read(&path).unwrap(), sound);
    }
    run_git(home.path(), &["clone", "-q", "--mirror", "mirror", "clone"]);
    assert_same_repository(repo.path(), &home.path().join("clone"));
    // The copy of a bucket has no such files, and is none the worse for it.
    std::fs::remove_file(&path).unwrap();
    std::fs::remove_dir_all(home.path().join("mirror/refs")).unwrap();
    assert!(verify(&store, &verifying()).unwrap().is_sound());
}

/// A snapshot of past refs has no copy, unless it is of the refs of today.
#[test]
fn damaged_snapshot_of_refs_is_mended_if_it_is_todays_and_else_it_is_said_what_to_do() {
    let (_, sound, _server, _) = with_a_past(&plain_repository());
    let snapshots: Vec<String> =
        sound.keys().into_iter().filter(|key| key.starts_with("mirror_state/refs/")).collect();
    let [past, today] = &snapshots[..] else { panic!("{snapshots:?}") };
    let bytes = sound.bytes(today).unwrap().to_vec();
    let line = bytes.iter().position(|byte| *byte == b'\n').unwrap();
    for at in [line - 1, line + 1, bytes.len() - 2] {
        let store = copy_of(&sound);
        let mut flipped = bytes.clone();
        flipped[at] ^= 1;
        put(&store, today, &flipped);
        let report = repair_alone(&store);
        assert!(report.after.is_sound(), "{at}: {:?}", report.after.findings);
        assert_eq!(report.mended, std::slice::from_ref(today), "{at}");
        assert_eq!(store.bytes(today).unwrap()[..], bytes);
    }
    for (key, len) in [(past, sound.bytes(past).unwrap().len() - 1), (past, 0), (today, 0)] {
        let store = copy_of(&sound);
        let cut = sound.bytes(key).unwrap()[..len].to_vec();
        put(&store, key, &cut);
        let report = repair_alone(&store);
        let words: Vec<String> = report.after.findings.iter().map(ToString::to_string).collect();
        let [words] = &words[..] else { panic!("{words:?}") };
        assert!(words.starts_with(&format!("{key}: ")), "{words}");
        assert!(
            words.ends_with(": that publication is lost; delete the key, then verify --repair"),
            "{words}"
        );
        assert_eq!(store.bytes(key).unwrap()[..], cut);
        store.delete(&[Key::new(key).unwrap()]).unwrap();
        assert!(repair_alone(&store).after.damaged.contains(key));
        assert!(verify(&store, &verifying()).unwrap().is_sound());
    }
}

#[test]
fn program_says_which_keys_a_full_run_has_mended() {
    let (repo, home) = (World::new().repo, tempfile::tempdir().unwrap());
    let bundle = home.path().join("a.bundle");
    repo.git(&["bundle", "create", "-q", bundle.to_str().unwrap(), "--all"]);
    let source = format!("bundle:{}", bundle.display());
    let target = format!("file://{}", home.path().join("mirror").display());
    let run = |more: &[&str]| {
        let pair = ["--source", &source, "--target", &target, "--layout", "loose", "--json"];
        let out = program::program(home.path()).args(pair).args(more).output().unwrap();
        assert!(out.status.success(), "{out:?}");
        serde_json::from_slice::<serde_json::Value>(&out.stdout).unwrap()
    };
    run(&[]);
    // A bundle has no LFS objects, so what is missing of them stays missing and is not named.
    let oid = repo.rev("main~2:grows").unwrap();
    let key = format!("objects/{}/{}", &oid[..2], &oid[2..]);
    let path = home.path().join("mirror").join(&key);
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, &bytes).unwrap();
    assert_eq!(run(&[])["status"], "unchanged");
    let json = run(&["--full"]);
    assert_eq!((&json["status"], &json["mended"]), (&"ok".into(), &serde_json::json!([key])));
    let json = run(&["--full"]);
    assert_eq!((&json["status"], json.get("mended")), (&"unchanged".into(), None));
}

local_git::also_with_sha256! {
    every_file_of_a_loose_mirror_is_mended_however_it_is_damaged,
    every_file_of_a_pack_mirror_is_mended_however_it_is_damaged,
    index_is_made_again_without_a_source_byte_for_byte,
    single_objects_of_every_kind_are_asked_for_alone_where_the_server_sends_them,
    of_a_damaged_pack_only_what_is_broken_is_asked_for_and_its_past_stays,
    pack_is_sound_without_its_source_but_for_the_objects_whose_bytes_are_damaged,
    past_that_a_damaged_pack_holds_stays_when_the_list_of_packs_is_damaged_too,
    index_and_list_are_made_again_together_without_a_source,
}

/// Behind a damaged commit no link leads to the next.
/// Damages two LFS objects, one of which only a past publication names; the repair asks for no more.
#[test]
fn lfs_objects_of_past_publications_are_asked_for_by_name() {
    for layout in [Layout::Loose, Layout::Pack] {
        let (world, store) = (World::new(), MemoryStore::new());
        let keeping = Options { layout, lfs: true, ..with_history() };
        world.lfs.add(b"of a branch that goes away");
        let gone = pointer(b"of a branch that goes away");
        let files: [(&str, &[u8]); 1] = [("b.bin", gone.as_bytes())];
        world.repo.commit("refs/heads/gone", &files);
        mirror(&world.source(), &store, &keeping, &Silent).unwrap();
        world.repo.git(&["update-ref", "-d", "refs/heads/gone"]);
        mirror(&world.source(), &store, &keeping, &Silent).unwrap();
        let sound = copy_of(&store);
        let lfs: Vec<String> =
            store.keys().into_iter().filter(|key| key.starts_with("lfs/")).collect();
        assert_eq!(lfs.len(), 2);
        damage(&store, &lfs[0], None);
        damage(&store, &lfs[1], Some(b"damaged"));
        store.clear_recorded();
        let repaired = world.repair(&store).unwrap();
        assert!(repaired.after.is_sound(), "{layout:?}: {:?}", repaired.after.findings);
        assert_eq!(repaired.mended, lfs, "{layout:?}");
        let puts = store.recorded().into_iter().filter(|r| r.operation == Operation::Put);
        let others: Vec<String> =
            puts.map(|put| put.key().to_owned()).filter(|key| !lfs.contains(key)).collect();
        assert!(others.iter().all(|key| key.starts_with("mirror_state/")), "{others:?}");
        assert_eq!(lasting(&store), lasting(&sound), "{layout:?}");
        // Nor does a run in full forget them.
        damage(&store, &lfs[0], None);
        damage(&store, &lfs[1], None);
        let full = Options { full: true, ..keeping };
        let source = world.source();
        let run: &Mirroring<'_> =
            &|store, options, progress| mirror(&source, store, options, progress);
        mirror_in_full(run, &store, &verifying(), &full, &Silent).unwrap();
        assert!(verify(&store, &verifying()).unwrap().is_sound(), "{layout:?}");
    }
}

#[test]
fn history_whose_commits_are_all_damaged_is_mended_at_once() {
    let world = World::new();
    let damaged = || {
        let store = world.mirrored(Layout::Loose);
        for n in 0..8 {
            damage(&store, &world.key_of(&format!("main~{n}")), Some(b""));
        }
        store
    };
    let store = damaged();
    let report = world.repair(&store).unwrap();
    assert!(report.after.is_sound(), "{:?}", report.after.findings);
    let store = damaged();
    world.mirror_in_full(&store, Layout::Loose);
    let after = verify(&store, &verifying()).unwrap();
    assert!(after.is_sound(), "{:?}", after.findings);
    world.assert_clones(&store);
}

/// What an earlier repair has replaced is there until gc comes, and the source sends the same again.
#[test]
fn full_run_does_not_list_a_damaged_pack_that_nobody_reads() {
    let world = World::new();
    let packed = world.mirrored(Layout::Pack);
    let pack = listed_pack(&packed);
    let mut bytes = packed.bytes(&format!("{pack}.pack")).unwrap().to_vec();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let store = world.mirrored(Layout::Loose);
    put(&store, &format!("{pack}.pack"), &bytes);
    put(&store, &format!("{pack}.idx"), &packed.bytes(&format!("{pack}.idx")).unwrap());
    assert!(verify(&store, &verifying()).unwrap().is_sound());
    world.mirror_in_full(&store, Layout::Pack);
    assert_eq!(listed_pack(&store), pack, "the test shows nothing");
    let after = verify(&store, &verifying()).unwrap();
    assert!(after.is_sound(), "{:?}", after.findings);
    world.assert_clones(&store);
}

#[test]
fn full_run_that_leaves_damage_says_so() {
    let repo = plain_repository();
    let (source, store, _server, _) = with_a_past(&repo);
    let mut snapshots = store.keys();
    snapshots.retain(|key| key.starts_with("mirror_state/refs/"));
    put(&store, &snapshots[0], b"bad");
    let options = Options { full: true, ..with_history() };
    let run: &Mirroring<'_> = &|store, options, progress| mirror(&source, store, options, progress);
    let error = mirror_in_full(run, &store, &verifying(), &options, &Silent).unwrap_err();
    let wanted = format!("{} is still damaged or missing", snapshots[0]);
    assert!(error.to_string().contains(&wanted), "{error}");
}

#[test]
fn state_that_is_damaged_beside_damaged_refs_is_mended() {
    let world = World::new();
    for other in ["HEAD", "info/refs"] {
        let store = world.mirrored(Layout::Loose);
        damage(&store, other, Some(b"bad"));
        damage(&store, "mirror_state/state.json", Some(b"bad"));
        let report = world.repair(&store).unwrap();
        assert!(report.after.is_sound(), "{other}: {:?}", report.after.findings);
        for key in [other, "mirror_state/state.json"] {
            assert!(report.mended.iter().any(|mended| mended == key), "{:?}", report.mended);
        }
    }
}

#[test]
fn emptied_source_does_not_replace_damaged_refs() {
    let world = World::new();
    let store = world.mirrored(Layout::Loose);
    damage(&store, "info/refs", Some(b"bad"));
    world.repo.git(&["update-ref", "-d", "refs/heads/main"]);
    world.repo.git(&["tag", "-d", "v1"]);
    let error = world.repair(&store).unwrap_err();
    assert!(matches!(error, MirrorError::Guard(_)), "{error}");
    assert_eq!(store.bytes("info/refs").as_deref(), Some(&b"bad"[..]));
}

#[test]
fn full_run_without_a_state_keeps_the_packs_of_past_publications() {
    for state in [None, Some(&b"bad"[..])] {
        let world = World::new();
        let store = MemoryStore::new();
        let options = Options { layout: Layout::Pack, ..with_history() };
        mirror(&world.source(), &store, &options, &Silent).unwrap();
        world.repo.git(&["update-ref", "refs/heads/main", "main~3"]);
        world.repo.commit("refs/heads/main", &[("other", b"another end\n")]);
        mirror(&world.source(), &store, &options, &Silent).unwrap();
        world.repo.git(&["reflog", "expire", "--expire=now", "--all"]);
        world.repo.git(&["gc", "-q", "--prune=now"]);
        damage(&store, "mirror_state/state.json", state);
        world.mirror_in_full(&store, Layout::Pack);
        let after = verify(&store, &verifying()).unwrap();
        assert!(after.is_sound(), "{state:?}: {:?}", after.findings);
        // The state of that run does not say how long, and the next one in full keeps them as well.
        world.mirror_in_full(&store, Layout::Pack);
        let after = verify(&store, &verifying()).unwrap();
        assert!(after.is_sound(), "{state:?}: {:?}", after.findings);
    }
}
