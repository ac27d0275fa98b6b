//! Where credentials are looked for: an environment, a client, what the user asked for.
//!
//! The places themselves are methods in files of their own, one for each; their order is in the parent.

use std::collections::HashMap;
use std::fmt;

use crate::http;

/// Where containers on ECS ask: <https://docs.aws.amazon.com/sdkref/latest/guide/feature-container-credentials.html>.
const CONTAINER_HOST: &str = "http://169.254.170.2";
/// Where EC2 instances ask:
/// <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-retrieval.html>.
const METADATA_HOST: &str = "http://169.254.169.254";

/// Looks a variable of the environment up; an empty one counts as not set.
pub type Lookup = Box<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// Where credentials are looked for.
pub struct Search {
    env: Lookup,
    pub(super) profile: Option<String>,
    pub(super) region: Option<String>,
    pub(super) client: http::Client,
    pub(super) metadata_host: String,
    pub(super) container_host: String,
}

impl fmt::Debug for Search {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Search").field("profile", &self.profile).finish_non_exhaustive()
    }
}

impl Search {
    /// In the environment of this process, and where it points.
    pub fn new(client: http::Client) -> Self {
        Search::in_environment(client, Box::new(|name| std::env::var(name).ok()))
    }

    /// In an environment that `env` gives.
    pub fn in_environment(client: http::Client, env: Lookup) -> Self {
        Search {
            env,
            profile: None,
            region: None,
            client,
            metadata_host: METADATA_HOST.to_owned(),
            container_host: CONTAINER_HOST.to_owned(),
        }
    }

    /// This profile (`--profile`), and not the one that the environment names. A profile that was
    /// asked for beats keys in the environment, as in the AWS CLI.
    #[must_use]
    pub fn with_profile(mut self, profile: Option<String>) -> Self {
        self.profile = profile;
        self
    }

    /// The region whose STS is asked.
    #[must_use]
    pub fn with_region(mut self, region: Option<String>) -> Self {
        self.region = region;
        self
    }

    pub(super) fn var(&self, name: &str) -> Option<String> {
        (self.env)(name).filter(|value| !value.is_empty())
    }
}

/// A [`Lookup`] over fixed names and values.
pub fn lookup_in<const N: usize>(variables: [(&str, &str); N]) -> Lookup {
    let map: HashMap<String, String> =
        variables.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    Box::new(move |name| map.get(name).cloned())
}
