//! Engines, policies and child processes of these tests.

use std::io::{BufRead, BufReader, Lines};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use checkrein::engine::{CompiledPolicy, Engine, GateSpec, GateSpecKind, WindowSpec};
use checkrein::store::sqlite::{SqliteOptions, SqliteStore};
use checkrein::store::{PermitId, RecordInfo, RecordState, StoreError};
use checkrein_core::admission::{Inputs, KeyValue, Verdict};
use checkrein_core::amount::{Amount, Unit};
use checkrein_core::fingerprint::RequestDigest;
use checkrein_core::gate::budget::Cost;
use checkrein_core::gate::once::OperationState;
use checkrein_core::policy::{Charge, Leases, Mode, RecordKind};
use checkrein_core::time::Span;

/// An error comes "within a second"; this machine may be busy with other tests.
pub(crate) const SOON: Duration = Duration::from_secs(3);

pub(crate) fn open(path: &Path) -> Result<Engine, StoreError> {
    open_with(path, SqliteOptions::default())
}

pub(crate) fn open_with(path: &Path, options: SqliteOptions) -> Result<Engine, StoreError> {
    Ok(Engine::builder().sqlite(SqliteStore::open(path, options)?).build())
}

/// Opens a file that cannot be opened, and returns what is said about it and how long that took.
pub(crate) fn refusal(path: &Path) -> (String, Duration) {
    let start = Instant::now();
    let error = open(path).map(drop).unwrap_err().to_string();
    (error, start.elapsed())
}

fn gate(name: &str, kind: GateSpecKind) -> GateSpec {
    GateSpec { name: name.into(), mode: Mode::Enforce, kind }
}

/// One rate limit.
pub(crate) fn limit(engine: &Engine, max_calls: u64, window: Span) -> Arc<CompiledPolicy> {
    let window = WindowSpec::Rolling(window);
    let kind = GateSpecKind::Limit { key: 0, max_calls, window, cooldown: Span::ZERO };
    engine.compile(vec![gate("rate", kind)], Leases::default()).unwrap()
}

/// A budget of 1,000 USD that is held, and a once key.
pub(crate) fn payment(engine: &Engine) -> Arc<CompiledPolicy> {
    let once = GateSpecKind::Once { keep_result: Span::from_secs(3_600), keep_key: Span::from_secs(86_400) };
    let budget = GateSpecKind::Budget {
        key: 0,
        limit: Amount::from_units(1_000),
        unit: Unit::Usd,
        window: WindowSpec::Lifetime,
        cost: 0,
        charge: Charge::Hold,
        hard: false,
    };
    engine.compile(vec![gate("pay", once), gate("team", budget)], Leases::default()).unwrap()
}

/// Decides a call on a key; an `Err` has the codes and texts of the refusal.
pub(crate) fn call(engine: &Engine, policy: &Arc<CompiledPolicy>, key: &str) -> Result<(), String> {
    pay(engine, policy, key, None, true).map(drop)
}

/// Decides a payment of ten dollars under a once key.
pub(crate) fn pay(
    engine: &Engine,
    policy: &Arc<CompiledPolicy>,
    key: &str,
    once: Option<&str>,
    start: bool,
) -> Result<Option<PermitId>, String> {
    let inputs = Inputs {
        keys: &[KeyValue::Bytes(key.as_bytes())],
        costs: &[Cost::proven(Amount::from_units(10))],
        once: once.map(|once| (KeyValue::Bytes(once.as_bytes()), RequestDigest::from_bytes([7; 32]))),
        start,
        ..Inputs::default()
    };
    let admitted = engine.admit(policy, &inputs);
    if admitted.admission.verdict == Verdict::Allow {
        return Ok(admitted.permit);
    }
    let reasons = admitted.admission.reasons.iter();
    Err(reasons.map(|reason| format!("{}: {reason:?}", reason.code.word())).collect())
}

pub(crate) fn records(engine: &Engine, kind: RecordKind) -> Vec<RecordInfo> {
    engine.list(kind, Default::default(), 1_000).unwrap().0
}

/// How often the only meter has been taken from.
pub(crate) fn count(engine: &Engine) -> u64 {
    let count = |record: &RecordInfo| match record.state {
        RecordState::Meter { count, .. } => count,
        _ => 0,
    };
    records(engine, RecordKind::Meter).iter().map(count).sum()
}

/// What all meters hold.
pub(crate) fn held(engine: &Engine) -> Amount {
    records(engine, RecordKind::Meter).iter().fold(Amount::ZERO, |sum, record| match &record.state {
        RecordState::Meter { account, .. } => sum.saturating_add(account.held),
        _ => sum,
    })
}

/// The state of an operation.
pub(crate) fn operation(engine: &Engine, key: &str) -> Option<OperationState> {
    let all = records(engine, RecordKind::Operation);
    let found = all.into_iter().find(|record| record.key.borrow().key == key.as_bytes());
    found.and_then(|record| match record.state {
        RecordState::Operation { state, .. } => Some(state),
        _ => None,
    })
}

/// Everything in the store agrees with everything else.
pub(crate) fn assert_sound(engine: &Engine) {
    let report = engine.sqlite().unwrap().check().unwrap();
    assert!(report.is_sound(), "{report:?}");
}

/// Another process that runs one test of this binary, and talks on its standard output.
pub(crate) struct Other {
    pub(crate) child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

/// What a child is told, if this process is one.
pub(crate) fn told() -> Option<Vec<String>> {
    std::env::var("CHECKREIN_CHILD").ok().map(|words| words.split('\t').map(str::to_owned).collect())
}

/// Says something to the parent.
pub(crate) fn say(text: &str) {
    println!("@{text}");
}

impl Other {
    /// Starts the process on the test of this name, and tells it some words.
    pub(crate) fn start(test: &str, words: &[&str]) -> Self {
        Self::start_by(Command::new(std::env::current_exe().unwrap()), test, words)
    }

    pub(crate) fn start_by(mut command: Command, test: &str, words: &[&str]) -> Self {
        command.args([test, "--exact", "--nocapture", "--test-threads=1"]);
        command.env("CHECKREIN_CHILD", words.join("\t")).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// The next thing it says.
    pub(crate) fn hear(&mut self) -> String {
        // libtest prints the name of the test without ending the line.
        let said = self
            .lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| line.split_once('@').map(|(_, said)| said.to_owned()));
        said.expect("the other process said nothing")
    }

    /// Waits for its end.
    pub(crate) fn end(mut self) {
        drop(self.child.stdin.take());
        assert!(self.child.wait().unwrap().success());
    }

    /// Ends it as a crash does.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// Waits until the parent lets go of this process's standard input.
pub(crate) fn wait_for_parent() {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
}
