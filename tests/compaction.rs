//! Packs that become one: the bytes, against git; and mirrors whose packs and loose objects are
//! compacted, whatever fails meanwhile.

#[path = "support/local_git.rs"]
mod local_git;
#[path = "support/pack_builder.rs"]
mod pack_builder;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Cursor};
use std::ops::Range;

use local_git::{Repo, git, run};
use mirror_git_to_s3::git::object::Oid;
use mirror_git_to_s3::pack::concat::{ConcatError, Input, Output, Plan};
use mirror_git_to_s3::pack::index::{IndexReader, parse_index, write_sorted};
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
    let plan = Plan::new(inputs)?;
    let mut out = Copying { packs, out: Vec::new(), ends, copied: 0 };
    let written = plan.write(|at| Ok(Box::new(Cursor::new(&packs[at][..]))), &mut out)?;
    assert_eq!(written.len, out.out.len() as u64);
    assert_eq!(written.trailer.as_bytes()[..], out.out[out.out.len() - 20..]);
    let (fanout, entries) = plan.index(&written);
    let mut index = Vec::new();
    write_sorted(&fanout, entries, &written.trailer, &mut index)?;
    Ok((out.out, index, out.copied))
}

fn indices(packs: &[Vec<u8>]) -> Vec<IndexReader<Vec<u8>>> {
    packs.iter().map(|pack| parse_index(git_index(pack, false)).unwrap()).collect()
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
    let held: Vec<Oid> = parse_index(index).unwrap().entries().map(|entry| entry.oid).collect();
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
    let indices: Vec<_> = packs.iter().map(|p| parse_index(git_index(p, false)).unwrap()).collect();
    let error = concatenated(&packs, &indices, None).expect_err("refused");
    let two = Oid::from_bytes(oid("blob", b"two"));
    assert!(matches!(error, ConcatError::Twice { input: 1, oid } if oid == two), "{error:?}");
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
