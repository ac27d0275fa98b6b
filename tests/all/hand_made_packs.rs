//! Packs made by hand through the whole pipeline: the legal but unusual ones all end well, the
//! broken ones end with an error that names the entry and publish nothing; none ever hangs, at any
//! concurrency and however little memory there is.

use crate::support::{local_git, pack_builder};
use std::sync::mpsc;
use std::time::Duration;

use local_git::GivenPack;
use mirror_git_to_s3::git::object::{Kind, ObjectFormat, Oid};
use mirror_git_to_s3::mirror::{Layout, MIN_MEMORY_BYTES, MirrorError, Options, Summary, mirror};
use mirror_git_to_s3::pack::index::parse_index;
use mirror_git_to_s3::pack::loose::decode_loose;
use mirror_git_to_s3::progress::Silent;
use mirror_git_to_s3::store::Limits;
use mirror_git_to_s3::store::memory::{MemoryStore, Operation};
use pack_builder::{BLOB, PackBuilder, copy, delta, insert, oid, raw_delta};

/// A run that takes longer hangs: even these packs take seconds at most.
const HANGS_AFTER: Duration = Duration::from_secs(120);

const CONCURRENCIES: [usize; 3] = [1, 2, 64];

fn key(oid: [u8; 20]) -> String {
    let hex = Oid::from_bytes(oid).to_string();
    format!("objects/{}/{}", &hex[..2], &hex[2..])
}

fn run_in(
    store: &MemoryStore,
    builder: &PackBuilder,
    tip: [u8; 20],
    concurrency: usize,
    memory_bytes: u64,
) -> Result<Summary, MirrorError> {
    run_as(Layout::Loose, store, builder, tip, concurrency, memory_bytes)
}

fn run_as(
    layout: Layout,
    store: &MemoryStore,
    builder: &PackBuilder,
    tip: [u8; 20],
    concurrency: usize,
    memory_bytes: u64,
) -> Result<Summary, MirrorError> {
    let source = GivenPack { tip: Oid::from_bytes(tip), pack: builder.build() };
    let options = Options { layout, concurrency, memory_bytes, ..Options::default() };
    let (ended, end) = mpsc::channel();
    let store = store.clone();
    std::thread::spawn(move || {
        let _ = ended.send(mirror(&source, &store, &options, &Silent));
    });
    end.recv_timeout(HANGS_AFTER).expect("the run ends")
}

const STATE: &str = "mirror_state/state.json";

/// Mirrors the pack in both layouts, at every concurrency and with little memory. Loose: exactly
/// `contents` are stored, each by one write. Pack: the pack is stored byte for byte, with the index
/// that git makes of it.
fn assert_mirrors(builder: &PackBuilder, contents: &[Vec<u8>]) {
    let index = git_index(&builder.build());
    for concurrency in CONCURRENCIES {
        for memory_bytes in [MIN_MEMORY_BYTES, 64 << 20] {
            let store = MemoryStore::new();
            let tip = oid("blob", &contents[0]);
            run_as(Layout::Pack, &store, builder, tip, concurrency, memory_bytes)
                .expect("a legal pack");
            assert_is_pack_mirror(&store, builder, index.as_deref(), contents);
        }
    }
    for concurrency in CONCURRENCIES {
        for memory_bytes in [MIN_MEMORY_BYTES, 64 << 20] {
            let store = MemoryStore::new();
            let tip = oid("blob", &contents[0]);
            run_in(&store, builder, tip, concurrency, memory_bytes).expect("a legal pack");
            let mut wanted: Vec<String> =
                contents.iter().map(|content| key(oid("blob", content))).collect();
            wanted.sort();
            wanted.dedup();
            let published = ["HEAD", "info/refs", STATE, "objects/info/packs"];
            let keys: Vec<String> =
                store.keys().into_iter().filter(|key| !published.contains(&&**key)).collect();
            assert_eq!(keys, wanted);
            for content in contents {
                let bytes = store.bytes(&key(oid("blob", content))).unwrap();
                let (kind, stored) = decode_loose(&bytes, u64::MAX).unwrap();
                assert_eq!((kind, &stored), (Kind::Blob, content));
            }
            let mut written: Vec<String> = store
                .recorded()
                .iter()
                .filter(|request| request.operation == Operation::Put)
                .map(|request| request.key().to_owned())
                .collect();
            // The state is: the run begins, the run has ended.
            let states = written.extract_if(.., |key| key == STATE).count();
            assert_eq!(states, 2);
            written.sort();
            let before = written.len();
            written.dedup();
            assert_eq!(before, written.len(), "a key was written twice");
            assert_eq!(store.open_uploads(), 0);
        }
    }
}

fn assert_is_pack_mirror(
    store: &MemoryStore,
    builder: &PackBuilder,
    index: Option<&[u8]>,
    contents: &[Vec<u8>],
) {
    let pack = builder.build();
    let trailer = Oid::from_slice(&pack[pack.len() - 20..]).unwrap();
    let pack_key = format!("objects/pack/pack-{trailer}.pack");
    let index_key = format!("objects/pack/pack-{trailer}.idx");
    let list_key = "objects/info/packs";
    let keys = ["HEAD", "info/refs", STATE, list_key, &index_key, &pack_key];
    assert_eq!(store.keys(), keys);
    assert!(*store.bytes(&pack_key).unwrap() == pack[..], "the pack has other bytes");
    let stored_index = store.bytes(&index_key).unwrap();
    if let Some(index) = index {
        assert!(*stored_index == *index, "git makes another index");
    }
    let index = parse_index(&*stored_index, ObjectFormat::Sha1).expect("a sound index");
    for content in contents {
        let oid = Oid::from_bytes(oid("blob", content));
        assert!(index.lookup(&oid).is_some(), "{oid} is not in the index");
    }
    let list = format!("P pack-{trailer}.pack\n\n");
    assert_eq!(*store.bytes(list_key).unwrap(), *list.as_bytes());
    assert_eq!(store.open_uploads(), 0);
}

/// What `git index-pack` makes of a pack. `None`: it refuses a REF_DELTA whose base is there twice,
/// which this program resolves.
fn git_index(pack: &[u8]) -> Option<Vec<u8>> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("made.pack");
    std::fs::write(&path, pack).unwrap();
    let mut command = local_git::git(dir.path());
    let out = command.args(["index-pack", "-o", "made.idx", "made.pack"]).output().unwrap();
    let words = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() || words.contains("duplicate base"), "{words}");
    out.status.success().then(|| std::fs::read(dir.path().join("made.idx")).unwrap())
}

/// Mirrors the pack in both layouts, at every concurrency, and checks that it is refused, in words with `words`, and
/// that nothing is published.
fn assert_refused(builder: &PackBuilder, words: &str) {
    for (concurrency, layout) in CONCURRENCIES
        .into_iter()
        .flat_map(|n| [Layout::Loose, Layout::Pack].map(|layout| (n, layout)))
    {
        let store = MemoryStore::new();
        let error = run_as(layout, &store, builder, [1; 20], concurrency, MIN_MEMORY_BYTES)
            .expect_err("a broken pack");
        assert!(matches!(error, MirrorError::Pack(_)), "{error:?}");
        assert!(error.to_string().contains(words), "{error} does not say: {words}");
        let mut keys = store.keys();
        if let Some(state) = keys.iter().position(|key| key == STATE) {
            keys.remove(state);
            assert_eq!(*store.bytes(STATE).unwrap(), *b"{}\n", "it has begun, and is over");
        }
        assert!(keys.iter().all(|key| key.starts_with("objects/")), "{keys:?}");
        assert!(!keys.contains(&"objects/info/packs".to_owned()), "{keys:?}");
        assert!(!keys.iter().any(|key| key.starts_with("objects/pack")), "{keys:?}");
        assert_eq!(store.open_uploads(), 0);
    }
}

/// Bytes that don't compress, the same each time for the same seed.
fn noise(seed: u32) -> impl Iterator<Item = u8> {
    let mut state = seed;
    std::iter::repeat_with(move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    })
}

fn text(number: usize) -> Vec<u8> {
    let mut text = format!("content number {number}\n").into_bytes();
    text.extend((0..200_u32).flat_map(|i| (i * 7 + number as u32 / 3).to_le_bytes()));
    text
}

#[test]
fn delta_before_its_base_is_stored_after_it() {
    let (base, result) = (text(0), text(1));
    let mut builder = PackBuilder::new();
    builder.ref_delta(oid("blob", &base), &delta(&base, &result));
    builder.blob(&base);
    assert_mirrors(&builder, &[base, result]);
}

#[test]
fn family_of_depth_4000_is_resolved() {
    let mut builder = PackBuilder::new();
    let contents = builder.chain(4000);
    assert_mirrors(&builder, &contents);
}

#[test]
fn family_of_depth_4000_in_reverse_order_is_resolved() {
    let contents: Vec<Vec<u8>> = (0..4000).map(text).collect();
    let mut builder = PackBuilder::new();
    for pair in contents.windows(2).rev() {
        builder.ref_delta(oid("blob", &pair[0]), &delta(&pair[0], &pair[1]));
    }
    builder.blob(&contents[0]);
    assert_mirrors(&builder, &contents);
}

#[test]
fn family_of_width_4000_is_resolved_with_its_base_first_and_last() {
    for base_first in [true, false] {
        let contents: Vec<Vec<u8>> = (0..4000).map(text).collect();
        let mut builder = PackBuilder::new();
        if base_first {
            builder.blob(&contents[0]);
        }
        for content in &contents[1..] {
            builder.ref_delta(oid("blob", &contents[0]), &delta(&contents[0], content));
        }
        if !base_first {
            builder.blob(&contents[0]);
        }
        assert_mirrors(&builder, &contents);
    }
}

#[test]
fn deltas_that_do_not_fit_into_memory_before_their_bases_are_spilled() {
    // 4,000 deltas of 3 KB, all before the first base: 12 MB, with 2 MiB for entries.
    let contents: Vec<Vec<u8>> = (0..4000).map(text).collect();
    let mut builder = PackBuilder::new();
    let mut all = contents.clone();
    for (number, base) in contents.iter().enumerate() {
        let result: Vec<u8> = noise(number as u32 + 1).take(3000).collect();
        builder.ref_delta(oid("blob", base), &delta(base, &result));
        all.push(result);
    }
    for base in &contents {
        builder.blob(base);
    }
    let store = MemoryStore::new();
    run_in(&store, &builder, oid("blob", &all[0]), 4, MIN_MEMORY_BYTES).unwrap();
    let spills = store.recorded().iter().filter(|r| r.key().contains("/deltas-")).count();
    assert!(spills > 0, "nothing was spilled");
    assert_eq!(store.keys().len(), all.len() + 4);
    assert_mirrors(&builder, &all);
}

#[test]
fn duplicates_are_stored_once_and_serve_as_bases() {
    let (base, one, two) = (text(0), text(1), text(2));
    let mut builder = PackBuilder::new();
    let first = builder.blob(&base);
    let second = builder.blob(&base);
    builder.ofs_delta(first, &delta(&base, &one));
    builder.ofs_delta(second, &delta(&base, &two));
    let again = builder.ofs_delta(second, &delta(&base, &one));
    builder.ofs_delta(again, &delta(&one, &two));
    builder.ref_delta(oid("blob", &base), &delta(&base, &two));
    assert_mirrors(&builder, &[base, one, two]);
}

#[test]
fn bases_that_have_left_memory_are_read_back() {
    // 30 bases of 1 MiB, then a delta against each, with 4 MiB for bases.
    let bases: Vec<Vec<u8>> = (0..30_u8).map(|n| [&[n][..], &[7; 1 << 20][..]].concat()).collect();
    let mut builder = PackBuilder::new();
    let mut all = Vec::new();
    let offsets: Vec<u64> = bases.iter().map(|base| builder.blob(base)).collect();
    for (base, offset) in bases.iter().zip(offsets) {
        let result = [b"changed", &base[1..]].concat();
        builder.ofs_delta(offset, &delta(base, &result));
        all.extend([base.clone(), result]);
    }
    let store = MemoryStore::new();
    run_in(&store, &builder, oid("blob", &all[0]), 4, MIN_MEMORY_BYTES).unwrap();
    assert!(store.count(Operation::Get) > 20, "the bases fit into memory");
    assert_mirrors(&builder, &all);
}

/// Deflated at level 1, noise becomes larger than it was.
#[test]
fn bases_that_do_not_compress_are_read_back() {
    let mut noise = noise(1);
    let mut content = || -> Vec<u8> { noise.by_ref().take(200 << 10).collect() };
    let mut builder = PackBuilder::new();
    let base = content();
    let offset = builder.blob(&base);
    let mut all = vec![base.clone()];
    let results: Vec<(u64, Vec<u8>)> = (0..30)
        .map(|_| {
            let result = content();
            let inserts: Vec<u8> = result.chunks(127).flat_map(insert).collect();
            let delta = raw_delta(base.len() as u64, result.len() as u64, &inserts);
            (builder.ofs_delta(offset, &delta), result)
        })
        .collect();
    for (offset, result) in results {
        let changed = [&result[..1000], b"changed", &result[1000..]].concat();
        builder.ofs_delta(offset, &delta(&result, &changed));
        all.extend([result, changed]);
    }
    assert_mirrors(&builder, &all);
}

#[test]
fn large_object_and_deltas_against_it_pass_in_parts() {
    // With 8 MiB of memory everything above 1 MiB is large; parts are 8 MiB.
    let base: Vec<u8> = noise(1).take(20 << 20).collect();
    let small_change = [&base[..9 << 20], b"inserted", &base[(9 << 20) + 17..]].concat();
    let small_result = base[5_000_000..5_000_100].to_vec();
    let mut backwards = base[10 << 20..].to_vec();
    backwards.extend_from_slice(&base[..10 << 20]);
    let large_insert: Vec<u8> = base.iter().take(3 << 20).map(|byte| byte ^ 0x55).collect();

    let mut builder = PackBuilder::new();
    builder.level(1);
    // A delta that is large itself, before its base.
    let mut instructions = copy(0, 1000);
    for piece in large_insert.chunks(127) {
        instructions.extend(insert(piece));
    }
    let with_insert = [&base[..1000], &large_insert[..]].concat();
    let large_delta = raw_delta(base.len() as u64, with_insert.len() as u64, &instructions);
    builder.ref_delta(oid("blob", &base), &large_delta);
    let offset = builder.blob(&base);
    builder.ofs_delta(offset, &delta(&base, &small_change));
    let mut cut = Vec::new();
    cut.extend(copy(5_000_000, 100));
    let small = builder.ofs_delta(offset, &raw_delta(base.len() as u64, 100, &cut));
    builder.ofs_delta(small, &delta(&small_result, b"tiny"));
    let mut swap = Vec::new();
    for start in (0..base.len()).step_by(1 << 16) {
        let from = (start + (10 << 20)) % base.len();
        swap.extend(copy(from, 1 << 16));
    }
    builder.ofs_delta(offset, &raw_delta(base.len() as u64, base.len() as u64, &swap));
    builder.blob(&base); // a large duplicate
    let all = [base, small_change, small_result, backwards, with_insert, b"tiny".to_vec()];

    let store = MemoryStore::new();
    run_in(&store, &builder, oid("blob", &all[0]), 4, MIN_MEMORY_BYTES).unwrap();
    assert!(store.count(Operation::PutPart) > 3);
    assert!(store.count(Operation::Copy) >= 3);
    assert_mirrors(&builder, &all);
}

#[test]
fn object_above_the_limit_of_one_copy_is_copied_in_parts() {
    let limits =
        Limits { min_part_bytes: 1 << 20, max_parts: 1000, max_copy_bytes: 5 << 20, ..Limits::S3 };
    let store = MemoryStore::new().with_limits(limits);
    let content: Vec<u8> = noise(1).take(12 << 20).collect();
    let mut builder = PackBuilder::new();
    builder.blob(&content);
    run_in(&store, &builder, oid("blob", &content), 4, MIN_MEMORY_BYTES).unwrap();
    assert_eq!(store.count(Operation::CopyPart), 3);
    let bytes = store.bytes(&key(oid("blob", &content))).unwrap();
    assert_eq!(decode_loose(&bytes, u64::MAX).unwrap().1, content);
}

/// The limits of a pack above 5 GiB, at a hundredth of the size: parts that must grow, and copies
/// that must be made in parts.
#[test]
fn pack_above_the_limits_of_one_copy_and_of_small_parts_is_stored_whole() {
    let limits =
        Limits { min_part_bytes: 1 << 20, max_parts: 32, max_copy_bytes: 7 << 20, ..Limits::S3 };
    let mut noise = noise(1);
    let mut builder = PackBuilder::new();
    builder.level(1);
    let mut contents = Vec::new();
    for len in [30 << 20, 900 << 10, 12 << 20, 50 << 10] {
        let content: Vec<u8> = noise.by_ref().take(len).collect();
        let offset = builder.blob(&content);
        let changed = [&content[..20_000], b"changed", &content[30_000..]].concat();
        builder.ofs_delta(offset, &delta(&content, &changed));
        contents.extend([content, changed]);
    }
    let index = git_index(&builder.build());
    let store = MemoryStore::new().with_limits(limits);
    let tip = oid("blob", &contents[0]);
    run_as(Layout::Pack, &store, &builder, tip, 4, MIN_MEMORY_BYTES).unwrap();
    assert_is_pack_mirror(&store, &builder, index.as_deref(), &contents);
    // 43 MiB in parts of 5, 5, 10, 10 MiB and the rest; copied in steps of 7 MiB.
    let of_pack = |operation| {
        let requests = store.recorded();
        let named = |key: &str| key.contains("/pack");
        requests.iter().filter(|r| r.operation == operation && named(r.key())).count()
    };
    assert_eq!(of_pack(Operation::PutPart), 5);
    assert_eq!(of_pack(Operation::CopyPart), 7);
    assert_eq!(of_pack(Operation::Copy), 0);
}

#[test]
fn delta_without_its_base_is_an_error_that_names_both() {
    let (base, result) = (text(0), text(1));
    let mut builder = PackBuilder::new();
    builder.blob(&text(5));
    let offset = builder.ref_delta(oid("blob", &base), &delta(&base, &result));
    assert_refused(&builder, &format!("offset {offset}"));
    assert_refused(&builder, &Oid::from_bytes(oid("blob", &base)).to_string());
}

#[test]
fn deltas_in_a_circle_are_an_error() {
    let mut builder = PackBuilder::new();
    builder.cycle();
    assert_refused(&builder, "cycle");
}

#[test]
fn copy_past_the_end_of_the_base_is_an_error_that_names_the_entry() {
    let mut builder = PackBuilder::new();
    let base = builder.blob(b"short");
    let offset = builder.ofs_delta(base, &raw_delta(5, 100, &copy(0, 100)));
    assert_refused(&builder, &format!("offset {offset}"));
}

#[test]
fn delta_for_a_base_of_another_length_is_an_error() {
    let mut builder = PackBuilder::new();
    let base = builder.blob(b"short");
    let offset = builder.ofs_delta(base, &raw_delta(6, 5, &copy(0, 5)));
    assert_refused(&builder, &format!("offset {offset}"));
}

#[test]
fn base_offset_inside_another_entry_is_an_error() {
    let mut builder = PackBuilder::new();
    let base = builder.blob(b"some content");
    let offset = builder.ofs_delta(base + 1, &delta(b"some content", b"some"));
    assert_refused(&builder, &format!("offset {offset}"));
}

#[test]
fn delta_that_promises_a_result_of_exabytes_is_an_error_and_costs_no_memory() {
    let mut builder = PackBuilder::new();
    let base = builder.blob(b"some content");
    let offset = builder.ofs_delta(base, &raw_delta(12, 1 << 60, &copy(0, 12)));
    // Above --max-object-size: refused by its header.
    for layout in [Layout::Loose, Layout::Pack] {
        let store = MemoryStore::new();
        let error = run_as(layout, &store, &builder, [1; 20], 4, MIN_MEMORY_BYTES).unwrap_err();
        let names_it = |words: &String| words.contains(&format!("offset {offset}"));
        assert!(matches!(&error, MirrorError::Guard(words) if names_it(words)), "{error:?}");
    }
}

#[test]
fn object_that_promises_gigabytes_is_an_error_and_costs_no_memory() {
    let mut builder = PackBuilder::new();
    let body = pack_builder::zlib(b"little", 6);
    builder.lying(BLOB, 1 << 33, b"", &body);
    assert_refused(&builder, "offset 12");
}

#[test]
fn tip_that_the_pack_lacks_is_an_error() {
    let mut builder = PackBuilder::new();
    builder.blob(b"something else");
    assert_refused(&builder, &Oid::from_bytes([1; 20]).to_string());
}

#[test]
fn pack_cut_at_every_byte_publishes_nothing() {
    let (base, result) = (text(0), text(1));
    let mut builder = PackBuilder::new();
    let offset = builder.blob(&base);
    builder.ofs_delta(offset, &delta(&base, &result));
    builder.ref_delta(oid("blob", &result), &delta(&result, b"end"));
    let whole = builder.build();
    for len in 0..whole.len() {
        let source =
            GivenPack { tip: Oid::from_bytes(oid("blob", b"end")), pack: whole[..len].to_vec() };
        let store = MemoryStore::new();
        let error = mirror(&source, &store, &Options::default(), &Silent).expect_err("cut");
        assert!(matches!(error, MirrorError::Pack(_)), "{error:?}");
        assert!(!store.keys().iter().any(|key| key == "info/refs" || key == "HEAD"));
    }
}

/// With 256 MiB a large delta holds nearly all the room for results while its base is read back; a
/// small delta that becomes ready meanwhile must be found when that room is given back.
#[test]
fn delta_that_is_ready_while_a_large_one_holds_the_room_is_not_left_behind() {
    let mut bytes = noise(1);
    let mut take = |len: usize| bytes.by_ref().take(len).collect::<Vec<u8>>();
    let mut builder = PackBuilder::new();
    builder.level(0);
    let base = take(11 << 20);
    let base_at = builder.blob(&base);
    // They push the base out of memory.
    let others: Vec<Vec<u8>> = (0..7).map(|_| take(11 << 20)).collect();
    for other in &others {
        builder.blob(other);
    }
    let small = take(3 << 20);
    let small_at = builder.blob(&small);
    let grown = [&base[..], &take(6 << 20)].concat();
    builder.ofs_delta(base_at, &delta(&base, &grown));
    // Time for the large delta to take its room.
    builder.blob(&take(10 << 20));
    let changed = [&small[..1000], b"changed", &small[2000..]].concat();
    builder.ofs_delta(small_at, &delta(&small, &changed));
    let store = MemoryStore::new().with_latency(Duration::from_millis(100));
    run_in(&store, &builder, oid("blob", &base), 4, 256 << 20).expect("a legal pack");
    for content in [&base, &grown, &small, &changed] {
        assert!(store.bytes(&key(oid("blob", content))).is_some());
    }
}

/// A family: a tiny base, a second link of 4 MiB, and leaves in random order, so that the second link
/// has left memory when a leaf needs it.
#[test]
fn link_that_many_deltas_need_is_rebuilt_once() {
    const FAMILIES: usize = 12;
    const LEAVES: usize = 30;
    let mut builder = PackBuilder::new();
    builder.level(0);
    let mut leaves = Vec::new();
    let mut tip = Vec::new();
    for family in 0..FAMILIES {
        let base = text(family);
        let base_at = builder.blob(&base);
        let link: Vec<u8> = noise(family as u32 + 1).take(500 << 10).collect();
        let link_at = builder.ofs_delta(base_at, &delta(&base, &link));
        leaves.extend((0..LEAVES).map(|leaf| (link_at, family, leaf, link.len())));
        tip = base;
    }
    // The same shuffle each time.
    leaves.sort_by_key(|(_, family, leaf, _)| (family * 7919 + leaf * 104_729) % 1009);
    for (link_at, family, leaf, len) in leaves {
        let cut = [copy(leaf, 1000), insert(format!("{family} {leaf}").as_bytes())].concat();
        let result_len = 1000 + format!("{family} {leaf}").len() as u64;
        builder.ofs_delta(link_at, &raw_delta(len as u64, result_len, &cut));
    }
    assert_read_back(&builder, oid("blob", &tip), 1.3);
}

/// Git writes the trees of a long history in the order of their commits, and those that are deltas against
/// them behind, family by family: neighbours there have bases anywhere before.
#[test]
fn deltas_are_read_side_by_side_wherever_their_bases_are() {
    const FAMILIES: usize = 400;
    let mut builder = PackBuilder::new();
    builder.level(0);
    let base = |family: usize| noise(family as u32 + 1).take(1000).collect::<Vec<u8>>();
    let bases: Vec<u64> = (0..FAMILIES).map(|family| builder.blob(&base(family))).collect();
    for number in 0..FAMILIES {
        // 400 and 163 have no factor in common.
        let family = number * 163 % FAMILIES;
        let mut content = base(family);
        content.extend(noise(number as u32 + 1000).take(20 << 10));
        builder.ofs_delta(bases[family], &delta(&base(family), &content));
    }
    // A base's block and a delta's, and readers that are not at the same place: more than once, but not for
    // each of the families.
    assert_read_back(&builder, oid("blob", &base(0)), 2.0);
}

fn assert_read_back(builder: &PackBuilder, tip: [u8; 20], most: f64) {
    for concurrency in [1, 64] {
        let store = MemoryStore::new().with_latency(Duration::from_millis(1));
        run_as(Layout::Pack, &store, builder, tip, concurrency, MIN_MEMORY_BYTES).unwrap();
        let pack = builder.build();
        let read: u64 = store
            .recorded()
            .iter()
            .filter(|r| r.operation == Operation::Get && r.key().contains("/pack"))
            .map(|r| r.bytes)
            .sum();
        let ratio = read as f64 / pack.len() as f64;
        assert!(ratio < most, "concurrency {concurrency}: read back {ratio:.2} x the pack");
        assert!(ratio > 0.1, "nothing was read back");
    }
}
