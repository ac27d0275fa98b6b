//! Which certificates are trusted: the system's, or Mozilla's where it has none, and the user's besides.
//!
//! A file that the user names on the command line must hold certificates; one that a variable names may
//! be missing. Nothing here turns the check of certificates off.

use std::path::Path;

use ureq::tls::{Certificate, PemItem, RootCerts};

use super::settings::{Environment, HttpError, Settings};

/// All that is trusted: the system's roots, else Mozilla's, and the user's.
pub(super) fn roots(settings: &Settings, env: &Environment) -> Result<RootCerts, HttpError> {
    let mut all = system_roots();
    if all.is_empty() {
        log::debug!("the system has no trusted roots: using the built-in ones");
        let built_in = webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter();
        all.extend(built_in.map(|der| Certificate::from_der(der).to_owned()));
    }
    for (origin, path) in &env.ca_files {
        // A variable may be left over from another machine; what needs it will say what is missing.
        match pem_file(origin, path) {
            Ok(mut more) => all.append(&mut more),
            Err(error) => log::warn!("{error}"),
        }
    }
    if let Some(path) = &settings.ca_bundle {
        all.append(&mut pem_file("--ca-bundle", path)?);
    }
    Ok(RootCerts::new_with_certs(&all))
}

/// The system's roots. `SSL_CERT_FILE` and `SSL_CERT_DIR` stand in their place, as with OpenSSL and
/// curl, so that a user can also narrow what is trusted; rustls-native-certs reads these two itself.
fn system_roots() -> Vec<Certificate<'static>> {
    let found = rustls_native_certs::load_native_certs();
    // One bad file among many good ones is common, and no matter.
    let level = if found.certs.is_empty() { log::Level::Warn } else { log::Level::Debug };
    for error in &found.errors {
        log::log!(level, "trusted roots: {error}");
    }
    found.certs.iter().map(|der| Certificate::from_der(der).to_owned()).collect()
}

fn pem_file(origin: &'static str, path: &Path) -> Result<Vec<Certificate<'static>>, HttpError> {
    let content = |reason: String| HttpError::CaContent { origin, path: path.into(), reason };
    let bytes = std::fs::read(path).map_err(|source| HttpError::CaFile {
        origin,
        path: path.into(),
        source,
    })?;
    let mut found = Vec::new();
    for item in ureq::tls::parse_pem(&bytes) {
        // A private key beside its certificate is no matter of ours.
        if let PemItem::Certificate(certificate) = item.map_err(|e| content(e.to_string()))? {
            found.push(certificate);
        }
    }
    if found.is_empty() { Err(content("no certificate in it".into())) } else { Ok(found) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Client;

    #[test]
    fn a_ca_bundle_must_be_there_and_hold_certificates() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        let client = || {
            let settings = Settings { ca_bundle: Some(path.clone()), ..Settings::default() };
            Client::with_environment(&settings, &Environment::default())
        };
        assert!(matches!(client(), Err(HttpError::CaFile { origin: "--ca-bundle", .. })));
        std::fs::write(&path, "nothing here").unwrap();
        assert!(matches!(client(), Err(HttpError::CaContent { .. })));
        std::fs::write(&path, "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n")
            .unwrap();
        assert!(matches!(client(), Err(HttpError::CaContent { .. })));
    }

    #[test]
    fn a_variable_that_names_a_missing_file_is_no_error() {
        let env = Environment::from_lookup(|name| {
            (name == "AWS_CA_BUNDLE").then(|| "/does/not/exist.pem".to_owned())
        });
        assert_eq!(env.ca_files.len(), 1);
        assert!(Client::with_environment(&Settings::default(), &env).is_ok());
    }
}
