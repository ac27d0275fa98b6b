//! A mirror that travels in a file: `export` and `import`, what they carry, and what is refused.

use crate::support::{git_http, hooked_store, lfs_server, local_git, program};
use std::io::{Cursor, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use git_http::StaticHttp;
use hooked_store::dump;
use local_git::{LocalGit, Repo, assert_same_repository};
use mirror_git_to_s3::mirror::{
    Layout, MirrorError, Options, Status, Summary, TripSource, mirror, mirror_trip,
};
use mirror_git_to_s3::progress::Silent;
use mirror_git_to_s3::store::memory::{MemoryStore, Operation};
use mirror_git_to_s3::store::{Key, ObjectHeaders, Store};
use mirror_git_to_s3::transfer::export::{ExportOptions, Exported, export, state};
use program::program;

const LAYOUTS: [Layout; 2] = [Layout::Loose, Layout::Pack];
const MEMORY: u64 = 64 << 20;

fn options(layout: Layout) -> Options {
    Options { layout, ..Options::default() }
}

fn filled(repo: &Repo, layout: Layout) -> MemoryStore {
    let store = MemoryStore::new();
    mirror(&LocalGit::new(repo.path()), &store, &options(layout), &Silent).unwrap();
    store
}

fn repo() -> Repo {
    let repo = Repo::new();
    for number in 0..20_u32 {
        let text = format!("version {number}\n").repeat(200);
        repo.commit("refs/heads/main", &[("a", text.as_bytes()), ("b", &number.to_be_bytes())]);
    }
    repo.git(&["tag", "-a", "-m", "v1", "v1", "refs/heads/main"]);
    repo
}

fn put(store: &MemoryStore, key: &str, bytes: &[u8]) {
    let headers = ObjectHeaders::immutable("application/octet-stream");
    store.put(&Key::new(key).unwrap(), bytes, headers, None).unwrap();
}

fn put_lfs(store: &MemoryStore, content: &[u8]) -> String {
    let oid = lfs_server::oid(content);
    let key = format!("lfs/objects/{}/{}/{oid}", &oid[..2], &oid[2..4]);
    put(store, &key, content);
    key
}

fn exporting() -> ExportOptions {
    ExportOptions {
        lfs: true,
        concurrency: 8,
        memory_bytes: MEMORY,
        cancel: Options::default().cancel,
    }
}

fn try_export(
    from: &MemoryStore,
    since: Option<&[u8]>,
) -> Result<(Exported, Vec<u8>), MirrorError> {
    let mut since = since;
    let since = since.as_mut().map(|file| file as &mut dyn Read);
    export(from, since, &exporting(), Vec::new(), &Silent)
}

fn trip(from: &MemoryStore, since: Option<&[u8]>) -> Vec<u8> {
    try_export(from, since).unwrap().1
}

fn import(trip: &[u8], to: &MemoryStore) -> Result<Summary, MirrorError> {
    let source = TripSource::stream(Cursor::new(trip.to_vec()), MEMORY);
    mirror_trip(&source, to, &Options::default(), &Silent)
}

fn published(store: &MemoryStore) -> Vec<(String, Arc<[u8]>)> {
    let kept = |key: &str| !key.starts_with("mirror_state/");
    let all = store.snapshot().into_iter().filter(|(key, _)| kept(key));
    all.map(|(key, object)| (key, object.bytes)).collect()
}

/// Names of the entries, and where each header begins.
fn entries(tar: &[u8]) -> Vec<(String, usize)> {
    let mut archive = tar::Archive::new(tar);
    let entries = archive.entries().unwrap().map(|entry| {
        let entry = entry.unwrap();
        let name = entry.path().unwrap().display().to_string();
        (name, entry.raw_header_position() as usize)
    });
    entries.collect()
}

fn assert_clones(store: &MemoryStore, repo: &Repo) {
    let dir = tempfile::tempdir().unwrap();
    assert!(dump(store, dir.path()));
    assert_same_repository(repo.path(), dir.path());
    let web = StaticHttp::start(dir.path());
    let clone = dir.path().join("clone");
    let words = ["clone", "-q", "--mirror", &web.url()];
    let status = Command::new("git").args(words).arg(&clone).status().unwrap();
    assert!(status.success());
    assert_same_repository(repo.path(), &clone);
}

#[test]
fn first_trip_carries_everything_and_git_clones_the_result() {
    let repo = repo();
    for layout in LAYOUTS {
        let from = filled(&repo, layout);
        let lfs = put_lfs(&from, b"an LFS object");
        let (exported, tar) = try_export(&from, None).unwrap();
        assert_eq!((exported.objects, exported.lfs), (repo.objects().len() as u64, 1));
        assert_eq!(exported.refs, 2);
        let to = MemoryStore::new();
        let summary = import(&tar, &to).unwrap();
        assert_eq!((summary.status, summary.lfs_written), (Status::Ok, 1));
        assert_eq!(summary.objects_written, repo.objects().len() as u64, "{layout:?}");
        // Those of LFS objects are not among them, as in any other run.
        assert_eq!(summary.bytes_written, exported.bytes - "an LFS object".len() as u64);
        assert_eq!(published(&to), published(&from), "{layout:?}");
        assert!(to.bytes(&lfs).is_some());
        assert_clones(&to, &repo);
    }
}

#[test]
fn second_trip_carries_only_what_is_new() {
    let repo = repo();
    for layout in LAYOUTS {
        let (from, to) = (filled(&repo, layout), MemoryStore::new());
        put_lfs(&from, b"an LFS object");
        import(&trip(&from, None), &to).unwrap();
        let back = state(&to, MEMORY).unwrap();
        let (exported, tar) = try_export(&from, Some(&back)).unwrap();
        assert_eq!((exported.objects, exported.lfs, exported.bytes), (0, 0, 0), "{layout:?}");
        to.clear_recorded();
        assert_eq!(import(&tar, &to).unwrap().status, Status::Unchanged);
        assert_eq!(to.count(Operation::Put), 0, "{layout:?}");
        let new = format!("{layout:?}");
        repo.commit("refs/heads/main", &[(&new, new.as_bytes())]);
        mirror(&LocalGit::new(repo.path()), &from, &options(layout), &Silent).unwrap();
        let late = put_lfs(&from, b"a late LFS object");
        let (exported, tar) = try_export(&from, Some(&back)).unwrap();
        assert_eq!((exported.objects, exported.lfs), (3, 1), "{layout:?}");
        assert!(tar.len() < 64 << 10, "{}", tar.len());
        let summary = import(&tar, &to).unwrap();
        assert_eq!((summary.objects_written, summary.lfs_written), (3, 1), "{layout:?}");
        assert!(to.bytes(&late).is_some());
        assert_eq!(published(&to), published(&from), "{layout:?}");
        assert_clones(&to, &repo);
        // Again: everything is there, and nothing is written.
        to.clear_recorded();
        assert_eq!(import(&tar, &to).unwrap().status, Status::Unchanged);
        assert_eq!(to.count(Operation::Put), 0, "{layout:?}");
    }
}

#[test]
fn large_lfs_object_goes_in_parts_and_leaves_no_upload() {
    let from = filled(&repo(), Layout::Pack);
    let content: Vec<u8> = (0..20_000_000_u32).map(|n| (n / 7) as u8).collect();
    let key = put_lfs(&from, &content);
    let to = MemoryStore::new();
    import(&trip(&from, None), &to).unwrap();
    assert!(to.bytes(&key).as_deref() == Some(&content[..]));
    assert_eq!((to.count(Operation::CreateUpload), to.open_uploads()), (1, 0));
    assert!(!to.keys().iter().any(|key| key.starts_with("mirror_tmp/")));
}

#[test]
fn lfs_object_that_came_later_travels_although_no_ref_has_moved() {
    let (from, to) = (filled(&repo(), Layout::Pack), MemoryStore::new());
    import(&trip(&from, None), &to).unwrap();
    let key = put_lfs(&from, b"late");
    let summary = import(&trip(&from, Some(&state(&to, MEMORY).unwrap())), &to).unwrap();
    assert_eq!((summary.status, summary.lfs_written), (Status::Ok, 1));
    assert!(to.bytes(&key).is_some());
}

#[test]
fn trip_cut_anywhere_publishes_nothing_and_the_whole_one_completes_it() {
    let repo = repo();
    for layout in LAYOUTS {
        let from = filled(&repo, layout);
        put_lfs(&from, b"an LFS object");
        let tar = trip(&from, None);
        let mut cuts: Vec<usize> = entries(&tar).iter().map(|(_, at)| *at).collect();
        cuts.extend((0..tar.len()).step_by(1 + tar.len() / 40));
        cuts.push(tar.len() - 1);
        for cut in cuts {
            let to = MemoryStore::new();
            let error = import(&tar[..cut], &to).expect_err(&format!("{cut}")).to_string();
            assert!(
                error.contains("truncated") || error.contains("not an exported file"),
                "{cut}: {error}"
            );
            assert!(to.bytes("info/refs").is_none(), "{cut}");
            assert_eq!(to.open_uploads(), 0);
            import(&tar, &to).unwrap();
            assert_eq!(published(&to), published(&from), "{layout:?} {cut}");
        }
    }
}

#[test]
fn damaged_byte_anywhere_is_found() {
    let repo = repo();
    for layout in LAYOUTS {
        let from = filled(&repo, layout);
        put_lfs(&from, b"an LFS object");
        let tar = trip(&from, None);
        for at in (0..tar.len()).step_by(1 + tar.len() / 300) {
            let mut damaged = tar.clone();
            damaged[at] ^= 0x40;
            let to = MemoryStore::new();
            // A byte that fills up a block belongs to nothing.
            if import(&damaged, &to).is_ok() {
                assert_eq!(tar[at], 0, "{at}");
                assert_eq!(published(&to).len(), published(&from).len());
                continue;
            }
            assert!(to.bytes("info/refs").is_none(), "{at}");
        }
    }
}

/// Damage that leaves the tar whole: named, and nothing is published.
#[test]
fn damaged_key_is_named_and_nothing_is_published() {
    let repo = repo();
    for layout in LAYOUTS {
        let from = filled(&repo, layout);
        put_lfs(&from, b"an LFS object");
        let tar = trip(&from, None);
        for (name, at) in entries(&tar).iter().filter(|(name, _)| name.contains("objects/")) {
            let mut damaged = tar.clone();
            damaged[at + 512 + 5] ^= 1;
            let to = MemoryStore::new();
            let error = import(&damaged, &to).expect_err(name).to_string();
            assert!(error.contains(name.as_str()) && error.contains("damaged"), "{name}: {error}");
            assert!(to.bytes("info/refs").is_none() && to.bytes(name).is_none(), "{name}");
        }
    }
}

#[test]
fn damaged_mirror_is_not_exported() {
    for layout in LAYOUTS {
        let from = filled(&repo(), layout);
        let key = from.keys().into_iter().find(|key| {
            key.starts_with("objects/") && !key.contains("info") && !key.ends_with(".idx")
        });
        let key = key.unwrap();
        let mut bytes = from.bytes(&key).unwrap().to_vec();
        *bytes.last_mut().unwrap() ^= 1;
        put(&from, &key, &bytes);
        let error = try_export(&from, None).unwrap_err().to_string();
        assert!(error.contains(&key) && error.contains("damaged"), "{error}");
    }
    let error = try_export(&MemoryStore::new(), None).unwrap_err().to_string();
    assert!(error.contains("no mirror in"), "{error}");
}

#[test]
fn trip_that_builds_on_what_the_mirror_does_not_have_is_refused_before_anything_is_stored() {
    let repo = repo();
    for layout in LAYOUTS {
        let (from, inner) = (filled(&repo, layout), MemoryStore::new());
        put_lfs(&from, b"an LFS object");
        import(&trip(&from, None), &inner).unwrap();
        let back = state(&inner, MEMORY).unwrap();
        repo.commit("refs/heads/main", &[("new", format!("{layout:?}").as_bytes())]);
        mirror(&LocalGit::new(repo.path()), &from, &options(layout), &Silent).unwrap();
        let second = trip(&from, Some(&back));
        // Another mirror, which is empty, or has lost something.
        for lost in [None, Some("lfs/"), Some("objects/")] {
            let other = if lost.is_some() { inner.clone() } else { MemoryStore::new() };
            let other = copy_of(&other);
            let gone = lost.map(|lost| {
                let keys = other.keys();
                let is_lost = |key: &&String| key.starts_with(lost) && !key.contains("info");
                Key::new(keys.iter().find(is_lost).unwrap().clone()).unwrap()
            });
            other.delete(&gone.clone().into_iter().collect::<Vec<_>>()).unwrap();
            let before = published(&other);
            let error = import(&second, &other).unwrap_err();
            assert!(matches!(&error, MirrorError::Source(_)), "{error}");
            let words = error.to_string();
            assert!(words.contains("has more than") && words.contains("--state-out"), "{words}");
            if let Some(gone) = gone {
                assert!(words.contains(gone.as_str()), "{words}");
            }
            assert_eq!(published(&other), before, "{layout:?} {lost:?}");
        }
        import(&second, &inner).unwrap();
    }
}

fn copy_of(store: &MemoryStore) -> MemoryStore {
    let copy = MemoryStore::new();
    for (key, object) in store.snapshot() {
        put(&copy, &key, &object.bytes);
    }
    copy
}

/// A trip with an entry more in front of its `n`-th, made by somebody else.
fn with_entry(tar: &[u8], n: usize, header: &tar::Header, content: &[u8]) -> Vec<u8> {
    let at = entries(tar)[n].1;
    let fill = vec![0; (512 - content.len() % 512) % 512];
    [&tar[..at], &header.as_bytes()[..], content, &fill, &tar[at..]].concat()
}

#[test]
fn hostile_entries_are_refused() {
    let from = filled(&repo(), Layout::Loose);
    let tar = trip(&from, None);
    assert!(import(&tar, &MemoryStore::new()).is_ok());
    let names = [
        "../../etc/passwd",
        "/etc/passwd",
        "objects/../HEAD",
        "objects/info/packs",
        "mirror_state/state.json",
        "info/refs",
        "HEAD",
        "objects/pack/pack-0000000000000000000000000000000000000000.pack",
        "objects/00/00000000000000000000000000000000000000",
        "lfs/objects/00/00/x",
        "x\n",
    ];
    let count = entries(&tar).len();
    for name in names {
        for n in [0, 1, 2, 3, 10, count - 1] {
            let mut header = tar::Header::new_gnu();
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_size(5);
            header.set_entry_type(tar::EntryType::Regular);
            header.set_cksum();
            let hostile = with_entry(&tar, n, &header, b"hello");
            let to = MemoryStore::new();
            // A HEAD where HEAD may stand is a HEAD: this one is damaged.
            let error = import(&hostile, &to).expect_err(&format!("{name} {n}"));
            assert!(matches!(error, MirrorError::Source(_)), "{name} {n}: {error}");
            assert!(to.bytes("info/refs").is_none(), "{name} {n}");
        }
    }
    for kind in *b"123456LKgxS" {
        let mut header = tar::Header::new_gnu();
        header.set_path("objects/00/x").unwrap();
        header.set_size(0);
        header.set_entry_type(tar::EntryType::new(kind));
        header.set_cksum();
        let to = MemoryStore::new();
        let error = import(&with_entry(&tar, 4, &header, b""), &to).unwrap_err().to_string();
        assert!(error.contains("not a regular file"), "{error}");
        assert!(to.bytes("info/refs").is_none());
    }
}

#[test]
fn what_is_no_trip_is_an_error_in_words() {
    for (bytes, wanted) in [
        (&b""[..], "truncated"),
        (b"# v2 git bundle\n", "truncated"),
        (&[b'x'; 4096], "tar header is damaged"),
        (&[0; 1024], "not an exported file"),
    ] {
        let to = MemoryStore::new();
        let error = import(bytes, &to).unwrap_err().to_string();
        assert!(error.contains(wanted), "{error}");
        assert!(to.keys().is_empty());
    }
}

#[test]
fn guards_hold_for_a_trip_as_for_any_source() {
    let many = Repo::new();
    let few = Repo::new();
    for number in 0..12 {
        many.commit(&format!("refs/heads/b{number}"), &[("a", format!("{number}").as_bytes())]);
    }
    few.commit("refs/heads/main", &[("a", b"1")]);
    let to = MemoryStore::new();
    import(&trip(&filled(&many, Layout::Pack), None), &to).unwrap();
    let before = published(&to);
    let small = trip(&filled(&few, Layout::Pack), None);
    let error = import(&small, &to).unwrap_err();
    assert!(matches!(error, MirrorError::Guard(_)), "{error}");
    assert_eq!(published(&to), before);
    let forced = Options { force: true, ..Options::default() };
    let source = TripSource::stream(Cursor::new(small), MEMORY);
    mirror_trip(&source, &to, &forced, &Silent).unwrap();
}

#[test]
fn packs_that_the_other_mirror_has_merged_leave_the_list() {
    let repo = repo();
    let (from, to) = (filled(&repo, Layout::Pack), MemoryStore::new());
    import(&trip(&from, None), &to).unwrap();
    let back = state(&to, MEMORY).unwrap();
    repo.commit("refs/heads/main", &[("new", b"new")]);
    let full = Options { full: true, ..options(Layout::Pack) };
    mirror(&LocalGit::new(repo.path()), &from, &full, &Silent).unwrap();
    import(&trip(&from, Some(&back)), &to).unwrap();
    assert_eq!(to.bytes("objects/info/packs"), from.bytes("objects/info/packs"));
    assert_clones(&to, &repo);
}

#[test]
fn little_memory_is_said_before_anything_is_written() {
    let from = filled(&repo(), Layout::Loose);
    let options = ExportOptions { memory_bytes: 1000, ..exporting() };
    let mut out = Vec::new();
    let error = export(&from, None, &options, &mut out, &Silent).unwrap_err();
    assert!(error.to_string().contains("--memory"), "{error}");
    assert!(out.is_empty());
}

/// A bundle, with its LFS objects beside it: what is there is stored, what is not counts as missing.
#[test]
fn bundle_takes_lfs_objects_from_a_directory() {
    let (repo, home) = (Repo::new(), tempfile::tempdir().unwrap());
    let contents: [&[u8]; 4] = [b"sound", b"gone", b"damaged", b"short"];
    let large: Vec<u8> = (0..9_000_000_u32).map(|n| (n / 7) as u8).collect();
    let texts = contents.map(lfs_server::pointer);
    let big = lfs_server::pointer(&large);
    let names = ["0", "1", "2", "3", "4"];
    let all = texts.iter().chain([&big]);
    let files: Vec<(&str, &[u8])> =
        names.into_iter().zip(all.map(|text| text.as_bytes())).collect();
    repo.commit("refs/heads/main", &files);
    let lfs = home.path().join("clone/.git/lfs");
    let path = |content: &[u8]| {
        let oid = lfs_server::oid(content);
        let folder = lfs.join("objects").join(&oid[..2]).join(&oid[2..4]);
        std::fs::create_dir_all(&folder).unwrap();
        folder.join(oid)
    };
    std::fs::write(path(b"sound"), b"sound").unwrap();
    path(b"gone");
    std::fs::write(path(b"damaged"), b"DAMAGED").unwrap();
    std::fs::write(path(b"short"), b"sh").unwrap();
    std::fs::write(path(&large), &large).unwrap();
    let bundle = home.path().join("a.bundle");
    let mut git = local_git::git(repo.path());
    git.args(["bundle", "create", "-q"]).arg(&bundle).args(["--all", "HEAD"]);
    local_git::run(&mut git, b"");
    let target = home.path().join("mirror.git");
    let run = |lfs: &Path| {
        let output = program(home.path())
            .args(["--source", &format!("bundle:{}", bundle.display()), "--lfs-dir"])
            .arg(lfs)
            .args(["--target", &format!("file://{}", target.display())])
            .output()
            .unwrap();
        (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let stored = |content: &[u8]| {
        let oid = lfs_server::oid(content);
        let key = format!("lfs/objects/{}/{}/{oid}", &oid[..2], &oid[2..4]);
        std::fs::read(target.join(key)).ok()
    };
    let (code, words) = run(&lfs);
    assert_eq!(code, 4, "{words}");
    for missing in [&b"gone"[..], b"damaged", b"short"] {
        assert!(words.contains(&lfs_server::oid(missing)), "{words}");
        assert_eq!(stored(missing), None);
    }
    assert_eq!(stored(b"sound").as_deref(), Some(&b"sound"[..]));
    assert!(stored(&large) == Some(large.clone()));
    // The rest comes later; no ref has moved.
    for content in contents {
        std::fs::write(path(content), content).unwrap();
    }
    let (code, words) = run(&lfs);
    assert_eq!(code, 0, "{words}");
    assert_eq!(stored(b"gone").as_deref(), Some(&b"gone"[..]));
    let (code, words) = run(&home.path().join("clone"));
    assert_eq!((code, words.contains("expected a clone's .git/lfs")), (2, true), "{words}");
}

/// The program, by a file and by a pipe; the state file is all that comes back.
#[test]
fn program_exports_and_imports_by_file_and_by_pipe() {
    let (repo, home) = (repo(), tempfile::tempdir().unwrap());
    let path = |name: &str| home.path().join(name);
    let url = |name: &str| format!("file://{}", path(name).display());
    let bundle = |name: &str, without: &[&str]| {
        let mut git = local_git::git(repo.path());
        git.args(["bundle", "create", "-q"]).arg(path(name)).args(["--all", "HEAD"]).args(without);
        local_git::run(&mut git, b"");
        format!("bundle:{}", path(name).display())
    };
    let run = |words: &[&str]| {
        let output = program(home.path()).args(words).output().unwrap();
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code().unwrap(), words + &String::from_utf8_lossy(&output.stdout))
    };
    let (outer, inner, state) = (url("outer.git"), url("inner.git"), path("a.state"));
    let (tar, state) = (path("trip.tar").display().to_string(), state.display().to_string());
    let source = bundle("1.bundle", &[]);
    let words = ["--source", &source, "--target", &outer, "--layout", "pack"];
    assert_eq!(run(&words).0, 0);
    let (code, words) = run(&["export", "--target", &outer, "-o", &tar]);
    assert_eq!(code, 0, "{words}");
    assert!(words.contains("exported"), "{words}");
    let (code, words) = run(&["import", "--target", &inner, &tar, "--state-out", &state]);
    assert_eq!(code, 0, "{words}");
    assert_same_repository(repo.path(), &path("inner.git"));
    repo.commit("refs/heads/main", &[("new", b"new")]);
    let source = bundle("2.bundle", &["^refs/heads/main^"]);
    assert_eq!(run(&["--source", &source, "--target", &outer, "--layout", "pack"]).0, 0);
    let (code, words) =
        run(&["export", "--target", &outer, "--since", &state, "-o", &tar, "--json"]);
    assert_eq!(code, 0, "{words}");
    // Three new ones, and the tag, which such a bundle brings again.
    assert!(words.contains("\"objects\":4"), "{words}");
    let (code, words) = run(&["import", "--target", &url("wrong.git"), &tar]);
    assert_eq!((code, words.contains("has more than")), (1, true), "{words}");
    // What was half written bears another name.
    assert!(!path("trip.tar.part").exists());
    let (code, words) = run(&["export", "--target", &url("nothing.git"), "-o", &tar]);
    assert_eq!((code, words.contains("no mirror in")), (1, true), "{words}");
    assert!(!path("trip.tar.part").exists() && path("trip.tar").exists());
    // By a pipe, on the same state.
    let mut export = program(home.path())
        .args(["export", "--target", &outer, "--since", &state, "-o", "-"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let import = program(home.path())
        .args(["import", "--target", &inner, "-"])
        .stdin(export.stdout.take().unwrap())
        .output()
        .unwrap();
    assert!(export.wait().unwrap().success());
    assert_eq!(import.status.code(), Some(0), "{}", String::from_utf8_lossy(&import.stderr));
    assert_same_repository(repo.path(), Path::new(&path("inner.git")));
    let fresh = ["import", "--target", &inner, "--state-out", &state];
    assert_eq!(run(&fresh).0, 0);
    let (code, words) =
        run(&["export", "--target", &outer, "--since", &state, "-o", &tar, "--json"]);
    assert_eq!((code, words.contains("\"objects\":0")), (0, true), "{words}");
}

local_git::also_with_sha256! {
    first_trip_carries_everything_and_git_clones_the_result,
    second_trip_carries_only_what_is_new,
    damaged_byte_anywhere_is_found,
}
