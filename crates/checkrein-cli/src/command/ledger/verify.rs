//! `checkrein ledger verify`: an export, with nothing but a public key.

use std::io::Write as _;
use std::path::PathBuf;

use checkrein::core::ledger::moment;
use checkrein::core::ledger::verify::Report;
use checkrein::ledger::{LedgerError, keys, verify_file};
use serde_json::json;

use super::render::{count, shown_time};
use crate::command::inert;
use crate::{Exit, Output};

/// Verify an export with nothing but a public key: no store, no network
///
/// Exit code 0: every entry is as it was signed. Exit code 1: something is wrong, and the first entry that is not proven
/// is named.
#[derive(clap::Args)]
pub(super) struct Verify {
    /// The export, as `checkrein ledger export` writes it; `-` for standard input
    file: PathBuf,
    /// The public key file
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// A checkpoint kept elsewhere: the export must be a continuation of what it saw
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,
    /// What to print
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

impl Verify {
    pub(super) fn run(&self) -> anyhow::Result<Exit> {
        let key = keys::load_public(&self.key)?;
        let against = match &self.against {
            None => None,
            Some(path) => Some(
                std::fs::read_to_string(path)
                    .map_err(|why| LedgerError::File { path: path.to_owned(), why })?,
            ),
        };
        let report = verify_file(&self.file, &key, against.as_deref())?;
        match self.output {
            Output::Text => print(&report)?,
            Output::Json => writeln!(anstream::stdout().lock(), "{:#}", record(&report))?,
        }
        Ok(if report.is_valid() { Exit::Ok } else { Exit::Found })
    }
}

fn record(report: &Report) -> serde_json::Value {
    let checkpoint = report.checkpoint.as_ref().map(|checkpoint| {
        json!({
            "origin": checkpoint.origin,
            "size": checkpoint.size,
            "root": checkrein::core::ledger::checkpoint::encode(&checkpoint.root),
            "time": checkpoint.time().map(moment::to_text),
        })
    });
    json!({
        "valid": report.is_valid(),
        "entries": report.entries,
        "first_bad": report.first_bad,
        "reason": report.fault.as_ref().map(ToString::to_string),
        "first": report.first,
        "checkpoint": checkpoint,
        "against": report.against,
        "unchecked": report.unchecked(),
    })
}

fn print(report: &Report) -> std::io::Result<()> {
    let mut stdout = anstream::stdout().lock();
    match &report.fault {
        None => {
            let entries = count(report.entries, "entry", "entries");
            writeln!(stdout, "\u{1b}[1;32mvalid\u{1b}[0m  {entries}, each as it was signed")?;
        }
        Some(fault) => writeln!(stdout, "\u{1b}[1;31mnot valid\u{1b}[0m  {fault}")?,
    }
    if let Some(first) = report.first_bad {
        writeln!(stdout, "  first bad    entry {first}")?;
    }
    if report.first > 0 {
        writeln!(
            stdout,
            "  begins with  entry {}; those before it were removed, their hashes are here",
            report.first
        )?;
    }
    if let Some(checkpoint) = &report.checkpoint {
        let when = checkpoint.time().map_or_else(|| "at an unknown time".to_owned(), shown_time);
        writeln!(stdout, "  signed by    {}, {when}", inert(&checkpoint.origin))?;
    }
    if let Some(size) = report.against {
        writeln!(
            stdout,
            "  grew from    the {} that the checkpoint given saw",
            count(size, "entry", "entries")
        )?;
    }
    for what in report.unchecked() {
        writeln!(stdout, "  \u{1b}[33mnot checked\u{1b}[0m  {what}")?;
    }
    Ok(())
}
