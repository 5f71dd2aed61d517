//! One record of a budget: what is settled and held, and which limit counts.

use std::collections::BTreeMap;

use checkrein::core::amount::{Amount, Unit};
use checkrein::core::key::{Family, Key, KeyRef, decode_parts, encode_parts};
use checkrein::core::ledger::moment;
use checkrein::core::meter::{Account, Allowance, TopUp};
use checkrein::core::policy::RecordKind;
use checkrein::core::time::Timestamp;
use checkrein::store::durable::FamilyKey;
use checkrein::store::{Cursor, RecordState, StoreError};
use serde_json::{Value, json};

use super::super::store::Opened;
use super::known::{Policy, window_of};

/// A file is read in one transaction; a server must not be kept from others for so long.
const PAGE_ON_A_SERVER: usize = 256;

/// A record, as these verbs show it.
pub(super) struct Record {
    pub(super) name: String,
    pub(super) unit: Option<Unit>,
    pub(super) window: String,
    pub(super) key: Key,
    pub(super) settled: Amount,
    pub(super) account: Account,
    /// By the policy.
    pub(super) policy: Option<Amount>,
    pub(super) allowance: Option<Box<Allowance>>,
    pub(super) now: Timestamp,
}

impl Record {
    /// The limit that counts, where it is known.
    pub(super) fn limit(&self) -> Option<Amount> {
        let allowance = self.allowance.as_deref();
        let base = allowance.and_then(Allowance::set).or(self.policy)?;
        Some(allowance.map_or(base, |allowance| allowance.limit(base, self.now)))
    }

    /// What is settled and held.
    pub(super) fn taken(&self) -> Amount {
        self.settled.saturating_add(self.account.held)
    }

    /// What is left; below zero for what stands above the limit.
    pub(super) fn left(&self) -> Option<Amount> {
        self.limit().map(|limit| limit.saturating_sub(self.taken()))
    }

    /// The limit that was set in place of the policy's.
    pub(super) fn set(&self) -> Option<Amount> {
        self.allowance.as_deref().and_then(Allowance::set)
    }

    pub(super) fn top_ups(&self) -> impl Iterator<Item = TopUp> {
        self.allowance.as_deref().into_iter().flat_map(|allowance| allowance.top_ups(self.now))
    }

    pub(super) fn tenant(&self) -> String {
        text(self.key.borrow().tenant)
    }

    pub(super) fn unit(&self) -> &'static str {
        self.unit.map_or("", Unit::name)
    }

    pub(super) fn json(&self) -> Value {
        let amount = |amount: Amount| amount.to_string();
        let top_up = |top_up: TopUp| json!({ "amount": amount(top_up.amount), "until": ends(top_up.until) });
        json!({
            "budget": self.name,
            "tenant": self.tenant(),
            "key": shown(self.key.borrow().key),
            "unit": self.unit(),
            "window": self.window,
            "settled": amount(self.settled),
            "held": amount(self.account.held),
            "limit": self.limit().map(amount),
            "left": self.left().map(amount),
            "policy_limit": self.policy.map(amount),
            "set": self.set().map(amount),
            "top_ups": self.top_ups().map(top_up).collect::<Value>(),
            "overrun": amount(self.account.overrun),
            "forced": amount(self.account.forced),
        })
    }
}

/// When something ends, as text; nothing for what never does.
pub(super) fn ends(until: Timestamp) -> Option<String> {
    (until != Timestamp::MAX).then(|| moment::to_text(until))
}

/// A key as people write it: text, the parts of a key of several as a JSON array, or what is no text escaped.
pub(super) fn shown(key: &[u8]) -> String {
    if key.first() == Some(&0)
        && let Some(parts) = decode_parts(key)
    {
        return Value::from(parts.into_iter().map(text).collect::<Vec<String>>()).to_string();
    }
    text(key)
}

fn text(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.escape_ascii().to_string(),
    }
}

/// The bytes of a key that somebody wrote as [`shown`] shows it.
pub(super) fn read_key(key: &str) -> Vec<u8> {
    let parts: Option<Vec<String>> = key
        .starts_with('[')
        .then(|| serde_json::from_str(key).ok())
        .flatten()
        .filter(|p: &Vec<_>| p.len() > 1);
    match parts {
        Some(parts) => {
            let mut bytes = Vec::new();
            encode_parts(parts.iter().map(|part| part.as_bytes()), &mut bytes);
            bytes
        }
        None => key.as_bytes().to_vec(),
    }
}

/// Every record of a budget, those of a file as of one instant; and every budget of the policy that counts for
/// everybody, also where nothing was taken from it yet.
pub(super) fn all(store: &Opened, policy: Option<&Policy>) -> Result<Vec<Record>, StoreError> {
    let families: BTreeMap<Family, FamilyKey> = store.families()?.into_iter().collect();
    let page = match store {
        Opened::File(_) => usize::MAX,
        Opened::Server(_) => PAGE_ON_A_SERVER,
    };
    let (mut found, mut after) = (Vec::new(), Some(Cursor::default()));
    while let Some(cursor) = after {
        let (records, next) = store.scan(RecordKind::Meter, cursor, page)?;
        let now = store.clock().now();
        for record in records {
            let Some(family) = families.get(&record.key.borrow().family) else { continue };
            let RecordState::Meter { spent, account, allowance, .. } = record.state else { continue };
            let Some(name) = family.budget() else { continue };
            found.push(Record {
                name: name.to_owned(),
                unit: family.unit,
                window: window_of(family),
                key: record.key,
                settled: spent,
                account,
                policy: policy.and_then(|policy| policy.limit(family)),
                allowance,
                now,
            });
        }
        after = next;
    }
    if let Some(policy) = policy {
        let untouched = untouched(policy, &found, store.clock().now());
        found.extend(untouched);
    }
    Ok(found)
}

/// Whether all records of a family have a key: then it counts for nobody without one.
pub(super) fn is_keyed(store: &Opened, family: Family) -> Result<bool, StoreError> {
    let (mut some, mut after) = (false, Some(Cursor::default()));
    while let Some(cursor) = after {
        let (records, next) = store.scan(RecordKind::Meter, cursor, 1_024)?;
        for record in records.iter().filter(|record| record.key.borrow().family == family) {
            if record.key.borrow().key.is_empty() {
                return Ok(false);
            }
            some = true;
        }
        after = next;
    }
    Ok(some)
}

/// The policy's budgets for everybody that have no record.
fn untouched(policy: &Policy, found: &[Record], now: Timestamp) -> Vec<Record> {
    let none = |name: &str, window: &str| {
        !found.iter().any(|record| record.name == name && record.window == window && record.policy.is_some())
    };
    let records = policy.budgets().filter_map(|(name, budget, key)| {
        let window = window_of(&key);
        (budget.key.is_none() && none(name, &window)).then(|| Record {
            name: name.to_owned(),
            unit: Some(budget.unit),
            window,
            key: Key::new(KeyRef { family: Family(u32::MAX), tenant: b"", key: b"" }),
            settled: Amount::ZERO,
            account: Account::default(),
            policy: Some(budget.limit),
            allowance: None,
            now,
        })
    });
    records.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_as_they_are_shown() {
        let mut parts = Vec::new();
        encode_parts([b"inv-7".as_slice(), "\u{fc}".as_bytes()], &mut parts);
        for key in [b"ann".as_slice(), parts.as_slice(), b"", b"[x", b"[\"a\"]", "\u{202e}".as_bytes()] {
            assert_eq!(read_key(&shown(key)), key);
        }
    }
}
