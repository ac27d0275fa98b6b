//! Replays every seed in `fuzz/seeds/<target>/`: what a fuzzer starts from, and what it once found.

#[path = "../fuzz/checks.rs"]
mod checks;

use std::path::Path;

fn replay(target: &str, check: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
    let mut count = 0;
    for file in std::fs::read_dir(folder).expect("every target has a folder of seeds") {
        let path = file.unwrap().path();
        println!("{}", path.display()); // shown if the check panics
        check(&std::fs::read(path).unwrap());
        count += 1;
    }
    assert!(count > 0, "{target} has no seeds");
}

#[test]
fn pkt_line_holds_for_every_seed() {
    replay("pkt_line", checks::pkt_line);
}

#[test]
fn advertisement_holds_for_every_seed() {
    replay("advertisement", checks::advertisement);
}

#[test]
fn entry_holds_for_every_seed() {
    replay("entry", checks::entry);
}

#[test]
fn delta_holds_for_every_seed() {
    replay("delta", checks::delta);
}

#[test]
fn pack_reader_holds_for_every_seed() {
    replay("pack_reader", checks::pack_reader);
}
