//! Trying again: how often, how long to wait in between, and to leave when the run is over.

use std::fmt::Display;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// How often a wait looks whether it is still wanted.
const NAP: Duration = Duration::from_millis(50);

/// How often and how long to try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Tries of one request, the first included; 0 counts as 1. `AWS_MAX_ATTEMPTS`.
    pub max_attempts: u32,
    /// The longest wait before the second try; it doubles from then on. The wait is between half
    /// of this and this.
    pub first_delay: Duration,
    /// The longest wait, also when the store asks for a longer one.
    pub max_delay: Duration,
    /// No new try begins when this has passed since the first.
    pub max_total: Duration,
}

impl Default for Policy {
    /// 8 tries: 0.2 s, 0.4 s … 12.8 s between them, 25 s in all, if failures come at once.
    fn default() -> Self {
        Policy {
            max_attempts: 8,
            first_delay: Duration::from_millis(200),
            max_delay: Duration::from_secs(30),
            max_total: Duration::from_secs(300),
        }
    }
}

impl Policy {
    /// So many tries, whose number alone bounds them.
    pub(crate) const fn of(max_attempts: u32, first_delay: Duration) -> Self {
        let (max_delay, max_total) = (Duration::MAX, Duration::MAX);
        Policy { max_attempts, first_delay, max_delay, max_total }
    }
}

/// The failed tries of one piece of work.
#[derive(Debug)]
pub(crate) struct Backoff {
    policy: Policy,
    began: Instant,
    /// Counted apart from the clock, so that it holds for an injected sleep too.
    waited: Duration,
    /// Failed tries.
    pub(crate) tries: u32,
}

impl Backoff {
    pub(crate) fn new(policy: Policy) -> Self {
        Backoff { policy, began: Instant::now(), waited: Duration::ZERO, tries: 0 }
    }

    /// After a failed try: how long to wait before the next; `None`: there is none. It grows, and is
    /// never less than the other side asked for (`Retry-After`).
    pub(crate) fn wait_after(&mut self, asked: Option<Duration>) -> Option<Duration> {
        let doubled = 1u32.checked_shl(self.tries).unwrap_or(u32::MAX);
        let full = self.policy.first_delay.saturating_mul(doubled).min(self.policy.max_delay);
        // Between half of it and all of it, so that many clients don't come again at once.
        let backoff = full / 2 + (full / 2).mul_f64(fastrand::f64());
        self.after(asked.unwrap_or_default().max(backoff).min(self.policy.max_delay))
    }

    /// The same with no wait.
    pub(crate) fn at_once(&mut self) -> Option<Duration> {
        self.after(Duration::ZERO)
    }

    fn after(&mut self, wait: Duration) -> Option<Duration> {
        self.tries += 1;
        let ends = self.began.elapsed().max(self.waited).saturating_add(wait);
        if self.tries >= self.policy.max_attempts || ends > self.policy.max_total {
            return None;
        }
        self.waited = self.waited.saturating_add(wait);
        Some(wait)
    }
}

/// Failed requests of the whole process that wait to be sent again. It is for showing only, and global
/// because those who wait know nothing of those who watch.
static WAITING: AtomicUsize = AtomicUsize::new(0);

/// How many failed requests wait to be sent again.
pub(crate) fn waiting() -> usize {
    WAITING.load(Ordering::Relaxed)
}

/// Calls `attempt` until it succeeds, or `wait_after` says of a failure that nothing more can be hoped
/// for, or `sleep` that the run is over: then the last failure is the answer.
pub(crate) fn with_retry<T, E: Display>(
    mut wait_after: impl FnMut(&E) -> Option<Duration>,
    sleep: impl Fn(Duration) -> bool,
    mut attempt: impl FnMut() -> Result<T, E>,
) -> Result<T, E> {
    loop {
        let error = match attempt() {
            Err(error) => error,
            done => return done,
        };
        let Some(wait) = wait_after(&error) else { return Err(error) };
        log::info!("{error}; trying again in {} ms", wait.as_millis());
        WAITING.fetch_add(1, Ordering::Relaxed);
        let goes_on = sleep(wait);
        WAITING.fetch_sub(1, Ordering::Relaxed);
        if !goes_on {
            return Err(error);
        }
    }
}

/// Sleeps, but not longer than the run lasts. `false`: it is over.
pub(crate) fn sleep(wait: Duration, is_over: impl Fn() -> bool) -> bool {
    sleep_by(wait, is_over, std::thread::sleep)
}

/// The same with another way to sleep, which is called with at most 50 ms at a time.
pub(crate) fn sleep_by(
    mut left: Duration,
    is_over: impl Fn() -> bool,
    nap: impl Fn(Duration),
) -> bool {
    while !left.is_zero() && !is_over() {
        let now = left.min(NAP);
        nap(now);
        left -= now;
    }
    !is_over()
}
