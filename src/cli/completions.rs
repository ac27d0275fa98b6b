//! `completions SHELL`: the script that completes this program's options, made by argh's own
//! generators from the tables that also parse them.

use argh::{ArgsInfo, CommandInfoWithArgs, FlagInfo, FlagInfoKind, SubCommandInfo};
use argh_complete::{Generator, bash::Bash, fish::Fish, zsh::Zsh};

use super::args::{
    CatalogArgs, ExportArgs, GcArgs, ImportArgs, MirrorArgs, RefsArgs, RestoreArgs, VerifyArgs,
};
use super::argv::{self, Argv, copy_of};
use super::command::Command;
use super::error::CliError;
use super::help;
use super::lfs_agent::agent_flags;

pub(super) fn completions(words: &[String]) -> Result<Command, CliError> {
    let generate = match words {
        [shell] if shell == "bash" => Bash::generate,
        [shell] if shell == "fish" => Fish::generate,
        [shell] if shell == "zsh" => Zsh::generate,
        _ => {
            return match argv::normalise(words, &[]) {
                Ok(Argv::Help) => Ok(Command::Print(help::COMPLETIONS.to_owned())),
                Ok(Argv::Version) => Ok(Command::Print(help::version())),
                _ => {
                    Err(CliError::new("completions: expected bash, fish or zsh, and nothing else"))
                }
            };
        }
    };
    Ok(Command::Print(generate("mirror-git-to-s3", &commands())))
}

/// The whole program as argh's generators read it.
fn commands() -> CommandInfoWithArgs {
    let sub = |name, description, flags| {
        let command = CommandInfoWithArgs { name, description, flags, ..Default::default() };
        SubCommandInfo { name, command }
    };
    CommandInfoWithArgs {
        name: "mirror-git-to-s3",
        flags: flags(MirrorArgs::get_args_info().flags),
        commands: vec![
            sub("verify", "read a mirror back", flags(VerifyArgs::get_args_info().flags)),
            sub("gc", "delete what no ref reaches", flags(GcArgs::get_args_info().flags)),
            sub("list", "list mirrors", flags(CatalogArgs::get_args_info().flags)),
            sub("index", "write an index page", flags(CatalogArgs::get_args_info().flags)),
            sub("refs", "list past publications", flags(RefsArgs::get_args_info().flags)),
            sub("restore", "publish it again", flags(RestoreArgs::get_args_info().flags)),
            sub("export", "write a mirror into a file", flags(ExportArgs::get_args_info().flags)),
            sub("import", "import an exported file", flags(ImportArgs::get_args_info().flags)),
            sub("lfs-agent", "read LFS objects, for git-lfs", flags(&agent_flags())),
            sub("completions", "a script for bash, fish or zsh", flags(&[])),
        ],
        ..Default::default()
    }
}

/// These options, and those that `argv.rs` knows besides. argh wants a `'static` table; this one is
/// made once a process.
fn flags(own: &[FlagInfo<'static>]) -> &'static [FlagInfo<'static>] {
    let switch = |long, letter, description| {
        let (kind, short) = (FlagInfoKind::Switch, Some(letter));
        FlagInfo { kind, long, short, description, ..FlagInfo::default() }
    };
    let help = switch("--help", 'h', "the options, with examples");
    let version = switch("--version", 'V', "the version");
    // argh's table has a `--help` without its letter, but the agent's has none.
    let own = own.iter().filter(|flag| flag.long != "--help").map(copy_of);
    own.chain([help, version]).collect::<Vec<_>>().leak()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(shell: &str) -> String {
        match completions(&[shell.to_owned()]) {
            Ok(Command::Print(text)) => text,
            other => panic!("{shell}: {other:?}"),
        }
    }

    #[test]
    fn every_script_knows_every_option_of_every_action() {
        for shell in ["bash", "fish", "zsh"] {
            let script = script(shell);
            for command in commands().commands.iter().map(|sub| &sub.command).chain([&commands()]) {
                assert!(script.contains(command.name), "{shell}: {}", command.name);
                for flag in command.flags {
                    // fish writes `-l name`.
                    let name = flag.long.trim_start_matches('-');
                    assert!(script.contains(name), "{shell}: {name}");
                }
            }
        }
    }

    #[test]
    fn bash_completes_options_and_actions() {
        let complete = |words: &str, at: usize| {
            let script = format!(
                "{}\nCOMP_WORDS=(mirror-git-to-s3 {words}); COMP_CWORD={at}\n\
                 _mirror-git-to-s3; echo \"${{COMPREPLY[@]}}\"",
                script("bash")
            );
            let bash = std::process::Command::new("bash").args(["-c", &script]).output();
            let Ok(bash) = bash else {
                eprintln!("SKIPPED: bash is not installed");
                return None;
            };
            Some(String::from_utf8(bash.stdout).unwrap().trim_end().to_owned())
        };
        for (words, at, wanted) in [
            ("--lay", 1, "--layout"),
            ("ver", 1, "verify"),
            ("verify --qui", 2, "--quick --quiet"),
            ("gc --gra", 2, "--grace"),
        ] {
            let Some(found) = complete(words, at) else { return };
            assert_eq!(found, wanted, "{words}");
        }
    }

    #[test]
    fn another_shell_is_a_usage_error() {
        for words in [&[][..], &["csh".to_owned()], &["bash".to_owned(), "zsh".to_owned()]] {
            assert!(completions(words).is_err(), "{words:?}");
        }
    }
}
