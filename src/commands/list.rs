//! `list --target T`: the mirrors below a prefix, as a table or as JSON.

use std::io::{self, Write};

use super::catalog::{Entry, Session, gather};
use crate::cli::{CatalogCommand, CliError};
use crate::exit_code::ExitCode;
use crate::logging::{printable, printable_json};
use crate::progress::{bytes, grouped};

/// What the table has of each mirror.
const COLUMNS: [&str; 12] = [
    "NAME",
    "PUBLISHED",
    "CHECKED",
    "LAYOUT",
    "REFS",
    "PACKS",
    "OBJECTS",
    "SIZE",
    "LFS",
    "MISSING",
    "SOURCE",
    "CLONE URL",
];

/// These are numbers: they stand to the right.
const RIGHT: std::ops::Range<usize> = 4..10;

/// Lists mirrors. `Err` is a usage error: nothing was begun.
pub fn run(command: &CatalogCommand) -> Result<ExitCode, CliError> {
    let session = Session::begin(command)?;
    let (mut entries, mut codes) = (Vec::new(), Vec::new());
    for target in &command.targets {
        match gather(&session.endpoints, command, target) {
            Ok(found) => {
                let is_sound = found.iter().all(|entry| entry.error.is_none());
                codes.push(if is_sound { ExitCode::Done } else { ExitCode::Failed });
                entries.extend(found);
            }
            Err(error) => codes.push(session.fail(target, &error)),
        }
    }
    let text = if command.output.json { json(&entries) } else { table(&entries) };
    // A reader that has seen enough is nobody's error.
    let _ = io::stdout().write_all(text.as_bytes());
    for entry in &entries {
        if let Some(error) = &entry.error {
            let _ = writeln!(io::stderr(), "error: {}: {error}", printable(&entry.target));
        }
    }
    Ok(ExitCode::of_all(&codes))
}

/// One object a mirror.
fn json(entries: &[Entry]) -> String {
    let line = |entry| {
        printable_json(&serde_json::to_string(entry).expect("text and numbers are always JSON"))
            + "\n"
    };
    entries.iter().map(line).collect()
}

fn table(entries: &[Entry]) -> String {
    if entries.is_empty() {
        return "no mirrors\n".to_owned();
    }
    let mut rows = vec![COLUMNS.map(str::to_owned)];
    rows.extend(entries.iter().map(row));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<usize> = (0..COLUMNS.len()).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().enumerate().map(|(column, cell)| {
            let width = widths[column];
            if RIGHT.contains(&column) {
                format!("{cell:>width$}")
            } else {
                format!("{cell:<width$}")
            }
        });
        let line = cells.collect::<Vec<_>>().join("  ");
        text += line.trim_end();
        text.push('\n');
    }
    text
}

fn row(entry: &Entry) -> [String; COLUMNS.len()] {
    let about = &entry.about;
    let known = |text: &Option<String>| text.as_deref().map_or("-".to_owned(), printable);
    let number = |number: Option<u64>| number.map_or("-".to_owned(), grouped);
    let size = |size: Option<u64>| size.map_or("-".to_owned(), bytes);
    let checked = match (&about.checked_at, about.findings) {
        (Some(at), Some(1)) => format!("{at} (1 finding)"),
        (Some(at), Some(findings)) if findings > 0 => format!("{at} ({findings} findings)"),
        (at, _) => known(at),
    };
    let published = match (&entry.error, about.is_published()) {
        (Some(_), _) => "unreadable".to_owned(),
        (None, false) => "never".to_owned(),
        (None, true) => known(&about.published_at),
    };
    let holds = about.holds;
    [
        printable(&entry.name),
        published,
        checked,
        known(&about.layout),
        number(about.refs),
        number(holds.map(|holds| holds.packs)),
        number(holds.map(|holds| holds.objects)),
        size(holds.map(|holds| holds.bytes)),
        size(holds.map(|holds| holds.lfs_bytes)),
        number(about.lfs_missing),
        known(&about.source),
        known(&entry.clone_url),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::maintain::catalog::About;
    use crate::mirror::Holds;

    fn entry() -> Entry {
        let holds = Holds { packs: 2, objects: 1234, bytes: 5 << 20, lfs_objects: 1, lfs_bytes: 9 };
        Entry {
            name: "a.git".into(),
            target: "s3://b/a.git".into(),
            clone_url: Some("https://h/a.git".into()),
            about: About {
                source: Some("https://h/r".into()),
                published_at: Some("2026-11-24T13:31:31Z".into()),
                layout: Some("pack".into()),
                refs: Some(3),
                holds: Some(holds),
                lfs_missing: Some(0),
                ..About::default()
            },
            error: None,
        }
    }

    #[test]
    fn the_table_has_a_line_for_each_mirror_and_a_dash_for_what_is_not_known() {
        let other = Entry { name: "with\x1b[31m.git".into(), ..Entry::default() };
        let text = table(&[entry(), other]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(lines[0].starts_with("NAME"), "{text}");
        let words: Vec<&str> =
            lines[1].split("  ").map(str::trim).filter(|w| !w.is_empty()).collect();
        let wanted = [
            "a.git",
            "2026-11-24T13:31:31Z",
            "-",
            "pack",
            "3",
            "2",
            "1,234",
            "5.0 MiB",
            "9 bytes",
            "0",
            "https://h/r",
            "https://h/a.git",
        ];
        assert_eq!(words, wanted);
        assert_eq!(lines[2].matches(" -").count(), 10, "{text}");
        assert!(lines[2].contains(" never "), "{text}");
        let damaged = Entry { error: Some("not JSON".into()), ..Entry::default() };
        assert!(table(&[damaged]).contains(" unreadable "));
        assert!(!text.contains('\x1b'), "{text}");
        assert_eq!(table(&[]), "no mirrors\n");
    }

    #[test]
    fn json_has_one_flat_object_a_mirror() {
        let text = json(&[entry()]);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&value["objects"], &value["lfs_bytes"]), (&1234.into(), &9.into()));
        assert_eq!((&value["name"], &value["error"]), (&"a.git".into(), &serde_json::Value::Null));
    }
}
