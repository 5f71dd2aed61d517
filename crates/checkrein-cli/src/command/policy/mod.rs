//! `checkrein policy`: what a policy file says, before anything runs by it.

use std::path::{Path, PathBuf};

use checkrein::config::{PolicyFile, PolicyFileError};
use serde_json::{Value, json};

use super::columns;
use crate::Exit;

mod check;
mod explain;

/// Check a policy file, and explain what it says
#[derive(clap::Args)]
pub(crate) struct Policy {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand)]
enum Verb {
    Check(check::Check),
    Explain(explain::Explain),
}

impl Policy {
    pub(crate) fn run(&self) -> anyhow::Result<Exit> {
        match &self.verb {
            Verb::Check(check) => check.run(),
            Verb::Explain(explain) => explain.run(),
        }
    }
}

/// The file that was named, or the one at the root of the project.
fn load(file: Option<&PathBuf>) -> Result<PolicyFile, PolicyFileError> {
    match file {
        Some(path) => PolicyFile::load(path),
        None => {
            // Shown as it would be typed: without a leading `./`.
            let found = PolicyFile::find(Path::new("."))?;
            PolicyFile::load(found.strip_prefix(".").unwrap_or(&found))
        }
    }
}

/// A file that is not there is wrong use; one that is wrong is a finding.
fn exit_of(error: &PolicyFileError) -> Exit {
    let is_absent = |code: &str| matches!(code, "policy_unreadable" | "policy_not_found");
    if error.problems().iter().any(|problem| is_absent(problem.code)) { Exit::Usage } else { Exit::Found }
}

pub(super) fn record(error: &PolicyFileError) -> Value {
    let problems = error.problems().iter().map(|problem| {
        json!({
            "code": problem.code,
            "message": problem.message,
            "hint": problem.hint,
            "line": problem.line,
            "column": problem.column,
            "bytes": [problem.span.start, problem.span.end],
        })
    });
    json!({
        "file": error.name(),
        "valid": false,
        "problems": problems.collect::<Value>(),
        "more": error.more(),
    })
}

/// JSON in which nothing moves the cursor or hides what follows, when it is shown on a terminal.
pub(super) fn inert_json(value: &Value) -> String {
    let mut shown = String::new();
    // Outside of strings JSON is ASCII, and there every character may be written by its number.
    for c in format!("{value:#}").chars() {
        let is_plain = c.is_ascii() || c.escape_debug().count() == 1;
        if is_plain {
            shown.push(c);
        } else {
            let mut units = [0; 2];
            c.encode_utf16(&mut units).iter().for_each(|unit| shown.push_str(&format!("\\u{unit:04x}")));
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_inert_and_means_the_same() {
        let value = json!({ "message": "a\u{1b}[2Jb\u{202e}c\u{e000}d\u{1f600}é\u{e0001}" });
        let shown = inert_json(&value);
        assert!(!shown.contains(['\u{1b}', '\u{202e}', '\u{e0001}']), "{shown}");
        assert!(shown.contains("é"), "{shown}");
        assert_eq!(serde_json::from_str::<Value>(&shown).ok(), Some(value));
    }
}
