//! Commands as bytes, and what servers say as words that name no secret.

use redis::{ServerError, Value};

use crate::store::redis::address::Endpoint;

/// The longest text of a server that is passed on.
const LONGEST: usize = 200;

/// One argument.
pub(super) fn bulk(body: &mut Vec<u8>, arg: &[u8]) {
    let mut length = itoa::Buffer::new();
    body.push(b'$');
    body.extend_from_slice(length.format(arg.len()).as_bytes());
    body.extend_from_slice(b"\r\n");
    body.extend_from_slice(arg);
    body.extend_from_slice(b"\r\n");
}

/// How many arguments follow.
pub(super) fn array(body: &mut Vec<u8>, count: usize) {
    let mut number = itoa::Buffer::new();
    body.push(b'*');
    body.extend_from_slice(number.format(count).as_bytes());
    body.extend_from_slice(b"\r\n");
}

/// A whole command.
pub(super) fn command(body: &mut Vec<u8>, words: &[&str]) {
    array(body, words.len());
    for word in words {
        bulk(body, word.as_bytes());
    }
}

/// The text of a reply.
pub(super) fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        Value::Okay => Some("OK"),
        _ => None,
    }
}

/// The server's own words: one line, printable, short, and without the arguments that it may repeat.
fn words(error: &ServerError) -> String {
    let details = error.details().unwrap_or_default();
    let details = details.split(", with args beginning").next().unwrap_or_default();
    let details = details.split(['\r', '\n']).next().unwrap_or_default();
    let printable = details.chars().filter(|character| !character.is_control()).take(LONGEST);
    let mut text = format!("{} ", error.code());
    text.extend(printable);
    text.truncate(text.trim_end().len());
    text
}

/// A refusal of a server, and what to do about it.
pub(super) fn refusal(error: &ServerError) -> String {
    let advice = match error.code() {
        "LOADING" => "the server is still loading its data: wait until it has",
        "MASTERDOWN" => "the server is a replica that has lost its master: wait, or name the master",
        "BUSY" => "the server is busy with somebody's script: wait, or end it with `SCRIPT KILL`",
        "CLUSTERDOWN" => "the cluster does not serve this slot: look at `redis-cli --cluster check`",
        "TRYAGAIN" | "ASK" => {
            "the keys are being moved to another node of the cluster: try again in a moment"
        }
        "NOAUTH" => {
            "the server wants a password: write `redis://:PASSWORD@HOST:PORT` or `redis://USER:PASSWORD@HOST:PORT`"
        }
        "WRONGPASS" => "the server does not accept the user or the password in the URL",
        "NOPERM" => {
            "the user in the URL may not do what the store needs: allow `+@read +@write +@scripting +info +time +cluster|slots` and the keys of the prefix"
        }
        "OOM" => "the server's memory is full (`maxmemory`): nothing can be written until some is free",
        "MISCONF" => "the server takes no writes because it cannot save to its disk: look at its log",
        "NOREPLICAS" => {
            "the server takes no writes because it has too few replicas (`min-replicas-to-write`)"
        }
        "READONLY" => "the server is a replica now: name the master",
        "DENIED" => {
            "the server is in protected mode and takes no connections from other machines: give it a password (`requirepass`), or bind it to a trusted network and set `protected-mode no`"
        }
        "WRONGTYPE" => "a key of the store holds something else than the store wrote there",
        "CROSSSLOT" => "the keys of one step lie in different slots of the cluster",
        _ => return format!("the server refused: {}", words(error)),
    };
    advice.to_owned()
}

/// Why a server did not let us in. Not in its own words, because they may repeat what was sent.
pub(super) fn login_refusal(code: &str, at: &Endpoint) -> String {
    match code {
        "WRONGPASS" => format!("{at} does not accept the user or the password in the URL"),
        "NOPERM" => format!("{at} does not let the user in the URL log in"),
        "DENIED" => format!(
            "{at} is in protected mode and takes no connections from other machines: give it a password \
             (`requirepass`), or bind it to a trusted network and set `protected-mode no`"
        ),
        "LOADING" => format!("{at} is still loading its data: wait until it has"),
        _ => format!(
            "{at} did not take the login in the URL: check the password, and leave it out if the server has none"
        ),
    }
}

/// Whether a server that answers a request with this error has not run it, and another try may help.
pub(super) fn is_not_run(code: &str) -> bool {
    matches!(
        code,
        "LOADING"
            | "MASTERDOWN"
            | "BUSY"
            | "CLUSTERDOWN"
            | "TRYAGAIN"
            | "ASK"
            | "NOAUTH"
            | "WRONGPASS"
            | "NOPERM"
            | "OOM"
            | "MISCONF"
            | "NOREPLICAS"
            | "DENIED"
    )
}
