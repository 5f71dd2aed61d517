"""Where spend is recorded."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Protocol

from checkrein import _native

from .core import Budget, Ledger
from .redis import AsyncRedisStore, RedisStore

__all__ = [
    "AsyncMemoryStore",
    "AsyncRedisStore",
    "AsyncStore",
    "MemoryStore",
    "RedisStore",
    "Reservation",
    "SpendEvent",
    "Store",
]


@dataclass(slots=True)
class SpendEvent:
    """One spend, for stores that keep a list of them."""

    ts: float
    amount: Decimal


@dataclass(slots=True)
class Reservation:
    """One open reservation, for stores that keep a table of them."""

    id: str
    ledger: Ledger
    ts: float
    amount: Decimal


class Store(Protocol):
    """What an engine asks of a store. Any object with these methods will do."""

    def check_and_reserve(
        self, ledger: Ledger, now: float, amount: Decimal, budget: Budget
    ) -> tuple[Decimal, bool]:
        """Decide and, when allowed, record, in one atomic step: (spent, allowed)."""

    def reserve(
        self, ledger: Ledger, now: float, amount: Decimal, budget: Budget
    ) -> tuple[str | None, Decimal]:
        """Hold an amount if it fits: (id or None, spent)."""

    def commit(self, reservation_id: str, actual: Decimal) -> None:
        """Record what a reservation really cost; KeyError when it is not open."""

    def release(self, reservation_id: str) -> None:
        """Give a reservation back; KeyError when it is not open."""

    def get_spend(self, ledger: Ledger, now: float, window: float | None) -> Decimal:
        """Spent and reserved within the window."""

    def clear(self, ledger: Ledger) -> None:
        """Forget one ledger."""

    def clear_all(self) -> None:
        """Forget every ledger."""


class AsyncStore(Protocol):
    """The same, awaited."""

    async def check_and_reserve(
        self, ledger: Ledger, now: float, amount: Decimal, budget: Budget
    ) -> tuple[Decimal, bool]:
        """Decide and, when allowed, record, in one atomic step."""

    async def reserve(
        self, ledger: Ledger, now: float, amount: Decimal, budget: Budget
    ) -> tuple[str | None, Decimal]:
        """Hold an amount if it fits."""

    async def commit(self, reservation_id: str, actual: Decimal) -> None:
        """Record what a reservation really cost."""

    async def release(self, reservation_id: str) -> None:
        """Give a reservation back."""

    async def get_spend(self, ledger: Ledger, now: float, window: float | None) -> Decimal:
        """Spent and reserved within the window."""

    async def clear(self, ledger: Ledger) -> None:
        """Forget one ledger."""

    async def clear_all(self) -> None:
        """Forget every ledger."""


class MemoryStore(_native.BudgetGateStore):
    """Records spend in the memory of this process, exactly, at a cost that does not grow with the spends."""

    __slots__ = ()


class AsyncMemoryStore(_native.BudgetGateStore):
    """The same for `async` callers; usable from any number of event loops and threads."""

    __slots__ = ()

    async def check_and_reserve(  # type: ignore[override]
        self, ledger: Ledger, now: float, amount: Decimal, budget: Budget
    ) -> tuple[Decimal, bool]:
        """Decide and, when allowed, record."""
        return super().check_and_reserve(ledger, now, amount, budget)

    async def reserve(  # type: ignore[override]
        self, ledger: Ledger, now: float, amount: Decimal, budget: Budget
    ) -> tuple[str | None, Decimal]:
        """Hold an amount if it fits."""
        return super().reserve(ledger, now, amount, budget)

    async def commit(self, reservation_id: str, actual: Decimal) -> None:  # type: ignore[override]
        """Record what a reservation really cost."""
        super().commit(reservation_id, actual)

    async def release(self, reservation_id: str) -> None:  # type: ignore[override]
        """Give a reservation back."""
        super().release(reservation_id)

    async def get_spend(  # type: ignore[override]
        self, ledger: Ledger, now: float, window: float | None
    ) -> Decimal:
        """Spent and reserved within the window."""
        return super().get_spend(ledger, now, window)

    async def clear(self, ledger: Ledger) -> None:  # type: ignore[override]
        """Forget one ledger."""
        super().clear(ledger)

    async def clear_all(self) -> None:  # type: ignore[override]
        """Forget every ledger."""
        super().clear_all()
