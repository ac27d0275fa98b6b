//! S3 and what calls itself compatible with it.
//!
//! The only file that knows rust-s3. Its signing functions and XML types build and sign a request;
//! one shared [`ureq::Agent`] with a pool sends it, because rust-s3's own client opens a connection
//! for every request, takes no private CA and lacks UploadPartCopy (1 KiB PUTs on one thread: 546 a
//! second with it, 21,971 this way).
//!
//! A request body is plain, has a known length and is covered by `x-amz-content-sha256`: stores
//! older than aws-chunked bodies and checksum trailers take it. Nothing is retried here, [`retry`]
//! does that; nothing is believed: answers are bounded, and a 200 with an `<Error>` in it is an
//! error. Keys are encoded here, once, and the same text is signed and sent.
//!
//! [`retry`]: super::retry

use std::fmt::{self, Write as _};
use std::io::{self, Read};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::Mac;
use s3::Region;
use s3::serde_types::{
    CompleteMultipartUploadData, DeleteObjectsRequest, InitiateMultipartUploadResponse,
    ListBucketResult, ObjectIdentifier,
};
use s3::signing;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use ureq::http::{HeaderMap, Method, Request, Response, Uri};

use super::credentials::{Credentials, Provider};
use super::{
    Condition, ETag, Key, ListPage, ObjectHeaders, ObjectInfo, OpenUpload, Part, Store, StoreError,
    StoreErrorKind, Upload,
};
use crate::http;

/// SHA-256 of nothing: the payload hash of a request without a body.
const EMPTY_SHA256: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
/// The most keys of one bulk delete (S3's limit).
const MAX_DELETE_KEYS: usize = 1000;
/// The most bytes that an XML answer may have. 1,000 keys of 1,024 bytes, each byte escaped as
/// three, with 600 bytes around each, make 3.7 MB.
const MAX_XML_BYTES: u64 = 8 << 20;
/// The most bytes of an error's body that are read; S3's are under 1 KiB.
const MAX_ERROR_BYTES: u64 = 64 << 10;
/// Up to this many unwanted bytes are read so that their connection can be used again.
const MAX_DRAIN_BYTES: u64 = 64 << 10;
/// The most characters of a store's message that are shown.
const MAX_MESSAGE_CHARS: usize = 300;

/// How the bucket goes into the URL.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Addressing {
    /// Path with a custom endpoint, virtual on AWS unless the bucket's name is no host name.
    #[default]
    Auto,
    /// `https://host/bucket/key`.
    Path,
    /// `https://bucket.host/key`.
    Virtual,
}

/// Where the bucket is and how objects are written.
#[derive(Clone, Debug, Default)]
pub struct S3Config {
    /// The bucket's name.
    pub bucket: String,
    /// What every key begins with, without the last slash; empty: the bucket itself.
    pub prefix: String,
    /// The region that requests are signed for.
    pub region: String,
    /// `https://host[:port][/path]`; `None`: AWS in `region`.
    pub endpoint: Option<String>,
    /// How the bucket goes into the URL.
    pub addressing: Addressing,
    /// `x-amz-storage-class` of every object written.
    pub storage_class: Option<String>,
    /// `x-amz-server-side-encryption` of every object written: `AES256`, `aws:kms`.
    pub sse: Option<String>,
    /// The KMS key for it.
    pub sse_kms_key_id: Option<String>,
    /// `x-amz-acl` of every object written.
    pub acl: Option<String>,
}

/// A bucket, or what is below a prefix of it.
pub struct S3Store {
    bucket: String,
    /// Empty, or the prefix with one slash at its end.
    prefix: String,
    region: Region,
    /// `https://host[:port]`.
    origin: String,
    /// `host[:port]`, as it is signed.
    host: String,
    /// The encoded path of the bucket, with a slash at its end.
    bucket_path: String,
    /// The headers that every object is written with.
    write_headers: Vec<(&'static str, String)>,
    page_size: Option<u32>,
    client: http::Client,
    credentials: Provider,
    /// The last signing key. It changes with the day and with the credentials only, so the lock is
    /// held for a comparison.
    signer: Mutex<Option<Arc<Signer>>>,
    sent: AtomicU64,
}

/// What a signature needs that is the same for a day.
struct Signer {
    /// `20260131`.
    day: String,
    credentials: Arc<Credentials>,
    /// Keyed; cloned for every request, which saves hashing the key's pads again.
    mac: signing::HmacSha256,
}

impl fmt::Debug for S3Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Store")
            .field("store", &self.describe())
            .field("origin", &self.origin)
            .field("region", &self.region.to_string())
            .finish_non_exhaustive()
    }
}

/// One request, before it is signed.
struct Call<'a> {
    verb: &'static str,
    method: Method,
    key: Option<&'a Key>,
    /// Encoded and sorted by name, as it is signed and sent.
    query: String,
    headers: Vec<(&'static str, String)>,
    body: Option<&'a [u8]>,
}

impl<'a> Call<'a> {
    fn new(verb: &'static str, method: Method, key: Option<&'a Key>) -> Self {
        Call { verb, method, key, query: String::new(), headers: Vec::new(), body: None }
    }

    /// Adds `name=value`. Names must come in byte order: signature version 4 wants them sorted.
    fn query(mut self, name: &str, value: &str) -> Self {
        if !self.query.is_empty() {
            self.query.push('&');
        }
        self.query.push_str(name);
        self.query.push('=');
        self.query.push_str(&signing::uri_encode(value, true));
        self
    }

    fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    fn body(mut self, body: &'a [u8]) -> Self {
        self.body = Some(body);
        self
    }
}

type Answer = Response<ureq::Body>;
/// Where a listing of uploads goes on: after this key and upload id.
type Marker = (String, String);

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
            bucket: config.bucket,
            prefix: place.prefix,
            region: Region::Custom { region: config.region, endpoint: place.origin.clone() },
            origin: place.origin,
            host: place.host,
            bucket_path: place.bucket_path,
            write_headers: write_headers
                .into_iter()
                .filter_map(|(name, value)| Some((name, value?)))
                .collect(),
            page_size: None,
            client,
            credentials,
            signer: Mutex::new(None),
            sent: AtomicU64::new(0),
        })
    }

    /// Asks for at most `keys` keys a page of a listing (S3 gives 1,000 by itself, and never more).
    #[must_use]
    pub fn with_page_size(mut self, keys: u32) -> Self {
        self.page_size = Some(keys);
        self
    }

    fn target(&self, key: Option<&Key>) -> String {
        match key {
            None => self.describe(),
            Some(key) => format!("s3://{}/{}{}", self.bucket, self.prefix, key),
        }
    }

    fn error(&self, call: &Call<'_>, kind: StoreErrorKind, message: String) -> StoreError {
        StoreError::new(kind, call.verb, self.target(call.key), message)
    }

    /// The encoded path of a key, or of the bucket.
    fn path(&self, key: Option<&Key>) -> String {
        match key {
            // `/bucket`, not `/bucket/`: some stores take the latter for an object without a name.
            None if self.bucket_path.len() > 1 => self.bucket_path.trim_end_matches('/').to_owned(),
            None => self.bucket_path.clone(),
            Some(key) => {
                let mut path = self.bucket_path.clone();
                path.push_str(&signing::uri_encode(&self.prefix, false));
                path.push_str(&signing::uri_encode(key.as_str(), false));
                path
            }
        }
    }

    /// `bucket/key` for `x-amz-copy-source`, encoded once, as AWS wants it. Ceph 16 decodes it
    /// twice on UploadPartCopy (not on CopyObject): there a source with `+` is not found, and one
    /// with a `%` that two hex digits don't follow makes radosgw abort. Nothing that is right
    /// elsewhere goes round that; only sources over 5 GiB below such a prefix meet it.
    fn copy_source(&self, from: &Key) -> String {
        let bucket = signing::uri_encode(&self.bucket, true);
        let prefix = signing::uri_encode(&self.prefix, false);
        format!("{bucket}/{prefix}{}", signing::uri_encode(from.as_str(), false))
    }

    fn signer(
        &self,
        now: &OffsetDateTime,
        day: &str,
        credentials: &Arc<Credentials>,
    ) -> Result<Arc<Signer>, String> {
        let mut last = self.signer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(signer) = &*last
            && signer.day == day
            && Arc::ptr_eq(&signer.credentials, credentials)
        {
            return Ok(signer.clone());
        }
        // Errors of rust-s3 are put in our own words: theirs may show what they were given.
        let key = signing::signing_key(now, &credentials.secret_key, &self.region, "s3")
            .map_err(|_| "the signing key can't be derived".to_owned())?;
        let mac = signing::HmacSha256::new_from_slice(&key)
            .map_err(|_| "the signing key can't be used".to_owned())?;
        let signer =
            Arc::new(Signer { day: day.to_owned(), credentials: credentials.clone(), mac });
        *last = Some(signer.clone());
        Ok(signer)
    }

    /// Signs `call` as of `now` with AWS signature version 4:
    /// <https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html>.
    ///
    /// The canonical request is built here and not with [`signing::canonical_request`]: that sorts
    /// `name:value` lines, so that `x-amz-copy-source-range` comes before `x-amz-copy-source`, and
    /// stores refuse the signature.
    fn sign(
        &self,
        call: &Call<'_>,
        path: &str,
        credentials: &Arc<Credentials>,
        now: OffsetDateTime,
    ) -> Result<HeaderMap, String> {
        let payload = match call.body {
            None | Some([]) => EMPTY_SHA256.to_owned(),
            Some(body) => hex(&Sha256::digest(body)),
        };
        let stamp = timestamp(now);
        let mut headers: Vec<(&str, &str)> = Vec::with_capacity(call.headers.len() + 4);
        headers.extend(call.headers.iter().map(|(name, value)| (*name, value.as_str())));
        headers.extend([
            ("host", self.host.as_str()),
            ("x-amz-content-sha256", payload.as_str()),
            ("x-amz-date", stamp.as_str()),
        ]);
        if let Some(token) = &credentials.session_token {
            headers.push(("x-amz-security-token", token.as_str()));
        }
        headers.sort_unstable_by_key(|(name, _)| *name);
        let canonical = Canonical::new(call, path, &headers, &payload);
        let signer = self.signer(&now, &stamp[..8], credentials)?;
        let words = |_| "the request can't be signed".to_owned();
        let text =
            signing::string_to_sign(&now, &self.region, &canonical.request).map_err(words)?;
        let mut mac = signer.mac.clone();
        mac.update(text.as_bytes());
        let authorization = signing::authorization_header(
            &credentials.access_key,
            &now,
            &self.region,
            &canonical.signed_headers,
            &hex(&mac.finalize().into_bytes()),
        )
        .map_err(words)?;
        headers.push(("authorization", &authorization));
        header_map(&headers)
    }

    /// Sends `call` once. The answer may have any status.
    fn send(&self, call: &Call<'_>) -> Result<(Answer, Arc<Credentials>), StoreError> {
        let credentials = self.credentials.get()?;
        let path = self.path(call.key);
        let headers = self
            .sign(call, &path, &credentials, OffsetDateTime::now_utc())
            .map_err(|message| self.error(call, StoreErrorKind::Other, message))?;
        let question = if call.query.is_empty() { "" } else { "?" };
        let url = format!("{}{path}{question}{}", self.origin, call.query);
        let url: Uri = url.parse().map_err(|error| {
            self.error(call, StoreErrorKind::Other, format!("bad URL: {error}"))
        })?;
        self.sent.fetch_add(1, Ordering::Relaxed);
        log::debug!("{} {}{path}", call.method, self.origin);
        let agent = self.client.agent(&url);
        let mut request = Request::new(());
        *request.method_mut() = call.method.clone();
        *request.uri_mut() = url;
        *request.headers_mut() = headers;
        let answer =
            run(&agent, request, call.body).map_err(|error| self.transport_error(call, &error))?;
        Ok((answer, credentials))
    }

    /// Sends `call` once; an answer that is no success is an error.
    fn request(&self, call: &Call<'_>) -> Result<Answer, StoreError> {
        let (answer, credentials) = self.send(call)?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        Err(self.refusal(call, answer, &credentials))
    }

    fn transport_error(&self, call: &Call<'_>, error: &ureq::Error) -> StoreError {
        let message = one_line(&http::explain(error));
        self.error(call, transport_kind(error), message)
    }

    /// What an answer without success says.
    fn refusal(&self, call: &Call<'_>, answer: Answer, used: &Arc<Credentials>) -> StoreError {
        let status = answer.status().as_u16();
        let (parts, mut body) = answer.into_parts();
        let text = read_error_body(&mut body);
        let said = ErrorXml::parse(&text).unwrap_or_else(|| ErrorXml::from_headers(&parts.headers));
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
            ("", _) => format!("the store answered with HTTP {status}"),
            (code, "") => format!("{code} (HTTP {status})"),
            (code, words) => format!("{code}: {} (HTTP {status})", one_line(words)),
        };
        if let Some(hint) = self.hint(status, said) {
            message.push_str("; ");
            message.push_str(&hint);
        }
        StoreError { status: Some(status), ..self.error(call, kind, message) }
    }

    /// What the operator can do about it.
    fn hint(&self, status: u16, said: &ErrorXml) -> Option<String> {
        let region = &self.region;
        Some(match (said.code.as_str(), status) {
            ("NoSuchBucket", _) => format!(
                "bucket {:?} does not exist: create it, or check --endpoint-url ({})",
                self.bucket, self.origin
            ),
            ("SignatureDoesNotMatch", _) => {
                "check the secret key, and that no proxy changes requests".to_owned()
            }
            ("InvalidAccessKeyId", _) => "the store does not know this access key".to_owned(),
            ("AccessDenied", _) => format!("check the policy of bucket {:?}", self.bucket),
            ("RequestTimeTooSkewed", _) => {
                "this machine's clock and the store's differ: set the clock".to_owned()
            }
            _ if !said.region.is_empty() && said.region != region.to_string() => {
                format!("the bucket is in another region: set --region {}", one_line(&said.region))
            }
            ("PermanentRedirect" | "TemporaryRedirect", _) if !said.endpoint.is_empty() => {
                format!("set --endpoint-url to {}", one_line(&said.endpoint))
            }
            ("AuthorizationHeaderMalformed" | "IllegalLocationConstraintException", _) => {
                format!("requests are signed for region {region}: check --region")
            }
            (_, 301 | 302 | 307 | 308) => format!(
                "the bucket is elsewhere: check --region ({region}) and --endpoint-url ({})",
                self.origin
            ),
            ("", 404 | 405) => {
                format!("is there an S3 store? check --endpoint-url ({})", self.origin)
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
                self.error(call, StoreErrorKind::Other, "the answer is too long".into())
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
            let message = format!("the answer can't be read: {}", one_line(&error.to_string()));
            self.error(call, StoreErrorKind::Other, message)
        })
    }

    /// An answer that ended before its end: the next try may go well.
    fn cut_off(&self, call: &Call<'_>, error: &io::Error) -> StoreError {
        let message = format!("the answer was cut off: {}", one_line(&error.to_string()));
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
        let objects =
            keys.iter().map(|key| ObjectIdentifier::new(format!("{}{key}", self.prefix))).collect();
        let body = DeleteObjectsRequest { objects, quiet: true }.to_string();
        // Bulk delete needs a checksum; Content-MD5 is the one that every store knows.
        let call = Call::new("delete keys of", Method::POST, None)
            .query("delete", "")
            .header("content-md5", BASE64.encode(md5::compute(&body).0))
            .header("content-type", "application/xml")
            .body(body.as_bytes());
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

    fn object(&self, object: s3::serde_types::Object, encoded: bool) -> Option<ObjectInfo> {
        let name = self.listed_key(object.key, encoded)?;
        Some(ObjectInfo {
            key: name,
            len: object.size,
            last_modified: parse_iso(&object.last_modified),
            etag: object.e_tag.as_deref().and_then(opaque),
        })
    }

    /// A key as a listing gives it, relative to the prefix. `None`: not one of ours (a folder
    /// marker that ends in a slash, say).
    fn listed_key(&self, name: String, encoded: bool) -> Option<Key> {
        // A prefix that encoding would change, found as it is, shows that nothing was encoded.
        let raw = name.starts_with(&self.prefix) && !self.prefix.bytes().all(is_unreserved);
        let name = if encoded && !raw { decode_listed(name) } else { name };
        Key::new(name.strip_prefix(self.prefix.as_str())?).ok()
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
        call = call.query("prefix", &format!("{}{prefix}", self.prefix));
        if let Some((_, id)) = from.filter(|(_, id)| !id.is_empty()) {
            call = call.query("upload-id-marker", id);
        }
        call = call.query("uploads", "");
        let answer = self.request(&call)?;
        let text = self.xml(&call, answer)?;
        let page: UploadsXml = self.parse(&call, &text)?;
        let encoded = is_encoded(page.encoding_type.as_deref());
        let uploads = page.uploads.into_iter().filter_map(|upload| {
            let key = self.listed_key(upload.key, encoded)?;
            let initiated = parse_iso(&upload.initiated);
            Some(OpenUpload { upload: Upload { key, id: upload.id }, initiated })
        });
        let uploads = uploads.collect();
        if page.is_truncated != "true" {
            return Ok((uploads, None));
        }
        let key = if encoded { decode_listed(page.next_key) } else { page.next_key };
        let next = (key, page.next_id);
        if next.0.is_empty() || from == Some(&next) {
            let message = "the listing does not say where it goes on".to_owned();
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

    /// How many bytes of `answer` come before the range that begins at `start`: none when the
    /// store knows ranges, all before `start` when it sends the whole object (200). rclone sends a
    /// range, and its header, with a 200.
    fn bytes_before(
        &self,
        call: &Call<'_>,
        answer: &Answer,
        start: u64,
    ) -> Result<u64, StoreError> {
        let partial = answer.status() == 206;
        let given = header(answer.headers(), "content-range");
        let first = given.and_then(|text| {
            text.strip_prefix("bytes ")?.split_once('-')?.0.trim().parse::<u64>().ok()
        });
        match first {
            Some(first) if first == start => Ok(0),
            Some(first) if partial => {
                let message =
                    format!("asked for bytes from {start}, the store sent bytes from {first}");
                Err(self.error(call, StoreErrorKind::Other, message))
            }
            None if partial => Ok(0),
            _ => Ok(start),
        }
    }
}

impl Store for S3Store {
    fn describe(&self) -> String {
        format!("s3://{}/{}", self.bucket, self.prefix.trim_end_matches('/'))
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
        let etag = etag_of(answer.headers());
        let skip = match &range {
            Some(range) => self.bytes_before(&call, &answer, range.start)?,
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
        let skip = self.bytes_before(&call, &answer, offset)?;
        let mut reader = answer.into_body().into_with_config().limit(u64::MAX).reader();
        let skipped = io::copy(&mut reader.by_ref().take(skip), &mut io::sink())
            .map_err(|error| self.cut_off(&call, &error))?;
        if skipped < skip {
            let message = format!("byte {offset} is past the end");
            return Err(self.error(&call, StoreErrorKind::Other, message));
        }
        Ok(Box::new(Stream { reader, target: self.target(Some(key)) }))
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
            let message = "the store does not say how long it is".to_owned();
            return Err(self.error(&call, StoreErrorKind::Other, message));
        };
        Ok(Some(ObjectInfo {
            key: key.clone(),
            len,
            last_modified: header(headers, "last-modified").and_then(http::parse_date),
            etag: etag_of(headers),
        }))
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

    fn list(&self, prefix: &str, page: Option<&str>) -> Result<ListPage, StoreError> {
        let mut call = Call::new("list", Method::GET, None);
        if let Some(token) = page {
            call = call.query("continuation-token", token);
        }
        call = call.query("encoding-type", "url").query("list-type", "2");
        if let Some(size) = self.page_size {
            call = call.query("max-keys", &size.to_string());
        }
        call = call.query("prefix", &format!("{}{prefix}", self.prefix));
        let answer = self.request(&call)?;
        let text = self.xml(&call, answer)?;
        let result: ListBucketResult = self.parse(&call, &text)?;
        let encoded = is_encoded(result.encoding_type.as_deref());
        let objects =
            result.contents.into_iter().filter_map(|object| self.object(object, encoded)).collect();
        let next = result.next_continuation_token.filter(|_| result.is_truncated);
        if result.is_truncated && (next.is_none() || next.as_deref() == page) {
            let message = "the listing does not say where it goes on".to_owned();
            return Err(self.error(&call, StoreErrorKind::Other, message));
        }
        Ok(ListPage { objects, next })
    }

    fn copy(&self, from: &Key, to: &Key, headers: ObjectHeaders) -> Result<(), StoreError> {
        let call = Call::new("copy to", Method::PUT, Some(to))
            .header("x-amz-copy-source", self.copy_source(from))
            .header("x-amz-metadata-directive", "REPLACE")
            .body(&[]);
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
            .header("x-amz-copy-source", self.copy_source(from))
            .body(&[]);
        if range.is_empty() {
            let message = "a part can't be copied from an empty range".to_owned();
            return Err(self.error(&call, StoreErrorKind::Other, message));
        }
        let bytes = format!("bytes={}-{}", range.start, range.end - 1);
        let call = call.header("x-amz-copy-source-range", bytes);
        let answer = self.request(&call)?;
        let text = self.xml(&call, answer)?;
        let copied: CopyXml = self.parse(&call, &text)?;
        match opaque(&copied.etag) {
            Some(etag) => Ok(Part { number, etag }),
            // A store without UploadPartCopy takes this for a part without bytes.
            None => Err(self.error(
                &call,
                StoreErrorKind::Unsupported,
                "the store does not copy parts: its answer has no entity tag".into(),
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

    fn list_uploads(&self, prefix: &str) -> Result<Vec<OpenUpload>, StoreError> {
        let mut all = Vec::new();
        let mut from = None;
        loop {
            let (uploads, next) = self.list_uploads_page(prefix, from.as_ref())?;
            all.extend(uploads);
            match next {
                None => return Ok(all),
                next => from = next,
            }
        }
    }

    fn requests(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

/// Where requests go: the parts of a URL, from an [`S3Config`].
struct Place {
    prefix: String,
    origin: String,
    host: String,
    bucket_path: String,
}

impl Place {
    fn new(config: &S3Config) -> Result<Place, String> {
        check_bucket(&config.bucket)?;
        if config.region.is_empty() || !config.region.chars().all(is_name_char) {
            return Err(format!("not a region: {:?}", config.region));
        }
        let prefix = checked_prefix(&config.prefix)?;
        let (scheme, host, path) = endpoint(config)?;
        let bucket = signing::uri_encode(&config.bucket, true);
        let (host, bucket_path) = if by_path(config) {
            (host, format!("{path}/{bucket}/"))
        } else {
            (format!("{}.{host}", config.bucket), format!("{path}/"))
        };
        Ok(Place { prefix, origin: format!("{scheme}://{host}"), host, bucket_path })
    }
}

fn is_name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_')
}

fn check_bucket(bucket: &str) -> Result<(), String> {
    let sound = !bucket.is_empty()
        && bucket.len() <= 255
        && !matches!(bucket, "." | "..")
        && bucket.chars().all(is_name_char);
    if sound { Ok(()) } else { Err(format!("not a bucket's name: {bucket:?}")) }
}

/// The prefix with one slash at its end, or nothing.
///
/// It goes into URLs: clients and proxies fold `/../` and `//`, and a backslash becomes a slash in
/// some, so that such a prefix would name another place for readers than for us.
fn checked_prefix(prefix: &str) -> Result<String, String> {
    let prefix = prefix.trim_matches('/');
    if prefix.is_empty() {
        return Ok(String::new());
    }
    if Key::new(prefix).is_err() || prefix.contains('\\') {
        return Err(format!(
            "not a usable prefix: {prefix:?} (no empty, . or .. segment, no backslash, no control \
             character)"
        ));
    }
    Ok(format!("{prefix}/"))
}

/// Scheme, host with port, and path without its last slash.
fn endpoint(config: &S3Config) -> Result<(String, String, String), String> {
    let Some(given) = &config.endpoint else {
        let domain = if config.region.starts_with("cn-") { "com.cn" } else { "com" };
        let host = format!("s3.{}.amazonaws.{domain}", config.region);
        return Ok(("https".to_owned(), host, String::new()));
    };
    let full = if given.contains("://") { given.clone() } else { format!("https://{given}") };
    // The text is not shown: a URL can hold a password.
    let bad = |why: &str| Err(format!("--endpoint-url can't be used: {why}"));
    let Ok(url) = full.parse::<Uri>() else { return bad("it is not a URL") };
    let scheme = match url.scheme_str() {
        Some(scheme @ ("http" | "https")) => scheme,
        _ => return bad("it must begin with https:// or http://"),
    };
    let Some(authority) = url.authority() else { return bad("it names no host") };
    if authority.as_str().contains('@') {
        return bad(
            "it must hold no user and password; keys come from the environment or a profile",
        );
    }
    if url.query().is_some() {
        return bad("it must have no query");
    }
    let path = url.path().trim_end_matches('/');
    if path.split('/').any(|part| matches!(part, "." | "..")) {
        return bad("its path has a . or .. segment");
    }
    let port = if scheme == "http" { ":80" } else { ":443" };
    // Clients leave the default port out of the Host header, so it must not be signed either.
    let host = authority.as_str().strip_suffix(port).unwrap_or(authority.as_str());
    Ok((scheme.to_owned(), host.to_ascii_lowercase(), path.to_owned()))
}

fn by_path(config: &S3Config) -> bool {
    match config.addressing {
        Addressing::Path => true,
        Addressing::Virtual => false,
        // A dot in the name breaks the wildcard certificate; capitals and `_` are no host names.
        Addressing::Auto => {
            let odd = |c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
            config.endpoint.is_some() || config.bucket.contains(odd)
        }
    }
}

/// The canonical request of AWS signature version 4.
struct Canonical {
    request: String,
    signed_headers: String,
}

impl Canonical {
    /// `headers` are sorted by name.
    fn new(call: &Call<'_>, path: &str, headers: &[(&str, &str)], payload: &str) -> Self {
        let mut request = String::with_capacity(512);
        let mut signed_headers = String::with_capacity(128);
        for part in [call.method.as_str(), "\n", path, "\n", &call.query, "\n"] {
            request.push_str(part);
        }
        for (name, value) in headers.iter().filter(|(name, _)| is_signed(name)) {
            for part in [name, ":", value.trim(), "\n"] {
                request.push_str(part);
            }
            if !signed_headers.is_empty() {
                signed_headers.push(';');
            }
            signed_headers.push_str(name);
        }
        for part in ["\n", &signed_headers, "\n", payload] {
            request.push_str(part);
        }
        Canonical { request, signed_headers }
    }
}

/// AWS wants `host` and every `x-amz-*` signed. Cache-Control, Range and the conditions are left
/// out: proxies before a store may rewrite them, and then nothing would go through.
fn is_signed(name: &str) -> bool {
    name.starts_with("x-amz-") || matches!(name, "host" | "content-type" | "content-md5")
}

fn header_map(headers: &[(&str, &str)]) -> Result<HeaderMap, String> {
    use ureq::http::{HeaderName, HeaderValue};
    let mut map = HeaderMap::with_capacity(headers.len());
    for (name, value) in headers {
        let (Ok(header), Ok(mut value)) =
            (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value))
        else {
            return Err(format!("the value of header {name} has characters that can't be sent"));
        };
        value.set_sensitive(matches!(*name, "authorization" | "x-amz-security-token"));
        map.insert(header, value);
    }
    Ok(map)
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

/// A stream of an object's bytes.
struct Stream {
    reader: ureq::BodyReader<'static>,
    target: String,
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.reader.read(buf).map_err(|error| {
            if error.kind() == io::ErrorKind::Interrupted {
                return error;
            }
            let message = format!("the answer was cut off: {}", one_line(&error.to_string()));
            let kind = StoreErrorKind::Transient { retry_after: None };
            io::Error::new(error.kind(), StoreError::new(kind, "read", &self.target, message))
        })
    }
}

/// What a store says about a failure.
#[derive(Debug, Default, Deserialize)]
struct ErrorXml {
    #[serde(rename = "Code", default)]
    code: String,
    #[serde(rename = "Message", default)]
    message: String,
    #[serde(rename = "Region", default)]
    region: String,
    #[serde(rename = "Endpoint", default)]
    endpoint: String,
}

impl ErrorXml {
    /// `None`: the text is no `<Error>`.
    fn parse(text: &str) -> Option<Self> {
        let mut rest = text.trim_start();
        if let Some(after) = rest.strip_prefix("<?xml") {
            rest = after.split_once("?>")?.1.trim_start();
        }
        let after = rest.strip_prefix("<Error")?;
        if !after.starts_with(['>', ' ', '\n', '\t', '/']) {
            return None;
        }
        // One that can't be read is still an error, without a code.
        let mut said: ErrorXml = quick_xml::de::from_str(rest).unwrap_or_default();
        said.code = one_line(&said.code);
        Some(said)
    }

    /// A HEAD has no body; AWS names the region in a header.
    fn from_headers(headers: &HeaderMap) -> Self {
        let region = header(headers, "x-amz-bucket-region").unwrap_or_default().to_owned();
        ErrorXml { region, ..ErrorXml::default() }
    }
}

// Leaner than rust-s3's: those fail when a store leaves out an element that we don't read.

#[derive(Deserialize)]
struct DeleteXml {
    #[serde(rename = "Error", default)]
    errors: Vec<DeleteErrorXml>,
}

#[derive(Deserialize)]
struct DeleteErrorXml {
    #[serde(rename = "Key", default)]
    key: String,
    #[serde(rename = "Code", default)]
    code: String,
    #[serde(rename = "Message", default)]
    message: String,
}

#[derive(Deserialize)]
struct CopyXml {
    #[serde(rename = "ETag", default)]
    etag: String,
}

#[derive(Deserialize)]
struct UploadsXml {
    #[serde(rename = "EncodingType")]
    encoding_type: Option<String>,
    #[serde(rename = "IsTruncated", default)]
    is_truncated: String,
    #[serde(rename = "NextKeyMarker", default)]
    next_key: String,
    #[serde(rename = "NextUploadIdMarker", default)]
    next_id: String,
    #[serde(rename = "Upload", default)]
    uploads: Vec<UploadXml>,
}

#[derive(Deserialize)]
struct UploadXml {
    #[serde(rename = "Key", default)]
    key: String,
    #[serde(rename = "UploadId", default)]
    id: String,
    #[serde(rename = "Initiated", default)]
    initiated: String,
}

/// What to do about a refusal. The codes:
/// <https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html>.
fn kind_of(status: u16, code: &str, retry_after: Option<Duration>) -> StoreErrorKind {
    use StoreErrorKind::*;
    match code {
        "NoSuchKey" | "NoSuchBucket" | "NoSuchUpload" => NotFound,
        "ExpiredToken" | "ExpiredTokenException" | "TokenRefreshRequired" | "RequestExpired" => {
            ExpiredCredentials
        }
        "AccessDenied"
        | "InvalidAccessKeyId"
        | "SignatureDoesNotMatch"
        | "RequestTimeTooSkewed"
        | "AllAccessDisabled"
        | "AccountProblem"
        | "InvalidToken" => Denied,
        "PreconditionFailed" | "ConditionalRequestConflict" => ConditionFailed,
        "NotImplemented" => Unsupported,
        "SlowDown"
        | "InternalError"
        | "ServiceUnavailable"
        | "RequestTimeout"
        | "Busy"
        | "OperationAborted"
        | "ThrottlingException"
        | "TooManyRequests" => Transient { retry_after },
        _ => match status {
            401 | 403 => Denied,
            404 => NotFound,
            409 | 412 => ConditionFailed,
            501 => Unsupported,
            408 | 425 | 429 | 500 | 502..=599 => Transient { retry_after },
            _ => Other,
        },
    }
}

/// A request that got no answer may go better the next time, unless we ourselves can't make it,
/// don't trust the other side or are refused by a proxy.
fn transport_kind(error: &ureq::Error) -> StoreErrorKind {
    match error {
        // What a pooled connection that the store has closed meanwhile looks like: at once again.
        ureq::Error::Io(error) if is_broken(error) => {
            StoreErrorKind::Transient { retry_after: Some(Duration::ZERO) }
        }
        error if http::is_transient(error) => StoreErrorKind::Transient { retry_after: None },
        error if http::is_denied(error) => StoreErrorKind::Denied,
        _ => StoreErrorKind::Other,
    }
}

fn is_broken(error: &io::Error) -> bool {
    use io::ErrorKind::*;
    matches!(error.kind(), BrokenPipe | ConnectionReset | ConnectionAborted | UnexpectedEof)
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn etag_of(headers: &HeaderMap) -> Option<ETag> {
    opaque(header(headers, "etag")?)
}

/// Without its quotes; `None` if there is nothing in them.
fn opaque(etag: &str) -> Option<ETag> {
    let bare = etag.trim().trim_matches('"');
    (!bare.is_empty()).then(|| ETag(bare.to_owned()))
}

fn parse_iso(text: &str) -> Option<SystemTime> {
    OffsetDateTime::parse(text.trim(), &Rfc3339).ok().map(SystemTime::from)
}

/// `20260131T235959Z`.
fn timestamp(now: OffsetDateTime) -> String {
    let (year, month, day) = now.to_calendar_date();
    let (hour, minute, second) = now.to_hms();
    format!("{year:04}{:02}{day:02}T{hour:02}{minute:02}{second:02}Z", u8::from(month))
}

fn is_encoded(encoding_type: Option<&str>) -> bool {
    encoding_type.is_some_and(|name| name.eq_ignore_ascii_case("url"))
}

/// Undoes `encoding-type=url`, as AWS's own clients do: `+` is a blank too. Text with bytes that
/// no encoder leaves as they are was not encoded, whatever the answer says (some stores echo the
/// parameter and do nothing).
fn decode_listed(text: String) -> String {
    if text.bytes().any(|byte| byte <= b' ' || byte >= 0x7f) {
        return text;
    }
    if !text.contains(['%', '+']) {
        return text;
    }
    percent_decode(&text).unwrap_or(text)
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'/')
}

fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let high = char::from(rest.next()?).to_digit(16)?;
                let low = char::from(rest.next()?).to_digit(16)?;
                u8::try_from(high << 4 | low).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

/// The first line, cut to what fits a log line, without control characters.
fn one_line(text: &str) -> String {
    let line = text.trim().lines().next().unwrap_or_default();
    line.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_MESSAGE_CHARS).collect()
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a String can't fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// An empty buffer for `len` bytes, as far as a store's word is good for memory: 1 MiB at first.
fn buffer(len: u64) -> Vec<u8> {
    Vec::with_capacity(usize::try_from(len.min(1 << 20)).unwrap_or(0))
}

/// `None`: the body is longer than `limit`.
fn read_up_to(body: &mut ureq::Body, limit: u64) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    body.as_reader().take(limit + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= limit).then_some(bytes))
}

/// As much of an error's body as there is; its status alone says enough.
fn read_error_body(body: &mut ureq::Body) -> String {
    let mut bytes = Vec::new();
    let mut reader = body.as_reader();
    // What was read before a failure stays in `bytes`.
    let _ = reader.by_ref().take(MAX_ERROR_BYTES).read_to_end(&mut bytes);
    drain(&mut reader);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Reads a little of what is left, so that the connection can be used again if that was all.
fn drain(reader: &mut impl Read) {
    let _ = io::copy(&mut reader.take(MAX_DRAIN_BYTES), &mut io::sink());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn urls(change: impl FnOnce(&mut S3Config)) -> (String, String, String) {
        let mut config = S3Config {
            bucket: "bucket".into(),
            prefix: "a b".into(),
            region: "eu-west-1".into(),
            ..S3Config::default()
        };
        change(&mut config);
        let credentials = Credentials {
            access_key: "K".into(),
            secret_key: "s".into(),
            session_token: None,
            expires: None,
        };
        let client = http::Client::new(&http::Settings::default()).unwrap();
        let store = S3Store::new(config, client, Provider::fixed(credentials)).unwrap();
        let key = Key::new("k+~").unwrap();
        let (bucket, object) = (store.path(None), store.path(Some(&key)));
        (
            store.host.clone(),
            format!("{}{bucket}", store.origin),
            format!("{}{object}", store.origin),
        )
    }

    #[test]
    fn urls_follow_the_addressing_style() {
        let (host, bucket, key) = urls(|_| ());
        assert_eq!(host, "bucket.s3.eu-west-1.amazonaws.com");
        assert_eq!(bucket, "https://bucket.s3.eu-west-1.amazonaws.com/");
        assert_eq!(key, "https://bucket.s3.eu-west-1.amazonaws.com/a%20b/k%2B~");
        for bucket in ["with.dots", "Capitals", "under_score"] {
            let (host, ..) = urls(|config| config.bucket = bucket.into());
            assert_eq!(host, "s3.eu-west-1.amazonaws.com", "{bucket}");
        }
        let (host, bucket, key) = urls(|config| {
            config.endpoint = Some("HTTPS://S3.Example:443/swift/".into());
        });
        assert_eq!(
            (host.as_str(), bucket.as_str()),
            ("s3.example", "https://s3.example/swift/bucket")
        );
        assert_eq!(key, "https://s3.example/swift/bucket/a%20b/k%2B~");
        let (host, bucket, _) = urls(|config| {
            config.endpoint = Some("http://host:9000".into());
            config.addressing = Addressing::Virtual;
        });
        assert_eq!(
            (host.as_str(), bucket.as_str()),
            ("bucket.host:9000", "http://bucket.host:9000/")
        );
        let (host, ..) = urls(|config| config.region = "cn-north-1".into());
        assert_eq!(host, "bucket.s3.cn-north-1.amazonaws.com.cn");
    }

    #[test]
    fn headers_are_signed_sorted_by_name() {
        let call =
            Call::new("copy", Method::PUT, None).query("partNumber", "1").query("uploadId", "a+&b");
        let headers = [
            ("cache-control", "no-cache"),
            ("host", "h"),
            ("x-amz-copy-source", "b/k"),
            ("x-amz-copy-source-range", "bytes=0-1"),
        ];
        let canonical = Canonical::new(&call, "/b/k", &headers, "HASH");
        assert_eq!(canonical.signed_headers, "host;x-amz-copy-source;x-amz-copy-source-range");
        let expected = "PUT\n/b/k\npartNumber=1&uploadId=a%2B%26b\nhost:h\nx-amz-copy-source:b/k\n\
                        x-amz-copy-source-range:bytes=0-1\n\n\
                        host;x-amz-copy-source;x-amz-copy-source-range\nHASH";
        assert_eq!(canonical.request, expected);
    }

    #[test]
    fn the_time_is_written_as_signatures_want_it() {
        let time = OffsetDateTime::from_unix_timestamp(1_369_353_600).unwrap();
        assert_eq!(timestamp(time), "20130524T000000Z");
    }

    #[test]
    fn bad_percent_signs_are_left_as_they_are() {
        for text in ["%", "%4", "%zz", "%ff"] {
            assert_eq!(decode_listed(text.to_owned()), text);
        }
        assert_eq!(decode_listed("%41+b".to_owned()), "A b");
    }
}
