//! What calls of models are settled at, by replies that can be believed and others.

use checkrein_core::amount::Amount;
use checkrein_core::gate::breaker::Health;
use checkrein_core::time::Timestamp;

use super::models::{THREE, admit, call, holds, json, policies, request, said, stands};
use super::policies::file;
use crate::clock::{Clock, FakeClock};
use crate::config::{ModelRequest, Policies, Shortfall};
use crate::engine::Engine;

#[test]
fn usage_that_cannot_be_believed_is_settled_at_the_full_hold() {
    let opus = "anthropic claude-opus-5";
    for (reply, code) in [
        ("{}", "usage_unknown_form"),
        (r#"{"type": "message", "usage": {"input_tokens": -5, "output_tokens": 1}}"#, "usage_negative"),
        (r#"{"type": "message", "usage": {"output_tokens": 1}}"#, "usage_missing"),
        (r#"{"type": "message", "usage": {"input_tokens": 1e30, "output_tokens": 1}}"#, "usage_fraction"),
        (
            r#"{"type": "message", "usage": {"input_tokens": 9000000000000, "output_tokens": 1}}"#,
            "usage_too_large",
        ),
        (
            r#"{"usage": {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 9}}"#,
            "usage_contradictory",
        ),
        (r#"{"usage": {"output_tokens": 4}}"#, "usage_incomplete"),
        (r#"{"usage": {"input_tokens": 0, "output_tokens": 0}}"#, "usage_incomplete"),
        (r#"{"usage": {"input_tokens": 10, "output_tokens": 4, "code_executions": 2}}"#, "usage_incomplete"),
        (
            r#"{"type": "message", "usage": {"input_tokens": 10, "output_tokens": 4, "service_tier": "priority"}}"#,
            "usage_incomplete",
        ),
    ] {
        let policies = policies(THREE);
        let permit = admit(&policies, opus, &request());
        let settled = policies.settle_model(&permit, &json(reply)).unwrap();
        assert_eq!(settled.shortfalls.first().map(Shortfall::code), Some(code), "{reply} {settled:?}");
        assert_eq!(stands(&policies, opus, "team"), "0.0125 0", "{reply}");
        assert_eq!(stands(&policies, opus, "calls"), "1 0");
    }
}

#[test]
fn usage_beyond_the_hold_is_an_overrun_and_counts() {
    let policies = policies(THREE);
    let opus = "anthropic claude-opus-5";
    let permit = admit(&policies, opus, &request());
    let reply = json(r#"{"type": "message", "usage": {"input_tokens": 100000, "output_tokens": 20000}}"#);
    let settled = policies.settle_model(&permit, &reply).unwrap();
    assert_eq!((settled.usd.unwrap().to_string().as_str(), settled.is_exact()), ("1", true));
    assert_eq!(stands(&policies, opus, "team"), "1 0");
    assert!(holds(&policies, opus, &request()).starts_with("budget_exceeded@team"));
}

#[test]
fn a_call_that_was_not_made_costs_nothing_and_one_in_doubt_its_hold() {
    let policies = policies(THREE);
    let opus = "anthropic claude-opus-5";
    let permit = admit(&policies, opus, &request());
    policies.release_model(&permit, Health::Failure).unwrap();
    assert_eq!(stands(&policies, opus, "team"), "0 0");
    let permit = admit(&policies, opus, &request());
    policies.doubt_model(&permit, Health::Failure).unwrap();
    assert_eq!(stands(&policies, opus, "team"), "0 0.0125");
    // A usage that comes late still settles it.
    policies.settle_model(&permit, &json(r#"{"input_tokens": 100, "output_tokens": 20}"#)).unwrap();
    assert_eq!(stands(&policies, opus, "team"), "0.001 0");
}

#[test]
fn a_model_is_the_same_however_it_is_named() {
    let text = "[budgets.b]\nlimit = '9 usd'\n[models.'*']\nbudgets = ['b']\n[models.house-llama]\nprovider = 'house'\n\
        [prices.models.'house/llama']\ninput = '5 usd'\noutput = '25 usd'\n\
        [prices.models.'house/house-llama']\ninput = '5 usd'\noutput = '25 usd'\n";
    let reply = json(r#"{"usage": {"input_tokens": 1000, "output_tokens": 100}}"#);
    for name in [
        "anthropic claude-opus-5",
        "claude-opus-5",
        "Claude-Opus-5",
        "anthropic/claude-opus-5",
        "house llama",
        "house/llama",
        "House/Llama",
        "house-llama",
    ] {
        let policies = policies(text);
        let settled = policies.settle_model(&admit(&policies, name, &request()), &reply).unwrap();
        assert_eq!(settled.usd.map(|usd| usd.to_string()).as_deref(), Some("0.0075"), "{name} {settled:?}");
        assert!(settled.is_exact(), "{name} {settled:?}");
    }
}

#[test]
fn a_model_that_answers_and_is_dearer_counts() {
    let policies = policies("[budgets.b]\nlimit = '9 usd'\n[models.'*']\nbudgets = ['b']\n");
    let haiku = "anthropic claude-haiku-4-5";
    let settle = |answered: &str| {
        let permit = admit(&policies, haiku, &request());
        let reply = format!(
            r#"{{"type": "message", "model": "{answered}", "usage": {{"input_tokens": 1000, "output_tokens": 100}}}}"#
        );
        policies.settle_model(&permit, &json(&reply)).unwrap().usd.unwrap().to_string()
    };
    // 1 and 5 USD, and 5 and 25.
    assert_eq!(settle("claude-haiku-4-5-20251001"), "0.0015");
    assert_eq!(settle("claude-opus-5"), "0.0075");
}

#[test]
fn observed_budgets_take_what_does_not_fit_as_forced() {
    let policies = policies(
        "[budgets.small]\nlimit = '0.01 usd'\nmode = 'observe'\n[budgets.large]\nlimit = '9 usd'\n\
         [models.'*']\nbudgets = ['small', 'large']\n",
    );
    let opus = "anthropic claude-opus-5";
    let admitted = policies.admit_model(&call(opus, &request()));
    assert_eq!(admitted.admission.observed.len(), 1);
    assert_eq!(said(&admitted), "large 0.0125 usd");
    // What is settled belongs to the budget that holds.
    let reply = json(r#"{"input_tokens": 100, "output_tokens": 20}"#);
    policies.settle_model(&admitted.permit.unwrap(), &reply).unwrap();
    assert_eq!(stands(&policies, opus, "large"), "0.001 0");
}

#[test]
fn prices_are_those_of_the_moment() {
    // Half the price from 16:30 to 00:30 UTC, which a call of an hour reaches.
    let at = |hour: i64| Timestamp::from_nanos(1_795_219_200_000_000_000 + hour * 3_600_000_000_000);
    let text = "[budgets.b]\nlimit = '9 usd'\n[models.'*']\nbudgets = ['b']\ntimeout = '1h'\n";
    let clock = FakeClock::new(at(17));
    let engine = Engine::builder().clock(Clock::fake(clock.clone())).build();
    let policies = Policies::new(engine, file(text)).unwrap();
    let million =
        ModelRequest { max_output: Some(0), context: Some(Vec::new()), ..ModelRequest::of_text(1_000_000) };
    assert_eq!(holds(&policies, "deepseek deepseek-chat", &million), "b 0.135 usd");
    let permit = admit(&policies, "deepseek deepseek-chat", &million);
    clock.set(at(25));
    let settled = policies
        .settle_model(&permit, &json(r#"{"prompt_tokens": 1000000, "completion_tokens": 0}"#))
        .unwrap();
    // It ended when the price was the higher one.
    assert_eq!(settled.usd.unwrap().to_string(), "0.27");
}

#[test]
fn many_callers_never_pass_a_limit() {
    let policies = policies("[budgets.b]\nlimit = '0.5 usd'\n[models.'*']\nbudgets = ['b']\n");
    let opus = "anthropic claude-opus-5";
    let reply = json(r#"{"type": "message", "usage": {"input_tokens": 1000, "output_tokens": 100}}"#);
    let settled: u64 = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let mut settled = 0;
                    for turn in 0..40 {
                        let admitted = policies.admit_model(&call(opus, &request()));
                        let Some(permit) = admitted.permit else { continue };
                        if turn % 4 == 0 {
                            policies.release_model(&permit, Health::Neutral).unwrap();
                        } else {
                            policies.settle_model(&permit, &reply).unwrap();
                            settled += 1;
                        }
                    }
                    settled
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    // Each is settled at 1,000 x 5 + 100 x 25 = 0.0075; 0.5 less one hold of 0.0125 is reached for certain.
    let spent = Amount::from_nano(7_500_000 * i64::try_from(settled).unwrap());
    assert_eq!(stands(&policies, opus, "b"), format!("{spent} 0"));
    assert!(spent <= Amount::from_nano(500_000_000), "{spent}");
    assert!(spent > Amount::from_nano(500_000_000 - 8 * 12_500_000), "{spent}");
}

#[test]
fn a_reload_keeps_the_prices_of_calls_under_way() {
    let text = |price: &str| {
        format!(
            "[budgets.b]\nlimit = '9 usd'\n[models.'*']\nbudgets = ['b']\n\
             [prices.models.'house/m']\ninput = '{price} usd'\noutput = '{price} usd'\n"
        )
    };
    let policies = policies(&text("1"));
    let permit = admit(&policies, "house m", &request());
    policies.replace(file(&text("100"))).unwrap();
    let settled =
        policies.settle_model(&permit, &json(r#"{"input_tokens": 90, "output_tokens": 10}"#)).unwrap();
    assert_eq!(settled.usd.unwrap().to_string(), "0.0001");
    assert_eq!(holds(&policies, "house m", &request()), "b 0.11 usd");
}
