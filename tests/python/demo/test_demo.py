"""The demo as a person starts it: a process of its own, its output, and what it leaves on disk."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("openai")

DEMO = [sys.executable, "-P", "-m", "checkrein.demo", "--no-input", "--fast"]
ESCAPE = "\x1b["


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the demo with a pipe for a terminal."""
    env = {**os.environ, **environment}
    return subprocess.run(
        [*DEMO, *arguments], capture_output=True, text=True, timeout=60, env=env, check=False
    )


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory in which the demo leaves its files."""
    return tmp_path_factory.mktemp("demo") / "kept"


@pytest.fixture(scope="module")
def story(kept: Path) -> dict[str, Any]:
    """What one run says as JSON."""
    done = run("--output", "json", "--keep", str(kept))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def calls(story: dict[str, Any], tool: str) -> list[dict[str, Any]]:
    """Every call of one tool, in order."""
    return [event for event in story["events"] if event["tool"] == tool]


def codes(event: dict[str, Any]) -> list[str]:
    """The reasons of one decision."""
    return [reason["code"] for reason in event["decision"]["reasons"]]


def test_a_circle_of_identical_calls_is_cut(story: dict[str, Any]) -> None:
    first, second, third, fourth = calls(story, "search")[:4]
    assert first["arguments"] == second["arguments"] == third["arguments"]
    assert [event["verdict"] for event in (first, second, third)] == ["allow", "allow", "block"]
    assert codes(third) == ["attempts_exceeded"]
    assert "result" not in third["answer"]
    assert fourth["arguments"] != third["arguments"], "the agent goes on with something else"


def test_personal_data_never_reaches_the_search(story: dict[str, Any]) -> None:
    personal = next(event for event in calls(story, "search") if "078-05-1120" in event["arguments"]["query"])
    assert personal["verdict"] == "block"
    assert codes(personal) == ["rule_violated"]
    assert "078-05-1120" not in json.dumps(personal["answer"]), "the refusal does not repeat it"
    after = calls(story, "search")[calls(story, "search").index(personal) + 1]
    assert after["verdict"] == "allow"


def test_a_refund_over_budget_leaves_the_quota_alone(story: dict[str, Any]) -> None:
    refused = calls(story, "refund")[0]
    assert refused["arguments"]["amount"] == "480.00"
    assert codes(refused) == ["budget_exceeded"]
    assert refused["meters_before"] == refused["meters_after"]
    assert {meter["spent"] for meter in refused["meters_after"].values()} == {"0"}


def test_a_refund_happens_once_and_is_replayed(story: dict[str, Any], kept: Path) -> None:
    first, again = calls(story, "refund")[1:]
    assert first["arguments"] == again["arguments"]
    assert [first["verdict"], again["verdict"]] == ["allow", "replay"]
    assert first["answer"] == again["answer"], "a replay is the stored result"
    assert again["meters_before"] == again["meters_after"], "a replay costs nothing"
    with sqlite3.connect(kept / "shop.sqlite") as connection:
        rows = connection.execute("SELECT payment, amount FROM refunds").fetchall()
    connection.close()
    assert rows == [("pay_2093", "49.00")]


def test_mails_keep_their_distance(story: dict[str, Any], kept: Path) -> None:
    first, second, third = calls(story, "send_mail")
    assert [event["verdict"] for event in (first, second, third)] == ["allow", "block", "allow"]
    assert codes(second) == ["cooldown"]
    assert 0 < second["decision"]["retry_after"] <= 0.2
    assert third["at"] - first["at"] >= 0.2
    heads = [path.read_text().splitlines()[0] for path in sorted((kept / "spool").iterdir())]
    assert heads == ["To: maria.keller@example.com", "To: accounting@example.com"]


def test_the_summary_adds_up(story: dict[str, Any]) -> None:
    summary = story["summary"]
    verdicts = [event["verdict"] for event in story["events"]]
    assert summary["verdicts"] == {verdict: verdicts.count(verdict) for verdict in set(verdicts)}
    assert summary["reasons"] == {
        "attempts_exceeded": 1,
        "budget_exceeded": 1,
        "cooldown": 1,
        "rule_violated": 1,
    }
    assert summary["refunds"] == [{"payment": "pay_2093", "amount": "49.00"}]
    budget = summary["meters"]["budget"]
    assert (budget["spent"], budget["limit"], budget["remaining"]) == ("49", "100", "51")


def test_a_killed_process_pays_once_and_finds_out(story: dict[str, Any], kept: Path) -> None:
    crash = story["summary"]["crash"]
    assert crash["killed"] is True
    assert crash["in_doubt"] == [{"gate": "refund.once", "key": "pay_2092", "state": "in_doubt"}]
    assert crash["held"] == ["49"], "what may have been spent stays held"
    assert crash["verdicts"] == ["allow", "block", "replay"]
    assert crash["looked_up"]["found"] == crash["result"] == {"payment": "pay_2092", "amount": "49.00"}
    assert crash["transfers"] == [{"payment": "pay_2092", "amount": "49.00"}]
    with sqlite3.connect(kept / "bank.sqlite") as books:
        rows = books.execute("SELECT key, payment FROM transfers").fetchall()
    books.close()
    assert rows == [(crash["looked_up"]["idempotency_key"], "pay_2092")]


def test_the_ledger_verifies_over_both_lives(story: dict[str, Any], kept: Path, tmp_path: Path) -> None:
    from checkrein.demo.crash import command_of_this_installation

    ledger = story["summary"]["crash"]["ledger"]
    command = command_of_this_installation()
    if command is None:
        pytest.skip("the checkrein command is not installed")
    assert ledger["valid"] is True
    text = (kept / "ledger.jsonl").read_text()
    for part in ("pay_2092", "in_doubt", "support-agent", "ticket-4711"):
        assert part in text
    forged = tmp_path / "ledger.jsonl"
    forged.write_text(text.replace("ticket-4711", "ticket-4712", 1))
    check = [
        command,
        "ledger",
        "verify",
        str(forged),
        "--key",
        str(kept / "agent.db.pub"),
        "--output",
        "json",
    ]
    done = subprocess.run(check, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert json.loads(done.stdout)["valid"] is False


def verify(file: Path) -> subprocess.CompletedProcess[str]:
    """Run the verifier of audit files."""
    command = [sys.executable, "-P", "-m", "checkrein.auditgate", "verify", "--strict", str(file)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_every_decision_is_in_the_audit_file(story: dict[str, Any], kept: Path, tmp_path: Path) -> None:
    assert story["summary"]["audit"]["valid"] is True
    file = kept / "audit.jsonl"
    entries = [json.loads(line) for line in file.read_text().splitlines()]
    decisions = [entry["verdict"] for entry in entries if entry["gate_type"] != "outcome"]
    assert decisions == ["BLOCK" if event["verdict"] == "block" else "ALLOW" for event in story["events"]]
    outcomes = [(e["gate_identity"], e["reason"]) for e in entries if e["gate_type"] == "outcome"]
    assert outcomes == [("refund", "done")], "one refund ran, and the file says how it ended"
    checked = verify(file)
    assert checked.returncode == 0
    assert f"RESULT: VALID ({len(entries)} entries verified)" in checked.stdout

    whole = file.read_text()
    for change in (
        whole.replace('"verdict":"BLOCK"', '"verdict":"ALLOW"', 1),
        whole[: whole.rstrip().rindex("\n") + 1],
    ):
        assert change != whole
        forged = tmp_path / "audit.jsonl"
        forged.write_text(change)
        shutil.copy(kept / "audit.jsonl.head", tmp_path / "audit.jsonl.head")
        assert verify(forged).returncode == 1


def test_the_timeline_tells_all_of_it_in_words(tmp_path: Path) -> None:
    done = run("--keep", str(tmp_path / "kept"), NO_COLOR="")
    assert done.returncode == 0, done.stderr
    assert ESCAPE not in done.stdout, "no colours in a pipe"
    for promised in (
        r"✓ allow +search +refund policy",
        r"✗ block +search +refund policy",
        r"attempts_exceeded  ",
        r"✗ block +search +Maria Keller",
        r"rule_violated  ",
        r"✗ block +refund +pay_2093 +480\.00",
        r"budget_exceeded  ",
        r"0 of 5 calls used, unchanged",
        r"✓ allow +refund +pay_2093 +49\.00",
        r"↺ replay +refund +pay_2093 +49\.00",
        r"✗ block +send_mail",
        r"cooldown  ",
        r"told the model: ",
        r"49 of 100 usd spent, 51 left",
        r"1 in the database: pay_2093 49\.00",
        r"RESULT: VALID \(\d+ entries verified\)",
    ):
        assert re.search(promised, done.stdout), f"`{promised}` is missing in\n{done.stdout}"
    assert max(len(line) for line in done.stdout.splitlines() if str(tmp_path) not in line) <= 110


def test_the_readme_shows_what_the_demo_prints() -> None:
    def untimed(text: str) -> list[str]:
        lines = (re.sub(r"^ *[0-9.]+s  ", "", line).strip() for line in text.splitlines())
        return [line for line in lines if line]

    readme = (Path(__file__).resolve().parents[3] / "README.md").read_text(encoding="utf-8")
    excerpt = re.search(r"```text\n( +time  verdict.*?)```", readme, re.DOTALL)
    assert excerpt is not None
    shown = iter(untimed(run().stdout))
    for line in untimed(excerpt[1]):
        assert line in shown, f"the demo does not print this, or not in this order: {line}"


def on_terminal(**environment: str) -> str:
    """Run the demo on a terminal and return what it shows there."""
    primary, secondary = pty.openpty()
    env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", **environment}
    with subprocess.Popen(DEMO, stdin=secondary, stdout=secondary, stderr=secondary, env=env) as process:
        os.close(secondary)
        shown = b""
        while True:
            try:
                part = os.read(primary, 65536)
            except OSError:  # the other side is closed: Linux says EIO
                break
            if not part:
                break
            shown += part
    os.close(primary)
    assert process.returncode == 0
    return shown.decode()


def test_colours_are_for_terminals_that_want_them() -> None:
    assert ESCAPE in on_terminal(NO_COLOR="")
    assert ESCAPE not in on_terminal(NO_COLOR="1")
    assert ESCAPE not in on_terminal(TERM="dumb", NO_COLOR="")


def test_a_terminal_without_unicode_is_understood() -> None:
    done = run(PYTHONIOENCODING="ascii:strict")
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii()
    assert re.search(r"x block +search", done.stdout)


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    assert run(TMPDIR=str(tmp_path)).returncode == 0
    assert list(tmp_path.iterdir()) == []


def test_an_existing_directory_is_not_touched(tmp_path: Path) -> None:
    done = run("--keep", str(tmp_path))
    assert done.returncode == 2
    assert "exists" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_without_the_extra_it_says_what_to_install() -> None:
    code = (
        "import importlib.util as u, runpy, sys; find = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name == 'openai' else find(name, *rest)\n"
        "sys.argv[1:] = ['--no-input']\n"
        "runpy.run_module('checkrein.demo', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"{sys.executable} -m pip install 'checkrein[demo]'" in done.stderr
    assert done.stdout == ""


def test_the_command_runs_the_same() -> None:
    command = shutil.which("checkrein", path=str(Path(sys.executable).parent))
    if command is None:
        pytest.skip("the command is not installed beside this Python")
    done = subprocess.run(
        [command, "demo", "--no-input", "--fast", "--output", "json"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["summary"]["audit"]["valid"] is True
