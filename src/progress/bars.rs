//! Bars on a terminal: one line for each repository under way, and one for all of them.
//!
//! The mirror's threads only add to [`Counters`]; one thread, `progress`, reads them eight times a
//! second and redraws. So a run of a hundred thousand small objects a second costs no more drawing
//! than a slow one, and a slow terminal holds up nobody. It takes the lines in turn: a redraw of one
//! line redraws the block, and with many repositories the terminal would flicker otherwise.
//!
//! Everything else that goes to the terminal while bars are up must go through [`Screen`], which
//! takes the bars away, writes, and draws them again below.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use console::{Term, measure_text_width};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle, TermLike};

use super::counters::{Counters, Counts, bytes, grouped};
use super::watcher::Progress;

/// Redraws a second; more makes a terminal over ssh restless.
const HERTZ: u8 = 8;

/// Columns of a repository's name. With the bar's nine, 18 are left of 50: the percentage and the
/// time left; 48 of 80: the objects, the bytes and the rate too.
const LABEL_COLUMNS: usize = 18;

/// Seconds over which a rate of bytes is smoothed: long enough to be read, short enough to be true.
const SMOOTHING: f64 = 5.0;

/// The same for objects, of which the time left is told: commits come by the thousand, blobs one by
/// one, and a clock that jumps tells nothing.
const LEFT_SMOOTHING: f64 = 30.0;

/// For so long the source's words are news. While objects come they make room for what goes on: most
/// servers say nothing more once they send the pack.
const NEWS: Duration = Duration::from_secs(5);

/// The terminal behind bars, or plain standard error and output when there are none.
#[derive(Clone, Debug, Default)]
pub struct Screen(Option<MultiProgress>);

impl Screen {
    /// Runs `write` with no bar on the terminal. Used for each line that goes to standard output or
    /// error.
    pub fn without_bars<R>(&self, write: impl FnOnce() -> R) -> R {
        match &self.0 {
            Some(multi) => multi.suspend(write),
            None => write(),
        }
    }

    /// Takes the bars away for good.
    pub fn clear(&self) {
        if let Some(multi) = &self.0 {
            // The terminal may be gone: nothing to be done about it.
            let _ = multi.clear();
            multi.set_draw_target(ProgressDrawTarget::hidden());
        }
    }
}

/// Standard error, above the bars: whole lines at a time, so that none is torn.
impl Write for Screen {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.without_bars(|| io::stderr().lock().write_all(text))?;
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// The bars of one run over one or several repositories. They go away when this is dropped.
pub struct Bars {
    shared: Arc<Shared>,
    color: bool,
    ticker: Option<JoinHandle<()>>,
}

/// What the mirror's threads and the drawing thread share.
struct Shared {
    multi: MultiProgress,
    /// Lines of repositories under way, in the order in which they began. [`Bars::repository`]
    /// pushes, [`BarLine`]'s drop removes, the drawing thread reads.
    lines: Mutex<Vec<Arc<Line>>>,
    /// The line about all repositories; none when there is only one.
    all: Option<(ProgressBar, usize)>,
    ended: AtomicUsize,
    stop: AtomicBool,
}

/// One repository's line.
struct Line {
    counters: Counters,
    bar: ProgressBar,
    /// Only the drawing thread takes it.
    pace: Mutex<Pace>,
}

impl Bars {
    /// Bars for `repositories`, on standard error. `force` draws them even if that is no terminal,
    /// as wide as `columns`. Gives `None` if there is nothing to draw on.
    pub fn new(
        repositories: usize,
        force: bool,
        color: bool,
        columns: Option<u16>,
    ) -> Option<Self> {
        let terminal =
            Terminal { term: Term::buffered_stderr(), columns, column: AtomicUsize::new(0) };
        if !force && !terminal.term.features().is_attended() {
            return None;
        }
        // The draw target's own limit must not be ours: it would skip some lines of each round and
        // never come back to them.
        let target = ProgressDrawTarget::term_like_with_hz(Box::new(terminal), HERTZ * 8);
        let multi = MultiProgress::with_draw_target(target);
        let all = (repositories > 1).then(|| {
            let bar = ProgressBar::new_spinner().with_style(style("{wide_msg}"));
            (multi.add(bar), repositories)
        });
        let shared = Arc::new(Shared {
            multi,
            lines: Mutex::default(),
            all,
            ended: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
        });
        let drawing = Arc::clone(&shared);
        // Without the thread the run goes on, without bars.
        let ticker = thread::Builder::new()
            .name("progress".to_owned())
            .spawn(move || drawing.draw_until_stopped())
            .ok()?;
        Some(Bars { shared, color, ticker: Some(ticker) })
    }

    /// The screen to write through while bars are up.
    pub fn screen(&self) -> Screen {
        Screen(Some(self.shared.multi.clone()))
    }

    /// A line for the repository that `label` names. It goes away when the result is dropped.
    pub fn repository(&self, label: &str) -> BarLine {
        let template = if self.color {
            "{prefix:.cyan} {bar:9.green/dim} {wide_msg}"
        } else {
            "{prefix} {bar:9} {wide_msg}"
        };
        let bar = ProgressBar::new(0)
            .with_style(style(template).progress_chars("=> "))
            .with_prefix(tail(label, LABEL_COLUMNS));
        let bar = match &self.shared.all {
            Some((all, _)) => self.shared.multi.insert_before(all, bar),
            None => self.shared.multi.add(bar),
        };
        let pace = Mutex::new(Pace::new(Instant::now()));
        let line = Arc::new(Line { counters: Counters::default(), bar, pace });
        lock(&self.shared.lines).push(Arc::clone(&line));
        BarLine { shared: Arc::clone(&self.shared), line }
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(ticker) = self.ticker.take() {
            ticker.thread().unpark();
            // It can only have panicked, and then there are no bars to take away either.
            let _ = ticker.join();
        }
        self.screen().clear();
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the templates in this file are well-formed")
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn draw_until_stopped(&self) {
        let mut turn = 0;
        while !self.stop.load(Ordering::Relaxed) {
            self.draw_some(&mut turn);
            thread::park_timeout(Duration::from_secs(1) / u32::from(HERTZ));
        }
    }

    /// Draws the lines whose turn it is: one of up to eight, so that each is fresh once a second.
    fn draw_some(&self, turn: &mut usize) {
        let lines = lock(&self.lines).clone();
        let rows = lines.len() + usize::from(self.all.is_some());
        for _ in 0..rows.div_ceil(usize::from(HERTZ)) {
            *turn = (*turn + 1) % rows.max(1);
            match lines.get(*turn) {
                Some(line) => line.draw(Instant::now()),
                None => self.draw_all(lines.len()),
            }
        }
    }

    fn draw_all(&self, under_way: usize) {
        if let Some((bar, repositories)) = &self.all {
            let ended = self.ended.load(Ordering::Relaxed);
            bar.set_message(format!("{ended} of {repositories} done, {under_way} under way"));
            bar.tick();
        }
    }
}

impl Line {
    fn draw(&self, now: Instant) {
        let counts = self.counters.counts();
        let (done, all) = extent(&counts);
        lock(&self.pace).step(now, &counts);
        let text = lock(&self.pace).text(&counts);
        // A length of 0 would be drawn as a full bar.
        self.bar.set_length(all.max(1));
        self.bar.set_position(done.min(all));
        self.bar.set_message(text);
        self.bar.tick();
    }
}

/// How much is done of how much: LFS bytes while they are what is going on, objects otherwise.
fn extent(counts: &Counts) -> (u64, u64) {
    let objects_done = counts.objects >= counts.objects_expected;
    if objects_done && counts.lfs_bytes_expected > 0 {
        (counts.lfs_bytes, counts.lfs_bytes_expected)
    } else {
        (counts.objects, counts.objects_expected)
    }
}

/// Rates, smoothed exponentially.
#[derive(Debug)]
struct Pace {
    at: Instant,
    bytes: u64,
    done: u64,
    all: u64,
    bytes_per_second: f64,
    done_per_second: f64,
    /// Seconds since the rates began: a young average is corrected for its start at zero.
    age: f64,
    /// The source's last words, and since when.
    words: (String, Instant),
    words_are_news: bool,
}

impl Pace {
    fn new(at: Instant) -> Self {
        Pace {
            at,
            bytes: 0,
            done: 0,
            all: 0,
            bytes_per_second: 0.0,
            done_per_second: 0.0,
            age: 0.0,
            words: (String::new(), at),
            words_are_news: true,
        }
    }

    fn step(&mut self, now: Instant, counts: &Counts) {
        if self.words.0 != counts.source_words {
            self.words = (counts.source_words.clone(), now);
        }
        let said = now.saturating_duration_since(self.words.1);
        self.words_are_news = counts.objects == 0 || said < NEWS;
        let seconds = now.saturating_duration_since(self.at).as_secs_f64();
        if seconds < 0.05 {
            return;
        }
        let (done, all) = extent(counts);
        let bytes = counts.bytes_received + counts.lfs_bytes;
        if done < self.done || (self.all == 0 && all > 0) {
            // From objects to LFS bytes, or the waiting is over: another unit, another clock.
            let (words, words_are_news) = (self.words.clone(), self.words_are_news);
            *self = Pace { at: now, bytes, done, all, words, words_are_news, ..Pace::new(now) };
            return;
        }
        let weight = |smoothing: f64| 1.0 - (-seconds / smoothing).exp();
        let rate = |now: u64, then: u64| now.saturating_sub(then) as f64 / seconds;
        self.bytes_per_second +=
            weight(SMOOTHING) * (rate(bytes, self.bytes) - self.bytes_per_second);
        self.done_per_second +=
            weight(LEFT_SMOOTHING) * (rate(done, self.done) - self.done_per_second);
        self.age += seconds;
        (self.at, self.bytes, self.done, self.all) = (now, bytes, done, all);
    }

    /// What the averages would be had they not started at zero.
    fn corrected(&self, rate: f64, smoothing: f64) -> f64 {
        if self.age > 0.0 { rate / (1.0 - (-self.age / smoothing).exp()) } else { 0.0 }
    }

    fn seconds_left(&self, counts: &Counts) -> Option<u64> {
        let (done, all) = extent(counts);
        let rate = self.corrected(self.done_per_second, LEFT_SMOOTHING);
        // Two seconds of looking make a guess; one below one a day does not.
        (all > done && self.age >= 2.0 && rate > 1e-5)
            .then(|| (all.saturating_sub(done) as f64 / rate).min(360_000.0).round() as u64)
    }

    /// The line after its bar; what matters least stands last, where a narrow terminal cuts.
    fn text(&self, counts: &Counts) -> String {
        let mut parts = Vec::new();
        let (done, all) = extent(counts);
        if all > 0 {
            parts.push(format!("{}%", u128::from(done) * 100 / u128::from(all)));
        }
        if let Some(seconds) = self.seconds_left(counts) {
            parts.push(format!("{} left", clock(seconds)));
        }
        if counts.objects_expected > 0 {
            let all = grouped(counts.objects_expected);
            parts.push(format!("{}/{all}", grouped(counts.objects)));
        }
        if counts.bytes_received > 0 {
            let rate = self.corrected(self.bytes_per_second, SMOOTHING) as u64;
            parts.push(format!("{}, {}/s", bytes(counts.bytes_received), bytes(rate)));
        }
        if counts.lfs_bytes_expected > 0 {
            let all = bytes(counts.lfs_bytes_expected);
            parts.push(format!("LFS {} of {all}", bytes(counts.lfs_bytes)));
        }
        if !counts.source_words.is_empty() && self.words_are_news {
            parts.push(format!("remote: {}", counts.source_words));
        } else if !counts.phase.is_empty() {
            parts.push(counts.phase.clone());
        }
        parts.join("  ")
    }
}

/// `0:07`, `12:34`, `1:02:03`.
fn clock(seconds: u64) -> String {
    let (minutes, rest) = (seconds / 60, seconds % 60);
    match minutes / 60 {
        0 => format!("{minutes}:{rest:02}"),
        hours => format!("{hours}:{:02}:{rest:02}", minutes % 60),
    }
}

/// The last `width` characters of `text`, where the repository's own name is; padded to `width`.
fn tail(text: &str, width: usize) -> String {
    let text: String = text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    match text.char_indices().rev().nth(width - 1) {
        Some((0, _)) | None => format!("{text:width$}"),
        Some((start, sign)) => format!("…{}", &text[start + sign.len_utf8()..]),
    }
}

/// One repository's progress, drawn as a bar. Dropping it takes its line away.
pub struct BarLine {
    shared: Arc<Shared>,
    line: Arc<Line>,
}

impl Drop for BarLine {
    fn drop(&mut self) {
        lock(&self.shared.lines).retain(|line| !Arc::ptr_eq(line, &self.line));
        self.shared.ended.fetch_add(1, Ordering::Relaxed);
        self.line.bar.finish_and_clear();
        self.shared.multi.remove(&self.line.bar);
    }
}

impl Progress for BarLine {
    fn expect_objects(&self, entries: u64) {
        self.line.counters.expect_objects(entries);
    }

    fn received(&self, bytes: u64) {
        self.line.counters.received(bytes);
    }

    fn objects_done(&self, count: u64) {
        self.line.counters.objects_done(count);
    }

    fn stored(&self, bytes: u64) {
        self.line.counters.stored(bytes);
    }

    fn expect_lfs(&self, bytes: u64) {
        self.line.counters.expect_lfs(bytes);
    }

    fn lfs_received(&self, bytes: u64) {
        self.line.counters.lfs_received(bytes);
    }

    fn source_says(&self, line: &str) {
        self.line.counters.source_says(line);
    }

    fn phase(&self, what: &str) {
        self.line.counters.phase(what);
    }
}

/// Standard error as indicatif sees it: a few columns narrower than it is.
///
/// indicatif leaves the cursor at the right edge, and the `^C` that a terminal echoes there would
/// wrap: the cursor would be a line lower than indicatif believes, and a bar would stay behind.
/// Since it also counts on each full line to wrap by itself, which a narrower one does not, the line
/// feeds are sent here.
#[derive(Debug)]
struct Terminal {
    term: Term,
    /// The width to assume if it is no terminal (`--progress always` into a file).
    columns: Option<u16>,
    /// Columns written on the row where the cursor is. Only one thread draws at a time.
    column: AtomicUsize,
}

/// Room for `^C` and the cursor.
const ECHO_COLUMNS: u16 = 3;

impl TermLike for Terminal {
    fn width(&self) -> u16 {
        let columns = match (self.term.features().is_attended(), self.columns) {
            (false, Some(columns)) => columns,
            _ => self.term.size().1,
        };
        columns.saturating_sub(ECHO_COLUMNS).max(1)
    }

    fn height(&self) -> u16 {
        self.term.size().0
    }

    fn move_cursor_up(&self, n: usize) -> io::Result<()> {
        self.term.move_cursor_up(n)
    }

    fn move_cursor_down(&self, n: usize) -> io::Result<()> {
        self.term.move_cursor_down(n)
    }

    fn move_cursor_right(&self, n: usize) -> io::Result<()> {
        self.term.move_cursor_right(n)
    }

    fn move_cursor_left(&self, n: usize) -> io::Result<()> {
        self.term.move_cursor_left(n)
    }

    fn write_line(&self, s: &str) -> io::Result<()> {
        self.write_str(s)?;
        self.column.store(0, Ordering::Relaxed);
        self.term.write_line("")
    }

    fn write_str(&self, s: &str) -> io::Result<()> {
        if s == "\r" {
            self.column.store(0, Ordering::Relaxed);
        } else if !s.is_empty() {
            // A line that is longer (drawn before the terminal shrank) is filled up to whole rows.
            let column = self.column.load(Ordering::Relaxed);
            if column > 0 && column.is_multiple_of(usize::from(self.width())) {
                self.column.store(0, Ordering::Relaxed);
                self.term.write_line("")?;
            }
            self.column.fetch_add(measure_text_width(s), Ordering::Relaxed);
        }
        self.term.write_str(s)
    }

    fn clear_line(&self) -> io::Result<()> {
        self.column.store(0, Ordering::Relaxed);
        self.term.clear_line()
    }

    fn flush(&self) -> io::Result<()> {
        self.term.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(objects: u64, bytes_received: u64) -> Counts {
        Counts { objects, objects_expected: 1000, bytes_received, ..Counts::default() }
    }

    /// A pace after `seconds` of a steady 10 objects and 1 MiB a second.
    fn steady(seconds: u64) -> (Pace, Counts) {
        let begin = Instant::now();
        let mut pace = Pace::new(begin);
        pace.all = 1000;
        for second in 1..=seconds {
            pace.step(begin + Duration::from_secs(second), &counts(second * 10, second << 20));
        }
        (pace, counts(seconds * 10, seconds << 20))
    }

    #[test]
    fn a_steady_rate_is_shown_as_it_is_from_the_beginning() {
        for seconds in [2, 5, 60] {
            let (pace, counts) = steady(seconds);
            assert_eq!(pace.seconds_left(&counts), Some(100 - seconds), "{seconds}");
            let text = pace.text(&counts);
            assert!(text.contains("MiB, 1.0 MiB/s"), "{text}");
        }
    }

    #[test]
    fn no_time_is_left_to_tell_before_the_first_seconds_or_at_the_end() {
        let (pace, counts_now) = steady(1);
        assert_eq!(pace.seconds_left(&counts_now), None);
        let (pace, _) = steady(10);
        assert_eq!(pace.seconds_left(&counts(1000, 0)), None);
        let idle = Pace::new(Instant::now());
        assert_eq!(idle.seconds_left(&counts(10, 0)), None);
    }

    #[test]
    fn the_line_begins_with_what_matters_most() {
        let (mut pace, mut counts) = steady(60);
        counts.phase = "receiving".to_owned();
        assert_eq!(pace.text(&counts), "60%  0:40 left  600/1,000  60.0 MiB, 1.0 MiB/s  receiving");
        counts.source_words = "Compressing objects: 100% (7/7)".to_owned();
        pace.step(pace.at, &counts);
        assert!(pace.text(&counts).ends_with("  remote: Compressing objects: 100% (7/7)"));
        let waiting = Counts { phase: "asking for refs".to_owned(), ..Counts::default() };
        assert_eq!(pace.text(&waiting), "asking for refs");
    }

    #[test]
    fn words_of_the_source_make_room_when_objects_come() {
        let begin = Instant::now();
        let mut pace = Pace::new(begin);
        let mut counts = Counts { phase: "mirroring".to_owned(), ..counts(0, 0) };
        counts.source_words = "Enumerating objects: 7, done.".to_owned();
        let mut after = |seconds, counts: &Counts| {
            pace.step(begin + Duration::from_secs(seconds), counts);
            pace.text(counts)
        };
        assert!(after(1, &counts).ends_with("remote: Enumerating objects: 7, done."));
        assert!(after(60, &counts).contains("remote: "), "nothing has come yet");
        counts.objects = 10;
        assert!(after(61, &counts).ends_with("  mirroring"));
        counts.source_words = "Total 7 (delta 3)".to_owned();
        assert!(after(62, &counts).ends_with("  remote: Total 7 (delta 3)"));
        assert!(after(66, &counts).ends_with("  remote: Total 7 (delta 3)"));
        assert!(after(67, &counts).ends_with("  mirroring"));
    }

    #[test]
    fn lfs_bytes_count_when_the_objects_are_done() {
        let mut counts = Counts { objects: 5, objects_expected: 9, ..Counts::default() };
        (counts.lfs_bytes, counts.lfs_bytes_expected) = (100, 400);
        assert_eq!(extent(&counts), (5, 9));
        counts.objects = 9;
        assert_eq!(extent(&counts), (100, 400));
        let text = Pace::new(Instant::now()).text(&counts);
        assert_eq!(text, "25%  9/9  LFS 100 bytes of 400 bytes");
    }

    #[test]
    fn a_long_name_keeps_its_end_and_control_characters_are_shown() {
        assert_eq!(tail("abc", 5), "abc  ");
        assert_eq!(tail("abcde", 5), "abcde");
        assert_eq!(tail("https://h/group/näme.git", 9), "…näme.git");
        assert_eq!(tail("a\x1bb", 3), "a\u{fffd}b");
    }

    #[test]
    fn time_left_is_a_clock() {
        assert_eq!([7, 754, 3_723].map(clock), ["0:07", "12:34", "1:02:03"]);
    }
}
