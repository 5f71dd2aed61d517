"""`Event`: what the listeners of an engine are told, and the catalogue of everything that is announced."""

from __future__ import annotations

import itertools
import logging
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from decimal import Decimal
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from checkrein import _native
from checkrein.acting import actor

if TYPE_CHECKING:
    from checkrein.engine import Engine

Kind = Literal["decision", "outcome", "threshold", "hold", "cost", "run", "late", "failed_open", "loss"]


@dataclass(frozen=True, slots=True)
class Entry:
    """What the catalogue says of an event: its kind, when it is announced, and the members of its `detail`."""

    kind: Kind
    when: str
    detail: Mapping[str, str] = field(default_factory=dict)


_SUMS: Final = "sums as text by unit: `usd`, `tokens`, `calls`, `cu`"

_SCOPE: Final = "`run`, `session` or `scope`"

CATALOGUE: Final[Mapping[str, Entry]] = {
    "decision.allow": Entry(
        "decision", "a call was admitted; what gates in observe mode say is in `observed`"
    ),
    "decision.block": Entry("decision", "a call was refused, and took nothing"),
    "decision.replay": Entry("decision", "a call got the stored result of an earlier one, and did not run"),
    "outcome.done": Entry(
        "outcome", "an admitted call that had something to settle returned, or was charged"
    ),
    "outcome.failed_clean": Entry("outcome", "it provably had no effect, and gave back what it held"),
    "outcome.in_doubt": Entry("outcome", "nobody knows what it did: what it held stays held"),
    "outcome.timed_out": Entry(
        "late",
        "a caller stopped waiting for its call, which may go on",
        {
            "seconds": "how long it waited",
            "started": "whether the function was begun; if not, it never will be",
        },
    ),
    "outcome.late": Entry(
        "late",
        "a call that nobody waited for any more ended after all",
        {"error": "the type of what it raised, `null` if it returned"},
    ),
    "hold.taken": Entry(
        "hold",
        "a call of a model, or a hold of a run, was admitted and holds the most it can cost",
        {
            "held": "a row for each budget: `budget`, `amount`, `unit`, `bound` (`proven` or `estimated`)",
            "max_output": "the most output tokens it may ask for, `null` where nothing bounds them",
            "provider": "the provider, where it was named",
        },
    ),
    "hold.settled": Entry(
        "hold",
        "what was held was charged at what was really used",
        {
            "exact": "whether every budget was settled at what the reply says",
            "usd": "what it cost in dollars, `null` where that is unknown",
            "tokens": "the tokens it used, `null` where they are unknown",
            "charged": "a row for each budget: its name, and the amount with its unit",
            "shortfalls": "stable codes of why a budget was charged at the full hold or more",
            "usage": "counts of the reply: `input_tokens`, `output_tokens`, `cached_tokens`, `cache_write_tokens`, "
            "`reasoning_tokens`, as far as it says them",
            "response_model": "the model that the reply names",
        },
    ),
    "hold.released": Entry("hold", "the call was not made: everything held was given back"),
    "hold.in_doubt": Entry(
        "hold", "nobody knows whether the call was made: everything stays held for an hour"
    ),
    "stream.cut": Entry(
        "hold",
        "a stream brought more than was held for it, and was ended",
        {"streamed": "how many output tokens had come, at the least", "held": "how many were held for"},
    ),
    "cost.recorded": Entry(
        "cost",
        "something was spent that nobody had asked for before",
        {"amounts": _SUMS, "name": "what it was for"},
    ),
    "budget.threshold": Entry("threshold", "a call brought a budget to a share of its limit"),
    "run.start": Entry(
        "run",
        "a run, a session or a scope began",
        {"name": "its name", "scope": _SCOPE, "parent": "the run it is a part of", "limits": _SUMS},
    ),
    "run.end": Entry(
        "run",
        "it ended",
        {
            "name": "its name",
            "scope": _SCOPE,
            "status": "`success`, `blocked` (a refusal ended it) or `failed`",
            "error": "the type of the exception that ended it",
            "code": "the code of the refusal that ended it",
            "spent": _SUMS,
            "overrun": "what was charged beyond holds, by unit",
            "forced": "what was recorded without asking, by unit",
        },
    ),
    "run.stopped": Entry(
        "run", "it was stopped: every later call in it is refused", {"name": "its name", "scope": _SCOPE}
    ),
    "store.failed_open": Entry(
        "failed_open", "the store was gone, and a rate limit let the call through as its owner wants"
    ),
    "events.lost": Entry(
        "loss",
        "a sink could not keep up, or could not write",
        {
            "lost": "how many events since the last report",
            "total": "how many so far",
            "sink": "where they were to go",
        },
    ),
}
"""Every event by its stable name."""


_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


class Event(NamedTuple):
    """What a listener is told.

    `name` is its stable name and `kind` its family, see `CATALOGUE`. A `decision` has `decision`; an `outcome` has
    `outcome` (`done`, `failed_clean` or `in_doubt`; only calls that have something to settle have one), and `stored`
    says of a `done` call with a once key whether its result is kept for repetitions; a `threshold` has `percent` of
    the limit of the budget `gate` that are spent and held, and were not before this call. What else is to say is in
    `detail`.

    `at` is the engine's time in seconds. `tool` is the guard's name, or the model's of a call of one; then `model` is
    set too. `call` is the same for every event of one call of a model, or of one run. User, agent, run, session and
    principal are those of the context, `tenant` that of the call, of the run or of the engine. Arguments, prompts and
    results are in none.
    """

    kind: Kind
    tool: str
    decision: _native.Decision | None = None
    outcome: str | None = None
    stored: bool | None = None
    gate: str | None = None
    percent: int | None = None
    name: str = ""
    at: float = 0.0
    engine: str = ""
    model: str | None = None
    call: str | None = None
    user: str = ""
    agent: str = ""
    run: str = ""
    session: str = ""
    tenant: str = ""
    principal: str = ""
    detail: Mapping[str, Any] = _NOTHING

    def __hash__(self) -> int:
        return hash(self[:-1])

    def to_dict(self) -> dict[str, Any]:
        """Return everything about it as plain JSON values."""
        return {
            "name": self.name,
            "at": self.at,
            "kind": self.kind,
            "engine": self.engine,
            "tool": self.tool,
            "model": self.model,
            "call": self.call,
            "user": self.user,
            "agent": self.agent,
            "run": self.run,
            "session": self.session,
            "tenant": self.tenant,
            "principal": self.principal,
            "decision": None if self.decision is None else self.decision.to_dict(),
            "outcome": self.outcome,
            "stored": self.stored,
            "gate": self.gate,
            "percent": self.percent,
            "detail": dict(self.detail),
        }


_log = logging.getLogger("checkrein")

Listener = Callable[[Event], object]

_numbers = itertools.count(1)


attempted: ContextVar[str | None] = ContextVar("checkrein_attempted_call", default=None)
"""The call whose attempt is being admitted: all that an SDK makes for one call of its user have the same number."""


@dataclass(frozen=True, slots=True)
class Call:
    """Which call of a model is being decided or settled, and on whose behalf it was made."""

    model: str
    tenant: str | None
    provider: str | None = None
    actor: tuple[str, str, str, str, str] = field(default_factory=actor)
    # Unique within what one reads together: processes that write one file have different ids.
    number: str = field(default_factory=lambda: attempted.get() or f"{os.getpid():x}-{next(_numbers):x}")


_scopes: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()
_naming = threading.Lock()


def number_of(scope: Any) -> str:
    """Return what all events of one run, session, scope or hold have in common."""
    with _naming:
        return _scopes.setdefault(scope, f"{os.getpid():x}-{next(_numbers):x}")


_call: ContextVar[Call | None] = ContextVar("checkrein_observed_call", default=None)


@contextmanager
def _during(call: Call) -> Iterator[None]:
    """Have events that the native half announces meanwhile be those of this call."""
    token = _call.set(call)
    try:
        yield
    finally:
        _call.reset(token)


def make(
    engine: Engine,
    name: str,
    tool: str,
    detail: Mapping[str, Any] | None = None,
    decision: _native.Decision | None = None,
    outcome: str | None = None,
    stored: bool | None = None,
    gate: str | None = None,
    percent: int | None = None,
) -> Event:
    """Make an event of the catalogue, with the time, the actor and the call of this context."""
    call = _call.get()
    if call is None:
        (principal, user, agent, run, session), model, number = actor(), None, None
        tenant = engine._tenant_here()
    else:
        principal, user, agent, run, session = call.actor
        tenant, model, number = call.tenant or engine._tenant_here(), call.model, call.number
    # By position: every call that somebody listens to pays for this.
    return Event(
        CATALOGUE[name].kind,
        tool,
        decision,
        outcome,
        stored,
        gate,
        percent,
        name,
        engine.now(),
        engine.name,
        model,
        number,
        user,
        agent,
        run,
        session,
        tenant,
        principal,
        _NOTHING if detail is None else detail,
    )


class ToldPermit:
    """A permit of a call of a model whose end is announced: what listeners cost, only they pay."""

    def __init__(self, engine: Engine, permit: _native.ModelPermit, call: Call) -> None:
        self._engine = engine
        self._native = permit
        self._call = call
        self._tell(
            "hold.taken", held=_rows(permit.held), max_output=permit.max_output, provider=call.provider
        )

    def settle(self, reply: object, whole: object) -> _native.ModelSettlement:
        """Settle by a reply, and say so."""
        with _during(self._call):
            settled = self._native.settle(reply, whole)
        self._settled(settled, reply)
        return settled

    def settle_in_full(self) -> _native.ModelSettlement:
        """Settle at the full hold, and say so."""
        with _during(self._call):
            settled = self._native.settle_in_full()
        self._settled(settled, None)
        return settled

    def release(self, health: str) -> None:
        """Give everything back, and say so."""
        with _during(self._call):
            self._native.release(health)
        self._tell("hold.released")

    def doubt(self, health: str) -> None:
        """Leave it in doubt, and say so."""
        with _during(self._call):
            self._native.doubt(health)
        self._tell("hold.in_doubt")

    def abandon(self) -> bool:
        """Charge the full hold without waiting, and have it said when somebody else has something to say.

        It is a finalizer that calls this, in the middle of anything: listeners may hold locks there.
        """
        was_open = self._native.abandon()
        if was_open:
            detail = {"exact": False, "shortfalls": ["usage_missing"]}
            with _during(self._call):
                self._engine._emit("hold.settled", self._call.model, detail, later=True)
        return was_open

    def __getattr__(self, name: str) -> Any:
        return getattr(self._native, name)

    def _settled(self, settled: _native.ModelSettlement, reply: object) -> None:
        self._tell(
            "hold.settled",
            exact=settled.exact,
            usd=settled.usd,
            tokens=settled.tokens,
            charged=[list(pair) for pair in settled.charged],
            shortfalls=[code for code, _ in settled.shortfalls],
            usage=used(reply),
            response_model=_model_of(reply),
        )

    def _tell(self, name: str, **detail: Any) -> None:
        with _during(self._call):
            self._engine._emit(name, self._call.model, detail)


def admit(
    engine: Engine, name: str, model: str | None, provider: str | None, request: object, said: dict[str, Any]
) -> _native.ModelPermit:
    """Admit a call of a model as the native half does, and announce what becomes of it."""
    call = Call(name, said["tenant"], provider)
    with _during(call):
        permit = _native.ModelPermit._admit(engine, model, provider, request, said)
    # It has every method of what it stands for, which nobody can inherit from.
    return ToldPermit(engine, permit, call)  # type: ignore[return-value]


def _rows(held: Any) -> list[dict[str, str]]:
    return [dict(row) for row in held]


# Where the providers' replies say what was used, the first that is there counts.
_USED: Final = {
    "input_tokens": (("input_tokens",), ("prompt_tokens",), ("promptTokenCount",)),
    "output_tokens": (("output_tokens",), ("completion_tokens",), ("candidatesTokenCount",)),
    "cached_tokens": (
        ("prompt_tokens_details", "cached_tokens"),
        ("input_tokens_details", "cached_tokens"),
        ("cache_read_input_tokens",),
        ("cachedContentTokenCount",),
    ),
    "cache_write_tokens": (
        ("prompt_tokens_details", "cache_write_tokens"),
        ("input_tokens_details", "cache_write_tokens"),
        ("cache_creation_input_tokens",),
    ),
    "reasoning_tokens": (
        ("completion_tokens_details", "reasoning_tokens"),
        ("output_tokens_details", "reasoning_tokens"),
        ("thoughtsTokenCount",),
    ),
}


def used(reply: object) -> dict[str, int]:
    """Return the counts that a reply of a provider says, by the names that events have for them."""
    usage = _usage_of(reply)
    counts: dict[str, int] = {}
    for name, paths in _USED.items():
        for path in paths:
            value: object = usage
            for step in path:
                value = value.get(step) if isinstance(value, Mapping) else None
            if type(value) is int and value >= 0:
                counts[name] = value
                break
    return counts


def _usage_of(reply: object) -> Mapping[str, Any]:
    if not isinstance(reply, Mapping):
        return {}
    inner = reply.get("response")
    source = inner if isinstance(inner, Mapping) else reply
    for name in ("usage", "usageMetadata"):
        found = source.get(name)
        if isinstance(found, Mapping):
            return found
    return source


def _model_of(reply: object) -> str | None:
    if not isinstance(reply, Mapping):
        return None
    inner = reply.get("response")
    source = inner if isinstance(inner, Mapping) else reply
    model = source.get("model") or source.get("modelVersion")
    return model if isinstance(model, str) else None


def tell_of_run(engine: Engine, name: str, scope: Any, error: BaseException | None = None) -> None:
    """Announce what happened to a run, a session or a scope, if anybody listens; never raises."""
    if not engine._listening:
        return
    about = {"name": scope.name, "scope": getattr(scope, "kind", "run")}
    try:
        detail = {**about, **_of_run(scope, name, error)}
    except Exception:
        # Its sums are on a store that may be gone; that must not replace what the run raised.
        _log.exception("a %s of `%s` has no figures", name, scope.name)
        detail = about
    who = {word: getattr(scope, word, None) for word in ("user", "agent", "session", "tenant")}
    named = {word: text for word, text in {**who, "run": getattr(scope, "run_id", None)}.items() if text}
    engine._emit(name, "", detail, who={"call": number_of(scope), **named})


def _of_run(scope: Any, name: str, error: BaseException | None = None) -> dict[str, Any]:
    """Return what `run.start` and `run.end` say of a scope."""
    if name == "run.start":
        parent = getattr(scope, "parent", None)
        of = getattr(parent, "run_id", None) or getattr(parent, "name", None)
        return {"parent": of, "limits": sums(getattr(scope, "limits", None))}
    if name == "run.stopped":
        return {}
    from checkrein.errors import Denied

    refused = isinstance(error, Denied)
    return {
        "status": "success" if error is None else "blocked" if refused else "failed",
        "error": None if error is None else type(error).__qualname__,
        "code": getattr(error, "code", None) if refused else None,
        "spent": sums(scope.spent),
        "overrun": sums(scope.overrun),
        "forced": sums(scope.forced),
    }


def rows(gate: str, amounts: Mapping[str, Any], bound: str) -> list[dict[str, str]]:
    """Return what a hold of a scope holds, as `hold.taken` says it."""
    each = sums(amounts).items()
    return [{"budget": gate, "amount": amount, "unit": unit, "bound": bound} for unit, amount in each]


def charged(name: str, amounts: Mapping[str, Any]) -> list[list[str]]:
    """Return what a hold of a scope was settled at, as `hold.settled` says it."""
    return [[name, f"{amount} {unit}"] for unit, amount in sums(amounts).items()]


def sums(amounts: object) -> dict[str, str]:
    """Return amounts by unit as exact text; what is zero or unset is left out."""
    if amounts is None:
        return {}
    found: dict[str, object] = {}
    for name in ("usd", "tokens", "calls", "cu"):
        found[name] = amounts.get(name) if isinstance(amounts, Mapping) else getattr(amounts, name, None)
    return {name: _decimal(value) for name, value in found.items() if value}


def _decimal(value: object) -> str:
    return f"{value.normalize():f}" if isinstance(value, Decimal) else str(value)
