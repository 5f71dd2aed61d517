//! What was promised to whom, and what came of it: the rules that no run may break.

use std::collections::{BTreeMap, BTreeSet};

use crate::tools::Call;
use crate::upstream::{Fate, OnceKey, Upstream, result_of};

/// What a run did that it must not.
pub(crate) type Check = Result<(), String>;

/// Says what is wrong unless `holds`.
pub(crate) fn ensure(holds: bool, wrong: impl FnOnce() -> String) -> Check {
    if holds { Ok(()) } else { Err(wrong()) }
}

/// Remembers promises.
#[derive(Debug, Default)]
pub(crate) struct Oracle {
    /// Results that a client or a person was told, by key, with the request they are of.
    told: BTreeMap<OnceKey, (u8, Vec<u8>)>,
    /// Permits given out.
    permits: BTreeSet<u64>,
    /// So many replies were checked.
    pub(crate) replies: u64,
}

impl Oracle {
    /// A call was admitted.
    pub(crate) fn admitted(&mut self, call: &Call, permit: Option<u64>) -> Check {
        if let Some(permit) = permit {
            ensure(self.permits.insert(permit), || format!("permit {permit} was given out twice"))?;
        }
        if let Some(key) = call.once_key() {
            ensure(!self.told.contains_key(&key), || {
                format!("{key:?} was admitted again although its result had been told")
            })?;
        }
        Ok(())
    }

    /// A call is about to be sent to the service.
    pub(crate) fn dispatch(&self, call: &Call, upstream: &Upstream) -> Check {
        let Some(key) = call.once_key() else { return Ok(()) };
        let may_have = |fate: Fate| matches!(fate, Fate::Underway | Fate::Happened);
        match upstream.of(&key).find(|(_, dispatch)| may_have(dispatch.fate)) {
            None => Ok(()),
            Some((number, dispatch)) => {
                Err(format!("{key:?} is dispatched again while dispatch {number} is {:?}", dispatch.fate))
            }
        }
    }

    /// A client or a person is told that a call is done, with this result.
    pub(crate) fn tell(&mut self, key: &OnceKey, request: u8, result: &[u8], upstream: &Upstream) -> Check {
        self.replies += 1;
        let effect = upstream.effects().get(key).and_then(|numbers| numbers.first());
        ensure(effect.is_some_and(|number| result_of(*number) == result), || {
            format!("{key:?} is said to be done with {:?}, which is not what happened", show(result))
        })?;
        let (asked, told) = self.told.entry(key.clone()).or_insert_with(|| (request, result.to_vec()));
        ensure(*asked == request && told == result, || {
            format!("{key:?} was told {:?} and now {:?} for request {request}", show(told), show(result))
        })
    }

    /// A client is refused a once key for a reason of the key itself.
    pub(crate) fn refused(&self, call: &Call, code: &str) -> Check {
        let Some((key, (_, request))) = call.once_key().zip(call.once.as_ref()) else { return Ok(()) };
        let Some((told, _)) = self.told.get(&key) else { return Ok(()) };
        let expected = if told == request { "result_pruned" } else { "key_reused" };
        ensure(code == expected, || format!("{key:?} was told its result, and then `{code}`"))
    }

    /// Everything that was ever told.
    pub(crate) fn told(&self) -> impl Iterator<Item = (&OnceKey, u8, &[u8])> {
        self.told.iter().map(|(key, (request, result))| (key, *request, result.as_slice()))
    }
}

fn show(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}
