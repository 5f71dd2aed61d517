"""What the audit tests share: a counting clock, one event, a few logs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from checkrein.auditgate import AuditPolicy, Engine, IntegrityMode, Severity, Trail, Verdict

TRAIL = Trail("t", "s")
EVENT: dict[str, Any] = {
    "verdict": Verdict.ALLOW,
    "severity": Severity.INFO,
    "gate_type": "g",
    "gate_identity": "i",
}


def counting_clock() -> Callable[[], float]:
    """Return a clock that says 1.0, 2.0, 3.0, ..."""
    ticks = iter(range(1, 1 << 30))
    return lambda: float(next(ticks))


def engine_with(integrity: IntegrityMode = IntegrityMode.HASH, **settings: Any) -> Engine:
    """Return an engine on a fake clock whose trail has the given integrity."""
    engine = Engine(clock=counting_clock(), wall_clock_fn=lambda: "W")
    engine.register(TRAIL, AuditPolicy(integrity=integrity, **settings))
    return engine


class ForeignStore:
    """A store of the user's own: no base class, a list per trail."""

    def __init__(self) -> None:
        self.logs: dict[Trail, list[Any]] = {}

    def append(self, entry: Any) -> None:
        self.logs.setdefault(entry.trail, []).append(entry)

    def query(self, filter: Any) -> list[Any]:
        return list(self.logs.get(filter.trail, []))

    def last_entry(self, trail: Trail) -> Any:
        log = self.logs.get(trail)
        return log[-1] if log else None

    def count(self, trail: Trail) -> int:
        return len(self.logs.get(trail, []))

    def prune(self, trail: Trail, before_ts: float) -> int:
        log = self.logs.get(trail, [])
        kept = [entry for entry in log if entry.ts >= before_ts]
        self.logs[trail] = kept
        return len(log) - len(kept)

    def clear(self, trail: Trail) -> None:
        self.logs.pop(trail, None)

    def clear_all(self) -> None:
        self.logs.clear()
