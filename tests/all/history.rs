//! Past publications: what upstream destroys is kept for so long, is verified, and comes back.

use crate::support::state::{STATE, change_state};
use crate::support::{git_http, hooked_store, local_git, program};
use std::process::Command;
use std::time::{Duration, SystemTime};

use git_http::StaticHttp;
use hooked_store::{Conditions, Hooked};
use local_git::{LocalGit, Repo, git, run};
use mirror_git_to_s3::maintain::gc::{GcOptions, GcSummary, gc};
use mirror_git_to_s3::maintain::restore::{
    Publication, RestoreOptions, Restored, publications, restore,
};
use mirror_git_to_s3::maintain::verify::{VerifyOptions, VerifyReport, verify};
use mirror_git_to_s3::mirror::{Cancel, Layout, MirrorError, Options, Status, mirror};
use mirror_git_to_s3::progress::Silent;
use mirror_git_to_s3::repair::repair;
use mirror_git_to_s3::store::memory::{MemoryStore, Operation};
use mirror_git_to_s3::store::{Key, ObjectHeaders, Store};

const DAY: Duration = Duration::from_secs(24 * 3600);
const FOLDER: &str = "mirror_state/refs/";

fn keeping(layout: Layout) -> Options {
    Options { layout, keep_history: Some(90 * DAY), concurrency: 4, ..Options::default() }
}

fn mirror_with(repo: &Repo, store: &MemoryStore, options: &Options) -> Status {
    mirror(&LocalGit::new(repo.path()), store, options, &Silent).unwrap().status
}

fn collect(store: &MemoryStore) -> Result<GcSummary, MirrorError> {
    let options = GcOptions { settle: Duration::ZERO, concurrency: 4, ..GcOptions::default() };
    gc(store, &options, &|_| ())
}

fn check(store: &MemoryStore) -> VerifyReport {
    verify(store, &VerifyOptions { concurrency: 4, ..VerifyOptions::default() }).unwrap()
}

fn restoring() -> RestoreOptions {
    let (concurrency, memory_bytes) = (4, 64 << 20);
    RestoreOptions { concurrency, memory_bytes, dry_run: false, cancel: Cancel::default() }
}

fn restore_at(store: &dyn Store, at: &str) -> Result<Restored, MirrorError> {
    restore(store, at, &restoring(), &Silent)
}

fn listed(store: &MemoryStore) -> Vec<Publication> {
    let mut listed = Vec::new();
    publications(store, 64 << 20, &Cancel::default(), &mut |one| listed.push(one)).unwrap();
    listed
}

fn snapshots(store: &MemoryStore) -> Vec<String> {
    let keys = store.keys().into_iter();
    keys.filter_map(|key| key.strip_prefix(FOLDER).map(str::to_owned)).collect()
}

/// Makes all that is stored old enough for gc.
fn age(store: &MemoryStore) {
    for key in store.keys() {
        store.set_last_modified(&key, SystemTime::now() - 2 * DAY);
    }
}

fn put(store: &MemoryStore, key: &str, body: &[u8]) {
    let headers = ObjectHeaders::immutable("text/plain");
    store.put(&Key::new(key).unwrap(), body, headers, None).unwrap();
}

fn delete(store: &MemoryStore, key: &str) {
    assert!(store.bytes(key).is_some(), "{key}");
    store.delete(&[Key::new(key).unwrap()]).unwrap();
}

/// As if the publication had been on this day.
fn backdate(store: &MemoryStore, name: &str, to: &str) {
    let (key, new) = (format!("{FOLDER}{name}"), format!("{FOLDER}{to}"));
    put(store, &new, &store.bytes(&key).unwrap());
    delete(store, &key);
    store.set_last_modified(&new, SystemTime::UNIX_EPOCH);
    change_state(store, |state| {
        let names = state["snapshots"].as_array_mut().unwrap();
        *names.iter_mut().find(|noted| *noted == name).unwrap() = to.into();
    });
}

fn loose_key(oid: &str) -> String {
    format!("objects/{}/{}", &oid[..2], &oid[2..])
}

fn sample() -> Repo {
    let repo = Repo::new();
    for round in 0..4 {
        repo.commit("refs/heads/main", &[("a", format!("round {round}\n").as_bytes())]);
    }
    repo.commit("refs/heads/gone", &[("b", b"only on a branch that goes away\n")]);
    repo.git(&["tag", "-a", "-m", "annotated", "v1", "main~2"]);
    repo
}

/// Upstream destroys history: a force-push, and a branch is deleted.
fn destroy(repo: &Repo) {
    repo.git(&["update-ref", "refs/heads/main", "main~3"]);
    repo.commit("refs/heads/main", &[("c", b"another way\n")]);
    repo.git(&["update-ref", "-d", "refs/heads/gone"]);
}

/// Stock git clones the mirror: its refs, and whether it has this commit.
fn clone(store: &MemoryStore) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    assert!(hooked_store::dump(store, &dir.path().join("published")));
    let server = StaticHttp::start(&dir.path().join("published"));
    let url = format!("{}/", server.url());
    run(git(dir.path()).args(["clone", "-q", "--mirror", &url, "clone"]), b"");
    run(git(&dir.path().join("clone")).args(["fsck", "--full", "--strict"]), b"");
    let refs = local_git::all_refs(&dir.path().join("clone"));
    (dir, refs)
}

#[test]
fn what_upstream_destroys_stays_and_is_published_again() {
    for layout in [Layout::Loose, Layout::Pack, Layout::Auto] {
        let (repo, store) = (sample(), MemoryStore::new());
        mirror_with(&repo, &store, &keeping(layout));
        let (before, gone) = (repo.refs(), repo.rev("refs/heads/gone").unwrap());
        destroy(&repo);
        mirror_with(&repo, &store, &keeping(layout));
        let names = snapshots(&store);
        assert_eq!(names.len(), 2, "{layout:?}: {names:?}");
        age(&store);
        let collected = collect(&store).unwrap();
        assert_eq!((collected.deleted(), collected.history), (0, 0), "{layout:?}");
        assert!(check(&store).is_sound());

        let restored = restore_at(&store, &names[0]).unwrap();
        let changed: Vec<&str> = restored.changes.iter().map(|change| &*change.name).collect();
        assert_eq!(changed, ["refs/heads/gone", "refs/heads/main"]);
        let (dir, refs) = clone(&store);
        let now: String = refs.lines().map(|line| format!("{line}\n")).collect();
        assert!(before.lines().all(|line| now.contains(line.split(' ').next().unwrap())), "{now}");
        run(git(&dir.path().join("clone")).args(["cat-file", "-e", &gone]), b"");
        // It is a publication like others: recorded, kept, and undone by another one.
        assert!(check(&store).is_sound() && check(&store).notices.is_empty());
        assert_eq!(snapshots(&store).len(), 3);
        assert_eq!(collect(&store).unwrap().deleted(), 0);
        restore_at(&store, &names[1]).unwrap();
        assert_eq!(clone(&store).1, local_git::all_refs(repo.path()));
        assert_eq!(
            mirror_with(&repo, &store, &Options { layout, ..Options::default() }),
            Status::Unchanged
        );
    }
}

#[test]
fn after_its_time_a_publication_goes_with_what_it_alone_needs() {
    let (repo, store) = (sample(), MemoryStore::new());
    mirror_with(&repo, &store, &keeping(Layout::Loose));
    let gone = loose_key(&repo.rev("refs/heads/gone").unwrap());
    destroy(&repo);
    mirror_with(&repo, &store, &keeping(Layout::Loose));
    let second = repo.rev("main").unwrap();
    repo.commit("refs/heads/main", &[("d", b"further\n")]);
    mirror_with(&repo, &store, &keeping(Layout::Loose));
    let names = snapshots(&store);
    backdate(&store, &names[0], "20200101T000000Z");
    backdate(&store, &names[1], "20200301T000000Z");
    age(&store);
    store.set_last_modified(&format!("{FOLDER}20200301T000000Z"), SystemTime::UNIX_EPOCH);
    // The second one was what is published until a moment ago, though it is years old.
    let dry = GcOptions { dry_run: true, settle: Duration::ZERO, ..GcOptions::default() };
    assert_eq!(gc(&store, &dry, &|_| ()).unwrap().history, 1);
    assert!(store.bytes(&gone).is_some());
    let collected = collect(&store).unwrap();
    assert!(collected.loose > 0 && collected.history == 1, "{collected:?}");
    assert!(store.bytes(&gone).is_none());
    assert!(store.bytes(&loose_key(&second)).is_some());
    assert_eq!(snapshots(&store), ["20200301T000000Z", &names[2]]);
    assert!(check(&store).is_sound());
    restore_at(&store, "20200301T000000Z").unwrap();
    assert_eq!(clone(&store).1.lines().count(), 2);
}

#[test]
fn restore_is_refused_with_words_if_anything_is_missing_and_verify_says_who_needs_it() {
    let (repo, store) = (sample(), MemoryStore::new());
    mirror_with(&repo, &store, &keeping(Layout::Loose));
    let blob = loose_key(&repo.rev("gone:b").unwrap());
    let commit = loose_key(&repo.rev("gone").unwrap());
    destroy(&repo);
    mirror_with(&repo, &store, &keeping(Layout::Loose));
    delete(&store, &blob);
    let name = &snapshots(&store)[0];
    let report = check(&store);
    let words: String = report.findings.iter().map(|finding| format!("{finding}\n")).collect();
    assert_eq!(words, format!("{blob}: missing (reached by refs/heads/gone at {name})\n"));
    store.clear_recorded();
    let error = restore_at(&store, name).unwrap_err().to_string();
    for part in ["is incomplete", &blob, "refs/heads/gone", "nothing was published"] {
        assert!(error.contains(part), "{error} does not say: {part}");
    }
    let writes = [Operation::Put, Operation::Delete, Operation::Copy];
    assert!(store.recorded().iter().all(|request| !writes.contains(&request.operation)));
    // gc does not ask for blobs, which lead nowhere.
    delete(&store, &commit);
    age(&store);
    let error = collect(&store).unwrap_err().to_string();
    assert!(error.contains(&commit), "gc deletes nothing if what is kept is not whole: {error}");
    for (at, words) in [
        ("20200101T000000Z", "there is no publication 20200101T000000Z"),
        ("2020-01-01T00:00:00Z", "the oldest publication kept is"),
        ("last week", "neither a time such as"),
    ] {
        let error = restore_at(&store, at).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn restore_that_conflicts_with_a_run_or_gc_publishes_nothing() {
    let (repo, store) = (sample(), MemoryStore::new());
    mirror_with(&repo, &store, &keeping(Layout::Loose));
    destroy(&repo);
    mirror_with(&repo, &store, &keeping(Layout::Loose));
    let names = snapshots(&store);
    let published = store.bytes("info/refs").unwrap();
    for conditions in [Conditions::Enforced, Conditions::MatchesRefused] {
        let other =
            [&published[..], b"1111111111111111111111111111111111111111\trefs/heads/z\n"].concat();
        let (inner, theirs) = (store.clone(), other.clone());
        let in_conflict = Hooked::new(&store, conditions).before_put(move |key| {
            if key.as_str() == "info/refs" {
                put(&inner, "info/refs", &theirs);
            }
        });
        let error = restore_at(&in_conflict, &names[0]).unwrap_err();
        assert!(matches!(error, MirrorError::Conflict), "{error}");
        assert_eq!(*store.bytes("info/refs").unwrap(), other[..]);
        put(&store, "info/refs", &published);
    }
    // Its first write is the snapshot of what was published by a run that was killed.
    delete(&store, &format!("{FOLDER}{}", names[1]));
    let inner = store.clone();
    let deleting = Hooked::new(&store, Conditions::Enforced).before_put(move |_| {
        put(&inner, "mirror_state/gc.json", b"{\"state\":\"deleting\"}");
    });
    let error = restore_at(&deleting, &names[0]).unwrap_err();
    assert!(matches!(error, MirrorError::Conflict), "{error}");
    assert_eq!(store.bytes("info/refs").unwrap(), published);
}

#[test]
fn history_is_off_until_it_is_asked_for_and_stays_on_until_zero_ends_it() {
    let (repo, store) = (sample(), MemoryStore::new());
    let plain = Options { layout: Layout::Loose, ..Options::default() };
    mirror_with(&repo, &store, &plain);
    assert!(snapshots(&store).is_empty() && listed(&store).is_empty());
    let gone = loose_key(&repo.rev("refs/heads/gone").unwrap());
    // What was published before it began is kept as well.
    destroy(&repo);
    mirror_with(&repo, &store, &keeping(Layout::Loose));
    assert_eq!(snapshots(&store).len(), 2);
    repo.commit("refs/heads/main", &[("d", b"further\n")]);
    mirror_with(&repo, &store, &plain);
    assert_eq!(snapshots(&store).len(), 3, "the mirror knows that its history is kept");
    age(&store);
    assert_eq!(collect(&store).unwrap().deleted(), 0);
    store.clear_recorded();
    assert_eq!(mirror_with(&repo, &store, &keeping(Layout::Loose)), Status::Unchanged);
    assert!(store.recorded().iter().all(|request| request.operation != Operation::Put));
    // A state that says nothing of it is no order to delete it.
    let state = store.bytes("mirror_state/state.json").unwrap();
    delete(&store, "mirror_state/state.json");
    assert_eq!(collect(&store).unwrap().deleted(), 0);
    put(&store, "mirror_state/state.json", &state);
    let ended = Options { keep_history: Some(Duration::ZERO), ..plain.clone() };
    mirror_with(&repo, &store, &ended);
    assert_eq!(snapshots(&store).len(), 3);
    let collected = collect(&store).unwrap();
    assert!(collected.history == 3 && collected.loose > 0, "{collected:?}");
    assert!(snapshots(&store).is_empty() && store.bytes(&gone).is_none());
    assert!(check(&store).is_sound());
    repo.commit("refs/heads/main", &[("e", b"and further\n")]);
    mirror_with(&repo, &store, &plain);
    assert!(snapshots(&store).is_empty());
}

#[test]
fn history_that_begins_with_nothing_new_notes_what_is_published() {
    let (repo, store) = (sample(), MemoryStore::new());
    mirror_with(&repo, &store, &Options::default());
    assert_eq!(mirror_with(&repo, &store, &keeping(Layout::Auto)), Status::Unchanged);
    assert_eq!(snapshots(&store).len(), 1);
    assert_eq!(listed(&store)[0].refs, Ok(3));
}

/// Else `--full` would take packs from the list that only past publications need.
#[test]
fn packs_that_past_publications_need_stay_listed_when_the_whole_comes_again() {
    let (repo, store) = (sample(), MemoryStore::new());
    mirror_with(&repo, &store, &keeping(Layout::Pack));
    destroy(&repo);
    mirror_with(&repo, &store, &keeping(Layout::Pack));
    let full = Options { full: true, ..keeping(Layout::Pack) };
    mirror_with(&repo, &store, &full);
    age(&store);
    collect(&store).unwrap();
    assert!(check(&store).is_sound());
    restore_at(&store, &snapshots(&store)[0]).unwrap();
    clone(&store);
}

#[test]
fn damaged_snapshot_is_a_finding_and_gc_deletes_nothing() {
    let (repo, store) = (sample(), MemoryStore::new());
    mirror_with(&repo, &store, &keeping(Layout::Loose));
    destroy(&repo);
    mirror_with(&repo, &store, &keeping(Layout::Loose));
    let key = format!("{FOLDER}{}", snapshots(&store)[0]);
    let mut bytes = store.bytes(&key).unwrap().to_vec();
    let end = bytes.len() - 3;
    bytes[end] ^= 1;
    put(&store, &key, &bytes);
    age(&store);
    assert!(check(&store).findings.iter().any(|finding| finding.key == key));
    assert!(collect(&store).unwrap_err().to_string().contains(&key));
    assert!(listed(&store)[0].refs.is_err());
    assert!(
        restore_at(&store, &snapshots(&store)[0])
            .unwrap_err()
            .to_string()
            .contains("cannot be read")
    );
}

/// Three publications; upstream has destroyed what the first two had.
fn three_publications() -> (Repo, MemoryStore) {
    let (repo, store) = (sample(), MemoryStore::new());
    mirror_with(&repo, &store, &keeping(Layout::Loose));
    repo.commit("refs/heads/gone", &[("d", b"the second had it\n")]);
    mirror_with(&repo, &store, &keeping(Layout::Loose));
    destroy(&repo);
    mirror_with(&repo, &store, &keeping(Layout::Loose));
    age(&store);
    (repo, store)
}

#[test]
fn missing_snapshot_is_a_finding_until_it_is_accepted_and_gc_waits_for_that() {
    for which in 0..3 {
        let (_repo, store) = three_publications();
        let name = snapshots(&store).remove(which);
        let key = format!("{FOLDER}{name}");
        delete(&store, &key);
        let report = check(&store);
        assert!(report.damaged.contains(&key), "{which}: {:?}", report.findings);
        assert!(collect(&store).unwrap_err().to_string().contains(&key), "{which}");
        let publications = listed(&store);
        assert!(publications[which].refs.as_ref().is_err_and(|what| what.contains("missing")));
        let refused = restore_at(&store, &publications[which].name).unwrap_err().to_string();
        assert!(refused.contains(&name) && refused.contains("missing"), "{which}: {refused}");
        // Whoever repairs hears of it once.
        let options = VerifyOptions { concurrency: 4, ..VerifyOptions::default() };
        let repaired = repair(None, &store, &options, &Options::default(), &Silent).unwrap();
        assert!(repaired.after.damaged.contains(&key) && repaired.mended.is_empty(), "{which}");
        let report = check(&store);
        assert!(report.is_sound(), "{which}: {:?}", report.findings);
        let objects = store.keys().len();
        collect(&store).unwrap();
        // What the first one had, the second has as well.
        let lost = objects - store.keys().len();
        assert_eq!(lost > 0, which == 1, "{which}: {lost}");
        assert!(check(&store).is_sound(), "{which}");
    }
}

#[test]
fn missing_state_is_a_finding_where_past_publications_are_kept() {
    let (_repo, store) = three_publications();
    assert!(check(&store).is_sound());
    delete(&store, STATE);
    let report = check(&store);
    assert!(report.damaged.contains(STATE), "{:?}", report.findings);
    // For how long is not known, so everything is kept.
    let objects = store.keys().len();
    assert_eq!(collect(&store).map(|_| store.keys().len()).unwrap_or(objects), objects);
}

fn text_of(command: &mut Command, code: i32) -> String {
    let out = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(code), "{stderr}");
    String::from_utf8(out.stdout).unwrap()
}

#[test]
fn program_lists_publications_and_restores_one_into_another_target() {
    let (repo, home) = (sample(), tempfile::tempdir().unwrap());
    let bundle = home.path().join("a.bundle");
    let (target, other) = (home.path().join("mirror"), home.path().join("rescued"));
    let [target_url, other_url] =
        [&target, &other].map(|path| format!("file://{}", path.display()));
    let mirror_now = || {
        repo.git(&["bundle", "create", "-q", bundle.to_str().unwrap(), "--all"]);
        let source = format!("bundle:{}", bundle.display());
        let pair = ["--source", &source, "--target", &target_url, "--keep-history", "90d"];
        text_of(program::program(home.path()).args(pair), 0);
    };
    mirror_now();
    let before = local_git::all_refs(repo.path());
    destroy(&repo);
    mirror_now();
    let run = |words: &[&str], code| text_of(program::program(home.path()).args(words), code);
    let text = run(&["refs", "--target", &target_url], 0);
    assert_eq!(text.lines().filter(|line| line.ends_with(" refs")).count(), 2, "{text}");
    for part in ["  + refs/heads/gone ", "  - refs/heads/gone ", "  * refs/heads/main "] {
        assert!(text.contains(part), "{text}");
    }
    let json = run(&["refs", "--target", &target_url, "--json"], 0);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let name = json["publications"][0]["name"].as_str().unwrap();
    let changes = json["publications"][1]["changes"].as_array().unwrap();
    let gone = changes.iter().find(|change| change["ref"] == "refs/heads/gone").unwrap();
    assert!(gone["old"].is_string() && gone["new"].is_null(), "{gone}");

    let at = ["restore", "--target", &target_url, "--at", name, "--as", &other_url];
    run(&[&at[..], &["-n"]].concat(), 0);
    assert!(!other.join("info/refs").exists());
    assert!(run(&at, 0).contains("is published again: 3 refs"));
    assert_eq!(local_git::all_refs(&other), before);
    self::run(git(&other).args(["fsck", "--full", "--strict"]), b"");
    assert_ne!(local_git::all_refs(&target), before, "the mirror itself is as it was");
    run(&["restore", "--target", &target_url, "--at", "20200101T000000Z"], 1);
    run(&["restore", "--target", &target_url, "--at", name, "--json"], 0);
    assert_eq!(local_git::all_refs(&target), before);
    run(&["verify", "--target", &target_url], 0);
}

local_git::also_with_sha256! {
    what_upstream_destroys_stays_and_is_published_again,
}
