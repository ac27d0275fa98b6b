//! What the tests of all places need: a search with a given environment, and a server to ask.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{Provider, Search, lookup_in};
use crate::http::{Client, Settings};

/// A server that answers requests whose first line begins with a given text; the requests that
/// came are in the second value.
pub(super) fn serve(answers: &[(&str, &str)]) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    let answers: Vec<(String, String)> =
        answers.iter().map(|(line, body)| ((*line).into(), (*body).into())).collect();
    std::thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            let mut reader = BufReader::new(&socket);
            let (mut head, mut len) = (String::new(), 0);
            while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head).unwrap() > 0 {
                let last = head.lines().last().unwrap_or_default().to_lowercase();
                if let Some(value) = last.strip_prefix("content-length:") {
                    len = value.trim().parse().unwrap();
                }
            }
            let mut body = vec![0; len];
            reader.read_exact(&mut body).unwrap();
            head.push_str(&String::from_utf8(body).unwrap());
            let found = answers.iter().find(|(line, _)| head.starts_with(line.as_str()));
            let (status, body) = found.map_or(("404 Not Found", ""), |(_, b)| ("200 OK", b));
            log.lock().unwrap().push(head);
            let len = body.len();
            let text = format!(
                "HTTP/1.1 {status}\r\nContent-Length: {len}\r\nConnection: close\r\n\r\n{body}"
            );
            let mut writer = &socket;
            writer.write_all(text.as_bytes()).unwrap();
        }
    });
    (url, seen)
}

pub(super) fn search<const N: usize>(variables: [(&str, &str); N]) -> Search {
    let client = Client::new(&Settings::default()).unwrap();
    Search::in_environment(client, lookup_in(variables))
}

pub(super) fn json(expires: SystemTime) -> String {
    let expires = OffsetDateTime::from(expires).format(&Rfc3339).unwrap();
    format!(
        r#"{{"Code":"Success","AccessKeyId":"ID","SecretAccessKey":"hunter2","Token":"T",
            "Expiration":"{expires}"}}"#
    )
}

pub(super) fn in_an_hour() -> SystemTime {
    SystemTime::now() + Duration::from_secs(3600)
}

pub(super) fn keys(search: Search) -> (String, String, Option<String>) {
    let found = Provider::search(search).get().unwrap();
    (found.access_key.clone(), found.secret_key.clone(), found.session_token.clone())
}

pub(super) fn text(value: &str) -> String {
    value.to_owned()
}
