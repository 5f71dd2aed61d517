"""Where decisions are recorded. Nothing here takes part in deciding."""

from __future__ import annotations

from typing import Protocol

from checkrein import _native

from .core import Decision, EvalRecord, Rule


class Store(Protocol):
    """What an engine asks of a store. Any object with these methods will do."""

    def record(self, rule: Rule, now: float, decision: Decision) -> None:
        """Keep a decision."""

    def get_records(self, rule: Rule, now: float, window: float | None) -> list[EvalRecord]:
        """The decisions within the window, oldest first."""

    def clear(self, rule: Rule) -> None:
        """Forget one rule's decisions."""

    def clear_all(self) -> None:
        """Forget every decision."""


class AsyncStore(Protocol):
    """The same, awaited."""

    async def record(self, rule: Rule, now: float, decision: Decision) -> None:
        """Keep a decision."""

    async def get_records(self, rule: Rule, now: float, window: float | None) -> list[EvalRecord]:
        """The decisions within the window, oldest first."""

    async def clear(self, rule: Rule) -> None:
        """Forget one rule's decisions."""

    async def clear_all(self) -> None:
        """Forget every decision."""


class MemoryStore(_native.RuleGateStore):
    """Keeps the latest decisions in the memory of this process: 100,000, or `max_records`.

    Asking for a window forgets what is older than it.
    """

    __slots__ = ()


class AsyncMemoryStore(_native.RuleGateStore):
    """The same for `async` callers; usable from any number of event loops and threads."""

    __slots__ = ()

    async def record(self, rule: Rule, now: float, decision: Decision) -> None:  # type: ignore[override]
        """Keep a decision."""
        super().record(rule, now, decision)

    async def get_records(  # type: ignore[override]
        self, rule: Rule, now: float, window: float | None
    ) -> list[EvalRecord]:
        """The decisions within the window, oldest first; older ones are forgotten."""
        return super().get_records(rule, now, window)

    async def clear(self, rule: Rule) -> None:  # type: ignore[override]
        """Forget one rule's decisions."""
        super().clear(rule)

    async def clear_all(self) -> None:  # type: ignore[override]
        """Forget every decision."""
        super().clear_all()


__all__ = ["AsyncMemoryStore", "AsyncStore", "EvalRecord", "MemoryStore", "Store"]
