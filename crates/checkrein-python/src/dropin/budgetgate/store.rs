//! The native store behind `MemoryStore` and `AsyncMemoryStore`.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;
use parking_lot::Mutex;
use pyo3::exceptions::{PyKeyError, PyOverflowError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyTuple};

use super::super::common::clock::{FOREIGN_DOMAIN, Now, span};
use super::super::common::identity::{Key, number_key};
use super::super::table::{Moment, Slot, Table};
use super::Ledger;
use super::budget::limits_of;
use super::meter::{Id, LedgerSpend, Limits, SettleError, Verdict};
use super::money::{MoneyError, Written, read};

/// Below this many reservations their index is never swept.
const SWEEP_FROM: usize = 1_024;

/// The ledgers of one store, and where its open reservations are.
#[derive(Default)]
pub(super) struct Space {
    pub(super) table: Table<LedgerSpend>,
    reservations: Mutex<Reservations>,
}

#[derive(Default)]
struct Reservations {
    by_id: HashMap<Id, Arc<Slot<LedgerSpend>>, RandomState>,
    sweep_at: usize,
}

impl Space {
    /// Remembers on which ledger a reservation is.
    fn remember(&self, id: Id, slot: Arc<Slot<LedgerSpend>>) {
        let mut reservations = self.reservations.lock();
        reservations.by_id.insert(id, slot);
        if reservations.by_id.len() > reservations.sweep_at.max(SWEEP_FROM) {
            // What its ledger no longer knows was cleared, or ran out of its lease.
            reservations
                .by_id
                .retain(|id, slot| slot.with(0, |spend| spend.hold_exists(id)).unwrap_or(false));
            reservations.sweep_at = reservations.by_id.len() * 2;
        }
    }

    /// Settles a reservation of any ledger.
    fn settle(
        &self,
        name: &Bound<'_, PyAny>,
        act: impl Fn(&mut LedgerSpend, &Id) -> Result<(), SettleError>,
    ) -> PyResult<()> {
        let unknown = || -> PyErr {
            let shown = name.str().map(|text| text.to_string()).unwrap_or_default();
            PyKeyError::new_err(format!("Reservation not found: {shown}"))
        };
        let id = parse_id(name).ok_or_else(unknown)?;
        let slot = self.reservations.lock().by_id.get(&id).map(Arc::clone).ok_or_else(unknown)?;
        match slot.with(0, |spend| act(spend, &id)) {
            Some(Ok(())) => {
                self.reservations.lock().by_id.remove(&id);
                Ok(())
            }
            Some(Err(SettleError::Overflow)) => {
                Err(PyOverflowError::new_err("the sum of the ledger is out of range"))
            }
            Some(Err(SettleError::Unknown)) | None => {
                self.reservations.lock().by_id.remove(&id);
                Err(unknown())
            }
        }
    }

    /// Records what a reservation really cost.
    pub(super) fn commit(
        &self,
        name: &Bound<'_, PyAny>,
        actual: &Bound<'_, PyAny>,
        now: Option<i64>,
    ) -> PyResult<()> {
        let actual = read(actual)?.map_err(MoneyError::into_exception)?;
        self.settle(name, |spend, id| spend.commit(id, now, actual))
    }

    /// Gives a reservation back.
    pub(super) fn release(&self, name: &Bound<'_, PyAny>) -> PyResult<()> {
        self.settle(name, LedgerSpend::release)
    }

    /// Holds `amount` if it fits; the name of the reservation when it does.
    pub(super) fn reserve(
        &self,
        slot: &Arc<Slot<LedgerSpend>>,
        now: Moment,
        amount: Written,
        limits: &Limits,
    ) -> PyResult<Option<(Option<Id>, Option<Verdict>)>> {
        let id = new_id()?;
        let Some(verdict) = slot.with(now.domain, |spend| spend.reserve(now.nanos, id, amount, limits))
        else {
            return Ok(None);
        };
        let held = verdict.is_some_and(|verdict| verdict.allowed);
        if held {
            self.remember(id, Arc::clone(slot));
        }
        Ok(Some((held.then_some(id), verdict)))
    }

    pub(super) fn clear_all(&self) {
        self.table.clear_all();
        let dropped = std::mem::take(&mut self.reservations.lock().by_id);
        drop(dropped);
    }
}

/// A random name, in the form of a version 4 UUID.
fn new_id() -> PyResult<Id> {
    let mut id = Id::default();
    getrandom::fill(&mut id).map_err(|error| PyRuntimeError::new_err(format!("no randomness: {error}")))?;
    let [_, _, _, _, _, _, version, _, variant, ..] = &mut id;
    *version = (*version & 0x0f) | 0x40;
    *variant = (*variant & 0x3f) | 0x80;
    Ok(id)
}

/// The 32 hexadecimal digits of a reservation's name.
pub(super) fn show_id(id: &Id) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn parse_id(name: &Bound<'_, PyAny>) -> Option<Id> {
    let name = name.cast::<PyString>().ok()?;
    let text = name.to_str().ok().filter(|text| text.len() == 32)?;
    u128::from_str_radix(text, 16)
        .ok()
        .filter(|number| format!("{number:032x}") == text)
        .map(u128::to_be_bytes)
}

/// Base of both memory stores: a handle on one space of ledgers.
#[pyclass(module = "checkrein._native", subclass, frozen)]
pub(crate) struct BudgetStore {
    space: Arc<Space>,
    /// Numbers for identities that are not three plain texts, compared as Python compares them.
    numbers: Py<PyDict>,
}

impl BudgetStore {
    #[inline]
    pub(super) fn space(&self) -> &Arc<Space> {
        &self.space
    }

    /// The bytes under which this store keeps `ledger`.
    pub(super) fn key(&self, ledger: &Bound<'_, PyAny>) -> PyResult<Key> {
        let py = ledger.py();
        if let Some(key) = ledger.cast_exact::<Ledger>().ok().and_then(|ledger| ledger.get().text_key(py)) {
            return Ok(key);
        }
        let numbers = self.numbers.bind(py);
        let number = match numbers.get_item(ledger)? {
            Some(number) => number,
            None => numbers.call_method1("setdefault", (ledger, numbers.len()))?,
        };
        Ok(number_key(number.extract()?))
    }

    fn entry(&self, ledger: &Bound<'_, PyAny>, now: &Bound<'_, PyAny>) -> PyResult<(Key, Moment)> {
        let stamp = Now::from_object(now).stamp;
        let nanos = stamp.ok_or_else(|| PyValueError::new_err("now is not a usable time"))?;
        Ok((self.key(ledger)?, Moment { nanos, domain: FOREIGN_DOMAIN }))
    }
}

fn overflow() -> PyErr {
    PyOverflowError::new_err("the sum of the ledger is out of range")
}

#[pymethods]
impl BudgetStore {
    #[new]
    #[pyo3(signature = (*_args, _share=None, **_kwargs))]
    fn new(
        py: Python<'_>,
        _args: &Bound<'_, PyTuple>,
        _share: Option<&Bound<'_, Self>>,
        _kwargs: Option<&Bound<'_, PyDict>>,
    ) -> Self {
        match _share {
            Some(store) => {
                let store = store.get();
                Self { space: Arc::clone(&store.space), numbers: store.numbers.clone_ref(py) }
            }
            None => Self { space: Arc::default(), numbers: PyDict::new(py).unbind() },
        }
    }

    /// Decides on a spend at `now` and records it when it is allowed: `(spent, allowed)`.
    fn check_and_reserve<'py>(
        &self,
        ledger: &Bound<'py, PyAny>,
        now: &Bound<'py, PyAny>,
        amount: &Bound<'py, PyAny>,
        budget: &Bound<'py, PyAny>,
    ) -> PyResult<(Bound<'py, PyAny>, bool)> {
        let limits = limits_of(budget)?;
        let amount = read(amount)?.map_err(MoneyError::into_exception)?;
        let (key, now) = self.entry(ledger, now)?;
        let verdict = loop {
            let slot = self.space.table.slot(&key, now);
            if let Some(verdict) = slot.with(now.domain, |spend| spend.admit(now.nanos, amount, &limits)) {
                break verdict.ok_or_else(overflow)?;
            }
        };
        Ok((verdict.spent.money.to_decimal(ledger.py(), verdict.spent.places)?, verdict.allowed))
    }

    /// Holds an estimate at `now` if it fits: `(id | None, spent)`.
    fn reserve<'py>(
        &self,
        ledger: &Bound<'py, PyAny>,
        now: &Bound<'py, PyAny>,
        amount: &Bound<'py, PyAny>,
        budget: &Bound<'py, PyAny>,
    ) -> PyResult<(Option<String>, Bound<'py, PyAny>)> {
        let limits = limits_of(budget)?;
        let amount = read(amount)?.map_err(MoneyError::into_exception)?;
        let (key, now) = self.entry(ledger, now)?;
        let (id, verdict) = loop {
            let slot = self.space.table.slot(&key, now);
            if let Some(outcome) = self.space.reserve(&slot, now, amount, &limits)? {
                break outcome;
            }
        };
        let spent = verdict.ok_or_else(overflow)?.spent;
        Ok((id.as_ref().map(show_id), spent.money.to_decimal(ledger.py(), spent.places)?))
    }

    /// Records what a reservation really cost, at the latest time this ledger has seen.
    fn commit(&self, reservation_id: &Bound<'_, PyAny>, actual: &Bound<'_, PyAny>) -> PyResult<()> {
        self.space.commit(reservation_id, actual, None)
    }

    /// Gives a reservation back unspent.
    fn release(&self, reservation_id: &Bound<'_, PyAny>) -> PyResult<()> {
        self.space.release(reservation_id)
    }

    /// Spent and reserved within `window` seconds before `now`.
    fn get_spend<'py>(
        &self,
        ledger: &Bound<'py, PyAny>,
        now: &Bound<'py, PyAny>,
        window: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let window = if window.is_none() { None } else { span(window)? };
        let (key, now) = self.entry(ledger, now)?;
        let slot = self.space.table.find(&key);
        let spent = match slot.and_then(|slot| slot.with(now.domain, |spend| spend.spent(now.nanos, window)))
        {
            Some(spent) => spent.ok_or_else(overflow)?,
            None => Written::default(),
        };
        spent.money.to_decimal(ledger.py(), spent.places)
    }

    /// Forgets one ledger and its reservations.
    fn clear(&self, ledger: &Bound<'_, PyAny>) -> PyResult<()> {
        self.space.table.clear(&self.key(ledger)?);
        Ok(())
    }

    /// Forgets every ledger.
    fn clear_all(&self) {
        self.space.clear_all();
    }

    fn __len__(&self) -> usize {
        self.space.table.len()
    }

    fn __bool__(&self) -> bool {
        true
    }
}
