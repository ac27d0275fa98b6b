//! Ordinary repositories at every memory and concurrency, each run under a watchdog: whatever the
//! sizes of objects are beside the thresholds, a run ends, and with the right mirror.
//!
//! `SOAK=200 cargo test --release --test all soak` makes as many repositories instead of a few.

use crate::support::local_git;
use std::fmt::Write as _;
use std::sync::mpsc;
use std::time::Duration;

use local_git::{LocalGit, Repo, git, run};
use mirror_git_to_s3::mirror::{Layout, Options, Summary, mirror};
use mirror_git_to_s3::progress::Silent;
use mirror_git_to_s3::source::Source;
use mirror_git_to_s3::store::memory::MemoryStore;

/// A run that takes longer hangs: each of these takes seconds at most.
const HANGS_AFTER: Duration = Duration::from_secs(60);

/// Bytes that don't compress, the same each time for the same seed.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// A `git fast-import` stream in the making: commits on `refs/heads/main`.
#[derive(Default)]
struct Import {
    stream: Vec<u8>,
    commits: usize,
}

impl Import {
    fn commit(&mut self, files: &[(String, Vec<u8>)]) {
        let mut head = String::new();
        self.commits += 1;
        let time = 1_700_000_000 + self.commits;
        let _ = write!(
            head,
            "commit refs/heads/main\ncommitter C O Mitter <committer@example.com> {time} +0000\n\
             data 2\nc\n"
        );
        self.stream.extend_from_slice(head.as_bytes());
        for (name, content) in files {
            let head = format!("M 100644 inline {name}\ndata {}\n", content.len());
            self.stream.extend_from_slice(head.as_bytes());
            self.stream.extend_from_slice(content);
            self.stream.push(b'\n');
        }
    }

    fn into_repo(self) -> Repo {
        let repo = Repo::new();
        run(git(repo.path()).args(["fast-import", "--quiet"]), &self.stream);
        repo.git(&["gc", "--quiet"]);
        repo
    }
}

/// A file that grows past an eighth of what fits into a run's room over six commits, and many
/// middle-sized files in the last commit. Sizes are for `memory` MiB.
fn growing_file_and_assets(memory: usize) -> Repo {
    let scale = |bytes: usize| bytes * memory / 64;
    let mut import = Import::default();
    let whole = noise(1, scale(4_650_000));
    for step in 0..6 {
        let len = scale(3_900_000 + step * 150_000);
        let mut files = vec![("data.bin".to_owned(), whole[..len].to_vec())];
        if step == 5 {
            let asset = |n: u64| (format!("later/{n}.bin"), noise(n + 2, scale(100_000)));
            files.extend((0..220).map(asset));
        }
        import.commit(&files);
    }
    import.into_repo()
}

/// Runs the mirror, or panics when it hangs.
fn mirrors(
    source: impl Source + 'static,
    store: &MemoryStore,
    options: &Options,
    what: &str,
) -> Summary {
    let (ended, end) = mpsc::channel();
    let (store, options) = (store.clone(), options.clone());
    std::thread::spawn(move || {
        let _ = ended.send(mirror(&source, &store, &options, &Silent));
    });
    match end.recv_timeout(HANGS_AFTER) {
        Ok(outcome) => outcome.unwrap_or_else(|error| panic!("{what}: {error}")),
        Err(_) => panic!("{what}: hangs"),
    }
}

#[test]
fn growing_file_with_assets_ends_at_every_memory_in_both_layouts() {
    for memory in [8, 16] {
        let repo = growing_file_and_assets(memory);
        let objects = repo.objects().len() as u64;
        for layout in [Layout::Loose, Layout::Pack] {
            for concurrency in [1, 64] {
                let memory_bytes = (memory as u64) << 20;
                let options = Options { layout, concurrency, memory_bytes, ..Options::default() };
                let what = format!("{layout:?}, {memory} MiB, concurrency {concurrency}");
                let source = LocalGit::new(repo.path());
                let summary = mirrors(source, &MemoryStore::new(), &options, &what);
                assert_eq!(summary.objects_written, objects, "{what}");
            }
        }
    }
}

/// Files that grow, files that change far apart, assets that come at once: sizes around the
/// thresholds of 8 MiB of memory, and a pack as git makes it or as it is repacked from scratch.
fn random_repo(seed: u64) -> Repo {
    let mut state = seed.wrapping_mul(0x2545_f491_4f6c_dd1d) | 1;
    let mut below = |end: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 16) % end
    };
    let mut import = Import::default();
    let mut files: Vec<Vec<u8>> = Vec::new();
    for step in 0..3 + below(12) {
        let mut changed = Vec::new();
        for _ in 0..1 + below(4) {
            let at = below(files.len() as u64 + 1) as usize;
            // Log-uniform up to a megabyte; half a megabyte is large.
            let bits = below(21);
            let len = below(1 << bits) as usize;
            let seed = below(1 << 40);
            match files.get_mut(at) {
                None => files.push(noise(seed, len)),
                Some(file) if below(3) == 0 => file.extend(noise(seed, len / 4)),
                Some(file) if file.len() > 100 => {
                    let from = below(file.len() as u64 - 50) as usize;
                    file.splice(from..from + 50, noise(seed, len / 16));
                }
                Some(file) => *file = noise(seed, len),
            }
            changed.push((format!("dir{}/file{at}", at % 3), files[at].clone()));
        }
        if below(4) == 0 {
            let many = 50 + below(150);
            let asset = |n: u64| (format!("assets/{step}/{n}"), noise(step << 20 | n, 12_000));
            changed.extend((0..many).map(asset));
        }
        import.commit(&changed);
    }
    let repo = import.into_repo();
    if seed.is_multiple_of(2) {
        repo.git(&["repack", "-a", "-d", "-f", "-q", "--depth=50", "--window=10"]);
    }
    repo
}

#[test]
fn generated_repositories_end_at_every_memory_in_both_layouts() {
    let count = std::env::var("SOAK").ok().and_then(|text| text.parse().ok()).unwrap_or(6);
    for seed in 0..count {
        let repo = random_repo(seed);
        let objects = repo.objects().len() as u64;
        for layout in [Layout::Loose, Layout::Pack] {
            for (memory, concurrency) in [(8, 1), (8, 64), (16, 2), (64, 64), (256, 2)] {
                let memory_bytes = memory << 20;
                let options = Options { layout, concurrency, memory_bytes, ..Options::default() };
                let what =
                    format!("seed {seed}, {layout:?}, {memory} MiB, concurrency {concurrency}");
                let source = LocalGit::new(repo.path());
                let store = MemoryStore::new();
                let summary = mirrors(source, &store, &options, &what);
                assert_eq!(summary.objects_written, objects, "{what}");
                assert_eq!(store.open_uploads(), 0, "{what}");
            }
        }
    }
}
