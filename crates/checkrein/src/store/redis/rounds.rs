//! Rounds to the server: try, hear what it says, and try again with what it sent, until every group has its answer.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use redis::Value as Reply;

use super::group::{Group, How, Said};
use super::hub::Hub;
use super::job::Planned;
use super::link::{Link, LinkError, Request, Standing};
use super::name::{self, Tag};
use super::outbox::Outbox;
use super::record::{Fate, Name, Value};
use super::script::Script;
use super::stage::Setting;
use super::time::Estimate;
use crate::store::StoreError;

/// A group and what became of it.
pub(super) type Ended = (Group, Result<(), StoreError>);

/// When tries were made, sent and answered.
#[derive(Clone, Copy, Debug)]
struct Round {
    began: Instant,
    sent: Instant,
    received: Instant,
}

/// The longest pause before another try for a record that somebody else has claimed.
const MOST_PAUSE: Duration = Duration::from_micros(500);
/// So many members are added to a set by one command.
const MEMBERS: usize = 256;

impl Hub {
    /// Runs groups until each is committed or has failed. Those who share nothing go out together.
    pub(super) fn run_groups(self: &Arc<Self>, lane: &mut Link, groups: Vec<Group>) -> Vec<Ended> {
        let mut ended: Vec<Ended> = Vec::with_capacity(groups.len());
        let mut waiting = groups;
        while !waiting.is_empty() {
            let began = Instant::now();
            let (mut sent, mut requests) = (Vec::new(), Vec::new());
            for mut group in waiting.drain(..) {
                match self.attempt(lane, &mut group) {
                    Ok(_) if group.is_answered() => ended.push((group, Ok(()))),
                    Ok(request) => {
                        requests.push(request);
                        sent.push(group);
                    }
                    Err(error) => ended.push((group, Err(error))),
                }
            }
            let deadline = sent.iter().filter_map(Group::deadline).min().unwrap_or_else(Instant::now);
            let before = Instant::now();
            let replies = if requests.is_empty() { Vec::new() } else { lane.run(&requests, deadline) };
            let round = Round { began, sent: before, received: Instant::now() };
            for (mut group, reply) in sent.into_iter().zip(replies) {
                match self.heard(lane, &mut group, reply, round) {
                    Ok(true) => {
                        self.settle(&mut group);
                        ended.push((group, Ok(())));
                    }
                    Ok(false) => waiting.push(group),
                    // One record that cannot be read is the trouble of those who need it, not of all.
                    Err(StoreError::Damaged(_)) if group.jobs.len() > 1 => {
                        waiting.extend(group.split(&self.options.prefix));
                    }
                    Err(error) => ended.push((group, Err(error))),
                }
            }
            let tries = waiting.iter().filter(|group| group.is_claimed()).map(|group| group.attempts).max();
            if let Some(tries) = tries {
                // The others of the batch wait as well: they came with this one.
                self.pause(tries);
            }
        }
        ended
    }

    /// Lets whoever has claimed a record pass: a random part of a pause that grows with the tries.
    fn pause(&self, tries: u32) {
        let most = (Duration::from_micros(25) * tries).min(MOST_PAUSE);
        let part = self.next_id() % 1_024;
        std::thread::sleep(most * u32::try_from(part).unwrap_or(0) / 1_024);
    }

    fn attempt(&self, lane: &mut Link, group: &mut Group) -> Result<Request, StoreError> {
        let Some(tag) = group.jobs.first().map(|job| job.tag) else {
            return Err(StoreError::NotCommitted("nothing to do".to_owned()));
        };
        let deadline = group.deadline().unwrap_or_else(Instant::now);
        if Instant::now() >= deadline {
            let tries = group.attempts;
            let text = format!(
                "not decided within {} s ({tries} tries: others write the same records, or the server is slow)",
                self.options.deadline.as_secs_f32()
            );
            return Err(StoreError::NotCommitted(text));
        }
        let standing = self.meet(lane, tag, deadline)?;
        let now =
            self.now(tag).ok_or_else(|| StoreError::NotCommitted("the time is not known".to_owned()))?;
        let families = Arc::clone(&self.families.lock());
        let setting = Setting {
            prefix: &self.options.prefix,
            tag,
            now,
            families: &families,
            standing,
            accept_failover_loss: self.options.accept_failover_loss,
            drafts: self.outbox.as_ref().and_then(Outbox::drafts),
        };
        let how = How {
            setting,
            is_given: self.options.clock.is_some(),
            max_keys: self.options.max_keys,
            id: self.next_id(),
        };
        Ok(group.attempt(&how, &mut || self.next_permit()))
    }

    /// Makes sure that a tag is known to the store, and its server's standing and time to this process.
    pub(super) fn meet(&self, lane: &mut Link, tag: Tag, deadline: Instant) -> Result<Standing, StoreError> {
        let deadline = self.soon(deadline);
        let standing = lane.standing(tag, deadline).map_err(not_committed)?;
        if self.options.clock.is_none() && !self.estimates.lock().contains_key(&tag) {
            let mut request = Request::new(Script::Look, tag);
            request.arg(b"get");
            let sent = Instant::now();
            let reply = one(lane, request, deadline)?;
            let micros = reply.first().map_or(0, number);
            self.estimates.lock().insert(tag, Estimate::first(sent, Instant::now(), micros));
        }
        if tag != Tag::STORE {
            if !self.tags.lock().contains(&tag) {
                self.introduce(lane, tag, deadline)?;
            }
            self.define(lane, deadline)?;
        }
        Ok(standing)
    }

    /// Writes a tag down, so that every process finds it.
    fn introduce(&self, lane: &mut Link, tag: Tag, deadline: Instant) -> Result<(), StoreError> {
        lane.standing(Tag::STORE, deadline).map_err(not_committed)?;
        let mut request = Request::new(Script::Commit, Tag::STORE);
        request.key(name::tags_key(&self.options.prefix).as_bytes());
        for arg in ["", "", "0", "0", "", "1", "SADD", "1"] {
            request.arg(arg.as_bytes());
        }
        request.arg(tag.to_string().as_bytes());
        match lane.run(&[request], deadline).pop() {
            Some(Ok(Reply::Int(_))) => {
                self.tags.lock().insert(tag);
                Ok(())
            }
            Some(Err(error)) => Err(not_committed(error)),
            _ => Err(strange()),
        }
    }

    /// Writes down what this process counts, so that every process can name the records it finds.
    fn define(&self, lane: &mut Link, deadline: Instant) -> Result<(), StoreError> {
        let families = Arc::clone(&self.families.lock());
        let (done, count) = (self.defined.load(Ordering::Acquire), families.len());
        if done >= count {
            return Ok(());
        }
        lane.standing(Tag::STORE, deadline).map_err(not_committed)?;
        let mut request = Request::new(Script::Commit, Tag::STORE);
        request.key(name::families_key(&self.options.prefix).as_bytes());
        ["", "", "0", "0", ""].iter().for_each(|arg| request.arg(arg.as_bytes()));
        let definitions: Vec<Vec<u8>> =
            families.iter().skip(done).map(|(_, known)| known.key.to_bytes()).collect();
        for members in definitions.chunks(MEMBERS) {
            request.number(members.len() as i64);
            ["SADD", "1"].iter().for_each(|arg| request.arg(arg.as_bytes()));
            members.iter().for_each(|member| request.arg(member));
        }
        match lane.run(&[request], deadline).pop() {
            Some(Ok(Reply::Int(_))) => {
                self.defined.fetch_max(count, Ordering::AcqRel);
                Ok(())
            }
            Some(Err(error)) => Err(not_committed(error)),
            _ => Err(strange()),
        }
    }

    /// Whether a try was committed; `false` when it is to be made again.
    fn heard(
        &self,
        lane: &mut Link,
        group: &mut Group,
        reply: Result<Reply, LinkError>,
        round: Round,
    ) -> Result<bool, StoreError> {
        let Some(tag) = group.jobs.first().map(|job| job.tag) else { return Ok(true) };
        let prefix = &self.options.prefix;
        match reply {
            Ok(reply) => {
                let (said, micros) = group.hear(&reply, prefix)?;
                let late = matches!(said, Said::Late);
                if let Some(estimate) = self.estimates.lock().get_mut(&tag) {
                    estimate.learn(round.sent, round.received, micros);
                    let took = round.received.saturating_duration_since(round.began);
                    if late { estimate.widen(took) } else { estimate.relax() }
                }
                match said {
                    Said::Committed => return Ok(true),
                    Said::Full(index) => {
                        if !self.make_room(lane, index, group.deadline())? {
                            group.is_full(index);
                        }
                    }
                    Said::Late | Said::Conflict => {}
                }
                Ok(false)
            }
            Err(LinkError::Changed) => {
                self.forget(tag);
                group.forget(prefix);
                Ok(false)
            }
            Err(LinkError::NotRun(text) | LinkError::Refused(text)) => Err(StoreError::NotCommitted(text)),
            Err(LinkError::Unknown(text)) => self.find_out(lane, group, tag, &text),
        }
    }

    /// A try got no reply: whether it was done is asked until the server's time is beyond the try's bounds.
    fn find_out(&self, lane: &mut Link, group: &mut Group, tag: Tag, text: &str) -> Result<bool, StoreError> {
        let prefix = &self.options.prefix;
        let deadline = group.deadline().unwrap_or_else(Instant::now);
        let families = Arc::clone(&self.families.lock());
        let unknown = |hub: &Self, group: &Group| {
            if !group.writes() {
                return StoreError::NotCommitted(text.to_owned());
            }
            hub.orphan(group);
            StoreError::Unknown(text.to_owned())
        };
        while Instant::now() < deadline {
            let Ok(standing) = lane.standing(tag, deadline) else {
                std::thread::sleep(Duration::from_millis(1));
                continue;
            };
            let now = checkrein_core::time::Timestamp::MIN.into();
            let (accept_failover_loss, drafts) = (false, None);
            let setting =
                Setting { prefix, tag, now, families: &families, standing, accept_failover_loss, drafts };
            let sent = Instant::now();
            let reply = match lane.run(&[group.look(&setting)], deadline).pop() {
                Some(Ok(Reply::Array(reply))) => reply,
                Some(Err(LinkError::Changed)) => {
                    // Another server, or another life of it: what was sent to the one before is gone with it.
                    self.forget(tag);
                    continue;
                }
                _ => continue,
            };
            let Some((micros, records)) = reply.split_first() else { continue };
            let micros = number(micros);
            if let Some(estimate) = self.estimates.lock().get_mut(&tag) {
                estimate.learn(sent, Instant::now(), micros);
            }
            let over = group.tried.fence.is_none_or(|fence| micros > fence);
            match group.fate(records, prefix)? {
                Fate::Done => return Ok(true),
                Fate::Lost => return group.install(records, prefix).map(|()| false),
                // Until it is over the try may still be done: its own records are what it has then made.
                Fate::Open if over => return group.install(records, prefix).map(|()| false),
                Fate::Forgotten => return Err(unknown(self, group)),
                Fate::Open => std::thread::sleep(Duration::from_micros(500)),
            }
        }
        Err(unknown(self, group))
    }

    /// Remembers the permits of a try that may have been committed: they are released when that can be seen.
    fn orphan(&self, group: &Group) {
        self.owe(opened(group).map(|(number, names)| Planned { step: Self::not_started(number), names }));
    }

    /// Takes over what a committed try did to permits.
    fn settle(&self, group: &mut Group) {
        if let (Some(outbox), Some(job)) = (&self.outbox, group.jobs.first()) {
            outbox.pushed(job.tag, group.told() as u64);
            outbox.decided(std::mem::take(&mut group.tried.decided));
        }
        if group.tried.opened.is_empty() && group.tried.moved.is_empty() {
            return;
        }
        let mut open = self.open.lock();
        for ((number, names), (_, lease)) in opened(group).zip(&group.tried.opened) {
            open.put(number, names, *lease);
        }
        for (number, lease) in &group.tried.moved {
            open.moved(*number, *lease);
        }
    }
}

/// The permits that a try made, with the names of their records.
fn opened(group: &Group) -> impl Iterator<Item = (u64, Vec<Name>)> {
    group.tried.opened.iter().filter_map(|(number, _)| {
        let is_it = |name: &Name| name.kind == checkrein_core::policy::RecordKind::Permit;
        let record =
            group.records.iter().rev().find(|r| is_it(&r.name) && r.name.record == u128::from(*number))?;
        match &record.value {
            Some(Value::Permit(open)) => {
                Some((*number, std::iter::once(record.name).chain(open.records.iter().copied()).collect()))
            }
            _ => None,
        }
    })
}

pub(super) fn not_committed(error: LinkError) -> StoreError {
    StoreError::NotCommitted(error.to_string())
}

pub(super) fn strange() -> StoreError {
    StoreError::Unknown("the server gave an answer that is none".to_owned())
}

pub(super) fn number(reply: &Reply) -> i64 {
    if let Reply::Int(number) = reply { *number } else { 0 }
}

/// Runs one look, and returns what it says, the time in front.
pub(super) fn one(lane: &mut Link, request: Request, deadline: Instant) -> Result<Vec<Reply>, StoreError> {
    match lane.run(&[request], deadline).pop() {
        Some(Ok(Reply::Array(reply))) => Ok(reply),
        Some(Err(error)) => Err(not_committed(error)),
        _ => Err(strange()),
    }
}
