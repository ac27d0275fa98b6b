//! What the tests of this folder's stores share.

use super::interface::{Key, ObjectHeaders};

pub(super) const TEXT: ObjectHeaders = ObjectHeaders::changing("text/plain");

pub(super) fn key(name: &str) -> Key {
    Key::new(name).unwrap()
}
