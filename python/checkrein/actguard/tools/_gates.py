"""From the guards of one function to its wrapper: one native gate, and a real function compiled around it."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from checkrein import _native
from checkrein._wrap import wrap
from checkrein.actguard.core.run_context import _run_state, require_run_state
from checkrein.actguard.events.context import _tool_name
from checkrein.actguard.exceptions import ActGuardError, ActGuardToolError
from checkrein.actguard.tools import _cache, _failures, _observability, _results
from checkrein.actguard.tools._instances import number_of
from checkrein.actguard.tools._locals import binding, local_parameters
from checkrein.actguard.tools._names import id_of, name_of
from checkrein.actguard.tools._refusals import Refusals, not_started
from checkrein.actguard.tools._specs import Breaker, Once, Rate

SUCCEEDED, FAILED, NEUTRAL, UNKNOWN, FREES = 0, 1, 2, 3, 4
"""What a hook tells the native gate: how the dependency did, and that the idempotency key is free again."""


@dataclass(frozen=True, slots=True)
class Gates:
    """The guards of one function that are decided together, in this order."""

    once: Once | None = None
    attempts: int | None = None
    rate: Rate | None = None
    breaker: Breaker | None = None

    def __bool__(self) -> bool:
        return any((self.once, self.attempts, self.rate, self.breaker))

    @property
    def settles(self) -> bool:
        """Whether something hears of the end of a call."""
        return self.once is not None or self.breaker is not None


def guard(fn: Callable[..., Any], gates: Gates, *, tool_name: str | None = None) -> Callable[..., Any]:
    """Wrap `fn` in its gates. With a `tool_name`, events that happen in it carry the name, and it has its own."""
    asks = _Asks(fn, gates)
    is_async = inspect.iscoroutinefunction(fn)
    names: dict[str, Any] = {
        "run": require_run_state,
        "state": _run_state.get,
        "stored": _native.ActGuardStored,
        **asks.names,
    }
    call = "await CALL" if is_async else "CALL"
    lines = asks.lines
    if gates:
        gate = _gate(fn, gates)
        names["admit"] = gate.admit
        lines = [*lines, *_admission(gates, asks, call)]
    else:
        lines = [*lines, f"$result = {call}"]
    if tool_name is not None:
        names |= _tool_names(tool_name)
        lines = _as_tool(lines)
    else:
        lines = [*lines, "return $result"]
    guarded = wrap(fn, "\n".join(lines), names, is_async=is_async, as_called=asks.as_called)
    if gates:
        # For those who look: how much is remembered.
        guarded._actguard_gate = gate
    return guarded  # type: ignore[no-any-return]


def _admission(gates: Gates, asks: _Asks, call: str) -> list[str]:
    needs_run = gates.once is not None or gates.attempts is not None
    # What `require_run_state` says of nearly every call, without calling it.
    found = "($found if ($found := $state()) is not None and not $found.abandoned else $run())"
    run = found if needs_run else "None"
    asked = f"$admit({run}, {asks.key}, {asks.arguments}, {asks.scope})"
    if not gates.settles:
        return [asked, f"$result = {call}"]
    running = [
        "try:",
        f"    $result = {call}",
        "except $base as $error:",
        "    $call.failed($error)",
        "    raise",
        "$call.done($result)",
    ]
    if gates.once is None:
        return [f"$call = {asked}", *running]
    indented = [f"    {line}" for line in running]
    return [
        f"$call = {asked}",
        "if $call.__class__ is $stored:",
        "    $result = $call.result",
        "else:",
        *indented,
    ]


def _as_tool(lines: list[str]) -> list[str]:
    return [
        "$token = $enter($name)",
        "try:",
        *(f"    {line}" for line in lines),
        "    if $variable in $environment:",
        "        $invoked()",
        "    return $result",
        "except Exception as $error:",
        "    $broke($error)",
        "    raise",
        "finally:",
        "    $leave($token)",
    ]


def _tool_names(tool_name: str) -> dict[str, Any]:
    def invoked() -> None:
        if _observability.emit_all_tool_runs_enabled():
            _observability.emit_tool_invoke(tool_name)

    def broke(error: Exception) -> None:
        if isinstance(error, ActGuardToolError) or (isinstance(error, ActGuardError) and error.is_reportable):
            return
        _observability.emit_tool_failure(tool_name, error)

    environment, variable = _environment()
    return {
        "name": tool_name,
        "enter": _tool_name.set,
        "leave": _tool_name.reset,
        "environment": environment,
        "variable": variable,
        "invoked": invoked,
        "broke": broke,
    }


def _environment() -> tuple[Any, Any]:
    """Where each call looks the variable up: below `os.environ`, which takes longer than the guards do."""
    try:
        return os.environ._data, os.environ.encodekey(_observability.VARIABLE)  # type: ignore[attr-defined]
    except AttributeError:
        return os.environ, _observability.VARIABLE


class _Asks:
    """Which arguments the gates want, as expressions for the wrapper."""

    def __init__(self, fn: Callable[..., Any], gates: Gates) -> None:
        self.names: dict[str, Any] = {"base": BaseException}
        self.lines: list[str] = []
        wanted = [name for name in (gates.once and KEY, gates.rate and gates.rate.scope) if name]
        of_method = gates.rate is not None and _is_method(fn)
        local = local_parameters(fn)
        # A wrapper of somebody else's hides the parameters that its signature still shows.
        self.as_called = local is None or any(name not in local for name in wanted)
        if self.as_called and (wanted or of_method):
            self.names["bind"] = binding(fn)
            self.lines = ["$bound = $bind(args, kwargs)"]
        spelled = (lambda name: f"$bound[{name!r}]") if self.as_called else (lambda name: name)
        self.key = spelled(KEY) if gates.once else "None"
        self.arguments = self._arguments(gates, local or [])
        self.scope = spelled(gates.rate.scope) if gates.rate and gates.rate.scope else "None"
        if of_method and local and not self.as_called:
            self.names["scoped"] = _scoped
            self.scope = f"$scoped({local[0]}, {self.scope})"

    def _arguments(self, gates: Gates, local: list[str]) -> str:
        if gates.once is None:
            return "None"
        if self.as_called:
            return f"tuple($bound[$each] for $each in $bound if $each != {KEY!r})"
        return "(" + "".join(f"{name}, " for name in local if name != KEY) + ")"


KEY: Final = "idempotency_key"


def _is_method(fn: Callable[..., Any]) -> bool:
    """Whether a function is written in a class and takes the instance."""
    local = local_parameters(fn)
    outer = name_of(fn).rpartition(".")[0]
    return bool(local) and local[0] == "self" and bool(outer) and not outer.endswith("<locals>")  # type: ignore[index]


def _scoped(instance: object, scope: object) -> str:
    """A scope value within one instance; refusals show what is behind the separator."""
    return f"{number_of(instance)}\0{'__global__' if scope is None else scope}"


def _health_of(kind: _failures.Kind | None, breaker: Breaker) -> int:
    """What an outcome says of the dependency, in the order in which the sets are asked."""
    if kind is None:
        return SUCCEEDED
    if isinstance(kind, _failures.NotHeard) or kind in breaker.ignore_on:
        return NEUTRAL
    if kind in breaker.fail_on:
        return FAILED
    return UNKNOWN if kind is _failures.FailureKind.UNKNOWN else SUCCEEDED


def _gate(fn: Callable[..., Any], gates: Gates) -> _native.ActGuardGate:
    refusals = Refusals(fn, gates)
    once, rate, breaker = gates.once, gates.rate, gates.breaker
    original = inspect.unwrap(fn)
    safe = once.safe_exceptions if once is not None else ()

    def judge(error: BaseException) -> int:
        frees = FREES if isinstance(error, safe) or not_started(error, original) else 0
        return frees | (NEUTRAL if breaker is None else _health_of(_failures.kind_of(error), breaker))

    def judge_result(result: object) -> int:
        return SUCCEEDED if breaker is None else _health_of(_failures.kind_of_result(result), breaker)

    def replay(kept: Any, key: Any) -> Any:
        return _results.again(kept, str(key), refusals)

    return _native.ActGuardGate(
        vars(_cache),
        refusals.refuse,
        judge,
        judge_result,
        _results.keep,
        replay,
        once=None
        if once is None
        else (
            id_of(fn),
            once.ttl_s,
            once.on_duplicate == "return",
            once.clock,
            _results.same,
            _results.snapshot,
        ),
        attempts=None if gates.attempts is None else (id_of(fn), gates.attempts),
        rate=None if rate is None else (rate.max_calls, rate.period, rate.clock),
        breaker=None
        if breaker is None
        else (breaker.name, breaker.max_fails, breaker.reset_timeout, breaker.clock),
    )
