//! A few threads take the next item from one list.
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
