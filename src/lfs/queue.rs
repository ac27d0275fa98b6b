//! What has passed by of interest to LFS: pointers, and what leads to HEAD's `.lfsconfig`.
//!
//! Objects are looked at by the tasks that make them ([`Queue::look`] never waits); the asker takes
//! what has come in batches ([`Queue::take`]), once it is known which server to ask ([`Config`]).

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::gate::Gate;
use super::remembered::sorted;
use super::run::Run;
use crate::git::lfs_pointer::LfsPointer;
use crate::git::object::{Kind, ObjectFormat, Oid};
use crate::git::refs::{Advertisement, Head};
use crate::repository::error::MirrorError;
use crate::repository::links::{file_in_tree, tree_of_commit};
use crate::repository::objects::file_of_head;
use crate::repository::packs::StoredPack;
use crate::run::Cancel;
use crate::source::lfs::BATCH_OBJECTS;

/// While the pack streams, so much of the working memory is for LFS objects; the rest is in use.
const SHARE_BESIDE: u64 = 8;

/// When no pointer has come for so long, those that are there are asked for: they need not fill a
/// batch.
const QUIET: Duration = Duration::from_millis(250);

/// Which server is asked is said by this file in HEAD's root folder.
const CONFIG_FILE: &str = ".lfsconfig";

/// What has passed by of interest: pointers, 40 bytes each, and what leads to `.lfsconfig`. A stream
/// that is begun again brings them again.
pub(crate) struct Queue {
    pub(super) gate: Arc<Gate>,
    memory_bytes: u64,
    passed: Mutex<Passed>,
    changed: Condvar,
}

/// Guarded by [`Queue::passed`].
struct Passed {
    /// Not asked for yet.
    pointers: Vec<LfsPointer>,
    config: Config,
    ended: bool,
    /// When it has ended: the pack that was stored.
    new_pack: Option<StoredPack>,
}

/// What is known of HEAD's `.lfsconfig`.
enum Config {
    /// The commit, the folder or the file that is waited for.
    Awaited(Oid),
    /// The file, if there is one.
    Known(Option<Vec<u8>>),
    /// It has to be looked for in the store.
    Unknown,
}

impl Config {
    fn of(refs: &Advertisement) -> Self {
        let tip = match &refs.head {
            Head::Branch(branch) => refs.find(branch).map(|found| found.oid),
            Head::Detached(oid) => Some(*oid),
            Head::Unborn(_) | Head::Absent => None,
        };
        tip.map_or(Config::Unknown, Config::Awaited)
    }

    /// What the object that was awaited leads to.
    fn after(format: ObjectFormat, kind: Kind, content: &[u8]) -> Self {
        match kind {
            Kind::Commit => tree_of_commit(content).map_or(Config::Unknown, Config::Awaited),
            Kind::Tree => file_in_tree(content, format, CONFIG_FILE.as_bytes())
                .map_or(Config::Known(None), Config::Awaited),
            Kind::Blob => Config::Known(Some(content.to_vec())),
            Kind::Tag => Config::Unknown,
        }
    }
}

impl Queue {
    /// For a run that is about to publish `refs`.
    pub(crate) fn new(memory_bytes: u64, cancel: &Cancel, refs: &Advertisement) -> Self {
        let passed =
            Passed { pointers: Vec::new(), config: Config::of(refs), ended: false, new_pack: None };
        Queue {
            gate: Gate::new(memory_bytes / SHARE_BESIDE, cancel.clone()),
            memory_bytes,
            passed: Mutex::new(passed),
            changed: Condvar::new(),
        }
    }

    /// Looks at an object. Called for every one by the tasks that make them: it does not wait.
    pub(crate) fn look(&self, oid: &Oid, kind: Kind, content: &[u8]) {
        let pointer = match kind {
            Kind::Blob => LfsPointer::parse(content),
            _ => None,
        };
        let mut passed = self.lock();
        let leads_on = matches!(passed.config, Config::Awaited(awaited) if awaited == *oid);
        if leads_on {
            passed.config = Config::after(oid.format(), kind, content);
        }
        passed.pointers.extend(pointer);
        drop(passed);
        if leads_on || pointer.is_some() {
            self.changed.notify_all();
        }
    }

    /// All git objects are stored, in `new_pack` if this run has stored one.
    pub(crate) fn end(&self, new_pack: Option<StoredPack>) {
        let mut passed = self.lock();
        (passed.ended, passed.new_pack) = (true, new_pack);
        drop(passed);
        self.gate.set_limit(self.memory_bytes);
        self.changed.notify_all();
    }

    /// The git objects could not be stored: nothing more is fetched.
    pub(crate) fn give_up(&self) {
        // Under the lock, so that who is about to wait notices.
        let passed = self.lock();
        self.gate.close();
        drop(passed);
        self.changed.notify_all();
    }

    pub(super) fn add(&self, pointers: &[LfsPointer]) {
        self.lock().pointers.extend_from_slice(pointers);
    }

    /// Takes the pointers that have passed: when they fill a batch, or no more came for a while, or
    /// the stream has ended; and not before it is known, or can be, whom to ask. `None`: that was
    /// all.
    pub(super) fn take(&self) -> Result<Option<Vec<LfsPointer>>, MirrorError> {
        let mut passed = self.lock();
        let mut quiet = false;
        loop {
            if self.gate.is_closed() {
                return Err(MirrorError::Interrupted);
            }
            let count = passed.pointers.len();
            let known = matches!(passed.config, Config::Known(_));
            if passed.ended || known && count > 0 && (quiet || count >= BATCH_OBJECTS) {
                let pointers = sorted(std::mem::take(&mut passed.pointers));
                return Ok(if pointers.is_empty() { None } else { Some(pointers) });
            }
            let woken = self.changed.wait_timeout(passed, QUIET);
            let (now, waited) = woken.unwrap_or_else(PoisonError::into_inner);
            quiet = waited.timed_out() && now.pointers.len() == count;
            passed = now;
        }
    }

    /// `.lfsconfig` of HEAD. Called when [`Queue::take`] has given pointers.
    pub(super) fn config(&self, run: &Run<'_>) -> Result<Option<Vec<u8>>, MirrorError> {
        let passed = self.lock();
        if let Config::Known(file) = &passed.config {
            return Ok(file.clone());
        }
        let new_pack = passed.new_pack.clone();
        drop(passed);
        file_of_head(run.store, run.layout, new_pack.as_ref(), run.refs, CONFIG_FILE)
    }

    fn lock(&self) -> MutexGuard<'_, Passed> {
        self.passed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pointer(byte: u8, size: u64) -> LfsPointer {
        LfsPointer { oid: [byte; 32], size }
    }

    fn queue(head: Head) -> Queue {
        Queue::new(64 << 20, &Cancel::default(), &Advertisement::of(Vec::new(), head))
    }

    fn pointer_text(byte: u8) -> String {
        let hex = format!("{byte:02x}").repeat(32);
        format!("version https://git-lfs.github.com/spec/v1\noid sha256:{hex}\nsize 1\n")
    }

    fn pass(queue: &Queue, byte: u8) {
        queue.look(&Oid::NULL, Kind::Blob, pointer_text(byte).as_bytes());
    }

    #[test]
    fn the_queue_keeps_pointers_and_nothing_else() {
        let queue = queue(Head::Absent);
        pass(&queue, 1);
        queue.look(&Oid::NULL, Kind::Blob, b"an ordinary blob");
        queue.look(&Oid::NULL, Kind::Tree, pointer_text(2).as_bytes());
        queue.end(None);
        assert_eq!(queue.take().unwrap().unwrap(), [pointer(1, 1)]);
        assert_eq!(queue.take().unwrap(), None);
    }

    #[test]
    fn pointers_are_given_out_early_when_the_stream_has_told_the_server() {
        let oid = |byte| Oid::from_bytes([byte; 20]);
        let tree = |name: &str| [format!("100644 {name}\0").as_bytes(), &[3; 20]].concat();
        let commit = format!("tree {}\n", oid(2));
        for (name, file) in [("a", None), (CONFIG_FILE, Some(b"[lfs]".to_vec()))] {
            let queue = queue(Head::Detached(oid(1)));
            let known = || match &queue.lock().config {
                Config::Known(file) => Some(file.clone()),
                _ => None,
            };
            pass(&queue, 1);
            queue.look(&oid(1), Kind::Commit, commit.as_bytes());
            assert_eq!(known(), None);
            queue.look(&oid(2), Kind::Tree, &tree(name));
            queue.look(&oid(3), Kind::Blob, b"[lfs]");
            assert_eq!(known(), Some(file));
            assert_eq!(queue.take().unwrap().unwrap(), [pointer(1, 1)]);
        }
    }

    #[test]
    fn a_queue_of_a_run_that_is_over_does_not_end_as_if_all_were_well() {
        let queue = queue(Head::Absent);
        pass(&queue, 1);
        queue.give_up();
        queue.end(None);
        assert!(matches!(queue.take(), Err(MirrorError::Interrupted)));
    }
}
