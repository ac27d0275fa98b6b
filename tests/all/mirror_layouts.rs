//! Both layouts from a real repository's pack into the memory and directory stores.

use crate::support::local_git;
use local_git::{LocalGit, Repo, assert_same_repository};
use mirror_git_to_s3::mirror::{Layout, Options, Status, mirror};
use mirror_git_to_s3::progress::{Counters, Silent};
use mirror_git_to_s3::store::Limits;
use mirror_git_to_s3::store::dir::DirStore;
use mirror_git_to_s3::store::memory::{MemoryStore, Operation};

/// A repository with branches, tags of all kinds and deltas.
fn sample() -> Repo {
    let repo = Repo::new();
    let mut text = String::new();
    for round in 0..40 {
        text += &format!("line {round} of a file that grows, so that deltas are worth it\n");
        let other = format!("round {round}\n");
        let files: [(&str, &[u8]); 3] =
            [("grows", text.as_bytes()), ("other", other.as_bytes()), ("same", b"same\n")];
        repo.commit("refs/heads/main", &files);
    }
    repo.commit("refs/heads/side/branch", &[("alone", b"")]);
    repo.git(&["tag", "light", "main~3"]);
    repo.git(&["tag", "-a", "-m", "annotated", "v1", "main~2"]);
    repo.git(&["tag", "-a", "-m", "a tag of a tag", "v1-again", "v1"]);
    repo
}

#[test]
fn directory_becomes_the_same_repository() {
    let repo = sample();
    let target = tempfile::tempdir().unwrap();
    let store = DirStore::new(target.path()).unwrap();
    let source = LocalGit::new(repo.path());
    let summary = mirror(&source, &store, &Options::default(), &Silent).unwrap();
    assert_eq!(summary.status, Status::Ok);
    assert_eq!(summary.objects_written as usize, repo.objects().len());
    assert_same_repository(repo.path(), target.path());
}

#[test]
fn every_object_is_one_put_and_refs_come_last() {
    let repo = sample();
    let store = MemoryStore::new();
    let source = LocalGit::new(repo.path());
    let summary =
        mirror(&source, &store, &Options { layout: Layout::Loose, ..Options::default() }, &Silent)
            .unwrap();
    let puts: Vec<String> = store
        .recorded()
        .into_iter()
        .filter(|request| request.operation == Operation::Put)
        .map(|request| request.key().to_owned())
        .collect();
    let objects = repo.objects().len();
    assert_eq!(summary.objects_written as usize, objects);
    let last = ["objects/info/packs", "HEAD", "info/refs", "mirror_state/state.json"];
    // Before them the run has said that it writes.
    assert_eq!(puts[0], "mirror_state/state.json");
    assert_eq!(puts[objects + 1..], last);
    assert!(store.keys().iter().all(|key| !key.starts_with("mirror_tmp")));
    assert_eq!(store.open_uploads(), 0);
}

#[test]
fn second_run_with_nothing_new_writes_nothing() {
    let repo = sample();
    let store = MemoryStore::new();
    let source = LocalGit::new(repo.path());
    mirror(&source, &store, &Options::default(), &Silent).unwrap();
    store.clear_recorded();
    let summary = mirror(&source, &store, &Options::default(), &Silent).unwrap();
    assert_eq!(summary.status, Status::Unchanged);
    assert_eq!((summary.source_requests, summary.store_requests), (1, 3));
    assert!(store.recorded().iter().all(|request| request.operation == Operation::Get));
}

fn pack_options() -> Options {
    Options { layout: Layout::Pack, ..Options::default() }
}

#[test]
fn directory_of_packs_becomes_the_same_repository() {
    let repo = sample();
    let target = tempfile::tempdir().unwrap();
    let store = DirStore::new(target.path()).unwrap();
    let source = LocalGit::new(repo.path());
    let summary = mirror(&source, &store, &pack_options(), &Silent).unwrap();
    assert_eq!(summary.objects_written as usize, repo.objects().len());
    assert_same_repository(repo.path(), target.path());
}

#[test]
fn pack_mirror_takes_at_most_twelve_writes_and_publishes_in_the_safe_order() {
    use Operation::{Copy, Put};
    // A small pack is one request, a large one goes to a temporary key first.
    for (max_put_bytes, pack, most, parts) in [(5 << 30, Put, 7, 0), (0, Copy, 12, 1)] {
        let store = MemoryStore::new().with_limits(Limits { max_put_bytes, ..Limits::S3 });
        pack_mirror_publishes_in_the_safe_order(&store, pack, most);
        assert_eq!(store.count(Operation::PutPart), parts);
    }
}

fn pack_mirror_publishes_in_the_safe_order(store: &MemoryStore, pack: Operation, most: usize) {
    let repo = sample();
    mirror(&LocalGit::new(repo.path()), store, &pack_options(), &Silent).unwrap();
    use Operation::{CompleteUpload, Copy, CopyPart, CreateUpload, Delete, Put};
    let writes = [CompleteUpload, Copy, CopyPart, CreateUpload, Delete, Put];
    let recorded = store.recorded();
    let written: Vec<_> = recorded.iter().filter(|r| writes.contains(&r.operation)).collect();
    assert!(written.len() <= most, "{}: {written:?}", written.len());
    let place = |operation, key: &str| {
        let found = written.iter().position(|r| r.operation == operation && r.key().ends_with(key));
        found.unwrap_or_else(|| panic!("{key} was not written"))
    };
    let order = [
        place(pack, ".pack"),
        place(Put, ".idx"),
        place(Put, "objects/info/packs"),
        place(Put, "HEAD"),
        place(Put, "info/refs"),
    ];
    assert!(order.is_sorted(), "{order:?}");
    assert!(store.keys().iter().all(|key| !key.starts_with("mirror_tmp")));
}

#[test]
fn increments_add_packs_and_never_are_there_too_many() {
    let repo = sample();
    let target = tempfile::tempdir().unwrap();
    let store = DirStore::new(target.path()).unwrap();
    let source = LocalGit::new(repo.path());
    let options = Options { max_packs: 3, ..pack_options() };
    let listed = || {
        let list = std::fs::read_to_string(target.path().join("objects/info/packs")).unwrap();
        list.lines().filter(|line| !line.is_empty()).count()
    };
    let mut counts = Vec::new();
    for round in 0..6 {
        mirror(&source, &store, &options, &Silent).unwrap();
        assert_same_repository(repo.path(), target.path());
        counts.push(listed());
        let text = format!("round {round}");
        repo.commit("refs/heads/main", &[("new", text.as_bytes())]);
    }
    // Of four, all but the newest become one.
    assert_eq!(counts, [1, 2, 3, 2, 3, 2]);
}

#[test]
fn mirror_goes_on_in_the_other_layout() {
    let repo = sample();
    let target = tempfile::tempdir().unwrap();
    let store = DirStore::new(target.path()).unwrap();
    let source = LocalGit::new(repo.path());
    for (round, layout) in [Layout::Loose, Layout::Pack, Layout::Loose].into_iter().enumerate() {
        let options = Options { layout, ..Options::default() };
        let summary = mirror(&source, &store, &options, &Silent).unwrap();
        assert!(round == 0 || summary.objects_written <= 3, "{summary:?}");
        assert_same_repository(repo.path(), target.path());
        repo.commit("refs/heads/main", &[("round", format!("{round}").as_bytes())]);
    }
}

/// Nothing was reported of a pack before, nor a large object before its end.
#[test]
fn what_goes_to_the_store_is_told_in_both_layouts() {
    let repo = sample();
    let mut random = fastrand::Rng::with_seed(1);
    let large: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(12 << 20).collect();
    repo.commit("refs/heads/main", &[("large", &large)]);
    for layout in [Layout::Loose, Layout::Pack] {
        let reported = Counters::default();
        let options = Options { layout, memory_bytes: 64 << 20, ..Options::default() };
        let source = LocalGit::new(repo.path());
        let store = MemoryStore::new();
        let summary = mirror(&source, &store, &options, &reported).unwrap();
        let reported = reported.counts();
        assert!(summary.bytes_written > 12 << 20);
        // An index is no object, but it goes to the store.
        let indices = store.keys().into_iter().filter(|key| key.ends_with(".idx"));
        let index_bytes: usize = indices.map(|key| store.bytes(&key).unwrap().len()).sum();
        let wanted = summary.bytes_written + index_bytes as u64;
        assert_eq!(reported.bytes_stored, wanted, "{layout:?}");
        assert_eq!(reported.objects as usize, repo.objects().len(), "{layout:?}");
    }
}

local_git::also_with_sha256! {
    directory_becomes_the_same_repository,
    directory_of_packs_becomes_the_same_repository,
    increments_add_packs_and_never_are_there_too_many,
    mirror_goes_on_in_the_other_layout,
}
