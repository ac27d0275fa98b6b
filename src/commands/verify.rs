//! `verify --target T [--quick] [--repair]`: reads a mirror back, says what is wrong or repairs it, ends
//! with 0 or 1.
//!
//! Findings go to standard output, one a line and the summary last, or as one JSON object; they are
//! what was asked for. A failing store is an error on standard error with its own exit code: then
//! nothing is known of the mirror.

use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::cli::{CliError, MaintainedMirror, MaintenanceTarget, VerifyCommand};
use crate::endpoints::Endpoints;
use crate::exit_code::ExitCode;
use crate::maintain::sample::note_full;
use crate::maintain::verify::{Finding, Sample, VerifyOptions, VerifyReport, verify_with};
use crate::mirror::{MirrorError, Options};
use crate::progress::{Progress, counted};
use crate::repair::{Helper, RepairReport, StoringObjects, repair};
use crate::store::Store;
use crate::store::http_read::{HttpRead, ReaderFindings};

use super::maintenance::{self, Done, Means};
use super::mirror::From;

/// Verifies the mirrors. `Err` is a usage error: nothing was begun.
pub fn run(command: &VerifyCommand) -> Result<ExitCode, CliError> {
    maintenance::run_all(&command.maintenance, "verify", |mirror, means| {
        let Outcome { report, repaired } = match command.repair {
            false => Outcome { report: look(command, mirror, means)?, repaired: None },
            true => mend(command, mirror, means)?,
        };
        let repaired = repaired.as_ref();
        let target = mirror.target.to_string();
        Ok(Done {
            code: if report.is_sound() { ExitCode::Done } else { ExitCode::Failed },
            text: text(command, &target, &report, repaired),
            json: json(command, &target, &report, repaired),
            gauges: vec![
                ("findings", "Problems found.", report.finding_count as f64),
                ("refs", "Refs published.", report.refs as f64),
                ("packs", "Packs listed.", report.packs as f64),
                ("objects", "Objects checked.", report.objects as f64),
                ("lfs_objects", "LFS objects checked.", report.lfs_objects as f64),
                ("store_requests", "Requests to the store.", report.store_requests as f64),
                ("duration_seconds", "Wall time.", report.elapsed.as_secs_f64()),
            ],
        })
    })
}

/// What is wrong, after a repair: what is still wrong.
struct Outcome {
    report: VerifyReport,
    repaired: Option<Repaired>,
}

/// What a repair did.
struct Repaired {
    mended: Vec<String>,
    source_error: Option<String>,
}

fn mend(
    command: &VerifyCommand,
    mirror: &MaintainedMirror,
    means: &Means<'_>,
) -> Result<Outcome, MirrorError> {
    let cancel = &command.maintenance.cancel;
    let MaintenanceTarget::Store(target) = &mirror.target else {
        return Err(MirrorError::Mirror("cannot write over plain HTTP".to_owned()));
    };
    let store = means.endpoints.open_store(target, cancel)?;
    let from = mirror.source.as_ref().map(|url| From::open(means.endpoints, url, cancel));
    let from = from.transpose()?;
    let verifying = options(command, means);
    let mirroring = Options {
        concurrency: means.concurrency,
        memory_bytes: means.memory_bytes,
        cancel: cancel.clone(),
        ..Options::default()
    };
    let run = from.as_ref().map(|from| {
        |store: &dyn Store, options: &Options, progress: &dyn Progress| {
            from.mirror(store, options, progress)
        }
    });
    let some = from.as_ref().map(|from| {
        |store: &dyn Store, keys: &BTreeSet<String>, options: &Options, progress: &dyn Progress| {
            from.store_objects(store, keys, options, progress)
        }
    });
    let some = some.as_ref().map(|some| -> &StoringObjects<'_> { some });
    let helper = run.as_ref().map(|run| Helper { all: run, some });
    let report = repair(helper, store.as_ref(), &verifying, &mirroring, means.progress)?;
    let RepairReport { after, mended, source_error, elapsed, .. } = report;
    let report = VerifyReport { elapsed, ..after };
    Ok(Outcome { report, repaired: Some(Repaired { mended, source_error }) })
}

fn options(command: &VerifyCommand, means: &Means<'_>) -> VerifyOptions {
    VerifyOptions {
        quick: command.quick,
        sample: command.sample.map(|(parts, of)| Sample { parts, of }),
        concurrency: means.concurrency,
        memory_bytes: means.memory_bytes,
        cancel: command.maintenance.cancel.clone(),
    }
}

fn look(
    command: &VerifyCommand,
    mirror: &MaintainedMirror,
    means: &Means<'_>,
) -> Result<VerifyReport, MirrorError> {
    let maintenance = &command.maintenance;
    let options = options(command, means);
    let endpoints: &Endpoints = means.endpoints;
    let (store, seen): (Box<dyn Store>, ReaderFindings) = match &mirror.target {
        MaintenanceTarget::Store(url) => {
            (endpoints.open_store(url, &maintenance.cancel)?, ReaderFindings::default())
        }
        MaintenanceTarget::Http(url) => {
            let reader = endpoints.open_reader(url, &maintenance.cancel);
            let seen = reader.ask(HttpRead::look_as_reader)?;
            (Box::new(reader), seen)
        }
    };
    seen.warnings.iter().for_each(|words| log::warn!("{words}"));
    let mut report = if seen.errors.iter().any(|(key, _)| key == "info/refs") && !readable(&*store)
    {
        VerifyReport::default()
    } else {
        let report = verify_with(store.as_ref(), &options, means.progress)?;
        if matches!(mirror.target, MaintenanceTarget::Store(_))
            && !options.quick
            && options.sample.is_none()
        {
            note(store.as_ref(), report.finding_count);
        }
        report
    };
    let found = seen.errors.into_iter();
    let found = found.map(|(key, what)| Finding { key, what, reached_by: None, objects: 0 });
    let found: Vec<_> = found.collect();
    report.finding_count += found.len() as u64;
    report.findings.splice(0..0, found);
    Ok(report)
}

/// Notes in the mirror when it was checked, for `list`. Who may only read it checks it all the same.
fn note(store: &dyn Store, findings: u64) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    if let Err(error) = note_full(store, now, findings) {
        log::info!("the check is not recorded in the mirror: {error}");
    }
}

fn readable(store: &dyn Store) -> bool {
    let key = crate::store::Key::new("info/refs").expect("a constant without odd characters");
    store.get(&key, None, 256 << 20).is_ok()
}

fn text(
    command: &VerifyCommand,
    target: &str,
    report: &VerifyReport,
    repaired: Option<&Repaired>,
) -> String {
    let mut text = String::new();
    let quietly = command.maintenance.output.verbosity == crate::cli::Verbosity::Quiet;
    if let Some(Repaired { mended, source_error }) = repaired {
        for key in mended.iter().filter(|_| !quietly) {
            text += &crate::logging::printable(&format!("{key}: repaired"));
            text.push('\n');
        }
        if let Some(error) = source_error {
            text += &crate::logging::printable(&format!("cannot repair from the source: {error}"));
            text.push('\n');
        }
    }
    for finding in &report.findings {
        text += &crate::logging::printable(&finding.to_string());
        text.push('\n');
    }
    for notice in report.notices.iter().filter(|_| !quietly) {
        text += &crate::logging::printable(&format!("notice: {notice}"));
        text.push('\n');
    }
    let mode = match (command.quick, command.sample) {
        (true, _) => " (quick)".to_owned(),
        (_, Some((parts, of))) => format!(" (a sample of {parts}/{of})"),
        _ => String::new(),
    };
    let verdict = match report.finding_count {
        0 => "sound".to_owned(),
        1 => "1 fault".to_owned(),
        many => format!("{many} faults"),
    };
    if !quietly || report.finding_count > 0 {
        text += &format!(
            "{target}: {verdict}: {}, {}, {}, {}{mode}, {}, {:.1} s\n",
            counted(report.refs as u64, "ref"),
            counted(report.objects, "object"),
            counted(report.packs as u64, "pack"),
            counted(report.lfs_objects, "LFS object"),
            counted(report.store_requests, "request"),
            report.elapsed.as_secs_f64()
        );
    }
    text
}

fn json(
    command: &VerifyCommand,
    target: &str,
    report: &VerifyReport,
    repaired: Option<&Repaired>,
) -> serde_json::Value {
    let findings: Vec<_> = report
        .findings
        .iter()
        .map(|finding| {
            serde_json::json!({
                "key": finding.key, "what": finding.what, "reached_by": finding.reached_by,
                "objects": finding.objects,
            })
        })
        .collect();
    let mut json = serde_json::json!({
        "target": target,
        "status": if report.is_sound() { "sound" } else { "faulty" },
        "exit_code": if report.is_sound() { 0 } else { 1 },
        "quick": command.quick,
        "refs": report.refs,
        "objects": report.objects,
        "packs": report.packs,
        "lfs_objects": report.lfs_objects,
        "findings": findings,
        "finding_count": report.finding_count,
        "notices": report.notices,
        "requests": report.store_requests,
        "seconds": report.elapsed.as_secs_f64(),
        "error": null,
    });
    if let Some((parts, of)) = command.sample {
        json["sample"] = serde_json::json!(format!("{parts}/{of}"));
    }
    if let Some(Repaired { mended, source_error }) = repaired {
        json["mended"] = serde_json::json!(mended);
        json["source_error"] = serde_json::json!(source_error);
    }
    json
}
