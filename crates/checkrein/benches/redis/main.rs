//! `cargo bench -p checkrein --bench redis -- [--quick] [--only PART] [--callers N] [--with TEXT] [--json FILE]
//! [--date TEXT]`: decisions on a Redis server of the benchmark's own, beside what it takes at least to ask it anything.
//! Parts: `callers`, `far`, `processes`, `events`, `ceiling`, `bytes`.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark prints its results")]

mod bare;
mod ceiling;
mod more;
mod ours;
mod processes;
mod race;
mod server;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use checkrein_core::time::Span;
use serde_json::{Value, json};

use crate::bare::{Bare, What};
use crate::ours::{Ours, Work};
use crate::race::{Calls, Contestant, KEYS, Lap, Load, lap, median};
use crate::server::Server;

/// Anything that keeps the benchmark from running.
pub(crate) type Failure = Box<dyn std::error::Error>;

/// So short that a key has few events in it.
const FEW: Span = Span::from_millis(1);
/// The same far away, where there are fewer calls: long enough for records to live from one round to the next.
const FEW_FAR: Span = Span::from_secs(5);
const MINUTE: Span = Span::from_secs(60);
/// So long that nothing leaves it.
const HOUR: Span = Span::from_secs(3_600);
/// No limit that anybody reaches.
const NO_LIMIT: u64 = 1 << 40;
/// What the slow way adds in each direction.
const ONE_WAY: Duration = Duration::from_millis(1);

#[derive(Default)]
struct Options {
    quick: bool,
    /// Only this part.
    only: Option<String>,
    callers: Option<usize>,
    /// Only contestants whose name contains this, beside those that ratios are taken to.
    with: Option<String>,
    json: Option<String>,
    date: Option<String>,
}

impl Options {
    fn read(mut words: impl Iterator<Item = String>) -> Result<Self, Failure> {
        let (mut options, mut benchmark) = (Self::default(), false);
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("`{word}` needs a value"));
            match word.as_str() {
                "--quick" => options.quick = true,
                "--only" => options.only = Some(value()?),
                "--callers" => options.callers = Some(value()?.parse()?),
                "--with" => options.with = Some(value()?),
                "--json" => options.json = Some(value()?),
                "--date" => options.date = Some(value()?),
                // What cargo itself passes; without it this is `cargo test`, which only wants to see it run.
                "--bench" => benchmark = true,
                other => return Err(format!("unknown option `{other}`").into()),
            }
        }
        if !benchmark {
            options.quick = true;
            options.callers = options.callers.or(Some(8));
        }
        Ok(options)
    }

    fn rounds(&self) -> usize {
        if self.quick { 2 } else { 9 }
    }

    fn length(&self) -> Duration {
        Duration::from_millis(if self.quick { 100 } else { 400 })
    }

    fn wants(&self, part: &str) -> bool {
        self.only.as_ref().is_none_or(|only| only == part)
    }
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let done = match words.as_slice() {
        [word, rest @ ..] if word == processes::CHILD => processes::child(rest),
        _ => Options::read(words.into_iter()).and_then(|options| run(&options)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

pub(crate) fn load() -> String {
    std::fs::read_to_string("/proc/loadavg").unwrap_or_default().trim().to_owned()
}

fn run(options: &Options) -> Result<(), Failure> {
    let server = Server::start()?;
    let date = options.date.as_deref().unwrap_or("no date given");
    let before = load();
    println!("{date}, load {before}, {} rounds of {} s\n", options.rounds(), options.length().as_secs_f64());
    let mut results = Vec::new();
    for (part, far) in [("callers", false), ("far", true)] {
        if !options.wants(part) {
            continue;
        }
        for callers in [1, 8, 64] {
            for hot in [false, true] {
                // One caller cannot be in its own way.
                if options.callers.is_some_and(|only| only != callers) || (callers == 1 && hot) {
                    continue;
                }
                let load = Load { callers, hot, length: options.length() };
                results.extend(race(&server, options, load, far)?);
            }
        }
    }
    let mut rest = Vec::new();
    if options.wants("processes") {
        rest.push(json!({ "processes": processes::run(&server, options.rounds(), options.length())? }));
    }
    if options.wants("events") {
        rest.push(json!({ "events": more::events(&server, options.rounds())? }));
    }
    if options.wants("bytes") {
        rest.push(json!({ "bytes": more::bytes(&server, if options.quick { 5_000 } else { 100_000 })? }));
    }
    if options.wants("ceiling") {
        rest.push(json!({ "ceiling": ceiling::run(&server, options.rounds(), options.length())? }));
    }
    if let Some(file) = &options.json {
        let report = json!({
            "benchmark": "redis",
            "date": date,
            "load_before": before,
            "load_after": load(),
            "rounds": options.rounds(),
            "seconds": options.length().as_secs_f64(),
            "results": results,
            "more": rest,
        });
        std::fs::write(file, serde_json::to_string_pretty(&report)? + "\n")?;
    }
    Ok(())
}

/// The names that ratios are taken to.
const PING: &str = "PING";
const RATE: &str = "one bare rate script";
const PIPELINED: &str = "the same, 64 in a write";

/// A prefix for one store: what a process has once seen under a prefix it does not forget.
pub(crate) fn prefix() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("bench{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

fn contestants(server: &Server, port: u16, load: Load) -> Result<Vec<Contestant>, Failure> {
    // What was measured before must not make the server slower now. A store that is open would not trust it after this.
    server.ask(&[b"FLUSHALL"])?;
    let window = if port == server.port { FEW } else { FEW_FAR };
    let keys = if load.hot { 1 } else { load.callers as u64 * KEYS };
    let mut all = Vec::new();
    let mut bare = |name, what, batch| -> Result<(), Failure> {
        let bare = Bare::open(port, what, load.callers, keys, batch)?;
        let calls = Calls::Threads(Box::new(move |caller, key| bare.call(caller, key)));
        all.push(Contestant { name, calls, batch, laps: Vec::new() });
        Ok(())
    };
    bare(PING, What::Ping, 1)?;
    bare("EVALSHA of `return 1`", What::One, 1)?;
    bare(RATE, What::Ring, 1)?;
    if load.callers > 1 {
        bare(PIPELINED, What::Ring, 64)?;
    }
    let url = format!("redis://127.0.0.1:{port}");
    let names = [
        ("one limit", Work::Limit),
        ("four gates, admitted", Work::Four),
        ("four gates, admitted and finished", Work::Finished),
    ];
    for (name, work) in names {
        let ours = Ours::open(&url, &prefix(), work, window, NO_LIMIT, None)?;
        let calls = Calls::Threads(Box::new(move |_, key| ours.call(key)));
        all.push(Contestant { name, calls, batch: 1, laps: Vec::new() });
    }
    if load.callers > 1 {
        for (name, work) in
            [("one limit, nobody waits", Work::Limit), ("four gates, nobody waits", Work::Four)]
        {
            let ours = Ours::open(&url, &prefix(), work, window, NO_LIMIT, None)?;
            all.push(Contestant { name, calls: Calls::Chains(Arc::new(ours)), batch: 1, laps: Vec::new() });
        }
    }
    Ok(all)
}

fn race(server: &Server, options: &Options, load: Load, far: bool) -> Result<Vec<Value>, Failure> {
    let port = if far { server::slow_way(server.port, ONE_WAY)? } else { server.port };
    let mut all = contestants(server, port, load)?;
    if let Some(part) = &options.with {
        all.retain(|one| one.name.contains(part) || [PING, RATE].contains(&one.name));
    }
    for round in 0..=options.rounds() {
        for contestant in &mut all {
            let lap = lap(server, contestant, load)?;
            // The first round makes the records and warms everything.
            if round > 0 {
                contestant.laps.push(lap);
            }
        }
    }
    let keys = if load.hot { "one key" } else { "own keys" };
    let way = if far { ", 2 ms added to each round trip" } else { "" };
    println!("{} callers, {keys}{way}, load {}", load.callers, crate::load());
    println!(
        "{:<36}{:>9}{:>8}{:>8}{:>8}{:>8}{:>9}{:>9}{:>9}{:>8}{:>7}{:>7}",
        "",
        "/s",
        "p50 us",
        "p99 us",
        "x PING",
        "x rate",
        "client us",
        "server us",
        "script us",
        "scripts",
        "to",
        "from"
    );
    let of =
        |name: &str| all.iter().find(|one| one.name == name).map(|one| one.laps.clone()).unwrap_or_default();
    let (ping, rate) = (of(PING), of(RATE));
    let mut results = Vec::new();
    for Contestant { name, laps, .. } in &all {
        let of = |value: fn(&Lap) -> f64| median(laps.iter().map(value));
        let to = |base: &[Lap]| median(laps.iter().zip(base).map(|(lap, base)| lap.p50 / base.p50));
        let (to_ping, to_rate) = (to(&ping), to(&rate));
        println!(
            "{name:<36}{:>9.0}{:>8.0}{:>8.0}{to_ping:>8.2}{to_rate:>8.2}{:>9.1}{:>9.1}{:>9.1}{:>8.2}{:>7.0}{:>7.0}",
            of(|lap| lap.rate),
            of(|lap| lap.p50),
            of(|lap| lap.p99),
            of(|lap| lap.client),
            of(|lap| lap.server),
            of(|lap| lap.script),
            of(|lap| lap.scripts),
            of(|lap| lap.sent),
            of(|lap| lap.received),
        );
        results.push(json!({
            "contestant": name,
            "callers": load.callers,
            "hot": load.hot,
            "far": far,
            "per_second": of(|lap| lap.rate),
            "p50_us": of(|lap| lap.p50),
            "p99_us": of(|lap| lap.p99),
            "p50_to_ping": to_ping,
            "p50_to_rate": to_rate,
            "client_cpu_us": of(|lap| lap.client),
            "server_cpu_us": of(|lap| lap.server),
            "script_us": of(|lap| lap.script),
            "scripts": of(|lap| lap.scripts),
            "bytes_to_server": of(|lap| lap.sent),
            "bytes_from_server": of(|lap| lap.received),
        }));
    }
    println!();
    Ok(results)
}
