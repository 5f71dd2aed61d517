"""Several processes on one Redis server: exact totals, clocks that disagree, and forks at any moment."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis_servers import Server, fresh_prefix

import checkrein
from checkrein.testing import assert_denied

WORKER = Path(__file__).with_name("redis_worker.py")
PATIENCE = 120

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


@pytest.fixture
def prefix() -> str:
    """A prefix of this test alone."""
    return fresh_prefix("processes")


def open_engine(server: Server, prefix: str) -> checkrein.Engine:
    """An engine, on a machine that may be busy."""
    return checkrein.Engine(store=server.url, prefix=prefix, deadline="20s")


def start(verb: str, *arguments: object, environment: dict[str, str] | None = None) -> subprocess.Popen[str]:
    """Start another process on a store."""
    return subprocess.Popen(
        [sys.executable, str(WORKER), verb, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environment or {})},
    )


def together(workers: list[subprocess.Popen[str]]) -> list[Any]:
    """Let workers go when all of them are ready, and collect what they say."""
    for worker in workers:
        assert worker.stdout is not None
        line = worker.stdout.readline()
        assert line == "ready\n", worker.stderr.read() if worker.stderr else line
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    answers = []
    for worker in workers:
        out, err = worker.communicate(timeout=PATIENCE)
        assert worker.returncode == 0, err
        answers.append(json.loads(out))
    return answers


def test_eight_processes_have_one_limit(redis_server: Server, prefix: str, tmp_path: Path) -> None:
    calls, effects = 40, tmp_path / "effects"
    workers = [start("spend", redis_server.url, prefix, calls, effects) for _ in range(8)]
    answers = together(workers)
    # 320 tries, 100 calls an hour, 50 usd: the budget is what ends first, to the cent.
    assert sum(answer["allowed"] for answer in answers) == 50
    # Every payment was made once, by whoever came first, and the others got its result.
    assert sorted(effects.read_text().split()) == sorted(f"k{number}" for number in range(calls))
    for payers in zip(*(answer["paid"] for answer in answers), strict=True):
        assert len({payer for payer in payers if payer}) == 1
    engine = open_engine(redis_server, prefix)
    rows = {row["gate"]: row for row in engine.list()}
    assert rows["send.rate[user]"]["events"] == 50
    assert (rows["send.budget[user]"]["spent"], rows["send.budget[user]"]["held"]) == ("50", "0")


def test_clocks_an_hour_apart_do_not_matter(redis_server: Server, prefix: str, tmp_path: Path) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler to fake clocks with")
    library = tmp_path / "clock_shift.so"
    source = Path(__file__).with_name("clock_shift.c")
    command = [compiler, "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"]
    subprocess.run(command, check=True, timeout=PATIENCE)

    def shifted(seconds: int) -> subprocess.Popen[str]:
        environment = {"LD_PRELOAD": str(library), "CLOCK_SHIFT": str(seconds)}
        return start("tick", redis_server.url, prefix, 3, environment=environment)

    answers = together([shifted(-3_600), shifted(0), shifted(3_600)])
    clocks = [answer["clock"] for answer in answers]
    assert clocks[1] - clocks[0] > 3_500, "the clocks were not faked"
    assert clocks[2] - clocks[1] > 3_500, "the clocks were not faked"
    passed = sorted(tuple(call) for answer in answers for call in answer["passed"])
    # Nobody's clock kept them from calling, and no half second saw more than five calls.
    assert len(passed) >= 10
    for first in range(len(passed) - 5):
        six = passed[first : first + 6]
        assert max(after for _, after in six) - min(before for before, _ in six) >= 0.5, six


def test_a_death_in_a_call_leaves_an_operation_in_doubt(redis_server: Server, prefix: str) -> None:
    worker = start("die", redis_server.url, prefix)
    worker.communicate(timeout=PATIENCE)
    assert worker.returncode < 0
    engine = open_engine(redis_server, prefix)
    pay = engine.guard(
        name="pay", once="key", budget="50 usd", cost="1 usd", actual=lambda result: "1", on_block="result"
    )(lambda key: "ran")
    decision = pay("p1")
    assert isinstance(decision, checkrein.Decision)
    # Until its lease ends it counts as running.
    assert decision.code == "in_progress"
    assert [(row["gate"], row["held"]) for row in engine.list()] == [("pay.budget", "1")]
    # The definitions are the dead process's.
    assert {row["gate"] for row in open_engine(redis_server, prefix).list("operation")} == {"pay.once"}


def test_what_others_count_is_listed_and_reset_by_name(redis_server: Server, prefix: str) -> None:
    first = open_engine(redis_server, prefix)
    act = first.guard(name="act", key="user", rate="1/h")(lambda user: user)
    act("ada")
    other = open_engine(redis_server, fresh_prefix())
    assert other.list() == []
    script = (
        "import sys, checkrein\n"
        "engine = checkrein.Engine(store=sys.argv[1], prefix=sys.argv[2], deadline='20s')\n"
        "print([(row['gate'], row['key']) for row in engine.list()])\n"
        "print(engine.reset('act', 'ada'))\n"
    )
    command = [sys.executable, "-c", script, redis_server.url, prefix]
    said = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert said.stdout.splitlines() == ["[('act.rate[user]', 'ada')]", "1"], said.stderr
    assert act("ada") == "ada"


# --- forks ------------------------------------------------------------------------------------------------------------


def in_child(work: Callable[[], object]) -> Any:
    """Start work in a forked child; returns what waits for its answer."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        answer = "null"
        try:
            os.close(reader)
            answer = json.dumps(work())
        except BaseException as error:
            answer = json.dumps(f"{type(error).__name__}: {error}")
        finally:
            os.write(writer, answer.encode())
            os._exit(0)
    os.close(writer)

    def wait() -> Any:
        with os.fdopen(reader) as file:
            text = file.read()
        assert os.waitpid(pid, 0)[1] == 0
        return json.loads(text)

    return wait


def count_of(act: Callable[[], object], tries: int) -> int:
    """How many of so many calls are let through."""
    passed = 0
    for _ in range(tries):
        try:
            act()
            passed += 1
        except (checkrein.RateLimited, checkrein.BudgetExceeded):
            pass
    return passed


def test_parent_and_children_go_on_together(redis_server: Server, prefix: str) -> None:
    engine = open_engine(redis_server, prefix)
    act = engine.guard(name="act", rate="100/h", budget="60 usd", cost="1 usd", actual=lambda r: "1")(
        lambda: None
    )
    assert count_of(act, 10) == 10
    children = [in_child(lambda: count_of(act, 30)) for _ in range(4)]
    mine = count_of(act, 30)
    totals = [child() for child in children]
    assert 10 + mine + sum(totals) == 60, (mine, totals)
    rows = {row["gate"]: row for row in engine.list()}
    assert (rows["act.budget"]["spent"], rows["act.budget"]["held"]) == ("60", "0")


def test_workers_forked_before_the_first_call(redis_server: Server, prefix: str) -> None:
    # As a pre-fork server does it: the application is loaded, then its workers are forked, and they fork again.
    engine = open_engine(redis_server, prefix)
    act = engine.guard(name="act", rate="20/h")(lambda: None)

    def worker() -> int:
        grandchild = in_child(lambda: count_of(act, 10))
        return count_of(act, 10) + int(grandchild())

    children = [in_child(worker) for _ in range(3)]
    assert sum(child() for child in children) == 20
    assert_denied(act, code="rate_limited")


@pytest.fixture
def busy() -> Iterator[list[threading.Thread]]:
    """Threads that are joined at the end."""
    threads: list[threading.Thread] = []
    yield threads
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()


def test_forks_in_the_middle_of_decisions(
    redis_server: Server, prefix: str, busy: list[threading.Thread]
) -> None:
    engine = open_engine(redis_server, prefix)
    act = engine.guard(name="act", key="user", rate="200/h", budget="1000 usd", cost="1 usd")(
        lambda user: None
    )
    stop, passed, failed = threading.Event(), [0] * 4, []

    def work(number: int) -> None:
        try:
            while not stop.is_set():
                passed[number] += count_of(lambda: act("ada"), 1)
        except Exception as error:
            failed.append(error)

    for number in range(4):
        busy.append(threading.Thread(target=work, args=(number,)))
        busy[-1].start()
    children = []
    for _ in range(20):
        children.append(in_child(lambda: count_of(lambda: act("ada"), 12)))
    totals = [child() for child in children]
    stop.set()
    for thread in busy:
        thread.join(PATIENCE)
    assert failed == []
    assert sum(passed) + sum(totals) == 200, (passed, totals)
    assert_denied(act, "ada", code="rate_limited")
    assert engine.list()[0]["events"] == 200


def test_a_child_does_not_end_what_its_parent_began(redis_server: Server, prefix: str) -> None:
    engine = open_engine(redis_server, prefix)

    @engine.guard(name="pay", once="key", budget="50 usd", cost="5 usd", actual=lambda result: "1")
    def pay(key: str) -> Any:
        return in_child(lambda: [row["held"] for row in engine.list() if row["gate"] == "pay.budget"])()

    with engine.budget("9 usd", name="own").hold("2 usd"):
        assert pay("p1") == ["5"]
    assert {row["gate"]: (row["spent"], row["held"]) for row in engine.list()} == {
        "pay.budget": ("1", "0"),
        "own": ("2", "0"),
    }


def forked(engine: checkrein.Engine, act: Callable[[], object], results: Any) -> None:
    """Run in a process of multiprocessing."""
    results.put((engine.store, count_of(act, 6)))


def test_children_of_multiprocessing(redis_server: Server, prefix: str) -> None:
    engine = open_engine(redis_server, prefix)
    act = engine.guard(name="act", rate="10/h")(lambda: None)
    act()
    context: Any = multiprocessing.get_context("fork")
    results = context.Queue()
    children = [context.Process(target=forked, args=(engine, act, results)) for _ in range(3)]
    for child in children:
        child.start()
    answers = [results.get(timeout=PATIENCE) for _ in children]
    for child in children:
        child.join(PATIENCE)
        assert child.exitcode == 0
    assert sum(count for _, count in answers) == 9
    assert {store for store, _ in answers} == {engine.store}


def test_an_engine_with_a_ledger_stays_in_its_process(
    redis_server: Server, prefix: str, tmp_path: Path
) -> None:
    engine = checkrein.Engine(
        store=redis_server.url, prefix=prefix, deadline="20s", ledger=tmp_path / "host.db"
    )
    act = engine.guard(name="act", rate="10/h")(lambda: None)
    act()
    assert str(in_child(act)()).startswith("ForkedError")
    act()
    assert engine.list()[0]["events"] == 2
