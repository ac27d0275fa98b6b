//! The layers of `src/lib.rs`, enforced: reads every path that begins with `crate::`, `super::` or
//! `self::` under `src/` (in code and `use` lines, not in comments) and fails on one against the
//! layering: between folders (tests included), and inside them, where no file may lead back to itself.

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
        ("read", &["git", "ingest", "pack", "progress", "repository", "run", "store"]),
        ("transfer", &["git", "pack", "progress", "repository", "run", "source", "store"]),
        ("maintain", &["git", "ingest", "lfs", "pack", "progress", "repository", "run", "store"]),
        (
            "mirror",
            &[
                "git",
                "ingest",
                "lfs",
                "maintain",
                "progress",
                "repository",
                "run",
                "source",
                "store",
                "transfer",
            ],
        ),
        ("repair", &["maintain", "mirror", "progress", "store"]),
        ("fleet", &["mirror", "run"]),
        ("exit_code", &["mirror", "source", "store"]),
        ("cli", &["exit_code", "git", "mirror", "run"]),
        ("endpoints", &["cli", "http", "run", "source", "store", "transfer"]),
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
                "read",
                "repair",
                "report",
                "run",
                "signals",
                "source",
                "store",
                "transfer",
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

/// Every path in the code that begins with `crate::`, `super::` or `self::`, a braced list as one
/// path for each of its names.
fn paths(code: &str) -> Vec<Vec<String>> {
    let code: String = code
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default())
        .collect::<Vec<_>>()
        .join("\n");
    let mut paths = Vec::new();
    for word in ["crate::", "super::", "self::"] {
        for (at, _) in code.match_indices(word) {
            let before = &code[..at];
            // Inside another path, `super::` belongs to the path's beginning; `pub(in …)` uses
            // nothing.
            let is_inside = before.ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':');
            if !is_inside && !before.ends_with("pub(in ") {
                read_path(&code[at..], &mut Vec::new(), &mut paths);
            }
        }
    }
    paths
}

/// Reads one path, or one for each item of a braced list; returns what follows it.
fn read_path<'c>(code: &'c str, start: &mut Vec<String>, found: &mut Vec<Vec<String>>) -> &'c str {
    let code = code.trim_start();
    if let Some(mut list) = code.strip_prefix('{') {
        loop {
            list = list.trim_start();
            if let Some(rest) = list.strip_prefix('}') {
                return rest;
            }
            if list.is_empty() {
                return list;
            }
            let depth = start.len();
            list = read_path(list, start, found);
            start.truncate(depth);
            // Past `*`, `as name` and blanks.
            list = &list[list.find([',', '}']).unwrap_or(list.len())..];
            list = list.strip_prefix(',').unwrap_or(list);
        }
    }
    let len = code.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(code.len());
    let (name, rest) = code.split_at(len);
    start.push(name.to_owned());
    match rest.strip_prefix("::") {
        Some(rest) => read_path(rest, start, found),
        None => {
            found.push(start.clone());
            rest
        }
    }
}

/// The top-level modules that the code uses by `crate::`.
fn used_modules(code: &str) -> BTreeSet<String> {
    let paths = paths(code).into_iter().filter(|path| path[0] == "crate");
    paths.filter_map(|path| path.get(1).cloned()).filter(|name| !name.is_empty()).collect()
}

/// The path of the module that a file is: `store/s3/place.rs` is `store::s3::place`, `store/mod.rs` is
/// `store`.
fn module_path(file: &Path) -> Vec<String> {
    let names = file.with_extension("");
    let mut names: Vec<_> = names.iter().map(|name| name.to_string_lossy().into_owned()).collect();
    names.pop_if(|name| matches!(name.as_str(), "mod" | "lib"));
    names
}

/// For each file below `src/` the files that it uses, without its tests: those whose modules it
/// declares, and those that its paths lead to. `lib.rs` and `main.rs` use all and nothing uses them.
fn uses_by_file(src: &Path) -> BTreeMap<String, BTreeSet<String>> {
    let mut files = Vec::new();
    source_files(src, &mut files);
    let name_of = |file: &Path| file.strip_prefix(src).expect("below src/").to_path_buf();
    let by_module: BTreeMap<Vec<String>, String> = files
        .iter()
        .map(|file| (module_path(&name_of(file)), name_of(file).display().to_string()))
        .filter(|(module, _)| !matches!(&module[..], [] | [_] if module.concat() == "main"))
        .collect();
    let mut uses = BTreeMap::new();
    for file in &files {
        let module = module_path(&name_of(file));
        let Some(name) = by_module.get(&module).filter(|_| !module.is_empty()) else { continue };
        let code = fs::read_to_string(file).expect("src/ can be read");
        let code = code.split("\n#[cfg(test)]\nmod ").next().unwrap_or_default();
        uses.insert(name.clone(), used_files(code, &module, &by_module));
        uses.get_mut(name).expect("just put there").remove(name);
    }
    uses
}

fn used_files(
    code: &str,
    module: &[String],
    by_module: &BTreeMap<Vec<String>, String>,
) -> BTreeSet<String> {
    let declared = code.lines().filter_map(|line| {
        let line = line.strip_prefix("pub(crate) ").or(line.strip_prefix("pub ")).unwrap_or(line);
        let child = line.strip_prefix("mod ")?.strip_suffix(';')?;
        by_module.get(&[module, &[child.to_owned()]].concat())
    });
    let mut used: BTreeSet<String> = declared.cloned().collect();
    for path in paths(code) {
        let mut at = match path[0].as_str() {
            "crate" => Vec::new(),
            _ => module.to_vec(),
        };
        for name in &path {
            match name.as_str() {
                "crate" | "self" => {}
                "super" => drop(at.pop()),
                name => {
                    at.push(name.to_owned());
                    if !by_module.contains_key(&at) {
                        at.pop();
                        break;
                    }
                }
            }
        }
        used.extend(by_module.get(&at).filter(|_| !at.is_empty()).cloned());
    }
    used
}

fn leads_to(uses: &BTreeMap<String, BTreeSet<String>>, from: &str, to: &str) -> bool {
    let (mut seen, mut next) = (BTreeSet::from([from]), vec![from]);
    while let Some(file) = next.pop() {
        let used = uses.get(file).into_iter().flatten();
        next.extend(used.map(String::as_str).filter(|used| seen.insert(used)));
    }
    seen.contains(to)
}

/// All files that lead to themselves, each with those of its uses that lie on such a way.
fn circles(uses: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    let mut found = Vec::new();
    for (file, used) in uses {
        let back = used.iter().filter(|used| leads_to(uses, used, file));
        found.extend(back.map(|used| format!("{file} uses {used}, which leads back to it")));
    }
    found
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

/// A child that imports from its own `mod.rs` is a circle of two files: the parent declares it.
#[test]
fn no_import_runs_back_up_and_no_files_use_each_other_in_a_circle() {
    let uses = uses_by_file(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    let found = circles(&uses);
    assert!(found.is_empty(), "imports that run back up:\n{}", found.join("\n"));
}

#[test]
fn circle_is_found_through_a_parent_a_sibling_and_a_long_way() {
    let modules = ["a", "a::b", "a::b::c", "a::d", "e"];
    let by_module: BTreeMap<Vec<String>, String> = modules
        .iter()
        .map(|module| (module.split("::").map(str::to_owned).collect(), (*module).to_owned()))
        .collect();
    let found = |codes: &[(&str, &str)]| {
        let of = |(module, code): &(&str, &str)| {
            let path: Vec<String> = module.split("::").map(str::to_owned).collect();
            ((*module).to_owned(), used_files(code, &path, &by_module))
        };
        circles(&codes.iter().map(of).collect()).len()
    };
    assert_eq!(
        found(&[("a", "mod b;\npub mod d;\n"), ("a::b", "use super::d::X;"), ("a::d", "")]),
        0
    );
    assert_eq!(found(&[("a", "mod b;"), ("a::b", "pub(in crate::a) fn f() {}")]), 0);
    assert_eq!(found(&[("a", "mod b;"), ("a::b", "use super::X;")]), 2);
    assert_eq!(
        found(&[("a", "mod b;"), ("a::b::c", "fn f() { super::super::x() }"), ("a::b", "mod c;")]),
        3
    );
    assert_eq!(
        found(&[("a::b", "use super::{d::{self, X}, Y};"), ("a::d", "use crate::{e, a::b as z};")]),
        2
    );
    assert_eq!(found(&[("a", "use crate::e;"), ("e", "use crate::a::d::X;"), ("a::d", "")]), 0);
}

#[test]
fn every_form_of_an_import_is_seen() {
    let code = "use crate::store::{Key, Store};\nuse crate::{git::object::Oid, pack::{a, b}, http};\n\
                // use crate::comment;\nfn f() { crate::mirror::run(); mycrate::no(); }";
    let used: Vec<String> = used_modules(code).into_iter().collect();
    assert_eq!(used, ["git", "http", "mirror", "pack", "store"]);
}
