//! A stream of pack bytes becomes stored objects.
//!
//! ```text
//!  source ─► ahead ─► reader ─► scheduler ─► resolve tasks ─► sink ─► request threads ─► store
//!                                  ▲  │                                     │
//!                                  │  └─ heavy deltas, bases to read ───────┤
//!                                  └──────────── what has ended ────────────┘
//! ```
//! [`scheduler`] decides, alone and purely, in terms of [`units`]; [`engine`] is the shell of threads
//! around it, and its page is their contract. A layout is one [`sink`]. Everything here works on
//! traits; it knows neither HTTP nor S3.

mod ahead;
pub(crate) mod budget;
mod bytes;
mod cache;
pub(crate) mod context;
mod engine;
mod error;
mod hands;
mod heavy;
mod jobs;
mod names;
mod parked;
mod reader;
mod requests;
mod resolve;
pub(crate) mod run;
mod scheduler;
#[cfg(test)]
mod simulation;
pub(crate) mod sink;
pub(crate) mod slices;
mod table;
pub(crate) mod thin;
mod units;
