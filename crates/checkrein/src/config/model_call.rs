//! A call of a model as an action: held at the most it can cost before it is made.

use std::sync::Arc;

use checkrein_core::admission::{Action, Admission, Verdict};
use checkrein_core::amount::{Amount, Unit};
use checkrein_core::code::Code;
use checkrein_core::decision::{GateKind, MeterStatus};
use checkrein_core::gate::budget::{Bound, Cost};
use checkrein_core::json::Value;
use checkrein_core::time::{Span, Timestamp};
use checkrein_core::usage::{Direction, Family};

use super::call::{Call, Evaluated};
use super::model_policy::{Known, ModelPolicy};
use super::model_request::ModelRequest;
use super::policies::{Loaded, Policies, refusal};
use crate::price::{CallBounds, Certainty, PriceError, Quote};
use crate::store::PermitId;

/// The namespace of the actions that calls of models are.
pub(super) const NAMESPACE: &str = "model";
/// The longest name of a model, in bytes.
const LONGEST: usize = 256;

/// A call of a model that somebody is about to make.
#[derive(Clone, Copy, Debug)]
pub struct ModelCall<'c> {
    /// The tenant; empty when there is only one.
    pub tenant: &'c str,
    /// Who calls. Its namespace, name, arguments and digest are set here.
    pub action: Action<'c>,
    /// The model, as the provider is asked for it.
    pub model: &'c str,
    /// The provider, where the caller knows it.
    pub provider: Option<&'c str>,
    /// What is known of the request.
    pub request: &'c ModelRequest,
}

/// What a call holds in one budget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The budget.
    pub budget: Arc<str>,
    /// Its unit.
    pub unit: Unit,
    /// How much.
    pub amount: Amount,
    /// Whether the call can cost more.
    pub bound: Bound,
}

/// The answer to a call.
#[derive(Debug)]
pub struct ModelAdmitted {
    /// The decision.
    pub admission: Admission,
    /// What to settle when the call ends; nothing when it was refused.
    pub permit: Option<ModelPermit>,
    /// The maximum of output tokens to send with the call: the caller's own, or the policy's. What is held is only a
    /// bound if the provider is sent it.
    pub max_output: Option<u64>,
    /// What is held, in the order of the policy's budgets.
    pub held: Vec<Held>,
    /// How long to wait for the model.
    pub timeout: Option<Span>,
}

/// What settles an admitted call: by the prices that counted when it was admitted.
#[derive(Clone, Debug)]
pub struct ModelPermit {
    pub(super) id: Option<PermitId>,
    pub(super) loaded: Arc<Loaded>,
    pub(super) provider: Option<String>,
    pub(super) model: String,
    pub(super) held: Vec<Held>,
    pub(super) from: Timestamp,
}

impl ModelPermit {
    /// The permit of the engine, if anything has to be settled there.
    pub fn id(&self) -> Option<PermitId> {
        self.id
    }

    /// What the call holds.
    pub fn held(&self) -> &[Held] {
        &self.held
    }
}

/// Everything about a call but the decision.
struct Prepared {
    loaded: Arc<Loaded>,
    policy: Arc<ModelPolicy>,
    provider: Option<String>,
    max_output: Option<u64>,
    costs: Vec<Cost>,
    arguments: Value,
    from: Timestamp,
}

enum Preparation {
    Ready(Box<Prepared>),
    /// No section covers it, and that is allowed.
    Unpoliced(Arc<Loaded>, Option<String>),
    Refused(Admission),
}

impl Policies {
    /// Decides a call of a model and holds the most it can cost.
    pub fn admit_model(&self, call: &ModelCall<'_>) -> ModelAdmitted {
        let now = self.engine().now();
        let prepared = match self.prepare(call, now) {
            Preparation::Ready(prepared) => prepared,
            Preparation::Refused(admission) => return refused(admission),
            Preparation::Unpoliced(loaded, provider) => {
                let model = call.model.to_owned();
                let permit = ModelPermit { id: None, loaded, provider, model, held: Vec::new(), from: now };
                let (admission, max_output) = (Admission::allow(), call.request.max_output);
                return ModelAdmitted {
                    admission,
                    permit: Some(permit),
                    max_output,
                    held: Vec::new(),
                    timeout: None,
                };
            }
        };
        let policy = &prepared.policy;
        let (call_of, evaluated) = prepared.evaluate(call);
        let admitted = evaluated
            .with_inputs(&policy.resolved, &call_of, |inputs| self.engine().admit(&policy.compiled, inputs));
        if admitted.admission.verdict != Verdict::Allow {
            return refused(admitted.admission);
        }
        let held = held(&admitted.admission, &prepared);
        let Prepared { loaded, policy, provider, max_output, from, .. } = *prepared;
        let (id, model) = (admitted.permit, call.model.to_owned());
        let permit = ModelPermit { id, loaded, provider, model, held: held.clone(), from };
        let timeout = policy.resolved.timeout;
        ModelAdmitted { admission: admitted.admission, permit: Some(permit), max_output, held, timeout }
    }

    /// Decides a call of a model without taking anything, and says where the meters stand.
    pub fn peek_model(&self, call: &ModelCall<'_>) -> (Admission, Vec<MeterStatus>) {
        match self.prepare(call, self.engine().now()) {
            Preparation::Ready(prepared) => {
                let (call_of, evaluated) = prepared.evaluate(call);
                let policy = &prepared.policy;
                evaluated.with_inputs(&policy.resolved, &call_of, |inputs| {
                    self.engine().peek(&policy.compiled, inputs)
                })
            }
            Preparation::Unpoliced(..) => (Admission::allow(), Vec::new()),
            Preparation::Refused(admission) => (admission, Vec::new()),
        }
    }

    fn prepare(&self, call: &ModelCall<'_>, now: Timestamp) -> Preparation {
        let no = |code, text: &str| Preparation::Refused(refusal(code, text));
        if call.model.is_empty() {
            return no(Code::InvalidAction, "the call names no model");
        }
        if call.model.len() > LONGEST || call.provider.is_some_and(|name| name.len() > LONGEST) {
            return no(
                Code::TooLarge,
                &format!("names of models and providers have at most {LONGEST} bytes"),
            );
        }
        let loaded = self.loaded();
        let sections = loaded.file.sections();
        let Known { provider, quote } = loaded.models.known(sections, call.provider, call.model);
        let policy = loaded.models.policy_of(self.engine(), sections, provider.as_deref(), call.model);
        let policy = match policy {
            Ok(Some(policy)) => policy,
            Ok(None) if sections.allows_unknown_tools => {
                drop(quote);
                return Preparation::Unpoliced(Arc::clone(&loaded), provider);
            }
            Ok(None) => return no(Code::UnknownTool, "no section of `[models]` covers this model"),
            Err(error) => return no(Code::PolicyError, &error.to_string()),
        };
        let max_output = call.request.max_output.or(policy.reserve_output);
        let costs = match costs(call, &policy, &quote, max_output, now) {
            Ok(costs) => costs,
            Err(admission) => return Preparation::Refused(admission),
        };
        let arguments = call.request.arguments(provider.as_deref(), call.model, max_output);
        let prepared = Prepared {
            loaded: Arc::clone(&loaded),
            policy,
            provider,
            max_output,
            costs,
            arguments,
            from: now,
        };
        Preparation::Ready(Box::new(prepared))
    }
}

fn refused(admission: Admission) -> ModelAdmitted {
    ModelAdmitted { admission, permit: None, max_output: None, held: Vec::new(), timeout: None }
}

impl Prepared {
    /// The call as gates see it, with its keys, verdicts and costs.
    fn evaluate<'p>(&'p self, call: &ModelCall<'p>) -> (Call<'p>, Evaluated) {
        let action = Action { namespace: NAMESPACE, name: call.model, ..call.action };
        let call = Call { tenant: call.tenant, action, arguments: &self.arguments };
        let evaluated = Evaluated::of(&self.policy.resolved, &call, self.from).with_costs(self.costs.clone());
        (call, evaluated)
    }
}

/// What is held: where a budget in observe mode was exceeded the cost is recorded at once, and nothing held.
fn held(admission: &Admission, prepared: &Prepared) -> Vec<Held> {
    let forced = |name: &str| {
        let exceeded = |reason: &&checkrein_core::decision::Reason| {
            reason.kind == GateKind::Budget && reason.code == Code::BudgetExceeded && &*reason.gate == name
        };
        admission.observed.iter().any(|reason| exceeded(&reason))
    };
    let cost_of = |unit: Unit| {
        let position = prepared.policy.resolved.costs.iter().position(|(_, of)| *of == unit);
        position.and_then(|position| prepared.costs.get(position)).copied().unwrap_or_default()
    };
    let holding = prepared.policy.holds.iter().filter(|(name, _)| !forced(name));
    holding
        .map(|(budget, unit)| {
            let Cost { amount, bound } = cost_of(*unit);
            Held { budget: Arc::clone(budget), unit: *unit, amount, bound }
        })
        .collect()
}

/// The most a call can cost, for each budget in its unit.
fn costs(
    call: &ModelCall<'_>,
    policy: &ModelPolicy,
    quote: &Result<Quote<'_>, PriceError>,
    max_output: Option<u64>,
    now: Timestamp,
) -> Result<Vec<Cost>, Admission> {
    let request = call.request;
    let counts = |unit| policy.counts(unit);
    if !counts(Unit::Usd) && !counts(Unit::Tokens) {
        return Ok(policy.resolved.costs.iter().map(|_| Cost::proven(Amount::ONE)).collect());
    }
    if request.answers == 0 {
        return Err(refusal(Code::InvalidAction, "the call asks for no answer"));
    }
    let unseen_tokens = request.unseen_tokens.or(policy.reserve_unseen.filter(|_| request.refers));
    if request.refers && unseen_tokens.is_none() {
        let text = "the request refers to what it does not contain: say how many tokens that is at most, or give the \
                    model `reserve_unseen` in the policy";
        return Err(refusal(Code::InvalidAction, text));
    }
    let context = request
        .context
        .as_ref()
        .map(|pairs| pairs.iter().map(|(key, said)| (key.as_str(), said.as_str())).collect::<Vec<_>>());
    let bounds = CallBounds {
        text_bytes: request.bytes,
        unseen_tokens,
        added_tokens: request.added_tokens,
        output_tokens: max_output,
        answers: request.answers,
        other: request.other.clone(),
        is_multimodal: request.is_multimodal,
        context: context.as_deref(),
        from: now,
        lasts: policy.lasts(),
    };
    let usd = if counts(Unit::Usd) { in_usd(quote, &bounds)? } else { Cost::default() };
    let tokens = if counts(Unit::Tokens) { in_tokens(quote, &bounds)? } else { Cost::default() };
    let cost = |unit: &Unit| match unit {
        Unit::Usd => usd,
        Unit::Tokens => tokens,
        Unit::Calls | Unit::ComputeUnits => Cost::proven(Amount::ONE),
    };
    Ok(policy.resolved.costs.iter().map(|(_, unit)| cost(unit)).collect())
}

fn in_usd(quote: &Result<Quote<'_>, PriceError>, bounds: &CallBounds<'_>) -> Result<Cost, Admission> {
    let bound = quote.as_ref().map_err(Clone::clone).and_then(|quote| quote.bound(bounds));
    match bound {
        Ok(bound) => {
            let sure = bound.certainty == Certainty::Proven;
            let certainty = if sure { Bound::Proven } else { Bound::Estimated };
            Ok(Cost { amount: bound.usd, bound: certainty })
        }
        Err(error) => {
            let is_unknown =
                matches!(error, PriceError::UnknownModel { .. } | PriceError::UnknownProvider { .. });
            let code = if is_unknown { Code::UnknownPrice } else { Code::InvalidAction };
            Err(refusal(code, &format!("{error}: {}", error.hint())))
        }
    }
}

fn in_tokens(quote: &Result<Quote<'_>, PriceError>, bounds: &CallBounds<'_>) -> Result<Cost, Admission> {
    let seen = bounds.text_bytes.saturating_add(bounds.added_tokens);
    let input = seen.saturating_add(bounds.unseen_tokens.unwrap_or_default());
    let output = match bounds.output_tokens {
        Some(most) => most.saturating_mul(bounds.answers),
        None if quote.as_ref().is_ok_and(|quote| has_no_output(quote, bounds.from)) => 0,
        None => {
            let error = PriceError::Unbounded(checkrein_core::usage::UsageUnit::OutputTokens);
            return Err(refusal(Code::InvalidAction, &format!("{error}: {}", error.hint())));
        }
    };
    let bound = if bounds.unseen_tokens.is_some() { Bound::Estimated } else { Bound::Proven };
    Ok(Cost { amount: Amount::from_units(input.saturating_add(output)), bound })
}

/// Whether a model is known to give no tokens: it has a price for its input and none for output.
fn has_no_output(quote: &Quote<'_>, at: Timestamp) -> bool {
    let prices = quote.prices(at, &[]);
    let flows = |direction| {
        prices
            .iter()
            .any(|price| price.unit.family() == Family::Tokens && price.unit.direction() == direction)
    };
    !quote.is_assumed && flows(Direction::Input) && !flows(Direction::Output)
}
