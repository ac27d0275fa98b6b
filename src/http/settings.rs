//! What users choose about HTTP: options, and what of the environment matters.
//!
//! [`Environment::read`] is the only place that looks variables up. Nothing here shows a proxy's URL, which
//! may hold a password.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::pace::LowSpeed;

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
