//! One number for a whole run: two runs of a seed have to give the same.

/// A running FNV-1a hash of texts, and the last of them for whoever reads a failure.
#[derive(Clone, Debug)]
pub(crate) struct Trace {
    hash: u64,
    lines: Vec<String>,
    keep: bool,
}

impl Trace {
    /// An empty trace; `keep` keeps the lines and not only their hash.
    pub(crate) fn new(keep: bool) -> Self {
        Self { hash: 0xcbf2_9ce4_8422_2325, lines: Vec::new(), keep }
    }

    /// Adds a line.
    pub(crate) fn note(&mut self, line: impl FnOnce() -> String) {
        let line = line();
        for byte in line.bytes().chain([b'\n']) {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        if self.keep {
            self.lines.push(line);
        }
    }

    /// The number of all lines so far.
    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    /// The lines.
    pub(crate) fn into_lines(self) -> Vec<String> {
        self.lines
    }
}
