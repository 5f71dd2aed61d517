"""Value types of `checkrein.budgetgate`: whose spend, how much of it, and what was decided."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
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

    BUDGET_EXCEEDED = auto()
    STORE_ERROR = auto()


@native(_native.BudgetGateLedger)
@dataclass(frozen=True, slots=True)
class Ledger:
    """Whose spend is limited: a resource of a namespace, for one principal or for everybody."""

    namespace: str
    resource: str
    principal: str = "global"

    if TYPE_CHECKING:

        @property
        def key(self) -> str:
            """A printable name; two ledgers may print alike."""


@native(_native.BudgetGateBudget)
@dataclass(frozen=True, slots=True)
class Budget:
    """How much may be spent in how many seconds. Money is a `Decimal` or an int, never a float.

    `window=None` counts for ever. A spend exactly as old as the window still counts; an exact fit is allowed.
    """

    max_spend: Decimal | int
    window: float | None = 3600.0
    mode: Mode = Mode.HARD
    on_store_error: StoreErrorMode = StoreErrorMode.FAIL_CLOSED


@native(_native.BudgetGateDecision)
@dataclass(frozen=True, slots=True)
class Decision:
    """What a check decided, and why. True when the action may run."""

    status: Status
    ledger: Ledger
    budget: Budget
    reason: BlockReason | None = None
    message: str | None = None
    spent_in_window: Decimal = Decimal("0")
    requested: Decimal = Decimal("0")
    remaining: Decimal = Decimal("0")

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
            """The decision as plain data, for logs; money as text."""


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


class BudgetExceededError(RuntimeError):
    """A guarded call was not allowed; `.decision` says why. Survives pickling."""

    def __init__(self, decision: Decision) -> None:
        super().__init__(decision.message or f"Budget exceeded: {decision.reason}")
        self.decision = decision

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.decision,), self.__dict__
