//! A view of a store in which damaged keys are missing, until they are written again.
//!
//! Whoever mirrors into it stores them anew, as it stores whatever is missing, and overwrites what is
//! there. So nothing damaged is deleted before its replacement is stored.

use std::collections::BTreeSet;
use std::io::Read;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::store::{
    Condition, ETag, Key, Limits, ListPage, ObjectHeaders, ObjectInfo, OpenUpload, Part, Store,
    StoreError, StoreErrorKind, Upload,
};

/// See the module's page.
pub struct Distrust<'e> {
    inner: &'e dyn Store,
    hidden: Mutex<BTreeSet<String>>,
}

impl<'e> Distrust<'e> {
    /// Hides these keys.
    pub fn new(inner: &'e dyn Store, hidden: BTreeSet<String>) -> Self {
        Distrust { inner, hidden: Mutex::new(hidden) }
    }

    /// What has not been written again.
    pub fn still_hidden(&self) -> BTreeSet<String> {
        self.hidden().clone()
    }

    fn hidden(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.hidden.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_hidden(&self, key: &Key) -> bool {
        self.hidden().contains(key.as_str())
    }

    fn look<'k>(&self, verb: &'static str, key: &'k Key) -> Result<&'k Key, StoreError> {
        match self.is_hidden(key) {
            false => Ok(key),
            true => {
                let target = format!("{}/{key}", self.inner.describe());
                Err(StoreError::new(StoreErrorKind::NotFound, verb, target, "it is damaged"))
            }
        }
    }

    fn written<T>(&self, key: &Key, outcome: Result<T, StoreError>) -> Result<T, StoreError> {
        if outcome.is_ok() {
            self.hidden().remove(key.as_str());
        }
        outcome
    }
}

impl Store for Distrust<'_> {
    fn describe(&self) -> String {
        self.inner.describe()
    }

    fn limits(&self) -> Limits {
        self.inner.limits()
    }

    fn is_read_by_path(&self) -> bool {
        self.inner.is_read_by_path()
    }

    fn get(
        &self,
        key: &Key,
        range: Option<Range<u64>>,
        max_len: u64,
    ) -> Result<(Vec<u8>, Option<ETag>), StoreError> {
        self.inner.get(self.look("get", key)?, range, max_len)
    }

    fn open(&self, key: &Key, offset: u64) -> Result<Box<dyn Read + Send>, StoreError> {
        self.inner.open(self.look("get", key)?, offset)
    }

    fn head(&self, key: &Key) -> Result<Option<ObjectInfo>, StoreError> {
        if self.is_hidden(key) { Ok(None) } else { self.inner.head(key) }
    }

    fn put(
        &self,
        key: &Key,
        body: &[u8],
        headers: ObjectHeaders,
        condition: Option<&Condition>,
    ) -> Result<Option<ETag>, StoreError> {
        // What is there is to be overwritten.
        let overwrites = self.is_hidden(key) && condition == Some(&Condition::Absent);
        let condition = condition.filter(|_| !overwrites);
        self.written(key, self.inner.put(key, body, headers, condition))
    }

    fn delete(&self, keys: &[Key]) -> Result<(), StoreError> {
        self.inner.delete(keys)
    }

    fn list_unchecked(&self, prefix: &str, page: Option<&str>) -> Result<ListPage, StoreError> {
        let mut listed = self.inner.list_unchecked(prefix, page)?;
        let hidden = self.hidden();
        listed.objects.retain(|info| !hidden.contains(info.key.as_str()));
        Ok(listed)
    }

    fn copy(&self, from: &Key, to: &Key, headers: ObjectHeaders) -> Result<(), StoreError> {
        self.written(to, self.inner.copy(self.look("copy", from)?, to, headers))
    }

    fn create_upload(&self, key: &Key, headers: ObjectHeaders) -> Result<Upload, StoreError> {
        self.inner.create_upload(key, headers)
    }

    fn put_part(&self, upload: &Upload, number: u32, body: &[u8]) -> Result<Part, StoreError> {
        self.inner.put_part(upload, number, body)
    }

    fn copy_part(
        &self,
        upload: &Upload,
        number: u32,
        from: &Key,
        range: Range<u64>,
    ) -> Result<Part, StoreError> {
        self.inner.copy_part(upload, number, self.look("copy", from)?, range)
    }

    fn complete_upload(&self, upload: &Upload, parts: &[Part]) -> Result<(), StoreError> {
        self.written(&upload.key, self.inner.complete_upload(upload, parts))
    }

    fn abort_upload(&self, upload: &Upload) -> Result<(), StoreError> {
        self.inner.abort_upload(upload)
    }

    fn list_uploads_unchecked(&self, prefix: &str) -> Result<Vec<OpenUpload>, StoreError> {
        self.inner.list_uploads_unchecked(prefix)
    }

    fn remove_leftovers(&self) -> Result<usize, StoreError> {
        self.inner.remove_leftovers()
    }

    fn requests(&self) -> u64 {
        self.inner.requests()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::MemoryStore;

    #[test]
    fn hidden_keys_are_missing_until_they_are_written_again() {
        let inner = MemoryStore::new();
        let headers = ObjectHeaders::changing("text/plain");
        let key = |name: &str| Key::new(name).unwrap();
        for name in ["a", "b", "c"] {
            inner.put(&key(name), b"damaged", headers, None).unwrap();
        }
        let view = Distrust::new(&inner, ["a", "b"].map(str::to_owned).into());
        assert!(view.get(&key("a"), None, 9).unwrap_err().is_not_found());
        assert!(view.open(&key("a"), 0).is_err() && view.head(&key("a")).unwrap().is_none());
        let names = |view: &Distrust<'_>| -> Vec<String> {
            view.list("", None).unwrap().objects.iter().map(|info| info.key.to_string()).collect()
        };
        assert_eq!(names(&view), ["c"]);
        view.put(&key("a"), b"right", headers, Some(&Condition::Absent)).unwrap();
        assert_eq!(view.get(&key("a"), None, 9).unwrap().0, b"right");
        view.put(&key("a"), b"again", headers, Some(&Condition::Absent)).unwrap_err();
        view.copy(&key("c"), &key("b"), headers).unwrap();
        assert_eq!(names(&view), ["a", "b", "c"]);
        assert!(view.still_hidden().is_empty());
    }
}
