//! Reads the source ahead of the reader, and never lets it wait for long.
//!
//! While the store is slow the reader waits for room, perhaps for as long as a part of a pack takes to
//! be uploaded: minutes on a thin line. A source whose bytes nobody takes hangs up (nginx after 60 s).
//! So a thread of its own reads it into a queue: as fast as it can while that is less than a quarter
//! full, and then [`PIECE_BYTES`] every [`PAUSE`], until it is full.
//!
//! That is not less because the sender sees none of what lies in the two kernels' buffers: Linux opens
//! a full receive window again when a sixteenth of the buffer is free, and lets a sender write when a
//! third of its own is. With the usual limits of 6 and 4 MiB, those are 1.7 MiB in nginx's minute.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What is read in each [`PAUSE`] while the store is slow.
const PIECE_BYTES: usize = 64 << 10;

/// See [`PIECE_BYTES`]. Three quarters of a queue of 4 MiB last for 48 s.
const PAUSE: Duration = Duration::from_secs(1);

/// The bytes between the thread `source` and the reader.
pub(super) struct Queue {
    capacity: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    bytes: VecDeque<u8>,
    /// How the stream ended, for the reader to take once it has taken the bytes.
    end: Option<io::Result<()>>,
    reader_has_left: bool,
}

impl Queue {
    /// For `capacity` bytes, at least four pieces.
    pub(super) fn new(capacity: u64) -> Self {
        let capacity = (capacity as usize).max(4 * PIECE_BYTES);
        Queue { capacity, state: Mutex::default(), changed: Condvar::new() }
    }

    /// Would the reader have to wait?
    pub(super) fn is_empty(&self) -> bool {
        let state = self.state();
        state.bytes.is_empty() && state.end.is_none()
    }

    /// The thread's work: ends with the stream, or when the reader has left.
    pub(super) fn fill(&self, stream: impl Read) {
        let end = catch_unwind(AssertUnwindSafe(|| self.copy(stream)))
            .unwrap_or_else(|_| Err(io::Error::other("the thread that reads the source panicked")));
        self.state().end = Some(end);
        self.changed.notify_all();
    }

    fn copy(&self, mut stream: impl Read) -> io::Result<()> {
        let mut piece = vec![0; PIECE_BYTES];
        // A piece may come in several reads, each of which is passed on at once.
        let mut wanted = 0;
        while wanted > 0 || self.wait_for_room() {
            if wanted == 0 {
                wanted = PIECE_BYTES;
            }
            let read = match stream.read(&mut piece[..wanted]) {
                Ok(0) => return Ok(()),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            wanted -= read;
            self.state().bytes.extend(&piece[..read]);
            self.changed.notify_all();
        }
        Ok(())
    }

    /// Until less than a quarter is taken; or, after a pause, until one more piece fits. `false`:
    /// nobody reads anymore.
    fn wait_for_room(&self) -> bool {
        let over = |held_bytes: usize| {
            move |state: &mut State| state.bytes.len() > held_bytes && !state.reader_has_left
        };
        let (state, waited) = self
            .changed
            .wait_timeout_while(self.state(), PAUSE, over(self.capacity / 4))
            .unwrap_or_else(PoisonError::into_inner);
        if !waited.timed_out() {
            return !state.reader_has_left;
        }
        let state = self.changed.wait_while(state, over(self.capacity - PIECE_BYTES));
        !state.unwrap_or_else(PoisonError::into_inner).reader_has_left
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The stream, as the reader sees it. Its drop ends the thread, once a read that is under way has
/// come back.
pub(super) struct Ahead<'q>(pub(super) &'q Queue);

impl Read for Ahead<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let state = self.0.state();
        let mut state = self
            .0
            .changed
            .wait_while(state, |state| state.bytes.is_empty() && state.end.is_none())
            .unwrap_or_else(PoisonError::into_inner);
        if state.bytes.is_empty() {
            // The end is reported for as long as somebody asks, an error once.
            return state.end.replace(Ok(())).unwrap_or(Ok(())).map(|()| 0);
        }
        let read = state.bytes.read(buffer)?;
        drop(state);
        self.0.changed.notify_all();
        Ok(read)
    }
}

impl Drop for Ahead<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.reader_has_left = true;
        // There is a use for the memory.
        state.bytes = VecDeque::new();
        drop(state);
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Instant;

    /// Runs `work` on what `stream` gives, read ahead by up to `capacity` bytes.
    fn ahead<T>(
        stream: impl Read + Send,
        capacity: u64,
        work: impl FnOnce(&mut Ahead<'_>) -> T,
    ) -> T {
        let queue = Queue::new(capacity);
        std::thread::scope(|scope| {
            scope.spawn(|| queue.fill(stream));
            work(&mut Ahead(&queue))
        })
    }

    #[test]
    fn bytes_come_as_they_are_and_then_the_end_or_the_error() {
        let bytes: Vec<u8> = (0..300_000_u32).map(|n| n as u8).collect();
        for capacity in [0, 100_000, 1 << 20] {
            let mut got = Vec::new();
            ahead(&bytes[..], capacity, |ahead| {
                ahead.read_to_end(&mut got).unwrap();
                assert_eq!(ahead.read(&mut [0]).unwrap(), 0);
            });
            assert!(got == bytes);
        }
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("broken"))
            }
        }
        let mut got = Vec::new();
        let stream = (&bytes[..10]).chain(Broken);
        let error = ahead(stream, 0, |ahead| ahead.read_to_end(&mut got)).unwrap_err();
        assert_eq!((got.len(), error.to_string()), (10, "broken".into()));
    }

    #[test]
    fn a_panic_of_the_stream_is_an_error() {
        struct Panics;
        impl Read for Panics {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                panic!("as the test wants");
            }
        }
        let error = ahead(Panics, 0, |ahead| ahead.read(&mut [0])).unwrap_err();
        assert!(error.to_string().contains("panicked"), "{error}");
    }

    /// Fills every buffer without end, and counts how often.
    struct Counting<'c>(&'c AtomicUsize);

    impl Read for Counting<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.0.fetch_add(1, Ordering::SeqCst);
            Ok(buffer.len())
        }
    }

    const CAPACITY: u64 = 12 * PIECE_BYTES as u64;

    #[test]
    fn a_source_is_read_on_while_the_reader_waits_and_let_go_when_it_leaves() {
        let reads = AtomicUsize::new(0);
        let read = || reads.load(Ordering::SeqCst);
        let begun = Instant::now();
        ahead(Counting(&reads), CAPACITY, |_| {
            while read() < 6 {
                std::thread::sleep(Duration::from_millis(10));
            }
            // A quarter of the queue went at once, and one piece more; the rest takes its time.
            assert!(read() < 12 && begun.elapsed() >= 2 * PAUSE, "{:?}", begun.elapsed());
            std::thread::sleep(9 * PAUSE);
            assert_eq!(read(), 12, "less, or more than there is room for");
        });
    }

    /// The queue is over a quarter full whenever the thread looks, and it must not pause for that.
    #[test]
    fn a_reader_that_keeps_up_is_never_made_to_wait() {
        let reads = AtomicUsize::new(0);
        let begun = Instant::now();
        ahead(Counting(&reads), CAPACITY, |ahead| {
            while reads.load(Ordering::SeqCst) < 4 {
                std::thread::yield_now();
            }
            let mut buffer = vec![0; 3 * PIECE_BYTES];
            for _ in 0..10_000 {
                assert!(ahead.read(&mut buffer).unwrap() > 0);
            }
        });
        // A hundredth of the pauses that would have been.
        assert!(begun.elapsed() < 100 * PAUSE, "{:?}", begun.elapsed());
    }
}
