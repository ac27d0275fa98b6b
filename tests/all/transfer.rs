//! A mirror made from another mirror: across an air gap, to a second store, and what is broken on the
//! way is never published.

use crate::support::{git_http, hooked_store, lfs_server, local_git, program, s3_server};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use git_http::StaticHttp;
use hooked_store::{Conditions, Hooked, dump};
use local_git::{LocalGit, Repo, assert_same_repository, git, run};
use mirror_git_to_s3::exit_code::ExitCode;
use mirror_git_to_s3::http::{Client, Environment, Settings};
use mirror_git_to_s3::mirror::{
    Layout, MirrorError, MirrorSource, Options, Status, Summary, mirror, mirror_mirror,
};
use mirror_git_to_s3::progress::Silent;
use mirror_git_to_s3::source::Source;
use mirror_git_to_s3::store::credentials::{Credentials, Provider};
use mirror_git_to_s3::store::memory::{Fault, MemoryStore, Operation};
use mirror_git_to_s3::store::s3::{S3Config, S3Store};
use mirror_git_to_s3::store::{Key, ObjectHeaders, Store, StoreErrorKind};
use program::program;
use s3_server::S3Server;

const LAYOUTS: [Layout; 2] = [Layout::Loose, Layout::Pack];

fn options(layout: Layout) -> Options {
    Options { layout, ..Options::default() }
}

fn filled(repo: &Repo, layout: Layout) -> MemoryStore {
    let store = MemoryStore::new();
    mirror(&LocalGit::new(repo.path()), &store, &options(layout), &Silent).unwrap();
    store
}

fn repo() -> Repo {
    let repo = Repo::new();
    for number in 0..20_u32 {
        let text = format!("version {number}\n").repeat(200);
        repo.commit("refs/heads/main", &[("a", text.as_bytes()), ("b", &number.to_be_bytes())]);
    }
    repo.git(&["tag", "-a", "-m", "v1", "v1", "refs/heads/main"]);
    repo
}

fn copy(from: &MemoryStore, to: &dyn Store) -> Result<Summary, MirrorError> {
    let source = MirrorSource::new(Box::new(from.clone()));
    mirror_mirror(&source, to, &Options::default(), &Silent)
}

fn put(store: &MemoryStore, key: &str, bytes: &[u8]) {
    let headers = ObjectHeaders::immutable("application/octet-stream");
    store.put(&Key::new(key).unwrap(), bytes, headers, None).unwrap();
}

/// Puts an LFS object where a mirror has it.
fn put_lfs(store: &MemoryStore, content: &[u8]) -> String {
    let oid = lfs_server::oid(content);
    let key = format!("lfs/objects/{}/{}/{oid}", &oid[..2], &oid[2..4]);
    put(store, &key, content);
    key
}

/// What readers see of a mirror.
fn published(store: &MemoryStore) -> Vec<(String, Arc<[u8]>)> {
    let kept = |key: &str| !key.starts_with("mirror_state/");
    let all = store.snapshot().into_iter().filter(|(key, _)| kept(key));
    all.map(|(key, object)| (key, object.bytes)).collect()
}

#[test]
fn copy_of_a_mirror_has_the_same_keys_and_git_reads_it() {
    let repo = repo();
    for layout in LAYOUTS {
        let from = filled(&repo, layout);
        let lfs = put_lfs(&from, b"an LFS object");
        let to = MemoryStore::new();
        let summary = copy(&from, &to).unwrap();
        assert_eq!((summary.status, summary.lfs_written), (Status::Ok, 1));
        assert_eq!(summary.objects_written, repo.objects().len() as u64, "{layout:?}");
        assert_eq!(published(&to), published(&from), "{layout:?}");
        assert!(to.bytes(&lfs).is_some());
        assert_eq!(to.open_uploads(), 0);
        let dir = tempfile::tempdir().unwrap();
        assert!(dump(&to, dir.path()));
        assert_same_repository(repo.path(), dir.path());
    }
}

#[test]
fn second_trip_copies_only_what_is_new() {
    let repo = repo();
    for layout in LAYOUTS {
        let (from, to) = (filled(&repo, layout), MemoryStore::new());
        copy(&from, &to).unwrap();
        to.clear_recorded();
        assert_eq!(copy(&from, &to).unwrap().status, Status::Unchanged);
        assert_eq!(to.count(Operation::Put), 0, "{layout:?}");
        let before = to.keys().len();
        let new = format!("{layout:?}");
        repo.commit("refs/heads/main", &[(&new, new.as_bytes())]);
        mirror(&LocalGit::new(repo.path()), &from, &options(layout), &Silent).unwrap();
        to.clear_recorded();
        let summary = copy(&from, &to).unwrap();
        assert_eq!((summary.status, summary.objects_written), (Status::Ok, 3), "{layout:?}");
        let new = to.keys().len() - before;
        assert!(new <= 3, "{layout:?}: {new} keys more");
        assert_eq!(published(&to), published(&from), "{layout:?}");
    }
}

#[test]
fn lfs_object_that_came_later_is_copied_although_no_ref_has_moved() {
    let (from, to) = (filled(&repo(), Layout::Pack), MemoryStore::new());
    copy(&from, &to).unwrap();
    let key = put_lfs(&from, b"late");
    let summary = copy(&from, &to).unwrap();
    assert_eq!((summary.status, summary.lfs_written), (Status::Ok, 1));
    assert!(to.bytes(&key).is_some());
}

/// Every kind of content, damaged in every way: named, and nothing is published.
#[test]
fn damaged_key_is_named_and_nothing_is_published() {
    let repo = repo();
    for layout in LAYOUTS {
        let sound = filled(&repo, layout);
        put_lfs(&sound, b"an LFS object");
        let begins = |key: &str| ["objects/", "lfs/"].iter().any(|part| key.starts_with(part));
        let keys = sound.keys().into_iter().filter(|key| begins(key) && !key.contains("info"));
        let keys: Vec<String> = keys.collect();
        assert!(keys.len() >= 3);
        for key in keys.iter().step_by(1 + keys.len() / 12) {
            for damage in ["flipped", "cut", "empty", "longer", "another"] {
                let from = filled(&repo, layout);
                put_lfs(&from, b"an LFS object");
                let mut bytes = from.bytes(key).unwrap().to_vec();
                let middle = bytes.len() / 2;
                match damage {
                    "flipped" => bytes[middle] ^= 1,
                    "cut" => bytes.truncate(middle),
                    "empty" => bytes.clear(),
                    "longer" => bytes.push(0),
                    _ => {
                        bytes =
                            from.bytes(keys.iter().find(|k| *k != key).unwrap()).unwrap().to_vec()
                    }
                }
                put(&from, key, &bytes);
                let to = MemoryStore::new();
                let error = copy(&from, &to).expect_err(&format!("{key} {damage}"));
                assert!(error.to_string().contains(key.as_str()), "{key} {damage}: {error}");
                assert!(to.bytes("info/refs").is_none(), "{key} {damage}");
                assert!(to.bytes(key).is_none(), "{key} {damage}");
                assert_eq!(to.open_uploads(), 0);
                assert!(!to.keys().iter().any(|key| key.starts_with("mirror_tmp/")));
            }
        }
    }
}

#[test]
fn listed_pack_that_is_missing_is_named_and_nothing_is_published() {
    let from = filled(&repo(), Layout::Pack);
    let pack = from.keys().into_iter().find(|key| key.ends_with(".idx")).unwrap();
    from.delete(&[Key::new(pack.clone()).unwrap()]).unwrap();
    let to = MemoryStore::new();
    let error = copy(&from, &to).unwrap_err().to_string();
    assert!(error.contains(&pack) && error.contains("missing"), "{error}");
    assert!(to.bytes("info/refs").is_none());
}

/// Whichever request fails: nothing half is published, and the next run completes it.
#[test]
fn nth_request_fails_and_the_next_run_completes_the_copy() {
    let repo = repo();
    for layout in LAYOUTS {
        let from = filled(&repo, layout);
        put_lfs(&from, b"an LFS object");
        for n in 1.. {
            let to = MemoryStore::new();
            to.inject(Fault::new(StoreErrorKind::Other).nth(n));
            let failed = copy(&from, &to).is_err();
            to.clear_faults();
            if failed && to.bytes("info/refs").is_some() {
                let dir = tempfile::tempdir().unwrap();
                assert!(dump(&to, dir.path()));
                assert_same_repository(repo.path(), dir.path());
            }
            copy(&from, &to).unwrap();
            assert_eq!(published(&to), published(&from), "{layout:?} {n}");
            if !failed && to.recorded().len() < n as usize {
                break;
            }
            assert!(n < 400);
        }
    }
}

#[test]
fn mirror_of_another_repository_is_refused_as_a_source() {
    let (from, other) = (MemoryStore::new(), MemoryStore::new());
    for (store, url) in [(&from, "https://git.example/a"), (&other, "https://git.example/b")] {
        mirror(
            &Named(LocalGit::new(repo().path()), url),
            store,
            &Options { layout: Layout::Loose, ..Options::default() },
            &Silent,
        )
        .unwrap();
    }
    let error = copy(&from, &other).unwrap_err();
    assert!(
        matches!(&error, MirrorError::Guard(words) if words.contains("git.example/a")),
        "{error}"
    );
    let source = MirrorSource::new(Box::new(from.clone()));
    let moved = Options { move_source: true, ..Options::default() };
    mirror_mirror(&source, &other, &moved, &Silent).unwrap();
    // Now it is a mirror of the first one, for that one's own URL, too.
    let state =
        String::from_utf8(other.bytes("mirror_state/state.json").unwrap().to_vec()).unwrap();
    assert!(state.contains("\"repository\": \"https://git.example/a\""), "{state}");
}

/// A local repository under a URL.
struct Named<'a>(LocalGit, &'a str);

impl Source for Named<'_> {
    fn describe(&self) -> String {
        self.1.to_owned()
    }
    fn advertisement(
        &self,
    ) -> Result<mirror_git_to_s3::git::refs::Advertisement, mirror_git_to_s3::source::SourceError>
    {
        self.0.advertisement()
    }
    fn fetch<'a>(
        &'a self,
        wants: &[mirror_git_to_s3::git::object::Oid],
        haves: &[mirror_git_to_s3::git::object::Oid],
        words: Box<dyn FnMut(&str) + Send + 'a>,
    ) -> Result<Box<dyn std::io::Read + Send + 'a>, mirror_git_to_s3::source::SourceError> {
        self.0.fetch(wants, haves, words)
    }
    fn requests(&self) -> u64 {
        self.0.requests()
    }
}

#[test]
fn large_objects_go_in_parts_and_leave_no_upload() {
    let from = filled(&repo(), Layout::Pack);
    let content: Vec<u8> = (0..20_000_000_u32).map(|n| (n / 7) as u8).collect();
    let key = put_lfs(&from, &content);
    let to = MemoryStore::new();
    copy(&from, &to).unwrap();
    assert!(to.bytes(&key).as_deref() == Some(&content[..]));
    assert_eq!((to.count(Operation::CreateUpload), to.open_uploads()), (1, 0));
    assert!(!to.keys().iter().any(|key| key.starts_with("mirror_tmp/")));
}

#[test]
fn packs_that_the_other_mirror_has_merged_leave_the_list() {
    let repo = repo();
    let (from, to) = (filled(&repo, Layout::Pack), MemoryStore::new());
    repo.commit("refs/heads/main", &[("new", b"new")]);
    mirror(&LocalGit::new(repo.path()), &from, &options(Layout::Pack), &Silent).unwrap();
    copy(&from, &to).unwrap();
    let full = Options { full: true, ..options(Layout::Pack) };
    mirror(&LocalGit::new(repo.path()), &from, &full, &Silent).unwrap();
    repo.commit("refs/heads/main", &[("newer", b"newer")]);
    mirror(&LocalGit::new(repo.path()), &from, &options(Layout::Pack), &Silent).unwrap();
    copy(&from, &to).unwrap();
    assert_eq!(to.bytes("objects/info/packs"), from.bytes("objects/info/packs"));
    let dir = tempfile::tempdir().unwrap();
    assert!(dump(&to, dir.path()));
    assert_same_repository(repo.path(), dir.path());
}

/// From a directory, as on a USB disk, into a bucket, by the program; git clones it from there.
#[test]
fn program_carries_a_mirror_from_a_directory_into_a_bucket() {
    let (repo, home) = (repo(), tempfile::tempdir().unwrap());
    let usb = home.path().join("usb.git");
    let bundle = home.path().join("a.bundle");
    run(
        git(repo.path()).args(["bundle", "create", "-q"]).arg(&bundle).args(["--all", "HEAD"]),
        b"",
    );
    let s3_dir = home.path().join("s3");
    std::fs::create_dir_all(s3_dir.join("mirrors")).unwrap();
    let s3 = S3Server::start(&s3_dir);
    let mirror = |source: &str, target: &str, more: &[&str]| {
        let mut command = program(home.path());
        command.args(["--source", source, "--target", target]).args(more);
        command.env("AWS_ACCESS_KEY_ID", &s3.access_key);
        command.env("AWS_SECRET_ACCESS_KEY", &s3.secret_key);
        command.env("AWS_ENDPOINT_URL_S3", s3.endpoint());
        let output = command.output().unwrap();
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code().unwrap(), words)
    };
    let usb_url = format!("file://{}", usb.display());
    let (code, words) =
        mirror(&format!("bundle:{}", bundle.display()), &usb_url, &["--layout", "pack"]);
    assert_eq!(code, 0, "{words}");
    let (code, words) = mirror(&format!("mirror:{usb_url}"), "s3://mirrors/a.git", &[]);
    assert_eq!(code, 0, "{words}");
    // And from that bucket to a folder, with the source's own endpoint.
    let back = home.path().join("back.git");
    let back_url = format!("file://{}", back.display());
    let endpoint = s3.endpoint();
    let flags = ["--source-endpoint-url", &endpoint, "--endpoint-url", "http://127.0.0.1:1"];
    let (code, words) = mirror("mirror:s3://mirrors/a.git", &back_url, &flags);
    assert_eq!(code, 0, "{words}");
    assert_same_repository(repo.path(), &back);
    let web = StaticHttp::start(&back);
    let clone = home.path().join("clone");
    let status = Command::new("git")
        .args(["clone", "-q", "--mirror", &web.url()])
        .arg(&clone)
        .status()
        .unwrap();
    assert!(status.success());
    assert_same_repository(repo.path(), &clone);
    let nothing = format!("mirror:file://{}", home.path().join("nothing").display());
    let (code, words) = mirror(&nothing, "s3://mirrors/b.git", &[]);
    assert_eq!(code, i32::from(ExitCode::Failed.code()), "{words}");
    assert!(words.contains("no mirror there"), "{words}");
    assert!(!Path::new(&home.path().join("nothing")).exists(), "a source is only read");
}

/// Two mirrors on one S3 server: large keys are copied by it, each after it was read and proven.
#[test]
fn server_copies_large_keys_from_one_mirror_to_the_other() {
    let (repo, home) = (repo(), tempfile::tempdir().unwrap());
    let large: Vec<u8> = (0..3_000_000_u32).map(|n| (n * 7 / 5) as u8).collect();
    let buckets = home.path().join("s3");
    for layout in LAYOUTS {
        let from = filled(&repo, layout);
        let lfs = put_lfs(&from, &large);
        for damage in [false, true] {
            let _ = std::fs::remove_dir_all(&buckets);
            for bucket in ["one", "two"] {
                std::fs::create_dir_all(buckets.join(bucket)).unwrap();
            }
            let s3 = S3Server::start(&buckets);
            let (one, two) = (bucket(&s3, "one"), bucket(&s3, "two"));
            for (key, object) in from.snapshot() {
                let mut bytes = object.bytes.to_vec();
                if damage && key == lfs {
                    bytes[1_000_000] ^= 1;
                }
                let headers = ObjectHeaders::immutable("application/octet-stream");
                one.put(&Key::new(key).unwrap(), &bytes, headers, None).unwrap();
            }
            let before = s3.seen().len();
            let source = MirrorSource::new(Box::new(one));
            let copied = mirror_mirror(&source, &two, &Options::default(), &Silent);
            let seen = s3.seen_with_headers().split_off(before);
            let by_server = seen.iter().filter(|(_, headers)| {
                let names = ["x-amz-copy-source", "x-amz-copy-source-if-match"];
                names.iter().all(|name| headers.contains_key(*name))
            });
            let by_server: Vec<&str> = by_server.map(|(line, _)| line.as_str()).collect();
            let path = format!("PUT /two/m.git/{lfs}");
            if damage {
                let error = copied.unwrap_err().to_string();
                assert!(error.contains(&lfs), "{error}");
                assert!(by_server.is_empty(), "{by_server:?}");
                assert!(!buckets.join("two/m.git/info/refs").exists());
                continue;
            }
            assert_eq!(copied.unwrap().status, Status::Ok);
            assert_eq!(by_server, [path.as_str()]);
            assert!(std::fs::read(buckets.join("two/m.git").join(&lfs)).unwrap() == large);
            let puts = seen.iter().filter(|(line, _)| line.starts_with(&path)).count();
            assert_eq!(puts, 1, "it is not uploaded");
            if layout == Layout::Loose {
                continue;
            }
            // Another server has to be sent everything.
            let other_dir = home.path().join("other");
            std::fs::create_dir_all(other_dir.join("two")).unwrap();
            let other = S3Server::start(&other_dir);
            let far = bucket(&other, "two");
            mirror_mirror(&source, &far, &Options::default(), &Silent).unwrap();
            let copies = other.seen_with_headers();
            assert!(!copies.iter().any(|(_, h)| h.contains_key("x-amz-copy-source-if-match")));
            assert!(std::fs::read(other_dir.join("two/m.git").join(&lfs)).unwrap() == large);
        }
    }
}

/// A server that refuses the copy (no right to read with these credentials, say) is sent the bytes.
#[test]
fn large_key_is_uploaded_if_the_server_does_not_copy_it() {
    let (from, home) = (filled(&repo(), Layout::Pack), tempfile::tempdir().unwrap());
    let large: Vec<u8> = (0..3_000_000_u32).map(|n| (n * 7 / 5) as u8).collect();
    let lfs = put_lfs(&from, &large);
    std::fs::create_dir_all(home.path().join("two")).unwrap();
    let s3 = S3Server::start(home.path());
    let to = bucket(&s3, "two");
    // It knows no such object.
    let server = to.elsewhere(&Key::new("x").unwrap(), &Default::default()).unwrap().server;
    let from = Hooked::new(&from, Conditions::Enforced).on_server(server);
    let source = MirrorSource::new(Box::new(from));
    mirror_mirror(&source, &to, &Options::default(), &Silent).unwrap();
    let tried = s3.seen_with_headers();
    let tried = tried.iter().filter(|(_, h)| h.contains_key("x-amz-copy-source-if-match")).count();
    assert_eq!(tried, 1, "once, and not again for the next key");
    assert!(std::fs::read(home.path().join("two/m.git").join(&lfs)).unwrap() == large);
}

fn bucket(s3: &S3Server, name: &str) -> S3Store {
    let config = S3Config {
        bucket: name.into(),
        prefix: "m.git".into(),
        region: "us-east-1".into(),
        endpoint: Some(s3.endpoint()),
        ..S3Config::default()
    };
    let keys = Provider::fixed(Credentials::new(&s3.access_key, &s3.secret_key));
    let client = Client::with_environment(&Settings::default(), &Environment::default());
    S3Store::new(config, client.unwrap(), keys).unwrap()
}

local_git::also_with_sha256! {
    copy_of_a_mirror_has_the_same_keys_and_git_reads_it,
}
