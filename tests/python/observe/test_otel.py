"""OpenTelemetry, with the real SDK: the spans and metrics of calls, and nothing where nobody asked."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

import checkrein
from checkrein import observe
from checkrein.observe import telemetry as module
from checkrein.testing import FakeClock

POLICY = """
version = 1
[budgets.team]
key = "action.tenant"
limit = "0.02 usd"
thresholds = [50]
[models."claude-*"]
budgets = ["team"]
reserve_output = 50
[tools."*"]
"""
OPUS: dict[str, Any] = {"model": "claude-opus-5", "provider": "anthropic", "context": {}}
REPLY = {
    "type": "message",
    "model": "claude-opus-5-20260401",
    "usage": {"input_tokens": 200, "output_tokens": 40, "cache_read_input_tokens": 7},
}


class Watched:
    """An engine, and what OpenTelemetry got of it."""

    def __init__(self, directory: Path) -> None:
        path = directory / "checkrein.toml"
        path.write_text(POLICY)
        self.engine = checkrein.Engine.from_policy(path, clock=FakeClock(1_795_262_400.0), tenant="acme")
        self.exporter = InMemorySpanExporter()
        self.traces = TracerProvider()
        self.traces.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.reader = InMemoryMetricReader()
        self.meters = MeterProvider([self.reader])

    def watch(self) -> module.Telemetry:
        return observe.otel(self.engine, tracer_provider=self.traces, meter_provider=self.meters)

    def call(self, **more: Any) -> checkrein.ModelCall:
        return self.engine.model_call(request=more.pop("request", "x" * 1_000), **{**OPUS, **more})

    def spans(self) -> list[ReadableSpan]:
        return list(self.exporter.get_finished_spans())

    def metrics(self) -> dict[str, list[tuple[dict[str, Any], Any]]]:
        """Every metric: its points as pairs of labels and value (a histogram's as count and sum)."""
        found: dict[str, list[tuple[dict[str, Any], Any]]] = {}
        data: Any = self.reader.get_metrics_data()
        for resource in data.resource_metrics:
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    for point in metric.data.data_points:
                        value = (point.count, point.sum) if hasattr(point, "sum") else point.value
                        found.setdefault(metric.name, []).append((dict(point.attributes), value))
        return found


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    made = Watched(tmp_path)
    telemetry = made.watch()
    yield made
    telemetry.remove()


WHO = {"checkrein.user": "ann", "checkrein.run": "r1", "checkrein.tenant": "acme"}


def test_a_call_of_a_model_is_a_span_with_the_names_of_the_conventions(watched: Watched) -> None:
    with checkrein.acting(user="ann", agent="bot", run="r1", session="s1"), watched.call() as call:
        assert watched.spans() == []
        call.settle(REPLY)
    (span,) = watched.spans()
    assert (span.name, span.kind.name, span.status.status_code) == (
        "chat claude-opus-5",
        "CLIENT",
        StatusCode.UNSET,
    )
    assert dict(span.attributes or {}) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "anthropic",
        "gen_ai.request.model": "claude-opus-5",
        "gen_ai.request.max_tokens": 50,
        "gen_ai.response.model": "claude-opus-5-20260401",
        "gen_ai.usage.input_tokens": 200,
        "gen_ai.usage.output_tokens": 40,
        "gen_ai.usage.cache_read.input_tokens": 7,
        "gen_ai.conversation.id": "s1",
        "gen_ai.agent.name": "bot",
        "checkrein.held.team": "0.01157 usd",
        "checkrein.decision.verdict": "allow",
        "checkrein.settlement.exact": True,
        "checkrein.settlement.usd": "0.0020035",
        "checkrein.outcome": "done",
        **WHO,
    }
    labels = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "anthropic",
        "gen_ai.request.model": "claude-opus-5",
        "gen_ai.response.model": "claude-opus-5-20260401",
    }
    metrics = watched.metrics()
    assert metrics["gen_ai.client.token.usage"] == [
        ({**labels, "gen_ai.token.type": "input"}, (1, 200)),
        ({**labels, "gen_ai.token.type": "output"}, (1, 40)),
    ]
    ((told, (count, seconds)),) = metrics["gen_ai.client.operation.duration"]
    assert (told, count) == (labels, 1)
    assert 0 < seconds < 60
    assert metrics["checkrein.settlement.cost"] == [(labels, pytest.approx(0.0020035))]


def test_what_was_refused_charged_blindly_or_lost_is_a_span_too(watched: Watched) -> None:
    with watched.call():
        pass
    with pytest.raises(checkrein.BudgetExceeded), checkrein.acting(user="ann"):
        watched.call().__enter__()
    with pytest.raises(KeyError), watched.call(request="x"):
        raise KeyError("sk-secret")
    with watched.call(request="x") as call:
        call.release()
    blind, refused, doubt, released = watched.spans()
    assert (blind.attributes or {})["checkrein.settlement.shortfalls"] == ("usage_missing",)
    about = refused.attributes or {}
    assert (about["error.type"], about["checkrein.decision.codes"]) == (
        "budget_exceeded",
        ("budget_exceeded",),
    )
    assert (about["checkrein.decision.gates"], about["checkrein.user"]) == (("team",), "ann")
    assert refused.status.status_code == StatusCode.ERROR
    assert (doubt.attributes or {})["error.type"] == "in_doubt"
    assert (released.attributes or {})["checkrein.outcome"] == "released"
    everything = " ".join(span.to_json() for span in watched.spans())
    assert "sk-secret" not in everything
    verdicts = [
        (labels["checkrein.decision.verdict"], labels.get("checkrein.decision.code"), value)
        for labels, value in watched.metrics()["checkrein.decision.count"]
    ]
    assert verdicts == [("allow", None, 3), ("block", "budget_exceeded", 1)]


def test_a_threshold_is_an_event_of_the_span_around_it(watched: Watched) -> None:
    tracer = watched.traces.get_tracer("test")
    with tracer.start_as_current_span("outer"), watched.call() as call:
        call.settle(REPLY)
    chat, outer = watched.spans()
    (event,) = outer.events
    assert (event.name, dict(event.attributes or {})) == (
        "checkrein.budget.threshold",
        {"checkrein.budget": "team", "checkrein.percent": 50},
    )
    assert chat.parent is not None
    assert chat.parent.span_id == outer.context.span_id


def test_guarded_functions_are_spans_those_made_before_too(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    tracer = watched.traces.get_tracer("test")

    @watched.engine.guard(name="before", rate="2/h", once="a")
    def before(a: int, b: int = 2) -> int:
        trace.get_current_span().set_attribute("inside", a)
        return a + b

    assert before(0) == 2
    telemetry = watched.watch()

    @watched.engine.guard(name="after", rate="9/h")
    async def after(a: int) -> int:
        with tracer.start_as_current_span("child"):
            await asyncio.sleep(0)
        return before(a)

    with checkrein.acting(user="ann", run="r1"):
        assert asyncio.run(after(1)) == 3
        assert before(1) == 3
        with pytest.raises(checkrein.RateLimited):
            before(2)
    child, ran, outer, replay, refused = watched.spans()
    assert [span.name for span in (ran, outer, replay, refused)] == [
        *("execute_tool before", "execute_tool after"),
        *("execute_tool before", "execute_tool before"),
    ]
    assert child.parent is not None
    assert ran.parent is not None
    assert child.parent.span_id == ran.parent.span_id == outer.context.span_id
    assert dict(ran.attributes or {}) == {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "before",
        "gen_ai.tool.type": "function",
        "checkrein.decision.verdict": "allow",
        "inside": 1,
        **WHO,
    }
    assert (replay.attributes or {})["checkrein.decision.verdict"] == "replay"
    assert (refused.attributes or {})["error.type"] == "rate_limited"
    assert not any(
        value in ("ann", "r1")
        for points in watched.metrics().values()
        for labels, _ in points
        for value in labels.values()
    )
    telemetry.remove()
    watched.engine.reset("before.rate")
    before(3)
    asyncio.run(after(1))
    assert [span.name for span in watched.spans()[5:]] == ["child"]


def test_guards_above_each_other_are_one_span_and_still_know_who_refused(watched: Watched) -> None:
    engine = watched.engine

    @engine.idempotent()
    @engine.rate_limit(max_calls=1, period="1h")
    def send(text: str, *, idempotency_key: str) -> str:
        return text

    assert send("a", idempotency_key="k1") == "a"
    assert [span.name for span in watched.spans()] == ["execute_tool " + checkrein.handle(send).name]
    with pytest.raises(checkrein.RateLimited):
        send("b", idempotency_key="k2")
    engine.reset(checkrein.handle(send.__wrapped__).name)
    # What a guard refused has not begun: its key is free.
    assert send("b", idempotency_key="k2") == "b"


def test_what_a_tool_raises_is_told_by_its_type_only(watched: Watched) -> None:
    @watched.engine.guard(name="fails", rate="9/h")
    def fails() -> None:
        raise ValueError("sk-secret")

    @watched.engine.guard(name="outer", rate="9/h", timeout="9s")
    def outer() -> None:
        fails()

    with pytest.raises(ValueError, match="sk-secret"):
        outer()
    inner, around = watched.spans()
    for span in (inner, around):
        assert (span.attributes or {})["error.type"] == "ValueError"
        assert "sk-secret" not in span.to_json()
    # Also when the worker thread of a timeout ran it.
    assert inner.parent is not None
    assert inner.parent.span_id == around.context.span_id


def test_a_run_is_the_span_around_its_calls(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    telemetry = observe.otel(watched.engine, tracer_provider=watched.traces)
    act = watched.engine.guard(name="act")(lambda: None)

    async def work() -> None:
        async with watched.engine.run(user="ann", agent="bot", run_id="r1", budget="$0.50"):
            with watched.call(request="x") as call:
                call.settle(REPLY)
            await asyncio.gather(asyncio.to_thread(act), asyncio.to_thread(act))

    asyncio.run(work())
    with pytest.raises(KeyError), watched.engine.run(user="ann"):
        raise KeyError("sk-secret")
    assert trace.get_current_span() is trace.INVALID_SPAN
    *inside, run, failed = watched.spans()
    assert {span.parent.span_id if span.parent else None for span in inside} == {run.context.span_id}
    assert sorted(span.name for span in inside) == ["chat claude-opus-5", *["execute_tool act"] * 2]
    assert dict(run.attributes or {}) == {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.agent.name": "bot",
        "checkrein.limit.usd": "0.5",
        "checkrein.spent.usd": "0.0020035",
        "checkrein.spent.tokens": "247",
        "checkrein.spent.calls": "1",
        "checkrein.run.status": "success",
        **WHO,
    }
    assert (run.name, failed.name) == ("invoke_agent bot", "invoke_agent run")
    assert (failed.attributes or {})["error.type"] == "KeyError"
    assert "sk-secret" not in failed.to_json()
    telemetry.remove()


def test_generators_of_both_kinds_are_spans_until_they_end(watched: Watched) -> None:
    @watched.engine.guard(name="count", rate="9/h")
    def count(to: int) -> Iterator[int]:
        yield from range(to)

    @watched.engine.guard(name="later", rate="9/h")
    async def later(to: int) -> AsyncIterator[int]:
        for number in range(to):
            if number == 3:
                raise ValueError(number)
            yield number

    async def consume(to: int) -> list[int]:
        return [number async for number in later(to)]

    async def leave() -> None:
        numbers = later(9)
        assert await anext(numbers) == 0
        await numbers.aclose()  # type: ignore[attr-defined]

    assert list(count(3)) == [0, 1, 2]
    assert next(count(3)) == 0
    assert asyncio.run(consume(2)) == [0, 1]
    asyncio.run(leave())
    with pytest.raises(ValueError, match="3"):
        asyncio.run(consume(5))
    names = [(span.name, (span.attributes or {}).get("error.type")) for span in watched.spans()]
    assert names == [
        *[("execute_tool count", None)] * 2,
        *[("execute_tool later", None)] * 2,
        ("execute_tool later", "ValueError"),
    ]


def test_without_the_package_it_says_what_to_install() -> None:
    program = """
        import sys

        class Without:
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] == "opentelemetry":
                    raise ModuleNotFoundError(name)

        sys.meta_path.insert(0, Without())
        import checkrein
        from checkrein import observe
        try:
            observe.otel(checkrein.Engine())
        except checkrein.ConfigError as error:
            print(error)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "pip install opentelemetry-api" in done.stdout, done.stderr


def test_one_engine_is_traced_once_at_a_time(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    act = watched.engine.guard(name="act")(lambda: None)
    for turn in range(3):
        telemetry = watched.watch()
        with pytest.raises(checkrein.ConfigError, match="traced already"):
            watched.watch()
        act()
        assert len(watched.spans()) == turn + 1
        telemetry.remove()
        telemetry.remove()
        act()


def test_a_reply_that_comes_after_the_doubt_counts(watched: Watched) -> None:
    call = watched.call(request="x")
    call.__enter__()
    call.doubt()
    call.settle(REPLY)
    (span,) = watched.spans()
    assert (span.attributes or {})["checkrein.outcome"] == "in_doubt"
    metrics = watched.metrics()
    assert [value for _, value in metrics["gen_ai.client.token.usage"]] == [(1, 200), (1, 40)]
    assert [value for _, value in metrics["checkrein.settlement.cost"]] == [pytest.approx(0.0020035)]


def test_spans_that_nobody_ends_do_not_pile_up(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_OPEN", 2)
    kept = [watched.call(request="x").__enter__() for _ in range(3)]
    (abandoned,) = watched.spans()
    assert (abandoned.attributes or {})["checkrein.outcome"] == "abandoned"
    for call in kept:
        call.settle(REPLY)
    assert len(watched.spans()) == 3


def test_without_anybody_who_asked_a_function_runs_as_it_is() -> None:
    engine = checkrein.Engine(clock=FakeClock())
    act = engine.guard(name="act", rate="9/h")(lambda: 1)
    (cell,) = [
        c for n, c in zip(act.__code__.co_freevars, act.__closure__ or (), strict=True) if n.endswith("_fn")
    ]
    before = cell.cell_contents
    telemetry = observe.otel(engine)
    assert cell.cell_contents is not before
    telemetry.remove()
    assert cell.cell_contents is before
    assert not engine._listening
