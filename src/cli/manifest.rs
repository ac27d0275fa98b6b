//! Pairs of a source and a target: from `--source` and `--target`, or from a manifest.
//!
//! A manifest has one `SOURCE TARGET` a line, separated by blanks; `#` begins a comment at the start
//! of a line or after a blank; empty lines are skipped. A blank in a URL is written as `%20` (in
//! `file:///` and `https://` URLs). Errors give the line's number and don't repeat the line, which
//! may hold a password.
//!
//! Two pairs can't share a target: each would take the other's refs for ones that went away. Directories
//! are compared by where they are, whatever links lead there.

use std::collections::HashMap;
use std::fmt;

use sha1::{Digest, Sha1};

use super::error::CliError;
use super::urls::{SourceUrl, TargetUrl};

/// `--shard I/N`; `index` is less than `count`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// Which share, from 0.
    pub index: u64,
    /// Of how many.
    pub count: u64,
}

/// One repository to mirror.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// Where it comes from.
    pub source: SourceUrl,
    /// Where it goes.
    pub target: TargetUrl,
}

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {}", self.source, self.target)
    }
}

impl Pair {
    /// Does this pair belong to `shard`? The first eight bytes of the SHA-1 of
    /// `<source>\0<target>` (the URLs as they are shown: no userinfo, no slash at the target's end),
    /// read as a big-endian number, modulo N. It depends on the pair alone, so that adding,
    /// removing or reordering lines moves no other pair to another machine.
    pub fn belongs_to(&self, shard: Shard) -> bool {
        let hash = Sha1::digest(format!("{}\0{}", self.source, self.target));
        let first = hash.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte));
        first % shard.count == shard.index
    }
}

/// The pairs of `--source` and `--target`, by order of appearance.
pub(super) fn pair_up(sources: &[String], targets: &[String]) -> Result<Vec<Pair>, CliError> {
    if sources.len() != targets.len() {
        return Err(CliError::new(format!(
            "{} --source but {} --target: each --source needs its --target",
            sources.len(),
            targets.len()
        )));
    }
    let numbered = |number: usize, error: CliError| match sources.len() {
        1 => error,
        _ => CliError::new(format!("pair {number}: {error}")),
    };
    let mut pairs = Unique::new("pair");
    for (number, (source, target)) in (1..).zip(sources.iter().zip(targets)) {
        pair(source, target)
            .and_then(|pair| pairs.add(number, pair))
            .map_err(|error| numbered(number, error))?;
    }
    pairs.finish("--source and --target, or --manifest, are required")
}

/// The pairs of a manifest's text; `name` is for errors.
pub(super) fn read(name: &str, text: &str) -> Result<Vec<Pair>, CliError> {
    let mut pairs = Unique::new("line");
    for (number, line) in (1..).zip(text.lines()) {
        // A byte order mark is what some editors put before the first line.
        let line = line.strip_prefix('\u{feff}').filter(|_| number == 1).unwrap_or(line);
        let words: Vec<&str> =
            line.split_whitespace().take_while(|word| !word.starts_with('#')).collect();
        match words[..] {
            [] => continue,
            [source, target] => pair(source, target).and_then(|pair| pairs.add(number, pair)),
            _ => Err(CliError::new(format!("expected SOURCE TARGET, found {} words", words.len()))),
        }
        .map_err(|error| CliError::new(format!("{name}:{number}: {error}")))?;
    }
    pairs.finish(&format!("{name}: contains no pairs"))
}

fn pair(source: &str, target: &str) -> Result<Pair, CliError> {
    Ok(Pair { source: SourceUrl::parse(source)?, target: TargetUrl::parse(target)? })
}

/// Pairs with targets that differ, and with one reader of standard input at most.
struct Unique {
    pairs: Vec<Pair>,
    targets: HashMap<TargetUrl, usize>,
    /// What lies above them.
    parents: HashMap<TargetUrl, usize>,
    unit: &'static str,
    stdin: Option<usize>,
}

impl Unique {
    fn new(unit: &'static str) -> Self {
        Unique {
            pairs: Vec::new(),
            targets: HashMap::new(),
            parents: HashMap::new(),
            unit,
            stdin: None,
        }
    }

    fn add(&mut self, number: usize, pair: Pair) -> Result<(), CliError> {
        let unit = self.unit;
        let target = pair.target.resolved();
        if let Some(first) = self.targets.insert(target.clone(), number) {
            return Err(CliError::new(format!(
                "{} already has this target, and a mirror has one source",
                format_args!("{unit} {first}")
            )));
        }
        let above: Vec<TargetUrl> = target.parents().collect();
        let outer = above.iter().find_map(|parent| self.targets.get(parent));
        if let Some(other) = outer.or_else(|| self.parents.get(&target)) {
            return Err(CliError::new(format!(
                "its target and that of {unit} {other} are nested: each mirror needs its own prefix"
            )));
        }
        self.parents.extend(above.into_iter().map(|parent| (parent, number)));
        if pair.source.is_stdin()
            && let Some(first) = self.stdin.replace(number)
        {
            return Err(CliError::new(format!("{unit} {first} already reads standard input")));
        }
        self.pairs.push(pair);
        Ok(())
    }

    fn finish(self, if_none: &str) -> Result<Vec<Pair>, CliError> {
        if self.pairs.is_empty() { Err(CliError::new(if_none)) } else { Ok(self.pairs) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(pairs: &[Pair]) -> Vec<String> {
        pairs.iter().map(Pair::to_string).collect()
    }

    #[test]
    fn a_manifest_has_pairs_comments_and_blank_lines() {
        let text = "\u{feff}# all\r\nhttps://h/a s3://b/a\r\n\n  https://h/b\ts3://b/b  # the second\n\
                    #https://h/c s3://b/c\nbundle:x#y s3://b/d";
        assert_eq!(
            shown(&read("m", text).unwrap()),
            ["https://h/a -> s3://b/a", "https://h/b -> s3://b/b", "bundle:x#y -> s3://b/d"]
        );
    }

    #[test]
    fn errors_of_a_manifest_name_the_line() {
        for (text, wanted) in [
            ("", "m: contains no pairs"),
            ("# nothing\n\n", "m: contains no pairs"),
            ("https://h/a", "m:1: expected SOURCE TARGET, found 1 words"),
            ("\nhttps://h/a s3://b/a x", "m:2: expected SOURCE TARGET, found 3 words"),
            ("https://h/a s3://b/a\nssh://h/b s3://b/b", "m:2: source: ssh is not supported"),
            ("https://h/a s3://", "m:1: target: it contains no valid bucket"),
            (
                "https://h/a s3://b/a\n#\nhttps://h/b s3://b/a/",
                "m:3: line 1 already has this target",
            ),
            ("https://h/a s3://b/a\nhttps://h/a s3://b/a", "m:2: line 1 already has this target"),
            ("- s3://b/a\n- s3://b/b", "m:2: line 1 already reads standard input"),
        ] {
            let error = read("m", text).expect_err(text).to_string();
            assert!(error.starts_with(wanted), "{text:?}: {error}");
        }
    }

    #[test]
    fn targets_inside_one_another_are_refused_in_either_order() {
        for (outer, inner) in [
            ("s3://b", "s3://b/a"),
            ("s3://b/a", "s3://b/a/c"),
            ("s3://b/a/", "s3://b/a/c/d/e/"),
            ("file:///a", "file:///a/b"),
            ("file:///a", "file://localhost/a/b/c"),
        ] {
            for (first, second) in [(outer, inner), (inner, outer)] {
                let text =
                    format!("https://h/1 s3://z/z\nhttps://h/2 {first}\nhttps://h/3 {second}");
                let error = read("m", &text).expect_err(&text).to_string();
                let wanted = "m:3: its target and that of line 2 are nested";
                assert!(error.starts_with(wanted), "{error}");
            }
        }
        let beside = "- s3://b/a\nhttps://h/1 s3://b/ab\nhttps://h/2 s3://c\nhttps://h/3 s3://b/c/a\n\
                      https://h/4 file:///b/a\nhttps://h/5 file:///b/a.git";
        assert_eq!(read("m", beside).unwrap().len(), 6);
    }

    #[test]
    fn two_paths_to_one_directory_are_one_target() {
        let home = tempfile::tempdir().unwrap();
        let at = |path: &str| format!("file://{}/{path}", home.path().display());
        std::fs::create_dir_all(home.path().join("real/inner")).unwrap();
        for (link, to) in [("link", "real"), ("deep", "real/inner"), ("dangling", "nowhere")] {
            std::os::unix::fs::symlink(home.path().join(to), home.path().join(link)).unwrap();
        }
        for (first, second, wanted) in [
            ("real", "link", "already has this target"),
            // Neither exists yet.
            ("link/a/b", "real/a/b", "already has this target"),
            ("real", "deep", "are nested"),
            ("deep/a", "link", "are nested"),
        ] {
            let text = format!("https://h/1 {}\nhttps://h/2 {}", at(first), at(second));
            let error = read("m", &text).expect_err(&text).to_string();
            assert!(error.contains(wanted), "{first} {second}: {error}");
        }
        let apart = [at("link/a"), at("real/b"), at("dangling"), at("new/real")];
        let text: String = apart.iter().map(|target| format!("https://h/1 {target}\n")).collect();
        // They are shown, and sharded, as they were written.
        let pairs = read("m", &text).unwrap();
        assert_eq!(pairs[0].target.to_string(), apart[0]);
    }

    #[test]
    fn pairs_are_made_by_order_of_appearance() {
        let words =
            |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let pairs = pair_up(&words(&["https://h/a", "-"]), &words(&["s3://b/a", "s3://b/b"]));
        assert_eq!(shown(&pairs.unwrap()), ["https://h/a -> s3://b/a", "- -> s3://b/b"]);
        for (sources, targets, wanted) in [
            (&["https://h/a"][..], &[][..], "1 --source but 0 --target: each --source needs"),
            (&[], &["s3://b/a"], "0 --source but 1 --target: each --source needs"),
            (&[], &[], "--source and --target, or --manifest"),
            (&["x"], &["s3://b/a"], "source: "),
            (&["-", "x"], &["s3://b/a", "s3://b/b"], "pair 2: source: "),
            (
                &["https://h/a", "https://h/b"],
                &["s3://b/a", "s3://b/a"],
                "pair 2: pair 1 already has this",
            ),
        ] {
            let error = pair_up(&words(sources), &words(targets)).unwrap_err().to_string();
            assert!(error.starts_with(wanted), "{error}");
        }
    }

    #[test]
    fn every_pair_belongs_to_one_shard_and_stays_there() {
        let line = |n: u32| format!("https://h/{n} s3://b/{n}\n");
        let pairs = read("m", &(0..100).map(line).collect::<String>()).unwrap();
        let mut sizes = [0; 4];
        for pair in &pairs {
            let homes: Vec<u64> =
                (0..4).filter(|&index| pair.belongs_to(Shard { index, count: 4 })).collect();
            assert_eq!(homes.len(), 1);
            sizes[homes[0] as usize] += 1;
        }
        assert!(sizes.iter().all(|size| *size > 10), "{sizes:?}");
        // printf 'https://h/0\0s3://b/0' | sha1sum: a change of the hash would move every pair.
        let hash = SHARD_OF_0;
        assert!(pairs[0].belongs_to(Shard { index: hash % 1000, count: 1000 }));
        // A password that is renewed, or a slash at the end, moves nothing.
        let same = read("m", "https://u:p@h/0 s3://b/0/").unwrap();
        assert!(same[0].belongs_to(Shard { index: hash % 1000, count: 1000 }));
    }

    const SHARD_OF_0: u64 = 0x4ee60b14ff6dad17;
}
