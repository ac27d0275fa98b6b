//! Requests that fail, answers that are lost, streams that break, and several runs at once: a run
//! ends, says why, and a reader never sees a ref whose objects are not all there.

#[path = "support/git_http.rs"]
mod git_http;
#[path = "support/hooked_store.rs"]
mod hooked_store;
#[path = "support/local_git.rs"]
mod local_git;
#[path = "support/program.rs"]
mod program;

use std::collections::HashSet;
use std::io::{self, Cursor, Read};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use git_http::{Canned, GitHttp};
use hooked_store::{Conditions, Hooked, dump};
use local_git::{LocalGit, Repo, assert_same_repository, git, run};
use mirror_git_to_s3::git::object::Oid;
use mirror_git_to_s3::git::refs::Advertisement;
use mirror_git_to_s3::mirror::{MIN_MEMORY_BYTES, MirrorError, Options, Summary, mirror};
use mirror_git_to_s3::progress::Silent;
use mirror_git_to_s3::source::{Source, SourceError, SourceErrorKind};
use mirror_git_to_s3::store::memory::{Fault, MemoryStore, Operation};
use mirror_git_to_s3::store::retry::{Policy, Retry};
use mirror_git_to_s3::store::{Store, StoreErrorKind};

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
    before: Repo,
    after: Repo,
}

fn moments() -> Moments {
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
    Moments { before, after }
}

fn options() -> Options {
    Options { memory_bytes: MIN_MEMORY_BYTES, concurrency: 4, ..Options::default() }
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
fn counts(moments: &Moments) -> Vec<(Operation, u64)> {
    let store = MemoryStore::new();
    mirrored(&moments.before, &store).unwrap();
    store.clear_recorded();
    mirrored(&moments.after, &store).unwrap();
    OPERATIONS.iter().map(|&operation| (operation, store.count(operation) as u64)).collect()
}

/// Calls `check` with a store that holds the first moment and fails the n-th request of a kind, for
/// every kind and every n, with the answer lost or the request itself.
fn for_every_request(
    moments: &Moments,
    kind: StoreErrorKind,
    check: impl Fn(&MemoryStore, &str, bool),
) {
    let mut tried = HashSet::new();
    for (operation, count) in counts(moments) {
        for n in 1..=count {
            for after in [false, true] {
                let store = MemoryStore::new();
                mirrored(&moments.before, &store).unwrap();
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
    for operation in [
        Operation::Get,
        Operation::Put,
        Operation::Delete,
        Operation::List,
        Operation::Copy,
        Operation::CreateUpload,
        Operation::PutPart,
        Operation::CompleteUpload,
        Operation::ListUploads,
    ] {
        assert!(tried.contains(&operation), "{operation:?} is never sent");
    }
}

fn retrying(store: &MemoryStore) -> Retry<MemoryStore> {
    Retry::new(store.clone(), Policy::default()).with_sleep(|_| ())
}

/// A lost answer to the beginning of an upload leaves one that nobody knows: the next process
/// sweeps it. Here the process is the same, so age must tell.
fn age_orphans(store: &MemoryStore) {
    store.set_initiated(SystemTime::now() - Duration::from_secs(48 * 3600));
}

#[test]
fn any_one_request_may_fail_once_and_the_run_goes_well() {
    let moments = moments();
    for_every_request(&moments, TRANSIENT, |store, what, orphan| {
        mirrored(&moments.after, &retrying(store)).unwrap_or_else(|e| panic!("{what}: {e}"));
        assert_mirrored(&moments.after, store);
        if orphan {
            age_orphans(store);
            mirrored(&moments.after, store).unwrap();
        }
        assert_clean(store);
    });
}

fn any_one_failure_ends_the_run(kind: StoreErrorKind) {
    let moments = moments();
    for_every_request(&moments, kind, |store, what, orphan| {
        match mirrored(&moments.after, store) {
            Err(MirrorError::Store(error)) => assert_eq!(error.kind, kind, "{what}"),
            Err(error) => panic!("{what}: {error}"),
            // The only failures that are borne: those of looking for what killed runs have left, and
            // of writing the state when everything is published.
            Ok(_) if what.starts_with("Put") => assert_mirrored(&moments.after, store),
            Ok(_) => assert!(kind == StoreErrorKind::Denied && what.starts_with("List"), "{what}"),
        }
        assert_whole(store);
        if orphan {
            age_orphans(store);
        } else {
            assert_clean(store);
        }
        mirrored(&moments.after, store).unwrap_or_else(|e| panic!("the run after {what}: {e}"));
        assert_mirrored(&moments.after, store);
        assert_clean(store);
    });
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
    let moments = moments();
    for seed in 0..20 {
        let mut random = fastrand::Rng::with_seed(seed);
        let store = MemoryStore::new();
        for n in 1..500 {
            if random.u8(..100) >= 3 {
                continue;
            }
            let fault = Fault::transient().nth(n);
            store.inject(if random.bool() { fault.after_effect() } else { fault });
        }
        mirrored(&moments.before, &retrying(&store)).unwrap();
        mirrored(&moments.after, &retrying(&store)).unwrap();
        assert_mirrored(&moments.after, &store);
    }
}

#[test]
fn store_that_fails_from_the_nth_write_on_publishes_nothing_new() {
    let moments = moments();
    let puts = counts(&moments).into_iter().find(|(o, _)| *o == Operation::Put).unwrap().1;
    for n in 1..=puts {
        let store = MemoryStore::new();
        mirrored(&moments.before, &store).unwrap();
        store.inject(Fault::transient().on(Operation::Put).nth(n).always());
        let outcome = mirrored(&moments.after, &retrying(&store));
        // The last write is the state beside the mirror: its failure is a warning.
        match outcome {
            Ok(_) => assert_eq!(n, puts),
            Err(error) => assert!(matches!(error, MirrorError::Store(_)), "from write {n} on"),
        }
        assert_whole(&store);
        assert_clean(&store);
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
    let source = Breaking { inner: LocalGit::new(repo.path()), breaks: AtomicU32::new(2) };
    let store = MemoryStore::new();
    let summary = mirror(&source, &store, &options(), &Silent).unwrap();
    assert_eq!(summary.objects_written as usize, repo.objects().len());
    assert_eq!(store.count(Operation::Put), repo.objects().len() + 4);
    assert_mirrored(&repo, &store);
}

#[test]
fn source_that_always_breaks_ends_the_run_and_the_next_sends_only_the_rest() {
    let repo = long_history();
    let source = Breaking { inner: LocalGit::new(repo.path()), breaks: AtomicU32::new(u32::MAX) };
    let store = MemoryStore::new();
    let outcome = mirror(&source, &store, &options(), &Silent);
    let kind = SourceErrorKind::Transient { retry_after: None };
    assert!(matches!(outcome, Err(MirrorError::Source(error)) if error.kind == kind));
    assert!(store.bytes("info/refs").is_none());
    let stored = store.count(Operation::Put);
    assert!(stored > 0 && stored < repo.objects().len());
    let summary = mirrored(&repo, &store).unwrap();
    assert_eq!(summary.objects_written as usize, repo.objects().len() - stored);
    assert_mirrored(&repo, &store);
}

// ---- the program against servers that refuse ---------------------------------------------------

/// The program's exit code, and how many requests the store and the source got.
fn exit_and_requests(
    store: Option<(u16, &str)>,
    source: git_http::Options,
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
        .args(["--endpoint-url", &server.url()])
        .env("AWS_ACCESS_KEY_ID", "key")
        .env("AWS_SECRET_ACCESS_KEY", "secret")
        .env("AWS_MAX_ATTEMPTS", "2")
        .output()
        .unwrap();
    (out.status.code(), server.requests(), source.requests())
}

#[test]
fn store_that_always_fails_for_a_while_is_exit_code_5() {
    for (status, code) in [(503, "SlowDown"), (500, "InternalError"), (429, "TooManyRequests")] {
        let (exit, requests, _) =
            exit_and_requests(Some((status, code)), git_http::Options::default());
        assert_eq!((exit, requests), (Some(5), 2), "{status}");
    }
}

#[test]
fn refusals_are_not_tried_again() {
    for (status, code, exit) in
        [(403, "AccessDenied", 12), (400, "InvalidRequest", 1), (405, "MethodNotAllowed", 1)]
    {
        let (seen, requests, _) =
            exit_and_requests(Some((status, code)), git_http::Options::default());
        assert_eq!((seen, requests), (Some(exit), 1), "{status}");
    }
}

#[test]
fn source_that_cuts_every_pack_is_exit_code_5_after_a_bounded_number_of_tries() {
    let options =
        git_http::Options { cut_post_after: Some(20_000), ..git_http::Options::default() };
    let (exit, _, requests) = exit_and_requests(None, options);
    // The greeting, the refs, and five packs.
    assert_eq!((exit, requests), (Some(5), 7));
}

#[test]
fn source_that_asks_to_wait_is_asked_again() {
    for status in [429, 503] {
        let mut busy = Canned::new("info/refs", status, "text/plain", "later");
        busy.times = 1;
        busy.headers.push(("Retry-After".into(), "1".into()));
        let options = git_http::Options { canned: vec![busy], ..git_http::Options::default() };
        let (exit, _, requests) = exit_and_requests(None, options);
        assert_eq!((exit, requests), (Some(0), 4), "{status}");
    }
}

// ---- several at once ---------------------------------------------------------------------------

/// While the first run is about to write `key`, another publishes the second moment.
fn race(conditions: Conditions, key: &'static str, published_before: bool) {
    let moments = moments();
    let store = MemoryStore::new();
    if published_before {
        mirrored(&moments.before, &Hooked::new(&store, conditions)).unwrap();
    }
    moments.before.commit("refs/heads/slow", &[("slow", b"run")]);
    // `LocalGit` can't pass over a have that it does not know, as a server does: it knows them all.
    let alternates = moments.before.path().join("objects/info/alternates");
    let others = moments.after.path().join("objects");
    std::fs::write(alternates, format!("{}\n", others.display())).unwrap();
    let (after, inner) = (LocalGit::new(moments.after.path()), store.clone());
    let once = AtomicBool::new(false);
    let slow = Hooked::new(&store, conditions).before_put(move |put| {
        if put.as_str() == key && !once.swap(true, Ordering::Relaxed) {
            mirror(&after, &Hooked::new(&inner, conditions), &options(), &Silent).unwrap();
        }
    });
    let outcome = mirrored(&moments.before, &slow);
    assert!(matches!(outcome, Err(MirrorError::Conflict)), "{conditions:?} {key}: {outcome:?}");
    assert_eq!(store.bytes("info/refs").unwrap(), published(&moments.after));
    assert_whole(&store);
    // The loser's next run publishes what it then sees.
    mirrored(&moments.before, &Hooked::new(&store, conditions)).unwrap();
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
    for published_before in [false, true] {
        race(Conditions::Enforced, "info/refs", published_before);
    }
}

#[test]
fn who_publishes_over_what_it_has_not_seen_loses_where_right_conditions_are_refused() {
    race(Conditions::MatchesRefused, "info/refs", true);
}

#[test]
fn who_publishes_over_what_it_has_not_seen_loses_where_conditions_are_no_help() {
    for conditions in [Conditions::Ignored, Conditions::Unsupported] {
        race(conditions, "objects/info/packs", false);
    }
}

#[test]
fn publishing_goes_well_whatever_becomes_of_conditions() {
    let moments = moments();
    for conditions in [
        Conditions::Enforced,
        Conditions::Ignored,
        Conditions::Unsupported,
        Conditions::MatchesRefused,
    ] {
        let store = MemoryStore::new();
        let hooked = Hooked::new(&store, conditions);
        for repo in [&moments.before, &moments.after, &moments.before] {
            mirrored(repo, &hooked).unwrap();
            assert_mirrored(repo, &store);
        }
    }
}

#[test]
fn many_runs_at_once_end_well_or_in_conflict_and_the_mirror_is_right() {
    let moments = moments();
    for _ in 0..5 {
        let store = MemoryStore::new().with_latency(Duration::from_millis(1));
        let outcomes: Vec<_> = std::thread::scope(|scope| {
            let run = || mirrored(&moments.after, &store);
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
