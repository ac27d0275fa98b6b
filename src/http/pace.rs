//! The low-speed limit: no connection may hold a run forever.
//!
//! As `http.lowSpeedLimit` and `http.lowSpeedTime` of git: a connection on which fewer than so many
//! bytes a second come (or go) for so long is given up. It is measured at the socket, below TLS, so
//! that nothing above can hide it: headers or a chunk's length a byte at a time, a TLS record that
//! never ends, a source, a store, a proxy alike. Only time spent waiting for the other side counts:
//! a reader that has no room for more is not the server's fault.
//!
//! A server that counts objects sends signs of life and nothing else. Whoever reads them says so with
//! [`sign_of_life`], on the thread that reads: they excuse slowness [`PATIENCE`] times as long, and
//! are no bytes that count, however many come.

use std::cell::Cell;
use std::fmt;
use std::time::{Duration, Instant};

use ureq::Error;
use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, NextTimeout, Transport};

/// With signs of life, slowness is tolerated so many times as long as without.
pub const PATIENCE: u32 = 6;

thread_local! {
    /// Bytes of signs of life that this thread has seen, with what frames them on the wire.
    static SIGNS: Cell<u64> = const { Cell::new(0) };
}

/// What frames a sign of life at most: a chunk and a TLS record of its own.
const FRAME_BYTES: u64 = 64;

/// The server has just said with `bytes` bytes that it lives and works, to this thread, and nothing
/// else.
pub fn sign_of_life(bytes: usize) {
    SIGNS.set(SIGNS.get().wrapping_add(bytes as u64 + FRAME_BYTES));
}

thread_local! {
    /// How many bytes may still come, while there is a limit.
    static LEFT: Cell<Option<u64>> = const { Cell::new(None) };
}

/// Reads with `read` the end of an answer of which all that matters is there: on this thread, at most so
/// many bytes more may come for it. Trailers could go on forever, and no reader sees a byte of them.
pub fn at_most<T>(bytes: u64, read: impl FnOnce() -> T) -> T {
    struct Unlimited;
    impl Drop for Unlimited {
        fn drop(&mut self) {
            LEFT.set(None);
        }
    }
    LEFT.set(Some(bytes));
    // On every way out, a panic included: the thread may be a pool's.
    let _after = Unlimited;
    read()
}

/// Takes `came` from what may still come. `Err`: it is too much.
fn take_from_limit(came: u64) -> std::io::Result<()> {
    match LEFT.get() {
        Some(left) if came > left => Err(std::io::Error::other("the answer does not end")),
        left => {
            LEFT.set(left.map(|left| left - came));
            Ok(())
        }
    }
}

/// How slow a connection may be, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LowSpeed {
    /// Bytes a second. 0: there is no limit.
    pub limit: u64,
    /// It may be slower than that for so long. 0: there is no limit.
    pub time: Duration,
}

impl Default for LowSpeed {
    fn default() -> Self {
        LowSpeed { limit: 100, time: Duration::from_secs(300) }
    }
}

/// A connection was too slow for too long.
#[derive(Debug)]
pub(super) struct TooSlow {
    policy: LowSpeed,
    bytes: u64,
    waited: Duration,
    /// Signs of life came.
    alive: bool,
}

impl fmt::Display for TooSlow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TooSlow { policy, bytes, waited, alive } = self;
        let what = if *alive { "almost nothing but keep-alives" } else { "too slow" };
        write!(
            f,
            "{what}: {bytes} bytes in {} s, fewer than {} bytes a second (--low-speed-limit, \
             --low-speed-time)",
            waited.as_secs(),
            policy.limit
        )
    }
}

impl std::error::Error for TooSlow {}

/// Counts in one direction.
#[derive(Debug, Default)]
struct Meter {
    waited: Duration,
    bytes: u64,
    /// How long signs of life have excused slowness.
    excused: Duration,
    signs: u64,
}

impl Meter {
    fn new() -> Self {
        Meter { signs: SIGNS.get(), ..Meter::default() }
    }

    /// `bytes` have passed while `waited` was spent waiting for the other side.
    fn passed(&mut self, bytes: u64, waited: Duration) {
        self.waited += waited;
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// Was it slow for too long? Asked before the next wait: only then is it known which of the bytes
    /// were signs of life.
    fn check(&mut self, policy: LowSpeed) -> Result<(), TooSlow> {
        if policy.limit == 0 || policy.time.is_zero() {
            return Ok(());
        }
        let useful = self.bytes.saturating_sub(SIGNS.get().wrapping_sub(self.signs));
        if useful as f64 >= policy.limit as f64 * policy.time.as_secs_f64() {
            *self = Meter::new();
            return Ok(());
        }
        if self.waited < policy.time {
            return Ok(());
        }
        let (signs, excused) = (SIGNS.get(), self.excused + self.waited);
        let alive = signs != self.signs;
        if alive && excused < policy.time * PATIENCE {
            *self = Meter { excused, signs, ..Meter::default() };
            return Ok(());
        }
        let waited = if alive { excused } else { self.waited };
        Err(TooSlow { policy, bytes: useful, waited, alive })
    }
}

/// Puts [`Paced`] around a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct PaceConnector(pub(super) LowSpeed);

impl<In: Transport> Connector<In> for PaceConnector {
    type Out = Paced<In>;

    fn connect(
        &self,
        _: &ConnectionDetails,
        chained: Option<In>,
    ) -> Result<Option<Paced<In>>, Error> {
        let (incoming, outgoing) = Default::default();
        let policy = self.0;
        Ok(chained.map(|inner| Paced { inner, policy, incoming, outgoing, sent: false }))
    }
}

/// A connection that is given up when it is too slow.
#[derive(Debug)]
pub(super) struct Paced<T> {
    inner: T,
    policy: LowSpeed,
    incoming: Meter,
    outgoing: Meter,
    /// The last thing that happened was sending.
    sent: bool,
}

impl<T: Transport> Transport for Paced<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.inner.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        if !self.sent {
            // Another request: what the last one was like is no matter.
            (self.outgoing, self.incoming) = (Meter::new(), Meter::new());
        }
        self.sent = true;
        self.outgoing.check(self.policy).map_err(error)?;
        let begun = Instant::now();
        self.inner.transmit_output(amount, timeout)?;
        self.outgoing.passed(amount as u64, begun.elapsed());
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        self.sent = false;
        self.incoming.check(self.policy).map_err(error)?;
        let (begun, before) = (Instant::now(), self.inner.buffers().input().len());
        let progress = self.inner.await_input(timeout)?;
        let came = self.inner.buffers().input().len().saturating_sub(before);
        self.incoming.passed(came as u64, begun.elapsed());
        take_from_limit(came as u64)?;
        Ok(progress)
    }

    fn is_open(&mut self) -> bool {
        self.inner.is_open()
    }

    fn is_tls(&self) -> bool {
        self.inner.is_tls()
    }
}

fn error(slow: TooSlow) -> Error {
    Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, slow))
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: LowSpeed = LowSpeed { limit: 100, time: Duration::from_secs(10) };

    /// Bytes and signs of life a second, for up to so many seconds: how long it lasted.
    fn seconds(bytes: u64, alive: bool, policy: LowSpeed) -> u32 {
        let mut meter = Meter::new();
        for second in 1..=10_000 {
            meter.passed(bytes, Duration::from_secs(1));
            if alive {
                sign_of_life(bytes as usize);
            }
            if meter.check(policy).is_err() {
                return second;
            }
        }
        u32::MAX
    }

    #[test]
    fn slow_connection_lasts_as_long_as_the_policy_says_and_signs_of_life_a_few_times_longer() {
        assert_eq!(seconds(0, false, POLICY), 10);
        assert_eq!(seconds(99, false, POLICY), 10);
        assert_eq!(seconds(100, false, POLICY), u32::MAX);
        assert_eq!(seconds(5, true, POLICY), 60);
        assert_eq!(seconds(1_000_000, true, POLICY), 60);
        assert_eq!(seconds(1, false, LowSpeed { limit: 0, ..POLICY }), u32::MAX);
        assert_eq!(seconds(1, false, LowSpeed { time: Duration::ZERO, ..POLICY }), u32::MAX);
    }

    #[test]
    fn what_comes_is_limited_only_as_long_as_it_was_asked_for() {
        take_from_limit(1 << 40).unwrap();
        at_most(100, || {
            take_from_limit(60).unwrap();
            take_from_limit(40).unwrap();
            take_from_limit(1).unwrap_err();
        });
        take_from_limit(1 << 40).unwrap();
        let panics = || at_most(100, || panic!("as the test wants"));
        std::panic::catch_unwind(panics).unwrap_err();
        take_from_limit(1 << 40).unwrap();
    }

    #[test]
    fn burst_counts_for_one_period_and_data_renews_the_patience() {
        let mut meter = Meter::new();
        let mut second = |bytes, sign| {
            meter.passed(bytes, Duration::from_secs(1));
            if sign {
                sign_of_life(bytes as usize);
            }
            meter.check(POLICY).map_err(|slow| slow.to_string())
        };
        for _ in 0..5 {
            second(10_000_000, false).unwrap();
            (0..9).for_each(|_| second(0, false).unwrap());
        }
        assert!(second(0, false).unwrap_err().starts_with("too slow: 0 bytes in 10 s"));
        for _ in 0..5 {
            second(5000, false).unwrap();
            (0..50).for_each(|_| second(1, true).unwrap());
        }
    }
}
