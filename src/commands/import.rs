//! `import --target T FILE [--state-out STATE]`: mirrors from a trip, and says what the mirror has then.

use std::path::Path;

use super::mirror;
use crate::cli::{CliError, ImportCommand};
use crate::endpoints::Endpoints;
use crate::exit_code::ExitCode;
use crate::logging;
use crate::mirror::MirrorError;
use crate::progress::Screen;
use crate::report::write_atomically;
use crate::run::Cancel;
use crate::transfer::export::state;

/// Imports into one mirror. `Err` is a usage error: nothing was begun.
pub fn run(command: &ImportCommand) -> Result<ExitCode, CliError> {
    let code = match &command.mirror {
        Some(mirror) => mirror::run(mirror)?,
        None => {
            logging::start(&command.output, Screen::default());
            ExitCode::Done
        }
    };
    let published = matches!(code, ExitCode::Done | ExitCode::LfsMissing);
    let Some(path) = command.state_out.as_deref().filter(|_| published) else { return Ok(code) };
    match write_state(command, &Endpoints::new(&command.settings)?, path) {
        Ok(()) => Ok(code),
        Err(error) => {
            log::error!("{error}");
            Ok(ExitCode::of_error(&error))
        }
    }
}

fn write_state(
    command: &ImportCommand,
    endpoints: &Endpoints,
    path: &Path,
) -> Result<(), MirrorError> {
    let store = endpoints.open_store(&command.target, &Cancel::default())?;
    let file = state(store.as_ref(), command.memory_bytes)?;
    let text = String::from_utf8(file).expect("it is JSON");
    write_atomically(path, &text).map_err(|error| {
        MirrorError::Mirror(format!("cannot write the state {}: {error}", path.display()))
    })
}
