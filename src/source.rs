//! Where a repository comes from: smart HTTP(S) ([`smart_http`]), a bundle ([`bundle`]); and its LFS
//! objects ([`lfs`]; for bundles a directory, [`lfs_dir`]).
//!
//! A [`Source`] says which refs there are and streams one pack. It knows nothing of stores, and a
//! pack only as bytes.

pub mod auth;
pub mod bundle;
mod error;
mod exchange;
mod interface;
pub mod lfs;
pub mod lfs_dir;
mod resumed;
pub mod smart_http;

pub(crate) use error::NOT_OUR_REF;
pub use error::{BatchError, SourceError, SourceErrorKind};
pub use interface::{LfsSource, Offer, Seed, Source};
