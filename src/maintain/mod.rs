//! Work on a mirror that asks no source: checking it, compacting it, and deleting what nothing needs.

pub(crate) mod bundle;
mod bundle_check;
pub mod catalog;
pub(crate) mod compact;
pub mod count;
mod diagnose;
pub mod distrust;
mod findings;
pub mod gc;
mod inventory;
mod known;
mod links;
pub mod mend;
mod pass;
mod past;
mod rebuild;
pub mod restore;
mod salvage;
pub mod sample;
mod scratch;
mod survey;
mod tiers;
pub mod verify;
pub(crate) mod walk;

#[cfg(test)]
mod collisions;
