//! Repositories for tests: made by the `git` of this machine with fixed names and dates, read by a
//! [`Source`] that asks that git for the pack, and compared with what a mirror became.
//!
//! No network: the wire has tests of its own.
#![allow(dead_code)] // Each test crate uses a part of it.

use std::cell::Cell;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use mirror_git_to_s3::git::object::{Kind, ObjectFormat, Oid, hash_object};
use mirror_git_to_s3::git::refs::{Advertisement, Head, Ref, RefName};
use mirror_git_to_s3::source::{Source, SourceError};

thread_local! {
    static FORMAT: Cell<ObjectFormat> = const { Cell::new(ObjectFormat::Sha1) };
}

/// What the objects of this test's repositories are named with. A test runs on a thread of its own.
pub fn format() -> ObjectFormat {
    FORMAT.get()
}

/// Runs a test whose repositories are of this format.
pub fn with_format(format: ObjectFormat, test: impl FnOnce()) {
    FORMAT.set(format);
    test();
}

/// Runs tests of the module once more, as `sha256::…`, on repositories with SHA-256.
#[allow(unused_macros)]
macro_rules! also_with_sha256 {
    ($($test:ident),* $(,)?) => {
        mod sha256 {
            $(
                #[test]
                fn $test() {
                    let format = mirror_git_to_s3::git::object::ObjectFormat::Sha256;
                    super::local_git::with_format(format, super::$test);
                }
            )*
        }
    };
}
#[allow(unused_imports)] // Not every test crate has such tests.
pub(crate) use also_with_sha256;

/// A repository in a temporary folder, bare, with helpers to change it.
pub struct Repo {
    dir: tempfile::TempDir,
    format: ObjectFormat,
}

impl Repo {
    /// An empty bare repository whose HEAD is an unborn `main`; its format is the test's.
    pub fn new() -> Self {
        Repo::of(format())
    }

    pub fn of(format: ObjectFormat) -> Self {
        let repo = Repo { dir: tempfile::tempdir().expect("a temporary folder"), format };
        let format = format!("--object-format={format}");
        repo.git(&["init", "-q", "--bare", "-b", "main", &format, "."]);
        repo
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Runs git here and returns what it printed, without the last line feed.
    pub fn git(&self, args: &[&str]) -> String {
        self.git_with_input(args, b"")
    }

    pub fn git_with_input(&self, args: &[&str], input: &[u8]) -> String {
        let out = run(git(self.path()).args(args), input);
        String::from_utf8(out).expect("git prints UTF-8 here").trim_end().to_owned()
    }

    /// Stores a blob and gives its oid.
    pub fn blob(&self, content: &[u8]) -> String {
        self.object(Kind::Blob, content).to_string()
    }

    /// Stores a loose object as `git hash-object -w` does, without a process: tests store 40,000, and
    /// most of their time was git starting. What is wrong here git says when it packs or checks them.
    fn object(&self, kind: Kind, content: &[u8]) -> Oid {
        let oid = hash_object(self.format, kind, content).expect("no collision");
        let hex = oid.to_string();
        let folder = self.path().join("objects").join(&hex[..2]);
        let file = folder.join(&hex[2..]);
        if !file.exists() {
            let plain = [format!("{kind} {}\0", content.len()).as_bytes(), content].concat();
            let mut packed = vec![0; zlib_rs::compress_bound(plain.len())];
            let (packed, code) =
                zlib_rs::compress_slice(&mut packed, &plain, zlib_rs::DeflateConfig::new(1));
            assert_eq!(code, zlib_rs::ReturnCode::Ok);
            std::fs::create_dir_all(folder).expect("a folder for an object");
            std::fs::write(file, packed).expect("an object can be written");
        }
        oid
    }

    /// A commit on `branch` (a full ref name) that has exactly `files`, on top of what is there.
    pub fn commit(&self, branch: &str, files: &[(&str, &[u8])]) -> String {
        let parent = self.rev(branch);
        let parents: Vec<&str> = parent.as_deref().into_iter().collect();
        let oid = self.commit_with_parents(&parents, files);
        let file = self.path().join(branch);
        std::fs::create_dir_all(file.parent().expect("below refs")).expect("a folder for a ref");
        std::fs::write(file, format!("{oid}\n")).expect("a ref can be written");
        oid
    }

    pub fn commit_with_parents(&self, parents: &[&str], files: &[(&str, &[u8])]) -> String {
        let mut files = files.to_vec();
        files.sort_unstable();
        let mut tree = Vec::new();
        for (name, content) in files {
            tree.extend(format!("100644 {name}\0").as_bytes());
            tree.extend(self.object(Kind::Blob, content).as_bytes());
        }
        let mut commit = format!("tree {}\n", self.object(Kind::Tree, &tree));
        for parent in parents {
            commit += &format!("parent {parent}\n");
        }
        commit += &format!(
            "author {} <{}> {DATE}\ncommitter {} <{}> {DATE}\n\na commit\n",
            AUTHOR[0], AUTHOR[1], COMMITTER[0], COMMITTER[1]
        );
        self.object(Kind::Commit, commit.as_bytes()).to_string()
    }

    pub fn rev(&self, name: &str) -> Option<String> {
        if name.starts_with("refs/")
            && let Ok(text) = std::fs::read_to_string(self.path().join(name))
            && !text.starts_with("ref:")
        {
            return Some(text.trim().to_owned());
        }
        let out = git(self.path()).args(["rev-parse", "-q", "--verify", name]).output().unwrap();
        out.status.success().then(|| String::from_utf8(out.stdout).unwrap().trim().to_owned())
    }

    /// All objects that refs reach, sorted.
    pub fn objects(&self) -> Vec<String> {
        all_objects(self.path())
    }

    /// All refs as git prints them.
    pub fn refs(&self) -> String {
        all_refs(self.path())
    }
}

const AUTHOR: [&str; 2] = ["A U Thor", "author@example.com"];
const COMMITTER: [&str; 2] = ["C O Mitter", "committer@example.com"];
const DATE: &str = "1700000000 +0000";

/// Where git is. A command that is looked for in a PATH of its own is forked, and each fork copies the
/// page tables of all tests that run: a fifth of their time.
fn git_program() -> &'static Path {
    static FOUND: OnceLock<PathBuf> = OnceLock::new();
    FOUND.get_or_init(|| {
        let path = std::env::var_os("PATH").expect("a PATH");
        let mut places = std::env::split_paths(&path).map(|dir| dir.join("git"));
        places.find(|git| git.is_file()).expect("git is in the PATH")
    })
}

/// git without anybody's configuration, with fixed names and dates. It compresses fast, because much of
/// what tests store is noise.
pub fn git(dir: &Path) -> Command {
    let mut command = Command::new(git_program());
    command
        .current_dir(dir)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_COUNT", "1")
        .env("GIT_CONFIG_KEY_0", "core.compression")
        .env("GIT_CONFIG_VALUE_0", "1")
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_AUTHOR_NAME", AUTHOR[0])
        .env("GIT_AUTHOR_EMAIL", AUTHOR[1])
        .env("GIT_AUTHOR_DATE", DATE)
        .env("GIT_COMMITTER_NAME", COMMITTER[0])
        .env("GIT_COMMITTER_EMAIL", COMMITTER[1])
        .env("GIT_COMMITTER_DATE", DATE);
    command
}

/// Runs `command` with `input`; panics with its words if it fails.
pub fn run(command: &mut Command, input: &[u8]) -> Vec<u8> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("git runs");
    let mut stdin = child.stdin.take().expect("piped");
    let input = input.to_owned();
    let writer = std::thread::spawn(move || {
        let _ = stdin.write_all(&input);
    });
    let out = child.wait_with_output().expect("git ends");
    writer.join().expect("the writer ends");
    let words = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{command:?} failed: {words}");
    out.stdout
}

pub fn all_objects(dir: &Path) -> Vec<String> {
    let out = run(git(dir).args(["rev-list", "--objects", "--all", "--no-object-names"]), b"");
    let mut oids: Vec<String> = String::from_utf8(out).unwrap().lines().map(Into::into).collect();
    oids.sort_unstable();
    oids
}

pub fn all_refs(dir: &Path) -> String {
    let format = "--format=%(objectname) %(refname) %(*objectname)";
    String::from_utf8(run(git(dir).args(["for-each-ref", format]), b"")).unwrap()
}

/// Checks that the bare repository `mirror` is what `source` is: refs, HEAD, objects, fsck.
pub fn assert_same_repository(source: &Path, mirror: &Path) {
    assert_eq!(all_refs(source), all_refs(mirror), "refs");
    assert_eq!(all_objects(source), all_objects(mirror), "objects");
    let head = |dir| std::fs::read_to_string(Path::join(dir, "HEAD")).expect("a HEAD");
    assert_eq!(head(source), head(mirror), "HEAD");
    run(git(mirror).args(["fsck", "--full", "--strict"]), b"");
}

/// A [`Source`] over a local repository: its pack comes from `git pack-objects`.
pub struct LocalGit {
    path: PathBuf,
    pack_args: Vec<String>,
    requests: AtomicU64,
}

impl LocalGit {
    pub fn new(path: &Path) -> Self {
        Self::with_pack_args(path, &["--delta-base-offset"])
    }

    pub fn with_pack_args(path: &Path, args: &[&str]) -> Self {
        LocalGit {
            path: path.into(),
            pack_args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            requests: AtomicU64::new(0),
        }
    }
}

impl Source for LocalGit {
    fn describe(&self) -> String {
        "https://git.example/repo".into()
    }

    fn advertisement(&self) -> Result<Advertisement, SourceError> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let mut refs = Vec::new();
        for line in all_refs(&self.path).lines() {
            let mut words = line.split(' ');
            let mut oid = || words.next().and_then(|hex| hex.parse::<Oid>().ok());
            let first = oid().expect("an oid");
            let name = words.next().expect("a name");
            let peeled = words.next().and_then(|hex| hex.parse().ok());
            refs.push(Ref { name: RefName::new(name).unwrap(), oid: first, peeled });
        }
        refs.sort_by(|a, b| a.name.cmp(&b.name));
        let head = std::fs::read_to_string(self.path.join("HEAD")).expect("a HEAD");
        let head = match head.trim().strip_prefix("ref: ") {
            None => Head::Detached(head.trim().parse().expect("an oid")),
            Some(name) => {
                let name = RefName::new(name).unwrap();
                match refs.iter().any(|r| r.name == name) {
                    true => Head::Branch(name),
                    false => Head::Unborn(name),
                }
            }
        };
        let config = std::fs::read_to_string(self.path.join("config")).expect("a configuration");
        let format = match config.to_lowercase().contains("objectformat = sha256") {
            true => ObjectFormat::Sha256,
            false => ObjectFormat::Sha1,
        };
        Ok(Advertisement { format, refs, head })
    }

    fn fetch<'a>(
        &'a self,
        wants: &[Oid],
        haves: &[Oid],
        _words: Box<dyn FnMut(&str) + Send + 'a>,
    ) -> Result<Box<dyn Read + Send + 'a>, SourceError> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let mut revs: String = wants.iter().map(|oid| format!("{oid}\n")).collect();
        revs.extend(haves.iter().map(|oid| format!("^{oid}\n")));
        let mut command = git(&self.path);
        command.args(["pack-objects", "--revs", "--stdout", "-q"]).args(&self.pack_args);
        let pack = run(&mut command, revs.as_bytes());
        Ok(Box::new(std::io::Cursor::new(pack)))
    }

    fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }
}

/// A [`Source`] with one branch whose pack is given as bytes: for packs made by hand.
pub struct GivenPack {
    pub tip: Oid,
    pub pack: Vec<u8>,
}

impl Source for GivenPack {
    fn describe(&self) -> String {
        "https://git.example/by-hand".into()
    }

    fn advertisement(&self) -> Result<Advertisement, SourceError> {
        let name = RefName::new("refs/heads/main").unwrap();
        let refs = vec![Ref { name: name.clone(), oid: self.tip, peeled: None }];
        Ok(Advertisement::of(refs, Head::Branch(name)))
    }

    fn fetch<'a>(
        &'a self,
        _wants: &[Oid],
        _haves: &[Oid],
        _words: Box<dyn FnMut(&str) + Send + 'a>,
    ) -> Result<Box<dyn Read + Send + 'a>, SourceError> {
        Ok(Box::new(&self.pack[..]))
    }

    fn requests(&self) -> u64 {
        0
    }
}
