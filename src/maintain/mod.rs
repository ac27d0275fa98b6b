//! Work on a mirror that has no source: checking it, and deleting what nothing needs.

pub mod gc;
mod inventory;
mod known;
mod links;
mod scratch;
mod survey;
pub mod verify;
mod walk;
