//! The budgets of a policy file, with the names under which a store keeps their records.

use checkrein::Engine;
use checkrein::config::{BudgetSection, PolicyFile};
use checkrein::core::amount::Amount;
use checkrein::core::key::Family;
use checkrein::core::policy::{Charge, Leases, Mode};
use checkrein::core::time::Window;
use checkrein::engine::{CompileError, GateSpec, GateSpecKind};
use checkrein::store::StoreError;
use checkrein::store::durable::FamilyKey;

use super::super::store::Opened;

/// A policy's budgets.
pub(super) struct Policy(PolicyFile);

impl Policy {
    pub(super) const fn of(file: PolicyFile) -> Self {
        Self(file)
    }

    /// The budget of this name.
    pub(super) fn budget(&self, name: &str) -> Option<&BudgetSection> {
        self.0.sections().budgets.get(name)
    }

    /// All budgets and what their records are kept under.
    pub(super) fn budgets(&self) -> impl Iterator<Item = (&str, &BudgetSection, FamilyKey)> {
        self.0.sections().budgets.iter().map(|(name, budget)| (name.as_str(), budget, key_of(name, budget)))
    }

    /// The limit of the records that are kept under this, if they are those of a budget of the policy.
    pub(super) fn limit(&self, key: &FamilyKey) -> Option<Amount> {
        let name = key.budget()?;
        let budget = self.budget(name)?;
        (key_of(name, budget) == *key).then_some(budget.limit)
    }
}

/// What a store keeps the records of a budget under.
pub(super) fn key_of(name: &str, budget: &BudgetSection) -> FamilyKey {
    FamilyKey::of_budget(name, budget.unit, &budget.window)
}

/// The family of a budget that is in the policy and that nobody has counted yet.
pub(super) fn make(
    store: Opened,
    name: &str,
    budget: &BudgetSection,
) -> Result<(Opened, Family), StoreError> {
    let kind = GateSpecKind::Budget {
        key: 0,
        limit: budget.limit,
        unit: budget.unit,
        window: budget.window.clone(),
        cost: 0,
        charge: Charge::Fixed,
        hard: false,
    };
    let gate = GateSpec { name: name.to_owned(), mode: Mode::Enforce, kind };
    let engine = match &store {
        Opened::File(file) => Engine::builder().sqlite(file.clone()).build(),
        Opened::Server(server) => Engine::builder().redis(server.clone()).build(),
    };
    let compiled = engine.compile(vec![gate], Leases::default()).map_err(|error| match error {
        CompileError::Store(error) => error,
        CompileError::Policy(error) => StoreError::NotCommitted(error.to_string()),
    })?;
    let family = compiled.policy().gates().iter().find_map(|gate| gate.check.record());
    let nothing = || StoreError::NotCommitted("the store gave the budget no number".to_owned());
    family.map(|(_, family, _)| (store, family)).ok_or_else(nothing)
}

/// Over which window records are counted, in words.
pub(super) fn window_of(key: &FamilyKey) -> String {
    match (key.window, &key.calendar) {
        (Some(Window::Rolling(length)), _) => length.to_string(),
        (_, Some((period, zone))) => format!("calendar {period} in {zone}"),
        _ => "lifetime".to_owned(),
    }
}
