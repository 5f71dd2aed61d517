//! `Scopes`: the meters around a piece of work, as `checkrein.run` puts them together.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use checkrein::engine::{
    CompileError, SCOPE_NAMESPACE, SCOPE_UNITS, Scope, ScopeShape as CoreShape, Scopes as CoreScopes,
};
use checkrein_core::admission::{Action, Admission, Crossed, Verdict};
use checkrein_core::amount::{Amount, Unit};
use checkrein_core::code::Code;
use checkrein_core::decision::{MeterStatus, Reason, Retry};
use checkrein_core::gate::breaker::Health;
use checkrein_core::gate::budget::{Bound as Certainty, Cost};
use checkrein_core::key::encode_parts;
use checkrein_core::permit::{Outcome, Settlement};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use pyo3::{PyTraverseError, PyVisit};

use crate::convert::{self, Unusable};
use crate::decision::Decision;
use crate::ending::Ending;
use crate::engine::EngineBase;
use crate::{error, reason};

/// Principal, user, agent, run and session.
pub(crate) type Actor = (String, String, String, String, String);
/// A scope as Python describes it: its gate, and its units with their limits.
type Described<'py> = (String, Vec<(String, Option<Bound<'py, PyAny>>)>);

/// Scopes inside one another, the innermost first, whoever they are for.
#[pyclass(name = "ScopeShape", module = "checkrein._native", frozen)]
pub(crate) struct ScopeShape(Arc<CoreShape>);

#[pymethods]
impl ScopeShape {
    #[new]
    fn new(py: Python<'_>, scopes: Vec<Described<'_>>, reserve_output: u64) -> PyResult<Self> {
        let read = |(gate, limits): Described<'_>| {
            let limit = |(unit, limit): (String, Option<Bound<'_, PyAny>>)| {
                let unit = unit_of(py, &unit)?;
                let limit = limit.map(|limit| read_amount(&limit, unit)).transpose()?;
                PyResult::Ok((unit, limit))
            };
            let limits = limits.into_iter().map(limit).collect::<PyResult<_>>()?;
            PyResult::Ok(Scope { gate, limits })
        };
        let scopes = scopes.into_iter().map(read).collect::<PyResult<_>>()?;
        Ok(Self(Arc::new(CoreShape::new(scopes, reserve_output))))
    }
}

/// The scopes around a piece of work.
#[pyclass(name = "Scopes", module = "checkrein._native", frozen, weakref)]
pub(crate) struct Scopes {
    owner: Py<EngineBase>,
    pub(crate) inner: CoreScopes,
}

#[pymethods]
impl Scopes {
    /// Scopes of a shape, which belongs to the same engine, with the parts of a key for each.
    #[new]
    fn new(
        owner: Bound<'_, EngineBase>,
        shape: &ScopeShape,
        tenant: String,
        keys: Vec<Vec<String>>,
    ) -> PyResult<Self> {
        if keys.len() != shape.0.scopes().len() {
            return Err(error::config(owner.py(), "one key for each scope", "scopes", "give them all"));
        }
        let encoded = |parts: &Vec<String>| {
            let mut key = Vec::new();
            match parts.as_slice() {
                [one] => key.extend_from_slice(one.as_bytes()),
                parts => encode_parts(parts.iter().map(|part| part.as_bytes()), &mut key),
            }
            key
        };
        let keys = keys.iter().map(encoded).collect();
        let inner = CoreScopes::new(Arc::clone(&shape.0), tenant, keys);
        Ok(Self { inner, owner: owner.unbind() })
    }

    /// Holds amounts in all of them, or raises.
    fn hold(
        slf: &Bound<'_, Self>,
        amounts: &Bound<'_, PyDict>,
        proven: bool,
        actor: Actor,
        name: &str,
    ) -> PyResult<ScopePermit> {
        let (py, this) = (slf.py(), slf.get());
        let owner = this.owner.bind(py);
        let base = owner.get();
        base.check_fork(py)?;
        let bound = if proven { Certainty::Proven } else { Certainty::Estimated };
        let amounts = read_amounts(amounts)?;
        let costs = amounts.map(|amount| Cost { amount: amount.unwrap_or_default(), bound });
        let action = action_of(&actor, name);
        let hold = || this.inner.hold(&base.engine, &costs, &action);
        let admitted = if base.engine.waits() { py.detach(hold) } else { hold() };
        let admitted = admitted.map_err(|problem| impossible(py, &problem))?;
        let name: Arc<str> = name.into();
        announce(owner, &name, admitted.admission)?;
        Ok(ScopePermit {
            ending: Ending::new(this.owner.clone_ref(py), admitted.permit),
            name,
            held: this
                .inner
                .units()
                .map(|unit| (unit, of_unit(&amounts, unit).unwrap_or_default()))
                .collect(),
        })
    }

    /// Records amounts without asking whether they fit.
    fn record(&self, py: Python<'_>, amounts: &Bound<'_, PyDict>, actor: Actor, name: &str) -> PyResult<()> {
        let owner = self.owner.bind(py);
        let base = owner.get();
        base.check_fork(py)?;
        let costs = read_amounts(amounts)?.map(|amount| Cost::proven(amount.unwrap_or_default()));
        let action = action_of(&actor, name);
        let record = || self.inner.record(&base.engine, &costs, &action);
        let admitted = if base.engine.waits() { py.detach(record) } else { record() };
        let admission = admitted.map_err(|problem| impossible(py, &problem))?.admission;
        // That it did not fit is what recording is for; the meters say so.
        announce(owner, &name.into(), Admission { observed: Vec::new(), ..admission })
    }

    /// Where the meters stand: gate, unit, spent, held, limit, overrun and forced; amounts as exact decimals.
    fn status(&self, py: Python<'_>) -> PyResult<Vec<Standing>> {
        let base = self.owner.get();
        base.check_fork(py)?;
        let look = || self.inner.status(&base.engine);
        let status = if base.engine.waits() { py.detach(look) } else { look() };
        let status = status.map_err(|problem| impossible(py, &problem))?;
        Ok(status.iter().map(standing).collect())
    }

    /// Forgets what the innermost scopes spent, `count` of them.
    fn forget(&self, py: Python<'_>, count: usize) -> PyResult<()> {
        let base = self.owner.get();
        base.check_fork(py)?;
        let forget = || self.inner.forget(&base.engine, count);
        let forgotten = if base.engine.waits() { py.detach(forget) } else { forget() };
        forgotten.map_err(|problem| impossible(py, &problem))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.owner)
    }
}

type Standing = (String, &'static str, String, String, Option<String>, String, String);

fn standing(meter: &MeterStatus) -> Standing {
    let limit = (meter.limit != Amount::MAX).then(|| meter.limit.to_string());
    let [spent, held, overrun, forced] =
        [meter.spent, meter.held, meter.overrun, meter.forced].map(|amount| amount.to_string());
    (meter.gate.to_string(), meter.unit.name(), spent, held, limit, overrun, forced)
}

/// What was held in scopes; settled once.
#[pyclass(name = "ScopePermit", module = "checkrein._native", frozen, weakref)]
pub(crate) struct ScopePermit {
    ending: Ending,
    name: Arc<str>,
    /// In the order of the permit's holds.
    held: Vec<(Unit, Amount)>,
}

#[pymethods]
impl ScopePermit {
    /// Charges what was really spent; a unit that is left out is charged as it was held.
    fn settle(&self, py: Python<'_>, actual: &Bound<'_, PyDict>) -> PyResult<()> {
        let actual = read_amounts(actual)?;
        let charged: Vec<Amount> =
            self.held.iter().map(|(unit, held)| of_unit(&actual, *unit).unwrap_or(*held)).collect();
        let settlement =
            Settlement { outcome: Outcome::Done(None), health: Health::Success, actual: &charged };
        self.finish(py, &settlement, "done")
    }

    /// Charges everything that was held.
    fn settle_in_full(&self, py: Python<'_>) -> PyResult<()> {
        self.finish(py, &Settlement::new(Outcome::Done(None), Health::Success), "done")
    }

    /// Gives everything back.
    fn release(&self, py: Python<'_>) -> PyResult<()> {
        self.finish(py, &Settlement::new(Outcome::FailedClean, Health::Neutral), "failed_clean")
    }

    /// Nobody knows what was spent.
    fn doubt(&self, py: Python<'_>) -> PyResult<()> {
        self.finish(py, &Settlement::new(Outcome::InDoubt, Health::Neutral), "in_doubt")
    }

    /// Charges everything that was held, without waiting for the store; `False` when it was settled before.
    fn abandon(&self) -> bool {
        self.ending.abandon(Outcome::Done(None))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.ending.traverse(&visit)
    }
}

impl ScopePermit {
    fn finish(&self, py: Python<'_>, settlement: &Settlement<'_>, word: &str) -> PyResult<()> {
        let engine = &self.ending.owner.get().engine;
        let finish = |id: Option<_>| id.map_or(Ok(()), |id| engine.finish(id, settlement));
        self.ending.end(py, &self.name, None, finish)?;
        self.ending.ended(py, &self.name, word);
        Ok(())
    }
}

fn action_of<'a>(actor: &'a Actor, name: &'a str) -> Action<'a> {
    let (principal, user, agent, run, session) = actor;
    Action { namespace: SCOPE_NAMESPACE, name, principal, user, agent, run, session, ..Action::default() }
}

fn unit_of(py: Python<'_>, word: &str) -> PyResult<Unit> {
    let known = SCOPE_UNITS.into_iter().find(|unit| unit.name() == word);
    known.ok_or_else(|| {
        let text = format!("`{}` is no unit", word.chars().take(40).collect::<String>());
        error::config(py, &text, "unit", "use usd, tokens, calls or cu")
    })
}

fn read_amount(value: &Bound<'_, PyAny>, unit: Unit) -> PyResult<Amount> {
    convert::amount(value, unit).map_err(|unusable| match unusable {
        Unusable::Raised(raised) => raised,
        Unusable::Wrong(what) | Unusable::TooLarge(what) => {
            let hint = "write exact amounts: text, an integer or a Decimal";
            error::config(value.py(), &format!("an amount of {unit} is {what}"), "amount", hint)
        }
    })
}

/// Amounts by unit, in the order of [`SCOPE_UNITS`].
fn read_amounts(amounts: &Bound<'_, PyDict>) -> PyResult<[Option<Amount>; 4]> {
    let mut read = [None; 4];
    for (word, value) in amounts.iter() {
        let unit = unit_of(amounts.py(), &word.extract::<String>()?)?;
        for (place, of) in read.iter_mut().zip(SCOPE_UNITS) {
            if of == unit {
                *place = Some(read_amount(&value, unit)?);
            }
        }
    }
    Ok(read)
}

fn of_unit(amounts: &[Option<Amount>; 4], unit: Unit) -> Option<Amount> {
    amounts.iter().zip(SCOPE_UNITS).find_map(|(amount, of)| amount.filter(|_| of == unit))
}

fn impossible(py: Python<'_>, problem: &CompileError) -> PyErr {
    match problem {
        CompileError::Store(problem) => error::store(py, problem),
        CompileError::Policy(problem) => {
            error::config(py, &problem.to_string(), "scopes", "nest fewer scopes in one another")
        }
    }
}

/// Tells whoever listens of an answer, and raises it when it is a refusal.
pub(crate) fn announce(owner: &Bound<'_, EngineBase>, name: &Arc<str>, admission: Admission) -> PyResult<()> {
    let (py, base) = (owner.py(), owner.get());
    let admission = Admission { reasons: admission.reasons.into_iter().map(for_good).collect(), ..admission };
    let tell = |method: &str, what: Bound<'_, PyAny>| {
        if let Err(raised) = owner.call_method1(method, (&**name, what)) {
            error::unraisable(py, raised, owner.as_any());
        }
    };
    if !admission.observed.is_empty() {
        tell("_observed", reason::tuple(py, &admission.observed)?.into_any());
    }
    for Crossed { gate, percent } in &admission.crossed {
        if let Err(raised) = owner.call_method1("_crossed", (&**name, &**gate, *percent)) {
            error::unraisable(py, raised, owner.as_any());
        }
    }
    let is_allowed = admission.verdict == Verdict::Allow;
    let code = admission.reasons.first().map(|reason| reason.code);
    let listening = base.shared.listening.load(Ordering::Acquire);
    if listening || !is_allowed {
        let (reasons, observed) = (admission.reasons, admission.observed);
        let decision = Decision::new(name, &admission.verdict, reasons, observed, Vec::new());
        let decision = Bound::new(py, decision.durable(base.engine.durability()))?.into_any();
        if listening {
            tell("_announce", decision.clone());
        }
        if !is_allowed {
            if error::is_debugging(py)? {
                owner.call_method1("_refused", (decision.clone(),))?;
            }
            return Err(error::denied(py, code.unwrap_or(Code::PolicyError), decision));
        }
    }
    Ok(())
}

/// What a run has spent leaves its window in 30 days, which nobody waits for: the run is over then. A session goes on.
fn for_good(mut reason: Reason) -> Reason {
    if reason.gate.starts_with("@run") && matches!(reason.retry, Retry::After(_)) {
        reason.retry = Retry::Never;
    }
    reason
}
