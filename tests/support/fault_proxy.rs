//! A small HTTP/1.1 proxy on loopback that does harm: between the program and a server that is sound.
//! std threads and sockets only.
//!
//! Each request's head is shown to a closure that decides its [`Fate`]. Connections are kept alive
//! for as long as the fate allows, so that the program meets stale and broken ones from its pool.
//! Answers are held whole before they are passed on; that is for small repositories.
#![allow(dead_code)] // Each test crate uses a part of it.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// The beginning of a request.
pub struct Head {
    /// `PUT /bucket/key?query`.
    pub line: String,
    headers: Vec<(String, String)>,
}

impl Head {
    pub fn is(&self, method: &str, part: &str) -> bool {
        self.line.starts_with(&format!("{method} ")) && self.line.contains(part)
    }

    fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Pass,
    /// It never gets to the server, which says so: with `Retry-After` if there are seconds.
    Status(u16, Option<u32>),
    /// It never gets to the server: the connection is reset.
    Reset,
    /// It has its effect, and half of the answer comes.
    Truncate,
    /// All is well, but the connection is closed behind the answer and nobody says so.
    CloseBehind,
}

/// The three percent: every fault there is, in turn by chance.
pub fn faults(percent: u8, seed: u64) -> impl Fn(&Head, usize) -> Fate + Send + Sync + 'static {
    move |_, number| {
        let mut random = fastrand::Rng::with_seed(seed.wrapping_mul(0x9e37_79b9) ^ number as u64);
        match random.u8(..100) < percent {
            false => Fate::Pass,
            true => FAULTS[random.usize(..FAULTS.len())],
        }
    }
}

pub const FAULTS: [Fate; 4] =
    [Fate::Status(503, None), Fate::Status(500, None), Fate::Reset, Fate::Truncate];

pub struct Proxy {
    pub url: String,
    shared: Arc<Shared>,
}

type Decide = Box<dyn Fn(&Head, usize) -> Fate + Send + Sync>;

struct Shared {
    upstream: String,
    decide: Decide,
    /// Request headers that are not passed on.
    hidden: Vec<&'static str>,
    requests: AtomicUsize,
    faults: AtomicUsize,
}

impl Proxy {
    /// In front of `upstream` (`http://host:port`); `decide` is given each request and its number.
    pub fn start(
        upstream: &str,
        decide: impl Fn(&Head, usize) -> Fate + Send + Sync + 'static,
    ) -> Proxy {
        Self::hiding(upstream, &[], decide)
    }

    /// The same; the server never sees the request headers `hidden`.
    pub fn hiding(
        upstream: &str,
        hidden: &[&'static str],
        decide: impl Fn(&Head, usize) -> Fate + Send + Sync + 'static,
    ) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let url = format!("http://{}", listener.local_addr().expect("it is bound"));
        let shared = Arc::new(Shared {
            upstream: upstream.trim_start_matches("http://").to_owned(),
            decide: Box::new(decide),
            hidden: hidden.to_vec(),
            requests: AtomicUsize::new(0),
            faults: AtomicUsize::new(0),
        });
        let serving = shared.clone();
        // Threads end with the test's process.
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let shared = serving.clone();
                // A client that goes away is no failure of the proxy's.
                std::thread::spawn(move || drop(shared.serve(client)));
            }
        });
        Proxy { url, shared }
    }

    /// Requests that have come so far.
    pub fn requests(&self) -> usize {
        self.shared.requests.load(Ordering::SeqCst)
    }

    /// How many of them met another fate than [`Fate::Pass`].
    pub fn faults(&self) -> usize {
        self.shared.faults.load(Ordering::SeqCst)
    }
}

impl Shared {
    fn serve(&self, mut client: TcpStream) -> io::Result<()> {
        client.set_nodelay(true)?;
        while let Some(head) = read_head(&mut client)? {
            let number = self.requests.fetch_add(1, Ordering::SeqCst);
            let fate = (self.decide)(&head, number);
            self.faults.fetch_add(usize::from(fate != Fate::Pass), Ordering::SeqCst);
            if fate == Fate::Reset {
                // A byte of the request is unread: closing the socket resets the connection.
                return Ok(());
            }
            client.read_exact(&mut [0])?;
            let len = head.header("content-length").and_then(|len| len.parse().ok()).unwrap_or(0);
            let mut body = vec![0; len];
            client.read_exact(&mut body)?;
            if let Fate::Status(status, retry_after) = fate {
                let answer = refusal(status, retry_after, head.line.starts_with("HEAD "));
                client.write_all(&answer)?;
                continue;
            }
            let answer = self.ask(&head, &body)?;
            if fate == Fate::Truncate {
                client.write_all(&answer[..answer.len() / 2])?;
                return client.shutdown(Shutdown::Both);
            }
            client.write_all(&answer)?;
            if fate == Fate::CloseBehind {
                return client.shutdown(Shutdown::Both);
            }
        }
        Ok(())
    }

    /// The server's answer, with its length in place of chunks.
    fn ask(&self, head: &Head, body: &[u8]) -> io::Result<Vec<u8>> {
        let mut server = TcpStream::connect(&self.upstream)?;
        let mut request = format!("{} HTTP/1.1\r\nConnection: close\r\n", head.line);
        for (name, value) in &head.headers {
            let hidden = self.hidden.iter().any(|hidden| hidden.eq_ignore_ascii_case(name));
            if !hidden && !name.eq_ignore_ascii_case("connection") {
                request += &format!("{name}: {value}\r\n");
            }
        }
        server.write_all(format!("{request}\r\n").as_bytes())?;
        server.write_all(body)?;
        let mut answer = Vec::new();
        server.read_to_end(&mut answer)?;
        let end = end_of_head(&answer).ok_or_else(|| io::Error::other("no answer"))?;
        let text = String::from_utf8_lossy(&answer[..end]).into_owned();
        let lower = text.to_ascii_lowercase();
        let mut rest = answer.split_off(end);
        let chunked = lower.contains("\r\ntransfer-encoding: chunked");
        if chunked {
            rest = unchunk(&rest);
        }
        let mut out: String = text
            .trim_end()
            .split("\r\n")
            .filter(|line| {
                let line = line.to_ascii_lowercase();
                !line.starts_with("connection:") && !line.starts_with("transfer-encoding:")
            })
            .map(|line| format!("{line}\r\n"))
            .collect();
        if !lower.contains("\r\ncontent-length:") && !lower.starts_with("http/1.1 204") {
            out += &format!("Content-Length: {}\r\n", rest.len());
        }
        Ok([format!("{out}\r\n").into_bytes(), rest].concat())
    }
}

fn refusal(status: u16, retry_after: Option<u32>, is_head: bool) -> Vec<u8> {
    let code = if status == 503 { "SlowDown" } else { "InternalError" };
    let body = format!("<Error><Code>{code}</Code><Message>as decided</Message></Error>");
    let wait = retry_after.map_or(String::new(), |wait| format!("Retry-After: {wait}\r\n"));
    let len = if is_head { 0 } else { body.len() };
    let head = format!("HTTP/1.1 {status} No\r\nContent-Length: {len}\r\n{wait}\r\n");
    [head.as_bytes(), &body.as_bytes()[..len]].concat()
}

fn end_of_head(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4)
}

/// Takes a request's head but for its last byte; `None`: the connection has ended.
fn read_head(client: &mut TcpStream) -> io::Result<Option<Head>> {
    let mut buffer = vec![0; 64 << 10];
    let end = loop {
        let seen = client.peek(&mut buffer)?;
        if seen == 0 {
            return Ok(None);
        }
        match end_of_head(&buffer[..seen]) {
            Some(end) => break end,
            None => std::thread::sleep(Duration::from_millis(1)),
        }
    };
    let mut head = vec![0; end - 1];
    client.read_exact(&mut head)?;
    let text = String::from_utf8_lossy(&head);
    let mut lines = text.trim_end().split("\r\n");
    let line = lines.next().unwrap_or_default().trim_end_matches(" HTTP/1.1").to_owned();
    let split = |line: &str| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_owned(), value.trim().to_owned()))
    };
    Ok(Some(Head { line, headers: lines.filter_map(split).collect() }))
}

fn unchunk(mut bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    while let Some(at) = bytes.windows(2).position(|two| two == b"\r\n") {
        let size = String::from_utf8_lossy(&bytes[..at]).into_owned();
        let len = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
        if len == 0 {
            break;
        }
        out.extend_from_slice(&bytes[at + 2..at + 2 + len]);
        bytes = &bytes[at + 4 + len..];
    }
    out
}
