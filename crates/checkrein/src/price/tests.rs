//! The book this version has, and costs worked out by hand.

use checkrein_core::time::Timestamp;
use checkrein_core::usage::{Usage, UsageUnit};
use sha2::{Digest, Sha256};

use super::*;

/// 2026-11-21 12:00 UTC.
const NOW: i64 = 1_795_262_400;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_nanos(seconds * 1_000_000_000)
}

fn usage(counts: &[(&str, u64)]) -> Usage {
    let mut usage = Usage::default();
    for (name, count) in counts {
        usage.set(UsageUnit::from_name(name).unwrap(), *count).unwrap();
    }
    usage
}

#[test]
fn the_data_is_what_its_header_says() {
    let (header, body) = DATA.split_once('\n').unwrap();
    let digest: String = Sha256::digest(body).iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(header.contains(&format!("\"digest\":\"sha256:{digest}\"")), "{header}");
    let book = PriceBook::read(DATA).unwrap();
    let models: usize = book.providers().iter().map(|provider| provider.models.len()).sum();
    assert_eq!(book.header().models, models);
    assert_eq!(super::book().header(), book.header());
    assert!(DATA.contains("\"licence\":\"MIT\""));
    for unit in UsageUnit::ALL {
        assert_eq!(super::cost::SCALE % u128::from(unit.per()), 0);
    }
}

/// A call now: `[provider/]model`, its context as `key:value` words, what it used, and what that costs.
fn check(model: &str, context: &[(&str, &str)], counts: &[(&str, u64)], expected: &str) {
    check_at(NOW, model, context, counts, expected);
}

fn check_at(seconds: i64, model: &str, context: &[(&str, &str)], counts: &[(&str, u64)], expected: &str) {
    let (provider, name) = model.split_once(' ').map_or((None, model), |(head, tail)| (Some(head), tail));
    let cost = book().find(provider, name).and_then(|found| found.cost(&usage(counts), at(seconds), context));
    let shown = match cost {
        Err(error) => format!("{}: {error}", error.code()),
        Ok(cost) => {
            let unpriced: Vec<&str> = cost.unpriced.iter().map(UsageUnit::name).collect();
            format!("{} {}", cost.usd, unpriced.join(" ")).trim_end().to_owned()
        }
    };
    assert_eq!(shown, expected, "for {model} {context:?} {counts:?}");
}

#[test]
fn costs_worked_out_by_hand() {
    // 1,000 x 5 + 200 x 25 USD per million tokens.
    check("claude-opus-5", &[], &[("input_tokens", 1_000), ("output_tokens", 200)], "0.01");
    // Of 1,000 are 600 read at 0.5 and 300 written, 100 of them for an hour at 10, 200 at 6.25; 100 are left at 5.
    let cached = [
        ("input_tokens", 1_000),
        ("cache_read_tokens", 600),
        ("cache_write_tokens", 300),
        ("cache_write_1h_tokens", 100),
        ("output_tokens", 1),
    ];
    // 300 + 1,000 + 1,250 + 500 + 25 micro-USD.
    check("anthropic claude-opus-5-20260101", &[], &cached, "0.003075");
    check("anthropic claude-opus-5", &[("speed", "fast")], &cached, "0.00615");
    check("anthropic claude-opus-5", &[("processing", "batch")], &cached, "0.0015375");
    // Three searches at 10 USD per thousand.
    check("claude-opus-5", &[], &[("web_searches", 3)], "0.03");
    // One cached token at 0.5 USD per million is 500 nano; 3 tokens at 0.0375 are 112.5, rounded up.
    check("claude-opus-5", &[], &[("input_tokens", 1), ("cache_read_tokens", 1)], "0.0000005");
    check(
        "google gemini-3.8-flash",
        &[("processing", "batch")],
        &[("input_tokens", 3), ("cache_read_tokens", 3)],
        "0.000000113",
    );
    check("claude-opus-5", &[], &[], "0");
}

#[test]
fn the_step_is_chosen_by_the_whole_input_and_prices_all_of_it() {
    let call = |input| [("input_tokens", input), ("output_tokens", 1_000)];
    // Up to 272,000 tokens at 2.5 and 15, above at 5 and 22.5.
    check("openai gpt-5.4", &[], &call(272_000), "0.695");
    check("openai gpt-5.4", &[], &call(272_001), "1.382505");
    // Priority has no steps here.
    check("openai gpt-5.4", &[("service_tier", "priority")], &call(272_001), "1.390005");
    check("openai gpt-5.4", &[("service_tier", "default")], &call(272_001), "1.382505");
    // Cached tokens count towards the step: 300,000 at 0.5.
    let cached = [("input_tokens", 300_000), ("cache_read_tokens", 300_000)];
    check("openai gpt-5.4", &[], &cached, "0.15");
}

#[test]
fn prices_change_with_the_day_and_the_hour() {
    let million = [("input_tokens", 1_000_000)];
    // 2025-06-10 00:00 UTC is when o3 became cheaper.
    check_at(1_749_513_599, "openai o3", &[], &million, "10");
    check_at(1_749_513_600, "openai o3", &[], &million, "2");
    check_at(0, "openai o3", &[], &million, "10");
    // Half price outside 00:30 to 16:30 UTC.
    let midnight = NOW - 43_200;
    for (second, cost) in [(1_799, "0.135"), (1_800, "0.27"), (59_399, "0.27"), (59_400, "0.135")] {
        check_at(midnight + second, "deepseek deepseek-chat", &[], &million, cost);
    }
    // A batch in 2027 is half of what a call costs then.
    let batch = [("processing", "batch")];
    check("google gemini-3.8-flash", &batch, &million, "0.375");
    check_at(NOW + 60 * 86_400, "google gemini-3.8-flash", &batch, &million, "0.75");
}

#[test]
fn seconds_pages_and_requests() {
    // 0.111 USD per hour, and ten seconds at least: 308,333.3 nano-USD.
    check("groq whisper-large-v3", &[], &[("audio_seconds", 3), ("input_audio_seconds", 3)], "0.000308334");
    check("groq whisper-large-v3", &[], &[("input_audio_seconds", 10)], "0.000308334");
    check("groq whisper-large-v3", &[], &[("audio_seconds", 3_600), ("input_audio_seconds", 3_600)], "0.111");
    check("groq whisper-large-v3", &[], &[("audio_seconds", 0)], "0");
    // 12 USD per thousand requests, beside the tokens.
    check("perplexity sonar", &[], &[("input_tokens", 1_000)], "0.013");
    check("perplexity sonar", &[], &[], "0.012");
}

#[test]
fn what_has_no_price_is_named_and_what_is_contradictory_refused() {
    check(
        "anthropic claude-opus-5",
        &[],
        &[
            ("input_tokens", 1_000_000),
            ("input_audio_tokens", 5),
            ("code_executions", 2),
            ("social_searches", 0),
        ],
        "5 code_executions",
    );
    check(
        "claude-opus-5",
        &[],
        &[("input_tokens", 10), ("cache_read_tokens", 8), ("cache_write_tokens", 4)],
        "usage_contradictory: `cache_read_tokens` and `cache_write_tokens` together are 12, more than the 10 of \
         `input_tokens`",
    );
    check(
        "openai gpt-image-1",
        &[],
        &[("input_tokens", 10), ("cache_read_tokens", 8), ("input_image_tokens", 4)],
        "usage_ambiguous: `cache_image_read_tokens` is not reported, and cannot be worked out from \
         `cache_read_tokens` and `input_image_tokens`",
    );
    // Of 10 are 3 cached images at 2.5, 5 other cached at 1.25, 1 other image at 10, and one at 5: 28.75 micro-USD.
    check(
        "openai gpt-image-1",
        &[],
        &[
            ("input_tokens", 10),
            ("cache_read_tokens", 8),
            ("input_image_tokens", 4),
            ("cache_image_read_tokens", 3),
        ],
        "0.00002875",
    );
    let found = book().find(Some("anthropic"), "claude-opus-5").unwrap();
    let context = [("service_tier", "priority"), ("speed", "fast"), ("service_tier", "default")];
    assert_eq!(found.without_price(at(NOW), &context), [("service_tier", "priority")]);
}

#[test]
fn references_find_their_model() {
    for (provider, reference, expected) in [
        (None, "claude-opus-5", "anthropic/claude-opus-5"),
        (None, "Claude-Opus-5-20260101", "anthropic/claude-opus-5"),
        (Some("azure"), "claude-opus-5", "azure/claude-opus-5 passed on"),
        (Some("google"), "claude-opus-5", "google/claude-opus-5"),
        (Some(" Google "), "gemini-3.8-flash-001", "google/gemini-3.8-flash"),
        (Some("litellm"), "anthropic/claude-opus-5", "anthropic/claude-opus-5"),
        (Some("openai"), "gpt-5.4-20260305", "openai/gpt-5.4"),
        (None, "o3", "openai/o3"),
    ] {
        let found = book().find(provider, reference).unwrap();
        let passed_on = if found.is_own { "" } else { " passed on" };
        assert_eq!(format!("{}/{}{passed_on}", found.provider.id, found.model.id), expected, "{reference}");
        // The second time from memory.
        let again = book().find(provider, reference).unwrap();
        assert!(std::ptr::eq(found.model, again.model));
    }
}

#[test]
fn what_is_unknown_is_refused_with_what_comes_near() {
    for (provider, reference, expected) in [
        (
            Some("anthropic"),
            "claud-opus-5",
            "unknown_price: the price of `claud-opus-5` of `anthropic` is not known; did you mean \
             `anthropic/claude-opus-5`",
        ),
        (
            Some("anthropik"),
            "x",
            "unknown_price: no provider of `x` is known as `anthropik`; did you mean `anthropic`?",
        ),
        (
            None,
            "no such model at all",
            "unknown_price: no provider of `no such model at all` is known; `checkrein",
        ),
        (None, "", "unknown_price: no provider of `` is known; `checkrein"),
        // The Kelvin sign is no k.
        (
            Some("x-ai"),
            "gro\u{212a}-4.7",
            "unknown_price: the price of `gro\u{212a}-4.7` of `x-ai` is not known; did",
        ),
        (
            Some("openai"),
            "gpt\u{1b}[2J",
            "unknown_price: the price of `gpt\\u{1b}[2J` of `openai` is not known; ",
        ),
    ] {
        let error = book().find(provider, reference).unwrap_err();
        let shown = format!("{}: {error}; {}", error.code(), error.hint());
        assert!(shown.starts_with(expected), "{shown}");
    }
    assert_eq!(book().find(None, &"o3".repeat(200)).unwrap_err().code(), "unknown_price");
}

#[test]
fn a_damaged_book_is_refused_and_says_where() {
    let mut lines: Vec<&str> = DATA.lines().take(4).collect();
    let header =
        lines[0].replace("\"providers\":47", "\"providers\":1").replace("\"models\":2330", "\"models\":1");
    lines[0] = &header;
    assert_eq!(PriceBook::read(&lines.join("\n")).map(|book| book.header().models), Ok(1));
    let broken = |line: usize, from: &str, to: &str| {
        let mut lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
        assert!(lines[line].contains(from), "{}", lines[line]);
        lines[line] = lines[line].replacen(from, to, 1);
        PriceBook::read(&lines.join("\n")).unwrap_err().to_string()
    };
    assert_eq!(
        broken(0, "\"format\":1", "\"format\":2"),
        "line 1 of the price book: this is no header of a known format"
    );
    assert_eq!(
        broken(0, "\"models\":1", "\"models\":2"),
        "line 1 of the price book: the header counts other providers or models"
    );
    assert_eq!(broken(1, "1000000", "1000"), "line 2 of the price book: `input_tokens` is another unit here");
    assert_eq!(broken(2, "\"*claude\"", "\"claude\""), "line 3 of the price book: this is no provider");
    assert_eq!(broken(3, "\"8\"", "8"), "line 4 of the price book: this is no model");
    assert_eq!(broken(3, "\"8\"", "\"-8\""), "line 4 of the price book: this is no model");
    assert_eq!(broken(3, "}", ""), "line 4 of the price book: the document ends too early at byte 122");
    assert_eq!(PriceBook::read("").unwrap_err().line, 1);
    // What cannot be read has no prices, and so no free ones.
    assert_eq!(PriceBook::default().find(None, "o3").unwrap_err().code(), "unknown_price");
}
