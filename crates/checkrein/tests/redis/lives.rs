//! Servers that die and come back, with what they knew or without, and others that take their place.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use checkrein::store::redis::RedisOptions;

use crate::common::{
    budget, call, call_of, compile, finish, limit, once, patient, stranger, sums, whole_call,
};
use crate::servers::{self, Cluster, Sentinels, Server};

const UNTIL: &str = "--accept-epoch`";

#[test]
fn a_server_that_forgot_everything_is_not_trusted_with_money() {
    if servers::missing() {
        return;
    }
    let mut server = Server::start(&[]);
    let engine = stranger(&server.url(), patient());
    let (soft, hard) = (compile(&engine, vec![limit(2)]), compile(&engine, vec![budget(2, true)]));
    let paid = compile(&engine, vec![once()]);
    assert!(
        whole_call(&engine, &soft, "a")
            && whole_call(&engine, &soft, "a")
            && !whole_call(&engine, &soft, "a")
    );
    assert!(
        whole_call(&engine, &hard, "a")
            && whole_call(&engine, &hard, "a")
            && !whole_call(&engine, &hard, "a")
    );
    assert!(whole_call(&engine, &paid, "a") && !whole_call(&engine, &paid, "a"));
    server.restart();
    // The limit begins anew, as is said; what must not be lost waits for a person, here and in another process.
    assert!(whole_call(&engine, &soft, "a"));
    call(&engine, &hard, "a").failed(UNTIL);
    call(&engine, &paid, "a").failed(UNTIL);
    let other = stranger(&server.url(), patient());
    call(&other, &compile(&other, vec![budget(2, true)]), "a").failed(UNTIL);
    assert!(!engine.redis().unwrap().unaccepted().unwrap().is_empty());
    other.redis().unwrap().accept_epoch().unwrap();
    assert_eq!(engine.redis().unwrap().unaccepted().unwrap(), Vec::<String>::new());
    servers::until("it is noticed", || call(&engine, &hard, "a").allowed);
}

#[test]
fn a_server_that_kept_everything_goes_on_where_it_was() {
    if servers::missing() {
        return;
    }
    let mut server = Server::durable();
    let engine = stranger(&server.url(), patient());
    let policy = compile(&engine, vec![limit(5)]);
    let hard = compile(&engine, vec![budget(5, true)]);
    let permit = call(&engine, &hard, "a").passed().unwrap();
    for round in 0..5 {
        assert!(whole_call(&engine, &policy, "a"), "{round}");
        server.restart();
    }
    assert!(!whole_call(&engine, &policy, "a"));
    call(&engine, &hard, "a").failed(UNTIL);
    // What was begun before is settled all the same: it gives back, and admits nothing.
    finish(&engine, permit).unwrap();
    engine.redis().unwrap().accept_epoch().unwrap();
    servers::until("it is noticed", || whole_call(&engine, &hard, "a"));
    let allowed = (0..9).filter(|_| whole_call(&engine, &hard, "a")).count();
    assert_eq!(allowed, 3, "one of five was spent before, and one just now");
}

#[test]
fn a_server_that_is_killed_again_and_again_admits_nobody_twice() {
    if servers::missing() {
        return;
    }
    const LIMIT: u64 = 300;
    let mut server = Server::durable();
    let engines: Vec<_> = (0..2).map(|_| stranger(&server.url(), RedisOptions::default())).collect();
    let gates = || vec![limit(LIMIT), budget(LIMIT, false)];
    let policies: Vec<_> = engines.iter().map(|engine| compile(engine, gates())).collect();
    let (allowed, over) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for number in 0..6 {
            let (engine, policy, allowed, over) =
                (&engines[number % 2], &policies[number % 2], &allowed, &over);
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    let called = call(engine, policy, "hot");
                    allowed.fetch_add(called.allowed.into(), Ordering::Relaxed);
                    if let Some(permit) = called.permit {
                        let _ = finish(engine, permit);
                    } else {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                }
            });
        }
        for _ in 0..5 {
            std::thread::sleep(Duration::from_millis(40));
            server.restart();
        }
        servers::until("the limit is reached", || {
            call(&engines[0], &policies[0], "hot").codes.contains("rate_limited")
        });
        over.store(true, Ordering::Relaxed);
    });
    let allowed = allowed.into_inner();
    assert!(allowed > 0 && allowed <= LIMIT, "{allowed}");
    let observer = stranger(&server.url(), patient());
    compile(&observer, gates());
    let sums = sums(&observer);
    assert!(sums[0].count >= allowed && sums[0].count <= LIMIT, "{allowed} {sums:?}");
}

#[test]
fn a_failover_is_not_survived_and_that_is_said() {
    if servers::missing() {
        return;
    }
    let mut group = Sentinels::start();
    let url = group.url();
    let careful = stranger(&url, patient());
    let refused = careful.compile(vec![budget(5, true)], Default::default()).unwrap_err().to_string();
    assert!(refused.contains("replicated") && refused.contains("accept_failover_loss"), "{refused}");
    let engine = stranger(&url, RedisOptions { accept_failover_loss: true, ..patient() });
    let (soft, hard) = (compile(&engine, vec![limit(100)]), compile(&engine, vec![budget(9, true)]));
    assert!(whole_call(&engine, &soft, "a") && whole_call(&engine, &hard, "a"));
    group.fail_over();
    // The limit goes on on the next master, the budget waits.
    servers::until("the next master is found", || whole_call(&engine, &soft, "a"));
    call(&engine, &hard, "a").failed(UNTIL);
    engine.redis().unwrap().accept_epoch().unwrap();
    servers::until("the acceptance is noticed", || whole_call(&engine, &hard, "a"));
    // And without warning.
    let before = group.master_port();
    group.master().kill();
    group.wait_for_another(before);
    servers::until("the next master is found", || whole_call(&engine, &soft, "a"));
    call(&engine, &hard, "a").failed(UNTIL);
}

#[test]
fn a_cluster_is_one_store() {
    if servers::missing() {
        return;
    }
    let mut cluster = Cluster::start(0);
    let engine = stranger(&cluster.url(), RedisOptions::default());
    let policy = compile(&engine, vec![limit(2), budget(2, true)]);
    let tenants: Vec<String> = (0..40).map(|number| format!("tenant {number}")).collect();
    let admit = |tenant: &String| {
        let called = call_of(&engine, &policy, tenant, b"a");
        if let Some(permit) = called.permit {
            finish(&engine, permit).unwrap();
        }
        called
    };
    for tenant in &tenants {
        assert!(admit(tenant).allowed && admit(tenant).allowed);
        assert_eq!(admit(tenant).codes, "rate_limited+budget_exceeded");
    }
    assert!(cluster.nodes.iter().all(|node| node.cli(&["DBSIZE"]) != "0"));
    // One node dies: its tenants are refused, the others are served.
    let other = stranger(&cluster.url(), RedisOptions::default());
    let theirs = compile(&other, vec![limit(9)]);
    for tenant in &tenants {
        call_of(&other, &theirs, tenant, b"b").passed();
    }
    cluster.nodes[2].kill();
    for node in &cluster.nodes[..2] {
        node.cli(&["CONFIG", "SET", "cluster-require-full-coverage", "no"]);
    }
    servers::until("the others are served", || {
        let served = tenants.iter().filter(|tenant| call_of(&other, &theirs, tenant, b"b").allowed).count();
        served > 0 && served < tenants.len()
    });
    cluster.nodes[2].restart();
    cluster.wait();
    servers::until("all are served", || {
        tenants.iter().all(|tenant| call_of(&other, &theirs, tenant, b"b").allowed)
    });
}

#[test]
fn a_slot_that_moves_keeps_its_counts_and_asks_a_person() {
    if servers::missing() {
        return;
    }
    let cluster = Cluster::start(0);
    let engine = stranger(&cluster.url(), patient());
    let (soft, hard) = (compile(&engine, vec![limit(3)]), compile(&engine, vec![budget(3, true)]));
    assert!(whole_call(&engine, &soft, "a") && whole_call(&engine, &hard, "a"));
    for node in &cluster.nodes {
        for key in node.cli(&["KEYS", "checkrein:*:m:*"]).lines() {
            let slot = node.cli(&["CLUSTER", "KEYSLOT", key]).parse().unwrap();
            if cluster.master_of(slot).port == node.port {
                cluster.move_slot(slot);
            }
        }
    }
    assert!(
        whole_call(&engine, &soft, "a")
            && whole_call(&engine, &soft, "a")
            && !whole_call(&engine, &soft, "a")
    );
    call(&engine, &hard, "a").failed(UNTIL);
    engine.redis().unwrap().accept_epoch().unwrap();
    servers::until("it is noticed", || whole_call(&engine, &hard, "a"));
    let allowed = (0..5).filter(|_| whole_call(&engine, &hard, "a")).count();
    assert_eq!(allowed, 1);
}
