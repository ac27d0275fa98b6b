//! What may run when: every decision of the ingest in one value, with no thread, lock, clock or I/O.
//!
//! Events go in ([`Scheduler::add`], [`Scheduler::resolved`], …), commands come out
//! ([`Scheduler::next`]); `engine.rs` is the shell that carries them out. The rules:
//!
//! - **A command carries all the room that its work will ever need**, taken before it starts. What
//!   has started asks for nothing more, so it ends. A command that is larger than its pool starts
//!   when the pool is empty.
//! - Whenever nothing is in flight, `next` yields something, or nothing is ready; and then what is
//!   parked can be woken only by entries still to come. So the reader, who finds no room, may spill
//!   ([`Room::Spill`]), and at the end of the pack what is unresolved has no base.
//! - Small entries travel in units, families together and depth first, so that what a lock and a
//!   wake-up cost is paid once for hundreds of objects.
//!
//! Pools: **intake** is what the reader has taken and nobody has resolved; **work** is what started
//! units make; **parts** are those of a pack that is kept as it comes; the **cache** holds results
//! that may be bases, the least recently used leave first; **deferred** is for short deltas that wait
//! for the second pass. A heavy delta is in none of them: one runs at a time, and it holds a part of an
//! upload, a few blocks, and a base and a result of at most [`Limits::large`] each.
//! `simulation.rs` drives all of it through random packs, budgets and completions.

use std::collections::HashMap;

use crate::git::object::{Kind, ObjectFormat, Oid};
use crate::git::oids::OidMap;
use crate::pack::delta::DeltaHeader;
use crate::pack::object::{Index, ResolveError};

use super::cache::{Bytes, Cache, IndexMap};
use super::names::Names;
use super::parked::{About, DeltaBytes, NONE, Parked, Parking};
use super::table::{Size, Table};
use super::units::{
    Base, BaseName, Body, Command, Done, Entry, Heavy, Item, Limits, OVERHEAD_BYTES, Room, Stored,
    Unit, Work,
};

/// A deferred delta of up to this length may stay in memory.
const SHORT_BYTES: u64 = 4096;

/// A unit that has started.
struct Started {
    held: u64,
    room: u64,
    reads: bool,
    resolving: bool,
}

/// See the module's page.
pub(super) struct Scheduler<B> {
    limits: Limits,
    format: ObjectFormat,
    table: Table,
    names: Option<Names>,
    /// Duplicates, by entry: the first with the same name.
    aliases: IndexMap<Index>,
    parked: Parking<B>,
    /// The first delta that waits for an entry.
    waiting: IndexMap<Index>,
    waiting_for_oid: OidMap<Index>,
    /// Last in, first out.
    ready: Vec<Unit<B>>,
    heavy: Vec<Heavy<B>>,
    /// Ready, but their bases can't be read yet.
    deferred: Vec<(Index, Index)>,
    cache: Cache<B>,
    started: HashMap<u32, Started>,
    next_unit: u32,
    readable: bool,
    heavy_runs: bool,
    intake_used: u64,
    work_used: u64,
    parts_used: u64,
    deferred_used: u64,
    resolving: usize,
    reading: usize,
    /// Uploads of the reader that are on their way.
    others: usize,
    /// The longest object that is no larger than `limits.large`: what a link of a chain takes at most.
    longest: u64,
}

impl<B: Bytes> Scheduler<B> {
    /// `names`: every object is known by its name from the start.
    pub(super) fn new(limits: Limits, names: bool, format: ObjectFormat) -> Self {
        Scheduler {
            limits,
            format,
            table: Table::new(!limits.readable),
            names: names.then(|| Names::new(format)),
            aliases: IndexMap::default(),
            parked: Parking::new(),
            waiting: IndexMap::default(),
            waiting_for_oid: OidMap::default(),
            ready: Vec::new(),
            heavy: Vec::new(),
            deferred: Vec::new(),
            cache: Cache::new(limits.cache),
            started: HashMap::new(),
            next_unit: 0,
            readable: limits.readable,
            heavy_runs: false,
            intake_used: 0,
            work_used: 0,
            parts_used: 0,
            deferred_used: 0,
            resolving: 0,
            reading: 0,
            others: 0,
            longest: 0,
        }
    }

    // ---- the reader ----------------------------------------------------------------------

    /// The reader wants to take `bytes`; it holds none while it asks.
    pub(super) fn take_room(&mut self, bytes: u64, most_spilled: u64) -> Room<B> {
        if self.intake_used > 0 && self.intake_used.saturating_add(bytes) > self.limits.intake {
            if !self.is_idle() {
                return Room::Wait;
            }
            if self.limits.readable {
                return Room::Spill(self.to_spill(most_spilled));
            }
            self.let_go_of_parked();
        }
        self.intake_used += bytes;
        Room::Taken
    }

    /// Is it worth waking a reader who waits for `bytes`? Not for each unit that ends: it takes many at
    /// once, and when nothing is in flight, it has to spill.
    pub(super) fn has_room(&self, bytes: u64) -> bool {
        let low = (self.limits.intake - self.limits.intake / 4).max(bytes);
        self.intake_used.saturating_add(bytes) <= low || self.is_idle()
    }

    /// The reader gives back what it took and did not need.
    pub(super) fn return_room(&mut self, bytes: u64) {
        self.intake_used -= bytes;
    }

    /// Parked deltas in pack order: what was written together is likely to be wanted together.
    fn to_spill(&self, most: u64) -> Vec<(Index, B)> {
        let mut held: Vec<(Index, &B)> = self
            .parked
            .held()
            .filter_map(|(index, parked)| match &parked.delta.bytes {
                DeltaBytes::Memory(body) => Some((index, body)),
                _ => None,
            })
            .collect();
        held.sort_unstable_by_key(|(index, _)| *index);
        let mut bytes = 0;
        let mut spill = Vec::new();
        for (index, body) in held {
            bytes += self.parked.about(index).len;
            if bytes > most && !spill.is_empty() {
                break;
            }
            spill.push((index, body.clone()));
        }
        spill
    }

    /// They are in the pack: nothing is written. Short ones stay while there is room for them.
    fn let_go_of_parked(&mut self) {
        let holding = self.parked.held().filter(|(_, parked)| parked.held > 0);
        let holding: Vec<Index> = holding.map(|(index, _)| index).collect();
        for index in holding {
            self.parked.change(index, |parked| {
                self.intake_used -= std::mem::take(&mut parked.held);
                let keep = parked.delta.len + OVERHEAD_BYTES;
                let is_short = parked.delta.len <= SHORT_BYTES;
                if is_short && self.deferred_used + keep <= self.limits.deferred {
                    self.deferred_used += keep;
                } else {
                    parked.delta.bytes = DeltaBytes::InPack;
                }
            });
        }
    }

    /// These deltas are in the temporary key `file` now, at these places.
    pub(super) fn spilled(&mut self, file: u32, places: &[(Index, u64)]) {
        for (index, start) in places {
            self.parked.change(*index, |parked| {
                parked.delta.bytes = DeltaBytes::Spilled { file, start: *start };
                self.intake_used -= std::mem::take(&mut parked.held);
            });
        }
    }

    /// Enters what the reader has taken; answers the first entry's index. Their `held` sums up to
    /// what the reader took room for.
    pub(super) fn add(&mut self, entries: Vec<Entry<B>>) -> Result<Index, ResolveError> {
        let first = self.table.len() as Index;
        let mut items = Vec::with_capacity(entries.len());
        let mut places: IndexMap<u32> = IndexMap::default();
        let mut held = 0;
        for entry in entries {
            if self.table.len() >= NONE as usize {
                return Err(ResolveError::TooManyEntries { offset: entry.offset });
            }
            let base = match &entry.body {
                Body::Delta { base, .. } => self.find_base(entry.offset, *base)?,
                _ => None,
            };
            let size = self.size_of(&entry.body, base);
            let index = self.table.add(entry.offset, base, size);
            if let Some(names) = &mut self.names {
                names.add();
            }
            let crc32 = entry.crc32;
            match entry.body {
                Body::Later => self.intake_used -= entry.held,
                Body::Named { kind, oid } => {
                    self.intake_used -= entry.held;
                    self.resolve(index, kind, oid);
                }
                Body::Object { kind, content, len, raw } => {
                    self.longest = self.longest.max(len);
                    places.insert(index, items.len() as u32);
                    held += entry.held;
                    let work = Work::Object { kind, content, len, raw };
                    items.push(Item { index, offset: entry.offset, crc32, work });
                }
                Body::Delta { base: name, mut delta } => {
                    let is_large = self.is_large(delta.header, delta.len);
                    if !is_large {
                        self.longest = self.longest.max(delta.header.result_len);
                    }
                    let place = base.and_then(|base| places.get(&base)).copied();
                    if let (Some(place), Some(base_index), false) = (place, base, is_large) {
                        places.insert(index, items.len() as u32);
                        held += entry.held;
                        let base = Base::Earlier(place);
                        let work = Work::Delta { delta, base, base_index };
                        items.push(Item { index, offset: entry.offset, crc32, work });
                        continue;
                    }
                    let resolved = base.filter(|base| self.table.kind(*base).is_some());
                    if let (Some(base_index), false) = (resolved, is_large) {
                        let base_index = self.canonical(base_index);
                        if self.readable || self.cache.contains(base_index) {
                            places.insert(index, items.len() as u32);
                            held += entry.held;
                            let base = Base::Unknown;
                            let work = Work::Delta { delta, base, base_index };
                            items.push(Item { index, offset: entry.offset, crc32, work });
                            continue;
                        }
                    }
                    if let DeltaBytes::Memory(bytes) = &delta.bytes {
                        // Not to keep the whole buffer that it came in.
                        delta.bytes = DeltaBytes::Memory(bytes.detach());
                    }
                    let parked = Parked { crc32, delta, held: entry.held, next: NONE };
                    self.parked.insert(index, parked);
                    match (resolved, base, name) {
                        (Some(base), ..) => self.wake(vec![index], self.canonical(base)),
                        (None, Some(base), _) => self.wait_for(index, base),
                        (None, None, BaseName::Oid(oid)) => {
                            let head = self.waiting_for_oid.insert(oid, index).unwrap_or(NONE);
                            self.parked.set_next(index, head);
                        }
                        (None, None, BaseName::Offset(_)) => unreachable!("found, or an error"),
                    }
                }
            }
        }
        if !items.is_empty() {
            self.push_ready(items, held);
        }
        Ok(first)
    }

    fn find_base(&self, offset: u64, base: BaseName) -> Result<Option<Index>, ResolveError> {
        match base {
            BaseName::Oid(oid) => Ok(self.names.as_ref().and_then(|names| names.find(&oid))),
            BaseName::Offset(base_offset) => match self.table.find(base_offset) {
                Some(base) => Ok(Some(base)),
                None => Err(ResolveError::NoEntryAtOffset { offset, base_offset }),
            },
        }
    }

    /// What a link of a chain takes, by itself.
    fn size_of(&self, body: &Body<B>, base: Option<Index>) -> Size {
        let len = match body {
            Body::Object { len, .. } => *len,
            Body::Delta { delta, .. } if base.is_some() => delta.len.max(delta.header.result_len),
            Body::Delta { .. } | Body::Named { .. } | Body::Later => return Size::UNKNOWN,
        };
        Size::of(len, self.limits.large)
    }

    fn wait_for(&mut self, index: Index, base: Index) {
        let head = self.waiting.insert(base, index).unwrap_or(NONE);
        self.parked.set_next(index, head);
    }

    fn is_large(&self, header: DeltaHeader, delta_len: u64) -> bool {
        let DeltaHeader { base_len, result_len } = header;
        [base_len, result_len, delta_len].iter().any(|len| *len > self.limits.large)
    }

    fn push_ready(&mut self, items: Vec<Item<B>>, held: u64) {
        let id = self.next_unit;
        self.next_unit = self.next_unit.wrapping_add(1);
        let reads = items.iter().any(|item| item.reads_delta());
        let (links, longest_link) = (Vec::new(), Size::NONE);
        self.ready.push(Unit { id, items, reads, links, longest_link, held });
    }

    // ---- what becomes resolved -----------------------------------------------------------

    fn canonical(&self, index: Index) -> Index {
        self.aliases.get(&index).copied().unwrap_or(index)
    }

    /// Enters one object and wakes its deltas; is it the first with this name?
    fn resolve(&mut self, index: Index, kind: Kind, oid: Oid) -> bool {
        self.table.resolve(index, kind);
        let first = match &mut self.names {
            Some(names) => names.resolve(index, &oid),
            None => index,
        };
        if first != index && self.limits.readable {
            self.aliases.insert(index, first);
        }
        let mut woken = self.take_waiters(index);
        if let Some(head) = self.waiting_for_oid.remove(&oid) {
            self.take_list(head, &mut woken);
        }
        if !woken.is_empty() {
            self.wake(woken, self.canonical(index));
        }
        first == index
    }

    fn take_waiters(&mut self, index: Index) -> Vec<Index> {
        let mut woken = Vec::new();
        if let Some(head) = self.waiting.remove(&index) {
            self.take_list(head, &mut woken);
        }
        woken
    }

    fn take_list(&mut self, mut at: Index, woken: &mut Vec<Index>) {
        while at != NONE {
            woken.push(at);
            at = self.parked.set_next(at, NONE);
        }
    }

    /// The base of these parked deltas is resolved: they become ready, each with the deltas that wait
    /// for itself as far as they fit into its unit.
    fn wake(&mut self, woken: Vec<Index>, base: Index) {
        let mut items: Vec<Item<B>> = Vec::new();
        let (mut held, mut bytes) = (0, 0);
        // Deltas, each with its base and that one's place in the unit.
        let mut stack: Vec<(Index, Index, Option<u32>)> =
            woken.into_iter().map(|index| (index, base, None)).collect();
        while let Some((index, base, place)) = stack.pop() {
            let About { header, len: delta_len, in_memory } = self.parked.about(index);
            let len = header.result_len;
            let is_large = self.is_large(header, delta_len);
            // What is read back comes in a unit of its own, because it waits for the store; but not from
            // a pack, where its neighbours are in the same block.
            let may_join = in_memory || (self.readable && !self.limits.readable);
            let fits = items.len() < self.limits.unit_entries
                && (items.is_empty() || bytes + len <= self.limits.unit_bytes);
            if let Some(_place) = place
                && (is_large || !fits || !may_join)
            {
                // Woken again when its base is resolved.
                self.wait_for(index, base);
                continue;
            }
            if is_large {
                self.wake_heavy(index, base);
                continue;
            }
            if !fits || !may_join {
                if !items.is_empty() {
                    self.push_ready(std::mem::take(&mut items), std::mem::take(&mut held));
                    bytes = 0;
                    // Nothing that is on the stack may name a place in it.
                    for (index, base, place) in std::mem::take(&mut stack) {
                        match place {
                            Some(_) => self.wait_for(index, base),
                            None => stack.push((index, base, None)),
                        }
                    }
                }
                if !may_join && !self.readable {
                    self.deferred.push((base, index));
                    continue;
                }
            }
            let parked = self.parked.remove(index);
            held += parked.held;
            bytes += len;
            let place = match place {
                Some(place) => Base::Earlier(place),
                None => Base::Unknown,
            };
            let at = items.len() as u32;
            let work = Work::Delta { delta: parked.delta, base: place, base_index: base };
            let offset = self.table.offset(index);
            items.push(Item { index, offset, crc32: parked.crc32, work });
            if !may_join {
                self.push_ready(std::mem::take(&mut items), std::mem::take(&mut held));
                bytes = 0;
                continue;
            }
            let waiters = self.take_waiters(index);
            stack.extend(waiters.into_iter().map(|waiter| (waiter, index, Some(at))));
        }
        if !items.is_empty() {
            self.push_ready(items, held);
        }
    }

    fn wake_heavy(&mut self, index: Index, base: Index) {
        if !self.readable {
            // Its bytes are in the pack.
            self.parked.change(index, |parked| {
                parked.delta.bytes = DeltaBytes::InPack;
                self.intake_used -= std::mem::take(&mut parked.held);
            });
            self.deferred.push((base, index));
            return;
        }
        let parked = self.parked.remove(index);
        let stored_base = self.stored_at(base);
        self.heavy.push(Heavy {
            index,
            crc32: parked.crc32,
            delta: parked.delta,
            base,
            stored_base,
            base_content: None,
            held: parked.held,
        });
    }

    /// The pack is stored: what was deferred is ready. Deltas that stand on the same chain come one after
    /// the other, and the chains in the order of their first deltas: whoever wrote the pack put what follows
    /// those beside them, while their bases may be anywhere before. Answers how many.
    pub(super) fn pack_stored(&mut self) -> usize {
        self.readable = true;
        self.limits.work = self.limits.work_after;
        let (deferred, mut tops) = self.deferred_by_chain();
        let (first_unit, first_heavy) = (self.ready.len(), self.heavy.len());
        let mut next = deferred.iter().map(|(_, base, index)| (*base, *index)).peekable();
        while let Some((base, index)) = next.peek().copied() {
            if !self.fits_memory(index) {
                self.wake_heavy(index, base);
                next.next();
                continue;
            }
            let mut items = Vec::new();
            let mut links = Vec::new();
            let (mut held, mut bytes) = (0, 0);
            while let Some((base_index, index)) = next.peek().copied() {
                let len = self.parked.about(index).header.result_len;
                let fits = items.len() < self.limits.unit_entries.min(64)
                    && (items.is_empty() || bytes + len <= self.limits.unit_bytes);
                if !fits || !self.fits_memory(index) {
                    break;
                }
                next.next();
                bytes += len;
                let path = self.links_to(base_index, &mut tops);
                let place = items.len() as u32;
                links.extend(path.into_iter().rev().map(|link| (place, link)));
                let parked = self.parked.remove(index);
                held += parked.held;
                let base = Base::Unknown;
                let work = Work::Delta { delta: parked.delta, base, base_index };
                let offset = self.table.offset(index);
                items.push(Item { index, offset, crc32: parked.crc32, work });
            }
            self.push_ready(items, held);
            if let Some(unit) = self.ready.last_mut() {
                let sizes = links.iter().map(|(_, link)| self.table.longest(*link));
                unit.longest_link = sizes.max().unwrap_or(Size::NONE);
                unit.links = links;
            }
        }
        // Last in, first out.
        self.ready[first_unit..].reverse();
        self.heavy[first_heavy..].reverse();
        deferred.len()
    }

    /// What was deferred, as (the first delta on the same chain, base, delta), in the order in which it
    /// is to run; and of each link that has to be made again for it, the top of its chain.
    fn deferred_by_chain(&mut self) -> (Vec<(Index, Index, Index)>, IndexMap<Index>) {
        let deferred = std::mem::take(&mut self.deferred);
        let mut tops: IndexMap<Index> = IndexMap::default();
        let mut first_of: IndexMap<Index> = IndexMap::default();
        let mut ordered: Vec<(Index, Index, Index)> = Vec::with_capacity(deferred.len());
        for (base, index) in deferred {
            let top = self.find_top(base, &mut tops);
            let first = first_of.entry(top).or_insert(index);
            *first = index.min(*first);
            ordered.push((top, base, index));
        }
        for (chain, ..) in &mut ordered {
            *chain = first_of[chain];
        }
        ordered.sort_unstable();
        (ordered, tops)
    }

    /// The last link up the chain that is not in memory, or `base` itself if that is; and notes it for
    /// all links on the way.
    fn find_top(&self, base: Index, tops: &mut IndexMap<Index>) -> Index {
        let mut path = Vec::new();
        let (mut at, mut top) = (Some(base), base);
        while let Some(link) = at
            && !self.cache.contains(link)
        {
            if let Some(known) = tops.get(&link) {
                top = *known;
                break;
            }
            path.push(link);
            top = link;
            at = self.table.base(link);
        }
        tops.extend(path.into_iter().map(|link| (link, top)));
        top
    }

    /// The links from `base` up that are still to be made, which leave `tops`: who comes next finds them
    /// made.
    fn links_to(&self, base: Index, tops: &mut IndexMap<Index>) -> Vec<Index> {
        let mut path = Vec::new();
        let mut at = Some(base);
        while let Some(link) = at
            && tops.remove(&link).is_some()
        {
            path.push(link);
            at = self.table.base(link);
        }
        path
    }

    /// Is this parked delta none of the heavy ones?
    fn fits_memory(&self, index: Index) -> bool {
        let about = self.parked.about(index);
        !self.is_large(about.header, about.len)
    }

    /// A unit's objects are known. `results` are buffers of their contents, in order, with what each
    /// weighs in bytes. With
    /// `bodies`, so many bytes are being uploaded beside them, and [`Scheduler::stored`] ends the unit;
    /// without, it has ended. Answers which are the first with their name.
    pub(super) fn resolved(
        &mut self,
        unit: &Unit<B>,
        done: &[Done],
        results: Vec<(B, u64)>,
        bodies: Option<u64>,
    ) -> Vec<bool> {
        let mut objects = unit.items.iter().zip(done).peekable();
        let mut weight = 0;
        for (at, results) in results.into_iter().enumerate() {
            weight += results.1;
            let here = std::iter::from_fn(|| objects.next_if(|(_, done)| done.buffer == at));
            let member =
                |(item, done): (&Item<B>, &Done)| (item.index, done.start as u32, done.len as u32);
            let members = here.map(member).collect();
            self.cache.insert(unit.id, results, members, bodies.is_some());
        }
        let mut first = Vec::with_capacity(done.len());
        for (item, done) in unit.items.iter().zip(done) {
            first.push(self.resolve(item.index, done.kind, done.oid));
        }
        let started = self.started.get_mut(&unit.id).expect("only what has started is resolved");
        started.resolving = false;
        let reads = started.reads;
        *(if reads { &mut self.reading } else { &mut self.resolving }) -= 1;
        match bodies {
            Some(bodies) => {
                let room = started.room.min(weight + bodies);
                self.work_used -= std::mem::replace(&mut started.room, room) - room;
            }
            None => self.end_unit(unit.id),
        }
        first
    }

    /// All that a unit uploads is stored.
    pub(super) fn stored(&mut self, id: u32) {
        self.cache.unpin(id);
        self.end_unit(id);
    }

    fn end_unit(&mut self, id: u32) {
        let started = self.started.remove(&id).expect("a unit ends once");
        self.intake_used -= started.held;
        self.work_used -= started.room;
    }

    /// A heavy delta is resolved and stored; `content` if it is small.
    pub(super) fn heavy_done(&mut self, heavy: &Heavy<B>, done: Done, content: Option<(B, u64)>) {
        if let Some(content) = content {
            let member = vec![(heavy.index, 0, done.len as u32)];
            self.cache.insert(0, content, member, false);
        }
        self.intake_used -= heavy.held;
        self.heavy_runs = false;
        self.resolve(heavy.index, done.kind, done.oid);
    }

    /// An upload of the reader begins; [`Scheduler::other_ended`] follows.
    pub(super) fn other_began(&mut self) {
        self.others += 1;
    }

    /// It has ended, and gives back `bytes` of the intake.
    pub(super) fn other_ended(&mut self, bytes: u64) {
        self.others -= 1;
        self.intake_used -= bytes;
    }

    /// An entry that came as [`Body::Later`] is stored.
    pub(super) fn late_resolved(&mut self, index: Index, kind: Kind, oid: Oid) {
        self.resolve(index, kind, oid);
    }

    /// Is there room for a part?
    pub(super) fn has_part(&self, bytes: u64) -> bool {
        self.parts_used == 0 || self.parts_used + bytes <= self.limits.parts
    }

    /// Room for a part of a pack that is kept; false: wait.
    pub(super) fn take_part(&mut self, bytes: u64) -> bool {
        let fits = self.has_part(bytes);
        if fits {
            self.parts_used += bytes;
        }
        fits
    }

    /// A part is stored.
    pub(super) fn part_ended(&mut self, bytes: u64) {
        self.parts_used -= bytes;
    }

    // ---- what runs -----------------------------------------------------------------------

    /// The next thing to do, if there is room for one that is ready.
    pub(super) fn next(&mut self) -> Option<Command<B>> {
        if !self.heavy_runs
            && let Some(mut heavy) = self.heavy.pop()
        {
            self.heavy_runs = true;
            heavy.base_content = self.cache.get(heavy.base);
            return Some(Command::Heavy(heavy));
        }
        while let Some(mut unit) = self.ready.pop() {
            // Looking for its bases costs more than the rest, and mostly it reads if it did last time.
            if !self.may_start(unit.reads) {
                self.ready.push(unit);
                return None;
            }
            let room = self.find_bases(&mut unit);
            if unit.items.is_empty() {
                self.intake_used -= unit.held;
                continue;
            }
            let fits = self.work_used == 0 || self.work_used + room <= self.limits.work;
            if !self.may_start(unit.reads) || !fits {
                let_go_of_bases(&mut unit);
                self.ready.push(unit);
                return None;
            }
            self.work_used += room;
            *(if unit.reads { &mut self.reading } else { &mut self.resolving }) += 1;
            let (held, reads) = (unit.held, unit.reads);
            self.started.insert(unit.id, Started { held, room, reads, resolving: true });
            return Some(Command::Resolve(unit));
        }
        None
    }

    /// May one more unit start that reads, or that does not?
    fn may_start(&self, reads: bool) -> bool {
        match reads {
            true => self.reading < self.limits.reading.max(1),
            false => self.resolving < self.limits.resolving.max(1),
        }
    }

    /// Looks for the bases of a unit that is to start; what has to be deferred leaves it. Answers all
    /// the room that it will ever need.
    fn find_bases(&mut self, unit: &mut Unit<B>) -> u64 {
        let mut groups: Vec<u32> = Vec::new();
        let (mut results, mut bases, mut read) = (0, 0, 0);
        let mut longest_link = unit.longest_link;
        unit.reads = false;
        let may_defer = !self.readable;
        let mut deferred: IndexMap<()> = IndexMap::default();
        for item in &mut unit.items {
            let Work::Delta { delta, base, base_index } = &mut item.work else {
                if let Work::Object { len, .. } = &item.work {
                    results += len;
                }
                continue;
            };
            let base_is_deferred = may_defer && deferred.contains_key(base_index);
            if matches!(base, Base::Unknown) && !base_is_deferred {
                *base = match self.cache.get_with_group(*base_index) {
                    Some((content, group, weight)) => {
                        if !groups.contains(&group) {
                            groups.push(group);
                            bases += weight;
                        }
                        let kind = self.table.kind(*base_index);
                        Base::Memory(kind.expect("a ready delta's base is resolved"), content)
                    }
                    None => Base::Read(self.stored_at(*base_index)),
                };
            }
            let reads_base = matches!(base, Base::Read(..));
            if may_defer && (base_is_deferred || reads_base) {
                deferred.insert(item.index, ());
                continue;
            }
            results += delta.header.result_len;
            let reads_delta = !delta.is_in_memory();
            unit.reads |= reads_base || reads_delta;
            if reads_base {
                // It, and once more while it is inflated.
                read = read.max(2 * delta.header.base_len);
                longest_link = longest_link.max(self.table.longest(*base_index));
            }
            if reads_delta {
                results += delta.len;
            }
        }
        if !deferred.is_empty() {
            self.defer(unit, &deferred);
        }
        if unit.reads && !self.limits.readable {
            // Two links of a chain of deltas, and the delta between them.
            let longest_link = longest_link.bytes(self.limits.large).min(self.longest);
            read = read.max(3 * longest_link);
        }
        let uploads = if self.limits.uploads { results } else { 0 };
        results + uploads + bases + read + OVERHEAD_BYTES * unit.items.len() as u64
    }

    fn stored_at(&self, index: Index) -> Stored {
        Stored {
            offset: self.table.offset(index),
            kind: self.table.kind(index).expect("what is stored is resolved"),
            oid: self.names.as_ref().map(|names| names.oid(index)),
        }
    }

    /// Takes these items out of the unit, to be resolved when the pack can be read. An item whose base
    /// is one of them waits for it.
    fn defer(&mut self, unit: &mut Unit<B>, deferred: &IndexMap<()>) {
        let mut place_of: Vec<u32> = Vec::with_capacity(unit.items.len());
        let mut kept = Vec::new();
        for item in std::mem::take(&mut unit.items) {
            place_of.push(kept.len() as u32);
            if !deferred.contains_key(&item.index) {
                kept.push(item);
                continue;
            }
            let Item { index, crc32, work: Work::Delta { mut delta, base_index, .. }, .. } = item
            else {
                unreachable!("only deltas have bases");
            };
            let keep = delta.len + OVERHEAD_BYTES;
            delta.bytes = match delta.bytes {
                // The entry is far from its base, so that reading it again costs a block.
                DeltaBytes::Memory(bytes)
                    if delta.len <= SHORT_BYTES
                        && self.deferred_used + keep <= self.limits.deferred =>
                {
                    self.deferred_used += keep;
                    DeltaBytes::Memory(bytes.detach())
                }
                _ => DeltaBytes::InPack,
            };
            let parked = Parked { crc32, delta, held: 0, next: NONE };
            self.parked.insert(index, parked);
            match deferred.contains_key(&base_index) {
                true => self.wait_for(index, base_index),
                false => self.deferred.push((base_index, index)),
            }
        }
        for item in &mut kept {
            if let Work::Delta { base: Base::Earlier(place), .. } = &mut item.work {
                *place = place_of[*place as usize];
            }
        }
        unit.items = kept;
    }

    /// Is nothing in flight? (Then nothing is ready either, once `next` has answered `None`.)
    pub(super) fn is_idle(&self) -> bool {
        self.started.is_empty() && !self.heavy_runs && self.others == 0
    }

    /// Is no part of a pack on its way?
    pub(super) fn has_no_parts(&self) -> bool {
        self.parts_used == 0
    }

    // ---- names ---------------------------------------------------------------------------

    /// From now on objects are known by their names; those resolved before are recognised by
    /// [`Scheduler::learn`]. False: they are already.
    pub(super) fn begin_names(&mut self) -> bool {
        if self.names.is_some() {
            return false;
        }
        let mut names = Names::new(self.format);
        (0..self.table.len()).for_each(|_| names.add());
        self.names = Some(names);
        true
    }

    /// The entry at `offset` is `oid`.
    pub(super) fn learn(&mut self, offset: u64, oid: &Oid) {
        if let (Some(index), Some(names)) = (self.table.find(offset), &mut self.names) {
            names.resolve(index, oid);
        }
    }

    /// The entry with this name, where names are kept.
    pub(super) fn find(&self, oid: &Oid) -> Option<Index> {
        self.names.as_ref()?.find(oid)
    }

    /// Names that deltas wait for and no entry has.
    pub(super) fn missing_bases(&self) -> Vec<Oid> {
        self.waiting_for_oid.keys().collect()
    }

    // ---- the end -------------------------------------------------------------------------

    pub(super) fn offset(&self, index: Index) -> u64 {
        self.table.offset(index)
    }

    /// The entry that begins at `offset`.
    pub(super) fn find_offset(&self, offset: u64) -> Option<Index> {
        self.table.find(offset)
    }

    /// The content of the object at `offset`, if it is in memory.
    pub(super) fn content_at(&mut self, offset: u64) -> Option<B> {
        let index = self.table.find(offset)?;
        self.cache.get(index)
    }

    /// Entries that are not resolved.
    pub(super) fn unresolved(&self) -> usize {
        self.table.len() - self.table.resolved_count()
    }

    /// When the pack has ended and nothing is in flight: the error for what is unresolved.
    pub(super) fn first_unresolved(&self) -> Option<ResolveError> {
        let index = self.table.first_unresolved()?;
        let holds = |mut at: Index| {
            while at != NONE && at != index {
                at = self.parked.next(at).unwrap_or(NONE);
            }
            at == index
        };
        let by_oid = self.waiting_for_oid.iter().find(|(_, head)| holds(**head));
        let by_entry = || self.waiting.iter().find(|(_, head)| holds(**head));
        Some(ResolveError::MissingBase {
            offset: self.offset(index),
            base: match (by_oid, by_entry()) {
                (Some((oid, _)), _) => oid.to_string(),
                (None, Some((base, _))) => format!("at offset {}", self.offset(*base)),
                (None, None) => "(unknown)".into(),
            },
            waiting: self.unresolved(),
        })
    }

    /// Gives back what is not needed once everything is resolved.
    pub(super) fn forget_contents(&mut self) {
        self.cache = Cache::new(0);
        self.table = Table::new(false);
        self.names = None;
    }

    /// What is held: intake, work and parts.
    #[cfg(test)]
    pub(super) fn held(&self) -> (u64, u64, u64) {
        (self.intake_used, self.work_used, self.parts_used)
    }

    /// How many units hold room of `work`.
    #[cfg(test)]
    pub(super) fn units_with_room(&self) -> usize {
        self.started.values().filter(|started| started.room > 0).count()
    }

    /// What is where, for a person who looks for a fault.
    pub(super) fn describe(&self) -> String {
        format!(
            "{} entries, {} resolved, {} parked, {} units ready, {} deferred, {} heavy ready, heavy \
             runs: {}; in flight: {} units ({} resolve, {} read), {} others; held: intake {} of {}, \
             work {} of {}, parts {} of {}",
            self.table.len(),
            self.table.resolved_count(),
            self.parked.len(),
            self.ready.len(),
            self.deferred.len(),
            self.heavy.len(),
            self.heavy_runs,
            self.started.len(),
            self.resolving,
            self.reading,
            self.others,
            self.intake_used,
            self.limits.intake,
            self.work_used,
            self.limits.work,
            self.parts_used,
            self.limits.parts,
        )
    }
}

/// A unit that does not start must not keep bases in memory.
fn let_go_of_bases<B>(unit: &mut Unit<B>) {
    for item in &mut unit.items {
        if let Work::Delta { base, .. } = &mut item.work
            && !matches!(base, Base::Earlier(_))
        {
            *base = Base::Unknown;
        }
    }
}
