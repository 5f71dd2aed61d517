//! Several servers: sentinels with a master, and clusters.

use super::*;
use servers::{Cluster, Sentinels};

fn tags(count: u16) -> Vec<Tag> {
    (0..count).map(|number| Tag::of(&number.to_be_bytes())).collect()
}

#[test]
fn sentinels_lead_to_the_master_and_to_the_next() {
    if servers::missing() {
        return;
    }
    let mut group = Sentinels::start();
    let mut link = link(&group.url());
    // It may be replaced, so it is never safe for what must not be lost.
    assert_eq!(link.standing(tag(), soon()), Ok(Standing { accepted: true, replicated: true }));
    run(&mut link, &write(tag(), b"1")).unwrap();
    group.fail_over();
    servers::until("the change is noticed", || match run(&mut link, &look(tag())) {
        Err(LinkError::Changed) => true,
        // The old master may close the connection in the middle of it.
        Ok(_) | Err(LinkError::Unknown(_)) => false,
        Err(error) => panic!("{error:?}"),
    });
    assert_eq!(link.standing(tag(), soon()), Ok(Standing { accepted: false, replicated: true }));
    assert_eq!(found(&mut link, tag()), Ok(Some(b"1".to_vec())));
    link.accept(tag(), soon()).unwrap();
    assert_eq!(link.standing(tag(), soon()), Ok(Standing { accepted: true, replicated: true }));
    // And once more, the hard way.
    let before = group.master_port();
    group.master().kill();
    let failed = run(&mut link, &look(tag()));
    assert!(failed.is_err(), "{failed:?}");
    group.wait_for_another(before);
    servers::until("the change is noticed", || run(&mut link, &look(tag())) == Err(LinkError::Changed));
    assert_eq!(link.standing(tag(), soon()), Ok(Standing { accepted: false, replicated: true }));
}

#[test]
fn sentinels_that_know_nothing_say_so() {
    if servers::missing() {
        return;
    }
    let server = Server::start(&[]);
    let early = || Instant::now() + Duration::from_millis(300);
    let url = format!("redis+sentinel://127.0.0.1:{}/main", server.port);
    let text = text_of(&link(&url).standing(tag(), early()).unwrap_err());
    assert!(text.contains("is no sentinel"), "{text}");
    let group = Sentinels::start();
    let url = group.url().replace(Sentinels::MASTER, "another");
    let text = text_of(&link(&url).standing(tag(), early()).unwrap_err());
    assert!(text.contains("knows no master called `another`"), "{text}");
    // One sentinel that hangs or is gone does not matter.
    group.sentinels[0].pause();
    let url = group.url().replace("sentinel://", "sentinel://127.0.0.1:1,");
    assert!(link(&url).standing(tag(), soon()).is_ok());
    group.sentinels[0].resume();
    let server = &group.sentinels[0];
    server.cli(&["ACL", "SETUSER", "default", ">pw"]);
    let url = format!("redis+sentinel://127.0.0.1:{}/{}", server.port, Sentinels::MASTER);
    let text = text_of(&link(&url).standing(tag(), early()).unwrap_err());
    assert!(text.contains("sentinel_password"), "{text}");
    assert!(link(&format!("{url}?sentinel_password=pw")).standing(tag(), soon()).is_ok());
}

#[test]
fn a_cluster_is_spoken_to_node_by_node() {
    if servers::missing() {
        return;
    }
    let cluster = Cluster::start(0);
    let mut link = link(&cluster.url());
    let tags = tags(60);
    for tag in &tags {
        assert_eq!(link.standing(*tag, soon()), Ok(WELL));
    }
    let requests: Vec<_> = tags.iter().map(|tag| write(*tag, tag.to_string().as_bytes())).collect();
    let replies = link.run(&requests, soon());
    assert!(replies.iter().all(Result::is_ok), "{replies:?}");
    let servers = link.servers(soon()).unwrap();
    assert_eq!(servers.len(), 3);
    assert!(cluster.nodes.iter().all(|node| node.cli(&["DBSIZE"]) != "0"));
    // A URL of one server that turns out to be a node of a cluster.
    let mut other = super::link(&cluster.nodes[1].url());
    let requests: Vec<_> = tags.iter().map(|tag| look(*tag)).collect();
    for (tag, reply) in tags.iter().zip(other.run(&requests, soon())) {
        let Ok(Value::Array(parts)) = reply else { panic!("{reply:?}") };
        assert_eq!(parts[1], Value::BulkString(tag.to_string().into_bytes()));
    }
    let text =
        text_of(&super::link(&format!("{}/1", cluster.nodes[1].url())).standing(tag(), soon()).unwrap_err());
    assert!(text.contains("database"), "{text}");
}

#[test]
fn a_slot_that_moves_takes_its_tags_to_a_server_that_nobody_has_accepted() {
    if servers::missing() {
        return;
    }
    let cluster = Cluster::start(0);
    let mut link = link(&cluster.url());
    assert_eq!(link.standing(tag(), soon()), Ok(WELL));
    run(&mut link, &write(tag(), b"1")).unwrap();
    cluster.move_slot(cluster::slot(tag()));
    assert_eq!(found(&mut link, tag()), Err(LinkError::Changed));
    assert_eq!(link.standing(tag(), soon()), Ok(LOST));
    assert_eq!(found(&mut link, tag()), Ok(Some(b"1".to_vec())));
    link.accept(tag(), soon()).unwrap();
    assert_eq!(link.standing(tag(), soon()), Ok(WELL));
}

#[test]
fn one_node_that_fails_stops_its_own_slots_only() {
    if servers::missing() {
        return;
    }
    let mut cluster = Cluster::start(1);
    let mut link = link(&cluster.url());
    let tags: Vec<_> = tags(60).into_iter().chain([tag()]).collect();
    let requests: Vec<_> = tags.iter().map(|tag| write(*tag, b"1")).collect();
    for tag in &tags {
        assert_eq!(link.standing(*tag, soon()), Ok(Standing { accepted: true, replicated: true }));
    }
    assert!(link.run(&requests, soon()).iter().all(Result::is_ok));
    let port = cluster.master_of(cluster::slot(tag())).port;
    let victim = cluster.nodes.iter_mut().find(|node| node.port == port).unwrap();
    victim.kill();
    let looks: Vec<_> = tags.iter().map(|tag| look(*tag)).collect();
    let replies = link.run(&looks, soon());
    assert!(replies.iter().any(Result::is_ok), "{replies:?}");
    assert!(replies.last().unwrap().is_err());
    // Its replica takes its place, and that is not what was accepted.
    servers::until("the replica is there", || {
        matches!(link.standing(tag(), soon()), Ok(Standing { accepted: false, .. })) || {
            std::thread::sleep(Duration::from_millis(200));
            false
        }
    });
    assert!(link.run(&[look(tag())], soon())[0].is_ok());
}

#[test]
fn a_node_that_hangs_does_not_hold_the_others_up() {
    if servers::missing() {
        return;
    }
    let cluster = Cluster::start(0);
    let mut link = link(&cluster.url());
    let tags = tags(60);
    for tag in &tags {
        assert_eq!(link.standing(*tag, soon()), Ok(WELL));
    }
    let hung = cluster.master_of(cluster::slot(tags[0]));
    let hangs = |tag: &Tag| cluster.master_of(cluster::slot(*tag)).port == hung.port;
    let hanging: Vec<bool> = tags.iter().map(hangs).collect();
    let looks: Vec<_> = tags.iter().map(|tag| look(*tag)).collect();
    hung.pause();
    for round in 0..2 {
        let begin = Instant::now();
        let replies = link.run(&looks, begin + Duration::from_millis(500));
        assert!(begin.elapsed() < Duration::from_secs(3), "{:?}", begin.elapsed());
        for (hangs, reply) in hanging.iter().zip(replies) {
            match (hangs, round, reply) {
                // It may have run before; the second time there is no connection to send it over.
                (false, _, Ok(_))
                | (true, 0, Err(LinkError::Unknown(_)))
                | (true, 1, Err(LinkError::NotRun(_))) => {}
                other => panic!("{other:?}"),
            }
        }
    }
    hung.resume();
    assert!(link.run(&looks, soon()).iter().all(Result::is_ok));
}
