//! Keys and regions in the profile files of the AWS tools: `~/.aws/credentials` and `~/.aws/config`.
//!
//! A file that is missing is no error, one that cannot be parsed is; no message shows a line of it.

use std::fs;
use std::path::{Path, PathBuf};

use ini::Ini;

use super::keys::{Credentials, Found, trouble};
use super::search::Search;
use crate::store::interface::StoreError;

#[derive(Clone, Copy)]
enum File {
    Credentials,
    Config,
}

impl Search {
    /// The region that the profile files name, if any.
    ///
    /// # Errors
    /// A file that can't be read as what it is.
    pub fn profile_region(&self) -> Result<Option<String>, StoreError> {
        let profile = self.profile_name();
        let read = |file, name: &str| -> Result<Option<String>, String> {
            let ini = self.read_ini(file)?;
            Ok(ini.as_ref().and_then(|ini| ini.get_from(Some(name), "region")).map(str::to_owned))
        };
        read(File::Config, &config_section(&profile))
            .and_then(|region| match region {
                None => read(File::Credentials, &profile),
                found => Ok(found),
            })
            .map_err(trouble)
    }

    fn profile_name(&self) -> String {
        let named = self.profile.clone().or_else(|| self.var("AWS_PROFILE"));
        named.or_else(|| self.var("AWS_DEFAULT_PROFILE")).unwrap_or_else(|| "default".to_owned())
    }

    fn file_path(&self, file: File) -> Option<PathBuf> {
        let (variable, name) = match file {
            File::Credentials => ("AWS_SHARED_CREDENTIALS_FILE", "credentials"),
            File::Config => ("AWS_CONFIG_FILE", "config"),
        };
        let home = || self.var("HOME").or_else(|| self.var("USERPROFILE"));
        match self.var(variable) {
            Some(path) => Some(PathBuf::from(path)),
            None => Some(Path::new(&home()?).join(".aws").join(name)),
        }
    }

    /// `None`: there is no such file.
    fn read_ini(&self, file: File) -> Result<Option<Ini>, String> {
        let Some(path) = self.file_path(file) else { return Ok(None) };
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(format!("{}: {error}", path.display())),
        };
        // Escapes would change a secret with a backslash, quotes are kept by the AWS CLI.
        let options =
            ini::ParseOption { enabled_quote: false, enabled_escape: false, ..Default::default() };
        // The parser's message could show a line of the file.
        Ini::load_from_str_opt(&text, options).map(Some).map_err(|error| {
            format!("{}: line {} cannot be parsed", path.display(), error.line + 1)
        })
    }

    pub(super) fn profile_files(&self) -> Found {
        let profile = self.profile_name();
        let mut looked = Vec::new();
        for file in [File::Credentials, File::Config] {
            let section = match file {
                File::Credentials => profile.clone(),
                File::Config => config_section(&profile),
            };
            let ini = match self.read_ini(file) {
                Ok(ini) => ini,
                Err(message) => return Found::Broken(message),
            };
            if let Some(credentials) = ini.and_then(|ini| keys_of(&ini, &section)) {
                return Found::Here(credentials);
            }
            if let Some(path) = self.file_path(file) {
                looked.push(path.display().to_string());
            }
        }
        if self.profile.is_some() {
            let words = format!("profile {profile:?} has no keys in {}", looked.join(" or "));
            return Found::Broken(words);
        }
        Found::Nothing(format!("profile {profile:?} in {}", looked.join(" and ")))
    }
}

/// In the config file, profiles but for `default` are called `profile NAME`.
fn config_section(profile: &str) -> String {
    if profile == "default" { profile.to_owned() } else { format!("profile {profile}") }
}

fn keys_of(ini: &Ini, section: &str) -> Option<Credentials> {
    let get = |name| ini.get_from(Some(section), name).map(|value| value.trim().to_owned());
    Some(Credentials {
        access_key: get("aws_access_key_id")?,
        secret_key: get("aws_secret_access_key")?,
        session_token: get("aws_session_token"),
        expires: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::credentials::Provider;
    use crate::store::credentials::testing::{keys, search, text};

    const FILES: (&str, &str) = (
        "[default]\naws_access_key_id = D\naws_secret_access_key = back\\slash/+=\n\
         [work]\naws_access_key_id=W\naws_secret_access_key=w\naws_session_token=t\n",
        "[default]\nregion = eu-west-1\n[profile work]\nregion=eu-west-2\n\
         [profile conf]\naws_access_key_id=C\naws_secret_access_key=c\n",
    );

    fn files() -> (tempfile::TempDir, String, String) {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        let (credentials, config) = (path("credentials"), path("config"));
        fs::write(&credentials, FILES.0).unwrap();
        fs::write(&config, FILES.1).unwrap();
        (dir, credentials, config)
    }

    #[test]
    fn profiles_are_read_from_both_files() {
        let (_dir, credentials, config) = files();
        let env = |profile| {
            search([
                ("AWS_SHARED_CREDENTIALS_FILE", &credentials),
                ("AWS_CONFIG_FILE", &config),
                ("AWS_PROFILE", profile),
            ])
        };
        assert_eq!(keys(env("")), (text("D"), text("back\\slash/+="), None));
        assert_eq!(keys(env("work")), (text("W"), text("w"), Some(text("t"))));
        assert_eq!(keys(env("conf")).0, "C");
        assert_eq!(env("").profile_region().unwrap().as_deref(), Some("eu-west-1"));
        assert_eq!(env("work").profile_region().unwrap().as_deref(), Some("eu-west-2"));
        assert_eq!(env("conf").profile_region().unwrap(), None);
    }

    #[test]
    fn a_profile_that_was_asked_for_beats_the_environment_and_must_exist() {
        let (_dir, credentials, config) = files();
        let with = |profile: &str| {
            search([
                ("AWS_ACCESS_KEY_ID", "ID"),
                ("AWS_SECRET_ACCESS_KEY", "secret"),
                ("AWS_SHARED_CREDENTIALS_FILE", &credentials),
                ("AWS_CONFIG_FILE", &config),
            ])
            .with_profile(Some(profile.to_owned()))
        };
        assert_eq!(keys(with("work")).0, "W");
        let error = Provider::search(with("none")).get().unwrap_err();
        assert!(error.message.contains("none") && error.message.contains(&config), "{error}");
    }

    #[test]
    fn a_profile_file_that_cannot_be_read_is_named_and_not_shown() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("credentials");
        fs::write(&path, "[default]\nhunter2 without a sign\n").unwrap();
        let path = path.to_str().unwrap();
        let search = search([("AWS_SHARED_CREDENTIALS_FILE", path)]);
        let error = Provider::search(search).get().unwrap_err();
        assert!(error.message.contains(path) && !error.message.contains("hunter2"), "{error}");
    }
}
