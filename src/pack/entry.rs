//! The header of one pack entry: its type, its inflated length and, for a delta, its base.
//!
//! Follows gitformat-pack(5), "Pack file entry", "Size encoding" and "Object types", and git's
//! `unpack_raw_entry` in `builtin/index-pack.c` for what is refused. Pure: bytes in, a value out.
//! What is parsed here is only what the pack claims; whether the base is there, and whether the
//! body has that length, others find out.

use crate::git::object::{Kind, ObjectFormat, Oid};

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A whole object of this kind.
    Object(Kind),
    /// A delta against the entry that starts at `base_offset` in the same pack.
    OfsDelta {
        /// Where the base's entry starts: at least 12 (after the pack's header) and less than this
        /// entry's own offset. Whether an entry starts there is not checked here.
        base_offset: u64,
    },
    /// A delta against the object with this name, anywhere in the pack.
    RefDelta {
        /// The base's name.
        base: Oid,
    },
}

/// What an entry's header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryHeader {
    /// Where the entry starts in the pack, in bytes.
    pub offset: u64,
    /// What it is.
    pub kind: EntryKind,
    /// How long its body claims to be when inflated, in bytes: the content of an object, or the
    /// delta's instructions (not what the delta makes).
    pub inflated_len: u64,
}

/// Why an entry's header was refused. The caller knows the entry's offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// Type 0 or 5, which no entry has.
    #[error("entry has the invalid type {0}")]
    BadType(u8),
    /// The length does not fit 64 bits.
    #[error("entry's length does not fit 64 bits")]
    LengthOverflow,
    /// The base of an OFS delta is the entry itself, or before the pack's first entry.
    #[error("base of the delta lies outside the pack")]
    BaseOutsidePack,
}

/// Where a pack's first entry starts: after `PACK`, the version and the count.
pub(super) const FIRST_ENTRY: u64 = 12;

/// The longest header, in bytes: ten of length, and 32 of a base's name.
pub const MAX_HEADER_LEN: usize = 10 + ObjectFormat::Sha256.raw_len();

/// Parses the header at the start of `bytes`, of an entry that starts at `offset`.
///
/// Answers the header and its own length in bytes, or `None` if `bytes` ends too soon; that can't
/// happen with [`MAX_HEADER_LEN`] bytes or more.
pub fn parse_header(
    bytes: &[u8],
    offset: u64,
    format: ObjectFormat,
) -> Result<Option<(EntryHeader, usize)>, EntryError> {
    let Some((type_id, inflated_len, used)) = type_and_len(bytes)? else { return Ok(None) };
    let object = |kind| Some((EntryKind::Object(kind), used));
    let parsed = match type_id {
        1 => object(Kind::Commit),
        2 => object(Kind::Tree),
        3 => object(Kind::Blob),
        4 => object(Kind::Tag),
        6 => ofs_delta(bytes, used, offset)?,
        7 => ref_delta(bytes, used, format),
        bad => return Err(EntryError::BadType(bad)),
    };
    Ok(parsed.map(|(kind, used)| (EntryHeader { offset, kind, inflated_len }, used)))
}

/// The type, the inflated length, and how many bytes say so: four bits of the length in the first
/// byte, seven in each that follows, the least significant first.
fn type_and_len(bytes: &[u8]) -> Result<Option<(u8, u64, usize)>, EntryError> {
    let Some(&first) = bytes.first() else { return Ok(None) };
    let mut len = u64::from(first & 0x0f);
    let (mut byte, mut used, mut shift) = (first, 1, 4);
    while byte & 0x80 != 0 {
        let Some(&next) = bytes.get(used) else { return Ok(None) };
        let bits = u64::from(next & 0x7f);
        if shift >= u64::BITS || bits << shift >> shift != bits {
            return Err(EntryError::LengthOverflow);
        }
        len |= bits << shift;
        (byte, used, shift) = (next, used + 1, shift + 7);
    }
    Ok(Some(((first >> 4) & 7, len, used)))
}

/// The base of an OFS delta: how far back it starts, the most significant bits first, with one
/// added at each byte that continues (gitformat-pack(5), "offset encoding").
fn ofs_delta(
    bytes: &[u8],
    mut used: usize,
    offset: u64,
) -> Result<Option<(EntryKind, usize)>, EntryError> {
    let mut distance: u64 = 0;
    loop {
        let Some(&byte) = bytes.get(used) else { return Ok(None) };
        distance |= u64::from(byte & 0x7f);
        used += 1;
        if byte & 0x80 == 0 {
            break;
        }
        // A distance above the offset is wrong already; stopping here keeps the shift in range.
        if distance >= offset {
            return Err(EntryError::BaseOutsidePack);
        }
        distance = (distance + 1).checked_mul(128).ok_or(EntryError::BaseOutsidePack)?;
    }
    match offset.checked_sub(distance) {
        Some(base_offset) if distance > 0 && base_offset >= FIRST_ENTRY => {
            Ok(Some((EntryKind::OfsDelta { base_offset }, used)))
        }
        _ => Err(EntryError::BaseOutsidePack),
    }
}

fn ref_delta(bytes: &[u8], used: usize, format: ObjectFormat) -> Option<(EntryKind, usize)> {
    let (base, _) = format.split_oid(bytes.get(used..)?)?;
    Some((EntryKind::RefDelta { base }, used + format.raw_len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    use ObjectFormat::{Sha1, Sha256};

    fn kind_of(bytes: &[u8], offset: u64) -> Result<Option<EntryKind>, EntryError> {
        parse_header(bytes, offset, Sha1).map(|parsed| parsed.map(|(header, _)| header.kind))
    }

    #[test]
    fn length_takes_four_bits_then_seven_at_a_time() {
        let header = |bytes| parse_header(bytes, 12, Sha1).unwrap().unwrap();
        assert_eq!(header(&[0x3f]).0.inflated_len, 15);
        let (blob, used) = header(&[0xb0, 0x81, 0x01, 0xff]);
        assert_eq!((blob.kind, used), (EntryKind::Object(Kind::Blob), 3));
        assert_eq!(blob.inflated_len, (1 << 4) | (1 << 11));
    }

    #[test]
    fn greatest_length_fits_and_one_bit_more_does_not() {
        let greatest = [0xbf, 255, 255, 255, 255, 255, 255, 255, 255, 0x0f];
        let (header, used) = parse_header(&greatest, 12, Sha1).unwrap().unwrap();
        assert_eq!((header.inflated_len, used), (u64::MAX, 10));
        let mut more = greatest;
        more[9] = 0x10;
        assert_eq!(parse_header(&more, 12, Sha1), Err(EntryError::LengthOverflow));
        let mut longer = greatest.to_vec();
        longer[9] = 0x8f;
        longer.push(0);
        assert_eq!(parse_header(&longer, 12, Sha1), Err(EntryError::LengthOverflow));
    }

    #[test]
    fn types_0_and_5_are_refused() {
        assert_eq!(parse_header(&[0x00], 12, Sha1), Err(EntryError::BadType(0)));
        assert_eq!(parse_header(&[0x50], 12, Sha1), Err(EntryError::BadType(5)));
    }

    #[test]
    fn offset_of_a_base_gains_one_at_each_byte_that_continues() {
        // 0x80 0x00 is 128: the smallest distance of two bytes.
        let base = kind_of(&[0x60, 0x80, 0x00], 1000).unwrap();
        assert_eq!(base, Some(EntryKind::OfsDelta { base_offset: 872 }));
        let base = kind_of(&[0x60, 0x7f], 1000).unwrap();
        assert_eq!(base, Some(EntryKind::OfsDelta { base_offset: 873 }));
    }

    #[test]
    fn base_at_the_entry_itself_or_before_the_first_entry_is_refused() {
        for bytes in [&[0x60, 0][..], &[0x60, 9], &[0x60, 21], &[0x60, 0xff, 0xff, 0xff, 0x7f]] {
            assert_eq!(kind_of(bytes, 20), Err(EntryError::BaseOutsidePack), "{bytes:?}");
        }
        let first = kind_of(&[0x60, 8], 20).unwrap();
        assert_eq!(first, Some(EntryKind::OfsDelta { base_offset: 12 }));
        let endless = [&[0x60][..], &[0xff; 40]].concat();
        assert_eq!(kind_of(&endless, u64::MAX), Err(EntryError::BaseOutsidePack));
    }

    #[test]
    fn header_that_is_cut_asks_for_more() {
        let ofs = [0xe1, 0x01, 0x81, 0x01];
        let reference = |len| [&[0xf1, 0x01][..], &vec![7; len]].concat();
        for (format, reference) in [(Sha1, reference(20)), (Sha256, reference(32))] {
            for whole in [&ofs[..], &reference] {
                for cut in 0..whole.len() {
                    assert_eq!(parse_header(&whole[..cut], 5000, format), Ok(None), "{cut} bytes");
                }
                assert_eq!(parse_header(whole, 5000, format).unwrap().unwrap().1, whole.len());
            }
        }
    }
}
