//! One suite over every store: memory, a directory, an S3 server in the process, and a real bucket
//! if there is one:
//!
//! ```text
//! MIRROR_TEST_S3_URL=s3://bucket/prefix MIRROR_TEST_S3_ENDPOINT=http://… \
//!   AWS_ACCESS_KEY_ID=… AWS_SECRET_ACCESS_KEY=… cargo test --test all store_conformance
//! ```
//!
//! Optional: `MIRROR_TEST_S3_REGION`; `MIRROR_TEST_S3_UNSUPPORTED`, a comma-separated list of what the
//! store is known not to do: `conditions`, `if-match`, `copy-part`, `small-parts`, `unknown-upload`,
//! `replaced-parts`, `odd-part-source` (Ceph 16 aborts on some). What real servers do not support:
//!
//! ```text
//! moto 5         nothing
//! Garage 2.5     conditions,small-parts
//! Ceph RGW 16    if-match,odd-part-source
//! Swift 2.30     conditions,if-match
//! rclone 1.7     conditions,if-match,copy-part,small-parts,unknown-upload,replaced-parts
//! ```

#![allow(missing_docs)]

use crate::support::s3_server;
use std::any::Any;
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use mirror_git_to_s3::http::{Client, Settings};
use mirror_git_to_s3::store::credentials::{Credentials, Provider};
use mirror_git_to_s3::store::dir::DirStore;
use mirror_git_to_s3::store::memory::MemoryStore;
use mirror_git_to_s3::store::retry::{Policy, Retry};
use mirror_git_to_s3::store::s3::{Addressing, S3Config, S3Store};
use mirror_git_to_s3::store::{Condition, ETag, Key, ObjectHeaders, Store, StoreErrorKind, Upload};

const TEXT: ObjectHeaders = ObjectHeaders::changing("text/plain");
const PACK: ObjectHeaders = ObjectHeaders::immutable("application/x-git-packed-objects");
/// S3's smallest part.
const PART: usize = 5 << 20;
/// So that listings need pages without thousands of keys.
const PAGE: u32 = 7;

struct Backend {
    store: Box<dyn Store>,
    /// What the store is known not to do.
    unsupported: BTreeSet<String>,
    /// What must outlive the store.
    _held: Box<dyn Any>,
}

impl Backend {
    fn new(store: impl Store + 'static, unsupported: &[&str], held: impl Any) -> Option<Self> {
        let unsupported = unsupported.iter().map(|what| (*what).to_owned()).collect();
        Some(Backend { store: Box::new(store), unsupported, _held: Box::new(held) })
    }

    fn does(&self, what: &str) -> bool {
        if self.unsupported.contains(what) {
            println!("not tried: this store does not support {what}");
            return false;
        }
        // The test harness shows this only when the test fails.
        println!("needs {what}: does the store not support it? MIRROR_TEST_S3_UNSUPPORTED={what}");
        true
    }

    /// A bucket of somebody's keeps nothing of a test that has passed.
    fn empty(&self) {
        let (mut keys, mut page) = (Vec::new(), None);
        loop {
            let list = self.store.list("", page.as_deref()).unwrap();
            keys.extend(list.objects.into_iter().map(|object| object.key));
            page = list.next;
            if page.is_none() {
                return self.store.delete(&keys).unwrap();
            }
        }
    }
}

fn memory() -> Option<Backend> {
    Backend::new(MemoryStore::new().with_page_size(PAGE as usize), &[], ())
}

fn directory() -> Option<Backend> {
    let dir = tempfile::tempdir().unwrap();
    let store = DirStore::new(dir.path().join("store")).unwrap().with_page_size(PAGE as usize);
    Backend::new(store, &["small-parts"], dir)
}

fn config(endpoint: String, bucket: &str, prefix: &str) -> S3Config {
    S3Config {
        bucket: bucket.into(),
        prefix: prefix.into(),
        region: "us-east-1".into(),
        endpoint: Some(endpoint),
        addressing: Addressing::Auto,
        ..S3Config::default()
    }
}

fn credentials(access_key: &str, secret_key: &str) -> Provider {
    Provider::fixed(Credentials {
        access_key: access_key.into(),
        secret_key: secret_key.into(),
        session_token: None,
        expires: None,
    })
}

fn client() -> Client {
    Client::new(&Settings::default()).unwrap()
}

fn serve() -> (s3_server::S3Server, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("bucket")).unwrap();
    let options = s3_server::Options { public_reads: true, ..Default::default() };
    (s3_server::S3Server::start_with(dir.path(), options), dir)
}

fn store_on(server: &s3_server::S3Server, prefix: &str) -> S3Store {
    let config = config(server.endpoint(), "bucket", prefix);
    S3Store::new(config, client(), credentials(&server.access_key, &server.secret_key)).unwrap()
}

fn s3s_fs() -> Option<Backend> {
    let (server, dir) = serve();
    let store = store_on(&server, "a prefix/with+=~%&ü").with_page_size(PAGE);
    // As in every run: a server may answer before it has read the body, and then close.
    Backend::new(Retry::new(store, Policy::default()), &["unknown-upload"], (server, dir))
}

/// The bucket that the environment names; every test gets a prefix of its own.
fn real_s3() -> Option<Backend> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let get = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let Some(url) = get("MIRROR_TEST_S3_URL") else {
        // The test harness swallows print macros, not this.
        let words = "SKIPPED, not passed: MIRROR_TEST_S3_URL is not set, no real bucket is tried\n";
        let _ = std::io::stderr().write_all(words.as_bytes());
        return None;
    };
    let path = url.strip_prefix("s3://").expect("MIRROR_TEST_S3_URL begins with s3://");
    let (bucket, prefix) = path.split_once('/').unwrap_or((path, ""));
    let number = COUNT.fetch_add(1, Ordering::SeqCst);
    let unsupported = get("MIRROR_TEST_S3_UNSUPPORTED").unwrap_or_default();
    let odd = if unsupported.contains("odd-part-source") { "" } else { " +=~%&ü" };
    let prefix = format!("{prefix}/conformance-{}-{number}{odd}", std::process::id());
    let endpoint = get("MIRROR_TEST_S3_ENDPOINT");
    let region = get("MIRROR_TEST_S3_REGION").unwrap_or("us-east-1".into());
    let config =
        S3Config { region, endpoint, ..config(String::new(), bucket, prefix.trim_matches('/')) };
    let key = |name| get(name).unwrap_or_else(|| panic!("{name} is not set"));
    let provider = credentials(&key("AWS_ACCESS_KEY_ID"), &key("AWS_SECRET_ACCESS_KEY"));
    let store = S3Store::new(config, client(), provider).unwrap().with_page_size(PAGE);
    let store = Retry::new(store, Policy::default());
    Backend::new(store, &unsupported.split(',').collect::<Vec<_>>(), ())
}

macro_rules! conformance {
    ($($backend:ident),+) => { conformance!(@tests [$($backend),+]
        put_and_get_and_head_agree,
        a_put_replaces_what_was_there,
        ranges_give_what_there_is,
        an_answer_above_the_limit_is_an_error,
        a_stream_begins_at_its_offset,
        what_is_not_there_is_not_found,
        listings_are_in_byte_order_over_all_pages,
        folders_are_listed_without_what_is_in_them,
        a_prefix_may_end_inside_a_segment,
        many_keys_are_deleted_at_once,
        a_copy_is_made_by_the_store,
        parts_in_any_order_become_one_object,
        a_part_stored_again_replaces_the_first,
        parts_can_be_copied_from_ranges,
        an_upload_that_fails_leaves_no_object,
        a_small_part_that_is_not_the_last_is_refused,
        an_aborted_upload_is_gone,
        open_uploads_are_listed,
        a_put_if_absent_never_replaces,
        a_put_if_it_matches_replaces_only_that,
        odd_keys_are_kept_as_they_are,
        thirty_two_threads_at_once_lose_nothing
    ); };
    (@tests $backends:tt $($test:ident),+) => {
        $(conformance!(@one $backends $test);)+
    };
    (@one [$($backend:ident),+] $test:ident) => {
        mod $test {
            $(
                #[test]
                fn $backend() {
                    if let Some(backend) = super::$backend() {
                        super::checks::$test(&backend);
                        backend.empty();
                    }
                }
            )+
        }
    };
}

conformance!(memory, directory, s3s_fs, real_s3);

fn key(name: &str) -> Key {
    Key::new(name).unwrap()
}

fn all(store: &dyn Store, prefix: &str) -> Vec<String> {
    let (mut names, mut page) = (Vec::new(), None);
    loop {
        let listed = store.list(prefix, page.as_deref()).unwrap();
        assert!(listed.objects.len() <= PAGE as usize);
        names.extend(listed.objects.into_iter().map(|object| object.key.to_string()));
        match listed.next {
            None => return names,
            next => page = next,
        }
    }
}

fn put(store: &dyn Store, name: &str, body: &[u8]) -> Option<ETag> {
    store.put(&key(name), body, TEXT, None).unwrap()
}

fn get(store: &dyn Store, name: &str) -> Vec<u8> {
    store.get(&key(name), None, u64::MAX).unwrap().0
}

mod checks {
    use super::*;

    pub fn put_and_get_and_head_agree(backend: &Backend) {
        let store = &*backend.store;
        for body in [&b""[..], b"x", &[7; 100_000]] {
            let put = put(store, "a/b", body).unwrap();
            let (bytes, got) = store.get(&key("a/b"), None, 100_000).unwrap();
            assert!(bytes == body);
            let info = store.head(&key("a/b")).unwrap().unwrap();
            assert_eq!((info.key, info.len), (key("a/b"), body.len() as u64));
            assert_eq!((&got, &info.etag), (&Some(put.clone()), &Some(put.clone())));
            assert!(!put.0.contains('"'));
            let age = info.last_modified.unwrap().elapsed().unwrap_or_default();
            assert!(age.as_secs() < 600, "{age:?}");
        }
        assert!(store.requests() >= 9);
    }

    pub fn a_put_replaces_what_was_there(backend: &Backend) {
        let store = &*backend.store;
        let first = put(store, "a", b"long old bytes");
        let second = put(store, "a", b"new");
        assert_eq!(get(store, "a"), b"new");
        assert_ne!(first, second);
    }

    pub fn ranges_give_what_there_is(backend: &Backend) {
        let store = &*backend.store;
        put(store, "a", b"0123456789");
        let range = |range| store.get(&key("a"), Some(range), 100).map(|(bytes, _)| bytes);
        assert_eq!(range(0..10).unwrap(), b"0123456789");
        assert_eq!(range(0..1).unwrap(), b"0");
        assert_eq!(range(3..5).unwrap(), b"34");
        assert_eq!(range(8..100).unwrap(), b"89");
        assert_eq!(range(4..4).unwrap(), b"");
        assert!(range(10..11).is_err());
        assert!(range(50..60).is_err());
    }

    pub fn an_answer_above_the_limit_is_an_error(backend: &Backend) {
        let store = &*backend.store;
        put(store, "a", &[1; 1000]);
        assert_eq!(store.get(&key("a"), None, 1000).unwrap().0.len(), 1000);
        let error = store.get(&key("a"), None, 999).unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Other);
        assert_eq!(store.get(&key("a"), Some(10..20), 10).unwrap().0.len(), 10);
        assert!(store.get(&key("a"), Some(10..20), 9).is_err());
    }

    pub fn a_stream_begins_at_its_offset(backend: &Backend) {
        let store = &*backend.store;
        let body: Vec<u8> = (0..300_000u32).map(|n| n as u8).collect();
        put(store, "a", &body);
        for offset in [0, 1, 123_456, 299_999] {
            let mut read = Vec::new();
            store.open(&key("a"), offset as u64).unwrap().read_to_end(&mut read).unwrap();
            assert!(read == body[offset..], "{offset}");
        }
    }

    pub fn what_is_not_there_is_not_found(backend: &Backend) {
        let store = &*backend.store;
        let missing = key("no/such/key");
        assert!(store.get(&missing, None, 9).unwrap_err().is_not_found());
        assert!(store.get(&missing, Some(3..5), 9).unwrap_err().is_not_found());
        assert!(store.open(&missing, 0).err().unwrap().is_not_found());
        assert!(store.head(&missing).unwrap().is_none());
        assert!(store.copy(&missing, &key("b"), TEXT).unwrap_err().is_not_found());
        store.delete(std::slice::from_ref(&missing)).unwrap();
        store.delete(&[]).unwrap();
        assert!(all(store, "").is_empty());
    }

    pub fn listings_are_in_byte_order_over_all_pages(backend: &Backend) {
        let store = &*backend.store;
        let mut names: Vec<String> = (0..2 * PAGE).map(|n| format!("many/{n:03}")).collect();
        names.extend(["a-b", "a/b/c", "a/c", "a0", "B", "z/ü", "z/a"].map(String::from));
        for name in &names {
            put(store, name, name.as_bytes());
        }
        names.sort();
        assert_eq!(all(store, ""), names);
        let page = store.list("many/01", None).unwrap();
        let object = page.objects.first().unwrap();
        assert_eq!((object.key.as_str(), object.len), ("many/010", 8));
        assert!(object.last_modified.is_some());
        assert_eq!(all(store, "many/").len(), 2 * PAGE as usize, "exactly full pages");
    }

    pub fn folders_are_listed_without_what_is_in_them(backend: &Backend) {
        let store = &*backend.store;
        for name in ["a/b/c", "a/b/d", "a/x", "a+ü/y", "top", "z/ü z/1"] {
            put(store, name, b"");
        }
        (0..2 * PAGE).for_each(|n| drop(put(store, &format!("many/{n:03}/x"), b"")));
        let folders = |folder: &str| {
            let (mut names, mut page) = (Vec::new(), None);
            loop {
                let listed = store.list_folders(folder, page.as_deref()).unwrap();
                names.extend(listed.names);
                page = listed.next;
                if page.is_none() {
                    names.sort();
                    names.dedup();
                    return names;
                }
            }
        };
        assert_eq!(folders(""), ["a", "a+ü", "many", "z"]);
        assert_eq!(folders("a/"), ["b"]);
        assert_eq!(folders("z/"), ["ü z"]);
        assert_eq!(folders("many/").len(), 2 * PAGE as usize);
        assert!(folders("nothing/").is_empty());
    }

    pub fn a_prefix_may_end_inside_a_segment(backend: &Backend) {
        let store = &*backend.store;
        for name in ["objects/aa/1", "objects/ab/1", "objects/b", "objectsx", "p q/r"] {
            put(store, name, b"");
        }
        assert_eq!(all(store, "objects/a"), ["objects/aa/1", "objects/ab/1"]);
        assert_eq!(all(store, "objects/aa/1"), ["objects/aa/1"]);
        assert_eq!(all(store, "p "), ["p q/r"]);
        assert!(all(store, "nothing").is_empty());
    }

    pub fn many_keys_are_deleted_at_once(backend: &Backend) {
        let store = &*backend.store;
        let names = ["keep", "d/1 &<>\"'", "d/2+ü", "d/999"];
        names.iter().for_each(|name| drop(put(store, name, b"")));
        let mut keys: Vec<Key> = names[1..].iter().map(|name| key(name)).collect();
        // Most of them not there: more than one request's worth.
        keys.extend((0..1100).map(|n| key(&format!("d/none-{n}"))));
        keys.push(key("d/last"));
        put(store, "d/last", b"");
        store.delete(&keys).unwrap();
        assert_eq!(all(store, ""), ["keep"]);
        store.delete(&[key("keep")]).unwrap();
        assert!(all(store, "").is_empty());
    }

    pub fn a_copy_is_made_by_the_store(backend: &Backend) {
        let store = &*backend.store;
        put(store, "from here/+%ü", b"bytes");
        store.copy(&key("from here/+%ü"), &key("to/a"), PACK).unwrap();
        store.copy(&key("from here/+%ü"), &key("to/a"), PACK).unwrap();
        assert_eq!(get(store, "to/a"), b"bytes");
        assert_eq!(get(store, "from here/+%ü"), b"bytes");
    }

    pub fn parts_in_any_order_become_one_object(backend: &Backend) {
        let store = &*backend.store;
        let upload = store.create_upload(&key("big/+ ü"), PACK).unwrap();
        let last = store.put_part(&upload, 2, b"the end").unwrap();
        let first = store.put_part(&upload, 1, &vec![1; PART]).unwrap();
        assert!(store.head(&upload.key).unwrap().is_none());
        store.complete_upload(&upload, &[first, last]).unwrap();
        let mut expected = vec![1; PART];
        expected.extend_from_slice(b"the end");
        assert!(get(store, "big/+ ü") == expected);
        assert!(store.list_uploads("").unwrap().is_empty());
    }

    pub fn a_part_stored_again_replaces_the_first(backend: &Backend) {
        if !backend.does("replaced-parts") {
            return;
        }
        let store = &*backend.store;
        let upload = store.create_upload(&key("a"), PACK).unwrap();
        store.put_part(&upload, 1, b"first try").unwrap();
        let part = store.put_part(&upload, 1, b"second").unwrap();
        store.complete_upload(&upload, &[part]).unwrap();
        assert_eq!(get(store, "a"), b"second");
    }

    pub fn parts_can_be_copied_from_ranges(backend: &Backend) {
        let store = &*backend.store;
        let source: Vec<u8> = (0..PART as u32 + 1000).map(|n| (n % 251) as u8).collect();
        let from = key(if backend.does("odd-part-source") { "source +%ü" } else { "source" });
        store.put(&from, &source, PACK, None).unwrap();
        let upload = store.create_upload(&key("joined"), PACK).unwrap();
        let middle = 1..PART as u64 + 1;
        let first = store.copy_part(&upload, 1, &from, middle.clone());
        if !backend.does("copy-part") {
            assert!(first.is_err());
            return store.abort_upload(&upload).unwrap();
        }
        let second = store.copy_part(&upload, 2, &from, 0..10).unwrap();
        store.complete_upload(&upload, &[first.unwrap(), second]).unwrap();
        let mut expected = source[1..=PART].to_vec();
        expected.extend_from_slice(&source[..10]);
        assert!(get(store, "joined") == expected);
    }

    pub fn an_upload_that_fails_leaves_no_object(backend: &Backend) {
        let store = &*backend.store;
        let upload = store.create_upload(&key("a"), PACK).unwrap();
        let part = store.put_part(&upload, 1, b"1").unwrap();
        assert!(store.complete_upload(&upload, &[]).is_err());
        let unknown = Upload { id: format!("{}x", upload.id), ..upload.clone() };
        assert!(store.complete_upload(&unknown, &[part]).is_err());
        assert!(store.put_part(&unknown, 1, b"1").is_err());
        assert!(store.head(&key("a")).unwrap().is_none());
        store.abort_upload(&upload).unwrap();
    }

    pub fn a_small_part_that_is_not_the_last_is_refused(backend: &Backend) {
        if !backend.does("small-parts") {
            return;
        }
        let store = &*backend.store;
        let upload = store.create_upload(&key("a"), PACK).unwrap();
        let parts = [1, 2].map(|number| store.put_part(&upload, number, b"small").unwrap());
        let error = store.complete_upload(&upload, &parts).unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Other, "{error}");
        let _ = store.abort_upload(&upload);
    }

    pub fn an_aborted_upload_is_gone(backend: &Backend) {
        let store = &*backend.store;
        let upload = store.create_upload(&key("a"), PACK).unwrap();
        let part = store.put_part(&upload, 1, b"1").unwrap();
        store.abort_upload(&upload).unwrap();
        assert!(store.complete_upload(&upload, &[part]).is_err());
        assert!(store.head(&key("a")).unwrap().is_none());
        assert!(store.list_uploads("").unwrap().is_empty());
        if backend.does("unknown-upload") {
            store.abort_upload(&upload).unwrap();
        }
    }

    pub fn open_uploads_are_listed(backend: &Backend) {
        let store = &*backend.store;
        let mut names: Vec<String> = (0..PAGE + 2).map(|n| format!("tmp/{n} +%ü")).collect();
        names.push("other".to_owned());
        let mut begun: Vec<Upload> =
            names.iter().map(|name| store.create_upload(&key(name), TEXT).unwrap()).collect();
        let order = |upload: &Upload| (upload.key.clone(), upload.id.clone());
        begun.sort_by_key(order);
        let open = store.list_uploads("").unwrap();
        assert!(open.iter().all(|open| open.initiated.is_some()));
        let mut open: Vec<Upload> = open.into_iter().map(|open| open.upload).collect();
        open.sort_by_key(order);
        assert_eq!(open, begun);
        assert_eq!(store.list_uploads("tmp/").unwrap().len(), PAGE as usize + 2);
        open.iter().for_each(|upload| store.abort_upload(upload).unwrap());
        assert!(store.list_uploads("").unwrap().is_empty());
    }

    pub fn a_put_if_absent_never_replaces(backend: &Backend) {
        let store = &*backend.store;
        let absent =
            |body: &[u8]| store.put(&key("a"), body, TEXT, Some(&Condition::Absent)).map(drop);
        if !backend.does("conditions") {
            return;
        }
        absent(b"1").unwrap();
        assert_eq!(absent(b"2").unwrap_err().kind, StoreErrorKind::ConditionFailed);
        assert_eq!(get(store, "a"), b"1");
    }

    pub fn a_put_if_it_matches_replaces_only_that(backend: &Backend) {
        if !backend.does("conditions") || !backend.does("if-match") {
            return;
        }
        let store = &*backend.store;
        let first = put(store, "a", b"1").unwrap();
        let matches = Condition::Matches(first);
        let second = store.put(&key("a"), b"2", TEXT, Some(&matches)).unwrap();
        let error = store.put(&key("a"), b"3", TEXT, Some(&matches)).unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::ConditionFailed, "{error}");
        assert_eq!(get(store, "a"), b"2");
        let matches = Condition::Matches(second.unwrap());
        store.put(&key("a"), b"3", TEXT, Some(&matches)).unwrap();
        assert_eq!(get(store, "a"), b"3");
    }

    pub fn odd_keys_are_kept_as_they_are(backend: &Backend) {
        let store = &*backend.store;
        let mut names = vec![
            "a b",
            "a+b",
            "a=b&c",
            "a~b",
            "a%20b",
            "a%b",
            "ünï/日本",
            "a'b\"c",
            "<x>&amp;",
            "a:b@c,d;e",
            "(x)[y]{z}*!$",
            "#?",
            "a/-/_",
        ];
        for name in &names {
            put(store, name, name.as_bytes());
        }
        names.sort_unstable();
        assert_eq!(all(store, ""), names);
        for name in names {
            assert_eq!(get(store, name), name.as_bytes());
            assert_eq!(store.head(&key(name)).unwrap().unwrap().len, name.len() as u64);
            assert_eq!(store.get(&key(name), Some(0..1), 9).unwrap().0, &name.as_bytes()[..1]);
            store.delete(&[key(name)]).unwrap();
        }
        assert!(all(store, "").is_empty());
    }

    pub fn thirty_two_threads_at_once_lose_nothing(backend: &Backend) {
        let store = &*backend.store;
        std::thread::scope(|scope| {
            for thread in 0..32 {
                scope.spawn(move || {
                    for number in 0..4 {
                        let name = format!("t/{:02}/{thread}-{number}", (thread + number) % 5);
                        put(store, &name, name.as_bytes());
                        assert_eq!(get(store, &name), name.as_bytes());
                        put(store, "same", name.as_bytes());
                        store.delete(&[key("gone/x")]).unwrap();
                    }
                });
            }
        });
        assert_eq!(all(store, "t/").len(), 128);
        assert!(get(store, "same").starts_with(b"t/"));
    }
}

#[test]
fn headers_are_stored_and_seen_by_anonymous_readers() {
    let (server, _dir) = serve();
    let store = store_on(&server, "pre fix");
    put(&store, "HEAD", b"ref");
    let upload = store.create_upload(&key("pack"), PACK).unwrap();
    let part = store.put_part(&upload, 1, b"PACK").unwrap();
    store.complete_upload(&upload, &[part]).unwrap();
    store.copy(&key("HEAD"), &key("copy"), PACK).unwrap();
    for (name, expected) in [("HEAD", TEXT), ("pack", PACK), ("copy", PACK)] {
        let url = format!("{}/bucket/pre%20fix/{name}", server.endpoint());
        let answer = ureq::get(&url).call().unwrap();
        let header = |name: &str| answer.headers().get(name).unwrap().to_str().unwrap().to_owned();
        assert_eq!(header("content-type"), expected.content_type, "{name}");
        assert_eq!(header("cache-control"), expected.cache_control.unwrap(), "{name}");
    }
    let missing = ureq::get(format!("{}/bucket/none", server.endpoint())).call();
    assert!(matches!(missing, Err(ureq::Error::StatusCode(404))), "{missing:?}");
}

#[test]
fn a_wrong_secret_is_denied_at_once_and_never_shown() {
    let (server, _dir) = serve();
    let config = config(server.endpoint(), "bucket", "");
    let wrong = credentials(&server.access_key, "hunter2hunter2");
    let store = S3Store::new(config, client(), wrong).unwrap();
    let retry = Retry::new(store, Policy::default());
    let error = retry.put(&key("a"), b"1", TEXT, None).unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Denied, "{error}");
    assert_eq!((server.requests(), retry.requests()), (1, 1));
    let shown = format!("{error} {error:?} {retry:?} {:?}", retry.inner());
    assert!(!shown.contains("hunter2"), "{shown}");
    assert!(error.message.contains("check the secret key"), "{error}");
}

#[test]
fn a_missing_bucket_says_what_to_do() {
    let (server, _dir) = serve();
    let config = config(server.endpoint(), "nobucket", "");
    let provider = credentials(&server.access_key, &server.secret_key);
    let store = S3Store::new(config, client(), provider).unwrap();
    let error = store.list("", None).unwrap_err();
    assert!(error.is_not_found());
    let text = error.to_string();
    assert!(text.starts_with("cannot list s3://nobucket/: NoSuchBucket"), "{text}");
    assert!(text.contains("create it, or check --endpoint-url"), "{text}");
}

#[test]
fn connections_are_kept_and_never_more_than_threads() {
    let (server, _dir) = serve();
    let store = Arc::new(store_on(&server, "p"));
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let store = store.clone();
            scope.spawn(move || {
                for number in 0..25 {
                    let name = format!("{thread}/{number}");
                    put(&*store, &name, &[1; 2000]);
                    assert_eq!(get(&*store, &name).len(), 2000);
                    store.get(&key(&name), Some(0..10), 10).unwrap();
                    assert!(store.head(&key("none")).unwrap().is_none());
                    assert!(store.get(&key("none"), None, 9).is_err());
                    store.copy(&key(&name), &key("copy"), TEXT).unwrap();
                }
            });
        }
    });
    assert_eq!(server.requests(), 8 * 25 * 6);
    assert!(server.connections() <= 8, "{} connections", server.connections());
}

#[test]
fn git_clones_a_repository_from_the_server() {
    let (server, _dir) = serve();
    let store = store_on(&server, "repos/a b.git");
    let work = tempfile::tempdir().unwrap();
    let git = |args: &[&str]| {
        let done = std::process::Command::new("git")
            .args(["-c", "user.name=A", "-c", "user.email=a@example.org"])
            .args(args)
            .current_dir(work.path())
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("HOME", work.path())
            .output()
            .unwrap();
        assert!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
    };
    git(&["init", "-q", "-b", "main", "from"]);
    std::fs::write(work.path().join("from/file"), "content").unwrap();
    git(&["-C", "from", "add", "file"]);
    git(&["-C", "from", "commit", "-q", "-m", "one"]);
    git(&["-C", "from", "repack", "-a", "-d", "-q"]);
    git(&["-C", "from", "update-server-info"]);
    // A directory store reads what git wrote, the S3 store gets it under the same keys.
    let repository = DirStore::new(work.path().join("from/.git")).unwrap();
    for object in repository.list("", None).unwrap().objects {
        let body = repository.get(&object.key, None, u64::MAX).unwrap().0;
        store.put(&object.key, &body, PACK, None).unwrap();
    }
    put(&store, "info/refs", &repository.get(&key("info/refs"), None, 9999).unwrap().0);
    git(&["clone", "-q", &format!("{}/bucket/repos/a%20b.git", server.endpoint()), "to"]);
    assert_eq!(std::fs::read(work.path().join("to/file")).unwrap(), b"content");
}
