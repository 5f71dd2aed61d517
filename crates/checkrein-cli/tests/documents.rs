//! Tables in the documents that are generated from the code. `make generate` writes them.
#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

use std::fmt::Write;
use std::path::Path;

use checkrein_core::code::Code;

#[path = "verbs/list.rs"]
mod list;

fn code_table() -> String {
    let mut table = "| code | HTTP | exception | meaning | what to do |\n|---|---|---|---|---|\n".to_owned();
    for code in Code::all() {
        let (word, status, exception) = (code.word(), code.http_status(), code.exception());
        writeln!(table, "| `{word}` | {status} | `{exception}` | {} | {} |", code.message(), code.hint())
            .unwrap();
    }
    table
}

fn help() -> String {
    let mut text = String::new();
    for verb in list::verbs() {
        let verb = verb.join(" ");
        let arguments: Vec<&str> = verb.split_whitespace().chain(["--help"]).collect();
        let output = list::run(Path::new("."), "100", &arguments);
        let title = format!("checkrein {verb}");
        let shown = String::from_utf8(output.stdout).unwrap();
        let shown: Vec<&str> = shown.trim_end().lines().map(str::trim_end).collect();
        let shown = shown.join("\n");
        write!(text, "## `{}`\n\n```text\n{}\n```\n\n", title.trim(), shown).unwrap();
    }
    text
}

/// Compares what stands between `begin` and `end` in a document with `expected`; with `UPDATE_DOCUMENTS` writes it.
fn check(document: &str, begin: &str, end: &str, expected: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(document);
    let text = std::fs::read_to_string(&path).unwrap();
    let (head, rest) = text.split_once(begin).unwrap();
    let (found, tail) = rest.split_once(end).unwrap();
    if std::env::var_os("UPDATE_DOCUMENTS").is_some() {
        std::fs::write(&path, format!("{head}{begin}\n\n{}\n\n{end}{tail}", expected.trim())).unwrap();
        return;
    }
    let different =
        found.trim().lines().zip(expected.trim().lines()).find(|(found, expected)| found != expected);
    let is_same = found.trim() == expected.trim();
    assert!(is_same, "{document} is out of date, first here: {different:?}. Run `make generate`");
}

#[test]
fn the_table_of_codes_is_up_to_date() {
    check(
        "SEMANTICS.md",
        "<!-- codes: written by `make generate` -->",
        "<!-- end of codes -->",
        &code_table(),
    );
}

#[test]
fn the_reference_of_the_command_is_up_to_date() {
    check(
        "docs/reference/command.md",
        "<!-- help: written by `make generate` -->",
        "<!-- end of help -->",
        &help(),
    );
}
