//! Random histories on several processes that share one disk, step by step beside the reference model.

use std::sync::Arc;

use checkrein::core::admission::{Adjustment, Verdict};
use checkrein::core::amount::Amount;
use checkrein::core::gate::breaker::Health;
use checkrein::core::key::{Key, KeyRef};
use checkrein::core::permit::Outcome;
use checkrein::core::policy::Leases;
use checkrein::core::time::{Span, Timestamp};
use checkrein::engine::{CompiledPolicy, Engine, GateSpec, GateSpecKind};
use checkrein::store::durable::{Durable, Liveness as _, Options};
use checkrein::store::{OwnedSettlement, PermitId, Step, StepResult};
use checkrein::testing::disk::{Disk, Handle};
use checkrein::testing::model::{Answer, End, Model};
use checkrein::testing::{Random, owned, random_budget, random_call, random_change, random_gates};

use crate::oracle::{Check, ensure};
use crate::world::{Living, info, intern_gates};

/// Processes that take turns.
const PROCESSES: usize = 3;
const OPTIONS: Options = Options { max_keys: 1_000, ledger: None };

struct Open {
    number: usize,
    permit: Option<PermitId>,
    /// The process that looks after it.
    process: usize,
    doubtful: bool,
}

struct Side {
    disk: Disk,
    living: Living,
    processes: Vec<(Handle, Durable)>,
    gates: Vec<GateSpec>,
    policy: Arc<CompiledPolicy>,
    model: Model,
    open: Vec<Open>,
    now: Timestamp,
}

impl Side {
    fn start(&mut self, process: usize) -> Result<(Handle, Durable), String> {
        let mut handle = self.disk.handle();
        let opened = Durable::open(&mut handle, OPTIONS, self.now, &info(process), &mut self.living);
        let mut durable = opened.map_err(|error| error.to_string())?;
        let known = intern_gates(&mut durable, &mut handle, &self.gates, &self.policy, self.now);
        known.map_err(|error| error.to_string())?;
        Ok((handle, durable))
    }

    /// Kills a process and starts another one in its place: what it left started is in doubt.
    fn replace(&mut self, process: usize) -> Check {
        if let Some((handle, durable)) = self.processes.get_mut(process) {
            handle.kill();
            self.living.forget(durable.epoch());
        }
        self.open.sort_by_key(|open| open.number);
        let left = |open: &&mut Open| open.process == process && !open.doubtful && open.permit.is_some();
        for open in self.open.iter_mut().filter(left) {
            self.model.finish(open.number, End::InDoubt, Health::Failure, self.now);
            open.doubtful = true;
        }
        let started = self.start(process)?;
        if let Some(slot) = self.processes.get_mut(process) {
            *slot = started;
        }
        Ok(())
    }

    fn run(&mut self, process: usize, step: Step) -> Result<StepResult, String> {
        let Some((handle, durable)) = self.processes.get_mut(process) else {
            return Err("nobody".to_owned());
        };
        let results = durable.run(handle, &[step], self.now).map_err(|error| error.to_string())?;
        results.into_iter().next().ok_or_else(|| "no result".to_owned())
    }

    fn end(&mut self, step: u64, process: usize, random: &mut Random) -> Check {
        let open = self.open.swap_remove(random.below(self.open.len() as u64) as usize);
        let end = match random.below(8) {
            0 => End::FailedClean,
            1 => End::InDoubt,
            2 => End::Done(step, None),
            _ => End::Done(step, Some(Amount::from_pico(i128::from(random.below(8)) * 500_000_000_000))),
        };
        let health = match random.below(3) {
            0 => Health::Success,
            1 => Health::Failure,
            _ => Health::Neutral,
        };
        self.model.finish(open.number, end, health, self.now);
        let Some(permit) = open.permit else { return Ok(()) };
        let (outcome, actual) = match end {
            End::FailedClean => (Outcome::FailedClean, None),
            End::InDoubt => (Outcome::InDoubt, None),
            End::Done(result, actual) => (Outcome::Done(Some(result.to_string().as_bytes().into())), actual),
        };
        let actual = actual.into_iter().flat_map(|amount| [amount; 4]).collect();
        let settlement = OwnedSettlement { outcome, health, actual };
        let result = self.run(process, Step::Finish(permit, settlement))?;
        // What holds nothing and can be looked up nowhere ends with its doubt.
        let ended = matches!(result, StepResult::Done) || open.doubtful;
        ensure(ended, || format!("step {step}: an outcome gave {result:?}"))
    }

    /// Somebody changes the limit of a budget.
    fn adjust(&mut self, step: u64, process: usize, random: &mut Random) -> Check {
        let Some(gate) = random_budget(random, &self.gates).cloned() else { return Ok(()) };
        let (call, change) = (random_call(random), random_change(random, self.now));
        let compiled = self.policy.policy().gates().iter().find(|known| *known.name == *gate.name);
        let family = compiled.and_then(|gate| gate.check.record()).map(|(_, family, _)| family);
        let (GateSpecKind::Budget { key, limit, .. }, Some(family)) = (&gate.kind, family) else {
            return Err(format!("{gate:?} is no budget"));
        };
        let adjustment =
            Adjustment::new(change, Some(*limit), "ann", "").map_err(|error| error.to_string())?;
        let key = call.keys.get(usize::from(*key)).map_or("", String::as_str);
        let name = Key::new(KeyRef { family, tenant: b"", key: key.as_bytes() });
        let expected = self.model.adjust(&gate, &call, change, self.now);
        let result = self.run(process, Step::Adjust(name, adjustment))?;
        let same = match (&expected, &result) {
            (Ok((before, after)), StepResult::Adjusted(seen)) => {
                (seen.before, seen.after) == (Some(*before), Some(*after))
            }
            (Err(expected), StepResult::NotAdjusted(seen)) => expected == seen,
            _ => false,
        };
        ensure(same, || format!("step {step}, {change:?}: expected {expected:?}, got {result:?}"))
    }

    fn decide(&mut self, step: u64, process: usize, random: &mut Random) -> Check {
        let call = random_call(random);
        let expected = self.model.admit(&self.gates, &call, self.now);
        let result = self.run(process, Step::Admit(Arc::clone(&self.policy), owned(&call)))?;
        let StepResult::Admitted(admission, permit) = result else {
            return Err(format!("step {step}: {result:?}"));
        };
        let same = match (&expected, &admission.verdict) {
            (Answer::Allow(number), Verdict::Allow) => {
                self.open.push(Open { number: *number, permit, process, doubtful: false });
                true
            }
            (Answer::Replay(result), Verdict::Replay(stored)) => **stored == *result.to_string().as_bytes(),
            (Answer::Block(expected), Verdict::Block) => {
                let seen = admission.reasons.iter().map(|reason| (reason.code, reason.retry));
                expected.iter().copied().eq(seen)
            }
            _ => false,
        };
        ensure(same, || format!("step {step}, {call:?}: expected {expected:?}, got {admission:?}"))
    }
}

/// One random history of `steps` steps; each is taken by any of the processes, which die in between.
///
/// # Errors
/// Where the processes and the model say different things.
pub fn several_processes(seed: u64, steps: u64) -> Result<(), String> {
    let mut random = Random::new(seed);
    let gates = random_gates(&mut random);
    let policy =
        Engine::new().compile(gates.clone(), Leases::default()).map_err(|error| error.to_string())?;
    let mut side = Side {
        disk: Disk::new(seed),
        living: Living::default(),
        processes: Vec::new(),
        gates,
        policy,
        model: Model::default(),
        open: Vec::new(),
        // Shortly before midnight, so that calendar periods end within a history.
        now: Timestamp::from_nanos(1_790_207_900_000_000_000),
    };
    for process in 0..PROCESSES {
        let started = side.start(process)?;
        side.processes.push(started);
    }
    for step in 0..steps {
        let pause = if random.once_in(60) { 40 } else { 2 } * 1_000_000_000;
        side.now = side.now.after(Span::from_nanos(random.below(pause) as i64));
        let process = random.below(PROCESSES as u64) as usize;
        if random.once_in(40) {
            side.replace(process)?;
        }
        if random.once_in(12) {
            side.adjust(step, process, &mut random)?;
        } else if !side.open.is_empty() && random.once_in(2) {
            side.end(step, process, &mut random)?;
        } else {
            side.decide(step, process, &mut random)?;
        }
    }
    Ok(())
}
