//! Servers that do what no server should. Each connection has a thread; they end with the test's
//! process.
#![allow(dead_code)] // Each test crate uses a part of it.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::pack_builder::{PackBuilder, oid};

/// Answers one request, whose head this is. `Err` closes the connection.
pub trait Serve: Fn(&str, &mut TcpStream) -> io::Result<()> + Send + Sync + 'static {}

impl<F: Fn(&str, &mut TcpStream) -> io::Result<()> + Send + Sync + 'static> Serve for F {}

/// A server on loopback.
pub struct Hostile(String);

impl Hostile {
    pub fn start(serve: impl Serve) -> Hostile {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let serve = Arc::new(serve);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let serve = serve.clone();
                // A client that goes away is none of this server's failures.
                thread::spawn(move || drop(connection(stream, &*serve)));
            }
        });
        Hostile(url)
    }

    /// `http://127.0.0.1:PORT`, without a trailing slash.
    pub fn url(&self) -> String {
        self.0.clone()
    }
}

fn connection(mut stream: TcpStream, serve: &dyn Serve) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut input = BufReader::new(stream.try_clone()?);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if input.read_line(&mut head)? == 0 {
                return Ok(());
            }
        }
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
        });
        io::copy(&mut input.by_ref().take(length.unwrap_or(0)), &mut io::sink())?;
        serve(&head, &mut stream)?;
    }
}

/// A whole answer.
pub fn answer(out: &mut TcpStream, content_type: &str, body: &[u8]) -> io::Result<()> {
    write!(
        out,
        "HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    )?;
    out.write_all(body)
}

/// These bytes, and then the last of them forever: twenty a second.
pub fn drip(out: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    let (last, _) = bytes.split_last().expect("something to drip");
    for byte in bytes.iter().chain(std::iter::repeat(last)) {
        out.write_all(&[*byte])?;
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// One packet of git's protocol.
pub fn packet(data: &[u8]) -> Vec<u8> {
    [format!("{:04x}", data.len() + 4).as_bytes(), data].concat()
}

/// The answer to `info/refs` of version 0. HEAD is the first ref.
pub fn advertisement(refs: &[(&str, &str)]) -> Vec<u8> {
    let mut body = b"001e# service=git-upload-pack\n0000".to_vec();
    let mut capabilities = format!("\0side-band-64k ofs-delta symref=HEAD:{}", refs[0].1);
    for (oid, name) in [(refs[0].0, "HEAD")].iter().chain(refs) {
        let line = format!("{oid} {name}{}\n", std::mem::take(&mut capabilities));
        body.extend(packet(line.as_bytes()));
    }
    body.extend(b"0000");
    body
}

/// A source of version 0 that has `refs/heads/main` at `tip` and gives `pack` to everybody.
pub fn serve_pack(pack: Vec<u8>, tip: String) -> impl Serve {
    move |head: &str, out: &mut TcpStream| {
        if head.contains("/info/refs") {
            let body = advertisement(&[(&tip, "refs/heads/main")]);
            return answer(out, "application/x-git-upload-pack-advertisement", &body);
        }
        if !head.contains("/git-upload-pack") {
            return out.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
        }
        let mut body = packet(b"NAK\n");
        for chunk in pack.chunks(60_000) {
            body.extend(packet(&[b"\x01", chunk].concat()));
        }
        body.extend(b"0000");
        answer(out, "application/x-git-upload-pack-result", &body)
    }
}

/// A source of version 2 that has `refs/heads/main` at `tip`, and answers to `fetch` what `fetch` writes:
/// its end is the connection's.
pub fn serve_v2(
    tip: String,
    fetch: impl Fn(&mut TcpStream) -> io::Result<()> + Send + Sync + 'static,
) -> impl Serve {
    // The body of a request is not seen here: refs are asked for first.
    let asked = std::sync::atomic::AtomicU32::new(0);
    move |head: &str, out: &mut TcpStream| {
        if head.contains("/info/refs") {
            let lines: [&[u8]; 3] = [b"version 2\n", b"ls-refs=unborn\n", b"fetch=shallow\n"];
            let lines = lines.map(packet).concat();
            let body = [&packet(b"# service=git-upload-pack\n")[..], b"0000", &lines, b"0000"];
            return answer(out, "application/x-git-upload-pack-advertisement", &body.concat());
        }
        if !head.contains("/git-upload-pack") {
            return out.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
        }
        if asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 0 {
            let name = format!("{tip} refs/heads/main\n");
            let head = format!("{tip} HEAD symref-target:refs/heads/main\n");
            let body =
                [packet(head.as_bytes()), packet(name.as_bytes()), b"0000".to_vec()].concat();
            return answer(out, "application/x-git-upload-pack-result", &body);
        }
        out.write_all(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/x-git-upload-pack-result\r\n\
              Connection: close\r\n\r\n",
        )?;
        fetch(out)
    }
}

/// A pack with what `add` adds and a commit with one file, and that commit's name.
pub fn with_objects(add: impl FnOnce(&mut PackBuilder)) -> (Vec<u8>, String) {
    repository(b"content", add)
}

/// A pack with a commit of one file with this content, and that commit's name.
pub fn small_repository(content: &[u8]) -> (Vec<u8>, String) {
    repository(content, |_| ())
}

fn repository(content: &[u8], add: impl FnOnce(&mut PackBuilder)) -> (Vec<u8>, String) {
    let hex = |oid: [u8; 20]| oid.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let tree = [b"100644 file\0", &oid("blob", content)[..]].concat();
    let commit = format!(
        "tree {}\nauthor A <a@b> 1 +0000\ncommitter A <a@b> 1 +0000\n\nm\n",
        hex(oid("tree", &tree))
    );
    let mut pack = PackBuilder::new();
    pack.object(1, commit.as_bytes());
    pack.object(2, &tree);
    pack.blob(content);
    add(&mut pack);
    (pack.build(), hex(oid("commit", commit.as_bytes())))
}
