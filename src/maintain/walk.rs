//! Walks a mirror from its refs through commits and trees to every object that they reach.
//!
//! For [`super::verify`] and [`super::gc`]. Loose objects are read by `threads` threads, because each
//! read is a request that waits. Packed ones are read by one more thread in rising order of their
//! place, over and over from the start, like a lift: packs have commits, then trees, newest first,
//! so that a sweep or a few read each block once.
//!
//! **Memory**: a set of the oids seen (about 24 bytes an object), what is still to be visited
//! (40 bytes an object, but few: [`MAX_WAITING`]), loose objects of `memory_bytes` altogether, and the packs' blocks and
//! bases within as much. Blobs are never held; a commit, tree or tag over `memory_bytes` is reported as a
//! problem, not read.
//!
//! **Threads**: a worker takes an item under the lock, reads without it, and adds what it found. It
//! waits only while its queue is empty and another worker may still add to it. Whoever adds wakes as
//! many as there is work for; the last one to run out wakes all. The first error of the store ends the walk; what is wrong with an object does not.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::links::{TreeEntry, tree_links};
use crate::git::lfs_pointer::{LfsPointer, MAX_POINTER_LEN};
use crate::git::object::{Kind, Oid, check_name, hash_object};
use crate::git::oids::{ManyOids, OidList, OidMap};
use crate::repository::checked_loose::CheckedLoose;
use crate::repository::error::MirrorError;
use crate::repository::links::{commit_links, tag_link};
use crate::repository::loose;
use crate::repository::packed::{PackedReader, Packs, Place, ReadError};
use crate::run::Cancel;
use crate::store::Store;

/// A delta that makes an object under [`MAX_POINTER_LEN`] bytes is shorter: an instruction makes at
/// least one byte and has at most eight; before them are two lengths.
const MAX_POINTER_DELTA: u64 = 20 + 8 * MAX_POINTER_LEN as u64;

/// A loose object with less content than [`MAX_POINTER_LEN`] is not longer: stored blocks, two
/// headers and a checksum.
const MAX_LOOSE_POINTER: u32 = MAX_POINTER_LEN as u32 + 128;

/// Which blobs are read to find LFS pointers.
pub(crate) enum Pointers {
    /// None.
    No,
    /// Small ones, if a `.gitattributes` that is reached speaks of LFS.
    IfAttributes,
    /// Small ones.
    Yes,
    /// Loose ones; these are the pointers of the packs.
    Known(OidMap<LfsPointer>),
}

/// So many links are taken in at once: a tree may have a million.
const LINKS_AT_ONCE: usize = 1024;

/// When so many loose objects wait, whoever finds another blob visits it at once.
const MAX_WAITING: usize = 16 << 10;

/// The two queues, by their place in arrays.
const LOOSE: usize = 0;
const PACKED: usize = 1;

/// What to walk and how.
pub(crate) struct Walk<'e> {
    pub(crate) store: &'e dyn Store,
    pub(crate) packs: &'e Packs,
    pub(crate) threads: usize,
    pub(crate) memory_bytes: u64,
    pub(crate) cancel: &'e Cancel,
    /// Read and hash loose blobs; else it is enough that they exist.
    pub(crate) read_blobs: bool,
    /// Ask whether blobs exist.
    pub(crate) blobs_exist: bool,
    /// What a listing found; without one each object is asked for.
    pub(crate) stored: Option<&'e Stored>,
    pub(crate) pointers: Pointers,
    /// Hears every link: is the object somewhere where nobody needs to visit it?
    pub(crate) elsewhere: Elsewhere<'e>,
}

/// See [`Walk::elsewhere`].
pub(crate) type Elsewhere<'e> = &'e (dyn Fn(&Oid, Option<Kind>) -> bool + Sync);

/// Loose objects by oid, with their stored length in bytes (at most what a `u32` holds).
pub(crate) struct Stored(OidList<u32>);

impl Stored {
    pub(crate) fn new(mut objects: OidList<u32>) -> Self {
        objects.sort();
        Stored(objects)
    }

    fn len_of(&self, oid: &Oid) -> Option<u32> {
        self.0.get(oid)
    }
}

/// What a [`Problem`] says of an object that is not there.
pub(crate) const MISSING: &str = "missing";

/// Something that a ref reaches and that is not as it must be.
pub(crate) struct Problem {
    /// Its key, or that of its pack.
    pub(crate) key: String,
    /// What is wrong.
    pub(crate) what: String,
    /// The object.
    pub(crate) oid: Oid,
    /// The index of the tip through which it was reached first.
    pub(crate) via: u32,
}

/// What was reached.
pub(crate) struct Reached {
    pub(crate) objects: ManyOids,
    /// LFS objects that pointers name: their size, and through which tip.
    pub(crate) lfs: HashMap<[u8; 32], (u64, u32)>,
}

/// An object to visit.
#[derive(Clone, Copy)]
struct Item {
    oid: Oid,
    /// What refers to it says that it is this.
    kind: Option<Kind>,
    via: u32,
    /// A tree names it `.gitattributes`.
    attributes: bool,
}

/// The queue. Guarded by [`Shared::state`].
struct State {
    seen: ManyOids,
    /// A stack: depth first keeps it short.
    loose: Vec<Item>,
    packed: BTreeMap<Place, Item>,
    /// Small blobs that wait for a `.gitattributes` that speaks of LFS.
    deferred: Vec<Item>,
    uses_lfs: bool,
    lfs: HashMap<[u8; 32], (u64, u32)>,
    /// Workers that hold an item.
    busy: usize,
    /// Workers of each kind that wait for one.
    waiting: [usize; 2],
    /// Bytes of the loose objects that are held.
    held_bytes: u64,
    error: Option<MirrorError>,
}

impl State {
    fn queued(&self) -> [usize; 2] {
        [self.loose.len(), self.packed.len()]
    }

    /// The last loose item, if there are too many and it is a blob that is not held in memory.
    fn take_from_full(&mut self) -> Option<Item> {
        if self.loose.len() <= MAX_WAITING {
            return None;
        }
        self.loose.pop_if(|item| item.kind == Some(Kind::Blob) && !item.attributes)
    }
}

struct Shared<'w, 'e> {
    walk: &'w Walk<'e>,
    state: Mutex<State>,
    /// Where workers wait for an item, by what they visit: [`LOOSE`], [`PACKED`].
    changed: [Condvar; 2],
    /// Where workers wait for room for a loose object.
    room: Condvar,
    problem: &'w (dyn Fn(Problem) + Sync),
}

impl Walk<'_> {
    /// Visits everything that `tips` reach. `problem` hears what is wrong, from many threads.
    pub(crate) fn run(
        &self,
        tips: &[(Oid, Option<Kind>)],
        problem: &(dyn Fn(Problem) + Sync),
    ) -> Result<Reached, MirrorError> {
        let shared = Shared {
            walk: self,
            state: Mutex::new(State {
                seen: ManyOids::default(),
                loose: Vec::new(),
                packed: BTreeMap::new(),
                deferred: Vec::new(),
                uses_lfs: false,
                lfs: HashMap::new(),
                busy: 0,
                waiting: [0; 2],
                held_bytes: 0,
                error: None,
            }),
            changed: [Condvar::new(), Condvar::new()],
            room: Condvar::new(),
            problem,
        };
        let tips = tips.iter().zip(0..);
        shared.add(tips.map(|((oid, kind), via)| Item {
            oid: *oid,
            kind: *kind,
            via,
            attributes: false,
        }));
        shared.work();
        let mut state = shared.state();
        if state.uses_lfs && state.error.is_none() {
            let deferred = std::mem::take(&mut state.deferred);
            for item in deferred {
                shared.enqueue(&mut state, item);
            }
            drop(state);
            shared.work();
        } else {
            drop(state);
        }
        let state = shared.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        match state.error {
            Some(error) => Err(error),
            None => Ok(Reached { objects: state.seen, lfs: state.lfs }),
        }
    }
}

impl Shared<'_, '_> {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs the workers until nothing is left to visit.
    fn work(&self) {
        std::thread::scope(|scope| {
            for _ in 0..self.walk.threads.max(1) {
                let visit = |shared: &Self, item, ()| shared.visit_loose(item);
                scope.spawn(move || self.worker(LOOSE, take_loose, visit));
            }
            if !self.walk.packs.0.is_empty() {
                scope.spawn(|| {
                    let memory = self.walk.memory_bytes;
                    let mut reader = PackedReader::new(self.walk.store, self.walk.packs, memory);
                    let mut lift = (0, 0);
                    self.worker(
                        PACKED,
                        move |state| {
                            let next = state.packed.range(lift..).next().map(|(place, _)| *place);
                            let place = next.or_else(|| state.packed.keys().next().copied())?;
                            lift = place;
                            Some((state.packed.remove(&place)?, place))
                        },
                        |shared, item, place| shared.visit_packed(&mut reader, item, place),
                    );
                });
            }
        });
    }

    fn worker<P>(
        &self,
        queue: usize,
        mut take: impl FnMut(&mut State) -> Option<(Item, P)>,
        mut visit: impl FnMut(&Self, Item, P) -> Result<(), MirrorError>,
    ) {
        let mut state = self.state();
        loop {
            if self.walk.cancel.is_cancelled() {
                state.error.get_or_insert(MirrorError::Interrupted);
            }
            if state.error.is_some() {
                break;
            }
            if let Some((item, place)) = take(&mut state) {
                state.busy += 1;
                drop(state);
                let guard = Busy(self);
                let outcome = visit(self, item, place);
                drop(guard);
                state = self.state();
                if let Err(error) = outcome {
                    state.error.get_or_insert(error);
                }
                continue;
            }
            if state.busy == 0 && state.loose.is_empty() && state.packed.is_empty() {
                break;
            }
            state.waiting[queue] += 1;
            state = self.changed[queue].wait(state).unwrap_or_else(PoisonError::into_inner);
            state.waiting[queue] -= 1;
        }
        drop(state);
        self.wake_all();
    }

    fn wake_all(&self) {
        self.changed.iter().for_each(Condvar::notify_all);
    }

    fn add(&self, items: impl Iterator<Item = Item>) {
        let is_here = |item: &Item| !(self.walk.elsewhere)(&item.oid, item.kind);
        let mut items = items.filter(is_here);
        loop {
            let some: Vec<Item> = items.by_ref().take(LINKS_AT_ONCE).collect();
            if some.is_empty() {
                return;
            }
            self.add_some(some);
        }
    }

    fn add_some(&self, items: Vec<Item>) {
        let mut state = self.state();
        let mut before = state.queued();
        for item in items {
            if state.seen.add(item.oid) {
                self.sort_in(&mut state, item);
            }
            if let Some(item) = state.take_from_full() {
                self.wake(state, before);
                // Nothing hangs on a blob, so this goes no deeper.
                if let Err(error) = self.visit_loose(item) {
                    self.state().error.get_or_insert(error);
                }
                state = self.state();
                before = state.queued();
            }
            if state.error.is_some() || self.walk.cancel.is_cancelled() {
                break;
            }
        }
        self.wake(state, before);
    }

    /// As many as have something to do: this worker takes the next item itself.
    fn wake(&self, state: MutexGuard<'_, State>, before: [usize; 2]) {
        let now = state.queued();
        let wake = [LOOSE, PACKED]
            .map(|queue| now[queue].saturating_sub(before[queue]).min(state.waiting[queue]));
        drop(state);
        for queue in [LOOSE, PACKED] {
            (0..wake[queue]).for_each(|_| self.changed[queue].notify_one());
        }
    }

    /// Waits until `bytes` of a loose object may be held; given back when the answer is dropped. It
    /// waits for objects that are being read, so it ends; one that is too large for all is alone.
    fn take_room(&self, bytes: u64) -> RoomTaken<'_, '_, '_> {
        let most = self.walk.memory_bytes;
        let is_full = |state: &mut State| {
            state.held_bytes > 0 && state.held_bytes.saturating_add(bytes) > most
        };
        let state = self.room.wait_while(self.state(), is_full);
        state.unwrap_or_else(PoisonError::into_inner).held_bytes += bytes;
        RoomTaken(self, bytes)
    }

    /// Into which queue, if any?
    fn sort_in(&self, state: &mut State, item: Item) {
        let walk = self.walk;
        if item.kind != Some(Kind::Blob) {
            return self.enqueue(state, item);
        }
        let packed = walk.packs.find(&item.oid).is_some();
        let stored = if packed { None } else { walk.stored.map(|s| s.len_of(&item.oid)) };
        if let (true, Some(None)) = (walk.blobs_exist, stored) {
            return self.tell(item, loose::key(&item.oid).as_str(), MISSING);
        }
        let may_point = stored.flatten().is_none_or(|len| len <= MAX_LOOSE_POINTER);
        match &walk.pointers {
            _ if walk.read_blobs && !packed => self.enqueue(state, item),
            Pointers::Known(known) => {
                if let Some(pointer) = known.get(&item.oid) {
                    state.lfs.entry(pointer.oid).or_insert((pointer.size, item.via));
                }
            }
            Pointers::Yes if may_point => self.enqueue(state, item),
            Pointers::IfAttributes if item.attributes => self.enqueue(state, item),
            Pointers::IfAttributes if may_point => {
                if walk.blobs_exist && !packed && stored.is_none() {
                    self.enqueue(state, item);
                } else {
                    state.deferred.push(item);
                }
            }
            _ if walk.blobs_exist && !packed && stored.is_none() => self.enqueue(state, item),
            _ => {}
        }
    }

    fn enqueue(&self, state: &mut State, item: Item) {
        match self.walk.packs.find(&item.oid) {
            Some(place) => drop(state.packed.insert(place, item)),
            None => state.loose.push(item),
        }
    }

    fn tell(&self, item: Item, key: &str, what: impl Into<String>) {
        (self.problem)(Problem {
            key: key.to_owned(),
            what: what.into(),
            oid: item.oid,
            via: item.via,
        });
    }

    fn visit_packed(
        &self,
        reader: &mut PackedReader<'_>,
        item: Item,
        place: Place,
    ) -> Result<(), MirrorError> {
        let pack = self.walk.packs.0[place.0].key();
        let outcome = self.read_packed(reader, item, place);
        let what = match outcome {
            Ok(()) => return Ok(()),
            Err(ReadError::Store(error)) if !error.is_not_found() => return Err(error.into()),
            Err(ReadError::Store(_)) => MISSING.to_owned(),
            Err(ReadError::Damaged(what)) => what,
            Err(ReadError::TooLarge(bytes)) => too_large(bytes),
        };
        self.tell(item, pack.as_str(), format!("at offset {}: {what}", place.1));
        Ok(())
    }

    fn read_packed(
        &self,
        reader: &mut PackedReader<'_>,
        item: Item,
        place: Place,
    ) -> Result<(), ReadError> {
        if item.kind == Some(Kind::Blob) && !item.attributes {
            match reader.len(place, MAX_POINTER_DELTA)? {
                Some(len) if len < MAX_POINTER_LEN as u64 => {}
                _ => return Ok(()),
            }
        }
        let (kind, content) = reader.read(place)?;
        check_name(hash_object(item.oid.format(), kind, &content), &item.oid)
            .map_err(ReadError::Damaged)?;
        self.take_in(item, kind, &content).map_err(ReadError::Damaged)
    }

    fn visit_loose(&self, item: Item) -> Result<(), MirrorError> {
        let key = loose::key(&item.oid);
        let walk = self.walk;
        let must_read = item.kind != Some(Kind::Blob)
            || walk.read_blobs
            || item.attributes
            || match walk.pointers {
                Pointers::Yes => true,
                Pointers::IfAttributes => walk.stored.is_some() || self.state().uses_lfs,
                _ => false,
            };
        if !must_read {
            // Only where nothing can be listed.
            match walk.store.head(&key)? {
                None => self.tell(item, key.as_str(), MISSING),
                Some(info) if info.len <= u64::from(MAX_LOOSE_POINTER) => {
                    if matches!(walk.pointers, Pointers::IfAttributes) {
                        self.state().deferred.push(item);
                    }
                }
                Some(_) => {}
            }
            return Ok(());
        }
        match self.read_loose(item) {
            Ok(()) => Ok(()),
            Err(ReadError::Store(error)) if error.is_not_found() => {
                self.tell(item, key.as_str(), MISSING);
                Ok(())
            }
            Err(ReadError::Store(error)) => Err(error.into()),
            Err(ReadError::Damaged(what)) => {
                self.tell(item, key.as_str(), what);
                Ok(())
            }
            Err(ReadError::TooLarge(bytes)) => {
                self.tell(item, key.as_str(), too_large(bytes));
                Ok(())
            }
        }
    }

    fn read_loose(&self, item: Item) -> Result<(), ReadError> {
        let mut reader = CheckedLoose::open(self.walk.store, &item.oid)?;
        let (kind, size) = (reader.kind(), reader.size());
        let is_blob = kind == Kind::Blob;
        let needed = if item.attributes { self.walk.memory_bytes } else { MAX_POINTER_LEN as u64 };
        // Only where a blob is expected: what answers for a tip or a tree must prove that it is one.
        let is_a_leaf = is_blob && item.kind == Some(Kind::Blob);
        if is_a_leaf && size >= needed && !self.walk.read_blobs {
            return Ok(());
        }
        if !is_blob && size > self.walk.memory_bytes {
            return Err(ReadError::TooLarge(size));
        }
        // What is called something else is only hashed: this thread may hold the tree that does so.
        let is_called = item.kind.is_none_or(|wanted| wanted == kind);
        let is_held = is_called && (!is_blob || size < needed);
        // A pointer is small, and this thread may hold the tree that names it.
        let _room = (is_held && size >= MAX_POINTER_LEN as u64).then(|| self.take_room(size));
        // What is not written to takes no memory, whatever the header claims.
        let room = if is_held { usize::try_from(size).unwrap_or(0) } else { 0 };
        let mut content = Vec::with_capacity(room);
        let mut piece = [0; 16 << 10];
        loop {
            match reader.read(&mut piece)? {
                0 => break,
                len if is_held => content.extend_from_slice(&piece[..len]),
                _ => {}
            }
        }
        self.take_in(item, kind, &content).map_err(ReadError::Damaged)
    }

    /// Adds what the object refers to. `content` of a large blob is empty.
    fn take_in(&self, item: Item, kind: Kind, content: &[u8]) -> Result<(), String> {
        if let Some(wanted) = item.kind.filter(|wanted| *wanted != kind) {
            return Err(format!("it is a {kind}, but a {wanted} is expected"));
        }
        let via = item.via;
        let child = |oid, kind| Item { oid, kind: Some(kind), via, attributes: false };
        match kind {
            Kind::Blob => {
                if item.attributes && speaks_of_lfs(content) {
                    self.state().uses_lfs = true;
                }
                if let Some(pointer) = LfsPointer::parse(content) {
                    self.state().lfs.entry(pointer.oid).or_insert((pointer.size, via));
                }
            }
            Kind::Commit => {
                let (tree, parents) = commit_links(content).ok_or("not a valid commit")?;
                let parents = parents.into_iter().map(|oid| child(oid, Kind::Commit));
                self.add(parents.chain([child(tree, Kind::Tree)]));
            }
            Kind::Tag => {
                let (oid, kind) = tag_link(content).ok_or("not a valid tag")?;
                self.add([child(oid, kind)].into_iter());
            }
            Kind::Tree => {
                let entries = || tree_links(content, item.oid.format());
                if !entries().all(|entry| entry.is_some()) {
                    return Err("not a valid tree".into());
                }
                self.add(entries().flatten().filter_map(|TreeEntry { oid, kind, attributes }| {
                    Some(Item { attributes, ..child(oid, kind?) })
                }));
            }
        }
        Ok(())
    }
}

/// Takes the next loose item.
fn take_loose(state: &mut State) -> Option<(Item, ())> {
    state.loose.pop().map(|item| (item, ()))
}

/// A worker that holds an item; dropped also when it panics, so that the others end.
struct Busy<'b, 'w, 'e>(&'b Shared<'w, 'e>);

impl Drop for Busy<'_, '_, '_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.busy -= 1;
        // Whoever waits for an item was woken when it came.
        let idle = state.busy == 0 && state.queued() == [0, 0];
        if std::thread::panicking() {
            let words = "a worker of the walk panicked".to_owned();
            state.error.get_or_insert(MirrorError::Internal(words));
        }
        drop(state);
        if idle || std::thread::panicking() {
            self.0.wake_all();
        }
    }
}

/// Room for a loose object.
struct RoomTaken<'b, 'w, 'e>(&'b Shared<'w, 'e>, u64);

impl Drop for RoomTaken<'_, '_, '_> {
    fn drop(&mut self) {
        self.0.state().held_bytes -= self.1;
        self.0.room.notify_all();
    }
}

fn too_large(bytes: u64) -> String {
    format!("not read: it needs {} MiB of memory; see --memory", bytes.div_ceil(1 << 20))
}

fn speaks_of_lfs(attributes: &[u8]) -> bool {
    attributes.windows(10).any(|word| word == b"filter=lfs")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_that_name_the_filter_speak_of_lfs() {
        assert!(speaks_of_lfs(b"*.bin filter=lfs diff=lfs -text\n"));
        assert!(!speaks_of_lfs(b"*.txt text\n"));
    }
}
