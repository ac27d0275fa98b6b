//! `gc --target T [--grace 24h] [-n]`: deletes what no ref reaches and no list names.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::cli::{CliError, GcCommand, MaintainedMirror, MaintenanceTarget, Verbosity};
use crate::exit_code::ExitCode;
use crate::maintain::gc::{GcOptions, GcSummary, gc_with};
use crate::mirror::MirrorError;
use crate::progress::{bytes, counted, grouped};
use crate::store::ObjectInfo;

use super::maintenance::{self, Done, Means};

/// Collects garbage. `Err` is a usage error: nothing was begun.
pub fn run(command: &GcCommand) -> Result<ExitCode, CliError> {
    let is_quiet = command.maintenance.output.verbosity == Verbosity::Quiet;
    maintenance::run_all(&command.maintenance, "gc", |mirror, means| {
        let summary = collect(command, mirror, means)?;
        let target = mirror.target.to_string();
        Ok(Done {
            code: ExitCode::Done,
            text: if is_quiet { String::new() } else { text(command, &target, &summary) },
            json: json(command, &target, &summary),
            gauges: vec![
                ("deleted", "Keys deleted, without temporary ones.", summary.deleted() as f64),
                ("deleted_bytes", "Their bytes.", summary.bytes as f64),
                ("young", "Garbage within the grace period.", summary.young as f64),
                ("store_requests", "Requests to the store.", summary.store_requests as f64),
                ("duration_seconds", "Wall time.", summary.elapsed.as_secs_f64()),
            ],
        })
    })
}

fn collect(
    command: &GcCommand,
    mirror: &MaintainedMirror,
    means: &Means<'_>,
) -> Result<GcSummary, MirrorError> {
    let maintenance = &command.maintenance;
    let MaintenanceTarget::Store(target) = &mirror.target else {
        return Err(MirrorError::Mirror("gc cannot delete over plain HTTP".to_owned()));
    };
    let store = means.endpoints.open_store(target, &maintenance.cancel)?;
    let options = GcOptions {
        grace: command.grace,
        dry_run: command.dry_run,
        concurrency: means.concurrency,
        memory_bytes: means.memory_bytes,
        cancel: maintenance.cancel.clone(),
        ..GcOptions::default()
    };
    let names = command.dry_run && !maintenance.output.json;
    let deleting = |info: &ObjectInfo| match names {
        true => means.print(&format!("{}\n", info.key)),
        false => log::info!("deleting {}", info.key),
    };
    gc_with(store.as_ref(), &options, &deleting, means.progress)
}

fn text(command: &GcCommand, target: &str, summary: &GcSummary) -> String {
    let forgotten = match summary.lfs_forgotten {
        0 => String::new(),
        objects => format!("; {} that no ref needs", counted(objects, "missing LFS object")),
    };
    let duplicates = match summary.duplicates {
        0 => String::new(),
        objects => format!(" ({} of them in packs)", grouped(objects)),
    };
    let bundles = match summary.bundles {
        0 => String::new(),
        bundles => format!(", {}", counted(bundles, "bundle")),
    };
    let history = match summary.history {
        0 => String::new(),
        many => format!("; {}", counted(many, "past publication")),
    };
    let reachable = match summary.reachable {
        Some(objects) => format!("{} reachable", grouped(objects)),
        None => "nothing to check".to_owned(),
    };
    let kept = match locked_until(summary) {
        _ if summary.kept.is_none() => String::new(),
        Some(until) => format!(
            " (not freed: the bucket keeps old versions, which are locked until {until} or later)"
        ),
        None => " (not freed: the bucket keeps old versions until a lifecycle rule removes them)"
            .to_owned(),
    };
    format!(
        "{target}: {} {}{duplicates}, {}{bundles} and {}, {}{kept}{forgotten}{history}; {} too new, \
         {reachable}, {}, {:.1} s\n",
        if command.dry_run { "would delete" } else { "deleted" },
        counted(summary.loose, "object"),
        counted(summary.packs, "pack file"),
        counted(summary.lfs, "LFS object"),
        bytes(summary.bytes),
        grouped(summary.young),
        counted(summary.store_requests, "request"),
        summary.elapsed.as_secs_f64()
    )
}

fn locked_until(summary: &GcSummary) -> Option<String> {
    let until = OffsetDateTime::from(summary.kept?.locked_until?);
    until.replace_nanosecond(0).ok()?.format(&Rfc3339).ok()
}

fn json(command: &GcCommand, target: &str, summary: &GcSummary) -> serde_json::Value {
    serde_json::json!({
        "target": target,
        "status": "ok",
        "exit_code": 0,
        "dry_run": command.dry_run,
        "loose": summary.loose,
        "duplicates": summary.duplicates,
        "pack_files": summary.packs,
        "bundles": summary.bundles,
        "lfs": summary.lfs,
        "lfs_forgotten": summary.lfs_forgotten,
        "bytes": summary.bytes,
        "bytes_freed": if summary.kept.is_some() { 0 } else { summary.bytes },
        "locked_until": locked_until(summary),
        "young": summary.young,
        "history": summary.history,
        "temporary": summary.temporary,
        "reachable": summary.reachable,
        "requests": summary.store_requests,
        "seconds": summary.elapsed.as_secs_f64(),
        "error": null,
    })
}
