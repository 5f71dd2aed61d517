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
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("openai")

from checkrein.demo import script
from checkrein.demo.command import command_of_this_installation

DEMO = [sys.executable, "-P", "-m", "checkrein.demo", "--no-input", "--fast"]
ESCAPE = "\x1b["
# US dollars for one token of gpt-5, as its provider publishes them: 1.25 and 10 for a million.
INPUT, OUTPUT = Decimal("0.00000125"), Decimal("0.00001")


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the demo with a pipe for a terminal."""
    env = {**os.environ, **environment}
    return subprocess.run(
        [*DEMO, *arguments], capture_output=True, text=True, timeout=120, env=env, check=False
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


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    """What one run shows in a pipe."""
    return run("--keep", str(tmp_path_factory.mktemp("shown") / "kept"), NO_COLOR="")


@pytest.fixture
def command() -> str:
    """The `checkrein` command that the demo asks."""
    found = command_of_this_installation()
    if found is None:
        pytest.skip("the checkrein command is not installed")
    return found


def calls(story: dict[str, Any], tool: str) -> list[dict[str, Any]]:
    """Every call of one tool in the second act, in order."""
    return [event for event in story["events"] if event["tool"] == tool]


def codes(event: dict[str, Any]) -> list[str]:
    """The reasons of one decision."""
    return [reason["code"] for reason in event["decision"]["reasons"]]


def cost(model: dict[str, Any]) -> list[Decimal]:
    """What each call of the model cost by its usage and the published prices."""
    return [usage["prompt_tokens"] * INPUT + usage["completion_tokens"] * OUTPUT for usage in model["usages"]]


def meters(directory: Path, gate: str) -> list[tuple[str, str]]:
    """What a store has of a budget, as another engine reads it: (spent, held) per key."""
    import checkrein

    rows = checkrein.Engine(store=f"sqlite:{directory / 'agent.db'}").list("meter")
    return [(row["spent"], row["held"]) for row in rows if row["gate"] == gate]


# --- the first act ---


def test_observe_mode_lets_everything_pass(story: dict[str, Any], kept: Path) -> None:
    observed = story["summary"]["observed"]
    # Twenty times the same search, the one with the number, two refunds, two mails: and only once is enforced always.
    assert observed["verdicts"] == ["allow"] * 22 + ["replay", "allow", "allow"]
    assert observed["refunds"] == [{"payment": "pay_2093", "amount": "480.00"}]
    assert observed["mails"] == ["maria.keller@example.com", "accounting@example.com"]
    with sqlite3.connect(kept / "observed" / "shop.sqlite") as connection:
        rows = connection.execute("SELECT payment, amount FROM refunds").fetchall()
    connection.close()
    assert rows == [("pay_2093", "480.00")]


def test_observe_mode_knows_what_it_would_have_refused(story: dict[str, Any]) -> None:
    loop = [["loop_detected"]] * (script.PATIENCE - 2)
    assert story["summary"]["observed"]["would_have_refused"] == [
        *([[]] * 2),
        *loop,
        ["rule_violated"],
        ["budget_exceeded"],
        *([[]] * 2),
        ["cooldown"],
    ]


def test_the_report_says_it_in_numbers(story: dict[str, Any], command: str) -> None:
    report, observed = story["summary"]["report"], story["summary"]["observed"]
    assert report["coverage"]["ledger"]["verified"] == report["coverage"]["ledger"]["entries"]
    rows = {(row["tool"], row["reason"]["code"]): row for row in report["would_block"]}
    counts = {name: row["calls"] for name, row in rows.items()}
    late = counts.pop(("model:gpt-5", "budget_exceeded"))
    assert counts == {
        ("python:search", "loop_detected"): script.PATIENCE - 2,
        ("python:search", "rule_violated"): 1,
        ("python:refund", "budget_exceeded"): 1,
        ("python:send_mail", "cooldown"): 1,
    }
    # Once the budget of the run is exceeded no call of the model fits any more: the last ones would not have been made.
    assert 0 < late < observed["model"]["calls"]
    saved = sum(cost(observed["model"])[-late:])
    assert Decimal(rows["model:gpt-5", "budget_exceeded"]["money"]["usd"]) == saved
    assert rows["python:refund", "budget_exceeded"]["money"] == {"usd": "480"}
    assert Decimal(report["observed"]["money"]["usd"]) == 480 + saved
    every = len(observed["verdicts"]) + observed["model"]["calls"]
    assert report["calls"] == {
        "decisions": every,
        "ran": every - 1,
        "refused": 0,
        "would_block": script.PATIENCE - 2 + 3 + late,
    }


# --- the second act ---


def test_one_line_of_the_file_made_the_difference(story: dict[str, Any], kept: Path) -> None:
    from importlib import resources

    shipped = resources.files("checkrein.demo").joinpath("checkrein.toml").read_text(encoding="utf-8")
    assert shipped.count('mode = "observe"') == 1
    left = (kept / "checkrein.toml").read_text(encoding="utf-8")
    assert left == shipped.replace('mode = "observe"', 'mode = "enforce"'), "the freeze is lifted again"
    guarded = resources.files("checkrein.demo").joinpath("guarded.py").read_text(encoding="utf-8")
    assert re.findall(r"@engine\.guard\((.*)\)", guarded) == [
        'name="search"',
        'name="refund"',
        'name="send_mail"',
    ]


def test_a_circle_of_identical_calls_is_cut(story: dict[str, Any]) -> None:
    first, second, third, fourth = calls(story, "search")[:4]
    assert first["arguments"] == second["arguments"] == third["arguments"]
    assert [event["verdict"] for event in (first, second, third)] == ["allow", "allow", "block"]
    assert codes(third) == ["loop_detected"]
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
    assert refused["arguments"]["cents"] == 48000
    assert codes(refused) == ["budget_exceeded"]
    assert refused["meters_before"] == refused["meters_after"]
    assert {meter["spent"] for meter in refused["meters_after"].values()} == {"0"}


def test_a_freeze_holds_from_the_next_call_on_until_it_is_lifted(story: dict[str, Any]) -> None:
    over, frozen, first, _ = calls(story, "refund")
    assert (codes(over), codes(frozen)) == (["budget_exceeded"], ["frozen"])
    assert frozen["arguments"] == first["arguments"], "the same call, before and after"
    assert first["verdict"] == "allow"
    freezing, lifting = story["summary"]["reloads"]
    assert freezing != lifting, "the running engine took over both files"


def test_a_refund_happens_once_and_is_replayed(story: dict[str, Any], kept: Path) -> None:
    first, again = calls(story, "refund")[2:]
    assert first["arguments"] == again["arguments"] == {"payment_id": "pay_2093", "cents": 4900}
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
    assert 0 < second["decision"]["retry_after"] <= 1
    assert third["at"] - first["at"] >= 1
    heads = [path.read_text().splitlines()[0] for path in sorted((kept / "spool").iterdir())]
    assert heads == ["To: maria.keller@example.com", "To: accounting@example.com"]


@pytest.mark.parametrize("act", ["observed", "enforced"])
def test_the_model_costs_what_the_price_book_says(story: dict[str, Any], kept: Path, act: str) -> None:
    summary = story["summary"]
    model = summary["observed"]["model"] if act == "observed" else summary["model"]
    spent = sum(cost(model))
    assert model["model"] == "gpt-5"
    assert model["refused"] is None
    assert Decimal(model["usd"]) == spent
    place = kept / "observed" if act == "observed" else kept
    # What was held in advance is given back, in the budget of the team too.
    ((team, held),) = meters(place, "team")
    assert (Decimal(team), held) == (spent, "0")


def test_the_loop_costs_money_that_enforcing_saves(story: dict[str, Any], kept: Path) -> None:
    observed, enforced = story["summary"]["observed"]["model"], story["summary"]["model"]
    assert enforced["calls"] < observed["calls"]
    assert Decimal(enforced["usd"]) < Decimal("0.05") < Decimal(observed["usd"])
    assert enforced["thresholds"][0] == {"budget": "run", "percent": 70}
    ((run, held),) = meters(kept, "run")
    assert (Decimal(run), held) == (sum(cost(enforced)), "0")


def test_the_summary_adds_up(story: dict[str, Any]) -> None:
    summary = story["summary"]
    verdicts = [event["verdict"] for event in story["events"]]
    assert summary["verdicts"] == {"allow": 6, "block": 5, "replay": 1}
    assert summary["verdicts"] == {verdict: verdicts.count(verdict) for verdict in set(verdicts)}
    assert summary["reasons"] == {
        "loop_detected": 1,
        "budget_exceeded": 1,
        "frozen": 1,
        "cooldown": 1,
        "rule_violated": 1,
    }
    assert summary["refunds"] == [{"payment": "pay_2093", "amount": "49.00"}]
    budget = summary["meters"]["budget"]
    assert (budget["spent"], budget["limit"], budget["remaining"]) == ("49", "100", "51")


# --- the crash ---


def test_a_killed_process_pays_once_and_finds_out(story: dict[str, Any], kept: Path) -> None:
    crash = story["summary"]["crash"]
    assert crash["killed"] is True
    assert crash["in_doubt"] == [{"gate": "transfer.once", "key": "pay_2092", "state": "in_doubt"}]
    # Before, after the kill, and after it was found out: what may have been spent stays counted, and only once.
    assert crash["spent"] == ["49", "98", "98"]
    assert crash["thresholds"] == [{"budget": "refunds", "percent": 90}]
    assert crash["verdicts"] == ["allow", "block", "replay"]
    assert crash["looked_up"]["found"] == crash["result"] == {"payment": "pay_2092", "amount": "49.00"}
    assert crash["transfers"] == [{"payment": "pay_2092", "amount": "49.00"}]
    with sqlite3.connect(kept / "bank.sqlite") as books:
        rows = books.execute("SELECT key, payment FROM transfers").fetchall()
    books.close()
    assert rows == [(crash["looked_up"]["idempotency_key"], "pay_2092")]


def test_the_ledger_verifies_over_both_lives(
    story: dict[str, Any], kept: Path, tmp_path: Path, command: str
) -> None:
    assert story["summary"]["crash"]["ledger"]["valid"] is True
    text = (kept / "ledger.jsonl").read_text()
    for part in ("pay_2092", "in_doubt", "support-agent", "ticket-4711", "frozen", "gpt-5"):
        assert part in text
    forged = tmp_path / "ledger.jsonl"
    forged.write_text(text.replace("ticket-4711", "ticket-4712", 1))
    key = str(kept / "agent.db.pub")
    check = [command, "ledger", "verify", str(forged), "--key", key, "--output", "json"]
    done = subprocess.run(check, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert json.loads(done.stdout)["valid"] is False


# --- the third act ---


def test_the_stricter_policy_differs_where_it_says_so(story: dict[str, Any], kept: Path) -> None:
    old = (kept / "checkrein.toml").read_text().splitlines()
    new = (kept / "stricter.toml").read_text().splitlines()
    changed = [line.split("#")[0].strip() for line in new if line not in old]
    assert changed == [
        'limit = "0.03 usd"',
        'limit = "40.00 usd"',
        "loop = { same_call = 2 }",
        'limits = [{ max_calls = 1, window = "1h", cooldown = "1s" }]',
    ]


def test_a_replay_shows_the_right_differences(story: dict[str, Any], command: str) -> None:
    replay, summary = story["summary"]["replay"], story["summary"]
    coverage = replay["coverage"]
    # Twelve calls of the agent, and of the transfer the call, the refusal that led to the hook, and the replay.
    assert coverage["decisions"] == len(story["events"]) + 3 + summary["model"]["calls"]
    # That the transfer was in doubt is what the once key in the code says: no file decides it.
    assert coverage["left_out"] == {"refused_by_code": 1}
    assert coverage["replayed"] == coverage["decisions"] - 1
    found = {(row["tool"], row["change"]): (row["calls"], row["money"]) for row in replay["tools"]}
    # Once a run has no more than 0.03 to spend no later call of the model fits: these were the last.
    late, saved = found.pop(("model:gpt-5", "stopped"))
    assert 0 < late < summary["model"]["calls"]
    assert Decimal(saved["usd"]) == sum(cost(summary["model"])[-late:])
    assert found == {
        # The second of the same searches; a refund and a transfer of 49 where only 40 are left; the second mail.
        ("python:search", "stopped"): (1, {}),
        ("python:refund", "stopped"): (1, {"usd": "49"}),
        ("python:transfer", "stopped"): (1, {"usd": "49"}),
        ("python:send_mail", "stopped"): (1, {}),
        # And where the stored result was the answer, there is none.
        ("python:refund", "answered"): (1, {}),
        ("python:transfer", "answered"): (1, {}),
    }
    stopped = replay["totals"]["stopped"]
    assert (stopped["calls"], stopped["effects"]) == (4 + late, 4 + late)
    assert Decimal(stopped["money"]["usd"]) == 98 + Decimal(saved["usd"])
    assert replay["totals"]["started"]["calls"] == 0
    reasons = {
        (row["code"], row["gate"]): row["calls"] for row in replay["reasons"] if row["change"] == "stopped"
    }
    assert reasons == {
        ("loop_detected", "search.loop"): 1,
        ("budget_exceeded", "refunds"): 2,
        ("budget_exceeded", "run"): late,
        ("rate_limited", "send_mail.rate"): 1,
    }


# --- the fourth act ---


def test_a_run_over_the_real_package_is_cut_before_it_overspends(story: dict[str, Any]) -> None:
    run = story["summary"]["budgeted"]
    limit = Decimal(run["budget"])
    # Streamed answers, whole; their usage was asked for, and kept from the program that did not.
    assert len(run["answers"]) == len(run["usages"]) == 2
    assert {answer.split(",")[0] for answer in run["answers"]} == {"Dear Maria"}
    used = [usage["input_tokens"] * INPUT + usage["output_tokens"] * OUTPUT for usage in run["usages"]]
    assert [Decimal(spent) for spent in run["spent"]] == [sum(used[: number + 1]) for number in range(2)]
    assert Decimal(run["remaining"]) == limit - sum(used) > 0
    (reason,) = run["refused"]["reasons"]
    detail = reason["detail"]
    assert (reason["code"], Decimal(detail["spent"]), detail["held"]) == ("budget_exceeded", sum(used), "0")
    # The most that the next one could have cost does not fit; the most that the others could have cost did.
    asked = Decimal(detail["requested"])
    assert sum(used) + asked > limit >= sum(used[:-1]) + asked
    assert run["requests"] == 2, "the third call never reached the model's server"


# --- what proves it, and how it looks ---


def verify(file: Path) -> subprocess.CompletedProcess[str]:
    """Run the verifier of audit files."""
    check = [sys.executable, "-P", "-m", "checkrein.auditgate", "verify", "--strict", str(file)]
    return subprocess.run(check, capture_output=True, text=True, timeout=60, check=False)


def test_every_decision_is_in_the_audit_file(story: dict[str, Any], kept: Path, tmp_path: Path) -> None:
    assert story["summary"]["audit"]["valid"] is True
    file = kept / "audit.jsonl"
    entries = [json.loads(line) for line in file.read_text().splitlines()]
    decisions = [
        (entry["gate_identity"], entry["verdict"]) for entry in entries if entry["gate_type"] != "outcome"
    ]
    of_tools = [decision for decision in decisions if decision[0] != "gpt-5"]
    assert of_tools == [
        (event["tool"], "BLOCK" if event["verdict"] == "block" else "ALLOW") for event in story["events"]
    ]
    of_model = [verdict for name, verdict in decisions if name == "gpt-5"]
    assert of_model == ["ALLOW"] * story["summary"]["model"]["calls"]
    outcomes = [
        (entry["gate_identity"], entry["reason"]) for entry in entries if entry["gate_type"] == "outcome"
    ]
    assert outcomes.count(("refund", "done")) == 1, "one refund ran, and the file says how it ended"
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


def test_the_timeline_tells_all_of_it_in_words(shown: subprocess.CompletedProcess[str]) -> None:
    done = shown
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert ESCAPE not in done.stdout, "no colours in a pipe"
    for promised in (
        r"✓ allow +search +20 x  refund policy",
        r"the model: \d+ calls of gpt-5 for 0\.\d+ usd",
        r'- mode = "observe"\n +\+ mode = "enforce"',
        r"✓ allow +search +refund policy",
        r"✗ block +search +refund policy",
        r"loop_detected  ",
        r"✗ block +search +Maria Keller",
        r"rule_violated  ",
        r"✗ block +refund +pay_2093 +480\.00 usd",
        r"budget_exceeded  ",
        r"0 of 5 calls used \(unchanged\)",
        r'- tools = \[\]\n +\+ tools = \["refund"\]',
        r"frozen  ",
        r"✓ allow +refund +pay_2093 +49\.00 usd",
        r"↺ replay +refund +pay_2093 +49\.00 usd",
        r"✗ block +send_mail",
        r"cooldown  ",
        r"told the model: ",
        r"pay_2093 480\.00 observed, pay_2093 49\.00 enforced",
        r"RESULT: VALID \(\d+ entries verified\)",
        r'with checkrein\.run\(user="maria", budget="\$0\.005"\):',
        r"( +✓ allow +gpt-5 +streamed: Dear Maria, .*\n +the run: 0\.\d+ usd spent, 0\.\d+ of 0\.005 left\n){2}",
        r"✗ block +gpt-5 +streamed: .*\n +budget_exceeded  ",
        r"Cut before it is spent: the model's server saw 2 requests\.",
        r"the run +2 streamed answers for 0\.\d+ usd of 0\.005; the next: not sent",
    ):
        assert re.search(promised, done.stdout), f"`{promised}` is missing in\n{done.stdout}"
    lines = done.stdout.splitlines()
    assert max(len(line) for line in lines if not line.startswith("The policy: ")) <= 80
    assert len(lines) <= 150


def test_the_real_answers_of_the_command_are_shown(
    story: dict[str, Any], shown: subprocess.CompletedProcess[str], command: str
) -> None:
    report, replay = story["summary"]["report"], story["summary"]["replay"]
    for line in (
        "$ checkrein report --ledger ledger.jsonl --key agent.db.pub",
        f"  not spent    {report['observed']['money']['usd']} usd",
        "  python:search: loop_detected (limit `search.loop`)",
        "$ checkrein replay --policy stricter.toml --ledger ledger.jsonl",
        f"  stopped      {replay['totals']['stopped']['calls']} calls, ",
        "      now refuse: loop_detected (limit `search.loop`)",
    ):
        assert line in shown.stdout


def test_without_the_command_it_says_what_it_could_not_show(tmp_path: Path) -> None:
    nowhere = "import sysconfig; sysconfig.get_path = lambda name: '/nonexistent'; "
    code = (
        nowhere + "from checkrein.demo.__main__ import main; raise SystemExit(main(['--no-input', '--fast']))"
    )
    env = {name: value for name, value in os.environ.items() if name != "CHECKREIN_COMMAND"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        env={**env, "PATH": str(tmp_path)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("the `checkrein` command was not found") == 3


def test_the_readme_shows_what_the_demo_prints(shown: subprocess.CompletedProcess[str]) -> None:
    moment = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC"

    def untimed(text: str) -> list[str]:
        lines = (re.sub(r"^ *[0-9.]+s  ", "", line).strip() for line in text.splitlines())
        return [re.sub(f"{moment}( to {moment})?", "then", line) for line in lines if line]

    readme = (Path(__file__).resolve().parents[3] / "README.md").read_text(encoding="utf-8")
    excerpts = re.findall(r"```text\n(.*?)```", readme[: readme.index("## Install")], re.DOTALL)
    assert [len(untimed(excerpt)) > 5 for excerpt in excerpts] == [True] * 4
    printed = iter(untimed(shown.stdout))
    for line in untimed("\n".join(excerpts)):
        assert line in printed, f"the demo does not print this, or not in this order: {line}"


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
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["summary"]["audit"]["valid"] is True
