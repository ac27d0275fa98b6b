//! A run says that it has begun to write, before it does, and takes it back at the end.
//!
//! What a killed run has left (temporary keys, uploads) is found by listing, which S3 bills as it
//! bills writes. So a run lists only if another has begun and not ended: it stands in
//! `mirror_state/state.json`, which every run reads anyway. [`Writing`] is the store that a run writes
//! through. Its first write puts the run's name there; [`Writing::end`] and [`Writing::give_up`] take
//! it back, but only if nothing that this run has made under `mirror_tmp/`, and no upload, is left.
//! So whatever ends a run, its name stays as long as anything else does. A first run that gives up and has
//! stored nothing takes the state back as well: nobody should find half a mirror there.
//!
//! Names of several runs stand beside each other. Where a store ignores conditions, two runs that write
//! the state within the same milliseconds can lose one of the names; what that run leaves if it is
//! killed is found by the next sweep for another reason, and by every `gc`.

use std::collections::HashSet;
use std::io::Read;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use serde_json::{Map, Value};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::history::Name;
use super::state::{self, Begun, File, Recorded, WRITING};
use super::temp::{Running, TEMP_PREFIX, is_over};
use crate::store::{
    Condition, ETag, Elsewhere, Kept, Key, Limits, ListPage, ObjectHeaders, ObjectInfo, OpenUpload,
    Part, Store, StoreError, Upload, Usage,
};

/// More than so many names are no list of ours: the oldest leave it.
const MAX_NAMES: usize = 100;

/// The store of a run that may write.
pub(crate) struct Writing<'s> {
    store: &'s dyn Store,
    run: Running,
    state: Mutex<State>,
    made: Mutex<Made>,
}

/// Guarded by [`Writing::state`].
struct State {
    file: File,
    is_said: bool,
    /// Runs that are over, and of which nothing is left.
    over: Vec<String>,
    /// Past publications that are there.
    snapshots: Vec<Name>,
    /// There was no state before this run's.
    is_first: bool,
}

/// What would have to be swept. Guarded by [`Writing::made`].
#[derive(Default)]
struct Made {
    keys: HashSet<Key>,
    uploads: HashSet<String>,
    /// The beginning of an upload has failed: it may be there all the same.
    is_uncertain: bool,
    /// A key of the mirror itself was written, or may have been.
    has_stored: bool,
}

impl<'s> Writing<'s> {
    /// Nothing is said before something is written.
    pub(crate) fn new(
        store: &'s dyn Store,
        recorded: Option<&Recorded>,
        over: Vec<String>,
    ) -> Self {
        let file = recorded.map_or_else(File::absent, Recorded::file);
        let (is_said, is_first) = (false, recorded.is_none());
        let state = State { file, is_said, over, snapshots: Vec::new(), is_first };
        let state = Mutex::new(state);
        Writing { store, run: Running::begin(), state, made: Mutex::default() }
    }

    /// These past publications are there: the state that is written next says so.
    pub(crate) fn noted(&self, snapshots: impl IntoIterator<Item = Name>) {
        self.state().snapshots.extend(snapshots);
    }

    /// Ends a run that has published: writes `fields` into the state, without this run's name.
    pub(crate) fn end(&self, fields: &Map<String, Value>) -> Result<(), StoreError> {
        let mut state = self.state();
        let is_left = state.is_said && self.is_anything_left();
        self.write(&mut state, fields, is_left)?;
        state.file.settle(self.store)
    }

    /// The state with `fields`, of a run that continues writing.
    pub(crate) fn publish(&self, fields: &Map<String, Value>) -> Result<(), StoreError> {
        let mut state = self.state();
        let is_said = state.is_said;
        self.write(&mut state, fields, is_said)
    }

    fn write(
        &self,
        State { file, over, snapshots, .. }: &mut State,
        fields: &Map<String, Value>,
        is_writing: bool,
    ) -> Result<(), StoreError> {
        file.update(self.store, |state| {
            state.extend(fields.clone());
            state::note_snapshots(state, snapshots);
            self.rename(state, over, is_writing);
        })
    }

    /// Takes the name back, if it was said and nothing is left.
    pub(crate) fn give_up(&self) -> Result<(), StoreError> {
        let State { file, over, is_said, is_first, .. } = &mut *self.state();
        if !*is_said || self.is_anything_left() {
            return Ok(());
        }
        // It may have failed after it published.
        file.settle(self.store)?;
        *is_said = false;
        file.update(self.store, |state| self.rename(state, over, false))?;
        if *is_first && !self.made().has_stored {
            // Of a run that puts its name there just now no more is lost than where conditions are ignored.
            file.delete_if_empty(self.store).unwrap_or_else(|error| log::debug!("{error}"));
        }
        Ok(())
    }

    fn is_anything_left(&self) -> bool {
        let made = self.made();
        let is_uncertain = made.is_uncertain || self.store.may_have_lost_uploads();
        is_uncertain || !made.keys.is_empty() || !made.uploads.is_empty()
    }

    /// Leaves out the names of runs that are over; `is_writing`: this one's is there.
    fn rename(&self, state: &mut Map<String, Value>, over: &[String], is_writing: bool) {
        let names = state.remove(WRITING).and_then(|names| serde_json::from_value(names).ok());
        let mut names: Vec<Begun> = names.unwrap_or_default();
        names.retain(|name| name.run != self.run.id && !over.contains(&name.run));
        if is_writing {
            let begun = OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default();
            names.push(Begun { run: self.run.id.clone(), begun });
        }
        names.drain(..names.len().saturating_sub(MAX_NAMES));
        if let Some(value) = serde_json::to_value(&names).ok().filter(|_| !names.is_empty()) {
            state.insert(WRITING.into(), value);
        }
    }

    /// Says that this run writes, once. Others who are about to write wait for that.
    fn say(&self) -> Result<(), StoreError> {
        let State { file, over, is_said, .. } = &mut *self.state();
        if !*is_said {
            file.update(self.store, |state| self.rename(state, over, true))?;
            *is_said = true;
        }
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn made(&self) -> MutexGuard<'_, Made> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn will_make(&self, key: &Key) {
        let mut made = self.made();
        if key.as_str().starts_with(TEMP_PREFIX) {
            made.keys.insert(key.clone());
        } else {
            made.has_stored = true;
        }
    }
}

/// Of the runs that have begun and not ended: which are over?
pub(crate) fn over(recorded: &Recorded) -> Vec<String> {
    let now = SystemTime::now();
    let begun = |at: &str| OffsetDateTime::parse(at, &Rfc3339).ok().map(SystemTime::from);
    let names = recorded.writing().iter();
    let over = names.filter(|name| is_over(&name.run, begun(&name.begun), now));
    over.map(|name| name.run.clone()).collect()
}

impl Store for Writing<'_> {
    fn describe(&self) -> String {
        self.store.describe()
    }

    fn limits(&self) -> Limits {
        self.store.limits()
    }

    fn is_read_by_path(&self) -> bool {
        self.store.is_read_by_path()
    }

    fn get(
        &self,
        key: &Key,
        range: Option<Range<u64>>,
        max_len: u64,
    ) -> Result<(Vec<u8>, Option<ETag>), StoreError> {
        self.store.get(key, range, max_len)
    }

    fn open(&self, key: &Key, offset: u64) -> Result<Box<dyn Read + Send>, StoreError> {
        self.store.open(key, offset)
    }

    fn head(&self, key: &Key) -> Result<Option<ObjectInfo>, StoreError> {
        self.store.head(key)
    }

    fn put(
        &self,
        key: &Key,
        body: &[u8],
        headers: ObjectHeaders,
        condition: Option<&Condition>,
    ) -> Result<Option<ETag>, StoreError> {
        self.say()?;
        self.will_make(key);
        self.store.put(key, body, headers, condition)
    }

    fn delete(&self, keys: &[Key]) -> Result<(), StoreError> {
        self.say()?;
        self.store.delete(keys)?;
        let mut made = self.made();
        for key in keys {
            made.keys.remove(key);
        }
        Ok(())
    }

    fn list_unchecked(&self, prefix: &str, page: Option<&str>) -> Result<ListPage, StoreError> {
        self.store.list_unchecked(prefix, page)
    }

    fn copy(&self, from: &Key, to: &Key, headers: ObjectHeaders) -> Result<(), StoreError> {
        self.say()?;
        self.will_make(to);
        self.store.copy(from, to, headers)
    }

    fn kept(&self, key: &Key) -> Result<Option<Kept>, StoreError> {
        self.store.kept(key)
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
        self.say()?;
        self.will_make(to);
        self.store.copy_from(from, to, headers)
    }

    fn create_upload(&self, key: &Key, headers: ObjectHeaders) -> Result<Upload, StoreError> {
        self.say()?;
        let begun = self.store.create_upload(key, headers);
        let mut made = self.made();
        match &begun {
            Ok(upload) => drop(made.uploads.insert(upload.id.clone())),
            Err(_) => made.is_uncertain = true,
        }
        begun
    }

    fn put_part(&self, upload: &Upload, number: u32, body: &[u8]) -> Result<Part, StoreError> {
        self.store.put_part(upload, number, body)
    }

    fn copy_part(
        &self,
        upload: &Upload,
        number: u32,
        from: &Key,
        range: Range<u64>,
    ) -> Result<Part, StoreError> {
        self.store.copy_part(upload, number, from, range)
    }

    fn complete_upload(&self, upload: &Upload, parts: &[Part]) -> Result<(), StoreError> {
        self.will_make(&upload.key);
        self.store.complete_upload(upload, parts)?;
        self.made().uploads.remove(&upload.id);
        Ok(())
    }

    fn abort_upload(&self, upload: &Upload) -> Result<(), StoreError> {
        self.store.abort_upload(upload)?;
        self.made().uploads.remove(&upload.id);
        Ok(())
    }

    fn list_uploads_unchecked(&self, prefix: &str) -> Result<Vec<OpenUpload>, StoreError> {
        self.store.list_uploads_unchecked(prefix)
    }

    fn remove_leftovers(&self) -> Result<usize, StoreError> {
        self.store.remove_leftovers()
    }

    fn requests(&self) -> u64 {
        self.store.requests()
    }

    fn usage(&self) -> Usage {
        self.store.usage()
    }
}
