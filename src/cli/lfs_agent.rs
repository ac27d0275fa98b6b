//! The command line of `lfs-agent`.

use argh::{ArgsInfo, FlagInfo};

use super::args::MirrorArgs;
use super::argv::{self, Argv, copy_of, from_args};
use super::command::{AgentCommand, Command};
use super::error::CliError;
use super::help;
use super::mirror_url::{MirrorUrl, mirror_url};
use super::settings::{Environment, output, settings};

/// The options of `lfs-agent`: some of the mirror's, with the same meaning.
const AGENT_OPTIONS: [&str; 7] = [
    "--endpoint-url",
    "--region",
    "--profile",
    "--addressing-style",
    "--ca-bundle",
    "--quiet",
    "--verbose",
];

pub(super) fn agent_flags() -> Vec<FlagInfo<'static>> {
    let all = MirrorArgs::get_args_info().flags.iter();
    all.filter(|flag| AGENT_OPTIONS.contains(&flag.long)).map(copy_of).collect()
}

/// `lfs-agent URL [options]`: the URL comes first, because no option's value can be mistaken for it
/// there.
pub(super) fn lfs_agent(words: &[String], env: &Environment<'_>) -> Result<Command, CliError> {
    let (url, rest) = match words.split_first() {
        Some((url, rest)) if !url.starts_with('-') => (Some(url), rest),
        _ => (None, words),
    };
    let args = match argv::normalise(rest, &agent_flags())? {
        Argv::Help => return Ok(Command::Print(help::LFS_AGENT.to_owned())),
        Argv::Version => return Ok(Command::Print(help::version())),
        Argv::Words(words) => from_args::<MirrorArgs>(&words)?,
    };
    let url =
        url.ok_or_else(|| CliError::new("lfs-agent needs the mirror's URL as its first argument"))?;
    let mirror = match url.as_str() {
        "mirror::" => MirrorUrl::OfRemote,
        url => mirror_url(url, "lfs-agent")?,
    };
    let is_seen = matches!(&mirror, MirrorUrl::Http(url) if url.has_password());
    let warning = is_seen.then(|| {
        "the URL contains a password, which everyone on this machine can see in the list of \
         processes: use ~/.netrc"
            .to_owned()
    });
    Ok(Command::LfsAgent(Box::new(AgentCommand {
        mirror,
        warning,
        settings: settings(&args, env, 2)?,
        output: output(args, env)?,
    })))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;
    use crate::cli::settings::Verbosity;
    use crate::cli::{parse, urls};

    #[test]
    fn the_agent_takes_its_url_first_and_its_own_options() {
        let agent = |line: &str| {
            let words = line.split_whitespace().map(OsString::from);
            match parse(words, &|_| None, &mut std::io::empty()) {
                Ok(Command::LfsAgent(command)) => Ok(*command),
                Ok(Command::Print(text)) => Err(text),
                Ok(_) => Err("the mirror".into()),
                Err(error) => Err(error.to_string()),
            }
        };
        let command = agent("lfs-agent s3://b/p --endpoint-url http://e -v").unwrap();
        assert_eq!(command.mirror, MirrorUrl::Target(urls::TargetUrl::parse("s3://b/p").unwrap()));
        assert_eq!(command.settings.endpoint.as_deref(), Some("http://e"));
        assert_eq!(command.output.verbosity, Verbosity::Info);
        let command = agent("lfs-agent https://u:hunter2@h/p").unwrap();
        assert!(!format!("{command:?}").contains("hunter2"));
        assert!(command.warning.unwrap().contains("list of processes"));
        assert_eq!(agent("lfs-agent https://u@h/p").unwrap().warning, None);
        for (line, words) in [
            ("lfs-agent", "needs the mirror's URL"),
            ("lfs-agent --region r", "needs the mirror's URL"),
            ("lfs-agent ssh://u:hunter2@h", "lfs-agent: ssh is not supported"),
            ("lfs-agent bundle:x", "lfs-agent: expected https://"),
            ("lfs-agent https://h/?x", "source: "),
            ("lfs-agent https://h --source x", "unknown option --source"),
            ("lfs-agent https://h https://u:hunter2@h", "unexpected argument"),
            ("lfs-agent https://h hunter2", "unexpected argument"),
            ("lfs-agent --help", "Usage: mirror-git-to-s3 lfs-agent URL"),
        ] {
            let error = agent(line).expect_err(line);
            assert!(error.contains(words) && !error.contains("hunter2"), "{line}: {error}");
        }
        for option in AGENT_OPTIONS {
            assert!(help::LFS_AGENT.contains(option), "{option}");
        }
    }
}
