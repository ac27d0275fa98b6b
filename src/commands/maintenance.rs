//! What `verify` and `gc` share: one mirror after the other, or several at once, each reported when it
//! ends.

use std::io::{self, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use super::mirror::bars;
use crate::cli::{CliError, MaintainedMirror, Maintenance, Output, Verbosity};
use crate::endpoints::Endpoints;
use crate::exit_code::ExitCode;
use crate::fleet::{self, Outcome};
use crate::logging;
use crate::mirror::MirrorError;
use crate::progress::{Bars, Lines, Progress, Screen, Silent, grouped};
use crate::report::{
    Gauge, check_metrics_file, maintenance_metrics, read_metrics, write_atomically,
};
use crate::signals::{self, Interruption};

/// What a command may use for one mirror.
pub(super) struct Means<'m> {
    pub(super) endpoints: &'m Endpoints,
    pub(super) progress: &'m dyn Progress,
    /// This mirror's share.
    pub(super) concurrency: usize,
    pub(super) memory_bytes: u64,
    screen: &'m Screen,
}

impl Means<'_> {
    /// Writes results while the work continues.
    pub(super) fn print(&self, text: &str) {
        print(self.screen, text);
    }
}

/// What came of one mirror.
pub(super) struct Done {
    pub(super) code: ExitCode,
    /// For people; empty: nothing is to be reported.
    pub(super) text: String,
    /// For scripts.
    pub(super) json: serde_json::Value,
    pub(super) gauges: Vec<Gauge>,
}

/// Does `one` to every mirror. `Err` is a usage error: nothing was begun. `family`: of the metrics.
pub(super) fn run_all(
    maintenance: &Maintenance,
    family: &str,
    one: impl Fn(&MaintainedMirror, &Means<'_>) -> Result<Done, MirrorError> + Sync,
) -> Result<ExitCode, CliError> {
    let bars = bars(&maintenance.output, maintenance.mirrors.len());
    let screen = bars.as_ref().map(Bars::screen).unwrap_or_default();
    logging::start(&maintenance.output, screen.clone());
    if let Some(warning) = &maintenance.warning {
        log::warn!("{warning}");
    }
    let endpoints = Endpoints::new(&maintenance.settings)?;
    if let Some(path) = &maintenance.output.metrics_file {
        check_metrics_file(path)?;
    }
    let (source, store) = (endpoints.source_client().clone(), endpoints.store_client().clone());
    let interruption = signals::listen(maintenance.cancel.clone(), screen.clone(), source, store)
        .map_err(|error| CliError::new(format!("cannot handle signals: {error}")))?;
    let jobs = maintenance.jobs.min(maintenance.mirrors.len()).max(1);
    let work = |mirror: &MaintainedMirror| {
        let name = mirror.target.to_string();
        let done = {
            let progress = progress(bars.as_ref(), &name);
            let means = Means {
                endpoints: &endpoints,
                progress: progress.as_ref(),
                concurrency: (maintenance.concurrency / jobs).max(1),
                memory_bytes: maintenance.memory_bytes / jobs as u64,
                screen: &screen,
            };
            one(mirror, &means)
        };
        let done = done.unwrap_or_else(|error| failed(&error, &name, &screen, &interruption));
        match maintenance.output.json {
            true => print(&screen, &(logging::printable_json(&done.json.to_string()) + "\n")),
            false => print(&screen, &done.text),
        }
        let status = done.json["status"].as_str().unwrap_or_default().to_owned();
        Ok::<_, ()>((status, (name, done.code, done.gauges)))
    };
    let outcomes = fleet::run_all(&maintenance.mirrors, jobs, false, &maintenance.cancel, work);
    drop(bars);
    if maintenance.mirrors.is_empty() {
        log::info!("no pair in the manifest belongs to this shard");
    }
    let (mut statuses, mut results) = (Vec::new(), Vec::new());
    let mut not_begun = 0;
    for (mirror, outcome) in maintenance.mirrors.iter().zip(outcomes) {
        match outcome {
            Outcome::Ended(Ok((status, result))) => {
                statuses.push(status);
                results.push(result);
            }
            Outcome::Ended(Err(())) | Outcome::NotStarted => not_begun += 1,
            Outcome::Panicked(words) => {
                let (error, name) = (MirrorError::Internal(words), mirror.target.to_string());
                let done = failed(&error, &name, &screen, &interruption);
                statuses.push("failed".to_owned());
                results.push((name, done.code, done.gauges));
            }
        }
    }
    close(maintenance, &results, &statuses, not_begun);
    write_metrics(&maintenance.output, family, &results);
    Ok(exit_code(&results, not_begun, interruption.exit_code()))
}

/// The last words over several mirrors, as those of mirroring: a result if all is well, a complaint
/// otherwise.
fn close(
    maintenance: &Maintenance,
    results: &[(String, ExitCode, Vec<Gauge>)],
    statuses: &[String],
    not_begun: usize,
) {
    if maintenance.mirrors.len() < 2 {
        return;
    }
    let words = closing(statuses, not_begun);
    let is_well = not_begun == 0 && results.iter().all(|(_, code, _)| *code == ExitCode::Done);
    let output = &maintenance.output;
    // The bars are gone.
    match (is_well, output.json || output.verbosity == Verbosity::Quiet) {
        (false, _) => drop(io::stderr().lock().write_all(words.as_bytes())),
        (true, false) => print(&Screen::default(), &words),
        (true, true) => {}
    }
}

/// `4 mirrors: 2 sound, 1 faulty, 1 failed`.
fn closing(statuses: &[String], not_begun: usize) -> String {
    let with = |wanted: &str| statuses.iter().filter(|status| *status == wanted).count();
    let counted = ["ok", "sound", "faulty", "failed"].map(|status| (with(status), status));
    let counted = counted.into_iter().chain([(not_begun, "not started")]);
    let parts: Vec<String> = counted
        .filter(|(count, _)| *count > 0)
        .map(|(count, status)| format!("{} {status}", grouped(count as u64)))
        .collect();
    let all = grouped((statuses.len() + not_begun) as u64);
    format!("{all} mirrors: {}\n", parts.join(", "))
}

fn exit_code(
    results: &[(String, ExitCode, Vec<Gauge>)],
    not_begun: usize,
    signal: Option<ExitCode>,
) -> ExitCode {
    let codes: Vec<ExitCode> = results.iter().map(|(_, code, _)| *code).collect();
    match signal {
        Some(code) if not_begun > 0 || codes.contains(&code) => code,
        _ if not_begun > 0 => ExitCode::SomeFailed,
        _ => ExitCode::of_all(&codes),
    }
}

/// Bars if there are any; else lines, which the log drops below `-v`.
fn progress(bars: Option<&Bars>, name: &str) -> Box<dyn Progress> {
    match bars {
        Some(bars) => Box::new(bars.repository(name)),
        None if log::log_enabled!(log::Level::Info) => Box::new(Lines::new(name.to_owned())),
        None => Box::new(Silent),
    }
}

/// Writes results. A reader that has seen enough (`… | head`) is nobody's error.
fn print(screen: &Screen, text: &str) {
    screen.without_bars(|| {
        let mut out = io::stdout().lock();
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    });
}

/// Says what failed, and with which code to end.
pub(super) fn failed(
    error: &MirrorError,
    target: &str,
    screen: &Screen,
    interruption: &Interruption,
) -> Done {
    // A signal cuts connections: what fails then failed for that.
    let (code, words) = match (ExitCode::of_error(error), interruption.exit_code()) {
        (ExitCode::Interrupted | ExitCode::TryAgain, Some(signal)) => {
            (signal, MirrorError::Interrupted.to_string())
        }
        (code, _) => (code, logging::printable(&error.to_string())),
    };
    screen.without_bars(|| {
        let _ = writeln!(io::stderr(), "error: {words}");
    });
    let json = serde_json::json!({
        "target": target, "status": "failed", "exit_code": code.code(), "error": words,
    });
    Done { code, text: String::new(), json, gauges: Vec::new() }
}

fn write_metrics(output: &Output, family: &str, results: &[(String, ExitCode, Vec<Gauge>)]) {
    let Some(path) = &output.metrics_file else { return };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let text = maintenance_metrics(family, results, &read_metrics(path), now);
    if let Err(error) = write_atomically(path, &text) {
        log::error!("cannot write the metrics file {}: {error}", path.display());
    }
}
