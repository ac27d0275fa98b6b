//! The whole way on this machine, with nothing but Rust and git: a repository, served by git's own
//! smart HTTP server, mirrored to a real S3 server, and cloned from the bucket by stock git.
//!
//! ```text
//! cargo run --release --example quickstart              # each step, and whether all is right
//! cargo run --release --example quickstart -- --serve   # and keep both servers until Ctrl-C
//! ```
//!
//! Everything is on loopback and in a temporary folder that goes away at the end. The steps are
//! what the binary does, said through the library: [`SmartHttp`], [`S3Store`], [`Retry`],
//! [`mirror`]. The exit code says whether the clone was the source.

#[path = "../tests/support/git_http.rs"]
mod git_http;
#[path = "../tests/support/local_git.rs"]
mod local_git;
#[path = "../tests/support/s3_server.rs"]
mod s3_server;

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;

use git_http::GitHttp;
use local_git::{Repo, all_objects, all_refs, git, run};
use mirror_git_to_s3::http::{Client, Environment, Settings};
use mirror_git_to_s3::mirror::{Options, Summary, mirror};
use mirror_git_to_s3::progress::Silent;
use mirror_git_to_s3::source::auth::Auth;
use mirror_git_to_s3::source::smart_http::SmartHttp;
use mirror_git_to_s3::store::credentials::{Credentials, Provider};
use mirror_git_to_s3::store::retry::{Policy, Retry};
use mirror_git_to_s3::store::s3::{S3Config, S3Store};
use s3_server::S3Server;

const BUCKET: &str = "mirrors";
const PREFIX: &str = "sample.git";

fn main() -> ExitCode {
    let serve = std::env::args().skip(1).any(|word| word == "--serve");
    match go(serve) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("failed: {error}");
            ExitCode::FAILURE
        }
    }
}

fn go(serve: bool) -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;

    let repo = sample();
    let root = repo.path().parent().ok_or("a temporary folder has a parent")?;
    let name = repo.path().file_name().ok_or("and a name")?.to_string_lossy();
    let source_server = GitHttp::start(root, git_http::Options::default());
    let source_url = format!("{}/{name}", source_server.url());
    println!("source   git http-backend serves {} objects at", repo.objects().len());
    println!("         {source_url}");

    let buckets = folder.path().join("buckets");
    std::fs::create_dir_all(buckets.join(BUCKET))?;
    let options = s3_server::Options { public_reads: true, ..s3_server::Options::default() };
    let s3 = S3Server::start_with(&buckets, options);
    let clone_url = format!("{}/{BUCKET}/{PREFIX}", s3.endpoint());
    println!("store    an S3 server that verifies signatures and lets everybody read, at");
    println!("         {}", s3.endpoint());

    let (source, store) = open(&source_url, &s3)?;
    let first = mirror(&source, &store, &Options::default(), &Silent)?;
    println!("mirror   {} to s3://{BUCKET}/{PREFIX}", summary_line(&first));
    let again = mirror(&source, &store, &Options::default(), &Silent)?;
    println!("again    {}", summary_line(&again));

    println!("clone    git clone --mirror {clone_url}");
    let clone = folder.path().join("clone");
    let clone_words = ["clone", "-q", "--mirror", &clone_url, "clone"];
    run(git(folder.path()).args(clone_words).env("no_proxy", "*"), b"");
    run(git(&clone).args(["fsck", "--full", "--strict"]), b"");
    same(repo.path(), &clone)?;
    println!("right    refs, HEAD and objects are the source's; git fsck finds no fault");

    if serve {
        println!("\nBoth servers stay until Ctrl-C. With the binary:");
        println!(
            "  export AWS_ACCESS_KEY_ID={} AWS_SECRET_ACCESS_KEY={}",
            s3.access_key, s3.secret_key
        );
        println!("  mirror-git-to-s3 --source {source_url} \\");
        println!("      --target s3://{BUCKET}/other.git --endpoint-url {}", s3.endpoint());
        println!("  git clone {}/{BUCKET}/other.git", s3.endpoint());
        wait_for_ctrl_c()?;
    }
    Ok(())
}

/// A bare repository with some history, so that its pack has deltas, and a tag.
fn sample() -> Repo {
    let repo = Repo::new();
    let mut text = String::new();
    for line in 1..=20 {
        text += &format!("line {line} of a file that grows with every commit\n");
        repo.commit("refs/heads/main", &[("README", text.as_bytes()), ("LICENSE", b"MIT\n")]);
    }
    repo.git(&["branch", "topic", "main~3"]);
    repo.git(&["tag", "-a", "-m", "the first release", "v1.0", "main~5"]);
    repo
}

/// Both ends. Nothing is sent yet.
fn open(source: &str, s3: &S3Server) -> Result<(SmartHttp, Retry<S3Store>), Box<dyn Error>> {
    // A proxy of this machine's has no part in what goes over loopback; `Client::new` would ask it.
    let client = Client::with_environment(&Settings::default(), &Environment::default())?;
    let source = SmartHttp::new(source, client.clone(), Auth::none())?;
    let config = S3Config {
        bucket: BUCKET.into(),
        prefix: PREFIX.into(),
        region: "us-east-1".into(),
        endpoint: Some(s3.endpoint()),
        ..S3Config::default()
    };
    let keys = Credentials::new(&s3.access_key, &s3.secret_key);
    let store = S3Store::new(config, client, Provider::fixed(keys))?;
    Ok((source, Retry::new(store, Policy::default())))
}

fn summary_line(summary: &Summary) -> String {
    format!(
        "{} refs, {} objects written, {} requests to the source, {} to the store, {:.2} s",
        summary.refs,
        summary.objects_written,
        summary.source_requests,
        summary.store_requests,
        summary.elapsed.as_secs_f64(),
    )
}

/// Is the clone what the source is?
fn same(source: &Path, clone: &Path) -> Result<(), Box<dyn Error>> {
    let head = |dir: &Path| std::fs::read_to_string(dir.join("HEAD"));
    if all_refs(source) != all_refs(clone) {
        return Err("the clone's refs are not the source's".into());
    }
    if head(source)? != head(clone)? {
        return Err("the clone's HEAD is not the source's".into());
    }
    if all_objects(source) != all_objects(clone) {
        return Err("the clone's objects are not the source's".into());
    }
    Ok(())
}

fn wait_for_ctrl_c() -> Result<(), Box<dyn Error>> {
    let mut signals = signal_hook::iterator::Signals::new([
        signal_hook::consts::SIGINT,
        signal_hook::consts::SIGTERM,
    ])?;
    signals.forever().next();
    Ok(())
}
