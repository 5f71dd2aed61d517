//! The entries of a ledger one by one, from a store's file or from any form of export, read strictly.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use checkrein_core::json::{self, Limits};
use checkrein_core::ledger::checkpoint::VerifierKey;
use checkrein_core::ledger::entry::{EntryView, LARGEST_ENTRY};
use checkrein_core::ledger::export::Line;
use checkrein_core::ledger::verify::{Fault, Verifier};

use super::ReplayError;
use crate::ledger::{Database, LedgerError, audit, is_store};

/// The longest line: the header of an export of a thousand million entries.
const LONGEST_LINE: u64 = 256 << 20;
/// Entries read from a store at once.
const PAGE: u64 = 256;

/// What was read, and how far it can be believed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// The first entry that is there.
    pub first: u64,
    /// So many entries.
    pub entries: u64,
    /// Entries from the start of the ledger up to this one are as they were signed; nothing, if that was not checked.
    pub verified: Option<u64>,
}

/// Takes an entry.
pub type Each<'e> = dyn FnMut(&EntryView<'_>) -> Result<(), ReplayError> + 'e;
/// Is told now and then how much is done of how much; of nothing, where nobody knows.
pub type Watch<'w> = dyn FnMut(u64, u64) + 'w;

/// Hands every entry of a ledger over: of a store's file, of an export, or with `-` of an export on standard input.
///
/// # Errors
/// As [`read_store`] and [`read_export`].
pub fn read_path(
    path: &Path,
    key: Option<&VerifierKey>,
    watch: &mut Watch<'_>,
    each: &mut Each<'_>,
) -> Result<Source, ReplayError> {
    if path == Path::new("-") {
        return read_export(&mut std::io::stdin().lock(), key, &mut |done| watch(done, 0), each);
    }
    if is_store(path)? {
        return read_store(&Database::open(path)?, key, watch, each);
    }
    let file = std::fs::File::open(path).map_err(LedgerError::file(path))?;
    let of = file.metadata().map_or(0, |data| data.len());
    read_export(&mut BufReader::with_capacity(1 << 18, file), key, &mut |done| watch(done, of), each)
}

/// Hands every entry of a store's ledger over, in their order. With a key the whole ledger is checked first.
///
/// # Errors
/// The file cannot be read, an entry is missing or not one, or `each` fails.
pub fn read_store(
    database: &Database,
    key: Option<&VerifierKey>,
    watch: &mut Watch<'_>,
    each: &mut Each<'_>,
) -> Result<Source, ReplayError> {
    if let Some(schema) = database.later_schema()? {
        let path = database.path().display().to_string();
        return Err(ReplayError::Store { path, schema });
    }
    let verified = match key {
        None => None,
        Some(key) => {
            let audit = audit(database, Some(key))?;
            if let Some(finding) = audit.findings.first() {
                return Err(ReplayError::Invalid(finding.clone()));
            }
            Some(audit.sealed)
        }
    };
    let (first, end) = (database.first()?, database.size()?);
    let mut next = first;
    while next < end {
        let page = database.entries(next, PAGE.min(end.saturating_sub(next)))?;
        if page.is_empty() {
            return Err(missing(next));
        }
        for (_, body) in page {
            hand_over(&body, next, each)?;
            next = next.saturating_add(1);
        }
        watch(next.saturating_sub(first), end.saturating_sub(first));
    }
    Ok(Source { first, entries: end.saturating_sub(first), verified })
}

/// Hands every entry of an export over, in their order: lines as they are verified, the array that the package
/// `auditgate` verifies, or nothing but entries. With a key the export is verified on the way.
///
/// # Errors
/// It cannot be read, ends too early, an entry is missing or not one, it is not as it was signed, or `each` fails.
pub fn read_export(
    reader: &mut dyn BufRead,
    key: Option<&VerifierKey>,
    watch: &mut dyn FnMut(u64),
    each: &mut Each<'_>,
) -> Result<Source, ReplayError> {
    let mut lines = Lines {
        form: Form::Unknown,
        source: Source::default(),
        next: None,
        end: None,
        is_closed: false,
        number: 0,
    };
    let mut verifier = key.map(|key| Verifier::new(key, None));
    let (mut line, mut done) = (Vec::new(), 0_u64);
    let complete = loop {
        line.clear();
        let failed = LedgerError::file(Path::new("the export"));
        let read = Read::take(&mut *reader, LONGEST_LINE).read_until(b'\n', &mut line).map_err(failed)?;
        if read == 0 {
            break true;
        }
        done = done.saturating_add(read as u64);
        watch(done);
        let complete = line.pop_if(|last| *last == b'\n').is_some();
        if let Some(verifier) = &mut verifier {
            verifier.line(&line);
        }
        lines.line(&line, complete, each)?;
        if !complete {
            break false;
        }
    };
    if let Some(verifier) = verifier {
        let report = verifier.finish(complete);
        lines.source.verified = match report.fault {
            None => Some(report.first.saturating_add(report.entries)),
            // Whoever exported what is not sealed knew that it cannot be verified yet.
            Some(Fault::Unsealed(first)) => Some(first),
            Some(fault) => return Err(ReplayError::Invalid(fault.to_string())),
        };
    }
    lines.finish(complete)
}

/// How an export is written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Unknown,
    /// Lines, each of them an entry or one of the export's own.
    Lines,
    /// A JSON array with one element a line.
    Array,
}

struct Lines {
    form: Form,
    source: Source,
    /// The sequence that the next entry must have.
    next: Option<u64>,
    /// How many entries there must be at least, removed ones included.
    end: Option<u64>,
    is_closed: bool,
    number: u64,
}

impl Lines {
    fn line(&mut self, line: &[u8], complete: bool, each: &mut Each<'_>) -> Result<(), ReplayError> {
        self.number = self.number.saturating_add(1);
        if self.form == Form::Unknown {
            self.form = if line == b"[" { Form::Array } else { Form::Lines };
            if self.form == Form::Array {
                return Ok(());
            }
        }
        if self.form == Form::Array {
            return self.element(line, each);
        }
        match Line::read(line) {
            Line::Header(header) if self.number == 1 => {
                self.source.first = header.first;
                self.next = Some(header.first);
                self.end = header.checkpoints.last().copied();
                Ok(())
            }
            Line::Hashes(_) | Line::Checkpoint(_) if self.number > 1 => Ok(()),
            Line::Entry(_) if !complete && EntryView::read(line).is_err() => Err(self.cut()),
            Line::Entry(body)
                if self.number > 1 || EntryView::read(body).is_ok() || later(body).is_some() =>
            {
                self.entry(body, each)
            }
            _ => Err(ReplayError::NoLedger { line: self.number }),
        }
    }

    /// One element of the array: the entry's own bytes stand in it as text.
    fn element(&mut self, line: &[u8], each: &mut Each<'_>) -> Result<(), ReplayError> {
        if self.is_closed || line == b"]" || line.is_empty() {
            self.is_closed |= line == b"]";
            return Ok(());
        }
        let no_ledger = ReplayError::NoLedger { line: self.number };
        let limits = Limits { bytes: 8 * LARGEST_ENTRY, ..Limits::default() };
        let Ok(element) = json::read(line.strip_suffix(b",").unwrap_or(line), &limits) else {
            return Err(if line.ends_with(b",") { no_ledger } else { self.cut() });
        };
        let body = element.get("detail").and_then(|detail| detail.get("entry")?.as_str());
        self.entry(body.ok_or(no_ledger)?.as_bytes(), each)
    }

    fn entry(&mut self, body: &[u8], each: &mut Each<'_>) -> Result<(), ReplayError> {
        let next = match self.next {
            Some(next) => next,
            None => {
                self.source.first = EntryView::read(body).map_or(0, |entry| entry.seq);
                self.source.first
            }
        };
        hand_over(body, next, each)?;
        self.next = Some(next.saturating_add(1));
        self.source.entries = self.source.entries.saturating_add(1);
        Ok(())
    }

    fn cut(&self) -> ReplayError {
        let next = self.next.unwrap_or_default();
        ReplayError::Invalid(format!("it was cut off in entry {next}"))
    }

    fn finish(self, complete: bool) -> Result<Source, ReplayError> {
        let next = self.next.unwrap_or_default();
        if self.number > 0 && (!complete || (self.form == Form::Array && !self.is_closed)) {
            return Err(self.cut());
        }
        match self.end {
            Some(end) if next < end => {
                Err(ReplayError::Invalid(format!("it ends before entry {next}, and should have {end}")))
            }
            _ => Ok(self.source),
        }
    }
}

fn missing(seq: u64) -> ReplayError {
    ReplayError::Invalid(format!("entry {seq} is missing"))
}

/// Reads an entry that must be the one of this sequence, and hands it over.
fn hand_over(body: &[u8], seq: u64, each: &mut Each<'_>) -> Result<(), ReplayError> {
    match EntryView::read(body) {
        Ok(entry) if entry.seq == seq => each(&entry),
        Ok(entry) if entry.seq > seq => Err(missing(seq)),
        Ok(entry) => {
            let found = entry.seq;
            Err(ReplayError::Invalid(format!("entry {found} stands in the place of entry {seq}")))
        }
        Err(error) => Err(match later(body) {
            Some(version) => ReplayError::Version { seq, version },
            None => ReplayError::Invalid(format!("entry {seq} is {error}")),
        }),
    }
}

/// The version that what is no entry says it is of, if it is later than those that are known: it is the last member.
fn later(body: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(body).ok()?;
    let (_, version) = text.strip_suffix('}')?.rsplit_once(",\"version\":")?;
    version.parse().ok().filter(|version| *version > 2)
}
