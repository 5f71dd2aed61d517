//! Gate, ledger and log: looked at without taking anything, then taken in one step.

use pyo3::prelude::*;

use super::super::actiongate::{Prepared as PreparedRate, Verdict as RateVerdict};
use super::super::auditgate::{AppendError, Opened};
use super::super::budgetgate::{Prepared as PreparedSpend, Verdict as SpendVerdict};

/// What the meters would say.
pub(super) struct Look {
    pub(super) rate: Option<RateVerdict>,
    /// `Some(None)`: a sum that does not fit.
    pub(super) spend: Option<Option<SpendVerdict>>,
}

/// How the one step ended.
pub(super) enum Step {
    Done,
    /// A verdict is no longer the one that was looked at, or the log was cleared.
    Changed,
    /// The log has no place for the entry.
    Unrecorded(AppendError),
}

/// Looks at both meters without taking anything; `None` when a record was cleared meanwhile.
pub(super) fn look(rate: Option<&PreparedRate>, spend: Option<&PreparedSpend>) -> Option<Look> {
    let rate = match rate {
        Some(prepared) => Some(prepared.with(|admission| admission.judge())?),
        None => None,
    };
    let spend = match spend {
        Some(prepared) => Some(prepared.with(|admission| admission.judge())?),
        None => None,
    };
    Some(Look { rate, spend })
}

/// Takes from both meters and appends the entry, if everything still is as it was seen.
pub(super) fn take(
    py: Python<'_>,
    rate: Option<&PreparedRate>,
    spend: Option<&PreparedSpend>,
    seen: &Look,
    opened: Option<&Opened>,
    exact: bool,
) -> Option<Step> {
    let append = || match opened.map_or(Ok(()), |opened| opened.append(py)) {
        Ok(()) => Step::Done,
        Err(AppendError::Detached) => Step::Changed,
        Err(refused) => Step::Unrecorded(refused),
    };
    let with_spend = || match spend {
        Some(prepared) => prepared.with(|admission| {
            let verdict = admission.judge();
            let same = Some(verdict) == seen.spend || !exact;
            if !same || !verdict.is_some_and(|verdict| verdict.allowed) {
                return Step::Changed;
            }
            let step = append();
            // INVARIANT: a sum that was judged fits, so this records.
            if matches!(step, Step::Done) {
                let _ = admission.record();
            }
            step
        }),
        None => Some(append()),
    };
    match rate {
        // Gates are always locked before ledgers, ledgers before logs.
        Some(prepared) => prepared.with(|admission| {
            let verdict = admission.judge();
            let same = Some(verdict) == seen.rate || !exact;
            if !same || !verdict.allowed {
                return Some(Step::Changed);
            }
            let step = with_spend()?;
            if matches!(step, Step::Done) {
                admission.record();
            }
            Some(step)
        })?,
        None => with_spend(),
    }
}
