//! Shortcuts for the rules that most policies consist of, which decide or leave it to the whole evaluation.

use std::cmp::Ordering;

use super::native::{Kind, Term};
use super::scope::{Operand, Scope};

impl Term {
    /// Decides the rules that most policies consist of, a variable of the expected type against literals.
    /// Whatever is not as expected is left to [`Term::truth_of_any`].
    #[inline]
    pub(super) fn at_once<'a, S: Scope<'a>>(&self, scope: &S) -> Option<bool> {
        match &self.kind {
            Kind::Compare(operator, left, right) => {
                let Kind::Int(limit) = right.kind else { return None };
                let (Kind::Slot(_) | Kind::Member(..)) = left.kind else {
                    let Kind::Size(of) = &left.kind else { return None };
                    let Operand::Text(text) = of.nearby(scope)? else { return None };
                    return Some(operator.accepts(compare_length(text, limit)));
                };
                let Operand::Int(number) = left.nearby(scope)? else { return None };
                Some(operator.accepts(number.cmp(&limit)))
            }
            Kind::Equal(left, right) => equal_text(left, right, scope),
            Kind::NotEqual(left, right) => equal_text(left, right, scope).map(|equal| !equal),
            Kind::InItems(needle, items) => {
                let Operand::Text(needle) = needle.nearby(scope)? else { return None };
                let mut found = false;
                for item in items {
                    let Kind::Text(item) = &item.kind else { return None };
                    found = found || **item == *needle;
                }
                Some(found)
            }
            _ => None,
        }
    }

    /// Returns a variable or a member of a variable, whatever it is.
    #[inline(always)]
    fn nearby<'a, S: Scope<'a>>(&self, scope: &S) -> Option<Operand<'a, S::Handle>> {
        match &self.kind {
            Kind::Slot(slot) => Some(scope.slot(*slot)),
            Kind::Member(of, name) => match of.kind {
                Kind::Slot(slot) => match scope.slot(slot) {
                    Operand::Map(map) => Some(scope.member(map, name)),
                    _ => None,
                },
                _ => None,
            },
            _ => None,
        }
    }
}

/// Compares a variable with a text literal.
#[inline]
fn equal_text<'a, S: Scope<'a>>(left: &Term, right: &Term, scope: &S) -> Option<bool> {
    let Kind::Text(literal) = &right.kind else { return None };
    match left.nearby(scope)? {
        Operand::Text(text) => Some(**literal == *text),
        _ => None,
    }
}

/// Compares the length of a text in characters with `limit`, counting only where its bytes leave it open.
fn compare_length(text: &str, limit: i64) -> Ordering {
    let Ok(limit) = usize::try_from(limit) else { return Ordering::Greater };
    // A character has one to four bytes.
    if text.len() < limit {
        Ordering::Less
    } else if text.len() / 4 > limit {
        Ordering::Greater
    } else {
        text.chars().count().cmp(&limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_is_compared_in_characters() {
        for character in ["a", "é", "€", "😀"] {
            for count in 0..12 {
                let text = character.repeat(count);
                for limit in -2..14_i64 {
                    assert_eq!(compare_length(&text, limit), (count as i64).cmp(&limit), "{text} {limit}");
                }
            }
        }
        assert_eq!(compare_length("a", i64::MAX), Ordering::Less);
        assert_eq!(compare_length("a", i64::MIN), Ordering::Greater);
    }
}
