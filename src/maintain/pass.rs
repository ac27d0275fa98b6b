//! A stored pack through the ingest's engine, with nothing written.

use crate::git::object::{Kind, Oid};
use crate::ingest::budget::Budget;
use crate::ingest::context::RunContext;
use crate::ingest::run::check_pack;
use crate::ingest::sink::check::Examiner;
use crate::progress::Progress;
use crate::repository::error::MirrorError;
use crate::repository::existing::Existing;
use crate::repository::layout::Layout;
use crate::repository::packs;
use crate::repository::prefetch::Prefetch;
use crate::repository::temp::TempKeys;
use crate::run::Cancel;
use crate::store::{Key, Store};

use super::scratch::Scratch;

/// How packs are read.
#[derive(Clone, Copy)]
pub(crate) struct Pass<'e> {
    pub(crate) store: &'e dyn Store,
    pub(crate) memory_bytes: u64,
    /// Requests in flight.
    pub(crate) concurrency: usize,
    pub(crate) cancel: &'e Cancel,
    pub(crate) progress: &'e dyn Progress,
}

impl Pass<'_> {
    /// Reads the pack of this name from end to end. `look` sees every object that is whole in memory,
    /// `examiner` hears of all. The outer error: the store failed, or somebody stopped it. The inner
    /// one: what is wrong with the pack, or that it needs more memory.
    pub(crate) fn read(
        &self,
        name: &str,
        len: u64,
        look: &(dyn Fn(&Oid, Kind, &[u8]) + Sync),
        examiner: &dyn Examiner,
    ) -> Result<Result<(), String>, MirrorError> {
        let key = packs::key(name, "pack");
        let scratch = Scratch::new(self.store, self.memory_bytes / 2);
        let temp = TempKeys::new(&scratch);
        let mut budget = Budget::of(self.memory_bytes, Layout::Pack);
        // No part is on its way while the pack is read.
        budget.bases += budget.parts / 2;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let env = RunContext {
            store: &scratch,
            progress: self.progress,
            temp: &temp,
            layout: Layout::Pack,
            format: packs::format_of(name),
            existing: Existing::default(),
            cancel: self.cancel.clone(),
            // These threads only read again what has left memory.
            concurrency: self.concurrency.clamp(1, cores + 2),
            budget,
            // What is stored was let in.
            max_object_bytes: u64::MAX,
            written: Default::default(),
            observe: look,
            thin: false,
            increment: false,
        };
        let checked = std::thread::scope(|scope| {
            let stream = self.open(scope, (key.clone(), len))?;
            let failure = stream.failure();
            let checked = check_pack(stream, (key.clone(), len), &env, examiner);
            checked.map_err(|error| failure.take().map_or(error, MirrorError::Store))
        });
        // Only what is in memory.
        let _ = temp.clean();
        match verdict(checked)? {
            Ok(found) if found.as_ref().is_some_and(|found| found.name == name) => Ok(Ok(())),
            Ok(_) => Ok(Err("it belongs to another pack, or has no objects".into())),
            Err(what) => Ok(Err(what)),
        }
    }

    /// A file of known length as a stream.
    pub(crate) fn open<'scope, 'env>(
        &'env self,
        scope: &'scope std::thread::Scope<'scope, 'env>,
        file: (Key, u64),
    ) -> Result<Prefetch, MirrorError> {
        let memory = (self.memory_bytes / 8).min(16 << 20);
        Prefetch::start(scope, self.store, file, memory, self.concurrency)
            .map_err(|error| MirrorError::Internal(format!("cannot start a thread: {error}")))
    }
}

/// Tells what is wrong with the mirror from what is wrong with its store.
pub(crate) fn verdict<T>(
    outcome: Result<T, MirrorError>,
) -> Result<Result<T, String>, MirrorError> {
    use crate::store::StoreErrorKind::{NotFound, Unsupported};
    match outcome {
        Ok(value) => Ok(Ok(value)),
        // A scratch that is full says `Unsupported`.
        Err(MirrorError::Store(error)) if matches!(error.kind, NotFound | Unsupported) => {
            Ok(Err(error.to_string()))
        }
        Err(MirrorError::Pack(what) | MirrorError::Mirror(what)) => {
            let what = what.strip_prefix("the source's pack is invalid: ").unwrap_or(&what);
            Ok(Err(what.to_owned()))
        }
        Err(error) => Err(error),
    }
}
