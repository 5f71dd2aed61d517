//! Verification of a file: an export, or a store's file as it would be exported, line by line.

use std::io::{BufRead as _, BufReader, Read, Write};
use std::path::Path;

use checkrein_core::ledger::checkpoint::VerifierKey;
use checkrein_core::ledger::entry::EntryView;
use checkrein_core::ledger::together::Together;
use checkrein_core::ledger::verify::{Report, Verifier};

use super::{Database, LedgerError, Scope, export};

/// The longest line: the header of an export of a thousand million entries.
const LONGEST_LINE: u64 = 256 << 20;
/// What a SQLite file begins with.
const SQLITE: &[u8; 16] = b"SQLite format 3\0";

/// Verifies the export in a file, `-` for standard input. `against` is a checkpoint kept elsewhere.
///
/// # Errors
/// The file cannot be read. What is wrong with its content is in the report.
pub fn verify_file(path: &Path, key: &VerifierKey, against: Option<&str>) -> Result<Report, LedgerError> {
    verify_lines(path, Verifier::new(key, against), |_| ())
}

/// Verifies a ledger, the export in a file or what is sealed in a store's file, and hands its entries over to be compared
/// with those of others.
///
/// # Errors
/// The file cannot be read. What is wrong with its content is in the report.
pub fn verify_with(
    path: &Path,
    key: &VerifierKey,
    against: Option<&str>,
    together: &mut Together,
) -> Result<Report, LedgerError> {
    together.next_ledger();
    let verifier = Verifier::new(key, against);
    let take = |line: &[u8]| {
        if let Ok(entry) = EntryView::read(line) {
            together.entry(&entry);
        }
    };
    if !is_store(path)? {
        return verify_lines(path, verifier, take);
    }
    let mut lines = Lines { verifier, take, rest: Vec::new() };
    export(&Database::open(path)?, Scope::Sealed, &mut lines)?;
    Ok(lines.verifier.finish(lines.rest.is_empty()))
}

/// Whether a file is a store's rather than an export.
fn is_store(path: &Path) -> Result<bool, LedgerError> {
    if path == Path::new("-") {
        return Ok(false);
    }
    let mut begin = Vec::new();
    let file = std::fs::File::open(path).map_err(LedgerError::file(path))?;
    file.take(SQLITE.len() as u64).read_to_end(&mut begin).map_err(LedgerError::file(path))?;
    Ok(begin == SQLITE)
}

fn verify_lines(
    path: &Path,
    mut verifier: Verifier<'_>,
    mut each: impl FnMut(&[u8]),
) -> Result<Report, LedgerError> {
    let failed = || LedgerError::file(path);
    let source: Box<dyn Read> = if path == Path::new("-") {
        Box::new(std::io::stdin().lock())
    } else {
        Box::new(std::fs::File::open(path).map_err(failed())?)
    };
    let mut source = BufReader::with_capacity(1 << 18, source);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = source.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line).map_err(failed())?;
        if read == 0 {
            return Ok(verifier.finish(true));
        }
        let complete = line.pop_if(|last| *last == b'\n').is_some();
        verifier.line(&line);
        each(&line);
        if !complete {
            return Ok(verifier.finish(false));
        }
    }
}

/// An export that is verified while it is written.
struct Lines<'k, F> {
    verifier: Verifier<'k>,
    take: F,
    /// A line that is not complete yet.
    rest: Vec<u8>,
}

impl<F: FnMut(&[u8])> Write for Lines<'_, F> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.rest.extend_from_slice(part);
            if self.rest.pop_if(|last| *last == b'\n').is_some() {
                self.verifier.line(&self.rest);
                (self.take)(&self.rest);
                self.rest.clear();
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
