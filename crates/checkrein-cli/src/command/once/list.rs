//! `checkrein once list`: operations, those in doubt first.

use std::io::Write;

use checkrein::core::time::Timestamp;

use super::super::inert;
use super::super::store::{SharedStoreOf, age, short};
use super::{Operation, all, shown};
use crate::{Exit, Output};

/// List operations: those in doubt, oldest first, then those under way
#[derive(clap::Args)]
#[command(after_help = "Examples:
  checkrein once list --store sqlite:checkrein.db
  checkrein once list --all --limit 20 --output jsonl --store sqlite:checkrein.db")]
pub(super) struct List {
    #[command(flatten)]
    store: SharedStoreOf,
    /// Also those that are done or failed clean, newest first
    #[arg(long)]
    all: bool,
    /// The most to list
    #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 100)]
    limit: usize,
    /// What to print
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

impl List {
    pub(super) fn run(&self) -> anyhow::Result<Exit> {
        let store = self.store.open()?;
        let mut found: Vec<Operation> = Vec::new();
        let mut left_out = 0_u64;
        all(&store, |operation| {
            if !self.all && rank(&operation) > 1 {
                return;
            }
            found.push(operation);
            if found.len() > self.limit.saturating_mul(2).max(1_024) {
                left_out += self.cut(&mut found);
            }
        })?;
        left_out += self.cut(&mut found);
        let now = store.clock().now();
        let mut stdout = anstream::stdout().lock();
        match self.output {
            Output::Text => write_table(&mut stdout, &found, left_out, now)?,
            output => {
                output.print(&mut stdout, &found.iter().map(|operation| operation.json(now)).collect())?;
            }
        }
        Ok(Exit::Ok)
    }

    /// Sorts, and leaves out what is beyond the limit; returns how many that were.
    fn cut(&self, found: &mut Vec<Operation>) -> u64 {
        found.sort_by_key(|operation| {
            let since = operation.since.nanos();
            // Whoever is in doubt for the longest time comes first, of those that ended the latest.
            (rank(operation), if rank(operation) < 2 { since } else { since.saturating_neg() })
        });
        let beyond = found.len().saturating_sub(self.limit);
        found.truncate(self.limit);
        beyond as u64
    }
}

fn rank(operation: &Operation) -> u8 {
    match operation.state.name() {
        "in_doubt" => 0,
        "reserved" | "started" => 1,
        _ => 2,
    }
}

fn write_table(
    to: &mut impl Write,
    found: &[Operation],
    left_out: u64,
    now: Timestamp,
) -> std::io::Result<()> {
    if found.is_empty() {
        return writeln!(to, "nothing is in doubt or under way");
    }
    let rows: Vec<[String; 5]> = found
        .iter()
        .map(|operation| {
            [
                operation.state.name().replace('_', " "),
                short(age(now, operation.since)),
                inert(&operation.gate),
                inert(&operation.tenant()),
                inert(&shown(operation.key.borrow().key)),
            ]
        })
        .collect();
    let header = ["state", "for", "gate", "tenant", "key"];
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain(header.get(column).map(|word| word.len())).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..4).map(width).collect();
    let mut line = |cells: &[&str], colour: &str| {
        let mut text = String::new();
        for (cell, width) in cells.iter().zip(widths.iter().map(Some).chain([None])) {
            let width = width.copied().unwrap_or_default();
            text += &format!("{cell:width$}  ");
        }
        writeln!(to, "\u{1b}[{colour}m{}\u{1b}[0m", text.trim_end())
    };
    line(&header, "1")?;
    for (row, operation) in rows.iter().zip(found) {
        let cells: Vec<&str> = row.iter().map(String::as_str).collect();
        line(&cells, if operation.is_in_doubt() { "33" } else { "0" })?;
    }
    if left_out > 0 {
        writeln!(to, "and {left_out} more: --limit shows them")?;
    }
    Ok(())
}
