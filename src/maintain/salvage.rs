//! A damaged pack becomes one of those of its entries that are sound.
//!
//! Entries are distinguished by the CRC-32 in the index, and a delta on a broken one is broken as well. So
//! nothing is lost that only this pack holds, such as what past publications name, and what has to be
//! fetched again is what is broken and no more. If no entry is broken (the damage is in the header or the
//! trailer), the pack is made again as it was.
//!
//! The pack is read twice. The new one is stored, no more: it takes the place of the old as that of a
//! compaction does. Killed at any moment, this leaves a pack that is not listed, for `gc`.

use super::compact::{Compaction, JoinError, unwrap_error};
use crate::pack::concat::{Input, Plan, broken_entries};
use crate::repository::error::MirrorError;
use crate::repository::packs;
use crate::repository::resuming::ResumingReader;

/// Stores what is sound of the pack `name`, whose index is sound; answers the name of the new one.
/// `None`: there is nothing to salvage.
pub(super) fn salvage(
    compaction: &Compaction<'_>,
    name: &str,
) -> Result<Option<String>, MirrorError> {
    let (store, key) = (compaction.store, packs::key(name, "pack"));
    let Some(info) = store.head(&key)? else { return Ok(None) };
    let members = match compaction.open(&[name.to_owned()], &[info.len]) {
        Ok(members) => members,
        Err(MirrorError::Mirror(what)) => return Ok(nothing(name, &what)),
        Err(error) => return Err(error),
    };
    let [member] = &members[..] else {
        return Ok(nothing(name, "its index needs more memory: --memory"));
    };
    let input = || Input { len: member.len, index: &member.index };
    let mut stream = ResumingReader::new(store, key, 0);
    let broken = broken_entries(&mut stream, &input()).map_err(unwrap_error)?;
    let (lost, all) = (broken.offsets.len(), member.index.object_count() as usize);
    if lost == all {
        return Ok(nothing(name, "no entry of it is sound"));
    }
    let plan = match Plan::of_sound_entries(input(), broken) {
        Ok(plan) => plan,
        Err(error) => return Ok(nothing(name, &error.to_string())),
    };
    let new = match compaction.write(&members, &plan, false) {
        Ok(new) => new,
        Err(JoinError::Without(_, what) | JoinError::Failed(MirrorError::Mirror(what))) => {
            return Ok(nothing(name, &what));
        }
        Err(JoinError::Failed(error)) => return Err(error),
    };
    log::info!("{}: {new} has {} of the {all} objects of {name}", store.describe(), all - lost);
    Ok(Some(new))
}

fn nothing(name: &str, why: &str) -> Option<String> {
    log::info!("nothing of {name} can be kept: {why}");
    None
}
