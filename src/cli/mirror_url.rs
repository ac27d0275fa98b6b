//! The URL that a mirror is read from: that of `lfs-agent`, and that of git's remote.

use std::fmt;

use super::error::CliError;
use super::urls;

/// Where a mirror is read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MirrorUrl {
    /// As everybody reads it: always [`SourceUrl::Http`](urls::SourceUrl::Http).
    Http(urls::SourceUrl),
    /// As its writer sees it.
    Target(urls::TargetUrl),
    /// Wherever the `mirror::` URL of git's remote says.
    OfRemote,
}

impl fmt::Display for MirrorUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MirrorUrl::Http(url) => url.fmt(f),
            MirrorUrl::Target(url) => url.fmt(f),
            MirrorUrl::OfRemote => f.pad("mirror::"),
        }
    }
}

impl MirrorUrl {
    /// Reads the URL of a git remote: `mirror::…`.
    pub fn of_remote(url: &str) -> Result<Self, CliError> {
        match url.strip_prefix("mirror::") {
            Some(url) => mirror_url(url, "mirror::"),
            None => Err(CliError::new("the remote's URL does not begin with mirror::")),
        }
    }
}

pub(super) fn mirror_url(text: &str, command: &str) -> Result<MirrorUrl, CliError> {
    let text = text.strip_prefix("mirror::").unwrap_or(text);
    if text.starts_with("s3://") || text.starts_with("file://") {
        return urls::TargetUrl::parse(text).map(MirrorUrl::Target);
    }
    match urls::SourceUrl::parse(text) {
        Ok(url @ urls::SourceUrl::Http { .. }) => Ok(MirrorUrl::Http(url)),
        Err(error) if text.starts_with("http") => Err(error),
        _ if urls::is_ssh(text) => Err(CliError::new(format!("{command}: {}", urls::NO_SSH))),
        _ => Err(CliError::new(format!(
            "{command}: expected https://…, s3://BUCKET/PREFIX or file:///DIRECTORY"
        ))),
    }
}
