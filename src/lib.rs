//! Mirrors git repositories from smart HTTP(S) to S3-compatible storage, so that stock git clones
//! them from the bucket over plain HTTP (the 'dumb' protocol), with no server.

pub mod git;
pub mod http;
pub mod mirror;
pub mod pack;
pub mod progress;
pub mod source;
pub mod store;
