//! What is wrong with a mirror, cause first: one finding a cause, with how many objects it takes.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use hashbrown::HashSet;

use crate::git::object::Oid;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// The key in the mirror.
    pub key: String,
    /// What is wrong with it, for people.
    pub what: String,
    /// A ref that reaches it, if one does and it is known.
    pub reached_by: Option<String>,
    /// How many objects are unreadable because of it, where it is a file of many.
    pub objects: u64,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.what)?;
        match self.objects {
            0 => {}
            1 => f.write_str(", so 1 object is unreadable")?,
            objects => write!(f, ", so {objects} objects are unreadable")?,
        }
        match &self.reached_by {
            Some(name) => write!(f, " (reached by {name})"),
            None => Ok(()),
        }
    }
}

/// An emptied bucket misses every object: more findings than these are only counted.
pub const MAX_FINDINGS: usize = 1000;

/// Of so many keys the names are kept, which takes some 10 MB.
const MAX_KEYS: usize = 100_000;

/// What has been found so far, by many threads.
#[derive(Default)]
pub(crate) struct Findings(Mutex<Inner>);

/// Guarded by [`Findings`].
#[derive(Default)]
struct Inner {
    found: Vec<Finding>,
    count: u64,
    /// All keys that something is wrong with, except that there may be more missing ones than
    /// [`MAX_KEYS`]: who repairs a mirror sees by itself that they are not there.
    keys: BTreeSet<String>,
    /// Files of many objects: which finding, and which objects of it.
    files: HashMap<String, (Option<usize>, HashSet<Oid>)>,
}

impl Findings {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A finding of its own.
    pub(crate) fn add(
        &self,
        key: impl Into<String>,
        what: impl Into<String>,
        reached_by: Option<String>,
    ) {
        let (key, what) = (key.into(), what.into());
        self.lock().push(Finding { key, what, reached_by, objects: 0 });
    }

    /// A key that is not there. Of these there may be millions.
    pub(crate) fn add_missing(
        &self,
        key: impl Into<String>,
        what: impl Into<String>,
        reached_by: Option<String>,
    ) {
        let (key, what) = (key.into(), what.into());
        let mut inner = self.lock();
        let finding = Finding { key, what, reached_by, objects: 0 };
        if inner.keys.len() < MAX_KEYS {
            inner.push(finding);
        } else {
            inner.push_nameless(finding);
        }
    }

    /// Adds what somebody else has found.
    pub(crate) fn absorb(&self, others: Findings) {
        let (found, count, mut keys) = others.finish();
        let mut inner = self.lock();
        let more = count - found.len() as u64;
        for finding in found {
            inner.push(finding);
        }
        inner.count += more;
        inner.keys.append(&mut keys);
    }

    /// A finding that was reported may be this key's fault as well.
    pub(crate) fn blame(&self, key: &str) {
        self.lock().keys.insert(key.to_owned());
    }

    /// A file that makes `objects` unreadable.
    pub(crate) fn add_file(&self, key: &str, what: impl Into<String>, objects: u64) {
        let mut inner = self.lock();
        let (key, what) = (key.to_owned(), what.into());
        let at = inner.push(Finding { key: key.clone(), what, reached_by: None, objects });
        inner.files.insert(key, (at, HashSet::new()));
    }

    /// An object in a file of many is unreadable. The first says what is wrong, unless the file has a
    /// finding already; the others are counted.
    pub(crate) fn add_object(
        &self,
        file: &str,
        oid: &Oid,
        what: impl FnOnce() -> String,
        reached_by: Option<String>,
    ) {
        let mut inner = self.lock();
        if !inner.files.contains_key(file) {
            let (key, what) = (file.to_owned(), what());
            let at = inner.push(Finding { key, what, reached_by: None, objects: 0 });
            inner.files.insert(file.to_owned(), (at, HashSet::new()));
        }
        let Inner { found, files, .. } = &mut *inner;
        let (at, oids) = files.get_mut(file).expect("just inserted");
        let is_new = oids.insert(*oid);
        if let Some(finding) = at.and_then(|at| found.get_mut(at)) {
            finding.objects += u64::from(is_new);
            if finding.reached_by.is_none() {
                finding.reached_by = reached_by;
            }
        }
    }

    /// The first finding of a file; later ones of it are dropped.
    pub(crate) fn add_first(&self, file: &str, what: impl FnOnce() -> String) {
        let is_new = !self.lock().files.contains_key(file);
        if is_new {
            self.add_file(file, what(), 0);
        }
    }

    /// How much was found.
    pub(crate) fn count(&self) -> u64 {
        self.lock().count
    }

    /// What was found, sorted, how much that was, and all keys that something is wrong with.
    pub(crate) fn finish(self) -> (Vec<Finding>, u64, BTreeSet<String>) {
        let Inner { mut found, count, keys, .. } =
            self.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        found.sort();
        (found, count, keys)
    }
}

impl Inner {
    fn push(&mut self, finding: Finding) -> Option<usize> {
        self.keys.insert(finding.key.clone());
        self.push_nameless(finding)
    }

    fn push_nameless(&mut self, finding: Finding) -> Option<usize> {
        self.count += 1;
        if self.found.len() == MAX_FINDINGS {
            return None;
        }
        self.found.push(finding);
        Some(self.found.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_of_one_file_are_one_finding_with_their_number() {
        let findings = Findings::default();
        let oid = |byte| Oid::from_bytes([byte; 20]);
        findings.add_object("pack", &oid(1), || "broken at 12".into(), None);
        findings.add_object("pack", &oid(2), || unreachable!(), Some("refs/heads/a".into()));
        findings.add_object("pack", &oid(1), || unreachable!(), Some("refs/heads/b".into()));
        findings.add_file("index", "missing", 525);
        findings.add("HEAD", "missing", None);
        let (found, count, keys) = findings.finish();
        assert_eq!(keys.len(), 3);
        let words: Vec<String> = found.iter().map(Finding::to_string).collect();
        let wanted = [
            "HEAD: missing",
            "index: missing, so 525 objects are unreadable",
            "pack: broken at 12, so 2 objects are unreadable (reached by refs/heads/a)",
        ];
        assert_eq!((words, count), (wanted.map(str::to_owned).to_vec(), 3));
    }

    #[test]
    fn millions_of_missing_keys_are_counted_and_take_no_memory() {
        let findings = Findings::default();
        (0..MAX_KEYS + 5).for_each(|n| findings.add_missing(format!("{n}"), "missing", None));
        findings.add("HEAD", "missing", None);
        let all = Findings::default();
        all.add("info/refs", "damaged", None);
        all.absorb(findings);
        let (found, count, keys) = all.finish();
        assert_eq!((found.len(), count as usize), (MAX_FINDINGS, MAX_KEYS + 7));
        assert_eq!(keys.len(), MAX_KEYS + 2);
        assert!(keys.contains("HEAD"));
    }

    #[test]
    fn more_findings_than_fit_are_counted() {
        let findings = Findings::default();
        (0..MAX_FINDINGS + 5).for_each(|n| findings.add(format!("{n}"), "missing", None));
        findings.add_file("pack", "missing", 3);
        findings.add_object("pack", &Oid::NULL, || unreachable!(), None);
        let (found, count, keys) = findings.finish();
        assert_eq!(keys.len(), MAX_FINDINGS + 6);
        assert_eq!((found.len(), count as usize), (MAX_FINDINGS, MAX_FINDINGS + 6));
    }
}
