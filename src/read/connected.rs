//! Does every object of a pack lead only to objects of the same pack? Seen while they are indexed.
//!
//! One table of names: which were seen, as what, and which were named by others, as what. At the end
//! no name may be left that was named and not seen. That is what `git index-pack
//! --check-self-contained-and-connected` proves for a clone over smart HTTP; it saves git a walk over
//! all history. 22 to 44 bytes an object. Submodules' commits lead out of the repository and are not
//! followed (git's `fsck_walk_tree`).

use std::cell::RefCell;
use std::ffi::CStr;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::git::object::{Kind, ObjectFormat, Oid};
use crate::git::oids::OidMap;
use crate::repository::links::{commit_links, tag_link};

/// Tables, each with a lock: enough that threads seldom meet.
const SHARDS: usize = 64;

/// Names that a thread has marked lately: most entries of a tree are those of the tree before.
const RECENT: usize = 1 << 14;

/// The name of an object is a hash.
#[derive(Default)]
struct ByName(u64);

impl Hasher for ByName {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        if let Some(end) = bytes.last_chunk::<8>() {
            self.0 = u64::from_ne_bytes(*end);
        }
    }
}

type Table = OidMap<u8, BuildHasherDefault<ByName>>;

/// What is known of the objects of one pack.
pub(super) struct Connected {
    shards: Vec<Mutex<Table>>,
    /// A commit, tree or tag that can't be read.
    unreadable: AtomicBool,
    number: u64,
}

/// A name, filled up with zeros, and as what it was marked.
type Marked = ([u8; 32], u8);

thread_local! {
    /// Whose names, and the names.
    static RECENTLY: RefCell<(u64, Vec<Marked>)> = const { RefCell::new((0, Vec::new())) };
}

static NUMBERS: AtomicU64 = AtomicU64::new(1);

/// A bit for what an object was seen as.
fn seen(kind: Kind) -> u8 {
    match kind {
        Kind::Commit => 1,
        Kind::Tree => 2,
        Kind::Blob => 4,
        Kind::Tag => 8,
    }
}

/// A bit for what an object is named as.
fn named(kind: Kind) -> u8 {
    seen(kind) << 4
}

impl Connected {
    pub(super) fn new() -> Self {
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Connected { shards, unreadable: AtomicBool::new(false), number }
    }

    fn shard(&self, oid: &Oid) -> MutexGuard<'_, Table> {
        let shard = &self.shards[usize::from(oid.first_byte()) % SHARDS];
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Marks an object that is named; trees name nearly all.
    fn mark(&self, oid: &Oid, kind: Kind) {
        *self.shard(oid).entry(oid) |= named(kind);
    }

    /// What a tree names, but for what this thread has marked just before. `None`: it can't be read.
    fn mark_tree<const LEN: usize>(&self, mut tree: &[u8]) -> Option<()> {
        RECENTLY.with_borrow_mut(|(number, recent)| {
            if *number != self.number || recent.is_empty() {
                *number = self.number;
                *recent = vec![([0; 32], 0); RECENT];
            }
            while !tree.is_empty() {
                let (kind, name, rest) = split_entry::<LEN>(tree)?;
                tree = rest;
                let Some(kind) = kind else { continue };
                let slot = usize::from(u16::from_ne_bytes([name[0], name[1]])) % RECENT;
                let (last, last_kind) = &mut recent[slot];
                if last[..LEN] != *name || *last_kind != named(kind) {
                    last[..LEN].copy_from_slice(name);
                    *last_kind = named(kind);
                    self.mark(&Oid::from_slice(name)?, kind);
                }
            }
            Some(())
        })
    }

    /// Sees one object of the pack.
    pub(super) fn look(&self, oid: &Oid, kind: Kind, content: &[u8]) {
        *self.shard(oid).entry(oid) |= seen(kind);
        if self.mark_links(oid.format(), kind, content).is_none() {
            self.unreadable.store(true, Ordering::Relaxed);
        }
    }

    fn mark_links(&self, format: ObjectFormat, kind: Kind, content: &[u8]) -> Option<()> {
        match kind {
            Kind::Blob => {}
            Kind::Tree => match format {
                ObjectFormat::Sha1 => self.mark_tree::<20>(content)?,
                ObjectFormat::Sha256 => self.mark_tree::<32>(content)?,
            },
            Kind::Commit => {
                let (tree, parents) = commit_links(content)?;
                self.mark(&tree, Kind::Tree);
                parents.iter().for_each(|parent| self.mark(parent, Kind::Commit));
            }
            Kind::Tag => {
                let (target, kind) = tag_link(content)?;
                self.mark(&target, kind);
            }
        }
        Some(())
    }

    /// Is everything that was named there, as what it was named, and `tips` as well? `has` is asked
    /// for blobs that were too large to be seen.
    pub(super) fn prove(self, tips: &[Oid], mut has: impl FnMut(&Oid) -> bool) -> bool {
        if self.unreadable.load(Ordering::Relaxed) {
            return false;
        }
        let is_seen = |oid: &Oid| self.shard(oid).get(oid).is_some_and(|bits| bits & 0x0f != 0);
        if !tips.iter().all(is_seen) {
            return false;
        }
        for shard in self.shards {
            let table = shard.into_inner().unwrap_or_else(PoisonError::into_inner);
            for (oid, bits) in table.iter() {
                let (seen_as, named_as) = (bits & 0x0f, bits >> 4);
                let fits = named_as == 0 || named_as == seen_as;
                let is_large_blob = seen_as == 0 && named_as == seen(Kind::Blob);
                if !(fits || is_large_blob && has(&oid)) {
                    return false;
                }
            }
        }
        true
    }
}

/// The first entry of a tree, its kind (`None`: a submodule's commit) and name, and what follows it.
fn split_entry<const LEN: usize>(tree: &[u8]) -> Option<(Option<Kind>, &[u8; LEN], &[u8])> {
    let (mode, rest) = tree.split_at_checked(tree.iter().position(|byte| *byte == b' ')?)?;
    // Eight bytes at a time, which `position` does not do.
    let path = CStr::from_bytes_until_nul(rest).ok()?;
    let (name, rest) = rest[path.count_bytes() + 1..].split_first_chunk()?;
    let kind = match mode {
        b"40000" | b"040000" => Some(Kind::Tree),
        b"160000" => None,
        _ => Some(Kind::Blob),
    };
    Some((kind, name, rest))
}

/// What a tree names: each entry's kind (`None`: a submodule's commit) and oid. An entry that can't
/// be read is `None` and the last.
pub(super) fn tree_entries(
    mut tree: &[u8],
    format: ObjectFormat,
) -> impl Iterator<Item = Option<(Option<Kind>, Oid)>> {
    fn next<const LEN: usize>(tree: &[u8]) -> Option<(Option<Kind>, Oid, &[u8])> {
        let (kind, name, rest) = split_entry::<LEN>(tree)?;
        Some((kind, Oid::from_slice(name)?, rest))
    }
    std::iter::from_fn(move || {
        if tree.is_empty() {
            return None;
        }
        let entry = match format {
            ObjectFormat::Sha1 => next::<20>(tree),
            ObjectFormat::Sha256 => next::<32>(tree),
        };
        tree = entry.map_or(&[], |(_, _, rest)| rest);
        Some(entry.map(|(kind, oid, _)| (kind, oid)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn oid(byte: u8) -> Oid {
        Oid::from_bytes([byte; 20])
    }

    fn tree(entries: &[(&str, u8)]) -> Vec<u8> {
        let mut tree = Vec::new();
        for (mode, byte) in entries {
            tree.extend(format!("{mode} name\0").bytes());
            tree.extend([*byte; 20]);
        }
        tree
    }

    /// A commit 1 on a tree 2 that has a blob 3, a folder 4 and a submodule.
    fn looked(blob: bool) -> Connected {
        let connected = Connected::new();
        let commit = format!("tree {}\nauthor x\n", oid(2));
        connected.look(&oid(1), Kind::Commit, commit.as_bytes());
        let root = tree(&[("100644", 3), ("40000", 4), ("160000", 5)]);
        connected.look(&oid(2), Kind::Tree, &root);
        connected.look(&oid(4), Kind::Tree, b"");
        if blob {
            connected.look(&oid(3), Kind::Blob, b"content");
        }
        connected
    }

    #[test]
    fn all_that_is_named_must_be_seen_but_commits_of_submodules() {
        assert!(looked(true).prove(&[oid(1)], |_| false));
        assert!(!looked(true).prove(&[oid(1), oid(7)], |_| true), "a tip is missing");
        assert!(!looked(false).prove(&[oid(1)], |_| false), "a blob is missing");
        assert!(looked(false).prove(&[oid(1)], |asked| *asked == oid(3)), "it was large");
    }

    #[test]
    fn what_is_named_as_something_else_or_cannot_be_read_proves_nothing() {
        let connected = looked(true);
        connected.look(&oid(6), Kind::Tree, &tree(&[("100644", 4)]));
        assert!(!connected.prove(&[oid(1)], |_| true), "a folder that is named as a file");
        for (kind, content) in
            [(Kind::Tree, &b"100644 x\0short"[..]), (Kind::Commit, b"tree 1"), (Kind::Tag, b"")]
        {
            let connected = looked(true);
            connected.look(&oid(6), kind, content);
            assert!(!connected.prove(&[oid(1)], |_| true), "{kind}");
        }
    }

    #[test]
    fn trees_are_read_to_their_end_whatever_their_bytes() {
        let whole = tree(&[("100644", 1), ("40000", 2)]);
        assert!(tree_entries(&whole, ObjectFormat::Sha1).all(|entry| entry.is_some()));
        for cut in 1..whole.len() {
            let entries: Vec<_> = tree_entries(&whole[..cut], ObjectFormat::Sha1).collect();
            assert!(entries.last() == Some(&None) || cut == 32, "{cut}: {entries:?}");
        }
    }
}
