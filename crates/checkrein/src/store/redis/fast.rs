//! The short way for one rate limit on a record that many processes write all the time: the server counts the calls
//! behind the record's head as long as they surely fit. The core still decides every refusal, and takes over what was
//! counted whenever it writes the record.
//!
//! Measured before it was made: with eight processes of one caller each on one key it does four to seven times what
//! comparing and writing does; for one process it gains nothing, so it is used only after a try came too late.

use std::time::{Duration, Instant};

use checkrein_core::admission::Admission;
use checkrein_core::policy::RecordKind;
use checkrein_core::time::{Now, Span, Window};
use redis::Value as Reply;

use super::group::{Group, How, Tried, read, tail_of};
use super::job::Job;
use super::link::Request;
use super::record::Fate;
use super::script::Script;
use crate::store::{Step, StepResult, StoreError};

/// After a try came too late the short way is taken for so long.
const HOT: Duration = Duration::from_secs(1);
/// So many calls are counted behind a head at most: then the core writes them into it.
const MOST_BEHIND: i64 = 512;

/// So many tries wait for somebody else's claim to end.
const WAIT_FOR_CLAIM: u32 = 4;

/// What all jobs of a group ask for, where the short way can be taken.
struct Asked {
    calls: i64,
    max: u64,
    window: Span,
}

fn asked(jobs: &[Job]) -> Option<Asked> {
    let mut asked: Option<Asked> = None;
    for step in jobs.iter().flat_map(|job| &job.steps) {
        let Step::Admit(policy, _) = &step.step else { return None };
        let limit = policy.only_limit()?;
        let Window::Rolling(window) = limit.window else { return None };
        if !limit.cooldown.is_zero() {
            return None;
        }
        let all = asked.get_or_insert(Asked { calls: 0, max: limit.max_calls, window });
        if (all.max, all.window) != (limit.max_calls, window) {
            return None;
        }
        all.calls += 1;
    }
    asked.filter(|asked| asked.calls <= MOST_BEHIND)
}

impl Group {
    /// The short way, if it is to be taken.
    pub(super) fn attempt_fast(&mut self, how: &How<'_>) -> Option<Request> {
        let [record] = self.records.as_slice() else { return None };
        // A ledger is told by the commit, with the meters as they stand.
        let told = how.setting.drafts.is_some();
        if told || self.needs_core || record.hot_until.is_none_or(|until| Instant::now() >= until) {
            return None;
        }
        let asked = asked(&self.jobs)?;
        let Now { earliest, latest } = how.setting.now;
        let mut request = Request::new(Script::Fast, how.setting.tag);
        request.key(record.key.as_bytes());
        request.key(format!("{}:t", record.key).as_bytes());
        let fence = latest.nanos().div_euclid(1_000);
        let expires = if how.is_given {
            request.arg(b"");
            request.arg(b"");
            String::new()
        } else {
            request.number(earliest.nanos().div_euclid(1_000) - 1);
            request.number(fence);
            let until = latest.after(asked.window).after(Span::from_secs(1));
            (until.nanos().div_euclid(1_000_000) + 2).to_string()
        };
        request.number(asked.calls);
        request.number(i64::try_from(asked.max).unwrap_or(i64::MAX));
        request.number(MOST_BEHIND);
        request.arg(&how.id.to_be_bytes());
        let call = [latest.nanos().to_be_bytes(), how.id.to_be_bytes()].concat();
        request.arg(&call);
        request.arg(expires.as_bytes());
        let allowed = || StepResult::Admitted(Admission::allow(), None);
        let results = self.jobs.iter().map(|job| job.steps.iter().map(|_| allowed()).collect()).collect();
        let fence = (!how.is_given).then_some(fence);
        self.tried = Tried { results, id: how.id, is_fast: true, fence, ..Tried::default() };
        Some(request)
    }

    /// A try came too late, or the server could not say that there is room. Called when its records have been taken over.
    pub(super) fn lost(&mut self) {
        if self.tried.is_fast {
            // Whoever has claimed the record writes it at once, and then there is room again; unless it has ended, and
            // then the next one claims it.
            self.needs_core = !self.is_claimed() || self.attempts > WAIT_FOR_CLAIM;
        }
        let only = asked(&self.jobs).is_some();
        if let [record, ..] = self.records.as_mut_slice()
            && only
            && record.name.kind == RecordKind::Meter
        {
            record.hot_until = Some(Instant::now() + HOT);
        }
    }

    /// What became of calls whose counting got no reply: they are behind the head, or in it, or nowhere.
    ///
    /// # Errors
    /// A record that cannot be read.
    pub(super) fn fate_of_fast(&mut self, replies: &[Reply], prefix: &str) -> Result<Fate, StoreError> {
        let id = self.tried.id.to_be_bytes();
        if tail_of(replies).iter().any(|call| call.ends_with(&id)) {
            return Ok(Fate::Done);
        }
        self.needs_core = true;
        let Some(record) = self.records.first() else { return Ok(Fate::Forgotten) };
        let (before, now) = (record.version.writes, read(record.name, prefix, replies)?.version.writes);
        // Written into the head since: whether these were among them cannot be seen.
        Ok(if before == now { Fate::Open } else { Fate::Forgotten })
    }
}
