//! The fuzz targets for a bounded time on a stable compiler: every file of the kept corpus, and mutations of them.
//!
//! `FUZZ_RUNS` sets the mutations per target (10,000 by default), `FUZZ_SEED` the random numbers. A failure names both the
//! target and the bytes. `cargo +nightly fuzz run TARGET` looks further.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that cannot set itself up has failed"
)]
#![expect(clippy::disallowed_methods, reason = "tests read their corpus; the core itself does no I/O")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

#[expect(clippy::expect_used, reason = "a target fails by panicking")]
#[path = "../../../fuzz/targets.rs"]
mod targets;

/// What parsers trip over.
const TOKENS: [&[u8]; 24] = [
    b"\"",
    b"\\",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"null",
    b"0",
    b"-",
    b"1e400",
    b"\n",
    b"\n\n",
    b"\0",
    b"\x7f",
    b"\xff",
    b"\xed\xa0\x80",
    b"\\u0000",
    b"\\ud800",
    b"18446744073709551616",
    b"=",
    b"+",
    "\u{2014} ".as_bytes(),
];

struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % bound.max(1) as u64).unwrap()
    }
}

fn mutate(random: &mut Random, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut data = corpus[random.below(corpus.len())].clone();
    for _ in 0..=random.below(4) {
        let place = random.below(data.len() + 1);
        match random.below(7) {
            0 => data.truncate(place),
            1 => drop(data.drain(..place)),
            2 => drop(data.splice(place..place, TOKENS[random.below(TOKENS.len())].iter().copied())),
            3 => {
                let other = &corpus[random.below(corpus.len())];
                let tail = other[random.below(other.len() + 1)..].to_vec();
                drop(data.splice(place.., tail));
            }
            4 => {
                let part = data[place..(place + random.below(32)).min(data.len())].to_vec();
                drop(data.splice(place..place, part));
            }
            _ if place < data.len() => data[place] ^= 1 << random.below(8),
            _ => data.push(u8::try_from(random.below(256)).unwrap()),
        }
    }
    data
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn no_target_fails_on_its_corpus_or_near_it() {
    for (name, target) in targets::TARGETS {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(name);
        let mut files: Vec<_> =
            std::fs::read_dir(directory).unwrap().map(|file| file.unwrap().path()).collect();
        files.sort();
        let corpus: Vec<Vec<u8>> = files.iter().map(|path| std::fs::read(path).unwrap()).collect();
        assert!(!corpus.is_empty(), "{name} has no corpus");
        let mut random = Random(number("FUZZ_SEED", 1).max(1));
        let mutations = (0..number("FUZZ_RUNS", 10_000)).map(|_| mutate(&mut random, &corpus));
        for data in corpus.clone().into_iter().chain(mutations) {
            let run = catch_unwind(AssertUnwindSafe(|| target(&data)));
            assert!(run.is_ok(), "{name} fails on {:?}", String::from_utf8_lossy(&data));
        }
    }
}
