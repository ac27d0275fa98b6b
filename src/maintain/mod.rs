//! Work on a mirror that has no source: checking it, and deleting what nothing needs.

pub mod gc;
mod inventory;
pub mod verify;
mod walk;
