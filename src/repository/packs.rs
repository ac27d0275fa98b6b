//! The names of packs: their keys, and the list of them that dumb readers ask for.

use crate::git::object::{ObjectFormat, Oid};
use crate::store::{Key, ObjectHeaders};

/// As git's own http-backend serves them (`http-backend.c`, `get_pack_file`, `get_idx_file`).
pub(crate) const PACK: ObjectHeaders = ObjectHeaders::immutable("application/x-git-packed-objects");
pub(crate) const INDEX: ObjectHeaders =
    ObjectHeaders::immutable("application/x-git-packed-objects-toc");

/// A list of packs is no longer: 80,000 of them, of which runs keep `--max-packs`.
pub(crate) const MAX_LIST_BYTES: u64 = 4 << 20;

/// A pack that is stored with its index: `pack-<40 or 64 hex>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoredPack {
    pub(crate) name: String,
    pub(crate) objects: u64,
    pub(crate) bytes: u64,
}

/// The trailer that the name `pack-<hex>` says.
pub(crate) fn trailer_of(name: &str) -> Option<Oid> {
    name.strip_prefix("pack-").and_then(|hex| Oid::from_hex(hex.as_bytes()))
}

/// The format of a pack's names, by the length of its own.
pub(crate) fn format_of(name: &str) -> ObjectFormat {
    trailer_of(name).map_or_else(ObjectFormat::default, |trailer| trailer.format())
}

/// `objects/pack/<name>.<extension>`.
pub(crate) fn key(name: &str, extension: &str) -> Key {
    Key::new(format!("objects/pack/{name}.{extension}")).expect("hexadecimal digits")
}

/// The file `objects/info/packs`: a line `P <name>.pack` a pack, and an empty line (git's
/// `server-info.c`).
pub(crate) fn list_file(names: &[String]) -> Vec<u8> {
    let mut file: String = names.iter().map(|name| format!("P {name}.pack\n")).collect();
    file.push('\n');
    file.into_bytes()
}

/// The names in `objects/info/packs`: `P pack-<hex>.pack` lines and empty ones
/// (gitrepository-layout(5)). `Err`: the line that is neither.
pub(crate) fn parse_pack_list(file: &[u8]) -> Result<Vec<String>, String> {
    let mut names = Vec::new();
    for line in file.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let name = line.strip_prefix(b"P ").and_then(|name| name.strip_suffix(b".pack"));
        let name = name.and_then(|name| std::str::from_utf8(name).ok());
        match name.and_then(trailer_of) {
            Some(trailer) => names.push(format!("pack-{trailer}")),
            None => return Err(crate::git::pkt_line::clean_text(line, 100)),
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn list_of_packs_is_read_strictly() {
        let name = "pack-e69de29bb2d1d6434b8b29ae775ad8c2e48c5391";
        let list = format!("P {name}.pack\n\n");
        assert_eq!(parse_pack_list(list.as_bytes()), Ok(vec![name.to_owned()]));
        assert_eq!(parse_pack_list(b"\n"), Ok(vec![]));
        for bad in ["P pack-../x.pack\n", "pack-e69d.pack\n", "<html>\n"] {
            assert!(parse_pack_list(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
