//! A mirror as the source of another: its keys are copied, nothing is asked of a git server.
//!
//! For what no pack stream carries across an air gap (LFS objects), for a second store, and for a
//! move. What is copied is proven on its way: a loose object by its name, a pack by its trailer, an
//! index by its checksum and by the pack that it names, an LFS object by its SHA-256. [`source`] is
//! the mirror as the flow of [`crate::mirror`] sees it, [`copy`] copies.

pub(crate) mod copy;
mod source;

pub use source::MirrorSource;
