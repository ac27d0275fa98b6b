//! The one place that builds HTTP agents: trusted roots, proxies, time-outs, DNS, pool.
//!
//! [`crate::store`] and [`crate::source`] share it and know nothing of each other. One [`Client`]
//! serves the whole run, so that all repositories share its connections. It never follows a
//! redirect, never turns a status into an error, and sets no header: that is its users' business.
//! The environment is read in [`Environment::read`] alone, but for the place of the system's roots.
//!
//! Through a proxy every connection is a tunnel (`CONNECT`), for plain http as well: that is how
//! ureq does it. A proxy that only tunnels to port 443 refuses http sources.

mod pace;
mod reach;

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;
use ureq::config::Config;
use ureq::http::{HeaderMap, Response, Uri};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig};
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{
    ConnectProxyConnector, Connector as _, NextTimeout, RustlsConnector, TcpConnector,
};
use ureq::{Agent, Proxy};

pub use pace::{LowSpeed, PATIENCE, sign_of_life};
use pace::{PaceConnector, TooSlow};
pub use reach::{Network, Reach};

/// How long an address is believed. Load balancers of object stores change theirs often.
const DNS_TTL: Duration = Duration::from_secs(60);

/// The most bytes of an answer's headers: with a little room to spare they fit the input's buffer.
const MAX_HEADER_BYTES: usize = 15 << 10;

/// What a user can choose.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How many idle connections are kept, which should be as many as there are requests at once.
    pub connections: usize,
    /// A PEM file with certificates to trust, besides all others (`--ca-bundle`).
    pub ca_bundle: Option<PathBuf>,
    /// How long to wait for a connection, TLS included.
    pub connect_timeout: Duration,
    /// How long one read or write may do nothing. There is no limit to the whole: a pack may stream
    /// for hours. A server that counts objects says nothing for minutes, so this must not be short.
    pub idle_timeout: Duration,
    /// How long an answer's headers may take from the request's end on, interim answers (1xx)
    /// included.
    pub answer_timeout: Duration,
    /// How slow a connection may be, and for how long.
    pub low_speed: LowSpeed,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            connections: 64,
            ca_bundle: None,
            connect_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(180),
            answer_timeout: Duration::from_secs(300),
            low_speed: LowSpeed::default(),
        }
    }
}

/// What of the environment matters here. Tests make one by hand.
#[derive(Clone, Default)]
pub struct Environment {
    /// `HTTPS_PROXY`: the proxy for https.
    pub https_proxy: Option<String>,
    /// `HTTP_PROXY`: the proxy for http.
    pub http_proxy: Option<String>,
    /// `ALL_PROXY`: the proxy for a scheme that has none of its own.
    pub all_proxy: Option<String>,
    /// `NO_PROXY`: what needs no proxy.
    pub no_proxy: Option<String>,
    /// PEM files to trust besides the system's roots, each with the variable that names it.
    pub ca_files: Vec<(&'static str, PathBuf)>,
}

impl Environment {
    /// Reads the variables of this process.
    pub fn read() -> Self {
        Environment::from_lookup(|name| std::env::var(name).ok())
    }

    /// Reads variables through `lookup`. The names of proxies come in either case, the lower one
    /// first (as curl does it); an empty value counts as none.
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Self {
        let get = |name: &str| lookup(name).filter(|value| !value.trim().is_empty());
        let either = |name: &str| get(&name.to_ascii_lowercase()).or_else(|| get(name));
        // AWS_CA_BUNDLE is what the AWS tools trust, GIT_SSL_CAINFO is what git trusts, each instead
        // of the system's roots. One run speaks to a forge and to a store, so here both are added to
        // them. SSL_CERT_FILE is not among them: see `system_roots`.
        let ca_files = ["AWS_CA_BUNDLE", "GIT_SSL_CAINFO"];
        Environment {
            https_proxy: either("HTTPS_PROXY"),
            http_proxy: either("HTTP_PROXY"),
            all_proxy: either("ALL_PROXY"),
            no_proxy: either("NO_PROXY"),
            ca_files: ca_files.iter().filter_map(|&n| Some((n, get(n)?.into()))).collect(),
        }
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A proxy's URL may hold a password.
        let said = |value: &Option<String>| if value.is_some() { "set" } else { "not set" };
        f.debug_struct("Environment")
            .field("https_proxy", &said(&self.https_proxy))
            .field("http_proxy", &said(&self.http_proxy))
            .field("all_proxy", &said(&self.all_proxy))
            .field("no_proxy", &self.no_proxy)
            .field("ca_files", &self.ca_files)
            .finish()
    }
}

/// Settings that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// A file of certificates can't be read.
    #[error("cannot read the certificates of {origin} in {}: {source}", path.display())]
    CaFile {
        /// The option or variable that names it.
        origin: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A file of certificates has none, or something else.
    #[error("{} of {origin} holds no usable certificate in PEM form: {reason}", path.display())]
    CaContent {
        /// The option or variable that names it.
        origin: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A proxy's URL can't be used. The URL is not reported: it may hold a password.
    #[error("cannot use the proxy in {variable}: {reason}")]
    Proxy {
        /// The variable.
        variable: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

/// Sends requests. Clones share connections and addresses.
#[derive(Clone)]
pub struct Client(Arc<Shared>);

struct Shared {
    recipe: Recipe,
    /// Guarded for taking a handle or putting new agents in their place.
    agents: Mutex<Agents>,
}

/// What agents are made from.
#[derive(Clone)]
struct Recipe {
    settings: Settings,
    roots: RootCerts,
    resolver: CachingResolver,
    https: Option<NamedProxy>,
    http: Option<NamedProxy>,
    no_proxy: NoProxy,
}

/// A proxy and the variable that names it.
type NamedProxy = (&'static str, Proxy);

struct Agents {
    direct: Agent,
    https: Option<Agent>,
    http: Option<Agent>,
    /// Without a proxy, and confined to some networks: made when they are wanted.
    confined: Vec<(Reach, Agent)>,
}

impl Client {
    /// A client for this process' environment.
    pub fn new(settings: &Settings) -> Result<Client, HttpError> {
        Client::with_environment(settings, &Environment::read())
    }

    /// A client for a given environment.
    pub fn with_environment(settings: &Settings, env: &Environment) -> Result<Client, HttpError> {
        let proxied = |variable, own: &Option<String>| {
            let chosen = own.as_deref().map(|url| (variable, url));
            let all = env.all_proxy.as_deref().map(|url| ("ALL_PROXY", url));
            let named = |(variable, url)| Ok((variable, proxy(variable, url)?));
            chosen.or(all).map(named).transpose()
        };
        Ok(Client::of(Recipe {
            settings: settings.clone(),
            roots: roots(settings, env)?,
            resolver: CachingResolver::default(),
            https: proxied("HTTPS_PROXY", &env.https_proxy)?,
            http: proxied("HTTP_PROXY", &env.http_proxy)?,
            no_proxy: NoProxy::parse(env.no_proxy.as_deref().unwrap_or_default()),
        }))
    }

    fn of(recipe: Recipe) -> Client {
        let agents = Mutex::new(recipe.agents());
        Client(Arc::new(Shared { recipe, agents }))
    }

    /// The same settings and addresses with connections of its own, so that [`Client::cut`] of one
    /// does not touch the other.
    #[must_use]
    pub fn apart(&self) -> Client {
        Client::of(self.0.recipe.clone())
    }

    /// The agent for `url`: the one of its scheme's proxy, or the one without.
    pub fn agent(&self, url: &Uri) -> Agent {
        let agents = self.0.agents.lock().unwrap_or_else(PoisonError::into_inner);
        let proxied = if url.scheme_str() == Some("https") { &agents.https } else { &agents.http };
        match proxied {
            Some(agent) if self.proxy_for(url).is_some() => agent.clone(),
            _ => agents.direct.clone(),
        }
    }

    fn proxy_for(&self, url: &Uri) -> Option<&NamedProxy> {
        let recipe = &self.0.recipe;
        let named = if url.scheme_str() == Some("https") { &recipe.https } else { &recipe.http };
        named.as_ref().filter(|_| !recipe.no_proxy.covers(url.host().unwrap_or_default()))
    }

    /// What [`explain`] says of a request to `url`, and which proxy it went through: the proxy may be
    /// what is broken. No userinfo.
    pub fn explain(&self, url: &Uri, error: &ureq::Error) -> String {
        match self.proxy_for(url) {
            None => explain(error),
            Some((variable, proxy)) => {
                let (host, port) = (proxy.host(), proxy.port());
                format!("through the proxy {host}:{port} ({variable}): {}", explain(error))
            }
        }
    }

    /// The agent for `url` that connects to nowhere but `reach`. What goes through a proxy is for the
    /// proxy to confine, but for an address instead of a name.
    pub fn agent_within(&self, url: &Uri, reach: Reach) -> Result<Agent, ureq::Error> {
        if reach == Reach::ANYWHERE {
            return Ok(self.agent(url));
        }
        if let Some(address) = literal_address(url) {
            check_reach(url, reach, address)?;
        }
        if self.proxy_for(url).is_some() {
            return Ok(self.agent(url));
        }
        let mut agents = self.0.agents.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, agent)) = agents.confined.iter().find(|(known, _)| *known == reach) {
            return Ok(agent.clone());
        }
        let recipe = &self.0.recipe;
        let resolver = CachingResolver { reach, ..recipe.resolver.clone() };
        let agent = build_agent(&recipe.settings, recipe.roots.clone(), None, resolver);
        agents.confined.push((reach, agent.clone()));
        Ok(agent)
    }

    /// In what network the host of `url` is. One that is reached through a proxy, or that has no
    /// address, counts as public.
    pub fn network_of(&self, url: &Uri) -> Network {
        if let Some(address) = literal_address(url) {
            return Network::of(address);
        }
        if self.proxy_for(url).is_some() {
            return Network::Public;
        }
        let agent = self.direct();
        let timeout = NextTimeout::default();
        let found = self.0.recipe.resolver.resolve(url, agent.config(), timeout);
        let first = found.ok().and_then(|found| found.iter().next().map(|address| address.ip()));
        first.map_or(Network::Public, Network::of)
    }

    /// The agent without a proxy, for what is on this machine or beside it.
    pub fn direct(&self) -> Agent {
        self.0.agents.lock().unwrap_or_else(PoisonError::into_inner).direct.clone()
    }

    /// Ends all connections of this client and its clones: whoever waits for a server, in the middle
    /// of a body too, gets a transient error now. Later requests make new connections. A name that
    /// is being resolved and a connection that is being made are not cut short.
    pub fn cut(&self) {
        let fresh = self.0.recipe.agents();
        let mut agents = self.0.agents.lock().unwrap_or_else(PoisonError::into_inner);
        let old = std::mem::replace(&mut *agents, fresh);
        drop(agents);
        let confined = old.confined.into_iter().map(|(_, agent)| agent);
        for agent in [Some(old.direct), old.https, old.http].into_iter().flatten().chain(confined) {
            agent.shutdown();
        }
    }
}

impl Recipe {
    fn agents(&self) -> Agents {
        let agent =
            |proxy| build_agent(&self.settings, self.roots.clone(), proxy, self.resolver.clone());
        Agents {
            direct: agent(None),
            https: self.https.clone().map(|(_, proxy)| agent(Some(proxy))),
            http: self.http.clone().map(|(_, proxy)| agent(Some(proxy))),
            confined: Vec::new(),
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("https_proxy", &self.0.recipe.https.is_some())
            .field("http_proxy", &self.0.recipe.http.is_some())
            .finish_non_exhaustive()
    }
}

fn build_agent(
    settings: &Settings,
    roots: RootCerts,
    proxy: Option<Proxy>,
    resolver: CachingResolver,
) -> Agent {
    let config = Config::builder()
        .tls_config(TlsConfig::builder().root_certs(roots).build())
        // Always set: ureq would otherwise take one from the environment, for all schemes alike.
        .proxy(proxy)
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .max_idle_connections(settings.connections)
        .max_idle_connections_per_host(settings.connections)
        // With as many connections as there are requests the default of 128 + 128 KiB each would be
        // 16 MiB for 64. 16 KiB is one TLS record.
        .input_buffer_size(16 << 10)
        .output_buffer_size(32 << 10)
        .timeout_connect(Some(settings.connect_timeout))
        .timeout_per_read(Some(settings.idle_timeout))
        .timeout_per_write(Some(settings.idle_timeout))
        .timeout_recv_response(Some(settings.answer_timeout))
        .max_response_header_size(MAX_HEADER_BYTES)
        .build();
    // ureq's own chain, with the low-speed limit between the socket and TLS. A tunnel through a
    // proxy is a chain of its own, which is paced as well.
    let connector =
        ().chain(ConnectProxyConnector::default())
            .chain(TcpConnector::default())
            .chain(PaceConnector(settings.low_speed))
            .chain(RustlsConnector::default());
    Agent::with_parts(config, connector, resolver)
}

fn proxy(variable: &'static str, url: &str) -> Result<Proxy, HttpError> {
    let bad = |reason: String| HttpError::Proxy { variable, reason };
    let proxy = Proxy::new(url.trim()).map_err(|error| bad(error.to_string()))?;
    match proxy.protocol() {
        ureq::ProxyProtocol::Http | ureq::ProxyProtocol::Https => Ok(proxy),
        _ => Err(bad("only http and https proxies are supported".into())),
    }
}

/// All that is trusted: the system's roots, else Mozilla's, and the user's.
fn roots(settings: &Settings, env: &Environment) -> Result<RootCerts, HttpError> {
    let mut all = system_roots();
    if all.is_empty() {
        log::debug!("the system has no trusted roots: using the built-in ones");
        let built_in = webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter();
        all.extend(built_in.map(|der| Certificate::from_der(der).to_owned()));
    }
    for (origin, path) in &env.ca_files {
        // A variable may be left over from another machine; what needs it will say what is missing.
        match pem_file(origin, path) {
            Ok(mut more) => all.append(&mut more),
            Err(error) => log::warn!("{error}"),
        }
    }
    if let Some(path) = &settings.ca_bundle {
        all.append(&mut pem_file("--ca-bundle", path)?);
    }
    Ok(RootCerts::new_with_certs(&all))
}

/// The system's roots. `SSL_CERT_FILE` and `SSL_CERT_DIR` stand in their place, as with OpenSSL and
/// curl, so that a user can also narrow what is trusted; rustls-native-certs reads these two itself.
fn system_roots() -> Vec<Certificate<'static>> {
    let found = rustls_native_certs::load_native_certs();
    // One bad file among many good ones is common, and no matter.
    let level = if found.certs.is_empty() { log::Level::Warn } else { log::Level::Debug };
    for error in &found.errors {
        log::log!(level, "trusted roots: {error}");
    }
    found.certs.iter().map(|der| Certificate::from_der(der).to_owned()).collect()
}

fn pem_file(origin: &'static str, path: &Path) -> Result<Vec<Certificate<'static>>, HttpError> {
    let content = |reason: String| HttpError::CaContent { origin, path: path.into(), reason };
    let bytes = std::fs::read(path).map_err(|source| HttpError::CaFile {
        origin,
        path: path.into(),
        source,
    })?;
    let mut found = Vec::new();
    for item in ureq::tls::parse_pem(&bytes) {
        // A private key beside its certificate is no matter of ours.
        if let PemItem::Certificate(certificate) = item.map_err(|e| content(e.to_string()))? {
            found.push(certificate);
        }
    }
    if found.is_empty() { Err(content("no certificate in it".into())) } else { Ok(found) }
}

/// Says what a failed request met, and for an untrusted certificate how to trust it. No URL, no
/// header.
pub fn explain(error: &ureq::Error) -> String {
    match tls_error(error) {
        Some(rustls::Error::InvalidCertificate(reason)) => explain_certificate(reason),
        Some(rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType)) => {
            "the server does not speak TLS on this port; use http:// or another port".into()
        }
        Some(other) => format!("TLS failed: {other}"),
        None => match error {
            ureq::Error::HostNotFound => "the host name has no address".into(),
            ureq::Error::Timeout(what) => format!("timed out ({what})"),
            ureq::Error::Io(error) => error.to_string(),
            ureq::Error::InvalidProxyUrl => "the proxy's URL is not valid".into(),
            _ if is_denied(error) => {
                "the proxy requires authentication; put the credentials in its URL: \
                                      HTTPS_PROXY=http://user:password@host:port, or HTTP_PROXY"
                    .into()
            }
            ureq::Error::ConnectProxyFailed(reason) => {
                format!("the proxy did not connect: {reason}")
            }
            other => other.to_string(),
        },
    }
}

/// Was the connection given up because it was slower than the limit? Trying again would take as long.
pub fn is_too_slow(error: &ureq::Error) -> bool {
    matches!(error, ureq::Error::Io(error)
        if error.get_ref().is_some_and(|inner| inner.is::<TooSlow>()))
}

/// May the same request succeed the next time?
pub fn is_transient(error: &ureq::Error) -> bool {
    use std::io::ErrorKind::{PermissionDenied, Unsupported};
    match error {
        _ if tls_error(error).is_some() || is_denied(error) => false,
        ureq::Error::Io(error) => !matches!(error.kind(), PermissionDenied | Unsupported),
        ureq::Error::Timeout(_)
        | ureq::Error::HostNotFound
        | ureq::Error::ConnectionFailed
        | ureq::Error::ConnectProxyFailed(_)
        // A garbled answer: a connection that was cut inside a header looks like that.
        | ureq::Error::Protocol(_)
        | ureq::Error::BodyStalled => true,
        _ => false,
    }
}

/// Did the proxy refuse to connect, for want of a login or by its rules? (A server's own refusal is
/// no error here but a status.)
pub fn is_denied(error: &ureq::Error) -> bool {
    // ureq tells the proxy's status in words alone.
    let refused = |reason: &str| ["401", "403", "407"].iter().any(|code| reason.contains(code));
    matches!(error, ureq::Error::ConnectProxyFailed(reason) if refused(reason))
}

/// Is `answer` one to a GET of an object (or of `range` of it, whose end may be past the object's)?
/// Only 200 and 206 are, with a length or chunked framing: the end of a connection is no end of an
/// object. `Err`: why not.
pub fn check_object(
    answer: &Response<ureq::Body>,
    range: Option<&std::ops::Range<u64>>,
) -> Result<(), String> {
    let header = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok());
    let status = answer.status().as_u16();
    if status != 200 && status != 206 {
        return Err(format!("HTTP {status} is not a valid response to a GET of an object"));
    }
    let chunked = header("transfer-encoding")
        .is_some_and(|value| value.trim_end().to_ascii_lowercase().ends_with("chunked"));
    if !chunked && header("content-length").is_none() {
        return Err(
            "the response has no length, so it cannot be distinguished from a truncated one".into(),
        );
    }
    let Some(range) = range else {
        return match status {
            206 => Err("the response is partial, but the whole object was requested".into()),
            _ => Ok(()),
        };
    };
    if status == 206 {
        let given = header("content-range").unwrap_or_default();
        let is_asked = parse_content_range(given).is_some_and(|(first, last, total)| {
            first == range.start
                && last < range.end
                && (last + 1 == range.end || total.is_none_or(|total| last + 1 == total))
        });
        if !is_asked {
            let given: String = given.chars().filter(|c| !c.is_control()).take(80).collect();
            return Err(format!("requested bytes from {}, received {given:?}", range.start));
        }
    }
    Ok(())
}

/// `bytes 0-9/100`, or `*` for the total.
fn parse_content_range(text: &str) -> Option<(u64, u64, Option<u64>)> {
    let (range, total) = text.trim().strip_prefix("bytes")?.trim_start().split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let total = match total.trim() {
        "*" => None,
        total => Some(total.parse().ok()?),
    };
    let last: u64 = last.trim().parse().ok()?;
    (last < u64::MAX).then_some((first.trim().parse().ok()?, last, total))
}

/// The longest wait that a server's word is taken for. Nobody waits so long; a wait without a limit
/// overflows where it is added to a time.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(366 * 24 * 3600);

/// `Retry-After`: seconds, or a date (RFC 9110, 10.2.3), a year at most. `None` also for a date that
/// is past.
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(ureq::http::header::RETRY_AFTER)?.to_str().ok()?.trim();
    let asked = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => parse_date(text)?.duration_since(SystemTime::now()).ok()?,
    };
    Some(asked.min(MAX_RETRY_AFTER))
}

/// A date as headers have it: `Tue, 01 Jan 2999 00:00:00 GMT`.
pub fn parse_date(text: &str) -> Option<SystemTime> {
    OffsetDateTime::parse(text, &Rfc2822).ok().map(SystemTime::from)
}

fn tls_error(error: &ureq::Error) -> Option<&rustls::Error> {
    match error {
        ureq::Error::Rustls(error) => Some(error),
        ureq::Error::Io(error) => error.get_ref()?.downcast_ref(),
        _ => None,
    }
}

fn explain_certificate(reason: &rustls::CertificateError) -> String {
    use rustls::CertificateError as E;
    match reason {
        // The last: a trusted authority has the same name and a key of another kind.
        E::UnknownIssuer
        | E::BadSignature
        | E::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            "the server's certificate is signed by an authority \
             that is not trusted here; if it is yours, trust it with --ca-bundle FILE (PEM)"
                .into()
        }
        E::Expired | E::ExpiredContext { .. } => {
            "the server's certificate has expired (or this machine's clock is wrong)".into()
        }
        E::NotValidForName | E::NotValidForNameContext { .. } => {
            format!("the server's certificate is for another host: {reason}")
        }
        // What webpki has no own word for, such as a CA's certificate that is used as the server's.
        E::Other(_) => format!(
            "the server's certificate is not valid: {reason}; a certificate that signs itself is \
             accepted only if it is no CA's and is trusted with --ca-bundle FILE (PEM)"
        ),
        other => format!("the server's certificate is not valid: {other}"),
    }
}

/// When they were found, and which.
type Addresses = (Instant, Vec<SocketAddr>);

/// The address that stands in `url` instead of a name.
fn literal_address(url: &Uri) -> Option<IpAddr> {
    let host = url.host()?;
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

/// Refuses an address that is not within `reach`.
fn check_reach(url: &Uri, reach: Reach, address: IpAddr) -> Result<(), ureq::Error> {
    if reach.covers(address) {
        return Ok(());
    }
    let message = format!(
        "{} is at {address}, in a private network or on this machine, where the source is not: not \
         contacted",
        url.host().unwrap_or_default()
    );
    Err(ureq::Error::Io(std::io::Error::new(std::io::ErrorKind::PermissionDenied, message)))
}

/// Remembers addresses: ureq asks for them on every request, pooled connection or not.
#[derive(Clone)]
struct CachingResolver {
    inner: Arc<DefaultResolver>,
    /// What is resolved must be within it.
    reach: Reach,
    /// By host and port. Guarded for the look-up alone; the question itself is asked outside.
    known: Arc<Mutex<HashMap<String, Addresses>>>,
}

impl fmt::Debug for CachingResolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CachingResolver")
    }
}

impl Default for CachingResolver {
    fn default() -> Self {
        let (inner, known) = Default::default();
        CachingResolver { inner, known, reach: Reach::ANYWHERE }
    }
}

impl CachingResolver {
    fn lookup(&self, key: &str) -> Option<Vec<SocketAddr>> {
        let known = self.known.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let (since, addresses) = known.get(key)?;
        (since.elapsed() < DNS_TTL).then(|| addresses.clone())
    }
}

impl Resolver for CachingResolver {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let key = format!("{}://{}", uri.scheme_str().unwrap_or_default(), host_and_port(uri));
        if let Some(addresses) = self.lookup(&key) {
            addresses.iter().try_for_each(|found| check_reach(uri, self.reach, found.ip()))?;
            let mut result = self.empty();
            addresses.into_iter().for_each(|address| result.push(address));
            return Ok(result);
        }
        let found = self.inner.resolve(uri, config, timeout)?;
        let mut known = self.known.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        // LFS objects may come from many hosts; this only has to be small, not clever.
        if known.len() >= 1000 {
            known.clear();
        }
        known.insert(key, (Instant::now(), found.to_vec()));
        found.iter().try_for_each(|found| check_reach(uri, self.reach, found.ip()))?;
        Ok(found)
    }
}

fn host_and_port(uri: &Uri) -> String {
    format!("{}:{}", uri.host().unwrap_or_default(), uri.port_u16().unwrap_or_default())
}

/// `NO_PROXY`, as curl reads it: `*`, hosts, domains with or without a leading dot (or `*.`), IP
/// addresses and CIDR blocks, apart by commas or spaces. A port is ignored.
#[derive(Clone, Debug, Default)]
struct NoProxy {
    all: bool,
    domains: Vec<String>,
    blocks: Vec<(IpAddr, u8)>,
}

impl NoProxy {
    fn parse(list: &str) -> Self {
        let mut parsed = NoProxy::default();
        for entry in list.split([',', ' ']).map(str::trim).filter(|entry| !entry.is_empty()) {
            if entry == "*" {
                parsed.all = true;
            } else if let Some(block) = parse_block(entry) {
                parsed.blocks.push(block);
            } else {
                let host = entry.trim_start_matches("*.").trim_start_matches('.');
                let host = host.split_once(':').map_or(host, |(host, _port)| host);
                parsed.domains.push(host.trim_end_matches('.').to_ascii_lowercase());
            }
        }
        parsed
    }

    fn covers(&self, host: &str) -> bool {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        if let Ok(address) = bare.parse::<IpAddr>() {
            return self.all || self.blocks.iter().any(|&block| block_has(block, address));
        }
        let host = bare.trim_end_matches('.').to_ascii_lowercase();
        let below = |domain: &String| {
            host.strip_suffix(domain.as_str())
                .is_some_and(|sub| sub.is_empty() || sub.ends_with('.'))
        };
        self.all || self.domains.iter().any(below)
    }
}

/// `10.0.0.0/8`, `10.1.2.3`, `[::1]`, `fd00::/8`.
fn parse_block(entry: &str) -> Option<(IpAddr, u8)> {
    let (address, len) = match entry.split_once('/') {
        Some((address, len)) => (address, Some(len.parse::<u8>().ok()?)),
        None => (entry, None),
    };
    let address: IpAddr = address.trim_matches(['[', ']']).parse().ok()?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let len = len.unwrap_or(most);
    (len <= most).then_some((address, len))
}

fn block_has((network, len): (IpAddr, u8), address: IpAddr) -> bool {
    // Shifted by the whole width there is nothing left to compare: a block of length 0 has all.
    match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => {
            let differ = u32::from(network) ^ u32::from(address);
            differ.checked_shr(32 - u32::from(len)).unwrap_or(0) == 0
        }
        (IpAddr::V6(network), IpAddr::V6(address)) => {
            let differ = u128::from(network) ^ u128::from(address);
            differ.checked_shr(128 - u32::from(len)).unwrap_or(0) == 0
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    fn env(pairs: &[(&str, &str)]) -> Environment {
        let get = |name: &str| pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| v.to_string());
        Environment::from_lookup(get)
    }

    fn chosen(pairs: &[(&str, &str)], url: &str) -> Option<String> {
        let client = Client::with_environment(&Settings::default(), &env(pairs)).unwrap();
        let agent = client.agent(&url.parse().unwrap());
        agent.config().proxy().map(|proxy| format!("{}:{}", proxy.host(), proxy.port()))
    }

    #[test]
    fn the_proxy_goes_by_scheme_and_all_proxy_fills_in() {
        let both = [("HTTPS_PROXY", "http://s:1"), ("http_proxy", "http://p:2")];
        assert_eq!(chosen(&both, "https://host/").as_deref(), Some("s:1"));
        assert_eq!(chosen(&both, "http://host/").as_deref(), Some("p:2"));
        let all = [("ALL_PROXY", "http://a:3"), ("http_proxy", "p:2")];
        assert_eq!(chosen(&all, "https://host/").as_deref(), Some("a:3"));
        assert_eq!(chosen(&all, "http://host/").as_deref(), Some("p:2"));
        assert_eq!(chosen(&[("HTTP_PROXY", "http://p:2")], "https://host/"), None);
        assert_eq!(chosen(&[("HTTP_PROXY", " ")], "http://host/"), None);
    }

    #[test]
    fn no_proxy_takes_hosts_domains_addresses_and_blocks() {
        let list = NoProxy::parse(
            "localhost, .corp.example,*.lab.example ex.org:80 10.0.0.0/8,::1,192.168.7.7,fd00::/8",
        );
        for covered in [
            "localhost",
            "LOCALHOST",
            "git.corp.example",
            "corp.example",
            "a.lab.example",
            "ex.org",
            "www.ex.org.",
            "10.200.1.1",
            "[::1]",
            "192.168.7.7",
            "[fd12::1]",
        ] {
            assert!(list.covers(covered), "{covered}");
        }
        for other in [
            "notlocalhost",
            "xcorp.example",
            "org",
            "11.0.0.1",
            "[::2]",
            "192.168.7.8",
            "[fe80::1]",
            "",
        ] {
            assert!(!list.covers(other), "{other}");
        }
        assert!(NoProxy::parse("*").covers("anything"));
        assert!(NoProxy::parse("0.0.0.0/0").covers("1.2.3.4"));
        assert!(!NoProxy::parse("").covers("anything"));
        let pairs = [("HTTP_PROXY", "http://p:2"), ("no_proxy", "host")];
        assert_eq!(chosen(&pairs, "http://host:8080/"), None);
    }

    #[test]
    fn a_proxy_that_cannot_be_used_is_told_without_its_password() {
        for url in ["socks5://u:secret@h", "ftp://u:secret@h", "http://u:secret@"] {
            let result =
                Client::with_environment(&Settings::default(), &env(&[("HTTP_PROXY", url)]));
            let text = result.unwrap_err().to_string();
            assert!(text.contains("HTTP_PROXY") && !text.contains("secret"), "{text}");
        }
    }

    #[test]
    fn debug_shows_no_proxy_password() {
        let env = env(&[("HTTP_PROXY", "http://user:secret@h")]);
        let client = Client::with_environment(&Settings::default(), &env).unwrap();
        assert!(!format!("{env:?} {client:?}").contains("secret"));
    }

    #[test]
    fn a_proxy_gets_a_connect_with_the_decoded_credentials() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://us%40er:p%3Aw@{}", listener.local_addr().unwrap());
        let server = std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            // To its end: closing a socket with bytes unread would reset the answer.
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                socket.read_exact(&mut byte).unwrap();
                head.push(byte[0]);
            }
            socket.write_all(b"HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n").unwrap();
            String::from_utf8(head).unwrap()
        });
        let client =
            Client::with_environment(&Settings::default(), &env(&[("http_proxy", &url)])).unwrap();
        let uri: Uri = "http://git.example/x".parse().unwrap();
        let error = client.agent(&uri).get(uri.clone()).call().unwrap_err();
        assert!(
            explain(&error).contains("the proxy requires authentication"),
            "{}",
            explain(&error)
        );
        assert!(is_denied(&error) && !is_transient(&error));
        let head = server.join().unwrap();
        assert!(head.starts_with("CONNECT git.example:80 HTTP/1.1\r\n"), "{head}");
        // us@er:p:w
        assert!(head.contains("Proxy-Authorization: Basic dXNAZXI6cDp3\r\n"), "{head}");
    }

    #[test]
    fn cutting_ends_a_wait_at_once_and_later_requests_go_well() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let uri: Uri = format!("http://{}/x", listener.local_addr().unwrap()).parse().unwrap();
        let client =
            Client::with_environment(&Settings::default(), &Environment::default()).unwrap();
        let other = client.apart();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| client.agent(&uri).get(uri.clone()).call());
            let (mut silent, _) = listener.accept().unwrap();
            // The request is there: the client waits for its answer.
            silent.read_exact(&mut [0]).unwrap();
            other.cut();
            assert!(!waiting.is_finished());
            client.cut();
            assert!(is_transient(&waiting.join().unwrap().unwrap_err()));
            let second = scope.spawn(|| client.agent(&uri).get(uri.clone()).call());
            let (mut socket, _) = listener.accept().unwrap();
            socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
            assert_eq!(second.join().unwrap().unwrap().status(), 200);
        });
    }

    #[test]
    fn name_that_leads_into_another_network_is_not_asked() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let client =
            Client::with_environment(&Settings::default(), &Environment::default()).unwrap();
        for host in ["localhost", "127.0.0.1", "[::ffff:127.0.0.1]", "2130706433"] {
            let uri: Uri = format!("http://{host}:{port}/").parse().unwrap();
            let ask = |reach| {
                let agent = client.agent_within(&uri, reach)?;
                agent.get(uri.clone()).call()
            };
            // Twice: the second time the address is known.
            for _ in 0..2 {
                let error = ask(Reach::default()).unwrap_err();
                assert!(explain(&error).contains("not contacted"), "{host}: {error}");
                assert!(!is_transient(&error));
            }
            assert_eq!(client.network_of(&uri), Network::Loopback, "{host}");
        }
        let nobody = listener.accept().unwrap_err();
        assert_eq!(nobody.kind(), std::io::ErrorKind::WouldBlock);
    }

    #[test]
    fn endless_retry_after_can_be_added_to_a_time() {
        for value in ["18446744073709551615", "Fri, 31 Dec 9999 23:59:59 GMT", "31536000000"] {
            let mut headers = HeaderMap::new();
            headers.insert("retry-after", value.parse().unwrap());
            let wait = retry_after(&headers).expect(value);
            assert!(wait.checked_add(Duration::from_secs(3600)).is_some(), "{value}");
            assert!(Instant::now().checked_add(wait).is_some(), "{value}");
            assert!(wait <= MAX_RETRY_AFTER, "{value}");
        }
    }

    #[test]
    fn a_ca_bundle_must_be_there_and_hold_certificates() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        let client = || {
            let settings = Settings { ca_bundle: Some(path.clone()), ..Settings::default() };
            Client::with_environment(&settings, &Environment::default())
        };
        assert!(matches!(client(), Err(HttpError::CaFile { origin: "--ca-bundle", .. })));
        std::fs::write(&path, "nothing here").unwrap();
        assert!(matches!(client(), Err(HttpError::CaContent { .. })));
        std::fs::write(&path, "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n")
            .unwrap();
        assert!(matches!(client(), Err(HttpError::CaContent { .. })));
    }

    #[test]
    fn a_variable_that_names_a_missing_file_is_no_error() {
        let env = env(&[("AWS_CA_BUNDLE", "/does/not/exist.pem")]);
        assert_eq!(env.ca_files.len(), 1);
        assert!(Client::with_environment(&Settings::default(), &env).is_ok());
    }

    #[test]
    fn addresses_are_asked_for_once() {
        let resolver = CachingResolver::default();
        let known = "192.0.2.7:80".parse().unwrap();
        let key = "http://host.invalid:0".to_owned();
        resolver.known.lock().unwrap().insert(key, (Instant::now(), vec![known]));
        let uri = "http://host.invalid/".parse().unwrap();
        let timeout = || NextTimeout {
            after: ureq::unversioned::transport::time::Duration::NotHappening,
            reason: ureq::Timeout::Resolve,
            ..NextTimeout::default()
        };
        let config = Config::builder().build();
        assert_eq!(&*resolver.resolve(&uri, &config, timeout()).unwrap(), &[known]);
        let local = "http://127.0.0.1:9/".parse().unwrap();
        resolver.resolve(&local, &config, timeout()).unwrap();
        assert!(resolver.lookup("http://127.0.0.1:9").is_some());
    }

    #[test]
    fn server_without_tls_is_named() {
        let reason = rustls::InvalidMessage::InvalidContentType;
        let error = ureq::Error::Rustls(rustls::Error::InvalidMessage(reason));
        assert!(explain(&error).starts_with("the server does not speak TLS on this port"));
    }

    #[test]
    fn an_untrusted_certificate_says_how_to_trust_it() {
        let tls = |reason| rustls::Error::InvalidCertificate(reason);
        let direct = ureq::Error::Rustls(tls(rustls::CertificateError::UnknownIssuer));
        let wrapped = ureq::Error::Io(std::io::Error::new(
            std::io::ErrorKind::InvalidData,
            tls(rustls::CertificateError::UnknownIssuer),
        ));
        for error in [direct, wrapped] {
            assert!(explain(&error).contains("--ca-bundle FILE"));
            assert!(!is_transient(&error));
        }
        assert!(is_transient(&ureq::Error::HostNotFound));
        assert!(is_transient(&ureq::Error::Io(std::io::ErrorKind::ConnectionReset.into())));
    }
}
