//! Several processes on one hot key: how many decisions they get together, and that they get no more than the limit.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use checkrein_core::time::Span;
use serde_json::{Value, json};

use crate::Failure;
use crate::bare::{Bare, What};
use crate::ours::{Ours, Work};
use crate::race::{Calls, Contestant, Load, lap, median};
use crate::server::Server;

/// The word by which a process of this program is told to be one of several.
pub(crate) const CHILD: &str = "--child";
/// The limit in the run that counts.
const EXACT: u64 = 20_000;

/// What a child does.
const KINDS: [(&str, usize, bool); 8] = [
    ("bare rate script, 1 caller", 1, true),
    ("bare rate script, 64 in a write", 1, true),
    ("one limit, 1 caller", 1, true),
    ("one limit, 8 threads", 8, true),
    ("one limit, 64 callers that do not wait", 64, true),
    ("one limit, own keys, 1 caller", 1, false),
    ("bare rate script, own keys, 64 in a write", 1, false),
    ("one limit, own keys, 64 callers that do not wait", 64, false),
];
const PREFIX: &str = "many";

/// One of several processes: says `ready`, waits for a word, calls, and says what came of it.
pub(crate) fn child(words: &[String]) -> Result<(), Failure> {
    let [port, kind, process, millis] = words else { return Err("four words".into()) };
    let (port, process) = (port.parse()?, process.parse::<u64>()?);
    let url = format!("redis://127.0.0.1:{port}");
    if kind == "exact" {
        let ours = Ours::open(&url, "exact", Work::Limit, Span::from_secs(3_600), EXACT, None)?;
        ready()?;
        let count = || std::iter::repeat_with(|| ours.call(0)).take_while(|allowed| *allowed).count();
        let admitted: usize = std::thread::scope(|scope| {
            let callers: Vec<_> = (0..2).map(|_| scope.spawn(count)).collect();
            callers.into_iter().filter_map(|caller| caller.join().ok()).sum()
        });
        writeln!(std::io::stdout(), "{admitted}")?;
        return Ok(());
    }
    if kind == "fair" {
        let ours = Ours::open_within(
            checkrein::store::redis::DEFAULT_DEADLINE,
            &url,
            "fair",
            Work::Limit,
            crate::FEW,
            crate::NO_LIMIT,
            None,
        )?;
        ready()?;
        let end = Instant::now() + Duration::from_millis(millis.parse()?);
        let (mut admitted, mut refused, mut longest) = (0_u64, 0_u64, 0.0_f64);
        while Instant::now() < end {
            let before = Instant::now();
            if ours.call(0) {
                admitted += 1
            } else {
                refused += 1
            }
            longest = longest.max(before.elapsed().as_secs_f64() * 1e3);
        }
        writeln!(std::io::stdout(), "{admitted} {refused} {longest}")?;
        return Ok(());
    }
    let &(name, callers, hot) = KINDS.get(kind.parse::<usize>()?).ok_or("no such kind")?;
    let load = Load { callers, hot, length: Duration::from_millis(millis.parse()?) };
    let offset = if hot { 0 } else { process * 64 * crate::KEYS };
    let batch = if name.contains("64 in a write") { 64 } else { 1 };
    let calls = if name.starts_with("bare") {
        let bare = Bare::open(port, What::Ring, callers, 9 * 64 * crate::KEYS, batch)?;
        Calls::Threads(Box::new(move |caller, key| bare.call(caller, offset + key)))
    } else {
        let ours = Ours::open(&url, PREFIX, Work::Limit, crate::FEW, crate::NO_LIMIT, None)?;
        match name.contains("do not wait") {
            true => Calls::Chains(Arc::new(ours.starting_at(offset))),
            false => Calls::Threads(Box::new(move |_, key| ours.call(offset + key))),
        }
    };
    let mut contestant = Contestant { name, calls, batch, laps: Vec::new() };
    let server = Server::at(port);
    // Once for nothing: records are made, connections are there.
    lap(&server, &contestant, Load { length: Duration::from_millis(20), ..load })?;
    ready()?;
    contestant.laps.push(lap(&server, &contestant, load)?);
    for lap in contestant.laps {
        writeln!(std::io::stdout(), "{} {} {} {}", lap.rate, lap.p50, lap.p99, lap.client)?;
    }
    Ok(())
}

fn ready() -> Result<(), Failure> {
    let mut out = std::io::stdout();
    writeln!(out, "ready")?;
    out.flush()?;
    std::io::stdin().lock().read_line(&mut String::new())?;
    Ok(())
}

/// So many processes at the same time; what each of them says.
fn together(port: u16, processes: usize, kind: &str, length: Duration) -> Result<Vec<Vec<f64>>, Failure> {
    let start = |process: usize| {
        Command::new(std::env::current_exe()?)
            .args([CHILD, &port.to_string(), kind, &process.to_string(), &length.as_millis().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
    };
    let mut children = (0..processes).map(start).collect::<Result<Vec<_>, _>>()?;
    let mut heard = Vec::new();
    for child in &mut children {
        let mut lines = BufReader::new(child.stdout.take().ok_or("no output")?).lines();
        lines.next().ok_or("a process said nothing")??;
        heard.push(lines);
    }
    for child in &mut children {
        drop(child.stdin.take());
    }
    let mut said = Vec::new();
    for mut lines in heard {
        let line = lines.next().ok_or("a process did not end well")??;
        said.push(line.split(' ').map(str::parse).collect::<Result<_, _>>()?);
    }
    for mut child in children {
        child.wait()?;
    }
    Ok(said)
}

/// One, two and eight processes.
pub(crate) fn run(server: &Server, rounds: usize, length: Duration) -> Result<Value, Failure> {
    println!("several processes, load {}", crate::load());
    println!(
        "{:<52}{:>10}{:>11}{:>10}{:>10}{:>10}{:>10}{:>8}",
        "", "processes", "/s together", "p50 us", "p99 us", "server us", "script us", "scripts"
    );
    let (mut all, mut results) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        for (kind, _) in KINDS.iter().enumerate() {
            for processes in [1, 2, 8] {
                server.ask(&[b"FLUSHALL"])?;
                let before = server.counters()?;
                let said = together(server.port, processes, &kind.to_string(), length)?;
                let after = server.counters()?;
                let of = |column: usize| said.iter().filter_map(move |words| words.get(column).copied());
                let scripts = after.scripts - before.scripts;
                let rate: f64 = of(0).sum();
                // With the short lap that does not count.
                let calls = rate * (length.as_secs_f64() + 0.02);
                let values = [
                    rate,
                    median(of(1)),
                    of(2).fold(0.0, f64::max),
                    (after.cpu_us - before.cpu_us) / calls,
                    (after.script_us - before.script_us) / calls,
                    scripts / calls,
                ];
                if round == 0 {
                    all.push((kind, processes, Vec::new()));
                }
                let one = all.iter_mut().find(|one| (one.0, one.1) == (kind, processes));
                one.into_iter().for_each(|one| one.2.push(values));
            }
        }
    }
    for (kind, processes, laps) in &all {
        let name = KINDS.get(*kind).map_or("", |kind| kind.0);
        let [rate, p50, p99, server, script, scripts] = std::array::from_fn(|column| {
            median(laps.iter().filter_map(|lap: &[f64; 6]| lap.get(column).copied()))
        });
        println!(
            "{name:<52}{processes:>10}{rate:>11.0}{p50:>10.0}{p99:>10.0}{server:>10.1}{script:>10.1}{scripts:>8.2}"
        );
        results.push(json!({
            "contestant": name, "processes": processes, "per_second": rate, "p50_us": p50, "worst_p99_us": p99,
            "server_cpu_us": server, "script_us": script, "scripts": scripts,
        }));
    }
    server.ask(&[b"FLUSHALL"])?;
    let said = together(server.port, 8, "exact", length)?;
    let admitted: f64 = said.iter().filter_map(|words| words.first()).sum();
    let each: Vec<f64> = said.iter().filter_map(|words| words.first().copied()).collect();
    println!(
        "eight processes with two threads each and a limit of {EXACT}: {admitted} were admitted {each:?}\n"
    );
    if admitted != EXACT as f64 {
        return Err("the limit was not kept exactly".into());
    }
    let said = together(server.port, 8, "fair", length * 8)?;
    let of = |column: usize| said.iter().filter_map(move |words| words.get(column).copied());
    let (calls, refused): (f64, f64) = (of(0).sum(), of(1).sum());
    let (least, most) = (of(0).fold(f64::MAX, f64::min), of(0).fold(0.0, f64::max));
    let longest = of(2).fold(0.0, f64::max);
    println!(
        "eight processes with one caller each and a deadline of 500 ms: {calls} decisions, {least} to {most} each, \
         {refused} not made in time, longest wait {longest:.0} ms\n"
    );
    let fair =
        json!({ "admitted": calls, "late": refused, "least": least, "most": most, "longest_ms": longest });
    Ok(json!({ "fair": fair, "rates": results, "limit": EXACT, "admitted": admitted }))
}
