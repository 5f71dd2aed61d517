"""Where calls are counted."""

from __future__ import annotations

from typing import Protocol

from checkrein import _native

from .core import Gate, Policy
from .redis import AsyncRedisStore, RedisStore

__all__ = ["AsyncMemoryStore", "AsyncRedisStore", "AsyncStore", "MemoryStore", "RedisStore", "Store"]


class Store(Protocol):
    """What an engine asks of a store. Any object with these methods will do."""

    def check_and_reserve(self, gate: Gate, now: float, policy: Policy) -> tuple[int, bool, float | None]:
        """Decide and, when allowed, count, in one atomic step: (calls counted, allowed, age of the last call)."""

    def clear(self, gate: Gate) -> None:
        """Forget one gate."""

    def clear_all(self) -> None:
        """Forget every gate."""


class AsyncStore(Protocol):
    """The same, awaited."""

    async def check_and_reserve(
        self, gate: Gate, now: float, policy: Policy
    ) -> tuple[int, bool, float | None]:
        """Decide and, when allowed, count, in one atomic step."""

    async def clear(self, gate: Gate) -> None:
        """Forget one gate."""

    async def clear_all(self) -> None:
        """Forget every gate."""


class MemoryStore(_native.ActionGateStore):
    """Counts in the memory of this process. A decision costs the same whatever the number of calls in the window."""

    __slots__ = ()


class AsyncMemoryStore(_native.ActionGateStore):
    """The same for `async` callers; usable from any number of event loops and threads."""

    __slots__ = ()

    async def check_and_reserve(  # type: ignore[override]
        self, gate: Gate, now: float, policy: Policy
    ) -> tuple[int, bool, float | None]:
        """Decide and, when allowed, count."""
        return super().check_and_reserve(gate, now, policy)

    async def clear(self, gate: Gate) -> None:  # type: ignore[override]
        """Forget one gate."""
        super().clear(gate)

    async def clear_all(self) -> None:  # type: ignore[override]
        """Forget every gate."""
        super().clear_all()
