//! The Prometheus textfile: what it says, of mirroring and of `verify` and `gc`.
//!
//! The metrics' names are a contract (README). Assumes that one program writes a file: what a failed run
//! cannot know is taken from the file of the run before.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::outcome::Report;
use crate::exit_code::ExitCode;
use crate::logging::printable;

const LAST_SUCCESS: &str = "last_success_timestamp_seconds";

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
        f64::from(u8::from(r.code() == ExitCode::Done))
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
        (r.code() == ExitCode::Done && !r.dry_run).then_some(now as f64)
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

/// A label's value: backslash, quote and line feed are escaped (Prometheus' exposition formats).
fn label(text: &str) -> String {
    printable(&text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::mirror::{MirrorError, Status};
    use crate::report::testing::{failed, pair, summary};

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
        let docs = include_str!("../../docs/output.md");
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
}
