//! The program behind a private CA and behind proxies, and where nobody has credentials for it.
//!
//! The source is the real `git http-backend`, the store a real S3 server, both on loopback. Every
//! run starts with a clean environment, so that nothing of this machine's own helps.

use crate::support::{git_http, local_git, network, program, s3_server};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use git_http::{Canned, GitHttp, StaticHttp};
use local_git::{Repo, assert_same_repository};
use network::{Ca, Proxy, TlsFront};
use s3_server::S3Server;

/// A source and a store, each with and without TLS.
struct World {
    repo: Repo,
    dir: tempfile::TempDir,
    git: GitHttp,
    s3: S3Server,
    /// The CA of both, and another one.
    ca: Ca,
    git_tls: TlsFront,
    s3_tls: TlsFront,
}

impl World {
    fn new() -> World {
        let repo = Repo::new();
        repo.commit("refs/heads/main", &[("file", b"content\n")]);
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("s3/bucket")).unwrap();
        let git = GitHttp::start(repo.path(), git_http::Options::default());
        let s3 = S3Server::start(dir.path().join("s3"));
        let ca = Ca::new();
        let git_tls = TlsFront::start(&ca, &["localhost", "git.test"], &git.url());
        let s3_tls = TlsFront::start(&ca, &["localhost", "s3.test"], &s3.endpoint());
        let world = World { repo, dir, git, s3, ca, git_tls, s3_tls };
        std::fs::write(world.file("ca.pem"), world.ca.pem()).unwrap();
        std::fs::write(world.file("other.pem"), Ca::new().pem()).unwrap();
        world
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn source(&self, tls: bool) -> String {
        if tls { format!("https://localhost:{}/", self.git_tls.port()) } else { self.git.url() }
    }

    fn endpoint(&self, tls: bool) -> String {
        if tls { format!("https://localhost:{}", self.s3_tls.port()) } else { self.s3.endpoint() }
    }

    /// A mirror from a source to an S3 endpoint.
    fn mirror(&self, source: &str, endpoint: &str) -> Command {
        let mut command = program::program(self.dir.path());
        command
            .args(["--source", source, "--target", "s3://bucket/prefix"])
            .args(["--endpoint-url", endpoint])
            .env("AWS_ACCESS_KEY_ID", &self.s3.access_key)
            .env("AWS_SECRET_ACCESS_KEY", &self.s3.secret_key);
        command
    }

    /// The mirror is what the source is; the next one begins with nothing.
    fn assert_mirrored_and_forget(&self, what: &str) {
        let mirror = self.file("s3/bucket/prefix");
        assert!(mirror.join("info/refs").is_file(), "{what}: nothing was published");
        let (server, copy) = (StaticHttp::start(&mirror), tempfile::tempdir().unwrap());
        local_git::run(
            local_git::git(copy.path()).args(["clone", "-q", "--mirror", &server.url(), "."]),
            b"",
        );
        assert_same_repository(self.repo.path(), copy.path());
        std::fs::remove_dir_all(mirror).unwrap();
    }
}

fn words(out: &Output) -> String {
    String::from_utf8_lossy(&[&out.stdout[..], &out.stderr[..]].concat()).into_owned()
}

/// Runs to the end; the exit code must be `code`.
fn run(command: &mut Command, code: i32, what: &str) -> String {
    let out = command.output().unwrap();
    assert_eq!(out.status.code(), Some(code), "{what}: {}", words(&out));
    words(&out)
}

#[test]
fn an_untrusted_certificate_says_so_and_how_to_trust_it() {
    let world = World::new();
    for (what, tls) in [("source", (true, false)), ("store", (false, true))] {
        let mut command = world.mirror(&world.source(tls.0), &world.endpoint(tls.1));
        let text = run(&mut command, 1, what);
        assert!(text.contains("signed by an authority that is not trusted here"), "{text}");
        assert!(text.contains("trust it with --ca-bundle FILE"), "{text}");
    }
}

#[test]
fn each_way_to_trust_a_private_ca_serves_source_and_store() {
    let world = World::new();
    let (source, endpoint) = (world.source(true), world.endpoint(true));
    let ca = world.file("ca.pem");
    for variable in ["AWS_CA_BUNDLE", "SSL_CERT_FILE", "GIT_SSL_CAINFO"] {
        run(world.mirror(&source, &endpoint).env(variable, &ca), 0, variable);
        world.assert_mirrored_and_forget(variable);
    }
    run(world.mirror(&source, &endpoint).arg("--ca-bundle").arg(&ca), 0, "--ca-bundle");
    world.assert_mirrored_and_forget("--ca-bundle");
    // None stands in another's way, and SSL_CERT_FILE alone replaces the system's roots.
    let other = world.file("other.pem");
    let mut all = world.mirror(&source, &endpoint);
    all.arg("--ca-bundle").arg(&other).env("AWS_CA_BUNDLE", &other).env("GIT_SSL_CAINFO", &ca);
    run(all.env("SSL_CERT_FILE", &other), 0, "all of them");
    world.assert_mirrored_and_forget("all of them");
}

#[test]
fn a_variable_that_names_no_file_is_a_warning_and_a_flag_is_a_usage_error() {
    let world = World::new();
    let (source, endpoint) = (world.source(false), world.endpoint(false));
    let text = run(world.mirror(&source, &endpoint).env("AWS_CA_BUNDLE", "/nowhere.pem"), 0, "env");
    assert!(text.contains("AWS_CA_BUNDLE in /nowhere.pem"), "{text}");
    let text = run(world.mirror(&source, &endpoint).args(["--ca-bundle", "/nowhere.pem"]), 2, "");
    assert!(text.contains("--ca-bundle in /nowhere.pem"), "{text}");
}

#[test]
fn a_certificate_for_another_host_is_named_as_such() {
    let world = World::new();
    let source = world.source(true).replace("localhost", "127.0.0.1");
    let mut command = world.mirror(&source, &world.endpoint(false));
    let text = run(command.arg("--ca-bundle").arg(world.file("ca.pem")), 1, "another host");
    assert!(text.contains("certificate is for another host"), "{text}");
}

#[test]
fn proxies_go_by_scheme_resolve_the_names_and_no_proxy_goes_round_them() {
    let world = World::new();
    let (for_http, for_https) = (Proxy::start(None), Proxy::start(None));
    // Names that only the proxies know.
    let port = world.git.url().rsplit_once(':').unwrap().1.to_owned();
    let source = format!("http://git.test:{port}/");
    let endpoint = format!("https://s3.test:{}", world.s3_tls.port());
    let mirror = |source: &str, endpoint: &str| {
        let mut command = world.mirror(source, endpoint);
        command
            .env("HTTP_PROXY", format!("http://{}", for_http.address()))
            .env("https_proxy", for_https.address())
            .arg("--ca-bundle")
            .arg(world.file("ca.pem"));
        command
    };
    run(&mut mirror(&source, &endpoint), 0, "by scheme");
    world.assert_mirrored_and_forget("by scheme");
    let (plain, tunnels) = (for_http.seen(), for_https.seen());
    assert!(!plain.is_empty() && plain.iter().all(|at| at == &format!("git.test:{port}")));
    let store = format!("s3.test:{}", world.s3_tls.port());
    assert!(!tunnels.is_empty() && tunnels.iter().all(|at| at == &store), "{tunnels:?}");

    // 127.0.0.1 by its block, localhost by its name.
    let mut round = mirror(&world.source(false), &world.endpoint(true));
    run(round.env("NO_PROXY", "corp.example, 127.0.0.0/8 localhost"), 0, "NO_PROXY");
    world.assert_mirrored_and_forget("NO_PROXY");
    assert_eq!((for_http.seen(), for_https.seen()), (plain, tunnels));

    let all = Proxy::start(None);
    let mut command = world.mirror(&source, &endpoint);
    command.arg("--ca-bundle").arg(world.file("ca.pem"));
    run(command.env("ALL_PROXY", format!("http://{}", all.address())), 0, "ALL_PROXY");
    world.assert_mirrored_and_forget("ALL_PROXY");
    let seen = all.seen();
    assert!(seen.iter().any(|at| at.starts_with("git.test:")), "{seen:?}");
    assert!(seen.iter().any(|at| at.starts_with("s3.test:")), "{seen:?}");
}

#[test]
fn a_proxys_login_goes_to_the_proxy_alone_and_is_printed_nowhere() {
    let world = World::new();
    let proxy = Proxy::start(Some("Basic dXNAZXI6cDpodXNo")); // us@er:p:hush
    let at = |login: &str| format!("http://{login}{}", proxy.address());
    let mirror = |proxy: &str| {
        let mut command = world.mirror(&world.source(false), &world.endpoint(false));
        command.env("ALL_PROXY", proxy).env("RUST_LOG", "trace").args(["-vv", "--json"]);
        command
    };
    let text = run(&mut mirror(&at("us%40er:p%3Ahush@")), 0, "a good login");
    world.assert_mirrored_and_forget("a good login");
    for secret in ["hush", "dXNAZXI6cDpodXNo"] {
        assert!(!text.contains(secret), "{text}");
    }
    let store = world.s3.seen_with_headers();
    assert!(store.iter().all(|(_, headers)| !headers.contains_key("proxy-authorization")));
    let source = world.git.seen();
    assert!(source.iter().all(|seen| seen.header("proxy-authorization").is_none()));

    let before = proxy.seen().len();
    for login in ["", "us%40er:hush-wrong@"] {
        let text = run(&mut mirror(&at(login)), 12, "refused");
        assert!(
            text.contains("the proxy requires authentication") && text.contains("HTTP_PROXY"),
            "{text}"
        );
        assert!(!text.contains("hush"), "{text}");
    }
    assert_eq!(proxy.seen().len(), before + 2, "a refusal is not tried again");
}

#[test]
fn without_credentials_a_run_ends_within_5_seconds_though_metadata_hangs() {
    let world = World::new();
    // It takes connections and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let begun = Instant::now();
    let mut command = world.mirror(&world.source(false), &world.endpoint(false));
    command
        .env_remove("AWS_ACCESS_KEY_ID")
        .env_remove("AWS_SECRET_ACCESS_KEY")
        .env_remove("AWS_EC2_METADATA_DISABLED")
        .env(
            "AWS_EC2_METADATA_SERVICE_ENDPOINT",
            format!("http://{}", silent.local_addr().unwrap()),
        );
    let text = run(&mut command, 12, "no credentials");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    for place in [
        "AWS_ACCESS_KEY_ID",
        ".aws/credentials",
        ".aws/config",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "instance metadata (http://127.0.0.1",
    ] {
        assert!(text.contains(place), "{place}: {text}");
    }
}

#[test]
fn metadata_that_drips_is_given_up_in_time_and_a_list_of_repositories_waits_once() {
    let world = World::new();
    let endpoint = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = endpoint.local_addr().unwrap();
    // A token at once; everything else a byte every 100 ms.
    std::thread::spawn(move || {
        use std::io::{Read, Write};
        for mut socket in endpoint.incoming().flatten() {
            let mut head = [0; 4096];
            let got = socket.read(&mut head).unwrap_or(0);
            if head[..got].starts_with(b"PUT") {
                let _ = socket.write_all(
                    b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: close\r\n\r\nT",
                );
                continue;
            }
            let _ = socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4000\r\n\r\n");
            while socket.write_all(b"x").is_ok() {
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    });
    let begun = Instant::now();
    let mut command = world.mirror(&world.source(false), &world.endpoint(false));
    for more in ["a", "b", "c", "d"] {
        command.args(["--source", &world.git.url(), "--target", &format!("s3://bucket/{more}")]);
    }
    command
        .env_remove("AWS_ACCESS_KEY_ID")
        .env_remove("AWS_SECRET_ACCESS_KEY")
        .env_remove("AWS_EC2_METADATA_DISABLED")
        .env("AWS_EC2_METADATA_SERVICE_ENDPOINT", format!("http://{address}"));
    let text = run(&mut command, 3, "five repositories");
    assert_eq!(text.matches("error: ").count(), 5, "{text}");
    assert!(text.contains("no credentials found"), "{text}");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[test]
fn metadata_is_never_asked_through_a_proxy() {
    let world = World::new();
    let metadata = GitHttp::start(
        world.dir.path(),
        git_http::Options {
            canned: vec![
                Canned::new("/latest/api/token", 200, "text/plain", "TOKEN"),
                Canned::new(
                    "/security-credentials/role",
                    200,
                    "application/json",
                    format!(
                        r#"{{"AccessKeyId":"{}","SecretAccessKey":"{}"}}"#,
                        world.s3.access_key, world.s3.secret_key
                    ),
                ),
                Canned::new("/security-credentials/", 200, "text/plain", "role"),
            ],
            ..git_http::Options::default()
        },
    );
    let proxy = Proxy::start(None);
    let mut command = world.mirror(&world.source(false), &world.endpoint(false));
    command
        .env_remove("AWS_ACCESS_KEY_ID")
        .env_remove("AWS_SECRET_ACCESS_KEY")
        .env_remove("AWS_EC2_METADATA_DISABLED")
        .env("AWS_EC2_METADATA_SERVICE_ENDPOINT", metadata.url())
        .env("HTTP_PROXY", format!("http://{}", proxy.address()));
    run(&mut command, 0, "metadata beside a proxy");
    world.assert_mirrored_and_forget("metadata beside a proxy");
    let port = metadata.url().rsplit_once(':').unwrap().1.to_owned();
    let seen = proxy.seen();
    assert!(!seen.is_empty() && seen.iter().all(|at| !at.ends_with(&port)), "{seen:?}");
}

#[test]
fn a_wrong_secret_is_one_request_and_exit_code_12() {
    let world = World::new();
    for n in 0..20 {
        world.repo.commit("refs/heads/main", &[("file", format!("{n}").as_bytes())]);
    }
    let mut command = world.mirror(&world.source(false), &world.endpoint(false));
    let text = run(command.env("AWS_SECRET_ACCESS_KEY", "wrong"), 12, "a wrong secret");
    assert!(text.contains("SignatureDoesNotMatch"), "{text}");
    assert_eq!(world.s3.requests(), 1, "{:?}", world.s3.seen());
}
