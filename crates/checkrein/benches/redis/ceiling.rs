//! What the server alone could do with the scripts that our decisions send it: they are written down on their way, and
//! sent again as fast as it takes them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::Failure;
use crate::bare::{Reply, Wire, command};
use crate::ours::{Ours, Work};
use crate::race::{Calls, Contestant, KEYS, Load, lap, median};
use crate::server::{self, Server};

/// Scripts in one write.
const BATCH: usize = 64;
/// The bounds of the server's time in a commit: its first two arguments after the keys.
const ANY_TIME: [&[u8]; 2] = [b"0", b"9000000000000000"];

/// The commands that so many decisions send, each with bounds that always hold.
fn record(server: &Server, work: Work, decisions: u64) -> Result<Vec<Vec<u8>>, Failure> {
    let (port, heard) = server::listening_way(server.port)?;
    let url = format!("redis://127.0.0.1:{port}");
    let ours = Ours::open(&url, &crate::prefix(), work, crate::HOUR, crate::NO_LIMIT, None)?;
    let mut commands = Vec::new();
    for call in 0..decisions {
        if !ours.call(call % (64 * KEYS)) {
            return Err("a call was refused".into());
        }
        let bytes = std::mem::take(&mut *heard.lock());
        // A try that came too late was made again: the last one was committed.
        let mut last = None;
        let mut rest = bytes.as_slice();
        while let Some(mut words) = words(&mut rest)? {
            let keys = words.get(2).and_then(|keys| std::str::from_utf8(keys).ok()?.parse::<usize>().ok());
            let is_script = words.first().is_some_and(|word| *word == b"EVALSHA");
            let Some(keys) = keys.filter(|_| is_script) else { continue };
            // Commits of decisions have bounds; other scripts have not.
            let Some([earliest, latest]) = words.get_mut(3 + keys..5 + keys) else { continue };
            if !earliest.is_empty() && earliest.iter().all(u8::is_ascii_digit) {
                [*earliest, *latest] = ANY_TIME;
                last = Some(command(&words));
            }
        }
        commands.push(last.ok_or("a decision sent no commit")?);
    }
    Ok(commands)
}

/// The words of the next command.
fn words<'a>(rest: &mut &'a [u8]) -> Result<Option<Vec<&'a [u8]>>, Failure> {
    let Some(count) = number(rest, b'*')? else { return Ok(None) };
    let mut words = Vec::with_capacity(count);
    for _ in 0..count {
        let length = number(rest, b'$')?.ok_or("half a command")?;
        let (word, after) = rest.split_at_checked(length).ok_or("half a word")?;
        *rest = after.get(2..).ok_or("half a word")?;
        words.push(word);
    }
    Ok(Some(words))
}

fn number(rest: &mut &[u8], kind: u8) -> Result<Option<usize>, Failure> {
    let Some(end) = rest.windows(2).position(|pair| pair == b"\r\n") else { return Ok(None) };
    let (line, after) = rest.split_at(end);
    *rest = after.get(2..).unwrap_or_default();
    let digits = line.strip_prefix(&[kind]).ok_or("not a command")?;
    Ok(Some(std::str::from_utf8(digits)?.parse()?))
}

/// Sends all commands again; scripts a second, and what the server counts for each in microseconds.
fn play(server: &Server, commands: &[Vec<u8>]) -> Result<(f64, f64), Failure> {
    let batches: Vec<Vec<u8>> = commands.chunks(BATCH).map(<[Vec<u8>]>::concat).collect();
    let mut wire = Wire::connect(server.port)?;
    // In a database of its own: the store beside it would not trust a server that has forgotten everything.
    wire.ask(&command(&[b"SELECT", b"1"]))?;
    wire.ask(&command(&[b"FLUSHDB"]))?;
    let before = server.counters()?;
    let start = Instant::now();
    // One batch is under way while the one before is answered, so that the server never waits.
    let mut sent = batches.iter();
    for batch in sent.by_ref().take(2) {
        wire.send(batch)?;
    }
    for number in 0..commands.len() {
        match wire.reply()? {
            Reply::Int(_) => {}
            other => return Err(format!("command {number} was not committed: {other:?}").into()),
        }
        if (number + 1) % BATCH == 0
            && let Some(batch) = sent.next()
        {
            wire.send(batch)?;
        }
    }
    let took = start.elapsed().as_secs_f64();
    let after = server.counters()?;
    let each = (after.script_us - before.script_us) / (after.scripts - before.scripts);
    Ok((commands.len() as f64 / took, each))
}

/// The ceiling, and how near 64 callers come to it.
pub(crate) fn run(server: &Server, rounds: usize, length: Duration) -> Result<Value, Failure> {
    println!("the server's own ceiling, load {}", crate::load());
    println!(
        "{:<14}{:>14}{:>12}{:>16}{:>10}{:>10}",
        "", "ceiling /s", "script us", "64 callers /s", "ratio", "script us"
    );
    let mut results = Vec::new();
    for (name, work) in [("one limit", Work::Limit), ("four gates", Work::Four)] {
        let commands = record(server, work, 4_096)?;
        let url = server.url();
        let ours = Arc::new(Ours::open(&url, &crate::prefix(), work, crate::FEW, crate::NO_LIMIT, None)?);
        let near = Contestant { name, calls: Calls::Chains(ours), batch: 1, laps: Vec::new() };
        let load = Load { callers: 64, hot: false, length };
        let mut laps = Vec::new();
        for round in 0..=rounds {
            let (ceiling, each) = play(server, &commands)?;
            let lap = lap(server, &near, load)?;
            if round > 0 {
                laps.push([ceiling, each, lap.rate, lap.rate / ceiling, lap.script]);
            }
        }
        let [ceiling, each, rate, ratio, script] =
            std::array::from_fn(|at| median(laps.iter().filter_map(|lap: &[f64; 5]| lap.get(at).copied())));
        println!("{name:<14}{ceiling:>14.0}{each:>12.1}{rate:>16.0}{ratio:>10.2}{script:>10.1}");
        results.push(json!({
            "contestant": name, "ceiling_per_second": ceiling, "script_us": each, "per_second": rate,
            "ratio": ratio, "script_us_with_callers": script,
        }));
    }
    println!();
    Ok(json!(results))
}
