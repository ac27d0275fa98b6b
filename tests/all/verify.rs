//! `verify` finds each kind of damage, and nothing in a mirror that is sound.

use crate::support::local_git;
use crate::support::state::change_state;
use std::collections::BTreeMap;

use local_git::{LocalGit, Repo, git, run};
use mirror_git_to_s3::maintain::verify::{Sample, VerifyOptions, VerifyReport, verify};
use mirror_git_to_s3::mirror::{Layout, MirrorError, Options, mirror};
use mirror_git_to_s3::pack::index::{parse_index, write_index};
use mirror_git_to_s3::progress::Silent;
use mirror_git_to_s3::store::memory::{Fault, MemoryStore, Operation};
use mirror_git_to_s3::store::{Key, ObjectHeaders, Store, StoreErrorKind};

/// SHA-256 of `abc`.
const LFS_OID: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

fn lfs_key() -> String {
    format!("lfs/objects/ba/78/{LFS_OID}")
}

fn put(store: &MemoryStore, key: &str, body: &[u8]) {
    let headers = ObjectHeaders::immutable("application/octet-stream");
    store.put(&Key::new(key).unwrap(), body, headers, None).unwrap();
}

fn delete(store: &MemoryStore, key: &str) {
    assert!(store.bytes(key).is_some(), "{key}");
    store.delete(&[Key::new(key).unwrap()]).unwrap();
}

/// A growing file, so that packs have deltas; tags; an LFS pointer.
fn sample() -> Repo {
    let repo = Repo::new();
    let pointer =
        format!("version https://git-lfs.github.com/spec/v1\noid sha256:{LFS_OID}\nsize 3\n");
    let mut text = String::new();
    for round in 0..20 {
        text += &format!("line {round} of a file that grows, so that deltas are worth it\n");
        let files: [(&str, &[u8]); 3] = [
            (".gitattributes", b"*.bin filter=lfs\n"),
            ("a.bin", pointer.as_bytes()),
            ("grows", text.as_bytes()),
        ];
        repo.commit("refs/heads/main", &files);
    }
    repo.git(&["tag", "-a", "-m", "annotated", "v1", "main~2"]);
    repo
}

fn loose(repo: &Repo) -> MemoryStore {
    let store = MemoryStore::new();
    mirror(
        &LocalGit::new(repo.path()),
        &store,
        &Options { layout: Layout::Loose, ..Options::default() },
        &Silent,
    )
    .unwrap();
    put(&store, &lfs_key(), b"abc");
    store
}

/// The same mirror with everything in one pack. Answers the pack's key without its ending.
fn packed(repo: &Repo) -> (MemoryStore, String) {
    let store = loose(repo);
    for oid in repo.objects() {
        delete(&store, &loose_key(&oid));
    }
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().join("pack");
    let args = ["pack-objects", "-q", "--all", base.to_str().unwrap()];
    let name = String::from_utf8(run(git(repo.path()).args(args), b"")).unwrap();
    let name = format!("pack-{}", name.trim());
    for extension in ["pack", "idx"] {
        let file = std::fs::read(dir.path().join(format!("{name}.{extension}"))).unwrap();
        put(&store, &format!("objects/pack/{name}.{extension}"), &file);
    }
    put(&store, "objects/info/packs", format!("P {name}.pack\n\n").as_bytes());
    (store, format!("objects/pack/{name}"))
}

fn loose_key(oid: &str) -> String {
    format!("objects/{}/{}", &oid[..2], &oid[2..])
}

fn check(store: &MemoryStore, quick: bool) -> VerifyReport {
    let options = VerifyOptions { quick, concurrency: 4, ..VerifyOptions::default() };
    verify(store, &options).unwrap()
}

/// All findings of both kinds of verification as text; each must name `key`.
fn findings(store: &MemoryStore, quick: bool, key: &str) -> String {
    let report = check(store, quick);
    assert!(!report.is_sound(), "quick {quick}: {key} is not found");
    let text: String = report.findings.iter().map(|finding| format!("{finding}\n")).collect();
    assert!(text.contains(key), "quick {quick}: {text}");
    text
}

#[test]
fn sound_mirrors_have_no_findings_loose_or_packed() {
    let repo = sample();
    for store in [loose(&repo), packed(&repo).0] {
        store.clear_recorded();
        for quick in [false, true] {
            let report = check(&store, quick);
            assert_eq!(report.findings, [], "quick {quick}");
            assert_eq!(report.objects as usize, repo.objects().len());
            assert_eq!((report.refs, report.lfs_objects), (2, 1));
        }
        assert!(store.recorded().iter().all(|request| request.operation != Operation::Delete));
    }
}

#[test]
fn missing_loose_objects_of_each_kind_are_named_with_a_ref() {
    let repo = sample();
    for name in ["main~3", "main^{tree}", "main:grows", "v1"] {
        let store = loose(&repo);
        let key = loose_key(&repo.rev(name).unwrap());
        delete(&store, &key);
        for quick in [false, true] {
            let text = findings(&store, quick, &key);
            assert!(text.contains("missing (reached by refs/"), "{text}");
        }
    }
}

#[test]
fn flipped_byte_of_a_loose_object_is_found() {
    let repo = sample();
    let store = loose(&repo);
    let key = loose_key(&repo.rev("main:grows").unwrap());
    let mut bytes = store.bytes(&key).unwrap().to_vec();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    put(&store, &key, &bytes);
    findings(&store, false, &key);
    assert!(check(&store, true).is_sound(), "quick does not read blobs");
}

#[test]
fn another_object_under_a_name_is_found() {
    let repo = sample();
    let store = loose(&repo);
    let key = loose_key(&repo.rev("main:grows").unwrap());
    let other = store.bytes(&loose_key(&repo.rev("main~1:grows").unwrap())).unwrap();
    put(&store, &key, &other);
    assert!(findings(&store, false, &key).contains("its content hashes to"));
}

#[test]
fn ref_to_nothing_and_refs_that_do_not_parse_are_found() {
    let repo = sample();
    let store = loose(&repo);
    let mut refs = store.bytes("info/refs").unwrap().to_vec();
    refs.extend(format!("{}\trefs/heads/nothing\n", "ab".repeat(20)).bytes());
    put(&store, "info/refs", &refs);
    for quick in [false, true] {
        let text = findings(&store, quick, &loose_key(&"ab".repeat(20)));
        assert!(text.contains("reached by refs/heads/nothing"), "{text}");
    }
    put(&store, "info/refs", b"<html>\n");
    findings(&store, false, "info/refs: line 1");
    delete(&store, "info/refs");
    findings(&store, false, "info/refs: missing");
}

#[test]
fn head_that_is_missing_or_names_nothing_is_found() {
    let repo = sample();
    let store = loose(&repo);
    put(&store, "HEAD", b"ref: refs/heads/gone\n");
    findings(&store, true, "HEAD: names refs/heads/gone");
    put(&store, "HEAD", b"what?\n");
    findings(&store, true, "HEAD: not a HEAD");
    delete(&store, "HEAD");
    findings(&store, true, "HEAD: missing");
}

#[test]
fn lacking_short_and_damaged_lfs_objects_are_found() {
    let repo = sample();
    for store in [loose(&repo), packed(&repo).0] {
        put(&store, &lfs_key(), b"abd");
        assert!(findings(&store, false, &lfs_key()).contains("SHA-256"));
        assert!(check(&store, true).is_sound(), "quick compares sizes");
        put(&store, &lfs_key(), b"ab");
        delete_and_find(&store);
    }
}

fn delete_and_find(store: &MemoryStore) {
    for quick in [false, true] {
        assert!(findings(store, quick, &lfs_key()).contains("2 bytes, its pointer says 3"));
    }
    delete(store, &lfs_key());
    for quick in [false, true] {
        let text = findings(store, quick, &lfs_key());
        assert!(text.contains("LFS object missing (reached by refs/"), "{text}");
    }
}

#[test]
fn truncated_and_damaged_packs_are_found() {
    let repo = sample();
    let (store, pack) = packed(&repo);
    let key = format!("{pack}.pack");
    let sound = store.bytes(&key).unwrap().to_vec();
    put(&store, &key, &sound[..sound.len() - 30]);
    for quick in [false, true] {
        findings(&store, quick, &pack);
    }
    for at in (0..sound.len()).step_by(sound.len() / 20) {
        let mut damaged = sound.clone();
        damaged[at] ^= 0x10;
        put(&store, &key, &damaged);
        findings(&store, false, &pack);
    }
    delete(&store, &key);
    for quick in [false, true] {
        assert!(findings(&store, quick, &key).contains("listed in objects/info/packs"));
    }
}

#[test]
fn wrong_indices_are_found() {
    let repo = sample();
    let (store, pack) = packed(&repo);
    let key = format!("{pack}.idx");
    let sound = store.bytes(&key).unwrap().to_vec();
    let mut flipped = sound.clone();
    flipped[1100] ^= 1;
    put(&store, &key, &flipped);
    findings(&store, true, &key);
    // Wrong in what it says, though it is whole in itself.
    let reader = parse_index(&sound[..], local_git::format()).unwrap();
    type Change = fn(&mut Vec<mirror_git_to_s3::pack::index::IndexEntry>);
    let changes: [(Change, &str); 4] = [
        (|entries| entries[3].crc32 ^= 1, ".idx: CRC-32 of"),
        (|entries| entries[3].offset += 1, ".idx: the pack has an entry at"),
        (
            |entries| {
                entries.pop();
            },
            "the index",
        ),
        (
            |entries| {
                let first = entries[0].offset;
                entries[0].offset = std::mem::replace(&mut entries[1].offset, first);
            },
            "its content hashes to",
        ),
    ];
    for (change, wanted) in changes {
        let mut entries: Vec<_> = reader.entries().collect();
        change(&mut entries);
        let mut index = Vec::new();
        write_index(&mut entries, &reader.pack_trailer(), &mut index).unwrap();
        put(&store, &key, &index);
        let text = findings(&store, false, &pack);
        assert!(text.contains(wanted), "{wanted}: {text}");
    }
    delete(&store, &key);
    findings(&store, true, &key);
}

/// The findings as text, one a line.
fn words(store: &MemoryStore, quick: bool) -> Vec<String> {
    check(store, quick).findings.iter().map(|finding| finding.to_string()).collect()
}

#[test]
fn lost_file_of_many_objects_is_one_finding_with_their_number() {
    let repo = sample();
    let count = repo.objects().len();
    for (extension, what) in [
        ("idx", "its pack is listed, but the index is missing"),
        ("pack", "listed in objects/info/packs, but missing"),
    ] {
        let (store, pack) = packed(&repo);
        let key = format!("{pack}.{extension}");
        delete(&store, &key);
        let wanted = format!("{key}: {what}, so {count} objects are unreadable");
        for quick in [false, true] {
            assert_eq!(words(&store, quick), [wanted.as_str()], "quick {quick}");
        }
    }
}

#[test]
fn pack_that_is_cut_short_is_one_finding_with_the_number_of_what_is_lost() {
    let repo = sample();
    let (store, pack) = packed(&repo);
    let key = format!("{pack}.pack");
    let sound = store.bytes(&key).unwrap().to_vec();
    put(&store, &key, &sound[..sound.len() / 2]);
    let words = words(&store, false);
    assert_eq!(words.len(), 1, "{words:?}");
    let objects: usize = {
        let (_, rest) = words[0].split_once(", so ").expect("a number");
        rest.split(' ').next().unwrap().parse().unwrap()
    };
    assert!(objects > 3 && objects < repo.objects().len(), "{words:?}");
    // And with its index gone nothing of it is known, but for what refs name.
    delete(&store, &format!("{pack}.idx"));
    let found = check(&store, false);
    assert!(found.findings.len() == 2, "{:?}", found.findings);
}

#[test]
fn damage_is_told_apart_from_a_target_that_holds_no_mirror() {
    let said = |store: &MemoryStore| match verify(store, &VerifyOptions::default()) {
        Err(MirrorError::Mirror(words)) => words,
        other => panic!("{other:?}"),
    };
    let store = MemoryStore::new();
    assert!(said(&store).contains("there is no mirror"));
    put(&store, "holiday.jpg", b"...");
    assert!(said(&store).contains("contains files, but no mirror"));
    put(&store, "HEAD", b"ref: refs/heads/main\n");
    findings(&store, false, "info/refs: missing");
    for kind in [StoreErrorKind::NotFound, StoreErrorKind::Denied] {
        let store = MemoryStore::new();
        store.inject(Fault::new(kind).on(Operation::List).always());
        let error = verify(&store, &VerifyOptions::default()).unwrap_err();
        assert!(matches!(&error, MirrorError::Store(e) if e.kind == kind), "{error}");
    }
}

#[test]
fn without_a_right_to_list_a_target_without_any_file_of_a_mirror_holds_none() {
    let unlisted = || {
        let store = MemoryStore::new();
        let unsupported = Fault::new(StoreErrorKind::Unsupported).on(Operation::List).always();
        store.inject(unsupported);
        store
    };
    let store = unlisted();
    let words = verify(&store, &VerifyOptions::default()).map(|report| report.findings);
    let words = words.map_err(|error| error.to_string()).unwrap_err();
    assert!(words.contains("there is no mirror"), "{words}");
    for key in ["HEAD", "objects/info/packs", "mirror_state/state.json"] {
        let store = unlisted();
        put(&store, key, b"something");
        findings(&store, false, "info/refs: missing");
    }
}

#[test]
fn store_that_fails_in_the_middle_of_a_pack_is_an_error_and_no_finding() {
    let repo = sample();
    for nth in 1..9 {
        let (store, _) = packed(&repo);
        let is_pack = |key: &str| key.ends_with(".pack") || key.ends_with(".idx");
        store.inject(Fault::new(StoreErrorKind::Denied).key(is_pack).nth(nth));
        match verify(&store, &VerifyOptions::default()) {
            Ok(report) => assert!(report.is_sound() && nth > 3, "{nth}: {:?}", report.findings),
            Err(error) => {
                let is_it =
                    matches!(&error, MirrorError::Store(e) if e.kind == StoreErrorKind::Denied);
                assert!(is_it, "{nth}: {error}");
            }
        }
    }
}

#[test]
fn unreachable_damage_in_loose_objects_is_nobodys() {
    let repo = sample();
    let store = loose(&repo);
    put(&store, &loose_key(&"cd".repeat(20)), b"garbage");
    put(&store, "mirror_state/others", b"not even JSON");
    assert!(check(&store, false).is_sound());
}

/// No run begins and gc deletes nothing with such a state.
#[test]
fn state_that_is_damaged_or_describes_other_refs_is_found() {
    let repo = sample();
    let store = loose(&repo);
    put(&store, "mirror_state/state.json", b"not even JSON");
    findings(&store, true, "mirror_state/state.json");
    let other = Repo::new();
    other.commit("refs/heads/main", &[("a", b"of another repository\n")]);
    let state = loose(&other).bytes("mirror_state/state.json").unwrap();
    put(&store, "mirror_state/state.json", &state);
    let report = check(&store, true);
    assert!(report.damaged.contains("mirror_state/state.json"), "{report:?}");
    assert!(findings(&store, true, "info/refs").contains("describes other refs"));
    delete(&store, "mirror_state/state.json");
    assert!(check(&store, false).is_sound(), "older programs wrote none");
}

/// What a run leaves that is killed between its last two writes.
#[test]
fn state_that_a_killed_run_did_not_get_to_is_a_notice_if_all_refs_resolve() {
    let repo = sample();
    let store = loose(&repo);
    let old = store.bytes("mirror_state/state.json").unwrap();
    repo.commit("refs/heads/main", &[("a", b"one more\n")]);
    let options = Options { layout: Layout::Loose, ..Options::default() };
    mirror(&LocalGit::new(repo.path()), &store, &options, &Silent).unwrap();
    let now = store.bytes("mirror_state/state.json").unwrap();
    put(&store, "mirror_state/state.json", &old);
    let run = serde_json::json!({ "run": "20260101T000000Z-1", "begun": "2026-01-01T00:00:00Z" });
    change_state(&store, |state| {
        state.insert("writing".into(), vec![run].into());
    });
    let report = check(&store, false);
    assert!(report.is_sound(), "{report:?}");
    let words = "a run has been writing since 2026-01-01T00:00:00Z, or was killed";
    assert!(report.notices.concat().contains(words), "{report:?}");
    // Nor does a run that was killed explain that most refs are gone.
    let refs = store.bytes("info/refs").unwrap();
    put(&store, "info/refs", b"");
    findings(&store, false, "describes other refs: one of the two is damaged");
    put(&store, "info/refs", &refs);
    // It is none if the refs lead nowhere: that is damage, and said so.
    let tip = loose_key(&repo.git(&["rev-parse", "main"]));
    let tip_bytes = store.bytes(&tip).unwrap();
    delete(&store, &tip);
    findings(&store, false, &tip);
    assert!(check(&store, false).notices.is_empty());
    put(&store, &tip, &tip_bytes);
    // Nor is it one where no run has begun.
    put(&store, "mirror_state/state.json", &old);
    findings(&store, false, "describes other refs: one of the two is damaged");
    put(&store, "mirror_state/state.json", &now);
    let report = check(&store, false);
    assert!(report.is_sound() && report.notices.is_empty(), "{report:?}");
}

/// A source may have such a `HEAD`, and no repair of its mirror would help.
#[test]
fn unborn_head_of_the_source_is_a_notice_and_a_damaged_one_a_finding() {
    let repo = sample();
    repo.git(&["symbolic-ref", "HEAD", "refs/heads/none"]);
    let store = loose(&repo);
    let report = check(&store, false);
    assert!(report.is_sound(), "{report:?}");
    let words = "HEAD, as it is in the source, names refs/heads/none, which is not published";
    assert!(report.notices.concat().contains(words), "{report:?}");
    put(&store, "HEAD", b"ref: refs/heads/another\n");
    findings(&store, false, "HEAD: names refs/heads/another, which is not published");
    assert!(check(&store, false).notices.is_empty());
}

/// It is not read, whatever its length: the pack's length and its first bytes say that it is wrong.
#[test]
fn index_that_is_far_too_long_is_one_finding_and_is_not_read() {
    let repo = sample();
    for long in [3 << 20, 300 << 20] {
        let (store, pack) = packed(&repo);
        let index = store.bytes(&format!("{pack}.idx")).unwrap();
        let mut longer = index.to_vec();
        longer.resize(long, 0);
        put(&store, &format!("{pack}.idx"), &longer);
        for quick in [false, true] {
            store.clear_recorded();
            let text = findings(&store, quick, &format!("{pack}.idx: it has {long} bytes"));
            assert_eq!(text.lines().filter(|line| line.contains(".idx")).count(), 1, "{text}");
            let reads = store.recorded();
            let reads = reads.iter().filter(|r| r.key().ends_with(".idx"));
            assert!(reads.clone().count() > 0);
            assert!(
                reads.clone().all(|r| r.operation == Operation::Head),
                "{:?}",
                store.recorded()
            );
        }
    }
}

#[test]
fn list_of_packs_that_is_lost_or_names_what_is_not_there_is_the_one_finding() {
    let repo = sample();
    let (store, _) = packed(&repo);
    let another = format!("P pack-{}.pack\n\n", "d".repeat(40));
    for list in [None, Some(another.as_bytes()), Some(b"<html>\n"), Some(b"")] {
        match list {
            None => delete(&store, "objects/info/packs"),
            Some(list) => put(&store, "objects/info/packs", list),
        }
        for quick in [false, true] {
            let words = words(&store, quick);
            let is_it = words.len() == 1 && words[0].starts_with("objects/info/packs: ");
            assert!(is_it, "{list:?}: {words:?}");
        }
    }
}

#[test]
fn small_memory_verifies_a_pack_by_reading_bases_again() {
    let repo = sample();
    let (store, _) = packed(&repo);
    let options =
        VerifyOptions { memory_bytes: 8 << 10, concurrency: 1, ..VerifyOptions::default() };
    let report = verify(&store, &options).unwrap();
    assert_eq!(report.findings, []);
}

#[test]
fn store_that_fails_is_an_error_and_no_finding() {
    let repo = sample();
    for (operation, kind) in [
        (Operation::Get, StoreErrorKind::Denied),
        (Operation::Open, StoreErrorKind::Denied),
        (Operation::Open, StoreErrorKind::Other),
    ] {
        let store = loose(&repo);
        // Not the third GET: that is the state's, without which everything else can be verified.
        store.inject(Fault::new(kind).on(operation).nth(4));
        let error = verify(&store, &VerifyOptions::default()).unwrap_err();
        assert!(matches!(&error, MirrorError::Store(e) if e.kind == kind), "{error}");
    }
}

#[test]
fn interrupted_verification_says_so() {
    let repo = sample();
    let store = loose(&repo);
    let options = VerifyOptions::default();
    options.cancel.cancel();
    assert!(matches!(verify(&store, &options), Err(MirrorError::Interrupted)));
}

/// Runs of a sample of `parts` of `of`, a whole round; the findings of all.
fn round(store: &MemoryStore, parts: u32, of: u32) -> Vec<String> {
    let sample = Some(Sample { parts, of });
    let options = VerifyOptions { sample, concurrency: 4, ..VerifyOptions::default() };
    let runs = (0..of / parts).map(|_| verify(store, &options).unwrap());
    runs.flat_map(|run| run.findings).map(|finding| finding.to_string()).collect()
}

#[test]
fn samples_of_a_round_read_all_and_each_damage_is_found_once() {
    let repo = sample();
    for (parts, of) in [(1, 1), (1, 5), (2, 6)] {
        let store = loose(&repo);
        assert_eq!(round(&store, parts, of), [""; 0]);
        for oid in repo.objects() {
            let key = loose_key(&oid);
            let sound = store.bytes(&key).unwrap();
            let mut damaged = sound.to_vec();
            let middle = damaged.len() / 2;
            damaged[middle] ^= 1;
            put(&store, &key, &damaged);
            let found = round(&store, parts, of);
            assert!(found.len() == 1 && found[0].starts_with(&key), "{parts}/{of}: {found:?}");
            put(&store, &key, &sound);
        }
        put(&store, &lfs_key(), b"abd");
        let found = round(&store, parts, of);
        assert!(found.len() == 1 && found[0].starts_with(&lfs_key()), "{found:?}");
    }
}

#[test]
fn samples_of_a_round_read_every_byte_of_a_pack_once() {
    let repo = sample();
    let (store, pack) = packed(&repo);
    let key = format!("{pack}.pack");
    let sound = store.bytes(&key).unwrap().to_vec();
    assert_eq!(round(&store, 1, 7), [""; 0]);
    // The first twelve bytes are the header, which no entry has.
    for at in (12..sound.len() - 20).step_by(11) {
        let mut damaged = sound.clone();
        damaged[at] ^= 1;
        put(&store, &key, &damaged);
        let found = round(&store, 1, 7);
        assert!(found.len() == 1 && found[0].starts_with(&key), "{at}: {found:?}");
    }
    put(&store, &key, &sound[..sound.len() / 2]);
    assert_eq!(round(&store, 1, 7).len(), 7, "each run looks at the end");
    put(&store, &key, &sound);
    store.clear_recorded();
    assert_eq!(round(&store, 1, 7), [""; 0]);
}

#[test]
fn missing_objects_are_found_by_the_sample_that_reads_what_names_them() {
    let repo = sample();
    for name in ["main", "main~3", "main^{tree}", "main:grows", "v1"] {
        let store = loose(&repo);
        let key = loose_key(&repo.rev(name).unwrap());
        delete(&store, &key);
        let found = round(&store, 1, 4);
        assert!(found.iter().all(|line| line.starts_with(&key)) && !found.is_empty(), "{found:?}");
    }
}

#[test]
fn sample_keeps_its_turn_and_what_was_found_in_the_mirror_and_needs_no_right_to_write() {
    let repo = sample();
    let store = loose(&repo);
    let options = VerifyOptions {
        sample: Some(Sample { parts: 2, of: 5 }),
        concurrency: 4,
        ..VerifyOptions::default()
    };
    let kept = || -> serde_json::Value {
        let file = store.bytes("mirror_state/verified.json").unwrap();
        serde_json::from_slice(&file).unwrap()
    };
    verify(&store, &options).unwrap();
    let first = kept()["next"].as_u64().unwrap();
    for run in 1..=5 {
        verify(&store, &options).unwrap();
        assert_eq!(kept()["next"].as_u64(), Some((first + 2 * run) % 5));
    }
    let results = kept()["results"].as_array().unwrap().clone();
    assert_eq!(results.len(), 5, "{results:?}");
    assert!(results.iter().all(|result| result["findings"] == 0));
    store.inject(Fault::new(StoreErrorKind::Denied).on(Operation::Put).always());
    assert!(verify(&store, &options).unwrap().is_sound());
}

#[test]
fn verification_writes_nothing() {
    let repo = sample();
    let (store, _) = packed(&repo);
    let before: BTreeMap<_, _> = store.snapshot().into_iter().map(|(k, o)| (k, o.etag)).collect();
    check(&store, false);
    check(&store, true);
    let after: BTreeMap<_, _> = store.snapshot().into_iter().map(|(k, o)| (k, o.etag)).collect();
    assert_eq!(before, after);
}

local_git::also_with_sha256! {
    sound_mirrors_have_no_findings_loose_or_packed,
    missing_loose_objects_of_each_kind_are_named_with_a_ref,
    flipped_byte_of_a_loose_object_is_found,
    another_object_under_a_name_is_found,
    lacking_short_and_damaged_lfs_objects_are_found,
    truncated_and_damaged_packs_are_found,
    wrong_indices_are_found,
    pack_that_is_cut_short_is_one_finding_with_the_number_of_what_is_lost,
    small_memory_verifies_a_pack_by_reading_bases_again,
    samples_of_a_round_read_all_and_each_damage_is_found_once,
    missing_objects_are_found_by_the_sample_that_reads_what_names_them,
}
