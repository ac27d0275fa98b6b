//! What a run tells when it ends: summary lines or JSON on standard output, errors with what to do
//! on standard error, and a Prometheus textfile.
//!
//! Standard output is for scripts: with `--json` it holds one object a repository and nothing else.
//! The fields, their names and the names of the metrics are a contract (README). Text of servers is
//! made fit for a terminal, and no URL is shown with its userinfo.

use std::error::Error as StdError;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::hash::BuildHasher;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

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
    /// LFS objects that lack.
    pub lfs_lacking: usize,
    /// Keys that were damaged and that `--full` has written again; without any it is not told.
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
    refs: usize,
    #[serde(skip)]
    changes: Vec<RefChange>,
    #[serde(skip)]
    lacking: Vec<(String, String)>,
}

impl Report {
    /// Says which keys were mended.
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
            bytes_written: summary.bytes_written,
            source_requests: summary.source_requests,
            store_requests: summary.store_requests,
            store_writes: summary.store_usage.writes,
            store_reads: summary.store_usage.reads,
            store_bytes_sent: summary.store_usage.bytes_sent,
            store_bytes_received: summary.store_usage.bytes_received,
            lfs_written: summary.lfs_written,
            mended: Vec::new(),
            lfs_lacking: summary.lfs_lacking.len(),
            refs: summary.refs,
            changes: summary.changes,
            lacking: summary.lfs_lacking,
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
            hint: hint(error),
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
            lfs_lacking: 0,
            seconds: elapsed.as_secs_f64(),
            error: None,
            code,
            hint: None,
            refs: 0,
            changes: Vec::new(),
            lacking: Vec::new(),
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

    /// The summary for people, one line, before it a line for each key that was mended, and in a dry run
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
            // Whether a move is a fast-forward can't be told without the objects.
            let changes = changes.replace("updated", "moved");
            let mut text = format!("dry-run {pair}: would be {changes}; {cost}\n");
            self.changes.iter().for_each(|change| text += &listed(change));
            return text;
        }
        if self.status == "unchanged" {
            return format!("unchanged {pair}: {} refs; {cost}\n", grouped(self.refs as u64));
        }
        let mut text = format!(
            "{} {pair}: {changes}; {} objects, {} written",
            self.status,
            grouped(self.objects_written),
            bytes(self.bytes_written)
        );
        if self.lfs_written > 0 || self.lfs_lacking > 0 {
            let _ = write!(
                text,
                "; LFS: {} written, {} lacking",
                grouped(self.lfs_written),
                grouped(self.lfs_lacking as u64)
            );
        }
        if !self.mended.is_empty() {
            let _ = write!(text, "; {} damaged keys mended", grouped(self.mended.len() as u64));
        }
        let mended = self.mended.iter().map(|key| format!("{}: mended\n", printable(key)));
        mended.collect::<String>() + &text + &format!(" in {cost}\n")
    }

    /// What went wrong, for people, and what to do about it. Empty when nothing did.
    pub fn complaint(&self) -> String {
        let pair = printable(&format!("{} -> {}", self.source, self.target));
        let mut text = String::new();
        if let Some(error) = &self.error {
            let _ = writeln!(text, "error: {pair}: {error}");
        }
        for (oid, why) in &self.lacking {
            let _ = writeln!(text, "error: {pair}: LFS object {oid} lacks: {}", printable(why));
        }
        if !self.lacking.is_empty() {
            text += "hint: the refs are published; the next run asks for these objects again\n";
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
            "see which credentials are used (--profile, AWS_ACCESS_KEY_ID) and what they may do: README, 'Rights'",
        ),
        (ExitCode::TryAgain, _) => {
            Some("a temporary failure: nothing was published, run again later")
        }
        (ExitCode::Interrupted, _) => Some("nothing was published; the next run goes on from here"),
        _ => None,
    }
}

/// The last words of a run over several repositories. `not_begun` were never started.
pub fn closing(reports: &[Report], not_begun: &[&Pair]) -> String {
    let with = |status: &str| reports.iter().filter(|report| report.status == status).count();
    let total = reports.len() + not_begun.len();
    let mut text = format!("{} repositories:", grouped(total as u64));
    let counted = ["ok", "unchanged", "partial", "failed"].map(|status| (with(status), status));
    let counted = counted.into_iter().chain([(not_begun.len(), "not begun")]);
    let parts: Vec<String> = counted
        .filter(|(count, _)| *count > 0)
        .map(|(count, status)| format!(" {} {status}", grouped(count as u64)))
        .collect();
    text += &parts.join(",");
    text.push('\n');
    for report in reports.iter().filter(|report| report.code != ExitCode::Done) {
        let why = match &report.error {
            Some(error) => error.clone(),
            None => format!("{} LFS objects lack", grouped(report.lfs_lacking as u64)),
        };
        let pair = printable(&format!("{} -> {}", report.source, report.target));
        let _ = writeln!(text, "  {} ({}) {pair}: {why}", report.status, report.exit_code);
    }
    for pair in not_begun {
        let _ = writeln!(text, "  not begun {}", printable(&pair.to_string()));
    }
    text
}

/// Prometheus' text format, version 0.0.4, for the textfile collector of node_exporter.
pub fn metrics(reports: &[Report], now: SystemTime) -> String {
    type Value = fn(&Report) -> f64;
    let gauges: [(&str, &str, Value); 17] = [
        ("success", "1 if the last run ended with exit code 0.", |r| {
            f64::from(u8::from(r.code == ExitCode::Done))
        }),
        ("exit_code", "Exit code of the last run.", |r| f64::from(r.exit_code)),
        ("duration_seconds", "Wall time of the last run.", |r| r.seconds),
        ("refs_added", "Refs added by the last run.", |r| r.refs_added as f64),
        ("refs_updated", "Refs moved by the last run.", |r| r.refs_updated as f64),
        ("refs_deleted", "Refs deleted by the last run.", |r| r.refs_deleted as f64),
        ("objects_written", "Git objects stored by the last run.", |r| r.objects_written as f64),
        ("bytes_written", "Bytes of git objects stored by the last run.", |r| {
            r.bytes_written as f64
        }),
        ("source_requests", "Requests to the source in the last run.", |r| {
            r.source_requests as f64
        }),
        ("store_requests", "Requests to the store in the last run.", |r| r.store_requests as f64),
        ("store_writes", "Requests to the store billed as PUT in the last run.", |r| {
            r.store_writes as f64
        }),
        ("store_reads", "Requests to the store billed as GET in the last run.", |r| {
            r.store_reads as f64
        }),
        ("store_bytes_sent", "Bytes sent to the store in the last run.", |r| {
            r.store_bytes_sent as f64
        }),
        ("store_bytes_received", "Bytes received from the store in the last run.", |r| {
            r.store_bytes_received as f64
        }),
        ("lfs_written", "LFS objects stored by the last run.", |r| r.lfs_written as f64),
        ("lfs_lacking", "LFS objects that lack after the last run.", |r| r.lfs_lacking as f64),
        ("dry_run", "1 if the last run wrote nothing on purpose.", |r| {
            f64::from(u8::from(r.dry_run))
        }),
    ];
    let mut text = String::new();
    for (name, help, value) in gauges {
        let name = format!("mirror_git_to_s3_{name}");
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge");
        for report in reports {
            let (source, target) = (label(&report.source), label(&report.target));
            let value = value(report);
            let _ = writeln!(text, "{name}{{source=\"{source}\",target=\"{target}\"}} {value}");
        }
    }
    let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let name = "mirror_git_to_s3_last_run_timestamp_seconds";
    let help = "When the last run over all repositories ended.";
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {seconds}");
    text
}

/// A metric of `verify` or `gc`: its name, what it means, its value.
pub type Gauge = (&'static str, &'static str, f64);

/// The Prometheus textfile of `verify` or `gc`, which is `family`: each mirror's name, exit code and
/// gauges.
pub fn upkeep_metrics(
    family: &str,
    results: &[(String, ExitCode, Vec<Gauge>)],
    now_seconds: u64,
) -> String {
    let mut rows: Vec<(&str, &str, &str, f64)> = Vec::new();
    for (target, code, gauges) in results {
        let code = f64::from(code.code());
        rows.push(("exit_code", "Exit code of the last run.", target, code));
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
        let _ = writeln!(text, "{full}{{target=\"{}\"}} {value}", label(target));
    }
    let name = format!("mirror_git_to_s3_{family}_last_run_timestamp_seconds");
    let help = "When the last run over all mirrors ended.";
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {now_seconds}");
    text
}

/// A label's value: backslash, quote and line feed are escaped (Prometheus' exposition formats).
fn label(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

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
    if path.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    let (temporary, _) = beside(path)?;
    fs::remove_file(temporary)
}

/// A new file beside `path`. Others who may write to the folder can't guess its name, and nothing that
/// they put there is followed.
fn beside(path: &Path) -> io::Result<(PathBuf, File)> {
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
            lfs_lacking: Vec::new(),
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
        assert!(text.starts_with("HEAD: mended\ninfo/refs: mended\nok https://h/r"), "{text}");
        assert!(
            text.ends_with("written; 2 damaged keys mended in 2.3 s (1,261 requests)\n"),
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
    fn lacking_lfs_objects_are_counted_and_named() {
        let mut partial = summary(Status::Partial);
        partial.lfs_written = 7;
        partial.lfs_lacking = vec![("abcd".into(), "404 not\x1b found".into())];
        let report = Report::of_summary(&pair(), partial, false);
        assert!(report.summary().starts_with("partial https://h/r"), "{}", report.summary());
        assert!(report.summary().contains("; LFS: 7 written, 1 lacking in 2.3 s"));
        assert_eq!(report.code(), ExitCode::LfsLacking);
        let complaint = report.complaint();
        assert!(
            complaint.contains("LFS object abcd lacks: 404 not\u{fffd} found\n"),
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
            "objects_written": 1234, "bytes_written": 5872026, "source_requests": 3,
            "store_requests": 1258, "store_writes": 1250, "store_reads": 8, "store_bytes_sent": 9,
            "store_bytes_received": 0, "lfs_written": 0, "lfs_lacking": 0, "seconds": 2.34,
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
            (failed(store(StoreErrorKind::Denied)), Some("see which credentials")),
            (failed(store(StoreErrorKind::Transient { retry_after: None })), Some("a temporary")),
            (failed(store(StoreErrorKind::Other)), None),
            (failed(MirrorError::Guard("g".into())), None),
            (failed(MirrorError::Interrupted), Some("nothing was published; the next")),
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
            closing(&[ok.clone(), bad], &[&pair()]),
            "3 repositories: 1 ok, 1 failed, 1 not begun\n\
             \x20 failed (1) https://h/r -> s3://b/p: the source's pack is broken: entry at 12\n\
             \x20 not begun https://h/r -> s3://b/p\n"
        );
        assert_eq!(closing(&[ok.clone(), ok], &[]), "2 repositories: 2 ok\n");
    }

    #[test]
    fn metrics_are_in_prometheus_text_format() {
        let mut report = Report::of_summary(&pair(), summary(Status::Ok), false);
        report.target = "file:///a\"b\\c".to_owned();
        let text = metrics(&[report], UNIX_EPOCH + Duration::from_secs(1_700_000_000));
        for line in [
            "# TYPE mirror_git_to_s3_success gauge",
            "mirror_git_to_s3_success{source=\"https://h/r\",target=\"file:///a\\\"b\\\\c\"} 1",
            "mirror_git_to_s3_duration_seconds{source=\"https://h/r\",target=\"file:///a\\\"b\\\\c\"} 2.34",
            "mirror_git_to_s3_last_run_timestamp_seconds 1700000000",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
        assert!(text.ends_with('\n'));
        let readme = include_str!("../README.md");
        for name in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
            let name = name.split(' ').next().unwrap_or_default();
            assert!(readme.contains(&format!("`{name}`")), "{name} is not in the README");
        }
    }

    #[test]
    fn metrics_of_verify_and_gc_come_in_one_piece_each() {
        let gauges = |value| vec![("findings", "What is wrong.", value)];
        let results = [
            ("s3://b/1".to_owned(), ExitCode::Done, gauges(0.0)),
            ("s3://b/2".to_owned(), ExitCode::Failed, gauges(3.0)),
        ];
        let wanted = "\
# HELP mirror_git_to_s3_verify_exit_code Exit code of the last run.
# TYPE mirror_git_to_s3_verify_exit_code gauge
mirror_git_to_s3_verify_exit_code{target=\"s3://b/1\"} 0
mirror_git_to_s3_verify_exit_code{target=\"s3://b/2\"} 1
# HELP mirror_git_to_s3_verify_findings What is wrong.
# TYPE mirror_git_to_s3_verify_findings gauge
mirror_git_to_s3_verify_findings{target=\"s3://b/1\"} 0
mirror_git_to_s3_verify_findings{target=\"s3://b/2\"} 3
# HELP mirror_git_to_s3_verify_last_run_timestamp_seconds When the last run over all mirrors ended.
# TYPE mirror_git_to_s3_verify_last_run_timestamp_seconds gauge
mirror_git_to_s3_verify_last_run_timestamp_seconds 1700000000
";
        assert_eq!(upkeep_metrics("verify", &results, 1_700_000_000), wanted);
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
        let mut names: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["m.prom", "taken"]);
    }
}
