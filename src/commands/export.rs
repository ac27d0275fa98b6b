//! `export --target T [--since STATE] -o FILE`: what another mirror is missing, in one file.
//!
//! The file appears under its name once it is whole and on the disk; a pipe gets it as it comes.

use std::fs::{self, File};
use std::io::{self, BufWriter, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::maintenance::failed;
use crate::cli::{CliError, ExportCommand, Verbosity};
use crate::endpoints::Endpoints;
use crate::exit_code::ExitCode;
use crate::logging;
use crate::mirror::MirrorError;
use crate::progress::{Lines, Progress, Screen, Silent, counted};
use crate::signals;
use crate::transfer::export::{ExportOptions, Exported, export};

/// Exports one mirror. `Err` is a usage error: nothing was begun.
pub fn run(command: &ExportCommand) -> Result<ExitCode, CliError> {
    let screen = Screen::default();
    logging::start(&command.output, screen.clone());
    if command.file.is_none() && io::stdout().is_terminal() {
        return Err(CliError::new("refusing to write binary data to a terminal"));
    }
    let endpoints = Endpoints::new(&command.settings)?;
    let mut since = command.since.as_deref().map(open).transpose()?;
    let (source, store) = (endpoints.source_client().clone(), endpoints.store_client().clone());
    let interruption = signals::listen(command.cancel.clone(), screen.clone(), source, store)
        .map_err(|error| CliError::new(format!("cannot handle signals: {error}")))?;
    let begun = Instant::now();
    let name = command.target.to_string();
    let done = write(command, &endpoints, since.as_mut().map(|file| file as &mut dyn Read));
    let (code, text) = match done {
        Ok(exported) => (ExitCode::Done, summary(command, &exported, begun.elapsed())),
        Err(error) => {
            let done = failed(&error, &name, &screen, &interruption);
            let json = || crate::logging::printable_json(&done.json.to_string()) + "\n";
            (done.code, if command.output.json { json() } else { String::new() })
        }
    };
    // Standard output is the trip's, if it goes there.
    let _ = match command.file {
        Some(_) => io::stdout().write_all(text.as_bytes()),
        None => io::stderr().write_all(text.as_bytes()),
    };
    Ok(code)
}

fn open(path: &Path) -> Result<File, CliError> {
    let bad = |error| CliError::new(format!("cannot read the state {}: {error}", path.display()));
    File::open(path).map_err(bad)
}

fn write(
    command: &ExportCommand,
    endpoints: &Endpoints,
    since: Option<&mut dyn Read>,
) -> Result<Exported, MirrorError> {
    let store = endpoints.open_store(&command.target, &command.cancel)?;
    let options = ExportOptions {
        lfs: command.lfs,
        concurrency: command.concurrency,
        memory_bytes: command.memory_bytes,
        cancel: command.cancel.clone(),
    };
    let progress: Box<dyn Progress> = match log::log_enabled!(log::Level::Info) {
        true => Box::new(Lines::new(command.target.to_string())),
        false => Box::new(Silent),
    };
    let Some(path) = &command.file else {
        let out = BufWriter::with_capacity(128 << 10, io::stdout().lock());
        return Ok(export(store.as_ref(), since, &options, out, progress.as_ref())?.0);
    };
    let part = part_of(path);
    let unwritten =
        |error: io::Error| MirrorError::Mirror(format!("cannot write {}: {error}", part.display()));
    let file = File::create(&part).map_err(unwritten)?;
    let written = || -> Result<Exported, MirrorError> {
        let out = BufWriter::with_capacity(128 << 10, file);
        let (exported, out) = export(store.as_ref(), since, &options, out, progress.as_ref())?;
        let file = out.into_inner().map_err(|error| unwritten(error.into_error()))?;
        // The medium may be pulled out as soon as this ends.
        file.sync_all().and_then(|()| fs::rename(&part, path)).map_err(unwritten)?;
        Ok(exported)
    };
    let outcome = written();
    if outcome.is_err() {
        // The first error is the one to tell.
        let _ = fs::remove_file(&part);
    }
    outcome
}

fn part_of(path: &Path) -> PathBuf {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    part.into()
}

fn summary(command: &ExportCommand, exported: &Exported, took: Duration) -> String {
    let Exported { refs, objects, lfs, bytes } = exported;
    let (target, seconds) = (&command.target, took.as_secs_f64());
    if command.output.json {
        let json = serde_json::json!({
            "target": target.to_string(), "status": "ok", "exit_code": 0, "refs": refs,
            "objects": objects, "lfs": lfs, "bytes": bytes, "seconds": seconds, "error": null,
        });
        return crate::logging::printable_json(&json.to_string()) + "\n";
    }
    if command.output.verbosity == Verbosity::Quiet {
        return String::new();
    }
    format!(
        "{target}: exported {} and {}, {}, for {}, {seconds:.1} s\n",
        counted(*objects, "object"),
        counted(*lfs, "LFS object"),
        crate::progress::bytes(*bytes),
        counted(*refs as u64, "ref"),
    )
}
