//! What all sub-commands share: how sources and stores are reached, what is printed, and how much
//! memory and how many requests there are.
//!
//! A flag beats the environment. Nothing is read here but the environment and, for `--lfs-dir`, whether
//! the directory is there.

use std::path::PathBuf;
use std::time::Duration;

use super::args::{Addressing, MIN_MEMORY_MIB, MirrorArgs, ProgressMode};
use super::error::CliError;
use super::urls;
use crate::mirror::Options;

/// What people and scripts get to see.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// How much is said on standard error.
    pub verbosity: Verbosity,
    /// JSON instead of summary lines on standard output.
    pub json: bool,
    /// Bars.
    pub progress: ProgressMode,
    /// `RUST_LOG`, which beats `verbosity` for the log.
    pub rust_log: Option<String>,
    /// Colours may be used: `NO_COLOR` is unset or empty.
    pub color: bool,
    /// `COLUMNS`: how wide bars are where no terminal says it.
    pub columns: Option<u16>,
    /// Where the Prometheus textfile goes.
    pub metrics_file: Option<PathBuf>,
}

/// `-q`, nothing, `-v`, `-vv`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verbosity {
    /// Errors only.
    Quiet,
    /// Warnings and the summary.
    #[default]
    Normal,
    /// What is happening.
    Info,
    /// Everything that helps to find a fault.
    Debug,
}

/// How to reach sources and stores: flags, or else the environment. What is `None` is for the
/// profile files to say, or is left at its default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Connections that may be open at once: requests in flight of all jobs, and their sources'.
    pub connections: usize,
    /// `--memory` in bytes, a job's share of it.
    pub memory_bytes: Option<u64>,
    /// Extra trusted CAs: `--ca-bundle`. (Those of the environment are `http::Environment`'s.)
    pub ca_bundle: Option<PathBuf>,
    /// May `.lfsconfig` name an LFS server on another host than the source's?
    pub lfs_allow_other_host: bool,
    /// `--lfs-dir`, by its absolute path: where the LFS objects of bundles are.
    pub lfs_dir: Option<PathBuf>,
    /// Follow a source's redirect to another host.
    pub allow_redirect_host: bool,
    /// `--low-speed-limit`, or else `GIT_HTTP_LOW_SPEED_LIMIT`: bytes a second.
    pub low_speed_limit: Option<u64>,
    /// `--low-speed-time`, or else `GIT_HTTP_LOW_SPEED_TIME`.
    pub low_speed_time: Option<Duration>,
    /// File of header lines for the source.
    pub source_header_file: Option<PathBuf>,
    /// `--endpoint-url`, or else `AWS_ENDPOINT_URL_S3`, or else `AWS_ENDPOINT_URL`: no slash at its
    /// end.
    pub endpoint: Option<String>,
    /// `--region`, or else `AWS_REGION`, or else `AWS_DEFAULT_REGION`.
    pub region: Option<String>,
    /// `--profile`, or else `AWS_PROFILE`.
    pub profile: Option<String>,
    /// Was the profile named on the command line? Then it beats keys of the environment.
    pub profile_from_flag: bool,
    /// How a bucket is named in a request.
    pub addressing: Addressing,
    /// What is different for the stores of `mirror:` sources: `--source-endpoint-url` and the like.
    pub mirror_source: MirrorSourceSettings,
    /// `x-amz-storage-class` of what is written.
    pub storage_class: Option<String>,
    /// `x-amz-server-side-encryption` of what is written.
    pub sse: Option<String>,
    /// `x-amz-server-side-encryption-aws-kms-key-id` of what is written.
    pub sse_kms_key_id: Option<String>,
    /// `x-amz-acl` of what is written.
    pub acl: Option<String>,
    /// `AWS_MAX_ATTEMPTS`: tries of one request, the first included.
    pub max_attempts: Option<u32>,
}

/// How to reach the stores of `mirror:` sources, where that differs from those of the targets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MirrorSourceSettings {
    /// `--source-endpoint-url`, without a slash at its end.
    pub endpoint: Option<String>,
    /// `--source-region`.
    pub region: Option<String>,
    /// `--source-profile`.
    pub profile: Option<String>,
    /// `--source-addressing-style`.
    pub addressing: Option<Addressing>,
}

/// The environment; an empty variable counts as unset, as in the AWS CLI and in no-color.org.
pub(super) struct Environment<'a>(pub(super) &'a dyn Fn(&str) -> Option<String>);

impl Environment<'_> {
    pub(super) fn get(&self, name: &str) -> Option<String> {
        (self.0)(name).filter(|value| !value.is_empty())
    }

    pub(super) fn first(&self, names: &[&str]) -> Option<String> {
        names.iter().find_map(|name| self.get(name))
    }
}

/// `MirrorArgs` with fields of the same names of another command's arguments, which argh can't share.
macro_rules! fields_of {
    ($args:ident, [$($field:ident),+], $others:expr) => {
        MirrorArgs { $($field: $args.$field.clone(),)+ ..$others }
    };
}

/// How a command reaches the store that it reads.
macro_rules! store_args {
    ($args:ident, $others:expr) => {
        fields_of!($args, [endpoint_url, region, profile, addressing_style, ca_bundle], $others)
    };
}

/// How a command writes to its store.
macro_rules! written_args {
    ($args:ident, $others:expr) => {
        fields_of!($args, [storage_class, sse, sse_kms_key_id, acl], $others)
    };
}

pub(super) use {fields_of, store_args, written_args};

pub(super) fn settings(
    args: &MirrorArgs,
    env: &Environment<'_>,
    connections: usize,
) -> Result<Settings, CliError> {
    if args.sse_kms_key_id.is_some() && args.sse.is_none() {
        return Err(CliError::new("--sse-kms-key-id needs --sse aws:kms"));
    }
    Ok(Settings {
        connections,
        memory_bytes: args.memory.map(|mib| (mib << 20) / args.jobs.unwrap_or(1).max(1) as u64),
        ca_bundle: args.ca_bundle.clone(),
        lfs_allow_other_host: args.lfs_allow_other_host,
        lfs_dir: args.lfs_dir.as_deref().map(lfs_dir).transpose()?,
        allow_redirect_host: args.allow_redirect_host,
        low_speed_limit: low_speed(args.low_speed_limit, env, "GIT_HTTP_LOW_SPEED_LIMIT")?,
        low_speed_time: low_speed(args.low_speed_time, env, "GIT_HTTP_LOW_SPEED_TIME")?
            .map(Duration::from_secs),
        source_header_file: args.source_header_file.clone(),
        endpoint: endpoint(&args.endpoint_url, env)?,
        mirror_source: MirrorSourceSettings {
            endpoint: match &args.source_endpoint_url[..] {
                [] => None,
                [one] => Some(urls::endpoint(one, "--source-endpoint-url")?),
                _ => return Err(CliError::new("--source-endpoint-url was given twice")),
            },
            region: args.source_region.clone(),
            profile: args.source_profile.clone(),
            addressing: args.source_addressing_style,
        },
        region: args.region.clone().or_else(|| env.first(&["AWS_REGION", "AWS_DEFAULT_REGION"])),
        profile: args.profile.clone().or_else(|| env.first(&["AWS_PROFILE"])),
        profile_from_flag: args.profile.is_some(),
        addressing: args.addressing_style.unwrap_or_default(),
        storage_class: args.storage_class.clone(),
        sse: args.sse.clone(),
        sse_kms_key_id: args.sse_kms_key_id.clone(),
        acl: args.acl.clone(),
        max_attempts: max_attempts(env)?,
    })
}

/// A clone's `.git/lfs`, made absolute.
fn lfs_dir(dir: &std::path::Path) -> Result<PathBuf, CliError> {
    let shown = dir.display();
    if !dir.join("objects").is_dir() {
        let words =
            format!("--lfs-dir {shown}: no directory 'objects' in it; expected a clone's .git/lfs");
        return Err(CliError::new(words));
    }
    let found = dir.canonicalize();
    found.map_err(|error| CliError::new(format!("cannot read --lfs-dir {shown}: {error}")))
}

fn endpoint(flags: &[String], env: &Environment<'_>) -> Result<Option<String>, CliError> {
    match flags {
        [] => {}
        [one] => return urls::endpoint(one, "--endpoint-url").map(Some),
        _ => return Err(CliError::new("--endpoint-url was given twice")),
    }
    for name in ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"] {
        if let Some(url) = env.get(name) {
            return urls::endpoint(&url, name).map(Some);
        }
    }
    Ok(None)
}

fn low_speed(
    flag: Option<u64>,
    env: &Environment<'_>,
    name: &str,
) -> Result<Option<u64>, CliError> {
    let (None, Some(text)) = (flag, env.get(name)) else { return Ok(flag) };
    let number: Option<u32> = text.trim().parse().ok();
    let bad = || CliError::new(format!("{name}: expected a number from 0 to {}", u32::MAX));
    number.map(|number| Some(number.into())).ok_or_else(bad)
}

fn max_attempts(env: &Environment<'_>) -> Result<Option<u32>, CliError> {
    let Some(text) = env.get("AWS_MAX_ATTEMPTS") else { return Ok(None) };
    match text.parse() {
        Ok(number @ 1..=100) => Ok(Some(number)),
        _ => Err(CliError::new("AWS_MAX_ATTEMPTS: expected a number from 1 to 100")),
    }
}

pub(super) fn output(args: MirrorArgs, env: &Environment<'_>) -> Result<Output, CliError> {
    let verbosity = match (args.quiet, args.verbose) {
        (true, 0) => Verbosity::Quiet,
        (true, _) => return Err(CliError::new("-q conflicts with -v")),
        (false, 0) => Verbosity::Normal,
        (false, 1) => Verbosity::Info,
        (false, _) => Verbosity::Debug,
    };
    Ok(Output {
        verbosity,
        json: args.json,
        progress: args.progress.unwrap_or_default(),
        rust_log: env.get("RUST_LOG"),
        color: env.get("NO_COLOR").is_none(),
        columns: env.get("COLUMNS").and_then(|text| text.parse().ok()),
        metrics_file: args.metrics_file,
    })
}

/// Requests in flight and memory in bytes, which are enough for so many jobs.
pub(super) fn shared_means(args: &MirrorArgs, jobs: usize) -> Result<(usize, u64), CliError> {
    let defaults = Options::default();
    let concurrency = args.concurrency.unwrap_or(defaults.concurrency);
    if jobs > concurrency {
        return Err(CliError::new(format!(
            "--jobs {jobs} share --concurrency {concurrency}: at least one request each is needed"
        )));
    }
    let memory_bytes = args.memory.map_or(defaults.memory_bytes, |mib| mib << 20);
    if memory_bytes / (jobs as u64) < MIN_MEMORY_MIB << 20 {
        return Err(CliError::new(format!(
            "--jobs {jobs} share --memory {}: at least {MIN_MEMORY_MIB} MiB each are needed",
            memory_bytes >> 20
        )));
    }
    Ok((concurrency, memory_bytes))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::cli::testing::{PAIR, mirror as run};

    #[test]
    fn a_flag_beats_the_environment_and_the_nearer_variable_the_other() {
        let env = [
            ("AWS_ENDPOINT_URL", "https://all"),
            ("AWS_ENDPOINT_URL_S3", "https://s3"),
            ("AWS_REGION", "first"),
            ("AWS_DEFAULT_REGION", "second"),
            ("AWS_PROFILE", "env"),
            ("AWS_MAX_ATTEMPTS", "4"),
            ("GIT_HTTP_LOW_SPEED_LIMIT", "1000"),
            ("GIT_HTTP_LOW_SPEED_TIME", "60"),
            ("RUST_LOG", "trace"),
            ("NO_COLOR", "1"),
        ];
        let command = run(PAIR, &env, "").unwrap();
        let settings = &command.settings;
        assert_eq!(settings.endpoint.as_deref(), Some("https://s3"));
        assert_eq!(settings.region.as_deref(), Some("first"));
        assert_eq!(settings.profile.as_deref(), Some("env"));
        assert!(!settings.profile_from_flag);
        assert_eq!(settings.ca_bundle, None);
        assert_eq!(settings.max_attempts, Some(4));
        assert_eq!(settings.low_speed_limit, Some(1000));
        assert_eq!(settings.low_speed_time, Some(Duration::from_secs(60)));
        assert_eq!(command.output.rust_log.as_deref(), Some("trace"));
        assert!(!command.output.color);

        let flags = "--endpoint-url http://f --region f --profile f --ca-bundle f.pem \
                     --low-speed-limit 0";
        let settings = run(&format!("{PAIR} {flags}"), &env, "").unwrap().settings;
        assert_eq!(settings.endpoint.as_deref(), Some("http://f"));
        assert_eq!(settings.region.as_deref(), Some("f"));
        assert_eq!(settings.profile.as_deref(), Some("f"));
        assert_eq!(settings.ca_bundle, Some("f.pem".into()));
        assert_eq!(settings.low_speed_limit, Some(0));

        let settings = run(PAIR, &env[3..4], "").unwrap().settings;
        assert_eq!(settings.region.as_deref(), Some("second"));
        let settings = run(PAIR, &env[..1], "").unwrap().settings;
        assert_eq!(settings.endpoint.as_deref(), Some("https://all"));
    }

    #[test]
    fn an_empty_variable_counts_as_unset() {
        let env = [("AWS_ENDPOINT_URL_S3", ""), ("NO_COLOR", ""), ("AWS_REGION", "")];
        let command = run(PAIR, &env, "").unwrap();
        assert_eq!((command.settings.endpoint, command.settings.region), (None, None));
        assert!(command.output.color);
    }
}
