//! The writer: members in their sorted order, straight into the bytes.

use smallvec::SmallVec;

use super::{
    Arguments, Body, Decision, Draft, Drained, Entry, Event, Identity, Outcome, Repeated, Request,
    SALT_LENGTH, SHARED_VERSION, Source, VERSION, health_word,
};
use crate::amount::Amount;
use crate::canonical_json::{compare_keys, write_string};
use crate::decision::{MeterStatus, Reason, Retry};
use crate::ledger::moment;
use crate::ledger::tree::write_hex;

impl Entry<'_> {
    /// Appends the canonical bytes of this entry.
    ///
    /// Arguments kept in full must be canonical JSON already: they are copied.
    pub fn write(&self, out: &mut Vec<u8>) {
        let mut object = Members::open(out);
        write_body(&self.body, self.epoch, None, &mut object);
        object.integer("seq", self.seq);
        object.time("time", self.time);
        object.integer("version", VERSION);
        object.close();
    }
}

impl Draft<'_> {
    /// Appends the canonical bytes of this draft.
    ///
    /// Arguments kept in full must be canonical JSON already: they are copied.
    pub fn write(&self, out: &mut Vec<u8>) {
        let mut object = Members::open(out);
        write_body(&self.body, self.epoch, Some((&self.source, self.salt.as_ref())), &mut object);
        object.time("time", self.time);
        object.integer("version", SHARED_VERSION);
        object.close();
    }
}

/// The source of a draft, and its salt.
type Outbox<'a> = Option<(&'a Source, Option<&'a [u8; SALT_LENGTH]>)>;

/// Writes the members of a body, and between them those that every entry has up to `seq`.
fn write_body(body: &Body<'_>, epoch: u64, outbox: Outbox<'_>, object: &mut Members<'_>) {
    match body {
        Body::Decision(decision) => write_decision(decision, epoch, outbox, object),
        Body::Outcome(outcome) => write_outcome(outcome, epoch, outbox, object),
        Body::Event(event) => write_event(event, epoch, outbox, object),
    }
}

fn write_decision(decision: &Decision<'_>, epoch: u64, outbox: Outbox<'_>, object: &mut Members<'_>) {
    write_identity(&decision.action, object);
    match &decision.arguments {
        Arguments::None => {}
        Arguments::Full(bytes) => {
            let mut arguments = object.object("arguments");
            arguments.raw("value", bytes);
            arguments.close();
        }
        Arguments::Digest(digest) => object.digest("arguments", "digest", digest),
    }
    object.integer("epoch", epoch);
    object.optional("intent", decision.intent);
    object.text("kind", decision.verdict.word());
    write_meters(decision.meters, object);
    write_reasons("observed", decision.observed, object);
    write_outbox(outbox, object);
    object.optional("permit", decision.permit);
    if let Some(policy) = &decision.policy {
        write_hex(policy, object.name("policy"));
    }
    write_reasons("reasons", decision.reasons, object);
    if let Some(Repeated { count, first, last }) = decision.repeated {
        let mut repeated = object.object("repeated");
        repeated.integer("count", count);
        repeated.time("first", first);
        repeated.time("last", last);
        repeated.close();
    }
    match &decision.request {
        Request::None => {}
        Request::Digest(digest) => object.digest("request", "digest", digest.as_bytes()),
        Request::Keyed(digest) => object.digest("request", "keyed", digest),
    }
}

fn write_outcome(outcome: &Outcome<'_>, epoch: u64, outbox: Outbox<'_>, object: &mut Members<'_>) {
    if !outcome.actual.is_empty() {
        let out = object.name("actual");
        out.push(b'[');
        for (place, amount) in outcome.actual.iter().enumerate() {
            if place > 0 {
                out.push(b',');
            }
            write_amount(*amount, out);
        }
        out.push(b']');
    }
    object.text("by", outcome.by.word());
    object.integer("epoch", epoch);
    object.text("health", health_word(outcome.health));
    object.optional("intent", outcome.intent);
    object.text("kind", "outcome");
    write_meters(outcome.meters, object);
    object.unless_empty("note", outcome.note);
    write_outbox(outbox, object);
    object.text("outcome", outcome.ending.word());
    object.optional("permit", outcome.permit);
}

fn write_event(event: &Event<'_>, epoch: u64, outbox: Outbox<'_>, object: &mut Members<'_>) {
    object.integer("epoch", epoch);
    object.text("event", event.name);
    if !event.fields.is_empty() {
        let mut sorted: SmallVec<[(&str, &str); 8]> = SmallVec::from_slice(event.fields);
        sorted.sort_by(|left, right| compare_keys(left.0, right.0));
        sorted.dedup_by(|later, earlier| later.0 == earlier.0);
        let mut fields = object.object("fields");
        for (name, value) in sorted {
            fields.separate();
            write_string(name, fields.out);
            fields.out.push(b':');
            write_string(value, fields.out);
        }
        fields.close();
    }
    object.text("kind", "event");
    write_outbox(outbox, object);
}

fn write_outbox(outbox: Outbox<'_>, object: &mut Members<'_>) {
    if let Some((source, salt)) = outbox {
        write_source(source, None, salt, object.name("outbox"));
    }
}

/// Writes where a draft or an entry comes from.
pub(super) fn write_source(
    source: &Source,
    drained: Option<&Drained>,
    salt: Option<&[u8; SALT_LENGTH]>,
    out: &mut Vec<u8>,
) {
    let mut object = Members::open(out);
    object.integer("draft", source.draft);
    if let Some(drained) = drained {
        object.time("drained", drained.time);
    }
    object.hex("host", &source.host.to_bytes());
    if let Some(intent) = source.intent {
        object.hex("intent", &intent.to_bytes());
    }
    if let Some(drained) = drained {
        object.hex("list", &drained.list.to_bytes());
        object.integer("number", drained.number);
    }
    if let Some(salt) = salt {
        object.hex("salt", salt);
    }
    object.hex("store", &source.store.to_bytes());
    object.hex("tag", &source.tag.to_bytes());
    object.close();
}

fn write_identity(identity: &Identity<'_>, object: &mut Members<'_>) {
    if *identity == Identity::default() {
        return;
    }
    let mut action = object.object("action");
    action.unless_empty("agent", identity.agent);
    action.unless_empty("name", identity.name);
    action.unless_empty("namespace", identity.namespace);
    action.unless_empty("principal", identity.principal);
    action.unless_empty("run", identity.run);
    action.unless_empty("session", identity.session);
    action.unless_empty("tenant", identity.tenant);
    action.unless_empty("user", identity.user);
    action.close();
}

fn write_meters(meters: &[MeterStatus], object: &mut Members<'_>) {
    if meters.is_empty() {
        return;
    }
    let out = object.name("meters");
    out.push(b'[');
    for (place, meter) in meters.iter().enumerate() {
        if place > 0 {
            out.push(b',');
        }
        let mut object = Members::open(out);
        object.text("gate", &meter.gate);
        object.amount("held", meter.held);
        object.text("kind", meter.kind.name());
        object.amount("limit", meter.limit);
        object.amount("spent", meter.spent);
        object.text("unit", meter.unit.name());
        object.close();
    }
    out.push(b']');
}

fn write_reasons(name: &str, reasons: &[Reason], object: &mut Members<'_>) {
    if reasons.is_empty() {
        return;
    }
    let out = object.name(name);
    out.push(b'[');
    for (place, reason) in reasons.iter().enumerate() {
        if place > 0 {
            out.push(b',');
        }
        let mut object = Members::open(out);
        object.text("code", reason.code.word());
        object.text("gate", &reason.gate);
        object.text("kind", reason.kind.name());
        object.text("message", &reason.message());
        match reason.retry {
            Retry::Never => object.text("retry", "never"),
            Retry::Unknown => object.text("retry", "unknown"),
            Retry::After(span) => {
                // A second is 10^9 nanoseconds and an amount counts 10^-12: the same decimal text, a thousand apart.
                object.amount("retry", Amount::from_pico(i128::from(span.nanos()).saturating_mul(1_000)));
            }
        }
        object.close();
    }
    out.push(b']');
}

/// Writes an amount as text: digits, and a fraction without zeros at its end if there is one.
fn write_amount(amount: Amount, out: &mut Vec<u8>) {
    const SCALE: u128 = 1_000_000_000_000;
    out.push(b'"');
    if amount.is_negative() {
        out.push(b'-');
    }
    let magnitude = amount.pico().unsigned_abs();
    match u64::try_from(magnitude / SCALE) {
        Ok(whole) => write_uint(whole, out),
        Err(_) => out.extend_from_slice((magnitude / SCALE).to_string().as_bytes()),
    }
    let mut fraction = u64::try_from(magnitude % SCALE).unwrap_or_default();
    if fraction != 0 {
        let mut digits = [b'0'; 12];
        let mut end = 0;
        for (place, digit) in digits.iter_mut().enumerate().rev() {
            *digit = b'0' | u8::try_from(fraction % 10).unwrap_or_default();
            fraction /= 10;
            if end == 0 && *digit != b'0' {
                end = place.saturating_add(1);
            }
        }
        out.push(b'.');
        out.extend(digits.iter().take(end));
    }
    out.push(b'"');
}

/// Writes digits; entries have several integers, and the formatting machinery costs more than all of them.
pub(super) fn write_uint(mut number: u64, out: &mut Vec<u8>) {
    let mut digits = [0_u8; 20];
    let mut count = 0_usize;
    for digit in digits.iter_mut().rev() {
        *digit = b'0' | u8::try_from(number % 10).unwrap_or_default();
        number /= 10;
        count = count.saturating_add(1);
        if number == 0 {
            break;
        }
    }
    out.extend(digits.iter().skip(digits.len().saturating_sub(count)));
}

/// An object that is being written. Whoever writes names the members in their sorted order.
struct Members<'a> {
    out: &'a mut Vec<u8>,
    any: bool,
}

impl<'a> Members<'a> {
    fn open(out: &'a mut Vec<u8>) -> Self {
        out.push(b'{');
        Self { out, any: false }
    }

    fn close(self) {
        self.out.push(b'}');
    }

    fn separate(&mut self) {
        if self.any {
            self.out.push(b',');
        }
        self.any = true;
    }

    /// Writes the name of a member, plain ASCII, and returns where its value goes.
    fn name(&mut self, name: &str) -> &mut Vec<u8> {
        self.separate();
        self.out.push(b'"');
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
        self.out
    }

    fn object(&mut self, name: &str) -> Members<'_> {
        Members::open(self.name(name))
    }

    fn raw(&mut self, name: &str, bytes: &[u8]) {
        self.name(name).extend_from_slice(bytes);
    }

    fn text(&mut self, name: &str, text: &str) {
        write_string(text, self.name(name));
    }

    fn unless_empty(&mut self, name: &str, text: &str) {
        if !text.is_empty() {
            self.text(name, text);
        }
    }

    fn integer(&mut self, name: &str, number: u64) {
        write_uint(number, self.name(name));
    }

    fn optional(&mut self, name: &str, number: Option<u64>) {
        if let Some(number) = number {
            self.integer(name, number);
        }
    }

    fn amount(&mut self, name: &str, amount: Amount) {
        write_amount(amount, self.name(name));
    }

    fn time(&mut self, name: &str, time: crate::time::Timestamp) {
        let out = self.name(name);
        out.push(b'"');
        moment::write(time, out);
        out.push(b'"');
    }

    fn hex(&mut self, name: &str, bytes: &[u8]) {
        write_hex(bytes, self.name(name));
    }

    fn digest(&mut self, name: &str, form: &str, digest: &[u8; 32]) {
        let mut object = self.object(name);
        write_hex(digest, object.name(form));
        object.close();
    }
}
