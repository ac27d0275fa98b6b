//! A real S3 server (s3s-fs) in the test's own process: buckets are folders, signatures are
//! verified. It runs on a tokio runtime of its own and ends when it is dropped.
//!
//! Mind: it can't hold a key `a` beside `a/b`, and its conditional PUT is not atomic. What s3s-fs
//! does not have is added here: listing multipart uploads, anonymous reads (so that `git clone
//! http://…/bucket/prefix` works), latency.

#![allow(dead_code, missing_docs)] // Every test that includes this file uses a part of it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper::http::Extensions;
use hyper::service::{Service, service_fn};
use hyper::{HeaderMap, Method, Uri};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::access::{S3Access, S3AccessContext};
use s3s::auth::SimpleAuth;
use s3s::dto::ListObjectsV2Input;
use s3s::route::S3Route;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{Body, S3Request, S3Response, S3Result, s3_error};

/// Notes the entity tags of files that did not come through the server: s3s-fs notes them when it
/// stores something, and without one it reads the whole file for every GET, of a range as well.
/// `dir` holds the buckets.
pub fn note_etags(dir: &Path) {
    for bucket in std::fs::read_dir(dir).expect("a folder").flatten() {
        let name = bucket.file_name().into_string().expect("a bucket's name is text");
        if bucket.path().is_dir() {
            note_etags_below(dir, &name, &bucket.path(), "");
        }
    }
}

fn note_etags_below(dir: &Path, bucket: &str, folder: &Path, prefix: &str) {
    for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
        let name = entry.file_name().into_string().expect("keys are text");
        let key = format!("{prefix}{name}");
        if entry.path().is_dir() {
            note_etags_below(dir, bucket, &entry.path(), &format!("{key}/"));
            continue;
        }
        let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
        // As `get_internal_info_path` of s3s-fs 0.14.
        let note = format!(".bucket-{}.object-{}.internal.json", encode(bucket), encode(&key));
        let content = std::fs::read(entry.path()).expect("a readable file");
        let etag = format!("{{\"e_tag\":\"{:x}\"}}", md5::compute(content));
        std::fs::write(dir.join(note), etag).expect("written");
    }
}

/// How the server behaves.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Every request waits so long first.
    pub latency: Duration,
    /// GET and HEAD of objects need no signature; a missing one is a 404.
    pub public_reads: bool,
}

pub struct S3Server {
    address: SocketAddr,
    pub access_key: String,
    pub secret_key: String,
    counts: Arc<Counts>,
    runtime: Option<tokio::runtime::Runtime>,
}

#[derive(Default)]
struct Counts {
    connections: AtomicU64,
    seen: Mutex<Vec<(String, HeaderMap)>>,
}

impl S3Server {
    /// Serves the folders of `dir` as buckets, on a free port of loopback.
    pub fn start(dir: impl AsRef<Path>) -> S3Server {
        S3Server::start_with(dir, Options::default())
    }

    pub fn start_with(dir: impl AsRef<Path>, options: Options) -> S3Server {
        let (access_key, secret_key) = ("TESTKEY".to_owned(), "test/secret+key".to_owned());
        let mut builder = S3ServiceBuilder::new(s3s_fs::FileSystem::new(&dir).expect("a folder"));
        builder.set_auth(SimpleAuth::from_single(access_key.clone(), secret_key.clone()));
        builder.set_access(Access { public_reads: options.public_reads });
        builder.set_route(ListUploads { dir: dir.as_ref().to_owned() });
        let service = builder.build();
        let counts = Arc::new(Counts::default());
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("s3-server")
            .enable_all()
            .build()
            .expect("a runtime");
        let listener =
            runtime.block_on(tokio::net::TcpListener::bind(("127.0.0.1", 0))).expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        runtime.spawn(accept(listener, service, counts.clone(), options.latency));
        S3Server { address, access_key, secret_key, counts, runtime: Some(runtime) }
    }

    /// `http://127.0.0.1:port`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// TCP connections accepted so far.
    pub fn connections(&self) -> u64 {
        self.counts.connections.load(Ordering::SeqCst)
    }

    /// Requests that have come so far.
    pub fn requests(&self) -> u64 {
        self.seen().len() as u64
    }

    /// Method and path with query of every request so far: `PUT /bucket/key`.
    pub fn seen(&self) -> Vec<String> {
        self.seen_with_headers().into_iter().map(|(line, _)| line).collect()
    }

    /// The same, each with its headers.
    pub fn seen_with_headers(&self) -> Vec<(String, HeaderMap)> {
        self.counts.seen.lock().expect("no holder panics").clone()
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn accept(
    listener: tokio::net::TcpListener,
    service: S3Service,
    counts: Arc<Counts>,
    latency: Duration,
) {
    while let Ok((socket, _)) = listener.accept().await {
        let _ = socket.set_nodelay(true);
        counts.connections.fetch_add(1, Ordering::SeqCst);
        let (service, counts) = (service.clone(), counts.clone());
        let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
            let line = format!("{} {}", request.method(), request.uri());
            let seen = (line, request.headers().clone());
            counts.seen.lock().expect("no holder panics").push(seen);
            let service = service.clone();
            // A task of its own: a client that is killed must not cancel a request half-way, which
            // would leave files of s3s-fs's own that belong to no upload.
            let answer = tokio::spawn(async move {
                if !latency.is_zero() {
                    tokio::time::sleep(latency).await;
                }
                Service::call(&service, request).await
            });
            async move { answer.await.expect("the server does not panic") }
        });
        tokio::spawn(async move {
            let http = Builder::new(TokioExecutor::new());
            let _ = http.serve_connection(TokioIo::new(socket), service).await;
        });
    }
}

struct Access {
    public_reads: bool,
}

#[async_trait::async_trait]
impl S3Access for Access {
    async fn check(&self, cx: &mut S3AccessContext<'_>) -> S3Result<()> {
        let read = matches!(cx.s3_op().name(), "GetObject" | "HeadObject");
        if cx.credentials().is_some() || (self.public_reads && read) {
            return Ok(());
        }
        Err(s3_error!(AccessDenied, "Signature is required"))
    }

    /// s3s-fs says that it encoded the keys and did not.
    async fn list_objects_v2(&self, request: &mut S3Request<ListObjectsV2Input>) -> S3Result<()> {
        request.input.encoding_type = None;
        Ok(())
    }
}

/// `GET /bucket?uploads`, which s3s-fs does not have. It keeps an upload's headers in a file whose name
/// says bucket, key and id.
struct ListUploads {
    dir: PathBuf,
}

#[async_trait::async_trait]
impl S3Route for ListUploads {
    fn is_match(&self, method: &Method, uri: &Uri, _: &HeaderMap, _: &mut Extensions) -> bool {
        let mut names = uri.query().unwrap_or("").split('&').map(|pair| pair.split('=').next());
        method == Method::GET && names.any(|name| name == Some("uploads"))
    }

    async fn call(&self, request: S3Request<Body>) -> S3Result<S3Response<Body>> {
        let bucket = request.uri.path().trim_matches('/').to_owned();
        let query = request.uri.query().unwrap_or("");
        let prefix = query.split('&').find_map(|pair| pair.strip_prefix("prefix=")).unwrap_or("");
        let prefix = decode(prefix);
        let mut found: Vec<(String, String, String)> = std::fs::read_dir(&self.dir)
            .map_err(|error| s3_error!(error, InternalError))?
            .flatten()
            .filter_map(|entry| {
                let (key, id) = upload_of(&bucket, &entry.file_name().into_string().ok()?)?;
                let begun = time::OffsetDateTime::from(entry.metadata().ok()?.modified().ok()?);
                Some((key, id, begun.format(&time::format_description::well_known::Rfc3339).ok()?))
            })
            .filter(|(key, ..)| key.starts_with(&prefix))
            .collect();
        found.sort();
        let uploads: String = found
            .into_iter()
            .map(|(key, id, begun)| {
                let key = key.replace('&', "&amp;").replace('<', "&lt;");
                format!(
                    "<Upload><Key>{key}</Key><UploadId>{id}</UploadId>\
                     <Initiated>{begun}</Initiated></Upload>"
                )
            })
            .collect();
        let xml = format!(
            "<ListMultipartUploadsResult><IsTruncated>false</IsTruncated>{uploads}\
             </ListMultipartUploadsResult>"
        );
        Ok(S3Response::new(Body::from(xml)))
    }
}

fn upload_of(bucket: &str, name: &str) -> Option<(String, String)> {
    let rest = name.strip_prefix(".bucket-")?.strip_suffix(".metadata.json")?;
    let (in_bucket, rest) = rest.split_once(".object-")?;
    let (key, id) = rest.split_once(".upload-")?;
    let text = |base64: &str| String::from_utf8(URL_SAFE_NO_PAD.decode(base64).ok()?).ok();
    (text(in_bucket)? == bucket).then_some((text(key)?, id.to_owned()))
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let digit = |byte: Option<u8>| char::from(byte.unwrap_or(b'0')).to_digit(16).unwrap_or(0);
        match byte {
            b'%' => bytes.push((digit(rest.next()) * 16 + digit(rest.next())) as u8),
            byte => bytes.push(byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
