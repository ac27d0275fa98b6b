//! A mirror into one file: what another mirror is missing, as a tar, for a trip by medium or a pipe.
//!
//! The other mirror's state says what it has ([`state`] writes one). The tar begins with the list of what
//! is on board and what must be there already, HEAD and info/refs follow, then the keys in the order of
//! the list. Each is proven while it is read: damage is found where the repository can be reached. Small
//! keys are read `--concurrency` at once and written in order.

use std::io::{self, Read, Write};
use std::sync::{Mutex, PoisonError};

use super::folders::each_part;
use super::keys::{self, Form, KeyFile, Keys};
use super::prove::{Counts, Item, SMALL_BYTES, What, prove};
use super::tape::Writer;
use crate::git::refs::{head_file, info_refs};
use crate::progress::Progress;
use crate::repository::error::MirrorError;
use crate::repository::publish::{Published, max_file_bytes};
use crate::repository::resuming::ResumingReader;
use crate::repository::state::{Recorded, identity, object_format};
use crate::run::Cancel;
use crate::run::threads::for_each;
use crate::store::{Key, Store, StoreError};

/// The entry that says what is on board.
pub(super) const LIST: &str = "trip/keys.jsonl";

/// What a key takes in memory while a list of keys is made: its name, its length, the base64 of it.
const KEY_BYTES: u64 = 128;

/// What an export may take.
#[derive(Clone, Debug)]
pub struct ExportOptions {
    /// LFS objects, too.
    pub lfs: bool,
    /// Store requests in flight; at least 1.
    pub concurrency: usize,
    /// Working memory in bytes.
    pub memory_bytes: u64,
    /// To stop it.
    pub cancel: Cancel,
}

/// What was exported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exported {
    /// Refs that the other mirror will have.
    pub refs: usize,
    /// Git objects on board.
    pub objects: u64,
    /// LFS objects on board.
    pub lfs: u64,
    /// Their bytes as they are stored.
    pub bytes: u64,
}

/// The state of a mirror, which tells [`export`] what it has. A mirror that does not exist yet has
/// nothing.
pub fn state(store: &dyn Store, memory_bytes: u64) -> Result<Vec<u8>, MirrorError> {
    let published = Published::read(store, max_file_bytes(memory_bytes))?;
    let mut file = begin(store, &published)?;
    if published.exists() {
        let mut fits = Fits::new(store, memory_bytes);
        each_part(store, true, |(what, _)| {
            if what.format().is_none_or(|format| format == file.format) {
                file.there.push(what);
            }
            fits.count()
        })?;
        file.packs = file.there.packs.clone();
    }
    Ok(keys::write(Form::State, &file))
}

/// A file that says of which repository it is, and lists nothing yet.
fn begin(store: &dyn Store, published: &Published) -> Result<KeyFile, MirrorError> {
    let recorded = Recorded::read(store)?;
    let format = object_format(store, published, recorded.as_ref())?.unwrap_or_default();
    let repository = recorded.and_then(|state| state.repository().map(str::to_owned));
    Ok(KeyFile { repository, format, ..KeyFile::default() })
}

/// Counts keys that are held in memory.
struct Fits<'s> {
    store: &'s dyn Store,
    keys: u64,
    most: u64,
}

impl<'s> Fits<'s> {
    fn new(store: &'s dyn Store, memory_bytes: u64) -> Self {
        Fits { store, keys: 0, most: memory_bytes / KEY_BYTES }
    }

    fn count(&mut self) -> Result<(), MirrorError> {
        self.keys += 1;
        if self.keys <= self.most {
            return Ok(());
        }
        Err(MirrorError::Guard(format!(
            "{} has more than {} objects, more than --memory allows: raise --memory, or \
             mirror it with --layout pack",
            self.store.describe(),
            self.most
        )))
    }
}

/// Writes to `out` what a mirror with the state `since` is missing; without one, everything.
pub fn export<W: Write>(
    store: &dyn Store,
    since: Option<&mut dyn Read>,
    options: &ExportOptions,
    out: W,
    progress: &dyn Progress,
) -> Result<(Exported, W), MirrorError> {
    progress.phase("comparing with the other mirror");
    let since = match since {
        None => KeyFile::default(),
        Some(file) => keys::read(Form::State, file, options.memory_bytes)
            .map_err(|what| MirrorError::Mirror(format!("cannot read the state: {what}")))?,
    };
    // Before anything is listed: what the refs reach is listed then.
    let published = Published::read(store, max_file_bytes(options.memory_bytes))?;
    if !published.exists() {
        let words = format!("no mirror in {}: it has no info/refs", store.describe());
        return Err(MirrorError::Mirror(words));
    }
    let (file, parts) = compare(store, &published, &since.there, options)?;
    if let (Some(theirs), Some(ours)) = (&since.repository, &file.repository)
        && identity(theirs) != identity(ours)
    {
        return Err(MirrorError::Guard(format!(
            "the state is of a mirror of {theirs}, but {} is a mirror of {ours}",
            store.describe()
        )));
    }
    let mut tape = Writer::new(out);
    let written = tape.add(LIST, &keys::write(Form::Trip, &file)).and_then(|()| {
        if let Some(head) = published.head.as_ref().and_then(head_file) {
            tape.add("HEAD", &head)?;
        }
        tape.add("info/refs", &info_refs(&published.refs))
    });
    written.map_err(|error| unwritten(&error))?;
    drop(file);
    progress.phase("exporting");
    progress.expect_objects(parts.len() as u64);
    let mut sending = Sending { store, options, progress, tape, counts: Counts::default() };
    sending.all(&parts)?;
    let Sending { tape, counts, .. } = sending;
    let out = tape.finish().map_err(|error| unwritten(&error))?;
    let exported = Exported {
        refs: published.refs.len(),
        objects: counts.objects.into_inner(),
        lfs: counts.lfs.into_inner(),
        bytes: counts.bytes.into_inner() + counts.lfs_bytes.into_inner(),
    };
    Ok((exported, out))
}

/// What `store` has and `since` has not, with lengths, and the list of both.
fn compare(
    store: &dyn Store,
    published: &Published,
    since: &Keys,
    options: &ExportOptions,
) -> Result<(KeyFile, Vec<(What, u64)>), MirrorError> {
    let mut file = begin(store, published)?;
    let mut parts = Vec::new();
    let left = options.memory_bytes.saturating_sub(since.bytes());
    let mut fits = Fits::new(store, left);
    each_part(store, options.lfs, |(what, len)| {
        if what.format().is_some_and(|format| format != file.format) {
            return Ok(());
        }
        fits.count()?;
        if let What::Pack(name) = what {
            file.packs.push(name);
        }
        if since.has(what) {
            file.there.push(what);
        } else {
            file.aboard.push(what);
            parts.push((what, len));
        }
        Ok(())
    })?;
    Ok((file, parts))
}

impl Keys {
    fn has(&self, what: What) -> bool {
        match what {
            What::Loose(oid) => self.loose.contains(&oid),
            What::Pack(name) | What::Index(name) => self.packs.contains(&name),
            What::Lfs(oid) => self.lfs.binary_search(&oid).is_ok(),
        }
    }
}

struct Sending<'e, W> {
    store: &'e dyn Store,
    options: &'e ExportOptions,
    progress: &'e dyn Progress,
    tape: Writer<W>,
    counts: Counts,
}

impl<W: Write> Sending<'_, W> {
    fn all(&mut self, parts: &[(What, u64)]) -> Result<(), MirrorError> {
        let (most, most_bytes) = (8 * self.options.concurrency, self.options.memory_bytes / 4);
        let (mut small, mut bytes) = (Vec::new(), 0);
        for (what, len) in parts {
            let item = Item { key: what.key(), len: *len, what: *what, etag: None };
            let is_small = *len <= SMALL_BYTES && !what.is_of_pack();
            if !is_small {
                self.several(&std::mem::take(&mut small))?;
                bytes = 0;
                self.large(&item)?;
                continue;
            }
            bytes += len;
            small.push((small.len(), item));
            if small.len() >= most || bytes >= most_bytes {
                self.several(&std::mem::take(&mut small))?;
                bytes = 0;
            }
        }
        self.several(&small)
    }

    /// Reads small keys at once and writes them in order.
    fn several(&mut self, items: &[(usize, Item)]) -> Result<(), MirrorError> {
        let contents = Mutex::new(vec![Vec::new(); items.len()]);
        let (store, progress, cancel) = (self.store, self.progress, &self.options.cancel);
        let counts = &self.counts;
        for_each(items, self.options.concurrency, "export", |(at, item)| {
            let mut content = Vec::with_capacity(item.len as usize);
            read(store, progress, cancel, item, &mut content, counts)?;
            contents.lock().unwrap_or_else(PoisonError::into_inner)[*at] = content;
            Ok::<_, MirrorError>(())
        })?;
        let contents = contents.into_inner().unwrap_or_else(PoisonError::into_inner);
        for ((_, item), content) in items.iter().zip(contents) {
            let written = self.tape.add(item.key.as_str(), &content);
            written.map_err(|error| unwritten(&error))?;
        }
        Ok(())
    }

    fn large(&mut self, item: &Item) -> Result<(), MirrorError> {
        self.tape.begin(item.key.as_str(), item.len).map_err(|error| unwritten(&error))?;
        let (store, progress, cancel) = (self.store, self.progress, &self.options.cancel);
        read(store, progress, cancel, item, self.tape.body(), &self.counts)?;
        self.tape.end_entry(item.len).map_err(|error| unwritten(&error))
    }
}

/// Reads a key, proves it, and writes it out.
fn read(
    store: &dyn Store,
    progress: &dyn Progress,
    cancel: &Cancel,
    item: &Item,
    out: &mut dyn Write,
    counts: &Counts,
) -> Result<(), MirrorError> {
    let input = ResumingReader::new(store, item.key.clone(), 0);
    let mut copy = Tee { input, out, left: item.len, progress, cancel, unwritten: None };
    let proven = prove(&mut copy, item, counts);
    if let Err(error) = proven {
        return Err(match copy.unwritten {
            _ if cancel.is_cancelled() => MirrorError::Interrupted,
            Some(error) => unwritten(&error),
            None => unread(store, &item.key, &error),
        });
    }
    counts.count(item);
    progress.objects_done(1);
    Ok(())
}

fn unread(store: &dyn Store, key: &Key, error: &io::Error) -> MirrorError {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<StoreError>()) {
        Some(error) => MirrorError::Store(error.clone()),
        None => MirrorError::Mirror(format!(
            "{}/{key} is damaged: {error}; run verify on that mirror",
            store.describe()
        )),
    }
}

fn unwritten(error: &io::Error) -> MirrorError {
    MirrorError::Mirror(format!("cannot write the export: {error}"))
}

/// What is read is written, too.
struct Tee<'e> {
    input: ResumingReader<'e>,
    out: &'e mut dyn Write,
    /// Of the length that the entry's header has.
    left: u64,
    progress: &'e dyn Progress,
    cancel: &'e Cancel,
    unwritten: Option<io::Error>,
}

impl Read for Tee<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.cancel.is_cancelled() {
            return Err(io::Error::other("interrupted"));
        }
        let read = self.input.read(buffer)?;
        let longer = || io::Error::new(io::ErrorKind::InvalidData, "it is longer than listed");
        self.left = self.left.checked_sub(read as u64).ok_or_else(longer)?;
        if let Err(error) = self.out.write_all(&buffer[..read]) {
            let words = error.to_string();
            self.unwritten = Some(error);
            return Err(io::Error::other(words));
        }
        self.progress.received(read as u64);
        Ok(read)
    }
}
