//! What a run finds at its start: what the source has, what the mirror has published, what is to
//! change; and the guards that refuse what nobody can have meant.

use std::time::Duration;

use super::options::Options;
use crate::git::object::ObjectFormat;
use crate::git::refs::{Advertisement, Head, Ref, RefName, default_branch, format_of};
use crate::ingest::thin;
use crate::repository::error::MirrorError;
use crate::repository::publish::{self, Published, RefChange};
use crate::repository::state::Recorded;
use crate::repository::{history, objects, peeled, state};
use crate::source::Source;
use crate::store::{Key, Store, StoreError};

/// Folders below a new mirror that a run looks into.
const MAX_LOOKED_AT: usize = 8;

/// What a run is to bring about.
pub(super) struct Plan {
    pub(super) published: Published,
    /// What the last run has recorded.
    pub(super) recorded: Option<Recorded>,
    /// What is to be published.
    pub(super) wanted: Advertisement,
    pub(super) tags: peeled::Tags,
    pub(super) changes: Vec<RefChange>,
    /// The refs are published already.
    pub(super) unchanged: bool,
    /// Everything is asked for again.
    pub(super) full: bool,
    /// The source is an increment on what is published, whatever it is asked for.
    pub(super) thin: bool,
    /// Publications are kept: as was asked for, or as the mirror has it.
    pub(super) keeps_history: bool,
}

impl Plan {
    /// Asks the source for its refs and the store for what is published, and compares.
    pub(super) fn make(
        source: &dyn Source,
        store: &dyn Store,
        options: &Options,
    ) -> Result<Self, MirrorError> {
        let advertised = options.refs.apply(source.advertisement()?);
        let prerequisites = source.prerequisites()?;
        let published = Published::read(store, publish::max_file_bytes(options.memory_bytes))?;
        let recorded = Recorded::read(store)?;
        if !options.move_source {
            refuse_another_source(store, source, recorded.as_ref())?;
        }
        if recorded.is_none() && !published.exists() {
            refuse_nested(store, options)?;
        }
        refuse_another_format(store, &published, recorded.as_ref(), advertised.format)?;
        if !options.force {
            refuse_emptied(store, &published, recorded.as_ref(), options.full)?;
        }
        let mut wanted = with_head(match prerequisites.is_empty() {
            true => advertised,
            false => thin::join(&published, advertised),
        });
        let tags = peeled::Tags::default();
        tags.know(&published.refs);
        tags.fill(&mut wanted);
        check_refs_fit(&wanted, options.memory_bytes)?;
        let changes = published.changes(&wanted);
        if !options.force {
            guard(&published, recorded.as_ref(), &wanted)?;
        }
        let unchanged = changes.is_empty() && published.exists();
        warn_of_empty(store, &wanted);
        let thin = !prerequisites.is_empty();
        if thin && !unchanged {
            objects::reading(store, options.layout.likely(), None, |read| {
                thin::check(source, &published, &prerequisites, read)
            })?;
        }
        let kept = recorded.as_ref().and_then(Recorded::keep_history);
        // A state that was lost, or written again since, does not say it; the snapshots do.
        let keeps_history = match options.keep_history.or(kept) {
            Some(keep) => !keep.is_zero(),
            None if options.full || recorded.is_none() => history::is_kept(store)?,
            None => false,
        };
        if keeps_history && options.keep_history.or(kept).is_none() {
            log::warn!(
                "{}: past publications are kept, but the record of how long is lost: run once with \
                 --keep-history TIME",
                store.describe()
            );
        }
        let full = options.full;
        Ok(Plan {
            published,
            recorded,
            wanted,
            tags,
            changes,
            unchanged,
            full,
            thin,
            keeps_history,
        })
    }

    /// Is it news to the mirror for how long its publications are kept?
    pub(super) fn is_history_news(&self, asked: Option<Duration>) -> bool {
        asked.is_some() && self.recorded.as_ref().and_then(Recorded::keep_history) != asked
    }

    /// Does the record say what is published, and of this source?
    pub(super) fn is_recorded(&self, source: &dyn Source) -> bool {
        let origin = source.origin().unwrap_or_else(|| source.describe());
        self.recorded.as_ref().is_some_and(|state| {
            state.describes(&self.wanted.refs, Some(&self.wanted.head)) != Some(false)
                && state.refs.is_some()
                && state.object_format() == Ok(self.wanted.format)
                && state::is_same_source(Some(state), &origin)
        })
    }

    /// How many packs were listed when what is published was; `None`: that is not known, or everything
    /// is stored again.
    pub(super) fn recorded_packs(&self) -> Option<u64> {
        let Published { refs, head, .. } = &self.published;
        let recorded = self.recorded.as_ref().filter(|_| !self.full || self.thin)?;
        let describes = recorded.describes(refs, head.as_ref()) == Some(true);
        recorded.holds().filter(|_| describes).map(|holds| holds.packs)
    }

    /// Are the bundles those of what is published?
    pub(super) fn is_bundled(&self) -> bool {
        self.recorded.as_ref().is_some_and(Recorded::is_bundled)
    }

    /// LFS objects may be missing since an earlier run.
    pub(super) fn may_miss_lfs(&self) -> bool {
        let recorded = self.recorded.as_ref();
        recorded.is_none_or(|state| state.lfs_missing() != Some(0) || !state.writing().is_empty())
    }
}

/// What the next run could not read back is not published.
fn check_refs_fit(wanted: &Advertisement, memory_bytes: u64) -> Result<(), MirrorError> {
    let limit = publish::max_file_bytes(memory_bytes);
    // `oid TAB name LF`, and another line with `^{}` for what a tag points at.
    let oid_len = wanted.format.hex_len() as u64;
    let line = |r: &Ref| (oid_len + 2 + r.name.as_str().len() as u64, r.peeled.is_some());
    let lines = wanted.refs.iter().map(line);
    let len: u64 = lines.map(|(len, peeled)| if peeled { 2 * len + 3 } else { len }).sum();
    if len <= limit {
        return Ok(());
    }
    Err(MirrorError::Guard(format!(
        "info/refs of {} refs has {len} bytes, more than --memory allows ({limit} bytes): raise --memory, or \
         mirror fewer refs (--refs, --exclude-refs)",
        wanted.refs.len()
    )))
}

/// A mirror always has a HEAD: without one, git clones with nothing checked out, and a directory is
/// no repository.
fn with_head(mut wanted: Advertisement) -> Advertisement {
    if wanted.head == Head::Absent {
        wanted.head = match default_branch(&wanted.refs) {
            Some(branch) => Head::Branch(branch),
            None => Head::Unborn(RefName::new("refs/heads/main").expect("a valid name")),
        };
    }
    wanted
}

/// A slip in a manifest must not replace a mirror by another repository.
fn refuse_another_source(
    store: &dyn Store,
    source: &dyn Source,
    recorded: Option<&Recorded>,
) -> Result<(), MirrorError> {
    let now = source.origin().unwrap_or_else(|| source.describe());
    if state::is_same_source(recorded, &now) {
        return Ok(());
    }
    let known = recorded.and_then(Recorded::repository).unwrap_or_default();
    Err(MirrorError::Guard(format!(
        "{} is a mirror of {known}, not of {now}: refusing to replace it; if the repository has moved, \
         run once with --move-source",
        store.describe()
    )))
}

/// Two mirrors of which one lies inside the other: neither could tell whose a key is. Only a first run
/// looks, and what it may not see it cannot refuse.
fn refuse_nested(store: &dyn Store, options: &Options) -> Result<(), MirrorError> {
    let nested = match options.around.find(&Key::new(state::KEY).expect("a valid key")) {
        Some(outer) => format!("lies inside the mirror {outer}"),
        None => match mirror_below(store) {
            Some(folder) => format!("has the mirror {}/{folder} inside", store.describe()),
            None => return Ok(()),
        },
    };
    Err(MirrorError::Guard(format!(
        "{} {nested}: each mirror needs its own prefix; nothing was written",
        store.describe()
    )))
}

/// A folder directly below that is a mirror, among the first few.
fn mirror_below(store: &dyn Store) -> Option<String> {
    let unseen = |error: StoreError| log::debug!("looking for mirrors below: {error}");
    let page = store.list_folders("", None).map_err(unseen).ok()?;
    let is_mirror = |folder: &String| {
        let state = Key::new(format!("{folder}/{}", state::KEY)).ok();
        let found = state.map(|state| store.head(&state).map_err(unseen));
        matches!(found, Some(Ok(Some(_))))
    };
    page.names.into_iter().take(MAX_LOOKED_AT).find(is_mirror)
}

/// Names of another length would be strangers to everything that is stored, and readers could not
/// follow: git itself changes no repository's format.
fn refuse_another_format(
    store: &dyn Store,
    published: &Published,
    recorded: Option<&Recorded>,
    now: ObjectFormat,
) -> Result<(), MirrorError> {
    match state::object_format(store, published, recorded)? {
        Some(known) if known != now => Err(MirrorError::Guard(format!(
            "the object format of {} is {known}, and the source's is {now}: a mirror cannot change its \
             object format; mirror the source to an empty target",
            store.describe()
        ))),
        _ => Ok(()),
    }
}

/// Git's dumb client takes the format from the length of the first name in `info/refs`
/// (`remote-curl.c`, `parse_info_refs`), and SHA-1 where there is none.
fn warn_of_empty(store: &dyn Store, wanted: &Advertisement) {
    let names_nothing = format_of(&wanted.refs, &wanted.head).is_none();
    if names_nothing && wanted.format != ObjectFormat::Sha1 {
        log::warn!(
            "{}: the mirror is empty, and its object format is {}: git treats an empty mirror \
             as sha1, so a clone made now cannot fetch later; clone again once there are refs",
            store.describe(),
            wanted.format
        );
    }
}

/// An `info/refs` without a byte is what an empty repository has, and also what is left of a damaged
/// one; where there is none, there is no mirror yet, or it is damaged: the state tells which. `full`
/// stores everything again, so a missing file is written again by it.
fn refuse_emptied(
    store: &dyn Store,
    published: &Published,
    recorded: Option<&Recorded>,
    full: bool,
) -> Result<(), MirrorError> {
    let had = recorded.and_then(|state| state.refs).unwrap_or(0);
    let is_missing = !published.exists();
    if !published.refs.is_empty() || had == 0 || (is_missing && full) {
        return Ok(());
    }
    let (what, remedy) = match is_missing {
        true => (
            "missing",
            "If it is missing in the store itself, run once with --full \
                               (import: --force)",
        ),
        false => ("empty", "If the mirror is to be filled again, run with --force"),
    };
    Err(MirrorError::Guard(format!(
        "{store}/info/refs is {what}, but {store}/{} has {had} refs: the mirror is damaged, or a cache \
         answers instead of the store; nothing was published. {remedy}",
        state::KEY,
        store = store.describe(),
    )))
}

/// An emptied or hijacked source must not empty the mirror.
fn guard(
    published: &Published,
    recorded: Option<&Recorded>,
    wanted: &Advertisement,
) -> Result<(), MirrorError> {
    // Where refs are damaged, the state still says how many there were.
    let before = recorded.and_then(|state| state.refs).unwrap_or(0);
    let had = if published.exists() { published.refs.len() } else { before };
    let has = wanted.refs.len();
    let lost_all = had > 0 && has == 0;
    let lost_most = had >= 10 && has < had.div_ceil(2);
    if lost_all || lost_most {
        return Err(MirrorError::Guard(format!(
            "the source has {has} refs and the mirror {had}: refusing to delete so many refs; \
             if this is intended, run again with --force"
        )));
    }
    Ok(())
}
