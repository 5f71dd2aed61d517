//! What can be decided again, and in which way the answer differs.

use checkrein_core::time::Timestamp;

use super::lane::{Decided, Lane};
use super::record::{Cause, Kept, Recorded, Ruling};
use super::totals::{Change, Changed, Difference, Effect};
use super::{Left, Replay};
use crate::engine::{SCOPE_NAMESPACE, USAGE_NAMESPACE};

/// Refusals that no policy file decides: of the store, of people, of credentials, of a switch at run time.
const BY_OTHERS: [&str; 15] = [
    "approval_required",
    "approval_denied",
    "approval_mismatch",
    "approval_expired",
    "capacity",
    "forbidden",
    "frozen",
    "invariant_broken",
    "ledger_error",
    "secret_unavailable",
    "store_error",
    "timeout",
    "tool_changed",
    "too_large",
    "unauthenticated",
];

impl Replay {
    /// Why a decision cannot be decided again; or whether it was refused by gates of which nobody knows whose they are.
    pub(super) fn left(&self, recorded: &Recorded) -> Result<bool, Left> {
        if recorded.name.is_empty() {
            return Err(Left::NoName);
        }
        if matches!(recorded.namespace.as_str(), SCOPE_NAMESPACE | USAGE_NAMESPACE) {
            return Err(Left::Spending);
        }
        // What a file freezes is a rule of its own.
        let by_others = |cause: &Cause| BY_OTHERS.contains(&cause.code.as_str()) && cause.kind != "rule";
        if recorded.causes.iter().any(by_others) {
            return Err(Left::ByOthers);
        }
        let is_unknown = self.is_unknown(recorded)?;
        let reads = |lane: &Lane| lane.reads_arguments(recorded);
        let is_read = reads(&self.new) || self.old.as_ref().is_some_and(reads);
        match recorded.arguments {
            Kept::Digest if is_read => Err(Left::ArgumentsDigest),
            Kept::Nothing if is_read => Err(Left::ArgumentsMissing),
            _ => Ok(is_unknown),
        }
    }

    /// Whether nobody knows whose the gates are that refused it. Those of the code no file takes away.
    fn is_unknown(&self, recorded: &Recorded) -> Result<bool, Left> {
        let mut is_unknown = false;
        for cause in recorded.causes.iter().filter(|cause| cause.kind != "action") {
            let lanes = [Some(&self.new), self.old.as_ref()];
            if lanes.into_iter().flatten().any(|lane| lane.has_gate(recorded, cause)) {
                continue;
            }
            match self.told.is_in_code(recorded.policy, cause) {
                Some(true) => return Err(Left::ByCode),
                // With the old file at hand, a gate that neither file has stands in the code.
                _ if self.old.is_some() => return Err(Left::ByCode),
                Some(false) => {}
                None => is_unknown = true,
            }
        }
        Ok(is_unknown)
    }

    /// In which way a decision differs.
    pub(super) fn compare(
        &self,
        recorded: &Recorded,
        old: Option<&Decided>,
        new: &Decided,
    ) -> Option<Change> {
        let (ruling, causes) =
            old.map_or((recorded.ruling, &recorded.causes), |old| (old.ruling, &old.causes));
        // Whether a result could be stored is not recorded: either way nothing ran.
        let is_pruned = |causes: &[Cause]| matches!(causes, [only] if only.code == "result_pruned");
        if ruling == Ruling::Refuse && new.ruling == Ruling::Replay && is_pruned(causes) {
            return None;
        }
        let codes = |causes: &[Cause]| {
            let mut codes: Vec<String> = causes.iter().map(|cause| cause.code.clone()).collect();
            codes.sort_unstable();
            codes.dedup();
            codes
        };
        let other_reasons = || {
            let differ = self.options.reasons && codes(causes) != codes(&new.causes);
            differ.then_some(Change::Reasons)
        };
        Change::between(ruling, new.ruling).or_else(other_reasons)
    }

    /// Counts a difference, and lists it if it is among the first.
    pub(super) fn list(
        &mut self,
        recorded: &Recorded,
        repeat: Option<u64>,
        time: Timestamp,
        change: Change,
        old: Option<&Decided>,
        new: &Decided,
    ) -> Changed {
        let tool = match recorded.namespace.as_str() {
            "" => recorded.name.clone(),
            namespace => format!("{namespace}:{}", recorded.name),
        };
        let was = old.map_or((recorded.ruling, &recorded.causes), |old| (old.ruling, &old.causes));
        // What refuses is the reason for it: now, or then.
        let causes = if new.ruling == Ruling::Refuse { &new.causes } else { was.1 };
        let listed = (self.answer.differences.len() < self.options.limit).then(|| {
            self.answer.differences.push(Difference {
                seq: recorded.seq,
                time,
                repeat,
                tool: tool.clone(),
                change,
                old: (was.0, was.1.clone()),
                new: (new.ruling, new.causes.clone()),
                effect: Effect::default(),
                money: Vec::new(),
            });
            self.answer.differences.len().saturating_sub(1)
        });
        let mut causes = causes.clone();
        causes.sort_unstable();
        causes.dedup();
        let changed = Changed { change, tool, causes, listed };
        self.answer.totals.call(&changed);
        changed
    }
}
