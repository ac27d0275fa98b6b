//! The default action: mirror each pair, say how it went, and end with the right exit code.
//!
//! A repository's result is reported when it ends, in one piece, while others may still run. What is
//! broken in the settings is found before the first repository is begun (exit code 2).

use std::collections::BTreeSet;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant, SystemTime};

use super::deadline::Deadline;
use crate::cli::manifest::Pair;
use crate::cli::urls::SourceUrl;
use crate::cli::{CatalogCommand, CliError, MirrorCommand, Output, ProgressMode, Verbosity};
use crate::endpoints::Endpoints;
use crate::exit_code::ExitCode;
use crate::fleet::{self, Outcome};
use crate::logging;
use crate::maintain::verify::VerifyOptions;
use crate::mirror::{
    Around, MirrorError, MirrorSource, Options, Sent, Summary, TripSource, mirror, mirror_mirror,
    mirror_trip, store_objects,
};
use crate::progress::{Bars, Lines, Progress, Screen, Silent};
use crate::repair;
use crate::report::{self, Report};
use crate::run::Cancel;
use crate::signals::{self, Interruption};
use crate::source::Source;
use crate::store::http_read::HttpRead;
use crate::store::{Key, Store};

/// Mirrors all pairs of `command`. `Err` is a usage error: nothing was begun.
pub fn run(command: &MirrorCommand) -> Result<ExitCode, CliError> {
    let bars = bars(&command.output, command.pairs.len());
    let screen = bars.as_ref().map(Bars::screen).unwrap_or_default();
    // First: endpoints warn of files that they can't use.
    logging::start(&command.output, screen.clone());
    if let Some(warning) = &command.warning {
        log::warn!("{warning}");
    }
    let endpoints = Endpoints::new(&command.settings)?;
    endpoints.check_sources(command.pairs.iter().map(|pair| &pair.source))?;
    if let Some(path) = &command.output.metrics_file {
        report::check_metrics_file(path)?;
    }
    let cancel = &command.options.cancel;
    let (source, store) = (endpoints.source_client().clone(), endpoints.store_client().clone());
    let interruption = signals::listen(cancel.clone(), screen.clone(), source, store)
        .map_err(|error| CliError::new(format!("cannot handle signals: {error}")))?;
    if command.pairs.is_empty() {
        log::info!("no pair in the manifest belongs to this shard");
    }
    let jobs = command.jobs.min(command.pairs.len()).max(1);
    let mut work = Work {
        endpoints,
        options: fleet::share(&command.options, jobs),
        timeout: command.timeout,
        bars,
        interruption,
        teller: Teller { output: &command.output, screen },
    };
    let outcomes =
        fleet::run_all(&command.pairs, jobs, command.fail_fast, cancel, |pair| work.one(pair));
    let code = work.finish(&command.pairs, outcomes);
    Ok(match (&command.index, command.options.dry_run) {
        (Some(index), false) => work.update_index(index, code),
        _ => code,
    })
}

/// Bars, if they are wanted and there is something to draw them on. Below warnings there is nothing
/// to be seen of a run: `-q` means no bars unless they are asked for.
pub(super) fn bars(output: &Output, repositories: usize) -> Option<Bars> {
    let force = match output.progress {
        ProgressMode::Never => return None,
        ProgressMode::Always => true,
        ProgressMode::Auto if output.verbosity == Verbosity::Quiet => return None,
        ProgressMode::Auto if !io::stderr().is_terminal() => return None,
        ProgressMode::Auto => false,
    };
    Bars::new(repositories, force, output.color, output.columns, crate::run::retry::waiting)
}

/// Both ends of one mirror.
type Ends = (From, Box<dyn Store>);

/// Where a mirror comes from.
pub(super) enum From {
    Repository(Box<dyn Source>),
    Mirror(Box<MirrorSource>),
    Trip(Box<TripSource>),
}

impl From {
    pub(super) fn open(
        endpoints: &Endpoints,
        url: &SourceUrl,
        cancel: &Cancel,
    ) -> Result<Self, MirrorError> {
        if let Some(trip) = endpoints.open_trip(url) {
            return Ok(From::Trip(Box::new(trip)));
        }
        Ok(match url {
            SourceUrl::Mirror(url) => From::Mirror(Box::new(endpoints.open_mirror(url, cancel)?)),
            SourceUrl::WebMirror(url) => {
                let reader = endpoints.open_web_mirror(url, cancel)?;
                // How it says that a key is missing: some answer 403.
                reader.ask(HttpRead::look_as_reader)?;
                let source = MirrorSource::new(Box::new(reader)).unlisted();
                From::Mirror(Box::new(source.with_memory(endpoints.memory_bytes())))
            }
            other => From::Repository(endpoints.open_source(other, cancel)?),
        })
    }

    /// Mirrors it.
    pub(super) fn mirror(
        &self,
        store: &dyn Store,
        options: &Options,
        progress: &dyn Progress,
    ) -> Result<Summary, MirrorError> {
        match self {
            From::Repository(source) => mirror(source.as_ref(), store, options, progress),
            From::Mirror(source) => mirror_mirror(source, store, options, progress),
            From::Trip(source) => mirror_trip(source, store, options, progress),
        }
    }

    /// Stores single objects of it, if it sends them.
    pub(super) fn store_objects(
        &self,
        store: &dyn Store,
        keys: &BTreeSet<String>,
        options: &Options,
        progress: &dyn Progress,
    ) -> Result<Sent, MirrorError> {
        match self {
            From::Repository(source) => {
                store_objects(source.as_ref(), store, keys, options, progress)
            }
            From::Mirror(_) | From::Trip(_) => Ok(Sent::Nothing),
        }
    }

    /// Mirrors it into what is read first. Answers what was repaired by that, too.
    fn mirror_in_full(
        &self,
        store: &dyn Store,
        options: &Options,
        progress: &dyn Progress,
    ) -> Result<(Summary, Vec<String>), MirrorError> {
        let verifying = VerifyOptions {
            concurrency: options.concurrency,
            memory_bytes: options.memory_bytes,
            cancel: options.cancel.clone(),
            ..VerifyOptions::default()
        };
        let run = |store: &dyn Store, options: &Options, progress: &dyn Progress| {
            self.mirror(store, options, progress)
        };
        repair::mirror_in_full(&run, store, &verifying, options, progress)
    }

    fn source(&self) -> &dyn Source {
        match self {
            From::Repository(source) => source.as_ref(),
            From::Mirror(source) => source.as_ref(),
            From::Trip(source) => source.as_ref(),
        }
    }
}

/// What the jobs share.
struct Work<'a> {
    endpoints: Endpoints,
    options: Options,
    timeout: Option<Duration>,
    bars: Option<Bars>,
    interruption: Interruption,
    teller: Teller<'a>,
}

impl Work<'_> {
    /// Mirrors one repository and tells how it ended. The report comes back as `Err` if it failed.
    fn one(&self, pair: &Pair) -> Result<Box<Report>, Box<Report>> {
        let begun = Instant::now();
        let (deadline, options, ends) = self.begin(pair);
        let failed = |error: MirrorError| {
            let is_over = deadline.as_ref().is_some_and(Deadline::is_over);
            let error = match (error, self.timeout) {
                (MirrorError::Interrupted, Some(limit)) if is_over => MirrorError::TimedOut(limit),
                (error, _) => error,
            };
            Report::of_error(pair, &error, begun.elapsed(), self.interruption.exit_code())
        };
        let report = match ends {
            Err(error) => failed(error),
            Ok((source, store)) => {
                // The bar is gone again before the result is reported.
                let result = {
                    let progress = self.progress(pair);
                    match options.full && !options.dry_run {
                        true => source.mirror_in_full(store.as_ref(), &options, progress.as_ref()),
                        false => source
                            .mirror(store.as_ref(), &options, progress.as_ref())
                            .map(|summary| (summary, Vec::new())),
                    }
                };
                match result {
                    Ok((summary, mended)) => {
                        Report::of_summary(pair, summary, self.options.dry_run).with_mended(mended)
                    }
                    Err(error) => {
                        let asked = source.source().requests();
                        failed(error).with_requests(asked, store.requests(), store.usage())
                    }
                }
            }
        };
        self.teller.tell(&report);
        let report = Box::new(report);
        if report.error.is_some() { Err(report) } else { Ok(report) }
    }

    /// What one repository is mirrored with. With `--timeout` it has connections of its own, and
    /// somebody who watches the clock.
    fn begin(&self, pair: &Pair) -> (Option<Deadline>, Options, Result<Ends, MirrorError>) {
        let options = |endpoints: &Endpoints, cancel: &Cancel| {
            let (endpoints, cancel, target) =
                (endpoints.clone(), cancel.clone(), pair.target.clone());
            let find = {
                let cancel = cancel.clone();
                move |key: &Key| {
                    endpoints.find_around(&target, key, &cancel).map(|outer| outer.to_string())
                }
            };
            Options { cancel, around: Around::new(find), ..self.options.clone() }
        };
        let Some(limit) = self.timeout else {
            let cancel = &self.options.cancel;
            let options = options(&self.endpoints, cancel);
            return (None, options, open(&self.endpoints, pair, cancel));
        };
        let cancel = self.options.cancel.child();
        let endpoints = self.endpoints.apart();
        let options = options(&endpoints, &cancel);
        let ends = open(&endpoints, pair, &cancel);
        let (source, store) = (endpoints.source_client(), endpoints.store_client());
        match Deadline::start(limit, cancel, source.clone(), store.clone()) {
            Ok(deadline) => (Some(deadline), options, ends),
            Err(error) => {
                let error = MirrorError::Internal(format!("cannot start a thread: {error}"));
                (None, options, Err(error))
            }
        }
    }

    /// Bars if there are any; else lines, which the log drops below `-v`.
    fn progress(&self, pair: &Pair) -> Box<dyn Progress> {
        match &self.bars {
            Some(bars) => Box::new(bars.repository(&pair.source.to_string())),
            None if log::log_enabled!(log::Level::Info) => {
                Box::new(Lines::new(pair.source.to_string()))
            }
            None => Box::new(Silent),
        }
    }

    /// Tells what is to be reported of all repositories together, and gives the exit code.
    fn finish(
        &mut self,
        pairs: &[Pair],
        outcomes: Vec<Outcome<Box<Report>, Box<Report>>>,
    ) -> ExitCode {
        // The bars go first: what follows is to stay on the terminal.
        self.bars = None;
        let mut reports = Vec::with_capacity(pairs.len());
        let mut not_begun = Vec::new();
        for (pair, outcome) in pairs.iter().zip(outcomes) {
            match outcome {
                Outcome::Ended(Ok(report) | Err(report)) => reports.push(*report),
                Outcome::NotStarted => not_begun.push(pair),
                Outcome::Panicked(words) => {
                    let error = MirrorError::Internal(words);
                    let report = Report::of_error(pair, &error, Default::default(), None);
                    self.teller.tell(&report);
                    reports.push(report);
                }
            }
        }
        self.teller.close(&reports, &not_begun);
        self.teller.write_metrics(&reports);
        exit_code(&reports, &not_begun, self.interruption.exit_code())
    }

    /// Brings the index of `--index` up to date. Mirrors are published whatever comes of it, so its
    /// failure decides the exit code only if nothing else failed.
    fn update_index(&self, index: &CatalogCommand, code: ExitCode) -> ExitCode {
        let index = CatalogCommand { cancel: self.options.cancel.clone(), ..index.clone() };
        match super::index::update(&self.endpoints, &index) {
            Ok(_) => code,
            Err(error) => {
                let words = logging::printable(&error.to_string());
                self.teller.complaint(&format!("error: index of {}: {words}\n", index.targets[0]));
                if code == ExitCode::Done { ExitCode::of_error(&error) } else { code }
            }
        }
    }
}

fn open(endpoints: &Endpoints, pair: &Pair, cancel: &Cancel) -> Result<Ends, MirrorError> {
    let store = endpoints.open_store(&pair.target, cancel)?;
    Ok((From::open(endpoints, &pair.source, cancel)?, store))
}

/// The signal's code if it cut something short; else that of the repositories.
fn exit_code(reports: &[Report], not_begun: &[&Pair], signal: Option<ExitCode>) -> ExitCode {
    let codes: Vec<ExitCode> = reports.iter().map(Report::code).collect();
    match signal {
        Some(code) if !not_begun.is_empty() || codes.contains(&code) => code,
        _ if !not_begun.is_empty() => ExitCode::SomeFailed,
        _ => ExitCode::of_all(&codes),
    }
}

/// Writes results to standard output and complaints to standard error, above the bars.
struct Teller<'a> {
    output: &'a Output,
    screen: Screen,
}

impl Teller<'_> {
    fn tell(&self, report: &Report) {
        if self.output.json {
            self.result(&report.json());
        } else if self.output.verbosity != Verbosity::Quiet {
            self.result(&report.summary());
        }
        self.complaint(&report.complaint());
    }

    /// Several repositories get closing words: a result if all succeeded, a complaint otherwise.
    fn close(&self, reports: &[Report], not_begun: &[&Pair]) {
        if reports.len() + not_begun.len() < 2 {
            return;
        }
        // With --quiet each failure has been a complaint, and nothing else was between them.
        let reasons = self.output.verbosity != Verbosity::Quiet;
        let words = report::closing(reports, not_begun, reasons);
        let well = not_begun.is_empty() && reports.iter().all(|r| r.code() == ExitCode::Done);
        match (well, self.output.json || self.output.verbosity == Verbosity::Quiet) {
            (false, _) => self.complaint(&words),
            (true, false) => self.result(&words),
            (true, true) => {}
        }
    }

    fn write_metrics(&self, reports: &[Report]) {
        let Some(path) = &self.output.metrics_file else { return };
        let text = report::metrics(reports, &report::read_metrics(path), SystemTime::now());
        if let Err(error) = report::write_atomically(path, &text) {
            log::error!("cannot write the metrics file {}: {error}", path.display());
        }
    }

    fn result(&self, text: &str) {
        let written = self.screen.without_bars(|| {
            let mut out = io::stdout().lock();
            out.write_all(text.as_bytes()).and_then(|()| out.flush())
        });
        // A reader that has seen enough (`… | head`) must not end the mirroring.
        if let Err(error) = written
            && error.kind() != io::ErrorKind::BrokenPipe
        {
            log::error!("cannot write to standard output: {error}");
        }
    }

    fn complaint(&self, text: &str) {
        // Nobody is left to report it to if this fails.
        let _ = self.screen.without_bars(|| io::stderr().lock().write_all(text.as_bytes()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::urls::TargetUrl;
    use std::slice::from_ref;
    use std::time::Duration;

    fn pair() -> Pair {
        Pair {
            source: SourceUrl::parse("https://h/r").unwrap(),
            target: TargetUrl::parse("s3://b/p").unwrap(),
        }
    }

    fn failed(error: MirrorError, signal: Option<ExitCode>) -> Report {
        Report::of_error(&pair(), &error, Duration::ZERO, signal)
    }

    #[test]
    fn a_signal_decides_only_if_it_cut_something_short() {
        let term = Some(ExitCode::Terminated);
        let cut = failed(MirrorError::Interrupted, term);
        let other = failed(MirrorError::Conflict, term);
        assert_eq!(exit_code(from_ref(&cut), &[], term).code(), 143);
        assert_eq!(exit_code(&[cut, other.clone()], &[], term).code(), 143);
        assert_eq!(exit_code(&[], &[&pair()], term).code(), 143);
        assert_eq!(exit_code(from_ref(&other), &[], term).code(), 11);
        assert_eq!(exit_code(&[other.clone(), other.clone()], &[], term).code(), 3);
        assert_eq!(exit_code(&[other], &[&pair()], None).code(), 3);
        assert_eq!(exit_code(&[], &[], None).code(), 0);
    }

    #[test]
    fn bars_are_left_out_when_not_wanted_or_not_visible() {
        let never = Output { progress: ProgressMode::Never, ..Output::default() };
        assert!(bars(&never, 1).is_none());
        let quiet = Output { verbosity: Verbosity::Quiet, ..Output::default() };
        assert!(bars(&quiet, 1).is_none());
    }
}
