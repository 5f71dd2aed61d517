//! The command as a shell sees it: real processes, their output and their exit codes.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const BINARY: &str = env!("CARGO_BIN_EXE_checkrein");

/// A directory like the `bin` of a virtual environment: the binary, and an interpreter that is the given script.
fn environment(name: &str, python: Option<&str>) -> PathBuf {
    let bin = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name).join("bin");
    if bin.exists() {
        std::fs::remove_dir_all(&bin).unwrap();
    }
    std::fs::create_dir_all(&bin).unwrap();
    // Linked, not copied: a file that was open for writing while another test started a process cannot be started.
    std::fs::hard_link(BINARY, bin.join("checkrein")).unwrap();
    if let Some(script) = python {
        let file = bin.join("python3");
        std::fs::write(&file, script).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    bin
}

/// Runs the binary of an environment with nothing on `PATH` but `path`.
fn run(binary: &Path, path: &str, arguments: &[&str]) -> Output {
    Command::new(binary).args(arguments).env("PATH", path).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// An interpreter whose probe (`-c`) ends with the given code and that prints its arguments otherwise.
fn interpreter(probe: i32) -> String {
    format!("#!/bin/sh\nif [ \"$1\" = -c ]; then exit {probe}; fi\necho \"$@\"\nexit 7\n")
}

#[test]
fn the_demo_becomes_the_python_beside_the_binary() {
    let bin = environment("beside", Some(&interpreter(0)));
    let elsewhere = environment("elsewhere", Some("#!/bin/sh\necho wrong\n"));
    let output = run(
        &bin.join("checkrein"),
        &elsewhere.display().to_string(),
        &["demo", "--fast", "--output", "json"],
    );
    assert_eq!(text(&output.stdout), "-P -m checkrein.demo --fast --output json\n");
    assert_eq!(output.status.code(), Some(7), "the exit code is the demo's own");
}

#[test]
fn without_a_python_beside_it_the_one_on_path_runs() {
    let bin = environment("alone", None);
    let elsewhere = environment("on_path", Some(&interpreter(0)));
    let output = run(
        &bin.join("checkrein"),
        &elsewhere.display().to_string(),
        &["demo", "--no-input", "--keep", "a b"],
    );
    assert_eq!(text(&output.stdout), "-P -m checkrein.demo --no-input --keep a b\n");
}

#[test]
fn a_python_without_the_package_is_told_what_to_install() {
    let bin = environment("bare", Some(&interpreter(3)));
    let output = run(&bin.join("checkrein"), "", &["demo"]);
    assert_eq!(output.status.code(), Some(2));
    let python = bin.join("python3");
    assert_eq!(
        text(&output.stderr),
        format!(
            "error: `{0}` has no package `checkrein`\nhint: {0} -m pip install 'checkrein[demo]'\n",
            python.display()
        )
    );
    assert_eq!(text(&output.stdout), "");
}

#[test]
fn an_old_python_and_a_missing_one_are_environment_errors() {
    let old = environment("old", Some(&interpreter(4)));
    let output = run(&old.join("checkrein"), "", &["demo"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("is older than Python 3.11"), "{output:?}");

    let none = environment("none", None);
    let output = run(&none.join("checkrein"), "", &["demo"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("no Python was found"), "{output:?}");

    let broken = environment("broken", Some("#!/bin/sh\nexit 1\n"));
    let output = run(&broken.join("checkrein"), "", &["demo"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("does not work"), "{output:?}");
}

#[test]
fn a_relative_path_entry_is_never_searched_for_an_interpreter() {
    let bin = environment("relative", None);
    let trap = environment("trap", Some(&interpreter(0)));
    let output =
        Command::new(bin.join("checkrein")).arg("demo").env("PATH", ".").current_dir(&trap).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}

#[test]
fn version_help_and_wrong_use_have_their_exit_codes() {
    let version = run(Path::new(BINARY), "", &["--version"]);
    assert_eq!(text(&version.stdout), format!("checkrein {}\n", env!("CARGO_PKG_VERSION")));
    assert_eq!(version.status.code(), Some(0));
    assert_eq!(run(Path::new(BINARY), "", &["--help"]).status.code(), Some(0));
    assert_eq!(run(Path::new(BINARY), "", &[]).status.code(), Some(2));
    assert_eq!(run(Path::new(BINARY), "", &["nonsense"]).status.code(), Some(2));
    assert_eq!(run(Path::new(BINARY), "", &["demo", "--output", "yaml"]).status.code(), Some(2));
}

#[test]
fn completions_name_every_verb() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let output = run(Path::new(BINARY), "", &["completions", shell]);
        assert_eq!(output.status.code(), Some(0), "{shell}");
        let script = text(&output.stdout);
        for verb in ["demo", "explain", "completions"] {
            assert!(script.contains(verb), "{shell} does not complete `{verb}`");
        }
    }
}

#[test]
fn explain_says_what_a_code_means() {
    let output = run(Path::new(BINARY), "", &["explain", "budget_exceeded"]);
    assert_eq!(output.status.code(), Some(0));
    let shown = text(&output.stdout);
    assert!(shown.starts_with("budget_exceeded: "), "{shown}");
    assert!(shown.contains("checkrein.BudgetExceeded") && shown.contains("402"), "{shown}");
    assert!(!shown.contains('\u{1b}'), "no colours in a pipe: {shown:?}");
    let dashed = run(Path::new(BINARY), "", &["explain", "Budget-Exceeded"]);
    assert_eq!(dashed.stdout, output.stdout);
}

#[test]
fn explain_as_json_is_nothing_but_json() {
    let one = run(Path::new(BINARY), "", &["explain", "rate_limited", "--output", "json"]);
    let one: serde_json::Value = serde_json::from_slice(&one.stdout).unwrap();
    assert_eq!(one["http_status"], 429);
    assert_eq!(one["exception"], "checkrein.RateLimited");

    let all = run(Path::new(BINARY), "", &["explain", "--output", "json"]);
    let all: Vec<serde_json::Value> = serde_json::from_slice(&all.stdout).unwrap();
    let words: Vec<&str> = all.iter().map(|record| record["code"].as_str().unwrap()).collect();
    let known: Vec<&str> = checkrein_core::code::Code::all().map(checkrein_core::code::Code::word).collect();
    assert_eq!(words, known);
    assert!(all.contains(&one), "the list and the single answer are one record");
}

#[test]
fn explain_without_a_code_lists_every_code() {
    let output = run(Path::new(BINARY), "", &["explain"]);
    let shown = text(&output.stdout);
    for code in checkrein_core::code::Code::all() {
        assert!(shown.lines().any(|line| line.starts_with(code.word()) && line.ends_with(code.message())));
    }
}

#[test]
fn an_unknown_code_is_wrong_use_with_a_suggestion() {
    let output = run(Path::new(BINARY), "", &["explain", "budget_exeeded"]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(
        text(&output.stderr),
        "error: unknown reason code `budget_exeeded`\nhint: did you mean `budget_exceeded`? \
         `checkrein explain` lists every code\n"
    );
    let hostile = run(Path::new(BINARY), "", &["explain", "\u{1b}[2J"]);
    assert!(!text(&hostile.stderr).contains('\u{1b}'), "{hostile:?}");
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let mut child = Command::new("sh")
        .args(["-c", "\"$1\" explain; echo $? >&2", "sh", BINARY])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(text(&output.stderr), "0\n");
}
