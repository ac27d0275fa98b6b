//! What stores answer: their errors, XML and headers. Nothing in it is believed or unbounded.

use std::io::{self, Read};
use std::time::{Duration, SystemTime};

use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use ureq::http::HeaderMap;

use crate::http;
use crate::store::interface::{ETag, StoreError, StoreErrorKind};

/// The most bytes of an error's body that are read; S3's are under 1 KiB.
const MAX_ERROR_BYTES: u64 = 64 << 10;
/// Up to this many unwanted bytes are read so that their connection can be used again.
pub(super) const MAX_DRAIN_BYTES: u64 = 64 << 10;
/// The most characters of a store's message that are shown.
const MAX_MESSAGE_CHARS: usize = 300;

/// What a store says about a failure.
#[derive(Debug, Default, Deserialize)]
pub(super) struct ErrorXml {
    #[serde(rename = "Code", default)]
    pub(super) code: String,
    #[serde(rename = "Message", default)]
    pub(super) message: String,
    #[serde(rename = "Region", default)]
    pub(super) region: String,
    #[serde(rename = "Endpoint", default)]
    pub(super) endpoint: String,
}

impl ErrorXml {
    /// `None`: the text is no `<Error>`.
    pub(super) fn parse(text: &str) -> Option<Self> {
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
    pub(super) fn from_headers(headers: &HeaderMap) -> Self {
        let region = header(headers, "x-amz-bucket-region").unwrap_or_default().to_owned();
        ErrorXml { region, ..ErrorXml::default() }
    }
}

// Leaner than rust-s3's: those fail when a store leaves out an element that we don't read.

#[derive(Deserialize)]
pub(super) struct DeleteXml {
    #[serde(rename = "Error", default)]
    pub(super) errors: Vec<DeleteErrorXml>,
}

#[derive(Deserialize)]
pub(super) struct DeleteErrorXml {
    #[serde(rename = "Key", default)]
    pub(super) key: String,
    #[serde(rename = "Code", default)]
    pub(super) code: String,
    #[serde(rename = "Message", default)]
    pub(super) message: String,
}

#[derive(Default, Deserialize)]
pub(super) struct CopyXml {
    #[serde(rename = "ETag", default)]
    pub(super) etag: String,
}

#[derive(Deserialize)]
pub(super) struct ListXml {
    #[serde(rename = "EncodingType")]
    pub(super) encoding_type: Option<String>,
    #[serde(rename = "IsTruncated", default)]
    pub(super) is_truncated: String,
    #[serde(rename = "NextContinuationToken")]
    pub(super) next_token: Option<String>,
    #[serde(rename = "NextMarker")]
    pub(super) next_marker: Option<String>,
    #[serde(rename = "Contents", default)]
    pub(super) contents: Vec<ObjectXml>,
    #[serde(rename = "CommonPrefixes", default)]
    pub(super) folders: Vec<FolderXml>,
}

#[derive(Deserialize)]
pub(super) struct FolderXml {
    #[serde(rename = "Prefix")]
    pub(super) prefix: String,
}

#[derive(Deserialize)]
pub(super) struct ObjectXml {
    #[serde(rename = "Key")]
    pub(super) key: String,
    #[serde(rename = "Size")]
    pub(super) size: u64,
    #[serde(rename = "LastModified", default)]
    pub(super) last_modified: String,
    #[serde(rename = "ETag")]
    pub(super) etag: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct UploadsXml {
    #[serde(rename = "EncodingType")]
    pub(super) encoding_type: Option<String>,
    #[serde(rename = "IsTruncated", default)]
    pub(super) is_truncated: String,
    #[serde(rename = "NextKeyMarker", default)]
    pub(super) next_key: String,
    #[serde(rename = "NextUploadIdMarker", default)]
    pub(super) next_id: String,
    #[serde(rename = "Upload", default)]
    pub(super) uploads: Vec<UploadXml>,
}

#[derive(Deserialize)]
pub(super) struct UploadXml {
    #[serde(rename = "Key", default)]
    pub(super) key: String,
    #[serde(rename = "UploadId", default)]
    pub(super) id: String,
    #[serde(rename = "Initiated", default)]
    pub(super) initiated: String,
}

/// What to do about a refusal. The codes:
/// <https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html>.
pub(super) fn kind_of(status: u16, code: &str, retry_after: Option<Duration>) -> StoreErrorKind {
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
pub(super) fn transport_kind(error: &ureq::Error) -> StoreErrorKind {
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

pub(super) fn is_broken(error: &io::Error) -> bool {
    use io::ErrorKind::*;
    matches!(error.kind(), BrokenPipe | ConnectionReset | ConnectionAborted | UnexpectedEof)
}

pub(super) fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

pub(super) fn etag_of(headers: &HeaderMap) -> Option<ETag> {
    opaque(header(headers, "etag")?)
}

/// Without its quotes; `None` if there is nothing in them.
pub(super) fn opaque(etag: &str) -> Option<ETag> {
    let bare = etag.trim().trim_matches('"');
    (!bare.is_empty()).then(|| ETag(bare.to_owned()))
}

pub(super) fn parse_iso(text: &str) -> Option<SystemTime> {
    OffsetDateTime::parse(text.trim(), &Rfc3339).ok().map(SystemTime::from)
}

pub(super) fn is_encoded(encoding_type: Option<&str>) -> bool {
    encoding_type.is_some_and(|name| name.eq_ignore_ascii_case("url"))
}

/// Undoes `encoding-type=url`, as AWS's own clients do: `+` is a blank too. Text with bytes that
/// no encoder leaves as they are was not encoded, whatever the answer says (some stores echo the
/// parameter and do nothing).
pub(super) fn decode_listed(text: String) -> String {
    if text.bytes().any(|byte| byte <= b' ' || byte >= 0x7f) {
        return text;
    }
    if !text.contains(['%', '+']) {
        return text;
    }
    percent_decode(&text).unwrap_or(text)
}

pub(super) fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'/')
}

pub(super) fn percent_decode(text: &str) -> Option<String> {
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
pub(super) fn one_line(text: &str) -> String {
    let line = text.trim().lines().next().unwrap_or_default();
    line.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_MESSAGE_CHARS).collect()
}

/// `None`: the body is longer than `limit`.
pub(super) fn read_up_to(body: &mut ureq::Body, limit: u64) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    body.as_reader().take(limit + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= limit).then_some(bytes))
}

/// As much of an error's body as there is; its status alone says enough.
pub(super) fn read_error_body(body: &mut ureq::Body) -> String {
    let mut bytes = Vec::new();
    let mut reader = body.as_reader();
    // What was read before a failure stays in `bytes`.
    let _ = reader.by_ref().take(MAX_ERROR_BYTES).read_to_end(&mut bytes);
    drain(&mut reader);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Reads a little of what is left, so that the connection can be used again if that was all.
pub(super) fn drain(reader: &mut impl Read) {
    let rest = &mut reader.take(MAX_DRAIN_BYTES);
    let _ = http::at_most(2 * MAX_DRAIN_BYTES, || io::copy(rest, &mut io::sink()));
}

/// A stream of an object's bytes.
pub(super) struct Stream {
    pub(super) reader: ureq::BodyReader<'static>,
    pub(super) target: String,
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.reader.read(buf).map_err(|error| {
            if error.kind() == io::ErrorKind::Interrupted {
                return error;
            }
            let message = format!("the response was cut off: {}", one_line(&error.to_string()));
            let kind = StoreErrorKind::Transient { retry_after: None };
            io::Error::new(error.kind(), StoreError::new(kind, "read", &self.target, message))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_percent_signs_are_left_as_they_are() {
        for text in ["%", "%4", "%zz", "%ff"] {
            assert_eq!(decode_listed(text.to_owned()), text);
        }
        assert_eq!(decode_listed("%41+b".to_owned()), "A b");
    }
}
