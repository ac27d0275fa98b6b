//! How a stream of objects is laid out in the bucket: one file a layout.

pub(crate) mod pack;
