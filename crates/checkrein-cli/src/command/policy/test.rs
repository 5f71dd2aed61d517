//! `checkrein policy test [FILE]`: tries the cases that are kept beside a policy.

use std::io::Write;
use std::path::{Path, PathBuf};

use checkrein::config::{Case, CaseFailure, CaseFile, ExpectedReason, PYPROJECT, PolicyError, PolicyFile};
use checkrein_core::canonical_json;
use checkrein_core::decision::Reason;
use serde_json::{Value, json};

use super::{load, refuse};
use crate::command::{inert, print_error};
use crate::show::{counted, wrapped};
use crate::{Exit, Output};

/// The most sections without a case that are named in text.
const NAMED: usize = 8;

/// Try the cases that are kept beside a policy
#[derive(clap::Args)]
#[command(after_help = "Examples:
  checkrein policy test
  checkrein policy test checkrein.toml --cases cases/refunds.toml --filter refund
  checkrein policy test --output jsonl

The cases of `checkrein.toml` are in `checkrein.test.toml` beside it:

  version = 1
  [[cases]]
  name = \"the eleventh refund of an hour waits\"
  user = \"ann\"
  [[cases.steps]]
  tool = \"stripe.refund\"
  args = { amount = 5 }
  times = 10
  expect = \"allow\"
  [[cases.steps]]
  tool = \"stripe.refund\"
  args = { amount = 5 }
  expect = \"deny\"
  reasons = [\"rate_limited\"]

Every case begins with an empty store and a clock that only the case moves. Exit code 1 when a case fails or a file \
cannot be used, 2 when there is none, or no case to try.")]
pub(crate) struct Test {
    /// The policy file; without it, that of the current directory
    file: Option<PathBuf>,
    /// The file of cases; without it, the one beside the policy
    #[arg(long, value_name = "FILE")]
    cases: Option<PathBuf>,
    /// Only cases whose name has this text
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    filter: String,
    /// What to print
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

/// What was found, case by case.
struct Tried<'t> {
    policy: &'t PolicyFile,
    cases: &'t CaseFile,
    results: Vec<(&'t Case, Option<CaseFailure>)>,
    skipped: usize,
}

impl Test {
    pub(crate) fn run(&self) -> anyhow::Result<Exit> {
        let mut to = anstream::stdout().lock();
        let policy = match load(self.file.as_ref()) {
            Ok(policy) => policy,
            Err(error) => return Ok(refuse(&mut to, &error, self.output)?),
        };
        let path = self.cases.clone().unwrap_or_else(|| beside(Path::new(policy.name())));
        let cases = match CaseFile::load(&path) {
            Ok(cases) => cases,
            Err(error) => return Ok(refuse(&mut to, &error, self.output)?),
        };
        let chosen = cases.cases().iter().filter(|case| case.name.contains(&self.filter));
        let results =
            chosen.map(|case| Ok((case, case.run(&policy)?))).collect::<Result<Vec<_>, PolicyError>>();
        let results = match results {
            Ok(results) => results,
            Err(error) => {
                print_error(&error.to_string(), Some("`checkrein policy check` tells more"));
                return Ok(Exit::Found);
            }
        };
        if results.is_empty() {
            let hint = "`--filter` compares exactly; without it every case is tried";
            let hint = if self.filter.is_empty() { "add a `[[cases]]`" } else { hint };
            print_error(&format!("there is no case to try in `{}`", path.display()), Some(hint));
            return Ok(Exit::Usage);
        }
        let skipped = cases.cases().len().saturating_sub(results.len());
        let tried = Tried { policy: &policy, cases: &cases, results, skipped };
        match self.output {
            Output::Text => tried.write_text(&mut to)?,
            Output::Json => self.output.print(&mut to, &tried.record())?,
            Output::Jsonl => self.output.print(&mut to, &tried.lines())?,
        }
        Ok(if tried.failed() == 0 { Exit::Ok } else { Exit::Found })
    }
}

/// The file of cases beside a policy: `checkrein.test.toml` for `checkrein.toml` and for a Python project.
fn beside(policy: &Path) -> PathBuf {
    let stem = policy.file_stem().filter(|_| policy.file_name().is_some_and(|name| name != PYPROJECT));
    let mut name = stem.unwrap_or("checkrein".as_ref()).to_owned();
    name.push(".test.toml");
    policy.with_file_name(name)
}

impl Tried<'_> {
    fn failed(&self) -> usize {
        self.results.iter().filter(|(_, failure)| failure.is_some()).count()
    }

    fn write_text(&self, to: &mut impl Write) -> std::io::Result<()> {
        for (case, failure) in &self.results {
            match failure {
                None => wrapped(to, "  pass  ", &inert(&case.name))?,
                Some(failure) => {
                    wrapped(to, "  FAIL  ", &inert(&case.name))?;
                    self.write_failure(to, case, failure)?;
                }
            }
        }
        let (failed, all) = (self.failed(), self.results.len());
        let (colour, word) = if failed == 0 { ("32", "passed") } else { ("31", "failed") };
        write!(to, "\u{1b}[1;{colour}m{word}\u{1b}[0m: ")?;
        match (failed, self.skipped) {
            (0, 0) => writeln!(to, "{}", counted(all, "case"))?,
            (0, skipped) => writeln!(to, "{}, {skipped} not chosen", counted(all, "case"))?,
            (failed, 0) => writeln!(to, "{failed} of {}", counted(all, "case"))?,
            (failed, skipped) => writeln!(to, "{failed} of {}, {skipped} not chosen", counted(all, "case"))?,
        }
        let uncovered = self.cases.uncovered(self.policy);
        if !uncovered.is_empty() {
            let sections = self.policy.sections().tools.len();
            let mut names: Vec<String> = uncovered
                .iter()
                .take(NAMED)
                .map(|pattern| format!("`{}`", inert(pattern.as_str())))
                .collect();
            let more = uncovered.len().saturating_sub(NAMED);
            if more > 0 {
                names.push(format!("and {more} more"));
            }
            let text = format!(
                "{} of {} in no case: {}",
                uncovered.len(),
                counted(sections, "section"),
                names.join(", ")
            );
            wrapped(to, "", &text)?;
        }
        Ok(())
    }

    fn write_failure(&self, to: &mut impl Write, case: &Case, failure: &CaseFailure) -> std::io::Result<()> {
        let Some(step) = failure.step.checked_sub(1).and_then(|place| case.steps.get(place)) else {
            return Ok(());
        };
        let place = format!("{}:{}", inert(self.cases.name()), step.line);
        let time =
            if step.times > 1 { format!(", time {} of {}", failure.time, step.times) } else { String::new() };
        wrapped(to, "        ", &format!("step {}{time}, at {} ({place})", failure.step, step.at))?;
        let arguments = String::from_utf8_lossy(&canonical_json::to_vec(&step.arguments)).into_owned();
        let shown: String = arguments.chars().take(200).collect();
        let rest = if shown.len() < arguments.len() { "…" } else { "" };
        wrapped(to, "        ", &format!("{} {}{rest}", inert(&step.tool), inert(&shown)))?;
        let reasons = |reasons: &Option<Vec<ExpectedReason>>| {
            let all: Vec<String> = reasons.iter().flatten().map(said).collect();
            if all.is_empty() { String::new() } else { format!(": {}", all.join(", ")) }
        };
        let wanted = &step.expectation;
        let text = format!("{}{}", wanted.verdict.word(), reasons(&wanted.reasons));
        wrapped(to, "        expected  ", &text)?;
        wrapped(to, "        got       ", failure.verdict.word())?;
        for reason in &failure.reasons {
            wrapped(to, "          ", &format!("{}: {}", reason.code.word(), inert(&reason.to_string())))?;
        }
        if let Some(observed) = &wanted.observed {
            let all = reasons(&Some(observed.clone()));
            wrapped(
                to,
                "        expected  ",
                &format!("observed{}", if all.is_empty() { ": nothing" } else { &all }),
            )?;
        }
        for reason in &failure.observed {
            wrapped(
                to,
                "        observed  ",
                &format!("{}: {}", reason.code.word(), inert(&reason.to_string())),
            )?;
        }
        wrapped(to, "        differs   ", &inert(&failure.difference))
    }

    fn record(&self) -> Value {
        let cases: Value =
            self.results.iter().map(|(case, failure)| self.case(case, failure.as_ref())).collect();
        let mut record = self.summary();
        if let Some(record) = record.as_object_mut() {
            record.insert("cases".to_owned(), cases);
        }
        record
    }

    /// A line for each case, and one that sums up.
    fn lines(&self) -> Value {
        let with = |mut value: Value, kind: &str| {
            if let Some(value) = value.as_object_mut() {
                value.insert("kind".to_owned(), kind.into());
            }
            value
        };
        let cases =
            self.results.iter().map(|(case, failure)| with(self.case(case, failure.as_ref()), "case"));
        cases.chain([with(self.summary(), "summary")]).collect()
    }

    fn summary(&self) -> Value {
        let uncovered = self.cases.uncovered(self.policy);
        let uncovered: Vec<&str> = uncovered.into_iter().map(checkrein::config::Pattern::as_str).collect();
        json!({
            "policy": self.policy.name(),
            "file": self.cases.name(),
            "passed": self.results.len().saturating_sub(self.failed()),
            "failed": self.failed(),
            "not_chosen": self.skipped,
            "sections": self.policy.sections().tools.len(),
            "uncovered": uncovered,
        })
    }

    fn case(&self, case: &Case, failure: Option<&CaseFailure>) -> Value {
        let failure = failure.and_then(|failure| {
            let step = case.steps.get(failure.step.checked_sub(1)?)?;
            Some(json!({
                "step": failure.step,
                "time": failure.time,
                "line": step.line,
                "tool": step.tool,
                "at": step.at.to_string(),
                "expected": {
                    "verdict": step.expectation.verdict.word(),
                    "reasons": step.expectation.reasons.as_deref().map(expected),
                    "observed": step.expectation.observed.as_deref().map(expected),
                },
                "got": {
                    "verdict": failure.verdict.word(),
                    "reasons": failure.reasons.iter().map(reason).collect::<Value>(),
                    "observed": failure.observed.iter().map(reason).collect::<Value>(),
                },
                "difference": failure.difference,
            }))
        });
        json!({ "name": case.name, "line": case.line, "passed": failure.is_none(), "failure": failure })
    }
}

fn said(reason: &ExpectedReason) -> String {
    match &reason.gate {
        Some(gate) => format!("{} of `{}`", reason.code.word(), inert(gate)),
        None => reason.code.word().to_owned(),
    }
}

fn expected(reasons: &[ExpectedReason]) -> Value {
    reasons.iter().map(|reason| json!({ "code": reason.code.word(), "gate": reason.gate })).collect()
}

fn reason(reason: &Reason) -> Value {
    json!({
        "code": reason.code.word(),
        "kind": reason.kind.name(),
        "gate": &*reason.gate,
        "message": reason.message(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases_are_beside_their_policy() {
        for (policy, cases) in [
            ("checkrein.toml", "checkrein.test.toml"),
            ("pyproject.toml", "checkrein.test.toml"),
            ("a/prod.toml", "a/prod.test.toml"),
            ("a/pyproject.toml", "a/checkrein.test.toml"),
        ] {
            assert_eq!(beside(Path::new(policy)), Path::new(cases), "{policy}");
        }
    }
}
