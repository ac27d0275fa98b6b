//! Work on a mirror that has no source: checking it, and deleting what nothing needs.

mod diagnose;
mod findings;
pub mod gc;
mod inventory;
mod known;
mod links;
mod pass;
mod rebuild;
mod scratch;
mod survey;
pub mod verify;
mod walk;
