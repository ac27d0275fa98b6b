//! `install-helper`: lets git find this program as `git-remote-mirror`, and git-lfs as its agent.
//!
//! Git looks for the helper of `mirror::` URLs in PATH. Git-lfs is configured once, in the user's git config,
//! to start the program's agent for these URLs; the agent learns from its remote which mirror it is for.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::cli::{CliError, InstallCommand};
use crate::exit_code::ExitCode;

const NAME: &str = "git-remote-mirror";

/// Makes the link. `Err`: it can't be made.
pub fn run(command: &InstallCommand) -> Result<ExitCode, CliError> {
    let bad = |what: &str, error: &io::Error| CliError::new(format!("cannot {what}: {error}"));
    let program = std::env::current_exe().and_then(|path| path.canonicalize());
    let program = program.map_err(|error| bad("find this program's own file", &error))?;
    let beside = program.parent().map(Path::to_owned).unwrap_or_default();
    let dir = command.dir.clone().unwrap_or(beside);
    let link = link_to(&program, &dir)
        .map_err(|error| bad(&format!("make {}", dir.join(NAME).display()), &error))?;
    let mut said = format!("{} -> {}\n", link.display(), program.display());
    if !is_in_path(&dir) {
        said += &format!("add {} to PATH so that git finds it\n", dir.display());
    }
    if !command.no_lfs {
        configure_lfs(&program).map_err(|error| bad("configure git-lfs", &error))?;
        said += "git-lfs reads mirror:: remotes through this program (git config --global)\n";
    }
    // A closed standard output is nobody's error.
    let _ = io::stdout().write_all(said.as_bytes());
    Ok(ExitCode::Done)
}

/// Git-lfs takes `lfs.<url>.…` for all URLs of that scheme and host: here the scheme `mirror`, no host.
fn configure_lfs(program: &Path) -> io::Result<()> {
    // git-lfs itself quotes the path for its shell.
    let path = program.display().to_string();
    for (name, value) in [
        ("lfs.mirror::.standalonetransferagent", "mirror-remote"),
        ("lfs.customtransfer.mirror-remote.path", path.as_str()),
        ("lfs.customtransfer.mirror-remote.args", "lfs-agent mirror::"),
    ] {
        let words = ["config", "--global", name, value];
        let status = std::process::Command::new("git").args(words).status()?;
        if !status.success() {
            return Err(io::Error::other(format!("git config --global {name} fails")));
        }
    }
    Ok(())
}

/// Puts a link in place of whatever link was there; a file of another kind stays, and is an error.
fn link_to(program: &Path, dir: &Path) -> io::Result<PathBuf> {
    let link = dir.join(NAME);
    match fs::symlink_metadata(&link) {
        Ok(found) if found.is_symlink() => fs::remove_file(&link)?,
        Ok(_) => return Err(io::Error::other("a file of that name already exists")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    std::os::unix::fs::symlink(program, &link)?;
    Ok(link)
}

fn is_in_path(dir: &Path) -> bool {
    let Some(path) = std::env::var_os("PATH") else { return false };
    let same = |other: PathBuf| other.canonicalize().ok() == dir.canonicalize().ok();
    std::env::split_paths(&path).any(same)
}
