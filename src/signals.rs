//! SIGINT, SIGTERM and SIGHUP: the first asks the run to stop and clean up, the second ends it at once.
//!
//! A thread, `signals`, waits for them; it ends with the process. SIGPIPE stays ignored, as Rust
//! starts every program: a closed standard output is an ordinary write error, which the report
//! passes over, so that `… | head` does not end a mirror half-way.
//!
//! **Ending within five seconds.** The flag in [`Cancel`] is enough for threads that run or wait for
//! each other; a thread that waits in a socket does not see it. So a second thread, `deadline`, ends
//! those waits from outside, by shutting the sockets down: the source's at once, as nothing more is
//! wanted of it; the store's after `STORE_GRACE`, so that most requests under way can end, and
//! then the uploads are aborted and the temporary keys deleted over new connections. What hangs even
//! then is left: the process exits after `LAST`, and the next run cleans up. The alternatives that
//! were weighed: a thread for every stream that is left behind when it hangs (a copy more for every
//! byte, and no help while an answer's beginning is awaited), and short time-outs of reads (they end
//! the connection in ureq). Who uses the library alone does the same: [`Cancel::cancel`], then
//! [`Client::cut`].

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::thread;
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::exit_code::ExitCode;
use crate::http::Client;
use crate::progress::Screen;
use crate::run::Cancel;

/// How long requests to the store may continue after the signal.
const STORE_GRACE: Duration = Duration::from_millis(1500);

/// How long cleaning up may take after that.
const CLEANING: Duration = Duration::from_millis(2500);

/// And then, to tell the result, before the process exits in any case.
const LAST: Duration = Duration::from_millis(600);

/// Remembers which signal came first.
#[derive(Clone, Debug, Default)]
pub struct Interruption(Arc<AtomicI32>);

impl Interruption {
    /// The exit code of the signal that came, if one did.
    pub fn exit_code(&self) -> Option<ExitCode> {
        ExitCode::of_signal(self.0.load(Ordering::Relaxed))
    }
}

/// Begins to listen, and cuts the connections of `source` and `store` when the time has come. On the
/// second signal the bars are taken from `screen` and the process exits with that signal's code,
/// without cleaning up; the next run does that.
pub fn listen(
    cancel: Cancel,
    screen: Screen,
    source: Client,
    store: Client,
) -> io::Result<Interruption> {
    let interruption = Interruption::default();
    let first = Arc::clone(&interruption.0);
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    // Under `nohup` it is ignored, and stays so.
    if !is_ignored(SIGHUP) {
        signals.add_signal(SIGHUP)?;
    }
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in signals.forever() {
            let before = first.compare_exchange(0, signal, Ordering::Relaxed, Ordering::Relaxed);
            if before.is_err() {
                exit(signal, &screen);
            }
            cancel.cancel();
            log::warn!("interrupted: cleaning up; press again to stop immediately");
            let (source, store, screen) = (source.clone(), store.clone(), screen.clone());
            let deadline = move || {
                source.cut();
                thread::sleep(STORE_GRACE);
                store.cut();
                thread::sleep(CLEANING);
                store.cut();
                thread::sleep(LAST);
                log::warn!("cannot clean up in time; the next run will");
                exit(signal, &screen);
            };
            if let Err(error) = thread::Builder::new().name("deadline".into()).spawn(deadline) {
                log::warn!("cannot start a thread: {error}; waiting for requests in flight");
            }
        }
    })?;
    Ok(interruption)
}

/// Was this process started with `signal` ignored? What can't be found out is no.
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

fn exit(signal: i32, screen: &Screen) -> ! {
    screen.clear();
    let code = ExitCode::of_signal(signal).unwrap_or(ExitCode::Interrupted);
    signal_hook::low_level::exit(code.code().into())
}
