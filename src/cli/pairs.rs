//! What is to be mirrored: the pairs that the options name, or this machine's shard of a manifest.
//!
//! The manifest is the one thing that reading a command line reads. Nothing here shows a line of it,
//! which may hold a password.

use std::io::Read;

use super::args::MirrorArgs;
use super::error::CliError;
use super::manifest::{self, Pair};
use super::urls;

/// A manifest longer than this (bytes) is a mistake: a wrong file or an endless pipe.
const MAX_MANIFEST_LEN: u64 = 64 << 20;

pub(super) fn pairs(args: &MirrorArgs, stdin: &mut dyn Read) -> Result<Vec<Pair>, CliError> {
    let Some(name) = &args.manifest else {
        if args.shard.is_some() {
            return Err(CliError::new("--shard needs --manifest"));
        }
        return manifest::pair_up(&args.source, &args.target);
    };
    if !args.source.is_empty() || !args.target.is_empty() {
        return Err(CliError::new("--manifest conflicts with --source and --target"));
    }
    let (name, text) = match name.as_str() {
        "-" => ("standard input", read_text(stdin)),
        path => (path, std::fs::File::open(path).and_then(|mut file| read_text(&mut file))),
    };
    let text =
        text.map_err(|error| CliError::new(format!("cannot read the manifest {name}: {error}")))?;
    let mut pairs = manifest::read(name, &text)?;
    if name == "standard input" && pairs.iter().any(|pair| pair.source.is_stdin()) {
        return Err(CliError::new("standard input cannot be both the manifest and a bundle"));
    }
    if let Some(shard) = args.shard {
        pairs.retain(|pair| pair.belongs_to(shard));
    }
    Ok(pairs)
}

fn read_text(from: &mut dyn Read) -> std::io::Result<String> {
    let mut text = String::new();
    let len = from.take(MAX_MANIFEST_LEN + 1).read_to_string(&mut text)?;
    if len as u64 > MAX_MANIFEST_LEN {
        return Err(std::io::Error::other("longer than 64 MiB"));
    }
    Ok(text)
}

/// Passwords that other users of this machine can read.
pub(super) fn warning<'s>(
    args: &MirrorArgs,
    mut sources: impl Iterator<Item = &'s urls::SourceUrl>,
) -> Option<String> {
    if !sources.any(urls::SourceUrl::has_password) {
        return None;
    }
    let better = "use ~/.netrc or --source-header-file";
    match args.manifest.as_deref() {
        None => Some(format!(
            "--source contains a password, which everyone on this machine can see in the list of \
             processes: {better}"
        )),
        Some("-") => None,
        Some(path) if others_can_read(path) => Some(format!(
            "{path} contains passwords and others can read it: chmod 600, or {better}"
        )),
        Some(_) => None,
    }
}

#[cfg(unix)]
fn others_can_read(path: &str) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).is_ok_and(|about| about.permissions().mode() & 0o077 != 0)
}

#[cfg(not(unix))]
fn others_can_read(_: &str) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use crate::cli::testing::{PAIR, mirror as run};

    #[test]
    fn a_manifest_on_standard_input_can_be_sharded() {
        let text = "https://h/a s3://b/a\nhttps://h/b s3://b/b\nhttps://h/c s3://b/c\n";
        let all = run("--manifest -", &[], text).unwrap().pairs;
        assert_eq!(all.len(), 3);
        let mut shards = Vec::new();
        for index in 0..3 {
            let line = format!("--manifest=- --shard {index}/3");
            shards.extend(run(&line, &[], text).unwrap().pairs);
        }
        assert_eq!(shards.len(), 3);
        assert!(all.iter().all(|pair| shards.contains(pair)));
        for bad in ["3/3", "0/0", "1", "-1/3", "a/b", "1/2/3", "/"] {
            let error = run(&format!("--manifest - --shard {bad}"), &[], text).expect_err(bad);
            assert!(error.contains("expected I/N"), "{bad}: {error}");
        }
    }

    #[test]
    fn passwords_that_others_can_read_are_warned_about() {
        use std::os::unix::fs::PermissionsExt;
        let warning = |line: &str| run(line, &[], "").unwrap().warning.unwrap_or_default();
        assert_eq!(warning(PAIR), "");
        assert_eq!(warning("--source https://me@h/r --target s3://b/p"), "");
        let mail = "first.last%40a-long-name.example";
        assert_eq!(warning(&format!("--source https://{mail}@h/r --target s3://b/p")), "");
        let token = "ghp_0123456789abcdefghijABCDEFGHIJ012345";
        let said = warning(&format!("--source https://{token}@h/r --target s3://b/p"));
        assert!(said.contains("list of processes") && !said.contains(token), "{said}");
        let said = warning("--source https://me:hush@h/r --target s3://b/p");
        assert!(said.contains("list of processes") && !said.contains("hush"), "{said}");
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("list");
        for (text, mode, warned) in [
            ("https://h/r s3://b/p", 0o644, false),
            ("https://me:hush@h/r s3://b/p", 0o600, false),
            ("https://me:hush@h/r s3://b/p", 0o640, true),
        ] {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            let said = warning(&format!("--manifest {}", path.display()));
            assert_eq!(said.contains("chmod 600"), warned, "{mode:o}: {said}");
        }
    }

    #[test]
    fn unusable_manifests_are_named() {
        let error = run("--manifest /nowhere/m.txt", &[], "").unwrap_err();
        assert!(error.starts_with("cannot read the manifest /nowhere/m.txt: "), "{error}");
        let error = run("--manifest -", &[], "https://h/a s3://b/a x\n").unwrap_err();
        assert!(error.starts_with("standard input:1: expected SOURCE TARGET"), "{error}");
        let error = run("--manifest -", &[], "- s3://b/a\n").unwrap_err();
        assert!(error.starts_with("standard input cannot be both"), "{error}");
    }
}
