//! Servers that are not there, will not have us, or must not be used: opening says so in time, without a secret.

use std::time::{Duration, Instant};

use checkrein::store::StoreError;
use checkrein::store::redis::{RedisOptions, RedisStore};

use crate::common::{SOON, call, compile, engine, limit};
use crate::servers::{self, Server};

/// What is said about a URL that cannot be opened.
fn refused(url: &str) -> String {
    let begin = Instant::now();
    let error = RedisStore::open(url, RedisOptions::default()).unwrap_err();
    assert!(begin.elapsed() < SOON, "{url}: {:?}", begin.elapsed());
    assert!(matches!(error, StoreError::NotCommitted(_)), "{error:?}");
    let said = format!("{error} {error:?}");
    assert!(!said.contains("hunter2") && !said.contains("sesame"), "{said}");
    said
}

#[test]
fn a_url_that_is_none_is_refused() {
    for url in [
        "",
        "hunter2",
        "http://sesame:hunter2@h",
        "redis://sesame:hunter2/x@h",
        "redis://h:hunter2",
        "redis://h?x=hunter2",
    ] {
        assert!(refused(url).contains("Redis"), "{url}");
    }
}

#[test]
fn a_server_that_is_not_there_is_named() {
    assert!(
        refused("redis://:hunter2@127.0.0.1:1")
            .contains("no connection to 127.0.0.1:1: nothing listens there")
    );
    assert!(refused("redis+sentinel://:hunter2@127.0.0.1:1/main").contains("no sentinel knows"));
    assert!(refused("redis+cluster://:hunter2@127.0.0.1:1").contains("no node of the cluster says"));
    // Addresses that are for documents: packets to them go nowhere.
    assert!(refused("redis://:hunter2@192.0.2.1").contains("no connection to 192.0.2.1:6379"));
}

#[test]
fn a_server_that_does_not_want_us_is_understood() {
    if servers::missing() {
        return;
    }
    let server = Server::with_password("right", &[]);
    assert!(refused(&format!("redis://127.0.0.1:{}", server.port)).contains("wants a password"));
    assert!(refused(&format!("redis://:hunter2@127.0.0.1:{}", server.port)).contains("does not accept"));
    let fine = engine(&server.url());
    let policy = compile(&fine, vec![limit(1)]);
    call(&fine, &policy, "a").passed();
    let shown = fine.redis().unwrap();
    assert!(!format!("{} {shown:?} {fine:?}", shown.shown()).contains("right"));
    // Who is thrown out while it works is told so, and nothing else.
    server.cli(&["CONFIG", "SET", "requirepass", "hunter2"]);
    let _ = server.try_cli(&["-a", "hunter2", "CLIENT", "KILL", "TYPE", "normal"]);
    call(&fine, &policy, "a").failed("does not accept the user or the password in the URL");
}

#[test]
fn tls_that_fails_is_understood() {
    if servers::missing() {
        return;
    }
    let server = Server::with_tls(&[]);
    let fine = engine(&server.url());
    assert!(call(&fine, &compile(&fine, vec![limit(1)]), "a").allowed);
    assert!(refused(&format!("rediss://:hunter2@localhost:{}", server.port)).contains("certificate"));
    assert!(refused(&server.url().replace("ca.crt", "other.crt")).contains("certificate"));
    assert!(refused(&format!("redis://:hunter2@localhost:{}", server.port)).contains("write `rediss`"));
}

#[test]
fn a_server_that_may_forget_is_not_opened() {
    if servers::missing() {
        return;
    }
    let server = Server::start(&["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"]);
    let text = refused(&server.url());
    assert!(text.contains("allkeys-lru") && text.contains("set `maxmemory-policy noeviction`"), "{text}");
    // Nothing was written there.
    assert_eq!(server.cli(&["DBSIZE"]), "0");
    server.cli(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    let fine = engine(&server.url());
    let policy = compile(&fine, vec![limit(1_000)]);
    call(&fine, &policy, "a").passed();
    server.cli(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
    servers::until("it is noticed", || !call(&fine, &policy, "a").allowed);
    call(&fine, &policy, "a").failed("allkeys-lru");
}

#[test]
fn protected_mode_and_old_servers_are_understood() {
    let protected = servers::impostor("-DENIED Redis is running in protected mode\r\n");
    assert!(refused(&format!("redis://:hunter2@127.0.0.1:{protected}")).contains("protected mode"));
    let old = servers::impostor(servers::bulk("redis_version:6.2.14\r\n"));
    assert!(refused(&format!("redis://127.0.0.1:{old}")).contains("needs Redis 7.0 or Valkey 7.2"));
    let replica =
        "redis_version:7.2.4\r\nrole:slave\r\nmaster_replid:0\r\nrun_id:0\r\nmaxmemory_policy:noeviction\r\n";
    let replica = servers::impostor(servers::bulk(replica));
    assert!(refused(&format!("redis://127.0.0.1:{replica}")).contains("is a replica"));
}

#[test]
fn a_server_that_is_stopped_does_not_hold_anybody_up() {
    if servers::missing() {
        return;
    }
    let server = Server::start(&[]);
    server.pause();
    assert!(refused(&server.url()).contains("in time"));
    server.resume();
    let options = RedisOptions { deadline: Duration::from_secs(5), ..RedisOptions::default() };
    assert!(RedisStore::open(&server.url(), options).is_ok());
}
