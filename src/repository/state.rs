//! `mirror_state/state.json`: for operators, what was published last, from where and by what.
//!
//! Written after each publication, and by a run with nothing new only if it does not describe what is
//! published (the last write failed). It is not the foundation: if it cannot be written that is a
//! warning, because the refs are published already. But it is a second witness. An empty `info/refs`
//! can be damage, or a cache's empty answer; [`crate::mirror`] and [`crate::maintain`] believe it only
//! if the state agrees.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::error::MirrorError;
use super::files;
use super::layout::Layout;
use crate::git::refs::{Advertisement, Head, Ref, head_file, info_refs};
use crate::source::Source;
use crate::store::{ObjectHeaders, Store, StoreErrorKind};

/// The key below the target's prefix.
pub const KEY: &str = "mirror_state/state.json";

/// Ours has under 1 KiB.
const MAX_STATE_BYTES: u64 = 1 << 20;

/// What the last run to publish has recorded. Fields that an older program did not write are `None`.
#[derive(Debug, Deserialize)]
pub(crate) struct Recorded {
    source: Option<String>,
    repository: Option<String>,
    pub(crate) refs: Option<usize>,
    ref_fingerprint: Option<String>,
}

impl Recorded {
    /// `None`: there is no state.
    pub(crate) fn read(store: &dyn Store) -> Result<Option<Self>, MirrorError> {
        let file = match files::get(store, &files::key(KEY), None, MAX_STATE_BYTES) {
            Ok(Some((file, _))) => file,
            Ok(None) => return Ok(None),
            // S3 answers 403 for a missing key to those who may not list.
            Err(error) if error.kind == StoreErrorKind::Denied => {
                log::warn!("cannot compare with the last run's state: {error}");
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        let damaged = |what: &dyn std::fmt::Display| {
            MirrorError::Mirror(format!(
                "{}/{KEY} is damaged ({what}); check for a cache that answers for the store, or \
                 delete the key and run the mirror again",
                store.describe()
            ))
        };
        if file.is_empty() {
            return Err(damaged(&"0 bytes"));
        }
        serde_json::from_slice(&file).map(Some).map_err(|error| damaged(&error))
    }

    /// The URL of the repository that this is a mirror of. `None`: it only ever came in bundles.
    pub(crate) fn repository(&self) -> Option<&str> {
        let named = [&self.repository, &self.source].into_iter().flatten();
        named.map(String::as_str).find(|url| identity(url).is_some())
    }

    /// Are these the refs that it describes? `None`: it is too old to tell.
    pub(crate) fn describes(&self, refs: &[Ref], head: Option<&Head>) -> Option<bool> {
        Some(*self.ref_fingerprint.as_ref()? == fingerprint(refs, head))
    }
}

/// What is the same for all URLs of one repository: host, port and path, without scheme, userinfo, a
/// default port, a `.git` and slashes at the end. `None`: no URL. A bundle has no identity, because it
/// comes from another path or from standard input each time.
pub(crate) fn identity(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let default_port = match scheme.to_ascii_lowercase().as_str() {
        "http" => ":80",
        "https" => ":443",
        _ => return None,
    };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let host = host.to_ascii_lowercase();
    let host = host.strip_suffix(default_port).unwrap_or(&host);
    let path = path.trim_end_matches('/');
    let path = path.strip_suffix(".git").unwrap_or(path).trim_end_matches('/');
    Some(format!("{host}{path}"))
}

/// Is `source` the repository that the state names? A bundle is taken for it.
pub(crate) fn is_same_source(recorded: Option<&Recorded>, source: &str) -> bool {
    let known = recorded.and_then(Recorded::repository).and_then(identity);
    known.zip(identity(source)).is_none_or(|(known, now)| known == now)
}

#[derive(Serialize)]
struct State<'s> {
    /// Without secrets.
    source: String,
    /// Where the source has redirected to.
    #[serde(skip_serializing_if = "Option::is_none")]
    redirected_to: Option<String>,
    /// The repository's URL: of `source`, or what was known before a bundle came.
    #[serde(skip_serializing_if = "Option::is_none")]
    repository: Option<String>,
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
    recorded: Option<&Recorded>,
    layout: Layout,
    wanted: &Advertisement,
    lfs_lacking: usize,
) {
    let now = OffsetDateTime::now_utc();
    let now = now.replace_nanosecond(0).unwrap_or(now);
    let redirected_to = source.redirected_to();
    let origin = source.origin();
    let source = source.describe();
    let known = || recorded.and_then(Recorded::repository).map(str::to_owned);
    let state = State {
        repository: identity(&source).is_some().then(|| source.clone()).or(origin).or_else(known),
        source,
        redirected_to,
        tool: concat!("mirror-git-to-s3 ", env!("CARGO_PKG_VERSION")),
        published_at: now.format(&Rfc3339).unwrap_or_default(),
        layout: match layout {
            Layout::Loose => "loose",
            Layout::Pack => "pack",
        },
        refs: wanted.refs.len(),
        ref_fingerprint: fingerprint(&wanted.refs, Some(&wanted.head)),
        lfs_lacking,
    };
    let mut file = serde_json::to_vec_pretty(&state).expect("strings and numbers are always JSON");
    file.push(b'\n');
    let headers = ObjectHeaders::changing("application/json");
    if let Err(error) = store.put(&files::key(KEY), &file, headers, None) {
        log::warn!("published, but {error}");
    }
}

fn fingerprint(refs: &[Ref], head: Option<&Head>) -> String {
    let mut hasher = Sha256::new();
    hasher.update(info_refs(refs));
    hasher.update(head.and_then(head_file).unwrap_or_default());
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_one_repository_have_one_identity() {
        let wanted = identity("https://git.example/a/b");
        assert_eq!(wanted.as_deref(), Some("git.example/a/b"));
        for same in [
            "https://git.example/a/b.git",
            "https://git.example/a/b/",
            "https://git.example/a/b.git/",
            "http://git.example/a/b",
            "http://git.example:80/a/b",
            "HTTPS://user:pass@GIT.example:443/a/b",
        ] {
            assert_eq!(identity(same), wanted, "{same}");
        }
        for other in [
            "https://git.example/a/c",
            "https://git.example/A/b",
            "https://git.example/a",
            "https://other.example/a/b",
            "https://git.example:8443/a/b",
            "https://git.example:80/a/b",
        ] {
            assert_ne!(identity(other), wanted, "{other}");
        }
        for none in ["-", "bundle:/tmp/a.bundle", "standard input", "file:///a"] {
            assert_eq!(identity(none), None, "{none}");
        }
    }
}
