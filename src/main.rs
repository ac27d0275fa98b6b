//! The program: parse, call, say what was wrong, exit code. Everything else is in the library.

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode as Exit;

use mirror_git_to_s3::cli::{self, CliError, Command};
use mirror_git_to_s3::commands;
use mirror_git_to_s3::exit_code::ExitCode;

/// One heap for all threads. glibc keeps one for each few threads, and blocks that one thread
/// allocates and another frees leave holes in all of them: 237 MB against 138 MB at the peak of a
/// pack of 419,403 objects, in the same time. musl's allocator is slow with many threads.
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

fn main() -> Exit {
    let mut words = std::env::args_os();
    let is_helper = words.next().is_some_and(|name| {
        std::path::Path::new(&name).file_stem().is_some_and(|name| name == "git-remote-mirror")
    });
    // Git calls the program by that name.
    let words: Vec<OsString> =
        is_helper.then(|| "remote-helper".into()).into_iter().chain(words).collect();
    let command = command_of(&words);
    let code = cli::parse(words, &|name| std::env::var(name).ok(), &mut io::stdin())
        .and_then(|command| match command {
            Command::Print(text) => {
                // A closed standard output (`--help | head -1`) is nobody's error.
                let _ = io::stdout().write_all(text.as_bytes());
                Ok(ExitCode::Done)
            }
            Command::Mirror(command) => commands::mirror::run(&command),
            Command::LfsAgent(command) => commands::lfs_agent::run(&command),
            Command::Verify(command) => commands::verify::run(&command),
            Command::Gc(command) => commands::gc::run(&command),
            Command::List(command) => commands::list::run(&command),
            Command::Index(command) => commands::index::run(&command),
            Command::Refs(command) => commands::refs::run(&command),
            Command::Restore(command) => commands::restore::run(&command),
            Command::Export(command) => commands::export::run(&command),
            Command::Import(command) => commands::import::run(&command),
            Command::RemoteHelper(command) => commands::remote_helper::run(&command),
            Command::InstallHelper(command) => commands::install_helper::run(&command),
        })
        .unwrap_or_else(|error| complain(&error, command));
    code.into()
}

/// The command that the first word names; empty: none.
fn command_of(words: &[OsString]) -> &'static str {
    let names = cli::help_texts().map(|(name, _)| name);
    words.first().and_then(|word| names.into_iter().find(|name| word == name)).unwrap_or("")
}

fn complain(error: &CliError, command: &str) -> ExitCode {
    let help = if command.is_empty() { "--help".to_owned() } else { format!("{command} --help") };
    let _ = writeln!(io::stderr(), "mirror-git-to-s3: {error}\nSee 'mirror-git-to-s3 {help}'.");
    ExitCode::Usage
}
