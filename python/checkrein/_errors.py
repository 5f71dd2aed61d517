"""Errors that drop-in modules raise beyond those of the packages they stand in for."""

from __future__ import annotations


class StoreUnavailable(NotImplementedError):
    """A store exists as a name only: this release cannot build it. `.code` is `store_unavailable`."""

    code = "store_unavailable"

    def __init__(self, store: str) -> None:
        super().__init__(
            f"{store} comes with the Redis store, which this release does not have; use MemoryStore"
        )
        self.store = store

    def __reduce__(self) -> tuple[type[StoreUnavailable], tuple[str]]:
        return type(self), (self.store,)


class UnreadableRecord(ValueError):
    """What a key of a store holds is no record of ours; nothing was changed. `.code` is `store_corrupt`."""

    code = "store_corrupt"
