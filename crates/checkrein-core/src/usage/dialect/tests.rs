//! Replies as providers send them, and the ways in which they can be wrong.

use super::*;
use crate::json::{Limits, read_str};

fn shown(reply: &str) -> String {
    let value = read_str(reply, &Limits::default()).unwrap();
    let Some(dialect) = Dialect::of(&value) else { return "no dialect".to_owned() };
    match dialect.read(&value) {
        Err(error) => format!("{}: {}: {error}", dialect.name(), error.code()),
        Ok(report) => {
            let mut text = format!("{}:", dialect.name());
            if let Some(model) = report.model {
                text += &format!(" {model}");
            }
            for (unit, count) in report.usage.iter() {
                text += &format!(" {}={count}", unit.name());
            }
            for (key, said) in report.context {
                text += &format!(" {key}:{said}");
            }
            for path in report.unread {
                text += &format!(" unread:{path}");
            }
            text
        }
    }
}

fn check(reply: &str, expected: &str) {
    assert_eq!(shown(reply), expected, "for {reply}");
}

#[test]
fn openai_chat() {
    check(
        r#"{"object":"chat.completion","model":"gpt-5.4","service_tier":"flex","usage":{"prompt_tokens":100,
            "completion_tokens":40,"total_tokens":140,"prompt_tokens_details":{"cached_tokens":60,"audio_tokens":0},
            "completion_tokens_details":{"reasoning_tokens":30,"audio_tokens":0,"accepted_prediction_tokens":2}}}"#,
        "openai-chat: gpt-5.4 input_tokens=100 output_tokens=40 cache_read_tokens=60 input_audio_tokens=0 \
         output_audio_tokens=0 output_reasoning_tokens=30 service_tier:flex",
    );
    check(r#"{"usage":{"prompt_tokens":8,"total_tokens":8}}"#, "openai-chat: input_tokens=8 output_tokens=0");
    check(
        r#"{"usage":{"prompt_tokens":10,"completion_tokens":5,"total_tokens":22,
            "completion_tokens_details":{"reasoning_tokens":7}}}"#,
        "openai-chat: input_tokens=10 output_tokens=12 output_reasoning_tokens=7",
    );
    check(
        r#"{"usage":{"prompt_tokens":10,"completion_tokens":5,"prompt_tokens_details":null,
            "cached_tokens":4,"num_search_queries":2,"cost":0.01}}"#,
        "openai-chat: input_tokens=10 output_tokens=5 cache_read_tokens=4 unread:usage.num_search_queries",
    );
    check(
        r#"{"usage":{"prompt_tokens":10,"completion_tokens":5,
            "prompt_tokens_details":{"cache_write_tokens":6,"cache_write_tokens_details":{"ttl_12h":6}}}}"#,
        "openai-chat: input_tokens=10 output_tokens=5 cache_write_tokens=6 \
         unread:usage.prompt_tokens_details.cache_write_tokens_details.ttl_12h",
    );
}

#[test]
fn openai_chat_that_is_wrong() {
    for (usage, expected) in [
        (r#"{"prompt_tokens":10}"#, "usage_missing: `usage.completion_tokens` is missing"),
        (
            r#"{"prompt_tokens":null,"completion_tokens":1}"#,
            "usage_missing: `usage.prompt_tokens` is missing",
        ),
        (
            r#"{"prompt_tokens":-1,"completion_tokens":1}"#,
            "usage_negative: `usage.prompt_tokens` is negative",
        ),
        (
            r#"{"prompt_tokens":1.5,"completion_tokens":1}"#,
            "usage_fraction: `usage.prompt_tokens` is not a whole number",
        ),
        (
            r#"{"prompt_tokens":1e3,"completion_tokens":1}"#,
            "usage_fraction: `usage.prompt_tokens` is not a whole number",
        ),
        (
            r#"{"prompt_tokens":"7","completion_tokens":1}"#,
            "usage_type: `usage.prompt_tokens` is string, not number",
        ),
        (
            r#"{"prompt_tokens":1000000000001,"completion_tokens":1}"#,
            "usage_too_large: `usage.prompt_tokens` is more than any call can use",
        ),
        (
            r#"{"prompt_tokens":1,"completion_tokens":18446744073709551615}"#,
            "usage_too_large: `usage.completion_tokens` is more than any call can use",
        ),
        (
            r#"{"prompt_tokens":10,"completion_tokens":5,"total_tokens":16}"#,
            "usage_contradictory: `usage.total_tokens` is 16, not 10 of `prompt_tokens` and 5 of `completion_tokens`",
        ),
        (
            r#"{"prompt_tokens":10,"completion_tokens":5,"prompt_tokens_details":{"cached_tokens":8,"cache_write_tokens":3}}"#,
            "usage_contradictory: `cached_tokens` and `cache_write_tokens` are 11, more than the 10 of \
             `usage.prompt_tokens`",
        ),
        (
            r#"{"prompt_tokens":10,"completion_tokens":5,"completion_tokens_details":{"reasoning_tokens":6}}"#,
            "usage_contradictory: `reasoning_tokens` are 6, more than the 5 of `usage.completion_tokens`",
        ),
        (
            r#"{"prompt_tokens":10,"completion_tokens":5,"cached_tokens":3,"prompt_tokens_details":{"cached_tokens":4}}"#,
            "usage_contradictory: `usage.prompt_tokens_details.cached_tokens` is 4 and `usage.cached_tokens` is 3",
        ),
        (
            r#"{"prompt_tokens":10,"completion_tokens":5,"prompt_tokens_details":[]}"#,
            "usage_type: `usage.prompt_tokens_details` is array, not object",
        ),
    ] {
        check(&format!("{{\"usage\":{usage}}}"), &format!("openai-chat: {expected}"));
    }
}

#[test]
fn openai_responses() {
    let response = r#"{"object":"response","model":"gpt-6-sol","service_tier":"default","output":[{"type":"reasoning"},
        {"type":"web_search_call","action":{"type":"search"}},{"type":"web_search_call","action":{"type":"open_page"}},
        {"type":"file_search_call"},{"type":"code_interpreter_call"}],"usage":{"input_tokens":50,"output_tokens":20,
        "total_tokens":70,"input_tokens_details":{"cached_tokens":10},"output_tokens_details":{"reasoning_tokens":8}}}"#;
    let expected = "openai-responses: gpt-6-sol input_tokens=50 output_tokens=20 cache_read_tokens=10 \
        output_reasoning_tokens=8 web_searches=1 storage_searches=1 service_tier:default unread:output[4].type";
    check(response, expected);
    check(&format!(r#"{{"type":"response.completed","response":{response}}}"#), expected);
    check(
        r#"{"object":"response","usage":{"input_tokens":50,"output_tokens":20,"total_tokens":71}}"#,
        "openai-responses: usage_contradictory: `usage.total_tokens` is 71, not 50 of `input_tokens` and 20 of \
         `output_tokens`",
    );
    check(r#"{"object":"response","usage":null}"#, "openai-responses: usage_missing: `usage` is missing");
}

#[test]
fn anthropic_messages() {
    check(
        r#"{"type":"message","model":"claude-opus-5","usage":{"input_tokens":10,"output_tokens":90,
            "cache_creation_input_tokens":30,"cache_read_input_tokens":200,"service_tier":"batch","speed":"fast",
            "cache_creation":{"ephemeral_5m_input_tokens":10,"ephemeral_1h_input_tokens":20},"inference_geo":"us",
            "output_tokens_details":{"thinking_tokens":40},
            "server_tool_use":{"web_search_requests":2,"web_fetch_requests":1,"code_execution_requests":1}}}"#,
        "anthropic: claude-opus-5 input_tokens=240 output_tokens=90 cache_read_tokens=200 cache_write_tokens=30 \
         cache_write_5m_tokens=10 cache_write_1h_tokens=20 output_reasoning_tokens=40 web_searches=2 processing:batch \
         speed:fast inference_geo:us unread:usage.server_tool_use.code_execution_requests",
    );
    check(
        r#"{"type":"message","usage":{"input_tokens":5,"output_tokens":3,"cache_creation_input_tokens":null,
            "cache_read_input_tokens":null,"service_tier":"standard","inference_geo":"not_available"}}"#,
        "anthropic: input_tokens=5 output_tokens=3 cache_read_tokens=0 cache_write_tokens=0",
    );
    for (usage, expected) in [
        (r#"{"input_tokens":5}"#, "usage_missing: `usage.output_tokens` is missing"),
        (
            r#"{"input_tokens":5,"output_tokens":1,"cache_read_input_tokens":-4}"#,
            "usage_negative: `usage.cache_read_input_tokens` is negative",
        ),
        (
            r#"{"input_tokens":5,"output_tokens":1,"cache_creation_input_tokens":9,
                "cache_creation":{"ephemeral_5m_input_tokens":9,"ephemeral_1h_input_tokens":1}}"#,
            "usage_contradictory: `usage.cache_creation_input_tokens` is 9, and those of `cache_creation` are 9 and 1",
        ),
        (
            r#"{"input_tokens":5,"output_tokens":1,"output_tokens_details":{"thinking_tokens":2}}"#,
            "usage_contradictory: `output_tokens_details.thinking_tokens` are 2, more than the 1 of \
             `usage.output_tokens`",
        ),
    ] {
        check(&format!(r#"{{"type":"message","usage":{usage}}}"#), &format!("anthropic: {expected}"));
    }
}

#[test]
fn rounds_that_the_sum_leaves_out_are_charged() {
    check(
        r#"{"type":"message","model":"claude-fable-5-2","usage":{"input_tokens":10,"output_tokens":20,
            "cache_read_input_tokens":0,"iterations":[
              {"type":"compaction","input_tokens":1000,"output_tokens":50},
              {"type":"message","input_tokens":10,"output_tokens":20,"model":"claude-opus-5"}]}}"#,
        "anthropic: claude-fable-5-2 input_tokens=1010 output_tokens=70 cache_read_tokens=0 cache_write_tokens=0 \
         cache_write_5m_tokens=0 cache_write_1h_tokens=0 unread:usage.iterations[1].model",
    );
    check(
        r#"{"type":"message","usage":{"input_tokens":11,"output_tokens":20,
            "iterations":[{"input_tokens":10,"output_tokens":20}]}}"#,
        "anthropic: usage_contradictory: `usage.input_tokens` is 11, more than the 10 of all `usage.iterations`",
    );
}

#[test]
fn gemini() {
    check(
        r#"{"modelVersion":"gemini-3.8-flash","candidates":[{"groundingMetadata":{"webSearchQueries":["a","b"]}}],
            "usageMetadata":{"promptTokenCount":100,"candidatesTokenCount":20,"thoughtsTokenCount":7,
            "toolUsePromptTokenCount":3,"cachedContentTokenCount":40,"totalTokenCount":130,"trafficType":"ON_DEMAND",
            "promptTokensDetails":[{"modality":"TEXT","tokenCount":60},{"modality":"AUDIO","tokenCount":40}],
            "cacheTokensDetails":[{"modality":"TEXT","tokenCount":40}]}}"#,
        "gemini: gemini-3.8-flash input_tokens=103 output_tokens=27 cache_read_tokens=40 input_text_tokens=60 \
         cache_text_read_tokens=40 input_audio_tokens=40 cache_audio_read_tokens=0 input_image_tokens=0 \
         cache_image_read_tokens=0 input_video_tokens=0 cache_video_read_tokens=0 input_tool_tokens=3 \
         output_reasoning_tokens=7 web_searches=2",
    );
    for (usage, expected) in [
        (r#"{"promptTokenCount":5}"#, "usage_missing: `usageMetadata.totalTokenCount` is missing"),
        (
            r#"{"promptTokenCount":5,"totalTokenCount":9}"#,
            "usage_contradictory: `usageMetadata.totalTokenCount` is 9, not the sum of prompt 5, candidates 0, \
             thoughts 0 and tool use 0",
        ),
        (
            r#"{"promptTokenCount":5,"totalTokenCount":5,"cachedContentTokenCount":6}"#,
            "usage_contradictory: `usageMetadata.cachedContentTokenCount` are 6, more than the 5 of \
             `usageMetadata.promptTokenCount`",
        ),
        (
            r#"{"promptTokenCount":5,"totalTokenCount":5,"promptTokensDetails":[{"modality":"AUDIO","tokenCount":6}]}"#,
            "usage_contradictory: `promptTokensDetails` are 6, more than the 5 of `promptTokenCount`",
        ),
        (
            r#"{"promptTokenCount":5,"totalTokenCount":5,"promptTokensDetails":[{"modality":"SMELL","tokenCount":2}]}"#,
            "input_tokens=5 output_tokens=0 cache_read_tokens=0 input_text_tokens=0 input_audio_tokens=0 \
             input_image_tokens=0 input_video_tokens=0 input_tool_tokens=0 output_reasoning_tokens=0 \
             unread:usageMetadata.promptTokensDetails[0].tokenCount",
        ),
        (
            r#"{"promptTokenCount":9,"totalTokenCount":9,"cachedContentTokenCount":5,
                "promptTokensDetails":[{"modality":"TEXT","tokenCount":4},{"modality":"AUDIO","tokenCount":5}],
                "cacheTokensDetails":[{"modality":"TEXT","tokenCount":5}]}"#,
            "usage_contradictory: `cache_text_read_tokens` are 5, more than the 4 of `input_text_tokens`",
        ),
        (r#"7"#, "usage_type: `usageMetadata` is number, not object"),
    ] {
        check(&format!(r#"{{"usageMetadata":{usage}}}"#), &format!("gemini: {expected}"));
    }
}

#[test]
fn units_by_name_and_forms_nobody_knows() {
    check(
        r#"{"model":"whisper-large-v3","usage":{"audio_seconds":12}}"#,
        "units: whisper-large-v3 audio_seconds=12",
    );
    check(r#"{"usage":{}}"#, "units: usage_missing: `usage.*` is missing");
    check(r#"{"usage":{"requests":3}}"#, "units: usage_unknown_unit: `requests` is no unit of usage");
    check(r#"{"usage":{"tokens":3}}"#, "no dialect");
    check(r#"{"model":"x"}"#, "no dialect");
    check("[]", "no dialect");
    let reply = read_str("[]", &Limits::default()).unwrap();
    for dialect in Dialect::ALL {
        assert_eq!(dialect.read(&reply).unwrap_err().code(), "usage_type");
    }
}
