//! Work for the request threads, as it waits in their queues.

use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex};

use super::bytes::Slice;
use super::units::Unit;
use crate::git::object::Oid;
use crate::pack::object::{Index, Object};
use crate::repository::parts::Ledger;
use crate::store::Upload;

/// Work for the request threads.
pub(super) enum Job {
    /// Store a loose object.
    Put { oid: Oid, body: Slice, unit: Arc<Uploads> },
    /// Store a part of a large object, or of a pack.
    Part { object: Arc<LargeObject>, number: u32, body: Vec<u8>, room: u64 },
    /// All parts were in when the last one was cut: finish it.
    Finish { object: Arc<LargeObject>, room: u64 },
    /// Look for a base that a thin pack does not contain.
    Base { oid: Oid },
    /// Resolve a unit that reads from the store.
    Read(Unit<Slice>),
}

/// A unit's uploads that are on their way.
pub(super) struct Uploads {
    pub(super) unit: u32,
    pub(super) left: AtomicUsize,
}

/// A large object, or a pack, whose parts are on their way.
pub(super) struct LargeObject {
    pub(super) ledger: Ledger,
    /// Its room is the parts', not the intake's.
    pub(super) is_pack: bool,
    /// Set before the ledger is closed.
    pub(super) identity: Mutex<Option<(Index, Object)>>,
    pub(super) stored_len: AtomicU64,
}

impl LargeObject {
    pub(super) fn new(upload: Upload, is_pack: bool) -> Self {
        LargeObject {
            ledger: Ledger::new(upload),
            is_pack,
            identity: Mutex::new(None),
            stored_len: AtomicU64::new(0),
        }
    }
}

/// The offset of an object that is not in the pack.
pub(super) const NOWHERE: u64 = u64::MAX;
