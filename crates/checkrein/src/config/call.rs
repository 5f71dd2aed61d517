//! A call as a policy file sees it: its keys, costs and verdicts, evaluated before anything is decided.

use std::sync::Arc;

use checkrein_core::admission::{Action, Inputs, KeyValue, RuleVerdict};
use checkrein_core::amount::{Amount, Unit};
use checkrein_core::canonical_json;
use checkrein_core::code::Code;
use checkrein_core::fingerprint::{Request, RequestDigest};
use checkrein_core::gate::budget::Cost;
use checkrein_core::json::Value;
use checkrein_core::key::encode_parts;
use checkrein_core::time::Timestamp;

use super::model::{Freeze, RuleGate, TakenCost};
use super::model_call::NAMESPACE as MODELS;
use super::pattern::Pattern;
use super::resolve::{KeySource, Question, Resolved};
use crate::expression::{
    EvaluationError, Expression, JsonScope, Operand, Scope, lookalike_form, lookalike_value,
};

/// One thing an agent is about to do.
#[derive(Clone, Copy, Debug)]
pub struct Call<'c> {
    /// The tenant; empty when there is only one.
    pub tenant: &'c str,
    /// Who does what. Its arguments and digest are computed here.
    pub action: Action<'c>,
    /// The arguments.
    pub arguments: &'c Value,
    /// What of the call is not among them, if anything: expressions that read it fail.
    pub uncovered: Option<&'c Uncovered>,
}

/// Arguments that gates do not see.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Uncovered {
    /// Their names: those without a canonical form, and those that the code left out.
    pub hidden: Vec<String>,
    /// One of them that nobody left out: what compares whole calls refuses the call.
    pub incomparable: Option<String>,
    /// The object of a method that nobody left out: a once key cannot do without it.
    pub object: Option<String>,
}

/// The variables of a call. Reading a hidden argument is an error, whether it is asked for or looked for.
#[derive(Clone, Copy)]
struct CallScope<'s, 'c> {
    slots: &'s Slots<'c>,
    arguments: &'c Value,
    hidden: &'c [String],
}

impl CallScope<'_, '_> {
    fn hides(&self, map: &Value, name: &str) -> bool {
        std::ptr::eq(map, self.arguments) && self.hidden.iter().any(|hidden| hidden == name)
    }
}

impl<'c> Scope<'c> for CallScope<'_, 'c> {
    type Handle = &'c Value;

    #[inline]
    fn slot(&self, index: usize) -> Operand<'c, &'c Value> {
        self.slots.get(index).copied().unwrap_or(Operand::Missing)
    }

    fn length(&self, container: &'c Value) -> usize {
        let hidden = if std::ptr::eq(container, self.arguments) { self.hidden.len() } else { 0 };
        JsonScope { slots: self.slots }.length(container).saturating_add(hidden)
    }

    fn item(&self, list: &'c Value, index: usize) -> Operand<'c, &'c Value> {
        JsonScope { slots: self.slots }.item(list, index)
    }

    fn member(&self, map: &'c Value, name: &str) -> Operand<'c, &'c Value> {
        match (JsonScope { slots: self.slots }).member(map, name) {
            Operand::Missing if self.hides(map, name) => Operand::Unreadable,
            found => found,
        }
    }

    fn members(&self, map: &'c Value, visit: &mut dyn FnMut(&'c str, Operand<'c, &'c Value>)) {
        JsonScope { slots: self.slots }.members(map, visit);
        if std::ptr::eq(map, self.arguments) {
            self.hidden.iter().for_each(|name| visit(name, Operand::Unreadable));
        }
    }
}

/// A verdict of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    Pass,
    Violated,
    Error(String),
    Refused(Code, String),
}

/// What the gates of a tool ask for, evaluated for one call.
#[derive(Debug)]
pub(super) struct Evaluated {
    pub(super) keys: Vec<Result<Vec<u8>, String>>,
    pub(super) costs: Vec<Cost>,
    verdicts: Vec<Verdict>,
    once: Option<Result<Vec<u8>, String>>,
    /// The canonical arguments and the digest of the request, where somebody asks for them.
    request: Option<(Vec<u8>, RequestDigest)>,
}

/// The values of [`super::VARIABLES`].
type Slots<'c> = [Operand<'c, &'c Value>; 11];

impl<'c> Call<'c> {
    fn slots(&self, now: Timestamp) -> Slots<'c> {
        let text = |text: &'c str| if text.is_empty() { Operand::Missing } else { Operand::Text(text) };
        let action = self.action;
        [
            Operand::from(self.arguments),
            text(action.namespace),
            text(action.name),
            text(action.principal),
            text(self.tenant),
            text(action.user),
            text(action.agent),
            text(action.run),
            text(action.session),
            text(action.run),
            Operand::Int(now.nanos().div_euclid(1_000_000_000)),
        ]
    }

    /// What of it is frozen, in words.
    fn frozen(&self, freeze: &Freeze) -> Option<String> {
        let Action { namespace, name, user, agent, run, .. } = self.action;
        if namespace == MODELS {
            if self.is_frozen_model(freeze) {
                return Some(format!("the model `{name}`"));
            }
        } else if freeze.tools.iter().any(|pattern| pattern.covers(name)) {
            return Some(format!("the tool `{name}`"));
        }
        let named = [
            ("user", user, &freeze.users),
            ("tenant", self.tenant, &freeze.tenants),
            ("agent", agent, &freeze.agents),
            ("run", run, &freeze.runs),
        ];
        let found = named.into_iter().find(|(_, name, frozen)| !name.is_empty() && frozen.contains(*name));
        found.map(|(what, name, _)| format!("the {what} `{name}`"))
    }

    /// Whether a model is frozen by any of the names that providers take for it: in any case, with its provider or not.
    fn is_frozen_model(&self, freeze: &Freeze) -> bool {
        let name = self.action.name.to_lowercase();
        let bare = name.split_once('/').map_or(name.as_str(), |(_, bare)| bare);
        let provider = self.arguments.get("provider").and_then(Value::as_str).map(str::to_lowercase);
        let full = provider.map(|provider| format!("{provider}/{bare}"));
        let names = [Some(name.as_str()), Some(bare), full.as_deref()];
        freeze.tools.iter().any(|pattern| {
            let pattern = Pattern::new(&pattern.as_str().to_lowercase());
            names.iter().flatten().any(|name| pattern.covers(name))
        })
    }

    /// Why whole calls cannot be compared, if they cannot.
    fn comparable(&self) -> Result<(), String> {
        let uncovered = self.uncovered.and_then(|uncovered| uncovered.incomparable.as_deref());
        uncovered.map_or(Ok(()), |name| Err(excludable(name)))
    }

    /// The names that expressions must not read.
    fn hidden(&self) -> &'c [String] {
        self.uncovered.map_or(&[], |uncovered| &uncovered.hidden)
    }

    /// What facts and loop guards belong to: the run, or the session where there is no run.
    pub(super) fn scope(&self) -> Option<[&'c str; 2]> {
        fact_scope(self.action.run, self.action.session)
    }

    /// The canonical arguments and the digest of the request.
    fn digest(&self) -> (Vec<u8>, RequestDigest) {
        let canonical = canonical_json::to_vec(self.arguments);
        let Action { namespace, name, principal, .. } = self.action;
        let digest =
            RequestDigest::of(&Request { namespace, name, principal, target: None, arguments: &canonical });
        (canonical, digest)
    }
}

/// What facts belong to: the run, or the session where there is no run; nothing without both.
pub fn fact_scope<'c>(run: &'c str, session: &'c str) -> Option<[&'c str; 2]> {
    [["run", run], ["session", session]].into_iter().find(|[_, id]| !id.is_empty())
}

/// The key of a fact: whose it is, and its value.
pub fn fact_key([kind, id]: [&str; 2], value: &Value) -> Vec<u8> {
    let mut key = Vec::new();
    encode_parts([kind.as_bytes(), id.as_bytes(), &canonical_json::to_vec(value)], &mut key);
    key
}

fn excludable(name: &str) -> String {
    format!("args.{name} (it has no canonical form; exclude it if it does not matter)")
}

/// The value at a JSON pointer.
pub(super) fn at_pointer<'v>(value: &'v Value, pointer: &str) -> Option<&'v Value> {
    pointer.split('/').skip(1).try_fold(value, |value, part| {
        let part = part.replace("~1", "/").replace("~0", "~");
        match value {
            Value::Array(items) => {
                let is_plain = part == "0" || !part.starts_with(['0', '+']);
                items.get(part.parse::<usize>().ok().filter(|_| is_plain)?)
            }
            value => value.get(&part),
        }
    })
}

impl Evaluated {
    /// `tells` says that a ledger is told of the call.
    pub(super) fn of(resolved: &Resolved, call: &Call<'_>, now: Timestamp, tells: bool) -> Self {
        let slots = call.slots(now);
        let scope = CallScope { slots: &slots, arguments: call.arguments, hidden: call.hidden() };
        let request = (tells || resolved.compares_requests()).then(|| call.digest());
        let keys = resolved.keys.iter().map(|source| match source {
            KeySource::Everybody => Ok(Vec::new()),
            KeySource::Expression(key) => text_key(key, &scope),
            KeySource::Fact(pointer) => {
                let value = at_pointer(call.arguments, pointer).ok_or_else(|| format!("args{pointer}"))?;
                Ok(fact_key(call.scope().ok_or_else(no_run)?, value))
            }
            KeySource::SameCall => {
                call.comparable()?;
                let mut key = Vec::new();
                let digest: &[u8] = request.as_ref().map_or(&[], |(_, digest)| digest.as_bytes());
                let [kind, id] = call.scope().ok_or_else(no_run)?;
                encode_parts([kind.as_bytes(), id.as_bytes(), digest], &mut key);
                Ok(key)
            }
        });
        let keys = keys.collect();
        let costs: Vec<_> = resolved.costs.iter().map(|(cost, unit)| cost_of(cost, *unit, &scope)).collect();
        let looks =
            |question: &Question| matches!(question, Question::Rule(rule) if rule.lookalikes.is_some());
        let lookalike = resolved.questions.iter().any(looks).then(|| Folded::of(call, &slots));
        let folded_slots = lookalike.as_ref().map(|lookalike| lookalike.slots(&slots));
        let folded = lookalike.as_ref().zip(folded_slots.as_ref()).map(|(lookalike, slots)| CallScope {
            slots,
            arguments: &lookalike.arguments,
            hidden: call.hidden(),
        });
        let verdicts = resolved.questions.iter().map(|question| match question {
            Question::Rule(rule) => verdict_of(rule, &scope, folded.as_ref()),
            Question::Freeze(freeze) => {
                call.frozen(freeze).map_or(Verdict::Pass, |what| Verdict::Refused(Code::Frozen, what))
            }
            Question::Cost(position) => match costs.get(*position) {
                Some(Err(error)) => Verdict::Refused(Code::InvalidAction, format!("the cost {error}")),
                _ => Verdict::Pass,
            },
            Question::Price => Verdict::Pass,
            Question::Uncovered => Verdict::Refused(Code::UnknownTool, "no section covers it".to_owned()),
        });
        let object = call.uncovered.and_then(|uncovered| uncovered.object.as_deref());
        let once = |key: &Arc<Expression>| {
            call.comparable()?;
            object.map_or(Ok(()), |name| Err(excludable(name)))?;
            text_key(key, &scope)
        };
        Self {
            keys,
            verdicts: verdicts.collect(),
            // One without a value is refused by the verdict on it.
            costs: costs.iter().map(|cost| Cost::proven(cost.clone().unwrap_or_default())).collect(),
            once: resolved.once.first().map(once),
            request,
        }
    }

    /// The same with what a call of a model costs, or why that cannot be said.
    pub(super) fn priced(mut self, resolved: &Resolved, costs: Result<Vec<Cost>, (Code, String)>) -> Self {
        match costs {
            Ok(costs) => self.costs = costs,
            Err((code, why)) => {
                self.costs.fill(Cost::default());
                let mut answers = self.verdicts.iter_mut().zip(&resolved.questions);
                if let Some((verdict, _)) = answers.find(|(_, question)| matches!(question, Question::Price))
                {
                    *verdict = Verdict::Refused(code, why);
                }
            }
        }
        self
    }

    /// Hands what was evaluated to `decide`, behind what other gates have read.
    pub(super) fn with_inputs<R>(
        &self,
        resolved: &Resolved,
        call: &Call<'_>,
        before: &Inputs<'_>,
        decide: impl FnOnce(&Inputs<'_>) -> R,
    ) -> R {
        let keys: Vec<KeyValue<'_>> =
            before.keys.iter().copied().chain(self.keys.iter().map(as_key)).collect();
        let own = self.verdicts.iter().zip(&resolved.questions).map(|(verdict, question)| match verdict {
            Verdict::Pass => RuleVerdict::Pass,
            Verdict::Violated => RuleVerdict::Violated(question.message()),
            Verdict::Error(error) => RuleVerdict::Error(error),
            Verdict::Refused(code, what) => RuleVerdict::Refused(*code, what),
        });
        let verdicts: Vec<RuleVerdict<'_>> = before.verdicts.iter().copied().chain(own).collect();
        let costs: Vec<Cost> = before.costs.iter().chain(&self.costs).copied().collect();
        // A door that fills in less says what the ledger may not be told.
        let told = before.action.copied().unwrap_or(Action {
            arguments: self.request.as_ref().map(|(canonical, _)| canonical.as_slice()),
            digest: self.request.as_ref().map(|(_, digest)| *digest),
            ..call.action
        });
        let own_once = || {
            let ((_, digest), once) = self.request.as_ref().zip(self.once.as_ref())?;
            Some((as_key(once), *digest))
        };
        decide(&Inputs {
            tenant: call.tenant,
            keys: &keys,
            costs: &costs,
            verdicts: &verdicts,
            once: before.once.or_else(own_once),
            period_ends: &[],
            start: true,
            action: Some(&told),
        })
    }
}

impl Question {
    fn message(&self) -> &str {
        match self {
            Self::Rule(rule) => &rule.message,
            Self::Freeze(_) | Self::Cost(_) | Self::Price | Self::Uncovered => "",
        }
    }
}

fn as_key(key: &Result<Vec<u8>, String>) -> KeyValue<'_> {
    match key {
        Ok(bytes) => KeyValue::Bytes(bytes),
        Err(missing) => KeyValue::Missing(missing),
    }
}

fn no_run() -> String {
    "action.run".to_owned()
}

/// An error with the expression it comes from.
fn told(expression: &Expression, error: &EvaluationError) -> String {
    format!("`{}`: {}", expression.text(), error.message)
}

fn text_key(key: &Expression, scope: &CallScope<'_, '_>) -> Result<Vec<u8>, String> {
    let found = key.key(scope).map(String::into_bytes);
    if found.as_ref().is_ok_and(Vec::is_empty) {
        return Err(format!("`{}` (it is empty)", key.text()));
    }
    found.map_err(|error| {
        let text = key.text();
        // "The key ... has no value" says already that something is missing.
        let is_plain = error.message == format!("`{text}` is missing");
        if is_plain { format!("`{text}`") } else { format!("`{text}` ({})", error.message) }
    })
}

/// A call whose texts are in the form in which all that look alike are equal.
struct Folded {
    arguments: Value,
    texts: Vec<Option<String>>,
}

impl Folded {
    fn of(call: &Call<'_>, slots: &Slots<'_>) -> Self {
        let text = |operand: &Operand<'_, &Value>| match operand {
            Operand::Text(text) => Some(lookalike_form(text)),
            _ => None,
        };
        Self { arguments: lookalike_value(call.arguments), texts: slots.iter().map(text).collect() }
    }

    fn slots<'f>(&'f self, slots: &Slots<'f>) -> Slots<'f> {
        let mut folded = *slots;
        for (operand, text) in folded.iter_mut().zip(&self.texts) {
            if let Some(text) = text {
                *operand = Operand::Text(text);
            }
        }
        if let Some(arguments) = folded.first_mut() {
            *arguments = Operand::from(&self.arguments);
        }
        folded
    }
}

/// What a rule says of a call; one that compares texts as they look too has to hold both ways, and applies if it does
/// so either way.
fn verdict_of(rule: &RuleGate, scope: &CallScope<'_, '_>, folded: Option<&CallScope<'_, '_>>) -> Verdict {
    let asked = [
        Some((rule.when.as_deref(), &*rule.check, scope)),
        rule.lookalikes
            .as_ref()
            .zip(folded)
            .map(|(looks, scope)| (looks.when.as_deref(), &*looks.check, scope)),
    ];
    let mut applies = false;
    for (when, _, scope) in asked.iter().flatten() {
        match when.map_or(Ok(true), |when| when.test(*scope).map_err(|error| told(when, &error))) {
            Ok(yes) => applies |= yes,
            Err(error) => return Verdict::Error(error),
        }
    }
    if !applies {
        return Verdict::Pass;
    }
    for (_, check, scope) in asked.iter().flatten() {
        match check.test(*scope) {
            Ok(true) => {}
            Ok(false) => return Verdict::Violated,
            Err(error) => return Verdict::Error(told(check, &error)),
        }
    }
    Verdict::Pass
}

/// A cost in the unit of its budget: computed ones count nano-dollars, or whole units.
fn cost_of(cost: &TakenCost, unit: Unit, scope: &CallScope<'_, '_>) -> Result<Amount, String> {
    let computed = match cost {
        TakenCost::Fixed(amount) => return Ok(*amount),
        TakenCost::Computed(expression) => {
            expression.cost_nano_usd(scope).map_err(|error| told(expression, &error))?
        }
    };
    if unit != Unit::Usd {
        return Ok(Amount::from_units(computed));
    }
    // A u64 of nano-dollars times 1,000 stays below 2^74.
    Ok(Amount::from_pico(i128::from(computed).saturating_mul(1_000)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use checkrein_core::json::{Limits, read_str};

    #[test]
    fn pointers_find_values() {
        let value = read_str(r#"{"a": [{"b/c": 1}, 2], "~": 3, "": 4}"#, &Limits::default()).unwrap();
        for (pointer, found) in [
            ("/a/0/b~1c", Some(1)),
            ("/a/1", Some(2)),
            ("/~0", Some(3)),
            ("/", Some(4)),
            ("/a/2", None),
            ("/a/01", None),
            ("/a/+1", None),
            ("/x", None),
            ("/a/1/x", None),
        ] {
            let expected = found.map(Value::Int);
            assert_eq!(at_pointer(&value, pointer), expected.as_ref(), "{pointer}");
        }
    }
}
