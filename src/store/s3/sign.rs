//! A request, and its signature: AWS signature version 4,
//! <https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html>.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::Mac;
use s3::{Region, signing};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use ureq::http::{HeaderMap, Method};

use crate::store::credentials::Credentials;
use crate::store::interface::Key;

/// SHA-256 of nothing: the payload hash of a request without a body.
const EMPTY_SHA256: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// One request, before it is signed.
#[derive(Clone)]
pub(super) struct Call<'a> {
    pub(super) verb: &'static str,
    pub(super) method: Method,
    pub(super) key: Option<&'a Key>,
    /// Encoded and sorted by name, as it is signed and sent.
    pub(super) query: String,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Option<&'a [u8]>,
}

impl<'a> Call<'a> {
    pub(super) fn new(verb: &'static str, method: Method, key: Option<&'a Key>) -> Self {
        Call { verb, method, key, query: String::new(), headers: Vec::new(), body: None }
    }

    /// Adds `name=value`. Names must come in byte order: signature version 4 wants them sorted.
    pub(super) fn query(mut self, name: &str, value: &str) -> Self {
        if !self.query.is_empty() {
            self.query.push('&');
        }
        self.query.push_str(name);
        self.query.push('=');
        self.query.push_str(&signing::uri_encode(value, true));
        self
    }

    pub(super) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(super) fn body(mut self, body: &'a [u8]) -> Self {
        self.body = Some(body);
        self
    }

    pub(super) fn has_md5(&self) -> bool {
        self.headers.iter().any(|(name, _)| *name == "content-md5")
    }

    /// Adds the one checksum of the body that every store knows: bulk delete needs it, and what is
    /// stored in a bucket with Object Lock.
    pub(super) fn with_md5(self) -> Self {
        let checksum = BASE64.encode(md5::compute(self.body.unwrap_or_default()).0);
        self.header("content-md5", checksum)
    }
}

/// Signs requests for one region.
pub(super) struct Signer {
    region: Region,
    /// The last signing key. It changes with the day and with the credentials only, so the lock is
    /// held for a comparison.
    last: Mutex<Option<Arc<DayKey>>>,
}

/// What a signature needs that is the same for a day.
struct DayKey {
    /// `20260131`.
    day: String,
    credentials: Arc<Credentials>,
    /// Keyed; cloned for every request, which saves hashing the key's pads again.
    mac: signing::HmacSha256,
}

impl Signer {
    pub(super) fn new(region: String, endpoint: String) -> Self {
        Signer { region: Region::Custom { region, endpoint }, last: Mutex::new(None) }
    }

    pub(super) fn region(&self) -> String {
        self.region.to_string()
    }

    /// Signs `call` as of `now`; gives the headers to send.
    ///
    /// The canonical request is built here and not with [`signing::canonical_request`]: that sorts
    /// `name:value` lines, so that `x-amz-copy-source-range` comes before `x-amz-copy-source`, and
    /// stores refuse the signature.
    pub(super) fn sign(
        &self,
        call: &Call<'_>,
        host: &str,
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
            ("host", host),
            ("x-amz-content-sha256", payload.as_str()),
            ("x-amz-date", stamp.as_str()),
        ]);
        if let Some(token) = &credentials.session_token {
            headers.push(("x-amz-security-token", token.as_str()));
        }
        headers.sort_unstable_by_key(|(name, _)| *name);
        let canonical = Canonical::new(call, path, &headers, &payload);
        let key = self.day_key(&now, &stamp[..8], credentials)?;
        let words = |_| "cannot sign the request".to_owned();
        let text =
            signing::string_to_sign(&now, &self.region, &canonical.request).map_err(words)?;
        let mut mac = key.mac.clone();
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

    fn day_key(
        &self,
        now: &OffsetDateTime,
        day: &str,
        credentials: &Arc<Credentials>,
    ) -> Result<Arc<DayKey>, String> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(key) = &*last
            && key.day == day
            && Arc::ptr_eq(&key.credentials, credentials)
        {
            return Ok(key.clone());
        }
        // Errors of rust-s3 are put in our own words: theirs may show what they were given.
        let key = signing::signing_key(now, &credentials.secret_key, &self.region, "s3")
            .map_err(|_| "cannot derive the signing key".to_owned())?;
        let mac = signing::HmacSha256::new_from_slice(&key)
            .map_err(|_| "cannot use the signing key".to_owned())?;
        let key = Arc::new(DayKey { day: day.to_owned(), credentials: credentials.clone(), mac });
        *last = Some(key.clone());
        Ok(key)
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
            return Err(format!(
                "the value of header {name} contains characters that cannot be sent"
            ));
        };
        value.set_sensitive(matches!(*name, "authorization" | "x-amz-security-token"));
        map.insert(header, value);
    }
    Ok(map)
}

/// `20260131T235959Z`.
fn timestamp(now: OffsetDateTime) -> String {
    let (year, month, day) = now.to_calendar_date();
    let (hour, minute, second) = now.to_hms();
    format!("{year:04}{:02}{day:02}T{hour:02}{minute:02}{second:02}Z", u8::from(month))
}

pub(super) fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a String can't fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
