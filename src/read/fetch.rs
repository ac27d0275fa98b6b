//! One fetch: which packs come whole, which objects singly, and what git learns of it.
//!
//! A pack comes whole if it is not small and more than half of it is missing here, which some of its
//! names tell, because names are hashes; a clone takes all packs. Then a walk brings what is still
//! missing. If a pack is gone meanwhile (gc, compaction), all begins again with the new list; what was
//! downloaded of packs that are still listed is not lost.

use std::collections::BTreeSet;
use std::path::PathBuf;

pub(crate) use super::walk::Filter;
pub(crate) use super::whole::Trust;

use super::local::Local;
use super::objects::Objects;
use super::walk::{Reach, Walk};
use super::whole;
use crate::git::object::{ObjectFormat, Oid};
use crate::git::refs::{Head, Ref, format_of};
use crate::progress::Progress;
use crate::repository::error::MirrorError;
use crate::repository::publish::{Published, listed_packs};
use crate::repository::state::{self, Recorded};
use crate::store::Store;

/// A smaller pack is read by the walk, which takes no more of it than is needed.
const WHOLE_FROM_BYTES: u64 = 1 << 20;

/// So many names of a pack tell how much of it is missing.
const SAMPLE: usize = 400;

/// Lists that change while they are read.
const TRIES: u32 = 5;

/// A file `info/refs` of some hundred thousand refs; a larger one does not fit into memory.
const MAX_REFS_BYTES: u64 = 64 << 20;

/// `--unshallow`: git's own "infinite" (`INFINITE_DEPTH` in its shallow.h).
const INFINITE_DEPTH: u32 = 0x7fff_ffff;

/// What a mirror has published.
#[derive(Debug)]
pub(crate) struct Refs {
    pub(crate) refs: Vec<Ref>,
    pub(crate) head: Head,
    /// What the objects are named with.
    pub(crate) format: ObjectFormat,
}

impl Refs {
    pub(crate) fn read(store: &dyn Store) -> Result<Self, MirrorError> {
        let published = Published::read(store, MAX_REFS_BYTES)?;
        if !published.exists() {
            let place = store.describe();
            let words = format!("there is no mirror at {place}: {place}/info/refs is missing");
            return Err(MirrorError::Mirror(words));
        }
        let head = published.head.clone().unwrap_or(Head::Absent);
        // Refs tell by themselves; only of an empty mirror the state is asked.
        let format = match format_of(&published.refs, &head) {
            Some(format) => format,
            None => format_of_state(store, &published),
        };
        Ok(Refs { refs: published.refs, head, format })
    }
}

/// What the state says, if this reader may see it.
fn format_of_state(store: &dyn Store, published: &Published) -> ObjectFormat {
    let recorded = Recorded::read(store);
    let format =
        recorded.and_then(|recorded| state::object_format(store, published, recorded.as_ref()));
    format
        .unwrap_or_else(|error| {
            log::info!("treating the empty mirror as SHA-1: {error}");
            None
        })
        .unwrap_or_default()
}

/// How much of history is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Depth {
    /// As much as the repository has, or all.
    #[default]
    AsItIs,
    /// `--depth N`.
    Commits(u32),
    /// `--deepen N`: so many more.
    More(u32),
    /// `--shallow-since`: seconds since 1970.
    Since(i64),
}

/// What git asks for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Request {
    /// Objects, most of them refs' own.
    pub(crate) wants: Vec<Oid>,
    pub(crate) depth: Depth,
    pub(crate) filter: Option<Filter>,
    /// The remote is where missing objects can be fetched later: packs get a `.promisor`.
    pub(crate) from_promisor: bool,
    /// Tags that lead to what is fetched are wanted, too.
    pub(crate) follow_tags: bool,
    pub(crate) trust: Trust,
}

/// What was done.
#[derive(Debug, Default)]
pub(crate) struct Fetched {
    /// `.keep` files, for git to remove once its refs are written.
    pub(crate) keeps: Vec<PathBuf>,
    /// One new pack has everything that is wanted, and all that it leads to.
    pub(crate) is_connected: bool,
}

/// Fetches what `request` wants of the mirror in `store`, whose refs are `refs`.
pub(crate) fn fetch(
    store: &dyn Store,
    refs: &[Ref],
    local: &mut Local,
    request: &Request,
    progress: &dyn Progress,
) -> Result<Fetched, MirrorError> {
    let mut list = listed_packs(store)?;
    let mut keeps = Vec::new();
    let mut tries = 1;
    loop {
        let attempt = Attempt { store, refs, request, progress, list: &list };
        match attempt.run(local, &mut keeps) {
            Err(MirrorError::Store(error)) if error.is_not_found() && tries < TRIES => {
                let now = listed_packs(store)?;
                if now == list {
                    return Err(error.into());
                }
                log::info!("{error}; the mirror has changed meanwhile, trying its new packs");
                (list, tries) = (now, tries + 1);
            }
            Ok(is_connected) => {
                return Ok(Fetched { is_connected: is_connected && keeps.len() == 1, keeps });
            }
            Err(error) => return Err(error),
        }
    }
}

struct Attempt<'a> {
    store: &'a dyn Store,
    refs: &'a [Ref],
    request: &'a Request,
    progress: &'a dyn Progress,
    list: &'a [String],
}

impl Attempt<'_> {
    fn is_unshallow(&self) -> bool {
        matches!(self.request.depth, Depth::Commits(depth) if depth >= INFINITE_DEPTH)
    }

    /// May whole packs be taken?
    fn wants_all(&self) -> bool {
        let is_deep = self.request.depth == Depth::AsItIs || self.is_unshallow();
        is_deep && self.request.filter.is_none()
    }

    fn run(&self, local: &mut Local, keeps: &mut Vec<PathBuf>) -> Result<bool, MirrorError> {
        let (request, was_empty) = (self.request, local.is_empty());
        let shallow = local.shallow()?;
        let is_part = !shallow.is_empty() && !self.is_unshallow();
        if self.wants_all() && was_empty && !self.list.is_empty() {
            let is_connected = self.take_whole(local, self.list, keeps)?;
            if request.wants.iter().all(|oid| local.has(oid)) {
                return Ok(is_connected);
            }
        }
        let mut objects = Objects::open(self.store, self.list, was_empty)?;
        if self.wants_all() && !was_empty && !request.from_promisor && !is_part {
            let mostly_new = self.mostly_new(&mut objects, local)?;
            if !mostly_new.is_empty() {
                self.take_whole(local, &mostly_new, keeps)?;
            }
        }
        let is_first = keeps.is_empty();
        let has_walked = self.walk(&mut objects, local, &shallow, keeps)?;
        local.open_packs()?;
        Ok(was_empty && is_first && has_walked)
    }

    fn take_whole(
        &self,
        local: &mut Local,
        names: &[String],
        keeps: &mut Vec<PathBuf>,
    ) -> Result<bool, MirrorError> {
        let Request { wants, trust, from_promisor, .. } = self.request;
        let (store, progress) = (self.store, self.progress);
        let installed =
            whole::download(store, local, names, wants, *trust, *from_promisor, progress)?;
        keeps.push(installed.keep);
        local.open_packs()?;
        Ok(installed.is_connected)
    }

    fn mostly_new(
        &self,
        objects: &mut Objects<'_>,
        local: &Local,
    ) -> Result<Vec<String>, MirrorError> {
        if self.request.wants.iter().all(|oid| local.has(oid)) && !self.is_unshallow() {
            return Ok(Vec::new());
        }
        let mut names = Vec::new();
        for (number, name) in self.list.iter().enumerate() {
            let sample = objects.index(number).some_names(SAMPLE);
            let missing = sample.iter().filter(|oid| !local.has(oid)).count();
            if 2 * missing > sample.len() && objects.pack_len(number)? >= WHOLE_FROM_BYTES {
                names.push(name.clone());
            }
        }
        Ok(names)
    }

    /// Brings single objects. True: everything that is wanted was followed to its end.
    fn walk(
        &self,
        objects: &mut Objects<'_>,
        local: &Local,
        shallow: &BTreeSet<Oid>,
        keeps: &mut Vec<PathBuf>,
    ) -> Result<bool, MirrorError> {
        let request = self.request;
        let mut walk = Walk::new(objects, local, request.filter, self.progress);
        let reach = match request.depth {
            Depth::Commits(depth) if !self.is_unshallow() => Reach::Depth(depth.max(1)),
            Depth::Since(oldest) => Reach::Since(oldest),
            _ => Reach::All,
        };
        for oid in &request.wants {
            if reach != Reach::All || !local.has(oid) {
                walk.want(*oid, reach);
            }
        }
        let mut missing = walk.run()?;
        let goes_on = match request.depth {
            Depth::More(more) => Some(Reach::Depth(more.saturating_add(1))),
            _ if self.is_unshallow() => Some(Reach::Open),
            _ => None,
        };
        if let Some(goes_on) = goes_on {
            shallow.iter().for_each(|oid| walk.want(*oid, goes_on));
            // A commit that the mirror no longer has stays where it is cut off.
            walk.run()?;
        }
        missing.retain(|oid| request.wants.contains(oid));
        if let Some(oid) = missing.iter().min() {
            let words = format!("the mirror does not have the object {oid}");
            return Err(MirrorError::Mirror(words));
        }
        if request.follow_tags {
            self.follow_tags(&mut walk, local)?;
        }
        let is_cut = request.depth != Depth::AsItIs;
        let walked = walk.finish(request.from_promisor)?;
        keeps.extend(walked.keep);
        if is_cut {
            let mut now = shallow.clone();
            now.retain(|oid| !walked.unshallow.contains(oid));
            now.extend(walked.shallow);
            if matches!(request.depth, Depth::Since(_))
                && request.wants.iter().all(|w| walked.too_old.contains(w))
                && !request.wants.is_empty()
            {
                let words = "no commits selected for shallow requests";
                return Err(MirrorError::Mirror(words.into()));
            }
            if now != *shallow {
                local.set_shallow(&now)?;
            }
        }
        Ok(!is_cut && request.filter.is_none())
    }

    /// Wants the tags whose targets have come.
    fn follow_tags(&self, walk: &mut Walk<'_, '_>, local: &Local) -> Result<(), MirrorError> {
        let tags: Vec<Oid> = self
            .refs
            .iter()
            .filter(|r| r.peeled.is_some_and(|target| walk.has_taken(&target)))
            .map(|r| r.oid)
            .filter(|oid| !local.has(oid) && !walk.has_taken(oid))
            .collect();
        tags.into_iter().for_each(|oid| walk.want(oid, Reach::All));
        walk.run().map(|_| ())
    }
}
