//! What an answer's status and headers say: is it the object that was asked for, when to ask again.
//!
//! Assumes nothing of the server: every number is checked, and what cannot be read is as if it were missing
//! or is refused.

use std::time::{Duration, SystemTime};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;
use ureq::http::{HeaderMap, Response};

/// Is `answer` one to a GET of an object (or of `range` of it, whose end may be past the object's)?
/// Only 200 and 206 are, with a length or chunked framing: the end of a connection is no end of an
/// object. `Err`: why not.
pub fn check_object(
    answer: &Response<ureq::Body>,
    range: Option<&std::ops::Range<u64>>,
) -> Result<(), String> {
    let header = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok());
    let status = answer.status().as_u16();
    if status != 200 && status != 206 {
        return Err(format!("HTTP {status} is not a valid response to a GET of an object"));
    }
    let chunked = header("transfer-encoding")
        .is_some_and(|value| value.trim_end().to_ascii_lowercase().ends_with("chunked"));
    if !chunked && header("content-length").is_none() {
        return Err(
            "the response has no length, so it cannot be distinguished from a truncated one".into(),
        );
    }
    let Some(range) = range else {
        return match status {
            206 => Err("the response is partial, but the whole object was requested".into()),
            _ => Ok(()),
        };
    };
    if status == 206 {
        let given = header("content-range").unwrap_or_default();
        let is_asked = parse_content_range(given).is_some_and(|(first, last, total)| {
            first == range.start
                && last < range.end
                && (last + 1 == range.end || total.is_none_or(|total| last + 1 == total))
        });
        if !is_asked {
            let given: String = given.chars().filter(|c| !c.is_control()).take(80).collect();
            return Err(format!("requested bytes from {}, received {given:?}", range.start));
        }
    }
    Ok(())
}

/// `bytes 0-9/100`, or `*` for the total.
fn parse_content_range(text: &str) -> Option<(u64, u64, Option<u64>)> {
    let (range, total) = text.trim().strip_prefix("bytes")?.trim_start().split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let total = match total.trim() {
        "*" => None,
        total => Some(total.parse().ok()?),
    };
    let last: u64 = last.trim().parse().ok()?;
    (last < u64::MAX).then_some((first.trim().parse().ok()?, last, total))
}

/// The longest wait that a server's word is taken for. Nobody waits so long; a wait without a limit
/// overflows where it is added to a time.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(366 * 24 * 3600);

/// `Retry-After`: seconds, or a date (RFC 9110, 10.2.3), a year at most. `None` also for a date that
/// is past.
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(ureq::http::header::RETRY_AFTER)?.to_str().ok()?.trim();
    let asked = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => parse_date(text)?.duration_since(SystemTime::now()).ok()?,
    };
    Some(asked.min(MAX_RETRY_AFTER))
}

/// A date as headers have it: `Tue, 01 Jan 2999 00:00:00 GMT`.
pub fn parse_date(text: &str) -> Option<SystemTime> {
    OffsetDateTime::parse(text, &Rfc2822).ok().map(SystemTime::from)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn endless_retry_after_can_be_added_to_a_time() {
        for value in ["18446744073709551615", "Fri, 31 Dec 9999 23:59:59 GMT", "31536000000"] {
            let mut headers = HeaderMap::new();
            headers.insert("retry-after", value.parse().unwrap());
            let wait = retry_after(&headers).expect(value);
            assert!(wait.checked_add(Duration::from_secs(3600)).is_some(), "{value}");
            assert!(Instant::now().checked_add(wait).is_some(), "{value}");
            assert!(wait <= MAX_RETRY_AFTER, "{value}");
        }
    }
}
