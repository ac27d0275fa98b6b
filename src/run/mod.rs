//! What every layer above the pure formats may need while it runs. It imports nothing.

mod cancel;
pub(crate) mod retry;
pub(crate) mod threads;

pub use cancel::Cancel;

/// The least working memory that a run can do with, in bytes.
pub const MIN_MEMORY_BYTES: u64 = 8 << 20;
