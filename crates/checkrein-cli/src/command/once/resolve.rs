//! `checkrein once resolve`: a person says what became of an operation in doubt.

use std::io::Write;
use std::sync::Arc;

use anyhow::Context as _;
use checkrein::core::canonical_json;
use checkrein::core::gate::once::OperationState;
use checkrein::core::json::{self, Limits};
use checkrein::store::{Step, StepResult};
use serde_json::json;

use super::super::store::SharedStoreOf;
use super::super::{inert, print_error};
use super::{Which, shown};
use crate::{Exit, Output};

/// What became of it.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Ended {
    /// It happened: the key never runs again
    Done,
    /// It had no effect: the key may run again
    Failed,
}

/// Say what became of an operation in doubt; the ledger keeps who said so
#[derive(clap::Args)]
#[command(after_help = "Examples:
  checkrein once resolve inv-7 --as failed --by kim --store sqlite:checkrein.db
  checkrein once resolve inv-7 --as done --result '{\"paid\": \"49.00\"}' --store sqlite:checkrein.db")]
pub(super) struct Resolve {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    store: SharedStoreOf,
    /// What became of it
    #[arg(long = "as", value_enum)]
    ended: Ended,
    /// What it returned, as JSON: what a repetition of the call gets
    #[arg(long, value_name = "JSON")]
    result: Option<String>,
    /// Who says so; the name of the user by default
    #[arg(long, value_name = "NAME", env = "USER", hide_env_values = true)]
    by: Option<String>,
    /// What to print
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

impl Resolve {
    pub(super) fn run(&self) -> anyhow::Result<Exit> {
        anyhow::ensure!(
            self.ended == Ended::Done || self.result.is_none(),
            "what failed has no result: leave `--result` out"
        );
        let stored: Option<Arc<[u8]>> = match &self.result {
            None => None,
            Some(text) => {
                let value =
                    json::read(text.as_bytes(), &Limits::default()).context("`--result` is no JSON")?;
                Some(canonical_json::to_vec(&value).into())
            }
        };
        let store = self.store.open()?;
        let Some(operation) = self.which.find(&store)? else { return Ok(Exit::Usage) };
        let key = inert(&shown(operation.key.borrow().key));
        if !operation.is_in_doubt() {
            let state = operation.state.name();
            print_error(&format!("`{key}` is {state}, not in doubt"), None);
            return Ok(Exit::Found);
        }
        let state = match self.ended {
            Ended::Done => OperationState::Done(stored),
            Ended::Failed => OperationState::FailedClean,
        };
        let word = state.name();
        let by = self.by.clone().filter(|by| !by.is_empty()).unwrap_or_else(|| "unknown".to_owned());
        let fields = [
            ("by", by.clone()),
            ("door", "cli".to_owned()),
            ("gate", operation.gate.clone()),
            ("key", operation.key.borrow().key.escape_ascii().to_string()),
            ("run", operation.run.number().to_string()),
            ("state", word.to_owned()),
            ("tenant", operation.key.borrow().tenant.escape_ascii().to_string()),
        ];
        let fields = fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        // What somebody asked for is written in any case, and that it took effect in the same transaction.
        let results = store.run(vec![
            Step::Note("resolution".to_owned(), fields),
            Step::Resolve(operation.key.clone(), Some(operation.run), state),
        ])?;
        match results.last() {
            Some(StepResult::Done) => {}
            Some(StepResult::Failed(error)) => return Err(error.clone().into()),
            _ => {
                print_error(&format!("`{key}` is not in doubt any more, or runs again"), None);
                return Ok(Exit::Found);
            }
        }
        let mut to = anstream::stdout().lock();
        match self.output {
            Output::Text => writeln!(to, "`{key}` is {} (said by {})", word.replace('_', " "), inert(&by))?,
            output => {
                let key = shown(operation.key.borrow().key);
                let answer = json!({ "key": key, "gate": operation.gate, "state": word, "by": by });
                output.print(&mut to, &answer)?;
            }
        }
        Ok(Exit::Ok)
    }
}
