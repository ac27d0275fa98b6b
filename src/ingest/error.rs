//! What a broken pack, or our own error inside somebody else's, becomes.

use crate::git::object::Oid;
use crate::pack::object::ResolveError;
use crate::pack::reader::PackError;
use crate::repository::error::MirrorError;

impl From<PackError> for MirrorError {
    fn from(error: PackError) -> Self {
        use crate::source::SourceError;
        match error {
            // The tap is ours: it hands the pack's bytes to the store.
            PackError::Tap { source, .. } => unwrap_error(source),
            PackError::Io { ref source, .. } => match SourceError::from_io(source) {
                Some(failed) => MirrorError::Source(failed.clone()),
                None => MirrorError::Pack(format!("{error}: {source}")),
            },
            PackError::BadEntry { ref source, .. } => {
                MirrorError::Pack(format!("{error}: {source}"))
            }
            error => MirrorError::Pack(error.to_string()),
        }
    }
}

/// The error of ours that an I/O error carries through somebody else's code.
pub(super) fn unwrap_error(error: std::io::Error) -> MirrorError {
    match error.downcast::<MirrorError>() {
        Ok(ours) => ours,
        Err(other) => MirrorError::Internal(other.to_string()),
    }
}

/// The pack ended without an object that was asked for.
pub(super) fn missing(oid: &Oid) -> MirrorError {
    MirrorError::Pack(format!("it does not contain the requested object {oid}"))
}

pub(super) fn unresolvable(error: ResolveError) -> MirrorError {
    MirrorError::Pack(error.to_string())
}
