//! `--layout pack` beside the recipe that people use today (`git clone --mirror`, `git
//! update-server-info`, `rclone sync`), into the same S3 server, whose every request takes 20 ms;
//! then clones of both mirrors beside a clone of the source. The ratios are what counts: the mirror
//! must take at most as long as the recipe, a clone of it at most 1.3 times as long as one of the
//! source, 128 MiB at its peak, and twelve writes besides the parts of the pack.
//!
//! ```text
//! just bench recipe
//! BENCH_REPO=/path/of/a/bare/repository BENCH_RUNS=3 just bench recipe
//! BENCH_LATENCY_MS=5 BENCH_STRICT=1 just bench recipe    # strict: fail when a bound is not held
//! ```
//!
//! The source is the real `git http-backend`; the program is the binary as users run it, with its
//! defaults; the S3 server is in this process and keeps its files in a temporary folder (`TMPDIR`).
//! rclone has its defaults, too; without rclone (Debian's package) the recipe is left out, loudly.

#[path = "../support/git_http.rs"]
mod git_http;
#[path = "../support/s3_server.rs"]
mod s3_server;
mod support;

use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use git_http::GitHttp;
use s3_server::S3Server;
use support::{BenchRepo, git, peak_of, runs};

const BUCKET: &str = "bench";

/// Up to so many objects the loose layout is measured beside it: a clone of it takes a request an
/// object, five at once.
const LOOSE_OBJECTS: u64 = 50_000;

/// What one way of mirroring took.
struct Took {
    seconds: f64,
    requests: usize,
    peak_mib: f64,
}

fn main() -> ExitCode {
    let repo = BenchRepo::open();
    let root = repo.path.parent().expect("a repository has a folder");
    let name = repo.path.file_name().expect("and a name").to_string_lossy();
    let source = GitHttp::start(root, git_http::Options::default());
    let url = format!("{}/{name}", source.url());
    let latency = std::env::var("BENCH_LATENCY_MS").ok().and_then(|text| text.parse().ok());
    let latency = Duration::from_millis(latency.unwrap_or(20));
    let has_rclone = Command::new("rclone").arg("version").output().is_ok();
    println!("{} objects, {latency:?} a request", repo.objects);
    if !has_rclone {
        println!("SKIPPED: the recipe, since rclone is not installed");
    }

    let mut best = [f64::MAX; 2];
    let mut sound = true;
    for run in 1..=runs(3) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::create_dir(folder.path().join(BUCKET)).expect("a bucket is a folder");
        let options = s3_server::Options { latency, public_reads: true };
        let s3 = S3Server::start_with(folder.path(), options);
        let clone = |from: &str| seconds(|| clone(from));

        let ours = mirror(&url, &s3, "pack", "ours");
        let writes = writes(&s3, "ours");
        let read = clone(&format!("{}/{BUCKET}/ours", s3.endpoint()));
        let smart = clone(&url);
        println!(
            "run {run}: mirror {:.2} s, {} requests, {writes} writes besides parts, {:.0} MiB; \
             {:.1} MiB stored; clone of it {read:.2} s, of the source {smart:.2} s: {:.2}",
            ours.seconds,
            ours.requests,
            ours.peak_mib,
            stored_mib(&folder.path().join(BUCKET).join("ours")),
            read / smart,
        );
        best[1] = best[1].min(read / smart);
        sound &= writes <= 12 && ours.peak_mib <= 128.0;
        if repo.objects <= LOOSE_OBJECTS {
            let loose = mirror(&url, &s3, "loose", "loose");
            let read = clone(&format!("{}/{BUCKET}/loose", s3.endpoint()));
            println!(
                "       loose {:.2} s, {} requests, {:.0} MiB; {:.1} MiB stored; \
                 clone of it {read:.2} s",
                loose.seconds,
                loose.requests,
                loose.peak_mib,
                stored_mib(&folder.path().join(BUCKET).join("loose")),
            );
        }
        if has_rclone {
            let theirs = recipe(&url, &s3, "theirs");
            let read = clone(&format!("{}/{BUCKET}/theirs", s3.endpoint()));
            println!(
                "       recipe {:.2} s, {} requests; clone of it {read:.2} s; \
                 mirror / recipe {:.2}",
                theirs.seconds,
                theirs.requests,
                ours.seconds / theirs.seconds,
            );
            best[0] = best[0].min(ours.seconds / theirs.seconds);
        }
    }
    if has_rclone {
        println!("best mirror / recipe {:.2}, wanted at most 1.00", best[0]);
        sound &= best[0] <= 1.0;
    }
    println!("best clone of the mirror / of the source {:.2}, wanted at most 1.30", best[1]);
    sound &= best[1] <= 1.3;
    let strict = std::env::var_os("BENCH_STRICT").is_some();
    if strict && !sound { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn seconds(work: impl FnOnce()) -> f64 {
    let begun = Instant::now();
    work();
    begun.elapsed().as_secs_f64()
}

/// What git itself takes to get everything, over whichever protocol the URL speaks.
fn clone(url: &str) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    git(dir.path(), &["-c", "http.proxy=", "clone", "-q", "--mirror", url, "clone"]);
}

/// The program, as users run it.
fn mirror(url: &str, s3: &S3Server, layout: &str, prefix: &str) -> Took {
    let before = s3.requests();
    let target = format!("s3://{BUCKET}/{prefix}");
    let mut program = Command::new(env!("CARGO_BIN_EXE_mirror-git-to-s3"));
    program
        .args(["--layout", layout, "--source", url, "--target", &target])
        .args(["--endpoint-url", &s3.endpoint()])
        .env_clear()
        .env("AWS_ACCESS_KEY_ID", &s3.access_key)
        .env("AWS_SECRET_ACCESS_KEY", &s3.secret_key)
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let begun = Instant::now();
    let mut child = program.spawn().expect("the program starts");
    let mut peak_mib = 0.0;
    let status = loop {
        peak_mib = peak_of(child.id()).unwrap_or(peak_mib);
        match child.try_wait().expect("it is ours") {
            Some(status) => break status,
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    let seconds = begun.elapsed().as_secs_f64();
    assert!(status.success(), "the mirror ended with {status}");
    Took { seconds, requests: (s3.requests() - before) as usize, peak_mib }
}

/// All files below a folder.
fn stored_mib(folder: &Path) -> f64 {
    fn bytes(folder: &Path) -> u64 {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let sizes = entries.map(|entry| match entry.metadata() {
            Ok(info) if info.is_dir() => bytes(&entry.path()),
            Ok(info) => info.len(),
            Err(_) => 0,
        });
        sizes.sum()
    }
    bytes(folder) as f64 / (1 << 20) as f64
}

/// Requests below the prefix that write, but for the parts of an upload.
fn writes(s3: &S3Server, prefix: &str) -> usize {
    let below = format!("/{BUCKET}/{prefix}/");
    let writes = |line: &String| {
        let (method, target) = line.split_once(' ').expect("a method and a path");
        method != "GET" && method != "HEAD" && !target.contains("partNumber=")
    };
    s3.seen().iter().filter(|line| line.contains(&below) && writes(line)).count()
}

/// `git clone --mirror` to a disk, `git update-server-info`, `rclone sync`.
fn recipe(url: &str, s3: &S3Server, prefix: &str) -> Took {
    let before = s3.requests();
    let dir = tempfile::tempdir().expect("a temporary folder");
    let begun = Instant::now();
    git(dir.path(), &["-c", "http.proxy=", "clone", "-q", "--mirror", url, "clone"]);
    let clone = dir.path().join("clone");
    git(&clone, &["update-server-info"]);
    rclone(&clone, s3, prefix);
    let seconds = begun.elapsed().as_secs_f64();
    Took { seconds, requests: (s3.requests() - before) as usize, peak_mib: 0.0 }
}

fn rclone(clone: &Path, s3: &S3Server, prefix: &str) {
    let status = Command::new("rclone")
        .arg("sync")
        .arg(clone)
        .arg(format!("bench:{BUCKET}/{prefix}"))
        .args(["--config", "/dev/null", "--s3-no-check-bucket"])
        .env("RCLONE_CONFIG_BENCH_TYPE", "s3")
        .env("RCLONE_CONFIG_BENCH_PROVIDER", "Other")
        .env("RCLONE_CONFIG_BENCH_ENDPOINT", s3.endpoint())
        .env("RCLONE_CONFIG_BENCH_ACCESS_KEY_ID", &s3.access_key)
        .env("RCLONE_CONFIG_BENCH_SECRET_ACCESS_KEY", &s3.secret_key)
        .env("NO_PROXY", "*")
        .env_remove("AWS_CA_BUNDLE") // its SDK takes none, and there is no TLS here
        .status();
    assert!(status.expect("rclone starts").success(), "rclone failed");
}
