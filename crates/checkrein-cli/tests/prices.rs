//! The prices verbs as a shell sees them: real processes, their output and their exit codes.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

use std::io::Write;
use std::process::{Command, Output, Stdio};

use expect_test::{Expect, expect};
use serde_json::Value;

fn run(arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_checkrein"))
        .arg("prices")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A verb that reads nothing may be gone already.
    let _closed = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn check(arguments: &[&str], input: &str, code: i32, expected: &Expect) {
    let output = run(arguments, input);
    expected.assert_eq(&format!("{}{}", text(&output.stdout), text(&output.stderr)));
    assert_eq!(output.status.code(), Some(code));
}

fn json(arguments: &[&str], input: &str) -> Value {
    let output = run(arguments, input);
    assert_eq!(text(&output.stderr), "");
    serde_json::from_slice(&output.stdout).unwrap()
}

const REPLY: &str = r#"{"type":"message","model":"claude-opus-5","usage":{"input_tokens":1000,"output_tokens":200,
    "cache_read_input_tokens":600,"cache_creation_input_tokens":300,
    "cache_creation":{"ephemeral_5m_input_tokens":200,"ephemeral_1h_input_tokens":100},
    "server_tool_use":{"web_search_requests":2}}}"#;
const DAY: [&str; 2] = ["--at", "2026-11-21"];

#[test]
fn show_for_people() {
    check(
        &["show", "gpt-5.4", DAY[0], DAY[1]],
        "",
        0,
        &expect![[r#"
        gpt-5.4 of OpenAI
          reads at most 1,050,000 tokens

          standard, then
            input tokens       2.5 usd per million
                               5 usd per million in calls of more than 272,000 input tokens
            output tokens      15 usd per million
                               22.5 usd per million in calls of more than 272,000 input tokens
            cache read tokens  0.25 usd per million
                               0.5 usd per million in calls of more than 272,000 input tokens
            web searches       10 usd per 1,000
            storage searches   2.5 usd per 1,000

          service_tier=flex, from 2026-10-12
            input tokens       1.25 usd per million
                               2.5 usd per million in calls of more than 272,000 input tokens
            output tokens      7.5 usd per million
                               11.25 usd per million in calls of more than 272,000 input tokens
            cache read tokens  0.13 usd per million
                               0.25 usd per million in calls of more than 272,000 input tokens

          service_tier=priority, from 2026-10-12
            input tokens       5 usd per million
            output tokens      30 usd per million
            cache read tokens  0.5 usd per million

          service_tier=fast, from 2026-10-12
            input tokens       5 usd per million
            output tokens      30 usd per million
            cache read tokens  0.5 usd per million

          processing=batch, from 2026-10-14
            input tokens       1.25 usd per million
                               2.5 usd per million in calls of more than 272,000 input tokens
            output tokens      7.5 usd per million
                               11.25 usd per million in calls of more than 272,000 input tokens
            cache read tokens  0.13 usd per million
                               0.25 usd per million in calls of more than 272,000 input tokens

        list prices of genai-prices 0.2.3, 2026-11-21
    "#]],
    );
    check(
        &["show", "deepseek/deepseek-chat", "--at", "2026-11-21T12:00:00Z"],
        "",
        0,
        &expect![[r#"
        deepseek-chat of Deepseek
          reads at most 64,000 tokens

          standard
            input tokens       0.135 usd per million
            output tokens      0.55 usd per million
            cache read tokens  0.035 usd per million

          standard, from 00:30 until 16:30 UTC, then
            input tokens       0.27 usd per million
            output tokens      1.1 usd per million
            cache read tokens  0.07 usd per million

        list prices of genai-prices 0.2.3, 2026-11-21
    "#]],
    );
    check(
        &["show", "whisper-large-v3", "--provider", "groq", DAY[0], DAY[1]],
        "",
        0,
        &expect![[r#"
        whisper-large-v3 of Groq
          a call is charged for 10 audio seconds at least

          standard, then
            audio seconds        0.111 usd per hour
            input audio seconds  0.111 usd per hour

          processing=batch, from 2026-10-14
            audio seconds        0.0555 usd per hour
            input audio seconds  0.0555 usd per hour

        list prices of genai-prices 0.2.3, 2026-11-21
    "#]],
    );
}

#[test]
fn show_for_programs() {
    let shown = json(&["show", "o3", DAY[0], DAY[1], "--output", "json"], "");
    assert_eq!(shown["provider"], "openai");
    assert_eq!(shown["prices"][0]["unit"], "input_tokens");
    assert_eq!(shown["prices"][0]["usd"], "2");
    assert_eq!(shown["standard"][1]["from"], "2025-06-10");
    assert_eq!(shown["book"]["version"], "0.2.3");
    let earlier = json(&["show", "o3", "--at", "2025-06-09", "--output", "json"], "");
    assert_eq!(earlier["prices"][0]["usd"], "10");
    let night =
        json(&["show", "deepseek/deepseek-chat", "--at", "2026-11-21T20:00:00Z", "--output", "json"], "");
    assert_eq!(night["standard"][1]["between_seconds_of_day"], serde_json::json!([1_800, 59_400]));
}

#[test]
fn an_unknown_model_is_refused_with_what_comes_near() {
    check(
        &["show", "claud-opus-5", "--provider", "anthropic"],
        "",
        1,
        &expect![[r#"
        error: the price of `claud-opus-5` of `anthropic` is not known
        hint: did you mean `anthropic/claude-opus-5` or `anthropic/claude-opus-4-5` or `anthropic/claude-opus-5-5`? `checkrein prices list` lists every model
    "#]],
    );
    let shown = json(&["show", "no-such-thing", "--output", "json"], "");
    assert_eq!(shown["error"]["code"], "unknown_price");
    check(
        &["show", "x\u{1b}[2J\u{202e}", "--provider", "nobody"],
        "",
        1,
        &expect![[r#"
        error: no provider of `x\u{1b}[2J\u{202e}` is known as `nobody`
        hint: `checkrein prices list` lists every model with a price
    "#]],
    );
    assert_eq!(run(&["show", "o3", "--at", "yesterday"], "").status.code(), Some(2));
}

#[test]
fn list_models_and_units() {
    check(
        &["list", "claude-opus-5", "--provider", "anthropic", DAY[0], DAY[1]],
        "",
        0,
        &expect![[r#"
        input  output  provider   model
            5      25  anthropic  claude-opus-5
            4      20  anthropic  claude-opus-5-5

        2 models, usd per million tokens; + is dearer in long calls: `prices show`
        list prices of genai-prices 0.2.3, 2026-11-21
    "#]],
    );
    check(&["list", "no such model"], "", 0, &expect![["no model has such a name\n"]]);
    check(
        &["list", "--provider", "nobody"],
        "",
        1,
        &expect![[r#"
        error: no provider is known as `nobody`
        hint: `checkrein prices list` names all
    "#]],
    );
    let all = json(&["list", "--output", "json"], "");
    assert_eq!(all.as_array().unwrap().len(), 2_330);
    let lines = text(&run(&["list", "opus", "--output", "jsonl"], "").stdout);
    assert!(lines.lines().count() > 20);
    assert!(lines.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()));
    assert_eq!(json(&["list", "--units", "--output", "json"], "").as_array().unwrap().len(), 59);
    assert!(text(&run(&["list", "--units"], "").stdout).contains("cache_write_1h_tokens"));
}

#[test]
fn check_a_reply() {
    check(
        &["check", "-", DAY[0], DAY[1]],
        REPLY,
        0,
        &expect![[r#"
        0.03255 usd  anthropic/claude-opus-5
          1,000 input tokens           5 usd per million = 0.005 usd
            200 output tokens          25 usd per million = 0.005 usd
            600 cache read tokens      0.5 usd per million = 0.0003 usd
            200 cache write tokens     6.25 usd per million = 0.00125 usd
            100 cache write 1h tokens  10 usd per million = 0.001 usd
              2 web searches           10 usd per 1,000 = 0.02 usd
    "#]],
    );
    check(
        &["check", "-", DAY[0], DAY[1], "--context", "processing=batch"],
        REPLY,
        0,
        &expect![[r#"
        0.026275 usd  anthropic/claude-opus-5
          1,000 input tokens           2.5 usd per million = 0.0025 usd
            200 output tokens          12.5 usd per million = 0.0025 usd
            600 cache read tokens      0.25 usd per million = 0.00015 usd
            200 cache write tokens     3.125 usd per million = 0.000625 usd
            100 cache write 1h tokens  5 usd per million = 0.0005 usd
              2 web searches           10 usd per 1,000 = 0.02 usd
    "#]],
    );
    let shown = json(&["check", "-", DAY[0], DAY[1], "--output", "json"], REPLY);
    let shown = &shown[0];
    assert_eq!(shown["usd"], "0.03255");
    assert_eq!(shown["usage"]["input_tokens"], 1_900);
    assert_eq!(shown["unpriced"], serde_json::json!([]));
}

#[test]
fn what_has_no_price_is_a_finding() {
    let reply = r#"{"type":"message","model":"claude-opus-5","usage":{"input_tokens":1,"output_tokens":1,
        "inference_geo":"us","server_tool_use":{"code_execution_requests":1}}}"#;
    check(
        &["check", "-", DAY[0], DAY[1]],
        reply,
        1,
        &expect![[r#"
        0.00003 usd  anthropic/claude-opus-5
          1 input tokens   5 usd per million = 0.000005 usd
          1 output tokens  25 usd per million = 0.000025 usd
          not read: usage.server_tool_use.code_execution_requests
          no price for inference_geo=us: standard prices
    "#]],
    );
    let units = r#"{"provider":"anthropic","model":"claude-opus-5","usage":{"code_executions":1}}"#;
    check(
        &["check", "-", DAY[0], DAY[1]],
        units,
        1,
        &expect![[r#"
        0 usd  anthropic/claude-opus-5
          no price for code executions
    "#]],
    );
}

#[test]
fn replies_that_are_wrong_are_refused() {
    for (reply, code) in [
        (
            r#"{"type":"message","model":"claude-opus-5","usage":{"input_tokens":-1,"output_tokens":1}}"#,
            "usage_negative",
        ),
        (r#"{"type":"message","model":"claude-opus-5","usage":{"input_tokens":1}}"#, "usage_missing"),
        (r#"{"type":"message","usage":{"input_tokens":1,"output_tokens":1}}"#, "usage_missing"),
        (
            r#"{"type":"message","model":"claude-opus-5","usage":{"input_tokens":1e99,"output_tokens":1}}"#,
            "usage_fraction",
        ),
        (r#"{"model":"claude-opus-5"}"#, "usage_unknown_form"),
        (r#"{"model":"x","usage":{"input_tokens":1,"input_tokens":2}}"#, "json_duplicate_key"),
        (r#"{"provider":"groq","model":"x","at":"now","usage":{"input_tokens":1}}"#, "usage_type"),
        ("", "json_unexpected_end"),
    ] {
        let output = run(&["check", "-", "--output", "json"], reply);
        let shown: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(
            (shown[0]["error"]["code"].as_str(), output.status.code()),
            (Some(code), Some(1)),
            "{reply}"
        );
    }
    check(
        &["check", "-"],
        r#"{"type":"message","model":"a","usage":{"input_tokens":1}}"#,
        1,
        &expect![[r#"
        error: `usage.output_tokens` is missing
        hint: pass the provider's whole reply, of a stream the last event that has usage
    "#]],
    );
    check(
        &["check", "no/such/file"],
        "",
        2,
        &expect![[r#"
        error: cannot read `no/such/file`: No such file or directory (os error 2)
    "#]],
    );
}

#[test]
fn one_reply_per_line() {
    let lines = format!("{}\n\n{{\"model\":\"x\"}}\n", REPLY.replace('\n', ""));
    let output = run(&["check", "-", DAY[0], DAY[1], "--output", "jsonl"], &lines);
    let shown: Vec<Value> =
        text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(shown[0]["usd"], "0.03255");
    assert_eq!(shown[1]["error"]["code"], "usage_unknown_form");
    assert_eq!((shown.len(), output.status.code()), (2, Some(1)));
}

#[test]
fn other_words_for_provider_model_and_dialect() {
    let reply = r#"{"usage":{"prompt_tokens":1000,"completion_tokens":10}}"#;
    let shown = json(&["check", "-", "--model", "o3", "--provider", "azure", "--output", "json"], reply);
    let shown = &shown[0];
    assert_eq!((shown["provider"].as_str(), shown["model"].as_str()), (Some("azure"), Some("o3-2025-04-16")));
    let wrong = json(&["check", "-", "--model", "o3", "--dialect", "gemini", "--output", "json"], reply);
    assert_eq!(wrong[0]["error"]["code"], "usage_missing");
    assert_eq!(run(&["check", "-", "--dialect", "latin"], reply).status.code(), Some(2));
    assert_eq!(run(&["check", "-", "--context", "batch"], reply).status.code(), Some(2));
}
