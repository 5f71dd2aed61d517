"""Spend limits: a drop-in for the package of the same name, on Checkrein's native meters.

from decimal import Decimal
from checkrein.budgetgate import Engine, Ledger, Budget, BudgetExceededError

engine = Engine()

@engine.guard(Ledger("openai", "gpt-4", "user:123"), Budget(Decimal("10.00")), cost=Decimal("0.03"))
def ask(prompt: str) -> str: ...
"""

from __future__ import annotations

from .core import (
    MISSING,
    BlockReason,
    Budget,
    BudgetExceededError,
    Decision,
    Ledger,
    Mode,
    Result,
    Status,
    StoreErrorMode,
)
from .emitter import Emitter
from .engine import Engine
from .store import (
    AsyncMemoryStore,
    AsyncRedisStore,
    AsyncStore,
    MemoryStore,
    RedisStore,
    Reservation,
    SpendEvent,
    Store,
)

# The name that published documents use.
BudgetExceeded = BudgetExceededError

__version__ = "0.3.1"

__all__ = [
    "MISSING",
    "AsyncMemoryStore",
    "AsyncRedisStore",
    "AsyncStore",
    "BlockReason",
    "Budget",
    "BudgetExceededError",
    "Decision",
    "Emitter",
    "Engine",
    "Ledger",
    "MemoryStore",
    "Mode",
    "RedisStore",
    "Reservation",
    "Result",
    "SpendEvent",
    "Status",
    "Store",
    "StoreErrorMode",
]
