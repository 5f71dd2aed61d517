//! Scopes: the meters of a run, of what lies inside it, and of whom it is for, taken beside all other gates of a call.

use std::any::Any;
use std::sync::{Arc, OnceLock};

use checkrein_core::admission::{Action, Inputs, KeyValue, RuleVerdict};
use checkrein_core::amount::{Amount, Unit};
use checkrein_core::decision::MeterStatus;
use checkrein_core::gate::breaker::Health;
use checkrein_core::gate::budget::Cost;
use checkrein_core::key::KeyRef;
use checkrein_core::permit::{Outcome, Settlement};
use checkrein_core::policy::{Charge, Leases, Mode};
use checkrein_core::time::Span;
use parking_lot::Mutex;

use super::{
    Admitted, CompileError, CompiledPolicy, Engine, GateSpec, GateSpecKind, SettleError, WindowSpec,
};

/// What scopes count, in the order of their costs.
pub const SCOPE_UNITS: [Unit; 4] = [Unit::Usd, Unit::Tokens, Unit::Calls, Unit::ComputeUnits];
/// The namespace of what is held in scopes, or recorded there, beside the calls of tools and models.
pub const SCOPE_NAMESPACE: &str = "scope";
/// The namespace of what calls of models used that nobody had asked about; the name is the model's.
pub const USAGE_NAMESPACE: &str = "usage";
/// How long what was spent counts: longer than a run lasts.
pub const SCOPE_WINDOW: Span = Span::from_secs(30 * 86_400);
/// The most policies that are kept for the models that are called in one place.
const MAX_KEPT: usize = 64;

/// One scope: a name for its gate, and what it counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// The gate, as reasons name it. No policy file can have one of the same name when it begins with `@`.
    pub gate: String,
    /// What is counted, and the most of it; nothing where it is counted only.
    pub limits: Vec<(Unit, Option<Amount>)>,
}

/// Scopes inside one another, the innermost first, whoever they are for: what is compiled for them serves all.
#[derive(Debug)]
pub struct ScopeShape {
    scopes: Vec<Scope>,
    reserve_output: u64,
    holding: OnceLock<Arc<CompiledPolicy>>,
    recording: OnceLock<Arc<CompiledPolicy>>,
    /// The gates of models under these scopes, by the address of what they were made from, which they keep alive.
    models: Mutex<Vec<Kept>>,
}

/// The scopes around a piece of work: what is taken is taken from all of them, in one admission.
#[derive(Clone, Debug)]
pub struct Scopes {
    shape: Arc<ScopeShape>,
    tenant: String,
    /// Whose records, by scope.
    keys: Vec<Vec<u8>>,
}

/// Something made for these scopes, and what from.
#[derive(Debug)]
struct Kept {
    source: Arc<dyn Any + Send + Sync>,
    taking: Taking,
    made: Arc<dyn Any + Send + Sync>,
}

/// How what is asked of scopes is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taking {
    /// Held if it fits, and settled later.
    Hold,
    /// Recorded without asking.
    Record,
}

impl ScopeShape {
    /// Puts scopes together. `reserve_output` is held for the output of a model's call where nobody sets a maximum.
    pub fn new(scopes: Vec<Scope>, reserve_output: u64) -> Self {
        let (holding, recording) = (OnceLock::new(), OnceLock::new());
        Self { scopes, reserve_output, holding, recording, models: Mutex::default() }
    }

    /// The scopes, the innermost first.
    pub fn scopes(&self) -> &[Scope] {
        &self.scopes
    }

    /// The output tokens that are held where nobody sets a maximum.
    pub fn reserve_output(&self) -> u64 {
        self.reserve_output
    }

    /// Whether one of them limits a unit.
    pub fn limits(&self, unit: Unit) -> bool {
        self.scopes.iter().flat_map(|scope| &scope.limits).any(|(of, limit)| *of == unit && limit.is_some())
    }

    /// Whether one of them counts a unit.
    pub fn counts(&self, unit: Unit) -> bool {
        self.scopes.iter().flat_map(|scope| &scope.limits).any(|(of, _)| *of == unit)
    }

    /// How many keys their gates read.
    pub(crate) fn key_count(&self) -> u16 {
        u16::try_from(self.scopes.len()).unwrap_or(u16::MAX)
    }

    /// Their gates: keys by scope, costs in the order of [`SCOPE_UNITS`].
    pub(crate) fn gates(&self, taking: Taking) -> Vec<GateSpec> {
        let (mode, charge) = match taking {
            Taking::Hold => (Mode::Enforce, Charge::Hold),
            Taking::Record => (Mode::Observe, Charge::Fixed),
        };
        let mut gates = Vec::new();
        for (scope, key) in self.scopes.iter().zip(0_u16..) {
            for (unit, limit) in &scope.limits {
                let cost = SCOPE_UNITS.iter().position(|of| of == unit).unwrap_or_default();
                let kind = GateSpecKind::Budget {
                    key,
                    limit: limit.unwrap_or(Amount::MAX),
                    unit: *unit,
                    window: WindowSpec::Rolling(SCOPE_WINDOW),
                    cost: u16::try_from(cost).unwrap_or(u16::MAX),
                    charge,
                    hard: false,
                };
                gates.push(GateSpec { name: scope.gate.clone(), mode, kind });
            }
        }
        gates
    }

    fn compiled(&self, engine: &Engine, taking: Taking) -> Result<Arc<CompiledPolicy>, CompileError> {
        let place = match taking {
            Taking::Hold => &self.holding,
            Taking::Record => &self.recording,
        };
        if let Some(compiled) = place.get() {
            return Ok(Arc::clone(compiled));
        }
        let compiled = engine.compile(self.gates(taking), Leases::default())?;
        Ok(Arc::clone(place.get_or_init(|| compiled)))
    }

    /// What was made for something under these scopes, made now if need be.
    pub(crate) fn kept<S, M, E>(
        &self,
        source: &Arc<S>,
        taking: Taking,
        make: impl FnOnce() -> Result<M, E>,
    ) -> Result<Arc<M>, E>
    where
        S: Any + Send + Sync,
        M: Any + Send + Sync,
    {
        let address = Arc::as_ptr(source).cast::<()>();
        let same = |kept: &&Kept| Arc::as_ptr(&kept.source).cast::<()>() == address && kept.taking == taking;
        let known =
            self.models.lock().iter().filter(same).find_map(|kept| Arc::clone(&kept.made).downcast().ok());
        if let Some(known) = known {
            return Ok(known);
        }
        let made = Arc::new(make()?);
        let mut models = self.models.lock();
        if models.len() >= MAX_KEPT {
            models.clear();
        }
        models.push(Kept { source: Arc::clone(source) as _, taking, made: Arc::clone(&made) as _ });
        Ok(made)
    }
}

impl Engine {
    /// Ends what was recorded in the moment in which it was: it was over before.
    pub(crate) fn close_recorded(&self, admitted: Admitted) -> Result<Admitted, CompileError> {
        if let Some(permit) = admitted.permit {
            let done = self.finish(permit, &Settlement::new(Outcome::Done(None), Health::Neutral));
            match done {
                Ok(()) | Err(SettleError::Permit(_)) => {}
                Err(SettleError::Store(problem)) => return Err(problem.into()),
            }
        }
        Ok(Admitted { permit: None, ..admitted })
    }
}

impl Scopes {
    /// Scopes of this shape for a tenant, with a key for each.
    pub fn new(shape: Arc<ScopeShape>, tenant: String, keys: Vec<Vec<u8>>) -> Self {
        Self { shape, tenant, keys }
    }

    /// Their shape.
    pub fn shape(&self) -> &ScopeShape {
        &self.shape
    }

    /// The tenant whose records they are.
    pub fn tenant(&self) -> &str {
        &self.tenant
    }

    /// Hands the scopes' part of what gates read to `decide`.
    pub(crate) fn with_inputs<R>(
        &self,
        costs: &[Cost],
        verdicts: &[RuleVerdict<'_>],
        action: Option<&Action<'_>>,
        decide: impl FnOnce(&Inputs<'_>) -> R,
    ) -> R {
        let keys: Vec<KeyValue<'_>> = self.keys.iter().map(|key| KeyValue::Bytes(key)).collect();
        let tenant = &self.tenant;
        decide(&Inputs { tenant, keys: &keys, costs, verdicts, action, start: true, ..Inputs::default() })
    }

    /// Holds amounts in all scopes, or in none. `costs` are in the order of [`SCOPE_UNITS`].
    ///
    /// # Errors
    /// More scopes than one admission can take from, or a store that is not to be had.
    pub fn hold(
        &self,
        engine: &Engine,
        costs: &[Cost; 4],
        action: &Action<'_>,
    ) -> Result<Admitted, CompileError> {
        let compiled = self.shape.compiled(engine, Taking::Hold)?;
        Ok(self.with_inputs(costs, &[], Some(action), |inputs| engine.admit(&compiled, inputs)))
    }

    /// Records amounts that were spent already, whether they fit or not.
    ///
    /// # Errors
    /// As [`hold`](Self::hold).
    pub fn record(
        &self,
        engine: &Engine,
        costs: &[Cost; 4],
        action: &Action<'_>,
    ) -> Result<Admitted, CompileError> {
        let compiled = self.shape.compiled(engine, Taking::Record)?;
        let admitted = self.with_inputs(costs, &[], Some(action), |inputs| engine.admit(&compiled, inputs));
        engine.close_recorded(admitted)
    }

    /// Forgets what the innermost scopes spent, `count` of them. What they hold stays held.
    ///
    /// # Errors
    /// As [`hold`](Self::hold).
    pub fn forget(&self, engine: &Engine, count: usize) -> Result<(), CompileError> {
        let compiled = self.shape.compiled(engine, Taking::Hold)?;
        let scopes = self.shape.scopes.iter().zip(&self.keys).take(count);
        let keys = scopes.flat_map(|(scope, key)| scope.limits.iter().map(move |_| key));
        for (gate, key) in compiled.policy().gates().iter().zip(keys) {
            if let Some((kind, family, _)) = gate.check.record() {
                engine.reset(kind, KeyRef { family, tenant: self.tenant.as_bytes(), key })?;
            }
        }
        Ok(())
    }

    /// The units of what a hold takes, in the order of its settlement.
    pub fn units(&self) -> impl Iterator<Item = Unit> + '_ {
        self.shape.scopes.iter().flat_map(|scope| scope.limits.iter().map(|(unit, _)| *unit))
    }

    /// Where the meters of all scopes stand, in their order.
    ///
    /// # Errors
    /// As [`hold`](Self::hold).
    pub fn status(&self, engine: &Engine) -> Result<Vec<MeterStatus>, CompileError> {
        let compiled = self.shape.compiled(engine, Taking::Hold)?;
        let costs = [Cost::default(); 4];
        let (admission, status) =
            self.with_inputs(&costs, &[], None, |inputs| engine.peek(&compiled, inputs));
        if status.is_empty() && !self.shape.scopes.is_empty() {
            let why = admission.reasons.first().map(|reason| reason.to_string()).unwrap_or_default();
            return Err(CompileError::Store(crate::store::StoreError::NotCommitted(why)));
        }
        Ok(status)
    }
}
