//! The value a document denotes, owned, with objects that keep the order in which they were written.

use crate::canonical_json::{compare_keys, same_number};

/// A JSON value.
///
/// Two values are equal exactly when their canonical forms are: `1`, `1.0` and `1e0` are one number, and the
/// order of an object's members does not count. Values nest at most [`crate::json::MAX_DEPTH`] deep when they
/// come from the reader; however deep one was built, dropping it does not recurse.
#[derive(Debug, Clone, Default)]
pub enum Value {
    /// `null`.
    #[default]
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// An integer that fits `i64`.
    Int(i64),
    /// An integer above `i64::MAX` that fits `u64`. Smaller ones are always [`Value::Int`].
    Uint(u64),
    /// A number written with a fraction or an exponent. Always finite when it comes from the reader.
    Float(f64),
    /// A string of Unicode scalar values, never normalised.
    String(String),
    /// An array.
    Array(Vec<Value>),
    /// An object.
    Object(Object),
}

impl Value {
    /// Returns the integer `number` in its only form: `Int` wherever it fits.
    #[must_use]
    pub fn from_u64(number: u64) -> Self {
        i64::try_from(number).map_or(Self::Uint(number), Self::Int)
    }

    /// Returns the member of an object, or nothing if this is no object or has no such member.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Value> {
        match self {
            Self::Object(object) => object.get(key),
            _ => None,
        }
    }

    /// Returns the text of a string.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// Returns the members of an object.
    #[must_use]
    pub fn as_object(&self) -> Option<&Object> {
        match self {
            Self::Object(object) => Some(object),
            _ => None,
        }
    }

    /// Returns the items of an array.
    #[must_use]
    pub fn as_array(&self) -> Option<&[Value]> {
        match self {
            Self::Array(items) => Some(items),
            _ => None,
        }
    }

    /// Returns the word for the type of this value, for messages.
    #[must_use]
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "boolean",
            Self::Int(_) | Self::Uint(_) | Self::Float(_) => "number",
            Self::String(_) => "string",
            Self::Array(_) => "array",
            Self::Object(_) => "object",
        }
    }

    fn is_nested(&self) -> bool {
        match self {
            Self::Array(items) => items.iter().any(Self::is_container),
            Self::Object(object) => object.members.iter().any(|(_, value)| value.is_container()),
            _ => false,
        }
    }

    fn is_container(&self) -> bool {
        matches!(self, Self::Array(_) | Self::Object(_))
    }

    fn take_children(&mut self, into: &mut Vec<Value>) {
        match self {
            Self::Array(items) => into.append(items),
            Self::Object(object) => {
                into.extend(std::mem::take(&mut object.members).into_iter().map(|(_, value)| value));
            }
            _ => {}
        }
    }
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Null, Self::Null) => true,
            (Self::Bool(left), Self::Bool(right)) => left == right,
            (Self::String(left), Self::String(right)) => left == right,
            (Self::Array(left), Self::Array(right)) => left == right,
            (Self::Object(left), Self::Object(right)) => left == right,
            (
                Self::Int(_) | Self::Uint(_) | Self::Float(_),
                Self::Int(_) | Self::Uint(_) | Self::Float(_),
            ) => same_number(self, other),
            _ => false,
        }
    }
}

impl Drop for Value {
    /// Takes nested containers apart in a loop, because the derived drop would use one stack frame per level.
    fn drop(&mut self) {
        if !self.is_nested() {
            return;
        }
        let mut pending = Vec::new();
        self.take_children(&mut pending);
        while let Some(mut value) = pending.pop() {
            value.take_children(&mut pending);
        }
    }
}

/// The members of a JSON object, in the order they were written, each key once.
#[derive(Debug, Clone, Default)]
pub struct Object {
    members: Vec<(String, Value)>,
    /// Positions in `members`, by key in UTF-16 code unit order: the order of RFC 8785, also used to look up.
    sorted: Vec<usize>,
}

/// Two members of one object have the same key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("key `{}` repeats", key.escape_debug())]
pub struct DuplicateKey {
    /// The position of the first member that repeats a key of an earlier one.
    pub index: usize,
    /// The key, cut to a printable length.
    pub key: String,
}

impl Object {
    /// Builds an object from members in order.
    ///
    /// # Errors
    /// If a key occurs twice.
    pub fn from_members(members: Vec<(String, Value)>) -> Result<Self, DuplicateKey> {
        let mut sorted: Vec<usize> = (0..members.len()).collect();
        sorted.sort_unstable_by(|left, right| {
            compare_keys(key_at(&members, *left), key_at(&members, *right)).then(left.cmp(right))
        });
        let repeated = sorted
            .iter()
            .zip(sorted.iter().skip(1))
            .filter(|(left, right)| key_at(&members, **left) == key_at(&members, **right))
            .map(|(_, right)| *right)
            .min();
        match repeated {
            Some(index) => {
                Err(DuplicateKey { index, key: key_at(&members, index).chars().take(64).collect() })
            }
            None => Ok(Self { members, sorted }),
        }
    }

    /// Returns the value of `key`.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Value> {
        if self.members.len() <= 8 {
            return self.members.iter().find(|(name, _)| name == key).map(|(_, value)| value);
        }
        let place =
            self.sorted.binary_search_by(|index| compare_keys(key_at(&self.members, *index), key)).ok()?;
        let index = *self.sorted.get(place)?;
        self.members.get(index).map(|(_, value)| value)
    }

    /// Returns how many members there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Says whether there are no members.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Returns the members in the order they were written.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.members.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// Returns the member at a position of the canonical order.
    #[must_use]
    pub fn sorted_at(&self, place: usize) -> Option<(&str, &Value)> {
        let index = *self.sorted.get(place)?;
        self.members.get(index).map(|(key, value)| (key.as_str(), value))
    }

    /// Takes the members out, in the order they were written.
    #[must_use]
    pub fn into_members(self) -> Vec<(String, Value)> {
        self.members
    }
}

impl PartialEq for Object {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len()
            && (0..self.len()).all(|place| self.sorted_at(place) == other.sorted_at(place))
    }
}

fn key_at(members: &[(String, Value)], index: usize) -> &str {
    members.get(index).map_or("", |(key, _)| key.as_str())
}
