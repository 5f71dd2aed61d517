//! Budgets: an action's cost is spent at once, or held as an upper bound and settled when the action ends.

use std::sync::Arc;

use crate::amount::Amount;
use crate::code::Code;
use crate::decision::{Detail, GateKind, Reason, Retry};
use crate::meter::Meter;
use crate::policy::Budget;
use crate::time::{Timestamp, Window};

/// How sure a cost is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Bound {
    /// The action cannot cost more.
    #[default]
    Proven,
    /// A guess by policy: the action may cost more, and the difference is an overrun.
    Estimated,
}

/// What an action will cost at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// The amount, in the budget's unit.
    pub amount: Amount,
    /// How sure it is.
    pub bound: Bound,
}

impl Cost {
    /// A cost that is known exactly or bounded for certain.
    pub const fn proven(amount: Amount) -> Self {
        Self { amount, bound: Bound::Proven }
    }
}

/// Whether the cost fits. `meter` must have been advanced to now; `limit` is the one that counts now for its record.
#[inline]
pub fn fits(meter: &Meter, budget: &Budget, limit: Amount, cost: Cost) -> bool {
    // Nothing asked for is nothing taken: it passes a budget that is used up.
    if cost.amount == Amount::ZERO {
        return true;
    }
    let sure = !budget.hard || cost.bound == Bound::Proven;
    let taken = meter.spent().checked_add(meter.held());
    sure && taken.and_then(|taken| taken.checked_add(cost.amount)).is_some_and(|total| total <= limit)
}

/// The reason why a cost that does not fit is refused.
#[cold]
pub(crate) fn refuse(
    meter: &Meter,
    budget: &Budget,
    limit: Amount,
    cost: Cost,
    name: &Arc<str>,
    now: Timestamp,
    period_end: Timestamp,
) -> Reason {
    let (code, kind, gate) = (Code::BudgetExceeded, GateKind::Budget, Arc::clone(name));
    if budget.hard && cost.bound == Bound::Estimated {
        let detail = Detail::Text("the budget is hard and the cost is only estimated".into());
        return Reason { code, kind, gate, retry: Retry::Never, detail };
    }
    let (spent, held, requested) = (meter.spent(), meter.held(), cost.amount);
    let detail = Detail::Budget { spent, held, requested, limit, unit: budget.unit };
    let mut counts = limit;
    let retry = loop {
        let then = match frees(meter, budget.window, counts, requested, period_end) {
            Ok(then) => then,
            Err(retry) => break retry,
        };
        // A top-up that has ended by then does not help any more.
        let later = meter.limit(budget.limit, then);
        if later >= counts {
            break Retry::After(then.since(now));
        }
        counts = later;
    };
    Reason { code, kind, gate, retry, detail }
}

/// When so much has left the window that what is asked for fits this limit.
fn frees(
    meter: &Meter,
    window: Window,
    limit: Amount,
    requested: Amount,
    period_end: Timestamp,
) -> Result<Timestamp, Retry> {
    let (spent, held) = (meter.spent(), meter.held());
    let excess = spent.saturating_add(held).saturating_add(requested).saturating_sub(limit);
    match window {
        _ if requested > limit => Err(Retry::Never),
        Window::Rolling(length) if excess <= spent => {
            meter.leaves_with(excess).map(|stamp| stamp.after(length)).ok_or(Retry::Unknown)
        }
        Window::Period if excess <= spent => Ok(period_end),
        // What a lifetime budget holds may come back; what it spent never does.
        Window::Lifetime if excess > held => Err(Retry::Never),
        Window::Rolling(_) | Window::Period | Window::Lifetime => Err(Retry::Unknown),
    }
}
