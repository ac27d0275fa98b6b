//! What request threads do: store, and bring back what a delta needs.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rayon::Scope;

use super::Engine;
use super::table::DeltaBytes;
use super::tasks::DeltaTask;
use crate::git::object::Oid;
use crate::ingest::bases::Content;
use crate::ingest::gate::Permit;
use crate::ingest::sink::pack;
use crate::pack::resolver::{Index, Object};
use crate::repository::error::MirrorError;
use crate::repository::layout::Layout;
use crate::repository::loose;
use crate::repository::parts::{Ledger, copy_any_size};

/// Work for the request threads. Each holds its permit until it has ended.
pub(crate) enum Job {
    /// Store a loose object.
    Put { index: Index, oid: Oid, body: Vec<u8>, permit: Permit },
    /// Store a part of a large one.
    Part { object: Arc<LargeObject>, number: u32, body: Vec<u8>, permit: Permit },
    /// All parts were in when the last one was cut: finish it.
    Finish { object: Arc<LargeObject>, permit: Permit },
    /// Look for a base that a thin pack lacks.
    Base { oid: Oid, permit: Permit },
    /// Bring a delta's base, and the delta itself, back into memory; then run it.
    Fetch { task: DeltaTask },
}

/// A large object whose parts are on their way.
pub(crate) struct LargeObject {
    pub(crate) ledger: Ledger,
    /// Set before the ledger is closed.
    pub(super) identity: Mutex<Option<(Index, Object)>>,
    pub(super) stored_len: AtomicU64,
}

impl LargeObject {
    /// One whose name is not known, or that never gets one of its own.
    pub(crate) fn unnamed(ledger: Ledger) -> Self {
        LargeObject { ledger, identity: Mutex::new(None), stored_len: AtomicU64::new(0) }
    }
}

impl Engine<'_> {
    pub(super) fn serve<'s>(&'s self, scope: &Scope<'s>, job: Job) -> Result<(), MirrorError> {
        match job {
            Job::Put { index, oid, body, permit } => {
                self.env.store.put(&loose::key(&oid), &body, loose::HEADERS, None)?;
                self.bases.unpin(index);
                self.count_stored(body.len() as u64);
                self.env.progress.stored(body.len() as u64);
                drop(body);
                self.end_task(scope, permit);
            }
            Job::Part { object, number, body, permit } => {
                let part = self.env.store.put_part(&object.ledger.upload, number, &body)?;
                self.env.progress.stored(body.len() as u64);
                drop(body);
                if object.ledger.stored(part) {
                    self.finish_large(scope, &object)?;
                }
                self.end_task(scope, permit);
            }
            Job::Finish { object, permit } => {
                self.finish_large(scope, &object)?;
                self.end_task(scope, permit);
            }
            Job::Base { oid, permit } => {
                match loose::look(self.env.store, &oid)? {
                    Some(object) => {
                        let index = self.add_base()?;
                        self.resolved(index, object);
                    }
                    None => {
                        let mut others =
                            self.not_loose.lock().unwrap_or_else(PoisonError::into_inner);
                        others.push(oid);
                    }
                }
                self.end_task(scope, permit);
            }
            Job::Fetch { task } => self.fetch(scope, task)?,
        }
        Ok(())
    }

    pub(super) fn count_stored(&self, bytes: u64) {
        self.env.written.objects.fetch_add(1, Ordering::Relaxed);
        self.env.written.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.env.progress.object_done();
    }

    /// All parts of a large object are in: it gets its name.
    fn finish_large<'s>(
        &'s self,
        scope: &Scope<'s>,
        object: &LargeObject,
    ) -> Result<(), MirrorError> {
        let identity = *object.identity.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((index, identity)) = identity else {
            return Err(MirrorError::Internal("a large object without a name".into()));
        };
        let len = object.stored_len.load(Ordering::Relaxed);
        self.store_large(scope, &object.ledger.upload, object.ledger.parts(), len, index, identity)
    }

    /// Gives an object that was uploaded in parts its final key, and enters it into the table:
    /// only then, since its deltas read it back from there.
    pub(crate) fn store_large<'s>(
        &'s self,
        scope: &Scope<'s>,
        upload: &crate::store::Upload,
        parts: Vec<crate::store::Part>,
        stored_len: u64,
        index: Index,
        object: Object,
    ) -> Result<(), MirrorError> {
        let (store, temp) = (self.env.store, self.env.temp);
        let known = self.table().resolver.find(&object.oid).is_some();
        if known || self.env.existing.contains(&object.oid) {
            store.abort_upload(upload)?;
            temp.upload_ended(upload);
            temp.forget(&upload.key);
            self.env.progress.object_done();
        } else {
            store.complete_upload(upload, &parts)?;
            temp.upload_ended(upload);
            let key = loose::key(&object.oid);
            copy_any_size(temp, &upload.key, &key, stored_len, loose::HEADERS)?;
            temp.delete(&upload.key)?;
            self.count_stored(stored_len);
        }
        self.resolved(index, object);
        self.pump(scope);
        Ok(())
    }

    fn fetch<'s>(&'s self, scope: &Scope<'s>, mut task: DeltaTask) -> Result<(), MirrorError> {
        let bytes = match &task.delta.bytes {
            DeltaBytes::Memory(..) => None,
            DeltaBytes::Stored(place) => {
                let (key, range) = &**place;
                let len = range.end - range.start;
                Some(self.env.store.get(key, Some(range.clone()), len)?.0)
            }
            DeltaBytes::InPack { .. } => {
                let Some(bytes) = self.entry_from_pack(task.index)? else { return Ok(()) };
                Some(bytes)
            }
        };
        if let Some(bytes) = bytes {
            // Its bytes are counted by the task's own permit.
            let token = self.gate.token().ok_or_else(|| self.closed())?;
            task.delta.bytes = DeltaBytes::Memory(Box::new((bytes, token)));
        }
        // `None`: the thread that read it has failed, and has said why.
        let Some(base) = self.base_content(task.base, &task.base_object)? else { return Ok(()) };
        scope.spawn(move |scope| self.guard_task(|| self.run_delta(scope, task, base)));
        Ok(())
    }

    /// A base's content: from memory, or read back. `None`: another thread has failed to.
    pub(crate) fn base_content(
        &self,
        base: Index,
        object: &Object,
    ) -> Result<Option<Content>, MirrorError> {
        match self.env.layout {
            Layout::Loose => {
                self.bases.get_or_read(base, || loose::read_back(self.env.store, object))
            }
            Layout::Pack => {
                if let Some(content) = self.bases.get(base) {
                    return Ok(Some(content));
                }
                pack::rebuild(self, base)
            }
        }
    }
}
