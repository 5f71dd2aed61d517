//! The page of errors of the policy file: each code with the shortest file that has it, and what is said of it.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use expect_test::expect_file;

use crate::config::PolicyFile;

/// Codes, what they mean, and a file without its first line `version = 1`.
const CODES: &[(&str, &str, &str)] = &[
    ("policy_syntax", "it is no TOML, or not UTF-8", "[tools.search"),
    ("policy_duplicate_key", "a key is there twice", "[tools.a]\nattempts = 1\nattempts = 2"),
    ("policy_unknown_field", "a field that does not exist", "[tools.a]\nlimts = []"),
    ("policy_missing_field", "a field that has to be there is not", "[budgets.team]\nkey = 'action.user'"),
    ("policy_wrong_type", "a value of another type", "tools.a.rules = 'args.x > 0'"),
    ("policy_out_of_range", "a number that is too small or too large", "tools.a.attempts = 0"),
    (
        "policy_bad_value",
        "a word that is not one of those that mean something",
        "defaults.mode = 'observing'",
    ),
    ("policy_bad_text", "a text of another form", "tools.a.proves = [{ kind = 'k', pointer = 'id' }]"),
    ("policy_bad_name", "a name with other characters than names have", "budgets.'a b'.limit = '1 usd'"),
    (
        "policy_bad_duration",
        "a length of time without a unit, or with one that is not known",
        "tools.a.timeout = '5 parsecs'",
    ),
    (
        "policy_bad_amount",
        "an amount without a unit, or that is too fine or too large",
        "budgets.a.limit = '50 euros'",
    ),
    ("policy_float_money", "money as a float, which is not exact", "budgets.a.limit = 50.00"),
    (
        "policy_wrong_unit",
        "a cost in another unit than its budget",
        "budgets.a.limit = '5 usd'\ntools.x.budgets = [{ name = 'a', cost = '3 tokens' }]",
    ),
    (
        "policy_unknown_name",
        "a budget or a breaker that is not there",
        "tools.a.budgets = ['taem']\nbudgets.team.limit = '1 calls'",
    ),
    (
        "policy_unknown_zone",
        "a time zone that is not there",
        "budgets.a = { limit = '1 usd', calendar = 'day', tz = 'Mars/Olympus' }",
    ),
    (
        "policy_contradiction",
        "two things that cannot both hold",
        "budgets.a = { limit = '1 usd', window = '1d', calendar = 'day' }",
    ),
    (
        "policy_not_available",
        "a block that this version would not act on",
        "tools.a.approval = { quorum = 1 }",
    ),
    (
        "policy_too_many",
        "more of something than is allowed",
        "tools.a.facts = [{}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}]",
    ),
    ("expression_syntax", "an expression that is none", "tools.a.rules = ['args.x >']"),
    (
        "expression_type_error",
        "an expression that compares or adds what does not go together",
        "tools.a.rules = ['1 + true == 2']",
    ),
    ("expression_unknown_variable", "a name that expressions do not have", "tools.a.rules = ['arg.x > 0']"),
    (
        "expression_unknown_function",
        "a function that expressions do not have",
        "tools.a.rules = ['sizeof(args) > 0']",
    ),
    (
        "expression_not_boolean",
        "a rule that gives something else than yes or no",
        "tools.a.rules = ['1 + 1']",
    ),
    ("expression_not_text", "a key that gives something else than text", "tools.a.once = { key = '5' }"),
    (
        "expression_not_integer",
        "a cost that gives something else than a whole number",
        "budgets.b.limit = '1 usd'\ntools.a.budgets = [{ name = 'b', cost = { cel = '0.5' } }]",
    ),
    (
        "expression_overflow",
        "a number that does not fit 64 bits",
        "tools.a.rules = ['9223372036854775807 + 1 > 0']",
    ),
    ("expression_regex_invalid", "a pattern that is none", "tools.a.rules = ['args.x.matches(\"[\")']"),
    (
        "expression_regex_not_literal",
        "a pattern that is computed",
        "tools.a.rules = ['args.x.matches(args.y)']",
    ),
    (
        "expression_nested_comprehensions",
        "loops in loops, which nothing bounds",
        "tools.a.rules = ['args.x.all(a, a.all(b, b.all(c, c > 0)))']",
    ),
];

/// Codes of files that cannot be looked into; the tests beside this one make such files.
const FILES: &[(&str, &str)] = &[
    ("policy_not_found", "there is no policy file, or no `[tool.checkrein]` in it"),
    ("policy_unreadable", "the file cannot be read"),
    ("policy_too_large", "the file has more than 4 MiB"),
];

#[test]
fn every_code_is_on_the_page_of_errors() {
    let mut page = "# Errors of the policy file\n\n\
        Written from the code, each with the shortest file that has it below `version = 1`. `checkrein policy check` tells\n\
        all errors of a file at once, with their places; files of [cases](policy-test.md) have the same codes.\n\n\
        | code | what is wrong | example | what is said |\n|---|---|---|---|\n"
        .to_owned();
    for (code, meaning, text) in CODES {
        let file = format!("version = 1\n{text}\n");
        let error = PolicyFile::parse("checkrein.toml", &file, false).map(|_| ()).expect_err(code);
        let problem = error.problems().iter().find(|problem| problem.code == *code);
        let problem = problem.unwrap_or_else(|| panic!("{code}: {}", error.report(100)));
        assert!(problem.line >= 2, "{code} has its place: {problem:?}");
        let cell = |text: &str| text.replace('|', "\\|").replace('\n', "<br>");
        let lines: Vec<String> = text.lines().map(|line| format!("`{}`", cell(line))).collect();
        let hint = problem.hint.as_deref().map(|hint| format!("; {}", cell(hint))).unwrap_or_default();
        let said = cell(&problem.message);
        writeln!(page, "| `{code}` | {meaning} | {} | {said}{hint} |", lines.join("<br>")).unwrap();
    }
    for (code, meaning) in FILES {
        writeln!(page, "| `{code}` | {meaning} | | |").unwrap();
    }
    expect_file!["../../../../../docs/reference/policy-errors.md"].assert_eq(&page);
}

/// A code that is given somewhere in the reader and is not on the page has been forgotten.
#[test]
fn no_code_of_the_reader_is_missing() {
    let known: BTreeSet<&str> =
        CODES.iter().map(|(code, ..)| *code).chain(FILES.iter().map(|(code, _)| *code)).collect();
    let pattern = regex::Regex::new("\"(policy_[a-z_]+)\"").unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/config");
    let directories = [source.clone(), source.join("cases")];
    let files = directories.iter().flat_map(|directory| std::fs::read_dir(directory).unwrap());
    let mut found = 0;
    for path in
        files.map(|file| file.unwrap().path()).filter(|path| path.extension().is_some_and(|e| e == "rs"))
    {
        let text = std::fs::read_to_string(&path).unwrap();
        for code in pattern.captures_iter(&text).map(|found| found.get(1).unwrap().as_str()) {
            assert!(known.contains(code), "{code} of {} is not on the page", path.display());
            found += 1;
        }
    }
    assert!(found > 20, "{found}");
}
