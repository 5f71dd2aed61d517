//! Gemini: thoughts stand beside the candidates and tool results beside the prompt, both are charged.

use super::members::{Members, short};
use super::{Report, within};
use crate::usage::{UsageError, UsageUnit};

/// The units of text, audio, image and video in one list of details.
type Shapes = [UsageUnit; 4];

const READ: [&str; 6] = [
    "promptTokenCount",
    "candidatesTokenCount",
    "thoughtsTokenCount",
    "toolUsePromptTokenCount",
    "cachedContentTokenCount",
    "totalTokenCount",
];

/// `generateContent`, and the last chunk of its stream.
pub(super) fn generate_content(root: &Members<'_>, report: &mut Report) -> Result<(), UsageError> {
    let usage = root.required_object("usageMetadata")?;
    // Zero is not written in this encoding. The total must be there, and shows when something else is missing.
    let prompt = usage.or_zero("promptTokenCount")?;
    let candidates = usage.or_zero("candidatesTokenCount")?;
    let thoughts = usage.or_zero("thoughtsTokenCount")?;
    let tools = usage.or_zero("toolUsePromptTokenCount")?;
    let cached = usage.or_zero("cachedContentTokenCount")?;
    let total = usage.required("totalTokenCount")?;
    if total != prompt + candidates + thoughts + tools {
        return Err(UsageError::Contradictory(format!(
            "`usageMetadata.totalTokenCount` is {total}, not the sum of prompt {prompt}, candidates {candidates}, \
             thoughts {thoughts} and tool use {tools}"
        )));
    }
    within(&[("usageMetadata.cachedContentTokenCount", cached)], ("usageMetadata.promptTokenCount", prompt))?;
    for (unit, count) in [
        (UsageUnit::InputTokens, prompt + tools),
        (UsageUnit::OutputTokens, candidates + thoughts),
        (UsageUnit::CacheReadTokens, cached),
        (UsageUnit::InputToolTokens, tools),
        (UsageUnit::OutputReasoningTokens, thoughts),
    ] {
        report.usage.set(unit, count)?;
    }
    details(&usage, "promptTokensDetails", ("promptTokenCount", prompt), &[INPUT], report)?;
    details(
        &usage,
        "toolUsePromptTokensDetails",
        ("toolUsePromptTokenCount", tools),
        &[INPUT, TOOL],
        report,
    )?;
    details(&usage, "cacheTokensDetails", ("cachedContentTokenCount", cached), &[CACHED], report)?;
    details(&usage, "candidatesTokensDetails", ("candidatesTokenCount", candidates), &[OUTPUT], report)?;
    for candidate in root.list("candidates")? {
        // Newer models are charged per search, older ones once per prompt, which is never more.
        let searches = candidate.object("groundingMetadata")?.length("webSearchQueries");
        if searches > 0 {
            report.usage.add(UsageUnit::WebSearches, searches)?;
        }
    }
    usage.note_others(&READ, &mut report.unread);
    match usage.text("trafficType")? {
        None | Some("ON_DEMAND" | "TRAFFIC_TYPE_UNSPECIFIED") => {}
        Some("ON_DEMAND_FLEX") => report.context.push(("service_tier".to_owned(), "flex".to_owned())),
        Some("ON_DEMAND_PRIORITY") => {
            report.context.push(("service_tier".to_owned(), "priority".to_owned()));
        }
        Some(other) => report.context.push(("traffic_type".to_owned(), short(other))),
    }
    Ok(())
}

const INPUT: Shapes = [
    UsageUnit::InputTextTokens,
    UsageUnit::InputAudioTokens,
    UsageUnit::InputImageTokens,
    UsageUnit::InputVideoTokens,
];
const TOOL: Shapes = [
    UsageUnit::InputTextToolTokens,
    UsageUnit::InputAudioToolTokens,
    UsageUnit::InputImageToolTokens,
    UsageUnit::InputVideoToolTokens,
];
const CACHED: Shapes = [
    UsageUnit::CacheTextReadTokens,
    UsageUnit::CacheAudioReadTokens,
    UsageUnit::CacheImageReadTokens,
    UsageUnit::CacheVideoReadTokens,
];
const OUTPUT: Shapes = [
    UsageUnit::OutputTextTokens,
    UsageUnit::OutputAudioTokens,
    UsageUnit::OutputImageTokens,
    UsageUnit::OutputVideoTokens,
];

/// Counts by what the tokens represent. A list that is there tells all four, also those it leaves out.
fn details(
    usage: &Members<'_>,
    name: &str,
    whole: (&str, u64),
    into: &[Shapes],
    report: &mut Report,
) -> Result<(), UsageError> {
    let items = usage.list(name)?;
    if items.is_empty() {
        return Ok(());
    }
    let mut counts = [0_u64; 4];
    let mut sum = 0_u64;
    for item in &items {
        let count = item.or_zero("tokenCount")?;
        sum = sum.saturating_add(count);
        let place = match item.text("modality")? {
            Some("TEXT") => 0,
            Some("AUDIO") => 1,
            // Pages of documents are charged as images.
            Some("IMAGE" | "DOCUMENT") => 2,
            Some("VIDEO") => 3,
            _ => {
                if count > 0 {
                    report.unread.push(item.at("tokenCount"));
                }
                continue;
            }
        };
        if let Some(counted) = counts.get_mut(place) {
            *counted = counted.saturating_add(count);
        }
    }
    within(&[(name, sum)], whole)?;
    for units in into {
        for (unit, count) in units.iter().zip(counts) {
            report.usage.add(*unit, count)?;
        }
    }
    Ok(())
}
