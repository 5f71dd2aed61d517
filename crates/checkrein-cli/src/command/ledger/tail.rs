//! `checkrein ledger tail`: the newest entries, and those that come.

use std::io::Write;
use std::time::Duration;

use checkrein::core::ledger::entry::EntryView;

use super::{ListOutput, StoreOf, render, strict};
use crate::Exit;
use crate::command::inert;

/// Between two looks for new entries.
const LOOK: Duration = Duration::from_millis(250);

/// Entries read at once.
const PAGE: u64 = 256;

/// Show the newest entries, one line each
#[derive(clap::Args)]
pub(super) struct Tail {
    #[command(flatten)]
    store: StoreOf,
    /// How many
    #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 20)]
    lines: u64,
    /// Go on with those that come, until interrupted
    #[arg(short, long)]
    follow: bool,
    /// What to print
    #[arg(long, value_enum, default_value = "text")]
    output: ListOutput,
}

impl Tail {
    pub(super) fn run(&self) -> anyhow::Result<Exit> {
        let database = self.store.open()?;
        let mut next = database.size()?.saturating_sub(self.lines).max(database.first()?);
        let mut stdout = anstream::stdout().lock();
        anyhow::ensure!(
            !(self.follow && self.output == ListOutput::Json),
            "an array does not end while it follows; use `--output jsonl`"
        );
        let (mut first, mut sound) = (true, true);
        loop {
            let page = database.entries(next, PAGE)?;
            for (seq, body) in &page {
                sound &= strict(*seq, body);
                self.print(&mut stdout, *seq, body, std::mem::take(&mut first))?;
                next = seq.saturating_add(1);
            }
            if page.is_empty() {
                stdout.flush()?;
                if !self.follow {
                    break;
                }
                std::thread::sleep(LOOK);
            }
        }
        if self.output == ListOutput::Json {
            writeln!(stdout, "{}", if first { "[]" } else { "\n]" })?;
        }
        Ok(if sound { Exit::Ok } else { Exit::Found })
    }

    fn print(&self, to: &mut impl Write, seq: u64, body: &[u8], first: bool) -> anyhow::Result<()> {
        match self.output {
            ListOutput::Jsonl => {
                to.write_all(body)?;
                to.write_all(b"\n")?;
            }
            ListOutput::Json => {
                to.write_all(if first { b"[\n" } else { b",\n" })?;
                to.write_all(body)?;
            }
            ListOutput::Text => match EntryView::read(body) {
                Ok(entry) => render::line(to, &entry)?,
                Err(_) => writeln!(to, "{seq:>7}  {}", inert(&String::from_utf8_lossy(body)))?,
            },
        }
        Ok(())
    }
}
