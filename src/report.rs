//! What a run tells when it ends: summary lines or JSON on standard output, errors with what to do
//! on standard error, and a Prometheus textfile.
//!
//! Standard output is for scripts: with `--json` it holds one object a repository and nothing else.
//! The fields, their names and the names of the metrics are a contract (README). Text of servers is
//! made fit for a terminal, and no URL is shown with its userinfo.

use std::collections::HashMap;
use std::error::Error as StdError;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::hash::BuildHasher;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::cli::CliError;
use crate::cli::manifest::Pair;
use crate::exit_code::ExitCode;
use crate::logging::{printable, printable_json};
use crate::mirror::{MirrorError, RefChange, Status, Summary};
use crate::progress::{bytes, grouped};
use crate::store::Usage;

/// How the run over one repository ended.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Where it came from, without secrets.
    pub source: String,
    /// Where it went.
    pub target: String,
    /// `ok`, `unchanged`, `partial` or `failed`.
    pub status: &'static str,
    /// This repository's own exit code.
    pub exit_code: u8,
    /// Nothing was written; the numbers of refs say what would have changed.
    pub dry_run: bool,
    /// Refs that are new. `HEAD` counts in none of these three.
    pub refs_added: usize,
    /// Refs that moved.
    pub refs_updated: usize,
    /// Refs that are gone.
    pub refs_deleted: usize,
    /// Git objects stored by this run.
    pub objects_written: u64,
    /// Bytes of them as stored.
    pub bytes_written: u64,
    /// Requests to the source, each try counted.
    pub source_requests: u64,
    /// Requests to the store, each try counted.
    pub store_requests: u64,
    /// Of those, the ones that S3 bills as it bills PUT: PUT, COPY, POST, LIST.
    pub store_writes: u64,
    /// Of those, GET and HEAD.
    pub store_reads: u64,
    /// Bytes of bodies sent to the store.
    pub store_bytes_sent: u64,
    /// Bytes of objects read from the store.
    pub store_bytes_received: u64,
    /// LFS objects stored by this run.
    pub lfs_written: u64,
    /// LFS objects that are missing.
    pub lfs_missing: usize,
    /// Refs that the mirror has now; like the next five `null` where it is not known.
    pub refs: Option<usize>,
    /// Packs that it lists.
    pub packs: Option<u64>,
    /// Git objects that it holds.
    pub objects: Option<u64>,
    /// Bytes of loose objects and packs, without indices.
    pub bytes: Option<u64>,
    /// LFS objects that it holds.
    pub lfs_objects: Option<u64>,
    /// Their bytes.
    pub lfs_bytes: Option<u64>,
    /// When something was last published (RFC 3339).
    pub published_at: Option<String>,
    /// Damaged keys that `--full` has rewritten; left out if there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mended: Vec<String>,
    /// Wall time.
    pub seconds: f64,
    /// Why it failed: the whole chain in one line. `null` when it did not.
    pub error: Option<String>,

    #[serde(skip)]
    code: ExitCode,
    #[serde(skip)]
    hint: Option<&'static str>,
    #[serde(skip)]
    changes: Vec<RefChange>,
    #[serde(skip)]
    missing: Vec<(String, String)>,
}

impl Report {
    /// Says which keys were repaired.
    pub fn with_mended(self, mended: Vec<String>) -> Self {
        Report { mended, ..self }
    }

    /// A run that did not fail.
    pub fn of_summary(pair: &Pair, summary: Summary, dry_run: bool) -> Self {
        let code = ExitCode::of_status(summary.status);
        let count = |which: fn(&RefChange) -> bool| {
            summary.changes.iter().filter(|change| change.name != "HEAD" && which(change)).count()
        };
        Report {
            status: match summary.status {
                Status::Ok => "ok",
                Status::Unchanged => "unchanged",
                Status::Partial => "partial",
            },
            dry_run,
            refs_added: count(|change| change.old.is_none()),
            refs_updated: count(|change| change.old.is_some() && change.new.is_some()),
            refs_deleted: count(|change| change.new.is_none()),
            objects_written: summary.objects_written,
            bytes_written: summary.bytes_written + summary.lfs_bytes_written,
            source_requests: summary.source_requests,
            store_requests: summary.store_requests,
            store_writes: summary.store_usage.writes,
            store_reads: summary.store_usage.reads,
            store_bytes_sent: summary.store_usage.bytes_sent,
            store_bytes_received: summary.store_usage.bytes_received,
            lfs_written: summary.lfs_written,
            mended: Vec::new(),
            lfs_missing: summary.lfs_missing.len(),
            refs: Some(summary.refs).filter(|_| !dry_run),
            packs: summary.holds.map(|holds| holds.packs),
            objects: summary.holds.map(|holds| holds.objects),
            bytes: summary.holds.map(|holds| holds.bytes),
            lfs_objects: summary.holds.map(|holds| holds.lfs_objects),
            lfs_bytes: summary.holds.map(|holds| holds.lfs_bytes),
            published_at: summary.published_at,
            changes: summary.changes,
            missing: summary.lfs_missing,
            ..Report::empty(pair, code, summary.elapsed)
        }
    }

    /// A run that failed. `interrupted` is the code of the signal that came, if one did.
    pub fn of_error(
        pair: &Pair,
        error: &MirrorError,
        elapsed: Duration,
        interrupted: Option<ExitCode>,
    ) -> Self {
        let code = match (error, interrupted) {
            (MirrorError::Interrupted, Some(code)) => code,
            _ => ExitCode::of_error(error),
        };
        Report {
            error: Some(printable(&chain(error))),
            hint: hint(error).filter(|_| !says_what_to_do(&chain(error))),
            ..Report::empty(pair, code, elapsed)
        }
    }

    fn empty(pair: &Pair, code: ExitCode, elapsed: Duration) -> Self {
        Report {
            source: pair.source.to_string(),
            target: pair.target.to_string(),
            status: "failed",
            exit_code: code.code(),
            dry_run: false,
            refs_added: 0,
            refs_updated: 0,
            refs_deleted: 0,
            objects_written: 0,
            bytes_written: 0,
            source_requests: 0,
            store_requests: 0,
            store_writes: 0,
            store_reads: 0,
            store_bytes_sent: 0,
            store_bytes_received: 0,
            lfs_written: 0,
            mended: Vec::new(),
            lfs_missing: 0,
            refs: None,
            packs: None,
            objects: None,
            bytes: None,
            lfs_objects: None,
            lfs_bytes: None,
            published_at: None,
            seconds: elapsed.as_secs_f64(),
            error: None,
            code,
            hint: None,
            changes: Vec::new(),
            missing: Vec::new(),
        }
    }

    /// The same with the requests that were sent until it failed.
    pub fn with_requests(self, source_requests: u64, store_requests: u64, usage: Usage) -> Self {
        Report {
            source_requests,
            store_requests,
            store_writes: usage.writes,
            store_reads: usage.reads,
            store_bytes_sent: usage.bytes_sent,
            store_bytes_received: usage.bytes_received,
            ..self
        }
    }

    /// This repository's own exit code.
    pub fn code(&self) -> ExitCode {
        self.code
    }

    /// One JSON object in one line, with its line feed.
    pub fn json(&self) -> String {
        let object =
            serde_json::to_string(self).expect("strings, numbers and booleans are always JSON");
        printable_json(&object) + "\n"
    }

    /// The summary for people, one line, before it a line for each key that was repaired, and in a dry run
    /// one for each change. Empty when the
    /// run failed: that is for [`Report::complaint`].
    pub fn summary(&self) -> String {
        if self.error.is_some() {
            return String::new();
        }
        let requests = self.source_requests + self.store_requests;
        let cost = format!("{:.1} s ({} requests)", self.seconds, grouped(requests));
        let pair = printable(&format!("{} -> {}", self.source, self.target));
        let changes = format!(
            "{} refs added, {} updated, {} deleted",
            grouped(self.refs_added as u64),
            grouped(self.refs_updated as u64),
            grouped(self.refs_deleted as u64)
        );
        if self.dry_run {
            // Whether a move is a fast-forward cannot be determined without the objects.
            let changes = changes.replace("updated", "moved");
            let mut text = format!("dry-run {pair}: would be {changes}; {cost}\n");
            self.changes.iter().for_each(|change| text += &listed(change));
            return text;
        }
        if self.status == "unchanged" {
            return format!(
                "unchanged {pair}: {} refs; {cost}\n",
                grouped(self.refs.unwrap_or(0) as u64)
            );
        }
        let mut text = format!(
            "{} {pair}: {changes}; {} objects, {} written",
            self.status,
            grouped(self.objects_written),
            bytes(self.bytes_written)
        );
        if self.lfs_written > 0 || self.lfs_missing > 0 {
            let _ = write!(
                text,
                "; LFS: {} written, {} missing",
                grouped(self.lfs_written),
                grouped(self.lfs_missing as u64)
            );
        }
        if !self.mended.is_empty() {
            let _ = write!(text, "; {} damaged keys repaired", grouped(self.mended.len() as u64));
        }
        let mended = self.mended.iter().map(|key| format!("{}: repaired\n", printable(key)));
        mended.collect::<String>() + &text + &format!(" in {cost}\n")
    }

    /// What went wrong, for people, and what to do about it. Empty when nothing did.
    pub fn complaint(&self) -> String {
        let pair = printable(&format!("{} -> {}", self.source, self.target));
        let mut text = String::new();
        if let Some(error) = &self.error {
            let _ = writeln!(text, "error: {pair}: {error}");
        }
        for (oid, why) in &self.missing {
            let _ =
                writeln!(text, "error: {pair}: LFS object {oid} is missing: {}", printable(why));
        }
        if !self.missing.is_empty() {
            text += "hint: the refs are published; the next run requests these objects again\n";
        }
        if let Some(hint) = self.hint {
            let _ = writeln!(text, "hint: {hint}");
        }
        text
    }
}

/// A line of a dry run's list.
fn listed(change: &RefChange) -> String {
    let text = match (&change.old, &change.new) {
        (None, Some(new)) => format!("  + {} {new}", change.name),
        (Some(old), None) => format!("  - {} {old}", change.name),
        (old, new) => format!(
            "  ~ {} {} -> {}",
            change.name,
            old.as_deref().unwrap_or("?"),
            new.as_deref().unwrap_or("?")
        ),
    };
    printable(&text) + "\n"
}

/// The error and everything behind it, without a cause that the text before it already has.
fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let words = cause.to_string();
        if !text.contains(&words) {
            let _ = write!(text, ": {words}");
        }
        next = cause.source();
    }
    text
}

/// What to do, where the message can't know it.
fn hint(error: &MirrorError) -> Option<&'static str> {
    match (ExitCode::of_error(error), error) {
        (ExitCode::Denied, MirrorError::Source(_)) => Some(
            "a private source needs credentials: ~/.netrc, or --source-header-file with an Authorization line",
        ),
        (ExitCode::Denied, _) => Some(
            "check which credentials are used (--profile, AWS_ACCESS_KEY_ID) and what they allow: docs/operating.md, 'Permissions'",
        ),
        (ExitCode::TryAgain, _) => {
            Some("temporary failure: nothing was published, run again later")
        }
        (ExitCode::Interrupted, _) => Some("nothing was published; run again"),
        _ => None,
    }
}

/// Does the message know better than a hint?
fn says_what_to_do(message: &str) -> bool {
    ["~/.netrc", "set the clock", "reached its quota"].iter().any(|words| message.contains(words))
}

/// The last words of a run over several repositories. `not_begun` were never started. `reasons`: each
/// failure is named again.
pub fn closing(reports: &[Report], not_begun: &[&Pair], reasons: bool) -> String {
    let with = |status: &str| reports.iter().filter(|report| report.status == status).count();
    let total = reports.len() + not_begun.len();
    let mut text = format!("{} repositories:", grouped(total as u64));
    let counted = ["ok", "unchanged", "partial", "failed"].map(|status| (with(status), status));
    let counted = counted.into_iter().chain([(not_begun.len(), "not started")]);
    let parts: Vec<String> = counted
        .filter(|(count, _)| *count > 0)
        .map(|(count, status)| format!(" {} {status}", grouped(count as u64)))
        .collect();
    text += &parts.join(",");
    text.push('\n');
    for report in reports.iter().filter(|report| reasons && report.code != ExitCode::Done) {
        let why = match &report.error {
            Some(error) => error.clone(),
            None => format!("{} LFS objects are missing", grouped(report.lfs_missing as u64)),
        };
        let pair = printable(&format!("{} -> {}", report.source, report.target));
        let _ = writeln!(text, "  {} ({}) {pair}: {why}", report.status, report.exit_code);
    }
    for pair in not_begun {
        let _ = writeln!(text, "  not started {}", printable(&pair.to_string()));
    }
    text
}

/// Prometheus' text format, version 0.0.4, for the textfile collector of node_exporter.
///
/// `before` is the file that this replaces: what a run that failed cannot know is taken from there, so
/// that an alert on the last success keeps its value.
pub fn metrics(reports: &[Report], before: &str, now: SystemTime) -> String {
    let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let kept = Kept::read(before);
    let mut text = String::new();
    for (name, help, value) in OF_RUN {
        gauge(&mut text, name, help, reports, |report, _| Some(value(report)));
    }
    for (name, help, value) in OF_MIRROR {
        gauge(&mut text, name, help, reports, |report, series| {
            value(report, seconds).or_else(|| kept.value(series))
        });
    }
    let help = "When the last run over all repositories ended.";
    alone(&mut text, "last_run_timestamp_seconds", help, "", seconds);
    build_info(&mut text, "");
    text
}

/// What a gauge's value is.
type OfRun = (&'static str, &'static str, fn(&Report) -> f64);

/// The same of what a failed run does not tell. The second argument is the time.
type OfMirror = (&'static str, &'static str, fn(&Report, u64) -> Option<f64>);

const OF_RUN: [OfRun; 17] = [
    ("success", "1 if the last run ended with exit code 0.", |r| {
        f64::from(u8::from(r.code == ExitCode::Done))
    }),
    ("exit_code", "Exit code of the last run.", |r| f64::from(r.exit_code)),
    ("duration_seconds", "Wall time of the last run.", |r| r.seconds),
    ("refs_added", "Refs added by the last run.", |r| r.refs_added as f64),
    ("refs_updated", "Refs moved by the last run.", |r| r.refs_updated as f64),
    ("refs_deleted", "Refs deleted by the last run.", |r| r.refs_deleted as f64),
    ("objects_written", "Git objects stored by the last run.", |r| r.objects_written as f64),
    ("bytes_written", "Bytes of git and LFS objects stored by the last run.", |r| {
        r.bytes_written as f64
    }),
    ("source_requests", "Requests to the source in the last run.", |r| r.source_requests as f64),
    ("store_requests", "Requests to the store in the last run.", |r| r.store_requests as f64),
    ("store_writes", "Requests to the store billed as PUT in the last run.", |r| {
        r.store_writes as f64
    }),
    ("store_reads", "Requests to the store billed as GET in the last run.", |r| {
        r.store_reads as f64
    }),
    ("store_bytes_sent", "Bytes sent to the store in the last run.", |r| r.store_bytes_sent as f64),
    ("store_bytes_received", "Bytes received from the store in the last run.", |r| {
        r.store_bytes_received as f64
    }),
    ("lfs_written", "LFS objects stored by the last run.", |r| r.lfs_written as f64),
    ("lfs_missing", "LFS objects missing after the last run.", |r| r.lfs_missing as f64),
    ("dry_run", "1 if the last run was a dry run.", |r| f64::from(u8::from(r.dry_run))),
];

const OF_MIRROR: [OfMirror; 8] = [
    (LAST_SUCCESS, "When a run last ended with exit code 0; kept when a run fails.", |r, now| {
        (r.code == ExitCode::Done && !r.dry_run).then_some(now as f64)
    }),
    ("last_publication_timestamp_seconds", "When something was last published.", |r, _| {
        let at = OffsetDateTime::parse(r.published_at.as_deref()?, &Rfc3339).ok()?;
        Some(at.unix_timestamp() as f64)
    }),
    ("refs", "Refs of the mirror.", |r, _| r.refs.map(|refs| refs as f64)),
    ("packs", "Packs that the mirror lists.", |r, _| r.packs.map(|packs| packs as f64)),
    ("objects", "Git objects of the mirror.", |r, _| r.objects.map(|objects| objects as f64)),
    ("mirror_bytes", "Bytes of the mirror's git objects and packs.", |r, _| {
        r.bytes.map(|bytes| bytes as f64)
    }),
    ("lfs_objects", "LFS objects of the mirror.", |r, _| r.lfs_objects.map(|lfs| lfs as f64)),
    ("lfs_bytes", "Bytes of the mirror's LFS objects.", |r, _| r.lfs_bytes.map(|lfs| lfs as f64)),
];

/// Adds a gauge with a value for each report that has one. `value` also gets the series:
/// `name{labels}`.
fn gauge(
    text: &mut String,
    name: &str,
    help: &str,
    reports: &[Report],
    value: impl Fn(&Report, &str) -> Option<f64>,
) {
    let name = format!("mirror_git_to_s3_{name}");
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge");
    for report in reports {
        let (source, target) = (label(&report.source), label(&report.target));
        let series = format!("{name}{{source=\"{source}\",target=\"{target}\"}}");
        if let Some(value) = value(report, &series) {
            let _ = writeln!(text, "{series} {value}");
        }
    }
}

/// Adds a gauge of one value.
fn alone(text: &mut String, name: &str, help: &str, labels: &str, value: u64) {
    let name = format!("mirror_git_to_s3_{name}");
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge\n{name}{labels} {value}");
}

/// The version as a label. Each file has a name of its own: node_exporter refuses one twice.
fn build_info(text: &mut String, family: &str) {
    let version = concat!("{version=\"", env!("CARGO_PKG_VERSION"), "\"}");
    let name = format!("{family}build_info");
    alone(text, &name, "Always 1; the version is a label.", version, 1);
}

/// The values of a textfile that this program has written.
struct Kept<'t>(HashMap<&'t str, f64>);

impl<'t> Kept<'t> {
    fn read(text: &'t str) -> Self {
        let values = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            Some((series, value.parse().ok()?))
        });
        Kept(values.collect())
    }

    fn value(&self, series: &str) -> Option<f64> {
        self.0.get(series).copied()
    }
}

/// A metric of `verify` or `gc`: its name, what it means, its value.
pub type Gauge = (&'static str, &'static str, f64);

/// The Prometheus textfile of `verify` or `gc`, which is `family`: each mirror's name, exit code and
/// gauges. `before` is the file that this replaces, as for [`metrics`].
pub fn maintenance_metrics(
    family: &str,
    results: &[(String, ExitCode, Vec<Gauge>)],
    before: &str,
    now_seconds: u64,
) -> String {
    let kept = Kept::read(before);
    let series = |name: &str, target: &str| {
        format!("mirror_git_to_s3_{family}_{name}{{target=\"{}\"}}", label(target))
    };
    let mut rows: Vec<(&str, &str, &str, f64)> = Vec::new();
    for (target, code, gauges) in results {
        let last = match code {
            ExitCode::Done => Some(now_seconds as f64),
            _ => kept.value(&series(LAST_SUCCESS, target)),
        };
        let code = f64::from(code.code());
        rows.push(("exit_code", "Exit code of the last run.", target, code));
        let help = "When a run last ended with exit code 0; kept when a run fails.";
        rows.extend(last.map(|at| (LAST_SUCCESS, help, target.as_str(), at)));
        rows.extend(
            gauges.iter().map(|(name, help, value)| (*name, *help, target.as_str(), *value)),
        );
    }
    // Each metric's values in one piece (Prometheus' exposition formats).
    rows.sort_by_key(|(name, ..)| *name);
    let (mut text, mut last) = (String::new(), "");
    for (name, help, target, value) in rows {
        let full = format!("mirror_git_to_s3_{family}_{name}");
        if last != name {
            let _ = writeln!(text, "# HELP {full} {help}\n# TYPE {full} gauge");
        }
        last = name;
        let _ = writeln!(text, "{} {value}", series(name, target));
    }
    let name = format!("{family}_last_run_timestamp_seconds");
    alone(&mut text, &name, "When the last run over all mirrors ended.", "", now_seconds);
    build_info(&mut text, &format!("{family}_"));
    text
}

const LAST_SUCCESS: &str = "last_success_timestamp_seconds";

/// A label's value: backslash, quote and line feed are escaped (Prometheus' exposition formats).
fn label(text: &str) -> String {
    printable(&text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}

/// The metrics file of the run before; empty if there is none, or none of ours. It is not followed to
/// what is no regular file.
pub fn read_metrics(path: &Path) -> String {
    let is_ours =
        fs::metadata(path).is_ok_and(|about| about.is_file() && about.len() < MAX_METRICS);
    if is_ours { fs::read_to_string(path).unwrap_or_default() } else { String::new() }
}

/// A larger metrics file (bytes) is not read back.
const MAX_METRICS: u64 = 64 << 20;

/// Writes `text` so that a reader sees the old file or the new one: a temporary file beside it,
/// renamed. Its name does not end in `.prom`, or the collector would read it too.
pub fn write_atomically(path: &Path, text: &str) -> io::Result<()> {
    let (temporary, mut file) = beside(path)?;
    let written = file
        .write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // The first error is the one to tell.
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// Could [`write_atomically`] write `path`? It is left as it is.
pub fn check_writable(path: &Path) -> io::Result<()> {
    let (temporary, _) = beside(path)?;
    fs::remove_file(temporary)
}

/// The same for the file of `--metrics-file`, before anything is begun.
pub fn check_metrics_file(path: &Path) -> Result<(), CliError> {
    check_writable(path).map_err(|error| {
        CliError::new(format!("cannot write the metrics file {}: {error}", path.display()))
    })
}

/// A new file beside `path`. Others who may write to the folder can't guess its name, and nothing that
/// they put there is followed.
fn beside(path: &Path) -> io::Result<(PathBuf, File)> {
    match fs::symlink_metadata(path) {
        Ok(about) if about.is_dir() => return Err(io::ErrorKind::IsADirectory.into()),
        // A rename would put a file in the place of a device.
        Ok(about) if !about.is_file() && !about.is_symlink() => {
            return Err(io::Error::other("it is not a regular file"));
        }
        _ => {}
    }
    let name = path.file_name().ok_or_else(|| io::Error::other("it names no file"))?;
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{:016x}.tmp", std::hash::RandomState::new().hash_one(name)));
    let temporary = path.with_file_name(temporary);
    let file = File::options().write(true).create_new(true).open(&temporary)?;
    Ok((temporary, file))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::urls::{SourceUrl, TargetUrl};
    use crate::mirror::Holds;
    use crate::source::{SourceError, SourceErrorKind};
    use crate::store::{StoreError, StoreErrorKind};

    fn pair() -> Pair {
        Pair {
            source: SourceUrl::parse("https://me:secret@h/r").unwrap(),
            target: TargetUrl::parse("s3://b/p").unwrap(),
        }
    }

    fn change(name: &str, old: Option<&str>, new: Option<&str>) -> RefChange {
        let own = |text: Option<&str>| text.map(str::to_owned);
        RefChange { name: name.to_owned(), old: own(old), new: own(new) }
    }

    fn summary(status: Status) -> Summary {
        Summary {
            status,
            changes: vec![
                change("HEAD", None, Some("ref: refs/heads/a")),
                change("refs/heads/a", None, Some("1111")),
                change("refs/heads/b", None, Some("2222")),
                change("refs/heads/c", Some("3333"), Some("4444")),
                change("refs/heads/d", Some("5555"), None),
            ],
            refs: 1_200,
            objects_written: 1_234,
            bytes_written: 5_872_026,
            lfs_written: 0,
            lfs_missing: Vec::new(),
            lfs_bytes_written: 26,
            holds: Some(Holds {
                packs: 1,
                objects: 1300,
                bytes: 6_000_000,
                lfs_objects: 2,
                lfs_bytes: 30,
            }),
            published_at: Some("2026-11-24T13:31:31Z".into()),
            source_requests: 3,
            store_requests: 1_258,
            store_usage: Usage { writes: 1_250, reads: 8, bytes_sent: 9, ..Usage::default() },
            elapsed: Duration::from_millis(2_340),
        }
    }

    fn failed(error: impl Into<MirrorError>) -> Report {
        Report::of_error(&pair(), &error.into(), Duration::from_secs(1), None)
    }

    #[test]
    fn the_summary_is_one_line() {
        assert_eq!(
            Report::of_summary(&pair(), summary(Status::Ok), false).summary(),
            "ok https://h/r -> s3://b/p: 2 refs added, 1 updated, 1 deleted; 1,234 objects, \
             5.6 MiB written in 2.3 s (1,261 requests)\n"
        );
        assert_eq!(
            Report::of_summary(&pair(), summary(Status::Unchanged), false).summary(),
            "unchanged https://h/r -> s3://b/p: 1,200 refs; 2.3 s (1,261 requests)\n"
        );
    }

    #[test]
    fn keys_that_were_mended_are_named_before_the_summary() {
        let report = Report::of_summary(&pair(), summary(Status::Ok), false);
        let text = report.with_mended(vec!["HEAD".into(), "info/refs".into()]).summary();
        assert!(text.starts_with("HEAD: repaired\ninfo/refs: repaired\nok https://h/r"), "{text}");
        assert!(
            text.ends_with("written; 2 damaged keys repaired in 2.3 s (1,261 requests)\n"),
            "{text}"
        );
    }

    #[test]
    fn a_dry_run_lists_each_change() {
        assert_eq!(
            Report::of_summary(&pair(), summary(Status::Ok), true).summary(),
            "dry-run https://h/r -> s3://b/p: would be 2 refs added, 1 moved, 1 deleted; \
             2.3 s (1,261 requests)\n\
             \x20 + HEAD ref: refs/heads/a\n\
             \x20 + refs/heads/a 1111\n\
             \x20 + refs/heads/b 2222\n\
             \x20 ~ refs/heads/c 3333 -> 4444\n\
             \x20 - refs/heads/d 5555\n"
        );
    }

    #[test]
    fn missing_lfs_objects_are_counted_and_named() {
        let mut partial = summary(Status::Partial);
        partial.lfs_written = 7;
        partial.lfs_missing = vec![("abcd".into(), "404 not\x1b found".into())];
        let report = Report::of_summary(&pair(), partial, false);
        assert!(report.summary().starts_with("partial https://h/r"), "{}", report.summary());
        assert!(report.summary().contains("; LFS: 7 written, 1 missing in 2.3 s"));
        assert_eq!(report.code(), ExitCode::LfsMissing);
        let complaint = report.complaint();
        assert!(
            complaint.contains("LFS object abcd is missing: 404 not\u{fffd} found\n"),
            "{complaint}"
        );
        assert!(complaint.contains("hint: the refs are published"), "{complaint}");
    }

    #[test]
    fn json_has_the_fields_of_the_contract() {
        let json = Report::of_summary(&pair(), summary(Status::Ok), false).json();
        assert!(json.ends_with("}\n") && json.matches('\n').count() == 1, "{json}");
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        let wanted = serde_json::json!({
            "source": "https://h/r", "target": "s3://b/p", "status": "ok", "exit_code": 0,
            "dry_run": false, "refs_added": 2, "refs_updated": 1, "refs_deleted": 1,
            "objects_written": 1234, "bytes_written": 5872052, "source_requests": 3,
            "store_requests": 1258, "store_writes": 1250, "store_reads": 8, "store_bytes_sent": 9,
            "store_bytes_received": 0, "lfs_written": 0, "lfs_missing": 0, "seconds": 2.34,
            "refs": 1200, "packs": 1, "objects": 1300, "bytes": 6000000, "lfs_objects": 2,
            "lfs_bytes": 30, "published_at": "2026-11-24T13:31:31Z",
            "error": null,
        });
        assert_eq!(value, wanted);
    }

    #[test]
    fn a_failure_says_what_why_and_what_to_do() {
        let denied = SourceError {
            kind: SourceErrorKind::Denied,
            url: "https://h/r".into(),
            message: "401 at https://me:secret@h/r\nnext\x07".into(),
        };
        let report = failed(denied);
        assert_eq!(report.summary(), "");
        let complaint = report.complaint();
        assert!(
            complaint.starts_with(
                "error: https://h/r -> s3://b/p: https://h/r: 401 at https://h/r next\u{fffd}\nhint: a private source"
            ),
            "{complaint}"
        );
        let value: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
        assert_eq!((&value["status"], &value["exit_code"]), (&"failed".into(), &12.into()));
        assert!(!report.json().contains("secret"));
    }

    #[test]
    fn each_kind_of_failure_has_its_hint() {
        let store = |kind| StoreError::new(kind, "put", "s3://b/p/HEAD", "no");
        for (report, hint) in [
            (failed(store(StoreErrorKind::Denied)), Some("check which credentials")),
            (failed(store(StoreErrorKind::Transient { retry_after: None })), Some("temporary")),
            (failed(store(StoreErrorKind::Other)), None),
            (
                failed(StoreError::new(StoreErrorKind::Denied, "put", "s3://b", "set the clock")),
                None,
            ),
            (failed(MirrorError::Guard("g".into())), None),
            (failed(MirrorError::Interrupted), Some("nothing was published; run")),
            (failed(MirrorError::Conflict), None),
        ] {
            let complaint = report.complaint();
            match hint {
                Some(hint) => {
                    assert!(complaint.contains(&format!("\nhint: {hint}")), "{complaint}")
                }
                None => assert!(!complaint.contains("hint:"), "{complaint}"),
            }
        }
    }

    #[test]
    fn an_interrupted_run_has_the_code_of_its_signal() {
        let of = |signal| {
            let code = ExitCode::of_signal(signal);
            Report::of_error(&pair(), &MirrorError::Interrupted, Duration::ZERO, code).exit_code
        };
        assert_eq!((of(2), of(15)), (130, 143));
        let report = failed(MirrorError::Conflict).with_requests(
            3,
            14,
            Usage { writes: 5, ..Usage::default() },
        );
        let told = (report.source_requests, report.store_requests, report.store_writes);
        assert_eq!(told, (3, 14, 5));
        // A failure of its own keeps its code, signal or not.
        let code = ExitCode::of_signal(15);
        let report = Report::of_error(&pair(), &MirrorError::Conflict, Duration::ZERO, code);
        assert_eq!(report.exit_code, 11);
    }

    #[test]
    fn the_chain_of_an_error_is_told_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("outer")]
        struct Outer(#[source] Middle);
        #[derive(Debug, thiserror::Error)]
        #[error("middle: inner")]
        struct Middle(#[source] io::Error);
        let error = Outer(Middle(io::Error::other("inner")));
        assert_eq!(chain(&error), "outer: middle: inner");
    }

    #[test]
    fn the_closing_words_name_each_failure() {
        let ok = Report::of_summary(&pair(), summary(Status::Ok), false);
        let bad = failed(MirrorError::Pack("entry at 12".into()));
        assert_eq!(
            closing(&[ok.clone(), bad.clone()], &[&pair()], true),
            "3 repositories: 1 ok, 1 failed, 1 not started\n\
             \x20 failed (1) https://h/r -> s3://b/p: the source's pack is invalid: entry at 12\n\
             \x20 not started https://h/r -> s3://b/p\n"
        );
        let told = closing(&[ok.clone(), bad], &[], false);
        assert_eq!(told, "2 repositories: 1 ok, 1 failed\n");
        assert_eq!(closing(&[ok.clone(), ok], &[], true), "2 repositories: 2 ok\n");
    }

    #[test]
    fn metrics_are_in_prometheus_text_format() {
        let mut report = Report::of_summary(&pair(), summary(Status::Ok), false);
        report.target = "file:///a\"b\\c".to_owned();
        let text = metrics(&[report], "", UNIX_EPOCH + Duration::from_secs(1_700_000_000));
        for line in [
            "# TYPE mirror_git_to_s3_success gauge",
            "mirror_git_to_s3_success{source=\"https://h/r\",target=\"file:///a\\\"b\\\\c\"} 1",
            "mirror_git_to_s3_duration_seconds{source=\"https://h/r\",target=\"file:///a\\\"b\\\\c\"} 2.34",
            "mirror_git_to_s3_last_run_timestamp_seconds 1700000000",
            concat!("mirror_git_to_s3_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
        assert!(text.ends_with('\n'));
        let docs = include_str!("../docs/output.md");
        for name in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
            let name = name.split(' ').next().unwrap_or_default();
            assert!(docs.contains(&format!("`{name}`")), "{name} is not in docs/output.md");
        }
    }

    #[test]
    fn what_a_failed_run_cannot_know_is_kept_from_the_file_before() {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        let series = |name: &str| {
            format!("mirror_git_to_s3_{name}{{source=\"https://h/r\",target=\"s3://b/p\"}}")
        };
        let first =
            metrics(&[Report::of_summary(&pair(), summary(Status::Ok), false)], "", at(100));
        let after = metrics(&[failed(MirrorError::Conflict)], &first, at(200));
        for (name, value) in [
            ("success", "0"),
            (LAST_SUCCESS, "100"),
            ("last_publication_timestamp_seconds", "1795527091"),
            ("objects", "1300"),
            ("lfs_bytes", "30"),
        ] {
            let line = format!("{} {value}", series(name));
            assert!(after.lines().any(|l| l == line), "{line}\n{after}");
        }
        // Nothing is made up for a mirror that the file did not have.
        let alone = metrics(&[failed(MirrorError::Conflict)], "no metrics {} at all\n", at(200));
        assert!(!alone.contains(&series(LAST_SUCCESS)), "{alone}");
        // A dry run is no success.
        let dry =
            metrics(&[Report::of_summary(&pair(), summary(Status::Ok), true)], &first, at(300));
        assert!(dry.contains(&format!("{} 100\n", series(LAST_SUCCESS))), "{dry}");
        let results = [("s3://b/1".to_owned(), ExitCode::Done, Vec::new())];
        let first = maintenance_metrics("gc", &results, "", 100);
        let results = [("s3://b/1".to_owned(), ExitCode::Failed, Vec::new())];
        let after = maintenance_metrics("gc", &results, &first, 200);
        let line = "mirror_git_to_s3_gc_last_success_timestamp_seconds{target=\"s3://b/1\"} 100\n";
        assert!(after.contains(line), "{after}");
    }

    #[test]
    fn metrics_of_verify_and_gc_come_in_one_piece_each() {
        let gauges = |value| vec![("findings", "Problems found.", value)];
        let results = [
            ("s3://b/1".to_owned(), ExitCode::Done, gauges(0.0)),
            ("s3://b/2".to_owned(), ExitCode::Failed, gauges(3.0)),
        ];
        let wanted = "\
# HELP mirror_git_to_s3_verify_exit_code Exit code of the last run.
# TYPE mirror_git_to_s3_verify_exit_code gauge
mirror_git_to_s3_verify_exit_code{target=\"s3://b/1\"} 0
mirror_git_to_s3_verify_exit_code{target=\"s3://b/2\"} 1
# HELP mirror_git_to_s3_verify_findings Problems found.
# TYPE mirror_git_to_s3_verify_findings gauge
mirror_git_to_s3_verify_findings{target=\"s3://b/1\"} 0
mirror_git_to_s3_verify_findings{target=\"s3://b/2\"} 3
# HELP mirror_git_to_s3_verify_last_success_timestamp_seconds When a run last ended with exit code 0; kept when a run fails.
# TYPE mirror_git_to_s3_verify_last_success_timestamp_seconds gauge
mirror_git_to_s3_verify_last_success_timestamp_seconds{target=\"s3://b/1\"} 1700000000
# HELP mirror_git_to_s3_verify_last_run_timestamp_seconds When the last run over all mirrors ended.
# TYPE mirror_git_to_s3_verify_last_run_timestamp_seconds gauge
mirror_git_to_s3_verify_last_run_timestamp_seconds 1700000000
# HELP mirror_git_to_s3_verify_build_info Always 1; the version is a label.
# TYPE mirror_git_to_s3_verify_build_info gauge
";
        let metrics = maintenance_metrics("verify", &results, "", 1_700_000_000);
        let (before, version) = metrics.split_at(metrics.len().min(wanted.len()));
        assert_eq!(before, wanted);
        let build = "mirror_git_to_s3_verify_build_info{version=\"";
        assert!(version.starts_with(build) && version.ends_with("\"} 1\n"), "{version}");
    }

    #[test]
    fn the_metrics_file_is_replaced_whole_and_leaves_nothing_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.prom");
        write_atomically(&path, "one").unwrap();
        write_atomically(&path, "two").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "two");
        fs::create_dir(dir.path().join("taken")).unwrap();
        write_atomically(&dir.path().join("taken"), "three").unwrap_err();
        write_atomically(&dir.path().join("no/m.prom"), "four").unwrap_err();
        write_atomically(Path::new("/"), "five").unwrap_err();
        // A rename would put a file in the place of the device.
        check_writable(Path::new("/dev/null")).unwrap_err();
        check_writable(&path).unwrap();
        let mut names: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["m.prom", "taken"]);
    }
}
