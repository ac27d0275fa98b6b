//! Git's formats and protocol as pure functions: bytes in, values out.
//!
//! No socket, no thread, no log, no file. Everything here can be tested, and fuzzed, on bytes.
//! A conversation over smart HTTP begins with [`handshake`], which finds out the protocol's
//! version; [`fetch_v0`] and [`fetch_v2`] then read refs and build requests, and the pack itself
//! comes through [`sideband`]. What goes wrong in all of these is one [`ProtocolError`].

pub mod bundle;
pub mod fetch_v0;
pub mod fetch_v2;
pub mod handshake;
pub mod lfs_pointer;
pub mod object;
pub mod pkt_line;
pub mod refs;
pub mod sideband;

/// What was wrong with a server's answer, before the pack begins.
#[derive(Debug, thiserror::Error)]
pub enum ProtocolError {
    /// The packets themselves, the stream under them, or the server's own `ERR`.
    #[error(transparent)]
    Packet(#[from] pkt_line::PacketError),
    /// The source is a shallow clone.
    #[error(
        "the repository is shallow, and a shallow repository cannot be published for git's dumb \
         protocol; complete it first (git fetch --unshallow)"
    )]
    Shallow,
    /// The source's objects are not named by SHA-1.
    #[error("the repository's object format is {0:?}; only sha1 can be mirrored")]
    ObjectFormat(String),
    /// The server lacks something without which nothing can be fetched.
    #[error("the server does not offer {0}")]
    Lacks(&'static str),
    /// An answer that the protocol's documents don't know.
    #[error("unexpected {what} in the server's answer: {got:?}")]
    Unexpected {
        /// Where in the conversation.
        what: &'static str,
        /// The beginning of what came instead, free of control characters.
        got: String,
    },
    /// A ref was advertised twice, with different oids.
    #[error("the server advertises {0} twice with different oids")]
    Contradiction(refs::RefName),
}

impl ProtocolError {
    /// [`ProtocolError::Unexpected`] from the bytes that came.
    pub(crate) fn unexpected(what: &'static str, got: &[u8]) -> Self {
        ProtocolError::Unexpected { what, got: pkt_line::clean_text(got, 100) }
    }
}

/// How this program names itself inside the protocol (gitprotocol-v2(5), `agent`): printable ASCII
/// without a space.
pub const AGENT: &str = concat!("mirror-git-to-s3/", env!("CARGO_PKG_VERSION"));
