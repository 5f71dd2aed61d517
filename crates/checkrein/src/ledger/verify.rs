//! Verification of a file: an export, read line by line.

use std::io::{BufRead as _, BufReader, Read};
use std::path::Path;

use checkrein_core::ledger::checkpoint::VerifierKey;
use checkrein_core::ledger::verify::{Report, Verifier};

use super::LedgerError;

/// The longest line: the header of an export of a thousand million entries.
const LONGEST_LINE: u64 = 256 << 20;

/// Verifies the export in a file, `-` for standard input. `against` is a checkpoint kept elsewhere.
///
/// # Errors
/// The file cannot be read. What is wrong with its content is in the report.
pub fn verify_file(path: &Path, key: &VerifierKey, against: Option<&str>) -> Result<Report, LedgerError> {
    let failed = || LedgerError::file(path);
    let source: Box<dyn Read> = if path == Path::new("-") {
        Box::new(std::io::stdin().lock())
    } else {
        Box::new(std::fs::File::open(path).map_err(failed())?)
    };
    let mut source = BufReader::with_capacity(1 << 18, source);
    let mut verifier = Verifier::new(key, against);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = source.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line).map_err(failed())?;
        if read == 0 {
            return Ok(verifier.finish(true));
        }
        if line.pop_if(|last| *last == b'\n').is_none() {
            verifier.line(&line);
            return Ok(verifier.finish(false));
        }
        verifier.line(&line);
    }
}
