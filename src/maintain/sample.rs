//! A share of a mirror read back, so that a number of runs read all of it.
//!
//! Every run reads refs, HEAD, the state, the lists and all indices, and looks that each ref's object
//! is there. Of loose and LFS objects it reads those whose name falls to its share, and of every pack
//! the entries that begin in its share of the pack's bytes, whose CRC-32 the index has. What sampled
//! commits, trees and tags point to must be there, loose or by an index.
//!
//! What that does not see: whether entries are what their names say beyond their CRC-32, and whether
//! what packed objects point to is there. A full `verify` does, now and then.
//!
//! Whose turn it is says `mirror_state/verified.json`, which a run writes at its end, with what the
//! last round of runs found. Where it can't be written, the day does.
//!
//! **Memory**: 6.5 bytes an object, four more of the pack that is being looked at, and 24 a loose
//! object.

use std::io::Read;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zlib_rs::crc32::crc32;

use super::diagnose::Tip;
use super::findings::Findings;
use super::inventory;
use super::known::{Fingerprint, Keys, Known};
use super::links::tree_links;
use super::pass::Pass;
use crate::git::object::{Kind, ObjectFormat, Oid};
use crate::pack::index_scan::{IndexEvents, ScanError, scan_index};
use crate::repository::checked_loose::CheckedLoose;
use crate::repository::checked_loose::io_error;
use crate::repository::error::MirrorError;
use crate::repository::files;
use crate::repository::lfs_objects;
use crate::repository::links::{commit_links, tag_link};
use crate::repository::listing::{LFS, OBJECTS};
use crate::repository::loose;
use crate::repository::packed::{self, ReadError};
use crate::repository::packs;
use crate::repository::resuming::ResumingReader;
use crate::run::threads::for_each;
use crate::store::{Key, ObjectHeaders, Store, StoreError};

/// The key below the target's prefix.
pub const KEY: &str = "mirror_state/verified.json";

const MAX_BYTES: u64 = 1 << 20;

/// How much of a mirror a run reads: `parts` of `of` equal ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// At least 1, at most `of`.
    pub parts: u32,
    /// At most 10,000.
    pub of: u32,
}

/// What earlier runs have left.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Verified {
    /// How many parts a round has.
    of: u32,
    /// The first part of the next run.
    next: u32,
    /// The last results, by part, from the oldest.
    results: Vec<ResultOfPart>,
    /// The last run that read everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    full: Option<ResultOfAll>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct ResultOfAll {
    /// Seconds since 1970, UTC.
    at: u64,
    findings: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct ResultOfPart {
    part: u32,
    /// Seconds since 1970, UTC.
    at: u64,
    findings: u64,
}

impl Verified {
    /// What can't be understood is begun anew.
    fn read(store: &dyn Store) -> Result<Option<Self>, StoreError> {
        let file = files::get(store, &files::key(KEY), None, MAX_BYTES)?;
        Ok(file.and_then(|(file, _)| serde_json::from_slice(&file).ok()))
    }

    fn write(&self, store: &dyn Store) -> Result<(), StoreError> {
        let mut file = serde_json::to_vec_pretty(self).expect("numbers are always JSON");
        file.push(b'\n');
        let headers = ObjectHeaders::changing("application/json");
        store.put(&files::key(KEY), &file, headers, None).map(drop)
    }
}

/// When `verify` last read the mirror or a part of it (seconds since 1970), and what its last runs have
/// found: the last one that read everything, and the parts that were read after it. `None`: it never did.
pub(crate) fn last_results(store: &dyn Store) -> Result<Option<(u64, u64)>, StoreError> {
    let Some(read) = Verified::read(store)? else { return Ok(None) };
    let since = read.full.map_or(0, |full| full.at);
    let later = read.results.iter().filter(|result| read.full.is_none() || result.at > since);
    let later: Vec<_> = later.map(|result| (result.at, result.findings)).collect();
    let all = read.full.map(|full| (full.at, full.findings)).into_iter().chain(later);
    Ok(all.reduce(|(at, findings), (later, more)| (at.max(later), findings + more)))
}

/// Notes what a run has found that read everything, beside the results of samples.
pub fn note_full(store: &dyn Store, at: u64, findings: u64) -> Result<(), StoreError> {
    let mut verified = Verified::read(store)?.unwrap_or_default();
    verified.full = Some(ResultOfAll { at, findings });
    verified.write(store)
}

/// Parts of a whole, from `first` on and round.
#[derive(Clone, Copy)]
struct Share {
    first: u32,
    sample: Sample,
}

impl Share {
    fn parts(self) -> impl Iterator<Item = u32> {
        (0..self.sample.parts).map(move |n| (self.first + n) % self.sample.of)
    }

    fn has(self, part: u32) -> bool {
        (part + self.sample.of - self.first) % self.sample.of < self.sample.parts
    }

    /// Names are spread evenly.
    fn has_name(self, name: &[u8]) -> bool {
        let first = name.iter().take(8).fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
        self.has((first % u64::from(self.sample.of)) as u32)
    }

    /// The stretches of a file of `len` bytes.
    fn ranges(self, len: u64) -> Vec<(u64, u64)> {
        let of = u128::from(self.sample.of);
        let at = |part: u32| (u128::from(len) * u128::from(part) / of) as u64;
        self.parts().map(|part| (at(part), at(part + 1))).collect()
    }
}

/// One run.
pub(crate) struct Sampler<'s> {
    pub(crate) pass: Pass<'s>,
    pub(crate) sample: Sample,
    pub(crate) findings: &'s Findings,
    pub(crate) tips: &'s [Tip],
}

/// What a run has read.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Looked {
    pub(crate) objects: u64,
    pub(crate) lfs_objects: u64,
}

impl Sampler<'_> {
    /// Reads the next share. `names`: of the listed packs.
    pub(crate) fn run(&self, names: &[String]) -> Result<Looked, MirrorError> {
        let mut verified = Verified::read(self.pass.store)?.unwrap_or_default();
        let Sample { of, .. } = self.sample;
        let is_continued = verified.of == of && verified.next < of;
        if !is_continued {
            verified.results.clear();
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let by_day = (now / (24 * 3600) * u64::from(self.sample.parts)) % u64::from(self.sample.of);
        let first = if is_continued { verified.next } else { by_day as u32 };
        let share = Share { first, sample: self.sample };
        let before = self.findings.count();
        let looked = self.look(names, share)?;
        let found = self.findings.count() - before;
        self.note(verified, share, now, found);
        Ok(looked)
    }

    fn look(&self, names: &[String], share: Share) -> Result<Looked, MirrorError> {
        let Pass { store, concurrency, cancel, progress, .. } = self.pass;
        let (keys, mut fingerprints) = (Keys::default(), Vec::new());
        let objects = AtomicU64::new(0);
        progress.phase("reading packs");
        for name in names {
            if cancel.is_cancelled() {
                return Err(MirrorError::Interrupted);
            }
            let read = self.look_at_pack(name, share, &keys, &mut fingerprints)?;
            objects.fetch_add(read, Ordering::Relaxed);
        }
        progress.phase("reading loose objects");
        let (listed, lfs) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
        inventory::pages(store, OBJECTS, concurrency, cancel, &|page| {
            let oids = page.iter().filter_map(|info| loose::oid_of_key(info.key.as_str()));
            lock(&listed).extend(oids);
            Ok(())
        })?;
        inventory::pages(store, LFS, concurrency, cancel, &|page| {
            let oids = page.iter().filter_map(|info| lfs_objects::oid_of_key(info.key.as_str()));
            lock(&lfs).extend(oids.filter(|oid| share.has_name(oid)));
            Ok(())
        })?;
        let listed = listed.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        fingerprints.extend(listed.iter().map(|oid| keys.fingerprint(oid)));
        let known = Known::new(keys, fingerprints);
        for (oid, _, name) in self.tips.iter().filter(|(oid, ..)| !known.contains(oid)) {
            self.findings.add(loose::key(oid).as_str(), "missing", Some(name.clone()));
        }
        let sampled: Vec<Oid> =
            listed.into_iter().filter(|oid| share.has_name(oid.as_bytes())).collect();
        for_each(&sampled, concurrency, "verify", |oid| {
            objects.fetch_add(1, Ordering::Relaxed);
            self.look_at_loose(oid, &known)
        })?;
        let lfs = lfs.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        progress.phase("checking LFS objects");
        for_each(&lfs, concurrency, "verify", |oid| self.look_at_lfs(oid))?;
        Ok(Looked { objects: objects.into_inner(), lfs_objects: lfs.len() as u64 })
    }

    fn is_cancelled(&self) -> Result<(), MirrorError> {
        if self.pass.cancel.is_cancelled() { Err(MirrorError::Interrupted) } else { Ok(()) }
    }

    /// Reads an index, and the entries of its pack that begin in this share. Answers how many.
    fn look_at_pack(
        &self,
        name: &str,
        share: Share,
        keys: &Keys,
        fingerprints: &mut Vec<Fingerprint>,
    ) -> Result<u64, MirrorError> {
        let (key, index_key) = (packs::key(name, "pack"), packs::key(name, "idx"));
        let store = self.pass.store;
        let Some(pack) = store.head(&key)? else {
            self.findings.add(key.as_str(), "listed in objects/info/packs, but missing", None);
            return Ok(0);
        };
        let Some(index) = store.head(&index_key)? else {
            let what = "its pack is listed, but the index is missing";
            self.findings.add(index_key.as_str(), what, None);
            return Ok(0);
        };
        if let Some(what) = packed::index_fault(store, name, index.len, pack.len)? {
            self.findings.add(index_key.as_str(), what, None);
            return Ok(0);
        }
        let format = packs::format_of(name);
        let trailer_len = format.raw_len() as u64;
        let end = pack.len.saturating_sub(trailer_len);
        let mut entries = Entries {
            keys,
            fingerprints,
            ranges: share.ranges(end),
            end,
            crcs: Vec::new(),
            found: Vec::new(),
            nexts: vec![end; share.sample.parts as usize],
            beyond: false,
        };
        let scanned = std::thread::scope(|scope| {
            let stream = self.pass.open(scope, (index_key.clone(), index.len))?;
            Ok::<_, MirrorError>(scan_index(stream, index.len, format, &mut entries))
        })?;
        let Entries { mut found, nexts, ranges, beyond, .. } = entries;
        let (trailer, _) = store.get(&key, Some(end..pack.len), trailer_len)?;
        let named = |oid: Oid| format!("pack-{oid}") == name;
        match scanned {
            Ok(of) if !named(of) => {
                let what = format!("it belongs to another pack, {of}");
                self.findings.add(index_key.as_str(), what, None);
                return Ok(0);
            }
            Ok(_) => {}
            Err(ScanError::Io(error)) => match io_error(error) {
                ReadError::Store(error) => return Err(error.into()),
                _ => self.findings.add(index_key.as_str(), "it is truncated", None),
            },
            Err(error) => {
                self.findings.add(index_key.as_str(), error.to_string(), None);
                return Ok(0);
            }
        }
        if Oid::from_slice(&trailer).is_none_or(|trailer| !named(trailer)) || beyond {
            let what =
                "the checksum at its end does not match its name: truncated, or another pack";
            self.findings.add(key.as_str(), what, None);
            return Ok(0);
        }
        found.sort_unstable();
        let read = found.len() as u64;
        for ((start, end), next) in ranges.into_iter().zip(nexts) {
            let from = found.partition_point(|(offset, _)| *offset < start);
            let to = found.partition_point(|(offset, _)| *offset < end);
            self.check_entries(&key, &found[from..to], next)?;
        }
        Ok(read)
    }

    /// Compares the CRC-32 of entries that follow each other; the last ends at `end`.
    fn check_entries(
        &self,
        key: &Key,
        entries: &[(u64, u32)],
        end: u64,
    ) -> Result<(), MirrorError> {
        let Some((start, _)) = entries.first() else { return Ok(()) };
        let mut stream = ResumingReader::new(self.pass.store, key.clone(), *start);
        let mut piece = vec![0; 64 << 10];
        for (at, (offset, wanted)) in entries.iter().enumerate() {
            self.is_cancelled()?;
            let mut left = entries.get(at + 1).map_or(end, |(next, _)| *next) - offset;
            let mut crc = 0;
            while left > 0 {
                let len = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                if let Err(error) = stream.read_exact(&mut piece[..len]) {
                    match io_error(error) {
                        ReadError::Store(error) if !error.is_not_found() => {
                            return Err(error.into());
                        }
                        _ => self.findings.add(key.as_str(), "it is truncated", None),
                    }
                    return Ok(());
                }
                crc = crc32(crc, &piece[..len]);
                left -= len as u64;
            }
            if crc != *wanted {
                self.findings.add_first(key.as_str(), || {
                    format!("entry at offset {offset}: its CRC-32 does not match the index")
                });
            }
        }
        Ok(())
    }

    /// Reads and hashes a loose object; what it points to must be there.
    fn look_at_loose(&self, oid: &Oid, known: &Known) -> Result<(), MirrorError> {
        self.is_cancelled()?;
        let key = loose::key(oid);
        let fault = match self.read_loose(oid, known) {
            Ok(fault) => fault,
            Err(ReadError::Store(error)) if !error.is_not_found() => return Err(error.into()),
            // Deleted since it was listed.
            Err(ReadError::Store(_)) => None,
            Err(ReadError::Damaged(what)) => Some(what),
            Err(ReadError::TooLarge(bytes)) => Some(format!("not read: it has {bytes} bytes")),
        };
        if let Some(what) = fault {
            self.findings.add(key.as_str(), what, None);
        }
        Ok(())
    }

    fn read_loose(&self, oid: &Oid, known: &Known) -> Result<Option<String>, ReadError> {
        let mut reader = CheckedLoose::open(self.pass.store, oid)?;
        let (kind, size) = (reader.kind(), reader.size());
        let share = self.pass.memory_bytes / self.pass.concurrency.max(1) as u64;
        let is_held = kind != Kind::Blob;
        if is_held && size > share.max(1 << 20) {
            return Err(ReadError::TooLarge(size));
        }
        let (mut content, mut piece) = (Vec::new(), [0; 16 << 10]);
        loop {
            match reader.read(&mut piece)? {
                0 => break,
                len if is_held => content.extend_from_slice(&piece[..len]),
                _ => {}
            }
        }
        let Some(links) = links(oid.format(), kind, &content) else {
            return Ok(Some(format!("not a valid {kind}")));
        };
        let missing = links.iter().find(|link| !known.contains(link));
        if let Some(link) = missing {
            self.findings.add(
                loose::key(link).as_str(),
                format!("missing ({oid} refers to it)"),
                None,
            );
        }
        Ok(None)
    }

    fn look_at_lfs(&self, oid: &[u8; 32]) -> Result<(), MirrorError> {
        let key = lfs_objects::key(oid);
        let mut stream = ResumingReader::new(self.pass.store, key.clone(), 0);
        let (mut hasher, mut piece) = (Sha256::new(), vec![0; 64 << 10]);
        loop {
            self.is_cancelled()?;
            match stream.read(&mut piece) {
                Ok(0) => break,
                Ok(read) => hasher.update(&piece[..read]),
                Err(error) => match io_error(error) {
                    ReadError::Store(error) if error.is_not_found() => return Ok(()),
                    ReadError::Store(error) => return Err(error.into()),
                    _ => break,
                },
            }
        }
        if <[u8; 32]>::from(hasher.finalize()) != *oid {
            self.findings.add(key.as_str(), "its SHA-256 does not match its name", None);
        }
        Ok(())
    }

    /// Writes whose turn is next. It is not a problem if that fails.
    fn note(&self, mut verified: Verified, share: Share, now: u64, findings: u64) {
        verified.of = self.sample.of;
        verified.next = (share.first + self.sample.parts) % self.sample.of;
        verified.results.retain(|result| !share.has(result.part) && result.part < verified.of);
        let result = |part| ResultOfPart { part, at: now, findings };
        verified.results.extend(share.parts().map(result));
        if let Err(error) = verified.write(self.pass.store) {
            log::warn!("the next sample is chosen by date: {error}");
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// What an object points to.
fn links(format: ObjectFormat, kind: Kind, content: &[u8]) -> Option<Vec<Oid>> {
    match kind {
        Kind::Blob => Some(Vec::new()),
        Kind::Commit => commit_links(content).map(|(tree, mut parents)| {
            parents.push(tree);
            parents
        }),
        Kind::Tag => tag_link(content).map(|(oid, _)| vec![oid]),
        Kind::Tree => {
            let entries: Option<Vec<_>> = tree_links(content, format).collect();
            let entries = entries?.into_iter();
            Some(entries.filter(|entry| entry.kind.is_some()).map(|entry| entry.oid).collect())
        }
    }
}

/// Hears an index: what begins in the share's ranges, and where the entry after each range begins.
struct Entries<'e> {
    keys: &'e Keys,
    fingerprints: &'e mut Vec<Fingerprint>,
    ranges: Vec<(u64, u64)>,
    end: u64,
    crcs: Vec<u32>,
    found: Vec<(u64, u32)>,
    nexts: Vec<u64>,
    beyond: bool,
}

impl IndexEvents for Entries<'_> {
    fn count(&mut self, objects: u32) {
        self.fingerprints.reserve_exact(objects as usize);
        self.crcs.reserve_exact(objects as usize);
    }

    fn name(&mut self, oid: Oid) {
        self.fingerprints.push(self.keys.fingerprint(&oid));
    }

    fn crc32(&mut self, _: u32, crc32: u32) {
        self.crcs.push(crc32);
    }

    fn offset(&mut self, place: u32, offset: u64) {
        self.beyond |= offset >= self.end;
        for ((start, end), next) in self.ranges.iter().zip(&mut self.nexts) {
            if offset >= *end {
                *next = offset.min(*next);
            } else if offset >= *start {
                self.found.push((offset, self.crcs[place as usize]));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_one_round_have_every_part_name_and_byte_once() {
        for (parts, of) in [(1, 1), (1, 30), (7, 30), (30, 30)] {
            let sample = Sample { parts, of };
            let (mut seen, mut names, mut bytes) = (vec![0; of as usize], vec![0; 500], 0);
            let mut first = 3 % of;
            let runs = if of % parts == 0 { of / parts } else { of };
            for _ in 0..runs {
                let share = Share { first, sample };
                share.parts().for_each(|part| seen[part as usize] += 1);
                (0..of)
                    .for_each(|part| assert_eq!(share.has(part), share.parts().any(|p| p == part)));
                for (number, name) in names.iter_mut().enumerate() {
                    *name += u32::from(
                        share.has_name(&(number as u64 * 0x9e37_79b9_7f4a).to_be_bytes()),
                    );
                }
                bytes += share.ranges(1_000_003).iter().map(|(from, to)| to - from).sum::<u64>();
                first = (first + parts) % of;
            }
            let times = runs * parts / of;
            assert!(seen.iter().chain(&names).all(|seen| *seen == times), "{parts}/{of}: {seen:?}");
            assert_eq!(bytes, u64::from(times) * 1_000_003);
        }
    }
}
