//! The command lines of `export` and `import`: a mirror in a file.

use argh::ArgsInfo;

use super::args::{ExportArgs, ImportArgs, MirrorArgs};
use super::argv::{self, Argv, from_args};
use super::command::{Command, ExportCommand, ImportCommand};
use super::error::CliError;
use super::help;
use super::mirror::mirror;
use super::settings::{
    Environment, fields_of, output, settings, shared_means, store_args, written_args,
};
use super::urls::TargetUrl;
use crate::run::Cancel;

pub(super) fn export(words: &[String], env: &Environment<'_>) -> Result<Command, CliError> {
    let args = match argv::normalise(words, ExportArgs::get_args_info().flags)? {
        Argv::Help => return Ok(Command::Print(help::EXPORT.to_owned())),
        Argv::Version => return Ok(Command::Print(help::version())),
        Argv::Words(words) => from_args::<ExportArgs>(&words)?,
    };
    let others = MirrorArgs {
        concurrency: args.concurrency,
        memory: args.memory,
        quiet: args.quiet,
        verbose: args.verbose,
        json: args.json,
        ..MirrorArgs::default()
    };
    let common = store_args!(args, others);
    let (concurrency, memory_bytes) = shared_means(&common, 1)?;
    Ok(Command::Export(Box::new(ExportCommand {
        target: TargetUrl::parse(&args.target)?,
        since: args.since,
        file: (args.output != "-").then(|| args.output.into()),
        lfs: !args.no_lfs,
        concurrency,
        memory_bytes,
        settings: settings(&common, env, concurrency + 1)?,
        output: output(common, env)?,
        cancel: Cancel::default(),
    })))
}

/// `import --target T TRIP`: what `--source trip:TRIP` does.
pub(super) fn import(words: &[String], env: &Environment<'_>) -> Result<Command, CliError> {
    let flags = ImportArgs::get_args_info().flags;
    let (trip, words) = argv::take_word(words, flags)?;
    let args = match argv::normalise(&words, flags)? {
        Argv::Help => return Ok(Command::Print(help::IMPORT.to_owned())),
        Argv::Version => return Ok(Command::Print(help::version())),
        Argv::Words(words) => from_args::<ImportArgs>(&words)?,
    };
    let state_out = args.state_out.clone();
    if trip.is_none() && state_out.is_none() {
        return Err(CliError::new("import needs the file to read, or - for standard input"));
    }
    if args.dry_run && state_out.is_some() {
        return Err(CliError::new("--dry-run conflicts with --state-out"));
    }
    let (of_settings, of_output) = (as_mirror_args(&args), as_mirror_args(&args));
    let (concurrency, memory_bytes) = shared_means(&of_settings, 1)?;
    let imported = trip.map(|trip| {
        let args = MirrorArgs { source: vec![format!("trip:{trip}")], ..as_mirror_args(&args) };
        mirror(args, env, &mut std::io::empty())
    });
    Ok(Command::Import(Box::new(ImportCommand {
        mirror: imported.transpose()?,
        target: TargetUrl::parse(&args.target)?,
        state_out,
        settings: settings(&of_settings, env, concurrency + 1)?,
        memory_bytes,
        output: output(of_output, env)?,
    })))
}

fn as_mirror_args(args: &ImportArgs) -> MirrorArgs {
    let others = MirrorArgs {
        target: vec![args.target.clone()],
        no_lfs: args.no_lfs,
        force: args.force,
        move_source: args.move_source,
        dry_run: args.dry_run,
        concurrency: args.concurrency,
        memory: args.memory,
        quiet: args.quiet,
        verbose: args.verbose,
        json: args.json,
        progress: args.progress,
        ..MirrorArgs::default()
    };
    store_args!(args, written_args!(args, others))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::testing::command as run;
    use crate::cli::urls::SourceUrl;

    #[test]
    fn export_names_its_file_or_standard_output() {
        for (line, file, since) in [
            ("export --target s3://b/p -o a.tar", Some("a.tar"), None),
            ("export --target s3://b/p --output=a.tar --since s", Some("a.tar"), Some("s")),
            ("export -o - --target file:///m", None, None),
        ] {
            let Ok(Command::Export(export)) = run(line) else { panic!("{line}") };
            assert_eq!(export.file.as_deref(), file.map(std::path::Path::new), "{line}");
            assert_eq!(export.since.as_deref(), since.map(std::path::Path::new), "{line}");
            assert!(export.lfs);
        }
    }

    #[test]
    fn import_takes_its_file_wherever_it_stands() {
        for (line, source) in [
            ("import --target s3://b/p a.tar", "trip:a.tar"),
            ("import a.tar --target s3://b/p", "trip:a.tar"),
            ("import --target=s3://b/p - -v", "trip:-"),
            ("import --state-out s a.tar --target s3://b/p", "trip:a.tar"),
        ] {
            let Ok(Command::Import(import)) = run(line) else { panic!("{line}") };
            let pairs = import.mirror.unwrap().pairs;
            assert_eq!(pairs[0].source.to_string(), source, "{line}");
            assert_eq!(pairs[0].source.is_stdin(), source == "trip:-");
            assert_eq!(SourceUrl::parse(source).as_ref(), Ok(&pairs[0].source));
        }
        let Ok(Command::Import(import)) = run("import --target s3://b/p --state-out s") else {
            panic!("not import")
        };
        assert!(import.mirror.is_none() && import.state_out.is_some());
    }

    #[test]
    fn unusable_command_lines_are_refused() {
        for (line, wanted) in [
            ("export --target s3://b/p", "Required options"),
            ("export -o a.tar", "Required options"),
            ("export --target s3://b/p -o", "--output needs a value"),
            ("export --target s3://b/p -o a.tar b.tar", "unexpected argument"),
            ("export --target https://h/m -o a.tar", "target: expected s3://"),
            ("import --target s3://b/p", "import needs the file to read"),
            ("import --target s3://b/p a.tar b.tar", "unexpected arguments"),
            ("import --target s3://b/p a.tar -n --state-out s", "--dry-run conflicts with"),
            ("import a.tar", "Required options"),
            ("import --target s3://b/p a.tar --source https://h/r", "unknown option --source"),
        ] {
            let error = run(line).expect_err(line);
            assert!(error.starts_with(wanted), "{line}: {error}");
        }
        for (line, wanted) in [("export -h", help::EXPORT), ("import --help", help::IMPORT)] {
            let Ok(Command::Print(text)) = run(line) else { panic!("{line}") };
            assert_eq!(text, wanted);
        }
    }
}
