//! A Git LFS server: the batch API and downloads with the 'basic' transfer.
//!
//! Follows git-lfs' `docs/api/batch.md` and `docs/api/basic-transfers.md`. One POST asks for up to
//! [`BATCH_OBJECTS`] objects and is answered with an address for each, or with why there is none. A
//! download gets the headers that its action brought and none of ours: the address is often another
//! host's. Nothing is repeated here; the caller knows when to stop waiting. No error shows a query
//! or a header, because both sign requests.

use std::collections::HashMap;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use ureq::http::header::{self, HeaderName, HeaderValue};
use ureq::http::{Method, Request, Response, StatusCode, Uri};
use ureq::{AsSendBody, Body, BodyReader};
use url::Url;

use super::exchange::{
    MAX_REDIRECTS, USER_AGENT, content_type, fatal, from_ureq, redirect_target, refusal, shown,
    transient, unanswered,
};
use crate::git::lfs_pointer::LfsPointer;
use crate::git::pkt_line::clean_text;
use crate::http::{self, Client, Reach};
use crate::source::auth::{Auth, Credentials};
use crate::source::error::{BatchError, SourceError, SourceErrorKind};
pub use crate::source::exchange::Download;
use crate::source::interface::{LfsSource, Offer};

/// The most objects that one batch asks for, as git-lfs does it.
pub const BATCH_OBJECTS: usize = 100;

/// Requests and answers of the batch API.
const MEDIA_TYPE: &str = "application/vnd.git-lfs+json";

/// The most bytes of an answer that are read: 160 KiB an object.
const MAX_ANSWER_BYTES: u64 = 16 << 20;

/// An LFS server.
#[derive(Debug)]
pub struct LfsServer {
    /// Without userinfo and trailing slash.
    endpoint: Url,
    client: Client,
    credentials: Credentials,
    requests: Arc<AtomicU64>,
    first_wait: Duration,
    /// Where the repository is, besides the endpoint.
    source: Option<Url>,
}

impl LfsServer {
    /// The server at `endpoint`, such as `https://host/repository.git/info/lfs`. `credentials` go
    /// along with batch requests to their own host. Nothing is sent yet.
    pub fn new(mut endpoint: Url, client: Client, credentials: Credentials) -> Self {
        // Who we are is the source's credentials' to say.
        let _ = (endpoint.set_username(""), endpoint.set_password(None));
        let path = endpoint.path().trim_end_matches('/').to_owned();
        endpoint.set_path(&path);
        LfsServer {
            endpoint,
            client,
            credentials,
            requests: Arc::default(),
            first_wait: Duration::from_millis(500),
            source: None,
        }
    }

    /// The same for the repository at `source`: what is in the same network may be asked, too.
    pub fn of_source(self, source: Url) -> Self {
        LfsServer { source: Some(source), ..self }
    }

    /// The networks that it may send us to.
    fn reach(&self) -> Reach {
        let places = [Some(&self.endpoint), self.source.as_ref()].into_iter().flatten();
        let uris = places.filter_map(|url| url.as_str().parse().ok());
        uris.fold(Reach::default(), |reach, uri| reach.and(self.client.network_of(&uri)))
    }

    /// Refuses an address that is less secret than the server itself.
    fn check_offer(&self, offer: Offer) -> Offer {
        let download = offer?;
        if self.endpoint.scheme() == "https" && download.href.scheme() == "http" {
            let place = shown(&download.href);
            return Err(format!(
                "an https server refers to an http address, {place}: not contacted"
            ));
        }
        Ok(download)
    }

    /// The same, counting its requests in `requests`.
    pub fn counting(self, requests: Arc<AtomicU64>) -> Self {
        LfsServer { requests, ..self }
    }

    /// The same with another first wait between tries.
    pub fn with_first_wait(self, first_wait: Duration) -> Self {
        LfsServer { first_wait, ..self }
    }

    fn post(&self, body: &[u8]) -> Result<(Url, Response<Body>), SourceError> {
        let mut url = self.endpoint.clone();
        url.set_path(&format!("{}/objects/batch", self.endpoint.path()));
        for _ in 0..=MAX_REDIRECTS {
            let mut headers = vec![
                (header::ACCEPT, HeaderValue::from_static(MEDIA_TYPE)),
                (header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE)),
            ];
            headers.extend_from_slice(self.credentials.headers_for(&url));
            self.requests.fetch_add(1, Ordering::Relaxed);
            let reach = self.reach();
            let response = send(&self.client, reach, Method::POST, &url, &headers, body)?;
            match redirect_target(&response, &url)? {
                Some(target) => url = target,
                None => return Ok((url, response)),
            }
        }
        Err(fatal(&shown(&self.endpoint), format!("more than {MAX_REDIRECTS} redirects")))
    }

    /// What a refused batch means.
    fn refused(&self, url: &Url, response: Response<Body>) -> BatchError {
        let status = response.status();
        let sent = !self.credentials.headers_for(url).is_empty();
        let (kind, mut message) = refusal(status, sent, http::retry_after(response.headers()));
        let is_lfs = content_type(response.headers()) == MEDIA_TYPE;
        let words = words(response);
        let absent = is_lfs && status.as_u16() == 404;
        if absent {
            message = "HTTP 404".to_owned();
        } else if matches!(status.as_u16(), 404 | 405 | 406 | 410 | 501) {
            message = format!("HTTP {}: no LFS server at this address", status.as_u16());
        }
        if matches!(status.as_u16(), 413 | 422) {
            message = format!("HTTP {}: the server refuses the request", status.as_u16());
        }
        if !words.is_empty() {
            message += &format!(" (it says: {words})");
        }
        let error = SourceError { kind, url: shown(url), message };
        match status.as_u16() {
            413 | 422 => BatchError::Split(error),
            _ if absent => BatchError::Absent(error),
            _ => BatchError::Failed(error),
        }
    }
}

impl LfsSource for LfsServer {
    fn describe(&self) -> String {
        shown(&self.endpoint)
    }

    fn batch(&self, objects: &[LfsPointer]) -> Result<Vec<Offer>, BatchError> {
        let (url, response) = self.post(&question(objects))?;
        if response.status() != StatusCode::OK {
            return Err(self.refused(&url, response));
        }
        let place = shown(&url);
        let media = content_type(response.headers());
        let mut body = Vec::new();
        let mut input = response.into_body().into_reader().take(MAX_ANSWER_BYTES);
        input.read_to_end(&mut body).map_err(|error| from_ureq(&place, &error.into()))?;
        let answer = read_answer(&body, &media).map_err(|message| fatal(&place, message))?;
        Ok(answer.offers(objects).into_iter().map(|offer| self.check_offer(offer)).collect())
    }

    fn open(&self, download: &Download, offset: u64) -> Result<Box<dyn Read + Send>, SourceError> {
        open(&self.client, self.reach(), &self.requests, download, offset)
    }

    fn first_wait(&self) -> Duration {
        self.first_wait
    }
}

/// Where a repository's LFS server is unless `.lfsconfig` says otherwise (git-lfs'
/// `docs/api/server-discovery.md`): `<url>.git/info/lfs`.
pub fn default_endpoint(repository: &Url) -> Url {
    let mut url = repository.clone();
    let path = url.path().trim_end_matches('/');
    let dot_git = if path.ends_with(".git") { "" } else { ".git" };
    let path = format!("{path}{dot_git}/info/lfs");
    url.set_path(&path);
    url
}

/// Streams one object from `offset` on. Redirects are followed; the action's headers stay with the
/// host that they are for. A server that does not know ranges is read from the start and what comes
/// before `offset` is dropped. Every request is counted in `requests`, and none goes anywhere but to
/// `reach`.
pub fn open(
    client: &Client,
    reach: Reach,
    requests: &AtomicU64,
    download: &Download,
    offset: u64,
) -> Result<Box<dyn Read + Send>, SourceError> {
    let (mut url, mut range_start) = (download.href.clone(), offset);
    for _ in 0..=MAX_REDIRECTS {
        let mut headers = Vec::new();
        if url.origin() == download.href.origin() {
            headers.clone_from(&download.headers);
        }
        if range_start > 0 {
            let value = HeaderValue::try_from(format!("bytes={range_start}-"));
            headers.push((header::RANGE, value.expect("digits can be in a header")));
        }
        requests.fetch_add(1, Ordering::Relaxed);
        let response = send(client, reach, Method::GET, &url, &headers, ())?;
        if response.status() == StatusCode::RANGE_NOT_SATISFIABLE && range_start > 0 {
            range_start = 0;
            continue;
        }
        match redirect_target(&response, &url)? {
            Some(target) => url = target,
            None => return stream(&url, response, offset),
        }
    }
    Err(fatal(&shown(&download.href), format!("more than {MAX_REDIRECTS} redirects")))
}

fn stream(
    url: &Url,
    response: Response<Body>,
    offset: u64,
) -> Result<Box<dyn Read + Send>, SourceError> {
    let place = shown(url);
    let start = match response.status().as_u16() {
        200 => 0,
        206 => content_range_start(&response).ok_or_else(|| {
            fatal(&place, "partial response without a Content-Range header".into())
        })?,
        status => {
            let (kind, _) = refusal(response.status(), true, http::retry_after(response.headers()));
            // Unlike a repository's, an object's 404 hides nothing.
            let kind = if matches!(status, 404 | 410) { SourceErrorKind::Fatal } else { kind };
            let words = words(response);
            let said = if words.is_empty() { words } else { format!(" ({words})") };
            return Err(SourceError { kind, url: place, message: format!("HTTP {status}{said}") });
        }
    };
    let mut stream = Stream { body: response.into_body().into_reader(), place };
    let skip = offset.checked_sub(start).ok_or_else(|| {
        fatal(&stream.place, "the response starts after the requested offset".into())
    })?;
    let skipped = io::copy(&mut stream.by_ref().take(skip), &mut io::sink());
    match skipped {
        Ok(skipped) if skipped == skip => Ok(Box::new(stream)),
        Ok(_) => Err(transient(&stream.place, "the response was truncated".into())),
        Err(error) => Err(match SourceError::from_io(&error) {
            Some(error) => error.clone(),
            None => transient(&stream.place, error.to_string()),
        }),
    }
}

/// `Content-Range: bytes START-…`.
fn content_range_start(response: &Response<Body>) -> Option<u64> {
    let value = response.headers().get(header::CONTENT_RANGE)?.to_str().ok()?;
    value.trim().strip_prefix("bytes ")?.split('-').next()?.trim().parse().ok()
}

/// An object's bytes; its errors are [`SourceError`]s.
struct Stream {
    body: BodyReader<'static>,
    place: String,
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.body.read(buffer).map_err(|error| match error.kind() {
            io::ErrorKind::Interrupted => error,
            kind => io::Error::new(kind, from_ureq(&self.place, &ureq::Error::from(error))),
        })
    }
}

fn send(
    client: &Client,
    reach: Reach,
    method: Method,
    url: &Url,
    headers: &[(HeaderName, HeaderValue)],
    body: impl AsSendBody,
) -> Result<Response<Body>, SourceError> {
    let place = shown(url);
    let uri: Uri = url.as_str().parse().map_err(|_| fatal(&place, "not a usable URL".into()))?;
    let mut request = Request::builder().method(method).uri(uri.clone());
    for (name, value) in headers {
        request = request.header(name, value);
    }
    if !headers.iter().any(|(name, _)| name == header::USER_AGENT) {
        request = request.header(header::USER_AGENT, USER_AGENT);
    }
    // Bytes are counted and hashed as they come.
    request = request.header(header::ACCEPT_ENCODING, "identity");
    let request = request.body(body).map_err(|error| fatal(&place, error.to_string()))?;
    let answer = client.agent_within(&uri, reach).and_then(|agent| agent.run(request));
    answer.map_err(|error| unanswered(client, &uri, &place, &error))
}

/// The server's own words beside a status: LFS's JSON, or plain text.
fn words(response: Response<Body>) -> String {
    #[derive(Deserialize)]
    struct Words {
        message: String,
    }
    let media = content_type(response.headers());
    let mut body = Vec::new();
    // What can't be read has no words.
    let _ = response.into_body().into_reader().take(16 << 10).read_to_end(&mut body);
    match serde_json::from_slice::<Words>(&body) {
        Ok(words) => clean_text(words.message.as_bytes(), 200),
        Err(_) if media == "text/plain" => clean_text(&body, 200),
        Err(_) => String::new(),
    }
}

/// The batch request's JSON.
fn question(objects: &[LfsPointer]) -> Vec<u8> {
    let objects: Vec<_> = objects
        .iter()
        .map(|object| serde_json::json!({ "oid": object.hex(), "size": object.size }))
        .collect();
    let question = serde_json::json!({
        "operation": "download",
        "transfers": ["basic"],
        "hash_algo": "sha256",
        "objects": objects,
    });
    question.to_string().into_bytes()
}

/// The batch answer's JSON: what matters here.
#[derive(Debug, Deserialize)]
struct Answer {
    transfer: Option<String>,
    objects: Vec<AnswerObject>,
}

#[derive(Debug, Deserialize)]
struct AnswerObject {
    oid: String,
    actions: Option<Actions>,
    error: Option<ObjectError>,
}

#[derive(Debug, Deserialize)]
struct Actions {
    download: Option<Action>,
}

#[derive(Debug, Deserialize)]
struct Action {
    href: String,
    header: Option<HashMap<String, String>>,
    expires_in: Option<i64>,
    expires_at: Option<String>,
}

#[derive(Debug, Deserialize)]
struct ObjectError {
    code: i64,
    #[serde(default)]
    message: String,
}

fn read_answer(body: &[u8], media: &str) -> Result<Answer, String> {
    let answer: Answer = serde_json::from_slice(body).map_err(|error| {
        if media == "text/html" || body.trim_ascii_start().starts_with(b"<") {
            "the response is a web page, not LFS JSON: check the URL, and whether it requires \
             authentication"
                .to_owned()
        } else if body.len() as u64 == MAX_ANSWER_BYTES {
            format!("the response is longer than {MAX_ANSWER_BYTES} bytes")
        } else {
            // serde names places, not values.
            format!("the response is not LFS JSON: {error}")
        }
    })?;
    match answer.transfer.as_deref() {
        None | Some("basic" | "") => Ok(answer),
        Some(other) => {
            let other = clean_text(other.as_bytes(), 40);
            Err(format!("the server offers the transfer {other:?}, which was not requested"))
        }
    }
}

impl Answer {
    /// One offer for each of `objects`, in their order.
    fn offers(self, objects: &[LfsPointer]) -> Vec<Offer> {
        let known: HashMap<String, Offer> =
            self.objects.into_iter().map(|object| (object.oid.clone(), object.offer())).collect();
        let offer = |object: &LfsPointer| known.get(&object.hex()).cloned();
        let none = || Err("missing from the server's response".to_owned());
        objects.iter().map(|object| offer(object).unwrap_or_else(none)).collect()
    }
}

impl AnswerObject {
    fn offer(self) -> Offer {
        if let Some(ObjectError { code, message }) = self.error {
            let message = clean_text(message.as_bytes(), 200);
            return Err(format!("the server says {code}: {message}"));
        }
        match self.actions.and_then(|actions| actions.download) {
            Some(action) => action.download(),
            None => Err("the server offers no download".to_owned()),
        }
    }
}

impl Action {
    fn download(self) -> Offer {
        // Some read it as a slash, and others as a part of the host.
        if self.href.contains('\\') {
            return Err("the server's URL for it has a backslash: not contacted".to_owned());
        }
        let mut href = Url::parse(&self.href)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https"))
            .ok_or("the server's URL for it is neither http nor https")?;
        let mut headers = Vec::new();
        for (name, value) in self.header.unwrap_or_default() {
            let bad = |_| "a header in the server's action is invalid";
            let name = HeaderName::try_from(name).map_err(|_| bad(()))?;
            let mut value = HeaderValue::try_from(value).map_err(|_| bad(()))?;
            value.set_sensitive(true);
            if !is_ours(&name) {
                headers.push((name, value));
            }
        }
        let userinfo = Credentials::take_from(&mut href, &Auth::none());
        if !headers.iter().any(|(name, _)| name == header::AUTHORIZATION) {
            headers.extend_from_slice(userinfo.headers_for(&href));
        }
        let expires = expiry(self.expires_in, self.expires_at.as_deref());
        Ok(Download { href, headers, expires })
    }
}

/// Headers that the request itself needs to be understood: not the action's to set.
fn is_ours(name: &HeaderName) -> bool {
    [
        header::HOST,
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
        header::CONNECTION,
        header::RANGE,
        header::ACCEPT_ENCODING,
    ]
    .contains(name)
}

/// `expires_in` (seconds) before `expires_at` (RFC 3339), as the batch API's text has it. Servers
/// write 0 and the year 1 for 'never'.
fn expiry(expires_in: Option<i64>, expires_at: Option<&str>) -> Option<Instant> {
    let now = Instant::now();
    match expires_in {
        Some(0) | None => {}
        Some(seconds) => {
            return now.checked_add(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)));
        }
    }
    let at = OffsetDateTime::parse(expires_at?, &Rfc3339).ok()?;
    if at.unix_timestamp() <= 0 {
        return None;
    }
    let left = SystemTime::from(at).duration_since(SystemTime::now()).unwrap_or_default();
    now.checked_add(left)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pointer(byte: u8) -> LfsPointer {
        LfsPointer { oid: [byte; 32], size: 7 }
    }

    fn offer(text: &str) -> Offer {
        let json = text.replace("OID", &pointer(1).hex());
        let answer = read_answer(json.as_bytes(), MEDIA_TYPE).unwrap();
        answer.offers(&[pointer(1)]).remove(0)
    }

    #[test]
    fn https_server_does_not_send_us_to_http() {
        let client = Client::with_environment(&http::Settings::default(), &Default::default());
        let server = |url: &str| {
            let mut url = Url::parse(url).unwrap();
            let credentials = Credentials::take_from(&mut url, &Auth::none());
            LfsServer::new(url, client.as_ref().unwrap().clone(), credentials)
        };
        let offer = |url: &str| Ok(Download::new(Url::parse(url).unwrap(), Vec::new()));
        let secure = server("https://h/info/lfs");
        assert!(secure.check_offer(offer("https://cdn/x?sig=1")).is_ok());
        let why = secure.check_offer(offer("http://h/x?sig=hush")).unwrap_err();
        assert!(why.contains("http address") && !why.contains("hush"), "{why}");
        assert!(server("http://h/info/lfs").check_offer(offer("http://h/x")).is_ok());
    }

    #[test]
    fn the_endpoint_is_below_the_repository_with_its_dot_git() {
        for (repository, endpoint) in [
            ("https://h/a", "https://h/a.git/info/lfs"),
            ("https://h/a.git", "https://h/a.git/info/lfs"),
            ("https://h:9/a/b/", "https://h:9/a/b.git/info/lfs"),
        ] {
            assert_eq!(default_endpoint(&Url::parse(repository).unwrap()).as_str(), endpoint);
        }
    }

    #[test]
    fn a_batch_asks_for_downloads_by_the_basic_transfer() {
        let json: serde_json::Value = serde_json::from_slice(&question(&[pointer(1)])).unwrap();
        assert_eq!(json["operation"], "download");
        assert_eq!(json["transfers"], serde_json::json!(["basic"]));
        assert_eq!(json["objects"][0]["oid"], "01".repeat(32));
        assert_eq!(json["objects"][0]["size"], 7);
    }

    #[test]
    fn each_object_gets_its_address_or_a_reason() {
        let good = r#"{"objects":[{"oid":"OID","actions":{"download":{"href":"https://h/x?sig=1",
            "header":{"X-Key":"v","Range":"bytes=1-","Host":"evil"},"expires_in":3600}}}]}"#;
        let download = offer(good).unwrap();
        assert_eq!(download.headers.len(), 1);
        assert!(!download.is_expired());
        assert!(!format!("{download:?}").contains("sig"), "{download:?}");
        for (bad, reason) in [
            (r#"{"objects":[]}"#, "missing from the server"),
            (r#"{"objects":[{"oid":"OID"}]}"#, "no download"),
            (
                r#"{"objects":[{"oid":"OID","error":{"code":404,"message":"not\u001b here"}}]}"#,
                "the server says 404: not",
            ),
            (
                r#"{"objects":[{"oid":"OID","actions":{"download":{"href":"ftp://h"}}}]}"#,
                "neither http nor https",
            ),
            (
                r#"{"objects":[{"oid":"OID","actions":{"download":{"href":"https://h",
                   "header":{"a b":"c"}}}}]}"#,
                "header",
            ),
        ] {
            let error = offer(bad).unwrap_err();
            assert!(error.contains(reason) && !error.contains('\u{1b}'), "{error}");
        }
    }

    #[test]
    fn what_is_not_lfs_json_is_named_as_what_it_is() {
        let error = |body: &str, media| read_answer(body.as_bytes(), media).unwrap_err();
        assert!(error("<html>", "text/html").contains("a web page"));
        assert!(error("{}", MEDIA_TYPE).contains("not LFS JSON"));
        assert!(error(r#"{"transfer":"tus","objects":[]}"#, MEDIA_TYPE).contains("tus"));
    }

    #[test]
    fn expiry_is_read_in_both_forms_and_never_means_never() {
        let expired = |seconds, at| {
            Download {
                expires: expiry(seconds, at),
                ..Download::new(Url::parse("https://h").unwrap(), Vec::new())
            }
            .is_expired()
        };
        assert!(expired(Some(3), None), "within the margin");
        assert!(expired(Some(-5), None));
        assert!(expired(None, Some("2016-11-10T15:29:07Z")));
        assert!(!expired(Some(3600), Some("2016-11-10T15:29:07Z")));
        assert!(!expired(None, Some("2999-11-10T15:29:07+02:00")));
        for never in [(Some(0), None), (None, Some("0001-01-01T00:00:00Z")), (None, Some("x"))] {
            assert!(expiry(never.0, never.1).is_none(), "{never:?}");
        }
        assert!(!expired(Some(i64::MAX), None));
    }
}
