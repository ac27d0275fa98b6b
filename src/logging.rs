//! The log on standard error: levels, form, and what may never be in it.
//!
//! `-q` shows errors, nothing warnings, `-v` info, `-vv` debug; `RUST_LOG` beats them all. Lines
//! look like git's (`warning: …`) and go above the bars.
//!
//! Other crates are never heard below warnings, whatever `RUST_LOG` says: at debug and trace, HTTP
//! crates print request lines and headers, so tokens and signed URLs (ureq redacts headers that it
//! knows, but not a URL's query, which is where LFS storage puts signatures). The cap is an
//! allow-list of one, this crate, so that a new dependency can't leak either.

use std::io::Write;

use env_logger::{Builder, Target, WriteStyle};
use log::{Level, LevelFilter, Metadata};

use crate::cli::urls::without_userinfo;
use crate::cli::{Output, Verbosity};
use crate::progress::Screen;

/// Starts the log; the lines go through `screen`. A second call changes nothing.
pub fn start(output: &Output, screen: Screen) {
    let mut builder = Builder::new();
    builder.filter_level(match output.verbosity {
        Verbosity::Quiet => LevelFilter::Error,
        Verbosity::Normal => LevelFilter::Warn,
        Verbosity::Info => LevelFilter::Info,
        Verbosity::Debug => LevelFilter::Debug,
    });
    if let Some(spec) = &output.rust_log {
        builder.parse_filters(spec);
    }
    builder.target(Target::Pipe(Box::new(screen))).write_style(WriteStyle::Never);
    builder.format(|out, record| {
        if !may_be_heard(record.metadata()) {
            return Ok(());
        }
        writeln!(out, "{}: {}", word(record.level()), printable(&record.args().to_string()))
    });
    // Err: a log was started before, in a test or by a program that links this crate.
    let _ = builder.try_init();
}

/// Is this a message that can't hold other crates' requests?
fn may_be_heard(metadata: &Metadata<'_>) -> bool {
    let crate_name = metadata.target().split("::").next().unwrap_or_default();
    crate_name == env!("CARGO_CRATE_NAME") || metadata.level() <= Level::Warn
}

fn word(level: Level) -> &'static str {
    match level {
        Level::Error => "error",
        Level::Warn => "warning",
        Level::Info => "info",
        Level::Debug => "debug",
        Level::Trace => "trace",
    }
}

/// Text of others, fit for a terminal: one line, no control character that could move the cursor or
/// change its title, no password in a URL.
pub fn printable(text: &str) -> String {
    let text = without_userinfo(text.trim_end());
    text.chars()
        .map(|c| match c {
            '\n' | '\t' => ' ',
            c if is_harmful(c) => '\u{fffd}',
            c => c,
        })
        .collect()
}

/// Characters that a terminal obeys (C0, DEL, C1), and those that make text look other than it is:
/// marks that turn its direction, and marks without width.
fn is_harmful(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}')
        || matches!(c, '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}')
}

/// JSON with its harmful characters escaped: readers get them back, and a terminal does not see them.
pub fn printable_json(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            // All of these are below U+FFFF, and stand in strings alone.
            c if is_harmful(c) => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_crates_are_heard_from_warnings_on_only() {
        for (target, level, heard) in [
            ("mirror_git_to_s3::mirror", Level::Trace, true),
            ("mirror_git_to_s3", Level::Debug, true),
            ("mirror_git_to_s3_evil", Level::Info, false),
            ("ureq::run", Level::Debug, false),
            ("ureq_proto::client", Level::Trace, false),
            ("rustls::client::hs", Level::Info, false),
            ("rustls_native_certs", Level::Warn, true),
        ] {
            let metadata = Metadata::builder().target(target).level(level).build();
            assert_eq!(may_be_heard(&metadata), heard, "{target} {level}");
        }
    }

    #[test]
    fn text_of_others_cannot_act_on_the_terminal() {
        assert_eq!(
            printable("a\x1b]0;title\x07\r\nb\thttps://u:p@h/r\n"),
            "a\u{fffd}]0;title\u{fffd}\u{fffd} b https://h/r"
        );
        assert_eq!(
            printable("\u{9b}31m \u{202e}txt.exe\u{2066} \u{200b}ä\u{feff}"),
            "\u{fffd}31m \u{fffd}txt.exe\u{fffd} \u{fffd}ä\u{fffd}"
        );
    }

    #[test]
    fn json_is_the_same_for_readers_and_harmless_on_a_terminal() {
        let text = "a\u{9b}\u{7f}\u{202e}ä\u{1f600}\"\n";
        let json = printable_json(&serde_json::to_string(text).unwrap());
        assert!(!json.contains(['\u{9b}', '\u{7f}', '\u{202e}']), "{json}");
        assert!(json.contains('ä') && json.contains("\\u202e"), "{json}");
        assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
    }
}
