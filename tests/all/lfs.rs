//! Git LFS: objects mirrored whole from a test LFS server with all its faults, and read back from
//! the bucket by the real git-lfs through `lfs-agent`.

use crate::support::{git_http, lfs_server, local_git, pack_builder, s3_server};
use std::io::Read;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use git_http::{Canned, GitHttp, StaticHttp};
use lfs_server::{LfsServer, Options as Lfs, oid, pointer};
use local_git::{GivenPack, LocalGit, Repo};
use mirror_git_to_s3::git::object::Oid;
use mirror_git_to_s3::git::refs::Advertisement;
use mirror_git_to_s3::http::Client;
use mirror_git_to_s3::mirror::{Layout, MirrorError, Options, Status, Summary, mirror};
use mirror_git_to_s3::progress::{Counters, Silent};
use mirror_git_to_s3::source::auth::{Auth, Credentials};
use mirror_git_to_s3::source::smart_http::SmartHttp;
use mirror_git_to_s3::source::{LfsSource, Source, SourceError, lfs};
use mirror_git_to_s3::store::dir::DirStore;
use mirror_git_to_s3::store::memory::{Fault, MemoryStore, Operation};
use mirror_git_to_s3::store::{Store, StoreErrorKind};
use pack_builder::{COMMIT, PackBuilder, TREE, delta, noise};
use s3_server::S3Server;
use url::Url;

/// A local repository whose LFS objects are on `server`.
struct WithLfs<'a> {
    git: Box<dyn Source>,
    server: &'a LfsServer,
}

impl<'a> WithLfs<'a> {
    fn new(repo: &Repo, server: &'a LfsServer) -> Self {
        WithLfs { git: Box::new(LocalGit::new(repo.path())), server }
    }
}

const LAYOUTS: [Layout; 2] = [Layout::Loose, Layout::Pack];

fn options_for(layout: Layout) -> Options {
    Options { layout, ..Options::default() }
}

fn client() -> Client {
    Client::with_environment(&Default::default(), &Default::default()).unwrap()
}

impl Source for WithLfs<'_> {
    fn describe(&self) -> String {
        self.git.describe()
    }

    fn advertisement(&self) -> Result<Advertisement, SourceError> {
        self.git.advertisement()
    }

    fn fetch<'a>(
        &'a self,
        wants: &[Oid],
        haves: &[Oid],
        words: Box<dyn FnMut(&str) + Send + 'a>,
    ) -> Result<Box<dyn Read + Send + 'a>, SourceError> {
        self.git.fetch(wants, haves, words)
    }

    fn lfs(&self, _lfsconfig: Option<&[u8]>) -> Option<Box<dyn LfsSource + '_>> {
        let mut url = Url::parse(&self.server.url()).unwrap();
        url.set_username("user").unwrap();
        url.set_password(Some("word")).unwrap();
        let credentials = Credentials::take_from(&mut url, &Auth::none());
        let server = lfs::LfsServer::new(url, client(), credentials);
        Some(Box::new(server.with_first_wait(Duration::from_millis(2))))
    }

    fn requests(&self) -> u64 {
        self.git.requests()
    }
}

/// A repository with one file for each pointer. Its HEAD is unborn: nothing tells early which LFS
/// server to ask, so all pointers are there when the first batch is asked for.
fn repo_of(pointers: &[String]) -> Repo {
    let repo = Repo::new();
    let names: Vec<String> = (0..pointers.len()).map(|number| format!("f{number}")).collect();
    let files: Vec<(&str, &[u8])> =
        names.iter().zip(pointers).map(|(name, text)| (name.as_str(), text.as_bytes())).collect();
    repo.commit("refs/heads/main", &files);
    repo.git(&["symbolic-ref", "HEAD", "refs/heads/unborn"]);
    repo
}

fn run(repo: &Repo, server: &LfsServer, store: &dyn Store) -> Result<Summary, MirrorError> {
    mirror(&WithLfs::new(repo, server), store, &Options::default(), &Silent)
}

fn key_of(content: &[u8]) -> String {
    let oid = oid(content);
    format!("lfs/objects/{}/{}/{oid}", &oid[..2], &oid[2..4])
}

fn stored(store: &MemoryStore, content: &[u8]) -> bool {
    store.bytes(&key_of(content)).is_some_and(|bytes| bytes[..] == *content)
}

fn nothing_temporary(store: &MemoryStore) {
    assert!(store.keys().iter().all(|key| !key.starts_with("mirror_tmp")), "{:?}", store.keys());
    assert_eq!(store.open_uploads(), 0);
}

const MISSING: &str = "mirror_state/lfs-lacking";

#[test]
fn objects_of_the_whole_history_are_mirrored_before_refs_are_published() {
    for layout in LAYOUTS {
        whole_history(layout);
    }
}

fn whole_history(layout: Layout) {
    let server = LfsServer::start(Lfs::default());
    let repo = repo_of(&[server.add(b"old content")]);
    repo.commit("refs/heads/main", &[("f0", server.add(b"new content").as_bytes())]);
    repo.commit("refs/heads/side", &[("g", server.add(b"elsewhere").as_bytes())]);
    let store = MemoryStore::new();
    let counters = Counters::default();
    let summary =
        mirror(&WithLfs::new(&repo, &server), &store, &options_for(layout), &counters).unwrap();
    assert_eq!((summary.status, summary.lfs_written), (Status::Ok, 3));
    for content in [&b"old content"[..], b"new content", b"elsewhere"] {
        assert!(stored(&store, content));
    }
    assert_eq!((counters.counts().lfs_bytes, counters.counts().lfs_bytes_expected), (31, 31));
    let puts: Vec<String> = store
        .recorded()
        .into_iter()
        .filter(|request| request.operation == Operation::Put)
        .map(|request| request.key().to_owned())
        .collect();
    assert_eq!(puts[puts.len() - 2..], ["info/refs", "mirror_state/state.json"]);
    assert_eq!(puts.iter().filter(|key| key.starts_with("lfs/")).count(), 3);
    // Credentials for the batch, none for downloads; the server checks the downloads.
    for seen in server.seen() {
        assert_eq!(seen.headers.contains_key("authorization"), seen.method == "POST", "{seen:?}");
    }
    nothing_temporary(&store);
}

#[test]
fn a_second_run_asks_for_nothing_and_costs_no_request_more() {
    let server = LfsServer::start(Lfs::default());
    let repo = repo_of(&[server.add(b"content")]);
    let store = MemoryStore::new();
    run(&repo, &server, &store).unwrap();
    server.forget_seen();
    store.clear_recorded();
    let summary = run(&repo, &server, &store).unwrap();
    assert_eq!(summary.status, Status::Unchanged);
    assert_eq!(summary.store_requests, 3);
    assert!(server.seen().is_empty());
    // What is stored already is not fetched with `--full` either.
    let options = Options { full: true, ..Options::default() };
    let source = WithLfs::new(&repo, &server);
    assert_eq!(mirror(&source, &store, &options, &Silent).unwrap().lfs_written, 0);
    assert!(server.seen().is_empty());
}

#[test]
fn what_was_left_out_is_found_by_a_full_run() {
    for layout in LAYOUTS {
        let server = LfsServer::start(Lfs::default());
        let repo = repo_of(&[server.add(b"content")]);
        let store = MemoryStore::new();
        let source = WithLfs::new(&repo, &server);
        let without = Options { lfs: false, ..options_for(layout) };
        let summary = mirror(&source, &store, &without, &Silent).unwrap();
        assert_eq!((summary.status, summary.lfs_written), (Status::Ok, 0));
        assert!(server.seen().is_empty() && !store.keys().iter().any(|key| key.contains("lfs")));
        let summary = mirror(&source, &store, &options_for(layout), &Silent).unwrap();
        assert_eq!(summary.status, Status::Unchanged);
        let full = Options { full: true, ..options_for(layout) };
        let summary = mirror(&source, &store, &full, &Silent).unwrap();
        assert_eq!((summary.status, summary.lfs_written), (Status::Ok, 1), "{layout:?}");
        assert!(stored(&store, b"content"));
    }
}

/// A pack with one commit; each blob is a pointer that comes in a way of its own.
#[test]
fn pointers_are_seen_however_they_come_in_a_pack() {
    let mut pack = PackBuilder::new();
    let server = LfsServer::start(Lfs::default());
    let contents = ["whole", "a delta", "before its base", "base is gone", "base is large"];
    let pointers = contents.map(|content| server.add(content.as_bytes()));
    let [whole, along, forward, late, small] = pointers.each_ref().map(String::as_bytes);
    let first = pack.blob(whole);
    pack.ofs_delta(first, &delta(whole, along));
    let base = [forward, b"no longer a pointer"].concat();
    pack.ref_delta(pack_builder::oid("blob", &base), &delta(&base, forward));
    pack.blob(&base);
    // More than the least memory holds of bases.
    pack.level(0);
    let fill: Vec<Vec<u8>> = (0..40).map(|seed| noise(200_000, seed)).collect();
    for content in &fill {
        pack.blob(content);
    }
    pack.ofs_delta(first, &delta(whole, late));
    // Larger than what is ever whole in memory.
    let large = [small, &noise(2 << 20, 99)].concat();
    let large_at = pack.blob(&large);
    pack.ofs_delta(large_at, &delta(&large, small));
    let blobs = [whole, along, forward, late, small, &base, &large];
    let blobs = blobs.into_iter().chain(fill.iter().map(Vec::as_slice));
    let tip = add_commit(&mut pack, blobs);

    for layout in LAYOUTS {
        let git = Box::new(GivenPack { tip, pack: pack.build() });
        let store = MemoryStore::new();
        let options = Options { memory_bytes: 8 << 20, ..options_for(layout) };
        let summary = mirror(&WithLfs { git, server: &server }, &store, &options, &Silent).unwrap();
        assert_eq!((summary.lfs_written, summary.lfs_missing), (5, vec![]), "{layout:?}");
        for content in contents {
            assert!(stored(&store, content.as_bytes()), "{layout:?}: {content}");
        }
        // The second pass reads the pack back.
        let read_back = |r: &mirror_git_to_s3::store::memory::Request| {
            r.operation == Operation::Get && r.key().starts_with("mirror_tmp/")
        };
        let second_pass = store.recorded().iter().any(read_back);
        assert!(second_pass || layout == Layout::Loose);
        nothing_temporary(&store);
    }
}

/// A pack that comes in pieces: each when what it waits for has come.
struct InPieces<'a> {
    tip: Oid,
    pack: Vec<u8>,
    /// Where a piece ends, and what the next one waits for.
    ends: Vec<(usize, &'a (dyn Fn() -> bool + Sync))>,
    server: &'a LfsServer,
}

struct Pieces<'a> {
    source: &'a InPieces<'a>,
    at: usize,
}

impl Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let pack = &self.source.pack;
        let next = self.source.ends.iter().find(|(end, _)| *end >= self.at);
        let mut end = next.map_or(pack.len(), |(end, _)| *end);
        if let Some((piece_end, has_come)) = next
            && *piece_end == self.at
        {
            let begun = std::time::Instant::now();
            while !has_come() {
                if begun.elapsed() > Duration::from_secs(60) {
                    return Err(std::io::Error::other("waited in vain"));
                }
                std::thread::sleep(Duration::from_millis(2));
            }
            end =
                self.source.ends.iter().find(|(end, _)| *end > self.at).map_or(pack.len(), |e| e.0);
        }
        let len = buffer.len().min(end - self.at);
        buffer[..len].copy_from_slice(&pack[self.at..self.at + len]);
        self.at += len;
        Ok(len)
    }
}

impl Source for InPieces<'_> {
    fn describe(&self) -> String {
        "https://git.example/pieces".into()
    }

    fn advertisement(&self) -> Result<Advertisement, SourceError> {
        GivenPack { tip: self.tip, pack: Vec::new() }.advertisement()
    }

    fn fetch<'a>(
        &'a self,
        _wants: &[Oid],
        _haves: &[Oid],
        _words: Box<dyn FnMut(&str) + Send + 'a>,
    ) -> Result<Box<dyn Read + Send + 'a>, SourceError> {
        Ok(Box::new(Pieces { source: self, at: 0 }))
    }

    fn lfs(&self, _lfsconfig: Option<&[u8]>) -> Option<Box<dyn LfsSource + '_>> {
        let url = Url::parse(&self.server.url()).unwrap();
        let credentials = Credentials::take_from(&mut url.clone(), &Auth::none());
        Some(Box::new(lfs::LfsServer::new(url, client(), credentials)))
    }

    fn requests(&self) -> u64 {
        0
    }
}

/// The tip and the pack of a commit, its tree, a pointer and one more blob, and where each of the
/// first three ends.
fn pack_with_pointer(text: &str) -> (Oid, Vec<u8>, [usize; 3]) {
    let blobs = [text.as_bytes(), b"the last blob"];
    let (tree, tip) = tree_and_commit(blobs.into_iter());
    let mut pack = PackBuilder::new();
    pack.object(COMMIT, &tip.1);
    let commit_end = pack.next_offset() as usize;
    pack.object(TREE, &tree.1);
    let tree_end = pack.next_offset() as usize;
    pack.blob(blobs[0]);
    let pointer_end = pack.next_offset() as usize;
    pack.blob(blobs[1]);
    (tip.0, pack.build(), [commit_end, tree_end, pointer_end])
}

#[test]
fn lfs_objects_are_fetched_while_git_objects_still_come() {
    for layout in LAYOUTS {
        let server = LfsServer::start(Lfs::default());
        let (tip, pack, ends) = pack_with_pointer(&server.add(b"content"));
        let counters = Counters::default();
        let commit_done = || counters.counts().objects >= 1;
        let tree_done = || counters.counts().objects >= 2;
        let store = MemoryStore::new();
        let lfs_done = || stored(&store, b"content");
        let source = InPieces {
            tip,
            pack,
            ends: vec![(ends[0], &commit_done), (ends[1], &tree_done), (ends[2], &lfs_done)],
            server: &server,
        };
        let summary = mirror(&source, &store, &options_for(layout), &counters).unwrap();
        assert_eq!((summary.status, summary.lfs_written), (Status::Ok, 1), "{layout:?}");
        nothing_temporary(&store);
    }
}

#[test]
fn a_failure_of_git_or_of_lfs_objects_beside_each_other_is_the_run_s() {
    let server = LfsServer::start(Lfs::default());
    let (tip, pack, ends) = pack_with_pointer(&server.add(b"content"));
    let counters = Counters::default();
    let commit_done = || counters.counts().objects >= 1;
    let tree_done = || counters.counts().objects >= 2;
    let store = MemoryStore::new();
    let put_failed = || store.recorded().iter().any(|r| r.key().starts_with("lfs/objects/"));
    let denied = Fault::new(StoreErrorKind::Denied).on(Operation::Put);
    store.inject(denied.key(|key| key.starts_with("lfs/objects/")).nth(1));
    let source = InPieces {
        tip,
        pack: pack.clone(),
        ends: vec![(ends[0], &commit_done), (ends[1], &tree_done), (ends[2], &put_failed)],
        server: &server,
    };
    let error = mirror(&source, &store, &Options::default(), &counters).unwrap_err();
    assert!(matches!(&error, MirrorError::Store(e) if e.kind == StoreErrorKind::Denied), "{error}");
    assert!(!store.keys().contains(&"info/refs".to_owned()));
    nothing_temporary(&store);

    // The stream breaks for good while an LFS object is on its way.
    let server = LfsServer::start(Lfs { busy: 1000, ..Lfs::default() });
    server.add(b"content");
    let (store, counters) = (MemoryStore::new(), Counters::default());
    let commit_done = || counters.counts().objects >= 1;
    let tree_done = || counters.counts().objects >= 2;
    let asked = || !server.seen().is_empty();
    let mut pack = pack;
    pack[ends[2]..].fill(0xff);
    let source = InPieces {
        tip,
        pack,
        ends: vec![(ends[0], &commit_done), (ends[1], &tree_done), (ends[2], &asked)],
        server: &server,
    };
    let error = mirror(&source, &store, &Options::default(), &counters).unwrap_err();
    assert!(matches!(&error, MirrorError::Pack(_)), "{error}");
    // What is missing was not found out; that the run had begun was taken back.
    let noted: Vec<_> =
        store.keys().into_iter().filter(|key| key.starts_with("mirror_state/")).collect();
    assert_eq!(noted, ["mirror_state/state.json"]);
    assert_eq!(*store.bytes("mirror_state/state.json").unwrap(), *b"{}\n");
    nothing_temporary(&store);
}

/// A tree that holds `blobs`, and a commit of it.
fn add_commit<'b>(pack: &mut PackBuilder, blobs: impl Iterator<Item = &'b [u8]>) -> Oid {
    let (tree, commit) = tree_and_commit(blobs);
    pack.object(TREE, &tree.1);
    pack.object(COMMIT, &commit.1);
    commit.0
}

/// The same two by themselves: oid and content.
fn tree_and_commit<'b>(blobs: impl Iterator<Item = &'b [u8]>) -> ((Oid, Vec<u8>), (Oid, Vec<u8>)) {
    let mut tree = Vec::new();
    for (number, content) in blobs.enumerate() {
        tree.extend(format!("100644 f{number:03}\0").bytes());
        tree.extend(pack_builder::oid("blob", content));
    }
    let tree_oid = Oid::from_bytes(pack_builder::oid("tree", &tree));
    let person = "A <a@example.com> 1700000000 +0000";
    let commit = format!("tree {tree_oid}\nauthor {person}\ncommitter {person}\n\na commit\n");
    let commit_oid = Oid::from_bytes(pack_builder::oid("commit", commit.as_bytes()));
    ((tree_oid, tree), (commit_oid, commit.into_bytes()))
}

#[test]
fn a_dry_run_leaves_lfs_alone() {
    let server = LfsServer::start(Lfs::default());
    let repo = repo_of(&[server.add(b"content")]);
    let store = MemoryStore::new();
    let options = Options { dry_run: true, ..Options::default() };
    mirror(&WithLfs::new(&repo, &server), &store, &options, &Silent).unwrap();
    assert!(server.seen().is_empty() && store.keys().is_empty());
}

#[test]
fn many_objects_go_in_batches_of_a_hundred() {
    let server = LfsServer::start(Lfs::default());
    let pointers: Vec<String> =
        (0..250).map(|number| server.add(format!("content {number}").as_bytes())).collect();
    let store = MemoryStore::new();
    let summary = run(&repo_of(&pointers), &server, &store).unwrap();
    assert_eq!(summary.lfs_written, 250);
    assert_eq!(server.batches(), [100, 100, 50]);
}

#[test]
fn batches_that_are_too_large_are_split_and_stay_small() {
    let server = LfsServer::start(Lfs { max_batch: Some(30), ..Lfs::default() });
    let pointers: Vec<String> =
        (0..120).map(|number| server.add(format!("content {number}").as_bytes())).collect();
    let store = MemoryStore::new();
    let summary = run(&repo_of(&pointers), &server, &store).unwrap();
    assert_eq!(summary.lfs_written, 120);
    assert_eq!(server.batches(), [100, 50, 25, 25, 25, 25, 20]);
}

#[test]
fn a_server_that_accepts_no_batch_at_all_makes_all_lack() {
    let server = LfsServer::start(Lfs { max_batch: Some(0), ..Lfs::default() });
    let store = MemoryStore::new();
    let repo = repo_of(&[server.add(b"one"), server.add(b"two")]);
    let summary = run(&repo, &server, &store).unwrap();
    assert_eq!((summary.status, summary.lfs_missing.len()), (Status::Partial, 2));
    assert!(summary.lfs_missing[0].1.contains("too many objects"), "{summary:?}");
}

#[test]
fn a_busy_server_is_waited_for() {
    let server = LfsServer::start(Lfs { busy: 2, ..Lfs::default() });
    let busy = |status| {
        let content = format!("content {status}");
        server.add_with(content.as_bytes(), |object| object.refusals = (2, status))
    };
    let repo = repo_of(&[busy(429), busy(503), busy(500)]);
    let store = MemoryStore::new();
    let summary = run(&repo, &server, &store).unwrap();
    assert_eq!((summary.lfs_written, summary.lfs_missing), (3, vec![]));
}

#[test]
fn cut_downloads_go_on_where_they_were_or_begin_again() {
    for no_ranges in [false, true] {
        let server = LfsServer::start(Lfs { no_ranges, ..Lfs::default() });
        let content: Vec<u8> = (0..200_000_u32).map(|number| number as u8).collect();
        let text = server.add_with(&content, |object| object.cuts = (2, 150_000));
        let store = MemoryStore::new();
        let summary = run(&repo_of(&[text]), &server, &store).unwrap();
        assert_eq!((summary.lfs_written, summary.lfs_missing), (1, vec![]), "{no_ranges}");
        assert!(stored(&store, &content));
        let downloads = server.downloads();
        assert_eq!(downloads[1].headers["range"], "bytes=150000-");
        assert_eq!(downloads.len(), if no_ranges { 3 } else { 2 });
    }
}

#[test]
fn addresses_that_have_expired_are_asked_for_again() {
    let server = LfsServer::start(Lfs::default());
    let said = server.add_with(b"said so", |object| object.expires_in = Some((1, 1)));
    let unsaid = server.add_with(b"did not say", |object| object.stale = 1);
    let store = MemoryStore::new();
    let summary = run(&repo_of(&[said, unsaid]), &server, &store).unwrap();
    assert_eq!((summary.lfs_written, summary.lfs_missing), (2, vec![]));
    assert_eq!(server.batches(), [2, 1, 1]);
    assert_eq!(server.downloads().len(), 3);
}

#[test]
fn a_server_whose_addresses_are_always_about_to_expire_is_used_all_the_same() {
    let server = LfsServer::start(Lfs::default());
    let text = server.add_with(b"content", |object| object.expires_in = Some((9, 1)));
    let store = MemoryStore::new();
    assert_eq!(run(&repo_of(&[text]), &server, &store).unwrap().lfs_written, 1);
}

#[test]
fn bytes_that_are_wrong_never_appear_under_their_key() {
    let server = LfsServer::start(Lfs::default());
    let once = server.add_with(b"wrong only once", |object| object.corrupt = 1);
    let always = server.add_with(b"always wrong", |object| object.corrupt = 99);
    let long = server.add_with(b"short", |object| object.content = vec![b'x'; 99].into());
    let short = server.add_with(b"a long one", |object| object.content = vec![b'x'; 3].into());
    let store = MemoryStore::new();
    let summary = run(&repo_of(&[once, always, long, short]), &server, &store).unwrap();
    assert_eq!((summary.status, summary.lfs_written), (Status::Partial, 1));
    assert!(stored(&store, b"wrong only once"));
    for (content, words) in [
        (&b"always wrong"[..], "different content"),
        (b"short", "more than its 5 bytes"),
        (b"a long one", "ended after 3 of 10 bytes"),
    ] {
        let missing = summary.lfs_missing.iter().find(|(name, _)| *name == oid(content));
        assert!(missing.unwrap().1.contains(words), "{missing:?}");
        assert!(!store.keys().contains(&key_of(content)));
    }
    let puts = store.recorded().into_iter().filter(|r| r.operation == Operation::Put);
    assert_eq!(puts.filter(|r| r.key().starts_with("lfs/")).count(), 1);
    nothing_temporary(&store);
}

#[test]
fn large_objects_go_through_a_temporary_key_and_wrong_ones_go_nowhere() {
    let server = LfsServer::start(Lfs::default());
    let large: Vec<u8> = (0..20_000_000_u32).map(|number| (number >> 3) as u8).collect();
    let wrong = [&large[..], b"wrong"].concat();
    let pointers = [
        server.add_with(&large, |object| object.cuts = (1, 12_000_000)),
        server.add_with(&wrong, |object| object.corrupt = 99),
    ];
    let store = MemoryStore::new();
    let summary = run(&repo_of(&pointers), &server, &store).unwrap();
    assert_eq!((summary.lfs_written, summary.lfs_missing.len()), (1, 1));
    assert!(stored(&store, &large));
    assert!(!store.keys().contains(&key_of(&wrong)));
    assert!(store.recorded().iter().any(|r| r.operation == Operation::Copy));
    assert_eq!(
        server.downloads().iter().filter(|seen| seen.headers.contains_key("range")).count(),
        1
    );
    nothing_temporary(&store);
}

#[test]
fn missing_objects_are_named_remembered_and_tried_again() {
    for layout in LAYOUTS {
        lacking_and_tried_again(layout);
    }
}

fn lacking_and_tried_again(layout: Layout) {
    let run = |repo: &Repo, server: &LfsServer, store: &dyn Store| {
        mirror(&WithLfs::new(repo, server), store, &options_for(layout), &Silent)
    };
    let server = LfsServer::start(Lfs::default());
    let gone = b"the server has lost this".as_slice();
    let refused = server.add_with(b"refused", |o| o.error = Some((422, "bad\u{1b} oid".into())));
    let repo = repo_of(&[server.add(b"here"), pointer(gone), refused]);
    let store = MemoryStore::new();
    let summary = run(&repo, &server, &store).unwrap();
    assert_eq!((summary.status, summary.lfs_written), (Status::Partial, 1));
    let why = |wanted: &[u8]| {
        summary.lfs_missing.iter().find(|(name, _)| *name == oid(wanted)).unwrap().1.clone()
    };
    assert_eq!(why(gone), "the server says 404: Object does not exist");
    assert!(why(b"refused").contains("422: bad") && !why(b"refused").contains('\u{1b}'));
    assert!(store.keys().contains(&"info/refs".to_owned()));
    let remembered = String::from_utf8(store.bytes(MISSING).unwrap().to_vec()).unwrap();
    assert!(remembered.contains(&format!("{} {}\n", oid(gone), gone.len())));
    assert_eq!(remembered.lines().count(), 2);
    let state_lacks = |store: &MemoryStore| {
        let state = store.bytes("mirror_state/state.json").unwrap();
        serde_json::from_slice::<serde_json::Value>(&state).unwrap()["lfs_missing"].clone()
    };
    assert_eq!(state_lacks(&store), 2);

    // Still missing: reported again, asked for again, not written again.
    store.clear_recorded();
    let summary = run(&repo, &server, &store).unwrap();
    assert_eq!((summary.status, summary.lfs_missing.len()), (Status::Partial, 2));
    assert!(!store.recorded().iter().any(|request| request.operation == Operation::Put));

    server.add(gone);
    server.add(b"refused");
    let summary = run(&repo, &server, &store).unwrap();
    assert_eq!((summary.status, summary.lfs_written), (Status::Ok, 2));
    assert!(summary.changes.is_empty() && stored(&store, gone));
    assert!(!store.keys().contains(&MISSING.to_owned()));
    assert_eq!(state_lacks(&store), 0, "the news tell it, though no ref has moved");
    assert_eq!(run(&repo, &server, &store).unwrap().status, Status::Unchanged);
}

#[test]
fn a_pointer_that_lies_about_its_size_does_not_lack_beside_the_right_one() {
    let server = LfsServer::start(Lfs::default());
    let right = server.add(b"content");
    let wrong = right.replace("size 7", "size 8");
    let store = MemoryStore::new();
    let summary = run(&repo_of(&[right, wrong]), &server, &store).unwrap();
    assert_eq!((summary.status, summary.lfs_written), (Status::Ok, 1));
}

#[test]
fn servers_without_lfs_are_told_in_clear_words() {
    let cases = [
        ((200, "text/html", "<html>welcome</html>"), "a web page, not LFS JSON"),
        ((404, "text/html", "<html>nothing</html>"), "no LFS server at this address"),
        ((200, "application/json", "{}"), "not LFS JSON"),
        ((403, "application/json", r#"{"message":"LFS is off"}"#), "LFS is off"),
        ((507, "text/plain", "full"), "full"),
    ];
    for (canned, words) in cases {
        let server = LfsServer::start(Lfs { canned: Some(canned), ..Lfs::default() });
        let store = MemoryStore::new();
        let repo = repo_of(&[server.add(b"one"), server.add(b"two")]);
        let summary = run(&repo, &server, &store).unwrap();
        assert_eq!((summary.status, summary.lfs_missing.len()), (Status::Partial, 2));
        for (_, why) in &summary.lfs_missing {
            assert!(why.contains(words) && !why.contains("word"), "{why}");
        }
        assert_eq!(server.batches().len(), 1);
    }
}

#[test]
fn a_whole_batch_that_is_absent_says_nothing_of_the_next() {
    let server = LfsServer::start(Lfs { absent_is_404: true, ..Lfs::default() });
    let mut contents: Vec<_> = (0..150).map(|number| format!("content {number}")).collect();
    contents.sort_by_key(|content| oid(content.as_bytes()));
    let (absent, there) = contents.split_at(100);
    let mut pointers: Vec<_> = absent.iter().map(|content| pointer(content.as_bytes())).collect();
    pointers.extend(there.iter().map(|content| server.add(content.as_bytes())));
    let summary = run(&repo_of(&pointers), &server, &MemoryStore::new()).unwrap();
    assert_eq!((summary.lfs_written, summary.lfs_missing.len()), (50, 100));
    for (_, why) in &summary.lfs_missing {
        assert!(why.ends_with("HTTP 404 (it says: Cannot find any of the requested objects)"));
    }
}

#[test]
fn no_secret_of_an_address_is_told() {
    let server = LfsServer::start(Lfs::default());
    let text = server.add_with(b"content", |object| object.refusals = (99, 404));
    let summary = run(&repo_of(&[text]), &server, &MemoryStore::new()).unwrap();
    let why = &summary.lfs_missing[0].1;
    assert!(why.contains("HTTP 404 (no such luck)") && !why.contains("secret"), "{why}");
}

#[test]
fn a_server_that_is_down_is_given_up() {
    let server = LfsServer::start(Lfs::default());
    let pointers: Vec<String> = (0..300)
        .map(|number| {
            let content = format!("content {number}");
            server.add_with(content.as_bytes(), |object| object.refusals = (99, 503))
        })
        .collect();
    let summary = run(&repo_of(&pointers), &server, &MemoryStore::new()).unwrap();
    assert_eq!(summary.lfs_missing.len(), 300);
    assert_eq!(server.batches(), [100]);
    assert_eq!(
        summary.lfs_missing.iter().filter(|(_, why)| why.starts_with("skipped: ")).count(),
        200
    );
}

#[test]
fn a_store_that_fails_ends_the_run_and_no_ref_is_published() {
    let server = LfsServer::start(Lfs::default());
    let large = vec![b'x'; 9 << 20];
    let repo = repo_of(&[server.add(b"small"), server.add(&large)]);
    let whole = MemoryStore::new();
    run(&repo, &server, &whole).unwrap();
    // Each request of the LFS stage in turn.
    let count = |operation, on: &str| {
        let fits = |r: &&mirror_git_to_s3::store::memory::Request| {
            r.operation == operation && r.key().starts_with(on)
        };
        whole.recorded().iter().filter(fits).count()
    };
    let mut tried = 0;
    for (operation, on) in [
        (Operation::Get, MISSING),
        (Operation::Head, "lfs/"),
        (Operation::Put, "lfs/"),
        (Operation::CreateUpload, "mirror_tmp/"),
        (Operation::PutPart, "mirror_tmp/"),
        (Operation::CompleteUpload, "mirror_tmp/"),
        (Operation::Copy, ""),
    ] {
        assert!(count(operation, on) > 0, "{operation:?} {on}");
        let store = MemoryStore::new();
        store.inject(
            Fault::new(StoreErrorKind::Denied)
                .on(operation)
                .key(move |key| key.starts_with(on))
                .nth(1),
        );
        let error = run(&repo, &server, &store).expect_err(on);
        assert!(matches!(error, MirrorError::Store(_)), "{error}");
        assert!(!store.keys().contains(&"info/refs".to_owned()), "{operation:?}");
        nothing_temporary(&store);
        tried += 1;
    }
    assert_eq!(tried, 7);
}

#[test]
fn a_run_that_is_cancelled_ends_and_leaves_nothing() {
    let server = LfsServer::start(Lfs::default());
    // The server asks for a long wait: the run must not sit it out.
    let options = Options::default();
    let cancel = options.cancel.clone();
    struct CancelAtLfs(mirror_git_to_s3::mirror::Cancel);
    impl mirror_git_to_s3::progress::Progress for CancelAtLfs {
        fn lfs_received(&self, _bytes: u64) {
            self.0.cancel();
        }
    }
    let large = vec![b'x'; 20 << 20];
    let repo = repo_of(&[server.add(&large)]);
    let store = MemoryStore::new();
    let source = WithLfs::new(&repo, &server);
    let ended = mirror(&source, &store, &options, &CancelAtLfs(cancel));
    assert!(matches!(ended, Err(MirrorError::Interrupted)), "{ended:?}");
    assert!(!store.keys().contains(&"info/refs".to_owned()));
    nothing_temporary(&store);
}

// ---- over HTTP ---------------------------------------------------------------------------------

/// `root/x.git`, whose LFS server is `url` by `.lfsconfig`.
fn repo_with_lfsconfig(url: &str, pointers: &[(&str, &str)]) -> Repo {
    let repo = Repo::new();
    let config = format!("[lfs]\n\turl = {url}\n");
    let mut files = vec![(".lfsconfig", config.as_bytes())];
    files.extend(pointers.iter().map(|(name, text)| (*name, text.as_bytes())));
    repo.commit("refs/heads/main", &files);
    repo
}

fn smart(server: &GitHttp, repo: &Repo) -> SmartHttp {
    let name = repo.path().file_name().unwrap().to_str().unwrap();
    SmartHttp::new(&format!("{}/{name}", server.url()), client(), Auth::none()).unwrap()
}

#[test]
fn lfsconfig_on_head_is_followed_to_another_port_where_that_is_allowed() {
    for layout in LAYOUTS {
        let lfs = LfsServer::start(Lfs::default());
        let repo = repo_with_lfsconfig(&lfs.url(), &[("f", &lfs.add(b"content"))]);
        let git = GitHttp::start(repo.path().parent().unwrap(), Default::default());
        let store = MemoryStore::new();
        let options = options_for(layout);
        let source = smart(&git, &repo);
        assert_eq!(mirror(&source, &store, &options, &Silent).unwrap().status, Status::Partial);
        assert!(lfs.seen().is_empty());
        let store = MemoryStore::new();
        let source = smart(&git, &repo).with_lfs_other_host(true);
        let summary = mirror(&source, &store, &options, &Silent).unwrap();
        assert_eq!((summary.status, summary.lfs_written), (Status::Ok, 1), "{layout:?}");
        // Greeting, refs, pack; batch, download; is there a bundle?
        let bundle = u64::from(layout == Layout::Pack);
        assert_eq!(summary.source_requests, 5 + bundle);
    }
}

#[test]
fn lfsconfig_that_an_earlier_run_has_stored_is_read_in_whatever_layout() {
    for first in LAYOUTS {
        for second in LAYOUTS {
            let lfs = LfsServer::start(Lfs::default());
            let text = lfs.add(b"one");
            let repo = repo_with_lfsconfig(&lfs.url(), &[("f", &text)]);
            let config = repo.git(&["cat-file", "blob", "main:.lfsconfig"]) + "\n";
            let git = GitHttp::start(repo.path().parent().unwrap(), Default::default());
            let store = MemoryStore::new();
            let run = |layout| {
                let source = smart(&git, &repo).with_lfs_other_host(true);
                mirror(&source, &store, &options_for(layout), &Silent).unwrap()
            };
            run(first);
            // The new pack has commit, tree and pointer, but not the file.
            for (run_number, content) in ["two", "three", "four"].into_iter().enumerate() {
                let text = lfs.add(content.as_bytes());
                let files = [(".lfsconfig", config.as_bytes()), ("f", text.as_bytes())];
                repo.commit("refs/heads/main", &files);
                let summary = run(second);
                let place = (first, second, run_number);
                assert_eq!((summary.lfs_written, summary.lfs_missing), (1, vec![]), "{place:?}");
            }
            // HEAD goes back to what is stored; what is missing is asked of the server that it names.
            let lost = b"lost for a while";
            let pointer = pointer(lost);
            let files = [(".lfsconfig", config.as_bytes()), ("f", pointer.as_bytes())];
            repo.commit("refs/heads/main", &files);
            assert_eq!(run(second).status, Status::Partial);
            lfs.add(lost);
            assert_eq!((run(second).lfs_written, run(second).status), (1, Status::Unchanged));
        }
    }
}

#[test]
fn lfsconfig_is_not_looked_for_without_a_pointer() {
    let repo = repo_with_lfsconfig("https://lfs.example", &[("f", "no pointer")]);
    let git = GitHttp::start(repo.path().parent().unwrap(), Default::default());
    for layout in LAYOUTS {
        let store = MemoryStore::new();
        let without = Options { lfs: false, ..options_for(layout) };
        mirror(&smart(&git, &repo), &store, &without, &Silent).unwrap();
        let requests = store.recorded().len();
        let store = MemoryStore::new();
        mirror(&smart(&git, &repo), &store, &options_for(layout), &Silent).unwrap();
        // One more: what earlier runs lacked.
        assert_eq!(store.recorded().len(), requests + 1, "{layout:?}");
    }
}

#[test]
fn lfsconfig_is_followed_to_another_host_only_if_allowed() {
    let lfs = LfsServer::start(Lfs::default());
    // Another name of the same machine is another host.
    let elsewhere = lfs.url().replace("127.0.0.1", "localhost");
    let repo = repo_with_lfsconfig(&elsewhere, &[("f", &lfs.add(b"content"))]);
    let git = GitHttp::start(repo.path().parent().unwrap(), Default::default());
    let store = MemoryStore::new();
    let summary = mirror(&smart(&git, &repo), &store, &Options::default(), &Silent).unwrap();
    assert_eq!(summary.status, Status::Partial);
    assert!(lfs.seen().is_empty());
    let source = smart(&git, &repo).with_lfs_other_host(true);
    let summary = mirror(&source, &store, &Options::default(), &Silent).unwrap();
    assert_eq!((summary.status, summary.lfs_written), (Status::Ok, 1));
}

#[test]
fn without_lfsconfig_the_server_is_below_the_repository() {
    let lfs = LfsServer::start(Lfs::default());
    let text = lfs.add(b"content");
    let oid = oid(b"content");
    let answer = format!(
        r#"{{"objects":[{{"oid":"{oid}","size":7,"actions":{{"download":{{
            "href":"{}","header":{{"X-Object-Key":"key-1"}}}}}}}}]}}"#,
        lfs.url().replace("/lfs", &format!("/object/{oid}/1"))
    );
    let repo = repo_of(&[text]);
    let media = "application/vnd.git-lfs+json";
    let canned = vec![Canned::new(".git/info/lfs/objects/batch", 200, media, answer)];
    let options = git_http::Options { canned, ..Default::default() };
    let git = GitHttp::start(repo.path().parent().unwrap(), options);
    let store = MemoryStore::new();
    let summary = mirror(&smart(&git, &repo), &store, &Options::default(), &Silent).unwrap();
    assert_eq!((summary.status, summary.lfs_written), (Status::Ok, 1), "{summary:?}");
}

// ---- the binary, and the real git-lfs ----------------------------------------------------------

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mirror-git-to-s3"));
    command.env_clear().env("NO_PROXY", "*");
    command
}

#[test]
fn missing_objects_end_the_program_with_4_and_are_named() {
    let lfs = LfsServer::start(Lfs::default());
    let gone = b"gone";
    let repo = repo_with_lfsconfig(&lfs.url(), &[("f", &pointer(gone)), ("g", &lfs.add(b"ok"))]);
    let git = GitHttp::start(repo.path().parent().unwrap(), Default::default());
    let target = tempfile::tempdir().unwrap();
    let name = repo.path().file_name().unwrap().to_str().unwrap();
    let source = format!("{}/{name}", git.url());
    let run = |more: &[&str]| {
        let target = format!("file://{}/m", target.path().display());
        let mut command = program();
        command.args(["--source", &source, "--target", &target, "--json"]).args(more);
        command.arg("--lfs-allow-other-host");
        let output = command.output().unwrap();
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        (output.status.code(), json, String::from_utf8(output.stderr).unwrap())
    };
    for written in [1, 0] {
        let (code, json, words) = run(&[]);
        assert_eq!((code, &json["status"]), (Some(4), &"partial".into()), "{words}");
        assert_eq!((&json["lfs_written"], &json["lfs_missing"]), (&written.into(), &1.into()));
        assert!(words.contains(&oid(gone)) && words.contains("Object does not exist"), "{words}");
    }
    let (code, json, words) = run(&["--no-lfs", "--full"]);
    assert_eq!((code, &json["lfs_missing"]), (Some(0), &0.into()), "{words}");
    assert!(target.path().join("m/info/refs").is_file());
}

fn has_git_lfs() -> bool {
    let found = Command::new("git-lfs").arg("version").output().is_ok();
    if !found {
        eprintln!("SKIPPED: git-lfs is not installed, so nothing is shown about cloning with it");
    }
    found
}

/// git with git-lfs set up as `git lfs install` does it, in a home of its own, with our program on
/// the PATH.
struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        let home = Home(tempfile::tempdir().unwrap());
        let words = home.sh("git lfs install --skip-repo").expect("git-lfs can be set up");
        assert!(words.contains("initialized"), "{words}");
        home
    }

    /// Runs a shell script. What it prints; `Err` if it fails.
    fn sh(&self, script: &str) -> Result<String, String> {
        self.sh_with(script, &[])
    }

    fn sh_with(&self, script: &str, environment: &[(&str, &str)]) -> Result<String, String> {
        let program = Path::new(env!("CARGO_BIN_EXE_mirror-git-to-s3"));
        let path = std::env::var_os("PATH").expect("a PATH");
        let folders = [program.parent().unwrap().to_owned()].into_iter();
        let path = std::env::join_paths(folders.chain(std::env::split_paths(&path))).unwrap();
        let mut command = Command::new("/bin/sh");
        command
            .env_clear()
            .env("PATH", path)
            .env("HOME", self.0.path())
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("NO_PROXY", "*")
            .envs(environment.iter().copied())
            .args(["-euc", script])
            .current_dir(self.0.path());
        let output = command.output().expect("sh runs");
        let mut words = String::from_utf8_lossy(&output.stdout).into_owned();
        words += &String::from_utf8_lossy(&output.stderr);
        if output.status.success() { Ok(words) } else { Err(words) }
    }

    /// Clones `url` into `work`; git-lfs reads from `mirror`, which may bring options with it.
    fn clone(&self, url: &str, mirror: &str) -> Result<String, String> {
        self.clone_with(url, mirror, &[])
    }

    fn clone_with(
        &self,
        url: &str,
        mirror: &str,
        environment: &[(&str, &str)],
    ) -> Result<String, String> {
        let script = format!(
            "git -c lfs.standalonetransferagent=mirror \
                 -c lfs.customtransfer.mirror.path=mirror-git-to-s3 \
                 -c lfs.customtransfer.mirror.args='lfs-agent {mirror}' clone -q {url} work"
        );
        self.sh_with(&script, environment)
    }

    /// Is `work` checked out with these contents, and nothing left of their downloads?
    fn assert_work_is(&self, contents: &[Vec<u8>]) {
        let work = self.0.path().join("work");
        for (number, content) in contents.iter().enumerate() {
            let read = std::fs::read(work.join(format!("f{number}.bin"))).unwrap();
            assert!(read == *content, "f{number}.bin has {} bytes", read.len());
        }
        let left = work.join(".git/lfs/incomplete");
        let left: Vec<_> = left.read_dir().map(|dir| dir.flatten().collect()).unwrap_or_default();
        assert!(left.is_empty(), "{left:?}");
    }
}

/// Mirrors a repository whose files `f0.bin`… are LFS objects into `store`; their contents.
fn mirror_of_lfs(store: &dyn Store, layout: Layout) -> Vec<Vec<u8>> {
    let lfs = LfsServer::start(Lfs::default());
    let large: Vec<u8> = (0..9_000_000_u32).map(|number| (number >> 5) as u8).collect();
    let mut contents = vec![b"a small one\n".to_vec(), b"another\n".to_vec(), large];
    contents.extend((0..6).map(|number| format!("one of many: {number}\n").into_bytes()));
    let names: Vec<_> = (0..contents.len()).map(|number| format!("f{number}.bin")).collect();
    let pointers: Vec<_> = contents.iter().map(|content| lfs.add(content)).collect();
    let mut files: Vec<(&str, &[u8])> =
        vec![(".gitattributes", b"*.bin filter=lfs diff=lfs merge=lfs -text\n")];
    files.extend(names.iter().zip(&pointers).map(|(n, text)| (n.as_str(), text.as_bytes())));
    let repo = Repo::new();
    repo.commit("refs/heads/main", &files);
    let summary = mirror(&WithLfs::new(&repo, &lfs), store, &options_for(layout), &Silent).unwrap();
    assert_eq!(summary.lfs_written, contents.len() as u64);
    contents
}

#[test]
fn git_lfs_clones_a_mirror_through_the_agent() {
    if !has_git_lfs() {
        return;
    }
    for layout in LAYOUTS {
        let target = tempfile::tempdir().unwrap();
        let store = DirStore::new(target.path().join("m.git")).unwrap();
        let contents = mirror_of_lfs(&store, layout);
        let bucket = StaticHttp::start(target.path());
        let url = format!("{}/m.git", bucket.url());
        for mirror in [url.clone(), format!("file://{}/m.git", target.path().display())] {
            let home = Home::new();
            home.clone(&url, &mirror).unwrap();
            home.assert_work_is(&contents);
        }
        // A damaged object is an error, and never checked out.
        let damaged = target.path().join("m.git").join(key_of(b"another\n"));
        std::fs::write(damaged, b"ANOTHER\n").unwrap();
        let words = Home::new().clone(&url, &url).unwrap_err();
        assert!(words.contains("damaged"), "{words}");
    }
}

#[test]
fn git_lfs_reads_a_private_bucket_through_the_agent() {
    if !has_git_lfs() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("bucket")).unwrap();
    let options = s3_server::Options { public_reads: false, ..Default::default() };
    let server = S3Server::start_with(dir.path(), options);
    let store = DirStore::new(dir.path().join("bucket/m.git")).unwrap();
    let contents = mirror_of_lfs(&store, Layout::Pack);
    // git itself can't sign: it reads the same files by their path.
    let url = format!("file://{}/bucket/m.git", dir.path().display());
    let mirror = format!("s3://bucket/m.git --endpoint-url {}", server.endpoint());
    let keys = [
        ("AWS_ACCESS_KEY_ID", &*server.access_key),
        ("AWS_SECRET_ACCESS_KEY", &*server.secret_key),
        ("AWS_EC2_METADATA_DISABLED", "true"),
    ];
    let home = Home::new();
    home.clone_with(&url, &mirror, &keys).unwrap();
    home.assert_work_is(&contents);
    let read = server.seen().into_iter().filter(|seen| seen.starts_with("GET ")).count();
    assert_eq!((read, server.requests()), (contents.len(), contents.len() as u64));
    // git-lfs starts several agents, each with a connection of its own.
    assert!(server.connections() > 1, "{} connection", server.connections());

    let words = Home::new().clone_with(&url, &mirror, &keys[2..]).unwrap_err();
    assert!(words.contains("credentials"), "{words}");
}

/// The shell blocks of the section on reading LFS objects, below the line that sets `url`.
fn recipes() -> [String; 2] {
    let docs = include_str!("../../docs/reading.md");
    let (_, section) = docs.split_once("\n## Git LFS").expect("the section");
    let blocks = section.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let blocks: Vec<String> = blocks.map(str::to_owned).collect();
    let [clone, configure] = blocks.try_into().expect("two blocks");
    let (set_url, clone) = clone.split_once('\n').expect("several lines");
    assert!(set_url.starts_with("url=https://") && set_url.ends_with(".git"), "{set_url}");
    [clone.to_owned(), configure]
}

#[test]
fn the_documented_recipes_clone_a_mirror() {
    if !has_git_lfs() {
        return;
    }
    let [clone, configure] = recipes();
    for layout in LAYOUTS {
        let target = tempfile::tempdir().unwrap();
        let store = DirStore::new(target.path().join("work.git")).unwrap();
        let contents = mirror_of_lfs(&store, layout);
        let bucket = StaticHttp::start(target.path());
        let url = format!("{}/work.git", bucket.url());
        let home = Home::new();
        home.sh(&format!("url={url}\n{clone}")).unwrap();
        home.assert_work_is(&contents);
        // Later fetches, also where the repository names a server that does not answer.
        let configure = configure.replace("cd a\n", "cd work\n");
        let elsewhere = "git config -f .lfsconfig lfs.url http://127.0.0.1:9/lfs";
        let again = "rm -r .git/lfs/objects *.bin; git lfs fetch --all; git lfs checkout";
        home.sh(&format!("url={url}\n{configure}\n{elsewhere}\n{again}")).unwrap();
        home.assert_work_is(&contents);
        // Without a recipe it does not work, so the recipes do something.
        Home::new().sh(&format!("git clone {url}")).unwrap_err();
    }
}

/// <https://pypi.org/project/git-lfs-http-mirror/>: a server for the time of one command.
#[test]
fn git_lfs_http_mirror_reads_a_mirror() {
    let python = std::env::var("LFS_HTTP_MIRROR_PYTHON").unwrap_or_else(|_| "python3".into());
    let import = ["-c", "import git_lfs_http_mirror"];
    let found = Command::new(&python).args(import).output();
    if !found.is_ok_and(|output| output.status.success()) {
        eprintln!("SKIPPED: {python} has no git_lfs_http_mirror: pip install git-lfs-http-mirror");
        return;
    }
    if !has_git_lfs() {
        return;
    }
    for layout in LAYOUTS {
        let target = tempfile::tempdir().unwrap();
        // It takes `.git` off a path that ends in it.
        let store = DirStore::new(target.path().join("work")).unwrap();
        let contents = mirror_of_lfs(&store, layout);
        let bucket = StaticHttp::start(target.path());
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let home = Home::new();
        // It starts the command before it listens, and does not tell how that ended.
        let script = format!(
            "{python} -m git_lfs_http_mirror --upstream-root {} --bind {free} -- sh -c '
                 for try in $(seq 100); do
                     git ls-remote http://{free}/work 2>&1 && break
                     sleep 0.1
                 done
                 git clone http://{free}/work'",
            bucket.url()
        );
        let words = home.sh(&script).unwrap();
        assert!(home.0.path().join("work").is_dir(), "{words}");
        home.assert_work_is(&contents);
    }
}

#[test]
fn git_lfs_reads_mirror_remotes_through_the_agent_once_it_is_installed() {
    if !has_git_lfs() {
        return;
    }
    let target = tempfile::tempdir().unwrap();
    let store = DirStore::new(target.path().join("m.git")).unwrap();
    let contents = mirror_of_lfs(&store, Layout::Pack);
    let home = Home::new();
    let said = home.sh("mkdir bin; mirror-git-to-s3 install-helper bin").unwrap();
    assert!(said.contains("git-remote-mirror") && said.contains("add bin to PATH"), "{said}");
    let url = format!("mirror::file://{}/m.git", target.path().display());
    home.sh(&format!("PATH=$PWD/bin:$PATH; git clone -q {url} work")).unwrap();
    home.assert_work_is(&contents);
    // Other remotes are read as before, and a second time changes nothing.
    home.sh("mirror-git-to-s3 install-helper bin").unwrap();
    let bucket = StaticHttp::start(target.path());
    let plain = format!("{}/m.git", bucket.url());
    home.sh(&format!("git clone -q {plain} plain")).unwrap_err();
    // Without it, git's own config stays as it is; a file in the way stays, too.
    let other = Home::new();
    let before = other.sh("cat .gitconfig").unwrap();
    other.sh("mkdir bin; mirror-git-to-s3 install-helper bin --no-lfs").unwrap();
    assert_eq!(other.sh("cat .gitconfig").unwrap(), before);
    let refused = other.sh("rm bin/git-remote-mirror; echo mine > bin/git-remote-mirror; \
         mirror-git-to-s3 install-helper bin --no-lfs");
    assert!(refused.unwrap_err().contains("a file of that name"));
    assert_eq!(other.sh("cat bin/git-remote-mirror").unwrap(), "mine\n");
}

local_git::also_with_sha256! {
    objects_of_the_whole_history_are_mirrored_before_refs_are_published,
    lfsconfig_that_an_earlier_run_has_stored_is_read_in_whatever_layout,
    git_lfs_clones_a_mirror_through_the_agent,
}
