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

/// Adds what is wrong with the bundles of the list, if there is one. Unless `quick`, each is read from
/// end to end; else its header, its length and its last bytes are looked at.
pub(crate) fn check(
    store: &dyn Store,
    quick: bool,
    cancel: &Cancel,
    findings: &Findings,
) -> Result<(), MirrorError> {
    let Some((file, _)) = files::get(store, &files::key(LIST), None, 1 << 20)? else {
        return Ok(());
    };
    let Some(entries) = bundles::parse(&file) else {
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
        if let Err(what) = check_one(store, &entry, &key, info.len, quick, cancel)? {
            findings.add(key.as_str(), what, None);
        }
    }
    Ok(())
}

/// `Err`: what is wrong. The bundle that has everything is replaced before the list is, so it may have
/// another pack of the mirror than the list says.
fn check_one(
    store: &dyn Store,
    entry: &Entry,
    key: &Key,
    len: u64,
    quick: bool,
    cancel: &Cancel,
) -> Result<Result<(), String>, MirrorError> {
    let (header, header_len) = match bundles::header(store, key) {
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
        None => pack == entry.pack || !quick,
    };
    Ok(match is_right && (pack == entry.pack || entry.is_whole) {
        true => Ok(()),
        false => Err(format!("has another pack than {LIST} says, or not all of it ({pack})")),
    })
}

/// What is missing or can't be parsed is the bundle's fault.
fn unless_store_failed(error: io::Error) -> Result<Result<(), String>, MirrorError> {
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
/// check it or replace it any more. The list goes first, so that it names nothing that is gone. The state
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
