//! Several packs of a mirror as the stream of one pack, read by parallel ranges.
//!
//! The bodies of packs behind one header with the summed count, and a trailer of its own, are one pack:
//! OFS_DELTA is relative (gitformat-pack(5)). So a clone is one pack however many are listed, and git
//! need look into one index only to see that all is there. One pack comes as it is.
//!
//! [`Ranges`] is shared by the threads that fetch pieces and the one that takes them in order; a thread
//! waits only for a piece to be taken, the taker only for a GET that runs. [`Packs`] is the stream: it
//! checks each pack's trailer and writes all to a file as it goes. What a killed run has written is
//! read from that file, and only the rest is fetched.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::Path;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::local::failed;
use crate::git::checksum::Checksum;
use crate::git::object::{ObjectFormat, Oid};
use crate::progress::Progress;
use crate::repository::error::MirrorError;
use crate::repository::packs;
use crate::run::threads::for_each;
use crate::store::{Key, Store, StoreError};

/// What one GET fetches.
const PIECE_BYTES: u64 = 1 << 20;

/// Pieces that are fetched, or wait to be taken.
pub(super) const PIECES_AHEAD: usize = 8;

const HEADER_LEN: u64 = 12;

/// A pack of the mirror before it is read.
#[derive(Clone, Debug)]
pub(super) struct Listed {
    pub(super) name: String,
    pub(super) len: u64,
    pub(super) objects: u32,
}

impl Listed {
    /// Where its entries are.
    fn format(&self) -> ObjectFormat {
        packs::format_of(&self.name)
    }

    fn body(&self) -> Range<u64> {
        HEADER_LEN..self.len - trailer_len(self.format())
    }

    /// How long its entries are.
    pub(super) fn body_len(&self) -> u64 {
        self.body().end - self.body().start
    }
}

/// Asks for length and header of each pack. A pack that is gone is an error of kind NotFound.
pub(super) fn look_at(store: &dyn Store, names: &[String]) -> Result<Vec<Listed>, MirrorError> {
    let found = Mutex::new(BTreeMap::new());
    let numbered: Vec<(usize, &String)> = names.iter().enumerate().collect();
    for_each(&numbered, PIECES_AHEAD, "look", |(number, name)| {
        let listed = look_at_one(store, name)?;
        found.lock().unwrap_or_else(PoisonError::into_inner).insert(*number, listed);
        Ok::<_, MirrorError>(())
    })?;
    Ok(found.into_inner().unwrap_or_else(PoisonError::into_inner).into_values().collect())
}

fn look_at_one(store: &dyn Store, name: &str) -> Result<Listed, MirrorError> {
    let key = packs::key(name, "pack");
    let (header, _) = store.get(&key, Some(0..HEADER_LEN), HEADER_LEN)?;
    let info = store.head(&key)?;
    let len = info.map_or(0, |info| info.len);
    let count = header.strip_prefix(b"PACK\0\0\0\x02").and_then(|rest| rest.first_chunk());
    match count {
        Some(count) if len >= HEADER_LEN + trailer_len(packs::format_of(name)) => {
            Ok(Listed { name: name.to_owned(), len, objects: u32::from_be_bytes(*count) })
        }
        _ => Err(damaged(store, &key, "it is not a version 2 pack")),
    }
}

fn trailer_len(format: ObjectFormat) -> u64 {
    format.raw_len() as u64
}

pub(super) fn damaged(store: &dyn Store, key: &Key, what: &str) -> MirrorError {
    let place = store.describe();
    MirrorError::Mirror(format!("the stored object {place}/{key} is damaged: {what}"))
}

/// Pieces of stored files, fetched by many threads and taken in order by one.
pub(super) struct Ranges<'e> {
    store: &'e dyn Store,
    pieces: Vec<(Key, Range<u64>)>,
    state: Mutex<State>,
    changed: Condvar,
}

/// Guarded by [`Ranges::state`].
#[derive(Default)]
struct State {
    /// The next piece to fetch.
    next: usize,
    /// The next one to be taken.
    taken: usize,
    ready: BTreeMap<usize, Result<Vec<u8>, StoreError>>,
    ended: bool,
}

impl<'e> Ranges<'e> {
    /// Cuts `ranges` into pieces.
    pub(super) fn new(store: &'e dyn Store, ranges: Vec<(Key, Range<u64>)>) -> Self {
        let mut pieces = Vec::new();
        for (key, range) in ranges {
            let mut at = range.start;
            while at < range.end {
                let end = range.end.min(at + PIECE_BYTES);
                pieces.push((key.clone(), at..end));
                at = end;
            }
        }
        Ranges { store, pieces, state: Mutex::default(), changed: Condvar::new() }
    }

    /// Runs `work` while threads fetch for it.
    pub(super) fn run<T>(&self, work: impl FnOnce() -> T) -> T {
        std::thread::scope(|threads| {
            // Ends the threads on every way out, a panic included.
            let _end = End(self);
            for number in 0..PIECES_AHEAD.min(self.pieces.len()) {
                let named = std::thread::Builder::new().name(format!("range.{number}"));
                if let Err(error) = named.spawn_scoped(threads, || self.fetch_all()) {
                    log::warn!("cannot start another thread, continuing with {number}: {error}");
                    break;
                }
            }
            work()
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fetch_all(&self) {
        while let Some(number) = self.next_to_fetch() {
            let (key, range) = &self.pieces[number];
            let wanted = range.end - range.start;
            let fetched = self.store.get(key, Some(range.clone()), wanted).map(|(bytes, _)| bytes);
            self.lock().ready.insert(number, fetched);
            self.changed.notify_all();
        }
    }

    fn next_to_fetch(&self) -> Option<usize> {
        let must_wait = |state: &mut State| {
            !state.ended
                && state.next < self.pieces.len()
                && state.next >= state.taken + PIECES_AHEAD
        };
        let state = self.changed.wait_while(self.lock(), must_wait);
        let mut state = state.unwrap_or_else(PoisonError::into_inner);
        if state.ended || state.next == self.pieces.len() {
            return None;
        }
        state.next += 1;
        Some(state.next - 1)
    }

    /// The next piece; `None` after the last.
    fn take(&self) -> Result<Option<Vec<u8>>, MirrorError> {
        let mut state = self.lock();
        let number = state.taken;
        let Some((key, range)) = self.pieces.get(number) else { return Ok(None) };
        // No thread could be started, or all have more to do: this one fetches it itself.
        if state.next == number {
            state.next += 1;
            state.taken += 1;
            drop(state);
            let (bytes, _) = self.store.get(key, Some(range.clone()), range.end - range.start)?;
            return self.whole(number, bytes).map(Some);
        }
        let is_awaited = |state: &mut State| !state.ready.contains_key(&number);
        let waited = self.changed.wait_while(state, is_awaited);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner);
        let fetched = state.ready.remove(&number).expect("it was awaited");
        state.taken += 1;
        drop(state);
        self.changed.notify_all();
        self.whole(number, fetched?).map(Some)
    }

    fn whole(&self, number: usize, bytes: Vec<u8>) -> Result<Vec<u8>, MirrorError> {
        let (key, range) = &self.pieces[number];
        if bytes.len() as u64 == range.end - range.start {
            return Ok(bytes);
        }
        Err(damaged(self.store, key, &format!("it ends before byte {}", range.end)))
    }
}

struct End<'r, 'e>(&'r Ranges<'e>);

impl Drop for End<'_, '_> {
    fn drop(&mut self) {
        self.0.lock().ended = true;
        self.0.changed.notify_all();
    }
}

/// The plan of a stream: what is known of each pack, and how much of the whole is in the file.
pub(super) struct Plan {
    format: ObjectFormat,
    packs: Vec<Listed>,
    kept: u64,
}

impl Plan {
    /// `kept` bytes of the whole are in the file already.
    pub(super) fn new(
        format: ObjectFormat,
        packs: Vec<Listed>,
        kept: u64,
    ) -> Result<Self, MirrorError> {
        let objects = packs.iter().try_fold(0u32, |sum, pack| sum.checked_add(pack.objects));
        if objects.is_none() {
            let words = "its packs have more objects together than one pack can have";
            return Err(MirrorError::Mirror(words.into()));
        }
        let other = packs.iter().find(|pack| pack.format() != format);
        if let Some(Listed { name, .. }) = other {
            let words = format!("{name} is not a pack of a repository with {format}");
            return Err(MirrorError::Mirror(words));
        }
        let plan = Plan { format, packs, kept: 0 };
        Ok(Plan { kept: kept.min(plan.len() - trailer_len(format)), ..plan })
    }

    pub(super) fn objects(&self) -> u32 {
        self.packs.iter().map(|pack| pack.objects).sum()
    }

    /// The whole pack's length.
    pub(super) fn len(&self) -> u64 {
        let bodies = self.packs.iter().map(Listed::body_len);
        HEADER_LEN + bodies.sum::<u64>() + trailer_len(self.format)
    }

    /// What must be fetched: of each pack the part that is not kept, with its trailer.
    pub(super) fn ranges(&self) -> Vec<(Key, Range<u64>)> {
        let mut ranges = Vec::new();
        let mut at = HEADER_LEN;
        for pack in &self.packs {
            let body = pack.body();
            let kept = self.kept.saturating_sub(at).min(body.end - body.start);
            ranges.push((packs::key(&pack.name, "pack"), body.start + kept..pack.len));
            at += body.end - body.start;
        }
        ranges
    }
}

/// The stream of one pack made of all packs of a [`Plan`].
pub(super) struct Packs<'r, 'e> {
    plan: &'r Plan,
    ranges: &'r Ranges<'e>,
    progress: &'r dyn Progress,
    failure: &'r Mutex<Option<MirrorError>>,
    file: File,
    /// Of the whole. `None`: it is one pack, whose own is the whole's.
    whole: Option<Checksum>,
    /// Of the pack that is read.
    hash: Checksum,
    /// Where in the whole its next byte is.
    at: u64,
    /// Which pack is read, and what of its body is still to come.
    pack: usize,
    left: u64,
    /// What has been fetched and not been given yet.
    ready: io::Cursor<Vec<u8>>,
    /// The fetched piece, from where on it is not used yet.
    piece: io::Cursor<Vec<u8>>,
    trailer: Option<Oid>,
}

impl<'r, 'e> Packs<'r, 'e> {
    /// Writes to `path`, of which `plan.kept` bytes are read first. As a reader it puts what fails
    /// into `failure`: the words alone would not tell a pack that is gone.
    pub(super) fn begin(
        plan: &'r Plan,
        ranges: &'r Ranges<'e>,
        progress: &'r dyn Progress,
        failure: &'r Mutex<Option<MirrorError>>,
        path: &Path,
    ) -> Result<Self, MirrorError> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).open(path);
        let file = file.map_err(|error| failed("open", path, &error))?;
        Ok(Packs {
            plan,
            ranges,
            progress,
            failure,
            file,
            whole: (plan.packs.len() != 1).then(|| Checksum::new(plan.format)),
            hash: Checksum::new(plan.format),
            at: 0,
            pack: 0,
            left: 0,
            ready: io::Cursor::default(),
            piece: io::Cursor::default(),
            trailer: None,
        })
    }

    fn store(&self) -> &'e dyn Store {
        self.ranges.store
    }

    /// Makes the next bytes ready; none: it has ended.
    fn advance(&mut self) -> Result<(), MirrorError> {
        if self.at == 0 {
            return self.begin_pack(true);
        }
        if self.left > 0 {
            return self.next_of_body();
        }
        if self.trailer.is_some() {
            self.ready = io::Cursor::default();
            return Ok(());
        }
        self.end_pack()
    }

    fn header(objects: u32) -> [u8; 12] {
        let mut header = *b"PACK\0\0\0\x02\0\0\0\0";
        header[8..].copy_from_slice(&objects.to_be_bytes());
        header
    }

    /// Turns to the pack `self.pack`, whose header was looked at.
    fn begin_pack(&mut self, is_first: bool) -> Result<(), MirrorError> {
        self.hash = Checksum::new(self.plan.format);
        if let Some(pack) = self.plan.packs.get(self.pack) {
            self.left = pack.body_len();
            self.hash.update(&Self::header(pack.objects));
        }
        if is_first {
            return self.give(Self::header(self.plan.objects()).to_vec());
        }
        self.advance()
    }

    fn next_of_body(&mut self) -> Result<(), MirrorError> {
        let wanted = self.left.min(256 << 10);
        let bytes = match self.plan.kept.checked_sub(self.at).filter(|kept| *kept > 0) {
            Some(kept) => {
                let mut bytes = vec![0; wanted.min(kept) as usize];
                let read = self.file.seek(SeekFrom::Start(self.at));
                let read = read.and_then(|_| self.file.read_exact(&mut bytes));
                read.map_err(|error| self.broken(&error))?;
                bytes
            }
            None => self.fetched(wanted as usize)?,
        };
        self.left -= bytes.len() as u64;
        self.hash.update(&bytes);
        self.progress.received(bytes.len() as u64);
        self.give(bytes)
    }

    /// Up to `wanted` bytes of what is fetched, at least one.
    fn fetched(&mut self, wanted: usize) -> Result<Vec<u8>, MirrorError> {
        if self.piece.position() == self.piece.get_ref().len() as u64 {
            let piece = self.ranges.take()?;
            let missing = || MirrorError::Internal("the plan of a pack ends early".into());
            self.piece = io::Cursor::new(piece.ok_or_else(missing)?);
        }
        let from = self.piece.position() as usize;
        let end = self.piece.get_ref().len().min(from + wanted);
        self.piece.set_position(end as u64);
        Ok(self.piece.get_ref()[from..end].to_vec())
    }

    /// The pack's trailer comes next: it is checked, and only the last one's is given.
    fn end_pack(&mut self) -> Result<(), MirrorError> {
        if let Some(pack) = self.plan.packs.get(self.pack) {
            let mut found = Vec::new();
            let trailer_len = self.plan.format.raw_len();
            while found.len() < trailer_len {
                found.extend(self.fetched(trailer_len - found.len())?);
            }
            let computed = self.hash.so_far();
            if found != computed.as_bytes() || format!("pack-{computed}") != pack.name {
                let key = packs::key(&pack.name, "pack");
                let what = format!("its content has the checksum {computed}");
                return Err(damaged(self.store(), &key, &what));
            }
            self.pack += 1;
            if self.pack < self.plan.packs.len() {
                return self.begin_pack(false);
            }
            if self.whole.is_none() {
                return self.end(computed);
            }
        }
        let whole = self.whole.take().expect("belongs to no pack, or to several");
        self.end(whole.finish())
    }

    fn end(&mut self, trailer: Oid) -> Result<(), MirrorError> {
        self.trailer = Some(trailer);
        self.give(trailer.as_bytes().to_vec())
    }

    fn give(&mut self, bytes: Vec<u8>) -> Result<(), MirrorError> {
        if let Some(whole) = &mut self.whole {
            whole.update(&bytes);
        }
        if self.at + bytes.len() as u64 > self.plan.kept {
            let written = self.file.seek(SeekFrom::Start(self.at));
            let written = written.and_then(|_| self.file.write_all(&bytes));
            written.map_err(|error| self.broken(&error))?;
        }
        self.at += bytes.len() as u64;
        self.ready = io::Cursor::new(bytes);
        Ok(())
    }

    fn broken(&self, error: &io::Error) -> MirrorError {
        MirrorError::Mirror(format!("cannot keep the pack that is downloaded: {error}"))
    }

    /// Reads all to its end, and answers the whole pack's checksum.
    pub(super) fn drain(mut self) -> Result<Oid, MirrorError> {
        loop {
            self.advance()?;
            if self.ready.get_ref().is_empty() {
                let early = || MirrorError::Internal("a pack without a trailer".into());
                return self.trailer.ok_or_else(early);
            }
        }
    }
}

impl Read for Packs<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.ready.position() == self.ready.get_ref().len() as u64 {
            self.advance().map_err(|error| {
                let words = io::Error::other(error.to_string());
                *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                words
            })?;
        }
        self.ready.read(buffer)
    }
}
