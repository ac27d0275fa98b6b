//! What resolving a unit means: apply deltas, hash, and hand the objects to the sink.

use rayon::Scope;

use super::bytes::Slice;
use super::engine::Engine;
use super::scheduler::{Base, Delta, DeltaBytes, Done, Unit, Work};
use crate::git::object::{Kind, hash_object};
use crate::pack::delta;
use crate::pack::object::Index;
use crate::repository::error::MirrorError;

impl Engine<'_> {
    /// Resolves the unit's items one after the other. Called by resolve tasks, which never wait; a
    /// unit that reads is resolved by a request thread.
    pub(super) fn resolve<'s>(
        &'s self,
        scope: &Scope<'s>,
        unit: Unit<Slice>,
    ) -> Result<(), MirrorError> {
        if self.is_over() {
            return Ok(());
        }
        let (done, results) = match &unit.items[..] {
            [item] if matches!(item.work, Work::Object { .. }) => {
                let Work::Object { kind, content, .. } = &item.work else { unreachable!() };
                (vec![Done::new(*kind, content, 0, 0)], vec![content.clone()])
            }
            _ => self.resolve_all(&unit)?,
        };
        for done in &done {
            (self.env.look)(&done.oid, done.kind, done.content(&results));
        }
        self.sink.take(self, scope, unit, done, results)
    }

    fn resolve_all(&self, unit: &Unit<Slice>) -> Result<(Vec<Done>, Vec<Slice>), MirrorError> {
        let most = self.env.budget.unit_bytes() as usize;
        let mut results: Vec<Vec<u8>> = Vec::new();
        let mut done: Vec<Done> = Vec::with_capacity(unit.items.len());
        // Where in the last of them the next object begins.
        let mut start = 0;
        // What was read back last; its neighbours often want it, too.
        let mut read: Option<(Index, Vec<u8>)> = None;
        let mut links = unit.links.iter().peekable();
        for (at, item) in unit.items.iter().enumerate() {
            if self.is_over() {
                return Err(self.closed());
            }
            let len = result_len(&item.work);
            if results.last().is_none_or(|last| start + len > last.len()) {
                // As many of the next objects as a buffer takes, and at least this one.
                let mut sum = len;
                for item in &unit.items[at + 1..] {
                    let more = sum + result_len(&item.work);
                    if more > most {
                        break;
                    }
                    sum = more;
                }
                results.push(vec![0; sum]);
                start = 0;
            }
            let buffer = results.len() - 1;
            let (earlier, last) = results.split_at_mut(buffer);
            let (before, rest) = last[0].split_at_mut(start);
            let result = &mut rest[..len];
            let kind = match &item.work {
                Work::Object { kind, content, .. } => {
                    result.copy_from_slice(content);
                    *kind
                }
                Work::Delta { delta, base, base_index } => {
                    // Only those that this base stands on: later ones would push them out.
                    while let Some(link) = links.next_if(|link| *link <= base_index) {
                        self.sink.make_link(self, *link)?;
                    }
                    let base_len = delta.header.base_len;
                    let (kind, base) = match base {
                        Base::Earlier(at) => {
                            let base = &done[*at as usize];
                            let of = if base.buffer == buffer {
                                &*before
                            } else {
                                &earlier[base.buffer]
                            };
                            (base.kind, &of[base.start..base.start + base.len])
                        }
                        Base::Memory(kind, content) => (*kind, &content[..]),
                        Base::Read(kind, oid) => {
                            if read.as_ref().is_none_or(|(index, _)| index != base_index) {
                                // Before the next one takes its place.
                                drop(read.take());
                                let base = self.sink.read_base(
                                    self,
                                    *base_index,
                                    *kind,
                                    *oid,
                                    base_len,
                                )?;
                                read = Some((*base_index, base));
                            }
                            (*kind, &read.as_ref().expect("just read").1[..])
                        }
                        Base::Unknown => {
                            return Err(MirrorError::Internal(
                                "a delta starts without base".into(),
                            ));
                        }
                    };
                    self.apply(item.index, kind, base, delta, result)?;
                    kind
                }
            };
            done.push(Done::new(kind, result, buffer, start));
            start += len;
        }
        Ok((done, results.into_iter().map(Slice::from).collect()))
    }

    fn apply(
        &self,
        index: Index,
        kind: Kind,
        base: &[u8],
        delta: &Delta<Slice>,
        result: &mut [u8],
    ) -> Result<(), MirrorError> {
        let fetched;
        let instructions: &[u8] = match &delta.bytes {
            DeltaBytes::Memory(bytes) => bytes,
            DeltaBytes::Spilled { file, start } => {
                fetched = self.read_spilled(*file, *start, delta.len)?;
                &fetched
            }
            DeltaBytes::InPack => {
                fetched = self.sink.read_delta(self, index)?;
                &fetched
            }
        };
        delta::apply_into(base, instructions, result).map_err(|error| {
            let base = hash_object(kind, base);
            self.broken(index, format!("delta against {base}: {error}"))
        })
    }
}

fn result_len(work: &Work<Slice>) -> usize {
    match work {
        Work::Object { content, .. } => content.len(),
        Work::Delta { delta, .. } => delta.header.result_len as usize,
    }
}

impl Done {
    fn new(kind: Kind, content: &[u8], buffer: usize, start: usize) -> Self {
        Done { kind, oid: hash_object(kind, content), buffer, start, len: content.len() }
    }

    /// The content among a unit's results.
    pub(super) fn content<'r>(&self, results: &'r [Slice]) -> &'r [u8] {
        &results[self.buffer][self.start..self.start + self.len]
    }
}
