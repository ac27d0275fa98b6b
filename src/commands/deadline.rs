//! `--timeout`: the time that one repository may take.
//!
//! When it is over, its run is asked to stop and its connections are cut as on a signal (see
//! [`signals`](crate::signals)): the source's at once, the store's a little later, so that requests
//! under way can end and what is temporary can be deleted. For that the repository has connections
//! of its own; the others continue. A signal ends the run the same way, because nobody else knows these
//! connections.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use crate::http::Client;
use crate::run::Cancel;

/// How often it is looked whether the run was asked to stop by others.
const NAP: Duration = Duration::from_millis(50);

/// How long requests to the store may continue after the source was cut, and the cleaning after that.
const STORE_GRACE: [Duration; 2] = [Duration::from_millis(1500), Duration::from_millis(2500)];

/// Runs until it is dropped, which is when the repository is done.
pub(super) struct Deadline {
    over: Arc<AtomicBool>,
    done: Option<Sender<()>>,
    watcher: Option<JoinHandle<()>>,
}

impl Deadline {
    /// Cancels `cancel` after `limit`, and cuts the connections.
    pub(super) fn start(
        limit: Duration,
        cancel: Cancel,
        source: Client,
        store: Client,
    ) -> io::Result<Deadline> {
        let over = Arc::new(AtomicBool::new(false));
        let (done, end) = channel();
        let is_over = Arc::clone(&over);
        let watch = move || {
            if wait(limit, &cancel, &is_over, &end) {
                return;
            }
            cancel.cancel();
            source.cut();
            for grace in STORE_GRACE {
                if !is_timeout(end.recv_timeout(grace)) {
                    return;
                }
                store.cut();
            }
        };
        let watcher = Builder::new().name("timeout".into()).spawn(watch)?;
        Ok(Deadline { over, done: Some(done), watcher: Some(watcher) })
    }

    /// Was the time over before the repository was done?
    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        self.done = None;
        if let Some(watcher) = self.watcher.take() {
            // It has nothing to say.
            let _ = watcher.join();
        }
    }
}

/// Waits for the repository's end (`true`), or its time's, or for somebody who cancels it.
fn wait(limit: Duration, cancel: &Cancel, over: &AtomicBool, end: &Receiver<()>) -> bool {
    let begun = Instant::now();
    loop {
        let left = limit.saturating_sub(begun.elapsed());
        if left.is_zero() {
            over.store(true, Ordering::Relaxed);
            return false;
        }
        if !is_timeout(end.recv_timeout(left.min(NAP))) {
            return true;
        }
        if cancel.is_cancelled() {
            return false;
        }
    }
}

fn is_timeout(received: Result<(), RecvTimeoutError>) -> bool {
    received == Err(RecvTimeoutError::Timeout)
}
