//! What `verify` and `gc` share: beginning, printing, failing.

use std::io::{self, Write};

use crate::cli::{CliError, Upkeep};
use crate::endpoints::Endpoints;
use crate::exit_code::ExitCode;
use crate::logging;
use crate::mirror::MirrorError;
use crate::progress::Screen;
use crate::signals::{self, Interruption};

/// Starts the log, reads what the settings name, and listens to signals.
pub(super) fn start(upkeep: &Upkeep) -> Result<(Endpoints, Interruption), CliError> {
    let screen = Screen::default();
    logging::start(&upkeep.output, screen.clone());
    let endpoints = Endpoints::new(&upkeep.settings)?;
    let (source, store) = (endpoints.source_client().clone(), endpoints.store_client().clone());
    let interruption = signals::listen(upkeep.cancel.clone(), screen, source, store)
        .map_err(|error| CliError::new(format!("cannot listen to signals: {error}")))?;
    Ok((endpoints, interruption))
}

/// Writes results. A reader that has seen enough (`… | head`) is nobody's error.
pub(super) fn print(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Says what failed, and with which code to end.
pub(super) fn failed(
    error: &MirrorError,
    upkeep: &Upkeep,
    interruption: &Interruption,
) -> ExitCode {
    // A signal cuts connections: what fails then failed for that.
    let (code, words) = match (ExitCode::of_error(error), interruption.exit_code()) {
        (ExitCode::Interrupted | ExitCode::TryAgain, Some(signal)) => {
            (signal, MirrorError::Interrupted.to_string())
        }
        (code, _) => (code, logging::printable(&error.to_string())),
    };
    let _ = writeln!(io::stderr(), "error: {words}");
    if upkeep.output.json {
        let value = serde_json::json!({
            "target": upkeep.target.to_string(),
            "status": "failed", "exit_code": code.code(), "error": words,
        });
        print(&format!("{value}\n"));
    }
    code
}
