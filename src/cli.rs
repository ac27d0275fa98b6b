//! The command line and the environment, read into one [`Command`].
//!
//! A flag beats the environment, the environment beats a file. Everything that can be found wrong
//! without asking the source or the store is found here, before anything is begun: [`CliError`] is
//! exit code 2. Nothing here opens a connection; the only reads are the manifest's.
//!
//! `argv.rs` brings the words into `argh`'s form, `args.rs` holds the options, [`urls`] and
//! [`manifest`] read what they name, `settings.rs` holds what all sub-commands share, `help.rs` is the
//! text of `--help`. Then one file for each kind of sub-command reads its options into its struct of
//! `command.rs`. The environment comes in as a function, so that tests need not touch the process's own.
//!
//! To add a sub-command: a struct of its options that derives `FromArgs`, a variant of [`Command`],
//! one arm in [`parse`], its help text, and its function in `commands/`.

mod args;
mod argv;
mod catalog;
mod command;
mod completions;
mod error;
mod help;
mod helper;
mod lfs_agent;
mod maintenance;
pub mod manifest;
mod mirror;
mod mirror_url;
mod pairs;
mod settings;
mod trip;
pub mod urls;

use std::ffi::OsString;
use std::io::Read;

use argh::ArgsInfo;

use self::args::MirrorArgs;
pub use self::args::{Addressing, ProgressMode};
use self::argv::Argv;
pub use self::command::{
    AgentCommand, CatalogCommand, Command, ExportCommand, GcCommand, HelperCommand, ImportCommand,
    InstallCommand, MaintainedMirror, Maintenance, MaintenanceTarget, MirrorCommand, RefsCommand,
    RestoreCommand, VerifyCommand,
};
pub use self::error::CliError;
pub use self::help::help_texts;
pub use self::manifest::Shard;
pub use self::mirror_url::MirrorUrl;
use self::settings::Environment;
pub use self::settings::{Output, Settings, Verbosity};

/// Reads the command line. `words` are without the program's name; `env` answers for the
/// environment; `stdin` is read only for `--manifest -`.
pub fn parse(
    words: impl IntoIterator<Item = OsString>,
    env: &dyn Fn(&str) -> Option<String>,
    stdin: &mut dyn Read,
) -> Result<Command, CliError> {
    let words = words
        .into_iter()
        .map(|word| word.into_string().map_err(|_| CliError::new("an argument is not UTF-8")))
        .collect::<Result<Vec<String>, CliError>>()?;
    // Sub-commands go here, each with its own table of options.
    match words.first().map(String::as_str) {
        Some("verify") => return maintenance::verify(&words[1..], &Environment(env), stdin),
        Some("gc") => return maintenance::gc(&words[1..], &Environment(env), stdin),
        Some("list") => return catalog::list(&words[1..], &Environment(env)),
        Some("index") => return catalog::index(&words[1..], &Environment(env)),
        Some("refs") => return maintenance::refs(&words[1..], &Environment(env), stdin),
        Some("restore") => return maintenance::restore(&words[1..], &Environment(env), stdin),
        Some("export") => return trip::export(&words[1..], &Environment(env)),
        Some("import") => return trip::import(&words[1..], &Environment(env)),
        Some("lfs-agent") => return lfs_agent::lfs_agent(&words[1..], &Environment(env)),
        Some("remote-helper") => return helper::remote_helper(&words[1..], &Environment(env)),
        Some("install-helper") => return helper::install_helper(&words[1..]),
        Some("completions") => return completions::completions(&words[1..]),
        _ => {}
    }
    match argv::normalise(&words, MirrorArgs::get_args_info().flags)? {
        Argv::Help => Ok(Command::Print(help::MIRROR.to_owned())),
        Argv::Version => Ok(Command::Print(help::version())),
        Argv::Words(words) => {
            let args = argv::from_args::<MirrorArgs>(&words)?;
            Ok(Command::Mirror(Box::new(mirror::mirror(args, &Environment(env), stdin)?)))
        }
    }
}

#[cfg(test)]
mod testing;

#[cfg(test)]
mod tests {
    use super::testing::mirror as run;
    use super::*;

    #[test]
    fn help_and_version_are_text_for_standard_output() {
        assert_eq!(run("--full --help", &[], "").unwrap_err(), help::MIRROR);
        assert_eq!(run("--version", &[], "").unwrap_err(), help::version());
    }

    #[test]
    fn words_that_are_not_utf8_are_refused() {
        use std::os::unix::ffi::OsStringExt;
        let words = [OsString::from_vec(vec![b'-', 0xff])];
        let error = parse(words, &|_| None, &mut std::io::empty()).unwrap_err();
        assert_eq!(error.to_string(), "an argument is not UTF-8");
    }
}
