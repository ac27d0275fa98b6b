//! Room for LFS objects in flight: bytes, and who waits when they are used up.
//!
//! A fetcher takes all that it will ever need before it begins and holds nothing while it waits, so
//! every wait is for work that ends by itself. A request larger than all there is is let in alone.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::run::Cancel;

/// How often a waiting thread looks whether the run was cancelled.
const CANCEL_POLL: Duration = Duration::from_millis(100);

pub(super) struct Gate {
    cancel: Cancel,
    state: Mutex<State>,
    changed: Condvar,
}

/// Guarded by [`Gate::state`].
struct State {
    limit: u64,
    used: u64,
    closed: bool,
}

impl Gate {
    pub(super) fn new(limit: u64, cancel: Cancel) -> Arc<Self> {
        let state = Mutex::new(State { limit, used: 0, closed: false });
        Arc::new(Gate { cancel, state, changed: Condvar::new() })
    }

    /// Room for `bytes`, waited for; `None` when the run is over.
    pub(super) fn wait_for(self: &Arc<Self>, bytes: u64) -> Option<Permit> {
        let mut state = self.lock();
        loop {
            if state.closed || self.cancel.is_cancelled() {
                return None;
            }
            if state.used == 0 || state.used.saturating_add(bytes) <= state.limit {
                state.used += bytes;
                return Some(Permit { gate: Arc::clone(self), bytes });
            }
            let woken = self.changed.wait_timeout(state, CANCEL_POLL);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// From now on there is so much room.
    pub(super) fn set_limit(&self, bytes: u64) {
        self.lock().limit = bytes;
        self.changed.notify_all();
    }

    /// Lets nobody else in, and wakes everybody who waits.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.cancel.is_cancelled() || self.lock().closed
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic can't leave the counters half-changed: each change is one statement.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes that are held, given back when dropped.
pub(super) struct Permit {
    gate: Arc<Gate>,
    bytes: u64,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.gate.lock().used -= self.bytes;
        self.gate.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_finds_no_room_waits_for_it() {
        let gate = Gate::new(10, Cancel::default());
        let first = gate.wait_for(8);
        std::thread::scope(|scope| {
            let second = scope.spawn(|| drop(gate.wait_for(8)));
            std::thread::sleep(Duration::from_millis(20));
            assert!(!second.is_finished());
            drop(first);
        });
    }

    #[test]
    fn request_larger_than_all_there_is_is_let_in_alone_and_closing_wakes_the_others() {
        let gate = Gate::new(10, Cancel::default());
        let large = gate.wait_for(1000).expect("nothing is held");
        std::thread::scope(|scope| {
            let other = scope.spawn(|| gate.wait_for(1).is_none());
            std::thread::sleep(Duration::from_millis(20));
            assert!(!other.is_finished());
            gate.close();
            assert!(other.join().unwrap());
        });
        drop(large);
        assert!(gate.is_closed());
    }
}
