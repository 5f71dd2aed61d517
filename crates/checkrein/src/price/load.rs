//! Reads the lines of a price book: a header, the units, then each provider with its models.

use checkrein_core::amount::Amount;
use checkrein_core::json::{Limits, Value, read_str};
use checkrein_core::usage::UsageUnit;

use super::book::{Header, Model, PriceBook, Provider};
use super::clause::Clause;
use super::error::BookError;
use super::rate::{Conditions, Price, Prices, Rate, When};

const FORMAT: i64 = 1;
/// The most providers and models of a book.
const MOST_MODELS: usize = 100_000;

/// Reads a whole book.
pub(super) fn read(text: &str) -> Result<PriceBook, BookError> {
    let mut lines = text.lines().enumerate();
    let mut next = || {
        let (at, line) = lines.next()?;
        let value = read_str(line, &Limits::default()).map_err(|error| wrong(at, &error.to_string()));
        Some(value.map(|value| (at, value)))
    };
    let (at, first) = next().ok_or_else(|| wrong(0, "it is empty"))??;
    let header = header(&first).ok_or_else(|| wrong(at, "this is no header of a known format"))?;
    let (at, second) = next().ok_or_else(|| wrong(1, "the units are missing"))??;
    units(&second).map_err(|name| wrong(at, &format!("`{name}` is another unit here")))?;
    let mut providers: Vec<Provider> = Vec::new();
    let mut models = 0_usize;
    while let Some(line) = next() {
        let (at, value) = line?;
        if value.get("provider").is_some() {
            providers.push(provider(&value).ok_or_else(|| wrong(at, "this is no provider"))?);
            continue;
        }
        models += 1;
        let model = model(&value).ok_or_else(|| wrong(at, "this is no model"))?;
        match providers.last_mut() {
            Some(provider) if models <= MOST_MODELS => provider.models.push(model),
            _ => return Err(wrong(at, "a model without a provider, or too many")),
        }
    }
    if (header.providers, header.models) != (providers.len(), models) {
        return Err(wrong(0, "the header counts other providers or models"));
    }
    PriceBook::new(header, providers)
        .ok_or_else(|| wrong(0, "a provider falls back to one that is not there"))
}

fn wrong(at: usize, fact: &str) -> BookError {
    BookError { line: at + 1, fact: fact.to_owned() }
}

fn header(value: &Value) -> Option<Header> {
    let text = |name: &str| value.get(name)?.as_str().map(str::to_owned);
    let count = |name: &str| usize::try_from(whole(value.get(name)?)?).ok();
    if !matches!(value.get("format"), Some(Value::Int(FORMAT))) {
        return None;
    }
    Some(Header {
        source: text("source")?,
        version: text("version")?,
        date: text("date")?,
        latest_change: text("latest_change")?,
        digest: text("digest")?,
        providers: count("providers")?,
        models: count("models")?,
        rounded_up: count("rounded_up")?,
    })
}

/// The units of the book must be ours: a unit that means something else would be charged as what it is not.
fn units(value: &Value) -> Result<(), String> {
    let given = value.get("units").and_then(Value::as_object).ok_or("units")?;
    for (name, said) in given.iter() {
        let ours = UsageUnit::from_name(name).ok_or(name)?;
        let same_price = said.get("price").and_then(Value::as_str) == Some(ours.price_name());
        if !same_price || said.get("per").and_then(whole) != Some(ours.per()) {
            return Err(name.to_owned());
        }
    }
    Ok(())
}

fn provider(value: &Value) -> Option<Provider> {
    let clause = |name: &str| value.get(name).map_or(Some(None), |clause| Clause::read(clause).map(Some));
    let fallback = value.get("fallback").map_or(Some(&[][..]), Value::as_array)?;
    Some(Provider {
        id: value.get("provider")?.as_str()?.into(),
        name: value.get("name")?.as_str()?.into(),
        matching: clause("match")?,
        models_matching: clause("models")?,
        fallback: fallback.iter().map(|id| id.as_str().map(Into::into)).collect::<Option<_>>()?,
        models: Vec::new(),
    })
}

fn model(value: &Value) -> Option<Model> {
    let id: Box<str> = value.get("model")?.as_str()?.into();
    let matching = match value.get("match") {
        Some(clause) => Clause::read(clause)?,
        None => Clause::Is(id.clone()),
    };
    let standard = match value.get("prices")? {
        Value::Array(several) => several.iter().map(conditions).collect::<Option<Vec<_>>>()?,
        one => vec![Conditions { when: When::Always, context: Vec::new(), prices: prices(one)? }],
    };
    let variants = value.get("variants").map_or(Some(&[][..]), Value::as_array)?;
    Some(Model {
        id,
        matching,
        context_window: value.get("context").and_then(whole),
        is_deprecated: matches!(value.get("deprecated"), Some(Value::Bool(true))),
        minimum: match value.get("minimum").and_then(Value::as_object).and_then(|all| all.iter().next()) {
            Some((name, least)) => Some((UsageUnit::from_name(name)?, whole(least)?)),
            None => None,
        },
        standard: (!standard.is_empty()).then_some(standard)?,
        variants: variants.iter().map(conditions).collect::<Option<_>>()?,
    })
}

fn conditions(value: &Value) -> Option<Conditions> {
    let when = match (value.get("from"), value.get("between")) {
        (None, None) => When::Always,
        (Some(day), None) => When::From(midnight(day.as_str()?)?),
        (None, Some(hours)) => match hours.as_array()? {
            [begin, end] => When::Between(second_of_day(begin)?, second_of_day(end)?),
            _ => return None,
        },
        _ => return None,
    };
    let context = match value.get("when") {
        Some(pairs) => {
            let pairs = pairs.as_object()?.iter();
            pairs.map(|(key, said)| Some((key.into(), said.as_str()?.into()))).collect::<Option<_>>()?
        }
        None => Vec::new(),
    };
    Some(Conditions { when, context, prices: prices(value.get("prices")?)? })
}

fn prices(value: &Value) -> Option<Prices> {
    let one = |(name, said): (&str, &Value)| {
        let rate = match said {
            Value::Array(parts) => {
                let (base, steps) = parts.split_first()?;
                let step = |step: &Value| match step.as_array()? {
                    [above, price] => Some((whole(above)?, pico(price)?)),
                    _ => None,
                };
                Rate::stepped(pico(base)?, steps.iter().map(step).collect::<Option<_>>()?)?
            }
            flat => Rate::flat(pico(flat)?)?,
        };
        Some(Price { unit: UsageUnit::from_price_name(name)?, rate })
    };
    Prices::new(value.as_object()?.iter().map(one).collect::<Option<_>>()?)
}

fn pico(value: &Value) -> Option<u64> {
    u64::try_from(Amount::parse(value.as_str()?).ok()?.pico()).ok()
}

fn whole(value: &Value) -> Option<u64> {
    match value {
        Value::Int(number) => u64::try_from(*number).ok(),
        Value::Uint(number) => Some(*number),
        _ => None,
    }
}

fn second_of_day(value: &Value) -> Option<u32> {
    whole(value).and_then(|second| u32::try_from(second).ok()).filter(|second| *second < 86_400)
}

/// The second at which a day begins (UTC), counted from 1970.
fn midnight(day: &str) -> Option<i64> {
    let day: jiff::civil::Date = day.parse().ok()?;
    day.to_zoned(jiff::tz::TimeZone::UTC).ok().map(|begin| begin.timestamp().as_second())
}
