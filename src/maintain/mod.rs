//! Work on a mirror that has no source: checking it, and deleting what nothing needs.

mod diagnose;
pub mod distrust;
mod findings;
pub mod gc;
mod inventory;
mod known;
mod links;
pub mod mend;
mod pass;
mod rebuild;
pub mod sample;
mod scratch;
mod survey;
pub mod verify;
mod walk;
