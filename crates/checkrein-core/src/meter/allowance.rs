//! What somebody has changed of a budget's limit, for one record and at run time: another limit, and top-ups that end.

use crate::amount::Amount;
use crate::codec::{Damaged, Reader, Write};
use crate::time::Timestamp;

/// The most top-ups of one record that run at once.
pub const MAX_TOP_UPS: usize = 16;

/// A limit in place of the policy's, and what is added to whichever counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allowance {
    set: Option<Amount>,
    /// In the order of their ends, no two of which are the same.
    top_ups: Vec<TopUp>,
}

/// What is added to a limit for a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopUp {
    /// How much; more than zero.
    pub amount: Amount,
    /// From then on it does not count any more; [`Timestamp::MAX`] for never.
    pub until: Timestamp,
}

/// Why a top-up cannot be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotKept {
    TooMany,
    Overflow,
}

impl Allowance {
    /// Another limit than the policy's, until it is cleared.
    pub(crate) const fn of(limit: Amount) -> Self {
        Self { set: Some(limit), top_ups: Vec::new() }
    }

    /// The limit in place of the policy's, if there is one.
    pub const fn set(&self) -> Option<Amount> {
        self.set
    }

    /// The top-ups that count at `now`, the one that ends first first.
    pub fn top_ups(&self, now: Timestamp) -> impl Iterator<Item = TopUp> {
        self.top_ups.iter().copied().filter(move |top_up| now < top_up.until)
    }

    /// The limit at `now`, where the policy's is `policy`.
    pub fn limit(&self, policy: Amount, now: Timestamp) -> Amount {
        let base = self.set.unwrap_or(policy);
        self.top_ups(now).fold(base, |sum, top_up| sum.saturating_add(top_up.amount))
    }

    /// From when on it changes nothing.
    pub fn expires(&self) -> Timestamp {
        let last = self.top_ups.last().map_or(Timestamp::MIN, |top_up| top_up.until);
        if self.set.is_some() { Timestamp::MAX } else { last }
    }

    /// The same with one top-up more; those that have ended are forgotten.
    pub(crate) fn with(&self, top_up: TopUp, now: Timestamp) -> Result<Self, NotKept> {
        let mut top_ups: Vec<TopUp> = self.top_ups(now).collect();
        if let Some(known) = top_ups.iter_mut().find(|known| known.until == top_up.until) {
            known.amount = known.amount.checked_add(top_up.amount).ok_or(NotKept::Overflow)?;
        } else if top_ups.len() >= MAX_TOP_UPS {
            return Err(NotKept::TooMany);
        } else {
            top_ups.push(top_up);
        }
        top_ups.sort_by_key(|top_up| top_up.until);
        Ok(Self { set: self.set, top_ups })
    }

    /// Whether the limit, where the policy's is `policy`, is an amount.
    pub(crate) fn fits(&self, policy: Amount) -> bool {
        let base = self.set.unwrap_or(policy);
        self.top_ups.iter().try_fold(base, |sum, top_up| sum.checked_add(top_up.amount)).is_some()
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.flag(self.set.is_some());
        self.set.into_iter().for_each(|limit| out.amount(limit));
        out.number(self.top_ups.len() as u128);
        for TopUp { amount, until } in &self.top_ups {
            out.amount(*amount);
            out.stamp(*until);
        }
    }

    pub(super) fn decode(bytes: &mut Reader<'_>) -> Result<Self, Damaged> {
        let set = if bytes.flag()? { Some(bytes.amount()?) } else { None };
        let count = bytes.small::<usize>()?;
        if count > MAX_TOP_UPS {
            return Err(Damaged::Value("a limit has too many top-ups"));
        }
        let mut top_ups: Vec<TopUp> = Vec::with_capacity(count);
        for _ in 0..count {
            let top_up = TopUp { amount: bytes.amount()?, until: bytes.stamp()? };
            let in_order = top_ups.last().is_none_or(|last| last.until < top_up.until);
            if !in_order || top_up.amount <= Amount::ZERO {
                return Err(Damaged::Value("the top-ups of a limit are not in order"));
            }
            top_ups.push(top_up);
        }
        if set.is_some_and(Amount::is_negative) || (set.is_none() && top_ups.is_empty()) {
            return Err(Damaged::Value("a limit was changed to what none can be"));
        }
        Ok(Self { set, top_ups })
    }
}
