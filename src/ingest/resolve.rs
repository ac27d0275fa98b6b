//! What resolving a unit means: apply deltas, hash, and hand the objects to the sink.

use super::bytes::Slice;
use super::engine::Engine;
use super::hands::Hands;
use super::parked::{Delta, DeltaBytes};
use super::units::{Base, Done, Item, Unit, Work};
use crate::git::object::{Collision, Kind, ObjectFormat, Oid, hash_object};
use crate::pack::delta::{self, DeltaError};
use crate::pack::object::Index;
use crate::repository::error::MirrorError;

impl Engine<'_> {
    /// Resolves the unit, and those that this thread may take over after it.
    pub(super) fn resolve_on<'s>(&'s self, hands: &Hands<'_, 's>, unit: Unit<Slice>) {
        let mut next = Some(unit);
        while let Some(unit) = next {
            self.guard(|| self.resolve(hands, unit));
            next = hands.take_next();
        }
    }

    /// Resolves the unit's items one after the other. Called by resolve tasks, which never wait; a
    /// unit that reads is resolved by a request thread.
    fn resolve<'s>(&'s self, hands: &Hands<'_, 's>, unit: Unit<Slice>) -> Result<(), MirrorError> {
        if self.is_over() {
            return Ok(());
        }
        let (done, results) = match &unit.items[..] {
            [item] if matches!(item.work, Work::Object { .. }) => {
                let Work::Object { kind, content, .. } = &item.work else { unreachable!() };
                let done = Done::new(self.env.format, *kind, content, 0, 0);
                let done = done.map_err(|collision| self.broken(item.index, collision))?;
                (vec![done], vec![content.clone()])
            }
            _ => self.resolve_all(&unit)?,
        };
        for done in &done {
            (self.env.observe)(&done.oid, done.kind, done.content(&results));
        }
        self.sink.take(self, hands, unit, done, results)
    }

    fn resolve_all(&self, unit: &Unit<Slice>) -> Result<(Vec<Done>, Vec<Slice>), MirrorError> {
        let mut results = Results::default();
        let mut done: Vec<Done> = Vec::with_capacity(unit.items.len());
        // What was read back last; its neighbours often want it, too.
        let mut read: Option<(Index, Vec<u8>)> = None;
        let links: Vec<(u32, u64)> = match &unit.links[..] {
            [] => Vec::new(),
            links => self.ask(|s| links.iter().map(|(at, link)| (*at, s.offset(*link))).collect()),
        };
        let mut links = links.into_iter().peekable();
        for (at, item) in unit.items.iter().enumerate() {
            if self.is_over() {
                return Err(self.closed());
            }
            results.make_room(&unit.items[at..], self.env.budget.unit_bytes());
            let (buffer, start) = results.place();
            let kind = match &item.work {
                Work::Object { kind, content, .. } => {
                    results.current().extend_from_slice(content);
                    *kind
                }
                Work::Delta { delta, base, base_index } => {
                    // Only those that this base stands on: later ones would push them out.
                    while let Some((_, offset)) = links.next_if(|(place, _)| *place as usize <= at)
                    {
                        self.sink.make_link(self, offset)?;
                    }
                    let on_other =
                        |results: &mut Results, base: &[u8], kind, instructions: &[u8]| {
                            delta::apply(base, instructions, results.current()).map_err(
                                |error| match hash_object(self.env.format, kind, base) {
                                    Ok(base) => self.bad_delta(item.index, base, &error),
                                    Err(collision) => self.broken(item.index, collision),
                                },
                            )?;
                            Ok(kind)
                        };
                    self.apply(item.offset, delta, |instructions| match base {
                        Base::Earlier(at) => {
                            let base = &done[*at as usize];
                            results
                                .apply(base, instructions)
                                .map_err(|error| self.bad_delta(item.index, base.oid, &error))?;
                            Ok(base.kind)
                        }
                        Base::Memory(kind, content) => {
                            on_other(&mut results, content, *kind, instructions)
                        }
                        Base::Read(stored) => {
                            if read.as_ref().is_none_or(|(index, _)| index != base_index) {
                                // Before the next one takes its place.
                                drop(read.take());
                                let len = delta.header.base_len;
                                let base = self.sink.read_base(self, *stored, len)?;
                                read = Some((*base_index, base));
                            }
                            let base = &read.as_ref().expect("just read").1;
                            on_other(&mut results, base, stored.kind, instructions)
                        }
                        Base::Unknown => {
                            Err(MirrorError::Internal("a delta starts without base".into()))
                        }
                    })?
                }
            };
            let content = &results.current()[start..];
            let made = Done::new(self.env.format, kind, content, buffer, start);
            done.push(made.map_err(|collision| self.broken(item.index, collision))?);
        }
        Ok((done, results.buffers.into_iter().map(Slice::from).collect()))
    }

    /// Gives `apply` the delta's instructions, from wherever they are.
    fn apply<T>(
        &self,
        offset: u64,
        delta: &Delta<Slice>,
        apply: impl FnOnce(&[u8]) -> Result<T, MirrorError>,
    ) -> Result<T, MirrorError> {
        match &delta.bytes {
            DeltaBytes::Memory(bytes) => apply(bytes),
            DeltaBytes::Spilled { file, start } => {
                apply(&self.read_spilled(*file, *start, delta.len)?)
            }
            DeltaBytes::InPack => apply(&self.sink.read_delta(self, offset)?),
        }
    }

    fn bad_delta(&self, index: Index, base: Oid, error: &DeltaError) -> MirrorError {
        self.broken(index, format!("delta against {base}: {error}"))
    }
}

/// What a unit makes: small objects share a buffer.
#[derive(Default)]
struct Results {
    buffers: Vec<Vec<u8>>,
    /// What the last buffer may hold, in bytes.
    capacity: usize,
}

impl Results {
    /// Sees to it that the next object fits into the last buffer. A new one is for as many of the
    /// next objects as come to `most` bytes, and at least for one.
    fn make_room(&mut self, next: &[Item<Slice>], most: u64) {
        let lens = || next.iter().map(|item| result_len(&item.work));
        let (used, len) = (self.buffers.last().map(Vec::len), lens().next().unwrap_or(0));
        if used.is_some_and(|used| used + len <= self.capacity) {
            return;
        }
        let mut sum = 0;
        for (at, len) in lens().enumerate() {
            if at > 0 && sum + len > most as usize {
                break;
            }
            sum += len;
        }
        self.capacity = sum;
        self.buffers.push(Vec::with_capacity(sum));
    }

    fn current(&mut self) -> &mut Vec<u8> {
        self.buffers.last_mut().expect("room was made")
    }

    /// Where the next object will begin: its buffer, and the place in that.
    fn place(&self) -> (usize, usize) {
        (self.buffers.len().saturating_sub(1), self.buffers.last().map_or(0, Vec::len))
    }

    /// Applies a delta to one of the results.
    fn apply(&mut self, base: &Done, delta: &[u8]) -> Result<(), DeltaError> {
        let range = base.start..base.start + base.len;
        let (last, earlier) = self.buffers.split_last_mut().expect("a result is in a buffer");
        match earlier.get(base.buffer) {
            Some(buffer) => delta::apply(&buffer[range], delta, last),
            None => delta::apply_within(last, range, delta),
        }
    }
}

fn result_len(work: &Work<Slice>) -> usize {
    match work {
        Work::Object { content, .. } => content.len(),
        Work::Delta { delta, .. } => delta.header.result_len as usize,
    }
}

impl Done {
    fn new(
        format: ObjectFormat,
        kind: Kind,
        content: &[u8],
        buffer: usize,
        start: usize,
    ) -> Result<Self, Collision> {
        let oid = hash_object(format, kind, content)?;
        Ok(Done { kind, oid, buffer, start, len: content.len() })
    }

    /// The content among a unit's results.
    pub(super) fn content<'r>(&self, results: &'r [Slice]) -> &'r [u8] {
        &results[self.buffer][self.start..self.start + self.len]
    }
}
