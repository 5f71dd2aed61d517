//! The JSON Schema and the reader say the same of every case that a schema can judge.

use serde_json::{Map, Value};
use toml::de::{DeTable, DeValue};

use super::cases::{directory, samples as case_samples};
use super::{name, samples};
use crate::config::{CaseFile, PolicyFile, cases_schema, json_schema};

/// Whether a value satisfies a schema. Panics on a keyword that the schema should not use.
fn satisfies(value: &Value, schema: &Value) -> bool {
    let keywords = schema.as_object().unwrap();
    keywords.iter().all(|(keyword, wanted)| match keyword.as_str() {
        "$schema" | "title" | "description" => true,
        "type" => match wanted.as_str().unwrap() {
            "object" => value.is_object(),
            "array" => value.is_array(),
            "string" => value.is_string(),
            "integer" => value.is_i64() || value.is_u64(),
            "boolean" => value.is_boolean(),
            other => panic!("type {other}"),
        },
        "enum" => wanted.as_array().unwrap().contains(value),
        "minimum" => value.as_i64().is_none_or(|number| i128::from(number) >= whole(wanted)),
        "maximum" => value.as_i64().is_none_or(|number| i128::from(number) <= whole(wanted)),
        "pattern" => {
            let pattern = regex::Regex::new(wanted.as_str().unwrap()).unwrap();
            value.as_str().is_none_or(|text| pattern.is_match(text))
        }
        "maxLength" => value.as_str().is_none_or(|text| text.chars().count() as i128 <= whole(wanted)),
        "maxItems" => value.as_array().is_none_or(|items| items.len() as i128 <= whole(wanted)),
        "maxProperties" => value.as_object().is_none_or(|members| members.len() as i128 <= whole(wanted)),
        "items" => value.as_array().is_none_or(|items| items.iter().all(|item| satisfies(item, wanted))),
        "required" => value.as_object().is_none_or(|members| {
            wanted.as_array().unwrap().iter().all(|name| members.contains_key(name.as_str().unwrap()))
        }),
        "properties" => value.as_object().is_none_or(|members| {
            members
                .iter()
                .all(|(name, member)| wanted.get(name).is_none_or(|schema| satisfies(member, schema)))
        }),
        "additionalProperties" => value.as_object().is_none_or(|members| {
            let known =
                |name: &str| keywords.get("properties").is_some_and(|known| known.get(name).is_some());
            members.iter().filter(|(name, _)| !known(name)).all(|(_, member)| match wanted {
                Value::Bool(allowed) => *allowed,
                schema => satisfies(member, schema),
            })
        }),
        "propertyNames" => value
            .as_object()
            .is_none_or(|members| members.keys().all(|name| satisfies(&Value::String(name.clone()), wanted))),
        "dependentSchemas" => value.as_object().is_none_or(|members| {
            let dependent = wanted.as_object().unwrap();
            dependent.iter().all(|(name, schema)| !members.contains_key(name) || satisfies(value, schema))
        }),
        "anyOf" => wanted.as_array().unwrap().iter().any(|schema| satisfies(value, schema)),
        "allOf" => wanted.as_array().unwrap().iter().all(|schema| satisfies(value, schema)),
        "not" => !satisfies(value, wanted),
        other => panic!("keyword {other}"),
    })
}

fn whole(wanted: &Value) -> i128 {
    i128::from(wanted.as_u64().unwrap())
}

fn json(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Integer(number) => {
            let digits = number.as_str().replace('_', "");
            let small = i64::from_str_radix(&digits, number.radix()).map(Value::from);
            small.unwrap_or_else(|_| u64::from_str_radix(&digits, number.radix()).unwrap().into())
        }
        DeValue::Float(number) => number.as_str().parse::<f64>().unwrap().into(),
        DeValue::Boolean(truth) => Value::Bool(*truth),
        DeValue::Datetime(date) => Value::String(date.to_string()),
        DeValue::Array(items) => items.iter().map(|item| json(item.get_ref())).collect(),
        DeValue::Table(table) => object(table),
    }
}

fn object(table: &DeTable<'_>) -> Value {
    let members = table.iter().map(|(key, value)| (key.get_ref().to_string(), json(value.get_ref())));
    Value::Object(members.collect::<Map<_, _>>())
}

/// What the schema says of a text, unless it is no TOML.
fn schema_accepts(text: &str) -> Option<bool> {
    accepts(text, &json_schema())
}

fn accepts(text: &str, schema: &str) -> Option<bool> {
    let schema: Value = serde_json::from_str(schema).unwrap();
    let table = DeTable::parse(text).ok()?;
    Some(satisfies(&object(table.get_ref()), &schema))
}

#[test]
fn the_schema_agrees_with_the_reader_on_every_case() {
    for (kind, accepted) in [("valid", true), ("invalid", false), ("beyond", true)] {
        for path in samples(kind) {
            let text = std::fs::read_to_string(&path).unwrap();
            let said = schema_accepts(&text);
            assert_eq!(said.unwrap_or(accepted), accepted, "{kind}/{}", name(&path));
            assert_eq!(PolicyFile::parse("case", &text, false).is_ok(), kind == "valid", "{}", name(&path));
        }
    }
}

#[test]
fn the_schema_of_cases_agrees_with_their_reader() {
    let text = std::fs::read_to_string(directory().join("checkrein.test.toml")).unwrap();
    assert!(CaseFile::parse("case", &text).is_ok());
    assert_eq!(accepts(&text, &cases_schema()), Some(true));
    for (kind, accepted) in [("invalid", false), ("beyond", true)] {
        for path in case_samples(kind) {
            let text = std::fs::read_to_string(&path).unwrap();
            // What no JSON says, no schema judges.
            if name(&path) == "values.toml" {
                continue;
            }
            assert_eq!(
                accepts(&text, &cases_schema()).unwrap_or(accepted),
                accepted,
                "{kind}/{}",
                name(&path)
            );
        }
    }
}

/// Single values in every field of their form: the schema and the reader draw the same line.
#[test]
fn the_schema_agrees_with_the_reader_on_values() {
    let check = |file: &str, value: &str, code: &str| {
        let text = format!("version = 1\n{}", file.replace('?', value));
        let refused = PolicyFile::parse("case", &text, false)
            .err()
            .is_some_and(|error| error.problems().iter().any(|problem| problem.code == code));
        assert_eq!(schema_accepts(&text).unwrap(), !refused, "{text}");
    };
    for duration in
        ["1s", "0.5 s", "1", "s", "1 S", "1s ", "1.5.5s", "1 minutes", "12345678901s", "-1s", "１s", ""]
    {
        check("tools.x.timeout = '?'", duration, "policy_bad_duration");
    }
    for amount in
        ["1 usd", "$1", "$ 1", "1usd", "1 USD", "0.1234567890123 usd", "1.5 calls", "1 call", "+1 cu"]
    {
        check("budgets.x.limit = '?'", amount, "policy_bad_amount");
    }
    for name in ["a", "a b", "a\u{e9}", "", &"a".repeat(64), &"a".repeat(65)] {
        check("budgets.'?'.limit = '1 usd'", name, "policy_bad_name");
    }
    for pattern in ["*", "a.*", "a b", "\u{e9}", "", &"a".repeat(256), &"a".repeat(257)] {
        check("tools.'?'.attempts = 1", pattern, "policy_bad_name");
    }
    for pointer in ["/a", "a", "", "/a/0", "/~0~1", "/~2", "/"] {
        check("tools.x.facts = [{ arg = '?', kind = 'k' }]", pointer, "policy_bad_text");
    }
    for number in ["0", "1", "4294967295", "4294967296", "-1"] {
        check("tools.x.attempts = ?", number, "policy_out_of_range");
    }
}
