//! What goes into a ledger: the entries of decisions and outcomes, and equal refusals counted instead of written again.
//!
//! Nothing here writes. A durable store puts the entries into its own table, in the transaction that makes them so; a
//! store that hosts share puts them into a list of drafts.

use std::collections::{BTreeMap, BTreeSet};

use checkrein_core::admission::{Admission, Inputs, Verdict as Decided};
use checkrein_core::amount::Amount;
use checkrein_core::decision::{MeterStatus, Reason};
use checkrein_core::gate::breaker::Health;
use checkrein_core::ledger::entry::{
    Arguments, By, Decision, Ending, Identity, Outcome, Repeated, Request, SALT_LENGTH, Verdict,
    keyed_request, salted_arguments,
};
use checkrein_core::time::{Span, Timestamp};
use sha2::{Digest as _, Sha256};

use crate::engine::CompiledPolicy;
use crate::store::OwnedAction;
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
    /// The entry that stands for those after the first.
    fn decision(&self, repeated: Repeated) -> Decision<'_> {
        let action = &self.action;
        Decision {
            verdict: Verdict::Refusal,
            action: Identity {
                namespace: &action.namespace,
                name: &action.name,
                principal: &action.principal,
                user: &action.user,
                agent: &action.agent,
                run: &action.run,
                session: &action.session,
                tenant: &self.tenant,
            },
            request: action.digest.map_or(Request::None, Request::Digest),
            policy: Some(self.policy),
            reasons: &self.reasons,
            repeated: Some(repeated),
            ..Decision::default()
        }
    }

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
pub(in crate::store) struct Told<'a> {
    pub(super) ending: Ending,
    pub(super) health: Health,
    pub(super) actual: &'a [Amount],
    pub(super) by: By,
    pub(super) note: &'a str,
}

impl<'a> Told<'a> {
    pub(in crate::store) const fn new(ending: Ending, by: By) -> Self {
        Self { ending, health: Health::Neutral, actual: &[], by, note: "" }
    }

    pub(in crate::store) const fn note(self, note: &'a str) -> Self {
        Self { note, ..self }
    }

    /// What the one that ran it says.
    pub(in crate::store) const fn with(self, health: Health, actual: &'a [Amount]) -> Self {
        Self { health, actual, ..self }
    }

    /// The outcome of a permit, and the entry of its intent where that is known.
    pub(in crate::store) const fn outcome(self, permit: u64, intent: Option<u64>) -> Outcome<'a> {
        let Self { ending, health, actual, by, note } = self;
        Outcome { permit: Some(permit), intent, ending, health, actual, by, note, meters: &[] }
    }
}

/// The entry of a decision, and the salt of its digests if it has any: that is kept apart from the entry.
pub(crate) fn decision<'a>(
    options: LedgerOptions,
    policy: &CompiledPolicy,
    inputs: &Inputs<'a>,
    admission: &'a Admission,
    meters: &'a [MeterStatus],
    permit: Option<u64>,
) -> (Decision<'a>, Option<[u8; SALT_LENGTH]>) {
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
        verdict: verdict_of(admission),
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
    (decision, salt)
}

/// What the ledger calls a decision.
pub(in crate::store) const fn verdict_of(admission: &Admission) -> Verdict {
    match admission.verdict {
        Decided::Allow => Verdict::Intent,
        Decided::Block => Verdict::Refusal,
        Decided::Replay(_) => Verdict::Replay,
    }
}

impl Journal {
    /// When something counted has to be written.
    pub(super) fn next_due(&self) -> Option<Timestamp> {
        let counted = self.refusals.values().filter(|known| known.more.is_some() && known.written == 0);
        counted.map(|refusals| refusals.since.after(COALESCE)).min()
    }

    /// Whether this process has written the policy's text.
    pub(super) fn knows(&self, policy: &CompiledPolicy) -> bool {
        self.policies.contains(policy.digest())
    }

    /// The policy's text has been written.
    pub(super) fn learn(&mut self, policy: &CompiledPolicy) {
        self.policies.insert(*policy.digest());
    }

    /// Counts a refusal that is like an earlier one; `false` when it has to be written.
    pub(super) fn count_refusal(
        &mut self,
        arguments: KeepArguments,
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
        if let Some(known) = self.refusals.get_mut(&name) {
            let more = known.more.get_or_insert(Repeated { count: 0, first: now, last: now });
            more.count += 1;
            more.last = now;
            return true;
        }
        if self.refusals.len() >= MAX_COUNTED {
            // Whatever has been counted is due now; what has not is only remembered.
            self.refusals.retain(|_, refusals| refusals.more.is_some());
            for refusals in self.refusals.values_mut() {
                refusals.since = Timestamp::MIN;
            }
            if self.refusals.len() >= MAX_COUNTED {
                return false;
            }
        }
        let refusals = Refusals {
            action: OwnedAction {
                arguments: None,
                // Without a salt it would give few possible arguments away, unless they are in the ledger anyway.
                digest: action.digest.filter(|_| arguments == KeepArguments::Full),
                ..OwnedAction::from(&action)
            },
            tenant: inputs.tenant.to_owned(),
            policy: *policy.digest(),
            reasons: admission.reasons.clone(),
            since: now,
            more: None,
            written: 0,
        };
        self.refusals.insert(name, refusals);
        false
    }

    /// Forgets what the last transaction wrote, or, if it did not commit, that it did.
    pub(super) fn settle(&mut self, committed: bool) {
        if committed {
            self.refusals.retain(|_, refusals| refusals.settle());
            return;
        }
        self.policies.clear();
        // The first of some may not be on the disk: the next one is written again.
        self.refusals.retain(|_, refusals| refusals.more.is_some());
        self.refusals.values_mut().for_each(|refusals| refusals.written = 0);
    }

    /// Hands over the refusals whose time is over; all of them, when `everything`.
    pub(super) fn flush<E>(
        &mut self,
        now: Timestamp,
        everything: bool,
        mut write: impl FnMut(&Decision<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        if self.refusals.is_empty() {
            return Ok(());
        }
        let due = |refusals: &Refusals| {
            refusals.written == 0 && (everything || refusals.since.after(COALESCE) <= now)
        };
        let names = self.refusals.iter().filter(|(_, refusals)| due(refusals));
        let names: Vec<[u8; 16]> = names.map(|(name, _)| *name).collect();
        for name in names {
            let Some(mut refusals) = self.refusals.remove(&name) else { continue };
            let Some(repeated) = refusals.more else { continue };
            if is_planted(Bug::LoseCountedRefusals) {
                continue;
            }
            let written = write(&refusals.decision(repeated));
            refusals.written = if written.is_ok() { repeated.count } else { 0 };
            self.refusals.insert(name, refusals);
            written?;
        }
        Ok(())
    }
}
