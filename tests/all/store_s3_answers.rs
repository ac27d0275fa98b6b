//! What the S3 store makes of answers that no well-behaved server gives on demand: a tiny server
//! sends them as they are written here.

#![allow(missing_docs)]

use crate::support::git_http;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use git_http::GitHttp;
use mirror_git_to_s3::http::{Client, Settings};
use mirror_git_to_s3::store::credentials::{Credentials, Lookup, Provider, Search};
use mirror_git_to_s3::store::retry::{Policy, Retry};
use mirror_git_to_s3::store::s3::{Addressing, S3Config, S3Store};
use mirror_git_to_s3::store::{
    Condition, ETag, Key, ObjectHeaders, Part, Store, StoreError, StoreErrorKind, Upload,
};

const TEXT: ObjectHeaders = ObjectHeaders::changing("text/plain");

/// Answers each request with the next of some texts; `""` closes the connection without one.
struct Canned {
    address: SocketAddr,
    /// Head and body of every request.
    seen: Arc<Mutex<Vec<String>>>,
}

impl Canned {
    fn new(answers: &[&str]) -> Canned {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let mut answers: Vec<String> = answers.iter().rev().map(|a| (*a).to_owned()).collect();
        let log = seen.clone();
        std::thread::spawn(move || {
            while !answers.is_empty() {
                let Ok((socket, _)) = listener.accept() else { return };
                serve(&socket, &mut answers, &log);
            }
        });
        Canned { address, seen }
    }

    fn store(&self) -> S3Store {
        self.store_with(|_| ())
    }

    fn store_with(&self, change: impl FnOnce(&mut S3Config)) -> S3Store {
        self.store_for(provider(), change)
    }

    fn store_for(&self, provider: Provider, change: impl FnOnce(&mut S3Config)) -> S3Store {
        let mut config = S3Config {
            bucket: "bucket".into(),
            prefix: "p".into(),
            region: "us-east-1".into(),
            endpoint: Some(format!("http://{}", self.address)),
            addressing: Addressing::Path,
            ..S3Config::default()
        };
        change(&mut config);
        S3Store::new(config, client(), provider).unwrap()
    }

    fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

fn serve(socket: &TcpStream, answers: &mut Vec<String>, log: &Mutex<Vec<String>>) {
    let mut writer = socket;
    let mut reader = BufReader::new(socket);
    while let Some(request) = read_request(&mut reader) {
        log.lock().unwrap().push(request);
        let answer = answers.pop().unwrap_or_default();
        // An answer without a length ends with its connection.
        if answer.is_empty() || writer.write_all(answer.as_bytes()).is_err() {
            return;
        }
        if !answer.to_lowercase().contains("content-length") || answer.contains("close") {
            return;
        }
        if answers.is_empty() {
            return;
        }
    }
}

fn read_request(reader: &mut impl BufRead) -> Option<String> {
    let (mut head, mut len) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            len = value.trim().parse().ok()?;
        }
        head.push_str(&line);
        if line == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; len];
    reader.read_exact(&mut body).ok()?;
    Some(head + &String::from_utf8_lossy(&body))
}

fn answer(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n{headers}\r\n{body}", body.len())
}

fn refusal(status: &str, code: &str, message: &str) -> String {
    let body = format!(
        "<?xml version=\"1.0\"?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    );
    answer(status, "", &body)
}

fn client() -> Client {
    Client::new(&Settings::default()).unwrap()
}

fn provider() -> Provider {
    Provider::fixed(Credentials {
        access_key: "KEYID".into(),
        secret_key: "hunter2".into(),
        session_token: Some("SESSIONTOKEN".into()),
        expires: None,
    })
}

fn key(name: &str) -> Key {
    Key::new(name).unwrap()
}

fn put_error(answer: &str) -> StoreError {
    let server = Canned::new(&[answer]);
    let store = server.store();
    store.put(&key("a"), b"1", TEXT, None).unwrap_err()
}

#[test]
fn every_code_has_its_kind() {
    use StoreErrorKind::*;
    let transient = Transient { retry_after: None };
    for (status, code, kind) in [
        ("404 Not Found", "NoSuchKey", NotFound),
        ("404 Not Found", "NoSuchBucket", NotFound),
        ("404 Not Found", "NoSuchUpload", NotFound),
        ("403 Forbidden", "AccessDenied", Denied),
        ("403 Forbidden", "InvalidAccessKeyId", Denied),
        ("403 Forbidden", "SignatureDoesNotMatch", Denied),
        ("403 Forbidden", "RequestTimeTooSkewed", Denied),
        ("403 Forbidden", "SomethingNew", Denied),
        ("401 Unauthorized", "", Denied),
        ("400 Bad Request", "ExpiredToken", ExpiredCredentials),
        ("400 Bad Request", "RequestTimeout", transient),
        ("400 Bad Request", "InvalidPart", Other),
        ("412 Precondition Failed", "PreconditionFailed", ConditionFailed),
        ("409 Conflict", "ConditionalRequestConflict", ConditionFailed),
        ("409 Conflict", "OperationAborted", transient),
        ("501 Not Implemented", "NotImplemented", Unsupported),
        ("503 Slow Down", "SlowDown", transient),
        ("500 Oops", "InternalError", transient),
        ("502 Bad Gateway", "", transient),
        ("408 Request Timeout", "", transient),
        ("429 Too Many Requests", "", transient),
    ] {
        let error = put_error(&refusal(status, code, "some words"));
        assert_eq!(error.kind, kind, "{status} {code}");
        assert!(error.to_string().contains("some words") || code.is_empty(), "{error}");
        assert_eq!(error.status, status[..3].parse().ok());
    }
}

#[test]
fn hints_say_what_to_set() {
    let with = |extra: &str, status: &str, code: &str| {
        let body = format!("<Error><Code>{code}</Code><Message>m</Message>{extra}</Error>");
        put_error(&answer(status, "", &body)).to_string()
    };
    let text = with("<Region>eu-west-1</Region>", "400 Bad", "AuthorizationHeaderMalformed");
    assert!(text.contains("set --region eu-west-1"), "{text}");
    let text = with("<Endpoint>b.s3.example</Endpoint>", "301 Moved", "PermanentRedirect");
    assert!(text.contains("in another region, at b.s3.example: set --region"), "{text}");
    // AWS names the region in a header.
    let body = "<Error><Code>PermanentRedirect</Code><Endpoint>b.s3.example</Endpoint></Error>";
    let moved = answer("301 Moved", "x-amz-bucket-region: eu-west-1\r\n", body);
    let text = put_error(&moved).to_string();
    assert!(text.contains("in another region: set --region eu-west-1"), "{text}");
    let text = with("", "403 Forbidden", "QuotaExceeded");
    assert!(text.contains("has reached its quota"), "{text}");
    let text = with("", "307 Temporary Redirect", "");
    assert!(text.contains("check --region"), "{text}");
    let text = with("", "403 Forbidden", "RequestTimeTooSkewed");
    assert!(text.contains("set the clock"), "{text}");
    let canned = || Canned::new(&[&refusal("400 Bad Request", "InvalidArgument", "")]);
    let put = |store: S3Store| store.put(&key("a"), b"1", TEXT, None).unwrap_err().to_string();
    let text = put(canned().store_with(|config| {
        config.sse = Some("AES256".into());
        config.storage_class = Some("STANDARD_IA".into());
    }));
    assert!(text.contains("does the store support --sse, --storage-class?"), "{text}");
    let text = put(canned().store());
    assert!(!text.contains("does the store support"), "{text}");
    let text = put_error(&answer("404 Not Found", "", "<html>nginx</html>")).to_string();
    assert!(text.contains("is this an S3 endpoint?"), "{text}");
}

#[test]
fn a_redirect_is_not_followed() {
    let location = "Location: http://127.0.0.1:1/elsewhere\r\n";
    let error = put_error(&answer("307 Temporary Redirect", location, ""));
    assert_eq!((error.kind, error.status), (StoreErrorKind::Other, Some(307)));
}

#[test]
fn a_head_without_a_body_is_judged_by_its_status_and_region_header() {
    let server = Canned::new(&[
        "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 301 Moved\r\nContent-Length: 0\r\nx-amz-bucket-region: eu-west-3\r\n\r\n",
        "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
    ]);
    let store = server.store();
    assert_eq!(store.head(&key("a")).unwrap_err().kind, StoreErrorKind::Denied);
    let error = store.head(&key("a")).unwrap_err().to_string();
    assert!(error.contains("set --region eu-west-3"), "{error}");
    // The session token may have ended: fresh credentials are worth a try.
    assert_eq!(store.head(&key("a")).unwrap_err().kind, StoreErrorKind::ExpiredCredentials);
    assert!(store.head(&key("a")).unwrap().is_none());
}

#[test]
fn retry_after_is_read_in_seconds_and_as_a_date() {
    let kind = |header: &str| put_error(&answer("503 Slow", header, "")).kind;
    let expected = StoreErrorKind::Transient { retry_after: Some(Duration::from_secs(7)) };
    assert_eq!(kind("Retry-After: 7\r\n"), expected);
    let date = kind("Retry-After: Tue, 01 Jan 2999 00:00:00 GMT\r\n");
    let StoreErrorKind::Transient { retry_after: Some(wait) } = date else { panic!("{date:?}") };
    assert!(wait > Duration::from_secs(1_000_000));
    let never = StoreErrorKind::Transient { retry_after: None };
    assert_eq!(kind("Retry-After: soon\r\n"), never);
    assert_eq!(kind("Retry-After: Tue, 01 Jan 1999 00:00:00 GMT\r\n"), never);
}

#[test]
fn an_error_inside_a_200_is_an_error() {
    let late = "  \n <?xml version=\"1.0\"?><Error><Code>InternalError</Code><Message>late</Message></Error>";
    let late = answer("200 OK", "", late);
    let server = Canned::new(&[&late, &late, &late]);
    let store = server.store();
    let upload = Upload { key: key("a"), id: "1".into() };
    let part = Part { number: 1, etag: ETag("e".into()) };
    let transient = StoreErrorKind::Transient { retry_after: None };
    assert_eq!(store.copy(&key("a"), &key("b"), TEXT).unwrap_err().kind, transient);
    assert_eq!(store.complete_upload(&upload, &[part]).unwrap_err().kind, transient);
    assert_eq!(store.copy_part(&upload, 1, &key("a"), 0..1).unwrap_err().kind, transient);
}

#[test]
fn a_whole_object_in_answer_to_a_range_is_cut_to_it() {
    let whole = answer("200 OK", "", "0123456789");
    let server = Canned::new(&[whole.as_str(); 5]);
    let store = server.store();
    assert_eq!(store.get(&key("a"), Some(3..5), 2).unwrap().0, b"34");
    assert_eq!(store.get(&key("a"), Some(8..50), 99).unwrap().0, b"89");
    assert!(store.get(&key("a"), Some(10..11), 99).is_err());
    let mut rest = String::new();
    store.open(&key("a"), 7).unwrap().read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "789");
    assert!(store.open(&key("a"), 11).is_err());
    assert!(server.seen()[0].to_lowercase().contains("\r\nrange: bytes=3-4\r\n"));
}

#[test]
fn a_range_with_its_header_is_one_though_the_status_says_200() {
    let range = answer("200 OK", "Content-Range: bytes 3-4/10\r\n", "34");
    let server = Canned::new(&[&range, &range]);
    let store = server.store();
    assert_eq!(store.get(&key("a"), Some(3..5), 2).unwrap().0, b"34");
    let mut rest = String::new();
    store.open(&key("a"), 3).unwrap().read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "34");
}

#[test]
fn a_range_that_begins_elsewhere_is_an_error() {
    let wrong = answer("206 Partial Content", "Content-Range: bytes 0-1/10\r\n", "01");
    let server = Canned::new(&[&wrong]);
    let error = server.store().get(&key("a"), Some(3..5), 2).unwrap_err();
    assert!(error.message.contains("from 3") && error.message.contains("bytes 0-1/10"), "{error}");
}

#[test]
fn an_answer_that_is_cut_off_is_transient() {
    let cut = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\nConnection: close\r\n\r\n0123";
    let server = Canned::new(&[cut, cut]);
    let store = server.store();
    let error = store.get(&key("a"), None, 99).unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Transient { retry_after: None }, "{error}");
    let mut stream = store.open(&key("a"), 0).unwrap();
    let error = stream.read_to_end(&mut Vec::new()).unwrap_err();
    let error = error.get_ref().unwrap().downcast_ref::<StoreError>().unwrap();
    assert_eq!(error.kind, StoreErrorKind::Transient { retry_after: None }, "{error}");
}

#[test]
fn a_length_that_is_said_is_not_memory_that_is_taken() {
    let lie = "HTTP/1.1 200 OK\r\nContent-Length: 900000000000\r\nConnection: close\r\n\r\n0123";
    let server = Canned::new(&[lie, lie]);
    let store = server.store();
    assert_eq!(store.get(&key("a"), None, 99).unwrap_err().kind, StoreErrorKind::Other);
    assert!(store.get(&key("a"), None, u64::MAX).is_err());
}

#[test]
fn a_connection_that_was_closed_meanwhile_is_replaced_at_once() {
    let fine = answer("200 OK", "ETag: \"e\"\r\n", "");
    let server = Canned::new(&[&fine, "", &fine]);
    let naps = Arc::new(Mutex::new(0));
    let count = naps.clone();
    let store = Retry::new(server.store(), Policy::default())
        .with_sleep(move |_| *count.lock().unwrap() += 1);
    for _ in 0..2 {
        let etag = store.put(&key("a"), b"1", TEXT, None).unwrap();
        assert_eq!(etag, Some(ETag("e".into())));
    }
    assert_eq!((store.requests(), *naps.lock().unwrap()), (3, 0));
}

/// How often a PUT is sent whose answers are `first` and then a good one, and how it ends.
fn tried_again(first: &str, times: usize) -> (u64, Result<(), StoreErrorKind>) {
    let fine = answer("200 OK", "", "");
    let mut answers = vec![first; times];
    answers.push(&fine);
    let server = Canned::new(&answers);
    let store = Retry::new(server.store(), Policy::default()).with_sleep(|_| ());
    let outcome = store.put(&key("a"), b"1", TEXT, None);
    (store.requests(), outcome.map(drop).map_err(|error| error.kind))
}

#[test]
fn of_refusals_only_408_and_429_and_expired_credentials_are_tried_again_the_last_once() {
    for (status, code) in [
        ("408 Request Timeout", ""),
        ("429 Too Many Requests", ""),
        ("400 Bad Request", "RequestTimeout"),
        ("503 Slow Down", "SlowDown"),
        ("500 Oops", "InternalError"),
    ] {
        assert_eq!(tried_again(&refusal(status, code, "m"), 3), (4, Ok(())), "{status} {code}");
    }
    let expired = refusal("400 Bad Request", "ExpiredToken", "m");
    assert_eq!(tried_again(&expired, 1), (2, Ok(())));
    assert_eq!(tried_again(&expired, 2), (2, Err(StoreErrorKind::ExpiredCredentials)));
    for (status, code) in [
        ("400 Bad Request", "InvalidRequest"),
        ("401 Unauthorized", ""),
        ("403 Forbidden", "AccessDenied"),
        ("403 Forbidden", "SignatureDoesNotMatch"),
        ("404 Not Found", "NoSuchBucket"),
        ("405 Method Not Allowed", "MethodNotAllowed"),
        ("409 Conflict", "ConditionalRequestConflict"),
        ("411 Length Required", ""),
        ("412 Precondition Failed", "PreconditionFailed"),
        ("413 Too Large", "EntityTooLarge"),
        ("501 Not Implemented", "NotImplemented"),
    ] {
        let (sent, outcome) = tried_again(&refusal(status, code, "m"), 1);
        assert!(sent == 1 && outcome.is_err(), "{status} {code}: {sent}");
    }
}

#[test]
fn nobody_listening_is_transient() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let server = Canned { address, seen: Arc::default() };
    let error = server.store().list("", None).unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Transient { retry_after: None }, "{error}");
    assert_eq!(error.status, None);
}

/// rclone takes UploadPartCopy for UploadPart. Who copies parts sends them instead.
#[test]
fn a_store_that_does_not_know_how_to_copy_parts_is_found_out() {
    let empty = answer("200 OK", "ETag: \"d41d8cd98f00b204e9800998ecf8427e\"\r\n", "");
    let no_tag = answer("200 OK", "", "<CopyPartResult></CopyPartResult>");
    let server = Canned::new(&[&empty, &no_tag]);
    let upload = Upload { key: key("a"), id: "1".into() };
    for _ in 0..2 {
        let error = server.store().copy_part(&upload, 1, &key("b"), 0..1).unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Unsupported, "{error}");
    }
}

#[test]
fn a_part_without_an_entity_tag_gets_its_md5() {
    let server = Canned::new(&[&answer("200 OK", "ETag: \"\"\r\n", "")]);
    let upload = Upload { key: key("a"), id: "1".into() };
    let part = server.store().put_part(&upload, 1, b"hello").unwrap();
    assert_eq!(part.etag.0, "5d41402abc4b2a76b9719d911017c592");
}

#[test]
fn keys_that_could_not_be_deleted_are_reported() {
    let body = "<DeleteResult><Error><Key>p/gone</Key><Code>NoSuchKey</Code><Message>m</Message>\
                </Error><Error><Key>p/b</Key><Code>AccessDenied</Code></Error></DeleteResult>";
    let server = Canned::new(&[&answer("200 OK", "", body)]);
    let error = server.store().delete(&[key("a<"), key("b")]).unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Denied);
    assert!(error.message.contains("1 of 2 keys") && error.message.contains("p/b"), "{error}");
    let request = &server.seen()[0];
    assert!(request.starts_with("POST /bucket?delete= HTTP/1.1\r\n"), "{request}");
    assert!(request.to_lowercase().contains("\r\ncontent-md5: "), "{request}");
    assert!(request.contains("<Key>p/a&lt;</Key>"), "{request}");
}

#[test]
fn a_store_without_bulk_delete_gets_single_ones() {
    let none = answer("204 No Content", "", "");
    let missing = refusal("404 Not Found", "NoSuchKey", "m");
    let refused = refusal("501 Not Implemented", "NotImplemented", "m");
    let server = Canned::new(&[&refused, &none, &missing]);
    server.store().delete(&[key("a"), key("b")]).unwrap();
    let lines: Vec<String> =
        server.seen().iter().map(|r| r.split(" HTTP").next().unwrap().to_owned()).collect();
    assert_eq!(lines, ["POST /bucket?delete=", "DELETE /bucket/p/a", "DELETE /bucket/p/b"]);
}

#[test]
fn a_missing_bucket_is_no_deleted_key() {
    let refused = refusal("404 Not Found", "NoSuchBucket", "m");
    let server = Canned::new(&[&refused, &refused]);
    let store = server.store();
    assert!(store.delete(&[key("a")]).is_err());
    assert!(store.abort_upload(&Upload { key: key("a"), id: "1".into() }).is_err());
}

#[test]
fn listed_keys_are_decoded_as_the_store_says() {
    let page = |encoding: &str, key: &str| {
        let body = format!(
            "<ListBucketResult><Name>bucket</Name>{encoding}<IsTruncated>false</IsTruncated>\
             <Contents><Key>{key}</Key><LastModified>2026-01-02T03:04:05.678Z</LastModified>\
             <Size>5</Size><ETag>&quot;e&quot;</ETag></Contents></ListBucketResult>"
        );
        answer("200 OK", "", &body)
    };
    let url = "<EncodingType>url</EncodingType>";
    for (encoding, sent, expected) in [
        (url, "p/a%2Bb+c%C3%BC", Some("a+b cü")),
        (url, "p%2Fa", Some("a")),
        ("", "p/a%2Bb+c", Some("a%2Bb+c")),
        (url, "p/not encoded+%41", Some("not encoded+%41")),
        (url, "p/folder/", None),
        (url, "p/../a", None),
    ] {
        let server = Canned::new(&[&page(encoding, sent)]);
        let objects = server.store().list("", None).unwrap().objects;
        assert_eq!(objects.first().map(|object| object.key.as_str()), expected, "{sent}");
        if let Some(object) = objects.first() {
            assert_eq!(object.etag, Some(ETag("e".into())));
            assert!(object.last_modified.is_some());
        }
    }
}

#[test]
fn a_listing_that_goes_round_in_a_circle_is_an_error() {
    let page = |next: &str| {
        let body = format!(
            "<ListBucketResult><Name>b</Name><IsTruncated>true</IsTruncated>{next}\
             </ListBucketResult>"
        );
        answer("200 OK", "", &body)
    };
    let same = page("<NextContinuationToken>t</NextContinuationToken>");
    let server = Canned::new(&[&same, &same, &page("")]);
    let store = server.store();
    let token = store.list("", None).unwrap().next.unwrap();
    assert!(store.list("", Some(&token)).is_err());
    assert!(store.list("", None).is_err());
}

#[test]
fn listing_with_both_kinds_of_tokens_and_unknown_elements_is_read() {
    let object = |key: &str| {
        format!(
            "<New>1</New><Contents><Key>p/{key}</Key><Size>1</Size><New/>\
             <LastModified>2026-01-01T00:00:00Z</LastModified></Contents>"
        )
    };
    let body = format!(
        "<ListBucketResult>{}{}<IsTruncated>true</IsTruncated><NextMarker>m</NextMarker>\
         <NextContinuationToken>t</NextContinuationToken></ListBucketResult>",
        object("a"),
        object("b")
    );
    let server = Canned::new(&[&answer("200 OK", "", &body)]);
    let page = server.store().list("", None).unwrap();
    let keys: Vec<_> = page.objects.iter().map(|object| object.key.as_str()).collect();
    assert_eq!((keys, page.next.as_deref()), (vec!["a", "b"], Some("t")));
}

#[test]
fn store_that_wants_content_md5_gets_it_from_then_on() {
    let body = "<Error><Code>InvalidRequest</Code><Message>Content-MD5 OR x-amz-checksum- HTTP header \
                is required for Put Object requests with Object Lock parameters</Message></Error>";
    let refused = answer("400 Bad Request", "", body);
    let ok = answer("200 OK", "ETag: \"e\"\r\n", "");
    let copied = answer("200 OK", "", "<CopyObjectResult><ETag>e</ETag></CopyObjectResult>");
    let server = Canned::new(&[&refused, &ok, &ok, &ok, &copied]);
    let store = server.store();
    let (key, headers) = (Key::new("a").unwrap(), ObjectHeaders::changing("text/plain"));
    store.put(&key, b"hello", headers, None).unwrap();
    store.put(&key, b"hello", headers, None).unwrap();
    let upload = Upload { key, id: "1".into() };
    store.put_part(&upload, 1, b"hello").unwrap();
    // Some want it with a copy, too, which has an empty body (moto 5.2).
    store.copy(&upload.key, &Key::new("b").unwrap(), headers).unwrap();
    let [hello, nothing] = ["XUFAKrxLKna5cZ2REBfFkg==", "1B2M2Y8AsgTpgAmY7PhCfg=="];
    let seen = server.seen();
    assert!(!seen[0].contains("content-md5"), "{}", seen[0]);
    for (head, md5) in seen[1..].iter().zip([hello, hello, hello, nothing]) {
        assert!(head.contains(&format!("content-md5: {md5}")), "{head}");
    }
    assert_eq!(seen.len(), 5);
}

#[test]
fn uploads_are_listed_over_pages() {
    let page = |rest: &str| {
        let body = format!(
            "<ListMultipartUploadsResult><EncodingType>url</EncodingType>{rest}\
             </ListMultipartUploadsResult>"
        );
        answer("200 OK", "", &body)
    };
    let upload = |key: &str, id: &str| {
        format!(
            "<Upload><Key>{key}</Key><UploadId>{id}</UploadId><Initiated>x</Initiated></Upload>"
        )
    };
    let first = format!(
        "<IsTruncated>true</IsTruncated><NextKeyMarker>p%2Fa%2B</NextKeyMarker>\
         <NextUploadIdMarker>1+/=</NextUploadIdMarker>{}",
        upload("p%2Fa%2B", "1+/=")
    );
    let last = format!("<IsTruncated>false</IsTruncated>{}", upload("p%2Fb", "2"));
    let server = Canned::new(&[&page(&first), &page(&last)]);
    let open = server.store().list_uploads("").unwrap();
    let found: Vec<_> =
        open.iter().map(|o| (o.upload.key.as_str(), o.upload.id.as_str())).collect();
    assert_eq!(found, [("a+", "1+/="), ("b", "2")]);
    let expected = "GET /bucket?key-marker=p%2Fa%2B&prefix=p%2F&\
                    upload-id-marker=1%2B%2F%3D&uploads= HTTP/1.1";
    assert!(server.seen()[1].starts_with(expected), "{}", server.seen()[1]);
}

#[test]
fn only_a_whole_answer_is_an_object() {
    let ranged =
        |range: &str| answer("206 Partial Content", &format!("Content-Range: {range}\r\n"), "2345");
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n2345\r\n0\r\n\r\n";
    let endless = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n2345";
    let get = |text: &str, range: Option<std::ops::Range<u64>>| {
        Canned::new(&[text]).store().get(&key("a"), range, 100).map(|(bytes, _)| bytes)
    };
    let whole = answer("200 OK", "", "2345");
    for text in [&whole, chunked] {
        assert_eq!(get(text, None).unwrap(), b"2345");
    }
    assert_eq!(get(&whole, Some(1..3)).unwrap(), b"34");
    for range in ["bytes 2-5/10", "bytes 2-5/6", "bytes 2-5/*"] {
        assert_eq!(get(&ranged(range), Some(2..6)).unwrap(), b"2345", "{range}");
    }
    assert_eq!(get(&ranged("bytes 2-5/6"), Some(2..60)).unwrap(), b"2345", "the object ends there");
    for bad in [endless, &answer("204 No Content", "", ""), &answer("203 Changed", "", "2345")] {
        let error = get(bad, None).unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Other, "{error}");
        assert!(Canned::new(&[bad]).store().open(&key("a"), 0).is_err(), "{bad}");
    }
    for bad in ["bytes 0-3/10", "bytes 3-6/10", "bytes 2-3/10", "bytes 2-9/10", "bytes 2-5", ""] {
        let error = get(&ranged(bad), Some(2..6)).unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Other, "{error}");
    }
    assert!(get(&answer("206 Partial Content", "", "2345"), Some(2..6)).is_err());
    assert!(get(&ranged("bytes 2-5/10"), None).is_err(), "the whole was asked for");
    assert!(Canned::new(&[&ranged("bytes 2-5/10")]).store().open(&key("a"), 2).is_err());
    assert!(Canned::new(&[&ranged("bytes 2-5/6")]).store().open(&key("a"), 2).is_ok());
}

#[test]
fn no_such_upload_is_an_empty_list_of_uploads() {
    let list = |code: &str| {
        Canned::new(&[&refusal("404 Not Found", code, "m")]).store().list_uploads("mirror_tmp/")
    };
    assert!(list("NoSuchUpload").unwrap().is_empty());
    assert!(list("NoSuchBucket").unwrap_err().is_not_found());
    assert!(list("").unwrap_err().is_not_found());
    // Others say in their own ways that they do not list them.
    for (status, code) in
        [("405 Method Not Allowed", "MethodNotAllowed"), ("400 Bad Request", "InvalidRequest")]
    {
        let store = Canned::new(&[&refusal(status, code, "m")]).store();
        let error = store.list_uploads("mirror_tmp/").unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Unsupported, "{error}");
    }
}

#[test]
fn listed_keys_outside_the_prefix_are_an_error_and_never_data() {
    let listed = |key: &str| {
        let page = format!(
            "<ListBucketResult><Name>b</Name><Prefix></Prefix><KeyCount>1</KeyCount>\
             <MaxKeys>9</MaxKeys><IsTruncated>false</IsTruncated><Contents><Key>{key}</Key>\
             <LastModified>2020-01-01T00:00:00Z</LastModified><Size>1</Size></Contents>\
             </ListBucketResult>"
        );
        Canned::new(&[&answer("200 OK", "", &page)]).store().list("mirror_tmp/", None)
    };
    let uploads = |key: &str| {
        let page = format!(
            "<ListMultipartUploadsResult><IsTruncated>false</IsTruncated><Upload><Key>{key}</Key>\
             <UploadId>1</UploadId><Initiated>2020-01-01T00:00:00Z</Initiated></Upload>\
             </ListMultipartUploadsResult>"
        );
        Canned::new(&[&answer("200 OK", "", &page)]).store().list_uploads("mirror_tmp/")
    };
    for outside in ["p/HEAD", "p/objects/aa/bb", "pp/mirror_tmp/a", "mirror_tmp/a", "q//a"] {
        let error = listed(outside).unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Other, "{error}");
        assert!(error.message.contains("ignores the prefix"), "{error}");
        let error = uploads(outside).unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Unsupported, "{error}");
    }
    assert_eq!(listed("p/mirror_tmp/a").unwrap().objects.len(), 1);
    assert_eq!(uploads("p/mirror_tmp/a").unwrap().len(), 1);
    // A folder marker, as consoles make them.
    assert!(listed("p/mirror_tmp/").unwrap().objects.is_empty());
}

#[test]
fn what_is_configured_is_sent_with_every_object_written() {
    let fine = answer("200 OK", "", "");
    let begun = answer("200 OK", "", "<R><Bucket>b</Bucket><Key>k</Key><UploadId>1</UploadId></R>");
    let server = Canned::new(&[&fine, &fine, &begun]);
    let store = server.store_with(|config| {
        config.storage_class = Some("STANDARD_IA".into());
        config.sse = Some("aws:kms".into());
        config.sse_kms_key_id = Some("arn:key".into());
        config.acl = Some("public-read".into());
    });
    let matches = Condition::Matches(ETag("e".into()));
    store.put(&key("a"), b"1", TEXT, Some(&matches)).unwrap();
    store.copy(&key("a+ü"), &key("b"), TEXT).unwrap();
    store.create_upload(&key("c"), TEXT).unwrap();
    for request in server.seen() {
        let request = request.to_lowercase();
        for header in [
            "x-amz-storage-class: standard_ia",
            "x-amz-server-side-encryption: aws:kms",
            "x-amz-server-side-encryption-aws-kms-key-id: arn:key",
            "x-amz-acl: public-read",
            "content-type: text/plain",
            "cache-control: no-cache",
            "x-amz-security-token: sessiontoken",
        ] {
            assert!(request.contains(&format!("\r\n{header}\r\n")), "{header}: {request}");
        }
        assert!(!request.contains("transfer-encoding") && !request.contains("hunter2"));
    }
    assert!(server.seen()[0].to_lowercase().contains("\r\nif-match: e\r\n"));
    let copy = server.seen()[1].clone();
    assert!(copy.contains("x-amz-copy-source: bucket/p/a%2B%C3%BC\r\n"), "{copy}");
    assert!(copy.contains("x-amz-metadata-directive: REPLACE\r\n"), "{copy}");
}

#[test]
fn a_message_is_one_short_line_without_control_characters() {
    let long = format!("first\u{1b}[31m line {}\nsecond", "x".repeat(1000));
    let error = put_error(&refusal("400 Bad Request", "Odd", &long));
    assert!(error.message.contains("first [31m line xxx"), "{error}");
    assert!(!error.message.contains("second") && error.message.len() < 400);
}

#[test]
fn places_that_cannot_be_used_are_refused() {
    let good = S3Config {
        bucket: "bucket".into(),
        region: "us-east-1".into(),
        endpoint: Some("https://host".into()),
        ..S3Config::default()
    };
    let try_with = |change: &dyn Fn(&mut S3Config)| {
        let mut config = good.clone();
        change(&mut config);
        S3Store::new(config, client(), provider())
    };
    for prefix in ["a/../b", "./a", "a//b", "a\\b", "a\nb", ".."] {
        assert!(try_with(&|config| config.prefix = prefix.into()).is_err(), "{prefix:?}");
    }
    for bucket in ["", "..", "a/b", "a b", "a?b", "a@b"] {
        assert!(try_with(&|config| config.bucket = bucket.into()).is_err(), "{bucket:?}");
    }
    for region in ["", "a/b", "a b"] {
        assert!(try_with(&|config| config.region = region.into()).is_err(), "{region:?}");
    }
    for endpoint in
        ["ftp://host", "https://", "http://u:hunter2@host", "http://h?q", "http://h/../x"]
    {
        let error = try_with(&|config| config.endpoint = Some(endpoint.into())).unwrap_err();
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
    for prefix in ["", "/", "a", "/a/b/", "a b+=~%ü"] {
        let store = try_with(&|config| config.prefix = prefix.into()).unwrap();
        assert_eq!(store.describe(), format!("s3://bucket/{}", prefix.trim_matches('/')));
        assert!(!format!("{store:?}").contains("hunter2"));
    }
}

/// A role's endpoint that gives the keys `FIRST`, which end when `ends` says, and then `SECOND`; and
/// the environment of who has that role.
fn role(kind: &str, ends: SystemTime, dir: &std::path::Path) -> (GitHttp, Lookup) {
    let time = |at: SystemTime| {
        let rfc3339 = &time::format_description::well_known::Rfc3339;
        time::OffsetDateTime::from(at).format(rfc3339).unwrap()
    };
    let later = time(SystemTime::now() + Duration::from_secs(36_000));
    let (path, body): (_, fn(&str, &str) -> String) = match kind {
        "web identity" => ("/", |id, ends| {
            format!(
                "<R><AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>{id}</AccessKeyId>\
                 <SecretAccessKey>s</SecretAccessKey><SessionToken>{id}TOKEN</SessionToken>\
                 <Expiration>{ends}</Expiration></Credentials></AssumeRoleWithWebIdentityResult></R>"
            )
        }),
        _ => ("/role", |id, ends| {
            format!(
                r#"{{"AccessKeyId":"{id}","SecretAccessKey":"s","Token":"{id}TOKEN","Expiration":"{ends}"}}"#
            )
        }),
    };
    let canned = |on, body: String| git_http::Canned::new(on, 200, "text/plain", body);
    let mut answers = vec![
        git_http::Canned { times: 1, ..canned(path, body("FIRST", &time(ends))) },
        canned(path, body("SECOND", &later)),
    ];
    if kind == "instance" {
        answers.push(canned("/latest/api/token", "METADATATOKEN".into()));
        answers.push(canned("/security-credentials/", "role".into()));
    }
    let options = git_http::Options { canned: answers, ..git_http::Options::default() };
    let server = GitHttp::start(dir, options);
    let token = dir.join("token");
    std::fs::write(&token, "web").unwrap();
    let (kind, url, token) = (kind.to_owned(), server.url(), token.display().to_string());
    let environment = move |name: &str| match (kind.as_str(), name) {
        ("web identity", "AWS_WEB_IDENTITY_TOKEN_FILE") => Some(token.clone()),
        ("web identity", "AWS_ROLE_ARN") => Some("arn".into()),
        ("web identity", "AWS_ENDPOINT_URL_STS") => Some(url.clone()),
        ("container", "AWS_CONTAINER_CREDENTIALS_FULL_URI") => Some(format!("{url}/role")),
        ("instance", "AWS_EC2_METADATA_SERVICE_ENDPOINT") => Some(url.clone()),
        _ => None,
    };
    (server, Box::new(environment))
}

#[test]
fn a_role_that_ends_in_the_middle_of_a_run_is_asked_for_again() {
    let fine = answer("200 OK", "ETag: \"e\"\r\n", "");
    let expired = refusal("400 Bad Request", "ExpiredToken", "m");
    let in_seconds = |seconds| SystemTime::now() + Duration::from_secs(seconds);
    for kind in ["web identity", "container", "instance"] {
        // The store says so, or the keys themselves say when they end.
        for (ends, answers, signed) in [
            (
                in_seconds(7200),
                vec![&*fine, &expired, &fine],
                ["FIRST", "FIRST", "SECOND"].as_slice(),
            ),
            (in_seconds(60), vec![&*fine, &fine], &["FIRST", "SECOND"]),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let (_keys, environment) = role(kind, ends, dir.path());
            let provider = Provider::search(Search::in_environment(client(), environment));
            let server = Canned::new(&answers);
            let store = Retry::new(server.store_for(provider, |_| ()), Policy::default());
            for name in ["a", "b"] {
                store.put(&key(name), b"1", TEXT, None).unwrap();
            }
            let seen = server.seen();
            assert_eq!(seen.len(), signed.len(), "{kind}");
            for (request, id) in seen.iter().zip(signed) {
                assert!(request.contains(&format!("Credential={id}/")), "{kind}: {request}");
                assert!(request.contains(&format!("{id}TOKEN")), "{kind}: {request}");
            }
        }
    }
}

#[test]
fn a_role_that_cannot_be_had_now_is_worth_another_try_and_a_refused_one_is_not() {
    for (status, kind) in [
        (503, StoreErrorKind::Transient { retry_after: None }),
        (429, StoreErrorKind::Transient { retry_after: None }),
        (403, StoreErrorKind::Denied),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let canned = vec![git_http::Canned::new("/", status, "text/plain", "no")];
        let keys = GitHttp::start(
            dir.path(),
            git_http::Options { canned, ..git_http::Options::default() },
        );
        let url = format!("{}/role", keys.url());
        let environment: Lookup = Box::new(move |name| {
            (name == "AWS_CONTAINER_CREDENTIALS_FULL_URI").then(|| url.clone())
        });
        let provider = Provider::search(Search::in_environment(client(), environment));
        assert_eq!(provider.get().unwrap_err().kind, kind, "{status}");
        // A refusal is not asked for again by every thread.
        assert_eq!(provider.get().unwrap_err().kind, kind, "{status}");
        assert_eq!(keys.requests(), if kind == StoreErrorKind::Denied { 1 } else { 2 });
    }
}

#[test]
fn what_a_bucket_keeps_of_what_is_deleted_is_read_from_headers() {
    let until = "x-amz-object-lock-retain-until-date";
    for (headers, wanted) in [
        ("", None),
        ("x-amz-version-id: null\r\n", None),
        ("x-amz-version-id: v1\r\n", Some(None)),
        ("x-amz-version-id: v1\r\nUNTIL: 2030-01-02T03:04:05.678Z\r\n", Some(Some(1_893_553_445))),
        ("x-amz-version-id: v1\r\nUNTIL: soon\r\n", Some(None)),
        // A lock without versions there is not.
        ("UNTIL: 2030-01-02T03:04:05Z\r\n", None),
    ] {
        let headers = headers.replace("UNTIL", until);
        let s3 = Canned::new(&[&answer("200 OK", &headers, "")]);
        let kept = s3.store().kept(&Key::new("objects/aa/bb").unwrap()).unwrap();
        let seconds = |at: SystemTime| at.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        assert_eq!(kept.map(|kept| kept.locked_until.map(seconds)), wanted, "{headers}");
    }
    let s3 = Canned::new(&[&answer("404 Not Found", "", "")]);
    assert_eq!(s3.store().kept(&Key::new("objects/aa/bb").unwrap()).unwrap(), None);
}
