//! `checkrein ledger show`: one entry, whole.

use std::io::Write as _;

use checkrein::core::ledger::entry::EntryView;
use checkrein::core::ledger::tree::{leaf_hash, to_hex};
use checkrein::ledger::LedgerError;
use serde_json::value::RawValue;

use super::{StoreOf, render, strict};
use crate::command::inert;
use crate::show::as_hashed;
use crate::{Exit, Output};

/// Show one entry, whole
#[derive(clap::Args)]
#[command(after_help = "Examples:
  checkrein ledger show 42 --store sqlite:checkrein.db
  checkrein ledger show 42 --output json --store sqlite:checkrein.db")]
pub(super) struct Show {
    /// Its sequence
    seq: u64,
    #[command(flatten)]
    store: StoreOf,
    /// What to print
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

impl Show {
    pub(super) fn run(&self) -> anyhow::Result<Exit> {
        let database = self.store.open()?;
        let body = database.entry(self.seq)?;
        let sealed = database.checkpoint_from(self.seq.saturating_add(1))?.map(|(size, _)| size);
        let sound = strict(self.seq, &body);
        let hash = to_hex(&leaf_hash(&body));
        let mut stdout = anstream::stdout().lock();
        match self.output {
            Output::Json | Output::Jsonl => {
                let text = String::from_utf8_lossy(&body).into_owned();
                // The entry as it is hashed, not as another program would write it.
                let entry = RawValue::from_string(text).map_err(|error| {
                    LedgerError::Damaged(format!("entry {} is not JSON: {error}", self.seq))
                })?;
                let sealed = sealed.map_or_else(|| "null".to_owned(), |size| size.to_string());
                let answer = format!(r#"{{"entry":{entry},"leaf_hash":"{hash}","sealed_by":{sealed}}}"#);
                writeln!(stdout, "{}", as_hashed(&answer))?;
            }
            Output::Text => {
                match EntryView::read(&body) {
                    Ok(entry) => render::whole(&mut stdout, &entry)?,
                    Err(_) => writeln!(stdout, "{}", inert(&String::from_utf8_lossy(&body)))?,
                }
                render::field(&mut stdout, "hash", &hash)?;
                let sealed = sealed.map_or_else(
                    || "not yet".to_owned(),
                    |size| format!("by the checkpoint over {}", render::count(size, "entry", "entries")),
                );
                render::field(&mut stdout, "sealed", &sealed)?;
            }
        }
        Ok(if sound { Exit::Ok } else { Exit::Found })
    }
}
