//! The service behind the tool: it does what it is asked, sometimes late or without an answer, and counts.

use std::collections::BTreeMap;

use checkrein::core::amount::Amount;
use checkrein::testing::Random;

/// A once key in its tenant.
pub(crate) type OnceKey = (String, String);

/// What becomes of a request to the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is on its way: it may have happened, for all anybody knows.
    Underway,
    /// It happened.
    Happened,
    /// It was refused and had no effect.
    Refused,
    /// It never arrived and never will.
    Lost,
}

/// One request to the service.
#[derive(Clone, Debug)]
pub(crate) struct Dispatch {
    /// The client's call.
    pub(crate) call: usize,
    /// The call it runs, where calls must not run twice.
    pub(crate) once: Option<OnceKey>,
    pub(crate) fate: Fate,
    /// What it will become.
    pub(crate) will: Fate,
    /// Whether and when the caller hears of it, in nanoseconds after it was sent.
    pub(crate) answer: Option<i64>,
    /// What it cost.
    pub(crate) actual: Amount,
}

/// The service.
#[derive(Debug, Default)]
pub(crate) struct Upstream {
    dispatches: Vec<Dispatch>,
    effects: BTreeMap<OnceKey, Vec<usize>>,
}

const MILLISECOND: i64 = 1_000_000;

impl Upstream {
    /// Takes a request on its way; `bound` is what it may cost. The number names it, the time says when it arrives.
    pub(crate) fn dispatch(
        &mut self,
        (call, once): (usize, Option<OnceKey>),
        bound: Amount,
        calm: bool,
        random: &mut Random,
    ) -> (usize, i64) {
        let pico = bound.pico().max(0) as u64;
        let share = Amount::from_pico(i128::from(pico / 4 * random.below(5)));
        // The service breaks the bound at times.
        let actual = if random.once_in(12) { share.saturating_add(bound) } else { share };
        let quick = random.below(40) as i64 * MILLISECOND;
        let slow = (2_000 + random.below(200_000) as i64) * MILLISECOND;
        let (will, arrives, answer) = match if calm { 9 } else { random.below(20) } {
            0 => (Fate::Lost, quick, None),
            1 => (Fate::Happened, quick, None),
            2 => (Fate::Happened, slow, Some(quick)),
            3 => (Fate::Happened, quick, Some(slow)),
            4 | 5 => (Fate::Refused, quick, Some(quick)),
            _ => (Fate::Happened, quick, Some(quick)),
        };
        let answer = answer.map(|after| arrives + after);
        self.dispatches.push(Dispatch { call, once, fate: Fate::Underway, will, answer, actual });
        (self.dispatches.len() - 1, arrives)
    }

    /// The request arrives.
    pub(crate) fn arrive(&mut self, number: usize) {
        let Some(dispatch) = self.dispatches.get_mut(number) else { return };
        dispatch.fate = dispatch.will;
        if dispatch.fate == Fate::Happened
            && let Some(key) = &dispatch.once
        {
            self.effects.entry(key.clone()).or_default().push(number);
        }
    }

    /// A request.
    pub(crate) fn get(&self, number: usize) -> Option<&Dispatch> {
        self.dispatches.get(number)
    }

    /// The requests of a once key, in order.
    pub(crate) fn of(&self, key: &OnceKey) -> impl Iterator<Item = (usize, &Dispatch)> {
        self.dispatches.iter().enumerate().filter(move |(_, dispatch)| dispatch.once.as_ref() == Some(key))
    }

    /// How often each once key had its effect, with the requests that had it.
    pub(crate) fn effects(&self) -> &BTreeMap<OnceKey, Vec<usize>> {
        &self.effects
    }

    /// What a look-up of a key finds: the request that had the effect; `Err` while one is still on its way.
    pub(crate) fn look_up(&self, key: &OnceKey) -> Result<Option<usize>, ()> {
        if self.of(key).any(|(_, dispatch)| dispatch.fate == Fate::Underway) {
            return Err(());
        }
        Ok(self.effects.get(key).and_then(|numbers| numbers.first().copied()))
    }
}

/// The result of a request, as the caller stores it.
pub(crate) fn result_of(dispatch: usize) -> Vec<u8> {
    format!("\"receipt {dispatch}\"").into_bytes()
}
