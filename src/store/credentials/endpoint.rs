//! Asking an endpoint that gives credentials, and reading what it gives.
//!
//! Every request has a time-out, and what is read has a limit. No message has a header, a form or a part
//! of an answer in it.

use std::fs;
use std::io::Read;
use std::time::{Duration, SystemTime};

use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use ureq::http::{Request, Uri};

use super::keys::{Credentials, Found};
use super::search::Search;
use crate::http;

/// One answer of a credentials endpoint.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Nobody answers at the metadata's address outside EC2.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// The most bytes of a token file or of an answer.
const MAX_BYTES: u64 = 64 << 10;
/// A parser's own words could show a part of the answer.
pub(super) const UNREADABLE: &str = "an unreadable response";

/// One request to a credentials endpoint.
pub(super) struct Ask<'a> {
    pub(super) url: &'a str,
    pub(super) put: bool,
    pub(super) header: Option<(&'a str, &'a str)>,
    pub(super) form: Option<&'a str>,
    pub(super) timeout: Duration,
    /// Not through a proxy.
    pub(super) direct: bool,
}

impl<'a> Ask<'a> {
    pub(super) fn get(url: &'a str) -> Self {
        Ask { url, put: false, header: None, form: None, timeout: ANSWER_TIMEOUT, direct: false }
    }
}

/// Why an endpoint gave nothing.
pub(super) struct Unanswered {
    pub(super) message: String,
    /// It may do the next time.
    transient: bool,
}

impl Unanswered {
    pub(super) fn for_good(message: String) -> Self {
        Unanswered { message, transient: false }
    }
}

impl Search {
    /// The body of a 200; anything else in words. Neither header nor form is in them.
    pub(super) fn ask(&self, ask: &Ask<'_>) -> Result<String, Unanswered> {
        let not_a_url = |_| Unanswered::for_good(format!("{:?} is not a URL", ask.url));
        let url: Uri = ask.url.parse().map_err(not_a_url)?;
        let place = ask.url.split(['?', '#']).next().unwrap_or_default();
        let agent = if ask.direct { self.client.direct() } else { self.client.agent(&url) };
        let method = match (ask.put, ask.form) {
            (true, _) => "PUT",
            (false, Some(_)) => "POST",
            (false, None) => "GET",
        };
        let mut request = Request::builder().method(method).uri(url);
        if let Some((name, value)) = ask.header {
            request = request.header(name, value);
        }
        if ask.form.is_some() {
            request = request.header("content-type", "application/x-www-form-urlencoded");
            request = request.header("accept", "application/xml");
        }
        let bad = |_| Unanswered::for_good(format!("{place} cannot be reached"));
        let (all, connect) = (Some(ask.timeout), Some(CONNECT_TIMEOUT.max(ask.timeout / 2)));
        let answer = if method == "GET" {
            let request = agent.configure_request(request.body(()).map_err(bad)?);
            let request = request.http_status_as_error(false).max_redirects(0);
            agent.run(request.timeout_global(all).timeout_connect(connect).build())
        } else {
            let body = ask.form.unwrap_or_default();
            let request = agent.configure_request(request.body(body).map_err(bad)?);
            let request = request.http_status_as_error(false).max_redirects(0);
            agent.run(request.timeout_global(all).timeout_connect(connect).build())
        };
        let failed = |error: ureq::Error| Unanswered {
            message: format!("{place}: {}", http::explain(&error)),
            transient: http::is_transient(&error),
        };
        let answer = answer.map_err(failed)?;
        let status = answer.status().as_u16();
        if status != 200 {
            let message = format!("{place} responded with HTTP {status}");
            return Err(Unanswered { message, transient: status == 429 || status >= 500 });
        }
        let mut text = String::new();
        let mut body = answer.into_body();
        let read = body.as_reader().take(MAX_BYTES).read_to_string(&mut text);
        read.map_err(|error| failed(error.into()))?;
        Ok(text)
    }
}

impl Found {
    pub(super) fn from_endpoint(place: &str, answer: Result<Credentials, Unanswered>) -> Found {
        match answer {
            Ok(credentials) => Found::Here(credentials),
            Err(error) if error.transient => {
                Found::Unavailable(format!("{place}: {}", error.message))
            }
            Err(error) => Found::Broken(format!("{place}: {}", error.message)),
        }
    }
}

pub(super) fn read_token(path: &str) -> Result<String, String> {
    let mut text = String::new();
    fs::File::open(path)
        .and_then(|file| file.take(MAX_BYTES).read_to_string(&mut text))
        .map_err(|error| format!("{path}: {error}"))?;
    Ok(text.trim().to_owned())
}

/// Percent-encodes all but unreserved characters (RFC 3986, 2.3).
pub(super) fn percent_encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(char::from(byte));
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// As containers' and instances' endpoints give them.
#[derive(Deserialize)]
struct CredentialsJson {
    #[serde(rename = "AccessKeyId")]
    access_key: String,
    #[serde(rename = "SecretAccessKey")]
    secret_key: String,
    #[serde(rename = "Token")]
    token: Option<String>,
    #[serde(rename = "Expiration")]
    expiration: Option<String>,
}

pub(super) fn parse_json(url: &str, text: &str) -> Result<Credentials, Unanswered> {
    let place = url.split(['?', '#']).next().unwrap_or_default();
    let json: CredentialsJson = serde_json::from_str(text)
        .map_err(|_| Unanswered::for_good(format!("{place} gave {UNREADABLE}")))?;
    Ok(Credentials {
        access_key: json.access_key,
        secret_key: json.secret_key,
        session_token: json.token.filter(|token| !token.is_empty()),
        expires: json.expiration.as_deref().and_then(parse_time),
    })
}

pub(super) fn parse_time(text: &str) -> Option<SystemTime> {
    OffsetDateTime::parse(text.trim(), &Rfc3339).ok().map(SystemTime::from)
}
