//! What is to be done: one variant and one struct for each sub-command, with all that its options
//! say, and nothing of how they are read.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::manifest::Pair;
use super::mirror_url::MirrorUrl;
use super::settings::{Output, Settings};
use super::urls;
use crate::mirror::Options;
use crate::run::Cancel;

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
    /// A password that others on this machine can see.
    pub warning: Option<String>,
    /// How to reach it.
    pub settings: Settings,
    /// What is said on standard error.
    pub output: Output,
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
