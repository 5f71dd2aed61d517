//! Rate limits, cooldowns and attempts: spent at admission, never given back.

use std::sync::Arc;

use crate::amount::Amount;
use crate::code::Code;
use crate::decision::{Detail, GateKind, Reason, Retry};
use crate::meter::Meter;
use crate::policy::{Attempts, Limit};
use crate::time::{Timestamp, Window};

/// Whether one more call fits. `meter` must have been advanced to `now`.
#[inline]
pub fn fits(meter: &Meter, limit: &Limit, now: Timestamp) -> bool {
    meter.count() < limit.max_calls
        && (limit.cooldown.is_zero()
            || meter.newest().is_none_or(|newest| now >= newest.after(limit.cooldown)))
}

/// Every reason why one more call does not fit: the cooldown first, then the full window.
#[cold]
pub(crate) fn refuse(
    meter: &Meter,
    limit: &Limit,
    name: &Arc<str>,
    now: Timestamp,
    period_end: Timestamp,
    reasons: &mut Vec<Reason>,
) {
    let mut push = |code, retry, detail| {
        reasons.push(Reason { code, kind: GateKind::Limit, gate: Arc::clone(name), retry, detail });
    };
    // Where the time is known by bounds, the last call may be stamped later than now.
    let too_soon = |newest: &Timestamp| !limit.cooldown.is_zero() && now < newest.after(limit.cooldown);
    if let Some(newest) = meter.newest().filter(too_soon) {
        let detail = Detail::Elapsed { elapsed: now.since(newest), cooldown: limit.cooldown };
        push(Code::Cooldown, Retry::After(newest.after(limit.cooldown).since(now)), detail);
    }
    let count = meter.count();
    if count >= limit.max_calls {
        let detail = Detail::Calls { count, limit: limit.max_calls, window: limit.window };
        push(Code::RateLimited, free_at(meter, limit, count, now, period_end), detail);
    }
}

fn free_at(meter: &Meter, limit: &Limit, count: u64, now: Timestamp, period_end: Timestamp) -> Retry {
    match limit.window {
        _ if limit.max_calls == 0 => Retry::Never,
        Window::Lifetime => Retry::Never,
        Window::Period => Retry::After(period_end.since(now)),
        Window::Rolling(length) => {
            let excess = Amount::from_units(count - limit.max_calls + 1);
            meter
                .leaves_with(excess)
                .map_or(Retry::Unknown, |stamp| Retry::After(stamp.after(length).since(now)))
        }
    }
}

/// The reason why another attempt does not fit, if it does not.
pub(crate) fn refuse_attempt(meter: &Meter, attempts: &Attempts, name: &Arc<str>) -> Option<Reason> {
    let count = meter.count();
    (count >= attempts.max).then(|| Reason {
        code: Code::AttemptsExceeded,
        kind: GateKind::Attempts,
        gate: Arc::clone(name),
        retry: Retry::Never,
        detail: Detail::Calls { count, limit: attempts.max, window: Window::Lifetime },
    })
}
