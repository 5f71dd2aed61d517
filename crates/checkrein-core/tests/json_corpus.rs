//! Runs the corpus of strict JSON in `tests/cases/json`.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a broken corpus fails the test")]

use checkrein_core::canonical_json;
use checkrein_core::json::{Limits, read};

const ACCEPTED: &str = include_str!("../../../tests/cases/json/accepted.jsonl");
const REFUSED: &str = include_str!("../../../tests/cases/json/refused.jsonl");

/// The cases are read by another reader than the one they judge.
fn cases(lines: &str) -> Vec<serde_json::Value> {
    let cases: Vec<serde_json::Value> =
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(cases.len() > 30, "the corpus is there");
    cases
}

fn document(case: &serde_json::Value) -> Vec<u8> {
    if let Some(text) = case["document"].as_str() {
        return text.as_bytes().to_vec();
    }
    if let Some(hex) = case["hex"].as_str() {
        let digits = hex.as_bytes().chunks(2);
        return digits
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect();
    }
    let part = |name: &str| {
        let text = case[name][0].as_str().unwrap_or_default();
        text.repeat(usize::try_from(case[name][1].as_u64().unwrap_or_default()).unwrap())
    };
    (part("repeat") + &part("then")).into_bytes()
}

#[test]
fn every_accepted_document_has_its_canonical_form() {
    for case in cases(ACCEPTED) {
        let value =
            read(&document(&case), &Limits::default()).unwrap_or_else(|error| panic!("{case}: {error}"));
        let canonical = String::from_utf8(canonical_json::to_vec(&value)).unwrap();
        assert_eq!(canonical, case["canonical"].as_str().unwrap(), "{case}");
        let again = read(canonical.as_bytes(), &Limits::default()).unwrap();
        assert_eq!(again, value, "{case}");
    }
}

#[test]
fn every_refused_document_has_its_code_and_place() {
    for case in cases(REFUSED) {
        let error = read(&document(&case), &Limits::default()).expect_err(case["name"].as_str().unwrap());
        assert_eq!(error.code(), case["error"].as_str().unwrap(), "{case}");
        assert_eq!(Some(error.offset as u64), case["offset"].as_u64(), "{case}");
    }
}
