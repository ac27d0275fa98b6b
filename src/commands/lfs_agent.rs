//! `lfs-agent URL`: git-lfs reads LFS objects from a mirror through this.
//!
//! A static bucket can't answer LFS's batch API, which is a POST. So git-lfs is asked to start this
//! program as its standalone custom transfer agent (git-lfs' `docs/custom-transfers.md`): one JSON
//! message a line on standard input and output. Only GETs reach the mirror. git-lfs starts as many
//! agents as `lfs.concurrenttransfers` says and gives each one object at a time, so one here works
//! on one object. What breaks off is resumed, by the same agent or by one of a later command: the
//! part that came is kept under `lfs/incomplete` of the git directory.

use std::fs::{File, OpenOptions, TryLockError};
use std::hash::BuildHasher;
use std::io::{self, BufRead, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use url::Url;

use super::git_config::{configure, git_config};
use crate::cli::{AgentCommand, CliError, MirrorUrl, Settings};
use crate::endpoints::Endpoints;
use crate::exit_code::ExitCode;
use crate::git::lfs_pointer::{LfsPointer, sha256};
use crate::http;
use crate::logging;
use crate::progress::Screen;
use crate::run::Cancel;
use crate::run::retry::{Backoff, Policy};
use crate::source::auth::{Auth, Credentials};
use crate::source::lfs::{self, Download};
use crate::source::{SourceError, SourceErrorKind};
use crate::store::dir::open_regular;
use crate::store::{Key, Store, StoreError, StoreErrorKind};

/// Tries with no byte between them.
const POLICY: Policy = Policy::of(5, Duration::from_millis(250));

/// A progress message is sent after so many bytes.
const TELL_BYTES: u64 = 1 << 20;

/// A message longer than this (bytes) is not git-lfs'.
const MAX_MESSAGE_BYTES: u64 = 1 << 20;

/// Speaks with git-lfs until it says `terminate` or goes away. `Err` is a usage error.
pub fn run(command: &AgentCommand) -> Result<ExitCode, CliError> {
    logging::start(&command.output, Screen::default());
    if let Some(warning) = &command.warning {
        log::warn!("{warning}");
    }
    let mirror = match &command.mirror {
        MirrorUrl::OfRemote => None,
        mirror => Some(Mirror::open(&Endpoints::new(&command.settings)?, mirror)?),
    };
    let folder = incomplete_folder();
    let (stdin, stdout) = (io::stdin().lock(), io::stdout().lock());
    let settings = &command.settings;
    let path = folder.path.clone();
    match (Agent { mirror, settings, folder: path, output: stdout }.serve(stdin)) {
        Ok(()) => Ok(ExitCode::Done),
        Err(error) => {
            log::error!("cannot communicate with git-lfs: {error}");
            Ok(ExitCode::Failed)
        }
    }
}

/// Where objects are read from.
enum Mirror {
    /// The bucket as everybody sees it.
    Http { url: Url, client: http::Client, credentials: Credentials },
    /// A store, with the user's credentials.
    Store(Box<dyn Store>),
}

/// Why an object can't be had, and whether trying again may help.
struct Failure {
    words: String,
    transient: bool,
}

impl From<SourceError> for Failure {
    fn from(error: SourceError) -> Self {
        let transient =
            matches!(error.kind, SourceErrorKind::Transient { .. } | SourceErrorKind::TooSlow);
        Failure { words: error.to_string(), transient }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let transient = matches!(error.kind, StoreErrorKind::Transient { .. });
        Failure { words: error.to_string(), transient }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Failure { words: error.to_string(), transient: false }
    }
}

impl Mirror {
    fn open(endpoints: &Endpoints, mirror: &MirrorUrl) -> Result<Self, CliError> {
        let usage = |words: String| CliError::new(words);
        match mirror {
            MirrorUrl::OfRemote => Err(usage("git-lfs names no remote".into())),
            MirrorUrl::Target(target) => {
                let store = endpoints.open_store(target, &Cancel::default());
                Ok(Mirror::Store(store.map_err(|error| usage(error.to_string()))?))
            }
            MirrorUrl::Http(source) => {
                let mut url = Url::parse(&source.with_userinfo())
                    .map_err(|error| usage(format!("not a URL: {error}")))?;
                let auth =
                    Auth::from_environment(None).map_err(|error| usage(error.to_string()))?;
                let credentials = Credentials::take_from(&mut url, &auth);
                Ok(Mirror::Http { url, client: endpoints.source_client().clone(), credentials })
            }
        }
    }

    /// The mirror that git's remote `name` is, with what git config says of it.
    fn of_remote(name: &str, settings: &Settings) -> Result<Self, CliError> {
        let url = match name.starts_with("mirror::") {
            true => name.to_owned(),
            false => remote_url(name)?,
        };
        let mirror = MirrorUrl::of_remote(&url)?;
        let mut settings = settings.clone();
        configure(&mut settings, &git_config(&mirror.to_string()))?;
        Mirror::open(&Endpoints::new(&settings)?, &mirror)
    }

    /// The object's bytes from `offset` on, unchecked.
    fn stream(&self, oid: &str, offset: u64) -> Result<Box<dyn Read + Send>, Failure> {
        let path = format!("lfs/objects/{}/{}/{oid}", &oid[..2], &oid[2..4]);
        match self {
            Mirror::Store(store) => {
                let key = Key::new(path).expect("hexadecimal digits");
                Ok(store.open(&key, offset)?)
            }
            Mirror::Http { url, client, credentials } => {
                let mut url = url.clone();
                url.set_path(&format!("{}/{path}", url.path().trim_end_matches('/')));
                let headers = credentials.headers_for(&url).to_vec();
                let download = Download::new(url, headers);
                Ok(lfs::open(client, http::Reach::ANYWHERE, &AtomicU64::new(0), &download, offset)?)
            }
        }
    }
}

/// What git-lfs says.
#[derive(Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
enum Message {
    Init { operation: String, remote: Option<String> },
    Download { oid: String, size: u64 },
    Upload { oid: String },
    Terminate,
}

struct Agent<'s, W> {
    /// `None`: not known yet, for git-lfs has not named its remote.
    mirror: Option<Mirror>,
    settings: &'s Settings,
    /// Where downloads are until git-lfs takes them.
    folder: PathBuf,
    output: W,
}

impl<W: Write> Agent<'_, W> {
    fn serve(mut self, mut input: impl BufRead) -> io::Result<()> {
        loop {
            let mut line = Vec::new();
            let read = input.by_ref().take(MAX_MESSAGE_BYTES).read_until(b'\n', &mut line)?;
            if read == 0 {
                return Ok(());
            }
            let message: Message = serde_json::from_slice(&line)
                .map_err(|error| io::Error::other(format!("not a git-lfs message: {error}")))?;
            match message {
                Message::Terminate => return Ok(()),
                Message::Init { operation, remote } if operation == "download" => {
                    let answer = self.begin(remote.as_deref());
                    self.say(&answer)?;
                }
                Message::Init { .. } => {
                    self.say(&json!({ "error": { "code": 1, "message": READ_ONLY } }))?;
                }
                Message::Upload { oid } => self.complete_with_error(&oid, READ_ONLY)?,
                Message::Download { oid, size } => self.download(&oid, size)?,
            }
        }
    }

    /// Opens the mirror, if the command line does not say which.
    fn begin(&mut self, remote: Option<&str>) -> Value {
        if self.mirror.is_none() {
            match Mirror::of_remote(remote.unwrap_or("origin"), self.settings) {
                Ok(mirror) => self.mirror = Some(mirror),
                Err(error) => {
                    return json!({ "error": { "code": 1, "message": error.to_string() } });
                }
            }
        }
        json!({})
    }

    fn say(&mut self, message: &Value) -> io::Result<()> {
        writeln!(self.output, "{message}")?;
        self.output.flush()
    }

    fn complete_with_error(&mut self, oid: &str, words: &str) -> io::Result<()> {
        let error = json!({ "code": 2, "message": words });
        self.say(&json!({ "event": "complete", "oid": oid, "error": error }))
    }

    fn download(&mut self, oid: &str, size: u64) -> io::Result<()> {
        let Some(hash) = sha256(oid) else {
            return self.complete_with_error(oid, "not an LFS object's name");
        };
        let pointer = LfsPointer { oid: hash, size };
        match self.fetch(&pointer) {
            Ok(path) => self.say(&json!({ "event": "complete", "oid": oid, "path": path })),
            Err(failure) => self.complete_with_error(oid, &failure.words),
        }
    }

    /// Brings the object into a file, whole and checked, and gives its path.
    fn fetch(&mut self, pointer: &LfsPointer) -> Result<PathBuf, Failure> {
        let oid = pointer.hex();
        let mut partial = Partial::open(&self.folder, &oid)?;
        let (mut backoff, mut corrupt) = (Backoff::new(POLICY), false);
        loop {
            let before = partial.len;
            let failure = match self.transfer(pointer, &mut partial) {
                Ok(()) if partial.is(pointer) => return Ok(partial.keep()?),
                // What an earlier command left may be bad, or what a cache sent: once more.
                Ok(()) if !corrupt => {
                    corrupt = true;
                    partial.restart()?;
                    continue;
                }
                Ok(()) => {
                    partial.discard();
                    let words =
                        format!("the mirror's object {oid} is damaged: its SHA-256 does not match");
                    return Err(Failure { words, transient: false });
                }
                Err(failure) => failure,
            };
            if partial.len > before {
                backoff = Backoff::new(POLICY);
            }
            let wait = backoff.wait_after(None).filter(|_| failure.transient);
            let Some(wait) = wait else { return Err(failure) };
            log::info!("{}; trying again in {} ms", failure.words, wait.as_millis());
            std::thread::sleep(wait);
        }
    }

    /// Continues where `partial` ends, up to the object's size.
    fn transfer(&mut self, pointer: &LfsPointer, partial: &mut Partial) -> Result<(), Failure> {
        let oid = pointer.hex();
        if partial.len > pointer.size {
            partial.restart()?;
        }
        let mut reported = 0;
        // An object that is there already, whole, is only reported; one of no bytes is asked for, to
        // see that it is there.
        if partial.len < pointer.size || pointer.size == 0 {
            let begun = || io::Error::other("git-lfs did not start with init");
            let mirror = self.mirror.as_ref().ok_or_else(begun)?;
            let mut stream = mirror.stream(&oid, partial.len)?;
            let mut buffer = vec![0; 64 << 10];
            loop {
                let read = match stream.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(read) => read,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => return Err(broken(&error)),
                };
                if read as u64 > pointer.size - partial.len {
                    let words =
                        format!("the mirror's object {oid} is longer than {} bytes", pointer.size);
                    partial.restart()?;
                    return Err(Failure { words, transient: false });
                }
                partial.write(&buffer[..read])?;
                if partial.len >= reported + TELL_BYTES {
                    self.progress(&oid, partial.len, &mut reported)?;
                }
            }
        }
        if partial.len < pointer.size {
            let words = format!("{oid} ended after {} of {} bytes", partial.len, pointer.size);
            return Err(Failure { words, transient: true });
        }
        if partial.len > reported {
            self.progress(&oid, partial.len, &mut reported)?;
        }
        Ok(())
    }

    fn progress(&mut self, oid: &str, so_far: u64, reported: &mut u64) -> io::Result<()> {
        let since = so_far - *reported;
        *reported = so_far;
        self.say(&json!({
            "event": "progress", "oid": oid, "bytesSoFar": so_far, "bytesSinceLast": since,
        }))
    }
}

const READ_ONLY: &str = "a mirror is read-only: push LFS objects to the source repository";

/// A stream that broke; what the store or the server meant is inside.
fn broken(error: &io::Error) -> Failure {
    if let Some(error) = SourceError::from_io(error) {
        return error.clone().into();
    }
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<StoreError>());
    match inner {
        Some(error) => error.clone().into(),
        None => Failure { words: error.to_string(), transient: true },
    }
}

/// The URL of git's remote `name`.
fn remote_url(name: &str) -> Result<String, CliError> {
    let words = ["remote", "get-url", "--", name];
    let asked = std::process::Command::new("git").args(words).output();
    let asked = asked.map_err(|error| CliError::new(format!("cannot run git: {error}")))?;
    match asked.status.success() {
        true => Ok(String::from_utf8_lossy(&asked.stdout).trim_end().to_owned()),
        false => Err(CliError::new(format!("git has no remote {name:?}"))),
    }
}

/// `lfs/incomplete` of the git directory that git-lfs works for, or the user's cache. A folder that
/// others may write to is never used: they could plant files there.
fn incomplete_folder() -> Folder {
    let asked = std::process::Command::new("git")
        .args(["rev-parse", "--git-common-dir"])
        .stderr(std::process::Stdio::null())
        .output();
    let git_dir = asked.ok().filter(|answer| answer.status.success()).and_then(|answer| {
        let text = String::from_utf8(answer.stdout).ok()?;
        Path::new(text.trim_end_matches('\n')).canonicalize().ok()
    });
    let folder = git_dir.map(|dir| dir.join("lfs").join("incomplete"));
    match folder {
        Some(path) => Folder { path, own: None },
        None => cache_folder(|name| std::env::var_os(name).map(PathBuf::from)),
    }
}

/// Where downloads are until they are whole.
struct Folder {
    path: PathBuf,
    /// What this process alone knows, and what goes when it ends.
    own: Option<PathBuf>,
}

impl Drop for Folder {
    fn drop(&mut self) {
        // git-lfs has moved away what was whole.
        if let Some(own) = &self.own {
            let _ = std::fs::remove_dir_all(own);
        }
    }
}

/// Where the user's caches are (XDG Base Directory Specification). Without a home it is a folder that
/// nobody else can have made: a download that is interrupted begins anew.
fn cache_folder(var: impl Fn(&str) -> Option<PathBuf>) -> Folder {
    let absolute = |name: &str| var(name).filter(|path| path.is_absolute());
    let cache = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")));
    let own = || {
        let name = format!("mirror-git-to-s3-{:016x}", std::hash::RandomState::new().hash_one(0));
        std::env::temp_dir().join(name)
    };
    let (own, base) = match cache {
        Some(cache) => (None, cache),
        None => {
            let own = own();
            // If it cannot be made now, nor can what belongs into it, and that says why.
            let _ = make_private(&own);
            (Some(own.clone()), own)
        }
    };
    Folder { path: base.join("mirror-git-to-s3").join("lfs"), own }
}

/// Objects may be secret, and the folder lies among those of others.
fn make_private(folder: &Path) -> io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}

/// An object that has come in part: its file, which this process alone writes, and its hash so far.
struct Partial {
    path: PathBuf,
    file: File,
    len: u64,
    hasher: Sha256,
}

impl Partial {
    fn open(folder: &Path, oid: &str) -> io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let path = folder.join(format!("{oid}.mirror"));
        let (path, file) = match open_locked(&path)? {
            Some(file) => (path, file),
            // Another command fetches the same object: this one goes its own way.
            None => {
                let own = folder.join(format!("{oid}.{}.mirror", std::process::id()));
                let taken = || io::Error::other(format!("{} is in use", own.display()));
                let file = open_locked(&own)?.ok_or_else(taken)?;
                (own, file)
            }
        };
        let mut partial = Partial { path, file, len: 0, hasher: Sha256::new() };
        partial.len = io::copy(&mut partial.file, &mut HashWriter(&mut partial.hasher))?;
        Ok(partial)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.hasher.update(bytes);
        self.len += bytes.len() as u64;
        Ok(())
    }

    fn is(&self, pointer: &LfsPointer) -> bool {
        let hash: [u8; 32] = self.hasher.clone().finalize().into();
        hash == pointer.oid && self.len == pointer.size
    }

    fn restart(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.seek(SeekFrom::Start(0))?;
        (self.len, self.hasher) = (0, Sha256::new());
        Ok(())
    }

    /// git-lfs moves the file into its own storage.
    fn keep(self) -> io::Result<PathBuf> {
        // git-lfs must find it under a name that no other agent opens meanwhile.
        let done = self.path.with_extension(format!("{}.done", std::process::id()));
        std::fs::rename(&self.path, &done)?;
        Ok(done)
    }

    fn discard(self) {
        // What stays is found damaged and overwritten by the next command.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Opens for this process alone; `None`: another one has it. In a repository that a group shares,
/// somebody may have planted a link or a FIFO.
fn open_locked(path: &Path) -> io::Result<Option<File>> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    let file = open_regular(path, &mut options)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        // A file system without locks.
        Err(TryLockError::Error(_)) => Ok(Some(file)),
    }
}

struct HashWriter<'h>(&'h mut Sha256);

impl Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::ObjectHeaders;
    use crate::store::memory::{Fault, MemoryStore, Operation};

    fn pointer(content: &[u8]) -> LfsPointer {
        LfsPointer { oid: Sha256::digest(content).into(), size: content.len() as u64 }
    }

    fn put(store: &MemoryStore, pointer: &LfsPointer, content: &[u8]) {
        let hex = pointer.hex();
        let key = Key::new(format!("lfs/objects/{}/{}/{hex}", &hex[..2], &hex[2..4])).unwrap();
        store.put(&key, content, ObjectHeaders::immutable("x/y"), None).unwrap();
    }

    fn talk(store: &MemoryStore, folder: &Path, messages: &[Value]) -> Vec<Value> {
        let input: String = messages.iter().map(|message| format!("{message}\n")).collect();
        let mut output = Vec::new();
        let mirror = Mirror::Store(Box::new(store.clone()));
        let settings = &Settings::default();
        let mirror = Some(mirror);
        let agent = Agent { mirror, settings, folder: folder.into(), output: &mut output };
        agent.serve(input.as_bytes()).unwrap();
        let lines = output.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
        lines.map(|line| serde_json::from_slice(line).unwrap()).collect()
    }

    fn ask(pointer: &LfsPointer) -> Value {
        json!({ "event": "download", "oid": pointer.hex(), "size": pointer.size, "action": null })
    }

    #[test]
    fn outside_a_repository_what_is_incomplete_lies_in_the_users_cache() {
        let with = |vars: &[(&str, &str)]| {
            let found = |name: &str| vars.iter().find(|(known, _)| *known == name);
            cache_folder(|name| found(name).map(|(_, path)| PathBuf::from(path))).path.clone()
        };
        let home = ("HOME", "/home/a");
        assert_eq!(with(&[home]), Path::new("/home/a/.cache/mirror-git-to-s3/lfs"));
        let cache = ("XDG_CACHE_HOME", "/c");
        assert_eq!(with(&[home, cache]), Path::new("/c/mirror-git-to-s3/lfs"));
        // Nobody can have put a link there before.
        let [one, other] = [0, 1].map(|_| with(&[("XDG_CACHE_HOME", "c")]));
        assert!(one != other && one.is_absolute(), "{one:?}");
    }

    #[test]
    fn folder_of_a_user_without_a_home_goes_when_the_agent_ends() {
        let folder = cache_folder(|_| None);
        let own = folder.own.clone().unwrap();
        drop(Partial::open(&folder.path, &"a".repeat(64)).unwrap());
        assert!(own.exists());
        drop(folder);
        assert!(!own.exists());
    }

    #[test]
    #[cfg(unix)]
    fn folder_among_those_of_others_is_closed_to_them() {
        use std::os::unix::fs::PermissionsExt;
        let folder = cache_folder(|_| None);
        drop(Partial::open(&folder.path, &"a".repeat(64)).unwrap());
        let about = std::fs::metadata(folder.own.as_ref().unwrap()).unwrap();
        assert_eq!(about.permissions().mode() & 0o077, 0);
    }

    /// As in a repository that a group shares.
    #[test]
    #[cfg(unix)]
    fn planted_links_and_fifos_are_not_followed_or_waited_for() {
        let (store, dir) = (MemoryStore::new(), tempfile::tempdir().unwrap());
        let wanted = pointer(b"content");
        put(&store, &wanted, b"content");
        let victim = dir.path().join("victim");
        std::fs::write(&victim, "precious").unwrap();
        let partial = dir.path().join(format!("{}.mirror", wanted.hex()));
        let plants: [&dyn Fn(); 2] =
            [&|| std::os::unix::fs::symlink(&victim, &partial).unwrap(), &|| {
                let made = std::process::Command::new("mkfifo").arg(&partial).status().unwrap();
                assert!(made.success());
            }];
        for plant in plants {
            plant();
            let answers = talk(&store, dir.path(), &[ask(&wanted)]);
            assert!(answers.last().unwrap()["error"]["message"].is_string(), "{answers:?}");
            assert_eq!(std::fs::read(&victim).unwrap(), b"precious");
            std::fs::remove_file(&partial).unwrap();
        }
    }

    #[test]
    fn an_object_is_told_with_progress_and_a_path() {
        let (store, dir) = (MemoryStore::new(), tempfile::tempdir().unwrap());
        let content = vec![7; 3 << 20];
        let wanted = pointer(&content);
        put(&store, &wanted, &content);
        let init = json!({ "event": "init", "operation": "download", "concurrent": true });
        let answers =
            talk(&store, dir.path(), &[init, ask(&wanted), json!({"event": "terminate"})]);
        assert_eq!(answers[0], json!({}));
        let (last, progress) = answers[1..].split_last().unwrap();
        assert!(
            progress.len() > 1 && progress.iter().all(|reported| reported["event"] == "progress")
        );
        assert_eq!(progress.last().unwrap()["bytesSoFar"], wanted.size);
        let sum: u64 =
            progress.iter().map(|reported| reported["bytesSinceLast"].as_u64().unwrap()).sum();
        assert_eq!(sum, wanted.size);
        let path = last["path"].as_str().unwrap();
        assert_eq!(std::fs::read(path).unwrap(), content);
    }

    #[test]
    fn what_an_earlier_command_left_is_gone_on_with() {
        let (store, dir) = (MemoryStore::new(), tempfile::tempdir().unwrap());
        let content = b"a content of which some is there".to_vec();
        let wanted = pointer(&content);
        put(&store, &wanted, &content);
        let partial = dir.path().join(format!("{}.mirror", wanted.hex()));
        for (left, opened) in [(&content[..9], 1), (&b"rubbish"[..], 2), (&[b'x'; 99][..], 1)] {
            std::fs::write(&partial, left).unwrap();
            store.clear_recorded();
            let answers = talk(&store, dir.path(), &[ask(&wanted)]);
            let path = answers.last().unwrap()["path"].as_str().unwrap();
            assert_eq!(std::fs::read(path).unwrap(), content);
            let opens = store.recorded().iter().filter(|r| r.operation == Operation::Open).count();
            assert_eq!(opens, opened, "{left:?}");
            std::fs::remove_file(path).unwrap();
        }
    }

    #[test]
    fn objects_that_lack_or_are_damaged_are_errors_and_the_next_is_served() {
        let (store, dir) = (MemoryStore::new(), tempfile::tempdir().unwrap());
        let (absent, bad, short, good) =
            (pointer(b"absent"), pointer(b"bad"), pointer(b"shorter"), pointer(b"good"));
        put(&store, &bad, b"BAD");
        put(&store, &short, b"shorter than that");
        put(&store, &good, b"good");
        let asked = [ask(&absent), ask(&bad), ask(&short), ask(&good)];
        let answers = talk(&store, dir.path(), &asked);
        let complete: Vec<_> = answers.iter().filter(|a| a["event"] == "complete").collect();
        assert_eq!(complete.len(), 4);
        for (answer, words) in complete.iter().zip(["", "damaged", "longer"]) {
            assert!(answer["error"]["message"].as_str().unwrap().contains(words), "{answer}");
        }
        assert!(complete[3]["path"].is_string());
    }

    #[test]
    fn a_store_that_is_busy_is_asked_again() {
        let (store, dir) = (MemoryStore::new(), tempfile::tempdir().unwrap());
        let wanted = pointer(b"content");
        put(&store, &wanted, b"content");
        let busy = StoreErrorKind::Transient { retry_after: None };
        store.inject(Fault::new(busy).on(Operation::Open).nth(1));
        let answers = talk(&store, dir.path(), &[ask(&wanted)]);
        assert!(answers.last().unwrap()["path"].is_string(), "{answers:?}");
    }

    #[test]
    fn uploads_are_refused_in_words() {
        let (store, dir) = (MemoryStore::new(), tempfile::tempdir().unwrap());
        let init = json!({ "event": "init", "operation": "upload" });
        let upload = json!({ "event": "upload", "oid": "x", "size": 1, "path": "/x" });
        let answers = talk(&store, dir.path(), &[init, upload]);
        for answer in &answers {
            assert!(answer["error"]["message"].as_str().unwrap().contains("read-only"));
        }
        assert_eq!(answers.len(), 2);
    }

    #[test]
    fn names_that_are_not_oids_reach_no_key() {
        let (store, dir) = (MemoryStore::new(), tempfile::tempdir().unwrap());
        let message = json!({ "event": "download", "oid": "../../etc/passwd", "size": 1 });
        let answers = talk(&store, dir.path(), &[message]);
        assert!(answers[0]["error"]["message"].is_string());
        assert!(store.recorded().is_empty());
    }
}
