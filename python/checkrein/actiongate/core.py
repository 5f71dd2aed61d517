"""Value types of `checkrein.actiongate`: what is limited, how, and what was decided."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from checkrein import _native
from checkrein._dropin import native

T = TypeVar("T")


class Mode(Enum):
    """Whether `Engine.enforce` raises on a block."""

    HARD = auto()
    SOFT = auto()


class StoreErrorMode(Enum):
    """What a failing store means for the action."""

    FAIL_CLOSED = auto()
    FAIL_OPEN = auto()


class Status(Enum):
    """Whether the action may run."""

    ALLOW = auto()
    BLOCK = auto()


class BlockReason(Enum):
    """Why it may not."""

    RATE_LIMIT = auto()
    COOLDOWN = auto()
    STORE_ERROR = auto()


@native(_native.ActionGateGate)
@dataclass(frozen=True, slots=True)
class Gate:
    """What is limited: an action of a namespace, for one principal or for everybody."""

    namespace: str
    action: str
    principal: str = "global"

    if TYPE_CHECKING:

        @property
        def key(self) -> str:
            """A printable name; two gates may print alike."""


@native(_native.ActionGatePolicy)
@dataclass(frozen=True, slots=True)
class Policy:
    """How many calls in how many seconds, and how far apart.

    `window=None` counts for ever. A call exactly as old as the window still counts; one exactly as old as the
    cooldown no longer blocks.
    """

    max_calls: float = 3
    window: float | None = 60.0
    cooldown: float = 0.0
    mode: Mode = Mode.HARD
    on_store_error: StoreErrorMode = StoreErrorMode.FAIL_CLOSED


@native(_native.ActionGateDecision)
@dataclass(frozen=True, slots=True)
class Decision:
    """What a check decided, and why. True when the action may run."""

    status: Status
    gate: Gate
    policy: Policy
    reason: BlockReason | None = None
    message: str | None = None
    calls_in_window: int = 0
    time_since_last: float | None = None

    if TYPE_CHECKING:

        @property
        def allowed(self) -> bool:
            """Whether the action may run."""

        @property
        def blocked(self) -> bool:
            """Whether the action may not run."""

        def __bool__(self) -> bool:
            """Whether the action may run."""

        def to_dict(self) -> dict[str, Any]:
            """The decision as plain data, for logs."""


class _Missing(_native.Missing):
    """The type of `MISSING`."""

    __slots__ = ()


MISSING = _Missing()


class Result(_native.ResultBase, Generic[T]):
    """A decision and, when the action ran, what it returned. None is a value like any other."""

    __slots__ = ()
    _missing = MISSING

    if TYPE_CHECKING:

        def __init__(self, decision: Decision, _value: T | _Missing = MISSING) -> None:
            """Pair a decision with a value."""

        @property
        def decision(self) -> Decision:
            """What was decided."""

        @property
        def value(self) -> T | None:
            """The value, or None."""

        def unwrap(self) -> T:
            """The value; ValueError when there is none."""

        def unwrap_or(self, default: T) -> T:
            """The value, or `default`."""


class Blocked(RuntimeError):
    """A guarded call was not allowed; `.decision` says why. Survives pickling."""

    def __init__(self, decision: Decision) -> None:
        super().__init__(decision.message or f"Blocked: {decision.reason}")
        self.decision = decision

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.decision,), self.__dict__
