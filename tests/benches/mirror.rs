//! A whole run over a store whose every request takes 20 ms, beside what it can't be faster than:
//! the requests (`objects × 20 ms / 64` with 64 in flight) and the source's own work (`git clone
//! --mirror` from the same server, in the same minute). The ratio of the run to the sum of both is
//! what counts: it must stay at or under 1.25, whatever the machine.
//!
//! ```text
//! just bench mirror
//! BENCH_REPO=/path/of/a/bare/repository just bench mirror
//! BENCH_LATENCY_MS=5 BENCH_STRICT=1 just bench mirror     # strict: fail when it is over 1.25
//! ```
//! The source is the real `git http-backend`, read by HTTP. The store is in memory: what is measured
//! is this program, not somebody's server.

#[path = "../support/git_http.rs"]
mod git_http;
mod support;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use git_http::GitHttp;
use mirror_git_to_s3::http::{Client, Environment, Settings};
use mirror_git_to_s3::mirror::{Options, mirror};
use mirror_git_to_s3::progress::Silent;
use mirror_git_to_s3::source::auth::Auth;
use mirror_git_to_s3::source::smart_http::SmartHttp;
use mirror_git_to_s3::store::memory::MemoryStore;
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
    let strict = std::env::var_os("BENCH_STRICT").is_some();
    if strict && best > WANTED { ExitCode::FAILURE } else { ExitCode::SUCCESS }
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
