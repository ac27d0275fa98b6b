//! The header of a bundle, a repository in one file (gitformat-bundle(5), versions 2 and 3).
//!
//! A bundle has refs, perhaps prerequisites (commits that the reader must have already), and a pack.
//! [`read_header`] stops right before `PACK`.

use std::io::{self, BufRead, Read};

use crate::git::object::{ObjectFormat, Oid};
use crate::git::pkt_line::clean_text;
use crate::git::protocol::{ProtocolError, object_format};
use crate::git::refs::{Advertised, Advertisement, Collector, Head};

/// The longest line: an oid and a ref's name, or a prerequisite's comment.
const MAX_LINE_LEN: u64 = 64 << 10;

/// What a bundle says before its pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BundleHeader {
    /// Its refs. A bundle has no `^{}` lines: what a tag peels to is not known, [`None`] for all. Of
    /// HEAD it gives the oid alone: HEAD is then a branch with the same oid, `main` and `master`
    /// before others (as git-clone(1) guesses), and detached if there is none.
    pub advertised: Advertised,
    /// Commits that the reader must have. A bundle with any may hold a thin pack.
    pub prerequisites: Vec<Oid>,
}

/// Why a bundle can't be read.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// The stream failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is no bundle of a known version.
    #[error("not a git bundle of version 2 or 3")]
    Signature,
    /// It ends before its pack.
    #[error("the bundle ends inside its header")]
    Truncated,
    /// A bundle of a partial clone.
    #[error("the bundle is partial (filter {0:?}); only complete bundles can be mirrored")]
    Filter(String),
    /// A capability that must be understood and is not.
    #[error("the bundle requires the unknown capability {0:?}")]
    Capability(String),
    /// A header that is too long for the memory.
    #[error("the bundle's header has more than {0} bytes: more than --memory allows; raise it")]
    TooLong(u64),
    /// A line that is none of the header's.
    #[error("not a bundle header line: {0:?}")]
    Line(String),
    /// SHA-256, or a ref that is there twice.
    #[error(transparent)]
    Refs(#[from] ProtocolError),
}

/// Reads the header, which has no more than `max_bytes`
/// ([`max_refs_bytes`](crate::git::refs::max_refs_bytes)); what is left of `input` begins with `PACK`.
pub fn read_header(input: &mut impl BufRead, max_bytes: u64) -> Result<BundleHeader, BundleError> {
    let capabilities = match &read_line(input)?[..] {
        b"# v2 git bundle" => false,
        b"# v3 git bundle" => true,
        _ => return Err(BundleError::Signature),
    };
    let (mut refs, mut prerequisites) = (Collector::default(), Vec::new());
    let mut left = max_bytes;
    loop {
        let line = read_line(input)?;
        left = left.checked_sub(line.len() as u64 + 1).ok_or(BundleError::TooLong(max_bytes))?;
        let malformed = || BundleError::Line(clean_text(&line, 100));
        match &line[..] {
            [] => break,
            [b'@', capability @ ..] if capabilities => read_capability(capability, &mut refs)?,
            [b'-', rest @ ..] => {
                let oid = rest.split(|&byte| byte == b' ').next().and_then(Oid::from_hex);
                prerequisites.push(refs.check(oid.ok_or_else(malformed)?)?);
            }
            _ => {
                let (oid, name) = Oid::split_hex(&line, b' ').ok_or_else(malformed)?;
                refs.add(name, oid, None)?;
            }
        }
    }
    let mut advertised = refs.finish();
    name_head(&mut advertised.advertisement);
    Ok(BundleHeader { advertised, prerequisites })
}

/// A header of version 2, up to the pack: what the reader must have, and the refs (`HEAD` among them).
pub fn write_header<'n>(
    format: ObjectFormat,
    prerequisites: impl IntoIterator<Item = &'n Oid>,
    refs: &[(Oid, &str)],
) -> Vec<u8> {
    // As git writes it (`write_bundle_header` in its `bundle.c`).
    let mut header = match format {
        ObjectFormat::Sha1 => b"# v2 git bundle\n".to_vec(),
        other => format!("# v3 git bundle\n@object-format={other}\n").into_bytes(),
    };
    for oid in prerequisites {
        header.extend(format!("-{oid}\n").into_bytes());
    }
    for (oid, name) in refs {
        header.extend(format!("{oid} {name}\n").into_bytes());
    }
    header.push(b'\n');
    header
}

/// A line without its line feed.
fn read_line(input: &mut impl BufRead) -> Result<Vec<u8>, BundleError> {
    let mut line = Vec::new();
    input.by_ref().take(MAX_LINE_LEN).read_until(b'\n', &mut line)?;
    match line.pop() {
        Some(b'\n') => Ok(line),
        Some(_) if line.len() as u64 + 1 >= MAX_LINE_LEN => {
            Err(BundleError::Line(clean_text(&line, 100)))
        }
        _ => Err(BundleError::Truncated),
    }
}

fn read_capability(capability: &[u8], refs: &mut Collector) -> Result<(), BundleError> {
    let value = |prefix: &[u8]| capability.strip_prefix(prefix).map(|v| clean_text(v, 60));
    if let Some(format) = capability.strip_prefix(b"object-format=") {
        refs.set_format(object_format(format)?);
        return Ok(());
    }
    match value(b"filter=") {
        Some(filter) => Err(BundleError::Filter(filter)),
        None => Err(BundleError::Capability(clean_text(capability, 60))),
    }
}

/// Finds the branch that HEAD may have named.
fn name_head(advertisement: &mut Advertisement) {
    let Head::Detached(oid) = advertisement.head else { return };
    let branches = || {
        let refs = advertisement.refs.iter().filter(|r| r.name.is_branch() && r.oid == oid);
        refs.map(|r| &r.name)
    };
    let usual = |name: &str| branches().find(|branch| branch.as_str() == name);
    let found = usual("refs/heads/main").or_else(|| usual("refs/heads/master"));
    if let Some(branch) = found.or_else(|| branches().next()).cloned() {
        advertisement.head = Head::Branch(branch);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::git::refs::RefName;

    const ONE: &str = "1111111111111111111111111111111111111111";
    const TWO: &str = "2222222222222222222222222222222222222222";

    fn read(text: &str) -> Result<BundleHeader, BundleError> {
        read_header(&mut text.as_bytes(), u64::MAX)
    }

    fn head(lines: &str) -> Head {
        read(&format!("# v2 git bundle\n{lines}\n")).unwrap().advertised.advertisement.head
    }

    #[test]
    fn header_is_no_longer_than_it_may_be() {
        for line in [format!("{ONE} refs/heads/a\n"), format!("-{ONE} why\n")] {
            let text = format!("# v2 git bundle\n{}\n", line.repeat(10));
            let len = 10 * line.len() as u64 + 1;
            assert!(read_header(&mut text.as_bytes(), len).is_ok());
            let error = read_header(&mut text.as_bytes(), len - 1).unwrap_err();
            assert!(matches!(error, BundleError::TooLong(_)), "{error}");
        }
    }

    #[test]
    fn a_header_is_read_up_to_the_pack() {
        let text = format!(
            "# v3 git bundle\n@object-format=sha1\n-{TWO} why\n-{ONE}\n{ONE} refs/heads/a\n{TWO} refs/tags/t\n\nPACK"
        );
        let mut input = text.as_bytes();
        let header = read_header(&mut input, u64::MAX).unwrap();
        assert_eq!(input, b"PACK");
        assert_eq!(header.prerequisites, [TWO.parse().unwrap(), ONE.parse().unwrap()]);
        assert_eq!(header.advertised.advertisement.refs.len(), 2);
        for cut in 0..text.len() - 4 {
            assert!(matches!(read(&text[..cut]), Err(BundleError::Truncated)), "{cut}");
        }
    }

    #[test]
    fn a_header_is_read_as_it_was_written() {
        for format in ObjectFormat::ALL {
            header_is_read_as_written(format);
        }
    }

    fn header_is_read_as_written(format: ObjectFormat) {
        let oid = |digit: &str| digit.repeat(format.hex_len()).parse().unwrap();
        let (one, two): (Oid, Oid) = (oid("1"), oid("2"));
        let refs = [(one, "HEAD"), (one, "refs/heads/main"), (two, "refs/tags/t")];
        let text = write_header(format, &[two, one], &refs);
        let header = read_header(&mut &text[..], u64::MAX).unwrap();
        assert_eq!(header.prerequisites, [two, one]);
        assert_eq!(header.advertised.advertisement.format, format);
        let Advertisement { refs, head, .. } = header.advertised.advertisement;
        assert_eq!(head, Head::Branch(RefName::new("refs/heads/main").unwrap()));
        assert_eq!(refs.iter().map(|r| r.oid).collect::<Vec<_>>(), [one, two]);
    }

    #[test]
    fn head_is_the_branch_that_git_clone_would_choose() {
        let branch = |name: &str| Head::Branch(RefName::new(name).unwrap());
        let lines = format!("{ONE} refs/heads/a\n{ONE} refs/heads/main\n{TWO} refs/heads/b\n");
        assert_eq!(head(&format!("{lines}{ONE} HEAD\n")), branch("refs/heads/main"));
        assert_eq!(head(&format!("{lines}{TWO} HEAD\n")), branch("refs/heads/b"));
        let none = Oid::from_bytes([0x33; 20]);
        assert_eq!(head(&format!("{lines}{none} HEAD\n")), Head::Detached(none));
        assert_eq!(head(&lines), Head::Absent);
    }

    #[test]
    fn what_cannot_be_mirrored_is_refused() {
        let v3 = |line: &str| read(&format!("# v3 git bundle\n{line}\n\n")).unwrap_err();
        assert!(matches!(v3("@filter=blob:none"), BundleError::Filter(_)));
        assert!(matches!(v3("@future"), BundleError::Capability(_)));
        let future = v3("@object-format=sha512");
        assert!(matches!(future, BundleError::Refs(ProtocolError::ObjectFormat(_))));
        for line in [format!("{ONE} refs/heads/a"), format!("-{ONE}")] {
            let mixed = v3(&format!("@object-format=sha256\n{line}"));
            assert!(matches!(mixed, BundleError::Refs(ProtocolError::OtherFormat { .. })));
        }
        for line in ["x", "-x", ONE, &"x".repeat(70_000)] {
            assert!(matches!(v3(line), BundleError::Line(_)), "{}", line.len());
        }
        let v2 = read("# v2 git bundle\n@object-format=sha1\n\n");
        assert!(matches!(v2, Err(BundleError::Line(_))));
        assert!(matches!(read("# v4 git bundle\n"), Err(BundleError::Signature)));
        assert!(matches!(read("PACK\n"), Err(BundleError::Signature)));
    }
}
