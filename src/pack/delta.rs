//! Deltas: instructions that make a result from a base.
//!
//! Follows gitformat-pack(5), "Deltified representation", and git's `patch-delta.c` for what is
//! refused. [`apply`] works on slices; [`InstructionReader`] on a stream, for deltas larger than
//! memory. Nothing is allocated on a length's word alone.

use std::io::{self, BufRead, BufReader, Read};
use std::ops::Range;

/// The two lengths at a delta's start, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeltaHeader {
    /// Length that the base must have.
    pub base_len: u64,
    /// Length of what the delta makes.
    pub result_len: u64,
}

/// Why a delta was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeltaError {
    /// The delta ends inside its header or an instruction.
    #[error("delta is truncated")]
    Truncated,
    /// A length in the header does not fit 64 bits.
    #[error("length in the delta's header does not fit 64 bits")]
    LengthOverflow,
    /// The instruction byte 0, reserved by git.
    #[error("delta has the reserved instruction 0")]
    Reserved,
    /// The base has another length than the delta was made for.
    #[error("delta needs a base of {wanted} bytes, but it has {got}")]
    WrongBaseLen {
        /// The length in the delta's header.
        wanted: u64,
        /// The base's length.
        got: u64,
    },
    /// A copy reaches past the end of the base.
    #[error("delta copies {len} bytes at {offset} from a base of {base_len}")]
    CopyPastBase {
        /// Where in the base.
        offset: u64,
        /// How many bytes.
        len: u64,
        /// The base's length.
        base_len: u64,
    },
    /// The instructions make more or less than the header says.
    #[error("delta produces {got} bytes, but claims {wanted}")]
    WrongResultLen {
        /// The length in the delta's header.
        wanted: u64,
        /// What the instructions make; when too much, where that was noticed.
        got: u64,
    },
}

/// Parses the header: the two lengths, and how many bytes of the delta they take.
pub fn parse_header(delta: &[u8]) -> Result<(DeltaHeader, usize), DeltaError> {
    let mut rest = delta.iter();
    let mut next = || rest.next().copied().ok_or(DeltaError::Truncated);
    let (base_len, result_len) = (varint(&mut next)?, varint(&mut next)?);
    Ok((DeltaHeader { base_len, result_len }, delta.len() - rest.len()))
}

/// A length: seven bits a byte, the least significant first (gitformat-pack(5), "Size encoding").
fn varint<E: From<DeltaError>>(mut next: impl FnMut() -> Result<u8, E>) -> Result<u64, E> {
    let (mut len, mut shift) = (0u64, 0);
    loop {
        let byte = next()?;
        let bits = u64::from(byte & 0x7f);
        if shift >= u64::BITS || bits << shift >> shift != bits {
            return Err(DeltaError::LengthOverflow.into());
        }
        len |= bits << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            return Ok(len);
        }
    }
}

/// The offset and length of a copy, whose bits 0 to 3 and 4 to 6 say which of their bytes follow.
fn copy_operands<E>(op: u8, mut next: impl FnMut() -> Result<u8, E>) -> Result<(u64, u64), E> {
    let mut operand = [0u8; 7];
    for (i, byte) in operand.iter_mut().enumerate() {
        if op & (1 << i) != 0 {
            *byte = next()?;
        }
    }
    let [o0, o1, o2, o3, l0, l1, l2] = operand;
    let len = u32::from_le_bytes([l0, l1, l2, 0]);
    // "size zero is automatically converted to 0x10000"
    let len = if len == 0 { 0x10000 } else { len };
    Ok((u32::from_le_bytes([o0, o1, o2, o3]).into(), len.into()))
}

/// One instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instruction<'a> {
    /// Copy from the base.
    Copy {
        /// Where in the base, in bytes.
        offset: u64,
        /// How many bytes: 1 to 0xffffff.
        len: u64,
    },
    /// Insert these 1 to 127 bytes.
    Insert(&'a [u8]),
}

/// The instructions of a delta; `bytes` is the delta after its header. Ends after an error.
pub fn instructions(bytes: &[u8]) -> Instructions<'_> {
    Instructions { rest: bytes }
}

/// Iterator over a delta's instructions, see [`instructions`].
#[derive(Clone, Debug)]
pub struct Instructions<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Instructions<'a> {
    type Item = Result<Instruction<'a>, DeltaError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let (&op, rest) = self.rest.split_first()?;
        self.rest = rest;
        let item = self.operands(op);
        if item.is_err() {
            self.rest = &[];
        }
        Some(item)
    }
}

impl<'a> Instructions<'a> {
    #[inline]
    fn operands(&mut self, op: u8) -> Result<Instruction<'a>, DeltaError> {
        if op & 0x80 != 0 {
            let (offset, len) = copy_operands(op, || {
                let (&byte, rest) = self.rest.split_first().ok_or(DeltaError::Truncated)?;
                self.rest = rest;
                Ok(byte)
            })?;
            return Ok(Instruction::Copy { offset, len });
        }
        if op == 0 {
            return Err(DeltaError::Reserved);
        }
        let (data, rest) = self.rest.split_at_checked(op.into()).ok_or(DeltaError::Truncated)?;
        self.rest = rest;
        Ok(Instruction::Insert(data))
    }
}

/// Appends to `out` what `delta` makes of `base`.
///
/// `out` is reserved to the claimed length only when base and delta confirm it, so a short lie
/// takes no memory. After an error `out` is as long as it was. A long result can be honest: who has
/// a budget compares [`DeltaHeader::result_len`] with it first.
pub fn apply(base: &[u8], delta: &[u8], out: &mut Vec<u8>) -> Result<(), DeltaError> {
    let (header, used) = parse_header(delta)?;
    let (wanted, got) = (header.base_len, base.len() as u64);
    if wanted != got {
        return Err(DeltaError::WrongBaseLen { wanted, got });
    }
    let body = &delta[used..];
    // A result longer than its base and delta together copies something twice: legal, but rare
    // enough to go through the instructions once more before their sum is believed.
    if header.result_len > got.saturating_add(delta.len() as u64) {
        check_result_len(base, body, header.result_len)?;
    }
    let start = out.len();
    let result_len = usize::try_from(header.result_len).map_err(|_| DeltaError::LengthOverflow)?;
    out.reserve_exact(result_len);
    let result = run(base, body, header.result_len, out);
    if result.is_err() {
        out.truncate(start);
    }
    result
}

/// Like [`apply`], where the base is a piece of `out` itself.
pub fn apply_within(out: &mut Vec<u8>, base: Range<usize>, delta: &[u8]) -> Result<(), DeltaError> {
    let (header, used) = parse_header(delta)?;
    let (wanted, got) = (header.base_len, base.len() as u64);
    if wanted != got {
        return Err(DeltaError::WrongBaseLen { wanted, got });
    }
    let start = out.len();
    let mut append = |instruction| {
        match instruction? {
            Instruction::Copy { offset, len } => {
                let piece = copied_range(base.len(), offset, len)?;
                add_made((out.len() - start) as u64, piece.len() as u64, header.result_len)?;
                out.extend_from_within(base.start + piece.start..base.start + piece.end);
            }
            Instruction::Insert(data) => {
                add_made((out.len() - start) as u64, data.len() as u64, header.result_len)?;
                out.extend_from_slice(data);
            }
        }
        Ok(())
    };
    let result = instructions(&delta[used..]).try_for_each(&mut append);
    let result = result.and_then(|()| check_made((out.len() - start) as u64, header.result_len));
    if result.is_err() {
        out.truncate(start);
    }
    result
}

fn check_result_len(base: &[u8], body: &[u8], wanted: u64) -> Result<(), DeltaError> {
    let mut made = 0;
    for piece in pieces(base, body) {
        made = add_made(made, piece?.len() as u64, wanted)?;
    }
    check_made(made, wanted)
}

fn run(base: &[u8], body: &[u8], wanted: u64, out: &mut Vec<u8>) -> Result<(), DeltaError> {
    let mut made = 0;
    for piece in pieces(base, body) {
        let piece = piece?;
        made = add_made(made, piece.len() as u64, wanted)?;
        out.extend_from_slice(piece);
    }
    check_made(made, wanted)
}

/// What each instruction adds to the result.
fn pieces<'a>(
    base: &'a [u8],
    body: &'a [u8],
) -> impl Iterator<Item = Result<&'a [u8], DeltaError>> {
    instructions(body).map(|instruction| match instruction? {
        Instruction::Copy { offset, len } => copied(base, offset, len),
        Instruction::Insert(data) => Ok(data),
    })
}

#[inline]
fn copied(base: &[u8], offset: u64, len: u64) -> Result<&[u8], DeltaError> {
    Ok(&base[copied_range(base.len(), offset, len)?])
}

/// What is copied, checked to lie inside the base.
#[inline]
fn copied_range(base_len: usize, offset: u64, len: u64) -> Result<Range<usize>, DeltaError> {
    let past = DeltaError::CopyPastBase { offset, len, base_len: base_len as u64 };
    let end = offset.checked_add(len).filter(|end| *end <= base_len as u64).ok_or(past)?;
    // Both are at most a length in memory.
    Ok(offset as usize..end as usize)
}

/// The length made so far, `len` more; an error above what was promised.
#[inline]
fn add_made(made: u64, len: u64, wanted: u64) -> Result<u64, DeltaError> {
    match made.checked_add(len) {
        Some(got) if got <= wanted => Ok(got),
        _ => Err(DeltaError::WrongResultLen { wanted, got: made.saturating_add(len) }),
    }
}

fn check_made(got: u64, wanted: u64) -> Result<(), DeltaError> {
    if got == wanted { Ok(()) } else { Err(DeltaError::WrongResultLen { wanted, got }) }
}

/// One instruction of a streamed delta.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instr {
    /// Copy from the base; checked to lie inside `base_len`.
    Copy {
        /// Where in the base, in bytes.
        offset: u64,
        /// How many bytes: 1 to 0xffffff.
        len: u64,
    },
    /// Insert the next `len` bytes (1 to 127): read them from the [`InstructionReader`].
    Insert {
        /// How many bytes.
        len: u64,
    },
}

/// Reads a delta's instructions from a stream, for deltas larger than memory.
///
/// [`Read`] gives the data of the [`Instr::Insert`] just announced, then 0; what is left of it
/// is skipped by the next [`InstructionReader::next`]. Errors are [`io::Error`]s: the stream's own,
/// unchanged, or of kind `InvalidData` around a [`DeltaError`]. The instructions' sum is checked
/// against `result_len`, every copy against `base_len`; that the base has that length is the
/// caller's to check. The stream is buffered here, and must end where the delta does.
pub struct InstructionReader<R: Read> {
    stream: BufReader<R>,
    header: DeltaHeader,
    /// What the instructions so far make, in bytes.
    made: u64,
    /// What is left of the present insert's data, in bytes.
    insert_left: u64,
}

impl<R: Read> InstructionReader<R> {
    /// Reads the delta's header.
    pub fn new(stream: R) -> io::Result<Self> {
        let mut stream = BufReader::new(stream);
        let mut next = || operand(&mut stream);
        let header = DeltaHeader {
            base_len: varint(&mut next).map_err(DeltaIoError::into_io)?,
            result_len: varint(&mut next).map_err(DeltaIoError::into_io)?,
        };
        Ok(InstructionReader { stream, header, made: 0, insert_left: 0 })
    }

    /// The delta's header.
    pub fn header(&self) -> DeltaHeader {
        self.header
    }

    /// The next instruction; `None` at the delta's end, when the result's length has been checked.
    #[allow(clippy::should_implement_trait, reason = "it fails, and lends the insert's data")]
    pub fn next(&mut self) -> io::Result<Option<Instr>> {
        self.skip_insert()?;
        self.next_checked().map_err(DeltaIoError::into_io)
    }

    fn skip_insert(&mut self) -> io::Result<()> {
        let mut rest = [0; 127];
        let len = self.insert_left as usize; // at most 127
        self.read_exact(&mut rest[..len])
    }

    fn next_checked(&mut self) -> Result<Option<Instr>, DeltaIoError> {
        let Some(op) = read_byte(&mut self.stream)? else {
            check_made(self.made, self.header.result_len)?;
            return Ok(None);
        };
        let (instr, len) = match op {
            0 => return Err(DeltaError::Reserved.into()),
            1..=0x7f => (Instr::Insert { len: op.into() }, op.into()),
            _ => self.copy(op)?,
        };
        self.made = add_made(self.made, len, self.header.result_len)?;
        if let Instr::Insert { len } = instr {
            self.insert_left = len;
        }
        Ok(Some(instr))
    }

    fn copy(&mut self, op: u8) -> Result<(Instr, u64), DeltaIoError> {
        let (offset, len) = copy_operands(op, || operand(&mut self.stream))?;
        let base_len = self.header.base_len;
        if offset + len > base_len {
            return Err(DeltaError::CopyPastBase { offset, len, base_len }.into());
        }
        Ok((Instr::Copy { offset, len }, len))
    }
}

impl<R: Read> Read for InstructionReader<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let wanted = buf.len().min(self.insert_left as usize); // at most 127
        if wanted == 0 {
            return Ok(0);
        }
        let len = self.stream.read(&mut buf[..wanted])?;
        if len == 0 {
            return Err(DeltaIoError::from(DeltaError::Truncated).into_io());
        }
        self.insert_left -= len as u64;
        Ok(len)
    }
}

/// Either error of a streamed delta, until it becomes an [`io::Error`].
enum DeltaIoError {
    Io(io::Error),
    Delta(DeltaError),
}

impl DeltaIoError {
    fn into_io(self) -> io::Error {
        match self {
            DeltaIoError::Io(e) => e,
            DeltaIoError::Delta(e) => io::Error::new(io::ErrorKind::InvalidData, e),
        }
    }
}

impl From<io::Error> for DeltaIoError {
    fn from(e: io::Error) -> Self {
        DeltaIoError::Io(e)
    }
}

impl From<DeltaError> for DeltaIoError {
    fn from(e: DeltaError) -> Self {
        DeltaIoError::Delta(e)
    }
}

/// The next byte, or `None` at the stream's end.
fn read_byte(stream: &mut impl BufRead) -> io::Result<Option<u8>> {
    // Not `read_exact`: its UnexpectedEof could be the stream's own error.
    loop {
        match stream.fill_buf() {
            Ok(bytes) => {
                let byte = bytes.first().copied();
                stream.consume(byte.is_some().into());
                return Ok(byte);
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// The next byte of an instruction that has begun.
fn operand(stream: &mut impl BufRead) -> Result<u8, DeltaIoError> {
    read_byte(stream)?.ok_or(DeltaIoError::Delta(DeltaError::Truncated))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A delta with these lengths and instructions.
    fn delta(base_len: u64, result_len: u64, body: &[u8]) -> Vec<u8> {
        let mut delta = Vec::new();
        for mut len in [base_len, result_len] {
            while len > 0x7f {
                delta.push(len as u8 | 0x80);
                len >>= 7;
            }
            delta.push(len as u8);
        }
        delta.extend(body);
        delta
    }

    fn applied(base: &[u8], delta: &[u8]) -> Result<Vec<u8>, DeltaError> {
        let mut out = Vec::new();
        apply(base, delta, &mut out).map(|()| out)
    }

    /// The same by the streamed instructions, one byte read at a time.
    fn streamed(base: &[u8], delta: &[u8]) -> io::Result<Vec<u8>> {
        let mut reader = InstructionReader::new(OneByte(delta))?;
        assert_eq!(reader.header().base_len, base.len() as u64);
        let mut out = Vec::new();
        while let Some(instr) = reader.next()? {
            match instr {
                Instr::Copy { offset, len } => {
                    out.extend(&base[offset as usize..][..len as usize]);
                }
                Instr::Insert { len } => {
                    assert_eq!(reader.read_to_end(&mut out)?, len as usize);
                }
            }
        }
        Ok(out)
    }

    struct OneByte<'a>(&'a [u8]);

    impl Read for OneByte<'_> {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            let len = buf.len().min(1);
            self.0.read(&mut buf[..len])
        }
    }

    fn refused(base: &[u8], delta: &[u8]) -> DeltaError {
        let error = applied(base, delta).unwrap_err();
        if !matches!(error, DeltaError::WrongBaseLen { .. }) {
            let streamed = streamed(base, delta).unwrap_err();
            assert_eq!(streamed.kind(), io::ErrorKind::InvalidData);
            let inner = streamed.get_ref().and_then(|e| e.downcast_ref::<DeltaError>());
            assert_eq!(inner, Some(&error));
        }
        error
    }

    #[test]
    fn copies_and_inserts_make_the_result() {
        let delta = delta(5, 7, &[0x91, 1, 3, 2, b'x', b'y', 0x90, 2]);
        assert_eq!(applied(b"hello", &delta).unwrap(), b"ellxyhe");
        assert_eq!(streamed(b"hello", &delta).unwrap(), b"ellxyhe");
    }

    #[test]
    fn size_0_copies_0x10000_bytes() {
        let base: Vec<u8> = (0..0x10001u32).map(|i| (i % 251) as u8).collect();
        let delta = delta(0x10001, 0x10000, &[0x81, 1]);
        assert_eq!(applied(&base, &delta).unwrap(), base[1..]);
        assert_eq!(streamed(&base, &delta).unwrap(), base[1..]);
    }

    #[test]
    fn every_operand_of_a_copy_has_its_place() {
        let all = [0xff, 1, 2, 3, 4, 5, 6, 7];
        let copy = Instruction::Copy { offset: 0x04030201, len: 0x070605 };
        assert_eq!(instructions(&all).collect::<Vec<_>>(), [Ok(copy)]);
    }

    #[test]
    fn result_is_appended_and_an_error_leaves_nothing_behind() {
        let mut out = b"before".to_vec();
        apply(b"abc", &delta(3, 3, &[0x90, 3]), &mut out).unwrap();
        assert_eq!(out, b"beforeabc");
        apply(b"abc", &delta(3, 4, &[0x90, 3, 0]), &mut out).unwrap_err();
        assert_eq!(out, b"beforeabc");
    }

    #[test]
    fn reserved_instruction_is_refused() {
        assert_eq!(refused(b"", &delta(0, 1, &[0])), DeltaError::Reserved);
    }

    #[test]
    fn base_of_another_length_is_refused() {
        let error = refused(b"abcd", &delta(3, 3, &[0x90, 3]));
        assert_eq!(error, DeltaError::WrongBaseLen { wanted: 3, got: 4 });
    }

    #[test]
    fn copy_past_the_end_of_the_base_is_refused() {
        for (offset, len) in [(1u8, 3u8), (4, 1), (0, 4)] {
            let error = refused(b"abc", &delta(3, 9, &[0x91, offset, len]));
            let (offset, len) = (offset.into(), len.into());
            assert_eq!(error, DeltaError::CopyPastBase { offset, len, base_len: 3 });
        }
        let far = [0xff, 255, 255, 255, 255, 255, 255, 255];
        let error = refused(b"abc", &delta(3, u64::MAX, &far));
        assert!(matches!(error, DeltaError::CopyPastBase { offset: 0xffffffff, .. }));
    }

    #[test]
    fn result_that_is_too_long_or_too_short_is_refused() {
        let error = refused(b"abc", &delta(3, 2, &[0x90, 3]));
        assert_eq!(error, DeltaError::WrongResultLen { wanted: 2, got: 3 });
        let error = refused(b"abc", &delta(3, 5, &[0x90, 3, 1, b'x']));
        assert_eq!(error, DeltaError::WrongResultLen { wanted: 5, got: 4 });
    }

    #[test]
    fn lie_about_the_result_takes_no_memory() {
        let mut out = Vec::new();
        let lie = delta(3, 1 << 40, &[0x90, 3]);
        let error = apply(b"abc", &lie, &mut out).unwrap_err();
        assert_eq!(error, DeltaError::WrongResultLen { wanted: 1 << 40, got: 3 });
        assert_eq!(out.capacity(), 0);
    }

    #[test]
    fn result_larger_than_base_and_delta_is_made_in_memory_of_its_size() {
        let delta = delta(100, 400, &[0x90, 100].repeat(4));
        let result = applied(&[7; 100], &delta).unwrap();
        assert_eq!((result.len(), result.capacity()), (400, 400));
    }

    #[test]
    fn length_above_64_bits_is_refused() {
        let mut long = vec![0xff; 9];
        long.push(0x02);
        assert_eq!(refused(b"", &long), DeltaError::LengthOverflow);
        assert_eq!(refused(b"", &[0x80; 11]), DeltaError::LengthOverflow);
    }

    #[test]
    fn delta_cut_at_any_byte_is_refused() {
        let whole = delta(300, 207, &[&[0xb0, 200, 0, 7][..], b"inserts"].concat());
        assert_eq!(applied(&[1; 300], &whole).unwrap().len(), 207);
        for cut in 0..whole.len() {
            applied(&[1; 300], &whole[..cut]).unwrap_err();
            let error = match InstructionReader::new(&whole[..cut]) {
                Ok(_) => streamed(&[1; 300], &whole[..cut]).unwrap_err(),
                Err(error) => error,
            };
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        }
    }

    #[test]
    fn insert_that_was_not_read_is_skipped() {
        let delta = delta(1, 5, &[3, b'a', b'b', b'c', 0x90, 1, 1, b'd']);
        let mut reader = InstructionReader::new(&delta[..]).unwrap();
        assert_eq!(reader.next().unwrap(), Some(Instr::Insert { len: 3 }));
        assert_eq!(reader.read(&mut [0; 1]).unwrap(), 1);
        assert_eq!(reader.next().unwrap(), Some(Instr::Copy { offset: 0, len: 1 }));
        assert_eq!(reader.read(&mut [0; 1]).unwrap(), 0);
        assert_eq!(reader.next().unwrap(), Some(Instr::Insert { len: 1 }));
        assert_eq!(reader.next().unwrap(), None);
    }

    #[test]
    fn error_of_the_stream_comes_through_unchanged() {
        struct Fails;
        impl Read for Fails {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::ErrorKind::UnexpectedEof.into())
            }
        }
        let whole = delta(1, 1, &[]);
        let mut reader = InstructionReader::new(whole.chain(Fails)).unwrap();
        assert_eq!(reader.next().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Copy(prop::sample::Index, prop::sample::Index),
        Insert(Vec<u8>),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            any::<(prop::sample::Index, prop::sample::Index)>().prop_map(|(a, b)| Step::Copy(a, b)),
            prop::collection::vec(any::<u8>(), 1..128).prop_map(Step::Insert),
        ]
    }

    proptest! {
        #[test]
        fn apply_agrees_with_a_model(
            base in prop::collection::vec(any::<u8>(), 1..2000),
            steps in prop::collection::vec(step(), 0..20),
        ) {
            let (mut body, mut model) = (Vec::new(), Vec::<u8>::new());
            for step in &steps {
                match step {
                    Step::Copy(at, len) => {
                        let at = at.index(base.len());
                        let len = 1 + len.index(base.len() - at);
                        let [a, b, ..] = at.to_le_bytes();
                        let [c, d, ..] = len.to_le_bytes();
                        body.extend([0xb3, a, b, c, d]);
                        model.extend(&base[at..at + len]);
                    }
                    Step::Insert(data) => {
                        body.push(data.len() as u8);
                        body.extend(data);
                        model.extend(data);
                    }
                }
            }
            let delta = delta(base.len() as u64, model.len() as u64, &body);
            prop_assert_eq!(&applied(&base, &delta).unwrap(), &model);
            prop_assert_eq!(&streamed(&base, &delta).unwrap(), &model);
        }

        #[test]
        fn arbitrary_bytes_never_panic_and_both_ways_agree(
            body in prop::collection::vec(any::<u8>(), 0..60),
            result_len in 0..300u64,
        ) {
            let base: Vec<u8> = (0..200).collect();
            let delta = delta(200, result_len, &body);
            prop_assert_eq!(applied(&base, &delta).ok(), streamed(&base, &delta).ok());
        }
    }
}
