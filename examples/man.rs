//! Man pages from the texts of `--help`: `just man`, or
//!
//! ```text
//! cargo run --example man -- DIRECTORY
//! ```
//!
//! The help texts have a fixed structure: a summary, `Usage:`, paragraphs, groups in two columns below
//! a heading, `Examples:` and `Exit codes:`. This reads it and writes man(7). A line that does not fit
//! the structure is an error, so that nothing is left out of a page unnoticed. The date of the pages is
//! `SOURCE_DATE_EPOCH`, if that is set.

use std::path::Path;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use mirror_git_to_s3::cli::help_texts;
use roff::{Inline, Roff, bold, italic, roman};

/// Where the second column of a group begins.
const COLUMN: usize = 27;

/// Columns of a source line: some tools complain about long ones.
const WRAP: usize = 60;

const PROGRAM: &str = "mirror-git-to-s3";

fn main() -> ExitCode {
    let Some(directory) = std::env::args_os().nth(1) else {
        eprintln!("usage: man DIRECTORY");
        return ExitCode::from(2);
    };
    match write_pages(Path::new(&directory)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("man: {error}");
            ExitCode::FAILURE
        }
    }
}

fn write_pages(directory: &Path) -> Result<(), String> {
    let failed = |path: &Path, error| format!("cannot write {}: {error}", path.display());
    std::fs::create_dir_all(directory).map_err(|error| failed(directory, error))?;
    for (name, page) in pages(&date()?)? {
        let path = directory.join(format!("{name}.1"));
        std::fs::write(&path, page).map_err(|error| failed(&path, error))?;
    }
    Ok(())
}

/// `2026-11-24`: of `SOURCE_DATE_EPOCH`, or today.
fn date() -> Result<String, String> {
    let seconds = match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(text) => text.parse().map_err(|_| "SOURCE_DATE_EPOCH is not a number".to_owned())?,
        Err(_) => SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
    };
    let date = i64::try_from(seconds)
        .ok()
        .and_then(|seconds| time::OffsetDateTime::from_unix_timestamp(seconds).ok())
        .ok_or("SOURCE_DATE_EPOCH is out of range")?;
    Ok(date.date().to_string())
}

/// Every page, by its name without the section.
pub fn pages(date: &str) -> Result<Vec<(String, String)>, String> {
    let texts = help_texts();
    let names: Vec<String> = texts.iter().map(|(command, _)| page_name(command)).collect();
    let all = texts.iter().zip(&names);
    all.map(|((_, text), name)| Ok((name.clone(), page(name, text, date, &names)?))).collect()
}

/// The page called `name` of a help text, which leads to the others among `names`.
pub fn page(name: &str, text: &str, date: &str, names: &[String]) -> Result<String, String> {
    let others = names.iter().filter(|other| *other != name).map(String::as_str);
    let page = Help::read(text).and_then(|help| help.page(name, date, others));
    page.map_err(|error| format!("help text of {name}: {error}"))
}

/// The name of a sub-command's page. git knows the remote helper by another one.
fn page_name(command: &str) -> String {
    match command {
        "" => PROGRAM.to_owned(),
        "remote-helper" => "git-remote-mirror".to_owned(),
        command => format!("{PROGRAM}-{command}"),
    }
}

/// One text of `--help`, taken apart.
#[derive(Debug, Default)]
struct Help {
    summary: String,
    usage: Vec<String>,
    /// Paragraphs before the examples.
    paragraphs: Vec<String>,
    groups: Vec<Group>,
    /// Lines, as they stand.
    examples: Vec<String>,
    exit_codes: String,
    /// Paragraphs after the examples.
    notes: Vec<String>,
}

/// A heading, which may be empty, and its items: a term, and what it means.
#[derive(Debug)]
struct Group {
    heading: String,
    items: Vec<(String, String)>,
}

impl Help {
    fn read(text: &str) -> Result<Self, String> {
        let mut help = Help::default();
        for block in text.trim_end().split("\n\n") {
            let lines: Vec<&str> = block.lines().collect();
            help.take(&lines)?;
        }
        for (part, is_missing) in
            [("summary", help.summary.is_empty()), ("usage", help.usage.is_empty())]
        {
            if is_missing {
                return Err(format!("it has no {part}"));
            }
        }
        Ok(help)
    }

    /// Takes one block: what stands between two empty lines.
    fn take(&mut self, lines: &[&str]) -> Result<(), String> {
        let heading = lines.iter().take_while(|line| !line.starts_with(' ')).count();
        let (head, body) = lines.split_at(heading);
        let head = head.join(" ");
        if let Some(first) = head.strip_prefix("Usage: ") {
            let more = body.iter().map(|line| line.strip_prefix("  or:  ").ok_or(*line));
            let more = more.collect::<Result<Vec<_>, _>>().map_err(not_understood)?;
            self.usage = [first].into_iter().chain(more).map(str::to_owned).collect();
        } else if let Some(codes) = head.strip_prefix("Exit codes: ").filter(|_| body.is_empty()) {
            self.exit_codes = codes.to_owned();
        } else if matches!(head.as_str(), "Example:" | "Examples:") {
            self.examples = body.iter().map(|line| line.trim_start().to_owned()).collect();
        } else if !body.is_empty() {
            let heading = match head.strip_suffix(':') {
                Some(heading) => heading.to_owned(),
                None if head.is_empty() => String::new(),
                None => return Err(not_understood(&head)),
            };
            self.groups.push(Group { heading, items: items(body)? });
        } else if self.usage.is_empty() {
            self.summary = head;
        } else if self.examples.is_empty() {
            self.paragraphs.push(head);
        } else {
            self.notes.push(head);
        }
        Ok(())
    }

    fn page<'a>(
        &self,
        name: &str,
        date: &str,
        others: impl Iterator<Item = &'a str>,
    ) -> Result<String, String> {
        let mut page = Page(Roff::new());
        let version = format!("{PROGRAM} {}", env!("CARGO_PKG_VERSION"));
        let title = name.to_uppercase();
        page.0.control("TH", [title.as_str(), "1", date, &version, "User Commands"]);
        // Names and options are neither stretched nor hyphenated.
        page.0.control("nh", []).control("ad", ["l"]);
        page.section("NAME");
        page.line([roman(format!("{name} - {}", self.what_it_does()))]);
        page.section("SYNOPSIS");
        for (index, usage) in self.usage.iter().enumerate() {
            page.gap(index);
            page.line(syntax(usage));
        }
        page.section("DESCRIPTION");
        page.text(&self.summary);
        self.paragraphs.iter().for_each(|text| page.paragraph(text));
        for group in self.groups.iter().filter(|group| group.kind() == Kind::Other) {
            page.paragraph(&format!("{}:", group.heading));
            page.items(&group.items, syntax);
        }
        if let Some(group) = self.groups.iter().find(|group| group.kind() == Kind::Commands) {
            page.section("COMMANDS");
            page.text("Each command has a manual page of its own.");
            page.items(&group.items, |name| vec![bold(name)]);
        }
        self.options(&mut page);
        if let Some(group) = self.groups.iter().find(|group| group.kind() == Kind::Environment) {
            page.section("ENVIRONMENT");
            page.text(group.remark());
            page.items(&group.items, |term| vec![bold(term)]);
        }
        self.exit_status(&mut page);
        page.examples(&self.examples)?;
        if !self.notes.is_empty() {
            page.section("NOTES");
            for (index, text) in self.notes.iter().enumerate() {
                page.gap(index);
                page.text(text);
            }
        }
        page.section("SEE ALSO");
        let others = others.map(|other| (other, "(1), ")).chain([("git", "(1), ")]);
        let others = others.chain([("git-lfs", "(1)")]);
        for (other, section) in others {
            page.line([bold(other), roman(section.trim_end())]);
        }
        Ok(page.0.render())
    }

    /// The summary's first clause, as NAME has it.
    fn what_it_does(&self) -> String {
        let ends = [": ", ". ", "; ", ", so that "].iter().filter_map(|end| self.summary.find(end));
        let clause = &self.summary[..ends.min().unwrap_or(self.summary.len())];
        let clause = clause.trim_end_matches('.');
        let first: String = clause.chars().take(1).flat_map(char::to_lowercase).collect();
        first + clause.get(1..).unwrap_or_default()
    }

    fn options(&self, page: &mut Page) {
        let mut groups =
            self.groups.iter().filter(|group| group.kind() == Kind::Options).peekable();
        if groups.peek().is_some() {
            page.section("OPTIONS");
        }
        for group in groups {
            if !matches!(group.heading.as_str(), "" | "Options") {
                page.0.control("SS", [group.heading.as_str()]);
            }
            page.items(&group.items, syntax);
        }
    }

    fn exit_status(&self, page: &mut Page) {
        if self.exit_codes.is_empty() {
            return;
        }
        page.section("EXIT STATUS");
        let codes = self.exit_codes.trim_end_matches('.').split(';').map(|code| {
            let code = code.trim();
            let numbers = code.find(|c: char| !c.is_ascii_digit() && c != ',' && c != ' ')?;
            let (numbers, meaning) = code.split_at(numbers);
            let numbers = Some(numbers.trim()).filter(|numbers| !numbers.is_empty());
            Some((numbers?.to_owned(), meaning.to_owned()))
        });
        match codes.collect::<Option<Vec<_>>>() {
            Some(codes) => page.items(&codes, |numbers| vec![bold(numbers)]),
            // "as for mirroring; …"
            None => page.text(&self.exit_codes),
        }
    }
}

#[derive(PartialEq)]
enum Kind {
    Commands,
    Options,
    Environment,
    Other,
}

impl Group {
    fn kind(&self) -> Kind {
        if self.heading.starts_with("Environment") {
            Kind::Environment
        } else if self.heading.starts_with("Commands") {
            Kind::Commands
        } else if self.items.iter().all(|(term, _)| term.starts_with('-')) {
            Kind::Options
        } else {
            Kind::Other
        }
    }

    /// What the heading says in brackets.
    fn remark(&self) -> &str {
        let inside = self.heading.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
        inside.unwrap_or_default()
    }
}

/// The lines of a group as terms and meanings.
fn items(lines: &[&str]) -> Result<Vec<(String, String)>, String> {
    let mut items: Vec<(String, String)> = Vec::new();
    for line in lines {
        let text = line.trim_start();
        match (line.len() - text.len(), items.last_mut()) {
            (2, _) => {
                let is_two_columns = line.get(COLUMN - 1..COLUMN) == Some(" ")
                    && line.get(COLUMN..).is_some_and(|meaning| !meaning.starts_with(' '));
                let (term, meaning) =
                    line.split_at(if is_two_columns { COLUMN } else { line.len() });
                items.push((term.trim().to_owned(), meaning.to_owned()));
            }
            (COLUMN, Some((_, meaning))) => {
                if !meaning.is_empty() {
                    meaning.push(' ');
                }
                meaning.push_str(text);
            }
            _ => return Err(not_understood(line)),
        }
    }
    Ok(items)
}

fn not_understood(line: &str) -> String {
    format!("this is neither a heading nor an item nor a paragraph: '{line}'")
}

/// A page as it is written.
struct Page(Roff);

impl Page {
    fn section(&mut self, name: &str) {
        self.0.control("SH", [name]);
    }

    fn line(&mut self, inlines: impl IntoIterator<Item = Inline>) {
        self.0.text(inlines.into_iter().collect::<Vec<_>>());
    }

    /// Between paragraphs; not before a section's first, of which linters complain.
    fn gap(&mut self, index: usize) {
        if index > 0 {
            self.0.control("PP", []);
        }
    }

    fn paragraph(&mut self, text: &str) {
        self.0.control("PP", []);
        self.text(text);
    }

    /// Running text, in which options are bold.
    fn text(&mut self, text: &str) {
        let mut line = String::new();
        for word in text.split_whitespace() {
            if !line.is_empty() && line.len() + word.len() >= WRAP {
                self.line(styled(&line, style_in_text));
                line.clear();
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        if !line.is_empty() {
            self.line(styled(&line, style_in_text));
        }
    }

    fn items(&mut self, items: &[(String, String)], term: fn(&str) -> Vec<Inline>) {
        for (name, meaning) in items {
            self.0.control("TP", []);
            self.line(term(name));
            self.text(meaning);
        }
    }

    fn examples(&mut self, lines: &[String]) -> Result<(), String> {
        if lines.is_empty() {
            return Ok(());
        }
        self.section("EXAMPLES");
        let mut is_continued = false;
        for (index, line) in lines.iter().enumerate() {
            if !is_continued {
                self.gap(index);
                self.0.control("EX", []);
            }
            self.line([roman(if is_continued { format!("    {line}") } else { line.clone() })]);
            is_continued = line.ends_with('\\');
            if !is_continued {
                self.0.control("EE", []);
            }
        }
        if is_continued { Err("the last example does not end".to_owned()) } else { Ok(()) }
    }
}

/// An option or a line of the synopsis: what is to be replaced is italic, what is to be typed bold.
fn syntax(text: &str) -> Vec<Inline> {
    styled(text, |word| {
        let is_upper = word.chars().any(|c| c.is_ascii_uppercase())
            && !word.chars().any(|c| c.is_ascii_lowercase());
        match word {
            "options" => roman(word),
            _ if is_upper => italic(word),
            _ if word.chars().any(|c| c.is_ascii_alphanumeric()) => bold(word),
            _ => roman(word),
        }
    })
}

fn style_in_text(word: &str) -> Inline {
    let name = word.trim_start_matches('-');
    if word.starts_with('-') && name.starts_with(|c: char| c.is_ascii_alphabetic()) {
        bold(word)
    } else {
        roman(word)
    }
}

/// Cuts `text` into words and what stands between them, and gives each word its style.
fn styled(text: &str, style: impl Fn(&str) -> Inline) -> Vec<Inline> {
    let mut inlines = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let in_word = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        let is_word = rest.starts_with(in_word);
        let end = rest.find(|c| in_word(c) != is_word).unwrap_or(rest.len());
        let (part, after) = rest.split_at(end);
        inlines.push(if is_word { style(part) } else { roman(part) });
        rest = after;
    }
    inlines
}
