//! URLs, right and wrong, and that nothing secret of them is ever shown.

use super::*;
use crate::store::StoreError;

fn shown(url: &str) -> String {
    match Address::parse(url) {
        Ok(address) => address.to_string(),
        Err(error) => format!("{error:?}"),
    }
}

#[test]
fn a_url_is_shown_without_its_secrets() {
    let cases = [
        ("redis://localhost", "redis://localhost:6379"),
        ("redis://LocalHost:7000/3", "redis://localhost:7000/3"),
        ("valkey://localhost", "redis://localhost:6379"),
        ("redis://:p%2Fw@h:1", "redis://h:1"),
        ("rediss://user:p@w@h:1/2?ca_cert=/etc/ca.pem", "rediss://h:1/2"),
        ("rediss://h?client_cert=c&client_key=k", "rediss://h:6379"),
        ("redis://[::1]:7000", "redis://[::1]:7000"),
        ("redis://[::1]", "redis://[::1]:6379"),
        ("unix:///run/redis.sock", "unix:///run/redis.sock"),
        ("redis+unix:///run/redis.sock?db=2&user=u&password=p", "unix:///run/redis.sock?db=2"),
        ("redis+sentinel://a,b:1/main", "redis+sentinel://a:26379,b:1/main"),
        (
            "rediss+sentinel://u:p@a/main/4?sentinel_password=s&sentinel_user=v",
            "rediss+sentinel://a:26379/main/4",
        ),
        ("redis+cluster://:p@a,b:7001", "redis+cluster://a:6379,b:7001"),
        ("rediss+cluster://a/0", "rediss+cluster://a:6379"),
    ];
    for (url, expected) in cases {
        assert_eq!(shown(url), expected, "{url}");
    }
}

#[test]
fn a_url_that_is_none_is_refused_with_the_reason() {
    let cases = [
        ("", "Scheme"),
        ("localhost:6379", "Scheme"),
        ("http://localhost", "Scheme"),
        ("redis:localhost", "Scheme"),
        ("redis+tls://localhost", "Scheme"),
        ("rediss+unix:///run/redis.sock", "Scheme"),
        ("redis://", "NoHost"),
        ("redis://:secret@", "NoHost"),
        ("redis://:6380", "Host"),
        ("redis://a b", "Character"),
        ("redis://a\n", "Character"),
        ("redis://a%zz@h", "Percent"),
        ("redis://%ff@h", "Utf8"),
        ("redis://h:0", "Port"),
        ("redis://h:65536", "Port"),
        ("redis://h:+1", "Port"),
        ("redis://h:", "Port"),
        ("redis://h!", "Host"),
        ("redis://[::1", "Host"),
        ("redis://[1.2.3.4]", "Host"),
        ("redis://::1", "Host"),
        ("redis://a,b", "Hosts"),
        ("redis://h/zero", "Database"),
        ("redis://h/-1", "Database"),
        ("redis://h/0/1", "Database"),
        ("redis://user:pass/word@h", "Port"),
        ("redis://user:12/word@h", "Database"),
        ("redis://user:pass#word@h", "Fragment"),
        ("redis+cluster://h/1", "ClusterDatabase"),
        ("redis+sentinel://h", "NoMaster"),
        ("redis+sentinel://h/", "NoMaster"),
        ("redis+sentinel://user/word@h", "NoMaster"),
        ("redis+unix://run/redis.sock", "NoSocket"),
        ("unix:///", "NoSocket"),
        ("redis://h?ca_cert=/x", "NotTls"),
        ("rediss://h?client_key=/x", "HalfIdentity"),
        ("rediss://h?ca_cert=", "Empty"),
        ("rediss://h?ca_cert", "Empty"),
        ("rediss://h?ca_cert=a&ca_cert=b", "Twice"),
    ];
    for (url, expected) in cases {
        assert_eq!(shown(url), expected, "{url}");
    }
    assert!(matches!(Address::parse("redis://h?timeout=1"), Err(AddressError::Parameter(_))));
    assert!(matches!(Address::parse("redis://h?sentinel_password=x"), Err(AddressError::Parameter(_))));
}

#[test]
fn nothing_of_a_url_that_may_be_secret_is_ever_said() {
    // Encoded as it should be, and not.
    let urls = [
        "redis://sesame:hunter2@h",
        "redis://sesame@h",
        "rediss://:hunter2@h:1/0?ca_cert=/x",
        "redis+sentinel://sesame:hunter2@h/main?sentinel_user=sesame&sentinel_password=hunter2",
        "unix:///run/redis.sock?user=sesame&password=hunter2",
        "redis://:hunter2/sesame@h",
        "redis://:hunter2?sesame@h",
        "redis://:hunter2#sesame@h",
        "redis://hunter2:sesame/@h",
        "redis+sentinel://hunter2/sesame@h",
        "redis+sentinel://x:hunter2/sesame@h/x",
        "redis+cluster://x:hunter2/sesame@h",
        "redis://h?password=hunter2&user=sesame",
        "hunter2:sesame",
        "hunter2://sesame",
        "redis://:hunter2%zsesame@h",
    ];
    for url in urls {
        let said = match Address::parse(url) {
            Ok(address) => format!("{address} {address:?} {:?} {:?}", address.login, address.kind),
            Err(error) => format!("{error} {error:?} {}", StoreError::from(error)),
        };
        assert!(!said.contains("hunter2") && !said.contains("sesame"), "{url}: {said}");
    }
}

#[test]
fn a_login_is_decoded() {
    let address = Address::parse("redis+sentinel://u%40x:p%3A%2f@h/main?sentinel_password=s%26").unwrap();
    assert_eq!(address.login.user.as_ref().unwrap().reveal(), "u@x");
    assert_eq!(address.login.password.as_ref().unwrap().reveal(), "p:/");
    let Kind::Sentinel { login, .. } = &address.kind else { panic!("{address}") };
    assert_eq!(login.password.as_ref().unwrap().reveal(), "s&");
}
