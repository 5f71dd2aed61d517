"""Value types of the audit log: who logs, what was logged, and how it is hashed."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum, auto
from typing import Any, Generic, NoReturn, TypeVar, cast

from checkrein._native import AuditDecision as Decision
from checkrein._native import AuditEntry
from checkrein._native import AuditTrail as Trail
from checkrein._native import audit_hash as compute_hash
from checkrein._native import audit_verify_chain as verify_chain

__all__ = [
    "MISSING",
    "AuditEntry",
    "AuditError",
    "AuditPolicy",
    "Decision",
    "IntegrityMode",
    "Mode",
    "Result",
    "Severity",
    "Status",
    "StoreErrorMode",
    "Trail",
    "Verdict",
    "compute_hash",
    "verify_chain",
    "wall_clock",
]

T = TypeVar("T")
E = TypeVar("E", bound=Enum)


class Mode(Enum):
    """Whether a failure to record stops the caller."""

    HARD = auto()
    SOFT = auto()


class StoreErrorMode(Enum):
    """What a store that fails means."""

    FAIL_CLOSED = auto()
    FAIL_OPEN = auto()


class Status(Enum):
    """Whether an event reached the log."""

    RECORDED = auto()
    DROPPED = auto()


class Severity(Enum):
    """How much an event matters, in ascending order."""

    DEBUG = auto()
    INFO = auto()
    WARN = auto()
    ERROR = auto()
    CRITICAL = auto()


class Verdict(Enum):
    """What a gate said."""

    ALLOW = auto()
    BLOCK = auto()
    ERROR = auto()
    OVERRIDE = auto()


class IntegrityMode(Enum):
    """How entries are protected: not at all, each by its hash, or linked to the one before."""

    NONE = auto()
    HASH = auto()
    CHAIN = auto()


class _Missing:
    """The type of `MISSING`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<MISSING>"


MISSING = _Missing()


def _member(enum: type[E], value: object) -> E:
    """Return the member meant by `value`: a member, its name, or the namesake of another package.

    Raises TypeError for anything else, because a mode that is not understood must not quietly relax.
    """
    if isinstance(value, enum):
        return value
    name = value if isinstance(value, str) else getattr(value, "name", None)
    if isinstance(name, str) and name in enum.__members__:
        return enum[name]
    raise TypeError(f"{value!r} is not a member of {enum.__name__}")


@dataclass(frozen=True, slots=True)
class AuditPolicy:
    """How a trail records: failure behaviour, least severity, retention in seconds, integrity."""

    mode: Mode = Mode.HARD
    on_store_error: StoreErrorMode = StoreErrorMode.FAIL_CLOSED
    min_severity: Severity = Severity.DEBUG
    retention_seconds: float | None = None
    integrity: IntegrityMode = IntegrityMode.HASH

    def __post_init__(self) -> None:
        """Refuse a retention that is not positive and settings that are not understood."""
        if self.retention_seconds is not None and not self.retention_seconds > 0:
            raise ValueError("retention_seconds must be positive or None")
        object.__setattr__(self, "mode", _member(Mode, self.mode))
        object.__setattr__(self, "on_store_error", _member(StoreErrorMode, self.on_store_error))
        object.__setattr__(self, "min_severity", _member(Severity, self.min_severity))
        object.__setattr__(self, "integrity", _member(IntegrityMode, self.integrity))


class AuditError(RuntimeError):
    """An event that had to be recorded was not; `decision` says why."""

    def __init__(self, decision: Decision) -> None:
        self.decision = decision
        super().__init__(decision.reason or f"Audit failure: {decision.status}")

    def __reduce__(self) -> tuple[type[AuditError], tuple[Decision]]:
        return type(self), (self.decision,)


@dataclass(frozen=True, slots=True)
class Result(Generic[T]):
    """What a guarded call returned, beside the decision that let it run or not."""

    decision: Decision
    _value: T | _Missing = MISSING

    @property
    def ok(self) -> bool:
        """Whether the call was recorded."""
        return self.decision.recorded

    def unwrap(self) -> T:
        """Return the value, or raise RuntimeError when there is none."""
        if isinstance(self._value, _Missing):
            raise RuntimeError(f"unwrap() called on dropped audit: {self.decision.reason}")
        return self._value

    def unwrap_or(self, default: T) -> T:
        """Return the value, or `default` when there is none."""
        return default if isinstance(self._value, _Missing) else self._value


def wall_clock() -> str:
    """Return the current time in UTC as ISO 8601 text."""
    return datetime.now(UTC).isoformat()


def _frozen_setattr(self: object, name: str, value: object) -> NoReturn:
    raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")


# `Result[int](...)` sets `__orig_class__`, and what a frozen slotted dataclass raises for an unknown
# attribute is a TypeError that typing does not expect.
Result.__setattr__ = _frozen_setattr  # type: ignore[method-assign]


class _TrailFields:
    namespace: str
    source: str
    principal: str = "global"


class _EntryFields:
    trail: Trail
    ts: float
    wall_ts: str
    verdict: Verdict
    severity: Severity
    gate_type: str
    gate_identity: str
    recorded_by: str = ""
    reason: str | None = None
    detail: dict[str, Any] = field(default_factory=dict)
    entry_hash: str | None = None
    prev_hash: str | None = None
    sequence: int = 0


class _DecisionFields:
    status: Status
    trail: Trail
    policy: AuditPolicy
    entry: AuditEntry | None = None
    reason: str | None = None


def _as_dataclass(native: type, template: type) -> None:
    """Let `native` pass for a frozen dataclass with the fields of `template`."""
    shaped = cast(Any, dataclass(frozen=True)(template))
    for attribute in ("__dataclass_fields__", "__dataclass_params__", "__match_args__"):
        setattr(native, attribute, getattr(shaped, attribute))
    # `copy.replace` of Python 3.13 asks for this method.
    setattr(native, "__replace__", lambda self, /, **changes: dataclasses.replace(self, **changes))  # noqa: B010


_as_dataclass(Trail, _TrailFields)
_as_dataclass(AuditEntry, _EntryFields)
_as_dataclass(Decision, _DecisionFields)
