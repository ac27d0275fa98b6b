//! Listings in the order of keys, from folders that the system lists in any order.
//!
//! Follows no link and shows nothing of the temporary folder. What goes away meanwhile is not listed, and
//! is no error.

use std::fs;
use std::path::Path;

use super::files::{Done, read_dir_if_there};
use super::partial::is_partial;
use crate::store::interface::{Key, ObjectInfo};

/// What a listing wants.
pub(super) struct Wanted<'a> {
    /// What keys begin with.
    pub(super) prefix: &'a str,
    /// The key that they come after.
    pub(super) after: Option<&'a str>,
    /// So many keys at most.
    pub(super) limit: usize,
}

impl Wanted<'_> {
    fn is_wanted(&self, key: &str) -> bool {
        key.starts_with(self.prefix) && self.after.is_none_or(|after| key > after)
    }

    /// Can a key that begins with `folder` be wanted?
    fn may_be_below(&self, folder: &str) -> bool {
        let inside = folder.starts_with(self.prefix) || self.prefix.starts_with(folder);
        inside && self.after.is_none_or(|after| folder > after || after.starts_with(folder))
    }
}

/// Objects below `folder` (a key with a slash at its end, or nothing) into `found`, in order,
/// until there are `limit`.
pub(super) fn walk(
    root: &Path,
    folder: &str,
    wanted: &Wanted<'_>,
    found: &mut Vec<ObjectInfo>,
) -> Done<()> {
    let mut names = Vec::new();
    for entry in read_dir_if_there(&root.join(folder))? {
        let entry = entry?;
        // What has no text for a name can't be a key. Links are not followed.
        let Ok(mut name) = entry.file_name().into_string() else { continue };
        let kind = entry.file_type()?;
        if kind.is_dir() {
            // In byte order of keys `a-b` comes before `a/c`.
            name.push('/');
        } else if !kind.is_file() {
            continue;
        }
        names.push(format!("{folder}{name}"));
    }
    names.sort_unstable();
    for name in names {
        if found.len() >= wanted.limit {
            return Ok(());
        }
        if let Some(folder) = name.strip_suffix('/') {
            if !is_partial(folder) && wanted.may_be_below(&name) {
                walk(root, &name, wanted, found)?;
            }
        } else if wanted.is_wanted(&name)
            && let Ok(key) = Key::new(name)
            // It may be gone by now.
            && let Ok(about) = fs::metadata(root.join(key.as_str()))
        {
            let last_modified = about.modified().ok();
            found.push(ObjectInfo { key, len: about.len(), last_modified, etag: None });
        }
    }
    Ok(())
}

/// The names of the folders in `folder` that have keys below them.
pub(super) fn folders(root: &Path, folder: &str) -> Done<Vec<String>> {
    let mut names = Vec::new();
    for entry in read_dir_if_there(&root.join(folder))? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let prefix = format!("{folder}{name}/");
        // S3 has no folders without keys. A link is no folder: nothing is followed.
        if entry.file_type()?.is_dir() && !is_partial(&prefix) {
            let mut first = Vec::new();
            let wanted = Wanted { prefix: &prefix, after: None, limit: 1 };
            walk(root, &prefix, &wanted, &mut first)?;
            names.extend((!first.is_empty()).then_some(name));
        }
    }
    names.sort();
    Ok(names)
}
