//! Readers side by side, from one S3 server in this process whose every request takes as long as asked:
//! a clone of the source over smart HTTP, stock git's dumb clone of the mirror, the same by way of its
//! list of bundles, and clones through the remote helper, verified and trusting; then `--depth 1` of the source and of the mirror, with the
//! bytes that were asked for. What counts is the ratio to the smart clone in the same minute: at most
//! 0.5 verified, 0.2 trusting, 1.0 with bundles.
//!
//! ```text
//! just bench clone
//! BENCH_REPO=/path/of/a/bare/repository just bench clone
//! BENCH_LATENCY_MS=20 BENCH_RUNS=5 just bench clone     # one latency; the shortest of five
//! ```

#[path = "../support/git_http.rs"]
mod git_http;
#[path = "../support/s3_server.rs"]
mod s3_server;
mod support;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use git_http::GitHttp;
use mirror_git_to_s3::http::{Client, Environment, Settings};
use mirror_git_to_s3::mirror::{Layout, Options, mirror};
use mirror_git_to_s3::progress::Silent;
use mirror_git_to_s3::source::auth::Auth;
use mirror_git_to_s3::source::smart_http::SmartHttp;
use mirror_git_to_s3::store::dir::DirStore;
use s3_server::S3Server;
use support::{BenchRepo, best, runs};

const PROGRAM: &str = env!("CARGO_BIN_EXE_mirror-git-to-s3");

fn main() {
    let repo = BenchRepo::open();
    let root = repo.path.parent().expect("a repository has a folder");
    let name = repo.path.file_name().expect("and a name").to_string_lossy();
    let source = GitHttp::start(root, git_http::Options::default());
    let source = format!("{}/{name}", source.url());
    let dir = tempfile::tempdir().expect("a temporary folder");
    mirror_to(&source, &dir.path().join("buckets/bench/m.git"));
    s3_server::note_etags(&dir.path().join("buckets"));
    std::fs::create_dir(dir.path().join("bin")).expect("a folder for the helper");
    let link = dir.path().join("bin/git-remote-mirror");
    std::os::unix::fs::symlink(PROGRAM, link).expect("a link to the program");
    let latencies = match std::env::var("BENCH_LATENCY_MS").ok().and_then(|text| text.parse().ok())
    {
        Some(one) => vec![one],
        None => vec![0, 20],
    };
    for latency in latencies.into_iter().map(Duration::from_millis) {
        side_by_side(&repo, &source, dir.path(), latency);
    }
}

fn mirror_to(source: &str, folder: &Path) {
    let client = Client::with_environment(&Settings::default(), &Environment::default());
    let source = SmartHttp::new(source, client.expect("an agent"), Auth::none()).expect("a URL");
    let store = DirStore::new(folder).expect("a folder");
    let options = Options { layout: Layout::Pack, bundle: true, ..Options::default() };
    mirror(&source, &store, &options, &Silent).expect("it mirrors");
}

fn side_by_side(repo: &BenchRepo, source: &str, dir: &Path, latency: Duration) {
    let options = s3_server::Options { latency, public_reads: true };
    let s3 = S3Server::start_with(dir.join("buckets"), options);
    let plain = format!("{}/bench/m.git", s3.endpoint());
    let ours = "mirror::s3://bench/m.git";
    println!("{} objects, {latency:?} a request to the mirror", repo.objects);
    let clone = |words: &[&str], url: &str| clone(dir, &s3, words, url);
    let smart = best(runs(3), || clone(&["--bare"], source));
    let tell = |what: &str, took: Duration, than: Duration, before: usize| {
        let asked = &s3.seen_with_headers()[before..];
        println!(
            "{what:<28} {:>7.2} s, {:>5.2} x the smart clone; {:>6} requests, {:>7.1} MiB a run",
            took.as_secs_f64(),
            took.as_secs_f64() / than.as_secs_f64(),
            asked.len() / runs(3).max(1),
            bytes_of(asked, dir) as f64 / f64::from(1 << 20) / runs(3).max(1) as f64,
        );
    };
    let measured = |what: &str, words: &[&str], url: &str, than: Duration| {
        let before = s3.seen().len();
        let took = best(runs(3), || clone(words, url));
        tell(what, took, than, before);
    };
    tell("smart clone of the source", smart, smart, s3.seen().len());
    measured("stock dumb clone", &["--bare"], &plain, smart);
    let list = format!("--bundle-uri={plain}/bundle-list");
    measured("stock git by bundle-list", &["--bare", &list], &plain, smart);
    measured("helper, verified", &["--bare"], ours, smart);
    let trusting = ["--bare", "-c", "mirror.trustIndex=true"];
    measured("helper, trusting", &trusting, ours, smart);
    let shallow = ["--bare", "--depth", "1", "--single-branch"];
    let smart = best(runs(3), || clone(&shallow, source));
    tell("smart --depth 1", smart, smart, s3.seen().len());
    measured("helper, --depth 1", &shallow, ours, smart);
}

/// What was asked for: ranges, or whole files.
fn bytes_of(asked: &[(String, hyper::HeaderMap)], dir: &Path) -> u64 {
    let bytes = |(line, headers): &(String, hyper::HeaderMap)| {
        let path = line.strip_prefix("GET /")?.split('?').next()?;
        let len = std::fs::metadata(dir.join("buckets").join(path)).ok()?.len();
        let range = headers.get("range").and_then(|range| range.to_str().ok());
        let Some(range) = range.and_then(|range| range.strip_prefix("bytes=")) else {
            return Some(len);
        };
        let (from, to) = range.split_once('-')?;
        let to = to.parse().map_or(len, |last: u64| len.min(last + 1));
        Some(to.saturating_sub(from.parse().ok()?))
    };
    asked.iter().filter_map(bytes).sum()
}

fn clone(dir: &Path, s3: &S3Server, words: &[&str], url: &str) {
    let to = dir.join("clone");
    let mut path = dir.join("bin").into_os_string();
    path.push(":");
    path.push(std::env::var_os("PATH").expect("a PATH"));
    let status = Command::new("git")
        .current_dir(dir)
        .args(["-c", "http.proxy=", "clone", "-q"])
        .args(words)
        .arg(url)
        .arg(&to)
        .env("PATH", path)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("AWS_ACCESS_KEY_ID", &s3.access_key)
        .env("AWS_SECRET_ACCESS_KEY", &s3.secret_key)
        .env("AWS_ENDPOINT_URL_S3", s3.endpoint())
        .env("NO_PROXY", "*")
        .stdin(Stdio::null())
        .status();
    assert!(status.expect("git runs").success(), "{words:?} {url}");
    std::fs::remove_dir_all(&to).expect("the clone is there");
}
