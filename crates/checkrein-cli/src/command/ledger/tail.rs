//! `checkrein ledger tail`: the newest entries, and those that come.

use std::io::Write;
use std::time::Duration;

use checkrein::core::ledger::entry::EntryView;

use super::{StoreOf, render, strict};
use crate::command::inert;
use crate::show::as_hashed;
use crate::{Exit, Output};

/// Between two looks for new entries.
const LOOK: Duration = Duration::from_millis(250);

/// Entries read at once.
const PAGE: u64 = 256;

/// Show the newest entries, one line each
#[derive(clap::Args)]
#[command(after_help = "Examples:
  checkrein ledger tail --store sqlite:checkrein.db
  checkrein ledger tail -n 100 --follow --output jsonl --store sqlite:checkrein.db")]
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
    output: Output,
}

impl Tail {
    pub(super) fn run(&self) -> anyhow::Result<Exit> {
        let database = self.store.open()?;
        let mut next = database.size()?.saturating_sub(self.lines).max(database.first()?);
        let mut stdout = anstream::stdout().lock();
        anyhow::ensure!(
            !(self.follow && self.output == Output::Json),
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
        if self.output == Output::Json {
            writeln!(stdout, "{}", if first { "[]" } else { "\n]" })?;
        }
        Ok(if sound { Exit::Ok } else { Exit::Found })
    }

    fn print(&self, to: &mut impl Write, seq: u64, body: &[u8], first: bool) -> anyhow::Result<()> {
        match self.output {
            Output::Jsonl => {
                writeln!(to, "{}", as_hashed(&String::from_utf8_lossy(body)))?;
            }
            Output::Json => {
                let before = if first { "[" } else { "," };
                write!(to, "{before}\n{}", as_hashed(&String::from_utf8_lossy(body)))?;
            }
            Output::Text => match EntryView::read(body) {
                Ok(entry) => render::line(to, &entry)?,
                Err(_) => writeln!(to, "{seq:>7}  {}", inert(&String::from_utf8_lossy(body)))?,
            },
        }
        Ok(())
    }
}
