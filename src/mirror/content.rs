//! Everything that a run stores before it publishes: git objects and, beside them, LFS objects; fetched
//! from a server or copied from another mirror.

use super::fetch::Fetched;
use super::options::Options;
use crate::git::refs::Advertisement;
use crate::ingest::run::Complete;
use crate::lfs;
use crate::progress::Progress;
use crate::repository::error::MirrorError;
use crate::repository::temp::TempKeys;
use crate::run::MIN_MEMORY_BYTES;
use crate::source::Source;
use crate::store::Store;
use crate::transfer::storing::{Bring, Storing};

/// Stores git objects by `git`, if any are to be fetched, and beside them LFS objects. The first
/// failure ends both.
pub(super) fn store_all(
    source: &dyn Source,
    store: &dyn Store,
    options: &Options,
    progress: &dyn Progress,
    wanted: &Advertisement,
    git: Option<impl FnOnce(&Options, &lfs::Queue) -> Result<Fetched, MirrorError>>,
) -> Result<(Option<Fetched>, lfs::Outcome), MirrorError> {
    let stop = options.cancel.child();
    let options = &Options { cancel: stop.clone(), ..options.clone() };
    let run = lfs::Run {
        source,
        store,
        progress,
        refs: wanted,
        layout: options.layout.likely(),
        concurrency: options.concurrency,
        max_object_bytes: options.max_object_bytes,
        cancel: &stop,
    };
    let memory_bytes = options.memory_bytes.max(MIN_MEMORY_BYTES);
    let queue = lfs::Queue::new(memory_bytes, &stop, wanted);
    let mirror_lfs = || match options.lfs {
        true => lfs::mirror_lfs(&run, &queue),
        false => Ok(lfs::Outcome::default()),
    };
    let Some(git) = git else {
        queue.end(None);
        return Ok((None, mirror_lfs()?));
    };
    std::thread::scope(|scope| {
        let give_up = GiveUpOnPanic(&queue);
        let named = std::thread::Builder::new().name("lfs".into());
        let beside = named.spawn_scoped(scope, || {
            let outcome = mirror_lfs();
            if outcome.is_err() {
                stop.cancel();
            }
            outcome
        });
        let beside = beside
            .map_err(|error| MirrorError::Internal(format!("cannot start a thread: {error}")))?;
        let fetched = git(options, &queue);
        match &fetched {
            Ok(new) => queue.end(new.complete.pack.clone()),
            Err(_) => queue.give_up(),
        }
        drop(give_up);
        let panicked = |_| Err(MirrorError::Internal("the LFS thread panicked".into()));
        match (fetched, beside.join().unwrap_or_else(panicked)) {
            (Ok(fetched), Ok(lfs)) => Ok((Some(fetched), lfs)),
            // The one that was stopped only says so.
            (Ok(_) | Err(MirrorError::Interrupted), Err(error)) => Err(error),
            (Err(error), _) => Err(error),
        }
    })
}

/// Brings what another mirror has: LFS objects, and git objects if they are news.
pub(super) fn copy_all(
    from: &dyn Bring,
    store: &dyn Store,
    options: &Options,
    progress: &dyn Progress,
    fetching: bool,
) -> Result<(Option<Fetched>, lfs::Outcome), MirrorError> {
    let temp = TempKeys::new(store);
    let into = Storing {
        to: store,
        temp: &temp,
        progress,
        cancel: &options.cancel,
        concurrency: options.concurrency,
        memory_bytes: options.memory_bytes.max(MIN_MEMORY_BYTES),
    };
    let outcome = from.bring(&into, fetching, options.lfs);
    let cleaned = temp.clean();
    let (git, written) = outcome?;
    cleaned?;
    let unavailable = match options.lfs {
        true => lfs::missing_after_copy(from.mirror(), store, options.concurrency)?,
        false => Vec::new(),
    };
    let fetched = git.map(|copied| Fetched {
        complete: Complete::by_copying(),
        written: (copied.objects, copied.bytes),
        replaced: Vec::new(),
        is_whole: false,
        found: false,
        prerequisites: Default::default(),
        copied: copied.packs,
    });
    Ok((fetched, lfs::Outcome { written, unavailable, ..lfs::Outcome::default() }))
}

/// Who waits for the end of what panicked would wait forever.
struct GiveUpOnPanic<'q>(&'q lfs::Queue);

impl Drop for GiveUpOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.give_up();
        }
    }
}
