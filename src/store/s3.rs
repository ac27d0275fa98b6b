//! S3 and what calls itself compatible with it.
//!
//! The only place that knows rust-s3. Its signing functions and XML types build and sign a request;
//! one shared [`ureq::Agent`] with a pool sends it, because rust-s3's own client opens a connection
//! for every request, takes no private CA and does not support UploadPartCopy (1 KiB PUTs on one thread: 546 a
//! second with it, 21,971 this way).
//!
//! A request body is plain, has a known length and is covered by `x-amz-content-sha256`: stores
//! older than aws-chunked bodies and checksum trailers take it. Nothing is retried here, [`retry`]
//! does that; nothing is believed: answers are bounded, and a 200 with an `<Error>` in it is an
//! error. Keys are encoded once, and the same text is signed and sent.
//!
//! Here are the operations and what goes wrong with them; below `s3/` the URL's parts (`place`), a
//! request with its signature (`sign`), and how answers are read (`answer`).
//!
//! [`retry`]: super::retry

mod answer;
mod config;
mod place;
mod sign;

use std::fmt;
use std::io::{self, Read};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use s3::serde_types::{
    CompleteMultipartUploadData, DeleteObjectsRequest, InitiateMultipartUploadResponse,
    ObjectIdentifier,
};
use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use ureq::http::{Method, Request, Response, Uri};

use super::credentials::{Credentials, Provider};
use super::interface::{
    Condition, ETag, Elsewhere, FolderPage, Kept, Key, ListPage, ObjectHeaders, ObjectInfo,
    OpenUpload, Part, Store, StoreError, StoreErrorKind, Upload, outside,
};
use super::pages::Pages;
use crate::http;

use answer::{
    CopyXml, DeleteXml, ErrorXml, FolderXml, ListXml, MAX_DRAIN_BYTES, Stream, UploadXml,
    UploadsXml, decode_listed, drain, etag_of, header, is_encoded, is_unreserved, kind_of,
    one_line, opaque, parse_iso, read_error_body, read_up_to, transport_kind,
};
pub use config::{Addressing, S3Config};
use place::Place;
pub use place::encoded_path;
use sign::{Call, Signer, hex};

/// The most keys of one bulk delete (S3's limit).
const MAX_DELETE_KEYS: usize = 1000;
/// The most bytes that an XML answer may have. 1,000 keys of 1,024 bytes, each byte escaped as
/// three, with 600 bytes around each, make 3.7 MB.
const MAX_XML_BYTES: u64 = 8 << 20;

/// A bucket, or what is below a prefix of it.
pub struct S3Store {
    place: Place,
    /// The headers that every object is written with.
    write_headers: Vec<(&'static str, String)>,
    page_size: Option<u32>,
    client: http::Client,
    credentials: Provider,
    signer: Signer,
    /// The store has asked for Content-MD5.
    wants_md5: AtomicBool,
    sent: AtomicU64,
}

impl fmt::Debug for S3Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Store")
            .field("store", &self.describe())
            .field("origin", &self.place.origin)
            .field("region", &self.signer.region())
            .finish_non_exhaustive()
    }
}

type Answer = Response<ureq::Body>;

/// The most open uploads that a listing is believed to have: those of a thousand killed runs.
const MAX_UPLOADS: u64 = 100_000;

/// Where a listing of uploads continues: after this key and upload id.
type Marker = (String, String);

/// A listed name that does not begin as it was asked for.
struct Outside(String);

impl S3Store {
    /// Checks `config`; sends nothing.
    ///
    /// # Errors
    /// Kind [`StoreErrorKind::Other`]: a bucket, prefix, region, endpoint or header value that can't
    /// be used.
    pub fn new(
        config: S3Config,
        client: http::Client,
        credentials: Provider,
    ) -> Result<S3Store, StoreError> {
        let target = format!("s3://{}/{}", config.bucket, config.prefix);
        let place = Place::new(&config)
            .map_err(|message| StoreError::new(StoreErrorKind::Other, "use", &target, message))?;
        let write_headers = [
            ("x-amz-acl", config.acl),
            ("x-amz-server-side-encryption", config.sse),
            ("x-amz-server-side-encryption-aws-kms-key-id", config.sse_kms_key_id),
            ("x-amz-storage-class", config.storage_class),
        ];
        Ok(S3Store {
            signer: Signer::new(config.region, place.origin.clone()),
            place,
            write_headers: write_headers
                .into_iter()
                .filter_map(|(name, value)| Some((name, value?)))
                .collect(),
            page_size: None,
            client,
            credentials,
            wants_md5: AtomicBool::new(false),
            sent: AtomicU64::new(0),
        })
    }

    /// Asks for at most `keys` keys a page of a listing (S3 gives 1,000 by itself, and never more).
    #[must_use]
    pub fn with_page_size(mut self, keys: u32) -> Self {
        self.page_size = Some(keys);
        self
    }

    fn error(&self, call: &Call<'_>, kind: StoreErrorKind, message: String) -> StoreError {
        StoreError::new(kind, call.verb, self.place.target(call.key), message)
    }

    /// Sends `call` once. The answer may have any status.
    fn send(&self, call: &Call<'_>) -> Result<(Answer, Arc<Credentials>), StoreError> {
        let credentials = self.credentials.get()?;
        let path = self.place.path(call.key);
        let headers = self
            .signer
            .sign(call, &self.place.host, &path, &credentials, OffsetDateTime::now_utc())
            .map_err(|message| self.error(call, StoreErrorKind::Other, message))?;
        let question = if call.query.is_empty() { "" } else { "?" };
        let url = format!("{}{path}{question}{}", self.place.origin, call.query);
        let url: Uri = url.parse().map_err(|error| {
            self.error(call, StoreErrorKind::Other, format!("bad URL: {error}"))
        })?;
        self.sent.fetch_add(1, Ordering::Relaxed);
        log::debug!("{} {}{path}", call.method, self.place.origin);
        let agent = self.client.agent(&url);
        let mut request = Request::new(());
        *request.method_mut() = call.method.clone();
        *request.uri_mut() = url.clone();
        *request.headers_mut() = headers;
        let answer = run(&agent, request, call.body).map_err(|error| {
            let message = one_line(&self.client.explain(&url, &error));
            self.error(call, transport_kind(&error), message)
        })?;
        Ok((answer, credentials))
    }

    /// Sends `call`; an answer that is no success is an error.
    ///
    /// Buckets with Object Lock want Content-MD5 with all that stores something, so once one has asked
    /// for it, it gets it. Not before: MD5 is three times as slow as the SHA-256 of the signature (145
    /// against 544 MB a second, measured on a busy machine).
    fn request(&self, call: &Call<'_>) -> Result<Answer, StoreError> {
        let can_have_md5 = call.body.is_some() && !call.has_md5();
        if can_have_md5 && self.wants_md5.load(Ordering::Relaxed) {
            return self.request_once(&call.clone().with_md5());
        }
        match self.request_once(call) {
            Err(error) if can_have_md5 && wants_md5(&error) => {
                log::info!("{}: the store requires Content-MD5, sending it", self.describe());
                self.wants_md5.store(true, Ordering::Relaxed);
                self.request_once(&call.clone().with_md5())
            }
            answer => answer,
        }
    }

    fn request_once(&self, call: &Call<'_>) -> Result<Answer, StoreError> {
        let (answer, credentials) = self.send(call)?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        Err(self.refusal(call, answer, &credentials))
    }

    /// What an answer without success says.
    fn refusal(&self, call: &Call<'_>, answer: Answer, used: &Arc<Credentials>) -> StoreError {
        let status = answer.status().as_u16();
        let (parts, mut body) = answer.into_parts();
        let text = read_error_body(&mut body);
        let in_headers = ErrorXml::from_headers(&parts.headers);
        let mut said = ErrorXml::parse(&text).unwrap_or_default();
        if said.region.is_empty() {
            // AWS's 301 has it there alone.
            said.region = in_headers.region;
        }
        let mut error = self.said_error(call, status, &said, http::retry_after(&parts.headers));
        if status == 400 && call.method == Method::HEAD && used.session_token.is_some() {
            // A HEAD's refusal has no body. With temporary credentials a 400 is most often
            // ExpiredToken; if it is not, fresh ones change nothing and the error stays.
            error.kind = StoreErrorKind::ExpiredCredentials;
        }
        if error.kind == StoreErrorKind::ExpiredCredentials {
            self.credentials.expired(used);
        }
        error
    }

    /// The error for what a store said, in a refusal or inside a 200.
    fn said_error(
        &self,
        call: &Call<'_>,
        status: u16,
        said: &ErrorXml,
        retry_after: Option<Duration>,
    ) -> StoreError {
        let kind = kind_of(status, &said.code, retry_after);
        let mut message = match (said.code.as_str(), said.message.as_str()) {
            ("", _) => format!("the store responded with HTTP {status}"),
            (code, "") => format!("{code} (HTTP {status})"),
            (code, words) => format!("{code}: {} (HTTP {status})", one_line(words)),
        };
        if let Some(hint) = self.hint(call, status, said) {
            message.push_str("; ");
            message.push_str(&hint);
        }
        StoreError { status: Some(status), ..self.error(call, kind, message) }
    }

    /// What the operator can do about it.
    fn hint(&self, call: &Call<'_>, status: u16, said: &ErrorXml) -> Option<String> {
        let region = self.signer.region();
        let options: Vec<_> = call.headers.iter().filter_map(|(name, _)| option_of(name)).collect();
        Some(match (said.code.as_str(), status) {
            ("NoSuchBucket", _) => format!(
                "bucket {:?} does not exist: create it, or check --endpoint-url ({})",
                self.place.bucket, self.place.origin
            ),
            ("SignatureDoesNotMatch", _) => {
                "check the secret key, and that no proxy modifies requests".to_owned()
            }
            ("InvalidAccessKeyId", _) => "the store does not know this access key".to_owned(),
            ("AccessDenied", _) => format!("check the policy of bucket {:?}", self.place.bucket),
            ("RequestTimeTooSkewed", _) => {
                "this machine's clock differs too much from the store's: set the clock".to_owned()
            }
            (
                "InvalidArgument"
                | "InvalidRequest"
                | "InvalidStorageClass"
                | "InvalidEncryptionAlgorithmError"
                | "AccessControlListNotSupported"
                | "NotImplemented",
                _,
            ) if !options.is_empty() => {
                format!("does the store support {}?", options.join(", "))
            }
            _ if !said.region.is_empty() && said.region != region => {
                format!("the bucket is in another region: set --region {}", one_line(&said.region))
            }
            ("QuotaExceeded" | "InsufficientCapacity", _) => {
                format!("bucket {:?} has reached its quota", self.place.bucket)
            }
            ("PermanentRedirect" | "TemporaryRedirect", _) if !said.endpoint.is_empty() => format!(
                "the bucket is in another region, at {}: set --region",
                one_line(&said.endpoint)
            ),
            ("AuthorizationHeaderMalformed" | "IllegalLocationConstraintException", _) => {
                format!("requests are signed for region {region}: check --region")
            }
            (_, 301 | 302 | 307 | 308) => format!(
                "the bucket is elsewhere: check --region ({region}) and --endpoint-url ({})",
                self.place.origin
            ),
            ("", 404 | 405) => {
                format!("is this an S3 endpoint? check --endpoint-url ({})", self.place.origin)
            }
            _ => return None,
        })
    }

    /// The whole body as text, at most [`MAX_XML_BYTES`].
    fn xml(&self, call: &Call<'_>, answer: Answer) -> Result<String, StoreError> {
        let status = answer.status().as_u16();
        let body = read_up_to(&mut answer.into_body(), MAX_XML_BYTES)
            .map_err(|error| self.cut_off(call, &error))?
            .ok_or_else(|| {
                self.error(call, StoreErrorKind::Other, "the response is too long".into())
            })?;
        let text = String::from_utf8_lossy(&body);
        // CopyObject, UploadPartCopy and CompleteMultipartUpload begin to answer before they know
        // how it ends; the body may begin with blanks to keep the connection alive.
        if let Some(said) = ErrorXml::parse(&text) {
            return Err(self.said_error(call, status, &said, None));
        }
        Ok(text.trim_start().to_owned())
    }

    fn parse<T: for<'de> Deserialize<'de>>(
        &self,
        call: &Call<'_>,
        text: &str,
    ) -> Result<T, StoreError> {
        quick_xml::de::from_str(text).map_err(|error| {
            let message = format!("cannot parse the response: {}", one_line(&error.to_string()));
            self.error(call, StoreErrorKind::Other, message)
        })
    }

    /// An answer that ended before its end: the next try may succeed.
    fn cut_off(&self, call: &Call<'_>, error: &io::Error) -> StoreError {
        let message = format!("the response was cut off: {}", one_line(&error.to_string()));
        self.error(call, StoreErrorKind::Transient { retry_after: None }, message)
    }

    fn written<'a>(&self, mut call: Call<'a>, headers: ObjectHeaders) -> Call<'a> {
        call.headers.push(("content-type", headers.content_type.to_owned()));
        if let Some(cache_control) = headers.cache_control {
            call.headers.push(("cache-control", cache_control.to_owned()));
        }
        call.headers.extend(self.write_headers.iter().cloned());
        call
    }

    fn delete_one(&self, key: &Key) -> Result<(), StoreError> {
        let call = Call::new("delete", Method::DELETE, Some(key));
        match self.request(&call) {
            Ok(answer) => self.finish(&call, answer),
            // A store may say so; the key is not there, as wanted. A missing bucket is an error.
            Err(error) if error.is_not_found() && !error.message.starts_with("NoSuchBucket") => {
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn delete_chunk(&self, keys: &[Key]) -> Result<(), StoreError> {
        let objects = keys
            .iter()
            .map(|key| ObjectIdentifier::new(format!("{}{key}", self.place.prefix)))
            .collect();
        let body = DeleteObjectsRequest { objects, quiet: true }.to_string();
        let call = Call::new("delete keys of", Method::POST, None)
            .query("delete", "")
            .header("content-type", "application/xml")
            .body(body.as_bytes())
            .with_md5();
        let answer = self.request(&call)?;
        let text = self.xml(&call, answer)?;
        let result: DeleteXml = self.parse(&call, &text)?;
        let mut failed = result.errors.iter().filter(|error| error.code != "NoSuchKey");
        let Some(first) = failed.next() else { return Ok(()) };
        let kind = kind_of(200, &first.code, None);
        let message = format!(
            "{} of {} keys were not deleted; the first is {:?}: {}: {}",
            failed.count() + 1,
            keys.len(),
            one_line(&first.key),
            one_line(&first.code),
            one_line(&first.message),
        );
        Err(StoreError { status: Some(200), ..self.error(&call, kind, message) })
    }

    /// Reads the rest of an answer that holds nothing wanted, so that its connection is kept.
    fn finish(&self, call: &Call<'_>, answer: Answer) -> Result<(), StoreError> {
        read_up_to(&mut answer.into_body(), MAX_DRAIN_BYTES)
            .map_err(|error| self.cut_off(call, &error))
            .map(drop)
    }

    /// A key as a listing of what begins with `prefix` gives it, relative to the target's prefix.
    /// `None`: not one of ours (a folder marker that ends in a slash, say). `Err`: not even below
    /// the target.
    fn listed_key(
        &self,
        name: String,
        encoded: bool,
        prefix: &str,
    ) -> Result<Option<Key>, Outside> {
        // A prefix that encoding would change, found as it is, shows that nothing was encoded.
        let raw =
            name.starts_with(&self.place.prefix) && !self.place.prefix.bytes().all(is_unreserved);
        let name = if encoded && !raw { decode_listed(name) } else { name };
        match name.strip_prefix(self.place.prefix.as_str()) {
            Some(below) if below.starts_with(prefix) => Ok(Key::new(below).ok()),
            _ => Err(Outside(name)),
        }
    }

    /// Asks for a page of keys, or of folders alone.
    fn list_call(&self, prefix: &str, page: Option<&str>, folders: bool) -> Call<'static> {
        let mut call = Call::new("list", Method::GET, None);
        if let Some(token) = page {
            call = call.query("continuation-token", token);
        }
        if folders {
            call = call.query("delimiter", "/");
        }
        call = call.query("encoding-type", "url").query("list-type", "2");
        if let Some(size) = self.page_size {
            call = call.query("max-keys", &size.to_string());
        }
        call.query("prefix", &format!("{}{prefix}", self.place.prefix))
    }

    /// A page, and where the next one begins.
    fn list_page(
        &self,
        call: &Call<'_>,
        page: Option<&str>,
    ) -> Result<(ListXml, Option<String>), StoreError> {
        let answer = self.request(call)?;
        let text = self.xml(call, answer)?;
        let mut result: ListXml = self.parse(call, &text)?;
        let is_truncated = result.is_truncated == "true";
        // Some stores send both; the marker is of the older kind of listing.
        let next = result.next_token.take().or(result.next_marker.take()).filter(|_| is_truncated);
        if is_truncated && (next.is_none() || next.as_deref() == page) {
            let message = "the listing does not say where it continues".to_owned();
            return Err(self.error(call, StoreErrorKind::Other, message));
        }
        Ok((result, next))
    }

    fn list_uploads_page(
        &self,
        prefix: &str,
        from: Option<&Marker>,
    ) -> Result<(Vec<OpenUpload>, Option<Marker>), StoreError> {
        // No encoding-type: Ceph 16 then encodes the keys here and does not say so.
        let mut call = Call::new("list the uploads of", Method::GET, None);
        if let Some((key, _)) = from {
            call = call.query("key-marker", key);
        }
        if let Some(size) = self.page_size {
            call = call.query("max-uploads", &size.to_string());
        }
        call = call.query("prefix", &format!("{}{prefix}", self.place.prefix));
        if let Some((_, id)) = from.filter(|(_, id)| !id.is_empty()) {
            call = call.query("upload-id-marker", id);
        }
        call = call.query("uploads", "");
        let answer = match self.request(&call) {
            // How `rclone serve s3` 1.75 says that there are none.
            Err(error) if error.is_not_found() && error.message.starts_with("NoSuchUpload") => {
                return Ok((Vec::new(), None));
            }
            // However it says that it does not list them.
            Err(error) if error.kind == StoreErrorKind::Other => {
                return Err(StoreError { kind: StoreErrorKind::Unsupported, ..error });
            }
            answer => answer?,
        };
        let text = self.xml(&call, answer)?;
        let page: UploadsXml = self.parse(&call, &text)?;
        let encoded = is_encoded(page.encoding_type.as_deref());
        let mut uploads = Vec::with_capacity(page.uploads.len());
        for UploadXml { key, id, initiated } in page.uploads {
            let key = self.listed_key(key, encoded, prefix).map_err(|Outside(name)| {
                let asked = format!("{}{prefix}", self.place.prefix);
                outside(call.verb, self.describe(), StoreErrorKind::Unsupported, &asked, &name)
            })?;
            let initiated = parse_iso(&initiated);
            uploads.extend(key.map(|key| OpenUpload { upload: Upload { key, id }, initiated }));
        }
        if page.is_truncated != "true" {
            return Ok((uploads, None));
        }
        let key = if encoded { decode_listed(page.next_key) } else { page.next_key };
        let next = (key, page.next_id);
        if next.0.is_empty() || from == Some(&next) {
            let message = "the listing does not say where it continues".to_owned();
            return Err(self.error(&call, StoreErrorKind::Other, message));
        }
        Ok((uploads, Some(next)))
    }

    fn get_call<'a>(&self, key: &'a Key, range: Option<&Range<u64>>, end: bool) -> Call<'a> {
        let call = Call::new("get", Method::GET, Some(key));
        match range {
            None => call,
            Some(range) if end => {
                call.header("range", format!("bytes={}-{}", range.start, range.end - 1))
            }
            Some(range) => call.header("range", format!("bytes={}-", range.start)),
        }
    }

    /// See [`http::check_object`].
    fn check_object(
        &self,
        call: &Call<'_>,
        answer: &Answer,
        range: Option<&Range<u64>>,
    ) -> Result<(), StoreError> {
        http::check_object(answer, range)
            .map_err(|message| self.error(call, StoreErrorKind::Other, message))
    }

    /// How many bytes of `answer` come before the range that begins at `start`: none when the
    /// store knows ranges, all before `start` when it sends the whole object (200). rclone sends a
    /// range, and its header, with a 200.
    fn bytes_before(&self, answer: &Answer, start: u64) -> u64 {
        let given = header(answer.headers(), "content-range");
        let first = given.and_then(|text| {
            text.strip_prefix("bytes ")?.split_once('-')?.0.trim().parse::<u64>().ok()
        });
        if answer.status() == 206 || first == Some(start) { 0 } else { start }
    }
}

impl Store for S3Store {
    fn describe(&self) -> String {
        self.place.target(None)
    }

    fn get(
        &self,
        key: &Key,
        range: Option<Range<u64>>,
        max_len: u64,
    ) -> Result<(Vec<u8>, Option<ETag>), StoreError> {
        if range.as_ref().is_some_and(Range::is_empty) {
            return Ok((Vec::new(), None));
        }
        let call = self.get_call(key, range.as_ref(), true);
        let answer = self.request(&call)?;
        self.check_object(&call, &answer, range.as_ref())?;
        let etag = etag_of(answer.headers());
        let skip = match &range {
            Some(range) => self.bytes_before(&answer, range.start),
            None => 0,
        };
        let wanted = range.as_ref().map_or(u64::MAX, |range| range.end - range.start);
        let too_long = || {
            let message = format!("the object has more than the {max_len} bytes that are allowed");
            self.error(&call, StoreErrorKind::Other, message)
        };
        let mut body = answer.into_body();
        let said_len = body.content_length();
        let len = said_len.map_or(wanted, |len| len.saturating_sub(skip)).min(wanted);
        if said_len.is_some() && len > max_len {
            return Err(too_long());
        }
        let cut_off = |error: io::Error| self.cut_off(&call, &error);
        let mut reader = body.as_reader();
        let skipped =
            io::copy(&mut reader.by_ref().take(skip), &mut io::sink()).map_err(cut_off)?;
        let mut bytes = buffer(said_len.map(|_| len).unwrap_or(0));
        let limit = wanted.min(max_len.saturating_add(1));
        reader.by_ref().take(limit).read_to_end(&mut bytes).map_err(cut_off)?;
        if bytes.len() as u64 > max_len {
            return Err(too_long());
        }
        if skip > 0 && (skipped < skip || bytes.is_empty()) {
            let message = format!("a range from byte {skip} on, past the end");
            return Err(self.error(&call, StoreErrorKind::Other, message));
        }
        drain(&mut reader);
        Ok((bytes, etag))
    }

    fn open(&self, key: &Key, offset: u64) -> Result<Box<dyn Read + Send>, StoreError> {
        let range = (offset > 0).then_some(offset..u64::MAX);
        let call = self.get_call(key, range.as_ref(), false);
        let answer = self.request(&call)?;
        self.check_object(&call, &answer, range.as_ref())?;
        let skip = self.bytes_before(&answer, offset);
        let mut reader = answer.into_body().into_with_config().limit(u64::MAX).reader();
        let skipped = io::copy(&mut reader.by_ref().take(skip), &mut io::sink())
            .map_err(|error| self.cut_off(&call, &error))?;
        if skipped < skip {
            let message = format!("byte {offset} is past the end");
            return Err(self.error(&call, StoreErrorKind::Other, message));
        }
        Ok(Box::new(Stream { reader, target: self.place.target(Some(key)) }))
    }

    fn head(&self, key: &Key) -> Result<Option<ObjectInfo>, StoreError> {
        let call = Call::new("look up", Method::HEAD, Some(key));
        let (answer, credentials) = self.send(&call)?;
        if answer.status() == 404 {
            return Ok(None);
        }
        if !answer.status().is_success() {
            return Err(self.refusal(&call, answer, &credentials));
        }
        let headers = answer.headers();
        let len = header(headers, "content-length").and_then(|text| text.parse().ok());
        let Some(len) = len else {
            let message = "the store does not report its length".to_owned();
            return Err(self.error(&call, StoreErrorKind::Other, message));
        };
        Ok(Some(ObjectInfo {
            key: key.clone(),
            len,
            last_modified: header(headers, "last-modified").and_then(http::parse_date),
            etag: etag_of(headers),
        }))
    }

    fn kept(&self, key: &Key) -> Result<Option<Kept>, StoreError> {
        let call = Call::new("look up", Method::HEAD, Some(key));
        let (answer, credentials) = self.send(&call)?;
        if answer.status() == 404 {
            return Ok(None);
        }
        if !answer.status().is_success() {
            return Err(self.refusal(&call, answer, &credentials));
        }
        let headers = answer.headers();
        // Versioning that was never on, or is suspended, gives none or `null`.
        let is_versioned = header(headers, "x-amz-version-id").is_some_and(|id| id != "null");
        let until = header(headers, "x-amz-object-lock-retain-until-date");
        let until = until.and_then(|text| OffsetDateTime::parse(text, &Rfc3339).ok());
        Ok(is_versioned.then(|| Kept { locked_until: until.map(SystemTime::from) }))
    }

    fn put(
        &self,
        key: &Key,
        body: &[u8],
        headers: ObjectHeaders,
        condition: Option<&Condition>,
    ) -> Result<Option<ETag>, StoreError> {
        let call = Call::new("put", Method::PUT, Some(key)).body(body);
        let mut call = self.written(call, headers);
        match condition {
            None => {}
            Some(Condition::Absent) => call = call.header("if-none-match", "*"),
            // Without quotes: Ceph 16 compares the text with them and always answers 412; AWS and
            // the others take both forms.
            Some(Condition::Matches(etag)) => call = call.header("if-match", etag.0.as_str()),
        }
        let answer = self.request(&call)?;
        let etag = etag_of(answer.headers());
        self.finish(&call, answer)?;
        Ok(etag)
    }

    fn delete(&self, keys: &[Key]) -> Result<(), StoreError> {
        if let [key] = keys {
            return self.delete_one(key);
        }
        for chunk in keys.chunks(MAX_DELETE_KEYS) {
            match self.delete_chunk(chunk) {
                Err(error) if error.kind == StoreErrorKind::Unsupported => {
                    chunk.iter().try_for_each(|key| self.delete_one(key))?;
                }
                done => done?,
            }
        }
        Ok(())
    }

    fn list_unchecked(&self, prefix: &str, page: Option<&str>) -> Result<ListPage, StoreError> {
        let call = self.list_call(prefix, page, false);
        let (result, next) = self.list_page(&call, page)?;
        let encoded = is_encoded(result.encoding_type.as_deref());
        let mut objects = Vec::with_capacity(result.contents.len());
        for object in result.contents {
            let key = self.listed_key(object.key, encoded, prefix).map_err(|Outside(name)| {
                let asked = format!("{}{prefix}", self.place.prefix);
                outside(call.verb, self.describe(), StoreErrorKind::Other, &asked, &name)
            })?;
            objects.extend(key.map(|key| ObjectInfo {
                key,
                len: object.size,
                last_modified: parse_iso(&object.last_modified),
                etag: object.etag.as_deref().and_then(opaque),
            }));
        }
        Ok(ListPage { objects, next })
    }

    fn list_folders(&self, folder: &str, page: Option<&str>) -> Result<FolderPage, StoreError> {
        let call = self.list_call(folder, page, true);
        let (result, next) = self.list_page(&call, page)?;
        let encoded = is_encoded(result.encoding_type.as_deref());
        let mut names = Vec::with_capacity(result.folders.len());
        for FolderXml { mut prefix } in result.folders {
            // What can't be a key is nobody's folder.
            prefix.push('x');
            let key = self.listed_key(prefix, encoded, folder).map_err(|Outside(name)| {
                let asked = format!("{}{folder}", self.place.prefix);
                outside(call.verb, self.describe(), StoreErrorKind::Other, &asked, &name)
            })?;
            let name = key.as_ref().and_then(|key| key.as_str().strip_prefix(folder));
            names.extend(name.and_then(|name| name.strip_suffix("/x")).map(str::to_owned));
        }
        Ok(FolderPage { names, next })
    }

    fn copy(&self, from: &Key, to: &Key, headers: ObjectHeaders) -> Result<(), StoreError> {
        let call = Call::new("copy to", Method::PUT, Some(to))
            .header("x-amz-copy-source", self.place.copy_source(from))
            .header("x-amz-metadata-directive", "REPLACE")
            .body(&[]);
        let call = self.written(call, headers);
        let answer = self.request(&call)?;
        self.xml(&call, answer).map(drop)
    }

    fn elsewhere(&self, key: &Key, etag: &ETag) -> Option<Elsewhere> {
        let (server, path) = (self.place.server.clone(), self.place.copy_source(key));
        Some(Elsewhere { server, path, etag: etag.clone() })
    }

    fn copy_from(
        &self,
        from: &Elsewhere,
        to: &Key,
        headers: ObjectHeaders,
    ) -> Result<(), StoreError> {
        let call = Call::new("copy to", Method::PUT, Some(to))
            .header("x-amz-copy-source", from.path.clone())
            .header("x-amz-copy-source-if-match", format!("\"{}\"", from.etag.0))
            .header("x-amz-metadata-directive", "REPLACE")
            .body(&[]);
        if from.server != self.place.server {
            let message = format!("{} is on another server", from.path);
            return Err(self.error(&call, StoreErrorKind::Unsupported, message));
        }
        let call = self.written(call, headers);
        let answer = self.request(&call)?;
        self.xml(&call, answer).map(drop)
    }

    fn create_upload(&self, key: &Key, headers: ObjectHeaders) -> Result<Upload, StoreError> {
        let call =
            Call::new("begin an upload of", Method::POST, Some(key)).query("uploads", "").body(&[]);
        let call = self.written(call, headers);
        let answer = self.request(&call)?;
        let text = self.xml(&call, answer)?;
        let begun: InitiateMultipartUploadResponse = self.parse(&call, &text)?;
        Ok(Upload { key: key.clone(), id: begun.upload_id })
    }

    fn put_part(&self, upload: &Upload, number: u32, body: &[u8]) -> Result<Part, StoreError> {
        let call = Call::new("put a part of", Method::PUT, Some(&upload.key))
            .query("partNumber", &number.to_string())
            .query("uploadId", &upload.id)
            .body(body);
        let answer = self.request(&call)?;
        // Ceph 16 may leave it empty: a part's is the MD5 of its bytes there.
        let etag = etag_of(answer.headers()).unwrap_or_else(|| ETag(hex(&md5::compute(body).0)));
        self.finish(&call, answer)?;
        Ok(Part { number, etag })
    }

    fn copy_part(
        &self,
        upload: &Upload,
        number: u32,
        from: &Key,
        range: Range<u64>,
    ) -> Result<Part, StoreError> {
        let call = Call::new("copy a part of", Method::PUT, Some(&upload.key))
            .query("partNumber", &number.to_string())
            .query("uploadId", &upload.id)
            .header("x-amz-copy-source", self.place.copy_source(from))
            .body(&[]);
        if range.is_empty() {
            let message = "cannot copy a part from an empty range".to_owned();
            return Err(self.error(&call, StoreErrorKind::Other, message));
        }
        let bytes = format!("bytes={}-{}", range.start, range.end - 1);
        let call = call.header("x-amz-copy-source-range", bytes);
        let answer = self.request(&call)?;
        let text = self.xml(&call, answer)?;
        let copied = match text.is_empty() {
            true => CopyXml::default(),
            false => self.parse(&call, &text)?,
        };
        match opaque(&copied.etag) {
            Some(etag) => Ok(Part { number, etag }),
            // A store without UploadPartCopy (rclone, for one) takes this for a part without bytes.
            None => Err(self.error(
                &call,
                StoreErrorKind::Unsupported,
                "the store does not support copying parts: its response has no ETag".into(),
            )),
        }
    }

    fn complete_upload(&self, upload: &Upload, parts: &[Part]) -> Result<(), StoreError> {
        let parts = parts.iter().map(|part| s3::serde_types::Part {
            part_number: part.number,
            // rust-s3 writes it as it is, and entity tags are opaque.
            etag: quick_xml::escape::escape(part.etag.0.as_str()).into_owned(),
        });
        let body = CompleteMultipartUploadData { parts: parts.collect() }.to_string();
        let call = Call::new("complete the upload of", Method::POST, Some(&upload.key))
            .query("uploadId", &upload.id)
            .header("content-type", "application/xml")
            .body(body.as_bytes());
        let answer = self.request(&call)?;
        self.xml(&call, answer).map(drop)
    }

    fn abort_upload(&self, upload: &Upload) -> Result<(), StoreError> {
        let call = Call::new("abort the upload of", Method::DELETE, Some(&upload.key))
            .query("uploadId", &upload.id);
        match self.request(&call) {
            Ok(answer) => self.finish(&call, answer),
            Err(error) if error.is_not_found() && !error.message.starts_with("NoSuchBucket") => {
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn list_uploads_unchecked(&self, prefix: &str) -> Result<Vec<OpenUpload>, StoreError> {
        let (mut all, mut turned) = (Vec::new(), Pages::of_at_most(MAX_UPLOADS));
        let mut from = None;
        loop {
            let (uploads, next) = self.list_uploads_page(prefix, from.as_ref())?;
            let first = uploads.first().map(|OpenUpload { upload, .. }| {
                let Upload { key, id } = upload;
                format!("{key}\n{id}")
            });
            let len = uploads.len();
            all.extend(uploads);
            let Some((key, id)) = next else { return Ok(all) };
            turned.turn(&self.describe(), len, first.as_deref(), &format!("{key}\n{id}"))?;
            from = Some((key, id));
        }
    }

    fn requests(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

/// `InvalidRequest: Content-MD5 OR x-amz-checksum- HTTP header is required for Put Object requests with
/// Object Lock parameters`, or words like it.
fn wants_md5(error: &StoreError) -> bool {
    let words = error.message.to_ascii_lowercase();
    error.status == Some(400) && (words.contains("content-md5") || words.contains("contentmd5"))
}

/// The option that makes objects be written with this header.
fn option_of(header: &str) -> Option<&'static str> {
    Some(match header {
        "x-amz-acl" => "--acl",
        "x-amz-server-side-encryption" => "--sse",
        "x-amz-server-side-encryption-aws-kms-key-id" => "--sse-kms-key-id",
        "x-amz-storage-class" => "--storage-class",
        _ => return None,
    })
}

fn run(
    agent: &ureq::Agent,
    request: Request<()>,
    body: Option<&[u8]>,
) -> Result<Answer, ureq::Error> {
    let config = agent.config();
    let plain = config.max_redirects() == 0 && !config.http_status_as_error();
    match body {
        Some(body) if plain => agent.run(request.map(|()| body)),
        None if plain => agent.run(request),
        // An agent that follows redirects would send the signature to another host.
        Some(body) => agent.run(without_redirects(agent, request.map(|()| body))),
        None => agent.run(without_redirects(agent, request)),
    }
}

fn without_redirects<S: ureq::AsSendBody>(agent: &ureq::Agent, request: Request<S>) -> Request<S> {
    agent.configure_request(request).max_redirects(0).http_status_as_error(false).build()
}

/// An empty buffer for `len` bytes, as far as a store's word is good for memory: 1 MiB at first.
fn buffer(len: u64) -> Vec<u8> {
    Vec::with_capacity(usize::try_from(len.min(1 << 20)).unwrap_or(0))
}
