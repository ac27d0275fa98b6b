//! A mirror as a [`Source`]: its refs, and the store that its keys are copied from.

use std::io::Read;
use std::sync::Arc;

use super::copy::Copying;
use super::lfs::StoredLfs;
use super::sending::as_source_error;
use super::storing::{Bring, Copied, Storing};
use crate::git::object::{ObjectFormat, Oid};
use crate::git::refs::{Advertisement, Head, format_of};
use crate::repository::error::MirrorError;
use crate::repository::publish::{Published, max_file_bytes};
use crate::repository::state::{self, Recorded};
use crate::source::{LfsSource, Source, SourceError, SourceErrorKind};
use crate::store::Store;

/// A mirror that another one is made from.
pub struct MirrorSource {
    store: Arc<dyn Store>,
    is_listed: bool,
    max_refs_bytes: u64,
    /// Instead of what is published now.
    then: Option<Advertisement>,
}

impl MirrorSource {
    /// The mirror in `store`, which must be able to list its keys. Nothing is read yet.
    pub fn new(store: Box<dyn Store>) -> Self {
        MirrorSource {
            store: Arc::from(store),
            is_listed: true,
            max_refs_bytes: max_file_bytes(64 << 20),
            then: None,
        }
    }

    /// The same with the refs of the past, of which all objects are there still.
    pub fn at(store: Box<dyn Store>, then: Advertisement) -> Self {
        MirrorSource { then: Some(then), ..MirrorSource::new(store) }
    }

    /// The same; refs are read as far as they fit so much working memory.
    #[must_use]
    pub fn with_memory(self, memory_bytes: u64) -> Self {
        MirrorSource { max_refs_bytes: max_file_bytes(memory_bytes), ..self }
    }

    /// A store that cannot list its keys, such as a web server: what there is must be walked to.
    #[must_use]
    pub fn unlisted(mut self) -> Self {
        self.is_listed = false;
        self
    }

    /// Can its keys be listed, and so be copied without being looked for?
    pub(crate) fn is_listed(&self) -> bool {
        self.is_listed
    }

    pub(crate) fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// The LFS objects that it has.
    pub(crate) fn stored_lfs(&self) -> Box<dyn LfsSource + '_> {
        Box::new(StoredLfs { store: &*self.store })
    }

    /// What the state of an empty mirror says.
    fn format_of_state(&self, published: &Published) -> Result<ObjectFormat, MirrorError> {
        let recorded = Recorded::read(&*self.store)?;
        let format = state::object_format(&*self.store, published, recorded.as_ref())?;
        Ok(format.unwrap_or_default())
    }

    pub(crate) fn failed(&self, error: &MirrorError) -> SourceError {
        as_source_error(self.describe(), error)
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
        let copying = Copying { from: &*self.store, into, no_copies: false.into() };
        let copied = if git { Some(copying.git()?) } else { None };
        Ok((copied, if lfs { copying.lfs()? } else { 0 }))
    }

    fn mirror(&self) -> Option<&dyn Store> {
        Some(&*self.store)
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
        // Names say what they are; of none of them the mirror knows it.
        if let Some(then) = &self.then
            && format_of(&then.refs, &then.head).is_some()
        {
            return Ok(then.clone());
        }
        let published = Published::read(&*self.store, self.max_refs_bytes)
            .map_err(|error| self.failed(&error))?;
        if !published.exists() {
            return Err(SourceError {
                kind: SourceErrorKind::Fatal,
                url: self.describe(),
                message: "no mirror there: it has no info/refs".into(),
            });
        }
        let head = published.head.clone().unwrap_or(Head::Absent);
        let format = match format_of(&published.refs, &head) {
            Some(format) => format,
            None => self.format_of_state(&published).map_err(|error| self.failed(&error))?,
        };
        Ok(match &self.then {
            Some(then) => Advertisement { format, ..then.clone() },
            None => Advertisement { format, refs: published.refs, head },
        })
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
