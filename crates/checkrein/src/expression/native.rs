//! The closed tree of the common subset: compiled once, evaluated without allocation.
//!
//! It gives what the `cel` crate gives, value or error, which a differential test proves over random
//! expressions. Whatever is rare (equality of whole lists, joined lists, doubles as an index) ends in
//! [`FaultKind::NeedsGeneral`], and the general evaluation takes over.

use std::cmp::Ordering;

use regex::Regex;

use super::error::Span;
use super::scope::{Operand, Scope};

/// A part of the tree and the token it was parsed from.
#[derive(Debug)]
pub(super) struct Term {
    pub(super) span: Span,
    pub(super) kind: Kind,
}

#[derive(Debug)]
pub(super) enum Kind {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    Text(Box<str>),
    Bytes(Box<[u8]>),
    Slot(usize),
    Member(Box<Term>, Box<str>),
    Index(Box<Term>, Box<Term>),
    HasSlot(usize),
    HasMember(Box<Term>, Box<str>),
    Not(Box<Term>),
    Negate(Box<Term>),
    And(Box<Term>, Box<Term>),
    Or(Box<Term>, Box<Term>),
    Conditional(Box<[Term; 3]>),
    Equal(Box<Term>, Box<Term>),
    NotEqual(Box<Term>, Box<Term>),
    Compare(Comparison, Box<Term>, Box<Term>),
    Arithmetic(Arithmetic, Box<Term>, Box<Term>),
    InItems(Box<Term>, Box<[Term]>),
    In(Box<Term>, Box<Term>),
    Size(Box<Term>),
    TextTest(TextTest, Box<Term>, Box<Term>),
    Matches(Box<Term>, Box<Regex>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Comparison {
    pub(super) fn accepts(self, ordering: Ordering) -> bool {
        match self {
            Self::Less => ordering.is_lt(),
            Self::LessOrEqual => ordering.is_le(),
            Self::Greater => ordering.is_gt(),
            Self::GreaterOrEqual => ordering.is_ge(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arithmetic {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TextTest {
    StartsWith,
    EndsWith,
    Contains,
}

/// Why a part has no value, and which part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) kind: FaultKind,
    pub(super) span: Span,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FaultKind {
    MissingVariable,
    NoSuchMember,
    Unreadable,
    OutOfBounds,
    Overflow,
    DivisionByZero,
    NotANumber,
    NotBoolean(Type),
    NotText(Type),
    WrongType(Type),
    WrongTypes(Type, Type),
    /// The value may exist; the general evaluation has to say.
    NeedsGeneral,
}

/// The type of a value, for messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    Null,
    Bool,
    Int,
    Uint,
    Double,
    String,
    Bytes,
    List,
    Map,
}

impl Type {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool => "bool",
            Self::Int => "int",
            Self::Uint => "uint",
            Self::Double => "double",
            Self::String => "string",
            Self::Bytes => "bytes",
            Self::List => "list",
            Self::Map => "map",
        }
    }

    pub(super) fn of<H>(operand: &Operand<'_, H>) -> Self {
        match operand {
            Operand::Bool(_) => Self::Bool,
            Operand::Int(_) => Self::Int,
            Operand::Uint(_) => Self::Uint,
            Operand::Double(_) => Self::Double,
            Operand::Text(_) => Self::String,
            Operand::Bytes(_) => Self::Bytes,
            Operand::List(_) => Self::List,
            Operand::Map(_) => Self::Map,
            // The two that are no values never leave `readable`.
            Operand::Null | Operand::Missing | Operand::Unreadable => Self::Null,
        }
    }
}

pub(super) type Evaluated<'e, H> = Result<Operand<'e, H>, Fault>;

impl Term {
    pub(super) fn fault<T>(&self, kind: FaultKind) -> Result<T, Fault> {
        Err(Fault { kind, span: self.span })
    }

    #[inline]
    fn readable<'e, H>(&self, operand: Operand<'e, H>, missing: FaultKind) -> Evaluated<'e, H> {
        match operand {
            Operand::Missing => self.fault(missing),
            Operand::Unreadable => self.fault(FaultKind::Unreadable),
            operand => Ok(operand),
        }
    }

    /// Evaluates to a value; variables and literals, the leaves of most rules, without a call.
    #[inline]
    fn leaf<'e, 'a: 'e, S: Scope<'a>>(&'e self, scope: &S) -> Evaluated<'e, S::Handle> {
        match &self.kind {
            Kind::Slot(slot) => self.readable(scope.slot(*slot), FaultKind::MissingVariable),
            Kind::Int(number) => Ok(Operand::Int(*number)),
            Kind::Text(text) => Ok(Operand::Text(text)),
            _ => self.value(scope),
        }
    }

    /// Evaluates to a value.
    pub(super) fn value<'e, 'a: 'e, S: Scope<'a>>(&'e self, scope: &S) -> Evaluated<'e, S::Handle> {
        Ok(match &self.kind {
            Kind::Slot(slot) => {
                return self.readable(scope.slot(*slot), FaultKind::MissingVariable);
            }
            Kind::Null => Operand::Null,
            Kind::Bool(value) => Operand::Bool(*value),
            Kind::Int(number) => Operand::Int(*number),
            Kind::Uint(number) => Operand::Uint(*number),
            Kind::Double(number) => Operand::Double(*number),
            Kind::Text(text) => Operand::Text(text),
            Kind::Bytes(bytes) => Operand::Bytes(bytes),
            Kind::Member(of, name) => match of.leaf(scope)? {
                Operand::Map(map) => {
                    return self.readable(scope.member(map, name), FaultKind::NoSuchMember);
                }
                other => return self.fault(FaultKind::WrongType(Type::of(&other))),
            },
            Kind::Index(of, index) => return self.index(of.leaf(scope)?, index.leaf(scope)?, scope),
            Kind::Negate(of) => match of.value(scope)? {
                Operand::Int(number) => match number.checked_neg() {
                    Some(number) => Operand::Int(number),
                    None => return self.fault(FaultKind::Overflow),
                },
                Operand::Double(number) => Operand::Double(-number),
                other => return self.fault(FaultKind::WrongType(Type::of(&other))),
            },
            Kind::Conditional(parts) => {
                let [condition, yes, no] = &**parts;
                return if condition.truth(scope)? { yes.value(scope) } else { no.value(scope) };
            }
            Kind::Arithmetic(operator, left, right) => {
                return self.arithmetic(*operator, left.leaf(scope)?, right.leaf(scope)?);
            }
            Kind::Size(of) => Operand::Int(self.size(of.leaf(scope)?, scope)?),
            _ => Operand::Bool(self.truth(scope)?),
        })
    }

    /// Evaluates to a boolean; another value is a fault.
    #[inline]
    pub(super) fn truth<'e, 'a: 'e, S: Scope<'a>>(&'e self, scope: &S) -> Result<bool, Fault> {
        match self.at_once(scope) {
            Some(value) => Ok(value),
            None => self.truth_of_any(scope),
        }
    }

    fn truth_of_any<'e, 'a: 'e, S: Scope<'a>>(&'e self, scope: &S) -> Result<bool, Fault> {
        match &self.kind {
            Kind::Compare(operator, left, right) => {
                let (left, right) = (left.leaf(scope)?, right.leaf(scope)?);
                Ok(operator.accepts(self.compare(&left, &right)?))
            }
            Kind::Equal(left, right) => self.equal(&left.leaf(scope)?, &right.leaf(scope)?),
            Kind::NotEqual(left, right) => {
                self.equal(&left.leaf(scope)?, &right.leaf(scope)?).map(|equal| !equal)
            }
            Kind::And(left, right) => absorb(left.truth(scope), false, || right.truth(scope)),
            Kind::Or(left, right) => absorb(left.truth(scope), true, || right.truth(scope)),
            Kind::Not(of) => Ok(!of.truth(scope)?),
            Kind::HasSlot(slot) => match scope.slot(*slot) {
                Operand::Missing => Ok(false),
                operand => self.readable(operand, FaultKind::Unreadable).map(|_| true),
            },
            Kind::HasMember(of, name) => match of.leaf(scope)? {
                Operand::Map(map) => match scope.member(map, name) {
                    Operand::Missing => Ok(false),
                    operand => self.readable(operand, FaultKind::Unreadable).map(|_| true),
                },
                other => self.fault(FaultKind::WrongType(Type::of(&other))),
            },
            Kind::InItems(needle, items) => {
                let needle = needle.leaf(scope)?;
                // CEL builds the list first: an item that has no value is an error wherever it stands.
                items.iter().try_fold(false, |found, item| {
                    let item = item.leaf(scope)?;
                    Ok(self.equal(&item, &needle)? || found)
                })
            }
            Kind::In(needle, container) => self.contains(&needle.leaf(scope)?, container.leaf(scope)?, scope),
            Kind::TextTest(test, text, part) => match (text.leaf(scope)?, part.leaf(scope)?) {
                (Operand::Text(text), Operand::Text(part)) => Ok(match test {
                    TextTest::StartsWith => text.starts_with(part),
                    TextTest::EndsWith => text.ends_with(part),
                    TextTest::Contains => text.contains(part),
                }),
                (left, right) => self.fault(FaultKind::WrongTypes(Type::of(&left), Type::of(&right))),
            },
            Kind::Matches(text, pattern) => match text.leaf(scope)? {
                Operand::Text(text) => Ok(pattern.is_match(text)),
                other => self.fault(FaultKind::WrongType(Type::of(&other))),
            },
            _ => match self.value(scope)? {
                Operand::Bool(value) => Ok(value),
                other => self.fault(FaultKind::NotBoolean(Type::of(&other))),
            },
        }
    }

    #[inline(never)]
    fn contains<'a, S: Scope<'a>>(
        &self,
        needle: &Operand<'_, S::Handle>,
        container: Operand<'_, S::Handle>,
        scope: &S,
    ) -> Result<bool, Fault> {
        match container {
            Operand::List(list) => {
                let mut found = false;
                for place in 0..scope.length(list) {
                    let item = self.readable(scope.item(list, place), FaultKind::OutOfBounds)?;
                    found = self.equal(&item, needle)? || found;
                }
                Ok(found)
            }
            Operand::Map(map) => match needle {
                Operand::Text(name) => Ok(!matches!(scope.member(map, name), Operand::Missing)),
                _ => self.fault(FaultKind::NeedsGeneral),
            },
            other => self.fault(FaultKind::WrongTypes(Type::of(needle), Type::of(&other))),
        }
    }

    #[inline(never)]
    fn index<'e, 'a: 'e, S: Scope<'a>>(
        &self,
        of: Operand<'e, S::Handle>,
        index: Operand<'e, S::Handle>,
        scope: &S,
    ) -> Evaluated<'e, S::Handle> {
        let place = match (&of, &index) {
            (Operand::Map(map), Operand::Text(name)) => {
                return self.readable(scope.member(*map, name), FaultKind::NoSuchMember);
            }
            (Operand::List(_), Operand::Int(index)) => usize::try_from(*index),
            (Operand::List(_), Operand::Uint(index)) => usize::try_from(*index),
            (Operand::List(_) | Operand::Map(_), _) => return self.fault(FaultKind::NeedsGeneral),
            _ => return self.fault(FaultKind::WrongTypes(Type::of(&of), Type::of(&index))),
        };
        match (of, place) {
            (Operand::List(list), Ok(place)) if place < scope.length(list) => {
                self.readable(scope.item(list, place), FaultKind::OutOfBounds)
            }
            _ => self.fault(FaultKind::OutOfBounds),
        }
    }

    #[inline(never)]
    fn size<'a, S: Scope<'a>>(&self, of: Operand<'_, S::Handle>, scope: &S) -> Result<i64, Fault> {
        let size = match of {
            Operand::Text(text) => text.chars().count(),
            Operand::Bytes(bytes) => bytes.len(),
            Operand::List(container) | Operand::Map(container) => scope.length(container),
            other => return self.fault(FaultKind::WrongType(Type::of(&other))),
        };
        i64::try_from(size).or_else(|_| self.fault(FaultKind::Overflow))
    }
}

/// Combines two booleans as CEL does: `decisive` decides whatever the other side is, even an error on the left.
#[inline]
fn absorb(
    left: Result<bool, Fault>,
    decisive: bool,
    right: impl FnOnce() -> Result<bool, Fault>,
) -> Result<bool, Fault> {
    match left {
        Ok(left) if left == decisive => Ok(decisive),
        Ok(_) => right(),
        Err(fault) if fault.kind == FaultKind::NeedsGeneral => Err(fault),
        Err(fault) => match right()? {
            right if right == decisive => Ok(decisive),
            _ => Err(fault),
        },
    }
}
