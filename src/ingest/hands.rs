//! Who carries a command out: the thread that learnt of it, or another one.
//!
//! A thread that has ended a unit mostly finds that the next one may start. It takes that over itself:
//! handing it to another thread would cost a wake-up and a cold cache for each unit.

use std::cell::Cell;

use rayon::Scope;

use super::bytes::Slice;
use super::units::Unit;

/// What a thread may take over when it is done with what it has in hand.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Takes {
    Nothing,
    /// Units that need no read: `resolve.N`.
    Resolves,
    /// Units that read first: `request.N`.
    Reads,
}

/// A thread's hands: the pool that takes what it does not, and the unit that it will take up next.
pub(super) struct Hands<'h, 's> {
    pub(super) pool: &'h Scope<'s>,
    takes: Takes,
    next: Cell<Option<Unit<Slice>>>,
}

impl<'h, 's> Hands<'h, 's> {
    /// Of a thread with other work than units.
    pub(super) fn full(pool: &'h Scope<'s>) -> Self {
        Hands { pool, takes: Takes::Nothing, next: Cell::new(None) }
    }

    /// Of a task of the pool.
    pub(super) fn resolver(pool: &'h Scope<'s>) -> Self {
        Hands { takes: Takes::Resolves, ..Hands::full(pool) }
    }

    /// Of a thread that may wait for the store.
    pub(super) fn requester(pool: &'h Scope<'s>) -> Self {
        Hands { takes: Takes::Reads, ..Hands::full(pool) }
    }

    /// For somebody who has more to do before the next unit, so that it must not wait for that.
    pub(super) fn busy(&self) -> Self {
        Hands::full(self.pool)
    }

    /// Keeps the unit for this thread, or gives it back.
    pub(super) fn keep(&self, unit: Unit<Slice>) -> Option<Unit<Slice>> {
        let wanted = if unit.reads { Takes::Reads } else { Takes::Resolves };
        let next = self.next.take();
        if next.is_some() || self.takes != wanted {
            self.next.set(next);
            return Some(unit);
        }
        self.next.set(Some(unit));
        None
    }

    /// The unit that was kept.
    pub(super) fn take_next(&self) -> Option<Unit<Slice>> {
        self.next.take()
    }
}
