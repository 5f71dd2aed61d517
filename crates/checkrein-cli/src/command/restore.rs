//! `checkrein restore`: puts a backup in the place of a store.

use std::io::Write;
use std::path::PathBuf;

use checkrein::core::ledger::moment;
use checkrein::ledger::{Database, keys};
use checkrein::store::sqlite::{Restoration, restore};
use serde_json::json;

use super::store::{StoreOf, refuse};
use crate::show::inert_path;
use crate::{Exit, Output};

/// Put a backup in the place of a store that nobody has open
#[derive(clap::Args)]
#[command(after_help = "Examples:
  checkrein restore checkrein-2026-11-21.db --store sqlite:checkrein.db

What ran since the backup is not known to the store any more: spent budgets are lower and once keys of that time \
may run again. Resolve what you know before you open the store. What was open in the backup is voided: reserved \
actions are released, started ones are in doubt. The gap is an entry of the ledger, and the file that was there is \
kept beside the store.")]
pub(crate) struct Restore {
    /// The backup
    file: PathBuf,
    #[command(flatten)]
    store: StoreOf,
    /// Restore it even if it is damaged
    #[arg(long)]
    accept_damage: bool,
    /// What to print
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

impl Restore {
    pub(crate) fn run(&self) -> anyhow::Result<Exit> {
        let done = self.store.path().and_then(|path| restore(&self.file, &path, self.accept_damage));
        let done = match done {
            Ok(done) => done,
            Err(error) => return Ok(refuse(&error)),
        };
        let mut to = anstream::stdout().lock();
        match self.output {
            Output::Text => self.write_text(&mut to, &done)?,
            output => {
                let backup = &done.restored.backup;
                let record = json!({
                    "store": done.path.display().to_string(),
                    "backup": self.file.display().to_string(),
                    "aside": done.aside.as_ref().map(|path| path.display().to_string()),
                    "epoch": done.restored.epoch,
                    "voided": done.restored.voided,
                    "backup_time": moment::to_text(backup.last),
                    "backup_entries": backup.entries,
                    "replaced_entries": done.replaced.map(|mark| mark.entries),
                    "sound": done.report.is_sound(),
                });
                output.print(&mut to, &record)?;
            }
        }
        Ok(Exit::Ok)
    }

    fn write_text(&self, to: &mut impl Write, done: &Restoration) -> std::io::Result<()> {
        let backup = &done.restored.backup;
        writeln!(
            to,
            "`{}` is what it was at {} UTC, with {} ledger entries",
            inert_path(&done.path),
            moment::to_text(backup.last),
            backup.entries
        )?;
        match done.replaced {
            Some(mark) => writeln!(
                to,
                "  lost           {} transactions and {} ledger entries since",
                mark.commits.saturating_sub(backup.commits),
                mark.entries.saturating_sub(backup.entries)
            )?,
            None => writeln!(to, "  lost           unknown: the store that was there could not be read")?,
        }
        writeln!(to, "  voided         {} open permits", done.restored.voided)?;
        if let Some(aside) = &done.aside {
            writeln!(to, "  kept           the file that was there, as `{}`", inert_path(aside))?;
        }
        let key = keys::default_path(&done.path);
        let is_sealed = Database::open(&done.path).and_then(|database| database.newest_checkpoint());
        if !key.exists() && is_sealed.is_ok_and(|newest| newest.is_some()) {
            writeln!(
                to,
                "  key            copy the key that sealed this ledger to `{}`, or name it as `ledger_key=`",
                inert_path(&key)
            )?;
        }
        if let Some(first) = done.report.first() {
            writeln!(to, "  damaged        {first}")?;
        }
        Ok(())
    }
}
