//! Mends a mirror: what it can from the mirror itself, the rest from its source.
//!
//! 1. [`verify`](crate::maintain::verify) says which keys are damaged or missing.
//! 2. Indices, the list of packs, and loose objects that a pack holds need no source (`mend`).
//! 3. The source is mirrored in full into a view in which what is damaged is missing
//!    ([`Distrust`](crate::maintain::distrust)): of a loose mirror only that is written again. A mirror with packs gets a
//!    new one that stands for all, since a pack is worth nothing in parts; the damaged one stays in the
//!    bucket, unlisted, until `gc` deletes it.
//! 4. It is verified again, and so on: damaged refs hide what is damaged behind them. It ends sound, or
//!    what remains is named.
//!
//! Objects are stored before what names them, as in every run, and nothing is deleted whose
//! replacement was not read back. So it may be killed at any moment, and run again.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::maintain::distrust::Distrust;
use crate::maintain::mend::Mender;
use crate::maintain::verify::{VerifyOptions, VerifyReport, verify_with};
use crate::mirror::{Layout, MirrorError, Options, Summary};
use crate::progress::Progress;
use crate::store::Store;

/// How often the source is mirrored, at most.
const ROUNDS: usize = 4;

/// What a repair did.
#[derive(Clone, Debug, Default)]
pub struct RepairReport {
    /// What was wrong.
    pub before: VerifyReport,
    /// What is wrong still.
    pub after: VerifyReport,
    /// Keys that were damaged or missing, and are right now or needed no longer.
    pub mended: Vec<String>,
    /// Why the source could not help, if it could not.
    pub source_error: Option<String>,
    /// Wall time.
    pub elapsed: Duration,
}

/// Mirrors the source into a store: [`mirror`](crate::mirror::mirror), or from another mirror
/// [`mirror_mirror`](crate::mirror::mirror_mirror).
pub type Mirroring<'r> =
    dyn Fn(&dyn Store, &Options, &dyn Progress) -> Result<Summary, MirrorError> + 'r;

/// Verifies the mirror in `store` and mends what is wrong. `options`: of the mirroring, whose layout
/// is the mirror's own here. Without a source, what only that has remains.
pub fn repair(
    source: Option<&Mirroring<'_>>,
    store: &dyn Store,
    verifying: &VerifyOptions,
    options: &Options,
    progress: &dyn Progress,
) -> Result<RepairReport, MirrorError> {
    let started = Instant::now();
    // By name and size nothing damaged would be seen.
    let verifying = VerifyOptions { quick: false, sample: None, ..verifying.clone() };
    let look = || verify_with(store, &verifying, progress);
    let before = look()?;
    let mut now = before.clone();
    let mut damaged = before.damaged.clone();
    let mender = Mender {
        store,
        memory_bytes: verifying.memory_bytes,
        concurrency: verifying.concurrency,
        cancel: &verifying.cancel,
        progress,
    };
    let mut source_error = None;
    // What lies behind damaged refs is seen only when those are mended.
    for _ in 0..ROUNDS {
        if !now.is_sound() && !mender.mend(&now.damaged)?.is_empty() {
            now = look()?;
            damaged.extend(now.damaged.iter().cloned());
        }
        let Some(source) = source.filter(|_| !now.is_sound()) else { break };
        match fetch(source, store, &now.damaged, options, progress) {
            Ok(()) => {}
            Err(MirrorError::Source(error)) => {
                source_error = Some(error.to_string());
                break;
            }
            Err(error) => return Err(error),
        }
        let before = std::mem::replace(&mut now, look()?).damaged;
        damaged.extend(now.damaged.iter().cloned());
        if before == now.damaged {
            break;
        }
    }
    let mended = damaged.difference(&now.damaged).cloned().collect();
    Ok(RepairReport { before, after: now, mended, source_error, elapsed: started.elapsed() })
}

/// Mirrors the source as if what is damaged were missing.
fn fetch(
    source: &Mirroring<'_>,
    store: &dyn Store,
    damaged: &BTreeSet<String>,
    options: &Options,
    progress: &dyn Progress,
) -> Result<(), MirrorError> {
    let mut hidden = damaged.clone();
    for key in damaged {
        // Half of a pack is none.
        let stem = key.strip_suffix(".pack").or(key.strip_suffix(".idx"));
        hidden.extend(stem.into_iter().flat_map(|s| [format!("{s}.pack"), format!("{s}.idx")]));
    }
    let has_packs = !store.list("objects/pack/", None)?.objects.is_empty()
        || hidden.iter().any(|key| key.starts_with("objects/pack/"));
    let layout = if has_packs { Layout::Pack } else { Layout::Loose };
    let only_state = hidden.iter().all(|key| key.starts_with("mirror_state/"));
    let options = Options { layout, full: !only_state, dry_run: false, ..options.clone() };
    let view = Distrust::new(store, hidden);
    source(&view, &options, progress).map(drop)
}
