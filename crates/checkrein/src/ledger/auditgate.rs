//! Exports in the format of the package `auditgate`: one trail, each entry hashed with the one before it.
//!
//! Its verifier accepts the file. What it cannot carry stands whole in `detail`: the entry's own canonical bytes, as text.

use std::io::Write;
use std::path::Path;

use checkrein_core::ledger::checkpoint::Checkpoint;
use checkrein_core::ledger::entry::{Ending, EntryView, Kind};
use checkrein_core::ledger::moment;
use checkrein_core::ledger::tree::to_hex;
use checkrein_core::time::Timestamp;
use sha2::{Digest as _, Sha256};

use super::{Database, Exported, LedgerError, export};

/// Entries read at once.
const PAGE: u64 = 256;

/// Writes the sealed entries as a JSON array that `auditgate verify` accepts.
///
/// # Errors
/// Nothing is sealed yet, the ledger is damaged or cannot be read, or `to` cannot be written.
pub fn export_auditgate(database: &Database, to: &mut impl Write) -> Result<Exported, LedgerError> {
    let checkpoint = export::newest(database)?;
    let (size, first) = (checkpoint.size, database.first()?);
    let mut put = |bytes: &[u8]| to.write_all(bytes).map_err(LedgerError::file(Path::new("the export")));
    let mut previous: Option<String> = None;
    let mut next = first;
    put(b"[")?;
    while next < size {
        let begin = next;
        for (seq, body) in database.entries(next, PAGE.min(size - next))? {
            if seq != next {
                return Err(LedgerError::Damaged(format!("entry {next} is missing: entry {seq} follows")));
            }
            let entry = EntryView::read(&body)
                .map_err(|error| LedgerError::Damaged(format!("entry {seq} is {error}")))?;
            let record = Record::of(&entry, &body, &checkpoint);
            let hash = record.hash(previous.as_deref());
            put(if seq == first { b"\n" } else { b",\n" })?;
            put(record.line(&hash, previous.as_deref()).as_bytes())?;
            previous = Some(hash);
            next += 1;
        }
        if next == begin {
            return Err(LedgerError::Damaged(format!("entry {next} is missing")));
        }
    }
    put(b"\n]\n")?;
    let unsealed = database.size()?.saturating_sub(size);
    Ok(Exported { first, end: next, sealed: size, unsealed })
}

/// An entry in the words of that package, its texts already quoted as Python writes them.
struct Record {
    detail: String,
    identity: String,
    kind: &'static str,
    reason: String,
    seq: u64,
    severity: &'static str,
    trail: String,
    ts: String,
    verdict: &'static str,
    wall: String,
}

impl Record {
    fn of(entry: &EntryView<'_>, body: &[u8], checkpoint: &Checkpoint) -> Self {
        let (verdict, severity) = match (entry.kind, entry.outcome) {
            (Kind::Refusal, _) => ("BLOCK", "WARN"),
            (Kind::Outcome, Some((Ending::FailedClean, ..))) => ("ERROR", "WARN"),
            (Kind::Outcome, Some((Ending::InDoubt, ..))) => ("ERROR", "ERROR"),
            _ => ("ALLOW", "INFO"),
        };
        let name = |wanted: &str| {
            let found = entry.action.iter().find(|(name, _)| *name == wanted);
            found.map_or("", |(_, value)| &**value)
        };
        let identity = match entry.event.as_deref() {
            Some(event) => format!("checkrein:{event}@global"),
            None => format!("{}:{}@{}", name("namespace"), name("name"), name("principal")),
        };
        let reason =
            entry.reasons.first().map_or_else(|| "null".to_owned(), |reason| quoted(&reason.message));
        Self {
            detail: format!(r#"{{"entry":{}}}"#, quoted(&String::from_utf8_lossy(body))),
            identity: quoted(&identity),
            kind: entry.kind.word(),
            reason,
            seq: entry.seq,
            severity,
            trail: quoted(&format!("checkrein:ledger@{}", checkpoint.origin)),
            ts: seconds(entry.time),
            verdict,
            wall: quoted(&moment::to_text(entry.time)),
        }
    }

    /// SHA-256 over the hashed fields as `json.dumps(sort_keys=True, separators=(",", ":"))` writes them.
    fn hash(&self, previous: Option<&str>) -> String {
        let Self { detail, identity, kind, reason, seq, severity, trail, ts, verdict, .. } = self;
        let previous = previous.map(|hash| format!(r#""prev_hash":"{hash}","#)).unwrap_or_default();
        let text = format!(
            r#"{{"detail":{detail},"gate_identity":{identity},"gate_type":"checkrein.{kind}",{previous}"reason":{reason},"sequence":{seq},"severity":"{severity}","trail":{trail},"ts":{ts},"verdict":"{verdict}"}}"#
        );
        to_hex(&Sha256::digest(text))
    }

    fn line(&self, hash: &str, previous: Option<&str>) -> String {
        let Self { detail, identity, kind, reason, seq, severity, trail, ts, verdict, wall } = self;
        let previous = previous.map_or_else(|| "null".to_owned(), |hash| format!("\"{hash}\""));
        format!(
            r#"{{"schema_version":"0.1.1","trail":{trail},"ts":{ts},"wall_ts":{wall},"verdict":"{verdict}","severity":"{severity}","gate_type":"checkrein.{kind}","gate_identity":{identity},"recorded_by":"checkrein","reason":{reason},"detail":{detail},"entry_hash":"{hash}","prev_hash":{previous},"sequence":{seq}}}"#
        )
    }
}

/// Seconds as a Python float prints itself. Cut to milliseconds, so that no exponent is ever needed.
fn seconds(time: Timestamp) -> String {
    let millis = time.nanos().div_euclid(1_000_000);
    #[expect(clippy::cast_precision_loss, reason = "milliseconds of all times have fewer than 53 bits")]
    let seconds = millis as f64 / 1e3;
    format!("{seconds:?}")
}

/// Text in quotes, every character beyond ASCII escaped.
fn quoted(text: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(text.len().saturating_add(2));
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            ' '..='~' => out.push(character),
            _ => {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    // Writing into a string does not fail.
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_and_times_are_those_of_python() {
        assert_eq!(quoted("a\"\\/\u{7f}\u{1}ü\u{1f600}\n"), r#""a\"\\/\u007f\u0001\u00fc\ud83d\ude00\n""#);
        for (nanos, text) in [
            (0, "0.0"),
            (1_795_256_310_123_456_789, "1795256310.123"),
            (-1_000_000_000, "-1.0"),
            (1_999_999, "0.001"),
            (i64::MAX, "9223372036.854"),
        ] {
            assert_eq!(seconds(Timestamp::from_nanos(nanos)), text);
        }
    }
}
