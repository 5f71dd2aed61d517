//! OpenAI: chat completions and what speaks like them, and responses.

use super::members::Members;
use super::{Report, within};
use crate::usage::{UsageError, UsageUnit};

/// What routers add that is no use of a model.
const CHAT: [&str; 5] = ["prompt_tokens", "completion_tokens", "total_tokens", "cost", "cached_tokens"];

/// Chat completions, completions and embeddings.
pub(super) fn chat(root: &Members<'_>, report: &mut Report) -> Result<(), UsageError> {
    let usage = root.required_object("usage")?;
    let prompt = usage.required("prompt_tokens")?;
    let total = usage.count("total_tokens")?;
    let completion = match usage.count("completion_tokens")? {
        Some(count) => count,
        // Embeddings have no output, and say so by their total.
        None if total == Some(prompt) => 0,
        None => return Err(UsageError::Missing(usage.at("completion_tokens"))),
    };
    let details = usage.object("completion_tokens_details")?;
    let reasoning = details.or_zero("reasoning_tokens")?;
    let output = match total {
        None => completion,
        Some(total) if total == prompt + completion => completion,
        // Some count what the model thought beside what it said, and not in it.
        Some(total) if reasoning > 0 && total == prompt + completion + reasoning => completion + reasoning,
        Some(total) => {
            return Err(UsageError::Contradictory(format!(
                "`usage.total_tokens` is {total}, not {prompt} of `prompt_tokens` and {completion} of \
                 `completion_tokens`"
            )));
        }
    };
    let inner = usage.object("prompt_tokens_details")?;
    input_details(&inner, usage.count("cached_tokens")?, ("usage.prompt_tokens", prompt), report)?;
    output_details(&details, ("usage.completion_tokens", output), report)?;
    report.usage.set(UsageUnit::InputTokens, prompt)?;
    report.usage.set(UsageUnit::OutputTokens, output)?;
    usage.note_others(&CHAT, &mut report.unread);
    tier(root, report)
}

/// Responses, their tool calls included.
pub(super) fn responses(root: &Members<'_>, report: &mut Report) -> Result<(), UsageError> {
    let usage = root.required_object("usage")?;
    let (input, output) = (usage.required("input_tokens")?, usage.required("output_tokens")?);
    match usage.count("total_tokens")? {
        Some(total) if total != input + output => {
            return Err(UsageError::Contradictory(format!(
                "`usage.total_tokens` is {total}, not {input} of `input_tokens` and {output} of `output_tokens`"
            )));
        }
        _ => {}
    }
    input_details(&usage.object("input_tokens_details")?, None, ("usage.input_tokens", input), report)?;
    output_details(&usage.object("output_tokens_details")?, ("usage.output_tokens", output), report)?;
    report.usage.set(UsageUnit::InputTokens, input)?;
    report.usage.set(UsageUnit::OutputTokens, output)?;
    usage.note_others(&["input_tokens", "output_tokens", "total_tokens", "cost"], &mut report.unread);
    tool_calls(root, report)?;
    tier(root, report)
}

fn input_details(
    details: &Members<'_>,
    cached_outside: Option<u64>,
    whole: (&str, u64),
    report: &mut Report,
) -> Result<(), UsageError> {
    let inside = details.count("cached_tokens")?;
    if let (Some(inside), Some(outside)) = (inside, cached_outside)
        && inside != outside
    {
        return Err(UsageError::Contradictory(format!(
            "`{}` is {inside} and `usage.cached_tokens` is {outside}",
            details.at("cached_tokens")
        )));
    }
    let cached = inside.or(cached_outside);
    let written = details.count("cache_write_tokens")?;
    let [audio, image, text] =
        [details.count("audio_tokens")?, details.count("image_tokens")?, details.count("text_tokens")?];
    let or_zero = Option::unwrap_or_default;
    within(&[("cached_tokens", or_zero(cached)), ("cache_write_tokens", or_zero(written))], whole)?;
    let shapes =
        [("audio_tokens", or_zero(audio)), ("image_tokens", or_zero(image)), ("text_tokens", or_zero(text))];
    within(&shapes, whole)?;
    for (unit, count) in [
        (UsageUnit::CacheReadTokens, cached),
        (UsageUnit::CacheWriteTokens, written),
        (UsageUnit::InputAudioTokens, audio),
        (UsageUnit::InputImageTokens, image),
    ] {
        if let Some(count) = count {
            report.usage.set(unit, count)?;
        }
    }
    let lives = details.object("cache_write_tokens_details")?;
    lives.note_others(&["ttl_30m"], &mut report.unread);
    let read = ["cached_tokens", "cache_write_tokens", "audio_tokens", "image_tokens", "text_tokens"];
    details.note_others(&read, &mut report.unread);
    Ok(())
}

fn output_details(details: &Members<'_>, whole: (&str, u64), report: &mut Report) -> Result<(), UsageError> {
    let [reasoning, audio, text] =
        [details.count("reasoning_tokens")?, details.count("audio_tokens")?, details.count("text_tokens")?];
    within(&[("reasoning_tokens", reasoning.unwrap_or_default())], whole)?;
    within(&[("audio_tokens", audio.unwrap_or_default()), ("text_tokens", text.unwrap_or_default())], whole)?;
    if let Some(count) = reasoning {
        report.usage.set(UsageUnit::OutputReasoningTokens, count)?;
    }
    if let Some(count) = audio {
        report.usage.set(UsageUnit::OutputAudioTokens, count)?;
    }
    // Predicted tokens are charged as output, accepted or not, and are in it.
    let read = [
        "reasoning_tokens",
        "audio_tokens",
        "text_tokens",
        "accepted_prediction_tokens",
        "rejected_prediction_tokens",
    ];
    details.note_others(&read, &mut report.unread);
    Ok(())
}

/// What the provider's own tools did: the usage does not say it, the output does.
fn tool_calls(root: &Members<'_>, report: &mut Report) -> Result<(), UsageError> {
    for item in root.list("output")? {
        match item.text("type")? {
            Some("web_search_call") => {
                // Opening a page that was found is no search.
                let action = item.object("action")?;
                if matches!(action.text("type")?, None | Some("search")) {
                    report.usage.add(UsageUnit::WebSearches, 1)?;
                }
            }
            Some("file_search_call") => report.usage.add(UsageUnit::StorageSearches, 1)?,
            Some("code_interpreter_call") => report.unread.push(item.at("type")),
            _ => {}
        }
    }
    Ok(())
}

fn tier(root: &Members<'_>, report: &mut Report) -> Result<(), UsageError> {
    match root.text("service_tier")? {
        None | Some("auto") => {}
        Some(tier) => report.context.push(("service_tier".to_owned(), tier.to_owned())),
    }
    Ok(())
}
