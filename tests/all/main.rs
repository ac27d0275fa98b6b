//! All tests that drive the library and the program, as one crate: it is linked once, and no slow
//! test keeps a processor idle.

#![allow(missing_docs)]

#[path = "../support/mod.rs"]
mod support;

mod architecture;
mod bundle_uri;
mod bundles;
mod catalog;
mod cli;
mod compaction;
mod end_to_end;
mod examples;
mod faults;
mod fleet;
mod gc;
mod hand_made_packs;
mod history;
mod increments;
mod interrupt;
mod killed;
mod lfs;
mod maintenance;
mod man_pages;
mod mirror_layouts;
mod network;
mod object_format;
mod operators;
mod pack_reader;
mod remote_helper;
mod repair;
mod safety;
mod secrets;
mod slices;
mod soak;
mod source_http;
mod store_conformance;
mod store_s3_answers;
mod transfer;
mod transfer_refs;
mod trips;
mod verify;
mod wire_faults;
