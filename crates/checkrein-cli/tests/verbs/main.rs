//! What holds for every verb there is; and what they say, kept in files that `UPDATE_SNAPSHOTS=1` writes.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

use std::path::{Path, PathBuf};
use std::process::Output;

mod list;

use list::{run, verbs};

/// Those that do something themselves.
fn leaves() -> Vec<Vec<String>> {
    let all = verbs();
    let is_group =
        |verb: &Vec<String>| all.iter().any(|other| other.len() > verb.len() && other.starts_with(verb));
    all.iter().filter(|verb| !is_group(verb)).cloned().collect()
}

/// All that a shell sees. Spaces at the ends of lines, which help texts have, do not survive in a snapshot.
fn seen(output: &Output) -> String {
    let lines = |bytes: &[u8]| {
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        text.lines().map(|line| format!("{}\n", line.trim_end())).collect::<String>()
    };
    let code = output.status.code().unwrap();
    format!("exit {code}\n-- stdout\n{}-- stderr\n{}", lines(&output.stdout), lines(&output.stderr))
}

fn snapshots() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots")
}

/// Compares an answer with a file; with `UPDATE_SNAPSHOTS` writes it.
fn snapshot(name: &str, found: &str) {
    let path = snapshots().join(name);
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, found).unwrap();
        return;
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    let different = (1..).zip(expected.lines().zip(found.lines())).find(|(_, (was, is))| was != is);
    let is_same = expected == found;
    assert!(is_same, "{name}, first different: {different:?}. UPDATE_SNAPSHOTS=1 writes what is:\n{found}");
}

/// The names of the snapshots in a directory.
fn kept(directory: &str) -> Vec<String> {
    let files = std::fs::read_dir(snapshots().join(directory)).unwrap();
    let mut names: Vec<String> = files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn words(verb: &[String]) -> Vec<&str> {
    verb.iter().map(String::as_str).collect()
}

fn file(verb: &[String]) -> String {
    if verb.is_empty() { "checkrein.txt".to_owned() } else { format!("{}.txt", verb.join("-")) }
}

#[test]
fn every_verb_has_its_help() {
    let verbs = verbs();
    for verb in &verbs {
        let arguments: Vec<&str> = words(verb).into_iter().chain(["--help"]).collect();
        snapshot(&format!("help/{}", file(verb)), &seen(&run(Path::new("."), "100", &arguments)));
    }
    let mut expected: Vec<String> = verbs.iter().map(|verb| file(verb)).collect();
    expected.sort();
    assert_eq!(kept("help"), expected, "a verb went and its snapshot stayed, or the other way round");
}

#[test]
fn every_help_shows_examples_and_fits_its_terminal() {
    for verb in verbs() {
        let arguments: Vec<&str> = words(&verb).into_iter().chain(["--help"]).collect();
        let help = String::from_utf8(run(Path::new("."), "100", &arguments).stdout).unwrap();
        assert!(help.contains("\nExamples:\n  "), "{verb:?} has no example");
        assert!(help.contains("\n  checkrein "), "{verb:?} has no example that can be typed");
        for line in help.lines() {
            assert!(line.chars().count() <= 100, "{verb:?}: {line}");
        }
    }
}

#[test]
fn every_verb_prints_for_programs_too() {
    // What these print is for one reader only: an editor, a shell, a pager.
    let documents = [vec!["schema"], vec!["completions"], vec!["man"]];
    for verb in leaves().iter().filter(|verb| !documents.contains(&words(verb))) {
        let arguments: Vec<&str> = words(verb).into_iter().chain(["--help"]).collect();
        let help = String::from_utf8(run(Path::new("."), "100", &arguments).stdout).unwrap();
        let choices: Vec<&str> =
            ["- text:", "- json:", "- jsonl:"].into_iter().filter(|c| !help.contains(c)).collect();
        assert!(choices.is_empty(), "{verb:?} has no {choices:?}");
    }
}

const HOSTILE: &str = "\u{1b}[2J\u{202e}\u{7f}x";

#[test]
fn wrong_use_of_any_verb_is_told_inertly() {
    let directory = tempfile::tempdir().unwrap();
    for verb in verbs() {
        let wrong = format!("--nothing{HOSTILE}");
        for columns in ["40", "100"] {
            let arguments: Vec<&str> = words(&verb).into_iter().chain([wrong.as_str()]).collect();
            let output = run(directory.path(), columns, &arguments);
            let told = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(2), "{verb:?}");
            assert!(output.stdout.is_empty(), "{verb:?}");
            assert!(told.contains("--nothing"), "{verb:?}: {told}");
            assert!(!told.contains(['\u{1b}', '\u{202e}', '\u{7f}']), "{verb:?}: {told:?}");
        }
    }
}

#[test]
fn names_that_are_shown_are_inert_in_every_verb() {
    let directory = tempfile::tempdir().unwrap();
    let store = format!("sqlite:{HOSTILE}.db");
    for verb in leaves().iter().filter(|verb| words(verb) != ["demo"]) {
        // As many of what a verb may ask for as it takes, all of it hostile.
        let base = words(verb);
        let options = [
            &["--store", store.as_str()][..],
            &["--ledger", store.as_str()],
            &["--key", HOSTILE],
            &["--policy", HOSTILE],
        ];
        let mut attempts: Vec<Vec<&str>> = vec![base.clone(), [base.as_slice(), &[HOSTILE]].concat()];
        for option in options {
            attempts.push([base.as_slice(), option].concat());
            attempts.push([base.as_slice(), option, &[HOSTILE]].concat());
            attempts.push([base.as_slice(), option, &[HOSTILE, HOSTILE]].concat());
        }
        for arguments in attempts {
            for output in ["text", "json"] {
                let arguments = [arguments.as_slice(), &["--output", output]].concat();
                let output = run(directory.path(), "80", &arguments);
                for bytes in [output.stdout, output.stderr] {
                    let text = String::from_utf8(bytes).unwrap();
                    assert!(!text.contains(['\u{1b}', '\u{202e}', '\u{7f}']), "{arguments:?}: {text:?}");
                }
            }
        }
    }
}

/// Runs a verb whose reader is gone before it says a word, as after `| head -1`.
fn run_unread(arguments: &[&str]) -> (Option<i32>, String) {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_checkrein"));
    let output = command.args(arguments).stdin(std::process::Stdio::null()).stdout(writer).output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn a_reader_that_went_away_is_no_failure_of_any_verb() {
    for verb in verbs() {
        let arguments: Vec<&str> = words(&verb).into_iter().chain(["--help"]).collect();
        assert_eq!(run_unread(&arguments), (Some(0), String::new()), "{verb:?}");
    }
    for line in
        ["prices list", "prices show gpt-4o", "explain", "schema", "completions bash", "man", "--version"]
    {
        let arguments: Vec<&str> = line.split(' ').collect();
        assert_eq!(run_unread(&arguments), (Some(0), String::new()), "{line}");
    }
}

#[test]
fn every_verb_has_its_manual_page() {
    let directory = tempfile::tempdir().unwrap();
    let output = run(directory.path(), "80", &["man", "."]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    for verb in verbs() {
        let name = ["checkrein"].into_iter().chain(words(&verb)).collect::<Vec<_>>().join("-");
        let page = std::fs::read_to_string(directory.path().join(format!("{name}.1"))).unwrap();
        assert!(page.contains(".SH SYNOPSIS\n") && page.contains(".SH EXAMPLES\n"), "{page}");
        for line in page.lines().filter(|line| line.starts_with(['.', '\''])) {
            let request = line.split(' ').next().unwrap();
            assert!([".TH", ".SH", ".TP", ".PP", ".nf", ".fi", ".BR"].contains(&request), "{name}: {line}");
        }
    }
    let first = run(directory.path(), "80", &["man"]);
    assert_eq!(first.stdout, std::fs::read(directory.path().join("checkrein.1")).unwrap());
}
