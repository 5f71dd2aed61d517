//! The prices of a policy file: what differs from the price book, each part checked against it.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::ops::Range;

use checkrein_core::amount::{Unit, parse_quantity};
use checkrein_core::usage::UsageUnit;
use sha2::{Digest as _, Sha256};
use toml::de::DeTable;

use super::model::Sections;
use super::sections::{Reader, field, list, number, table, text};
use super::walk::cut;
use crate::price::{Factor, ModelName, Override, Price, PriceError, Prices, Rate, Terms, TermsError, book};

/// The fields of prices, what they are the price of, and of how many.
const FIELDS: [(&str, UsageUnit, u64); 19] = [
    ("input", UsageUnit::InputTokens, MILLION),
    ("output", UsageUnit::OutputTokens, MILLION),
    ("cache_read", UsageUnit::CacheReadTokens, MILLION),
    ("cache_write", UsageUnit::CacheWriteTokens, MILLION),
    ("cache_write_5m", UsageUnit::CacheWrite5mTokens, MILLION),
    ("cache_write_1h", UsageUnit::CacheWrite1hTokens, MILLION),
    ("reasoning", UsageUnit::OutputReasoningTokens, MILLION),
    ("input_audio", UsageUnit::InputAudioTokens, MILLION),
    ("output_audio", UsageUnit::OutputAudioTokens, MILLION),
    ("input_image", UsageUnit::InputImageTokens, MILLION),
    ("output_image", UsageUnit::OutputImageTokens, MILLION),
    ("per_million_characters", UsageUnit::InputCharacters, MILLION),
    ("per_request", UsageUnit::Requests, 1),
    ("per_web_search", UsageUnit::WebSearches, 1),
    ("per_file_search", UsageUnit::StorageSearches, 1),
    ("per_code_execution", UsageUnit::CodeExecutions, 1),
    ("per_rerank", UsageUnit::RerankSearches, 1),
    ("per_page", UsageUnit::InputDocumentPages, 1),
    ("per_audio_hour", UsageUnit::AudioSeconds, 3_600),
];
const MILLION: u64 = 1_000_000;

/// Reads the table `[prices]`.
pub(super) fn read(reader: &mut Reader<'_>, file: &DeTable<'_>) -> Terms {
    let mut terms = Terms::default();
    let Some(of) = table(file, "prices") else { return terms };
    let mut seen = BTreeSet::new();
    for (name, section) in table(of, "models").into_iter().flatten() {
        let (Some(model), Some(section)) = (model_name(name.get_ref()), section.get_ref().as_table()) else {
            continue;
        };
        let Some(own) = own(reader, section, name.span()) else { continue };
        if !seen.insert(name.get_ref().to_lowercase()) {
            problem(reader, name.span(), TermsError::Twice(cut(name.get_ref())));
            continue;
        }
        let alone = Terms { overrides: vec![(model, own)], ..Terms::default() };
        if is_possible(reader, &alone, name.span()) {
            terms.overrides.extend(alone.overrides);
        }
    }
    for (name, discount) in table(of, "discounts").into_iter().flatten() {
        let Some(factor) = discount.get_ref().as_str().and_then(factor) else { continue };
        let alone = Terms { factors: vec![(name.get_ref().to_string(), factor)], ..Terms::default() };
        if is_possible(reader, &alone, name.span()) {
            terms.factors.extend(alone.factors);
        }
    }
    // Two names may mean one provider, and then one model.
    if let Some((_, place)) = file.iter().find(|(name, _)| name.get_ref() == "prices")
        && !is_possible(reader, &terms, place.span())
    {
        return Terms::default();
    }
    if let Some((written, place)) = text(of, "assume")
        && let Some(assumed) = model_name(written)
    {
        let with = Terms { assume: Some(assumed), ..terms.clone() };
        if is_possible(reader, &with, place) {
            terms = with;
        }
    }
    terms
}

fn model_name(written: &str) -> Option<ModelName> {
    let (provider, model) = written.split_once('/')?;
    Some(ModelName { provider: provider.to_owned(), model: model.to_owned() })
}

/// The share that is left after a discount such as `12.5%`: at most four decimals make whole millionths.
fn factor(discount: &str) -> Option<Factor> {
    let (whole, fraction) =
        discount.strip_suffix('%').map(|number| number.split_once('.').unwrap_or((number, "")))?;
    let digits = format!("{whole}{fraction:0<4}");
    Factor::from_millionths(1_000_000_u32.checked_sub(digits.parse().ok()?)?)
}

fn is_possible(reader: &mut Reader<'_>, terms: &Terms, place: Range<usize>) -> bool {
    match crate::price::PriceList::new(book(), terms.clone()) {
        Ok(_) => true,
        Err(error) => {
            problem(reader, place, error);
            false
        }
    }
}

fn problem(reader: &mut Reader<'_>, place: Range<usize>, error: TermsError) {
    let (code, hint) = match &error {
        TermsError::Twice(_) => ("policy_contradiction", "keep one of them".to_owned()),
        TermsError::Empty(_) => {
            ("policy_missing_field", "add `input` and `output`, or `free = true`".to_owned())
        }
        TermsError::Unknown(PriceError::UnknownModel { .. } | PriceError::UnknownProvider { .. }) => {
            let hint = match &error {
                TermsError::Unknown(unknown) => unknown.hint(),
                _ => String::new(),
            };
            ("policy_unknown_name", hint)
        }
        _ => ("policy_unknown_name", "`checkrein prices list` lists every provider and model".to_owned()),
    };
    reader.problems.add(code, place, error.to_string(), hint);
}

/// Prices of one's own.
fn own(reader: &mut Reader<'_>, of: &DeTable<'_>, place: Range<usize>) -> Option<Override> {
    let says = |name: &str| field(of, name).and_then(|value| value.get_ref().as_bool()).unwrap_or_default();
    let steps = steps(reader, of);
    let mut prices = Vec::new();
    let mut is_whole = true;
    for (name, unit, per) in FIELDS {
        let of_steps: Vec<(u64, u64)> = steps
            .iter()
            .filter_map(|(above, step)| Some((*above, pico(reader, step, name, unit, per)?)))
            .collect();
        if field(of, name).is_none() {
            if let Some((_, value)) = steps.iter().find_map(|(above, step)| Some((above, field(step, name)?)))
            {
                let message = format!("a step has `{name}` and the price has none");
                let hint = format!("add `{name}`: what it costs below the first step");
                reader.problems.add("policy_missing_field", value.span(), message, hint);
                is_whole = false;
            }
            continue;
        }
        match pico(reader, of, name, unit, per).and_then(|base| Rate::stepped(base, of_steps)) {
            Some(rate) => prices.push(Price { unit, rate }),
            None => is_whole = false,
        }
    }
    if says("free") {
        if prices.is_empty() && is_whole {
            return Some(Override::Free);
        }
        let hint = "keep `free = true` or the prices".to_owned();
        reader.problems.add("policy_contradiction", place, "a model that is free has prices", hint);
        return None;
    }
    let prices = Prices::new(prices).filter(|_| is_whole)?;
    Some(if says("amend") { Override::Some(prices) } else { Override::All(prices) })
}

/// The steps of a price; ascending, or none.
fn steps<'t, 'i>(reader: &mut Reader<'_>, of: &'t DeTable<'i>) -> Vec<(u64, &'t DeTable<'i>)> {
    let mut steps: Vec<(u64, &DeTable<'_>)> = Vec::new();
    for item in list(of, "steps") {
        let Some(step) = item.get_ref().as_table() else { continue };
        let Some(above) = field(step, "above").and_then(|value| number(value.get_ref())).map(u64::from)
        else {
            continue;
        };
        if let (Some((before, _)), Some(place)) = (steps.last(), field(step, "above"))
            && *before >= above
        {
            let message = format!("a step above {above} after one above {before}");
            reader.problems.add(
                "policy_contradiction",
                place.span(),
                message,
                "let the steps ascend".to_owned(),
            );
            return Vec::new();
        }
        steps.push((above, step));
    }
    steps
}

/// A price as the book counts: pico-USD for as many as the unit's prices are for.
fn pico(reader: &mut Reader<'_>, of: &DeTable<'_>, name: &str, unit: UsageUnit, per: u64) -> Option<u64> {
    let (written, place) = text(of, name)?;
    let (amount, found) = match parse_quantity(written) {
        Ok(found) => found,
        Err(error) => {
            reader.problems.add("policy_bad_amount", place, error.to_string(), error.hint().to_owned());
            return None;
        }
    };
    let many = amount.pico().checked_mul(i128::from(unit.per() / per)).filter(|_| found == Unit::Usd);
    let fitting = many.and_then(|pico| u64::try_from(pico).ok()).filter(|pico| *pico <= Rate::MOST);
    if fitting.is_none() {
        let message = format!("`{}` is no price", cut(written));
        let hint = "a price is at most a million dollars for a million tokens".to_owned();
        reader.problems.add("policy_out_of_range", place, message, hint);
    }
    fitting
}

impl Sections {
    /// The prices that count, for a ledger: the digest and the day of the book, the policy's own terms included in the
    /// digest. Nothing where no model is spoken of.
    pub fn prices_line(&self) -> Option<String> {
        if self.models.is_empty() && self.terms == Terms::default() {
            return None;
        }
        let header = book().header();
        let digest = match terms_text(&self.terms) {
            text if text.is_empty() => header.digest.clone(),
            text => hex(&Sha256::digest(format!("checkrein-prices-v1\n{}\n{text}", header.digest))),
        };
        Some(format!("prices: sha256:{digest} of {}", header.date))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A policy's own terms, one a line, in an order that does not depend on how they were written.
fn terms_text(terms: &Terms) -> String {
    let mut lines = Vec::new();
    for (name, own) in &terms.overrides {
        let what = match own {
            Override::Free => "free".to_owned(),
            Override::All(prices) => format!("all{}", prices_text(prices)),
            Override::Some(prices) => format!("amended{}", prices_text(prices)),
        };
        lines.push(format!("{}/{}: {what}", name.provider.to_lowercase(), name.model.to_lowercase()));
    }
    for (provider, factor) in &terms.factors {
        lines.push(format!("{}: {} millionths", provider.to_lowercase(), factor.millionths()));
    }
    if let Some(assumed) = &terms.assume {
        lines.push(format!("assume: {}/{}", assumed.provider.to_lowercase(), assumed.model.to_lowercase()));
    }
    lines.sort();
    lines.join("\n")
}

fn prices_text(prices: &Prices) -> String {
    prices.iter().fold(String::new(), |mut text, Price { unit, rate }| {
        // Writing to a string does not fail.
        let _ = write!(text, ", {} {}", unit.price_name(), rate.base());
        for (above, pico) in rate.steps() {
            let _ = write!(text, ", above {above} {pico}");
        }
        text
    })
}
