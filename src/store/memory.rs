//! A store in memory that records every request and fails on demand.
//!
//! It keeps S3's rules (smallest part, order of parts, entity tags, conditions, one page at a
//! time), so that code which works on it works on S3, and it is part of the library so that users
//! can test against it as this project does. A clone is a second handle on the same store: keep
//! one to look at what happened.
//!
//! ```
//! use mirror_git_to_s3::store::memory::{Fault, MemoryStore, Operation};
//! use mirror_git_to_s3::store::{Key, ObjectHeaders, Store, StoreErrorKind};
//!
//! let store = MemoryStore::new();
//! store.inject(Fault::new(StoreErrorKind::Denied).on(Operation::Put).nth(2));
//! let text = ObjectHeaders::changing("text/plain");
//! assert!(store.put(&Key::new("a").unwrap(), b"1", text, None).is_ok());
//! assert!(store.put(&Key::new("b").unwrap(), b"2", text, None).is_err());
//! assert_eq!(store.keys(), ["a"]);
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Cursor, Read};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use super::interface::{
    Condition, ETag, Key, Limits, ListPage, ObjectHeaders, ObjectInfo, OpenUpload, Part, Store,
    StoreError, StoreErrorKind, Upload,
};

/// The most keys of one bulk delete, as on S3.
const MAX_DELETE_KEYS: usize = 1000;

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // Named as the methods of [`Store`].
pub enum Operation {
    Get,
    Open,
    Head,
    Put,
    Delete,
    List,
    Copy,
    CreateUpload,
    PutPart,
    CopyPart,
    CompleteUpload,
    AbortUpload,
    ListUploads,
}

impl Operation {
    /// As [`StoreError::verb`] says it.
    fn verb(self) -> &'static str {
        match self {
            Operation::Get | Operation::Open => "get",
            Operation::Head => "look up",
            Operation::Put => "put",
            Operation::Delete => "delete",
            Operation::List => "list",
            Operation::Copy => "copy to",
            Operation::CreateUpload => "begin an upload of",
            Operation::PutPart => "put a part of",
            Operation::CopyPart => "copy a part of",
            Operation::CompleteUpload => "complete the upload of",
            Operation::AbortUpload => "abort the upload of",
            Operation::ListUploads => "list the uploads of",
        }
    }
}

/// One request that came, in the order of arrival.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What it wanted.
    pub operation: Operation,
    /// The keys that it named: one, for a deletion up to 1,000, for a listing the prefix.
    pub keys: Vec<String>,
    /// Bytes sent (put) or received (get).
    pub bytes: u64,
    /// How it failed, if it did.
    pub failed: Option<StoreErrorKind>,
}

impl Request {
    /// The first key that it named.
    pub fn key(&self) -> &str {
        self.keys.first().map_or("", String::as_str)
    }
}

/// A failure to come.
pub struct Fault {
    kind: StoreErrorKind,
    operation: Option<Operation>,
    key: Option<KeyTest>,
    /// Matching requests that still succeed.
    skip: u64,
    /// Matching requests that then fail.
    times: u64,
    after_effect: bool,
    cut_at: Option<u64>,
}

type KeyTest = Box<dyn Fn(&str) -> bool + Send + Sync>;

impl Fault {
    /// The next request fails with `kind`, and has no effect.
    pub fn new(kind: StoreErrorKind) -> Self {
        let key = None;
        Fault { kind, operation: None, key, skip: 0, times: 1, after_effect: false, cut_at: None }
    }

    /// A failure after which a retry may succeed.
    pub fn transient() -> Self {
        Fault::new(StoreErrorKind::Transient { retry_after: None })
    }

    /// Only requests of this operation.
    #[must_use]
    pub fn on(mut self, operation: Operation) -> Self {
        self.operation = Some(operation);
        self
    }

    /// Only requests that name a key for which `test` is true.
    #[must_use]
    pub fn key(mut self, test: impl Fn(&str) -> bool + Send + Sync + 'static) -> Self {
        self.key = Some(Box::new(test));
        self
    }

    /// The `n`-th matching request, from 1, and not those before it.
    #[must_use]
    pub fn nth(mut self, n: u64) -> Self {
        self.skip = n.saturating_sub(1);
        self
    }

    /// So many matching requests, one after the other.
    #[must_use]
    pub fn times(mut self, times: u64) -> Self {
        self.times = times;
        self
    }

    /// Every matching request from then on.
    #[must_use]
    pub fn always(self) -> Self {
        self.times(u64::MAX)
    }

    /// The request takes effect, and then its answer is lost.
    #[must_use]
    pub fn after_effect(mut self) -> Self {
        self.after_effect = true;
        self
    }

    /// [`Store::open`] succeeds, and its stream breaks after `bytes`.
    #[must_use]
    pub fn cut_at(mut self, bytes: u64) -> Self {
        self.cut_at = Some(bytes);
        self
    }

    fn matches(&self, operation: Operation, keys: &[String]) -> bool {
        self.operation.is_none_or(|wanted| wanted == operation)
            && self.key.as_ref().is_none_or(|test| keys.iter().any(|key| test(key)))
    }
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fault")
            .field("kind", &self.kind)
            .field("operation", &self.operation)
            .finish_non_exhaustive()
    }
}

/// An object as it is stored.
#[derive(Clone, Debug)]
pub struct StoredObject {
    /// Its bytes.
    pub bytes: Arc<[u8]>,
    /// The headers that it was written with.
    pub headers: ObjectHeaders,
    /// When it was written.
    pub last_modified: SystemTime,
    /// Its entity tag: the MD5 of its bytes, or of its parts' MD5s with their number.
    pub etag: ETag,
}

#[derive(Debug)]
struct OpenParts {
    key: Key,
    headers: ObjectHeaders,
    initiated: SystemTime,
    parts: BTreeMap<u32, Arc<[u8]>>,
}

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<Key, StoredObject>,
    uploads: BTreeMap<String, OpenParts>,
    uploads_begun: u64,
    faults: Vec<Fault>,
    requests: Vec<Request>,
    limits: Option<Limits>,
    page_size: Option<usize>,
    latency: Option<Duration>,
}

/// See the [module's words](self).
#[derive(Clone, Debug, Default)]
pub struct MemoryStore {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    sent: AtomicU64,
    in_flight: AtomicUsize,
    max_in_flight: AtomicUsize,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        MemoryStore::default()
    }

    /// Pretends other limits than S3's.
    #[must_use]
    pub fn with_limits(self, limits: Limits) -> Self {
        self.state().limits = Some(limits);
        self
    }

    /// Gives at most `keys` keys a page of a listing (default: 1,000).
    #[must_use]
    pub fn with_page_size(self, keys: usize) -> Self {
        self.state().page_size = Some(keys.max(1));
        self
    }

    /// Every request takes at least so long.
    #[must_use]
    pub fn with_latency(self, latency: Duration) -> Self {
        self.state().latency = Some(latency);
        self
    }

    /// Adds a failure to come. Of several that match, the first that was added fails the request;
    /// all of them count it.
    pub fn inject(&self, fault: Fault) {
        self.state().faults.push(fault);
    }

    /// Forgets all failures to come.
    pub fn clear_faults(&self) {
        self.state().faults.clear();
    }

    /// Every request so far.
    pub fn recorded(&self) -> Vec<Request> {
        self.state().requests.clone()
    }

    /// How many requests of `operation` there were.
    pub fn count(&self, operation: Operation) -> usize {
        self.state().requests.iter().filter(|request| request.operation == operation).count()
    }

    /// Forgets the requests so far. [`Store::requests`] continues counting.
    pub fn clear_recorded(&self) {
        self.state().requests.clear();
    }

    /// All objects.
    pub fn snapshot(&self) -> BTreeMap<String, StoredObject> {
        let state = self.state();
        state.objects.iter().map(|(key, object)| (key.to_string(), object.clone())).collect()
    }

    /// All keys, in order.
    pub fn keys(&self) -> Vec<String> {
        self.state().objects.keys().map(Key::to_string).collect()
    }

    /// One object's bytes, without a request.
    pub fn bytes(&self, key: &str) -> Option<Arc<[u8]>> {
        let key = Key::new(key).ok()?;
        Some(self.state().objects.get(&key)?.bytes.clone())
    }

    /// Pretends that an object was written at `time`. `false`: there is none.
    pub fn set_last_modified(&self, key: &str, time: SystemTime) -> bool {
        let Ok(key) = Key::new(key) else { return false };
        let mut state = self.state();
        state.objects.get_mut(&key).map(|object| object.last_modified = time).is_some()
    }

    /// Pretends that all open uploads were begun at `time`.
    pub fn set_initiated(&self, time: SystemTime) {
        self.state().uploads.values_mut().for_each(|upload| upload.initiated = time);
    }

    /// How many uploads were begun and neither completed nor aborted.
    pub fn open_uploads(&self) -> usize {
        self.state().uploads.len()
    }

    /// The most requests that were under way at once.
    pub fn max_in_flight(&self) -> usize {
        self.shared.max_in_flight.load(Ordering::SeqCst)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn request<T>(
        &self,
        operation: Operation,
        keys: &[&str],
        sent_bytes: u64,
        effect: impl FnOnce(&mut State) -> Result<(T, u64), Failure>,
    ) -> Result<T, StoreError> {
        self.request_cut(operation, keys, sent_bytes, effect).map(|(value, _)| value)
    }

    /// One request: counts and records it, waits, fails as configured, or does `effect`, which gives the
    /// answer and its bytes. Besides the answer: after how many bytes its stream shall break.
    fn request_cut<T>(
        &self,
        operation: Operation,
        keys: &[&str],
        sent_bytes: u64,
        effect: impl FnOnce(&mut State) -> Result<(T, u64), Failure>,
    ) -> Result<(T, Option<u64>), StoreError> {
        let _flight = Flight::begin(&self.shared);
        let latency = self.state().latency;
        if let Some(latency) = latency {
            std::thread::sleep(latency);
        }
        let keys: Vec<String> = keys.iter().map(|key| (*key).to_owned()).collect();
        let target = keys.first().cloned().unwrap_or_default();
        let mut state = self.state();
        let fault = state.due(operation, &keys);
        let injected = || (fault.kind(), "injected failure".to_owned());
        let done = match fault {
            Due::Before(_) => Err(injected()),
            // The answer is lost, whatever it was.
            Due::After(_) => {
                let _ = effect(&mut state);
                Err(injected())
            }
            Due::Nothing | Due::Cut(_) => effect(&mut state),
        };
        let bytes = done.as_ref().map_or(0, |(_, bytes)| *bytes).max(sent_bytes);
        let failed = done.as_ref().err().map(|(kind, _)| *kind);
        state.requests.push(Request { operation, keys, bytes, failed });
        match done {
            Ok((value, _)) => Ok((value, fault.cut())),
            Err((kind, message)) => Err(StoreError::new(kind, operation.verb(), target, message)),
        }
    }
}

/// Counts a request for as long as it runs.
struct Flight<'a>(&'a Shared);

impl<'a> Flight<'a> {
    fn begin(shared: &'a Shared) -> Self {
        shared.sent.fetch_add(1, Ordering::Relaxed);
        let now = shared.in_flight.fetch_add(1, Ordering::SeqCst) + 1;
        shared.max_in_flight.fetch_max(now, Ordering::SeqCst);
        Flight(shared)
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::SeqCst);
    }
}

/// What the faults want of a request.
#[derive(Clone, Copy)]
enum Due {
    Nothing,
    Before(StoreErrorKind),
    After(StoreErrorKind),
    Cut(u64),
}

impl Due {
    fn kind(self) -> StoreErrorKind {
        match self {
            Due::Before(kind) | Due::After(kind) => kind,
            Due::Nothing | Due::Cut(_) => StoreErrorKind::Other,
        }
    }

    fn cut(self) -> Option<u64> {
        if let Due::Cut(bytes) = self { Some(bytes) } else { None }
    }
}

type Failure = (StoreErrorKind, String);

fn not_found(what: &str) -> Failure {
    (StoreErrorKind::NotFound, what.to_owned())
}

fn refused(why: impl Into<String>) -> Failure {
    (StoreErrorKind::Other, why.into())
}

impl State {
    fn due(&mut self, operation: Operation, keys: &[String]) -> Due {
        let mut due = Due::Nothing;
        for fault in self.faults.iter_mut().filter(|fault| fault.matches(operation, keys)) {
            if fault.skip > 0 {
                fault.skip -= 1;
            } else if fault.times > 0 && matches!(due, Due::Nothing) {
                fault.times -= 1;
                due = match fault.cut_at {
                    Some(bytes) => Due::Cut(bytes),
                    None if fault.after_effect => Due::After(fault.kind),
                    None => Due::Before(fault.kind),
                };
            }
        }
        due
    }

    fn limits(&self) -> Limits {
        self.limits.unwrap_or(Limits::S3)
    }

    fn object(&self, key: &Key) -> Result<&StoredObject, Failure> {
        self.objects.get(key).ok_or_else(|| not_found("NoSuchKey: there is no such key"))
    }

    fn upload(&mut self, upload: &Upload) -> Result<&mut OpenParts, Failure> {
        self.uploads
            .get_mut(&upload.id)
            .filter(|open| open.key == upload.key)
            .ok_or_else(|| not_found("NoSuchUpload: there is no such upload"))
    }

    fn store(&mut self, key: &Key, bytes: Arc<[u8]>, headers: ObjectHeaders, etag: ETag) {
        let last_modified = SystemTime::now();
        self.objects.insert(key.clone(), StoredObject { bytes, headers, last_modified, etag });
    }

    fn check(&self, key: &Key, condition: Option<&Condition>) -> Result<(), Failure> {
        let now = self.objects.get(key).map(|object| &object.etag);
        let holds = match condition {
            None => true,
            Some(Condition::Absent) => now.is_none(),
            Some(Condition::Matches(etag)) => now == Some(etag),
        };
        let words = || "PreconditionFailed: the condition failed".to_owned();
        if holds { Ok(()) } else { Err((StoreErrorKind::ConditionFailed, words())) }
    }

    fn put_part(
        &mut self,
        upload: &Upload,
        number: u32,
        bytes: Arc<[u8]>,
    ) -> Result<(Part, u64), Failure> {
        let max_parts = self.limits().max_parts;
        if number == 0 || number > max_parts {
            return Err(refused(format!("InvalidArgument: part {number} of {max_parts} at most")));
        }
        let (etag, len) = (md5_tag(&bytes), bytes.len() as u64);
        self.upload(upload)?.parts.insert(number, bytes);
        Ok((Part { number, etag }, len))
    }

    /// The bytes of the parts one after the other, and their common entity tag.
    fn joined(&mut self, upload: &Upload, parts: &[Part]) -> Result<(Arc<[u8]>, ETag), Failure> {
        let least = self.limits().min_part_bytes;
        let open = self.upload(upload)?;
        if parts.is_empty() {
            return Err(refused("MalformedXML: no parts"));
        }
        if !parts.is_sorted_by(|a, b| a.number < b.number) {
            return Err(refused("InvalidPartOrder: parts must be in order of their numbers"));
        }
        let (mut bytes, mut sums) = (Vec::new(), Vec::new());
        for (at, part) in parts.iter().enumerate() {
            let stored = open.parts.get(&part.number).filter(|b| md5_tag(b) == part.etag);
            let Some(stored) = stored else {
                return Err(refused(format!("InvalidPart: part {} is not stored", part.number)));
            };
            if at + 1 < parts.len() && (stored.len() as u64) < least {
                return Err(refused(format!("EntityTooSmall: part {}", part.number)));
            }
            bytes.extend_from_slice(stored);
            sums.extend_from_slice(&md5::compute(stored).0);
        }
        let etag = ETag(format!("{:x}-{}", md5::compute(&sums), parts.len()));
        Ok((bytes.into(), etag))
    }
}

fn md5_tag(bytes: &[u8]) -> ETag {
    ETag(format!("{:x}", md5::compute(bytes)))
}

/// What there is of `range` in `bytes`.
fn slice(bytes: &[u8], range: Range<u64>) -> Result<&[u8], Failure> {
    let len = bytes.len() as u64;
    if range.start >= len {
        return Err(refused(format!("InvalidRange: from {} of {len} bytes", range.start)));
    }
    // Both are at most `len`, which is a usize.
    Ok(&bytes[range.start as usize..range.end.min(len) as usize])
}

impl Store for MemoryStore {
    fn describe(&self) -> String {
        "memory:".to_owned()
    }

    fn limits(&self) -> Limits {
        self.state().limits()
    }

    fn get(
        &self,
        key: &Key,
        range: Option<Range<u64>>,
        max_len: u64,
    ) -> Result<(Vec<u8>, Option<ETag>), StoreError> {
        if range.as_ref().is_some_and(Range::is_empty) {
            return Ok((Vec::new(), None));
        }
        self.request(Operation::Get, &[key.as_str()], 0, |state| {
            let object = state.object(key)?;
            let bytes = match range {
                None => &object.bytes[..],
                Some(range) => slice(&object.bytes, range)?,
            };
            if bytes.len() as u64 > max_len {
                let len = bytes.len();
                return Err(refused(format!("{len} bytes, more than the {max_len} allowed")));
            }
            Ok(((bytes.to_vec(), Some(object.etag.clone())), bytes.len() as u64))
        })
    }

    fn open(&self, key: &Key, offset: u64) -> Result<Box<dyn Read + Send>, StoreError> {
        let (bytes, cut) = self.request_cut(Operation::Open, &[key.as_str()], 0, |state| {
            let bytes = state.object(key)?.bytes.clone();
            if offset > 0 {
                slice(&bytes, offset..u64::MAX)?;
            }
            let len = bytes.len() as u64 - offset;
            Ok((bytes, len))
        })?;
        let mut reader = Cursor::new(bytes);
        reader.set_position(offset);
        match cut {
            None => Ok(Box::new(reader)),
            Some(left) => Ok(Box::new(Cut { reader, left, key: key.to_string() })),
        }
    }

    fn head(&self, key: &Key) -> Result<Option<ObjectInfo>, StoreError> {
        self.request(Operation::Head, &[key.as_str()], 0, |state| {
            Ok((state.objects.get(key).map(|object| info(key, object)), 0))
        })
    }

    fn put(
        &self,
        key: &Key,
        body: &[u8],
        headers: ObjectHeaders,
        condition: Option<&Condition>,
    ) -> Result<Option<ETag>, StoreError> {
        let (bytes, etag) = (Arc::from(body), md5_tag(body));
        self.request(Operation::Put, &[key.as_str()], body.len() as u64, |state| {
            state.check(key, condition)?;
            state.store(key, bytes, headers, etag.clone());
            Ok((Some(etag), 0))
        })
    }

    fn delete(&self, keys: &[Key]) -> Result<(), StoreError> {
        for chunk in keys.chunks(MAX_DELETE_KEYS) {
            let names: Vec<&str> = chunk.iter().map(Key::as_str).collect();
            self.request(Operation::Delete, &names, 0, |state| {
                for key in chunk {
                    state.objects.remove(key);
                }
                Ok(((), 0))
            })?;
        }
        Ok(())
    }

    fn list_unchecked(&self, prefix: &str, page: Option<&str>) -> Result<ListPage, StoreError> {
        self.request(Operation::List, &[prefix], 0, |state| {
            let size = state.page_size.unwrap_or(1000);
            let mut objects: Vec<ObjectInfo> = state
                .objects
                .iter()
                .filter(|(key, _)| key.as_str().starts_with(prefix))
                .filter(|(key, _)| page.is_none_or(|last| key.as_str() > last))
                .take(size + 1)
                .map(|(key, object)| info(key, object))
                .collect();
            let more = objects.len() > size;
            objects.truncate(size);
            let next = objects.last().filter(|_| more).map(|object| object.key.to_string());
            Ok((ListPage { objects, next }, 0))
        })
    }

    fn copy(&self, from: &Key, to: &Key, headers: ObjectHeaders) -> Result<(), StoreError> {
        self.request(Operation::Copy, &[to.as_str(), from.as_str()], 0, |state| {
            let StoredObject { bytes, etag, .. } = state.object(from)?.clone();
            if bytes.len() as u64 > state.limits().max_copy_bytes {
                return Err(refused("InvalidRequest: the source is too large for one copy"));
            }
            state.store(to, bytes, headers, etag);
            Ok(((), 0))
        })
    }

    fn create_upload(&self, key: &Key, headers: ObjectHeaders) -> Result<Upload, StoreError> {
        self.request(Operation::CreateUpload, &[key.as_str()], 0, |state| {
            state.uploads_begun += 1;
            // Characters that must be encoded in a query, as some stores have them.
            let id = format!("upload+{}/=", state.uploads_begun);
            let (key, initiated) = (key.clone(), SystemTime::now());
            let open = OpenParts { key: key.clone(), headers, initiated, parts: BTreeMap::new() };
            state.uploads.insert(id.clone(), open);
            Ok((Upload { key, id }, 0))
        })
    }

    fn put_part(&self, upload: &Upload, number: u32, body: &[u8]) -> Result<Part, StoreError> {
        let (key, len) = (upload.key.as_str(), body.len() as u64);
        self.request(Operation::PutPart, &[key], len, |state| {
            state.put_part(upload, number, Arc::from(body))
        })
    }

    fn copy_part(
        &self,
        upload: &Upload,
        number: u32,
        from: &Key,
        range: Range<u64>,
    ) -> Result<Part, StoreError> {
        let keys = [upload.key.as_str(), from.as_str()];
        self.request(Operation::CopyPart, &keys, 0, |state| {
            let source = state.object(from)?.bytes.clone();
            if range.is_empty() || range.end > source.len() as u64 {
                return Err(refused("InvalidRange: the range is not inside the source"));
            }
            state.put_part(upload, number, Arc::from(slice(&source, range)?))
        })
    }

    fn complete_upload(&self, upload: &Upload, parts: &[Part]) -> Result<(), StoreError> {
        self.request(Operation::CompleteUpload, &[upload.key.as_str()], 0, |state| {
            let (bytes, etag) = state.joined(upload, parts)?;
            let headers = state.upload(upload)?.headers;
            state.uploads.remove(&upload.id);
            state.store(&upload.key, bytes, headers, etag);
            Ok(((), 0))
        })
    }

    fn abort_upload(&self, upload: &Upload) -> Result<(), StoreError> {
        self.request(Operation::AbortUpload, &[upload.key.as_str()], 0, |state| {
            state.uploads.remove(&upload.id);
            Ok(((), 0))
        })
    }

    fn list_uploads_unchecked(&self, prefix: &str) -> Result<Vec<OpenUpload>, StoreError> {
        self.request(Operation::ListUploads, &[prefix], 0, |state| {
            let open =
                state.uploads.iter().filter(|(_, open)| open.key.as_str().starts_with(prefix));
            let uploads = open.map(|(id, open)| OpenUpload {
                upload: Upload { key: open.key.clone(), id: id.clone() },
                initiated: Some(open.initiated),
            });
            Ok((uploads.collect(), 0))
        })
    }

    fn requests(&self) -> u64 {
        self.shared.sent.load(Ordering::Relaxed)
    }
}

fn info(key: &Key, object: &StoredObject) -> ObjectInfo {
    ObjectInfo {
        key: key.clone(),
        len: object.bytes.len() as u64,
        last_modified: Some(object.last_modified),
        etag: Some(object.etag.clone()),
    }
}

/// A stream that breaks.
struct Cut {
    reader: Cursor<Arc<[u8]>>,
    left: u64,
    key: String,
}

impl Read for Cut {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            let kind = StoreErrorKind::Transient { retry_after: None };
            let error = StoreError::new(kind, "read", self.key.as_str(), "injected failure");
            return Err(io::Error::new(io::ErrorKind::ConnectionReset, error));
        }
        let read = self.reader.by_ref().take(self.left).read(buf)?;
        self.left -= read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::{TEXT, key};

    #[test]
    fn the_nth_matching_request_fails_and_no_other() {
        let store = MemoryStore::new();
        let fault = Fault::new(StoreErrorKind::Denied).on(Operation::Put).nth(2).times(2);
        store.inject(fault.key(|key| key.starts_with('a')));
        let done: Vec<bool> = ["a1", "b1", "a2", "b2", "a3", "a4"]
            .map(|name| store.put(&key(name), b"", TEXT, None).is_ok())
            .to_vec();
        assert_eq!(done, [true, true, false, true, false, true]);
        assert_eq!(store.keys(), ["a1", "a4", "b1", "b2"]);
        assert_eq!(store.recorded()[2].failed, Some(StoreErrorKind::Denied));
    }

    #[test]
    fn a_fault_after_the_effect_leaves_the_object() {
        let store = MemoryStore::new();
        store.inject(Fault::transient().on(Operation::Put).after_effect());
        assert!(store.put(&key("a"), b"1", TEXT, None).is_err());
        assert_eq!(store.bytes("a").as_deref(), Some(&b"1"[..]));
    }

    #[test]
    fn a_cut_stream_gives_its_bytes_and_then_a_transient_error() {
        let store = MemoryStore::new();
        store.put(&key("a"), b"12345", TEXT, None).unwrap();
        store.inject(Fault::transient().on(Operation::Open).cut_at(2));
        let mut bytes = Vec::new();
        let error = store.open(&key("a"), 1).unwrap().read_to_end(&mut bytes).unwrap_err();
        assert_eq!(bytes, b"23");
        let error = error.get_ref().unwrap().downcast_ref::<StoreError>().unwrap();
        assert_eq!(error.kind, StoreErrorKind::Transient { retry_after: None });
    }

    #[test]
    fn requests_are_recorded_with_keys_and_bytes() {
        let store = MemoryStore::new();
        store.put(&key("a"), b"123", TEXT, None).unwrap();
        store.get(&key("a"), Some(1..9), 9).unwrap();
        store.delete(&[key("a"), key("b")]).unwrap();
        let seen: Vec<_> =
            store.recorded().iter().map(|r| (r.operation, r.keys.join(" "), r.bytes)).collect();
        assert_eq!(seen[0], (Operation::Put, "a".into(), 3));
        assert_eq!(seen[1], (Operation::Get, "a".into(), 2));
        assert_eq!(seen[2], (Operation::Delete, "a b".into(), 0));
        assert_eq!(store.requests(), 3);
    }

    #[test]
    fn pretended_limits_are_enforced() {
        let limits = Limits { min_part_bytes: 3, max_parts: 2, max_copy_bytes: 4, ..Limits::S3 };
        let store = MemoryStore::new().with_limits(limits);
        assert_eq!(store.limits(), limits);
        let upload = store.create_upload(&key("a"), TEXT).unwrap();
        let small = store.put_part(&upload, 1, b"12").unwrap();
        let last = store.put_part(&upload, 2, b"3").unwrap();
        assert!(store.put_part(&upload, 3, b"4").is_err());
        assert!(store.put_part(&upload, 0, b"4").is_err());
        assert!(store.complete_upload(&upload, &[small, last.clone()]).is_err());
        let first = store.put_part(&upload, 1, b"123").unwrap();
        store.complete_upload(&upload, &[first, last]).unwrap();
        store.copy(&key("a"), &key("b"), TEXT).unwrap();
        store.put(&key("a"), b"12345", TEXT, None).unwrap();
        assert!(store.copy(&key("a"), &key("b"), TEXT).is_err());
    }

    #[test]
    fn requests_at_once_are_counted() {
        let store = MemoryStore::new().with_latency(Duration::from_millis(50));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| store.head(&key("a")).unwrap());
            }
        });
        assert!(store.max_in_flight() >= 2 && store.max_in_flight() <= 4);
        assert_eq!(store.requests(), 4);
    }
}
