//! A few threads take the next item from one list ([`take_next`], [`for_each`]), or two things are done at
//! once ([`both`]).
//!
//! A worker takes the next index from one counter and never waits for another worker. The calling
//! thread works too; a thread that can't be started is one fewer.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

/// Calls `work` with every number below `count`, from up to `threads` threads (0 counts as 1), whose
/// names begin with `name`. No further number is taken once `stop` says so.
pub(crate) fn take_next(
    count: usize,
    threads: usize,
    name: &str,
    stop: impl Fn() -> bool + Sync,
    work: impl Fn(usize) + Sync,
) {
    let next = AtomicUsize::new(0);
    let worker = || {
        while !stop() {
            match next.fetch_add(1, Ordering::Relaxed) {
                index if index < count => work(index),
                _ => break,
            }
        }
    };
    thread::scope(|scope| {
        for number in 1..threads.min(count) {
            let named = thread::Builder::new().name(format!("{name}.{number}"));
            if let Err(error) = named.spawn_scoped(scope, worker) {
                log::warn!("cannot start another thread, continuing with {number}: {error}");
                break;
            }
        }
        worker();
    });
}

/// Calls `work` with every item, from up to `threads` threads. After the first error no further item
/// is taken, and it is the answer.
pub(crate) fn for_each<T: Sync, E: Send>(
    items: &[T],
    threads: usize,
    name: &str,
    work: impl Fn(&T) -> Result<(), E> + Sync,
) -> Result<(), E> {
    let failed = Mutex::new(None);
    let lock = || failed.lock().unwrap_or_else(PoisonError::into_inner);
    let try_one = |index: usize| {
        if let Err(error) = work(&items[index]) {
            lock().get_or_insert(error);
        }
    };
    take_next(items.len(), threads, name, || lock().is_some(), try_one);
    failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}

/// Does both, one of them on a thread of this name; if that can't be started, one after the other.
pub(crate) fn both<A: Send, B>(
    name: &str,
    there: impl FnOnce() -> A + Send,
    here: impl FnOnce() -> B,
) -> (A, B) {
    let there = Mutex::new(Some(there));
    let take = || there.lock().unwrap_or_else(PoisonError::into_inner).take();
    thread::scope(|scope| {
        let started = thread::Builder::new()
            .name(name.to_owned())
            .spawn_scoped(scope, || take().map(|there| there()));
        let here = here();
        let done = match started {
            Ok(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            Err(_) => take().map(|there| there()),
        };
        (done.expect("it is taken once"), here)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_run_at_once_and_a_panic_of_either_is_passed_on() {
        let (there, here) = std::sync::mpsc::channel();
        let done = both(
            "there",
            move || there.send(thread::current().name() == Some("there")),
            move || here.recv(),
        );
        assert_eq!(done, (Ok(()), Ok(true)));
        let panics = || panic!("as the test wants");
        assert!(std::panic::catch_unwind(|| both("there", panics, || ())).is_err());
        assert!(std::panic::catch_unwind(|| both("there", || (), panics)).is_err());
    }
}
