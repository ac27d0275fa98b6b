//! The mutable files of a mirror: what was published before, and publishing.
//!
//! Readers may look at any moment, so the order matters. Objects come first, which [`AllStored`]
//! proves; then `objects/info/packs`; then `info/refs` and `HEAD`, such that HEAD never names a
//! branch that `info/refs` does not have (git would clone with nothing checked out):
//!
//! - a first publication writes HEAD first: without `info/refs` there is no mirror yet;
//! - HEAD's new branch was published before: HEAD first, then `info/refs`;
//! - HEAD's new branch is new: `info/refs` first; and if the old one goes away at the same time (a
//!   renamed default branch), `info/refs` with both, then HEAD, then `info/refs` without the old.
//!
//! **Several runs on one target.** The last publisher wins only over what it has seen. `info/refs`
//! is compared right before it is written, and written on condition of its entity tag where the
//! store knows conditions; some ignore them and some refuse what is right, so a refusal is looked
//! into and never trusted alone.
//!
//! `objects/info/packs` is added to by all of them, and a store that ignores conditions lets one
//! overwrite what another has just added. So who has published looks whether its pack is still
//! listed; and who finds that another was faster, whose pack it may have dropped, lists every pack
//! that is whole and that no listed one stands for.

use std::collections::BTreeSet;

use super::error::MirrorError;
use super::files::{self, File as Seen, key};
use super::listing;
use super::packs;
use super::retired_packs::{self, RetiredPacks};
use crate::git::object::ObjectFormat;
use crate::git::refs::{
    Advertisement, Head, Ref, head_file, info_refs, max_refs_bytes, parse_head_file,
    parse_info_refs,
};
use crate::store::{Condition, Key, ObjectHeaders, Store, StoreErrorKind};

/// `info/refs`: not `application/x-git-…`, or a reader would take it for the smart protocol.
const PLAIN: ObjectHeaders = ObjectHeaders::changing("text/plain");

/// An `info/refs` of a million refs is some 100 MB; more is not ours.
pub(crate) const MAX_REFS_BYTES: u64 = 256 << 20;

/// HEAD is the name of a ref, or of an object.
pub(crate) const MAX_HEAD_BYTES: u64 = 64 << 10;

/// The most bytes of an `info/refs` that a run with so much memory reads, or writes.
pub(crate) fn max_file_bytes(memory_bytes: u64) -> u64 {
    max_refs_bytes(memory_bytes).min(MAX_REFS_BYTES)
}

/// Runs that add packs at the same moment make each other look again.
const LIST_TRIES: u32 = 10;

/// One ref that a run adds, moves or deletes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefChange {
    /// Full name, or `HEAD`.
    pub name: String,
    /// Where it pointed: an oid, or `ref: …` for HEAD. `None`: it is new.
    pub old: Option<String>,
    /// Where it points now. `None`: it is gone.
    pub new: Option<String>,
}

/// Proof that everything that a run's refs need is stored. One type alone has it, which only a clean
/// end of the ingest makes, and publishing consumes it.
pub(crate) trait AllStored {
    /// The pack that the run has stored, if it has stored one.
    fn new_pack(&self) -> Option<&str>;
}

/// What a mirror has published.
#[derive(Debug, Default)]
pub(crate) struct Published {
    /// Sorted by name; empty also when nothing was published.
    pub(crate) refs: Vec<Ref>,
    pub(crate) head: Option<Head>,
    /// The file `info/refs` as it was read, and its entity tag; `None`: there is none.
    seen: Option<Seen>,
}

impl Published {
    /// Reads `info/refs`, which is no longer than this, and `HEAD` if there is one.
    pub(crate) fn read(store: &dyn Store, max_bytes: u64) -> Result<Self, MirrorError> {
        let Some((file, etag)) = files::get(store, &key("info/refs"), None, max_bytes)? else {
            return Ok(Published::default());
        };
        let refs = parse_info_refs(&file).map_err(|error| damaged(store, "info/refs", &error))?;
        let head = match files::get(store, &key("HEAD"), None, MAX_HEAD_BYTES)? {
            Some((file, _)) => Some(
                parse_head_file(&file, &refs).map_err(|error| damaged(store, "HEAD", &error))?,
            ),
            None => None,
        };
        Ok(Published { refs, head, seen: Some((file, etag)) })
    }

    /// As a source would say it.
    pub(crate) fn advertised(&self) -> Advertisement {
        let head = self.head.clone().unwrap_or(Head::Absent);
        Advertisement::of(self.refs.clone(), head)
    }

    /// What was published once, to be compared with something else.
    pub(crate) fn of(then: Advertisement) -> Self {
        Published { refs: then.refs, head: Some(then.head), seen: None }
    }

    /// Is there a mirror at all?
    pub(crate) fn exists(&self) -> bool {
        self.seen.is_some()
    }

    /// What differs from `wanted`, by name; HEAD first.
    pub(crate) fn changes(&self, wanted: &Advertisement) -> Vec<RefChange> {
        let mut changes = Vec::new();
        let head_now = head_text(&wanted.head);
        let head_was = self.head.as_ref().and_then(head_text);
        if head_was != head_now {
            changes.push(RefChange { name: "HEAD".into(), old: head_was, new: head_now });
        }
        let find = |refs: &[Ref], r: &Ref| refs.binary_search_by(|other| other.name.cmp(&r.name));
        for new in &wanted.refs {
            let old = find(&self.refs, new).ok().map(|at| &self.refs[at]);
            // A peeled oid that the mirror does not have (a bundle tells none) is a change of the file only.
            if old.map(|old| (old.oid, old.peeled)) != Some((new.oid, new.peeled)) {
                changes.push(change(new, old.map(|old| old.oid.to_string()), Some(new)));
            }
        }
        for old in &self.refs {
            if find(&wanted.refs, old).is_err() {
                changes.push(change(old, Some(old.oid.to_string()), None));
            }
        }
        changes
    }
}

fn change(r: &Ref, old: Option<String>, new: Option<&Ref>) -> RefChange {
    RefChange { name: r.name.to_string(), old, new: new.map(|new| new.oid.to_string()) }
}

fn head_text(head: &Head) -> Option<String> {
    head_file(head).map(|file| String::from_utf8_lossy(file.trim_ascii_end()).into_owned())
}

fn get(store: &dyn Store, key: &Key) -> Result<Option<Seen>, MirrorError> {
    let is_list = key.as_str() == PACK_LIST;
    let max_bytes = if is_list { packs::MAX_LIST_BYTES } else { MAX_REFS_BYTES };
    Ok(files::get(store, key, None, max_bytes)?)
}

fn damaged(store: &dyn Store, file: &str, error: &dyn std::fmt::Display) -> MirrorError {
    MirrorError::Mirror(format!(
        "{}/{file} is not a valid mirror file: {error}; is this the right target?",
        store.describe()
    ))
}

/// The packs that a mirror lists, in the order of `objects/info/packs`.
pub(crate) fn listed_packs(store: &dyn Store) -> Result<Vec<String>, MirrorError> {
    match get(store, &key(PACK_LIST))? {
        Some((file, _)) => parse_list(store, &file),
        None => Ok(Vec::new()),
    }
}

const PACK_LIST: &str = "objects/info/packs";

/// What a list holds. A list of no pack has one line feed in it, so one without a byte is damaged, or
/// was answered by something other than the store: without its packs clones fail.
fn parse_list(store: &dyn Store, file: &[u8]) -> Result<Vec<String>, MirrorError> {
    if file.is_empty() {
        return Err(MirrorError::Mirror(format!(
            "{}/{PACK_LIST} is empty (0 bytes): it is damaged, or a cache answers instead of the store; if \
             it is empty in the store itself, delete the key and run again with --full",
            store.describe()
        )));
    }
    let stranger = |line| damaged(store, PACK_LIST, &format!("{line:?} is not a pack name"));
    packs::parse_pack_list(file).map_err(stranger)
}

/// Brings `objects/info/packs` up to date: without `replaced`, and with `new` in the place of the last
/// of them, or at its end, which git tries first. Packs that another run has added meanwhile stay. The
/// file is there even with no pack in it: git tolerates a missing one, but not a 403 for it.
fn list_packs(
    store: &dyn Store,
    new: Option<&str>,
    replaced: &[String],
) -> Result<Vec<String>, MirrorError> {
    list_packs_if(store, new, replaced, |_| Ok(()))
}

/// The same if the list passes `check`.
fn list_packs_if(
    store: &dyn Store,
    new: Option<&str>,
    replaced: &[String],
    check: impl Fn(&[String]) -> Result<(), MirrorError>,
) -> Result<Vec<String>, MirrorError> {
    edit_list(store, |names| {
        check(names)?;
        let place = names.iter().rposition(|name| replaced.contains(name));
        let place = place.map(|at| names[..at].iter().filter(|n| !replaced.contains(n)).count());
        let is_listed = new.is_some_and(|new| names.iter().any(|name| name == new));
        names.retain(|name| Some(name.as_str()) == new || !replaced.contains(name));
        if let Some(new) = new
            && !is_listed
        {
            names.insert(place.unwrap_or(names.len()), new.to_owned());
        }
        Ok(())
    })
}

/// Changes the list on top of what it is; answers what it then is.
fn edit_list(
    store: &dyn Store,
    edit: impl Fn(&mut Vec<String>) -> Result<(), MirrorError>,
) -> Result<Vec<String>, MirrorError> {
    let key = key(PACK_LIST);
    let mut is_hidden = false;
    for _ in 0..LIST_TRIES {
        let found = get(store, &key)?;
        let mut names = match &found {
            Some((file, _)) => parse_list(store, file)?,
            None => Vec::new(),
        };
        edit(&mut names)?;
        let file = packs::list_file(&names);
        let condition = match found {
            Some((old, _)) if old == file => return Ok(names),
            Some((_, etag)) => etag.map(Condition::Matches),
            None => Some(Condition::Absent),
        };
        match store.put(&key, &file, PLAIN, condition.as_ref()) {
            Ok(_) => return Ok(names),
            // Another run has written it, or the store refuses what is right: look again.
            Err(error) if error.kind == StoreErrorKind::ConditionFailed => {}
            Err(error) if error.kind == StoreErrorKind::Unsupported => {
                store.put(&key, &file, PLAIN, None)?;
                return Ok(names);
            }
            Err(error) => return Err(error.into()),
        }
        let now = get(store, &key)?;
        is_hidden = condition == Some(Condition::Absent) && now.is_none();
        if is_same_file(condition.as_ref(), now.as_ref()) {
            store.put(&key, &file, PLAIN, None)?;
            return Ok(names);
        }
    }
    Err(if is_hidden { hidden(store, &key) } else { MirrorError::Conflict })
}

/// The store says that a key exists and that it does not. What was read is not what is stored, and
/// nothing may be put over that.
fn hidden(store: &dyn Store, key: &Key) -> MirrorError {
    MirrorError::Mirror(format!(
        "{}/{key} cannot be read (not found), and cannot be created because it exists: check for a \
         cache that answers instead of the store; nothing was published",
        store.describe()
    ))
}

/// Puts `new`, which has all that `parts` have, into their place on the list, and answers the list. If
/// one of them has left it meanwhile, nothing changes. `refs` are published.
pub(crate) fn replace_packs(
    store: &dyn Store,
    refs: &[Ref],
    new: &str,
    parts: &[String],
) -> Result<Vec<String>, MirrorError> {
    let parts: Vec<String> = parts.iter().filter(|name| *name != new).cloned().collect();
    if !parts.is_empty() {
        retired_packs::note(store, new, &parts)?;
    }
    let are_listed = |names: &[String]| parts.iter().all(|part| names.contains(part));
    let listed = listed_packs(store)?;
    if !are_listed(&listed) {
        return Ok(listed);
    }
    let listed = list_packs(store, Some(new), &parts)?;
    after_compaction(store, refs, listed)
}

/// Lists a pack that was made of what the mirror has; answers the list. `refs` are published.
pub(crate) fn add_pack(
    store: &dyn Store,
    refs: &[Ref],
    new: &str,
) -> Result<Vec<String>, MirrorError> {
    let listed = list_packs(store, Some(new), &[])?;
    after_compaction(store, refs, listed)
}

fn after_compaction(
    store: &dyn Store,
    refs: &[Ref],
    listed: Vec<String>,
) -> Result<Vec<String>, MirrorError> {
    // A store that ignores conditions has let this drop a pack that another run has just listed.
    match get(store, &key("info/refs"))? {
        Some((file, _)) if file == info_refs(refs) => Ok(listed),
        _ => list_whole_packs(store),
    }
}

/// Was a condition refused though it holds? Never of a missing key: see [`hidden`].
fn is_same_file(condition: Option<&Condition>, now: Option<&Seen>) -> bool {
    match (condition, now) {
        (Some(Condition::Matches(etag)), Some((_, now))) => now.as_ref() == Some(etag),
        _ => false,
    }
}

/// The packs that are stored with their indices.
fn whole_packs(store: &dyn Store) -> Result<Vec<String>, MirrorError> {
    let (mut packs, mut indices) = (Vec::new(), BTreeSet::new());
    listing::pages(store, "objects/pack/", |page| {
        for name in page.iter().filter_map(|o| o.key.as_str().rsplit('/').next()) {
            if let Some(name) = name.strip_suffix(".pack") {
                packs.push(name.to_owned());
            } else if let Some(name) = name.strip_suffix(".idx") {
                indices.insert(name.to_owned());
            }
        }
        Ok::<_, MirrorError>(())
    })?;
    packs.retain(|name| indices.contains(name));
    Ok(packs)
}

/// Of these packs, those that are missing, or whose indices are.
pub(crate) fn broken_packs(
    store: &dyn Store,
    mut names: Vec<String>,
) -> Result<Vec<String>, MirrorError> {
    let mut broken = Vec::new();
    for name in names.drain(..) {
        let is_there = |extension| store.head(&packs::key(&name, extension));
        if is_there("pack")?.is_none() || is_there("idx")?.is_none() {
            broken.push(name);
        }
    }
    Ok(broken)
}

/// Lists a pack before anything needs it: of a first fetch in slices.
pub(crate) fn list_pack(store: &dyn Store, name: &str) -> Result<(), MirrorError> {
    list_packs(store, Some(name), &[]).map(drop)
}

/// Lists the packs that were copied from another mirror, in its order. They are all that it has, so
/// others that are listed here are retired. None: nothing changes.
/// With `keep_others` those stay: past publications need them.
pub(crate) fn list_copied(
    store: &dyn Store,
    copied: &[String],
    keep_others: bool,
) -> Result<(), MirrorError> {
    let Some(newest) = copied.last() else { return Ok(()) };
    let mut retired = listed_packs(store)?;
    retired.retain(|name| !copied.contains(name));
    if keep_others {
        retired = broken_packs(store, retired)?;
    }
    if !retired.is_empty() {
        retired_packs::note(store, newest, &retired)?;
    }
    for name in copied {
        list_packs(store, Some(name), &retired)?;
    }
    Ok(())
}

/// Makes `wanted` the mirror's refs. Everything that they need is stored: the proof is consumed.
/// `replaced` are packs that the new one stands for, and so many `recorded` ones were listed when the
/// refs were published. Answers the packs that are then listed.
pub(crate) fn publish(
    store: &dyn Store,
    proof: impl AllStored,
    published: &Published,
    wanted: &Advertisement,
    replaced: &[String],
    recorded: Option<u64>,
) -> Result<Vec<String>, MirrorError> {
    let pack = proof.new_pack();
    if let Some(new) = pack
        && replaced.iter().any(|name| name != new)
    {
        retired_packs::note(store, new, replaced)?;
    }
    let check = |names: &[String]| match recorded {
        Some(recorded) => refuse_shortened(store, names, recorded, pack),
        None => Ok(()),
    };
    let mut listed = list_packs_if(store, pack, replaced, check)?;
    match publish_refs(store, published, wanted) {
        Ok(()) if pack.is_some() => listed = list_packs(store, pack, &[])?,
        Ok(()) => {}
        Err(MirrorError::Conflict) if pack.is_some() => {
            list_whole_packs(store)?;
            return Err(MirrorError::Conflict);
        }
        Err(error) => return Err(error),
    }
    Ok(listed)
}

/// Refuses a list of packs that has lost some, of which so many were `recorded`: see [`publish`], which
/// looks again.
pub(crate) fn check_list(store: &dyn Store, recorded: u64) -> Result<(), MirrorError> {
    // None can be missing: no request.
    if recorded == 0 {
        return Ok(());
    }
    refuse_shortened(store, &listed_packs(store)?, recorded, None)
}

/// A list that has lost packs must not become the published one: what is only in those could no longer
/// be read. Fewer than were recorded are no proof, because a run that compacted them may have failed to
/// record that, and runs beside each other record in any order. So one of those that are stored must
/// be missing from the list, which no listed one stands for. `new` is not listed yet.
fn refuse_shortened(
    store: &dyn Store,
    listed: &[String],
    recorded: u64,
    new: Option<&str>,
) -> Result<(), MirrorError> {
    if listed.len() as u64 >= recorded {
        return Ok(());
    }
    let why = match unlisted_pack(store, listed, new) {
        Ok(None) => return Ok(()),
        Ok(Some(name)) => format!("{name} is stored, but not listed"),
        Err(MirrorError::Store(error)) if error.kind == StoreErrorKind::Denied => {
            format!("what is stored cannot be listed to compare: {error}")
        }
        Err(error) => return Err(error),
    };
    Err(MirrorError::Mirror(format!(
        "{}/{PACK_LIST} has {} packs, but the last run recorded {recorded}, and {why}: the list is \
         damaged, or a cache answers instead of the store; nothing was published. If no cache does, run \
         once with --full to repair the mirror",
        store.describe(),
        listed.len(),
    )))
}

/// A pack that is whole, and neither listed nor replaced by a listed one, nor `new`.
fn unlisted_pack(
    store: &dyn Store,
    listed: &[String],
    new: Option<&str>,
) -> Result<Option<String>, MirrorError> {
    let retired = RetiredPacks::read(store)?;
    let is_known = |name: &String| {
        Some(name.as_str()) == new
            || listed.contains(name)
            || retired.is_replaced_by_one_of(name, listed)
    };
    Ok(whole_packs(store)?.into_iter().find(|name| !is_known(name)))
}

/// Lists every pack that is whole and that no listed one stands for. Answers the list.
fn list_whole_packs(store: &dyn Store) -> Result<Vec<String>, MirrorError> {
    let retired = RetiredPacks::read(store)?;
    let mut listed = listed_packs(store)?;
    for name in whole_packs(store)? {
        if !retired.is_replaced_by_one_of(&name, &listed) {
            listed = list_packs(store, Some(&name), &[])?;
        }
    }
    Ok(listed)
}

fn publish_refs(
    store: &dyn Store,
    published: &Published,
    wanted: &Advertisement,
) -> Result<(), MirrorError> {
    let mut seen = published.seen.clone();
    let head_moves = published.head.as_ref() != Some(&wanted.head);
    let new_branch_is_new = match &wanted.head {
        Head::Branch(name) => published.exists() && !has(&published.refs, name.as_str()),
        _ => false,
    };
    if head_moves && new_branch_is_new {
        let going = match &published.head {
            Some(Head::Branch(old)) if !has(&wanted.refs, old.as_str()) => {
                published.refs.iter().find(|r| r.name == *old)
            }
            _ => None,
        };
        if let Some(old) = going {
            let mut both = wanted.refs.clone();
            both.push(old.clone());
            both.sort_by(|a, b| a.name.cmp(&b.name));
            put_refs(store, &mut seen, wanted.format, &both)?;
            put_head(store, &wanted.head)?;
            return put_refs(store, &mut seen, wanted.format, &wanted.refs);
        }
        put_refs(store, &mut seen, wanted.format, &wanted.refs)?;
        return put_head(store, &wanted.head);
    }
    if head_moves {
        // Not before it is known that nobody else has published.
        unchanged_since(store, seen.as_ref())?;
        put_head(store, &wanted.head)?;
    }
    put_refs(store, &mut seen, wanted.format, &wanted.refs)
}

fn has(refs: &[Ref], name: &str) -> bool {
    refs.iter().any(|r| r.name.as_str() == name)
}

fn put_head(store: &dyn Store, head: &Head) -> Result<(), MirrorError> {
    if let Some(file) = head_file(head) {
        store.put(&key("HEAD"), &file, PLAIN, None)?;
    }
    Ok(())
}

/// Writes `info/refs` if it still is what was seen, and updates what was seen.
fn put_refs(
    store: &dyn Store,
    seen: &mut Option<Seen>,
    format: ObjectFormat,
    refs: &[Ref],
) -> Result<(), MirrorError> {
    let file = info_refs(refs);
    if seen.as_ref().is_some_and(|(old, _)| *old == file) {
        return Ok(());
    }
    let key = key("info/refs");
    unchanged_since(store, seen.as_ref())?;
    let condition = match &*seen {
        None => Some(Condition::Absent),
        Some((_, Some(etag))) => Some(Condition::Matches(etag.clone())),
        Some((_, None)) => None,
    };
    let written = match store.put(&key, &file, PLAIN, condition.as_ref()) {
        Err(error) if error.kind == StoreErrorKind::ConditionFailed => {
            let now = get(store, &key)?;
            match now {
                // Our own write, whose answer was lost and which was repeated.
                Some((now, etag)) if now == file => etag,
                None if seen.is_none() => return Err(hidden(store, &key)),
                // Nobody has written: this store refuses what is right.
                now if same(now.as_ref(), seen.as_ref()) => store.put(&key, &file, PLAIN, None)?,
                _ => return Err(MirrorError::Conflict),
            }
        }
        Err(error) if error.kind == StoreErrorKind::Unsupported => {
            store.put(&key, &file, PLAIN, None)?
        }
        outcome => outcome?,
    };
    *seen = Some((file, written));
    if store.is_read_by_path() {
        put_packed_refs(store, format, refs)?;
    }
    Ok(())
}

/// Makes `packed-refs` say what `info/refs` says. A run that was killed between the two, or that lost a
/// race, may have left them different, and a run without news writes neither.
pub(crate) fn mend_packed_refs(
    store: &dyn Store,
    format: ObjectFormat,
    published: &Published,
) -> Result<(), MirrorError> {
    if !store.is_read_by_path() || !published.exists() {
        return Ok(());
    }
    if is_packed(store, &published.refs)? {
        return Ok(());
    }
    // Only while they still are what everybody reads.
    unchanged_since(store, published.seen.as_ref())?;
    put_packed_refs(store, format, &published.refs)
}

/// What is wrong with `packed-refs`, where git reads it, if `refs` are published. The copy of a bucket has
/// none, nor the folder that git asks for beside it, and is no repository for git.
pub(crate) fn packed_refs_fault(
    store: &dyn Store,
    refs: &[Ref],
) -> Result<Option<&'static str>, MirrorError> {
    if !store.is_read_by_path() || is_packed(store, refs)? {
        return Ok(None);
    }
    if store.head(&key("packed-refs"))?.is_some() {
        return Ok(Some("does not match info/refs"));
    }
    Ok(store.head(&key(REFS_FOLDER))?.map(|_| "missing"))
}

/// Does `packed-refs` have these refs? Damaged, it can have any length: no more is read than tells.
fn is_packed(store: &dyn Store, refs: &[Ref]) -> Result<bool, MirrorError> {
    let wanted = packed_refs(refs);
    let enough = wanted.len() as u64 + 1;
    let found = files::get(store, &key("packed-refs"), Some(0..enough), enough)?;
    Ok(found.is_some_and(|(file, _)| file == wanted))
}

/// A name that begins with a dot is no ref; it only makes the folder.
const REFS_FOLDER: &str = "refs/.keep";

/// What git wants of a directory that it opens itself: gitrepository-layout(5), git-pack-refs(1).
/// Without `peeled` in its first line git peels tags itself.
fn put_packed_refs(
    store: &dyn Store,
    format: ObjectFormat,
    refs: &[Ref],
) -> Result<(), MirrorError> {
    put_config(store, format)?;
    let file = packed_refs(refs);
    store.put(&key(REFS_FOLDER), b"", PLAIN, None)?;
    store.put(&key("packed-refs"), &file, PLAIN, None)?;
    Ok(())
}

/// A directory without `config` is one of SHA-1 for git (`check_repository_format_gently` in its
/// `setup.c`). One that is there is somebody's, and stays.
fn put_config(store: &dyn Store, format: ObjectFormat) -> Result<(), MirrorError> {
    let key = key("config");
    if format == ObjectFormat::Sha1 || store.head(&key)?.is_some() {
        return Ok(());
    }
    let file = format!(
        "[core]\n\trepositoryformatversion = 1\n\tbare = true\n[extensions]\n\tobjectFormat = {format}\n"
    );
    store.put(&key, file.as_bytes(), PLAIN, None)?;
    Ok(())
}

fn packed_refs(refs: &[Ref]) -> Vec<u8> {
    let mut file = b"# pack-refs with: sorted \n".to_vec();
    for r in refs {
        file.extend_from_slice(format!("{} {}\n", r.oid, r.name).as_bytes());
    }
    file
}

/// The compare before the write, for stores that ignore conditions.
fn unchanged_since(store: &dyn Store, seen: Option<&Seen>) -> Result<(), MirrorError> {
    let now = get(store, &key("info/refs"))?;
    if same(now.as_ref(), seen) { Ok(()) } else { Err(MirrorError::Conflict) }
}

fn same(now: Option<&Seen>, seen: Option<&Seen>) -> bool {
    now.map(|(file, _)| file) == seen.map(|(file, _)| file)
}
