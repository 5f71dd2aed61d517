//! The reader: the members in the one order they can have, borrowed from the bytes.

use std::borrow::Cow;

use super::cursor::{Cursor, EntryError};
use super::draft::Spans;
use super::{By, Drained, Ending, LARGEST_ENTRY, Repeated, Request, SHARED_VERSION, Source, VERSION};
use crate::canonical_json::compare_keys;
use crate::fingerprint::RequestDigest;
use crate::time::Timestamp;

type Read<T> = Result<T, EntryError>;

/// The kinds of entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// An action was allowed.
    Intent,
    /// An action was refused.
    Refusal,
    /// An action was answered with the result of an earlier run.
    Replay,
    /// An action ended.
    Outcome,
    /// Something else happened.
    Event,
}

impl Kind {
    /// The word in the entry.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Intent => "intent",
            Self::Refusal => "refusal",
            Self::Replay => "replay",
            Self::Outcome => "outcome",
            Self::Event => "event",
        }
    }
}

/// An entry as it is read, borrowed from its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryView<'a> {
    /// Its position.
    pub seq: u64,
    /// When it was committed.
    pub time: Timestamp,
    /// The number of the process that committed it.
    pub epoch: u64,
    /// What kind of entry it is.
    pub kind: Kind,
    /// The action's names, in their order: `agent`, `name`, `namespace`, `principal`, `run`, `session`, `tenant`,
    /// `user`. Absent ones are left out.
    pub action: Vec<(&'static str, Cow<'a, str>)>,
    /// The arguments.
    pub arguments: ArgumentsView<'a>,
    /// The identity of the request.
    pub request: Request,
    /// The permit.
    pub permit: Option<u64>,
    /// The entry of the decision this one belongs to.
    pub intent: Option<u64>,
    /// The digest of the policy.
    pub policy: Option<[u8; 32]>,
    /// Why not.
    pub reasons: Vec<ReasonView<'a>>,
    /// What gates in observe mode would have said.
    pub observed: Vec<ReasonView<'a>>,
    /// Where the meters stand.
    pub meters: Vec<MeterView<'a>>,
    /// Of equal refusals that share this entry: how many, and when.
    pub repeated: Option<Repeated>,
    /// Of an outcome: how it ended, what it says about the dependency, who says so.
    pub outcome: Option<(Ending, &'static str, By)>,
    /// Of an outcome: what it cost.
    pub actual: Vec<&'a str>,
    /// Of an outcome: more about it.
    pub note: Option<Cow<'a, str>>,
    /// Of an event: what happened.
    pub event: Option<Cow<'a, str>>,
    /// Of an event: more about it, in the order of the names.
    pub fields: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    /// Of an entry that was decided in a store that several hosts share: where it came from, and how it got here.
    pub source: Option<(Source, Drained)>,
}

/// The arguments as they were kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ArgumentsView<'a> {
    /// Not kept.
    #[default]
    None,
    /// In full.
    Full(&'a str),
    /// As a salted digest.
    Digest([u8; 32]),
}

/// A reason as it is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReasonView<'a> {
    /// The code.
    pub code: Cow<'a, str>,
    /// The gate.
    pub gate: Cow<'a, str>,
    /// The kind of gate.
    pub kind: Cow<'a, str>,
    /// The sentence.
    pub message: Cow<'a, str>,
    /// Seconds, `never` or `unknown`.
    pub retry: &'a str,
}

/// A meter as it is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeterView<'a> {
    /// The gate.
    pub gate: Cow<'a, str>,
    /// The kind of gate.
    pub kind: Cow<'a, str>,
    /// The unit.
    pub unit: Cow<'a, str>,
    /// Spent.
    pub spent: &'a str,
    /// Held.
    pub held: &'a str,
    /// The limit.
    pub limit: &'a str,
}

impl<'a> EntryView<'a> {
    /// Reads one entry.
    ///
    /// # Errors
    /// If the bytes are not the canonical form of an entry of a version this code knows.
    pub fn read(bytes: &'a [u8]) -> Read<Self> {
        let mut members = Members::of(bytes)?;
        let entry = members.entry()?;
        members.cursor.end()?;
        Ok(entry)
    }

    /// When it was committed in the ledger: by the ledger's clock, which does not run backwards.
    #[must_use]
    pub fn committed(&self) -> Timestamp {
        self.source.map_or(self.time, |(_, drained)| drained.time)
    }

    fn new(kind: Kind, seq: u64, time: Timestamp, epoch: u64) -> Self {
        Self {
            seq,
            time,
            epoch,
            kind,
            action: Vec::new(),
            arguments: ArgumentsView::None,
            request: Request::None,
            permit: None,
            intent: None,
            policy: None,
            reasons: Vec::new(),
            observed: Vec::new(),
            meters: Vec::new(),
            repeated: None,
            outcome: None,
            actual: Vec::new(),
            note: None,
            event: None,
            fields: Vec::new(),
            source: None,
        }
    }
}

/// Reads a draft: the entry without its number, where it comes from, and where these stand in the bytes.
pub(super) fn draft(bytes: &[u8]) -> Read<(EntryView<'_>, Spans)> {
    let mut members = Members { draft: Some(Spans::default()), ..Members::of(bytes)? };
    let entry = members.entry()?;
    members.cursor.end()?;
    Ok((entry, members.draft.unwrap_or_default()))
}

/// Reads the members of an object one by one; those that may be absent are asked for by name.
struct Members<'a> {
    cursor: Cursor<'a>,
    any: bool,
    /// Of a draft: what an entry does not have.
    draft: Option<Spans>,
}

impl<'a> Members<'a> {
    /// Begins with the object that the bytes are.
    fn of(bytes: &'a [u8]) -> Read<Self> {
        if bytes.len() > LARGEST_ENTRY {
            return Err(EntryError { offset: LARGEST_ENTRY, expected: "at most 16 MiB" });
        }
        let text = std::str::from_utf8(bytes)
            .map_err(|error| EntryError { offset: error.valid_up_to(), expected: "UTF-8" })?;
        let mut members = Self { cursor: Cursor::new(text), any: false, draft: None };
        members.cursor.expect("{")?;
        Ok(members)
    }

    fn has(&mut self, name: &'static str) -> bool {
        let here =
            if self.any { self.cursor.took_name(b",\"", name) } else { self.cursor.took_name(b"\"", name) };
        self.any |= here;
        here
    }

    fn must_have(&mut self, name: &'static str) -> Read<()> {
        if self.has(name) { Ok(()) } else { self.cursor.fail(name) }
    }

    /// Reads an object of its own inside this one.
    fn object<T>(&mut self, read: impl FnOnce(&mut Self) -> Read<T>) -> Read<T> {
        self.cursor.expect("{")?;
        let outer = std::mem::replace(&mut self.any, false);
        let value = read(self)?;
        self.cursor.expect("}")?;
        self.any = outer;
        Ok(value)
    }

    /// Reads a list that is not empty.
    fn list<T>(&mut self, mut read: impl FnMut(&mut Self) -> Read<T>) -> Read<Vec<T>> {
        self.cursor.expect("[")?;
        let mut items = vec![read(self)?];
        while self.cursor.took(b",") {
            items.push(read(self)?);
        }
        self.cursor.expect("]")?;
        Ok(items)
    }

    fn optional_integer(&mut self, name: &'static str) -> Read<Option<u64>> {
        if self.has(name) { self.cursor.integer().map(Some) } else { Ok(None) }
    }

    fn word(&mut self, name: &'static str) -> Read<Cow<'a, str>> {
        self.must_have(name)?;
        self.full_text()
    }

    fn full_text(&mut self) -> Read<Cow<'a, str>> {
        let text = self.cursor.string()?;
        if text.is_empty() { self.cursor.fail("text that is not empty") } else { Ok(text) }
    }

    /// Reads everything between the brackets and the closing one. Which members may follow is decided by `kind`, which
    /// comes after some of them: what is read before it must fit it.
    fn entry(&mut self) -> Read<EntryView<'a>> {
        let mut entry = EntryView::new(Kind::Event, 0, Timestamp::default(), 0);
        if self.has("action") {
            entry.action = self.object(Self::identity)?;
        }
        let is_action = !entry.action.is_empty();
        if !is_action && self.has("actual") {
            entry.actual = self.list(|list| list.cursor.amount())?;
        }
        if entry.actual.is_empty() && self.has("arguments") {
            entry.arguments = self.object(Self::arguments)?;
        }
        let is_decision = is_action || entry.arguments != ArgumentsView::None;
        let by = if !is_decision && self.has("by") { Some(self.by()?) } else { None };
        self.must_have("epoch")?;
        entry.epoch = self.cursor.integer()?;
        match by {
            Some(by) => self.outcome(&mut entry, by)?,
            None if !entry.actual.is_empty() => return self.cursor.fail("by"),
            None if !is_decision && self.has("event") => self.event(&mut entry)?,
            None => self.decision(&mut entry)?,
        }
        match &mut self.draft {
            Some(spans) => spans.seq = self.cursor.place(),
            None => {
                self.must_have("seq")?;
                entry.seq = self.cursor.integer()?;
            }
        }
        self.must_have("time")?;
        entry.time = self.cursor.time()?;
        self.must_have("version")?;
        let version = self.cursor.integer()?;
        if entry.source.is_none() && version != VERSION {
            return self.cursor.fail("version 1");
        }
        if entry.source.is_some() && (version != SHARED_VERSION || entry.intent.is_some()) {
            return self.cursor.fail("version 2, and no entry of this ledger as the intent");
        }
        self.cursor.expect("}")?;
        Ok(entry)
    }

    /// Reads where an entry comes from, if it says so. A draft has to.
    fn outbox(&mut self, entry: &mut EntryView<'a>) -> Read<()> {
        if self.draft.is_some() {
            self.must_have("outbox")?;
        } else if !self.has("outbox") {
            return Ok(());
        }
        let from = self.cursor.place();
        entry.source = Some(self.object(Self::source)?);
        let to = self.cursor.place();
        if let Some(spans) = &mut self.draft {
            spans.outbox = from..to;
        }
        Ok(())
    }

    fn source(&mut self) -> Read<(Source, Drained)> {
        let is_draft = self.draft.is_some();
        let mut drained = Drained::default();
        self.must_have("draft")?;
        let draft = self.cursor.integer()?;
        if !is_draft {
            self.must_have("drained")?;
            drained.time = self.cursor.time()?;
        }
        self.must_have("host")?;
        let host = self.cursor.short_id()?;
        let intent = if self.has("intent") { Some(self.cursor.short_id()?) } else { None };
        if !is_draft {
            self.must_have("list")?;
            drained.list = self.cursor.short_id()?;
            self.must_have("number")?;
            drained.number = self.cursor.integer()?;
        }
        if is_draft && self.has("salt") {
            let salt = self.cursor.salt()?;
            if let Some(spans) = &mut self.draft {
                spans.salt = Some(salt);
            }
        }
        self.must_have("store")?;
        let store = self.cursor.short_id()?;
        self.must_have("tag")?;
        let tag = self.cursor.short_id()?;
        Ok((Source { store, host, tag, draft, intent }, drained))
    }

    fn decision(&mut self, entry: &mut EntryView<'a>) -> Read<()> {
        entry.intent = self.optional_integer("intent")?;
        self.must_have("kind")?;
        entry.kind = match &*self.cursor.string()? {
            "intent" => Kind::Intent,
            "refusal" => Kind::Refusal,
            "replay" => Kind::Replay,
            _ => return self.cursor.fail("intent, refusal or replay"),
        };
        self.meters(entry)?;
        if self.has("observed") {
            entry.observed = self.list(Self::reason)?;
        }
        self.outbox(entry)?;
        entry.permit = self.optional_integer("permit")?;
        if self.has("policy") {
            entry.policy = Some(self.cursor.digest()?);
        }
        if self.has("reasons") {
            entry.reasons = self.list(Self::reason)?;
        }
        if self.has("repeated") {
            entry.repeated = Some(self.object(|repeated| {
                repeated.must_have("count")?;
                let count = repeated.cursor.integer()?;
                repeated.must_have("first")?;
                let first = repeated.cursor.time()?;
                repeated.must_have("last")?;
                Ok(Repeated { count, first, last: repeated.cursor.time()? })
            })?);
        }
        if self.has("request") {
            entry.request = self.object(|request| {
                if request.has("digest") {
                    return Ok(Request::Digest(RequestDigest::from_bytes(request.cursor.digest()?)));
                }
                request.must_have("keyed")?;
                request.cursor.digest().map(Request::Keyed)
            })?;
        }
        Ok(())
    }

    fn outcome(&mut self, entry: &mut EntryView<'a>, by: By) -> Read<()> {
        self.must_have("health")?;
        let health = match &*self.cursor.string()? {
            "success" => "success",
            "failure" => "failure",
            "neutral" => "neutral",
            _ => return self.cursor.fail("success, failure or neutral"),
        };
        entry.intent = self.optional_integer("intent")?;
        self.must_have("kind")?;
        self.cursor.expect("\"outcome\"")?;
        entry.kind = Kind::Outcome;
        self.meters(entry)?;
        if self.has("note") {
            entry.note = Some(self.full_text()?);
        }
        self.outbox(entry)?;
        self.must_have("outcome")?;
        let ending = match &*self.cursor.string()? {
            "done" => Ending::Done,
            "failed_clean" => Ending::FailedClean,
            "in_doubt" => Ending::InDoubt,
            _ => return self.cursor.fail("done, failed_clean or in_doubt"),
        };
        entry.outcome = Some((ending, health, by));
        entry.permit = self.optional_integer("permit")?;
        Ok(())
    }

    fn by(&mut self) -> Read<By> {
        let word = self.cursor.string()?;
        [By::Caller, By::Lease, By::Recovery, By::Reconcile, By::Person]
            .into_iter()
            .find(|by| by.word() == word)
            .map_or_else(|| self.cursor.fail("caller, lease, recovery, reconcile or person"), Ok)
    }

    fn event(&mut self, entry: &mut EntryView<'a>) -> Read<()> {
        entry.event = Some(self.full_text()?);
        if self.has("fields") {
            self.cursor.expect("{")?;
            loop {
                let name = self.cursor.string()?;
                let follows = entry.fields.last().is_none_or(|(last, _)| compare_keys(last, &name).is_lt());
                if !follows {
                    return self.cursor.fail("a key after the one before it");
                }
                self.cursor.expect(":")?;
                entry.fields.push((name, self.cursor.string()?));
                if !self.cursor.took(b",") {
                    break;
                }
            }
            self.cursor.expect("}")?;
        }
        self.must_have("kind")?;
        self.cursor.expect("\"event\"")?;
        entry.kind = Kind::Event;
        self.outbox(entry)
    }

    fn identity(&mut self) -> Read<Vec<(&'static str, Cow<'a, str>)>> {
        let mut names = Vec::with_capacity(4);
        for name in ["agent", "name", "namespace", "principal", "run", "session", "tenant", "user"] {
            if self.has(name) {
                names.push((name, self.full_text()?));
            }
        }
        if names.is_empty() { self.cursor.fail("a name of the action") } else { Ok(names) }
    }

    fn arguments(&mut self) -> Read<ArgumentsView<'a>> {
        if self.has("digest") {
            return self.cursor.digest().map(ArgumentsView::Digest);
        }
        self.must_have("value")?;
        self.cursor.value().map(ArgumentsView::Full)
    }

    fn meters(&mut self, entry: &mut EntryView<'a>) -> Read<()> {
        if self.has("meters") {
            entry.meters = self.list(|list| {
                list.object(|meter| {
                    let gate = meter.text("gate")?;
                    meter.must_have("held")?;
                    let held = meter.cursor.amount()?;
                    let kind = meter.word("kind")?;
                    meter.must_have("limit")?;
                    let limit = meter.cursor.amount()?;
                    meter.must_have("spent")?;
                    let spent = meter.cursor.amount()?;
                    Ok(MeterView { gate, kind, unit: meter.word("unit")?, spent, held, limit })
                })
            })?;
        }
        Ok(())
    }

    fn text(&mut self, name: &'static str) -> Read<Cow<'a, str>> {
        self.must_have(name)?;
        self.cursor.string()
    }

    fn reason(&mut self) -> Read<ReasonView<'a>> {
        self.object(|reason| {
            let code = reason.word("code")?;
            let gate = reason.text("gate")?;
            let kind = reason.word("kind")?;
            let message = reason.text("message")?;
            reason.must_have("retry")?;
            let retry = if reason.cursor.took(b"\"never\"") {
                "never"
            } else if reason.cursor.took(b"\"unknown\"") {
                "unknown"
            } else {
                reason.cursor.amount()?
            };
            Ok(ReasonView { code, gate, kind, message, retry })
        })
    }
}
