//! A pack from a bundle to a directory, beside `git index-pack` on the same pack in the same minute:
//! both inflate every entry, resolve every delta and name every object. The ratios are what counts:
//! they say what the ingest costs beside git's own indexer, which writes no second copy of the pack.
//!
//! ```text
//! just bench ingest
//! BENCH_REPO=/path/of/a/bare/repository BENCH_RUNS=3 just bench ingest
//! ```
//! CPU seconds are the children's, from proc_pid_stat(5); the peak is the program's own (VmHWM).

mod support;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use support::{BenchRepo, git, peak_of, runs};

/// What a command took.
#[derive(Clone, Copy)]
struct Took {
    wall: f64,
    cpu: f64,
    peak_mib: f64,
}

fn main() {
    let repo = BenchRepo::open();
    let dir = tempfile::tempdir().expect("a temporary folder");
    let pack = repo.pack();
    std::fs::write(dir.path().join("bench.pack"), &pack).expect("a pack");
    let mut bundle = b"# v2 git bundle\n".to_vec();
    let refs = git(&repo.path, &["for-each-ref", "--format=%(objectname) %(refname)"]);
    bundle.extend(refs.iter().chain(b"\n"));
    bundle.extend(&pack);
    std::fs::write(dir.path().join("bench.bundle"), &bundle).expect("a bundle");
    println!("{} objects, a pack of {} MiB", repo.objects, pack.len() >> 20);
    for run in 1..=runs(3) {
        let mut index_pack = Command::new("git");
        index_pack.args(["index-pack", "-o", "bench.idx", "bench.pack"]);
        let theirs = measure(dir.path(), &mut index_pack);
        for layout in ["pack", "loose"] {
            let mut ours = Command::new(env!("CARGO_BIN_EXE_mirror-git-to-s3"));
            let target = dir.path().join("mirror");
            ours.args(["--source", "bundle:bench.bundle", "--no-lfs", "--layout", layout, "-q"]);
            ours.args(["--target", &format!("file://{}", target.display())]);
            let took = measure(dir.path(), &mut ours);
            std::fs::remove_dir_all(&target).expect("the mirror");
            println!(
                "run {run}, {layout}: wall {:.2} s ({:.2} x index-pack's {:.2}), CPU {:.2} s \
                 ({:.2} x {:.2}), peak {:.0} MiB (git {:.0})",
                took.wall,
                took.wall / theirs.wall,
                theirs.wall,
                took.cpu,
                took.cpu / theirs.cpu,
                theirs.cpu,
                took.peak_mib,
                theirs.peak_mib,
            );
        }
    }
}

fn measure(dir: &Path, command: &mut Command) -> Took {
    let before = children_cpu();
    let begun = Instant::now();
    let quiet = command.current_dir(dir).stdout(std::process::Stdio::null());
    let mut child = quiet.spawn().expect("it starts");
    let mut peak_mib = 0.0;
    let ended = loop {
        peak_mib = peak_of(child.id()).unwrap_or(peak_mib);
        match child.try_wait().expect("it is ours") {
            Some(status) => break status,
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    assert!(ended.success(), "{command:?} failed");
    let wall = begun.elapsed().as_secs_f64();
    Took { wall, cpu: children_cpu() - before, peak_mib }
}

/// CPU seconds of all children that have ended: fields 16 and 17, in hundredths on Linux.
fn children_cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let fields: Vec<&str> = after_name.split_ascii_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(13) + ticks(14)) / 100.0
}
