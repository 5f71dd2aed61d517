//! Reads a file of cases: first the form of every value, then what the steps of a case say of each other.

use std::ops::Range;

use checkrein_core::code::Code;
use checkrein_core::json::{Object, Value};
use checkrein_core::ledger::moment;
use checkrein_core::time::{Span, Timestamp};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Case, CaseFile, CaseStep, Expectation, ExpectedReason, ExpectedVerdict, StepOutcome, Who};
use crate::config::expressions::Expressions;
use crate::config::problem::{Problems, place_of};
use crate::config::sections::{field, list, number, table, text};
use crate::config::walk::{Walk, cut, json_of};
use crate::config::{PolicyFileError, error, toml};

/// The most actions of a file, steps that are taken several times counted as often.
const MAX_ACTIONS: u64 = 100_000;
/// 2026-01-01T00:00:00Z, a Thursday.
const START: Timestamp = Timestamp::from_nanos(1_767_225_600 * 1_000_000_000);

struct Reader<'r> {
    file: &'r str,
    problems: &'r mut Problems,
}

impl CaseFile {
    /// Reads the text of a file of cases.
    ///
    /// # Errors
    /// It cannot be used, for every reason that was found. Codes are those of policy files.
    pub fn parse(name: &str, text: &str) -> Result<Self, PolicyFileError> {
        let mut problems = Problems::default();
        let (file, is_broken) = toml(text, &mut problems);
        if is_broken {
            return Err(error(problems, name, text));
        }
        let mut expressions = Expressions::default();
        Walk { text, problems: &mut problems, expressions: &mut expressions }.block(
            &super::CASES,
            file.get_ref(),
            0..0,
        );
        let cases = Reader { file: text, problems: &mut problems }.read(file.get_ref());
        match problems.into_error(name, text) {
            Some(error) => Err(error),
            None => Ok(Self { name: name.to_owned(), cases }),
        }
    }
}

impl Reader<'_> {
    fn read(mut self, file: &DeTable<'_>) -> Vec<Case> {
        let everybody = who(table(file, "defaults"), &Who::default());
        let mut cases: Vec<Case> = Vec::new();
        for item in list(file, "cases") {
            let Some((case, place)) = self.case(item, &everybody) else { continue };
            if let Some(other) = cases.iter().find(|other| other.name == case.name) {
                let message = format!("the case of line {} has this name too", other.line);
                self.problems.add("policy_contradiction", place, message, "say what is different".to_owned());
            }
            cases.push(case);
        }
        let actions: u64 = cases.iter().flat_map(|case| &case.steps).map(|step| u64::from(step.times)).sum();
        if actions > MAX_ACTIONS {
            let place = field(file, "cases").map(Spanned::span).unwrap_or_default();
            let message = format!("{actions} actions");
            let hint = format!("at most {MAX_ACTIONS} are allowed in one file");
            self.problems.add("policy_too_many", place.start..place.start, message, hint);
        }
        cases
    }

    fn line(&self, span: &Range<usize>) -> usize {
        place_of(self.file, span.start).0
    }

    fn case(&mut self, item: &Spanned<DeValue<'_>>, everybody: &Who) -> Option<(Case, Range<usize>)> {
        let of = item.get_ref().as_table()?;
        let who = who(Some(of), everybody);
        let start = text(of, "start").and_then(|(written, place)| self.moment(written, place));
        let mut at = Span::ZERO;
        let mut steps = Vec::new();
        for step in list(of, "steps") {
            steps.extend(step.get_ref().as_table().and_then(|of| self.step(of, &who, &mut at)));
        }
        if steps.is_empty()
            && let Some(place) = field(of, "steps")
                .filter(|steps| steps.get_ref().as_array().is_some_and(|steps| steps.is_empty()))
        {
            let hint = "add a step: a case without one shows nothing".to_owned();
            self.problems.add("policy_missing_field", place.span(), "the case has no step", hint);
        }
        let (name, place) = text(of, "name")?;
        let line = self.line(&place);
        Some((Case { name: name.to_owned(), line, start: start.unwrap_or(START), steps }, place))
    }

    fn moment(&mut self, written: &str, place: Range<usize>) -> Option<Timestamp> {
        let whole = match written.strip_suffix('Z') {
            Some(head) => format!("{head}.000000000Z"),
            None => format!("{written}T00:00:00.000000000Z"),
        };
        let found = moment::read(whole.as_bytes());
        if found.is_none() {
            let message = format!("there is no instant `{}`", cut(written));
            let hint = "use a day that exists, as in `2026-11-21`".to_owned();
            self.problems.add("policy_bad_text", place, message, hint);
        }
        found
    }

    fn step(&mut self, of: &DeTable<'_>, who_of_case: &Who, at: &mut Span) -> Option<CaseStep> {
        if let Some((written, place)) = text(of, "at")
            && let Some(span) = Span::parse(written)
        {
            if span < *at {
                let message = format!("{span} is before the step above, at {at}");
                self.problems.add("policy_contradiction", place, message, "time runs forward".to_owned());
            }
            *at = span;
        }
        let (tool, place) = text(of, "tool")?;
        let verdict = match text(of, "expect")?.0 {
            "allow" => ExpectedVerdict::Allow,
            "deny" => ExpectedVerdict::Deny,
            _ => ExpectedVerdict::Replay,
        };
        self.check_fits(of, verdict);
        let outcome = match text(of, "outcome").map(|(word, _)| word) {
            Some("failed") => StepOutcome::Failed,
            Some("in_doubt") => StepOutcome::InDoubt,
            Some("running") => StepOutcome::Running,
            _ => StepOutcome::Done,
        };
        Some(CaseStep {
            line: self.line(&place),
            at: *at,
            times: field(of, "times").map_or(Some(1), |value| number(value.get_ref()))?,
            who: who(Some(of), who_of_case),
            tool: tool.to_owned(),
            arguments: match field(of, "args") {
                Some(value) => json_of(value.get_ref())?,
                None => Value::Object(Object::default()),
            },
            expectation: Expectation {
                verdict,
                reasons: reasons(of, "reasons"),
                observed: reasons(of, "observed"),
            },
            outcome,
            result: match field(of, "result") {
                Some(value) => Some(json_of(value.get_ref())?),
                None => None,
            },
        })
    }

    /// Fields that mean nothing for the decision that is expected.
    fn check_fits(&mut self, of: &DeTable<'_>, verdict: ExpectedVerdict) {
        let is_done = text(of, "outcome").is_none_or(|(word, _)| word == "done");
        let fits = [
            ("reasons", verdict == ExpectedVerdict::Deny, "only a step that is denied has reasons"),
            ("outcome", verdict == ExpectedVerdict::Allow, "only a step that is allowed has an outcome"),
            (
                "result",
                verdict == ExpectedVerdict::Replay || (verdict == ExpectedVerdict::Allow && is_done),
                "only a step that is done or replayed has a result",
            ),
        ];
        for (name, fits, message) in fits {
            if !fits && let Some((key, _)) = of.iter().find(|(key, _)| key.get_ref() == name) {
                let hint = format!("leave `{name}` out, or change what is expected");
                self.problems.add("policy_contradiction", key.span(), message, hint);
            }
        }
        let is_empty =
            |value: &&Spanned<DeValue<'_>>| value.get_ref().as_array().is_some_and(|all| all.is_empty());
        if let Some(value) = field(of, "reasons").filter(is_empty) {
            let hint = "leave `reasons` out where any reason will do".to_owned();
            self.problems.add("policy_contradiction", value.span(), "what is denied has a reason", hint);
        }
    }
}

/// Who acts: what a table says, and where it says nothing, who acts otherwise.
fn who(of: Option<&DeTable<'_>>, otherwise: &Who) -> Who {
    let named = |name: &str, otherwise: &String| {
        of.and_then(|of| text(of, name)).map_or_else(|| otherwise.clone(), |(name, _)| name.to_owned())
    };
    Who {
        tenant: named("tenant", &otherwise.tenant),
        user: named("user", &otherwise.user),
        agent: named("agent", &otherwise.agent),
        run: named("run", &otherwise.run),
        session: named("session", &otherwise.session),
        principal: named("principal", &otherwise.principal),
        namespace: named("namespace", &otherwise.namespace),
    }
}

fn reasons(of: &DeTable<'_>, name: &str) -> Option<Vec<ExpectedReason>> {
    field(of, name)?;
    let reason = |item: &Spanned<DeValue<'_>>| match item.get_ref() {
        DeValue::String(word) => Some(ExpectedReason { code: Code::from_word(word)?, gate: None }),
        value => {
            let of = value.as_table()?;
            let gate = text(of, "gate").map(|(gate, _)| gate.to_owned());
            Some(ExpectedReason { code: Code::from_word(text(of, "code")?.0)?, gate })
        }
    };
    Some(list(of, name).iter().filter_map(reason).collect())
}
