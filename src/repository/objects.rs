//! Single git objects read back from the mirror, for the few that a run itself wants to see.
//!
//! [`file_of_head`] and [`reading`] are the ways in. An object is looked for where the run's layout puts it first, and
//! then where the other one does, because a mirror may have begun with that. Of packs nothing is held
//! but pieces: an index is not read whole, and packs are looked at from the newest on and only until
//! the object is found. The newest may be one that this run has just stored and not yet listed.

use std::cell::{OnceCell, RefCell};
use std::ops::Range;
use std::vec;

use super::error::MirrorError;
use super::files;
use super::layout::Layout;
use super::links::{file_in_tree, tree_of_commit};
use super::loose;
use super::packed::{Catalogue, PackedReader, Place, ReadError};
use super::packs::{self, StoredPack};
use super::publish::listed_packs;
use crate::git::object::{Kind, ObjectFormat, Oid, hash_object};
use crate::git::refs::{Advertisement, Head};
use crate::pack::index::lookup_by_ranges;
use crate::pack::loose::decode_loose;
use crate::run::MIN_MEMORY_BYTES;
use crate::store::{Key, Store};

/// Larger ones are not read: a `.lfsconfig`, a commit and a root folder are far smaller.
const MAX_OBJECT_BYTES: u64 = MIN_MEMORY_BYTES;

/// What is read of an index at first: all of it, if it lists up to some 2,000 objects.
const INDEX_HEAD_BYTES: u64 = 64 << 10;

/// The content of the file `name` in the root folder of HEAD's commit, which is stored; `None` if
/// there is no such file. `new_pack` is the pack that this run has stored.
pub(crate) fn file_of_head(
    store: &dyn Store,
    layout: Layout,
    new_pack: Option<&StoredPack>,
    refs: &Advertisement,
    name: &str,
) -> Result<Option<Vec<u8>>, MirrorError> {
    let tip = match &refs.head {
        Head::Branch(branch) => refs.find(branch).map(|found| found.oid),
        Head::Detached(oid) => Some(*oid),
        Head::Unborn(_) | Head::Absent => None,
    };
    let Some(tip) = tip else { return Ok(None) };
    reading(store, layout, new_pack, |read| file_of_commit(&tip, name, read))
}

/// Reads an object of the mirror; `None`: it is not there.
pub(crate) type ReadObject<'r> =
    dyn FnMut(&Oid) -> Result<Option<(Kind, Vec<u8>)>, MirrorError> + 'r;

/// Runs `work` with the means to read objects. What it has learnt of packs lasts as long.
pub(crate) fn reading<T>(
    store: &dyn Store,
    layout: Layout,
    new_pack: Option<&StoredPack>,
    work: impl FnOnce(&mut ReadObject<'_>) -> Result<T, MirrorError>,
) -> Result<T, MirrorError> {
    let packs = LazyPacks::new(store, new_pack);
    let mut packed = PackedReader::new(store, &packs, MAX_OBJECT_BYTES);
    let mut read = |oid: &Oid| match layout {
        Layout::Loose => match read_loose(store, oid)? {
            None => read_packed(&packs, &mut packed, oid),
            found => Ok(found),
        },
        Layout::Pack => match read_packed(&packs, &mut packed, oid)? {
            None => read_loose(store, oid),
            found => Ok(found),
        },
    };
    work(&mut read)
}

fn file_of_commit(
    commit_oid: &Oid,
    name: &str,
    read: &mut ReadObject<'_>,
) -> Result<Option<Vec<u8>>, MirrorError> {
    let mut read = |oid: &Oid, wanted: Kind| -> Result<Option<Vec<u8>>, MirrorError> {
        let found = read(oid)?.filter(|(kind, _)| *kind == wanted);
        Ok(found.map(|(_, content)| content))
    };
    let Some(commit) = read(commit_oid, Kind::Commit)? else { return Ok(None) };
    let Some(tree) = tree_of_commit(&commit) else { return Ok(None) };
    let Some(tree) = read(&tree, Kind::Tree)? else { return Ok(None) };
    let Some(blob) = file_in_tree(&tree, commit_oid.format(), name.as_bytes()) else {
        return Ok(None);
    };
    read(&blob, Kind::Blob)
}

fn damaged(store: &dyn Store, key: &Key, what: impl std::fmt::Display) -> MirrorError {
    let place = store.describe();
    MirrorError::Mirror(format!("the stored object {place}/{key} is damaged: {what}"))
}

fn read_loose(store: &dyn Store, oid: &Oid) -> Result<Option<(Kind, Vec<u8>)>, MirrorError> {
    let key = loose::key(oid);
    let found = files::get(store, &key, None, MAX_OBJECT_BYTES)?;
    let Some((bytes, _)) = found else { return Ok(None) };
    let (kind, content) =
        decode_loose(&bytes, MAX_OBJECT_BYTES).map_err(|error| damaged(store, &key, error))?;
    match hash_object(oid.format(), kind, &content) {
        Ok(found) if found == *oid => Ok(Some((kind, content))),
        Ok(found) => Err(damaged(store, &key, format!("it is {found}"))),
        Err(collision) => Err(damaged(store, &key, collision)),
    }
}

fn read_packed(
    packs: &LazyPacks<'_>,
    reader: &mut PackedReader<'_>,
    oid: &Oid,
) -> Result<Option<(Kind, Vec<u8>)>, MirrorError> {
    let Some(place) = packs.find(oid)? else { return Ok(None) };
    let bad = |what: String| {
        damaged(packs.store, &packs.key(place.0), format!("{oid} at offset {}: {what}", place.1))
    };
    match reader.read(place) {
        Ok((kind, content)) => match hash_object(oid.format(), kind, &content) {
            Ok(found) if found == *oid => Ok(Some((kind, content.to_vec()))),
            Ok(found) => Err(bad(format!("it is {found}"))),
            Err(collision) => Err(bad(collision.to_string())),
        },
        Err(ReadError::Store(error)) => Err(error.into()),
        Err(ReadError::Damaged(what)) => Err(bad(what)),
        Err(ReadError::TooLarge(bytes)) => Err(bad(format!("{bytes} bytes are too many"))),
    }
}

/// The packs of a mirror, opened when they are wanted: the newest first, as git looks.
struct LazyPacks<'e> {
    store: &'e dyn Store,
    new_pack: Option<&'e StoredPack>,
    opened: RefCell<Vec<LazyPack>>,
    /// Names that are not opened yet; `None`: the list has not been read.
    unopened: RefCell<Option<vec::IntoIter<String>>>,
}

struct LazyPack {
    name: String,
    len: OnceCell<u64>,
    /// The first bytes of its index.
    index: Vec<u8>,
}

impl<'e> LazyPacks<'e> {
    fn new(store: &'e dyn Store, new_pack: Option<&'e StoredPack>) -> Self {
        LazyPacks { store, new_pack, opened: RefCell::default(), unopened: RefCell::default() }
    }

    fn find(&self, oid: &Oid) -> Result<Option<Place>, MirrorError> {
        for at in 0.. {
            if at == self.opened.borrow().len() && !self.open_next()? {
                break;
            }
            match self.offset(at, oid) {
                Ok(None) => {}
                Ok(Some(offset)) => return Ok(Some((at, offset))),
                Err(ReadError::Store(error)) => return Err(error.into()),
                Err(ReadError::Damaged(what)) => {
                    let key = packs::key(&self.opened.borrow()[at].name, "idx");
                    return Err(damaged(self.store, &key, what));
                }
                Err(ReadError::TooLarge(_)) => unreachable!("only reading an object says so"),
            }
        }
        Ok(None)
    }

    /// Opens one more pack; false if there is none. One that is listed and not there is left out:
    /// readers don't find it either, and `verify` tells.
    fn open_next(&self) -> Result<bool, MirrorError> {
        loop {
            let new = self.new_pack.filter(|_| self.opened.borrow().is_empty());
            let name = match new {
                Some(pack) => Some(pack.name.clone()),
                None => self.next_listed()?,
            };
            let Some(name) = name else { return Ok(false) };
            let key = packs::key(&name, "idx");
            match self.store.get(&key, Some(0..INDEX_HEAD_BYTES), INDEX_HEAD_BYTES) {
                Ok((index, _)) => {
                    let len = new.map_or_else(OnceCell::new, |pack| OnceCell::from(pack.bytes));
                    self.opened.borrow_mut().push(LazyPack { name, len, index });
                    return Ok(true);
                }
                Err(error) if error.is_not_found() && new.is_none() => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn next_listed(&self) -> Result<Option<String>, MirrorError> {
        let mut unopened = self.unopened.borrow_mut();
        let names = match &mut *unopened {
            Some(names) => names,
            None => {
                let mut names = listed_packs(self.store)?;
                names.reverse();
                names.retain(|name| self.new_pack.is_none_or(|new| new.name != *name));
                unopened.insert(names.into_iter())
            }
        };
        Ok(names.next())
    }

    fn index_bytes(&self, pack: usize, range: Range<u64>) -> Result<Vec<u8>, ReadError> {
        let opened = self.opened.borrow();
        let LazyPack { name, index, .. } = &opened[pack];
        let is_whole = (index.len() as u64) < INDEX_HEAD_BYTES;
        if is_whole || range.end <= index.len() as u64 {
            let at = |end: u64| usize::try_from(end).unwrap_or(usize::MAX).min(index.len());
            return Ok(index[at(range.start)..at(range.end)].to_vec());
        }
        let len = range.end - range.start;
        Ok(self.store.get(&packs::key(name, "idx"), Some(range), len)?.0)
    }
}

impl Catalogue for LazyPacks<'_> {
    fn format(&self, pack: usize) -> ObjectFormat {
        packs::format_of(&self.opened.borrow()[pack].name)
    }

    fn key(&self, pack: usize) -> Key {
        packs::key(&self.opened.borrow()[pack].name, "pack")
    }

    fn pack_len(&self, pack: usize) -> Result<u64, ReadError> {
        if let Some(len) = self.opened.borrow()[pack].len.get() {
            return Ok(*len);
        }
        let info = self.store.head(&self.key(pack))?;
        let info = info.ok_or_else(|| ReadError::Damaged("the pack is missing".into()))?;
        Ok(*self.opened.borrow()[pack].len.get_or_init(|| info.len))
    }

    fn offset(&self, pack: usize, oid: &Oid) -> Result<Option<u64>, ReadError> {
        lookup_by_ranges(oid, |range| self.index_bytes(pack, range))
    }
}
