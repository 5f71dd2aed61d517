//! Calls of models on a store on a disk: what its ledger tells of them, and that a stranger can verify it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::Path;

use checkrein::clock::{Clock, FakeClock};
use checkrein::config::{ModelCall, ModelPermit, ModelRequest, Policies, PolicyFile};
use checkrein::core::admission::Action;
use checkrein::core::gate::breaker::Health;
use checkrein::core::json::{Limits, Value, read, read_str};
use checkrein::core::time::Timestamp;
use checkrein::engine::Engine;
use checkrein::ledger::{Database, Scope, export, keys, verify_file};
use checkrein::store::durable::KeepArguments;
use checkrein::store::sqlite::{SqliteOptions, SqliteStore};

const POLICY: &str = "version = 1\n[budgets.b]\nlimit = '1 usd'\n[models.'claude-*']\nbudgets = ['b']\nreserve_output = 50\n\
    [prices.models.'house/m']\nfree = true\n";
const SECRET: &str = "a prompt that no ledger may keep";

fn json(text: &str) -> Value {
    read_str(text, &Limits::default()).unwrap()
}

fn policies(path: &Path) -> Policies {
    let clock = FakeClock::new(Timestamp::from_nanos(1_795_262_400_000_000_000));
    let (clock, ledger) = (Some(Clock::fake(clock)), Some(KeepArguments::Full));
    let store = SqliteStore::open(path, SqliteOptions { clock, ledger, ..SqliteOptions::default() }).unwrap();
    let file = PolicyFile::parse("checkrein.toml", POLICY, false).unwrap();
    Policies::new(Engine::builder().sqlite(store).build(), file).unwrap()
}

fn call(policies: &Policies, model: &str, text: &str) -> Option<ModelPermit> {
    let request = ModelRequest { context: Some(Vec::new()), ..ModelRequest::of_json(&json(text)).unwrap() };
    let action = Action { user: "ann", ..Action::default() };
    let (tenant, provider) = ("acme", Some("anthropic"));
    policies.admit_model(&ModelCall { tenant, action, model, provider, request: &request }).permit
}

#[test]
fn the_ledger_tells_what_was_held_and_what_it_cost_and_never_the_prompt() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("checkrein.db");
    let policies = policies(&path);
    let text = format!(r#"{{"messages":[{{"role":"user","content":"{SECRET}"}}]}}"#);
    let settled = call(&policies, "claude-opus-5", &text).unwrap();
    let reply = json(r#"{"type": "message", "usage": {"input_tokens": 20, "output_tokens": 4}}"#);
    assert!(policies.settle_model(&settled, &reply).unwrap().is_exact());
    let unusable = call(&policies, "claude-opus-5", &text).unwrap();
    assert!(!policies.settle_model(&unusable, &json("{}")).unwrap().is_exact());
    let unmade = call(&policies, "claude-opus-5", &text).unwrap();
    policies.release_model(&unmade, Health::Neutral).unwrap();
    let open = call(&policies, "claude-opus-5", &text).unwrap();
    policies.doubt_model(&open, Health::Failure).unwrap();
    assert!(call(&policies, "claude-unheard-of", &text).is_none());
    assert!(call(&policies, "gpt-5", &text).is_none());
    drop((policies, settled, unusable, unmade, open));

    let database = Database::open(&path).unwrap();
    let entries: Vec<String> = database
        .entries(0, 100)
        .unwrap()
        .into_iter()
        .map(|(_, bytes)| String::from_utf8(bytes).unwrap())
        .collect();
    assert!(entries.iter().all(|entry| !entry.contains("prompt")), "{entries:#?}");
    let of_kind = |kind: &str| {
        let mark = format!(r#""kind":"{kind}""#);
        entries.iter().filter(|entry| entry.contains(&mark)).cloned().collect::<Vec<_>>()
    };
    let (intents, outcomes, refusals) = (of_kind("intent"), of_kind("outcome"), of_kind("refusal"));
    assert_eq!((intents.len(), outcomes.len(), refusals.len()), (4, 4, 2));
    let first = read(intents[0].as_bytes(), &Limits::default()).unwrap();
    let action = first.get("action").unwrap();
    let said = |name: &str| action.get(name).and_then(Value::as_str).unwrap();
    assert_eq!((said("namespace"), said("name"), said("user")), ("model", "claude-opus-5", "ann"));
    // From what is recorded the call can be priced again.
    let (again, provider, model) =
        ModelRequest::of_arguments(first.get("arguments").unwrap().get("value").unwrap()).unwrap();
    assert_eq!((provider, model), (Some("anthropic"), "claude-opus-5"));
    assert_eq!((again.bytes, again.max_output), (u64::try_from(text.len()).unwrap(), Some(50)));
    // 20 x 5 + 4 x 25 USD per million; a full hold has no cost of its own in its outcome.
    assert!(outcomes[0].contains(r#""actual":["0.0002"]"#), "{}", outcomes[0]);
    assert!(
        !outcomes[1].contains("actual") && outcomes[1].contains(r#""outcome":"done""#),
        "{}",
        outcomes[1]
    );
    assert!(outcomes[2].contains(r#""outcome":"failed_clean""#), "{}", outcomes[2]);
    assert!(outcomes[3].contains(r#""outcome":"in_doubt""#), "{}", outcomes[3]);
    assert!(refusals[0].contains("unknown_price") && refusals[1].contains("unknown_tool"), "{refusals:#?}");
    let policy = of_kind("event").into_iter().find(|entry| entry.contains("prices: sha256:")).unwrap();
    assert!(policy.contains("file: checkrein.toml sha256:"), "{policy}");

    let file = path.with_extension("jsonl");
    export(&database, Scope::Sealed, &mut std::fs::File::create(&file).unwrap()).unwrap();
    let key = keys::load_public(&keys::public_path(&keys::default_path(&path))).unwrap();
    let report = verify_file(&file, &key, None).unwrap();
    assert!(report.is_valid(), "{report:?}");
}
