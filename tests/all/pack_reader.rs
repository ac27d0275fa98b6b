//! The pack reader, the index writer and rewrapped objects: on packs made by hand, and against
//! what git makes of a repository that the test makes. Needs `git` on the PATH.

use crate::support::pack_builder;
use std::io::{self, Read};
use std::path::Path;
use std::process::{Command, Stdio};

use mirror_git_to_s3::git::object::{Kind, ObjectFormat, Oid, hash_object};
use mirror_git_to_s3::pack::deflate::Deflater;
use mirror_git_to_s3::pack::entry::{EntryError, EntryHeader, EntryKind};
use mirror_git_to_s3::pack::index::{IndexEntry, parse_index, write_index, write_index_with_limit};
use mirror_git_to_s3::pack::loose::{LooseReader, Rewrap, encode_loose};
use mirror_git_to_s3::pack::reader::{EntryEnd, PackError, PackReader};
use pack_builder::{BLOB, COMMIT, PackBuilder, TAG, TREE, delta, entry_header, noise, oid, zlib};

/// An entry as it was read.
#[derive(Debug, PartialEq)]
struct Entry {
    header: EntryHeader,
    raw: Vec<u8>,
    inflated: Vec<u8>,
    end: EntryEnd,
}

fn read_all(stream: impl Read) -> Result<Vec<Entry>, PackError> {
    let mut reader = PackReader::new(stream, ObjectFormat::Sha1)?;
    let mut entries = Vec::new();
    while let Some(header) = reader.next_entry()? {
        let (mut raw, mut inflated) = (Vec::new(), Vec::new());
        let end = reader.read_small(Some(&mut raw), &mut inflated)?;
        entries.push(Entry { header, raw, inflated, end });
    }
    assert!(reader.trailer().is_some());
    Ok(entries)
}

fn refused(pack: &[u8]) -> PackError {
    read_all(pack).expect_err("a wrong pack must be refused")
}

/// A small pack with every type of entry.
fn sample() -> PackBuilder {
    let mut pack = PackBuilder::new();
    pack.object(COMMIT, b"tree 0\n\nmessage");
    pack.level(0).object(TREE, b"");
    let base = pack.level(9).blob(b"some content that repeats, some content that repeats");
    pack.level(1).object(TAG, b"object 0\n");
    pack.ofs_delta(base, &delta(b"some", b"something"));
    pack.ref_delta(oid("blob", b"later"), &delta(b"later", b"late"));
    pack.blob(b"later");
    pack
}

/// Gives one byte at a time, and an interruption before each.
struct Trickle<'a> {
    bytes: &'a [u8],
    interrupted: bool,
}

impl Read for Trickle<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.interrupted = !self.interrupted;
        if self.interrupted {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let len = buf.len().min(1);
        self.bytes.read(&mut buf[..len])
    }
}

#[test]
fn entries_come_out_as_they_went_in() {
    for version in [2, 3] {
        let bytes = sample().version(version).build();
        let entries = read_all(&bytes[..]).unwrap();
        let kinds: Vec<_> = entries.iter().map(|e| e.header.kind).collect();
        let base_offset = entries[2].header.offset;
        let base = Oid::from_bytes(oid("blob", b"later"));
        let object = EntryKind::Object;
        assert_eq!(
            kinds,
            [
                object(Kind::Commit),
                object(Kind::Tree),
                object(Kind::Blob),
                object(Kind::Tag),
                EntryKind::OfsDelta { base_offset },
                EntryKind::RefDelta { base },
                object(Kind::Blob),
            ]
        );
        assert_eq!(entries[0].inflated, b"tree 0\n\nmessage");
        assert_eq!(entries[4].inflated, delta(b"some", b"something"));
        let mut offset = 12;
        for entry in &entries {
            assert_eq!(entry.header.offset, offset);
            assert_eq!(entry.header.inflated_len, entry.inflated.len() as u64);
            let whole = &bytes[offset as usize..][..entry.end.raw_len as usize];
            assert!(whole.ends_with(&entry.raw));
            assert_eq!(entry.end.crc32, zlib_rs::crc32::crc32(0, whole));
            offset += entry.end.raw_len;
        }
        assert_eq!(offset as usize, bytes.len() - 20);
    }
}

#[test]
fn reader_knows_count_position_and_trailer() {
    let bytes = sample().build();
    let mut reader = PackReader::new(&bytes[..], ObjectFormat::Sha1).unwrap();
    assert_eq!((reader.object_count(), reader.position(), reader.trailer()), (7, 12, None));
    while let Some(header) = reader.next_entry().unwrap() {
        assert!(reader.position() > header.offset);
        // The body is skipped by the next call.
    }
    let trailer = Oid::from_bytes(*bytes.last_chunk::<20>().unwrap());
    assert_eq!((reader.position(), reader.trailer()), (bytes.len() as u64, Some(trailer)));
    assert_eq!(reader.next_entry().unwrap(), None);
}

#[test]
fn states_can_move_to_another_thread() {
    fn is_send<T: Send>() {}
    is_send::<PackReader<io::Empty>>();
    is_send::<Deflater>();
    is_send::<Rewrap>();
    is_send::<LooseReader<io::Empty>>();
}

#[test]
fn empty_pack_has_a_trailer_only() {
    assert_eq!(read_all(&PackBuilder::new().build()[..]).unwrap(), []);
}

#[test]
fn bytes_that_come_one_by_one_make_the_same_entries() {
    let bytes = sample().build();
    let trickle = Trickle { bytes: &bytes, interrupted: false };
    assert_eq!(read_all(trickle).unwrap(), read_all(&bytes[..]).unwrap());
}

#[test]
fn entries_larger_than_every_buffer_are_streamed_whole() {
    let mut pack = PackBuilder::new();
    let contents = [noise(700_000, 1), vec![7; 5_000_000], noise(65_536, 2), noise(131_072, 3)];
    for (content, level) in contents.iter().zip([1, 9, 0, 6]) {
        pack.level(level).blob(content);
    }
    let bytes = pack.build();
    let entries = read_all(&bytes[..]).unwrap();
    for (entry, content) in entries.iter().zip(&contents) {
        assert!(entry.inflated == *content);
    }
    let mut reader = PackReader::new(&bytes[..], ObjectFormat::Sha1).unwrap();
    for entry in &entries {
        assert_eq!(reader.next_entry().unwrap(), Some(entry.header));
        let (mut raw, mut inflated) = (Vec::<u8>::new(), Vec::<u8>::new());
        let body = reader.read_body(|r, i| {
            raw.extend(r);
            inflated.extend(i);
            Ok::<_, PackError>(())
        });
        assert_eq!(body.unwrap(), entry.end);
        assert!(raw == entry.raw && inflated == entry.inflated);
    }
    assert_eq!(reader.next_entry().unwrap(), None);
}

#[test]
fn pack_cut_at_any_byte_is_refused() {
    let bytes = sample().build();
    for cut in 0..bytes.len() {
        let error = refused(&bytes[..cut]);
        assert!(matches!(error, PackError::Truncated { .. }), "{cut}: {error}");
    }
}

#[test]
fn every_flipped_bit_is_refused() {
    let bytes = sample().build();
    for bit in 0..bytes.len() * 8 {
        let mut bytes = bytes.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        refused(&bytes);
    }
}

#[test]
fn length_that_lies_by_a_million_takes_no_memory() {
    let mut pack = PackBuilder::new();
    pack.lying(BLOB, 1_000_000_000, &[], &[7; 1000]);
    let bytes = pack.build();
    let mut reader = PackReader::new(&bytes[..], ObjectFormat::Sha1).unwrap();
    assert_eq!(reader.next_entry().unwrap().unwrap().inflated_len, 1_000_000_000);
    let (mut raw, mut inflated) = (Vec::new(), Vec::new());
    let error = reader.read_small(Some(&mut raw), &mut inflated).unwrap_err();
    assert!(matches!(error, PackError::TooShort { offset: 12, wanted: 1_000_000_000, got: 1000 }));
    assert!(inflated.capacity() <= 4096 && raw.capacity() <= 4096);
}

#[test]
fn entry_that_inflates_to_more_than_it_claims_is_refused() {
    for (claimed, real) in [(0, 1), (99, 100), (100_000, 100_001), (65_536, 65_537), (5, 3_000_000)]
    {
        let mut pack = PackBuilder::new();
        pack.lying(BLOB, claimed, &[], &noise(real, 5));
        let bytes = pack.build();
        let mut reader = PackReader::new(&bytes[..], ObjectFormat::Sha1).unwrap();
        reader.next_entry().unwrap();
        let mut seen = 0;
        let body = reader.read_body(|_, inflated| {
            seen += inflated.len() as u64;
            Ok::<_, PackError>(())
        });
        assert!(
            matches!(body, Err(PackError::TooLong { offset: 12, wanted }) if wanted == claimed)
        );
        assert!(seen <= claimed);
    }
}

#[test]
fn memory_of_a_small_entry_is_exactly_its_length() {
    let mut pack = PackBuilder::new();
    pack.blob(&[7; 1000]);
    let bytes = pack.build();
    let mut reader = PackReader::new(&bytes[..], ObjectFormat::Sha1).unwrap();
    reader.next_entry().unwrap();
    let mut inflated = Vec::new();
    reader.read_small(None, &mut inflated).unwrap();
    assert_eq!((inflated.len(), inflated.capacity()), (1000, 1000));
}

#[test]
fn entry_above_the_limit_is_refused() {
    let mut pack = PackBuilder::new();
    pack.blob(b"123");
    pack.blob(b"1234");
    let bytes = pack.build();
    let mut reader = PackReader::new(&bytes[..], ObjectFormat::Sha1).unwrap().with_max_len(3);
    reader.next_entry().unwrap();
    reader.read_small(None, &mut Vec::new()).unwrap();
    reader.next_entry().unwrap();
    let error = reader.read_small(None, &mut Vec::new()).unwrap_err();
    assert!(matches!(error, PackError::TooLarge { inflated_len: 4, max_len: 3, .. }), "{error}");
}

#[test]
fn wrong_signature_version_and_types_are_refused() {
    let mut bytes = sample().build();
    bytes[3] = b'k';
    assert!(matches!(refused(&bytes), PackError::BadSignature { found } if &found == b"PACk"));
    assert!(matches!(refused(b"HTTP"), PackError::BadSignature { .. }));
    for version in [0, 1, 4, 0x0200_0000] {
        let error = refused(&sample().version(version).build());
        assert!(matches!(error, PackError::BadVersion(v) if v == version), "{error}");
    }
    for type_id in [0, 5] {
        let mut pack = PackBuilder::new();
        pack.blob(b"");
        let at = pack.object(type_id, b"abc");
        let error = refused(&pack.build());
        let bad = EntryError::BadType(type_id);
        assert!(
            matches!(error, PackError::BadEntry { offset, source } if offset == at && source == bad)
        );
    }
}

#[test]
fn base_before_the_pack_and_a_length_over_64_bits_are_refused() {
    let mut pack = PackBuilder::new();
    pack.ofs_delta(11, b"");
    let error = refused(&pack.build());
    let outside = EntryError::BaseOutsidePack;
    assert!(matches!(error, PackError::BadEntry { offset: 12, source } if source == outside));
    let mut pack = PackBuilder::new();
    pack.raw(&[&[0xbf][..], &[0xff; 10], &[1; 40]].concat());
    let error = refused(&pack.build());
    let overflow = EntryError::LengthOverflow;
    assert!(matches!(error, PackError::BadEntry { offset: 12, source } if source == overflow));
}

#[test]
fn wrong_count_trailer_and_garbage_are_refused() {
    let error = refused(&sample().promise(9).build());
    assert!(matches!(error, PackError::FewerObjects { promised: 9, found: 7, .. }), "{error}");
    let error = refused(&sample().promise(9).trailer([7; 20]).build());
    assert!(matches!(error, PackError::Truncated { .. }), "{error}");
    let error = refused(&sample().promise(6).build());
    assert!(matches!(error, PackError::WrongTrailer { .. }), "{error}");
    let error = refused(&sample().trailer([7; 20]).build());
    let seven = Oid::from_bytes([7; 20]);
    assert!(matches!(error, PackError::WrongTrailer { found, .. } if found == seven), "{error}");
    let end = sample().build().len() as u64;
    let error = refused(&sample().garbage(b"x").build());
    assert!(matches!(error, PackError::GarbageAtEnd { offset } if offset == end), "{error}");
}

#[test]
fn bodies_that_are_no_zlib_stream_are_refused() {
    let entry = |body: &[u8]| {
        let mut pack = PackBuilder::new();
        pack.raw(&[&entry_header(BLOB, 3)[..], body].concat());
        refused(&pack.build())
    };
    let mut wrong_adler = zlib(b"abc", 6);
    *wrong_adler.last_mut().unwrap() ^= 1;
    for body in [&wrong_adler[..], b"not zlib", &[0x78, 0xbb, 0, 0, 0, 1, 3, 0]] {
        let error = entry(body);
        assert!(matches!(error, PackError::BadZlib { offset: 12, .. }), "{error}");
    }
}

#[test]
fn empty_blocks_without_end_are_refused_and_some_are_not() {
    let with_empty = |content: &[u8], blocks: usize| {
        let deflated = zlib(content, 6);
        let empty = b"\0\0\0\xff\xff".repeat(blocks);
        let mut pack = PackBuilder::new();
        let header = &entry_header(BLOB, content.len() as u64)[..];
        pack.raw(&[header, &deflated[..2], &empty, &deflated[2..]].concat());
        pack.build()
    };
    let error = read_all(&with_empty(b"abc", 20_000)[..]).map(drop).unwrap_err();
    assert!(matches!(error, PackError::BadZlib { offset: 12, .. }), "{error}");
    read_all(&with_empty(b"abc", 1000)[..]).unwrap();
    // As of a writer that flushes often.
    let noise: Vec<u8> =
        (0..200_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    read_all(&with_empty(&noise, 40_000)[..]).unwrap();
}

#[test]
fn error_of_the_stream_can_be_got_back() {
    #[derive(Debug, thiserror::Error)]
    #[error("the server hung up")]
    struct HungUp;
    struct Fails;
    impl Read for Fails {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other(HungUp))
        }
    }
    let bytes = sample().build();
    for cut in 0..bytes.len() {
        let PackError::Io { source, .. } = read_all(bytes[..cut].chain(Fails)).unwrap_err() else {
            panic!("another error at {cut}");
        };
        assert!(source.get_ref().unwrap().is::<HungUp>());
    }
}

#[test]
fn calls_out_of_order_and_after_an_error_are_refused() {
    let out_of_order = |result: Result<EntryEnd, PackError>| {
        assert!(matches!(result, Err(PackError::OutOfOrder { .. })));
    };
    let bytes = sample().build();
    let mut reader = PackReader::new(&bytes[..], ObjectFormat::Sha1).unwrap();
    out_of_order(reader.read_small(None, &mut Vec::new()));
    out_of_order(reader.read_body(|_, _| Ok(())));
    reader.next_entry().unwrap();
    let error = reader.read_body(|_, _| Err(PackError::BadVersion(99))).unwrap_err();
    assert!(matches!(error, PackError::BadVersion(99)), "the sink's error is passed on");
    out_of_order(reader.read_small(None, &mut Vec::new()));
    assert!(matches!(reader.next_entry(), Err(PackError::OutOfOrder { .. })));
}

#[test]
fn tap_sees_the_pack_as_it_came_and_not_what_follows() {
    let mut pack = sample();
    pack.level(1).blob(&noise(400_000, 9));
    let bytes = pack.build();
    let tapped = |bytes: &[u8], trickle: bool| {
        let mut seen: Vec<u8> = Vec::new();
        let tap = |piece: &[u8]| {
            seen.extend(piece);
            Ok(())
        };
        let stream: Box<dyn Read> = match trickle {
            true => Box::new(Trickle { bytes, interrupted: false }),
            false => Box::new(bytes),
        };
        let mut reader = PackReader::new(stream, ObjectFormat::Sha1).unwrap().with_tap(tap);
        let result = loop {
            match reader.next_entry() {
                Ok(Some(_)) => {}
                Ok(None) => break Ok(()),
                Err(e) => break Err(e),
            }
        };
        drop(reader);
        (seen, result)
    };
    for trickle in [false, true] {
        let (seen, result) = tapped(&bytes, trickle);
        assert!(result.is_ok() && seen == bytes);
    }
    let (seen, result) = tapped(&pack.clone().garbage(b"garbage").build(), false);
    assert!(result.is_err() && seen == bytes);
    let (seen, result) = tapped(&pack.trailer([1; 20]).build(), false);
    assert!(result.is_err() && seen == bytes[..bytes.len() - 20]);
}

#[test]
fn error_of_the_tap_ends_the_reading() {
    let bytes = sample().build();
    for good in 0..2 {
        let mut calls = 0;
        let tap = |_: &[u8]| {
            calls += 1;
            if calls > good { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
        };
        let mut reader = PackReader::new(&bytes[..], ObjectFormat::Sha1).unwrap().with_tap(tap);
        let error = loop {
            match reader.next_entry() {
                Ok(header) => assert!(header.is_some(), "the tap's error is lost"),
                Err(e) => break e,
            }
        };
        assert!(matches!(error, PackError::Tap { .. }), "{error}");
        assert_eq!(reader.trailer(), None);
    }
}

fn git(dir: &Path, args: &[&str]) -> Vec<u8> {
    let output = Command::new("git")
        .args(args)
        .current_dir(dir)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .envs(["GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME"].map(|name| (name, "A U Thor")))
        .envs(["GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL"].map(|name| (name, "a@example.com")))
        .envs(["GIT_AUTHOR_DATE", "GIT_COMMITTER_DATE"].map(|name| (name, "1700000000 +0000")))
        .stdin(Stdio::null())
        .output()
        .expect("git must be installed to run this test");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "git {args:?}: {stderr}");
    output.stdout
}

fn text(dir: &Path, args: &[&str]) -> String {
    String::from_utf8(git(dir, args)).unwrap().trim_end().to_owned()
}

/// A repository with one pack: whole objects, deltas, a file that does not deflate, a tag.
fn repository() -> (tempfile::TempDir, Vec<u8>) {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    git(root, &["init", "-q", "-b", "main"]);
    std::fs::write(root.join("noise"), noise(300_000, 4)).unwrap();
    let mut lines = String::new();
    for i in 0..20 {
        lines += &format!("{i} {}\n", i * i * 7919).repeat(9);
        std::fs::write(root.join("text"), &lines).unwrap();
        std::fs::create_dir_all(root.join(format!("dir{}", i % 3))).unwrap();
        std::fs::write(root.join(format!("dir{}/{i}", i % 3)), "x".repeat(i * 50)).unwrap();
        git(root, &["add", "-A"]);
        git(root, &["commit", "-q", "-m", &format!("commit {i}")]);
    }
    git(root, &["tag", "-a", "-m", "a tag", "v1"]);
    git(root, &["repack", "-adfq"]);
    let packs = root.join(".git/objects/pack");
    let mut files = std::fs::read_dir(packs).unwrap().map(|file| file.unwrap().path());
    let pack = files.find(|path| path.extension().is_some_and(|ext| ext == "pack")).unwrap();
    let bytes = std::fs::read(pack).unwrap();
    (dir, bytes)
}

/// What `git index-pack` writes for this pack, with its table of 64-bit offsets from `limit` on.
fn index_by_git(pack: &[u8], limit: Option<u32>) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a.pack"), pack).unwrap();
    let version = limit.map_or("2".to_owned(), |limit| format!("2,{limit:#x}"));
    git(dir.path(), &["index-pack", &format!("--index-version={version}"), "a.pack"]);
    std::fs::read(dir.path().join("a.idx")).unwrap()
}

#[test]
fn offsets_and_checksums_are_those_of_git_index_pack() {
    let (_dir, pack) = repository();
    let index = index_by_git(&pack, None);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &index).unwrap();
    let shown = Command::new("git")
        .arg("show-index")
        .stdin(std::fs::File::open(file.path()).unwrap())
        .output()
        .unwrap();
    let mut by_git: Vec<(u64, String)> = String::from_utf8(shown.stdout)
        .unwrap()
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .map(|words| (words[0].parse().unwrap(), words[2].to_owned()))
        .collect();
    by_git.sort();
    let entries = read_all(&pack[..]).unwrap();
    let ours: Vec<_> =
        entries.iter().map(|e| (e.header.offset, format!("({:08x})", e.end.crc32))).collect();
    assert_eq!(ours, by_git);
    assert!(entries.iter().any(|e| matches!(e.header.kind, EntryKind::OfsDelta { .. })));
}

/// Entries with names by git, offsets and CRCs by our reader, in pack order.
fn index_entries(pack: &[u8], index_by_git: &[u8]) -> Vec<IndexEntry> {
    let by_git = parse_index(index_by_git, ObjectFormat::Sha1).unwrap();
    let named: std::collections::HashMap<u64, Oid> =
        by_git.entries().map(|e| (e.offset, e.oid)).collect();
    let ours = read_all(pack).unwrap();
    ours.iter()
        .map(|e| IndexEntry {
            oid: named[&e.header.offset],
            crc32: e.end.crc32,
            offset: e.header.offset,
        })
        .collect()
}

#[test]
fn index_is_byte_for_byte_that_of_git_index_pack() {
    let (_dir, pack) = repository();
    let by_git = index_by_git(&pack, None);
    let trailer = Oid::from_bytes(*pack.last_chunk::<20>().unwrap());
    let mut entries = index_entries(&pack, &by_git);
    let mut ours = Vec::new();
    let checksum = write_index(&mut entries, &trailer, &mut ours).unwrap();
    assert!(ours == by_git);
    let parsed = parse_index(&ours, ObjectFormat::Sha1).unwrap();
    assert_eq!((parsed.checksum(), parsed.pack_trailer()), (checksum, trailer));
    assert_eq!(parsed.entries().collect::<Vec<_>>(), entries);
}

#[test]
fn index_with_forced_64_bit_offsets_is_that_of_git_index_pack() {
    let (_dir, pack) = repository();
    let trailer = Oid::from_bytes(*pack.last_chunk::<20>().unwrap());
    let some_offset = read_all(&pack[..]).unwrap()[5].header.offset as u32;
    for limit in [0, 11, 12, some_offset - 1, some_offset, 0x1000, 0x7fff_ffff] {
        let by_git = index_by_git(&pack, Some(limit));
        let mut ours = Vec::new();
        let mut entries = index_entries(&pack, &by_git);
        write_index_with_limit(&mut entries, &trailer, limit, &mut ours).unwrap();
        assert!(ours == by_git, "limit {limit}");
        assert_eq!(
            parse_index(&ours, ObjectFormat::Sha1).unwrap().entries().collect::<Vec<_>>(),
            entries
        );
    }
}

#[test]
fn index_of_a_pack_with_duplicates_is_that_of_git_index_pack() {
    let mut pack = PackBuilder::new();
    for content in [b"twice", b"other", b"twice", b"thing", b"twice"] {
        pack.blob(content);
    }
    let bytes = pack.build();
    let by_git = index_by_git(&bytes, None);
    let mut entries = index_entries(&bytes, &by_git);
    entries.reverse();
    let mut ours = Vec::new();
    let trailer = Oid::from_bytes(*bytes.last_chunk::<20>().unwrap());
    write_index(&mut entries, &trailer, &mut ours).unwrap();
    assert!(ours == by_git);
}

#[test]
fn git_accepts_rewrapped_and_encoded_objects() {
    let (source, pack) = repository();
    let target = tempfile::tempdir().unwrap();
    git(target.path(), &["init", "-q", "--bare"]);
    let by_git = index_by_git(&pack, None);
    let names = index_entries(&pack, &by_git);
    let mut deflater = Deflater::new(1);
    let (mut rewrapped, mut encoded) = (0, 0);
    for (entry, name) in read_all(&pack[..]).unwrap().into_iter().zip(names) {
        let oid = name.oid.to_string();
        let loose = match entry.header.kind {
            EntryKind::Object(kind) => {
                assert_eq!(hash_object(ObjectFormat::Sha1, kind, &entry.inflated), Ok(name.oid));
                rewrapped += 1;
                let mut out = Vec::new();
                let mut rewrap = Rewrap::new(kind, entry.header.inflated_len, &mut out);
                entry.raw.chunks(1000).for_each(|raw| rewrap.push(raw, &mut out));
                rewrap.finish(&mut out).unwrap();
                out
            }
            _ => {
                encoded += 1;
                let kind = text(source.path(), &["cat-file", "-t", &oid]);
                let content = git(source.path(), &["cat-file", &kind, &oid]);
                encode_loose(Kind::from_name(kind.as_bytes()).unwrap(), &content, &mut deflater)
            }
        };
        let folder = target.path().join("objects").join(&oid[..2]);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(&oid[2..]), loose).unwrap();
    }
    assert!(rewrapped > 10 && encoded > 5, "{rewrapped} whole objects, {encoded} deltas");
    for name in ["refs/heads/main", "refs/tags/v1"] {
        let oid = text(source.path(), &["rev-parse", name]);
        git(target.path(), &["update-ref", name, &oid]);
    }
    git(target.path(), &["fsck", "--full", "--strict"]);
    let list = ["cat-file", "--batch-check", "--batch-all-objects"];
    assert_eq!(text(target.path(), &list), text(source.path(), &list));
    let content = ["cat-file", "blob", "main:noise"];
    assert!(git(target.path(), &content) == git(source.path(), &content));
}
