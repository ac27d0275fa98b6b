//! What all of the conversation has in common: its error, our name in it, and the next packet.

use std::io::Read;

use crate::git::object::{ObjectFormat, Oid};
use crate::git::pkt_line::{Packet, PacketError, Packets, clean_text};

/// What was wrong with a server's answer, before the pack begins.
#[derive(Debug, thiserror::Error)]
pub enum ProtocolError {
    /// The packets themselves, the stream under them, or the server's own `ERR`.
    #[error(transparent)]
    Packet(#[from] PacketError),
    /// The source is a shallow clone.
    #[error(
        "the repository is shallow, and a shallow repository cannot be published for git's dumb \
         protocol; run git fetch --unshallow there first"
    )]
    Shallow,
    /// The source's objects are not named by SHA-1.
    #[error("the repository's object format is {0:?}; only sha1 and sha256 can be mirrored")]
    ObjectFormat(String),
    /// A name that is not of the format that was announced.
    #[error("{oid} is not an object name of {format}, which the repository says it has")]
    OtherFormat {
        /// The name.
        oid: Oid,
        /// What was announced; SHA-1 if nothing was.
        format: ObjectFormat,
    },
    /// The server does not support something without which nothing can be fetched.
    #[error("the server does not offer {0}")]
    Unsupported(&'static str),
    /// An answer that the protocol's documents don't know.
    #[error("unexpected {what} in the server's answer: {got:?}")]
    Unexpected {
        /// Where in the conversation.
        what: &'static str,
        /// The beginning of what came instead, free of control characters.
        got: String,
    },
    /// What comes before the pack has no end.
    #[error("the server sends more than {0} bytes before the pack")]
    Endless(u64),
    /// A ref was advertised twice, with different oids.
    #[error("the server advertises {0} twice with different oids")]
    Contradiction(String),
}

impl ProtocolError {
    /// [`ProtocolError::Unexpected`] from the bytes that came.
    pub(crate) fn unexpected(what: &'static str, got: &[u8]) -> Self {
        ProtocolError::Unexpected { what, got: clean_text(got, 100) }
    }
}

/// How this program names itself inside the protocol (gitprotocol-v2(5), `agent`): printable ASCII
/// without a space.
pub const AGENT: &str = concat!("mirror-git-to-s3/", env!("CARGO_PKG_VERSION"));

/// The format that `object-format=<value>` names.
pub(crate) fn object_format(value: &[u8]) -> Result<ObjectFormat, ProtocolError> {
    let unknown = || ProtocolError::ObjectFormat(clean_text(value, 20));
    ObjectFormat::from_name(value).ok_or_else(unknown)
}

/// The next packet's data; `None` is a flush packet.
pub(crate) fn next_data<R: Read>(
    packets: &mut Packets<R>,
) -> Result<Option<Vec<u8>>, ProtocolError> {
    match packets.read()? {
        Packet::Data(data) => Ok(Some(data.to_vec())),
        Packet::Flush => Ok(None),
        other => Err(ProtocolError::unexpected("packet", format!("{other:?}").as_bytes())),
    }
}
