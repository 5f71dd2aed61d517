//! Comparison, equality and arithmetic as the `cel` crate defines them for each pair of types.

use std::cmp::Ordering;

use super::native::{Arithmetic, Evaluated, Fault, FaultKind, Term, Type};
use super::scope::Operand;

impl Term {
    #[inline(never)]
    pub(super) fn compare<H>(
        &self,
        left: &Operand<'_, H>,
        right: &Operand<'_, H>,
    ) -> Result<Ordering, Fault> {
        let ordering = match (left, right) {
            (Operand::Int(left), Operand::Int(right)) => Some(left.cmp(right)),
            (Operand::Text(left), Operand::Text(right)) => Some(left.cmp(right)),
            (Operand::Bool(left), Operand::Bool(right)) => Some(left.cmp(right)),
            (Operand::Bytes(left), Operand::Bytes(right)) => Some(left.cmp(right)),
            _ => match compare_numbers(left, right) {
                Some(ordering) => ordering,
                None => {
                    return self.fault(FaultKind::WrongTypes(Type::of(left), Type::of(right)));
                }
            },
        };
        match ordering {
            Some(ordering) => Ok(ordering),
            None => self.fault(FaultKind::NotANumber),
        }
    }

    #[inline(never)]
    pub(super) fn equal<H>(&self, left: &Operand<'_, H>, right: &Operand<'_, H>) -> Result<bool, Fault> {
        Ok(match (left, right) {
            (Operand::Int(left), Operand::Int(right)) => left == right,
            (Operand::Text(left), Operand::Text(right)) => left == right,
            (Operand::Bool(left), Operand::Bool(right)) => left == right,
            (Operand::Null, Operand::Null) => true,
            (Operand::Bytes(left), Operand::Bytes(right)) => left == right,
            (Operand::List(_), Operand::List(_)) | (Operand::Map(_), Operand::Map(_)) => {
                return self.fault(FaultKind::NeedsGeneral);
            }
            _ => matches!(compare_numbers(left, right), Some(Some(Ordering::Equal))),
        })
    }

    #[inline(never)]
    pub(super) fn arithmetic<'e, H>(
        &self,
        operator: Arithmetic,
        left: Operand<'e, H>,
        right: Operand<'e, H>,
    ) -> Evaluated<'e, H> {
        match (left, right) {
            (Operand::Int(left), Operand::Int(right)) => match operator {
                Arithmetic::Divide | Arithmetic::Remainder if right == 0 => {
                    self.fault(FaultKind::DivisionByZero)
                }
                Arithmetic::Add => self.checked(left.checked_add(right).map(Operand::Int)),
                Arithmetic::Subtract => self.checked(left.checked_sub(right).map(Operand::Int)),
                Arithmetic::Multiply => self.checked(left.checked_mul(right).map(Operand::Int)),
                Arithmetic::Divide => self.checked(left.checked_div(right).map(Operand::Int)),
                Arithmetic::Remainder => self.checked(left.checked_rem(right).map(Operand::Int)),
            },
            (Operand::Uint(left), Operand::Uint(right)) => match operator {
                Arithmetic::Divide | Arithmetic::Remainder if right == 0 => {
                    self.fault(FaultKind::DivisionByZero)
                }
                Arithmetic::Add => self.checked(left.checked_add(right).map(Operand::Uint)),
                Arithmetic::Subtract => self.checked(left.checked_sub(right).map(Operand::Uint)),
                Arithmetic::Multiply => self.checked(left.checked_mul(right).map(Operand::Uint)),
                Arithmetic::Divide => self.checked(left.checked_div(right).map(Operand::Uint)),
                Arithmetic::Remainder => self.checked(left.checked_rem(right).map(Operand::Uint)),
            },
            (Operand::Double(left), Operand::Double(right)) if operator != Arithmetic::Remainder => {
                Ok(Operand::Double(match operator {
                    Arithmetic::Add => left + right,
                    Arithmetic::Subtract => left - right,
                    Arithmetic::Multiply => left * right,
                    Arithmetic::Divide | Arithmetic::Remainder => left / right,
                }))
            }
            (Operand::Text(_), Operand::Text(_))
            | (Operand::Bytes(_), Operand::Bytes(_))
            | (Operand::List(_), Operand::List(_))
                if operator == Arithmetic::Add =>
            {
                self.fault(FaultKind::NeedsGeneral)
            }
            (left, right) => self.fault(FaultKind::WrongTypes(Type::of(&left), Type::of(&right))),
        }
    }

    fn checked<'e, H>(&self, result: Option<Operand<'e, H>>) -> Evaluated<'e, H> {
        result.map_or_else(|| self.fault(FaultKind::Overflow), Ok)
    }
}

/// Compares numbers of any two types: nothing if one is no number, no ordering if one is NaN.
#[expect(clippy::cast_precision_loss, reason = "CEL compares an integer with a double as a double")]
fn compare_numbers<H>(left: &Operand<'_, H>, right: &Operand<'_, H>) -> Option<Option<Ordering>> {
    Some(match (left, right) {
        (Operand::Int(left), Operand::Int(right)) => Some(left.cmp(right)),
        (Operand::Uint(left), Operand::Uint(right)) => Some(left.cmp(right)),
        (Operand::Double(left), Operand::Double(right)) => left.partial_cmp(right),
        (Operand::Int(left), Operand::Double(right)) => (*left as f64).partial_cmp(right),
        (Operand::Double(left), Operand::Int(right)) => left.partial_cmp(&(*right as f64)),
        (Operand::Uint(left), Operand::Double(right)) => (*left as f64).partial_cmp(right),
        (Operand::Double(left), Operand::Uint(right)) => left.partial_cmp(&(*right as f64)),
        (Operand::Int(left), Operand::Uint(right)) => Some(i128::from(*left).cmp(&i128::from(*right))),
        (Operand::Uint(left), Operand::Int(right)) => Some(i128::from(*left).cmp(&i128::from(*right))),
        _ => return None,
    })
}
