//! Atomic sums of what a run tells, and how they are written for people.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::watcher::Progress;

/// Adds up what it hears. Numbers are atomic, because they come for every object; the latest words are
/// behind a mutex, because they come a few times a second.
#[derive(Debug, Default)]
pub struct Counters {
    objects: AtomicU64,
    objects_expected: AtomicU64,
    bytes_received: AtomicU64,
    bytes_stored: AtomicU64,
    lfs_bytes: AtomicU64,
    lfs_bytes_expected: AtomicU64,
    words: Mutex<Words>,
}

#[derive(Debug, Default)]
struct Words {
    phase: String,
    source: String,
}

/// The sums at one moment. Each number is right by itself; they may be a few events apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Objects that are done.
    pub objects: u64,
    /// Objects that the packs' headers announced.
    pub objects_expected: u64,
    /// Bytes of packs that have arrived.
    pub bytes_received: u64,
    /// Bytes that have gone to the store.
    pub bytes_stored: u64,
    /// Bytes of LFS objects that have arrived.
    pub lfs_bytes: u64,
    /// Bytes of LFS objects that are awaited in all.
    pub lfs_bytes_expected: u64,
    /// What the run is at; empty at first.
    pub phase: String,
    /// The source's last words in this phase; may be empty.
    pub source_words: String,
}

impl Counters {
    /// The sums now.
    pub fn counts(&self) -> Counts {
        let words = self.words.lock().unwrap_or_else(PoisonError::into_inner);
        Counts {
            objects: self.objects.load(Ordering::Relaxed),
            objects_expected: self.objects_expected.load(Ordering::Relaxed),
            bytes_received: self.bytes_received.load(Ordering::Relaxed),
            bytes_stored: self.bytes_stored.load(Ordering::Relaxed),
            lfs_bytes: self.lfs_bytes.load(Ordering::Relaxed),
            lfs_bytes_expected: self.lfs_bytes_expected.load(Ordering::Relaxed),
            phase: words.phase.clone(),
            source_words: words.source.clone(),
        }
    }
}

impl Progress for Counters {
    fn expect_objects(&self, entries: u64) {
        self.objects_expected.fetch_add(entries, Ordering::Relaxed);
    }

    fn received(&self, bytes: u64) {
        self.bytes_received.fetch_add(bytes, Ordering::Relaxed);
    }

    fn objects_done(&self, count: u64) {
        self.objects.fetch_add(count, Ordering::Relaxed);
    }

    fn stored(&self, bytes: u64) {
        self.bytes_stored.fetch_add(bytes, Ordering::Relaxed);
    }

    fn expect_lfs(&self, bytes: u64) {
        self.lfs_bytes_expected.fetch_add(bytes, Ordering::Relaxed);
    }

    fn lfs_received(&self, bytes: u64) {
        self.lfs_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn source_says(&self, line: &str) {
        let mut words = self.words.lock().unwrap_or_else(PoisonError::into_inner);
        words.source.clear();
        words.source.push_str(line);
    }

    fn phase(&self, what: &str) {
        let mut words = self.words.lock().unwrap_or_else(PoisonError::into_inner);
        words.source.clear();
        words.phase.clear();
        words.phase.push_str(what);
    }
}

/// `1,234,567`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `1 ref`, `1,234 refs`.
pub(crate) fn counted(number: u64, noun: &str) -> String {
    format!("{} {noun}{}", grouped(number), if number == 1 { "" } else { "s" })
}

/// `123 bytes`, `5.6 MiB`: powers of 1,024 with one decimal, as git writes them.
pub(crate) fn bytes(number: u64) -> String {
    if number < 1024 {
        return format!("{number} bytes");
    }
    let mut size = number as f64 / 1024.0;
    let mut units = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"].into_iter();
    let mut unit = units.next().expect("the list is not empty");
    // 1023.95 would be rounded to 1024.0.
    while size >= 1023.95 {
        let Some(larger) = units.next() else { break };
        size /= 1024.0;
        unit = larger;
    }
    format!("{size:.1} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn increments_of_many_threads_add_up() {
        let counters = Counters::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        counters.expect_objects(2);
                        counters.objects_done(1);
                        counters.stored(3);
                        counters.received(5);
                        counters.expect_lfs(7);
                        counters.lfs_received(6);
                    }
                });
            }
        });
        let wanted = Counts {
            objects: 4_000,
            objects_expected: 8_000,
            bytes_received: 20_000,
            bytes_stored: 12_000,
            lfs_bytes: 24_000,
            lfs_bytes_expected: 28_000,
            ..Counts::default()
        };
        assert_eq!(counters.counts(), wanted);
    }

    #[test]
    fn a_new_phase_forgets_the_sources_words_of_the_last() {
        let counters = Counters::default();
        counters.phase("receiving");
        counters.source_says("Counting objects: 3");
        counters.source_says("Compressing");
        let counts = counters.counts();
        assert_eq!(
            (counts.phase.as_str(), counts.source_words.as_str()),
            ("receiving", "Compressing")
        );
        counters.phase("publishing");
        assert_eq!(counters.counts().source_words, "");
    }

    #[test]
    fn numbers_are_written_for_people() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
        for (number, text) in [
            (0, "0 bytes"),
            (1023, "1023 bytes"),
            (1024, "1.0 KiB"),
            (1_048_575, "1.0 MiB"),
            (5_872_026, "5.6 MiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(bytes(number), text);
        }
    }
}
