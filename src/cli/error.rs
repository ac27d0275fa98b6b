//! What is wrong with a command line.

/// The command line can't be used: what is wrong with it, without any value that may be a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CliError(String);

impl CliError {
    /// An error with these words: the failure first, lower case, no full stop.
    pub fn new(words: impl Into<String>) -> Self {
        CliError(words.into())
    }
}
