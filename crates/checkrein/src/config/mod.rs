//! The policy file: `checkrein.toml`, or `[tool.checkrein]` of a `pyproject.toml`, read strictly.
//!
//! Two looks are taken at a file. The first checks every value against one description of the format, which the
//! JSON Schema is printed from too; the second turns values into sections and checks what they say of each other.
//! Both collect what is wrong, each problem with its place, and a file with a problem is never used.

mod adjust;
mod binding;
mod call;
mod cases;
mod expressions;
mod facts;
mod fields;
mod model;
mod model_call;
mod model_fields;
mod model_policy;
mod model_request;
mod model_settle;
mod models;
mod pattern;
mod policies;
mod prices;
mod problem;
mod recorded;
mod resolve;
mod schema;
mod sections;
mod shape;
#[cfg(test)]
mod tests;
mod tools;
mod walk;

use std::io::Read as _;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use toml::Spanned;
use toml::de::DeTable;

pub use binding::{Bound, CodeGates};
pub use call::{Call, Uncovered, fact_key, fact_scope};
pub use cases::{
    Case, CaseFailure, CaseFile, CaseStep, Expectation, ExpectedReason, ExpectedVerdict, StepOutcome, Who,
};
pub use expressions::VARIABLES;
pub use facts::{FactKind, is_said};
pub use model::{
    AttemptsGate, BreakerSection, BudgetSection, FactGate, Freeze, LimitGate, ModelSection, OnceGate, Proof,
    RepetitionGate, RuleGate, Sections, Take, TakenCost, ToolSection,
};
pub use model_call::{Held, ModelAdmitted, ModelCall, ModelPermit};
pub use model_request::{ModelRequest, ModelRequestError};
pub use model_settle::{Settled, Shortfall};
pub use pattern::Pattern;
pub use policies::{Binding, Policies, PolicyError, ToolPolicy};
pub use problem::{MAX_PROBLEMS, PolicyFileError, Problem};
pub use schema::{cases_schema, json_schema};

use expressions::Expressions;
use problem::Problems;
use sections::Reader;
use walk::Walk;

/// The name a policy file has at the root of a project.
pub const FILE_NAME: &str = "checkrein.toml";
/// The file of a Python project that may have the policy as its table `[tool.checkrein]`.
pub const PYPROJECT: &str = "pyproject.toml";
/// The most bytes of a policy file.
pub const MAX_BYTES: usize = 4 << 20;

/// A policy file that was read, every value in it checked.
#[derive(Clone, Debug)]
pub struct PolicyFile {
    name: String,
    sections: Sections,
    digest: [u8; 32],
}

impl PolicyFile {
    /// Reads a file. One named `pyproject.toml` has the policy as `[tool.checkrein]`.
    ///
    /// # Errors
    /// The file cannot be read, or not be used, for every reason that was found.
    pub fn load(path: &Path) -> Result<Self, PolicyFileError> {
        let name = path.display().to_string();
        let text = read(path, &name)?;
        let is_project = path.file_name().is_some_and(|name| name == PYPROJECT);
        Self::parse(&name, &text, is_project)
    }

    /// Finds the policy file of a project: at its root, never above it.
    ///
    /// # Errors
    /// There is none, or two of them.
    pub fn find(root: &Path) -> Result<PathBuf, PolicyFileError> {
        let (own, project) = (root.join(FILE_NAME), root.join(PYPROJECT));
        let in_project = project.is_file() && {
            let text = read(&project, &project.display().to_string())?;
            let (file, _) = DeTable::parse_recoverable(&text);
            tool_table(file.get_ref()).is_some()
        };
        let name = root.display().to_string();
        match (own.is_file(), in_project) {
            (true, false) => Ok(own),
            (false, true) => Ok(project),
            (true, true) => {
                let message = format!("`{FILE_NAME}` and `[tool.checkrein]` of `{PYPROJECT}` are both there");
                Err(PolicyFileError::whole(&name, "policy_contradiction", message, "keep one of them"))
            }
            (false, false) => {
                let message = format!("no `{FILE_NAME}` and no `[tool.checkrein]` in `{PYPROJECT}`");
                Err(PolicyFileError::whole(&name, "policy_not_found", message, "name the file of the policy"))
            }
        }
    }

    /// Reads the text of a file; `is_project` says that the policy is its table `[tool.checkrein]`.
    ///
    /// # Errors
    /// It cannot be used, for every reason that was found.
    pub fn parse(name: &str, text: &str, is_project: bool) -> Result<Self, PolicyFileError> {
        // One stack that suffices for all expressions: a thread for each would cost more than they do.
        crate::expression::with_room(|| Self::parse_here(name, text, is_project)).unwrap_or_else(|_| {
            let hint = "try again; if it stays, report the file";
            Err(PolicyFileError::whole(
                name,
                "policy_unreadable",
                "the file cannot be looked at".to_owned(),
                hint,
            ))
        })
    }

    fn parse_here(name: &str, text: &str, is_project: bool) -> Result<Self, PolicyFileError> {
        let mut problems = Problems::default();
        let (file, is_broken) = toml(text, &mut problems);
        let (table, span) = if is_project {
            match tool_table(file.get_ref()) {
                Some(found) => found,
                None => {
                    let hint = "add `[tool.checkrein]` with `version = 1`".to_owned();
                    problems.add("policy_not_found", 0..0, "there is no table `[tool.checkrein]`", hint);
                    return Err(self::error(problems, name, text));
                }
            }
        } else {
            (file.get_ref(), 0..0)
        };
        if is_broken {
            // What else seems wrong with a file that is no TOML is mostly a consequence.
            return Err(self::error(problems, name, text));
        }
        let mut expressions = Expressions::default();
        Walk { text, problems: &mut problems, expressions: &mut expressions }.block(
            &fields::FILE,
            table,
            span,
        );
        let reader = Reader {
            problems: &mut problems,
            expressions: &mut expressions,
            budgets: Default::default(),
            named_budgets: Default::default(),
            breakers: Default::default(),
            named_breakers: Default::default(),
        };
        let sections = reader.read(table);
        match problems.into_error(name, text) {
            Some(error) => Err(error),
            None => Ok(Self { name: name.to_owned(), sections, digest: Sha256::digest(text).into() }),
        }
    }

    /// What the file is called in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it says.
    pub fn sections(&self) -> &Sections {
        &self.sections
    }

    /// The SHA-256 of its text.
    pub fn digest(&self) -> &[u8; 32] {
        &self.digest
    }
}

/// Reads TOML: the table, and whether it is so broken that it says nothing.
fn toml<'t>(text: &'t str, problems: &mut Problems) -> (Spanned<DeTable<'t>>, bool) {
    let (file, errors) = DeTable::parse_recoverable(text);
    let mut is_broken = false;
    for error in errors {
        let is_repeated = error.message().contains("duplicate key");
        is_broken |= !is_repeated;
        let (code, hint) = if is_repeated {
            ("policy_duplicate_key", "keep one of them")
        } else {
            ("policy_syntax", "see https://toml.io for the syntax of TOML")
        };
        let end = text.len();
        problems.add(code, error.span().unwrap_or(end..end), error.message(), hint.to_owned());
    }
    (file, is_broken)
}

fn error(problems: Problems, name: &str, text: &str) -> PolicyFileError {
    let unknown =
        || PolicyFileError::whole(name, "policy_syntax", "the file cannot be read".to_owned(), "mend it");
    problems.into_error(name, text).unwrap_or_else(unknown)
}

/// The table `[tool.checkrein]` and its place.
fn tool_table<'t, 'i>(file: &'t DeTable<'i>) -> Option<(&'t DeTable<'i>, std::ops::Range<usize>)> {
    let tools = sections::table(file, "tool")?;
    let (_, value) = tools.iter().find(|(key, _)| key.get_ref() == "checkrein")?;
    Some((value.get_ref().as_table()?, value.span()))
}

/// Reads a file of bounded size as text.
fn read(path: &Path, name: &str) -> Result<String, PolicyFileError> {
    let whole = |code, message: String, hint: &str| PolicyFileError::whole(name, code, message, hint);
    let failed = |error: std::io::Error| {
        whole(
            "policy_unreadable",
            format!("the file cannot be read: {error}"),
            "check its name and permissions",
        )
    };
    if !std::fs::metadata(path).map_err(failed)?.is_file() {
        // Opening a pipe would wait for its writer, and a device may have no end.
        let message = "it is no ordinary file".to_owned();
        return Err(whole("policy_unreadable", message, "name a file"));
    }
    let file = std::fs::File::open(path).map_err(failed)?;
    let before = file.metadata().map_err(failed)?;
    let mut bytes = Vec::new();
    let most = u64::try_from(MAX_BYTES).unwrap_or(u64::MAX).saturating_add(1);
    (&file).take(most).read_to_end(&mut bytes).map_err(failed)?;
    let after = file.metadata().map_err(failed)?;
    let is_same = before.len() == after.len() && before.modified().ok() == after.modified().ok();
    if before.is_file() && !is_same {
        let hint = "write another file and rename it to this name: then it is there as a whole";
        return Err(whole("policy_unreadable", "the file was written to while it was read".to_owned(), hint));
    }
    if bytes.len() > MAX_BYTES {
        let message = format!("the file has more than {MAX_BYTES} bytes");
        return Err(whole("policy_too_large", message, "a policy is text that people review"));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        whole("policy_syntax", format!("byte {at} is not UTF-8"), "save the file as UTF-8")
    })
}
