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


def test_runs_begin_and_end() -> None:
    engine, heard = checkrein.Engine(clock=FakeClock(), tenant="acme"), []
    nothing = {"usd": Decimal(0), "tokens": 0, "calls": 0, "cu": 0}
    scope = Part(
        name="answer",
        run_id="r1",
        user="ann",
        agent=None,
        session=None,
        tenant=None,
        parent=None,
        limits={"usd": Decimal("0.50")},
        spent=nothing | {"usd": Decimal("0.120"), "tokens": 500},
        overrun=nothing,
        forced=nothing,
    )
    engine._run_started(scope)
    engine.on_event(heard.append)
    engine._run_started(scope)
    engine._run_ended(scope, None)
    engine._run_ended(scope, KeyError("secret"))
    assert [(event.name, event.run, event.user, event.tenant) for event in heard] == [
        ("run.start", "r1", "ann", "acme"),
        ("run.end", "r1", "ann", "acme"),
        ("run.end", "r1", "ann", "acme"),
    ]
    assert len({event.call for event in heard}) == 1
    assert heard[0].detail == {
        "name": "answer",
        "scope": "run",
        "parent": None,
        "limits": {"usd": "0.5"},
    }
    assert heard[1].detail["spent"] == {"usd": "0.12", "tokens": "500"}
    assert [event.detail["status"] for event in heard[1:]] == ["success", "failed"]
    assert heard[2].detail["error"] == "KeyError"
    assert "secret" not in json.dumps(heard[2].to_dict())


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
    assert inside == table() + "\n", "write it: UPDATE_DOCUMENTS=1 pytest tests/python/observe/test_events.py"


def test_an_event_is_plain_json(engine: checkrein.Engine, heard: list[Event]) -> None:
    with call(engine) as made:
        made.settle(REPLY)
    for event in heard:
        fields = json.loads(json.dumps(event.to_dict()))
        assert fields["name"] == event.name
        assert set(event.detail) <= set(CATALOGUE[event.name].detail)
        assert event.kind == CATALOGUE[event.name].kind
