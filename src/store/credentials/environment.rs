//! Keys in variables of the environment.

use super::keys::{Credentials, Found};
use super::search::Search;

impl Search {
    pub(super) fn environment(&self) -> Found {
        if self.profile.is_some() {
            return Found::Nothing("the environment (skipped because of --profile)".into());
        }
        match (self.var("AWS_ACCESS_KEY_ID"), self.var("AWS_SECRET_ACCESS_KEY")) {
            (Some(access_key), Some(secret_key)) => Found::Here(Credentials {
                access_key,
                secret_key,
                session_token: self.var("AWS_SESSION_TOKEN"),
                expires: None,
            }),
            (None, None) => {
                Found::Nothing("AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (not set)".into())
            }
            (Some(_), None) => {
                Found::Broken("AWS_ACCESS_KEY_ID is set, AWS_SECRET_ACCESS_KEY is not".into())
            }
            (None, Some(_)) => {
                Found::Broken("AWS_SECRET_ACCESS_KEY is set, AWS_ACCESS_KEY_ID is not".into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::store::StoreErrorKind;
    use crate::store::credentials::Provider;
    use crate::store::credentials::testing::{keys, search, text};

    #[test]
    fn the_environment_comes_first() {
        let env = [
            ("AWS_ACCESS_KEY_ID", "ID"),
            ("AWS_SECRET_ACCESS_KEY", "secret"),
            ("AWS_SESSION_TOKEN", "token"),
        ];
        assert_eq!(keys(search(env)), (text("ID"), text("secret"), Some(text("token"))));
    }

    #[test]
    fn half_a_pair_of_keys_is_an_error_that_shows_no_value() {
        for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"] {
            let error = Provider::search(search([(name, "hunter2")])).get().unwrap_err();
            assert_eq!(error.kind, StoreErrorKind::Denied);
            assert!(error.message.contains(name) && !error.message.contains("hunter2"), "{error}");
        }
    }
}
