//! `verify` names an object that is half of a SHA-1 collision, wherever it lies.
//!
//! `mirror/collisions.rs` says what is hashed without its header here, and why.

use crate::git::object::{HEADERLESS, Kind, ObjectFormat, Oid, hash_object};
use crate::maintain::verify::{VerifyOptions, verify};
use crate::pack::index::{IndexEntry, write_index};
use crate::store::memory::MemoryStore;
use crate::store::{Key, ObjectHeaders, Store};

#[allow(
    clippy::duplicate_mod,
    reason = "two layers test with it, and none of them is below the other"
)]
#[path = "../../tests/support/pack_builder.rs"]
mod pack_builder;
use pack_builder::{PackBuilder, noise, zlib};

const HALF: &[u8; 320] = include_bytes!("../../fixtures/collisions/shattered-1.bin");

fn put(store: &MemoryStore, key: &str, body: &[u8]) {
    let headers = ObjectHeaders::immutable("application/octet-stream");
    store.put(&Key::new(key).unwrap(), body, headers, None).unwrap();
}

fn findings(store: &MemoryStore) -> String {
    let options = VerifyOptions { memory_bytes: 8 << 20, ..VerifyOptions::default() };
    let report = verify(store, &options).unwrap();
    report.findings.iter().map(|finding| format!("{finding}\n")).collect()
}

fn bad_blobs() -> impl Iterator<Item = (Vec<u8>, String)> {
    HEADERLESS.into_iter().map(|len| {
        let blob = [HALF, &noise(len as usize - 320, 7)[..]].concat();
        let name = hash_object(ObjectFormat::Sha1, Kind::Blob, &blob).unwrap_err().0.to_string();
        (blob, name)
    })
}

fn publish(store: &MemoryStore, oid: &str) {
    put(store, "HEAD", b"ref: refs/heads/main\n");
    put(store, "info/refs", format!("{oid}\trefs/heads/main\n").as_bytes());
}

#[test]
fn loose_object_that_collides_is_named() {
    for (blob, name) in bad_blobs() {
        let store = MemoryStore::new();
        let body = [format!("blob {}\0", blob.len()).as_bytes(), &blob].concat();
        let key = format!("objects/{}/{}", &name[..2], &name[2..]);
        put(&store, &key, &zlib(&body, 1));
        put(&store, "objects/info/packs", b"\n");
        publish(&store, &name);
        let text = findings(&store);
        let words = format!("{key}: object {name} is part of a SHA-1 collision attack");
        assert!(text.contains(&words), "{text} does not say: {words}");
    }
}

#[test]
fn packed_object_that_collides_is_named() {
    for (blob, name) in bad_blobs() {
        let store = MemoryStore::new();
        let mut builder = PackBuilder::new();
        builder.blob(&blob);
        let pack = builder.build();
        let end = pack.len() - 20;
        let trailer = Oid::from_slice(&pack[end..]).unwrap();
        let crc32 = zlib_rs::crc32::crc32(0, &pack[12..end]);
        let mut entries = [IndexEntry { oid: name.parse().unwrap(), crc32, offset: 12 }];
        let mut index = Vec::new();
        write_index(&mut entries, &trailer, &mut index).unwrap();
        put(&store, &format!("objects/pack/pack-{trailer}.pack"), &pack);
        put(&store, &format!("objects/pack/pack-{trailer}.idx"), &index);
        put(&store, "objects/info/packs", format!("P pack-{trailer}.pack\n\n").as_bytes());
        publish(&store, &name);
        let text = findings(&store);
        let words = format!("object {name} is part of a SHA-1 collision attack");
        assert!(text.contains(&words), "{text} does not say: {words}");
    }
}
