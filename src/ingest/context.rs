//! What a run is given, and what it counts.

use std::sync::atomic::AtomicU64;

use super::budget::Budget;
use super::error::missing;
use crate::git::object::{Kind, ObjectFormat, Oid};
use crate::progress::Progress;
use crate::repository::error::MirrorError;
use crate::repository::existing::Existing;
use crate::repository::layout::Layout;
use crate::repository::objects;
use crate::repository::temp::TempKeys;
use crate::run::Cancel;
use crate::store::Store;

/// What one run works with.
pub(crate) struct RunContext<'e> {
    pub(crate) store: &'e dyn Store,
    pub(crate) progress: &'e dyn Progress,
    pub(crate) temp: &'e TempKeys<'e>,
    pub(crate) layout: Layout,
    /// The pack's, and the mirror's.
    pub(crate) format: ObjectFormat,
    pub(crate) existing: Existing,
    pub(crate) cancel: Cancel,
    pub(crate) concurrency: usize,
    pub(crate) budget: Budget,
    /// Larger objects are refused.
    pub(crate) max_object_bytes: u64,
    pub(crate) written: Written,
    /// Sees every object that is whole in memory once. Called by resolve tasks: it must not wait.
    pub(crate) observe: &'e (dyn Fn(&Oid, Kind, &[u8]) + Sync),
    /// The pack may be thin: bases may be in the mirror alone. Only with the loose layout.
    pub(crate) thin: bool,
    /// The source may leave out what published refs reach, also if it was asked for.
    pub(crate) increment: bool,
}

impl RunContext<'_> {
    /// Looks for what was asked for and has not come. A ref at an older commit of a published one is
    /// in the mirror, and an answer to an increment does not bring it again.
    pub(super) fn must_have(&self, absent: &[Oid]) -> Result<(), MirrorError> {
        match absent.iter().min() {
            None => return Ok(()),
            Some(oid) if !self.increment => return Err(missing(oid)),
            Some(_) => {}
        }
        objects::reading(self.store, self.layout, None, |read| {
            for oid in absent {
                read(oid)?.ok_or_else(|| missing(oid))?;
            }
            Ok(())
        })
    }
}

/// What a run has stored so far.
#[derive(Default)]
pub(crate) struct Written {
    pub(crate) objects: AtomicU64,
    pub(crate) bytes: AtomicU64,
}
