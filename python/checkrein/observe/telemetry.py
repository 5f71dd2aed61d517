"""OpenTelemetry: spans and metrics of calls, with the names that the GenAI conventions have for them."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import context, metrics, trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from checkrein import __version__
from checkrein.events import Event
from checkrein.observe.traced import Tracing

if TYPE_CHECKING:
    from checkrein.engine import Engine

_log = logging.getLogger("checkrein")

MAX_OPEN: Final = 10_000
"""Calls of models whose span waits for their end; beyond it the oldest is ended as abandoned."""

# What the conventions call the providers; others keep the name they have in the price book.
_PROVIDERS: Final = {
    "google": "gcp.gemini",
    "mistral": "mistral_ai",
    "x-ai": "x_ai",
    "azure": "azure.ai.openai",
}
_BY_MODEL: Final = (
    ("claude", "anthropic"),
    ("gemini", "gcp.gemini"),
    ("gpt", "openai"),
    ("o1", "openai"),
    ("o3", "openai"),
    ("o4", "openai"),
    ("text-embedding-", "openai"),
)
_TOKEN_BUCKETS: Final = [4**power for power in range(14)]
_DURATION_BUCKETS: Final = [0.01 * 2**power for power in range(14)]
_USAGE: Final = {
    "input_tokens": "gen_ai.usage.input_tokens",
    "output_tokens": "gen_ai.usage.output_tokens",
    "cached_tokens": "gen_ai.usage.cache_read.input_tokens",
    "cache_write_tokens": "gen_ai.usage.cache_creation.input_tokens",
    "reasoning_tokens": "gen_ai.usage.reasoning.output_tokens",
}

Attributes = dict[str, str | int | float | bool | list[str]]


@dataclass(slots=True)
class _Open:
    span: Span
    began: float
    # What metrics may be labelled with: never a user, a run or a session.
    labels: Attributes


class Telemetry:
    """A listener of one engine that makes spans and metrics of what it hears; `remove()` ends it.

    A run is a span, current inside. A call of a model is a span from its admission to its settlement. A guarded
    function is a span while it runs, and current inside; a refused call is one without a length. None has arguments,
    results or texts of exceptions.
    """

    def __init__(self, engine: Engine, tracer_provider: Any, meter_provider: Any) -> None:
        self._engine = engine
        self._tracer = trace.get_tracer("checkrein", __version__, tracer_provider)
        meter = metrics.get_meter("checkrein", __version__, meter_provider)
        self._tokens = meter.create_histogram(
            "gen_ai.client.token.usage",
            unit="{token}",
            description="tokens used by calls of models",
            explicit_bucket_boundaries_advisory=_TOKEN_BUCKETS,
        )
        self._duration = meter.create_histogram(
            "gen_ai.client.operation.duration",
            unit="s",
            description="how long calls of models and of tools took",
            explicit_bucket_boundaries_advisory=_DURATION_BUCKETS,
        )
        self._decisions = meter.create_counter(
            "checkrein.decision.count",
            unit="{decision}",
            description="decisions, by verdict and first reason",
        )
        self._outcomes = meter.create_counter(
            "checkrein.outcome.count", unit="{outcome}", description="how admitted calls ended"
        )
        self._cost = meter.create_counter(
            "checkrein.settlement.cost", unit="{USD}", description="what calls of models cost at list prices"
        )
        self._lost = meter.create_counter(
            "checkrein.event.lost", unit="{event}", description="events that a sink lost"
        )
        self._open: OrderedDict[str, _Open] = OrderedDict()
        self._runs: OrderedDict[str, tuple[Span, Any]] = OrderedDict()
        self._lock = threading.RLock()
        self._is_removed = False
        self._tracing = Tracing(engine, self._tool_span, self._tool_ended)
        self._remove_listener = engine.on_event(self)

    def remove(self) -> None:
        """Make no more spans and metrics; those of calls that are under way end now."""
        with self._lock:
            if self._is_removed:
                return
            self._is_removed = True
        self._remove_listener()
        self._tracing.remove()
        with self._lock:
            left, self._open = self._open, OrderedDict()
            runs, self._runs = self._runs, OrderedDict()
        for span in (*(opened.span for opened in left.values()), *(span for span, _ in runs.values())):
            span.end()

    def __call__(self, event: Event) -> None:
        """Take an event of the engine."""
        handler = _HANDLERS.get(event.name)
        if handler is not None:
            handler(self, event)

    # Decisions and outcomes.

    def _decided(self, event: Event) -> None:
        decision = event.decision
        if decision is None:
            return
        labels = {**_labels(event), "checkrein.decision.verdict": decision.verdict}
        if decision.observed:
            labels["checkrein.decision.observed"] = decision.observed[0].code
        if decision.code is not None:
            labels["checkrein.decision.code"] = decision.code
            labels["checkrein.decision.gate"] = decision.reasons[0].gate
        self._decisions.add(1, labels)
        if decision.verdict != "allow":
            self._undone(event, decision)

    def _undone(self, event: Event, decision: Any) -> None:
        """Make the span of a call that did not run."""
        span = self._start(event)
        span.set_attribute("checkrein.decision.verdict", decision.verdict)
        if decision.code is not None:
            span.set_attribute("checkrein.decision.codes", [reason.code for reason in decision.reasons])
            span.set_attribute("checkrein.decision.gates", [reason.gate for reason in decision.reasons])
            if decision.retry_after is not None:
                span.set_attribute("checkrein.decision.retry_after", decision.retry_after)
            span.set_attribute("error.type", decision.code)
            span.set_status(Status(StatusCode.ERROR, decision.code))
        span.end()

    def _ended(self, event: Event) -> None:
        self._outcomes.add(1, {**_labels(event), "checkrein.outcome": event.name.removeprefix("outcome.")})

    # Calls of models.

    def _held(self, event: Event) -> None:
        if event.model is None:
            # Of a run's own hold: what it is for, nobody says.
            return
        span = self._start(event)
        for row in event.detail.get("held", ()):
            span.set_attribute(f"checkrein.held.{row['budget']}", f"{row['amount']} {row['unit']}")
        if event.detail.get("max_output") is not None:
            span.set_attribute("gen_ai.request.max_tokens", event.detail["max_output"])
        span.set_attribute("checkrein.decision.verdict", "allow")
        with self._lock:
            self._open[event.call or ""] = _Open(span, time.perf_counter(), _labels(event))
            oldest = self._open.popitem(last=False)[1] if len(self._open) > MAX_OPEN else None
        if oldest is not None:
            oldest.span.set_attribute("checkrein.outcome", "abandoned")
            oldest.span.end()

    def _settled(self, event: Event) -> None:
        opened, detail = self._taken(event), event.detail
        # What was in doubt before has no span any more; what it cost counts all the same.
        labels = _labels(event) if opened is None else opened.labels
        if event.model is None:
            return
        if detail.get("response_model"):
            labels["gen_ai.response.model"] = detail["response_model"]
        usage: Mapping[str, int] = detail.get("usage") or {}
        for kind in ("input", "output"):
            if f"{kind}_tokens" in usage:
                self._tokens.record(usage[f"{kind}_tokens"], {**labels, "gen_ai.token.type": kind})
        if detail.get("usd") is not None:
            self._cost.add(float(detail["usd"]), labels)
        if opened is not None:
            _describe(opened.span, detail, usage)
            self._end(opened, "done")

    def _released(self, event: Event) -> None:
        opened = self._taken(event)
        if opened is not None:
            self._end(opened, "released")

    def _doubted(self, event: Event) -> None:
        opened = self._taken(event)
        if opened is not None:
            opened.span.set_status(Status(StatusCode.ERROR, "in_doubt"))
            self._end(opened, "in_doubt", error="in_doubt")

    def _taken(self, event: Event) -> _Open | None:
        with self._lock:
            return self._open.pop(event.call or "", None)

    def _end(self, opened: _Open, outcome: str, error: str | None = None) -> None:
        labels = dict(opened.labels)
        if error is not None:
            opened.span.set_attribute("error.type", error)
            labels["error.type"] = error
        opened.span.set_attribute("checkrein.outcome", outcome)
        self._duration.record(time.perf_counter() - opened.began, labels)
        opened.span.end()

    # Runs.

    def _run_began(self, event: Event) -> None:
        """Begin the span of a run, current inside it; scopes and sessions are parts of traces of others."""
        if event.detail.get("scope") != "run" or event.call is None:
            return
        who = {name: getattr(event, name) for name in ("user", "agent", "run", "session", "tenant")}
        attributes: Attributes = {"gen_ai.operation.name": "invoke_agent", **_named(who)}
        for unit, amount in (event.detail.get("limits") or {}).items():
            attributes[f"checkrein.limit.{unit}"] = amount
        title = event.agent or event.detail.get("name") or "run"
        span = self._tracer.start_span(f"invoke_agent {title}", attributes=attributes)
        token = context.attach(trace.set_span_in_context(span))
        with self._lock:
            self._runs[event.call] = (span, token)
            oldest = self._runs.popitem(last=False)[1][0] if len(self._runs) > MAX_OPEN else None
        if oldest is not None:
            oldest.end()

    def _run_over(self, event: Event) -> None:
        with self._lock:
            begun = self._runs.pop(event.call or "", None)
        if begun is None:
            return
        span, token = begun
        if trace.get_current_span() is span:
            # A run may be left in another context than it was entered in; then there is nothing to go back to.
            context.detach(token)
        for unit, amount in (event.detail.get("spent") or {}).items():
            span.set_attribute(f"checkrein.spent.{unit}", amount)
        status = event.detail.get("status", "success")
        span.set_attribute("checkrein.run.status", status)
        if status != "success":
            span.set_attribute("error.type", event.detail.get("code") or event.detail.get("error") or status)
            span.set_status(Status(StatusCode.ERROR))
        span.end()

    # Guarded functions.

    def _tool_span(self, tool: str) -> Span:
        who = self._engine._who()
        attributes = {**_tool_labels(tool), **_named(who), "checkrein.decision.verdict": "allow"}
        return self._tracer.start_span(f"execute_tool {tool}", attributes=attributes)

    def _tool_ended(self, span: Span, tool: str, seconds: float, error: BaseException | None) -> None:
        labels = _tool_labels(tool)
        if error is not None:
            # Its type only: what it says may be anything.
            kind = getattr(error, "code", None) if hasattr(error, "decision") else None
            labels["error.type"] = kind if isinstance(kind, str) else type(error).__qualname__
            span.set_attribute("error.type", labels["error.type"])
            span.set_status(Status(StatusCode.ERROR))
        self._duration.record(seconds, labels)
        span.end()

    # What happens inside of something else.

    def _noted(self, event: Event) -> None:
        attributes: Attributes = {
            "checkrein.budget": event.gate or "",
            "checkrein.percent": event.percent or 0,
        }
        trace.get_current_span().add_event("checkrein.budget.threshold", attributes)

    def _losing(self, event: Event) -> None:
        self._lost.add(int(event.detail["lost"]))

    def _start(self, event: Event) -> Span:
        labels = _labels(event)
        operation = labels["gen_ai.operation.name"]
        who = {name: getattr(event, name) for name in ("user", "agent", "run", "session", "tenant")}
        return self._tracer.start_span(
            f"{operation} {event.model or event.tool}",
            kind=SpanKind.INTERNAL if event.model is None else SpanKind.CLIENT,
            attributes={**labels, **_named(who)},
        )


_HANDLERS: Final = {
    "decision.allow": Telemetry._decided,
    "decision.block": Telemetry._decided,
    "decision.replay": Telemetry._decided,
    "outcome.done": Telemetry._ended,
    "outcome.failed_clean": Telemetry._ended,
    "outcome.in_doubt": Telemetry._ended,
    "outcome.timed_out": Telemetry._ended,
    "outcome.late": Telemetry._ended,
    "hold.taken": Telemetry._held,
    "hold.settled": Telemetry._settled,
    "hold.released": Telemetry._released,
    "hold.in_doubt": Telemetry._doubted,
    "run.start": Telemetry._run_began,
    "run.end": Telemetry._run_over,
    "budget.threshold": Telemetry._noted,
    "events.lost": Telemetry._losing,
}


def _describe(span: Span, detail: Mapping[str, Any], usage: Mapping[str, int]) -> None:
    """Write how a call was settled into its span."""
    for name, attribute in _USAGE.items():
        if name in usage:
            span.set_attribute(attribute, usage[name])
    if detail.get("response_model"):
        span.set_attribute("gen_ai.response.model", detail["response_model"])
    span.set_attribute("checkrein.settlement.exact", bool(detail.get("exact")))
    if detail.get("shortfalls"):
        span.set_attribute("checkrein.settlement.shortfalls", list(detail["shortfalls"]))
    if detail.get("usd") is not None:
        span.set_attribute("checkrein.settlement.usd", detail["usd"])


def _labels(event: Event) -> Attributes:
    if event.model is None:
        return _tool_labels(event.tool)
    labels: Attributes = {
        "gen_ai.operation.name": "embeddings" if "embed" in event.model else "chat",
        "gen_ai.request.model": event.model,
    }
    provider = event.detail.get("provider") or next(
        (name for start, name in _BY_MODEL if event.model.startswith(start)), None
    )
    if provider is not None:
        labels["gen_ai.provider.name"] = _PROVIDERS.get(provider, provider)
    return labels


def _tool_labels(tool: str) -> Attributes:
    return {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": tool, "gen_ai.tool.type": "function"}


def _named(who: Mapping[str, str]) -> Attributes:
    """Return who acted, for spans; metrics never have it."""
    names = {
        "user": "checkrein.user",
        "run": "checkrein.run",
        "tenant": "checkrein.tenant",
        "session": "gen_ai.conversation.id",
        "agent": "gen_ai.agent.name",
    }
    return {attribute: who[name] for name, attribute in names.items() if who.get(name)}
