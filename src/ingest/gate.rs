//! The byte budget: what may be in memory at once, and who waits when it is full.
//!
//! Pools, so that no circle of waiting can arise. **Entries** is what the reader has taken from
//! the pack: entries in flight and deltas that wait for their bases. **Results** is what running
//! tasks make: inflated results, their deflated form, bases that were read back, parts.
//!
//! - Only the reader waits for *entries* ([`Gate::enter`]). An entry's bytes are given back when its
//!   upload ends, or, for a delta, when it has been applied; both need *results* at most.
//! - *Results* are held only by running work, which ends by itself; nobody who holds some waits
//!   for more. Resolve tasks never wait: they are started only when they fit
//!   ([`Gate::try_results`]). The thread for large objects waits ([`Gate::wait_results`]).
//! - When the reader finds no room and nothing is running, parked deltas hold it all, and only
//!   entries still to come can wake them: [`Entered::Stalled`] tells the reader to spill them.
//!
//! A third pool, **parts**, is for a pack that is kept as it comes: one part being filled by the
//! reader and those on their way, which only request threads hold.
//!
//! A fourth, **rebuilds**, is for the links of a delta chain while a base is rebuilt from the stored
//! pack: taken before the first link is read, and whoever holds some waits for nothing but reads that
//! run and for rebuilds that hold theirs.
//!
//! A request larger than its pool is let in when the pool is empty, so nothing starves.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::run::Cancel;

/// How often a waiting thread looks whether the run was cancelled.
const CANCEL_POLL: Duration = Duration::from_millis(100);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Pool {
    Entries,
    Results,
    Parts,
    Rebuilds,
}

/// The budget. Shared by all threads of a run.
pub(crate) struct Gate {
    entries_limit: u64,
    results_limit: AtomicU64,
    parts_limit: u64,
    cancel: Cancel,
    state: Mutex<State>,
    changed: Condvar,
}

/// Guarded by [`Gate::state`].
#[derive(Default)]
struct State {
    entries_used: u64,
    results_used: u64,
    parts_used: u64,
    rebuilds_used: u64,
    /// Permits that are not parked: work that will end by itself.
    running: u64,
    closed: bool,
}

/// The answer to the reader.
pub(crate) enum Entered {
    /// Come in.
    Permit(Permit),
    /// No room, and nothing runs that could make some: spill parked deltas, then ask again.
    Stalled,
    /// The run has failed or was cancelled: leave.
    Closed,
}

impl Gate {
    pub(crate) fn new(
        entries_limit: u64,
        results_limit: u64,
        parts_limit: u64,
        cancel: Cancel,
    ) -> Arc<Self> {
        Arc::new(Gate {
            entries_limit,
            results_limit: AtomicU64::new(results_limit),
            parts_limit,
            cancel,
            state: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    /// The reader asks for room for `bytes`, and waits as long as anything runs.
    pub(crate) fn enter(self: &Arc<Self>, bytes: u64) -> Entered {
        let mut state = self.lock();
        loop {
            if state.closed || self.cancel.is_cancelled() {
                return Entered::Closed;
            }
            if fits(state.entries_used, bytes, self.entries_limit) {
                return Entered::Permit(self.grant(&mut state, Pool::Entries, bytes));
            }
            if state.running == 0 {
                return Entered::Stalled;
            }
            state = self.wait(state);
        }
    }

    /// Room for a task's results, if there is some now.
    pub(crate) fn try_results(self: &Arc<Self>, bytes: u64) -> Option<Permit> {
        let mut state = self.lock();
        let free = !state.closed && fits(state.results_used, bytes, self.limit(Pool::Results));
        free.then(|| self.grant(&mut state, Pool::Results, bytes))
    }

    /// No room, only the token that something runs; `None` when the run has failed.
    pub(crate) fn token(self: &Arc<Self>) -> Option<Permit> {
        let mut state = self.lock();
        (!state.closed).then(|| self.grant(&mut state, Pool::Results, 0))
    }

    /// Room for results, waited for; `None` when the run has failed. Never call this from a
    /// resolve task: tasks that hold results may be queued behind it.
    pub(crate) fn wait_results(self: &Arc<Self>, bytes: u64) -> Option<Permit> {
        self.wait_for(Pool::Results, bytes)
    }

    /// From now on there is so much room for results.
    pub(crate) fn set_results_limit(&self, bytes: u64) {
        self.results_limit.store(bytes, Ordering::Relaxed);
        self.changed.notify_all();
    }

    /// Room for a part of a pack that is kept as it comes, waited for; `None` when the run has
    /// failed. Only the reader asks, and only uploads hold any.
    pub(crate) fn wait_parts(self: &Arc<Self>, bytes: u64) -> Option<Permit> {
        self.wait_for(Pool::Parts, bytes)
    }

    /// Room for the links of a delta chain, waited for; `None` when the run has failed.
    pub(crate) fn wait_rebuild(self: &Arc<Self>, bytes: u64) -> Option<Permit> {
        self.wait_for(Pool::Rebuilds, bytes)
    }

    fn wait_for(self: &Arc<Self>, pool: Pool, bytes: u64) -> Option<Permit> {
        let mut state = self.lock();
        loop {
            if state.closed || self.cancel.is_cancelled() {
                return None;
            }
            if fits(*used(&mut state, pool), bytes, self.limit(pool)) {
                return Some(self.grant(&mut state, pool, bytes));
            }
            state = self.wait(state);
        }
    }

    fn limit(&self, pool: Pool) -> u64 {
        match pool {
            Pool::Entries => self.entries_limit,
            Pool::Results => self.results_limit.load(Ordering::Relaxed),
            Pool::Parts => self.parts_limit,
            // In the second pass, when no part is on its way.
            Pool::Rebuilds => self.parts_limit / 2,
        }
    }

    /// Waits until nothing runs, or the gate is closed, or the run is cancelled.
    pub(crate) fn wait_idle(&self) {
        let mut state = self.lock();
        while state.running > 0 && !state.closed && !self.cancel.is_cancelled() {
            state = self.wait(state);
        }
    }

    /// Lets nobody in any more and wakes everybody who waits.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.cancel.is_cancelled() || self.lock().closed
    }

    fn grant(self: &Arc<Self>, state: &mut State, pool: Pool, bytes: u64) -> Permit {
        *used(state, pool) += bytes;
        state.running += 1;
        Permit { gate: Arc::clone(self), pool, bytes, parked: false }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic can't leave the counters half-changed: each change is one statement.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let woken = self.changed.wait_timeout(state, CANCEL_POLL);
        woken.unwrap_or_else(PoisonError::into_inner).0
    }
}

fn fits(used: u64, bytes: u64, limit: u64) -> bool {
    used == 0 || used.saturating_add(bytes) <= limit
}

fn used(state: &mut State, pool: Pool) -> &mut u64 {
    match pool {
        Pool::Entries => &mut state.entries_used,
        Pool::Results => &mut state.results_used,
        Pool::Parts => &mut state.parts_used,
        Pool::Rebuilds => &mut state.rebuilds_used,
    }
}

/// Bytes that are held, given back when dropped. Also the token of running work: while one that
/// is not parked lives, the run is not idle.
pub(crate) struct Permit {
    gate: Arc<Gate>,
    pool: Pool,
    bytes: u64,
    parked: bool,
}

impl Permit {
    /// Gives back all but `bytes`.
    pub(crate) fn shrink(&mut self, bytes: u64) {
        if bytes >= self.bytes {
            return;
        }
        *used(&mut self.gate.lock(), self.pool) -= self.bytes - bytes;
        self.bytes = bytes;
        self.gate.changed.notify_all();
    }

    /// The bytes stay held, but nothing runs with them: a delta waits for its base.
    pub(crate) fn park(&mut self) {
        if !self.parked {
            self.parked = true;
            self.gate.lock().running -= 1;
            self.gate.changed.notify_all();
        }
    }

    /// The delta runs now.
    pub(crate) fn unpark(&mut self) {
        if self.parked {
            self.parked = false;
            self.gate.lock().running += 1;
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = self.gate.lock();
        *used(&mut state, self.pool) -= self.bytes;
        if !self.parked {
            state.running -= 1;
        }
        drop(state);
        self.gate.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entered(gate: &Arc<Gate>, bytes: u64) -> Permit {
        match gate.enter(bytes) {
            Entered::Permit(permit) => permit,
            Entered::Stalled => panic!("stalled"),
            Entered::Closed => panic!("closed"),
        }
    }

    #[test]
    fn reader_waits_until_running_work_gives_room() {
        let gate = Gate::new(10, 10, 10, Cancel::default());
        let first = entered(&gate, 8);
        std::thread::scope(|scope| {
            let second = scope.spawn(|| drop(entered(&gate, 8)));
            std::thread::sleep(Duration::from_millis(20));
            assert!(!second.is_finished());
            drop(first);
        });
    }

    #[test]
    fn reader_stalls_when_only_parked_deltas_hold_the_room() {
        let gate = Gate::new(10, 10, 10, Cancel::default());
        let mut delta = entered(&gate, 8);
        delta.park();
        assert!(matches!(gate.enter(8), Entered::Stalled));
        drop(delta);
        assert!(matches!(gate.enter(8), Entered::Permit(_)));
    }

    #[test]
    fn request_larger_than_the_pool_is_let_in_alone() {
        let gate = Gate::new(10, 10, 10, Cancel::default());
        let large = gate.try_results(1000).expect("the pool is empty");
        assert!(gate.try_results(1).is_none());
        drop(large);
        assert!(gate.try_results(1).is_some());
    }

    #[test]
    fn closing_wakes_everybody() {
        let gate = Gate::new(10, 10, 10, Cancel::default());
        let entry = entered(&gate, 10);
        let result = gate.try_results(10).expect("the pool is empty");
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| matches!(gate.enter(1), Entered::Closed));
            let large = scope.spawn(|| gate.wait_results(1).is_none());
            let idle = scope.spawn(|| gate.wait_idle());
            gate.close();
            assert!(reader.join().unwrap());
            assert!(large.join().unwrap());
            idle.join().unwrap();
        });
        drop((entry, result));
    }

    #[test]
    fn shrinking_gives_back_bytes_but_keeps_the_run_busy() {
        let gate = Gate::new(10, 10, 10, Cancel::default());
        let mut permit = entered(&gate, 10);
        permit.shrink(0);
        let other = entered(&gate, 10);
        drop(other);
        assert_eq!(gate.lock().running, 1);
    }
}
