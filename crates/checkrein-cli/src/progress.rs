//! How far long work is: one line on standard error, redrawn, and only where a person looks at a terminal.

use std::io::{IsTerminal as _, Write};
use std::time::{Duration, Instant};

/// What is quicker than this shows nothing.
const BEFORE_SHOWN: Duration = Duration::from_millis(300);
/// Between two drawings.
const BETWEEN: Duration = Duration::from_millis(100);
/// The clock is looked at once in so many calls: entries are counted one by one, faster than it can be read.
const CALLS: u32 = 256;
/// The widest that the bar itself is.
const WIDEST: usize = 40;

/// A bar that vanishes when the work ends, or when this is dropped.
pub(crate) struct Progress<W: Write = std::io::Stderr> {
    label: &'static str,
    /// Where it is drawn; nowhere without a terminal.
    to: Option<W>,
    calls: u32,
    next: Instant,
    is_shown: bool,
}

impl Progress {
    /// A bar on standard error, if that is a terminal that moves its cursor.
    pub(crate) fn new(label: &'static str) -> Self {
        let stderr = std::io::stderr();
        let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let to = (stderr.is_terminal() && !is_dumb).then_some(stderr);
        Self::on(to, label)
    }
}

impl<W: Write> Progress<W> {
    fn on(to: Option<W>, label: &'static str) -> Self {
        Self { label, to, calls: 0, next: Instant::now() + BEFORE_SHOWN, is_shown: false }
    }

    /// So much is done of so much; of nothing, where nobody knows how much there is.
    pub(crate) fn at(&mut self, done: u64, of: u64) {
        if self.to.is_none() {
            return;
        }
        self.calls = self.calls.wrapping_add(1);
        if !self.calls.is_multiple_of(CALLS) || Instant::now() < self.next {
            return;
        }
        self.next = Instant::now() + BETWEEN;
        self.draw(done, of, crate::command::columns());
    }

    fn draw(&mut self, done: u64, of: u64, columns: usize) {
        let Some(to) = &mut self.to else { return };
        // The bar is a courtesy: a terminal that cannot be written to must not stop the work.
        let _unseen = write!(to, "\r{}\u{1b}[K", line(self.label, done, of, columns));
        let _unseen = to.flush();
        self.is_shown = true;
    }

    /// Takes the bar away, so that something else can be printed.
    pub(crate) fn clear(&mut self) {
        if let Some(to) = &mut self.to
            && std::mem::take(&mut self.is_shown)
        {
            let _unseen = write!(to, "\r\u{1b}[K");
            let _unseen = to.flush();
        }
    }
}

impl<W: Write> Drop for Progress<W> {
    fn drop(&mut self) {
        self.clear();
    }
}

/// The line, never as wide as the terminal: one that wraps could not be taken away again.
fn line(label: &str, done: u64, of: u64, columns: usize) -> String {
    let room = columns.saturating_sub(1);
    let fit = |text: String| text.chars().take(room).collect::<String>();
    if of == 0 {
        return fit(format!("{label} {done}"));
    }
    let done = done.min(of);
    let share =
        |parts: u64| u64::try_from(u128::from(done) * u128::from(parts) / u128::from(of)).unwrap_or(0);
    let percent = format!("{:>3} %", share(100));
    let taken = label.chars().count() + percent.len() + 4;
    let width = room.saturating_sub(taken).min(WIDEST);
    if width < 8 {
        return fit(format!("{label} {percent}"));
    }
    let full = usize::try_from(share(width as u64)).unwrap_or(0).min(width);
    fit(format!("{label} [{}{}] {percent}", "#".repeat(full), " ".repeat(width - full)))
}

/// A writer that says how many lines have gone through it.
pub(crate) struct Counted<'p, W> {
    to: W,
    lines: u64,
    of: u64,
    progress: &'p mut Progress,
}

impl<'p, W: Write> Counted<'p, W> {
    /// Counts the lines written to `to`, of which there will be about `of`.
    pub(crate) fn new(to: W, of: u64, progress: &'p mut Progress) -> Self {
        Self { to, lines: 0, of, progress }
    }
}

impl<W: Write> Write for Counted<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.to.write(bytes)?;
        // A line break is written last, by itself or after a comma.
        if bytes.ends_with(b"\n") {
            self.lines += 1;
            self.progress.at(self.lines, self.of);
        }
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.to.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_fits_every_terminal() {
        for columns in [0, 1, 5, 10, 20, 40, 80, 200] {
            for (done, of) in [(0, 0), (7, 0), (0, 9), (5, 9), (9, 9), (12, 9), (u64::MAX, u64::MAX)] {
                let shown = line("verify", done, of, columns);
                assert!(shown.chars().count() < columns.max(1), "{columns}: `{shown}`");
            }
        }
        assert_eq!(line("verify", 1, 2, 40), "verify [############            ]  50 %");
        assert_eq!(line("verify", 1, 2, 20), "verify  50 %");
        assert_eq!(line("verify", 12, 0, 40), "verify 12");
    }

    #[test]
    fn what_was_drawn_is_taken_away() {
        let mut seen = Vec::new();
        {
            let mut progress = Progress::on(Some(&mut seen), "replay");
            progress.at(1, 2);
            progress.draw(1, 2, 20);
        }
        assert_eq!(String::from_utf8(seen).unwrap(), "\rreplay  50 %\u{1b}[K\r\u{1b}[K");
    }

    #[test]
    fn what_ends_at_once_and_what_nobody_sees_draws_nothing() {
        let mut seen = Vec::new();
        let mut progress = Progress::on(Some(&mut seen), "export");
        (0..10_000).for_each(|done| progress.at(done, 10_000));
        drop(progress);
        assert!(seen.is_empty(), "less than the time before it is shown has passed");
        let mut nowhere: Progress<Vec<u8>> = Progress::on(None, "export");
        nowhere.draw(1, 2, 80);
        assert!(!nowhere.is_shown);
    }
}
