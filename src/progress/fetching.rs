//! Progress of a fetch as git shows its own: one line on standard error that is written over.

use std::io::Write;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::counters::{Counters, Counts, bytes};
use super::watcher::Progress;

/// Between two writings of the line.
const PERIOD: Duration = Duration::from_millis(100);

/// Writes `Receiving objects: …` over and over. Git reads nothing of it.
#[derive(Debug, Default)]
pub struct Fetching {
    counters: Counters,
    /// When the line was written last.
    shown: Mutex<Option<Instant>>,
}

impl Fetching {
    /// Ends the line, if there is one.
    pub fn end(&self) {
        let is_shown = self.shown.lock().is_ok_and(|shown| shown.is_some());
        if is_shown {
            let _ = writeln!(std::io::stderr(), "\r{}, done.", line(&self.counters.counts()));
        }
    }

    fn now_and_then(&self) {
        // Whoever can't have the lock leaves it to the one who has.
        let Ok(mut shown) = self.shown.try_lock() else { return };
        if shown.is_none_or(|at| at.elapsed() >= PERIOD) {
            *shown = Some(Instant::now());
            let _ = write!(std::io::stderr(), "\r{}", line(&self.counters.counts()));
        }
    }
}

fn line(counts: &Counts) -> String {
    let received = bytes(counts.bytes_received);
    match counts.objects_expected {
        0 => format!("Receiving objects: {}, {received}", counts.objects),
        all => {
            let percent = u128::from(counts.objects) * 100 / u128::from(all);
            format!("Receiving objects: {percent:>3}% ({}/{all}), {received}", counts.objects)
        }
    }
}

impl Progress for Fetching {
    fn expect_objects(&self, entries: u64) {
        self.counters.expect_objects(entries);
    }

    fn received(&self, bytes: u64) {
        self.counters.received(bytes);
        self.now_and_then();
    }

    fn objects_done(&self, count: u64) {
        self.counters.objects_done(count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_is_as_git_writes_it() {
        let progress = Fetching::default();
        progress.received(2048);
        progress.objects_done(5);
        assert_eq!(line(&progress.counters.counts()), "Receiving objects: 5, 2.0 KiB");
        progress.expect_objects(10);
        assert_eq!(line(&progress.counters.counts()), "Receiving objects:  50% (5/10), 2.0 KiB");
    }
}
