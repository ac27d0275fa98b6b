//! Requests that fail, answers that are lost, streams that break, and several runs at once: a run
//! ends, says why, and a reader never sees a ref whose objects are not all there.

use crate::support::state::{STATE, name_a_killed_run};
use crate::support::{git_http, hooked_store, local_git, program};
use std::collections::HashSet;
use std::io::{self, Cursor, Read};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use git_http::{Canned, GitHttp};
use hooked_store::{Conditions, Hooked, dump};
use local_git::{LocalGit, Repo, assert_same_repository, git, run};
use mirror_git_to_s3::git::object::Oid;
use mirror_git_to_s3::git::refs::Advertisement;
use mirror_git_to_s3::mirror::{Layout, MIN_MEMORY_BYTES, MirrorError, Options, Summary, mirror};
use mirror_git_to_s3::progress::Silent;
use mirror_git_to_s3::source::{Source, SourceError, SourceErrorKind};
use mirror_git_to_s3::store::memory::{Fault, MemoryStore, Operation, Request};
use mirror_git_to_s3::store::retry::{Policy, Retry};
use mirror_git_to_s3::store::{Limits, Store, StoreErrorKind};

const OPERATIONS: [Operation; 13] = [
    Operation::Get,
    Operation::Open,
    Operation::Head,
    Operation::Put,
    Operation::Delete,
    Operation::List,
    Operation::Copy,
    Operation::CreateUpload,
    Operation::PutPart,
    Operation::CopyPart,
    Operation::CompleteUpload,
    Operation::AbortUpload,
    Operation::ListUploads,
];

const TRANSIENT: StoreErrorKind = StoreErrorKind::Transient { retry_after: None };

/// Bytes that don't deflate.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    std::iter::repeat_with(|| random.u8(..)).take(len).collect()
}

/// A small repository at two moments, the second with all that publishing can meet: a renamed
/// default branch, a new tag, a blob that is uploaded in parts.
struct Moments {
    layout: Layout,
    before: Repo,
    after: Repo,
}

impl Moments {
    fn mirrored(&self, repo: &Repo, store: &dyn Store) -> Result<Summary, MirrorError> {
        let options = Options { layout: self.layout, ..options() };
        mirror(&LocalGit::new(repo.path()), store, &options, &Silent)
    }
}

/// A pack goes out in parts, however small it is.
const IN_PARTS: Limits = Limits { max_put_bytes: 0, ..Limits::S3 };

/// The two ways that a pack takes: in one request, or in parts.
fn stores(layout: Layout) -> Vec<Limits> {
    if layout == Layout::Loose { vec![Limits::S3] } else { vec![Limits::S3, IN_PARTS] }
}

const LAYOUTS: [Layout; 2] = [Layout::Loose, Layout::Pack];

fn moments(layout: Layout) -> Moments {
    let before = Repo::new();
    for round in 0..3 {
        let text = format!("round {round}\n").repeat(20 + round);
        before.commit("refs/heads/main", &[("file", text.as_bytes())]);
    }
    before.git(&["tag", "-a", "-m", "a tag", "v1", "main"]);
    let after = Repo::new();
    after.git(&["fetch", "-q", before.path().to_str().unwrap(), "+refs/*:refs/*"]);
    after.git(&["branch", "-m", "main", "trunk"]);
    after.git(&["symbolic-ref", "HEAD", "refs/heads/trunk"]);
    let large = noise(1, 1200 << 10);
    after.commit("refs/heads/trunk", &[("file", b"new\n"), ("large", &large)]);
    after.git(&["tag", "-a", "-m", "a tag", "v2", "trunk"]);
    // Else git compresses the large one again for each run.
    after.git(&["repack", "-adq"]);
    Moments { layout, before, after }
}

fn options() -> Options {
    Options {
        memory_bytes: MIN_MEMORY_BYTES,
        concurrency: 4,
        layout: Layout::Loose,
        ..Options::default()
    }
}

fn mirrored(repo: &Repo, store: &dyn Store) -> Result<Summary, MirrorError> {
    mirror(&LocalGit::new(repo.path()), store, &options(), &Silent)
}

/// What readers see is whole: every object that a published ref needs is there.
fn assert_whole(store: &MemoryStore) {
    let copy = tempfile::tempdir().unwrap();
    if dump(store, copy.path()) && store.bytes("HEAD").is_some() {
        run(git(copy.path()).args(["fsck", "--full", "--strict"]), b"");
    }
}

fn assert_mirrored(repo: &Repo, store: &MemoryStore) {
    let copy = tempfile::tempdir().unwrap();
    assert!(dump(store, copy.path()));
    assert_same_repository(repo.path(), copy.path());
}

/// Nothing temporary is left.
fn assert_clean(store: &MemoryStore) {
    let left: Vec<String> =
        store.keys().into_iter().filter(|key| key.starts_with("mirror_tmp")).collect();
    assert_eq!((left, store.open_uploads()), (Vec::new(), 0));
}

/// How many requests of each kind the run makes that `faults` are then tried on.
fn counts(moments: &Moments, limits: Limits) -> Vec<(Operation, u64)> {
    let store = MemoryStore::new().with_limits(limits);
    moments.mirrored(&moments.before, &store).unwrap();
    name_a_killed_run(&store);
    store.clear_recorded();
    moments.mirrored(&moments.after, &store).unwrap();
    OPERATIONS.iter().map(|&operation| (operation, store.count(operation) as u64)).collect()
}

/// Calls `check` with a store that holds the first moment and fails the n-th request of a kind, for
/// every kind and every n, with the answer lost or the request itself. A lost answer to the beginning
/// of an upload (the last argument of `check`) leaves one that nobody knows: the next run
/// clears it away.
fn for_every_request(
    moments: &Moments,
    kind: StoreErrorKind,
    check: impl Fn(&MemoryStore, &str, bool),
) {
    for limits in stores(moments.layout) {
        for_every_request_to(moments, limits, kind, &check);
    }
}

fn for_every_request_to(
    moments: &Moments,
    limits: Limits,
    kind: StoreErrorKind,
    check: &impl Fn(&MemoryStore, &str, bool),
) {
    let mut tried = HashSet::new();
    for (operation, count) in counts(moments, limits) {
        for n in 1..=count {
            for after in [false, true] {
                let store = MemoryStore::new().with_limits(limits);
                moments.mirrored(&moments.before, &store).unwrap();
                name_a_killed_run(&store);
                store.clear_recorded();
                let fault = Fault::new(kind).on(operation).nth(n);
                store.inject(if after { fault.after_effect() } else { fault });
                let what = format!("{operation:?} {n} of {count}, after its effect: {after}");
                check(&store, &what, after && operation == Operation::CreateUpload);
                tried.insert(operation);
            }
        }
    }
    // The list of what a run does, so that this test does not fade away.
    let mut expected =
        vec![Operation::Get, Operation::Put, Operation::List, Operation::ListUploads];
    if moments.layout == Layout::Loose || limits == IN_PARTS {
        expected.extend([
            Operation::Delete,
            Operation::Copy,
            Operation::CreateUpload,
            Operation::PutPart,
            Operation::CompleteUpload,
        ]);
    }
    if moments.layout == Layout::Pack {
        expected.push(Operation::Head);
    }
    for operation in expected {
        assert!(tried.contains(&operation), "{operation:?} is never sent");
    }
}

fn retrying(store: &MemoryStore) -> Retry<MemoryStore> {
    Retry::new(store.clone(), Policy::default()).with_sleep(|_| ())
}

#[test]
fn any_one_request_may_fail_once_and_the_run_succeeds() {
    for layout in LAYOUTS {
        let moments = moments(layout);
        for_every_request(&moments, TRANSIENT, |store, what, orphan| {
            moments
                .mirrored(&moments.after, &retrying(store))
                .unwrap_or_else(|e| panic!("{what}: {e}"));
            assert_mirrored(&moments.after, store);
            if orphan {
                moments.mirrored(&moments.after, store).unwrap();
            }
            assert_clean(store);
        });
    }
}

/// Is it right that the run succeeds though this request failed?
///
/// - Writing the state beside the mirror: everything is published by then, and readers have it. A
///   failure would say that nothing was. Reading it, if it is denied: S3 denies a missing key to a
///   writer that may not list.
/// - Looking for what killed runs have left, if it is denied: a policy that grants a writer no
///   listing (of uploads, most often) must not end mirroring. A warning tells each time. (Where
///   listing is needed, on a run that can't rely on published refs, its denial ends the run.)
fn is_tolerated(request: &Request, before: &[Request]) -> bool {
    let mut puts = before.iter().rev().filter(|r| r.operation == Operation::Put);
    let is_recorded = puts.clone().next().is_some_and(|r| r.key() == STATE);
    let is_published = puts.any(|r| r.key() == "info/refs");
    let listing = [Operation::List, Operation::ListUploads].contains(&request.operation);
    let is_put = request.operation == Operation::Put;
    let is_denied = request.failed == Some(StoreErrorKind::Denied);
    let state = request.key() == STATE;
    // A run that has said what is published looks if another has published since.
    let looks =
        request.operation == Operation::Get && ["info/refs", "HEAD"].contains(&request.key());
    (looks && is_published && is_recorded)
        || (state && (request.operation == Operation::Put && is_published || is_denied && !is_put))
        || (listing && is_denied)
        || leaves_something(request)
}

/// A writer that may not delete, or not abort: what is temporary stays.
fn leaves_something(request: &Request) -> bool {
    let cleaning = [Operation::Delete, Operation::AbortUpload].contains(&request.operation);
    cleaning && request.failed == Some(StoreErrorKind::Denied)
}

fn any_one_failure_ends_the_run(kind: StoreErrorKind) {
    for layout in LAYOUTS {
        let moments = moments(layout);
        for_every_request(&moments, kind, |store, what, orphan| {
            let outcome = moments.mirrored(&moments.after, store);
            let recorded = store.recorded();
            let failed = recorded.iter().position(|request| request.failed == Some(kind));
            let failed = failed.expect("one failed, as injected");
            let tolerated = is_tolerated(&recorded[failed], &recorded[..failed]);
            match outcome {
                Err(MirrorError::Store(error)) => {
                    assert_eq!((error.kind, tolerated), (kind, false), "{what}");
                }
                Err(error) => panic!("{what}: {error}"),
                Ok(_) => {
                    assert!(tolerated, "{what}");
                    assert_mirrored(&moments.after, store);
                }
            }
            assert_whole(store);
            if !orphan && !leaves_something(&recorded[failed]) {
                assert_clean(store);
            }
            moments
                .mirrored(&moments.after, store)
                .unwrap_or_else(|e| panic!("the run after {what}: {e}"));
            assert_mirrored(&moments.after, store);
            assert_clean(store);
        });
    }
}

#[test]
fn store_that_cannot_list_uploads_or_denies_it_is_mirrored_to_all_the_same() {
    for kind in [StoreErrorKind::Denied, StoreErrorKind::Unsupported] {
        let moments = moments(Layout::Pack);
        let store = MemoryStore::new();
        store.inject(Fault::new(kind).on(Operation::ListUploads).always());
        for repo in [&moments.before, &moments.after] {
            moments.mirrored(repo, &store).unwrap();
            assert_mirrored(repo, &store);
        }
    }
}

#[test]
fn writer_that_may_not_delete_mirrors_all_the_same() {
    for layout in LAYOUTS {
        let moments = moments(layout);
        let store = MemoryStore::new();
        for operation in [Operation::Delete, Operation::AbortUpload] {
            store.inject(Fault::new(StoreErrorKind::Denied).on(operation).always());
        }
        for repo in [&moments.before, &moments.after, &moments.after] {
            moments.mirrored(repo, &store).unwrap();
            assert_mirrored(repo, &store);
        }
        store.clear_faults();
        moments.mirrored(&moments.after, &store).unwrap();
        assert_clean(&store);
    }
}

#[test]
fn first_run_of_loose_objects_that_may_not_list_is_told_so() {
    let moments = moments(Layout::Loose);
    let store = MemoryStore::new();
    store.inject(Fault::new(StoreErrorKind::Denied).on(Operation::List).always());
    let outcome = moments.mirrored(&moments.before, &store);
    let denied = matches!(&outcome, Err(MirrorError::Store(e)) if e.kind == StoreErrorKind::Denied);
    assert!(denied, "{outcome:?}");
    assert!(store.keys().is_empty());
}

#[test]
fn any_one_transient_failure_without_retries_ends_the_run_and_the_next_goes_well() {
    any_one_failure_ends_the_run(TRANSIENT);
}

#[test]
fn any_one_denial_ends_the_run_and_the_next_goes_well() {
    any_one_failure_ends_the_run(StoreErrorKind::Denied);
}

#[test]
fn any_one_other_failure_ends_the_run_and_the_next_goes_well() {
    any_one_failure_ends_the_run(StoreErrorKind::Other);
}

#[test]
fn three_percent_of_failures_cost_time_only() {
    for (layout, seed) in LAYOUTS.into_iter().cycle().zip(0..20) {
        let moments = moments(layout);
        let mut random = fastrand::Rng::with_seed(seed);
        let store = MemoryStore::new();
        for n in 1..500 {
            if random.u8(..100) >= 3 {
                continue;
            }
            let fault = Fault::transient().nth(n);
            store.inject(if random.bool() { fault.after_effect() } else { fault });
        }
        moments.mirrored(&moments.before, &retrying(&store)).unwrap();
        moments.mirrored(&moments.after, &retrying(&store)).unwrap();
        assert_mirrored(&moments.after, &store);
    }
}

#[test]
fn store_that_fails_from_the_nth_write_on_publishes_nothing_new() {
    for layout in LAYOUTS {
        let moments = moments(layout);
        let puts =
            counts(&moments, Limits::S3).into_iter().find(|(o, _)| *o == Operation::Put).unwrap().1;
        for n in 1..=puts {
            let store = MemoryStore::new();
            moments.mirrored(&moments.before, &store).unwrap();
            store.inject(Fault::transient().on(Operation::Put).nth(n).always());
            let outcome = moments.mirrored(&moments.after, &retrying(&store));
            // The last write is the state beside the mirror: its failure is a warning.
            match outcome {
                Ok(_) => assert_eq!(n, puts),
                Err(error) => assert!(matches!(error, MirrorError::Store(_)), "from write {n} on"),
            }
            assert_whole(&store);
            assert_clean(&store);
        }
    }
}

// ---- the source ------------------------------------------------------------------------------

/// A source whose stream breaks in the middle, so many times.
struct Breaking {
    inner: LocalGit,
    breaks: AtomicU32,
}

impl Source for Breaking {
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
        let mut pack = Vec::new();
        self.inner.fetch(wants, haves, words)?.read_to_end(&mut pack).expect("a cursor");
        let left = self.breaks.load(Ordering::Relaxed);
        if left == 0 {
            return Ok(Box::new(Cursor::new(pack)));
        }
        self.breaks.store(left - 1, Ordering::Relaxed);
        pack.truncate(pack.len() / 2);
        Ok(Box::new(Cursor::new(pack).chain(Broken)))
    }

    fn requests(&self) -> u64 {
        self.inner.requests()
    }
}

struct Broken;

impl Read for Broken {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::Error::other(SourceError {
            kind: SourceErrorKind::Transient { retry_after: None },
            url: "https://git.example/repo".into(),
            message: "the connection was reset".into(),
        }))
    }
}

fn long_history() -> Repo {
    let repo = Repo::new();
    // Several times what a run holds in memory, so that half of the pack can't be held back.
    for round in 0..60 {
        let text = noise(round, 100_000);
        repo.commit("refs/heads/main", &[("file", &text)]);
    }
    repo
}

#[test]
fn broken_stream_is_begun_again_and_nothing_is_stored_twice() {
    let repo = long_history();
    for layout in LAYOUTS {
        let source = Breaking { inner: LocalGit::new(repo.path()), breaks: AtomicU32::new(2) };
        let store = MemoryStore::new();
        let options = Options { layout, ..options() };
        let summary = mirror(&source, &store, &options, &Silent).unwrap();
        assert_eq!(summary.objects_written as usize, repo.objects().len());
        // The list of packs, HEAD, the refs and twice the state; of a pack its index.
        let puts = if layout == Layout::Loose { repo.objects().len() + 5 } else { 6 };
        assert_eq!(store.count(Operation::Put), puts);
        assert_mirrored(&repo, &store);
        assert_clean(&store);
    }
}

#[test]
fn source_that_always_breaks_ends_the_run_and_the_next_sends_only_the_rest() {
    let repo = long_history();
    for layout in LAYOUTS {
        let breaks = AtomicU32::new(u32::MAX);
        let source = Breaking { inner: LocalGit::new(repo.path()), breaks };
        let store = MemoryStore::new();
        let options = Options { layout, ..options() };
        let outcome = mirror(&source, &store, &options, &Silent);
        let kind = SourceErrorKind::Transient { retry_after: None };
        assert!(matches!(outcome, Err(MirrorError::Source(error)) if error.kind == kind));
        // The refs, and five packs.
        assert_eq!(source.requests(), 6);
        assert!(store.bytes("info/refs").is_none());
        assert_clean(&store);
        let is_stored = |key: &&String| key.starts_with("objects/");
        let stored = store.keys().iter().filter(is_stored).count();
        match layout {
            Layout::Loose => assert!(stored > 0 && stored < repo.objects().len()),
            // Half a pack is worth nothing.
            _ => assert_eq!(store.keys(), Vec::<String>::new()),
        }
        let summary = mirror(&LocalGit::new(repo.path()), &store, &options, &Silent).unwrap();
        assert_eq!(summary.objects_written as usize, repo.objects().len() - stored);
        assert_mirrored(&repo, &store);
    }
}

/// Notes the longest time in which nobody read.
struct Timed {
    inner: LocalGit,
    longest: Mutex<Duration>,
}

struct TimedStream<'a> {
    stream: Box<dyn Read + Send + 'a>,
    source: &'a Timed,
    last: Option<Instant>,
}

impl Read for TimedStream<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let pause = self.last.map_or(Duration::ZERO, |last| last.elapsed());
        let mut longest = self.source.longest.lock().unwrap();
        *longest = pause.max(*longest);
        drop(longest);
        let read = self.stream.read(buffer);
        self.last = Some(Instant::now());
        read
    }
}

impl Source for Timed {
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
        Ok(Box::new(TimedStream { stream, source: self, last: None }))
    }

    fn requests(&self) -> u64 {
        self.inner.requests()
    }
}

/// Nginx hangs up when nobody has read for a minute, and a part takes longer than that on a thin line.
#[test]
fn source_is_read_every_few_seconds_while_the_store_is_slower_than_that() {
    let repo = Repo::new();
    repo.commit("refs/heads/main", &[("file", &noise(1, 20 << 20))]);
    let request = Duration::from_secs(12);
    for layout in LAYOUTS {
        let source = Timed { inner: LocalGit::new(repo.path()), longest: Mutex::default() };
        let inner = MemoryStore::new();
        let slowest = AtomicU64::new(0);
        let slow = Hooked::new(&inner, Conditions::Enforced).before_part(move |_| {
            // The first part; what comes behind it need not be waited for as well.
            if slowest.fetch_add(1, Ordering::SeqCst) == 0 {
                std::thread::sleep(request);
            }
        });
        let options = Options { layout, memory_bytes: 16 << 20, concurrency: 1, ..options() };
        mirror(&source, &slow, &options, &Silent).unwrap();
        assert_mirrored(&repo, &inner);
        let longest = source.longest.into_inner().unwrap();
        // One second is meant; the rest is for a machine that does much else.
        assert!(longest < request / 2, "{layout:?}: {longest:?}");
    }
}

// ---- the program against servers that refuse ---------------------------------------------------

/// The program's exit code, and how many requests the store and the source got.
fn exit_and_requests(
    store: Option<(u16, &str)>,
    source: git_http::Options,
    layout: &str,
) -> (Option<i32>, usize, usize) {
    let repo = long_history();
    let source = GitHttp::start(repo.path(), source);
    let (status, code) = store.unwrap_or((200, ""));
    let words = format!("<Error><Code>{code}</Code><Message>no</Message></Error>");
    let canned = vec![Canned::new("/bucket", status, "application/xml", words)];
    let server =
        GitHttp::start(repo.path(), git_http::Options { canned, ..git_http::Options::default() });
    let dir = tempfile::tempdir().unwrap();
    let target = match store {
        Some(_) => "s3://bucket/prefix".to_owned(),
        None => format!("file://{}", dir.path().display()),
    };
    let out = program::program(dir.path())
        .args(["--source", &format!("{}/", source.url()), "--target", &target])
        .args(["--endpoint-url", &server.url(), "--layout", layout])
        .env("AWS_ACCESS_KEY_ID", "key")
        .env("AWS_SECRET_ACCESS_KEY", "secret")
        .env("AWS_MAX_ATTEMPTS", "2")
        .output()
        .unwrap();
    assert_eq!(program::files(dir.path(), "mirror_tmp"), Vec::<String>::new());
    (out.status.code(), server.requests(), source.requests())
}

#[test]
fn store_that_always_fails_for_a_while_is_exit_code_5() {
    for (status, code) in
        [(503, "SlowDown"), (500, "InternalError"), (429, "TooManyRequests"), (408, "")]
    {
        let (exit, requests, _) =
            exit_and_requests(Some((status, code)), git_http::Options::default(), "loose");
        assert_eq!((exit, requests), (Some(5), 2), "{status}");
    }
}

#[test]
fn refusals_are_not_tried_again() {
    for (status, code, exit) in
        [(403, "AccessDenied", 12), (400, "InvalidRequest", 1), (405, "MethodNotAllowed", 1)]
    {
        let (seen, requests, _) =
            exit_and_requests(Some((status, code)), git_http::Options::default(), "loose");
        assert_eq!((seen, requests), (Some(exit), 1), "{status}");
    }
}

#[test]
fn source_that_cuts_every_pack_is_exit_code_5_after_a_bounded_number_of_tries() {
    for layout in ["loose", "pack"] {
        let options =
            git_http::Options { cut_post_after: Some(20_000), ..git_http::Options::default() };
        let (exit, _, requests) = exit_and_requests(None, options, layout);
        assert_eq!(exit, Some(5), "{layout}");
        // The greeting, the refs, and five packs. In slices: a look for a bundle, ten halvings until it is
        // known how long history is, and two requests for each slice, of which some come.
        let most = if layout == "pack" { 40 } else { 7 };
        assert!(requests <= most, "{layout}: {requests}");
    }
}

#[test]
fn source_that_asks_for_more_time_than_a_run_has_is_left_alone_until_the_next() {
    for status in [429, 503] {
        let mut busy = Canned::new("/git-upload-pack", status, "text/plain", "tomorrow");
        busy.headers.push(("Retry-After".into(), "86400".into()));
        let canned = vec![busy];
        let options = git_http::Options { canned, only_v0: true, ..git_http::Options::default() };
        let (exit, _, requests) = exit_and_requests(None, options, "loose");
        // The greeting with the refs, and the pack once.
        assert_eq!((exit, requests), (Some(5), 2), "{status}");
    }
}

#[test]
fn source_that_asks_to_wait_is_asked_again() {
    for status in [429, 503] {
        let mut busy = Canned::new("info/refs", status, "text/plain", "later");
        busy.times = 1;
        busy.headers.push(("Retry-After".into(), "1".into()));
        let options = git_http::Options { canned: vec![busy], ..git_http::Options::default() };
        let (exit, _, requests) = exit_and_requests(None, options, "loose");
        assert_eq!((exit, requests), (Some(0), 4), "{status}");
    }
}

// ---- several at once ---------------------------------------------------------------------------

/// While the first run is about to write a key with `part` in it, another publishes the second
/// moment.
fn race(layout: Layout, conditions: Conditions, part: &'static str, published_before: bool) {
    let moments = moments(layout);
    let store = MemoryStore::new();
    if published_before {
        moments.mirrored(&moments.before, &Hooked::new(&store, conditions)).unwrap();
    }
    moments.before.commit("refs/heads/slow", &[("slow", b"run")]);
    // `LocalGit` can't pass over a have that it does not know, as a server does: it knows them all.
    let alternates = moments.before.path().join("objects/info/alternates");
    let others = moments.after.path().join("objects");
    std::fs::write(alternates, format!("{}\n", others.display())).unwrap();
    let (after, inner) = (LocalGit::new(moments.after.path()), store.clone());
    let once = AtomicBool::new(false);
    let other = Options { layout, ..options() };
    let slow = Hooked::new(&store, conditions).before_put(move |put| {
        if put.as_str().contains(part) && !once.swap(true, Ordering::Relaxed) {
            mirror(&after, &Hooked::new(&inner, conditions), &other, &Silent).unwrap();
        }
    });
    let what = format!("{layout:?} {conditions:?} {part} {published_before}");
    let outcome = moments.mirrored(&moments.before, &slow);
    assert!(matches!(outcome, Err(MirrorError::Conflict)), "{what}: {outcome:?}");
    assert_eq!(store.bytes("info/refs").unwrap(), published(&moments.after), "{what}");
    assert_mirrored(&moments.after, &store);
    // The loser's next run publishes what it then sees.
    moments.mirrored(&moments.before, &Hooked::new(&store, conditions)).unwrap();
    assert_mirrored(&moments.before, &store);
    assert_clean(&store);
}

fn published(repo: &Repo) -> std::sync::Arc<[u8]> {
    let store = MemoryStore::new();
    mirrored(repo, &store).unwrap();
    store.bytes("info/refs").unwrap()
}

#[test]
fn who_publishes_over_what_it_has_not_seen_loses_where_conditions_hold() {
    for layout in LAYOUTS {
        for published_before in [false, true] {
            race(layout, Conditions::Enforced, "info/refs", published_before);
        }
    }
}

#[test]
fn who_publishes_over_what_it_has_not_seen_loses_where_right_conditions_are_refused() {
    for layout in LAYOUTS {
        race(layout, Conditions::MatchesRefused, "info/refs", true);
    }
}

#[test]
fn who_publishes_over_what_it_has_not_seen_loses_where_conditions_are_no_help() {
    for conditions in [Conditions::Ignored, Conditions::Unsupported] {
        race(Layout::Loose, conditions, "objects/info/packs", false);
        for published_before in [false, true] {
            race(Layout::Loose, conditions, "objects/", published_before);
            race(Layout::Pack, conditions, ".idx", published_before);
            race(Layout::Pack, conditions, "objects/info/packs", published_before);
        }
    }
}

#[test]
fn publishing_goes_well_whatever_becomes_of_conditions() {
    let moments = moments(Layout::Loose);
    for conditions in [
        Conditions::Enforced,
        Conditions::Ignored,
        Conditions::Unsupported,
        Conditions::MatchesRefused,
    ] {
        let store = MemoryStore::new();
        let hooked = Hooked::new(&store, conditions);
        for repo in [&moments.before, &moments.after, &moments.before] {
            moments.mirrored(repo, &hooked).unwrap();
            assert_mirrored(repo, &store);
        }
    }
}

#[test]
fn many_runs_at_once_end_well_or_in_conflict_and_the_mirror_is_right() {
    for (layout, _) in LAYOUTS.into_iter().cycle().zip(0..6) {
        let moments = moments(layout);
        let store = MemoryStore::new().with_latency(Duration::from_millis(1));
        let outcomes: Vec<_> = std::thread::scope(|scope| {
            let run = || moments.mirrored(&moments.after, &store);
            let runs: Vec<_> = (0..4).map(|_| scope.spawn(run)).collect();
            runs.into_iter().map(|run| run.join().unwrap()).collect()
        });
        for outcome in &outcomes {
            assert!(matches!(outcome, Ok(_) | Err(MirrorError::Conflict)), "{outcome:?}");
        }
        assert!(outcomes.iter().any(Result::is_ok));
        assert_mirrored(&moments.after, &store);
        assert_clean(&store);
    }
}
