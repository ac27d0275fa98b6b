//! The loose layout: `objects/aa/<38 hex>` (62 with SHA-256), a zlib stream of header and content.
//!
//! gitrepository-layout(5) and git's `http-walker.c`: what a dumb reader asks for first.

use std::io::Read;

use super::error::MirrorError;
use super::files;
use crate::git::object::Oid;
use crate::pack::loose::{LooseReader, decode_loose};
use crate::pack::object::Object;
use crate::store::{Key, ObjectHeaders, Store};

/// As git's own http-backend serves them (`http-backend.c`, `get_loose_object`).
pub(crate) const HEADERS: ObjectHeaders =
    ObjectHeaders::immutable("application/x-git-loose-object");

/// Enough of a loose object to inflate its header from: git deflates it together with content, in
/// blocks whose tables take some hundred bytes.
const HEAD_BYTES: u64 = 4096;

/// `objects/aa/<38 or 62 hex>`.
pub(crate) fn key(oid: &Oid) -> Key {
    let hex = oid.to_string();
    Key::new(format!("objects/{}/{}", &hex[..2], &hex[2..])).expect("hexadecimal digits")
}

/// The inverse of [`key`] on text; `None` for any other key.
pub(crate) fn oid_of_key(key: &str) -> Option<Oid> {
    let hex = key.strip_prefix("objects/")?;
    let (two, rest) = hex.split_once('/')?;
    (two.len() == 2).then(|| Oid::from_hex(format!("{two}{rest}").as_bytes())).flatten()
}

/// Reads an object back whole, and checks that it is what the pack said it was.
pub(crate) fn read_back(store: &dyn Store, object: &Object) -> Result<Vec<u8>, MirrorError> {
    let key = key(&object.oid);
    // What does not compress becomes larger: by an eighth at level 1, which codes in fixed tables
    // (RFC 1951, 3.2.6), and the pack's own blocks are kept up to twice the content.
    let max_len = object.len.saturating_mul(2).saturating_add(4096);
    let (bytes, _) = store.get(&key, None, max_len)?;
    let decoded = decode_loose(&bytes, object.len);
    match decoded {
        Ok((kind, content)) if kind == object.kind && content.len() as u64 == object.len => {
            Ok(content)
        }
        Ok((kind, content)) => Err(damaged(
            store,
            &key,
            format!(
                "it holds a {kind} of {} bytes, not the {} of {} bytes that was stored",
                content.len(),
                object.kind,
                object.len
            ),
        )),
        Err(error) => Err(damaged(store, &key, error.to_string())),
    }
}

/// What the object is, if it is stored; its content is not checked.
pub(crate) fn look(store: &dyn Store, oid: &Oid) -> Result<Option<Object>, MirrorError> {
    let key = key(oid);
    let head = files::get(store, &key, Some(0..HEAD_BYTES), HEAD_BYTES)?;
    let Some((head, _)) = head else { return Ok(None) };
    let reader =
        LooseReader::new(&head[..]).map_err(|error| damaged(store, &key, error.to_string()))?;
    Ok(Some(Object { oid: *oid, kind: reader.kind(), len: reader.size() }))
}

/// Reads a large object back as a stream of its content.
pub(crate) fn open<R: Read>(
    stream: R,
    store: &dyn Store,
    object: &Object,
) -> Result<impl Read + use<R>, MirrorError> {
    let key = key(&object.oid);
    let reader =
        LooseReader::new(stream).map_err(|error| damaged(store, &key, error.to_string()))?;
    if reader.kind() == object.kind && reader.size() == object.len {
        Ok(reader)
    } else {
        let (kind, size) = (reader.kind(), reader.size());
        Err(damaged(store, &key, format!("it holds a {kind} of {size} bytes")))
    }
}

fn damaged(store: &dyn Store, key: &Key, what: String) -> MirrorError {
    MirrorError::Mirror(format!(
        "the stored object {}/{key} is damaged: {what}; delete it and run again with --full",
        store.describe()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_oids_are_each_others_inverse() {
        let oid = "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391".parse().unwrap();
        let key = key(&oid);
        assert_eq!(key.as_str(), "objects/e6/9de29bb2d1d6434b8b29ae775ad8c2e48c5391");
        assert_eq!(oid_of_key(key.as_str()), Some(oid));
        for other in ["objects/pack/pack-0.idx", "objects/e6/9d", "HEAD", "objects/info/packs"] {
            assert_eq!(oid_of_key(other), None, "{other}");
        }
    }
}
