//! `checkrein ledger verify`: exports, with nothing but a public key; and those of several hosts together.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use checkrein::core::ledger::moment;
use checkrein::core::ledger::together::Together;
use checkrein::core::ledger::verify::Report;
use checkrein::ledger::{LedgerError, keys, verify_with};
use serde_json::json;

use super::render::{count, shown_time};
use super::together;
use crate::command::inert;
use crate::progress::Progress;
use crate::{Exit, Output};

/// Verify exports with nothing but public keys: no store, no network
///
/// Several ledgers are those of hosts that share a store: each is verified by itself, and then they are compared. What was
/// decided in the shared store and is in two of them, or in none, is found, and so are outcomes without their intents.
///
/// Exit code 0: every entry is as it was signed, and the ledgers fit. Exit code 1: something is wrong, and the first entry
/// that is not proven is named.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  checkrein ledger verify ledger.jsonl --key checkrein.db.pub
  checkrein ledger verify a.jsonl b.jsonl --key a.pub --key b.pub
  checkrein ledger verify ledger.jsonl --key checkrein.db.pub --against checkpoint.txt")]
pub(super) struct Verify {
    /// The export, as `checkrein ledger export` writes it, or the store's file itself; `-` for standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The public key file; with several ledgers one for all, or one for each in their order
    #[arg(long, value_name = "FILE", required = true)]
    key: Vec<PathBuf>,
    /// A checkpoint kept elsewhere: the export must be a continuation of what it saw
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,
    /// What to print
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

impl Verify {
    pub(super) fn run(&self) -> anyhow::Result<Exit> {
        if self.key.len() != 1 && self.key.len() != self.files.len() {
            anyhow::bail!(
                "there are {} and {}: give one key for all, or one for each",
                count(self.files.len() as u64, "ledger", "ledgers"),
                count(self.key.len() as u64, "key", "keys")
            );
        }
        if self.against.is_some() && self.files.len() > 1 {
            anyhow::bail!("a checkpoint is of one ledger: verify that one by itself with `--against`");
        }
        let against = match &self.against {
            None => None,
            Some(path) => Some(
                std::fs::read_to_string(path)
                    .map_err(|why| LedgerError::File { path: path.to_owned(), why })?,
            ),
        };
        let (mut compared, mut reports) = (Together::new(), Vec::new());
        let mut progress = Progress::new("verify");
        let mut watch = |done, of| progress.at(done, of);
        for (file, key) in self.files.iter().zip(self.key.iter().cycle()) {
            let key = keys::load_public(key)?;
            reports.push((file, verify_with(file, &key, against.as_deref(), &mut compared, &mut watch)?));
        }
        drop(progress);
        let compared = compared.finish();
        let valid = reports.iter().all(|(_, report)| report.is_valid()) && compared.is_sound();
        // A ledger that has nothing to do with a shared store is shown as it always was.
        let alone = reports.len() == 1 && compared.hosts.iter().all(Option::is_none);
        let mut stdout = anstream::stdout().lock();
        match self.output {
            Output::Text => {
                for (file, report) in &reports {
                    if !alone {
                        writeln!(stdout, "{}", inert(&file.display().to_string()))?;
                    }
                    print(&mut stdout, report)?;
                }
                if !alone {
                    together::print(&mut stdout, &compared, &self.names())?;
                }
            }
            output => {
                let all = match reports.as_slice() {
                    [(_, report)] if alone => record(report),
                    [(_, report)] => with(
                        record(report),
                        &[("valid", valid.into()), ("together", together::record(&compared))],
                    ),
                    _ => json!({
                        "valid": valid,
                        "ledgers": reports.iter().map(|(file, report)| named(file, report)).collect::<Vec<_>>(),
                        "together": together::record(&compared),
                    }),
                };
                output.print(&mut stdout, &all)?;
            }
        }
        Ok(if valid { Exit::Ok } else { Exit::Found })
    }

    fn names(&self) -> Vec<String> {
        self.files.iter().map(|file| inert(&file.display().to_string())).collect()
    }
}

fn named(file: &Path, report: &Report) -> serde_json::Value {
    with(record(report), &[("file", file.display().to_string().into())])
}

/// An object with these members.
fn with(mut object: serde_json::Value, members: &[(&str, serde_json::Value)]) -> serde_json::Value {
    if let Some(object) = object.as_object_mut() {
        let members = members.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
        object.extend(members);
    }
    object
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

fn print(stdout: &mut impl std::io::Write, report: &Report) -> std::io::Result<()> {
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
