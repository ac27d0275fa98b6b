//! An access key with its secret, and what a place that is searched may have. Nothing here shows a secret.

use std::fmt;
use std::time::{Duration, SystemTime};

use crate::store::interface::{StoreError, StoreErrorKind};

/// An access key with its secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The access key's id.
    pub access_key: String,
    /// Its secret.
    pub secret_key: String,
    /// Of temporary credentials.
    pub session_token: Option<String>,
    /// When they end, if they do.
    pub expires: Option<SystemTime>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("expires", &self.expires).finish_non_exhaustive()
    }
}

impl Credentials {
    /// A pair of keys that does not end.
    pub fn new(access_key: impl Into<String>, secret_key: impl Into<String>) -> Self {
        Credentials {
            access_key: access_key.into(),
            secret_key: secret_key.into(),
            session_token: None,
            expires: None,
        }
    }

    pub(super) fn ends_within(&self, span: Duration) -> bool {
        self.expires.is_some_and(|end| end <= SystemTime::now() + span)
    }
}

/// What one place has.
pub(super) enum Found {
    Here(Credentials),
    /// The place, and why it has none.
    Nothing(String),
    /// The place is meant and does not work: no other is tried, or a mirror would run under
    /// another name than its operator thinks.
    Broken(String),
    /// The same, but it may work the next time.
    Unavailable(String),
}

pub(super) fn trouble(message: String) -> StoreError {
    StoreError::new(StoreErrorKind::Denied, "find", "credentials", message)
}
