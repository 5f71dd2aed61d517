//! A process of a trial: callers that run guarded calls until somebody kills it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use checkrein::core::admission::{Action, Inputs, KeyValue, Verdict};
use checkrein::core::amount::{Amount, Unit};
use checkrein::core::fingerprint::RequestDigest;
use checkrein::core::gate::breaker::Health;
use checkrein::core::gate::budget::Cost;
use checkrein::core::permit::{Outcome, Settlement};
use checkrein::core::policy::{Charge, Leases, Mode};
use checkrein::core::time::Span;
use checkrein::engine::{CompiledPolicy, Decided, Engine, GateSpec, GateSpecKind, WindowSpec};
use checkrein::store::sqlite::{SqliteOptions, SqliteStore};
use checkrein::testing::{Random, planted};

use super::{Failure, Place};

/// How a worker ends that saw what must not be.
pub(super) const BROKEN: i32 = 9;

/// What is in doubt is settled soon, so that a trial ends soon.
const LEASES: Leases =
    Leases { reserved: Span::from_secs(60), started: Span::from_secs(60), in_doubt: Span::from_secs(1) };

/// The gates of every call: at most once, a budget that is held and settled, a limit.
pub(super) fn policy(engine: &Engine) -> Result<Arc<CompiledPolicy>, Failure> {
    let gate = |name: &str, kind| GateSpec { name: name.into(), mode: Mode::Enforce, kind };
    let keep = Span::from_secs(86_400);
    let once = GateSpecKind::Once { keep_result: keep, keep_key: keep };
    let budget = GateSpecKind::Budget {
        key: 0,
        limit: Amount::from_units(1_000_000_000),
        unit: Unit::Usd,
        window: WindowSpec::Lifetime,
        cost: 0,
        charge: Charge::Hold,
        hard: true,
    };
    let window = WindowSpec::Rolling(Span::from_secs(1));
    let limit = GateSpecKind::Limit { key: 0, max_calls: 100_000, window, cooldown: Span::ZERO };
    let gates = vec![gate("once", once), gate("team", budget), gate("calls", limit)];
    engine.compile(gates, LEASES).map_err(|error| Failure(error.to_string()))
}

/// Opens the store of a trial.
pub(super) fn open(store: &Path) -> Result<Engine, Failure> {
    let options = SqliteOptions { patience: Duration::from_secs(10), ..SqliteOptions::default() };
    let store = SqliteStore::open(store, options).map_err(|error| Failure(error.to_string()))?;
    Ok(Engine::builder().sqlite(store).build())
}

/// Runs calls until the process is killed: `callers` at a time, on `keys` keys.
///
/// # Errors
/// The store cannot be opened, or a rule was broken.
pub fn work(directory: &Path, callers: u64, seed: u64, keys: u64) -> Result<(), Failure> {
    let place = Place::of(directory);
    let engine = open(&place.store)?;
    let policy = policy(&engine)?;
    let append = |path: &Path| OpenOptions::new().create(true).append(true).open(path);
    let (effects, told) = (append(&place.effects)?, append(&place.told)?);
    std::thread::scope(|scope| {
        for caller in 0..callers {
            let (engine, policy, effects, told) = (&engine, &policy, &effects, &told);
            let mut random = Random::new(seed.wrapping_mul(1_000).wrapping_add(caller));
            scope.spawn(move || {
                loop {
                    let key = random.below(keys);
                    if let Err(Failure(what)) = call(engine, policy, key, (effects, told), &mut random) {
                        // That nobody reads it changes nothing: the exit code tells.
                        let _ = writeln!(io::stderr(), "{what}");
                        std::process::exit(BROKEN);
                    }
                }
            });
        }
    });
    Ok(())
}

/// One line in one call of the kernel: whatever happens to this process, it is there or it is not.
fn write(mut file: &File, key: u64) -> io::Result<()> {
    file.write_all(format!("{key}\n").as_bytes())
}

fn call(
    engine: &Engine,
    policy: &Arc<CompiledPolicy>,
    key: u64,
    (effects, told): (&File, &File),
    random: &mut Random,
) -> Result<(), Failure> {
    let name = key.to_string();
    let digest = RequestDigest::from_bytes([7; 32]);
    let action = Action { name: "pay", user: "crew", run: &name, digest: Some(digest), ..Action::default() };
    let inputs = Inputs {
        keys: &[KeyValue::Bytes(b"team")],
        costs: &[Cost::proven(Amount::ONE)],
        once: Some((KeyValue::Bytes(name.as_bytes()), digest)),
        start: true,
        action: Some(&action),
        ..Inputs::default()
    };
    let permit = match engine.decide(policy, &inputs) {
        Decided::Allowed(permit) => permit,
        Decided::Noted(admitted) => {
            return match &admitted.admission.verdict {
                Verdict::Replay(result) if **result == *name.as_bytes() => Ok(write(told, key)?),
                Verdict::Replay(_) => Err(Failure(format!("key {key} was answered with another result"))),
                Verdict::Block | Verdict::Allow => Ok(()),
            };
        }
    };
    let Some(permit) = permit else { return Err(Failure(format!("key {key} runs without a permit"))) };
    planted::pass("before dispatch");
    let fate = random.below(20);
    if fate > 0 {
        write(effects, key)?;
        planted::pass("after dispatch");
    }
    if random.once_in(4) {
        std::thread::sleep(Duration::from_micros(random.below(3_000)));
    }
    planted::pass("before outcome");
    let (outcome, health) = match fate {
        0 => (Outcome::FailedClean, Health::Failure),
        1 => (Outcome::InDoubt, Health::Failure),
        _ => (Outcome::Done(Some(name.as_bytes().into())), Health::Success),
    };
    let done = fate > 1;
    let actual = [Amount::ONE];
    // An outcome that cannot be committed is not told: the call is found in doubt.
    if engine.finish(permit, &Settlement { outcome, health, actual: &actual }).is_ok() && done {
        write(told, key)?;
    }
    Ok(())
}
