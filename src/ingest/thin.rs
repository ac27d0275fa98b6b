//! Bundles with prerequisites: what was new since some commits that the mirror has.
//!
//! Such a source differs from a whole repository in three things. Its refs are those that moved, so
//! that the others stay ([`join`]). Everything that its prerequisites reach must be in the mirror:
//! they are looked for among what the published refs reach, because an object may be stored whose
//! history is not (of a run that was killed; [`check`]). And its pack is thin: deltas have bases that
//! are in the mirror alone. Those that are loose are read from there like any base; those in packs
//! are stored as loose objects too, as if they had come with the pack ([`from_packs`]; `git
//! index-pack --fix-thin` appends them). So a thin pack always becomes loose objects, whatever the
//! layout: kept as it is, no dumb reader could use it.

use std::collections::{BTreeSet, BinaryHeap, HashSet};

use crate::git::object::{Kind, Oid, hash_object};
use crate::git::refs::{Advertisement, Head};
use crate::repository::error::MirrorError;
use crate::repository::links::commit_links;
use crate::repository::objects::ReadObject;
use crate::repository::packed::{Pack, PackedReader, Packs, ReadError};
use crate::repository::packs;
use crate::repository::publish::{Published, listed_packs};
use crate::source::{Source, SourceError, SourceErrorKind};
use crate::store::Store;

/// The refs of the mirror after a source that tells only those that moved.
pub(crate) fn join(published: &Published, moved: Advertisement) -> Advertisement {
    let mut refs = moved.refs;
    let find = |refs: &[_], name: &_| {
        refs.binary_search_by(|r: &crate::git::refs::Ref| r.name.cmp(name)).ok()
    };
    let stay = published.refs.iter().filter(|r| find(&refs, &r.name).is_none());
    let stay: Vec<_> = stay.cloned().collect();
    refs.extend(stay);
    refs.sort_by(|a, b| a.name.cmp(&b.name));
    let oid_of = |name| find(&refs, name).map(|at| refs[at].oid);
    let head = match (&moved.head, &published.head) {
        (Head::Absent, Some(head)) => head.clone(),
        // A bundle tells HEAD's oid alone, and the branch is a guess: the one that it was wins.
        (Head::Branch(guess), Some(Head::Branch(was))) if oid_of(guess) == oid_of(was) => {
            Head::Branch(was.clone())
        }
        _ => moved.head,
    };
    Advertisement { format: moved.format, refs, head }
}

/// Does the mirror have all that `prerequisites` reach? Refuses if not. Commits are read from the
/// published refs backwards, the youngest first, until all are found: usually they are the refs
/// themselves, and nothing is read.
pub(crate) fn check(
    source: &dyn Source,
    published: &Published,
    prerequisites: &[Oid],
    read: &mut ReadObject<'_>,
) -> Result<(), MirrorError> {
    let tips = published.refs.iter().flat_map(|r| [Some(r.oid), r.peeled]).flatten();
    let head = match published.head {
        Some(Head::Detached(oid)) => Some(oid),
        _ => None,
    };
    let mut seen: HashSet<Oid> = tips.chain(head).collect();
    let mut missing: BTreeSet<Oid> =
        prerequisites.iter().filter(|oid| !seen.contains(oid)).copied().collect();
    // What is not stored at all need not be walked for.
    let mut absent = Vec::new();
    for oid in &missing {
        if read(oid)?.is_none() {
            absent.push(*oid);
        }
    }
    if !absent.is_empty() {
        return Err(refuse(source, &absent));
    }
    let mut by_age = BinaryHeap::new();
    let mut new: Vec<Oid> =
        if missing.is_empty() { Vec::new() } else { seen.iter().copied().collect() };
    loop {
        for oid in new.drain(..) {
            if let Some((Kind::Commit, content)) = read(&oid)?
                && let Some((_, parents)) = commit_links(&content)
            {
                by_age.push((committed_at(&content), parents));
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let Some((_, parents)) = by_age.pop() else {
            return Err(refuse(source, &missing.into_iter().collect::<Vec<_>>()));
        };
        for parent in parents {
            missing.remove(&parent);
            if seen.insert(parent) {
                new.push(parent);
            }
        }
    }
}

/// When a commit was made, in seconds since 1970; 0 if it does not say so.
fn committed_at(commit: &[u8]) -> u64 {
    let mut lines = commit.split(|byte| *byte == b'\n').take_while(|line| !line.is_empty());
    let line = lines.find_map(|line| line.strip_prefix(b"committer "));
    let time = line.and_then(|line| line.rsplit(|byte| *byte == b' ').nth(1));
    time.and_then(|time| std::str::from_utf8(time).ok()?.parse().ok()).unwrap_or(0)
}

fn refuse(source: &dyn Source, missing: &[Oid]) -> MirrorError {
    let names: Vec<_> = missing.iter().take(5).map(Oid::to_string).collect();
    let more = if missing.len() > 5 { " and more" } else { "" };
    MirrorError::Source(SourceError {
        kind: SourceErrorKind::Fatal,
        url: source.describe(),
        message: format!(
            "its prerequisites are missing from the mirror: {}{more}; import the \
             bundles in between first, or a full one (git bundle create FILE HEAD --all)",
            names.join(", ")
        ),
    })
}

/// Reads those of `missing` that are in listed packs, the newest pack first, and hands each to
/// `take`. One index is in memory at a time, and objects of up to `memory_bytes`.
pub(crate) fn from_packs(
    store: &dyn Store,
    missing: Vec<Oid>,
    memory_bytes: u64,
    take: &mut dyn FnMut(Kind, Vec<u8>) -> Result<(), MirrorError>,
) -> Result<(), MirrorError> {
    let mut missing: BTreeSet<Oid> = missing.into_iter().collect();
    for name in listed_packs(store)?.iter().rev() {
        if missing.is_empty() {
            break;
        }
        let damaged = |key: &dyn std::fmt::Display, what: &dyn std::fmt::Display| {
            MirrorError::Mirror(format!("the stored pack {}/{key}: {what}", store.describe()))
        };
        let pack = Pack::open(store, name)?.map_err(|(key, what)| damaged(&key, &what))?;
        let found = missing.iter().filter_map(|oid| Some((pack.index.lookup(oid)?, *oid)));
        let found: BTreeSet<(u64, Oid)> = found.collect();
        let opened = Packs(vec![pack]);
        let mut reader = PackedReader::new(store, &opened, memory_bytes);
        for (offset, oid) in found {
            let (kind, content) = reader.read((0, offset)).map_err(|error| {
                let key = packs::key(name, "pack");
                match error {
                    ReadError::Store(error) => error.into(),
                    ReadError::Damaged(what) => damaged(&key, &format!("{oid}: {what}")),
                    ReadError::TooLarge(bytes) => damaged(
                        &key,
                        &format!(
                            "{oid}, which a delta needs, takes {bytes} bytes: raise --memory, or use a \
                             full bundle (git bundle create FILE HEAD --all)"
                        ),
                    ),
                }
            })?;
            let is = hash_object(oid.format(), kind, &content)
                .map_err(|c| damaged(&packs::key(name, "pack"), &c.to_string()))?;
            if is != oid {
                return Err(damaged(&packs::key(name, "pack"), &format!("{oid} is {is}")));
            }
            take(kind, content.to_vec())?;
            missing.remove(&oid);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn age_of_a_commit_is_its_committers() {
        let commit = b"tree x\nauthor A <a> 1 +0000\ncommitter C c <c> 1700000000 -0330\n\nx";
        assert_eq!(committed_at(commit), 1_700_000_000);
        assert_eq!(committed_at(b"tree x\n\ncommitter C <c> 5 +0000\n"), 0);
        assert_eq!(committed_at(b""), 0);
    }
}
