"""Calls counted in a SQLite file that all processes of a machine share."""

from __future__ import annotations

import os
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from checkrein import _sqlite
from checkrein._native import Decision as Answer
from checkrein.guard import handle
from checkrein.spec import Budget, Rate

from .core import Gate, Policy


class SQLiteStore:
    """Counts in the file `sqlite:PATH`, through crashes and for all processes that name it.

    The file's own clock counts, not the engine's `clock`, because clocks of two processes cannot be compared. Calls are
    counted for each length of window on its own. Every check is on the disk before it is answered, and in the ledger.
    """

    def __init__(self, store: str | os.PathLike[str]) -> None:
        self.engine = _sqlite.open_engine(store)
        self._guards: dict[tuple[int, float | None, float], Callable[..., Any]] = {}

    def check_and_reserve(self, gate: Gate, now: float, policy: Policy) -> tuple[int, bool, float | None]:
        """Decide and, when allowed, count, in one atomic step; `now` is the engine's and is not used."""
        guard, key = self._guard(policy), _key(gate)
        answer = guard(key)
        if not isinstance(answer, Answer):
            return self._count(guard, key), True, None
        elapsed = None
        for reason in answer.reasons:
            if reason.code == "cooldown":
                elapsed = float(reason.detail["elapsed"])
            elif reason.code not in ("rate_limited", "budget_exceeded"):
                raise answer._exception()
        return self._count(guard, key), False, elapsed

    def clear(self, gate: Gate) -> None:
        """Forget one gate."""
        for name in self._names():
            self.engine.reset(name, _key(gate))

    def clear_all(self) -> None:
        """Forget every gate."""
        for name in self._names():
            self.engine.reset(name)

    def _names(self) -> set[str]:
        rows = self.engine.list("meter", limit=1_000_000)
        return {row["gate"] for row in rows if row["gate"].startswith("actiongate/")}

    def _guard(self, policy: Policy) -> Callable[..., Any]:
        shape = (_sqlite.whole(policy.max_calls), policy.window, policy.cooldown)
        guard = self._guards.get(shape)
        if guard is None:
            calls, window, cooldown = shape
            name = f"actiongate/{_sqlite.window_name(window)}"
            options: dict[str, Any] = {
                "name": f"actiongate {calls}/{window}/{cooldown}",
                "on_block": "result",
            }
            if window is None:
                options["budget"] = Budget(f"{calls} calls", key="key", name=name)
                if cooldown:
                    options |= {"cooldown": cooldown, "key": "key"}
            else:
                options["rate"] = Rate(calls, window, key="key", name=name, cooldown=cooldown or None)
            guard = self._guards[shape] = self.engine.guard(**options)(_counted)
        return guard

    def _count(self, guard: Callable[..., Any], key: str) -> int:
        for meter in handle(guard).peek(key).meters:
            if meter.gate.startswith("actiongate/"):
                return int(Decimal(meter.spent))
        return 0


class AsyncSQLiteStore:
    """The same for `async` callers: the file is waited for in a thread."""

    def __init__(self, store: str | os.PathLike[str] | SQLiteStore) -> None:
        self.sync = store if isinstance(store, SQLiteStore) else SQLiteStore(store)

    async def check_and_reserve(
        self, gate: Gate, now: float, policy: Policy
    ) -> tuple[int, bool, float | None]:
        """Decide and, when allowed, count."""
        reply: tuple[int, bool, float | None] = await _sqlite.in_thread(
            self.sync.check_and_reserve, gate, now, policy
        )
        return reply

    async def clear(self, gate: Gate) -> None:
        """Forget one gate."""
        await _sqlite.in_thread(self.sync.clear, gate)

    async def clear_all(self) -> None:
        """Forget every gate."""
        await _sqlite.in_thread(self.sync.clear_all)


def _counted(key: str) -> bool:
    """What is counted; the call itself is the drop-in engine's."""
    return True


def _key(gate: Gate) -> str:
    return _sqlite.key_of(gate.namespace, gate.action, gate.principal)
