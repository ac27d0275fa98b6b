//! The index of a pack, made again from the pack alone.

use std::sync::{Mutex, PoisonError};

use super::pass::Pass;
use crate::git::lfs_pointer::LfsPointer;
use crate::git::object::{Kind, Oid};
use crate::git::oids::OidMap;
use crate::ingest::sink::check::{Examiner, Found};
use crate::pack::index_entries::IndexEntries;
use crate::repository::error::MirrorError;
use crate::repository::packs;

/// A pack that is sound in itself.
pub(crate) struct Rebuilt {
    /// Its index, byte for byte as git writes it.
    pub(crate) index: Vec<u8>,
    /// LFS pointers among its blobs.
    pub(crate) pointers: OidMap<LfsPointer>,
}

/// Reads the pack `name` of `len` bytes from end to end, 60 bytes of memory an object. The inner
/// error: what is wrong with it.
pub(crate) fn rebuild(
    pass: &Pass<'_>,
    name: &str,
    len: u64,
) -> Result<Result<Rebuilt, String>, MirrorError> {
    let entries = IndexEntries::with_capacity(packs::format_of(name), 0);
    let (collector, pointers) = (Collector(Mutex::new(entries)), Mutex::new(OidMap::default()));
    let look = |oid: &Oid, kind: Kind, content: &[u8]| {
        if kind == Kind::Blob
            && let Some(pointer) = LfsPointer::parse(content)
        {
            pointers.lock().unwrap_or_else(PoisonError::into_inner).insert(*oid, pointer);
        }
    };
    if let Err(what) = pass.read(name, len, &look, &collector)? {
        return Ok(Err(what));
    }
    let entries = collector.0.into_inner().unwrap_or_else(PoisonError::into_inner);
    let trailer = packs::trailer_of(name);
    let trailer = trailer.ok_or_else(|| MirrorError::Internal(format!("a pack named {name}")))?;
    let mut index = Vec::new();
    entries
        .write_index(&trailer, &mut index)
        .map_err(|error| MirrorError::Internal(format!("cannot write an index: {error}")))?;
    let pointers = pointers.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(Ok(Rebuilt { index, pointers }))
}

/// Notes what an index lists.
struct Collector(Mutex<IndexEntries>);

impl Examiner for Collector {
    fn found(&self, objects: &[Found]) {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        objects.iter().for_each(|found| entries.push(&found.oid, found.offset, found.crc32));
    }

    fn each_listed(&self, tell: &mut dyn FnMut(u64, &Oid)) -> Result<(), MirrorError> {
        let entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        entries.iter().for_each(|entry| tell(entry.offset, &entry.oid));
        Ok(())
    }
}
