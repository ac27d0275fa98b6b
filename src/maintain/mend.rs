//! What of a damaged mirror can be repaired without its source.
//!
//! An index is made again from its pack; a list of packs from the packs that are there; a damaged pack
//! is replaced by what is sound of it (`salvage`); and damaged loose objects that a sound pack holds are
//! deleted, or readers, who ask for the loose one first, would stumble over them. Damaged bundles are
//! taken back: with their list they are deleted.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use super::bundle_check;
use super::compact::Compaction;
use super::inventory::{self, FoundPack, packs_there};
use super::pass::Pass;
use super::rebuild::rebuild;
use super::salvage::salvage;
use crate::git::lfs_pointer::LfsPointer;
use crate::git::object::Oid;
use crate::git::refs::parse_info_refs;
use crate::lfs::Remembered;
use crate::progress::Progress;
use crate::repository::checked_loose::CheckedLoose;
use crate::repository::error::MirrorError;
use crate::repository::fence::Fence;
use crate::repository::files;
use crate::repository::history::{self, Name};
use crate::repository::listing;
use crate::repository::loose;
use crate::repository::packed::{self, Packs, ReadError};
use crate::repository::packs;
use crate::repository::publish::{self, Published};
use crate::repository::state;
use crate::repository::temp::TempKeys;
use crate::run::Cancel;
use crate::run::threads::for_each;
use crate::store::{Key, ObjectHeaders, Store};

/// As git's own http-backend serves it (`http-backend.c`, `get_idx_file`).
const INDEX: ObjectHeaders = ObjectHeaders::immutable("application/x-git-packed-objects-toc");

const PLAIN: ObjectHeaders = ObjectHeaders::changing("text/plain");

const LIST: &str = "objects/info/packs";

/// How to read what is there.
pub struct Mender<'m> {
    /// The mirror.
    pub store: &'m dyn Store,
    /// Memory for packs, in bytes.
    pub memory_bytes: u64,
    /// Requests in flight.
    pub concurrency: usize,
    /// To stop it.
    pub cancel: &'m Cancel,
    /// Who watches.
    pub progress: &'m dyn Progress,
}

/// What was repaired.
#[derive(Debug, Default)]
pub struct Mended {
    /// Something was.
    pub any: bool,
    /// Keys of damaged packs that another has taken the place of. They are still there.
    pub replaced: BTreeSet<String>,
}

impl Mended {
    /// `new` has all that is sound of the pack `name`.
    fn replaces(&mut self, name: &str, new: &str) {
        self.any = true;
        if new != name {
            self.replaced.insert(packs::key(name, "pack").to_string());
        }
    }
}

/// Is it of the refs of a past publication?
pub fn is_snapshot(key: &str) -> bool {
    key.starts_with(history::FOLDER)
}

fn is_damaged(damaged: &BTreeSet<String>, name: &str) -> bool {
    damaged.contains(packs::key(name, "pack").as_str())
}

impl Mender<'_> {
    /// Repairs what of these keys can be repaired from the mirror itself. Keys that are written are right
    /// then, whatever else is wrong.
    pub fn mend(&self, damaged: &BTreeSet<String>) -> Result<Mended, MirrorError> {
        let mut mended = Mended::default();
        if damaged.contains(LIST) {
            self.list_again(damaged, &mut mended)?;
        }
        for name in packed::listed_names(self.store, |_, _| {})? {
            if damaged.contains(packs::key(&name, "idx").as_str()) && !is_damaged(damaged, &name) {
                mended.any |= self.make_index(&name)?;
            }
        }
        self.salvage(damaged, &mut mended)?;
        mended.any |= self.mend_copies_of_refs(damaged)?;
        mended.any |= self.drop_loose(damaged)?;
        mended.any |= !bundle_check::take_back(self.store, damaged)?.is_empty();
        Ok(mended)
    }

    /// Keys that a run in full must not take for stored: packs that are not listed, because nobody reads
    /// them, and, if a loose object is `damaged`, all loose ones that are not what their names say. Damage
    /// behind a damaged object is not found by following links. Reads all loose objects.
    pub fn unproven(&self, damaged: &BTreeSet<String>) -> Result<BTreeSet<String>, MirrorError> {
        let listed = packed::listed_names(self.store, |_, _| {})?;
        let is_listed = |stem: &str| listed.iter().any(|name| stem.ends_with(name.as_str()));
        let mut found = BTreeSet::new();
        listing::pages(self.store, "objects/pack/", |page| {
            let keys = page.into_iter().map(|info| info.key.to_string());
            found.extend(keys.filter(|key| {
                let stem = key.strip_suffix(".pack").or_else(|| key.strip_suffix(".idx"));
                stem.is_some_and(|stem| !is_listed(stem))
            }));
            Ok::<_, MirrorError>(())
        })?;
        if damaged.iter().any(|key| loose::oid_of_key(key).is_some()) {
            found.extend(self.broken_loose()?);
        }
        Ok(found)
    }

    fn broken_loose(&self) -> Result<BTreeSet<String>, MirrorError> {
        self.progress.phase("reading loose objects");
        let oids = Mutex::new(Vec::new());
        inventory::pages(self.store, listing::OBJECTS, self.concurrency, self.cancel, &|page| {
            let found = page.iter().filter_map(|info| loose::oid_of_key(info.key.as_str()));
            oids.lock().unwrap_or_else(PoisonError::into_inner).extend(found);
            Ok(())
        })?;
        let oids = oids.into_inner().unwrap_or_else(PoisonError::into_inner);
        let broken = Mutex::new(BTreeSet::new());
        for_each(&oids, self.concurrency, "read", |oid| {
            if self.cancel.is_cancelled() {
                return Err(MirrorError::Interrupted);
            }
            if !self.is_right(oid)? {
                let mut broken = broken.lock().unwrap_or_else(PoisonError::into_inner);
                broken.insert(loose::key(oid).to_string());
            }
            Ok(())
        })?;
        Ok(broken.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// Is the loose object what its name says? Its content passes and takes no memory.
    fn is_right(&self, oid: &Oid) -> Result<bool, MirrorError> {
        let read = || {
            let mut reader = CheckedLoose::open(self.store, oid)?;
            let mut piece = [0; 16 << 10];
            while reader.read(&mut piece)? > 0 {}
            Ok(())
        };
        match read() {
            Err(ReadError::Store(error)) if !error.is_not_found() => Err(error.into()),
            read => Ok(read.is_ok()),
        }
    }

    /// Writes again from `info/refs` what is a copy of it, while that and HEAD are sound; any?
    fn mend_copies_of_refs(&self, damaged: &BTreeSet<String>) -> Result<bool, MirrorError> {
        let is_packed_refs_damaged = damaged.contains("packed-refs");
        let mut snapshots =
            damaged.iter().filter(|key| key.starts_with(history::FOLDER)).peekable();
        let is_none = !is_packed_refs_damaged && snapshots.peek().is_none();
        if is_none || damaged.contains("info/refs") || damaged.contains("HEAD") {
            return Ok(false);
        }
        let max_bytes = publish::max_file_bytes(self.memory_bytes);
        let published = Published::read(self.store, max_bytes)?;
        if is_packed_refs_damaged {
            let format = published.refs.first().map_or_else(Default::default, |r| r.oid.format());
            publish::mend_packed_refs(self.store, format, &published)?;
        }
        let mut any = is_packed_refs_damaged;
        for key in snapshots {
            let key = Key::new(key.clone()).expect("it was listed");
            any |= history::mend(self.store, &key, &published.advertised(), self.memory_bytes)?;
        }
        Ok(any)
    }

    /// The next run asks for these LFS objects, whichever refs name them.
    pub fn ask_for(&self, damaged: &[LfsPointer]) -> Result<(), MirrorError> {
        if damaged.is_empty() {
            return Ok(());
        }
        let missing = Remembered::add(self.store, damaged)?;
        Ok(state::note_lfs_missing(self.store, missing)?)
    }

    /// Past publications whose snapshots are missing need not be there any more: nothing brings them back.
    pub fn accept_lost(&self, damaged: &BTreeSet<String>) -> Result<(), MirrorError> {
        let mut lost = Vec::new();
        for name in damaged.iter().filter_map(|key| Name::parse(key.strip_prefix(history::FOLDER)?))
        {
            if self.store.head(&name.key())?.is_none() {
                let place = self.store.describe();
                log::warn!("{place}: the publication {name} is lost; it is expected no longer");
                lost.push(name);
            }
        }
        Ok(state::forget_snapshots(self.store, &lost)?)
    }

    /// Makes the index of a pack again, if that is sound; is it?
    fn make_index(&self, name: &str) -> Result<bool, MirrorError> {
        let Some(info) = self.store.head(&packs::key(name, "pack"))? else { return Ok(false) };
        let pass = Pass {
            store: self.store,
            memory_bytes: self.memory_bytes,
            concurrency: self.concurrency,
            cancel: self.cancel,
            progress: self.progress,
        };
        let Ok(rebuilt) = rebuild(&pass, name, info.len)? else { return Ok(false) };
        self.store.put(&packs::key(name, "idx"), &rebuilt.index, INDEX, None)?;
        Ok(true)
    }

    /// Replaces damaged packs by what is sound of them.
    fn salvage(&self, damaged: &BTreeSet<String>, mended: &mut Mended) -> Result<(), MirrorError> {
        let names = packed::listed_names(self.store, |_, _| {})?;
        let mut names = names.into_iter().filter(|name| is_damaged(damaged, name)).peekable();
        if names.peek().is_none() {
            return Ok(());
        }
        self.compacting(&mut |compaction| {
            for name in names.by_ref() {
                self.progress.phase("reading packs");
                let Some(new) = salvage(compaction, &name)? else { continue };
                compaction.list(&new, std::slice::from_ref(&name))?;
                mended.replaces(&name, &new);
            }
            Ok(())
        })
    }

    /// Makes the list of packs again. A damaged pack may be the only one to hold something, so what is
    /// sound of it is listed in its place. It is itself not listed at any moment: it may be one that a
    /// killed run has left. Nor is the list written before all of this is stored: it is the list from
    /// which the next repair sees that there is something to salvage.
    fn list_again(
        &self,
        damaged: &BTreeSet<String>,
        mended: &mut Mended,
    ) -> Result<(), MirrorError> {
        let listed = packed::listed_names(self.store, |_, _| {})?;
        let mut names: Vec<String> = Vec::new();
        self.compacting(&mut |compaction| {
            for FoundPack { name, is_indexed } in packs_there(self.store, &listed)? {
                let name = match is_damaged(damaged, &name) {
                    true => {
                        self.progress.phase("reading packs");
                        let Some(new) = salvage(compaction, &name)? else { continue };
                        compaction.retire_unlisted(&new, &name)?;
                        mended.replaces(&name, &new);
                        new
                    }
                    false if !is_indexed && !self.make_index(&name)? => continue,
                    false => name,
                };
                if !names.contains(&name) {
                    names.push(name);
                }
            }
            Ok(())
        })?;
        self.store.put(&files::key(LIST), &packs::list_file(&names), PLAIN, None)?;
        mended.any = true;
        Ok(())
    }

    /// Hands over what packs are written with, and clears away what that has left.
    fn compacting(
        &self,
        write: &mut dyn FnMut(&Compaction<'_>) -> Result<(), MirrorError>,
    ) -> Result<(), MirrorError> {
        let fence = Fence::read(self.store)?;
        let refs = files::get(
            self.store,
            &files::key("info/refs"),
            None,
            publish::max_file_bytes(self.memory_bytes),
        )?;
        let refs = refs.and_then(|(file, _)| parse_info_refs(&file).ok()).unwrap_or_default();
        let temp = TempKeys::new(self.store);
        let written = write(&Compaction {
            store: self.store,
            temp: &temp,
            fence: &fence,
            refs: &refs,
            max_packs: usize::MAX,
            memory_bytes: self.memory_bytes,
            concurrency: self.concurrency,
            cancel: self.cancel,
        });
        let cleaned = temp.clean();
        written?;
        Ok(cleaned?)
    }

    /// Deletes damaged loose objects that a pack holds, once that has given them back right; any?
    fn drop_loose(&self, damaged: &BTreeSet<String>) -> Result<bool, MirrorError> {
        let loose: Vec<Oid> = damaged.iter().filter_map(|key| loose::oid_of_key(key)).collect();
        if loose.is_empty() {
            return Ok(false);
        }
        let names = packed::listed_names(self.store, |_, _| {})?;
        let packs: Packs = packed::open_all(self.store, &names, |_, _| {})?;
        let mut reader = packed::PackedReader::new(self.store, &packs, self.memory_bytes);
        let mut keys = Vec::new();
        for oid in loose {
            let Some(place) = packs.find(&oid) else { continue };
            match reader.read(place) {
                Ok((kind, content))
                    if crate::git::object::hash_object(oid.format(), kind, &content) == Ok(oid) =>
                {
                    keys.push(loose::key(&oid));
                }
                Err(packed::ReadError::Store(error)) if !error.is_not_found() => {
                    return Err(error.into());
                }
                _ => {}
            }
        }
        self.store.delete(&keys)?;
        Ok(!keys.is_empty())
    }

    /// Deletes damaged packs that sound ones have taken the place of, unless a run has listed them again: one
    /// that is sent such a pack would take it for stored.
    pub fn delete_replaced(&self, replaced: &BTreeSet<String>) -> Result<(), MirrorError> {
        let listed = packed::listed_names(self.store, |_, _| {})?;
        let is_listed = |key: &String| listed.iter().any(|name| key.contains(name));
        for key in replaced.iter().filter(|key| !is_listed(key)) {
            // The index goes first: without it the pack is none.
            let keys = [key.replace(".pack", ".idx"), key.clone()];
            let keys = keys.map(|key| Key::new(key).expect("a pack's key"));
            if let Err(error) = self.store.delete(&keys) {
                log::warn!("{key} is damaged and no longer listed, but cannot be deleted: {error}");
            }
        }
        Ok(())
    }
}
