//! A [`MemoryStore`] with a hook before every write, and with the ways in which stores treat
//! conditions; and the check that a reader of a store finds whole what is published.
#![allow(dead_code)] // Each test crate uses a part of it.

use std::io::Read;
use std::ops::Range;
use std::path::Path;

use mirror_git_to_s3::store::memory::MemoryStore;
use mirror_git_to_s3::store::{
    Condition, ETag, Elsewhere, Kept, Key, Limits, ListPage, ObjectHeaders, ObjectInfo, OpenUpload,
    Part, Store, StoreError, StoreErrorKind, Upload,
};

/// What becomes of a condition on a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conditions {
    /// As S3 does it.
    Enforced,
    /// Some stores don't look at them.
    Ignored,
    /// Some answer 501.
    Unsupported,
    /// One refuses every `If-Match` with a quoted tag.
    MatchesRefused,
}

pub type Hook = Box<dyn Fn(&Key) + Send + Sync>;

pub struct Hooked {
    pub inner: MemoryStore,
    pub conditions: Conditions,
    /// Listings answer with everything, whatever prefix they are asked for.
    pub ignores_prefix: bool,
    /// What it says of deleted objects.
    pub kept: Option<Kept>,
    /// Claims to be on this server.
    pub server: Option<String>,
    /// Called before every put.
    pub before_put: Hook,
    /// Called before every part of an upload.
    pub before_part: Hook,
}

impl Hooked {
    pub fn new(inner: &MemoryStore, conditions: Conditions) -> Self {
        let (before_put, before_part) = (Box::new(|_: &Key| ()), Box::new(|_: &Key| ()));
        let inner = inner.clone();
        Hooked {
            inner,
            conditions,
            ignores_prefix: false,
            server: None,
            kept: None,
            before_put,
            before_part,
        }
    }

    pub fn ignoring_prefix(self) -> Self {
        Hooked { ignores_prefix: true, ..self }
    }

    pub fn keeping(self, kept: Option<Kept>) -> Self {
        Hooked { kept, ..self }
    }

    pub fn on_server(self, server: String) -> Self {
        Hooked { server: Some(server), ..self }
    }

    pub fn before_put(self, hook: impl Fn(&Key) + Send + Sync + 'static) -> Self {
        Hooked { before_put: Box::new(hook), ..self }
    }

    pub fn before_part(self, hook: impl Fn(&Key) + Send + Sync + 'static) -> Self {
        Hooked { before_part: Box::new(hook), ..self }
    }
}

impl Store for Hooked {
    fn describe(&self) -> String {
        self.inner.describe()
    }
    fn limits(&self) -> Limits {
        self.inner.limits()
    }
    fn get(
        &self,
        key: &Key,
        range: Option<Range<u64>>,
        max_len: u64,
    ) -> Result<(Vec<u8>, Option<ETag>), StoreError> {
        self.inner.get(key, range, max_len)
    }
    fn open(&self, key: &Key, offset: u64) -> Result<Box<dyn Read + Send>, StoreError> {
        self.inner.open(key, offset)
    }
    fn head(&self, key: &Key) -> Result<Option<ObjectInfo>, StoreError> {
        self.inner.head(key)
    }
    fn put(
        &self,
        key: &Key,
        body: &[u8],
        headers: ObjectHeaders,
        condition: Option<&Condition>,
    ) -> Result<Option<ETag>, StoreError> {
        (self.before_put)(key);
        let refused = |kind| Err(StoreError::new(kind, "put", key.as_str(), "as decided"));
        match (self.conditions, condition) {
            (Conditions::Ignored, _) => self.inner.put(key, body, headers, None),
            (Conditions::Unsupported, Some(_)) => refused(StoreErrorKind::Unsupported),
            (Conditions::MatchesRefused, Some(Condition::Matches(_))) => {
                refused(StoreErrorKind::ConditionFailed)
            }
            _ => self.inner.put(key, body, headers, condition),
        }
    }
    fn delete(&self, keys: &[Key]) -> Result<(), StoreError> {
        self.inner.delete(keys)
    }
    fn list_unchecked(&self, prefix: &str, page: Option<&str>) -> Result<ListPage, StoreError> {
        self.inner.list_unchecked(if self.ignores_prefix { "" } else { prefix }, page)
    }
    fn copy(&self, from: &Key, to: &Key, headers: ObjectHeaders) -> Result<(), StoreError> {
        self.inner.copy(from, to, headers)
    }
    fn kept(&self, _: &Key) -> Result<Option<Kept>, StoreError> {
        Ok(self.kept)
    }
    fn elsewhere(&self, key: &Key, etag: &ETag) -> Option<Elsewhere> {
        let server = self.server.clone()?;
        Some(Elsewhere { server, path: format!("nowhere/{key}"), etag: etag.clone() })
    }
    fn create_upload(&self, key: &Key, headers: ObjectHeaders) -> Result<Upload, StoreError> {
        self.inner.create_upload(key, headers)
    }
    fn put_part(&self, upload: &Upload, number: u32, body: &[u8]) -> Result<Part, StoreError> {
        (self.before_part)(&upload.key);
        self.inner.put_part(upload, number, body)
    }
    fn copy_part(
        &self,
        upload: &Upload,
        number: u32,
        from: &Key,
        range: Range<u64>,
    ) -> Result<Part, StoreError> {
        self.inner.copy_part(upload, number, from, range)
    }
    fn complete_upload(&self, upload: &Upload, parts: &[Part]) -> Result<(), StoreError> {
        self.inner.complete_upload(upload, parts)
    }
    fn abort_upload(&self, upload: &Upload) -> Result<(), StoreError> {
        self.inner.abort_upload(upload)
    }
    fn list_uploads_unchecked(&self, prefix: &str) -> Result<Vec<OpenUpload>, StoreError> {
        self.inner.list_uploads_unchecked(if self.ignores_prefix { "" } else { prefix })
    }
    fn requests(&self) -> u64 {
        self.inner.requests()
    }
}

/// Writes what a reader can reach of `store` into `dir`, as a bare repository. `false`: nothing is
/// published.
pub fn dump(store: &MemoryStore, dir: &Path) -> bool {
    let objects = store.snapshot();
    let Some(refs) = objects.get("info/refs") else { return false };
    for (key, object) in objects.iter().filter(|(key, _)| !key.starts_with("mirror_tmp/")) {
        let path = dir.join(key);
        std::fs::create_dir_all(path.parent().expect("below dir")).expect("a folder");
        std::fs::write(path, &object.bytes).expect("written");
    }
    let refs = String::from_utf8(refs.bytes.to_vec()).expect("refs are UTF-8 here");
    let packed: String = refs
        .lines()
        .filter(|line| !line.ends_with("^{}"))
        .map(|line| line.replace('\t', " ") + "\n")
        .collect();
    std::fs::create_dir_all(dir.join("refs")).expect("a folder");
    std::fs::create_dir_all(dir.join("objects")).expect("a folder");
    std::fs::write(dir.join("packed-refs"), packed).expect("written");
    // As a reader does it: the length of a name tells the format.
    if refs.split('\t').next().is_some_and(|oid| oid.len() == 64) {
        let config = "[core]\nrepositoryformatversion = 1\n[extensions]\nobjectFormat = sha256\n";
        std::fs::write(dir.join("config"), config).expect("written");
    }
    true
}
