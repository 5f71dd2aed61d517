//! Servers that are not what they were.

use super::*;

#[test]
fn a_server_that_lost_everything_is_not_gone_on_with() {
    if servers::missing() {
        return;
    }
    let mut server = Server::start(&[]);
    let (mut one, mut two) = (link(&server.url()), stranger(&server.url()));
    for link in [&mut one, &mut two] {
        assert_eq!(link.standing(tag(), soon()), Ok(WELL));
        assert_eq!(found(link, tag()), Ok(None));
    }
    server.restart();
    // Nothing runs before the standing has been asked for, and nothing is in doubt.
    assert_eq!(run(&mut one, &write(tag(), b"1")), Err(LinkError::Changed));
    assert_eq!(run(&mut one, &write(tag(), b"1")), Err(LinkError::Changed));
    assert_eq!(one.standing(tag(), soon()), Ok(LOST));
    run(&mut one, &write(tag(), b"1")).unwrap();
    // The one who noticed told everybody: who knew it, and who has just come.
    assert_eq!(found(&mut two, tag()), Err(LinkError::Changed));
    assert_eq!(two.standing(tag(), soon()), Ok(LOST));
    assert_eq!(stranger(&server.url()).standing(tag(), soon()), Ok(LOST));
    // A person accepts it, and everybody notices.
    one.accept(tag(), soon()).unwrap();
    assert_eq!(one.standing(tag(), soon()), Ok(WELL));
    servers::until("the other notices", || two.standing(tag(), soon()) == Ok(WELL));
    assert_eq!(found(&mut two, tag()), Ok(Some(b"1".to_vec())));
}

#[test]
fn a_restart_that_kept_everything_is_to_be_accepted_as_well() {
    if servers::missing() {
        return;
    }
    let mut server = Server::durable();
    let mut link = link(&server.url());
    assert_eq!(link.standing(tag(), soon()), Ok(WELL));
    run(&mut link, &write(tag(), b"1")).unwrap();
    server.restart();
    assert_eq!(found(&mut link, tag()), Err(LinkError::Changed));
    assert_eq!(link.standing(tag(), soon()), Ok(LOST));
    assert_eq!(stranger(&server.url()).standing(tag(), soon()), Ok(LOST));
    assert_eq!(found(&mut link, tag()), Ok(Some(b"1".to_vec())));
    link.accept(tag(), soon()).unwrap();
    assert_eq!(stranger(&server.url()).standing(tag(), soon()), Ok(WELL));
    server.restart();
    assert_eq!(stranger(&server.url()).standing(tag(), soon()), Ok(LOST));
}

#[test]
fn a_newcomer_does_not_hide_what_was_lost() {
    if servers::missing() {
        return;
    }
    let mut server = Server::start(&[]);
    let mut one = link(&server.url());
    assert_eq!(one.standing(tag(), soon()), Ok(WELL));
    server.restart();
    let mut newcomer = stranger(&server.url());
    assert_eq!(newcomer.standing(tag(), soon()), Ok(WELL), "it cannot know better");
    // Any link of the process that knew the tag, also one that has just been made, says what it knows.
    assert_eq!(link(&server.url()).standing(tag(), soon()), Ok(LOST));
    assert_eq!(found(&mut one, tag()), Err(LinkError::Changed));
    assert_eq!(one.standing(tag(), soon()), Ok(LOST));
    servers::until("the newcomer notices", || run(&mut newcomer, &look(tag())) == Err(LinkError::Changed));
    assert_eq!(newcomer.standing(tag(), soon()), Ok(LOST));
}

#[test]
fn a_server_killed_under_a_request_leaves_it_unknown() {
    if servers::missing() {
        return;
    }
    let mut server = Server::start(&[]);
    let mut link = link(&server.url());
    assert_eq!(found(&mut link, tag()), Ok(None));
    server.pause();
    let killer = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(100));
        server.kill();
        server
    });
    assert!(matches!(run(&mut link, &write(tag(), b"1")), Err(LinkError::Unknown(_))));
    let mut server = killer.join().unwrap();
    assert!(text_of(&run(&mut link, &look(tag())).unwrap_err()).contains("nothing listens there"));
    server.restart();
    assert_eq!(run(&mut link, &look(tag())), Err(LinkError::Changed));
}

#[test]
fn a_master_that_becomes_a_replica_is_left() {
    if servers::missing() {
        return;
    }
    let (server, other) = (Server::start(&[]), Server::start(&[]));
    let mut link = link(&server.url());
    assert_eq!(link.standing(tag(), soon()), Ok(WELL));
    run(&mut link, &write(tag(), b"1")).unwrap();
    server.cli(&["REPLICAOF", "127.0.0.1", &other.port.to_string()]);
    let refused = run(&mut link, &write(tag(), b"2"));
    assert!(!matches!(refused, Ok(Value::Int(_)) | Err(LinkError::Unknown(_))), "{refused:?}");
    servers::until("it is a replica", || server.info("master_link_status") == "up");
    // Reads would be allowed; that it is a replica is noticed all the same.
    servers::until(
        "it is noticed",
        || matches!(found(&mut link, tag()), Err(LinkError::NotRun(text)) if text.contains("replica")),
    );
    // A master again, in the same process, with somebody else's history.
    server.cli(&["REPLICAOF", "NO", "ONE"]);
    assert_eq!(run(&mut link, &look(tag())), Err(LinkError::Changed));
    assert!(!link.standing(tag(), soon()).unwrap().accepted);
}

#[test]
fn a_replica_that_comes_is_noticed() {
    if servers::missing() {
        return;
    }
    let server = Server::start(&["--repl-diskless-sync-delay", "0"]);
    let mut link = link(&server.url());
    assert_eq!(link.standing(tag(), soon()), Ok(WELL));
    let replica = Server::start(&["--replicaof", "127.0.0.1", &server.port.to_string()]);
    servers::until("it is there", || replica.info("master_link_status") == "up");
    servers::until("it is noticed", || run(&mut link, &look(tag())) == Err(LinkError::Changed));
    assert!(link.standing(tag(), soon()).unwrap().replicated);
    let replica = super::link(&replica.url()).standing(tag(), soon()).unwrap_err();
    assert!(text_of(&replica).contains("is a replica"));
}

#[test]
fn a_policy_that_becomes_dangerous_is_noticed() {
    if servers::missing() {
        return;
    }
    let server = Server::start(&[]);
    let mut link = link(&server.url());
    assert_eq!(found(&mut link, tag()), Ok(None));
    server.cli(&["CONFIG", "SET", "maxmemory-policy", "volatile-ttl"]);
    servers::until(
        "it is noticed",
        || matches!(found(&mut link, tag()), Err(LinkError::NotRun(text)) if text.contains("volatile-ttl")),
    );
    server.cli(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    assert_eq!(found(&mut link, tag()), Ok(None));
}

#[test]
fn a_server_that_was_emptied_is_not_gone_on_with() {
    if servers::missing() {
        return;
    }
    let server = Server::start(&[]);
    let mut one = link(&server.url());
    assert_eq!(one.standing(tag(), soon()), Ok(WELL));
    run(&mut one, &write(tag(), b"1")).unwrap();
    server.cli(&["FLUSHALL"]);
    servers::until("it is noticed", || run(&mut one, &look(tag())) == Err(LinkError::Changed));
    assert_eq!(one.standing(tag(), soon()), Ok(LOST));
    one.accept(tag(), soon()).unwrap();
    assert_eq!(found(&mut one, tag()), Ok(None));
    assert_eq!(one.standing(tag(), soon()), Ok(WELL));
}

#[test]
fn a_tag_that_comes_later_is_not_trusted_on_a_server_that_is_not() {
    if servers::missing() {
        return;
    }
    let mut server = Server::durable();
    let other = Tag::of(b"other");
    assert_eq!(link(&server.url()).standing(Tag::STORE, soon()), Ok(WELL));
    server.restart();
    // Nobody here knows whether it was used before.
    let mut newcomer = stranger(&server.url());
    assert_eq!(newcomer.standing(other, soon()), Ok(LOST));
    newcomer.accept(Tag::STORE, soon()).unwrap();
    newcomer.accept(other, soon()).unwrap();
    assert_eq!(newcomer.standing(other, soon()), Ok(WELL));
    assert_eq!(newcomer.standing(tag(), soon()), Ok(WELL));
}

#[test]
fn what_a_person_accepts_is_accepted_for_tags_that_nobody_has_used_since() {
    if servers::missing() {
        return;
    }
    let mut server = Server::start(&[]);
    let mut one = link(&server.url());
    assert_eq!(one.standing(tag(), soon()), Ok(WELL));
    server.restart();
    stranger(&server.url()).accept(Tag::STORE, soon()).unwrap();
    assert_eq!(run(&mut one, &look(tag())), Err(LinkError::Changed));
    assert_eq!(one.standing(tag(), soon()), Ok(WELL));
}
