//! Another mirror as a source like others: for some of its refs, or if its keys cannot be listed.
//!
//! A walk finds what the wanted refs reach and what the haves reach not, and that comes as a pack, which
//! is laid out in the target as any other. Of what the haves reach all commits are walked, but only the
//! trees of the last ones that both sides share: so an object that left history and came back later is
//! sent again, as git does.

use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};

use super::options::Options;
use crate::git::object::{Kind, ObjectFormat, Oid};
use crate::git::oids::ManyOids;
use crate::git::refs::Advertisement;
use crate::maintain::walk::{Elsewhere, Pointers, Problem, Walk};
use crate::repository::error::MirrorError;
use crate::repository::packed::{self, Packs};
use crate::run::MIN_MEMORY_BYTES;
use crate::source::{LfsSource, Source, SourceError};
use crate::transfer::MirrorSource;
use crate::transfer::sending::{Chosen, PackStream};

/// A mirror that is walked.
pub(super) struct Part<'m> {
    from: &'m MirrorSource,
    options: &'m Options,
}

impl<'m> Part<'m> {
    /// `None`: all keys can be copied as they are.
    pub(super) fn of(from: &'m MirrorSource, options: &'m Options) -> Option<Self> {
        let is_part = !from.is_listed() || !options.refs.is_everything();
        is_part.then_some(Part { from, options })
    }

    fn memory_bytes(&self) -> u64 {
        self.options.memory_bytes.max(MIN_MEMORY_BYTES)
    }

    fn damaged(&self, key: &str, what: &str) -> MirrorError {
        let place = self.from.store().describe();
        MirrorError::Mirror(format!(
            "{place}/{key} is damaged: {what}; nothing was published; run verify on that mirror"
        ))
    }

    fn packs(&self) -> Result<Packs, MirrorError> {
        let store = &**self.from.store();
        let mut bad = None;
        let mut tell = |key: String, what: String| {
            bad.get_or_insert((key, what));
        };
        let names = packed::listed_names(store, &mut tell)?;
        let packs = packed::open_all(store, &names, &mut tell)?;
        match bad {
            None => Ok(packs),
            Some((key, what)) => Err(self.damaged(&key, &what)),
        }
    }

    fn walk(
        &self,
        packs: &Packs,
        tips: &[(Oid, Option<Kind>)],
        elsewhere: Elsewhere<'_>,
        problem: &(dyn Fn(Problem) + Sync),
    ) -> Result<ManyOids, MirrorError> {
        let walk = Walk {
            store: &**self.from.store(),
            packs,
            threads: self.options.concurrency,
            memory_bytes: self.memory_bytes() / 2,
            cancel: &self.options.cancel,
            read_blobs: false,
            // Each is read afterwards.
            blobs_exist: false,
            stored: None,
            pointers: Pointers::No,
            elsewhere,
        };
        Ok(walk.run(tips, problem)?.objects)
    }

    /// What `wants` reach and `haves` do not.
    fn choose(&self, packs: &Packs, wants: &[Oid], haves: &[Oid]) -> Result<ManyOids, MirrorError> {
        let tips = |oids: &[Oid]| oids.iter().map(|oid| (*oid, None)).collect::<Vec<_>>();
        let first_bad = Mutex::new(None);
        let bad = |Problem { key, what, .. }: Problem| {
            let mut first = first_bad.lock().unwrap_or_else(PoisonError::into_inner);
            first.get_or_insert((key, what));
        };
        let is_commit_link = |kind: Option<Kind>| !matches!(kind, Some(Kind::Tree | Kind::Blob));
        // The target has all of it, so what this mirror is missing there does not matter.
        let shared = match haves.is_empty() {
            true => ManyOids::default(),
            false => self.walk(packs, &tips(haves), &|_, kind| !is_commit_link(kind), &|_| ())?,
        };
        let border = Mutex::new(ManyOids::default());
        if !shared.is_empty() {
            let stops = |oid: &Oid, kind| {
                let is_shared = shared.contains(oid);
                if is_shared {
                    border.lock().unwrap_or_else(PoisonError::into_inner).add(*oid);
                }
                is_shared || !is_commit_link(kind)
            };
            self.walk(packs, &tips(wants), &stops, &|_| ())?;
        }
        let border: Vec<Oid> =
            border.into_inner().unwrap_or_else(PoisonError::into_inner).iter().collect();
        let is_parent = |_: &Oid, kind| kind == Some(Kind::Commit);
        let known = match border.is_empty() {
            true => ManyOids::default(),
            false => self.walk(packs, &tips(&border), &is_parent, &|_| ())?,
        };
        let is_there = |oid: &Oid, _| shared.contains(oid) || known.contains(oid);
        let chosen = self.walk(packs, &tips(wants), &is_there, &bad)?;
        match first_bad.into_inner().unwrap_or_else(PoisonError::into_inner) {
            None => Ok(chosen),
            Some((key, what)) => Err(self.damaged(&key, &what)),
        }
    }

    fn send(&self, wants: &[Oid], haves: &[Oid]) -> Result<PackStream, MirrorError> {
        let packs = self.packs()?;
        let objects = self.choose(&packs, wants, haves)?;
        log::info!("{}: {} objects to copy", self.from.describe(), objects.len());
        let chosen = Chosen {
            store: Arc::clone(self.from.store()),
            packs,
            format: wants.first().map_or_else(ObjectFormat::default, Oid::format),
            objects,
            concurrency: self.options.concurrency,
            memory_bytes: self.memory_bytes() / 2,
        };
        PackStream::begin(chosen, self.from.describe())
    }
}

impl Source for Part<'_> {
    fn describe(&self) -> String {
        self.from.describe()
    }

    fn origin(&self) -> Option<String> {
        self.from.origin()
    }

    fn advertisement(&self) -> Result<Advertisement, SourceError> {
        self.from.advertisement()
    }

    fn fetch<'a>(
        &'a self,
        wants: &[Oid],
        haves: &[Oid],
        _: Box<dyn FnMut(&str) + Send + 'a>,
    ) -> Result<Box<dyn Read + Send + 'a>, SourceError> {
        let stream = self.send(wants, haves).map_err(|error| self.from.failed(&error))?;
        Ok(Box::new(stream))
    }

    fn lfs(&self, _: Option<&[u8]>) -> Option<Box<dyn LfsSource + '_>> {
        Some(self.from.stored_lfs())
    }

    fn requests(&self) -> u64 {
        self.from.requests()
    }
}
