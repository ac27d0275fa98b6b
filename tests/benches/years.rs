//! What a mirror costs over the years: a run for each of many commits, and readers that follow. The
//! numbers say whether compaction and the default layout keep their promises; they decide which
//! increments are stored loose (`src/repository/layout.rs`).
//!
//! `just bench years` replays 1,000 runs on a generated history; with `YEARS_REPO=/path/to/bare/repo`
//! the last 110 first-parent commits of its `YEARS_REF` (`refs/heads/master`) instead. `YEARS_RUNS`
//! says how many, `YEARS_LAYOUT` (`auto`, `loose`, `pack`) which layout; all keys grow older by six
//! hours a run. Every tenth run the mirror is verified. Readers are stock git over HTTP: one fetches
//! after every run, one after every tenth, one after every run and repacks every tenth. "New" is what
//! `git pack-objects` makes of each run's new objects. The targets are those of issue 19.

#[path = "../support/local_git.rs"]
mod local_git;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use local_git::{LocalGit, Repo, git, run};
use mirror_git_to_s3::git::object::Oid;
use mirror_git_to_s3::git::refs::Advertisement;
use mirror_git_to_s3::maintain::verify::{VerifyOptions, verify};
use mirror_git_to_s3::mirror::{Layout, Options, mirror};
use mirror_git_to_s3::progress::Silent;
use mirror_git_to_s3::source::{Source, SourceError};
use mirror_git_to_s3::store::Store;
use mirror_git_to_s3::store::counted::Counted;
use mirror_git_to_s3::store::memory::{MemoryStore, Operation};

/// How much older every key is after each run.
const HOURS_A_RUN: u64 = 6;

/// Serves a store as a public bucket does, and counts.
struct Server {
    url: String,
    bytes: Arc<AtomicU64>,
    requests: Arc<AtomicU64>,
}

impl Server {
    fn start(store: &MemoryStore) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let (bytes, requests) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let (store, b, r) = (store.clone(), bytes.clone(), requests.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (store, b, r) = (store.clone(), b.clone(), r.clone());
                std::thread::spawn(move || serve(&stream, &store, &b, &r));
            }
        });
        Server { url, bytes, requests }
    }
}

fn serve(
    stream: &TcpStream,
    store: &MemoryStore,
    bytes: &AtomicU64,
    requests: &AtomicU64,
) -> Option<()> {
    let mut lines = BufReader::new(stream).lines();
    loop {
        let request = lines.next()?.ok()?;
        while !lines.next()?.ok()?.is_empty() {}
        let path = request.split(' ').nth(1)?.trim_start_matches('/');
        let key = path.split('?').next()?;
        let body = store.bytes(key);
        let status = if body.is_some() { "200 OK" } else { "404 Not Found" };
        let body = body.unwrap_or_default();
        requests.fetch_add(1, Ordering::Relaxed);
        bytes.fetch_add(body.len() as u64, Ordering::Relaxed);
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", body.len());
        let mut out = stream;
        out.write_all(head.as_bytes()).and_then(|()| out.write_all(&body)).ok()?;
    }
}

/// A reader with stock git, and what it has downloaded.
struct Reader {
    what: &'static str,
    every: usize,
    repacks: bool,
    repo: Repo,
    server: Server,
    total: u64,
    /// The most that one fetch took, over what it was allowed to: ten times what was new to it, and
    /// 1 MiB.
    worst: f64,
    /// New bytes since its last fetch.
    new: u64,
}

impl Reader {
    fn new(what: &'static str, every: usize, repacks: bool, store: &MemoryStore) -> Self {
        let (repo, server) = (Repo::new(), Server::start(store));
        repo.git(&["config", "gc.auto", "0"]);
        Reader { what, every, repacks, repo, server, total: 0, worst: 0.0, new: 0 }
    }

    fn fetch(&self) {
        let url = &self.server.url;
        let mut fetch = git(self.repo.path());
        run(fetch.args(["fetch", "-q", url, "+refs/heads/*:refs/heads/*"]), b"");
    }

    fn begin(&mut self) {
        self.fetch();
        self.server.bytes.store(0, Ordering::Relaxed);
        self.server.requests.store(0, Ordering::Relaxed);
    }

    fn after(&mut self, number: usize, new: u64) {
        self.new += new;
        if number.is_multiple_of(self.every) {
            self.fetch();
            let bytes = self.server.bytes.swap(0, Ordering::Relaxed);
            let allowed = 10 * std::mem::take(&mut self.new) + (1 << 20);
            self.worst = self.worst.max(bytes as f64 / allowed as f64);
            self.total += bytes;
        }
        if self.repacks && number.is_multiple_of(10) {
            run(git(self.repo.path()).args(["repack", "-adq"]), b"");
        }
    }
}

/// Counts what a source sends.
struct Counting {
    inner: LocalGit,
    bytes: Arc<AtomicU64>,
}

struct Through<'a>(Box<dyn Read + Send + 'a>, Arc<AtomicU64>);

impl Read for Through<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.0.read(buffer)?;
        self.1.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

impl Source for Counting {
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
        let stream = self.inner.fetch(wants, haves, words)?;
        Ok(Box::new(Through(stream, self.bytes.clone())))
    }
    fn requests(&self) -> u64 {
        self.inner.requests()
    }
}

/// The commits that the runs find one after the other, the oldest first: the first is the mirror's
/// beginning.
fn history(repo: &Repo, runs: usize) -> Vec<String> {
    let (range, count) = match std::env::var_os("YEARS_REPO") {
        Some(path) => {
            let objects = PathBuf::from(&path).join("objects");
            let alternates = format!("{}\n", objects.display());
            std::fs::write(repo.path().join("objects/info/alternates"), alternates).unwrap();
            let name = std::env::var("YEARS_REF").unwrap_or_else(|_| "refs/heads/master".into());
            let tip = run(git(path.as_ref()).args(["rev-parse", &name]), b"");
            (String::from_utf8(tip).unwrap().trim().to_owned(), runs + 1)
        }
        None => {
            generate(repo, 500 + runs);
            ("refs/heads/all".into(), runs + 1)
        }
    };
    let count = format!("-{count}");
    let list = repo.git(&["rev-list", "--first-parent", "--reverse", &count, &range]);
    list.lines().map(str::to_owned).collect()
}

/// Commits that change one to three of 300 files in 20 folders.
fn generate(repo: &Repo, commits: usize) {
    let mut random = fastrand::Rng::with_seed(19);
    let mut files: Vec<String> = (0..300)
        .map(|number| {
            (0..150).map(|line| format!("{number} {line} {}\n", random.u32(..))).collect()
        })
        .collect();
    let mut stream = String::new();
    for number in 0..commits {
        let time = 1_700_000_000 + number * 3600;
        stream += &format!(
            "commit refs/heads/all\ncommitter C <c@example.com> {time} +0000\ndata 2\nm\n"
        );
        let changed: Vec<usize> = match number {
            0 => (0..files.len()).collect(),
            _ => (0..random.usize(1..4)).map(|_| random.usize(..files.len())).collect(),
        };
        for file in changed {
            files[file] += &format!("line {}\n", random.u64(..));
            let (text, folder) = (&files[file], file / 15);
            stream += &format!("M 100644 inline d{folder}/f{file}\ndata {}\n{text}\n", text.len());
        }
    }
    run(git(repo.path()).args(["fast-import", "--quiet"]), stream.as_bytes());
}

fn age(store: &MemoryStore, hours: u64) {
    for (key, object) in store.snapshot() {
        store.set_last_modified(&key, object.last_modified - Duration::from_secs(hours * 3600));
    }
}

fn listed(store: &MemoryStore) -> usize {
    let list = store.bytes("objects/info/packs").unwrap_or_default();
    list.iter().filter(|byte| **byte == b'P').count()
}

fn new_bytes(repo: &Repo, old: &str, new: &str) -> u64 {
    let mut command = git(repo.path());
    command.args(["pack-objects", "--revs", "--stdout", "-q", "--delta-base-offset"]);
    run(&mut command, format!("{new}\n^{old}\n").as_bytes()).len() as u64
}

/// What a key is, for the sums of what was sent.
fn class(key: &str) -> &'static str {
    match key {
        _ if key.starts_with("mirror_state/") => "mirror_state",
        _ if key.ends_with(".idx") => "indices",
        _ if key.ends_with(".pack") || key.starts_with("mirror_tmp/") => "packs",
        _ if key.starts_with("objects/") && !key.starts_with("objects/info") => "loose objects",
        _ => "refs and lists",
    }
}

fn main() {
    env_logger::init();
    let is_given = std::env::var_os("YEARS_REPO").is_some();
    let runs = std::env::var("YEARS_RUNS").ok().and_then(|runs| runs.parse().ok());
    let runs: usize = runs.unwrap_or(if is_given { 110 } else { 1000 });
    let layout = match std::env::var("YEARS_LAYOUT").as_deref() {
        Ok("loose") => Layout::Loose,
        Ok("pack") => Layout::Pack,
        _ => Layout::Auto,
    };
    let repo = Repo::new();
    let tips = history(&repo, runs);
    let origin = Repo::new();
    let alternates = format!("{}\n", repo.path().join("objects").display());
    std::fs::write(origin.path().join("objects/info/alternates"), alternates).unwrap();
    let memory = MemoryStore::new();
    let store = Counted::new(memory.clone());
    let bytes = Arc::<AtomicU64>::default();
    let source = Counting { inner: LocalGit::new(origin.path()), bytes: bytes.clone() };
    let options = Options { layout, ..Options::default() };
    let once = |tip: &str| {
        origin.git(&["update-ref", "refs/heads/main", tip]);
        mirror(&source, &store, &options, &Silent).expect("a run")
    };
    once(&tips[0]);
    let mut readers = [
        Reader::new("fetches every run", 1, false, &memory),
        Reader::new("fetches every tenth run", 10, false, &memory),
        Reader::new("fetches every run, repacks every tenth", 1, true, &memory),
    ];
    readers.iter_mut().for_each(Reader::begin);
    run(git(readers[2].repo.path()).args(["repack", "-adq"]), b"");
    age(&memory, 48);
    bytes.store(0, Ordering::Relaxed);
    let (before, begun) = (store.usage(), Instant::now());
    let mut sent = BTreeMap::<&str, u64>::new();
    let (mut new, mut most_packs, mut most_loose) = (0, 0, 0);
    let mut mirroring = Duration::ZERO;
    for (number, pair) in tips.windows(2).enumerate() {
        let fresh = new_bytes(&repo, &pair[0], &pair[1]);
        new += fresh;
        let started = Instant::now();
        memory.clear_recorded();
        once(&pair[1]);
        mirroring += started.elapsed();
        for request in memory.recorded() {
            if [Operation::Put, Operation::PutPart].contains(&request.operation) {
                *sent.entry(class(request.key())).or_default() += request.bytes;
            }
        }
        age(&memory, HOURS_A_RUN);
        readers.iter_mut().for_each(|reader| reader.after(number + 1, fresh));
        most_packs = most_packs.max(listed(&memory));
        let keys = memory.keys();
        let is_loose = |key: &&String| key.starts_with("objects/") && !key.contains("/pack");
        most_loose = most_loose.max(keys.iter().filter(is_loose).count());
        if (number + 1).is_multiple_of(10) {
            let report = verify(&memory, &VerifyOptions::default()).expect("verify runs");
            assert!(report.is_sound(), "run {}: {:?}", number + 1, report.findings);
            let refs = memory.bytes("info/refs").expect("refs");
            assert!(refs.starts_with(pair[1].as_bytes()), "run {}: other refs", number + 1);
        }
    }
    let usage = store.usage().since(before);
    let times = |bytes: u64| bytes as f64 / new as f64;
    println!("{layout:?}, {runs} runs, {new} new bytes, {:.0} s", begun.elapsed().as_secs_f64());
    let line = |what: &str, value: f64, most: f64| {
        let verdict = if value <= most { "" } else { "  MISSED" };
        println!("  {what:<52} {value:>8.2}  (at most {most}){verdict}");
    };
    line("source sent, times new", times(bytes.load(Ordering::Relaxed)), 1.1);
    line("store was sent, times new", times(usage.bytes_sent), 4.0);
    for (class, bytes) in &sent {
        println!("    {class:<50} {:>8.2}", times(*bytes));
    }
    for (reader, most) in readers.iter().zip([1.5, f64::INFINITY, 5.0]) {
        line(&format!("reader {}, times new", reader.what), times(reader.total), most);
        line("  one fetch, times what is allowed", reader.worst, 1.0);
        let requests = reader.server.requests.load(Ordering::Relaxed);
        println!("  {:<52} {requests:>8}", "  requests");
    }
    line("packs listed at most", most_packs as f64, 20.0);
    println!("  {:<52} {most_loose:>8}", "loose objects at most");
    let per_run = |count: u64| count as f64 / runs as f64;
    println!("  {:<52} {:>8.1}", "store writes (PUT, LIST) a run", per_run(usage.writes));
    println!("  {:<52} {:>8.1}", "store reads (GET, HEAD) a run", per_run(usage.reads));
    println!("  {:<52} {:>8.3}", "seconds a run", mirroring.as_secs_f64() / runs as f64);
    let cloned = Reader::new("clones", 1, false, &memory);
    let started = Instant::now();
    cloned.fetch();
    let requests = cloned.server.requests.load(Ordering::Relaxed);
    println!("  a clone at the end: {requests} requests, {:.1} s", started.elapsed().as_secs_f64());
}
