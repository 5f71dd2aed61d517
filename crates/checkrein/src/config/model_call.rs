//! A call of a model as an action: held at the most it can cost before it is made.

use std::sync::Arc;

use checkrein_core::admission::{Action, Admission, Inputs, RuleVerdict, Verdict};
use checkrein_core::amount::{Amount, Unit};
use checkrein_core::code::Code;
use checkrein_core::decision::{Detail, GateKind, MeterStatus, Reason, Retry};
use checkrein_core::gate::budget::{Bound, Cost};
use checkrein_core::json::Value;
use checkrein_core::time::{Span, Timestamp};
use checkrein_core::usage::dialect::Report;
use checkrein_core::usage::{Direction, Family};

use super::call::{Call, Evaluated};
use super::model_policy::{Known, ModelGates, ModelPolicy};
use super::model_request::ModelRequest;
use super::model_settle::Settled;
use super::policies::{Loaded, Policies, PolicyError, refusal};
use crate::engine::Engine;
use crate::engine::{Admitted, CompiledPolicy, ScopeShape, Scopes, USAGE_NAMESPACE};
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
    /// Whether there is a limit: what only counts for a total is held all the same.
    pub is_limited: bool,
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

/// Why a call cannot be bounded, as a verdict.
type Unbounded = (Code, String);

/// Everything about a call but the decision.
struct Prepared {
    loaded: Arc<Loaded>,
    policy: Arc<ModelPolicy>,
    /// Its gates, together with those of the scopes around the call.
    gates: Arc<ModelGates>,
    provider: Option<String>,
    max_output: Option<u64>,
    costs: Result<Costs, Unbounded>,
    arguments: Value,
    from: Timestamp,
}

/// The most a call can cost, in units that are not the same for all calls.
#[derive(Clone, Copy, Debug)]
struct Costs {
    usd: Cost,
    tokens: Cost,
}

impl Costs {
    const NONE: Self = {
        let none = Cost { amount: Amount::ZERO, bound: Bound::Estimated };
        Self { usd: none, tokens: none }
    };

    fn of(&self, unit: Unit) -> Cost {
        match unit {
            Unit::Usd => self.usd,
            Unit::Tokens => self.tokens,
            Unit::Calls | Unit::ComputeUnits => Cost::proven(Amount::ONE),
        }
    }

    /// In the order in which scopes take them. No tariff says what a call costs in compute units.
    fn of_scopes(&self) -> [Cost; 4] {
        [self.usd, self.tokens, Cost::proven(Amount::ONE), Cost::default()]
    }
}

impl Policies {
    /// Decides a call of a model and holds the most it can cost.
    pub fn admit_model(&self, call: &ModelCall<'_>) -> ModelAdmitted {
        self.admit_model_in(call, None)
    }

    /// The same inside scopes: their meters and the gates of the model are one admission.
    pub fn admit_model_in(&self, call: &ModelCall<'_>, scopes: Option<&Scopes>) -> ModelAdmitted {
        let refused = |admission| {
            let (permit, max_output, held, timeout) = (None, None, Vec::new(), None);
            ModelAdmitted { admission, permit, max_output, held, timeout }
        };
        let prepared = match self.prepare(call, scopes) {
            Ok(prepared) => prepared,
            Err(admission) => return refused(admission),
        };
        let decide = |inputs: &Inputs<'_>| self.engine().admit(&prepared.gates.compiled, inputs);
        let admitted = prepared.decide(self.engine(), call, scopes, decide);
        if admitted.admission.verdict != Verdict::Allow {
            return refused(admitted.admission);
        }
        let held = held(&admitted.admission, &prepared);
        let Prepared { loaded, policy, provider, max_output, from, .. } = prepared;
        let (id, model) = (admitted.permit, call.model.to_owned());
        let permit = ModelPermit { id, loaded, provider, model, held: held.clone(), from };
        let timeout = policy.resolved.timeout;
        ModelAdmitted { admission: admitted.admission, permit: Some(permit), max_output, held, timeout }
    }

    /// Decides a call of a model without taking anything, and says where the meters stand.
    pub fn peek_model(&self, call: &ModelCall<'_>) -> (Admission, Vec<MeterStatus>) {
        match self.prepare(call, None) {
            Ok(prepared) => {
                let decide = |inputs: &Inputs<'_>| self.engine().peek(&prepared.gates.compiled, inputs);
                prepared.decide(self.engine(), call, None, decide)
            }
            Err(admission) => (admission, Vec::new()),
        }
    }

    /// Records what a call of a model used that nobody asked about before: in the budgets of the model and in all
    /// scopes, whether it fits or not.
    ///
    /// # Errors
    /// The call cannot be read, or the store is not to be had: then nothing was recorded.
    pub fn record_model(
        &self,
        call: &ModelCall<'_>,
        scopes: Option<&Scopes>,
        report: &Report,
    ) -> Result<Settled, Admission> {
        let Prepared { loaded, policy, provider, arguments, from, .. } = self.prepare(call, None)?;
        let model = call.model.to_owned();
        let permit = ModelPermit { id: None, loaded, provider, model, held: Vec::new(), from };
        let (settled, usd, tokens) = permit.worth(report, self.engine().now());
        let cost = |amount: Option<Amount>| Cost::proven(amount.unwrap_or_default());
        let costs = Costs { usd: cost(usd), tokens: cost(tokens) };
        let gates = policy
            .recording(self.engine(), scopes.map(Scopes::shape))
            .map_err(|error| refusal(&error.to_string()))?;
        let max_output = None;
        let prepared = Prepared {
            loaded: permit.loaded,
            policy,
            gates,
            provider: None,
            max_output,
            costs: Ok(costs),
            arguments,
            from,
        };
        // The namespace tells a ledger's reader that nobody decided this.
        let call = ModelCall { action: Action { namespace: USAGE_NAMESPACE, ..call.action }, ..*call };
        let decide = |inputs: &Inputs<'_>| self.engine().admit(&prepared.gates.compiled, inputs);
        let admitted = prepared.decide(self.engine(), &call, scopes, decide);
        let admitted = self.engine().close_recorded(admitted).map_err(|error| refusal(&error.to_string()))?;
        if admitted.admission.verdict == Verdict::Allow { Ok(settled) } else { Err(admitted.admission) }
    }

    /// Decides a call that its action tells of.
    pub(super) fn admit_told(&self, call: &Call<'_>) -> Admitted {
        match told(call, |call| self.admit_model(call)) {
            Ok(ModelAdmitted { admission, permit, .. }) => {
                Admitted { admission, permit: permit.and_then(|permit| permit.id) }
            }
            Err(admission) => Admitted { admission, permit: None },
        }
    }

    /// The same without taking anything.
    pub(super) fn peek_told(&self, call: &Call<'_>) -> (Admission, Vec<MeterStatus>) {
        told(call, |call| self.peek_model(call)).unwrap_or_else(|admission| (admission, Vec::new()))
    }

    /// The gates of the sections that cover a call, of a tool or a model; nothing when none does.
    ///
    /// # Errors
    /// The sections that cover it cannot work together.
    pub fn gates_of(&self, call: &Call<'_>) -> Result<Option<Arc<CompiledPolicy>>, PolicyError> {
        if call.action.namespace != NAMESPACE {
            return Ok(self.for_action(call.action.name)?.map(|policy| Arc::clone(policy.compiled())));
        }
        let loaded = self.loaded();
        let (sections, models) = (loaded.file.sections(), &loaded.models);
        let provider = call.arguments.get("provider").and_then(Value::as_str);
        let Known { provider, .. } = models.known(sections, provider, call.action.name);
        let policy = models.policy_of(self.engine(), sections, provider.as_deref(), call.action.name)?;
        Ok((!models.is_uncovered(&policy)).then(|| Arc::clone(&policy.gates.compiled)))
    }

    fn prepare(&self, call: &ModelCall<'_>, scopes: Option<&Scopes>) -> Result<Prepared, Admission> {
        let now = self.engine().now();
        if call.model.is_empty() {
            return Err(malformed(Code::InvalidAction, "the call names no model"));
        }
        if call.model.len() > LONGEST || call.provider.is_some_and(|name| name.len() > LONGEST) {
            let text = format!("names of models and providers have at most {LONGEST} bytes");
            return Err(malformed(Code::TooLarge, &text));
        }
        let loaded = self.loaded();
        let sections = loaded.file.sections();
        let Known { provider, quote } = loaded.models.known(sections, call.provider, call.model);
        let policy = loaded
            .models
            .policy_of(self.engine(), sections, provider.as_deref(), call.model)
            .map_err(|error| refusal(&error.to_string()))?;
        let gates = match scopes {
            None => Arc::clone(&policy.gates),
            Some(scopes) => {
                policy.inside(self.engine(), scopes.shape()).map_err(|error| refusal(&error.to_string()))?
            }
        };
        let shape = scopes.map(Scopes::shape);
        let needs = |unit| policy.counts(unit) || shape.is_some_and(|shape| shape.limits(unit));
        // Where only the file counts, it says itself what to reserve.
        let reserve = || {
            let gives = !quote.as_ref().is_ok_and(|quote| has_no_output(quote, now));
            let bounds = |shape: &&ScopeShape| shape.limits(Unit::Usd) || shape.limits(Unit::Tokens);
            shape.filter(bounds).filter(|_| gives).map(ScopeShape::reserve_output)
        };
        let max_output = call.request.max_output.or(policy.reserve_output).or_else(reserve);
        let wants = |unit| needs(unit) || shape.is_some_and(|shape| shape.counts(unit));
        let counted = Counted {
            needs: [Unit::Usd, Unit::Tokens].map(needs),
            wants: [Unit::Usd, Unit::Tokens].map(wants),
        };
        let costs = costs(call, &policy, counted, &quote, max_output, now);
        let arguments = call.request.arguments(provider.as_deref(), call.model, max_output);
        drop(quote);
        Ok(Prepared { loaded, policy, gates, provider, max_output, costs, arguments, from: now })
    }
}

/// A refusal of a call that nobody can decide.
fn malformed(code: Code, text: &str) -> Admission {
    let (kind, gate, retry) = (GateKind::Action, Arc::from("model"), Retry::Never);
    let reason = Reason { code, kind, gate, retry, detail: Detail::Text(text.into()) };
    Admission::block(vec![reason], Vec::new())
}

/// The call of a model that an action of its namespace tells of.
fn told<R>(call: &Call<'_>, decide: impl FnOnce(&ModelCall<'_>) -> R) -> Result<R, Admission> {
    let Some((request, provider, model)) = ModelRequest::of_arguments(call.arguments) else {
        let text = "the arguments of a call of a model tell at least `model`, `input_bytes` and `answers`";
        return Err(malformed(Code::InvalidAction, text));
    };
    if model != call.action.name {
        return Err(malformed(Code::InvalidAction, "the call and its arguments name two models"));
    }
    let (tenant, action) = (call.tenant, call.action);
    Ok(decide(&ModelCall { tenant, action, model, provider, request: &request }))
}

impl Prepared {
    /// Hands the call as gates see it, its keys, verdicts and costs, to `decide`.
    fn decide<R>(
        &self,
        engine: &Engine,
        call: &ModelCall<'_>,
        scopes: Option<&Scopes>,
        decide: impl FnOnce(&Inputs<'_>) -> R,
    ) -> R {
        let namespace = if call.action.namespace.is_empty() { NAMESPACE } else { call.action.namespace };
        let action = Action { namespace, name: call.model, ..call.action };
        let call = Call { tenant: call.tenant, action, arguments: &self.arguments, uncovered: None };
        let resolved = &self.policy.resolved;
        let evaluated = Evaluated::of(resolved, &call, self.from, engine.keeps_ledger());
        let of = |costs: &Costs| resolved.costs.iter().map(|(_, unit)| costs.of(*unit)).collect();
        let evaluated = evaluated.priced(resolved, self.costs.as_ref().map(of).map_err(Clone::clone));
        let Some(scopes) = scopes else {
            return evaluated.with_inputs(resolved, &call, &Inputs::default(), decide);
        };
        let (costs, verdict) = match &self.costs {
            Ok(costs) => (costs.of_scopes(), RuleVerdict::Pass),
            Err((code, why)) => ([Cost::default(); 4], RuleVerdict::Refused(*code, why)),
        };
        scopes.with_inputs(&costs, &[verdict], None, |inputs| {
            evaluated.with_inputs(resolved, &call, inputs, decide)
        })
    }
}

/// What is held: where a budget in observe mode was exceeded the cost is recorded at once, and nothing held.
fn held(admission: &Admission, prepared: &Prepared) -> Vec<Held> {
    let forced = |name: &str| {
        let exceeded = |reason: &Reason| {
            reason.kind == GateKind::Budget && reason.code == Code::BudgetExceeded && &*reason.gate == name
        };
        admission.observed.iter().any(exceeded)
    };
    let costs = prepared.costs.as_ref().copied().unwrap_or(Costs::NONE);
    let holding = prepared.gates.holds.iter().filter(|hold| !forced(&hold.budget));
    holding
        .map(|hold| {
            let Cost { amount, bound } = if hold.is_scope && hold.unit == Unit::ComputeUnits {
                Cost::default()
            } else {
                costs.of(hold.unit)
            };
            let (budget, unit, is_limited) = (Arc::clone(&hold.budget), hold.unit, hold.is_limited);
            Held { budget, unit, amount, bound, is_limited }
        })
        .collect()
}

/// Which of dollars and tokens have to be bounded, and which only want to be.
#[derive(Clone, Copy, Debug)]
struct Counted {
    needs: [bool; 2],
    wants: [bool; 2],
}

/// The most a call can cost. What nothing limits and nobody can bound is not held.
fn costs(
    call: &ModelCall<'_>,
    policy: &ModelPolicy,
    counted: Counted,
    quote: &Result<Quote<'_>, PriceError>,
    max_output: Option<u64>,
    now: Timestamp,
) -> Result<Costs, Unbounded> {
    let request = call.request;
    if counted.wants == [false; 2] {
        return Ok(Costs::NONE);
    }
    let must = counted.needs != [false; 2];
    if request.answers == 0 && must {
        return Err((Code::InvalidAction, "the call asks for no answer".to_owned()));
    }
    let unseen_tokens = request.unseen_tokens.or(policy.reserve_unseen.filter(|_| request.refers));
    if request.refers && unseen_tokens.is_none() {
        if !must {
            return Ok(Costs::NONE);
        }
        let text = "the request refers to what it does not contain: say how many tokens that is at most, or give the \
                    model `reserve_unseen` in the policy";
        return Err((Code::InvalidAction, text.to_owned()));
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
    let [usd_counts, tokens_count] = [0, 1].map(|at: usize| {
        (counted.needs.get(at).copied().unwrap_or(true), counted.wants.get(at).copied().unwrap_or(true))
    });
    let bounded = |(needed, wanted): (bool, bool), none: Cost, bound: Result<Cost, Unbounded>| match bound {
        Ok(cost) if wanted => Ok(cost),
        Err(why) if needed => Err(why),
        _ => Ok(none),
    };
    Ok(Costs {
        usd: bounded(usd_counts, Costs::NONE.usd, in_usd(quote, &bounds))?,
        tokens: bounded(tokens_count, Costs::NONE.tokens, in_tokens(quote, &bounds))?,
    })
}

fn in_usd(quote: &Result<Quote<'_>, PriceError>, bounds: &CallBounds<'_>) -> Result<Cost, Unbounded> {
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
            Err((code, format!("{error}: {}", error.hint())))
        }
    }
}

fn in_tokens(quote: &Result<Quote<'_>, PriceError>, bounds: &CallBounds<'_>) -> Result<Cost, Unbounded> {
    let seen = bounds.text_bytes.saturating_add(bounds.added_tokens);
    let input = seen.saturating_add(bounds.unseen_tokens.unwrap_or_default());
    let output = match bounds.output_tokens {
        Some(most) => most.saturating_mul(bounds.answers),
        None if quote.as_ref().is_ok_and(|quote| has_no_output(quote, bounds.from)) => 0,
        None => {
            let error = PriceError::Unbounded(checkrein_core::usage::UsageUnit::OutputTokens);
            return Err((Code::InvalidAction, format!("{error}: {}", error.hint())));
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
