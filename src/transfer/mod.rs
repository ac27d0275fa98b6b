//! A mirror as the source of another: its keys are copied, nothing is asked of a git server.
//!
//! For what no pack stream carries across an air gap (LFS objects), for a second store, and for a
//! move. What is copied is proven on its way: a loose object by its name, a pack by its trailer, an
//! index by its checksum and by the pack that it names, an LFS object by its SHA-256. `source.rs` is
//! the mirror as the flow of [`crate::mirror`] sees it, `copy.rs` copies, `prove.rs`
//! proves, `storing.rs` is the mirror that is filled.
//!
//! If only some refs are wanted, or the keys cannot be listed, the mirror is a source like others: what the
//! refs reach is a pack stream (`sending.rs`), and LFS objects are asked for by name (`lfs.rs`).
//!
//! Where the two never meet, a file travels: [`export`] writes it, `trip.rs` is that file as a source.
//! `keys.rs` is the list of keys in it, `tape.rs` the tar.

mod copy;
pub mod export;
mod folders;
mod keys;
mod lfs;
mod prove;
pub(crate) mod sending;
mod source;
pub(crate) mod storing;
mod tape;
mod trip;

pub use source::MirrorSource;
pub use trip::TripSource;
