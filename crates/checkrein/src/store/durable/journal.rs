//! What goes into the ledger: every decision and every outcome, in the transaction that makes it so.

use std::collections::{BTreeMap, BTreeSet};

use checkrein_core::admission::{Admission, Inputs, Verdict as Decided};
use checkrein_core::amount::Amount;
use checkrein_core::decision::{MeterStatus, Reason};
use checkrein_core::gate::breaker::Health;
use checkrein_core::ledger::entry::{
    Arguments, Body, By, Decision, Ending, Entry, Event, Identity, Outcome, Repeated, Request, SALT_LENGTH,
    Verdict, keyed_request, salted_arguments,
};
use checkrein_core::time::{Span, Timestamp};
use sha2::{Digest as _, Sha256};

use super::row::{number_key, read_number};
use super::{Durable, SEALED, Table, Tables, read_sealed, sealed_row};
use crate::engine::CompiledPolicy;
use crate::ledger::{Moment, Row as SealedRow};
use crate::store::{OwnedAction, StoreError};
use crate::testing::planted::{Bug, is_planted};

/// What a ledger keeps of the arguments of actions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeepArguments {
    /// The canonical JSON.
    Full,
    /// A digest under a salt of the entry's own, which can be erased.
    #[default]
    Digest,
    /// Nothing.
    None,
}

/// How a store keeps its ledger.
#[derive(Clone, Copy, Debug)]
pub struct LedgerOptions {
    /// What is kept of arguments.
    pub arguments: KeepArguments,
    /// Draws a salt; `None` without randomness, and then what it would hide is not kept at all.
    pub salt: fn() -> Option<[u8; SALT_LENGTH]>,
}

/// Equal refusals are counted for this long before they are written.
const COALESCE: Span = Span::from_secs(10);
/// So many different refusals are counted at a time; beyond, all are written.
const MAX_COUNTED: usize = 256;

/// What is remembered between entries.
#[derive(Debug, Default)]
pub(super) struct Journal {
    /// Policies whose text this process has written.
    policies: BTreeSet<[u8; 32]>,
    /// Refusals seen before, by what they have in common.
    refusals: BTreeMap<[u8; 16], Refusals>,
    bytes: Vec<u8>,
}

#[derive(Debug)]
struct Refusals {
    action: OwnedAction,
    tenant: String,
    policy: [u8; 32],
    reasons: Vec<Reason>,
    /// When the first of all was written.
    since: Timestamp,
    /// Those after it.
    more: Option<Repeated>,
    /// So many of them have been written in a transaction that has not been seen to commit.
    written: u64,
}

impl Refusals {
    /// What was written has been committed; `false` when there is nothing else to remember.
    fn settle(&mut self) -> bool {
        if self.written == 0 {
            return true;
        }
        let Some(more) = &mut self.more else { return false };
        more.count = more.count.saturating_sub(self.written);
        // Whatever came after them came in the same transaction, at its one time.
        (more.first, self.since, self.written) = (more.last, more.last, 0);
        more.count > 0
    }
}

/// How a permit's step came about, and what the ledger says of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told<'a> {
    pub(super) ending: Ending,
    pub(super) health: Health,
    pub(super) actual: &'a [Amount],
    pub(super) by: By,
    pub(super) note: &'a str,
}

impl<'a> Told<'a> {
    pub(super) const fn new(ending: Ending, by: By) -> Self {
        Self { ending, health: Health::Neutral, actual: &[], by, note: "" }
    }

    pub(super) const fn note(self, note: &'a str) -> Self {
        Self { note, ..self }
    }
}

impl Durable {
    /// When something counted has to be written.
    pub(super) fn next_journal(&self) -> Option<Timestamp> {
        let counted =
            self.journal.refusals.values().filter(|known| known.more.is_some() && known.written == 0);
        counted.map(|refusals| refusals.since.after(COALESCE)).min()
    }

    fn append(
        &mut self,
        tables: &mut impl Tables,
        now: Timestamp,
        body: Body<'_>,
    ) -> Result<u64, StoreError> {
        let seq = self.head.next_entry;
        let mut bytes = std::mem::take(&mut self.journal.bytes);
        bytes.clear();
        Entry { seq, time: now, epoch: self.epoch, body }.write(&mut bytes);
        let put = tables.put(Table::Entry, &number_key(seq), &bytes);
        self.journal.bytes = bytes;
        put?;
        self.head.next_entry += 1;
        self.wrote = true;
        Ok(seq)
    }

    /// Writes that something happened to the store or was done to it.
    pub(super) fn note_event(
        &mut self,
        tables: &mut impl Tables,
        now: Timestamp,
        name: &str,
        fields: &[(&str, &str)],
    ) -> Result<(), StoreError> {
        if self.options.ledger.is_some() {
            self.append(tables, now, Body::Event(Event { name, fields }))?;
        }
        Ok(())
    }

    /// Writes a decision; returns the entry's sequence, unless nothing was written.
    #[expect(clippy::too_many_arguments, reason = "everything that a decision is made of")]
    pub(super) fn note_decision(
        &mut self,
        tables: &mut impl Tables,
        now: Timestamp,
        policy: &CompiledPolicy,
        inputs: &Inputs<'_>,
        admission: &Admission,
        meters: &[MeterStatus],
        permit: Option<u64>,
    ) -> Result<Option<u64>, StoreError> {
        let Some(options) = self.options.ledger else { return Ok(None) };
        self.note_policy(tables, now, policy)?;
        let verdict = match admission.verdict {
            Decided::Allow => Verdict::Intent,
            Decided::Block => Verdict::Refusal,
            Decided::Replay(_) => Verdict::Replay,
        };
        if verdict == Verdict::Refusal && self.count_refusal(now, policy, inputs, admission) {
            return Ok(None);
        }
        let action = inputs.action.copied().unwrap_or_default();
        let salted = options.arguments == KeepArguments::Digest && action.arguments.is_some();
        let salt = if salted { (options.salt)() } else { None };
        let (arguments, request) = match (options.arguments, action.arguments, salt) {
            (KeepArguments::Full, arguments, _) => (
                arguments.map_or(Arguments::None, Arguments::Full),
                action.digest.map_or(Request::None, Request::Digest),
            ),
            (KeepArguments::Digest, Some(arguments), Some(salt)) => {
                let request = action.digest.map(|digest| Request::Keyed(keyed_request(&salt, &digest)));
                (Arguments::Digest(salted_arguments(&salt, arguments)), request.unwrap_or_default())
            }
            (KeepArguments::Digest | KeepArguments::None, ..) => (Arguments::None, Request::None),
        };
        let decision = Decision {
            verdict,
            action: Identity {
                namespace: action.namespace,
                name: action.name,
                principal: action.principal,
                user: action.user,
                agent: action.agent,
                run: action.run,
                session: action.session,
                tenant: inputs.tenant,
            },
            arguments,
            request,
            permit,
            intent: None,
            policy: Some(*policy.digest()),
            reasons: &admission.reasons,
            observed: &admission.observed,
            meters,
            repeated: None,
        };
        let seq = self.append(tables, now, Body::Decision(&decision))?;
        if let Some(salt) = salt {
            tables.put(Table::Salt, &number_key(seq), &salt)?;
        }
        Ok(Some(seq))
    }

    /// Writes a policy's text the first time that this process decides by it.
    fn note_policy(
        &mut self,
        tables: &mut impl Tables,
        now: Timestamp,
        policy: &CompiledPolicy,
    ) -> Result<(), StoreError> {
        if self.journal.policies.contains(policy.digest()) {
            return Ok(());
        }
        let digest: String = policy.digest().iter().map(|byte| format!("{byte:02x}")).collect();
        self.note_event(tables, now, "policy", &[("digest", &digest), ("text", policy.text())])?;
        self.journal.policies.insert(*policy.digest());
        Ok(())
    }

    /// Counts a refusal that is like an earlier one; `false` when it has to be written.
    fn count_refusal(
        &mut self,
        now: Timestamp,
        policy: &CompiledPolicy,
        inputs: &Inputs<'_>,
        admission: &Admission,
    ) -> bool {
        let action = inputs.action.copied().unwrap_or_default();
        let mut hasher = Sha256::new();
        let mut part = |bytes: &[u8]| {
            hasher.update((bytes.len() as u64).to_be_bytes());
            hasher.update(bytes);
        };
        for text in [action.namespace, action.name, action.principal, action.user, action.agent] {
            part(text.as_bytes());
        }
        for text in [action.run, action.session, inputs.tenant] {
            part(text.as_bytes());
        }
        part(action.digest.as_ref().map_or(&[][..], |digest| digest.as_bytes()));
        part(policy.digest());
        for reason in &admission.reasons {
            part(reason.code.word().as_bytes());
            part(reason.gate.as_bytes());
        }
        let digest: [u8; 32] = hasher.finalize().into();
        let name = digest.first_chunk::<16>().copied().unwrap_or_default();
        if let Some(known) = self.journal.refusals.get_mut(&name) {
            let more = known.more.get_or_insert(Repeated { count: 0, first: now, last: now });
            more.count += 1;
            more.last = now;
            return true;
        }
        if self.journal.refusals.len() >= MAX_COUNTED {
            // Whatever has been counted is due now; what has not is only remembered.
            self.journal.refusals.retain(|_, refusals| refusals.more.is_some());
            for refusals in self.journal.refusals.values_mut() {
                refusals.since = Timestamp::MIN;
            }
            if self.journal.refusals.len() >= MAX_COUNTED {
                return false;
            }
        }
        let refusals = Refusals {
            action: OwnedAction { arguments: None, ..OwnedAction::from(&action) },
            tenant: inputs.tenant.to_owned(),
            policy: *policy.digest(),
            reasons: admission.reasons.clone(),
            since: now,
            more: None,
            written: 0,
        };
        self.journal.refusals.insert(name, refusals);
        false
    }

    /// Forgets what the last transaction wrote, or, if it did not commit, that it did.
    pub(super) fn settle_journal(&mut self, committed: bool) {
        if committed {
            self.journal.refusals.retain(|_, refusals| refusals.settle());
            return;
        }
        self.journal.policies.clear();
        // The first of some may not be on the disk: the next one is written again.
        self.journal.refusals.retain(|_, refusals| refusals.more.is_some());
        self.journal.refusals.values_mut().for_each(|refusals| refusals.written = 0);
    }

    /// Writes the refusals whose time is over; all of them, when `everything`.
    pub(super) fn flush_refusals(
        &mut self,
        tables: &mut impl Tables,
        now: Timestamp,
        everything: bool,
    ) -> Result<(), StoreError> {
        if self.journal.refusals.is_empty() {
            return Ok(());
        }
        let due = |refusals: &Refusals| {
            refusals.written == 0 && (everything || refusals.since.after(COALESCE) <= now)
        };
        let names = self.journal.refusals.iter().filter(|(_, refusals)| due(refusals));
        let names: Vec<[u8; 16]> = names.map(|(name, _)| *name).collect();
        for name in names {
            let Some(mut refusals) = self.journal.refusals.remove(&name) else { continue };
            let Some(repeated) = refusals.more else { continue };
            if is_planted(Bug::LoseCountedRefusals) {
                continue;
            }
            let action = &refusals.action;
            let decision = Decision {
                verdict: Verdict::Refusal,
                action: Identity {
                    namespace: &action.namespace,
                    name: &action.name,
                    principal: &action.principal,
                    user: &action.user,
                    agent: &action.agent,
                    run: &action.run,
                    session: &action.session,
                    tenant: &refusals.tenant,
                },
                policy: Some(refusals.policy),
                reasons: &refusals.reasons,
                repeated: Some(repeated),
                ..Decision::default()
            };
            let appended = self.append(tables, now, Body::Decision(&decision));
            refusals.written = if appended.is_ok() { repeated.count } else { 0 };
            self.journal.refusals.insert(name, refusals);
            appended?;
        }
        Ok(())
    }

    /// Writes what a sealer has made of the ledger, in a transaction that shows it where the store stands.
    ///
    /// # Errors
    /// The store did not commit, or cannot say whether it did.
    pub fn seal(
        &mut self,
        tables: &mut impl Tables,
        now: Timestamp,
        make: impl FnOnce(&Moment) -> Vec<SealedRow>,
    ) -> Result<(), StoreError> {
        self.transact(tables, now, |durable, tables, now| {
            // What ended meanwhile is written first: the head that is signed is the one that this transaction leaves.
            durable.write(tables)?;
            let newest = tables.last(Table::Checkpoint)?.and_then(|(key, _)| read_number(&key));
            let sum: String = durable.head.sum.to_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
            let moment = Moment { now, newest, head: Some((durable.head.commit, sum)) };
            for row in make(&moment) {
                tables.put(row.table, &row.key, &row.body)?;
                if let (Table::Checkpoint, Some(size)) = (row.table, read_number(&row.key)) {
                    tables.put(Table::Meta, SEALED, &sealed_row(size))?;
                }
                durable.changed = true;
            }
            Ok(())
        })
    }

    /// The ledger ends where the store says that it does, and is sealed as far as it notes.
    pub(super) fn check_end(&self, tables: &mut impl Tables) -> Result<(), StoreError> {
        let last = tables.last(Table::Entry)?.and_then(|(key, _)| read_number(&key));
        let (entries, expected) = (last.map_or(0, |last| last + 1), self.head.next_entry);
        if entries == expected {
            return check_sealed(tables);
        }
        Err(StoreError::Damaged(format!(
            "the ledger has {entries} entries and the store wrote {expected}; restore a backup or look for what removed them"
        )))
    }

    /// Writes how an action ended.
    pub(super) fn note_outcome(
        &mut self,
        tables: &mut impl Tables,
        now: Timestamp,
        permit: u64,
        intent: Option<u64>,
        told: Told<'_>,
    ) -> Result<(), StoreError> {
        if self.options.ledger.is_none() {
            return Ok(());
        }
        let Told { ending, health, actual, by, note } = told;
        let outcome = Outcome { permit: Some(permit), intent, ending, health, actual, by, note, meters: &[] };
        self.append(tables, now, Body::Outcome(&outcome)).map(drop)
    }
}

/// A checkpoint and the note of it are written together: one without the other was taken away, or put back.
fn check_sealed(tables: &mut impl Tables) -> Result<(), StoreError> {
    let noted = tables.get(Table::Meta, SEALED)?.as_deref().map_or(Ok(0), read_sealed)?;
    let newest = tables.last(Table::Checkpoint)?.and_then(|(key, _)| read_number(&key)).unwrap_or(0);
    if noted == newest {
        return Ok(());
    }
    Err(StoreError::Damaged(format!(
        "the store notes {noted} sealed ledger entries and its newest checkpoint is over {newest}: checkpoints were \
         removed or put back; restore a backup or look for what did it"
    )))
}
