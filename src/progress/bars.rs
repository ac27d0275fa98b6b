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
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use console::{Term, measure_text_width};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle, TermLike};

use super::counters::{Counters, Counts, bytes, grouped};
use super::watcher::Progress;

/// Redraws a second; more makes a terminal over ssh restless.
const HERTZ: u8 = 8;

/// Columns of a repository's name on a narrow terminal. With the bar's nine, 52 of 80 remain for the
/// percentage, the time, the phase and the rate.
const LABEL_COLUMNS: usize = 14;

/// Columns for everything but the name: what a wider terminal has beside them is the name's.
const REST_COLUMNS: usize = 78;

/// The same while no line has a bar: a spinner, the time and a phase.
const FEW_COLUMNS: usize = 40;

/// Seconds over which a rate of bytes is smoothed: long enough to be read, short enough to be true.
const SMOOTHING: f64 = 5.0;

/// The same for objects, of which the time left is reported: commits come by the thousand, blobs one by
/// one, and a clock that jumps tells nothing.
const LEFT_SMOOTHING: f64 = 30.0;

/// What has not grown for so many seconds does not move.
const IDLE: f64 = 3.0;

/// For so long the source's words are news. While objects come they make room for what continues: most
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
    ticker: Option<JoinHandle<()>>,
}

/// What the mirror's threads and the drawing thread share.
struct Shared {
    multi: MultiProgress,
    /// Lines of repositories under way, in the order in which they began. [`Bars::repository`]
    /// pushes, [`BarLine`]'s drop removes, the drawing thread reads.
    lines: Mutex<Vec<Arc<Line>>>,
    /// How wide a line may be, as of the last drawing.
    width: Arc<AtomicU16>,
    /// Requests that wait to be sent again.
    waiting: fn() -> usize,
    color: bool,
    /// The line about all repositories; none when there is only one.
    all: Option<(ProgressBar, usize)>,
    ended: AtomicUsize,
    stop: AtomicBool,
}

/// One repository's line.
struct Line {
    label: String,
    counters: Counters,
    bar: ProgressBar,
    /// Only the drawing thread takes it.
    pace: Mutex<Pace>,
}

impl Bars {
    /// Bars for `repositories`, on standard error. `force` draws them even if that is no terminal,
    /// as wide as `columns`. `waiting` says how many requests wait to be sent again. Gives `None` if
    /// there is nothing to draw on.
    pub fn new(
        repositories: usize,
        force: bool,
        color: bool,
        columns: Option<u16>,
        waiting: fn() -> usize,
    ) -> Option<Self> {
        let terminal = Terminal::new(columns);
        let width = Arc::clone(&terminal.last_width);
        terminal.width();
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
            width,
            waiting,
            color,
            all,
            ended: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
        });
        let drawing = Arc::clone(&shared);
        // Without the thread the run continues, without bars.
        let ticker = thread::Builder::new()
            .name("progress".to_owned())
            .spawn(move || drawing.draw_until_stopped())
            .ok()?;
        Some(Bars { shared, ticker: Some(ticker) })
    }

    /// The screen to write through while bars are up.
    pub fn screen(&self) -> Screen {
        Screen(Some(self.shared.multi.clone()))
    }

    /// A line for the repository that `label` names. It goes away when the result is dropped.
    pub fn repository(&self, label: &str) -> BarLine {
        let bar = ProgressBar::new(0).with_style(look(false, self.shared.color));
        let bar = match &self.shared.all {
            Some((all, _)) => self.shared.multi.insert_before(all, bar),
            None => self.shared.multi.add(bar),
        };
        let pace = Mutex::new(Pace::new(Instant::now()));
        let label = label.to_owned();
        let line = Arc::new(Line { label, counters: Counters::default(), bar, pace });
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

/// A bar, or a spinner while nothing is known of how much there is to do.
fn look(has_extent: bool, color: bool) -> ProgressStyle {
    style(match (has_extent, color) {
        (true, true) => "{prefix:.cyan} {bar:9.green/dim} {wide_msg}",
        (true, false) => "{prefix} {bar:9} {wide_msg}",
        (false, true) => "{prefix:.cyan} {spinner:.green} {wide_msg}",
        (false, false) => "{prefix} {spinner} {wide_msg}",
    })
    .progress_chars("=> ")
    .tick_chars("|/-\\ ")
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
                Some(line) => {
                    let longest = lines.iter().map(|line| measure_text_width(&line.label)).max();
                    let has_bar = lines.iter().any(|line| lock(&line.pace).has_extent());
                    let rest = if has_bar { REST_COLUMNS } else { FEW_COLUMNS };
                    let columns = label_columns(self.columns(), rest, longest.unwrap_or(0));
                    line.bar.set_prefix(tail(&line.label, columns));
                    // With several repositories this is for the line about all of them.
                    let waiting = if self.all.is_none() { (self.waiting)() } else { 0 };
                    line.draw(Instant::now(), waiting, self.color);
                }
                None => self.draw_all(lines.len()),
            }
        }
    }

    fn columns(&self) -> usize {
        usize::from(self.width.load(Ordering::Relaxed))
    }

    fn draw_all(&self, under_way: usize) {
        if let Some((bar, repositories)) = &self.all {
            let ended = self.ended.load(Ordering::Relaxed);
            let mut text = format!("{ended} of {repositories} done, {under_way} under way");
            if let Some(words) = waiting_words((self.waiting)()) {
                text = format!("{text}, {words}");
            }
            bar.set_message(text);
            bar.tick();
        }
    }
}

impl Line {
    fn draw(&self, now: Instant, waiting: usize, color: bool) {
        let counts = self.counters.counts();
        let (done, all) = extent(&counts);
        let mut pace = lock(&self.pace);
        let had_extent = pace.has_extent();
        pace.step(now, &counts);
        if pace.has_extent() != had_extent {
            self.bar.set_style(look(pace.has_extent(), color));
        }
        let text = pace.text(&counts, waiting);
        // A length of 0 would be drawn as a full bar.
        self.bar.set_length(all.max(1));
        self.bar.set_position(done.min(all));
        self.bar.set_message(text);
        self.bar.tick();
    }
}

/// Columns for the names: all of the longest one, where there is room for it beside the rest.
fn label_columns(terminal: usize, rest: usize, longest: usize) -> usize {
    longest.min(LABEL_COLUMNS.max(terminal.saturating_sub(rest))).max(1)
}

/// `retrying 2 requests`.
fn waiting_words(waiting: usize) -> Option<String> {
    match waiting {
        0 => None,
        1 => Some("retrying 1 request".to_owned()),
        many => Some(format!("retrying {} requests", grouped(many as u64))),
    }
}

/// How much is done of how much: LFS bytes while they are what is running, objects otherwise.
fn extent(counts: &Counts) -> (u64, u64) {
    let objects_done = counts.objects >= counts.objects_expected;
    if objects_done && counts.lfs_bytes_expected > 0 {
        (counts.lfs_bytes, counts.lfs_bytes_expected)
    } else {
        (counts.objects, counts.objects_expected)
    }
}

/// A rate, smoothed exponentially.
#[derive(Debug)]
struct Rate {
    smoothing: f64,
    last: u64,
    smoothed: f64,
    /// Seconds since it began: a young average is corrected for its start at zero.
    age: f64,
    /// Seconds since the value grew last.
    idle: f64,
}

impl Rate {
    /// Smoothed over so many seconds, of a value that is `last` now.
    fn new(smoothing: f64, last: u64) -> Self {
        Rate { smoothing, last, smoothed: 0.0, age: 0.0, idle: f64::INFINITY }
    }

    fn step(&mut self, value: u64, seconds: f64) {
        if value == 0 {
            // It has not started.
            return;
        }
        let now = value.saturating_sub(self.last) as f64 / seconds;
        let weight = 1.0 - (-seconds / self.smoothing).exp();
        self.smoothed += weight * (now - self.smoothed);
        self.idle = if value > self.last { 0.0 } else { self.idle + seconds };
        self.age += seconds;
        self.last = value;
    }

    /// What the average would be had it not started at zero.
    fn per_second(&self) -> f64 {
        let known = 1.0 - (-self.age / self.smoothing).exp();
        if self.age > 0.0 { self.smoothed / known } else { 0.0 }
    }

    fn is_moving(&self) -> bool {
        self.idle < IDLE
    }
}

/// What is reported about one repository, from what its counters were over time.
#[derive(Debug)]
struct Pace {
    begun: Instant,
    at: Instant,
    all: u64,
    received: Rate,
    stored: Rate,
    lfs: Rate,
    /// Objects, or LFS bytes while they are what is counted.
    done: Rate,
    /// The source's last words, and since when.
    words: (String, Instant),
    words_are_news: bool,
}

impl Pace {
    fn new(at: Instant) -> Self {
        Pace {
            begun: at,
            at,
            all: 0,
            received: Rate::new(SMOOTHING, 0),
            stored: Rate::new(SMOOTHING, 0),
            lfs: Rate::new(SMOOTHING, 0),
            done: Rate::new(LEFT_SMOOTHING, 0),
            words: (String::new(), at),
            words_are_news: true,
        }
    }

    /// Is it known how much there is to do?
    fn has_extent(&self) -> bool {
        self.all > 0
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
        self.received.step(counts.bytes_received, seconds);
        self.stored.step(counts.bytes_stored, seconds);
        self.lfs.step(counts.lfs_bytes, seconds);
        if done < self.done.last || (self.all == 0 && all > 0) {
            // From objects to LFS bytes, or the waiting is over: another unit, another clock.
            self.done = Rate::new(LEFT_SMOOTHING, done);
        } else {
            self.done.step(done, seconds);
        }
        (self.at, self.all) = (now, all);
    }

    fn seconds_left(&self, counts: &Counts) -> Option<u64> {
        let (done, all) = extent(counts);
        let rate = self.done.per_second();
        // Two seconds of looking make a guess; one below one a day does not.
        (all > done && self.done.age >= 2.0 && rate > 1e-5)
            .then(|| (all.saturating_sub(done) as f64 / rate).min(360_000.0).round() as u64)
    }

    /// The line after its bar; what matters least stands last, where a narrow terminal cuts.
    fn text(&self, counts: &Counts, waiting: usize) -> String {
        let mut parts = Vec::new();
        let (done, all) = extent(counts);
        if all > 0 {
            parts.push(format!("{}%", u128::from(done) * 100 / u128::from(all)));
        }
        let elapsed = clock(self.at.saturating_duration_since(self.begun).as_secs());
        parts.push(match self.seconds_left(counts) {
            Some(seconds) => format!("{elapsed}, ETA {}", clock(seconds)),
            None => elapsed,
        });
        parts.extend(waiting_words(waiting));
        let activity = self.activity(counts);
        parts.push(match self.moving(counts) {
            Some(moving) if activity.is_empty() => moving,
            Some(moving) => format!("{activity} {moving}"),
            None => activity.to_owned(),
        });
        if counts.objects_expected > 0 {
            let all = grouped(counts.objects_expected);
            parts.push(format!("{}/{all}", grouped(counts.objects)));
        }
        if counts.lfs_bytes_expected > 0 {
            let all = bytes(counts.lfs_bytes_expected);
            parts.push(format!("LFS {} of {all}", bytes(counts.lfs_bytes)));
        }
        if !counts.source_words.is_empty() && self.words_are_news {
            parts.push(format!("remote: {}", counts.source_words));
        }
        parts.retain(|part| !part.is_empty());
        parts.join("  ")
    }

    /// What the run is at, in a word or two. Receiving, resolving and storing continue at the same time,
    /// so it is the first of them that still moves.
    fn activity<'c>(&self, counts: &'c Counts) -> &'c str {
        if counts.phase != MIRRORING {
            return &counts.phase;
        }
        let has_objects_left = counts.objects < counts.objects_expected;
        if counts.bytes_received == 0 {
            "waiting for the source"
        } else if self.received.is_moving() {
            "receiving"
        } else if self.lfs.is_moving() && !has_objects_left {
            "fetching LFS objects"
        } else if self.stored.is_moving() {
            "storing"
        } else if self.done.is_moving() {
            "resolving"
        } else if has_objects_left {
            "waiting for the source"
        } else {
            "waiting for the store"
        }
    }

    /// How much of it there is, and its rate.
    fn moving(&self, counts: &Counts) -> Option<String> {
        let ways = [
            (&self.received, counts.bytes_received),
            (&self.lfs, counts.lfs_bytes),
            (&self.stored, counts.bytes_stored),
        ];
        let (rate, sum) = ways.into_iter().find(|(rate, _)| rate.is_moving())?;
        Some(format!("{}, {}/s", bytes(sum), bytes(rate.per_second() as u64)))
    }
}

/// The phase in which a pack is received, resolved and stored at the same time.
const MIRRORING: &str = "mirroring";

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
/// wrap: the cursor would be a line lower than indicatif believes, and a bar would stay behind. So the
/// blanks with which it fills a line are not written. Because it also counts on each full line to wrap by
/// itself, which a narrower one does not, the line feeds are sent here.
///
/// A terminal that shrinks wraps the lines that are longer than it is now, and indicatif does not know:
/// it would go up too few rows and leave stale ones. So the widths of the rows are kept, and before the
/// next drawing the cursor goes up by as many rows as they take now. (A terminal that cuts lines instead
/// loses as many rows above the bars.)
#[derive(Debug)]
struct Terminal {
    term: Term,
    /// The width to assume if it is no terminal (`--progress always` into a file).
    columns: Option<u16>,
    /// What [`TermLike::width`] said last.
    last_width: Arc<AtomicU16>,
    /// Only one thread draws at a time.
    frame: Mutex<Frame>,
}

/// What was drawn.
#[derive(Debug, Default)]
struct Frame {
    /// Columns of text in each row.
    rows: Vec<usize>,
    /// Columns of the last row as indicatif counts them, with the blanks that fill it.
    column: usize,
    is_drawn: bool,
}

impl Frame {
    /// How many more rows there are once the terminal has only so many columns.
    fn rows_more(&self, columns: usize) -> usize {
        self.rows.iter().map(|row| row.div_ceil(columns.max(1)).saturating_sub(1)).sum()
    }

    fn add(&mut self, text: &str) {
        let width = measure_text_width(text);
        self.column += width;
        if let Some(row) = self.rows.last_mut().filter(|_| !is_filler(text)) {
            *row += width;
        }
    }

    fn begin_row(&mut self) {
        self.rows.push(0);
        self.column = 0;
    }
}

/// Blanks up to the right edge?
fn is_filler(text: &str) -> bool {
    text.bytes().all(|byte| byte == b' ')
}

/// Room for `^C` and the cursor.
const ECHO_COLUMNS: u16 = 3;

impl Terminal {
    fn new(columns: Option<u16>) -> Self {
        let last_width = Arc::new(AtomicU16::new(80));
        Terminal { term: Term::buffered_stderr(), columns, last_width, frame: Mutex::default() }
    }

    /// As wide as it is.
    fn real_width(&self) -> u16 {
        match (self.term.features().is_attended(), self.columns) {
            (false, Some(columns)) => columns,
            _ => self.term.size().1,
        }
    }
}

impl TermLike for Terminal {
    fn width(&self) -> u16 {
        let width = self.real_width().saturating_sub(ECHO_COLUMNS).max(1);
        self.last_width.store(width, Ordering::Relaxed);
        width
    }

    fn height(&self) -> u16 {
        self.term.size().0
    }

    fn move_cursor_up(&self, n: usize) -> io::Result<()> {
        // The first thing of every drawing.
        let frame = std::mem::take(&mut *lock(&self.frame));
        let more = if frame.is_drawn { frame.rows_more(self.real_width().into()) } else { 0 };
        if more == 0 {
            return self.term.move_cursor_up(n);
        }
        self.term.move_cursor_up(n + more)?;
        self.term.write_str("\r")?;
        self.term.clear_to_end_of_screen()
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
        lock(&self.frame).begin_row();
        self.term.write_line("")
    }

    fn write_str(&self, s: &str) -> io::Result<()> {
        if s == "\r" {
            lock(&self.frame).column = 0;
            return self.term.write_str(s);
        }
        if s.is_empty() {
            return Ok(());
        }
        let width = usize::from(self.last_width.load(Ordering::Relaxed));
        let mut frame = lock(&self.frame);
        if frame.rows.is_empty() {
            frame.begin_row();
        }
        if frame.column > 0 && frame.column.is_multiple_of(width) {
            frame.begin_row();
            self.term.write_line("")?;
        }
        frame.add(s);
        if is_filler(s) { Ok(()) } else { self.term.write_str(s) }
    }

    fn clear_line(&self) -> io::Result<()> {
        self.term.clear_line()
    }

    fn flush(&self) -> io::Result<()> {
        lock(&self.frame).is_drawn = true;
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
            let text = pace.text(&counts, 0);
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
        counts.phase = MIRRORING.to_owned();
        let line = "60%  1:00, ETA 0:40  receiving 60.0 MiB, 1.0 MiB/s  600/1,000";
        assert_eq!(pace.text(&counts, 0), line);
        counts.source_words = "Compressing objects: 100% (7/7)".to_owned();
        pace.step(pace.at, &counts);
        let text = pace.text(&counts, 0);
        assert!(text.ends_with("  remote: Compressing objects: 100% (7/7)"), "{text}");
    }

    #[test]
    fn a_silent_source_leaves_the_elapsed_time_and_the_phase() {
        let begin = Instant::now();
        let mut pace = Pace::new(begin);
        let mut counts = Counts { phase: "requesting refs".to_owned(), ..Counts::default() };
        pace.step(begin + Duration::from_secs(12), &counts);
        assert!(!pace.has_extent());
        assert_eq!(pace.text(&counts, 0), "0:12  requesting refs");
        let retried = "0:12  retrying 1 request  requesting refs";
        assert_eq!(pace.text(&counts, 1), retried);
        counts.phase = MIRRORING.to_owned();
        assert_eq!(pace.text(&counts, 0), "0:12  waiting for the source");
    }

    #[test]
    fn the_rate_is_of_what_still_moves() {
        let begin = Instant::now();
        let mut pace = Pace::new(begin);
        let mut counts = Counts { phase: MIRRORING.to_owned(), ..counts(0, 0) };
        let mut second = 0;
        let mut after = |counts: &Counts, pace: &mut Pace| {
            second += 1;
            pace.step(begin + Duration::from_secs(second), counts);
            pace.text(counts, 0)
        };
        for _ in 0..5 {
            counts.bytes_received += 1 << 20;
            counts.bytes_stored += 1 << 19;
            assert!(after(&counts, &mut pace).contains("  receiving "));
        }
        // All has come, and half of it is stored: from 3 seconds on.
        let texts: Vec<String> = (0..5)
            .map(|_| {
                counts.bytes_stored += 1 << 19;
                after(&counts, &mut pace)
            })
            .collect();
        assert!(texts[1].contains("  receiving 5.0 MiB"), "{texts:?}");
        assert!(texts[4].contains("  storing 5.0 MiB, 512.0 KiB/s"), "{texts:?}");
        // Only objects: deltas are resolved.
        for _ in 0..5 {
            counts.objects += 10;
            after(&counts, &mut pace);
        }
        assert!(after(&counts, &mut pace).contains("  resolving  "));
        for _ in 0..5 {
            after(&counts, &mut pace);
        }
        assert!(after(&counts, &mut pace).contains("  waiting for the source  "));
        counts.objects = 1000;
        assert!(after(&counts, &mut pace).contains("  resolving  "));
        for _ in 0..5 {
            after(&counts, &mut pace);
        }
        assert!(after(&counts, &mut pace).contains("  waiting for the store  "));
    }

    #[test]
    fn names_are_whole_where_there_is_room_for_the_longest() {
        assert_eq!(label_columns(77, REST_COLUMNS, 60), 14);
        assert_eq!(label_columns(77, REST_COLUMNS, 9), 9);
        assert_eq!(label_columns(117, REST_COLUMNS, 60), 39);
        assert_eq!(label_columns(197, REST_COLUMNS, 60), 60);
        assert_eq!(label_columns(10, REST_COLUMNS, 0), 1);
        assert_eq!(label_columns(80, FEW_COLUMNS, 60), 40);
    }

    #[test]
    fn rows_that_a_smaller_terminal_wraps_are_counted() {
        let mut frame = Frame::default();
        for text in ["a".repeat(150), "b".repeat(70), String::new()] {
            frame.begin_row();
            frame.add(&text);
            frame.add(&" ".repeat(197 - text.len()));
        }
        let more = [200, 150, 149, 75, 50].map(|columns| frame.rows_more(columns));
        assert_eq!(more, [0, 0, 1, 1, 3]);
        assert_eq!(frame.rows_more(0), 149 + 69);
    }

    #[test]
    fn words_of_the_source_make_room_when_objects_come() {
        let begin = Instant::now();
        let mut pace = Pace::new(begin);
        let mut counts = Counts { phase: "mirroring".to_owned(), ..counts(0, 0) };
        counts.source_words = "Enumerating objects: 7, done.".to_owned();
        let mut after = |seconds, counts: &Counts| {
            pace.step(begin + Duration::from_secs(seconds), counts);
            pace.text(counts, 0)
        };
        assert!(after(1, &counts).ends_with("remote: Enumerating objects: 7, done."));
        assert!(after(60, &counts).contains("remote: "), "nothing has come yet");
        counts.objects = 10;
        assert!(!after(61, &counts).contains("remote: "));
        counts.source_words = "Total 7 (delta 3)".to_owned();
        assert!(after(62, &counts).ends_with("  remote: Total 7 (delta 3)"));
        assert!(after(66, &counts).ends_with("  remote: Total 7 (delta 3)"));
        assert!(!after(67, &counts).contains("remote: "));
    }

    #[test]
    fn lfs_bytes_count_when_the_objects_are_done() {
        let mut counts = Counts { objects: 5, objects_expected: 9, ..Counts::default() };
        (counts.lfs_bytes, counts.lfs_bytes_expected) = (100, 400);
        assert_eq!(extent(&counts), (5, 9));
        counts.objects = 9;
        assert_eq!(extent(&counts), (100, 400));
        let text = Pace::new(Instant::now()).text(&counts, 0);
        assert_eq!(text, "25%  0:00  9/9  LFS 100 bytes of 400 bytes");
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
