//! Anthropic messages: cache reads and writes stand beside the input, not in it.

use super::members::Members;
use super::{Report, within};
use crate::usage::{UsageError, UsageUnit};

const READ: [&str; 4] =
    ["input_tokens", "output_tokens", "cache_creation_input_tokens", "cache_read_input_tokens"];

/// What one round with the model used.
#[derive(Default)]
struct Round {
    input: u64,
    output: u64,
    read: u64,
    written: u64,
    /// For five minutes and for an hour, where the report tells them apart.
    lives: Option<(u64, u64)>,
    thought: Option<u64>,
}

/// Messages.
pub(super) fn messages(root: &Members<'_>, report: &mut Report) -> Result<(), UsageError> {
    let usage = root.required_object("usage")?;
    let whole = round(&usage, report)?;
    let rounds = usage.list("iterations")?;
    let used = if rounds.is_empty() { whole } else { sum(&rounds, root, &whole, report)? };
    let input = used.input + used.read + used.written;
    report.usage.set(UsageUnit::InputTokens, input)?;
    report.usage.set(UsageUnit::OutputTokens, used.output)?;
    report.usage.set(UsageUnit::CacheReadTokens, used.read)?;
    report.usage.set(UsageUnit::CacheWriteTokens, used.written)?;
    if let Some((short, long)) = used.lives {
        report.usage.set(UsageUnit::CacheWrite5mTokens, short)?;
        report.usage.set(UsageUnit::CacheWrite1hTokens, long)?;
    }
    if let Some(thought) = used.thought {
        within(&[("output_tokens_details.thinking_tokens", thought)], ("usage.output_tokens", used.output))?;
        report.usage.set(UsageUnit::OutputReasoningTokens, thought)?;
    }
    let tools = usage.object("server_tool_use")?;
    if let Some(searches) = tools.count("web_search_requests")? {
        report.usage.set(UsageUnit::WebSearches, searches)?;
    }
    // Fetching costs only the tokens of what was fetched.
    tools.note_others(&["web_search_requests", "web_fetch_requests"], &mut report.unread);
    usage.note_others(&READ, &mut report.unread);
    context(&usage, report)
}

fn round(usage: &Members<'_>, report: &mut Report) -> Result<Round, UsageError> {
    let written = usage.count("cache_creation_input_tokens")?;
    let creation = usage.object("cache_creation")?;
    let lives = creation.is_there().then(|| {
        let short = creation.or_zero("ephemeral_5m_input_tokens")?;
        Ok::<_, UsageError>((short, creation.or_zero("ephemeral_1h_input_tokens")?))
    });
    let lives = lives.transpose()?;
    creation.note_others(&["ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens"], &mut report.unread);
    if let (Some(written), Some((short, long))) = (written, lives)
        && written != short + long
    {
        return Err(UsageError::Contradictory(format!(
            "`{}` is {written}, and those of `cache_creation` are {short} and {long}",
            usage.at("cache_creation_input_tokens")
        )));
    }
    Ok(Round {
        input: usage.required("input_tokens")?,
        output: usage.required("output_tokens")?,
        read: usage.or_zero("cache_read_input_tokens")?,
        written: written.unwrap_or_else(|| lives.map_or(0, |(short, long)| short + long)),
        lives,
        thought: usage.object("output_tokens_details")?.count("thinking_tokens")?,
    })
}

/// All rounds together. The sum at the top leaves out those that made the context shorter, which are charged too.
fn sum(
    rounds: &[Members<'_>],
    root: &Members<'_>,
    whole: &Round,
    report: &mut Report,
) -> Result<Round, UsageError> {
    let model = root.text("model")?;
    let mut all = Round { lives: Some((0, 0)), thought: whole.thought, ..Round::default() };
    for members in rounds {
        if members.text("model")?.is_some_and(|named| Some(named) != model) {
            report.unread.push(members.at("model"));
        }
        let one = round(members, report)?;
        all.input = all.input.saturating_add(one.input);
        all.output = all.output.saturating_add(one.output);
        all.read = all.read.saturating_add(one.read);
        all.written = all.written.saturating_add(one.written);
        // A round that wrote and does not say for how long leaves the sum untold.
        let told = if one.written == 0 { one.lives.or(Some((0, 0))) } else { one.lives };
        all.lives = all.lives.zip(told).map(|(sum, one)| (sum.0 + one.0, sum.1 + one.1));
    }
    for (name, top, sum) in [
        ("input_tokens", whole.input, all.input),
        ("output_tokens", whole.output, all.output),
        ("cache_read_input_tokens", whole.read, all.read),
        ("cache_creation_input_tokens", whole.written, all.written),
    ] {
        if top > sum {
            return Err(UsageError::Contradictory(format!(
                "`usage.{name}` is {top}, more than the {sum} of all `usage.iterations`"
            )));
        }
    }
    Ok(all)
}

fn context(usage: &Members<'_>, report: &mut Report) -> Result<(), UsageError> {
    let mut add = |key: &str, said: &str| report.context.push((key.to_owned(), said.to_owned()));
    match usage.text("service_tier")? {
        None | Some("standard") => {}
        // A batch is a way to send, not a tier, in the price book.
        Some("batch") => add("processing", "batch"),
        Some(tier) => add("service_tier", tier),
    }
    match usage.text("speed")? {
        None | Some("standard") => {}
        Some(speed) => add("speed", speed),
    }
    match usage.text("inference_geo")? {
        None | Some("global" | "not_available") => {}
        Some(place) => add("inference_geo", place),
    }
    Ok(())
}
