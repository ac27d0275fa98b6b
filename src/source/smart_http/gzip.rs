//! Bodies of requests as gzip, for servers that are sent many haves.

use zlib_rs::{Deflate, DeflateFlush, Status};

/// `bytes` as a gzip member (RFC 1952). None if they don't get smaller.
pub(super) fn gzip(bytes: &[u8]) -> Option<Vec<u8>> {
    // Magic, deflate, no flags, no time, no extra flags, unknown system.
    let mut out = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
    let mut deflated = vec![0; bytes.len()];
    let mut deflate = Deflate::new(6, false, 15);
    match deflate.compress(bytes, &mut deflated, DeflateFlush::Finish) {
        Ok(Status::StreamEnd) => {}
        _ => return None,
    }
    let len = usize::try_from(deflate.total_out()).ok()?;
    out.extend_from_slice(&deflated[..len]);
    out.extend_from_slice(&zlib_rs::crc32::crc32(0, bytes).to_le_bytes());
    // The length modulo 2^32, by the format.
    out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_is_read_back_by_an_inflater_and_given_up_when_it_does_not_help() {
        let bytes = b"0032have 1111111111111111111111111111111111111111\n".repeat(100);
        let zipped = gzip(&bytes).unwrap();
        assert!(zipped.len() < bytes.len() / 10);
        let mut out = vec![0; bytes.len()];
        let mut inflate = zlib_rs::Inflate::new(true, 31);
        let status = inflate.decompress(&zipped, &mut out, zlib_rs::InflateFlush::Finish);
        assert_eq!(status, Ok(Status::StreamEnd));
        assert_eq!(out, bytes);
        assert_eq!(gzip(b"x"), None);
    }
}
