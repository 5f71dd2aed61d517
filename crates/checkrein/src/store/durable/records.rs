//! The records of one step, as the core sees them.

use checkrein_core::admission::Records;
use checkrein_core::gate::breaker::Breaker;
use checkrein_core::gate::fact::Fact;
use checkrein_core::gate::once::{Operation, OperationState};
use checkrein_core::meter::Meter;
use checkrein_core::time::Timestamp;

use super::Table;
use super::cache::{Cache, Slot, Value};

/// A record of a step, and the count of live keys it belongs to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) record: Slot,
    /// Only where the record does not exist and may be made.
    pub(super) usage: Option<Slot>,
}

pub(super) struct StepRecords<'a> {
    pub(super) cache: &'a mut Cache,
    pub(super) places: &'a [Place],
    pub(super) max_keys: u64,
}

impl StepRecords<'_> {
    fn value(&mut self, index: usize) -> Option<&mut Value> {
        let place = self.places.get(index)?;
        self.cache.value(place.record)
    }

    /// Puts a record where there was none, and counts it.
    fn make(&mut self, index: usize, value: Value) {
        let Some(place) = self.places.get(index) else { return };
        if self.cache.value(place.record).is_none()
            && let Some(usage) = place.usage
        {
            let live = match self.cache.value(usage) {
                Some(Value::Usage(live)) => *live,
                _ => 0,
            };
            self.cache.put(usage, Some(Value::Usage(live + 1)));
        }
        self.cache.put(place.record, Some(value));
    }

    /// For a planted bug: takes every operation in doubt for one that failed.
    pub(super) fn clear_doubts(&mut self, now: Timestamp) {
        for place in self.places {
            if let Some(Value::Operation(operation)) = self.cache.value(place.record) {
                operation.resolve(None, OperationState::FailedClean, now);
            }
        }
    }

    /// For a planted bug: leaves out the breakers.
    pub(super) fn mark_meters(&mut self) {
        for place in self.places {
            if self.cache.get(place.record).is_some_and(|cached| cached.table != Table::Breaker) {
                self.cache.mark(place.record);
            }
        }
    }

    /// Says of every record that a permit may have changed that it has been.
    pub(super) fn mark(&mut self) {
        for place in self.places {
            let changes = self
                .cache
                .get(place.record)
                .is_some_and(|cached| cached.value.is_some() && cached.table != Table::Fact);
            if changes {
                self.cache.mark(place.record);
            }
        }
    }
}

impl Records for StepRecords<'_> {
    fn meter(&mut self, index: usize) -> Option<&mut Meter> {
        match self.value(index)? {
            Value::Meter(meter) => Some(meter),
            _ => None,
        }
    }

    fn breaker(&mut self, index: usize) -> Option<&mut Breaker> {
        match self.value(index)? {
            Value::Breaker(breaker) => Some(breaker),
            _ => None,
        }
    }

    fn operation(&mut self, index: usize) -> Option<&mut Operation> {
        match self.value(index)? {
            Value::Operation(operation) => Some(operation),
            _ => None,
        }
    }

    fn fact(&mut self, index: usize) -> Option<&mut Fact> {
        match self.value(index)? {
            Value::Fact(fact) => Some(fact),
            _ => None,
        }
    }

    fn has_room(&mut self) -> bool {
        let (cache, max_keys) = (&self.cache, self.max_keys);
        self.places.iter().all(|place| {
            let missing = cache.get(place.record).is_some_and(|record| record.value.is_none());
            let live = place.usage.and_then(|usage| cache.get(usage)).map_or(0, |usage| match usage.value {
                Some(Value::Usage(live)) => live,
                _ => 0,
            });
            !missing || place.usage.is_none() || live < max_keys
        })
    }

    fn make_meter(&mut self, index: usize) -> Option<&mut Meter> {
        if self.value(index).is_none() {
            self.make(index, Value::Meter(Meter::new()));
        }
        self.meter(index)
    }

    fn make_breaker(&mut self, index: usize) -> Option<&mut Breaker> {
        if self.value(index).is_none() {
            self.make(index, Value::Breaker(Breaker::default()));
        }
        self.breaker(index)
    }

    fn put_operation(&mut self, index: usize, operation: Operation) {
        self.make(index, Value::Operation(operation));
    }
}
