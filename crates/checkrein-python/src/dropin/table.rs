//! The native memory behind the drop-in stores: one record per identity, found once and then held by whoever decides
//! on it, swept when idle.
//!
//! No lock here is ever held while Python code runs, and none is held across a release of the interpreter, so that a
//! fork always finds them free.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use foldhash::fast::RandomState;
use parking_lot::Mutex;

/// Tables smaller than this are never swept.
const SWEEP_FROM: usize = 1_024;
/// Records touched by engines on different clocks: their stamps cannot be compared, so they stay.
const MIXED: u64 = u64::MAX;

static TABLES: AtomicU64 = AtomicU64::new(1);

/// What a table keeps per identity.
pub(crate) trait Record: Default {
    /// Whether everything it remembers has lost its meaning at `now`.
    fn is_idle(&self, now: i64) -> bool;
}

/// A time and the domain of the clock it was read from; only stamps of one domain may be compared.
#[derive(Clone, Copy)]
pub(crate) struct Moment {
    pub(crate) nanos: i64,
    pub(crate) domain: u64,
}

/// One identity's record. A retired slot was cleared or swept: whoever still holds it looks it up again.
pub(crate) struct Slot<R> {
    cell: Mutex<Cell<R>>,
}

struct Cell<R> {
    record: R,
    domain: u64,
    retired: bool,
}

impl<R: Record> Slot<R> {
    fn new() -> Self {
        Self { cell: Mutex::new(Cell { record: R::default(), domain: 0, retired: false }) }
    }

    /// Runs `decide` on the record, unless the slot is retired. A domain of 0 brings no time with it.
    #[inline]
    pub(crate) fn with<T>(&self, domain: u64, decide: impl FnOnce(&mut R) -> T) -> Option<T> {
        let mut cell = self.cell.lock();
        if cell.retired {
            return None;
        }
        if cell.domain != domain && domain != 0 {
            cell.domain = if cell.domain == 0 { domain } else { MIXED };
        }
        Some(decide(&mut cell.record))
    }

    /// Retires the slot. The record comes back, because it may be the last to hold the user's objects: their
    /// destructors run where no lock is held.
    fn retire(&self) -> R {
        let mut cell = self.cell.lock();
        cell.retired = true;
        std::mem::take(&mut cell.record)
    }

    /// Retires the slot if nothing in it matters any more.
    fn retire_idle(&self, now: Moment) -> bool {
        let mut cell = self.cell.lock();
        if cell.domain == now.domain && now.domain != MIXED && cell.record.is_idle(now.nanos) {
            cell.retired = true;
            cell.record = R::default();
        }
        cell.retired
    }
}

/// The records of one store.
pub(crate) struct Table<R> {
    number: u64,
    slots: Mutex<Slots<R>>,
}

struct Slots<R> {
    by_key: HashMap<Box<[u8]>, Arc<Slot<R>>, RandomState>,
    sweep_at: usize,
}

impl<R: Record> Default for Table<R> {
    fn default() -> Self {
        Self {
            number: TABLES.fetch_add(1, Ordering::Relaxed),
            slots: Mutex::new(Slots { by_key: HashMap::default(), sweep_at: SWEEP_FROM }),
        }
    }
}

impl<R: Record> Table<R> {
    /// Tells this table from every other one of the process.
    #[inline]
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// The slot of an identity, made if there is none.
    pub(crate) fn slot(&self, key: &[u8], now: Moment) -> Arc<Slot<R>> {
        let mut slots = self.slots.lock();
        if let Some(slot) = slots.by_key.get(key) {
            return Arc::clone(slot);
        }
        if slots.by_key.len() >= slots.sweep_at {
            slots.by_key.retain(|_, slot| !slot.retire_idle(now));
            // Doubling keeps the cost of sweeps constant per new identity.
            slots.sweep_at = (slots.by_key.len() * 2).max(SWEEP_FROM);
            let roomy = slots.sweep_at;
            slots.by_key.shrink_to(roomy);
        }
        let slot = Arc::new(Slot::new());
        slots.by_key.insert(key.into(), Arc::clone(&slot));
        slot
    }

    /// The slot of an identity, if it has one.
    pub(crate) fn find(&self, key: &[u8]) -> Option<Arc<Slot<R>>> {
        self.slots.lock().by_key.get(key).map(Arc::clone)
    }

    /// Forgets one identity.
    pub(crate) fn clear(&self, key: &[u8]) {
        let removed = self.slots.lock().by_key.remove(key);
        let record = removed.map(|slot| slot.retire());
        drop(record);
    }

    /// Forgets every identity. A decision that runs meanwhile belongs wholly before or wholly after.
    pub(crate) fn clear_all(&self) {
        let mut slots = self.slots.lock();
        slots.sweep_at = SWEEP_FROM;
        let removed = std::mem::take(&mut slots.by_key);
        let records: Vec<R> = removed.values().map(|slot| slot.retire()).collect();
        drop(slots);
        drop(records);
    }

    /// Shows every record to a garbage collector that does not wait for locks.
    pub(crate) fn try_visit<E>(&self, mut look: impl FnMut(&R) -> Result<(), E>) -> Result<(), E> {
        let Some(slots) = self.slots.try_lock() else { return Ok(()) };
        for slot in slots.by_key.values() {
            if let Some(cell) = slot.cell.try_lock() {
                look(&cell.record)?;
            }
        }
        Ok(())
    }

    /// How many identities have a record.
    pub(crate) fn len(&self) -> usize {
        self.slots.lock().by_key.len()
    }
}
