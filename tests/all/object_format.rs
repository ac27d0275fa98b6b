//! What is peculiar to the object format: where it is kept, that it never changes, and that nothing of
//! the other format does harm. What is the same in both is tested where it belongs, in both
//! (`local_git::also_with_sha256`).

use crate::support::{git_http, hooked_store, local_git};
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use git_http::{GitHttp, StaticHttp};
use local_git::{GivenPack, LocalGit, Repo, assert_same_repository, git, run};
use mirror_git_to_s3::git::object::ObjectFormat;
use mirror_git_to_s3::maintain::gc::{GcOptions, gc};
use mirror_git_to_s3::maintain::verify::{VerifyOptions, verify};
use mirror_git_to_s3::mirror::{Layout, MirrorError, Options, Status, mirror, mirror_mirror};
use mirror_git_to_s3::progress::Silent;
use mirror_git_to_s3::store::dir::DirStore;
use mirror_git_to_s3::store::memory::MemoryStore;
use mirror_git_to_s3::store::{Key, ObjectHeaders, Store};
use mirror_git_to_s3::transfer::MirrorSource;

const BOTH: [ObjectFormat; 2] = ObjectFormat::ALL;

fn other(format: ObjectFormat) -> ObjectFormat {
    BOTH.into_iter().find(|other| *other != format).unwrap()
}

/// Files that grow, so that there are deltas.
fn filled(format: ObjectFormat) -> Repo {
    let repo = Repo::of(format);
    grow(&repo, 0..20);
    repo.git(&["tag", "-a", "-m", "annotated", "v1", "main~2"]);
    repo
}

fn grow(repo: &Repo, rounds: std::ops::Range<u32>) {
    let line =
        |round: u32| format!("line {round} of a file that grows, so that there are deltas\n");
    for round in rounds {
        let text: String = (0..=round).map(line).collect();
        repo.commit("refs/heads/main", &[("grows", text.as_bytes())]);
    }
}

fn options(layout: Layout) -> Options {
    Options { layout, lfs: false, ..Options::default() }
}

fn mirrored(repo: &Repo, store: &dyn Store, options: &Options) -> Result<Status, MirrorError> {
    mirror(&LocalGit::new(repo.path()), store, options, &Silent).map(|summary| summary.status)
}

fn put(store: &MemoryStore, key: &str, body: &[u8]) {
    let headers = ObjectHeaders::immutable("application/octet-stream");
    store.put(&Key::new(key).unwrap(), body, headers, None).unwrap();
}

fn state(store: &MemoryStore) -> serde_json::Value {
    serde_json::from_slice(&store.bytes("mirror_state/state.json").unwrap()).unwrap()
}

fn assert_sound(store: &MemoryStore) {
    let report = verify(store, &VerifyOptions::default()).unwrap();
    assert!(report.is_sound(), "{:?}", report.findings);
}

fn assert_mirrored(repo: &Repo, store: &MemoryStore) {
    let copy = tempfile::tempdir().unwrap();
    assert!(hooked_store::dump(store, copy.path()));
    assert_same_repository(repo.path(), copy.path());
}

#[test]
fn source_that_changes_its_format_is_refused_and_nothing_changes() {
    for format in BOTH {
        for (old, new) in [
            (filled(format), filled(other(format))),
            (Repo::of(format), filled(other(format))),
            (filled(format), Repo::of(other(format))),
            (Repo::of(format), Repo::of(other(format))),
        ] {
            let store = MemoryStore::new();
            mirrored(&old, &store, &options(Layout::Auto)).unwrap();
            let before: Vec<_> = store.keys();
            for options in [
                options(Layout::Auto),
                Options { dry_run: true, ..options(Layout::Auto) },
                Options { force: true, full: true, move_source: true, ..options(Layout::Pack) },
            ] {
                let error = mirrored(&new, &store, &options).unwrap_err();
                let words = format!("is {format}, and the source's is {}", other(format));
                let text = error.to_string();
                assert!(matches!(&error, MirrorError::Guard(_)) && text.contains(&words), "{text}");
            }
            assert_eq!(store.keys(), before);
            assert_eq!(mirrored(&old, &store, &options(Layout::Auto)).unwrap(), Status::Unchanged);
        }
    }
}

#[test]
fn state_says_sha256_and_of_sha1_nothing() {
    for (format, said) in [(BOTH[0], serde_json::Value::Null), (BOTH[1], "sha256".into())] {
        for repo in [Repo::of(format), filled(format)] {
            let store = MemoryStore::new();
            mirrored(&repo, &store, &options(Layout::Auto)).unwrap();
            assert_eq!(state(&store)["object_format"], said);
            assert_sound(&store);
            // A copy has it as well, and continues with it.
            let copy = MemoryStore::new();
            let from = MirrorSource::new(Box::new(store.clone()));
            mirror_mirror(&from, &copy, &options(Layout::Auto), &Silent).unwrap();
            assert_eq!(state(&copy)["object_format"], said);
            grow(&repo, 20..23);
            mirrored(&repo, &copy, &options(Layout::Auto)).unwrap();
            assert_mirrored(&repo, &copy);
        }
    }
}

#[test]
fn deltas_that_name_their_bases_are_resolved_in_both_layouts() {
    for format in BOTH {
        for layout in [Layout::Loose, Layout::Pack] {
            let (repo, store) = (filled(format), MemoryStore::new());
            // Without offsets: REF_DELTAs, whose bases have names of this format.
            let source = LocalGit::with_pack_args(repo.path(), &[]);
            mirror(&source, &store, &options(layout), &Silent).unwrap();
            grow(&repo, 20..30);
            mirror(&source, &store, &options(layout), &Silent).unwrap();
            assert_mirrored(&repo, &store);
            assert_sound(&store);
        }
    }
}

#[test]
fn pack_of_the_other_format_is_broken_and_publishes_nothing() {
    for format in BOTH {
        for layout in [Layout::Loose, Layout::Pack] {
            let (right, wrong) = (filled(format), filled(other(format)));
            let tip = right.rev("main").unwrap().parse().unwrap();
            let pack = run(
                git(wrong.path()).args(["pack-objects", "--revs", "--stdout", "-q"]),
                b"main\n",
            );
            let store = MemoryStore::new();
            let source = GivenPack { tip, pack };
            let error = mirror(&source, &store, &options(layout), &Silent).unwrap_err();
            assert!(matches!(error, MirrorError::Pack(_)), "{error}");
            assert!(store.bytes("info/refs").is_none());
        }
    }
}

/// Everything that a stranger of the other format can leave in a bucket.
#[test]
fn strangers_of_the_other_format_do_no_harm() {
    for format in BOTH {
        let (repo, stranger) = (filled(format), filled(other(format)));
        let (store, theirs) = (MemoryStore::new(), MemoryStore::new());
        mirrored(&repo, &store, &options(Layout::Pack)).unwrap();
        for layout in [Layout::Pack, Layout::Loose] {
            mirrored(&stranger, &theirs, &options(layout)).unwrap();
        }
        for key in theirs.keys().iter().filter(|key| key.starts_with("objects/")) {
            if key != "objects/info/packs" {
                put(&store, key, &theirs.bytes(key).unwrap());
            }
        }
        let listed = [&theirs, &store].map(|store| store.bytes("objects/info/packs").unwrap());
        let [theirs, ours] = listed.map(|file| String::from_utf8(file.to_vec()).unwrap());
        put(&store, "objects/info/packs", format!("{}\n{ours}", theirs.trim_end()).as_bytes());
        // Compaction would join what cannot be joined, and pack loose objects that are not its own.
        let few = Options { max_packs: 2, ..options(Layout::Auto) };
        for round in 20..32 {
            grow(&repo, round..round + 1);
            mirrored(&repo, &store, &few).unwrap();
        }
        assert_sound(&store);
        gc(&store, &GcOptions::default(), &|_| ()).unwrap();
        assert_sound(&store);
        // Git's own checks would find the strangers themselves; a reader does not.
        let files = tempfile::tempdir().unwrap();
        assert!(hooked_store::dump(&store, &files.path().join("mirror")));
        let served = StaticHttp::start(files.path());
        let words = ["clone", "-q", "--mirror", &format!("{}/mirror", served.url()), "clone"];
        run(git(files.path()).args(words).env("no_proxy", "*"), b"");
        assert_same_repository(repo.path(), &files.path().join("clone"));
        let file = mirror_git_to_s3::transfer::export::state(&store, 64 << 20).unwrap();
        let text = String::from_utf8(file).unwrap();
        assert_eq!(text.contains("\"object_format\":\"sha256\""), format == ObjectFormat::Sha256);
    }
}

#[test]
fn config_of_a_directory_is_written_once_and_never_over_another() {
    let config = |dir: &Path| fs::read_to_string(dir.join("config")).ok();
    for (format, expected) in [(BOTH[0], None), (BOTH[1], Some("objectFormat = sha256"))] {
        for repo in [Repo::of(format), filled(format)] {
            let dir = tempfile::tempdir().unwrap();
            let store = DirStore::new(dir.path()).unwrap();
            mirrored(&repo, &store, &options(Layout::Auto)).unwrap();
            let written = config(dir.path());
            assert_eq!(written.is_some(), expected.is_some());
            assert!(written.is_none_or(|text| text.contains(expected.unwrap())));
            assert_same_repository(repo.path(), dir.path());
            let own = format!(
                "# mine\n[core]\nrepositoryformatversion = 1\n[extensions]\nobjectFormat = {format}\n"
            );
            fs::write(dir.path().join("config"), &own).unwrap();
            grow(&repo, 20..22);
            mirrored(&repo, &store, &options(Layout::Auto)).unwrap();
            assert_eq!(config(dir.path()), Some(own));
            assert_same_repository(repo.path(), dir.path());
        }
    }
}

/// The program, with a repository behind `git http-backend` and a directory for a target.
struct World {
    folder: tempfile::TempDir,
    source: GitHttp,
}

impl World {
    fn new() -> World {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("bin")).unwrap();
        let helper = folder.path().join("bin/git-remote-mirror");
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_mirror-git-to-s3"), helper).unwrap();
        let source = GitHttp::start(&std::env::temp_dir(), git_http::Options::default());
        World { folder, source }
    }

    fn target(&self) -> String {
        format!("file://{}", self.folder.path().join("mirror").display())
    }

    fn mirror(&self, repo: &Repo) -> Output {
        let name = repo.path().file_name().unwrap().to_str().unwrap();
        let source = format!("{}/{name}", self.source.url());
        Command::new(env!("CARGO_BIN_EXE_mirror-git-to-s3"))
            .args(["--source", &source, "--target", &self.target()])
            .env("NO_PROXY", "*")
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// A clone by the remote helper.
    fn clone(&self, to: &str) -> std::path::PathBuf {
        let path = std::env::var("PATH").unwrap();
        let path = format!("{}:{path}", self.folder.path().join("bin").display());
        let url = format!("mirror::{}", self.target());
        let mut command = git(self.folder.path());
        run(command.args(["clone", "-q", "--mirror", &url, to]).env("PATH", path), b"");
        self.folder.path().join(to)
    }
}

fn format_of(dir: &Path) -> String {
    let out = run(git(dir).args(["rev-parse", "--show-object-format"]), b"");
    String::from_utf8(out).unwrap().trim().to_owned()
}

#[test]
fn program_warns_of_an_empty_mirror_with_sha256_and_the_helper_knows_it_all_the_same() {
    let says = |output: &Output| String::from_utf8_lossy(&output.stderr).into_owned();
    for format in BOTH {
        let (world, repo) = (World::new(), Repo::of(format));
        let output = world.mirror(&repo);
        assert!(output.status.success(), "{}", says(&output));
        let warned = says(&output).contains("git treats an empty mirror as sha1");
        assert_eq!(warned, format == ObjectFormat::Sha256, "{}", says(&output));
        assert_eq!(format_of(&world.clone("empty")), format.as_str());
        // With refs there is nothing to warn of, and they show the format.
        grow(&repo, 0..3);
        let output = world.mirror(&repo);
        assert!(output.status.success() && !says(&output).contains("empty"), "{}", says(&output));
        let clone = world.clone("filled");
        assert_eq!(format_of(&clone), format.as_str());
        assert_same_repository(repo.path(), &clone);
        // Another repository with the other format at the same URL: exit code 13.
        let output = world.mirror(&filled(other(format)));
        assert_eq!(output.status.code(), Some(13), "{}", says(&output));
    }
}
