//! `gc --target T [--grace 24h] [-n]`: deletes what no ref reaches and no list names.

use crate::cli::{CliError, GcCommand, UpkeepTarget, Verbosity};
use crate::endpoints::Endpoints;
use crate::exit_code::ExitCode;
use crate::maintain::gc::{GcOptions, GcSummary, gc};
use crate::mirror::MirrorError;
use crate::store::ObjectInfo;

use super::upkeep;

/// Collects garbage. `Err` is a usage error: nothing was begun.
pub fn run(command: &GcCommand) -> Result<ExitCode, CliError> {
    let upkeep = &command.upkeep;
    let (endpoints, interruption) = upkeep::start(upkeep)?;
    match collect(command, &endpoints) {
        Err(error) => Ok(upkeep::failed(&error, upkeep, &interruption)),
        Ok(summary) => {
            if upkeep.output.json {
                upkeep::print(&json(command, &summary));
            } else if upkeep.output.verbosity != Verbosity::Quiet {
                upkeep::print(&text(command, &summary));
            }
            Ok(ExitCode::Done)
        }
    }
}

fn collect(command: &GcCommand, endpoints: &Endpoints) -> Result<GcSummary, MirrorError> {
    let upkeep = &command.upkeep;
    let UpkeepTarget::Store(target) = &upkeep.target else {
        return Err(MirrorError::Mirror("gc can't delete over plain HTTP".to_owned()));
    };
    let store = endpoints.open_store(target, &upkeep.cancel)?;
    let options = GcOptions {
        grace: command.grace,
        dry_run: command.dry_run,
        concurrency: upkeep.concurrency,
        memory_bytes: upkeep.memory_bytes,
        cancel: upkeep.cancel.clone(),
        ..GcOptions::default()
    };
    let names = command.dry_run && !upkeep.output.json;
    gc(store.as_ref(), &options, &|info: &ObjectInfo| {
        if names {
            upkeep::print(&format!("{}\n", info.key));
        } else {
            log::info!("deleting {}", info.key);
        }
    })
}

fn text(command: &GcCommand, summary: &GcSummary) -> String {
    let forgotten = match summary.lfs_forgotten {
        0 => String::new(),
        objects => format!("; {objects} lacking LFS objects that nothing names"),
    };
    let duplicates = match summary.duplicates {
        0 => String::new(),
        objects => format!(" ({objects} of them in packs)"),
    };
    let reachable = match summary.reachable {
        Some(objects) => format!("{objects} reachable"),
        None => "nothing to look at".to_owned(),
    };
    format!(
        "{}: {} {} objects{duplicates}, {} files of packs and {} LFS objects, {} bytes{forgotten}; {} too \
         young, {reachable}, {} requests, {:.1} s\n",
        command.upkeep.target,
        if command.dry_run { "would delete" } else { "deleted" },
        summary.loose,
        summary.packs,
        summary.lfs,
        summary.bytes,
        summary.young,
        summary.store_requests,
        summary.elapsed.as_secs_f64()
    )
}

fn json(command: &GcCommand, summary: &GcSummary) -> String {
    let value = serde_json::json!({
        "target": command.upkeep.target.to_string(),
        "status": "ok",
        "exit_code": 0,
        "dry_run": command.dry_run,
        "loose": summary.loose,
        "duplicates": summary.duplicates,
        "pack_files": summary.packs,
        "lfs": summary.lfs,
        "lfs_forgotten": summary.lfs_forgotten,
        "bytes": summary.bytes,
        "young": summary.young,
        "temporary": summary.temporary,
        "reachable": summary.reachable,
        "requests": summary.store_requests,
        "seconds": summary.elapsed.as_secs_f64(),
        "error": null,
    });
    format!("{value}\n")
}
