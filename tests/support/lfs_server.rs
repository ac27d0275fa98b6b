//! A Git LFS server for tests, on loopback, std only: the batch API and downloads, and every way in
//! which they go wrong on request. Use it with `#[path = "support/lfs_server.rs"] mod lfs_server;`.

#![allow(dead_code, reason = "each test uses its own part of this")]

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// What one object's downloads do. The default is to answer.
#[derive(Clone, Debug, Default)]
pub struct Object {
    /// The bytes, as they are sent; the oid may be of others.
    pub content: Arc<Vec<u8>>,
    /// The batch says so instead of giving an address.
    pub error: Option<(u32, String)>,
    /// The first so many downloads are cut after this many bytes each.
    pub cuts: (usize, usize),
    /// The first so many downloads are answered with this status and `Retry-After: 0`.
    pub refusals: (usize, u16),
    /// The first so many downloads send other bytes.
    pub corrupt: usize,
    /// The first so many addresses are refused with 401 as if they had expired.
    pub stale: usize,
    /// `expires_in` of the first so many addresses is this.
    pub expires_in: Option<(usize, i64)>,
}

/// How a [`LfsServer`] behaves.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Batches of more than this are refused with 413.
    pub max_batch: Option<usize>,
    /// The first so many batches get 429 with `Retry-After: 0`.
    pub busy: usize,
    /// Every batch is answered with this status, type and body.
    pub canned: Option<(u16, &'static str, &'static str)>,
    /// Batches need this `Authorization`.
    pub authorization: Option<String>,
    /// A batch of which no object is there is answered with 404 as a whole (giftless does it).
    pub absent_is_404: bool,
    /// Downloads ignore `Range`.
    pub no_ranges: bool,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub path: String,
    pub headers: HashMap<String, String>,
    /// How many objects a batch asked for.
    pub batch: usize,
}

#[derive(Default)]
struct State {
    objects: HashMap<String, Object>,
    options: Options,
    seen: Vec<Seen>,
    /// Addresses given out for each object, and downloads begun.
    given: HashMap<String, usize>,
    begun: HashMap<String, usize>,
}

pub struct LfsServer {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    state: Arc<Mutex<State>>,
}

/// The SHA-256 in hexadecimal.
pub fn oid(content: &[u8]) -> String {
    Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The pointer file of `content`.
pub fn pointer(content: &[u8]) -> String {
    format!(
        "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize {}\n",
        oid(content),
        content.len()
    )
}

impl LfsServer {
    pub fn start(options: Options) -> LfsServer {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let state = Arc::new(Mutex::new(State { options, ..State::default() }));
        let stop = Arc::new(AtomicBool::new(false));
        let server = LfsServer { address, stop: stop.clone(), state: state.clone() };
        thread::spawn(move || {
            for stream in listener.incoming() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let state = state.clone();
                // A client that goes away is none of this server's failures.
                thread::spawn(move || drop(connection(stream, address, &state)));
            }
        });
        server
    }

    /// `http://127.0.0.1:PORT/lfs`: an LFS endpoint.
    pub fn url(&self) -> String {
        format!("http://{}/lfs", self.address)
    }

    /// Adds an object under its own oid and gives its pointer.
    pub fn add(&self, content: &[u8]) -> String {
        self.add_with(content, |_| ())
    }

    /// The same with a twist.
    pub fn add_with(&self, content: &[u8], twist: impl FnOnce(&mut Object)) -> String {
        let mut object = Object { content: Arc::new(content.to_vec()), ..Object::default() };
        twist(&mut object);
        self.lock().objects.insert(oid(content), object);
        pointer(content)
    }

    pub fn set_options(&self, options: Options) {
        self.lock().options = options;
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.lock().seen.clone()
    }

    pub fn forget_seen(&self) {
        self.lock().seen.clear();
    }

    /// How many objects each batch asked for.
    pub fn batches(&self) -> Vec<usize> {
        self.seen().iter().filter(|seen| seen.method == "POST").map(|seen| seen.batch).collect()
    }

    pub fn downloads(&self) -> Vec<Seen> {
        self.seen().into_iter().filter(|seen| seen.method == "GET").collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no thread panics with this lock")
    }
}

impl Drop for LfsServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

fn connection(stream: TcpStream, address: SocketAddr, state: &Mutex<State>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut out = stream.try_clone()?;
    let mut input = BufReader::new(stream);
    while let Some((mut seen, len)) = read_head(&mut input)? {
        let mut body = vec![0; len];
        input.read_exact(&mut body)?;
        let question: Value = serde_json::from_slice(&body).unwrap_or_default();
        seen.batch = question["objects"].as_array().map_or(0, Vec::len);
        let mut locked = state.lock().expect("no thread panics with this lock");
        locked.seen.push(seen.clone());
        if seen.method == "POST" {
            let answer = batch(&mut locked, address, &seen, &question);
            drop(locked);
            let (status, headers, body) = answer;
            respond(&mut out, status, &headers, body.as_bytes())?;
        } else {
            let plan = download(&mut locked, &seen);
            drop(locked);
            if !send(&mut out, &seen, plan)? {
                return Ok(());
            }
        }
    }
    Ok(())
}

fn read_head(input: &mut impl BufRead) -> io::Result<Option<(Seen, usize)>> {
    let mut line = String::new();
    if input.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split(' ').map(str::to_owned);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        input.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let len = headers.get("content-length").and_then(|len| len.parse().ok()).unwrap_or(0);
    Ok(Some((Seen { method, path, headers, batch: 0 }, len)))
}

fn respond(out: &mut TcpStream, status: u16, headers: &str, body: &[u8]) -> io::Result<()> {
    write!(out, "HTTP/1.1 {status} Status\r\n{headers}Content-Length: {}\r\n\r\n", body.len())?;
    out.write_all(body)
}

const LFS: &str = "Content-Type: application/vnd.git-lfs+json\r\n";

fn batch(
    state: &mut State,
    address: SocketAddr,
    seen: &Seen,
    question: &Value,
) -> (u16, String, String) {
    let message = |words: &str| json!({ "message": words }).to_string();
    if state.options.busy > 0 {
        state.options.busy -= 1;
        return (429, format!("{LFS}Retry-After: 0\r\n"), message("slow down"));
    }
    if let Some((status, media, body)) = state.options.canned {
        return (status, format!("Content-Type: {media}\r\n"), body.to_owned());
    }
    if state
        .options
        .authorization
        .as_ref()
        .is_some_and(|a| seen.headers.get("authorization") != Some(a))
    {
        return (401, LFS.to_owned(), message("who are you?"));
    }
    let media = "application/vnd.git-lfs+json";
    let right = |name: &str| seen.headers.get(name).is_some_and(|value| value == media);
    if seen.path != "/lfs/objects/batch" || !right("accept") || !right("content-type") {
        return (406, LFS.to_owned(), message("not a batch request"));
    }
    if state.options.max_batch.is_some_and(|max| seen.batch > max) {
        return (413, LFS.to_owned(), message("too many objects"));
    }
    let asked = question["objects"].as_array().into_iter().flatten();
    let is_there = |asked: &Value| state.objects.contains_key(asked["oid"].as_str().unwrap_or(""));
    if state.options.absent_is_404 && !asked.clone().any(is_there) {
        return (404, LFS.to_owned(), message("Cannot find any of the requested objects"));
    }
    let mut answers = Vec::new();
    for asked in asked {
        let oid = asked["oid"].as_str().unwrap_or_default().to_owned();
        answers.push(offer(state, address, &oid, &asked["size"]));
    }
    let answer = json!({ "transfer": "basic", "objects": answers });
    (200, LFS.to_owned(), answer.to_string())
}

fn offer(state: &mut State, address: SocketAddr, oid: &str, size: &Value) -> Value {
    let error = |code: u32, message: &str| json!({ "oid": oid, "size": size, "error": { "code": code, "message": message } });
    let Some(object) = state.objects.get(oid) else {
        return error(404, "Object does not exist");
    };
    if let Some((code, message)) = &object.error {
        return error(*code, message);
    }
    let given = state.given.entry(oid.to_owned()).or_default();
    *given += 1;
    let mut action = json!({
        "href": format!("http://{address}/object/{oid}/{given}?signature=secret"),
        "header": { "X-Object-Key": format!("key-{given}") },
    });
    if let Some((times, seconds)) = object.expires_in {
        let seconds = if *given <= times { seconds } else { 3600 };
        action["expires_in"] = json!(seconds);
    }
    json!({ "oid": oid, "size": size, "authenticated": true, "actions": { "download": action } })
}

struct Plan {
    status: u16,
    content: Arc<Vec<u8>>,
    cut: Option<usize>,
    corrupt: bool,
    ranges: bool,
}

fn download(state: &mut State, seen: &Seen) -> Plan {
    let path = seen.path.split('?').next().unwrap_or_default();
    let words: Vec<&str> = path.trim_start_matches("/object/").split('/').collect();
    let oid = words[0].to_owned();
    let given = words.get(1).unwrap_or(&"0").to_string();
    let ranges = !state.options.no_ranges;
    let mut plan = Plan { status: 200, content: Arc::default(), cut: None, corrupt: false, ranges };
    let Some(object) = state.objects.get(&oid) else {
        return Plan { status: 404, ..plan };
    };
    // The action's headers, and nobody's credentials.
    if seen.headers.get("x-object-key") != Some(&format!("key-{given}"))
        || seen.headers.contains_key("authorization")
    {
        return Plan { status: 403, ..plan };
    }
    if given.parse().is_ok_and(|given: usize| given <= object.stale) {
        return Plan { status: 401, ..plan };
    }
    let begun = state.begun.entry(oid).or_default();
    *begun += 1;
    if *begun <= object.refusals.0 {
        return Plan { status: object.refusals.1, ..plan };
    }
    plan.content = object.content.clone();
    plan.corrupt = *begun <= object.corrupt;
    plan.cut = (*begun <= object.cuts.0).then_some(object.cuts.1);
    plan
}

/// False: the connection is cut.
fn send(out: &mut TcpStream, seen: &Seen, plan: Plan) -> io::Result<bool> {
    if plan.status != 200 {
        respond(
            out,
            plan.status,
            "Content-Type: text/plain\r\nRetry-After: 0\r\n",
            b"no such luck",
        )?;
        return Ok(true);
    }
    let len = plan.content.len();
    let range = seen.headers.get("range").filter(|_| plan.ranges);
    let start = range
        .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
    match start {
        None => write!(out, "HTTP/1.1 200 OK\r\n")?,
        Some(start) => {
            let last = len.saturating_sub(1);
            write!(out, "HTTP/1.1 206 Partial\r\nContent-Range: bytes {start}-{last}/{len}\r\n")?;
        }
    }
    let body = &plan.content[start.unwrap_or(0)..];
    write!(out, "Content-Length: {}\r\n\r\n", body.len())?;
    let shown = &body[..plan.cut.unwrap_or(body.len()).min(body.len())];
    if plan.corrupt {
        out.write_all(&vec![b'!'; shown.len()])?;
    } else {
        out.write_all(shown)?;
    }
    if shown.len() < body.len() {
        out.shutdown(std::net::Shutdown::Both)?;
        return Ok(false);
    }
    Ok(true)
}
