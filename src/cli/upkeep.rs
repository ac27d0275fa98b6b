//! The command lines of `verify` and `gc`.

use std::time::Duration;

use argh::ArgsInfo;

use super::args::{GcArgs, MirrorArgs, VerifyArgs};
use super::argv::{self, Argv};
use super::command::{
    Command, Environment, GcCommand, Upkeep, UpkeepTarget, VerifyCommand, from_args, output,
    settings,
};
use super::error::CliError;
use super::help;
use super::urls::{self, TargetUrl};
use crate::run::Cancel;

const DEFAULT_GRACE: Duration = Duration::from_secs(24 * 3600);

/// Both structs have the same fields besides their own; argh can't share them.
macro_rules! as_mirror_args {
    ($args:ident) => {
        MirrorArgs {
            target: $args.target,
            concurrency: $args.concurrency,
            memory: $args.memory,
            endpoint_url: $args.endpoint_url,
            region: $args.region,
            profile: $args.profile,
            addressing_style: $args.addressing_style,
            ca_bundle: $args.ca_bundle,
            quiet: $args.quiet,
            verbose: $args.verbose,
            json: $args.json,
            ..MirrorArgs::default()
        }
    };
}

pub(super) fn verify(words: &[String], env: &Environment<'_>) -> Result<Command, CliError> {
    match argv::normalise(words, VerifyArgs::get_args_info().flags)? {
        Argv::Help => Ok(Command::Print(help::VERIFY.to_owned())),
        Argv::Version => Ok(Command::Print(help::version())),
        Argv::Words(words) => {
            let args = from_args::<VerifyArgs>(&words)?;
            let quick = args.quick;
            let upkeep = upkeep(as_mirror_args!(args), true, env)?;
            Ok(Command::Verify(Box::new(VerifyCommand { upkeep, quick })))
        }
    }
}

pub(super) fn gc(words: &[String], env: &Environment<'_>) -> Result<Command, CliError> {
    match argv::normalise(words, GcArgs::get_args_info().flags)? {
        Argv::Help => Ok(Command::Print(help::GC.to_owned())),
        Argv::Version => Ok(Command::Print(help::version())),
        Argv::Words(words) => {
            let args = from_args::<GcArgs>(&words)?;
            let (grace, dry_run) = (args.grace.unwrap_or(DEFAULT_GRACE), args.dry_run);
            let upkeep = upkeep(as_mirror_args!(args), false, env)?;
            Ok(Command::Gc(Box::new(GcCommand { upkeep, grace, dry_run })))
        }
    }
}

fn upkeep(args: MirrorArgs, http: bool, env: &Environment<'_>) -> Result<Upkeep, CliError> {
    let target = match args.target.as_slice() {
        [one] => target(one, http)?,
        [] => return Err(CliError::new("no --target")),
        _ => return Err(CliError::new("--target was given twice")),
    };
    let concurrency = args.concurrency.unwrap_or(64);
    Ok(Upkeep {
        target,
        settings: settings(&args, env, concurrency + 1)?,
        concurrency,
        memory_bytes: args.memory.unwrap_or(64) << 20,
        output: output(args, env)?,
        cancel: Cancel::default(),
    })
}

fn target(text: &str, http: bool) -> Result<UpkeepTarget, CliError> {
    if http && (text.starts_with("http://") || text.starts_with("https://")) {
        return urls::endpoint(text, "target").map(UpkeepTarget::Http);
    }
    TargetUrl::parse(text).map(UpkeepTarget::Store)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::parse;
    use std::ffi::OsString;

    fn run(line: &str) -> Result<Command, String> {
        let words = line.split_whitespace().map(OsString::from);
        parse(words, &|_| None, &mut std::io::empty()).map_err(|error| error.to_string())
    }

    fn grace(text: &str) -> Result<Duration, String> {
        match run(&format!("gc --target s3://b/p --grace {text}"))? {
            Command::Gc(command) => Ok(command.grace),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn times_have_a_unit() {
        for (text, seconds) in
            [("90s", 90), ("30m", 1800), ("24h", 86400), ("7d", 604800), ("0", 0)]
        {
            assert_eq!(grace(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for bad in
            ["", "24", "h", "-1h", "+1h", "1.5h", "1w", "1h30m", "9999999999999999999d", "1ü"]
        {
            assert!(grace(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn defaults_are_those_of_the_contract() {
        let Ok(Command::Gc(gc)) = run("gc --target file:///m") else { panic!("not gc") };
        assert_eq!((gc.grace, gc.dry_run), (DEFAULT_GRACE, false));
        let Ok(Command::Verify(verify)) = run("verify --target https://h/m/ --quick") else {
            panic!("not verify")
        };
        assert!(verify.quick);
        assert_eq!(verify.upkeep.target, UpkeepTarget::Http("https://h/m".to_owned()));
    }

    #[test]
    fn unusable_command_lines_are_refused() {
        for (line, wanted) in [
            ("gc", "no --target"),
            ("verify", "no --target"),
            ("gc --target https://h/m", "target: want s3://"),
            ("gc --target s3://b --target s3://c", "--target was given twice"),
            ("verify --target s3://b -n", "unknown option -n"),
            ("gc --target s3://b --quick", "unknown option --quick"),
            ("verify --target ftp://h/m", "target: want s3://"),
        ] {
            let error = run(line).expect_err(line);
            assert!(error.starts_with(wanted), "{line}: {error}");
        }
    }

    #[test]
    fn each_has_its_help() {
        for (line, wanted) in [("verify -h", help::VERIFY), ("gc --help", help::GC)] {
            let Ok(Command::Print(text)) = run(line) else { panic!("{line}") };
            assert_eq!(text, wanted);
        }
    }
}
