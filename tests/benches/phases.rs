//! Where the time of a pack goes, on one thread and without a store: each line does what the line
//! above does and one thing more. For finding what to make faster, and for seeing that a change did.
//!
//! ```text
//! just bench phases
//! BENCH_REPO=/path/of/a/bare/repository just bench phases     # BENCH_RUNS=5: best of so many
//! ```
//! Contents of bases stay in memory here, so the repository's inflated objects must fit.

mod support;

use std::collections::HashMap;
use std::time::Duration;

use mirror_git_to_s3::git::object::{Kind, ObjectFormat, Oid, hash_object};
use mirror_git_to_s3::pack::deflate::Deflater;
use mirror_git_to_s3::pack::delta;
use mirror_git_to_s3::pack::entry::EntryKind;
use mirror_git_to_s3::pack::loose::{Rewrap, encode_loose};
use mirror_git_to_s3::pack::reader::{PackError, PackReader};
use support::{BenchRepo, best, runs};

fn main() {
    let repo = BenchRepo::open();
    let pack = repo.pack();
    let runs = runs(3);
    println!("{} objects, {:.1} MB of pack, best of {runs}", repo.objects, mb(pack.len()));
    let mut inflated = 0;
    let parsing = best(runs, || inflated = parse(&pack));
    row("parse and inflate", parsing, inflated);
    let mut content = 0;
    let resolving = best(runs, || content = resolve(&pack, false).0);
    row("  + resolve deltas, hash", resolving, content);
    let mut loose = 0;
    let encoding = best(runs, || (content, loose) = resolve(&pack, true));
    row("  + encode as loose objects", encoding, content);
    println!("loose objects: {:.1} MB", mb(loose));
}

fn mb(bytes: usize) -> f64 {
    bytes as f64 / 1e6
}

fn row(what: &str, time: Duration, bytes: usize) {
    let seconds = time.as_secs_f64();
    println!(
        "{what:<30} {seconds:>8.3} s {:>8.0} MB/s of {:.1} MB",
        mb(bytes) / seconds,
        mb(bytes)
    );
}

/// Answers the inflated bytes of all entries.
fn parse(pack: &[u8]) -> usize {
    let mut reader = PackReader::new(pack, ObjectFormat::Sha1).expect("git makes packs");
    let mut inflated = 0;
    while reader.next_entry().expect("git makes packs").is_some() {
        let count = |_: &[u8], bytes: &[u8]| {
            inflated += bytes.len();
            Ok::<_, PackError>(())
        };
        reader.read_body(count).expect("git makes packs");
    }
    inflated
}

/// Answers the bytes of all contents and of all loose objects. git puts bases before their deltas,
/// so one pass does.
fn resolve(pack: &[u8], encode: bool) -> (usize, usize) {
    let mut reader = PackReader::new(pack, ObjectFormat::Sha1).expect("git makes packs");
    let (mut by_offset, mut by_oid) = (HashMap::<u64, usize>::new(), HashMap::<Oid, usize>::new());
    let mut deflater = Deflater::new(1);
    let mut contents: Vec<(Kind, Vec<u8>)> = Vec::new();
    let (mut content_bytes, mut loose_bytes) = (0, 0);
    while let Some(header) = reader.next_entry().expect("git makes packs") {
        let (mut raw, mut inflated) = (Vec::new(), Vec::new());
        reader.read_small(Some(&mut raw), &mut inflated).expect("git makes packs");
        let (kind, content) = match header.kind {
            EntryKind::Object(kind) => {
                if encode {
                    let mut loose = Vec::new();
                    let mut rewrap = Rewrap::new(kind, header.inflated_len, &mut loose);
                    rewrap.push(&raw, &mut loose);
                    rewrap.finish(&mut loose).expect("git makes packs");
                    loose_bytes += loose.len();
                }
                (kind, inflated)
            }
            EntryKind::OfsDelta { .. } | EntryKind::RefDelta { .. } => {
                let at = match header.kind {
                    EntryKind::OfsDelta { base_offset } => by_offset.get(&base_offset),
                    EntryKind::RefDelta { base } => by_oid.get(&base),
                    EntryKind::Object(_) => None,
                };
                let (kind, base) = &contents[*at.expect("bases come first")];
                let mut content = Vec::new();
                delta::apply(base, &inflated, &mut content).expect("git makes packs");
                if encode {
                    loose_bytes += encode_loose(*kind, &content, &mut deflater).len();
                }
                (*kind, content)
            }
        };
        let oid =
            hash_object(ObjectFormat::Sha1, kind, &content).expect("no collision in the pack");
        by_offset.insert(header.offset, contents.len());
        by_oid.insert(oid, contents.len());
        content_bytes += content.len();
        contents.push((kind, content));
    }
    (content_bytes, loose_bytes)
}
