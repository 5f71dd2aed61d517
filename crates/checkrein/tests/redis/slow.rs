//! Servers that are slow, stopped or full: a decision comes in time, and nothing is half taken.

use std::time::Duration;

use crate::common::{SOON, Sums, budget, call, compile, engine, everything, finish, limit, sums, whole_call};
use crate::servers::{self, Server};

#[test]
fn a_server_that_is_stopped_refuses_everybody_in_time() {
    if servers::missing() {
        return;
    }
    let server = Server::start(&[]);
    let engine = engine(&server.url());
    let policy = compile(&engine, vec![limit(1_000), budget(1_000, false)]);
    let permit = call(&engine, &policy, "a").passed().unwrap();
    server.pause();
    std::thread::scope(|scope| {
        for number in 0..32 {
            let (engine, policy) = (&engine, &policy);
            scope.spawn(move || {
                for _ in 0..3 {
                    call(engine, policy, &format!("{}", number % 4)).failed("");
                }
            });
        }
    });
    let begin = std::time::Instant::now();
    assert!(finish(&engine, permit).is_err());
    assert!(begin.elapsed() < SOON, "{:?}", begin.elapsed());
    server.resume();
    // What was sent while it slept is done or undone; nothing stays taken, and the one that ended late ends.
    servers::until("it answers again", || whole_call(&engine, &policy, "b"));
    servers::until("what nobody knows of is given back", || {
        let _ = finish(&engine, permit);
        let _ = whole_call(&engine, &policy, "b");
        sums(&engine).iter().all(|sums| sums.held == 0)
    });
}

#[test]
fn a_server_that_holds_its_clients_back_is_late() {
    if servers::missing() {
        return;
    }
    let server = Server::start(&[]);
    let engine = engine(&server.url());
    let policy = compile(&engine, vec![limit(10), budget(10, false)]);
    assert!(whole_call(&engine, &policy, "a"));
    server.pause_clients(Duration::from_secs(2));
    let called = call(&engine, &policy, "a");
    called.failed("");
    assert!(called.took >= Duration::from_millis(400), "{called:?}");
    servers::until("it answers again", || whole_call(&engine, &policy, "a"));
    servers::until("what nobody knows of is given back", || {
        let _ = call(&engine, &policy, "nobody");
        sums(&engine).iter().filter(|sums| sums.held > 0).count() <= 1
    });
}

#[test]
fn a_full_server_takes_nothing_and_gives_back_later() {
    if servers::missing() {
        return;
    }
    let server = Server::start(&[]);
    let engine = engine(&server.url());
    let policy = compile(&engine, vec![limit(10), budget(10, false)]);
    let permit = call(&engine, &policy, "a").passed().unwrap();
    server.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    let before = everything(&server);
    for key in ["a", "a", "new"] {
        call(&engine, &policy, key).failed("memory is full");
    }
    // To end an action is to write, too: half of it would be worse than none.
    assert!(finish(&engine, permit).is_err());
    assert_eq!(everything(&server), before);
    server.cli(&["CONFIG", "SET", "maxmemory", "0"]);
    servers::until("the action has ended", || {
        let _ = finish(&engine, permit);
        sums(&engine).iter().all(|sums| sums.held == 0)
    });
    assert!(whole_call(&engine, &policy, "a"));
    assert_eq!(sums(&engine)[0], Sums { held: 0, spent: 2, count: 2 });
}

#[test]
fn a_script_flush_is_nothing() {
    if servers::missing() {
        return;
    }
    let server = Server::start(&[]);
    let engine = engine(&server.url());
    let policy = compile(&engine, vec![limit(100), budget(100, true)]);
    for _ in 0..20 {
        assert!(whole_call(&engine, &policy, "a"));
        server.cli(&["SCRIPT", "FLUSH"]);
    }
    assert_eq!(sums(&engine)[0].count, 20);
}
