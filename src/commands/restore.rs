//! `restore --target T --at TIME [--as URL]`: publishes again what was published once.

use std::time::Instant;

use crate::cli::urls::TargetUrl;
use crate::cli::{CliError, MaintainedMirror, MaintenanceTarget, RestoreCommand, Verbosity};
use crate::exit_code::ExitCode;
use crate::logging::printable;
use crate::maintain::restore::{RestoreOptions, Restored, prove, restore};
use crate::mirror::{MirrorError, MirrorSource, Options, mirror_mirror};
use crate::progress::counted;
use crate::store::Store;

use super::maintenance::{self, Done, Means};
use super::refs::{change_as_json, in_words};

/// Restores. `Err` is a usage error: nothing was begun.
pub fn run(command: &RestoreCommand) -> Result<ExitCode, CliError> {
    maintenance::run_all(&command.maintenance, "restore", |mirror, means| {
        one(command, mirror, means)
    })
}

fn one(
    command: &RestoreCommand,
    mirror: &MaintainedMirror,
    means: &Means<'_>,
) -> Result<Done, MirrorError> {
    let MaintenanceTarget::Store(target) = &mirror.target else {
        return Err(MirrorError::Mirror("cannot write over plain HTTP".to_owned()));
    };
    let store = means.endpoints.open_store(target, &command.maintenance.cancel)?;
    let restored = match &command.into {
        None => restore(store.as_ref(), &command.at, &options(command, means), means.progress)?,
        Some(other) => restore_as(command, store, other, means)?,
    };
    for key in &restored.lfs_missing {
        log::warn!("missing: {}", printable(key));
    }
    let place = command.into.as_ref().unwrap_or(target);
    let code = match restored.lfs_missing.is_empty() {
        true => ExitCode::Done,
        false => ExitCode::LfsMissing,
    };
    Ok(Done {
        code,
        text: text(command, place, &restored),
        json: serde_json::json!({
            "target": target.to_string(),
            "as": command.into.as_ref().map(TargetUrl::to_string),
            "status": if code == ExitCode::Done { "ok" } else { "partial" },
            "exit_code": code.code(),
            "dry_run": command.dry_run,
            "publication": restored.name,
            "refs": restored.refs,
            "changes": restored.changes.iter().map(change_as_json).collect::<Vec<_>>(),
            "lfs_missing": restored.lfs_missing,
            "seconds": restored.elapsed.as_secs_f64(),
            "error": null,
        }),
        gauges: vec![("refs", "Refs that were published again.", restored.refs as f64)],
    })
}

fn options(command: &RestoreCommand, means: &Means<'_>) -> RestoreOptions {
    RestoreOptions {
        concurrency: means.concurrency,
        memory_bytes: means.memory_bytes,
        dry_run: command.dry_run,
        cancel: command.maintenance.cancel.clone(),
    }
}

/// Into another target: as a mirror of this one, with the refs of then.
fn restore_as(
    command: &RestoreCommand,
    store: Box<dyn Store>,
    other: &TargetUrl,
    means: &Means<'_>,
) -> Result<Restored, MirrorError> {
    let started = Instant::now();
    let cancel = &command.maintenance.cancel;
    let proven = prove(store.as_ref(), &command.at, &options(command, means), means.progress)?;
    let (name, lfs_missing) = (proven.name().to_owned(), proven.lfs_missing().to_vec());
    let source = MirrorSource::at(store, proven.refs().clone());
    let to = means.endpoints.open_store(other, cancel)?;
    let options = Options {
        dry_run: command.dry_run,
        concurrency: means.concurrency,
        memory_bytes: means.memory_bytes,
        cancel: cancel.clone(),
        ..Options::default()
    };
    let summary = mirror_mirror(&source, to.as_ref(), &options, means.progress)?;
    let (changes, refs) = (summary.changes, summary.refs);
    Ok(Restored { name, changes, refs, lfs_missing, elapsed: started.elapsed() })
}

fn text(command: &RestoreCommand, place: &TargetUrl, restored: &Restored) -> String {
    if command.maintenance.output.verbosity == Verbosity::Quiet {
        return String::new();
    }
    let lines = restored.changes.iter().map(|change| printable(&in_words(change)) + "\n");
    let mut text: String = lines.collect();
    let (name, refs, changed) = (&restored.name, restored.refs, restored.changes.len());
    let what = match (command.dry_run, changed) {
        (true, _) => "would be published",
        (false, 0) => "is already published",
        (false, _) => "is published again",
    };
    text += &format!(
        "{place}: {name} {what}: {}, {changed} changed, {:.1} s\n",
        counted(refs as u64, "ref"),
        restored.elapsed.as_secs_f64()
    );
    text
}
