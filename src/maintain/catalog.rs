//! Finds the mirrors below a prefix, and says what each is: `list` and `index`.
//!
//! A folder with `mirror_state/` in it is a mirror, and so is one with `objects/` and `info/` (older
//! programs wrote no state). Folders are listed one level at a time (`delimiter=/`), and nothing is
//! looked for inside a mirror. What is said of a mirror is what its runs have recorded: two small
//! GETs each, whatever its size.

use std::sync::{Mutex, PoisonError};

use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::sample;
use crate::repository::error::MirrorError;
use crate::repository::holds::Holds;
use crate::repository::state::Recorded;
use crate::run::Cancel;
use crate::run::threads::for_each;
use crate::store::pages::Pages;
use crate::store::{Store, StoreError};

/// More folders than this are no bucket of mirrors, or a listing without an end.
const MAX_FOLDERS: usize = 1_000_000;

/// What is known of a mirror. What its runs have not recorded is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct About {
    /// The repository that it is a mirror of, without secrets.
    pub source: Option<String>,
    /// When something was last published (RFC 3339).
    pub published_at: Option<String>,
    /// When `verify` last read it, or a part of it (RFC 3339).
    pub checked_at: Option<String>,
    /// What the last checks of all parts have found.
    pub findings: Option<u64>,
    /// The layout of the last run.
    pub layout: Option<String>,
    /// Published refs.
    pub refs: Option<u64>,
    /// What is stored.
    #[serde(flatten)]
    pub holds: Option<Holds>,
    /// LFS objects that the source did not give.
    pub lfs_missing: Option<u64>,
}

impl About {
    /// Has a run published anything? An interrupted first run has not.
    pub fn is_published(&self) -> bool {
        self.published_at.is_some() || self.refs.is_some()
    }
}

/// The mirrors below the store's prefix, by their paths, in order. Empty text: the prefix is a mirror
/// itself.
pub fn find(
    store: &dyn Store,
    concurrency: usize,
    cancel: &Cancel,
) -> Result<Vec<String>, MirrorError> {
    let mut found = Vec::new();
    let mut seen = 0;
    let mut level = vec![String::new()];
    while !level.is_empty() {
        seen += level.len();
        if seen > MAX_FOLDERS {
            return Err(MirrorError::Mirror(format!(
                "{}: more than {MAX_FOLDERS} folders: choose a longer prefix",
                store.describe()
            )));
        }
        let next = Mutex::new((Vec::new(), Vec::new()));
        for_each(&level, concurrency, "list", |folder| {
            if cancel.is_cancelled() {
                return Err(MirrorError::Interrupted);
            }
            let below = folders(store, folder)?;
            let mut next = next.lock().unwrap_or_else(PoisonError::into_inner);
            match is_mirror(&below) {
                true => next.0.push(folder.trim_end_matches('/').to_owned()),
                false => next.1.extend(below.iter().map(|name| format!("{folder}{name}/"))),
            }
            Ok(())
        })?;
        let (mirrors, folders) = next.into_inner().unwrap_or_else(PoisonError::into_inner);
        found.extend(mirrors);
        level = folders;
    }
    found.sort_unstable();
    Ok(found)
}

/// All folders directly below `folder`.
fn folders(store: &dyn Store, folder: &str) -> Result<Vec<String>, StoreError> {
    let mut names = Vec::new();
    let (mut page, mut turned) = (None, Pages::of_at_most(MAX_FOLDERS as u64));
    loop {
        let listed = store.list_folders(folder, page.as_deref())?;
        let Some(next) = listed.next else {
            names.extend(listed.names);
            names.dedup();
            return Ok(names);
        };
        // A folder may be named again by the next page, and a page may have files alone.
        turned.turn(&store.describe(), listed.names.len().max(1), Some(&next), &next)?;
        names.extend(listed.names);
        names.dedup();
        page = Some(next);
    }
}

fn is_mirror(folders: &[String]) -> bool {
    let has = |name: &str| folders.iter().any(|folder| folder == name);
    has("mirror_state") || (has("objects") && has("info"))
}

/// What is known of the mirror in `store`.
pub fn about(store: &dyn Store) -> Result<About, MirrorError> {
    let recorded = Recorded::read(store)?;
    let checked = sample::last_results(store)?;
    let at = checked.as_ref().and_then(|(at, _)| rfc3339(*at));
    let recorded = recorded.as_ref();
    Ok(About {
        source: recorded.and_then(Recorded::source).map(str::to_owned),
        published_at: recorded.and_then(Recorded::published_at).map(str::to_owned),
        checked_at: at,
        findings: checked.map(|(_, findings)| findings),
        layout: recorded.and_then(Recorded::layout).map(str::to_owned),
        refs: recorded.and_then(|state| state.refs).map(|refs| refs as u64),
        holds: recorded.and_then(Recorded::holds),
        lfs_missing: recorded.and_then(Recorded::lfs_missing).map(|missing| missing as u64),
    })
}

fn rfc3339(seconds: u64) -> Option<String> {
    let at = OffsetDateTime::from_unix_timestamp(i64::try_from(seconds).ok()?).ok()?;
    at.format(&Rfc3339).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::files::key;
    use crate::store::memory::MemoryStore;
    use crate::store::{Key, ObjectHeaders};

    fn put(store: &MemoryStore, name: &str, body: &[u8]) {
        let key = Key::new(name).unwrap();
        store.put(&key, body, ObjectHeaders::changing("text/plain"), None).unwrap();
    }

    #[test]
    fn mirrors_are_found_at_any_depth_and_nothing_inside_them() {
        for page_size in [1, 2, 1000] {
            let store = MemoryStore::new().with_page_size(page_size);
            for name in [
                "a.git/mirror_state/state.json",
                "a.git/lfs/objects/mirror_state/x",
                "team/b.git/HEAD",
                "team/b.git/info/refs",
                "team/b.git/objects/info/packs",
                "team/deep/er/c/mirror_state/state.json",
                "team/readme.txt",
                "other/objects/x",
                "index.html",
            ] {
                put(&store, name, b"x");
            }
            let found = find(&store, 4, &Cancel::default()).unwrap();
            assert_eq!(found, ["a.git", "team/b.git", "team/deep/er/c"], "{page_size}");
        }
        let itself = MemoryStore::new();
        put(&itself, "mirror_state/state.json", b"{}");
        assert_eq!(find(&itself, 4, &Cancel::default()).unwrap(), [""]);
        assert!(find(&MemoryStore::new(), 4, &Cancel::default()).unwrap().is_empty());
    }

    #[test]
    fn what_runs_have_recorded_is_told_and_the_rest_is_not_known() {
        let store = MemoryStore::new();
        assert_eq!(about(&store).unwrap(), About::default());
        put(
            &store,
            "mirror_state/state.json",
            br#"{"source":"https://h/r","published_at":"2026-11-24T13:31:31Z","layout":"pack","refs":3,
                "holds":{"packs":1,"objects":5,"bytes":60,"lfs_objects":0,"lfs_bytes":0},
                "lfs_lacking":2}"#,
        );
        put(
            &store,
            sample::KEY,
            br#"{"of":2,"next":1,"results":[{"part":1,"at":60,"findings":1},{"part":0,"at":120,"findings":2}]}"#,
        );
        let holds = Holds { packs: 1, objects: 5, bytes: 60, lfs_objects: 0, lfs_bytes: 0 };
        let wanted = About {
            source: Some("https://h/r".into()),
            published_at: Some("2026-11-24T13:31:31Z".into()),
            checked_at: Some("1970-01-01T00:02:00Z".into()),
            findings: Some(3),
            layout: Some("pack".into()),
            refs: Some(3),
            holds: Some(holds),
            lfs_missing: Some(2),
        };
        assert_eq!(about(&store).unwrap(), wanted);
        store.delete(&[key(sample::KEY)]).unwrap();
        assert_eq!(about(&store).unwrap().checked_at, None);
        put(&store, "mirror_state/state.json", b"");
        assert!(about(&store).unwrap_err().to_string().contains("damaged"));
    }
}
