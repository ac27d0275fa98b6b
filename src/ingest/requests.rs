//! What request threads do: store, and read back what a delta needs.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use super::bytes::Slice;
use super::engine::Engine;
use super::hands::Hands;
use super::jobs::{Job, LargeObject, NOWHERE};
use super::units::{Body, Entry};
use crate::git::object::Oid;
use crate::pack::object::{Index, Object};
use crate::repository::error::MirrorError;
use crate::repository::layout::TEMPORARY;
use crate::repository::loose;
use crate::repository::parts::copy_any_size;
use crate::store::{Key, Part, Upload};

impl Engine<'_> {
    pub(super) fn serve<'s>(&'s self, hands: &Hands<'_, 's>, job: Job) -> Result<(), MirrorError> {
        match job {
            Job::Put { oid, body, unit } => {
                self.env.store.put(&loose::key(&oid), &body, loose::HEADERS, None)?;
                self.count_stored(1, body.len() as u64);
                self.env.progress.stored(body.len() as u64);
                self.env.progress.objects_done(1);
                self.beats.fetch_add(1, Ordering::Relaxed);
                drop(body);
                if unit.left.fetch_sub(1, Ordering::AcqRel) == 1 {
                    self.tell(hands, |scheduler| scheduler.stored(unit.unit));
                }
                Ok(())
            }
            Job::Part { object, number, body, room } => {
                let part = self.env.store.put_part(&object.ledger.upload, number, &body)?;
                self.env.progress.stored(body.len() as u64);
                drop(body);
                if object.ledger.stored(part) && !object.is_pack {
                    self.finish_large(hands, &object)?;
                }
                self.upload_ended(hands, &object, room);
                Ok(())
            }
            Job::Finish { object, room } => {
                self.finish_large(hands, &object)?;
                self.upload_ended(hands, &object, room);
                Ok(())
            }
            Job::Base { oid } => {
                let found = loose::look(self.env.store, &oid)?;
                self.tell(hands, |scheduler| {
                    scheduler.other_ended(0);
                    match found {
                        Some(object) => {
                            let body = Body::Named { kind: object.kind, oid };
                            let entry = Entry { offset: NOWHERE, crc32: 0, body, held: 0 };
                            scheduler.add(vec![entry]).map(|_| ())
                        }
                        None => {
                            let mut others =
                                self.not_loose.lock().unwrap_or_else(PoisonError::into_inner);
                            others.push(oid);
                            Ok(())
                        }
                    }
                })
                .map_err(|error| MirrorError::Pack(error.to_string()))
            }
            Job::Read(unit) => {
                self.resolve_on(&Hands::requester(hands.pool), unit);
                Ok(())
            }
        }
    }

    fn upload_ended<'s>(&'s self, hands: &Hands<'_, 's>, object: &LargeObject, room: u64) {
        self.tell(hands, |scheduler| match object.is_pack {
            true => scheduler.part_ended(room),
            false => scheduler.other_ended(room),
        });
    }

    /// All parts of a large object are in: it gets its name.
    fn finish_large<'s>(
        &'s self,
        hands: &Hands<'_, 's>,
        object: &LargeObject,
    ) -> Result<(), MirrorError> {
        let identity = *object.identity.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((index, identity)) = identity else {
            return Err(MirrorError::Internal("a large object without a name".into()));
        };
        let len = object.stored_len.load(Ordering::Relaxed);
        self.name_upload(&object.ledger.upload, object.ledger.parts(), len, &identity)?;
        // Only now, because its deltas read it back from there.
        self.tell(hands, |scheduler| scheduler.late_resolved(index, identity.kind, identity.oid));
        Ok(())
    }

    /// Completes an upload to a temporary key, and gives the object its final one, unless it is stored
    /// already.
    pub(super) fn name_upload(
        &self,
        upload: &Upload,
        parts: Vec<Part>,
        stored_len: u64,
        object: &Object,
    ) -> Result<(), MirrorError> {
        let (store, temp) = (self.env.store, self.env.temp);
        if self.is_stored(&object.oid) {
            store.abort_upload(upload)?;
            temp.upload_ended(upload);
            temp.forget(&upload.key);
            self.env.progress.objects_done(1);
            return Ok(());
        }
        store.complete_upload(upload, &parts)?;
        temp.upload_ended(upload);
        self.name_object(&upload.key, stored_len, object)
    }

    /// Gives an object under a temporary key its final one, unless it is stored already.
    pub(super) fn name_object(
        &self,
        temporary: &Key,
        stored_len: u64,
        object: &Object,
    ) -> Result<(), MirrorError> {
        if !self.is_stored(&object.oid) {
            let key = loose::key(&object.oid);
            copy_any_size(self.env.temp, temporary, &key, stored_len, loose::HEADERS)?;
            self.count_stored(1, stored_len);
        }
        self.env.temp.delete(temporary)?;
        self.env.progress.objects_done(1);
        Ok(())
    }

    /// Is an object of this name stored, or on its way?
    pub(super) fn is_stored(&self, oid: &Oid) -> bool {
        self.env.existing.contains(oid) || self.ask(|scheduler| scheduler.find(oid).is_some())
    }

    /// Writes deltas that came before their bases away, as one temporary key; answers its number and
    /// where in it each of them begins.
    pub(super) fn spill(
        &self,
        deltas: &[(Index, Slice)],
    ) -> Result<(u32, Vec<(Index, u64)>), MirrorError> {
        let mut body = Vec::new();
        let mut places = Vec::with_capacity(deltas.len());
        for (index, delta) in deltas {
            places.push((*index, body.len() as u64));
            body.extend_from_slice(delta);
        }
        let key = self.env.temp.key("deltas");
        self.on_network(|| self.env.store.put(&key, &body, TEMPORARY, None))?;
        self.env.progress.stored(body.len() as u64);
        let mut spills = self.spills.lock().unwrap_or_else(PoisonError::into_inner);
        spills.push(key);
        Ok((spills.len() as u32 - 1, places))
    }

    /// Reads a spilled delta back.
    pub(super) fn read_spilled(
        &self,
        file: u32,
        start: u64,
        len: u64,
    ) -> Result<Vec<u8>, MirrorError> {
        let key = self.spill_key(file);
        Ok(self.env.store.get(&key, Some(start..start + len), len)?.0)
    }

    pub(super) fn spill_key(&self, file: u32) -> Key {
        self.spills.lock().unwrap_or_else(PoisonError::into_inner)[file as usize].clone()
    }
}
