//! Calls of models by a policy file: what they hold, and what they are settled at.

use checkrein_core::admission::{Action, Verdict};
use checkrein_core::amount::Unit;
use checkrein_core::gate::breaker::Health;
use checkrein_core::gate::budget::Bound;
use checkrein_core::json::{Limits, Value, read_str};
use checkrein_core::usage::{Usage, UsageUnit};

use super::policies::file;
use crate::clock::{Clock, FakeClock};
use crate::config::{Call, ModelAdmitted, ModelCall, ModelPermit, ModelRequest, Policies};
use crate::engine::Engine;
use checkrein_core::time::Timestamp;

/// 2026-11-21 12:00 UTC.
const NOON: Timestamp = Timestamp::from_nanos(1_795_262_400_000_000_000);

pub(super) fn policies(text: &str) -> Policies {
    let clock = Clock::fake(FakeClock::new(NOON));
    Policies::new(Engine::builder().clock(clock).build(), file(text)).unwrap()
}

/// One thousand bytes, at most a hundred tokens of output.
pub(super) fn request() -> ModelRequest {
    ModelRequest { max_output: Some(100), context: Some(Vec::new()), ..ModelRequest::of_text(1_000) }
}

pub(super) fn call<'c>(model: &'c str, request: &'c ModelRequest) -> ModelCall<'c> {
    let (provider, model) = model.split_once(' ').map_or((None, model), |(p, m)| (Some(p), m));
    let action = Action { user: "ann", run: "r1", ..Action::default() };
    ModelCall { tenant: "acme", action, model, provider, request }
}

/// What is held in each budget, or the codes and texts of the reasons.
pub(super) fn said(admitted: &ModelAdmitted) -> String {
    if admitted.admission.verdict != Verdict::Allow {
        let reasons = admitted.admission.reasons.iter();
        return reasons
            .map(|r| format!("{}@{}: {}", r.code, r.gate, r.message()))
            .collect::<Vec<_>>()
            .join("; ");
    }
    let held = admitted.held.iter().map(|held| {
        let sure = if held.bound == Bound::Proven { "" } else { " estimated" };
        format!("{} {} {}{sure}", held.budget, held.amount, held.unit)
    });
    held.collect::<Vec<_>>().join(", ")
}

pub(super) fn holds(policies: &Policies, model: &str, request: &ModelRequest) -> String {
    let peeked = policies.peek_model(&call(model, request)).0;
    let admitted = policies.admit_model(&call(model, request));
    assert_eq!(peeked.reasons, admitted.admission.reasons, "peek and admit agree");
    let said = said(&admitted);
    if let Some(permit) = &admitted.permit {
        policies.release_model(permit, Health::Neutral).unwrap();
    }
    said
}

pub(super) fn admit(policies: &Policies, model: &str, request: &ModelRequest) -> ModelPermit {
    let admitted = policies.admit_model(&call(model, request));
    assert!(admitted.permit.is_some(), "{}", said(&admitted));
    admitted.permit.unwrap()
}

/// What stands in a budget: spent and held.
pub(super) fn stands(policies: &Policies, model: &str, budget: &str) -> String {
    let (_, meters) = policies.peek_model(&call(model, &request()));
    let meter = meters.iter().find(|meter| &*meter.gate == budget).unwrap();
    format!("{} {}", meter.spent, meter.held)
}

pub(super) fn json(text: &str) -> Value {
    read_str(text, &Limits::default()).unwrap()
}

pub(super) const THREE: &str = "[budgets.team]\nkey = 'action.tenant'\nlimit = '1 usd'\n\
    [budgets.run]\nkey = 'action.run'\nlimit = '100000 tokens'\n\
    [budgets.calls]\nlimit = '10 calls'\n\
    [models.'claude-*']\nbudgets = ['team', 'run', 'calls']\nreserve_output = 50\n";

#[test]
fn a_call_is_held_at_the_most_it_can_cost_and_settled_at_what_it_used() {
    let policies = policies(THREE);
    // Each byte a token that is written to the cache for an hour: 1,000 x 10 + 100 x 25 USD per million.
    let opus = "anthropic claude-opus-5";
    assert_eq!(holds(&policies, opus, &request()), "team 0.0125 usd, run 1100 tokens, calls 1 calls");
    let permit = admit(&policies, opus, &request());
    assert_eq!(stands(&policies, opus, "team"), "0 0.0125");
    let reply = json(
        r#"{"type": "message", "model": "claude-opus-5", "usage": {"input_tokens": 200, "output_tokens": 40,
            "cache_creation_input_tokens": 20, "cache_read_input_tokens": 100, "service_tier": "standard"}}"#,
    );
    let settled = policies.settle_model(&permit, &reply).unwrap();
    // 200 x 5 + 100 x 0.5 + 20 x 6.25 + 40 x 25 USD per million.
    assert_eq!(settled.usd.unwrap().to_string(), "0.002175");
    assert_eq!((settled.tokens, settled.is_exact()), (Some(360), true));
    assert_eq!(stands(&policies, opus, "team"), "0.002175 0");
    assert_eq!(stands(&policies, opus, "run"), "360 0");
    assert_eq!(stands(&policies, opus, "calls"), "1 0");
    assert!(policies.settle_model(&permit, &reply).is_err(), "a call is settled once");
    // A batch costs half of it: the reply says so.
    let permit = admit(&policies, opus, &request());
    let mut usage = Usage::default();
    usage.set(UsageUnit::InputTokens, 1_000).unwrap();
    usage.set(UsageUnit::OutputTokens, 100).unwrap();
    let settled = policies.settle_usage(&permit, &usage, &[("processing", "batch")]).unwrap();
    assert_eq!(settled.usd.unwrap().to_string(), "0.00375");
}

#[test]
fn any_kind_of_call_is_held_at_the_dearest() {
    let any = ModelRequest { context: None, ..request() };
    // In the fast mode it is 20 and 50.
    assert_eq!(
        holds(&policies(THREE), "anthropic claude-opus-5", &any),
        "team 0.025 usd, run 1100 tokens, calls 1 calls"
    );
}

#[test]
fn the_maximum_of_output_is_the_callers_or_the_policys() {
    let text = "[budgets.b]\nlimit = '1000 tokens'\n[models.'*']\nbudgets = ['b']\n";
    let most = |section: &str, asked: Option<u64>| {
        let request = ModelRequest { max_output: asked, ..ModelRequest::of_text(10) };
        let admitted = policies(&format!("{text}{section}")).admit_model(&call("openai gpt-5", &request));
        match admitted.max_output {
            Some(most) => format!("{most}: {}", said(&admitted)),
            None => said(&admitted),
        }
    };
    assert_eq!(most("", Some(90)), "90: b 100 tokens");
    assert_eq!(
        most("", None),
        "invalid_action@price: the action is malformed: the call has no maximum of `output_tokens`: send a maximum of \
         output tokens with the call, or give the model `reserve_output` in the policy"
    );
    assert_eq!(most("reserve_output = 50", None), "50: b 60 tokens");
    assert_eq!(most("reserve_output = 50", Some(90)), "90: b 100 tokens");
    assert_eq!(most("reserve_output = 50\nmax_output = 80", None), "50: b 60 tokens");
    assert_eq!(most("max_output = 80", None), "80: b 90 tokens");
    assert_eq!(most("max_output = 80", Some(80)), "80: b 90 tokens");
    // What does not fit is refused, never made smaller.
    assert_eq!(
        most("max_output = 80", Some(81)),
        "rule_violated@max_output: a rule refuses these arguments: a call may ask for at most 80 output tokens"
    );
    assert!(most("", Some(991)).starts_with("budget_exceeded@b"));
    // Every section's maximum counts, and what is reserved is no more than it.
    let narrow = "max_output = 80\n[models.'gpt-5']\nreserve_output = 200\nmax_output = 300";
    assert_eq!(most(narrow, None), "80: b 90 tokens");
    assert!(most(narrow, Some(81)).starts_with("rule_violated@max_output"));
}

#[test]
fn answers_tools_and_what_is_not_seen_count() {
    let policies = policies(
        "[budgets.soft]\nlimit = '100000 tokens'\n[budgets.hard]\nlimit = '9 usd'\nhard = true\n\
         [models.'gpt-*']\nbudgets = ['soft']\n[models.'gpt-5']\nreserve_unseen = 700\n\
         [models.'claude-*']\nbudgets = ['hard']\n",
    );
    let read = |text: &str| ModelRequest::of_json(&json(text)).unwrap();
    let plain = r#"{"messages":[{"content":"hi","role":"user"}],"max_tokens":7}"#;
    let bytes = plain.len();
    assert_eq!(holds(&policies, "openai gpt-5", &read(plain)), format!("soft {} tokens", bytes + 7));
    let three = r#"{"messages":[{"content":"hi","role":"user"}],"max_tokens":7,"n":3}"#;
    assert_eq!(holds(&policies, "openai gpt-5", &read(three)), format!("soft {} tokens", three.len() + 21));
    let tools = r#"{"input":"hi","max_output_tokens":7,"tools":[{"type":"function","name":"f"}]}"#;
    assert_eq!(
        holds(&policies, "openai gpt-5", &read(tools)),
        format!("soft {} tokens", tools.len() + 1_007)
    );
    let seen = r#"{"input":[{"role":"user","content":[{"type":"input_image","image_url":"x"}]}],"max_output_tokens":7}"#;
    let request = read(seen);
    assert!(request.refers && request.is_multimodal);
    assert_eq!(
        holds(&policies, "openai gpt-5", &request),
        format!("soft {} tokens estimated", seen.len() + 707)
    );
    let estimate = ModelRequest { unseen_tokens: Some(50), ..request.clone() };
    assert_eq!(
        holds(&policies, "openai gpt-4o", &estimate),
        format!("soft {} tokens estimated", seen.len() + 57)
    );
    assert!(
        holds(&policies, "openai gpt-4o", &request)
            .contains("the request refers to what it does not contain")
    );
    // A hard budget takes proven bounds only.
    let hard = holds(&policies, "anthropic claude-opus-5", &estimate);
    assert!(hard.ends_with("the budget is hard and the cost is only estimated"), "{hard}");
    assert!(holds(&policies, "anthropic claude-opus-5", &read(plain)).starts_with("hard 0.00"));
}

#[test]
fn what_a_request_only_refers_to_is_seen() {
    let refers = |text: &str| ModelRequest::of_json(&json(text)).unwrap().refers;
    for text in [
        r#"{"messages":[{"role":"user","content":[{"type":"text","text":"x","cache_control":{"type":"ephemeral"}}]}]}"#,
        r#"{"messages":[{"role":"assistant","content":[{"type":"tool_use","name":"f","input":{"type":"image"}}]}]}"#,
        r#"{"contents":[{"role":"user","parts":[{"text":"x"}]}],"tools":[{"functionDeclarations":[]}]}"#,
        r#"{"input":"x","previous_response_id":null}"#,
        r#"{"messages":[],"tools":[{"name":"f","input_schema":{"type":"object"}}]}"#,
        r#"{"input":[{"type":"function_call_output","call_id":"1","output":"x"}]}"#,
    ] {
        assert!(!refers(text), "{text}");
    }
    for text in [
        r#"{"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"x"}}]}]}"#,
        r#"{"messages":[{"role":"user","content":[{"type":"something_new"}]}]}"#,
        r#"{"contents":[{"parts":[{"inlineData":{"mimeType":"image/png","data":"eA=="}}]}]}"#,
        r#"{"input":"x","previous_response_id":"resp_1"}"#,
        r#"{"prompt":{"id":"pmpt_1"}}"#,
        r#"{"input":"x","tools":[{"type":"web_search"}]}"#,
        r#"{"contents":[],"tools":[{"googleSearch":{}}]}"#,
        r#"{"messages":[],"models":["a/b","c/d"]}"#,
        r#"{"input":[{"id":"msg_1"}]}"#,
        r#"{"input":"x","multi_agent":{"enabled":true}}"#,
        r#"{"messages":[{"role":"assistant","audio":{"id":"audio_1"}}]}"#,
    ] {
        assert!(refers(text), "{text}");
    }
    // Each of several prompts has answers of its own; the numbers of one prompt's tokens are one.
    for (prompts, answers) in [(r#"["a","b","c"]"#, 6), ("[[1,2],[3]]", 4), ("[1,2,3]", 2), (r#""a""#, 2)] {
        let read = ModelRequest::of_json(&json(&format!(r#"{{"prompt":{prompts},"n":2}}"#)));
        assert_eq!(read.unwrap().answers, answers, "{prompts}");
    }
    let searches = ModelRequest::of_json(&json(
        r#"{"messages":[],"tools":[{"type":"web_search_20250305","name":"web_search","max_uses":3}]}"#,
    ));
    assert_eq!(searches.unwrap().other.reported(UsageUnit::WebSearches), Some(3));
    let error = ModelRequest::of_json(&json(r#"{"max_tokens":-1}"#)).unwrap_err();
    assert_eq!(error.to_string(), "`max_tokens` of the request is not a whole number, zero or more");
    let gemini = json(r#"{"contents":[],"generationConfig":{"maxOutputTokens":9,"candidateCount":2}}"#);
    let gemini = ModelRequest::of_json(&gemini).unwrap();
    assert_eq!((gemini.max_output, gemini.answers), (Some(9), 2));
}

#[test]
fn prices_of_a_file_come_before_those_of_the_book() {
    let text = "[budgets.b]\nlimit = '100 usd'\n[models.'*']\nbudgets = ['b']\n";
    let priced = |prices: &str, model: &str| {
        holds(&policies(&format!("{text}{prices}")), model, &request()).replace("b ", "").replace(" usd", "")
    };
    let own = "[prices.models.'house/llama']\ninput = '3.00 usd'\noutput = '$12'\n";
    // 1,000 x 3 + 100 x 12 per million.
    assert_eq!(priced(own, "house llama"), "0.0042");
    assert_eq!(priced(own, "house/Llama"), "0.0042");
    let whole = "[prices.models.'anthropic/claude-opus-5']\ninput = '1 usd'\noutput = '2 usd'\n";
    assert_eq!(priced(whole, "anthropic claude-opus-5"), "0.0012");
    // The writes to the cache are still those of the book: 1,000 x 10 + 100 x 2.
    let amended = format!("{whole}amend = true\n");
    assert_eq!(priced(&amended, "anthropic claude-opus-5"), "0.0102");
    assert_eq!(priced("[prices.models.'house/llama']\nfree = true\n", "house llama"), "0");
    assert_eq!(priced("[prices.models.'house/flat']\nper_request = '0.005 usd'\n", "house flat"), "0.005");
    let steps = "[prices.models.'house/llama']\ninput = '3 usd'\noutput = '12 usd'\n\
        steps = [{ above = 999, input = '6 usd' }]\n";
    assert_eq!(priced(steps, "house llama"), "0.0072");
    // 15 % off 0.0125 usd.
    assert_eq!(priced("[prices.discounts]\nanthropic = '15%'\n", "anthropic claude-opus-5"), "0.010625");
    assert_eq!(
        priced("[prices.discounts]\nanthropic = '0.0001%'\n", "anthropic claude-opus-5"),
        "0.012499988"
    );
    let unknown = priced("", "house llama");
    assert!(unknown.starts_with("unknown_price@price: the price of the model is not known"), "{unknown}");
    let assumed = "[prices]\nassume = 'anthropic/claude-opus-5'\n";
    assert_eq!(priced(assumed, "house llama"), "0.0125 estimated");
    assert_eq!(priced(assumed, "anthropic claude-opus-5"), "0.0125");
}

#[test]
fn a_model_without_a_price_may_be_counted_in_tokens_and_calls() {
    let policies = policies("[budgets.b]\nlimit = '9000 tokens'\n[models.'*']\nbudgets = ['b']\n");
    assert_eq!(holds(&policies, "house llama", &request()), "b 1100 tokens");
    let permit = admit(&policies, "house llama", &request());
    let settled =
        policies.settle_model(&permit, &json(r#"{"prompt_tokens": 30, "completion_tokens": 12}"#)).unwrap();
    assert_eq!((settled.usd, settled.tokens), (None, Some(42)));
    assert_eq!(stands(&policies, "house llama", "b"), "42 0");
}

#[test]
fn gates_of_all_sections_add_up_in_any_case_of_the_name() {
    let policies = policies(
        "[models.'*']\nrules = [\"action.user != 'eve'\"]\n\
         [models.'openai/*']\nlimits = [{ max_calls = 2, window = '1h' }]\ntimeout = '30s'\n\
         [models.'gpt-5']\nrules = ['args.input_bytes < 5000']\nprovider = 'openai'\n",
    );
    let long = ModelRequest { max_output: None, ..ModelRequest::of_text(5_000) };
    let refused = policies.admit_model(&call("GPT-5", &long));
    assert!(said(&refused).starts_with("rule_violated@args.input_bytes < 5000"), "{}", said(&refused));
    let eve = ModelCall { action: Action { user: "eve", ..Action::default() }, ..call("gpt-5", &long) };
    assert_eq!(said(&policies.admit_model(&eve)).matches("rule_violated").count(), 2);
    assert_eq!(holds(&policies, "anthropic claude-opus-5", &long), "");
    assert_eq!(holds(&policies, "Gpt-5", &request()), "");
    let admitted = policies.admit_model(&call("openai o3", &long));
    assert_eq!(admitted.timeout.unwrap().to_string(), "30s");
    assert!(holds(&policies, "gpt-5", &request()).starts_with("rate_limited@model:openai/*.rate"));
    let only = self::policies("[models.'gpt-5']\n[tools.'gpt-6']\n");
    assert!(holds(&only, "gpt-6", &request()).starts_with("unknown_tool@policy"));
    let open = self::policies("[defaults]\ndecision = 'allow'\n[models.'gpt-5']\n");
    assert_eq!(holds(&open, "gpt-6", &request()), "");
}

#[test]
fn a_recorded_call_can_be_priced_again() {
    let policies = policies(THREE);
    let mut request = ModelRequest { unseen_tokens: Some(5), answers: 2, is_multimodal: true, ..request() };
    request.context = Some(vec![("processing".to_owned(), "batch".to_owned())]);
    request.other.set(UsageUnit::WebSearches, 2).unwrap();
    let arguments = request.arguments(Some("anthropic"), "claude-opus-5", request.max_output);
    let (again, provider, model) = ModelRequest::of_arguments(&arguments).unwrap();
    assert_eq!((&again, provider, model), (&request, Some("anthropic"), "claude-opus-5"));
    let first = holds(&policies, "anthropic claude-opus-5", &request);
    assert_eq!(first, holds(&policies, "anthropic claude-opus-5", &again));
    // (1,005 x 5 + 200 x 12.5) per million, and two searches at 10 USD per thousand.
    assert!(first.starts_with("team 0.027525 usd estimated"), "{first}");
    // An action that tells of a call is decided as the call is.
    let decide = |name: &str, arguments: &Value| {
        let action = Action { namespace: "model", name, run: "r1", ..Action::default() };
        let told = Call { tenant: "acme", action, arguments, uncovered: None };
        let (peeked, meters) = policies.peek(&told);
        let admitted = policies.admit(&told);
        assert_eq!(peeked.reasons, admitted.admission.reasons);
        let gates = policies.gates_of(&told).unwrap().unwrap();
        assert_eq!(gates.policy().gates().len(), 4);
        (meters.len(), admitted.permit.is_some())
    };
    assert_eq!(decide("claude-opus-5", &arguments), (3, true));
    assert_eq!(stands(&policies, "anthropic claude-opus-5", "team"), "0 0.027525");
    assert_eq!(decide("claude-haiku-4-5", &arguments), (0, false));
    assert_eq!(decide("claude-opus-5", &json(r#"{"model": "claude-opus-5"}"#)), (0, false));
}

#[test]
fn the_digest_of_the_prices_is_that_of_the_terms_too() {
    let line = |text: &str| file(text).sections().prices_line();
    assert_eq!(line("[tools.search]\n"), None);
    let header = crate::price::book().header();
    assert_eq!(line("[models.x]\n").unwrap(), format!("prices: sha256:{} of {}", header.digest, header.date));
    let own = |price: &str| format!("[prices.models.'a/b']\ninput = '{price} usd'\noutput = '1 usd'\n");
    let (one, two) = (line(&own("1")).unwrap(), line(&own("2")).unwrap());
    assert_ne!(one, two);
    assert_eq!(one, line(&own("1.000")).unwrap());
    assert_ne!(one, line(&format!("{}[prices.discounts]\nopenai = '1%'", own("1"))).unwrap());
    assert_eq!(one.len(), "prices: sha256: of 2026-11-21".len() + 64);
    assert_eq!(Unit::Usd.name(), "usd");
}
