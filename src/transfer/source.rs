//! A mirror as a [`Source`]: its refs, and the store that its keys are copied from.

use std::io::Read;

use super::copy::Copying;
use super::storing::{Bring, Copied, Storing};
use crate::git::object::Oid;
use crate::git::refs::{Advertisement, Head};
use crate::repository::error::MirrorError;
use crate::repository::publish::{MAX_REFS_BYTES, Published};
use crate::repository::state::Recorded;
use crate::source::{Source, SourceError, SourceErrorKind};
use crate::store::{Store, StoreErrorKind};

/// A mirror that another one is made from.
pub struct MirrorSource {
    store: Box<dyn Store>,
    /// Instead of what is published now.
    then: Option<Advertisement>,
}

impl MirrorSource {
    /// The mirror in `store`, which must be able to list its keys. Nothing is read yet.
    pub fn new(store: Box<dyn Store>) -> Self {
        MirrorSource { store, then: None }
    }

    /// The same with the refs of the past, of which all objects are there still.
    pub fn at(store: Box<dyn Store>, then: Advertisement) -> Self {
        MirrorSource { store, then: Some(then) }
    }

    fn failed(&self, error: MirrorError) -> SourceError {
        let kind = match &error {
            MirrorError::Store(error) => match error.kind {
                StoreErrorKind::Transient { retry_after } => {
                    SourceErrorKind::Transient { retry_after }
                }
                StoreErrorKind::Denied => SourceErrorKind::Denied,
                _ => SourceErrorKind::Fatal,
            },
            _ => SourceErrorKind::Fatal,
        };
        SourceError { kind, url: self.describe(), message: error.to_string() }
    }
}

impl Bring for MirrorSource {
    fn bring(
        &self,
        into: &Storing<'_>,
        git: bool,
        lfs: bool,
    ) -> Result<(Option<Copied>, u64), MirrorError> {
        into.progress.phase("comparing with the other mirror");
        let copying = Copying { from: &*self.store, into };
        let copied = if git { Some(copying.git()?) } else { None };
        Ok((copied, if lfs { copying.lfs()? } else { 0 }))
    }
}

impl Source for MirrorSource {
    fn describe(&self) -> String {
        format!("mirror:{}", self.store.describe())
    }

    fn origin(&self) -> Option<String> {
        let recorded = Recorded::read(&*self.store).ok().flatten()?;
        recorded.repository().map(str::to_owned)
    }

    fn advertisement(&self) -> Result<Advertisement, SourceError> {
        if let Some(then) = &self.then {
            return Ok(then.clone());
        }
        let published =
            Published::read(&*self.store, MAX_REFS_BYTES).map_err(|error| self.failed(error))?;
        if !published.exists() {
            return Err(SourceError {
                kind: SourceErrorKind::Fatal,
                url: self.describe(),
                message: "no mirror there: it has no info/refs".into(),
            });
        }
        let head = published.head.clone().unwrap_or(Head::Absent);
        Ok(Advertisement { refs: published.refs, head })
    }

    fn fetch<'a>(
        &'a self,
        _: &[Oid],
        _: &[Oid],
        _: Box<dyn FnMut(&str) + Send + 'a>,
    ) -> Result<Box<dyn Read + Send + 'a>, SourceError> {
        let message = "internal error: a mirror is copied, it sends no pack".into();
        Err(SourceError { kind: SourceErrorKind::Fatal, url: self.describe(), message })
    }

    fn requests(&self) -> u64 {
        self.store.requests()
    }
}
