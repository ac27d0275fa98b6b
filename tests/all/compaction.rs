//! Packs that become one: the bytes, against git; and mirrors whose packs and loose objects are
//! compacted, whatever fails meanwhile.

use crate::support::{hooked_store, local_git, pack_builder};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Cursor};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hooked_store::{Conditions, Hooked, dump};
use local_git::{LocalGit, Repo, assert_same_repository, git, run};
use mirror_git_to_s3::git::object::Oid;
use mirror_git_to_s3::maintain::gc::{GcOptions, gc};
use mirror_git_to_s3::maintain::verify::{VerifyOptions, verify};
use mirror_git_to_s3::mirror::{Layout, MIN_MEMORY_BYTES, MirrorError, Options, Summary, mirror};
use mirror_git_to_s3::pack::concat::{ConcatError, Input, Output, Plan, broken_entries};
use mirror_git_to_s3::pack::index::{IndexReader, parse_index, write_sorted};
use mirror_git_to_s3::progress::Silent;
use mirror_git_to_s3::store::memory::{Fault, MemoryStore, Operation};
use mirror_git_to_s3::store::{Key, Limits, ObjectHeaders, Store, StoreErrorKind};
use pack_builder::{PackBuilder, delta, noise, oid};

// ---- the bytes -------------------------------------------------------------------------------

/// Takes the new pack, and copies what it may of each body: all but so many bytes at both ends.
struct Copying<'p> {
    packs: &'p [Vec<u8>],
    out: Vec<u8>,
    ends: Option<u64>,
    copied: u64,
}

impl Output for Copying<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.extend_from_slice(bytes);
        Ok(())
    }
    fn plan_copy(&mut self, len: u64) -> Range<u64> {
        match self.ends {
            Some(ends) if len > 2 * ends => ends..len - ends,
            _ => 0..0,
        }
    }
    fn copy(&mut self, input: usize, range: Range<u64>) -> io::Result<()> {
        self.copied += range.end - range.start;
        self.out.extend_from_slice(&self.packs[input][range.start as usize..range.end as usize]);
        Ok(())
    }
}

/// The index that git makes of a pack, and the pack itself checked; `strict`: no object twice.
fn git_index(pack: &[u8], strict: bool) -> Vec<u8> {
    let repo = Repo::new();
    let mut command = git(repo.path());
    command.args(["index-pack", "--stdin"]).args(strict.then_some("--strict"));
    run(&mut command, pack);
    let folder = repo.path().join("objects/pack");
    let mut files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    std::fs::read(files.find(|file| file.extension().is_some_and(|e| e == "idx")).unwrap()).unwrap()
}

fn concatenated(
    packs: &[Vec<u8>],
    indices: &[IndexReader<Vec<u8>>],
    ends: Option<u64>,
) -> Result<(Vec<u8>, Vec<u8>, u64), ConcatError> {
    let inputs = packs.iter().zip(indices);
    let inputs = inputs.map(|(pack, index)| Input { len: pack.len() as u64, index }).collect();
    written(&Plan::new(local_git::format(), inputs)?, packs, ends)
}

/// A plan's new pack, its index, and how many bytes were copied.
fn written(
    plan: &Plan<'_>,
    packs: &[Vec<u8>],
    ends: Option<u64>,
) -> Result<(Vec<u8>, Vec<u8>, u64), ConcatError> {
    let mut out = Copying { packs, out: Vec::new(), ends, copied: 0 };
    let written = plan.write(|at| Ok(Box::new(Cursor::new(&packs[at][..]))), &mut out)?;
    assert_eq!(written.len, out.out.len() as u64);
    assert!(out.out.ends_with(written.trailer.as_bytes()));
    let (fanout, entries) = plan.index(&written);
    let mut index = Vec::new();
    write_sorted(&fanout, entries, &written.trailer, &mut index)?;
    Ok((out.out, index, out.copied))
}

fn indices(packs: &[Vec<u8>]) -> Vec<IndexReader<Vec<u8>>> {
    packs
        .iter()
        .map(|pack| parse_index(git_index(pack, false), local_git::format()).unwrap())
        .collect()
}

/// The packs as one: git takes it, strictly, and makes the same index; however it is copied.
fn joined(packs: &[Vec<u8>]) -> Vec<u8> {
    let indices = indices(packs);
    let (pack, index, _) = concatenated(packs, &indices, None).unwrap();
    assert!(git_index(&pack, true) == index, "another index than git's");
    for ends in [0, 7, 1000] {
        let (copied, its_index, _) = concatenated(packs, &indices, Some(ends)).unwrap();
        assert!((copied, its_index) == (pack.clone(), index.clone()), "{ends}");
    }
    let names: BTreeSet<Oid> = indices.iter().flat_map(|i| i.entries().map(|e| e.oid)).collect();
    let held: Vec<Oid> =
        parse_index(index, local_git::format()).unwrap().entries().map(|entry| entry.oid).collect();
    assert_eq!(held, Vec::from_iter(names));
    pack
}

/// Every object of a pack, as git reads it.
fn contents(pack: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let repo = Repo::new();
    run(git(repo.path()).args(["index-pack", "--stdin"]), pack);
    let list = ["cat-file", "--batch-all-objects", "--batch-check=%(objectname)"];
    let names = repo.git(&list);
    let read = |name: &str| run(git(repo.path()).args(["cat-file", "blob", name]), b"");
    names.lines().map(|name| (name.to_owned(), read(name))).collect()
}

#[test]
fn increments_of_a_history_become_one_pack_with_the_index_that_git_makes() {
    let repo = Repo::new();
    let mut packs = Vec::new();
    let mut known = String::new();
    for round in 0..7 {
        let lines: String =
            (0..400).map(|line| format!("{line} {}\n", line % (round + 2))).collect();
        repo.commit("refs/heads/main", &[("a", lines.as_bytes()), ("b", &noise(500, round))]);
        repo.commit("refs/heads/main", &[("a", (lines + "x").as_bytes()), ("b", b"")]);
        let revs = format!("main\n{known}");
        let arguments = ["pack-objects", "--revs", "--stdout", "-q", "--delta-base-offset"];
        packs.push(run(git(repo.path()).args(arguments), revs.as_bytes()));
        known = format!("^{}\n", repo.rev("main").unwrap());
    }
    let pack = joined(&packs);
    let copy = Repo::new();
    run(git(copy.path()).args(["index-pack", "--stdin", "--strict"]), &pack);
    copy.git(&["update-ref", "refs/heads/main", &repo.rev("main").unwrap()]);
    local_git::assert_same_repository(repo.path(), copy.path());
}

#[test]
fn object_of_two_packs_is_kept_once_and_deltas_find_the_one_that_is_kept() {
    let text = |number: u32| [noise(300, number), format!("{number}\n").into_bytes()].concat();
    let [x, y, z, v, w, u] = [0, 1, 2, 3, 4, 5].map(text);
    let mut first = PackBuilder::new();
    let at = first.blob(&x);
    first.ofs_delta(at, &delta(&x, &y));
    let mut second = PackBuilder::new();
    // Far enough for a distance of three bytes, and left out bodies that make it one of two.
    let at = second.blob(&z);
    let x_again = second.ofs_delta(at, &delta(&z, &x));
    second.blob(&noise(9000, 77));
    let at = second.ofs_delta(x_again, &delta(&x, &w));
    let y_again = second.ref_delta(oid("blob", &w), &delta(&w, &y));
    second.ofs_delta(y_again, &delta(&y, &v));
    second.ofs_delta(at, &delta(&w, &u));
    let mut third = PackBuilder::new();
    third.ref_delta(oid("blob", &y), &delta(&y, b"short"));
    third.blob(&noise(9000, 77));
    third.blob(&y);
    let packs = [first.build(), second.build(), third.build()];
    let found = contents(&joined(&packs));
    let mut wanted: Vec<Vec<u8>> =
        [&x, &y, &z, &v, &w, &u, &noise(9000, 77), &b"short".to_vec()].map(Vec::clone).into();
    let mut held: Vec<Vec<u8>> = found.into_values().collect();
    wanted.sort();
    held.sort();
    assert!(held == wanted, "the objects are others");
}

/// A pack of some of `all`, each whole or as a delta against another one that is in the pack.
fn some_of(all: &[Vec<u8>], random: &mut fastrand::Rng) -> Vec<u8> {
    let mut pack = PackBuilder::new();
    let mut inside: Vec<(usize, u64)> = Vec::new();
    let mut order: Vec<usize> = (0..all.len()).filter(|_| random.bool()).collect();
    random.shuffle(&mut order);
    // A REF_DELTA may come before its base.
    let late = (order.len() > 2 && random.bool()).then(|| order.pop().unwrap());
    for &at in &order {
        let content = &all[at];
        let base = match inside.len() {
            0 => None,
            len => Some(inside[random.usize(..len)]),
        };
        let offset = match (random.u8(..4), base, late) {
            (0, Some((base, _)), _) => {
                pack.ref_delta(oid("blob", &all[base]), &delta(&all[base], content))
            }
            (1, _, Some(base)) => {
                pack.ref_delta(oid("blob", &all[base]), &delta(&all[base], content))
            }
            (2, Some((base, offset)), _) => pack.ofs_delta(offset, &delta(&all[base], content)),
            _ => pack.blob(content),
        };
        inside.push((at, offset));
    }
    if let Some(at) = late {
        pack.blob(&all[at]);
    }
    pack.build()
}

#[test]
fn random_packs_that_share_objects_become_one() {
    for seed in 0..25 {
        let mut random = fastrand::Rng::with_seed(seed);
        let all: Vec<Vec<u8>> = (0..random.u32(3..25))
            .map(|number| noise(random.usize(1..6000), number % 7 + seed as u32))
            .collect();
        let all: Vec<_> = BTreeSet::from_iter(all).into_iter().collect();
        let mut packs: Vec<Vec<u8>> =
            (0..random.usize(2..6)).map(|_| some_of(&all, &mut random)).collect();
        // git refuses a pack of no object on standard input.
        packs.retain(|pack| pack.len() > 32);
        if packs.is_empty() {
            continue;
        }
        let mut wanted = BTreeMap::new();
        packs.iter().for_each(|pack| wanted.extend(contents(pack)));
        assert!(contents(&joined(&packs)) == wanted, "seed {seed}");
    }
}

#[test]
fn pack_that_has_an_object_twice_is_named_and_refused() {
    let [mut good, mut bad] = [PackBuilder::new(), PackBuilder::new()];
    good.blob(b"one");
    bad.blob(b"two");
    bad.blob(b"one");
    bad.blob(b"two");
    let packs = [good.build(), bad.build()];
    let indices: Vec<_> = packs
        .iter()
        .map(|p| parse_index(git_index(p, false), local_git::format()).unwrap())
        .collect();
    let error = concatenated(&packs, &indices, None).expect_err("refused");
    let two = Oid::from_bytes(oid("blob", b"two"));
    assert!(matches!(error, ConcatError::Twice { input: 1, oid } if oid == two), "{error:?}");
}

/// What is sound of a pack of which nothing is believed but its index, as a new pack; and the offsets
/// of what is not.
fn salvaged(pack: &[u8], index: &IndexReader<Vec<u8>>) -> (Vec<u8>, BTreeSet<u64>) {
    let input = || Input { len: pack.len() as u64, index };
    let broken = broken_entries(&mut &pack[..], &input()).unwrap();
    let offsets = broken.offsets.clone();
    let plan = Plan::of_sound_entries(input(), broken).unwrap();
    let (new, new_index, _) = written(&plan, &[pack.to_vec()], None).unwrap();
    assert!(git_index(&new, true) == new_index, "another index than git's");
    (new, offsets)
}

/// Packs that end with an entry of each kind: short, longer than what is read at once, and deltas.
fn packs_by_their_last_entry() -> Vec<(&'static str, u64, Vec<u8>)> {
    let text = noise(3000, 1);
    let other = [&text[..], b"and more"].concat();
    let begun = || {
        let mut pack = PackBuilder::new();
        let at = pack.blob(&text);
        pack.blob(b"between");
        (pack, at)
    };
    let with = |what, add: &dyn Fn(&mut PackBuilder, u64) -> u64| {
        let (mut pack, base) = begun();
        let last = add(&mut pack, base);
        (what, last, pack.build())
    };
    vec![
        with("empty blob", &|pack, _| pack.blob(b"")),
        with("short blob", &|pack, _| pack.blob(b"short")),
        with("long blob", &|pack, _| pack.blob(&noise(200_000, 2))),
        with("blob that inflates far", &|pack, _| pack.blob(&vec![7; 3_000_000])),
        with("OFS_DELTA", &|pack, base| pack.ofs_delta(base, &delta(&text, &other))),
        with("REF_DELTA", &|pack, _| pack.ref_delta(oid("blob", &text), &delta(&text, &other))),
    ]
}

#[test]
fn last_entry_is_sound_whatever_follows_it_and_however_little() {
    for (what, _, pack) in packs_by_their_last_entry() {
        let index = parse_index(git_index(&pack, false), local_git::format()).unwrap();
        let end = pack.len() - 20;
        let cut = |by: usize| pack[..pack.len() - by].to_vec();
        let with = |more: &[u8]| [&pack[..], more].concat();
        let damages = [1, 2, 19, 20].map(|by| (format!("cut by {by}"), cut(by)));
        let more: [&[u8]; 4] = [b"X", &[0; 20], &noise(70_000, 3), &pack];
        let more = more.map(|more| (format!("{} more bytes", more.len()), with(more)));
        let zeros = [&pack[..end], &[0; 20]].concat();
        for (how, damaged) in
            damages.into_iter().chain(more).chain([("no trailer".to_owned(), zeros)])
        {
            let (new, broken) = salvaged(&damaged, &index);
            assert_eq!(broken, BTreeSet::new(), "{what}, {how}");
            assert!(new == pack, "{what}, {how}: another pack");
        }
    }
}

#[test]
fn last_entry_that_is_cut_or_changed_is_broken_and_no_other() {
    for (what, last, pack) in packs_by_their_last_entry() {
        let index = parse_index(git_index(&pack, false), local_git::format()).unwrap();
        let (last, end) = (last as usize, pack.len() - 20);
        let step = ((end - last) / 20).max(1);
        let places = (last..end).step_by(step).chain([last + 1, end - 1]);
        let flipped = |at: usize, by: u8| {
            let mut bytes = pack.clone();
            bytes[at] ^= by;
            bytes
        };
        for at in places {
            for damaged in [pack[..at].to_vec(), flipped(at, 0x80), flipped(at, 1)] {
                let input = Input { len: damaged.len() as u64, index: &index };
                let broken = broken_entries(&mut &damaged[..], &input).unwrap().offsets;
                assert_eq!(broken, BTreeSet::from([last as u64]), "{what}, {at}");
            }
        }
        let (new, _) = salvaged(&pack[..end - 1], &index);
        assert_eq!(contents(&new).len(), 2, "{what}");
    }
}

#[test]
fn damage_gets_no_new_trailer() {
    let (x, y) = (noise(200, 1), noise(90, 2));
    let mut first = PackBuilder::new();
    first.blob(&x);
    let mut second = PackBuilder::new();
    let at = second.blob(&y);
    second.blob(&x);
    second.ofs_delta(at, &delta(&y, b"end"));
    let packs = vec![first.build(), second.build()];
    let indices = indices(&packs);
    let refused = |packs: &[Vec<u8>], input: usize| {
        let error = concatenated(packs, &indices, None).expect_err("refused");
        assert!(
            matches!(error, ConcatError::Damaged { input: at, .. } if at == input),
            "{error:?}"
        );
    };
    for input in [0, 1] {
        for at in 0..packs[input].len() {
            let mut flipped = packs.clone();
            flipped[input][at] ^= 0x11;
            refused(&flipped, input);
            let mut cut = packs.clone();
            cut[input].truncate(at);
            refused(&cut, input);
        }
    }
}

// ---- mirrors ---------------------------------------------------------------------------------

/// Adds so many commits to `main`, each of a commit, a tree and a blob that does not deflate.
fn commits(repo: &Repo, first: usize, count: usize) {
    let mut stream = Vec::new();
    for number in first..first + count {
        let content = noise(40 + number % 90, number as u32 + 1);
        let text = format!(
            "commit refs/heads/main\ncommitter C <c@example.com> {} +0000\ndata 2\nm\n{}M 100644 inline f\ndata {}\n",
            1_700_000_000 + number,
            if number == 0 || number > first { "" } else { "from refs/heads/main^0\n" },
            content.len()
        );
        stream.extend(text.as_bytes());
        stream.extend(content);
        stream.push(b'\n');
    }
    run(git(repo.path()).args(["fast-import", "--quiet"]), &stream);
}

fn options(layout: Layout, max_packs: usize) -> Options {
    let memory_bytes = MIN_MEMORY_BYTES;
    Options { layout, max_packs, memory_bytes, concurrency: 4, ..Options::default() }
}

fn mirrored(repo: &Repo, store: &dyn Store, options: &Options) -> Result<Summary, MirrorError> {
    mirror(&LocalGit::new(repo.path()), store, options, &Silent)
}

fn listed(store: &MemoryStore) -> Vec<String> {
    let list = String::from_utf8(store.bytes("objects/info/packs").unwrap().to_vec()).unwrap();
    let names = list.lines().filter_map(|line| line.strip_prefix("P ")?.strip_suffix(".pack"));
    names.map(str::to_owned).collect()
}

/// Readers see all that is published, each object as it is named.
fn assert_sound(store: &MemoryStore, what: &str) {
    let report = verify(store, &VerifyOptions::default()).unwrap();
    assert!(report.is_sound(), "{what}: {:?}", report.findings);
}

fn assert_mirrored(repo: &Repo, store: &MemoryStore) {
    let copy = tempfile::tempdir().unwrap();
    assert!(dump(store, copy.path()));
    assert_same_repository(repo.path(), copy.path());
}

fn assert_clean(store: &MemoryStore, what: &str) {
    let left: Vec<_> = store.keys().into_iter().filter(|key| key.contains("mirror_tmp")).collect();
    assert_eq!((left, store.open_uploads()), (Vec::new(), 0), "{what}");
    let state = store.bytes("mirror_state/state.json").unwrap();
    let state: serde_json::Value = serde_json::from_slice(&state).unwrap();
    assert_eq!(state.get("writing"), None, "{what}");
}

fn age(store: &MemoryStore, hours: u64) {
    for (key, object) in store.snapshot() {
        let at = object.last_modified - Duration::from_secs(hours * 3600);
        store.set_last_modified(&key, at);
    }
}

fn loose(store: &MemoryStore) -> usize {
    let len = "objects//".len() + local_git::format().hex_len();
    let is_loose = |key: &String| {
        key.starts_with("objects/") && key.len() == len && key.as_bytes()[10] == b'/'
    };
    store.keys().iter().filter(|key| is_loose(key)).count()
}

fn collect(store: &MemoryStore) {
    let options = GcOptions { settle: Duration::ZERO, concurrency: 4, ..GcOptions::default() };
    gc(store, &options, &|_| ()).unwrap();
}

#[test]
fn list_of_packs_stays_within_its_bound_and_the_newest_packs_stay() {
    let repo = Repo::new();
    let store = MemoryStore::new();
    let mut newest = Vec::new();
    for round in 0..40 {
        commits(&repo, round * 2, if round == 0 { 200 } else { 2 });
        mirrored(&repo, &store, &options(Layout::Pack, 6)).unwrap();
        let now = listed(&store);
        assert!(now.len() <= 6, "{now:?}");
        assert!(now[..now.len() - 1].ends_with(&newest), "{newest:?} were touched: {now:?}");
        newest = now[now.len().saturating_sub(2)..].to_vec();
        if round % 10 == 9 {
            assert_mirrored(&repo, &store);
            assert_sound(&store, &format!("round {round}"));
            assert_clean(&store, "a run that ends");
        }
    }
    let packs = |store: &MemoryStore| store.keys().iter().filter(|k| k.ends_with(".pack")).count();
    collect(&store);
    assert!(packs(&store) > 6, "retired packs stay for readers");
    age(&store, 50);
    collect(&store);
    assert_eq!(packs(&store), listed(&store).len());
    assert_mirrored(&repo, &store);
}

/// The same keys and bytes in a store of its own.
fn copy_of(store: &MemoryStore, limits: Limits) -> MemoryStore {
    let copy = MemoryStore::new().with_limits(limits);
    for (key, object) in store.snapshot() {
        let headers = ObjectHeaders::immutable("application/octet-stream");
        copy.put(&Key::new(key).unwrap(), &object.bytes, headers, None).unwrap();
    }
    copy.clear_recorded();
    copy
}

/// Bodies of 1,000 bytes and more are copied by the store.
const SMALL: Limits =
    Limits { min_part_bytes: 1000, max_parts: 1000, max_copy_bytes: 5000, max_put_bytes: 0 };

/// A mirror, and a repository whose next run compacts it.
struct Due {
    store: MemoryStore,
    repo: Repo,
    options: Options,
}

/// One pack too many: six of them become one, the first in parts that the store copies.
fn packs_are_due() -> Due {
    let (repo, store) = (Repo::new(), MemoryStore::new());
    let options = options(Layout::Pack, 6);
    let mut first = 0;
    for count in [60, 30, 4, 3, 2, 1] {
        commits(&repo, first, count);
        first += count;
        mirrored(&repo, &store, &options).unwrap();
    }
    commits(&repo, first, 2);
    Due { store, repo, options }
}

/// More than 200 loose objects in no pack, others that have been in one for two days, and one pack more
/// than there may be as soon as the former are in one, too.
fn loose_objects_are_due() -> Due {
    let (repo, store) = (Repo::new(), MemoryStore::new());
    let options = options(Layout::Auto, 1);
    let mut first = 0;
    let mut run = |count| {
        commits(&repo, first, count);
        first += count;
        mirrored(&repo, &store, &options).unwrap();
    };
    run(5);
    (0..3).for_each(|_| run(30));
    assert_eq!((listed(&store).len(), loose(&store)), (1, 285));
    age(&store, 50);
    (0..2).for_each(|_| run(30));
    assert_eq!((listed(&store).len(), loose(&store)), (1, 465));
    commits(&repo, first, 30);
    Due { store, repo, options }
}

const OPERATIONS: [Operation; 13] = [
    Operation::Get,
    Operation::Open,
    Operation::Head,
    Operation::Put,
    Operation::Delete,
    Operation::List,
    Operation::Copy,
    Operation::CreateUpload,
    Operation::PutPart,
    Operation::CopyPart,
    Operation::CompleteUpload,
    Operation::AbortUpload,
    Operation::ListUploads,
];

/// Fails the n-th request of each kind of the run that compacts; then, from each moment on, every
/// request. What is published is sound after it, and right and clean after the next run.
fn nothing_is_lost_whatever_fails(due: &Due, limits: Limits, expected: &[Operation]) {
    let Due { store, repo, options } = due;
    let trial = copy_of(store, limits);
    let before = listed(&trial);
    mirrored(repo, &trial, options).unwrap();
    assert_mirrored(repo, &trial);
    assert_ne!(listed(&trial), before);
    let counts = OPERATIONS.map(|operation| (operation, trial.count(operation) as u64));
    for operation in expected {
        assert!(trial.count(*operation) > 0, "{operation:?} is never sent");
    }
    let refs = trial.bytes("info/refs");
    let all: u64 = counts.iter().map(|(_, count)| count).sum();
    let check = |fault: Fault, what: &str| {
        let store = copy_of(store, limits);
        store.inject(fault);
        let outcome = mirrored(repo, &store, options);
        store.clear_faults();
        assert_sound(&store, what);
        assert!(outcome.is_err() || store.bytes("info/refs") == refs, "{what}");
        mirrored(repo, &store, options).unwrap_or_else(|e| panic!("the run after {what}: {e}"));
        assert_eq!(store.bytes("info/refs"), refs, "{what}");
        assert_sound(&store, what);
        if all < 100 {
            assert_mirrored(repo, &store);
        }
        assert_clean(&store, what);
    };
    for (operation, count) in counts {
        // Reading loose objects is hundreds of times the same.
        for n in (1..=count).filter(|n| count < 60 || *n <= 6 || n % 60 == 0 || n + 8 > count) {
            let fault = Fault::new(StoreErrorKind::Other).on(operation).nth(n);
            check(fault, &format!("{operation:?} {n} of {count}"));
            let lost = Fault::transient().on(operation).nth(n).after_effect();
            check(lost, &format!("the answer to {operation:?} {n} of {count}"));
        }
    }
    for n in (1..=all).filter(|n| all < 100 || *n <= 15 || n % 60 == 0 || n + 30 > all) {
        // Killed: nothing that would clean up goes through.
        let killed = Fault::new(StoreErrorKind::Other).nth(n).always();
        check(killed, &format!("killed at {n} of {all}"));
    }
}

#[test]
fn compaction_of_packs_loses_nothing_whatever_fails_and_wherever_it_is_killed() {
    let expected = [
        Operation::Head,
        Operation::Open,
        Operation::CreateUpload,
        Operation::PutPart,
        Operation::CopyPart,
        Operation::CompleteUpload,
        Operation::Copy,
        Operation::Put,
        Operation::Delete,
    ];
    nothing_is_lost_whatever_fails(&packs_are_due(), SMALL, &expected);
}

#[test]
fn packing_of_loose_objects_loses_nothing_whatever_fails_and_wherever_it_is_killed() {
    let expected = [Operation::Get, Operation::List, Operation::Put, Operation::Delete];
    nothing_is_lost_whatever_fails(&loose_objects_are_due(), Limits::S3, &expected);
}

#[test]
fn loose_objects_that_pile_up_are_packed_and_stay_for_a_day() {
    let (repo, store) = (Repo::new(), MemoryStore::new());
    let options = options(Layout::Auto, 20);
    let mut first = 0;
    let mut run = |count| {
        commits(&repo, first, count);
        first += count;
        let summary = mirrored(&repo, &store, &options).unwrap();
        assert_eq!(summary.objects_written as usize, 3 * count);
    };
    run(5);
    (0..3).for_each(|_| run(30));
    assert_eq!((listed(&store).len(), loose(&store)), (1, 285), "packed, and loose for readers");
    age(&store, 20);
    (0..3).for_each(|_| run(30));
    assert_eq!((listed(&store).len(), loose(&store)), (2, 555), "not a day yet");
    assert_mirrored(&repo, &store);
    age(&store, 20);
    (0..3).for_each(|_| run(30));
    assert_eq!((listed(&store).len(), loose(&store)), (3, 540), "the first 285 are gone");
    assert_mirrored(&repo, &store);
    assert_sound(&store, "after deleting");
    // A hundred objects and more come as a pack.
    run(40);
    assert_eq!((listed(&store).len(), loose(&store)), (4, 540));
    let state = store.bytes("mirror_state/state.json").unwrap();
    let state: serde_json::Value = serde_json::from_slice(&state).unwrap();
    assert_eq!((&state["loose_objects"], &state["layout"]), (&0.into(), &"auto".into()));
}

#[test]
fn loose_layout_is_never_packed() {
    let (repo, store) = (Repo::new(), MemoryStore::new());
    for round in 0..4 {
        commits(&repo, 30 * round, 30);
        mirrored(&repo, &store, &options(Layout::Loose, 20)).unwrap();
    }
    assert_eq!((listed(&store).len(), loose(&store)), (0, 360));
    // It is, when the mirror continues with the layout auto.
    commits(&repo, 120, 1);
    mirrored(&repo, &store, &options(Layout::Auto, 20)).unwrap();
    assert_eq!((listed(&store).len(), loose(&store)), (1, 363));
    assert_mirrored(&repo, &store);
}

/// A loose copy is deleted only while the pack that has the object is listed: `--full` may have taken
/// that away, and the object may be needed again since.
#[test]
fn loose_objects_whose_pack_is_no_longer_listed_stay() {
    let (repo, store) = (Repo::new(), MemoryStore::new());
    let options = options(Layout::Auto, 20);
    for (first, count) in [(0, 5), (5, 30), (35, 30), (65, 30)] {
        commits(&repo, first, count);
        mirrored(&repo, &store, &options).unwrap();
    }
    assert_eq!((listed(&store).len(), loose(&store)), (1, 285));
    let tip = repo.rev("main").unwrap();
    repo.git(&["update-ref", "refs/heads/main", "main~45"]);
    let full = Options { full: true, ..options.clone() };
    mirrored(&repo, &store, &full).unwrap();
    assert_eq!(listed(&store).len(), 1, "one pack of what is left");
    repo.git(&["update-ref", "refs/heads/main", &tip]);
    mirrored(&repo, &store, &Options { layout: Layout::Loose, ..options.clone() }).unwrap();
    age(&store, 50);
    for round in 0..4 {
        commits(&repo, 95 + 30 * round, 30);
        mirrored(&repo, &store, &options).unwrap();
        assert_sound(&store, &format!("round {round}"));
    }
    assert_mirrored(&repo, &store);
}

/// What another run adds while one compacts is not lost, whatever becomes of conditions.
/// Deleting loose objects is a fence for the run itself: what it lists has to be listed before.
#[test]
fn list_stays_within_its_bound_when_loose_objects_are_packed_and_deleted_in_one_run() {
    let (repo, store) = (Repo::new(), MemoryStore::new());
    let options = options(Layout::Auto, 3);
    let mut deleted = 0;
    for round in 0..14 {
        commits(&repo, round * 30, 30);
        let before = loose(&store);
        mirrored(&repo, &store, &options).unwrap();
        let names = listed(&store);
        assert!(names.len() <= 3, "round {round}: {names:?}");
        deleted += usize::from(loose(&store) < before);
        age(&store, 30);
    }
    assert!(deleted >= 2, "{deleted}");
    assert_sound(&store, "at the end");
    assert_mirrored(&repo, &store);
}

#[test]
fn two_runs_at_once_lose_nothing() {
    for conditions in [Conditions::Enforced, Conditions::Ignored, Conditions::Unsupported] {
        for part in ["mirror_state/replaced", ".idx", "objects/info/packs", "state.json"] {
            let Due { store, repo, options } = packs_are_due();
            let other = Repo::new();
            other.git(&["fetch", "-q", repo.path().to_str().unwrap(), "+refs/*:refs/*"]);
            commits(&other, 500, 40);
            let (source, inner) = (LocalGit::new(other.path()), store.clone());
            let (its_options, once) = (options.clone(), AtomicBool::new(false));
            let published = AtomicBool::new(false);
            let hooked = Hooked::new(&store, conditions).before_put(move |key| {
                published.fetch_or(key.as_str() == "info/refs", Ordering::Relaxed);
                let is_late = published.load(Ordering::Relaxed) && key.as_str().contains(part);
                if is_late && !once.swap(true, Ordering::Relaxed) {
                    let hooked = Hooked::new(&inner, conditions);
                    mirror(&source, &hooked, &its_options, &Silent).unwrap();
                }
            });
            let what = format!("{conditions:?} {part}");
            mirrored(&repo, &hooked, &options).unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_mirrored(&other, &store);
            assert_sound(&store, &what);
            let again = Hooked::new(&store, conditions);
            mirrored(&other, &again, &options).unwrap();
            commits(&other, 600, 1);
            mirrored(&other, &again, &options).unwrap();
            assert_mirrored(&other, &store);
            assert!(listed(&store).len() <= 6, "{what}: {:?}", listed(&store));
            assert_clean(&store, &what);
        }
    }
}

local_git::also_with_sha256! {
    increments_of_a_history_become_one_pack_with_the_index_that_git_makes,
    list_of_packs_stays_within_its_bound_and_the_newest_packs_stay,
    loose_objects_that_pile_up_are_packed_and_stay_for_a_day,
}
