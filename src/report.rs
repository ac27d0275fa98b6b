//! What a run tells when it ends: summary lines or JSON on standard output, errors with what to do
//! on standard error, and a Prometheus textfile.
//!
//! Standard output is for scripts: with `--json` it holds one object a repository and nothing else.
//! The fields, their names and the names of the metrics are a contract (README). Text of servers is
//! made fit for a terminal, and no URL is shown with its userinfo.

mod file;
mod outcome;
mod prometheus;

use std::fmt::Write as _;

pub use self::file::{check_metrics_file, check_writable, read_metrics, write_atomically};
pub use self::outcome::Report;
pub use self::prometheus::{Gauge, maintenance_metrics, metrics};
use crate::cli::manifest::Pair;
use crate::exit_code::ExitCode;
use crate::logging::printable;
use crate::progress::grouped;

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
    for report in reports.iter().filter(|report| reasons && report.code() != ExitCode::Done) {
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

#[cfg(test)]
mod testing;

#[cfg(test)]
mod tests {
    use super::testing::{failed, pair, summary};
    use super::*;
    use crate::mirror::{MirrorError, Status};

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
        let reported = closing(&[ok.clone(), bad], &[], false);
        assert_eq!(reported, "2 repositories: 1 ok, 1 failed\n");
        assert_eq!(closing(&[ok.clone(), ok], &[], true), "2 repositories: 2 ok\n");
    }
}
