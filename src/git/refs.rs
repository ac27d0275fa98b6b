//! Refs: names, what a source advertises, filters, and the files `info/refs` and `HEAD` of a mirror.
//!
//! A [`RefName`] can only be made from a name that git itself would accept, so no name from a server
//! can forge a line of `info/refs`. What is fetched and what is published both come from one
//! [`Advertisement`] that one [`RefFilter`] has gone over. The two files follow
//! gitrepository-layout(5) and what git's dumb client reads (`parse_info_refs` in its
//! `remote-curl.c`, `http_fetch_ref` in its `http.c`).

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use globset::{Glob, GlobBuilder, GlobSet, GlobSetBuilder};

use crate::git::object::{ObjectFormat, Oid};
use crate::git::pkt_line::clean_text;
use crate::git::protocol::ProtocolError;

/// A ref's full name (`refs/heads/main`), valid by git-check-ref-format(1).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RefName(Box<str>);

impl RefName {
    /// Checks `name` by the rules of git-check-ref-format(1), and that it begins with `refs/`.
    ///
    /// Git allows names that are not UTF-8; they are refused here.
    pub fn new(name: impl Into<String>) -> Result<Self, BadRefName> {
        let name = name.into();
        if is_valid(&name) { Ok(RefName(name.into_boxed_str())) } else { Err(BadRefName(name)) }
    }

    /// The same from bytes off the wire.
    pub fn from_bytes(name: &[u8]) -> Result<Self, BadRefName> {
        match std::str::from_utf8(name) {
            Ok(name) => RefName::new(name),
            Err(_) => Err(BadRefName(String::from_utf8_lossy(name).into_owned())),
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Is it a branch (`refs/heads/…`)?
    pub fn is_branch(&self) -> bool {
        self.0.starts_with("refs/heads/")
    }
}

impl fmt::Display for RefName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for RefName {
    type Err = BadRefName;

    fn from_str(name: &str) -> Result<Self, BadRefName> {
        RefName::new(name)
    }
}

/// A text that can't be a ref's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a valid full ref name: {0:?}")]
pub struct BadRefName(pub String);

/// The rules of git-check-ref-format(1), by its numbers. (2), at least one slash, and (9), not a
/// single `@`, follow from beginning with `refs/`.
fn is_valid(name: &str) -> bool {
    let component = |part: &str| {
        // (6) no empty component; (1) none begins with a dot or ends with `.lock`.
        !part.is_empty() && !part.starts_with('.') && !part.ends_with(".lock")
    };
    // (4) and (5) and (10): no control character, space, `~`, `^`, `:`, `?`, `*`, `[`, `\`.
    let character = |byte: u8| byte > b' ' && byte != 0x7f && !b"~^:?*[\\".contains(&byte);
    name.starts_with("refs/")
        && name.bytes().all(character)
        && name.split('/').all(component)
        && !name.contains("..") // (3)
        && !name.contains("@{") // (8)
        && !name.ends_with('.') // (7)
}

/// One advertised ref.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ref {
    /// Its full name.
    pub name: RefName,
    /// What it points at.
    pub oid: Oid,
    /// What an annotated tag points at in the end, if it is one.
    pub peeled: Option<Oid>,
}

/// Where HEAD points.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Head {
    /// A symbolic ref to a ref that is advertised.
    Branch(RefName),
    /// A symbolic ref to a branch that does not exist yet (an empty repository, for one).
    Unborn(RefName),
    /// A bare oid.
    Detached(Oid),
    /// The source says nothing of HEAD.
    Absent,
}

/// What a source has: its refs, sorted by name in byte order without duplicates, and its HEAD.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advertisement {
    /// What the repository's objects are named with.
    pub format: ObjectFormat,
    /// Sorted by name in byte order; HEAD is not among them.
    pub refs: Vec<Ref>,
    /// HEAD.
    pub head: Head,
}

impl Advertisement {
    /// Of refs that were published, whose format is that of what they name: SHA-1 if that is nothing.
    pub fn of(refs: Vec<Ref>, head: Head) -> Self {
        let format = format_of(&refs, &head).unwrap_or_default();
        Advertisement { format, refs, head }
    }

    /// The ref of that name.
    pub fn find(&self, name: &RefName) -> Option<&Ref> {
        find(&self.refs, name)
    }
}

/// What the objects that these refs and this HEAD name are named with. `None`: they name none.
pub fn format_of(refs: &[Ref], head: &Head) -> Option<ObjectFormat> {
    let of_head = || match head {
        Head::Detached(oid) => Some(oid.format()),
        Head::Branch(_) | Head::Unborn(_) | Head::Absent => None,
    };
    refs.first().map(|r| r.oid.format()).or_else(of_head)
}

fn find<'a>(refs: &'a [Ref], name: &RefName) -> Option<&'a Ref> {
    refs.binary_search_by(|r| r.name.cmp(name)).ok().map(|at| &refs[at])
}

/// An [`Advertisement`], and what was left out of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advertised {
    /// The refs that can be used.
    pub advertisement: Advertisement,
    /// Names that the server sent and that are no valid names below `refs/`. They are never used.
    pub skipped: Skipped,
}

/// Names that can't be used: the first few, and how many more there are. A server may send millions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Skipped {
    /// The first ten, free of control characters, in the order in which they came.
    pub names: Vec<String>,
    /// How many came after them.
    pub more: u64,
}

impl Skipped {
    /// How many names are kept.
    const KEPT: usize = 10;

    fn add(&mut self, name: &[u8]) {
        match self.names.len() {
            Self::KEPT.. => self.more += 1,
            _ => self.names.push(clean_text(name, 200)),
        }
    }
}

/// The most bytes of refs that are read with so much working memory, as they come on the wire and as
/// `info/refs` has them: 9 MiB, which is 125,000 refs, with 64 MiB. While a run compares and publishes,
/// a ref takes up to twelve times its line, and nothing else takes much: so a twelfth of the memory and of
/// what a run needs beside it.
pub fn max_refs_bytes(memory_bytes: u64) -> u64 {
    const BESIDE: u64 = 54 << 20;
    memory_bytes.saturating_add(BESIDE) / 131 * 10
}

/// Collects a server's refs while they are read, in any order.
#[derive(Debug, Default)]
pub(crate) struct Collector {
    format: ObjectFormat,
    refs: BTreeMap<RefName, (Oid, Option<Oid>)>,
    head_oid: Option<Oid>,
    /// Where the server says HEAD points to, if the name is valid.
    head_target: Option<RefName>,
    skipped: Skipped,
}

impl Collector {
    pub(crate) fn new(format: ObjectFormat) -> Self {
        Collector { format, ..Collector::default() }
    }

    /// The source says so, before its first ref.
    pub(crate) fn set_format(&mut self, format: ObjectFormat) {
        self.format = format;
    }

    /// Refuses a name that is not of the announced format.
    pub(crate) fn check(&self, oid: Oid) -> Result<Oid, ProtocolError> {
        match oid.format() == self.format {
            true => Ok(oid),
            false => Err(ProtocolError::OtherFormat { oid, format: self.format }),
        }
    }

    /// Takes one ref; `HEAD` is one, too.
    pub(crate) fn add(
        &mut self,
        name: &[u8],
        oid: Oid,
        peeled: Option<Oid>,
    ) -> Result<(), ProtocolError> {
        [Some(oid), peeled].into_iter().flatten().try_for_each(|oid| self.check(oid).map(drop))?;
        if name == b"HEAD" {
            self.head_oid = Some(oid);
            return Ok(());
        }
        let Ok(name) = RefName::from_bytes(name) else {
            self.skipped.add(name);
            return Ok(());
        };
        let known = self.refs.entry(name.clone()).or_insert((oid, peeled));
        if known.0 == oid { Ok(()) } else { Err(ProtocolError::Contradiction(name.to_string())) }
    }

    /// Takes what `name` peels to; of a ref that was skipped, it is skipped as well.
    pub(crate) fn add_peeled(&mut self, name: &[u8], peeled: Oid) -> Result<(), ProtocolError> {
        self.check(peeled)?;
        let name = RefName::from_bytes(name).ok();
        if let Some((_, slot)) = name.and_then(|name| self.refs.get_mut(&name)) {
            *slot = Some(peeled);
        }
        Ok(())
    }

    /// Takes the target of HEAD, which need not exist. An invalid name leaves HEAD detached.
    pub(crate) fn set_head_target(&mut self, target: &[u8]) {
        self.head_target = RefName::from_bytes(target).ok();
    }

    /// All that came. A HEAD whose target is not advertised (hidden, or not valid) but has an oid
    /// counts as detached: so the mirror checks out what the source does.
    pub(crate) fn finish(self) -> Advertised {
        let head = match (self.head_target, self.head_oid) {
            (Some(target), _) if self.refs.contains_key(&target) => Head::Branch(target),
            (_, Some(oid)) => Head::Detached(oid),
            (Some(target), None) => Head::Unborn(target),
            (None, None) => Head::Absent,
        };
        let refs = self.refs.into_iter().map(|(name, (oid, peeled))| Ref { name, oid, peeled });
        Advertised {
            advertisement: Advertisement { format: self.format, refs: refs.collect(), head },
            skipped: self.skipped,
        }
    }
}

/// Which refs are mirrored: globs over full names. The default lets everything through.
///
/// A ref passes if any `include` matches it (none given: all do) and no `exclude` does. `*` and `?`
/// match slashes too, so `refs/heads/*` is every branch; `[ab]`, `{a,b}` and a backslash work as in
/// globs elsewhere.
#[derive(Clone, Debug, Default)]
pub struct RefFilter {
    include: Option<GlobSet>,
    exclude: GlobSet,
}

/// A pattern that is no glob, or that can't match any ref.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a usable pattern for refs: {pattern:?}: {reason}")]
pub struct BadPattern {
    /// The pattern.
    pub pattern: String,
    /// What is wrong with it.
    pub reason: String,
}

impl RefFilter {
    /// A filter from the patterns of `--refs` and `--exclude-refs`.
    pub fn new(include: &[String], exclude: &[String]) -> Result<RefFilter, BadPattern> {
        let include = if include.is_empty() { None } else { Some(glob_set(include)?) };
        Ok(RefFilter { include, exclude: glob_set(exclude)? })
    }

    /// Does every ref pass?
    pub(crate) fn is_everything(&self) -> bool {
        self.include.is_none() && self.exclude.is_empty()
    }

    /// Does this ref pass?
    pub fn matches(&self, name: &RefName) -> bool {
        self.include.as_ref().is_none_or(|set| set.is_match(name.as_str()))
            && !self.exclude.is_match(name.as_str())
    }

    /// Leaves out what does not pass, and finds a HEAD that only needs what is left.
    ///
    /// If HEAD's branch is left out, HEAD becomes `refs/heads/main`, else `refs/heads/master`, else
    /// the first branch that is left; if no branch is left, it names its old branch, unborn. A
    /// detached HEAD stays if nothing was left out, or if a ref that is left points at the same
    /// object (otherwise it would publish the history of a ref that was left out); else it becomes a
    /// branch in the same way, or [`Head::Absent`].
    pub fn apply(&self, advertisement: Advertisement) -> Advertisement {
        let Advertisement { format, mut refs, head } = advertisement;
        let before = refs.len();
        refs.retain(|r| self.matches(&r.name));
        let whole = refs.len() == before;
        let head = match head {
            Head::Branch(name) if find(&refs, &name).is_none() => {
                default_branch(&refs).map_or(Head::Unborn(name), Head::Branch)
            }
            Head::Detached(oid) if !whole && !refs.iter().any(|r| points_at(r, oid)) => {
                default_branch(&refs).map_or(Head::Absent, Head::Branch)
            }
            head => head,
        };
        Advertisement { format, refs, head }
    }
}

fn points_at(r: &Ref, oid: Oid) -> bool {
    r.oid == oid || r.peeled == Some(oid)
}

/// The branch that HEAD gets when nothing says which.
pub(crate) fn default_branch(refs: &[Ref]) -> Option<RefName> {
    let is = |wanted: &'static str| move |r: &&Ref| r.name.as_str() == wanted;
    let main = refs.iter().find(is("refs/heads/main"));
    let master = || refs.iter().find(is("refs/heads/master"));
    let first = || refs.iter().find(|r| r.name.is_branch());
    main.or_else(master).or_else(first).map(|r| r.name.clone())
}

fn glob_set(patterns: &[String]) -> Result<GlobSet, BadPattern> {
    let bad = |pattern: &str, reason: String| BadPattern { pattern: pattern.to_owned(), reason };
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        set.add(glob(pattern).map_err(|reason| bad(pattern, reason))?);
    }
    set.build().map_err(|error| bad(&patterns.join(" "), error.kind().to_string()))
}

fn glob(pattern: &str) -> Result<Glob, String> {
    // `main` instead of `refs/heads/main` would match nothing, silently.
    let literal = pattern.split(['*', '?', '[', '{', '\\']).next().unwrap_or_default();
    let len = literal.len().min("refs/".len());
    if literal.get(..len) != Some(&"refs/"[..len]) || literal == pattern && len < "refs/".len() {
        return Err("it needs full names, such as refs/heads/main or refs/heads/*".into());
    }
    GlobBuilder::new(pattern)
        .literal_separator(false)
        .backslash_escape(true)
        .build()
        .map_err(|error| error.kind().to_string())
}

/// The file `info/refs` of a mirror.
///
/// `oid TAB name LF`, sorted by name, an annotated tag followed by `peeled TAB name^{} LF`, no line
/// for HEAD (`update_info_refs` in git's `server-info.c`). The last line ends in a line feed as
/// well: git loses the last ref without it. `refs` must be sorted, as an [`Advertisement`] has them.
pub fn info_refs(refs: &[Ref]) -> Vec<u8> {
    let mut file = String::new();
    for Ref { name, oid, peeled } in refs {
        file += &format!("{oid}\t{name}\n");
        if let Some(peeled) = peeled {
            file += &format!("{peeled}\t{name}^{{}}\n");
        }
    }
    file.into_bytes()
}

/// What was wrong with a mirror's `info/refs`, and in which line, counted from 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of info/refs: {reason}")]
pub struct BadInfoRefs {
    /// The line.
    pub line: usize,
    /// What is wrong with it.
    pub reason: String,
}

/// The inverse of [`info_refs`]: strict in what a line is, except that the lines may come in any
/// order of names (other tools sort otherwise). A `^{}` line follows its tag's.
pub fn parse_info_refs(file: &[u8]) -> Result<Vec<Ref>, BadInfoRefs> {
    let mut refs: Vec<Ref> = Vec::new();
    for (at, line) in file.split_inclusive(|&byte| byte == b'\n').enumerate() {
        let bad = |reason: String| BadInfoRefs { line: at + 1, reason };
        let Some(line) = line.strip_suffix(b"\n") else {
            return Err(bad("the final line feed is missing: the file was truncated".into()));
        };
        let (oid, name) =
            Oid::split_hex(line, b'\t').ok_or_else(|| bad("not an oid, a tab, a name".into()))?;
        match (name.strip_suffix(b"^{}"), refs.last_mut()) {
            (Some(tag), Some(last)) if last.name.as_str().as_bytes() == tag => {
                last.peeled = Some(oid);
            }
            (Some(_), _) => return Err(bad("a peeled oid without its tag before it".into())),
            (None, _) => {
                let name = RefName::from_bytes(name).map_err(|error| bad(error.to_string()))?;
                refs.push(Ref { name, oid, peeled: None });
            }
        }
    }
    refs.sort_by(|a, b| a.name.cmp(&b.name));
    match refs.windows(2).find(|pair| pair[0].name == pair[1].name) {
        Some(pair) => {
            Err(BadInfoRefs { line: 0, reason: format!("{} is there twice", pair[0].name) })
        }
        None => Ok(refs),
    }
}

/// The file `HEAD` of a mirror: `ref: refs/heads/x LF`, or an oid and a line feed. None for
/// [`Head::Absent`]: git then clones with nothing checked out.
pub fn head_file(head: &Head) -> Option<Vec<u8>> {
    match head {
        Head::Branch(name) | Head::Unborn(name) => Some(format!("ref: {name}\n").into_bytes()),
        Head::Detached(oid) => Some(format!("{oid}\n").into_bytes()),
        Head::Absent => None,
    }
}

/// A file `HEAD` that is neither a symbolic ref nor an oid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a HEAD: {0:?}")]
pub struct BadHead(pub String);

/// The inverse of [`head_file`]. `refs`, sorted, tell a branch from an unborn one.
pub fn parse_head_file(file: &[u8], refs: &[Ref]) -> Result<Head, BadHead> {
    let bad = || BadHead(clean_text(file, 100));
    let line = file.trim_ascii_end();
    if let Some(target) = line.strip_prefix(b"ref:") {
        let name = RefName::from_bytes(target.trim_ascii_start()).map_err(|_| bad())?;
        let known = find(refs, &name).is_some();
        return Ok(if known { Head::Branch(name) } else { Head::Unborn(name) });
    }
    Oid::from_hex(line).map(Head::Detached).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(name: &str) -> RefName {
        RefName::new(name).unwrap()
    }

    fn oid(byte: u8) -> Oid {
        Oid::from_bytes([byte; 20])
    }

    fn advertisement(names: &[&str], head: Head) -> Advertisement {
        let refs = names.iter().map(|n| Ref { name: name(n), oid: oid(1), peeled: None });
        Advertisement::of(refs.collect(), head)
    }

    fn filter(include: &[&str], exclude: &[&str]) -> RefFilter {
        let owned = |list: &[&str]| list.iter().map(|s| s.to_string()).collect::<Vec<_>>();
        RefFilter::new(&owned(include), &owned(exclude)).unwrap()
    }

    #[test]
    fn names_are_accepted_and_refused_as_git_check_ref_format_does() {
        for good in [
            "refs/heads/main",
            "refs/heads/a/b.c",
            "refs/heads/@",
            "refs/heads/ä-{}!\"#$%&'();<=>`|",
            "refs/heads/a.locks",
            "refs/x",
            "refs/heads/-x",
        ] {
            assert!(RefName::new(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "HEAD",
            "@",
            "refs",
            "refs/",
            "refs//a",
            "refs/a/",
            "/refs/a",
            "heads/main",
            "refs/a.",
            "refs/.a",
            "refs/a.lock",
            "refs/a.lock/b",
            "refs/a..b",
            "refs/a b",
            "refs/a\tb",
            "refs/a\nb",
            "refs/a\0",
            "refs/a\x7f",
            "refs/a~1",
            "refs/a^{}",
            "refs/a:b",
            "refs/a?",
            "refs/a*",
            "refs/a[b",
            "refs/a\\b",
            "refs/a@{1}",
            "refs/../a",
        ] {
            assert!(RefName::new(bad).is_err(), "{bad:?}");
        }
        assert!(RefName::from_bytes(b"refs/heads/\xff").is_err());
    }

    #[test]
    fn git_agrees_on_what_a_name_is() {
        let mut count = 0;
        for name in
            ["refs/a", "refs/a.lock", "refs/.a", "refs/a@{", "refs/a@", "refs/a.", "refs/{a}"]
        {
            let git = std::process::Command::new("git").args(["check-ref-format", name]).status();
            assert_eq!(RefName::new(name).is_ok(), git.unwrap().success(), "{name}");
            count += 1;
        }
        assert_eq!(count, 7);
    }

    #[test]
    fn filters_choose_by_full_name_and_exclusion_wins() {
        let table: &[(&[&str], &[&str], &str, bool)] = &[
            (&[], &[], "refs/heads/main", true),
            (&["refs/heads/*"], &[], "refs/heads/a/b", true),
            (&["refs/heads/*"], &[], "refs/tags/v1", false),
            (&["refs/heads/*", "refs/tags/*"], &[], "refs/tags/v1", true),
            (&["refs/heads/main"], &[], "refs/heads/main", true),
            (&["refs/heads/main"], &[], "refs/heads/main2", false),
            (&["refs/heads/main"], &[], "refs/heads/main/x", false),
            (&[], &["refs/pull/*"], "refs/pull/1/head", false),
            (&[], &["refs/pull/*"], "refs/heads/main", true),
            (&["refs/*"], &["refs/*/wip-*"], "refs/heads/a/wip-1", false),
            (&["refs/heads/*"], &["refs/heads/*"], "refs/heads/main", false),
            (&["refs/{heads,tags}/v?"], &[], "refs/tags/v1", true),
            (&["refs/heads/[ab]"], &[], "refs/heads/c", false),
            (&["*/main"], &[], "refs/heads/main", true),
            (&["re*"], &[], "refs/heads/main", true),
            (&["refs/heads/A"], &[], "refs/heads/a", false),
        ];
        for (include, exclude, ref_name, expected) in table {
            let filter = filter(include, exclude);
            assert_eq!(
                filter.matches(&name(ref_name)),
                *expected,
                "{include:?} {exclude:?} {ref_name}"
            );
        }
        assert!(RefFilter::default().matches(&name("refs/x")));
    }

    #[test]
    fn patterns_that_cannot_match_a_ref_are_refused() {
        for bad in ["main", "heads/*", "refs", "", "ref/*", "refs/heads/[", "refs/{a", "/refs/*"] {
            let error = RefFilter::new(&[bad.to_owned()], &[]).unwrap_err();
            assert_eq!(error.pattern, bad);
        }
        assert!(RefFilter::new(&[], &["main".to_owned()]).is_err());
    }

    #[test]
    fn a_head_whose_branch_is_left_out_moves_to_a_branch_that_is_left() {
        let all =
            ["refs/heads/a", "refs/heads/main", "refs/heads/master", "refs/heads/x", "refs/tags/t"];
        let head = || Head::Branch(name("refs/heads/x"));
        let cases: &[(&[&str], Head)] = &[
            (&[], head()),
            (&["refs/heads/x"], Head::Branch(name("refs/heads/main"))),
            (&["refs/heads/x", "refs/heads/main"], Head::Branch(name("refs/heads/master"))),
            (&["refs/heads/x", "refs/heads/ma*"], Head::Branch(name("refs/heads/a"))),
            (&["refs/heads/*"], Head::Unborn(name("refs/heads/x"))),
        ];
        for (exclude, expected) in cases {
            let left = filter(&[], exclude).apply(advertisement(&all, head()));
            assert_eq!(left.head, *expected, "{exclude:?}");
        }
        let unborn = Head::Unborn(name("refs/heads/x"));
        assert_eq!(
            filter(&[], &["refs/heads/*"]).apply(advertisement(&[], unborn.clone())).head,
            unborn
        );
    }

    #[test]
    fn a_detached_head_does_not_bring_back_what_was_left_out() {
        let all = ["refs/heads/a", "refs/tags/t"];
        let tip = advertisement(&all, Head::Detached(oid(1)));
        let elsewhere = advertisement(&all, Head::Detached(oid(9)));
        assert_eq!(RefFilter::default().apply(elsewhere.clone()), elsewhere);
        assert_eq!(filter(&[], &["refs/tags/*"]).apply(tip).head, Head::Detached(oid(1)));
        let heads = filter(&[], &["refs/tags/*"]).apply(elsewhere.clone());
        assert_eq!(heads.head, Head::Branch(name("refs/heads/a")));
        assert_eq!(filter(&["refs/tags/*"], &[]).apply(elsewhere).head, Head::Absent);
    }

    #[test]
    fn info_refs_is_written_as_git_writes_it() {
        let refs = [
            Ref { name: name("refs/heads/main"), oid: oid(0x11), peeled: None },
            Ref { name: name("refs/tags/v1"), oid: oid(0x22), peeled: Some(oid(0x11)) },
        ];
        let (one, two) = ("11".repeat(20), "22".repeat(20));
        let file =
            format!("{one}\trefs/heads/main\n{two}\trefs/tags/v1\n{one}\trefs/tags/v1^{{}}\n");
        assert_eq!(info_refs(&refs), file.as_bytes());
        assert_eq!(info_refs(&[]), b"");
        assert_eq!(parse_info_refs(b"").unwrap(), []);
    }

    #[test]
    fn a_file_info_refs_that_is_not_one_is_refused_with_its_line() {
        let one = "11".repeat(20);
        for (file, line) in [
            (format!("{one}\trefs/heads/a"), 1),
            (format!("{one} refs/heads/a\n"), 1),
            (format!("{one}\tHEAD\n"), 1),
            (format!("{one}\trefs/heads/a\n{one}\trefs/heads/b^{{}}\n"), 2),
            (format!("{one}\trefs/heads/a^{{}}\n"), 1),
            (format!("{one}\trefs/heads/a\n\n"), 2),
            (format!("{one}{one}\trefs/heads/a\n"), 1),
            ("<html>\n".to_owned(), 1),
            (format!("{one}\trefs/heads/a\n{one}\trefs/heads/a\n"), 0),
        ] {
            assert_eq!(parse_info_refs(file.as_bytes()).unwrap_err().line, line, "{file}");
        }
    }

    #[test]
    fn the_file_head_is_read_back_as_it_was_written() {
        let known = advertisement(&["refs/heads/a"], Head::Absent).refs;
        for head in [
            Head::Branch(name("refs/heads/a")),
            Head::Unborn(name("refs/heads/b")),
            Head::Detached(oid(3)),
        ] {
            let file = head_file(&head).unwrap();
            assert!(file.ends_with(b"\n"));
            assert_eq!(parse_head_file(&file, &known).unwrap(), head);
        }
        assert_eq!(head_file(&Head::Absent), None);
        for bad in ["", "ref: \n", "ref: HEAD\n", "refs/heads/a\n", "1234\n", "\u{1b}"] {
            assert!(parse_head_file(bad.as_bytes(), &known).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_a_server_sends_is_sorted_checked_and_joined() {
        let mut collector = Collector::default();
        collector.add(b"HEAD", oid(1), None).unwrap();
        collector.add(b"refs/tags/t", oid(2), None).unwrap();
        collector.add_peeled(b"refs/tags/t", oid(1)).unwrap();
        collector.add(b"refs/tags/t", oid(2), None).unwrap();
        collector.add(b"refs/heads/../x\x1b", oid(1), None).unwrap();
        collector.add_peeled(b"refs/heads/../x\x1b", oid(1)).unwrap();
        collector.add(b"refs/heads/a", oid(1), None).unwrap();
        collector.add(b"refs/heads/a", oid(1), None).unwrap();
        collector.add(b"refs/heads/b", oid(1), None).unwrap();
        let error = collector.add(b"refs/heads/b", oid(2), None).unwrap_err();
        assert!(matches!(error, ProtocolError::Contradiction(_)));
        collector.set_head_target(b"refs/heads/a");
        let Advertised { advertisement, skipped } = collector.finish();
        assert_eq!(advertisement.head, Head::Branch(name("refs/heads/a")));
        assert_eq!(advertisement.refs.last().unwrap().peeled, Some(oid(1)));
        assert!(advertisement.refs.is_sorted_by(|a, b| a.name < b.name));
        assert_eq!(skipped.names, ["refs/heads/../x"]);
        assert_eq!(advertisement.find(&name("refs/heads/a")).unwrap().oid, oid(1));
    }

    #[test]
    fn names_of_another_format_than_the_announced_one_are_refused() {
        for format in ObjectFormat::ALL {
            let other = ObjectFormat::ALL.into_iter().find(|other| *other != format).unwrap();
            let (right, wrong) = (format.null(), other.null());
            let mut collector = Collector::new(format);
            collector.add(b"refs/tags/a", right, Some(right)).unwrap();
            assert!(collector.add(b"refs/tags/b", wrong, None).is_err());
            assert!(collector.add(b"refs/tags/b", right, Some(wrong)).is_err());
            assert!(collector.add(b"HEAD", wrong, None).is_err());
            assert!(collector.add_peeled(b"refs/tags/a", wrong).is_err());
            assert_eq!(collector.finish().advertisement.format, format);
        }
    }

    #[test]
    fn a_head_with_a_hidden_or_bad_target_is_detached() {
        for target in [&b"refs/heads/hidden"[..], b"nonsense"] {
            let mut collector = Collector::default();
            collector.add(b"HEAD", oid(1), None).unwrap();
            collector.set_head_target(target);
            assert_eq!(collector.finish().advertisement.head, Head::Detached(oid(1)));
        }
    }

    prop_compose! {
        fn any_refs()(map in proptest::collection::btree_map(
            "refs/[a-z/.@-]{1,12}", (any::<[u8; 32]>(), any::<Option<[u8; 32]>>()), 0..20),
            format in proptest::sample::select(&ObjectFormat::ALL[..])) -> Vec<Ref> {
            let as_oid = |bytes: [u8; 32]| format.split_oid(&bytes).unwrap().0;
            map.into_iter().filter_map(|(name, (oid, peeled))| Some(Ref {
                name: RefName::new(name).ok()?,
                oid: as_oid(oid),
                peeled: peeled.map(as_oid),
            })).collect()
        }
    }

    proptest! {
        #[test]
        fn info_refs_is_read_back_as_it_was_written(refs in any_refs()) {
            prop_assert_eq!(parse_info_refs(&info_refs(&refs)).unwrap(), refs);
        }

        #[test]
        fn no_bytes_make_the_parsers_panic(bytes: Vec<u8>) {
            let _ = (parse_info_refs(&bytes), parse_head_file(&bytes, &[]), RefName::from_bytes(&bytes));
        }
    }
}
