//! Single objects from a source, by name: what a repair of a loose mirror asks for.

use std::collections::BTreeSet;

use super::options::Options;
use crate::git::object::{ObjectFormat, Oid};
use crate::ingest::budget::Budget;
use crate::ingest::context::RunContext;
use crate::ingest::run::store_pack;
use crate::progress::Progress;
use crate::repository::error::MirrorError;
use crate::repository::existing::Existing;
use crate::repository::layout::Layout;
use crate::repository::loose;
use crate::repository::temp::TempKeys;
use crate::run::MIN_MEMORY_BYTES;
use crate::source::{NOT_OUR_REF, Source};
use crate::store::Store;

/// More are as well taken with the whole.
const MOST: usize = 10_000;

/// A server names one that it does not have in each answer.
const MOST_REFUSALS: usize = 100;

/// What a source did that was asked for single objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sent {
    /// Nothing: the whole has to be asked for.
    Nothing,
    /// All of them but these keys, of which it says that it has no such object.
    AllBut(BTreeSet<String>),
}

/// Stores the loose objects that these keys name, if `source` sends them by themselves and each key names
/// one. To `store` they are missing. Nothing is published.
pub fn store_objects(
    source: &dyn Source,
    store: &dyn Store,
    keys: &BTreeSet<String>,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Sent, MirrorError> {
    let mut wants: Vec<Oid> = keys.iter().filter_map(|key| loose::oid_of_key(key)).collect();
    if wants.is_empty() || wants.len() < keys.len() || wants.len() > MOST {
        return Ok(Sent::Nothing);
    }
    let mut refused = BTreeSet::new();
    while !wants.is_empty() && refused.len() < MOST_REFUSALS {
        match fetch(source, store, &wants, options, progress) {
            Err(error @ (MirrorError::Source(_) | MirrorError::Pack(_))) => {
                let Some(at) = refused_one(&error, &wants) else {
                    log::info!("fetching everything: {error}");
                    return Ok(Sent::Nothing);
                };
                log::info!("{error}");
                refused.insert(loose::key(&wants.swap_remove(at)).to_string());
            }
            Err(error) => return Err(error),
            Ok(false) => return Ok(Sent::Nothing),
            Ok(true) => return Ok(Sent::AllBut(refused)),
        }
    }
    Ok(if wants.is_empty() { Sent::AllBut(refused) } else { Sent::Nothing })
}

/// Which of `wants` the source does not have, if the error says so.
fn refused_one(error: &MirrorError, wants: &[Oid]) -> Option<usize> {
    let MirrorError::Source(error) = error else { return None };
    let (_, after) = error.message.split_once(NOT_OUR_REF)?;
    let oid = Oid::from_hex(after.split_whitespace().next()?.as_bytes())?;
    wants.iter().position(|want| *want == oid)
}

fn fetch(
    source: &dyn Source,
    store: &dyn Store,
    wants: &[Oid],
    options: &Options,
    progress: &dyn Progress,
) -> Result<bool, MirrorError> {
    progress.phase("fetching single objects");
    let words = Box::new(|line: &str| progress.source_says(line));
    let format = wants.first().map_or_else(ObjectFormat::default, Oid::format);
    let Some(stream) = source.fetch_objects(wants, words)? else { return Ok(false) };
    let temp = TempKeys::new(store);
    let env = RunContext {
        store,
        progress,
        temp: &temp,
        layout: Layout::Loose,
        format,
        // A server may send more than was asked for.
        existing: Existing::list_loose(store, options.concurrency)?,
        cancel: options.cancel.clone(),
        concurrency: options.concurrency,
        budget: Budget::of(options.memory_bytes.max(MIN_MEMORY_BYTES), Layout::Loose),
        max_object_bytes: options.max_object_bytes,
        written: Default::default(),
        observe: &|_, _, _| (),
        thin: false,
        increment: false,
    };
    let stored = store_pack(stream, wants, &env).map(|_| true);
    let cleaned = temp.clean();
    let stored = stored?;
    cleaned?;
    Ok(stored)
}
