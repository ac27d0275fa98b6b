//! Who we are to a source: userinfo in the URL, a header file, `.netrc`.
//!
//! [`Auth`] is what the user gave for all sources; [`Credentials`] is what of it one source gets,
//! bound to that source's scheme, host and port. Nothing is sent anywhere else, whatever a redirect
//! says. No secret is printed: `Debug` shows where credentials come from and never what they are.
//!
//! `.netrc` is read by the forty lines below: it is one list of words, and secrets stay out of one
//! more dependency. `macdef` is skipped.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use percent_encoding::percent_decode_str;
use ureq::http::header::{AUTHORIZATION, HeaderName, HeaderValue};
use url::Url;

/// A file of headers or of logins that can't be used. Its content is not reported.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// It can't be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A line that is no `Name: value`, or a header that is not the user's to set.
    #[error("{}, line {line}: {reason}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong with it.
        reason: &'static str,
    },
}

/// What the user gave to authenticate with, for all sources.
#[derive(Clone, Default)]
pub struct Auth {
    sections: Arc<[Section]>,
    netrc: Arc<[Machine]>,
}

impl Auth {
    /// No file at all: only what the URL says.
    pub fn none() -> Auth {
        Auth::default()
    }

    /// Reads the header file, and the netrc file that `NETRC` names, or else `~/.netrc`, if there is
    /// one.
    pub fn from_environment(header_file: Option<&Path>) -> Result<Auth, AuthError> {
        let var = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        if let Some(netrc) = var("NETRC") {
            return Auth::from_files(header_file, Some(Path::new(&netrc)));
        }
        let netrc = var("HOME").map(|home| Path::new(&home).join(".netrc"));
        Auth::from_files(header_file, netrc.filter(|path| path.is_file()).as_deref())
    }

    /// Reads the given files.
    ///
    /// A header file has a `Name: value` a line, `#` comments and blank lines. Lines below
    /// `[https://host/path]` are for sources there. A file that others can
    /// read is used, with a warning.
    pub fn from_files(
        header_file: Option<&Path>,
        netrc_file: Option<&Path>,
    ) -> Result<Auth, AuthError> {
        let mut auth = Auth::default();
        if let Some(path) = header_file {
            auth.sections = parse_headers(path, &read_secret(path)?)?.into();
        }
        if let Some(path) = netrc_file {
            auth.netrc = parse_netrc(&read_secret(path)?).into();
        }
        Ok(auth)
    }

    /// The header lines that are for `url`: those without a section, and those of the section that
    /// fits best.
    fn headers_for(&self, url: &Url) -> Vec<Header> {
        let of = |section: &Section| section.headers.clone();
        let mut headers: Vec<Header> =
            self.sections.iter().filter(|section| section.url.is_none()).flat_map(of).collect();
        let scoped = self.sections.iter().filter_map(|section| {
            Some((section, section.url.as_ref().filter(|scope| is_below(scope, url))?))
        });
        let best = scoped.max_by_key(|(_, scope)| scope.path().trim_end_matches('/').len());
        for header in best.map(|(section, _)| of(section)).unwrap_or_default() {
            headers.retain(|(name, _)| *name != header.0);
            headers.push(header);
        }
        headers
    }

    /// The sections that none of `urls` is below: their lines go nowhere but, perhaps, to LFS servers.
    pub fn sections_without<'u>(&self, urls: impl Iterator<Item = &'u str>) -> Vec<String> {
        let urls: Vec<Url> = urls.filter_map(|url| Url::parse(url).ok()).collect();
        let scopes = self.sections.iter().filter_map(|section| section.url.as_ref());
        let unused = scopes.filter(|scope| !urls.iter().any(|url| is_below(scope, url)));
        unused.map(|scope| scope.to_string()).collect()
    }

    /// Are there header lines that go to every source?
    pub fn has_unscoped_headers(&self) -> bool {
        self.sections.iter().any(|section| section.url.is_none() && !section.headers.is_empty())
    }

    /// The login for `host`: the first entry that fits, `default` where none does. With a `user`
    /// only that user's.
    fn netrc_login(&self, host: &str, user: Option<&str>) -> Option<&Login> {
        let fits = |machine: &&Machine| {
            machine.host.as_deref().is_none_or(|name| name.eq_ignore_ascii_case(host))
                && user.is_none_or(|user| machine.login.user == user)
        };
        self.netrc.iter().find(fits).map(|machine| &machine.login)
    }
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Auth")
            .field("header_sections", &self.sections.len())
            .field("netrc", &self.netrc.len())
            .finish()
    }
}

/// A user's name and password. No `Debug`: it must not be printed.
#[derive(Clone)]
struct Login {
    user: String,
    password: String,
}

impl Login {
    fn header(&self) -> (HeaderName, HeaderValue) {
        let text = BASE64_STANDARD.encode(format!("{}:{}", self.user, self.password));
        let mut value = HeaderValue::try_from(format!("Basic {text}"))
            .expect("base64 has only characters that a header may have");
        value.set_sensitive(true);
        (AUTHORIZATION, value)
    }
}

/// What one source gets of the user's credentials.
#[derive(Clone)]
pub struct Credentials {
    origin: Url,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Credentials {
    /// The credentials for `url`, whose userinfo is taken away.
    ///
    /// A header file beats the URL, the URL beats `.netrc`. A user without a password in the URL gets
    /// that user's password from `.netrc`; if there is none, the name alone is sent, because some
    /// forges take a token as the user's name.
    pub fn take_from(url: &mut Url, auth: &Auth) -> Credentials {
        let decode = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let user = Some(decode(url.username())).filter(|user| !user.is_empty());
        let password = url.password().map(decode);
        // Both only fail for URLs that can't have them, and those have none.
        let _ = (url.set_username(""), url.set_password(None));
        let mut headers = auth.headers_for(url);
        if !headers.iter().any(|(name, _)| name == AUTHORIZATION) {
            let host = url.host_str().unwrap_or_default();
            let login = match (user, password) {
                (user, Some(password)) => Some(Login { user: user.unwrap_or_default(), password }),
                (Some(user), None) => {
                    let known = auth.netrc_login(host, Some(&user)).cloned();
                    Some(known.unwrap_or(Login { user, password: String::new() }))
                }
                (None, None) => auth.netrc_login(host, None).cloned(),
            };
            headers.extend(login.map(|login| login.header()));
        }
        Credentials { origin: url.clone(), headers }
    }

    /// The headers for a request to `url`: none, unless it is the source's own scheme, host and
    /// port, or the same host by https on the usual ports after http.
    pub fn headers_for(&self, url: &Url) -> &[(HeaderName, HeaderValue)] {
        if self.is_for(url) { &self.headers } else { &[] }
    }

    /// Are there any?
    pub fn is_empty(&self) -> bool {
        self.headers.is_empty()
    }

    fn is_for(&self, url: &Url) -> bool {
        let place = |url: &Url| (url.host_str().map(str::to_owned), url.port());
        let upgraded = self.origin.scheme() == "http" && url.scheme() == "https";
        // `port` is None for the usual one.
        let usual = self.origin.port().is_none() && url.port().is_none();
        place(&self.origin) == place(url)
            && (self.origin.scheme() == url.scheme() || upgraded && usual)
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.headers.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("Credentials").field("headers", &names).finish_non_exhaustive()
    }
}

fn read_secret(path: &Path) -> Result<String, AuthError> {
    let wrap = |source| AuthError::Read { path: path.into(), source };
    let text = std::fs::read_to_string(path).map_err(wrap)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let file = std::fs::metadata(path).map_err(wrap)?;
        // Without /proc the file counts as ours, and is warned about.
        let is_ours = std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == file.uid());
        let is_ours = is_ours || !Path::new("/proc/self").exists();
        if is_exposed(file.mode(), is_ours) {
            log::warn!("{} contains secrets and others can read it: chmod 600", path.display());
        }
    }
    Ok(text)
}

/// Can others read a file of this mode? The group's bits count only in a file of this user, as with
/// ssh's keys: a secret that is mounted (systemd's LoadCredential, Kubernetes) belongs to root and is
/// readable by this user through its group, or through an ACL, which shows as the group's bits.
#[cfg(unix)]
fn is_exposed(mode: u32, is_ours: bool) -> bool {
    mode & if is_ours { 0o077 } else { 0o007 } != 0
}

/// A header line. Its value is a secret.
type Header = (HeaderName, HeaderValue);

/// The lines of a header file below `[URL]`, or before the first such line. Values are marked as
/// sensitive, so `Debug` does not show them.
#[derive(Clone, Debug)]
struct Section {
    url: Option<Url>,
    headers: Vec<Header>,
}

/// Is `url` at `scope`, or below its path? As git's `http.<url>.*`.
fn is_below(scope: &Url, url: &Url) -> bool {
    let folder = scope.path().trim_end_matches('/');
    scope.origin() == url.origin()
        && url
            .path()
            .strip_prefix(folder)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// `[https://host/path]`.
fn parse_section(line: &str) -> Result<Url, &'static str> {
    let text = line.strip_prefix('[').and_then(|line| line.strip_suffix(']'));
    let url = text.and_then(|text| Url::parse(text.trim()).ok());
    let plain = |url: &Url| {
        matches!(url.scheme(), "http" | "https")
            && url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none()
            // It would match no host.
            && url.host_str().is_some_and(|host| !host.contains('*'))
    };
    url.filter(plain).ok_or("not a section: expected [https://HOST/PATH]")
}

fn parse_headers(path: &Path, text: &str) -> Result<Vec<Section>, AuthError> {
    let mut sections = vec![Section { url: None, headers: Vec::new() }];
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let bad = |reason| AuthError::Line { path: path.into(), line: at + 1, reason };
        if line.starts_with('[') {
            let url = Some(parse_section(line).map_err(bad)?);
            sections.push(Section { url, headers: Vec::new() });
        } else if let Some(section) = sections.last_mut() {
            section.headers.push(parse_header(line).map_err(bad)?);
        }
    }
    Ok(sections)
}

fn parse_header(line: &str) -> Result<(HeaderName, HeaderValue), &'static str> {
    // What the request itself needs to be understood.
    const OURS: [&str; 6] = [
        "host",
        "content-length",
        "content-type",
        "content-encoding",
        "transfer-encoding",
        "connection",
    ];
    let (name, value) = line.split_once(':').ok_or("not a header line (Name: value)")?;
    let name = HeaderName::try_from(name.trim()).map_err(|_| "not a valid header name")?;
    if OURS.contains(&name.as_str()) {
        return Err("this header cannot be set");
    }
    let mut value = HeaderValue::try_from(value.trim()).map_err(|_| "not a valid header value")?;
    value.set_sensitive(true);
    Ok((name, value))
}

/// One entry of a `.netrc`; without a host it is the `default`.
#[derive(Clone)]
struct Machine {
    host: Option<String>,
    login: Login,
}

/// Reads what is well-formed, and stops at a word that it does not know: a password that is taken
/// for a keyword must not shift the meaning of all that follows.
fn parse_netrc(text: &str) -> Vec<Machine> {
    let mut machines: Vec<Machine> = Vec::new();
    let mut words = netrc_words(text).into_iter();
    while let Some(word) = words.next() {
        let host = match word.as_str() {
            "machine" => Some(words.next().unwrap_or_default()),
            "default" => None,
            "login" | "password" | "account" => {
                let value = words.next().unwrap_or_default();
                match (word.as_str(), machines.last_mut()) {
                    ("login", Some(machine)) => machine.login.user = value,
                    ("password", Some(machine)) => machine.login.password = value,
                    _ => {}
                }
                continue;
            }
            _ => break,
        };
        let login = Login { user: String::new(), password: String::new() };
        machines.push(Machine { host, login });
    }
    machines
}

/// The words of a `.netrc`: comments and macros left out, quotes as curl reads them.
fn netrc_words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut in_macro = false;
    for line in text.lines() {
        // A macro ends with an empty line.
        in_macro &= !line.trim().is_empty();
        let mut rest = if in_macro { "" } else { line.trim_start() };
        while !rest.is_empty() && !rest.starts_with('#') {
            let (word, after) = netrc_word(rest);
            if word == "macdef" {
                in_macro = true;
                break;
            }
            words.push(word);
            rest = after.trim_start();
        }
    }
    words
}

fn netrc_word(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(char::is_whitespace).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut word = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (word, &quoted[at + 1..]),
            '\\' => word.extend(chars.next().map(|(_, escaped)| escaped)),
            c => word.push(c),
        }
    }
    (word, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn basic(headers: &[(HeaderName, HeaderValue)]) -> Option<String> {
        let value = headers.iter().find(|(name, _)| name == AUTHORIZATION)?.1.to_str().unwrap();
        let bytes = BASE64_STANDARD.decode(value.strip_prefix("Basic ")?).unwrap();
        Some(String::from_utf8(bytes).unwrap())
    }

    fn auth(headers: &str, netrc: &str) -> Auth {
        let headers = parse_headers(Path::new("headers"), headers).unwrap();
        Auth { sections: headers.into(), netrc: parse_netrc(netrc).into() }
    }

    fn login(url: &str, auth: &Auth) -> Option<String> {
        let mut url = Url::parse(url).unwrap();
        let credentials = Credentials::take_from(&mut url, auth);
        assert!(!url.as_str().contains('@'));
        basic(credentials.headers_for(&url))
    }

    const NETRC: &str = "# mine\nmachine git.example login bot password s3cret\n\
        macdef init\nmachine evil login x password y\n\n\
        machine git.example\n\tlogin other\n\tpassword \"two words \\\" #1\" # why\n\
        default login anonymous password guest";

    #[test]
    fn sections_that_no_source_is_below_are_named() {
        let text = "[https://git.example/team/]\nA: b\n[https://other.example]\nC: d\n";
        let sections = parse_headers(Path::new("file"), text).unwrap();
        let auth = Auth { sections: sections.into(), ..Auth::default() };
        let without = |urls: &[&str]| auth.sections_without(urls.iter().copied());
        assert_eq!(without(&["https://git.example/team/a"]), ["https://other.example/"]);
        assert_eq!(without(&["https://git.example/teams/a"]).len(), 2);
        assert_eq!(without(&["https://git.example/team/a", "https://other.example/b"]).len(), 0);
    }

    #[cfg(unix)]
    #[test]
    fn a_mounted_secret_of_root_is_not_exposed_by_its_group() {
        for (mode, ours, others) in
            [(0o600, false, false), (0o440, true, false), (0o640, true, false), (0o604, true, true)]
        {
            assert_eq!(
                (is_exposed(mode, true), is_exposed(mode, false)),
                (ours, others),
                "{mode:o}"
            );
        }
    }

    #[test]
    fn userinfo_is_decoded_sent_and_taken_out_of_the_url() {
        let none = Auth::none();
        assert_eq!(login("https://h/x", &none), None);
        assert_eq!(login("https://us%40er:p%3Aw%25@h/x", &none).as_deref(), Some("us@er:p:w%"));
        assert_eq!(login("https://token@h/x", &none).as_deref(), Some("token:"));
        assert_eq!(login("https://:token@h/x", &none).as_deref(), Some(":token"));
    }

    #[test]
    fn netrc_gives_the_login_of_the_host_and_of_the_user() {
        let auth = auth("", NETRC);
        assert_eq!(login("https://git.example:8443/x", &auth).as_deref(), Some("bot:s3cret"));
        assert_eq!(login("https://GIT.example/x", &auth).as_deref(), Some("bot:s3cret"));
        let other = login("https://other@git.example/x", &auth);
        assert_eq!(other.as_deref(), Some("other:two words \" #1"));
        assert_eq!(login("https://evil/x", &auth).as_deref(), Some("anonymous:guest"));
        assert_eq!(login("https://a:b@git.example/x", &auth).as_deref(), Some("a:b"));
        assert_eq!(login("https://nobody@git.example/x", &auth).as_deref(), Some("nobody:"));
    }

    #[test]
    fn a_malformed_netrc_gives_what_came_before_the_fault() {
        assert_eq!(parse_netrc("machine a login b password c d machine e").len(), 1);
        assert_eq!(parse_netrc("machine").len(), 1);
        assert_eq!(parse_netrc("\"").len(), 0);
        assert_eq!(parse_netrc("login x password y").len(), 0);
    }

    #[test]
    fn an_authorization_header_of_the_file_beats_all_other_logins() {
        let auth = auth("# token\n\nAuthorization: Bearer abc\nX-Extra:1\n", NETRC);
        let mut url = Url::parse("https://a:b@git.example/x").unwrap();
        let credentials = Credentials::take_from(&mut url, &auth);
        let values: Vec<_> =
            credentials.headers_for(&url).iter().map(|(_, v)| v.to_str().unwrap()).collect();
        assert_eq!(values, ["Bearer abc", "1"]);
    }

    #[test]
    fn header_lines_below_a_url_are_for_sources_there_alone() {
        let file = "X-All: all\n[https://git.example.com/]\nAuthorization: A\n\
                    [ https://git.example.com/team/ ]\nAuthorization: B\nX-All: team\n\
                    [https://other.example:8443]\nAuthorization: C\n";
        let auth = auth(file, "");
        let sent = |url: &str| {
            let mut url = Url::parse(url).unwrap();
            let credentials = Credentials::take_from(&mut url, &auth);
            let values = credentials.headers_for(&url).iter();
            values.map(|(_, value)| value.to_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(sent("https://git.example.com/r.git"), ["all", "A"]);
        assert_eq!(sent("https://GIT.example.com:443/team/r.git"), ["B", "team"]);
        assert_eq!(sent("https://git.example.com/teams/r.git"), ["all", "A"]);
        assert_eq!(sent("https://other.example:8443/r"), ["all", "C"]);
        for other in [
            "http://git.example.com/r",
            "https://git.example.com:8443/r",
            "https://other.example/r",
            "https://git.example.com.evil/r",
            "https://a.git.example.com/r",
        ] {
            assert_eq!(sent(other), ["all"], "{other}");
        }
        assert!(auth.has_unscoped_headers());
        for bad in [
            "[git.example.com]",
            "[https://h",
            "[https://u:p@h/]",
            "[https://h/?q]",
            "[]",
            "[http://*/]",
        ] {
            assert!(parse_headers(Path::new("f"), bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn nothing_is_sent_to_another_place() {
        let mut url = Url::parse("http://a:b@git.example/x").unwrap();
        let credentials = Credentials::take_from(&mut url, &Auth::none());
        assert!(!credentials.is_empty());
        for (other, sent) in [
            ("http://git.example/y", true),
            ("https://git.example/y", true),
            ("http://git.example:80/y", true),
            ("http://git.example:8080/y", false),
            ("https://git.example:8443/y", false),
            ("http://evil.example/y", false),
            ("http://git.example.evil/y", false),
        ] {
            let headers = credentials.headers_for(&Url::parse(other).unwrap());
            assert_eq!(!headers.is_empty(), sent, "{other}");
        }
        let mut url = Url::parse("https://a:b@git.example/x").unwrap();
        let credentials = Credentials::take_from(&mut url, &Auth::none());
        assert!(credentials.headers_for(&Url::parse("http://git.example/x").unwrap()).is_empty());
    }

    #[test]
    fn lines_that_are_no_headers_are_refused_by_number_and_without_their_content() {
        for bad in ["secret", "a b: c", ": x", "Host: x", "X: a\u{1}b"] {
            let error = parse_headers(Path::new("f"), &format!("A: b\n{bad}\n")).unwrap_err();
            let text = error.to_string();
            assert!(text.starts_with("f, line 2: ") && !text.contains(bad), "{text}");
        }
    }

    #[test]
    fn files_are_read_and_missing_ones_are_errors() {
        let dir = tempfile::tempdir().unwrap();
        let (headers, netrc) = (dir.path().join("headers"), dir.path().join("netrc"));
        assert!(matches!(Auth::from_files(Some(&headers), None), Err(AuthError::Read { .. })));
        std::fs::write(&headers, "X-A: b\n").unwrap();
        std::fs::write(&netrc, NETRC).unwrap();
        let auth = Auth::from_files(Some(&headers), Some(&netrc)).unwrap();
        assert_eq!((auth.sections[0].headers.len(), auth.netrc.len()), (1, 3));
    }

    #[test]
    fn debug_shows_no_secret() {
        let auth = auth("Authorization: Bearer hushhush\n", NETRC);
        let mut url = Url::parse("https://a:hushhush@git.example/x").unwrap();
        let credentials = Credentials::take_from(&mut url, &auth);
        let text = format!("{auth:?} {credentials:?}");
        assert!(!text.contains("hush") && !text.contains("s3cret"), "{text}");
    }
}
