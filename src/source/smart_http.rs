//! A repository behind git's smart HTTP protocol, versions 0 and 2 (gitprotocol-http(5)).
//!
//! One GET asks who is there, and follows redirects; for version 2 a POST asks for the refs; one POST
//! asks for the pack and streams it. The beginnings of these requests are repeated when they fail for
//! a while; a pack that breaks off in the middle is the caller's to ask for again. Credentials go to
//! the source's own host alone ([`auth`](super::auth)). No error and no log line shows userinfo, a
//! query or a header.

mod answer;
mod gzip;

use std::fmt;
use std::io::{BufReader, Read};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ureq::http::header::{self, HeaderName, HeaderValue};
use ureq::http::{Method, Request, Response, StatusCode, Uri};
use ureq::{AsSendBody, Body, BodyReader};
use url::Url;

use self::answer::{
    Limited, PackStream, drain, from_io, from_protocol, not_smart, plain_words, read_start,
};
use self::gzip::gzip;
use crate::git::bundle::read_header;
use crate::git::bundle_uri;
use crate::git::fetch_v0::CapabilitiesV0;
use crate::git::fetch_v2::{Deepen, ShallowInfo};
use crate::git::handshake::{self, Greeting};
use crate::git::lfs_pointer::lfs_url;
use crate::git::object::Oid;
use crate::git::pkt_line::Packets;
use crate::git::refs::{Advertised, Advertisement, Head, max_refs_bytes};
use crate::git::sideband::Demux;
use crate::git::{fetch_v0, fetch_v2};
use crate::http::{self, Client};
pub use crate::run::retry::Policy;
use crate::run::retry::{Backoff, sleep, with_retry};
use crate::source::auth::{Auth, Credentials};
use crate::source::error::{SourceError, SourceErrorKind};
pub use crate::source::exchange::USER_AGENT;
use crate::source::exchange::{
    MAX_REDIRECTS, content_type, fatal, redirect_target, refusal, shown, unanswered,
    warn_of_skipped,
};
use crate::source::interface::{LfsSource, Seed, Source};
use crate::source::lfs::{LfsServer, default_endpoint};
use crate::source::resumed::{Header, Resumed};

/// Bodies above this are sent gzipped, as git does (`remote-curl.c`, `post_rpc`).
const GZIP_ABOVE: usize = 1024;

/// The most bytes of a list of bundles.
const MAX_BUNDLE_LIST: u64 = 1 << 20;

/// How many of a list are looked at.
const BUNDLES_TRIED: usize = 4;

/// How failures that may pass are dealt with, whatever the server asks for.
const POLICY: Policy = Policy {
    max_attempts: 5,
    first_delay: Duration::from_millis(500),
    max_delay: Duration::MAX,
    max_total: Duration::from_secs(180),
};

/// Is what a source does still wanted?
type Cancelled = Box<dyn Fn() -> bool + Send + Sync>;

/// A source behind smart HTTP(S).
pub struct SmartHttp {
    /// Without userinfo, query, fragment and trailing slash.
    url: Url,
    client: Client,
    credentials: Credentials,
    policy: Policy,
    cancelled: Cancelled,
    requests: Arc<AtomicU64>,
    /// A pack has broken off: some proxies count what a connection has carried, so none carries two.
    broken: Arc<AtomicBool>,
    /// The most bytes of refs that are read.
    max_refs_bytes: u64,
    /// May `.lfsconfig` name another host?
    lfs_other_host: bool,
    /// May the server redirect to another host?
    redirect_other_host: bool,
    /// What the last greeting said; guarded for copying it alone.
    session: Mutex<Option<Session>>,
}

/// Where the server is, after redirects, and what it speaks.
#[derive(Clone, Debug)]
struct Session {
    url: Url,
    protocol: Protocol,
}

#[derive(Clone, Copy, Debug)]
enum Protocol {
    V0(CapabilitiesV0),
    V2(fetch_v2::Capabilities),
}

impl SmartHttp {
    /// A source at `url`, which is http or https. Nothing is sent yet.
    pub fn new(url: &str, client: Client, auth: Auth) -> Result<SmartHttp, SourceError> {
        // The text itself can't be shown: it may hold a password.
        let fail = |message: &str| fatal("source", message.to_owned());
        let mut url = Url::parse(url.trim()).map_err(|e| fail(&format!("not a URL: {e}")))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(fail("the URL is neither http nor https"));
        }
        let credentials = Credentials::take_from(&mut url, &auth);
        if url.query().is_some() || url.fragment().is_some() {
            let message = "a source's URL has no query and no fragment; for a token use userinfo, \
                           .netrc or --source-header-file";
            return Err(fatal(&shown(&url), message.to_owned()));
        }
        let path = url.path().trim_end_matches('/').to_owned();
        url.set_path(&path);
        Ok(SmartHttp {
            url,
            client,
            credentials,
            policy: POLICY,
            cancelled: Box::new(|| false),
            requests: Arc::default(),
            broken: Arc::default(),
            max_refs_bytes: max_refs_bytes(64 << 20),
            lfs_other_host: false,
            redirect_other_host: false,
            session: Mutex::new(None),
        })
    }

    /// The same, but requests are repeated as `policy` says.
    pub fn with_policy(self, policy: Policy) -> Self {
        SmartHttp { policy, ..self }
    }

    /// No further try, and no further wait between two, once `cancelled` is true: the last failure
    /// is the answer. A wait for the server itself ends with [`Client::cut`].
    #[must_use]
    pub fn with_cancel(self, cancelled: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        SmartHttp { cancelled: Box::new(cancelled), ..self }
    }

    /// The same; refs are read as far as they fit so much working memory ([`max_refs_bytes`]).
    pub fn with_memory(self, memory_bytes: u64) -> Self {
        SmartHttp { max_refs_bytes: max_refs_bytes(memory_bytes), ..self }
    }

    /// The same; with `allowed`, `.lfsconfig` may name an LFS server on another host.
    pub fn with_lfs_other_host(self, allowed: bool) -> Self {
        SmartHttp { lfs_other_host: allowed, ..self }
    }

    /// The same; with `allowed`, the server may redirect to another host.
    pub fn with_redirect_other_host(self, allowed: bool) -> Self {
        SmartHttp { redirect_other_host: allowed, ..self }
    }

    /// Whoever runs the source decides where it redirects. A mirror that followed it anywhere would
    /// read, and publish, what only its own network can reach.
    fn check_redirect(&self, target: &Url) -> Result<(), SourceError> {
        if self.redirect_other_host || is_same_host(&self.url, target) {
            return Ok(());
        }
        let message = format!(
            "it redirects to another host, {}: not followed; if the repository has moved there, use \
             that URL, or allow it with --allow-redirect-host",
            shown(target)
        );
        Err(fatal(&shown(&self.url), message))
    }

    /// Where the repository is: after redirects, once it has been asked. No userinfo, no query, no
    /// trailing slash.
    pub fn url(&self) -> Url {
        self.last_session().map_or_else(|| self.url.clone(), |session| session.url)
    }

    /// What this source gets of the user's credentials, for requests beside git's own (LFS).
    pub fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// The LFS server that a `.lfsconfig` names, if it may be used.
    ///
    /// Whoever can push a commit writes that file. A mirror that followed it anywhere would send
    /// requests from inside its network to wherever that somebody likes, so another host than the
    /// repository's own needs the user's word.
    fn configured_lfs(&self, lfsconfig: &[u8]) -> Option<Url> {
        let text = lfs_url(lfsconfig)?;
        let place = self.describe();
        let usable = Url::parse(&text).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        let usable = usable.filter(|url| {
            url.query().is_none() && url.fragment().is_none() && !text.contains('\\')
        });
        let Some(url) = usable else {
            log::warn!(
                "{place}: lfs.url of .lfsconfig is not a plain http or https URL and is ignored"
            );
            return None;
        };
        let place_is = |known: &Url| {
            is_same_host(known, &url) && (known.scheme() == "http" || url.scheme() == "https")
        };
        if self.lfs_other_host || place_is(&self.url) || place_is(&self.url()) {
            log::info!("{place}: .lfsconfig sets the LFS server {}", shown(&url));
            return Some(url);
        }
        log::warn!(
            "{place}: .lfsconfig names an LFS server on another host or port, or by http, {}, and is not followed: \
             anyone who can push could direct requests anywhere; if this is intended, allow it with \
             --lfs-allow-other-host",
            shown(&url)
        );
        None
    }

    fn last_session(&self) -> Option<Session> {
        self.session.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    /// The session, begun if there is none; with version 0 the refs come along.
    fn begin(&self) -> Result<(Session, Option<Advertised>), SourceError> {
        let (url, greeting) = self.with_retries(|| self.greet())?;
        let (protocol, refs) = match greeting {
            Greeting::V0(v0) => (Protocol::V0(v0.capabilities), Some(v0.advertised)),
            Greeting::V2(capabilities) => (Protocol::V2(capabilities), None),
        };
        let session = Session { url, protocol };
        let mut last = self.session.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        *last = Some(session.clone());
        Ok((session, refs))
    }

    /// The first GET. Answers where it led to in the end, and what was said there.
    fn greet(&self) -> Result<(Url, Greeting), SourceError> {
        let mut url = self.url.clone();
        url.set_path(&format!("{}/info/refs", self.url.path().trim_end_matches('/')));
        url.set_query(Some("service=git-upload-pack"));
        for _ in 0..=MAX_REDIRECTS {
            let response = self.send(Method::GET, &url, &[("git-protocol", "version=2")], ())?;
            match redirect_target(&response, &url)? {
                Some(target) => {
                    self.check_redirect(&target)?;
                    url = target;
                }
                None => return self.read_greeting(url, response),
            }
        }
        Err(fatal(&shown(&self.url), format!("more than {MAX_REDIRECTS} redirects")))
    }

    fn read_greeting(
        &self,
        mut url: Url,
        response: Response<Body>,
    ) -> Result<(Url, Greeting), SourceError> {
        let place = shown(&url);
        let response = self.check_status(&url, response)?;
        let content_type = content_type(response.headers());
        let mut body = Limited::new(response.into_body().into_reader(), self.max_refs_bytes);
        let start = read_start(&mut body).map_err(|error| from_io(&place, error))?;
        if content_type != "application/x-git-upload-pack-advertisement"
            && !handshake::looks_smart(&start)
        {
            return Err(not_smart(&place, &content_type, &start));
        }
        // The POSTs go to where the GET was led to (git's `update_url_from_redirect`).
        let Some(path) = url.path().strip_suffix("/info/refs").map(str::to_owned) else {
            let message = "the server redirects to an address that is not a repository's info/refs";
            return Err(fatal(&place, message.to_owned()));
        };
        let greeting = handshake::read_greeting((&start[..]).chain(&mut body))
            .map_err(|error| from_protocol(&place, error))?;
        drain(&mut body);
        url.set_path(&path);
        url.set_query(None);
        Ok((url, greeting))
    }

    fn ls_refs(
        &self,
        session: &Session,
        capabilities: fetch_v2::Capabilities,
    ) -> Result<Advertised, SourceError> {
        let body = fetch_v2::ls_refs_request(capabilities);
        self.with_retries(|| {
            let mut answer = Limited::new(self.post(session, &body)?, self.max_refs_bytes);
            let refs = fetch_v2::read_refs(&mut answer, capabilities.format())
                .map_err(|error| from_protocol(&shown(&session.url), error))?;
            drain(&mut answer);
            Ok(refs)
        })
    }

    /// Asks for the pack and reads up to where its side-bands begin.
    fn begin_pack(
        &self,
        session: &Session,
        body: &[u8],
    ) -> Result<BodyReader<'static>, SourceError> {
        let mut packets = Packets::new(self.post(session, body)?);
        match session.protocol {
            Protocol::V0(_) => fetch_v0::read_ack(&mut packets),
            Protocol::V2(_) => fetch_v2::read_until_pack(&mut packets),
        }
        .map_err(|error| from_protocol(&shown(&session.url), error))?;
        Ok(packets.into_inner())
    }

    /// One POST to `git-upload-pack`, and the answer's body if it is one.
    fn post(&self, session: &Session, body: &[u8]) -> Result<BodyReader<'static>, SourceError> {
        let mut url = session.url.clone();
        // A repository at the root of its host has a lone slash for a path.
        let path = session.url.path().trim_end_matches('/');
        url.set_path(&format!("{path}/git-upload-pack"));
        let mut headers = vec![
            ("content-type", "application/x-git-upload-pack-request"),
            ("accept", "application/x-git-upload-pack-result"),
        ];
        if matches!(session.protocol, Protocol::V2(_)) {
            headers.push(("git-protocol", "version=2"));
        }
        if self.broken.load(Ordering::Relaxed) {
            headers.push(("connection", "close"));
        }
        let zipped = if body.len() > GZIP_ABOVE { gzip(body) } else { None };
        if zipped.is_some() {
            headers.push(("content-encoding", "gzip"));
        }
        let body = zipped.as_deref().unwrap_or(body);
        let response = self.send(Method::POST, &url, &headers, body)?;
        if response.status().is_redirection() {
            let message =
                "the server redirects the request for a pack: not followed (git does not either)";
            return Err(fatal(&shown(&url), message.to_owned()));
        }
        let response = self.check_status(&url, response)?;
        let content_type = content_type(response.headers());
        let mut body = response.into_body().into_reader();
        if content_type != "application/x-git-upload-pack-result" {
            let start = read_start(&mut body).map_err(|error| from_io(&shown(&url), error))?;
            return Err(not_smart(&shown(&url), &content_type, &start));
        }
        Ok(body)
    }

    /// Sends one request, counted, with the credentials that are for this address.
    fn send(
        &self,
        method: Method,
        url: &Url,
        headers: &[(&'static str, &'static str)],
        body: impl AsSendBody,
    ) -> Result<Response<Body>, SourceError> {
        let header = |&(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        self.send_with(method, url, headers.iter().map(header), body)
    }

    fn send_with(
        &self,
        method: Method,
        url: &Url,
        headers: impl Iterator<Item = Header>,
        body: impl AsSendBody,
    ) -> Result<Response<Body>, SourceError> {
        let place = shown(url);
        let uri: Uri =
            url.as_str().parse().map_err(|_| fatal(&place, "not a usable URL".into()))?;
        let mut request = Request::builder()
            .method(method)
            .uri(uri.clone())
            .header(header::USER_AGENT, USER_AGENT)
            .header(header::PRAGMA, "no-cache");
        for (name, value) in headers {
            request = request.header(name, value);
        }
        for (name, value) in self.credentials.headers_for(url) {
            request = request.header(name, value);
        }
        let request = request.body(body).map_err(|error| fatal(&place, error.to_string()))?;
        self.requests.fetch_add(1, Ordering::Relaxed);
        let answer = self.client.agent(&uri).run(request);
        answer.map_err(|error| unanswered(&self.client, &uri, &place, &error))
    }

    /// A GET for a file beside the repository.
    fn get_file(&self, url: &Url, headers: &[Header]) -> Result<Response<Body>, SourceError> {
        let mut url = url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let response = self.send_with(Method::GET, &url, headers.iter().cloned(), ())?;
            match redirect_target(&response, &url)? {
                Some(target) => {
                    self.check_redirect(&target)?;
                    url = target;
                }
                None => return Ok(response),
            }
        }
        Err(fatal(&shown(&url), format!("more than {MAX_REDIRECTS} redirects")))
    }

    /// Where bundles may be: where the server says, or else where Android's repo looks for one.
    fn bundle_urls(&self, session: &Session) -> Vec<Url> {
        let listed = match session.protocol {
            Protocol::V2(capabilities) if capabilities.has_bundle_uri() => {
                let body = bundle_uri::request(capabilities);
                self.post(session, &body).and_then(|answer| {
                    bundle_uri::read_uris(answer.take(MAX_BUNDLE_LIST))
                        .map_err(|error| from_protocol(&shown(&session.url), error))
                })
            }
            _ => Ok(Vec::new()),
        };
        let listed = listed.unwrap_or_else(|error| {
            log::info!("cannot request the list of bundles: {error}");
            Vec::new()
        });
        // Relative ones are below the repository (gitprotocol-v2(5)).
        let mut base = session.url.clone();
        base.set_path(&format!("{}/", session.url.path().trim_end_matches('/')));
        let urls = listed.iter().filter_map(|uri| base.join(uri).ok());
        let urls: Vec<Url> = urls.filter(|url| self.may_read(url)).take(BUNDLES_TRIED).collect();
        match listed.is_empty() {
            true => base.join("clone.bundle").into_iter().collect(),
            false => urls,
        }
    }

    /// The rules of redirects: another host needs the user's word, and https stays https.
    fn may_read(&self, url: &Url) -> bool {
        let scheme = matches!((self.url.scheme(), url.scheme()), (_, "https") | ("http", "http"));
        if !scheme || !url.username().is_empty() || url.password().is_some() {
            log::info!("the server offers a bundle at {}: not used", shown(url));
            return false;
        }
        let allowed = self.check_redirect(url).is_ok();
        if !allowed {
            log::warn!(
                "{}: the server names a bundle on another host, {}: not read; if this is intended, \
                 allow it with --allow-redirect-host",
                self.describe(),
                shown(url)
            );
        }
        allowed
    }

    /// The bundle at `url`, if there is one of a whole repository.
    fn open_bundle(&self, url: Url) -> Result<Option<Seed<'_>>, SourceError> {
        let place = shown(&url);
        let get = Box::new(|url: &Url, headers: &[Header]| self.get_file(url, headers));
        let Some(file) = Resumed::open(get, url, &self.cancelled)? else { return Ok(None) };
        let mut input = BufReader::with_capacity(64 << 10, file);
        let header = match read_header(&mut input, self.max_refs_bytes) {
            Ok(header) => header,
            Err(error) => {
                log::info!("{place}: {error}");
                return Ok(None);
            }
        };
        let advertised = header.advertised.advertisement;
        let head = match advertised.head {
            Head::Detached(oid) => Some(oid),
            _ => None,
        };
        let tips: Vec<Oid> = advertised.refs.iter().map(|r| r.oid).chain(head).collect();
        if !header.prerequisites.is_empty() || tips.is_empty() {
            log::info!("{place}: the bundle is not complete");
            return Ok(None);
        }
        Ok(Some(Seed { place, tips: distinct(&tips), pack: Box::new(input) }))
    }

    /// Lets 200 through, and makes an error of everything else.
    fn check_status(
        &self,
        url: &Url,
        response: Response<Body>,
    ) -> Result<Response<Body>, SourceError> {
        let status = response.status();
        if status == StatusCode::OK {
            return Ok(response);
        }
        let retry_after = http::retry_after(response.headers());
        let words = plain_words(response);
        let sent = !self.credentials.headers_for(url).is_empty();
        let (kind, message) = refusal(status, sent, retry_after);
        Err(SourceError { kind, url: shown(url), message: message + &words })
    }

    /// Repeats what may succeed the next time, a bounded number of times in a bounded time.
    fn with_retries<T>(
        &self,
        attempt: impl FnMut() -> Result<T, SourceError>,
    ) -> Result<T, SourceError> {
        let mut backoff = Backoff::new(self.policy);
        let wait_after = |error: &SourceError| match error.kind {
            SourceErrorKind::Transient { retry_after } => backoff.wait_after(retry_after),
            _ => None,
        };
        with_retry(wait_after, |wait| sleep(wait, &self.cancelled), attempt)
    }
}

impl fmt::Debug for SmartHttp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SmartHttp")
            .field("url", &shown(&self.url))
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}

impl Source for SmartHttp {
    fn describe(&self) -> String {
        shown(&self.url)
    }

    fn advertisement(&self) -> Result<Advertisement, SourceError> {
        let (session, refs) = self.begin()?;
        let refs = match (session.protocol, refs) {
            (Protocol::V2(capabilities), _) => self.ls_refs(&session, capabilities)?,
            (Protocol::V0(_), Some(refs)) => refs,
            (Protocol::V0(_), None) => {
                unreachable!("with version 0 the refs come with the greeting")
            }
        };
        warn_of_skipped(&self.describe(), &refs.skipped);
        Ok(refs.advertisement)
    }

    fn fetch<'a>(
        &'a self,
        wants: &[Oid],
        haves: &[Oid],
        words: Box<dyn FnMut(&str) + Send + 'a>,
    ) -> Result<Box<dyn Read + Send + 'a>, SourceError> {
        let session = match self.last_session() {
            Some(session) => session,
            None => self.begin()?.0,
        };
        let place = shown(&session.url);
        if wants.is_empty() {
            return Err(fatal(&place, "nothing to request".into()));
        }
        // Many refs may point at one object.
        let (wants, haves) = (distinct(wants), distinct(haves));
        let body = match session.protocol {
            Protocol::V0(capabilities) => fetch_v0::fetch_request(capabilities, &wants, &haves)
                .map_err(|error| from_protocol(&place, error))?,
            Protocol::V2(capabilities) => fetch_v2::fetch_request(capabilities, &wants, &haves),
        };
        let input = self.with_retries(|| self.begin_pack(&session, &body))?;
        let demux = match session.protocol {
            Protocol::V0(_) => Demux::after_acks(input, words),
            Protocol::V2(_) => Demux::new(input, words),
        };
        let demux = demux.on_sign_of_life(http::sign_of_life);
        let broken = Arc::clone(&self.broken);
        Ok(Box::new(PackStream { demux, place, broken }))
    }

    fn commits_at(&self, tip: Oid, depth: u32) -> Result<Option<Vec<Oid>>, SourceError> {
        let session = match self.last_session() {
            Some(session) => session,
            None => self.begin()?.0,
        };
        let capabilities = match session.protocol {
            Protocol::V2(capabilities) if capabilities.can_deepen() => capabilities,
            _ => return Ok(None),
        };
        let place = shown(&session.url);
        // Who has the tip is sent no object, only where history is cut.
        let deepen = Deepen { shallow: &[], depth };
        let body = fetch_v2::deepen_request(capabilities, &[tip], &[tip], deepen);
        let ShallowInfo { shallow, .. } = self.with_retries(|| {
            let mut packets = Packets::new(self.post(&session, &body)?);
            let info = fetch_v2::read_until_deepened_pack(&mut packets)
                .map_err(|error| from_protocol(&place, error))?;
            drain(&mut packets.into_inner());
            Ok(info)
        })?;
        Ok(Some(distinct(&shallow)))
    }

    fn fetch_objects<'a>(
        &'a self,
        wants: &[Oid],
        words: Box<dyn FnMut(&str) + Send + 'a>,
    ) -> Result<Option<Box<dyn Read + Send + 'a>>, SourceError> {
        let session = match self.last_session() {
            Some(session) => session,
            None => self.begin()?.0,
        };
        let capabilities = match session.protocol {
            Protocol::V2(capabilities) if capabilities.can_pick() => capabilities,
            _ => return Ok(None),
        };
        let place = shown(&session.url);
        let body = fetch_v2::objects_request(capabilities, &distinct(wants));
        let input = self.with_retries(|| {
            let mut packets = Packets::new(self.post(&session, &body)?);
            fetch_v2::read_until_deepened_pack(&mut packets)
                .map_err(|error| from_protocol(&place, error).of_objects())?;
            Ok(packets.into_inner())
        })?;
        let demux = Demux::new(input, words).on_sign_of_life(http::sign_of_life);
        let broken = Arc::clone(&self.broken);
        Ok(Some(Box::new(PackStream { demux, place, broken })))
    }

    fn seed(&self) -> Result<Option<Seed<'_>>, SourceError> {
        let session = match self.last_session() {
            Some(session) => session,
            None => self.begin()?.0,
        };
        for url in self.bundle_urls(&session) {
            if let Some(seed) = self.open_bundle(url)? {
                return Ok(Some(seed));
            }
        }
        Ok(None)
    }

    fn redirected_to(&self) -> Option<String> {
        let url = self.url();
        (url.as_str().trim_end_matches('/') != self.url.as_str().trim_end_matches('/'))
            .then(|| shown(&url))
    }

    fn lfs(&self, lfsconfig: Option<&[u8]>) -> Option<Box<dyn LfsSource + '_>> {
        let endpoint = lfsconfig
            .and_then(|file| self.configured_lfs(file))
            .unwrap_or_else(|| default_endpoint(&self.url()));
        let server = LfsServer::new(endpoint, self.client.clone(), self.credentials.clone());
        let server = server.of_source(self.url.clone());
        Some(Box::new(server.counting(self.requests.clone())))
    }

    fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }
}

fn distinct(oids: &[Oid]) -> Vec<Oid> {
    let mut oids = oids.to_vec();
    oids.sort_unstable();
    oids.dedup();
    oids
}

/// Is this the same server? On another port there may be another one; https instead of http, both on
/// the usual port, is the same.
fn is_same_host(one: &Url, other: &Url) -> bool {
    let usual = one.port().is_none() && other.port().is_none();
    one.host_str() == other.host_str()
        && (usual || one.port_or_known_default() == other.port_or_known_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{Environment, Settings};

    fn source(url: &str) -> Result<SmartHttp, SourceError> {
        let client = Client::with_environment(&Settings::default(), &Environment::default());
        SmartHttp::new(url, client.unwrap(), Auth::none())
    }

    #[test]
    fn no_text_shows_userinfo_or_query() {
        let source = source("https://user:hush@git.example/a/b.git/").unwrap();
        assert_eq!(source.describe(), "https://git.example/a/b.git");
        assert_eq!(source.url().as_str(), "https://git.example/a/b.git");
        assert!(!format!("{source:?}").contains("hush"));
    }

    #[test]
    fn urls_that_cannot_be_sources_are_refused_without_showing_them() {
        for bad in
            ["hush", "ssh://u:hush@h/x", "https://h/x?token=hush", "https://u:hush@/", "file:///x"]
        {
            let text = source(bad).unwrap_err().to_string();
            assert!(!text.contains("hush"), "{text}");
        }
    }

    #[test]
    fn lfsconfig_may_name_the_own_scheme_host_and_port_and_nothing_cunning() {
        for (own, named, followed) in [
            ("https://h/r", "https://h/lfs", true),
            ("https://h/r", "https://h:443/lfs", true),
            ("http://h/r", "https://h/lfs", true),
            ("https://h/r", "http://h/lfs", false),
            ("https://h/r", "https://h:8443/lfs", false),
            ("http://h:8080/r", "http://h/lfs", false),
            ("https://h/r", "https://h.evil/lfs", false),
            ("https://h/r", "https://h@evil/lfs", false),
            ("https://h/r", "https://evil/?https://h/lfs", false),
            ("https://h/r", "https://h/lfs?to=evil", false),
            ("https://h/r", "https://h/lfs#x", false),
            ("https://h/r", "https://h\\\\@evil/lfs", false),
            ("https://h/r", "file:///etc", false),
        ] {
            let file = format!("[lfs]\n\turl = \"{named}\"\n");
            let found = source(own).unwrap().configured_lfs(file.as_bytes());
            assert_eq!(found.is_some(), followed, "{own} {named}: {found:?}");
        }
    }
}
