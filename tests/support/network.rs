//! What lies between the program and its servers: a private CA, TLS in front of a server that
//! speaks none, a proxy. Each runs on a tokio runtime of its own and ends when it is dropped.

#![allow(dead_code, missing_docs)] // Every test that includes this file uses a part of it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::{ServerConfig, crypto::ring};

/// An authority that no system trusts.
pub struct Ca(CertifiedIssuer<'static, KeyPair>);

impl Ca {
    pub fn new() -> Ca {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "a private CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        Ca(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Its certificate, as users have it in a file.
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    fn server_config(&self, names: &[&str]) -> ServerConfig {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let key = KeyPair::generate().unwrap();
        let certificate =
            CertificateParams::new(names).unwrap().signed_by(&key, &self.0).unwrap().der().clone();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap()
    }
}

/// A socket on loopback; each connection is served by a task.
struct Listener {
    address: SocketAddr,
    runtime: Option<Runtime>,
}

impl Listener {
    fn start<F: Future<Output = Option<()>> + Send + 'static>(
        serve: impl Fn(TcpStream) -> F + Send + 'static,
    ) -> Listener {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("network")
            .enable_all()
            .build()
            .expect("a runtime");
        let listener = runtime.block_on(TcpListener::bind(("127.0.0.1", 0))).expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        runtime.spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                // A peer that goes away is none of this server's failures.
                tokio::spawn(serve(socket));
            }
        });
        Listener { address, runtime: Some(runtime) }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// TLS before a server that speaks plain HTTP: it takes the TLS off and passes the bytes on.
pub struct TlsFront(Listener);

impl TlsFront {
    /// Before `upstream` (`http://127.0.0.1:port`), with a certificate of `ca` for `names`.
    pub fn start(ca: &Ca, names: &[&str], upstream: &str) -> TlsFront {
        let acceptor = TlsAcceptor::from(Arc::new(ca.server_config(names)));
        let upstream = upstream.trim_start_matches("http://").to_owned();
        TlsFront(Listener::start(move |socket| {
            let (acceptor, upstream) = (acceptor.clone(), upstream.clone());
            async move {
                let mut socket = acceptor.accept(socket).await.ok()?;
                let mut upstream = TcpStream::connect(upstream).await.ok()?;
                copy_bidirectional(&mut socket, &mut upstream).await.ok().map(|_| ())
            }
        }))
    }

    pub fn port(&self) -> u16 {
        self.0.address.port()
    }
}

/// A proxy that makes tunnels. Whatever host is asked for, the tunnel leads to its port on
/// loopback: names mean nothing to whoever has a proxy.
pub struct Proxy {
    listener: Listener,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    /// For everybody, or for who sends this `Proxy-Authorization`.
    pub fn start(authorization: Option<&str>) -> Proxy {
        let wanted = authorization.map(|value| format!("\r\nproxy-authorization: {value}\r\n"));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = seen.clone();
        let listener = Listener::start(move |socket| tunnel(socket, wanted.clone(), log.clone()));
        Proxy { listener, seen }
    }

    /// `127.0.0.1:port`.
    pub fn address(&self) -> String {
        self.listener.address.to_string()
    }

    /// The hosts and ports that tunnels were asked for so far.
    pub fn seen(&self) -> Vec<String> {
        self.seen.lock().expect("no holder panics").clone()
    }
}

async fn tunnel(
    mut socket: TcpStream,
    wanted: Option<String>,
    seen: Arc<Mutex<Vec<String>>>,
) -> Option<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).ok()?;
    let place = head.strip_prefix("CONNECT ")?.split(' ').next()?;
    seen.lock().expect("no holder panics").push(place.to_owned());
    // A header's name may be written in any case, its value not.
    let lower = head.replace("Proxy-Authorization:", "proxy-authorization:");
    if wanted.is_some_and(|wanted| !lower.contains(&wanted)) {
        let no = b"HTTP/1.1 407 No\r\nProxy-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n";
        return socket.write_all(no).await.ok();
    }
    let port: u16 = place.rsplit_once(':')?.1.parse().ok()?;
    let mut upstream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    socket.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").await.ok()?;
    copy_bidirectional(&mut socket, &mut upstream).await.ok().map(|_| ())
}
