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
use super::helper::InstallArgs;
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

/// The whole program as argh's generators read it, in the words of the help texts.
fn commands() -> CommandInfoWithArgs {
    let sub = |name, help, flags: &[FlagInfo<'static>]| {
        let description = described(help::MIRROR, name).unwrap_or_default().leak();
        let flags = with_help(flags, help);
        let command = CommandInfoWithArgs { name, description, flags, ..Default::default() };
        SubCommandInfo { name, command }
    };
    CommandInfoWithArgs {
        name: "mirror-git-to-s3",
        flags: with_help(MirrorArgs::get_args_info().flags, help::MIRROR),
        // git alone calls `remote-helper`.
        commands: vec![
            sub("verify", help::VERIFY, VerifyArgs::get_args_info().flags),
            sub("gc", help::GC, GcArgs::get_args_info().flags),
            sub("list", help::LIST, CatalogArgs::get_args_info().flags),
            sub("index", help::INDEX, CatalogArgs::get_args_info().flags),
            sub("refs", help::REFS, RefsArgs::get_args_info().flags),
            sub("restore", help::RESTORE, RestoreArgs::get_args_info().flags),
            sub("export", help::EXPORT, ExportArgs::get_args_info().flags),
            sub("import", help::IMPORT, ImportArgs::get_args_info().flags),
            sub("install-helper", help::INSTALL_HELPER, InstallArgs::get_args_info().flags),
            sub("lfs-agent", help::LFS_AGENT, &agent_flags()),
            sub("completions", help::COMPLETIONS, &[]),
        ],
        ..Default::default()
    }
}

/// These options, and those that `argv.rs` knows besides, with what `help` says about them. argh wants a
/// `'static` table; this one is made once a process.
fn with_help(own: &[FlagInfo<'static>], help: &str) -> &'static [FlagInfo<'static>] {
    let switch = |long, letter, description| {
        let (kind, short) = (FlagInfoKind::Switch, Some(letter));
        FlagInfo { kind, long, short, description, ..FlagInfo::default() }
    };
    let print_help = switch("--help", 'h', "print this help");
    let version = switch("--version", 'V', "print the version");
    // argh's table has a `--help` without its letter, but the agent's has none.
    let own = own.iter().filter(|flag| flag.long != "--help").map(|flag| {
        let mut flag = copy_of(flag);
        if let Some(words) = described(help, flag.long) {
            flag.description = words.leak();
        }
        flag
    });
    own.chain([print_help, version]).collect::<Vec<_>>().leak()
}

/// Where descriptions begin in a help text.
const COLUMN: usize = 27;

/// What a help text says about an option or a command, to its first semicolon and without the default.
fn described(help: &str, name: &str) -> Option<String> {
    let is_named = |line: &str| {
        let words = line.strip_prefix("  ").filter(|rest| !rest.starts_with(' '));
        words.is_some_and(|rest| rest.split([' ', ',']).take(3).any(|word| word == name))
    };
    let mut lines = help.lines().skip_while(|line| !is_named(line));
    let mut words = lines.next()?.get(COLUMN..).unwrap_or_default().to_owned();
    for line in lines.take_while(|line| line.starts_with(&" ".repeat(COLUMN))) {
        words = format!("{words} {}", line.trim());
    }
    let end = [";", " [", "["].iter().filter_map(|end| words.find(end)).min();
    let words = words[..end.unwrap_or(words.len())].trim();
    (!words.is_empty()).then(|| words.to_owned())
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
    fn descriptions_are_those_of_the_help() {
        let all = commands();
        let of = |command: &str, option: &str| {
            let own = all.commands.iter().find(|sub| sub.name == command).map(|sub| &sub.command);
            let flags = own.unwrap_or(&all).flags;
            flags.iter().find(|flag| flag.long == option).unwrap().description
        };
        assert_eq!(of("", "--layout"), "auto: many new objects as a pack, few as loose objects");
        assert_eq!(of("", "--max-packs"), "merge packs in the store when there are more than N");
        assert_eq!(of("gc", "--dry-run"), "list what would be deleted, delete nothing");
        assert_eq!(
            of("verify", "--quick"),
            "check blobs, packs and LFS objects by name and size only"
        );
        assert_eq!(
            of("", "--region"),
            "the store's region",
            "its line has nothing but the default"
        );
        for (command, _) in help::help_texts().into_iter().skip(1) {
            let Some(words) = described(help::MIRROR, command) else { continue };
            let sub = all.commands.iter().find(|sub| sub.name == command);
            match sub {
                Some(sub) => assert_eq!(sub.command.description, words, "{command}"),
                None => assert_eq!(command, "remote-helper", "the others are completed"),
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
