//! The scheduler alone, through random packs, budgets and completions: it always ends, and right.
//!
//! No thread and no time: what is in flight is a list, and what ends next is drawn from it. In some runs
//! one of these fails: then nothing new is begun, and what else is in flight still ends and is reported, as the
//! engine's threads do. A simulation that goes wrong prints its seed; `SIMULATION_SEED=n cargo test --lib simulation` runs that one alone, and
//! `SIMULATIONS=1000000` as many as that.

use super::cache::Bytes;
use super::parked::{Delta, DeltaBytes};
use super::scheduler::Scheduler;
use super::units::{
    Base, BaseName, Body, Command, Done, Entry, Heavy, Limits, OVERHEAD_BYTES, Room, Unit, Work,
};
use crate::git::object::{Kind, ObjectFormat, Oid};
use crate::pack::delta::DeltaHeader;
use crate::pack::object::Index;

/// Nothing is needed of bytes but that they can be counted, which the scheduler does by itself.
impl Bytes for () {
    fn slice(&self, _: usize, _: usize) -> Self {}
    fn detach(&self) -> Self {}
}

/// xorshift64*.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Random((seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// Log-uniform up to `most`.
    fn size(&mut self, most: u64) -> u64 {
        let bits = self.below(u64::from(most.ilog2()) + 1);
        self.below(1 << bits).min(most)
    }
}

/// An entry of the made pack: what it names as its base, its content's and its delta's length.
struct Made {
    base: Option<(Index, bool)>,
    len: u64,
    delta_len: u64,
    oid: Oid,
}

fn oid(number: u64) -> Oid {
    let mut bytes = [0; 20];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    bytes[19] = 1;
    Oid::from_bytes(bytes)
}

/// Forests, chains, bases last, duplicates; with `missing`, a delta whose base never comes.
fn make_pack(random: &mut Random, most: u64, missing: bool) -> Vec<Made> {
    let count = 1 + random.size(64);
    let shape = random.below(4);
    let mut pack: Vec<Made> = Vec::new();
    for number in 0..count {
        let base = match shape {
            _ if number == 0 => None,
            0 => random.chance(70).then(|| (random.below(number) as Index, random.chance(30))),
            1 => Some((number as Index - 1, false)),
            2 => Some((0, random.chance(10))),
            // Bases last, by name: turned round below.
            _ => random.chance(80).then(|| (random.below(number) as Index, true)),
        };
        let is_twin = base.is_none() && number > 0 && random.chance(10);
        let twin = is_twin.then(|| random.below(number) as usize);
        let (len, name) = match twin {
            Some(at) => (pack[at].len, pack[at].oid),
            None => (random.size(most), oid(number)),
        };
        pack.push(Made { base, len, delta_len: random.size(most / 2), oid: name });
    }
    if shape == 3 {
        let last = pack.len() as Index - 1;
        pack.reverse();
        for made in &mut pack {
            made.base = made.base.map(|(base, _)| (last - base, true));
        }
    }
    if missing {
        let oid = oid(1 << 40);
        pack.push(Made { base: Some((Index::MAX, true)), len: 1, delta_len: 1, oid });
    }
    pack
}

/// What is in flight.
enum Flight {
    Unit(Unit<()>),
    Uploads(u32, Vec<Index>),
    Heavy(Heavy<()>),
    /// A large object on its way, with its room.
    Late(Index, u64),
    Part(u64),
}

struct World<'p> {
    pack: &'p [Made],
    limits: Limits,
    scheduler: Scheduler<()>,
    random: Random,
    flights: Vec<Flight>,
    resolved: Vec<bool>,
    /// Can be read from the store.
    stored: Vec<bool>,
    pack_is_stored: bool,
    spilled: u32,
    next: usize,
    /// How many more things end before one fails; `None`: none does.
    fails_after: Option<u64>,
    /// The run has failed: no more commands are carried out.
    is_over: bool,
}

impl World<'_> {
    fn offset(index: usize) -> u64 {
        12 + 10 * index as u64
    }

    fn drain(&mut self) {
        if self.is_over {
            return;
        }
        while let Some(command) = self.scheduler.next() {
            match command {
                Command::Resolve(unit) => {
                    assert!(!unit.items.is_empty());
                    self.check(&unit);
                    self.flights.push(Flight::Unit(unit));
                }
                Command::Heavy(heavy) => {
                    assert!(!self.flights.iter().any(|f| matches!(f, Flight::Heavy(_))));
                    assert!(self.resolved[heavy.base as usize], "its base is not resolved");
                    self.check_readable(heavy.base, heavy.base_content.is_some());
                    self.flights.push(Flight::Heavy(heavy));
                }
            }
        }
        let (_, work, parts) = self.scheduler.held();
        let running = self.scheduler.units_with_room();
        let limit = self.limits.work_after.max(self.limits.work);
        assert!(work <= limit || running == 1, "{running} units hold {work} of {limit}");
        let on_their_way = self.flights.iter().filter(|f| matches!(f, Flight::Part(_))).count();
        assert!(parts <= self.limits.parts || on_their_way <= 1);
    }

    fn check_readable(&self, base: Index, in_memory: bool) {
        let oid = self.pack[base as usize].oid;
        let of_this_name = (0..self.pack.len()).filter(|at| self.pack[*at].oid == oid);
        let stored = of_this_name.into_iter().any(|at| self.stored[at]);
        assert!(in_memory || self.pack_is_stored || stored, "its base can't be read");
    }

    /// Every base is in memory, can be read, or comes earlier in the unit.
    fn check(&self, unit: &Unit<()>) {
        for (at, item) in unit.items.iter().enumerate() {
            assert!(!self.resolved[item.index as usize], "resolved twice");
            let Work::Delta { base, base_index, delta } = &item.work else { continue };
            match base {
                Base::Unknown => panic!("a delta starts without base"),
                Base::Earlier(place) => {
                    assert!((*place as usize) < at);
                    assert_eq!(unit.items[*place as usize].index, *base_index);
                }
                Base::Memory(..) => assert!(self.resolved[*base_index as usize]),
                Base::Read(..) => {
                    assert!(self.resolved[*base_index as usize] && unit.reads);
                    self.check_readable(*base_index, false);
                }
            }
            let made = &self.pack[item.index as usize];
            let named = made.base.expect("a delta").0 as usize;
            assert_eq!(self.pack[*base_index as usize].oid, self.pack[named].oid, "another base");
            if matches!(delta.bytes, DeltaBytes::InPack) {
                assert!(self.pack_is_stored && unit.reads);
            }
        }
    }

    /// Hands the scheduler one more batch; false: there is no room.
    fn read(&mut self) -> bool {
        let large = self.limits.large;
        let first = self.next;
        let mut entries = Vec::new();
        let most = 1 + self.random.below(8) as usize;
        let mut late = Vec::new();
        while self.next < self.pack.len() && entries.len() < most {
            let made = &self.pack[self.next];
            let offset = Self::offset(self.next);
            let held = made.base.map_or(made.len, |_| made.delta_len) + OVERHEAD_BYTES;
            let is_large = held - OVERHEAD_BYTES > large;
            if is_large && !entries.is_empty() {
                break;
            }
            let (body, held) = match made.base {
                None if is_large && self.limits.readable => {
                    late.push(self.next as Index);
                    (Body::Later, 0)
                }
                None if is_large => (Body::Named { kind: Kind::Blob, oid: made.oid }, 0),
                None => {
                    let raw = None;
                    (Body::Object { kind: Kind::Blob, content: (), len: made.len, raw }, held)
                }
                Some((base, by_oid)) => {
                    let bytes = match is_large {
                        false => DeltaBytes::Memory(()),
                        true if self.limits.readable => DeltaBytes::Spilled { file: 0, start: 0 },
                        true => DeltaBytes::InPack,
                    };
                    let base_len = self.pack.get(base as usize).map_or(1, |base| base.len);
                    let header = DeltaHeader { base_len, result_len: made.len };
                    let base = match (by_oid, self.pack.get(base as usize)) {
                        (true, Some(base)) => BaseName::Oid(base.oid),
                        (_, None) => BaseName::Oid(oid(1 << 50)),
                        (false, Some(_)) => BaseName::Offset(Self::offset(base as usize)),
                    };
                    let delta = Delta { header, len: made.delta_len, bytes };
                    (Body::Delta { base, delta }, if is_large { 0 } else { held })
                }
            };
            entries.push(Entry { offset, crc32: 0, body, held });
            self.next += 1;
            if is_large {
                break;
            }
        }
        let held: u64 = entries.iter().map(|entry| entry.held).sum();
        // A part of a large object is filled in the reader's room.
        let room = if late.is_empty() { held } else { self.limits.unit_bytes };
        match self.scheduler.take_room(room, 1 + self.random.below(1000)) {
            Room::Taken => {}
            Room::Wait => {
                assert!(!self.flights.is_empty(), "waits for nothing");
                self.next = first;
                return false;
            }
            Room::Spill(deltas) => {
                assert!(self.flights.is_empty() && !deltas.is_empty());
                self.spilled += 1;
                let places: Vec<_> = deltas.iter().map(|(index, ())| (*index, 0)).collect();
                self.scheduler.spilled(self.spilled, &places);
                self.next = first;
                return true;
            }
        }
        let by_name = entries
            .iter()
            .any(|entry| matches!(entry.body, Body::Delta { base: BaseName::Oid(_), .. }));
        if by_name && self.scheduler.begin_names() {
            for at in (0..first).filter(|at| self.resolved[*at]) {
                self.scheduler.learn(Self::offset(at), &self.pack[at].oid);
            }
        }
        for (at, entry) in entries.iter().enumerate() {
            if let Body::Named { .. } = entry.body {
                self.resolved[first + at] = true;
            }
        }
        if !late.is_empty() {
            self.scheduler.other_began();
            self.flights.push(Flight::Late(late[0], room));
        }
        assert_eq!(self.scheduler.add(entries).expect("offsets of entries"), first as Index);
        if !self.limits.readable && self.random.chance(20) {
            let bytes = 1 + self.random.size(self.limits.parts * 2);
            if self.scheduler.take_part(bytes) {
                self.flights.push(Flight::Part(bytes));
            }
        }
        self.drain();
        true
    }

    fn done(&self, index: Index, start: usize) -> Done {
        let made = &self.pack[index as usize];
        Done { kind: Kind::Blob, oid: made.oid, buffer: 0, start, len: made.len as usize }
    }

    /// Does what has just ended end by a failure?
    fn fails(&mut self) -> bool {
        let Some(left) = self.fails_after.filter(|_| !self.is_over) else { return false };
        self.fails_after = left.checked_sub(1);
        self.is_over = left == 0;
        self.is_over
    }

    /// Ends one thing that is in flight.
    fn end_one(&mut self) {
        let at = self.random.below(self.flights.len() as u64) as usize;
        let ended = self.flights.swap_remove(at);
        if self.fails() {
            return;
        }
        match ended {
            Flight::Unit(unit) => {
                let mut start = 0;
                let mut done = Vec::new();
                for item in &unit.items {
                    done.push(self.done(item.index, start));
                    start += done[done.len() - 1].len;
                    assert!(!std::mem::replace(&mut self.resolved[item.index as usize], true));
                }
                let bodies = self.limits.uploads.then_some(start as u64 / 2);
                // In one buffer, or cut in two anywhere.
                let cut = self.random.below(done.len() as u64) as usize;
                done[cut..].iter_mut().for_each(|done| done.buffer = 1);
                let len = |of: &[Done]| of.iter().map(|done| done.len as u64).sum();
                let results = vec![((), len(&done[..cut])), ((), len(&done[cut..]))];
                let first = self.scheduler.resolved(&unit, &done, results, bodies);
                if bodies.is_some() {
                    let new = unit.items.iter().zip(first).filter(|(_, first)| *first);
                    let new = new.map(|(item, _)| item.index).collect();
                    self.flights.push(Flight::Uploads(unit.id, new));
                }
            }
            Flight::Uploads(id, new) => {
                new.iter().for_each(|index| self.stored[*index as usize] = true);
                self.scheduler.stored(id);
            }
            Flight::Heavy(heavy) => {
                let index = heavy.index as usize;
                assert!(!std::mem::replace(&mut self.resolved[index], true));
                self.stored[index] = true;
                let len = self.pack[index].len;
                let content = (len <= self.limits.large).then_some(((), len));
                self.scheduler.heavy_done(&heavy, self.done(heavy.index, 0), content);
            }
            Flight::Late(index, room) => {
                self.resolved[index as usize] = true;
                self.stored[index as usize] = true;
                let oid = self.pack[index as usize].oid;
                self.scheduler.late_resolved(index, Kind::Blob, oid);
                self.scheduler.other_ended(room);
            }
            Flight::Part(bytes) => self.scheduler.part_ended(bytes),
        }
        self.drain();
    }
}

fn simulate(seed: u64) {
    let mut random = Random::new(seed);
    let large = 64 << random.below(8);
    let readable = random.chance(50);
    let missing = random.chance(5);
    let pack = make_pack(&mut random, large * 3, missing);
    let pool = |random: &mut Random| large / 4 + random.size(large * 8);
    let work = pool(&mut random);
    let limits = Limits {
        intake: pool(&mut random),
        work,
        work_after: work + random.size(large),
        cache: random.size(large * 16),
        parts: pool(&mut random),
        deferred: random.size(large * 4),
        large,
        unit_bytes: 16 + random.size(large),
        unit_entries: 1 + random.below(16) as usize,
        resolving: 1 + random.below(4) as usize,
        reading: 1 + random.below(4) as usize,
        readable,
        uploads: readable,
    };
    let fails_after = random.chance(20).then(|| random.below(2 * pack.len() as u64));
    let mut world = World {
        pack: &pack,
        limits,
        scheduler: Scheduler::new(limits, readable, ObjectFormat::Sha1),
        random,
        flights: Vec::new(),
        resolved: vec![false; pack.len()],
        stored: vec![false; pack.len()],
        pack_is_stored: false,
        spilled: 0,
        next: 0,
        fails_after,
        is_over: false,
    };
    let mut steps = 0;
    let mut step = |world: &World<'_>| {
        steps += 1;
        assert!(steps < 100_000, "it does not end: {}", world.scheduler.describe());
    };
    while world.next < pack.len() && !world.is_over {
        step(&world);
        let reads = world.flights.is_empty() || world.random.chance(60);
        if !reads || !world.read() {
            world.end_one();
        }
    }
    while !world.flights.is_empty() {
        step(&world);
        world.end_one();
    }
    if world.is_over {
        // Everyone has left; whatever the scheduler still holds goes with it.
        return;
    }
    assert!(world.scheduler.is_idle() && world.scheduler.has_no_parts());
    if !readable {
        world.pack_is_stored = true;
        world.scheduler.pack_stored();
        world.drain();
        while !world.flights.is_empty() {
            step(&world);
            world.end_one();
        }
        if world.is_over {
            return;
        }
    }
    assert!(world.scheduler.is_idle());
    assert_eq!(
        world.scheduler.unresolved(),
        usize::from(missing),
        "{}",
        world.scheduler.describe()
    );
    assert_eq!(world.scheduler.first_unresolved().is_some(), missing);
    let (intake, work, parts) = world.scheduler.held();
    assert_eq!((work, parts), (0, 0));
    assert!(intake == 0 || missing, "{intake} of the intake are still held");
}

#[test]
fn every_schedule_ends_right_and_within_its_budget() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    if let Some(seed) = number("SIMULATION_SEED") {
        return simulate(seed);
    }
    let count = number("SIMULATIONS").unwrap_or(300_000);
    for seed in 0..count {
        if std::panic::catch_unwind(|| simulate(seed)).is_err() {
            panic!("SIMULATION_SEED={seed} fails");
        }
    }
}

/// A scheduler of a pack that is read back only once it is stored, and that keeps nothing in memory.
fn scheduler_of_a_pack(large: u64, work_after: u64, unit_entries: usize) -> Scheduler<()> {
    let limits = Limits {
        intake: 1 << 30,
        work: 1 << 30,
        work_after,
        cache: 0,
        parts: 0,
        deferred: 0,
        large,
        unit_bytes: 64 << 10,
        unit_entries,
        resolving: 4,
        reading: 4,
        readable: false,
        uploads: false,
    };
    Scheduler::new(limits, false, ObjectFormat::Sha1)
}

/// An object of so many bytes, or a delta on an entry that makes one.
fn entry(number: usize, base: Option<usize>, len: u64) -> Entry<()> {
    let body = match base {
        None => Body::Object { kind: Kind::Blob, content: (), len, raw: None },
        Some(base) => {
            let header = DeltaHeader { base_len: len, result_len: len };
            let delta = Delta { header, len: 8, bytes: DeltaBytes::Memory(()) };
            Body::Delta { base: BaseName::Offset(World::offset(base)), delta }
        }
    };
    Entry { offset: World::offset(number), crc32: 0, body, held: 100 }
}

/// Adds an entry that comes by itself.
fn add(scheduler: &mut Scheduler<()>, number: usize, base: Option<usize>, len: u64) {
    assert!(matches!(scheduler.take_room(100, 0), Room::Taken));
    let entry = entry(number, base, len);
    assert_eq!(scheduler.add(vec![entry]).unwrap(), number as Index);
}

/// Everything that may start at once.
fn start(scheduler: &mut Scheduler<()>) -> Vec<Unit<()>> {
    let unit = |command| match command {
        Command::Resolve(unit) => unit,
        Command::Heavy(_) => panic!("nothing is large"),
    };
    std::iter::from_fn(|| scheduler.next()).map(unit).collect()
}

fn end(scheduler: &mut Scheduler<()>, units: Vec<Unit<()>>) {
    for unit in units {
        let done = |index| Done {
            kind: Kind::Blob,
            oid: oid(u64::from(index)),
            buffer: 0,
            start: 0,
            len: 1,
        };
        let done: Vec<Done> = unit.items.iter().map(|item| done(item.index)).collect();
        scheduler.resolved(&unit, &done, vec![((), 1)], None);
    }
}

/// Ends what starts until nothing does: what is left needs the stored pack.
fn end_first_pass(scheduler: &mut Scheduler<()>) {
    loop {
        let units = start(scheduler);
        if units.is_empty() {
            return;
        }
        end(scheduler, units);
    }
}

/// It takes as much room to read a base back as the longest link of its own chain.
#[test]
fn one_long_object_does_not_make_the_second_pass_take_turns() {
    let large = 1 << 20;
    let mut scheduler = scheduler_of_a_pack(large, 4 * large, 1);
    add(&mut scheduler, 0, None, large);
    (1..=4).for_each(|base| add(&mut scheduler, base, None, 1000));
    end_first_pass(&mut scheduler);
    (1..=4).for_each(|base| add(&mut scheduler, 4 + base, Some(base), 1000));
    end_first_pass(&mut scheduler);
    assert_eq!(scheduler.pack_stored(), 4);
    let units = start(&mut scheduler);
    assert_eq!(units.len(), 4);
    // Those of the long one do take turns.
    end(&mut scheduler, units);
    assert_eq!(scheduler.unresolved(), 0);
    let mut scheduler = scheduler_of_a_pack(large, 4 * large, 1);
    add(&mut scheduler, 0, None, large);
    end_first_pass(&mut scheduler);
    (1..=4).for_each(|number| add(&mut scheduler, number, Some(0), large));
    end_first_pass(&mut scheduler);
    assert_eq!(scheduler.pack_stored(), 4);
    for _ in 0..4 {
        let units = start(&mut scheduler);
        assert_eq!(units.len(), 1);
        end(&mut scheduler, units);
    }
    assert_eq!(scheduler.unresolved(), 0);
}

/// What lies side by side in the pack is read together, wherever the bases are; but a chain is made once.
#[test]
fn second_pass_follows_the_pack_and_stays_with_a_chain() {
    let mut scheduler = scheduler_of_a_pack(1 << 20, 1 << 20, 1);
    assert!(matches!(scheduler.take_room(200, 0), Room::Taken));
    scheduler.add(vec![entry(0, None, 100), entry(1, Some(0), 100)]).unwrap();
    add(&mut scheduler, 2, None, 100);
    add(&mut scheduler, 3, None, 100);
    end_first_pass(&mut scheduler);
    for (number, base) in [(4, 3), (5, 1), (6, 2), (7, 0), (8, 1)] {
        add(&mut scheduler, number, Some(base), 100);
    }
    end_first_pass(&mut scheduler);
    assert_eq!(scheduler.pack_stored(), 5);
    let mut order = Vec::new();
    loop {
        let units = start(&mut scheduler);
        if units.is_empty() {
            break;
        }
        order.extend(units.iter().map(|unit| (unit.items[0].index, unit.links.clone())));
        end(&mut scheduler, units);
    }
    let wanted = [(4, vec![3]), (7, vec![0]), (5, vec![1]), (8, vec![]), (6, vec![2])];
    let before_first = |links: Vec<Index>| links.into_iter().map(|link| (0, link)).collect();
    assert_eq!(order, wanted.map(|(index, links)| (index, before_first(links))));
    assert_eq!(scheduler.unresolved(), 0);
}

/// Its links are made down the chain, each before the first item that stands on it.
#[test]
fn links_are_made_once_by_whoever_comes_first() {
    let mut scheduler = scheduler_of_a_pack(1 << 20, 1 << 20, 64);
    assert!(matches!(scheduler.take_room(400, 0), Room::Taken));
    let chain = [(0, None), (1, Some(0)), (2, Some(1)), (3, Some(1))];
    let chain = chain.map(|(number, base)| entry(number, base, 100));
    scheduler.add(Vec::from(chain)).unwrap();
    end_first_pass(&mut scheduler);
    for (number, base) in [(4, 3), (5, 2), (6, 2)] {
        add(&mut scheduler, number, Some(base), 100);
    }
    end_first_pass(&mut scheduler);
    assert_eq!(scheduler.pack_stored(), 3);
    let units = start(&mut scheduler);
    let [unit] = &units[..] else { panic!("{} units", units.len()) };
    assert_eq!(unit.items.iter().map(|item| item.index).collect::<Vec<_>>(), [5, 6, 4]);
    assert_eq!(unit.links, [(0, 0), (0, 1), (0, 2), (2, 3)]);
    end(&mut scheduler, units);
    assert_eq!(scheduler.unresolved(), 0);
}

/// Their instructions are read back from the same blocks.
#[test]
fn a_family_that_was_let_go_is_one_unit_of_the_second_pass() {
    let mut scheduler = scheduler_of_a_pack(1 << 20, 1 << 20, 64);
    add(&mut scheduler, 0, None, 100);
    end_first_pass(&mut scheduler);
    (1..=10).for_each(|number| add(&mut scheduler, number, Some(number - 1), 100));
    end_first_pass(&mut scheduler);
    // Room for all that there is, so that what waits is let go.
    assert!(matches!(scheduler.take_room(1 << 30, 0), Room::Taken));
    scheduler.return_room(1 << 30);
    assert_eq!(scheduler.pack_stored(), 1);
    let sizes = std::iter::from_fn(|| {
        let units = start(&mut scheduler);
        let size = units.iter().map(|unit| unit.items.len()).sum::<usize>();
        end(&mut scheduler, units);
        (size > 0).then_some(size)
    });
    assert_eq!(sizes.collect::<Vec<_>>(), [1, 9]);
}
