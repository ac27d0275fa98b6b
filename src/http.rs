//! The one place that builds HTTP agents: trusted roots, proxies, time-outs, DNS, pool.
//!
//! [`crate::store`] and [`crate::source`] share it and know nothing of each other. One [`Client`]
//! serves the whole run, so that all repositories share its connections. It never follows a
//! redirect, never turns a status into an error, and sets no header: that is its users' business.
//! The environment is read in [`Environment::read`] alone, but for the place of the system's roots.
//!
//! Through a proxy every connection is a tunnel (`CONNECT`), for plain http as well: that is how
//! ureq does it. A proxy that only tunnels to port 443 refuses http sources.

mod answer;
mod failure;
mod no_proxy;
mod pace;
mod reach;
mod resolver;
mod roots;
mod settings;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use ureq::config::Config;
use ureq::http::Uri;
use ureq::tls::{RootCerts, TlsConfig};
use ureq::unversioned::resolver::Resolver as _;
use ureq::unversioned::transport::{
    ConnectProxyConnector, Connector as _, NextTimeout, RustlsConnector, TcpConnector,
};
use ureq::{Agent, Proxy};

pub use self::answer::{check_object, parse_date, retry_after};
pub use self::failure::{explain, is_denied, is_too_slow, is_transient};
use self::no_proxy::NoProxy;
use self::pace::PaceConnector;
pub use self::pace::{LowSpeed, PATIENCE, at_most, sign_of_life};
pub use self::reach::{Network, Reach};
use self::resolver::{CachingResolver, check_reach, literal_address};
use self::roots::roots;
pub use self::settings::{Environment, HttpError, Settings};

/// The most bytes of an answer's headers: with a little room to spare they fit the input's buffer.
const MAX_HEADER_BYTES: usize = 15 << 10;

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
        let resolver = recipe.resolver.within(reach);
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
        let but = [("HTTP_PROXY", "http://p:2"), ("no_proxy", "host")];
        assert_eq!(chosen(&but, "http://host:8080/"), None);
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
}
