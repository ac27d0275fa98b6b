//! Command lines for the tests of this folder, read as [`parse`] reads them.

use std::ffi::OsString;
use std::io::Read;

use super::command::{Command, MirrorCommand};
use super::parse;

/// The least that the default action needs.
pub(super) const PAIR: &str = "--source https://h/r --target s3://b/p";

/// What `line` asks for, with an empty environment; or the error in words.
pub(super) fn command(line: &str) -> Result<Command, String> {
    read(line, &[], &mut std::io::empty())
}

/// What `line` mirrors; or the error, or what is printed instead, in words.
pub(super) fn mirror(
    line: &str,
    env: &[(&str, &str)],
    stdin: &str,
) -> Result<MirrorCommand, String> {
    match read(line, env, &mut stdin.as_bytes())? {
        Command::Mirror(command) => Ok(*command),
        Command::Print(text) => Err(text),
        other => Err(format!("another command: {other:?}")),
    }
}

fn read(line: &str, env: &[(&str, &str)], stdin: &mut dyn Read) -> Result<Command, String> {
    let env =
        |name: &str| env.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
    let words = line.split_whitespace().map(OsString::from);
    parse(words, &env, stdin).map_err(|error| error.to_string())
}
