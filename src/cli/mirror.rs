//! The command line of the default action: mirror repositories.

use std::io::Read;
use std::time::Duration;

use super::args::MirrorArgs;
use super::catalog::{catalog, public_url};
use super::command::{CatalogCommand, MirrorCommand};
use super::error::CliError;
use super::manifest::Pair;
use super::pairs::{pairs, warning};
use super::settings::{
    Environment, Settings, fields_of, output, settings, shared_means, store_args, written_args,
};
use super::urls;
use crate::git::refs::RefFilter;
use crate::mirror::{Layout, Options};

pub(super) fn mirror(
    args: MirrorArgs,
    env: &Environment<'_>,
    stdin: &mut dyn Read,
) -> Result<MirrorCommand, CliError> {
    let pairs = pairs(&args, stdin)?;
    let is_bundle =
        |pair: &Pair| matches!(pair.source, urls::SourceUrl::Bundle(_) | urls::SourceUrl::Stdin);
    if args.lfs_dir.is_some() && !pairs.iter().any(is_bundle) {
        return Err(CliError::new("--lfs-dir is only for bundles, and no source is a bundle"));
    }
    let warning = warning(&args, pairs.iter().map(|pair| &pair.source));
    let jobs = args.jobs.unwrap_or(1);
    let options = options(&args, jobs)?;
    let options_concurrency = options.concurrency;
    let settings = settings(&args, env, options.concurrency + jobs)?;
    refuse_itself(&pairs, &settings)?;
    Ok(MirrorCommand {
        pairs,
        settings,
        options,
        jobs,
        fail_fast: args.fail_fast,
        warning,
        index: index_of_run(&args, env, options_concurrency)?,
        timeout: args.timeout.map(Duration::from_secs),
        output: output(args, env)?,
    })
}

/// The index that a run of the mirror brings up to date at its end, with the run's own settings.
fn index_of_run(
    args: &MirrorArgs,
    env: &Environment<'_>,
    concurrency: usize,
) -> Result<Option<Box<CatalogCommand>>, CliError> {
    let target = match &args.index[..] {
        [] if args.public_url.is_empty() => return Ok(None),
        [] => return Err(CliError::new("--public-url needs --index")),
        [one] => urls::TargetUrl::parse(one)?,
        _ => return Err(CliError::new("--index was given twice")),
    };
    let quiet = MirrorArgs { quiet: true, ..MirrorArgs::default() };
    let like = store_args!(args, written_args!(args, quiet));
    let public_url = public_url(&args.public_url)?;
    catalog(vec![target], public_url, false, Some(concurrency), like, env).map(Some)
}

/// A mirror cannot be copied onto itself. The same bucket and prefix in another store is another mirror.
fn refuse_itself(pairs: &[Pair], settings: &Settings) -> Result<(), CliError> {
    let other = settings.mirror_source.endpoint.as_ref();
    let is_elsewhere = other.is_some_and(|other| settings.endpoint.as_ref() != Some(other));
    let is_itself = |pair: &&Pair| {
        let is_same = pair.source == urls::SourceUrl::Mirror(pair.target.clone());
        is_same && !(is_elsewhere && matches!(pair.target, urls::TargetUrl::S3 { .. }))
    };
    match pairs.iter().find(is_itself) {
        Some(pair) => Err(CliError::new(format!(
            "a mirror cannot be copied onto itself: {} is source and target",
            pair.target
        ))),
        None => Ok(()),
    }
}

fn options(args: &MirrorArgs, jobs: usize) -> Result<Options, CliError> {
    let defaults = Options::default();
    let (concurrency, memory_bytes) = shared_means(args, jobs)?;
    let refs = RefFilter::new(&args.refs, &args.exclude_refs)
        .map_err(|error| CliError::new(format!("--refs or --exclude-refs: {error}")))?;
    Ok(Options {
        layout: layout(args)?,
        refs,
        lfs: !args.no_lfs,
        full: args.full,
        slices: args.slices,
        bundle: args.bundle,
        bundle_uri: !args.no_bundle_uri,
        force: args.force,
        move_source: args.move_source,
        dry_run: args.dry_run,
        concurrency,
        memory_bytes,
        max_packs: args.max_packs.unwrap_or(defaults.max_packs),
        max_object_bytes: args.max_object_size.unwrap_or(defaults.max_object_bytes),
        keep_history: args.keep_history,
        ..defaults
    })
}

/// A bundle has a pack that is stored.
fn layout(args: &MirrorArgs) -> Result<Layout, CliError> {
    match (args.bundle, args.layout) {
        (true, Some(Layout::Loose)) => {
            Err(CliError::new("--bundle needs packs: --layout pack, not loose"))
        }
        (true, _) => Ok(Layout::Pack),
        (false, layout) => Ok(layout.unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::{Addressing, ProgressMode};
    use crate::cli::settings::{MirrorSourceSettings, Output, Verbosity};
    use crate::cli::testing::{PAIR, mirror as run};

    fn with(options: &str) -> Result<MirrorCommand, String> {
        run(&format!("{PAIR} {options}"), &[], "")
    }

    /// The same bucket and prefix in another store is another mirror.
    #[test]
    fn mirror_is_not_copied_onto_itself_but_to_its_namesake_in_another_store() {
        let onto_itself = |line: &str| {
            let env = [("AWS_ENDPOINT_URL_S3", "http://a")];
            let error = run(line, &env, "").err();
            error.is_some_and(|error| error.contains("onto itself"))
        };
        let s3 = "--source mirror:s3://b/a --target s3://b/a";
        assert!(onto_itself(s3));
        assert!(onto_itself(&format!("{s3} --source-endpoint-url http://a/")));
        assert!(!onto_itself(&format!("{s3} --source-endpoint-url http://b")));
        assert!(!onto_itself("--source mirror:s3://b/a --target s3://b/c"));
        let dir = "--source mirror:file:///d/a --target file:///d/a";
        assert!(onto_itself(&format!("{dir} --source-endpoint-url http://b")));
    }

    #[test]
    fn defaults_are_those_of_the_contract() {
        let command = with("").unwrap();
        assert_eq!(command.pairs[0].to_string(), "https://h/r -> s3://b/p");
        let options = &command.options;
        assert_eq!((options.layout, options.lfs), (Layout::Auto, true));
        assert!(!(options.full || options.force || options.dry_run));
        assert_eq!((options.concurrency, options.memory_bytes), (64, 64 << 20));
        assert_eq!((options.max_packs, command.jobs, command.fail_fast), (20, 1, false));
        assert_eq!(command.settings, Settings { connections: 65, ..Settings::default() });
        assert_eq!(command.output, Output { color: true, ..Output::default() });
    }

    #[test]
    fn every_option_reaches_its_place() {
        let command = with(
            "--layout=pack --refs refs/heads/* --exclude-refs refs/heads/tmp --no-lfs --full --force --move-source \
             --lfs-allow-other-host --allow-redirect-host \
             -n --concurrency 8 --jobs=2 --memory 32 --fail-fast --endpoint-url http://e:9/ \
             --source-endpoint-url http://s:8 --source-region sr --source-profile sp \
             --source-addressing-style path \
             --region r --profile p --addressing-style path --ca-bundle ca.pem --storage-class S \
             --sse aws:kms --sse-kms-key-id K --acl public-read --source-header-file h -vv --json \
             --progress never --max-packs 7 --metrics-file m.prom --low-speed-limit 7 \
             --low-speed-time=8 --timeout 9 --max-object-size 2GiB",
        )
        .unwrap();
        let options = &command.options;
        assert_eq!((options.layout, options.lfs), (Layout::Pack, false));
        assert!(options.move_source);
        assert!(options.full && options.force && options.dry_run && command.fail_fast);
        assert_eq!((options.concurrency, options.memory_bytes), (8, 32 << 20));
        assert_eq!((options.max_packs, command.jobs), (7, 2));
        assert_eq!(options.max_object_bytes, 2 << 30);
        assert_eq!(command.timeout, Some(Duration::from_secs(9)));
        let some = |text: &str| Some(text.to_owned());
        let wanted = Settings {
            connections: 10,
            memory_bytes: Some(16 << 20),
            ca_bundle: Some("ca.pem".into()),
            lfs_allow_other_host: true,
            lfs_dir: None,
            allow_redirect_host: true,
            low_speed_limit: Some(7),
            low_speed_time: Some(Duration::from_secs(8)),
            source_header_file: Some("h".into()),
            endpoint: some("http://e:9"),
            mirror_source: MirrorSourceSettings {
                endpoint: some("http://s:8"),
                region: some("sr"),
                profile: some("sp"),
                addressing: Some(Addressing::Path),
            },
            region: some("r"),
            profile: some("p"),
            profile_from_flag: true,
            addressing: Addressing::Path,
            storage_class: some("S"),
            sse: some("aws:kms"),
            sse_kms_key_id: some("K"),
            acl: some("public-read"),
            max_attempts: None,
        };
        assert_eq!(command.settings, wanted);
        let wanted = Output {
            verbosity: Verbosity::Debug,
            json: true,
            progress: ProgressMode::Never,
            rust_log: None,
            color: true,
            columns: None,
            metrics_file: Some("m.prom".into()),
        };
        assert_eq!(command.output, wanted);
    }

    #[test]
    fn values_out_of_range_are_refused_with_what_is_wanted() {
        for (options, wanted) in [
            ("--layout tight", "expected auto, loose or pack"),
            ("--concurrency 0", "expected a number from 1 to 1024"),
            ("--concurrency +5", "expected a number from 1 to 1024"),
            ("--concurrency 99999999999999999999999", "expected a number from 1 to 1024"),
            ("--concurrency=", "expected a number from 1 to 1024"),
            ("--jobs 257", "expected a number from 1 to 256"),
            ("--memory 7", "expected a number from 8 to 1048576"),
            ("--max-packs 0", "expected a number from 1 to"),
            ("--low-speed-limit -1", "expected a number from 0 to"),
            ("--timeout 0", "expected a number from 1 to"),
            ("--max-object-size 0", "expected a size"),
            ("--max-object-size 5q", "expected a size"),
            ("--max-object-size g", "expected a size"),
            ("--max-object-size 5ib", "expected a size"),
            ("--max-object-size 99999999t", "expected a size"),
            ("--addressing-style dns", "expected auto, path or virtual"),
            ("--progress yes", "expected auto, always or never"),
            ("--region=", "expected printable ASCII"),
            ("--storage-class=ä", "expected printable ASCII"),
            ("--endpoint-url ftp://x", "--endpoint-url: expected https://"),
            ("--endpoint-url http://a --endpoint-url http://b", "--endpoint-url was given twice"),
            ("--layout pack --layout loose", "duplicate values"),
            ("--bundle --layout loose", "needs packs"),
            ("--sse-kms-key-id K", "--sse-kms-key-id needs --sse"),
            ("--jobs 9 --concurrency 8", "--jobs 9 share --concurrency 8"),
            ("--jobs 9", "--jobs 9 share --memory 64: at least 8 MiB each"),
            ("-q -v", "-q conflicts with -v"),
            ("--shard 0/2", "--shard needs --manifest"),
            ("--manifest -", "--manifest conflicts with"),
            ("--bogus", "unknown option --bogus"),
            ("-x", "unknown option -x"),
            ("s3://b/p", "unexpected argument"),
        ] {
            let error = with(options).expect_err(options);
            assert!(error.contains(wanted), "{options}: {error}");
        }
        let error = run(PAIR, &[("AWS_ENDPOINT_URL", "minio:9000")], "").unwrap_err();
        assert!(error.starts_with("AWS_ENDPOINT_URL: "), "{error}");
        let error = run(PAIR, &[("AWS_MAX_ATTEMPTS", "many")], "").unwrap_err();
        assert!(error.starts_with("AWS_MAX_ATTEMPTS: "), "{error}");
        let error = run(PAIR, &[("GIT_HTTP_LOW_SPEED_TIME", "5m")], "").unwrap_err();
        assert!(error.starts_with("GIT_HTTP_LOW_SPEED_TIME: "), "{error}");
    }
}
