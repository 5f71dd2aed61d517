//! The windows of one rate limit: a meter for each scope value, forgotten once its window has passed.

use std::collections::HashMap;

use checkrein_core::amount::Amount;
use checkrein_core::meter::Meter;
use checkrein_core::time::{Span, Timestamp, Window};
use foldhash::fast::RandomState;

type Meters = HashMap<Box<str>, Meter, RandomState>;

/// Meters in two generations: what was not asked for during a whole period is in the old one, and goes with it.
#[derive(Default)]
pub(super) struct Windows {
    young: Meters,
    old: Meters,
    /// When the generations last changed places.
    turned: Option<Timestamp>,
    latest: Option<Timestamp>,
}

/// What a limit allows.
#[derive(Clone, Copy)]
pub(super) struct Limit {
    pub(super) max_calls: u64,
    pub(super) period: Span,
}

impl Limit {
    /// How long until a call passes; `None` when one passes now.
    pub(super) fn refusal(&self, meter: &Meter, now: Timestamp) -> Option<Span> {
        let count = meter.count();
        if count < self.max_calls {
            return None;
        }
        // A limit of nothing never comes back; a period is what can be said of it.
        let leaving = meter.leaves_with(Amount::from_units((count - self.max_calls).saturating_add(1)));
        Some(leaving.map_or(self.period, |stamp| stamp.after(self.period).since(now)))
    }

    /// Counts a call that `refusal` does not refuse; `false` when the meter cannot.
    pub(super) fn record(&self, meter: &mut Meter, now: Timestamp) -> bool {
        meter.record(now, Amount::ONE, Window::Rolling(self.period)).is_ok()
    }
}

impl Windows {
    /// The meter of a scope value, without what has left its window. An event exactly as old as the period has left.
    pub(super) fn meter(&mut self, key: &str, now: Timestamp, limit: &Limit) -> Option<&mut Meter> {
        let cutoff = now.before(limit.period);
        self.turn(now, cutoff);
        self.latest = self.latest.max(Some(now));
        if !self.young.contains_key(key) {
            let meter = self.old.remove(key).unwrap_or_default();
            self.young.insert(key.into(), meter);
        }
        let meter = self.young.get_mut(key)?;
        meter.forget_until(cutoff);
        Some(meter)
    }

    /// How many scope values are remembered.
    pub(super) fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    fn turn(&mut self, now: Timestamp, cutoff: Timestamp) {
        if self.turned.is_some_and(|turned| turned > cutoff) {
            return;
        }
        self.old = std::mem::take(&mut self.young);
        if self.latest.is_some_and(|latest| latest <= cutoff) {
            self.old = Meters::default();
        }
        self.turned = Some(now);
    }
}
