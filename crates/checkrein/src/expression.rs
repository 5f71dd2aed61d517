//! Policy expressions: CEL text, compiled once; the common subset runs natively.
//!
//! CEL is the expression language of the policy: `args.amount <= 100`, `'refund:' + args.payment_id`. The
//! semantics are those of the `cel` crate, errors included. An expression is checked and bounded when it is
//! loaded; what belongs to the common subset (selections, comparisons, logic, arithmetic, `in`, `size`,
//! `has`, text tests, literal patterns) becomes a native tree that is evaluated on the scope directly,
//! without allocation; anything else is converted and evaluated by the `cel` crate within the bounds.
//!
//! An evaluation error is a value of its own, never `false`: the caller refuses.

mod bounds;
#[cfg(test)]
mod differential;
mod error;
mod general;
mod lookalike;
mod lower;
mod names;
mod native;
mod operators;
mod parse;
mod scope;
mod shortcut;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::ops::Range;

pub use bounds::Bounds;
pub use error::{EvaluationError, ExpressionError};
pub use lookalike::lookalike_form;
pub use scope::{JsonScope, Operand, Scope};

pub(crate) use error::nearest;
pub(crate) use lookalike::lookalike_value;
pub(crate) use parse::with_room;

use general::General;
use lower::{Lowering, Native};
use names::{Names, Source, Variables};
use native::{Fault, FaultKind, Term, Type};

/// A compiled expression.
#[derive(Debug)]
pub struct Expression {
    text: Box<str>,
    variables: Variables,
    reads: BTreeSet<usize>,
    native: Option<Native>,
    general: General,
}

/// What an expression evaluates to.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// `null`.
    Null,
    /// A boolean.
    Bool(bool),
    /// A signed integer.
    Int(i64),
    /// An unsigned integer.
    Uint(u64),
    /// A double.
    Double(f64),
    /// Text.
    Text(String),
    /// A value of another type, which no gate has a use for.
    Other(&'static str),
}

impl Outcome {
    /// Returns the word for the type, for messages.
    #[must_use]
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Uint(_) => "uint",
            Self::Double(_) => "double",
            Self::Text(_) => "string",
            Self::Other(name) => name,
        }
    }
}

impl Expression {
    /// Compiles `text`, which may read `variables`, within the default bounds.
    ///
    /// The slots of a scope are numbered as the variables are here. A dotted variable such as `args.amount`
    /// declares a member of the map `args`.
    ///
    /// # Errors
    /// If the text does not parse, exceeds a bound, or names a variable or function that does not exist.
    pub fn compile(text: &str, variables: &[&str]) -> Result<Self, ExpressionError> {
        Self::compile_within(text, variables, &Bounds::default())
    }

    /// Compiles `text` within the given bounds.
    ///
    /// # Errors
    /// As for [`Expression::compile`].
    pub fn compile_within(text: &str, variables: &[&str], bounds: &Bounds) -> Result<Self, ExpressionError> {
        Self::compiled(text, variables, bounds, false)
    }

    /// Compiles `text` for a scope whose texts are in their [`lookalike_form`]: the literals of the text are too.
    ///
    /// # Errors
    /// As for [`Expression::compile`]; and if it matches a pattern, which has no such form.
    pub fn compile_lookalike(text: &str, variables: &[&str]) -> Result<Self, ExpressionError> {
        Self::compiled(text, variables, &Bounds::default(), true)
    }

    fn compiled(
        text: &str,
        variables: &[&str],
        bounds: &Bounds,
        folds: bool,
    ) -> Result<Self, ExpressionError> {
        bounds.check_text(text)?;
        let variables = Variables::new(variables);
        parse::parsed(text, |mut tree, info| {
            if folds {
                lookalike::fold_literals(&mut tree, text.len())?;
            }
            let list_bound = bounds.check_tree(&tree, text.len())?;
            let source = Source { text, info: &info };
            let mut names =
                Names { variables: &variables, source: &source, bound: Vec::new(), reads: BTreeSet::new() };
            names.check(&tree)?;
            let reads = names.reads;
            let native = Lowering { variables: &variables, source: &source }.whole(&tree);
            let general = General::new(tree, &source, list_bound, bounds.input_nodes)?;
            Ok(Self { text: text.into(), variables: variables.clone(), reads, native, general })
        })
    }

    /// Returns the text it was compiled from.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Returns the numbers of the variables the expression reads, in order.
    pub fn reads(&self) -> impl Iterator<Item = usize> {
        self.reads.iter().copied()
    }

    /// Returns the names of the variables the expression reads, in the order they were declared.
    pub fn variables(&self) -> impl Iterator<Item = &str> {
        self.reads.iter().filter_map(|slot| self.variables.names.get(*slot)).map(AsRef::as_ref)
    }

    /// Says whether the expression belongs to the subset that is evaluated natively.
    #[must_use]
    pub fn is_native(&self) -> bool {
        self.native.is_some()
    }

    /// Evaluates to a value.
    ///
    /// # Errors
    /// If there is none: a missing variable, a wrong type, an overflow, an input beyond the bounds.
    pub fn evaluate<'a, S: Scope<'a>>(&self, scope: &S) -> Result<Outcome, EvaluationError> {
        let result = match &self.native {
            Some(Native::Value(term)) => term.value(scope).map(|operand| match operand {
                Operand::Bool(value) => Outcome::Bool(value),
                Operand::Int(number) => Outcome::Int(number),
                Operand::Uint(number) => Outcome::Uint(number),
                Operand::Double(number) => Outcome::Double(number),
                Operand::Text(text) => Outcome::Text(text.to_owned()),
                Operand::Bytes(_) => Outcome::Other("bytes"),
                Operand::List(_) => Outcome::Other("list"),
                Operand::Map(_) => Outcome::Other("map"),
                Operand::Null | Operand::Missing | Operand::Unreadable => Outcome::Null,
            }),
            Some(Native::Join(parts)) => join(parts, scope).map(Outcome::Text),
            None => return self.evaluate_generally(scope),
        };
        self.settled(result, scope)
    }

    /// Evaluates a rule or condition.
    ///
    /// # Errors
    /// If there is no value, or one that is not a boolean.
    #[inline]
    pub fn test<'a, S: Scope<'a>>(&self, scope: &S) -> Result<bool, EvaluationError> {
        let outcome = match &self.native {
            Some(Native::Value(term)) => match term.truth(scope) {
                Ok(value) => return Ok(value),
                result => self.settled(result.map(Outcome::Bool), scope)?,
            },
            _ => self.evaluate(scope)?,
        };
        match outcome {
            Outcome::Bool(value) => Ok(value),
            other => Err(self.wrong("expression_not_boolean", &other, "a boolean")),
        }
    }

    /// Evaluates a key.
    ///
    /// # Errors
    /// If there is no value, or one that is not text.
    pub fn key<'a, S: Scope<'a>>(&self, scope: &S) -> Result<String, EvaluationError> {
        match self.evaluate(scope)? {
            Outcome::Text(text) => Ok(text),
            other => Err(self.wrong("expression_not_text", &other, "text; `string(...)` makes it one")),
        }
    }

    /// Evaluates a cost, in nano-USD.
    ///
    /// # Errors
    /// If there is no value, or one that is not an integer, or a negative one.
    pub fn cost_nano_usd<'a, S: Scope<'a>>(&self, scope: &S) -> Result<u64, EvaluationError> {
        let outcome = self.evaluate(scope)?;
        match outcome {
            Outcome::Uint(cost) => Ok(cost),
            Outcome::Int(cost) => u64::try_from(cost).map_err(|_| {
                EvaluationError::new("expression_negative_cost", 0..self.text.len(), "the cost is negative")
            }),
            other => Err(self.wrong("expression_not_integer", &other, "an integer of nano-USD")),
        }
    }

    /// Completes a native result: a fault becomes an error, or the general evaluation decides.
    fn settled<'a, S: Scope<'a>>(
        &self,
        result: Result<Outcome, Fault>,
        scope: &S,
    ) -> Result<Outcome, EvaluationError> {
        match result {
            Ok(outcome) => Ok(outcome),
            Err(fault) if fault.kind == FaultKind::NeedsGeneral => self.evaluate_generally(scope),
            Err(fault) => Err(self.describe(fault)),
        }
    }

    #[cold]
    fn evaluate_generally<'a, S: Scope<'a>>(&self, scope: &S) -> Result<Outcome, EvaluationError> {
        self.general.evaluate(&self.variables, &self.reads, scope, self.text.len())
    }

    #[cold]
    fn wrong(&self, code: &'static str, outcome: &Outcome, wanted: &str) -> EvaluationError {
        let message = format!("the expression gives {}, not {wanted}", outcome.type_name());
        EvaluationError::new(code, 0..self.text.len(), message)
    }

    #[cold]
    fn describe(&self, fault: Fault) -> EvaluationError {
        let span = Range::from(fault.span);
        let place = self.text.get(span.clone()).unwrap_or_default();
        let (code, message) = match fault.kind {
            FaultKind::MissingVariable => ("expression_missing_variable", format!("`{place}` is missing")),
            FaultKind::NoSuchMember => ("expression_no_such_member", format!("`{place}` is missing")),
            FaultKind::Unreadable => {
                ("expression_unreadable", format!("`{place}` is something that expressions do not work with"))
            }
            FaultKind::OutOfBounds => {
                ("expression_out_of_bounds", "an index beyond the end of the list".to_owned())
            }
            FaultKind::Overflow => {
                ("expression_overflow", format!("the result of `{place}` exceeds 64 bits"))
            }
            FaultKind::DivisionByZero => ("expression_division_by_zero", "a division by zero".to_owned()),
            FaultKind::NotANumber => ("expression_type_error", format!("`{place}` cannot order NaN")),
            FaultKind::NotBoolean(found) => {
                ("expression_not_boolean", format!("`{place}` is {}, not a boolean", found.name()))
            }
            FaultKind::NotText(found) => {
                ("expression_type_error", format!("`{place}` is {}, not text", found.name()))
            }
            FaultKind::WrongType(found) => {
                ("expression_type_error", format!("`{place}` does not take {}", found.name()))
            }
            FaultKind::WrongTypes(left, right) => (
                "expression_type_error",
                format!("`{place}` does not take {} and {}", left.name(), right.name()),
            ),
            FaultKind::NeedsGeneral => ("expression_failed", "the evaluation failed".to_owned()),
        };
        EvaluationError::new(code, span, message)
    }
}

/// Joins text; every part must be text.
fn join<'a, S: Scope<'a>>(parts: &[Term], scope: &S) -> Result<String, Fault> {
    let mut joined = String::new();
    for part in parts {
        match part.value(scope)? {
            Operand::Text(text) => joined.push_str(text),
            // Only the operator knows its name; which part is wrong says more.
            other => return Err(Fault { kind: FaultKind::NotText(Type::of(&other)), span: part.span }),
        }
    }
    Ok(joined)
}
