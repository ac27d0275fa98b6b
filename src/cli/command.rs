//! What is to be done, and how it is read from options and environment.

use std::fmt;
use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

use argh::{ArgsInfo, FlagInfo, FlagInfoKind, FromArgs};

use super::args::{Addressing, MIN_MEMORY_MIB, MirrorArgs, ProgressMode};
use super::argv::{self, Argv};
use super::error::CliError;
use super::manifest::{self, Pair};
use super::{help, urls};
use crate::git::refs::RefFilter;
use crate::mirror::{Layout, Options};
use crate::run::Cancel;

/// A manifest longer than this (bytes) is a mistake: a wrong file or an endless pipe.
const MAX_MANIFEST_LEN: u64 = 64 << 20;

/// What is to be done.
#[derive(Debug)]
pub enum Command {
    /// Print this on standard output: help or version.
    Print(String),
    /// Mirror repositories.
    Mirror(Box<MirrorCommand>),
    /// Speak with git-lfs.
    LfsAgent(Box<AgentCommand>),
    /// Read a mirror back.
    Verify(Box<VerifyCommand>),
    /// Delete what no ref reaches.
    Gc(Box<GcCommand>),
    /// Find mirrors.
    List(Box<CatalogCommand>),
    /// Write an index of mirrors.
    Index(Box<CatalogCommand>),
    /// List past publications.
    Refs(Box<RefsCommand>),
    /// Publish again what was published once.
    Restore(Box<RestoreCommand>),
    /// Write what another mirror is missing into a file.
    Export(Box<ExportCommand>),
    /// Import a file written by `export`.
    Import(Box<ImportCommand>),
    /// Speak with git.
    RemoteHelper(Box<HelperCommand>),
    /// Let git find the helper.
    InstallHelper(Box<InstallCommand>),
}

/// Which mirror.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MaintenanceTarget {
    /// In a store.
    Store(urls::TargetUrl),
    /// As readers see it: `http(s)://…`, without a slash at its end. Only for `verify`.
    Http(String),
}

impl fmt::Display for MaintenanceTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MaintenanceTarget::Store(url) => url.fmt(f),
            MaintenanceTarget::Http(url) => f.pad(url),
        }
    }
}

/// A mirror to work on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MaintainedMirror {
    /// Where it is.
    pub target: MaintenanceTarget,
    /// What it is a mirror of, where that is reported.
    pub source: Option<urls::SourceUrl>,
}

/// What both commands have.
#[derive(Debug)]
pub struct Maintenance {
    /// Which mirrors: this machine's shard of them. May be empty when the shard is.
    pub mirrors: Vec<MaintainedMirror>,
    /// How to reach them.
    pub settings: Settings,
    /// Mirrors at once.
    pub jobs: usize,
    /// Requests in flight, of all jobs.
    pub concurrency: usize,
    /// Memory for packs, in bytes, of all jobs.
    pub memory_bytes: u64,
    /// What people and scripts get to see.
    pub output: Output,
    /// What is to be said before anything is begun.
    pub warning: Option<String>,
    /// To stop it.
    pub cancel: Cancel,
}

/// `verify`.
#[derive(Debug)]
pub struct VerifyCommand {
    /// What it has in common with `gc`.
    pub maintenance: Maintenance,
    /// By name and size.
    pub quick: bool,
    /// So many of so many parts, in turn.
    pub sample: Option<(u32, u32)>,
    /// Repair what is wrong.
    pub repair: bool,
}

/// `gc`.
#[derive(Debug)]
pub struct GcCommand {
    /// What it has in common with `verify`.
    pub maintenance: Maintenance,
    /// Anything newer than this is kept.
    pub grace: Duration,
    /// Delete nothing.
    pub dry_run: bool,
}

/// `list`, `index`.
#[derive(Clone, Debug)]
pub struct CatalogCommand {
    /// Where mirrors are looked for: one prefix, for `list` perhaps several.
    pub targets: Vec<urls::TargetUrl>,
    /// Where readers find what is below the target; no slash at its end.
    pub public_url: Option<String>,
    /// Count what is stored instead of believing what runs have recorded.
    pub count: bool,
    /// Requests in flight.
    pub concurrency: usize,
    /// How to reach the store.
    pub settings: Settings,
    /// What people and scripts get to see.
    pub output: Output,
    /// To stop it.
    pub cancel: Cancel,
}

/// `refs`.
#[derive(Debug)]
pub struct RefsCommand {
    /// What it has in common with `gc`.
    pub maintenance: Maintenance,
}

/// `restore`.
#[derive(Debug)]
pub struct RestoreCommand {
    /// What it has in common with `gc`: one mirror.
    pub maintenance: Maintenance,
    /// Which publication: its name, or a time.
    pub at: String,
    /// Another target than the mirror itself.
    pub into: Option<urls::TargetUrl>,
    /// Write nothing.
    pub dry_run: bool,
}

/// `export`.
#[derive(Debug)]
pub struct ExportCommand {
    /// Which mirror.
    pub target: urls::TargetUrl,
    /// The other mirror's state; `None`: it has nothing.
    pub since: Option<PathBuf>,
    /// Where the trip goes; `None`: standard output.
    pub file: Option<PathBuf>,
    /// LFS objects, too.
    pub lfs: bool,
    /// Requests in flight.
    pub concurrency: usize,
    /// Working memory in bytes.
    pub memory_bytes: u64,
    /// How to reach the mirror.
    pub settings: Settings,
    /// What people and scripts get to see.
    pub output: Output,
    /// To stop it.
    pub cancel: Cancel,
}

/// `import`.
#[derive(Debug)]
pub struct ImportCommand {
    /// What is to be mirrored from the trip; `None`: only the state is wanted.
    pub mirror: Option<MirrorCommand>,
    /// Which mirror.
    pub target: urls::TargetUrl,
    /// Where its state goes.
    pub state_out: Option<PathBuf>,
    /// How to reach the mirror.
    pub settings: Settings,
    /// Working memory in bytes.
    pub memory_bytes: u64,
    /// What people and scripts get to see.
    pub output: Output,
}

/// `lfs-agent URL`.
#[derive(Debug)]
pub struct AgentCommand {
    /// Where the mirror is read from.
    pub mirror: MirrorUrl,
    /// How to reach it.
    pub settings: Settings,
    /// What is said on standard error.
    pub output: Output,
}

impl MirrorUrl {
    /// Reads the URL of a git remote: `mirror::…`.
    pub fn of_remote(url: &str) -> Result<Self, CliError> {
        match url.strip_prefix("mirror::") {
            Some(url) => mirror_url(url, "mirror::"),
            None => Err(CliError::new("the remote's URL does not begin with mirror::")),
        }
    }
}

/// `remote-helper REMOTE URL`, or the binary called as `git-remote-mirror`.
#[derive(Debug)]
pub struct HelperCommand {
    /// Where the mirror is read from.
    pub mirror: MirrorUrl,
    /// How to reach it.
    pub settings: Settings,
    /// What is said on standard error.
    pub output: Output,
}

/// `install-helper [DIR]`.
#[derive(Debug)]
pub struct InstallCommand {
    /// Where the link goes; `None`: beside the program.
    pub dir: Option<PathBuf>,
    /// Leave git-lfs as it is configured.
    pub no_lfs: bool,
}

/// Where a mirror is read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MirrorUrl {
    /// As everybody reads it: always [`SourceUrl::Http`](urls::SourceUrl::Http).
    Http(urls::SourceUrl),
    /// As its writer sees it.
    Target(urls::TargetUrl),
    /// Wherever the `mirror::` URL of git's remote says.
    OfRemote,
}

impl fmt::Display for MirrorUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MirrorUrl::Http(url) => url.fmt(f),
            MirrorUrl::Target(url) => url.fmt(f),
            MirrorUrl::OfRemote => f.pad("mirror::"),
        }
    }
}

/// The default action.
#[derive(Debug)]
pub struct MirrorCommand {
    /// Which repositories, each with its target: this machine's shard of them. May be empty when
    /// the shard is.
    pub pairs: Vec<Pair>,
    /// How to reach sources and stores.
    pub settings: Settings,
    /// What to do to each; memory and requests are for all jobs together.
    pub options: Options,
    /// Repositories at once.
    pub jobs: usize,
    /// Stop at the first failing repository.
    pub fail_fast: bool,
    /// What is to be said before anything is begun: where others can read a secret.
    pub warning: Option<String>,
    /// `--index`: which index of mirrors is brought up to date at the end.
    pub index: Option<Box<CatalogCommand>>,
    /// `--timeout`: how long one repository may take.
    pub timeout: Option<Duration>,
    /// What people and scripts get to see.
    pub output: Output,
}

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

/// The options of `lfs-agent`: some of the mirror's, with the same meaning.
const AGENT_OPTIONS: [&str; 7] = [
    "--endpoint-url",
    "--region",
    "--profile",
    "--addressing-style",
    "--ca-bundle",
    "--quiet",
    "--verbose",
];

pub(super) fn agent_flags() -> Vec<FlagInfo<'static>> {
    let all = MirrorArgs::get_args_info().flags.iter();
    all.filter(|flag| AGENT_OPTIONS.contains(&flag.long)).map(copy_of).collect()
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

/// `lfs-agent URL [options]`: the URL comes first, since no option's value can be mistaken for it
/// there.
pub(super) fn lfs_agent(words: &[String], env: &Environment<'_>) -> Result<Command, CliError> {
    let (url, rest) = match words.split_first() {
        Some((url, rest)) if !url.starts_with('-') => (Some(url), rest),
        _ => (None, words),
    };
    let args = match argv::normalise(rest, &agent_flags())? {
        Argv::Help => return Ok(Command::Print(help::LFS_AGENT.to_owned())),
        Argv::Version => return Ok(Command::Print(help::version())),
        Argv::Words(words) => from_args::<MirrorArgs>(&words)?,
    };
    let url =
        url.ok_or_else(|| CliError::new("lfs-agent needs the mirror's URL as its first argument"))?;
    Ok(Command::LfsAgent(Box::new(AgentCommand {
        mirror: match url.as_str() {
            "mirror::" => MirrorUrl::OfRemote,
            url => mirror_url(url, "lfs-agent")?,
        },
        settings: settings(&args, env, 2)?,
        output: output(args, env)?,
    })))
}

pub(super) fn mirror_url(text: &str, command: &str) -> Result<MirrorUrl, CliError> {
    let text = text.strip_prefix("mirror::").unwrap_or(text);
    if text.starts_with("s3://") || text.starts_with("file://") {
        return urls::TargetUrl::parse(text).map(MirrorUrl::Target);
    }
    match urls::SourceUrl::parse(text) {
        Ok(url @ urls::SourceUrl::Http { .. }) => Ok(MirrorUrl::Http(url)),
        Err(error) if text.starts_with("http") => Err(error),
        _ if urls::is_ssh(text) => Err(CliError::new(format!("{command}: {}", urls::NO_SSH))),
        _ => Err(CliError::new(format!(
            "{command}: expected https://…, s3://BUCKET/PREFIX or file:///DIRECTORY"
        ))),
    }
}

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
    let like = MirrorArgs {
        endpoint_url: args.endpoint_url.clone(),
        region: args.region.clone(),
        profile: args.profile.clone(),
        addressing_style: args.addressing_style,
        ca_bundle: args.ca_bundle.clone(),
        storage_class: args.storage_class.clone(),
        sse: args.sse.clone(),
        sse_kms_key_id: args.sse_kms_key_id.clone(),
        acl: args.acl.clone(),
        quiet: true,
        ..MirrorArgs::default()
    };
    let public_url = public_url(&args.public_url)?;
    catalog(vec![target], public_url, false, Some(concurrency), like, env).map(Some)
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

pub(super) fn pairs(args: &MirrorArgs, stdin: &mut dyn Read) -> Result<Vec<Pair>, CliError> {
    let Some(name) = &args.manifest else {
        if args.shard.is_some() {
            return Err(CliError::new("--shard needs --manifest"));
        }
        return manifest::pair_up(&args.source, &args.target);
    };
    if !args.source.is_empty() || !args.target.is_empty() {
        return Err(CliError::new("--manifest conflicts with --source and --target"));
    }
    let (name, text) = match name.as_str() {
        "-" => ("standard input", read_text(stdin)),
        path => (path, std::fs::File::open(path).and_then(|mut file| read_text(&mut file))),
    };
    let text =
        text.map_err(|error| CliError::new(format!("cannot read the manifest {name}: {error}")))?;
    let mut pairs = manifest::read(name, &text)?;
    if name == "standard input" && pairs.iter().any(|pair| pair.source.is_stdin()) {
        return Err(CliError::new("standard input cannot be both the manifest and a bundle"));
    }
    if let Some(shard) = args.shard {
        pairs.retain(|pair| pair.belongs_to(shard));
    }
    Ok(pairs)
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

/// Passwords that other users of this machine can read.
pub(super) fn warning<'s>(
    args: &MirrorArgs,
    mut sources: impl Iterator<Item = &'s urls::SourceUrl>,
) -> Option<String> {
    if !sources.any(urls::SourceUrl::has_password) {
        return None;
    }
    let better = "use ~/.netrc or --source-header-file";
    match args.manifest.as_deref() {
        None => Some(format!(
            "--source contains a password, which everyone on this machine can see in the list of \
             processes: {better}"
        )),
        Some("-") => None,
        Some(path) if others_can_read(path) => Some(format!(
            "{path} contains passwords and others can read it: chmod 600, or {better}"
        )),
        Some(_) => None,
    }
}

#[cfg(unix)]
fn others_can_read(path: &str) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).is_ok_and(|about| about.permissions().mode() & 0o077 != 0)
}

#[cfg(not(unix))]
fn others_can_read(_: &str) -> bool {
    false
}

fn read_text(from: &mut dyn Read) -> std::io::Result<String> {
    let mut text = String::new();
    let len = from.take(MAX_MANIFEST_LEN + 1).read_to_string(&mut text)?;
    if len as u64 > MAX_MANIFEST_LEN {
        return Err(std::io::Error::other("longer than 64 MiB"));
    }
    Ok(text)
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
        cancel: Cancel::default(),
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

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;
    use crate::cli::parse;

    const PAIR: &str = "--source https://h/r --target s3://b/p";

    fn run(line: &str, env: &[(&str, &str)], stdin: &str) -> Result<MirrorCommand, String> {
        let env = |name: &str| {
            env.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        };
        let words = line.split_whitespace().map(OsString::from);
        match parse(words, &env, &mut stdin.as_bytes()) {
            Ok(Command::Mirror(command)) => Ok(*command),
            Ok(Command::Print(text)) => Err(text),
            Ok(other) => Err(format!("another command: {other:?}")),
            Err(error) => Err(error.to_string()),
        }
    }

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

    #[test]
    fn a_manifest_on_standard_input_can_be_sharded() {
        let text = "https://h/a s3://b/a\nhttps://h/b s3://b/b\nhttps://h/c s3://b/c\n";
        let all = run("--manifest -", &[], text).unwrap().pairs;
        assert_eq!(all.len(), 3);
        let mut shards = Vec::new();
        for index in 0..3 {
            let line = format!("--manifest=- --shard {index}/3");
            shards.extend(run(&line, &[], text).unwrap().pairs);
        }
        assert_eq!(shards.len(), 3);
        assert!(all.iter().all(|pair| shards.contains(pair)));
        for bad in ["3/3", "0/0", "1", "-1/3", "a/b", "1/2/3", "/"] {
            let error = run(&format!("--manifest - --shard {bad}"), &[], text).expect_err(bad);
            assert!(error.contains("expected I/N"), "{bad}: {error}");
        }
    }

    #[test]
    fn passwords_that_others_can_read_are_warned_about() {
        use std::os::unix::fs::PermissionsExt;
        let warning = |line: &str| run(line, &[], "").unwrap().warning.unwrap_or_default();
        assert_eq!(warning(PAIR), "");
        assert_eq!(warning("--source https://me@h/r --target s3://b/p"), "");
        let said = warning("--source https://me:hush@h/r --target s3://b/p");
        assert!(said.contains("list of processes") && !said.contains("hush"), "{said}");
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("list");
        for (text, mode, warned) in [
            ("https://h/r s3://b/p", 0o644, false),
            ("https://me:hush@h/r s3://b/p", 0o600, false),
            ("https://me:hush@h/r s3://b/p", 0o640, true),
        ] {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            let said = warning(&format!("--manifest {}", path.display()));
            assert_eq!(said.contains("chmod 600"), warned, "{mode:o}: {said}");
        }
    }

    #[test]
    fn unusable_manifests_are_named() {
        let error = run("--manifest /nowhere/m.txt", &[], "").unwrap_err();
        assert!(error.starts_with("cannot read the manifest /nowhere/m.txt: "), "{error}");
        let error = run("--manifest -", &[], "https://h/a s3://b/a x\n").unwrap_err();
        assert!(error.starts_with("standard input:1: expected SOURCE TARGET"), "{error}");
        let error = run("--manifest -", &[], "- s3://b/a\n").unwrap_err();
        assert!(error.starts_with("standard input cannot be both"), "{error}");
    }

    #[test]
    fn the_agent_takes_its_url_first_and_its_own_options() {
        let agent = |line: &str| {
            let words = line.split_whitespace().map(OsString::from);
            match parse(words, &|_| None, &mut std::io::empty()) {
                Ok(Command::LfsAgent(command)) => Ok(*command),
                Ok(Command::Print(text)) => Err(text),
                Ok(_) => Err("the mirror".into()),
                Err(error) => Err(error.to_string()),
            }
        };
        let command = agent("lfs-agent s3://b/p --endpoint-url http://e -v").unwrap();
        assert_eq!(command.mirror, MirrorUrl::Target(urls::TargetUrl::parse("s3://b/p").unwrap()));
        assert_eq!(command.settings.endpoint.as_deref(), Some("http://e"));
        assert_eq!(command.output.verbosity, Verbosity::Info);
        let command = agent("lfs-agent https://u:hunter2@h/p").unwrap();
        assert!(!format!("{command:?}").contains("hunter2"));
        for (line, words) in [
            ("lfs-agent", "needs the mirror's URL"),
            ("lfs-agent --region r", "needs the mirror's URL"),
            ("lfs-agent ssh://u:hunter2@h", "lfs-agent: ssh is not supported"),
            ("lfs-agent bundle:x", "lfs-agent: expected https://"),
            ("lfs-agent https://h/?x", "source: "),
            ("lfs-agent https://h --source x", "unknown option --source"),
            ("lfs-agent https://h https://u:hunter2@h", "unexpected argument"),
            ("lfs-agent https://h hunter2", "unexpected argument"),
            ("lfs-agent --help", "Usage: mirror-git-to-s3 lfs-agent URL"),
        ] {
            let error = agent(line).expect_err(line);
            assert!(error.contains(words) && !error.contains("hunter2"), "{line}: {error}");
        }
        for option in AGENT_OPTIONS {
            assert!(help::LFS_AGENT.contains(option), "{option}");
        }
    }

    #[test]
    fn help_and_version_are_text_for_standard_output() {
        assert_eq!(run("--full --help", &[], "").unwrap_err(), help::MIRROR);
        assert_eq!(run("--version", &[], "").unwrap_err(), help::version());
    }

    #[test]
    fn words_that_are_not_utf8_are_refused() {
        use std::os::unix::ffi::OsStringExt;
        let words = [OsString::from_vec(vec![b'-', 0xff])];
        let error = parse(words, &|_| None, &mut std::io::empty()).unwrap_err();
        assert_eq!(error.to_string(), "an argument is not UTF-8");
    }
}
