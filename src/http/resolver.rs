//! Where hosts are: addresses that are remembered for a while, and confined to some networks.
//!
//! ureq asks on every request, pooled connection or not. What is outside a resolver's reach is refused,
//! whether it was just found or is remembered.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

use super::reach::Reach;

/// How long an address is believed. Load balancers of object stores change theirs often.
const DNS_TTL: Duration = Duration::from_secs(60);

/// When they were found, and which.
type Addresses = (Instant, Vec<SocketAddr>);

/// The address that stands in `url` instead of a name.
pub(super) fn literal_address(url: &Uri) -> Option<IpAddr> {
    let host = url.host()?;
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

/// Refuses an address that is not within `reach`.
pub(super) fn check_reach(url: &Uri, reach: Reach, address: IpAddr) -> Result<(), ureq::Error> {
    if reach.covers(address) {
        return Ok(());
    }
    let message = format!(
        "{} is at {address}, in a private network or on this machine, where the source is not: not \
         contacted",
        url.host().unwrap_or_default()
    );
    Err(ureq::Error::Io(std::io::Error::new(std::io::ErrorKind::PermissionDenied, message)))
}

/// Remembers addresses. Clones share them.
#[derive(Clone)]
pub(super) struct CachingResolver {
    inner: Arc<DefaultResolver>,
    /// What is resolved must be within it.
    reach: Reach,
    /// By host and port. Guarded for the look-up alone; the question itself is asked outside.
    known: Arc<Mutex<HashMap<String, Addresses>>>,
}

impl fmt::Debug for CachingResolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CachingResolver")
    }
}

impl Default for CachingResolver {
    fn default() -> Self {
        let (inner, known) = Default::default();
        CachingResolver { inner, known, reach: Reach::ANYWHERE }
    }
}

impl CachingResolver {
    /// One that finds nothing outside `reach`.
    pub(super) fn within(&self, reach: Reach) -> CachingResolver {
        CachingResolver { reach, ..self.clone() }
    }

    fn lookup(&self, key: &str) -> Option<Vec<SocketAddr>> {
        let known = self.known.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let (since, addresses) = known.get(key)?;
        (since.elapsed() < DNS_TTL).then(|| addresses.clone())
    }
}

impl Resolver for CachingResolver {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let key = format!("{}://{}", uri.scheme_str().unwrap_or_default(), host_and_port(uri));
        if let Some(addresses) = self.lookup(&key) {
            addresses.iter().try_for_each(|found| check_reach(uri, self.reach, found.ip()))?;
            let mut result = self.empty();
            addresses.into_iter().for_each(|address| result.push(address));
            return Ok(result);
        }
        let found = self.inner.resolve(uri, config, timeout)?;
        let mut known = self.known.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        // LFS objects may come from many hosts; this only has to be small, not clever.
        if known.len() >= 1000 {
            known.clear();
        }
        known.insert(key, (Instant::now(), found.to_vec()));
        found.iter().try_for_each(|found| check_reach(uri, self.reach, found.ip()))?;
        Ok(found)
    }
}

fn host_and_port(uri: &Uri) -> String {
    format!("{}:{}", uri.host().unwrap_or_default(), uri.port_u16().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_asked_for_once() {
        let resolver = CachingResolver::default();
        let known = "192.0.2.7:80".parse().unwrap();
        let key = "http://host.invalid:0".to_owned();
        resolver.known.lock().unwrap().insert(key, (Instant::now(), vec![known]));
        let uri = "http://host.invalid/".parse().unwrap();
        let timeout = || NextTimeout {
            after: ureq::unversioned::transport::time::Duration::NotHappening,
            reason: ureq::Timeout::Resolve,
            ..NextTimeout::default()
        };
        let config = Config::builder().build();
        assert_eq!(&*resolver.resolve(&uri, &config, timeout()).unwrap(), &[known]);
        let local = "http://127.0.0.1:9/".parse().unwrap();
        resolver.resolve(&local, &config, timeout()).unwrap();
        assert!(resolver.lookup("http://127.0.0.1:9").is_some());
    }
}
