//! `checkrein policy`: what a policy file says, before anything runs by it.

use std::io::Write;
use std::path::{Path, PathBuf};

use checkrein::config::{PolicyFile, PolicyFileError};
use serde_json::{Value, json};

use crate::command::columns;
use crate::{Exit, Output};

mod action;
mod check;
mod explain;
mod origin;
mod test;

/// Check a policy file, try its cases, and explain what it says
#[derive(clap::Args)]
#[command(after_help = "Examples:
  checkrein policy check
  checkrein policy test
  checkrein policy explain action.json")]
pub(crate) struct Policy {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand)]
enum Verb {
    Check(check::Check),
    Test(test::Test),
    Explain(explain::Explain),
}

impl Policy {
    pub(crate) fn run(&self) -> anyhow::Result<Exit> {
        match &self.verb {
            Verb::Check(check) => check.run(),
            Verb::Test(test) => test.run(),
            Verb::Explain(explain) => explain.run(),
        }
    }
}

/// The file that was named, or the one at the root of the project.
pub(super) fn load(file: Option<&PathBuf>) -> Result<PolicyFile, PolicyFileError> {
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
pub(super) fn exit_of(error: &PolicyFileError) -> Exit {
    let is_absent = |code: &str| matches!(code, "policy_unreadable" | "policy_not_found");
    if error.problems().iter().any(|problem| is_absent(problem.code)) { Exit::Usage } else { Exit::Found }
}

/// Prints what is wrong with a file.
pub(super) fn refuse(to: &mut impl Write, error: &PolicyFileError, output: Output) -> std::io::Result<Exit> {
    match output {
        // Standard error may be closed; the exit code still tells.
        Output::Text => drop(write!(anstream::stderr().lock(), "{}", error.report(columns()))),
        output => output.print(to, &record(error))?,
    }
    Ok(exit_of(error))
}

fn record(error: &PolicyFileError) -> Value {
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
