//! Policy files at work.

use checkrein_core::admission::{Action, Change, Lasting, Verdict};
use checkrein_core::amount::Amount;
use checkrein_core::json::{Limits, Value, read_str};
use checkrein_core::time::Span;

use crate::clock::{Clock, FakeClock};
use crate::config::{Call, ModelCall, ModelRequest, Policies, PolicyFile, Uncovered};
use crate::engine::{BudgetRecord, Engine};

pub(super) fn file(text: &str) -> PolicyFile {
    let text = format!("version = 1\n{text}");
    PolicyFile::parse("checkrein.toml", &text, false).unwrap_or_else(|error| panic!("{}", error.report(100)))
}

fn policies(text: &str) -> Policies {
    let clock = Clock::fake(FakeClock::default());
    Policies::new(Engine::builder().clock(clock).build(), file(text)).unwrap()
}

fn json(text: &str) -> Value {
    read_str(text, &Limits::default()).unwrap()
}

/// What a call of `ann` in run `r1` is answered: `allow`, or the codes and gates of its reasons.
fn ask(policies: &Policies, tool: &str, arguments: &str) -> String {
    ask_as(policies, tool, arguments, Action { user: "ann", run: "r1", ..Action::default() })
}

fn ask_as(policies: &Policies, tool: &str, arguments: &str, action: Action<'_>) -> String {
    let arguments = json(arguments);
    let call = Call {
        tenant: "acme",
        action: Action { name: tool, ..action },
        arguments: &arguments,
        uncovered: None,
    };
    let (peeked, _) = policies.peek(&call);
    let admission = policies.admit(&call).admission;
    assert_eq!(peeked.reasons, admission.reasons, "peek and admit agree");
    let observed: Vec<String> =
        admission.observed.iter().map(|reason| format!("(observed {})", reason.code.word())).collect();
    let mut said = match admission.verdict {
        Verdict::Allow => vec!["allow".to_owned()],
        Verdict::Replay(_) => vec!["replay".to_owned()],
        Verdict::Block => {
            admission.reasons.iter().map(|reason| format!("{}@{}", reason.code.word(), reason.gate)).collect()
        }
    };
    said.extend(observed);
    said.join(" ")
}

#[test]
fn an_unknown_tool_is_refused_unless_the_file_says_otherwise() {
    assert_eq!(ask(&policies(""), "search", "{}"), "unknown_tool@policy");
    assert_eq!(ask(&policies("defaults.decision = 'allow'"), "search", "{}"), "allow");
    assert_eq!(ask(&policies("tools.'*' = {}"), "search", "{}"), "allow");
}

#[test]
fn gates_of_all_sections_add_up() {
    let policies = policies(
        "[tools.'*']\nrules = ['!has(args.secret)']\n\
         [tools.'db.*']\nlimits = [{ max_calls = 2, window = '1h' }]\ntimeout = '9s'\n\
         [tools.'db.read']\nrules = ['args.rows < 100']\ntimeout = '5s'\n\
         [tools.'db.*.slow']\n",
    );
    assert_eq!(
        ask(&policies, "db.read", r#"{"rows": 500, "secret": 1}"#).matches("rule_violated").count(),
        2
    );
    assert_eq!(ask(&policies, "db.read", r#"{"rows": 5}"#), "allow");
    // A limit of a pattern counts all the tools it covers together.
    assert_eq!(ask(&policies, "db.write", "{}"), "allow");
    assert_eq!(ask(&policies, "db.read", r#"{"rows": 5}"#), "rate_limited@db.*.rate");
    let timeout = |tool: &str| policies.for_action(tool).unwrap().unwrap().timeout().unwrap().to_string();
    assert_eq!((timeout("db.read"), timeout("db.write")), ("5s".to_owned(), "9s".to_owned()));
    assert_eq!(ask(&policies, "mail", "{}"), "allow");
}

#[test]
fn budgets_take_from_their_parents_in_one_step() {
    let policies = policies(
        "[budgets.company]\nlimit = '1 usd'\n\
         [budgets.user]\nkey = 'action.user'\nlimit = '0.60 usd'\nparent = 'company'\n\
         [budgets.tokens]\nkey = 'action.run'\nlimit = '100 tokens'\n\
         [tools.'*']\nbudgets = [{ name = 'user', cost = '0.10 usd' }]\n\
         [tools.pay]\nbudgets = [{ name = 'user', cost = { cel = 'args.cents * 10000000' } }, \
         { name = 'tokens', cost = { cel = 'args.tokens' } }]\n",
    );
    let pay = |user, cents: i64, tokens: i64| {
        let arguments = format!(r#"{{"cents": {cents}, "tokens": {tokens}}}"#);
        ask_as(&policies, "pay", &arguments, Action { user, run: "r", ..Action::default() })
    };
    assert_eq!(pay("ann", 60, 60), "allow");
    assert_eq!(pay("ann", 1, 1), "budget_exceeded@user");
    assert_eq!(pay("bob", 50, 50), "budget_exceeded@company budget_exceeded@tokens");
    // The refusals took nothing from any of the three.
    assert_eq!(pay("bob", 40, 40), "allow");
    assert_eq!(pay("cleo", 0, 0), "allow");
    assert_eq!(pay("cleo", -1, 0), "invalid_action@user cost");
    assert_eq!(pay("", 0, 0), "invalid_action@user");
    let (_, meters) = policies.peek(&Call {
        tenant: "acme",
        action: Action { name: "pay", user: "bob", run: "r", ..Action::default() },
        arguments: &json(r#"{"cents": 0, "tokens": 0}"#),
        uncovered: None,
    });
    let spent = |name: &str| meters.iter().find(|meter| &*meter.gate == name).unwrap().spent;
    assert_eq!(spent("company"), Amount::ONE);
    assert_eq!(spent("tokens"), Amount::from_units(100));
}

#[test]
fn a_cost_without_a_value_says_why() {
    let policies = policies(
        "[budgets.b]\nlimit = '1 usd'\n[tools.pay]\nbudgets = [{ name = 'b', cost = { cel = 'args.cents' } }]",
    );
    let arguments = json("{}");
    let call = Call {
        tenant: "",
        action: Action { name: "pay", ..Action::default() },
        arguments: &arguments,
        uncovered: None,
    };
    let message = policies.admit(&call).admission.reasons[0].message().into_owned();
    assert_eq!(message, "the action is malformed: the cost `args.cents`: `args.cents` is missing");
}

#[test]
fn the_same_call_again_and_again_is_a_loop() {
    let policies = policies("[tools.'*']\nloop = { same_call = 3 }");
    for _ in 0..2 {
        assert_eq!(ask(&policies, "search", r#"{"q": "x", "n": 1}"#), "allow");
    }
    // The order of members and the spelling of numbers make no other call.
    assert_eq!(ask(&policies, "search", r#"{"n": 1.0, "q": "x"}"#), "loop_detected@*.loop");
    assert_eq!(ask(&policies, "search", r#"{"q": "y", "n": 1}"#), "allow");
    assert_eq!(ask(&policies, "find", r#"{"q": "x", "n": 1}"#), "allow");
    let other = Action { run: "r2", ..Action::default() };
    assert_eq!(ask_as(&policies, "search", r#"{"q": "x", "n": 1}"#, other), "allow");
    let nobody = Action::default();
    assert_eq!(ask_as(&policies, "search", r#"{"q": "x", "n": 1}"#, nobody), "invalid_action@*.loop");
}

#[test]
fn facts_are_proved_by_results_of_the_same_run() {
    let policies = policies(
        "[tools.read]\nproves = [{ kind = 'payment', pointer = '/payments/0/id' }]\n\
         [tools.refund]\nfacts = [{ arg = '/payment_id', kind = 'payment' }]\n",
    );
    assert_eq!(ask(&policies, "refund", r#"{"payment_id": "p1"}"#), "missing_fact@payment");
    let nothing = json("{}");
    let action = Action { name: "read", run: "r1", ..Action::default() };
    let read = Call { tenant: "acme", action, arguments: &nothing, uncovered: None };
    assert_eq!(policies.prove(&read, &json(r#"{"payments": []}"#)).unwrap(), 0);
    assert_eq!(policies.prove(&read, &json(r#"{"payments": [{"id": "p1"}]}"#)).unwrap(), 1);
    // What the call named itself was not read.
    let named = json(r#"{"filter": {"ids": ["p2"]}}"#);
    let echo = Call { arguments: &named, ..read };
    assert_eq!(policies.prove(&echo, &json(r#"{"payments": [{"id": "p2"}]}"#)).unwrap(), 0);
    assert_eq!(ask(&policies, "refund", r#"{"payment_id": "p1"}"#), "allow");
    assert_eq!(ask(&policies, "refund", r#"{"payment_id": "p2"}"#), "missing_fact@payment");
    assert_eq!(ask(&policies, "refund", "{}"), "invalid_action@payment");
    let other = Action { run: "r2", ..Action::default() };
    assert_eq!(ask_as(&policies, "refund", r#"{"payment_id": "p1"}"#, other), "missing_fact@payment");
}

#[test]
fn modes_count_per_gate_then_per_section_then_for_all() {
    let text = "defaults.mode = 'observe'\n\
         [tools.a]\nrules = ['false']\nlimits = [{ max_calls = 0, window = '1h', mode = 'enforce' }]\n\
         [tools.b]\nmode = 'enforce'\nrules = [{ check = 'false', mode = 'observe' }, '1 > 2']\n\
         [tools.c]\nrules = ['false']\nonce = { key = \"'k'\" }\n";
    let policies = policies(text);
    assert_eq!(ask(&policies, "a", "{}"), "rate_limited@a.rate (observed rule_violated)");
    assert_eq!(ask(&policies, "b", "{}"), "rule_violated@1 > 2 (observed rule_violated)");
    assert_eq!(ask(&policies, "c", "{}"), "allow (observed rule_violated)");
    // Once holds in observe mode too.
    assert_eq!(ask(&policies, "c", "{}"), "in_progress@c.once (observed rule_violated)");
}

#[test]
fn rules_are_asked_when_they_apply_and_errors_refuse() {
    let policies = policies(
        "[tools.a]\nrules = [{ when = 'args.big', check = 'args.ok', message = 'big ones must be ok' }]",
    );
    assert_eq!(ask(&policies, "a", r#"{"big": false}"#), "allow");
    assert_eq!(ask(&policies, "a", r#"{"big": true, "ok": false}"#), "rule_violated@args.ok");
    assert_eq!(ask(&policies, "a", r#"{"big": true}"#), "rule_error@args.ok");
    assert_eq!(ask(&policies, "a", "{}"), "rule_error@args.ok");
    assert_eq!(ask(&policies, "a", r#"{"big": "yes"}"#), "rule_error@args.ok");
}

#[test]
fn sections_that_cannot_work_together_refuse_the_tool() {
    let policies =
        policies("[tools.'a*']\nonce = { key = 'args.k' }\n[tools.'*b']\nonce = { key = 'args.k' }");
    assert_eq!(ask(&policies, "ab", r#"{"k": "x"}"#), "policy_error@policy");
    assert_eq!(ask(&policies, "a", r#"{"k": "x"}"#), "allow");
}

#[test]
fn another_file_takes_over_all_at_once_and_keeps_the_counts() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("checkrein.toml");
    let limit =
        |max: u32| format!("version = 1\n[tools.a]\nlimits = [{{ max_calls = {max}, window = '1h' }}]\n");
    let policies = policies("[tools.a]\nlimits = [{ max_calls = 1, window = '1h' }]");
    assert_eq!(ask(&policies, "a", "{}"), "allow");
    assert_eq!(ask(&policies, "a", "{}"), "rate_limited@a.rate");
    let before = policies.digest();
    for broken in
        ["version = 1\n[tools.a]\nlimits = [{ max_ca", "", "version = 1\n[tools.a]\nbreaker = 'none'\n"]
    {
        std::fs::write(&path, broken).unwrap();
        policies.reload(&path).unwrap_err();
        assert_eq!(policies.digest(), before);
        assert_eq!(ask(&policies, "a", "{}"), "rate_limited@a.rate");
    }
    std::fs::write(&path, limit(2)).unwrap();
    policies.reload(&path).unwrap();
    assert_ne!(policies.digest(), before);
    assert_eq!(ask(&policies, "a", "{}"), "allow");
    assert_eq!(ask(&policies, "a", "{}"), "rate_limited@a.rate");
}

#[test]
fn every_decision_is_by_one_file_while_files_are_replaced() {
    let by = |word: &str| {
        file(&format!(
            "[tools.a]\nrules = [{{ check = 'false', name = '{word}' }}, {{ check = 'false', name = '{word}' }}]"
        ))
    };
    let policies = Policies::new(Engine::new(), by("one")).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..500 {
                    let arguments = json("{}");
                    let action = Action { name: "a", ..Action::default() };
                    let call = Call { tenant: "", action, arguments: &arguments, uncovered: None };
                    let reasons = policies.admit(&call).admission.reasons;
                    assert_eq!(reasons.len(), 2);
                    assert_eq!(reasons[0].gate, reasons[1].gate);
                }
            });
        }
        for round in 0..200 {
            policies.replace(by(if round % 2 == 0 { "two" } else { "one" })).unwrap();
        }
    });
}

#[test]
fn a_thousand_tools_are_one_file() {
    use std::fmt::Write as _;
    let mut text = String::from("[budgets.team]\nkey = 'action.tenant'\nlimit = '50 usd'\nwindow = '1d'\n");
    for tool in 0..1_000 {
        write!(
            text,
            "[tools.'service.tool{tool}']\nrules = ['args.amount > {tool}']\n\
             limits = [{{ key = 'action.user', max_calls = 10, window = '1h' }}]\n\
             budgets = [{{ name = 'team', cost = '0.01 usd' }}]\n"
        )
        .unwrap();
    }
    let policies = policies(&text);
    assert_eq!(ask(&policies, "service.tool7", r#"{"amount": 8}"#), "allow");
    assert_eq!(ask(&policies, "service.tool7", r#"{"amount": 7}"#), "rule_violated@args.amount > 7");
}

#[test]
fn what_is_frozen_does_not_run_whatever_the_mode() {
    let policies = policies(
        "[defaults]\nmode = 'observe'\ndecision = 'allow'\n\
         [freeze]\ntools = ['stripe.*']\nusers = ['eve']\nagents = ['a1']\nruns = ['r9']\ntenants = ['other']\n\
         [tools.search]\nrules = ['args.q != 1']\n",
    );
    assert_eq!(ask(&policies, "search", r#"{"q": 1}"#), "allow (observed rule_violated)");
    assert_eq!(ask(&policies, "stripe.refund", "{}"), "frozen@freeze");
    assert_eq!(ask(&policies, "mail", "{}"), "allow");
    for who in [
        Action { user: "eve", ..Action::default() },
        Action { agent: "a1", ..Action::default() },
        Action { run: "r9", ..Action::default() },
    ] {
        assert_eq!(ask_as(&policies, "search", r#"{"q": 2}"#, who), "frozen@freeze");
        assert_eq!(ask_as(&policies, "mail", "{}", who), "frozen@freeze");
    }
    let message = |tenant| {
        let arguments = json(r#"{"q": 2}"#);
        let action = Action { name: "search", ..Action::default() };
        let call = Call { tenant, action, arguments: &arguments, uncovered: None };
        policies.admit(&call).admission.reasons.first().map(|reason| reason.message().into_owned())
    };
    assert_eq!(message("other").unwrap(), "a kill switch is set: the tenant `other`");
    assert_eq!(message("another"), None);
}

#[test]
fn a_frozen_model_is_frozen_by_every_name_it_is_asked_by() {
    for pattern in ["gpt-5", "GPT-*", "openai/gpt-5", "openai/*"] {
        let policies = policies(&format!(
            "[defaults]\nmode = 'observe'\ndecision = 'allow'\n[freeze]\ntools = ['{pattern}']\n[models.'*']\n"
        ));
        let request =
            ModelRequest::of_json(&json(r#"{"messages": [], "max_completion_tokens": 5}"#)).unwrap();
        for (provider, model) in [
            (Some("openai"), "gpt-5"),
            (Some("OpenAI"), "GPT-5"),
            (None, "openai/gpt-5"),
            (None, "OPENAI/Gpt-5"),
        ] {
            let call =
                ModelCall { tenant: "", action: Action::default(), model, provider, request: &request };
            let reasons = policies.admit_model(&call).admission.reasons;
            let codes: Vec<&str> = reasons.iter().map(|reason| reason.code.word()).collect();
            assert_eq!(codes, ["frozen"], "{pattern} {provider:?} {model}");
        }
    }
}

#[test]
fn unknown_tools_are_observed_where_all_is() {
    let policies = policies("defaults.mode = 'observe'");
    assert_eq!(ask(&policies, "search", "{}"), "allow (observed unknown_tool)");
}

#[test]
fn budgets_are_announced_once_at_their_thresholds() {
    let policies = policies(
        "[budgets.b]\nlimit = '1 usd'\nwindow = '1h'\nthresholds = [100, 50, 80, 50]\n\
         [tools.pay]\nbudgets = [{ name = 'b', cost = { cel = 'args.cents * 10000000' } }]\n",
    );
    let pay = |cents: u32| {
        let arguments = json(&format!(r#"{{"cents": {cents}}}"#));
        let action = Action { name: "pay", ..Action::default() };
        let call = Call { tenant: "", action, arguments: &arguments, uncovered: None };
        let crossed = policies.admit(&call).admission.crossed;
        crossed.into_iter().map(|crossed| (crossed.gate.to_string(), crossed.percent)).collect::<Vec<_>>()
    };
    let b = |percent| ("b".to_owned(), percent);
    assert_eq!(pay(49), []);
    assert_eq!(pay(1), [b(50)]);
    assert_eq!(pay(0), []);
    // A refusal takes nothing and announces nothing.
    assert_eq!(pay(60), []);
    assert_eq!(pay(50), [b(80), b(100)]);
    assert_eq!(pay(0), []);
}

#[test]
fn a_changed_limit_stays_when_the_file_is_loaded_again() {
    let text = |limit: &str, window: &str| {
        format!(
            "[budgets.team]\nlimit = '{limit}'\nwindow = '{window}'\n\
             [budgets.agent]\nkey = 'action.user'\nlimit = '2 usd'\n[budgets.spare]\nlimit = '1 calls'\n\
             [tools.pay]\nbudgets = [{{ name = 'team', cost = '1 usd' }}, {{ name = 'agent', cost = '1 usd' }}]\n"
        )
    };
    let policies = policies(&text("1 usd", "1h"));
    let adjust = |name, key: &str, change| {
        let record = BudgetRecord { name, unit: None, window: None, tenant: "acme", key: key.as_bytes() };
        policies.adjust(&record, change, "kim", "").map(|done| done.map_err(|error| error.code()))
    };
    let after = |name, key: &str, change| adjust(name, key, change).unwrap().unwrap().after;
    let set = |units| Change::Set(Amount::from_units(units));
    assert_eq!(after("team", "", set(3)), Some(Amount::from_units(3)));
    assert_eq!(after("agent", "ann", set(3)), Some(Amount::from_units(3)));
    assert_eq!(ask(&policies, "pay", "{}"), "allow");
    policies.replace(file(&text("0 usd", "1h"))).unwrap();
    assert_eq!([(); 2].map(|()| ask(&policies, "pay", "{}")), ["allow"; 2]);
    assert_eq!(ask(&policies, "pay", "{}"), "budget_exceeded@team budget_exceeded@agent");
    // Another window is another record, with the limit of the file.
    policies.replace(file(&text("0 usd", "2h"))).unwrap();
    assert_eq!(after("team", "", Change::TopUp(Amount::ONE, Lasting::Window)), Some(Amount::ONE));
    // A budget that no tool takes from is one of the file all the same.
    assert_eq!(after("spare", "", set(2)), Some(Amount::from_units(2)));
    assert_eq!(adjust("other", "", set(2)), None);
    assert_eq!(
        (adjust("agent", "", set(2)), adjust("team", "ann", set(2))),
        (Some(Err("key")), Some(Err("key")))
    );
}

mod bound {
    use std::sync::Arc;

    use checkrein_core::admission::{Inputs, KeyValue, RuleVerdict};
    use checkrein_core::amount::Unit;
    use checkrein_core::policy::{Charge, Mode};
    use checkrein_core::time::Span;

    use super::*;
    use crate::config::{Binding, CodeGates};
    use crate::engine::{GateSpec, GateSpecKind, WindowSpec};

    fn gate(name: &str, kind: GateSpecKind) -> GateSpec {
        GateSpec { name: name.to_owned(), mode: Mode::Enforce, kind }
    }

    /// A rule, a limit of two calls, and room for one key and one verdict.
    fn code() -> CodeGates {
        let window = WindowSpec::Rolling(Span::from_secs(60));
        let limit = GateSpecKind::Limit { key: 0, max_calls: 2, window, cooldown: Span::ZERO };
        CodeGates {
            gates: vec![gate("rule", GateSpecKind::Rule { verdict: 0 }), gate("a.rate", limit)],
            keys: 1,
            verdicts: 1,
            ..CodeGates::default()
        }
    }

    fn ask(binding: &Binding, arguments: &str, passes: bool) -> String {
        let arguments = json(arguments);
        let action = Action { name: "a", user: "ann", run: "r1", ..Action::default() };
        let call = Call { tenant: "", action, arguments: &arguments, uncovered: None };
        let verdict = if passes { RuleVerdict::Pass } else { RuleVerdict::Violated("no") };
        let inputs = Inputs { keys: &[KeyValue::Bytes(b"k")], verdicts: &[verdict], ..Inputs::default() };
        let bound = binding.current().unwrap();
        let engine = binding.policies().engine();
        let admitted =
            bound.with_inputs(&call, &inputs, engine.now(), |inputs| engine.admit(bound.compiled(), inputs));
        let reasons = admitted.admission.reasons.iter();
        let said: Vec<String> = reasons.map(|r| format!("{}@{}", r.code.word(), r.gate)).collect();
        if said.is_empty() { "allow".to_owned() } else { said.join(" ") }
    }

    #[test]
    fn gates_of_code_and_file_are_one_admission() {
        let policies = policies(
            "[tools.a]\nrules = ['args.n < 10']\nlimits = [{ key = 'action.user', max_calls = 1, window = '1h' }]\n",
        );
        let binding = policies.bind("a", code()).unwrap();
        assert_eq!(ask(&binding, r#"{"n": 10}"#, false), "rule_violated@rule rule_violated@args.n < 10");
        // The file's rule refuses, and the code's limit has taken nothing; the other way round too.
        assert_eq!(ask(&binding, r#"{"n": 10}"#, true), "rule_violated@args.n < 10");
        assert_eq!(ask(&binding, r#"{"n": 1}"#, false), "rule_violated@rule");
        assert_eq!(ask(&binding, r#"{"n": 1}"#, true), "allow");
        assert_eq!(ask(&binding, r#"{"n": 1}"#, true), "rate_limited@a.rate[action.user]");
        policies.replace(file("[tools.a]\n")).unwrap();
        assert_eq!(ask(&binding, r#"{"n": 99}"#, true), "allow");
        assert_eq!(ask(&binding, r#"{"n": 99}"#, true), "rate_limited@a.rate");
        policies.replace(file("")).unwrap();
        assert_eq!(ask(&binding, "{}", true), "unknown_tool@policy rate_limited@a.rate");
    }

    #[test]
    fn a_limit_of_the_same_name_in_code_and_file_counts_twice() {
        let policies = policies("[tools.a]\nlimits = [{ max_calls = 3, window = '60s' }]\n");
        let binding = policies.bind("a", code()).unwrap();
        assert_eq!(ask(&binding, "{}", true), "allow");
        assert_eq!(ask(&binding, "{}", true), "allow");
        assert_eq!(ask(&binding, "{}", true), "rate_limited@a.rate#code");
        // Another guard of the tool counts on the same records of the file.
        let bare = policies.bind("a", CodeGates::default()).unwrap();
        let empty = json("{}");
        let nothing = Call {
            arguments: &empty,
            action: Action { name: "a", ..Action::default() },
            tenant: "",
            uncovered: None,
        };
        let ask_bare = || {
            let bound = bare.current().unwrap();
            let engine = policies.engine();
            bound
                .with_inputs(&nothing, &Inputs::default(), engine.now(), |inputs| {
                    engine.admit(bound.compiled(), inputs)
                })
                .admission
                .verdict
        };
        assert_eq!(ask_bare(), Verdict::Allow);
        assert_eq!(ask_bare(), Verdict::Block);
    }

    #[test]
    fn what_code_and_file_cannot_both_have_is_an_error_that_leaves_all_as_it_was() {
        let policies = policies("[tools.a]\n");
        let budget = GateSpecKind::Budget {
            key: 0,
            limit: Amount::ONE,
            unit: Unit::Usd,
            window: WindowSpec::Lifetime,
            cost: 0,
            charge: Charge::Fixed,
            hard: false,
        };
        let code = CodeGates {
            gates: vec![gate("team", budget)],
            keys: 1,
            costs: 1,
            no_result: Some("a generator has no result to store"),
            no_timeout: Some("a generator has no timeout"),
            ..CodeGates::default()
        };
        let binding = policies.bind("a", code.clone()).unwrap();
        let (digest, before) = (policies.digest(), binding.current().unwrap());
        for (text, problem) in [
            (
                "[budgets.team]\nlimit = '1 usd'\n[tools.a]\nbudgets = [{ name = 'team', cost = '0.1 usd' }]",
                "a: its code and the policy file both have the budget `team`; keep one of them",
            ),
            (
                "[tools.a]\nonce = { key = \"'k'\" }",
                "a: the policy file gives it a once key, but a generator has no result to store",
            ),
            (
                "[tools.'*']\ntimeout = '1s'",
                "a: the policy file gives it a timeout, but a generator has no timeout",
            ),
        ] {
            assert_eq!(policies.replace(file(text)).unwrap_err().to_string(), problem);
            assert_eq!(policies.digest(), digest);
            assert!(Arc::ptr_eq(&binding.current().unwrap(), &before));
        }
        let error = Policies::new(Engine::new(), file("[tools.a]\nonce = { key = \"'k'\" }"))
            .unwrap()
            .bind("a", code)
            .unwrap_err();
        assert_eq!(error.code(), "policy_contradiction");
        // A guard that is gone is asked nothing any more.
        drop(binding);
        policies.replace(file("[tools.'*']\ntimeout = '1s'")).unwrap();
    }

    #[test]
    fn only_a_single_rate_passes_without_a_store() {
        let limits = "[tools.a]\non_store_error = 'open'\nlimits = [{ max_calls = 1, window = '60s' }]\n";
        let opens =
            |text: &str, code: CodeGates| policies(text).bind("a", code).unwrap().current().unwrap().opens();
        let rate = || CodeGates { gates: code().gates.split_off(1), keys: 1, ..CodeGates::default() };
        assert!(opens(limits, CodeGates::default()));
        assert!(!opens(limits, rate()));
        assert!(!opens("[tools.a]", rate()));
        assert!(opens("[tools.a]", CodeGates { opens: true, ..rate() }));
        assert!(!opens("[tools.a]\nrules = ['true']", CodeGates { opens: true, ..rate() }));
        assert!(!opens(
            &limits.replace("on_store_error = 'open'", ""),
            CodeGates { opens: true, ..CodeGates::default() }
        ));
    }
}

#[test]
fn rules_hold_for_texts_as_they_look_where_they_say_so() {
    let policies = policies(
        "[tools.plain]\nrules = [\"args.to != 'admin'\"]\n\
         [tools.looks]\nrules = [{ check = \"args.to != 'admin'\", lookalikes = true }]\n\
         [tools.allowed]\nrules = [{ check = \"args.to in ['ann', 'bob']\", lookalikes = true }]\n\
         [tools.sometimes]\nrules = [{ when = \"args['Kind'] == 'Wire'\", check = 'args.ok', lookalikes = true }]\n",
    );
    let imitated = "{\"to\": \"\u{430}dm\u{200b}in\"}";
    assert_eq!(ask(&policies, "plain", imitated), "allow");
    assert_eq!(ask(&policies, "looks", imitated), "rule_violated@args.to != 'admin'");
    assert_eq!(ask(&policies, "looks", r#"{"to": "adam"}"#), "allow");
    // What looks like an allowed name is not one.
    assert_eq!(ask(&policies, "allowed", r#"{"to": "ann"}"#), "allow");
    assert_eq!(ask(&policies, "allowed", r#"{"to": "Ann"}"#), "rule_violated@args.to in ['ann', 'bob']");
    assert_eq!(ask(&policies, "sometimes", r#"{"Kind": "Wire", "ok": false}"#), "rule_violated@args.ok");
    assert_eq!(ask(&policies, "sometimes", r#"{"Kind": "W\u0456RE", "ok": false}"#), "rule_violated@args.ok");
    assert_eq!(ask(&policies, "sometimes", r#"{"Kind": "cash", "ok": false}"#), "allow");
    let text = "version = 1\n[tools.a]\nrules = [{ check = \"args.x.matches('^a')\", lookalikes = true }]\n";
    let error = PolicyFile::parse("checkrein.toml", text, false).unwrap_err();
    assert_eq!(error.code(), "expression_lookalike_pattern");
}

#[test]
fn a_limit_that_is_added_leaves_the_others_their_counts() {
    let two = "[tools.a]\nlimits = [{ max_calls = 2, window = '1h' }]\n";
    let policies = policies(two);
    assert_eq!(ask(&policies, "a", "{}"), "allow");
    assert_eq!(ask(&policies, "a", "{}"), "allow");
    let more = "[tools.a]\nlimits = [{ max_calls = 100, window = '1m' }, { max_calls = 2, window = '1h' }]\n";
    policies.replace(file(more)).unwrap();
    assert_eq!(ask(&policies, "a", "{}"), "rate_limited@a.rate");
}

#[test]
fn the_mode_of_what_is_taken_is_not_for_the_budgets_above() {
    let policies = policies(
        "[budgets.company]\nlimit = '2 calls'\nmode = 'enforce'\n[budgets.team]\nlimit = '1 calls'\nparent = 'company'\n\
         [tools.a]\nbudgets = [{ name = 'team', mode = 'observe' }]\n",
    );
    assert_eq!(ask(&policies, "a", "{}"), "allow");
    assert_eq!(ask(&policies, "a", "{}"), "allow (observed budget_exceeded)");
    assert_eq!(ask(&policies, "a", "{}"), "budget_exceeded@company (observed budget_exceeded)");
}

#[test]
fn what_gates_do_not_see_cannot_be_looked_for_either() {
    let text = "[tools.pay]\nrules = ['!has(args.amount) || args.amount <= 100']\n\
         [tools.all]\nrules = [\"args.all(name, name != 'admin')\"]\n\
         [tools.key]\nlimits = [{ key = \"has(args.amount) ? 'some' : 'none'\", max_calls = 9, window = '1h' }]\n\
         [tools.other]\nrules = ['args.x == 1']\n";
    let policies = policies(text);
    let hidden = Uncovered { hidden: vec!["amount".to_owned()], ..Uncovered::default() };
    let ask = |tool| {
        let arguments = json(r#"{"x": 1}"#);
        let action = Action { name: tool, run: "r1", ..Action::default() };
        let call = Call { tenant: "", action, arguments: &arguments, uncovered: Some(&hidden) };
        let reasons = policies.admit(&call).admission.reasons;
        reasons.first().map(|reason| reason.code.word())
    };
    assert_eq!(ask("pay"), Some("rule_error"));
    assert_eq!(ask("key"), Some("invalid_action"));
    assert_eq!(ask("all"), Some("rule_error"));
    assert_eq!(ask("other"), None);
}

#[test]
fn facts_are_never_the_words_of_the_call_itself() {
    let policies = policies("[tools.read]\nproves = [{ kind = 'p', pointer = '/id' }]\n");
    let proved = |arguments: &str, result: &str, uncovered: Option<&Uncovered>, action: Action<'_>| {
        let arguments = json(arguments);
        let action = Action { name: "read", ..action };
        policies.prove(&Call { tenant: "", action, arguments: &arguments, uncovered }, &json(result)).unwrap()
    };
    let run = Action { run: "r", ..Action::default() };
    for (arguments, result) in [
        (r#"{"q": "p1"}"#, r#"{"id": "p1"}"#),
        (r#"{"q": "P1"}"#, r#"{"id": "p1"}"#),
        (r#"{"q": {"p1": 1}}"#, r#"{"id": "p1"}"#),
        (r#"{"q": "{\"id\": \"p1\"}"}"#, r#"{"id": "p1"}"#),
        (r#"{"q": "7"}"#, r#"{"id": 7}"#),
        (r#"{"q": 7}"#, r#"{"id": "7"}"#),
        ("{}", r#"{"id": null}"#),
        ("{}", r#"{"id": ""}"#),
        ("{}", r#"{"id": []}"#),
    ] {
        assert_eq!(proved(arguments, result, None, run), 0, "{arguments} {result}");
    }
    let hidden = Uncovered { hidden: vec!["q".to_owned()], ..Uncovered::default() };
    assert_eq!(proved("{}", r#"{"id": "p1"}"#, Some(&hidden), run), 0);
    assert_eq!(proved(r#"{"q": "x"}"#, r#"{"id": "p1"}"#, None, run), 1);
}

#[test]
fn a_run_and_a_session_of_one_name_are_two() {
    let policies = policies("[tools.'*']\nloop = { same_call = 2 }\n");
    let session = Action { session: "s", ..Action::default() };
    assert_eq!(ask_as(&policies, "a", "{}", session), "allow");
    assert_eq!(ask_as(&policies, "a", "{}", Action { run: "s", ..Action::default() }), "allow");
    assert_eq!(ask_as(&policies, "a", "{}", session), "loop_detected@*.loop");
}

#[test]
fn empty_keys_are_no_keys() {
    let policies = policies(
        "[tools.a]\nlimits = [{ key = 'args.u', max_calls = 1, window = '1h' }]\n[tools.b]\nonce = { key = 'args.u' }\n",
    );
    assert_eq!(ask(&policies, "a", r#"{"u": ""}"#), "invalid_action@a.rate[args.u]");
    assert_eq!(ask(&policies, "b", r#"{"u": ""}"#), "invalid_action@b.once");
}

#[test]
fn a_limit_that_was_passed_in_observe_mode_says_when_to_come_again() {
    let text = "[tools.a]\nlimits = [{ max_calls = 2, window = '1h' }]\n";
    for over in 0..5 {
        let policies = policies(&format!("defaults.mode = 'observe'\n{text}"));
        for _ in 0..2 + over {
            assert!(ask(&policies, "a", "{}").starts_with("allow"));
        }
        policies.replace(file(text)).unwrap();
        let arguments = json("{}");
        let action = Action { name: "a", ..Action::default() };
        let call = Call { tenant: "acme", action, arguments: &arguments, uncovered: None };
        let reasons = policies.admit(&call).admission.reasons;
        assert_eq!(
            reasons[0].retry,
            checkrein_core::decision::Retry::After(Span::from_secs(3_600)),
            "{over}"
        );
    }
}
