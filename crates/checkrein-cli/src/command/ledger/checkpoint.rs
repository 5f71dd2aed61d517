//! `checkrein ledger checkpoint`: seals what is not sealed, and prints the newest checkpoint.

use std::io::Write as _;
use std::path::PathBuf;

use checkrein::core::ledger::checkpoint::Note;
use checkrein::ledger::{LedgerError, Witness};
use serde_json::json;

use super::{StoreOf, seal_all, signer};
use crate::{Exit, Output};

/// Seal what is not sealed yet, and print the newest checkpoint: keep it elsewhere
#[derive(clap::Args)]
#[command(after_help = "Examples:
  checkrein ledger checkpoint --store sqlite:checkrein.db >checkpoint.txt
  checkrein ledger checkpoint --witness https://witness.example.com/add --store sqlite:checkrein.db")]
pub(super) struct Checkpoint {
    #[command(flatten)]
    store: StoreOf,
    /// The private key that seals this ledger; the one beside the store by default
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Print the newest one as it is, without sealing anything: no private key is needed
    #[arg(long)]
    newest: bool,
    /// Also send it to this witness: a file to append to, or an http(s) URL
    #[arg(long, value_name = "FILE|URL")]
    witness: Option<String>,
    /// What to print
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

impl Checkpoint {
    pub(super) fn run(&self) -> anyhow::Result<Exit> {
        let database = self.store.open()?;
        let witness = self.witness.as_deref().map(Witness::parse).transpose()?;
        if !self.newest {
            let signer = signer(&database, self.key.as_deref())?;
            if let Some(witness) = &witness {
                witness.check(&database, &signer.verifier())?;
            }
            seal_all(&database, &signer)?;
        }
        let (size, note) = database.newest_checkpoint()?.ok_or(LedgerError::NothingSealed)?;
        if let Some(witness) = &witness {
            witness.send(&note)?;
        }
        let mut stdout = anstream::stdout().lock();
        match self.output {
            Output::Text => write!(stdout, "{note}")?,
            output => {
                let text = Note::parse(&note).map(|note| note.text).unwrap_or_default();
                let mut lines = text.lines();
                let (origin, root) = (lines.next(), lines.nth(1));
                let answer = json!({ "origin": origin, "size": size, "root": root, "note": note });
                output.print(&mut stdout, &answer)?;
            }
        }
        Ok(Exit::Ok)
    }
}
