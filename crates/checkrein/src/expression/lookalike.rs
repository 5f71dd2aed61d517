//! Texts as they look: what a rule compares that must not be slipped past with other letters of the same shape.
//!
//! The form is that of Unicode: compatibility normalization (NFKC, UAX 15), no letter case, nothing invisible, and for
//! each character the one that stands for all that look like it (the skeleton of UTS 39). It is only ever compared.

use cel::IdedExpr;
use cel::common::ast::{Expr, LiteralValue, operators};
use checkrein_core::json::{Object, Value};
use unicode_normalization::UnicodeNormalization as _;
use unicode_security::confusable_detection::skeleton;

use super::error::ExpressionError;
use super::general::children_mut;

/// A text in the form in which all texts that look like it are equal.
pub fn lookalike_form(text: &str) -> String {
    let folded = |text: &str| -> String {
        let visible = text.nfkc().filter(|c| !is_invisible(*c));
        // By way of the upper case, so that `\u{df}` and `ss`, and both small sigmas, are one.
        let caseless = visible.flat_map(char::to_uppercase).flat_map(char::to_lowercase);
        // A capital i looks like a small l, and without case it is an i.
        caseless.map(|c| if c == 'i' { 'l' } else { c }).collect()
    };
    let mut form = folded(text);
    // What a skeleton is made of may look like something else again; the longest such way is shorter than this.
    for _ in 0..MOST_STEPS {
        let next = folded(&skeleton(&form).collect::<String>());
        if next == form {
            break;
        }
        form = next;
    }
    form
}

const MOST_STEPS: usize = 8;

/// What takes no room of its own: Default_Ignorable_Code_Point of Unicode 17.
const fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}'
        | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}'
        | '\u{fff0}'..='\u{fff8}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
        | '\u{e0000}'..='\u{e0fff}')
}

/// The same for every text in a value. Names of members stay: they are how values are found.
pub(crate) fn lookalike_value(value: &Value) -> Value {
    match value {
        Value::String(text) => Value::String(lookalike_form(text)),
        Value::Array(items) => Value::Array(items.iter().map(lookalike_value).collect()),
        Value::Object(members) => {
            let folded = members.iter().map(|(name, value)| (name.to_owned(), lookalike_value(value)));
            // The names are as they were, so that they are still all different.
            Object::from_members(folded.collect()).map_or(Value::Null, Value::Object)
        }
        other => other.clone(),
    }
}

/// The same for every text that an expression compares with.
pub(super) fn fold_literals(tree: &mut IdedExpr, length: usize) -> Result<(), ExpressionError> {
    match &mut tree.expr {
        Expr::Literal(LiteralValue::String(text)) => *text = lookalike_form(text.inner()).into(),
        Expr::Call(call) if call.func_name == "matches" => {
            let message = "`matches` cannot be used where texts are compared as they look";
            return Err(ExpressionError::new("expression_lookalike_pattern", 0..length, message));
        }
        Expr::Call(call) if call.func_name == operators::INDEX => {
            // What is looked up is a name, which stays.
            if let Some(of) = call.args.first_mut() {
                fold_literals(of, length)?;
            }
            return Ok(());
        }
        _ => {}
    }
    let mut result = Ok(());
    children_mut(&mut tree.expr, &mut |child| {
        if result.is_ok() {
            result = fold_literals(child, length);
        }
    });
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_looks_alike_is_equal() {
        let alike = [
            ("admin", "\u{430}dmin"), // Cyrillic a
            ("admin", "ADMIN"),
            ("admin", "ad\u{200b}min"), // zero width space
            ("admin", "\u{ff41}\u{ff44}\u{ff4d}\u{ff49}\u{ff4e}"), // full width
            ("admin", "adm\u{131}n"),   // dotless i
            ("admin", "\u{202e}admin"),
            ("caf\u{e9}", "cafe\u{301}"),
            ("\u{fb01}le", "file"),
            ("stra\u{df}e", "STRASSE"),
            ("paypal", "paypa\u{6c}"),
            ("paypal", "paypaI"),      // capital i
            ("root", "r\u{e0020}oot"), // tag space
        ];
        for (one, other) in alike {
            assert_eq!(lookalike_form(one), lookalike_form(other), "{one:?} {other:?}");
        }
        for (one, other) in [("admin", "adman"), ("refund", "refunds"), ("cafe", "caf\u{e9}")] {
            assert_ne!(lookalike_form(one), lookalike_form(other), "{one:?} {other:?}");
        }
    }

    #[test]
    fn the_form_of_a_form_is_itself() {
        for c in (0..=0x1_0ffff_u32).filter_map(char::from_u32) {
            let form = lookalike_form(&c.to_string());
            assert_eq!(lookalike_form(&form), form, "{c:?}");
        }
    }
}
