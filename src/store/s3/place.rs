//! Where the bucket is: the parts of its URL, checked, and keys encoded as they are signed and sent.

use s3::signing;
use ureq::http::Uri;

use super::config::{Addressing, S3Config};
use crate::store::interface::Key;

/// Where requests go: the bucket's name, and the parts of its URL.
pub(super) struct Place {
    pub(super) bucket: String,
    /// Empty, or the prefix with one slash at its end.
    pub(super) prefix: String,
    /// `https://host[:port]`.
    pub(super) origin: String,
    /// `host[:port]`, as it is signed.
    pub(super) host: String,
    /// The same whatever the bucket.
    pub(super) server: String,
    /// The encoded path of the bucket, with a slash at its end.
    bucket_path: String,
}

impl Place {
    pub(super) fn new(config: &S3Config) -> Result<Place, String> {
        check_bucket(&config.bucket)?;
        if config.region.is_empty() || !config.region.chars().all(is_name_char) {
            return Err(format!("not a region: {:?}", config.region));
        }
        let prefix = checked_prefix(&config.prefix)?;
        let (scheme, host, path) = endpoint(config)?;
        let server = format!("{scheme}://{host}{path} {}", config.region);
        let bucket = signing::uri_encode(&config.bucket, true);
        let (host, bucket_path) = if by_path(config) {
            (host, format!("{path}/{bucket}/"))
        } else {
            (format!("{}.{host}", config.bucket), format!("{path}/"))
        };
        let origin = format!("{scheme}://{host}");
        Ok(Place { bucket: config.bucket.clone(), prefix, origin, host, server, bucket_path })
    }

    /// `s3://bucket/prefix/key`, or the mirror's.
    pub(super) fn target(&self, key: Option<&Key>) -> String {
        match key {
            None => format!("s3://{}/{}", self.bucket, self.prefix.trim_end_matches('/')),
            Some(key) => format!("s3://{}/{}{}", self.bucket, self.prefix, key),
        }
    }

    /// The encoded path of a key, or of the bucket.
    pub(super) fn path(&self, key: Option<&Key>) -> String {
        match key {
            // `/bucket`, not `/bucket/`: some stores take the latter for an object without a name.
            None if self.bucket_path.len() > 1 => self.bucket_path.trim_end_matches('/').to_owned(),
            None => self.bucket_path.clone(),
            Some(key) => {
                let mut path = self.bucket_path.clone();
                path.push_str(&signing::uri_encode(&self.prefix, false));
                path.push_str(&signing::uri_encode(key.as_str(), false));
                path
            }
        }
    }

    /// `bucket/key` for `x-amz-copy-source`, encoded once, as AWS wants it. Ceph 16 decodes it
    /// twice on UploadPartCopy (not on CopyObject): there a source with `+` is not found, and one
    /// with a `%` that two hex digits don't follow makes radosgw abort. Nothing that is right
    /// elsewhere goes round that; only sources over 5 GiB below such a prefix meet it.
    pub(super) fn copy_source(&self, from: &Key) -> String {
        let bucket = signing::uri_encode(&self.bucket, true);
        let prefix = signing::uri_encode(&self.prefix, false);
        format!("{bucket}/{prefix}{}", signing::uri_encode(from.as_str(), false))
    }
}

impl S3Config {
    /// Where readers find the keys below the prefix over plain HTTP, without a slash at its end.
    /// `None`: no request could be sent there.
    pub fn read_url(&self) -> Option<String> {
        let place = Place::new(self).ok()?;
        let path = format!("{}{}", place.bucket_path, encoded_path(&place.prefix));
        Some(format!("{}{}", place.origin, path.trim_end_matches('/')))
    }
}

/// A path as it stands in a URL: all but unreserved characters and slashes percent-encoded.
pub fn encoded_path(path: &str) -> String {
    signing::uri_encode(path, false)
}

fn is_name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_')
}

fn check_bucket(bucket: &str) -> Result<(), String> {
    let sound = !bucket.is_empty()
        && bucket.len() <= 255
        && !matches!(bucket, "." | "..")
        && bucket.chars().all(is_name_char);
    if sound { Ok(()) } else { Err(format!("not a bucket's name: {bucket:?}")) }
}

/// The prefix with one slash at its end, or nothing.
///
/// It goes into URLs: clients and proxies fold `/../` and `//`, and a backslash becomes a slash in
/// some, so that such a prefix would name another place for readers than for us.
fn checked_prefix(prefix: &str) -> Result<String, String> {
    let prefix = prefix.trim_matches('/');
    if prefix.is_empty() {
        return Ok(String::new());
    }
    if Key::new(prefix).is_err() || prefix.contains('\\') {
        return Err(format!(
            "not a usable prefix: {prefix:?} (no empty, . or .. segment, no backslash, no control \
             character)"
        ));
    }
    Ok(format!("{prefix}/"))
}

/// Scheme, host with port, and path without its last slash.
fn endpoint(config: &S3Config) -> Result<(String, String, String), String> {
    let Some(given) = &config.endpoint else {
        let domain = if config.region.starts_with("cn-") { "com.cn" } else { "com" };
        let host = format!("s3.{}.amazonaws.{domain}", config.region);
        return Ok(("https".to_owned(), host, String::new()));
    };
    let full = if given.contains("://") { given.clone() } else { format!("https://{given}") };
    // The text is not shown: a URL can hold a password.
    let bad = |why: &str| Err(format!("--endpoint-url cannot be used: {why}"));
    let Ok(url) = full.parse::<Uri>() else { return bad("it is not a URL") };
    let scheme = match url.scheme_str() {
        Some(scheme @ ("http" | "https")) => scheme,
        _ => return bad("it must begin with https:// or http://"),
    };
    let Some(authority) = url.authority() else { return bad("it names no host") };
    if authority.as_str().contains('@') {
        return bad("it must not contain a user and password; use the environment or a profile");
    }
    if url.query().is_some() {
        return bad("it must not have a query");
    }
    let path = url.path().trim_end_matches('/');
    if path.split('/').any(|part| matches!(part, "." | "..")) {
        return bad("its path has a . or .. segment");
    }
    let port = if scheme == "http" { ":80" } else { ":443" };
    // Clients leave the default port out of the Host header, so it must not be signed either.
    let host = authority.as_str().strip_suffix(port).unwrap_or(authority.as_str());
    Ok((scheme.to_owned(), host.to_ascii_lowercase(), path.to_owned()))
}

fn by_path(config: &S3Config) -> bool {
    match config.addressing {
        Addressing::Path => true,
        Addressing::Virtual => false,
        // A dot in the name breaks the wildcard certificate; capitals and `_` are no host names.
        Addressing::Auto => {
            let odd = |c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
            config.endpoint.is_some() || config.bucket.contains(odd)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn urls(change: impl FnOnce(&mut S3Config)) -> (String, String, String) {
        let mut config = S3Config {
            bucket: "bucket".into(),
            prefix: "a b".into(),
            region: "eu-west-1".into(),
            ..S3Config::default()
        };
        change(&mut config);
        let place = Place::new(&config).unwrap();
        let key = Key::new("k+~").unwrap();
        let url = |path| format!("{}{path}", place.origin);
        (place.host.clone(), url(place.path(None)), url(place.path(Some(&key))))
    }

    #[test]
    fn urls_follow_the_addressing_style() {
        let (host, bucket, key) = urls(|_| ());
        assert_eq!(host, "bucket.s3.eu-west-1.amazonaws.com");
        assert_eq!(bucket, "https://bucket.s3.eu-west-1.amazonaws.com/");
        assert_eq!(key, "https://bucket.s3.eu-west-1.amazonaws.com/a%20b/k%2B~");
        for bucket in ["with.dots", "Capitals", "under_score"] {
            let (host, ..) = urls(|config| config.bucket = bucket.into());
            assert_eq!(host, "s3.eu-west-1.amazonaws.com", "{bucket}");
        }
        let (host, bucket, key) = urls(|config| {
            config.endpoint = Some("HTTPS://S3.Example:443/swift/".into());
        });
        assert_eq!(
            (host.as_str(), bucket.as_str()),
            ("s3.example", "https://s3.example/swift/bucket")
        );
        assert_eq!(key, "https://s3.example/swift/bucket/a%20b/k%2B~");
        let (host, bucket, _) = urls(|config| {
            config.endpoint = Some("http://host:9000".into());
            config.addressing = Addressing::Virtual;
        });
        assert_eq!(
            (host.as_str(), bucket.as_str()),
            ("bucket.host:9000", "http://bucket.host:9000/")
        );
        let (host, ..) = urls(|config| config.region = "cn-north-1".into());
        assert_eq!(host, "bucket.s3.cn-north-1.amazonaws.com.cn");
    }
}
