//! Half of a SHA-1 collision inside a pack ends the run, names the object, and publishes nothing.
//!
//! Two git objects that collide with their headers are not public, and the published blocks collide
//! after their own 192 bytes alone. So these tests hash objects of some sizes without their header
//! ([`HEADERLESS`]): the attack is the published one, and all but that is what ships.

use std::io::Read;

use crate::git::object::{HEADERLESS, Kind, ObjectFormat, Oid, hash_object};
use crate::git::refs::{Advertisement, Head, Ref, RefName};
use crate::mirror::{Layout, MIN_MEMORY_BYTES, MirrorError, Options, mirror};
use crate::progress::Silent;
use crate::source::{Source, SourceError};
use crate::store::memory::MemoryStore;

#[allow(
    clippy::duplicate_mod,
    reason = "two layers test with it, and none of them is below the other"
)]
#[path = "../../tests/support/pack_builder.rs"]
mod pack_builder;
use pack_builder::{PackBuilder, delta, noise};

const HALVES: [&[u8; 320]; 2] = [
    include_bytes!("../../fixtures/collisions/shattered-1.bin"),
    include_bytes!("../../fixtures/collisions/shattered-2.bin"),
];

struct Pack(Vec<u8>);

impl Source for Pack {
    fn describe(&self) -> String {
        "https://git.example/collision".into()
    }

    fn advertisement(&self) -> Result<Advertisement, SourceError> {
        let name = RefName::new("refs/heads/main").unwrap();
        let oid = hash_object(ObjectFormat::Sha1, Kind::Blob, TIP).unwrap();
        let refs = vec![Ref { name: name.clone(), oid, peeled: None }];
        Ok(Advertisement::of(refs, Head::Branch(name)))
    }

    fn fetch<'a>(
        &'a self,
        _: &[Oid],
        _: &[Oid],
        _: Box<dyn FnMut(&str) + Send + 'a>,
    ) -> Result<Box<dyn Read + Send + 'a>, SourceError> {
        Ok(Box::new(&self.0[..]))
    }

    fn requests(&self) -> u64 {
        0
    }
}

/// What the ref names; it is in every pack.
const TIP: &[u8] = b"what was asked for";

/// A blob of `len` bytes that begins with one half of the collision.
fn bad_blob(half: &[u8], len: u64) -> Vec<u8> {
    [half, &noise(len as usize - half.len(), 7)].concat()
}

fn run(layout: Layout, pack: &PackBuilder) -> (Result<(), MirrorError>, MemoryStore) {
    let store = MemoryStore::new();
    let options = Options { layout, memory_bytes: MIN_MEMORY_BYTES, ..Options::default() };
    let ended = mirror(&Pack(pack.build()), &store, &options, &Silent);
    (ended.map(|_| ()), store)
}

/// `fill` puts a blob into a pack, in one way or another, and answers its entry's offset.
fn assert_refused(len: u64, fill: &dyn Fn(&mut PackBuilder, &[u8]) -> u64) {
    assert!(HEADERLESS.contains(&len));
    for layout in [Layout::Loose, Layout::Pack] {
        for half in HALVES {
            let blob = bad_blob(half, len);
            let name = hash_object(ObjectFormat::Sha1, Kind::Blob, &blob).unwrap_err().0;
            let mut pack = PackBuilder::new();
            pack.blob(TIP);
            let offset = fill(&mut pack, &blob);
            let (ended, store) = run(layout, &pack);
            let error = ended.expect_err("half of a collision");
            assert!(matches!(error, MirrorError::Pack(_)), "{error:?}");
            let words = format!("pack entry at offset {offset}: object {name} is part of a SHA-1");
            assert!(error.to_string().contains(&words), "{error} does not say: {words}");
            let tip =
                format!("objects/{}", hash_object(ObjectFormat::Sha1, Kind::Blob, TIP).unwrap());
            let tip = format!("{}/{}", &tip[..10], &tip[10..]);
            let others: Vec<String> =
                store.keys().into_iter().filter(|k| !k.ends_with(&tip)).collect();
            // Of the run itself only that it had begun is left; of the pack loose bases are.
            let is_left = |key: &String| {
                key == "mirror_state/state.json"
                    || layout == Layout::Loose
                        && key.starts_with("objects/")
                        && !key.contains(&name.to_string()[2..])
            };
            assert!(others.iter().all(is_left), "{others:?}");
            assert_eq!(store.open_uploads(), 0);

            // One bit of its last block differs: no attack, and it is mirrored.
            let mut sound = blob.clone();
            sound[319] ^= 1;
            let mut pack = PackBuilder::new();
            pack.blob(TIP);
            fill(&mut pack, &sound);
            run(layout, &pack).0.expect("an ordinary blob");
        }
    }
}

#[test]
fn whole_blob_that_collides_is_refused() {
    assert_refused(HEADERLESS[0], &|pack, blob| pack.blob(blob));
}

#[test]
fn blob_that_a_delta_makes_collide_is_refused() {
    assert_refused(HEADERLESS[0], &|pack, blob| {
        let base = [&noise(90, 3), &blob[320..]].concat();
        let at = pack.blob(&base);
        pack.ofs_delta(at, &delta(&base, blob))
    });
}

#[test]
fn delta_before_its_base_that_collides_is_refused() {
    assert_refused(HEADERLESS[0], &|pack, blob| {
        let base = [&noise(90, 3), &blob[320..]].concat();
        let at = pack.ref_delta(pack_builder::oid("blob", &base), &delta(&base, blob));
        pack.blob(&base);
        at
    });
}

#[test]
fn streamed_blob_that_collides_is_refused() {
    assert_refused(HEADERLESS[1], &|pack, blob| pack.blob(blob));
}

#[test]
fn large_blob_that_a_delta_makes_collide_is_refused() {
    assert_refused(HEADERLESS[1], &|pack, blob| {
        let base = [&noise(90, 3), &blob[320..]].concat();
        let at = pack.blob(&base);
        pack.ofs_delta(at, &delta(&base, blob))
    });
}

#[test]
fn small_blob_that_a_delta_cuts_from_a_large_one_is_refused() {
    assert_refused(HEADERLESS[0], &|pack, blob| {
        let base = [&noise(900_000, 3), &blob[320..]].concat();
        let at = pack.blob(&base);
        let mut steps = pack_builder::insert(&blob[..320]);
        steps.extend(pack_builder::copy(900_000, blob.len() - 320));
        pack.ofs_delta(at, &pack_builder::raw_delta(base.len() as u64, blob.len() as u64, &steps))
    });
}
