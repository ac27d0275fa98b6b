//! Temporary keys from the endpoint of a container: ECS and EKS.
//!
//! Its token goes only over https, or to addresses that do not leave this machine's host.

use ureq::http::Uri;

use super::endpoint::{Ask, parse_json, read_token};
use super::keys::Found;
use super::search::Search;

impl Search {
    pub(super) fn container(&self) -> Found {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::credentials::testing::{in_an_hour, json, keys, search, serve, text};

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
}
