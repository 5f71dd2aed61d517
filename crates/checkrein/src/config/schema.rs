//! The JSON Schema of a policy file, printed from the description that its reader follows.

use std::fmt::Write as _;

use checkrein_core::canonical_json::write_string;

use super::cases::CASES;
use super::fields::FILE;
use super::shape::{Block, Presence, Shape, Text};

/// A JSON value in the order in which it is printed.
enum Json {
    Text(String),
    Number(u64),
    Truth(bool),
    List(Vec<Json>),
    Map(Vec<(&'static str, Json)>),
    /// A map whose keys are names of fields.
    Fields(Vec<(String, Json)>),
}

/// The JSON Schema (draft 2020-12) of `checkrein.toml` and of `[tool.checkrein]`.
///
/// It says what a value may look like. What sections say of each other, and whether an expression is one, only
/// reading the file tells.
#[must_use]
pub fn json_schema() -> String {
    schema_of("Checkrein policy", &FILE)
}

/// The JSON Schema of a file of cases, as [`json_schema`] has that of the policy.
#[must_use]
pub fn cases_schema() -> String {
    schema_of("Checkrein cases", &CASES)
}

fn schema_of(title: &str, of: &Block) -> String {
    let mut members =
        vec![("$schema", text("https://json-schema.org/draft/2020-12/schema")), ("title", text(title))];
    members.extend(block(of));
    let mut printed = String::new();
    print(&Json::Map(members), 0, &mut printed);
    printed.push('\n');
    printed
}

fn text(text: &str) -> Json {
    Json::Text(text.to_owned())
}

fn block(block: &Block) -> Vec<(&'static str, Json)> {
    // A field of a later version is refused whatever it says.
    let fields = || block.fields.iter().filter(|field| field.presence != Presence::Later);
    let properties = fields().map(|field| {
        let mut members = schema(&field.shape);
        members.push(("description", text(field.about)));
        (field.name.to_owned(), Json::Map(members))
    });
    let required: Vec<Json> =
        fields().filter(|field| field.presence == Presence::Required).map(|field| text(field.name)).collect();
    let mut members = vec![
        ("type", text("object")),
        ("properties", Json::Fields(properties.collect())),
        ("additionalProperties", Json::Truth(false)),
    ];
    if !required.is_empty() {
        members.push(("required", Json::List(required)));
    }
    let having = |names: &[&str]| {
        let alternatives =
            names.iter().map(|name| Json::Map(vec![("required", Json::List(vec![text(name)]))]));
        ("anyOf", Json::List(alternatives.collect()))
    };
    let mut rules = Vec::new();
    for (one, other) in block.rivals {
        let both = Json::Map(vec![("required", Json::List(vec![text(one), text(other)]))]);
        rules.push(Json::Map(vec![("not", both)]));
    }
    for (one, others) in block.needs {
        let dependent = vec![((*one).to_owned(), Json::Map(vec![having(others)]))];
        rules.push(Json::Map(vec![("dependentSchemas", Json::Fields(dependent))]));
    }
    if !block.some_of.is_empty() {
        rules.push(Json::Map(vec![having(block.some_of)]));
    }
    if !rules.is_empty() {
        members.push(("allOf", Json::List(rules)));
    }
    members
}

fn schema(shape: &Shape) -> Vec<(&'static str, Json)> {
    match shape {
        Shape::Whole(least, most) => vec![
            ("type", text("integer")),
            ("minimum", Json::Number(*least)),
            ("maximum", Json::Number(*most)),
        ],
        Shape::Truth => vec![("type", text("boolean"))],
        Shape::Word(words) => vec![("enum", Json::List(words.iter().map(|word| text(word)).collect()))],
        Shape::Text(form) => of_text(*form),
        Shape::List(of, most) => {
            vec![("type", text("array")), ("items", Json::Map(schema(of))), ("maxItems", number(*most))]
        }
        Shape::Table(of) => block(of),
        Shape::Named(form, of, most) => vec![
            ("type", text("object")),
            ("propertyNames", Json::Map(of_text(*form))),
            ("additionalProperties", Json::Map(schema(of))),
            ("maxProperties", number(*most)),
        ],
        Shape::Json => Vec::new(),
        Shape::Members => vec![("type", text("object"))],
        Shape::Either(shapes) => {
            vec![("anyOf", Json::List(shapes.iter().map(|shape| Json::Map(schema(shape))).collect()))]
        }
    }
}

fn of_text(form: Text) -> Vec<(&'static str, Json)> {
    vec![("type", text("string")), ("pattern", text(form.pattern())), ("maxLength", number(form.longest()))]
}

fn number(number: usize) -> Json {
    Json::Number(u64::try_from(number).unwrap_or(u64::MAX))
}

fn print(json: &Json, depth: usize, to: &mut String) {
    match json {
        Json::Text(text) => write_quoted(text, to),
        Json::Number(number) => {
            // Writing to a string does not fail.
            let _ = write!(to, "{number}");
        }
        Json::Truth(value) => to.push_str(if *value { "true" } else { "false" }),
        Json::List(items) => {
            to.push('[');
            for (at, item) in items.iter().enumerate() {
                new_line(at, depth, to);
                print(item, depth.saturating_add(1), to);
            }
            close(items.is_empty(), depth, ']', to);
        }
        Json::Map(members) => {
            print_members(members.iter().map(|(name, value)| (*name, value)), depth, to);
        }
        Json::Fields(members) => {
            print_members(members.iter().map(|(name, value)| (name.as_str(), value)), depth, to);
        }
    }
}

fn print_members<'m>(members: impl Iterator<Item = (&'m str, &'m Json)>, depth: usize, to: &mut String) {
    to.push('{');
    let mut is_empty = true;
    for (at, (name, value)) in members.enumerate() {
        is_empty = false;
        new_line(at, depth, to);
        write_quoted(name, to);
        to.push_str(": ");
        print(value, depth.saturating_add(1), to);
    }
    close(is_empty, depth, '}', to);
}

fn new_line(at: usize, depth: usize, to: &mut String) {
    to.push_str(if at == 0 { "\n" } else { ",\n" });
    to.extend(std::iter::repeat_n("  ", depth.saturating_add(1)));
}

fn close(is_empty: bool, depth: usize, bracket: char, to: &mut String) {
    if !is_empty {
        to.push('\n');
        to.extend(std::iter::repeat_n("  ", depth));
    }
    to.push(bracket);
}

fn write_quoted(text: &str, to: &mut String) {
    let mut quoted = Vec::new();
    write_string(text, &mut quoted);
    to.push_str(&String::from_utf8_lossy(&quoted));
}
