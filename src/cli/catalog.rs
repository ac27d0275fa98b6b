//! The command lines of `list` and `index`.

use argh::ArgsInfo;

use super::args::{CatalogArgs, MirrorArgs};
use super::argv::{self, Argv, from_args};
use super::command::{CatalogCommand, Command};
use super::error::CliError;
use super::help;
use super::settings::{Environment, output, settings};
use super::urls::{self, TargetUrl};
use crate::run::Cancel;

/// `list`.
pub(super) fn list(words: &[String], env: &Environment<'_>) -> Result<Command, CliError> {
    match parse(words, env, help::LIST)? {
        Parsed::Print(command) => Ok(command),
        Parsed::Catalog(catalog) => Ok(Command::List(catalog)),
    }
}

/// `index`.
pub(super) fn index(words: &[String], env: &Environment<'_>) -> Result<Command, CliError> {
    match parse(words, env, help::INDEX)? {
        Parsed::Print(command) => Ok(command),
        Parsed::Catalog(catalog) if catalog.targets.len() > 1 => {
            Err(CliError::new("index takes one --target"))
        }
        Parsed::Catalog(catalog) => Ok(Command::Index(catalog)),
    }
}

enum Parsed {
    Print(Command),
    Catalog(Box<CatalogCommand>),
}

fn parse(words: &[String], env: &Environment<'_>, help: &'static str) -> Result<Parsed, CliError> {
    let args = match argv::normalise(words, CatalogArgs::get_args_info().flags)? {
        Argv::Help => return Ok(Parsed::Print(Command::Print(help.to_owned()))),
        Argv::Version => return Ok(Parsed::Print(Command::Print(help::version()))),
        Argv::Words(words) => from_args::<CatalogArgs>(&words)?,
    };
    if args.target.is_empty() {
        return Err(CliError::new("--target is required"));
    }
    let targets =
        args.target.iter().map(|text| TargetUrl::parse(text)).collect::<Result<_, _>>()?;
    let like = MirrorArgs {
        endpoint_url: args.endpoint_url,
        region: args.region,
        profile: args.profile,
        addressing_style: args.addressing_style,
        ca_bundle: args.ca_bundle,
        quiet: args.quiet,
        verbose: args.verbose,
        json: args.json,
        ..MirrorArgs::default()
    };
    let public_url = public_url(&args.public_url)?;
    catalog(targets, public_url, args.count, args.concurrency, like, env).map(Parsed::Catalog)
}

pub(super) fn public_url(given: &[String]) -> Result<Option<String>, CliError> {
    match given {
        [] => Ok(None),
        [one] => urls::endpoint(one, "--public-url").map(Some),
        _ => Err(CliError::new("--public-url was given twice")),
    }
}

/// What `list` and `index` do, with the settings of `like`.
pub(super) fn catalog(
    targets: Vec<urls::TargetUrl>,
    public_url: Option<String>,
    count: bool,
    concurrency: Option<usize>,
    like: MirrorArgs,
    env: &Environment<'_>,
) -> Result<Box<CatalogCommand>, CliError> {
    if public_url.is_some() && targets.len() > 1 {
        return Err(CliError::new("--public-url belongs to one --target"));
    }
    let concurrency = concurrency.unwrap_or(64);
    Ok(Box::new(CatalogCommand {
        targets,
        public_url,
        count,
        concurrency,
        settings: settings(&like, env, concurrency)?,
        output: output(like, env)?,
        cancel: Cancel::default(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::testing::command as run;

    #[test]
    fn unusable_command_lines_are_refused() {
        for (line, wanted) in [
            ("list", "--target is required"),
            ("list --target https://h/m", "target: expected s3://"),
            ("index --target s3://b --target s3://c", "index takes one --target"),
            ("list --target s3://b --target s3://c --public-url https://h", "--public-url belongs"),
            ("list --target s3://b --public-url s3://c", "--public-url: "),
            ("--source https://h/r --target s3://b/r --public-url https://h", "--public-url needs"),
            ("--source https://h/r --target s3://b/r --index https://h", "target: expected s3://"),
        ] {
            let error = run(line).expect_err(line);
            assert!(error.starts_with(wanted), "{line}: {error}");
        }
    }

    #[test]
    fn an_index_is_written_by_itself_or_after_a_run() {
        let line = "index --target s3://b/m/ --public-url https://h/m/";
        let Ok(Command::Index(index)) = run(line) else { panic!("not index") };
        assert_eq!(index.public_url.as_deref(), Some("https://h/m"));
        assert_eq!((index.targets[0].to_string(), index.concurrency), ("s3://b/m".into(), 64));
        let line = "--source https://h/r --target s3://b/r --index s3://b --storage-class X";
        let Ok(Command::Mirror(mirror)) = run(line) else { panic!("not mirror") };
        let index = mirror.index.expect("--index was given");
        assert_eq!(index.targets[0].to_string(), "s3://b");
        assert_eq!(index.settings.storage_class.as_deref(), Some("X"));
    }
}
