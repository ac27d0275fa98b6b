//! `index --target T`: writes `index.html` and `index.json`, the mirrors below a prefix for people and
//! for scripts.
//!
//! The page is one static file that loads nothing from elsewhere and can be read without its script,
//! which only adds search, ages and buttons. Nothing in it depends on the time of the run, so it is
//! rewritten only if a mirror has changed. Names and URLs come from the bucket and from sources: all
//! text is escaped, and only http(s) URLs become links.

use std::io::{self, Write};

use super::catalog::{Entry, Session, gather};
use crate::cli::{CatalogCommand, CliError, Verbosity};
use crate::endpoints::Endpoints;
use crate::exit_code::ExitCode;
use crate::logging::printable_json;
use crate::mirror::MirrorError;
use crate::progress::{bytes, counted, grouped};
use crate::store::{Key, ObjectHeaders, Store};

const PAGE: &str = include_str!("index/page.html");

/// A larger index (bytes) than this is not read back, but written again.
const MAX_INDEX: u64 = 256 << 20;

/// Writes the index. `Err` is a usage error: nothing was begun.
pub fn run(command: &CatalogCommand) -> Result<ExitCode, CliError> {
    let session = Session::begin(command)?;
    let target = &command.targets[0];
    match update(&session.endpoints, command) {
        Err(error) => Ok(session.fail(target, &error)),
        Ok(Outcome { mirrors, written }) => {
            let what = if written { "written" } else { "unchanged" };
            let text = match command.output.json {
                true => format!(
                    "{}\n",
                    serde_json::json!({
                        "target": target.to_string(), "status": what, "mirrors": mirrors,
                    })
                ),
                false => {
                    format!("{target}: index of {} {what}\n", counted(mirrors as u64, "mirror"))
                }
            };
            if command.output.json || command.output.verbosity != Verbosity::Quiet {
                let _ = io::stdout().write_all(text.as_bytes());
            }
            Ok(ExitCode::Done)
        }
    }
}

/// What came of an update.
pub(super) struct Outcome {
    pub(super) mirrors: usize,
    /// False: it was right already.
    pub(super) written: bool,
}

/// Brings the index below the command's target up to date.
pub(super) fn update(
    endpoints: &Endpoints,
    command: &CatalogCommand,
) -> Result<Outcome, MirrorError> {
    let target = &command.targets[0];
    let entries = gather(endpoints, command, target)?;
    let is_mirror = entries.iter().any(|entry| entry.target == target.to_string());
    if is_mirror {
        return Err(MirrorError::Guard(format!(
            "{target} is a mirror itself: write the index to the prefix above its mirrors"
        )));
    }
    let store = endpoints.open_store(target, &command.cancel)?;
    let json = json(&entries);
    let place = command.public_url.clone().unwrap_or_else(|| target.to_string());
    let page = page(&entries, &place);
    let html = ("index.html", "text/html; charset=utf-8", page.as_bytes());
    // The page last: what it links to is there.
    let mut written = false;
    for (name, kind, text) in [("index.json", "application/json", json.as_bytes()), html] {
        written |= put_if_changed(store.as_ref(), name, kind, text)?;
    }
    Ok(Outcome { mirrors: entries.len(), written })
}

fn put_if_changed(
    store: &dyn Store,
    name: &str,
    kind: &'static str,
    text: &[u8],
) -> Result<bool, MirrorError> {
    let key = Key::new(name).expect("a constant without odd characters");
    let is_there = match store.get(&key, None, MAX_INDEX) {
        Ok((there, _)) => there == text,
        Err(error) if error.is_not_found() => false,
        Err(error) => return Err(error.into()),
    };
    if !is_there {
        store.put(&key, text, ObjectHeaders::changing(kind), None)?;
    }
    Ok(!is_there)
}

fn json(entries: &[Entry]) -> String {
    let text = serde_json::to_string_pretty(&serde_json::json!({ "mirrors": entries }));
    let text = text.expect("text and numbers are always JSON");
    text.lines().map(|line| printable_json(line) + "\n").collect()
}

fn page(entries: &[Entry], place: &str) -> String {
    let rows: String = entries.iter().map(row).collect();
    let count = match entries.len() {
        1 => "1 mirror".to_owned(),
        many => format!("{} mirrors", grouped(many as u64)),
    };
    // In this order: nothing that is filled in is looked through again.
    let (before, rest) = PAGE.split_once("{{place}}").expect("the page has a place");
    let (middle, rest) = rest.split_once("{{count}}").expect("the page has a count");
    let (title, after) = rest.split_once("{{rows}}").expect("the page has rows");
    [before, &escaped(place), middle, &count, title, &rows, after].concat()
}

/// One mirror.
fn row(entry: &Entry) -> String {
    let about = &entry.about;
    let clone = entry.clone_url.as_deref().unwrap_or(&entry.target);
    let mut facts = Vec::new();
    if let Some(at) = &about.published_at {
        facts.push(format!("<dt>Updated</dt><dd>{}</dd>", time(at)));
    }
    if let Some(at) = &about.checked_at {
        let found = match about.findings.unwrap_or(0) {
            0 => String::new(),
            1 => ", <strong class=\"bad\">1 problem</strong>".to_owned(),
            many => format!(", <strong class=\"bad\">{} problems</strong>", grouped(many)),
        };
        facts.push(format!("<dt>Checked</dt><dd>{}{found}</dd>", time(at)));
    }
    if let Some(holds) = about.holds {
        facts.push(format!("<dt>Size</dt><dd>{}</dd>", bytes(holds.bytes)));
        facts.push(format!("<dt>Objects</dt><dd>{}</dd>", grouped(holds.objects)));
        if holds.lfs_objects > 0 {
            let (objects, size) = (grouped(holds.lfs_objects), bytes(holds.lfs_bytes));
            facts.push(format!("<dt>LFS</dt><dd>{objects} objects, {size}</dd>"));
        }
    }
    if let Some(refs) = about.refs {
        facts.push(format!("<dt>Refs</dt><dd>{}</dd>", grouped(refs)));
    }
    if let Some(source) = &about.source {
        facts.push(format!("<dt>Source</dt><dd>{}</dd>", link(source)));
    }
    // Before the first publication there is nothing to clone.
    let clone = match entry.error.is_some() || about.is_published() {
        true => {
            let url = escaped(&in_shell(clone));
            format!("<p class=\"clone\"><code>git clone {url}</code></p>")
        }
        false => String::new(),
    };
    format!(
        "<li data-name=\"{name}\"><h2>{name}</h2>{state}{clone}<dl>{facts}</dl></li>\n",
        name = escaped(&entry.name),
        state = state(entry),
        facts = facts.concat(),
    )
}

/// What is wrong with it, if anything is.
fn state(entry: &Entry) -> String {
    let bad = |words: &str| format!("<p class=\"bad\">{}</p>", escaped(words));
    match (&entry.error, entry.about.lfs_missing.unwrap_or(0)) {
        (Some(error), _) => bad(error),
        _ if !entry.about.is_published() => bad("nothing has been published yet"),
        (None, 0) => String::new(),
        (None, 1) => bad("1 LFS object is missing"),
        (None, many) => bad(&format!("{} LFS objects are missing", grouped(many))),
    }
}

/// The script turns it into an age.
fn time(at: &str) -> String {
    let at = escaped(at);
    format!("<time datetime=\"{at}\">{at}</time>")
}

fn link(url: &str) -> String {
    let text = escaped(url);
    let is_web = url.starts_with("https://") || url.starts_with("http://");
    if is_web { format!("<a href=\"{text}\" rel=\"nofollow noreferrer\">{text}</a>") } else { text }
}

/// A word of a shell's command.
fn in_shell(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-._~/:@%+=,".contains(c);
    if word.chars().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// Text for HTML, in an element or in an attribute with double quotes. Characters that turn text round
/// or can't be seen are replaced.
fn escaped(text: &str) -> String {
    let text = crate::logging::printable(text);
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    text.replace('"', "&quot;").replace('\'', "&#39;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::maintain::catalog::About;
    use crate::mirror::Holds;

    fn entry(name: &str) -> Entry {
        let holds = Holds { packs: 2, objects: 1234, bytes: 5 << 20, lfs_objects: 1, lfs_bytes: 9 };
        Entry {
            name: name.into(),
            target: format!("s3://b/m/{name}"),
            clone_url: Some(format!("https://h/{name}")),
            about: About {
                source: Some("https://git.example.com/r".into()),
                published_at: Some("2026-11-24T13:31:31Z".into()),
                holds: Some(holds),
                lfs_missing: Some(2),
                ..About::default()
            },
            error: None,
        }
    }

    #[test]
    fn each_mirror_has_its_clone_command_age_size_and_state() {
        let page =
            page(&[entry("a.git"), Entry { name: "b".into(), ..Entry::default() }], "s3://b/m");
        for part in [
            "2 mirrors",
            "<code>git clone https://h/a.git</code>",
            "<time datetime=\"2026-11-24T13:31:31Z\">",
            "5.0 MiB",
            "2 LFS objects are missing",
            "<a href=\"https://git.example.com/r\"",
        ] {
            assert!(page.contains(part), "{part}\n{page}");
        }
        assert!(!page.contains("{{"), "{page}");
    }

    #[test]
    fn nothing_of_a_bucket_or_a_source_is_markup_or_a_command() {
        let mut bad = entry("<script>alert(1)</script>\"'&{{rows}}");
        bad.clone_url = Some("https://h/a;rm -rf $HOME'".into());
        bad.about.source = Some("javascript:alert(1)//<b>".into());
        bad.error = Some("<img src=x>".into());
        let page = page(&[bad], "s3://b/m");
        assert_eq!(page.matches("<script").count(), PAGE.matches("<script").count(), "{page}");
        for part in ["<img", "href=\"javascript", "<b>"] {
            assert!(!page.contains(part), "{part}\n{page}");
        }
        let shell = r"git clone 'https://h/a;rm -rf $HOME'\'''";
        assert!(page.contains(&escaped(shell)), "{page}");
    }

    #[test]
    fn the_page_loads_nothing_from_elsewhere() {
        for part in ["src=", "url(", "@import", "<link"] {
            assert!(!PAGE.contains(part), "{part}");
        }
        assert!(PAGE.contains("default-src 'none'"));
    }
}
