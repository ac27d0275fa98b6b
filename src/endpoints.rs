//! From URLs and settings to sources and stores: the one place that knows every kind of both.
//!
//! A new store or source is one arm in [`Endpoints::open_store`] or [`Endpoints::open_source`]. All
//! repositories of a run share what is made here once: the connections, the credentials, the header
//! lines. Nothing is sent while opening.

use std::collections::BTreeSet;

use ureq::http::{HeaderName, HeaderValue};
use url::Url;

use crate::cli::urls::{SourceUrl, TargetUrl};
use crate::cli::{self, CliError, Settings};
use crate::http;
use crate::run::Cancel;
use crate::source::auth::{Auth, Credentials};
use crate::source::bundle::Bundle;
use crate::source::smart_http::SmartHttp;
use crate::source::{Source, SourceError, SourceErrorKind};
use crate::store::counted::Counted;
use crate::store::credentials::{Provider, Search};
use crate::store::dir::DirStore;
use crate::store::http_read::HttpRead;
use crate::store::retry::{Policy, Retry};
use crate::store::s3::{Addressing, S3Config, S3Store};
use crate::store::{Key, Store, StoreError, StoreErrorKind};
use crate::transfer::{MirrorSource, TripSource};

/// Where requests are signed for if nothing says it.
const DEFAULT_REGION: &str = "us-east-1";

/// Where a bucket is, and as whom it is asked.
struct Place {
    endpoint: Option<String>,
    region: String,
    addressing: cli::Addressing,
    credentials: Provider,
}

/// What all repositories of a run share; so do clones.
#[derive(Clone)]
pub struct Endpoints {
    settings: Settings,
    /// For sources and what belongs to them.
    client: http::Client,
    /// For stores. Apart from the other: an interrupted run leaves its source at once, and needs its
    /// store to clean up.
    store_client: http::Client,
    auth: Auth,
    credentials: Provider,
    /// What the profile says, if neither flag nor environment do.
    region: Result<String, StoreError>,
}

impl Endpoints {
    /// Reads the files that `settings` name: a fault in one of them is a usage error.
    pub fn new(settings: &Settings) -> Result<Self, CliError> {
        let usage = |error: &dyn std::fmt::Display| CliError::new(error.to_string());
        let auth = Auth::from_environment(settings.source_header_file.as_deref())
            .map_err(|error| usage(&error))?;
        let client = http::Client::new(&connections(settings)).map_err(|error| usage(&error))?;
        let store_client = client.apart();
        let mut search = Search::new(store_client.clone()).with_region(settings.region.clone());
        if settings.profile_from_flag {
            search = search.with_profile(settings.profile.clone());
        }
        let region = match &settings.region {
            Some(region) => Ok(Some(region.clone())),
            None => search.profile_region(),
        };
        Ok(Endpoints {
            settings: settings.clone(),
            client,
            store_client,
            auth,
            credentials: Provider::search(search),
            region: region.map(|region| region.unwrap_or_else(|| DEFAULT_REGION.to_owned())),
        })
    }

    /// Header lines that belong to no URL would go to every source: fine for sources on one host alone.
    pub fn check_sources<'s>(
        &self,
        sources: impl Iterator<Item = &'s SourceUrl>,
    ) -> Result<(), CliError> {
        let Some(file) = self.settings.source_header_file.as_ref() else { return Ok(()) };
        let sources: Vec<&SourceUrl> = sources.collect();
        let urls: Vec<String> = sources.iter().map(ToString::to_string).collect();
        for section in self.auth.sections_without(urls.iter().map(String::as_str)) {
            log::info!("{}: no source here is below [{section}]", file.display());
        }
        let Some(file) = Some(file).filter(|_| self.auth.has_unscoped_headers()) else {
            return Ok(());
        };
        let hosts: BTreeSet<String> = sources.into_iter().filter_map(SourceUrl::host).collect();
        let (Some(first), Some(last)) = (hosts.first(), hosts.last()) else { return Ok(()) };
        if hosts.len() == 1 {
            return Ok(());
        }
        Err(CliError::new(format!(
            "{}: header lines without a section would go to {} hosts ({first}, {last} …): put them \
             in a section for their URL, such as [{first}/]",
            file.display(),
            hosts.len(),
        )))
    }

    /// The same with connections of its own: they can be cut without touching the others.
    #[must_use]
    pub fn apart(&self) -> Self {
        Endpoints {
            settings: self.settings.clone(),
            client: self.client.apart(),
            store_client: self.store_client.apart(),
            auth: self.auth.clone(),
            credentials: self.credentials.clone(),
            region: self.region.clone(),
        }
    }

    /// The connections to sources: [`http::Client::cut`] ends every wait for one.
    pub fn source_client(&self) -> &http::Client {
        &self.client
    }

    /// The connections to stores.
    pub fn store_client(&self) -> &http::Client {
        &self.store_client
    }

    /// The source that `url` names; it tries nothing again once `cancel` is.
    pub fn open_source(
        &self,
        url: &SourceUrl,
        cancel: &Cancel,
    ) -> Result<Box<dyn Source>, SourceError> {
        Ok(match url {
            SourceUrl::Http { .. } => {
                let (client, auth) = (self.client.clone(), self.auth.clone());
                let cancel = cancel.clone();
                let source = SmartHttp::new(&url.with_userinfo(), client, auth)?;
                let source = source.with_cancel(move || cancel.is_cancelled());
                let source = source.with_lfs_other_host(self.settings.lfs_allow_other_host);
                let source = source.with_memory(self.memory_bytes());
                Box::new(source.with_redirect_other_host(self.settings.allow_redirect_host))
            }
            SourceUrl::Bundle(path) => {
                let bundle = Bundle::file(path).with_memory(self.memory_bytes());
                Box::new(bundle.with_lfs_dir(self.settings.lfs_dir.as_ref()))
            }
            SourceUrl::Stdin => {
                let bundle = Bundle::stdin().with_memory(self.memory_bytes());
                Box::new(bundle.with_lfs_dir(self.settings.lfs_dir.as_ref()))
            }
            SourceUrl::Mirror(_)
            | SourceUrl::WebMirror(_)
            | SourceUrl::Trip(_)
            | SourceUrl::TripStdin => {
                return Err(SourceError {
                    kind: SourceErrorKind::Fatal,
                    url: url.to_string(),
                    message: "internal error: its keys are copied, it is not fetched".into(),
                });
            }
        })
    }

    /// The trip that a mirror is made from; `None`: the source is something else.
    pub fn open_trip(&self, url: &SourceUrl) -> Option<TripSource> {
        let memory_bytes = self.settings.memory_bytes.unwrap_or(64 << 20);
        match url {
            SourceUrl::Trip(path) => Some(TripSource::file(path, memory_bytes)),
            SourceUrl::TripStdin => Some(TripSource::stream(std::io::stdin(), memory_bytes)),
            _ => None,
        }
    }

    /// The mirror that another one is made from.
    pub fn open_mirror(
        &self,
        url: &TargetUrl,
        cancel: &Cancel,
    ) -> Result<MirrorSource, StoreError> {
        let other = &self.settings.mirror_source;
        let (region, credentials) = match &other.profile {
            None => (self.region.clone()?, self.credentials.clone()),
            Some(profile) => {
                let search = Search::new(self.store_client.clone());
                let search = search.with_profile(Some(profile.clone()));
                let region = search.profile_region()?;
                let region = region.map_or_else(|| self.region.clone(), Ok)?;
                (region, Provider::search(search))
            }
        };
        let place = Place {
            endpoint: other.endpoint.as_ref().or(self.settings.endpoint.as_ref()).cloned(),
            region: other.region.clone().unwrap_or(region),
            addressing: other.addressing.unwrap_or(self.settings.addressing),
            credentials,
        };
        Ok(MirrorSource::new(self.open_at(url, place, cancel)?).with_memory(self.memory_bytes()))
    }

    /// A mirror behind a web server that another one is made from.
    pub fn open_web_mirror(
        &self,
        url: &str,
        cancel: &Cancel,
    ) -> Result<Retry<HttpRead>, StoreError> {
        let mut parsed = Url::parse(url).map_err(|error| {
            StoreError::new(StoreErrorKind::Other, "read", url, error.to_string())
        })?;
        let own = Credentials::take_from(&mut parsed, &self.auth);
        Ok(self.open_reader_with(url, own.headers_for(&parsed).to_vec(), cancel))
    }

    /// A job's working memory.
    pub fn memory_bytes(&self) -> u64 {
        self.settings.memory_bytes.unwrap_or(64 << 20)
    }

    /// The store that `url` names, with retries around it that end when `cancel` is.
    pub fn open_store(
        &self,
        url: &TargetUrl,
        cancel: &Cancel,
    ) -> Result<Box<dyn Store>, StoreError> {
        self.open_at(url, self.place(url)?, cancel)
    }

    /// A target that `url` lies inside and that has `key`, as far as these credentials can see.
    pub fn find_around(&self, url: &TargetUrl, key: &Key, cancel: &Cancel) -> Option<TargetUrl> {
        let has_it = |outer: &TargetUrl| match outer {
            // A store would make a folder of its own there.
            TargetUrl::Dir(path) => path.join(key.as_str()).is_file(),
            TargetUrl::S3 { .. } => match self.open_store(outer, cancel).map(|s| s.head(key)) {
                Ok(Ok(found)) => found.is_some(),
                Ok(Err(error)) | Err(error) => {
                    log::debug!("looking around {url}: {error}");
                    false
                }
            },
        };
        url.parents().find(has_it)
    }

    /// Where readers find what is below `url`, if nothing stands before the store: what git clones.
    pub fn read_url(&self, url: &TargetUrl) -> Option<String> {
        match url {
            TargetUrl::Dir(_) => Some(url.to_string()),
            TargetUrl::S3 { bucket, prefix } => {
                let (bucket, prefix) = (bucket.clone(), prefix.clone());
                self.config(bucket, prefix, &self.place(url).ok()?).read_url()
            }
        }
    }

    fn place(&self, url: &TargetUrl) -> Result<Place, StoreError> {
        Ok(Place {
            endpoint: self.settings.endpoint.clone(),
            region: match url {
                TargetUrl::S3 { .. } => self.region.clone()?,
                TargetUrl::Dir(_) => String::new(),
            },
            addressing: self.settings.addressing,
            credentials: self.credentials.clone(),
        })
    }

    fn open_at(
        &self,
        url: &TargetUrl,
        place: Place,
        cancel: &Cancel,
    ) -> Result<Box<dyn Store>, StoreError> {
        let (bucket, prefix) = match url {
            TargetUrl::Dir(path) => return Ok(Box::new(Counted::new(DirStore::new(path)?))),
            TargetUrl::S3 { bucket, prefix } => (bucket.clone(), prefix.clone()),
        };
        let config = self.config(bucket, prefix, &place);
        let store = S3Store::new(config, self.store_client.clone(), place.credentials)?;
        Ok(Box::new(self.with_retries(Counted::new(store), cancel)))
    }

    fn config(&self, bucket: String, prefix: String, place: &Place) -> S3Config {
        let settings = &self.settings;
        S3Config {
            bucket,
            prefix,
            region: place.region.clone(),
            endpoint: place.endpoint.clone(),
            addressing: match place.addressing {
                cli::Addressing::Auto => Addressing::Auto,
                cli::Addressing::Path => Addressing::Path,
                cli::Addressing::Virtual => Addressing::Virtual,
            },
            storage_class: settings.storage_class.clone(),
            sse: settings.sse.clone(),
            sse_kms_key_id: settings.sse_kms_key_id.clone(),
            acl: settings.acl.clone(),
        }
    }

    /// A mirror as a public reader sees it at `url` (`http(s)://…`), with the same retries.
    pub fn open_reader(&self, url: &str, cancel: &Cancel) -> Retry<HttpRead> {
        self.with_retries(HttpRead::new(url, self.store_client.clone()), cancel)
    }

    /// The same, with headers for every request: who the reader is.
    pub fn open_reader_with(
        &self,
        url: &str,
        headers: Vec<(HeaderName, HeaderValue)>,
        cancel: &Cancel,
    ) -> Retry<HttpRead> {
        let reader = HttpRead::new(url, self.store_client.clone()).with_headers(headers);
        self.with_retries(reader, cancel)
    }

    /// Puts retries around `store` that end when `cancel` is.
    fn with_retries<S: Store>(&self, store: S, cancel: &Cancel) -> Retry<S> {
        let mut policy = Policy::default();
        if let Some(attempts) = self.settings.max_attempts {
            policy.max_attempts = attempts;
        }
        let cancel = cancel.clone();
        Retry::new(store, policy).with_cancel(move || cancel.is_cancelled())
    }
}

/// How connections are made.
fn connections(settings: &Settings) -> http::Settings {
    let defaults = http::Settings::default();
    http::Settings {
        connections: settings.connections,
        ca_bundle: settings.ca_bundle.clone(),
        // Whoever tolerates slowness for so long also tolerates silence for so long.
        idle_timeout: match settings.low_speed_time {
            Some(time) if !time.is_zero() => time,
            _ => defaults.idle_timeout,
        },
        // Interim answers are signs of life.
        answer_timeout: match settings.low_speed_time {
            Some(time) if !time.is_zero() => time * http::PATIENCE,
            _ => defaults.answer_timeout,
        },
        low_speed: http::LowSpeed {
            limit: settings.low_speed_limit.unwrap_or(defaults.low_speed.limit),
            time: settings.low_speed_time.unwrap_or(defaults.low_speed.time),
        },
        ..defaults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_cannot_be_read_are_usage_errors() {
        let missing = Some("/nowhere/file".into());
        for settings in [
            Settings { ca_bundle: missing.clone(), ..Settings::default() },
            Settings { source_header_file: missing.clone(), ..Settings::default() },
        ] {
            let error = Endpoints::new(&settings).err().expect("must fail").to_string();
            assert!(error.contains("/nowhere/file"), "{error}");
        }
    }
}
