//! Temporary keys from an instance's metadata: EC2, version 2 only.
//!
//! The last place, which anything may be at: what does not answer as EC2 does has no credentials, and is
//! no error.

use std::time::{Duration, Instant};

use super::endpoint::{ANSWER_TIMEOUT, Ask, Unanswered, parse_json, percent_encode};
use super::keys::{Credentials, Found};
use super::search::Search;

/// All of an instance's metadata.
const METADATA_TIMEOUT: Duration = Duration::from_secs(4);

impl Search {
    pub(super) fn metadata(&self) -> Found {
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
}

#[cfg(test)]
mod tests {
    use crate::store::credentials::Provider;
    use crate::store::credentials::testing::{in_an_hour, json, keys, search, serve};

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
}
