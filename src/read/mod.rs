//! Reading a mirror into a repository of git's: what is behind `git clone mirror::…`.
//!
//! ```text
//!  fetch ──► whole ──► stream ─► ingest ─► scratch      packs that are mostly new, as one local pack
//!    │         └─ connected                             do all objects lead to objects that are there?
//!    ├────► walk ──► objects ──► entries ──► index      single objects by ranged GETs, in rounds
//!    │         └──► written                             into one local pack
//!    └────► local                                       what the repository has
//! ```
//! Nothing in the bucket is believed: every object is hashed, and the index of a pack is made anew
//! by [`crate::ingest`], unless the user asks for less (`mirror.trustIndex`). Git sees a pack only
//! when it is whole: its index gets its name last. What a killed run leaves is called `tmp_mirror_…`;
//! the next run continues with it or removes it, and so does `git gc`.

pub(crate) mod fetch;
pub(crate) mod local;

mod connected;
mod entries;
mod index;
mod objects;
mod scratch;
mod stream;
mod walk;
mod whole;
mod written;
