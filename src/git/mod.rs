//! Git's formats and protocol as pure functions: bytes in, values out.
//!
//! No socket, no thread, no log, no file. Everything here can be tested, and fuzzed, on bytes.
//! A conversation over smart HTTP begins with [`handshake`], which finds out the protocol's
//! version; [`fetch_v0`] and [`fetch_v2`] then read refs and build requests, and the pack itself
//! comes through [`sideband`]. What goes wrong in all of these is one [`ProtocolError`].

pub mod bundle;
pub(crate) mod bundle_uri;
pub mod checksum;
pub mod fetch_v0;
pub mod fetch_v2;
pub mod handshake;
pub mod lfs_pointer;
pub mod object;
pub mod oids;
pub mod pkt_line;
mod protocol;
pub mod refs;
pub mod sideband;

pub use protocol::{AGENT, ProtocolError};
