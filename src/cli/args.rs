//! The options as `argh` reads them: words to fields, with the range of each number.
//!
//! URLs stay text here and are read in [`super::urls`], whose errors don't repeat them: argh's own
//! errors quote the value, and a URL may hold a password.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use argh::{ArgsInfo, FromArgs};

use super::manifest::Shard;
use crate::mirror::Layout;

/// The least working memory of one repository, in MiB.
pub(super) const MIN_MEMORY_MIB: u64 = 8;

/// `--progress`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProgressMode {
    /// Bars if standard error is a terminal.
    #[default]
    Auto,
    /// Bars, whatever standard error is.
    Always,
    /// No bars.
    Never,
}

/// `--addressing-style`: how a bucket is named in a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Addressing {
    /// `Path` with an endpoint of one's own, `Virtual` on AWS.
    #[default]
    Auto,
    /// `https://endpoint/bucket/key`.
    Path,
    /// `https://bucket.endpoint/key`.
    Virtual,
}

/// Mirrors git repositories to S3-compatible storage.
#[derive(FromArgs, ArgsInfo, Debug, Default)]
#[argh(help_triggers("-h", "--help"))]
pub(super) struct MirrorArgs {
    /// repository to mirror
    #[argh(option)]
    pub source: Vec<String>,
    /// where to mirror it
    #[argh(option)]
    pub target: Vec<String>,
    /// file with one pair per line
    #[argh(option)]
    pub manifest: Option<String>,
    /// loose or pack
    #[argh(option, from_str_fn(layout))]
    pub layout: Option<Layout>,
    /// mirror only these refs
    #[argh(option)]
    pub refs: Vec<String>,
    /// skip these refs
    #[argh(option)]
    pub exclude_refs: Vec<String>,
    /// skip LFS objects
    #[argh(switch)]
    pub no_lfs: bool,
    /// LFS objects of bundles
    #[argh(option)]
    pub lfs_dir: Option<PathBuf>,
    /// follow a source's redirect to another host
    #[argh(switch)]
    pub allow_redirect_host: bool,
    /// let .lfsconfig name another host
    #[argh(switch)]
    pub lfs_allow_other_host: bool,
    /// fetch everything again
    #[argh(switch)]
    pub full: bool,
    /// fetch a first run in slices
    #[argh(switch)]
    pub slices: bool,
    /// also publish bundles
    #[argh(switch)]
    pub bundle: bool,
    /// do not start from a bundle of the source
    #[argh(switch)]
    pub no_bundle_uri: bool,
    /// allow deleting all or most refs
    #[argh(switch)]
    pub force: bool,
    /// take over a mirror of another source
    #[argh(switch)]
    pub move_source: bool,
    /// write nothing
    #[argh(switch, short = 'n')]
    pub dry_run: bool,
    /// store requests in flight
    #[argh(option, from_str_fn(concurrency))]
    pub concurrency: Option<usize>,
    /// repositories at once
    #[argh(option, from_str_fn(jobs))]
    pub jobs: Option<usize>,
    /// working memory in MiB
    #[argh(option, from_str_fn(memory))]
    pub memory: Option<u64>,
    /// share of a manifest
    #[argh(option, from_str_fn(shard))]
    pub shard: Option<Shard>,
    /// stop at the first failure
    #[argh(switch)]
    pub fail_fast: bool,
    /// the store's address
    #[argh(option)]
    pub endpoint_url: Vec<String>,
    /// the store's region
    #[argh(option, from_str_fn(header_safe))]
    pub region: Option<String>,
    /// profile of the AWS files
    #[argh(option)]
    pub profile: Option<String>,
    /// path or virtual
    #[argh(option, from_str_fn(addressing))]
    pub addressing_style: Option<Addressing>,
    /// address of the store of mirror: sources
    #[argh(option)]
    pub source_endpoint_url: Vec<String>,
    /// its region
    #[argh(option, from_str_fn(header_safe))]
    pub source_region: Option<String>,
    /// profile for it
    #[argh(option)]
    pub source_profile: Option<String>,
    /// path or virtual, for it
    #[argh(option, from_str_fn(addressing))]
    pub source_addressing_style: Option<Addressing>,
    /// extra trusted CAs
    #[argh(option)]
    pub ca_bundle: Option<PathBuf>,
    /// storage class of what is written
    #[argh(option, from_str_fn(header_safe))]
    pub storage_class: Option<String>,
    /// encryption at rest
    #[argh(option, from_str_fn(header_safe))]
    pub sse: Option<String>,
    /// key of that encryption
    #[argh(option, from_str_fn(header_safe))]
    pub sse_kms_key_id: Option<String>,
    /// canned ACL of what is written
    #[argh(option, from_str_fn(header_safe))]
    pub acl: Option<String>,
    /// header lines for the source
    #[argh(option)]
    pub source_header_file: Option<PathBuf>,
    /// bytes a second below which a connection is slow
    #[argh(option, from_str_fn(any_number))]
    pub low_speed_limit: Option<u64>,
    /// seconds that a connection may be slow
    #[argh(option, from_str_fn(any_number))]
    pub low_speed_time: Option<u64>,
    /// seconds that a repository may take
    #[argh(option, from_str_fn(timeout))]
    pub timeout: Option<u64>,
    /// larger objects are refused
    #[argh(option, from_str_fn(size))]
    pub max_object_size: Option<u64>,
    /// print errors only
    #[argh(switch, short = 'q')]
    pub quiet: bool,
    /// print more
    #[argh(switch, short = 'v')]
    pub verbose: u8,
    /// results as JSON
    #[argh(switch)]
    pub json: bool,
    /// bars
    #[argh(option, from_str_fn(progress))]
    pub progress: Option<ProgressMode>,
    /// merge packs above this number
    #[argh(option, from_str_fn(max_packs))]
    pub max_packs: Option<usize>,
    /// metrics as a Prometheus textfile
    #[argh(option)]
    pub metrics_file: Option<PathBuf>,
    /// rewrite the index of mirrors below a prefix
    #[argh(option)]
    pub index: Vec<String>,
    /// where readers find them
    #[argh(option)]
    pub public_url: Vec<String>,
    /// how long past refs are kept
    #[argh(option, from_str_fn(duration))]
    pub keep_history: Option<Duration>,
}

/// Reads a mirror back.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(help_triggers("-h", "--help"))]
pub(super) struct VerifyArgs {
    /// the mirror
    #[argh(option)]
    pub target: Vec<String>,
    /// repair what is wrong
    #[argh(switch)]
    pub repair: bool,
    /// the repository
    #[argh(option)]
    pub source: Vec<String>,
    /// file of header lines
    #[argh(option)]
    pub source_header_file: Option<PathBuf>,
    /// for objects written
    #[argh(option, from_str_fn(header_safe))]
    pub storage_class: Option<String>,
    /// for objects written
    #[argh(option, from_str_fn(header_safe))]
    pub sse: Option<String>,
    /// for objects written
    #[argh(option, from_str_fn(header_safe))]
    pub sse_kms_key_id: Option<String>,
    /// for objects written
    #[argh(option, from_str_fn(header_safe))]
    pub acl: Option<String>,
    /// check by name and size
    #[argh(switch)]
    pub quick: bool,
    /// check only a part in each run
    #[argh(option, from_str_fn(sample))]
    pub sample: Option<(u32, u32)>,
    /// requests in flight
    #[argh(option, from_str_fn(concurrency))]
    pub concurrency: Option<usize>,
    /// memory for packs in MiB
    #[argh(option, from_str_fn(memory))]
    pub memory: Option<u64>,
    /// the store's address
    #[argh(option)]
    pub endpoint_url: Vec<String>,
    /// the store's region
    #[argh(option, from_str_fn(header_safe))]
    pub region: Option<String>,
    /// profile of the AWS files
    #[argh(option)]
    pub profile: Option<String>,
    /// path or virtual
    #[argh(option, from_str_fn(addressing))]
    pub addressing_style: Option<Addressing>,
    /// extra trusted CAs
    #[argh(option)]
    pub ca_bundle: Option<PathBuf>,
    /// print errors only
    #[argh(switch, short = 'q')]
    pub quiet: bool,
    /// print more
    #[argh(switch, short = 'v')]
    pub verbose: u8,
    /// results as JSON
    #[argh(switch)]
    pub json: bool,
    /// bars: auto, always or never
    #[argh(option, from_str_fn(progress))]
    pub progress: Option<ProgressMode>,
    /// a manifest
    #[argh(option)]
    pub manifest: Option<String>,
    /// share of the manifest
    #[argh(option, from_str_fn(shard))]
    pub shard: Option<Shard>,
    /// repositories at once
    #[argh(option, from_str_fn(jobs))]
    pub jobs: Option<usize>,
    /// prometheus textfile
    #[argh(option)]
    pub metrics_file: Option<PathBuf>,
}

/// Deletes what no ref reaches.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(help_triggers("-h", "--help"))]
pub(super) struct GcArgs {
    /// the mirror
    #[argh(option)]
    pub target: Vec<String>,
    /// keep anything newer than this
    #[argh(option, from_str_fn(duration))]
    pub grace: Option<Duration>,
    /// delete nothing
    #[argh(switch, short = 'n')]
    pub dry_run: bool,
    /// requests in flight
    #[argh(option, from_str_fn(concurrency))]
    pub concurrency: Option<usize>,
    /// memory for packs in MiB
    #[argh(option, from_str_fn(memory))]
    pub memory: Option<u64>,
    /// the store's address
    #[argh(option)]
    pub endpoint_url: Vec<String>,
    /// the store's region
    #[argh(option, from_str_fn(header_safe))]
    pub region: Option<String>,
    /// profile of the AWS files
    #[argh(option)]
    pub profile: Option<String>,
    /// path or virtual
    #[argh(option, from_str_fn(addressing))]
    pub addressing_style: Option<Addressing>,
    /// extra trusted CAs
    #[argh(option)]
    pub ca_bundle: Option<PathBuf>,
    /// print errors only
    #[argh(switch, short = 'q')]
    pub quiet: bool,
    /// print more
    #[argh(switch, short = 'v')]
    pub verbose: u8,
    /// results as JSON
    #[argh(switch)]
    pub json: bool,
    /// bars: auto, always or never
    #[argh(option, from_str_fn(progress))]
    pub progress: Option<ProgressMode>,
    /// a manifest
    #[argh(option)]
    pub manifest: Option<String>,
    /// share of the manifest
    #[argh(option, from_str_fn(shard))]
    pub shard: Option<Shard>,
    /// repositories at once
    #[argh(option, from_str_fn(jobs))]
    pub jobs: Option<usize>,
    /// prometheus textfile
    #[argh(option)]
    pub metrics_file: Option<PathBuf>,
}

/// Writes what another mirror is missing into a file.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(help_triggers("-h", "--help"))]
pub(super) struct ExportArgs {
    /// the mirror
    #[argh(option)]
    pub target: String,
    /// state of the other mirror
    #[argh(option)]
    pub since: Option<PathBuf>,
    /// the file to write
    #[argh(option, short = 'o')]
    pub output: String,
    /// skip LFS objects
    #[argh(switch)]
    pub no_lfs: bool,
    /// requests in flight
    #[argh(option, from_str_fn(concurrency))]
    pub concurrency: Option<usize>,
    /// working memory in MiB
    #[argh(option, from_str_fn(memory))]
    pub memory: Option<u64>,
    /// the store's address
    #[argh(option)]
    pub endpoint_url: Vec<String>,
    /// the store's region
    #[argh(option, from_str_fn(header_safe))]
    pub region: Option<String>,
    /// profile of the AWS files
    #[argh(option)]
    pub profile: Option<String>,
    /// path or virtual
    #[argh(option, from_str_fn(addressing))]
    pub addressing_style: Option<Addressing>,
    /// extra trusted CAs
    #[argh(option)]
    pub ca_bundle: Option<PathBuf>,
    /// print errors only
    #[argh(switch, short = 'q')]
    pub quiet: bool,
    /// print more
    #[argh(switch, short = 'v')]
    pub verbose: u8,
    /// results as JSON
    #[argh(switch)]
    pub json: bool,
}

/// Reads what was exported.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(help_triggers("-h", "--help"))]
pub(super) struct ImportArgs {
    /// the mirror
    #[argh(option)]
    pub target: String,
    /// write the state to this file
    #[argh(option)]
    pub state_out: Option<PathBuf>,
    /// skip LFS objects
    #[argh(switch)]
    pub no_lfs: bool,
    /// allow deleting all or most refs
    #[argh(switch)]
    pub force: bool,
    /// take over a mirror of another source
    #[argh(switch)]
    pub move_source: bool,
    /// write nothing
    #[argh(switch, short = 'n')]
    pub dry_run: bool,
    /// requests in flight
    #[argh(option, from_str_fn(concurrency))]
    pub concurrency: Option<usize>,
    /// working memory in MiB
    #[argh(option, from_str_fn(memory))]
    pub memory: Option<u64>,
    /// the store's address
    #[argh(option)]
    pub endpoint_url: Vec<String>,
    /// the store's region
    #[argh(option, from_str_fn(header_safe))]
    pub region: Option<String>,
    /// profile of the AWS files
    #[argh(option)]
    pub profile: Option<String>,
    /// path or virtual
    #[argh(option, from_str_fn(addressing))]
    pub addressing_style: Option<Addressing>,
    /// extra trusted CAs
    #[argh(option)]
    pub ca_bundle: Option<PathBuf>,
    /// for objects written
    #[argh(option, from_str_fn(header_safe))]
    pub storage_class: Option<String>,
    /// for objects written
    #[argh(option, from_str_fn(header_safe))]
    pub sse: Option<String>,
    /// for objects written
    #[argh(option, from_str_fn(header_safe))]
    pub sse_kms_key_id: Option<String>,
    /// for objects written
    #[argh(option, from_str_fn(header_safe))]
    pub acl: Option<String>,
    /// print errors only
    #[argh(switch, short = 'q')]
    pub quiet: bool,
    /// print more
    #[argh(switch, short = 'v')]
    pub verbose: u8,
    /// results as JSON
    #[argh(switch)]
    pub json: bool,
    /// bars: auto, always or never
    #[argh(option, from_str_fn(progress))]
    pub progress: Option<ProgressMode>,
}

/// Lists past publications.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(help_triggers("-h", "--help"))]
pub(super) struct RefsArgs {
    /// the mirror
    #[argh(option)]
    pub target: Vec<String>,
    /// requests in flight
    #[argh(option, from_str_fn(concurrency))]
    pub concurrency: Option<usize>,
    /// memory in MiB
    #[argh(option, from_str_fn(memory))]
    pub memory: Option<u64>,
    /// the store's address
    #[argh(option)]
    pub endpoint_url: Vec<String>,
    /// the store's region
    #[argh(option, from_str_fn(header_safe))]
    pub region: Option<String>,
    /// profile of the AWS files
    #[argh(option)]
    pub profile: Option<String>,
    /// path or virtual
    #[argh(option, from_str_fn(addressing))]
    pub addressing_style: Option<Addressing>,
    /// extra trusted CAs
    #[argh(option)]
    pub ca_bundle: Option<PathBuf>,
    /// print errors only
    #[argh(switch, short = 'q')]
    pub quiet: bool,
    /// print more
    #[argh(switch, short = 'v')]
    pub verbose: u8,
    /// results as JSON
    #[argh(switch)]
    pub json: bool,
    /// bars: auto, always or never
    #[argh(option, from_str_fn(progress))]
    pub progress: Option<ProgressMode>,
    /// a manifest
    #[argh(option)]
    pub manifest: Option<String>,
    /// share of the manifest
    #[argh(option, from_str_fn(shard))]
    pub shard: Option<Shard>,
    /// repositories at once
    #[argh(option, from_str_fn(jobs))]
    pub jobs: Option<usize>,
    /// prometheus textfile
    #[argh(option)]
    pub metrics_file: Option<PathBuf>,
}

/// Finds mirrors; or writes an index of them.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(help_triggers("-h", "--help"))]
pub(super) struct CatalogArgs {
    /// where mirrors are looked for
    #[argh(option)]
    pub target: Vec<String>,
    /// where readers find them
    #[argh(option)]
    pub public_url: Vec<String>,
    /// count what is stored
    #[argh(switch)]
    pub count: bool,
    /// requests in flight
    #[argh(option, from_str_fn(concurrency))]
    pub concurrency: Option<usize>,
    /// the store's address
    #[argh(option)]
    pub endpoint_url: Vec<String>,
    /// the store's region
    #[argh(option, from_str_fn(header_safe))]
    pub region: Option<String>,
    /// profile of the AWS files
    #[argh(option)]
    pub profile: Option<String>,
    /// path or virtual
    #[argh(option, from_str_fn(addressing))]
    pub addressing_style: Option<Addressing>,
    /// extra trusted CAs
    #[argh(option)]
    pub ca_bundle: Option<PathBuf>,
    /// print errors only
    #[argh(switch, short = 'q')]
    pub quiet: bool,
    /// print more
    #[argh(switch, short = 'v')]
    pub verbose: u8,
    /// results as JSON
    #[argh(switch)]
    pub json: bool,
}

/// Publishes again what was published once.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(help_triggers("-h", "--help"))]
pub(super) struct RestoreArgs {
    /// the mirror
    #[argh(option)]
    pub target: Vec<String>,
    /// which publication
    #[argh(option)]
    pub at: Option<String>,
    /// another target
    #[argh(option, long = "as")]
    pub into: Option<String>,
    /// write nothing
    #[argh(switch, short = 'n')]
    pub dry_run: bool,
    /// for objects written
    #[argh(option, from_str_fn(header_safe))]
    pub storage_class: Option<String>,
    /// for objects written
    #[argh(option, from_str_fn(header_safe))]
    pub sse: Option<String>,
    /// for objects written
    #[argh(option, from_str_fn(header_safe))]
    pub sse_kms_key_id: Option<String>,
    /// for objects written
    #[argh(option, from_str_fn(header_safe))]
    pub acl: Option<String>,
    /// requests in flight
    #[argh(option, from_str_fn(concurrency))]
    pub concurrency: Option<usize>,
    /// memory for packs in MiB
    #[argh(option, from_str_fn(memory))]
    pub memory: Option<u64>,
    /// the store's address
    #[argh(option)]
    pub endpoint_url: Vec<String>,
    /// the store's region
    #[argh(option, from_str_fn(header_safe))]
    pub region: Option<String>,
    /// profile of the AWS files
    #[argh(option)]
    pub profile: Option<String>,
    /// path or virtual
    #[argh(option, from_str_fn(addressing))]
    pub addressing_style: Option<Addressing>,
    /// extra trusted CAs
    #[argh(option)]
    pub ca_bundle: Option<PathBuf>,
    /// print errors only
    #[argh(switch, short = 'q')]
    pub quiet: bool,
    /// print more
    #[argh(switch, short = 'v')]
    pub verbose: u8,
    /// results as JSON
    #[argh(switch)]
    pub json: bool,
    /// bars: auto, always or never
    #[argh(option, from_str_fn(progress))]
    pub progress: Option<ProgressMode>,
}

/// `90s`, `30m`, `24h`, `7d`; a bare `0` too.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let wanted = || "expected a number and s, m, h or d, such as 24h".to_owned();
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let unit = text.chars().last().ok_or_else(wanted)?;
    let seconds: u64 = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 24 * 3600,
        _ => return Err(wanted()),
    };
    let digits = &text[..text.len() - 1];
    let number: u64 = if digits.is_empty() { None } else { decimal(digits) }.ok_or_else(wanted)?;
    number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(wanted)
}

fn layout(text: &str) -> Result<Layout, String> {
    match text {
        "auto" => Ok(Layout::Auto),
        "loose" => Ok(Layout::Loose),
        "pack" => Ok(Layout::Pack),
        _ => Err("expected auto, loose or pack".to_owned()),
    }
}

fn addressing(text: &str) -> Result<Addressing, String> {
    text.parse()
}

impl std::str::FromStr for Addressing {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Addressing::Auto),
            "path" => Ok(Addressing::Path),
            "virtual" => Ok(Addressing::Virtual),
            _ => Err("expected auto, path or virtual".to_owned()),
        }
    }
}

fn progress(text: &str) -> Result<ProgressMode, String> {
    match text {
        "auto" => Ok(ProgressMode::Auto),
        "always" => Ok(ProgressMode::Always),
        "never" => Ok(ProgressMode::Never),
        _ => Err("expected auto, always or never".to_owned()),
    }
}

fn shard(text: &str) -> Result<Shard, String> {
    let wanted = || "expected I/N with 0 <= I < N, such as 0/4".to_owned();
    let (index, count) = text.split_once('/').ok_or_else(wanted)?;
    let (index, count) = (decimal(index).ok_or_else(wanted)?, decimal(count).ok_or_else(wanted)?);
    if index < count { Ok(Shard { index, count }) } else { Err(wanted()) }
}

fn sample(text: &str) -> Result<(u32, u32), String> {
    let wanted = || "expected N/T with 1 <= N <= T <= 10000, such as 1/30".to_owned();
    let (parts, of) = text.split_once('/').ok_or_else(wanted)?;
    let (parts, of) = (decimal(parts).ok_or_else(wanted)?, decimal(of).ok_or_else(wanted)?);
    if 1 <= parts && parts <= of && of <= 10_000 { Ok((parts, of)) } else { Err(wanted()) }
}

// The upper bounds catch slips of the finger; the lower bound of memory is what one upload part
// (5 MiB, S3's smallest) and a pack's entries need side by side.
fn concurrency(text: &str) -> Result<usize, String> {
    number(text, 1..=1024)
}

fn jobs(text: &str) -> Result<usize, String> {
    number(text, 1..=256)
}

fn memory(text: &str) -> Result<u64, String> {
    number(text, MIN_MEMORY_MIB..=1 << 20)
}

fn max_packs(text: &str) -> Result<usize, String> {
    number(text, 1..=100_000)
}

fn any_number(text: &str) -> Result<u64, String> {
    number(text, 0..=u32::MAX.into())
}

fn timeout(text: &str) -> Result<u64, String> {
    number(text, 1..=u32::MAX.into())
}

/// `5368709120`, `512k`, `100m`, `5g`, `1t` as git has them, also `100MiB` and the like: powers of
/// 1,024.
fn size(text: &str) -> Result<u64, String> {
    let wanted = || "expected a size such as 500m, 2GiB or 5t".to_owned();
    let lower = text.to_ascii_lowercase();
    let number = lower.strip_suffix("ib").unwrap_or(&lower);
    let shift = match number.chars().last() {
        Some('k') => 10,
        Some('m') => 20,
        Some('g') => 30,
        Some('t') => 40,
        _ if number.len() == lower.len() => 0,
        _ => return Err(wanted()),
    };
    let digits = if shift == 0 { number } else { &number[..number.len() - 1] };
    let number: u64 = if digits.is_empty() { None } else { decimal(digits) }.ok_or_else(wanted)?;
    number.checked_mul(1 << shift).filter(|size| *size > 0).ok_or_else(wanted)
}

fn number<T: FromStr + PartialOrd + std::fmt::Display>(
    text: &str,
    range: RangeInclusive<T>,
) -> Result<T, String> {
    decimal(text)
        .filter(|number| range.contains(number))
        .ok_or_else(|| format!("expected a number from {} to {}", range.start(), range.end()))
}

/// Digits alone: `str::parse` would also take a `+`.
fn decimal<T: FromStr>(text: &str) -> Option<T> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// What goes into a header or a signature's scope: no blank, no control character, not empty.
fn header_safe(text: &str) -> Result<String, String> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        Ok(text.to_owned())
    } else {
        Err("expected printable ASCII without blanks".to_owned())
    }
}
