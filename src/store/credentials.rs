//! Whose keys requests are signed with.
//!
//! Searched in this order, the first that has keys wins: what was given, the environment, the
//! profile files, a web identity token (Kubernetes), the container's endpoint (ECS, EKS), the
//! instance's metadata (EC2, version 2). A search that begins is short: no step may take longer
//! than its time-out, and metadata, which nobody answers outside EC2, a second to connect and four
//! in all. Metadata and what is on this machine are never asked through a proxy, which would have
//! another role or none.
//!
//! Temporary credentials are fetched again shortly before they end, and once when the store says
//! that they have ended; one thread fetches, the others wait for it. After a failure nobody asks for
//! a while. Environment and files are looked at through [`Search`], so that tests need not change
//! the process. No secret is in an error or in a [`fmt::Debug`] text.

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use ini::Ini;
use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use ureq::http::{Request, Uri};

use super::interface::{StoreError, StoreErrorKind};
use crate::http;

/// Fetched again when less than this is left of them.
const REFRESH_BEFORE: Duration = Duration::from_secs(300);
/// A search that failed is not repeated sooner: other threads, and the next repositories of a list,
/// would each wait for the same time-outs.
const PAUSE: Duration = Duration::from_secs(30);
/// One answer of a credentials endpoint.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Nobody answers at the metadata's address outside EC2.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// All of an instance's metadata.
const METADATA_TIMEOUT: Duration = Duration::from_secs(4);
/// STS is far away, maybe.
const STS_TIMEOUT: Duration = Duration::from_secs(10);
/// The most bytes of a token file or of an answer.
const MAX_BYTES: u64 = 64 << 10;
/// Where containers on ECS ask: <https://docs.aws.amazon.com/sdkref/latest/guide/feature-container-credentials.html>.
const CONTAINER_HOST: &str = "http://169.254.170.2";
/// Where EC2 instances ask:
/// <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-retrieval.html>.
const METADATA_HOST: &str = "http://169.254.169.254";

/// An access key with its secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The access key's id.
    pub access_key: String,
    /// Its secret.
    pub secret_key: String,
    /// Of temporary credentials.
    pub session_token: Option<String>,
    /// When they end, if they do.
    pub expires: Option<SystemTime>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("expires", &self.expires).finish_non_exhaustive()
    }
}

impl Credentials {
    /// A pair of keys that does not end.
    pub fn new(access_key: impl Into<String>, secret_key: impl Into<String>) -> Self {
        Credentials {
            access_key: access_key.into(),
            secret_key: secret_key.into(),
            session_token: None,
            expires: None,
        }
    }

    fn ends_within(&self, span: Duration) -> bool {
        self.expires.is_some_and(|end| end <= SystemTime::now() + span)
    }
}

/// Looks a variable of the environment up; an empty one counts as not set.
pub type Lookup = Box<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// Where credentials are looked for.
pub struct Search {
    env: Lookup,
    profile: Option<String>,
    region: Option<String>,
    client: http::Client,
    metadata_host: String,
    container_host: String,
}

impl fmt::Debug for Search {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Search").field("profile", &self.profile).finish_non_exhaustive()
    }
}

impl Search {
    /// In the environment of this process, and where it points.
    pub fn new(client: http::Client) -> Self {
        Search::in_environment(client, Box::new(|name| std::env::var(name).ok()))
    }

    /// In an environment that `env` gives.
    pub fn in_environment(client: http::Client, env: Lookup) -> Self {
        Search {
            env,
            profile: None,
            region: None,
            client,
            metadata_host: METADATA_HOST.to_owned(),
            container_host: CONTAINER_HOST.to_owned(),
        }
    }

    /// This profile (`--profile`), and not the one that the environment names. A profile that was
    /// asked for beats keys in the environment, as in the AWS CLI.
    #[must_use]
    pub fn with_profile(mut self, profile: Option<String>) -> Self {
        self.profile = profile;
        self
    }

    /// The region whose STS is asked.
    #[must_use]
    pub fn with_region(mut self, region: Option<String>) -> Self {
        self.region = region;
        self
    }

    /// The region that the profile files name, if any.
    ///
    /// # Errors
    /// A file that can't be read as what it is.
    pub fn profile_region(&self) -> Result<Option<String>, StoreError> {
        let profile = self.profile_name();
        let read = |file, name: &str| -> Result<Option<String>, String> {
            let ini = self.read_ini(file)?;
            Ok(ini.as_ref().and_then(|ini| ini.get_from(Some(name), "region")).map(str::to_owned))
        };
        read(File::Config, &config_section(&profile))
            .and_then(|region| match region {
                None => read(File::Credentials, &profile),
                found => Ok(found),
            })
            .map_err(trouble)
    }

    fn var(&self, name: &str) -> Option<String> {
        (self.env)(name).filter(|value| !value.is_empty())
    }

    fn profile_name(&self) -> String {
        let named = self.profile.clone().or_else(|| self.var("AWS_PROFILE"));
        named.or_else(|| self.var("AWS_DEFAULT_PROFILE")).unwrap_or_else(|| "default".to_owned())
    }

    /// The first place that has credentials.
    fn run(&self) -> Result<Credentials, StoreError> {
        let mut looked = Vec::new();
        let places: [fn(&Self) -> Found; 5] = [
            Self::environment,
            Self::profile_files,
            Self::web_identity,
            Self::container,
            Self::metadata,
        ];
        for place in places {
            match place(self) {
                Found::Here(credentials) => return Ok(credentials),
                Found::Nothing(why) => looked.push(why),
                Found::Broken(message) => return Err(trouble(message)),
                Found::Unavailable(message) => {
                    let kind = StoreErrorKind::Transient { retry_after: None };
                    return Err(StoreError::new(kind, "find", "credentials", message));
                }
            }
        }
        let message = format!("no credentials found; searched: {}", looked.join("; "));
        Err(StoreError::new(StoreErrorKind::Denied, "find", "credentials", message))
    }

    fn environment(&self) -> Found {
        if self.profile.is_some() {
            return Found::Nothing("the environment (skipped because of --profile)".into());
        }
        match (self.var("AWS_ACCESS_KEY_ID"), self.var("AWS_SECRET_ACCESS_KEY")) {
            (Some(access_key), Some(secret_key)) => Found::Here(Credentials {
                access_key,
                secret_key,
                session_token: self.var("AWS_SESSION_TOKEN"),
                expires: None,
            }),
            (None, None) => {
                Found::Nothing("AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (not set)".into())
            }
            (Some(_), None) => {
                Found::Broken("AWS_ACCESS_KEY_ID is set, AWS_SECRET_ACCESS_KEY is not".into())
            }
            (None, Some(_)) => {
                Found::Broken("AWS_SECRET_ACCESS_KEY is set, AWS_ACCESS_KEY_ID is not".into())
            }
        }
    }

    fn file_path(&self, file: File) -> Option<PathBuf> {
        let (variable, name) = match file {
            File::Credentials => ("AWS_SHARED_CREDENTIALS_FILE", "credentials"),
            File::Config => ("AWS_CONFIG_FILE", "config"),
        };
        let home = || self.var("HOME").or_else(|| self.var("USERPROFILE"));
        match self.var(variable) {
            Some(path) => Some(PathBuf::from(path)),
            None => Some(Path::new(&home()?).join(".aws").join(name)),
        }
    }

    /// `None`: there is no such file.
    fn read_ini(&self, file: File) -> Result<Option<Ini>, String> {
        let Some(path) = self.file_path(file) else { return Ok(None) };
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(format!("{}: {error}", path.display())),
        };
        // Escapes would change a secret with a backslash, quotes are kept by the AWS CLI.
        let options =
            ini::ParseOption { enabled_quote: false, enabled_escape: false, ..Default::default() };
        // The parser's message could show a line of the file.
        Ini::load_from_str_opt(&text, options).map(Some).map_err(|error| {
            format!("{}: line {} cannot be parsed", path.display(), error.line + 1)
        })
    }

    fn profile_files(&self) -> Found {
        let profile = self.profile_name();
        let mut looked = Vec::new();
        for file in [File::Credentials, File::Config] {
            let section = match file {
                File::Credentials => profile.clone(),
                File::Config => config_section(&profile),
            };
            let ini = match self.read_ini(file) {
                Ok(ini) => ini,
                Err(message) => return Found::Broken(message),
            };
            if let Some(credentials) = ini.and_then(|ini| keys_of(&ini, &section)) {
                return Found::Here(credentials);
            }
            if let Some(path) = self.file_path(file) {
                looked.push(path.display().to_string());
            }
        }
        if self.profile.is_some() {
            let words = format!("profile {profile:?} has no keys in {}", looked.join(" or "));
            return Found::Broken(words);
        }
        Found::Nothing(format!("profile {profile:?} in {}", looked.join(" and ")))
    }

    /// AssumeRoleWithWebIdentity:
    /// <https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRoleWithWebIdentity.html>.
    fn web_identity(&self) -> Found {
        let (Some(file), Some(role)) =
            (self.var("AWS_WEB_IDENTITY_TOKEN_FILE"), self.var("AWS_ROLE_ARN"))
        else {
            return Found::Nothing(
                "AWS_WEB_IDENTITY_TOKEN_FILE with AWS_ROLE_ARN (not set)".into(),
            );
        };
        let token = match read_token(&file) {
            Ok(token) => token,
            Err(message) => return Found::Broken(message),
        };
        let session = self.var("AWS_ROLE_SESSION_NAME").unwrap_or("mirror-git-to-s3".into());
        let region = self.region.clone().or_else(|| self.var("AWS_REGION"));
        let region = region.or_else(|| self.var("AWS_DEFAULT_REGION"));
        let host = self.var("AWS_ENDPOINT_URL_STS").unwrap_or_else(|| match region {
            Some(region) if region.starts_with("cn-") => {
                format!("https://sts.{region}.amazonaws.com.cn")
            }
            Some(region) => format!("https://sts.{region}.amazonaws.com"),
            None => "https://sts.amazonaws.com".to_owned(),
        });
        let form = format!(
            "Action=AssumeRoleWithWebIdentity&Version=2011-06-15&RoleArn={}&RoleSessionName={}\
             &WebIdentityToken={}",
            percent_encode(&role),
            percent_encode(&session),
            percent_encode(&token)
        );
        let url = format!("{}/", host.trim_end_matches('/'));
        let request = Ask { timeout: STS_TIMEOUT, form: Some(&form), ..Ask::get(&url) };
        let answer = self.ask(&request).and_then(|text| {
            quick_xml::de::from_str::<StsXml>(&text)
                .map(|answer| answer.result.credentials.into())
                .map_err(|_| Unanswered::for_good(format!("{url} gave {UNREADABLE}")))
        });
        Found::from_endpoint("web identity", answer)
    }

    fn container(&self) -> Found {
        let relative = self.var("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI");
        let full = self.var("AWS_CONTAINER_CREDENTIALS_FULL_URI");
        let url = match (relative, full) {
            (Some(path), _) => format!("{}{path}", self.container_host),
            (None, Some(url)) => url,
            (None, None) => {
                let words = "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI and _FULL_URI (not set)";
                return Found::Nothing(words.into());
            }
        };
        if !may_get_a_token(&url) {
            let words = "AWS_CONTAINER_CREDENTIALS_FULL_URI must be https, or on this machine";
            return Found::Broken(words.into());
        }
        let token = match self.var("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE") {
            Some(file) => match read_token(&file) {
                Ok(token) => Some(token),
                Err(message) => return Found::Broken(message),
            },
            None => self.var("AWS_CONTAINER_AUTHORIZATION_TOKEN"),
        };
        let header = token.as_deref().map(|token| ("authorization", token));
        let answer = self.ask(&Ask { header, direct: is_near(&url), ..Ask::get(&url) });
        let answer = answer.and_then(|text| parse_json(&url, &text));
        Found::from_endpoint("container credentials", answer)
    }

    fn metadata(&self) -> Found {
        let off = self.var("AWS_EC2_METADATA_DISABLED");
        if off.is_some_and(|off| off.eq_ignore_ascii_case("true")) {
            let words = "instance metadata (off: AWS_EC2_METADATA_DISABLED)";
            return Found::Nothing(words.into());
        }
        let host = self.var("AWS_EC2_METADATA_SERVICE_ENDPOINT");
        let host = host.unwrap_or_else(|| self.metadata_host.clone());
        let host = host.trim_end_matches('/');
        match self.ask_metadata(host) {
            Ok(credentials) => Found::Here(credentials),
            Err(error) => Found::Nothing(format!("instance metadata ({})", error.message)),
        }
    }

    /// Version 2 only: a token first, then the role's name, then its credentials.
    fn ask_metadata(&self, host: &str) -> Result<Credentials, Unanswered> {
        let until = Instant::now() + METADATA_TIMEOUT;
        let ask = |put, header, url: &str| {
            let left = until.saturating_duration_since(Instant::now());
            let timeout = left.clamp(Duration::from_millis(1), ANSWER_TIMEOUT);
            self.ask(&Ask { put, header, timeout, direct: true, ..Ask::get(url) })
        };
        let token_url = format!("{host}/latest/api/token");
        let token = ask(true, Some(("x-aws-ec2-metadata-token-ttl-seconds", "300")), &token_url)?;
        let header = Some(("x-aws-ec2-metadata-token", token.trim()));
        let roles = format!("{host}/latest/meta-data/iam/security-credentials/");
        let names = ask(false, header, &roles)?;
        let role = names.lines().next().unwrap_or_default().trim();
        if role.is_empty() {
            return Err(Unanswered::for_good("the instance has no role".to_owned()));
        }
        let url = format!("{roles}{}", percent_encode(role));
        parse_json(&url, &ask(false, header, &url)?)
    }

    /// The body of a 200; anything else in words. Neither header nor form is in them.
    fn ask(&self, ask: &Ask<'_>) -> Result<String, Unanswered> {
        let not_a_url = |_| Unanswered::for_good(format!("{:?} is not a URL", ask.url));
        let url: Uri = ask.url.parse().map_err(not_a_url)?;
        let place = ask.url.split(['?', '#']).next().unwrap_or_default();
        let agent = if ask.direct { self.client.direct() } else { self.client.agent(&url) };
        let method = match (ask.put, ask.form) {
            (true, _) => "PUT",
            (false, Some(_)) => "POST",
            (false, None) => "GET",
        };
        let mut request = Request::builder().method(method).uri(url);
        if let Some((name, value)) = ask.header {
            request = request.header(name, value);
        }
        if ask.form.is_some() {
            request = request.header("content-type", "application/x-www-form-urlencoded");
            request = request.header("accept", "application/xml");
        }
        let bad = |_| Unanswered::for_good(format!("{place} cannot be reached"));
        let (all, connect) = (Some(ask.timeout), Some(CONNECT_TIMEOUT.max(ask.timeout / 2)));
        let answer = if method == "GET" {
            let request = agent.configure_request(request.body(()).map_err(bad)?);
            let request = request.http_status_as_error(false).max_redirects(0);
            agent.run(request.timeout_global(all).timeout_connect(connect).build())
        } else {
            let body = ask.form.unwrap_or_default();
            let request = agent.configure_request(request.body(body).map_err(bad)?);
            let request = request.http_status_as_error(false).max_redirects(0);
            agent.run(request.timeout_global(all).timeout_connect(connect).build())
        };
        let failed = |error: ureq::Error| Unanswered {
            message: format!("{place}: {}", http::explain(&error)),
            transient: http::is_transient(&error),
        };
        let answer = answer.map_err(failed)?;
        let status = answer.status().as_u16();
        if status != 200 {
            let message = format!("{place} responded with HTTP {status}");
            return Err(Unanswered { message, transient: status == 429 || status >= 500 });
        }
        let mut text = String::new();
        let mut body = answer.into_body();
        let read = body.as_reader().take(MAX_BYTES).read_to_string(&mut text);
        read.map_err(|error| failed(error.into()))?;
        Ok(text)
    }
}

/// One request to a credentials endpoint.
struct Ask<'a> {
    url: &'a str,
    put: bool,
    header: Option<(&'a str, &'a str)>,
    form: Option<&'a str>,
    timeout: Duration,
    /// Not through a proxy.
    direct: bool,
}

impl<'a> Ask<'a> {
    fn get(url: &'a str) -> Self {
        Ask { url, put: false, header: None, form: None, timeout: ANSWER_TIMEOUT, direct: false }
    }
}

/// Why an endpoint gave nothing.
struct Unanswered {
    message: String,
    /// It may do the next time.
    transient: bool,
}

impl Unanswered {
    fn for_good(message: String) -> Self {
        Unanswered { message, transient: false }
    }
}

/// A parser's own words could show a part of the answer.
const UNREADABLE: &str = "an unreadable response";

/// What one place has.
enum Found {
    Here(Credentials),
    /// The place, and why it has none.
    Nothing(String),
    /// The place is meant and does not work: no other is tried, or a mirror would run under
    /// another name than its operator thinks.
    Broken(String),
    /// The same, but it may work the next time.
    Unavailable(String),
}

impl Found {
    fn from_endpoint(place: &str, answer: Result<Credentials, Unanswered>) -> Found {
        match answer {
            Ok(credentials) => Found::Here(credentials),
            Err(error) if error.transient => {
                Found::Unavailable(format!("{place}: {}", error.message))
            }
            Err(error) => Found::Broken(format!("{place}: {}", error.message)),
        }
    }
}

#[derive(Clone, Copy)]
enum File {
    Credentials,
    Config,
}

/// In the config file, profiles but for `default` are called `profile NAME`.
fn config_section(profile: &str) -> String {
    if profile == "default" { profile.to_owned() } else { format!("profile {profile}") }
}

fn keys_of(ini: &Ini, section: &str) -> Option<Credentials> {
    let get = |name| ini.get_from(Some(section), name).map(|value| value.trim().to_owned());
    Some(Credentials {
        access_key: get("aws_access_key_id")?,
        secret_key: get("aws_secret_access_key")?,
        session_token: get("aws_session_token"),
        expires: None,
    })
}

fn trouble(message: String) -> StoreError {
    StoreError::new(StoreErrorKind::Denied, "find", "credentials", message)
}

fn read_token(path: &str) -> Result<String, String> {
    let mut text = String::new();
    fs::File::open(path)
        .and_then(|file| file.take(MAX_BYTES).read_to_string(&mut text))
        .map_err(|error| format!("{path}: {error}"))?;
    Ok(text.trim().to_owned())
}

/// A token must not go over the open network: https, loopback, and the link-local addresses of ECS
/// and EKS, as AWS's own clients have it.
fn may_get_a_token(url: &str) -> bool {
    match url.parse::<Uri>().ok().as_ref().and_then(Uri::scheme_str) {
        Some("https") => true,
        Some("http") => is_near(url),
        _ => false,
    }
}

/// On this machine, or where only this machine's own host answers.
fn is_near(url: &str) -> bool {
    let Ok(url) = url.parse::<Uri>() else { return false };
    let host = url.host().unwrap_or_default().trim_matches(['[', ']']);
    matches!(host, "localhost" | "169.254.170.2" | "169.254.170.23" | "fd00:ec2::23")
        || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Percent-encodes all but unreserved characters (RFC 3986, 2.3).
fn percent_encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(char::from(byte));
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// As containers' and instances' endpoints give them.
#[derive(Deserialize)]
struct CredentialsJson {
    #[serde(rename = "AccessKeyId")]
    access_key: String,
    #[serde(rename = "SecretAccessKey")]
    secret_key: String,
    #[serde(rename = "Token")]
    token: Option<String>,
    #[serde(rename = "Expiration")]
    expiration: Option<String>,
}

fn parse_json(url: &str, text: &str) -> Result<Credentials, Unanswered> {
    let place = url.split(['?', '#']).next().unwrap_or_default();
    let json: CredentialsJson = serde_json::from_str(text)
        .map_err(|_| Unanswered::for_good(format!("{place} gave {UNREADABLE}")))?;
    Ok(Credentials {
        access_key: json.access_key,
        secret_key: json.secret_key,
        session_token: json.token.filter(|token| !token.is_empty()),
        expires: json.expiration.as_deref().and_then(parse_time),
    })
}

#[derive(Deserialize)]
struct StsXml {
    #[serde(rename = "AssumeRoleWithWebIdentityResult")]
    result: StsResultXml,
}

#[derive(Deserialize)]
struct StsResultXml {
    #[serde(rename = "Credentials")]
    credentials: StsCredentialsXml,
}

#[derive(Deserialize)]
struct StsCredentialsXml {
    #[serde(rename = "AccessKeyId")]
    access_key: String,
    #[serde(rename = "SecretAccessKey")]
    secret_key: String,
    #[serde(rename = "SessionToken")]
    token: String,
    #[serde(rename = "Expiration")]
    expiration: Option<String>,
}

impl From<StsCredentialsXml> for Credentials {
    fn from(xml: StsCredentialsXml) -> Self {
        Credentials {
            access_key: xml.access_key,
            secret_key: xml.secret_key,
            session_token: Some(xml.token),
            expires: xml.expiration.as_deref().and_then(parse_time),
        }
    }
}

fn parse_time(text: &str) -> Option<SystemTime> {
    OffsetDateTime::parse(text.trim(), &Rfc3339).ok().map(SystemTime::from)
}

/// Gives credentials, and fresh ones in time. A clone shares them.
#[derive(Clone)]
pub struct Provider {
    inner: Arc<Inner>,
}

struct Inner {
    /// `None`: the credentials were given and never change.
    search: Option<Search>,
    /// Held while credentials are fetched, so that one thread does it and the others wait for what
    /// it gets.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    current: Option<Arc<Credentials>>,
    /// The last search, if it failed.
    failed: Option<(Instant, StoreError)>,
}

impl fmt::Debug for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Provider").finish_non_exhaustive()
    }
}

impl Provider {
    /// Always the same.
    pub fn fixed(credentials: Credentials) -> Self {
        let state = State { current: Some(Arc::new(credentials)), failed: None };
        Provider { inner: Arc::new(Inner { search: None, state: Mutex::new(state) }) }
    }

    /// What `search` finds, at the first [`Provider::get`] and again when that ends.
    pub fn search(search: Search) -> Self {
        Provider { inner: Arc::new(Inner { search: Some(search), state: Mutex::default() }) }
    }

    /// Credentials that have not ended, as far as they say.
    ///
    /// # Errors
    /// Kind Denied: there are none, and the message says every place that was looked at; or a
    /// place that is meant does not work. Transient: it may work later.
    pub fn get(&self) -> Result<Arc<Credentials>, StoreError> {
        let mut state = self.inner.state.lock().unwrap_or_else(PoisonError::into_inner);
        let usable = |old: &Arc<Credentials>, span| {
            (self.inner.search.is_none() || !old.ends_within(span)).then(|| old.clone())
        };
        if let Some(current) = state.current.as_ref().and_then(|old| usable(old, REFRESH_BEFORE)) {
            return Ok(current);
        }
        let Some(search) = &self.inner.search else {
            return Err(trouble("none were given".to_owned()));
        };
        // They are good for some minutes yet.
        let old = state.current.as_ref().and_then(|old| usable(old, Duration::ZERO));
        if let Some((since, error)) = &state.failed
            && since.elapsed() < PAUSE
        {
            match old {
                Some(old) => return Ok(old),
                None if error.kind == StoreErrorKind::Denied => return Err(error.clone()),
                None => {}
            }
        }
        match search.run() {
            Ok(fresh) => {
                state.failed = None;
                Ok(state.current.insert(Arc::new(fresh)).clone())
            }
            Err(error) => {
                state.failed = Some((Instant::now(), error.clone()));
                let old = old.ok_or_else(|| error.clone())?;
                log::warn!("{error}; using the old credentials");
                Ok(old)
            }
        }
    }

    /// The store says that `old` have ended: the next [`Provider::get`] looks for others. Told by
    /// many threads at once, it drops them once.
    pub fn expired(&self, old: &Credentials) {
        if self.inner.search.is_none() {
            return;
        }
        let mut state = self.inner.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.current.as_deref() == Some(old) {
            *state = State::default();
        }
    }
}

/// A [`Lookup`] over fixed names and values.
pub fn lookup_in<const N: usize>(variables: [(&str, &str); N]) -> Lookup {
    let map: HashMap<String, String> =
        variables.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    Box::new(move |name| map.get(name).cloned())
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::net::TcpListener;

    use super::*;
    use crate::http::{Client, Settings};

    /// A server that answers requests whose first line begins with a given text; the requests that
    /// came are in the second value.
    fn serve(answers: &[(&str, &str)]) -> (String, Arc<Mutex<Vec<String>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = seen.clone();
        let answers: Vec<(String, String)> =
            answers.iter().map(|(line, body)| ((*line).into(), (*body).into())).collect();
        std::thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                let mut reader = BufReader::new(&socket);
                let (mut head, mut len) = (String::new(), 0);
                while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head).unwrap() > 0 {
                    let last = head.lines().last().unwrap_or_default().to_lowercase();
                    if let Some(value) = last.strip_prefix("content-length:") {
                        len = value.trim().parse().unwrap();
                    }
                }
                let mut body = vec![0; len];
                reader.read_exact(&mut body).unwrap();
                head.push_str(&String::from_utf8(body).unwrap());
                let found = answers.iter().find(|(line, _)| head.starts_with(line.as_str()));
                let (status, body) = found.map_or(("404 Not Found", ""), |(_, b)| ("200 OK", b));
                log.lock().unwrap().push(head);
                let len = body.len();
                let text = format!(
                    "HTTP/1.1 {status}\r\nContent-Length: {len}\r\nConnection: close\r\n\r\n{body}"
                );
                let mut writer = &socket;
                writer.write_all(text.as_bytes()).unwrap();
            }
        });
        (url, seen)
    }

    fn search<const N: usize>(variables: [(&str, &str); N]) -> Search {
        let client = Client::new(&Settings::default()).unwrap();
        Search::in_environment(client, lookup_in(variables))
    }

    fn json(expires: SystemTime) -> String {
        let expires = OffsetDateTime::from(expires).format(&Rfc3339).unwrap();
        format!(
            r#"{{"Code":"Success","AccessKeyId":"ID","SecretAccessKey":"hunter2","Token":"T",
                "Expiration":"{expires}"}}"#
        )
    }

    fn in_an_hour() -> SystemTime {
        SystemTime::now() + Duration::from_secs(3600)
    }

    fn keys(search: Search) -> (String, String, Option<String>) {
        let found = Provider::search(search).get().unwrap();
        (found.access_key.clone(), found.secret_key.clone(), found.session_token.clone())
    }

    fn text(value: &str) -> String {
        value.to_owned()
    }

    const FILES: (&str, &str) = (
        "[default]\naws_access_key_id = D\naws_secret_access_key = back\\slash/+=\n\
         [work]\naws_access_key_id=W\naws_secret_access_key=w\naws_session_token=t\n",
        "[default]\nregion = eu-west-1\n[profile work]\nregion=eu-west-2\n\
         [profile conf]\naws_access_key_id=C\naws_secret_access_key=c\n",
    );

    fn files() -> (tempfile::TempDir, String, String) {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        let (credentials, config) = (path("credentials"), path("config"));
        fs::write(&credentials, FILES.0).unwrap();
        fs::write(&config, FILES.1).unwrap();
        (dir, credentials, config)
    }

    #[test]
    fn the_environment_comes_first() {
        let env = [
            ("AWS_ACCESS_KEY_ID", "ID"),
            ("AWS_SECRET_ACCESS_KEY", "secret"),
            ("AWS_SESSION_TOKEN", "token"),
        ];
        assert_eq!(keys(search(env)), (text("ID"), text("secret"), Some(text("token"))));
    }

    #[test]
    fn half_a_pair_of_keys_is_an_error_that_shows_no_value() {
        for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"] {
            let error = Provider::search(search([(name, "hunter2")])).get().unwrap_err();
            assert_eq!(error.kind, StoreErrorKind::Denied);
            assert!(error.message.contains(name) && !error.message.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn profiles_are_read_from_both_files() {
        let (_dir, credentials, config) = files();
        let env = |profile| {
            search([
                ("AWS_SHARED_CREDENTIALS_FILE", &credentials),
                ("AWS_CONFIG_FILE", &config),
                ("AWS_PROFILE", profile),
            ])
        };
        assert_eq!(keys(env("")), (text("D"), text("back\\slash/+="), None));
        assert_eq!(keys(env("work")), (text("W"), text("w"), Some(text("t"))));
        assert_eq!(keys(env("conf")).0, "C");
        assert_eq!(env("").profile_region().unwrap().as_deref(), Some("eu-west-1"));
        assert_eq!(env("work").profile_region().unwrap().as_deref(), Some("eu-west-2"));
        assert_eq!(env("conf").profile_region().unwrap(), None);
    }

    #[test]
    fn a_profile_that_was_asked_for_beats_the_environment_and_must_exist() {
        let (_dir, credentials, config) = files();
        let with = |profile: &str| {
            search([
                ("AWS_ACCESS_KEY_ID", "ID"),
                ("AWS_SECRET_ACCESS_KEY", "secret"),
                ("AWS_SHARED_CREDENTIALS_FILE", &credentials),
                ("AWS_CONFIG_FILE", &config),
            ])
            .with_profile(Some(profile.to_owned()))
        };
        assert_eq!(keys(with("work")).0, "W");
        let error = Provider::search(with("none")).get().unwrap_err();
        assert!(error.message.contains("none") && error.message.contains(&config), "{error}");
    }

    #[test]
    fn a_profile_file_that_cannot_be_read_is_named_and_not_shown() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("credentials");
        fs::write(&path, "[default]\nhunter2 without a sign\n").unwrap();
        let path = path.to_str().unwrap();
        let search = search([("AWS_SHARED_CREDENTIALS_FILE", path)]);
        let error = Provider::search(search).get().unwrap_err();
        assert!(error.message.contains(path) && !error.message.contains("hunter2"), "{error}");
    }

    #[test]
    fn without_any_every_place_is_named() {
        let search = search([("AWS_EC2_METADATA_DISABLED", "true"), ("HOME", "/nowhere")]);
        let error = Provider::search(search).get().unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Denied);
        for place in [
            "AWS_ACCESS_KEY_ID",
            "/nowhere/.aws/credentials",
            "/nowhere/.aws/config",
            "AWS_WEB_IDENTITY_TOKEN_FILE",
            "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
            "instance metadata (off",
        ] {
            assert!(error.message.contains(place), "{place}: {error}");
        }
    }

    #[test]
    fn a_web_identity_token_is_exchanged() {
        let (dir, ..) = files();
        let token = dir.path().join("token");
        fs::write(&token, "a+token\n").unwrap();
        let xml = "<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials>\
                   <AccessKeyId>S</AccessKeyId><SecretAccessKey>s</SecretAccessKey>\
                   <SessionToken>t</SessionToken><Expiration>2999-01-01T00:00:00Z</Expiration>\
                   </Credentials></AssumeRoleWithWebIdentityResult>\
                   </AssumeRoleWithWebIdentityResponse>";
        let (url, seen) = serve(&[("POST / ", xml)]);
        let search = search([
            ("AWS_WEB_IDENTITY_TOKEN_FILE", token.to_str().unwrap()),
            ("AWS_ROLE_ARN", "arn:role"),
            ("AWS_ENDPOINT_URL_STS", &url),
        ]);
        assert_eq!(keys(search), (text("S"), text("s"), Some(text("t"))));
        let request = seen.lock().unwrap()[0].clone();
        assert!(request.contains("&RoleArn=arn%3Arole&"), "{request}");
        assert!(request.ends_with("&WebIdentityToken=a%2Btoken"), "{request}");
    }

    #[test]
    fn a_refused_web_identity_is_an_error_without_the_token() {
        let (dir, ..) = files();
        let token = dir.path().join("token");
        fs::write(&token, "hunter2").unwrap();
        let (url, _) = serve(&[]);
        let search = search([
            ("AWS_WEB_IDENTITY_TOKEN_FILE", token.to_str().unwrap()),
            ("AWS_ROLE_ARN", "arn:role"),
            ("AWS_ENDPOINT_URL_STS", &url),
        ]);
        let error = Provider::search(search).get().unwrap_err();
        assert!(
            error.message.contains("HTTP 404") && !error.message.contains("hunter2"),
            "{error}"
        );
    }

    #[test]
    fn a_container_is_asked_with_its_token() {
        let (url, seen) = serve(&[("GET /creds?id=1 ", &json(in_an_hour()))]);
        let full = format!("{url}/creds?id=1");
        let search = search([
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI", full.as_str()),
            ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "abc"),
        ]);
        assert_eq!(keys(search), (text("ID"), text("hunter2"), Some(text("T"))));
        let request = seen.lock().unwrap()[0].to_lowercase();
        assert!(request.contains("\r\nauthorization: abc\r\n"), "{request}");
    }

    #[test]
    fn a_token_goes_to_no_other_machine_in_the_clear() {
        for url in ["http://example.org/x", "http://10.0.0.1/", "ftp://localhost/", "nonsense"] {
            assert!(!may_get_a_token(url), "{url}");
        }
        for url in [
            "https://example.org/",
            "http://127.0.0.1:5/x",
            "http://[::1]/",
            "http://169.254.170.23/v1",
        ] {
            assert!(may_get_a_token(url), "{url}");
        }
    }

    #[test]
    fn instance_metadata_is_asked_in_version_2() {
        let (url, seen) = serve(&[
            ("PUT /latest/api/token ", "TOKEN"),
            ("GET /latest/meta-data/iam/security-credentials/ ", "role\n"),
            ("GET /latest/meta-data/iam/security-credentials/role ", &json(in_an_hour())),
        ]);
        let search = search([("AWS_EC2_METADATA_SERVICE_ENDPOINT", &url)]);
        assert_eq!(keys(search).0, "ID");
        let seen = seen.lock().unwrap();
        assert!(seen[0].to_lowercase().contains("x-aws-ec2-metadata-token-ttl-seconds: 300"));
        assert!(seen[2].to_lowercase().contains("x-aws-ec2-metadata-token: token"));
    }

    #[test]
    fn an_instance_without_a_role_has_no_credentials() {
        let (url, _) = serve(&[("PUT /latest/api/token ", "TOKEN")]);
        let search = search([("AWS_EC2_METADATA_SERVICE_ENDPOINT", &url), ("HOME", "/nowhere")]);
        let error = Provider::search(search).get().unwrap_err();
        assert!(error.message.contains("instance metadata"), "{error}");
        assert!(error.message.contains("HTTP 404"), "{error}");
    }

    #[test]
    fn credentials_are_kept_until_they_end_or_the_store_says_so() {
        let (url, seen) = serve(&[("GET /c ", &json(in_an_hour()))]);
        let full = format!("{url}/c");
        let provider = Provider::search(search([("AWS_CONTAINER_CREDENTIALS_FULL_URI", &full)]));
        let first = provider.get().unwrap();
        assert!(Arc::ptr_eq(&first, &provider.get().unwrap()));
        assert_eq!(seen.lock().unwrap().len(), 1);
        let mut other = Credentials::clone(&first);
        other.access_key.push('x');
        provider.expired(&other);
        provider.get().unwrap();
        assert_eq!(seen.lock().unwrap().len(), 1, "others had expired");
        provider.expired(&first);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| provider.get().unwrap());
            }
        });
        assert_eq!(seen.lock().unwrap().len(), 2, "one thread asks for all");
    }

    #[test]
    fn credentials_that_end_soon_are_fetched_again() {
        let soon = SystemTime::now() + Duration::from_secs(60);
        let (url, seen) = serve(&[("GET /c ", &json(soon))]);
        let full = format!("{url}/c");
        let provider = Provider::search(search([("AWS_CONTAINER_CREDENTIALS_FULL_URI", &full)]));
        provider.get().unwrap();
        provider.get().unwrap();
        assert_eq!(seen.lock().unwrap().len(), 2);
    }

    #[test]
    fn nothing_secret_is_shown() {
        let credentials = Credentials {
            access_key: "ID".into(),
            secret_key: "hunter2".into(),
            session_token: Some("hunter3".into()),
            expires: None,
        };
        let provider = Provider::fixed(credentials.clone());
        let shown = format!("{credentials:?} {provider:?} {:#?}", provider.get().unwrap());
        assert!(!shown.contains("hunter"), "{shown}");
    }
}
