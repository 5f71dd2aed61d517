//! `ModelPermit`: what an admitted call of a model holds, and the ways it ends.

use std::sync::Arc;

use checkrein::config::{
    ModelAdmitted, ModelCall, ModelPermit as CorePermit, ModelRequest, Policies, Settled, Shortfall,
};
use checkrein::engine::SettleError;
use checkrein_core::admission::Action;
use checkrein_core::gate::breaker::Health;
use checkrein_core::gate::budget::Bound as Certainty;
use checkrein_core::json::{self, Limits, Value};
use checkrein_core::permit::Outcome;
use checkrein_core::usage::{UsageError, UsageUnit};
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyDict, PyString};
use pyo3::{PyTraverseError, PyVisit};

use crate::convert::{self, MAX_DEPTH, MAX_NODES, Unusable};
use crate::ending::Ending;
use crate::engine::EngineBase;
use crate::error;
use crate::scopes::{Actor, Scopes, announce};

/// The most bytes of a request or a reply that is given as text.
const MAX_BYTES: usize = 64 << 20;
const AS_SENT: &str = "give the request as it is sent: a dict of plain values, or its JSON";

/// What an admitted call of a model holds; settled once.
#[pyclass(name = "ModelPermit", module = "checkrein._native", frozen, weakref)]
pub(crate) struct ModelPermit {
    ending: Ending,
    permit: CorePermit,
    model: Arc<str>,
    max_output: Option<u64>,
    timeout_s: Option<f64>,
}

/// What a door says about a call beside its request.
#[derive(FromPyObject)]
struct Said {
    #[pyo3(item)]
    max_output: Option<u64>,
    #[pyo3(item)]
    unseen_tokens: Option<u64>,
    #[pyo3(item)]
    at_most: Vec<(String, u64)>,
    #[pyo3(item)]
    context: Option<Vec<(String, String)>>,
    #[pyo3(item)]
    tenant: Option<String>,
    #[pyo3(item)]
    actor: Actor,
    /// The scopes around the call.
    #[pyo3(item)]
    scopes: Option<Py<Scopes>>,
}

impl Said {
    fn tenant<'s>(&'s self, base: &'s EngineBase) -> &'s str {
        let of_scopes = self.scopes.as_ref().map(|scopes| scopes.get().inner.tenant());
        self.tenant.as_deref().or(of_scopes).unwrap_or(&base.tenant)
    }

    fn action(&self) -> Action<'_> {
        let (principal, user, agent, run, session) = &self.actor;
        Action { principal, user, agent, run, session, ..Action::default() }
    }
}

#[pymethods]
impl ModelPermit {
    /// Decides a call of a model and holds the most it can cost; raises when it is refused.
    #[staticmethod]
    fn _admit(
        owner: &Bound<'_, EngineBase>,
        model: Option<&str>,
        provider: Option<&str>,
        request: &Bound<'_, PyAny>,
        said: &Bound<'_, PyDict>,
    ) -> PyResult<Self> {
        let (py, base) = (owner.py(), owner.get());
        base.check_fork(py)?;
        let said: Said = said.extract()?;
        let policies = policies(py, base)?;
        let json = read_request(py, request)?;
        let model = named(py, model, json.as_ref().ok())?;
        let request = described(py, json, &said)?;
        let call = ModelCall {
            tenant: said.tenant(base),
            action: said.action(),
            model: &model,
            provider,
            request: &request,
        };
        let scopes = said.scopes.as_ref().map(|scopes| &scopes.get().inner);
        let admit = || policies.admit_model_in(&call, scopes);
        let admitted = if base.engine.waits() { py.detach(admit) } else { admit() };
        decided(owner, &model, admitted)
    }

    /// Records what a call used that nobody asked about before, by its reply.
    #[staticmethod]
    fn _record(
        owner: &Bound<'_, EngineBase>,
        model: &str,
        provider: Option<&str>,
        reply: &Bound<'_, PyAny>,
        said: &Bound<'_, PyDict>,
    ) -> PyResult<ModelSettlement> {
        let (py, base) = (owner.py(), owner.get());
        base.check_fork(py)?;
        let said: Said = said.extract()?;
        let policies = policies(py, base)?;
        let unreadable = |why: &str| {
            let hint = "give the reply of a provider, or its usage: input and output tokens";
            error::config(py, &format!("the usage cannot be read: {why}"), "usage", hint)
        };
        let reply = read(reply).map_err(|unusable| match unusable {
            Unusable::Raised(raised) => raised,
            Unusable::Wrong(what) | Unusable::TooLarge(what) => unreadable(&format!("it is {what}")),
        })?;
        let report = Policies::report_of(&reply).map_err(|problem| unreadable(&problem.to_string()))?;
        let request = ModelRequest::of_text(0);
        let call = ModelCall {
            tenant: said.tenant(base),
            action: said.action(),
            model,
            provider,
            request: &request,
        };
        let scopes = said.scopes.as_ref().map(|scopes| &scopes.get().inner);
        let record = || policies.record_model(&call, scopes, &report);
        let recorded = if base.engine.waits() { py.detach(record) } else { record() };
        match recorded {
            Ok(settled) => Ok(ModelSettlement { held: Vec::new(), settled }),
            Err(admission) => {
                announce(owner, &model.into(), admission)?;
                Err(error::permit(py, "the usage was not recorded"))
            }
        }
    }

    /// The maximum of output tokens to send with the call.
    #[getter]
    fn max_output(&self) -> Option<u64> {
        self.max_output
    }

    /// How long to wait for the model, in seconds.
    #[getter]
    fn timeout(&self) -> Option<f64> {
        self.timeout_s
    }

    /// What is held: a dict of `budget`, `amount`, `unit` and `bound` for each budget that has a limit.
    #[getter]
    fn held<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyDict>>> {
        let row = |held: &checkrein::config::Held| {
            let dict = PyDict::new(py);
            dict.set_item("budget", &*held.budget)?;
            dict.set_item("amount", held.amount.to_string())?;
            dict.set_item("unit", held.unit.name())?;
            let is_proven = held.bound == Certainty::Proven;
            dict.set_item("bound", if is_proven { "proven" } else { "estimated" })?;
            Ok(dict)
        };
        self.permit.held().iter().filter(|held| held.is_limited).map(row).collect()
    }

    /// Settles by a reply, a dict or JSON; `whole` is what an error carries, when nobody can be told.
    fn settle(
        &self,
        py: Python<'_>,
        reply: &Bound<'_, PyAny>,
        whole: &Bound<'_, PyAny>,
    ) -> PyResult<ModelSettlement> {
        let reply = match read(reply) {
            Ok(reply) => Some(reply),
            Err(Unusable::Raised(raised)) => return Err(raised),
            Err(Unusable::Wrong(_) | Unusable::TooLarge(_)) => None,
        };
        let settled = self.ending(py, Some(whole), |policies| match &reply {
            Some(reply) => policies.settle_model(&self.permit, reply),
            None => policies.settle_in_full(&self.permit, Shortfall::Usage(UsageError::UnknownForm)),
        })?;
        self.ended(py, "done");
        Ok(ModelSettlement { held: self.permit.held().to_vec(), settled })
    }

    /// Settles at the full hold: the call was made, and nobody said what it used.
    fn settle_in_full(&self, py: Python<'_>) -> PyResult<ModelSettlement> {
        let missing = || Shortfall::Usage(UsageError::Missing("usage".to_owned()));
        let settled = self.ending(py, None, |policies| policies.settle_in_full(&self.permit, missing()))?;
        self.ended(py, "done");
        Ok(ModelSettlement { held: self.permit.held().to_vec(), settled })
    }

    /// Settles at the full hold without waiting for the store; `False` when it was settled before.
    fn abandon(&self) -> bool {
        self.ending.abandon(Outcome::Done(None))
    }

    /// Gives everything back: the call was not made.
    fn release(&self, py: Python<'_>, health: &str) -> PyResult<()> {
        self.ending(py, None, |policies| policies.release_model(&self.permit, health_of(health)))?;
        self.ended(py, "failed_clean");
        Ok(())
    }

    /// Nobody knows whether it was made.
    fn doubt(&self, py: Python<'_>, health: &str) -> PyResult<()> {
        self.ending(py, None, |policies| policies.doubt_model(&self.permit, health_of(health)))?;
        self.ended(py, "in_doubt");
        Ok(())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.ending.traverse(&visit)
    }
}

impl ModelPermit {
    /// Ends the call; an error says what became of it.
    fn ending<T: Send>(
        &self,
        py: Python<'_>,
        whole: Option<&Bound<'_, PyAny>>,
        end: impl Send + Sync + Fn(&Policies) -> Result<T, SettleError>,
    ) -> PyResult<T> {
        let policies = policies(py, self.ending.owner.get())?;
        self.ending.end(py, &self.model, whole, |_| end(policies))
    }

    /// Tells the engine's listeners how the call ended.
    fn ended(&self, py: Python<'_>, outcome: &str) {
        self.ending.ended(py, &self.model, outcome);
    }
}

/// How a call was settled; amounts are exact decimals as text.
#[pyclass(name = "ModelSettlement", module = "checkrein", frozen, weakref)]
pub(crate) struct ModelSettlement {
    held: Vec<checkrein::config::Held>,
    settled: Settled,
}

#[pymethods]
impl ModelSettlement {
    /// What it cost in dollars, where that is known.
    #[getter]
    fn usd(&self) -> Option<String> {
        self.settled.usd.map(|usd| usd.to_string())
    }

    /// The tokens it used, input and output, where they are known.
    #[getter]
    fn tokens(&self) -> Option<u64> {
        self.settled.tokens
    }

    /// Whether every budget was settled at what the usage says.
    #[getter]
    fn exact(&self) -> bool {
        self.settled.is_exact()
    }

    /// Why budgets were settled at no less than the full hold: pairs of a stable code and a sentence.
    #[getter]
    fn shortfalls(&self) -> Vec<(&'static str, String)> {
        self.settled.shortfalls.iter().map(|short| (short.code(), short.to_string())).collect()
    }

    /// What was settled: pairs of a budget and an amount with its unit.
    #[getter]
    fn charged(&self) -> Vec<(String, String)> {
        let pairs = self.held.iter().zip(&self.settled.charged).filter(|(held, _)| held.is_limited);
        pairs.map(|(held, amount)| (held.budget.to_string(), format!("{amount} {}", held.unit))).collect()
    }

    /// Members of the reply that count something and that nobody here reads.
    #[getter]
    fn unread(&self) -> Vec<String> {
        self.settled.unread.clone()
    }

    fn __repr__(&self) -> String {
        let usd = self.usd().map_or_else(String::new, |usd| format!(" {usd} usd"));
        let tokens = self.settled.tokens.map_or_else(String::new, |tokens| format!(" {tokens} tokens"));
        let exact = if self.exact() { "" } else { " not exact" };
        format!("<ModelSettlement{usd}{tokens}{exact}>")
    }
}

/// What decides calls of models: the engine's policy file, or one that says nothing.
fn policies<'b>(py: Python<'_>, base: &'b EngineBase) -> PyResult<&'b Policies> {
    base.model_policies().map_err(|problem| crate::policy::unusable(py, problem))
}

fn health_of(word: &str) -> Health {
    match word {
        "success" => Health::Success,
        "failure" => Health::Failure,
        _ => Health::Neutral,
    }
}

/// The answer to a call, told to whoever listens.
fn decided(owner: &Bound<'_, EngineBase>, model: &str, admitted: ModelAdmitted) -> PyResult<ModelPermit> {
    let model: Arc<str> = model.into();
    announce(owner, &model, admitted.admission)?;
    let Some(permit) = admitted.permit else {
        return Err(error::permit(owner.py(), "the call was admitted without a permit"));
    };
    Ok(ModelPermit {
        ending: Ending::new(owner.clone().unbind(), permit.id()),
        permit,
        model,
        max_output: admitted.max_output,
        timeout_s: admitted.timeout.map(|span| span.as_secs_f64()),
    })
}

/// A request as JSON, and the bytes it was given as; or the bytes of plain text.
fn read_request(py: Python<'_>, request: &Bound<'_, PyAny>) -> PyResult<Result<(Value, u64), u64>> {
    let unusable = |unusable: Unusable| match unusable {
        Unusable::Raised(raised) => raised,
        Unusable::Wrong(what) | Unusable::TooLarge(what) => {
            error::config(py, &format!("the request is {what}"), "request", AS_SENT)
        }
    };
    let bytes = text_of(request).map_err(unusable)?;
    let Some(bytes) = bytes else { return Ok(Ok((read(request).map_err(unusable)?, 0))) };
    let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    // What begins like the JSON of a request has to be JSON: read as text, images in it would go unseen.
    match bytes.trim_ascii_start().first() {
        Some(b'{') => Ok(Ok((parsed(&bytes).map_err(unusable)?, length))),
        _ => Ok(Err(length)),
    }
}

/// The model that is called: both that are named have to be one.
fn named(py: Python<'_>, model: Option<&str>, json: Option<&(Value, u64)>) -> PyResult<String> {
    let inside = json.and_then(|(json, _)| json.get("model")).and_then(Value::as_str);
    match (model, inside) {
        (Some(model), Some(inside)) if model != inside => {
            let text = "the request asks for another model than the call";
            Err(error::config(py, text, "model", "name the model once, or the same twice"))
        }
        (Some(model), _) | (None, Some(model)) => Ok(model.to_owned()),
        (None, None) => Err(error::config(
            py,
            "the call names no model",
            "model",
            "give model= or a request that names it",
        )),
    }
}

fn described(py: Python<'_>, json: Result<(Value, u64), u64>, said: &Said) -> PyResult<ModelRequest> {
    let wrong = |text: &str, code: &str, hint: &str| error::config(py, text, code, hint);
    let mut request = match json {
        Err(bytes) => ModelRequest::of_prompt(bytes),
        Ok((json, bytes)) => {
            let read = ModelRequest::of_json(&json);
            let read = read.map_err(|problem| wrong(&problem.to_string(), "request", AS_SENT))?;
            ModelRequest { bytes: read.bytes.max(bytes), ..read }
        }
    };
    if let (Some(inside), Some(said)) = (request.max_output, said.max_output)
        && inside != said
    {
        let text = format!("the request asks for at most {inside} output tokens, the call for {said}");
        return Err(wrong(&text, "max_output", "say it once, or the same twice"));
    }
    request.max_output = request.max_output.or(said.max_output);
    request.unseen_tokens = said.unseen_tokens;
    for (name, most) in &said.at_most {
        let unit = UsageUnit::from_name(name);
        let set = unit.ok_or_else(|| UsageError::UnknownUnit(name.chars().take(40).collect()));
        let set = set.and_then(|unit| request.other.set(unit, *most));
        set.map_err(|problem| wrong(&problem.to_string(), "at_most", problem.hint()))?;
    }
    request.context.clone_from(&said.context);
    Ok(request)
}

/// The bytes of text, if it is any.
fn text_of(object: &Bound<'_, PyAny>) -> Result<Option<Vec<u8>>, Unusable> {
    if object.is_instance_of::<PyString>() {
        return Ok(Some(convert::utf8(object)?.as_bytes().to_vec()));
    }
    if let Ok(bytes) = object.cast::<PyBytes>() {
        return Ok(Some(bytes.as_bytes().to_vec()));
    }
    Ok(object.cast::<PyByteArray>().ok().map(|bytes| bytes.to_vec()))
}

/// A JSON value from a dict of plain values, or from text.
fn read(object: &Bound<'_, PyAny>) -> Result<Value, Unusable> {
    match text_of(object)? {
        Some(bytes) => parsed(&bytes),
        None => convert::json_value(object, &mut MAX_NODES.clone(), 0),
    }
}

fn parsed(bytes: &[u8]) -> Result<Value, Unusable> {
    let limits = Limits { bytes: MAX_BYTES, depth: MAX_DEPTH, nodes: MAX_NODES, ..Limits::default() };
    json::read(bytes, &limits).map_err(|problem| Unusable::Wrong(format!("no JSON: {problem}")))
}
