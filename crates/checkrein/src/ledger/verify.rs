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
    verify_lines(path, Verifier::new(key, against), |_| (), &mut |_, _| ())
}

/// Verifies a ledger, the export in a file or what is sealed in a store's file, and hands its entries over to be compared
/// with those of others. `watch` is told now and then how much is done of how much: of nothing where nobody knows.
///
/// # Errors
/// The file cannot be read. What is wrong with its content is in the report.
pub fn verify_with(
    path: &Path,
    key: &VerifierKey,
    against: Option<&str>,
    together: &mut Together,
    watch: &mut dyn FnMut(u64, u64),
) -> Result<Report, LedgerError> {
    together.next_ledger();
    let verifier = Verifier::new(key, against);
    let take = |line: &[u8]| {
        if let Ok(entry) = EntryView::read(line) {
            together.entry(&entry);
        }
    };
    if !is_store(path)? {
        return verify_lines(path, verifier, take, watch);
    }
    let database = Database::open(path)?;
    let mut lines = Lines { verifier, take, rest: Vec::new(), read: 0, of: database.size()?, watch };
    export(&database, Scope::Sealed, &mut lines)?;
    Ok(lines.verifier.finish(lines.rest.is_empty()))
}

/// Whether a file is a store's rather than an export.
pub(crate) fn is_store(path: &Path) -> Result<bool, LedgerError> {
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
    watch: &mut dyn FnMut(u64, u64),
) -> Result<Report, LedgerError> {
    let failed = || LedgerError::file(path);
    let (source, of): (Box<dyn Read>, u64) = if path == Path::new("-") {
        (Box::new(std::io::stdin().lock()), 0)
    } else {
        let file = std::fs::File::open(path).map_err(failed())?;
        let length = file.metadata().map_or(0, |data| data.len());
        (Box::new(file), length)
    };
    let mut done = 0_u64;
    let mut source = BufReader::with_capacity(1 << 18, source);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = source.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line).map_err(failed())?;
        if read == 0 {
            return Ok(verifier.finish(true));
        }
        done = done.saturating_add(read as u64);
        watch(done, of);
        let complete = line.pop_if(|last| *last == b'\n').is_some();
        verifier.line(&line);
        each(&line);
        if !complete {
            return Ok(verifier.finish(false));
        }
    }
}

/// An export that is verified while it is written.
struct Lines<'k, 'w, F> {
    verifier: Verifier<'k>,
    take: F,
    /// A line that is not complete yet.
    rest: Vec<u8>,
    read: u64,
    of: u64,
    watch: &'w mut dyn FnMut(u64, u64),
}

impl<F: FnMut(&[u8])> Write for Lines<'_, '_, F> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.rest.extend_from_slice(part);
            if self.rest.pop_if(|last| *last == b'\n').is_some() {
                self.verifier.line(&self.rest);
                (self.take)(&self.rest);
                self.rest.clear();
                self.read = self.read.saturating_add(1);
                (self.watch)(self.read.min(self.of), self.of);
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
