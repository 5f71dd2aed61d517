//! Changes of budgets in random histories: what the model makes of them, and what no store may do with them.

use std::sync::Arc;

use checkrein_core::admission::{AdjustError, Change, Lasting, Verdict};
use checkrein_core::amount::{Amount, Unit};
use checkrein_core::key::{Family, KeyRef};
use checkrein_core::policy::RecordKind;
use checkrein_core::time::{Span, Timestamp};

use super::model::{Call, Model, record};
use super::{Random, owned};
use crate::engine::{BudgetError, BudgetRecord, CompiledPolicy, Engine, GateSpec, GateSpecKind, WindowSpec};
use crate::store::{Cursor, RecordState};

/// What somebody has changed of one record's limit, in the most obvious way.
#[derive(Clone, Debug, Default)]
pub(super) struct Changes {
    set: Option<Amount>,
    more: Vec<(Amount, Timestamp)>,
}

impl Changes {
    pub(super) fn limit(&self, policy: Amount, now: Timestamp) -> Amount {
        let more = self.more.iter().filter(|(_, until)| now < *until);
        more.fold(self.set.unwrap_or(policy), |sum, (amount, _)| sum.saturating_add(*amount))
    }

    fn change(&mut self, change: Change, window: &WindowSpec, now: Timestamp) -> Result<(), AdjustError> {
        let (amount, lasting) = match change {
            Change::Set(limit) => {
                *self = Self { set: Some(limit), more: Vec::new() };
                return Ok(());
            }
            Change::Clear => {
                *self = Self::default();
                return Ok(());
            }
            Change::TopUp(amount, lasting) => (amount, lasting),
        };
        let until = match (lasting, window) {
            (Lasting::For(span), _) => now.after(span),
            (Lasting::Window, WindowSpec::Rolling(length)) => now.after(*length),
            (Lasting::Window, WindowSpec::Calendar(calendar)) => calendar.period_end(now),
            (Lasting::Until(until), _) => until,
            (Lasting::Window, WindowSpec::Lifetime) | (Lasting::Ever, _) => Timestamp::MAX,
        };
        if until <= now {
            return Err(AdjustError::Ended);
        }
        let mut ends: Vec<Timestamp> =
            self.more.iter().map(|(_, until)| *until).filter(|until| now < *until).collect();
        ends.push(until);
        ends.sort_unstable();
        ends.dedup();
        if ends.len() > checkrein_core::meter::MAX_TOP_UPS {
            return Err(AdjustError::TooMany);
        }
        self.more.push((amount, until));
        Ok(())
    }
}

impl Model {
    /// Changes the limit of the record of a budget: what it was and is.
    ///
    /// # Errors
    /// A top-up that ends at once, or one too many.
    pub fn adjust(
        &mut self,
        gate: &GateSpec,
        call: &Call,
        change: Change,
        now: Timestamp,
    ) -> Result<(Amount, Amount), AdjustError> {
        let GateSpecKind::Budget { key, limit, window, .. } = &gate.kind else {
            return Ok((Amount::ZERO, Amount::ZERO));
        };
        let changes = self.changes.entry(record(gate, call, *key)).or_default();
        let before = changes.limit(*limit, now);
        changes.change(change, window, now)?;
        Ok((before, changes.limit(*limit, now)))
    }
}

/// A random budget of a policy, if it has one.
pub fn random_budget<'g>(random: &mut Random, gates: &'g [GateSpec]) -> Option<&'g GateSpec> {
    let budgets: Vec<&GateSpec> =
        gates.iter().filter(|gate| matches!(gate.kind, GateSpecKind::Budget { .. })).collect();
    budgets.get(random.below(budgets.len() as u64) as usize).copied()
}

/// A random change of a limit.
pub fn random_change(random: &mut Random, now: Timestamp) -> Change {
    let halves =
        |random: &mut Random, most| Amount::from_pico(i128::from(1 + random.below(most)) * 500_000_000_000);
    let span = |random: &mut Random| Span::from_secs(random.below(90) as u32);
    match random.below(10) {
        0 => Change::Clear,
        1 | 2 => Change::Set(Amount::from_units(random.below(60))),
        3 => Change::TopUp(halves(random, 8), Lasting::Ever),
        4 => Change::TopUp(halves(random, 40), Lasting::For(span(random))),
        5 => {
            let until = now.after(span(random));
            Change::TopUp(halves(random, 40), Lasting::Until(until))
        }
        _ => Change::TopUp(halves(random, 30), Lasting::Window),
    }
}

/// The same random change to an engine and to the model: both must say the same of it.
pub(super) fn adjust_both(
    engine: &Engine,
    model: &mut Model,
    gate: &GateSpec,
    call: &Call,
    change: Change,
) -> Result<(), String> {
    let GateSpecKind::Budget { key, .. } = &gate.kind else { return Ok(()) };
    let key = call.keys.get(usize::from(*key)).map_or("", String::as_str);
    let (name, unit, window) = (gate.name.as_str(), Some(Unit::Usd), None);
    let budget = BudgetRecord { name, unit, window, tenant: "", key: key.as_bytes() };
    let expected = model.adjust(gate, call, change, engine.now());
    let seen = engine.adjust(&budget, change, "ann", "");
    let same = match (&expected, &seen) {
        (Ok(expected), Ok(seen)) => (Some(expected.0), Some(expected.1)) == (seen.before, seen.after),
        (Err(expected), Err(BudgetError::Adjust(seen))) => expected == seen,
        _ => false,
    };
    if same { Ok(()) } else { Err(format!("{change:?} of {budget:?}: expected {expected:?}, got {seen:?}")) }
}

/// A change of a record that nobody has used is kept like any other, and takes room like any other.
pub(super) fn changes_last(engine: &Engine, policy: &Arc<CompiledPolicy>) -> Result<(), String> {
    let budget = |key| BudgetRecord { name: "budget", unit: None, window: None, tenant: "", key };
    let spend = |key: &'static str, units| {
        let call = Call {
            keys: vec![String::new(), key.to_owned()],
            costs: vec![Amount::from_units(units)],
            verdicts: Vec::new(),
            once: None,
        };
        let admitted = owned(&call).with(&[], |inputs| engine.admit(policy, inputs));
        admitted.admission.verdict == Verdict::Allow
    };
    let expect = |what: &str, holds: bool| if holds { Ok(()) } else { Err(what.to_owned()) };
    let set = |key, change| engine.adjust(&budget(key), change, "ann", "").map_err(|error| error.to_string());
    let limit = |units| Change::Set(Amount::from_units(units));
    set(b"a", limit(50))?;
    expect("the limit of the policy is still the one that counts", spend("a", 20))?;
    expect("more than the changed limit was admitted", !spend("a", 31))?;
    engine.collect().map_err(|error| error.to_string())?;
    let name = policy.policy().gates().iter().find_map(|gate| gate.check.record());
    let family = name.map_or(Family(0), |(_, family, _)| family);
    let reset = engine.reset(RecordKind::Meter, KeyRef { family, tenant: b"", key: b"a" });
    expect("what was spent was not reset", reset == Ok(true))?;
    expect("a reset took the changed limit away", spend("a", 50))?;
    let lowered = set(b"a", limit(7))?;
    expect("a lowered limit took back what was spent", lowered.spent == Amount::from_units(50))?;
    expect("a lowered limit admits", !spend("a", 1) && spend("a", 0))?;
    let page = engine.list(RecordKind::Meter, Cursor::default(), 10).map_err(|error| error.to_string())?;
    let forced = page.0.iter().find_map(|record| match &record.state {
        RecordState::Meter { account, .. } => Some(account.forced),
        _ => None,
    });
    expect("what stands above a lowered limit is not forced", forced == Some(Amount::from_units(43)))?;
    set(b"b", limit(1))?;
    let full = engine.adjust(&budget(b"c"), limit(1), "ann", "");
    expect("a change made a key beyond the cap", full == Err(AdjustError::Capacity.into()))?;
    set(b"b", Change::Clear)?;
    expect("a cleared limit is not the policy's", spend("b", 10) && !spend("b", 1))
}
