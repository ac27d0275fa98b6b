//! Temporary keys for a web identity token, from STS: how pods of Kubernetes get theirs.

use std::time::Duration;

use serde::Deserialize;

use super::endpoint::{Ask, UNREADABLE, Unanswered, parse_time, percent_encode, read_token};
use super::keys::{Credentials, Found};
use super::search::Search;

/// STS is far away, maybe.
const STS_TIMEOUT: Duration = Duration::from_secs(10);

impl Search {
    /// AssumeRoleWithWebIdentity:
    /// <https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRoleWithWebIdentity.html>.
    pub(super) fn web_identity(&self) -> Found {
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

#[cfg(test)]
mod tests {
    use std::fs;

    use crate::store::credentials::Provider;
    use crate::store::credentials::testing::{keys, search, serve, text};

    #[test]
    fn a_web_identity_token_is_exchanged() {
        let dir = tempfile::tempdir().unwrap();
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
        let dir = tempfile::tempdir().unwrap();
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
}
