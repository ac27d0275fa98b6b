//! A whole run over a store whose every request takes 20 ms, beside what it can't be faster than:
//! the requests (`objects × 20 ms / 64` with 64 in flight) and the source's own work (`git clone
//! --mirror` from the same server, in the same minute). The ratio of the run to the sum of both is
//! what counts: it must stay at or under 1.25, whatever the machine.
//!
//! ```text
//! just bench mirror
//! BENCH_REPO=/path/of/a/bare/repository just bench mirror
//! BENCH_LATENCY_MS=5 BENCH_STRICT=1 just bench mirror     # strict: fail when it is over 1.25
//! BENCH_PYTHON=/path/of/python just bench mirror          # the Python tool beside it, once
//! ```
//! The Python tool (`pip install mirror-git-to-s3==0.0.24`) and this program then write into one S3
//! server in this process that takes as long for a request: some forty objects a second for the
//! tool, so choose a small repository.
//!
//! The source is the real `git http-backend`, read by HTTP. The store is in memory: what is measured
//! is this program, not somebody's server.

#[path = "../support/git_http.rs"]
mod git_http;
#[path = "../support/s3_server.rs"]
mod s3_server;
mod support;

use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use git_http::GitHttp;
use mirror_git_to_s3::http::{Client, Environment, Settings};
use mirror_git_to_s3::mirror::{Options, mirror};
use mirror_git_to_s3::progress::Silent;
use mirror_git_to_s3::source::auth::Auth;
use mirror_git_to_s3::source::smart_http::SmartHttp;
use mirror_git_to_s3::store::credentials::{Credentials, Provider};
use mirror_git_to_s3::store::memory::MemoryStore;
use mirror_git_to_s3::store::retry::{Policy, Retry};
use mirror_git_to_s3::store::s3::{S3Config, S3Store};
use s3_server::S3Server;
use support::{BenchRepo, git, runs};

/// The most that a run may take of what it can't be faster than.
const WANTED: f64 = 1.25;

fn main() -> ExitCode {
    let repo = BenchRepo::open();
    let root = repo.path.parent().expect("a repository has a folder");
    let name = repo.path.file_name().expect("and a name").to_string_lossy();
    let server = GitHttp::start(root, git_http::Options::default());
    let url = format!("{}/{name}", server.url());
    let latency = std::env::var("BENCH_LATENCY_MS").ok().and_then(|text| text.parse().ok());
    let latency = Duration::from_millis(latency.unwrap_or(20));
    let options = Options::default();
    let ideal = latency.mul_f64(repo.objects as f64 / options.concurrency as f64);
    println!("{} objects, {latency:?} a request, {} in flight", repo.objects, options.concurrency);

    let mut best = f64::MAX;
    for run in 1..=runs(3) {
        let (clone, seconds) = (clone(&url), self::run(&url, latency, &options, repo.objects));
        let ratio = seconds.as_secs_f64() / (ideal + clone).as_secs_f64();
        println!(
            "run {run}: mirror {:.2} s; ideal {:.2} s + clone {:.2} s; ratio {ratio:.2}",
            seconds.as_secs_f64(),
            ideal.as_secs_f64(),
            clone.as_secs_f64(),
        );
        best = best.min(ratio);
    }
    println!("best ratio {best:.2}, wanted at most {WANTED}");
    if let Some(python) = std::env::var_os("BENCH_PYTHON") {
        beside_python(Path::new(&python), &url, latency, &options);
    }
    let strict = std::env::var_os("BENCH_STRICT").is_some();
    if strict && best > WANTED { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// The Python tool and this program, one after the other, into the same S3 server.
fn beside_python(python: &Path, url: &str, latency: Duration, options: &Options) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    std::fs::create_dir(dir.path().join("bench")).expect("a bucket is a folder");
    let server = s3_server::Options { latency, public_reads: false };
    let s3 = S3Server::start_with(dir.path(), server);
    let client = Client::with_environment(&Settings::default(), &Environment::default());
    let client = client.expect("an agent");
    let source = SmartHttp::new(url, client.clone(), Auth::none()).expect("a URL");
    let config = S3Config {
        bucket: "bench".into(),
        prefix: "ours".into(),
        region: "us-east-1".into(),
        endpoint: Some(s3.endpoint()),
        ..S3Config::default()
    };
    let keys = Credentials::new(&s3.access_key, &s3.secret_key);
    let store = S3Store::new(config, client, Provider::fixed(keys)).expect("a store");
    let store = Retry::new(store, Policy::default());
    let begun = Instant::now();
    mirror(&source, &store, options, &Silent).expect("it mirrors");
    let ours = begun.elapsed().as_secs_f64();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/benches/python_tool.py");
    let begun = Instant::now();
    let status = Command::new(python)
        .arg(script)
        .args([url, "bench/theirs", &s3.endpoint(), &s3.access_key, &s3.secret_key])
        .stderr(Stdio::null()) // its bars
        .status();
    let theirs = begun.elapsed().as_secs_f64();
    let ended = status.map_or_else(|error| error.to_string(), |status| status.to_string());
    println!("over S3: this program {ours:.2} s; the Python tool {theirs:.2} s ({ended})");
}

/// What git itself takes to get everything.
fn clone(url: &str) -> Duration {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let begun = Instant::now();
    git(dir.path(), &["-c", "http.proxy=", "clone", "-q", "--mirror", url, "clone"]);
    begun.elapsed()
}

fn run(url: &str, latency: Duration, options: &Options, objects: u64) -> Duration {
    let client = Client::with_environment(&Settings::default(), &Environment::default());
    let source = SmartHttp::new(url, client.expect("an agent"), Auth::none()).expect("a URL");
    let store = MemoryStore::new().with_latency(latency);
    let begun = Instant::now();
    let summary = mirror(&source, &store, options, &Silent).expect("it mirrors");
    let took = begun.elapsed();
    assert_eq!(summary.objects_written, objects);
    took
}
