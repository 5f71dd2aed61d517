//! The expressions of a policy file, each text compiled once.

use std::collections::HashMap;
use std::sync::Arc;

use super::shape::Text;
use crate::expression::{Expression, ExpressionError, JsonScope, Outcome};

/// What expressions of a policy file may read, in the order of the slots of their scopes.
///
/// `args` is the value of the arguments; `action.*` is text and missing where the action has none; `now` is whole
/// seconds since 1970.
pub const VARIABLES: [&str; 11] = [
    "args",
    "action.namespace",
    "action.name",
    "action.principal",
    "action.tenant",
    "action.user",
    "action.agent",
    "action.run",
    "action.session",
    "run.id",
    "now",
];

/// Expressions by their text.
#[derive(Debug, Default)]
pub(super) struct Expressions {
    known: HashMap<String, Result<Arc<Expression>, ExpressionError>>,
}

impl Expressions {
    /// Compiles a text, or finds it among those that were compiled.
    pub(super) fn compile(&mut self, form: Text, text: &str) -> Result<Arc<Expression>, ExpressionError> {
        let compiled = match self.known.get(text) {
            Some(known) => known.clone(),
            None => {
                let compiled = Expression::compile(text, &VARIABLES).map(Arc::new);
                self.known.insert(text.to_owned(), compiled.clone());
                compiled
            }
        }?;
        if compiled.reads().next().is_none() {
            constant(form, &compiled)?;
        }
        Ok(compiled)
    }
}

/// An expression that reads nothing has its value now, so that what is wrong with it is known now.
fn constant(form: Text, expression: &Expression) -> Result<(), ExpressionError> {
    let whole = 0..expression.text().len();
    let refused = |code, span, message: String| ExpressionError { code, span, message, hint: None };
    let outcome = expression
        .evaluate(&JsonScope { slots: &[] })
        .map_err(|error| refused(error.code, error.span, error.message))?;
    let (fits, code, wanted) = match form {
        Text::Condition => (matches!(outcome, Outcome::Bool(_)), "expression_not_boolean", "a boolean"),
        Text::Key => (matches!(outcome, Outcome::Text(_)), "expression_not_text", "text"),
        _ => (
            matches!(outcome, Outcome::Uint(_) | Outcome::Int(0..)),
            "expression_not_integer",
            "a whole number, zero or more",
        ),
    };
    if fits {
        return Ok(());
    }
    Err(refused(code, whole, format!("the expression gives {}, not {wanted}", outcome.type_name())))
}
