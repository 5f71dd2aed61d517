//! Where an expression finds its variables: a scope of slots, read lazily and without conversion.

use checkrein_core::json::Value;

/// One value as an expression sees it: a scalar to work with, or a handle to a list or map of the scope.
///
/// `'a` is the lifetime of the data behind the scope, `H` what the scope uses to find a list or map again.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Operand<'a, H> {
    /// There is no such variable or member in this call. Reading it is an error, `has()` says `false`.
    Missing,
    /// Something expressions do not work with, such as an object or an integer beyond 64 bits. Reading it is
    /// an error.
    Unreadable,
    /// `null`.
    Null,
    /// A boolean.
    Bool(bool),
    /// A signed integer.
    Int(i64),
    /// An unsigned integer. A number that fits `i64` is given as [`Operand::Int`].
    Uint(u64),
    /// A double.
    Double(f64),
    /// Text.
    Text(&'a str),
    /// Bytes.
    Bytes(&'a [u8]),
    /// A list.
    List(H),
    /// A map with text keys.
    Map(H),
}

/// The variables of one call.
///
/// Slots are numbered as the variables were when the expression was compiled. A scope hands out borrows of
/// data that lives longer than the evaluation (`'a`), so that nothing is copied: over Python a handle would
/// be a borrowed object of the argument tuple, over JSON it is a `&Value`.
pub trait Scope<'a> {
    /// Finds a list or map again.
    type Handle: Copy;

    /// Returns the value of the variable with this number.
    fn slot(&self, index: usize) -> Operand<'a, Self::Handle>;

    /// Returns how many items or members a list or map has.
    fn length(&self, container: Self::Handle) -> usize;

    /// Returns an item of a list, [`Operand::Missing`] beyond its end.
    fn item(&self, list: Self::Handle, index: usize) -> Operand<'a, Self::Handle>;

    /// Returns a member of a map, [`Operand::Missing`] if it has none of this name.
    fn member(&self, map: Self::Handle, name: &str) -> Operand<'a, Self::Handle>;

    /// Shows every member of a map to `visit`, a member whose key is not text as [`Operand::Unreadable`].
    fn members(&self, map: Self::Handle, visit: &mut dyn FnMut(&'a str, Operand<'a, Self::Handle>));
}

impl<'a> From<&'a Value> for Operand<'a, &'a Value> {
    fn from(value: &'a Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Bool(value) => Self::Bool(*value),
            Value::Int(number) => Self::Int(*number),
            Value::Uint(number) => Self::Uint(*number),
            Value::Float(number) => Self::Double(*number),
            Value::String(text) => Self::Text(text),
            Value::Array(_) => Self::List(value),
            Value::Object(_) => Self::Map(value),
        }
    }
}

/// A scope over JSON values: one operand per variable.
#[derive(Debug, Clone, Copy)]
pub struct JsonScope<'s, 'a> {
    /// The values of the variables, in the order in which they were declared.
    pub slots: &'s [Operand<'a, &'a Value>],
}

impl<'a> Scope<'a> for JsonScope<'_, 'a> {
    type Handle = &'a Value;

    #[inline]
    fn slot(&self, index: usize) -> Operand<'a, &'a Value> {
        self.slots.get(index).copied().unwrap_or(Operand::Missing)
    }

    fn length(&self, container: &'a Value) -> usize {
        match container {
            Value::Array(items) => items.len(),
            Value::Object(object) => object.len(),
            _ => 0,
        }
    }

    fn item(&self, list: &'a Value, index: usize) -> Operand<'a, &'a Value> {
        list.as_array().and_then(|items| items.get(index)).map_or(Operand::Missing, Operand::from)
    }

    fn member(&self, map: &'a Value, name: &str) -> Operand<'a, &'a Value> {
        map.get(name).map_or(Operand::Missing, Operand::from)
    }

    fn members(&self, map: &'a Value, visit: &mut dyn FnMut(&'a str, Operand<'a, &'a Value>)) {
        if let Some(object) = map.as_object() {
            object.iter().for_each(|(name, value)| visit(name, Operand::from(value)));
        }
    }
}
