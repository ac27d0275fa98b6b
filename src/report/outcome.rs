//! How the run over one repository ended: as a summary line, as an error with what to do, as JSON.
//!
//! The fields and their names are a contract (README). No text here has a secret or a control character in
//! it.

use std::error::Error as StdError;
use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;

use crate::cli::manifest::Pair;
use crate::exit_code::ExitCode;
use crate::logging::{printable, printable_json};
use crate::mirror::{MirrorError, RefChange, Status, Summary};
use crate::progress::{bytes, counted, grouped};
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
        let cost = format!("{:.1} s ({})", self.seconds, counted(requests, "request"));
        let pair = printable(&format!("{} -> {}", self.source, self.target));
        let added = counted(self.refs_added as u64, "ref");
        let (updated, deleted) =
            (grouped(self.refs_updated as u64), grouped(self.refs_deleted as u64));
        if self.dry_run {
            // Whether a move is a fast-forward cannot be determined without the objects.
            let changes = format!("would add {added}, move {updated}, delete {deleted}");
            let mut text = format!("dry-run {pair}: {changes}; {cost}\n");
            self.changes.iter().for_each(|change| text += &listed(change));
            return text;
        }
        if self.status == "unchanged" {
            return format!(
                "unchanged {pair}: {}; {cost}\n",
                counted(self.refs.unwrap_or(0) as u64, "ref")
            );
        }
        let mut text = format!(
            "{} {pair}: {added} added, {updated} updated, {deleted} deleted; {}, {} written",
            self.status,
            counted(self.objects_written, "object"),
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
            let _ = write!(text, "; {} repaired", counted(self.mended.len() as u64, "damaged key"));
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

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::report::testing::{failed, pair, summary};
    use crate::source::{SourceError, SourceErrorKind};
    use crate::store::{StoreError, StoreErrorKind};

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
            "dry-run https://h/r -> s3://b/p: would add 2 refs, move 1, delete 1; \
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
        let reported = (report.source_requests, report.store_requests, report.store_writes);
        assert_eq!(reported, (3, 14, 5));
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
}
