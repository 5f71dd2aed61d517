//! `checkrein backup`: a copy of a store as of one instant, while it is in use.

use std::io::Write;
use std::path::PathBuf;

use checkrein::ledger::keys;
use serde_json::json;

use super::store::{StoreOf, refuse, size};
use crate::show::inert_path;
use crate::{Exit, Output};

/// Copy a store into a new file, as of one instant, while it is in use
#[derive(clap::Args)]
#[command(after_help = "Examples:
  checkrein backup --store sqlite:checkrein.db -o checkrein-2026-11-21.db

The copy is a store of its own with mode 0600. Keep the key that signs the ledger apart from it.")]
pub(crate) struct Backup {
    #[command(flatten)]
    store: StoreOf,
    /// The new file; it must not exist yet
    #[arg(short = 'o', long = "out", value_name = "FILE")]
    file: PathBuf,
    /// What to print
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

impl Backup {
    pub(crate) fn run(&self) -> anyhow::Result<Exit> {
        let copied = self.store.path().and_then(|path| {
            checkrein::store::sqlite::backup(&path, &self.file)?;
            Ok(path)
        });
        let path = match copied {
            Ok(path) => path,
            Err(error) => return Ok(refuse(&error)),
        };
        let bytes = std::fs::metadata(&self.file)?.len();
        let mut to = anstream::stdout().lock();
        match self.output {
            Output::Text => {
                writeln!(
                    to,
                    "`{}` is copied to `{}` ({})",
                    inert_path(&path),
                    inert_path(&self.file),
                    size(bytes)
                )?;
                let key = keys::default_path(&path);
                if key.exists() {
                    let beside = keys::default_path(&self.file);
                    writeln!(
                        to,
                        "its key `{}` is not in it: keep a copy elsewhere; to use the copy as a store, put one at `{}`",
                        inert_path(&key),
                        inert_path(&beside)
                    )?;
                }
            }
            output => {
                let (store, file) = (path.display().to_string(), self.file.display().to_string());
                output.print(&mut to, &json!({ "store": store, "file": file, "bytes": bytes }))?;
            }
        }
        Ok(Exit::Ok)
    }
}
