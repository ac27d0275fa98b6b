//! Attacks and accidents: a store, a cache or a person does something stupid, and nothing is lost.

#[path = "support/hooked_store.rs"]
mod hooked_store;
#[path = "support/local_git.rs"]
mod local_git;

use std::time::{Duration, SystemTime};

use hooked_store::{Conditions, Hooked};
use local_git::{LocalGit, Repo};
use mirror_git_to_s3::mirror::gc::{GcOptions, gc};
use mirror_git_to_s3::mirror::{MirrorError, Options, Summary, mirror};
use mirror_git_to_s3::progress::Silent;
use mirror_git_to_s3::store::memory::MemoryStore;
use mirror_git_to_s3::store::{Key, ObjectHeaders, Store, StoreErrorKind};

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
    mirror(&LocalGit::new(repo.path()), store, &Options::default(), &Silent)
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

#[test]
fn listing_that_ignores_the_prefix_costs_no_key_and_no_upload() {
    let repo = sample();
    let store = shared_prefix(&repo);
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
    let before = store.keys();
    run_mirror(&repo, &store).unwrap();
    assert_eq!((store.keys(), store.open_uploads()), (before.clone(), 2));
    put(&store, "objects/00/11111111111111111111111111111111111111", b"garbage");
    collect(&store).unwrap();
    let gc_note = "mirror_state/gc.json";
    let after: Vec<_> = store.keys().into_iter().filter(|key| key != gc_note).collect();
    assert_eq!((after, store.open_uploads()), (before, 2));
}
