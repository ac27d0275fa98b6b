//! `git-remote-mirror`: git reads a mirror through this, as `mirror::s3://bucket/prefix`.
//!
//! gitremote-helpers(7), and git's `transport-helper.c` and `remote-curl.c` for what is said when: git
//! writes commands on standard input, a line each, and reads the answers. Nothing else goes to standard
//! output. What git config says under `mirror.<url>.…` stands in for flags; the environment beats it.

use std::io::{self, BufRead, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use url::Url;

use super::git_config::{configure, git_config};
use crate::cli::{CliError, HelperCommand, MirrorUrl, Settings, Verbosity};
use crate::endpoints::Endpoints;
use crate::exit_code::ExitCode;
use crate::git::object::Oid;
use crate::git::refs::{Head, Ref, head_file};
use crate::logging;
use crate::mirror::MirrorError;
use crate::progress::{Fetching, Progress, Screen, Silent};
use crate::read::fetch::{Depth, Fetched, Filter, Refs, Request, Trust, fetch};
use crate::read::local::Local;
use crate::run::Cancel;
use crate::source::auth::{Auth, Credentials};
use crate::store::Store;

/// GETs in flight.
const CONNECTIONS: usize = 64;

const READ_ONLY: &str = "a mirror is read-only: push to the source repository";

/// Speaks with git until it goes away. `Err` is a usage error.
pub fn run(command: &HelperCommand) -> Result<ExitCode, CliError> {
    logging::start(&command.output, Screen::default());
    let mut settings = Settings { connections: CONNECTIONS, ..command.settings.clone() };
    let trust = configure(&mut settings, &git_config(&command.mirror.to_string()))?;
    let endpoints = Endpoints::new(&settings)?;
    let store = open(&endpoints, &command.mirror)?;
    let mut helper = Helper { store: &*store, refs: None, options: Options::default(), trust };
    helper.options.verbosity = match command.output.verbosity {
        Verbosity::Quiet => 0,
        _ => 1,
    };
    let mut keeps = Vec::new();
    let ended = helper.serve(io::stdin().lock(), io::stdout().lock(), &mut keeps);
    // Git has written its refs, or given up: nothing needs to be kept from `git gc` anymore.
    keeps.iter().for_each(|keep| drop(std::fs::remove_file(keep)));
    match ended {
        Ok(()) => Ok(ExitCode::Done),
        Err(error) => {
            log::error!("{error}");
            Ok(ExitCode::of_error(&error))
        }
    }
}

fn open(endpoints: &Endpoints, mirror: &MirrorUrl) -> Result<Box<dyn Store>, CliError> {
    let usage = |error: &dyn std::fmt::Display| CliError::new(error.to_string());
    let cancel = Cancel::default();
    match mirror {
        MirrorUrl::OfRemote => Err(CliError::new("git passed no URL of a mirror")),
        MirrorUrl::Target(target) => {
            endpoints.open_store(target, &cancel).map_err(|error| usage(&error))
        }
        MirrorUrl::Http(source) => {
            let mut url = Url::parse(&source.with_userinfo()).map_err(|error| usage(&error))?;
            let auth = Auth::from_environment(None).map_err(|error| usage(&error))?;
            let headers = Credentials::take_from(&mut url, &auth).headers_for(&url).to_vec();
            Ok(Box::new(endpoints.open_reader_with(url.as_str(), headers, &cancel)))
        }
    }
}

/// What git has set.
#[derive(Debug, Default)]
struct Options {
    verbosity: i32,
    progress: bool,
    depth: Option<u32>,
    is_relative: bool,
    since: Option<i64>,
    /// `--shallow-exclude`.
    excludes: bool,
    filter: Option<Filter>,
    from_promisor: bool,
    follow_tags: bool,
    check_connectivity: bool,
    says_format: bool,
}

struct Helper<'s> {
    store: &'s dyn Store,
    refs: Option<Refs>,
    options: Options,
    trust: Trust,
}

fn broken(error: io::Error) -> MirrorError {
    MirrorError::Mirror(format!("cannot communicate with git: {error}"))
}

impl Helper<'_> {
    fn serve(
        &mut self,
        mut input: impl BufRead,
        mut output: impl Write,
        keeps: &mut Vec<PathBuf>,
    ) -> Result<(), MirrorError> {
        while let Some(line) = next_line(&mut input)? {
            let (word, rest) = line.split_once(' ').unwrap_or((&line, ""));
            let answer = match word {
                "capabilities" => {
                    "fetch\npush\noption\ncheck-connectivity\nobject-format\n\n".to_owned()
                }
                "option" => self.set(rest),
                "list" => self.list()?,
                "fetch" => {
                    let wants = wants(rest, &mut input)?;
                    let fetched = self.fetch(wants)?;
                    let answer = self.tell(&fetched);
                    keeps.extend(fetched.keeps);
                    answer
                }
                "push" => refuse_push(rest, &mut input)?,
                "" => return Ok(()),
                _ => {
                    let words = format!("unknown command from git: {word:?}");
                    return Err(MirrorError::Mirror(words));
                }
            };
            let written = output.write_all(answer.as_bytes()).and_then(|()| output.flush());
            written.map_err(broken)?;
        }
        Ok(())
    }

    /// `option <name> <value>`.
    fn set(&mut self, text: &str) -> String {
        let (name, value) = text.split_once(' ').unwrap_or((text, ""));
        let options = &mut self.options;
        let is_true = value == "true";
        let is_known = match name {
            "verbosity" => value.parse().map(|number| options.verbosity = number).is_ok(),
            "progress" => set(&mut options.progress, is_true),
            "depth" => value.parse().map(|number| options.depth = Some(number)).is_ok(),
            "deepen-relative" => set(&mut options.is_relative, is_true),
            "deepen-since" => match timestamp(value) {
                None => return format!("error not a date: {value}\n"),
                since => set(&mut options.since, since),
            },
            "filter" => match Filter::parse(value) {
                // As git does with a server that knows no filters.
                None => {
                    log::warn!("the filter {value:?} is not known here: everything is fetched");
                    false
                }
                filter => set(&mut options.filter, filter),
            },
            // Git asks for it and goes on without it.
            "deepen-not" => set(&mut options.excludes, true),
            // Git says 1, as it is no boolean in its own table (`transport-helper.c`).
            "from-promisor" => set(&mut options.from_promisor, true),
            "followtags" => set(&mut options.follow_tags, is_true),
            "check-connectivity" => set(&mut options.check_connectivity, is_true),
            "object-format" => match value {
                "true" => set(&mut options.says_format, true),
                other => match self.check_format(other) {
                    Ok(()) => set(&mut self.options.says_format, true),
                    Err(error) => return format!("error {error}\n"),
                },
            },
            "cloning" | "update-shallow" => true,
            _ => false,
        };
        if is_known { "ok\n".to_owned() } else { "unsupported\n".to_owned() }
    }

    fn refs(&mut self) -> Result<&Refs, MirrorError> {
        match &mut self.refs {
            Some(refs) => Ok(refs),
            unknown => Ok(unknown.insert(Refs::read(self.store)?)),
        }
    }

    /// Git has named the format that it wants.
    fn check_format(&mut self, wanted: &str) -> Result<(), MirrorError> {
        let format = self.refs()?.format;
        match format.as_str() == wanted {
            true => Ok(()),
            false => {
                let words = format!("the mirror's object format is {format}, not {wanted}");
                Err(MirrorError::Mirror(words))
            }
        }
    }

    fn list(&mut self) -> Result<String, MirrorError> {
        let says_format = self.options.says_format;
        let Refs { refs, head, format } = self.refs()?;
        let mut text = String::new();
        if says_format {
            text += &format!(":object-format {format}\n");
        }
        text += &head_line(head, refs);
        for Ref { name, oid, peeled } in refs {
            text += &format!("{oid} {name}\n");
            if let Some(peeled) = peeled {
                text += &format!("{peeled} {name}^{{}}\n");
            }
        }
        text.push('\n');
        Ok(text)
    }

    fn fetch(&mut self, wants: Vec<Oid>) -> Result<Fetched, MirrorError> {
        let options = &self.options;
        if options.excludes {
            let words = "--shallow-exclude is not possible here: use --shallow-since or --depth";
            return Err(MirrorError::Mirror(words.into()));
        }
        let depth = match (options.depth, options.since) {
            (Some(more), _) if options.is_relative => Depth::More(more),
            (Some(depth), _) => Depth::Commits(depth),
            (None, Some(since)) => Depth::Since(since),
            (None, None) => Depth::AsItIs,
        };
        let request = Request {
            wants,
            depth,
            filter: options.filter,
            from_promisor: options.from_promisor,
            follow_tags: options.follow_tags,
            trust: self.trust,
        };
        let shown = (options.progress && options.verbosity > 0).then(Fetching::default);
        let progress: &dyn Progress = match &shown {
            Some(shown) => shown,
            None => &Silent,
        };
        let [objects, shallow] = paths()?;
        let mut local = Local::open(&objects, &shallow)?;
        local.sweep();
        let store = self.store;
        let fetched = fetch(store, &self.refs()?.refs, &mut local, &request, progress);
        if let Some(shown) = &shown {
            shown.end();
        }
        fetched
    }

    /// The answer to a batch of `fetch`. Git takes one lock; others are ours to remove in the end.
    fn tell(&self, fetched: &Fetched) -> String {
        let mut text = String::new();
        if let Some(keep) = fetched.keeps.first() {
            text += &format!("lock {}\n", keep.display());
        }
        if fetched.is_connected && self.options.check_connectivity {
            text += "connectivity-ok\n";
        }
        text + "\n"
    }
}

fn set<T>(option: &mut T, value: T) -> bool {
    *option = value;
    true
}

/// `@<branch> HEAD`, or `<oid> HEAD` if it is detached.
fn head_line(head: &Head, refs: &[Ref]) -> String {
    match head {
        Head::Branch(branch) if refs.iter().any(|r| r.name == *branch) => {
            format!("@{branch} HEAD\n")
        }
        Head::Detached(_) => {
            let file = head_file(head).unwrap_or_default();
            format!("{} HEAD\n", String::from_utf8_lossy(&file).trim_end())
        }
        _ => String::new(),
    }
}

/// The next line of git's, without its end; `None`: git has gone.
fn next_line(input: &mut impl BufRead) -> Result<Option<String>, MirrorError> {
    let mut line = String::new();
    let read = input.read_line(&mut line).map_err(broken)?;
    Ok((read > 0).then(|| line.trim_end_matches('\n').to_owned()))
}

/// The rest of a batch: lines `<word> <rest>` up to an empty one.
fn batch(first: &str, word: &str, input: &mut impl BufRead) -> Result<Vec<String>, MirrorError> {
    let mut batch = vec![first.to_owned()];
    while let Some(line) = next_line(input)?.filter(|line| !line.is_empty()) {
        let rest = line.strip_prefix(word).and_then(|rest| rest.strip_prefix(' '));
        batch.push(rest.unwrap_or(&line).to_owned());
    }
    Ok(batch)
}

/// A batch of `fetch <oid> <name>`.
fn wants(first: &str, input: &mut impl BufRead) -> Result<Vec<Oid>, MirrorError> {
    let oid = |line: String| {
        let hex = line.split(' ').next().unwrap_or_default();
        let bad =
            || MirrorError::Mirror(format!("git requested {hex:?}, which is not an object name"));
        Oid::from_hex(hex.as_bytes()).ok_or_else(bad)
    };
    batch(first, "fetch", input)?.into_iter().map(oid).collect()
}

/// A batch of `push [+]<from>:<to>`: each is refused.
fn refuse_push(first: &str, input: &mut impl BufRead) -> Result<String, MirrorError> {
    let mut text = String::new();
    for line in batch(first, "push", input)? {
        let to = line.rsplit_once(':').map_or(line.as_str(), |(_, to)| to);
        text += &format!("error {to} {READ_ONLY}\n");
    }
    Ok(text + "\n")
}

/// A date as people write it, read by git.
fn timestamp(text: &str) -> Option<i64> {
    if let Ok(seconds) = text.parse() {
        return Some(seconds);
    }
    let asked =
        Command::new("git").arg("rev-parse").arg(format!("--since={text}")).output().ok()?;
    let text = String::from_utf8(asked.stdout).ok()?;
    text.trim().strip_prefix("--max-age=")?.parse().ok()
}

/// The folder of objects and the file `shallow` of the repository that git works on.
fn paths() -> Result<[PathBuf; 2], MirrorError> {
    let bad = |what: String| MirrorError::Mirror(format!("cannot find git's repository: {what}"));
    let words = ["rev-parse", "--git-path", "objects", "--git-path", "shallow"];
    let asked = Command::new("git").args(words).output().map_err(|error| bad(error.to_string()))?;
    let text = String::from_utf8_lossy(&asked.stdout).into_owned();
    let mut lines = text.lines();
    let (Some(objects), Some(shallow)) = (lines.next(), lines.next()) else {
        return Err(bad(logging::printable(&String::from_utf8_lossy(&asked.stderr))));
    };
    // Git opens what `lock` names from wherever it is.
    let objects = Path::new(objects).canonicalize().map_err(|error| bad(error.to_string()))?;
    Ok([objects, PathBuf::from(shallow)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::MemoryStore;
    use crate::store::{Key, ObjectHeaders};

    fn said(store: &MemoryStore, input: &str) -> Result<String, String> {
        let mut helper =
            Helper { store, refs: None, options: Options::default(), trust: Trust::Nothing };
        let mut output = Vec::new();
        let served = helper.serve(input.as_bytes(), &mut output, &mut Vec::new());
        served.map_err(|error| error.to_string())?;
        Ok(String::from_utf8(output).unwrap())
    }

    fn published() -> MemoryStore {
        let store = MemoryStore::new();
        let put = |key: &str, body: &str| {
            let headers = ObjectHeaders::changing("text/plain");
            store.put(&Key::new(key).unwrap(), body.as_bytes(), headers, None).unwrap();
        };
        let (a, b) = ("1".repeat(40), "2".repeat(40));
        put(
            "info/refs",
            &format!("{a}\trefs/heads/main\n{b}\trefs/tags/v1\n{a}\trefs/tags/v1^{{}}\n"),
        );
        put("HEAD", "ref: refs/heads/main\n");
        store
    }

    #[test]
    fn refs_are_listed_with_head_as_a_symbolic_ref_and_peeled_tags() {
        let (a, b) = ("1".repeat(40), "2".repeat(40));
        let refs = format!(
            "@refs/heads/main HEAD\n{a} refs/heads/main\n{b} refs/tags/v1\n{a} refs/tags/v1^{{}}\n\n"
        );
        assert_eq!(said(&published(), "list\n").unwrap(), refs);
        let answer = said(&published(), "option object-format true\nlist\n").unwrap();
        assert_eq!(answer, format!("ok\n:object-format sha1\n{refs}"));
    }

    #[test]
    fn options_are_known_or_not_and_a_push_is_refused() {
        let answer = said(
            &published(),
            "option depth 3\noption depth x\noption deepen-since 1700000000\noption filter blob:none\n\
             option filter sparse:oid=x\noption dry-run true\noption object-format sha256\n\
             push +refs/heads/a:refs/heads/b\npush :refs/heads/c\n\n",
        );
        let refused = format!("error refs/heads/b {READ_ONLY}\nerror refs/heads/c {READ_ONLY}\n\n");
        let words = "ok\nunsupported\nok\nok\nunsupported\nunsupported\n\
                     error the mirror's object format is sha1, not sha256\n";
        assert_eq!(answer.unwrap(), format!("{words}{refused}"));
    }

    #[test]
    fn what_is_not_known_or_no_mirror_is_an_error() {
        assert!(said(&published(), "import x\n").unwrap_err().contains("import"));
        assert!(said(&published(), "fetch xyz name\n\n").unwrap_err().contains("xyz"));
        let error = said(&MemoryStore::new(), "list\n").unwrap_err();
        assert!(error.contains("no mirror"), "{error}");
    }
}
