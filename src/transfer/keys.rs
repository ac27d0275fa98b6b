//! What a mirror consists of, in a small file: JSON lines.
//!
//! Two files have this form. The *state* of a mirror tells an exporter far away what the mirror has; the
//! list inside a trip tells the importer what is on board, and what must be there already. The first
//! line names the format and its version; then come loose objects, a line for each folder, the listed
//! packs in their order, and LFS objects by folder; the last line is the SHA-256 of all before it. Names
//! are in base64 without the folder's digits: 26 bytes an object, 42 an LFS object. A reader refuses
//! what it does not know.

use std::io::{self, Read};

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::git::object::{ObjectFormat, Oid};
use crate::git::oids::OidList;
use crate::repository::packs;

const STATE: &str = "mirror-git-to-s3 state";
const TRIP: &str = "mirror-git-to-s3 trip";
const VERSION: u32 = 1;

/// Which of the two files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    State,
    Trip,
}

impl Form {
    fn name(self) -> &'static str {
        match self {
            Form::State => STATE,
            Form::Trip => TRIP,
        }
    }
}

/// Keys by their names: objects and LFS objects in ascending order, packs in the order of their list.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Keys {
    pub(super) loose: OidList,
    pub(super) packs: Vec<Oid>,
    pub(super) lfs: Vec<[u8; 32]>,
}

impl Keys {
    /// What they take in memory.
    pub(super) fn bytes(&self) -> u64 {
        let names = self.loose.memory_bytes() + size_of::<Oid>() * self.packs.len();
        (names + 32 * self.lfs.len()) as u64
    }
}

/// A whole file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct KeyFile {
    /// The URL of the repository, if it is known.
    pub(super) repository: Option<String>,
    /// What its objects are named with.
    pub(super) format: ObjectFormat,
    /// In a state, all; in a trip, what must be there.
    pub(super) there: Keys,
    /// What a trip has on board.
    pub(super) aboard: Keys,
    /// All packs in the order in which they are listed; of both kinds.
    pub(super) packs: Vec<Oid>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct First {
    format: String,
    version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    repository: Option<String>,
    /// As git writes it; of SHA-1 nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    object_format: Option<String>,
}

/// Any other line.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
enum Line {
    Loose(Folder),
    Pack(Pack),
    Lfs(Folder),
    End(String),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Folder {
    /// Two hexadecimal digits.
    folder: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    there: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    aboard: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pack {
    name: String,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    aboard: bool,
}

/// What is wrong with a file, in words.
type Bad = String;

/// Writes a file.
pub(super) fn write(form: Form, file: &KeyFile) -> Vec<u8> {
    let mut out = Vec::new();
    let repository = file.repository.clone();
    let is_sha1 = file.format == ObjectFormat::Sha1;
    let object_format = (!is_sha1).then(|| file.format.to_string());
    let first =
        First { format: form.name().to_owned(), version: VERSION, repository, object_format };
    line(&mut out, &first);
    let (there, aboard) = (&file.there.loose, &file.aboard.loose);
    let loose = match file.format {
        ObjectFormat::Sha1 => folders(&names_of(there.sha1()), &names_of(aboard.sha1())),
        ObjectFormat::Sha256 => folders(&names_of(there.sha256()), &names_of(aboard.sha256())),
    };
    loose.into_iter().for_each(|folder| line(&mut out, &Line::Loose(folder)));
    for pack in &file.packs {
        let aboard = file.aboard.packs.contains(pack);
        line(&mut out, &Line::Pack(Pack { name: format!("pack-{pack}"), aboard }));
    }
    for folder in folders(&file.there.lfs, &file.aboard.lfs) {
        line(&mut out, &Line::Lfs(folder));
    }
    let sum = hex(&Sha256::digest(&out));
    line(&mut out, &Line::End(sum));
    out
}

fn line(out: &mut Vec<u8>, value: &impl Serialize) {
    serde_json::to_writer(&mut *out, value).expect("strings and numbers are always JSON");
    out.push(b'\n');
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn names_of<const N: usize>(names: impl Iterator<Item = [u8; N]>) -> Vec<[u8; N]> {
    names.collect()
}

/// The folders that have names in either list.
fn folders<const N: usize>(there: &[[u8; N]], aboard: &[[u8; N]]) -> Vec<Folder> {
    let of = |names: &[[u8; N]], first: u8| {
        let begin = names.partition_point(|name| name[0] < first);
        let end = names.partition_point(|name| name[0] <= first);
        let tails: Vec<u8> =
            names[begin..end].iter().flat_map(|name| &name[1..]).copied().collect();
        STANDARD_NO_PAD.encode(tails)
    };
    let folder = |first: u8| Folder {
        folder: format!("{first:02x}"),
        there: of(there, first),
        aboard: of(aboard, first),
    };
    let is_used = |folder: &Folder| !folder.there.is_empty() || !folder.aboard.is_empty();
    (0..=255).map(folder).filter(is_used).collect()
}

/// Reads a file of up to `max_bytes`.
pub(super) fn read(form: Form, input: impl Read, max_bytes: u64) -> Result<KeyFile, Bad> {
    let mut text = Vec::new();
    let read = input.take(max_bytes.saturating_add(1)).read_to_end(&mut text);
    read.map_err(|error: io::Error| error.to_string())?;
    if text.len() as u64 > max_bytes {
        return Err(format!("it has more than {max_bytes} bytes: raise --memory"));
    }
    parse(form, &text)
}

fn parse(form: Form, text: &[u8]) -> Result<KeyFile, Bad> {
    let first = text.split_inclusive(|byte| *byte == b'\n').next().unwrap_or_default();
    let First { format, version, repository, object_format } =
        serde_json::from_slice(first).map_err(|_| format!("it is not {}", form.name()))?;
    if format != form.name() {
        return Err(format!("it is not {}", form.name()));
    }
    if version != VERSION {
        return Err(format!("it has version {version}, but this program supports only {VERSION}"));
    }
    let object_format = match object_format {
        None => ObjectFormat::Sha1,
        Some(name) => ObjectFormat::from_name(name.as_bytes())
            .ok_or_else(|| format!("its object format {name:?} is not known"))?,
    };
    let mut file = KeyFile { repository, format: object_format, ..KeyFile::default() };
    let mut at = first.len();
    for line in text[first.len()..].split_inclusive(|byte| *byte == b'\n') {
        let is_whole = line.ends_with(b"\n");
        let parsed: Line = serde_json::from_slice(line)
            .ok()
            .filter(|_| is_whole)
            .ok_or_else(|| format!("it is damaged at byte {at}"))?;
        if let Line::End(sum) = parsed {
            let is_last = at + line.len() == text.len();
            return match is_last && sum == hex(&Sha256::digest(&text[..at])) {
                true => Ok(file),
                false => Err("its checksum is wrong".into()),
            };
        }
        take(form, &mut file, parsed).ok_or_else(|| format!("it is damaged at byte {at}"))?;
        at += line.len();
    }
    Err("it is truncated".into())
}

fn take(form: Form, file: &mut KeyFile, line: Line) -> Option<()> {
    match line {
        Line::Loose(folder) => match file.format {
            ObjectFormat::Sha1 => loose::<20>(form, file, &folder),
            ObjectFormat::Sha256 => loose::<32>(form, file, &folder),
        },
        Line::Lfs(folder) => {
            let mut there = Vec::new();
            let mut aboard = Vec::new();
            names::<32>(form, &folder, &mut there, &mut aboard)?;
            extend(&mut file.there.lfs, there.into_iter())?;
            extend(&mut file.aboard.lfs, aboard.into_iter())
        }
        Line::Pack(Pack { name, aboard }) => {
            let list = packs::parse_pack_list(format!("P {name}.pack\n").as_bytes()).ok()?;
            let oid = Oid::from_hex(list.first()?.strip_prefix("pack-")?.as_bytes())?;
            let is_known = file.packs.contains(&oid) || oid.format() != file.format;
            if is_known || (form == Form::State && aboard) {
                return None;
            }
            file.packs.push(oid);
            if aboard { &mut file.aboard } else { &mut file.there }.packs.push(oid);
            Some(())
        }
        Line::End(_) => None,
    }
}

/// Takes a folder of loose objects, whose names have `N` bytes.
fn loose<const N: usize>(form: Form, file: &mut KeyFile, folder: &Folder) -> Option<()>
where
    Oid: From<[u8; N]>,
{
    let (mut there, mut aboard) = (Vec::new(), Vec::new());
    names::<N>(form, folder, &mut there, &mut aboard)?;
    for (list, names) in [(&mut file.there.loose, there), (&mut file.aboard.loose, aboard)] {
        for name in names {
            list.push_ascending(&Oid::from_bytes(name))?;
        }
    }
    Some(())
}

fn names<const N: usize>(
    form: Form,
    folder: &Folder,
    there: &mut Vec<[u8; N]>,
    aboard: &mut Vec<[u8; N]>,
) -> Option<()> {
    if form == Form::State && !folder.aboard.is_empty() {
        return None;
    }
    let first = first_byte(&folder.folder)?;
    for (text, names) in [(&folder.there, there), (&folder.aboard, aboard)] {
        let tails = STANDARD_NO_PAD.decode(text).ok()?;
        let tails = tails.chunks(N - 1);
        for tail in tails {
            let mut name = [first; N];
            if tail.len() != N - 1 {
                return None;
            }
            name[1..].copy_from_slice(tail);
            names.push(name);
        }
    }
    Some(())
}

fn first_byte(digits: &str) -> Option<u8> {
    let is_hex = |c: u8| matches!(c, b'0'..=b'9' | b'a'..=b'f');
    let sound = digits.len() == 2 && digits.bytes().all(is_hex);
    sound.then(|| u8::from_str_radix(digits, 16).ok()).flatten()
}

/// Adds names that must be in ascending order.
fn extend<T: Ord>(names: &mut Vec<T>, more: impl Iterator<Item = T>) -> Option<()> {
    for name in more {
        if names.last().is_some_and(|last| *last >= name) {
            return None;
        }
        names.push(name);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(oids: &[Oid]) -> OidList {
        let mut list = OidList::default();
        oids.iter().for_each(|oid| list.push(oid));
        list
    }

    fn file(format: ObjectFormat) -> KeyFile {
        let lfs = |first: u8| [first; 32];
        let oid = |first: u8, last: u8| {
            let mut bytes = vec![7; format.raw_len()];
            (bytes[0], *bytes.last_mut().unwrap()) = (first, last);
            Oid::from_slice(&bytes).unwrap()
        };
        KeyFile {
            repository: Some("https://h/r".into()),
            format,
            there: Keys {
                loose: list(&[oid(0, 1), oid(0, 2), oid(255, 0)]),
                packs: vec![oid(9, 9)],
                lfs: vec![lfs(3)],
            },
            aboard: Keys {
                loose: list(&[oid(0, 3), oid(17, 0)]),
                packs: vec![oid(8, 8)],
                lfs: vec![lfs(2), lfs(4)],
            },
            packs: vec![oid(9, 9), oid(8, 8)],
        }
    }

    fn state(format: ObjectFormat) -> KeyFile {
        let KeyFile { repository, there, .. } = file(format);
        KeyFile { repository, format, packs: there.packs.clone(), there, aboard: Keys::default() }
    }

    #[test]
    fn what_is_written_is_read_again() {
        for format in ObjectFormat::ALL {
            let text = write(Form::Trip, &file(format));
            assert_eq!(read(Form::Trip, &text[..], 1 << 20), Ok(file(format)));
            let text = write(Form::State, &state(format));
            assert_eq!(read(Form::State, &text[..], 1 << 20), Ok(state(format)));
            assert!(text.starts_with(b"{\"format\":\"mirror-git-to-s3 state\",\"version\":1,"));
            assert!(read(Form::State, &text[..], 100).unwrap_err().contains("--memory"));
            // An older program reads what it can, and refuses what it can't.
            let says_format = String::from_utf8_lossy(&text).contains("\"object_format\"");
            assert_eq!(says_format, format != ObjectFormat::Sha1);
        }
    }

    #[test]
    fn cut_or_changed_file_is_refused_everywhere() {
        let text = write(Form::Trip, &file(ObjectFormat::Sha256));
        for at in 0..text.len() {
            assert!(parse(Form::Trip, &text[..at]).is_err(), "{at}");
            let mut changed = text.clone();
            changed[at] ^= 1;
            assert!(parse(Form::Trip, &changed).is_err(), "{at}");
        }
        let more = [&text[..], b"x"].concat();
        assert!(parse(Form::Trip, &more).is_err());
    }

    /// Whoever makes the checksum fit, too.
    #[test]
    fn lines_that_no_mirror_has_are_refused() {
        let head = |form: Form| format!("{{\"format\":\"{}\",\"version\":1}}\n", form.name());
        let with = |form: Form, lines: &str| {
            let mut text = format!("{}{lines}", head(form)).into_bytes();
            let sum = hex(&Sha256::digest(&text));
            line(&mut text, &Line::End(sum));
            parse(form, &text)
        };
        assert_eq!(with(Form::Trip, ""), Ok(KeyFile::default()));
        let name = "A".repeat(26) + "A";
        let tail = STANDARD_NO_PAD.encode([0; 19]);
        for lines in [
            format!("{{\"loose\":{{\"folder\":\"0x\",\"there\":\"{tail}\"}}}}\n"),
            format!("{{\"loose\":{{\"folder\":\"..\",\"there\":\"{tail}\"}}}}\n"),
            format!("{{\"loose\":{{\"folder\":\"00\",\"there\":\"{name}\"}}}}\n"),
            format!("{{\"loose\":{{\"folder\":\"00\",\"there\":\"{tail}{tail}\"}}}}\n"),
            format!("{{\"loose\":{{\"folder\":\"00\",\"there\":\"{tail}\"}}}}\n").repeat(2),
            "{\"pack\":{\"name\":\"pack-../../HEAD\"}}\n".to_owned(),
            format!("{{\"pack\":{{\"name\":\"pack-{}\"}}}}\n", "0".repeat(40)).repeat(2),
            "{\"more\":1}\n".to_owned(),
            "null\n".to_owned(),
        ] {
            assert!(with(Form::Trip, &lines).is_err(), "{lines}");
        }
        let aboard = format!("{{\"loose\":{{\"folder\":\"00\",\"aboard\":\"{tail}\"}}}}\n");
        assert!(with(Form::Trip, &aboard).is_ok());
        assert!(with(Form::State, &aboard).is_err());
        let newer = head(Form::Trip).replace('1', "2");
        assert!(parse(Form::Trip, newer.as_bytes()).unwrap_err().contains("version 2"));
        assert!(parse(Form::State, head(Form::Trip).as_bytes()).is_err());
    }
}
