//! Cases that are kept beside a policy file: what it has to say to actions, told in steps and tried on a fresh store.

mod fields;
mod read;
mod run;

use std::path::Path;

use checkrein_core::code::Code;
use checkrein_core::json::Value;
use checkrein_core::time::{Span, Timestamp};

pub(super) use fields::CASES;
pub use run::CaseFailure;

use super::{Pattern, PolicyFile, PolicyFileError};

/// A file of cases that was read, every value in it checked.
#[derive(Clone, Debug)]
pub struct CaseFile {
    name: String,
    cases: Vec<Case>,
}

/// A sequence of actions that begins with a store in which nothing has happened.
#[derive(Clone, Debug)]
pub struct Case {
    /// What it shows, in words.
    pub name: String,
    /// The line of its name in the file.
    pub line: usize,
    /// When it begins.
    pub start: Timestamp,
    /// The actions.
    pub steps: Vec<CaseStep>,
}

/// One action, and what the policy has to say to it.
#[derive(Clone, Debug)]
pub struct CaseStep {
    /// Its line in the file.
    pub line: usize,
    /// When, since the case began.
    pub at: Span,
    /// How often.
    pub times: u32,
    /// Who acts.
    pub who: Who,
    /// The tool.
    pub tool: String,
    /// Its arguments: an object.
    pub arguments: Value,
    /// What has to be said.
    pub expectation: Expectation,
    /// What becomes of it when it is allowed.
    pub outcome: StepOutcome,
    /// What the tool returns; of a replay, what is returned again.
    pub result: Option<Value>,
}

/// Who acts; texts are empty where nobody is named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Who {
    /// The tenant.
    pub tenant: String,
    /// The user it acts for.
    pub user: String,
    /// The agent that acts.
    pub agent: String,
    /// The run it belongs to.
    pub run: String,
    /// The session it belongs to.
    pub session: String,
    /// Who was identified by a door.
    pub principal: String,
    /// The namespace of the tool.
    pub namespace: String,
}

/// What a policy has to say to a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expectation {
    /// The decision.
    pub verdict: ExpectedVerdict,
    /// The reasons of a refusal, all of them; nothing where any will do.
    pub reasons: Option<Vec<ExpectedReason>>,
    /// What gates in observe mode say, all of it; nothing where anything will do.
    pub observed: Option<Vec<ExpectedReason>>,
}

/// A decision, without its reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpectedVerdict {
    /// It may run.
    Allow,
    /// It may not.
    Deny,
    /// It ran before.
    Replay,
}

impl ExpectedVerdict {
    /// The word in a file of cases.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Replay => "replay",
        }
    }
}

/// A reason that has to be given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpectedReason {
    /// Its code.
    pub code: Code,
    /// The name of the gate, where it matters.
    pub gate: Option<String>,
}

/// What becomes of an action that is allowed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StepOutcome {
    /// It happened.
    #[default]
    Done,
    /// It failed without an effect.
    Failed,
    /// It may have had an effect.
    InDoubt,
    /// It goes on until the case ends.
    Running,
}

impl CaseFile {
    /// Reads a file of cases.
    ///
    /// # Errors
    /// The file cannot be read, or not be used, for every reason that was found.
    pub fn load(path: &Path) -> Result<Self, PolicyFileError> {
        let name = path.display().to_string();
        Self::parse(&name, &super::read(path, &name)?)
    }

    /// What the file is called in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The cases, in the order of the file.
    pub fn cases(&self) -> &[Case] {
        &self.cases
    }

    /// The sections of a policy's tools that cover no step of any case.
    pub fn uncovered<'p>(&self, policy: &'p PolicyFile) -> Vec<&'p Pattern> {
        let steps = || self.cases.iter().flat_map(|case| &case.steps);
        let sections = policy.sections().tools.iter().map(|section| &section.pattern);
        sections.filter(|pattern| !steps().any(|step| pattern.covers(&step.tool))).collect()
    }
}
