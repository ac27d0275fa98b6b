//! What resolving a unit means: apply deltas, hash, and hand the objects to the sink.

use rayon::Scope;

use super::bytes::Slice;
use super::engine::Engine;
use super::scheduler::{Base, Delta, DeltaBytes, Done, Unit, Work};
use crate::git::object::{Kind, hash_object};
use crate::pack::delta;
use crate::pack::resolver::Index;
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
                let done = Done {
                    kind: *kind,
                    oid: hash_object(*kind, content),
                    start: 0,
                    len: content.len(),
                };
                (vec![done], content.clone())
            }
            _ => self.resolve_all(&unit)?,
        };
        for done in &done {
            let content = &results[done.start..done.start + done.len];
            (self.env.look)(&done.oid, done.kind, content);
        }
        self.sink.take(self, scope, unit, done, results)
    }

    fn resolve_all(&self, unit: &Unit<Slice>) -> Result<(Vec<Done>, Slice), MirrorError> {
        let len = |work: &Work<Slice>| match work {
            Work::Object { content, .. } => content.len(),
            Work::Delta { delta, .. } => delta.header.result_len as usize,
        };
        let mut results = vec![0; unit.items.iter().map(|item| len(&item.work)).sum()];
        let mut done: Vec<Done> = Vec::with_capacity(unit.items.len());
        let mut start = 0;
        // What was read back last; its neighbours often want it, too.
        let mut read: Option<(Index, Vec<u8>)> = None;
        for item in &unit.items {
            let (before, rest) = results.split_at_mut(start);
            let result = &mut rest[..len(&item.work)];
            let kind = match &item.work {
                Work::Object { kind, content, .. } => {
                    result.copy_from_slice(content);
                    *kind
                }
                Work::Delta { delta, base, base_index } => {
                    let base_len = delta.header.base_len;
                    let (kind, base) = match base {
                        Base::Earlier(at) => {
                            let base = &done[*at as usize];
                            (base.kind, &before[base.start..base.start + base.len])
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
            let oid = hash_object(kind, result);
            done.push(Done { kind, oid, start, len: result.len() });
            start += result.len();
        }
        Ok((done, results.into()))
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
