//! The ways to lay out git objects in the bucket.

use crate::progress::grouped;
use crate::store::ObjectHeaders;

/// How a mirror's objects are to be laid out in the bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LayoutOption {
    /// By what comes: few objects loose, more as a pack; loose ones that have piled up are packed.
    #[default]
    Auto,
    /// Always one S3 object a git object.
    Loose,
    /// Always the pack as it came, with its index.
    Pack,
}

/// Up to so many objects of a first run are stored loose. Over a server that takes 20 ms a request, git
/// clones a pack in about 0.45 s whatever it has, and a linear history of loose objects at 27 ms each,
/// because a commit names the next only when it is there (30 objects 1.1 s, 99 3.1 s, 999 25 s).
const FEW_AT_FIRST: u32 = 15;

/// Up to so many new objects of a later run are stored loose; git itself keeps packs of 100 and more
/// (`fetch.unpackLimit`). Readers have most of the history, so they walk less far; and a reader that
/// has repacked downloads the index of every listed pack anew for the first object that it does not
/// find loose (`http-walker.c`, `setup_indices`): 6.5 MiB for 230,000 objects, where one run brings
/// 50 KiB.
const FEW_LATER: u32 = 99;

impl LayoutOption {
    /// How to lay out the objects of a pack that has so many; `is_first`: it has the whole repository.
    pub(crate) fn of_pack(self, objects: u32, is_first: bool) -> Layout {
        let few = if is_first { FEW_AT_FIRST } else { FEW_LATER };
        match self {
            LayoutOption::Auto if objects <= few => Layout::Loose,
            LayoutOption::Loose => Layout::Loose,
            LayoutOption::Auto | LayoutOption::Pack => Layout::Pack,
        }
    }

    /// Where to look first for an object that is not known to be in a pack.
    pub(crate) fn likely(self) -> Layout {
        match self {
            LayoutOption::Auto | LayoutOption::Loose => Layout::Loose,
            LayoutOption::Pack => Layout::Pack,
        }
    }

    /// As on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            LayoutOption::Auto => "auto",
            LayoutOption::Loose => "loose",
            LayoutOption::Pack => "pack",
        }
    }
}

/// How the objects of one pack are laid out in the bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// One S3 object a git object.
    Loose,
    /// The pack as it came, with its index.
    Pack,
}

/// Above this many loose objects the operator is warned. Of 92,328 in one ref git's dumb client clones
/// 1,900 a second; of 419,403 in 1,016 refs it clones 41 a second after the first 65,000, because it
/// looks through its whole queue for each (`http-walker.c`, `fetch_object`).
const MANY_OBJECTS: u32 = 100_000;

impl Layout {
    /// What to say when so many new objects are to be laid out this way.
    pub(crate) fn warning(self, objects: u32) -> Option<String> {
        (self == Layout::Loose && objects > MANY_OBJECTS).then(|| {
            let objects = grouped(u64::from(objects));
            format!("git may take hours to clone {objects} loose objects; use --layout auto or pack for so many")
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
    fn few_objects_are_loose_and_more_are_a_pack_unless_told_otherwise() {
        let of = |option: LayoutOption| {
            [(15, true), (16, true), (99, false), (100, false)]
                .map(|(objects, is_first)| option.of_pack(objects, is_first))
        };
        let (loose, pack) = (Layout::Loose, Layout::Pack);
        assert_eq!(of(LayoutOption::Auto), [loose, pack, loose, pack]);
        assert_eq!(of(LayoutOption::Loose), [loose; 4]);
        assert_eq!(of(LayoutOption::Pack), [pack; 4]);
    }

    #[test]
    fn only_many_loose_objects_are_warned_of() {
        let warned = Layout::Loose.warning(100_001).unwrap();
        assert!(
            warned.contains("100,001 loose objects") && warned.contains("--layout auto or pack")
        );
        assert_eq!(Layout::Loose.warning(100_000), None);
        assert_eq!(Layout::Pack.warning(u32::MAX), None);
    }
}
