"""Predicates over calls: a drop-in for the package of the same name.

from checkrein.rulegate import Engine, Rule, Ruleset, Context, PolicyViolationError

engine = Engine()

def no_pii(ctx: Context) -> bool:
    return "ssn" not in str(ctx.kwargs.get("query", "")).lower()

@engine.guard(Rule("api", "search"), Ruleset(predicates=(no_pii,)))
def search(*, query: str) -> list[str]: ...
"""

from __future__ import annotations

from .core import (
    MISSING,
    BlockReason,
    Context,
    Decision,
    EvalRecord,
    Mode,
    NamedPredicate,
    PolicyViolationError,
    Predicate,
    Result,
    Rule,
    Ruleset,
    Status,
    StoreErrorMode,
)
from .emitter import Emitter
from .engine import Engine
from .store import AsyncMemoryStore, AsyncStore, MemoryStore, Store

# The name that published documents use.
PolicyViolation = PolicyViolationError

__version__ = "0.3.0"

__all__ = [
    "MISSING",
    "AsyncMemoryStore",
    "AsyncStore",
    "BlockReason",
    "Context",
    "Decision",
    "Emitter",
    "Engine",
    "EvalRecord",
    "MemoryStore",
    "Mode",
    "NamedPredicate",
    "PolicyViolationError",
    "Predicate",
    "Result",
    "Rule",
    "Ruleset",
    "Status",
    "Store",
    "StoreErrorMode",
]
