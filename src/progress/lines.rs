//! A log line now and then: progress where no terminal is, at the level of `-v`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::counters::{Counters, Counts, bytes, grouped};
use super::watcher::Progress;

/// Between two lines of one repository.
const PERIOD: Duration = Duration::from_secs(10);

/// Writes a line about one repository to the log (level info) every ten seconds in which something
/// happens, and one for each phase. The source's own words are level debug.
#[derive(Debug)]
pub struct Lines {
    label: String,
    counters: Counters,
    begun: Instant,
    /// When the next line is due, in milliseconds after `begun`; whoever moves it writes the line.
    due_ms: AtomicU64,
}

impl Lines {
    /// `label` names the repository in each line.
    pub fn new(label: impl Into<String>) -> Self {
        Lines {
            label: label.into(),
            counters: Counters::default(),
            begun: Instant::now(),
            due_ms: AtomicU64::new(PERIOD.as_millis() as u64),
        }
    }

    fn now_and_then(&self) {
        if self.is_due(self.begun.elapsed()) {
            log::info!("{}: {}", self.label, sentence(&self.counters.counts()));
        }
    }

    /// Is a line due at `elapsed`, and is this the one caller that writes it?
    fn is_due(&self, elapsed: Duration) -> bool {
        let now = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        let due = self.due_ms.load(Ordering::Relaxed);
        let next = now.saturating_add(PERIOD.as_millis() as u64);
        now >= due
            && self.due_ms.compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

/// `1,200 of 4,000 objects (30 %), 5.6 MiB received, 7.1 MiB stored`.
fn sentence(counts: &Counts) -> String {
    let mut text = match counts.objects_expected {
        0 => format!("{} objects", grouped(counts.objects)),
        all => format!(
            "{} of {} objects ({} %)",
            grouped(counts.objects),
            grouped(all),
            u128::from(counts.objects) * 100 / u128::from(all)
        ),
    };
    text += &format!(
        ", {} received, {} stored",
        bytes(counts.bytes_received),
        bytes(counts.bytes_stored)
    );
    if counts.lfs_bytes_expected > 0 {
        text += &format!(
            ", {} of {} of LFS",
            bytes(counts.lfs_bytes),
            bytes(counts.lfs_bytes_expected)
        );
    }
    text
}

impl Progress for Lines {
    fn expect_objects(&self, entries: u64) {
        self.counters.expect_objects(entries);
    }

    fn received(&self, bytes: u64) {
        self.counters.received(bytes);
        self.now_and_then();
    }

    fn objects_done(&self, count: u64) {
        self.counters.objects_done(count);
        self.now_and_then();
    }

    fn stored(&self, bytes: u64) {
        self.counters.stored(bytes);
        self.now_and_then();
    }

    fn expect_lfs(&self, bytes: u64) {
        self.counters.expect_lfs(bytes);
    }

    fn lfs_received(&self, bytes: u64) {
        self.counters.lfs_received(bytes);
        self.now_and_then();
    }

    fn source_says(&self, line: &str) {
        log::debug!("{}: remote: {line}", self.label);
    }

    fn phase(&self, what: &str) {
        log::info!("{}: {what}", self.label);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_due_once_in_ten_seconds() {
        let lines = Lines::new("r");
        let due = |seconds| lines.is_due(Duration::from_secs(seconds));
        assert_eq!(
            [0, 9, 10, 11, 19, 20, 50, 51].map(due),
            [false, false, true, false, false, true, true, false]
        );
    }

    #[test]
    fn a_line_says_how_far_it_is() {
        let mut counts = Counts { objects: 1_200, objects_expected: 4_000, ..Counts::default() };
        counts.bytes_received = 5_872_026;
        assert_eq!(
            sentence(&counts),
            "1,200 of 4,000 objects (30 %), 5.6 MiB received, 0 bytes stored"
        );
        counts.objects_expected = 0;
        counts.lfs_bytes_expected = 2048;
        assert!(sentence(&counts).starts_with("1,200 objects, "));
        assert!(sentence(&counts).ends_with(", 0 bytes of 2.0 KiB of LFS"));
    }
}
