//! `checkrein init`: what it finds, what it writes, and what it leaves alone.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

use std::fs;
use std::path::Path;
use std::process::Output;

use expect_test::{Expect, expect};

#[path = "verbs/list.rs"]
mod list;

fn run(directory: &Path, arguments: &[&str]) -> Output {
    assert!(list::verbs().contains(&vec!["init".to_owned()]));
    list::run(directory, "80", arguments)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// A project with these files.
fn project(files: &[(&str, &str)]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    directory
}

const SECRET: &str = "ghp_planted";

fn large() -> tempfile::TempDir {
    project(&[
        (
            "pyproject.toml",
            "[project]\nname = 'x'\ndependencies = ['Anthropic>=0.40', 'httpx']\n\
             optional-dependencies.agents = ['pydantic_ai-slim[openai]~=1.0']\n\
             [dependency-groups]\ntest = ['pytest', { include-group = 'x' }]\n",
        ),
        ("requirements-dev.txt", "# tools\nopenai-agents==0.1 ; python_version > '3.10'\n-r other.txt\n"),
        ("uv.lock", "version = 1\n[[package]]\nname = 'mcp'\nversion = '1.0'\n"),
        ("Cargo.toml", "[dependencies]\nasync-openai = '0.30'\n"),
        (
            ".mcp.json",
            r#"{"mcpServers": {"github": {"command": "gh", "env": {"TOKEN": "ghp_planted"}}, "bad *": {}}}"#,
        ),
        (".vscode/mcp.json", r#"{"servers": {"stripe": {"url": "https://x"}}} // comment"#),
        (".codex/config.toml", "[mcp_servers.docs]\ncommand = 'docs'\n"),
        (".claude/settings.json", "{}"),
    ])
}

fn check(directory: &Path, arguments: &[&str], expected: Expect) {
    let output = run(directory, arguments);
    for line in text(&output.stdout).lines().filter(|line| !line.contains("checkrein policy explain")) {
        assert!(line.chars().count() <= 120, "{line}");
    }
    let code = output.status.code().unwrap();
    expected.assert_eq(&format!("exit {code}\n{}-- stderr\n{}", text(&output.stdout), text(&output.stderr)));
}

#[test]
fn an_empty_project_gets_a_policy() {
    let directory = project(&[]);
    check(
        directory.path(),
        &["init"],
        expect![[r#"
        exit 0
        found
          packages     none that are known here
          MCP servers  none that are known here
          settings     none that are known here
        wrote checkrein.toml
          in observe mode: everything is decided and recorded, and passes
        next
          checkrein policy check
          echo '{"name": "search", "run": "run-1"}' | checkrein policy explain -
          checkrein report --ledger sqlite:checkrein.db
        -- stderr
    "#]],
    );
    let checked = run(directory.path(), &["policy", "check"]);
    assert_eq!(checked.status.code(), Some(0), "{checked:?}");
    let names: Vec<_> =
        fs::read_dir(directory.path()).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert_eq!(names, ["checkrein.toml"], "nothing else is left");
}

#[test]
fn what_a_project_uses_gets_its_sections() {
    let directory = large();
    let dry = run(directory.path(), &["init", "--dry-run"]);
    assert!(!directory.path().join("checkrein.toml").exists());
    check(
        directory.path(),
        &["init"],
        expect![[r#"
        exit 0
        found
          packages     anthropic, async-openai, mcp, openai-agents, pydantic-ai-slim
          MCP servers  docs, github
          settings     .claude/settings.json (Claude Code), .vscode/mcp.json (VS Code),
                       .codex/config.toml (Codex)
          not read     .mcp.json: the name of a server has other characters than
                       letters, digits and `_ - .`
          not read     .vscode/mcp.json: something follows the value at byte 46
        wrote checkrein.toml
          in observe mode: everything is decided and recorded, and passes
        next
          checkrein policy check
          echo '{"name": "search", "run": "run-1"}' | checkrein policy explain -
          checkrein report --ledger sqlite:checkrein.db
        -- stderr
    "#]],
    );
    let written = fs::read_to_string(directory.path().join("checkrein.toml")).unwrap();
    assert_eq!(text(&dry.stdout), written);
    assert!(!written.contains(SECRET) && !text(&dry.stderr).contains(SECRET));
    for part in
        ["[models.\"*\"]", "[tools.\"mcp__github__*\"]", "[tools.\"mcp__docs__*\"]", "mode = \"observe\""]
    {
        assert!(written.contains(part), "{part}\n{written}");
    }
    let checked = run(directory.path(), &["policy", "check"]);
    assert_eq!(checked.status.code(), Some(0), "{checked:?}");
    // It lets pass what it would refuse.
    fs::write(directory.path().join("a.json"), r#"{"name": "mcp__github__push", "run": "r"}"#).unwrap();
    let explained = run(directory.path(), &["policy", "explain", "a.json"]);
    assert_eq!(explained.status.code(), Some(0), "{explained:?}");
}

#[test]
fn programs_get_the_same_as_json() {
    let directory = large();
    for (output, is_written) in [("jsonl", false), ("json", true)] {
        let mut arguments = vec!["init", "--output", output];
        arguments.extend((!is_written).then_some("--dry-run"));
        let answer = run(directory.path(), &arguments);
        assert!(answer.stderr.is_empty(), "{answer:?}");
        let answer: serde_json::Value = serde_json::from_slice(&answer.stdout).unwrap();
        assert_eq!(answer["written"], is_written);
        assert_eq!(answer["found"]["packages"][0]["name"], "anthropic");
        assert_eq!(answer["found"]["mcp_servers"][1]["files"][0], ".mcp.json");
        assert_eq!(answer["found"]["unread"].as_array().unwrap().len(), 2);
        assert_eq!(answer["next"].as_array().unwrap().len(), 3);
        assert!(!answer.to_string().contains(SECRET));
        let path = directory.path().join("checkrein.toml");
        assert_eq!(
            fs::read_to_string(path).ok().as_deref(),
            answer["policy"].as_str().filter(|_| is_written)
        );
    }
}

#[test]
fn a_policy_that_is_there_is_left_alone() {
    let own = project(&[("checkrein.toml", "mine")]);
    let table = project(&[("pyproject.toml", "[tool.checkrein]\nversion = 1\n")]);
    let both = project(&[("checkrein.toml", "mine"), ("pyproject.toml", "[tool.checkrein]\n")]);
    let dangling = project(&[]);
    std::os::unix::fs::symlink("nowhere", dangling.path().join("checkrein.toml")).unwrap();
    let folder = project(&[("checkrein.toml/x", "")]);
    for directory in [&own, &table, &both, &dangling, &folder] {
        for arguments in [&["init"][..], &["init", "--output", "json"]] {
            let output = run(directory.path(), arguments);
            assert_eq!(output.status.code(), Some(1), "{output:?}");
            let said = text(&[output.stdout, output.stderr].concat());
            assert!(said.contains("there is a policy") && said.contains("policy check"), "{said}");
        }
        let names = fs::read_dir(directory.path()).unwrap().map(|file| file.unwrap().file_name());
        assert!(names.into_iter().all(|name| !name.to_string_lossy().contains("new")), "something was left");
    }
    assert_eq!(fs::read_to_string(own.path().join("checkrein.toml")).unwrap(), "mine");
}

#[test]
fn what_cannot_be_read_or_written_is_said() {
    let directory = project(&[
        ("pyproject.toml", "[project\n"),
        (".mcp.json", r#"{"mcpServers": {}, "mcpServers": {}}"#),
        (".gemini/settings.json", "[]"),
    ]);
    rustix::fs::mkfifoat(rustix::fs::CWD, directory.path().join("requirements.txt"), 0o600.into()).unwrap();
    check(
        directory.path(),
        &["init", "--dry-run", "--output", "text"],
        expect![[r#"
        exit 0
        # The policy of this project. `checkrein policy check` checks it, `checkrein schema` lists its fields.
        version = 1

        [defaults]
        # Every action is decided and recorded, and passes whatever a gate says. When `checkrein report` shows what you
        # mean, write "enforce": here for all gates, or as `mode` of a section or of a single gate.
        mode = "observe"

        # For every tool. Gates of all sections that cover a tool add up.
        [tools."*"]
        # The fourth call of a tool with the same arguments in a run is a loop. It needs a run or a session to count in:
        # name one with every action, in Python with `checkrein.acting(run=...)`. One without is refused in any mode.
        loop = { same_call = 4 }

        # Examples of what else a tool may have. `checkrein policy explain` shows what a section says to an action.
        #
        # [tools."stripe.refund"]
        # rules = ["args.amount > 0", "args.currency in ['eur', 'usd']"]   # conditions over the arguments
        # limits = [{ key = "action.user", max_calls = 10, window = "1h", cooldown = "2s" }]
        # budgets = [{ name = "refunds", cost = "0.30 usd" }]              # needs `[budgets.refunds]`
        # once = { key = "'refund:' + args.payment_id" }                   # at most one run per key, always enforced
        # breaker = { name = "stripe", max_fails = 3, reset = "60s" }      # stops when the service fails
        # timeout = "20s"
        -- stderr
        found
          packages     none that are known here
          MCP servers  none that are known here
          settings     .gemini/settings.json (Gemini CLI)
          not read     pyproject.toml: unclosed table, expected `]`
          not read     requirements.txt: it is no file
          not read     .mcp.json: key `mcpServers` repeats at byte 19
          not read     .gemini/settings.json: it is no JSON object
    "#]],
    );
    let none = run(directory.path(), &["init", "no\u{202e}where\u{1b}[2J"]);
    assert_eq!(none.status.code(), Some(2));
    assert_eq!(
        text(&none.stderr),
        "error: `no\\u{202e}where\\u{1b}[2J` is no directory\nhint: name the directory of the project\n"
    );
}

#[test]
fn of_two_at_once_one_writes() {
    let directory = project(&[("requirements.txt", "openai\n")]);
    let codes: Vec<i32> = std::thread::scope(|scope| {
        let runs: Vec<_> = (0..4).map(|_| scope.spawn(|| run(directory.path(), &["init"]))).collect();
        runs.into_iter().map(|run| run.join().unwrap().status.code().unwrap()).collect()
    });
    assert_eq!(codes.iter().filter(|code| **code == 0).count(), 1, "{codes:?}");
    assert_eq!(codes.iter().filter(|code| **code == 1).count(), 3, "{codes:?}");
    assert_eq!(run(directory.path(), &["policy", "check"]).status.code(), Some(0));
}
