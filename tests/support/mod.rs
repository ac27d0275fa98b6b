//! What tests share: servers, repositories, stores that fail, the program.

pub mod fault_proxy;
pub mod git_http;
pub mod hooked_store;
pub mod hostile;
pub mod lfs_server;
pub mod local_git;
pub mod network;
pub mod pack_builder;
pub mod program;
pub mod s3_server;
pub mod state;
