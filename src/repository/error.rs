//! Why a run failed: one error for all that works on a mirror.

use crate::source::{SourceError, SourceErrorKind};
use crate::store::{StoreError, StoreErrorKind};

/// Why a run failed. Nothing was published.
#[derive(Debug, thiserror::Error)]
pub enum MirrorError {
    /// The source refused, broke, or is not a repository.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The source's pack is broken: the message names the entry by its offset.
    #[error("the source's pack is invalid: {0}")]
    Pack(String),
    /// A guard refused.
    #[error("{0}")]
    Guard(String),
    /// Another run published meanwhile.
    #[error("another run published to this mirror meanwhile; nothing is lost: run again")]
    Conflict,
    /// Asked to stop.
    #[error("interrupted")]
    Interrupted,
    /// `--timeout` was over.
    #[error(
        "not finished after {} s (--timeout); nothing was published, the next run continues", .0.as_secs()
    )]
    TimedOut(std::time::Duration),
    /// The mirror's own files in the bucket can't be understood.
    #[error("{0}")]
    Mirror(String),
    /// A bug of ours.
    #[error("internal error (please report it): {0}")]
    Internal(String),
}

impl MirrorError {
    /// Trying again may help: the source or the store was unavailable.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            MirrorError::Source(error) => matches!(error.kind, SourceErrorKind::Transient { .. }),
            MirrorError::Store(error) => matches!(error.kind, StoreErrorKind::Transient { .. }),
            _ => false,
        }
    }
}
