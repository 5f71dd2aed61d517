//! Changes of a file's budgets at run time: the file says what they count, for whom, and how much by itself.

use checkrein_core::admission::{Adjusted, Change};

use super::policies::Policies;
use crate::engine::{BudgetError, BudgetRecord};

impl Policies {
    /// Changes the limit of one record of a budget of the file, as
    /// [`Engine::adjust`](crate::engine::Engine::adjust) does; `None` when the file that counts now has no budget of that
    /// name. The budget's unit and window are the file's.
    ///
    /// # Errors
    /// A key where the budget has none or the other way round, another unit, a change that cannot be kept, or a store
    /// that did not commit.
    pub fn adjust(
        &self,
        record: &BudgetRecord<'_>,
        change: Change,
        by: &str,
        note: &str,
    ) -> Option<Result<Adjusted, BudgetError>> {
        let loaded = self.loaded();
        let budget = loaded.file.sections().budgets.get(record.name)?;
        let name = record.name.to_owned();
        let error = match (&budget.key, record.unit) {
            (_, Some(given)) if given != budget.unit => {
                BudgetError::OtherUnit { name, counts: budget.unit, given }
            }
            (Some(key), _) if record.key.is_empty() => {
                BudgetError::MissingKey { name, whose: key.text().to_owned() }
            }
            (None, _) if !record.key.is_empty() => BudgetError::NoKey(name),
            _ => {
                let record = BudgetRecord { unit: Some(budget.unit), ..*record };
                let what = (change, by, note);
                return Some(self.engine().adjust_defined(&budget.window, budget.limit, &record, what));
            }
        };
        Some(Err(error))
    }
}
