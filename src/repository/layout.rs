//! The ways to lay out git objects in the bucket.

use crate::progress::grouped;
use crate::store::ObjectHeaders;

/// How objects are laid out in the bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Layout {
    /// One S3 object a git object.
    #[default]
    Loose,
    /// The pack as it came, with its index.
    Pack,
}

/// Above this many loose objects the operator is warned. Of 92,328 in one ref git's dumb client clones
/// 1,900 a second; of 419,403 in 1,016 refs it clones 41 a second after the first 65,000, since it
/// looks through its whole queue for each (`http-walker.c`, `fetch_object`).
const MANY_OBJECTS: u32 = 100_000;

impl Layout {
    /// What to say when so many new objects are to be laid out this way.
    pub(crate) fn warning(self, objects: u32) -> Option<String> {
        (self == Layout::Loose && objects > MANY_OBJECTS).then(|| {
            let objects = grouped(u64::from(objects));
            format!("git may take hours to clone {objects} loose objects; --layout pack is made for so many")
        })
    }
}

/// What temporary objects are stored with.
pub(crate) const TEMPORARY: ObjectHeaders =
    ObjectHeaders { content_type: "application/octet-stream", cache_control: None };

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_many_loose_objects_are_warned_of() {
        let warned = Layout::Loose.warning(100_001).unwrap();
        assert!(warned.contains("100,001 loose objects") && warned.contains("--layout pack"));
        assert_eq!(Layout::Loose.warning(100_000), None);
        assert_eq!(Layout::Pack.warning(u32::MAX), None);
    }
}
