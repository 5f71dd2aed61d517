//! `cargo bench -p checkrein --bench prices -- [--json FILE] [--date TEXT]`: reading the price book, finding a model in it,
//! pricing a usage, bounding a call, and deciding and settling one by a policy file. One thread, CPU time, medians of 15
//! rounds.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark prints its results")]

use std::hint::black_box;
use std::process::ExitCode;

use checkrein::Engine;
use checkrein::config::{ModelCall, ModelRequest, Policies, PolicyFile};
use checkrein::price::{CallBounds, PriceBook, PriceList, Terms, book};
use checkrein_core::admission::Action;
use checkrein_core::gate::breaker::Health;
use checkrein_core::json::{Limits, read_str};
use checkrein_core::time::Timestamp;
use checkrein_core::usage::{Usage, UsageUnit};
use cpu_time::ThreadTime;
use serde_json::{Value, json};

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

fn option(name: &str) -> Option<String> {
    std::env::args().skip_while(|word| word != name).nth(1)
}

/// Nanoseconds of one call: the median of the rounds.
fn median(calls: u32, mut call: impl FnMut()) -> f64 {
    let mut rounds: Vec<f64> = (0..16)
        .map(|_| {
            let begun = ThreadTime::now();
            (0..calls).for_each(|_| call());
            begun.elapsed().as_nanos() as f64 / f64::from(calls)
        })
        .skip(1)
        .collect();
    rounds.sort_by(f64::total_cmp);
    rounds.get(rounds.len() / 2).copied().unwrap_or_default()
}

const POLICY: &str = "version = 1\n[budgets.team]\nkey = 'action.tenant'\nlimit = '1000000 usd'\nwindow = '1d'\n\
    [budgets.run]\nkey = 'action.run'\nlimit = '900000000000 tokens'\n[models.'*']\nbudgets = ['team', 'run']\n";
const REPLY: &str = r#"{"type": "message", "model": "claude-haiku-5-5", "usage": {"input_tokens": 10000,
    "output_tokens": 4000, "cache_creation_input_tokens": 20000, "cache_read_input_tokens": 90000,
    "cache_creation": {"ephemeral_5m_input_tokens": 15000, "ephemeral_1h_input_tokens": 5000},
    "server_tool_use": {"web_search_requests": 2}, "service_tier": "standard"}}"#;

/// Calls of a model by a policy file with a budget in dollars and one in tokens.
fn calls_of_models(calls: u32) -> Result<[(&'static str, f64); 3], Failure> {
    let policies = Policies::new(Engine::new(), PolicyFile::parse("checkrein.toml", POLICY, false)?)?;
    let reply = read_str(REPLY, &Limits::default())?;
    let message =
        r#"{"role": "user", "content": "a few words about the weather of tomorrow, and of the day after"}"#;
    let messages = vec![message; 20].join(",");
    let text = format!(r#"{{"model": "claude-haiku-5-5", "max_tokens": 4000, "messages": [{messages}]}}"#);
    let json = read_str(&text, &Limits::default())?;
    let request = ModelRequest::of_json(&json)?;
    let action = Action { user: "ann", run: "run-1", ..Action::default() };
    let (model, provider) = ("claude-haiku-5-5", Some("anthropic"));
    let call = ModelCall { tenant: "acme", action, model, provider, request: &request };
    if policies.admit_model(&call).permit.is_none() {
        return Err("the call was refused".into());
    }
    let settled = median(calls, || {
        if let Some(permit) = policies.admit_model(&call).permit {
            drop(black_box(policies.settle_model(&permit, &reply)));
        }
    });
    let released = median(calls, || {
        if let Some(permit) = policies.admit_model(&call).permit {
            drop(black_box(policies.release_model(&permit, Health::Neutral)));
        }
    });
    let read = median(calls, || drop(black_box(ModelRequest::of_json(&json))));
    Ok([
        ("read a request of 2 KB", read),
        ("hold a call and release it", released),
        ("hold a call and settle it", settled),
    ])
}

fn run() -> Result<(), Failure> {
    // Without cargo bench's own flag this is `cargo test`: a few calls are enough to see it run.
    let calls = if std::env::args().any(|word| word == "--bench") { 100_000 } else { 10 };
    let data = include_str!("../data/prices.jsonl");
    let noon = Timestamp::from_nanos(1_795_262_400_000_000_000);
    let mut usage = Usage::default();
    for (unit, count) in [
        (UsageUnit::InputTokens, 120_000),
        (UsageUnit::CacheReadTokens, 90_000),
        (UsageUnit::CacheWriteTokens, 20_000),
        (UsageUnit::CacheWrite1hTokens, 5_000),
        (UsageUnit::OutputTokens, 4_000),
        (UsageUnit::WebSearches, 2),
    ] {
        usage.set(unit, count)?;
    }
    let list = PriceList::new(book(), Terms::default())?;
    let batch = [("processing", "batch")];
    let quote = list.find(Some("anthropic"), "claude-haiku-5-5-20261001")?;
    let bounds =
        CallBounds { text_bytes: 400_000, output_tokens: Some(8_000), from: noon, ..CallBounds::default() };
    let fresh = PriceBook::read(data)?;
    let mut reference = 0_u64;
    let rows = [
        ("read the book", median(1, || drop(black_box(PriceBook::read(data))))),
        (
            "find a model seen before",
            median(calls, || drop(black_box(list.find(Some("anthropic"), "claude-haiku-5-5-20261001")))),
        ),
        (
            "find one by a new reference",
            median(calls.min(200), || {
                reference += 1;
                drop(black_box(fresh.find(Some("google"), &format!("gemini-3.8-flash-{reference}"))));
            }),
        ),
        (
            "refuse an unknown one",
            median(calls.min(200), || drop(black_box(fresh.find(Some("openrouter"), "z-ai/glm-5.2:none")))),
        ),
        ("price a usage of six units", median(calls, || drop(black_box(quote.cost(&usage, noon, &[]))))),
        ("the same in a batch", median(calls, || drop(black_box(quote.cost(&usage, noon, &batch))))),
        (
            "find and price",
            median(calls, || {
                let quote = list.find(Some("anthropic"), "claude-haiku-5-5-20261001");
                drop(black_box(quote.and_then(|quote| quote.cost(&usage, noon, &[]))));
            }),
        ),
        ("bound a call of any kind", median(calls, || drop(black_box(quote.bound(&bounds))))),
    ];
    let rows: Vec<(&str, f64)> = rows.into_iter().chain(calls_of_models(calls.div_ceil(10))?).collect();
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("{} models, load {}", book().header().models, load.trim());
    for (name, nanos) in &rows {
        println!("  {name:28} {nanos:>12.0} ns");
    }
    if let Some(path) = option("--json") {
        let values: serde_json::Map<String, Value> =
            rows.iter().map(|(name, nanos)| (format!("{name} [ns]"), json!(nanos))).collect();
        let answer = json!({ "date": option("--date"), "load": load.trim(), "prices": values });
        std::fs::write(path, format!("{answer:#}\n"))?;
    }
    Ok(())
}
