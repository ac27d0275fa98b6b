//! Git LFS: objects mirrored whole from a test LFS server with all its faults, and read back from
//! the bucket by the real git-lfs through `lfs-agent`.

#[path = "support/git_http.rs"]
mod git_http;
#[path = "support/lfs_server.rs"]
mod lfs_server;
#[path = "support/local_git.rs"]
mod local_git;

use std::io::Read;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use git_http::{Canned, GitHttp, StaticHttp};
use lfs_server::{LfsServer, Options as Lfs, oid, pointer};
use local_git::{LocalGit, Repo};
use mirror_git_to_s3::git::object::Oid;
use mirror_git_to_s3::git::refs::Advertisement;
use mirror_git_to_s3::http::Client;
use mirror_git_to_s3::mirror::{MirrorError, Options, Status, Summary, mirror};
use mirror_git_to_s3::progress::{Counters, Silent};
use mirror_git_to_s3::source::auth::{Auth, Credentials};
use mirror_git_to_s3::source::smart_http::SmartHttp;
use mirror_git_to_s3::source::{LfsSource, Source, SourceError, lfs};
use mirror_git_to_s3::store::dir::DirStore;
use mirror_git_to_s3::store::memory::{Fault, MemoryStore, Operation};
use mirror_git_to_s3::store::{Store, StoreErrorKind};
use url::Url;

/// A local repository whose LFS objects are on `server`.
struct WithLfs<'a> {
    git: LocalGit,
    server: &'a LfsServer,
}

impl<'a> WithLfs<'a> {
    fn new(repo: &Repo, server: &'a LfsServer) -> Self {
        WithLfs { git: LocalGit::new(repo.path()), server }
    }
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

/// A repository with one file for each pointer.
fn repo_of(pointers: &[String]) -> Repo {
    let repo = Repo::new();
    let names: Vec<String> = (0..pointers.len()).map(|number| format!("f{number}")).collect();
    let files: Vec<(&str, &[u8])> =
        names.iter().zip(pointers).map(|(name, text)| (name.as_str(), text.as_bytes())).collect();
    repo.commit("refs/heads/main", &files);
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

const LACKING: &str = "mirror_state/lfs-lacking";

#[test]
fn objects_of_the_whole_history_are_mirrored_before_refs_are_published() {
    let server = LfsServer::start(Lfs::default());
    let repo = repo_of(&[server.add(b"old content")]);
    repo.commit("refs/heads/main", &[("f0", server.add(b"new content").as_bytes())]);
    repo.commit("refs/heads/side", &[("g", server.add(b"elsewhere").as_bytes())]);
    let store = MemoryStore::new();
    let counters = Counters::default();
    let summary =
        mirror(&WithLfs::new(&repo, &server), &store, &Options::default(), &counters).unwrap();
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
fn a_second_run_asks_for_nothing_and_costs_one_more_request() {
    let server = LfsServer::start(Lfs::default());
    let repo = repo_of(&[server.add(b"content")]);
    let store = MemoryStore::new();
    run(&repo, &server, &store).unwrap();
    server.forget_seen();
    store.clear_recorded();
    let summary = run(&repo, &server, &store).unwrap();
    assert_eq!(summary.status, Status::Unchanged);
    assert_eq!(summary.store_requests, 5);
    assert!(server.seen().is_empty());
    // What is stored already is not fetched with `--full` either.
    let options = Options { full: true, ..Options::default() };
    let source = WithLfs::new(&repo, &server);
    assert_eq!(mirror(&source, &store, &options, &Silent).unwrap().lfs_written, 0);
    assert!(server.seen().is_empty());
}

#[test]
fn what_was_left_out_is_found_by_a_full_run() {
    let server = LfsServer::start(Lfs::default());
    let repo = repo_of(&[server.add(b"content")]);
    let store = MemoryStore::new();
    let source = WithLfs::new(&repo, &server);
    let without = Options { lfs: false, ..Options::default() };
    let summary = mirror(&source, &store, &without, &Silent).unwrap();
    assert_eq!((summary.status, summary.lfs_written), (Status::Ok, 0));
    assert!(server.seen().is_empty() && !store.keys().iter().any(|key| key.contains("lfs")));
    assert_eq!(run(&repo, &server, &store).unwrap().status, Status::Unchanged);
    let full = Options { full: true, ..Options::default() };
    let summary = mirror(&source, &store, &full, &Silent).unwrap();
    assert_eq!((summary.status, summary.lfs_written), (Status::Ok, 1));
    assert!(stored(&store, b"content"));
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
    assert_eq!((summary.status, summary.lfs_lacking.len()), (Status::Partial, 2));
    assert!(summary.lfs_lacking[0].1.contains("too many objects"), "{summary:?}");
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
    assert_eq!((summary.lfs_written, summary.lfs_lacking), (3, vec![]));
}

#[test]
fn cut_downloads_go_on_where_they_were_or_begin_again() {
    for no_ranges in [false, true] {
        let server = LfsServer::start(Lfs { no_ranges, ..Lfs::default() });
        let content: Vec<u8> = (0..200_000_u32).map(|number| number as u8).collect();
        let text = server.add_with(&content, |object| object.cuts = (2, 150_000));
        let store = MemoryStore::new();
        let summary = run(&repo_of(&[text]), &server, &store).unwrap();
        assert_eq!((summary.lfs_written, summary.lfs_lacking), (1, vec![]), "{no_ranges}");
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
    assert_eq!((summary.lfs_written, summary.lfs_lacking), (2, vec![]));
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
        (&b"always wrong"[..], "other bytes"),
        (b"short", "more than the 5 bytes"),
        (b"a long one", "ended after 3 of 10 bytes"),
    ] {
        let lacking = summary.lfs_lacking.iter().find(|(lacks, _)| *lacks == oid(content));
        assert!(lacking.unwrap().1.contains(words), "{lacking:?}");
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
    assert_eq!((summary.lfs_written, summary.lfs_lacking.len()), (1, 1));
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
fn lacking_objects_are_named_remembered_and_tried_again() {
    let server = LfsServer::start(Lfs::default());
    let gone = b"the server has lost this".as_slice();
    let refused = server.add_with(b"refused", |o| o.error = Some((422, "bad\u{1b} oid".into())));
    let repo = repo_of(&[server.add(b"here"), pointer(gone), refused]);
    let store = MemoryStore::new();
    let summary = run(&repo, &server, &store).unwrap();
    assert_eq!((summary.status, summary.lfs_written), (Status::Partial, 1));
    let why = |wanted: &[u8]| {
        summary.lfs_lacking.iter().find(|(lacks, _)| *lacks == oid(wanted)).unwrap().1.clone()
    };
    assert_eq!(why(gone), "the server says 404: Object does not exist");
    assert!(why(b"refused").contains("422: bad") && !why(b"refused").contains('\u{1b}'));
    assert!(store.keys().contains(&"info/refs".to_owned()));
    let remembered = String::from_utf8(store.bytes(LACKING).unwrap().to_vec()).unwrap();
    assert!(remembered.contains(&format!("{} {}\n", oid(gone), gone.len())));
    assert_eq!(remembered.lines().count(), 2);

    // Still lacking: told again, asked for again, not written again.
    store.clear_recorded();
    let summary = run(&repo, &server, &store).unwrap();
    assert_eq!((summary.status, summary.lfs_lacking.len()), (Status::Partial, 2));
    assert!(!store.recorded().iter().any(|request| request.operation == Operation::Put));

    server.add(gone);
    server.add(b"refused");
    let summary = run(&repo, &server, &store).unwrap();
    assert_eq!((summary.status, summary.lfs_written), (Status::Ok, 2));
    assert!(summary.changes.is_empty() && stored(&store, gone));
    assert!(!store.keys().contains(&LACKING.to_owned()));
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
        ((200, "text/html", "<html>welcome</html>"), "a web page, not LFS's JSON"),
        ((404, "text/html", "<html>nothing</html>"), "no LFS server at this address"),
        ((200, "application/json", "{}"), "not LFS's JSON"),
        ((403, "application/json", r#"{"message":"LFS is off"}"#), "LFS is off"),
        ((507, "text/plain", "full"), "full"),
    ];
    for (canned, words) in cases {
        let server = LfsServer::start(Lfs { canned: Some(canned), ..Lfs::default() });
        let store = MemoryStore::new();
        let repo = repo_of(&[server.add(b"one"), server.add(b"two")]);
        let summary = run(&repo, &server, &store).unwrap();
        assert_eq!((summary.status, summary.lfs_lacking.len()), (Status::Partial, 2));
        for (_, why) in &summary.lfs_lacking {
            assert!(why.contains(words) && !why.contains("word"), "{why}");
        }
        assert_eq!(server.batches().len(), 1);
    }
}

#[test]
fn no_secret_of_an_address_is_told() {
    let server = LfsServer::start(Lfs::default());
    let text = server.add_with(b"content", |object| object.refusals = (99, 404));
    let summary = run(&repo_of(&[text]), &server, &MemoryStore::new()).unwrap();
    let why = &summary.lfs_lacking[0].1;
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
    assert_eq!(summary.lfs_lacking.len(), 300);
    assert_eq!(server.batches(), [100]);
    assert_eq!(
        summary.lfs_lacking.iter().filter(|(_, why)| why.starts_with("not tried")).count(),
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
        (Operation::Get, LACKING),
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
fn lfsconfig_on_head_is_followed_on_the_same_host() {
    let lfs = LfsServer::start(Lfs::default());
    let repo = repo_with_lfsconfig(&lfs.url(), &[("f", &lfs.add(b"content"))]);
    let git = GitHttp::start(repo.path().parent().unwrap(), Default::default());
    let store = MemoryStore::new();
    let summary = mirror(&smart(&git, &repo), &store, &Options::default(), &Silent).unwrap();
    assert_eq!((summary.status, summary.lfs_written), (Status::Ok, 1));
    // Greeting, refs, pack; batch, download.
    assert_eq!(summary.source_requests, 5);
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
fn lacking_objects_end_the_program_with_4_and_are_named() {
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
        let output = command.output().unwrap();
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        (output.status.code(), json, String::from_utf8(output.stderr).unwrap())
    };
    for written in [1, 0] {
        let (code, json, words) = run(&[]);
        assert_eq!((code, &json["status"]), (Some(4), &"partial".into()), "{words}");
        assert_eq!((&json["lfs_written"], &json["lfs_lacking"]), (&written.into(), &1.into()));
        assert!(words.contains(&oid(gone)) && words.contains("Object does not exist"), "{words}");
    }
    let (code, json, words) = run(&["--no-lfs", "--full"]);
    assert_eq!((code, &json["lfs_lacking"]), (Some(0), &0.into()), "{words}");
    assert!(target.path().join("m/info/refs").is_file());
}

fn has_git_lfs() -> bool {
    let found = Command::new("git-lfs").arg("version").output().is_ok();
    if !found {
        eprintln!("SKIPPED: git-lfs is not installed, so nothing is shown about cloning with it");
    }
    found
}

/// Clones `url` with git-lfs, which reads LFS objects through the agent from `mirror`.
fn clone_with_agent(url: &str, mirror: &str, home: &Path) -> std::process::Output {
    let agent = env!("CARGO_BIN_EXE_mirror-git-to-s3");
    let mut command = Command::new("git");
    command
        .env("HOME", home)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("NO_PROXY", "*")
        .args(["-c", "filter.lfs.smudge=git-lfs smudge -- %f"])
        .args(["-c", "filter.lfs.process=git-lfs filter-process"])
        .args(["-c", "filter.lfs.required=true"])
        .args(["-c", "lfs.standalonetransferagent=mirror"])
        .args(["-c", &format!("lfs.customtransfer.mirror.path={agent}")])
        .args(["-c", &format!("lfs.customtransfer.mirror.args=lfs-agent {mirror}")])
        .args(["clone", "-q", url, "work"])
        .current_dir(home);
    command.output().expect("git runs")
}

#[test]
fn git_lfs_clones_a_mirror_through_the_agent() {
    if !has_git_lfs() {
        return;
    }
    let lfs = LfsServer::start(Lfs::default());
    let large: Vec<u8> = (0..9_000_000_u32).map(|number| (number >> 5) as u8).collect();
    let contents: [&[u8]; 3] = [b"a small one\n", b"another\n", &large];
    let pointers = contents.map(|content| lfs.add(content));
    let repo = Repo::new();
    let files: [(&str, &[u8]); 4] = [
        (".gitattributes", b"*.bin filter=lfs diff=lfs merge=lfs -text\n"),
        ("a.bin", pointers[0].as_bytes()),
        ("b.bin", pointers[1].as_bytes()),
        ("large.bin", pointers[2].as_bytes()),
    ];
    repo.commit("refs/heads/main", &files);
    let target = tempfile::tempdir().unwrap();
    let store = DirStore::new(target.path().join("m.git")).unwrap();
    assert_eq!(run(&repo, &lfs, &store).unwrap().lfs_written, 3);
    drop(lfs);
    let bucket = StaticHttp::start(target.path());
    let url = format!("{}/m.git", bucket.url());
    for mirror in [url.clone(), format!("file://{}/m.git", target.path().display())] {
        let home = tempfile::tempdir().unwrap();
        let cloned = clone_with_agent(&url, &mirror, home.path());
        let words = String::from_utf8_lossy(&cloned.stderr);
        assert!(cloned.status.success(), "{mirror}: {words}");
        for (name, content) in ["a.bin", "b.bin", "large.bin"].iter().zip(contents) {
            let read = std::fs::read(home.path().join("work").join(name)).unwrap();
            assert!(read == content, "{name} of {mirror}");
        }
        let left = home.path().join("work/.git/lfs/incomplete");
        let left: Vec<_> = left.read_dir().map(|dir| dir.flatten().collect()).unwrap_or_default();
        assert!(left.is_empty(), "{left:?}");
    }
    // A damaged object is an error, and never checked out.
    let damaged = target.path().join("m.git").join(key_of(b"another\n"));
    std::fs::write(damaged, b"ANOTHER\n").unwrap();
    let home = tempfile::tempdir().unwrap();
    let cloned = clone_with_agent(&url, &url, home.path());
    let words = String::from_utf8_lossy(&cloned.stderr);
    assert!(!cloned.status.success() && words.contains("damaged"), "{words}");
}
