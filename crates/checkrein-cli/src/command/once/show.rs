//! `checkrein once show`: everything that a store knows of one operation.

use std::io::Write;

use checkrein::core::gate::once::OperationState;
use checkrein::core::ledger::moment;
use serde_json::Value;

use super::super::inert;
use super::super::store::{SharedStoreOf, age, short};
use super::{Which, shown};
use crate::{Exit, Output};

/// Show one operation, with its stored result
#[derive(clap::Args)]
#[command(after_help = "Examples:
  checkrein once show inv-7 --store sqlite:checkrein.db
  checkrein once show inv-7 --tenant acme --output json --store sqlite:checkrein.db")]
pub(super) struct Show {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    store: SharedStoreOf,
    /// What to print
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

impl Show {
    pub(super) fn run(&self) -> anyhow::Result<Exit> {
        let store = self.store.open()?;
        let Some(operation) = self.which.find(&store)? else { return Ok(Exit::Usage) };
        let now = store.clock().now();
        let result = match &operation.state {
            OperationState::Done(Some(result)) => Some(result.to_vec()),
            _ => None,
        };
        let mut to = anstream::stdout().lock();
        if self.output != Output::Text {
            let mut record = operation.json(now);
            if let (Some(record), Some(result)) = (record.as_object_mut(), &result) {
                // What a codec of the user's wrote may be anything.
                let value = serde_json::from_slice::<Value>(result)
                    .unwrap_or_else(|_| Value::from(result.escape_ascii().to_string()));
                record.insert("result".to_owned(), value);
            }
            self.output.print(&mut to, &record)?;
            return Ok(Exit::Ok);
        }
        let since =
            format!("{} (for {})", moment::to_text(operation.since), short(age(now, operation.since)));
        let result = match (&operation.state, result) {
            (OperationState::Done(_), Some(result)) => inert(
                &String::from_utf8(result)
                    .unwrap_or_else(|error| error.as_bytes().escape_ascii().to_string()),
            ),
            (OperationState::Done(_), None) => "not kept".to_owned(),
            _ => "none".to_owned(),
        };
        for (name, value) in [
            ("key", inert(&shown(operation.key.borrow().key))),
            ("gate", inert(&operation.gate)),
            ("tenant", inert(&operation.tenant())),
            ("state", operation.state.name().replace('_', " ")),
            ("since", since),
            (
                "run",
                format!("{}, admitted {}", operation.run.number(), moment::to_text(operation.run.admitted())),
            ),
            ("sent as", format!("{} (Idempotency-Key of Python tools)", operation.idempotency_key())),
            ("result", result),
        ] {
            writeln!(to, "{name:8}  {value}")?;
        }
        Ok(Exit::Ok)
    }
}
