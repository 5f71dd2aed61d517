"""The guards of a tool as data, checked where they are written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from checkrein.actguard.tools._failures import FailureKind


@dataclass(frozen=True, slots=True)
class Once:
    """What `idempotent` was told."""

    ttl_s: float
    on_duplicate: str
    safe_exceptions: tuple[type[BaseException], ...]
    clock: dict[str, Any]
    """The globals in which the clock is looked up."""


@dataclass(frozen=True, slots=True)
class Rate:
    """What `rate_limit` was told."""

    max_calls: int
    period: float
    scope: str | None
    clock: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Breaker:
    """What `circuit_breaker` was told."""

    name: str
    max_fails: int
    reset_timeout: float
    fail_on: frozenset[FailureKind]
    ignore_on: frozenset[FailureKind]
    clock: dict[str, Any]
