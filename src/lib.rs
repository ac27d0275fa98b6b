//! Mirrors git repositories from smart HTTP(S) to S3-compatible storage, so that stock git clones
//! them from the bucket over plain HTTP (the 'dumb' protocol), with no server.
//!
//! This page is the map: how the bytes flow, which layer may use which, and which file to open to
//! change what. Each module's own page says what it promises.
//!
//! # The flow: one way
//! ```text
//!  source                        git, pack                     ingest                     store
//!  ──────                        ─────────                     ──────                     ─────
//!  smart HTTP ─┐  packets,      ┌─ entries ──► scheduler: ──► sink
//!  bundle     ─┴► side-band 1 ──┤  as they     what can        │ loose: key + zlib ──────► S3
//!                               │  stream in   run now         │ pack: pack + its index ─► directory
//!                               │                 ▲   │        │                           memory
//!                               │            bases│   │objects │                             │
//!                               │                 └───┘        │                             │
//!  LFS batch API ◄──── pointers seen in blobs ─────────────────┤                             │
//!       └──────────► LFS objects, checked ─────────────────────┴───────────────────────────► │
//!                                                                                            │
//!                    every object is stored: Complete ◄──────────────────────────────────────┘
//!                                  │
//!                                  └► publish: objects/info/packs, info/refs, HEAD ────────► store
//! ```
//! Nothing flows back but bases that have left the cache, and waits point downstream only. Refs are
//! published last, and only a clean run can publish: the types see to it.
//!
//! # The layers: imports point down this picture only
//! ```text
//!   main.rs                                     parse, call, exit code
//!     │
//!   commands/                                   one file an action
//!     │
//!   report      endpoints   signals             results in words; URL → source or store; SIGINT
//!     │
//!   logging                                     the log, and what may be printed
//!     │
//!   cli/        exit_code                       words and environment → options; codes
//!     │
//!   repair                                      verify → mend → mirror what is damaged → verify
//!     │
//!   fleet → mirror                              several at once; one repository: plan → ingest → publish
//!     │
//!   maintain/ → lfs/    transfer/    read/      verify, gc, compact; LFS; mirror to mirror; remote helper
//!     │
//!   ingest/                                     a stream of pack bytes → stored objects
//!     │
//!   repository/                                 what is in the bucket, and reading it back
//!     │      ╲          ╲         ╲
//!   pack/     source/    store/    progress/    none of these imports another,
//!     │      ╱     ╲     ╱                      but that source and pack use git
//!   git/            http           run/         pure bytes; the one builder of HTTP agents; cancel
//! ```
//! An arrow in a row is an import, too. `tests/all/architecture.rs` reads every path that begins with
//! `crate::` or `super::` and fails on one that points elsewhere, between folders and inside them:
//! no file leads back to itself, and a child imports nothing from its own parent.
//!
//! # As a library
//! [`mirror::mirror`] takes any [`source::Source`] and any [`store::Store`]; several repositories go
//! through [`fleet::run_all`]:
//! ```no_run
//! use mirror_git_to_s3::fleet;
//! use mirror_git_to_s3::http::{Client, Settings};
//! use mirror_git_to_s3::mirror::{MirrorError, Options, Summary, mirror};
//! use mirror_git_to_s3::progress::Silent;
//! use mirror_git_to_s3::source::{auth::Auth, smart_http::SmartHttp};
//! use mirror_git_to_s3::store::credentials::{Credentials, Provider};
//! use mirror_git_to_s3::store::retry::{Policy, Retry};
//! use mirror_git_to_s3::store::s3::{S3Config, S3Store};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::new(&Settings::default())?;
//! let keys = Provider::fixed(Credentials::new("KEY", "secret"));
//! let options = Options::default();
//! // Two repositories at once share the memory and the requests of one.
//! let each = fleet::share(&options, 2);
//! let one = |name: &&str| -> Result<Summary, MirrorError> {
//!     let url = format!("https://git.example.com/{name}.git");
//!     let source = SmartHttp::new(&url, client.clone(), Auth::none())?;
//!     let bucket = S3Config {
//!         bucket: "mirrors".into(),
//!         prefix: format!("{name}.git"),
//!         region: "eu-central-1".into(),
//!         ..S3Config::default()
//!     };
//!     let store = S3Store::new(bucket, client.clone(), keys.clone())?;
//!     mirror(&source, &Retry::new(store, Policy::default()), &each, &Silent)
//! };
//! for outcome in fleet::run_all(&["first", "second"], 2, false, &options.cancel, one) {
//!     println!("{outcome:?}");
//! }
//! # Ok(()) }
//! ```
//!
//! # Where to change what
//! | to change | open |
//! |---|---|
//! | a new store | one file in [`store`], one arm in [`endpoints`], one line in the conformance suite |
//! | a new kind of source | one file in [`source`], one arm in [`endpoints`], one in [`cli::urls`] |
//! | an option | `cli/args.rs` and `cli/help.rs`, its place in [`cli`], a row in the README |
//! | a sub-command | a variant of [`cli::Command`], an arm in [`cli::parse`], a file in [`commands`] |
//! | how a mirror is copied to another, or travels in a file | [`transfer`] |
//! | a new layout | one file in `ingest/sink/` |
//! | when what may run | `ingest/scheduler.rs`, and its simulation |
//! | what a key is called | `repository/` |
//! | protocol details | `git/fetch_v*.rs` |
//! | which refs | [`git::refs::RefFilter`] |
//! | progress style | one `impl` of [`progress::Progress`] |
//! | exit codes | [`exit_code`], and the tables that its tests compare |
//! | words, JSON and metrics at the end | [`report`] |

pub mod cli;
pub mod commands;
pub mod endpoints;
pub mod exit_code;
pub mod fleet;
pub mod git;
pub mod http;
mod ingest;
mod lfs;
pub mod logging;
pub mod maintain;
pub mod mirror;
pub mod pack;
pub mod progress;
mod read;
pub mod repair;
pub mod report;
mod repository;
mod run;
pub mod signals;
pub mod source;
pub mod store;
pub mod transfer;
