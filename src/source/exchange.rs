//! What all requests to a source's servers have in common: redirects, refusals, and how their errors
//! are reported. No error shows userinfo, a query or a header.

use std::fmt;
use std::time::{Duration, Instant};

use ureq::Body;
use ureq::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use ureq::http::{Response, StatusCode, Uri};
use url::Url;

use super::error::{SourceError, SourceErrorKind};
use crate::git::refs::Skipped;
use crate::http;

/// Some forges look for `git/` before they speak git at all.
pub const USER_AGENT: &str = concat!("git/2.0 (mirror-git-to-s3 ", env!("CARGO_PKG_VERSION"), ")");

/// As many as git allows libcurl by default would be 20; no forge needs more than two.
pub(super) const MAX_REDIRECTS: usize = 5;

/// An address that expires within this is no longer used; git-lfs does the same.
const EXPIRY_MARGIN: Duration = Duration::from_secs(5);

/// Where one object can be had, for a while.
#[derive(Clone)]
pub struct Download {
    pub(super) href: Url,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    pub(super) expires: Option<Instant>,
}

impl Download {
    /// An address without an end, with the headers that belong to it.
    pub fn new(href: Url, headers: Vec<(HeaderName, HeaderValue)>) -> Self {
        Download { href, headers, expires: None }
    }

    /// Where it is.
    pub fn href(&self) -> &Url {
        &self.href
    }

    /// Will it have expired before a request is there?
    pub fn is_expired(&self) -> bool {
        self.expires.is_some_and(|at| at < Instant::now() + EXPIRY_MARGIN)
    }
}

impl fmt::Debug for Download {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Download({})", shown(&self.href))
    }
}

/// A URL for people: no userinfo, no query, no fragment.
pub(super) fn shown(url: &Url) -> String {
    let mut url = url.clone();
    let _ = (url.set_username(""), url.set_password(None));
    url.set_query(None);
    url.set_fragment(None);
    url.into()
}

pub(super) fn fatal(place: &str, message: String) -> SourceError {
    SourceError { kind: SourceErrorKind::Fatal, url: place.to_owned(), message }
}

pub(super) fn transient(place: &str, message: String) -> SourceError {
    let kind = SourceErrorKind::Transient { retry_after: None };
    SourceError { kind, url: place.to_owned(), message }
}

pub(super) fn from_ureq(place: &str, error: &ureq::Error) -> SourceError {
    let kind = match error {
        error if http::is_denied(error) => SourceErrorKind::Denied,
        error if http::is_too_slow(error) => SourceErrorKind::TooSlow,
        error if http::is_transient(error) => SourceErrorKind::Transient { retry_after: None },
        _ => SourceErrorKind::Fatal,
    };
    SourceError { kind, url: place.to_owned(), message: http::explain(error) }
}

/// The error of a request that got no answer.
pub(super) fn unanswered(
    client: &http::Client,
    url: &Uri,
    place: &str,
    error: &ureq::Error,
) -> SourceError {
    SourceError { message: client.explain(url, error), ..from_ureq(place, error) }
}

/// Reports which refs of a source are skipped.
pub(super) fn warn_of_skipped(place: &str, skipped: &Skipped) {
    for name in &skipped.names {
        log::warn!("{place}: skipped a ref whose name git does not allow: {name}");
    }
    if skipped.more > 0 {
        log::warn!("{place}: skipped {} more such refs", skipped.more);
    }
}

/// Where a redirect leads, if `response` is one.
pub(super) fn redirect_target(
    response: &Response<Body>,
    url: &Url,
) -> Result<Option<Url>, SourceError> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let fail = |message: &str| fatal(&shown(url), message.to_owned());
    let location = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
    let location = location.ok_or_else(|| fail("redirect without a Location header"))?;
    if location.contains('\\') {
        return Err(fail("refusing a redirect to a URL with a backslash"));
    }
    let mut target = url.join(location).map_err(|_| fail("redirect to an invalid URL"))?;
    match (url.scheme(), target.scheme()) {
        (_, "https") | ("http", "http") => {}
        ("https", "http") => return Err(fail("refusing a redirect from https to http")),
        _ => return Err(fail("redirect to a URL that is neither http nor https")),
    }
    // A server must not choose who we are.
    let _ = (target.set_username(""), target.set_password(None));
    target.set_fragment(None);
    log::debug!("{} redirects to {}", shown(url), shown(&target));
    Ok(Some(target))
}

/// What a status means, and what the user can do.
pub(super) fn refusal(
    status: StatusCode,
    credentials_sent: bool,
    retry_after: Option<Duration>,
) -> (SourceErrorKind, String) {
    const HELP: &str = "add an entry to ~/.netrc (or the file that NETRC names), use \
                        --source-header-file, or put a user and token in the URL";
    let (kind, text) = match (status.as_u16(), credentials_sent) {
        (401, false) => (SourceErrorKind::Denied, format!("authentication required: {HELP}")),
        (401, true) => (SourceErrorKind::Denied, "the credentials were rejected".into()),
        (403, false) => (SourceErrorKind::Denied, format!("access denied: {HELP}")),
        (403, true) => {
            (SourceErrorKind::Denied, "these credentials do not allow reading it".into())
        }
        (404, false) => (
            SourceErrorKind::Denied,
            format!("no such repository, or it requires authentication: {HELP}"),
        ),
        (404, true) => (
            SourceErrorKind::Denied,
            "no such repository, or these credentials do not allow reading it".into(),
        ),
        (407, _) => (SourceErrorKind::Denied, "the proxy requires authentication".into()),
        (408 | 429 | 500 | 502 | 503 | 504 | 520..=529, _) => {
            (SourceErrorKind::Transient { retry_after }, "temporarily unavailable".into())
        }
        _ => (SourceErrorKind::Fatal, "unexpected response".into()),
    };
    (kind, format!("HTTP {}: {text}", status.as_u16()))
}

/// The media type in lower case, without parameters.
pub(super) fn content_type(headers: &HeaderMap) -> String {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let media = value.unwrap_or_default().split(';').next().unwrap_or_default();
    media.trim().to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_status_has_a_kind() {
        let kind = |status: u16| refusal(StatusCode::from_u16(status).unwrap(), false, None).0;
        for status in [401, 403, 404, 407] {
            assert_eq!(kind(status), SourceErrorKind::Denied, "{status}");
        }
        for status in [408, 429, 500, 502, 503, 504, 522] {
            assert_eq!(kind(status), SourceErrorKind::Transient { retry_after: None }, "{status}");
        }
        for status in [204, 400, 405, 410, 415, 501] {
            assert_eq!(kind(status), SourceErrorKind::Fatal, "{status}");
        }
    }

    #[test]
    fn a_source_error_is_found_again_in_an_io_error() {
        let error = std::io::Error::other(transient("x", "y".into()));
        assert!(SourceError::from_io(&error).is_some());
    }

    #[test]
    fn a_redirect_never_leaves_https_and_never_brings_a_login() {
        let target = |from: &str, to: &str| {
            let response = Response::builder().status(301).header(header::LOCATION, to);
            let response = response.body(Body::builder().data("")).unwrap();
            redirect_target(&response, &Url::parse(from).unwrap())
        };
        let error = target("https://h/x/info/refs?a=hush", "http://h/y").unwrap_err().to_string();
        assert!(error.contains("from https to http") && !error.contains("hush"), "{error}");
        let found = target("http://h/a/info/refs", "https://u:p@other/b/info/refs#c").unwrap();
        assert_eq!(found.unwrap().as_str(), "https://other/b/info/refs");
        let found = target("https://h/a/info/refs", "../b/refs?x").unwrap();
        assert_eq!(found.unwrap().as_str(), "https://h/a/b/refs?x");
    }
}
