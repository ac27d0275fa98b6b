//! Packs, pure over [`std::io::Read`]: no socket, no thread, no log.
//!
//! Follows gitformat-pack(5). A stream of pack bytes becomes entries ([`reader`]), a delta and its
//! base become a result ([`delta`]), objects become loose objects ([`loose`]) or a pack's index
//! ([`index`]). Nothing that the bytes say is trusted: every length is checked, memory grows with
//! what really arrives, and no input can panic this module.

pub(crate) mod column;
pub mod concat;
pub mod deflate;
pub mod delta;
pub mod entry;
pub mod entry_stream;
pub mod gather;
pub mod index;
pub mod index_entries;
pub mod index_scan;
pub mod inflate;
pub mod loose;
pub mod object;
pub mod reader;
