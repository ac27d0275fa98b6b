//! Where an object leads: to whom a commit, a tag and a folder point, read from their bytes.

use crate::git::object::{Kind, ObjectFormat, Oid};

/// `tree <oid> LF`, then `parent <oid> LF` lines (git-commit-tree(1)).
pub(crate) fn commit_links(content: &[u8]) -> Option<(Oid, Vec<Oid>)> {
    let mut lines = content.split(|byte| *byte == b'\n');
    let tree = Oid::from_hex(lines.next()?.strip_prefix(b"tree ")?)?;
    let mut parents = Vec::new();
    for line in lines {
        match line.strip_prefix(b"parent ") {
            Some(hex) => parents.push(Oid::from_hex(hex)?),
            None => break,
        }
    }
    Some((tree, parents))
}

/// `object <oid> LF type <kind> LF` (git-mktag(1)).
pub(crate) fn tag_link(content: &[u8]) -> Option<(Oid, Kind)> {
    let mut lines = content.split(|byte| *byte == b'\n');
    let oid = Oid::from_hex(lines.next()?.strip_prefix(b"object ")?)?;
    Some((oid, Kind::from_name(lines.next()?.strip_prefix(b"type ")?)?))
}

/// A commit begins with `tree <40 hex> LF`.
pub(crate) fn tree_of_commit(commit: &[u8]) -> Option<Oid> {
    let line = commit.strip_prefix(b"tree ")?.split(|&byte| byte == b'\n').next()?;
    Oid::from_hex(line)
}

/// A tree is a row of `<mode> <name> NUL <20 bytes>`; only regular files count, not links.
pub(crate) fn file_in_tree(mut tree: &[u8], format: ObjectFormat, name: &[u8]) -> Option<Oid> {
    while !tree.is_empty() {
        let end = tree.iter().position(|&byte| byte == 0)?;
        let (entry, rest) = (&tree[..end], &tree[end + 1..]);
        let (oid, rest) = format.split_oid(rest)?;
        let blank = entry.iter().position(|&byte| byte == b' ')?;
        if &entry[blank + 1..] == name && entry.starts_with(b"100") {
            return Some(oid);
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
        for format in ObjectFormat::ALL {
            file_is_found(format);
        }
    }

    fn file_is_found(format: ObjectFormat) {
        let oid = |byte| Oid::from_slice(&vec![byte; format.raw_len()]).unwrap();
        let mut tree = Vec::new();
        for (mode, name, byte) in
            [("120000", ".lfsconfig", 1), ("40000", "a", 2), ("100644", ".lfsconfig", 3)]
        {
            tree.extend_from_slice(format!("{mode} {name}\0").as_bytes());
            tree.extend_from_slice(oid(byte).as_bytes());
        }
        assert_eq!(file_in_tree(&tree, format, b".lfsconfig"), Some(oid(3)));
        assert_eq!(file_in_tree(&tree, format, b"a"), None);
        for cut in 0..tree.len() {
            // No bytes make it panic.
            let _ = file_in_tree(&tree[..cut], format, b".lfsconfig");
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

    #[test]
    fn links_of_a_commit_and_a_tag_are_found() {
        let oid = |byte| Oid::from_bytes([byte; 20]);
        let commit = format!(
            "tree {}\nparent {}\nparent {}\nauthor x\n\nparent y\n",
            oid(1),
            oid(2),
            oid(3)
        );
        assert_eq!(commit_links(commit.as_bytes()), Some((oid(1), vec![oid(2), oid(3)])));
        let tag = format!("object {}\ntype tree\ntag x\n", oid(4));
        assert_eq!(tag_link(tag.as_bytes()), Some((oid(4), Kind::Tree)));
        assert_eq!(commit_links(b"tree 12\n"), None);
        assert_eq!(commit_links(b""), None);
        assert_eq!(tag_link(b"object 12\n"), None);
    }
}
