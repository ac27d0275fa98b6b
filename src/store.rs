//! Where a mirror's bytes live: keys and bytes, nothing of git.
//!
//! [`Store`] is the narrow waist of the program: S3 ([`s3`]), a directory ([`dir`]) and memory
//! ([`memory`]) implement it, and one conformance suite (`tests/all/store_conformance.rs`) runs over
//! all of them. A store answers a failure with a [`StoreErrorKind`] to branch on; only [`retry`]
//! repeats requests, and it reads nothing but the kind. Nothing here prints a secret: errors carry
//! URLs without query and without credentials.
//!
//! A store is one bucket (or directory) with the target's prefix already applied: [`Key`]s are
//! relative to the prefix and can't leave it.

pub mod counted;
pub mod credentials;
pub mod dir;
pub mod http_read;
mod interface;
pub mod memory;
pub(crate) mod pages;
pub mod retry;
pub mod s3;
#[cfg(test)]
mod testing;

pub use interface::*;
