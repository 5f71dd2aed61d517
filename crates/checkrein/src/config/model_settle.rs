//! The end of a call of a model: settled at what its usage costs, or at the full hold where that cannot be known.

use std::borrow::Cow;
use std::fmt;

use checkrein_core::amount::{Amount, Unit};
use checkrein_core::gate::breaker::Health;
use checkrein_core::json::{Object, Value};
use checkrein_core::permit::{Outcome, Settlement};
use checkrein_core::time::Timestamp;
use checkrein_core::usage::dialect::{Dialect, Report};
use checkrein_core::usage::{Direction, Family, Usage, UsageError, UsageUnit};

use super::model_call::ModelPermit;
use super::policies::Policies;
use crate::engine::SettleError;
use crate::price::{PriceError, Quote};

/// Why a budget was settled at no less than the full hold.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Shortfall {
    /// The usage is missing, or cannot be believed.
    Usage(UsageError),
    /// The usage cannot be priced.
    Price(PriceError),
    /// Something that has a price was not reported, or something reported has none.
    Incomplete(String),
    /// The cost is more than a meter can count.
    TooLarge,
}

impl Shortfall {
    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Usage(error) => error.code(),
            Self::Price(error) => error.code(),
            Self::Incomplete(_) => "usage_incomplete",
            Self::TooLarge => "usage_too_large",
        }
    }
}

impl fmt::Display for Shortfall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(error) => error.fmt(f),
            Self::Price(error) => error.fmt(f),
            Self::Incomplete(what) => f.write_str(what),
            Self::TooLarge => f.write_str("the cost is more than a meter can count"),
        }
    }
}

/// How a call was settled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// What it cost, where that is known.
    pub usd: Option<Amount>,
    /// The tokens it used, input and output, where they are known.
    pub tokens: Option<u64>,
    /// What was settled, in the order of what was held.
    pub charged: Vec<Amount>,
    /// Why budgets were settled at no less than the full hold.
    pub shortfalls: Vec<Shortfall>,
    /// Members of the reply that count something and that nobody here reads.
    pub unread: Vec<String>,
}

impl Settled {
    /// Whether everything was settled at what the usage says.
    pub fn is_exact(&self) -> bool {
        self.shortfalls.is_empty()
    }
}

/// What is known of the price of a call: what it costs, and whether it can be more.
type Priced = (Option<Amount>, Option<Shortfall>);

impl Policies {
    /// Settles a call by the reply of the provider: the whole reply, the last event of a stream with usage, or its
    /// usage alone. A reply without usage that can be believed is settled at the full hold.
    ///
    /// # Errors
    /// The call was settled before, or the store did not commit.
    pub fn settle_model(&self, permit: &ModelPermit, reply: &Value) -> Result<Settled, SettleError> {
        match Self::report_of(reply) {
            Ok(report) => self.settle_report(permit, report),
            Err(error) => self.settle_in_full(permit, Shortfall::Usage(error)),
        }
    }

    /// What a reply of a provider says was used.
    ///
    /// # Errors
    /// It says nothing of it, or what cannot be believed.
    pub fn report_of(reply: &Value) -> Result<Report, UsageError> {
        let reply = whole_reply(reply);
        Dialect::of(&reply).ok_or(UsageError::UnknownForm).and_then(|dialect| dialect.read(&reply))
    }

    /// Settles a call by a usage, of the kind that `context` tells.
    ///
    /// # Errors
    /// As [`settle_model`](Self::settle_model).
    pub fn settle_usage(
        &self,
        permit: &ModelPermit,
        usage: &Usage,
        context: &[(&str, &str)],
    ) -> Result<Settled, SettleError> {
        let context = context.iter().map(|(key, said)| ((*key).to_owned(), (*said).to_owned())).collect();
        self.settle_report(permit, Report { usage: usage.clone(), context, ..Report::default() })
    }

    /// Settles a call at its full hold: it was made, and nobody knows what it used.
    ///
    /// # Errors
    /// As [`settle_model`](Self::settle_model).
    pub fn settle_in_full(&self, permit: &ModelPermit, why: Shortfall) -> Result<Settled, SettleError> {
        let settled = Settled {
            charged: permit.held.iter().map(|held| held.amount).collect(),
            shortfalls: vec![why],
            ..Settled::default()
        };
        // No cost stands in the outcome: that tells the full hold from a cost that equals it.
        self.end(permit, &Settlement::new(Outcome::Done(None), Health::Success))?;
        Ok(settled)
    }

    /// Gives back what a call holds: it was not made, or the provider provably did not take it.
    ///
    /// # Errors
    /// As [`settle_model`](Self::settle_model).
    pub fn release_model(&self, permit: &ModelPermit, health: Health) -> Result<(), SettleError> {
        self.end(permit, &Settlement::new(Outcome::FailedClean, health))
    }

    /// Nobody knows whether the call was made, or what it used. What it holds stays held for a lease and is settled in
    /// full after it, unless a usage comes before.
    ///
    /// # Errors
    /// As [`settle_model`](Self::settle_model).
    pub fn doubt_model(&self, permit: &ModelPermit, health: Health) -> Result<(), SettleError> {
        self.end(permit, &Settlement::new(Outcome::InDoubt, health))
    }

    fn settle_report(&self, permit: &ModelPermit, report: Report) -> Result<Settled, SettleError> {
        let mut settled = Settled { unread: report.unread.clone(), ..Settled::default() };
        let (usd, usd_short) = permit.cost(&report, self.engine().now());
        let (tokens, tokens_short) = tokens(&report.usage);
        (settled.usd, settled.tokens) = (usd, tokens);
        for held in &permit.held {
            let (actual, short) = match held.unit {
                Unit::Usd => (usd, &usd_short),
                Unit::Tokens => (tokens.map(Amount::from_units), &tokens_short),
                Unit::Calls => (Some(Amount::ONE), &None),
                Unit::ComputeUnits => (Some(held.amount), &None),
            };
            let at_least = if short.is_some() { held.amount } else { Amount::ZERO };
            settled.charged.push(actual.unwrap_or(held.amount).max(at_least));
            if let Some(short) = short.as_ref().filter(|short| !settled.shortfalls.contains(short)) {
                settled.shortfalls.push(short.clone());
            }
        }
        // As above: only what a usage says stands in the outcome.
        let is_full = settled.charged.iter().eq(permit.held.iter().map(|held| &held.amount));
        let actual: &[Amount] = if is_full && !settled.is_exact() { &[] } else { &settled.charged };
        let settlement = Settlement { outcome: Outcome::Done(None), health: Health::Success, actual };
        match self.end(permit, &settlement) {
            // The sum does not fit its meter: what is held does.
            Err(SettleError::Permit(checkrein_core::admission::PermitError::Meter(_))) => {
                self.settle_in_full(permit, Shortfall::TooLarge)
            }
            done => done.map(|()| settled),
        }
    }

    fn end(&self, permit: &ModelPermit, settlement: &Settlement<'_>) -> Result<(), SettleError> {
        permit.id.map_or(Ok(()), |id| self.engine().finish(id, settlement))
    }
}

impl ModelPermit {
    /// What a report is worth in dollars and tokens, for calls that hold nothing.
    pub(super) fn worth(&self, report: &Report, now: Timestamp) -> (Settled, Option<Amount>, Option<Amount>) {
        let (usd, usd_short) = self.cost(report, now);
        let (tokens, tokens_short) = tokens(&report.usage);
        let shortfalls = usd_short.into_iter().chain(tokens_short).collect();
        let settled =
            Settled { usd, tokens, unread: report.unread.clone(), shortfalls, ..Settled::default() };
        (settled, usd, tokens.map(Amount::from_units))
    }

    /// What a report costs, by the prices that counted when the call was admitted. Of the beginning and the end of the
    /// call, and of the model that was asked for and the one that answered, the dearer counts.
    fn cost(&self, report: &Report, now: Timestamp) -> Priced {
        let models = &self.loaded.models;
        let asked = match models.quote(self.provider.as_deref(), &self.model) {
            Ok(quote) => quote,
            Err(error) => return (None, Some(Shortfall::Price(error))),
        };
        let (mut usd, mut short) = priced(&asked, report, [self.from, now]);
        let other = report.model.as_deref().filter(|answered| *answered != self.model);
        let answered = other.and_then(|name| models.quote(self.provider.as_deref(), name).ok());
        // Prices of one's own are for what was asked for.
        if let Some(answered) =
            answered.filter(|quote| !quote.is_assumed && !asked.is_own() && !asked.is_assumed)
        {
            let (other, other_short) = priced(&answered, report, [self.from, now]);
            usd = usd.max(other);
            short = short.or(other_short);
        }
        (usd, short)
    }
}

fn priced(quote: &Quote<'_>, report: &Report, times: [Timestamp; 2]) -> Priced {
    let context: Vec<(&str, &str)> =
        report.context.iter().map(|(key, said)| (key.as_str(), said.as_str())).collect();
    let mut most = None;
    let mut short = missing(quote, report, times[0]).map(Shortfall::Incomplete);
    for at in times {
        match quote.cost(&report.usage, at, &context) {
            Ok(cost) => {
                most = most.max(Some(cost.usd));
                let names: Vec<&str> = cost.unpriced.iter().map(UsageUnit::name).collect();
                if !names.is_empty() && short.is_none() {
                    short = Some(Shortfall::Incomplete(format!("`{}` has no price", names.join("` and `"))));
                }
            }
            Err(error) => return (None, Some(Shortfall::Price(error))),
        }
    }
    let special =
        quote.found.filter(|_| !quote.is_own()).map(|found| found.without_price(times[0], &context));
    if let Some((key, said)) = special.as_ref().and_then(|special| special.first()) {
        short = short.or_else(|| Some(Shortfall::Incomplete(format!("`{key}` = `{said}` has no price"))));
    }
    (most, short)
}

/// What has a price, is always used and was not reported.
fn missing(quote: &Quote<'_>, report: &Report, at: Timestamp) -> Option<String> {
    if quote.is_free() {
        return None;
    }
    let usage = &report.usage;
    if usage.positive().is_empty() {
        return Some("every count is zero".to_owned());
    }
    let reports = |family: Family, direction: Direction| {
        usage.iter().any(|(unit, _)| unit.family() == family && unit.direction() == direction)
    };
    let is_missing = |unit: UsageUnit| match unit.family() {
        Family::Tokens => {
            let whole = if unit.direction() == Direction::Output {
                UsageUnit::OutputTokens
            } else {
                UsageUnit::InputTokens
            };
            usage.reported(whole).is_none()
        }
        Family::Requests | Family::ToolCalls => false,
        family => {
            !usage.iter().any(|(other, _)| other.family() == family)
                && !reports(Family::Tokens, unit.direction())
        }
    };
    let prices = quote.prices(at, &[]);
    let unit = prices.iter().map(|price| price.unit).find(|unit| is_missing(*unit))?;
    Some(format!("`{}` has a price and was not reported", unit.name()))
}

/// The tokens of a usage.
fn tokens(usage: &Usage) -> (Option<u64>, Option<Shortfall>) {
    let [input, output] = [UsageUnit::InputTokens, UsageUnit::OutputTokens].map(|unit| usage.reported(unit));
    if usage.positive().is_empty() {
        return (None, Some(Shortfall::Incomplete("every count is zero".to_owned())));
    }
    match (input, output) {
        (Some(input), Some(output)) => (Some(input.saturating_add(output)), None),
        _ => {
            let error = if input.is_none() { "input_tokens" } else { "output_tokens" };
            (None, Some(Shortfall::Usage(UsageError::Missing(error.to_owned()))))
        }
    }
}

/// The reply around a usage that came alone.
fn whole_reply(reply: &Value) -> Cow<'_, Value> {
    let has = |name: &str| reply.get(name).is_some();
    let wrapped = |name: &str| {
        let members = vec![(name.to_owned(), reply.clone())];
        Object::from_members(members).map_or(Cow::Borrowed(reply), |object| Cow::Owned(Value::Object(object)))
    };
    if has("usage") || has("usageMetadata") || has("response") {
        return Cow::Borrowed(reply);
    }
    if has("promptTokenCount") {
        return wrapped("usageMetadata");
    }
    if has("prompt_tokens") || has("input_tokens") {
        return wrapped("usage");
    }
    Cow::Borrowed(reply)
}
