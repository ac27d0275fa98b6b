//! Attacks on the program as users run it: a line each, from a hostile source, store, bucket or
//! machine. Each must end in bounded time, within bounded memory (measured from outside: the peak
//! that the kernel counts for the process), with the right exit code, and say what is wrong without
//! flooding the log.
//!
//! `--memory` is 64 MiB unless a line says otherwise, so the bound is 128 MiB.

#[path = "support/hostile.rs"]
mod hostile;
#[path = "support/local_git.rs"]
mod local_git;
#[path = "support/pack_builder.rs"]
mod pack_builder;
#[path = "support/program.rs"]
mod program;

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use hostile::{
    Hostile, advertisement, answer, drip, packet, serve_pack, serve_v2, small_repository,
    with_objects,
};
use pack_builder::{PackBuilder, copy, insert, oid, raw_delta};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

const MIB: u64 = 1 << 20;

/// One attack.
struct Attack {
    /// `source`, `store`, `bucket` or `machine`, and what it does.
    name: &'static str,
    /// Prepares it; what comes back lives as long as the run.
    begin: fn(&mut Lab),
    exit: i32,
    /// What it must say, with its results or on standard error.
    says: &'static str,
    seconds: u64,
}

/// Where an attack happens.
struct Lab {
    home: TempDir,
    servers: Vec<Hostile>,
    command: Command,
}

impl Lab {
    fn new() -> Lab {
        let home = tempfile::tempdir().unwrap();
        let command = program::program(home.path());
        Lab { home, servers: Vec::new(), command }
    }

    fn path(&self) -> &Path {
        self.home.path()
    }

    fn target(&self) -> String {
        format!("file://{}/mirror.git", self.path().display())
    }

    fn serve(&mut self, serve: impl hostile::Serve) -> String {
        self.servers.push(Hostile::start(serve));
        self.servers.last().unwrap().url()
    }

    /// A source on loopback and a directory as the target.
    fn mirror(&mut self, serve: impl hostile::Serve) {
        let source = format!("{}/r.git", self.serve(serve));
        let target = self.target();
        self.command.args(["--source", &source, "--target", &target]);
    }

    /// A source that is sound, and a hostile store.
    fn store(&mut self, serve: impl hostile::Serve) {
        let (pack, tip) = small_repository(b"content");
        let source = format!("{}/r.git", self.serve(serve_pack(pack, tip)));
        let endpoint = self.serve(serve);
        self.s3(&source, &endpoint);
    }

    fn s3(&mut self, source: &str, endpoint: &str) {
        self.command
            .args([
                "--source",
                source,
                "--target",
                "s3://bucket/prefix",
                "--endpoint-url",
                endpoint,
            ])
            .env("AWS_ACCESS_KEY_ID", "key")
            .env("AWS_SECRET_ACCESS_KEY", "secret")
            .env("AWS_MAX_ATTEMPTS", "1");
    }

    fn options(&mut self, options: &[&str]) {
        self.command.args(options);
    }

    /// A mirror that stands, of a source with one more commit than the mirror has.
    fn standing(&mut self, layout: &str) {
        let repo = local_git::Repo::new();
        let text: String = (0..1000).map(|line| format!("line {line}\n")).collect();
        repo.commit("refs/heads/main", &[("a", text.as_bytes())]);
        let bundle = self.path().join("a.bundle");
        repo.git(&["bundle", "create", "-q", bundle.to_str().unwrap(), "--all"]);
        let source = format!("bundle:{}", bundle.display());
        let target = self.target();
        let pair = ["--source", &source, "--target", &target, "--layout", layout];
        let first = program::program(self.path()).args(pair).output().unwrap();
        assert!(first.status.success(), "{first:?}");
        repo.commit("refs/heads/main", &[("a", format!("{text}more\n").as_bytes())]);
        // Only what is new: its bases are read from the mirror.
        repo.git(&["bundle", "create", "-q", bundle.to_str().unwrap(), "main~1..main"]);
        self.command.args(pair);
    }

    /// Instead of what was prepared: `verify` of the mirror.
    fn verify(&mut self) {
        self.maintain("verify");
    }

    /// Another command on it, instead of mirroring into it.
    fn gc(&mut self) {
        self.maintain("gc");
    }

    fn maintain(&mut self, command: &str) {
        let target = self.target();
        self.command = program::program(self.path());
        self.command.args([command, "--target", &target]);
    }

    /// Deletes a file of the mirror.
    fn remove(&self, part: &str) {
        let mirror = self.path().join("mirror.git");
        let name = program::files(&mirror, part).into_iter().next().expect("the mirror has it");
        std::fs::remove_file(mirror.join(name)).unwrap();
    }

    /// Replaces a file of the mirror by `len` zeros that take no room on the disk.
    fn zeros(&self, part: &str, len: u64) {
        let mirror = self.path().join("mirror.git");
        let name = program::files(&mirror, part).into_iter().next().expect("the mirror has it");
        let file = std::fs::File::create(mirror.join(name)).unwrap();
        file.set_len(len).unwrap();
    }
}

/// How a run ended.
struct Ended {
    code: Option<i32>,
    seconds: f64,
    peak_mib: u64,
    stderr: String,
    stdout: String,
}

fn read_all(mut pipe: impl Read + Send + 'static) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut text = Vec::new();
        pipe.read_to_end(&mut text).unwrap();
        String::from_utf8_lossy(&text).into_owned()
    })
}

/// The greatest memory of a program so far; 0 as long as it is the tests' own.
fn peak_kib(process: u32) -> u64 {
    let program = |process: &str| std::fs::read_link(format!("/proc/{process}/exe")).ok();
    if program(&process.to_string()) == program("self") {
        return 0;
    }
    let status = std::fs::read_to_string(format!("/proc/{process}/status"));
    let status = status.unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
    number.unwrap_or(0)
}

/// A process that has just begun has the memory of the one that began it for a moment, after that may go on:
/// the kernel ends a `vfork` before it changes the memory (`exec_mmap`).
#[test]
fn memory_of_the_tests_is_not_taken_for_that_of_the_program() {
    assert_eq!(peak_kib(std::process::id()), 0);
    let mut other = Command::new("sleep").arg("60").spawn().unwrap();
    std::thread::sleep(Duration::from_millis(100));
    let peak = peak_kib(other.id());
    other.kill().unwrap();
    other.wait().unwrap();
    assert!(peak > 0);
}

/// Runs to the end, or for so many seconds.
fn run(lab: &mut Lab, seconds: u64) -> Ended {
    let begun = Instant::now();
    let mut child = lab.command.spawn().unwrap();
    let text = read_all(child.stderr.take().unwrap());
    let results = read_all(child.stdout.take().unwrap());
    let mut peak = 0;
    let status = loop {
        peak = peak.max(peak_kib(child.id()));
        if let Some(status) = child.try_wait().unwrap() {
            break Some(status);
        }
        // Nothing may go on eating memory in a failing test.
        if begun.elapsed().as_secs() >= seconds || peak > 2 * 1024 * 1024 {
            child.kill().unwrap();
            child.wait().unwrap();
            break None;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    Ended {
        code: status.and_then(|status| status.code()),
        seconds: begun.elapsed().as_secs_f64(),
        peak_mib: peak / 1024,
        stderr: text.join().unwrap(),
        stdout: results.join().unwrap(),
    }
}

/// What is wrong with how `attack` ended.
fn try_one(attack: &Attack) -> Option<String> {
    let mut lab = Lab::new();
    (attack.begin)(&mut lab);
    let Ended { code, seconds, peak_mib, stderr, stdout } = run(&mut lab, attack.seconds);
    println!("{:<60} {code:?} {seconds:6.1} s {peak_mib:4} MiB", attack.name);
    let fine = code == Some(attack.exit)
        && peak_mib <= 128
        && stderr.len() < 5000
        && (stderr.contains(attack.says) || stdout.contains(attack.says));
    // A file of somebody else's, where there is one.
    if let Ok(now) = std::fs::read_to_string(lab.path().join("victim")) {
        assert_eq!(now, "precious", "{}", attack.name);
    }
    let start: String = stderr.chars().take(1500).collect();
    (!fine).then(|| format!("{}: {code:?} {seconds:.1} s {peak_mib} MiB\n{start}", attack.name))
}

fn try_all(attacks: &[Attack]) {
    let next = Mutex::new(attacks.iter());
    let failures = Mutex::new(Vec::new());
    let only = std::env::var("ATTACK").unwrap_or_default();
    std::thread::scope(|scope| {
        // Most of them wait.
        for _ in 0..3 {
            scope.spawn(|| {
                loop {
                    let Some(attack) = next.lock().unwrap().next() else { return };
                    if attack.name.contains(&only) {
                        failures.lock().unwrap().extend(try_one(attack));
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

const SLOW: [&str; 2] = ["--low-speed-time", "1"];

#[test]
fn nobody_holds_a_run_for_ever() {
    try_all(&[
        Attack {
            name: "source: headers a byte at a time",
            begin: |lab| {
                lab.options(&SLOW);
                lab.mirror(|_: &str, out: &mut TcpStream| drip(out, b"HTTP/1.1 200 OK\r\nX: "));
            },
            exit: 5,
            says: "--low-speed-limit",
            seconds: 20,
        },
        Attack {
            name: "source: refs a byte at a time",
            begin: |lab| {
                lab.options(&SLOW);
                lab.mirror(|_: &str, out: &mut TcpStream| {
                    out.write_all(SMART_HEAD)?;
                    drip(out, b"1;padding=")
                });
            },
            exit: 5,
            says: "--low-speed-limit",
            seconds: 20,
        },
        Attack {
            name: "source: interim answers without end",
            begin: |lab| {
                lab.options(&SLOW);
                lab.mirror(|_: &str, out: &mut TcpStream| {
                    loop {
                        out.write_all(b"HTTP/1.1 102 Processing\r\n\r\n")?;
                        std::thread::sleep(Duration::from_millis(5));
                    }
                });
            },
            exit: 5,
            says: "timed out (receive response)",
            seconds: 60,
        },
        Attack {
            name: "source: keep-alives without end",
            begin: |lab| {
                lab.options(&SLOW);
                lab.mirror(|head: &str, out: &mut TcpStream| {
                    if !begins_pack(head, out)? {
                        return Ok(());
                    }
                    loop {
                        out.write_all(b"5\r\n0005\x01\r\n")?;
                        std::thread::sleep(Duration::from_millis(2));
                    }
                });
            },
            exit: 5,
            says: "almost nothing but keep-alives",
            seconds: 30,
        },
        Attack {
            name: "source: long progress without end",
            begin: |lab| {
                lab.options(&SLOW);
                lab.mirror(|head: &str, out: &mut TcpStream| {
                    if !begins_pack(head, out)? {
                        return Ok(());
                    }
                    let text = [&b"\x02"[..], &[b'x'; 60_000]].concat();
                    let text = packet(&text);
                    let mut chunk = format!("{:x}\r\n", text.len()).into_bytes();
                    chunk.extend_from_slice(&text);
                    chunk.extend_from_slice(b"\r\n");
                    loop {
                        for part in chunk.chunks(6000) {
                            out.write_all(part)?;
                            std::thread::sleep(Duration::from_millis(20));
                        }
                    }
                });
            },
            exit: 5,
            says: "almost nothing but keep-alives",
            seconds: 30,
        },
        Attack {
            name: "source: headers without end",
            begin: |lab| {
                lab.mirror(|_: &str, out: &mut TcpStream| {
                    out.write_all(b"HTTP/1.1 200 OK\r\n")?;
                    again_and_again(out, &[b"X: ", &[b'x'; 4000][..], b"\r\n"].concat())
                });
            },
            exit: 1,
            says: "header",
            seconds: 20,
        },
        Attack {
            name: "source: silent, with --timeout",
            begin: |lab| {
                lab.options(&["--timeout", "2"]);
                lab.mirror(|_: &str, _: &mut TcpStream| {
                    std::thread::sleep(Duration::from_secs(60));
                    Ok(())
                });
            },
            exit: 5,
            says: "not finished after 2 s (--timeout)",
            seconds: 12,
        },
        Attack {
            name: "store: answer a byte at a time",
            begin: |lab| {
                lab.options(&SLOW);
                lab.store(|_: &str, out: &mut TcpStream| {
                    out.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")?;
                    drip(out, b"\0")
                });
            },
            exit: 5,
            says: "--low-speed-limit",
            seconds: 20,
        },
        Attack {
            name: "source: LFS object a byte at a time",
            begin: |lab| {
                lab.options(&SLOW);
                let oid = "11".repeat(32);
                let pointer = format!(
                    "version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize 100000\n"
                );
                let (pack, tip) = small_repository(pointer.as_bytes());
                let git = serve_pack(pack, tip);
                lab.mirror(move |head: &str, out: &mut TcpStream| {
                    if head.contains("/objects/batch") {
                        let host = out.local_addr()?;
                        let body = format!(
                            r#"{{"objects":[{{"oid":"{oid}","size":100000,"actions":
                            {{"download":{{"href":"http://{host}/object"}}}}}}]}}"#
                        );
                        return answer(out, "application/vnd.git-lfs+json", body.as_bytes());
                    }
                    if head.starts_with("GET /object") {
                        out.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")?;
                        return drip(out, b"\0");
                    }
                    git(head, out)
                });
            },
            exit: 4,
            says: "--low-speed-limit",
            seconds: 20,
        },
        Attack {
            name: "source: not available, and asks for half a trillion years",
            begin: |lab| {
                lab.mirror(|_: &str, out: &mut TcpStream| {
                    out.write_all(
                        b"HTTP/1.1 503 Busy\r\nRetry-After: 18446744073709551615\r\n\
                          Content-Length: 0\r\n\r\n",
                    )
                });
            },
            exit: 5,
            says: "HTTP 503",
            seconds: 20,
        },
        Attack {
            name: "proxy: refuses",
            begin: |lab| {
                let proxy = lab.serve(|_: &str, out: &mut TcpStream| {
                    out.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
                });
                lab.command.env("HTTP_PROXY", proxy);
                let target = lab.target();
                lab.options(&["--source", "http://git.example/r.git", "--target", &target]);
            },
            exit: 12,
            says: "through the proxy 127.0.0.1:",
            seconds: 20,
        },
        Attack {
            name: "proxy: down",
            begin: |lab| {
                lab.command.env("HTTP_PROXY", "http://user:hush@127.0.0.1:1");
                let target = lab.target();
                let source = "http://git.example/r.git";
                lab.options(&["--source", source, "--target", &target]);
            },
            exit: 5,
            says: "through the proxy 127.0.0.1:1 (HTTP_PROXY)",
            seconds: 40,
        },
        Attack {
            name: "proxy: silent",
            begin: |lab| {
                let proxy = lab.serve(|_: &str, _: &mut TcpStream| {
                    std::thread::sleep(Duration::from_secs(60));
                    Ok(())
                });
                lab.command.env("HTTP_PROXY", proxy);
                let target = lab.target();
                lab.options(&["--source", "http://git.example/r.git", "--target", &target]);
                lab.options(&SLOW);
            },
            exit: 5,
            says: "through the proxy 127.0.0.1:",
            seconds: 60,
        },
        Attack {
            name: "proxy: says that it has connected, and answers nonsense",
            begin: |lab| {
                let proxy = lab.serve(|head: &str, out: &mut TcpStream| {
                    match head.starts_with("CONNECT") {
                        true => out.write_all(b"HTTP/1.1 200 Connected\r\n\r\n"),
                        false => out.write_all(b"\0\0\0 what?\r\n\r\n"),
                    }
                });
                lab.command.env("HTTP_PROXY", proxy);
                let target = lab.target();
                lab.options(&["--source", "http://git.example/r.git", "--target", &target]);
            },
            exit: 5,
            says: "through the proxy 127.0.0.1:",
            seconds: 40,
        },
    ]);
}

const SMART_HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\
    Content-Type: application/x-git-upload-pack-advertisement\r\n\r\n";

const PACK_HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\
    Content-Type: application/x-git-upload-pack-result\r\n\r\n";

/// Without end.
fn again_and_again(out: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    loop {
        out.write_all(bytes)?;
    }
}

/// Answers with one ref, or begins to answer with a pack; is it a pack?
fn begins_pack(head: &str, out: &mut TcpStream) -> std::io::Result<bool> {
    if head.contains("info/refs") {
        return refs_of_one(out).map(|()| false);
    }
    out.write_all(PACK_HEAD)?;
    out.write_all(b"8\r\n0008NAK\n\r\n")?;
    Ok(true)
}

fn refs_of_one(out: &mut TcpStream) -> io::Result<()> {
    let body = advertisement(&[(&"1".repeat(40), "refs/heads/main")]);
    answer(out, "application/x-git-upload-pack-advertisement", &body)
}

/// Refs named by `name`, so many bytes of them.
fn refs_without_end(
    out: &mut TcpStream,
    tip: &str,
    name: impl Fn(u64) -> String,
    bytes: u64,
) -> io::Result<()> {
    let send = |out: &mut TcpStream, bytes: &[u8]| {
        write!(out, "{:x}\r\n", bytes.len())?;
        out.write_all(bytes)?;
        out.write_all(b"\r\n")
    };
    out.write_all(SMART_HEAD)?;
    send(out, b"001e# service=git-upload-pack\n0000")?;
    send(out, &packet(format!("{tip} {}\0 side-band-64k ofs-delta\n", name(0)).as_bytes()))?;
    let (mut sent, mut number) = (0, 1);
    while sent < bytes {
        let mut many = Vec::with_capacity(70_000);
        while many.len() < 65_000 {
            many.extend(packet(format!("{tip} {}\n", name(number)).as_bytes()));
            number += 1;
        }
        send(out, &many)?;
        sent += many.len() as u64;
    }
    send(out, b"0000")?;
    out.write_all(b"0\r\n\r\n")
}

/// A pack whose deltas make `each` bytes, so many of them.
fn bomb(each: u64, count: u32) -> (Vec<u8>, String) {
    with_objects(|pack: &mut PackBuilder| {
        let base = pack.blob(&[b'x'; 65536]);
        for number in 0..count {
            let mut steps = insert(&number.to_be_bytes());
            // 65,536 bytes for a byte of instructions, and after a few thousand they end too soon.
            (0..200).for_each(|_| steps.extend(copy(0, 65536)));
            pack.ofs_delta(base, &raw_delta(65536, each, &steps));
        }
    })
}

#[test]
fn nothing_grows_beyond_the_memory_it_was_given() {
    try_all(&[
        Attack {
            name: "source: a gigabyte of refs",
            begin: |lab| {
                lab.mirror(|_: &str, out: &mut TcpStream| {
                    refs_without_end(
                        out,
                        &"1".repeat(40),
                        |n| format!("refs/heads/{n:08}"),
                        1 << 30,
                    )
                });
            },
            exit: 1,
            says: "--memory",
            seconds: 120,
        },
        Attack {
            name: "source: as many refs with invalid names",
            begin: |lab| {
                lab.mirror(|_: &str, out: &mut TcpStream| {
                    refs_without_end(
                        out,
                        &"1".repeat(40),
                        |n| format!("refs/heads/../{n}"),
                        9 * MIB - (64 << 10),
                    )
                });
            },
            exit: 0,
            says: "such refs",
            seconds: 120,
        },
        Attack {
            name: "source: a delta that claims 10 GiB",
            begin: |lab| {
                let (pack, tip) = bomb(10 << 30, 1);
                lab.mirror(serve_pack(pack, tip));
            },
            exit: 13,
            says: "decompression bomb",
            seconds: 20,
        },
        Attack {
            name: "source: deltas that claim a petabyte",
            begin: |lab| {
                let (pack, tip) = bomb(1 << 30, 2000);
                lab.mirror(serve_pack(pack, tip));
            },
            exit: 13,
            says: "decompression bomb",
            seconds: 60,
        },
        Attack {
            name: "source: a chain of deltas that each make four times their base",
            begin: |lab| {
                let (pack, tip) = growing_chain();
                lab.mirror(serve_pack(pack, tip));
            },
            exit: 13,
            says: "decompression bomb",
            seconds: 60,
        },
        Attack {
            name: "source: an object larger than --max-object-size",
            begin: |lab| {
                let (pack, tip) = small_repository(&[7; 5000]);
                lab.mirror(serve_pack(pack, tip));
                lab.options(&["--max-object-size", "4k"]);
            },
            exit: 13,
            says: "an object of 5000 bytes, more than --max-object-size 4096",
            seconds: 20,
        },
        Attack {
            name: "source: one object eight hundred thousand times",
            begin: |lab| {
                let (pack, tip) = with_objects(|pack| {
                    (0..800_000).for_each(|_| {
                        pack.blob(b"the same");
                    });
                });
                lab.mirror(serve_pack(pack, tip));
            },
            exit: 0,
            says: "",
            seconds: 120,
        },
        Attack {
            name: "bucket: an index of 3 GiB of zeros",
            begin: |lab| {
                lab.standing("pack");
                lab.zeros(".idx", 3 << 30);
            },
            exit: 1,
            says: ".idx",
            seconds: 60,
        },
        Attack {
            name: "bucket: verify of an index of 3 GiB of zeros",
            begin: |lab| {
                lab.standing("pack");
                lab.zeros(".idx", 3 << 30);
                lab.verify();
            },
            exit: 1,
            says: ".idx: it has 3221225472 bytes, but the index of a pack of",
            seconds: 60,
        },
        Attack {
            name: "bucket: verify of a missing pack's index of 3 GiB of zeros",
            begin: |lab| {
                lab.standing("pack");
                lab.zeros(".idx", 3 << 30);
                lab.remove(".pack");
                lab.verify();
            },
            exit: 1,
            says: ".idx: it has 3221225472 bytes, more than --memory",
            seconds: 60,
        },
        Attack {
            name: "bucket: verify of a pack and an index of 3 GiB of zeros each",
            begin: |lab| {
                lab.standing("pack");
                lab.zeros(".idx", 3 << 30);
                lab.zeros(".pack", 3 << 30);
                lab.verify();
            },
            exit: 1,
            says: ".pack: ",
            seconds: 60,
        },
        Attack {
            name: "bucket: refs of 250 MiB",
            begin: huge_refs,
            exit: 1,
            says: "info/refs",
            seconds: 60,
        },
        Attack {
            name: "bucket: refs of 250 MiB, to verify",
            begin: |lab| {
                huge_refs(lab);
                lab.verify();
            },
            exit: 1,
            says: "info/refs",
            seconds: 60,
        },
        Attack {
            name: "bucket: refs of 250 MiB, to gc",
            begin: |lab| {
                huge_refs(lab);
                lab.gc();
            },
            exit: 1,
            says: "info/refs",
            seconds: 60,
        },
        Attack {
            name: "bucket: refs of 250 MiB, to --full",
            begin: |lab| {
                huge_refs(lab);
                lab.options(&["--full"]);
            },
            exit: 1,
            says: "info/refs",
            seconds: 60,
        },
        Attack {
            name: "bucket: refs of 250 MiB of a mirror that is copied",
            begin: |lab| {
                huge_refs(lab);
                let (source, target) = (lab.target(), format!("{}.copy", lab.target()));
                lab.command = program::program(lab.path());
                let source = format!("mirror:{source}");
                lab.options(&["--source", &source, "--target", &target]);
            },
            exit: 1,
            says: "info/refs",
            seconds: 60,
        },
        Attack {
            name: "bucket: a publication of 250 MiB, to restore",
            begin: |lab| {
                huge_publication(lab);
                lab.maintain("restore");
                lab.options(&["--at", "20260101T000000Z"]);
            },
            exit: 1,
            says: "more than --memory 64 allows",
            seconds: 60,
        },
        Attack {
            name: "bucket: a publication of 250 MiB, to refs",
            begin: |lab| {
                huge_publication(lab);
                lab.maintain("refs");
            },
            exit: 1,
            says: "more than --memory 64 allows",
            seconds: 60,
        },
        Attack {
            name: "bucket: a publication of 250 MiB, to verify",
            begin: |lab| {
                huge_publication(lab);
                lab.verify();
            },
            exit: 1,
            says: "more than --memory 64 allows",
            seconds: 60,
        },
        Attack {
            name: "bucket: a publication of 250 MiB, to gc",
            begin: |lab| {
                huge_publication(lab);
                lab.gc();
            },
            exit: 1,
            says: "more than --memory 64 allows",
            seconds: 60,
        },
        Attack {
            name: "bucket: a note of 63 MiB of replaced packs",
            begin: |lab| {
                lab.standing("pack");
                replaced_packs(lab, 1, 63 * MIB);
                lab.gc();
            },
            exit: 1,
            says: "mirror_state/replaced/",
            seconds: 60,
        },
        Attack {
            name: "bucket: ten notes that are as large as they may be",
            begin: |lab| {
                lab.standing("pack");
                replaced_packs(lab, 10, 4 * MIB - 100);
                lab.gc();
            },
            exit: 1,
            says: "the notes of replaced packs have more than",
            seconds: 60,
        },
        Attack {
            name: "bucket: a HEAD of 200 MiB",
            begin: |lab| {
                lab.standing("loose");
                lab.zeros("HEAD", 200 * MIB);
            },
            exit: 1,
            says: "HEAD",
            seconds: 60,
        },
        Attack {
            name: "bucket: forty publications that are as large as they may be",
            begin: |lab| {
                lab.standing("loose");
                for n in 10..50 {
                    publication(lab, n, 9 * MIB - (64 << 10));
                }
                lab.verify();
            },
            exit: 1,
            says: "past publications name more objects than --memory 64 allows",
            seconds: 60,
        },
        Attack {
            name: "bucket: loose trees of 40 MiB, to verify",
            begin: |lab| {
                loose_trees(lab, 4, 1_400_000, |_| 1);
                lab.verify();
            },
            exit: 1,
            says: "missing",
            seconds: 60,
        },
        Attack {
            name: "bucket: loose trees of 40 MiB, to gc",
            begin: |lab| {
                loose_trees(lab, 4, 1_400_000, |_| 1);
                lab.gc();
            },
            exit: 0,
            says: "",
            seconds: 60,
        },
        Attack {
            name: "bucket: loose trees of 17 MiB with a million names of missing objects, to verify",
            begin: |lab| {
                loose_trees(lab, 2, 500_000, |n| n);
                lab.verify();
            },
            exit: 1,
            says: "missing",
            seconds: 60,
        },
        Attack {
            name: "bucket: large trees that call other large trees files, to verify",
            begin: |lab| {
                misnamed_trees(lab);
                lab.verify();
                lab.options(&["--memory", "8", "--concurrency", "4"]);
            },
            exit: 1,
            says: "missing",
            seconds: 60,
        },
        Attack {
            name: "source: as many refs as are let in",
            begin: |lab| {
                let (pack, tip) = small_repository(b"content");
                let git = serve_pack(pack, tip.clone());
                lab.mirror(move |head: &str, out: &mut TcpStream| {
                    if !head.contains("/info/refs") {
                        return git(head, out);
                    }
                    let name = |n: u64| format!("refs/heads/{n:08}");
                    refs_without_end(out, &tip, name, 9 * MIB - (64 << 10))
                });
            },
            exit: 0,
            says: "",
            seconds: 60,
        },
        Attack {
            name: "bucket: 3 GiB of missing LFS objects",
            begin: |lab| {
                let (pack, tip) = small_repository(b"content");
                lab.mirror(serve_pack(pack, tip));
                let state = lab.path().join("mirror.git/mirror_state");
                std::fs::create_dir_all(&state).unwrap();
                std::fs::File::create(state.join("lfs-lacking")).unwrap().set_len(3 << 30).unwrap();
            },
            exit: 1,
            says: "lfs-lacking",
            seconds: 60,
        },
        Attack {
            name: "bucket: millions of lines that name no LFS objects",
            begin: |lab| {
                let (pack, tip) = small_repository(b"content");
                lab.mirror(serve_pack(pack, tip));
                let state = lab.path().join("mirror.git/mirror_state");
                std::fs::create_dir_all(&state).unwrap();
                std::fs::write(state.join("lfs-lacking"), vec![b'\n'; 20 << 20]).unwrap();
            },
            exit: 0,
            says: "lines are not an object ID and a size",
            seconds: 60,
        },
        Attack {
            name: "bucket: does not exist, in a dry run",
            begin: |lab| {
                lab.options(&["-n"]);
                lab.store(|_: &str, out: &mut TcpStream| {
                    let body = "<Error><Code>NoSuchBucket</Code><Message>none</Message></Error>";
                    write!(
                        out,
                        "HTTP/1.1 404 Not Found\r\nContent-Length: {}\r\n\r\n{body}",
                        body.len()
                    )
                });
            },
            exit: 1,
            says: "does not exist: create it",
            seconds: 20,
        },
        Attack {
            name: "store: a listing of ever new keys",
            begin: |lab| {
                lab.store(|head: &str, out: &mut TcpStream| {
                    if !head.contains("list-type=2") {
                        return out
                            .write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
                    }
                    let word = |name: &str| {
                        let rest = head.split_once(name).map_or("", |(_, rest)| rest);
                        rest.split(['&', ' ']).next().unwrap_or_default().replace("%2F", "/")
                    };
                    let (prefix, page) = (word("prefix="), word("continuation-token="));
                    let page: u64 = page.parse().unwrap_or(0);
                    let keys: String = (page * 1000..page * 1000 + 1000)
                        .map(|key| {
                            format!(
                                "<Contents><Key>{prefix}{key:020}</Key><LastModified>\
                                 2026-01-01T00:00:00.000Z</LastModified><Size>1</Size></Contents>"
                            )
                        })
                        .collect();
                    let body = format!(
                        "<ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken>{}\
                         </NextContinuationToken>{keys}</ListBucketResult>",
                        page + 1
                    );
                    answer(out, "application/xml", body.as_bytes())
                });
            },
            exit: 1,
            says: "more than 1000000 entries and no end",
            seconds: 120,
        },
        Attack {
            name: "source: a bundle of refs without end",
            begin: |lab| {
                bundle_without_end(lab, |number| format!("{number:040x} refs/heads/{number}"))
            },
            exit: 1,
            says: "more than --memory allows",
            seconds: 60,
        },
        Attack {
            name: "source: a bundle that needs commits without end",
            begin: |lab| bundle_without_end(lab, |number| format!("-{number:040x} subject")),
            exit: 1,
            says: "more than --memory allows",
            seconds: 60,
        },
        Attack {
            name: "source: acknowledgments without end",
            begin: |lab| {
                let (_, tip) = small_repository(b"content");
                lab.mirror(serve_v2(tip, |out: &mut TcpStream| {
                    out.write_all(&packet(b"acknowledgments\n"))?;
                    again_and_again(out, &packet(b"NAK\n").repeat(1000))
                }));
            },
            exit: 1,
            says: "before the pack",
            seconds: 60,
        },
        Attack {
            name: "source: commits where history is cut, without end",
            begin: |lab| {
                let (_, tip) = small_repository(b"content");
                lab.options(&["--layout", "pack", "--slices"]);
                lab.mirror(serve_v2(tip.clone(), move |out: &mut TcpStream| {
                    out.write_all(&packet(b"shallow-info\n"))?;
                    again_and_again(
                        out,
                        &packet(format!("shallow {tip}\n").as_bytes()).repeat(1000),
                    )
                }));
            },
            exit: 1,
            says: "before the pack",
            seconds: 60,
        },
        Attack {
            name: "source: acknowledgments of version 0 without end",
            begin: |lab| {
                lab.mirror(|head: &str, out: &mut TcpStream| {
                    if !begins_pack(head, out)? {
                        return Ok(());
                    }
                    let many = packet(b"NAK\n").repeat(1000);
                    let len = format!("{:x}\r\n", many.len());
                    again_and_again(out, &[len.as_bytes(), &many, b"\r\n"].concat())
                });
            },
            exit: 1,
            says: "endless acknowledgments",
            seconds: 60,
        },
        Attack {
            name: "source: an object of empty blocks without end",
            begin: |lab| {
                let tip = small_repository(b"content").1;
                lab.mirror(serve_v2(tip, |out: &mut TcpStream| {
                    out.write_all(&packet(b"packfile\n"))?;
                    let begin = b"\x01PACK\0\0\0\x02\0\0\0\x01\x33\x78\x9c";
                    out.write_all(&packet(begin))?;
                    let empty = [&b"\x01"[..], &b"\0\0\0\xff\xff".repeat(10_000)].concat();
                    let empty = packet(&empty);
                    again_and_again(out, &empty)
                }));
            },
            exit: 1,
            says: "endless blocks that inflate to nothing",
            seconds: 60,
        },
        Attack {
            name: "source: trailers without end",
            begin: |lab| {
                lab.options(&SLOW);
                lab.mirror(|head: &str, out: &mut TcpStream| {
                    if !begins_pack(head, out)? {
                        return Ok(());
                    }
                    let packets = [packet(b"NAK\n"), b"0000".to_vec()].concat();
                    write!(out, "{:x}\r\n", packets.len())?;
                    out.write_all(&packets)?;
                    out.write_all(b"\r\n0\r\n")?;
                    again_and_again(out, b"X-Trailer: more\r\n")
                });
            },
            exit: 1,
            says: "pack",
            seconds: 60,
        },
        Attack {
            name: "store: a listing that is circular",
            begin: |lab| {
                lab.store(|head: &str, out: &mut TcpStream| {
                    if !head.contains("list-type=2") {
                        return out
                            .write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
                    }
                    let next = if head.contains("continuation-token=A") { "B" } else { "A" };
                    let body = format!(
                        "<ListBucketResult><Name>bucket</Name><Prefix></Prefix><MaxKeys>1000\
                         </MaxKeys><IsTruncated>true</IsTruncated><NextContinuationToken>{next}\
                         </NextContinuationToken></ListBucketResult>"
                    );
                    answer(out, "application/xml", body.as_bytes())
                });
            },
            exit: 1,
            says: "listing",
            seconds: 30,
        },
    ]);
}

/// A bundle on standard input whose header has a line for each number.
fn bundle_without_end(lab: &mut Lab, line: fn(u64) -> String) {
    let (input, mut output) = io::pipe().unwrap();
    std::thread::spawn(move || {
        output.write_all(b"# v2 git bundle\n")?;
        for number in (1..).step_by(1000) {
            let lines: String = (number..number + 1000).map(|n| line(n) + "\n").collect();
            output.write_all(lines.as_bytes())?;
        }
        Ok::<_, io::Error>(())
    });
    let target = lab.target();
    lab.command.args(["--source", "-", "--target", &target]).stdin(input);
}

/// A source with an LFS object that its server says is at `href`.
fn lfs_at(lab: &mut Lab, href: &'static str) {
    let oid = "11".repeat(32);
    let pointer =
        format!("version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize 10\n");
    let (pack, tip) = small_repository(pointer.as_bytes());
    let git = serve_pack(pack, tip);
    lab.mirror(move |head: &str, out: &mut TcpStream| {
        if head.contains("/objects/batch") {
            let body = format!(
                r#"{{"objects":[{{"oid":"{oid}","size":10,"actions":
                {{"download":{{"href":"{href}"}}}}}}]}}"#
            );
            return answer(out, "application/vnd.git-lfs+json", body.as_bytes());
        }
        git(head, out)
    });
}

#[test]
fn requests_and_logins_go_nowhere_that_the_user_has_not_named() {
    try_all(&[
        Attack {
            name: "source: its LFS server names the cloud's metadata",
            begin: |lab| lfs_at(lab, "http://169.254.169.254/latest/meta-data/"),
            exit: 4,
            says: "169.254.169.254, in a private network or on this machine",
            seconds: 20,
        },
        Attack {
            name: "source: its LFS server names the metadata in other clothes",
            begin: |lab| lfs_at(lab, "http://[::ffff:a9fe:a9fe]/latest/meta-data/"),
            exit: 4,
            says: "in a private network or on this machine",
            seconds: 20,
        },
        Attack {
            name: "source: its LFS server names AWS's metadata by IPv6",
            begin: |lab| lfs_at(lab, "http://[fd00:ec2::254]/latest/meta-data/"),
            exit: 4,
            says: "in a private network or on this machine",
            seconds: 20,
        },
        Attack {
            name: "source: its LFS server names a URL with backslashes",
            begin: |lab| lfs_at(lab, r"http:\\\\10.0.0.1\\x"),
            exit: 4,
            says: "backslash",
            seconds: 20,
        },
        Attack {
            name: "source: redirects to another host",
            begin: |lab| {
                lab.mirror(|_: &str, out: &mut TcpStream| {
                    out.write_all(
                        b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\
                          Location: http://169.254.169.254/r.git/info/refs\r\n\r\n",
                    )
                });
            },
            exit: 1,
            says: "--allow-redirect-host",
            seconds: 20,
        },
        Attack {
            name: "source: redirects with a backslash",
            begin: |lab| {
                lab.mirror(|_: &str, out: &mut TcpStream| {
                    out.write_all(
                        b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: /\\evil/\r\n\r\n",
                    )
                });
            },
            exit: 1,
            says: "backslash",
            seconds: 20,
        },
        Attack {
            name: "machine: a header file for one host, and sources on two",
            begin: |lab| {
                let file = lab.path().join("headers");
                std::fs::write(&file, "Authorization: Bearer hush\n").unwrap();
                let pairs = "https://a.example/r file:///nowhere/a\n\
                             https://b.example/r file:///nowhere/b\n";
                let manifest = lab.path().join("manifest");
                std::fs::write(&manifest, pairs).unwrap();
                let [file, manifest] = [file, manifest].map(|path| path.display().to_string());
                lab.options(&["--manifest", &manifest, "--source-header-file", &file]);
            },
            exit: 2,
            says: "such as [https://a.example/]",
            seconds: 20,
        },
    ]);
}

/// Makes a FIFO.
fn fifo(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

/// The temporary folder of the target, with something in it that others have planted.
fn planted(lab: &mut Lab, name: &str, plant: impl FnOnce(&Path)) {
    let (pack, tip) = small_repository(b"content");
    lab.mirror(serve_pack(pack, tip));
    let path = lab.path().join("mirror.git").join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    plant(&path);
}

#[test]
fn what_others_have_planted_is_neither_followed_nor_waited_for() {
    try_all(&[
        Attack {
            name: "machine: a FIFO as the lock",
            begin: |lab| planted(lab, "mirror_tmp/.partial/lock", fifo),
            exit: 1,
            says: "cannot put",
            seconds: 20,
        },
        Attack {
            name: "machine: a link as the lock",
            begin: |lab| {
                let victim = lab.path().join("victim");
                std::fs::write(&victim, "precious").unwrap();
                planted(lab, "mirror_tmp/.partial/lock", |path| {
                    std::os::unix::fs::symlink(&victim, path).unwrap();
                });
            },
            exit: 1,
            says: "cannot put",
            seconds: 20,
        },
        Attack {
            name: "machine: a link as the temporary folder",
            begin: |lab| {
                let elsewhere = lab.path().join("elsewhere");
                std::fs::create_dir(&elsewhere).unwrap();
                planted(lab, "mirror_tmp", |path| {
                    std::os::unix::fs::symlink(&elsewhere, path).unwrap();
                });
            },
            exit: 1,
            says: "mirror_tmp is not a directory",
            seconds: 20,
        },
        Attack {
            name: "machine: a FIFO as info/refs",
            begin: |lab| planted(lab, "info/refs", fifo),
            exit: 1,
            says: "is not a regular file",
            seconds: 20,
        },
        Attack {
            name: "machine: a metrics file that cannot be written",
            begin: |lab| {
                let (pack, tip) = small_repository(b"content");
                lab.mirror(serve_pack(pack, tip));
                lab.options(&["--metrics-file", "/proc/none/metrics.prom"]);
            },
            exit: 2,
            says: "cannot write the metrics file",
            seconds: 20,
        },
    ]);
}

/// A mirror whose refs are 250 MiB.
fn huge_refs(lab: &mut Lab) {
    lab.standing("loose");
    let line = format!("{}\trefs/heads/{}\n", "1".repeat(40), "x".repeat(200));
    let mut text = Vec::new();
    (0..(250 * MIB / (line.len() as u64 + 7))).for_each(|n| {
        text.extend(line.replace("/x", &format!("/{n:08}")).into_bytes());
    });
    std::fs::write(lab.path().join("mirror.git/info/refs"), text).unwrap();
}

/// A mirror of which a publication of 250 MiB is kept, which was not written by this program.
fn huge_publication(lab: &mut Lab) {
    lab.standing("loose");
    publication(lab, 1, 250 * MIB);
}

/// Notes that so many packs have replaced others, each note of so many bytes.
fn replaced_packs(lab: &Lab, notes: u64, bytes: u64) {
    let folder = lab.path().join("mirror.git/mirror_state/replaced");
    std::fs::create_dir_all(&folder).unwrap();
    for note in 0..notes {
        let line = |n: u64| format!("pack-{note:08x}{n:032x}\n");
        let names: String = (0..bytes / line(0).len() as u64).map(line).collect();
        std::fs::write(folder.join(format!("pack-{note:040x}")), names).unwrap();
    }
}

/// Writes the `number`th past publication, of so many bytes of refs, each to an object of its own.
fn publication(lab: &Lab, number: u32, bytes: u64) {
    let mut rest = b"\n".to_vec();
    for n in 0.. {
        let line = format!("{number:08x}{n:032x}\trefs/heads/{n:08}\n");
        if (rest.len() + line.len()) as u64 > bytes {
            break;
        }
        rest.extend(line.into_bytes());
    }
    let sum: String = Sha256::digest(&rest).iter().map(|byte| format!("{byte:02x}")).collect();
    let mut file = format!("mirror-git-to-s3 refs 1 {sum}\n").into_bytes();
    file.append(&mut rest);
    let folder = lab.path().join("mirror.git/mirror_state/refs");
    std::fs::create_dir_all(&folder).unwrap();
    let name = format!("20260101T{:02}{:02}00Z", number / 60, number % 60);
    let name = if number == 1 { "20260101T000000Z".to_owned() } else { name };
    std::fs::write(folder.join(name), file).unwrap();
}

/// A mirror with so many trees, each of `entries` files whose objects are missing. `object` says which
/// they are.
fn loose_trees(lab: &mut Lab, trees: u64, entries: u64, object: impl Fn(u64) -> u64) {
    let trees: Vec<Vec<u8>> = (0..trees)
        .map(|tree| files((0..entries).map(|n| missing(object(tree * entries + n)))))
        .collect();
    mirror_trees(lab, &trees, &trees);
}

/// A mirror with trees of 2.6 MiB, whose files are trees of 1 MiB, between as many missing objects as
/// a queue holds and more: `--memory 8` is enough for three of the former, and for none of the latter
/// beside them.
fn misnamed_trees(lab: &mut Lab) {
    let called_files: Vec<Vec<u8>> = (0..40)
        .map(|tree| files((0..28_000).map(|n| missing(((n % 100 + 1) << 40) | (tree << 20)))))
        .collect();
    let trees: Vec<Vec<u8>> = (0..6)
        .map(|tree| {
            files((0..76_000).map(|n| match n % 1900 {
                0 => oid("tree", &called_files[(n / 1900) as usize]),
                _ => missing((tree << 20) | n),
            }))
        })
        .collect();
    let all = [&trees[..], &called_files[..]].concat();
    mirror_trees(lab, &trees, &all);
}

/// The oid of an object that is nowhere.
fn missing(number: u64) -> [u8; 20] {
    let mut oid = [7; 20];
    oid[..8].copy_from_slice(&number.to_le_bytes());
    oid
}

/// A tree of files.
fn files(objects: impl Iterator<Item = [u8; 20]>) -> Vec<u8> {
    let entry =
        |(n, oid): (usize, [u8; 20])| [format!("100644 {n:07}\0").as_bytes(), &oid].concat();
    objects.enumerate().flat_map(entry).collect()
}

/// A mirror in the loose layout of one commit, whose tree holds `trees`, and of `stored`.
fn mirror_trees(lab: &mut Lab, trees: &[Vec<u8>], stored: &[Vec<u8>]) {
    let entry = |(n, tree): (usize, &Vec<u8>)| {
        [format!("40000 {n:03}\0").as_bytes(), &oid("tree", tree)].concat()
    };
    let root: Vec<u8> = trees.iter().enumerate().flat_map(entry).collect();
    let hex: String = oid("tree", &root).iter().map(|byte| format!("{byte:02x}")).collect();
    let commit = format!("tree {hex}\nauthor A <a@b> 1 +0000\ncommitter A <a@b> 1 +0000\n\nm\n");
    let tip: String =
        oid("commit", commit.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    let mut pack = PackBuilder::new();
    pack.level(1);
    pack.object(1, commit.as_bytes());
    pack.object(2, &root);
    for tree in stored {
        pack.object(2, tree);
    }
    let source = format!("{}/r.git", lab.serve(serve_pack(pack.build(), tip)));
    let target = lab.target();
    let pair = ["--source", &source, "--target", &target, "--layout", "loose"];
    let first = program::program(lab.path()).args(pair).output().unwrap();
    assert!(first.status.success(), "{first:?}");
}

/// A pack of some KB whose last object has 16 GiB.
fn growing_chain() -> (Vec<u8>, String) {
    with_objects(|pack: &mut PackBuilder| {
        let mut len = 65_535;
        let mut base = pack.blob(&vec![7; len]);
        for _ in 0..9 {
            // The same instruction again and again, which deflate makes next to nothing of.
            let steps = copy(0, 65_535).repeat(4 * (len / 65_535));
            base = pack.ofs_delta(base, &raw_delta(len as u64, 4 * len as u64, &steps));
            len *= 4;
        }
    })
}
