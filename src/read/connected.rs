//! Does every object of a pack lead only to objects of the same pack? Seen while they are indexed.
//!
//! One table of names: which were seen, as what, and which were named by others, as what. At the end
//! no name may be left that was named and not seen. That is what `git index-pack
//! --check-self-contained-and-connected` proves for a clone over smart HTTP; it saves git a walk over
//! all history. 22 to 44 bytes an object. Submodules' commits lead out of the repository and are not
//! followed (git's `fsck_walk_tree`).

use std::cell::RefCell;
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

thread_local! {
    /// Whose names, and the names.
    static RECENTLY: RefCell<(u64, Vec<(Oid, u8)>)> = const { RefCell::new((0, Vec::new())) };
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

    fn mark(&self, oid: &Oid, bit: u8) {
        let is_recent = RECENTLY.with_borrow_mut(|(number, recent)| {
            if *number != self.number || recent.is_empty() {
                *number = self.number;
                *recent = vec![(oid.format().null(), 0); RECENT];
            }
            let [a, b] = [oid.as_bytes()[0], oid.as_bytes()[1]];
            let slot = &mut recent[usize::from(u16::from_ne_bytes([a, b])) % RECENT];
            std::mem::replace(slot, (*oid, bit)) == (*oid, bit)
        });
        if !is_recent {
            *self.shard(oid).entry(oid) |= bit;
        }
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
            Kind::Tree => {
                for entry in tree_entries(content, format) {
                    if let (Some(kind), oid) = entry? {
                        self.mark(&oid, named(kind));
                    }
                }
            }
            Kind::Commit => {
                let (tree, parents) = commit_links(content)?;
                self.mark(&tree, named(Kind::Tree));
                parents.iter().for_each(|parent| self.mark(parent, named(Kind::Commit)));
            }
            Kind::Tag => {
                let (target, kind) = tag_link(content)?;
                self.mark(&target, named(kind));
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

/// What a tree names: each entry's kind (`None`: a submodule's commit) and oid. An entry that can't
/// be read is `None` and the last.
pub(super) fn tree_entries(
    mut tree: &[u8],
    format: ObjectFormat,
) -> impl Iterator<Item = Option<(Option<Kind>, Oid)>> {
    let mut next = move || {
        let (mode, rest) = tree.split_at_checked(tree.iter().position(|byte| *byte == b' ')?)?;
        let end = rest.iter().position(|byte| *byte == 0)?;
        let (oid, rest) = format.split_oid(&rest[end + 1..])?;
        tree = rest;
        let kind = match mode {
            b"40000" | b"040000" => Some(Kind::Tree),
            b"160000" => None,
            _ => Some(Kind::Blob),
        };
        Some(((kind, oid), tree.is_empty()))
    };
    let mut ended = tree.is_empty();
    std::iter::from_fn(move || {
        if ended {
            return None;
        }
        let entry = next();
        ended = entry.as_ref().is_none_or(|(_, is_last)| *is_last);
        Some(entry.map(|(entry, _)| entry))
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
