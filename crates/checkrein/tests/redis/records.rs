//! What is under our keys is not what we wrote there, and keys are whatever users choose.

use crate::common::{
    Sums, budget, call, call_of, compile, engine, everything, finish, limit, once, patient, stranger, sums,
};
use crate::servers::{self, Cluster, Server};

/// The key of the only meter.
fn meter(server: &Server) -> String {
    let keys = server.cli(&["KEYS", "checkrein:{*}:m:*"]);
    let keys: Vec<&str> = keys.lines().filter(|key| !key.ends_with(":h")).collect();
    assert_eq!(keys.len(), 1, "{keys:?}");
    keys[0].to_owned()
}

fn set_byte(server: &Server, key: &str, at: usize, byte: u8) {
    let script = "return redis.call('SETRANGE', KEYS[1], ARGV[1], string.char(ARGV[2]))";
    server.cli(&["EVAL", script, "1", key, &at.to_string(), &byte.to_string()]);
}

fn byte(server: &Server, key: &str, at: usize) -> u8 {
    let script = "return string.byte(redis.call('GETRANGE', KEYS[1], ARGV[1], ARGV[1]))";
    server.cli(&["EVAL", script, "1", key, &at.to_string()]).parse().unwrap()
}

#[test]
fn a_record_of_a_newer_version_is_left_alone() {
    if servers::missing() {
        return;
    }
    let server = Server::start(&[]);
    let (one, two) = (stranger(&server.url(), patient()), stranger(&server.url(), patient()));
    let (policy, other) = (compile(&one, vec![limit(5)]), compile(&two, vec![limit(5)]));
    call(&one, &policy, "a").passed();
    let key = meter(&server);
    let format = byte(&server, &key, 0);
    set_byte(&server, &key, 0, format + 1);
    let before = everything(&server);
    // Who has it in memory, and who has never seen it.
    call(&one, &policy, "a").failed("version");
    call(&two, &other, "a").failed("version");
    assert_eq!(everything(&server), before);
    // Nobody else is concerned.
    call(&two, &other, "b").passed();
    set_byte(&server, &key, 0, format);
    call(&two, &other, "a").passed();
}

#[test]
fn every_byte_that_is_not_ours_is_found() {
    if servers::missing() {
        return;
    }
    let server = Server::start(&[]);
    let mine = stranger(&server.url(), patient());
    let policy = compile(&mine, vec![limit(10_000)]);
    call(&mine, &policy, "a").passed();
    let key = meter(&server);
    let length: usize = server.cli(&["STRLEN", &key]).parse().unwrap();
    for at in 0..length {
        // A reader that has nothing in memory, and one that has.
        let other = stranger(&server.url(), patient());
        let theirs = compile(&other, vec![limit(10_000)]);
        if at % 2 == 0 {
            call(&other, &theirs, "a").passed();
        }
        let right = byte(&server, &key, at);
        set_byte(&server, &key, at, right ^ 1);
        let before = everything(&server);
        let called = call(&other, &theirs, "a");
        // Bytes 1 to 8 say whose turn it is to write and nothing about the record; and whoever has the record in memory
        // writes it anew, or has the call counted behind it.
        let is_turn = (1..=8).contains(&at);
        if called.allowed {
            assert!(is_turn || (at % 2 == 0 && at > 8), "byte {at}: {called:?}");
            // The count is all that the server goes by, and it would have seen that.
            let counted = server.cli(&["EXISTS", &format!("{key}:t")]) == "1";
            assert!(!(counted && (9..=17).contains(&at)) || byte(&server, &key, at) == right, "byte {at}");
            if counted {
                set_byte(&server, &key, at, right);
            }
            continue;
        }
        assert!(!is_turn, "byte {at}: {called:?}");
        called.failed("");
        assert!(called.text.contains("damaged") || called.text.contains("version"), "byte {at}: {called:?}");
        assert_eq!(everything(&server), before);
        set_byte(&server, &key, at, right);
        call(&other, &theirs, "a").passed();
    }
}

#[test]
fn a_key_of_another_kind_takes_nothing() {
    if servers::missing() {
        return;
    }
    let server = Server::start(&[]);
    let engine = engine(&server.url());
    let policy = compile(&engine, vec![limit(5), budget(5, false)]);
    let permit = call(&engine, &policy, "a").passed().unwrap();
    for key in server.cli(&["KEYS", "checkrein:{*"]).lines() {
        let is_record = key.contains(":m:") || key.ends_with(":due") || key.contains(":i:");
        if !is_record || key.contains("{0000000000000000}") {
            continue;
        }
        // Another value of another kind in its place, for a while.
        server.cli(&["RENAME", key, "away"]);
        if key.ends_with(":due") || key.contains(":i:") {
            server.cli(&["SET", key, "x"]);
        } else {
            server.cli(&["LPUSH", key, "x"]);
        }
        let before = everything(&server);
        // The list of the gate's keys is written to for a new key only, the list of leases for every one.
        let hit = if key.contains(":i:") { "new" } else { "a" };
        call(&engine, &policy, hit).failed("");
        assert_eq!(everything(&server), before, "{key}");
        server.cli(&["RENAME", "away", key]);
    }
    finish(&engine, permit).unwrap();
    assert!(sums(&engine).iter().all(|sums| sums.held == 0), "{:?}", sums(&engine));
}

#[test]
fn keys_may_be_anything() {
    if servers::missing() {
        return;
    }
    let (server, cluster) = (Server::start(&[]), Cluster::start(0));
    let strange: [&[u8]; 14] = [
        b"",
        b"{}",
        b"{a}",
        b"}{",
        b"*",
        b"?",
        b"[a-z]",
        b"a b",
        b"\0",
        b"a\0b",
        b"\r\n$3\r\nfoo\r\n",
        b"\xff\xfe",
        b"checkrein:{0000000000000000}:tags",
        b"'); redis.call('FLUSHALL') --",
    ];
    for url in [server.url(), cluster.url()] {
        let engine = stranger(&url, patient());
        let policy = compile(&engine, vec![limit(1), budget(1, true), once()]);
        for (tenant, key) in strange.iter().flat_map(|key| [("", *key), ("{*} \0", *key)]) {
            let first = call_of(&engine, &policy, tenant, key);
            let permit = first.passed().unwrap();
            assert!(!call_of(&engine, &policy, tenant, key).allowed);
            finish(&engine, permit).unwrap();
            assert!(!call_of(&engine, &policy, tenant, key).allowed);
        }
        assert_eq!(sums(&engine).iter().map(|sums| sums.count).sum::<u64>(), 4 * strange.len() as u64);
    }
    // Nothing that a user chose is part of a key.
    let plain = |key: &str| key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b":{}".contains(&byte));
    let keys = server.cli(&["KEYS", "*"]);
    assert!(keys.lines().all(|key| plain(key) && key.starts_with("checkrein:{")), "{keys}");
}

#[test]
fn a_principal_of_a_mebibyte_is_refused_by_name() {
    if servers::missing() {
        return;
    }
    let server = Server::start(&[]);
    let engine = engine(&server.url());
    let policy = compile(&engine, vec![limit(1), budget(1, false)]);
    for (tenant, key) in [(String::new(), vec![b'x'; 1 << 20]), ("t".repeat(1 << 20), b"x".to_vec())] {
        let called = call_of(&engine, &policy, &tenant, &key);
        assert!(!called.allowed && called.codes.contains("too_large"), "{:?}", called.codes);
        assert!(called.text.len() < 10_000);
    }
    assert_eq!(sums(&engine), Vec::<Sums>::new());
    // The longest that is allowed.
    call_of(&engine, &policy, "", &vec![b'x'; 4_096]).passed();
}
