//! A run that succeeds and one that fails, for the tests of this folder.

use std::time::Duration;

use super::Report;
use crate::cli::manifest::Pair;
use crate::cli::urls::{SourceUrl, TargetUrl};
use crate::mirror::{Holds, MirrorError, RefChange, Status, Summary};
use crate::store::Usage;

pub(super) fn pair() -> Pair {
    Pair {
        source: SourceUrl::parse("https://me:secret@h/r").unwrap(),
        target: TargetUrl::parse("s3://b/p").unwrap(),
    }
}

pub(super) fn summary(status: Status) -> Summary {
    Summary {
        status,
        changes: vec![
            change("HEAD", None, Some("ref: refs/heads/a")),
            change("refs/heads/a", None, Some("1111")),
            change("refs/heads/b", None, Some("2222")),
            change("refs/heads/c", Some("3333"), Some("4444")),
            change("refs/heads/d", Some("5555"), None),
        ],
        refs: 1_200,
        objects_written: 1_234,
        bytes_written: 5_872_026,
        lfs_written: 0,
        lfs_missing: Vec::new(),
        lfs_bytes_written: 26,
        holds: Some(Holds {
            packs: 1,
            objects: 1300,
            bytes: 6_000_000,
            lfs_objects: 2,
            lfs_bytes: 30,
        }),
        published_at: Some("2026-11-24T13:31:31Z".into()),
        source_requests: 3,
        store_requests: 1_258,
        store_usage: Usage { writes: 1_250, reads: 8, bytes_sent: 9, ..Usage::default() },
        elapsed: Duration::from_millis(2_340),
    }
}

pub(super) fn failed(error: impl Into<MirrorError>) -> Report {
    Report::of_error(&pair(), &error.into(), Duration::from_secs(1), None)
}

fn change(name: &str, old: Option<&str>, new: Option<&str>) -> RefChange {
    let own = |text: Option<&str>| text.map(str::to_owned);
    RefChange { name: name.to_owned(), old: own(old), new: own(new) }
}
