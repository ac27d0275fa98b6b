//! Single git objects read back from the mirror, for the few that the mirror itself wants to see.
//!
//! [`read_object`] is the one way; it looks where the layouts put objects.

use super::MirrorError;
use super::layout::loose;
use crate::git::object::{Kind, Oid, hash_object};
use crate::git::refs::{Advertisement, Head};
use crate::pack::loose::decode_loose;
use crate::store::Store;

/// Larger ones are not read: a `.lfsconfig`, a commit and a root folder are far smaller.
const MAX_OBJECT_BYTES: u64 = 16 << 20;

/// Reads an object of the mirror, at most 16 MiB; `None`: it is not there (or not loose).
pub(crate) fn read_object(
    store: &dyn Store,
    oid: &Oid,
) -> Result<Option<(Kind, Vec<u8>)>, MirrorError> {
    let key = loose::key(oid);
    let bytes = match store.get(&key, None, MAX_OBJECT_BYTES) {
        Ok((bytes, _)) => bytes,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let damaged = |what: String| {
        let place = store.describe();
        MirrorError::Mirror(format!("the stored object {place}/{key} is damaged: {what}"))
    };
    let (kind, content) =
        decode_loose(&bytes, MAX_OBJECT_BYTES).map_err(|error| damaged(error.to_string()))?;
    match hash_object(kind, &content) {
        found if found == *oid => Ok(Some((kind, content))),
        found => Err(damaged(format!("it is {found}"))),
    }
}

/// The content of the file `name` in the root folder of HEAD's commit, which is stored; `None` if
/// there is no such file.
pub(crate) fn file_of_head(
    store: &dyn Store,
    refs: &Advertisement,
    name: &str,
) -> Result<Option<Vec<u8>>, MirrorError> {
    let tip = match &refs.head {
        Head::Branch(branch) => refs.find(branch).map(|found| found.oid),
        Head::Detached(oid) => Some(*oid),
        Head::Unborn(_) | Head::Absent => None,
    };
    let Some(tip) = tip else { return Ok(None) };
    let Some((Kind::Commit, commit)) = read_object(store, &tip)? else { return Ok(None) };
    let Some(tree) = tree_of_commit(&commit) else { return Ok(None) };
    let Some((Kind::Tree, tree)) = read_object(store, &tree)? else { return Ok(None) };
    let Some(blob) = file_in_tree(&tree, name.as_bytes()) else { return Ok(None) };
    match read_object(store, &blob)? {
        Some((Kind::Blob, content)) => Ok(Some(content)),
        _ => Ok(None),
    }
}

/// A commit begins with `tree <40 hex> LF`.
fn tree_of_commit(commit: &[u8]) -> Option<Oid> {
    let line = commit.strip_prefix(b"tree ")?.split(|&byte| byte == b'\n').next()?;
    Oid::from_hex(line)
}

/// A tree is a row of `<mode> <name> NUL <20 bytes>`; only regular files count, not links.
fn file_in_tree(mut tree: &[u8], name: &[u8]) -> Option<Oid> {
    while !tree.is_empty() {
        let end = tree.iter().position(|&byte| byte == 0)?;
        let (entry, rest) = (&tree[..end], &tree[end + 1..]);
        let (oid, rest) = rest.split_first_chunk::<20>()?;
        let blank = entry.iter().position(|&byte| byte == b' ')?;
        if &entry[blank + 1..] == name && entry.starts_with(b"100") {
            return Some(Oid::from_bytes(*oid));
        }
        tree = rest;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_found_in_a_tree_and_a_link_is_none() {
        let mut tree = Vec::new();
        for (mode, name, byte) in
            [("120000", ".lfsconfig", 1), ("40000", "a", 2), ("100644", ".lfsconfig", 3)]
        {
            tree.extend_from_slice(format!("{mode} {name}\0").as_bytes());
            tree.extend_from_slice(&[byte; 20]);
        }
        assert_eq!(file_in_tree(&tree, b".lfsconfig"), Some(Oid::from_bytes([3; 20])));
        assert_eq!(file_in_tree(&tree, b"a"), None);
        for cut in 0..tree.len() {
            // No bytes make it panic.
            let _ = file_in_tree(&tree[..cut], b".lfsconfig");
        }
    }

    #[test]
    fn the_tree_of_a_commit_is_its_first_line() {
        let hex = "4b825dc642cb6eb9a060e54bf8d69288fbee4904";
        let commit = format!("tree {hex}\nauthor x\n");
        assert_eq!(tree_of_commit(commit.as_bytes()), hex.parse().ok());
        assert_eq!(tree_of_commit(b"tree 4b\n"), None);
        assert_eq!(tree_of_commit(b"object x\n"), None);
    }
}
