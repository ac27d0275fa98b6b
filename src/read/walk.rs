//! From wanted objects to all that they need and the repository does not have.
//!
//! Commits first, then trees, and files when no tree waits. What an object leads to joins those that are
//! being read, in the order in which it lies in the pack, which is by date: only where it counts how far
//! something was reached, generation follows generation and level level. An object that the repository has
//! is not followed: what it leads to is there as well, or cut off, or left out on purpose; git checks that
//! in the end. How far history is followed is each commit's [`Reach`]; what of trees is left out, the
//! [`Filter`].

use std::collections::{BTreeSet, HashMap, HashSet};
use std::mem::take;
use std::path::PathBuf;

use percent_encoding::percent_decode_str;

use super::connected::tree_entries;
use super::entries::Around;
use super::local::Local;
use super::objects::{Item, Objects, Wanted};
use super::written::PackWriter;
use crate::git::object::{Kind, ObjectFormat, Oid};
use crate::git::oids::OidMap;
use crate::progress::Progress;
use crate::repository::error::MirrorError;
use crate::repository::links::{commit_links, tag_link};

/// Commits lie together in a pack: so much is read behind each.
const COMMITS: Around = Around { before: 0, behind: 64 << 10 };

/// The base of a delta is often right before it.
const OTHERS: Around = Around { before: 4 << 10, behind: 0 };

/// Blobs that are read in one go.
const BLOBS: usize = 16_384;

/// How far history is followed from a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// Down to what the repository has.
    All,
    /// All that lies behind a commit that was cut off.
    Open,
    /// So many commits, this one counted, whatever the repository has.
    Depth(u32),
    /// Commits that are not older than this, in seconds since 1970.
    Since(i64),
}

/// What of trees is left out: git-rev-list(1), `--filter`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Filter {
    /// Trees and blobs so deep below the root and deeper; the root is at 0.
    depth: u32,
    /// Blobs of this size and above.
    blob_bytes: u64,
}

impl Filter {
    const NOTHING: Filter = Filter { depth: u32::MAX, blob_bytes: u64::MAX };

    /// Reads git's words: `blob:none`, `blob:limit=N`, `tree:N`, `object:type=commit`, and `combine:` of
    /// them. `None`: a filter that is not known here.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        if text == "blob:none" {
            return Some(Filter { blob_bytes: 0, ..Filter::NOTHING });
        }
        if text == "object:type=commit" {
            return Some(Filter { depth: 0, ..Filter::NOTHING });
        }
        if let Some(depth) = text.strip_prefix("tree:") {
            return Some(Filter { depth: depth.parse().ok()?, ..Filter::NOTHING });
        }
        if let Some(all) = text.strip_prefix("combine:") {
            // What any of them leaves out is left out.
            return all.split('+').try_fold(Filter::NOTHING, |so_far, one| {
                let one = Filter::parse(&percent_decode_str(one).decode_utf8().ok()?)?;
                Some(Filter {
                    depth: so_far.depth.min(one.depth),
                    blob_bytes: so_far.blob_bytes.min(one.blob_bytes),
                })
            });
        }
        let limit = text.strip_prefix("blob:limit=")?;
        let (digits, unit) = match limit.char_indices().last()? {
            (at, 'k' | 'K') => (&limit[..at], 1 << 10),
            (at, 'm' | 'M') => (&limit[..at], 1 << 20),
            (at, 'g' | 'G') => (&limit[..at], 1 << 30),
            _ => (limit, 1u64),
        };
        let blob_bytes = digits.parse::<u64>().ok()?.checked_mul(unit)?;
        Some(Filter { blob_bytes, ..Filter::NOTHING })
    }
}

/// One walk.
pub(super) struct Walk<'w, 'e> {
    objects: &'w mut Objects<'e>,
    local: &'w Local,
    progress: &'w dyn Progress,
    filter: Filter,
    pack: Option<PackWriter>,
    /// Commits and objects of unknown kind that are read next.
    next: HashMap<Oid, Reach>,
    /// Of commits that were read: the greatest depth that was left, and whether they have parents.
    depths: HashMap<Oid, (u32, bool)>,
    /// Commits whose parents are cut off by their date.
    cut: BTreeSet<Oid>,
    /// Commits that were read and are too old.
    too_old: HashSet<Oid>,
    /// By parent: its children, which are cut off if it is too old.
    children: HashMap<Oid, Vec<Oid>>,
    trees: Vec<Oid>,
    blobs: Vec<Oid>,
    /// Everything that is in the pack, or will be, and what it is, or must be.
    seen: OidMap<Kind>,
}

/// What a walk has made.
pub(super) struct Walked {
    /// The `.keep` of the new pack, if there was anything new.
    pub(super) keep: Option<PathBuf>,
    /// Commits at which history is cut off.
    pub(super) shallow: BTreeSet<Oid>,
    /// Commits whose parents are all there.
    pub(super) unshallow: BTreeSet<Oid>,
    /// Commits that were read and not taken, because of their date.
    pub(super) too_old: HashSet<Oid>,
}

impl<'w, 'e> Walk<'w, 'e> {
    pub(super) fn new(
        objects: &'w mut Objects<'e>,
        local: &'w Local,
        filter: Option<Filter>,
        progress: &'w dyn Progress,
    ) -> Self {
        Walk {
            objects,
            local,
            progress,
            filter: filter.unwrap_or(Filter::NOTHING),
            pack: None,
            next: HashMap::new(),
            depths: HashMap::new(),
            cut: BTreeSet::new(),
            too_old: HashSet::new(),
            children: HashMap::new(),
            trees: Vec::new(),
            blobs: Vec::new(),
            seen: OidMap::default(),
        }
    }

    /// An object to begin with.
    pub(super) fn want(&mut self, oid: Oid, reach: Reach) {
        self.next.insert(oid, reach);
    }

    /// Is the object in the new pack?
    pub(super) fn has_taken(&self, oid: &Oid) -> bool {
        self.seen.contains(oid)
    }

    /// Walks on until nothing is missing. The answer: what was wanted and the mirror does not have.
    /// May be called again after more was wanted.
    pub(super) fn run(&mut self) -> Result<Vec<Oid>, MirrorError> {
        let wanted: HashSet<Oid> = self.next.keys().copied().collect();
        let mut missing = Vec::new();
        while !self.next.is_empty() {
            let wave = take(&mut self.next);
            let oids = wave.keys().copied().collect();
            let mut absent = self.read(oids, COMMITS, |walk, item, more| {
                walk.take_one(item, |oid| wave.get(oid).copied().unwrap_or(Reach::All))?;
                more.oids.extend(
                    walk.next.extract_if(|_, reach| *reach == Reach::All).map(|(oid, _)| oid),
                );
                Ok(())
            })?;
            missing.extend(absent.extract_if(.., |oid| wanted.contains(oid)));
            self.must_have(&absent)?;
        }
        self.walk_trees()?;
        self.take_blobs()?;
        Ok(missing)
    }

    /// Ends the pack.
    pub(super) fn finish(self, promisor: bool) -> Result<Walked, MirrorError> {
        // Their memory is worth more to the index of the pack.
        *self.objects = self.objects.empty();
        let keep = self.pack.map(|pack| pack.finish(promisor)).transpose()?;
        let ends = |(oid, (left, has_parents)): (&Oid, &(u32, bool))| {
            (*left == 1 && *has_parents).then_some(*oid)
        };
        let mut shallow: BTreeSet<Oid> = self.depths.iter().filter_map(ends).collect();
        shallow.extend(self.cut);
        let goes_on = |(oid, (left, _)): (&Oid, &(u32, bool))| (*left > 1).then_some(*oid);
        let unshallow = self.depths.iter().filter_map(goes_on);
        let unshallow = unshallow.filter(|oid| !shallow.contains(oid)).collect();
        Ok(Walked { keep, shallow, unshallow, too_old: self.too_old })
    }

    fn must_have(&self, absent: &[Oid]) -> Result<(), MirrorError> {
        match absent.iter().min() {
            Some(oid) => Err(MirrorError::Mirror(format!(
                "the mirror is missing the object {oid}, which its refs need; run verify on it"
            ))),
            None => Ok(()),
        }
    }

    fn read(
        &mut self,
        oids: Vec<Oid>,
        around: Around,
        mut each: impl FnMut(&mut Self, Item<'_>, &mut Wanted) -> Result<(), MirrorError>,
    ) -> Result<Vec<Oid>, MirrorError> {
        // The objects are lent out for the while: what is done with one does not read others.
        let mut objects = std::mem::replace(self.objects, self.objects.empty());
        let read = objects.read(oids, around, &mut |item, more| each(self, item, more));
        *self.objects = objects;
        read
    }

    fn pack(&mut self, format: ObjectFormat) -> Result<&mut PackWriter, MirrorError> {
        match &mut self.pack {
            Some(pack) => Ok(pack),
            empty => {
                let folder = self.local.objects.join("pack");
                Ok(empty.insert(PackWriter::begin(&folder, format)?))
            }
        }
    }

    fn add(&mut self, item: Item<'_>) -> Result<(), MirrorError> {
        match item {
            Item::Whole { oid, kind, content, stored } => {
                self.progress.received(content.len() as u64);
                self.pack(oid.format())?.add(&oid, kind, content, stored.as_ref())?;
            }
            Item::Large { oid, kind, len, content } => {
                self.progress.received(len);
                self.pack(oid.format())?.add_stream(&oid, kind, len, content)?;
            }
        }
        self.progress.objects_done(1);
        Ok(())
    }

    /// Is it to be fetched? True for the first caller only.
    fn is_new(&mut self, oid: &Oid, kind: Kind) -> bool {
        let is_new = !self.seen.contains(oid) && !self.local.has(oid);
        is_new && self.seen.insert(*oid, kind).is_none()
    }

    fn take_one(
        &mut self,
        item: Item<'_>,
        reach: impl Fn(&Oid) -> Reach,
    ) -> Result<(), MirrorError> {
        let Item::Whole { oid, kind, content, .. } = item else {
            // Only blobs and trees are so large; a tree is not followed, and git says so.
            return self.add(item);
        };
        match kind {
            Kind::Commit => self.take_commit(item, reach(&oid)),
            Kind::Tree if self.is_new(&oid, kind) => {
                self.follow_tree(&oid, content, 0)?;
                self.add(item)
            }
            Kind::Tag => {
                let (target, _) = tag_link(content).ok_or_else(|| unreadable(&oid))?;
                let reach = reach(&oid);
                if reach != Reach::All || !self.local.has(&target) {
                    self.next.insert(target, reach);
                }
                if self.is_new(&oid, kind) { self.add(item) } else { Ok(()) }
            }
            _ if self.is_new(&oid, kind) => self.add(item),
            _ => Ok(()),
        }
    }

    fn take_commit(&mut self, item: Item<'_>, reach: Reach) -> Result<(), MirrorError> {
        let Item::Whole { oid, content, .. } = item else { return Ok(()) };
        let (tree, parents) = commit_links(content).ok_or_else(|| unreadable(&oid))?;
        match reach {
            Reach::All | Reach::Open => {
                if reach == Reach::Open {
                    self.depths.insert(oid, (u32::MAX, true));
                }
                for parent in parents {
                    if !self.seen.contains(&parent) && !self.local.has(&parent) {
                        self.next.entry(parent).or_insert(Reach::All);
                    }
                }
            }
            Reach::Depth(left) => {
                let known = self.depths.get(&oid).map_or(0, |(known, _)| *known);
                if known >= left {
                    return Ok(());
                }
                self.depths.insert(oid, (left, !parents.is_empty()));
                if left > 1 {
                    for parent in parents {
                        let known = self.depths.get(&parent).map_or(0, |(known, _)| *known);
                        if known < left - 1 {
                            self.next.insert(parent, Reach::Depth(left - 1));
                        }
                    }
                }
            }
            Reach::Since(oldest) => {
                if committed_at(content).is_none_or(|at| at < oldest) {
                    self.too_old.insert(oid);
                    self.cut.extend(self.children.remove(&oid).unwrap_or_default());
                    return Ok(());
                }
                self.children.remove(&oid);
                for parent in parents {
                    if self.too_old.contains(&parent) {
                        self.cut.insert(oid);
                    } else if !self.depths.contains_key(&parent) {
                        self.children.entry(parent).or_default().push(oid);
                        self.next.insert(parent, reach);
                    }
                }
                self.depths.insert(oid, (u32::MAX, true));
            }
        }
        if self.is_new(&oid, Kind::Commit) {
            self.want_tree(tree, 0);
            self.add(item)?;
        }
        Ok(())
    }

    fn want_tree(&mut self, tree: Oid, depth: u32) {
        if depth < self.filter.depth && self.is_new(&tree, Kind::Tree) {
            self.trees.push(tree);
        }
    }

    /// Notes what a tree at `depth` leads to.
    fn follow_tree(&mut self, oid: &Oid, content: &[u8], depth: u32) -> Result<(), MirrorError> {
        let bad = || MirrorError::Mirror("a tree of the mirror cannot be read".into());
        for entry in tree_entries(content, oid.format()) {
            match entry.ok_or_else(bad)? {
                (Some(Kind::Tree), oid) => self.want_tree(oid, depth + 1),
                (Some(_), oid) => self.want_blob(oid, depth + 1),
                (None, _) => {}
            }
        }
        Ok(())
    }

    fn want_blob(&mut self, blob: Oid, depth: u32) {
        let Filter { depth: most, blob_bytes } = self.filter;
        if depth < most && blob_bytes > 0 && self.is_new(&blob, Kind::Blob) {
            self.blobs.push(blob);
        }
    }

    /// Takes trees, and files with them if nothing is left out by depth or size: then no level waits for
    /// the one above it.
    fn walk_trees(&mut self) -> Result<(), MirrorError> {
        let Filter { depth: most, blob_bytes } = self.filter;
        for depth in 0.. {
            let trees = take(&mut self.trees);
            if trees.is_empty() {
                break;
            }
            let absent = self.read(trees, OTHERS, |walk, item, more| {
                walk.must_be_due(&item)?;
                match item {
                    Item::Whole { oid, kind: Kind::Tree, content, .. } => {
                        walk.follow_tree(&oid, content, depth)?;
                    }
                    Item::Large { oid, kind: Kind::Tree, .. } => return Err(unreadable(&oid)),
                    _ => {}
                }
                if most == u32::MAX {
                    more.oids.append(&mut walk.trees);
                    if blob_bytes == u64::MAX {
                        more.files.append(&mut walk.blobs);
                    }
                }
                walk.add(item)
            })?;
            self.must_have(&absent)?;
            if self.blobs.len() >= BLOBS {
                self.take_blobs()?;
            }
        }
        Ok(())
    }

    fn take_blobs(&mut self) -> Result<(), MirrorError> {
        let mut blobs = take(&mut self.blobs);
        let limit = self.filter.blob_bytes;
        if limit != u64::MAX {
            // Deflated data is never longer than the content by more than a thousandth and a header: a
            // longer entry is a larger blob, or a delta that makes one.
            let most = limit.saturating_add(limit / 1000 + 64);
            let lens = self.objects.stored_lens(&blobs)?;
            blobs.retain(|blob| lens.get(blob).is_none_or(|len| *len <= most));
        }
        let absent = self.read(blobs, OTHERS, |walk, item, _| {
            walk.must_be_due(&item)?;
            match &item {
                Item::Whole { content, .. } if content.len() as u64 >= limit => Ok(()),
                Item::Large { len, .. } if *len >= limit => Ok(()),
                _ => walk.add(item),
            }
        })?;
        self.must_have(&absent)
    }

    /// It must be what a tree or a commit said that it is.
    fn must_be_due(&self, item: &Item<'_>) -> Result<(), MirrorError> {
        let (Item::Whole { oid, kind, .. } | Item::Large { oid, kind, .. }) = item;
        match self.seen.get(oid) == Some(kind) {
            true => Ok(()),
            false => Err(unreadable(oid)),
        }
    }
}

fn unreadable(oid: &Oid) -> MirrorError {
    MirrorError::Mirror(format!("the mirror's object {oid} is not of the expected kind"))
}

/// The time of the `committer` line: `committer <name> <<mail>> <seconds> <zone>`.
fn committed_at(commit: &[u8]) -> Option<i64> {
    let line = commit.split(|byte| *byte == b'\n').find(|line| line.starts_with(b"committer "))?;
    let end = line.iter().rposition(|byte| *byte == b'>')?;
    let text = std::str::from_utf8(&line[end + 1..]).ok()?;
    text.split_ascii_whitespace().next()?.parse().ok()
}
