//! The LFS objects of a mirror, for another one that asks for some of them.
//!
//! Nothing that is stored is believed: sizes and hashes are checked by the reader, as those of any server.

use std::io::Read;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use url::Url;

use super::sending::as_source_error;
use crate::git::lfs_pointer::{LfsPointer, sha256};
use crate::repository::error::MirrorError;
use crate::repository::lfs_objects;
use crate::run::threads::for_each;
use crate::source::lfs::Download;
use crate::source::{BatchError, LfsSource, Offer, SourceError};
use crate::store::{Store, StoreError, StoreErrorKind};

/// Objects that are looked for at once.
const THREADS: usize = 16;

/// LFS objects in a store.
pub(super) struct StoredLfs<'s> {
    pub(super) store: &'s dyn Store,
}

impl StoredLfs<'_> {
    fn offer(&self, pointer: &LfsPointer) -> Result<Offer, StoreError> {
        let (hex, size) = (pointer.hex(), pointer.size);
        let place = self.store.describe();
        Ok(match self.store.head(&lfs_objects::key(&pointer.oid)) {
            Ok(None) => Err(format!("missing in {place}, too")),
            Ok(Some(found)) if found.len != size => {
                Err(format!("{place} has {} bytes of it, not {size}", found.len))
            }
            Ok(Some(_)) => {
                let href = Url::parse(&format!("mirror:{hex}")).expect("hexadecimal digits");
                Ok(Download::new(href, Vec::new()))
            }
            Err(error) if error.kind == StoreErrorKind::Denied => Err(error.to_string()),
            Err(error) => return Err(error),
        })
    }
}

impl LfsSource for StoredLfs<'_> {
    fn describe(&self) -> String {
        self.store.describe()
    }

    fn batch(&self, objects: &[LfsPointer]) -> Result<Vec<Offer>, BatchError> {
        let offers = Mutex::new(vec![None; objects.len()]);
        let numbered: Vec<(usize, &LfsPointer)> = objects.iter().enumerate().collect();
        let looked = for_each(&numbered, THREADS, "lfs", |(number, pointer)| {
            let offer = self.offer(pointer)?;
            offers.lock().unwrap_or_else(PoisonError::into_inner)[*number] = Some(offer);
            Ok::<_, StoreError>(())
        });
        looked.map_err(|error| {
            BatchError::Failed(as_source_error(self.describe(), &MirrorError::Store(error)))
        })?;
        let offers = offers.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok(offers.into_iter().map(|offer| offer.expect("each was looked for")).collect())
    }

    fn open(&self, download: &Download, offset: u64) -> Result<Box<dyn Read + Send>, SourceError> {
        let oid = sha256(download.href().path()).expect("an address that `offer` has made");
        let opened = self.store.open(&lfs_objects::key(&oid), offset);
        opened.map_err(|error| as_source_error(self.describe(), &MirrorError::Store(error)))
    }

    /// The store has its own patience.
    fn first_wait(&self) -> Duration {
        Duration::from_millis(10)
    }
}
