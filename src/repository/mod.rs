//! What is in the bucket: its keys, what is listed, what is published, and reading it back.

pub(crate) mod begun;
pub(crate) mod blocks;
pub(crate) mod contents;
pub mod error;
pub(crate) mod existing;
pub(crate) mod fence;
pub(crate) mod files;
pub mod layout;
pub(crate) mod lfs_objects;
pub(crate) mod links;
pub(crate) mod listing;
pub(crate) mod loose;
pub(crate) mod objects;
pub(crate) mod packed;
pub(crate) mod packed_loose;
pub(crate) mod packs;
pub(crate) mod parts;
pub(crate) mod peeled;
pub(crate) mod prefetch;
pub mod publish;
pub(crate) mod reopen;
pub(crate) mod replaced;
pub(crate) mod slices;
pub mod state;
pub(crate) mod temp;
pub(crate) mod writer;
