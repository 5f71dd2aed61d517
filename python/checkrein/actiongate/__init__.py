"""Rate limits and cooldowns: a drop-in for the package of the same name, on Checkrein's native meters.

from checkrein.actiongate import Engine, Gate, Policy, Blocked

engine = Engine()

@engine.guard(Gate("api", "search", "user:123"), Policy(max_calls=5, window=60))
def search(query: str) -> list[str]: ...
"""

from __future__ import annotations

from .core import (
    MISSING,
    Blocked,
    BlockReason,
    Decision,
    Gate,
    Mode,
    Policy,
    Result,
    Status,
    StoreErrorMode,
)
from .emitter import Emitter
from .engine import Engine
from .store import AsyncMemoryStore, AsyncRedisStore, AsyncStore, MemoryStore, RedisStore, Store

__version__ = "0.3.0"

__all__ = [
    "MISSING",
    "AsyncMemoryStore",
    "AsyncRedisStore",
    "AsyncStore",
    "BlockReason",
    "Blocked",
    "Decision",
    "Emitter",
    "Engine",
    "Gate",
    "MemoryStore",
    "Mode",
    "Policy",
    "RedisStore",
    "Result",
    "Status",
    "Store",
    "StoreErrorMode",
]
