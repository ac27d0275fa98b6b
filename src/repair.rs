//! Repairs a mirror: what it can from the mirror itself, the rest from its source.
//!
//! 1. [`verify`](crate::maintain::verify) says which keys are damaged or missing.
//! 2. Indices, the list of packs, and loose objects that a pack holds need no source (`mend`). A damaged
//!    pack is replaced by what is sound of it, and deleted once the mirror is sound.
//! 3. If only single objects are damaged or missing, the source is asked for these alone, where it can
//!    send them (protocol version 2 with `filter` and `shallow`), and they are stored loose.
//! 4. Else, or if that was not enough, the source is mirrored in full into a view in which what is damaged
//!    is missing ([`Distrust`](crate::maintain::distrust)): of a loose mirror only that is written again.
//!    A mirror with packs gets a new one that stands for all. What nobody vouches for is missing there,
//!    too: packs that are not listed, and, once a loose object is damaged, each that is not what its name
//!    says, because no link leads from a damaged commit to what lies behind it.
//!    Damaged LFS objects are asked for by name, and if nothing else is damaged, nothing else is fetched.
//! 5. It is verified again, and so on: damaged refs hide what is damaged behind them. It ends sound, or
//!    what remains is named.
//!
//! [`mirror_in_full`] is `--full`: the same, but the source is asked for everything whatever is found.
//!
//! What a store says of an object without sending it (its length, its entity tag, metadata of ours) was
//! written when the object was. A bit that flips on a disk later changes none of it. So only reading
//! shows what is there, and both read everything.
//!
//! Objects are stored before what names them, as in every run, and nothing is deleted whose
//! replacement was not read back. So it may be killed at any moment, and run again.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::maintain::distrust::Distrust;
use crate::maintain::mend::{self, Mender};
use crate::maintain::verify::{VerifyOptions, VerifyReport, verify_with};
use crate::mirror::{Layout, MirrorError, Options, Sent, Status, Summary};
use crate::progress::Progress;
use crate::store::{Key, Store};

/// How often the source is mirrored, at most.
const ROUNDS: usize = 4;

/// How often single objects are asked for first: what lies behind them is seen only once they are there.
const ROUNDS_OF_SOME: usize = 2;

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

/// Stores the loose objects that these keys name from the source, if it sends single objects:
/// [`store_objects`](crate::mirror::store_objects).
pub type StoringObjects<'r> = dyn Fn(&dyn Store, &BTreeSet<String>, &Options, &dyn Progress) -> Result<Sent, MirrorError>
    + 'r;

/// What a repair may ask of the source.
#[derive(Clone, Copy)]
pub struct Helper<'r> {
    /// For everything.
    pub all: &'r Mirroring<'r>,
    /// For single objects, if it can.
    pub some: Option<&'r StoringObjects<'r>>,
}

/// Verifies the mirror in `store` and repairs what is wrong. `options`: of the mirroring, whose layout
/// is the mirror's own here. Without a source, what only that has remains.
pub fn repair(
    source: Option<Helper<'_>>,
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
    let mender = mender(store, &verifying, progress);
    let mut source_error = None;
    let mut rounds_of_some = 0;
    // Of these the source says that it does not have them.
    let mut refused = BTreeSet::new();
    // A source may send one of them again as it was, and what is there is not written twice.
    let mut replaced = BTreeSet::new();
    // What lies behind damaged refs is seen only when those are repaired.
    for _ in 0..ROUNDS {
        if !now.is_sound() {
            let mended = mender.mend(&now.damaged)?;
            replaced.extend(mended.replaced);
            if mended.any {
                now = look()?;
                damaged.extend(now.damaged.iter().cloned());
            }
        }
        // No source has past publications.
        let may_help = now.damaged.iter().any(|key| !mend::is_snapshot(key));
        let Some(source) = source.filter(|_| may_help) else { break };
        let may_have = !now.damaged.is_subset(&refused);
        if let Some(some) = source.some.filter(|_| may_have && rounds_of_some < ROUNDS_OF_SOME) {
            rounds_of_some += 1;
            let view = Distrust::new(store, now.damaged.clone());
            if let Sent::AllBut(others) = some(&view, &now.damaged, options, progress)? {
                refused = others;
                now = look()?;
                damaged.extend(now.damaged.iter().cloned());
                // What they name may be missing as well.
                continue;
            }
        }
        mender.ask_for(&now.lfs_damaged)?;
        let hidden = now.damaged.union(&replaced).cloned().collect();
        let unproven = mender.unproven(&now.damaged)?;
        // LFS objects are asked for by themselves, and of what it refused nothing can come.
        let is_beside = |key: &str| key.starts_with("mirror_state/") || key.starts_with("lfs/");
        let full = !now.damaged.iter().all(|key| is_beside(key) || refused.contains(key));
        let options = Options { full, dry_run: false, ..options.clone() };
        match fetch(source.all, store, hidden, unproven, options, progress) {
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
    if source_error.is_none() && now.damaged.iter().any(|key| refused.contains(key)) {
        source_error = Some("it does not have the objects that are missing here".to_owned());
    }
    if now.is_sound() {
        mender.delete_replaced(&replaced)?;
    }
    // This report still names them.
    mender.accept_lost(&now.damaged)?;
    let mended = damaged.difference(&now.damaged).cloned().collect();
    Ok(RepairReport { before, after: now, mended, source_error, elapsed: started.elapsed() })
}

/// Mirrors the source in full ([`Options::full`]) into a mirror that is read first, and writes what is
/// damaged again. Answers the keys that were repaired, too.
pub fn mirror_in_full(
    source: &Mirroring<'_>,
    store: &dyn Store,
    verifying: &VerifyOptions,
    options: &Options,
    progress: &dyn Progress,
) -> Result<(Summary, Vec<String>), MirrorError> {
    let before = store.requests();
    let verifying = VerifyOptions { quick: false, sample: None, ..verifying.clone() };
    let refs = Key::new("info/refs").expect("a constant without odd characters");
    if store.head(&refs)?.is_none() {
        return Ok((source(store, options, progress)?, Vec::new()));
    }
    let mender = mender(store, &verifying, progress);
    let look = || {
        let report = verify_with(store, &verifying, progress)?;
        mender.ask_for(&report.lfs_damaged)?;
        Ok::<_, MirrorError>(report.damaged)
    };
    let mut now = look()?;
    let mut damaged = now.clone();
    let mended = mender.mend(&now)?;
    if mended.any {
        now = look()?;
        damaged.extend(now.iter().cloned());
    }
    let mut written = BTreeSet::new();
    let mut run = |damaged: &BTreeSet<String>| {
        let mut hidden = with_halves(damaged.union(&mended.replaced).cloned().collect());
        hidden.extend(mender.unproven(damaged)?);
        let view = Distrust::new(store, hidden.clone());
        let summary = source(&view, options, progress)?;
        written.extend(hidden.difference(&view.still_hidden()).cloned());
        Ok::<_, MirrorError>(summary)
    };
    let mut summary = run(&now)?;
    for round in 1.. {
        // The source may be missing LFS objects for good; anything else may have hidden more.
        let is_more = |key: &&String| !key.starts_with("lfs/");
        if !now.iter().any(|key| is_more(&key)) {
            break;
        }
        let last = std::mem::replace(&mut now, look()?);
        damaged.extend(now.iter().cloned());
        let Some(left) = now.iter().find(is_more) else { break };
        if now == last || round == ROUNDS {
            return Err(MirrorError::Mirror(format!(
                "{}: what the source has is published, but {left} is still damaged or missing; \
                 verify lists everything that is",
                store.describe()
            )));
        }
        let again = run(&now)?;
        summary.objects_written += again.objects_written;
        summary.bytes_written += again.bytes_written;
        summary.lfs_written += again.lfs_written;
    }
    if now.is_empty() {
        mender.delete_replaced(&mended.replaced)?;
    }
    // LFS objects alone are not looked at again, because each is hashed when it is stored.
    now.retain(|key| !(key.starts_with("lfs/") && written.contains(key)));
    let mended: Vec<String> = damaged.difference(&now).cloned().collect();
    if !mended.is_empty() && summary.status == Status::Unchanged {
        summary.status = Status::Ok;
    }
    summary.store_requests = store.requests() - before;
    Ok((summary, mended))
}

/// Half of a pack is none.
fn with_halves(damaged: BTreeSet<String>) -> BTreeSet<String> {
    let mut hidden = damaged.clone();
    for key in &damaged {
        let stem = key.strip_suffix(".pack").or(key.strip_suffix(".idx"));
        hidden.extend(stem.into_iter().flat_map(|s| [format!("{s}.pack"), format!("{s}.idx")]));
    }
    hidden
}

fn mender<'e>(
    store: &'e dyn Store,
    verifying: &'e VerifyOptions,
    progress: &'e dyn Progress,
) -> Mender<'e> {
    Mender {
        store,
        memory_bytes: verifying.memory_bytes,
        concurrency: verifying.concurrency,
        cancel: &verifying.cancel,
        progress,
    }
}

/// Mirrors the source as if what is damaged were missing.
fn fetch(
    source: &Mirroring<'_>,
    store: &dyn Store,
    damaged: BTreeSet<String>,
    unproven: BTreeSet<String>,
    options: Options,
    progress: &dyn Progress,
) -> Result<(), MirrorError> {
    let mut hidden = with_halves(damaged);
    let has_packs = !store.list("objects/pack/", None)?.objects.is_empty()
        || hidden.iter().any(|key| key.starts_with("objects/pack/"));
    let layout = if has_packs { Layout::Pack } else { Layout::Loose };
    hidden.extend(unproven);
    let view = Distrust::new(store, hidden);
    source(&view, &Options { layout, ..options }, progress).map(drop)
}
