//! Changes of a budget's limit for one record, at run time: another limit, a top-up that ends, the policy's limit again.
//!
//! The change is kept in the meter that admissions read anyway, so it is decided with them and costs no further read.

use crate::amount::Amount;
use crate::meter::{Allowance, Meter, NotKept, TopUp};
use crate::time::{Now, Span, Timestamp, Window};

use super::{Records, horizon, stamp};

/// The most bytes of who changes a limit.
pub const MAX_BY: usize = 200;
/// The most bytes of what they say about it.
pub const MAX_NOTE: usize = 1_000;

/// What is done to a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// This limit counts instead of the policy's, and top-ups end.
    Set(Amount),
    /// So much more, for a time.
    TopUp(Amount, Lasting),
    /// The policy's limit counts again, and top-ups end.
    Clear,
}

/// How long a top-up counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lasting {
    /// Until the calendar period ends, for one length of a rolling window, for ever where there is no window.
    #[default]
    Window,
    /// For so long.
    For(Span),
    /// Until this instant.
    Until(Timestamp),
    /// For ever.
    Ever,
}

/// A change, and who makes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adjustment {
    change: Change,
    limit: Option<Amount>,
    by: Box<str>,
    note: Box<str>,
}

/// What a change came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Adjusted {
    /// The limit that counted before, where it is known.
    pub before: Option<Amount>,
    /// The limit that counts now, where it is known.
    pub after: Option<Amount>,
    /// When the top-up that was added ends; `None` for never, and for what is not a top-up.
    pub until: Option<Timestamp>,
    /// What is spent in the window.
    pub spent: Amount,
    /// What is held.
    pub held: Amount,
}

/// Why a limit was not changed; nothing was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdjustError {
    /// The amount is below zero.
    #[error("the amount is negative")]
    Negative,
    /// A top-up of nothing.
    #[error("a top-up must be more than zero")]
    Nothing,
    /// The sum would not fit 128 bits.
    #[error("the limit does not fit 128 bits")]
    Overflow,
    /// Nobody is named.
    #[error("nobody is named who changes the limit")]
    MissingBy,
    /// Who changes it, or what they say, is too long.
    #[error("the {0} has more than {1} bytes")]
    TooLong(&'static str, usize),
    /// The top-up would end at once.
    #[error("the top-up would have ended already")]
    Ended,
    /// Too many top-ups run.
    #[error("16 top-ups of this limit run at once, and no more are kept")]
    TooMany,
    /// The record does not exist and there is no room for another one.
    #[error("the cap on live keys is reached")]
    Capacity,
}

impl AdjustError {
    /// The stable code of the error.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Negative | Self::Nothing | Self::Overflow => "invalid_amount",
            Self::MissingBy => "missing_by",
            Self::TooLong(..) => "too_large",
            Self::Ended => "invalid_time",
            Self::TooMany => "too_many_top_ups",
            Self::Capacity => "capacity",
        }
    }

    /// What to do about it.
    pub const fn hint(self) -> &'static str {
        match self {
            Self::Negative => "use zero or more",
            Self::Nothing => "name an amount above zero, or set another limit to lower it",
            Self::Overflow => "use a value below 10^26",
            Self::MissingBy => "say who changes the limit: it is written into the ledger",
            Self::TooLong(..) => "make it shorter",
            Self::Ended => "name a time in the future",
            Self::TooMany => "set another limit instead",
            Self::Capacity => "wait until idle keys have gone, or raise `max_keys`",
        }
    }
}

impl Adjustment {
    /// A change of a limit, made by `by`, who may say something about it. `limit` is the policy's, where that is known:
    /// then it is known as well what the limit was and is.
    ///
    /// # Errors
    /// An amount that no limit can have, nobody who makes the change, or a text that is too long.
    pub fn new(change: Change, limit: Option<Amount>, by: &str, note: &str) -> Result<Self, AdjustError> {
        match change {
            Change::Set(amount) | Change::TopUp(amount, _) if amount.is_negative() => {
                return Err(AdjustError::Negative);
            }
            Change::TopUp(Amount::ZERO, _) => return Err(AdjustError::Nothing),
            Change::Set(_) | Change::TopUp(..) | Change::Clear => {}
        }
        if by.trim().is_empty() {
            return Err(AdjustError::MissingBy);
        }
        for (what, text, most) in [("name of who changes the limit", by, MAX_BY), ("note", note, MAX_NOTE)] {
            if text.len() > most {
                return Err(AdjustError::TooLong(what, most));
            }
        }
        Ok(Self { change, limit, by: by.trim().into(), note: note.trim().into() })
    }

    /// What is done.
    pub const fn change(&self) -> Change {
        self.change
    }

    /// Who does it.
    pub const fn by(&self) -> &str {
        &self.by
    }

    /// What they say about it; may be empty.
    pub const fn note(&self) -> &str {
        &self.note
    }
}

/// Changes the limit of the first of `records`, a budget's meter that counts over `window`. `period_end` is the end of
/// the calendar period that now lies in, where the window is one.
///
/// # Errors
/// A change that cannot be kept; nothing was changed then.
pub fn adjust<R: Records>(
    adjustment: &Adjustment,
    window: Window,
    period_end: Timestamp,
    now: impl Into<Now>,
    records: &mut R,
) -> Result<Adjusted, AdjustError> {
    let now = now.into();
    let known = records.meter(0);
    let (is_there, at) = (known.is_some(), stamp(known.as_deref(), now.latest));
    let allowance = known.and_then(|meter| meter.allowance().cloned());
    let (allowance, until) = changed(allowance, adjustment.change, window, period_end, at)?;
    let policy = adjustment.limit;
    if allowance.as_ref().is_some_and(|allowance| !allowance.fits(policy.unwrap_or_default())) {
        return Err(AdjustError::Overflow);
    }
    if !is_there && allowance.is_none() {
        let (spent, held) = (Amount::ZERO, Amount::ZERO);
        return Ok(Adjusted { before: policy, after: policy, until, spent, held });
    }
    if !is_there && !records.has_room() {
        return Err(AdjustError::Capacity);
    }
    let meter = records.make_meter(0).ok_or(AdjustError::Capacity)?;
    meter.advance(horizon(meter, now), window, period_end);
    let before = limit_of(meter, policy, at);
    meter.allow(allowance, window);
    let after = limit_of(meter, policy, at);
    if let Some(after) = after
        && before.is_none_or(|before| after < before)
    {
        meter.force_above(after, window);
    }
    let (spent, held) = (meter.spent(), meter.held());
    Ok(Adjusted { before, after, until, spent, held })
}

/// The limit of a record, unless it is the policy's and nobody has said which that is.
fn limit_of(meter: &Meter, policy: Option<Amount>, now: Timestamp) -> Option<Amount> {
    let base = meter.allowance().and_then(Allowance::set).or(policy)?;
    Some(meter.limit(base, now))
}

/// What a change leaves, and when the top-up that it adds ends.
fn changed(
    known: Option<Allowance>,
    change: Change,
    window: Window,
    period_end: Timestamp,
    now: Timestamp,
) -> Result<(Option<Allowance>, Option<Timestamp>), AdjustError> {
    let (amount, lasting) = match change {
        Change::Clear => return Ok((None, None)),
        Change::Set(limit) => return Ok((Some(Allowance::of(limit)), None)),
        Change::TopUp(amount, lasting) => (amount, lasting),
    };
    let until = match (lasting, window) {
        (Lasting::For(span), _) | (Lasting::Window, Window::Rolling(span)) => now.after(span),
        (Lasting::Window, Window::Period) => period_end,
        (Lasting::Until(until), _) => until,
        (Lasting::Ever, _) | (Lasting::Window, Window::Lifetime) => Timestamp::MAX,
    };
    if until <= now {
        return Err(AdjustError::Ended);
    }
    let next = known.unwrap_or_default().with(TopUp { amount, until }, now).map_err(|why| match why {
        NotKept::TooMany => AdjustError::TooMany,
        NotKept::Overflow => AdjustError::Overflow,
    })?;
    Ok((Some(next), Some(until).filter(|until| *until != Timestamp::MAX)))
}
