//! Man pages are made of the help texts (`examples/man.rs`): nothing is left out on the way, and tools
//! that read man pages find nothing wrong.

#[allow(dead_code)] // Its main is for `just man`.
#[path = "../../examples/man.rs"]
mod man;

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Output, Stdio};

use mirror_git_to_s3::cli::help_texts;

fn say(words: &str) {
    // The test harness swallows print macros, not this.
    let _ = writeln!(std::io::stderr(), "man_pages: {words}");
}

fn pages() -> Vec<(String, String)> {
    man::pages("2026-11-24").unwrap()
}

/// Runs a tool on the text; `None` if it is not installed.
fn piped(words: &[&str], text: &str) -> Option<Output> {
    let child = Command::new(words[0])
        .args(&words[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut child) = child else {
        say(&format!("SKIPPED: {} is not installed", words[0]));
        return None;
    };
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    Some(child.wait_with_output().unwrap())
}

/// What a reader sees, without roff's escapes.
fn plain(page: &str) -> String {
    let page = page.replace("\\fB", "").replace("\\fI", "").replace("\\fR", "");
    page.replace("\\-", "-").replace("\\*(Aq", "'").replace("\\\\", "\\").replace("\\&", "")
}

/// Words of a text, wherever its lines break.
fn words(text: &str) -> Vec<&str> {
    text.split_whitespace().collect()
}

/// Words of the help's headings, which have names of their own in a page.
const HEADINGS: [&str; 12] = [
    "Usage",
    "or",
    "Commands",
    "each",
    "its",
    "--help",
    "Example",
    "Examples",
    "Exit",
    "codes",
    "Options",
    "Environment",
];

#[test]
fn every_option_and_every_word_of_the_help_is_in_its_page() {
    for ((command, help), (name, page)) in help_texts().iter().zip(pages()) {
        let page = plain(&page);
        for option in help.lines().filter(|line| line.starts_with("  -")) {
            let term = option.get(2..27).unwrap_or(&option[2..]).trim();
            let term = if option.get(26..27).unwrap_or(" ") == " " { term } else { &option[2..] };
            assert!(page.contains(&format!("\n.TP\n{term}\n")), "{name}: {term}");
        }
        let in_page: BTreeSet<&str> = words(&page).into_iter().collect();
        for word in words(help) {
            let word = word.trim_end_matches([':', ';', '.', ')']).trim_start_matches('(');
            let found = in_page.iter().any(|other| other.contains(word));
            assert!(found || HEADINGS.contains(&word), "{name} ({command}): {word}");
        }
    }
}

#[test]
fn sections_stand_in_the_order_of_man_pages() {
    let order = [
        "NAME",
        "SYNOPSIS",
        "DESCRIPTION",
        "COMMANDS",
        "OPTIONS",
        "ENVIRONMENT",
        "EXIT STATUS",
        "EXAMPLES",
        "NOTES",
        "SEE ALSO",
    ];
    for (name, page) in pages() {
        let sections = page.lines().filter_map(|line| line.strip_prefix(".SH "));
        let places: Vec<usize> = sections
            .map(|section| {
                let section = section.trim_matches('"');
                order.iter().position(|known| *known == section).expect(section)
            })
            .collect();
        assert!(places.is_sorted(), "{name}: {places:?}");
        assert!(places.starts_with(&[0, 1, 2]) && places.ends_with(&[9]), "{name}: {places:?}");
    }
    let (_, main) = &pages()[0];
    for section in [".SH OPTIONS\n", ".SH ENVIRONMENT\n", ".SH \"EXIT STATUS\"\n", ".SH EXAMPLES\n"]
    {
        assert!(main.contains(section), "{section}");
    }
}

#[test]
fn every_page_says_what_its_command_does_in_one_line() {
    for (name, page) in pages() {
        let page = plain(&page);
        let line = page.lines().skip_while(|line| *line != ".SH NAME").nth(1).unwrap();
        let what = line.strip_prefix(&format!("{name} - ")).expect(line);
        assert!(what.len() > 10 && what.len() <= 100 && !what.ends_with('.'), "{line}");
    }
}

#[test]
fn linters_of_man_pages_find_nothing() {
    for (name, page) in pages() {
        if let Some(out) = piped(&["mandoc", "-T", "lint", "-W", "warning"], &page) {
            let said = String::from_utf8_lossy(&out.stdout);
            assert!(out.status.success() && said.is_empty(), "{name}: {said}");
        }
        if let Some(out) = piped(&["groff", "-ww", "-man", "-Tascii", "-z"], &page) {
            let said = String::from_utf8_lossy(&out.stderr);
            assert!(out.status.success() && said.is_empty(), "{name}: {said}");
        }
    }
}

#[test]
fn a_help_text_of_another_structure_is_an_error() {
    let page = |text: &str| man::page("x", text, "2026-11-24", &[]);
    page("Do this.\n\nUsage: x [options]\n\n  -q, --quiet              errors only\n").unwrap();
    for (text, what) in [
        ("Do this.\n", "no usage"),
        ("Usage: x\n", "no summary"),
        ("Do this.\n\nUsage: x\n   and: y\n", "'   and: y'"),
        ("Do this.\n\nUsage: x\n\nNo colon\n  -q, --quiet              errors\n", "'No colon'"),
        ("Do this.\n\nUsage: x\n\n  -q   errors\n     only\n", "'     only'"),
        ("Do this.\n\nUsage: x\n\nExample:\n  x \\\n", "the last example"),
    ] {
        let error = page(text).unwrap_err();
        assert!(error.contains(what), "{error}");
    }
}

/// Names of variables that the program asks its environment for.
fn asked_for() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut folders = vec![std::path::PathBuf::from("src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            for call in ["var(\"", "get(\"", "var_os(\""] {
                let named = text.split(call).skip(1).filter_map(|rest| rest.split_once("\")"));
                let named = named.map(|(name, _)| name).filter(|name| {
                    let is_name =
                        |c: char| c.is_ascii_uppercase() || c == '_' || c.is_ascii_digit();
                    name.chars().all(is_name) && (name.contains('_') || *name == "NETRC")
                });
                names.extend(named.map(str::to_owned));
            }
        }
    }
    names
}

#[test]
fn every_variable_that_the_program_reads_is_in_the_main_page() {
    let (_, main) = &pages()[0];
    let main = plain(main);
    let environment = main.split(".SH ENVIRONMENT").nth(1).unwrap();
    let known: Vec<&str> = environment.split([' ', '\n', ',', ';', ':']).collect();
    let asked = asked_for();
    assert!(asked.len() > 15, "they are no longer read as this test believes: {asked:?}");
    for name in asked {
        let is_known = known.iter().any(|known| match known.strip_suffix('*') {
            Some(start) if !start.is_empty() => name.starts_with(start),
            _ => *known == name,
        });
        // Where the home folder and a cache are is not this program's to document, nor what tests set.
        let is_general = ["XDG_CACHE_HOME", "SIMULATION_SEED"];
        assert!(is_known || is_general.contains(&name.as_str()), "{name}");
    }
}
