//! Permits: what an admitted action holds until it is finished, exactly once.

use std::sync::Arc;

use smallvec::SmallVec;

use crate::amount::Amount;
use crate::codec::{Damaged, Reader, Record, Write};
use crate::gate::breaker::{Health, Thresholds, Ticket};
use crate::gate::once::Run;
use crate::policy::{Leases, MAX_GATES};
use crate::time::{Timestamp, Window};

/// Where a permit stands. Finished permits are gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PermitPhase {
    /// Admitted; nothing has happened. Released when its lease ends.
    Reserved,
    /// The action runs. In doubt when its lease ends.
    Started,
    /// The outcome is unknown. Settled at the full hold when its lease ends.
    InDoubt,
}

/// An amount held on one of the permit's records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    /// The position of the record among the permit's records.
    pub record: u8,
    /// How much.
    pub amount: Amount,
    /// The budget's window.
    pub window: Window,
}

/// What an admitted action holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permit {
    /// Where it stands.
    pub phase: PermitPhase,
    /// When the store moves it on by itself.
    pub lease_until: Timestamp,
    /// The lengths of its leases.
    pub leases: Leases,
    /// Amounts held, in the order of the policy's budgets.
    pub holds: SmallVec<[Hold; 2]>,
    /// Breakers its outcome counts for.
    pub breakers: SmallVec<[(u8, Ticket, Thresholds); 1]>,
    /// Its once record, and which run of it this is.
    pub operation: Option<(u8, Run)>,
}

/// How an action ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It happened. The result for replay, when there is one that can be stored.
    Done(Option<Arc<[u8]>>),
    /// It provably did not start or had no effect: holds are released, a once key may run again.
    FailedClean,
    /// Nobody knows: a once key stays in doubt, the cost stays held for a lease and is settled in full after it.
    InDoubt,
}

/// Everything the end of an action brings in.
#[derive(Clone, Debug)]
pub struct Settlement<'a> {
    /// How it ended.
    pub outcome: Outcome,
    /// What it says about the dependency.
    pub health: Health,
    /// Actual costs in the order of the holds; missing ones are settled at the full hold.
    pub actual: &'a [Amount],
}

impl Settlement<'_> {
    /// A settlement without costs of its own.
    pub const fn new(outcome: Outcome, health: Health) -> Self {
        Self { outcome, health, actual: &[] }
    }
}

const VERSION: u8 = 1;

impl Record for Permit {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(VERSION);
        out.push(match self.phase {
            PermitPhase::Reserved => 0,
            PermitPhase::Started => 1,
            PermitPhase::InDoubt => 2,
        });
        out.stamp(self.lease_until);
        out.span(self.leases.reserved);
        out.span(self.leases.started);
        out.span(self.leases.in_doubt);
        out.number(self.holds.len() as u128);
        for hold in &self.holds {
            out.push(hold.record);
            out.amount(hold.amount);
            out.window(hold.window);
        }
        out.number(self.breakers.len() as u128);
        for (record, ticket, thresholds) in &self.breakers {
            out.push(*record);
            ticket.encode(out);
            thresholds.encode(out);
        }
        out.flag(self.operation.is_some());
        if let Some((record, run)) = self.operation {
            out.push(record);
            run.encode(out);
        }
    }

    fn decode(bytes: &[u8]) -> Result<Self, Damaged> {
        let mut bytes = Reader::new(bytes, VERSION)?;
        let phase = match bytes.small::<u8>()? {
            0 => PermitPhase::Reserved,
            1 => PermitPhase::Started,
            2 => PermitPhase::InDoubt,
            _ => return Err(Damaged::Value("no such phase of a permit")),
        };
        let lease_until = bytes.stamp()?;
        let leases = Leases { reserved: bytes.span()?, started: bytes.span()?, in_doubt: bytes.span()? };
        let position = |bytes: &mut Reader<'_>| match bytes.take(1)? {
            [record] if usize::from(*record) < MAX_GATES => Ok(*record),
            _ => Err(Damaged::Value("a position beyond the gates of a policy")),
        };
        let mut holds = SmallVec::new();
        for _ in 0..bytes.small::<u8>()? {
            let record = position(&mut bytes)?;
            holds.push(Hold { record, amount: bytes.amount()?, window: bytes.window()? });
        }
        let mut breakers = SmallVec::new();
        for _ in 0..bytes.small::<u8>()? {
            let record = position(&mut bytes)?;
            breakers.push((record, Ticket::decode(&mut bytes)?, Thresholds::decode(&mut bytes)?));
        }
        let operation =
            if bytes.flag()? { Some((position(&mut bytes)?, Run::decode(&mut bytes)?)) } else { None };
        bytes.end()?;
        Ok(Self { phase, lease_until, leases, holds, breakers, operation })
    }
}
