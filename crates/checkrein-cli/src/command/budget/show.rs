//! `checkrein budget show`: a bar for each record, settled, held and what is left.

use std::io::Write;

use checkrein::core::amount::Amount;
use checkrein::core::meter::TopUp;
use checkrein::core::time::Timestamp;

use super::super::store::SharedStoreOf;
use super::super::{columns, inert, print_error};
use super::PolicyOf;
use super::lines::{instant, write_words};
use super::record::{Record, all, shown};
use crate::{Exit, Output};

/// Show where budgets stand: what is settled, held and left of the limit that counts
#[derive(clap::Args)]
#[command(after_help = "Examples:
  checkrein budget show --store sqlite:checkrein.db
  checkrein budget show team --store sqlite:checkrein.db --output json
  CHECKREIN_STORE=redis://:PASSWORD@10.0.0.5 checkrein budget show --policy checkrein.toml --key ann

The bar is what is settled, then what is held; it is full at the limit. Without a policy there is no limit to show,
and no bar. Of a store in a file everything is of one instant; on a server each record is.")]
pub(super) struct Show {
    /// Only this budget
    name: Option<String>,
    #[command(flatten)]
    store: SharedStoreOf,
    #[command(flatten)]
    policy: PolicyOf,
    /// Only of this tenant
    #[arg(long, value_name = "TENANT")]
    tenant: Option<String>,
    /// Only of this key
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// Also records of which nothing is used, and those that the policy does not know
    #[arg(long)]
    all: bool,
    /// The most to show
    #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 100)]
    limit: usize,
    /// What to print
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

impl Show {
    pub(super) fn run(&self) -> anyhow::Result<Exit> {
        let policy = self.policy.read()?;
        let store = self.store.open()?;
        let mut found = all(&store, policy.as_ref())?;
        let known = found.iter().any(|record| self.name.as_ref().is_none_or(|name| *name == record.name));
        found.retain(|record| self.is_asked_for(record) && (self.all || is_live(record, policy.is_some())));
        // The fullest first of each budget.
        let share = |record: &Record| record.limit().map_or(0, |limit| permille(record.taken(), limit));
        found.sort_by_cached_key(|record| {
            let key = record.key.borrow().key.to_vec();
            (record.name.clone(), record.tenant(), u64::MAX - share(record), key)
        });
        let left_out = found.len().saturating_sub(self.limit);
        found.truncate(self.limit);
        let mut to = anstream::stdout().lock();
        match self.output {
            Output::Text if found.is_empty() && known => writeln!(to, "nothing is used")?,
            Output::Text if found.is_empty() && self.name.is_some() => {}
            Output::Text if found.is_empty() => writeln!(to, "there are no budgets")?,
            Output::Text => write_all(&mut to, &found, left_out)?,
            output => output.print(&mut to, &found.iter().map(Record::json).collect())?,
        }
        let unknown = self.name.as_ref().filter(|_| !known);
        if let Some(name) = unknown.filter(|name| policy.as_ref().is_none_or(|p| p.budget(name).is_none())) {
            let hint = "`checkrein budget show --all` shows every budget";
            print_error(&format!("there is no budget `{}`", inert(name)), Some(hint));
            return Ok(Exit::Usage);
        }
        Ok(Exit::Ok)
    }

    fn is_asked_for(&self, record: &Record) -> bool {
        self.name.as_ref().is_none_or(|name| *name == record.name)
            && self.tenant.as_ref().is_none_or(|tenant| *tenant == record.tenant())
            && self.key.as_ref().is_none_or(|key| *key == shown(record.key.borrow().key))
    }
}

/// Whether a record is worth a look.
fn is_live(record: &Record, has_policy: bool) -> bool {
    let is_used = record.taken() > Amount::ZERO || record.allowance.is_some();
    let is_known = !has_policy || record.policy.is_some();
    is_known && (is_used || record.key.borrow().key.is_empty())
}

/// How many thousandths of the limit are taken.
fn permille(taken: Amount, limit: Amount) -> u64 {
    if taken <= Amount::ZERO {
        return 0;
    }
    if limit <= Amount::ZERO {
        return u64::MAX;
    }
    let (taken, limit) = (taken.pico().unsigned_abs(), limit.pico().unsigned_abs());
    // Divided first where the product would not fit: what is that large needs no thousandths.
    let share =
        taken.checked_mul(1_000).map_or_else(|| taken / (limit / 1_000).max(1), |taken| taken / limit);
    u64::try_from(share).unwrap_or(u64::MAX)
}

const LONGEST_BAR: usize = 60;
/// Bars are of one length as long as nothing is ten times over its limit.
const PERCENT: usize = 4;

fn write_all(to: &mut impl Write, found: &[Record], left_out: usize) -> std::io::Result<()> {
    let width = columns().clamp(40, 120);
    for (number, record) in found.iter().enumerate() {
        if number > 0 {
            writeln!(to)?;
        }
        write_record(to, record, width)?;
    }
    if left_out > 0 {
        writeln!(to, "\nand {left_out} more: --limit shows them")?;
    }
    Ok(())
}

fn write_record(to: &mut impl Write, record: &Record, width: usize) -> std::io::Result<()> {
    let key = shown(record.key.borrow().key);
    let mut title = vec![record.name.clone(), record.tenant(), key];
    title.retain(|part| !part.is_empty());
    let title = title.iter().map(|part| inert(part)).collect::<Vec<_>>().join(" · ");
    write_words(to, "", &title, "1")?;
    let unit = record.unit();
    let mut said = vec![format!("settled {}", record.settled)];
    if record.account.held > Amount::ZERO {
        said.push(format!("held {}", record.account.held));
    }
    match record.limit() {
        Some(limit) => {
            write_bar(to, record, limit, width)?;
            said.push(format!("limit {limit} {unit}"));
        }
        None => said.push(unit.to_owned()),
    }
    write_words(to, "  ", &said.join("  "), "0")?;
    let window = match record.window.as_str() {
        "lifetime" => "for ever".to_owned(),
        window => format!("per {window}"),
    };
    let left = match record.left() {
        Some(left) if left.is_negative() => {
            format!("{} {unit} over, {window}", Amount::ZERO.saturating_sub(left))
        }
        Some(left) => format!("{left} {unit} left, {window}"),
        None => window,
    };
    write_words(to, "  ", &left, "0")?;
    for line in changes(record) {
        write_words(to, "  ", &line, "36")?;
    }
    Ok(())
}

/// What somebody has changed of the limit.
fn changes(record: &Record) -> Vec<String> {
    let unit = record.unit();
    let set = record.set().map(|limit| match record.policy {
        Some(policy) => format!("set to {limit} {unit}, policy {policy} {unit}"),
        None => format!("set to {limit} {unit}"),
    });
    let top_up = |top_up: TopUp| {
        let until = match top_up.until {
            Timestamp::MAX => "for ever".to_owned(),
            until => format!("until {}", instant(until)),
        };
        format!("+{} {unit} {until}", top_up.amount)
    };
    set.into_iter().chain(record.top_ups().map(top_up)).collect()
}

fn write_bar(to: &mut impl Write, record: &Record, limit: Amount, width: usize) -> std::io::Result<()> {
    let taken = permille(record.taken(), limit);
    let percent = if taken == u64::MAX { "over".to_owned() } else { format!("{:>3}%", taken / 10) };
    let length = width.saturating_sub(3 + PERCENT).min(LONGEST_BAR);
    let (settled, both) = (cells(record.settled, limit, length), cells(record.taken(), limit, length));
    let colour = match taken {
        ..800 => "32",
        800..1_000 => "33",
        _ => "31",
    };
    let (full, held, free) = (
        "█".repeat(settled),
        "▒".repeat(both.saturating_sub(settled)),
        "░".repeat(length.saturating_sub(both)),
    );
    writeln!(to, "  \u{1b}[{colour}m{full}{held}\u{1b}[2m{free}\u{1b}[0m {percent}")
}

/// How many cells of a bar: at least one for anything, and all of them only for everything.
fn cells(amount: Amount, limit: Amount, length: usize) -> usize {
    let share = permille(amount, limit).min(1_000);
    let share = usize::try_from(share).unwrap_or(1_000);
    let cells = share.saturating_mul(length) / 1_000;
    if amount > Amount::ZERO { cells.clamp(1, length.max(1)) } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_show_the_least_and_are_full_at_the_limit_only() {
        let units = Amount::from_units;
        for (amount, limit, expected) in [
            (0, 10, 0),
            (5, 10, 10),
            (10, 10, 20),
            (1, 1_000_000, 1),
            (999, 1_000, 19),
            (11, 10, 20),
            (1, 0, 20),
        ] {
            assert_eq!(cells(units(amount), units(limit), 20), expected, "{amount} of {limit}");
        }
        assert_eq!(permille(Amount::MAX, Amount::MAX), 1_000);
        assert_eq!(permille(Amount::MAX, units(0)), u64::MAX);
    }
}
