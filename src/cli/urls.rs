//! What `--source` and `--target` may name, read strictly.
//!
//! A password in a source's URL is kept apart from the start: `Display` and `Debug` show the URL
//! without it, and no error here repeats what it was given. A target's prefix can't climb: no empty,
//! `.` or `..` segment. Bucket names follow S3's rules only loosely, because compatible stores allow
//! more (upper case, underscores, one letter).

use std::fmt;
use std::path::{Path, PathBuf};

use super::error::CliError;

/// A repository to read.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum SourceUrl {
    /// Smart HTTP or HTTPS.
    Http {
        /// The URL without its userinfo.
        url: String,
        /// `user` or `user:password` as it stood before the `@`, percent-encoded. A secret.
        userinfo: Option<String>,
    },
    /// A git bundle in a file.
    Bundle(PathBuf),
    /// A git bundle on standard input.
    Stdin,
    /// Another mirror.
    Mirror(TargetUrl),
    /// Another mirror as a web server shows it: a URL without userinfo.
    WebMirror(String),
    /// What `export` has written.
    Trip(PathBuf),
    /// The same on standard input.
    TripStdin,
}

impl SourceUrl {
    /// Reads `https://…`, `http://…`, `bundle:PATH`, `mirror:URL`, `trip:PATH` or `-`.
    pub fn parse(text: &str) -> Result<Self, CliError> {
        let bad = |why: &str| Err(CliError::new(format!("source: {why}")));
        if text == "-" {
            return Ok(SourceUrl::Stdin);
        }
        if let Some(path) = text.strip_prefix("bundle:") {
            return match path {
                "" => bad("bundle: needs a path"),
                path => Ok(SourceUrl::Bundle(path.into())),
            };
        }
        if let Some(path) = text.strip_prefix("trip:") {
            return match path {
                "" => bad("trip: needs a path"),
                "-" => Ok(SourceUrl::TripStdin),
                path => Ok(SourceUrl::Trip(path.into())),
            };
        }
        if let Some(url) = text.strip_prefix("mirror:") {
            return mirror(url);
        }
        match split_http(text) {
            Err(Unusable::Scheme) if is_ssh(text) => bad(NO_SSH),
            Err(Unusable::Scheme) => {
                bad("expected https://…, http://…, bundle:PATH, mirror:URL, trip:PATH, or - for a \
                 bundle on standard input")
            }
            Err(Unusable::Because(why)) => bad(why),
            Ok((url, userinfo)) => {
                Ok(SourceUrl::Http { url, userinfo: userinfo.map(str::to_owned) })
            }
        }
    }
}

/// Users have shorter names, and hosts' access tokens are longer.
const MIN_TOKEN_LEN: usize = 20;

impl SourceUrl {
    /// The URL as it was given, with the secret in it: for the source alone, never for people.
    pub fn with_userinfo(&self) -> String {
        match self {
            SourceUrl::Http { url, userinfo: Some(userinfo) } => {
                url.replacen("://", &format!("://{userinfo}@"), 1)
            }
            _ => self.to_string(),
        }
    }
}

impl SourceUrl {
    /// Scheme, host and port of a URL, in lower case.
    pub fn host(&self) -> Option<String> {
        let (SourceUrl::Http { url, .. } | SourceUrl::WebMirror(url)) = self else { return None };
        let (scheme, rest) = url.split_once("://")?;
        let host = rest.split('/').next()?.to_ascii_lowercase();
        let usual = if scheme == "https" { ":443" } else { ":80" };
        Some(format!("{scheme}://{}", host.strip_suffix(usual).unwrap_or(&host)))
    }

    /// Is it standard input?
    pub fn is_stdin(&self) -> bool {
        matches!(self, SourceUrl::Stdin | SourceUrl::TripStdin)
    }

    /// Does it hold a password, or a token in place of the user?
    pub fn has_password(&self) -> bool {
        let is_secret = |login: &str| {
            let of_token = |c: u8| c.is_ascii_alphanumeric() || c == b'_' || c == b'-';
            login.contains(':') || (login.len() >= MIN_TOKEN_LEN && login.bytes().all(of_token))
        };
        matches!(self, SourceUrl::Http { userinfo: Some(userinfo), .. } if is_secret(userinfo))
    }
}

impl fmt::Display for SourceUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SourceUrl::Http { url, .. } => f.pad(url),
            SourceUrl::Bundle(path) => write!(f, "bundle:{}", path.display()),
            SourceUrl::Stdin => f.pad("-"),
            SourceUrl::Mirror(url) => write!(f, "mirror:{url}"),
            SourceUrl::WebMirror(url) => write!(f, "mirror:{url}"),
            SourceUrl::Trip(path) => write!(f, "trip:{}", path.display()),
            SourceUrl::TripStdin => f.pad("trip:-"),
        }
    }
}

impl fmt::Debug for SourceUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SourceUrl({self})")
    }
}

/// A mirror as a source.
fn mirror(url: &str) -> Result<SourceUrl, CliError> {
    let bad = |why: &str| Err(CliError::new(format!("source: mirror: {why}")));
    match split_http(url) {
        Ok((url, None)) => {
            return Ok(SourceUrl::WebMirror(url.trim_end_matches('/').to_owned()));
        }
        Ok((_, Some(_))) => {
            return bad("the URL must not contain credentials: use --source-header-file");
        }
        Err(Unusable::Because(why)) => return bad(why),
        Err(Unusable::Scheme) => {}
    }
    match TargetUrl::parse(url) {
        Ok(url) => Ok(SourceUrl::Mirror(url)),
        Err(error) => {
            let words = error.to_string();
            let words = words.strip_prefix("target: ").unwrap_or(&words);
            let words = words.replace("expected s3://", "expected https://…, http://…, s3://");
            bad(&words)
        }
    }
}

/// Where a mirror is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TargetUrl {
    /// A bucket of an S3-compatible store.
    S3 {
        /// Its name.
        bucket: String,
        /// What all keys begin with: no slash at either end; empty: the whole bucket.
        prefix: String,
    },
    /// A directory, by its absolute path.
    Dir(PathBuf),
}

impl TargetUrl {
    /// Reads `s3://bucket/prefix` or `file:///dir`.
    pub fn parse(text: &str) -> Result<Self, CliError> {
        let parsed = if let Some(rest) = text.strip_prefix("s3://") {
            s3(rest)
        } else if let Some(rest) = text.strip_prefix("file://") {
            dir(rest)
        } else {
            Err("expected s3://BUCKET/PREFIX or file:///DIRECTORY".to_owned())
        };
        parsed.map_err(|why| CliError::new(format!("target: {why}")))
    }

    /// The target at `path`, which is the path of keys below this one.
    pub fn below(&self, path: &str) -> TargetUrl {
        match self {
            TargetUrl::S3 { bucket, prefix } => {
                let prefix =
                    if prefix.is_empty() { path.to_owned() } else { format!("{prefix}/{path}") };
                TargetUrl::S3 { bucket: bucket.clone(), prefix }
            }
            TargetUrl::Dir(dir) => TargetUrl::Dir(dir.join(path)),
        }
    }

    /// Where it really is: two paths may lead to one directory.
    pub(super) fn resolved(&self) -> TargetUrl {
        match self {
            TargetUrl::S3 { .. } => self.clone(),
            TargetUrl::Dir(path) => TargetUrl::Dir(without_links(path)),
        }
    }

    /// The targets that this one lies inside.
    pub fn parents(&self) -> impl Iterator<Item = TargetUrl> + use<> {
        let up = |target: &TargetUrl| match target {
            TargetUrl::S3 { prefix, .. } if prefix.is_empty() => None,
            TargetUrl::S3 { bucket, prefix } => {
                let prefix = prefix.rsplit_once('/').map_or("", |(above, _)| above).to_owned();
                Some(TargetUrl::S3 { bucket: bucket.clone(), prefix })
            }
            TargetUrl::Dir(path) => path.parent().map(|above| TargetUrl::Dir(above.to_owned())),
        };
        std::iter::successors(up(self), up)
    }
}

impl fmt::Display for TargetUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TargetUrl::S3 { bucket, prefix } if prefix.is_empty() => write!(f, "s3://{bucket}"),
            TargetUrl::S3 { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
            TargetUrl::Dir(path) => write!(f, "file://{}", path.display()),
        }
    }
}

/// The path with what exists of it free of links. What does not exist cannot be one.
fn without_links(path: &Path) -> PathBuf {
    let found = path.ancestors().find_map(|above| Some((above, above.canonicalize().ok()?)));
    let Some((above, real)) = found else { return path.to_owned() };
    match path.strip_prefix(above) {
        // Joining nothing would add a slash.
        Ok(below) if !below.as_os_str().is_empty() => real.join(below),
        _ => real,
    }
}

fn s3(rest: &str) -> Result<TargetUrl, String> {
    if let Some(sign) = rest.chars().find(|c| matches!(c, '?' | '#')) {
        return Err(format!("it must not contain {sign:?}"));
    }
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    if bucket.contains('@') {
        return Err("no credentials in the URL: use AWS_ACCESS_KEY_ID or a profile".to_owned());
    }
    if bucket.contains(':') {
        return Err("give the store's address with --endpoint-url".to_owned());
    }
    let letters = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if bucket.is_empty() || bucket.len() > 255 || !bucket.chars().all(letters) {
        return Err("it contains no valid bucket name".to_owned());
    }
    if bucket.chars().all(|c| c == '.') {
        return Err("a bucket's name cannot be only dots".to_owned());
    }
    let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
    if !prefix.is_empty() {
        sound_segments(prefix)?;
    }
    // Some clients and proxies make a slash of it: readers would look elsewhere.
    if prefix.contains('\\') {
        return Err("its path must not contain backslashes".to_owned());
    }
    Ok(TargetUrl::S3 { bucket: bucket.to_owned(), prefix: prefix.to_owned() })
}

fn dir(rest: &str) -> Result<TargetUrl, String> {
    let path = rest.strip_prefix("localhost").unwrap_or(rest);
    if !path.starts_with('/') {
        return Err("expected an absolute path: file:///DIRECTORY".to_owned());
    }
    let path = percent_decoded(path).ok_or("% must be followed by two hexadecimal digits")?;
    let inner = path.trim_matches('/');
    if inner.is_empty() {
        return Err("the root directory cannot be a mirror".to_owned());
    }
    sound_segments(inner)?;
    Ok(TargetUrl::Dir(Path::new("/").join(inner)))
}

/// No segment that is empty or climbs, no control character.
fn sound_segments(path: &str) -> Result<(), String> {
    if path.split('/').any(|segment| matches!(segment, "" | "." | "..")) {
        return Err("its path must not contain empty, . or .. segments".to_owned());
    }
    if path.contains(char::is_control) {
        return Err("it must not contain control characters".to_owned());
    }
    Ok(())
}

/// A path as git reads it from a `file://` URL (`url_decode` in git's url.c). `None`: a `%` without
/// two hexadecimal digits, or bytes that are not UTF-8.
fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let mut digit = || Some((bytes.next()? as char).to_digit(16)? as u8);
        out.push(digit()? << 4 | digit()?);
    }
    String::from_utf8(out).ok()
}

/// For URLs that only ssh can reach.
pub(super) const NO_SSH: &str = "ssh is not supported: use an https:// URL";

/// Is it `ssh://…`, or `user@host:path` as ssh is written for short?
pub(super) fn is_ssh(text: &str) -> bool {
    match text.split_once(':') {
        Some((start, _)) => {
            matches!(start, "ssh" | "git+ssh" | "ssh+git")
                || (start.contains('@') && !start.contains('/'))
        }
        None => false,
    }
}

enum Unusable {
    Scheme,
    Because(&'static str),
}

/// Checks an HTTP URL and takes its userinfo out.
fn split_http(text: &str) -> Result<(String, Option<&str>), Unusable> {
    let (scheme, rest) = text.split_once("://").ok_or(Unusable::Scheme)?;
    let scheme = scheme.to_ascii_lowercase();
    if !matches!(scheme.as_str(), "http" | "https") {
        return Err(Unusable::Scheme);
    }
    if rest.contains(|c: char| c.is_control() || c.is_whitespace()) {
        return Err(Unusable::Because("a URL must not contain blanks or control characters"));
    }
    // Some read it as a slash, and others as a part of the host or of the path.
    if rest.contains('\\') {
        return Err(Unusable::Because("a URL must not contain backslashes"));
    }
    if rest.contains(['?', '#']) {
        return Err(Unusable::Because("the URL must not have a query or fragment"));
    }
    let (authority, path) = match rest.find('/') {
        Some(slash) => rest.split_at(slash),
        None => (rest, ""),
    };
    let (userinfo, host) = match authority.rsplit_once('@') {
        Some((userinfo, host)) => (Some(userinfo), host),
        None => (None, authority),
    };
    if !sound_host(host) {
        return Err(Unusable::Because("the URL contains no valid host"));
    }
    Ok((format!("{scheme}://{host}{path}"), userinfo))
}

/// A name, an IPv4 address or a bracketed IPv6 address, and a port that fits.
fn sound_host(host: &str) -> bool {
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) if address.parse::<std::net::Ipv6Addr>().is_ok() => {
                (address, port.strip_prefix(':').or(port.is_empty().then_some("0")))
            }
            _ => return false,
        },
        None => match host.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (host, Some("0")),
        },
    };
    let port_fits =
        |port: &str| port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok();
    !name.is_empty() && !name.contains('@') && port.is_some_and(port_fits)
}

/// A store's address for `--endpoint-url`: `http(s)://host[:port][/path]` without a slash at its
/// end. `origin` names the option or variable in the error.
pub(super) fn endpoint(text: &str, origin: &str) -> Result<String, CliError> {
    let why = match split_http(text) {
        Ok((url, None)) => return Ok(without_default_port(url.trim_end_matches('/'))),
        Ok((_, Some(_))) => "the URL must not contain credentials",
        Err(Unusable::Scheme) => "expected https://HOST[:PORT] or http://HOST[:PORT]",
        Err(Unusable::Because(why)) => why,
    };
    Err(CliError::new(format!("{origin}: {why}")))
}

/// `https://h:443` is `https://h`: it is compared with other addresses, and signed as it is sent.
fn without_default_port(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or_default();
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = host.strip_suffix(if scheme == "https" { ":443" } else { ":80" }).unwrap_or(host);
    format!("{scheme}://{host}{path}")
}

/// `text` with everything between `://` and an `@` of the same word taken out: for words of others
/// that may quote a URL with a password.
pub fn without_userinfo(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        out.push_str(before);
        let end = after
            .find(|c: char| {
                c.is_whitespace() || matches!(c, '/' | '?' | '#' | '\'' | '"' | '<' | '>')
            })
            .unwrap_or(after.len());
        rest = match after[..end].rfind('@') {
            Some(sign) => &after[sign + 1..],
            None => after,
        };
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_smart_http_bundles_and_standard_input() {
        for (text, shown) in [
            ("mirror:s3://b/p/", "mirror:s3://b/p"),
            ("mirror:file:///a//", "mirror:file:///a"),
            ("https://h/r.git", "https://h/r.git"),
            ("HTTP://h:8080/a/b", "http://h:8080/a/b"),
            ("https://[::1]:9/r", "https://[::1]:9/r"),
            ("https://[::1]/r", "https://[::1]/r"),
            ("https://h", "https://h"),
            ("bundle:/a b/c.bundle", "bundle:/a b/c.bundle"),
            ("-", "-"),
        ] {
            assert_eq!(SourceUrl::parse(text).unwrap().to_string(), shown);
        }
    }

    #[test]
    fn a_password_in_a_source_is_kept_and_never_shown() {
        let source = SourceUrl::parse("https://me:se@cret@h/r").unwrap();
        assert_eq!(format!("{source} {source:?}"), "https://h/r SourceUrl(https://h/r)");
        let SourceUrl::Http { userinfo, .. } = source else { panic!("not HTTP") };
        assert_eq!(userinfo.as_deref(), Some("me:se@cret"));
    }

    #[test]
    fn unusable_sources_are_refused_without_being_repeated() {
        for text in [
            "",
            "ssh://u:secret@h/r",
            "git@h:r",
            "/r",
            "https://",
            "https:///r",
            "https://u:secret@/r",
            "https://secret h/r",
            "https://h/r?secret=1",
            "https://h/r#secret",
            "https://h:port/r",
            "https://h:99999/r",
            "https://h:/r",
            "https://[::1/r",
            "https://[secret]/r",
            "https://[::1]x/r",
            "https://h/a\nb",
            "https://h\\@secret/r",
            "https:\\\\secret/r",
            "bundle:",
            "file:///r",
            "ftp://h/r",
        ] {
            let error = SourceUrl::parse(text).expect_err(text).to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn ssh_is_named_as_not_supported() {
        for text in ["ssh://u:secret@h/r", "git+ssh://h/r", "git@h:r", "me@h.example:~/r"] {
            let error = SourceUrl::parse(text).expect_err(text).to_string();
            assert!(error.starts_with("source: ssh is not supported"), "{text}: {error}");
        }
        for text in ["", "/r", "git://h/r", "./a@b:c", "h:r"] {
            let error = SourceUrl::parse(text).expect_err(text).to_string();
            assert!(error.starts_with("source: expected https://"), "{text}: {error}");
        }
    }

    #[test]
    fn targets_are_buckets_and_directories() {
        for (text, shown) in [
            ("s3://b/p", "s3://b/p"),
            ("s3://b/p/q.git/", "s3://b/p/q.git"),
            ("s3://b", "s3://b"),
            ("s3://b/", "s3://b"),
            ("s3://Old_Bucket.x/ü b", "s3://Old_Bucket.x/ü b"),
            ("file:///srv/a", "file:///srv/a"),
            ("file://localhost/srv/a/", "file:///srv/a"),
            ("file:///srv/a%20b", "file:///srv/a b"),
        ] {
            assert_eq!(TargetUrl::parse(text).unwrap().to_string(), shown);
        }
    }

    #[test]
    fn a_target_cannot_climb_or_carry_secrets() {
        for text in [
            "",
            "b/p",
            "s3:/b",
            "s3://",
            "s3:///p",
            "s3://b//p",
            "s3://b/./p",
            "s3://b/p/..",
            "s3://b/a//",
            "s3://b/p?x",
            "s3://b/p#x",
            "s3://key:secret@b/p",
            "s3://h:9000/b",
            "s3://b b/p",
            "s3://../p",
            "s3://b/a\u{7}",
            r"s3://b/a\b",
            "https://b.s3.amazonaws.com/p",
            "file://p",
            "file:///",
            "file://host/p",
            "file:///a/../b",
            "file:///a%2e%2e/%zz",
            "file:///%2e%2e/b",
            "file:///a%0ab",
            "file:///a%",
        ] {
            let error = TargetUrl::parse(text).expect_err(text).to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn endpoints_are_addresses_without_credentials() {
        assert_eq!(endpoint("http://127.0.0.1:9000/", "e").unwrap(), "http://127.0.0.1:9000");
        for (text, wanted) in [
            ("https://h:443/", "https://h"),
            ("http://h:80/a", "http://h/a"),
            ("https://[::1]:443", "https://[::1]"),
            ("https://h:80", "https://h:80"),
            ("https://h:8443", "https://h:8443"),
        ] {
            assert_eq!(endpoint(text, "e").unwrap(), wanted);
        }
        for bad in ["", "s3.example.com", "https://k:secret@h", "ftp://h", "https://h?x"] {
            let error = endpoint(bad, "AWS_ENDPOINT_URL").expect_err(bad).to_string();
            assert!(
                error.starts_with("AWS_ENDPOINT_URL: ") && !error.contains("secret"),
                "{error}"
            );
        }
    }

    #[test]
    fn userinfo_is_taken_out_of_any_text() {
        for (text, wanted) in [
            ("no URL @ all", "no URL @ all"),
            ("'https://u:p@h/r': bad", "'https://h/r': bad"),
            ("http://a@b http://c:d@e@f/x@y", "http://b http://f/x@y"),
            ("x://", "x://"),
        ] {
            assert_eq!(without_userinfo(text), wanted);
        }
    }
}
