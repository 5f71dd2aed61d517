"""The facts that reads have proved, by session, scope, kind and value."""

from __future__ import annotations

import heapq
import threading
import time
from typing import Any, Final

Key = tuple[str, str, str, Any]

_FACTS: dict[Key, float] = {}
"""What is known, and until when by the wall clock."""

_ending: list[tuple[float, int, Key]] = []
"""The same by the end of its life; facts that were minted again are put back where they then belong."""

_lock = threading.RLock()
_minted = 0

MAX_PRUNED: Final = 16
"""Expired facts that one new fact clears away, so that minting costs the same for each."""


def of_value(value: object) -> Any:
    """Return the form a value is compared in: its text, but a truth value or None is no text."""
    if value.__class__ is str:
        return value
    if value is None or isinstance(value, bool):
        return (type(value).__name__, value)
    return str(value)


def mint(session_id: str, scope_hash: str, kind: str, value: Any, ttl: float) -> None:
    """Note that a value was seen in a session, for `ttl` seconds."""
    global _minted
    now = time.time()
    key = (session_id, scope_hash, kind, of_value(value))
    with _lock:
        if key not in _FACTS:
            _minted += 1
            heapq.heappush(_ending, (now + ttl, _minted, key))
        _FACTS[key] = now + ttl
        _clear(now, MAX_PRUNED)


def exists(session_id: str, scope_hash: str, kind: str, value: Any) -> bool:
    """Whether a value was seen in a session, and not too long ago."""
    expires = _FACTS.get((session_id, scope_hash, kind, of_value(value)))
    return expires is not None and expires > time.time()


def prune() -> None:
    """Forget every expired fact now."""
    with _lock:
        _clear(time.time(), len(_ending))


def _clear(now: float, at_most: int) -> None:
    global _minted
    for _ in range(at_most):
        if not _FACTS:
            # The last one has gone, or somebody has emptied the table.
            _ending.clear()
        if not _ending or _ending[0][0] > now:
            return
        _, _, key = heapq.heappop(_ending)
        expires = _FACTS.get(key)
        if expires is None:
            continue
        if expires > now:
            _minted += 1
            heapq.heappush(_ending, (expires, _minted, key))
        else:
            del _FACTS[key]
