//! Tries a case: a fresh store in memory, a clock that only the case moves, and the policy as any door would use it.

use std::sync::Arc;

use checkrein_core::admission::{Action, Admission, Verdict};
use checkrein_core::canonical_json;
use checkrein_core::decision::Reason;
use checkrein_core::gate::breaker::Health;
use checkrein_core::json::Value;
use checkrein_core::permit::{Outcome, Settlement};
use checkrein_core::time::Timestamp;

use super::{Case, CaseStep, ExpectedReason, ExpectedVerdict, StepOutcome};
use crate::clock::{Clock, FakeClock};
use crate::config::{Call, Policies, PolicyError, PolicyFile};
use crate::engine::{Admitted, Engine};

/// The first step of a case that was answered in another way than expected.
#[derive(Clone, Debug)]
pub struct CaseFailure {
    /// The number of the step, from 1.
    pub step: usize,
    /// Which time the step was taken, from 1.
    pub time: u32,
    /// What was decided instead.
    pub verdict: ExpectedVerdict,
    /// Why it was refused.
    pub reasons: Vec<Reason>,
    /// What gates in observe mode said.
    pub observed: Vec<Reason>,
    /// What is different, in words.
    pub difference: String,
}

impl Case {
    /// Tries the case on a policy. `None` when everything was as expected.
    ///
    /// # Errors
    /// The policy cannot be put to work.
    pub fn run(&self, policy: &PolicyFile) -> Result<Option<CaseFailure>, PolicyError> {
        let clock = FakeClock::new(self.start);
        let engine = Engine::builder().clock(Clock::fake(clock.clone())).build();
        let policies = Policies::new(engine, policy.clone())?;
        for (number, step) in self.steps.iter().enumerate() {
            clock.set(Timestamp::from_nanos(self.start.nanos().saturating_add(step.at.nanos())));
            for time in 1..=step.times {
                let (admission, difference) = step.take(&policies)?;
                if let Some(difference) = difference {
                    let Admission { reasons, observed, .. } = admission;
                    let verdict = word_of(&admission.verdict);
                    let step = number.saturating_add(1);
                    return Ok(Some(CaseFailure { step, time, verdict, reasons, observed, difference }));
                }
            }
        }
        Ok(None)
    }
}

const fn word_of(verdict: &Verdict) -> ExpectedVerdict {
    match verdict {
        Verdict::Allow => ExpectedVerdict::Allow,
        Verdict::Block => ExpectedVerdict::Deny,
        Verdict::Replay(_) => ExpectedVerdict::Replay,
    }
}

impl CaseStep {
    fn call(&self) -> Call<'_> {
        let who = &self.who;
        let action = Action {
            namespace: &who.namespace,
            name: &self.tool,
            principal: &who.principal,
            user: &who.user,
            agent: &who.agent,
            run: &who.run,
            session: &who.session,
            ..Action::default()
        };
        Call { tenant: &who.tenant, action, arguments: &self.arguments, uncovered: None }
    }

    /// Takes the step once, and says what is not as expected.
    fn take(&self, policies: &Policies) -> Result<(Admission, Option<String>), PolicyError> {
        let call = self.call();
        let Admitted { admission, permit } = policies.admit(&call);
        if let Some(difference) = self.difference(&admission) {
            return Ok((admission, Some(difference)));
        }
        if admission.verdict != Verdict::Allow {
            return Ok((admission, None));
        }
        let (outcome, health) = match self.outcome {
            StepOutcome::Running => return Ok((admission, None)),
            StepOutcome::Done => {
                let result = canonical_json::to_vec(self.result.as_ref().unwrap_or(&Value::Null));
                (Outcome::Done(Some(Arc::from(result))), Health::Success)
            }
            StepOutcome::Failed => (Outcome::FailedClean, Health::Failure),
            StepOutcome::InDoubt => (Outcome::InDoubt, Health::Failure),
        };
        if let Some(permit) = permit
            && let Err(error) = policies.engine().finish(permit, &Settlement::new(outcome, health))
        {
            return Ok((admission, Some(format!("the end of the action was not accepted: {error}"))));
        }
        if let (StepOutcome::Done, Some(result)) = (self.outcome, &self.result) {
            policies.prove(&call, result)?;
        }
        Ok((admission, None))
    }

    /// What is not as expected, if anything is not.
    fn difference(&self, admission: &Admission) -> Option<String> {
        let expected = &self.expectation;
        let (wanted, found) = (expected.verdict, word_of(&admission.verdict));
        if wanted != found {
            return Some(format!("expected {}, got {}", wanted.word(), found.word()));
        }
        if let (Verdict::Replay(stored), Some(result)) = (&admission.verdict, &self.result)
            && **stored != *canonical_json::to_vec(result)
        {
            return Some("another result is returned again".to_owned());
        }
        let reasons = expected.reasons.as_ref().and_then(|wanted| unlike(wanted, &admission.reasons, ""));
        let observed =
            || expected.observed.as_ref().and_then(|wanted| unlike(wanted, &admission.observed, "observed "));
        reasons.or_else(observed)
    }
}

impl ExpectedReason {
    fn is(&self, reason: &Reason) -> bool {
        self.code == reason.code && self.gate.as_ref().is_none_or(|gate| **gate == *reason.gate)
    }
}

/// Which reasons were given or expected, and not the other one.
fn unlike(wanted: &[ExpectedReason], found: &[Reason], what: &str) -> Option<String> {
    let missing =
        wanted.iter().filter(|wanted| !found.iter().any(|reason| wanted.is(reason))).map(|wanted| {
            let gate = wanted.gate.as_ref().map(|gate| format!(" of `{gate}`")).unwrap_or_default();
            format!("{what}reason {}{gate} was not given", wanted.code.word())
        });
    let more = found
        .iter()
        .filter(|reason| !wanted.iter().any(|wanted| wanted.is(reason)))
        .map(|reason| format!("{what}reason {} of `{}` was not expected", reason.code.word(), reason.gate));
    let all: Vec<String> = missing.chain(more).collect();
    (!all.is_empty()).then(|| all.join("; "))
}
