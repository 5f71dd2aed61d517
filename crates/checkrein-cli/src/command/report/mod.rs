//! `checkrein report`: what observe mode would have blocked.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use checkrein::config::PolicyFile;
use checkrein::core::ledger::moment;
use checkrein::core::time::{Span, Timestamp};
use checkrein::replay::{ReplayError, Review, Reviewed};

use super::policy;
use super::recording::{LedgerOf, refuse, refuse_with};
use crate::{Exit, Output};

mod json;
mod text;

/// Show what gates in observe mode would have blocked
///
/// A ledger is read for decisions that gates in observe mode would have refused: how many, of which tools, by which gates,
/// whom they concerned and what they cost; and what was refused for real, so that a reviewer can decide what to enforce.
///
/// Exit code 0: nothing would have been blocked. Exit code 1: something would.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  checkrein report --ledger sqlite:checkrein.db
  checkrein report --ledger ledger.jsonl --key checkrein.db.pub --since 7d
  checkrein report --ledger sqlite:checkrein.db --policy checkrein.toml
  checkrein report --ledger sqlite:checkrein.db --since 2026-11-01 --until 2026-12-01 --output json")]
pub(crate) struct Report {
    #[command(flatten)]
    ledger: LedgerOf,
    /// Decisions from then on: a day, an instant in UTC as in `2026-11-21T10:00:00Z`, or how long ago, as in `7d`
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Decisions before then
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// The policy file whose costs count where the ledger does not say what a call cost
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// How many rows of each table are shown
    #[arg(long, value_name = "COUNT", default_value_t = 20)]
    limit: usize,
    /// What to print
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

impl Report {
    pub(crate) fn run(&self) -> anyhow::Result<Exit> {
        let mut to = anstream::stdout().lock();
        let (since, until) = match (time(self.since.as_deref()), time(self.until.as_deref())) {
            (Ok(since), Ok(until)) => (since.unwrap_or(Timestamp::MIN), until.unwrap_or(Timestamp::MAX)),
            (Err(text), _) | (_, Err(text)) => {
                let message = format!("`{}` is no time", text.escape_debug());
                let hint = "a time is a day as in `2026-11-21`, an instant as in `2026-11-21T10:00:00Z`, or `7d` ago";
                return Ok(refuse_with(&mut to, "report_time", &message, Some(hint), self.output)?);
            }
        };
        let prices = match self.policy.as_ref().map(|path| PolicyFile::load(path)).transpose() {
            Ok(prices) => prices,
            Err(error) => {
                policy::refuse(&mut to, &error, self.output)?;
                return Ok(Exit::Usage);
            }
        };
        let reviewed = match self.review(since, until, prices) {
            Ok(reviewed) => reviewed,
            Err(error) => return Ok(refuse(&mut to, &error, self.output)?),
        };
        match self.output {
            Output::Text => text::print(&mut to, &reviewed, self.limit)?,
            Output::Json => self.output.print(&mut to, &json::record(&reviewed))?,
            Output::Jsonl => self.output.print(&mut to, &json::lines(&reviewed))?,
        }
        Ok(if reviewed.calls.observed > 0 { Exit::Found } else { Exit::Ok })
    }

    fn review(
        &self,
        since: Timestamp,
        until: Timestamp,
        prices: Option<PolicyFile>,
    ) -> Result<Reviewed, ReplayError> {
        let mut review = Review::new(since, until, prices)?;
        let source = self.ledger.read("report", &mut |entry| {
            review.entry(entry);
            Ok(())
        })?;
        Ok(review.finish(source))
    }
}

/// A day, an instant, or how long ago; what is none of these is given back.
fn time(text: Option<&str>) -> Result<Option<Timestamp>, String> {
    let Some(text) = text else { return Ok(None) };
    if let Some(span) = Span::parse(text) {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = Timestamp::from_nanos(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX));
        return Ok(Some(now.before(span)));
    }
    let whole = match text.len() {
        10 => format!("{text}T00:00:00.000000000Z"),
        20 => format!("{}.000000000Z", text.strip_suffix('Z').unwrap_or(text)),
        _ => text.to_owned(),
    };
    moment::read(whole.as_bytes()).map(Some).ok_or_else(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_days_instants_and_lengths() {
        let at = |nanos| Ok(Some(Timestamp::from_nanos(nanos)));
        assert_eq!(time(None), Ok(None));
        assert_eq!(time(Some("2000-02-29")), at(951_782_400_000_000_000));
        assert_eq!(time(Some("2000-02-29T00:00:01Z")), at(951_782_401_000_000_000));
        assert_eq!(time(Some("2000-02-29T00:00:01.000000002Z")), at(951_782_401_000_000_002));
        assert!(time(Some("7d")).is_ok_and(|time| time > at(1_700_000_000_000_000_000).unwrap()));
        for wrong in ["2001-02-29", "yesterday", "", "2000-02-29T00:00:01", "10:00", "99999999999d"] {
            assert_eq!(time(Some(wrong)), Err(wrong.to_owned()), "{wrong}");
        }
    }
}
