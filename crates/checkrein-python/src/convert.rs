//! Python values on their way into the core: keys, amounts, canonical JSON, and the copy that is gated and runs.

use checkrein_core::amount::{Amount, AmountError, Unit, parse_quantity};
use checkrein_core::json::{Object, Value};
use pyo3::prelude::*;
use pyo3::types::{
    PyBool, PyByteArray, PyBytes, PyDict, PyFloat, PyInt, PyList, PyNone, PySet, PyString, PyTuple,
};
use pyo3::{PyTypeInfo, ffi};

/// Containers inside one another that a gated argument may have.
pub(crate) const MAX_DEPTH: usize = 128;
/// Values that the gated arguments of one call may have, so that shared references cannot blow a copy up.
pub(crate) const MAX_NODES: usize = 1_000_000;

/// Why a value cannot be used; the text never contains the value.
#[derive(Debug)]
pub(crate) enum Unusable {
    /// It is not what is needed.
    Wrong(String),
    /// It is larger than a stated limit.
    TooLarge(String),
    /// Python raised.
    Raised(PyErr),
}

impl From<PyErr> for Unusable {
    fn from(error: PyErr) -> Self {
        Self::Raised(error)
    }
}

fn wrong<T>(text: impl Into<String>) -> Result<T, Unusable> {
    Err(Unusable::Wrong(text.into()))
}

/// The name of an object's type, for messages.
pub(crate) fn type_name(object: &Bound<'_, PyAny>) -> String {
    object.get_type().name().map_or_else(|_| "object".to_owned(), |name| name.to_string_lossy().into_owned())
}

/// An object's type with its article, for messages: `an int`.
pub(crate) fn a_type(object: &Bound<'_, PyAny>) -> String {
    with_article(&type_name(object))
}

pub(crate) fn with_article(name: &str) -> String {
    let vowel = name.starts_with(['a', 'e', 'i', 'o', 'A', 'E', 'I', 'O']);
    format!("{} {name}", if vowel { "an" } else { "a" })
}

/// Whether the type of `object` is exactly this one.
#[inline]
pub(crate) fn is_exact<T: PyTypeInfo>(object: &Bound<'_, PyAny>) -> bool {
    object.is_exact_instance_of::<T>()
}

/// The UTF-8 of a text, borrowed from the object, which caches it.
#[inline]
pub(crate) fn utf8<'a>(object: &'a Bound<'_, PyAny>) -> Result<&'a str, Unusable> {
    match object.cast::<PyString>() {
        Ok(text) => match text.to_str() {
            Ok(text) => Ok(text),
            // A lone surrogate: such text has no UTF-8 and cannot be sent, stored or compared.
            Err(_) => wrong("text with half of a surrogate pair"),
        },
        Err(_) => wrong(a_type(object)),
    }
}

/// Copies the bytes of a key into `out`: text, an integer, bytes, or a UUID. The number 7 and the text "7" are one
/// key, so that a caller does not double its limit by changing a type.
pub(crate) fn key_bytes(object: &Bound<'_, PyAny>, out: &mut Vec<u8>) -> Result<(), Unusable> {
    let before = out.len();
    if object.is_instance_of::<PyString>() {
        out.extend_from_slice(utf8(object)?.as_bytes());
    } else if is_exact::<PyInt>(object) {
        match object.extract::<i64>() {
            Ok(number) => out.extend_from_slice(number.to_string().as_bytes()),
            Err(_) => return wrong("an integer beyond 64 bits"),
        }
    } else if let Ok(bytes) = object.cast::<PyBytes>() {
        out.extend_from_slice(bytes.as_bytes());
    } else if type_name(object) == "UUID" {
        out.extend_from_slice(utf8(&object.str()?.into_any())?.as_bytes());
    } else if object.is_none() {
        return wrong("no value");
    } else {
        return wrong(format!("{}; a key is text, an integer, bytes or a UUID", a_type(object)));
    }
    if out.len() == before { wrong("empty") } else { Ok(()) }
}

/// Reads an amount of `unit`: text with or without the unit, an integer of whole units, or a `Decimal`. Never a float.
pub(crate) fn amount(object: &Bound<'_, PyAny>, unit: Unit) -> Result<Amount, Unusable> {
    let fits = |result: Result<Amount, AmountError>| match result {
        Ok(amount) if unit.is_whole() && amount.pico() % Amount::ONE.pico() != 0 => {
            wrong(format!("a fraction of {unit}"))
        }
        Ok(amount) => Ok(amount),
        Err(error) => unreadable(&error),
    };
    if is_exact::<PyInt>(object) {
        let Ok(units) = object.extract::<i128>() else { return wrong("an integer that is out of range") };
        let Some(pico) = units.checked_mul(Amount::ONE.pico()) else {
            return wrong("an integer that is out of range");
        };
        return if pico < 0 { wrong("negative") } else { Ok(Amount::from_pico(pico)) };
    }
    if object.is_instance_of::<PyString>() {
        let text = utf8(object)?.trim();
        if text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.' || byte == b'-') {
            return fits(Amount::parse(text));
        }
        return match parse_quantity(text) {
            Ok((amount, found)) if found == unit => fits(Ok(amount)),
            Ok((_, found)) => wrong(format!("an amount of {found} where {unit} are counted")),
            Err(error) => unreadable(&error),
        };
    }
    if object.is_instance_of::<PyFloat>() {
        return wrong("a float; write exact amounts as text, an integer or a Decimal");
    }
    if type_name(object) == "Decimal" {
        // Written out, `1E+999999999` would be a gigabyte of zeros.
        let exponent: i64 = object.call_method0("adjusted")?.extract()?;
        if !(-100..=100).contains(&exponent) {
            return wrong("a Decimal that is out of range");
        }
        let text = object.call_method1("__format__", ("f",))?;
        return fits(Amount::parse(utf8(&text)?));
    }
    wrong(format!("{}; an amount is text, an integer or a Decimal", a_type(object)))
}

/// Of a cost given as a dict by unit the one in `unit`, else the cost itself.
pub(crate) fn in_unit<'py>(cost: Bound<'py, PyAny>, unit: Unit) -> Result<Bound<'py, PyAny>, Unusable> {
    let Ok(dict) = cost.cast_exact::<PyDict>() else { return Ok(cost) };
    match dict.get_item(unit.name())? {
        Some(amount) => Ok(amount),
        None => wrong(format!("a dict without `{unit}`")),
    }
}

/// What is wrong with an amount, without the amount: it may be anything that an argument or a result holds.
fn unreadable<T>(error: &AmountError) -> Result<T, Unusable> {
    let what = match error {
        AmountError::Malformed(_) => "text that is no decimal number",
        AmountError::TooFine(_) => "a number of more than 12 decimal places",
        AmountError::OutOfRange(_) => "a number that is out of range",
        AmountError::Negative(_) => "negative",
        AmountError::Unit(_) => "text that is no amount with a known unit",
    };
    wrong(format!("{what}; {}", error.hint()))
}

/// The JSON value of plain Python values; `what` is the argument, for messages. Tuples are lists.
pub(crate) fn json_value(
    object: &Bound<'_, PyAny>,
    budget: &mut usize,
    depth: usize,
) -> Result<Value, Unusable> {
    spend(budget, depth)?;
    if object.is_none() {
        return Ok(Value::Null);
    }
    if is_exact::<PyBool>(object) {
        return Ok(Value::Bool(object.is_truthy()?));
    }
    if is_exact::<PyString>(object) {
        return Ok(Value::String(utf8(object)?.to_owned()));
    }
    if is_exact::<PyInt>(object) {
        return match (object.extract::<i64>(), object.extract::<u64>()) {
            (Ok(number), _) => Ok(Value::Int(number)),
            (_, Ok(number)) => Ok(Value::Uint(number)),
            _ => wrong("an integer beyond 64 bits"),
        };
    }
    if is_exact::<PyFloat>(object) {
        let number: f64 = object.extract()?;
        return if number.is_finite() {
            Ok(Value::Float(number))
        } else {
            wrong("a float that is not finite")
        };
    }
    if let Ok(dict) = object.cast_exact::<PyDict>() {
        let mut members = Vec::with_capacity(dict.len());
        for (key, value) in dict.copy()?.iter() {
            if !is_exact::<PyString>(&key) {
                return wrong("a dict with a key that is not text");
            }
            members.push((utf8(&key)?.to_owned(), json_value(&value, budget, depth + 1)?));
        }
        return Object::from_members(members).map(Value::Object).or_else(|error| wrong(error.to_string()));
    }
    let items = if let Ok(list) = object.cast_exact::<PyList>() {
        list.to_tuple()
    } else if let Ok(tuple) = object.cast_exact::<PyTuple>() {
        tuple.clone()
    } else {
        return wrong(format!("{}, which has no canonical form", a_type(object)));
    };
    let items: Result<Vec<Value>, _> =
        items.iter().map(|item| json_value(&item, budget, depth + 1)).collect();
    items.map(Value::Array)
}

/// A JSON value as plain Python values.
pub(crate) fn from_json<'py>(py: Python<'py>, value: &Value) -> PyResult<Bound<'py, PyAny>> {
    Ok(match value {
        Value::Null => PyNone::get(py).to_owned().into_any(),
        Value::Bool(value) => PyBool::new(py, *value).to_owned().into_any(),
        Value::Int(number) => number.into_pyobject(py)?.into_any(),
        Value::Uint(number) => number.into_pyobject(py)?.into_any(),
        Value::Float(number) => PyFloat::new(py, *number).into_any(),
        Value::String(text) => PyString::new(py, text).into_any(),
        Value::Array(items) => {
            let list = PyList::empty(py);
            for item in items {
                list.append(from_json(py, item)?)?;
            }
            list.into_any()
        }
        Value::Object(object) => {
            let dict = PyDict::new(py);
            for (key, value) in object.iter() {
                dict.set_item(key, from_json(py, value)?)?;
            }
            dict.into_any()
        }
    })
}

/// Whether a value comes back from JSON as the very same: exact types, no tuples, text keys.
pub(crate) fn is_plain_json(object: &Bound<'_, PyAny>, depth: usize) -> bool {
    if object.is_none()
        || is_exact::<PyBool>(object)
        || is_exact::<PyString>(object)
        || is_exact::<PyInt>(object)
    {
        return true;
    }
    if depth >= MAX_DEPTH {
        return false;
    }
    if let Ok(dict) = object.cast_exact::<PyDict>() {
        return dict
            .iter()
            .all(|(key, value)| is_exact::<PyString>(&key) && is_plain_json(&value, depth + 1));
    }
    if let Ok(list) = object.cast_exact::<PyList>() {
        return list.iter().all(|item| is_plain_json(&item, depth + 1));
    }
    is_exact::<PyFloat>(object)
}

fn spend(budget: &mut usize, depth: usize) -> Result<(), Unusable> {
    if depth >= MAX_DEPTH {
        return Err(Unusable::TooLarge(format!("more than {MAX_DEPTH} containers inside one another")));
    }
    match budget.checked_sub(1) {
        Some(rest) => *budget = rest,
        None => return Err(Unusable::TooLarge(format!("more than {MAX_NODES} values"))),
    }
    Ok(())
}

/// Whether an object can change under its reader, by its exact type: the plain containers can.
#[inline]
pub(crate) fn is_container(object: &Bound<'_, PyAny>) -> bool {
    let found = object.get_type_ptr();
    // The commonest argument is text; nothing further is asked then.
    found != &raw mut ffi::PyUnicode_Type
        && (found == &raw mut ffi::PyDict_Type
            || found == &raw mut ffi::PyList_Type
            || found == &raw mut ffi::PyTuple_Type
            || found == &raw mut ffi::PySet_Type
            || found == &raw mut ffi::PyByteArray_Type)
}

/// A deep copy of plain containers (`None` when there is nothing to copy): each is copied at once, so that a thread
/// that changes it meanwhile changes the original only, and what is gated is what runs.
pub(crate) fn snapshot<'py>(
    object: &Bound<'py, PyAny>,
    budget: &mut usize,
    depth: usize,
) -> Result<Option<Bound<'py, PyAny>>, Unusable> {
    if !is_container(object) {
        return Ok(None);
    }
    spend(budget, depth)?;
    if let Ok(dict) = object.cast_exact::<PyDict>() {
        spend_all(budget, dict.len())?;
        let copy = dict.copy()?;
        let mut changed = Vec::new();
        for (key, value) in copy.iter() {
            if let Some(value) = snapshot(&value, budget, depth + 1)? {
                changed.push((key, value));
            }
        }
        for (key, value) in changed {
            copy.set_item(key, value)?;
        }
        return Ok(Some(copy.into_any()));
    }
    if let Ok(list) = object.cast_exact::<PyList>() {
        spend_all(budget, list.len())?;
        let copy = list.get_slice(0, usize::MAX >> 1);
        for index in 0..copy.len() {
            if let Some(item) = snapshot(&copy.get_item(index)?, budget, depth + 1)? {
                copy.set_item(index, item)?;
            }
        }
        return Ok(Some(copy.into_any()));
    }
    if let Ok(tuple) = object.cast_exact::<PyTuple>() {
        return snapshot_tuple(tuple, budget, depth);
    }
    let py = object.py();
    // Members of a set are hashable: at most tuples of scalars, nothing that could change.
    if let Ok(set) = object.cast_exact::<PySet>() {
        spend_all(budget, set.len())?;
        return Ok(Some(py.get_type::<PySet>().call1((set,))?));
    }
    Ok(Some(PyByteArray::from(object)?.into_any()))
}

fn snapshot_tuple<'py>(
    tuple: &Bound<'py, PyTuple>,
    budget: &mut usize,
    depth: usize,
) -> Result<Option<Bound<'py, PyAny>>, Unusable> {
    spend_all(budget, tuple.len())?;
    let mut items = Vec::with_capacity(tuple.len());
    let mut changed = false;
    for item in tuple.iter() {
        let copy = snapshot(&item, budget, depth + 1)?;
        changed |= copy.is_some();
        items.push(copy.unwrap_or(item));
    }
    Ok(if changed { Some(PyTuple::new(tuple.py(), items)?.into_any()) } else { None })
}

fn spend_all(budget: &mut usize, count: usize) -> Result<(), Unusable> {
    match budget.checked_sub(count) {
        Some(rest) => *budget = rest,
        None => return Err(Unusable::TooLarge(format!("more than {MAX_NODES} values"))),
    }
    Ok(())
}

/// Whether an object is `True` or `False`, which are integers to everybody else.
pub(crate) fn is_bool(object: &Bound<'_, PyAny>) -> bool {
    is_exact::<PyBool>(object)
}
