//! `checkrein replay`: which recorded decisions another policy would make differently.

use std::path::PathBuf;

use checkrein::config::PolicyFile;
use checkrein::replay::{Options, Replay as Replaying, ReplayError, Replayed};

use super::policy;
use super::recording::{LedgerOf, refuse, refuse_with};
use crate::{Exit, Output};

mod json;
mod text;

/// Show which recorded decisions another policy would make differently
///
/// Every decision of a ledger is put to the policy again, at its time and with the outcome that was recorded, on records
/// of its own. The answer says first what it rests on, then what would have been stopped or would have run, in calls,
/// money and effects. Nothing is changed anywhere.
///
/// Exit code 0: nothing differs. Exit code 1: something does.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  checkrein replay --policy new.toml --ledger sqlite:checkrein.db
  checkrein replay --policy new.toml --ledger ledger.jsonl --key checkrein.db.pub
  checkrein replay --policy new.toml --old checkrein.toml --ledger ledger.jsonl --output json

Gates that read arguments can be asked again only if the ledger has these in full: `ledger_arguments=\"full\"`.")]
pub(crate) struct Replay {
    /// The policy file that decides now
    #[arg(long, value_name = "FILE")]
    policy: PathBuf,
    #[command(flatten)]
    ledger: LedgerOf,
    /// Compare with what this policy file makes of the ledger, instead of with what was recorded
    #[arg(long, value_name = "FILE")]
    old: Option<PathBuf>,
    /// How many of the decisions that differ are shown one by one
    #[arg(long, value_name = "COUNT", default_value_t = 20)]
    limit: usize,
    /// Refusals for other reasons differ too
    #[arg(long)]
    reasons: bool,
    /// What to print
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

impl Replay {
    pub(crate) fn run(&self) -> anyhow::Result<Exit> {
        let mut to = anstream::stdout().lock();
        let mut files = Vec::new();
        for path in std::iter::once(&self.policy).chain(&self.old) {
            match PolicyFile::load(path) {
                Ok(file) => files.push(file),
                Err(error) => {
                    policy::refuse(&mut to, &error, self.output)?;
                    return Ok(Exit::Usage);
                }
            }
        }
        let mut files = files.into_iter();
        let Some(new) = files.next() else { return Ok(Exit::Usage) };
        let replayed = match self.replay(new, files.next()) {
            Ok(replayed) => replayed,
            Err(error) => return Ok(refuse(&mut to, &error, self.output)?),
        };
        let is_empty = replayed.coverage.replayed == 0;
        match self.output {
            Output::Text => text::print(&mut to, &replayed, is_empty)?,
            _ if is_empty => {}
            Output::Json => self.output.print(&mut to, &json::record(&replayed))?,
            Output::Jsonl => self.output.print(&mut to, &json::lines(&replayed))?,
        }
        if is_empty {
            let (message, hint) = nothing(&replayed);
            return Ok(refuse_with(&mut to, "replay_nothing", message, Some(hint), self.output)?);
        }
        Ok(if replayed.totals.calls() > 0 { Exit::Found } else { Exit::Ok })
    }

    fn replay(&self, new: PolicyFile, old: Option<PolicyFile>) -> Result<Replayed, ReplayError> {
        let options = Options { limit: self.limit, reasons: self.reasons };
        let mut replaying = Replaying::new(new, old, options)?;
        let source = self.ledger.read("replay", &mut |entry| replaying.entry(entry))?;
        replaying.finish(source)
    }
}

/// Why there is nothing to compare, and what to do about it.
fn nothing(replayed: &Replayed) -> (&'static str, &'static str) {
    if replayed.coverage.decisions == 0 {
        return ("the ledger has no decisions", "name the ledger of a store that has decided something");
    }
    if replayed.coverage.lacks_arguments() {
        let hint =
            "keep them from now on: `ledger_arguments=\"full\"` of the engine, or the option of the store";
        return (
            "no decision can be replayed: the policy reads arguments that the ledger does not have",
            hint,
        );
    }
    ("no decision can be replayed", "`--output json` counts what was left out, and why")
}
