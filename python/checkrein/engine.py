"""`Engine`: where guards are made, asked, listed and reset, and where decisions are announced."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Unpack, overload

from checkrein import _native, deadline
from checkrein.errors import ConfigError
from checkrein.guard import Handle, handle, make_guard
from checkrein.holds import BudgetHandle
from checkrein.options import GuardOptions, Keeping, Returning
from checkrein.spec import Breaker, Budget, Cost, Duration, Key, Mode, Once, Rate, Rule

_log = logging.getLogger("checkrein")


@dataclass(frozen=True, slots=True)
class Event:
    """What a listener is told.

    `kind` is `decision` (then `decision` is set) or `outcome` (then `outcome` is `done`, `failed_clean` or
    `in_doubt`; only calls that have something to settle have one).
    """

    kind: Literal["decision", "outcome"]
    tool: str
    decision: _native.Decision | None = None
    outcome: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return everything about it as plain JSON values."""
        decision = None if self.decision is None else self.decision.to_dict()
        return {"kind": self.kind, "tool": self.tool, "decision": decision, "outcome": self.outcome}


Listener = Callable[[Event], object]


class Engine(_native.EngineBase):
    """Decides actions in the memory of this process.

    All guards of one engine share its records: budgets, rates and breakers of the same name are the same. An engine
    belongs to the process that made it; in a forked child it raises `ForkedError`.
    """

    def __init__(
        self,
        store: Literal["memory"] = "memory",
        clock: _native.FakeClock | None = None,
        *,
        max_keys: int | None = None,
        name: str = "default",
        tenant: str = "",
    ) -> None:
        # The native half reads the arguments in `__new__`.
        self.clock = clock
        self.listener_errors = 0
        self._listeners: tuple[Listener, ...] = ()
        self._names: dict[str, int] = {}
        self._shapes: dict[str, int] = {}
        self._warned = False
        self._lock = threading.Lock()

    @overload
    def guard(
        self, *, on_block: Literal["raise", "wait"] = "raise", **options: Unpack[GuardOptions]
    ) -> Keeping: ...

    @overload
    def guard(self, *, on_block: Literal["result"], **options: Unpack[GuardOptions]) -> Returning: ...

    def guard(
        self,
        *misplaced: object,
        rate: str | Rate | Sequence[str | Rate] | None = None,
        cooldown: Duration | None = None,
        budget: str | Budget | Sequence[str | Budget] | None = None,
        cost: Cost | None = None,
        actual: Callable[[Any], Any] | None = None,
        rules: Callable[..., Any] | str | Rule | Sequence[Callable[..., Any] | str | Rule] | None = None,
        attempts: int | None = None,
        once: Key | Sequence[str] | Literal[True] | Once | None = None,
        exclude: str | Sequence[str] = (),
        breaker: str | Breaker | None = None,
        timeout: Duration | None = None,
        key: Key | None = None,
        tenant: Key | None = None,
        name: str | None = None,
        mode: Mode = "enforce",
        on_block: Literal["raise", "result", "wait"] = "raise",
        deadline: Duration | None = None,
    ) -> Any:
        """Make a decorator that admits every call over all these gates at once, or refuses it and takes nothing.

        rate: at most so many calls in a window, `"10/min"`; several are taken together.
        cooldown: what must pass between two calls.
        budget: at most so much of a unit in a window, `"50 usd/day"`; several are taken together.
        cost: what a call costs: text, `Decimal`, integer, an argument's name, a callable of the arguments or CEL text
            (in dollars: integers of nano-dollars). Never a float.
        actual: what a result really cost; then the cost is held as an upper bound and settled at the end.
        rules: conditions; each must return exactly `True` or `False`.
        attempts: at most so many calls until `reset`.
        once: the argument that names the operation; at most one run, repetitions get the stored result.
        exclude: arguments that `once` does not cover.
        breaker: stops calls to a failing dependency, `"stripe: 3 failures/60s"`.
        timeout: how long a caller waits for the function.
        key: whom rate, cooldown, attempts and own budgets count for.
        tenant: the argument that names the tenant.
        name: the guard's name; guards of the same explicit name share their records.
        mode: `"observe"` decides and records but lets pass.
        on_block: `"raise"`, `"result"` (return the decision) or `"wait"` (until `deadline`).

        Raises ConfigError, here or when the decorator is applied, for whatever cannot work.
        """
        options = dict(locals())
        del options["self"], options["misplaced"]
        if misplaced:
            hint = 'write @engine.guard(rate="10/min"), with its gates in parentheses'
            raise ConfigError("the guard was given a function instead of gates", "decorator_order", hint)
        return make_guard(self, options)

    tool = guard

    def budget(self, budget: str | Budget, *, key: bool = False, name: str | None = None) -> BudgetHandle:
        """Make a budget for code that is no function call: `with budget.hold("0.30 usd") as hold: ...`.

        With `key=True` every hold names whom it counts for.
        """
        return BudgetHandle(self, budget, keyed=key, name=name)

    def peek(self, guarded: Callable[..., Any] | Handle, /, *args: Any, **kwargs: Any) -> _native.Decision:
        """Decide a call of a guarded function without taking anything."""
        found = guarded if isinstance(guarded, Handle) else handle(guarded)
        return found.peek(*args, **kwargs)

    def reset(self, name: str | Callable[..., Any], key: object = None, *, tenant: str | None = None) -> int:
        """Forget what the gates of a name spent and close its breakers, for one key or all; returns how many."""
        if isinstance(name, str):
            return self._reset(name, key, tenant)
        return handle(name).reset(key, tenant=tenant)

    def resolve(
        self,
        name: str | Callable[..., Any],
        key: object,
        outcome: Literal["done", "failed"],
        result: Any = None,
        *,
        tenant: str | None = None,
    ) -> bool:
        """Say what became of an operation in doubt: `done` (with its result as plain JSON) or `failed` (run again).

        Returns whether there was such an operation.
        """
        if outcome not in ("done", "failed"):
            raise ConfigError("an outcome is `done` or `failed`", "outcome", "say what really happened")
        stored = None if result is None else json.dumps(result, allow_nan=False).encode()
        if isinstance(name, str):
            return self._resolve(name, key, outcome, stored, tenant)
        gates = [gate for kind, gate in handle(name).policy if kind == "once"]
        return any(self._resolve(gate, key, outcome, stored, tenant, exact=True) for gate in gates)

    def list(self, kind: str = "meter", *, limit: int = 1_000) -> list[dict[str, Any]]:
        """Return at most `limit` records as dicts: `meter`, `breaker`, `operation` or `fact`."""
        if kind not in ("meter", "breaker", "operation", "fact"):
            raise ConfigError(
                f"there are no records `{kind[:40]}`", "kind", "use meter, breaker, operation or fact"
            )
        return self._list(kind, limit)

    def add_listener(self, listener: Listener) -> Callable[[], None]:
        """Have every decision and outcome announced; returns what removes the listener again.

        A listener that raises is logged and counted in `listener_errors`, and the call goes on.
        """
        if not callable(listener):
            raise ConfigError("a listener is a callable of one event", "listener", "give a function")
        with self._lock:
            self._listeners = (*self._listeners, listener)
            self._listening = True
        return lambda: self.remove_listener(listener)

    def remove_listener(self, listener: Listener) -> None:
        """Stop announcing to a listener; nothing happens if it is none."""
        with self._lock:
            rest = list(self._listeners)
            if listener in rest:
                rest.remove(listener)
            self._listeners = tuple(rest)
            self._listening = bool(rest)

    def __reduce__(self) -> Any:
        raise TypeError("an engine stays in the process that made it (hint: make one where the code runs)")

    def __repr__(self) -> str:
        return f"<checkrein.Engine `{self.name}`>"

    def _claim_key(self, name: str, parts: int) -> None:
        """Check that all guards that share a gate by name count for keys of the same shape."""
        with self._lock:
            known = self._shapes.setdefault(name, parts)
        if known != parts:
            hint = (
                "gates of one name count on the same records; use another name, or the same number of parts"
            )
            raise ConfigError(f"gate `{name}` has keys of {known} and of {parts} parts", "key", hint)

    def _warn_once_of_other_processes(self) -> None:
        """Warn that the limits of this memory count once per process, where there are visibly several."""
        if self._warned:
            return
        self._warned = True
        multiprocessing = sys.modules.get("multiprocessing")
        workers = os.environ.get("WEB_CONCURRENCY", "")
        if (multiprocessing is not None and multiprocessing.parent_process() is not None) or (
            workers.isdigit() and int(workers) > 1
        ):
            _log.warning(
                "engine `%s` lives in the memory of one process of several: its limits count per process",
                self.name,
            )

    def _claim(self, explicit: str | None, derived: str) -> str:
        """Give a guard its name: an explicit one is shared, a derived one is made unique."""
        if explicit is not None:
            if not isinstance(explicit, str) or not explicit or len(explicit) > 200:
                raise ConfigError(
                    "a name is text of 1 to 200 characters", "name", "leave it out to use the function's"
                )
            return explicit
        with self._lock:
            count = self._names[derived] = self._names.get(derived, 0) + 1
        return derived if count == 1 else f"{derived}#{count}"

    # What the native half calls.

    def _announce(self, tool: str, decision: _native.Decision) -> None:
        self._tell(Event("decision", tool, decision=decision))

    def _ended(self, tool: str, outcome: str) -> None:
        self._tell(Event("outcome", tool, outcome=outcome))

    def _refused(self, decision: _native.Decision) -> None:
        _log.debug("`%s` was refused: %s", decision.tool, decision)

    def _observed(self, tool: str, reasons: Sequence[_native.Reason]) -> None:
        _log.info("`%s` would have been refused: %s", tool, "; ".join(map(str, reasons)))

    def _warn(self, tool: str, text: str) -> None:
        _log.warning("`%s`: %s", tool, text)

    def _tell(self, event: Event) -> None:
        for listener in self._listeners:
            try:
                listener(event)
            except Exception:
                self.listener_errors += 1
                _log.exception("a listener failed on a %s of `%s`", event.kind, event.tool)


def _after_fork_in_child() -> None:
    _native._after_fork()
    deadline._forget_workers()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
