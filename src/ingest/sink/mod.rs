//! How a stream of objects is laid out in the bucket: one file a layout, behind one trait
//! ([`super::engine::Sink`]).

pub(crate) mod check;
pub(super) mod loose;
pub(super) mod pack;
mod records;
