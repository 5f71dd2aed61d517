//! `checkrein ledger export`: a ledger as lines that anybody with the public key can verify.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use checkrein::ledger::{Database, Exported, LedgerError, Scope, export, export_auditgate};
use serde_json::json;

use super::{StoreOf, seal_all, signer};
use crate::command::inert;
use crate::progress::{Counted, Progress};
use crate::{Exit, Output};

/// Write the ledger to a file that anybody with the public key can verify
///
/// Entries that are not sealed yet are sealed first, if the key is there; the rest is left out, and said so.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  checkrein ledger export -o ledger.jsonl --store sqlite:checkrein.db
  checkrein ledger export --format auditgate --store sqlite:checkrein.db | gzip >ledger.gz")]
pub(super) struct Export {
    #[command(flatten)]
    store: StoreOf,
    /// The file to write; standard output without it
    #[arg(short, long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// The form
    #[arg(long, value_enum, default_value = "jsonl")]
    format: Format,
    /// The private key that seals this ledger; the one beside the store by default
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Export entries that are not sealed as well; a verification then names the first of them
    #[arg(long)]
    unsealed: bool,
    /// What to print about it, on standard error when the export goes to standard output
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// Lines with everything that a verification needs
    Jsonl,
    /// What the package `auditgate` verifies
    Auditgate,
}

impl Export {
    pub(super) fn run(&self) -> anyhow::Result<Exit> {
        let database = self.store.open()?;
        let unsealed_because = seal_if_possible(&database, self.key.as_deref())?;
        let exported = match &self.out {
            None => self.write(&database, &mut BufWriter::new(std::io::stdout().lock()))?,
            Some(path) => self.write_file(&database, path)?,
        };
        self.report(&exported, unsealed_because)?;
        Ok(Exit::Ok)
    }

    fn write(&self, database: &Database, to: &mut impl Write) -> anyhow::Result<Exported> {
        let scope = if self.unsealed { Scope::All } else { Scope::Sealed };
        let mut progress = Progress::new("export");
        let mut to = Counted::new(to, database.size()?.saturating_sub(database.first()?), &mut progress);
        let exported = match self.format {
            Format::Jsonl => export(database, scope, &mut to)?,
            Format::Auditgate => export_auditgate(database, &mut to)?,
        };
        to.flush()?;
        Ok(exported)
    }

    /// Writes beside the file and renames: nobody sees half an export under its name.
    fn write_file(&self, database: &Database, path: &Path) -> anyhow::Result<Exported> {
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(".part");
        let temporary = PathBuf::from(temporary);
        let file_error = |why| LedgerError::File { path: path.to_owned(), why };
        // What a ledger keeps of arguments may be private.
        let file = private_file(&temporary).map_err(file_error)?;
        let mut to = BufWriter::with_capacity(1 << 18, file);
        let written = self.write(database, &mut to).and_then(|exported| {
            to.get_ref().sync_all().map_err(file_error)?;
            std::fs::rename(&temporary, path).map_err(file_error)?;
            Ok(exported)
        });
        if written.is_err() {
            // What is left of it is of no use; the error says what went wrong.
            let _ = std::fs::remove_file(&temporary);
        }
        written
    }

    fn report(&self, exported: &Exported, because: Option<String>) -> std::io::Result<()> {
        let Exported { first, end, sealed, unsealed } = exported;
        let answer = json!({
            "entries": end - first, "first": first, "sealed": sealed, "unsealed": unsealed,
            "file": self.out.as_ref().map(|path| path.display().to_string()),
        });
        let mut stderr = anstream::stderr().lock();
        match (self.output, &self.out) {
            (Output::Text, Some(path)) => {
                let count = end - first;
                let path = inert(&path.display().to_string());
                writeln!(anstream::stdout().lock(), "{count} entries in {path}")?;
            }
            (Output::Text, None) => {}
            (output, Some(_)) => output.print(&mut anstream::stdout().lock(), &answer)?,
            // Standard output is the export's.
            (output, None) => output.print(&mut stderr, &answer)?,
        }
        if *unsealed > 0 && !self.unsealed {
            let because = because.unwrap_or_else(|| "they came in meanwhile".to_owned());
            writeln!(
                stderr,
                "\u{1b}[1;33mnote\u{1b}[0m: the newest {unsealed} entries are not sealed and were left out: {because}"
            )?;
        }
        Ok(())
    }
}

/// Seals what is not sealed; if that cannot be done, says why.
fn seal_if_possible(database: &Database, key: Option<&Path>) -> Result<Option<String>, LedgerError> {
    let sealed = database.newest_checkpoint()?.map_or(0, |(size, _)| size);
    if database.size()? <= sealed {
        return Ok(None);
    }
    match signer(database, key).and_then(|signer| seal_all(database, &signer)) {
        Ok(_) => Ok(None),
        // A damaged ledger must not leave under the name of an export.
        Err(error @ (LedgerError::Damaged(_) | LedgerError::Rollback(_))) => Err(error),
        Err(error) if key.is_some() => Err(error),
        Err(error) => Ok(Some(error.to_string())),
    }
}

fn private_file(path: &Path) -> std::io::Result<File> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}
