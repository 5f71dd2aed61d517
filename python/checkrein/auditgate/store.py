"""Where entries are kept: the protocol of a store, and the ones in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from checkrein._native import AuditMemoryStore as MemoryStore
from checkrein.auditgate.core import AuditEntry, Severity, Trail, Verdict

__all__ = ["AsyncMemoryStore", "AsyncStore", "MemoryStore", "QueryFilter", "Store"]


@dataclass(frozen=True, slots=True)
class QueryFilter:
    """Which entries to return; stamps are inclusive at both ends."""

    trail: Trail | None = None
    verdict: Verdict | None = None
    min_severity: Severity | None = None
    after_ts: float | None = None
    before_ts: float | None = None
    gate_type: str | None = None
    offset: int = 0
    limit: int | None = None


class Store(Protocol):
    """What an engine needs of a store."""

    def append(self, entry: AuditEntry) -> None:
        """Keep one entry."""

    def query(self, filter: QueryFilter) -> Sequence[AuditEntry]:
        """Return the entries a filter selects, ordered by stamp and sequence."""

    def last_entry(self, trail: Trail) -> AuditEntry | None:
        """Return the newest entry of a trail."""

    def count(self, trail: Trail) -> int:
        """Return how many entries a trail has."""

    def prune(self, trail: Trail, before_ts: float) -> int:
        """Remove older entries and return how many there were."""

    def clear(self, trail: Trail) -> None:
        """Forget one trail."""

    def clear_all(self) -> None:
        """Forget every trail."""


class AsyncStore(Protocol):
    """What an engine needs of an asynchronous store."""

    async def append(self, entry: AuditEntry) -> None:
        """Keep one entry."""

    async def query(self, filter: QueryFilter) -> Sequence[AuditEntry]:
        """Return the entries a filter selects, ordered by stamp and sequence."""

    async def last_entry(self, trail: Trail) -> AuditEntry | None:
        """Return the newest entry of a trail."""

    async def count(self, trail: Trail) -> int:
        """Return how many entries a trail has."""

    async def prune(self, trail: Trail, before_ts: float) -> int:
        """Remove older entries and return how many there were."""

    async def clear(self, trail: Trail) -> None:
        """Forget one trail."""

    async def clear_all(self) -> None:
        """Forget every trail."""


class AsyncMemoryStore:
    """The asynchronous face of a memory store; belongs to no event loop."""

    def __init__(self) -> None:
        self._store = MemoryStore()

    @classmethod
    def sharing(cls, store: MemoryStore) -> AsyncMemoryStore:
        """Return an asynchronous face of `store`, so that both see the same log."""
        shared = cls()
        shared._store = store
        return shared

    async def append(self, entry: AuditEntry) -> None:
        """Keep one entry."""
        self._store.append(entry)

    async def query(self, filter: QueryFilter) -> Sequence[AuditEntry]:
        """Return the entries a filter selects, ordered by stamp and sequence."""
        return self._store.query(filter)

    async def last_entry(self, trail: Trail) -> AuditEntry | None:
        """Return the newest entry of a trail."""
        return self._store.last_entry(trail)

    async def count(self, trail: Trail) -> int:
        """Return how many entries a trail has."""
        return self._store.count(trail)

    async def prune(self, trail: Trail, before_ts: float) -> int:
        """Remove older entries and return how many there were."""
        return self._store.prune(trail, before_ts)

    async def clear(self, trail: Trail) -> None:
        """Forget one trail."""
        self._store.clear(trail)

    async def clear_all(self) -> None:
        """Forget every trail."""
        self._store.clear_all()
