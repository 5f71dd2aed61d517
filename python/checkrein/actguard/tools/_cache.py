"""What the guards of this process remember between calls: circuits by name, and the age of every rate limit."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from checkrein import _native


class InMemoryCache(_native.ActGuardMemory):
    """The memory of one process. Guards that meet another one than before have forgotten everything."""

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}
        self._lock = threading.RLock()

    def get(self, key: str, default: Any = None) -> Any:
        """Return what `set` put under `key`, or `default`."""
        with self._lock:
            return self._values.get(key, default)

    def set(self, key: str, value: Any) -> None:
        """Keep a value for `get`."""
        with self._lock:
            self._values[key] = value

    @contextmanager
    def transact(self) -> Iterator[InMemoryCache]:
        """Let nobody else read or write until the block ends."""
        with self._lock:
            yield self


_cache_instance: InMemoryCache | None = None
_making = threading.Lock()


def get_cache() -> InMemoryCache:
    """Return the memory in force, made at its first use."""
    global _cache_instance
    with _making:
        if _cache_instance is None:
            _cache_instance = InMemoryCache()
        return _cache_instance
