//! The inputs of an admission, owned, and the memory store as a [`Store`].

use std::sync::Arc;

use checkrein_core::admission::{self, Inputs, KeyValue, RuleVerdict};
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
    /// The verdicts of rules: `None` passes, else the code is `rule_error` if the flag is set.
    pub verdicts: Vec<Option<(bool, String)>>,
    /// The once key and the digest of its request.
    pub once: Option<(Vec<u8>, RequestDigest)>,
    /// The door starts the action in the same step.
    pub start: bool,
}

impl OwnedInputs {
    /// Runs `use_inputs` with these inputs, borrowed.
    pub fn with<T>(&self, period_ends: &[Timestamp], use_inputs: impl FnOnce(&Inputs<'_>) -> T) -> T {
        let keys: Vec<KeyValue<'_>> = self
            .keys
            .iter()
            .map(|key| match key {
                Ok(bytes) => KeyValue::Bytes(bytes),
                Err(what) => KeyValue::Missing(what),
            })
            .collect();
        let verdicts: Vec<RuleVerdict<'_>> = self
            .verdicts
            .iter()
            .map(|verdict| match verdict {
                None => RuleVerdict::Pass,
                Some((true, text)) => RuleVerdict::Error(text),
                Some((false, text)) => RuleVerdict::Violated(text),
            })
            .collect();
        use_inputs(&Inputs {
            tenant: &self.tenant,
            keys: &keys,
            costs: &self.costs,
            verdicts: &verdicts,
            once: self.once.as_ref().map(|(key, digest)| (KeyValue::Bytes(key), *digest)),
            period_ends,
            start: self.start,
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
            Step::Prove(key, fact) => done(self.prove(key.borrow(), *fact)),
            Step::Reset(kind, key) => done(self.reset(*kind, key.borrow())),
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
