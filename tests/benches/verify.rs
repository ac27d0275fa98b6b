//! `verify` and `gc` of a pack mirror beside `git fsck --full` of the same files, in the same minute:
//! all three read everything, name every object and follow every link. The ratios are what counts:
//! `verify` must stay at or under 1.0 of fsck from a directory and 1.3 at 20 ms a request, `gc` at or
//! under 0.5. The mirror has one loose object that no ref reaches, or `gc` would read nothing.
//!
//! ```text
//! just bench verify
//! BENCH_REPO=/path/of/a/bare/repository BENCH_RUNS=3 just bench verify
//! BENCH_MIRROR=/path/of/a/mirror BENCH_STRICT=1 just bench verify    # strict: fail when over
//! ```
//! Walls are compared: git works on one core here, this program on all. Children's CPU seconds are
//! from proc_pid_stat(5), peaks are VmHWM.

mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use mirror_git_to_s3::maintain::gc::{GcOptions, gc};
use mirror_git_to_s3::maintain::verify::{VerifyOptions, verify};
use mirror_git_to_s3::store::dir::DirStore;
use mirror_git_to_s3::store::memory::MemoryStore;
use mirror_git_to_s3::store::{Key, ObjectHeaders, Store};
use support::{BenchRepo, git, peak_of, runs};

fn main() -> ExitCode {
    let (mirror, _made) = open_mirror();
    let remote = remote_copy(&mirror);
    let mut over = false;
    let mut judge = |what: &str, seconds: f64, fsck: f64, wanted: f64| {
        let ratio = seconds / fsck;
        over |= ratio > wanted;
        println!("  {what}: {seconds:.2} s, {ratio:.2} x fsck (wanted at most {wanted})");
    };
    for run in 1..=runs(3) {
        let (fsck, peak) =
            run_child(Command::new("git").args(["fsck", "--full", "--no-progress"]), &mirror);
        println!("run {run}: git fsck --full {fsck:.2} s, peak {peak:.0} MiB");
        for concurrency in ["64", "8", "1"] {
            let target = format!("file://{}", mirror.display());
            let mut ours = Command::new(env!("CARGO_BIN_EXE_mirror-git-to-s3"));
            ours.args(["verify", "-q", "--concurrency", concurrency, "--target", &target]);
            let (seconds, peak) = run_child(&mut ours, &mirror);
            let what = format!("verify, {concurrency} in flight, peak {peak:.0} MiB");
            judge(&what, seconds, fsck, 1.0);
        }
        judge("verify at 20 ms a request", seconds_of(|| verify_remote(&remote)), fsck, 1.3);
        judge("gc -n", seconds_of(|| collect(&mirror)), fsck, 0.5);
    }
    let strict = std::env::var_os("BENCH_STRICT").is_some();
    if strict && over { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// The mirror that `BENCH_MIRROR` names, or one of `BENCH_REPO`, made for this run.
fn open_mirror() -> (PathBuf, Option<tempfile::TempDir>) {
    if let Some(path) = std::env::var_os("BENCH_MIRROR") {
        return (PathBuf::from(path).canonicalize().expect("BENCH_MIRROR exists"), None);
    }
    let repo = BenchRepo::open();
    let dir = tempfile::tempdir().expect("a temporary folder");
    let bundle = dir.path().join("bench.bundle");
    git(&repo.path, &["bundle", "create", "-q", bundle.to_str().expect("UTF-8"), "--all"]);
    let mirror = dir.path().join("mirror");
    let mut ours = Command::new(env!("CARGO_BIN_EXE_mirror-git-to-s3"));
    ours.args(["-q", "--no-lfs", "--layout", "pack"]);
    ours.args(["--source", &format!("bundle:{}", bundle.display())]);
    ours.args(["--target", &format!("file://{}", mirror.display())]);
    assert!(ours.status().expect("it runs").success());
    std::fs::remove_file(bundle).expect("the bundle");
    (mirror, Some(dir))
}

/// The same keys in a store that takes 20 ms a request.
fn remote_copy(mirror: &Path) -> MemoryStore {
    let (from, to) = (DirStore::new(mirror).expect("a folder"), MemoryStore::new());
    let mut page = None;
    loop {
        let listed = from.list("", page.as_deref()).expect("a listing");
        for info in listed.objects {
            let (bytes, _) = from.get(&info.key, None, info.len).expect("a file");
            to.put(&info.key, &bytes, ObjectHeaders::changing("x"), None).expect("memory");
        }
        page = listed.next;
        if page.is_none() {
            return to.with_latency(Duration::from_millis(20));
        }
    }
}

fn verify_remote(store: &MemoryStore) {
    let report = verify(store, &VerifyOptions::default()).expect("it is read");
    assert!(report.is_sound(), "{:?}", report.findings);
}

fn collect(mirror: &Path) {
    let store = DirStore::new(mirror).expect("a folder");
    let key = Key::new(format!("objects/dd/{}", "d".repeat(38))).expect("a key");
    store.put(&key, b"garbage", ObjectHeaders::changing("x"), None).expect("it is written");
    let options = GcOptions { dry_run: true, grace: Duration::ZERO, ..GcOptions::default() };
    let summary = gc(&store, &options, &|_| ()).expect("it is read");
    assert!(summary.loose > 0 && summary.reachable > Some(0), "{summary:?}");
    store.delete(&[key]).expect("it is deleted");
}

fn seconds_of(work: impl FnOnce()) -> f64 {
    let begun = Instant::now();
    work();
    begun.elapsed().as_secs_f64()
}

/// Wall seconds and the peak in MiB.
fn run_child(command: &mut Command, dir: &Path) -> (f64, f64) {
    let begun = Instant::now();
    let mut child = command.current_dir(dir).spawn().expect("it runs");
    let mut peak: f64 = 0.0;
    let status = loop {
        peak = peak.max(peak_of(child.id()).unwrap_or(0.0));
        if let Some(status) = child.try_wait().expect("a child") {
            break status;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    assert!(status.success(), "{command:?}");
    (begun.elapsed().as_secs_f64(), peak)
}
