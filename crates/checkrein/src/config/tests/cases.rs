//! What a file of cases may say, and what trying a case finds.

use std::fs;
use std::path::{Path, PathBuf};

use expect_test::{Expect, expect, expect_file};

use super::super::{CaseFile, PolicyFile};

pub(super) fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/cases/policy_test")
}

pub(super) fn samples(kind: &str) -> Vec<PathBuf> {
    let files = fs::read_dir(directory().join(kind)).unwrap();
    let mut files: Vec<PathBuf> = files.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "no samples in {kind}");
    files
}

fn policy(text: &str) -> PolicyFile {
    PolicyFile::parse("checkrein.toml", text, false).unwrap_or_else(|error| panic!("{}", error.report(100)))
}

fn cases(text: &str) -> CaseFile {
    CaseFile::parse("checkrein.test.toml", text).unwrap_or_else(|error| panic!("{}", error.report(100)))
}

#[test]
fn every_case_of_the_sample_passes() {
    let policy = PolicyFile::load(&directory().join("checkrein.toml")).unwrap();
    let cases = CaseFile::load(&directory().join("checkrein.test.toml")).unwrap();
    assert!(cases.cases().len() > 6);
    for case in cases.cases() {
        let failure = case.run(&policy).unwrap();
        assert!(failure.is_none(), "{}: {failure:?}", case.name);
        // Nothing of a case is left for the next one, or for the same one again.
        assert!(case.run(&policy).unwrap().is_none(), "{}", case.name);
    }
    assert_eq!(cases.uncovered(&policy), Vec::<&super::Pattern>::new());
}

#[test]
fn files_that_cannot_be_used_say_why() {
    let mut told = String::new();
    for path in samples("invalid").into_iter().chain(samples("beyond")) {
        let text = fs::read_to_string(&path).unwrap();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let error = CaseFile::parse(&name, &text).unwrap_err();
        for problem in error.problems() {
            assert!(text.get(problem.span.clone()).is_some(), "{problem:?}");
        }
        let report = error.report(100);
        assert!(!report.contains(['\u{1b}', '\u{202e}']), "{report:?}");
        told.push_str(&format!("==== {name}\n{report}"));
    }
    expect_file!["../../../../../tests/cases/policy_test/told.txt"].assert_eq(&told);
}

const POLICY: &str = "version = 1
[budgets.calls]
limit = '2 calls'
[tools.pay]
rules = ['args.amount > 0', { check = 'args.amount < 9', mode = 'observe' }]
budgets = ['calls']
once = { key = 'args.id' }
[tools.'mail.*']
[tools.'mail.send']
";

/// Tries one case whose steps are given, and says what is different.
fn check(steps: &str, expected: Expect) {
    let text = format!("version = 1\n[[cases]]\nname = 'c'\nsteps = [{steps}]\n");
    let told = match cases(&text).cases()[0].run(&policy(POLICY)).unwrap() {
        None => "passed".to_owned(),
        Some(failure) => format!("step {} time {}: {}", failure.step, failure.time, failure.difference),
    };
    expected.assert_eq(&told);
}

#[test]
fn what_is_different_is_told() {
    let pay =
        |id: u8, more: &str| format!("{{ tool = 'pay', args = {{ id = '{id}', amount = 1 }}, {more} }}");
    check(&pay(1, "expect = 'deny'"), expect!["step 1 time 1: expected deny, got allow"]);
    check(&pay(1, "expect = 'allow', times = 2"), expect!["step 1 time 2: expected allow, got replay"]);
    let twice = [pay(1, "expect = 'allow', result = 1"), pay(1, "expect = 'replay', result = 2")];
    check(&twice.join(","), expect!["step 2 time 1: another result is returned again"]);
    let refused = |reasons: &str| {
        format!(
            "{{ tool = 'pay', args = {{ id = '1', amount = -1 }}, expect = 'deny', reasons = [{reasons}] }}"
        )
    };
    check(&refused("'rule_violated'"), expect!["passed"]);
    check(&refused("{ code = 'rule_violated', gate = 'args.amount > 0' }"), expect!["passed"]);
    check(
        &refused("{ code = 'rule_violated', gate = 'args.amount' }"),
        expect![
            "step 1 time 1: reason rule_violated of `args.amount` was not given; reason rule_violated of `args.amount > 0` was not expected"
        ],
    );
    check(
        &refused("'rule_violated', 'budget_exceeded'"),
        expect!["step 1 time 1: reason budget_exceeded was not given"],
    );
    check(
        "{ tool = 'pay', args = { id = '1', amount = 10 }, expect = 'allow', observed = [] }",
        expect!["step 1 time 1: observed reason rule_violated of `args.amount < 9` was not expected"],
    );
    check(
        "{ tool = 'pay', args = { id = '1', amount = 10 }, expect = 'allow', observed = ['rule_violated'] }",
        expect!["passed"],
    );
}

#[test]
fn sections_without_a_case_are_found() {
    let covers = |tool: &str| {
        let text = format!(
            "version = 1\ncases = [{{ name = 'c', steps = [{{ tool = '{tool}', expect = 'deny' }}] }}]\n"
        );
        let policy = policy(POLICY);
        let cases = cases(&text);
        cases
            .uncovered(&policy)
            .into_iter()
            .map(|pattern| pattern.as_str().to_owned())
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(covers("nothing"), "mail.* pay mail.send");
    assert_eq!(covers("mail.read"), "pay mail.send");
    assert_eq!(covers("mail.send"), "pay");
}

#[test]
fn values_that_nest_without_end_are_refused() {
    for value in ["[".repeat(200) + &"]".repeat(200), "{ a".to_owned() + &".a".repeat(20_000) + " = 1 }"] {
        let text = format!(
            "version = 1\ncases = [{{ name = 'c', steps = [{{ tool = 't', expect = 'deny', args = {{ a = {value} }} }}] }}]\n"
        );
        let error = CaseFile::parse("c", &text).unwrap_err();
        let code = error.problems()[0].code;
        assert!(["policy_too_many", "policy_syntax"].contains(&code), "{code}");
    }
}
