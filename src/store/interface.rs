//! What every store does, and what it speaks in.

use std::fmt;
use std::io::Read;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// A key below the target's prefix, such as `objects/pack/pack-….idx`.
///
/// Never empty, no leading or trailing slash, no empty, `.` or `..` segment, no control character:
/// so no key can leave the prefix, in S3 or in a directory.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Box<str>);

impl Key {
    /// Checks `key` and wraps it.
    pub fn new(key: impl Into<String>) -> Result<Self, BadKey> {
        let key = key.into();
        let sound = !key.is_empty()
            && key.split('/').all(|part| !matches!(part, "" | "." | ".."))
            && !key.contains(|c: char| c.is_control());
        if sound { Ok(Key(key.into_boxed_str())) } else { Err(BadKey(key)) }
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// A text that can't be a [`Key`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a usable key: {0:?}")]
pub struct BadKey(pub String);

/// The headers that an object is stored with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObjectHeaders {
    /// `Content-Type`.
    pub content_type: &'static str,
    /// `Cache-Control`; `None` sends none.
    pub cache_control: Option<&'static str>,
}

impl ObjectHeaders {
    /// Content whose key names its bytes: it never changes.
    pub const fn immutable(content_type: &'static str) -> Self {
        ObjectHeaders { content_type, cache_control: Some("public, max-age=31536000, immutable") }
    }

    /// Content that changes from run to run: caches must ask again.
    pub const fn changing(content_type: &'static str) -> Self {
        ObjectHeaders { content_type, cache_control: Some("no-cache") }
    }
}

/// An entity tag as the store gave it, opaque, without its quotes.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ETag(pub String);

/// What is known of a stored object without its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Its key.
    pub key: Key,
    /// Bytes.
    pub len: u64,
    /// When it was last written, by the store's clock, if the store says.
    pub last_modified: Option<SystemTime>,
    /// Its entity tag, if the store has one.
    pub etag: Option<ETag>,
}

/// One page of a listing, sorted by key.
#[derive(Debug, Default)]
pub struct ListPage {
    /// Objects, in byte order of their keys.
    pub objects: Vec<ObjectInfo>,
    /// Hand this to the next call; `None`: this was the last page.
    pub next: Option<String>,
}

/// One page of the folders below a prefix.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct FolderPage {
    /// Their names, without what was asked for before and the slash behind them.
    pub names: Vec<String>,
    /// As in [`ListPage`].
    pub next: Option<String>,
}

/// A condition on a write. Stores that can't enforce one ignore it or answer
/// [`StoreErrorKind::Unsupported`]; it is a help, never the foundation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Only if no object has this key (`If-None-Match: *`).
    Absent,
    /// Only if the object has this entity tag (`If-Match`).
    Matches(ETag),
}

/// A multipart upload under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upload {
    /// The key that it will have.
    pub key: Key,
    /// The store's name for it.
    pub id: String,
}

/// A multipart upload that was begun and neither completed nor aborted.
#[derive(Clone, Debug)]
pub struct OpenUpload {
    /// The upload.
    pub upload: Upload,
    /// When it was begun, by the store's clock, if the store says.
    pub initiated: Option<SystemTime>,
}

/// A part that has been stored: what `complete_upload` needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// From 1 to 10,000.
    pub number: u32,
    /// As the store gave it.
    pub etag: ETag,
}

/// An object of another store, as a store on the same server can be asked to copy it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Elsewhere {
    /// Which server that is.
    pub server: String,
    /// What the server calls the object.
    pub path: String,
    /// The entity tag that it must have.
    pub etag: ETag,
}

/// What stays of an object that is deleted, in a bucket that keeps versions: all its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Until when nobody can remove them for good (Object Lock), as far as we may know.
    pub locked_until: Option<SystemTime>,
}

/// What a store can take. A test's store pretends lower limits than S3's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The smallest part but for the last (S3: 5 MiB).
    pub min_part_bytes: u64,
    /// The most parts of one upload (S3: 10,000; some stores: 1,000).
    pub max_parts: u32,
    /// The largest source of one `copy` (S3: 5 GiB); above, [`Store::copy_part`].
    pub max_copy_bytes: u64,
    /// The largest pack that one `put` stores (S3: 5 GiB, and no part is as large).
    pub max_put_bytes: u64,
}

impl Limits {
    /// Amazon S3's: <https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html>.
    pub const S3: Limits = Limits {
        min_part_bytes: 5 << 20,
        max_parts: 10_000,
        max_copy_bytes: 5 << 30,
        max_put_bytes: 5 << 30,
    };
}

/// Requests and bytes by what S3 bills them as (<https://aws.amazon.com/s3/pricing/>). Each try counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// PUT, COPY, POST and LIST: the dear ones.
    pub writes: u64,
    /// GET and HEAD.
    pub reads: u64,
    /// Deletions, and uploads given up: free.
    pub deletes: u64,
    /// Bytes of bodies sent to the store.
    pub bytes_sent: u64,
    /// Bytes of objects read from it.
    pub bytes_received: u64,
}

impl Usage {
    /// What was added since `before`.
    #[must_use]
    pub fn since(self, before: Usage) -> Usage {
        Usage {
            writes: self.writes.saturating_sub(before.writes),
            reads: self.reads.saturating_sub(before.reads),
            deletes: self.deletes.saturating_sub(before.deletes),
            bytes_sent: self.bytes_sent.saturating_sub(before.bytes_sent),
            bytes_received: self.bytes_received.saturating_sub(before.bytes_received),
        }
    }
}

/// Keys to bytes. Every call blocks until the store has answered; all of them may be called from
/// many threads at once.
///
/// A write is visible to every later read (S3's strong consistency). `put` of a key that exists
/// replaces it.
pub trait Store: Send + Sync {
    /// Where this is, for people: `s3://bucket/prefix`, `file:///dir`. No secrets.
    fn describe(&self) -> String;

    /// What it can take.
    fn limits(&self) -> Limits {
        Limits::S3
    }

    /// Is it a folder that people open with git by its path, too? Then the mirror also writes what
    /// git wants of a folder.
    fn is_read_by_path(&self) -> bool {
        false
    }

    /// The whole object, or `range` of it, with its entity tag. At most `max_len` bytes: a larger
    /// answer is an error of kind [`StoreErrorKind::Other`], not memory. A range that begins inside
    /// and ends past the end gives what there is; one that begins at or past the end is an error; an
    /// empty one gives nothing and sends nothing. A store
    /// that ignores `Range` and sends the whole object is dealt with here: the caller gets the range.
    fn get(
        &self,
        key: &Key,
        range: Option<Range<u64>>,
        max_len: u64,
    ) -> Result<(Vec<u8>, Option<ETag>), StoreError>;

    /// The object's bytes from `offset` on as a stream; `offset` 0, or inside the object. A read error inside the stream is an
    /// [`std::io::Error`] that wraps a [`StoreError`]; it is not retried by `store/retry.rs`, the caller
    /// opens again at the offset that it has reached.
    fn open(&self, key: &Key, offset: u64) -> Result<Box<dyn Read + Send>, StoreError>;

    /// Does it exist, and what is known of it?
    fn head(&self, key: &Key) -> Result<Option<ObjectInfo>, StoreError>;

    /// Stores `body` under `key`, in one request.
    fn put(
        &self,
        key: &Key,
        body: &[u8],
        headers: ObjectHeaders,
        condition: Option<&Condition>,
    ) -> Result<Option<ETag>, StoreError>;

    /// Deletes keys; one that does not exist is no error. Any number: the store sends as many
    /// requests as it needs.
    fn delete(&self, keys: &[Key]) -> Result<(), StoreError>;

    /// What would stay of this object if it were deleted. `None`: nothing.
    fn kept(&self, key: &Key) -> Result<Option<Kept>, StoreError> {
        let _ = key;
        Ok(None)
    }

    /// One page of the keys that begin with `prefix` (plain text, may end inside a segment; empty:
    /// all), in byte order. `page` is what the last page gave as `next`.
    ///
    /// This is what callers use, and no store overrides it: a key outside `prefix` is an error of
    /// kind [`StoreErrorKind::Other`], never data. A store or a cache that ignores the prefix would
    /// otherwise have a sweep take every key of the bucket for its own.
    fn list(&self, prefix: &str, page: Option<&str>) -> Result<ListPage, StoreError> {
        let listed = self.list_unchecked(prefix, page)?;
        match listed.objects.iter().find(|object| !object.key.as_str().starts_with(prefix)) {
            Some(object) => {
                let key = object.key.as_str();
                Err(outside("list", self.describe(), StoreErrorKind::Other, prefix, key))
            }
            None => Ok(listed),
        }
    }

    /// What the store answers to [`Store::list`], as it is. Only for [`Store::list`] and for stores
    /// that wrap another.
    fn list_unchecked(&self, prefix: &str, page: Option<&str>) -> Result<ListPage, StoreError>;

    /// One page of the folders directly below `folder` (empty, or text that ends with a slash): what
    /// keys have there before their next slash (`delimiter=/` of ListObjectsV2, its CommonPrefixes).
    /// Each is named once in a page. Stores that can't tell are asked for all keys.
    fn list_folders(&self, folder: &str, page: Option<&str>) -> Result<FolderPage, StoreError> {
        let ListPage { objects, next } = self.list(folder, page)?;
        let below = |info: &ObjectInfo| {
            let (name, _) = info.key.as_str().strip_prefix(folder)?.split_once('/')?;
            Some(name.to_owned())
        };
        let mut names: Vec<String> = objects.iter().filter_map(below).collect();
        names.dedup();
        Ok(FolderPage { names, next })
    }

    /// A copy made by the store itself. The source is at most [`Limits::max_copy_bytes`].
    fn copy(&self, from: &Key, to: &Key, headers: ObjectHeaders) -> Result<(), StoreError>;

    /// What other stores on the same server call this object, if it has this entity tag. `None`: there
    /// are no others.
    fn elsewhere(&self, key: &Key, etag: &ETag) -> Option<Elsewhere> {
        let _ = (key, etag);
        None
    }

    /// A copy of an object of another store, made by the server. The source is at most
    /// [`Limits::max_copy_bytes`]; one with another entity tag is an error of kind
    /// [`StoreErrorKind::ConditionFailed`], one on another server of kind
    /// [`StoreErrorKind::Unsupported`].
    fn copy_from(
        &self,
        from: &Elsewhere,
        to: &Key,
        headers: ObjectHeaders,
    ) -> Result<(), StoreError> {
        let (_, message) = (headers, format!("{} is on another server", from.path));
        let target = format!("{}/{to}", self.describe());
        Err(StoreError::new(StoreErrorKind::Unsupported, "copy to", target, message))
    }

    /// Begins a multipart upload.
    fn create_upload(&self, key: &Key, headers: ObjectHeaders) -> Result<Upload, StoreError>;

    /// Stores one part; parts may come in any order and at once.
    fn put_part(&self, upload: &Upload, number: u32, body: &[u8]) -> Result<Part, StoreError>;

    /// Stores one part from a range of an object that exists (UploadPartCopy).
    fn copy_part(
        &self,
        upload: &Upload,
        number: u32,
        from: &Key,
        range: Range<u64>,
    ) -> Result<Part, StoreError>;

    /// Makes the object appear under its key. `parts` in order of their numbers.
    fn complete_upload(&self, upload: &Upload, parts: &[Part]) -> Result<(), StoreError>;

    /// Forgets the upload and its parts. One that does not exist is no error.
    fn abort_upload(&self, upload: &Upload) -> Result<(), StoreError>;

    /// Multipart uploads under way whose keys begin with `prefix`.
    ///
    /// As [`Store::list`]: callers use this, and no store overrides it. An upload outside `prefix` is
    /// an error of kind [`StoreErrorKind::Unsupported`]: the store does not know how to list uploads
    /// by prefix.
    fn list_uploads(&self, prefix: &str) -> Result<Vec<OpenUpload>, StoreError> {
        let open = self.list_uploads_unchecked(prefix)?;
        match open.iter().find(|open| !open.upload.key.as_str().starts_with(prefix)) {
            Some(open) => {
                let (verb, kind) = ("list the uploads of", StoreErrorKind::Unsupported);
                Err(outside(verb, self.describe(), kind, prefix, open.upload.key.as_str()))
            }
            None => Ok(open),
        }
    }

    /// What the store answers to [`Store::list_uploads`], as it is.
    fn list_uploads_unchecked(&self, prefix: &str) -> Result<Vec<OpenUpload>, StoreError>;

    /// Removes what killed processes have left of writes that were not done, where that is no key and
    /// no upload that can be listed (a directory's temporary files). Answers how many.
    fn remove_leftovers(&self) -> Result<usize, StoreError> {
        Ok(0)
    }

    /// How many requests have been sent so far, each try counted.
    fn requests(&self) -> u64;

    /// May an upload be open that nobody knows, because the answer to its beginning was lost? It is found
    /// by [`Store::list_uploads`].
    fn may_have_lost_uploads(&self) -> bool {
        false
    }

    /// The same requests by what they are billed as, if they are counted so
    /// ([`super::counted::Counted`]).
    fn usage(&self) -> Usage {
        Usage::default()
    }
}

/// A listing that answers with what was not asked for.
pub(super) fn outside(
    verb: &'static str,
    target: String,
    kind: StoreErrorKind,
    prefix: &str,
    key: &str,
) -> StoreError {
    let key: String = key.chars().take(200).collect();
    let message = format!(
        "the store ignores the prefix: asked for keys that begin with {prefix:?}, it answered \
         {key:?}; check for a proxy or cache that drops the query of requests"
    );
    StoreError::new(kind, verb, target, message)
}

/// A shared or boxed store is a store.
macro_rules! delegate {
    ($($pointer:ident),+) => {$(
        impl<S: Store + ?Sized> Store for $pointer<S> {
            fn describe(&self) -> String {
                (**self).describe()
            }
            fn limits(&self) -> Limits {
                (**self).limits()
            }
            fn is_read_by_path(&self) -> bool {
                (**self).is_read_by_path()
            }
            fn get(
                &self,
                key: &Key,
                range: Option<Range<u64>>,
                max_len: u64,
            ) -> Result<(Vec<u8>, Option<ETag>), StoreError> {
                (**self).get(key, range, max_len)
            }
            fn open(&self, key: &Key, offset: u64) -> Result<Box<dyn Read + Send>, StoreError> {
                (**self).open(key, offset)
            }
            fn head(&self, key: &Key) -> Result<Option<ObjectInfo>, StoreError> {
                (**self).head(key)
            }
            fn put(
                &self,
                key: &Key,
                body: &[u8],
                headers: ObjectHeaders,
                condition: Option<&Condition>,
            ) -> Result<Option<ETag>, StoreError> {
                (**self).put(key, body, headers, condition)
            }
            fn delete(&self, keys: &[Key]) -> Result<(), StoreError> {
                (**self).delete(keys)
            }
            fn kept(&self, key: &Key) -> Result<Option<Kept>, StoreError> {
                (**self).kept(key)
            }
            fn list_unchecked(
                &self,
                prefix: &str,
                page: Option<&str>,
            ) -> Result<ListPage, StoreError> {
                (**self).list_unchecked(prefix, page)
            }
            fn copy(&self, from: &Key, to: &Key, headers: ObjectHeaders) -> Result<(), StoreError> {
                (**self).copy(from, to, headers)
            }
            fn elsewhere(&self, key: &Key, etag: &ETag) -> Option<Elsewhere> {
                (**self).elsewhere(key, etag)
            }
            fn copy_from(
                &self,
                from: &Elsewhere,
                to: &Key,
                headers: ObjectHeaders,
            ) -> Result<(), StoreError> {
                (**self).copy_from(from, to, headers)
            }
            fn create_upload(
                &self,
                key: &Key,
                headers: ObjectHeaders,
            ) -> Result<Upload, StoreError> {
                (**self).create_upload(key, headers)
            }
            fn put_part(
                &self,
                upload: &Upload,
                number: u32,
                body: &[u8],
            ) -> Result<Part, StoreError> {
                (**self).put_part(upload, number, body)
            }
            fn copy_part(
                &self,
                upload: &Upload,
                number: u32,
                from: &Key,
                range: Range<u64>,
            ) -> Result<Part, StoreError> {
                (**self).copy_part(upload, number, from, range)
            }
            fn complete_upload(&self, upload: &Upload, parts: &[Part]) -> Result<(), StoreError> {
                (**self).complete_upload(upload, parts)
            }
            fn abort_upload(&self, upload: &Upload) -> Result<(), StoreError> {
                (**self).abort_upload(upload)
            }
            fn list_uploads_unchecked(
                &self,
                prefix: &str,
            ) -> Result<Vec<OpenUpload>, StoreError> {
                (**self).list_uploads_unchecked(prefix)
            }
            fn remove_leftovers(&self) -> Result<usize, StoreError> {
                (**self).remove_leftovers()
            }
            fn requests(&self) -> u64 {
                (**self).requests()
            }
            fn may_have_lost_uploads(&self) -> bool {
                (**self).may_have_lost_uploads()
            }
            fn usage(&self) -> Usage {
                (**self).usage()
            }
        }
    )+};
}

delegate!(Arc, Box);

/// What to do about a failure. Retrying and exit codes depend on this alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreErrorKind {
    /// The object, the upload or the bucket does not exist.
    NotFound,
    /// Refused: who we are, or what we may do. Never retried.
    Denied,
    /// The credentials have expired: fresh ones may help, once.
    ExpiredCredentials,
    /// The condition of a conditional write did not hold (412, or 409 in a race).
    ConditionFailed,
    /// The store does not know this operation (501).
    Unsupported,
    /// It may succeed the next time: no connection, time-out, 5xx, 408, 429, a truncated answer.
    /// The store may have said how long to wait.
    Transient {
        /// The store's `Retry-After`.
        retry_after: Option<Duration>,
    },
    /// Anything else: it will not go better by itself.
    Other,
}

/// A failed request: what was tried, on which key, and what came of it.
#[derive(Debug, Clone, thiserror::Error)]
#[error("cannot {verb} {target}: {message}")]
pub struct StoreError {
    /// What to do about it.
    pub kind: StoreErrorKind,
    /// What was tried, for people: `put`, `list`, `complete the upload of`.
    pub verb: &'static str,
    /// Where: a URL or key, without query and secrets.
    pub target: String,
    /// The store's words, or the transport's.
    pub message: String,
    /// The HTTP status, if there was an answer.
    pub status: Option<u16>,
}

impl StoreError {
    /// A new error without an HTTP status.
    pub fn new(
        kind: StoreErrorKind,
        verb: &'static str,
        target: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        StoreError { kind, verb, target: target.into(), message: message.into(), status: None }
    }

    /// Does the object (upload, bucket) not exist?
    pub fn is_not_found(&self) -> bool {
        self.kind == StoreErrorKind::NotFound
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_cannot_leave_the_prefix() {
        for bad in ["", "/a", "a/", "a//b", "../a", "a/../b", "a/.", "a\0b", "a\nb"] {
            assert!(Key::new(bad).is_err(), "{bad:?}");
        }
        for good in ["HEAD", "objects/aa/bb", "lfs/objects/a b+=~ü"] {
            assert_eq!(Key::new(good).unwrap().as_str(), good);
        }
    }
}
