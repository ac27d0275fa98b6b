//! What `list` and `index` share: the mirrors below a prefix, and what is known of each.

use std::io::{self, Write};

use serde::Serialize;

use crate::cli::urls::TargetUrl;
use crate::cli::{CatalogCommand, CliError};
use crate::endpoints::Endpoints;
use crate::exit_code::ExitCode;
use crate::logging::{self, printable};
use crate::maintain::catalog::{About, about, find};
use crate::maintain::count::count;
use crate::mirror::MirrorError;
use crate::progress::Screen;
use crate::signals::{self, Interruption};
use crate::store::s3::encoded_path;

/// One mirror.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Entry {
    /// Its path below the target; of a mirror that is the target itself, its last part.
    pub(super) name: String,
    pub(super) target: String,
    /// What `git clone` takes.
    pub(super) clone_url: Option<String>,
    #[serde(flatten)]
    pub(super) about: About,
    /// Why nothing more is known.
    pub(super) error: Option<String>,
}

/// Connections, and what a signal does.
pub(super) struct Session {
    pub(super) endpoints: Endpoints,
    interruption: Interruption,
}

impl Session {
    pub(super) fn begin(command: &CatalogCommand) -> Result<Self, CliError> {
        let screen = Screen::default();
        logging::start(&command.output, screen.clone());
        let endpoints = Endpoints::new(&command.settings)?;
        let (source, store) = (endpoints.source_client().clone(), endpoints.store_client().clone());
        let interruption = signals::listen(command.cancel.clone(), screen, source, store)
            .map_err(|error| CliError::new(format!("cannot handle signals: {error}")))?;
        Ok(Session { endpoints, interruption })
    }

    /// Says why the command failed.
    pub(super) fn fail(&self, target: &TargetUrl, error: &MirrorError) -> ExitCode {
        let (code, words) = match (ExitCode::of_error(error), self.interruption.exit_code()) {
            (ExitCode::Interrupted | ExitCode::TryAgain, Some(signal)) => {
                (signal, MirrorError::Interrupted.to_string())
            }
            (code, _) => (code, error.to_string()),
        };
        let _ = writeln!(io::stderr(), "error: {target}: {}", printable(&words));
        code
    }
}

/// All mirrors below `target`, in order of their names.
pub(super) fn gather(
    endpoints: &Endpoints,
    command: &CatalogCommand,
    target: &TargetUrl,
) -> Result<Vec<Entry>, MirrorError> {
    let cancel = &command.cancel;
    let store = endpoints.open_store(target, cancel)?;
    let names = find(store.as_ref(), command.concurrency, cancel)?;
    let mut entries = Vec::with_capacity(names.len());
    for name in names {
        if cancel.is_cancelled() {
            return Err(MirrorError::Interrupted);
        }
        entries.push(entry(endpoints, command, target, &name)?);
    }
    Ok(entries)
}

fn entry(
    endpoints: &Endpoints,
    command: &CatalogCommand,
    above: &TargetUrl,
    name: &str,
) -> Result<Entry, MirrorError> {
    let target = if name.is_empty() { above.clone() } else { above.below(name) };
    let store = endpoints.open_store(&target, &command.cancel)?;
    let looked = about(store.as_ref()).and_then(|about| match command.count {
        true => {
            let holds = count(store.as_ref(), command.concurrency, &command.cancel)?;
            Ok(About { holds: Some(holds), ..about })
        }
        false => Ok(about),
    });
    let (about, error) = match looked {
        Ok(about) => (about, None),
        // Of a store that does not answer nothing can be said.
        Err(error) if error.is_transient() || matches!(error, MirrorError::Interrupted) => {
            return Err(error);
        }
        Err(error) => (About::default(), Some(printable(&error.to_string()))),
    };
    let last = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
    Ok(Entry {
        name: if name.is_empty() { last(&target.to_string()) } else { name.to_owned() },
        clone_url: match &command.public_url {
            Some(base) if name.is_empty() => Some(base.clone()),
            Some(base) => Some(format!("{base}/{}", encoded_path(name))),
            None => endpoints.read_url(&target),
        },
        target: target.to_string(),
        about,
        error,
    })
}
