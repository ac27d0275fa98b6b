//! `refs --target T`: what was published when, and what changed with each publication.

use std::time::Instant;

use crate::cli::{CliError, MaintainedMirror, MaintenanceTarget, RefsCommand};
use crate::exit_code::ExitCode;
use crate::logging::printable;
use crate::maintain::restore::{Publication, publications};
use crate::mirror::{MirrorError, RefChange};
use crate::progress::counted;

use super::maintenance::{self, Done, Means};

/// Lists publications. `Err` is a usage error: nothing was begun.
pub fn run(command: &RefsCommand) -> Result<ExitCode, CliError> {
    maintenance::run_all(&command.maintenance, "refs", |mirror, means| list(command, mirror, means))
}

fn list(
    command: &RefsCommand,
    mirror: &MaintainedMirror,
    means: &Means<'_>,
) -> Result<Done, MirrorError> {
    let started = Instant::now();
    let MaintenanceTarget::Store(target) = &mirror.target else {
        return Err(MirrorError::Mirror(
            "publications cannot be listed over plain HTTP".to_owned(),
        ));
    };
    let cancel = &command.maintenance.cancel;
    let store = means.endpoints.open_store(target, cancel)?;
    let is_json = command.maintenance.output.json;
    let (mut text, mut json, mut count, mut bad) = (String::new(), Vec::new(), 0u64, 0u64);
    publications(store.as_ref(), means.memory_bytes, cancel, &mut |publication| {
        count += 1;
        bad += u64::from(publication.refs.is_err());
        match is_json {
            true => json.push(as_json(&publication)),
            false => text += &printable_lines(&publication),
        }
    })?;
    if count == 0 {
        text = format!("{target}: no publications are kept (see --keep-history)\n");
    }
    let code = if bad == 0 { ExitCode::Done } else { ExitCode::Failed };
    Ok(Done {
        code,
        text,
        json: serde_json::json!({
            "target": target.to_string(),
            "status": if bad == 0 { "ok" } else { "faulty" },
            "exit_code": code.code(),
            "publications": json,
            "requests": store.requests(),
            "seconds": started.elapsed().as_secs_f64(),
            "error": null,
        }),
        gauges: vec![("publications", "Publications that are kept.", count as f64)],
    })
}

fn printable_lines(publication: &Publication) -> String {
    let Publication { name, time, refs, changes } = publication;
    let mut text = match refs {
        Ok(refs) => format!("{name}  {time}  {}\n", counted(*refs as u64, "ref")),
        Err(what) => format!("{name}  {time}  cannot be read: {what}\n"),
    };
    for change in changes {
        text += &printable(&in_words(change));
        text.push('\n');
    }
    text
}

/// One ref: `+` new, `*` moved, `-` gone.
pub(super) fn in_words(RefChange { name, old, new }: &RefChange) -> String {
    match (old, new) {
        (None, Some(new)) => format!("  + {name} {new}"),
        (Some(old), Some(new)) => format!("  * {name} {old} -> {new}"),
        (Some(old), None) => format!("  - {name} {old}"),
        (None, None) => format!("    {name}"),
    }
}

fn as_json(publication: &Publication) -> serde_json::Value {
    let Publication { name, time, refs, changes } = publication;
    let changes: Vec<_> = changes.iter().map(change_as_json).collect();
    serde_json::json!({
        "name": name, "time": time, "refs": refs.as_ref().ok(), "error": refs.as_ref().err(),
        "changes": changes,
    })
}

pub(super) fn change_as_json(RefChange { name, old, new }: &RefChange) -> serde_json::Value {
    serde_json::json!({ "ref": name, "old": old, "new": new })
}
