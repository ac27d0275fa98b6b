//! Some refs of a mirror as another mirror, and a mirror behind a plain web server: what the refs reach
//! arrives in the target's layout, nothing else does, and what is broken is never published.

use crate::support::{git_http, hooked_store, lfs_server, local_git, program};
use std::collections::BTreeSet;
use std::path::Path;

use git_http::StaticHttp;
use hooked_store::dump;
use local_git::{LocalGit, Repo, assert_same_repository, git, run};
use mirror_git_to_s3::git::refs::RefFilter;
use mirror_git_to_s3::mirror::{
    Layout, MirrorError, MirrorSource, Options, Status, Summary, mirror, mirror_mirror,
};
use mirror_git_to_s3::progress::Silent;
use mirror_git_to_s3::store::memory::{MemoryStore, Operation};
use mirror_git_to_s3::store::{Key, ObjectHeaders, Store};
use program::program;

const LAYOUTS: [Layout; 2] = [Layout::Loose, Layout::Pack];

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    std::iter::repeat_with(|| random.u8(..)).take(len).collect()
}

/// `main` and `side` part after a few commits; a large file differs a little on both, and a file of
/// 1.5 MB is on each.
fn repo() -> Repo {
    let repo = Repo::new();
    let text = noise(1, 40_000);
    let version = |number: u8| [&text[..], &[number]].concat();
    for number in 0..10 {
        repo.commit("refs/heads/main", &[("a", &version(number)), ("same", b"same")]);
    }
    repo.git(&["update-ref", "refs/heads/side", "refs/heads/main~3"]);
    repo.git(&["tag", "-a", "-m", "old", "v1", "refs/heads/main~5"]);
    for number in 100..120 {
        let longer = [&version(number)[..], &noise(u64::from(number), 2000)].concat();
        repo.commit("refs/heads/side", &[("a", &longer), ("secret", &[number; 50])]);
    }
    repo.commit("refs/heads/side", &[("large", &noise(3, 1_500_000))]);
    repo.commit("refs/heads/main", &[("large", &noise(4, 1_500_000)), ("a", &version(99))]);
    repo.git(&["tag", "-a", "-m", "side", "v2", "refs/heads/side"]);
    repo.git(&["symbolic-ref", "HEAD", "refs/heads/main"]);
    repo
}

fn filled(repo: &Repo, layout: Layout) -> MemoryStore {
    let store = MemoryStore::new();
    let options = Options { layout, ..Options::default() };
    mirror(&LocalGit::new(repo.path()), &store, &options, &Silent).unwrap();
    store
}

fn of_main(layout: Layout) -> Options {
    let include = ["refs/heads/main".to_owned(), "refs/tags/v1".to_owned()];
    Options { layout, refs: RefFilter::new(&include, &[]).unwrap(), ..Options::default() }
}

fn copy(from: &MemoryStore, to: &dyn Store, options: &Options) -> Result<Summary, MirrorError> {
    mirror_mirror(&MirrorSource::new(Box::new(from.clone())), to, options, &Silent)
}

fn reached(repo: &Repo, refs: &[&str]) -> BTreeSet<String> {
    let lines = repo.git(&[&["rev-list", "--objects"], refs].concat());
    lines.lines().map(|line| line.split(' ').next().unwrap().to_owned()).collect()
}

/// The objects that a mirror has, found by git, which also checks it.
fn objects_in(store: &MemoryStore) -> BTreeSet<String> {
    let dir = tempfile::tempdir().unwrap();
    assert!(dump(store, dir.path()));
    run(git(dir.path()).args(["fsck", "--full", "--strict"]), b"");
    let all = ["cat-file", "--batch-all-objects", "--batch-check=%(objectname)"];
    let lines = String::from_utf8(run(git(dir.path()).args(all), b"")).unwrap();
    lines.lines().map(str::to_owned).collect()
}

#[test]
fn what_the_chosen_refs_reach_arrives_in_the_layout_of_the_target_and_nothing_else() {
    let repo = repo();
    let wanted = reached(&repo, &["refs/heads/main", "refs/tags/v1"]);
    for from_layout in LAYOUTS {
        let from = filled(&repo, from_layout);
        for layout in LAYOUTS {
            let to = MemoryStore::new();
            let summary = copy(&from, &to, &of_main(layout)).unwrap();
            assert_eq!((summary.status, summary.refs), (Status::Ok, 2));
            assert_eq!(summary.objects_written, wanted.len() as u64, "{from_layout:?} {layout:?}");
            assert_eq!(objects_in(&to), wanted, "{from_layout:?} {layout:?}");
            let is_packed = to.keys().iter().any(|key| key.ends_with(".pack"));
            assert_eq!(is_packed, layout == Layout::Pack);
            assert!(!to.keys().iter().any(|key| key.starts_with("mirror_tmp/")));
            assert_eq!(to.open_uploads(), 0);
            let again = copy(&from, &to, &of_main(layout)).unwrap();
            assert_eq!(again.status, Status::Unchanged);
        }
    }
}

/// Otherwise the test above would not show that such a delta is made whole.
#[test]
fn pack_of_that_repository_has_deltas_on_what_is_not_chosen() {
    let repo = repo();
    let from = filled(&repo, Layout::Pack);
    let dir = tempfile::tempdir().unwrap();
    assert!(dump(&from, dir.path()));
    let index = from.keys().into_iter().find(|key| key.ends_with(".idx")).unwrap();
    let lines = run(git(dir.path()).args(["verify-pack", "-v", &index]), b"");
    let lines = String::from_utf8(lines).unwrap();
    let wanted = reached(&repo, &["refs/heads/main", "refs/tags/v1"]);
    // `oid type size size-in-pack offset depth base`
    let bases = lines.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let stands_outside = |words: &Vec<&str>| {
        words.len() == 7 && wanted.contains(words[0]) && !wanted.contains(words[6])
    };
    assert!(bases.filter(stands_outside).count() > 0, "{lines}");
}

#[test]
fn second_trip_of_some_refs_carries_only_what_is_new() {
    let repo = repo();
    for from_layout in LAYOUTS {
        for layout in LAYOUTS {
            let (from, to) = (filled(&repo, from_layout), MemoryStore::new());
            copy(&from, &to, &of_main(layout)).unwrap();
            let name = format!("{from_layout:?} {layout:?}");
            repo.commit("refs/heads/main", &[("new", name.as_bytes())]);
            repo.commit("refs/heads/side", &[("new", b"not this one")]);
            let options = Options { layout: from_layout, ..Options::default() };
            mirror(&LocalGit::new(repo.path()), &from, &options, &Silent).unwrap();
            let summary = copy(&from, &to, &of_main(layout)).unwrap();
            assert_eq!((summary.status, summary.objects_written), (Status::Ok, 3), "{name}");
            assert_eq!(objects_in(&to), reached(&repo, &["refs/heads/main", "refs/tags/v1"]));
            // One more ref, at a commit that is there in part.
            let all = Options {
                refs: RefFilter::new(&["refs/*".into()], &[]).unwrap(),
                ..of_main(layout)
            };
            copy(&from, &to, &all).unwrap();
            assert_eq!(objects_in(&to), repo.objects().into_iter().collect(), "{name}");
        }
    }
}

#[test]
fn history_that_was_rewritten_arrives() {
    let repo = repo();
    for layout in LAYOUTS {
        let (from, to) = (filled(&repo, layout), MemoryStore::new());
        copy(&from, &to, &of_main(layout)).unwrap();
        repo.git(&["update-ref", "refs/heads/main", "refs/heads/main~4"]);
        repo.commit("refs/heads/main", &[("other", format!("{layout:?}").as_bytes())]);
        let options = Options { layout, ..Options::default() };
        mirror(&LocalGit::new(repo.path()), &from, &options, &Silent).unwrap();
        assert_eq!(copy(&from, &to, &of_main(layout)).unwrap().objects_written, 3);
        let reached = reached(&repo, &["refs/heads/main", "refs/tags/v1"]);
        assert!(objects_in(&to).is_superset(&reached));
        // Back to a commit that is there: nothing is new but the ref.
        repo.git(&["update-ref", "refs/heads/main", "refs/heads/main~2"]);
        mirror(&LocalGit::new(repo.path()), &from, &options, &Silent).unwrap();
        let summary = copy(&from, &to, &of_main(layout)).unwrap();
        assert_eq!((summary.status, summary.objects_written), (Status::Ok, 0));
        assert_eq!(copy(&from, &to, &of_main(layout)).unwrap().status, Status::Unchanged);
    }
}

#[test]
fn damaged_object_is_named_and_nothing_is_published() {
    let repo = repo();
    let wanted = reached(&repo, &["refs/heads/main", "refs/tags/v1"]);
    let mut flipped = 0;
    for from_layout in LAYOUTS {
        let sound = filled(&repo, from_layout);
        for (number, key) in sound.keys().into_iter().enumerate() {
            let oid = key.strip_prefix("objects/").map(|rest| rest.replace('/', ""));
            let is_pack = key.ends_with(".pack") || key.ends_with(".idx");
            if !is_pack && !oid.is_some_and(|oid| wanted.contains(&oid)) {
                continue;
            }
            let bytes = sound.bytes(&key).unwrap().to_vec();
            let places = if is_pack { 40 } else { 1 };
            for place in 0..places {
                let from = apart(&sound);
                let mut bytes = bytes.clone();
                let at = (bytes.len() - 1) * (2 * place + 1) / (2 * places);
                bytes[at] ^= 1 << (number % 8);
                put(&from, &key, &bytes);
                let to = MemoryStore::new();
                match copy(&from, &to, &of_main(Layout::Pack)) {
                    // It was in what nobody asked for.
                    Ok(_) => assert_eq!(objects_in(&to), wanted, "{key} {at}"),
                    Err(error) => {
                        flipped += 1;
                        assert!(to.bytes("info/refs").is_none(), "{key} {at}: {error}");
                        assert_eq!(to.open_uploads(), 0);
                        assert!(!to.keys().iter().any(|key| key.starts_with("mirror_tmp/")));
                    }
                }
            }
        }
    }
    assert!(flipped > 50, "{flipped}");
}

#[test]
fn listed_pack_or_object_that_is_missing_is_named() {
    let repo = repo();
    let oid = repo.git(&["rev-parse", "refs/heads/main:a"]);
    let oid = oid.trim();
    let loose = filled(&repo, Layout::Loose);
    let pack = filled(&repo, Layout::Pack);
    let index = pack.keys().into_iter().find(|key| key.ends_with(".idx")).unwrap();
    for (from, key) in [(loose, format!("objects/{}/{}", &oid[..2], &oid[2..])), (pack, index)] {
        from.delete(&[Key::new(key.clone()).unwrap()]).unwrap();
        let to = MemoryStore::new();
        let error = copy(&from, &to, &of_main(Layout::Pack)).unwrap_err().to_string();
        assert!(error.contains(&key), "{error}");
        assert!(to.bytes("info/refs").is_none());
    }
}

fn put(store: &MemoryStore, key: &str, bytes: &[u8]) {
    let headers = ObjectHeaders::immutable("application/octet-stream");
    store.put(&Key::new(key).unwrap(), bytes, headers, None).unwrap();
}

/// A store of its own with the same keys.
fn apart(store: &MemoryStore) -> MemoryStore {
    let copy = MemoryStore::new();
    store.snapshot().iter().for_each(|(key, object)| put(&copy, key, &object.bytes));
    copy
}

/// Puts an LFS object where a mirror has it.
fn put_lfs(store: &MemoryStore, content: &[u8]) -> String {
    let oid = lfs_server::oid(content);
    let key = format!("lfs/objects/{}/{}/{oid}", &oid[..2], &oid[2..4]);
    put(store, &key, content);
    key
}

#[test]
fn lfs_objects_of_the_chosen_refs_alone_are_copied_and_a_missing_one_is_told() {
    let repo = Repo::new();
    let contents: [&[u8]; 3] = [b"of main", b"of side", b"missing"];
    let pointers = contents.map(lfs_server::pointer);
    repo.commit("refs/heads/main", &[("f", pointers[0].as_bytes())]);
    repo.commit("refs/heads/side", &[("f", pointers[1].as_bytes())]);
    for from_layout in LAYOUTS {
        let from = filled(&repo, from_layout);
        let [main, side] = [contents[0], contents[1]].map(|content| put_lfs(&from, content));
        let to = MemoryStore::new();
        let summary = copy(&from, &to, &of_main(Layout::Pack)).unwrap();
        assert_eq!((summary.status, summary.lfs_written), (Status::Ok, 1));
        assert!(to.bytes(&main).is_some() && to.bytes(&side).is_none());
        // Damaged: not stored, and reported.
        put(&from, &main, b"OF MAIN");
        let summary = copy(&from, &MemoryStore::new(), &of_main(Layout::Pack)).unwrap();
        assert_eq!((summary.status, summary.lfs_missing.len()), (Status::Partial, 1));
    }
    repo.commit("refs/heads/main", &[("g", pointers[2].as_bytes())]);
    let from = filled(&repo, Layout::Pack);
    put_lfs(&from, contents[0]);
    let to = MemoryStore::new();
    let summary = copy(&from, &to, &of_main(Layout::Loose)).unwrap();
    assert_eq!((summary.status, summary.lfs_written), (Status::Partial, 1));
    assert_eq!(summary.lfs_missing[0].0, lfs_server::oid(contents[2]));
    put_lfs(&from, contents[2]);
    let summary = copy(&from, &to, &of_main(Layout::Loose)).unwrap();
    assert_eq!((summary.status, summary.lfs_written), (Status::Ok, 1));
}

/// A copy of all keys is as incomplete as its source, and says so.
#[test]
fn copy_of_a_mirror_that_misses_lfs_objects_is_partial_until_they_are_there() {
    let repo = Repo::new();
    repo.commit("refs/heads/main", &[("f", lfs_server::pointer(b"absent").as_bytes())]);
    let from = filled(&repo, Layout::Pack);
    let oid = lfs_server::oid(b"absent");
    put(&from, "mirror_state/lfs-lacking", format!("{oid} 6\n").as_bytes());
    let to = MemoryStore::new();
    for _ in 0..2 {
        let summary = copy(&from, &to, &Options::default()).unwrap();
        assert_eq!((summary.status, summary.lfs_written), (Status::Partial, 0));
        assert_eq!(summary.lfs_missing[0].0, oid);
        let remembered = to.bytes("mirror_state/lfs-lacking").unwrap();
        assert_eq!(remembered[..], *format!("{oid} 6\n").as_bytes());
    }
    let none = Options { lfs: false, ..Options::default() };
    assert_eq!(copy(&from, &to, &none).unwrap().status, Status::Unchanged);
    put_lfs(&from, b"absent");
    let summary = copy(&from, &to, &Options::default()).unwrap();
    assert_eq!((summary.status, summary.lfs_written), (Status::Ok, 1));
    assert!(to.bytes("mirror_state/lfs-lacking").is_none());
}

#[test]
fn store_that_lists_nothing_is_copied_all_the_same() {
    let repo = repo();
    for from_layout in LAYOUTS {
        let (from, to) = (filled(&repo, from_layout), MemoryStore::new());
        let source = MirrorSource::new(Box::new(from.clone())).unlisted();
        from.clear_recorded();
        mirror_mirror(
            &source,
            &to,
            &Options { layout: Layout::Pack, ..Options::default() },
            &Silent,
        )
        .unwrap();
        assert_eq!(from.count(Operation::List), 0);
        let dir = tempfile::tempdir().unwrap();
        assert!(dump(&to, dir.path()));
        assert_same_repository(repo.path(), dir.path());
    }
}

/// The program, from a web server that answers 404 or 403 for what is missing.
#[test]
fn program_copies_a_mirror_from_a_web_server() {
    let (repo, home) = (repo(), tempfile::tempdir().unwrap());
    for (number, layout) in LAYOUTS.into_iter().enumerate() {
        let from = home.path().join(format!("from{number}"));
        assert!(dump(&filled(&repo, layout), &from));
        for missing in [404, 403] {
            let web = StaticHttp::start_with(&from, missing, Vec::new());
            let to = home.path().join(format!("to{number}-{missing}"));
            let copied = mirror_web(home.path(), &web.url(), &to, &["--layout", "pack"]);
            assert_eq!(copied.0, 0, "{}", copied.1);
            assert_same_repository(repo.path(), &to);
            let before = web.requests();
            let again = mirror_web(home.path(), &web.url(), &to, &["--layout", "pack", "-v"]);
            assert_eq!(again.0, 0, "{}", again.1);
            assert!(web.requests() - before <= 8, "{} requests", web.requests() - before);
        }
    }
    let bad = mirror_web(home.path(), "http://user:secret@h/a", &home.path().join("x"), &[]);
    assert_eq!(bad.0, 2);
    assert!(!bad.1.contains("secret") && bad.1.contains("--source-header-file"), "{}", bad.1);
}

fn mirror_web(home: &Path, url: &str, to: &Path, more: &[&str]) -> (i32, String) {
    let target = format!("file://{}", to.display());
    let mut command = program(home);
    command.args(["--source", &format!("mirror:{url}"), "--target", &target]).args(more);
    let output = command.output().unwrap();
    (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
}

local_git::also_with_sha256! {
    what_the_chosen_refs_reach_arrives_in_the_layout_of_the_target_and_nothing_else,
    second_trip_of_some_refs_carries_only_what_is_new,
}
