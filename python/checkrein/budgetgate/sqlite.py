"""Spend recorded in a SQLite file that all processes of a machine share."""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final

from checkrein import _sqlite
from checkrein import spec as unified
from checkrein._native import Decision as Answer
from checkrein.errors import BudgetExceeded
from checkrein.holds import BudgetHandle, Hold

from .core import Budget, Ledger

_ANY: Final = Decimal(10**20)
"""What stands for an unlimited budget."""


class SQLiteStore:
    """Records spend in the file `sqlite:PATH`, through crashes and for all processes that name it.

    The file's own clock counts, not the engine's `clock`. Spend is recorded for each length of window on its own, to
    12 decimal places. A reservation belongs to the process that made it: one that dies with it, or that nobody settles
    within an hour, is charged in full.
    """

    def __init__(self, store: str | os.PathLike[str]) -> None:
        self.engine = _sqlite.open_engine(store)
        self._guards: dict[tuple[Decimal, float | None], Callable[..., Any]] = {}
        self._budgets: dict[tuple[Decimal, float | None], BudgetHandle] = {}
        self._open: dict[str, Hold] = {}
        self._lock = threading.Lock()

    def check_and_reserve(
        self, ledger: Ledger, now: float, amount: Decimal, budget: Budget
    ) -> tuple[Decimal, bool]:
        """Decide and, when allowed, record, in one atomic step; `now` is the engine's and is not used."""
        limit, key = _limit(budget), _key(ledger)
        answer = self._guard(limit, budget.window)(key, amount)
        allowed = not isinstance(answer, Answer)
        if not allowed and answer.code == "store_error":
            raise answer._exception()
        return self._spent(limit, budget.window, key), allowed

    def reserve(
        self, ledger: Ledger, now: float, amount: Decimal, budget: Budget
    ) -> tuple[str | None, Decimal]:
        """Hold an amount if it fits."""
        limit, key = _limit(budget), _key(ledger)
        hold = self._budget(limit, budget.window).hold(amount, key=key)
        try:
            hold.__enter__()
        except BudgetExceeded:
            return None, self._spent(limit, budget.window, key)
        name = uuid.uuid4().hex
        with self._lock:
            self._open[name] = hold
        return name, self._spent(limit, budget.window, key)

    def commit(self, reservation_id: str, actual: Decimal) -> None:
        """Record what a reservation really cost; KeyError when it is not open here."""
        self._open[reservation_id].settle(actual)
        with self._lock:
            self._open.pop(reservation_id, None)

    def release(self, reservation_id: str) -> None:
        """Give a reservation back; KeyError when it is not open here."""
        self._open[reservation_id].release()
        with self._lock:
            self._open.pop(reservation_id, None)

    def get_spend(self, ledger: Ledger, now: float, window: float | None) -> Decimal:
        """Spent and reserved within the window."""
        return self._spent(_ANY, window, _key(ledger))

    def clear(self, ledger: Ledger) -> None:
        """Forget one ledger; what is reserved stays reserved."""
        for name in self._names():
            self.engine.reset(name, _key(ledger))

    def clear_all(self) -> None:
        """Forget every ledger; what is reserved stays reserved."""
        for name in self._names():
            self.engine.reset(name)

    def _names(self) -> set[str]:
        rows = self.engine.list("meter", limit=1_000_000)
        return {row["gate"] for row in rows if row["gate"].startswith("budgetgate/")}

    def _spent(self, limit: Decimal, window: float | None, key: str) -> Decimal:
        status = self._budget(limit, window).status(key=key)
        return Decimal(status.spent) + Decimal(status.held)

    def _budget(self, limit: Decimal, window: float | None) -> BudgetHandle:
        with self._lock:
            found = self._budgets.get((limit, window))
            if found is None:
                named = unified.Budget(f"{limit:f} usd", window=window, name=_name(window))
                found = self._budgets[limit, window] = self.engine.budget(named, key=True)
        return found

    def _guard(self, limit: Decimal, window: float | None) -> Callable[..., Any]:
        with self._lock:
            found = self._guards.get((limit, window))
            if found is None:
                named = unified.Budget(f"{limit:f} usd", window=window, name=_name(window), key="key")
                decorate: Any = self.engine.guard(
                    name=f"budgetgate {limit:f}/{window}", budget=named, cost="amount", on_block="result"
                )
                found = self._guards[limit, window] = decorate(_spend)
        return found


class AsyncSQLiteStore:
    """The same for `async` callers: the file is waited for in a thread."""

    def __init__(self, store: str | os.PathLike[str] | SQLiteStore) -> None:
        self.sync = store if isinstance(store, SQLiteStore) else SQLiteStore(store)

    async def check_and_reserve(
        self, ledger: Ledger, now: float, amount: Decimal, budget: Budget
    ) -> tuple[Decimal, bool]:
        """Decide and, when allowed, record."""
        reply: tuple[Decimal, bool] = await _sqlite.in_thread(
            self.sync.check_and_reserve, ledger, now, amount, budget
        )
        return reply

    async def reserve(
        self, ledger: Ledger, now: float, amount: Decimal, budget: Budget
    ) -> tuple[str | None, Decimal]:
        """Hold an amount if it fits."""
        reply: tuple[str | None, Decimal] = await _sqlite.in_thread(
            self.sync.reserve, ledger, now, amount, budget
        )
        return reply

    async def commit(self, reservation_id: str, actual: Decimal) -> None:
        """Record what a reservation really cost."""
        await _sqlite.in_thread(self.sync.commit, reservation_id, actual)

    async def release(self, reservation_id: str) -> None:
        """Give a reservation back."""
        await _sqlite.in_thread(self.sync.release, reservation_id)

    async def get_spend(self, ledger: Ledger, now: float, window: float | None) -> Decimal:
        """Spent and reserved within the window."""
        spent: Decimal = await _sqlite.in_thread(self.sync.get_spend, ledger, now, window)
        return spent

    async def clear(self, ledger: Ledger) -> None:
        """Forget one ledger."""
        await _sqlite.in_thread(self.sync.clear, ledger)

    async def clear_all(self) -> None:
        """Forget every ledger."""
        await _sqlite.in_thread(self.sync.clear_all)


def _spend(key: str, amount: Decimal) -> bool:
    """What is charged; the call itself is the drop-in engine's."""
    return True


def _name(window: float | None) -> str:
    return f"budgetgate/{_sqlite.window_name(window)}"


def _key(ledger: Ledger) -> str:
    return _sqlite.key_of(ledger.namespace, ledger.resource, ledger.principal)


def _limit(budget: Budget) -> Decimal:
    limit = Decimal(budget.max_spend)
    return _ANY if not limit.is_finite() else min(limit, _ANY)
