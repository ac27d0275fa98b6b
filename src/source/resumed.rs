//! A file behind HTTP as a stream that survives breaks: it is asked for again from where it was
//! (`Range`, RFC 9110), on condition that it still is the same file (`If-Range`).

use std::io::{self, Read};
use std::time::Duration;

use ureq::http::header::{self, HeaderName, HeaderValue};
use ureq::http::{HeaderMap, Response};
use ureq::{Body, BodyReader};
use url::Url;

use super::error::{SourceError, SourceErrorKind};
use super::exchange::{fatal, from_ureq, shown, transient};
use crate::run::retry::{Backoff, Policy, sleep};

/// Tries with no progress between them.
const POLICY: Policy = Policy::of(5, Duration::from_millis(200));

/// So much has to come for the tries to begin anew.
const PROGRESS_BYTES: u64 = 64 << 10;

/// One header of a request.
pub(super) type Header = (HeaderName, HeaderValue);

/// Sends one GET, follows redirects as they may be followed, and answers with whatever came.
pub(super) type Get<'a> =
    Box<dyn Fn(&Url, &[Header]) -> Result<Response<Body>, SourceError> + Send + Sync + 'a>;

/// Is it still wanted?
pub(super) type Cancelled<'a> = &'a (dyn Fn() -> bool + Send + Sync);

pub(super) struct Resumed<'a> {
    get: Get<'a>,
    url: Url,
    cancelled: Cancelled<'a>,
    /// What says that the file is the same: a strong entity tag, or else its date.
    validator: Option<HeaderValue>,
    len: Option<u64>,
    body: Option<BodyReader<'static>>,
    offset: u64,
    opened_at: u64,
    backoff: Backoff,
}

impl<'a> Resumed<'a> {
    /// Asks for the file. `None`: there is none, or it is not for us.
    pub(super) fn open(
        get: Get<'a>,
        url: Url,
        cancelled: Cancelled<'a>,
    ) -> Result<Option<Self>, SourceError> {
        let response = get(&url, &[])?;
        if response.status().as_u16() != 200 {
            log::debug!("{}: HTTP {}", shown(&url), response.status().as_u16());
            return Ok(None);
        }
        let validator = validator(response.headers());
        let len = response.body().content_length();
        let body = Some(response.into_body().into_reader());
        let backoff = Backoff::new(POLICY);
        let (offset, opened_at) = (0, 0);
        Ok(Some(Resumed { get, url, cancelled, validator, len, body, offset, opened_at, backoff }))
    }

    /// Asks for the rest.
    fn reopen(&mut self) -> Result<BodyReader<'static>, SourceError> {
        let place = shown(&self.url);
        let range = HeaderValue::from_str(&format!("bytes={}-", self.offset));
        let mut headers = vec![(header::RANGE, range.expect("digits"))];
        if let Some(validator) = &self.validator {
            headers.push((header::IF_RANGE, validator.clone()));
        }
        let response = (self.get)(&self.url, &headers)?;
        let changed = || fatal(&place, "it changed while it was read".into());
        self.opened_at = self.offset;
        match response.status().as_u16() {
            206 => {
                let range = response.headers().get(header::CONTENT_RANGE);
                let range = range.and_then(|value| value.to_str().ok()).unwrap_or_default();
                match begins_at(range) == Some(self.offset) {
                    true => Ok(response.into_body().into_reader()),
                    false => Err(fatal(&place, format!("it sends a different range: {range:?}"))),
                }
            }
            // Ranges are not known there: what was read comes again.
            200 if self.validator.is_some() && validator(response.headers()) == self.validator => {
                let mut body = response.into_body().into_reader();
                let skipped = io::copy(&mut body.by_ref().take(self.offset), &mut io::sink());
                match skipped {
                    Ok(skipped) if skipped == self.offset => Ok(body),
                    Ok(_) => Err(changed()),
                    Err(error) => Err(from_ureq(&place, &ureq::Error::from(error))),
                }
            }
            200 | 412 | 416 => Err(changed()),
            status @ (408 | 429 | 500..=599) => Err(transient(&place, format!("HTTP {status}"))),
            status => Err(fatal(&place, format!("HTTP {status}"))),
        }
    }

    /// After a break: `Ok` is another try.
    fn pause(&mut self, error: SourceError) -> io::Result<()> {
        self.body = None;
        let SourceErrorKind::Transient { retry_after } = error.kind else {
            return Err(io::Error::other(error));
        };
        if self.offset >= self.opened_at + PROGRESS_BYTES {
            self.backoff = Backoff::new(POLICY);
        }
        log::info!("{error}; resuming at byte {}", self.offset);
        match self.backoff.wait_after(retry_after) {
            Some(wait) if sleep(wait, self.cancelled) => Ok(()),
            _ => Err(io::Error::other(error)),
        }
    }
}

impl Read for Resumed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            let body = match self.body.take() {
                Some(body) => Ok(body),
                None => self.reopen(),
            };
            let mut body = match body {
                Ok(body) => body,
                Err(error) => {
                    self.pause(error)?;
                    continue;
                }
            };
            let place = shown(&self.url);
            let error = match body.read(buffer) {
                Ok(0) if self.len.is_some_and(|len| self.offset < len) => {
                    transient(&place, "it ended early".into())
                }
                Ok(read) => {
                    self.offset += read as u64;
                    self.body = Some(body);
                    return Ok(read);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                    self.body = Some(body);
                    return Err(error);
                }
                Err(error) => from_ureq(&place, &ureq::Error::from(error)),
            };
            self.pause(error)?;
        }
    }
}

/// `bytes 100-199/200`.
fn begins_at(range: &str) -> Option<u64> {
    range.strip_prefix("bytes ")?.split_once('-')?.0.parse().ok()
}

/// A weak tag does not say that bytes are the same.
fn validator(headers: &HeaderMap) -> Option<HeaderValue> {
    let tag = headers.get(header::ETAG).filter(|tag| tag.as_bytes().starts_with(b"\""));
    tag.or_else(|| headers.get(header::LAST_MODIFIED)).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    const CONTENT: &[u8] = b"0123456789abcdefghijklmnopqrstuvwxyz";

    /// A server that sends at most `most` bytes an answer.
    fn server(most: usize, ranges: bool, tag: Option<&'static str>) -> Get<'static> {
        let served = Mutex::new(0);
        Box::new(move |_, headers| {
            let range = headers.iter().find(|(name, _)| *name == header::RANGE);
            let at = range.filter(|_| ranges).map_or(0, |(_, value)| {
                let text = value.to_str().unwrap();
                text.trim_start_matches("bytes=").trim_end_matches('-').parse().unwrap()
            });
            *served.lock().unwrap() += 1;
            let mut response = Response::builder().status(if at > 0 { 206 } else { 200 });
            if let Some(tag) = tag {
                response = response.header(header::ETAG, tag);
            }
            if at > 0 {
                response = response.header(header::CONTENT_RANGE, format!("bytes {at}-35/36"));
            }
            let end = if ranges { (at + most).min(36) } else { 36 };
            let data = CONTENT[at..end].to_vec();
            Ok(response.body(Body::builder().data(data)).unwrap())
        })
    }

    fn read(get: Get<'_>) -> io::Result<Vec<u8>> {
        let url = Url::parse("http://h/clone.bundle").unwrap();
        let mut resumed = Resumed::open(get, url, &|| false).unwrap().unwrap();
        resumed.len = Some(36);
        let mut content = Vec::new();
        resumed.read_to_end(&mut content).map(|_| content)
    }

    #[test]
    fn ranges_follow_until_the_file_is_whole() {
        for most in [9, 12, 35, 36, 100] {
            assert_eq!(read(server(most, true, Some("\"x\""))).unwrap(), CONTENT, "{most}");
        }
        assert_eq!(read(server(9, true, None)).unwrap(), CONTENT);
    }

    #[test]
    fn file_that_changes_and_range_that_was_not_asked_for_are_errors() {
        let first = Mutex::new(true);
        let changing: Get<'_> = Box::new(move |_, _| {
            let is_first = std::mem::take(&mut *first.lock().unwrap());
            let tag = if is_first { "\"a\"" } else { "\"b\"" };
            let response = Response::builder().status(200).header(header::ETAG, tag);
            let data = CONTENT[..if is_first { 10 } else { 36 }].to_vec();
            Ok(response.body(Body::builder().data(data)).unwrap())
        });
        assert!(read(changing).unwrap_err().to_string().contains("changed"));
        let other: Get<'_> = Box::new(|_, headers| {
            let status = if headers.is_empty() { 200 } else { 206 };
            let response =
                Response::builder().status(status).header(header::CONTENT_RANGE, "bytes 3-35/36");
            Ok(response.body(Body::builder().data(CONTENT[..10].to_vec())).unwrap())
        });
        assert!(read(other).unwrap_err().to_string().contains("a different range"));
    }

    #[test]
    fn server_without_ranges_sends_again_what_was_read() {
        let answers = Mutex::new(0);
        let get: Get<'_> = Box::new(move |_, _| {
            let mut answers = answers.lock().unwrap();
            *answers += 1;
            let response = Response::builder().status(200).header(header::ETAG, "\"a\"");
            let data = CONTENT[..if *answers < 3 { 10 } else { 36 }].to_vec();
            Ok(response.body(Body::builder().data(data)).unwrap())
        });
        assert_eq!(read(get).unwrap(), CONTENT);
    }

    #[test]
    fn what_is_not_there_is_no_error() {
        for status in [404, 401, 403, 500, 206, 304] {
            let get: Get<'_> = Box::new(move |_, _| {
                Ok(Response::builder().status(status).body(Body::builder().data("")).unwrap())
            });
            let url = Url::parse("http://h/clone.bundle").unwrap();
            assert!(Resumed::open(get, url, &|| false).unwrap().is_none(), "{status}");
        }
    }

    #[test]
    fn weak_tags_are_no_proof() {
        let mut headers = HeaderMap::new();
        headers.insert(header::ETAG, HeaderValue::from_static("W/\"x\""));
        assert_eq!(validator(&headers), None);
        headers.insert(header::LAST_MODIFIED, HeaderValue::from_static("today"));
        assert_eq!(validator(&headers), Some(HeaderValue::from_static("today")));
        assert_eq!(begins_at("bytes 12-35/36"), Some(12));
        assert_eq!(begins_at("items 12-35/36"), None);
    }
}
