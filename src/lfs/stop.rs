//! What a step of a transfer may come to besides success.

use crate::repository::error::MirrorError;
use crate::source::{SourceError, SourceErrorKind};
use crate::store::StoreError;

/// Why an object lacks.
pub(super) struct Lacking {
    pub(super) reason: String,
    /// The server could not be reached or was busy, after all tries.
    pub(super) transient: bool,
}

impl Lacking {
    pub(super) fn because(reason: impl Into<String>) -> Self {
        Lacking { reason: reason.into(), transient: false }
    }
}

impl From<SourceError> for Lacking {
    fn from(error: SourceError) -> Self {
        let transient =
            matches!(error.kind, SourceErrorKind::Transient { .. } | SourceErrorKind::TooSlow);
        Lacking { reason: error.to_string(), transient }
    }
}

/// What a step of a transfer may come to besides success.
pub(super) enum Stop {
    /// This object lacks; go on with the next.
    Lacking(Lacking),
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
        Stop::Lacking(error.into())
    }
}
