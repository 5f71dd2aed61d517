//! A host's own ledger beside a store that several hosts share: drafts come in from there, and get their numbers here.
//!
//! Drafts stand in a list, which several processes of the host may read at once and which the shared store may lose or
//! take back to an earlier state. How far each list has come in is noted in the transaction that appends the entries, with
//! digests of the latest drafts: what is read again is known again, and what is another draft under a known number is
//! never passed over.

use checkrein_core::admission::Admission;
use checkrein_core::codec::{Damaged, Reader, Write as _};
use checkrein_core::decision::MeterStatus;
use checkrein_core::ledger::entry::{DraftView, Drained, LARGEST_ENTRY, ShortId};
use checkrein_core::time::Timestamp;
use sha2::{Digest as _, Sha256};

use super::row::{self, number_key};
use super::{Durable, Table, Tables};
use crate::engine::CompiledPolicy;
use crate::store::{OwnedInputs, StoreError};

/// The key of the row that says which host's ledger this is.
const HOST: &[u8] = b"host";
const VERSION: u8 = 1;
/// So many malformed drafts are kept of one outbox; then nothing more is taken out of it until a person has looked.
const MOST_KEPT: u64 = 1_000;

/// Drafts as they were read from the head of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incoming {
    /// The shared store.
    pub store: ShortId,
    /// The part of it that the list is of.
    pub tag: ShortId,
    /// The name that the list got when it was first read.
    pub list: ShortId,
    /// The position of the first draft, counted from zero since then.
    pub first: u64,
    /// The drafts.
    pub drafts: Vec<Vec<u8>>,
}

/// What became of incoming drafts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Every draft before this position is in the ledger, or kept aside: it can be acknowledged.
    pub next: u64,
    /// So many entries were appended.
    pub appended: u64,
    /// So many had been before.
    pub known: u64,
    /// So many are no drafts for this ledger and were kept aside.
    pub kept_aside: u64,
    /// So many positions were missing before the first.
    pub missing: u64,
    /// The draft at `next` is another one than was taken in under this position, or what it was is not known any more.
    /// Nothing was changed. If the list is still at this position, it was taken back to an earlier state: it needs
    /// another name, and then everything in it is new.
    pub taken_back: bool,
}

/// A decision that changed nothing in the shared store: a refusal or a replay.
#[derive(Clone, Debug)]
pub struct Decided {
    /// By which policy.
    pub policy: std::sync::Arc<CompiledPolicy>,
    /// On what.
    pub inputs: OwnedInputs,
    /// What was decided.
    pub admission: Admission,
    /// Where the meters stand.
    pub meters: Vec<MeterStatus>,
}

type Mark = [u8; 16];

/// How far a list has come in.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    list: ShortId,
    /// The position of the next draft.
    next: u64,
    /// Drafts of this outbox that were kept aside.
    kept: u64,
    /// Digests of the latest drafts, those before `next`.
    marks: Vec<Mark>,
}

impl Place {
    const fn new(list: ShortId) -> Self {
        Self { list, next: 0, kept: 0, marks: Vec::new() }
    }

    /// Whether this draft was taken in under this position.
    fn knows(&self, position: u64, mark: &Mark) -> bool {
        let first = self.next.saturating_sub(self.marks.len() as u64);
        let index = position.checked_sub(first).and_then(|index| usize::try_from(index).ok());
        index.and_then(|index| self.marks.get(index)) == Some(mark)
    }

    fn row(&self, key: &[u8]) -> Vec<u8> {
        let mut out = vec![VERSION];
        out.extend_from_slice(&self.list.to_bytes());
        out.number(self.next.into());
        out.number(self.kept.into());
        out.number(self.marks.len() as u128);
        self.marks.iter().for_each(|mark| out.extend_from_slice(mark));
        row::seal(Table::Meta, key, &mut out);
        out
    }

    fn read(key: &[u8], bytes: &[u8]) -> Result<Self, StoreError> {
        let (body, _) = row::open(Table::Meta, key, bytes)?;
        let read = || {
            let mut body = Reader::new(body, VERSION)?;
            let list = body.take(8)?.try_into().map_err(|_| Damaged::Short)?;
            let (next, kept, count) = (body.small()?, body.small()?, body.small::<u64>()?);
            let mut marks = Vec::new();
            for _ in 0..count {
                marks.push(body.take(16)?.try_into().map_err(|_| Damaged::Short)?);
            }
            body.end()?;
            Ok(Self { list: ShortId::from_bytes(list), next, kept, marks })
        };
        read().map_err(|why| row::damaged(Table::Meta, key, why))
    }
}

fn place_key(incoming: &Incoming) -> Vec<u8> {
    let mut key = b"outbox/".to_vec();
    key.extend_from_slice(&incoming.store.to_bytes());
    key.extend_from_slice(&incoming.tag.to_bytes());
    key
}

/// The key of a draft that was kept aside.
fn aside_key(list: ShortId, position: u64) -> Vec<u8> {
    let mut key = b"draft/".to_vec();
    key.extend_from_slice(&list.to_bytes());
    key.extend_from_slice(&position.to_be_bytes());
    key
}

fn mark_of(draft: &[u8]) -> Mark {
    let digest: [u8; 32] = Sha256::digest(draft).into();
    digest.first_chunk().copied().unwrap_or_default()
}

/// Which host's ledger a row says that this is.
///
/// # Errors
/// It is not what was written.
pub(crate) fn read_host(bytes: &[u8]) -> Result<ShortId, StoreError> {
    let (body, _) = row::open(Table::Meta, HOST, bytes)?;
    body.try_into().map(ShortId::from_bytes).map_err(|_| row::damaged(Table::Meta, HOST, Damaged::Short))
}

/// The key of that row.
pub(crate) const HOST_KEY: &[u8] = HOST;

impl Durable {
    /// The name of the host whose ledger this is: `fresh` from now on, if it has none yet.
    ///
    /// # Errors
    /// The store did not commit, or cannot say whether it did.
    pub fn host(
        &mut self,
        tables: &mut impl Tables,
        fresh: ShortId,
        now: Timestamp,
    ) -> Result<ShortId, StoreError> {
        self.transact(tables, now, |durable, tables, now| {
            if let Some(bytes) = tables.get(Table::Meta, HOST)? {
                return read_host(&bytes);
            }
            let mut out = fresh.to_bytes().to_vec();
            row::seal(Table::Meta, HOST, &mut out);
            tables.put(Table::Meta, HOST, &out)?;
            durable.wrote = true;
            durable.note_event(tables, now, "host_named", &[("host", &fresh.to_string())])?;
            Ok(fresh)
        })
    }

    /// Writes a policy's text, if this process has not done so.
    ///
    /// # Errors
    /// The store did not commit, or cannot say whether it did.
    pub fn tell_policy(
        &mut self,
        tables: &mut impl Tables,
        policy: &CompiledPolicy,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.transact(tables, now, |durable, tables, now| durable.note_policy(tables, now, policy))
    }

    /// Writes decisions that were made elsewhere and changed nothing there; equal refusals are counted.
    ///
    /// # Errors
    /// The store did not commit, or cannot say whether it did.
    pub fn tell_decided(
        &mut self,
        tables: &mut impl Tables,
        decisions: &[Decided],
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.transact(tables, now, |durable, tables, now| {
            decisions.iter().try_for_each(|Decided { policy, inputs, admission, meters }| {
                inputs.with(&[], |inputs| {
                    durable.note_decision(tables, now, policy, inputs, admission, meters, None).map(drop)
                })
            })
        })
    }

    /// Appends incoming drafts that are not in the ledger yet, and notes how far the list has come in.
    ///
    /// # Errors
    /// The store did not commit, or cannot say whether it did; or too many drafts of this outbox were no drafts.
    pub fn take_in(
        &mut self,
        tables: &mut impl Tables,
        host: ShortId,
        incoming: &Incoming,
        now: Timestamp,
    ) -> Result<Taken, StoreError> {
        self.transact(tables, now, |durable, tables, now| durable.take_in_now(tables, host, incoming, now))
    }

    fn take_in_now(
        &mut self,
        tables: &mut impl Tables,
        host: ShortId,
        incoming: &Incoming,
        now: Timestamp,
    ) -> Result<Taken, StoreError> {
        let key = place_key(incoming);
        let place = tables.get(Table::Meta, &key)?.map(|bytes| Place::read(&key, &bytes)).transpose()?;
        let mut place = match place {
            Some(place) if place.list == incoming.list => place,
            Some(before) => {
                self.note_outbox(
                    tables,
                    now,
                    "outbox_replaced",
                    incoming,
                    &[("before", &before.list.to_string()), ("next", &before.next.to_string())],
                )?;
                Place { kept: before.kept, ..Place::new(incoming.list) }
            }
            None => Place::new(incoming.list),
        };
        let mut taken = Taken { next: incoming.first, ..Taken::default() };
        if let Some(missing) = incoming.first.checked_sub(place.next).filter(|missing| *missing > 0) {
            self.note_outbox(
                tables,
                now,
                "outbox_gap",
                incoming,
                &[("from", &place.next.to_string()), ("before", &incoming.first.to_string())],
            )?;
            (taken.missing, place.next) = (missing, incoming.first);
            place.marks.clear();
        }
        let marks: Vec<Mark> = incoming.drafts.iter().map(|draft| mark_of(draft)).collect();
        for (position, mark) in (incoming.first..place.next).zip(&marks) {
            if !place.knows(position, mark) {
                return Ok(Taken { taken_back: true, ..taken });
            }
            (taken.known, taken.next) = (taken.known + 1, position + 1);
        }
        for (position, draft) in (incoming.first..).zip(&incoming.drafts).skip(taken.known as usize) {
            let drained = Drained { time: now, list: incoming.list, number: position };
            match self.append_draft(tables, host, incoming, draft, &drained)? {
                Ok(()) => taken.appended += 1,
                Err(why) => {
                    self.keep_aside(tables, &mut place, incoming, draft, &drained, &why)?;
                    taken.kept_aside += 1;
                }
            }
            taken.next = position + 1;
        }
        if taken.next > place.next || taken.missing > 0 {
            (place.next, place.marks) = (taken.next, marks);
            tables.put(Table::Meta, &key, &place.row(&key))?;
            self.wrote = true;
        }
        Ok(taken)
    }

    /// Appends the entry of a draft; says why it is none for this ledger.
    fn append_draft(
        &mut self,
        tables: &mut impl Tables,
        host: ShortId,
        incoming: &Incoming,
        draft: &[u8],
        drained: &Drained,
    ) -> Result<Result<(), String>, StoreError> {
        let view = match DraftView::read(draft) {
            Ok(view) => view,
            Err(error) => return Ok(Err(error.to_string())),
        };
        let of = [
            (view.source.host, host, "host"),
            (view.source.store, incoming.store, "store"),
            (view.source.tag, incoming.tag, "part of the store"),
        ];
        if let Some((found, _, what)) = of.into_iter().find(|(found, expected, _)| found != expected) {
            return Ok(Err(format!("it is of another {what}: {found}")));
        }
        let mut bytes = std::mem::take(&mut self.entry_bytes);
        bytes.clear();
        view.number(self.head.next_entry, drained, &mut bytes);
        let appended = match bytes.len() {
            0..=LARGEST_ENTRY => self.append_bytes(tables, &bytes).map(Ok),
            _ => Ok(Err("its entry has more than 16 MiB".to_owned())),
        };
        self.entry_bytes = bytes;
        match appended? {
            Err(why) => Ok(Err(why)),
            Ok(seq) => {
                if let Some(salt) = view.salt {
                    tables.put(Table::Salt, &number_key(seq), &salt)?;
                }
                Ok(Ok(()))
            }
        }
    }

    /// Keeps what is no draft for this ledger, and says so in it.
    fn keep_aside(
        &mut self,
        tables: &mut impl Tables,
        place: &mut Place,
        incoming: &Incoming,
        draft: &[u8],
        drained: &Drained,
        why: &str,
    ) -> Result<(), StoreError> {
        if place.kept >= MOST_KEPT {
            return Err(StoreError::Damaged(format!(
                "{MOST_KEPT} drafts in the outbox of part {} of the shared store {} were none for this ledger; the next is \
                 at {}: {why}",
                incoming.tag, incoming.store, drained.number
            )));
        }
        place.kept += 1;
        let key = aside_key(drained.list, drained.number);
        let mut row = draft.to_vec();
        row::seal(Table::Meta, &key, &mut row);
        tables.put(Table::Meta, &key, &row)?;
        let digest: String = Sha256::digest(draft).iter().map(|byte| format!("{byte:02x}")).collect();
        self.note_outbox(
            tables,
            drained.time,
            "draft_kept_aside",
            incoming,
            &[
                ("number", &drained.number.to_string()),
                ("bytes", &draft.len().to_string()),
                ("digest", &digest),
                ("why", why),
            ],
        )
    }

    /// Writes an event about an outbox.
    fn note_outbox(
        &mut self,
        tables: &mut impl Tables,
        now: Timestamp,
        name: &str,
        incoming: &Incoming,
        more: &[(&str, &str)],
    ) -> Result<(), StoreError> {
        let Incoming { store, tag, list, .. } = incoming;
        let (store, tag, list) = (store.to_string(), tag.to_string(), list.to_string());
        let mut fields = vec![("store", &*store), ("tag", &*tag), ("list", &*list)];
        fields.extend_from_slice(more);
        self.note_event(tables, now, name, &fields).map(drop)
    }

    /// A draft that was kept aside.
    ///
    /// # Errors
    /// The disk cannot be read, or the row is not what was written.
    pub fn kept_aside(
        tables: &mut impl Tables,
        list: ShortId,
        number: u64,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        tables.begin()?;
        let key = aside_key(list, number);
        let row = tables.get(Table::Meta, &key);
        tables.rollback();
        row?.map(|row| row::open(Table::Meta, &key, &row).map(|(body, _)| body.to_vec())).transpose()
    }
}
