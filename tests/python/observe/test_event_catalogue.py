"""Events: every one is in the catalogue, says who acted, and reaches whoever listens."""

from __future__ import annotations

import asyncio
import json
import os
import re
import threading
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import checkrein
from checkrein.events import CATALOGUE, Event, sums
from checkrein.testing import FakeClock

ROOT = Path(__file__).resolve().parents[3]
NOON = 1_795_262_400.0
POLICY = """
version = 1
[budgets.team]
key = "action.tenant"
limit = "1 usd"
thresholds = [1]
[models."claude-*"]
budgets = ["team"]
reserve_output = 50
"""
OPUS: dict[str, Any] = {"model": "claude-opus-5", "provider": "anthropic", "context": {}}
REPLY = {
    "type": "message",
    "model": "claude-opus-5-20260401",
    "usage": {"input_tokens": 200, "output_tokens": 40, "cache_read_input_tokens": 7},
}


@pytest.fixture
def engine(tmp_path: Path) -> checkrein.Engine:
    path = tmp_path / "checkrein.toml"
    path.write_text(POLICY + "[tools.'*']\n")
    return checkrein.Engine.from_policy(path, clock=FakeClock(NOON), tenant="acme", name="shop")


@pytest.fixture
def heard(engine: checkrein.Engine) -> list[Event]:
    events: list[Event] = []
    engine.on_event(events.append)
    return events


def call(engine: checkrein.Engine, **more: Any) -> checkrein.ModelCall:
    return engine.model_call(request="x" * 1_000, **{**OPUS, **more})


def named(heard: list[Event], name: str) -> Event:
    (event,) = [event for event in heard if event.name == name]
    return event


def test_a_call_of_a_model_is_told_from_its_hold_to_its_settlement(
    engine: checkrein.Engine, heard: list[Event]
) -> None:
    with checkrein.acting(user="ann", agent="bot", run="r1", session="s1"), call(engine) as made:
        made.settle(REPLY)
    assert [event.name for event in heard] == [
        "budget.threshold",
        "decision.allow",
        "hold.taken",
        "outcome.done",
        "hold.settled",
    ]
    assert {(event.user, event.agent, event.run, event.session, event.tenant) for event in heard} == {
        ("ann", "bot", "r1", "s1", "acme")
    }
    assert {(event.engine, event.at, event.tool, event.model) for event in heard} == {
        ("shop", NOON, "claude-opus-5", "claude-opus-5")
    }
    assert len({event.call for event in heard}) == 1
    taken, settled = named(heard, "hold.taken"), named(heard, "hold.settled")
    assert taken.detail["held"] == [{"budget": "team", "amount": "0.01157", "unit": "usd", "bound": "proven"}]
    assert (taken.detail["max_output"], taken.detail["provider"]) == (50, "anthropic")
    # 200 x 5 + 7 x 0.5 + 40 x 25 USD per million.
    assert (settled.detail["usd"], settled.detail["exact"]) == ("0.0020035", True)
    assert settled.detail["charged"] == [["team", "0.0020035 usd"]]
    assert settled.detail["usage"] == {"input_tokens": 200, "output_tokens": 40, "cached_tokens": 7}
    assert settled.detail["response_model"] == "claude-opus-5-20260401"


def test_what_is_charged_without_usage_says_why(engine: checkrein.Engine, heard: list[Event]) -> None:
    with call(engine):
        pass
    with pytest.raises(ValueError, match="boom"), call(engine):
        raise ValueError("boom")
    with pytest.raises(checkrein.NotExecuted), call(engine):
        raise checkrein.NotExecuted
    settled = named(heard, "hold.settled")
    assert (settled.detail["exact"], settled.detail["shortfalls"]) == (False, ["usage_missing"])
    ends = [event.name for event in heard if event.kind in ("hold", "outcome")]
    assert ends == [
        *("hold.taken", "outcome.done", "hold.settled"),
        *("hold.taken", "outcome.in_doubt", "hold.in_doubt"),
        *("hold.taken", "outcome.failed_clean", "hold.released"),
    ]
    numbers = [event.call for event in heard if event.kind == "hold"]
    assert numbers[0] == numbers[1] != numbers[2] == numbers[3] != numbers[4] == numbers[5]


def test_a_call_settled_for_somebody_else_keeps_its_own_name(
    engine: checkrein.Engine, heard: list[Event]
) -> None:
    made = call(engine, tenant="other")
    with checkrein.acting(user="ann"):
        made.__enter__()
    with checkrein.acting(user="bob"):
        made.settle(REPLY)
    assert {(event.user, event.tenant) for event in heard} == {("ann", "other")}


def test_refusals_and_replays_have_names_of_their_own() -> None:
    engine, heard = checkrein.Engine(clock=FakeClock()), []
    engine.on_event(heard.append)
    act = engine.guard(name="act", rate="2/h", once="a")(lambda a: a)
    act(1)
    act(1)
    act(2)
    with pytest.raises(checkrein.RateLimited):
        act(3)
    assert [event.name for event in heard] == [
        *("decision.allow", "outcome.done"),
        "decision.replay",
        *("decision.allow", "outcome.done"),
        "decision.block",
    ]
    assert {event.model for event in heard} == {None}


class Part(SimpleNamespace):
    """What a run says of itself."""

    __hash__ = object.__hash__


def test_runs_begin_and_end_and_say_what_was_spent() -> None:
    engine, heard = checkrein.Engine(clock=FakeClock()), []
    engine.on_event(heard.append)

    def spend() -> None:
        engine.add_cost("0.12 usd", name="search")
        raise KeyError("sk-secret")

    with (
        engine.session("s1", user="ann", tenant="acme", tokens=100),
        engine.run("ann", run_id="r1", agent="bot", name="answer", budget="$0.50"),
        pytest.raises(KeyError),
        engine.scope("inner", calls=1),
    ):
        spend()
    of_runs = [event for event in heard if event.kind == "run"]
    assert [(event.name, event.detail["scope"], event.run) for event in of_runs] == [
        ("run.start", "session", ""),
        ("run.start", "run", "r1"),
        ("run.start", "scope", "r1"),
        ("run.end", "scope", "r1"),
        ("run.end", "run", "r1"),
        ("run.end", "session", ""),
    ]
    assert {(event.user, event.session, event.tenant) for event in heard} == {("ann", "s1", "acme")}
    numbers = [event.call for event in of_runs]
    assert numbers[:3] == numbers[:2:-1]
    assert len(set(numbers)) == 3
    begun, ended = of_runs[1], of_runs[4]
    assert begun.detail == {"name": "answer", "scope": "run", "parent": None, "limits": {"usd": "0.5"}}
    assert (ended.detail["status"], ended.detail["spent"]) == ("success", {"usd": "0.12"})
    failed = of_runs[3].detail
    assert (failed["status"], failed["error"], failed["spent"]) == ("failed", "KeyError", {"usd": "0.12"})
    assert named(heard, "cost.recorded").detail == {"amounts": {"usd": "0.12"}, "name": "search"}
    assert "sk-secret" not in json.dumps([event.to_dict() for event in heard])


def test_a_run_that_is_refused_or_stopped_says_so() -> None:
    engine, heard = checkrein.Engine(clock=FakeClock()), []
    engine.on_event(heard.append)
    with engine.run(calls=1) as run:
        run.stop("enough")
        run.stop("again")
    with pytest.raises(checkrein.BudgetExceeded), engine.run(calls=1) as run:
        run.hold({"calls": 2})
    assert named(heard, "run.stopped").run == heard[0].run
    ended = heard[-1].detail
    assert (heard[-1].name, ended["status"], ended["code"]) == ("run.end", "blocked", "budget_exceeded")


def test_holds_of_a_run_are_told_from_taking_to_their_end() -> None:
    engine, heard = checkrein.Engine(clock=FakeClock()), []
    with engine.run(budget="1 usd") as run:
        engine.on_event(heard.append)
        with run.hold({"usd": "0.3", "calls": 1}, proven=False, name="search") as hold:
            hold.settle({"usd": "0.1", "calls": 1})
        with run.hold({"usd": "0.3"}):
            pass
        run.hold({"usd": "0.3"}).release()
        run.hold({"usd": "0.3"}).doubt()
    of_holds = [event for event in heard if event.kind == "hold"]
    assert [event.name for event in of_holds] == [
        *("hold.taken", "hold.settled"),
        *("hold.taken", "hold.settled"),
        *("hold.taken", "hold.released"),
        *("hold.taken", "hold.in_doubt"),
    ]
    taken, settled, _, in_full = of_holds[:4]
    assert taken.detail["held"] == [
        {"budget": "@run", "amount": "0.3", "unit": "usd", "bound": "estimated"},
        {"budget": "@run", "amount": "1", "unit": "calls", "bound": "estimated"},
    ]
    assert taken.call == settled.call != in_full.call
    assert (settled.tool, settled.detail["charged"]) == (
        "search",
        [["search", "0.1 usd"], ["search", "1 calls"]],
    )
    assert (settled.detail["exact"], in_full.detail["exact"]) == (True, False)


def test_usage_that_nobody_had_asked_about_is_told() -> None:
    engine, heard = checkrein.Engine(), []
    engine.on_event(heard.append)
    with engine.run(user="ann"):
        engine.record_usage(REPLY, provider="anthropic")
    event = named(heard, "cost.recorded")
    assert (event.model, event.user, event.detail["amounts"]["tokens"]) == (REPLY["model"], "ann", "247")


def test_what_a_finalizer_says_is_told_with_the_next_event(
    engine: checkrein.Engine, heard: list[Event]
) -> None:
    made = call(engine)
    made.__enter__()
    assert made.abandon()
    assert [event.name for event in heard if event.kind == "hold"] == ["hold.taken"]
    engine._emit("store.failed_open", "act")
    assert [event.name for event in heard[-2:]] == ["hold.settled", "store.failed_open"]
    assert (heard[-2].call, heard[-2].detail["exact"]) == (named(heard, "hold.taken").call, False)


def test_a_run_without_figures_ends_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    engine, heard = checkrein.Engine(clock=FakeClock()), []
    engine.on_event(heard.append)
    engine._run_ended(Part(name="answer", run_id="r1"), None)
    assert [(event.name, event.run, event.detail) for event in heard] == [
        ("run.end", "r1", {"name": "answer", "scope": "run"})
    ]
    assert "no figures" in caplog.text


def test_a_call_that_is_late_is_told_twice_on_behalf_of_who_called() -> None:
    engine, heard, go_on, told = checkrein.Engine(), [], threading.Event(), threading.Event()

    def listen(event: Event) -> None:
        heard.append(event)
        if event.name == "outcome.late":
            told.set()

    @engine.guard(name="slow", once="key", timeout="50ms")
    def slow(key: str) -> None:
        go_on.wait()
        raise KeyError("sk-secret")

    engine.on_event(listen)
    with checkrein.acting(user="ann"), pytest.raises(checkrein.TimedOut):
        slow("k")
    go_on.set()
    assert told.wait(10)
    names = [event.name for event in heard]
    assert names[:3] == ["decision.allow", "outcome.in_doubt", "outcome.timed_out"]
    assert (names[-1], heard[-1].detail) == ("outcome.late", {"error": "KeyError"})
    assert heard[2].detail == {"seconds": 0.05, "started": True}
    assert {event.user for event in heard} == {"ann"}


async def test_a_coroutine_that_is_late_is_cancelled_and_told() -> None:
    engine, heard = checkrein.Engine(), []

    @engine.guard(name="slow", rate="9/h", timeout="10ms")
    async def slow() -> None:
        await asyncio.Event().wait()

    engine.on_event(heard.append)
    with pytest.raises(checkrein.TimedOut):
        await slow()
    assert [event.name for event in heard] == ["decision.allow", "outcome.timed_out"]


def test_every_listener_hears_what_another_one_failed_on(caplog: pytest.LogCaptureFixture) -> None:
    engine, heard = checkrein.Engine(clock=FakeClock()), []

    def fails(event: Event) -> None:
        raise RuntimeError("inside")

    engine.on_event(fails)
    remove = engine.on_event(heard.append)
    act = engine.guard(rate="9/h")(lambda: "ran")
    assert act() == act() == "ran"
    assert len(heard) == engine.listener_errors == 2
    remove()
    act()
    assert len(heard) == 2
    # A name that nobody knows is a bug of ours, not of the caller's.
    engine._emit("no.such.event", "act")
    assert engine.listener_errors == 4


def test_amounts_are_exact_and_zeros_left_out() -> None:
    assert sums({"usd": Decimal("0.000000000001"), "tokens": 0, "calls": 3}) == {
        "usd": "0.000000000001",
        "calls": "3",
    }
    assert sums(SimpleNamespace(usd=Decimal(100), tokens=1, calls=None)) == {"usd": "100", "tokens": "1"}
    assert sums(None) == {}


def test_events_of_the_code_are_those_of_the_catalogue() -> None:
    written = set()
    for path in (ROOT / "python/checkrein").rglob("*.py"):
        if path.name == "events.py" or "actguard" in path.parts:
            # The drop-in has a catalogue of its own.
            continue
        text = path.read_text(encoding="utf-8")
        written |= set(re.findall(r'(?:_emit|tell_of_run)\(\s*(?:self, )?"([\w.]+)"', text))
        written |= set(re.findall(r'tell\("([\w.]+)"', text))
        written |= set(re.findall(r'Event\([^)]*name="([\w.]+)"', text))
    assert len(written) >= 5
    assert written <= set(CATALOGUE)
    for name, entry in CATALOGUE.items():
        assert re.fullmatch(r"[a-z]+\.[a-z_]+", name)
        assert entry.when
        assert not entry.when.endswith(".")


def table() -> str:
    """The table of the reference, as the code has it."""
    rows = ["| event | `kind` | announced when | `detail` |", "|---|---|---|---|"]
    for name, entry in CATALOGUE.items():
        detail = "; ".join(f"`{member}`: {text}" for member, text in entry.detail.items())
        rows.append(f"| `{name}` | `{entry.kind}` | {entry.when} | {detail} |")
    return "\n".join(rows) + "\n"


def test_the_reference_has_the_catalogue() -> None:
    path = ROOT / "docs/reference/events.md"
    text = path.read_text(encoding="utf-8")
    begin, end = "<!-- catalogue -->\n\n", "<!-- end of the catalogue -->"
    before, rest = text.split(begin)
    inside, after = rest.split(end)
    if os.environ.get("UPDATE_DOCUMENTS"):
        path.write_text(before + begin + table() + "\n" + end + after, encoding="utf-8")
        return
    assert inside == table() + "\n", (
        "write it: UPDATE_DOCUMENTS=1 pytest tests/python/observe/test_event_catalogue.py"
    )


def test_an_event_is_plain_json(engine: checkrein.Engine, heard: list[Event]) -> None:
    with call(engine) as made:
        made.settle(REPLY)
    for event in heard:
        fields = json.loads(json.dumps(event.to_dict()))
        assert fields["name"] == event.name
        assert set(event.detail) <= set(CATALOGUE[event.name].detail)
        assert event.kind == CATALOGUE[event.name].kind
