//! Guards in the code under a policy file: their gates and those of their tool's sections in one admission.

use std::sync::Arc;

use checkrein_core::admission::Inputs;
use checkrein_core::json::Value;
use checkrein_core::policy::Leases;
use checkrein_core::time::{Span, Timestamp};

use super::call::{Call, Evaluated};
use super::facts::FactFamilies;
use super::policies::PolicyError;
use super::resolve::Resolved;
use crate::engine::{CompileOptions, CompiledPolicy, Engine, GateSpec, GateSpecKind};
use crate::store::Step;

/// The gates that a guard in the code brings along. The file adds to them and never takes one away.
#[derive(Clone, Debug, Default)]
pub struct CodeGates {
    /// The gates.
    pub gates: Vec<GateSpec>,
    /// How long unfinished permits are kept.
    pub leases: Leases,
    /// How many keys they read.
    pub keys: u16,
    /// How many costs they read.
    pub costs: u16,
    /// How many verdicts they read.
    pub verdicts: u16,
    /// Why the guard has no result that could be stored, if that is so: then the file cannot ask for a once key.
    pub no_result: Option<&'static str>,
    /// Why the guard's calls cannot be bounded in time, if that is so.
    pub no_timeout: Option<&'static str>,
    /// Whether calls pass when the store cannot answer; it counts only for a single rate limit.
    pub opens: bool,
}

/// A guard and its tool's sections, compiled into one policy.
#[derive(Debug)]
pub struct Bound {
    compiled: Arc<CompiledPolicy>,
    resolved: Resolved,
    facts: FactFamilies,
    opens: bool,
    /// A ledger is told of every call.
    tells: bool,
}

impl Bound {
    pub(super) fn new(
        engine: &Engine,
        tool: &str,
        code: &CodeGates,
        resolved: Resolved,
        origin: String,
    ) -> Result<Self, PolicyError> {
        let wrong = |problem: String| PolicyError::Guard { tool: tool.to_owned(), problem };
        if let Some(why) = code.no_result.filter(|_| !resolved.once.is_empty()) {
            return Err(wrong(format!("the policy file gives it a once key, but {why}")));
        }
        if let Some(why) = code.no_timeout.filter(|_| resolved.timeout.is_some()) {
            return Err(wrong(format!("the policy file gives it a timeout, but {why}")));
        }
        let opens = match (code.gates.as_slice(), resolved.gates.as_slice()) {
            ([_], []) => code.opens,
            ([], [_]) => resolved.opens,
            _ => false,
        };
        let filed: Vec<GateSpec> = resolved.gates.iter().map(|gate| shifted(gate, code)).collect();
        if filed
            .iter()
            .chain(&code.gates)
            .filter(|gate| matches!(gate.kind, GateSpecKind::Once { .. }))
            .count()
            > 1
        {
            let what = "its code and the policy file both have a once key; keep one of them".to_owned();
            return Err(wrong(what));
        }
        let mut gates: Vec<GateSpec> = code.gates.iter().map(|gate| distinct(gate, &filed)).collect();
        gates.extend(filed);
        // Those of the code come first: whoever replays a ledger has to know which ones no file takes away.
        let origin = format!("gates of the code: {}\n{origin}", code.gates.len());
        let options = CompileOptions { leases: code.leases, origin, thresholds: resolved.thresholds.clone() };
        let compiled = engine
            .compile_with(gates, &options)
            .map_err(|problem| PolicyError::Tool { tool: tool.to_owned(), problem })?;
        let facts = FactFamilies::of(engine, &resolved)?;
        Ok(Self { compiled, resolved, facts, opens, tells: engine.keeps_ledger() })
    }

    /// All gates, those of the code first among equals.
    pub fn compiled(&self) -> &Arc<CompiledPolicy> {
        &self.compiled
    }

    /// How long the file lets a caller wait for the tool.
    pub fn timeout(&self) -> Option<Span> {
        self.resolved.timeout
    }

    /// Whether a call passes when the store cannot answer.
    pub fn opens(&self) -> bool {
        self.opens
    }

    /// Whether the tool has a once key of the file.
    pub fn has_once(&self) -> bool {
        !self.resolved.once.is_empty()
    }

    /// Whether results prove something.
    pub fn proves(&self) -> bool {
        !self.resolved.proves.is_empty()
    }

    /// The steps that record what a result proves.
    pub fn proved(&self, call: &Call<'_>, result: &Value, now: Timestamp) -> Vec<Step> {
        self.facts.steps(&self.resolved, call, result, now)
    }

    /// Whether a gate compares whole calls with one another.
    pub fn compares_requests(&self) -> bool {
        self.resolved.compares_requests()
    }

    /// Reads what the file's gates ask for, and hands it to `decide` behind what the code's gates read.
    pub fn with_inputs<R>(
        &self,
        call: &Call<'_>,
        code: &Inputs<'_>,
        now: Timestamp,
        decide: impl FnOnce(&Inputs<'_>) -> R,
    ) -> R {
        Evaluated::of(&self.resolved, call, now, self.tells).with_inputs(&self.resolved, call, code, decide)
    }
}

/// A gate of the file that reads its keys, costs and verdicts behind those of the code.
pub(super) fn shifted(gate: &GateSpec, code: &CodeGates) -> GateSpec {
    let mut gate = gate.clone();
    let behind = |slot: &mut u16, before: u16| *slot = slot.saturating_add(before);
    match &mut gate.kind {
        GateSpecKind::Rule { verdict } => behind(verdict, code.verdicts),
        GateSpecKind::Once { .. } => {}
        GateSpecKind::Fact { key }
        | GateSpecKind::Breaker { key, .. }
        | GateSpecKind::Attempts { key, .. }
        | GateSpecKind::Limit { key, .. }
        | GateSpecKind::Repetition { key, .. } => behind(key, code.keys),
        GateSpecKind::Budget { key, cost, .. } => {
            behind(key, code.keys);
            behind(cost, code.costs);
        }
    }
    gate
}

/// A gate of the code under a name that no gate of the file has: both count, and the file's keeps its records, which
/// other guards may share.
fn distinct(gate: &GateSpec, filed: &[GateSpec]) -> GateSpec {
    let mut gate = gate.clone();
    let same = |other: &GateSpec| {
        std::mem::discriminant(&other.kind) == std::mem::discriminant(&gate.kind) && other.name == gate.name
    };
    // Facts go by their kind and are only looked at: one of the file's is the same fact.
    let counts = !matches!(gate.kind, GateSpecKind::Rule { .. } | GateSpecKind::Fact { .. });
    if counts && filed.iter().any(same) {
        gate.name.push_str("#code");
    }
    gate
}
