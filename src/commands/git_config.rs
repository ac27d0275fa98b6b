//! What git config says of a mirror: `mirror.<name>`, or `mirror.<url>.<name>` for URLs below that one.
//!
//! For programs that git starts, which have no flags of their own. The environment beats it.

use std::path::PathBuf;
use std::process::Command;

use crate::cli::{Addressing, CliError, Settings};
use crate::read::fetch::Trust;

/// What git config says under `mirror` for this URL.
pub(super) fn git_config(url: &str) -> Vec<(String, String)> {
    let asked =
        Command::new("git").args(["config", "-z", "--get-urlmatch", "mirror", url]).output();
    // None of it, or no git: then nothing is configured.
    let Ok(answer) = asked else { return Vec::new() };
    let text = String::from_utf8_lossy(&answer.stdout).into_owned();
    let pair = |entry: &str| {
        // A name alone is true (git-config(1)).
        let (name, value) = entry.split_once('\n').unwrap_or((entry, "true"));
        Some((name.strip_prefix("mirror.")?.to_ascii_lowercase(), value.to_owned()))
    };
    text.split('\0').filter_map(pair).collect()
}

/// Fills in what neither flag nor environment have said.
pub(super) fn configure(
    settings: &mut Settings,
    config: &[(String, String)],
) -> Result<Trust, CliError> {
    let mut trust = Trust::Nothing;
    for (name, value) in config {
        let value = || Some(value.clone());
        match name.as_str() {
            "endpoint-url" if settings.endpoint.is_none() => {
                settings.endpoint = value().map(|url| url.trim_end_matches('/').to_owned());
            }
            "region" if settings.region.is_none() => settings.region = value(),
            "profile" if settings.profile.is_none() => {
                settings.profile = value();
                settings.profile_from_flag = true;
            }
            "ca-bundle" if settings.ca_bundle.is_none() => {
                settings.ca_bundle = value().map(PathBuf::from);
            }
            "addressing-style" => {
                let words = value().unwrap_or_default();
                settings.addressing = words
                    .parse::<Addressing>()
                    .map_err(|error| CliError::new(format!("mirror.addressing-style: {error}")))?;
            }
            "trustindex" => trust = trust_of(&value().unwrap_or_default())?,
            _ => {}
        }
    }
    Ok(trust)
}

fn trust_of(value: &str) -> Result<Trust, CliError> {
    match value.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Ok(Trust::Index),
        "false" | "no" | "off" | "0" | "" => Ok(Trust::Nothing),
        _ => Err(CliError::new("mirror.trustIndex: expected true or false")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn config_fills_in_only_what_nobody_has_said() {
        let config = [("endpoint-url", "http://a/"), ("region", "r"), ("trustindex", "yes")];
        let config = config.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let mut settings = Settings { region: Some("env".into()), ..Settings::default() };
        assert_eq!(configure(&mut settings, &config).unwrap(), Trust::Index);
        assert_eq!(settings.endpoint.as_deref(), Some("http://a"));
        assert_eq!(settings.region.as_deref(), Some("env"));
        let bad = [("trustindex".to_owned(), "perhaps".to_owned())];
        assert!(configure(&mut settings, &bad).is_err());
    }
}
