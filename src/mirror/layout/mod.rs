//! How git objects become keys: one file a layout.

pub(crate) mod loose;
pub(crate) mod pack;

use crate::store::ObjectHeaders;

/// How objects are laid out in the bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Layout {
    /// One S3 object a git object.
    #[default]
    Loose,
    /// The pack as it came, with its index.
    Pack,
}

/// What temporary objects are stored with.
pub(crate) const TEMPORARY: ObjectHeaders =
    ObjectHeaders { content_type: "application/octet-stream", cache_control: None };
