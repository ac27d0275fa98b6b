//! Small files of the mirror that may be missing.

use std::ops::Range;

use crate::store::{ETag, Key, Store, StoreError};

/// A key that is written in this program.
pub(crate) fn key(name: &'static str) -> Key {
    Key::new(name).expect("a constant without odd characters")
}

/// A file as it was read, and its entity tag.
pub(crate) type File = (Vec<u8>, Option<ETag>);

/// A file, of up to `max_len` bytes; `None` if there is none.
pub(crate) fn get(
    store: &dyn Store,
    key: &Key,
    range: Option<Range<u64>>,
    max_len: u64,
) -> Result<Option<File>, StoreError> {
    match store.get(key, range, max_len) {
        Ok(found) => Ok(Some(found)),
        // Without its bucket a file is not merely missing: nothing can be written either.
        Err(error) if error.is_not_found() && !error.message.starts_with("NoSuchBucket") => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
