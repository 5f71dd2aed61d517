//! Circuit breakers: a readable state machine that opens on outcomes and never on refusals.

use smallvec::SmallVec;

use crate::codec::{Damaged, Reader, Record, Write};
use crate::decision::Retry;
use crate::policy::BreakerSpec;
use crate::time::{Span, Timestamp};

/// How the dependency did, as far as the breaker is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// It answered.
    Success,
    /// It failed.
    Failure,
    /// The outcome says nothing about it: a bug of the caller, a refusal, a cancellation.
    Neutral,
}

/// Where a breaker stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Calls pass; so many failures in a row so far.
    Closed {
        /// Consecutive failures.
        fails: u32,
    },
    /// Nothing passes before this instant.
    Open {
        /// The end of the pause.
        until: Timestamp,
    },
    /// A fixed number of probes passes, each on a lease.
    HalfOpen {
        /// Probes that have not reported, each with the end of its lease.
        probes: SmallVec<[(u32, Timestamp); 1]>,
        /// Probes that succeeded.
        succeeded: u32,
    },
}

impl Phase {
    /// The word used in lists and messages.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Closed { .. } => "closed",
            Self::Open { .. } => "open",
            Self::HalfOpen { .. } => "half_open",
        }
    }
}

/// A breaker's record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Breaker {
    phase: Phase,
    /// Grows at every change of phase: results of calls admitted before it are late and do not count.
    generation: u32,
    /// Numbers the probes.
    next_probe: u32,
    /// Admitted calls that have not reported: the record stays for their outcomes.
    running: u32,
    changed: Timestamp,
}

/// What an admitted call carries so that its outcome counts in the right phase, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    generation: u32,
    probe: Option<u32>,
}

/// The part of a breaker's policy that outcomes need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    max_fails: u32,
    probes: u32,
    reset: Span,
    probe_lease: Span,
}

impl Thresholds {
    /// Opens after `max_fails` failures in a row for `reset`, then lets `probes` calls through, each on a lease.
    pub const fn new(max_fails: u32, reset: Span, probes: u32, probe_lease: Span) -> Self {
        Self { max_fails, probes, reset, probe_lease }
    }
}

impl From<&BreakerSpec> for Thresholds {
    fn from(spec: &BreakerSpec) -> Self {
        let (max_fails, probes) = (spec.max_fails, spec.probes);
        Self { max_fails, probes, reset: spec.reset, probe_lease: spec.probe_lease }
    }
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            phase: Phase::Closed { fails: 0 },
            generation: 0,
            next_probe: 0,
            running: 0,
            changed: Timestamp::MIN,
        }
    }
}

impl Breaker {
    /// Where it stands.
    pub fn phase(&self) -> &Phase {
        &self.phase
    }

    /// Lets time pass: an open breaker turns half-open after its pause, and a lost probe counts as a failure.
    #[inline]
    pub fn advance(&mut self, now: Timestamp, thresholds: Thresholds) {
        match &self.phase {
            Phase::Closed { .. } => {}
            Phase::Open { until } if now >= *until => {
                self.enter(Phase::HalfOpen { probes: SmallVec::new(), succeeded: 0 }, now);
            }
            Phase::HalfOpen { probes, .. } => {
                let lost = probes.iter().map(|&(_, lease)| lease).filter(|lease| *lease <= now).min();
                if let Some(lost) = lost {
                    // From the end of the lease and not from now: whoever looks, and however often, sees the same pause.
                    self.enter(Phase::Open { until: lost.after(thresholds.reset) }, now);
                    self.advance(now, thresholds);
                }
            }
            Phase::Open { .. } => {}
        }
    }

    /// Why nothing more passes now; `None` when a call does. The breaker must have been advanced to `now`.
    #[inline]
    pub fn refusal(&self, now: Timestamp, thresholds: Thresholds) -> Option<Retry> {
        match &self.phase {
            Phase::Closed { .. } => None,
            Phase::Open { until } => Some(Retry::After(until.since(now))),
            Phase::HalfOpen { probes, succeeded } => {
                let admitted = probes.len() as u64 + u64::from(*succeeded);
                (admitted >= u64::from(thresholds.probes)).then_some(Retry::Unknown)
            }
        }
    }

    /// Admits a call that [`refusal`](Self::refusal) does not refuse.
    pub fn admit(&mut self, now: Timestamp, thresholds: Thresholds) -> Ticket {
        let probe = match &mut self.phase {
            Phase::HalfOpen { probes, .. } => {
                self.next_probe = self.next_probe.wrapping_add(1);
                probes.push((self.next_probe, now.after(thresholds.probe_lease)));
                Some(self.next_probe)
            }
            Phase::Closed { .. } | Phase::Open { .. } => None,
        };
        self.running = self.running.saturating_add(1);
        Ticket { generation: self.generation, probe }
    }

    /// Counts the outcome of an admitted call; a late one, from before the last change of phase, does nothing.
    pub fn report(&mut self, ticket: Ticket, health: Health, now: Timestamp, thresholds: Thresholds) {
        self.advance(now, thresholds);
        self.running = self.running.saturating_sub(1);
        if ticket.generation != self.generation {
            return;
        }
        let open = Phase::Open { until: now.after(thresholds.reset) };
        match (&mut self.phase, health) {
            (Phase::Closed { fails }, Health::Success) => *fails = 0,
            (Phase::Closed { fails }, Health::Failure) => {
                *fails = fails.saturating_add(1);
                self.changed = now;
                if *fails >= thresholds.max_fails {
                    self.enter(open, now);
                }
            }
            (Phase::HalfOpen { .. }, Health::Failure) => self.enter(open, now),
            (Phase::HalfOpen { probes, succeeded }, health) => {
                let Some(at) = probes.iter().position(|&(id, _)| Some(id) == ticket.probe) else { return };
                probes.remove(at);
                if health == Health::Success {
                    *succeeded += 1;
                    if *succeeded >= thresholds.probes {
                        self.enter(Phase::Closed { fails: 0 }, now);
                    }
                }
            }
            (Phase::Closed { .. }, Health::Neutral) | (Phase::Open { .. }, _) => {}
        }
    }

    /// Closes the breaker by hand; results of calls admitted before are late.
    pub fn reset(&mut self) {
        self.enter(Phase::Closed { fails: 0 }, self.changed);
    }

    /// When the record may be forgotten: a closed breaker without failures and without running calls says nothing.
    pub fn expires(&self) -> Timestamp {
        match self.phase {
            Phase::Closed { fails: 0 } if self.running == 0 => self.changed,
            _ => Timestamp::MAX,
        }
    }

    fn enter(&mut self, phase: Phase, now: Timestamp) {
        self.phase = phase;
        self.generation = self.generation.wrapping_add(1);
        self.changed = now;
    }
}

const VERSION: u8 = 1;

impl Record for Breaker {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(VERSION);
        match &self.phase {
            Phase::Closed { fails } => {
                out.push(0);
                out.number((*fails).into());
            }
            Phase::Open { until } => {
                out.push(1);
                out.stamp(*until);
            }
            Phase::HalfOpen { probes, succeeded } => {
                out.push(2);
                out.number((*succeeded).into());
                out.number(probes.len() as u128);
                for (probe, lease) in probes {
                    out.number((*probe).into());
                    out.stamp(*lease);
                }
            }
        }
        out.number(self.generation.into());
        out.number(self.next_probe.into());
        out.number(self.running.into());
        out.stamp(self.changed);
    }

    fn decode(bytes: &[u8]) -> Result<Self, Damaged> {
        let mut bytes = Reader::new(bytes, VERSION)?;
        let phase = match bytes.small::<u8>()? {
            0 => Phase::Closed { fails: bytes.small()? },
            1 => Phase::Open { until: bytes.stamp()? },
            2 => {
                let (succeeded, count) = (bytes.small()?, bytes.small::<u32>()?);
                let probe = |_| Ok((bytes.small()?, bytes.stamp()?));
                Phase::HalfOpen { probes: (0..count).map(probe).collect::<Result<_, Damaged>>()?, succeeded }
            }
            _ => return Err(Damaged::Value("no such phase of a breaker")),
        };
        let (generation, next_probe, running) = (bytes.small()?, bytes.small()?, bytes.small()?);
        let changed = bytes.stamp()?;
        bytes.end()?;
        Ok(Self { phase, generation, next_probe, running, changed })
    }
}

impl Ticket {
    pub(crate) fn encode(self, out: &mut Vec<u8>) {
        out.number(self.generation.into());
        out.flag(self.probe.is_some());
        self.probe.into_iter().for_each(|probe| out.number(probe.into()));
    }

    pub(crate) fn decode(bytes: &mut Reader<'_>) -> Result<Self, Damaged> {
        let generation = bytes.small()?;
        let probe = if bytes.flag()? { Some(bytes.small()?) } else { None };
        Ok(Self { generation, probe })
    }
}

impl Thresholds {
    pub(crate) fn encode(self, out: &mut Vec<u8>) {
        out.number(self.max_fails.into());
        out.number(self.probes.into());
        out.span(self.reset);
        out.span(self.probe_lease);
    }

    pub(crate) fn decode(bytes: &mut Reader<'_>) -> Result<Self, Damaged> {
        let (max_fails, probes) = (bytes.small()?, bytes.small()?);
        Ok(Self { max_fails, probes, reset: bytes.span()?, probe_lease: bytes.span()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thresholds(probes: u32) -> Thresholds {
        Thresholds { max_fails: 2, probes, reset: Span::from_nanos(100), probe_lease: Span::from_nanos(50) }
    }

    /// Runs a script of `c`all, `+` success, `-` failure and `~` neutral (each of the oldest open call) and numbers
    /// (set the time); returns which calls passed.
    fn check(probes: u32, script: &str, expected: &str) {
        let thresholds = thresholds(probes);
        let (mut breaker, mut now) = (Breaker::default(), Timestamp::from_nanos(0));
        let (mut tickets, mut seen) = (Vec::new(), String::new());
        for word in script.split_whitespace() {
            let mut report = |health| breaker.report(tickets.remove(0), health, now, thresholds);
            match word {
                "+" => report(Health::Success),
                "-" => report(Health::Failure),
                "~" => report(Health::Neutral),
                "c" => {
                    breaker.advance(now, thresholds);
                    let passes = breaker.refusal(now, thresholds).is_none();
                    if passes {
                        tickets.push(breaker.admit(now, thresholds));
                    }
                    seen.push(if passes { 'y' } else { 'n' });
                }
                time => now = Timestamp::from_nanos(time.parse().unwrap()),
            }
        }
        assert_eq!(seen, expected, "for {script}");
    }

    #[test]
    fn phases() {
        check(1, "c - c + c - c - c", "yyyyn");
        check(1, "c - c - 99 c", "yyn");
        check(1, "c - c - 100 c c", "yyyn");
        check(1, "c - c - 100 c + c c", "yyyyy");
        check(1, "c - c - 100 c - c 200 c", "yyyny");
    }

    #[test]
    fn probes() {
        // A neutral probe gives its place back.
        check(1, "c - c - 100 c ~ c c", "yyyyn");
        // A lost probe is a failure.
        check(1, "c - c - 100 c 150 c 250 c", "yyyny");
        // Two probes must both succeed, and no third is let through.
        check(2, "c - c - 100 c c c", "yyyyn");
        check(2, "c - c - 100 c + c c", "yyyyn");
        check(2, "c - c - 100 c c + + c c c", "yyyyyyy");
    }

    #[test]
    fn late_results_do_not_close_it() {
        // The third call was admitted while closed and succeeds after the breaker opened ...
        check(1, "c c c - - + c", "yyyn");
        // ... or after it turned half-open, where only the probe's result counts.
        check(1, "c c c - - 100 c + c", "yyyyn");
    }
}
