//! The only place that repeats requests. It reads nothing of a failure but its kind.
//!
//! Transient failures are tried again with exponential backoff and jitter, or when the store said
//! (`Retry-After`), a bounded number of times within a bounded time. Expired credentials are tried
//! again once. Nothing else is.
//!
//! A request whose answer was lost may have taken effect. That is no harm for most of them: they
//! do the same again. Three need thought:
//! - `complete_upload` then finds its upload gone; if the object is there, it was ours.
//! - A conditional `put` then fails against its own first write; if the object holds our bytes, it
//!   succeeded. Another writer's equal bytes look the same and are as good.
//! - `create_upload` leaves an upload without an owner; whoever cleans up finds it in
//!   `list_uploads`.

use std::cell::Cell;
use std::fmt;
use std::io::Read;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::interface::{
    Condition, ETag, Elsewhere, FolderPage, Kept, Key, Limits, ListPage, ObjectHeaders, ObjectInfo,
    OpenUpload, Part, Store, StoreError, StoreErrorKind, Upload, Usage,
};
pub use crate::run::retry::Policy;
use crate::run::retry::{Backoff, sleep_by, with_retry};

/// As many keys as S3 deletes at once, so that a failure repeats one request and not all.
const DELETE_CHUNK: usize = 1000;

type Cancel = Box<dyn Fn() -> bool + Send + Sync>;
type Sleep = Box<dyn Fn(Duration) + Send + Sync>;

/// A store whose requests are repeated when that may help.
pub struct Retry<S> {
    store: S,
    policy: Policy,
    cancel: Cancel,
    sleep: Sleep,
    lost_upload: AtomicBool,
}

impl<S: Store> fmt::Debug for Retry<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Retry")
            .field("store", &self.store.describe())
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}

impl<S: Store> Retry<S> {
    /// Repeats the requests of `store` as `policy` says.
    pub fn new(store: S, policy: Policy) -> Self {
        let (cancel, sleep) = (Box::new(|| false), Box::new(std::thread::sleep));
        Retry { store, policy, cancel, sleep, lost_upload: AtomicBool::new(false) }
    }

    /// No further try, and no further wait, once `cancel` is true: the last failure is the answer.
    #[must_use]
    pub fn with_cancel(mut self, cancel: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        self.cancel = Box::new(cancel);
        self
    }

    /// Waits with `sleep`, which is called with at most 50 ms at a time.
    #[must_use]
    pub fn with_sleep(mut self, sleep: impl Fn(Duration) + Send + Sync + 'static) -> Self {
        self.sleep = Box::new(sleep);
        self
    }

    /// The store below.
    pub fn inner(&self) -> &S {
        &self.store
    }

    /// Asks the store below for what [`Store`] has no word for, with the same retries.
    pub fn ask<T>(&self, what: impl Fn(&S) -> Result<T, StoreError>) -> Result<T, StoreError> {
        self.run(|| what(&self.store))
    }

    fn run<T>(&self, attempt: impl Fn() -> Result<T, StoreError>) -> Result<T, StoreError> {
        self.run_told(|_| attempt())
    }

    /// Calls `attempt` until it succeeds or nothing more can be hoped for. It is passed whether an
    /// earlier try may have taken effect.
    fn run_told<T>(
        &self,
        attempt: impl Fn(bool) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let (mut tries, maybe_done) = (Tries::new(self.policy), Cell::new(false));
        let wait_after = |error: &StoreError| {
            let delay = tries.delay_after(error.kind);
            maybe_done.set(tries.maybe_done);
            delay
        };
        let sleep = |wait| sleep_by(wait, &self.cancel, &self.sleep);
        let done = with_retry(wait_after, sleep, || attempt(maybe_done.get()));
        done.map_err(|error| tries.gave_up(error))
    }

    /// Did the upload that is gone become the object? Upload ids are used once, so nobody else can
    /// have completed it; an older object under the same key shows by the number of parts that
    /// multipart entity tags end with, if the store makes such.
    fn was_completed(&self, upload: &Upload, parts: &[Part]) -> Result<bool, StoreError> {
        let Some(info) = self.store.head(&upload.key)? else { return Ok(false) };
        let count = info.etag.as_ref().and_then(|etag| etag.0.rsplit_once('-')?.1.parse().ok());
        Ok(count.is_none_or(|count: usize| count == parts.len()))
    }

    /// Is `body` what the key holds?
    fn was_put(&self, key: &Key, body: &[u8]) -> Result<Option<Option<ETag>>, StoreError> {
        match self.store.get(key, None, body.len() as u64) {
            Ok((bytes, etag)) => Ok((bytes == body).then_some(etag)),
            // Longer than ours, or gone: another's.
            Err(error)
                if matches!(error.kind, StoreErrorKind::NotFound | StoreErrorKind::Other) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

/// The tries of one request.
struct Tries {
    backoff: Backoff,
    refreshed: bool,
    was_at_once: bool,
    maybe_done: bool,
}

impl Tries {
    fn new(policy: Policy) -> Self {
        Tries {
            backoff: Backoff::new(policy),
            refreshed: false,
            was_at_once: false,
            maybe_done: false,
        }
    }

    /// How long to wait before the next try; `None`: there is none.
    fn delay_after(&mut self, kind: StoreErrorKind) -> Option<Duration> {
        let retry_after = match kind {
            StoreErrorKind::ExpiredCredentials if !self.refreshed => {
                self.refreshed = true;
                self.backoff.tries += 1;
                return Some(Duration::ZERO);
            }
            StoreErrorKind::Transient { retry_after } => retry_after,
            _ => {
                self.backoff.tries += 1;
                return None;
            }
        };
        self.maybe_done = true;
        if retry_after == Some(Duration::ZERO) && !self.was_at_once {
            // A pooled connection that was closed meanwhile: a new one may do, but once only.
            self.was_at_once = true;
            return self.backoff.at_once();
        }
        self.backoff.wait_after(retry_after)
    }

    fn gave_up(&self, mut error: StoreError) -> StoreError {
        if self.backoff.tries > 1 {
            error.message.push_str(&format!(" (after {} tries)", self.backoff.tries));
        }
        error
    }
}

impl<S: Store> Store for Retry<S> {
    fn describe(&self) -> String {
        self.store.describe()
    }

    fn is_read_by_path(&self) -> bool {
        self.inner().is_read_by_path()
    }

    fn limits(&self) -> Limits {
        self.store.limits()
    }

    fn get(
        &self,
        key: &Key,
        range: Option<Range<u64>>,
        max_len: u64,
    ) -> Result<(Vec<u8>, Option<ETag>), StoreError> {
        self.run(|| self.store.get(key, range.clone(), max_len))
    }

    fn open(&self, key: &Key, offset: u64) -> Result<Box<dyn Read + Send>, StoreError> {
        self.run(|| self.store.open(key, offset))
    }

    fn head(&self, key: &Key) -> Result<Option<ObjectInfo>, StoreError> {
        self.run(|| self.store.head(key))
    }

    fn put(
        &self,
        key: &Key,
        body: &[u8],
        headers: ObjectHeaders,
        condition: Option<&Condition>,
    ) -> Result<Option<ETag>, StoreError> {
        self.run_told(|maybe_done| match self.store.put(key, body, headers, condition) {
            Err(error) if maybe_done && error.kind == StoreErrorKind::ConditionFailed => {
                self.was_put(key, body)?.ok_or(error)
            }
            done => done,
        })
    }

    fn delete(&self, keys: &[Key]) -> Result<(), StoreError> {
        keys.chunks(DELETE_CHUNK).try_for_each(|chunk| self.run(|| self.store.delete(chunk)))
    }

    fn list_unchecked(&self, prefix: &str, page: Option<&str>) -> Result<ListPage, StoreError> {
        self.run(|| self.store.list_unchecked(prefix, page))
    }

    fn list_folders(&self, folder: &str, page: Option<&str>) -> Result<FolderPage, StoreError> {
        self.run(|| self.store.list_folders(folder, page))
    }

    fn copy(&self, from: &Key, to: &Key, headers: ObjectHeaders) -> Result<(), StoreError> {
        self.run(|| self.store.copy(from, to, headers))
    }

    fn kept(&self, key: &Key) -> Result<Option<Kept>, StoreError> {
        self.run(|| self.store.kept(key))
    }

    fn elsewhere(&self, key: &Key, etag: &ETag) -> Option<Elsewhere> {
        self.store.elsewhere(key, etag)
    }

    fn copy_from(
        &self,
        from: &Elsewhere,
        to: &Key,
        headers: ObjectHeaders,
    ) -> Result<(), StoreError> {
        self.run(|| self.store.copy_from(from, to, headers))
    }

    fn create_upload(&self, key: &Key, headers: ObjectHeaders) -> Result<Upload, StoreError> {
        self.run_told(|maybe_done| {
            self.lost_upload.fetch_or(maybe_done, Ordering::Relaxed);
            self.store.create_upload(key, headers)
        })
    }

    fn put_part(&self, upload: &Upload, number: u32, body: &[u8]) -> Result<Part, StoreError> {
        self.run(|| self.store.put_part(upload, number, body))
    }

    fn copy_part(
        &self,
        upload: &Upload,
        number: u32,
        from: &Key,
        range: Range<u64>,
    ) -> Result<Part, StoreError> {
        self.run(|| self.store.copy_part(upload, number, from, range.clone()))
    }

    fn complete_upload(&self, upload: &Upload, parts: &[Part]) -> Result<(), StoreError> {
        self.run_told(|maybe_done| match self.store.complete_upload(upload, parts) {
            // Some stores deny what is gone.
            Err(error)
                if maybe_done
                    && matches!(error.kind, StoreErrorKind::NotFound | StoreErrorKind::Denied) =>
            {
                if self.was_completed(upload, parts)? {
                    Ok(())
                } else {
                    Err(error)
                }
            }
            done => done,
        })
    }

    fn abort_upload(&self, upload: &Upload) -> Result<(), StoreError> {
        self.run(|| self.store.abort_upload(upload))
    }

    fn list_uploads_unchecked(&self, prefix: &str) -> Result<Vec<OpenUpload>, StoreError> {
        self.run(|| self.store.list_uploads_unchecked(prefix))
    }

    fn remove_leftovers(&self) -> Result<usize, StoreError> {
        self.run(|| self.store.remove_leftovers())
    }

    fn requests(&self) -> u64 {
        self.store.requests()
    }

    fn may_have_lost_uploads(&self) -> bool {
        self.lost_upload.load(Ordering::Relaxed) || self.store.may_have_lost_uploads()
    }

    fn usage(&self) -> Usage {
        self.store.usage()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{Arc, Mutex};

    use super::super::memory::{Fault, MemoryStore, Operation};
    use super::*;
    use crate::store::testing::{TEXT, key};

    /// A store without real waits, and how long it would have waited in all.
    fn retry(store: &MemoryStore, policy: Policy) -> (Retry<MemoryStore>, Arc<Mutex<Duration>>) {
        let waited = Arc::new(Mutex::new(Duration::ZERO));
        let sum = waited.clone();
        let retry = Retry::new(store.clone(), policy);
        (retry.with_sleep(move |nap| *sum.lock().unwrap() += nap), waited)
    }

    fn transient(seconds: u64) -> StoreErrorKind {
        StoreErrorKind::Transient { retry_after: Some(Duration::from_secs(seconds)) }
    }

    #[test]
    fn a_transient_failure_is_tried_again_until_it_goes_well() {
        let store = MemoryStore::new();
        store.inject(Fault::transient().times(3));
        let (retry, waited) = retry(&store, Policy::default());
        retry.put(&key("a"), b"1", TEXT, None).unwrap();
        assert_eq!(store.count(Operation::Put), 4);
        // Between half and whole of 0.2 + 0.4 + 0.8 s.
        let waited = waited.lock().unwrap().as_millis();
        assert!((700..=1400).contains(&waited), "{waited}");
    }

    #[test]
    fn tries_are_bounded_and_the_error_says_how_many() {
        let store = MemoryStore::new();
        store.inject(Fault::transient().always());
        let (retry, _) = retry(&store, Policy { max_attempts: 3, ..Policy::default() });
        let error = retry.head(&key("a")).unwrap_err();
        assert_eq!(store.requests(), 3);
        assert!(error.to_string().ends_with("(after 3 tries)"), "{error}");
    }

    #[test]
    fn the_time_is_bounded() {
        let store = MemoryStore::new();
        store.inject(Fault::new(transient(30)).always());
        let policy = Policy { max_total: Duration::from_secs(70), ..Policy::default() };
        let (retry, waited) = retry(&store, policy);
        assert!(retry.head(&key("a")).is_err());
        assert_eq!((store.requests(), waited.lock().unwrap().as_secs()), (3, 60));
    }

    #[test]
    fn the_store_says_how_long_to_wait_up_to_a_cap() {
        for (asked, expected) in [(2, 2), (3600, 30)] {
            let store = MemoryStore::new();
            store.inject(Fault::new(transient(asked)));
            let (retry, waited) = retry(&store, Policy::default());
            retry.head(&key("a")).unwrap();
            assert_eq!(waited.lock().unwrap().as_secs(), expected);
        }
    }

    #[test]
    fn a_stale_connection_is_tried_again_at_once_but_only_once_so() {
        let store = MemoryStore::new();
        store.inject(Fault::new(transient(0)));
        let (first, waited) = retry(&store, Policy::default());
        first.head(&key("a")).unwrap();
        assert!(waited.lock().unwrap().is_zero());
        store.inject(Fault::new(transient(0)).times(2));
        let (second, waited) = retry(&store, Policy::default());
        second.head(&key("a")).unwrap();
        assert!(!waited.lock().unwrap().is_zero());
    }

    #[test]
    fn expired_credentials_are_tried_again_once() {
        let store = MemoryStore::new();
        let (retry, _) = retry(&store, Policy::default());
        store.inject(Fault::new(StoreErrorKind::ExpiredCredentials));
        retry.head(&key("a")).unwrap();
        assert_eq!(store.requests(), 2);
        store.inject(Fault::new(StoreErrorKind::ExpiredCredentials).times(2));
        assert!(retry.head(&key("a")).is_err());
        assert_eq!(store.requests(), 4);
    }

    #[test]
    fn nothing_else_is_tried_again() {
        use StoreErrorKind::*;
        for kind in [NotFound, Denied, ConditionFailed, Unsupported, Other] {
            let store = MemoryStore::new();
            store.inject(Fault::new(kind));
            let (retry, _) = retry(&store, Policy::default());
            assert_eq!(retry.put(&key("a"), b"", TEXT, None).unwrap_err().kind, kind);
            assert_eq!(store.requests(), 1);
        }
    }

    #[test]
    fn an_interrupted_run_does_not_sleep_on() {
        let store = MemoryStore::new();
        store.inject(Fault::new(transient(30)).always());
        let stop = Arc::new(AtomicBool::new(false));
        let (stopping, stopped) = (stop.clone(), stop);
        let naps = Arc::new(Mutex::new(0));
        let count = naps.clone();
        let retry = Retry::new(store.clone(), Policy::default())
            .with_cancel(move || stopped.load(Ordering::SeqCst))
            .with_sleep(move |_| {
                *count.lock().unwrap() += 1;
                stopping.store(true, Ordering::SeqCst);
            });
        assert!(retry.head(&key("a")).is_err());
        assert_eq!((*naps.lock().unwrap(), store.requests()), (1, 1));
    }

    #[test]
    fn a_completed_upload_whose_answer_was_lost_counts_as_completed() {
        for then in [None, Some(StoreErrorKind::Denied)] {
            let store = MemoryStore::new();
            let (retry, _) = retry(&store, Policy::default());
            let upload = retry.create_upload(&key("a"), TEXT).unwrap();
            let part = retry.put_part(&upload, 1, b"1").unwrap();
            store.inject(Fault::transient().on(Operation::CompleteUpload).after_effect());
            if let Some(kind) = then {
                store.inject(Fault::new(kind).on(Operation::CompleteUpload).nth(2));
            }
            retry.complete_upload(&upload, &[part]).unwrap();
            assert_eq!(store.bytes("a").as_deref(), Some(&b"1"[..]));
        }
    }

    #[test]
    fn an_upload_that_is_gone_and_left_no_object_is_an_error() {
        for older in [None, Some(b"old")] {
            let store = MemoryStore::new();
            let (retry, _) = retry(&store, Policy::default());
            let upload = retry.create_upload(&key("a"), TEXT).unwrap();
            let part = retry.put_part(&upload, 1, b"1").unwrap();
            if older.is_some() {
                let two = store.create_upload(&key("a"), TEXT).unwrap();
                let parts = [1, 2].map(|n| store.put_part(&two, n, &[0; 5 << 20]).unwrap());
                store.complete_upload(&two, &parts).unwrap();
            }
            store.abort_upload(&upload).unwrap();
            store.inject(Fault::transient().on(Operation::CompleteUpload));
            assert!(retry.complete_upload(&upload, &[part]).unwrap_err().is_not_found());
        }
    }

    #[test]
    fn a_conditional_put_knows_its_own_write_when_the_answer_was_lost() {
        let store = MemoryStore::new();
        let (retry, _) = retry(&store, Policy::default());
        let lost = || Fault::transient().on(Operation::Put).after_effect();
        store.inject(lost());
        let etag = retry.put(&key("a"), b"1", TEXT, Some(&Condition::Absent)).unwrap().unwrap();
        store.inject(lost());
        let matches = Condition::Matches(etag);
        retry.put(&key("a"), b"2", TEXT, Some(&matches)).unwrap();
        assert_eq!(store.bytes("a").as_deref(), Some(&b"2"[..]));
    }

    #[test]
    fn a_conditional_put_that_lost_to_another_writer_fails() {
        let store = MemoryStore::new();
        let (retry, _) = retry(&store, Policy::default());
        for others in ["x", "longer than ours"] {
            store.put(&key("a"), others.as_bytes(), TEXT, None).unwrap();
            store.inject(Fault::transient().on(Operation::Put));
            let error = retry.put(&key("a"), b"1", TEXT, Some(&Condition::Absent)).unwrap_err();
            assert_eq!(error.kind, StoreErrorKind::ConditionFailed);
        }
    }

    #[test]
    fn a_failed_chunk_of_a_deletion_is_the_only_one_repeated() {
        let store = MemoryStore::new();
        let (retry, _) = retry(&store, Policy::default());
        let keys: Vec<Key> = (0..2500).map(|n| key(&n.to_string())).collect();
        store.inject(Fault::transient().on(Operation::Delete).nth(2));
        retry.delete(&keys).unwrap();
        let sizes: Vec<usize> = store.recorded().iter().map(|r| r.keys.len()).collect();
        assert_eq!(sizes, [1000, 1000, 1000, 500]);
    }
}
