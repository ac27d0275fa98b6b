//! A repository in one file, or on standard input: a git bundle (git-bundle(1)).
//!
//! For mirrors across an air gap. A file is opened anew for each question; a stream can be read once:
//! its refs are kept, and its pack can be fetched one time. A bundle can't choose: its pack is
//! streamed whole, whatever is wanted.
//!
//! A bundle with prerequisites (`git bundle create x main ^old`) is what was new since. Git writes its
//! pack *thin*: here alone a pack may have deltas whose bases are in the mirror and not in the pack.
//! That the mirror has the prerequisites is for the mirror to find out.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::PathBuf;
use std::sync::Mutex;

use crate::git::bundle::{BundleError, BundleHeader, read_header};
use crate::git::object::Oid;
use crate::git::refs::{Advertisement, max_refs_bytes};
use crate::source::error::{SourceError, SourceErrorKind};
use crate::source::interface::{LfsSource, Source};
use crate::source::lfs_dir::LfsDir;

type Input = Box<dyn BufRead + Send>;

/// A bundle as a source.
pub struct Bundle {
    name: String,
    origin: Origin,
    lfs: Option<LfsDir>,
    max_header_bytes: u64,
}

enum Origin {
    File(PathBuf),
    /// Guarded while the header is read: nobody can have the pack before that.
    Stream(Mutex<Stream>),
}

enum Stream {
    Unread(Input),
    HeaderRead(BundleHeader, Input),
    /// The header could not be read, or the pack was handed out.
    Spent,
}

impl Bundle {
    /// A bundle in a file, which is not opened yet.
    pub fn file(path: impl Into<PathBuf>) -> Bundle {
        let path = path.into();
        Bundle::new(format!("bundle:{}", path.display()), Origin::File(path))
    }

    /// The bundle on standard input.
    pub fn stdin() -> Bundle {
        Bundle::stream("standard input", io::stdin())
    }

    /// A bundle from a stream that `name` describes.
    pub fn stream(name: &str, input: impl Read + Send + 'static) -> Bundle {
        let input: Input = Box::new(BufReader::with_capacity(64 << 10, input));
        let origin = Origin::Stream(Mutex::new(Stream::Unread(input)));
        Bundle::new(name.to_owned(), origin)
    }

    fn new(name: String, origin: Origin) -> Bundle {
        Bundle { name, origin, lfs: None, max_header_bytes: max_refs_bytes(64 << 20) }
    }

    /// The same; refs are read as far as they fit so much working memory ([`max_refs_bytes`]).
    pub fn with_memory(self, memory_bytes: u64) -> Bundle {
        Bundle { max_header_bytes: max_refs_bytes(memory_bytes), ..self }
    }

    /// Where its LFS objects are: a bundle has none in it.
    pub fn with_lfs_dir(self, dir: Option<impl Into<PathBuf>>) -> Bundle {
        Bundle { lfs: dir.map(LfsDir::new), ..self }
    }

    fn fail(&self, message: String) -> SourceError {
        SourceError { kind: SourceErrorKind::Fatal, url: self.name.clone(), message }
    }

    fn refuse(&self, error: BundleError) -> SourceError {
        self.fail(error.to_string())
    }

    /// The header of a file, and what follows it.
    fn open(&self, path: &PathBuf) -> Result<(BundleHeader, Input), SourceError> {
        let file = File::open(path).map_err(|error| self.refuse(error.into()))?;
        let mut input: Input = Box::new(BufReader::with_capacity(64 << 10, file));
        let header =
            read_header(&mut input, self.max_header_bytes).map_err(|error| self.refuse(error))?;
        Ok((header, input))
    }

    /// The header of a stream, read if it was not yet.
    fn read_stream<'s>(&self, stream: &'s mut Stream) -> Result<&'s BundleHeader, SourceError> {
        if let Stream::Unread(_) = stream
            && let Stream::Unread(mut input) = std::mem::replace(stream, Stream::Spent)
        {
            let header = read_header(&mut input, self.max_header_bytes)
                .map_err(|error| self.refuse(error))?;
            *stream = Stream::HeaderRead(header, input);
        }
        match stream {
            Stream::HeaderRead(header, _) => Ok(header),
            _ => Err(self.fail("the stream can be read only once".into())),
        }
    }

    /// What `look` finds in the header.
    fn header<T>(&self, look: impl FnOnce(&BundleHeader) -> T) -> Result<T, SourceError> {
        match &self.origin {
            Origin::File(path) => Ok(look(&self.open(path)?.0)),
            Origin::Stream(stream) => {
                let mut stream = stream.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                Ok(look(self.read_stream(&mut stream)?))
            }
        }
    }
}

impl std::fmt::Debug for Bundle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bundle").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Source for Bundle {
    fn describe(&self) -> String {
        self.name.clone()
    }

    fn advertisement(&self) -> Result<Advertisement, SourceError> {
        let advertised = self.header(|header| header.advertised.clone())?;
        super::exchange::warn_of_skipped(&self.name, &advertised.skipped);
        Ok(advertised.advertisement)
    }

    fn fetch<'a>(
        &'a self,
        _wants: &[Oid],
        _haves: &[Oid],
        _words: Box<dyn FnMut(&str) + Send + 'a>,
    ) -> Result<Box<dyn Read + Send + 'a>, SourceError> {
        match &self.origin {
            Origin::File(path) => Ok(Box::new(self.open(path)?.1)),
            Origin::Stream(stream) => {
                let mut stream = stream.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                self.read_stream(&mut stream)?;
                match std::mem::replace(&mut *stream, Stream::Spent) {
                    Stream::HeaderRead(_, input) => Ok(Box::new(input)),
                    _ => Err(self.fail("the stream can be read only once".into())),
                }
            }
        }
    }

    fn sends_everything(&self) -> bool {
        true
    }

    fn prerequisites(&self) -> Result<Vec<Oid>, SourceError> {
        self.header(|header| header.prerequisites.clone())
    }

    fn lfs(&self, _: Option<&[u8]>) -> Option<Box<dyn LfsSource + '_>> {
        self.lfs.clone().map(|dir| Box::new(dir) as Box<dyn LfsSource>)
    }

    fn requests(&self) -> u64 {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::git::refs::Head;

    const ONE: &str = "1111111111111111111111111111111111111111";

    fn bytes() -> Vec<u8> {
        format!("# v2 git bundle\n-{ONE} x\n{ONE} refs/heads/main\n{ONE} HEAD\n\nPACK...")
            .into_bytes()
    }

    fn fetch(bundle: &Bundle) -> Result<Vec<u8>, SourceError> {
        let mut pack = Vec::new();
        bundle.fetch(&[], &[], Box::new(|_: &str| ()))?.read_to_end(&mut pack).unwrap();
        Ok(pack)
    }

    #[test]
    fn a_stream_gives_its_refs_often_and_its_pack_once() {
        let bundle = Bundle::stream("test", io::Cursor::new(bytes()));
        let one: Oid = ONE.parse().unwrap();
        for _ in 0..2 {
            let advertisement = bundle.advertisement().unwrap();
            assert!(matches!(advertisement.head, Head::Branch(_)));
        }
        assert_eq!(bundle.prerequisites().unwrap(), [one]);
        assert_eq!(fetch(&bundle).unwrap(), b"PACK...");
        assert!(fetch(&bundle).unwrap_err().message.contains("only once"));
        assert!(bundle.advertisement().is_err());
    }

    #[test]
    fn a_file_can_be_read_again_and_a_missing_one_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let bundle = Bundle::file(dir.path().join("x.bundle"));
        assert!(bundle.advertisement().is_err());
        std::fs::write(dir.path().join("x.bundle"), bytes()).unwrap();
        assert_eq!(bundle.advertisement().unwrap().refs.len(), 1);
        assert_eq!(bundle.prerequisites().unwrap().len(), 1);
        assert_eq!(fetch(&bundle).unwrap(), fetch(&bundle).unwrap());
        assert!(bundle.describe().starts_with("bundle:"));
    }

    #[test]
    fn what_is_no_bundle_stays_an_error() {
        let bundle = Bundle::stream("test", io::Cursor::new(b"PACK\n".to_vec()));
        assert!(bundle.advertisement().unwrap_err().message.contains("not a git bundle"));
        assert!(bundle.advertisement().is_err());
        assert_eq!(bundle.requests(), 0);
    }
}
