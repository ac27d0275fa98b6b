//! A mirror as a public reader sees it: plain GETs and HEADs, nothing signed, nothing written.
//!
//! For `verify --target https://…`. Nothing can be listed over plain HTTP: [`Store::list`] is
//! [`StoreErrorKind::Unsupported`], and who wants to know asks object by object. Besides being a
//! [`Store`], [`HttpRead::look_as_reader`] checks what git's dumb client needs of a server
//! (`http.c`: only a 404 means that something is missing).

use std::io::{self, Read};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ureq::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri};

use super::interface::{
    Condition, ETag, Key, ListPage, ObjectHeaders, ObjectInfo, OpenUpload, Part, Store, StoreError,
    StoreErrorKind, Upload,
};
use crate::http;

/// A read URL. Clones of the client share its connections.
pub struct HttpRead {
    /// Without a slash at its end.
    base: String,
    client: http::Client,
    headers: Vec<(HeaderName, HeaderValue)>,
    sent: AtomicU64,
    /// The server answers 403 for what is missing, as S3 does without `s3:ListBucket`.
    forbidden_is_missing: AtomicBool,
}

/// What a public reader would trip over; empty: nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReaderFindings {
    /// Clones fail, or get something old: the key, and what to do.
    pub errors: Vec<(String, String)>,
    /// Not wrong yet.
    pub warnings: Vec<String>,
}

type Answer = Response<ureq::Body>;

/// An error's body is read up to here to see what it speaks of.
const MAX_ERROR_BODY: u64 = 16 << 10;

impl HttpRead {
    /// `base` is `http(s)://host/path` of the mirror.
    pub fn new(base: &str, client: http::Client) -> Self {
        HttpRead {
            base: base.trim_end_matches('/').to_owned(),
            client,
            headers: Vec::new(),
            sent: AtomicU64::new(0),
            forbidden_is_missing: AtomicBool::new(false),
        }
    }

    /// Sends these with every request: who the reader is.
    #[must_use]
    pub fn with_headers(mut self, headers: Vec<(HeaderName, HeaderValue)>) -> Self {
        self.headers = headers;
        self
    }

    /// Checks what git's dumb client needs besides the files themselves.
    ///
    /// `info/refs` must be readable by anybody and not come from a cache that holds it back; what
    /// is missing must be answered with 404. From then on a 403 counts as missing if that is how
    /// this server says it.
    pub fn look_as_reader(&self) -> Result<ReaderFindings, StoreError> {
        let mut found = ReaderFindings::default();
        let refs = key("info/refs");
        let asked = "?service=git-upload-pack";
        let mut answer = self.send(Method::GET, &refs, asked, None)?;
        if !answer.status().is_success() {
            let error = self.refusal(&refs, answer);
            if error.kind == StoreErrorKind::Denied || is_kms(&error.message) {
                let advice = if is_kms(&error.message) {
                    KMS
                } else {
                    "allow everyone s3:GetObject in the bucket policy"
                };
                found.errors.push((refs.to_string(), format!("{}: {advice}", error.message)));
                return Ok(found);
            }
            // That it is missing is what `verify` finds.
            return if error.is_not_found() { Ok(found) } else { Err(error) };
        }
        let headers = answer.headers().clone();
        let as_git = self.body(&refs, &mut answer)?;
        look_at_headers(&headers, &mut found);
        // A query that no cache has seen goes to the origin, wherever queries are part of the
        // cache's key.
        let fresh = format!("{asked}&verify={:016x}", random());
        let mut answer = self.send(Method::GET, &refs, &fresh, None)?;
        if answer.status().is_success() && self.body(&refs, &mut answer)? != as_git {
            let what = "a cache returns an old copy: make it honour Cache-Control: no-cache, or \
                        not cache info/refs, HEAD and objects/info/packs";
            found.errors.push((refs.to_string(), what.to_owned()));
        }
        let absent = key("objects/00/00000000000000000000000000000000000000");
        let status = self.send(Method::GET, &absent, "", None)?.status().as_u16();
        if status == 403 {
            self.forbidden_is_missing.store(true, Ordering::Relaxed);
            let what = "a missing key is answered with 403, which git treats as an error: allow \
                        readers s3:ListBucket on the bucket (examples/reader-policy.json)";
            found.errors.push((absent.to_string(), what.to_owned()));
        } else if status != 404 {
            let what = format!("a missing key is answered with {status}: git needs a 404");
            found.errors.push((absent.to_string(), what));
        }
        Ok(found)
    }

    fn send(
        &self,
        method: Method,
        key: &Key,
        query: &str,
        range: Option<String>,
    ) -> Result<Answer, StoreError> {
        let verb = "get";
        let url = format!("{}/{}{query}", self.base, encoded(key.as_str()));
        let uri: Uri = url.parse().map_err(|error| {
            StoreError::new(StoreErrorKind::Other, verb, self.at(key), format!("{error}"))
        })?;
        let mut request = Request::builder().method(method).uri(uri.clone());
        if let Some(range) = range {
            request = request.header("Range", range);
        }
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let request = request.body(()).map_err(|error| {
            StoreError::new(StoreErrorKind::Other, verb, self.at(key), error.to_string())
        })?;
        self.sent.fetch_add(1, Ordering::Relaxed);
        self.client.agent(&uri).run(request).map_err(|error| {
            let kind = match &error {
                error if http::is_denied(error) => StoreErrorKind::Denied,
                error if http::is_transient(error) => {
                    StoreErrorKind::Transient { retry_after: None }
                }
                _ => StoreErrorKind::Other,
            };
            StoreError::new(kind, verb, self.at(key), self.client.explain(&uri, &error))
        })
    }

    fn at(&self, key: &Key) -> String {
        format!("{}/{key}", self.base)
    }

    fn refusal(&self, key: &Key, mut answer: Answer) -> StoreError {
        let status = answer.status().as_u16();
        let mut body = Vec::new();
        // What can't be read of an error's body says nothing.
        let _ = answer.body_mut().as_reader().take(MAX_ERROR_BODY).read_to_end(&mut body);
        let kms = is_kms(&String::from_utf8_lossy(&body));
        let forbidden_is_missing = self.forbidden_is_missing.load(Ordering::Relaxed);
        let kind = match status {
            400 | 403 if kms => StoreErrorKind::Other,
            404 | 410 => StoreErrorKind::NotFound,
            403 if forbidden_is_missing => StoreErrorKind::NotFound,
            401 | 403 => StoreErrorKind::Denied,
            408 | 429 | 500.. => StoreErrorKind::Transient { retry_after: None },
            _ => StoreErrorKind::Other,
        };
        let mut words = format!("the server responded with {status}");
        if kms {
            words += " and mentions KMS: ";
            words += KMS;
        }
        let mut error = StoreError::new(kind, "get", self.at(key), words);
        error.status = Some(status);
        error
    }

    fn body(&self, key: &Key, answer: &mut Answer) -> Result<Vec<u8>, StoreError> {
        let mut body = Vec::new();
        let read = answer.body_mut().as_reader().take(256 << 20).read_to_end(&mut body);
        read.map_err(|error| self.broken(key, &error)).map(|_| body)
    }

    /// See [`http::check_object`].
    fn check_object(
        &self,
        key: &Key,
        answer: &Answer,
        range: Option<&Range<u64>>,
    ) -> Result<(), StoreError> {
        http::check_object(answer, range)
            .map_err(|message| StoreError::new(StoreErrorKind::Other, "get", self.at(key), message))
    }

    fn broken(&self, key: &Key, error: &io::Error) -> StoreError {
        let kind = StoreErrorKind::Transient { retry_after: None };
        StoreError::new(kind, "get", self.at(key), error.to_string())
    }

    fn read_only<T>(&self, verb: &'static str) -> Result<T, StoreError> {
        let words = "not possible over plain HTTP";
        Err(StoreError::new(StoreErrorKind::Unsupported, verb, &self.base, words))
    }
}

const KMS: &str = "objects encrypted with a KMS key cannot be read anonymously; mirror with --sse \
                   AES256, or none";

fn is_kms(text: &str) -> bool {
    text.contains("KMS") || text.contains("kms:")
}

fn random() -> u64 {
    use std::hash::BuildHasher;
    std::hash::RandomState::new().hash_one(std::time::SystemTime::now())
}

fn key(name: &'static str) -> Key {
    Key::new(name).expect("a constant without odd characters")
}

/// A key as a URL's path.
fn encoded(key: &str) -> String {
    use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
    const KEEP: AsciiSet =
        NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'_').remove(b'.').remove(b'~');
    utf8_percent_encode(key, &KEEP).to_string()
}

/// What `info/refs` came with.
fn look_at_headers(headers: &HeaderMap, found: &mut ReaderFindings) {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("");
    let refs = || "info/refs".to_owned();
    if text("content-type").starts_with("application/x-git-") {
        let what =
            format!("Content-Type {} makes git use the smart protocol", text("content-type"));
        found.errors.push((refs(), what));
    }
    let control = text("cache-control").to_ascii_lowercase();
    let asks_again =
        ["no-cache", "no-store", "max-age=0"].iter().any(|word| control.contains(word));
    let age: u64 = text("age").trim().parse().unwrap_or(0);
    if age > 0 {
        let what = format!(
            "it has been in a cache for {age} seconds (Cache-Control: {control}): readers may get \
             old refs"
        );
        if asks_again { found.warnings.push(what) } else { found.errors.push((refs(), what)) }
    } else if !asks_again {
        let words = "info/refs is served without Cache-Control: no-cache: caches may keep old refs";
        found.warnings.push(words.to_owned());
    }
}

impl Store for HttpRead {
    fn describe(&self) -> String {
        self.base.clone()
    }

    fn get(
        &self,
        key: &Key,
        range: Option<Range<u64>>,
        max_len: u64,
    ) -> Result<(Vec<u8>, Option<ETag>), StoreError> {
        if range.as_ref().is_some_and(|range| range.is_empty()) {
            return Ok((Vec::new(), None));
        }
        let header = range.as_ref().map(|r| format!("bytes={}-{}", r.start, r.end - 1));
        let mut answer = self.send(Method::GET, key, "", header)?;
        if !answer.status().is_success() {
            return Err(self.refusal(key, answer));
        }
        self.check_object(key, &answer, range.as_ref())?;
        let whole = answer.status().as_u16() != 206;
        let (skip, wanted) = match &range {
            Some(range) if whole => (range.start, range.end - range.start),
            _ => (0, max_len.saturating_add(1)),
        };
        let mut reader = answer.body_mut().as_reader();
        io::copy(&mut (&mut reader).take(skip), &mut io::sink())
            .map_err(|error| self.broken(key, &error))?;
        let mut body = Vec::new();
        reader.take(wanted).read_to_end(&mut body).map_err(|error| self.broken(key, &error))?;
        if body.len() as u64 > max_len {
            let words = format!("it has more than {max_len} bytes");
            return Err(StoreError::new(StoreErrorKind::Other, "get", self.at(key), words));
        }
        Ok((body, None))
    }

    fn open(&self, key: &Key, offset: u64) -> Result<Box<dyn Read + Send>, StoreError> {
        let header = (offset > 0).then(|| format!("bytes={offset}-"));
        let answer = self.send(Method::GET, key, "", header)?;
        if !answer.status().is_success() {
            return Err(self.refusal(key, answer));
        }
        self.check_object(key, &answer, (offset > 0).then_some(offset..u64::MAX).as_ref())?;
        let whole = answer.status().as_u16() != 206;
        let mut reader = answer.into_body().into_reader();
        if whole && offset > 0 {
            io::copy(&mut (&mut reader).take(offset), &mut io::sink())
                .map_err(|error| self.broken(key, &error))?;
        }
        let error = self.broken(key, &io::Error::other("the response was cut off"));
        Ok(Box::new(Body { reader, error }))
    }

    fn head(&self, key: &Key) -> Result<Option<ObjectInfo>, StoreError> {
        let answer = self.send(Method::HEAD, key, "", None)?;
        if answer.status().is_success() {
            let len = answer.headers().get("content-length");
            let len = len.and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok());
            let len = len.ok_or_else(|| {
                let words = "the server does not report its length";
                StoreError::new(StoreErrorKind::Other, "look up", self.at(key), words)
            })?;
            return Ok(Some(ObjectInfo { key: key.clone(), len, last_modified: None, etag: None }));
        }
        match self.refusal(key, answer) {
            error if error.is_not_found() => Ok(None),
            error => Err(error),
        }
    }

    fn put(
        &self,
        _: &Key,
        _: &[u8],
        _: ObjectHeaders,
        _: Option<&Condition>,
    ) -> Result<Option<ETag>, StoreError> {
        self.read_only("put")
    }

    fn delete(&self, _: &[Key]) -> Result<(), StoreError> {
        self.read_only("delete")
    }

    fn list_unchecked(&self, _: &str, _: Option<&str>) -> Result<ListPage, StoreError> {
        self.read_only("list")
    }

    fn copy(&self, _: &Key, _: &Key, _: ObjectHeaders) -> Result<(), StoreError> {
        self.read_only("copy")
    }

    fn create_upload(&self, _: &Key, _: ObjectHeaders) -> Result<Upload, StoreError> {
        self.read_only("begin an upload to")
    }

    fn put_part(&self, _: &Upload, _: u32, _: &[u8]) -> Result<Part, StoreError> {
        self.read_only("put a part to")
    }

    fn copy_part(&self, _: &Upload, _: u32, _: &Key, _: Range<u64>) -> Result<Part, StoreError> {
        self.read_only("copy a part to")
    }

    fn complete_upload(&self, _: &Upload, _: &[Part]) -> Result<(), StoreError> {
        self.read_only("complete an upload to")
    }

    fn abort_upload(&self, _: &Upload) -> Result<(), StoreError> {
        self.read_only("abort an upload to")
    }

    fn list_uploads_unchecked(&self, _: &str) -> Result<Vec<OpenUpload>, StoreError> {
        self.read_only("list the uploads of")
    }

    fn requests(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

/// A body whose errors wrap a [`StoreError`].
struct Body {
    reader: ureq::BodyReader<'static>,
    error: StoreError,
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reader.read(buffer).map_err(|error| {
            let message = error.to_string();
            io::Error::other(StoreError { message, ..self.error.clone() })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(headers: &[(&'static str, &str)]) -> ReaderFindings {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, value.parse().unwrap());
        }
        let mut found = ReaderFindings::default();
        look_at_headers(&map, &mut found);
        found
    }

    #[test]
    fn headers_of_refs_tell_caches_and_wrong_types() {
        let fine = look(&[("content-type", "text/plain"), ("cache-control", "no-cache")]);
        assert_eq!(fine, ReaderFindings::default());
        assert_eq!(look(&[]).warnings.len(), 1);
        let cached = look(&[("age", "90"), ("cache-control", "max-age=3600")]);
        assert!(cached.errors[0].1.contains("90 seconds"), "{cached:?}");
        let smart = "application/x-git-upload-pack-advertisement";
        let smart = look(&[("content-type", smart), ("cache-control", "no-cache")]);
        assert_eq!(smart.errors.len(), 1);
    }

    #[test]
    fn keys_become_paths() {
        assert_eq!(encoded("objects/info/packs"), "objects/info/packs");
        assert_eq!(encoded("a b?c"), "a%20b%3Fc");
    }
}
