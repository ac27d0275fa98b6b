//! Attacks and accidents: a store, a cache or a person does something stupid, and nothing is lost.

use crate::support::state::{STATE, change_state, name_a_killed_run};
use crate::support::{hooked_store, local_git};
use std::collections::BTreeMap;
use std::io::Read;
use std::time::{Duration, SystemTime};

use hooked_store::{Conditions, Hooked};
use local_git::{LocalGit, Repo};
use mirror_git_to_s3::git::object::Oid;
use mirror_git_to_s3::git::refs::Advertisement;
use mirror_git_to_s3::maintain::gc::{GcOptions, gc};
use mirror_git_to_s3::maintain::verify::{VerifyOptions, verify};
use mirror_git_to_s3::mirror::{Layout, MirrorError, Options, Summary, mirror};
use mirror_git_to_s3::progress::Silent;
use mirror_git_to_s3::source::bundle::Bundle;
use mirror_git_to_s3::source::{Source, SourceError};
use mirror_git_to_s3::store::dir::DirStore;
use mirror_git_to_s3::store::memory::{Fault, MemoryStore, Operation, StoredObject};
use mirror_git_to_s3::store::{Key, Limits, ObjectHeaders, Store, StoreErrorKind};

const DAY: Duration = Duration::from_secs(24 * 3600);

fn sample() -> Repo {
    let repo = Repo::new();
    for round in 0..5 {
        let text = format!("round {round}\n");
        repo.commit("refs/heads/main", &[("a", text.as_bytes()), ("b", b"same\n")]);
    }
    repo
}

fn run_mirror(repo: &Repo, store: &dyn Store) -> Result<Summary, MirrorError> {
    mirror(
        &LocalGit::new(repo.path()),
        store,
        &Options { layout: Layout::Loose, ..Options::default() },
        &Silent,
    )
}

fn collect(store: &dyn Store) -> Result<(), MirrorError> {
    let options =
        GcOptions { grace: Duration::ZERO, settle: Duration::ZERO, ..GcOptions::default() };
    gc(store, &options, &|_| ()).map(drop)
}

fn put(store: &MemoryStore, key: &str, body: &[u8]) {
    let headers = ObjectHeaders::changing("text/plain");
    store.put(&Key::new(key).unwrap(), body, headers, None).unwrap();
}

/// A mirror with what other people keep below the same prefix, all of it days old, and an upload of
/// theirs under way.
fn shared_prefix(repo: &Repo) -> MemoryStore {
    let store = MemoryStore::new();
    run_mirror(repo, &store).unwrap();
    for key in ["photos/1.jpg", "mirror_tmp/notes.txt", "mirror_tmp/x/pack-0"] {
        put(&store, key, b"theirs");
    }
    put(&store, "mirror_state/replaced/readme.txt", b"theirs");
    for key in ["photos/2.jpg", "mirror_tmp/film.mov"] {
        let headers = ObjectHeaders::changing("video/quicktime");
        store.create_upload(&Key::new(key).unwrap(), headers).unwrap();
    }
    store.set_initiated(SystemTime::now() - 9 * DAY);
    for key in store.keys() {
        store.set_last_modified(&key, SystemTime::now() - 9 * DAY);
    }
    store
}

/// The Python tool ends HEAD without a line feed, and keeps no state.
#[test]
fn mirror_of_another_program_is_recorded_once_and_collected() {
    let repo = sample();
    let store = MemoryStore::new();
    run_mirror(&repo, &store).unwrap();
    store.delete(&[Key::new(STATE).unwrap()]).unwrap();
    let head = store.bytes("HEAD").unwrap();
    put(&store, "HEAD", head.trim_ascii_end());
    run_mirror(&repo, &store).unwrap();
    store.clear_recorded();
    run_mirror(&repo, &store).unwrap();
    let sent: Vec<Operation> = store.recorded().iter().map(|request| request.operation).collect();
    assert_eq!(sent, [Operation::Get; 3]);
    collect(&store).unwrap();
}

#[test]
fn listing_that_ignores_the_prefix_costs_no_key_and_no_upload() {
    let repo = sample();
    let store = shared_prefix(&repo);
    name_a_killed_run(&store);
    let before = store.keys();
    let broken = Hooked::new(&store, Conditions::Enforced).ignoring_prefix();
    let failed = run_mirror(&repo, &broken).expect_err("the store is broken");
    let MirrorError::Store(error) = &failed else { panic!("{failed}") };
    assert_eq!(error.kind, StoreErrorKind::Other);
    assert!(error.message.contains("ignores the prefix"), "{error}");
    assert!(collect(&broken).is_err());
    repo.commit("refs/heads/main", &[("c", b"new")]);
    assert!(run_mirror(&repo, &broken).is_err());
    assert_eq!((store.keys(), store.open_uploads()), (before, 2));
    assert!(broken.list("objects/", None).is_err());
    let error = broken.list_uploads("objects/").unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Unsupported);
    assert_eq!(broken.list("", None).unwrap().objects.len(), store.keys().len());
}

#[test]
fn keys_and_uploads_of_others_below_our_folders_stay() {
    let repo = sample();
    let store = shared_prefix(&repo);
    name_a_killed_run(&store);
    let before = store.keys();
    run_mirror(&repo, &store).unwrap();
    assert_eq!((store.keys(), store.open_uploads()), (before.clone(), 2));
    put(&store, "objects/00/11111111111111111111111111111111111111", b"garbage");
    collect(&store).unwrap();
    let gc_note = "mirror_state/gc.json";
    let after: Vec<_> = store.keys().into_iter().filter(|key| key != gc_note).collect();
    assert_eq!((after, store.open_uploads()), (before, 2));
}

/// A store that copies at most 1,000 bytes at once, so that a pack's final key is an upload.
fn small_copies() -> MemoryStore {
    MemoryStore::new().with_limits(Limits {
        min_part_bytes: 1,
        max_copy_bytes: 1000,
        max_put_bytes: 1000,
        ..Limits::S3
    })
}

fn packed(repo: &Repo, store: &dyn Store) -> Result<Summary, MirrorError> {
    let options = Options { layout: Layout::Pack, ..Options::default() };
    mirror(&LocalGit::new(repo.path()), store, &options, &Silent)
}

/// From the first request that `fault` fails on, nothing that would clean up goes through: to the
/// store, the run was killed there.
fn kill_at(store: &MemoryStore, fault: Fault) {
    store.inject(fault);
    for operation in [Operation::AbortUpload, Operation::Delete] {
        store.inject(Fault::new(StoreErrorKind::Other).on(operation).always());
    }
}

fn fatal() -> Fault {
    Fault::new(StoreErrorKind::Other)
}

fn large_repo() -> Repo {
    let repo = sample();
    let mut noise = vec![0; 10_000];
    fastrand::Rng::with_seed(1).fill(&mut noise);
    repo.commit("refs/heads/main", &[("noise", &noise)]);
    repo
}

/// What a cache that mixes up its answers does.
#[test]
fn gc_deletes_nothing_where_a_large_blob_answers_for_a_commit() {
    let repo = sample();
    let large = vec![b'x'; 5000];
    let tip = repo.commit("refs/heads/main", &[("a", b"new\n"), ("large", &large)]);
    let store = MemoryStore::new();
    run_mirror(&repo, &store).unwrap();
    let loose = |oid: &str| format!("objects/{}/{}", &oid[..2], &oid[2..]);
    let blob = store.bytes(&loose(&repo.rev("main:large").unwrap())).unwrap();
    for victim in ["main", "main^{tree}"] {
        let victim = loose(&repo.rev(victim).unwrap());
        let was = store.bytes(&victim).unwrap();
        put(&store, &victim, &blob);
        let before = store.keys();
        assert!(collect(&store).is_err(), "{victim}");
        assert_eq!(store.keys(), before);
        let quick = VerifyOptions { quick: true, ..VerifyOptions::default() };
        assert!(!verify(&store, &quick).unwrap().is_sound(), "{victim}");
        put(&store, &victim, &was);
    }
    collect(&store).unwrap();
    assert!(store.bytes(&loose(&tip)).is_some());
}

#[test]
fn upload_under_a_final_key_of_a_killed_run_is_aborted_by_the_next() {
    let repo = large_repo();
    let is_note = |key: &str| key.contains("/upload-");
    for (moment, open, fault) in [
        ("before the first part", 1, fatal().on(Operation::CopyPart)),
        ("between parts", 1, fatal().on(Operation::CopyPart).nth(3)),
        ("before it was completed", 1, {
            fatal().on(Operation::CompleteUpload).key(|key| key.starts_with("objects/pack/"))
        }),
        ("before its id was noted", 1, fatal().on(Operation::Put).key(is_note).nth(2)),
        ("before it was created", 0, {
            fatal().on(Operation::CreateUpload).key(|key| key.starts_with("objects/pack/"))
        }),
        ("when its answer was lost", 1, {
            let lost = Fault::transient().on(Operation::CreateUpload).after_effect();
            lost.key(|key| key.starts_with("objects/pack/"))
        }),
    ] {
        let store = small_copies();
        let theirs = Key::new(format!("objects/pack/pack-{}.pack", "0".repeat(40))).unwrap();
        let headers = ObjectHeaders::changing("text/plain");
        store.create_upload(&theirs, headers).unwrap();
        kill_at(&store, fault);
        packed(&repo, &store).expect_err(moment);
        assert_eq!(store.open_uploads(), 1 + open, "{moment}");
        store.clear_faults();
        packed(&repo, &store).expect(moment);
        let left = store.list_uploads("").unwrap();
        assert_eq!(left.len(), 1, "{moment}: {left:?}");
        assert_eq!(left[0].upload.key, theirs, "{moment}");
        assert!(!store.keys().iter().any(|key| key.starts_with("mirror_tmp")), "{moment}");
    }
}

#[test]
fn uploads_of_others_under_a_noted_key_stay() {
    let repo = large_repo();
    let headers = ObjectHeaders::changing("text/plain");
    let store = small_copies();
    kill_at(&store, fatal().on(Operation::Put).key(|key| key.contains("/upload-")).nth(2));
    packed(&repo, &store).expect_err("killed before the id was noted");
    store.clear_faults();
    let ours = store.list_uploads("objects/pack/").unwrap().remove(0).upload;
    // Another machine's run is about to store the same pack, and has noted its upload.
    let theirs = store.create_upload(&ours.key, headers).unwrap();
    let live = "mirror_tmp/elsewhere.01234567-1-2-3-4-5/upload-0";
    put(&store, live, format!("{}\n{}\n", theirs.key, theirs.id).as_bytes());
    store.clear_recorded();
    run_mirror(&Repo::new(), &store).expect("nothing is published yet");
    let left: Vec<_> = store.list_uploads("").unwrap().into_iter().map(|o| o.upload).collect();
    assert_eq!(left, [theirs]);

    // It has not noted its upload's id yet: the two cannot be distinguished, so both stay.
    let store = small_copies();
    kill_at(&store, fatal().on(Operation::Put).key(|key| key.contains("/upload-")).nth(2));
    packed(&repo, &store).expect_err("killed before the id was noted");
    store.clear_faults();
    store.create_upload(&ours.key, headers).unwrap();
    put(&store, live, format!("{}\n", ours.key).as_bytes());
    run_mirror(&Repo::new(), &store).unwrap();
    assert_eq!(store.open_uploads(), 2);
    // A day later the other one is stale as well.
    store.set_last_modified(live, SystemTime::now() - 2 * DAY);
    run_mirror(&Repo::new(), &store).unwrap();
    assert_eq!(store.open_uploads(), 0);

    // One that began an hour before the note is nobody's that we know.
    let store = small_copies();
    kill_at(&store, fatal().on(Operation::CreateUpload).key(|key| key.starts_with("objects/")));
    packed(&repo, &store).expect_err("killed before the upload was created");
    store.clear_faults();
    store.create_upload(&ours.key, headers).unwrap();
    store.set_initiated(SystemTime::now() - DAY / 24);
    run_mirror(&Repo::new(), &store).unwrap();
    assert_eq!(store.open_uploads(), 1);
}

#[test]
fn copy_in_parts_that_succeeds_leaves_no_note_and_costs_four_requests_more() {
    let repo = large_repo();
    let store = small_copies();
    packed(&repo, &store).unwrap();
    assert!(!store.keys().iter().any(|key| key.starts_with("mirror_tmp")), "{:?}", store.keys());
    let of = |operation, part: &str| {
        store
            .recorded()
            .iter()
            .filter(|r| r.operation == operation && r.key().contains(part))
            .count()
    };
    assert_eq!(of(Operation::Put, "/upload-"), 2);
    assert_eq!(of(Operation::Delete, "/upload-"), 1);
    assert_eq!(of(Operation::ListUploads, "objects/"), 1);
}

const PACK_LIST: &str = "objects/info/packs";

fn assert_guard(outcome: Result<impl std::fmt::Debug, MirrorError>, words: &str) {
    match outcome {
        Err(MirrorError::Guard(message)) => assert!(message.contains(words), "{message}"),
        other => panic!("{other:?}"),
    }
}

/// Keys but those that a run or gc rewrites by itself.
fn lasting(store: &MemoryStore) -> Vec<String> {
    store.keys().into_iter().filter(|key| !key.starts_with("mirror_state/")).collect()
}

#[test]
fn empty_refs_are_not_believed_by_gc_or_by_a_run() {
    let repo = sample();
    let store = MemoryStore::new();
    run_mirror(&repo, &store).unwrap();
    let whole = store.bytes("info/refs").unwrap();
    let before = lasting(&store);
    put(&store, "info/refs", b"");
    assert_guard(collect(&store), "0 refs; the last run recorded 1");
    assert_guard(run_mirror(&repo, &store), "run with --force");
    // Without the state nothing confirms it either.
    let state = store.bytes(STATE).unwrap();
    store.delete(&[Key::new(STATE).unwrap()]).unwrap();
    assert_guard(collect(&store), "no recorded state confirms that");
    put(&store, STATE, b"");
    let damaged = collect(&store).unwrap_err().to_string();
    assert!(damaged.contains("0 bytes"), "{damaged}");
    assert!(run_mirror(&repo, &store).is_err());
    put(&store, STATE, &state);
    assert_eq!(lasting(&store), before);
    // What the messages say mends it.
    let force = Options { force: true, layout: Layout::Loose, ..Options::default() };
    mirror(&LocalGit::new(repo.path()), &store, &force, &Silent).unwrap();
    assert_eq!(store.bytes("info/refs").unwrap(), whole);
    collect(&store).unwrap();
    assert_eq!(lasting(&store), before);
}

/// A cache's old answer, or a proxy's mistake, looks like this.
#[test]
fn missing_refs_of_a_mirror_that_was_published_are_not_a_first_run() {
    for layout in [Layout::Loose, Layout::Pack] {
        let repo = sample();
        let store = MemoryStore::new();
        let options = Options { layout, ..Options::default() };
        let run = |options: &Options| mirror(&LocalGit::new(repo.path()), &store, options, &Silent);
        run(&options).unwrap();
        store.delete(&[Key::new("info/refs").unwrap()]).unwrap();
        repo.commit("refs/heads/main", &[("c", b"new")]);
        let before = store.keys();
        for dry_run in [true, false] {
            let options = Options { dry_run, ..options.clone() };
            assert_guard(run(&options), "info/refs is missing");
            assert_guard(run(&options), "run once with --full");
        }
        assert_eq!(store.keys(), before, "nothing was written");
        // What the message says mends it, and so does what is said about an empty one.
        for options in
            [Options { full: true, ..options.clone() }, Options { force: true, ..options.clone() }]
        {
            store.delete(&[Key::new("info/refs").unwrap()]).unwrap();
            run(&options).unwrap();
            assert!(verify(&store, &VerifyOptions::default()).unwrap().is_sound());
        }
    }
}

/// Nothing was published: neither of these is a reason to refuse.
#[test]
fn first_run_continues_beside_a_state_that_names_no_refs() {
    let repo = sample();
    let store = MemoryStore::new();
    put(&store, STATE, b"{}");
    run_mirror(&repo, &store).unwrap();
    let store = MemoryStore::new();
    store.inject(fatal().on(Operation::Put).key(|key| key == "info/refs"));
    run_mirror(&repo, &store).unwrap_err();
    assert!(store.bytes(STATE).is_some() && store.bytes("info/refs").is_none());
    store.clear_faults();
    run_mirror(&repo, &store).unwrap();
    assert!(verify(&store, &VerifyOptions::default()).unwrap().is_sound());
}

#[test]
fn mirror_of_an_empty_repository_is_collected_and_mirrored_again() {
    let store = MemoryStore::new();
    run_mirror(&Repo::new(), &store).unwrap();
    assert_eq!(&*store.bytes("info/refs").unwrap(), b"");
    put(&store, "objects/00/11111111111111111111111111111111111111", b"garbage");
    collect(&store).unwrap();
    assert!(!store.keys().iter().any(|key| key.starts_with("objects/00/")));
    run_mirror(&sample(), &store).unwrap();
}

#[test]
fn gc_refuses_refs_that_the_state_does_not_describe() {
    let repo = sample();
    for branch in ["a", "b", "c", "d"] {
        repo.git(&["branch", branch, "main"]);
    }
    let store = MemoryStore::new();
    run_mirror(&repo, &store).unwrap();
    let whole = store.bytes("info/refs").unwrap().to_vec();
    let lines: Vec<&[u8]> = whole.split_inclusive(|byte| *byte == b'\n').collect();
    let without_fingerprint = |state: &mut serde_json::Map<_, _>| {
        state.remove("ref_fingerprint");
    };
    for (change, lines_left, refused) in [
        (None, 5, false),
        (None, 4, true),
        (Some("no fingerprint"), 3, false),
        (Some("no fingerprint"), 2, true),
        (Some("no state"), 2, false),
    ] {
        let kept = store.bytes(STATE).unwrap();
        put(&store, "info/refs", &lines[..lines_left].concat());
        match change {
            Some("no state") => store.delete(&[Key::new(STATE).unwrap()]).unwrap(),
            Some(_) => change_state(&store, without_fingerprint),
            None => {}
        }
        let before = lasting(&store);
        match refused {
            true => assert_guard(collect(&store), "Run the mirror once"),
            false => collect(&store).unwrap(),
        }
        assert_eq!(lasting(&store), before, "{change:?} {lines_left}");
        put(&store, STATE, &kept);
    }
}

#[test]
fn state_that_could_not_be_written_locks_gc_out_until_the_next_run() {
    let repo = sample();
    let store = MemoryStore::new();
    run_mirror(&repo, &store).unwrap();
    repo.commit("refs/heads/main", &[("c", b"new")]);
    // The first time it says that the run writes.
    store.inject(fatal().on(Operation::Put).key(|key| key == STATE).nth(2));
    run_mirror(&repo, &store).unwrap();
    assert_guard(collect(&store), "the refs do not match those recorded by the last run");
    let unchanged = run_mirror(&repo, &store).unwrap();
    assert_eq!(unchanged.status, mirror_git_to_s3::mirror::Status::Unchanged);
    collect(&store).unwrap();
}

#[test]
fn empty_list_of_packs_is_damage() {
    let repo = sample();
    let store = MemoryStore::new();
    packed(&repo, &store).unwrap();
    let before = lasting(&store);
    put(&store, PACK_LIST, b"");
    let damaged = |outcome: Result<(), MirrorError>| {
        let error = outcome.unwrap_err().to_string();
        assert!(error.contains("objects/info/packs") && error.contains("0 bytes"), "{error}");
    };
    damaged(collect(&store));
    repo.commit("refs/heads/main", &[("c", b"new")]);
    damaged(packed(&repo, &store).map(drop));
    damaged(run_mirror(&repo, &store).map(drop));
    assert_eq!(&*store.bytes(PACK_LIST).unwrap(), b"");
    assert!(before.iter().all(|key| store.bytes(key).is_some()));
    let report = verify(&store, &VerifyOptions::default()).unwrap();
    assert!(report.findings.iter().any(|found| found.key == PACK_LIST), "{report:?}");
    // What the message says mends it.
    store.delete(&[Key::new(PACK_LIST).unwrap()]).unwrap();
    let full = Options { layout: Layout::Pack, full: true, ..Options::default() };
    mirror(&LocalGit::new(repo.path()), &store, &full, &Silent).unwrap();
    assert!(verify(&store, &VerifyOptions::default()).unwrap().is_sound());
}

/// A mirror of several packs, of which no run makes fewer.
fn several_packs(repo: &Repo) -> MemoryStore {
    let store = MemoryStore::new();
    for round in 0..4 {
        repo.commit("refs/heads/main", &[("pack", format!("{round}").as_bytes())]);
        packed(repo, &store).unwrap();
    }
    store
}

fn assert_mirror_error(outcome: Result<impl std::fmt::Debug, MirrorError>, words: &[&str]) {
    match outcome {
        Err(MirrorError::Mirror(error)) => {
            assert!(words.iter().all(|word| error.contains(word)), "{error}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn list_that_has_lost_packs_is_not_published_again() {
    for (lines, may_list) in [(Some(0), true), (Some(2), true), (None, true), (Some(2), false)] {
        let repo = sample();
        let store = several_packs(&repo);
        let whole = store.bytes(PACK_LIST).unwrap().to_vec();
        let text = String::from_utf8(whole).unwrap();
        match lines {
            Some(count) => {
                let some: String = text.split_inclusive('\n').take(count).collect();
                put(&store, PACK_LIST, format!("{some}\n").as_bytes());
            }
            None => store.delete(&[Key::new(PACK_LIST).unwrap()]).unwrap(),
        }
        let (left, refs) = (store.bytes(PACK_LIST), store.bytes("info/refs"));
        let before = lasting(&store);
        if !may_list {
            let denied = Fault::new(StoreErrorKind::Denied).on(Operation::List);
            store.inject(denied.always());
        }
        repo.commit("refs/heads/main", &[("c", b"new")]);
        let words = [PACK_LIST, "recorded 4", "--full", "nothing was published"];
        assert_mirror_error(packed(&repo, &store), &words);
        assert_mirror_error(run_mirror(&repo, &store), &words);
        assert_eq!((store.bytes(PACK_LIST), store.bytes("info/refs")), (left, refs), "{lines:?}");
        assert_eq!(lasting(&store), before, "an attempt leaves nothing");
        store.clear_faults();
        // What the message says mends it.
        let full = Options { layout: Layout::Pack, full: true, ..Options::default() };
        mirror(&LocalGit::new(repo.path()), &store, &full, &Silent).unwrap();
        assert!(verify(&store, &VerifyOptions::default()).unwrap().is_sound());
        repo.commit("refs/heads/main", &[("c", b"newer")]);
        packed(&repo, &store).unwrap();
        assert!(verify(&store, &VerifyOptions::default()).unwrap().is_sound());
    }
}

#[test]
fn list_that_was_compacted_may_be_shorter_than_the_state_says() {
    let repo = sample();
    let store = several_packs(&repo);
    let compact = Options { layout: Layout::Pack, max_packs: 2, ..Options::default() };
    repo.commit("refs/heads/main", &[("c", b"new")]);
    // After what says that it writes, and what is published before it compacts.
    store.inject(fatal().on(Operation::Put).key(|key| key == STATE).nth(3));
    mirror(&LocalGit::new(repo.path()), &store, &compact, &Silent).unwrap();
    let state: serde_json::Value = serde_json::from_slice(&store.bytes(STATE).unwrap()).unwrap();
    assert_eq!(state["holds"]["packs"], 5, "{state}");
    repo.commit("refs/heads/main", &[("c", b"newer")]);
    packed(&repo, &store).unwrap();
    // As when a run beside the one that compacted has recorded last.
    change_state(&store, |state| state["holds"]["packs"] = 9.into());
    repo.commit("refs/heads/main", &[("c", b"newest")]);
    packed(&repo, &store).unwrap();
    assert!(verify(&store, &VerifyOptions::default()).unwrap().is_sound());
}

#[test]
fn list_or_refs_that_are_there_and_cannot_be_read_are_not_overwritten() {
    let repo = sample();
    let store = several_packs(&repo);
    // An older program did not count.
    change_state(&store, |state| drop(state.remove("holds")));
    repo.commit("refs/heads/main", &[("c", b"new")]);
    for (hidden, words) in [(PACK_LIST, "nothing was published"), ("info/refs", "cache")] {
        let before = store.bytes(hidden);
        let fault = Fault::new(StoreErrorKind::NotFound).on(Operation::Get);
        store.inject(fault.key(move |key| key == hidden).always());
        match packed(&repo, &store) {
            Err(MirrorError::Mirror(error) | MirrorError::Guard(error)) => {
                assert!(error.contains(hidden) && error.contains(words), "{error}");
            }
            other => panic!("{other:?}"),
        }
        // Nor by a run that stores everything again.
        let full = Options { layout: Layout::Pack, full: true, ..Options::default() };
        let full = mirror(&LocalGit::new(repo.path()), &store, &full, &Silent);
        assert_mirror_error(full, &[hidden, "nothing was published"]);
        assert_eq!(store.bytes(hidden), before);
        store.clear_faults();
    }
    packed(&repo, &store).unwrap();
    assert!(verify(&store, &VerifyOptions::default()).unwrap().is_sound());
}

/// A repository under another name.
struct Named<'r>(LocalGit, &'r str);

impl Source for Named<'_> {
    fn describe(&self) -> String {
        self.1.to_owned()
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
    fn requests(&self) -> u64 {
        self.0.requests()
    }
}

#[test]
fn another_source_does_not_replace_a_mirror() {
    let (repo, other) = (sample(), sample());
    other.commit("refs/heads/main", &[("other", b"repository")]);
    let store = MemoryStore::new();
    let run = |repo: &Repo, name: &str, options: &Options| {
        mirror(&Named(LocalGit::new(repo.path()), name), &store, options, &Silent)
    };
    let plain = Options::default();
    run(&repo, "https://git.example/a.git", &plain).unwrap();
    run(&repo, "http://GIT.example:80/a/", &plain).expect("another name of the same");
    let before = store.snapshot();
    for options in [
        plain.clone(),
        Options { dry_run: true, ..plain.clone() },
        Options { force: true, full: true, ..plain.clone() },
    ] {
        let refused = run(&other, "https://git.example/b.git", &options);
        assert_guard(
            refused,
            "is a mirror of https://git.example/a.git, not of https://git.example/b.git",
        );
        assert_guard(run(&other, "https://git.example/b.git", &options), "--move-source");
        // Also while both have the same refs.
        assert_guard(run(&repo, "https://git.example/b.git", &options), "--move-source");
    }
    let bytes = |snapshot: BTreeMap<String, StoredObject>| -> Vec<_> {
        snapshot.into_iter().map(|(key, object)| (key, object.bytes)).collect()
    };
    assert_eq!(bytes(store.snapshot()), bytes(before));
    // Bundles have no identity, and do not make the mirror forget its own.
    run(&repo, "bundle:/media/usb/a.bundle", &plain).unwrap();
    repo.commit("refs/heads/main", &[("c", b"new")]);
    run(&repo, "-", &plain).unwrap();
    assert_guard(
        run(&other, "https://git.example/b.git", &plain),
        "a mirror of https://git.example/a.git",
    );
    let taken = Options { move_source: true, ..plain.clone() };
    run(&repo, "https://git.example/moved.git", &taken).unwrap();
    run(&repo, "https://git.example/moved", &plain).unwrap();
    assert_guard(
        run(&repo, "https://git.example/a.git", &plain),
        "a mirror of https://git.example/moved.git",
    );
}

#[test]
fn state_of_an_older_program_names_the_source_too() {
    let repo = sample();
    let store = MemoryStore::new();
    run_mirror(&repo, &store).unwrap();
    change_state(&store, |state| {
        state.remove("repository");
    });
    let source = Named(LocalGit::new(repo.path()), "https://git.example/else");
    let refused = mirror(&source, &store, &Options::default(), &Silent);
    assert_guard(refused, "a mirror of https://git.example/repo");
    // One that a bundle was mirrored by names none.
    change_state(&store, |state| {
        state.insert("source".to_owned(), "bundle:/a".into());
    });
    mirror(&source, &store, &Options::default(), &Silent).unwrap();
}

/// A source during whose fetch another run publishes to the same directory.
struct InConflict<'r> {
    repo: &'r Repo,
    inner: LocalGit,
    target: &'r std::path::Path,
}

impl Source for InConflict<'_> {
    fn describe(&self) -> String {
        self.inner.describe()
    }

    fn advertisement(&self) -> Result<Advertisement, SourceError> {
        self.inner.advertisement()
    }

    fn fetch<'a>(
        &'a self,
        wants: &[Oid],
        haves: &[Oid],
        words: Box<dyn FnMut(&str) + Send + 'a>,
    ) -> Result<Box<dyn Read + Send + 'a>, SourceError> {
        self.repo.commit("refs/heads/faster", &[("c", b"faster")]);
        run_mirror(self.repo, &DirStore::new(self.target).unwrap()).unwrap();
        self.inner.fetch(wants, haves, words)
    }

    fn requests(&self) -> u64 {
        self.inner.requests()
    }
}

/// What git reads of a directory by path, and what it reads over HTTP: `oid name` lines.
fn both_refs(target: &std::path::Path) -> [Vec<String>; 2] {
    ["packed-refs", "info/refs"].map(|file| {
        let text = std::fs::read_to_string(target.join(file)).unwrap();
        let lines = text.lines().filter(|line| !line.starts_with('#') && !line.ends_with("^{}"));
        lines.map(|line| line.replace('\t', " ")).collect()
    })
}

#[test]
fn loser_of_a_race_leaves_nothing_in_packed_refs_and_what_is_stale_is_mended() {
    let repo = sample();
    let dir = tempfile::tempdir().unwrap();
    run_mirror(&repo, &DirStore::new(dir.path()).unwrap()).unwrap();
    repo.commit("refs/heads/main", &[("c", b"slower")]);
    let source = InConflict { repo: &repo, inner: LocalGit::new(repo.path()), target: dir.path() };
    let store = DirStore::new(dir.path()).unwrap();
    let lost = mirror(&source, &store, &Options::default(), &Silent);
    assert!(matches!(lost, Err(MirrorError::Conflict)), "{lost:?}");
    let [packed, info] = both_refs(dir.path());
    assert!(packed == info && packed.len() == 2, "{packed:?} {info:?}");
    // A run that was killed between the two files; the next one has nothing new.
    std::fs::write(dir.path().join("packed-refs"), "# pack-refs with: sorted \n").unwrap();
    let next = run_mirror(&repo, &DirStore::new(dir.path()).unwrap()).unwrap();
    assert_eq!(next.status, mirror_git_to_s3::mirror::Status::Unchanged);
    assert_eq!(both_refs(dir.path()), [info.clone(), info]);
}

/// A bundle of all refs, in a file.
fn bundle_of(repo: &Repo, dir: &std::path::Path, name: &str) -> Bundle {
    let path = dir.join(name);
    repo.git(&["bundle", "create", "-q", path.to_str().unwrap(), "--all"]);
    Bundle::file(path)
}

/// Nothing but the published commits says whose mirror it is.
#[test]
fn whole_of_another_repository_does_not_replace_a_mirror_that_has_lost_its_state() {
    for layout in [Layout::Loose, Layout::Pack] {
        let (repo, other) = (sample(), Repo::new());
        other.commit("refs/heads/main", &[("other", b"repository")]);
        let store = MemoryStore::new();
        let options = Options { layout, ..Options::default() };
        let run = |repo: &Repo, options: &Options| {
            mirror(&LocalGit::new(repo.path()), &store, options, &Silent)
        };
        run(&repo, &options).unwrap();
        let refs = store.bytes("info/refs");
        store.delete(&[Key::new(STATE).unwrap()]).unwrap();
        let full = Options { full: true, ..options };
        assert_guard(run(&other, &full), "another repository");
        assert_eq!(store.bytes("info/refs"), refs);
        repo.commit("refs/heads/main", &[("c", b"new")]);
        run(&repo, &full).unwrap();
        assert_ne!(store.bytes("info/refs"), refs);
    }
}

#[test]
fn bundle_of_another_repository_does_not_replace_a_mirror() {
    let dir = tempfile::tempdir().unwrap();
    for layout in [Layout::Loose, Layout::Pack] {
        let (repo, other) = (sample(), Repo::new());
        other.commit("refs/heads/main", &[("other", b"repository")]);
        let store = MemoryStore::new();
        let options = Options { layout, ..Options::default() };
        let run = |bundle: &Bundle, options: &Options| mirror(bundle, &store, options, &Silent);
        run(&bundle_of(&repo, dir.path(), "a"), &options).unwrap();
        let refs = store.bytes("info/refs");
        let other_bundle = bundle_of(&other, dir.path(), "b");
        for full in [false, true] {
            let options = Options { full, ..options.clone() };
            assert_guard(run(&other_bundle, &options), "another repository");
            assert_eq!(store.bytes("info/refs"), refs);
            assert!(verify(&store, &VerifyOptions::default()).unwrap().is_sound());
        }
        // A later one of the same: a branch that moved on, one that is new, and one of another name.
        repo.commit("refs/heads/main", &[("c", b"new")]);
        run(&bundle_of(&repo, dir.path(), "a"), &options).unwrap();
        repo.commit("refs/heads/topic", &[("d", b"topic")]);
        run(&bundle_of(&repo, dir.path(), "a"), &options).unwrap();
        repo.git(&["branch", "-m", "topic", "renamed"]);
        repo.commit("refs/heads/main", &[("e", b"more")]);
        run(&bundle_of(&repo, dir.path(), "a"), &options).unwrap();
        // If it is meant.
        for options in [
            Options { force: true, ..options.clone() },
            Options { move_source: true, ..options.clone() },
        ] {
            run(&other_bundle, &options).unwrap();
            assert_ne!(store.bytes("info/refs"), refs);
            run(&bundle_of(&repo, dir.path(), "a"), &options).unwrap();
        }
        assert!(verify(&store, &VerifyOptions::default()).unwrap().is_sound());
    }
}
