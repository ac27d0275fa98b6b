//! What the program does, a file for each action: parsed options in, exit code out.
//!
//! Commands may use every layer; no layer uses them.

mod catalog;
mod deadline;
pub mod export;
pub mod gc;
mod git_config;
pub mod import;
pub mod index;
pub mod install_helper;
pub mod lfs_agent;
pub mod list;
mod maintenance;
pub mod mirror;
pub mod refs;
pub mod remote_helper;
pub mod restore;
pub mod verify;
