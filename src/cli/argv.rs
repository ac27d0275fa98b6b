//! The raw words of the command line, brought into the form that `argh` reads.
//!
//! argh 0.1 knows `--option value` and single switches only. People and scripts also write
//! `--option=value`, `-vv` and `-nq`, and expect `--help` to win wherever it stands. So every word
//! is looked up in argh's own table of options first. Errors name options, never their values: a
//! value may be a URL with a password in it. Of other words only plain ones are named.

use argh::{FlagInfo, FlagInfoKind, FromArgs};

use super::error::CliError;
use super::help::help_texts;
use super::urls;

/// What the words ask for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Argv {
    /// `-h` or `--help` stands among the options.
    Help,
    /// `-V` or `--version` stands among the options.
    Version,
    /// Words for argh: one option or one value each.
    Words(Vec<String>),
}

/// Brings `words` (without the program's name) into argh's form. `flags` is argh's own table.
pub(super) fn normalise(words: &[String], flags: &[FlagInfo<'_>]) -> Result<Argv, CliError> {
    let mut out = Vec::with_capacity(words.len());
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "-h" | "--help" => return Ok(Argv::Help),
            "-V" | "--version" => return Ok(Argv::Version),
            "--" => {
                out.push(word.clone());
                out.extend(words.by_ref().cloned());
            }
            long if long.starts_with("--") => {
                let (name, value) = match long.split_once('=') {
                    Some((name, value)) => (name, Some(value)),
                    None => (long, None),
                };
                let flag = flags
                    .iter()
                    .find(|flag| flag.long == name)
                    .ok_or_else(|| CliError::new(format!("unknown option {name}")))?;
                out.push(name.to_owned());
                match (takes_value(flag), value) {
                    (true, Some(value)) => out.push(value.to_owned()),
                    (true, None) => out.push(value_of(name, words.next(), flags)?),
                    (false, Some(_)) => {
                        return Err(CliError::new(format!("{name} takes no value")));
                    }
                    (false, None) => {}
                }
            }
            short if takes_next(short, flags).is_some() => {
                let name = takes_next(short, flags).expect("just asked");
                out.push(name.to_owned());
                out.push(value_of(name, words.next(), flags)?);
            }
            short if short.len() > 1 && short.starts_with('-') => {
                for letter in short.chars().skip(1) {
                    if !flags.iter().any(|flag| flag.short == Some(letter) && !takes_value(flag)) {
                        return Err(CliError::new(format!("unknown option -{letter}")));
                    }
                    out.push(format!("-{letter}"));
                }
            }
            // Words that belong to no option. What may be a URL or a token is not repeated.
            other if !is_plain_word(other) => {
                return Err(CliError::new(
                    "unexpected argument; sources and targets need --source and --target",
                ));
            }
            other => {
                let is_command = help_texts().iter().any(|(command, _)| *command == other);
                let hint = if is_command { ": a command must come first" } else { "" };
                return Err(CliError::new(format!("unexpected argument '{other}'{hint}")));
            }
        }
    }
    Ok(Argv::Words(out))
}

/// The long name of a single letter that takes a value: `-o FILE`.
fn takes_next<'f>(word: &str, flags: &'f [FlagInfo<'_>]) -> Option<&'f str> {
    let letter = word.strip_prefix('-').filter(|letter| letter.len() == 1)?.chars().next();
    let flag = flags.iter().find(|flag| flag.short.is_some() && flag.short == letter)?;
    takes_value(flag).then_some(flag.long)
}

/// Takes out the one argument that is not an option.
pub(super) fn take_word(
    words: &[String],
    flags: &[FlagInfo<'_>],
) -> Result<(Option<String>, Vec<String>), CliError> {
    let (mut found, mut others, mut is_value) = (None, Vec::new(), false);
    for word in words {
        if !is_value && (word == "-" || !word.starts_with('-')) {
            if found.replace(word.clone()).is_some() {
                return Err(CliError::new("unexpected arguments"));
            }
            continue;
        }
        let flag = flags.iter().find(|flag| flag.long == word.as_str());
        if flag.is_none() && !is_value && word.starts_with("--") && !word.contains('=') {
            // It may take a value, or not: what follows says nothing.
            others.push(word.clone());
            return normalise(&others, flags).map(|_| (found, others));
        }
        let takes = flag.is_some_and(takes_value) || takes_next(word, flags).is_some();
        is_value = !is_value && takes;
        others.push(word.clone());
    }
    Ok((found, others))
}

fn takes_value(flag: &FlagInfo<'_>) -> bool {
    matches!(flag.kind, FlagInfoKind::Option { .. })
}

/// The word after an option that takes a value. Another option's name there is a forgotten value;
/// `--name=value` still passes any text.
fn value_of(name: &str, next: Option<&String>, flags: &[FlagInfo<'_>]) -> Result<String, CliError> {
    match next {
        Some(value) if !flags.iter().any(|flag| flag.long == value.as_str()) => Ok(value.clone()),
        _ => Err(CliError::new(format!("{name} needs a value"))),
    }
}

/// A word as commands are: no secret is so short and so plain.
fn is_plain_word(word: &str) -> bool {
    let is_plain = |c: u8| c.is_ascii_lowercase() || c == b'-';
    (2..=16).contains(&word.len()) && word.bytes().all(is_plain)
}

/// Lets argh fill the fields. Its errors quote values: userinfo is taken out of them.
pub(super) fn from_args<T: FromArgs>(words: &[String]) -> Result<T, CliError> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    T::from_args(&["mirror-git-to-s3"], &words).map_err(|exit| {
        let text = urls::without_userinfo(exit.output.trim());
        CliError::new(match text.strip_prefix("Error parsing option") {
            Some(rest) => format!("cannot use option{rest}"),
            None => text,
        })
    })
}

/// argh's table has no `Clone`.
pub(super) fn copy_of(flag: &FlagInfo<'static>) -> FlagInfo<'static> {
    let FlagInfo { long, short, description, .. } = *flag;
    let kind = match flag.kind {
        FlagInfoKind::Switch => FlagInfoKind::Switch,
        FlagInfoKind::Option { arg_name } => FlagInfoKind::Option { arg_name },
    };
    FlagInfo { kind, long, short, description, ..FlagInfo::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::MirrorArgs;
    use argh::ArgsInfo;

    fn run(words: &[&str]) -> Result<Argv, String> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        normalise(&words, MirrorArgs::get_args_info().flags).map_err(|error| error.to_string())
    }

    fn words(words: &[&str]) -> Result<Argv, String> {
        Ok(Argv::Words(words.iter().map(|word| (*word).to_owned()).collect()))
    }

    #[test]
    fn an_equals_sign_separates_an_option_from_its_value() {
        assert_eq!(run(&["--source=a=b", "--full"]), words(&["--source", "a=b", "--full"]));
        assert_eq!(run(&["--source="]), words(&["--source", ""]));
    }

    #[test]
    fn a_value_is_never_taken_apart() {
        assert_eq!(run(&["--source", "-"]), words(&["--source", "-"]));
        assert_eq!(run(&["--region", "-vv"]), words(&["--region", "-vv"]));
        assert_eq!(run(&["--region=--help"]), words(&["--region", "--help"]));
    }

    #[test]
    fn short_switches_may_stand_together() {
        assert_eq!(run(&["-vv", "-nq"]), words(&["-v", "-v", "-n", "-q"]));
    }

    #[test]
    fn help_and_version_win_wherever_they_stand() {
        assert_eq!(run(&["--full", "-h"]), Ok(Argv::Help));
        assert_eq!(run(&["--source", "x", "--help", "--bad"]), Ok(Argv::Help));
        assert_eq!(run(&["--version"]), Ok(Argv::Version));
        assert_eq!(run(&["-V"]), Ok(Argv::Version));
    }

    #[test]
    fn errors_name_the_option_and_not_its_value() {
        for (given, wanted) in [
            (&["--sauce=https://u:secret@h/r"][..], "unknown option --sauce"),
            (&["--full=yes"], "--full takes no value"),
            (&["--source"], "--source needs a value"),
            (&["--source", "--target", "s3://b"], "--source needs a value"),
            (&["-vx"], "unknown option -x"),
            (&["https://u:secret@h/r"], "unexpected argument; sources and targets need"),
            (&["u:secret@h:r"], "unexpected argument; sources and targets need"),
            (&["-"], "unexpected argument; sources"),
            (&[""], "unexpected argument; sources"),
            (&["glpat-x7Yq"], "unexpected argument; sources"),
            (&["help"], "unexpected argument 'help'"),
            (&["-q", "verify"], "unexpected argument 'verify': a command must come first"),
            (&["a\u{1b}b"], "unexpected argument; sources"),
        ] {
            let error = run(given).unwrap_err();
            assert!(error.starts_with(wanted), "{given:?}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
