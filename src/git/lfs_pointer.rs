//! Git LFS: pointers in blobs, and the endpoint in `.lfsconfig`.
//!
//! A pointer is a small text that stands for a large file
//! (<https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md>). It is parsed strictly, as the
//! specification writes it: what does not parse is an ordinary blob, and a blob that happens to look
//! similar must not make the mirror ask for an object that nobody has.

use std::fmt;

/// A blob of this many bytes or more is no pointer (the specification's limit).
pub const MAX_POINTER_LEN: usize = 1024;

/// A pointer: which LFS object, and how long it is.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct LfsPointer {
    /// The SHA-256 of the object's bytes.
    pub oid: [u8; 32],
    /// The object's length in bytes.
    pub size: u64,
}

impl LfsPointer {
    /// Parses a blob: the version line, then `key value` lines sorted by key, among them `oid` and
    /// `size`; every line ends in a line feed. None: it is no pointer.
    pub fn parse(blob: &[u8]) -> Option<LfsPointer> {
        const VERSION: &str = "version https://git-lfs.github.com/spec/v1\n";
        // The length and the first bytes turn nearly every blob away without looking at the rest.
        if blob.len() >= MAX_POINTER_LEN || !blob.starts_with(VERSION.as_bytes()) {
            return None;
        }
        let lines = std::str::from_utf8(&blob[VERSION.len()..]).ok()?.strip_suffix('\n')?;
        let (mut oid, mut size, mut last) = (None, None, "");
        for line in lines.split('\n') {
            let (key, value) = line.split_once(' ')?;
            if !is_key(key) || key <= last || value.is_empty() || value.contains(char::is_control) {
                return None;
            }
            match key {
                "oid" => oid = Some(sha256(value.strip_prefix("sha256:")?)?),
                "size" => size = Some(decimal(value)?),
                _ => {}
            }
            last = key;
        }
        Some(LfsPointer { oid: oid?, size: size? })
    }

    /// The oid as 64 hexadecimal digits.
    pub fn hex(&self) -> String {
        self.oid.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Debug for LfsPointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LfsPointer({}, {} bytes)", self.hex(), self.size)
    }
}

/// Keys are made of `[a-z] [0-9] . -`.
fn is_key(key: &str) -> bool {
    let fits = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-');
    !key.is_empty() && key.bytes().all(fits)
}

/// Parses 64 hexadecimal digits in lower case, as LFS writes a SHA-256.
pub fn sha256(hex: &str) -> Option<[u8; 32]> {
    let hex: &[u8; 64] = hex.as_bytes().try_into().ok()?;
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut oid = [0; 32];
    for (byte, pair) in oid.iter_mut().zip(hex.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(oid)
}

/// A number without sign and without leading zeros.
fn decimal(text: &str) -> Option<u64> {
    let plain = text == "0" || !text.starts_with('0');
    if !plain || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

/// `lfs.url` out of a `.lfsconfig`, which has the form of git-config(1). The last one counts.
///
/// Read: the section `[lfs]`, `url = value`, comments, values in double quotes with `\"` and `\\`.
/// Not read: includes, values over several lines, `remote.<name>.lfsurl`. A file that is not UTF-8
/// has none.
pub fn lfs_url(lfsconfig: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(lfsconfig).ok()?;
    let (mut inside, mut found) = (false, None);
    for line in text.lines().map(str::trim) {
        if let Some(section) = line.strip_prefix('[') {
            // Git allows a variable on the section's own line; nobody writes that here.
            let name = section.split(']').next().unwrap_or_default();
            inside = name.trim().eq_ignore_ascii_case("lfs");
        } else if inside
            && let Some((name, value)) = line.split_once('=')
            && name.trim().eq_ignore_ascii_case("url")
        {
            found = config_value(value.trim());
        }
    }
    found.filter(|url| !url.is_empty())
}

/// A value without quotes and comments; None if it continues in the next line or a quote is not closed.
fn config_value(text: &str) -> Option<String> {
    let (mut value, mut quoted) = (String::new(), false);
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => quoted = !quoted,
            '\\' => match chars.next()? {
                c @ ('"' | '\\') => value.push(c),
                _ => return None,
            },
            '#' | ';' if !quoted => break,
            c => value.push(c),
        }
    }
    if quoted { None } else { Some(value.trim_end().to_owned()) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEX: &str = "4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393";

    fn pointer() -> String {
        format!("version https://git-lfs.github.com/spec/v1\noid sha256:{HEX}\nsize 12345\n")
    }

    #[test]
    fn a_pointer_as_the_specification_shows_it_is_read() {
        let parsed = LfsPointer::parse(pointer().as_bytes()).unwrap();
        assert_eq!((parsed.hex().as_str(), parsed.size), (HEX, 12345));
        let extended = pointer().replace("oid", &format!("ext-0-foo sha256:{HEX}\noid"));
        assert_eq!(LfsPointer::parse(extended.as_bytes()), Some(parsed));
    }

    #[test]
    fn what_is_not_exactly_a_pointer_is_a_blob() {
        let good = pointer();
        for bad in [
            String::new(),
            good.trim_end().to_owned(),
            format!("{good}\n"),
            good.replace('\n', "\r\n"),
            good.replace("v1", "v2"),
            good.replace("sha256", "sha1"),
            good.replace("4d7a", "4D7A"),
            good.replace("4d7a", "4d7"),
            good.replace("12345", "012"),
            good.replace("12345", "-1"),
            good.replace("12345", "+1"),
            good.replace("12345", "18446744073709551616"),
            good.replace("12345", ""),
            good.replace("size 12345\n", ""),
            good.replace("size", "Size"),
            good.replace("size 12345\n", "size 12345\nsize 12345\n"),
            good.replace("size 12345\n", "a b\nsize 12345\n"),
            format!("{good}x {}\n", "y".repeat(MAX_POINTER_LEN)),
            format!(" {good}"),
        ] {
            assert_eq!(LfsPointer::parse(bad.as_bytes()), None, "{bad:?}");
        }
        let largest = format!("{good}x {}\n", "y".repeat(1023 - good.len() - 3));
        assert_eq!(largest.len(), 1023);
        assert!(LfsPointer::parse(largest.as_bytes()).is_some());
    }

    #[test]
    fn the_endpoint_is_found_in_its_section() {
        let url = |text: &str| lfs_url(text.as_bytes());
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(url("[lfs]\n\turl = https://h/x\n"), some("https://h/x"));
        assert_eq!(url("# c\n[ LFS ]\n URL=\"https://h/x#y\" ; c\n"), some("https://h/x#y"));
        assert_eq!(url("[lfs]\nurl = a\n[other]\nurl = b\n[lfs]\nurl = c # d\n"), some("c"));
        for none in [
            "",
            "url = x",
            "[lfs \"x\"]\nurl = y",
            "[lfs]\nlocksverify = true",
            "[lfs]\nurl =",
            "[lfs]\nurl = \"x",
            "[lfs]\nurl = x\\",
            "[lfs]\nurl = a\\nb",
        ] {
            assert_eq!(url(none), None, "{none}");
        }
        assert_eq!(lfs_url(b"[lfs]\nurl = \xff"), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parsers_panic(bytes: Vec<u8>, text: String) {
            let version = b"version https://git-lfs.github.com/spec/v1\n";
            let _ = (LfsPointer::parse(&[version, &bytes[..]].concat()), lfs_url(&bytes));
            let _ = lfs_url(format!("[lfs]\nurl = {text}").as_bytes());
        }
    }
}
