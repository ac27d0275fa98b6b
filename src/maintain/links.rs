//! What a tree points to, read entry by entry and without a copy.

use crate::git::object::{Kind, ObjectFormat, Oid};

/// An entry of a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TreeEntry {
    pub(crate) oid: Oid,
    /// `None`: a submodule, whose commit is no object of this repository.
    pub(crate) kind: Option<Kind>,
    /// It is called `.gitattributes`.
    pub(crate) attributes: bool,
}

/// `<mode> <name> NUL <20 bytes>`, again and again. `None`, the last item then: it is broken there.
pub(crate) fn tree_links(
    content: &[u8],
    format: ObjectFormat,
) -> impl Iterator<Item = Option<TreeEntry>> + '_ {
    let mut rest = Some(content).filter(|content| !content.is_empty());
    std::iter::from_fn(move || {
        let content = rest.take()?;
        let Some((entry, after)) = first_entry(content, format) else { return Some(None) };
        rest = Some(after).filter(|after| !after.is_empty());
        Some(Some(entry))
    })
}

fn first_entry(content: &[u8], format: ObjectFormat) -> Option<(TreeEntry, &[u8])> {
    // A mode has at most seven bytes.
    let space = content.iter().take(8).position(|byte| *byte == b' ')?;
    let (mode, name) = (&content[..space], &content[space + 1..]);
    let nul = name.iter().position(|byte| *byte == 0)?;
    let (oid, after) = format.split_oid(&name[nul + 1..])?;
    let kind = match mode {
        b"160000" => None,
        b"40000" | b"040000" => Some(Kind::Tree),
        _ => Some(Kind::Blob),
    };
    let attributes = kind == Some(Kind::Blob) && &name[..nul] == b".gitattributes";
    Some((TreeEntry { oid, kind, attributes }, after))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_of_a_tree_are_found() {
        for format in ObjectFormat::ALL {
            links_are_found(format);
        }
    }

    fn links_are_found(format: ObjectFormat) {
        let oid = |byte| Oid::from_slice(&vec![byte; format.raw_len()]).unwrap();
        let mut tree = Vec::new();
        for (mode, name, byte) in
            [("100644", ".gitattributes", 5), ("160000", "sub", 6), ("40000", "dir", 7)]
        {
            tree.extend(format!("{mode} {name}\0").bytes());
            tree.extend(oid(byte).as_bytes());
        }
        let entries = tree_links(&tree, format).map(Option::unwrap);
        let found: Vec<_> = entries.map(|e| (e.oid, e.kind, e.attributes)).collect();
        let (blob, tree) = (Some(Kind::Blob), Some(Kind::Tree));
        let wanted = [(oid(5), blob, true), (oid(6), None, false), (oid(7), tree, false)];
        assert_eq!(found, wanted);
        assert_eq!(tree_links(b"", format).count(), 0);
    }

    #[test]
    fn broken_tree_has_no_links() {
        for tree in [&b"100644 a"[..], b"100644 a\0short", b"100644a\0aaaaaaaaaaaaaaaaaaaa"] {
            assert_eq!(tree_links(tree, ObjectFormat::Sha1).last(), Some(None));
            assert_eq!(tree_links(tree, ObjectFormat::Sha256).last(), Some(None));
        }
    }
}
