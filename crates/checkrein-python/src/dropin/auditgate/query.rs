//! `QueryFilter` applied to entries.

use std::cmp::Ordering;

use pyo3::prelude::*;
use pyo3::types::{PyList, PySlice};

use super::entry::{AuditEntry, Sequence};
use super::store::exact_stamp;
use super::vocabulary::{Vocabulary, vocabulary};

/// A filter object, read once.
pub(crate) struct Filter<'py> {
    pub(crate) trail: Option<Bound<'py, PyAny>>,
    verdict: Option<Bound<'py, PyAny>>,
    min_severity: Option<Bound<'py, PyAny>>,
    after: Option<Bound<'py, PyAny>>,
    before: Option<Bound<'py, PyAny>>,
    gate_type: Option<Bound<'py, PyAny>>,
    offset: isize,
    limit: Option<isize>,
}

impl<'py> Filter<'py> {
    pub(crate) fn from_object(filter: &Bound<'py, PyAny>) -> PyResult<Self> {
        let field =
            |name: &str| filter.getattr(name).map(|value| Some(value).filter(|value| !value.is_none()));
        Ok(Self {
            trail: field("trail")?,
            verdict: field("verdict")?,
            min_severity: field("min_severity")?,
            after: field("after_ts")?,
            before: field("before_ts")?,
            gate_type: field("gate_type")?,
            offset: filter.getattr("offset")?.extract()?,
            limit: field("limit")?.map(|limit| limit.extract()).transpose()?,
        })
    }

    /// Returns what passes, ordered by stamp and sequence, cut to offset and limit.
    pub(crate) fn select(
        &self,
        py: Python<'py>,
        entries: Vec<Py<AuditEntry>>,
    ) -> PyResult<Bound<'py, PyList>> {
        let vocabulary = vocabulary(py)?;
        let floor = self.min_severity.as_ref().map(|severity| vocabulary.rank(severity)).transpose()?;
        let mut kept = Vec::new();
        for entry in entries {
            if self.passes(py, vocabulary, floor, entry.get())? {
                kept.push(entry);
            }
        }
        let ordered = PyList::new(py, order(py, kept)?)?;
        let mut page = ordered.into_any();
        if self.offset > 0 {
            page = page.get_item(PySlice::new(py, self.offset, isize::MAX, 1))?;
        }
        if let Some(limit) = self.limit {
            page = page.get_item(PySlice::new(py, 0, limit, 1))?;
        }
        Ok(page.cast_into::<PyList>()?)
    }

    fn passes(
        &self,
        py: Python<'py>,
        vocabulary: &Vocabulary,
        floor: Option<usize>,
        entry: &AuditEntry,
    ) -> PyResult<bool> {
        let same = |wanted: &Option<Bound<'py, PyAny>>, actual: &Py<PyAny>| match wanted {
            Some(wanted) if !wanted.is(actual) => wanted.eq(actual),
            _ => Ok(true),
        };
        if !same(&self.verdict, &entry.verdict)? || !same(&self.gate_type, &entry.gate_type)? {
            return Ok(false);
        }
        if let Some(floor) = floor
            && vocabulary.rank(entry.severity.bind(py))? < floor
        {
            return Ok(false);
        }
        let ts = entry.ts.bind(py);
        if let Some(after) = &self.after
            && earlier(ts, after)?
        {
            return Ok(false);
        }
        if let Some(before) = &self.before
            && earlier(before, ts)?
        {
            return Ok(false);
        }
        Ok(true)
    }
}

fn earlier(left: &Bound<'_, PyAny>, right: &Bound<'_, PyAny>) -> PyResult<bool> {
    match (exact_stamp(left), exact_stamp(right)) {
        (Some(left), Some(right)) => Ok(left < right),
        _ => left.lt(right),
    }
}

/// Orders by stamp and sequence, in Rust when every key is a plain number, by Python's own sort otherwise.
fn order(py: Python<'_>, entries: Vec<Py<AuditEntry>>) -> PyResult<Vec<Py<AuditEntry>>> {
    let mut keyed = Vec::with_capacity(entries.len());
    for entry in &entries {
        let key = match (exact_stamp(entry.get().ts.bind(py)), &entry.get().sealed()?.sequence) {
            (Some(ts), Sequence::Number(sequence)) => (ts, *sequence),
            _ => return order_by_python(py, &entries),
        };
        keyed.push((key, entry));
    }
    let compare = |left: &(f64, i64), right: &(f64, i64)| match left.0.partial_cmp(&right.0) {
        Some(Ordering::Equal) | None => left.1.cmp(&right.1),
        Some(unequal) => unequal,
    };
    keyed.sort_by(|left, right| compare(&left.0, &right.0));
    Ok(keyed.into_iter().map(|(_, entry)| entry.clone_ref(py)).collect())
}

fn order_by_python(py: Python<'_>, entries: &[Py<AuditEntry>]) -> PyResult<Vec<Py<AuditEntry>>> {
    let mut rows = Vec::with_capacity(entries.len());
    for (index, entry) in entries.iter().enumerate() {
        rows.push((entry.get().ts.clone_ref(py), entry.bind(py).getattr("sequence")?, index));
    }
    let rows = PyList::new(py, rows)?;
    rows.sort()?;
    let mut ordered = Vec::with_capacity(entries.len());
    for row in rows.iter() {
        let index: usize = row.get_item(2)?.extract()?;
        ordered.extend(entries.get(index).map(|entry| entry.clone_ref(py)));
    }
    Ok(ordered)
}
