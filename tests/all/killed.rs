//! The program killed at many moments (SIGKILL: nothing can be cleaned up): what is published is
//! whole after each, and the next run clears away all that was left. Both layouts.

use crate::support::{git_http, local_git, program, s3_server};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use git_http::{GitHttp, StaticHttp};
use local_git::{Repo, all_objects, all_refs, git, run};
use program::{files, program, signal};
use s3_server::{Options, S3Server};

const MOMENTS: u64 = 12;

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    std::iter::repeat_with(|| random.u8(..)).take(len).collect()
}

/// A commit with a blob that is uploaded as a multipart upload, at first in several parts.
fn commit(repo: &Repo, round: u64) {
    let large = noise(round, if round == 0 { 10 << 20 } else { 2 << 20 });
    let small = noise(round + 1000, 3000);
    repo.commit("refs/heads/main", &[("large", &large), ("small", &small)]);
    repo.git(&["tag", "-f", "-a", "-m", "a tag", "latest", "main"]);
}

/// What a reader gets over plain HTTP, if anything is published.
fn assert_whole(published: &Path) -> Option<tempfile::TempDir> {
    if !published.join("info/refs").exists() {
        return None;
    }
    let server = StaticHttp::start(published);
    let dir = tempfile::tempdir().unwrap();
    let url = format!("{}/", server.url());
    run(git(dir.path()).args(["clone", "-q", "--mirror", &url, "clone"]), b"");
    run(git(&dir.path().join("clone")).args(["fsck", "--full", "--strict"]), b"");
    Some(dir)
}

/// Kills the program later and later, then lets it end.
fn kill_at_many_moments(published: &Path, command: impl Fn(&str) -> Command) {
    let repo = Repo::new();
    commit(&repo, 0);
    let source = GitHttp::start(repo.path(), git_http::Options::default());
    let url = format!("{}/", source.url());
    let mut killed = 0;
    for moment in 0..MOMENTS {
        // The first runs find nothing published, the later ones something older.
        if moment == 5 {
            assert!(command(&url).output().unwrap().status.success());
        }
        if moment > 5 {
            commit(&repo, moment);
        }
        let mut child = command(&url).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(20 + moment % 5 * 90 + moment * 15));
        if child.try_wait().unwrap().is_none() {
            signal(&child, "KILL");
            killed += 1;
        }
        child.wait().unwrap();
        assert_whole(published);
    }
    assert!(killed > 0, "the program was never killed in time");
    let last = command(&url).output().unwrap();
    assert!(last.status.success(), "{}", String::from_utf8_lossy(&last.stderr));
    let clone = assert_whole(published).expect("it is published");
    let clone = clone.path().join("clone");
    assert_eq!(all_refs(&clone), all_refs(repo.path()));
    assert_eq!(all_objects(&clone), all_objects(repo.path()));
}

fn directory_is_whole_after_every_kill(layout: &str) {
    let home = tempfile::tempdir().unwrap();
    let target = home.path().join("mirror");
    kill_at_many_moments(&target, |source| {
        let mut command = program(home.path());
        let target = format!("file://{}", target.display());
        command.args(["--source", source, "--target", &target]);
        command.args(["--layout", layout, "--memory", "8"]);
        command
    });
    assert!(!target.join("mirror_tmp").exists(), "{:?}", files(&target, "mirror_tmp"));
}

#[test]
fn directory_of_loose_objects_is_whole_after_every_kill() {
    directory_is_whole_after_every_kill("loose");
}

#[test]
fn directory_of_packs_is_whole_after_every_kill() {
    directory_is_whole_after_every_kill("pack");
}

fn bucket_is_whole_after_every_kill(layout: &str) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("bucket")).unwrap();
    let latency = Options { latency: Duration::from_millis(10), ..Options::default() };
    let s3 = S3Server::start_with(dir.path(), latency);
    let published = dir.path().join("bucket/prefix");
    kill_at_many_moments(&published, |source| {
        let mut command = program(dir.path());
        command
            .args(["--source", source, "--target", "s3://bucket/prefix"])
            .args(["--layout", layout, "--memory", "8", "--endpoint-url", &s3.endpoint()])
            .env("AWS_ACCESS_KEY_ID", &s3.access_key)
            .env("AWS_SECRET_ACCESS_KEY", &s3.secret_key);
        command
    });
    for part in ["mirror_tmp", "upload"] {
        assert_eq!(files(dir.path(), part), Vec::<String>::new(), "{part}");
    }
}

#[test]
fn bucket_of_loose_objects_is_whole_after_every_kill() {
    bucket_is_whole_after_every_kill("loose");
}

#[test]
fn bucket_of_packs_is_whole_after_every_kill() {
    bucket_is_whole_after_every_kill("pack");
}
