"""Guards under a policy file: its gates and those of the code in one admission, and files that take over."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import checkrein
from checkrein import Engine, acting
from checkrein.testing import FakeClock

MakeEngine = Callable[[str], Engine]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where the policy file is."""
    return tmp_path / "checkrein.toml"


@pytest.fixture
def make(place: dict[str, Any], clock: FakeClock, file: Path) -> MakeEngine:
    """Make an engine under a policy, on every store."""

    def of(text: str) -> Engine:
        file.write_text(f"version = 1\n{text}")
        return Engine.from_policy(file, clock=clock, **place)

    return of


@pytest.fixture(autouse=True)
def somebody() -> Iterator[None]:
    with acting(user="ann", run="r1"):
        yield


def codes(call: Callable[[], object]) -> list[str]:
    """What a refused call is told."""
    with pytest.raises(checkrein.Denied) as refusal:
        call()
    return [reason.code for reason in refusal.value.decision.reasons]


def test_a_guard_gets_the_gates_of_its_section(make: MakeEngine) -> None:
    engine = make(
        "[tools.'*']\nrules = ['!has(args.secret)']\n"
        "[tools.refund]\nrules = ['args.amount > 0']\n"
        "limits = [{ key = 'action.user', max_calls = 1, window = '1h' }]\n"
    )

    @engine.guard(rules="amount < 100")
    def refund(amount: int, secret: str | None = None) -> int:
        return amount

    assert codes(lambda: refund(0)) == ["rule_violated"] * 2  # `secret` is there, with its default
    refund_plain = engine.guard(name="refund", rules="amount < 100")(lambda amount: amount)
    assert codes(lambda: refund_plain(0)) == ["rule_violated"]
    assert codes(lambda: refund_plain(100)) == ["rule_violated"]
    assert refund_plain(5) == 5
    assert codes(lambda: refund_plain(5)) == ["rate_limited"]
    with acting(user="bob"):
        assert refund_plain(5) == 5
    with acting(user=""):
        assert codes(lambda: refund_plain(5)) == ["invalid_action"]
    assert [kind for kind, _ in refund_plain.checkrein.policy] == ["rule", "rule", "rule", "limit"]  # type: ignore[attr-defined]


def test_a_refusal_by_either_takes_nothing_of_the_other(make: MakeEngine) -> None:
    engine = make(
        "[budgets.team]\nlimit = '1 usd'\n"
        "[tools.pay]\nbudgets = [{ name = 'team', cost = { cel = 'args.cents * 10000000' } }]\n"
    )

    @engine.guard(rate="2/h")
    def pay(cents: int) -> int:
        return cents

    assert codes(lambda: pay(101)) == ["budget_exceeded"]
    assert (pay(50), pay(40)) == (50, 40)
    assert codes(lambda: pay(1)) == ["rate_limited"]
    team = next(meter for meter in pay.checkrein.peek(0).meters if meter.gate == "team")  # type: ignore[attr-defined]
    assert str(team.spent) == "0.9"


def test_a_tool_without_a_section_is_refused_and_the_guard_warns(
    make: MakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    engine = make("")
    search = engine.guard(name="search")(lambda query: query)
    assert "no section of the policy file covers it" in caplog.text
    with pytest.raises(checkrein.UnknownTool):
        search("x")


def test_frozen_tools_do_not_run(make: MakeEngine, file: Path) -> None:
    engine = make("[tools.'*']\n")
    search = engine.guard(name="search")(lambda query: query)
    assert search("x") == "x"
    file.write_text("version = 1\ndefaults.mode = 'observe'\n[freeze]\nusers = ['ann']\n[tools.'*']\n")
    engine.reload()
    with pytest.raises(checkrein.Frozen, match="the user `ann`"):
        search("x")
    with acting(user="bob"):
        assert search("x") == "x"


def test_observe_lets_pass_and_tells(make: MakeEngine) -> None:
    engine = make("defaults.mode = 'observe'\n[tools.'*']\nrules = ['args.n < 2']\n")
    told: list[checkrein.Event] = []
    engine.add_listener(told.append)
    call = engine.guard(name="a", rules="n < 3")(lambda n: n)
    assert call(2) == 2
    assert told[0].decision is not None
    assert [reason.code for reason in told[0].decision.observed] == ["rule_violated"]
    # What the code enforces is enforced.
    assert codes(lambda: call(3)) == ["rule_violated"]


def test_thresholds_are_announced(make: MakeEngine) -> None:
    engine = make("[budgets.b]\nlimit = '10 calls'\nthresholds = [50, 100]\n[tools.a]\nbudgets = ['b']\n")
    told: list[checkrein.Event] = []
    engine.add_listener(told.append)
    call = engine.guard(name="a")(lambda: None)
    for _ in range(10):
        call()
    crossed = [(event.tool, event.gate, event.percent) for event in told if event.kind == "threshold"]
    assert crossed == [("a", "b", 50), ("a", "b", 100)]


def test_once_from_the_file(make: MakeEngine, file: Path) -> None:
    engine = make("[tools.refund]\nonce = { key = 'args.id' }\n")
    ran = []

    @engine.guard()
    def refund(id: str, cents: int) -> dict[str, int]:
        ran.append(checkrein.current_operation().key)
        return {"cents": cents}

    assert refund("p1", 5) == {"cents": 5}
    assert refund("p1", 5) == {"cents": 5}
    assert ran == ["p1"]
    assert codes(lambda: refund("p1", 6)) == ["key_reused"]

    @engine.guard(name="refund")
    def crashes(id: str, cents: int) -> None:
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        crashes("p2", 1)
    assert codes(lambda: crashes("p2", 1)) == ["in_doubt"]
    # A file without the key: every call runs.
    file.write_text("version = 1\n[tools.refund]\n")
    engine.reload()
    with pytest.raises(checkrein.CheckreinError):
        refund("p1", 6)  # it asks for its operation, and there is none
    assert len(ran) == 1


def test_a_hook_answers_for_the_once_key_of_the_file(make: MakeEngine) -> None:
    engine = make("[tools.refund]\nonce = { key = 'args.id' }\n")
    asked: list[checkrein.Operation] = []

    def look_up(operation: checkrein.Operation) -> checkrein.Done:
        asked.append(operation)
        return checkrein.Done("found")

    @engine.guard(reconcile=look_up)
    def refund(id: str, cents: int) -> str:
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        refund("p1", 5)
    assert refund("p1", 5) == "found"
    assert (asked[0].key, asked[0].arguments) == ("p1", {"id": "p1", "cents": 5})
    assert [operation.key for operation in engine.in_doubt(refund)] == []
    with pytest.raises(checkrein.ConfigError, match="reconcile"):
        engine.guard(name="refund", reconcile=3)  # type: ignore[call-overload]


def test_what_cannot_be_compared_is_refused_unless_it_is_excluded(make: MakeEngine) -> None:
    engine = make("[tools.'*']\nloop = { same_call = 3 }\n")
    blob = engine.guard(name="blob")(lambda data: data)
    with pytest.raises(checkrein.InvalidAction, match=r"args\.data"):
        blob(b"x")
    other = engine.guard(name="other", exclude="data")(lambda name, data: name)
    assert (other("n", b"x"), other("n", b"y")) == ("n", "n")
    assert codes(lambda: other("n", b"z")) == ["loop_detected"]
    with pytest.raises(checkrein.ConfigError, match="exclude"):
        engine.guard(exclude="nothing")(lambda name: name)


def test_facts_come_from_results(make: MakeEngine) -> None:
    engine = make(
        "[tools.list]\nproves = [{ kind = 'payment', pointer = '/0/id' }]\n"
        "[tools.refund]\nfacts = [{ arg = '/id', kind = 'payment' }]\n"
    )
    listed = engine.guard(name="list")(lambda query: [{"id": f"p-{query}"}])
    as_text = engine.guard(name="list")(lambda query: f'[{{"id": "{query}"}}]')
    refund = engine.guard(name="refund")(lambda id: id)

    @engine.guard(name="list")
    async def later(query: str) -> list[dict[str, str]]:
        return [{"id": f"a-{query}"}]

    assert codes(lambda: refund("p-1")) == ["missing_fact"]
    listed("1")
    assert refund("p-1") == "p-1"
    assert as_text("2") == '[{"id": "2"}]'
    assert codes(lambda: refund("2")) == ["missing_fact"]  # the agent's own words
    asyncio.run(later("3"))
    assert refund("a-3") == "a-3"
    with acting(run="r2"):
        assert codes(lambda: refund("p-1")) == ["missing_fact"]


def test_the_shorter_timeout_counts(make: MakeEngine, file: Path) -> None:
    engine = make("[tools.'*']\ntimeout = '50ms'\n")
    leave = threading.Event()
    slow = engine.guard(name="slow", timeout="1h")(lambda: leave.wait(30))
    assert slow.checkrein.guard.timeout_s == 0.05  # type: ignore[attr-defined]
    with pytest.raises(checkrein.TimedOut):
        slow()

    @engine.guard()
    async def later() -> None:
        await asyncio.sleep(30)

    with pytest.raises(checkrein.TimedOut):
        asyncio.run(later())
    file.write_text("version = 1\n[tools.'*']\n")
    engine.reload()
    leave.set()
    assert slow() is True


def test_generators_cannot_be_once(make: MakeEngine, file: Path) -> None:
    engine = make("[tools.ticks]\nlimits = [{ max_calls = 1, window = '1h' }]\n")

    @engine.guard()
    def ticks(n: int) -> Iterator[int]:
        yield from range(n)

    assert list(ticks(2)) == [0, 1]
    assert codes(lambda: list(ticks(2))) == ["rate_limited"]
    before = engine.policy_digest
    file.write_text("version = 1\n[tools.ticks]\nonce = { key = \"'k'\" }\n")
    with pytest.raises(checkrein.ConfigError, match="a generator has no result to store"):
        engine.reload()
    assert engine.policy_digest == before


def test_code_and_file_cannot_both_have_a_budget(make: MakeEngine) -> None:
    engine = make(
        "[budgets.team]\nlimit = '1 usd'\n[tools.a]\nbudgets = [{ name = 'team', cost = '0.1 usd' }]\n"
    )
    guard = engine.guard(budget=checkrein.Budget("5 usd", window="1d", name="team"), cost="0.1 usd", name="a")
    with pytest.raises(checkrein.ConfigError, match="both have the budget `team`"):
        guard(lambda: None)


def test_a_bad_file_is_told_with_every_problem_and_changes_nothing(make: MakeEngine, file: Path) -> None:
    engine = make("[tools.a]\nlimits = [{ max_calls = 1, window = '1h' }]\n")
    call = engine.guard(name="a")(lambda: "ran")
    assert call() == "ran"
    file.write_text("version = 1\n[tools.a]\nlimitz = []\nrules = ['args. >']\n")
    with pytest.raises(checkrein.PolicyFileError) as refused:
        engine.reload()
    assert refused.value.code == "policy_unknown_field"
    assert [problem["line"] for problem in refused.value.problems] == [3, 4]
    assert "did you mean `limits`?" in str(refused.value)
    assert codes(call) == ["rate_limited"]
    with pytest.raises(checkrein.PolicyFileError):
        Engine.from_policy(file)


def test_the_file_of_a_project_is_found_at_its_root_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "checkrein.toml").write_text("version = 1\n[tools.a]\n")
    below = tmp_path / "below"
    below.mkdir()
    monkeypatch.chdir(below)
    with pytest.raises(checkrein.PolicyFileError) as refused:
        Engine.from_policy()
    assert refused.value.code == "policy_not_found"
    (below / "pyproject.toml").write_text("[tool.checkrein]\nversion = 1\n[tool.checkrein.tools.b]\n")
    assert Engine.from_policy().guard(name="b")(lambda: 1)() == 1
    with pytest.raises(checkrein.ConfigError, match="no policy file"):
        Engine().reload()


def test_a_watched_file_takes_over_when_it_is_whole(
    make: MakeEngine, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make("[tools.a]\n")
    caplog.set_level(logging.WARNING, "checkrein")
    engine = Engine.from_policy(file, watch="10ms")
    call = engine.guard(name="a")(lambda: "ran")

    def replace(text: str) -> None:
        new = file.with_suffix(".new")
        new.write_text(text)
        os.replace(new, file)

    def until(said: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 30
        while not said():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    before = engine.policy_digest
    replace("version = 1\n[tools.a")
    until(lambda: "was not taken over" in caplog.text)
    assert (engine.policy_digest, call()) == (before, "ran")
    file.unlink()
    until(lambda: "is gone" in caplog.text)
    replace("version = 1\n[freeze]\ntools = ['a']\n[tools.a]\n")
    until(lambda: engine.policy_digest != before)
    with pytest.raises(checkrein.Frozen):
        call()


def test_files_that_are_replaced_under_load_decide_whole_calls(place: dict[str, Any], file: Path) -> None:
    def text(word: str) -> str:
        rules = ", ".join(f"{{ check = 'false', name = '{word}{n}' }}" for n in range(3))
        return f"version = 1\n[tools.a]\nrules = [{rules}]\n"

    file.write_text(text("x"))
    engine = Engine.from_policy(file, **place)
    call = engine.guard(name="a")(lambda: None)
    seen: set[str] = set()
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            try:
                call()
            except checkrein.Denied as refusal:
                seen.add("".join(reason.gate[0] for reason in refusal.decision.reasons))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for word in "yzxyzxyzxy":
        file.write_text(text(word))
        engine.reload()
        time.sleep(0.01)
    stop.set()
    for thread in threads:
        thread.join()
    assert seen <= {"xxx", "yyy", "zzz"}
    assert len(seen) > 1


def test_arguments_without_a_form_are_not_slipped_past_a_rule(make: MakeEngine) -> None:
    engine = make(
        "[tools.pay]\nrules = ['!has(args.amount) || args.amount <= 100']\n"
        "[tools.mail]\nrules = [\"!has(args.to) || args.to.all(to, to.endsWith('@example.com'))\"]\n"
    )
    pay = engine.guard(name="pay")(lambda amount: amount)
    assert pay(5) == 5
    for amount in (500, 2**70, float("nan"), b"x", type("Int", (int,), {})(500)):
        with pytest.raises(checkrein.RuleViolated):
            pay(amount)
    mail = engine.guard(name="mail")(lambda to: to)
    for to in (["a@evil"], ["a@evil", b""], ["a@evil", "\ud800"], {"a@evil"}):
        with pytest.raises(checkrein.RuleViolated):
            mail(to)
    # What the code leaves out is not left out of the file's rules.
    blind = engine.guard(name="pay", exclude="amount")(lambda amount: amount)
    with pytest.raises(checkrein.RuleViolated):
        blind(500)


def test_sections_go_by_the_name_of_the_function(make: MakeEngine) -> None:
    engine = make("[tools.'*']\n[tools.refund]\nrules = ['args.amount < 10']\n")

    def build() -> Callable[[int], int]:
        @engine.guard()
        def refund(amount: int) -> int:
            return amount

        return refund

    first, second = build(), build()
    assert first.checkrein.name == second.checkrein.name == "refund"  # type: ignore[attr-defined]
    for refund in (first, second):
        assert codes(lambda refund=refund: refund(500)) == ["rule_violated"]  # type: ignore[misc]

    def other() -> None:
        @engine.guard(once="amount")
        def refund(amount: int) -> str:
            return "another function's"

    # One of them would get the stored results of the other.
    with pytest.raises(checkrein.ConfigError, match="are both called `refund`"):
        other()


def test_only_the_object_of_a_method_is_left_out(make: MakeEngine) -> None:
    engine = make(
        "[tools.book]\nonce = { key = 'args.flight' }\n[tools.seat]\nrules = [\"args.cls != 'first'\"]\n"
        "[tools.list]\nrules = ['args.n < 3']\n"
    )
    book = engine.guard(name="book")(lambda flight, cls="economy": f"{flight} {cls}")
    assert book("LH1") == "LH1 economy"
    assert codes(lambda: book("LH1", "first")) == ["key_reused"]
    seat = engine.guard(name="seat")(lambda cls: cls)
    # The first parameter of this name may be an object: nobody reads it, and a rule that wants to fails.
    assert codes(lambda: seat("first")) == ["rule_error"]
    seat_of = engine.guard(name="seat")(lambda flight, cls: cls)
    assert codes(lambda: seat_of("LH1", "first")) == ["rule_violated"]

    class Desk:
        @engine.guard(name="book")
        def book(self, flight: str) -> str:
            return flight

        @engine.guard(name="book", exclude="self")
        def book_anywhere(self, flight: str) -> str:
            return flight

        @engine.guard(name="list")
        def list(self, n: int) -> int:
            return n

    with pytest.raises(checkrein.InvalidAction, match="self"):
        Desk().book("LH2")
    assert Desk().book_anywhere("LH3") == "LH3"
    assert Desk().list(2) == 2


def test_budgets_of_the_file_are_the_files_everywhere(make: MakeEngine) -> None:
    engine = make(
        "[budgets.team]\nlimit = '1 usd'\n[tools.pay]\nbudgets = [{ name = 'team', cost = '0.5 usd' }]\n[tools.x]\n"
    )
    team = checkrein.Budget("100 usd", name="team")
    with pytest.raises(checkrein.ConfigError, match="budget `team`"):
        engine.guard(name="x", budget=team, cost="50 usd")(lambda: None)
    with pytest.raises(checkrein.ConfigError, match="budget `team`"):
        engine.budget(team)


def test_a_file_that_cannot_be_read_for_a_moment_is_tried_again(
    make: MakeEngine, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make("[tools.a]\n")
    monkeypatch.chdir(file.parent)
    engine = Engine.from_policy(file.name, watch="10ms")
    monkeypatch.chdir("/")
    call = engine.guard(name="a")(lambda: "ran")
    assert call() == "ran"
    deadline = time.monotonic() + 30
    # A pipe would keep whoever opens it waiting.
    file.unlink()
    os.mkfifo(file)
    time.sleep(0.1)
    new = file.with_suffix(".new")
    new.write_text("version = 1\n[freeze]\ntools = ['a']\n[tools.a]\n")
    os.replace(new, file)
    while True:
        try:
            call()
        except checkrein.Frozen:
            break
        assert time.monotonic() < deadline
        time.sleep(0.01)
    with pytest.raises(checkrein.PolicyFileError, match="no ordinary file"):
        engine.reload("/dev/null")
