//! What the benches share: a repository to work on, and a stopwatch.
#![allow(dead_code)] // Each bench uses a part of it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A bare repository: the one that `BENCH_REPO` names, or one made for this run.
pub struct BenchRepo {
    pub path: PathBuf,
    /// Objects that its refs reach.
    pub objects: u64,
    _made: Option<tempfile::TempDir>,
}

impl BenchRepo {
    pub fn open() -> Self {
        let (path, made) = match std::env::var_os("BENCH_REPO") {
            Some(path) => (PathBuf::from(path).canonicalize().expect("BENCH_REPO exists"), None),
            None => {
                let dir = tempfile::tempdir().expect("a temporary folder");
                (make(dir.path()), Some(dir))
            }
        };
        let count = git(&path, &["rev-list", "--objects", "--all", "--no-object-names", "--count"]);
        let objects = String::from_utf8_lossy(&count).trim().parse().expect("a number");
        BenchRepo { path, objects, _made: made }
    }

    /// All of it as one pack.
    pub fn pack(&self) -> Vec<u8> {
        git(&self.path, &["pack-objects", "--all", "--stdout", "-q", "--delta-base-offset"])
    }
}

/// 1,433 commits of six objects each (8,598 in all): a commit, two trees, three blobs. Files are
/// edited in the middle, so that most blobs are deltas.
fn make(dir: &Path) -> PathBuf {
    let path = dir.join("bench.git");
    git(dir, &["init", "-q", "--bare", "-b", "main", "bench.git"]);
    let mut stream = String::new();
    for commit in 0..1433_u32 {
        stream += "commit refs/heads/main\ncommitter B <b@example.com> 1700000000 +0000\n";
        stream += "data 7\na edit\n\n";
        for file in 0..3 {
            let mut text = String::new();
            for line in 0..120_u32 {
                let edit = if line == commit % 120 { commit } else { 0 };
                let word = (line * 7919 + file * 104_729).wrapping_mul(2_654_435_761);
                text += &format!("{word:x} {edit} a line of a file\n");
            }
            text += &format!("{commit}\n");
            let name = format!("d{}/f{file}", commit % 40);
            stream += &format!("M 100644 inline {name}\ndata {}\n{text}\n", text.len());
        }
    }
    let mut import = command(&path, &["fast-import", "--quiet"]);
    let mut child = import.stdin(Stdio::piped()).spawn().expect("git runs");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(stream.as_bytes()).expect("git reads");
    drop(stdin);
    assert!(child.wait().expect("git ends").success());
    git(&path, &["repack", "-adfq"]);
    path
}

fn command(dir: &Path, words: &[&str]) -> Command {
    let mut command = Command::new("git");
    command.current_dir(dir).args(words);
    command.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null");
    command
}

/// Runs git and gives what it printed.
pub fn git(dir: &Path, words: &[&str]) -> Vec<u8> {
    let out = command(dir, words).stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let out = out.expect("git runs");
    assert!(out.status.success(), "git {words:?}");
    out.stdout
}

/// The shortest of `runs`: what disturbs a run only makes it longer.
pub fn best(runs: usize, mut work: impl FnMut()) -> Duration {
    let once = || {
        let begun = Instant::now();
        work();
        begun.elapsed()
    };
    std::iter::repeat_with(once).take(runs.max(1)).min().expect("at least one run")
}

/// `BENCH_RUNS`, or `default`.
pub fn runs(default: usize) -> usize {
    std::env::var("BENCH_RUNS").ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// A running process's greatest resident size so far, as Linux tells it.
pub fn peak_of(process: u32) -> Option<f64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse().ok()?;
    Some(kib / 1024.0)
}
