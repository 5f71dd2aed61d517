//! What is not on the way of a decision: leases that end, indexes, lists, and what people do with records.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use checkrein_core::key::{Family, Key, KeyRef};
use checkrein_core::ledger::entry::ShortId;
use checkrein_core::policy::RecordKind;
use checkrein_core::time::{Now, Span, Timestamp};
use redis::Value as Reply;

use super::group;
use super::hub::Hub;
use super::job::{Planned, Reply as Told};
use super::link::{Link, Request};
use super::name::{self, Tag};
use super::record::{Name, Rec, Value};
use super::rounds::{not_committed, number, one, strange};
use super::script::Script;
use crate::store::durable::FamilyKey;
use crate::store::{Cursor, Page, PermitId, RecordInfo, RecordState, Step, StepResult, StoreError};

/// So many tenants are looked after at a time.
const TAGS: usize = 32;
/// So many leases are moved on at a time.
const DUE: usize = 128;
/// Members of an index that are looked at in one script.
const PAGE: usize = 256;
/// An index with more members is not swept while a caller waits.
const MOST_PAGES: usize = 64;
/// A list, a collection or the like may take longer than a decision.
const LONG: Duration = Duration::from_secs(30);

impl Hub {
    /// A connection of its own for what takes longer, so that decisions do not wait behind it.
    pub(super) fn side_lane(&self) -> Link {
        Link::new(self.address.clone(), &self.options.prefix)
    }

    /// However long the whole may take, no request may take longer than a decision.
    pub(super) fn soon(&self, deadline: Instant) -> Instant {
        deadline.min(Instant::now() + self.options.deadline)
    }

    fn ask(&self, lane: &mut Link, request: Request, deadline: Instant) -> Result<Vec<Reply>, StoreError> {
        one(lane, request, self.soon(deadline))
    }

    /// Moves on this process's permits whose lease has ended.
    pub(super) fn expire_own(self: &Arc<Self>) {
        let Some(due) = self.open.lock().next_due() else { return };
        let Some(now) = self.any_now() else { return };
        if due > now.earliest {
            return;
        }
        let numbers = self.open.lock().due(now.earliest, DUE);
        for number in numbers {
            self.expire(number);
        }
    }

    fn expire(self: &Arc<Self>, number: u64) {
        let Some(names) = self.open.lock().names(number) else { return };
        let Some(tag) = names.first().map(|name| name.tag) else { return };
        let step = Step::Expire(PermitId::from_number(number));
        if let Ok(results) = self.run(tag, vec![Planned { step, names }])
            && let [StepResult::Refused(_)] = results.as_slice()
        {
            // Somebody else has seen to it.
            self.open.lock().moved(number, None);
        }
    }

    /// What is due without anybody asking. Whatever cannot be done now is tried again the next time.
    pub(super) fn keep_house(self: &Arc<Self>) {
        self.expire_own();
        let mut owed = std::mem::take(&mut *self.owed.lock());
        while let Some(planned) = owed.pop_front() {
            // What cannot be done now is owed again; whatever is refused has been done, or can no longer be.
            let Some(tag) = planned.names.first().map(|name| name.tag) else { continue };
            if self.run(tag, vec![planned]).is_err() {
                // The rest could not be done either.
                self.owe(owed);
                break;
            }
        }
        let mut tags: Vec<Tag> = self.tags.lock().iter().copied().collect();
        tags.sort_unstable();
        let begin = self.next_tag.fetch_add(TAGS, Ordering::Relaxed) % tags.len().max(1);
        if self.must_join.swap(false, Ordering::AcqRel) && self.join().is_err() {
            self.must_join.store(true, Ordering::Release);
        }
        let mut house = self.house.lock();
        for tag in tags.iter().cycle().skip(begin).take(tags.len().min(TAGS)) {
            let done = self.expire_of_others(&mut house, *tag);
            if done.and_then(|()| self.sweep_some(&mut house, *tag)).is_err() {
                // Whatever it is: the next time will do.
                break;
            }
        }
    }

    /// Moves on the permits of a tag whose lease has ended, whoever they are from.
    fn expire_of_others(self: &Arc<Self>, lane: &mut Link, tag: Tag) -> Result<(), StoreError> {
        let deadline = Instant::now() + self.options.deadline;
        self.meet(lane, tag, deadline)?;
        let prefix = &self.options.prefix;
        let mut request = Request::new(Script::Look, tag);
        request.key(name::due_key(prefix, tag).as_bytes());
        request.arg(b"due");
        let given = self.options.clock.as_ref().map(|clock| clock.now().nanos().div_euclid(1_000_000));
        request.arg(given.map(|millis| millis.to_string()).unwrap_or_default().as_bytes());
        request.number(DUE as i64);
        let reply = self.ask(lane, request, deadline)?;
        for member in reply.iter().skip(1) {
            let Some(number) = text(member).and_then(|member| member.parse::<u64>().ok()) else { continue };
            if self.open.lock().names(number).is_none() {
                let record = self.look(lane, Name::permit(tag, number), deadline)?;
                if record.value.is_none() {
                    self.drop_due(lane, tag, number, deadline)?;
                    continue;
                }
                self.adopt(&record);
            }
            self.expire(number);
        }
        Ok(())
    }

    /// A member without a permit was left by a commit that failed half way.
    fn drop_due(&self, lane: &mut Link, tag: Tag, number: u64, deadline: Instant) -> Result<(), StoreError> {
        let prefix = &self.options.prefix;
        let mut request = Request::new(Script::Commit, tag);
        request.key(name::permit_key(prefix, tag, number).as_bytes());
        request.key(name::due_key(prefix, tag).as_bytes());
        for arg in ["", "", "1", "0", "", "", "1", "ZREM", "2"] {
            request.arg(arg.as_bytes());
        }
        request.arg(number.to_string().as_bytes());
        lane.run(&[request], deadline).pop().map_or(Ok(()), |reply| reply.map(drop).map_err(not_committed))
    }

    /// One record as the server has it.
    fn look(&self, lane: &mut Link, name: Name, deadline: Instant) -> Result<Rec, StoreError> {
        let prefix = &self.options.prefix;
        let mut request = Request::new(Script::Look, name.tag);
        request.key(name.key(prefix).as_bytes());
        request.arg(b"get");
        let reply = self.ask(lane, request, deadline)?;
        group::read(name, prefix, reply.get(1..).unwrap_or_default())
    }

    /// The records that resolving an operation concerns: its own, and its permit's.
    pub(super) fn names_to_resolve(&self, operation: Name) -> Result<Vec<Name>, StoreError> {
        let (mut lane, deadline) = (self.side_lane(), Instant::now() + self.options.deadline);
        self.meet(&mut lane, operation.tag, deadline)?;
        let mut names = vec![operation];
        let record = self.look(&mut lane, operation, deadline)?;
        if record.permit != 0 {
            let permit = Name::permit(operation.tag, record.permit);
            names.push(permit);
            if let Some(Value::Permit(open)) = self.look(&mut lane, permit, deadline)?.value {
                names.extend(open.records);
            }
        }
        Ok(names)
    }

    /// Removes the members of an index whose records are gone; `true` when there is room again.
    pub(super) fn make_room(
        &self,
        lane: &mut Link,
        index: Name,
        deadline: Option<Instant>,
    ) -> Result<bool, StoreError> {
        let deadline = deadline.unwrap_or_else(Instant::now);
        if self.options.clock.is_some() {
            // By a given time nothing expires on the server.
            return Ok(self.collect_index(lane, index, deadline)? > 0);
        }
        let (mut after, mut removed) = (String::new(), 0);
        for _ in 0..MOST_PAGES {
            let (gone, next) = self.sweep_page(lane, index, &after, deadline)?;
            removed += gone;
            match next {
                Some(next) => after = next,
                None => break,
            }
        }
        Ok(removed > 0)
    }

    /// Removes the members of a page of an index whose records are gone: how many, and the member to go on after.
    fn sweep_page(
        &self,
        lane: &mut Link,
        index: Name,
        after: &str,
        deadline: Instant,
    ) -> Result<(i64, Option<String>), StoreError> {
        let prefix = &self.options.prefix;
        let mut request = Request::new(Script::Look, index.tag);
        request.key(name::index_key(prefix, index.tag, index.kind, index.family).as_bytes());
        request.arg(b"sweep");
        request.arg(after.as_bytes());
        request.number(PAGE as i64);
        request.arg(base_of(prefix, index).as_bytes());
        let reply = self.ask(lane, request, deadline)?;
        let next = reply.get(1).and_then(text).map(str::to_owned);
        Ok((reply.get(2).map_or(0, number), next))
    }

    /// Sweeps the next page of each index of a tag: what has expired is not listed for ever.
    fn sweep_some(&self, lane: &mut Link, tag: Tag) -> Result<(), StoreError> {
        if self.options.clock.is_some() {
            return Ok(());
        }
        let deadline = Instant::now() + self.options.deadline;
        let families = Arc::clone(&self.families.lock());
        for (_, known) in families.iter() {
            let index = Name { tag, kind: known.key.kind, family: known.digest, record: 0 };
            let after = self.swept.lock().remove(&index).unwrap_or_default();
            if let (_, Some(next)) = self.sweep_page(lane, index, &after, deadline)? {
                self.swept.lock().insert(index, next);
            }
        }
        Ok(())
    }

    /// A page of an index: the records, and the member to go on after.
    fn page(
        &self,
        lane: &mut Link,
        index: Name,
        after: &str,
        limit: usize,
        deadline: Instant,
    ) -> Result<(Vec<Rec>, Option<String>), StoreError> {
        let prefix = &self.options.prefix;
        let mut request = Request::new(Script::Look, index.tag);
        request.key(name::index_key(prefix, index.tag, index.kind, index.family).as_bytes());
        request.arg(b"list");
        request.arg(after.as_bytes());
        request.number(limit as i64);
        request.arg(base_of(prefix, index).as_bytes());
        let reply = self.ask(lane, request, deadline)?;
        let members = reply.get(1..).unwrap_or_default();
        let mut records = Vec::new();
        for entry in members.chunks(1 + group::REPLIES) {
            let [member, record @ ..] = entry else { continue };
            let number = text(member).and_then(|member| u128::from_str_radix(member, 16).ok());
            let Some(number) = number else { continue };
            match group::read(Name { record: number, ..index }, prefix, record) {
                Ok(record) => records.push(record),
                // Left out: whoever decides on it is told.
                Err(StoreError::Damaged(_)) => {}
                Err(error) => return Err(error),
            }
        }
        let full = members.len() / (1 + group::REPLIES) == limit;
        let last = members.chunks(1 + group::REPLIES).last().and_then(|entry| entry.first()).and_then(text);
        Ok((records, last.filter(|_| full).map(str::to_owned)))
    }

    /// All records of an index, page by page.
    fn each_page(
        &self,
        lane: &mut Link,
        index: Name,
        deadline: Instant,
        mut on: impl FnMut(Vec<Rec>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut after = String::new();
        loop {
            let (records, next) = self.page(lane, index, &after, PAGE, deadline)?;
            on(records)?;
            match next {
                Some(next) => after = next,
                None => return Ok(()),
            }
        }
    }

    /// Removes the records of an index that are idle, and members without a record; returns how many went.
    fn collect_index(&self, lane: &mut Link, index: Name, deadline: Instant) -> Result<usize, StoreError> {
        let prefix = self.options.prefix.clone();
        let now = self.now(index.tag).map_or(Timestamp::MIN, |now: Now| now.earliest);
        let mut requests = Vec::new();
        self.each_page(lane, index, deadline, |records| {
            for record in records.iter().filter(|record| record.expires_at() <= now) {
                let mut request = Request::new(Script::Commit, index.tag);
                request.key(record.key.as_bytes());
                request.key(format!("{}:h", record.key).as_bytes());
                request.key(format!("{}:t", record.key).as_bytes());
                request.key(name::index_key(&prefix, index.tag, index.kind, index.family).as_bytes());
                ["", "", "1", "0", ""].iter().for_each(|arg| request.arg(arg.as_bytes()));
                request.arg(&record.expected());
                for arg in ["0", "DEL", "1", "0", "DEL", "2", "0", "DEL", "3", "1", "ZREM", "4"] {
                    request.arg(arg.as_bytes());
                }
                request.arg(record.name.member().as_bytes());
                requests.push(request);
            }
            Ok(())
        })?;
        let mut removed = 0;
        for batch in requests.chunks(PAGE) {
            let replies = lane.run(batch, self.soon(deadline));
            removed += replies.iter().filter(|reply| matches!(reply, Ok(Reply::Int(_)))).count();
        }
        Ok(removed)
    }

    /// Removes every idle record and moves on every permit whose lease has ended; returns how many records went.
    pub(super) fn collect(self: &Arc<Self>) -> Result<usize, StoreError> {
        self.expire_own();
        let (mut lane, deadline) = (self.side_lane(), Instant::now() + LONG);
        let mut removed = 0;
        for index in self.indexes(&mut lane, None, deadline)? {
            if self.options.clock.is_none() {
                self.make_room(&mut lane, index, Some(deadline))?;
            }
            removed += self.collect_index(&mut lane, index, deadline)?;
        }
        Ok(removed)
    }

    /// All tags that any process has used.
    pub(super) fn all_tags(&self, lane: &mut Link, deadline: Instant) -> Result<Vec<Tag>, StoreError> {
        self.meet(lane, Tag::STORE, deadline)?;
        let mut request = Request::new(Script::Look, Tag::STORE);
        request.key(name::tags_key(&self.options.prefix).as_bytes());
        request.arg(b"members");
        let reply = self.ask(lane, request, deadline)?;
        let mut tags: Vec<Tag> = reply.iter().filter_map(text).filter_map(Tag::parse).collect();
        tags.sort_unstable();
        self.tags.lock().extend(&tags);
        Ok(tags)
    }

    /// Takes over the definitions that any process has written down, so that its records can be named here.
    pub(super) fn learn(&self, lane: &mut Link, deadline: Instant) -> Result<(), StoreError> {
        self.meet(lane, Tag::STORE, deadline)?;
        let mut request = Request::new(Script::Look, Tag::STORE);
        request.key(name::families_key(&self.options.prefix).as_bytes());
        request.arg(b"members");
        let reply = one(lane, request, deadline)?;
        let mut families = self.families.lock();
        for definition in reply.iter().skip(1) {
            let Reply::BulkString(bytes) = definition else { continue };
            // Of a newer version, or not ours: its records stay unnamed.
            let Ok(key) = FamilyKey::from_bytes(bytes) else { continue };
            if families.by_digest(name::family(&key)).is_none() {
                Arc::make_mut(&mut families).intern(&key, Span::ZERO);
            }
        }
        Ok(())
    }

    /// Every family that anybody counts, by its number in this process.
    pub(super) fn all_families(&self) -> Result<Vec<(Family, FamilyKey)>, StoreError> {
        self.learn(&mut self.side_lane(), Instant::now() + LONG)?;
        let families = Arc::clone(&self.families.lock());
        Ok(families.iter().map(|(family, known)| (family, known.key.clone())).collect())
    }

    /// Every index of the families that anybody counts, of one kind or of all.
    fn indexes(
        &self,
        lane: &mut Link,
        kind: Option<RecordKind>,
        deadline: Instant,
    ) -> Result<Vec<Name>, StoreError> {
        let tags = self.all_tags(lane, deadline)?;
        self.learn(lane, deadline)?;
        let families = Arc::clone(&self.families.lock());
        let mut indexes = Vec::new();
        for tag in tags {
            self.meet(lane, tag, deadline)?;
            for (_, known) in
                families.iter().filter(|(_, known)| kind.is_none_or(|kind| kind == known.key.kind))
            {
                indexes.push(Name { tag, kind: known.key.kind, family: known.digest, record: 0 });
            }
        }
        Ok(indexes)
    }

    /// Resets every record of a family; returns how many.
    pub(super) fn reset_all(self: &Arc<Self>, kind: RecordKind, family: Family) -> Result<usize, StoreError> {
        let (mut lane, deadline) = (self.side_lane(), Instant::now() + LONG);
        let digest = self.families.lock().get(family).map(|known| known.digest);
        let indexes = self.indexes(&mut lane, Some(kind), deadline)?;
        let mut count = 0;
        for index in indexes.into_iter().filter(|index| Some(index.family) == digest) {
            let mut names = Vec::new();
            self.each_page(&mut lane, index, deadline, |records| {
                names.extend(records.iter().filter(|r| r.value.is_some()).map(|r| (r.name, r.tuple.clone())));
                Ok(())
            })?;
            for (name, (tenant, key)) in names {
                let step = Step::Reset(kind, Key::new(KeyRef { family, tenant: &tenant, key: &key }));
                let results = self.run(index.tag, vec![Planned { step, names: vec![name] }])?;
                count += results.iter().filter(|result| matches!(result, StepResult::Done)).count();
            }
        }
        if let Some(outbox) = &self.outbox {
            let gate = self.families.lock().get(family).map(|known| known.key.name.clone());
            let gate = gate.unwrap_or_default();
            outbox.event("reset_all", &[("gate", &gate), ("records", &count.to_string())])?;
        }
        Ok(count)
    }

    /// At most `limit` records of a kind after a cursor, and where to go on.
    pub(super) fn scan(&self, kind: RecordKind, cursor: &Cursor, limit: usize) -> Result<Page, StoreError> {
        let (mut lane, deadline) = (self.side_lane(), Instant::now() + LONG);
        if kind == RecordKind::Permit {
            return self.scan_permits(&mut lane, cursor, limit, deadline);
        }
        let indexes = self.indexes(&mut lane, Some(kind), deadline)?;
        let mut after = cursor.after.as_deref().map(|after| String::from_utf8_lossy(after).into_owned());
        let mut found = Vec::new();
        for (place, index) in indexes.iter().enumerate().skip(cursor.shard) {
            while found.len() < limit {
                let from = after.take().unwrap_or_default();
                let (records, next) = self.page(&mut lane, *index, &from, limit - found.len(), deadline)?;
                found.extend(records.iter().filter_map(|record| self.info(record)));
                match next {
                    Some(next) => after = Some(next),
                    None => break,
                }
            }
            if found.len() >= limit {
                let (shard, after) = match after {
                    Some(after) => (place, Some(after.into_bytes().into_boxed_slice())),
                    None => (place + 1, None),
                };
                let next = (shard < indexes.len()).then(|| Cursor { shard, after, ..Cursor::default() });
                return Ok((found, next));
            }
        }
        Ok((found, None))
    }

    fn scan_permits(
        &self,
        lane: &mut Link,
        cursor: &Cursor,
        limit: usize,
        deadline: Instant,
    ) -> Result<Page, StoreError> {
        let prefix = &self.options.prefix;
        let mut found = Vec::new();
        for tag in self.all_tags(lane, deadline)? {
            self.meet(lane, tag, deadline)?;
            let mut request = Request::new(Script::Look, tag);
            request.key(name::due_key(prefix, tag).as_bytes());
            request.arg(b"due");
            request.arg(b"+inf");
            request.number((cursor.offset + limit + 1) as i64);
            for member in self.ask(lane, request, deadline)?.iter().skip(1) {
                let Some(number) = text(member).and_then(|member| member.parse().ok()) else { continue };
                found.push(Name::permit(tag, number));
            }
        }
        let more = found.len() > cursor.offset + limit;
        let mut page = Vec::new();
        for name in found.into_iter().skip(cursor.offset).take(limit) {
            let record = self.look(lane, name, deadline)?;
            page.extend(self.info(&record));
        }
        let next = more.then(|| Cursor { offset: cursor.offset + limit, ..Cursor::default() });
        Ok((page, next))
    }

    /// A record as lists show it.
    fn info(&self, record: &Rec) -> Option<RecordInfo> {
        let families = Arc::clone(&self.families.lock());
        let known = families.by_digest(record.name.family);
        let now = self.now(record.name.tag).map_or(Timestamp::MIN, |now| now.earliest);
        let state = match record.value.as_ref()? {
            Value::Meter(meter) => RecordState::of_meter(meter, record.keep.0, now),
            Value::Breaker(breaker) => RecordState::Breaker { phase: breaker.phase().clone() },
            Value::Operation(operation) => RecordState::Operation {
                state: operation.state().clone(),
                since: operation.since(),
                run: operation.run(),
            },
            Value::Fact(fact) => RecordState::Fact(*fact),
            Value::Permit(open) => {
                RecordState::Permit { phase: open.permit.phase, lease_until: open.permit.lease_until }
            }
        };
        let number = (record.name.record as u64).to_be_bytes();
        let key = match known {
            Some((family, _)) => KeyRef { family, tenant: &record.tuple.0, key: &record.tuple.1 },
            None => KeyRef { family: Family(u32::MAX), tenant: b"", key: &number },
        };
        Some(RecordInfo { key: Key::new(key), state })
    }

    /// Accepts the servers as they are, for every tag.
    pub(super) fn accept_epoch(&self) -> Result<(), StoreError> {
        let (mut lane, deadline) = (self.side_lane(), Instant::now() + LONG);
        let tags = self.all_tags(&mut lane, deadline)?;
        for tag in tags.into_iter().chain([Tag::STORE]) {
            lane.accept(tag, deadline).map_err(not_committed)?;
        }
        Ok(())
    }

    /// Every tag, the store's own first, and whether its server is the one that was accepted.
    pub(super) fn epochs(&self) -> Result<Vec<(String, bool)>, StoreError> {
        let (mut lane, deadline) = (self.side_lane(), Instant::now() + LONG);
        let mut found = Vec::new();
        let tags = self.all_tags(&mut lane, deadline)?;
        for tag in std::iter::once(Tag::STORE).chain(tags) {
            let standing = lane.standing(tag, deadline).map_err(not_committed)?;
            found.push((tag.to_string(), standing.accepted));
        }
        Ok(found)
    }

    /// Takes a number for this process.
    pub(super) fn join(&self) -> Result<(), StoreError> {
        let (mut lane, deadline) = (self.side_lane(), Instant::now() + self.options.deadline);
        self.meet(&mut lane, Tag::STORE, deadline)?;
        let mut request = Request::new(Script::Look, Tag::STORE);
        request.key(name::processes_key(&self.options.prefix).as_bytes());
        request.key(name::store_key(&self.options.prefix).as_bytes());
        request.arg(b"join");
        request.arg(fresh_id()?.to_string().as_bytes());
        let reply = self.ask(&mut lane, request, deadline)?;
        let process = reply.get(1).map(number).filter(|process| *process > 0).ok_or_else(strange)?;
        self.process.store(process.unsigned_abs(), Ordering::Relaxed);
        if let Some(outbox) = &self.outbox {
            let store = reply.get(2).and_then(text).and_then(ShortId::parse).ok_or_else(strange)?;
            outbox.join(store, process.unsigned_abs())?;
        }
        Ok(())
    }

    /// Has steps run that nobody waits for.
    pub(super) fn run_unwaited(self: &Arc<Self>, tag: Tag, steps: Vec<Planned>) {
        self.run_then(tag, steps, Told::nobody());
    }
}

/// What the keys of an index's records begin with.
fn base_of(prefix: &str, index: Name) -> String {
    let key = Name { record: 0, ..index }.key(prefix);
    key.strip_suffix(&index_zeros()).unwrap_or(&key).to_owned()
}

fn index_zeros() -> String {
    "0".repeat(32)
}

/// A name that nothing else has.
pub(super) fn fresh_id() -> Result<ShortId, StoreError> {
    super::seed().map(|seed| ShortId::from_bytes(seed.to_be_bytes()))
}

pub(super) fn text(reply: &Reply) -> Option<&str> {
    match reply {
        Reply::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Reply::SimpleString(text) => Some(text),
        _ => None,
    }
}
