//! Changes of budgets at run time: which record is meant, and who changes its limit.

use std::collections::BTreeMap;
use std::sync::MutexGuard;
use std::time::{Duration, Instant};

use checkrein_core::admission::{AdjustError, Adjusted, Adjustment, Change};
use checkrein_core::amount::{Amount, Unit};
use checkrein_core::key::{Family, Key, KeyRef};
use checkrein_core::policy::RecordKind;
use checkrein_core::time::{Span, Window};

use super::{Backend, Engine, WindowSpec};
use crate::store::durable::FamilyKey;
use crate::store::{Step, StepResult, StoreError};

/// One record of a budget.
#[derive(Clone, Copy, Debug)]
pub struct BudgetRecord<'a> {
    /// The budget's name.
    pub name: &'a str,
    /// What it counts; `None` where only one budget has the name.
    pub unit: Option<Unit>,
    /// Over which window it counts; `None` where only one budget has the name.
    pub window: Option<Window>,
    /// The tenant; empty when there is only one.
    pub tenant: &'a str,
    /// The key; empty for a budget that counts for everybody.
    pub key: &'a [u8],
}

/// A budget that an engine knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BudgetInfo {
    /// The records of this budget.
    pub family: Family,
    /// Its name.
    pub name: String,
    /// What it counts.
    pub unit: Unit,
    /// Over which window.
    pub window: Window,
    /// The limit, as the policy that was compiled last says.
    pub limit: Option<Amount>,
}

/// Why the limit of a budget was not changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BudgetError {
    /// No policy of this engine has such a budget.
    #[error("there is no budget `{0}`")]
    Unknown(String),
    /// Several have the name.
    #[error("{1} budgets are named `{0}`: they count over other windows")]
    Several(String, usize),
    /// It counts something else.
    #[error("the budget `{name}` counts {counts}, not {given}", counts = .counts.name(), given = .given.name())]
    OtherUnit {
        /// The budget's name.
        name: String,
        /// What it counts.
        counts: Unit,
        /// What was given.
        given: Unit,
    },
    /// It counts for each key, and none is named.
    #[error("the budget `{name}` counts for each `{whose}`")]
    MissingKey {
        /// The budget's name.
        name: String,
        /// What its key is.
        whose: String,
    },
    /// It counts for everybody, and a key is named.
    #[error("the budget `{0}` counts for everybody")]
    NoKey(String),
    /// The change cannot be kept.
    #[error(transparent)]
    Adjust(#[from] AdjustError),
    /// The store did not commit, or cannot say whether it did.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl BudgetError {
    /// The stable code of the error.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Unknown(_) => "unknown_budget",
            Self::Several(..) => "ambiguous_budget",
            Self::OtherUnit { .. } => "wrong_unit",
            Self::MissingKey { .. } | Self::NoKey(_) => "key",
            Self::Adjust(error) => error.code(),
            Self::Store(_) => "store_error",
        }
    }

    /// What to do about it.
    pub const fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Unknown(_) => Some("budgets are known once a guard or a policy with them was compiled"),
            Self::Several(..) => Some("name the window as well"),
            Self::OtherUnit { .. } => Some("name the amount in the budget's unit"),
            Self::MissingKey { .. } => Some("say whose limit it is: name the key"),
            Self::NoKey(_) => Some("leave the key out"),
            Self::Adjust(error) => Some(error.hint()),
            Self::Store(_) => None,
        }
    }
}

/// What meters of budgets are kept under, before their names.
const PREFIX: &str = "budget:";

impl FamilyKey {
    /// What the records of a budget are kept under.
    pub fn of_budget(name: &str, unit: Unit, window: &WindowSpec) -> Self {
        let calendar = window.calendar();
        Self {
            kind: RecordKind::Meter,
            name: format!("{PREFIX}{name}"),
            unit: Some(unit),
            window: Some(window.window()),
            calendar: calendar.map(|c| (c.period().name(), c.zone().to_owned())),
        }
    }

    /// The name of the budget whose records these are, if they are those of one.
    pub fn budget(&self) -> Option<&str> {
        self.name.strip_prefix(PREFIX).filter(|_| self.kind == RecordKind::Meter)
    }
}

impl Engine {
    /// The budgets of all policies that were compiled.
    pub fn budgets(&self) -> Vec<BudgetInfo> {
        let Ok(families) = self.families_here() else { return Vec::new() };
        let limits = self.limits();
        let info = |(key, family): (&FamilyKey, &Family)| {
            let (name, unit, window) = (key.budget()?.to_owned(), key.unit?, key.window?);
            let limit = limits.as_ref().and_then(|limits| limits.get(family).copied());
            Some(BudgetInfo { family: *family, name, unit, window, limit })
        };
        families.iter().filter_map(info).collect()
    }

    /// Changes the limit of one record of a budget: it counts from the next decision on, in every process of the store,
    /// and is kept when policies are loaded again. `by` is who changes it; the ledger says so.
    ///
    /// # Errors
    /// No such budget, a change that cannot be kept, or a store that did not commit.
    pub fn adjust(
        &self,
        record: &BudgetRecord<'_>,
        change: Change,
        by: &str,
        note: &str,
    ) -> Result<Adjusted, BudgetError> {
        let budget = self.budget_of(record)?;
        let adjustment = Adjustment::new(change, budget.limit, by, note)?;
        self.adjust_in(budget.family, record, adjustment)
    }

    /// The same for the records of a budget whose definition is known.
    pub(crate) fn adjust_defined(
        &self,
        window: &WindowSpec,
        limit: Amount,
        record: &BudgetRecord<'_>,
        (change, by, note): (Change, &str, &str),
    ) -> Result<Adjusted, BudgetError> {
        let adjustment = Adjustment::new(change, Some(limit), by, note)?;
        let name = format!("{PREFIX}{}", record.name);
        let family = self.family(RecordKind::Meter, &name, record.unit, Some(window), Span::ZERO)?;
        self.adjust_in(family, record, adjustment)
    }

    fn adjust_in(
        &self,
        family: Family,
        record: &BudgetRecord<'_>,
        adjustment: Adjustment,
    ) -> Result<Adjusted, BudgetError> {
        let key = KeyRef { family, tenant: record.tenant.as_bytes(), key: record.key };
        if let Backend::Memory(store) = &self.0.store {
            store.expire_due(self.now());
        }
        match self.run_one(Step::Adjust(Key::new(key), adjustment))? {
            StepResult::Adjusted(adjusted) => Ok(adjusted),
            StepResult::NotAdjusted(error) => Err(error.into()),
            StepResult::Failed(error) => Err(error.into()),
            _ => {
                Err(StoreError::Unknown("the store gave another result than was asked for".to_owned()).into())
            }
        }
    }

    fn budget_of(&self, record: &BudgetRecord<'_>) -> Result<BudgetInfo, BudgetError> {
        let mut named = self.budgets();
        named.retain(|budget| budget.name == record.name);
        let Some(first) = named.first().cloned() else {
            return Err(BudgetError::Unknown(shortened(record.name)));
        };
        named.retain(|budget| {
            record.unit.is_none_or(|unit| unit == budget.unit)
                && record.window.is_none_or(|window| window == budget.window)
        });
        match (named.as_slice(), record.unit) {
            ([one], _) => Ok(one.clone()),
            ([], Some(given)) if given != first.unit => {
                Err(BudgetError::OtherUnit { name: first.name, counts: first.unit, given })
            }
            ([], _) => Err(BudgetError::Unknown(shortened(record.name))),
            (several, _) => Err(BudgetError::Several(first.name, several.len())),
        }
    }

    /// Remembers what a policy says of a budget.
    pub(super) fn remember_limit(&self, family: Family, limit: Amount) {
        if let Some(mut limits) = self.limits() {
            limits.insert(family, limit);
        }
    }

    /// `None` in a child that was forked while somebody had them.
    fn limits(&self) -> Option<MutexGuard<'_, BTreeMap<Family, Amount>>> {
        self.0.limits.lock_by(Instant::now() + Duration::from_secs(10))
    }
}

/// A name for a message: as it is, but not without end and with nothing in it that moves a cursor.
fn shortened(name: &str) -> String {
    name.chars().take(100).flat_map(char::escape_debug).collect()
}
