//! A store that comes back from a backup: what was open then is void, and what was given out since is not given out again.

use checkrein_core::time::Timestamp;

use super::epochs::{Liveness, ProcessInfo};
use super::head::Head;
use super::{Durable, Options, Tables};
use crate::store::StoreError;

/// How far a store had come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// Transactions that changed something.
    pub commits: u64,
    /// Entries of its ledger.
    pub entries: u64,
    /// The number of the next permit.
    pub next_permit: u64,
    /// The number of the next process.
    pub next_epoch: u64,
    /// The latest time it has seen.
    pub last: Timestamp,
}

/// What a restore did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restored {
    /// How far the backup had come.
    pub backup: Mark,
    /// The number of the restore among the processes of the store.
    pub epoch: u64,
    /// Permits that were open in the backup: reserved ones are released, started ones in doubt.
    pub voided: usize,
}

/// Where nothing is known of the store that is replaced, so many numbers are left out.
const GAP: u64 = 1 << 32;

/// Every process of the time of the backup is gone.
struct Nobody;

impl Liveness for Nobody {
    fn claim(&mut self, _epoch: u64) -> Result<(), StoreError> {
        Ok(())
    }

    fn is_alive(&mut self, _epoch: u64) -> bool {
        false
    }

    fn forget(&mut self, _epoch: u64) {}
}

impl Mark {
    /// How far a store had come, from the row of its head.
    pub(crate) fn read(row: &[u8]) -> Result<Self, StoreError> {
        Head::read(row).map(|head| Self::from(&head))
    }
}

impl From<&Head> for Mark {
    fn from(head: &Head) -> Self {
        Self {
            commits: head.commit,
            entries: head.next_entry,
            next_permit: head.next_permit,
            next_epoch: head.next_epoch,
            last: head.last,
        }
    }
}

impl Durable {
    /// Makes a copy from a backup ready to take the place of the store whose past it is: `replaced` says how far that
    /// had come, if that can be said. Numbers of permits and processes start behind it, what was open is voided, and
    /// the gap is an entry of the ledger. What ran since the backup is not known to the store any more.
    ///
    /// # Errors
    /// The copy cannot be read or written; nothing was changed then.
    pub fn restored(
        tables: &mut impl Tables,
        options: Options,
        now: Timestamp,
        process: &ProcessInfo,
        replaced: Option<Mark>,
    ) -> Result<Restored, StoreError> {
        tables.begin()?;
        let done = Self::restored_in(tables, options, now, process, replaced);
        let done = done.and_then(|restored| tables.commit().map(|()| restored));
        if done.is_err() {
            tables.rollback();
        }
        done
    }

    fn restored_in(
        tables: &mut impl Tables,
        options: Options,
        now: Timestamp,
        process: &ProcessInfo,
        replaced: Option<Mark>,
    ) -> Result<Restored, StoreError> {
        let mut head = Head::load(tables)?;
        let backup = Mark::from(&head);
        if backup.commits == 0 {
            return Err(StoreError::NotCommitted("the backup is an empty store".to_owned()));
        }
        let floor = replaced.unwrap_or(Mark {
            next_permit: head.next_permit.saturating_add(GAP),
            next_epoch: head.next_epoch.saturating_add(GAP),
            ..backup
        });
        head.next_permit = head.next_permit.max(floor.next_permit);
        head.next_epoch = head.next_epoch.max(floor.next_epoch);
        // A store whose ledger is empty keeps none.
        let options = Options { ledger: options.ledger.filter(|_| head.next_entry > 0), ..options };
        let mut durable = Self::empty(options, head);
        durable.families.load(tables)?;
        let now = durable.tick(now.max(floor.last));
        durable.register(tables, process, now, &mut Nobody)?;
        let gap = replaced.map_or_else(|| "unknown".to_owned(), |at| at.entries.to_string());
        let (entries, commits) = (backup.entries.to_string(), backup.commits.to_string());
        let (last, epoch) = (backup.last.nanos().to_string(), durable.epoch.to_string());
        let fields = [
            ("backup_commits", &*commits),
            ("backup_entries", &*entries),
            ("backup_time_ns", &*last),
            ("epoch", &*epoch),
            ("replaced_entries", &*gap),
        ];
        durable.note_event(tables, now, "restored", &fields)?;
        let voided = durable.recover_dead(tables, now, &mut Nobody)?;
        durable.write(tables)?;
        Ok(Restored { backup, epoch: durable.epoch, voided })
    }
}
