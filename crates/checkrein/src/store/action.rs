//! The inputs of an admission, owned, and the memory store as a [`Store`].

use std::sync::Arc;

use checkrein_core::admission::{self, Action, Inputs, KeyValue, RuleVerdict};
use checkrein_core::code::Code;
use checkrein_core::fingerprint::RequestDigest;
use checkrein_core::gate::budget::Cost;
use checkrein_core::permit::Settlement;
use checkrein_core::policy::RecordKind;
use checkrein_core::time::Timestamp;

use super::memory::MemoryStore;
use super::{Batch, BoxFuture, Cursor, Page, PermitId, Step, StepResult, Store, StoreError};

/// [`Inputs`] that own what they name.
#[derive(Clone, Debug, Default)]
pub struct OwnedInputs {
    /// The tenant; empty when there is only one.
    pub tenant: String,
    /// The keys; an `Err` says what the action does not have.
    pub keys: Vec<Result<Vec<u8>, String>>,
    /// The costs.
    pub costs: Vec<Cost>,
    /// The verdicts of rules: `None` passes, else the code of the refusal and its text.
    pub verdicts: Vec<Option<(Code, String)>>,
    /// The once key and the digest of its request.
    pub once: Option<(Result<Vec<u8>, String>, RequestDigest)>,
    /// The door starts the action in the same step.
    pub start: bool,
    /// Who does what, where a ledger is kept.
    pub action: Option<Box<OwnedAction>>,
}

/// [`Action`] that owns what it names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are those of `Action`")]
pub struct OwnedAction {
    pub namespace: String,
    pub name: String,
    pub principal: String,
    pub user: String,
    pub agent: String,
    pub run: String,
    pub session: String,
    pub arguments: Option<Vec<u8>>,
    pub digest: Option<RequestDigest>,
}

impl From<&Action<'_>> for OwnedAction {
    fn from(action: &Action<'_>) -> Self {
        Self {
            namespace: action.namespace.to_owned(),
            name: action.name.to_owned(),
            principal: action.principal.to_owned(),
            user: action.user.to_owned(),
            agent: action.agent.to_owned(),
            run: action.run.to_owned(),
            session: action.session.to_owned(),
            arguments: action.arguments.map(<[u8]>::to_vec),
            digest: action.digest,
        }
    }
}

impl OwnedAction {
    fn borrow(&self) -> Action<'_> {
        Action {
            namespace: &self.namespace,
            name: &self.name,
            principal: &self.principal,
            user: &self.user,
            agent: &self.agent,
            run: &self.run,
            session: &self.session,
            arguments: self.arguments.as_deref(),
            digest: self.digest,
        }
    }
}

impl From<&Inputs<'_>> for OwnedInputs {
    fn from(inputs: &Inputs<'_>) -> Self {
        let key = |key: &KeyValue<'_>| match key {
            KeyValue::Bytes(bytes) => Ok(bytes.to_vec()),
            KeyValue::Missing(what) => Err((*what).to_owned()),
        };
        let verdict = |verdict: &RuleVerdict<'_>| match verdict {
            RuleVerdict::Pass => None,
            RuleVerdict::Error(text) => Some((Code::RuleError, (*text).to_owned())),
            RuleVerdict::Violated(text) => Some((Code::RuleViolated, (*text).to_owned())),
            RuleVerdict::Refused(code, text) => Some((*code, (*text).to_owned())),
        };
        Self {
            tenant: inputs.tenant.to_owned(),
            keys: inputs.keys.iter().map(key).collect(),
            costs: inputs.costs.to_vec(),
            verdicts: inputs.verdicts.iter().map(verdict).collect(),
            once: inputs.once.map(|(value, digest)| (key(&value), digest)),
            start: inputs.start,
            action: inputs.action.map(|action| Box::new(OwnedAction::from(action))),
        }
    }
}

impl OwnedInputs {
    /// Runs `use_inputs` with these inputs, borrowed.
    pub fn with<T>(&self, period_ends: &[Timestamp], use_inputs: impl FnOnce(&Inputs<'_>) -> T) -> T {
        fn value(key: &Result<Vec<u8>, String>) -> KeyValue<'_> {
            key.as_ref().map_or_else(|what| KeyValue::Missing(what), |bytes| KeyValue::Bytes(bytes))
        }
        let keys: Vec<KeyValue<'_>> = self.keys.iter().map(value).collect();
        let action = self.action.as_ref().map(|action| action.borrow());
        let verdicts: Vec<RuleVerdict<'_>> = self
            .verdicts
            .iter()
            .map(|verdict| match verdict {
                None => RuleVerdict::Pass,
                Some((Code::RuleError, text)) => RuleVerdict::Error(text),
                Some((Code::RuleViolated, text)) => RuleVerdict::Violated(text),
                Some((code, text)) => RuleVerdict::Refused(*code, text),
            })
            .collect();
        use_inputs(&Inputs {
            tenant: &self.tenant,
            keys: &keys,
            costs: &self.costs,
            verdicts: &verdicts,
            once: self.once.as_ref().map(|(key, digest)| (value(key), *digest)),
            period_ends,
            start: self.start,
            action: action.as_ref(),
        })
    }
}

impl MemoryStore {
    /// Runs one owned step, synchronously.
    pub fn run(&self, step: &Step, now: Timestamp) -> StepResult {
        let done = |done: bool| if done { StepResult::Done } else { StepResult::NotFound };
        let moved = |result: Result<(), _>| result.map_or_else(StepResult::Refused, |()| StepResult::Done);
        match step {
            Step::Admit(policy, inputs) => inputs.with(&policy.period_ends(now), |inputs| {
                let (admission, permit) = self.admit(admission::plan(policy.policy(), inputs), now);
                StepResult::Admitted(admission, permit)
            }),
            Step::Peek(policy, inputs) => inputs.with(&policy.period_ends(now), |inputs| {
                let (admission, status) = self.peek(admission::plan(policy.policy(), inputs), now);
                StepResult::Peeked(admission, status)
            }),
            Step::Start(permit) => moved(self.start(*permit, now)),
            Step::Release(permit) => moved(self.release(*permit, now)),
            Step::Finish(permit, settlement) => {
                let settlement = Settlement {
                    outcome: settlement.outcome.clone(),
                    health: settlement.health,
                    actual: &settlement.actual,
                };
                moved(self.finish(*permit, &settlement, now))
            }
            Step::Expire(permit) => moved(self.expire(*permit, now)),
            Step::Resolve(key, run, state) => done(self.resolve(key.borrow(), *run, state.clone(), now)),
            // The memory store keeps no ledger.
            Step::Note(..) => StepResult::Done,
            Step::Prove(key, fact) => done(self.prove(key.borrow(), *fact)),
            Step::Reset(kind, key) => done(self.reset(*kind, key.borrow())),
            Step::Adjust(key, adjustment) => self
                .adjust(key.borrow(), adjustment, now)
                .map_or_else(StepResult::NotAdjusted, StepResult::Adjusted),
        }
    }
}

impl Store for MemoryStore {
    fn submit(&self, batch: Batch) -> BoxFuture<'_, Result<Vec<StepResult>, StoreError>> {
        let results = batch.steps.iter().map(|step| self.run(step, batch.now)).collect();
        Box::pin(std::future::ready(Ok(results)))
    }

    fn due(&self, before: Timestamp, limit: usize) -> BoxFuture<'_, Result<Vec<PermitId>, StoreError>> {
        Box::pin(std::future::ready(Ok(MemoryStore::due(self, before, limit))))
    }

    fn scan(
        &self,
        kind: RecordKind,
        after: Cursor,
        limit: usize,
        now: Timestamp,
    ) -> BoxFuture<'_, Result<Page, StoreError>> {
        Box::pin(std::future::ready(Ok(MemoryStore::scan(self, kind, after, limit, now))))
    }
}

impl<S: Store + ?Sized> Store for Arc<S> {
    fn submit(&self, batch: Batch) -> BoxFuture<'_, Result<Vec<StepResult>, StoreError>> {
        (**self).submit(batch)
    }

    fn due(&self, before: Timestamp, limit: usize) -> BoxFuture<'_, Result<Vec<PermitId>, StoreError>> {
        (**self).due(before, limit)
    }

    fn scan(
        &self,
        kind: RecordKind,
        after: Cursor,
        limit: usize,
        now: Timestamp,
    ) -> BoxFuture<'_, Result<Page, StoreError>> {
        (**self).scan(kind, after, limit, now)
    }
}
