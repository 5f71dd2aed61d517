//! Servers that will not have us, or that must not be used; and that no secret is in what is said about it.

use super::*;

const PASSWORD: &str = "hunter2";

/// What a link to a URL says, quickly, and without a secret.
fn refused(url: &str) -> String {
    let mut link = stranger(url);
    let error = link.standing(tag(), Instant::now() + Duration::from_secs(2)).unwrap_err();
    let said = format!("{error} {error:?} {link:?}");
    assert!(!said.contains(PASSWORD) && !said.contains("sesame"), "{said}");
    text_of(&error)
}

#[test]
fn a_login_that_is_wrong_is_told_so() {
    if servers::missing() {
        return;
    }
    let server = Server::with_password("open", &[]);
    let at = format!("127.0.0.1:{}", server.port);
    assert!(refused(&format!("redis://{at}")).contains("wants a password"));
    for login in [":hunter2", "sesame:hunter2", "sesame"] {
        let text = refused(&format!("redis://{login}@{at}"));
        assert!(text.contains("does not accept the user or the password in the URL"), "{text}");
    }
    let mut fine = stranger(&server.url());
    assert_eq!(fine.standing(tag(), soon()), Ok(WELL));
    assert!(!format!("{fine:?}").contains("open"));
    let server = Server::start(&[]);
    // A server without a password says so in a text that names no user, one without AUTH repeats what it was sent.
    assert!(refused(&format!("redis://:hunter2@127.0.0.1:{}", server.port)).contains("leave it out"));
    let port =
        servers::impostor("-ERR unknown command 'AUTH', with args beginning with: 'sesame' 'hunter2'\r\n");
    assert!(refused(&format!("redis://sesame:hunter2@127.0.0.1:{port}")).contains("leave it out"));
}

#[test]
fn a_user_who_may_not_do_it_is_told_what_to_allow() {
    if servers::missing() {
        return;
    }
    let server = Server::start(&[]);
    server.cli(&["ACL", "SETUSER", "sesame", "on", ">hunter2", "~*", "+get"]);
    let url = format!("redis://sesame:hunter2@127.0.0.1:{}", server.port);
    assert!(refused(&url).contains("+@scripting"));
    // As the text says, and CONFIG is not among it.
    let rules = "~checkrein:* +@read +@write +@scripting +info +time +cluster|slots";
    let mut words = vec!["ACL", "SETUSER", "sesame", "reset", "on", ">hunter2"];
    words.extend(rules.split(' '));
    server.cli(&words);
    let mut link = stranger(&url);
    assert_eq!(link.standing(tag(), soon()), Ok(WELL));
    assert!(run(&mut link, &write(tag(), b"1")).is_ok());
    assert_eq!(link.servers(soon()).unwrap()[0].durability, "D1");
    // Another prefix is out of bounds.
    let mut other = Link::new(Address::parse(&url).unwrap(), "other");
    assert!(text_of(&other.standing(tag(), soon()).unwrap_err()).contains("prefix"));
}

#[test]
fn tls_is_verified_both_ways() {
    if servers::missing() {
        return;
    }
    let server = Server::with_tls(&["--tls-auth-clients", "yes", "--bind", "127.0.0.1", "127.0.0.2"]);
    let file = |name: &str| server.dir.join(name).display().to_string();
    let base = format!("rediss://localhost:{}", server.port);
    let identity = format!("client_cert={}&client_key={}", file("client.crt"), file("client.key"));
    let fine = format!("{base}?ca_cert={}&{identity}", file("ca.crt"));
    let mut link = stranger(&fine);
    assert_eq!(link.standing(tag(), soon()), Ok(WELL));
    for value in [vec![1; 300_000], vec![2; 10]] {
        let other = Tag::of(&value);
        assert!(run(&mut link, &write(other, &value)).is_ok());
        assert_eq!(found(&mut link, other), Ok(Some(value)));
    }
    server.cli(&["CLIENT", "KILL", "TYPE", "normal"]);
    assert_eq!(found(&mut link, tag()), Ok(None));

    let text = refused(&format!("{base}?{identity}"));
    assert!(text.contains("certificate"), "{text}");
    let text = refused(&format!("{base}?ca_cert={}&{identity}", file("other.crt")));
    assert!(text.contains("certificate"), "{text}");
    let text = refused(&fine.replace("localhost", "127.0.0.2"));
    assert!(text.contains("certificate"), "{text}");
    let text = refused(&format!("{base}?ca_cert={}", file("ca.crt")));
    assert!(text.contains("client_cert"), "{text}");
    let text = refused(&format!("{base}?ca_cert={}", file("missing.crt")));
    assert!(text.contains("missing.crt") && text.contains("cannot be read"), "{text}");
    let text = refused(&format!("{base}?ca_cert={}", file("log")));
    assert!(text.contains("contains no certificate"), "{text}");
    let text = refused(&fine.replace("client.key", "server.key"));
    assert!(text.contains("does not fit"), "{text}");
    // The wrong protocol, either way.
    let text = refused(&format!("redis://:hunter2@localhost:{}", server.port));
    assert!(text.contains("write `rediss`"), "{text}");
    let plain = Server::start(&[]);
    let text = refused(&format!("rediss://:hunter2@localhost:{}?ca_cert={}", plain.port, file("ca.crt")));
    assert!(text.contains("is this a TLS port"), "{text}");
}

#[test]
fn a_server_that_may_forget_is_not_used() {
    if servers::missing() {
        return;
    }
    for policy in ["allkeys-lru", "volatile-ttl"] {
        let server = Server::start(&["--maxmemory-policy", policy]);
        let text = refused(&server.url());
        assert!(text.contains(policy) && text.contains("noeviction"), "{text}");
    }
}

#[test]
fn full_memory_refuses_and_says_so() {
    if servers::missing() {
        return;
    }
    let server = Server::start(&[]);
    let mut link = link(&server.url());
    assert_eq!(link.standing(tag(), soon()), Ok(WELL));
    server.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    assert!(text_of(&run(&mut link, &write(tag(), b"1")).unwrap_err()).contains("memory is full"));
    assert!(text_of(&link.standing(Tag::of(b"other"), soon()).unwrap_err()).contains("memory is full"));
    server.cli(&["CONFIG", "SET", "maxmemory", "0"]);
    assert_eq!(found(&mut link, tag()), Ok(None));
    assert!(run(&mut link, &write(tag(), b"1")).is_ok());
}

#[test]
fn a_key_of_another_kind_is_refused_and_nothing_is_written() {
    if servers::missing() {
        return;
    }
    let server = Server::start(&[]);
    let mut link = link(&server.url());
    server.cli(&["LPUSH", &key(tag()), "x"]);
    let refused = run(&mut link, &write(tag(), b"1"));
    assert!(
        matches!(&refused, Err(LinkError::Refused(text)) if text.contains("something else")),
        "{refused:?}"
    );
    assert_eq!(server.cli(&["LLEN", &key(tag())]), "1");
    let other = Tag::of(b"other");
    server.cli(&["LPUSH", &name::epoch(PREFIX, other), "x"]);
    assert!(matches!(link.standing(other, soon()), Err(LinkError::Refused(_))));
}

#[test]
fn what_is_no_redis_is_told_apart() {
    let cases = [
        ("-DENIED Redis is running in protected mode because\r\n", "protected mode"),
        ("HTTP/1.1 400 Bad Request\r\n\r\n", "does not speak the protocol of Redis"),
        ("-LOADING Redis is loading the dataset in memory\r\n", "still loading"),
        (
            "-ERR unknown command 'x', with args beginning with: 'hunter2'\r\n",
            "the server refused: ERR unknown command 'x'",
        ),
        ("+OK\r\n", "does not say its `redis_version`"),
        (":1\r\n", "its INFO is no text"),
        ("$24\r\nredis_version:6.2.14\r\n\r\n\r\n", "needs Redis 7.0"),
    ];
    for (answer, expected) in cases {
        let text = refused(&format!("redis://127.0.0.1:{}", servers::impostor(answer)));
        assert!(text.contains(expected), "{answer}: {text}");
    }
    let text = refused("redis://127.0.0.1:1");
    assert!(text.contains("nothing listens there"), "{text}");
    let text = refused("redis://host.invalid");
    assert!(text.contains("host.invalid"), "{text}");
    let text = refused("unix:///nowhere/redis.sock");
    assert!(text.contains("no such socket"), "{text}");
}

/// A connection that does not come from this machine itself is what protected mode turns away, with a word that is lost
/// when one has already written to it.
#[test]
fn protected_mode_is_told_apart() {
    if servers::missing() {
        return;
    }
    let probe = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    let Ok(address) = probe.connect("192.0.2.1:9").and_then(|()| probe.local_addr()) else {
        eprintln!("skipped: this machine has no network");
        return;
    };
    let server = Server::start(&["--bind", "0.0.0.0", "--protected-mode", "yes"]);
    for _ in 0..10 {
        let text = refused(&format!("redis://{}:{}", address.ip(), server.port));
        assert!(text.contains("protected mode"), "{text}");
    }
}

#[test]
fn a_server_that_loads_is_waited_for_by_nobody() {
    if servers::missing() {
        return;
    }
    let server =
        Server::start(&["--key-load-delay", "20000", "--loading-process-events-interval-bytes", "1024"]);
    let mut link = link(&server.url());
    assert_eq!(link.standing(tag(), soon()), Ok(WELL));
    for number in 0..300 {
        server.cli(&["SET", &format!("filler:{number}"), &"x".repeat(500)]);
    }
    let shared = server.port;
    let reload = std::thread::spawn(move || {
        let output = std::process::Command::new("redis-cli")
            .args(["-p", &shared.to_string(), "DEBUG", "RELOAD"])
            .output();
        output.unwrap();
    });
    servers::until("it loads", || server.try_cli(&["INFO", "persistence"]).contains("loading:1"));
    let text = text_of(&run(&mut link, &look(tag())).unwrap_err());
    assert!(text.contains("loading"), "{text}");
    let text = refused(&server.url());
    assert!(text.contains("loading"), "{text}");
    reload.join().unwrap();
    // Loading begins a new history.
    assert!(link.standing(tag(), soon()).is_ok());
    assert_eq!(found(&mut link, tag()), Ok(None));
}
