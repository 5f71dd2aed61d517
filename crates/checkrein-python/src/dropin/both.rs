//! One admission over a gate and a ledger: both consume, or neither.

use pyo3::exceptions::PyNotImplementedError;
use pyo3::prelude::*;

use super::actiongate::Prepared as PreparedGate;
use super::actiongate::{ActionEngine, Admission as ActionAdmission, Decision as ActionDecision, Verdict};
use super::budgetgate::{Admission as SpendAdmission, BudgetEngine, Decision as BudgetDecision};
use super::budgetgate::{Judged as JudgedSpend, Prepared as PreparedLedger, Verdict as SpendVerdict};

/// A gate to pass: its engine, the gate, and the policy when it is not the registered one.
#[derive(FromPyObject)]
pub(crate) struct GateStep<'py>(Bound<'py, ActionEngine>, Bound<'py, PyAny>, Option<Bound<'py, PyAny>>);

/// A ledger to charge: its engine, the ledger, the amount, and the budget when it is not the registered one.
#[derive(FromPyObject)]
pub(crate) struct LedgerStep<'py>(
    Bound<'py, BudgetEngine>,
    Bound<'py, PyAny>,
    Bound<'py, PyAny>,
    Option<Bound<'py, PyAny>>,
);

/// The verdicts reached, in order: the ledger has none when the gate blocked.
struct Reached {
    gate: Option<Verdict>,
    ledger: Option<Option<SpendVerdict>>,
}

impl Reached {
    /// Judges the ledger under the lock of the gate, and records on both when both allow.
    fn with_ledger(gate: Option<Verdict>, admission: &mut SpendAdmission<'_>, consume: bool) -> (Self, bool) {
        let verdict = admission.judge();
        let allowed = verdict.is_some_and(|verdict| verdict.allowed);
        // The ledger goes first: its sum is the only one that can fail to fit.
        if allowed && consume && admission.record().is_none() {
            return (Self { gate, ledger: Some(None) }, false);
        }
        (Self { gate, ledger: Some(verdict) }, allowed)
    }
}

/// Decides over both; `None` when a slot was cleared meanwhile.
fn decide(gate: Option<&PreparedGate>, ledger: Option<&PreparedLedger>, consume: bool) -> Option<Reached> {
    let Some(gate) = gate else {
        let Some(ledger) = ledger else { return Some(Reached { gate: None, ledger: None }) };
        return ledger.with(|admission| Reached::with_ledger(None, admission, consume).0);
    };
    // Gates are always locked before ledgers, here and nowhere else both.
    gate.with(|action: &mut ActionAdmission<'_>| {
        let verdict = action.judge();
        let reached = Reached { gate: Some(verdict), ledger: None };
        if !verdict.allowed {
            return Some(reached);
        }
        let (reached, allowed) = match ledger {
            Some(ledger) => ledger.with(|spend| Reached::with_ledger(reached.gate, spend, consume))?,
            None => (reached, true),
        };
        if allowed && consume {
            action.record();
        }
        Some(reached)
    })?
}

/// What was decided on the gate and on the ledger, where it was reached.
type Decisions<'py> = (Option<Bound<'py, ActionDecision>>, Option<Bound<'py, BudgetDecision>>);

fn not_ours() -> PyErr {
    PyNotImplementedError::new_err("only native memory stores can decide together")
}

/// Decides on a gate and a ledger in one step: `(gate decision | None, ledger decision | None)`.
///
/// With `consume` both record when both allow; otherwise, and when one blocks, neither does. A ledger has no decision
/// when its gate blocked. Nobody is told: announcing is the caller's part.
#[pyfunction]
#[pyo3(signature = (gate=None, ledger=None, consume=true))]
fn admit_both<'py>(
    py: Python<'py>,
    gate: Option<GateStep<'py>>,
    ledger: Option<LedgerStep<'py>>,
    consume: bool,
) -> PyResult<Decisions<'py>> {
    // Clocks are the user's code: both are read once, before anything is looked up or locked.
    let gate_now = gate.as_ref().map(|step| step.0.get().now(py)).transpose()?;
    let ledger_now = ledger.as_ref().map(|step| step.0.get().now(py)).transpose()?;
    loop {
        let prepared = match (&gate, &gate_now) {
            (Some(GateStep(engine, gate, policy)), Some(now)) => {
                Some(engine.get().prepare(gate, policy.as_ref(), now)?.ok_or_else(not_ours)?)
            }
            _ => None,
        };
        let spend = match (&ledger, &ledger_now) {
            (Some(LedgerStep(engine, ledger, amount, budget)), Some(now)) => {
                Some(engine.get().prepare(ledger, amount, budget.as_ref(), now)?.ok_or_else(not_ours)?)
            }
            _ => None,
        };
        let (spend, refused) = match spend {
            Some(Ok(spend)) => (Some(spend), None),
            Some(Err(refused)) => (None, Some(refused)),
            None => (None, None),
        };
        // A bad amount blocks after the gate was asked, and consumes nothing.
        let consume = consume && refused.is_none();
        let Some(reached) = decide(prepared.as_ref(), spend.as_ref(), consume) else { continue };
        return decisions(&gate, prepared, &ledger, spend, refused, reached);
    }
}

/// The verdicts as objects.
fn decisions<'py>(
    gate: &Option<GateStep<'py>>,
    prepared: Option<PreparedGate>,
    ledger: &Option<LedgerStep<'py>>,
    spend: Option<PreparedLedger>,
    refused: Option<JudgedSpend>,
    reached: Reached,
) -> PyResult<Decisions<'py>> {
    let passed = reached.gate.is_none_or(|verdict| verdict.allowed);
    let action = match (gate, prepared, reached.gate) {
        (Some(GateStep(_, gate, _)), Some(prepared), Some(verdict)) => {
            Some(prepared.judged(verdict).into_decision(gate)?)
        }
        _ => None,
    };
    let judged = match (spend, reached.ledger) {
        (Some(spend), Some(verdict)) => Some(spend.judged(verdict)),
        _ => refused.filter(|_| passed),
    };
    let budget = match (ledger, judged) {
        (Some(LedgerStep(_, ledger, amount, _)), Some(judged)) => Some(judged.into_decision(ledger, amount)?),
        _ => None,
    };
    Ok((action, budget))
}

/// Whether both engines (those given) keep their counts in native memory, so that `admit_both` may decide for them.
#[pyfunction]
#[pyo3(signature = (gate_engine=None, ledger_engine=None))]
fn decide_together(
    gate_engine: Option<&Bound<'_, ActionEngine>>,
    ledger_engine: Option<&Bound<'_, BudgetEngine>>,
) -> PyResult<bool> {
    let gates = gate_engine.map(|engine| engine.get().is_native()).transpose()?.unwrap_or(true);
    let ledgers = ledger_engine.map(|engine| engine.get().is_native()).transpose()?.unwrap_or(true);
    Ok(gates && ledgers)
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(admit_both, module)?)?;
    module.add_function(wrap_pyfunction!(decide_together, module)?)
}
