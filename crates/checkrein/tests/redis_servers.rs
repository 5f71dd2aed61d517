//! The servers that the tests of the Redis store run against do what the tests rely on.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

#[path = "redis/servers.rs"]
#[expect(dead_code, clippy::indexing_slicing, clippy::print_stderr, reason = "each test uses a part of it")]
mod servers;

use servers::{Cluster, Sentinels, Server};

#[test]
fn a_server_starts_dies_and_starts_again() {
    if servers::missing() {
        return;
    }
    let mut server = Server::durable();
    server.cli(&["SET", "a", "1"]);
    let before = server.info("run_id");
    server.restart();
    assert_eq!(server.cli(&["GET", "a"]), "1");
    assert_ne!(server.info("run_id"), before);
    let mut server = Server::with_tls(&[]);
    server.cli(&["SET", "a", "1"]);
    server.restart();
    assert_eq!(server.cli(&["GET", "a"]), "");
    let server = Server::with_password("secret", &[]);
    assert_eq!(server.cli(&["PING"]), "PONG");
}

#[test]
fn a_cluster_serves_every_slot_and_moves_one() {
    if servers::missing() {
        return;
    }
    let cluster = Cluster::start(0);
    let before = cluster.master_of(12182);
    before.cli(&["SET", "foo", "1"]);
    cluster.move_slot(12182);
    let after = cluster.master_of(12182);
    assert_ne!(before.port, after.port);
    assert_eq!(after.cli(&["GET", "foo"]), "1");
}

#[test]
fn sentinels_put_the_replica_in_the_place_of_the_master() {
    if servers::missing() {
        return;
    }
    let mut group = Sentinels::start();
    let before = group.master_port();
    group.fail_over();
    assert_ne!(group.master_port(), before);
    assert_eq!(group.master().info("role"), "master");
}
