//! What resolve tasks do: hash, apply deltas, deflate, and wake who waits. They never wait.

use std::cell::RefCell;
use std::sync::Arc;

use rayon::Scope;

use super::requests::Job;
use super::table::{Delta, DeltaBytes};
use super::{Engine, OVERHEAD_BYTES};
use crate::git::object::{Kind, hash_object};
use crate::ingest::bases::Content;
use crate::ingest::gate::Permit;
use crate::ingest::large::LargeDelta;
use crate::pack::deflate::Deflater;
use crate::pack::delta;
use crate::pack::loose::encode_loose;
use crate::pack::resolver::{Index, Object};
use crate::repository::error::MirrorError;
use crate::repository::layout::Layout;

/// A delta that runs: what it needs, and its room.
pub(crate) struct DeltaTask {
    pub(super) index: Index,
    pub(super) base: Index,
    pub(super) base_object: Object,
    pub(super) delta: Delta,
    /// For the result, its deflated form, and what is read back.
    pub(super) permit: Permit,
}

/// How a ready delta starts.
pub(super) enum Start {
    Run(DeltaTask, Content),
    Fetch(DeltaTask),
    Large(LargeDelta),
    /// Not now: its base has left memory, and the pack can't be read yet.
    Deferred,
}

impl Engine<'_> {
    /// An object's content is known: name it, wake its deltas, store it. `body` is its loose form
    /// if the pack's deflate blocks could be kept.
    pub(crate) fn accept<'s>(
        &'s self,
        scope: &Scope<'s>,
        index: Index,
        kind: Kind,
        content: Vec<u8>,
        body: Option<Vec<u8>>,
        mut permit: Permit,
    ) -> Result<(), MirrorError> {
        if self.is_over() {
            return Ok(());
        }
        let oid = hash_object(kind, &content);
        let object = Object { oid, kind, len: content.len() as u64 };
        (self.env.look)(&oid, kind, &content);
        let content: Content = Arc::new(content);
        if self.env.layout == Layout::Pack {
            // Remembered before anybody can be told that it is there.
            self.bases.remember(index, content);
            self.resolved(index, object);
            self.env.progress.object_done();
            self.end_task(scope, permit);
            return Ok(());
        }
        // Pinned before anybody can be told that it is there.
        self.bases.pin(index, Arc::clone(&content));
        let stored_already = self.env.existing.contains(&oid);
        let first = self.resolved(index, object);
        if !first || stored_already {
            match first {
                true => self.bases.unpin(index),
                false => self.bases.forget(index),
            }
            drop(content);
            self.env.progress.object_done();
            self.end_task(scope, permit);
            return Ok(());
        }
        self.pump(scope);
        let body = body.unwrap_or_else(|| deflate_loose(kind, &content));
        permit.shrink((content.capacity() + body.capacity()) as u64 + OVERHEAD_BYTES);
        self.send(&self.requests, Job::Put { index, oid, body, permit });
        Ok(())
    }

    /// Enters an object into the table and makes its waiters ready. True if it is the first with
    /// its oid.
    pub(super) fn resolved(&self, index: Index, object: Object) -> bool {
        let mut table = self.table();
        let (first, waiters) = table.resolver.resolved(index, object);
        // A duplicate's content is the first one's, which is pinned or stored.
        let base = table.resolver.find(&object.oid).unwrap_or(index);
        table.ready.extend(waiters.into_iter().map(|delta| (delta, base)));
        first
    }

    /// Gives back the bytes, starts what fits now, and only then stops counting as running.
    pub(crate) fn end_task<'s>(&'s self, scope: &Scope<'s>, mut permit: Permit) {
        permit.shrink(0);
        self.pump(scope);
    }

    /// Starts every ready delta that there is room for.
    pub(super) fn pump<'s>(&'s self, scope: &Scope<'s>) {
        while let Some(start) = self.next_ready() {
            match start {
                Start::Run(task, base) => scope.spawn(move |scope| {
                    self.guard_task(|| self.run_delta(scope, task, base));
                }),
                Start::Fetch(task) => self.send(&self.urgent, Job::Fetch { task }),
                Start::Large(delta) => self.send(&self.large, delta),
                Start::Deferred => {}
            }
        }
    }

    fn next_ready(&self) -> Option<Start> {
        let mut table = self.table();
        let &(index, base) = table.ready.last()?;
        let base_object = table.resolver.object(base)?;
        let delta = table.parked.get(&index)?;
        let sizes = [base_object.len, delta.header.result_len, delta.bytes.len()];
        let large = sizes.iter().any(|size| *size > self.env.budget.large);
        let in_memory = delta.bytes.is_in_memory();
        let content = self.bases.get(base).filter(|_| in_memory && !large);
        let first_pass = self.env.layout == Layout::Pack && self.read_back.get().is_none();
        if first_pass && content.is_none() {
            return table.defer();
        }
        if large {
            let permit = self.gate.token()?;
            let delta = table.take_ready()?;
            return Some(Start::Large(LargeDelta { index, base, base_object, delta, permit }));
        }
        let read_back = if in_memory { 0 } else { delta.bytes.len() };
        // The result and its deflated form; the base, and once more while it is inflated.
        let room = 2 * (delta.header.result_len + base_object.len) + read_back + OVERHEAD_BYTES;
        let permit = self.gate.try_results(room)?;
        let delta = table.take_ready()?;
        let task = DeltaTask { index, base, base_object, delta, permit };
        Some(match content {
            Some(content) => Start::Run(task, content),
            None => Start::Fetch(task),
        })
    }

    pub(super) fn run_delta<'s>(
        &'s self,
        scope: &Scope<'s>,
        task: DeltaTask,
        base: Content,
    ) -> Result<(), MirrorError> {
        if self.is_over() {
            return Ok(());
        }
        let DeltaTask { index, base_object, delta, permit, .. } = task;
        let DeltaBytes::Memory(held) = delta.bytes else {
            return Err(MirrorError::Internal("a delta runs that is not in memory".into()));
        };
        let (bytes, entry_permit) = *held;
        let mut content = Vec::new();
        delta::apply(&base, &bytes, &mut content).map_err(|error| {
            self.broken(index, format!("delta against {}: {error}", base_object.oid))
        })?;
        drop((bytes, entry_permit, base));
        self.accept(scope, index, base_object.kind, content, None, permit)
    }
}

/// Deflates a loose object; each thread keeps its deflate state (300 KB, slow to set up).
pub(super) fn deflate_loose(kind: Kind, content: &[u8]) -> Vec<u8> {
    thread_local! {
        static DEFLATER: RefCell<Deflater> = RefCell::new(Deflater::new(LEVEL));
    }
    DEFLATER.with_borrow_mut(|deflater| encode_loose(kind, content, deflater))
}

/// git's own default for loose objects (`core.looseCompression`): speed.
pub(crate) const LEVEL: i32 = 1;
