//! What a request that failed met, in words and in kinds.
//!
//! Only what went wrong on the way: a status is an answer, not an error. No text here has a URL, a header
//! or a password in it.

use super::pace::TooSlow;

/// Says what a failed request met, and for an untrusted certificate how to trust it. No URL, no
/// header.
pub fn explain(error: &ureq::Error) -> String {
    match tls_error(error) {
        Some(rustls::Error::InvalidCertificate(reason)) => explain_certificate(reason),
        Some(rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType)) => {
            "the server does not speak TLS on this port; use http:// or another port".into()
        }
        Some(other) => format!("TLS failed: {other}"),
        None => match error {
            ureq::Error::HostNotFound => "the host name has no address".into(),
            ureq::Error::Timeout(what) => format!("timed out ({what})"),
            ureq::Error::Io(error) => error.to_string(),
            ureq::Error::InvalidProxyUrl => "the proxy's URL is not valid".into(),
            _ if is_denied(error) => {
                "the proxy requires authentication; put the credentials in its URL: \
                                      HTTPS_PROXY=http://user:password@host:port, or HTTP_PROXY"
                    .into()
            }
            ureq::Error::ConnectProxyFailed(reason) => {
                format!("the proxy did not connect: {reason}")
            }
            other => other.to_string(),
        },
    }
}

/// Was the connection given up because it was slower than the limit? Trying again would take as long.
pub fn is_too_slow(error: &ureq::Error) -> bool {
    matches!(error, ureq::Error::Io(error)
        if error.get_ref().is_some_and(|inner| inner.is::<TooSlow>()))
}

/// May the same request succeed the next time?
pub fn is_transient(error: &ureq::Error) -> bool {
    use std::io::ErrorKind::{PermissionDenied, Unsupported};
    match error {
        _ if tls_error(error).is_some() || is_denied(error) => false,
        ureq::Error::Io(error) => !matches!(error.kind(), PermissionDenied | Unsupported),
        ureq::Error::Timeout(_)
        | ureq::Error::HostNotFound
        | ureq::Error::ConnectionFailed
        | ureq::Error::ConnectProxyFailed(_)
        // A garbled answer: a connection that was cut inside a header looks like that.
        | ureq::Error::Protocol(_)
        | ureq::Error::BodyStalled => true,
        _ => false,
    }
}

/// Did the proxy refuse to connect, for want of a login or by its rules? (A server's own refusal is
/// no error here but a status.)
pub fn is_denied(error: &ureq::Error) -> bool {
    // ureq tells the proxy's status in words alone.
    let refused = |reason: &str| ["401", "403", "407"].iter().any(|code| reason.contains(code));
    matches!(error, ureq::Error::ConnectProxyFailed(reason) if refused(reason))
}

fn tls_error(error: &ureq::Error) -> Option<&rustls::Error> {
    match error {
        ureq::Error::Rustls(error) => Some(error),
        ureq::Error::Io(error) => error.get_ref()?.downcast_ref(),
        _ => None,
    }
}

fn explain_certificate(reason: &rustls::CertificateError) -> String {
    use rustls::CertificateError as E;
    match reason {
        // The last: a trusted authority has the same name and a key of another kind.
        E::UnknownIssuer
        | E::BadSignature
        | E::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            "the server's certificate is signed by an authority \
             that is not trusted here; if it is yours, trust it with --ca-bundle FILE (PEM)"
                .into()
        }
        E::Expired | E::ExpiredContext { .. } => {
            "the server's certificate has expired (or this machine's clock is wrong)".into()
        }
        E::NotValidForName | E::NotValidForNameContext { .. } => {
            format!("the server's certificate is for another host: {reason}")
        }
        // What webpki has no own word for, such as a CA's certificate that is used as the server's.
        E::Other(_) => format!(
            "the server's certificate is not valid: {reason}; a self-signed certificate is \
             accepted only if it is not a CA certificate and is trusted with --ca-bundle FILE (PEM)"
        ),
        other => format!("the server's certificate is not valid: {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_without_tls_is_named() {
        let reason = rustls::InvalidMessage::InvalidContentType;
        let error = ureq::Error::Rustls(rustls::Error::InvalidMessage(reason));
        assert!(explain(&error).starts_with("the server does not speak TLS on this port"));
    }

    #[test]
    fn an_untrusted_certificate_says_how_to_trust_it() {
        let tls = |reason| rustls::Error::InvalidCertificate(reason);
        let direct = ureq::Error::Rustls(tls(rustls::CertificateError::UnknownIssuer));
        let wrapped = ureq::Error::Io(std::io::Error::new(
            std::io::ErrorKind::InvalidData,
            tls(rustls::CertificateError::UnknownIssuer),
        ));
        for error in [direct, wrapped] {
            assert!(explain(&error).contains("--ca-bundle FILE"));
            assert!(!is_transient(&error));
        }
        assert!(is_transient(&ureq::Error::HostNotFound));
        assert!(is_transient(&ureq::Error::Io(std::io::ErrorKind::ConnectionReset.into())));
    }
}
