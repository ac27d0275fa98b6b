//! Packs of the mirror, whole, as one pack of the repository.
//!
//! The stream of [`super::stream`] goes to a file `tmp_mirror_…` of the folder of packs and through the
//! ingest, which hashes every object and makes the index. With [`Trust::Index`] the stored indices are
//! taken after their checksums, merged with shifted offsets. [`install`] then gives the files their
//! names: `.keep` first, which the caller hands to git, the index last, which lets git see the pack.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::connected::Connected;
use super::local::{KEPT_BY, Local, TEMPORARY, failed};
use super::scratch::Scratch;
use super::stream::{Listed, Packs, Plan, Ranges, damaged, look_at};
use crate::git::checksum::Checksum;
use crate::git::object::{Kind, ObjectFormat, Oid};
use crate::ingest::budget::Budget;
use crate::ingest::context::{RunContext, Written};
use crate::ingest::run::store_pack;
use crate::pack::index::{lookup_by_ranges, parse_index};
use crate::pack::index_entries::IndexEntries;
use crate::progress::Progress;
use crate::repository::error::MirrorError;
use crate::repository::existing::Existing;
use crate::repository::layout::Layout;
use crate::repository::packs;
use crate::repository::temp::TempKeys;
use crate::run::Cancel;
use crate::run::threads::for_each;
use crate::store::Store;

/// Working memory of the ingest. Tables of a pack of 420,000 objects come on top, and buffers.
const MEMORY_BYTES: u64 = 32 << 20;

/// An index of 2^32 objects would have 128 GiB; more than this is no index that fits here.
const MAX_INDEX_BYTES: u64 = 4 << 30;

/// How much of the mirror is believed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Trust {
    /// Nothing: every object is hashed.
    #[default]
    Nothing,
    /// The stored indices, and that refs are published only when all that they need is stored.
    Index,
}

/// A pack of the repository's, just installed.
pub(super) struct Installed {
    /// Its `.keep` file.
    pub(super) keep: PathBuf,
    /// Everything that its objects lead to is in it, and `tips` are.
    pub(super) is_connected: bool,
}

/// Downloads the packs `names` as one pack. `tips`: for [`Installed::is_connected`].
pub(super) fn download(
    store: &dyn Store,
    local: &Local,
    names: &[String],
    tips: &[Oid],
    trust: Trust,
    promisor: bool,
    progress: &dyn Progress,
) -> Result<Installed, MirrorError> {
    let packs = look_at(store, names)?;
    let folder = local.objects.join("pack");
    fs::create_dir_all(&folder).map_err(|error| failed("create", &folder, &error))?;
    let partial = Partial::open(&folder, names)?;
    let outcome = match trust {
        Trust::Nothing => verified(store, local, packs, &partial, tips, progress),
        Trust::Index => trusting(store, packs, &partial, tips, progress),
    };
    let (trailer, index, is_connected) = outcome.inspect_err(|error| {
        // What was kept of it may be what is wrong.
        if !matches!(error, MirrorError::Store(_)) {
            let _ = fs::remove_file(&partial.path);
        }
    })?;
    let write_index = |out: &mut dyn Write| out.write_all(&index);
    let keep = install(&folder, &trailer, &partial.path, write_index, promisor)?;
    Ok(Installed { keep, is_connected })
}

/// The file that is downloaded to, locked while this process is at it.
struct Partial {
    path: PathBuf,
    kept: u64,
    _lock: File,
}

impl Partial {
    fn open(folder: &Path, names: &[String]) -> Result<Self, MirrorError> {
        let hash = Checksum::of(ObjectFormat::Sha1, names.concat().as_bytes());
        let path = folder.join(format!("{TEMPORARY}{hash}.part"));
        match Self::lock(&path)? {
            Some(partial) => Ok(partial),
            // Another command downloads the same: this one goes its own way.
            None => {
                let own = path.with_extension(format!("{}.part", std::process::id()));
                let taken = || failed("lock", &own, &io::Error::from(io::ErrorKind::ResourceBusy));
                Self::lock(&own)?.ok_or_else(taken)
            }
        }
    }

    fn lock(path: &Path) -> Result<Option<Self>, MirrorError> {
        let bad = |error: &io::Error| failed("open", path, error);
        let mut options = File::options();
        let file = options.read(true).write(true).create(true).truncate(false).open(path);
        let file = file.map_err(|error| bad(&error))?;
        match file.try_lock() {
            Err(fs::TryLockError::WouldBlock) => return Ok(None),
            // File systems without locks go without.
            Err(fs::TryLockError::Error(error)) if error.kind() != io::ErrorKind::Unsupported => {
                return Err(bad(&error));
            }
            _ => {}
        }
        let kept = file.metadata().map_err(|error| bad(&error))?.len();
        Ok(Some(Partial { path: path.to_owned(), kept, _lock: file }))
    }
}

/// The repository's format: what is wanted has it.
fn format_of(tips: &[Oid]) -> ObjectFormat {
    tips.first().map_or_else(ObjectFormat::default, Oid::format)
}

/// The whole pack's trailer, its index, and whether it is connected.
type Indexed = (Oid, Vec<u8>, bool);

fn verified(
    store: &dyn Store,
    local: &Local,
    packs: Vec<Listed>,
    partial: &Partial,
    tips: &[Oid],
    progress: &dyn Progress,
) -> Result<Indexed, MirrorError> {
    let scratch = Scratch::new(&local.objects, &partial.path)
        .map_err(|error| failed("create a directory in", &local.objects, &error))?;
    let format = format_of(tips);
    let plan = Plan::new(format, packs, partial.kept)?;
    let temp = TempKeys::new(&scratch);
    let connected = Connected::new();
    let look = |oid: &Oid, kind: Kind, content: &[u8]| connected.look(oid, kind, content);
    let mut budget = Budget::of(MEMORY_BYTES, Layout::Pack);
    // Parts are dropped, not uploaded: the file has them.
    budget.parts /= 2;
    budget.bases += budget.parts;
    let env = RunContext {
        store: &scratch,
        progress,
        temp: &temp,
        layout: Layout::Pack,
        format,
        existing: Existing::default(),
        cancel: Cancel::default(),
        concurrency: 2,
        budget,
        written: Written::default(),
        observe: &look,
        thin: false,
        increment: false,
        max_object_bytes: u64::MAX,
    };
    let ranges = Ranges::new(store, plan.ranges());
    let failure = Mutex::new(None);
    let stored = ranges.run(|| {
        let stream = Packs::begin(&plan, &ranges, progress, &failure, &partial.path)?;
        store_pack(stream, &[], &env)
    });
    let failure = failure.into_inner().unwrap_or_else(PoisonError::into_inner);
    let stored = stored.map_err(|error| failure.unwrap_or_else(|| of_the_mirror(store, error)))?;
    drop(env);
    let Some(pack) = stored.pack else {
        let words = "its packs are empty".to_owned();
        return Err(MirrorError::Mirror(words));
    };
    let trailer = packs::trailer_of(&pack.name);
    let trailer = trailer.ok_or_else(|| MirrorError::Internal("not a pack's name".into()))?;
    let missing = || MirrorError::Internal("ingest created no index".into());
    let path = scratch.file(&packs::key(&pack.name, "idx")).ok_or_else(missing)?;
    let index = fs::read(&path).map_err(|error| failed("read", &path, &error))?;
    match parse_index(&index[..], format) {
        Ok(parsed) if parsed.pack_trailer() == trailer => {}
        // Git would not see the pack, and whoever asked for it would fetch it object by object.
        _ => return Err(MirrorError::Internal(format!("the index of {} is damaged", pack.name))),
    }
    let is_connected = connected.prove(tips, |oid| is_in(&index, oid));
    Ok((trailer, index, is_connected))
}

/// The ingest speaks of a source's pack; here it is the mirror's.
fn of_the_mirror(store: &dyn Store, error: MirrorError) -> MirrorError {
    match error {
        MirrorError::Pack(what) => {
            MirrorError::Mirror(format!("a pack of {} is damaged: {what}", store.describe()))
        }
        other => other,
    }
}

fn is_in(index: &[u8], oid: &Oid) -> bool {
    let read = |range: std::ops::Range<u64>| {
        let at = |end: u64| usize::try_from(end).unwrap_or(usize::MAX).min(index.len());
        Ok::<_, crate::pack::index::IndexError>(index[at(range.start)..at(range.end)].to_vec())
    };
    matches!(lookup_by_ranges(oid, read), Ok(Some(_)))
}

fn trusting(
    store: &dyn Store,
    packs: Vec<Listed>,
    partial: &Partial,
    tips: &[Oid],
    progress: &dyn Progress,
) -> Result<Indexed, MirrorError> {
    let plan = Plan::new(format_of(tips), packs.clone(), partial.kept)?;
    progress.expect_objects(u64::from(plan.objects()));
    let ranges = Ranges::new(store, plan.ranges());
    let failure = Mutex::new(None);
    let mut indices = Vec::new();
    let trailer = ranges.run(|| {
        std::thread::scope(|threads| {
            let read = threads.spawn(|| read_indices(store, &packs));
            let stream = Packs::begin(&plan, &ranges, progress, &failure, &partial.path);
            let trailer = stream.and_then(Packs::drain);
            let panicked =
                || MirrorError::Internal("the thread that reads indices panicked".into());
            indices = read.join().unwrap_or_else(|_| Err(panicked()))?;
            trailer
        })
    })?;
    let index = match &mut indices[..] {
        [one] if packs.len() == 1 => std::mem::take(one),
        _ => merged(store, &packs, indices, &trailer)?,
    };
    progress.objects_done(u64::from(plan.objects()));
    let is_connected = tips.iter().all(|tip| is_in(&index, tip));
    Ok((trailer, index, is_connected))
}

/// The stored indices in order, each with its checksums right and of its pack.
fn read_indices(store: &dyn Store, packs: &[Listed]) -> Result<Vec<Vec<u8>>, MirrorError> {
    let found = Mutex::new(vec![Vec::new(); packs.len()]);
    let numbered: Vec<(usize, &Listed)> = packs.iter().enumerate().collect();
    for_each(&numbered, 4, "index", |(number, pack)| {
        let key = packs::key(&pack.name, "idx");
        let (bytes, _) = store.get(&key, None, MAX_INDEX_BYTES)?;
        let index = parse_index(&bytes, packs::format_of(&pack.name))
            .map_err(|error| damaged(store, &key, &error.to_string()))?;
        let is_its = format!("pack-{}", index.pack_trailer()) == pack.name
            && index.object_count() == pack.objects;
        if !is_its {
            return Err(damaged(store, &key, "it belongs to another pack"));
        }
        found.lock().unwrap_or_else(PoisonError::into_inner)[*number] = bytes;
        Ok::<_, MirrorError>(())
    })?;
    Ok(found.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// One index of several: offsets are shifted by what lies before.
fn merged(
    store: &dyn Store,
    packs: &[Listed],
    indices: Vec<Vec<u8>>,
    trailer: &Oid,
) -> Result<Vec<u8>, MirrorError> {
    let mut entries = IndexEntries::with_capacity(trailer.format(), 0);
    // Of what lies before a pack's entries, its own header of 12 bytes is not in the whole.
    let mut before = 0;
    for (pack, bytes) in packs.iter().zip(indices) {
        let key = packs::key(&pack.name, "idx");
        let index = parse_index(bytes, trailer.format())
            .map_err(|error| damaged(store, &key, &error.to_string()))?;
        if index.entries().any(|entry| entry.offset > pack.len) {
            return Err(damaged(store, &key, "an offset lies outside of the pack"));
        }
        index.entries().for_each(|e| entries.push(&e.oid, e.offset + before, e.crc32));
        before += pack.body_len();
    }
    let mut index = Vec::new();
    entries
        .write_index(trailer, &mut index)
        .map_err(|error| MirrorError::Internal(error.to_string()))?;
    Ok(index)
}

/// Gives a pack its name: nothing of it is seen before all of it is there. The answer is its `.keep`.
pub(super) fn install<T>(
    folder: &Path,
    trailer: &Oid,
    pack: &Path,
    write_index: impl FnOnce(&mut dyn Write) -> io::Result<T>,
    promisor: bool,
) -> Result<PathBuf, MirrorError> {
    let named = |extension: &str| folder.join(format!("pack-{trailer}.{extension}"));
    let temporary = folder.join(format!("{TEMPORARY}{trailer}.idx"));
    let rename = |from: &Path, to: &Path| {
        fs::rename(from, to).map_err(|error| failed("rename", from, &error))
    };
    let sync = File::open(pack).and_then(|file| file.sync_data());
    sync.map_err(|error| failed("sync", pack, &error))?;
    let keep = named("keep");
    write_synced(&keep, |out| writeln!(out, "{KEPT_BY}{}", std::process::id()))?;
    if promisor {
        write_synced(&named("promisor"), |_| Ok(()))?;
    }
    write_synced(&temporary, write_index)?;
    rename(pack, &named("pack"))?;
    rename(&temporary, &named("idx"))?;
    for extension in ["pack", "idx"] {
        // As git has them: nobody is to write to them. Read-only is no condition of anything.
        if let Ok(about) = fs::metadata(named(extension)) {
            let mut permissions = about.permissions();
            permissions.set_readonly(true);
            let _ = fs::set_permissions(named(extension), permissions);
        }
    }
    Ok(keep)
}

fn write_synced<T>(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> io::Result<T>,
) -> Result<(), MirrorError> {
    let file = File::create(path).map_err(|error| failed("create", path, &error))?;
    let mut file = BufWriter::new(file);
    let written = write(&mut file).and_then(|_| file.flush());
    written.and_then(|()| file.get_ref().sync_data()).map_err(|error| failed("write", path, &error))
}
