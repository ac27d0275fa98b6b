//! Two small HTTP/1.1 servers on loopback for tests, examples and benches; std and git only.
//!
//! [`GitHttp`] runs the real `git http-backend` as CGI over a folder of repositories, and can
//! misbehave on request. [`StaticHttp`] serves a folder as files, which is what a reader of a mirror
//! sees. Both speak keep-alive, chunked and gzipped request bodies (the latter are git's to unpack)
//! and `Expect: 100-continue`, serve each connection in a thread, log every request, and stop when
//! dropped. Use it with `#[path = "support/git_http.rs"] mod git_http;`.

#![allow(dead_code, reason = "each test uses its own part of this")]

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

/// How a [`GitHttp`] behaves. The default is a plain server that answers everybody.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Answer 401 to requests without this user and password.
    pub basic_auth: Option<(String, String)>,
    /// Redirect `/PREFIX/x` to `BASE/x` (302): the prefix without slashes, the base a URL without a
    /// trailing slash; an empty base is this server itself.
    pub redirect: Option<(String, String)>,
    /// Don't pass `Git-Protocol` on: the server then speaks version 0.
    pub only_v0: bool,
    /// Close the connection after so many bytes of a POST's answer.
    pub cut_post_after: Option<usize>,
    /// Answers to give instead of git's, the first that fits.
    pub canned: Vec<Canned>,
}

/// An answer made up by a test.
#[derive(Clone, Debug)]
pub struct Canned {
    /// It fits requests whose path and query contain this.
    pub on: String,
    /// How often it is given; afterwards requests go on to the next, or to git.
    pub times: usize,
    /// The status.
    pub status: u16,
    /// Headers beside `Content-Length`.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Canned {
    /// An answer to all requests that contain `on`.
    pub fn new(on: &str, status: u16, content_type: &str, body: impl Into<Vec<u8>>) -> Canned {
        let headers = vec![("Content-Type".to_owned(), content_type.to_owned())];
        Canned { on: on.to_owned(), times: usize::MAX, status, headers, body: body.into() }
    }
}

/// One request as it came.
#[derive(Clone, Debug)]
pub struct Seen {
    /// `GET`, `POST`, `HEAD`.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Names in lower case.
    pub headers: HashMap<String, String>,
    /// The body's length as sent: compressed if it was.
    pub body_len: usize,
}

impl Seen {
    fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    fn query(&self) -> &str {
        self.target.split_once('?').map_or("", |(_, query)| query)
    }

    /// A header, by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

/// `git http-backend` over a folder of repositories.
pub struct GitHttp(Server);

impl GitHttp {
    /// Serves the repositories below `root`: `root/x.git` is at `url()/x.git`.
    pub fn start(root: &Path, options: Options) -> GitHttp {
        let root = root.canonicalize().expect("the folder exists");
        let canned = Mutex::new(options.canned.clone());
        GitHttp(Server::start(move |seen, body, out| {
            git_answer(&root, &options, &canned, seen, body, out)
        }))
    }

    /// `http://127.0.0.1:PORT`, without a trailing slash.
    pub fn url(&self) -> String {
        self.0.url()
    }

    /// How many requests came so far.
    pub fn requests(&self) -> usize {
        self.seen().len()
    }

    /// All requests so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.0.seen()
    }

    /// How many connections were made so far.
    pub fn connections(&self) -> usize {
        self.0.connections.load(Ordering::SeqCst)
    }
}

/// A folder as files, with `Range` and without listings; 404 for what is not there.
pub struct StaticHttp(Server);

impl StaticHttp {
    /// Serves the files below `root`.
    pub fn start(root: &Path) -> StaticHttp {
        StaticHttp::start_with(root, 404, Vec::new())
    }

    /// The same, with `missing` as the status of what is not there, and these answers instead of
    /// files, the first that fits.
    pub fn start_with(root: &Path, missing: u16, canned: Vec<Canned>) -> StaticHttp {
        let root = root.canonicalize().expect("the folder exists");
        let canned = Mutex::new(canned);
        StaticHttp(Server::start(move |seen, _body, out| match take_canned(&canned, seen) {
            Some(answer) => respond(out, answer.status, &answer.headers, &answer.body),
            None => static_answer(&root, missing, seen, out),
        }))
    }

    /// `http://127.0.0.1:PORT`, without a trailing slash.
    pub fn url(&self) -> String {
        self.0.url()
    }

    /// How many requests came so far.
    pub fn requests(&self) -> usize {
        self.seen().len()
    }

    /// All requests so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.0.seen()
    }

    /// How many connections were made so far.
    pub fn connections(&self) -> usize {
        self.0.connections.load(Ordering::SeqCst)
    }
}

/// What to do with the connection after an answer.
type Keep = io::Result<bool>;

struct Server {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Server {
    fn start(
        answer: impl Fn(&Seen, &[u8], &mut TcpStream) -> Keep + Send + Sync + 'static,
    ) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let connections = Arc::new(AtomicUsize::new(0));
        let server = Server {
            address,
            connections: connections.clone(),
            stop: stop.clone(),
            seen: seen.clone(),
        };
        let answer = Arc::new(answer);
        thread::spawn(move || {
            for stream in listener.incoming() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                connections.fetch_add(1, Ordering::SeqCst);
                let (seen, answer) = (seen.clone(), answer.clone());
                // A client that goes away is none of this server's failures.
                thread::spawn(move || drop(connection(stream, &seen, &*answer)));
            }
        });
        server
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("no thread panics with this lock").clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the thread that waits for connections.
        let _ = TcpStream::connect(self.address);
    }
}

fn connection(
    mut stream: TcpStream,
    log: &Mutex<Vec<Seen>>,
    answer: &dyn Fn(&Seen, &[u8], &mut TcpStream) -> Keep,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut input = BufReader::new(stream.try_clone()?);
    while let Some(mut seen) = read_head(&mut input)? {
        if seen.header("expect").is_some_and(|value| value.eq_ignore_ascii_case("100-continue")) {
            stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let body = read_body(&mut input, &seen)?;
        seen.body_len = body.len();
        log.lock().expect("no thread panics with this lock").push(seen.clone());
        let close = seen.header("connection").is_some_and(|v| v.eq_ignore_ascii_case("close"));
        if !answer(&seen, &body, &mut stream)? || close {
            break;
        }
    }
    stream.shutdown(std::net::Shutdown::Write)
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

/// A line without its end; None at the end of the stream.
fn read_line(input: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut line = String::new();
    if input.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    Ok(Some(line.trim_end_matches(['\r', '\n']).to_owned()))
}

fn read_head(input: &mut impl BufRead) -> io::Result<Option<Seen>> {
    let Some(first) = read_line(input)? else { return Ok(None) };
    let mut words = first.split(' ').map(str::to_owned);
    let (Some(method), Some(target)) = (words.next(), words.next()) else {
        return Err(bad("not a request line"));
    };
    let mut headers = HashMap::new();
    loop {
        let line = read_line(input)?.ok_or_else(|| bad("the head was cut"))?;
        if line.is_empty() {
            return Ok(Some(Seen { method, target, headers, body_len: 0 }));
        }
        let (name, value) = line.split_once(':').ok_or_else(|| bad("not a header"))?;
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
}

fn read_body(input: &mut impl BufRead, seen: &Seen) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    if seen.header("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked")) {
        loop {
            let line = read_line(input)?.ok_or_else(|| bad("the body was cut"))?;
            let size = line.split(';').next().unwrap_or_default().trim();
            let len = u64::from_str_radix(size, 16).map_err(|_| bad("not a chunk"))?;
            input.by_ref().take(len).read_to_end(&mut body)?;
            read_line(input)?;
            if len == 0 {
                return Ok(body);
            }
        }
    }
    let len = seen.header("content-length").map_or(Ok(0), str::parse::<u64>);
    input.take(len.map_err(|_| bad("not a length"))?).read_to_end(&mut body)?;
    Ok(body)
}

/// A whole answer with a length.
fn respond(out: &mut TcpStream, status: u16, headers: &[(String, String)], body: &[u8]) -> Keep {
    let mut head = format!("HTTP/1.1 {status} Status\r\nContent-Length: {}\r\n", body.len());
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    out.write_all(format!("{head}\r\n").as_bytes())?;
    out.write_all(body)?;
    Ok(true)
}

fn header(name: &str, value: impl Into<String>) -> (String, String) {
    (name.to_owned(), value.into())
}

fn git_answer(
    root: &Path,
    options: &Options,
    canned: &Mutex<Vec<Canned>>,
    seen: &Seen,
    body: &[u8],
    out: &mut TcpStream,
) -> Keep {
    if let Some((prefix, base)) = &options.redirect
        && let Some(rest) = seen.target.strip_prefix(&format!("/{prefix}/"))
    {
        return respond(out, 302, &[header("Location", format!("{base}/{rest}"))], b"");
    }
    if let Some((user, password)) = &options.basic_auth {
        let expected = format!("Basic {}", base64(format!("{user}:{password}").as_bytes()));
        if seen.header("authorization") != Some(&expected) {
            return respond(out, 401, &[header("WWW-Authenticate", "Basic realm=\"git\"")], b"");
        }
    }
    if let Some(answer) = take_canned(canned, seen) {
        return respond(out, answer.status, &answer.headers, &answer.body);
    }
    run_cgi(root, options, seen, body, out)
}

fn take_canned(canned: &Mutex<Vec<Canned>>, seen: &Seen) -> Option<Canned> {
    let mut canned = canned.lock().expect("no thread panics with this lock");
    let fits = |c: &&mut Canned| c.times > 0 && seen.target.contains(&c.on);
    let found = canned.iter_mut().find(fits)?;
    found.times -= 1;
    Some(found.clone())
}

/// Runs `git http-backend` by the rules of git-http-backend(1), and streams its answer in chunks.
fn run_cgi(root: &Path, options: &Options, seen: &Seen, body: &[u8], out: &mut TcpStream) -> Keep {
    let mut command = Command::new("git");
    command
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        // Noise is not smaller however long it takes.
        .env("GIT_CONFIG_COUNT", "1")
        .env("GIT_CONFIG_KEY_0", "core.compression")
        .env("GIT_CONFIG_VALUE_0", "1")
        .env("REQUEST_METHOD", &seen.method)
        .env("PATH_INFO", percent_decode(seen.path()))
        .env("QUERY_STRING", seen.query())
        .env("REMOTE_ADDR", "127.0.0.1")
        .env("CONTENT_LENGTH", body.len().to_string())
        .env_remove("GIT_DIR")
        .env_remove("GIT_PROTOCOL")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    for (name, variable) in [
        ("content-type", "CONTENT_TYPE"),
        ("content-encoding", "HTTP_CONTENT_ENCODING"),
        ("git-protocol", "GIT_PROTOCOL"),
    ] {
        let hidden = options.only_v0 && name == "git-protocol";
        if let Some(value) = seen.header(name).filter(|_| !hidden) {
            command.env(variable, value);
        }
    }
    let mut child = command.spawn()?;
    let mut stdin = child.stdin.take().expect("stdin is piped");
    let stdout = child.stdout.take().expect("stdout is piped");
    let cut = options.cut_post_after.filter(|_| seen.method == "POST");
    let keep = thread::scope(|scope| {
        // In its own thread: git may answer before it has read everything.
        scope.spawn(move || drop(stdin.write_all(body)));
        stream_cgi(BufReader::new(stdout), cut, out)
    });
    if keep.is_err() {
        let _ = child.kill();
    }
    child.wait()?;
    keep
}

fn stream_cgi(mut stdout: impl BufRead, cut: Option<usize>, out: &mut TcpStream) -> Keep {
    let (mut status, mut head) = ("200 OK".to_owned(), String::new());
    while let Some(line) = read_line(&mut stdout)?.filter(|line| !line.is_empty()) {
        match line.strip_prefix("Status: ") {
            Some(value) => status = value.to_owned(),
            None => head += &format!("{line}\r\n"),
        }
    }
    write!(out, "HTTP/1.1 {status}\r\n{head}Transfer-Encoding: chunked\r\n\r\n")?;
    let mut left = cut.unwrap_or(usize::MAX);
    let mut buffer = vec![0; 64 << 10];
    loop {
        let got = stdout.read(&mut buffer)?.min(left);
        if got == 0 && cut.is_some() {
            // The last chunk is never sent: the answer was cut.
            return Err(bad("cut on request"));
        }
        write!(out, "{got:x}\r\n")?;
        out.write_all(&buffer[..got])?;
        out.write_all(b"\r\n")?;
        if got == 0 {
            return Ok(true);
        }
        left -= got;
    }
}

fn static_answer(root: &Path, missing: u16, seen: &Seen, out: &mut TcpStream) -> Keep {
    let Some(path) = file_below(root, &percent_decode(seen.path())) else {
        return respond(out, missing, &[header("Content-Type", "text/plain")], b"no such key\n");
    };
    let mut file = std::fs::File::open(path)?;
    let len = file.metadata()?.len();
    let mut head = String::from("Accept-Ranges: bytes\r\nContent-Type: text/plain\r\n");
    let (status, start, end) = match seen.header("range").map(|range| parse_range(range, len)) {
        None => ("200 OK", 0, len),
        Some(Some((start, end))) => {
            head += &format!("Content-Range: bytes {start}-{}/{len}\r\n", end - 1);
            ("206 Partial Content", start, end)
        }
        Some(None) => {
            return respond(out, 416, &[header("Content-Range", format!("bytes */{len}"))], b"");
        }
    };
    write!(out, "HTTP/1.1 {status}\r\nContent-Length: {}\r\n{head}\r\n", end - start)?;
    if seen.method != "HEAD" {
        file.seek(SeekFrom::Start(start))?;
        io::copy(&mut file.take(end - start), out)?;
    }
    Ok(true)
}

/// The file that a path names, if it is one and lies below `root`.
fn file_below(root: &Path, path: &str) -> Option<PathBuf> {
    let relative = path.trim_start_matches('/');
    if relative.split('/').any(|part| part == "..") {
        return None;
    }
    Some(root.join(relative)).filter(|path| path.is_file())
}

/// `bytes=a-b`, `bytes=a-`, `bytes=-n` as a half-open range inside `len`.
fn parse_range(range: &str, len: u64) -> Option<(u64, u64)> {
    let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    let (start, end) = match (first, last) {
        ("", suffix) => (len.saturating_sub(suffix.parse().ok()?), len),
        (first, "") => (first.parse().ok()?, len),
        (first, last) => {
            (first.parse().ok()?, last.parse::<u64>().ok()?.saturating_add(1).min(len))
        }
    };
    (start < end).then_some((start, end))
}

fn percent_decode(text: &str) -> String {
    let mut out = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let mut digit = || char::from(bytes.next()?).to_digit(16);
        match byte {
            b'%' => match (digit(), digit()) {
                (Some(high), Some(low)) => out.push((high * 16 + low) as u8),
                _ => out.push(b'?'),
            },
            byte => out.push(byte),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0, |word, &byte| word << 8 | u32::from(byte));
        let word = word << (8 * (3 - chunk.len()));
        for at in 0..4 {
            let digit = DIGITS[(word >> (18 - 6 * at) & 63) as usize];
            out.push(if at <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    out
}
