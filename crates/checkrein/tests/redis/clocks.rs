//! Hosts whose clocks are an hour apart: only the server's time matters.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::common::{compile, limit, patient, stranger, whole_call};
use crate::servers::{self, Server};

/// A library that is loaded before all others and shifts the time of day by `SHIFT_SECONDS`.
const SHIFT: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>

static long shift(void) {
    const char *seconds = getenv("SHIFT_SECONDS");
    return seconds ? atol(seconds) : 0;
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, time);
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) time->tv_sec += shift();
    return result;
}

int gettimeofday(struct timeval *restrict time, void *restrict zone) {
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    time->tv_sec = now.tv_sec;
    time->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}
"#;

const URL: &str = "CHECKREIN_TEST_URL";
const LIMIT: u64 = 300;

fn seconds() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

/// Not a test of its own: what the test below starts as other hosts.
#[test]
fn other_host() {
    if let Ok(url) = std::env::var(URL) {
        let engine = stranger(&url, patient());
        let policy = compile(&engine, vec![limit(LIMIT)]);
        let allowed = (0..LIMIT).filter(|_| whole_call(&engine, &policy, "hot")).count();
        println!("it is {} here and {allowed} were allowed", seconds());
    }
}

fn host(library: &Path, url: &str, shift: i64) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "clocks::other_host", "--nocapture"]).env(URL, url);
    command.env("LD_PRELOAD", library).env("SHIFT_SECONDS", shift.to_string());
    command.stdout(Stdio::piped()).spawn().unwrap()
}

/// What a host says: its time, and how many calls it was allowed.
fn heard(child: Child) -> (u64, u64) {
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let (_, said) = text.split_once("it is ").unwrap_or_else(|| panic!("{text}"));
    let numbers: Vec<u64> = said.split(' ').filter_map(|word| word.parse().ok()).collect();
    (numbers[0], numbers[1])
}

#[test]
#[cfg(target_os = "linux")]
fn clocks_that_are_an_hour_apart_do_not_matter() {
    if servers::missing() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (source, library) = (directory.path().join("shift.c"), directory.path().join("shift.so"));
    std::fs::write(&source, SHIFT).unwrap();
    // Whoever built this test has a linker, and with it a compiler of C.
    let output = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .arg(&library)
        .arg(&source)
        .arg("-ldl")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let server = Server::start(&[]);
    let hosts: Vec<_> =
        [-3_600, 3_600, 0].into_iter().map(|shift| host(&library, &server.url(), shift)).collect();
    let said: Vec<(u64, u64)> = hosts.into_iter().map(heard).collect();
    // They do think that it is another time.
    let apart = said[1].0 - said[0].0;
    assert!((7_100..7_300).contains(&apart), "{said:?}");
    assert_eq!(said.iter().map(|(_, allowed)| allowed).sum::<u64>(), LIMIT, "{said:?}");
    // Afterwards neither an hour too early nor too late.
    let last = heard(host(&library, &server.url(), 3_599));
    assert_eq!(last.1, 0);
}
