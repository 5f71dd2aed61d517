//! What a policy file may say, and how it is told what it may not.

use std::fs;
use std::path::{Path, PathBuf};

use expect_test::{Expect, ExpectFile, expect, expect_file};

use super::*;

mod agreement;
mod cases;
mod documents;
mod errors;
mod model_usage;
mod models;
mod policies;

fn samples(kind: &str) -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/cases/policy").join(kind);
    let mut files: Vec<PathBuf> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "no cases in {kind}");
    files
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

#[test]
fn every_valid_case_is_read() {
    for path in samples("valid") {
        if let Err(error) = PolicyFile::load(&path) {
            panic!("{}", error.report(120));
        }
    }
}

/// Every problem of every invalid case, as it is told.
fn check_cases(kind: &str, expected: ExpectFile) {
    let mut told = String::new();
    for path in samples(kind) {
        let text = fs::read_to_string(&path).unwrap();
        let error = PolicyFile::parse(&name(&path), &text, false).unwrap_err();
        assert!(!error.problems().is_empty());
        for problem in error.problems() {
            assert!(text.get(problem.span.clone()).is_some(), "{problem:?}");
        }
        told.push_str(&format!("==== {kind}/{}\n{}", name(&path), error.report(100)));
    }
    expected.assert_eq(&told);
}

#[test]
fn invalid_cases_are_told_apart() {
    check_cases("invalid", expect_file!["../../../../tests/cases/policy/invalid.txt"]);
}

#[test]
fn what_no_schema_sees_is_found() {
    check_cases("beyond", expect_file!["../../../../tests/cases/policy/beyond.txt"]);
}

fn check(text: &str, width: usize, expected: Expect) {
    let error = PolicyFile::parse("checkrein.toml", text, false).unwrap_err();
    expected.assert_eq(&error.report(width));
}

#[test]
fn forty_columns_are_enough() {
    let text = "version = 1\n[tools.search]\nlimits = [{ max_calls = 10, window = \"1m\" }, { max_calls = 10, wimdow = \"1m\" }]\n";
    check(
        text,
        40,
        expect![[r#"
            policy_unknown_field: unknown field
            `wimdow`
              --> checkrein.toml:3:64
            3 | ls = 10, wimdow = "1m" }]
              |          ^^^^^^
              hint: did you mean `window`?

        "#]],
    );
    let error =
        PolicyFile::parse("a/rather/long/directory/with/a/rather/long/name/checkrein.toml", text, false);
    for line in error.unwrap_err().report(40).lines() {
        assert!(line.chars().count() <= 40, "{line}");
    }
}

#[test]
fn nothing_in_a_file_reaches_the_terminal() {
    let text = fs::read_to_string(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/cases/policy/invalid/controls.toml"),
    )
    .unwrap();
    assert!(text.contains('\u{202e}'));
    let error = PolicyFile::parse("\u{1b}[31m.toml", &text, false).unwrap_err();
    for shown in [error.report(80), error.to_string()] {
        assert!(!shown.contains(['\u{1b}', '\u{202e}']), "{shown:?}");
        assert!(shown.contains("\\u{1b}[31m"), "{shown}");
    }
}

#[test]
fn a_project_file_has_the_policy_in_a_table() {
    let project = "[project]\nname = 'x'\nversion = 1.5\n[tool.checkrein]\nversion = 1\n";
    let read = |more: &str| PolicyFile::parse("pyproject.toml", &format!("{project}{more}"), true);
    assert_eq!(read("[tool.checkrein.tools.search]\nattempts = 3\n").unwrap().sections().tools.len(), 1);
    let error = read("[tool.checkrein.tools.search]\nattemts = 3\n").unwrap_err();
    assert_eq!(error.to_string(), "pyproject.toml:7:1: unknown field `attemts`");
    let error = PolicyFile::parse("pyproject.toml", "[tool.other]\n", true).unwrap_err();
    assert_eq!(error.problems()[0].code, "policy_not_found");
}

#[test]
fn a_project_has_one_policy_at_its_root() {
    let root = tempfile::tempdir().unwrap();
    let code = || PolicyFile::find(root.path()).map_err(|error| error.problems()[0].code);
    assert_eq!(code(), Err("policy_not_found"));
    fs::write(root.path().join(PYPROJECT), "[tool.checkrein]\nversion = 1\n").unwrap();
    assert_eq!(code(), Ok(root.path().join(PYPROJECT)));
    PolicyFile::load(&code().unwrap()).unwrap();
    fs::write(root.path().join(FILE_NAME), "version = 1\n").unwrap();
    assert_eq!(code(), Err("policy_contradiction"));
    fs::write(root.path().join(PYPROJECT), "[project]\n").unwrap();
    assert_eq!(code(), Ok(root.path().join(FILE_NAME)));
}

#[test]
fn files_that_are_no_text_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("policy.toml");
    let code = || PolicyFile::load(&path).unwrap_err().problems()[0].code;
    assert_eq!(code(), "policy_unreadable");
    fs::write(&path, b"version = 1 # \xff").unwrap();
    assert_eq!(code(), "policy_syntax");
    fs::write(&path, "#".repeat(MAX_BYTES + 1)).unwrap();
    assert_eq!(code(), "policy_too_large");
    fs::write(&path, "[".repeat(100_000)).unwrap();
    assert_eq!(code(), "policy_syntax");
    fs::write(&path, format!("version = 1\nx = {}", "[".repeat(100_000))).unwrap();
    assert_eq!(code(), "policy_syntax");
}

#[test]
fn a_flood_of_problems_is_bounded() {
    let fields: String = (0..500).map(|number| format!("field{number} = 1\n")).collect();
    let error = PolicyFile::parse("x", &format!("version = 1\n{fields}"), false).unwrap_err();
    assert_eq!((error.problems().len(), error.more()), (MAX_PROBLEMS, 450));
}

#[test]
fn sections_say_what_was_written() {
    let path = samples("valid").into_iter().find(|path| name(path) == "full.toml").unwrap();
    let file = PolicyFile::load(&path).unwrap();
    let sections = file.sections();
    let order: Vec<&str> = sections.tools.iter().map(|tool| tool.pattern.as_str()).collect();
    assert_eq!(order[..2], ["*", "stripe.*"]);
    let refund = sections.tools.iter().find(|tool| tool.pattern.as_str() == "stripe.refund").unwrap();
    assert_eq!((refund.rules.len(), refund.limits.len(), refund.takes.len()), (3, 2, 3));
    assert_eq!(refund.rules[1].message, "only euros and dollars");
    assert_eq!(refund.timeout, Some(checkrein_core::time::Span::from_secs(20)));
    assert_eq!(sections.breakers["stripe"].max_fails, 3);
    assert_eq!(sections.breakers["mail"].reset, checkrein_core::time::Span::from_secs(30));
    assert_eq!(sections.budgets["team"].parent.as_deref(), Some("company"));
    assert!(!sections.allows_unknown_tools);
}

#[test]
fn the_schema_is_json_and_names_every_field() {
    let schema: serde_json::Value = serde_json::from_str(&json_schema()).unwrap();
    fn names(block: &shape::Block, found: &mut Vec<(&'static str, bool)>) {
        for field in block.fields {
            found.push((field.name, field.presence == shape::Presence::Later));
            blocks(&field.shape, found);
        }
    }
    fn blocks(shape: &shape::Shape, found: &mut Vec<(&'static str, bool)>) {
        match shape {
            shape::Shape::Table(block) => names(block, found),
            shape::Shape::List(of, _) | shape::Shape::Named(_, of, _) => blocks(of, found),
            shape::Shape::Either(shapes) => shapes.iter().for_each(|shape| blocks(shape, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    names(&fields::FILE, &mut found);
    assert!(found.len() > 60);
    assert_eq!(schema["properties"]["version"]["maximum"], 1);
    let tool = &schema["properties"]["tools"]["additionalProperties"]["properties"];
    assert_eq!(tool["approval"], serde_json::Value::Null);
    let text = json_schema();
    for (name, is_later) in found {
        assert!(
            is_later || text.contains(&format!("\"{name}\": {{")) || name == "quorum" || in_later(name),
            "{name}"
        );
    }
}

/// Fields that only tables of a later version have.
fn in_later(name: &str) -> bool {
    ["approvers", "ttl", "users", "tenants"].contains(&name)
}
