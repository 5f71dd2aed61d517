//! The members of a report's objects: counts that are whole and bounded, or an error with their path.

use crate::json::{Object, Value};
use crate::usage::{MOST, UsageError};

/// An object of a report, and where it stands.
pub(super) struct Members<'a> {
    path: String,
    object: Option<&'a Object>,
}

impl<'a> Members<'a> {
    /// The reply itself.
    pub(super) fn root(reply: &'a Value) -> Result<Self, UsageError> {
        Self::of(reply, String::new())
    }

    fn of(value: &'a Value, path: String) -> Result<Self, UsageError> {
        match value {
            Value::Object(object) => Ok(Self { path, object: Some(object) }),
            other => Err(UsageError::Type {
                path: if path.is_empty() { "the reply".to_owned() } else { path },
                found: other.type_name(),
                expected: "object",
            }),
        }
    }

    /// The path of a member.
    pub(super) fn at(&self, name: &str) -> String {
        if self.path.is_empty() { short(name) } else { format!("{}.{}", self.path, short(name)) }
    }

    /// A member; `null` is none.
    fn get(&self, name: &str) -> Option<&'a Value> {
        self.object?.get(name).filter(|value| !matches!(value, Value::Null))
    }

    /// The names of all members.
    pub(super) fn names(&self) -> impl Iterator<Item = &'a str> {
        self.object.into_iter().flat_map(|object| object.iter().map(|(name, _)| name))
    }

    /// A count, if it is there.
    pub(super) fn count(&self, name: &str) -> Result<Option<u64>, UsageError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let count = match value {
            Value::Int(number) => {
                u64::try_from(*number).map_err(|_negative| UsageError::Negative(self.at(name)))?
            }
            Value::Uint(_) => return Err(UsageError::TooLarge(self.at(name))),
            Value::Float(_) => return Err(UsageError::Fraction(self.at(name))),
            other => {
                return Err(UsageError::Type {
                    path: self.at(name),
                    found: other.type_name(),
                    expected: "number",
                });
            }
        };
        if count > MOST {
            return Err(UsageError::TooLarge(self.at(name)));
        }
        Ok(Some(count))
    }

    /// A count, zero where it is not there.
    pub(super) fn or_zero(&self, name: &str) -> Result<u64, UsageError> {
        self.count(name).map(Option::unwrap_or_default)
    }

    /// A count that every report has.
    pub(super) fn required(&self, name: &str) -> Result<u64, UsageError> {
        self.count(name)?.ok_or_else(|| UsageError::Missing(self.at(name)))
    }

    /// A text, if it is there.
    pub(super) fn text(&self, name: &str) -> Result<Option<&'a str>, UsageError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        match value.as_str() {
            Some(text) => Ok(Some(text)),
            None => {
                Err(UsageError::Type { path: self.at(name), found: value.type_name(), expected: "string" })
            }
        }
    }

    /// An object; one without members where it is not there.
    pub(super) fn object(&self, name: &str) -> Result<Members<'a>, UsageError> {
        match self.get(name) {
            None => Ok(Members { path: self.at(name), object: None }),
            Some(value) => Self::of(value, self.at(name)),
        }
    }

    /// An object that every report has.
    pub(super) fn required_object(&self, name: &str) -> Result<Members<'a>, UsageError> {
        let found = self.object(name)?;
        if found.is_there() { Ok(found) } else { Err(UsageError::Missing(self.at(name))) }
    }

    /// Whether there is such an object at all.
    pub(super) const fn is_there(&self) -> bool {
        self.object.is_some()
    }

    /// The objects of a list; none where it is not there.
    pub(super) fn list(&self, name: &str) -> Result<Vec<Members<'a>>, UsageError> {
        let Some(value) = self.get(name) else { return Ok(Vec::new()) };
        let Some(items) = value.as_array() else {
            return Err(UsageError::Type {
                path: self.at(name),
                found: value.type_name(),
                expected: "array",
            });
        };
        items
            .iter()
            .enumerate()
            .map(|(place, item)| Self::of(item, format!("{}[{place}]", self.at(name))))
            .collect()
    }

    /// How many items a list has; none where it is not there.
    pub(super) fn length(&self, name: &str) -> u64 {
        self.get(name).and_then(Value::as_array).map_or(0, |items| items.len() as u64)
    }

    /// Notes the members that count something and are not among those that are read.
    pub(super) fn note_others(&self, read: &[&str], unread: &mut Vec<String>) {
        for (name, value) in self.object.into_iter().flat_map(Object::iter) {
            let counts = match value {
                Value::Int(number) => *number != 0,
                Value::Uint(_) => true,
                Value::Float(number) => *number != 0.0,
                _ => false,
            };
            if counts && !read.contains(&name) {
                unread.push(self.at(name));
            }
        }
    }
}

/// Somebody else's name, made harmless and short for a message.
pub(super) fn short(name: &str) -> String {
    name.chars().take(64).flat_map(char::escape_debug).collect()
}
