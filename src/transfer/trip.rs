//! A trip as a source: the tar that [`export`](super::export) wrote, from a file or a pipe, read once.
//!
//! What it says is checked as anything from outside: the list of keys on board is read first, compared
//! with what the target has, and each entry must be the next one of that list, and be proven. A trip
//! that is made for a mirror which has more than this one is refused before anything is stored.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use super::export::LIST;
use super::folders::Folders;
use super::keys::{self, Form, KeyFile, Keys};
use super::prove::{Counts, Item, SMALL_BYTES, What};
use super::storing::{Bring, Copied, Failed, Storing};
use super::tape::{Entry, Reader};
use crate::git::object::{ObjectFormat, Oid};
use crate::git::refs::{Advertisement, Head, parse_head_file, parse_info_refs};
use crate::repository::error::MirrorError;
use crate::repository::publish::max_file_bytes;
use crate::run::threads::for_each;
use crate::source::{Source, SourceError, SourceErrorKind};
use crate::store::Store;

type Input = Box<dyn Read + Send>;

/// A trip that a mirror is made from, or brought up to date.
pub struct TripSource {
    name: String,
    memory_bytes: u64,
    /// The URL of the repository, once its beginning is read.
    repository: OnceLock<String>,
    /// Guarded while its beginning is read: nobody can have the keys before.
    stage: Mutex<Stage>,
}

enum Stage {
    File(PathBuf),
    Unread(Input),
    Begun(Box<Begun>),
    /// Read, or not to be read.
    Spent,
}

struct Begun {
    tape: Reader<Input>,
    file: KeyFile,
    advertisement: Advertisement,
}

impl TripSource {
    /// A trip in a file, which is not opened yet.
    pub fn file(path: impl Into<PathBuf>, memory_bytes: u64) -> Self {
        let path = path.into();
        let name = format!("trip:{}", path.display());
        TripSource::new(name, memory_bytes, Stage::File(path))
    }

    /// A trip from a stream.
    pub fn stream(input: impl Read + Send + 'static, memory_bytes: u64) -> Self {
        TripSource::new("trip:-".into(), memory_bytes, Stage::Unread(Box::new(input)))
    }

    fn new(name: String, memory_bytes: u64, stage: Stage) -> Self {
        TripSource { name, memory_bytes, repository: OnceLock::new(), stage: Mutex::new(stage) }
    }

    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fail(&self, message: impl Into<String>) -> SourceError {
        SourceError {
            kind: SourceErrorKind::Fatal,
            url: self.name.clone(),
            message: message.into(),
        }
    }

    fn unread(&self, error: &io::Error) -> SourceError {
        self.fail(format!("cannot read the exported file: {error}; nothing was published"))
    }

    /// What `look` finds at its beginning.
    fn begun<T>(&self, look: impl FnOnce(&Begun) -> T) -> Result<T, SourceError> {
        let mut stage = self.stage();
        let input: Option<Input> = match std::mem::replace(&mut *stage, Stage::Spent) {
            Stage::File(path) => {
                Some(Box::new(File::open(path).map_err(|error| self.unread(&error))?))
            }
            Stage::Unread(input) => Some(input),
            other => {
                *stage = other;
                None
            }
        };
        if let Some(input) = input {
            let begun = self.begin(input)?;
            if let Some(url) = &begun.file.repository {
                self.repository.get_or_init(|| url.clone());
            }
            *stage = Stage::Begun(Box::new(begun));
        }
        match &*stage {
            Stage::Begun(begun) => Ok(look(begun)),
            _ => Err(self.fail("the exported file can be read only once")),
        }
    }

    fn begin(&self, input: Input) -> Result<Begun, SourceError> {
        let input: Input = Box::new(BufReader::with_capacity(128 << 10, input));
        let mut tape = Reader::new(input);
        let first = tape.next().map_err(|error| self.unread(&error))?;
        if first.is_none_or(|entry| entry.name != LIST) {
            return Err(
                self.fail(format!("it is not an exported file: it does not begin with {LIST}"))
            );
        }
        let file = keys::read(Form::Trip, &mut tape, self.memory_bytes / 2);
        let file = file.map_err(|what| self.fail(format!("{LIST}: {what}")))?;
        let mut head = None;
        loop {
            let entry = tape.next().map_err(|error| self.unread(&error))?;
            let Some(Entry { name, len }) = entry else {
                return Err(self.fail("it has no info/refs"));
            };
            if len > max_file_bytes(self.memory_bytes) {
                return Err(self.fail(format!("{name} has {len} bytes: raise --memory")));
            }
            let content = tape.whole(len).map_err(|error| self.unread(&error))?;
            match name.as_str() {
                "HEAD" if head.is_none() => head = Some(content),
                "info/refs" => {
                    let advertisement = self.advertised(file.format, &content, head.as_deref())?;
                    return Ok(Begun { tape, file, advertisement });
                }
                other => return Err(self.fail(format!("{other} is not expected there"))),
            }
        }
    }

    fn advertised(
        &self,
        format: ObjectFormat,
        refs: &[u8],
        head: Option<&[u8]>,
    ) -> Result<Advertisement, SourceError> {
        let refs = parse_info_refs(refs);
        let refs = refs.map_err(|error| self.fail(format!("info/refs: {error}")))?;
        let head = match head {
            Some(head) => {
                parse_head_file(head, &refs).map_err(|error| self.fail(format!("HEAD: {error}")))?
            }
            None => Head::Absent,
        };
        Ok(Advertisement { format, refs, head })
    }

    /// Refuses a trip that does not fit this mirror.
    fn check_base(
        &self,
        to: &dyn Store,
        there: &Keys,
        wanted: impl Fn(What) -> bool,
    ) -> Result<(), MirrorError> {
        let (mut objects, mut lfs) = (None, None);
        let (mut missing, mut first) = (0_u64, None);
        for what in there.parts().filter(|what| wanted(*what)) {
            let key = what.key();
            if !folders(to, &mut objects, &mut lfs, what)?.around(&key)?.contains_key(&key) {
                missing += 1;
                first.get_or_insert(key);
            }
        }
        let Some(first) = first else { return Ok(()) };
        let target = to.describe();
        Err(self
            .fail(format!(
                "this file was exported for a mirror that has more than {target}: {missing} keys are \
                 missing there, {first} among them; nothing was stored. Import the trips before this \
                 one first, or export again with the state of this mirror (import --target {target} \
                 --state-out FILE)"
            ))
            .into())
    }
}

/// The listing of `to` that `what` is in, begun if it was not.
fn folders<'f, 's>(
    to: &'s dyn Store,
    objects: &'f mut Option<Folders<'s>>,
    lfs: &'f mut Option<Folders<'s>>,
    what: What,
) -> Result<&'f mut Folders<'s>, MirrorError> {
    let (place, is_lfs) = if what.is_lfs() { (lfs, true) } else { (objects, false) };
    Ok(match place {
        Some(folders) => folders,
        None => {
            let begun = if is_lfs { Folders::lfs(to)? } else { Folders::objects(to)? };
            place.insert(begun)
        }
    })
}

impl Bring for TripSource {
    fn bring(
        &self,
        into: &Storing<'_>,
        git: bool,
        lfs: bool,
    ) -> Result<(Option<Copied>, u64), MirrorError> {
        self.begun(|_| ())?;
        let Stage::Begun(begun) = std::mem::replace(&mut *self.stage(), Stage::Spent) else {
            return Err(self.fail("the exported file can be read only once").into());
        };
        let Begun { tape, file, .. } = *begun;
        let wanted = |what: What| if what.is_lfs() { lfs } else { git };
        self.check_base(into.to, &file.there, wanted)?;
        into.progress.phase("importing");
        into.progress
            .expect_objects(file.aboard.parts().filter(|what| wanted(*what)).count() as u64);
        let unloading = Unloading { trip: self, into, counts: Counts::default() };
        let counts = unloading.run(tape, &file.aboard, wanted)?;
        let packs = file.packs.iter().map(|name| format!("pack-{name}")).collect();
        let (objects, bytes) = (counts.objects.into_inner(), counts.bytes.into_inner());
        let copied = git.then_some(Copied { packs, objects, bytes });
        Ok((copied, counts.lfs.into_inner()))
    }
}

/// Keys on their way from the trip to the mirror.
struct Unloading<'e> {
    trip: &'e TripSource,
    into: &'e Storing<'e>,
    counts: Counts,
}

impl Unloading<'_> {
    fn run(
        self,
        mut tape: Reader<Input>,
        aboard: &Keys,
        wanted: impl Fn(What) -> bool,
    ) -> Result<Counts, MirrorError> {
        let (mut objects, mut lfs) = (None, None);
        let (most, most_bytes) = (8 * self.into.concurrency, self.into.memory_bytes / 4);
        let (mut small, mut bytes) = (Vec::new(), 0);
        for what in aboard.parts() {
            let item = self.next(&mut tape, what)?;
            if !wanted(what) {
                continue;
            }
            let there = folders(self.into.to, &mut objects, &mut lfs, what)?.around(&item.key)?;
            if there.get(&item.key) == Some(&item.len) {
                self.into.progress.objects_done(1);
                continue;
            }
            if item.len > SMALL_BYTES || what.is_of_pack() {
                self.several(&std::mem::take(&mut small))?;
                bytes = 0;
                self.store(&item, &mut tape)?;
                continue;
            }
            let content = tape.whole(item.len).map_err(|error| self.trip.unread(&error))?;
            bytes += item.len;
            small.push((item, content));
            if small.len() >= most || bytes >= most_bytes {
                self.several(&std::mem::take(&mut small))?;
                bytes = 0;
            }
        }
        self.several(&small)?;
        match tape.next().map_err(|error| self.trip.unread(&error))? {
            None => Ok(self.counts),
            Some(entry) => Err(self.unexpected(&entry.name)),
        }
    }

    /// The next entry, which must be this one.
    fn next(&self, tape: &mut Reader<Input>, what: What) -> Result<Item, MirrorError> {
        if self.into.cancel.is_cancelled() {
            return Err(MirrorError::Interrupted);
        }
        let key = what.key();
        match tape.next().map_err(|error| self.trip.unread(&error))? {
            Some(Entry { name, len }) if name == key.as_str() => {
                Ok(Item { key, len, what, etag: None })
            }
            Some(entry) => Err(self.unexpected(&entry.name)),
            None => Err(self.trip.fail(format!("{key} is missing; nothing was published")).into()),
        }
    }

    fn unexpected(&self, name: &str) -> MirrorError {
        self.trip.fail(format!("{name} is not expected there; nothing was published")).into()
    }

    fn several(&self, items: &[(Item, Vec<u8>)]) -> Result<(), MirrorError> {
        for_each(items, self.into.concurrency, "import", |(item, content)| {
            self.store(item, &mut &content[..])
        })
    }

    fn store(&self, item: &Item, content: &mut dyn Read) -> Result<(), MirrorError> {
        self.into.store(item, content, &self.counts).map_err(|failed| match failed {
            Failed::Run(error) => error,
            Failed::Damaged(what) => self
                .trip
                .fail(format!("{} is damaged: {what}; nothing was published", item.key))
                .into(),
        })
    }
}

impl Source for TripSource {
    fn describe(&self) -> String {
        self.name.clone()
    }

    /// Known once the refs were asked for.
    fn origin(&self) -> Option<String> {
        self.repository.get().cloned()
    }

    fn advertisement(&self) -> Result<Advertisement, SourceError> {
        self.begun(|begun| begun.advertisement.clone())
    }

    fn fetch<'a>(
        &'a self,
        _: &[Oid],
        _: &[Oid],
        _: Box<dyn FnMut(&str) + Send + 'a>,
    ) -> Result<Box<dyn Read + Send + 'a>, SourceError> {
        Err(self.fail("internal error: a trip is unloaded, it sends no pack"))
    }

    fn requests(&self) -> u64 {
        0
    }
}
