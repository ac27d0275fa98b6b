//! The layers of `src/lib.rs`, enforced: reads every path that begins with `crate::` under `src/`
//! (in code, tests and `use` lines, not in comments) and fails on one against the layering.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// What each top-level module may use, besides itself. From the bottom up.
fn allowed() -> BTreeMap<&'static str, &'static [&'static str]> {
    BTreeMap::from([
        ("git", &[][..]),
        ("http", &[]),
        ("run", &[]),
        ("progress", &[]),
        ("pack", &["git"]),
        ("store", &["http", "run"]),
        ("source", &["git", "http", "run"]),
        ("repository", &["git", "pack", "progress", "run", "source", "store"]),
        ("ingest", &["git", "pack", "progress", "repository", "run", "source", "store"]),
        ("lfs", &["git", "ingest", "progress", "repository", "run", "source", "store"]),
        ("maintain", &["git", "lfs", "pack", "repository", "run", "store"]),
        ("mirror", &["git", "ingest", "lfs", "progress", "repository", "run", "source", "store"]),
        ("fleet", &["mirror", "run"]),
        ("exit_code", &["mirror", "source", "store"]),
        ("cli", &["exit_code", "git", "mirror", "run"]),
        ("endpoints", &["cli", "http", "run", "source", "store"]),
        ("logging", &["cli", "progress"]),
        ("signals", &["exit_code", "http", "progress", "run"]),
        ("report", &["cli", "exit_code", "logging", "mirror", "progress", "source", "store"]),
        (
            "commands",
            &[
                "cli",
                "endpoints",
                "exit_code",
                "fleet",
                "git",
                "http",
                "logging",
                "maintain",
                "mirror",
                "pack",
                "progress",
                "report",
                "run",
                "signals",
                "source",
                "store",
            ],
        ),
    ])
}

fn source_files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("src/ can be read") {
        let path = entry.expect("src/ can be read").path();
        if path.is_dir() {
            source_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The top-level module of a path below `src/`: `store/s3.rs` and `store.rs` are both `store`.
fn module_of(path: &Path) -> String {
    let first = path.iter().next().expect("not empty").to_string_lossy().into_owned();
    first.trim_end_matches(".rs").to_owned()
}

/// The modules after each `crate::` in the code: one name, or each name of `crate::{a::b, c}`.
fn used_modules(code: &str) -> BTreeSet<String> {
    let code: String = code
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default())
        .collect::<Vec<_>>()
        .join("\n");
    let mut used = BTreeSet::new();
    for (at, word) in code.match_indices("crate::") {
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let rest = code[at + word.len()..].trim_start();
        match rest.strip_prefix('{') {
            Some(list) => used.extend(names_of_list(list)),
            None => used.extend([identifier(rest)]),
        }
    }
    used.remove("");
    used
}

/// The first name of each item in a braced list, nested braces skipped.
fn names_of_list(list: &str) -> Vec<String> {
    let (mut depth, mut names, mut start) = (1, Vec::new(), 0);
    for (at, sign) in list.char_indices() {
        match sign {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 || (depth == 1 && sign == ',') {
            names.push(identifier(list[start..at].trim()));
            start = at + 1;
        }
        if depth == 0 {
            break;
        }
    }
    names
}

fn identifier(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

#[test]
fn imports_follow_the_layers() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    source_files(&src, &mut files);
    assert!(files.len() > 20, "only {} files found", files.len());
    let allowed = allowed();
    let mut wrong = Vec::new();
    for file in files {
        let path = file.strip_prefix(&src).expect("found below src/");
        let module = module_of(path);
        if matches!(module.as_str(), "lib" | "main") {
            continue;
        }
        let Some(may_use) = allowed.get(module.as_str()) else {
            wrong.push(format!("{module} is in no layer: add it to the table here and in lib.rs"));
            continue;
        };
        let code = fs::read_to_string(&file).expect("src/ can be read");
        for used in used_modules(&code) {
            if used != module && !may_use.contains(&used.as_str()) {
                wrong.push(format!("{} uses {used}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "against the layers:\n{}", wrong.join("\n"));
}

#[test]
fn no_layer_uses_one_that_uses_it() {
    let allowed = allowed();
    for (module, may_use) in &allowed {
        for used in *may_use {
            let back = allowed.get(used).unwrap_or_else(|| panic!("{used} has no row"));
            assert!(!back.contains(module), "{module} and {used} use each other");
        }
    }
}

#[test]
fn every_form_of_an_import_is_seen() {
    let code = "use crate::store::{Key, Store};\nuse crate::{git::object::Oid, pack::{a, b}, http};\n\
                // use crate::comment;\nfn f() { crate::mirror::run(); mycrate::no(); }";
    let used: Vec<String> = used_modules(code).into_iter().collect();
    assert_eq!(used, ["git", "http", "mirror", "pack", "store"]);
}
