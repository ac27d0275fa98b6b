//! Garbage collection: what is left is what a fresh mirror would have, and nothing that a run beside
//! it relies on goes.

use crate::support::{hooked_store, local_git};
use std::collections::BTreeSet;
use std::io::Read;
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use hooked_store::{Conditions, Hooked};
use local_git::{LocalGit, Repo, git, run};
use mirror_git_to_s3::git::object::Oid;
use mirror_git_to_s3::git::refs::Advertisement;
use mirror_git_to_s3::maintain::gc::{GcOptions, GcSummary, gc};
use mirror_git_to_s3::maintain::verify::{VerifyOptions, verify};
use mirror_git_to_s3::mirror::{Layout, MirrorError, Options, Status, mirror};
use mirror_git_to_s3::progress::Silent;
use mirror_git_to_s3::source::{Source, SourceError};
use mirror_git_to_s3::store::memory::{Fault, MemoryStore, Operation};
use mirror_git_to_s3::store::{Kept, Key, ObjectHeaders, Store, StoreErrorKind};

const DAY: Duration = Duration::from_secs(24 * 3600);

fn options() -> GcOptions {
    GcOptions { settle: Duration::ZERO, concurrency: 4, ..GcOptions::default() }
}

fn collect(store: &MemoryStore) -> Result<GcSummary, MirrorError> {
    gc(store, &options(), &|_| ())
}

fn run_mirror(repo: &Repo, store: &MemoryStore) -> Result<Status, MirrorError> {
    let source = LocalGit::new(repo.path());
    mirror(&source, store, &Options { layout: Layout::Loose, ..Options::default() }, &Silent)
        .map(|summary| summary.status)
}

/// Makes everything that is stored now older than the grace period.
fn age(store: &MemoryStore) {
    for key in store.keys() {
        store.set_last_modified(&key, SystemTime::now() - 2 * DAY);
    }
}

/// All keys but those of news and of gc's own.
fn keys(store: &MemoryStore) -> BTreeSet<String> {
    store.keys().into_iter().filter(|key| !key.starts_with("mirror_state/")).collect()
}

fn put(store: &dyn Store, key: &str, body: &[u8]) {
    let headers = ObjectHeaders::immutable("application/octet-stream");
    store.put(&Key::new(key).unwrap(), body, headers, None).unwrap();
}

fn sample() -> Repo {
    let repo = Repo::new();
    for round in 0..5 {
        let text = format!("round {round}\n");
        repo.commit("refs/heads/main", &[("a", text.as_bytes()), ("b", b"same\n")]);
    }
    repo.git(&["tag", "-a", "-m", "annotated", "v1", "main~2"]);
    repo
}

/// Drops the last two commits of `main` and makes another one.
fn force_push(repo: &Repo) {
    repo.git(&["update-ref", "refs/heads/main", "main~2"]);
    repo.commit("refs/heads/main", &[("c", b"another way\n")]);
}

fn is_sound(store: &MemoryStore) -> bool {
    verify(store, &VerifyOptions::default()).unwrap().is_sound()
}

#[test]
fn after_forced_pushes_exactly_what_a_fresh_mirror_has_is_left() {
    let repo = sample();
    let store = MemoryStore::new().with_page_size(3);
    run_mirror(&repo, &store).unwrap();
    for _ in 0..3 {
        force_push(&repo);
        repo.git(&["tag", "-f", "-a", "-m", "moved", "v1", "main"]);
        run_mirror(&repo, &store).unwrap();
    }
    let fresh = MemoryStore::new();
    run_mirror(&repo, &fresh).unwrap();
    assert!(keys(&store).len() > keys(&fresh).len() + 5);
    age(&store);
    let summary = collect(&store).unwrap();
    assert_eq!(keys(&store), keys(&fresh));
    assert_eq!(summary.reachable, Some(repo.objects().len() as u64));
    assert!(summary.loose > 5 && summary.bytes > 0 && summary.young == 0, "{summary:?}");
    assert!(is_sound(&store));
    let again = collect(&store).unwrap();
    assert_eq!(again.deleted(), 0);
}

#[test]
fn nothing_to_delete_writes_nothing() {
    let repo = sample();
    let store = MemoryStore::new();
    run_mirror(&repo, &store).unwrap();
    age(&store);
    store.clear_recorded();
    assert_eq!(collect(&store).unwrap().deleted(), 0);
    let reads = [Operation::Get, Operation::List, Operation::Open, Operation::ListUploads];
    assert!(store.recorded().iter().all(|request| reads.contains(&request.operation)));
}

#[test]
fn young_objects_stay() {
    let repo = sample();
    let store = MemoryStore::new();
    run_mirror(&repo, &store).unwrap();
    force_push(&repo);
    run_mirror(&repo, &store).unwrap();
    let before = keys(&store);
    let summary = collect(&store).unwrap();
    assert!(summary.young > 2 && summary.deleted() == 0, "{summary:?}");
    assert_eq!(keys(&store), before);
}

#[test]
fn dry_run_names_and_deletes_nothing() {
    let repo = sample();
    let store = MemoryStore::new();
    run_mirror(&repo, &store).unwrap();
    put(&store, "objects/ab/0123456789012345678901234567890123456", b"x");
    put(&store, "objects/ab/01234567890123456789012345678901234567", b"x");
    age(&store);
    let before = store.keys();
    let named = Mutex::new(Vec::new());
    let dry = GcOptions { dry_run: true, ..options() };
    let summary = gc(&store, &dry, &|info| named.lock().unwrap().push(info.key.to_string()));
    assert_eq!(summary.unwrap().loose, 1);
    let only = ["objects/ab/01234567890123456789012345678901234567"];
    assert_eq!(named.into_inner().unwrap(), only, "the other is no name of a loose object");
    assert_eq!(store.keys(), before);
}

#[test]
fn only_unlisted_packs_and_unnamed_lfs_objects_go() {
    let repo = sample();
    let pointed = "a".repeat(64);
    let pointer =
        format!("version https://git-lfs.github.com/spec/v1\noid sha256:{pointed}\nsize 3\n");
    repo.commit("refs/heads/main", &[("big", pointer.as_bytes())]);
    let store = MemoryStore::new();
    run_mirror(&repo, &store).unwrap();
    let kept = format!("lfs/objects/aa/aa/{pointed}");
    let gone = format!("lfs/objects/bb/bb/{}", "b".repeat(64));
    let pack = format!("objects/pack/pack-{}", "c".repeat(40));
    for key in [&kept, &gone, &format!("{pack}.pack"), &format!("{pack}.idx")] {
        put(&store, key, b"abc");
    }
    let strangers =
        ["objects/pack/readme", "lfs/objects/x", "other/file", "objects/info/alternates"];
    strangers.iter().for_each(|key| put(&store, key, b"not ours"));
    age(&store);
    let before = keys(&store);
    let summary = collect(&store).unwrap();
    assert_eq!((summary.lfs, summary.packs, summary.loose), (1, 2, 0));
    let deleted: Vec<_> = before.difference(&keys(&store)).cloned().collect();
    assert_eq!(deleted, [gone, format!("{pack}.idx"), format!("{pack}.pack")]);
}

#[test]
fn lacking_lfs_objects_that_no_pointer_names_are_forgotten() {
    let missing = "mirror_state/lfs-lacking";
    let line = |digit: &str| format!("{} 3\n", digit.repeat(64));
    let repo = sample();
    let pointer = format!(
        "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize 3\n",
        "a".repeat(64)
    );
    repo.commit("refs/heads/main", &[("big", pointer.as_bytes())]);
    let store = MemoryStore::new();
    run_mirror(&repo, &store).unwrap();
    put(&store, missing, (line("a") + &line("b")).as_bytes());
    let dry = gc(&store, &GcOptions { dry_run: true, ..options() }, &|_| ()).unwrap();
    assert_eq!(dry.lfs_forgotten, 1);
    assert_eq!(&*store.bytes(missing).unwrap(), (line("a") + &line("b")).as_bytes());
    assert_eq!(collect(&store).unwrap().lfs_forgotten, 1);
    assert_eq!(&*store.bytes(missing).unwrap(), line("a").as_bytes());
    put(&store, missing, line("b").as_bytes());
    assert_eq!(collect(&store).unwrap().lfs_forgotten, 1);
    assert!(store.bytes(missing).is_none(), "nothing is missing now");
}

#[test]
fn listed_packs_are_walked_and_kept() {
    let repo = sample();
    let store = MemoryStore::new();
    run_mirror(&repo, &store).unwrap();
    let pack = pack_of(&repo);
    put(&store, &format!("objects/pack/pack-{}.pack", pack.0), &pack.1);
    put(&store, &format!("objects/pack/pack-{}.idx", pack.0), &pack.2);
    put(&store, "objects/info/packs", format!("P pack-{}.pack\n\n", pack.0).as_bytes());
    for key in store.keys().into_iter().filter(|key| key.starts_with("objects/")) {
        if !key.starts_with("objects/pack/") && !key.starts_with("objects/info/") {
            store.delete(&[Key::new(key).unwrap()]).unwrap();
        }
    }
    put(&store, &format!("objects/dd/{}", "d".repeat(38)), b"garbage");
    age(&store);
    let summary = collect(&store).unwrap();
    assert_eq!(summary.reachable, Some(repo.objects().len() as u64));
    assert_eq!((summary.loose, summary.packs), (1, 0));
    assert!(is_sound(&store));
}

/// Readers may hold the old list.
#[test]
fn packs_that_were_taken_as_one_stay_for_the_grace_period_however_old_they_are() {
    let repo = sample();
    let store = MemoryStore::new();
    let run = |max_packs| {
        let source = LocalGit::new(repo.path());
        let options = Options { layout: Layout::Pack, max_packs, ..Options::default() };
        mirror(&source, &store, &options, &Silent).unwrap();
    };
    let packs = || store.keys().iter().filter(|key| key.ends_with(".pack")).count();
    for round in 0..2 {
        run(50);
        repo.commit("refs/heads/main", &[("a", format!("later {round}\n").as_bytes())]);
    }
    age(&store);
    run(2);
    assert_eq!(packs(), 4, "two old ones, the one that they became, and the newest");
    assert_eq!(collect(&store).unwrap().deleted(), 0, "they were replaced a moment ago");
    age(&store);
    assert_eq!(collect(&store).unwrap().packs, 4, "two packs and their indices");
    assert_eq!(packs(), 2);
    assert!(!store.keys().iter().any(|key| key.contains("replaced")), "{:?}", store.keys());
    assert!(is_sound(&store));
}

/// Puts everything into one pack beside what is stored; answers its name.
fn put_pack(store: &MemoryStore, repo: &Repo) -> String {
    let (name, pack, index) = pack_of(repo);
    put(store, &format!("objects/pack/pack-{name}.pack"), &pack);
    put(store, &format!("objects/pack/pack-{name}.idx"), &index);
    put(store, "objects/info/packs", format!("P pack-{name}.pack\n\n").as_bytes());
    name
}

#[test]
fn loose_objects_that_a_listed_pack_holds_go_once_the_pack_is_older_than_the_grace_period() {
    let repo = sample();
    let store = MemoryStore::new();
    run_mirror(&repo, &store).unwrap();
    age(&store);
    put_pack(&store, &repo);
    assert_eq!(collect(&store).unwrap().deleted(), 0, "readers may hold the old list");
    age(&store);
    let objects = repo.objects().len() as u64;
    let summary = collect(&store).unwrap();
    assert_eq!((summary.loose, summary.duplicates), (objects, objects));
    assert_eq!(summary.reachable, Some(objects));
    assert!(is_sound(&store));
    store.clear_recorded();
    assert_eq!(collect(&store).unwrap().reachable, None);
    let has_read = |request: &mirror_git_to_s3::store::memory::Request| {
        request.key().ends_with(".pack") || request.key().ends_with(".idx")
    };
    assert!(!store.recorded().iter().any(has_read), "nothing can be deleted, so nothing is read");
}

#[test]
fn loose_objects_stay_beside_a_pack_that_is_damaged() {
    let repo = sample();
    let store = MemoryStore::new();
    run_mirror(&repo, &store).unwrap();
    let key = format!("objects/pack/pack-{}.pack", put_pack(&store, &repo));
    let mut bytes = store.bytes(&key).unwrap().to_vec();
    let end = bytes.len() - 25;
    bytes[end] ^= 1;
    put(&store, &key, &bytes);
    age(&store);
    let before = keys(&store);
    // Whether or not the refs reach what is damaged.
    match collect(&store) {
        Ok(summary) => assert_eq!(summary.deleted(), 0),
        Err(error) => assert!(error.to_string().contains("nothing was deleted"), "{error}"),
    }
    assert_eq!(keys(&store), before);
}

/// The pack of before a forced push stays listed, with objects that no ref reaches.
#[test]
fn what_only_the_garbage_in_a_pack_names_goes() {
    let repo = sample();
    let pointed = "a".repeat(64);
    let pointer =
        format!("version https://git-lfs.github.com/spec/v1\noid sha256:{pointed}\nsize 3\n");
    let store = MemoryStore::new();
    repo.commit("refs/heads/main", &[("big", pointer.as_bytes())]);
    put_pack(&store, &repo);
    run_mirror(&repo, &store).unwrap();
    let lfs = format!("lfs/objects/aa/aa/{pointed}");
    put(&store, &lfs, b"abc");
    age(&store);
    assert_eq!(collect(&store).unwrap().lfs, 0);
    force_push(&repo);
    run_mirror(&repo, &store).unwrap();
    age(&store);
    assert_eq!(collect(&store).unwrap().lfs, 1);
    assert!(store.bytes(&lfs).is_none() && is_sound(&store));
}

/// Name, pack and index of all objects, by git.
fn pack_of(repo: &Repo) -> (String, Vec<u8>, Vec<u8>) {
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().join("pack");
    let args = ["pack-objects", "-q", "--all", base.to_str().unwrap()];
    let out = run(git(repo.path()).args(args), b"");
    let name = String::from_utf8(out).unwrap().trim().to_owned();
    let read = |extension: &str| {
        std::fs::read(dir.path().join(format!("pack-{name}.{extension}"))).unwrap()
    };
    (name.clone(), read("pack"), read("idx"))
}

#[test]
fn mirror_that_is_not_whole_loses_nothing() {
    let repo = sample();
    let store = MemoryStore::new();
    run_mirror(&repo, &store).unwrap();
    put(&store, &format!("objects/dd/{}", "d".repeat(38)), b"garbage");
    let tree = repo.rev("main~1^{tree}").unwrap();
    let key = format!("objects/{}/{}", &tree[..2], &tree[2..]);
    store.delete(&[Key::new(key.clone()).unwrap()]).unwrap();
    age(&store);
    let before = store.keys();
    let error = collect(&store).unwrap_err().to_string();
    assert!(error.contains(&key) && error.contains("nothing was deleted"), "{error}");
    assert_eq!(store.keys(), before);
}

#[test]
fn target_without_a_mirror_loses_nothing() {
    let store = MemoryStore::new();
    put(&store, &format!("objects/dd/{}", "d".repeat(38)), b"of a first run");
    age(&store);
    let error = collect(&store).unwrap_err().to_string();
    assert!(error.contains("has no info/refs"), "{error}");
    assert_eq!(store.keys().len(), 1);
}

/// Runs gc while the source is being asked for the pack, that is, in the middle of a run.
struct GcInTheMiddle<'s> {
    source: LocalGit,
    store: &'s MemoryStore,
    outcome: Mutex<Option<Result<GcSummary, MirrorError>>>,
}

impl Source for GcInTheMiddle<'_> {
    fn describe(&self) -> String {
        self.source.describe()
    }
    fn advertisement(&self) -> Result<Advertisement, SourceError> {
        self.source.advertisement()
    }
    fn fetch<'a>(
        &'a self,
        wants: &[Oid],
        haves: &[Oid],
        words: Box<dyn FnMut(&str) + Send + 'a>,
    ) -> Result<Box<dyn Read + Send + 'a>, SourceError> {
        *self.outcome.lock().unwrap() = Some(collect(self.store));
        self.source.fetch(wants, haves, words)
    }
    fn requests(&self) -> u64 {
        self.source.requests()
    }
}

#[test]
fn run_that_relies_on_old_objects_which_gc_deletes_does_not_publish_and_the_next_one_repairs() {
    let repo = sample();
    let dropped = repo.rev("main").unwrap();
    let store = MemoryStore::new();
    run_mirror(&repo, &store).unwrap();
    force_push(&repo);
    run_mirror(&repo, &store).unwrap();
    age(&store);
    // Back again: the objects are in the bucket, old, and reached by no published ref.
    repo.git(&["update-ref", "refs/heads/main", &dropped]);
    let source = GcInTheMiddle {
        source: LocalGit::new(repo.path()),
        store: &store,
        outcome: Mutex::default(),
    };
    let full = Options { full: true, layout: Layout::Loose, ..Options::default() };
    let error = mirror(&source, &store, &full, &Silent).unwrap_err();
    assert!(matches!(error, MirrorError::Conflict), "{error}");
    let collected = source.outcome.into_inner().unwrap().unwrap().unwrap();
    assert!(collected.loose > 0, "gc was really in the middle: {collected:?}");
    assert!(is_sound(&store), "what was published before still stands");
    assert_eq!(run_mirror(&repo, &store).unwrap(), Status::Ok);
    assert!(is_sound(&store));
    assert_eq!(
        store.bytes("info/refs").map(|file| file.starts_with(dropped.as_bytes())),
        Some(true)
    );
}

#[test]
fn gc_stops_when_a_run_has_published_meanwhile() {
    let repo = sample();
    let store = MemoryStore::new();
    run_mirror(&repo, &store).unwrap();
    put(&store, &format!("objects/dd/{}", "d".repeat(38)), b"garbage");
    age(&store);
    // The fence's key is written when everything has been decided: publish right then.
    let other = Publishing { store: &store, done: Mutex::new(false) };
    let error = gc(&other, &options(), &|_| ()).unwrap_err();
    assert!(matches!(error, MirrorError::Conflict), "{error}");
    assert!(store.keys().iter().any(|key| key.starts_with("objects/dd/")), "nothing was deleted");
    run_mirror(&repo, &store).unwrap();
    let file = store.bytes("mirror_state/gc.json").unwrap();
    assert!(String::from_utf8_lossy(&file).contains("done"), "the fence is down again");
}

/// A store in which somebody publishes as soon as gc has put up its fence.
struct Publishing<'s> {
    store: &'s MemoryStore,
    done: Mutex<bool>,
}

macro_rules! pass_on {
    ($($name:ident($($arg:ident: $type:ty),*) -> $result:ty;)+) => {
        $(fn $name(&self, $($arg: $type),*) -> $result { self.store.$name($($arg),*) })+
    };
}

use mirror_git_to_s3::store::{
    Condition, ETag, ListPage, ObjectInfo, OpenUpload, Part, StoreError, Upload,
};
use std::ops::Range;

impl Store for Publishing<'_> {
    pass_on! {
        describe() -> String;
        get(key: &Key, range: Option<Range<u64>>, max_len: u64)
            -> Result<(Vec<u8>, Option<ETag>), StoreError>;
        open(key: &Key, offset: u64) -> Result<Box<dyn Read + Send>, StoreError>;
        head(key: &Key) -> Result<Option<ObjectInfo>, StoreError>;
        delete(keys: &[Key]) -> Result<(), StoreError>;
        list_unchecked(prefix: &str, page: Option<&str>) -> Result<ListPage, StoreError>;
        copy(from: &Key, to: &Key, headers: ObjectHeaders) -> Result<(), StoreError>;
        create_upload(key: &Key, headers: ObjectHeaders) -> Result<Upload, StoreError>;
        put_part(upload: &Upload, number: u32, body: &[u8]) -> Result<Part, StoreError>;
        copy_part(upload: &Upload, number: u32, from: &Key, range: Range<u64>)
            -> Result<Part, StoreError>;
        complete_upload(upload: &Upload, parts: &[Part]) -> Result<(), StoreError>;
        abort_upload(upload: &Upload) -> Result<(), StoreError>;
        list_uploads_unchecked(prefix: &str) -> Result<Vec<OpenUpload>, StoreError>;
        requests() -> u64;
    }

    fn put(
        &self,
        key: &Key,
        body: &[u8],
        headers: ObjectHeaders,
        condition: Option<&Condition>,
    ) -> Result<Option<ETag>, StoreError> {
        let mut done = self.done.lock().unwrap();
        let written = self.store.put(key, body, headers, condition)?;
        if !*done {
            let mut refs = self.store.bytes("info/refs").unwrap().to_vec();
            let first = String::from_utf8(refs[..local_git::format().hex_len()].to_vec()).unwrap();
            refs.extend(format!("{first}\trefs/heads/new\n").bytes());
            put(self.store, "info/refs", &refs);
            *done = true;
        }
        Ok(written)
    }
}

#[test]
fn temporary_keys_of_live_runs_stay_and_those_of_dead_runs_go() {
    let repo = sample();
    let store = MemoryStore::new();
    run_mirror(&repo, &store).unwrap();
    put(&store, "mirror_tmp/other.host-1-2-3-4-5/spill-0", b"x");
    put(&store, "mirror_tmp/stale.host-1-2-3-4-5/spill-0", b"x");
    store.set_last_modified("mirror_tmp/stale.host-1-2-3-4-5/spill-0", SystemTime::now() - 2 * DAY);
    assert_eq!(collect(&store).unwrap().temporary, 1);
    let left: Vec<_> = store.keys().into_iter().filter(|k| k.starts_with("mirror_tmp")).collect();
    assert_eq!(left, ["mirror_tmp/other.host-1-2-3-4-5/spill-0"]);
}

/// Runs gc while the pack is being read, when the mirror has temporary keys.
struct GcInThePack<'s> {
    source: LocalGit,
    store: &'s MemoryStore,
    grace: Duration,
    seen: Mutex<Vec<String>>,
}

impl Source for GcInThePack<'_> {
    fn describe(&self) -> String {
        self.source.describe()
    }
    fn advertisement(&self) -> Result<Advertisement, SourceError> {
        self.source.advertisement()
    }
    fn fetch<'a>(
        &'a self,
        wants: &[Oid],
        haves: &[Oid],
        words: Box<dyn FnMut(&str) + Send + 'a>,
    ) -> Result<Box<dyn Read + Send + 'a>, SourceError> {
        let pack = self.source.fetch(wants, haves, words)?;
        Ok(Box::new(Watched { pack, read: 0, gc: self }))
    }
    fn requests(&self) -> u64 {
        self.source.requests()
    }
}

struct Watched<'a> {
    pack: Box<dyn Read + Send + 'a>,
    read: usize,
    gc: &'a GcInThePack<'a>,
}

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let before = self.read;
        self.read += self.pack.read(buffer)?;
        const MOMENT: usize = 14 << 20;
        if before < MOMENT && self.read >= MOMENT {
            let now = GcOptions { grace: self.gc.grace, ..options() };
            gc(self.gc.store, &now, &|_| ()).expect("gc succeeds beside a run");
            let uploads = self.gc.store.list_uploads("").unwrap();
            let keys = uploads.into_iter().map(|open| open.upload.key.to_string());
            self.gc.seen.lock().unwrap().extend(keys.chain(self.gc.store.keys()));
        }
        Ok(self.read - before)
    }
}

#[test]
fn gc_beside_a_run_that_uploads_in_parts_leaves_its_temporary_keys_alone() {
    let repo = sample();
    let store = MemoryStore::new();
    run_mirror(&repo, &store).unwrap();
    let mut large = vec![0; 20 << 20];
    fastrand::Rng::with_seed(7).fill(&mut large);
    repo.commit("refs/heads/main", &[("large", &large)]);
    age(&store);
    let small = Options { memory_bytes: 8 << 20, layout: Layout::Loose, ..Options::default() };
    // Without any grace gc takes what the run has stored and not yet published: not its temporary
    // keys either, and it has to run again.
    for (grace, in_conflict) in [(Duration::ZERO, true), (DAY, false)] {
        let (source, seen) = (LocalGit::new(repo.path()), Mutex::default());
        let source = GcInThePack { source, store: &store, grace, seen };
        match mirror(&source, &store, &small, &Silent) {
            Ok(summary) => assert_eq!((summary.status, in_conflict), (Status::Ok, false)),
            Err(error) => assert!(in_conflict && matches!(error, MirrorError::Conflict), "{error}"),
        }
        let seen = source.seen.into_inner().unwrap();
        assert!(seen.iter().any(|key| key.starts_with("mirror_tmp/")), "{seen:?}");
        assert!(is_sound(&store));
        assert!(!store.keys().iter().any(|key| key.starts_with("mirror_tmp/")));
    }
}

/// A real race: one thread mirrors forced pushes as fast as it can, another collects garbage without
/// any grace. A run may have to begin again; what is published is whole at every moment.
#[test]
fn mirror_is_whole_at_every_moment_while_gc_without_grace_races_a_run_after_the_other() {
    let repo = sample();
    let store = MemoryStore::new();
    run_mirror(&repo, &store).unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    let is_done = || done.load(std::sync::atomic::Ordering::SeqCst);
    let (mut published, mut in_conflict) = (0, 0);
    std::thread::scope(|scope| {
        let collector = scope.spawn(|| {
            let (mut deletions, mut conflicts) = (0, 0);
            let began = std::time::Instant::now();
            while deletions < 4 && began.elapsed() < Duration::from_secs(120) {
                let settle = Duration::from_millis(700);
                let now = GcOptions { grace: Duration::ZERO, settle, ..options() };
                match gc(&store, &now, &|_| ()) {
                    Ok(summary) if summary.deleted() > 0 => deletions += 1,
                    Ok(_) => {}
                    Err(MirrorError::Conflict) => conflicts += 1,
                    Err(error) => panic!("{error}"),
                }
                // Else no run would ever come to its end.
                std::thread::sleep(Duration::from_millis(300));
            }
            done.store(true, std::sync::atomic::Ordering::SeqCst);
            (deletions, conflicts)
        });
        let mut round = 0;
        while !is_done() {
            round += 1;
            // Now something new, which the next round drops; now what was dropped and is needed again.
            let content = format!("round {}\n", if round % 2 == 0 { 0 } else { round });
            repo.git(&["update-ref", "refs/heads/main", "main~1"]);
            repo.commit("refs/heads/main", &[("c", content.as_bytes())]);
            match run_mirror(&repo, &store) {
                Ok(_) => published += 1,
                Err(MirrorError::Conflict) => in_conflict += 1,
                Err(error) => panic!("{error}"),
            }
            assert!(is_sound(&store), "round {round}");
        }
        let (deletions, conflicts) = collector.join().unwrap();
        eprintln!(
            "{published} publications, {in_conflict} in conflict with gc; {deletions} gcs deleted, \
             {conflicts} had a conflict"
        );
        assert_eq!(deletions, 4, "gc came to nothing");
    });
    assert!(in_conflict > 0, "no run conflicted with gc");
    run_mirror(&repo, &store).unwrap();
    assert!(is_sound(&store));
}

#[test]
fn deletion_that_fails_is_an_error_and_the_fence_comes_down() {
    let repo = sample();
    let store = MemoryStore::new();
    run_mirror(&repo, &store).unwrap();
    put(&store, &format!("objects/dd/{}", "d".repeat(38)), b"garbage");
    age(&store);
    store.inject(Fault::new(StoreErrorKind::Denied).on(Operation::Delete));
    let error = collect(&store).unwrap_err();
    assert!(matches!(&error, MirrorError::Store(e) if e.kind == StoreErrorKind::Denied), "{error}");
    let file = store.bytes("mirror_state/gc.json").unwrap();
    assert!(String::from_utf8_lossy(&file).contains("done"));
}

#[test]
fn interrupted_gc_deletes_nothing() {
    let repo = sample();
    let store = MemoryStore::new();
    run_mirror(&repo, &store).unwrap();
    put(&store, &format!("objects/dd/{}", "d".repeat(38)), b"garbage");
    age(&store);
    let cancelled = options();
    cancelled.cancel.cancel();
    let error = gc(&store, &cancelled, &|_| ()).unwrap_err();
    assert!(matches!(error, MirrorError::Interrupted), "{error}");
    assert!(store.keys().iter().any(|key| key.starts_with("objects/dd/")));
}

/// A bucket that keeps versions frees nothing when a key is deleted: gc says so, and until when.
#[test]
fn what_a_bucket_keeps_is_not_told_as_freed() {
    let repo = Repo::new();
    repo.commit("refs/heads/main", &[("a", b"a")]);
    let store = MemoryStore::new();
    let options = Options { layout: Layout::Loose, ..Options::default() };
    mirror(&LocalGit::new(repo.path()), &store, &options, &Silent).unwrap();
    let garbage = Key::new("objects/00/11111111111111111111111111111111111111").unwrap();
    let headers = ObjectHeaders::immutable("application/x-git-loose-object");
    let until = SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000_000);
    let collect =
        GcOptions { grace: Duration::ZERO, settle: Duration::ZERO, ..GcOptions::default() };
    for kept in [None, Some(Kept { locked_until: None }), Some(Kept { locked_until: Some(until) })]
    {
        store.put(&garbage, b"garbage", headers, None).unwrap();
        store.set_last_modified(garbage.as_str(), SystemTime::UNIX_EPOCH);
        let bucket = Hooked::new(&store, Conditions::Enforced).keeping(kept);
        let summary = gc(&bucket, &collect, &|_| ()).unwrap();
        assert_eq!((summary.loose, summary.bytes, summary.kept), (1, 7, kept));
    }
}

/// Not every store lists uploads, and not everyone may: what is garbage goes all the same.
#[test]
fn store_that_lists_no_uploads_is_collected_all_the_same() {
    for kind in [StoreErrorKind::Denied, StoreErrorKind::Unsupported] {
        let store = MemoryStore::new();
        run_mirror(&sample(), &store).unwrap();
        let key = format!("objects/dd/{}", "d".repeat(38));
        put(&store, &key, b"garbage");
        age(&store);
        store.inject(Fault::new(kind).on(Operation::ListUploads).always());
        collect(&store).unwrap();
        assert_eq!(store.bytes(&key), None, "{kind:?}");
    }
    let store = MemoryStore::new();
    run_mirror(&sample(), &store).unwrap();
    store.inject(Fault::new(StoreErrorKind::Other).on(Operation::ListUploads).always());
    collect(&store).unwrap_err();
}

local_git::also_with_sha256! {
    after_forced_pushes_exactly_what_a_fresh_mirror_has_is_left,
    only_unlisted_packs_and_unnamed_lfs_objects_go,
    listed_packs_are_walked_and_kept,
    loose_objects_that_a_listed_pack_holds_go_once_the_pack_is_older_than_the_grace_period,
    what_only_the_garbage_in_a_pack_names_goes,
}
