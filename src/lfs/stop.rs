//! What a step of a transfer may come to besides success.

use crate::repository::error::MirrorError;
use crate::source::{SourceError, SourceErrorKind};
use crate::store::StoreError;

/// Why an object is missing.
pub(super) struct Missing {
    pub(super) reason: String,
    /// The server could not be reached or was busy, after all tries.
    pub(super) transient: bool,
}

impl Missing {
    pub(super) fn because(reason: impl Into<String>) -> Self {
        Missing { reason: reason.into(), transient: false }
    }
}

impl From<SourceError> for Missing {
    fn from(error: SourceError) -> Self {
        let transient =
            matches!(error.kind, SourceErrorKind::Transient { .. } | SourceErrorKind::TooSlow);
        Missing { reason: error.to_string(), transient }
    }
}

/// What a step of a transfer may come to besides success.
pub(super) enum Stop {
    /// This object is missing; continue with the next.
    Missing(Missing),
    /// The run is over.
    Failed(MirrorError),
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        Stop::Failed(error.into())
    }
}

impl From<SourceError> for Stop {
    fn from(error: SourceError) -> Self {
        Stop::Missing(error.into())
    }
}
