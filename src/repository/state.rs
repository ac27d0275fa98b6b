//! `mirror_state/state.json`: for operators, what was published last, from where and by what.
//!
//! Written after each publication, so a run with nothing new writes nothing. It is news, never the
//! foundation: nothing reads it here, and if it can't be written that is a warning, since the refs
//! are published already. [`crate::maintain`] passes over it.

use serde::Serialize;
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::files;
use super::layout::Layout;
use crate::git::refs::{Advertisement, head_file, info_refs};
use crate::source::Source;
use crate::store::{ObjectHeaders, Store};

/// The key below the target's prefix.
pub const KEY: &str = "mirror_state/state.json";

#[derive(Serialize)]
struct State<'s> {
    /// Without secrets.
    source: String,
    /// The program and its version.
    tool: &'s str,
    /// RFC 3339, UTC, by the clock of the machine that ran it.
    published_at: String,
    layout: &'s str,
    refs: usize,
    /// SHA-256 of the files `info/refs` and `HEAD`, one after the other:
    /// `cat info/refs HEAD | sha256sum`.
    ref_fingerprint: String,
    lfs_lacking: usize,
}

/// Says in the mirror that `wanted` has just been published.
pub(crate) fn write(
    store: &dyn Store,
    source: &dyn Source,
    layout: Layout,
    wanted: &Advertisement,
    lfs_lacking: usize,
) {
    let now = OffsetDateTime::now_utc();
    let now = now.replace_nanosecond(0).unwrap_or(now);
    let state = State {
        source: source.describe(),
        tool: concat!("mirror-git-to-s3 ", env!("CARGO_PKG_VERSION")),
        published_at: now.format(&Rfc3339).unwrap_or_default(),
        layout: match layout {
            Layout::Loose => "loose",
            Layout::Pack => "pack",
        },
        refs: wanted.refs.len(),
        ref_fingerprint: fingerprint(wanted),
        lfs_lacking,
    };
    let mut file = serde_json::to_vec_pretty(&state).expect("strings and numbers are always JSON");
    file.push(b'\n');
    let headers = ObjectHeaders::changing("application/json");
    if let Err(error) = store.put(&files::key(KEY), &file, headers, None) {
        log::warn!("published, but {error}");
    }
}

fn fingerprint(wanted: &Advertisement) -> String {
    let mut hasher = Sha256::new();
    hasher.update(info_refs(&wanted.refs));
    hasher.update(head_file(&wanted.head).unwrap_or_default());
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
