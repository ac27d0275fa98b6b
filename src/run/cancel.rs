//! Tells a run to stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Tells a run to stop; shared with a signal handler.
///
/// Threads that wait in a socket notice it when that wait ends: [`crate::http::Client::cut`] ends
/// it at once.
#[derive(Clone, Debug, Default)]
pub struct Cancel {
    asked: Arc<AtomicBool>,
    parent: Option<Arc<Cancel>>,
}

impl Cancel {
    /// Asks the run to stop, clean up and answer [`crate::mirror::MirrorError::Interrupted`].
    pub fn cancel(&self) {
        self.asked.store(true, Ordering::Relaxed);
    }

    /// Has it been asked to?
    pub fn is_cancelled(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
            || self.parent.as_ref().is_some_and(|parent| parent.is_cancelled())
    }

    /// For a part of the run: it stops with the run, and can be stopped alone.
    pub(crate) fn child(&self) -> Cancel {
        Cancel { asked: Arc::default(), parent: Some(Arc::new(self.clone())) }
    }
}
