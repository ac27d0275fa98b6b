//! A stream of pack bytes becomes stored objects ([`pipeline`]).
//!
//! Everything here works on traits; it knows neither HTTP nor S3.

mod bases;
pub(crate) mod budget;
pub(crate) mod gate;
mod large;
pub(crate) mod pipeline;
mod sink;
pub(crate) mod thin;
