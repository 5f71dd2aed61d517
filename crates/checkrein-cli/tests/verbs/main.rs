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
