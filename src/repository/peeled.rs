//! What annotated tags point at in the end, for sources that don't say: a bundle has no `^{}` lines.
//!
//! `info/refs` needs them: git's dumb client follows new tags on a fetch only by their peeled oids
//! (`http.c`, and `builtin/fetch.c`, `find_non_local_tags`). They are taken from the tags that pass
//! through a run, and from what is published already.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::links::tag_link;
use crate::git::object::Oid;
use crate::git::refs::{Advertisement, Ref};

/// Tags, and what each points at: perhaps another tag. 40 bytes a tag, and the table's.
#[derive(Default)]
pub(crate) struct Tags(Mutex<HashMap<Oid, Oid>>);

impl Tags {
    /// Takes in a tag of which `content` is all.
    pub(crate) fn look(&self, oid: Oid, content: &[u8]) {
        // One that can't be parsed is its reader's trouble, as everywhere in git.
        if let Some((target, _)) = tag_link(content) {
            self.lock().insert(oid, target);
        }
    }

    /// Takes in what is published.
    pub(crate) fn know(&self, refs: &[Ref]) {
        let peeled = refs.iter().filter_map(|r| Some((r.oid, r.peeled?)));
        self.lock().extend(peeled);
    }

    /// Says of each ref that a source has said nothing of what it peels to.
    pub(crate) fn fill(&self, refs: &mut Advertisement) {
        let tags = self.lock();
        for r in refs.refs.iter_mut().filter(|r| r.peeled.is_none()) {
            // A chain of tags has no circle: each names the next by its hash.
            let mut at = r.oid;
            while let Some(target) = tags.get(&at) {
                at = *target;
                r.peeled = Some(at);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Oid, Oid>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::git::refs::{Head, RefName};

    fn oid(byte: u8) -> Oid {
        Oid::from_bytes([byte; 20])
    }

    #[test]
    fn tags_are_peeled_through_tags_and_only_where_nothing_is_said() {
        let tags = Tags::default();
        let tag = |target: Oid, kind: &str| format!("object {target}\ntype {kind}\ntag x\n");
        tags.look(oid(1), tag(oid(2), "tag").as_bytes());
        tags.look(oid(2), tag(oid(3), "commit").as_bytes());
        tags.look(oid(4), b"no tag");
        let published = |byte, peeled| Ref {
            name: RefName::new(format!("refs/tags/{byte}")).unwrap(),
            oid: oid(byte),
            peeled,
        };
        tags.know(&[published(5, Some(oid(6))), published(7, None)]);
        let refs = vec![
            published(1, None),
            published(2, Some(oid(9))),
            published(4, None),
            published(5, None),
            published(7, None),
        ];
        let mut refs = Advertisement::of(refs, Head::Absent);
        tags.fill(&mut refs);
        let peeled: Vec<_> = refs.refs.iter().map(|r| r.peeled).collect();
        assert_eq!(peeled, [Some(oid(3)), Some(oid(9)), None, Some(oid(6)), None]);
    }
}
