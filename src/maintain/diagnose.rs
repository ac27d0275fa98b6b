//! What is wrong with a mirror that could not be proven, cause first.
//!
//! Each listed pack is read by itself. If it is sound, its index is made again from it and compared
//! with the one that is stored: a missing or wrong index is one finding, and the walk continues with the
//! right one. If the pack is damaged, every object that its index lists is read alone, and those that
//! can't be are counted under one finding. What a missing pack held is known by its index.
//!
//! Then everything is visited from ref to ref (`walk`); what a finding already explains is counted
//! there and not reported again. Memory: indices as they are, 25 to 40 bytes an object that is reached, and
//! 4 an object of the pack that is being read.

use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};

use super::findings::Findings;
use super::inventory;
use super::pass::Pass;
use super::rebuild::rebuild;
use super::walk::{MISSING, Pointers, Problem, Reached, Walk};
use crate::git::lfs_pointer::LfsPointer;
use crate::git::object::{Kind, ObjectHasher, Oid, check_name, hash_object};
use crate::git::oids::OidMap;
use crate::pack::entry::EntryKind;
use crate::pack::entry_stream::EntryStream;
use crate::pack::index::{IndexEntry, IndexReader, parse_index};
use crate::repository::checked_loose::io_error;
use crate::repository::error::MirrorError;
use crate::repository::loose;
use crate::repository::packed::{self, Pack, PackedReader, Packs, ReadError};
use crate::repository::packs;
use crate::repository::resuming::ResumingReader;
use crate::store::{StoreError, StoreErrorKind};

/// An object to begin with, what it must be if that is known, and who names it.
pub(crate) type Tip = (Oid, Option<Kind>, String);

/// What to look at.
pub(crate) struct Diagnosis<'d> {
    pub(crate) pass: Pass<'d>,
    /// By name and size.
    pub(crate) quick: bool,
    pub(crate) findings: &'d Findings,
    pub(crate) tips: &'d [Tip],
}

/// What is known of the listed packs.
#[derive(Default)]
struct State {
    /// Those that can be read, if only in parts.
    packs: Packs,
    pointers: OidMap<LfsPointer>,
    /// Indices of packs that are missing.
    lost: Vec<IndexReader<Vec<u8>>>,
    /// A pack of which nothing is known: what is missing may have been in it.
    unknown: Option<String>,
}

type Index = IndexReader<Vec<u8>>;

impl Diagnosis<'_> {
    /// Finds what is wrong, and what the refs reach. `names`: of the packs that are listed;
    /// `list_is_sound`: as far as is known.
    pub(crate) fn find(
        &self,
        names: &[String],
        list_is_sound: bool,
    ) -> Result<Reached, MirrorError> {
        let mut state = State::default();
        let names = self.names(names, list_is_sound)?;
        for name in &names {
            self.pass.progress.phase("reading packs");
            self.look_at_pack(name, &mut state)?;
            if self.pass.cancel.is_cancelled() {
                return Err(MirrorError::Interrupted);
            }
        }
        self.pass.progress.phase("checking connectivity");
        self.walk(state)
    }

    /// The packs to look at. Where the list is wrong, those that are there belong to it.
    fn names(
        &self,
        listed: &[String],
        mut list_is_sound: bool,
    ) -> Result<Vec<String>, MirrorError> {
        let mut names = Vec::new();
        for name in listed {
            let exists = |extension| -> Result<bool, StoreError> {
                Ok(self.pass.store.head(&packs::key(name, extension))?.is_some())
            };
            if exists("pack")? || exists("idx")? {
                names.push(name.clone());
                continue;
            }
            let what = format!("lists {name}, but neither its pack nor its index exists");
            self.findings.add("objects/info/packs", what, None);
            list_is_sound = false;
        }
        if !list_is_sound {
            let there = match inventory::packs_there(self.pass.store, listed) {
                Err(MirrorError::Store(error)) if error.kind == StoreErrorKind::Unsupported => {
                    Vec::new()
                }
                there => there?,
            };
            let there = there.into_iter().map(|pack| pack.name);
            names.extend(there.filter(|name| !listed.contains(name)));
        }
        Ok(names)
    }

    fn look_at_pack(&self, name: &str, state: &mut State) -> Result<(), MirrorError> {
        let (key, index_key) = (packs::key(name, "pack"), packs::key(name, "idx"));
        let info = self.pass.store.head(&key)?;
        let pack_len = info.as_ref().map(|info| info.len);
        let index = packed::read_index(self.pass.store, name, pack_len, self.pass.memory_bytes)?;
        let Some(info) = info else {
            let objects = index.as_ref().map_or(0, |index| u64::from(index.object_count()));
            let what = "listed in objects/info/packs, but missing";
            self.findings.add_file(key.as_str(), what, objects);
            match index {
                Ok(index) => state.lost.push(index),
                Err(what) => {
                    self.findings.add_file(index_key.as_str(), what, 0);
                    state.unknown = Some(key.to_string());
                }
            }
            return Ok(());
        };
        let pack = |index| Pack { name: name.to_owned(), len: info.len, index };
        if let (true, Ok(index)) = (self.quick, &index) {
            let fault = self.trailer_fault(name, info.len, index)?;
            if let Some(what) = fault {
                self.findings.add_file(key.as_str(), what, 0);
            }
            state.packs.0.extend(index_of(index).map(pack));
            return Ok(());
        }
        match (rebuild(&self.pass, name, info.len)?, index) {
            (Ok(rebuilt), index) => {
                for (oid, pointer) in rebuilt.pointers.iter() {
                    state.pointers.insert(oid, *pointer);
                }
                let right =
                    parse_index(rebuilt.index, packs::format_of(name)).map_err(|error| {
                        MirrorError::Internal(format!("a rebuilt index is not valid: {error}"))
                    })?;
                match index.as_ref().map(|index| difference(index, &right)) {
                    Err(what) => {
                        let objects = right.object_count().into();
                        self.findings.add_file(index_key.as_str(), what.as_str(), objects);
                    }
                    Ok(Some((what, objects))) => {
                        self.findings.add_file(index_key.as_str(), what, objects);
                    }
                    Ok(None) => {}
                }
                state.packs.0.push(pack(right));
            }
            (Err(what), Ok(index)) => {
                state.packs.0.push(pack(index));
                self.salvage(&what, state)?;
            }
            (Err(what), Err(of_index)) => {
                self.findings.add_file(key.as_str(), what, 0);
                self.findings.add_file(index_key.as_str(), of_index, 0);
                state.unknown = Some(key.to_string());
            }
        }
        Ok(())
    }

    /// `quick`: the pack's last 20 bytes are its name, and its index leads nowhere behind them.
    fn trailer_fault(
        &self,
        name: &str,
        len: u64,
        index: &Index,
    ) -> Result<Option<String>, StoreError> {
        let trailer_len = index.format().raw_len() as u64;
        let end = len.saturating_sub(trailer_len);
        if let Some(far) = index.entries().find(|entry| entry.offset >= end) {
            let IndexEntry { oid, offset, .. } = far;
            return Ok(Some(format!("{oid} lies at offset {offset}, but it has {len} bytes")));
        }
        let (trailer, _) =
            self.pass.store.get(&packs::key(name, "pack"), Some(end..len), trailer_len)?;
        let is_right = trailer == index.pack_trailer().as_bytes();
        let what = "the checksum at its end does not match its name: truncated, or another pack";
        Ok((!is_right).then(|| what.to_owned()))
    }

    /// Reads each object of the pack that was opened last by itself. `what` is wrong with the whole.
    fn salvage(&self, what: &str, state: &mut State) -> Result<(), MirrorError> {
        let at = state.packs.0.len() - 1;
        let pack = &state.packs.0[at];
        let key = pack.key();
        self.findings.add_file(key.as_str(), what, 0);
        let entries = pack.index.by_offset();
        let mut reader = PackedReader::new(self.pass.store, &state.packs, self.pass.memory_bytes);
        for entry in entries.iter() {
            if self.pass.cancel.is_cancelled() {
                return Err(MirrorError::Interrupted);
            }
            match self.read_alone(&mut reader, at, pack, &entry) {
                Ok(Some(pointer)) => drop(state.pointers.insert(entry.oid, pointer)),
                Ok(None) => {}
                Err(ReadError::Store(error)) if !error.is_not_found() => return Err(error.into()),
                Err(_) => self.findings.add_object(key.as_str(), &entry.oid, String::new, None),
            }
        }
        Ok(())
    }

    /// One object of a pack, hashed; the pointer that it is, if it is one.
    fn read_alone(
        &self,
        reader: &mut PackedReader<'_>,
        at: usize,
        pack: &Pack,
        entry: &IndexEntry,
    ) -> Result<Option<LfsPointer>, ReadError> {
        if entry.offset >= pack.len {
            return Err(ReadError::Damaged("its content does not match its name".into()));
        }
        let check = |found| check_name(found, &entry.oid).map_err(ReadError::Damaged);
        match reader.read((at, entry.offset)) {
            Ok((kind, content)) => {
                check(hash_object(entry.oid.format(), kind, &content))?;
                Ok(LfsPointer::parse(&content).filter(|_| kind == Kind::Blob))
            }
            Err(ReadError::TooLarge(bytes)) => {
                let stream = ResumingReader::new(self.pass.store, pack.key(), entry.offset);
                let mut stream =
                    EntryStream::new(stream, entry.offset, entry.oid.format()).map_err(io_error)?;
                let EntryKind::Object(kind) = stream.header().kind else {
                    return Err(ReadError::TooLarge(bytes));
                };
                let mut hasher =
                    ObjectHasher::new(entry.oid.format(), kind, stream.header().inflated_len);
                let mut piece = vec![0; 64 << 10];
                loop {
                    match stream.read(&mut piece).map_err(io_error)? {
                        0 => break,
                        read => hasher.update(&piece[..read]),
                    }
                }
                check(hasher.finish()).map(|()| None)
            }
            Err(error) => Err(error),
        }
    }

    fn walk(&self, state: State) -> Result<Reached, MirrorError> {
        let State { packs, pointers, lost, unknown } = state;
        let pass = &self.pass;
        let stored = match self.quick {
            false => None,
            true => match inventory::stored(pass.store, pass.concurrency, pass.cancel) {
                Err(MirrorError::Store(error)) if error.kind == StoreErrorKind::Unsupported => None,
                listed => Some(listed?),
            },
        };
        let walk = Walk {
            store: pass.store,
            packs: &packs,
            threads: pass.concurrency,
            memory_bytes: pass.memory_bytes,
            cancel: pass.cancel,
            read_blobs: !self.quick,
            blobs_exist: true,
            stored: stored.as_ref(),
            pointers: match self.quick {
                true => Pointers::IfAttributes,
                false => Pointers::Known(pointers),
            },
            elsewhere: &|_, _| false,
        };
        let tips: Vec<_> = self.tips.iter().map(|(oid, kind, _)| (*oid, *kind)).collect();
        let none_is_lost = AtomicBool::new(true);
        let reached = walk.run(&tips, &|Problem { key, what, via, oid }| {
            let name = self.tips.get(via as usize).map(|(_, _, name)| name.clone());
            if key.starts_with("objects/pack/") {
                return self.findings.add_object(&key, &oid, || format!("{oid}: {what}"), name);
            }
            let is_missing = what == MISSING && loose::oid_of_key(&key).is_some();
            if is_missing && lost.iter().any(|index| index.lookup(&oid).is_some()) {
                return none_is_lost.store(false, Ordering::Relaxed);
            }
            match unknown.as_ref().filter(|_| is_missing) {
                Some(pack) => self.findings.add_object(pack, &oid, || what, name),
                None if is_missing => self.findings.add_missing(key, what, name),
                None => self.findings.add(key, what, name),
            }
        })?;
        if !none_is_lost.into_inner() {
            log::info!("refs reach objects in missing packs");
        }
        Ok(reached)
    }
}

/// An index again, to be held.
fn index_of(index: &Index) -> Option<Index> {
    parse_index(index.bytes().to_vec(), index.format()).ok()
}

/// How an index differs from the right one, if it does, and how many objects can't be found by it.
fn difference(index: &Index, right: &Index) -> Option<(String, u64)> {
    if index.bytes() == right.bytes() {
        return None;
    }
    let (found, right) = (index.by_offset(), right.by_offset());
    let pairs = (0..found.len().max(right.len())).map(|at| (found.get(at), right.get(at)));
    let mut differing = pairs.filter(|(found, right)| found != right).peekable();
    let what = match *differing.peek()? {
        (Some(found), Some(right)) if found.offset != right.offset => {
            format!("the pack has an entry at {}, the index one at {}", right.offset, found.offset)
        }
        (None, Some(right)) => {
            format!("the pack has an entry at {}, the index has none", right.offset)
        }
        (Some(found), None) => {
            format!("{} at offset {} is not in the pack", found.oid, found.offset)
        }
        (Some(found), Some(right)) if found.oid != right.oid => {
            let (oid, offset) = (found.oid, found.offset);
            format!("{oid} at offset {offset}: its content hashes to {}", right.oid)
        }
        (Some(found), Some(right)) => format!(
            "CRC-32 of {} is {:08x} in the index, {:08x} in the pack",
            found.oid, found.crc32, right.crc32
        ),
        (None, None) => return None,
    };
    let is_lost = |entry: &IndexEntry| {
        index
            .lookup(&entry.oid)
            .is_none_or(|offset| found.find(entry.offset).is_none() || offset != entry.offset)
    };
    Some((what, right.iter().filter(is_lost).count() as u64))
}
