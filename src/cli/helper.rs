//! `remote-helper` and `install-helper`: git's way to a mirror.

use argh::{ArgsInfo, FromArgs};

use super::args::MirrorArgs;
use super::argv::{self, Argv, from_args};
use super::command::{Command, HelperCommand, InstallCommand};
use super::error::CliError;
use super::help;
use super::mirror_url::mirror_url;
use super::settings::{Environment, output, settings};

/// `remote-helper REMOTE URL`: what git calls `git-remote-mirror` with. A remote without a URL of its own
/// is named by its URL (gitremote-helpers(7)).
pub(super) fn remote_helper(words: &[String], env: &Environment<'_>) -> Result<Command, CliError> {
    if let [word] = words
        && word.starts_with('-')
    {
        return match argv::normalise(words, &[])? {
            Argv::Help => Ok(Command::Print(help::REMOTE_HELPER.to_owned())),
            Argv::Version => Ok(Command::Print(help::version())),
            Argv::Words(_) => Err(not_git()),
        };
    }
    let url = match words {
        [remote] => remote,
        [_, url] => url,
        _ => return Err(not_git()),
    };
    let args = from_args::<MirrorArgs>(&[])?;
    Ok(Command::RemoteHelper(Box::new(HelperCommand {
        mirror: mirror_url(url, "mirror::")?,
        settings: settings(&args, env, 64)?,
        output: output(args, env)?,
    })))
}

fn not_git() -> CliError {
    CliError::new("git-remote-mirror is started by git: git clone mirror::URL")
}

/// The options of `install-helper`.
#[derive(ArgsInfo, FromArgs)]
#[argh(description = "install the git remote helper")]
pub(super) struct InstallArgs {
    /// do not change git-lfs's configuration
    #[argh(switch)]
    no_lfs: bool,
    /// where the link goes
    #[argh(positional)]
    dir: Option<std::path::PathBuf>,
}

pub(super) fn install_helper(words: &[String]) -> Result<Command, CliError> {
    if words.iter().any(|word| matches!(word.as_str(), "--help" | "-h")) {
        return Ok(Command::Print(help::INSTALL_HELPER.to_owned()));
    }
    if words.iter().any(|word| matches!(word.as_str(), "--version" | "-V")) {
        return Ok(Command::Print(help::version()));
    }
    let InstallArgs { dir, no_lfs } = from_args(words)?;
    Ok(Command::InstallHelper(Box::new(InstallCommand { dir, no_lfs })))
}
