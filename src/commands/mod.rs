//! What the program does, a file for each action: parsed options in, exit code out.
//!
//! Commands may use every layer; no layer uses them.

mod deadline;
pub mod gc;
pub mod lfs_agent;
pub mod mirror;
mod upkeep;
pub mod verify;
