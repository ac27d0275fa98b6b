//! What goes wrong with a source.

use std::time::Duration;

/// A batch that was not answered.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BatchError {
    /// Fewer objects at once may succeed: 413, or 422, which one bad object can bring upon all.
    #[error(transparent)]
    Split(SourceError),
    /// None of these objects is there; that says nothing of others. Some servers (giftless) answer
    /// so instead of saying it object by object.
    #[error(transparent)]
    Absent(SourceError),
    /// The failure has nothing to do with which objects were asked for.
    #[error(transparent)]
    Failed(#[from] SourceError),
}

/// What git's servers say of an object that they do not have, or do not send; its name follows.
pub(crate) const NOT_OUR_REF: &str = "not our ref";

/// What to do about a failure of the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceErrorKind {
    /// Refused: 401, 403, or a 404 that may hide a private repository.
    Denied,
    /// It may succeed the next time: no connection, time-out, 5xx, 429, a cut stream.
    Transient {
        /// The source's `Retry-After`.
        retry_after: Option<Duration>,
    },
    /// Slower than the low-speed limit for too long: another try would take as long, so there is none
    /// in this run.
    TooSlow,
    /// It will not go better by itself: not a git repository, dumb server, shallow, SHA-256,
    /// malformed answers, the server's own `ERR` or side-band 3.
    Fatal,
}

/// A failure of the source: where, and what it said.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{url}: {message}")]
pub struct SourceError {
    /// What to do about it.
    pub kind: SourceErrorKind,
    /// The URL without userinfo, query and secrets.
    pub url: String,
    /// What went wrong, and where that helps, what to do.
    pub message: String,
}

impl SourceError {
    /// The same, of a request for single objects: one that is not there now will not be there soon.
    pub(crate) fn of_objects(self) -> Self {
        match self.message.contains(NOT_OUR_REF) {
            true => SourceError { kind: SourceErrorKind::Fatal, ..self },
            false => self,
        }
    }

    /// The source error that an error from the pack's stream wraps, if it wraps one.
    pub fn from_io(error: &std::io::Error) -> Option<&SourceError> {
        error.get_ref()?.downcast_ref()
    }
}
