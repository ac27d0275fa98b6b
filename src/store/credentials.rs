//! Whose keys requests are signed with.
//!
//! Searched in this order, the first that has keys wins: what was given, the environment, the
//! profile files, a web identity token (Kubernetes), the container's endpoint (ECS, EKS), the
//! instance's metadata (EC2, version 2). A search that begins is short: no step may take longer
//! than its time-out, and metadata, which nobody answers outside EC2, a second to connect and four
//! in all. Metadata and what is on this machine are never asked through a proxy, which would have
//! another role or none. Each place has a file of its own; `endpoint.rs` asks those that are
//! servers.
//!
//! Temporary credentials are fetched again shortly before they end, and once when the store says
//! that they have ended; one thread fetches, the others wait for it. After a failure nobody asks for
//! a while. Environment and files are looked at through [`Search`], so that tests need not change
//! the process. No secret is in an error or in a [`fmt::Debug`] text.

mod container;
mod endpoint;
mod environment;
mod keys;
mod metadata;
mod profile;
mod search;
mod web_identity;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

pub use self::keys::Credentials;
use self::keys::{Found, trouble};
pub use self::search::{Lookup, Search, lookup_in};
use super::interface::{StoreError, StoreErrorKind};

/// Fetched again when less than this is left of them.
const REFRESH_BEFORE: Duration = Duration::from_secs(300);
/// A search that failed is not repeated sooner: other threads, and the next repositories of a list,
/// would each wait for the same time-outs.
const PAUSE: Duration = Duration::from_secs(30);

impl Search {
    /// The first place that has credentials.
    fn run(&self) -> Result<Credentials, StoreError> {
        let mut looked = Vec::new();
        let places: [fn(&Self) -> Found; 5] = [
            Self::environment,
            Self::profile_files,
            Self::web_identity,
            Self::container,
            Self::metadata,
        ];
        for place in places {
            match place(self) {
                Found::Here(credentials) => return Ok(credentials),
                Found::Nothing(why) => looked.push(why),
                Found::Broken(message) => return Err(trouble(message)),
                Found::Unavailable(message) => {
                    let kind = StoreErrorKind::Transient { retry_after: None };
                    return Err(StoreError::new(kind, "find", "credentials", message));
                }
            }
        }
        let message = format!("no credentials found; searched: {}", looked.join("; "));
        Err(StoreError::new(StoreErrorKind::Denied, "find", "credentials", message))
    }
}

/// Gives credentials, and fresh ones in time. A clone shares them.
#[derive(Clone)]
pub struct Provider {
    inner: Arc<Inner>,
}

struct Inner {
    /// `None`: the credentials were given and never change.
    search: Option<Search>,
    /// Held while credentials are fetched, so that one thread does it and the others wait for what
    /// it gets.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    current: Option<Arc<Credentials>>,
    /// The last search, if it failed.
    failed: Option<(Instant, StoreError)>,
}

impl fmt::Debug for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Provider").finish_non_exhaustive()
    }
}

impl Provider {
    /// Always the same.
    pub fn fixed(credentials: Credentials) -> Self {
        let state = State { current: Some(Arc::new(credentials)), failed: None };
        Provider { inner: Arc::new(Inner { search: None, state: Mutex::new(state) }) }
    }

    /// What `search` finds, at the first [`Provider::get`] and again when that ends.
    pub fn search(search: Search) -> Self {
        Provider { inner: Arc::new(Inner { search: Some(search), state: Mutex::default() }) }
    }

    /// Credentials that have not ended, as far as they say.
    ///
    /// # Errors
    /// Kind Denied: there are none, and the message says every place that was looked at; or a
    /// place that is meant does not work. Transient: it may work later.
    pub fn get(&self) -> Result<Arc<Credentials>, StoreError> {
        let mut state = self.inner.state.lock().unwrap_or_else(PoisonError::into_inner);
        let usable = |old: &Arc<Credentials>, span| {
            (self.inner.search.is_none() || !old.ends_within(span)).then(|| old.clone())
        };
        if let Some(current) = state.current.as_ref().and_then(|old| usable(old, REFRESH_BEFORE)) {
            return Ok(current);
        }
        let Some(search) = &self.inner.search else {
            return Err(trouble("none were given".to_owned()));
        };
        // They are good for some minutes yet.
        let old = state.current.as_ref().and_then(|old| usable(old, Duration::ZERO));
        if let Some((since, error)) = &state.failed
            && since.elapsed() < PAUSE
        {
            match old {
                Some(old) => return Ok(old),
                None if error.kind == StoreErrorKind::Denied => return Err(error.clone()),
                None => {}
            }
        }
        match search.run() {
            Ok(fresh) => {
                state.failed = None;
                Ok(state.current.insert(Arc::new(fresh)).clone())
            }
            Err(error) => {
                state.failed = Some((Instant::now(), error.clone()));
                let old = old.ok_or_else(|| error.clone())?;
                log::warn!("{error}; using the old credentials");
                Ok(old)
            }
        }
    }

    /// The store says that `old` have ended: the next [`Provider::get`] looks for others. Called by
    /// many threads at once, it drops them once.
    pub fn expired(&self, old: &Credentials) {
        if self.inner.search.is_none() {
            return;
        }
        let mut state = self.inner.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.current.as_deref() == Some(old) {
            *state = State::default();
        }
    }
}

#[cfg(test)]
mod testing;

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::testing::{in_an_hour, json, search, serve};
    use super::*;

    #[test]
    fn without_any_every_place_is_named() {
        let search = search([("AWS_EC2_METADATA_DISABLED", "true"), ("HOME", "/nowhere")]);
        let error = Provider::search(search).get().unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Denied);
        for place in [
            "AWS_ACCESS_KEY_ID",
            "/nowhere/.aws/credentials",
            "/nowhere/.aws/config",
            "AWS_WEB_IDENTITY_TOKEN_FILE",
            "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
            "instance metadata (off",
        ] {
            assert!(error.message.contains(place), "{place}: {error}");
        }
    }

    #[test]
    fn credentials_are_kept_until_they_end_or_the_store_says_so() {
        let (url, seen) = serve(&[("GET /c ", &json(in_an_hour()))]);
        let full = format!("{url}/c");
        let provider = Provider::search(search([("AWS_CONTAINER_CREDENTIALS_FULL_URI", &full)]));
        let first = provider.get().unwrap();
        assert!(Arc::ptr_eq(&first, &provider.get().unwrap()));
        assert_eq!(seen.lock().unwrap().len(), 1);
        let mut other = Credentials::clone(&first);
        other.access_key.push('x');
        provider.expired(&other);
        provider.get().unwrap();
        assert_eq!(seen.lock().unwrap().len(), 1, "others had expired");
        provider.expired(&first);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| provider.get().unwrap());
            }
        });
        assert_eq!(seen.lock().unwrap().len(), 2, "one thread asks for all");
    }

    #[test]
    fn credentials_that_end_soon_are_fetched_again() {
        let soon = SystemTime::now() + Duration::from_secs(60);
        let (url, seen) = serve(&[("GET /c ", &json(soon))]);
        let full = format!("{url}/c");
        let provider = Provider::search(search([("AWS_CONTAINER_CREDENTIALS_FULL_URI", &full)]));
        provider.get().unwrap();
        provider.get().unwrap();
        assert_eq!(seen.lock().unwrap().len(), 2);
    }

    #[test]
    fn nothing_secret_is_shown() {
        let credentials = Credentials {
            access_key: "ID".into(),
            secret_key: "hunter2".into(),
            session_token: Some("hunter3".into()),
            expires: None,
        };
        let provider = Provider::fixed(credentials.clone());
        let shown = format!("{credentials:?} {provider:?} {:#?}", provider.get().unwrap());
        assert!(!shown.contains("hunter"), "{shown}");
    }
}
