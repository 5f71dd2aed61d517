//! The most that a call can cost: every part capped, at the dearest price that may apply to it.

use std::borrow::Cow;

use checkrein_core::amount::Amount;
use checkrein_core::time::{Span, Timestamp};
use checkrein_core::usage::{Direction, Family, Modality, Usage, UsageUnit};

use super::cost::{add, rounded_up};
use super::error::PriceError;
use super::rate::{Price, Prices};
use super::terms::Quote;

/// What is known of a call before it is made.
#[derive(Clone, Debug)]
pub struct CallBounds<'a> {
    /// Bytes of the whole request as it is sent. A token has one byte at least, and what a provider writes between
    /// messages is shorter than the JSON around them.
    pub text_bytes: u64,
    /// Tokens that the request stands for and that its bytes do not bound: files, images, stored prompts, earlier
    /// responses, what tools of the provider read. Somebody's estimate; `None` when there is nothing of the kind.
    pub unseen_tokens: Option<u64>,
    /// Tokens that the provider adds itself, such as its prompt for tools.
    pub added_tokens: u64,
    /// The most output tokens of one answer, as the provider is told.
    pub output_tokens: Option<u64>,
    /// How many answers are asked for.
    pub answers: u64,
    /// The most of everything else: seconds, pages, searches. What is not among it is not used.
    pub other: Usage,
    /// Whether input or output can be anything but text.
    pub is_multimodal: bool,
    /// What kind of call it is (`service_tier`, `processing`); `None` when any kind may be charged.
    pub context: Option<&'a [(&'a str, &'a str)]>,
    /// When it begins.
    pub from: Timestamp,
    /// How long it can take; prices that change meanwhile are taken into account, for a day at most.
    pub lasts: Span,
}

impl Default for CallBounds<'_> {
    fn default() -> Self {
        Self {
            text_bytes: 0,
            unseen_tokens: None,
            added_tokens: 0,
            output_tokens: None,
            answers: 1,
            other: Usage::default(),
            is_multimodal: false,
            context: None,
            from: Timestamp::default(),
            lasts: Span::ZERO,
        }
    }
}

/// Whether a bound can be exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certainty {
    /// Not at these prices: every part of it is capped.
    Proven,
    /// Yes: a part of it is somebody's estimate, or has no price in the book.
    Estimated,
}

impl Certainty {
    /// The word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Proven => "proven",
            Self::Estimated => "estimated",
        }
    }
}

/// The most that a call can cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// In USD, rounded up to the nano.
    pub usd: Amount,
    /// Whether it can be exceeded.
    pub certainty: Certainty,
}

const DAY: Span = Span::from_secs(86_400);

impl Quote<'_> {
    /// The most that a call can cost.
    ///
    /// # Errors
    /// The call has no maximum of something that has a price, or the bound does not fit.
    pub fn bound(&self, call: &CallBounds<'_>) -> Result<Bound, PriceError> {
        let other = self.charged(&call.other)?;
        let until = call.from.after(call.lasts.min(DAY));
        let mut most = Amount::ZERO;
        let mut certainty = Certainty::Proven;
        for at in std::iter::once(call.from).chain(self.changes(call.from, until)) {
            let prices = self.dearest(at, call.context);
            most = most.max(sum(&prices, call, &other, self)?);
            if !self.is_free() && call.misses_price(&prices, &other) {
                certainty = Certainty::Estimated;
            }
        }
        let special =
            |context| !self.found.is_some_and(|found| found.without_price(call.from, context).is_empty());
        let unknown_kind = !self.is_own() && call.context.is_some_and(special);
        if call.unseen_tokens.is_some() || call.lasts > DAY || self.is_assumed || unknown_kind {
            certainty = Certainty::Estimated;
        }
        Ok(Bound { usd: most, certainty })
    }

    /// The instants at which a price begins or ends to hold.
    fn changes(&self, after: Timestamp, until: Timestamp) -> impl Iterator<Item = Timestamp> {
        let model = self.found.filter(|_| !self.is_own()).map(|found| found.model);
        let conditions = model.into_iter().flat_map(|model| model.standard.iter().chain(&model.variants));
        conditions.flat_map(move |conditions| conditions.when.changes(after, until))
    }

    /// The prices at an instant: of this kind of call, or the dearest of each unit over all kinds.
    fn dearest(&self, at: Timestamp, context: Option<&[(&str, &str)]>) -> Cow<'_, Prices> {
        let mut prices = self.prices(at, context.unwrap_or_default());
        let variants = match (context, self.found) {
            (None, Some(found)) if found.is_own && !self.is_own() => found.model.variants.as_slice(),
            _ => &[],
        };
        for Price { unit, rate } in variants.iter().filter(|v| v.when.holds(at)).flat_map(|v| v.prices.iter())
        {
            let dearer = prices.get(*unit).is_none_or(|other| !other.is_never_below(rate));
            if dearer {
                let both = prices.get(*unit).map_or_else(|| rate.clone(), |other| other.dearer(rate));
                prices.to_mut().put(Price { unit: *unit, rate: both });
            }
        }
        prices
    }
}

impl CallBounds<'_> {
    fn input_tokens(&self) -> u64 {
        let seen = self.text_bytes.saturating_add(self.added_tokens);
        seen.saturating_add(self.unseen_tokens.unwrap_or_default())
    }

    /// Whether something of the call has no price.
    fn misses_price(&self, prices: &Prices, other: &Usage) -> bool {
        let priced =
            |unit: UsageUnit| prices.iter().any(|price| price.unit == unit || unit.wholes().has(price.unit));
        let families = [Family::Characters, Family::Messages, Family::Requests];
        let any = |direction| {
            prices.iter().any(|price| {
                let (family, of) = (price.unit.family(), price.unit.direction());
                (family == Family::Tokens && of == direction) || families.contains(&family)
            })
        };
        (self.input_tokens() > 0 && !any(Direction::Input))
            || (self.output_tokens.is_some_and(|most| most > 0) && !any(Direction::Output))
            || other.positive().iter().any(|unit| !priced(unit))
    }
}

/// The sum of what each part can cost at most.
fn sum(
    prices: &Prices,
    call: &CallBounds<'_>,
    other: &Usage,
    quote: &Quote<'_>,
) -> Result<Amount, PriceError> {
    let input = call.input_tokens();
    let dearest = |direction: Direction| {
        let reached = prices.iter().filter(|price| {
            let unit = price.unit;
            let text = matches!(unit.modality(), Modality::Any | Modality::Text);
            unit.family() == Family::Tokens && unit.direction() == direction && (text || call.is_multimodal)
        });
        reached.map(|price| price.rate.dearest(input)).max()
    };
    let mut total = 0_u128;
    let mut count = |unit: UsageUnit, count: u64, rate: u64| -> Result<(), PriceError> {
        total = add(total, unit, count, rate).ok_or(PriceError::OutOfRange)?;
        Ok(())
    };
    // Each token is charged by one price only, so that the dearest of them bounds it.
    if let Some(rate) = dearest(Direction::Input) {
        count(UsageUnit::InputTokens, input, rate)?;
    }
    if let Some(rate) = dearest(Direction::Output) {
        let most = call.output_tokens.ok_or(PriceError::Unbounded(UsageUnit::OutputTokens))?;
        count(UsageUnit::OutputTokens, most.saturating_mul(call.answers), rate)?;
    }
    for Price { unit, rate } in prices.iter() {
        let rate = rate.dearest(input);
        match unit.family() {
            Family::Tokens => {}
            // A character has one byte at least.
            Family::Characters => count(*unit, input, rate)?,
            Family::Requests => count(*unit, 1, rate)?,
            // What the request does not ask for is not used; parts are counted with their whole and once more.
            Family::ToolCalls => count(*unit, other.reported(*unit).unwrap_or_default(), rate)?,
            Family::Messages
            | Family::Durations
            | Family::Pixels
            | Family::DocumentPages
            | Family::Rerank => {
                let told =
                    other.reported(*unit).or_else(|| unit.wholes().iter().find_map(|u| other.reported(u)));
                count(*unit, told.ok_or(PriceError::Unbounded(*unit))?, rate)?;
            }
        }
    }
    rounded_up(total, quote.factor).ok_or(PriceError::OutOfRange)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::price::book;

    /// 2026-11-21 12:00 UTC.
    const NOON: Timestamp = Timestamp::from_nanos(1_795_262_400_000_000_000);

    fn check(model: &str, call: CallBounds<'_>, expected: &str) {
        let (provider, model) = model.split_once(' ').unwrap();
        let quote = Quote::from(book().find(Some(provider), model).unwrap());
        let from = if call.from == Timestamp::default() { NOON } else { call.from };
        let shown = match quote.bound(&CallBounds { from, ..call }) {
            Ok(bound) => format!("{} {}", bound.usd, bound.certainty.name()),
            Err(error) => format!("{}: {error}", error.code()),
        };
        assert_eq!(shown, expected, "for {model}");
    }

    fn call(text_bytes: u64, output: u64) -> CallBounds<'static> {
        CallBounds { text_bytes, output_tokens: Some(output), context: Some(&[]), ..CallBounds::default() }
    }

    #[test]
    fn the_dearest_price_that_may_apply_bounds_each_part() {
        // A byte can be a token that is written to the cache for an hour: 1,000 x 10 + 100 x 25.
        check("anthropic claude-opus-5", call(1_000, 100), "0.0125 proven");
        // In the fast mode it is 20 and 50.
        let any = CallBounds { context: None, ..call(1_000, 100) };
        check("anthropic claude-opus-5", any, "0.025 proven");
        let batch = CallBounds { context: Some(&[("processing", "batch")]), ..call(1_000, 100) };
        check("anthropic claude-opus-5", batch, "0.00625 proven");
        // Above 272,000 tokens everything is dearer: 272,001 x 5 + 10 x 22.5.
        check("openai gpt-5.4", call(272_000, 10), "0.68015 proven");
        check("openai gpt-5.4", call(272_001, 10), "1.36023 proven");
        let three = CallBounds { answers: 3, added_tokens: 500, ..call(500, 100) };
        check("openai gpt-5.4", three, "0.007 proven");
        // 12 USD per thousand requests.
        check("perplexity sonar", call(0, 0), "0.012 proven");
    }

    #[test]
    fn what_cannot_be_seen_is_an_estimate_and_what_has_no_maximum_is_refused() {
        let unseen = CallBounds { unseen_tokens: Some(1_000), ..call(0, 0) };
        check("anthropic claude-opus-5", unseen, "0.01 estimated");
        let tier = CallBounds { context: Some(&[("service_tier", "priority")]), ..call(1_000, 0) };
        check("anthropic claude-opus-5", tier, "0.01 estimated");
        let endless = CallBounds { output_tokens: None, ..call(1, 0) };
        check("openai o3", endless, "price_unbounded: the call has no maximum of `output_tokens`");
        let mut searches = call(0, 0);
        searches.other.set(UsageUnit::WebSearches, 5).unwrap();
        check("anthropic claude-opus-5", searches.clone(), "0.05 proven");
        check("azure o3", searches, "0 estimated");
        check(
            "groq whisper-large-v3",
            CallBounds { output_tokens: None, ..call(0, 0) },
            "price_unbounded: the call has no maximum of `input_audio_seconds`",
        );
        let mut seconds = CallBounds { output_tokens: None, ..call(0, 0) };
        seconds.other.set(UsageUnit::AudioSeconds, 1).unwrap();
        // Ten seconds at least, at 0.111 per hour, of the whole and of its part.
        check("groq whisper-large-v3", seconds, "0.000616667 proven");
        check(
            "anthropic claude-opus-5",
            call(u64::MAX, u64::MAX),
            "price_out_of_range: the cost of this call is out of range",
        );
    }

    #[test]
    fn prices_that_change_during_the_call_count() {
        // Twice the price from 00:30 to 16:30 UTC.
        let night = Timestamp::from_nanos(NOON.nanos() + 5 * 3_600_000_000_000);
        let late = |lasts| CallBounds { from: night, lasts: Span::from_secs(lasts), ..call(1_000_000, 0) };
        check("deepseek deepseek-chat", late(3_600), "0.135 proven");
        check("deepseek deepseek-chat", late(8 * 3_600), "0.27 proven");
        check("deepseek deepseek-chat", late(86_401), "0.27 estimated");
    }

    #[test]
    fn no_usage_within_the_bounds_costs_more() {
        let contexts: [&[(&str, &str)]; 4] =
            [&[], &[("processing", "batch")], &[("service_tier", "priority")], &[("speed", "fast")]];
        let mut compared = 0;
        for provider in book().providers() {
            for model in &provider.models {
                let Ok(found) = book().find(Some(&provider.id), &model.id) else { continue };
                for (bytes, output) in [(10, 5), (150_000, 2_000), (700_000, 9)] {
                    let all = CallBounds { context: None, from: NOON, ..call(bytes, output) };
                    let Ok(bound) = Quote::from(found).bound(&all) else { continue };
                    for context in contexts {
                        for parts in
                            [[0, 0, 0], [bytes / 2, bytes / 2, bytes / 4], [bytes, 0, 0], [0, bytes, bytes]]
                        {
                            let mut usage = Usage::default();
                            let [read, written, hour] = parts;
                            for (unit, count) in [
                                (UsageUnit::InputTokens, bytes),
                                (UsageUnit::CacheReadTokens, read),
                                (UsageUnit::CacheWriteTokens, written),
                                (UsageUnit::CacheWrite1hTokens, hour),
                                (UsageUnit::OutputTokens, output),
                                (UsageUnit::OutputReasoningTokens, output / 2),
                            ] {
                                usage.set(unit, count).unwrap();
                            }
                            let cost = found.cost(&usage, NOON, context).unwrap();
                            assert!(
                                cost.usd <= bound.usd,
                                "{}/{} {context:?} {parts:?}",
                                provider.id,
                                model.id
                            );
                            compared += 1;
                        }
                    }
                }
            }
        }
        assert!(compared > 80_000, "{compared}");
    }
}
