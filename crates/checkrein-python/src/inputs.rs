//! From the arguments of one call to the inputs of its admission: keys, costs, verdicts, the once key.

use std::cell::Cell;
use std::ops::Range;
use std::sync::Arc;

use checkrein::config::{Call, Uncovered};
use checkrein_core::admission::{Action, Inputs, KeyValue, RuleVerdict};
use checkrein_core::amount::{Amount, Unit};
use checkrein_core::canonical_json;
use checkrein_core::code::Code;
use checkrein_core::decision::Reason;
use checkrein_core::fingerprint::{Request, RequestDigest};
use checkrein_core::gate::budget::Cost;
use checkrein_core::json::{Object, Value};
use checkrein_core::key::encode_parts;
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple};
use pyo3::{PyTraverseError, PyVisit};
use smallvec::SmallVec;

use crate::convert::{self, MAX_NODES, Unusable};
use crate::facts::{Named, Proves, Proving, Requires};
use crate::operation::NAMESPACE;
use crate::reason;
use crate::source::{Answer, Rule, Slots, Source, run_of};

/// What one budget takes for a call.
#[derive(Debug)]
pub(crate) struct CostSource {
    amount: CostKind,
    unit: Unit,
    gate: Arc<str>,
}

#[derive(Debug)]
enum CostKind {
    Fixed(Cost),
    Value(Source),
}

/// Which arguments a once key covers, and which of them it is.
#[derive(Debug)]
pub(crate) struct OnceSource {
    /// `None`: all covered arguments are the key.
    key: Option<Source>,
    /// Names and slots of the arguments that are compared.
    pub(crate) covered: Vec<(String, usize)>,
    /// The name of the tool in the digest.
    scope: String,
    gate: Arc<str>,
    /// Says who acts, where a key names another operation in every run.
    per_run: Option<Py<PyAny>>,
}

/// Everything that the gates of a guard read of a call.
#[derive(Debug)]
pub(crate) struct Reader {
    pub(crate) tool: Arc<str>,
    pub(crate) tenant: Option<Source>,
    pub(crate) default_tenant: String,
    pub(crate) keys: Vec<Source>,
    pub(crate) costs: Vec<CostSource>,
    pub(crate) rules: Vec<Rule>,
    pub(crate) once: Option<OnceSource>,
    /// Where a ledger is kept: what it is told of who acts, and of which arguments.
    pub(crate) told: Option<Told>,
    /// Values that must have been read.
    pub(crate) requires: Option<Requires>,
    /// What its results prove.
    pub(crate) proves: Option<Proves>,
}

/// What the ledger is told of a call.
#[derive(Debug)]
pub(crate) struct Told {
    /// Returns principal, user, agent, run and session of the current context.
    actor: Py<PyAny>,
    /// Names and slots of the arguments that have a canonical form, as far as is known before a call.
    arguments: Option<Vec<(String, usize)>>,
    /// Whether the ledger is told of them; else only the policy file's gates read them.
    keeps: bool,
    /// Arguments that the code left out: no gate of the policy file may read them.
    excluded: Vec<String>,
    /// The object of a method, unless the code left it out.
    object: Option<String>,
}

impl Told {
    /// Reads `(actor, ((name, slot), ...) or None, keeps, excluded, object or None)`.
    pub(crate) fn read(spec: &Bound<'_, PyAny>) -> PyResult<Self> {
        let (actor, arguments, keeps, excluded, object) = spec.extract()?;
        Ok(Self { actor, arguments, keeps, excluded, object })
    }
}

/// Who acts, and with what, as the ledger is told and a policy file's gates see it.
#[derive(Debug, Default)]
struct Acting {
    /// Principal, user, agent, run, session.
    names: [String; 5],
    arguments: Option<Vec<u8>>,
    value: Value,
    /// What gates do not see.
    uncovered: Option<Box<Uncovered>>,
}

/// A key that was read: borrowed from a text argument, or written to the scratch space.
enum Held<'a> {
    Text(&'a [u8]),
    Scratch(Range<usize>),
    Missing(&'a str),
}

/// What was read of one call. It is filled in place: moving it would cost as much as the decision.
#[derive(Default)]
pub(crate) struct Reading<'a> {
    tenant: Option<Held<'a>>,
    /// The tenant of the run around the call: it counts where the guard reads none.
    pub(crate) run_tenant: Option<String>,
    keys: SmallVec<[Held<'a>; 2]>,
    scratch: Vec<u8>,
    pub(crate) costs: SmallVec<[Cost; 2]>,
    answers: SmallVec<[Answer; 8]>,
    once: Option<(Held<'a>, RequestDigest)>,
    acting: Option<Acting>,
    pub(crate) named: Option<Named>,
    pub(crate) proving: Cell<Option<Box<Proving>>>,
    pub(crate) problems: Vec<Reason>,
}

impl CostSource {
    /// Reads `(unit, gate, amount)` or `(unit, gate, source)`.
    pub(crate) fn read(spec: &Bound<'_, PyAny>) -> PyResult<Self> {
        let (unit, gate, source): (String, String, Bound<'_, PyAny>) = spec.extract()?;
        let unit = Unit::parse(&unit).unwrap_or(Unit::Calls);
        let amount = if source.is_instance_of::<PyTuple>() {
            CostKind::Value(Source::read(&source)?)
        } else {
            let pico: i128 = source.extract()?;
            CostKind::Fixed(Cost::proven(Amount::from_pico(pico)))
        };
        Ok(Self { amount, unit, gate: gate.into() })
    }

    /// The cost, when it is the same for every call.
    pub(crate) fn fixed(&self) -> Option<Cost> {
        match &self.amount {
            CostKind::Fixed(cost) => Some(*cost),
            CostKind::Value(_) => None,
        }
    }

    fn cost<'py>(&self, py: Python<'py>, slots: &Slots<'_, 'py>) -> Result<Cost, Unusable> {
        match &self.amount {
            CostKind::Fixed(cost) => Ok(*cost),
            CostKind::Value(source) => match source.integer(slots)? {
                Some(number) => counted(number, self.unit).map(Cost::proven),
                None => match source.value(py, slots)? {
                    Some(value) => {
                        convert::amount(&convert::in_unit(value, self.unit)?, self.unit).map(Cost::proven)
                    }
                    None => Err(Unusable::Wrong("it has no value".to_owned())),
                },
            },
        }
    }
}

/// The integer of an expression: nano-dollars where dollars are counted, else whole units.
fn counted(number: i128, unit: Unit) -> Result<Amount, Unusable> {
    let scale = if unit == Unit::Usd { Amount::from_nano(1) } else { Amount::ONE };
    match number.checked_mul(scale.pico()) {
        Some(pico) if pico >= 0 => Ok(Amount::from_pico(pico)),
        Some(_) => Err(Unusable::Wrong("negative".to_owned())),
        None => Err(Unusable::Wrong("an integer that is out of range".to_owned())),
    }
}

impl OnceSource {
    /// Reads `(key source or None, ((name, slot), ...), scope, gate, actor or None)`.
    pub(crate) fn read(spec: &Bound<'_, PyAny>) -> PyResult<Self> {
        type Parts<'py> =
            (Option<Bound<'py, PyAny>>, Vec<(String, usize)>, String, String, Option<Py<PyAny>>);
        let (key, covered, scope, gate, per_run): Parts<'_> = spec.extract()?;
        let key = key.map(|key| Source::read(&key)).transpose()?;
        Ok(Self { key, covered, scope, gate: gate.into(), per_run })
    }

    fn digest(&self, slots: &Slots<'_, '_>, tenant: &str) -> Result<RequestDigest, Unusable> {
        let mut budget = MAX_NODES;
        let mut members = Vec::with_capacity(self.covered.len());
        for (name, slot) in &self.covered {
            let Some(value) = slots.get(*slot) else { continue };
            let value = convert::json_value(value, &mut budget, 0).map_err(|unusable| match unusable {
                Unusable::Wrong(text) => Unusable::Wrong(format!(
                    "argument `{name}` is {text}; name it in `exclude` if it does not matter"
                )),
                other => other,
            })?;
            members.push((name.clone(), value));
        }
        let members = Object::from_members(members).map_err(|error| Unusable::Wrong(error.to_string()))?;
        let arguments = canonical_json::to_vec(&Value::Object(members));
        let (namespace, name) = (NAMESPACE, self.scope.as_str());
        Ok(RequestDigest::of(&Request {
            namespace,
            name,
            principal: tenant,
            target: None,
            arguments: &arguments,
        }))
    }
}

impl Told {
    fn read_call(&self, py: Python<'_>, slots: &Slots<'_, '_>) -> PyResult<Acting> {
        let names = self.actor.bind(py).call0()?.extract()?;
        let Some(arguments) = &self.arguments else { return Ok(Acting { names, ..Acting::default() }) };
        let mut hidden = Vec::new();
        let mut budget = MAX_NODES;
        let mut members = Vec::with_capacity(arguments.len());
        for (name, slot) in arguments {
            let Some(value) = slots.get(*slot) else { continue };
            match convert::json_value(value, &mut budget, 0) {
                Ok(value) => members.push((name.clone(), value)),
                Err(Unusable::Raised(error)) => return Err(error),
                // A handle, a client, bytes: no gate covers it, and the ledger does not either.
                Err(Unusable::Wrong(_) | Unusable::TooLarge(_)) => hidden.push(name.clone()),
            }
        }
        let value = Object::from_members(members).map(Value::Object).unwrap_or_default();
        let written = self.keeps.then(|| canonical_json::to_vec(&value));
        Ok(Acting { names, arguments: written, value, uncovered: self.uncovered(hidden) })
    }
}

impl Told {
    /// What gates do not see of a call, with these arguments that have no canonical form.
    fn uncovered(&self, mut hidden: Vec<String>) -> Option<Box<Uncovered>> {
        if hidden.is_empty() && self.excluded.is_empty() && self.object.is_none() {
            return None;
        }
        let incomparable = hidden.first().cloned();
        hidden.extend(self.excluded.iter().chain(&self.object).cloned());
        Some(Box::new(Uncovered { hidden, incomparable, object: self.object.clone() }))
    }
}

impl Reader {
    /// Reads everything, asks every rule. An `Err` is something to raise on, such as Ctrl-C inside a rule.
    #[inline]
    pub(crate) fn read<'a, 'py>(
        &'a self,
        py: Python<'py>,
        slots: &'a Slots<'a, 'py>,
        reading: &mut Reading<'a>,
    ) -> PyResult<()> {
        if let Some(source) = &self.tenant {
            let held = reading.hold(py, source, slots, &self.tool, "the tenant")?;
            reading.tenant = Some(held);
        }
        for source in &self.keys {
            let held = reading.hold(py, source, slots, &self.tool, "the key")?;
            reading.keys.push(held);
        }
        for source in &self.costs {
            match source.cost(py, slots) {
                Ok(cost) => reading.costs.push(cost),
                Err(unusable) => {
                    reading.problem(&source.gate, "the cost", "", unusable)?;
                    reading.costs.push(Cost::default());
                }
            }
        }
        if let Some(once) = &self.once {
            let tenant = reading.run_tenant.clone();
            let tenant = tenant.as_deref().unwrap_or(&self.default_tenant);
            reading.read_once(py, once, slots, &self.tool, tenant)?;
        }
        for rule in &self.rules {
            reading.answers.push(rule.ask(py, slots)?);
        }
        if let Some(told) = &self.told {
            let acting = told.read_call(py, slots)?;
            reading.acting = Some(acting);
        }
        if let Some(requires) = &self.requires {
            reading.named = Some(requires.read_call(py, slots, &mut reading.problems)?);
        }
        if let Some(proves) = &self.proves {
            reading.proving.set(Some(proves.read_call(py, slots)?));
        }
        Ok(())
    }

    /// Whether reading never runs Python code of the user.
    pub(crate) fn is_quiet(&self) -> bool {
        let plain = |source: &Source| matches!(source, Source::Nothing | Source::Slot(..));
        let fixed = |cost: &CostSource| matches!(cost.amount, CostKind::Fixed(_));
        self.tenant.is_none()
            && self.keys.iter().all(plain)
            && self.costs.iter().all(fixed)
            && self.rules.iter().all(Rule::is_quiet)
            && self.once.is_none()
            && self.requires.is_none()
            && self.proves.is_none()
    }

    /// Hands the inputs to `decide`; an action that cannot be decided at all is `Err` with every reason.
    pub(crate) fn decide<T>(
        &self,
        reading: &Reading<'_>,
        decide: impl FnOnce(&Inputs<'_>) -> T,
    ) -> Result<T, Vec<Reason>> {
        if !reading.problems.is_empty() {
            return Err(self.refusal(reading));
        }
        let facts = reading.named.iter().flat_map(Named::keys);
        let keys: SmallVec<[KeyValue<'_>; 2]> =
            reading.keys.iter().map(|held| reading.key(held)).chain(facts).collect();
        let verdicts: SmallVec<[RuleVerdict<'_>; 8]> = reading
            .answers
            .iter()
            .zip(&self.rules)
            .map(|(answer, rule)| match answer {
                Answer::Pass => RuleVerdict::Pass,
                Answer::Violated => RuleVerdict::Violated(&rule.text),
                Answer::Error(text) => RuleVerdict::Error(text),
            })
            .collect();
        let tenant = match reading.tenant.as_ref().map(|held| reading.key(held)) {
            None => reading.run_tenant.as_deref().unwrap_or(&self.default_tenant),
            Some(KeyValue::Bytes(bytes)) => match str::from_utf8(bytes) {
                Ok(tenant) => tenant,
                Err(_) => return Err(vec![self.missing_tenant("it is not text")]),
            },
            Some(KeyValue::Missing(what)) => return Err(vec![self.missing_tenant(what)]),
        };
        let once = reading.once.as_ref().map(|(held, digest)| (reading.key(held), *digest));
        let action =
            reading.acting.as_ref().map(|acting| self.action(acting, once.map(|(_, digest)| digest)));
        Ok(decide(&Inputs {
            tenant,
            keys: &keys,
            costs: &reading.costs,
            verdicts: &verdicts,
            once,
            period_ends: &[],
            start: true,
            action: action.as_ref(),
        }))
    }

    /// The arguments that a once key covers: those of its own gate, or all that the policy file's gates see.
    pub(crate) fn covered(&self) -> &[(String, usize)] {
        match (&self.once, &self.told) {
            (Some(once), _) => &once.covered,
            (None, Some(Told { arguments: Some(arguments), .. })) => arguments,
            (None, _) => &[],
        }
    }

    /// The call as a policy file's gates see it.
    pub(crate) fn call<'b>(&'b self, reading: &'b Reading<'_>, tenant: &'b str) -> Option<Call<'b>> {
        let acting = reading.acting.as_ref()?;
        let action = self.action(acting, None);
        Some(Call { tenant, action, arguments: &acting.value, uncovered: acting.uncovered.as_deref() })
    }

    /// The action as the ledger shows it.
    fn action<'b>(&'b self, acting: &'b Acting, digest: Option<RequestDigest>) -> Action<'b> {
        let [principal, user, agent, run, session] = &acting.names;
        let arguments = acting.arguments.as_deref();
        let (namespace, name) = (NAMESPACE, &*self.tool);
        let digest = digest.or_else(|| {
            let arguments = arguments?;
            Some(RequestDigest::of(&Request { namespace, name, principal, target: None, arguments }))
        });
        Action { namespace, name, principal, user, agent, run, session, arguments, digest }
    }

    #[cold]
    fn missing_tenant(&self, what: &str) -> Reason {
        reason::of_action(&self.tool, Code::InvalidAction, format!("the tenant has no value: {what}"))
    }

    #[cold]
    fn refusal(&self, reading: &Reading<'_>) -> Vec<Reason> {
        let mut reasons = reading.problems.clone();
        for (answer, rule) in reading.answers.iter().zip(&self.rules) {
            let (code, text) = match answer {
                Answer::Pass => continue,
                Answer::Violated => (Code::RuleViolated, rule.text.clone()),
                Answer::Error(text) => (Code::RuleError, text.to_string()),
            };
            let mut found = reason::of_action(&rule.gate, code, text);
            found.kind = checkrein_core::decision::GateKind::Rule;
            reasons.push(found);
        }
        reasons
    }

    pub(crate) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.tenant.as_ref().map_or(Ok(()), |source| source.traverse(visit))?;
        self.keys.iter().try_for_each(|source| source.traverse(visit))?;
        for cost in &self.costs {
            if let CostKind::Value(source) = &cost.amount {
                source.traverse(visit)?;
            }
        }
        if let Some(told) = &self.told {
            visit.call(&told.actor)?;
        }
        self.requires.as_ref().map_or(Ok(()), |requires| requires.traverse(visit))?;
        self.proves.as_ref().map_or(Ok(()), |proves| proves.traverse(visit))?;
        if let Some(once) = &self.once {
            once.key.as_ref().map_or(Ok(()), |source| source.traverse(visit))?;
            once.per_run.as_ref().map_or(Ok(()), |actor| visit.call(actor))?;
        }
        self.rules.iter().try_for_each(|rule| rule.traverse(visit))
    }
}

impl<'a> Reading<'a> {
    fn key<'b>(&'b self, held: &'b Held<'a>) -> KeyValue<'b> {
        match held {
            Held::Text(bytes) => KeyValue::Bytes(bytes),
            Held::Scratch(range) => KeyValue::Bytes(self.scratch.get(range.clone()).unwrap_or_default()),
            Held::Missing(label) => KeyValue::Missing(label),
        }
    }

    #[inline]
    fn hold<'py>(
        &mut self,
        py: Python<'py>,
        source: &'a Source,
        slots: &'a Slots<'a, 'py>,
        gate: &Arc<str>,
        what: &str,
    ) -> PyResult<Held<'a>> {
        match source {
            Source::Nothing => return Ok(Held::Scratch(0..0)),
            Source::Slot(index, _) => {
                let value: Option<&'a Bound<'py, PyAny>> = slots.get(*index).map(|value| &**value);
                if let Some(Ok(text)) = value.map(|value| value.cast_exact::<PyString>())
                    && let Ok(text) = text.to_str()
                    && !text.is_empty()
                {
                    return Ok(Held::Text(text.as_bytes()));
                }
            }
            _ => {}
        }
        self.hold_other(py, source, slots, gate, what)
    }

    fn hold_other<'py>(
        &mut self,
        py: Python<'py>,
        source: &'a Source,
        slots: &'a Slots<'a, 'py>,
        gate: &Arc<str>,
        what: &str,
    ) -> PyResult<Held<'a>> {
        let start = self.scratch.len();
        let parts = match source {
            Source::Parts(parts) => parts.as_slice(),
            single => std::slice::from_ref(single),
        };
        let mut encoded: SmallVec<[Vec<u8>; 2]> = SmallVec::new();
        for part in parts {
            let mut bytes = Vec::new();
            if let Source::Run(actor) = part {
                // Empty outside of a run: what is counted there is counted for all of them together.
                bytes.extend_from_slice(run_of(actor.bind(py))?.to_str()?.as_bytes());
                encoded.push(bytes);
                continue;
            }
            let found = part.value(py, slots).and_then(|value| match value {
                Some(value) => convert::key_bytes(&value, &mut bytes).map(|()| true),
                None => Ok(false),
            });
            match found {
                Ok(true) => encoded.push(bytes),
                Ok(false) => return Ok(Held::Missing(part.label())),
                Err(unusable) => {
                    self.problem(gate, what, part.label(), unusable)?;
                    return Ok(Held::Scratch(0..0));
                }
            }
        }
        match encoded.as_slice() {
            [single] if !matches!(source, Source::Parts(_)) => self.scratch.extend_from_slice(single),
            several => encode_parts(several.iter().map(Vec::as_slice), &mut self.scratch),
        }
        Ok(Held::Scratch(start..self.scratch.len()))
    }

    fn read_once<'py>(
        &mut self,
        py: Python<'py>,
        once: &'a OnceSource,
        slots: &'a Slots<'a, 'py>,
        tool: &Arc<str>,
        tenant: &str,
    ) -> PyResult<()> {
        let digest = match once.digest(slots, tenant) {
            Ok(digest) => digest,
            Err(unusable) => return self.problem(&once.gate, "", "", unusable),
        };
        let held = match &once.key {
            Some(source) => self.hold(py, source, slots, tool, "the once key")?,
            None => {
                let start = self.scratch.len();
                // Text, so that lists can show it and people can name it.
                self.scratch.extend_from_slice(format!("sha256:{digest}").as_bytes());
                Held::Scratch(start..self.scratch.len())
            }
        };
        let held = match &once.per_run {
            Some(actor) => self.scoped(py, actor, held)?,
            None => held,
        };
        self.once = Some((held, digest));
        Ok(())
    }

    /// A key of the current run. It has two parts outside of one too, so that no text is the key of a run.
    fn scoped(&mut self, py: Python<'_>, actor: &Py<PyAny>, held: Held<'a>) -> PyResult<Held<'a>> {
        let mut scoped = Vec::new();
        let KeyValue::Bytes(key) = self.key(&held) else { return Ok(held) };
        let run = run_of(actor.bind(py))?;
        encode_parts([run.to_str()?.as_bytes(), key], &mut scoped);
        let start = self.scratch.len();
        self.scratch.extend_from_slice(&scoped);
        Ok(Held::Scratch(start..self.scratch.len()))
    }

    #[cold]
    fn problem(&mut self, gate: &Arc<str>, what: &str, label: &str, unusable: Unusable) -> PyResult<()> {
        let (code, text) = match unusable {
            Unusable::Raised(error) => return Err(error),
            Unusable::Wrong(text) => (Code::InvalidAction, text),
            Unusable::TooLarge(text) => (Code::TooLarge, text),
        };
        let text = match (what, label) {
            ("", _) => text,
            (what, "") => format!("{what}: {text}"),
            (what, label) => format!("{what} `{label}`: {text}"),
        };
        self.problems.push(reason::of_action(gate, code, text));
        Ok(())
    }
}
