//! What is still to happen, in the order of time; what is due at one instant happens in the order it was planned.

use std::collections::BTreeMap;

/// Events by the nanosecond at which they are due.
#[derive(Debug)]
pub(crate) struct Queue<E> {
    due: BTreeMap<(i64, u64), E>,
    planned: u64,
}

impl<E> Default for Queue<E> {
    fn default() -> Self {
        Self { due: BTreeMap::new(), planned: 0 }
    }
}

impl<E> Queue<E> {
    /// Plans an event.
    pub(crate) fn plan(&mut self, at: i64, event: E) {
        self.planned += 1;
        self.due.insert((at, self.planned), event);
    }

    /// The next event and its time.
    pub(crate) fn next(&mut self) -> Option<(i64, E)> {
        self.due.pop_first().map(|((at, _), event)| (at, event))
    }
}
