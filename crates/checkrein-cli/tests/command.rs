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
    std::fs::copy(BINARY, bin.join("checkrein")).unwrap();
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
    let output = run(&bin.join("checkrein"), &elsewhere.display().to_string(), &["demo", "--no-input"]);
    assert_eq!(text(&output.stdout), "-P -m checkrein.demo --no-input\n");
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
        for verb in ["demo", "completions"] {
            assert!(script.contains(verb), "{shell} does not complete `{verb}`");
        }
    }
}
