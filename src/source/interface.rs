//! What every source does.

use std::io::Read;
use std::time::Duration;

use super::error::{BatchError, SourceError};
use super::exchange::Download;
use crate::git::lfs_pointer::LfsPointer;
use crate::git::object::Oid;
use crate::git::refs::Advertisement;

/// A repository to read from.
pub trait Source: Send + Sync {
    /// Where this is, for people and for the state in the bucket: a URL without secrets.
    fn describe(&self) -> String;

    /// Where it really is, if it has led elsewhere since it was asked: a URL without secrets.
    fn redirected_to(&self) -> Option<String> {
        None
    }

    /// The URL of the repository that it is a copy of, if it is one (a mirror).
    fn origin(&self) -> Option<String> {
        None
    }

    /// Asks for the refs. Each call is a fresh question.
    fn advertisement(&self) -> Result<Advertisement, SourceError>;

    /// Asks for a pack with everything that `wants` reach and `haves` don't, and streams it: the
    /// bytes of the pack alone, from `PACK` to its trailer, side-bands taken apart. Self-contained,
    /// not thin, but for a source with [`Source::prerequisites`]. An error inside the stream is an [`std::io::Error`] that wraps a
    /// [`SourceError`] ([`SourceError::from_io`] gets it back). `words` hears the source's own
    /// progress text (side-band 2), a line at a time, already free of control characters.
    ///
    /// `wants` must not be empty, and come from the last [`Source::advertisement`] or from
    /// [`Source::commits_at`].
    fn fetch<'a>(
        &'a self,
        wants: &[Oid],
        haves: &[Oid],
        words: Box<dyn FnMut(&str) + Send + 'a>,
    ) -> Result<Box<dyn Read + Send + 'a>, SourceError>;

    /// The commits that are `depth` generations down from `tip`, itself counted, and have parents: what
    /// `tip` reaches beyond them, they reach. None of them: its history is not that long. `None`: this
    /// source does not say.
    fn commits_at(&self, tip: Oid, depth: u32) -> Result<Option<Vec<Oid>>, SourceError> {
        let _ = (tip, depth);
        Ok(None)
    }

    /// Asks for a pack of these objects alone, whatever they lead to, also if no ref names them. `None`:
    /// this source can't. It may send more.
    fn fetch_objects<'a>(
        &'a self,
        wants: &[Oid],
        words: Box<dyn FnMut(&str) + Send + 'a>,
    ) -> Result<Option<Box<dyn Read + Send + 'a>>, SourceError> {
        let _ = (wants, words);
        Ok(None)
    }

    /// A pack of the whole repository as it was some time ago, made beforehand, that continues where it was
    /// when the line breaks. `None`: there is none.
    fn seed(&self) -> Result<Option<Seed<'_>>, SourceError> {
        Ok(None)
    }

    /// Does it send all that it has, whatever is asked for?
    fn sends_everything(&self) -> bool {
        false
    }

    /// Commits that the reader must have, with everything that they reach: this source is only what
    /// was new since (a bundle). Then its pack may be thin, and a ref that it does not advertise is
    /// one that did not move. None: the source is a whole repository.
    fn prerequisites(&self) -> Result<Vec<Oid>, SourceError> {
        Ok(Vec::new())
    }

    /// Where this repository's LFS objects are. `lfsconfig` is the file `.lfsconfig` of its HEAD, if
    /// it has one. `None`: this source has no LFS objects (a bundle alone).
    fn lfs(&self, lfsconfig: Option<&[u8]>) -> Option<Box<dyn LfsSource + '_>> {
        let _ = lfsconfig;
        None
    }

    /// How many requests have been sent so far, each try counted, those for LFS included.
    fn requests(&self) -> u64;
}

/// A pack that was made beforehand.
pub struct Seed<'a> {
    /// Where it comes from, for people.
    pub place: String,
    /// What it has, with everything that they reach.
    pub tips: Vec<Oid>,
    /// The pack: [`Source::fetch`] says how it is.
    pub pack: Box<dyn Read + Send + 'a>,
}

/// What an LFS server says to one object: where it is to be had, or why not, in words.
pub type Offer = Result<Download, String>;

/// Where LFS objects come from. Nothing is repeated here: the caller does, and can stop waiting.
pub trait LfsSource: Send + Sync {
    /// Where this is, for people: a URL without secrets.
    fn describe(&self) -> String;

    /// Asks where `objects` are, at most [`BATCH_OBJECTS`](super::lfs::BATCH_OBJECTS); an answer for each, in their order.
    fn batch(&self, objects: &[LfsPointer]) -> Result<Vec<Offer>, BatchError>;

    /// Streams an object's bytes from `offset` on. An error inside the stream is an
    /// [`std::io::Error`] that wraps a [`SourceError`]. The bytes are not checked.
    fn open(&self, download: &Download, offset: u64) -> Result<Box<dyn Read + Send>, SourceError>;

    /// The wait after a first failure that may pass; it doubles each time.
    fn first_wait(&self) -> Duration {
        Duration::from_millis(500)
    }
}
