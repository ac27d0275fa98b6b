//! The command lines of `verify`, `gc`, `refs` and `restore`.

use std::io::Read;
use std::time::Duration;

use argh::ArgsInfo;

use super::args::{GcArgs, MirrorArgs, RefsArgs, RestoreArgs, VerifyArgs};
use super::argv::{self, Argv, from_args};
use super::command::{
    Command, GcCommand, MaintainedMirror, Maintenance, MaintenanceTarget, RefsCommand,
    RestoreCommand, VerifyCommand,
};
use super::error::CliError;
use super::help;
use super::manifest::Pair;
use super::pairs::{pairs, warning};
use super::settings::{
    Environment, fields_of, output, settings, shared_means, store_args, written_args,
};
use super::urls::{self, SourceUrl, TargetUrl};
use crate::run::Cancel;

const DEFAULT_GRACE: Duration = Duration::from_secs(24 * 3600);

/// Both structs have the same fields besides their own; argh can't share them.
macro_rules! as_mirror_args {
    ($args:ident) => {
        as_mirror_args!($args, MirrorArgs::default())
    };
    ($args:ident, $others:expr) => {{
        let others = store_args!($args, $others);
        MirrorArgs {
            target: $args.target,
            concurrency: $args.concurrency,
            memory: $args.memory,
            quiet: $args.quiet,
            verbose: $args.verbose,
            json: $args.json,
            progress: $args.progress,
            manifest: $args.manifest,
            shard: $args.shard,
            jobs: $args.jobs,
            metrics_file: $args.metrics_file,
            ..others
        }
    }};
}

pub(super) fn verify(
    words: &[String],
    env: &Environment<'_>,
    stdin: &mut dyn Read,
) -> Result<Command, CliError> {
    match argv::normalise(words, VerifyArgs::get_args_info().flags)? {
        Argv::Help => Ok(Command::Print(help::VERIFY.to_owned())),
        Argv::Version => Ok(Command::Print(help::version())),
        Argv::Words(words) => {
            let args = from_args::<VerifyArgs>(&words)?;
            let (quick, sample, repair) = (args.quick, args.sample, args.repair);
            if repair && (quick || sample.is_some()) {
                let what = if quick { "--quick" } else { "--sample" };
                return Err(CliError::new(format!(
                    "--repair conflicts with {what}, because it reads everything"
                )));
            }
            if quick && sample.is_some() {
                return Err(CliError::new("--quick conflicts with --sample"));
            }
            if !repair && !args.source.is_empty() {
                return Err(CliError::new("--source needs --repair"));
            }
            let of_what_is_written = MirrorArgs {
                source: args.source,
                source_header_file: args.source_header_file,
                ..written_args!(args, MirrorArgs::default())
            };
            let args = as_mirror_args!(args, of_what_is_written);
            // A web server lists nothing.
            let maintenance = maintenance(args, !repair && sample.is_none(), env, stdin)?;
            Ok(Command::Verify(Box::new(VerifyCommand { maintenance, quick, sample, repair })))
        }
    }
}

pub(super) fn gc(
    words: &[String],
    env: &Environment<'_>,
    stdin: &mut dyn Read,
) -> Result<Command, CliError> {
    match argv::normalise(words, GcArgs::get_args_info().flags)? {
        Argv::Help => Ok(Command::Print(help::GC.to_owned())),
        Argv::Version => Ok(Command::Print(help::version())),
        Argv::Words(words) => {
            let args = from_args::<GcArgs>(&words)?;
            let (grace, dry_run) = (args.grace.unwrap_or(DEFAULT_GRACE), args.dry_run);
            let maintenance = maintenance(as_mirror_args!(args), false, env, stdin)?;
            Ok(Command::Gc(Box::new(GcCommand { maintenance, grace, dry_run })))
        }
    }
}

pub(super) fn refs(
    words: &[String],
    env: &Environment<'_>,
    stdin: &mut dyn Read,
) -> Result<Command, CliError> {
    match argv::normalise(words, RefsArgs::get_args_info().flags)? {
        Argv::Help => Ok(Command::Print(help::REFS.to_owned())),
        Argv::Version => Ok(Command::Print(help::version())),
        Argv::Words(words) => {
            let args = from_args::<RefsArgs>(&words)?;
            let maintenance = maintenance(as_mirror_args!(args), false, env, stdin)?;
            Ok(Command::Refs(Box::new(RefsCommand { maintenance })))
        }
    }
}

pub(super) fn restore(
    words: &[String],
    env: &Environment<'_>,
    stdin: &mut dyn Read,
) -> Result<Command, CliError> {
    match argv::normalise(words, RestoreArgs::get_args_info().flags)? {
        Argv::Help => Ok(Command::Print(help::RESTORE.to_owned())),
        Argv::Version => Ok(Command::Print(help::version())),
        Argv::Words(words) => {
            let args = from_args::<RestoreArgs>(&words)?;
            let at = args.at.ok_or_else(|| CliError::new("no --at"))?;
            if args.target.is_empty() {
                return Err(CliError::new("--target is required"));
            }
            if args.target.len() > 1 {
                return Err(CliError::new("restore takes one --target"));
            }
            let into = args.into.as_deref().map(TargetUrl::parse).transpose()?;
            let dry_run = args.dry_run;
            let args = MirrorArgs {
                target: args.target,
                concurrency: args.concurrency,
                memory: args.memory,
                quiet: args.quiet,
                verbose: args.verbose,
                json: args.json,
                progress: args.progress,
                ..store_args!(args, written_args!(args, MirrorArgs::default()))
            };
            let maintenance = maintenance(args, false, env, stdin)?;
            if into.clone().map(MaintenanceTarget::Store).as_ref()
                == Some(&maintenance.mirrors[0].target)
            {
                return Err(CliError::new("--as is the same as --target: omit it"));
            }
            Ok(Command::Restore(Box::new(RestoreCommand { maintenance, at, into, dry_run })))
        }
    }
}

fn maintenance(
    args: MirrorArgs,
    http: bool,
    env: &Environment<'_>,
    stdin: &mut dyn Read,
) -> Result<Maintenance, CliError> {
    let mirrors = mirrors(&args, http, stdin)?;
    let jobs = args.jobs.unwrap_or(1);
    let (concurrency, memory_bytes) = shared_means(&args, jobs)?;
    let warning = warning(&args, mirrors.iter().filter_map(|mirror| mirror.source.as_ref()));
    Ok(Maintenance {
        mirrors,
        warning,
        settings: settings(&args, env, concurrency + jobs)?,
        jobs,
        concurrency,
        memory_bytes,
        output: output(args, env)?,
        cancel: Cancel::default(),
    })
}

/// Targets alone, or the pairs of a manifest.
fn mirrors(
    args: &MirrorArgs,
    http: bool,
    stdin: &mut dyn Read,
) -> Result<Vec<MaintainedMirror>, CliError> {
    if args.manifest.is_some() {
        let of_pair = |Pair { source, target }| MaintainedMirror {
            target: MaintenanceTarget::Store(target),
            source: Some(source),
        };
        return Ok(pairs(args, stdin)?.into_iter().map(of_pair).collect());
    }
    if args.shard.is_some() {
        return Err(CliError::new("--shard needs --manifest"));
    }
    if args.target.is_empty() {
        return Err(CliError::new("--target or --manifest is required"));
    }
    if !args.source.is_empty() && args.source.len() != args.target.len() {
        let (sources, targets) = (args.source.len(), args.target.len());
        return Err(CliError::new(format!(
            "{sources} --source but {targets} --target: each --source needs its --target"
        )));
    }
    let mut mirrors: Vec<MaintainedMirror> = Vec::new();
    for (number, text) in args.target.iter().enumerate() {
        let source = args.source.get(number).map(|text| SourceUrl::parse(text)).transpose()?;
        let mirror = MaintainedMirror { target: target(text, http)?, source };
        if mirrors.iter().any(|other| other.target == mirror.target) {
            return Err(CliError::new(format!("--target {} was given twice", mirror.target)));
        }
        mirrors.push(mirror);
    }
    Ok(mirrors)
}

fn target(text: &str, http: bool) -> Result<MaintenanceTarget, CliError> {
    if http && (text.starts_with("http://") || text.starts_with("https://")) {
        return urls::endpoint(text, "target").map(MaintenanceTarget::Http);
    }
    TargetUrl::parse(text).map(MaintenanceTarget::Store)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;
    use crate::cli::parse;
    use crate::cli::testing::command as run;

    fn grace(text: &str) -> Result<Duration, String> {
        match run(&format!("gc --target s3://b/p --grace {text}"))? {
            Command::Gc(command) => Ok(command.grace),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn password_on_the_command_line_of_a_repair_causes_a_warning() {
        let warning = |source: &str| match run(&format!(
            "verify --repair --target s3://b/p --source {source}"
        )) {
            Ok(Command::Verify(command)) => command.maintenance.warning.unwrap_or_default(),
            other => panic!("{other:?}"),
        };
        assert_eq!(warning("https://h/r"), "");
        let said = warning("https://me:hush@h/r");
        assert!(said.contains("--source contains a password") && !said.contains("hush"), "{said}");
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
        let target = MaintenanceTarget::Http("https://h/m".to_owned());
        assert_eq!(verify.maintenance.mirrors, [MaintainedMirror { target, source: None }]);
        assert_eq!((verify.maintenance.jobs, verify.maintenance.memory_bytes), (1, 64 << 20));
    }

    #[test]
    fn unusable_command_lines_are_refused() {
        for (line, wanted) in [
            ("gc", "--target or --manifest is required"),
            ("verify", "--target or --manifest is required"),
            ("gc --target https://h/m", "target: expected s3://"),
            ("gc --target s3://b --target s3://b/", "--target s3://b was given twice"),
            ("gc --target s3://b --shard 0/2", "--shard needs --manifest"),
            ("verify --target s3://b --manifest m", "--manifest conflicts with"),
            ("verify --target s3://b --jobs 9 --concurrency 8", "--jobs 9 share --concurrency 8"),
            ("verify --target s3://b --jobs 9", "--jobs 9 share --memory 64"),
            ("verify --target s3://b --source https://h/r", "--source needs --repair"),
            ("verify --target s3://b --repair --quick", "--repair conflicts with --quick"),
            ("verify --target https://h/m --repair", "target: expected s3://"),
            ("verify --target https://h/m --sample 1/30", "target: expected s3://"),
            ("verify --target s3://b --sample 1/30 --quick", "--quick conflicts with --sample"),
            ("verify --target s3://b --sample 0/30", "cannot use option"),
            ("verify --target s3://b --sample 31/30", "cannot use option"),
            (
                "verify --repair --target s3://b --target s3://c --source https://h/r",
                "1 --source but 2 --target: each --source needs its",
            ),
            ("verify --target s3://b -n", "unknown option -n"),
            ("refs", "--target or --manifest is required"),
            ("refs --target s3://b --at x", "unknown option --at"),
            ("restore --target s3://b", "no --at"),
            ("restore --at 20260101T000000Z", "--target is required"),
            ("restore --target s3://b --target s3://c --at x", "restore takes one --target"),
            ("restore --target s3://b --at x --as s3://b/", "--as is the same as --target"),
            ("restore --target s3://b --at x --as https://h/m", "target: expected s3://"),
            ("gc --target s3://b --quick", "unknown option --quick"),
            ("verify --target ftp://h/m", "target: expected s3://"),
        ] {
            let error = run(line).expect_err(line);
            assert!(error.starts_with(wanted), "{line}: {error}");
        }
    }

    #[test]
    fn manifest_names_targets_with_their_sources() {
        let words = ["verify", "--manifest", "-", "--jobs", "2"].map(OsString::from);
        let mut manifest = &b"https://h/a s3://b/a\nhttps://h/b s3://b/b\n"[..];
        let Ok(Command::Verify(verify)) = parse(words, &|_| None, &mut manifest) else {
            panic!("not verify")
        };
        let mirrors = &verify.maintenance.mirrors;
        let text: Vec<String> = mirrors.iter().map(|mirror| mirror.target.to_string()).collect();
        assert_eq!(text, ["s3://b/a", "s3://b/b"]);
        assert!(mirrors.iter().all(|mirror| mirror.source.is_some()));
    }

    #[test]
    fn each_has_its_help() {
        for (line, wanted) in [
            ("verify -h", help::VERIFY),
            ("gc --help", help::GC),
            ("refs -h", help::REFS),
            ("restore --help", help::RESTORE),
        ] {
            let Ok(Command::Print(text)) = run(line) else { panic!("{line}") };
            assert_eq!(text, wanted);
        }
    }
}
