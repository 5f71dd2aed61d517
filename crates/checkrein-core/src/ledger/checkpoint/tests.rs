use super::*;

fn signer() -> Signer {
    Signer::new(Some("example.com/ledger"), &[7; 32]).unwrap()
}

#[test]
fn a_published_key_and_its_id() {
    // From the documents of Go's `sumdb/note`.
    let text = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
    let key: VerifierKey = text.parse().unwrap();
    assert_eq!(key.to_string(), text);
    let note = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n\
                \n\u{2014} PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";
    // Its signature holds; it is no checkpoint.
    assert_eq!(key.open(note), Err(NoteError::Malformed("the first line is no origin")));
    assert_eq!(key.open(&note.replace("answer", "problem")), Err(NoteError::Forged));
}

#[test]
fn a_checkpoint_is_signed_and_opened() {
    let signer = signer();
    let extensions = ["time 2026-11-21T10:18:30.123456789Z".to_owned(), "store 4 00ff".to_owned()];
    let note = signer.sign(42, [9; 32], &extensions);
    expect_test::expect![[r#"
        example.com/ledger
        42
        CQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQk=
        time 2026-11-21T10:18:30.123456789Z
        store 4 00ff

        — example.com/ledger 7E1ubRvUUD4RPEiuCngKy0ZWesvpBq7B4FuMlFk/diLPa4/wb+fgM2dMb2m4WZmq//r99CRMNoIHw3xpc7vrxOcvrgM=
    "#]]
    .assert_eq(&note);
    let checkpoint = signer.verifier().open(&note).unwrap();
    assert_eq!((checkpoint.size, checkpoint.root), (42, [9; 32]));
    assert_eq!(checkpoint.extension("store"), Some("4 00ff"));
    assert_eq!(checkpoint.time(), moment::read(b"2026-11-21T10:18:30.123456789Z"));
    assert_eq!(format!("{signer:?}"), "Signer { name: \"example.com/ledger\", .. }");
}

#[test]
fn every_changed_byte_of_a_note_is_found() {
    let signer = signer();
    let note = signer.sign(42, [9; 32], &["time never".to_owned()]);
    let key = signer.verifier();
    for place in 0..note.len() {
        for flip in [1_u8, 2, 0x20, 0x80, 0xff] {
            let mut bytes = note.clone().into_bytes();
            bytes[place] ^= flip;
            if let Ok(text) = std::str::from_utf8(&bytes) {
                assert!(key.open(text).is_err(), "byte {place} xor {flip}: {text}");
            }
        }
        assert!(key.open(note.get(..place).unwrap_or_default()).is_err(), "cut at {place}");
    }
}

#[test]
fn other_keys_do_not_open_it() {
    let note = signer().sign(1, [0; 32], &[]);
    let other = Signer::new(Some("example.com/ledger"), &[8; 32]).unwrap();
    assert_eq!(other.verifier().open(&note), Err(NoteError::NotSigned));
    let renamed = Signer::new(Some("example.com/other"), &[7; 32]).unwrap();
    assert_eq!(renamed.verifier().open(&note), Err(NoteError::NotSigned));
    // Signed by the right key under the right name, but of another ledger.
    let mut foreign = renamed.sign(1, [0; 32], &[]);
    let text = "example.com/other\n1\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n";
    let own = signer();
    let mut bytes = own.verifier().id().to_vec();
    bytes.extend_from_slice(&own.key.sign(text.as_bytes()).to_bytes());
    foreign.push_str(&format!("\u{2014} example.com/ledger {}\n", STANDARD.encode(bytes)));
    assert_eq!(own.verifier().open(&foreign), Err(NoteError::OtherOrigin));
}

#[test]
fn keys_as_text() {
    let key = signer().verifier();
    assert_eq!(key.to_string().parse::<VerifierKey>().unwrap(), key);
    let weak = {
        let mut bytes = vec![ED25519];
        bytes.extend([
            1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        ]);
        STANDARD.encode(bytes)
    };
    for text in [
        "",
        "a+b",
        "example.com/ledger+00000000+AQcH",
        &format!("weak+00000000+{weak}"),
        &key.to_string().replace("example", "sample"),
        &format!("{key} "),
    ] {
        assert_eq!(text.parse::<VerifierKey>(), Err(InvalidKey), "{text}");
    }
    for name in ["", "a b", "a+b", "a\nb"] {
        assert!(Signer::new(Some(name), &[7; 32]).is_err(), "{name:?}");
    }
    assert!(Signer::new(None, &[7; 32]).unwrap().name().starts_with("checkrein-ledger/"));
}

#[test]
fn text_that_is_no_checkpoint() {
    let root = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    for text in [
        "".to_owned(),
        format!("o\n1\n{root}"),
        format!("o\n01\n{root}\n"),
        format!("o\n-1\n{root}\n"),
        format!("o\n1\n{}\n", root.replace("A=", "B=")),
        format!("o\n1\n{root}\n\n"),
        format!("o o\n1\n{root}\n"),
        format!("o\n18446744073709551616\n{root}\n"),
    ] {
        assert!(Checkpoint::parse(&text).is_err(), "{text:?}");
    }
    assert!(Checkpoint::parse(&format!("o\n1\n{root}\nanything at all\n")).is_ok());
}
