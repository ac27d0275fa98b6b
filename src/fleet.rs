//! Several repositories at once: a few threads take pairs from one list.
//!
//! One failing repository never stops the others, unless the caller asks to fail fast; a panic in
//! one is its own failure. Results come back in the order of the input. Nothing here knows what the
//! work is, so a program that links this crate can run it over its own list.
//!
//! Repositories that run at once share memory and request slots: [`share`] divides them, so that
//! `jobs` repositories together stay within what was asked for.
//!
//! Threads: the calling thread works too, `jobs - 1` others are named `mirror.1` and so on.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::mirror::Options;
use crate::run::Cancel;
use crate::run::threads::take_next;

/// How the work on one pair ended.
#[derive(Debug)]
pub enum Outcome<T, E> {
    /// It came to its end, well or not.
    Ended(Result<T, E>),
    /// It panicked, with these words: a bug.
    Panicked(String),
    /// It was not started: the run was cancelled, or another failed and `fail_fast` was set.
    NotStarted,
}

impl<T, E> Outcome<T, E> {
    /// Did it end well?
    pub fn is_ok(&self) -> bool {
        matches!(self, Outcome::Ended(Ok(_)))
    }
}

/// Runs `work` on every pair, `jobs` at once (0 counts as 1), and gives the outcomes in the order of
/// `pairs`.
///
/// With `fail_fast`, no further pair is begun after the first failure; those under way come to
/// their own end, so that no work is thrown away. After `cancel`, no further pair is begun either;
/// `work` watches `cancel` itself.
pub fn run_all<P: Sync, T: Send, E: Send>(
    pairs: &[P],
    jobs: usize,
    fail_fast: bool,
    cancel: &Cancel,
    work: impl Fn(&P) -> Result<T, E> + Sync,
) -> Vec<Outcome<T, E>> {
    let stop = AtomicBool::new(false);
    // One slot a pair, filled once by the worker that took its index. Guarded by the mutex only
    // because slots are written from several threads; no work is done under it.
    let outcomes = Mutex::new(pairs.iter().map(|_| Outcome::NotStarted).collect::<Vec<_>>());
    let is_over = || stop.load(Ordering::Relaxed) || cancel.is_cancelled();
    take_next(pairs.len(), jobs, "mirror", is_over, |index| {
        let outcome = match catch_unwind(AssertUnwindSafe(|| work(&pairs[index]))) {
            Ok(result) => Outcome::Ended(result),
            Err(payload) => Outcome::Panicked(words_of(payload.as_ref())),
        };
        if fail_fast && !outcome.is_ok() {
            stop.store(true, Ordering::Relaxed);
        }
        outcomes.lock().unwrap_or_else(PoisonError::into_inner)[index] = outcome;
    });
    outcomes.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// What a panic said.
fn words_of(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a message".to_owned())
}

/// The options of one repository of `jobs` that run at once: an equal share of the memory and of
/// the requests in flight, at least one request.
pub fn share(options: &Options, jobs: usize) -> Options {
    let jobs = jobs.max(1);
    Options {
        concurrency: (options.concurrency / jobs).max(1),
        memory_bytes: options.memory_bytes / jobs as u64,
        ..options.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;

    type Ended = Outcome<u32, String>;

    fn results(outcomes: &[Ended]) -> Vec<String> {
        let show = |outcome: &Ended| match outcome {
            Outcome::Ended(Ok(number)) => number.to_string(),
            Outcome::Ended(Err(words)) => format!("error {words}"),
            Outcome::Panicked(words) => format!("panic {words}"),
            Outcome::NotStarted => "-".to_owned(),
        };
        outcomes.iter().map(show).collect()
    }

    #[test]
    fn a_failure_and_a_panic_leave_the_others_alone_and_the_order_is_kept() {
        for jobs in [0, 1, 2, 3, 16] {
            let outcomes =
                run_all(&[1, 2, 3, 4, 5], jobs, false, &Cancel::default(), |n| match n {
                    2 => Err("two".to_owned()),
                    4 => panic!("four is {}", "odd"),
                    n => Ok(n * 10),
                });
            let wanted = ["10", "error two", "30", "panic four is odd", "50"];
            assert_eq!(results(&outcomes), wanted, "{jobs} jobs");
        }
    }

    #[test]
    fn fail_fast_begins_nothing_after_the_first_failure() {
        let outcomes = run_all(&[1, 2, 3], 1, true, &Cancel::default(), |n| match n {
            2 => Err("two".to_owned()),
            n => Ok(*n),
        });
        assert_eq!(results(&outcomes), ["1", "error two", "-"]);
    }

    #[test]
    fn fail_fast_lets_what_is_under_way_come_to_its_end() {
        // Both have begun before one of them fails.
        let both = Barrier::new(2);
        let outcomes = run_all(&[1, 2], 2, true, &Cancel::default(), |n| {
            both.wait();
            if *n == 1 { Err("one".to_owned()) } else { Ok(*n) }
        });
        assert_eq!(results(&outcomes), ["error one", "2"]);
    }

    #[test]
    fn cancelling_begins_nothing_more() {
        let cancel = Cancel::default();
        let outcomes = run_all(&[1, 2, 3], 1, false, &cancel, |n| {
            cancel.cancel();
            Ok::<_, String>(*n)
        });
        assert_eq!(results(&outcomes), ["1", "-", "-"]);
    }

    #[test]
    fn as_many_run_at_once_as_there_are_jobs() {
        // With fewer than three at once the barrier would never open.
        let all = Barrier::new(3);
        let outcomes = run_all(&[1, 2, 3], 3, false, &Cancel::default(), |n| {
            all.wait();
            Ok::<_, String>(*n)
        });
        assert_eq!(results(&outcomes), ["1", "2", "3"]);
    }

    #[test]
    fn shares_add_up_to_no_more_than_the_whole() {
        let options = Options { concurrency: 10, memory_bytes: 100, ..Options::default() };
        let one = share(&options, 3);
        assert_eq!((one.concurrency, one.memory_bytes), (3, 33));
        assert_eq!(share(&options, 0).concurrency, 10);
        assert_eq!(share(&options, 64).concurrency, 1);
    }
}
