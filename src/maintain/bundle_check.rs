//! The maintenance of bundles ([`bundles`]): `verify` proves them, repair takes back what is damaged, and `gc`
//! deletes those that no list names and whose pack is gone.

use std::collections::{BTreeSet, HashSet};
use std::io::{self, Read};

use super::findings::Findings;
use crate::git::checksum::Checksum;
use crate::git::object::{ObjectFormat, Oid};
use crate::repository::bundles::{self, Entry, FOLDER, LIST};
use crate::repository::error::MirrorError;
use crate::repository::files;
use crate::repository::listing;
use crate::repository::packs;
use crate::repository::resuming::ResumingReader;
use crate::repository::state;
use crate::run::Cancel;
use crate::store::{Key, ObjectInfo, Store, StoreErrorKind};

/// How long a pack's header is; after its entries its trailer follows.
const HEADER_LEN: u64 = 12;

/// Bytes that are read at once.
const BLOCK: usize = 64 << 10;

/// How often a list that changes meanwhile is checked.
const TRIES: u32 = 3;

/// Adds what is wrong with the bundles of a mirror whose state says that there are some. Unless `quick`,
/// each is read from end to end; else its header, its length and its last bytes are looked at.
///
/// A run may replace bundles and their list meanwhile. Then what was found is of the old ones, and the new
/// ones are checked.
pub(crate) fn check(
    store: &dyn Store,
    quick: bool,
    max_header_bytes: u64,
    cancel: &Cancel,
    findings: &Findings,
) -> Result<(), MirrorError> {
    let read = || {
        let found = files::get(store, &files::key(LIST), None, bundles::MAX_LIST_BYTES)?;
        Ok::<_, MirrorError>(found.map(|(file, _)| file))
    };
    let mut list = read()?;
    for tries_left in (0..TRIES).rev() {
        let found = Findings::default();
        check_list(store, list.as_deref(), quick, max_header_bytes, cancel, &found)?;
        let now = match found.count() > 0 && tries_left > 0 {
            true => read()?,
            false => list.clone(),
        };
        if now == list {
            findings.absorb(found);
            break;
        }
        list = now;
    }
    Ok(())
}

fn check_list(
    store: &dyn Store,
    list: Option<&[u8]>,
    quick: bool,
    max_header_bytes: u64,
    cancel: &Cancel,
    findings: &Findings,
) -> Result<(), MirrorError> {
    let Some(list) = list else {
        let what = format!("missing, but {} says that there are bundles", state::KEY);
        findings.add(LIST, what, None);
        return Ok(());
    };
    let Some(entries) = bundles::parse(list) else {
        findings.add(LIST, "is not a list of this mirror's bundles", None);
        return Ok(());
    };
    for entry in entries {
        if cancel.is_cancelled() {
            return Err(MirrorError::Interrupted);
        }
        let key = entry.key();
        let Some(info) = store.head(&key)? else {
            findings.add(key.as_str(), format!("missing, but listed in {LIST}"), None);
            continue;
        };
        match check_one(store, &entry, &key, info.len, quick, max_header_bytes, cancel)? {
            Err(what) => findings.add(key.as_str(), what, None),
            Ok(pack) if pack == entry.pack => {}
            // What the list named before must be a pack of this mirror, too.
            Ok(pack) => {
                let named = packs::key(&entry.pack, "pack");
                if store.head(&named)?.is_none() {
                    let what = format!("names {named}, which is not there, but {key} has {pack}");
                    findings.add(LIST, what, None);
                }
            }
        }
    }
    Ok(())
}

/// Which pack a bundle has, that of the entry or another one of this mirror; `Err`: what is wrong. Only the
/// bundle that has everything may have another one, because it is replaced before the list is.
fn check_one(
    store: &dyn Store,
    entry: &Entry,
    key: &Key,
    len: u64,
    quick: bool,
    max_header_bytes: u64,
    cancel: &Cancel,
) -> Result<Result<String, String>, MirrorError> {
    let (header, header_len) = match bundles::header(store, key, max_header_bytes) {
        Ok(read) => read,
        Err(error) => return unless_store_failed(error),
    };
    let is_whole = header.prerequisites.is_empty();
    let format = header.advertised.advertisement.format;
    let trailer_len = format.raw_len() as u64;
    if is_whole != entry.is_whole {
        return Ok(Err("its prerequisites do not match its position in the list".into()));
    }
    if header_len + HEADER_LEN + trailer_len > len {
        return Ok(Err("contains no pack".into()));
    }
    let from = if quick { len - trailer_len } else { header_len };
    let mut stream = ResumingReader::new(store, key.clone(), from).take(len - from);
    let trailer = match quick {
        true => last(&mut stream, format),
        false => proven_trailer(&mut stream, format, cancel),
    };
    let pack = match trailer {
        Ok(Some(trailer)) => format!("pack-{trailer}"),
        Ok(None) if cancel.is_cancelled() => return Err(MirrorError::Interrupted),
        Ok(None) => {
            return Ok(Err("its pack is damaged: the checksum at its end does not match".into()));
        }
        Err(error) => return unless_store_failed(error),
    };
    // A list that is older than a gc may name a pack that is gone.
    let stored = store.head(&packs::key(&pack, "pack"))?.map(|info| info.len);
    let is_right = match stored {
        Some(stored) => header_len + stored == len,
        None => pack == entry.pack,
    };
    Ok(match is_right && (pack == entry.pack || entry.is_whole) {
        true => Ok(pack),
        false => Err(format!("has another pack than {LIST} says, or not all of it ({pack})")),
    })
}

/// What is missing or can't be parsed is the bundle's fault.
fn unless_store_failed<T>(error: io::Error) -> Result<Result<T, String>, MirrorError> {
    match error.downcast::<crate::store::StoreError>() {
        Ok(error) if error.kind == StoreErrorKind::NotFound => Ok(Err("missing".into())),
        Ok(error) => Err(error.into()),
        Err(error) => Ok(Err(error.to_string())),
    }
}

fn last(stream: &mut impl Read, format: ObjectFormat) -> io::Result<Option<Oid>> {
    let mut trailer = vec![0; format.raw_len()];
    stream.read_exact(&mut trailer)?;
    Ok(Oid::from_slice(&trailer))
}

/// The trailer of a pack that is read from its beginning. `None`: it is not that of the bytes.
fn proven_trailer(
    stream: &mut impl Read,
    format: ObjectFormat,
    cancel: &Cancel,
) -> io::Result<Option<Oid>> {
    let (mut hasher, mut held) = (Checksum::new(format), Vec::with_capacity(2 * BLOCK));
    while stream.take(BLOCK as u64).read_to_end(&mut held)? > 0 {
        if cancel.is_cancelled() {
            return Ok(None);
        }
        let ready = held.len().saturating_sub(format.raw_len());
        hasher.update(&held[..ready]);
        held.drain(..ready);
    }
    Ok(Oid::from_slice(&held).filter(|trailer| *trailer == hasher.finish()))
}

/// Takes bundles back, if one of the damaged keys is theirs: they can be made anew by any run with
/// `--bundle`. Answers the keys of whatever of them was damaged.
///
/// Besides the list, what is damaged goes, and `clone.bundle`: it is read without the list, and nobody would
/// check it or replace it. The list goes first, so that it names nothing that is gone. The state
/// changes last: until then `verify` looks for bundles.
pub(crate) fn take_back(
    store: &dyn Store,
    damaged: &BTreeSet<String>,
) -> Result<Vec<String>, MirrorError> {
    let is_theirs = |key: &&String| {
        let key = key.as_str();
        key == LIST || key == bundles::WHOLE || key.starts_with(FOLDER)
    };
    let damaged: Vec<String> = damaged.iter().filter(is_theirs).cloned().collect();
    if !damaged.is_empty() {
        store.delete(&[files::key(LIST)])?;
        let mut keys = vec![files::key(bundles::WHOLE)];
        let others = damaged.iter().filter_map(|key| Key::new(key.clone()).ok());
        keys.extend(others.filter(|key| bundles::pack_of_key(key.as_str()).is_some()));
        store.delete(&keys)?;
        state::forget_bundles(store)?;
        log::warn!(
            "{}: {LIST}, {} and damaged bundles are deleted: the next run with --bundle creates the \
             bundles again",
            store.describe(),
            bundles::WHOLE,
        );
    }
    Ok(damaged)
}

/// Hands to `deleting`, and deletes, bundles that are not listed and whose pack is no longer stored.
/// Answers how many, and their bytes.
pub(crate) fn collect(
    store: &dyn Store,
    dry_run: bool,
    deleting: &(dyn Fn(&ObjectInfo) + Sync),
) -> Result<(u64, u64), MirrorError> {
    let mut found = Vec::new();
    listing::pages(store, FOLDER, |page| {
        found.extend(page.into_iter().filter(|o| bundles::pack_of_key(o.key.as_str()).is_some()));
        Ok::<_, MirrorError>(())
    })?;
    if found.is_empty() {
        return Ok((0, 0));
    }
    let mut stored = HashSet::new();
    listing::pages(store, "objects/pack/", |page| {
        let names = page.iter().filter_map(|info| {
            let name = info.key.as_str().strip_prefix("objects/pack/")?.strip_suffix(".pack")?;
            Some(name.to_owned())
        });
        stored.extend(names);
        Ok::<_, MirrorError>(())
    })?;
    let listed = bundles::read(store)?.unwrap_or_default();
    found.retain(|info| {
        let pack = bundles::pack_of_key(info.key.as_str()).unwrap_or_default();
        !stored.contains(pack) && listed.iter().all(|entry| entry.key() != info.key)
    });
    found.iter().for_each(deleting);
    let keys: Vec<Key> = found.iter().map(|info| info.key.clone()).collect();
    if !dry_run && !keys.is_empty() {
        store.delete(&keys)?;
    }
    Ok((keys.len() as u64, found.iter().map(|info| info.len).sum()))
}
