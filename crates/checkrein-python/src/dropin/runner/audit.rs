//! The audit log of a tool: refusals, admissions and failed executions become entries.

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use super::super::auditgate::{
    AuditEngine, Event, EventDetail, KnownTrail, Member, Opening, Side, vocabulary,
};
use super::super::common::clock::Now;

/// An audit engine, and the trail and policy of one tool.
pub(crate) struct Trailed {
    engine: Py<PyAny>,
    /// The same engine, when it is ours and records natively.
    native: Option<Py<AuditEngine>>,
    trail: Py<PyAny>,
    policy: Option<Py<PyAny>>,
    identity: Py<PyString>,
    known: KnownTrail,
    /// Whether a call that ended well gets an entry of its own.
    pub(super) outcomes: bool,
}

impl<'a, 'py> FromPyObject<'a, 'py> for Trailed {
    type Error = PyErr;

    fn extract(parts: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        let py = parts.py();
        let (engine, trail, policy, outcomes): (
            Bound<'py, PyAny>,
            Bound<'py, PyAny>,
            Option<Py<PyAny>>,
            bool,
        ) = parts.extract()?;
        // A subclass may have a `record` of its own, which must be heard.
        let ours = py.import("checkrein.auditgate.engine")?.getattr("Engine")?;
        let native = engine.cast::<AuditEngine>().ok().filter(|_| engine.get_type().is(&ours));
        Ok(Self {
            native: native.map(|engine| engine.clone().unbind()),
            identity: trail.str()?.unbind(),
            trail: trail.unbind(),
            engine: engine.unbind(),
            policy,
            known: KnownTrail::default(),
            outcomes,
        })
    }
}

impl Trailed {
    pub(super) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.engine)?;
        visit.call(&self.trail)
    }

    /// Records that a call was refused.
    pub(super) fn refused(&self, py: Python<'_>, by: &str, detail: &Bound<'_, PyAny>) -> PyResult<()> {
        let vocabulary = vocabulary(py)?;
        let [_, block, ..] = &vocabulary.verdicts;
        let [_, _, warn, ..] = &vocabulary.severities;
        let reason = PyString::new(py, &format!("BLOCK by {by}"));
        self.record(block, warn, by, reason.as_any(), detail)
    }

    /// Records that an admitted call raised.
    pub(super) fn execution_failed(
        &self,
        py: Python<'_>,
        reason: &Bound<'_, PyAny>,
        detail: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let vocabulary = vocabulary(py)?;
        let [_, _, error, _] = &vocabulary.verdicts;
        let [_, _, _, severe, _] = &vocabulary.severities;
        self.record(error, severe, "execution", reason, detail)
    }

    /// Records that an admitted call ended well.
    pub(super) fn executed(&self, py: Python<'_>, detail: &Bound<'_, PyAny>) -> PyResult<()> {
        let vocabulary = vocabulary(py)?;
        let [allow, ..] = &vocabulary.verdicts;
        let [_, info, ..] = &vocabulary.severities;
        self.record(allow, info, "execution", PyString::new(py, "done").as_any(), detail)
    }

    /// Records an admission in a store of the user's own, before the tool runs.
    pub(super) fn admitted(&self, py: Python<'_>, detail: &Bound<'_, PyAny>) -> PyResult<()> {
        let vocabulary = vocabulary(py)?;
        let [allow, ..] = &vocabulary.verdicts;
        let [_, info, ..] = &vocabulary.severities;
        let reason = pyo3::intern!(py, "ALLOW by pipeline");
        self.record(allow, info, "pipeline", reason.as_any(), detail)
    }

    /// Builds the entry of an admission, to be appended in the step that admits.
    pub(super) fn open_admission<'py>(
        &self,
        py: Python<'py>,
        detail: EventDetail<'_, 'py>,
        machine: &Now,
    ) -> PyResult<Opening> {
        let Some(engine) = &self.native else { return Ok(Opening::Foreign) };
        let vocabulary = vocabulary(py)?;
        let [allow, ..] = &vocabulary.verdicts;
        let [_, info, ..] = &vocabulary.severities;
        let event = Event {
            trail: self.trail.bind(py),
            verdict: allow.object.bind(py),
            severity: info.object.bind(py),
            gate_type: pyo3::intern!(py, "pipeline").as_any(),
            gate_identity: self.identity.bind(py).as_any(),
            reason: Some(pyo3::intern!(py, "ALLOW by pipeline").as_any()),
            detail,
            policy: self.policy.as_ref().map(|policy| policy.bind(py)),
            machine: Some(machine),
            known: Some(&self.known),
        };
        engine.borrow(py).open(&event, Side::Sync)
    }

    /// The native engine and the trail, to close what was opened.
    pub(super) fn opened_by<'a, 'py>(
        &'a self,
        py: Python<'py>,
    ) -> Option<(&'a Bound<'py, AuditEngine>, &'a Bound<'py, PyAny>)> {
        self.native.as_ref().map(|engine| (engine.bind(py), self.trail.bind(py)))
    }

    fn record(
        &self,
        verdict: &Member,
        severity: &Member,
        gate_type: &str,
        reason: &Bound<'_, PyAny>,
        detail: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let py = reason.py();
        let gate_type = PyString::new(py, gate_type);
        if let Some(engine) = &self.native {
            let event = Event {
                trail: self.trail.bind(py),
                verdict: verdict.object.bind(py),
                severity: severity.object.bind(py),
                gate_type: gate_type.as_any(),
                gate_identity: self.identity.bind(py).as_any(),
                reason: Some(reason),
                detail: EventDetail::Object(Some(detail)),
                policy: self.policy.as_ref().map(|policy| policy.bind(py)),
                machine: None,
                known: Some(&self.known),
            };
            if engine.borrow(py).record_event(&event, Side::Sync)?.is_some() {
                return Ok(());
            }
        }
        let named = PyDict::new(py);
        named.set_item("verdict", &verdict.object)?;
        named.set_item("severity", &severity.object)?;
        named.set_item("gate_type", gate_type)?;
        named.set_item("gate_identity", &self.identity)?;
        named.set_item("reason", reason)?;
        named.set_item("detail", detail)?;
        named.set_item("policy", &self.policy)?;
        self.engine.bind(py).call_method("record", (&self.trail,), Some(&named)).map(drop)
    }
}
