//! No secret reaches standard output, standard error, the metrics or the bucket, however loud the
//! log and whatever fails.

use crate::support::{git_http, local_git, network, program, s3_server};
use std::process::Output;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use git_http::{Canned, GitHttp};
use local_git::Repo;
use network::Proxy;
use s3_server::S3Server;

const USERINFO: &str = "userinfo-hush-1";
const NETRC: &str = "netrc-hush-2";
const HEADER: &str = "header-hush-3";
const SESSION: &str = "session-hush-4";
const WRONG_SECRET: &str = "wrong-secret-hush-5";
const PROXY: &str = "proxy-hush-6";
const WEB_IDENTITY: &str = "web-identity-hush-7";
const CONTAINER: &str = "container-hush-8";
const QUERY: &str = "query-hush-9";

/// Where the store's keys come from.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Keys {
    Environment,
    /// The same with a secret key that the store refuses.
    Wrong,
    Profile,
    /// From STS, for a token in a file.
    WebIdentity,
    /// From a container's endpoint, for a token in the environment.
    Container,
}

struct World {
    /// Home, files with secrets, the metrics.
    home: tempfile::TempDir,
    /// The bucket's folder.
    dir: tempfile::TempDir,
    s3: S3Server,
    proxy: Proxy,
    /// STS and the container's endpoint in one.
    keys: GitHttp,
    /// An STS that refuses, with the token in its words.
    no_keys: GitHttp,
}

impl World {
    fn new() -> World {
        let (home, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::create_dir(dir.path().join("bucket")).unwrap();
        let s3 = S3Server::start(dir.path());
        let (id, secret) = (&s3.access_key, &s3.secret_key);
        let json =
            format!(r#"{{"AccessKeyId":"{id}","SecretAccessKey":"{secret}","Token":"{SESSION}"}}"#);
        let xml = format!(
            "<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials>\
             <AccessKeyId>{id}</AccessKeyId><SecretAccessKey>{secret}</SecretAccessKey>\
             <SessionToken>{SESSION}</SessionToken></Credentials>\
             </AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"
        );
        let serve = |canned| {
            let options = git_http::Options { canned, ..git_http::Options::default() };
            GitHttp::start(home.path(), options)
        };
        let keys = serve(vec![
            Canned::new("/container", 200, "application/json", json),
            Canned::new("/", 200, "text/xml", xml),
        ]);
        let words = format!("no: {WEB_IDENTITY} {CONTAINER}");
        let no_keys = serve(vec![Canned::new("/", 403, "text/plain", words)]);
        let write = |name: &str, text: &str| std::fs::write(home.path().join(name), text).unwrap();
        write("netrc", &format!("default login somebody password {NETRC}\n"));
        write("headers", &format!("X-Token: {HEADER}\n"));
        write("token", WEB_IDENTITY);
        write(
            "credentials",
            &format!(
                "[p]\naws_access_key_id={id}\naws_secret_access_key={secret}\n\
                 aws_session_token={SESSION}\n"
            ),
        );
        let proxy = format!("proxy-user:{PROXY}");
        let proxy = Proxy::start(Some(&format!("Basic {}", STANDARD.encode(proxy))));
        World { home, dir, s3, proxy, keys, no_keys }
    }

    /// A run as loud as can be, whose output holds no secret.
    fn run(&self, source: &str, keys: Keys, options: &[&str], what: &str) -> Output {
        self.run_with(source, keys, &self.keys, options, what)
    }

    fn run_with(
        &self,
        source: &str,
        keys: Keys,
        endpoint: &GitHttp,
        options: &[&str],
        what: &str,
    ) -> Output {
        let file = |name: &str| self.home.path().join(name);
        let mut command = program::program(self.home.path());
        command
            .args(["--source", source, "--target", "s3://bucket/prefix"])
            .args(["--endpoint-url", &self.s3.endpoint(), "--source-header-file"])
            .arg(file("headers"))
            .arg("--metrics-file")
            .arg(file("metrics.prom"))
            .args(options)
            .env("NETRC", file("netrc"))
            .env("RUST_LOG", "trace")
            .env("AWS_MAX_ATTEMPTS", "1")
            .env("ALL_PROXY", format!("http://proxy-user:{PROXY}@{}", self.proxy.address()));
        match keys {
            Keys::Environment | Keys::Wrong => {
                let wrong = keys == Keys::Wrong;
                let secret = if wrong { WRONG_SECRET } else { &self.s3.secret_key };
                command
                    .env("AWS_ACCESS_KEY_ID", &self.s3.access_key)
                    .env("AWS_SECRET_ACCESS_KEY", secret)
                    .env("AWS_SESSION_TOKEN", SESSION)
            }
            Keys::Profile => command
                .env("AWS_SHARED_CREDENTIALS_FILE", file("credentials"))
                .env("AWS_PROFILE", "p"),
            Keys::WebIdentity => command
                .env("AWS_WEB_IDENTITY_TOKEN_FILE", file("token"))
                .env("AWS_ROLE_ARN", "arn:aws:iam::1:role/r")
                .env("AWS_ENDPOINT_URL_STS", endpoint.url()),
            Keys::Container => command
                .env(
                    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
                    format!("{}/container?token={QUERY}", endpoint.url()),
                )
                .env("AWS_CONTAINER_AUTHORIZATION_TOKEN", CONTAINER),
        };
        let out = command.output().unwrap();
        assert!(!out.stderr.is_empty(), "{what}: nothing was said at all");
        self.assert_silent(&out, what);
        out
    }

    fn assert_silent(&self, out: &Output, what: &str) {
        let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let mut texts = vec![
            ("standard output".to_owned(), lossy(&out.stdout)),
            ("standard error".to_owned(), lossy(&out.stderr)),
        ];
        let metrics = std::fs::read(self.home.path().join("metrics.prom")).unwrap_or_default();
        texts.push(("metrics".to_owned(), lossy(&metrics)));
        // The bucket, with s3s-fs's own files about each key.
        for name in program::files(self.dir.path(), "") {
            texts.push((name.clone(), lossy(&std::fs::read(self.dir.path().join(name)).unwrap())));
        }
        let plain = [
            USERINFO,
            NETRC,
            HEADER,
            SESSION,
            WRONG_SECRET,
            PROXY,
            WEB_IDENTITY,
            CONTAINER,
            QUERY,
            &self.s3.secret_key,
        ];
        let mut secrets: Vec<String> = plain.map(str::to_owned).into();
        secrets.extend(plain.map(|secret| STANDARD.encode(secret)));
        for (user, password) in [("user", USERINFO), ("somebody", NETRC), ("proxy-user", PROXY)] {
            secrets.push(STANDARD.encode(format!("{user}:{password}")));
        }
        secrets.push("X-Amz-Signature=".to_owned());
        secrets.push("Signature=".to_owned());
        for (place, text) in texts {
            for secret in &secrets {
                assert!(!text.contains(secret), "{what}: {secret} is in {place}:\n{text}");
            }
        }
    }
}

#[test]
fn no_secret_is_printed_however_a_run_ends() {
    let repo = Repo::new();
    repo.commit("refs/heads/main", &[("file", b"content\n")]);
    let world = World::new();
    let basic = Some(("user".to_owned(), USERINFO.to_owned()));
    let canned = |status| vec![Canned::new("info/refs", status, "text/plain", "no")];
    let plain = git_http::Options::default();
    let servers = [
        ("well", git_http::Options { basic_auth: basic, ..plain.clone() }, Some(0)),
        ("denied", git_http::Options { canned: canned(403), ..plain.clone() }, Some(12)),
        ("broken", git_http::Options { canned: canned(400), ..plain.clone() }, Some(1)),
        ("cut", git_http::Options { cut_post_after: Some(10), ..plain }, Some(5)),
    ];
    for (what, options, code) in servers {
        let server = GitHttp::start(repo.path(), options);
        let place = server.url().replace("http://", "");
        let source = format!("http://user:{USERINFO}@{place}/");
        let assert_code = |out: Output, code| {
            let words = String::from_utf8_lossy(&out.stderr);
            assert_eq!(out.status.code(), code, "{what}: {words}");
        };
        assert_code(world.run(&source, Keys::Environment, &["-vv", "--json"], what), code);
        // With .netrc, which this server does not accept.
        world.run(&format!("http://{place}/"), Keys::Environment, &[], what);
        if what == "well" {
            let state = std::fs::read_to_string(
                world.dir.path().join("bucket/prefix/mirror_state/state.json"),
            );
            assert!(state.unwrap().contains(&place), "the state was looked at");
            assert!(world.home.path().join("metrics.prom").is_file(), "so were the metrics");
            for keys in [Keys::Profile, Keys::WebIdentity, Keys::Container] {
                let what = format!("{keys:?}");
                assert_code(world.run(&source, keys, &["-vv", "--json"], &what), Some(0));
            }
            assert_code(world.run(&source, Keys::Wrong, &["-vv"], "a wrong key"), Some(12));
            for keys in [Keys::WebIdentity, Keys::Container] {
                let out = world.run_with(&source, keys, &world.no_keys, &["-vv"], "no role");
                assert_code(out, Some(12));
            }
        }
    }
    assert!(!world.proxy.seen().is_empty(), "the proxy was in use");
    // Nobody listens there, and the usage error of a URL that can't be read.
    for source in ["http://user:userinfo-hush-1@127.0.0.1:1/x", "ssh://user:userinfo-hush-1@h/x"] {
        world.run(source, Keys::Environment, &["-vv", "--json"], "unreachable");
    }
}
