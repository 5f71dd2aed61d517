//! Facts that the code of a guard asks for and proves: values that a result has shown in this run or session.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use checkrein::config::{CodeGates, FactKind, Policies, fact_key, fact_scope, is_said};
use checkrein::engine::{Engine, GateSpec, GateSpecKind};
use checkrein::store::Step;
use checkrein_core::admission::KeyValue;
use checkrein_core::code::Code;
use checkrein_core::decision::{Detail, GateKind, Reason, Retry};
use checkrein_core::json::{Object, Value};
use checkrein_core::policy::Mode;
use checkrein_core::time::Span;
use pyo3::prelude::*;
use pyo3::types::{PyFrozenSet, PyList, PySet, PyString, PyTuple};
use pyo3::{PyTraverseError, PyVisit};
use smallvec::SmallVec;

use crate::convert::{self, MAX_NODES, Unusable};
use crate::guard::Guard;
use crate::policy::Gates;
use crate::source::{Slots, Source};

/// So many different values of one kind may a call name.
const MAX_VALUES: usize = 32;
/// So many combinations of counts are kept compiled.
const MAX_VARIANTS: usize = 64;

/// How many different values of each kind a call names.
pub(crate) type Counts = SmallVec<[u8; 4]>;

/// One argument whose values must be facts.
#[derive(Debug)]
struct Need {
    kind: usize,
    source: Source,
    /// A call may leave it out.
    optional: bool,
}

/// The arguments of a tool whose values must have been read.
#[derive(Debug)]
pub(crate) struct Requires {
    needs: Vec<Need>,
    /// The kinds, with what to tell who lacks one.
    kinds: Vec<(Arc<str>, Box<str>)>,
    actor: Py<PyAny>,
    mode: Mode,
    variants: Variants,
}

/// What a call names, as keys of facts: for each kind the places of their bytes.
#[derive(Debug, Default)]
pub(crate) struct Named {
    keys: SmallVec<[(usize, Range<usize>); 4]>,
    bytes: Vec<u8>,
}

impl Requires {
    /// Reads `(((kind, source, optional), ...), ((kind, hint), ...), actor, observe)` or nothing.
    pub(crate) fn read(spec: &Bound<'_, PyAny>) -> PyResult<Option<Self>> {
        if spec.is_none() {
            return Ok(None);
        }
        type Parts<'py> = (Vec<(usize, Bound<'py, PyAny>, bool)>, Vec<(String, String)>, Py<PyAny>, bool);
        let (needs, kinds, actor, observe): Parts<'_> = spec.extract()?;
        let need = |(kind, source, optional): (usize, Bound<'_, PyAny>, bool)| {
            Ok(Need { kind, source: Source::read(&source)?, optional })
        };
        Ok(Some(Self {
            needs: needs.into_iter().map(need).collect::<PyResult<_>>()?,
            kinds: kinds.into_iter().map(|(kind, hint)| (kind.into(), hint.into())).collect(),
            actor,
            mode: if observe { Mode::Observe } else { Mode::Enforce },
            variants: Variants::default(),
        }))
    }

    /// The gates of a guard with those for as many values of each kind, whose keys come behind the others.
    pub(crate) fn with(&self, code: &CodeGates, counts: &[u8]) -> CodeGates {
        let mut code = code.clone();
        for ((kind, _), count) in self.kinds.iter().zip(counts) {
            for _ in 0..*count {
                let kind_of = GateSpecKind::Fact { key: code.keys };
                code.gates.push(GateSpec { name: kind.to_string(), mode: self.mode, kind: kind_of });
                code.keys = code.keys.saturating_add(1);
            }
        }
        code
    }

    /// How many different values of each kind a call names.
    pub(crate) fn counts(&self, named: &Named) -> Counts {
        named.counts(self.kinds.len())
    }

    /// The counts of the usual call: one value of each kind.
    pub(crate) fn usual(&self) -> Counts {
        self.kinds.iter().map(|_| 1).collect()
    }

    /// Reads which facts a call needs. What cannot be one, and an argument that is not there, are reasons.
    pub(crate) fn read_call(
        &self,
        py: Python<'_>,
        slots: &Slots<'_, '_>,
        reasons: &mut Vec<Reason>,
    ) -> PyResult<Named> {
        let mut named = Named::default();
        let acting = self.actor.bind(py).call0()?.cast_into::<PyTuple>()?;
        let (run, session) = (acting.get_item(3)?, acting.get_item(4)?);
        let scope = fact_scope(text(&run)?, text(&session)?);
        for need in &self.needs {
            let Some((kind, _)) = self.kinds.get(need.kind) else { continue };
            let refuse = |code, text: String| refusal(code, kind, &text);
            let value = match need.source.value(py, slots) {
                Ok(Some(value)) => value,
                Ok(None) if need.optional => continue,
                Ok(None) => {
                    reasons
                        .push(refuse(Code::MissingFact, format!("`{}` was not given", need.source.label())));
                    continue;
                }
                Err(Unusable::Raised(error)) => return Err(error),
                Err(Unusable::Wrong(text) | Unusable::TooLarge(text)) => {
                    reasons.push(refuse(Code::InvalidAction, format!("`{}` is {text}", need.source.label())));
                    continue;
                }
            };
            let Some(scope) = scope else {
                let text = "facts belong to a run or a session, and the call is in none".to_owned();
                reasons.push(refuse(Code::InvalidAction, text));
                continue;
            };
            let mut problem = None;
            each(&value, |item| {
                match scalar(item) {
                    Ok(Some(value)) => named.add(need.kind, scope, &value),
                    Ok(None) => problem = Some("None".to_owned()),
                    Err(Unusable::Raised(error)) => return Err(error),
                    Err(Unusable::Wrong(text) | Unusable::TooLarge(text)) => problem = Some(text),
                }
                Ok(())
            })?;
            let most = named.keys.iter().filter(|(kind, _)| *kind == need.kind).count();
            if let Some(text) = problem {
                let text = format!("`{}` has {text}, which is no fact", need.source.label());
                reasons.push(refuse(Code::InvalidAction, text));
            } else if most > MAX_VALUES {
                let text = format!(
                    "`{}` names {most} values, at most {MAX_VALUES} are allowed",
                    need.source.label()
                );
                reasons.push(refuse(Code::TooLarge, text));
            }
        }
        named.keys.sort_by_key(|(kind, _)| *kind);
        Ok(named)
    }

    /// The gates for a call with other counts than the usual ones; they are compiled once.
    pub(crate) fn variant(
        &self,
        counts: &Counts,
        compile: impl FnOnce(&Counts) -> PyResult<Gates>,
    ) -> PyResult<Arc<Gates>> {
        if let Some(known) = self.variants.get(counts) {
            return Ok(known);
        }
        let made = Arc::new(compile(counts)?);
        self.variants.put(counts.clone(), &made);
        Ok(made)
    }

    /// Says on refusals for missing facts what their author has to say about it.
    pub(crate) fn hint(&self, reasons: &mut [Reason]) {
        for reason in reasons.iter_mut().filter(|reason| reason.code == Code::MissingFact) {
            let known = self.kinds.iter().find(|(kind, hint)| *kind == reason.gate && !hint.is_empty());
            if let (Some((_, hint)), Detail::None) = (known, &reason.detail) {
                reason.detail = Detail::Text(hint.clone());
            }
        }
    }

    pub(crate) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.actor)?;
        self.needs.iter().try_for_each(|need| need.source.traverse(visit))
    }
}

impl Named {
    fn add(&mut self, kind: usize, scope: [&str; 2], value: &Value) {
        let key = fact_key(scope, value);
        let known = self
            .keys
            .iter()
            .any(|(other, range)| *other == kind && self.bytes.get(range.clone()) == Some(key.as_slice()));
        if !known {
            let start = self.bytes.len();
            self.bytes.extend_from_slice(&key);
            self.keys.push((kind, start..self.bytes.len()));
        }
    }

    /// How many there are of each of so many kinds.
    fn counts(&self, kinds: usize) -> Counts {
        // At most 32 of each kind were read.
        (0..kinds).map(|kind| self.keys.iter().filter(|(other, _)| *other == kind).count() as u8).collect()
    }

    /// The keys, in the order of the gates.
    pub(crate) fn keys(&self) -> impl Iterator<Item = KeyValue<'_>> {
        self.keys.iter().map(|(_, range)| KeyValue::Bytes(self.bytes.get(range.clone()).unwrap_or_default()))
    }
}

/// Gates that were compiled for other counts.
#[derive(Debug, Default)]
struct Variants(Mutex<BTreeMap<Counts, Arc<Gates>>>);

impl Variants {
    fn get(&self, counts: &Counts) -> Option<Arc<Gates>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(counts).map(Arc::clone)
    }

    fn put(&self, counts: Counts, gates: &Arc<Gates>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_VARIANTS {
            known.clear();
        }
        known.insert(counts, Arc::clone(gates));
    }
}

/// What the results of a tool prove.
#[derive(Debug)]
pub(crate) struct Proves {
    /// Finds the values in a result: `((kind, value), ...)`. It may refuse.
    find: Py<PyAny>,
    kinds: Vec<Kind>,
    actor: Py<PyAny>,
    /// Names and slots of the arguments that the agent chose, unless all values may be among them.
    arguments: Vec<(String, usize)>,
}

#[derive(Debug)]
struct Kind {
    name: String,
    keep: Span,
    /// A value that the call itself said counts too.
    echo: bool,
    family: Mutex<Option<FactKind>>,
}

/// A call whose result proves something.
#[derive(Debug)]
pub(crate) struct Proving {
    tenant: String,
    run: String,
    session: String,
    /// `None` if one of them has no canonical form: then nobody knows what the call said.
    arguments: Option<Value>,
}

impl Proves {
    /// Reads `(find, ((kind, keep, echo), ...), actor, ((name, slot), ...))` or nothing.
    pub(crate) fn read(spec: &Bound<'_, PyAny>) -> PyResult<Option<Self>> {
        if spec.is_none() {
            return Ok(None);
        }
        type Parts = (Py<PyAny>, Vec<(String, i64, bool)>, Py<PyAny>, Vec<(String, usize)>);
        let (find, kinds, actor, arguments): Parts = spec.extract()?;
        let kind = |(name, keep, echo)| {
            let (keep, family) = (Span::from_nanos(keep), Mutex::new(None));
            Kind { name, keep, echo, family }
        };
        Ok(Some(Self { find, kinds: kinds.into_iter().map(kind).collect(), actor, arguments }))
    }

    /// What has to be known of a call when it returns.
    pub(crate) fn read_call(&self, py: Python<'_>, slots: &Slots<'_, '_>) -> PyResult<Box<Proving>> {
        let acting = self.actor.bind(py).call0()?.cast_into::<PyTuple>()?;
        let (run, session) = (acting.get_item(3)?.extract()?, acting.get_item(4)?.extract()?);
        let mut budget = MAX_NODES;
        let mut members = Vec::with_capacity(self.arguments.len());
        for (name, slot) in &self.arguments {
            let Some(value) = slots.get(*slot) else { continue };
            match convert::json_value(value, &mut budget, 0) {
                Ok(value) => members.push((name.clone(), value)),
                Err(Unusable::Raised(error)) => return Err(error),
                Err(Unusable::Wrong(_) | Unusable::TooLarge(_)) => {
                    return Ok(Box::new(Proving { tenant: String::new(), run, session, arguments: None }));
                }
            }
        }
        let arguments = Object::from_members(members).map(Value::Object).ok();
        Ok(Box::new(Proving { tenant: String::new(), run, session, arguments }))
    }

    /// The steps that record what a result shows; an error says what of it cannot be proved.
    pub(crate) fn steps(
        &self,
        py: Python<'_>,
        guard: &Guard,
        proving: &Proving,
        result: &Bound<'_, PyAny>,
    ) -> PyResult<Vec<Step>> {
        let found: Vec<(usize, Bound<'_, PyAny>)> = self.find.bind(py).call1((result,))?.extract()?;
        if found.is_empty() {
            return Ok(Vec::new());
        }
        let Some(scope) = fact_scope(&proving.run, &proving.session) else {
            guard.warn(py, "nothing was proved: the call is in no run and no session");
            return Ok(Vec::new());
        };
        let now = guard.engine.now();
        let mut steps = Vec::with_capacity(found.len());
        let mut said = 0_usize;
        for (kind, value) in found {
            let Some(kind) = self.kinds.get(kind) else { continue };
            let value = match scalar(&value) {
                Ok(Some(value)) => value,
                // The values were looked at by whoever found them.
                Ok(None) | Err(Unusable::Wrong(_) | Unusable::TooLarge(_)) => continue,
                Err(Unusable::Raised(error)) => return Err(error),
            };
            let echoed = || proving.arguments.as_ref().is_none_or(|arguments| is_said(arguments, &value));
            if !kind.echo && echoed() {
                said += 1;
                continue;
            }
            steps.push(kind.family(py, &guard.engine)?.step(&proving.tenant, scope, &value, kind.keep, now));
        }
        if said > 0 {
            let text = if proving.arguments.is_some() {
                format!("{said} values were not proved: the call itself named them; echo=True proves them")
            } else {
                format!(
                    "{said} values were not proved: arguments that cannot be compared; exclude them or use echo=True"
                )
            };
            guard.warn(py, &text);
        }
        Ok(steps)
    }

    pub(crate) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.find)?;
        visit.call(&self.actor)
    }
}

impl Kind {
    fn family(&self, py: Python<'_>, engine: &Engine) -> PyResult<FactKind> {
        let mut known = self.family.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = *known {
            return Ok(known);
        }
        let found = FactKind::new(engine, &self.name).map_err(|problem| crate::error::store(py, &problem))?;
        *known = Some(found);
        Ok(found)
    }
}

impl Proving {
    /// The same call, of a tenant.
    pub(crate) fn of_tenant(mut self: Box<Self>, tenant: &str) -> Box<Self> {
        tenant.clone_into(&mut self.tenant);
        self
    }
}

/// The parts that gates are compiled of again for other counts of facts.
pub(crate) struct Recipe {
    pub(crate) code: CodeGates,
    pub(crate) policies: Option<Policies>,
}

impl std::fmt::Debug for Recipe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recipe").field("code", &self.code).finish_non_exhaustive()
    }
}

fn refusal(code: Code, kind: &Arc<str>, text: &str) -> Reason {
    let about = if code == Code::MissingFact { GateKind::Fact } else { GateKind::Action };
    Reason {
        code,
        kind: about,
        gate: Arc::clone(kind),
        retry: Retry::Never,
        detail: Detail::Text(text.into()),
    }
}

fn text<'a>(object: &'a Bound<'_, PyAny>) -> PyResult<&'a str> {
    object.cast::<PyString>()?.to_str()
}

/// Visits a value, or every item of a list, tuple or set.
fn each<'py>(
    value: &Bound<'py, PyAny>,
    mut visit: impl FnMut(&Bound<'py, PyAny>) -> PyResult<()>,
) -> PyResult<()> {
    let is_several = value.is_instance_of::<PyList>()
        || value.is_instance_of::<PyTuple>()
        || value.is_instance_of::<PySet>()
        || value.is_instance_of::<PyFrozenSet>();
    if !is_several {
        return visit(value);
    }
    for (item, count) in value.try_iter()?.zip(0..) {
        if count > MAX_NODES {
            break;
        }
        visit(&item?)?;
    }
    Ok(())
}

/// A value that can be a fact: text that is not empty, a number, `True` or `False`; nothing for `None`.
fn scalar(value: &Bound<'_, PyAny>) -> Result<Option<Value>, Unusable> {
    if value.is_none() {
        return Ok(None);
    }
    match convert::json_value(value, &mut { 1 }, 0)? {
        Value::String(ref text) if text.is_empty() => Err(Unusable::Wrong("an empty text".to_owned())),
        Value::Array(_) | Value::Object(_) => Err(Unusable::Wrong(convert::a_type(value))),
        value => Ok(Some(value)),
    }
}
