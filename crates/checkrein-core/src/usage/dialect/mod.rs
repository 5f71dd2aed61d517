//! Usage reports in the words of each provider, read into one [`Usage`].
//!
//! A report is believed only as a whole: a count that is missing, negative, no whole number, beyond any call, or at odds
//! with another count is an error. Counts that nobody here reads are named, so that nothing is charged silently at zero.

mod anthropic;
mod gemini;
mod members;
mod openai;
#[cfg(test)]
mod tests;

use super::{Usage, UsageError, UsageUnit};
use crate::json::Value;
use members::Members;

/// Whose words a reply uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// OpenAI chat completions, completions and embeddings, and the many who speak the same.
    OpenAiChat,
    /// OpenAI responses.
    OpenAiResponses,
    /// Anthropic messages.
    AnthropicMessages,
    /// Gemini `generateContent`.
    Gemini,
    /// `usage` by our own units: `{"input_tokens": 12}`.
    Units,
}

/// What a reply says it used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The model that answered, where the reply names it.
    pub model: Option<String>,
    /// What was used.
    pub usage: Usage,
    /// What the call was, as prices depend on it: `processing` is `batch`, `service_tier` is `flex`.
    pub context: Vec<(String, String)>,
    /// Members that say something was used and that nobody here reads.
    pub unread: Vec<String>,
}

impl Dialect {
    /// Every dialect.
    pub const ALL: [Self; 5] =
        [Self::OpenAiChat, Self::OpenAiResponses, Self::AnthropicMessages, Self::Gemini, Self::Units];

    /// The word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::OpenAiChat => "openai-chat",
            Self::OpenAiResponses => "openai-responses",
            Self::AnthropicMessages => "anthropic",
            Self::Gemini => "gemini",
            Self::Units => "units",
        }
    }

    /// The provider whose own words these are; none for those that many speak.
    pub const fn provider(self) -> Option<&'static str> {
        match self {
            Self::OpenAiResponses => Some("openai"),
            Self::AnthropicMessages => Some("anthropic"),
            Self::Gemini => Some("google"),
            Self::OpenAiChat | Self::Units => None,
        }
    }

    /// The dialect of a reply, by members that only one of them has.
    pub fn of(reply: &Value) -> Option<Self> {
        if reply.get("usageMetadata").is_some() {
            return Some(Self::Gemini);
        }
        let usage = unwrapped(reply).get("usage")?;
        let has = |name: &str| usage.get(name).is_some();
        if has("prompt_tokens") {
            return Some(Self::OpenAiChat);
        }
        match (
            unwrapped(reply).get("object").and_then(Value::as_str),
            reply.get("type").and_then(Value::as_str),
        ) {
            (Some("response"), _) => Some(Self::OpenAiResponses),
            (_, Some("message")) => Some(Self::AnthropicMessages),
            _ if has("cache_creation_input_tokens") || has("cache_read_input_tokens") => {
                Some(Self::AnthropicMessages)
            }
            _ if has("total_tokens") && has("input_tokens") => Some(Self::OpenAiResponses),
            _ => {
                let known = |name: &str| UsageUnit::from_name(name).is_some();
                usage.as_object()?.iter().all(|(name, _)| known(name)).then_some(Self::Units)
            }
        }
    }

    /// Reads what a reply says it used.
    ///
    /// # Errors
    /// The report is not whole, or contradicts itself.
    pub fn read(self, reply: &Value) -> Result<Report, UsageError> {
        let root = Members::root(unwrapped(reply))?;
        let mut report = Report { model: None, ..Report::default() };
        let model = if self == Self::Gemini { "modelVersion" } else { "model" };
        report.model = root.text(model)?.map(str::to_owned);
        match self {
            Self::OpenAiChat => openai::chat(&root, &mut report)?,
            Self::OpenAiResponses => openai::responses(&root, &mut report)?,
            Self::AnthropicMessages => anthropic::messages(&root, &mut report)?,
            Self::Gemini => gemini::generate_content(&root, &mut report)?,
            Self::Units => return units(&root, &mut report).map(|()| report),
        }
        consistent(&report.usage)?;
        Ok(report)
    }
}

/// The reply inside the last event of a stream of responses.
fn unwrapped(reply: &Value) -> &Value {
    match reply.get("type").and_then(Value::as_str) {
        Some(event) if event.starts_with("response.") => reply.get("response").unwrap_or(reply),
        _ => reply,
    }
}

fn units(root: &Members<'_>, report: &mut Report) -> Result<(), UsageError> {
    let usage = root.required_object("usage")?;
    for name in usage.names() {
        let unit = UsageUnit::from_name(name).ok_or_else(|| UsageError::UnknownUnit(members::short(name)))?;
        report.usage.set(unit, usage.required(name)?)?;
    }
    if report.usage.is_empty() {
        return Err(UsageError::Missing("usage.*".to_owned()));
    }
    Ok(())
}

/// Refuses counts of which one is a part of another and larger, whichever members they come from.
fn consistent(usage: &Usage) -> Result<(), UsageError> {
    for (unit, count) in usage.iter() {
        for whole in unit.wholes().iter() {
            if let Some(most) = usage.reported(whole) {
                within(&[(unit.name(), count)], (whole.name(), most))?;
            }
        }
    }
    Ok(())
}

/// Refuses parts that are more than their whole.
fn within(parts: &[(&str, u64)], whole: (&str, u64)) -> Result<(), UsageError> {
    let sum = parts.iter().fold(0_u64, |sum, (_, count)| sum.saturating_add(*count));
    if sum <= whole.1 {
        return Ok(());
    }
    let names: Vec<String> =
        parts.iter().filter(|(_, count)| *count > 0).map(|(name, _)| format!("`{name}`")).collect();
    let (names, (name, most)) = (names.join(" and "), whole);
    Err(UsageError::Contradictory(format!("{names} are {sum}, more than the {most} of `{name}`")))
}
