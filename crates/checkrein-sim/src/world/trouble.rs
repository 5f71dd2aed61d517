//! Processes that come up, die and tidy up.

use checkrein::core::gate::once::OperationState;
use checkrein::core::key::{Key, KeyRef};
use checkrein::core::policy::RecordKind;
use checkrein::core::time::Timestamp;
use checkrein::store::durable::{Durable, KeepArguments, LedgerOptions, Liveness as _, Options};
use checkrein::store::{Cursor, RecordState, Step, StoreError};
use checkrein::testing::disk::Survives;

use super::process::{Doubt, Pending, Stage, What};
use super::{Event, HOUR, SECOND, World};
use crate::oracle::Check;
use crate::upstream::{OnceKey, result_of};

/// How a store is set up here.
pub(crate) const OPTIONS: Options = Options { max_keys: 1_000, ledger: Some(LEDGER) };
/// Nothing random: a run has to be the same every time.
const LEDGER: LedgerOptions = LedgerOptions { arguments: KeepArguments::None, salt: || None };

impl World {
    /// A process starts and opens the store.
    pub(super) fn boot(&mut self, number: usize) -> Check {
        if self.processes.get(number).is_none_or(|process| process.open.is_some()) {
            return Ok(());
        }
        let mut handle = self.disk.handle();
        let now = self.now();
        self.living.claimed = None;
        let opened = Durable::open(&mut handle, OPTIONS, now, &super::info(number), &mut self.living);
        let opened = opened.and_then(|mut durable| {
            super::process::intern(&mut durable, &mut handle, &self.tools, now)?;
            Ok(durable)
        });
        match opened {
            Ok(durable) => {
                self.told = self.told.max(now.nanos());
                if let Some(process) = self.processes.get_mut(number) {
                    process.life += 1;
                    process.open = Some((handle, durable));
                }
                self.count("boots");
                self.look()?;
                self.recovered()?;
                self.soon(20_000, Event::Tend { process: number });
            }
            Err(StoreError::Damaged(what)) => return Err(format!("an undamaged store says: {what}")),
            Err(_) => {
                if let Some(epoch) = self.living.claimed.take() {
                    self.living.forget(epoch);
                }
                handle.kill();
                self.soon(4_000, Event::Boot { process: number });
            }
        }
        Ok(())
    }

    /// A process dies: all it knew is gone, all it sent is on its way.
    pub(super) fn kill(&mut self, number: usize) {
        let Some(process) = self.processes.get_mut(number) else { return };
        let Some((mut handle, durable)) = process.open.take() else { return };
        handle.kill();
        self.living.forget(durable.epoch());
        process.life += 1;
        process.inbox.clear();
        process.flush_planned = false;
        let lost: Vec<(usize, u32)> =
            std::mem::take(&mut process.tasks).into_values().map(|task| (task.call, task.tries)).collect();
        self.count("deaths");
        for (call, tries) in lost {
            // The clients hear nothing and send it again.
            self.soon(30_000, Event::Send { call, tries: tries + 1 });
        }
        self.soon(6_000, Event::Boot { process: number });
    }

    /// A process dies now and then; `true` if it did.
    pub(super) fn maybe_die(&mut self, number: usize, counted: &'static str) -> bool {
        let dies = !self.calm && self.size.faults > 0 && self.random.once_in(3 * self.size.faults);
        if dies {
            self.count(counted);
            self.kill(number);
        }
        dies
    }

    /// The machine goes down. Its clock may show anything when it is up again.
    pub(super) fn power_cut(&mut self) {
        self.count("power cuts");
        let survives = match self.random.below(4) {
            0 => Survives::Nothing,
            1 => Survives::Everything,
            2 => Survives::Beginning,
            _ => Survives::Anything,
        };
        self.disk.power_cut(survives);
        for number in 0..self.size.processes {
            self.kill(number);
        }
        self.clock += match self.random.below(4) {
            0 => HOUR,
            1 => -HOUR,
            _ => 0,
        };
    }

    /// Looks after leases, dead neighbours, idle records and calls in doubt.
    pub(super) fn tend(&mut self, number: usize) -> Check {
        let now = self.now();
        let Some(process) = self.processes.get_mut(number) else { return Ok(()) };
        let Some((handle, durable)) = process.open.as_mut() else { return Ok(()) };
        let mut done = durable.recover(handle, now, &mut self.living).map(drop);
        done = done.and_then(|()| durable.run(handle, &[], now).map(drop));
        if self.random.once_in(4) {
            done = done.and_then(|()| durable.collect(handle, now).map(drop));
        }
        if matches!(done, Err(StoreError::Damaged(_))) {
            return Err(format!("an undamaged store says {done:?}"));
        }
        if done.is_ok() {
            self.told = self.told.max(now.nanos());
        }
        self.look()?;
        self.reconcile(number)?;
        self.reset(number);
        if self.time < self.horizon {
            self.queue.plan(self.time + 15 * SECOND, Event::Tend { process: number });
        }
        Ok(())
    }

    /// A person resets what a user spent, now and then. What is held stays held.
    fn reset(&mut self, number: usize) {
        if self.calm || !self.random.once_in(6) {
            return;
        }
        let gates = self.tools.iter().flat_map(|tool| tool.policy.policy().gates());
        let family = gates.filter(|gate| *gate.name == *"user").find_map(|gate| gate.check.record());
        let Some(((_, family, _), process)) = family.zip(self.processes.get(number)) else { return };
        let life = process.life;
        let name = KeyRef { family, tenant: b"acme", key: b"ann" };
        let step = Step::Reset(RecordKind::Meter, Key::new(name));
        self.submit(number, life, Pending { what: What::Reset, step });
    }

    /// Asks the service what became of calls in doubt.
    fn reconcile(&mut self, number: usize) -> Check {
        let now = self.now();
        let Some(process) = self.processes.get_mut(number) else { return Ok(()) };
        let life = process.life;
        let Some((handle, durable)) = process.open.as_mut() else { return Ok(()) };
        let Ok(found) = doubts(durable, handle, now) else { return Ok(()) };
        for (once, doubt) in found {
            // Nobody can say while a request is on its way, or while a process is about to send one.
            let about_to = |process: &super::Process| {
                process.tasks.values().any(|task| {
                    let same = self.calls.get(task.call).and_then(super::Call::once_key);
                    same.as_ref() == Some(&once) && task.stage == Stage::Reserved
                })
            };
            let Ok(effect) = self.upstream.look_up(&once) else { continue };
            if self.processes.iter().any(about_to) || (!self.calm && self.random.once_in(2)) {
                continue;
            }
            let state = match effect {
                Some(dispatch) => OperationState::Done(Some(result_of(dispatch).into())),
                None => OperationState::FailedClean,
            };
            let step = Step::Resolve(doubt.key, Some(doubt.run), state);
            self.submit(number, life, Pending { what: What::Resolve(once, effect), step });
        }
        Ok(())
    }
}

/// The calls in doubt that the store knows of.
pub(super) fn doubts(
    durable: &mut Durable,
    handle: &mut checkrein::testing::disk::Handle,
    now: Timestamp,
) -> Result<Vec<(OnceKey, Doubt)>, StoreError> {
    let (page, _) = durable.scan(handle, RecordKind::Operation, &Cursor::default(), usize::MAX, now)?;
    let mut found = Vec::new();
    for record in page {
        if let RecordState::Operation { state: OperationState::InDoubt, run, .. } = record.state {
            let name = record.key.borrow();
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let once = (text(name.tenant), text(name.key));
            found.push((once, Doubt { key: record.key.clone(), run }));
        }
    }
    Ok(found)
}
