//! The way to real servers that are killed, stopped, moved, filled and replaced.

use std::time::Duration;

use super::*;

#[path = "../../../../tests/redis/servers.rs"]
#[expect(dead_code, reason = "each test uses a part of it")]
mod servers;

mod changes;
mod groups;
mod refusals;

use servers::{Proxy, Server};

const PREFIX: &str = "checkrein";

fn tag() -> Tag {
    Tag::of(b"tenant")
}

fn link(url: &str) -> Link {
    Link::new(Address::parse(url).unwrap(), PREFIX)
}

/// A link of another process: it shares no memory of tags with the others here.
fn stranger(url: &str) -> Link {
    Link { memory: Arc::default(), ..link(url) }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(5)
}

fn key(tag: Tag) -> String {
    format!("{PREFIX}:{{{tag}}}:f:test")
}

/// Reads one key.
fn look(tag: Tag) -> Request {
    let mut request = Request::new(Script::Look, tag);
    request.key(key(tag).as_bytes());
    request.arg(b"get");
    request
}

/// Writes one key that is not there.
fn write(tag: Tag, value: &[u8]) -> Request {
    let mut request = Request::new(Script::Commit, tag);
    request.key(key(tag).as_bytes());
    for arg in ["", "", "1", "0", "", "", "1", "SET", "1"] {
        request.arg(arg.as_bytes());
    }
    request.arg(value);
    request
}

fn run(link: &mut Link, request: &Request) -> Result<Value, LinkError> {
    link.run(std::slice::from_ref(request), soon()).pop().unwrap()
}

/// What is in the key; the time in front of it is left out.
fn found(link: &mut Link, tag: Tag) -> Result<Option<Vec<u8>>, LinkError> {
    match run(link, &look(tag))? {
        Value::Array(parts) => match &parts[..] {
            [Value::Int(_), Value::BulkString(bytes), ..] => Ok(Some(bytes.clone())),
            [Value::Int(_), ..] => Ok(None),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

fn text_of(error: &LinkError) -> String {
    assert!(matches!(error, LinkError::NotRun(_)), "{error:?}");
    error.to_string()
}

const WELL: Standing = Standing { accepted: true, replicated: false };
const LOST: Standing = Standing { accepted: false, replicated: false };

#[test]
fn what_is_written_is_read() {
    if servers::missing() {
        return;
    }
    let server = Server::start(&["--unixsocket", "socket"]);
    let mut one = link(&server.url());
    assert_eq!(one.standing(tag(), soon()), Ok(WELL));
    assert_eq!(found(&mut one, tag()), Ok(None));
    assert!(matches!(run(&mut one, &write(tag(), b"\0\r\n$1")), Ok(Value::Int(_))));
    assert_eq!(found(&mut one, tag()), Ok(Some(b"\0\r\n$1".to_vec())));
    let mut other = link(&format!("unix://{}", server.dir.join("socket").display()));
    assert_eq!(found(&mut other, tag()), Ok(Some(b"\0\r\n$1".to_vec())));
    let mut other = link(&format!("redis://localhost:{}/3", server.port));
    assert_eq!(found(&mut other, tag()), Ok(None));
    let server = &one.servers(soon()).unwrap()[0];
    assert_eq!((server.durability, server.append_only, server.replicas), ("D1", false, 0));
    assert!(server.version.starts_with("redis ") && server.maxmemory_policy == "noeviction");
}

#[test]
fn many_requests_go_out_in_one_write() {
    if servers::missing() {
        return;
    }
    let server = Server::durable();
    let mut link = link(&server.url());
    let tags: Vec<Tag> = (0..500_u16).map(|number| Tag::of(&number.to_be_bytes())).collect();
    let value = vec![7; 20_000];
    let requests: Vec<_> = tags.iter().map(|tag| write(*tag, &value)).collect();
    assert!(link.run(&requests, soon()).iter().all(|reply| matches!(reply, Ok(Value::Int(_)))));
    let requests: Vec<_> = tags.iter().map(|tag| look(*tag)).collect();
    let replies = link.run(&requests, soon());
    assert_eq!(replies.len(), tags.len());
    assert!(replies.iter().all(
        |reply| matches!(reply, Ok(Value::Array(parts)) if parts[1] == Value::BulkString(value.clone()))
    ));
    assert_eq!(link.servers(soon()).unwrap()[0].durability, "D2");
    assert_eq!(link.run(&[], soon()), []);
}

#[test]
fn flushed_scripts_are_loaded_again() {
    if servers::missing() {
        return;
    }
    let server = Server::start(&[]);
    let mut link = link(&server.url());
    assert_eq!(link.standing(tag(), soon()), Ok(WELL));
    run(&mut link, &write(tag(), b"1")).unwrap();
    server.cli(&["SCRIPT", "FLUSH"]);
    let other = Tag::of(b"other");
    let replies = link.run(&[look(tag()), look(other), look(tag())], soon());
    assert!(replies.iter().all(Result::is_ok), "{replies:?}");
    server.cli(&["SCRIPT", "FLUSH"]);
    assert_eq!(found(&mut link, tag()), Ok(Some(b"1".to_vec())));
    assert_eq!(link.standing(tag(), soon()), Ok(WELL));
}

#[test]
fn a_lost_answer_is_unknown_and_the_request_has_run() {
    if servers::missing() {
        return;
    }
    let server = Server::start(&[]);
    let proxy = Proxy::start(server.port);
    let mut link = link(&proxy.url());
    assert_eq!(found(&mut link, tag()), Ok(None));
    proxy.set(servers::Plan::CutAfter(0));
    assert!(matches!(run(&mut link, &write(tag(), b"1")), Err(LinkError::Unknown(_))));
    assert_eq!(found(&mut link, tag()), Ok(Some(b"1".to_vec())));
}

#[test]
fn nobody_waits_longer_than_the_deadline() {
    if servers::missing() {
        return;
    }
    let server = Server::start(&[]);
    let mut link = link(&server.url());
    assert_eq!(found(&mut link, tag()), Ok(None));
    let within = |link: &mut Link| {
        let begin = Instant::now();
        let reply = link.run(&[look(tag())], begin + Duration::from_millis(200)).pop().unwrap();
        assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
        reply
    };
    server.pause();
    assert!(matches!(within(&mut link), Err(LinkError::Unknown(_))));
    // It answers neither who it is; nothing has been sent.
    assert!(matches!(within(&mut link), Err(LinkError::NotRun(_))));
    assert!(matches!(within(&mut stranger(&server.url())), Err(LinkError::NotRun(_))));
    server.resume();
    assert_eq!(found(&mut link, tag()), Ok(None));
    assert!(text_of(&link.run(&[look(tag())], Instant::now())[0].clone().unwrap_err()).contains("no time"));
}

#[test]
fn a_connection_that_was_closed_while_idle_is_not_written_to() {
    if servers::missing() {
        return;
    }
    let server = Server::start(&[]);
    let mut link = link(&server.url());
    assert_eq!(found(&mut link, tag()), Ok(None));
    for _ in 0..20 {
        server.cli(&["CLIENT", "KILL", "TYPE", "normal"]);
        assert_eq!(found(&mut link, tag()), Ok(None));
    }
}
