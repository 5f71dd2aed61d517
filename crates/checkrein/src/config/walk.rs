//! The first look at a policy file: every value has the form its field asks for, and nothing else is there.

use std::ops::Range;
use std::sync::LazyLock;

use checkrein_core::json::{Object, Value};
use regex::Regex;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::expressions::Expressions;
use super::problem::Problems;
use super::shape::{Block, Field, Presence, Shape, Text};
use crate::expression::nearest;

/// Looks at a file, or at a part of one.
pub(super) struct Walk<'w> {
    pub(super) text: &'w str,
    pub(super) problems: &'w mut Problems,
    pub(super) expressions: &'w mut Expressions,
}

/// How deeply the values of a call may nest.
const MAX_DEPTH: usize = 64;

/// The forms of texts that a pattern tells, compiled once.
static FORMS: LazyLock<Vec<(Text, Regex)>> = LazyLock::new(|| {
    let forms = [
        Text::Any,
        Text::Duration,
        Text::Quantity,
        Text::Name,
        Text::Pattern,
        Text::Zone,
        Text::Pointer,
        Text::Moment,
        Text::Money,
        Text::Percent,
        Text::Model,
    ];
    forms.into_iter().filter_map(|form| Some((form, Regex::new(form.pattern()).ok()?))).collect()
});

/// Whether a text has a form. A form without a pattern accepts nothing.
pub(super) fn fits(form: Text, text: &str) -> bool {
    let form = match form {
        Text::Condition | Text::Key | Text::Cost => Text::Any,
        other => other,
    };
    FORMS.iter().any(|(known, regex)| *known == form && regex.is_match(text))
}

impl Walk<'_> {
    /// Looks at the fields of a table.
    pub(super) fn block(&mut self, block: &'static Block, table: &DeTable<'_>, span: Range<usize>) {
        // A field that was misspelt is not missing too.
        let mut meant = Vec::new();
        for (key, value) in table {
            let Some(field) = block.field(key.get_ref()) else {
                meant.extend(self.unknown(block, key));
                self.problems.silence(value.span());
                continue;
            };
            self.field(field, key.span(), value);
        }
        let has = |name: &str| {
            let written = table.iter().find(|(key, _)| key.get_ref() == name).map(|(key, _)| key.span());
            written.or_else(|| meant.contains(&name).then_some(0..0))
        };
        for field in block.fields {
            if field.presence == Presence::Required && has(field.name).is_none() {
                let message = format!("{} has no `{}`", block.what, field.name);
                let hint = format!("add it: {}", lower_first(field.about));
                self.problems.add("policy_missing_field", start_of(self.text, &span), message, hint);
            }
        }
        for (one, other) in block.rivals {
            if let (Some(_), Some(second)) = (has(one), has(other)) {
                let message = format!("`{one}` and `{other}` contradict each other");
                self.problems.add("policy_contradiction", second, message, "keep one of them".to_owned());
            }
        }
        for (one, others) in block.needs {
            if let (Some(first), true) = (has(one), others.iter().all(|other| has(other).is_none())) {
                let message = format!("`{one}` means nothing without {}", choice(others));
                self.problems.add("policy_contradiction", first, message, format!("add {}", choice(others)));
            }
        }
        if !block.some_of.is_empty() && block.some_of.iter().all(|name| has(name).is_none()) {
            let message =
                format!("{} has neither {}", block.what, choice(block.some_of).replace(" or ", " nor "));
            let hint = format!("add {}", choice(block.some_of));
            self.problems.add("policy_missing_field", start_of(self.text, &span), message, hint);
        }
    }

    fn field(&mut self, field: &'static Field, key: Range<usize>, value: &Spanned<DeValue<'_>>) {
        self.value(&field.shape, value);
        if field.presence == Presence::Later {
            let message = format!("`{}` is not available yet", field.name);
            let hint = "this version would not act on it; leave it out until a later one does";
            self.problems.add("policy_not_available", key, message, hint.to_owned());
        }
    }

    /// Reports a field that does not exist. Returns the one that was probably meant.
    fn unknown(&mut self, block: &'static Block, key: &Spanned<impl AsRef<str>>) -> Option<&'static str> {
        let name = key.get_ref().as_ref();
        let known = || block.fields.iter().map(|field| field.name);
        let meant = nearest(name, known());
        let hint = match meant {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!(
                "{} has {}",
                block.what,
                known().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ")
            ),
        };
        self.problems.add("policy_unknown_field", key.span(), format!("unknown field `{}`", cut(name)), hint);
        meant
    }

    fn value(&mut self, shape: &'static Shape, value: &Spanned<DeValue<'_>>) {
        let span = value.span();
        match (shape, value.get_ref()) {
            (Shape::Whole(least, most), DeValue::Integer(number)) => {
                let digits = number.as_str().replace('_', "");
                let fits = u64::from_str_radix(&digits, number.radix())
                    .is_ok_and(|number| (*least..=*most).contains(&number));
                if !fits {
                    let message = format!("`{number}` is out of range");
                    let hint = if least == most {
                        format!("this version knows {least}")
                    } else {
                        format!("use a whole number from {least} to {most}")
                    };
                    self.problems.add("policy_out_of_range", span, message, hint);
                }
            }
            (Shape::Truth, DeValue::Boolean(_)) => {}
            (Shape::Word(words), DeValue::String(word)) => {
                if !words.contains(&word.as_ref()) {
                    let hint = match nearest(word, words.iter().copied()) {
                        Some(near) => format!("did you mean `{near}`?"),
                        None => format!("use {}", choice(words)),
                    };
                    self.problems.add(
                        "policy_bad_value",
                        span,
                        format!("`{}` is not known here", cut(word)),
                        hint,
                    );
                }
            }
            (Shape::Text(form), DeValue::String(text)) => self.text(*form, text, span),
            (Shape::List(of, most), DeValue::Array(items)) => {
                if items.len() > *most {
                    let message = format!("a list of {} entries", items.len());
                    self.problems.add(
                        "policy_too_many",
                        span,
                        message,
                        format!("at most {most} are allowed"),
                    );
                    return;
                }
                items.iter().for_each(|item| self.value(of, item));
            }
            (Shape::Table(block), DeValue::Table(table)) => self.block(block, table, span),
            (Shape::Named(form, of, most), DeValue::Table(table)) => {
                self.named(*form, of, *most, table, span)
            }
            (Shape::Either(shapes), of) => match shapes.iter().find(|shape| takes(shape, of)) {
                Some(shape) => self.value(shape, value),
                None => self.wrong_type(shape, value),
            },
            (Shape::Json, _) | (Shape::Members, DeValue::Table(_)) => self.json(value, MAX_DEPTH),
            _ => self.wrong_type(shape, value),
        }
    }

    /// A value that JSON can say.
    fn json(&mut self, value: &Spanned<DeValue<'_>>, room: usize) {
        let refused = match value.get_ref() {
            _ if room == 0 => {
                Some(("policy_too_many", "values nest too deeply", "at most 64 levels are allowed"))
            }
            DeValue::Datetime(_) => {
                Some(("policy_wrong_type", "a date where a JSON value is expected", "write it as text"))
            }
            DeValue::Integer(_) | DeValue::Float(_) if json_of(value.get_ref()).is_none() => Some((
                "policy_out_of_range",
                "the number has no exact value here",
                "use a finite number; a whole one of at most 64 bits",
            )),
            DeValue::Array(items) => {
                return items.iter().for_each(|item| self.json(item, room.saturating_sub(1)));
            }
            DeValue::Table(table) => {
                return table.iter().for_each(|(_, member)| self.json(member, room.saturating_sub(1)));
            }
            _ => None,
        };
        if let Some((code, message, hint)) = refused {
            let span = start_of(self.text, &value.span());
            self.problems.add(code, span, message, hint.to_owned());
        }
    }

    fn named(
        &mut self,
        form: Text,
        of: &'static Shape,
        most: usize,
        table: &DeTable<'_>,
        span: Range<usize>,
    ) {
        if table.len() > most {
            let message = format!("{} entries", table.len());
            self.problems.add(
                "policy_too_many",
                start_of(self.text, &span),
                message,
                format!("at most {most} are allowed"),
            );
        }
        for (key, value) in table {
            if !fits(form, key.get_ref()) {
                let message = format!("`{}` is not {}", cut(key.get_ref()), form.what());
                self.problems.add("policy_bad_name", key.span(), message, form.advice().to_owned());
            }
            self.value(of, value);
        }
    }

    fn text(&mut self, form: Text, text: &str, span: Range<usize>) {
        match form {
            Text::Condition | Text::Key | Text::Cost if fits(Text::Any, text) => {
                if let Err(error) = self.expressions.compile(form, text) {
                    let place = within(self.text, &span, text, &error.span);
                    self.problems.add(error.code, place, error.message.clone(), error.hint);
                }
                return;
            }
            _ => {}
        }
        if text.chars().count() > form.longest() || !fits(form, text) {
            let code = match form {
                Text::Duration => "policy_bad_duration",
                Text::Quantity | Text::Money | Text::Percent => "policy_bad_amount",
                Text::Name | Text::Pattern | Text::Model => "policy_bad_name",
                _ => "policy_bad_text",
            };
            let message = format!("`{}` is not {}", cut(text), form.what());
            self.problems.add(code, span, message, form.advice().to_owned());
        }
    }

    fn wrong_type(&mut self, shape: &'static Shape, value: &Spanned<DeValue<'_>>) {
        let found = kind(value.get_ref());
        let is_money = match shape {
            Shape::Text(Text::Quantity | Text::Money) => true,
            Shape::Either(shapes) => shapes.iter().any(|s| matches!(s, Shape::Text(Text::Quantity))),
            _ => false,
        };
        let (code, message, hint) = match value.get_ref() {
            DeValue::Float(number) if is_money => (
                "policy_float_money",
                format!("money as a float: `{}`", cut(number.as_str())),
                Some(format!("floats are not exact: write `\"{} usd\"`", cut(number.as_str()))),
            ),
            DeValue::Integer(number) if is_money => (
                "policy_bad_amount",
                format!("`{number}` has no unit"),
                Some(format!("write it as text with its unit: `\"{number} usd\"`, `\"{number} tokens\"`")),
            ),
            _ => ("policy_wrong_type", format!("{found} where {} is expected", wanted(shape)), advice(shape)),
        };
        let span = match value.get_ref() {
            DeValue::Table(_) => start_of(self.text, &value.span()),
            _ => value.span(),
        };
        self.problems.add(code, span, message, hint);
    }
}

/// Whether a value is of the type that a shape takes.
fn takes(shape: &Shape, value: &DeValue<'_>) -> bool {
    match shape {
        Shape::Whole(..) => matches!(value, DeValue::Integer(_)),
        Shape::Truth => matches!(value, DeValue::Boolean(_)),
        Shape::Word(_) | Shape::Text(_) => matches!(value, DeValue::String(_)),
        Shape::List(..) => matches!(value, DeValue::Array(_)),
        Shape::Table(_) | Shape::Named(..) | Shape::Members => matches!(value, DeValue::Table(_)),
        Shape::Either(shapes) => shapes.iter().any(|shape| takes(shape, value)),
        Shape::Json => true,
    }
}

/// The JSON value that a value stands for; nothing where there is none that says exactly the same.
pub(super) fn json_of(value: &DeValue<'_>) -> Option<Value> {
    Some(match value {
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Boolean(truth) => Value::Bool(*truth),
        DeValue::Integer(number) => {
            let digits = number.as_str().replace('_', "");
            let small = i64::from_str_radix(&digits, number.radix()).map(Value::Int);
            small.or_else(|_| u64::from_str_radix(&digits, number.radix()).map(Value::from_u64)).ok()?
        }
        DeValue::Float(number) => {
            let number: f64 = number.as_str().replace('_', "").parse().ok()?;
            number.is_finite().then_some(Value::Float(number))?
        }
        DeValue::Array(items) => {
            Value::Array(items.iter().map(|item| json_of(item.get_ref())).collect::<Option<_>>()?)
        }
        DeValue::Table(table) => {
            let member = |(name, member): (&Spanned<_>, &Spanned<DeValue<'_>>)| {
                let name: &std::borrow::Cow<'_, str> = name.get_ref();
                Some((name.to_string(), json_of(member.get_ref())?))
            };
            let members: Vec<(String, Value)> = table.iter().map(member).collect::<Option<_>>()?;
            Value::Object(Object::from_members(members).ok()?)
        }
        DeValue::Datetime(_) => return None,
    })
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a truth value",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

fn wanted(shape: &Shape) -> String {
    match shape {
        Shape::Whole(..) => "a whole number".to_owned(),
        Shape::Truth => "`true` or `false`".to_owned(),
        Shape::Word(words) if words.len() > 8 => "a known word".to_owned(),
        Shape::Word(words) => choice(words),
        Shape::Text(form) => form.what().to_owned(),
        Shape::List(..) => "a list".to_owned(),
        Shape::Table(block) => block.what.to_owned(),
        Shape::Named(..) | Shape::Members => "a table".to_owned(),
        Shape::Json => "a value".to_owned(),
        Shape::Either(shapes) => shapes.iter().map(wanted).collect::<Vec<_>>().join(" or "),
    }
}

fn advice(shape: &Shape) -> Option<String> {
    match shape {
        Shape::Text(form) => Some(form.advice().to_owned()),
        Shape::List(..) => Some("put it into brackets: `[...]`".to_owned()),
        Shape::Table(block) => {
            let fields: Vec<&str> = block.fields.iter().map(|field| field.name).collect();
            Some(format!("write `{{ ... }}` with {}", choice(&fields)))
        }
        _ => None,
    }
}

fn choice(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
    match quoted.as_slice() {
        [rest @ .., last] if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => quoted.concat(),
    }
}

/// User input for a message, cut so that it cannot flood a report.
pub(super) fn cut(text: &str) -> String {
    let mut short: String = text.chars().take(60).collect();
    if text.chars().nth(60).is_some() {
        short.push('…');
    }
    short
}

fn lower_first(sentence: &str) -> String {
    let sentence = sentence.trim_end_matches('.');
    let keeps = sentence.starts_with("CEL");
    let mut characters = sentence.chars();
    match characters.next() {
        Some(first) if !keeps => first.to_lowercase().chain(characters).collect(),
        _ => sentence.to_owned(),
    }
}

/// The first line of a table that stretches over several.
fn start_of(text: &str, span: &Range<usize>) -> Range<usize> {
    let length = text.get(span.clone()).and_then(|part| part.lines().next()).map_or(0, str::len);
    span.start..span.start.saturating_add(length)
}

/// The place of a part of a text in the file: exactly, unless escapes come between.
fn within(file: &str, literal: &Range<usize>, text: &str, part: &Range<usize>) -> Range<usize> {
    let raw = file.get(literal.clone()).unwrap_or_default();
    for quotes in [3, 1] {
        let Some(inner) = raw.get(quotes..raw.len().saturating_sub(quotes)) else { continue };
        let skipped = if quotes == 3 {
            inner.len().saturating_sub(inner.trim_start_matches(['\r', '\n']).len())
        } else {
            0
        };
        if inner.get(skipped..) == Some(text) {
            let start = literal.start.saturating_add(quotes).saturating_add(skipped);
            return start.saturating_add(part.start)..start.saturating_add(part.end);
        }
    }
    literal.clone()
}
