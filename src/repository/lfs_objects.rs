//! The keys of LFS objects, laid out as git-lfs lays out its own folder.

use super::listing::LFS;
use crate::git::lfs_pointer::sha256;
use crate::store::{Key, ObjectHeaders};

/// What they are stored with.
pub(crate) const HEADERS: ObjectHeaders = ObjectHeaders::immutable("application/octet-stream");

/// `lfs/objects/aa/bb/<oid>`.
pub(crate) fn key(oid: &[u8; 32]) -> Key {
    let hex: String = oid.iter().map(|byte| format!("{byte:02x}")).collect();
    let name = format!("{LFS}{}/{}/{hex}", &hex[..2], &hex[2..4]);
    Key::new(name).expect("hexadecimal digits")
}

/// The inverse of [`key`] on text; `None` for any other key.
pub(crate) fn oid_of_key(key: &str) -> Option<[u8; 32]> {
    let hex = key.rsplit('/').next()?;
    let oid = sha256(hex)?;
    (self::key(&oid).as_str() == key).then_some(oid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_lfs_objects_and_oids_are_each_others_inverse() {
        let ours = key(&[0xab; 32]);
        assert_eq!(ours.as_str(), format!("lfs/objects/ab/ab/{}", "ab".repeat(32)));
        assert_eq!(oid_of_key(ours.as_str()), Some([0xab; 32]));
        let misplaced = format!("lfs/objects/00/ab/{}", "ab".repeat(32));
        assert_eq!(oid_of_key(&misplaced), None);
        assert_eq!(oid_of_key("lfs/objects/ab/ab/x"), None);
    }
}
