"""Value types of `checkrein.rulegate`: what is ruled, by which predicates, and what was decided."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
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
    """Accepted for compatibility: a failing store never changes what a predicate decided."""

    FAIL_CLOSED = auto()
    FAIL_OPEN = auto()


class Status(Enum):
    """Whether the action may run."""

    ALLOW = auto()
    BLOCK = auto()


class BlockReason(Enum):
    """Why it may not."""

    POLICY_VIOLATION = auto()
    STORE_ERROR = auto()


@native(_native.RuleGateRule)
@dataclass(frozen=True, slots=True)
class Rule:
    """What is ruled: an action of a namespace, for one principal or for everybody."""

    namespace: str
    action: str
    principal: str = "global"

    if TYPE_CHECKING:

        @property
        def key(self) -> str:
            """A printable name; two rules may print alike."""


@native(_native.RuleGateContext)
@dataclass(frozen=True, slots=True)
class Context:
    """What a predicate sees of a call: copies of its arguments, as they were passed, and the guard's `meta`."""

    rule: Rule
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)


Predicate = Callable[[Context], bool]


@native(_native.RuleGateNamedPredicate)
@dataclass(frozen=True, slots=True)
class NamedPredicate:
    """A predicate with a name for decisions and logs."""

    name: str
    fn: Predicate

    if TYPE_CHECKING:

        def __call__(self, ctx: Context) -> bool:
            """Ask the predicate."""


@native(_native.RuleGateRuleset)
@dataclass(frozen=True, slots=True)
class Ruleset:
    """Predicates that must all allow a call. They are copied: changing the list they came from changes nothing."""

    predicates: tuple[Predicate, ...] = ()
    mode: Mode = Mode.HARD
    on_store_error: StoreErrorMode = StoreErrorMode.FAIL_CLOSED


@native(_native.RuleGateDecision)
@dataclass(frozen=True, slots=True)
class Decision:
    """What a check decided, and why. True when the action may run."""

    status: Status
    rule: Rule
    ruleset: Ruleset
    reason: BlockReason | None = None
    message: str | None = None
    violated_rules: tuple[str, ...] = ()
    evaluated_count: int = 0

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


@dataclass(slots=True)
class EvalRecord:
    """One recorded decision and when it was taken."""

    ts: float
    decision: Decision


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


class PolicyViolationError(RuntimeError):
    """A guarded call was not allowed; `.decision` says why. Survives pickling where its predicates do."""

    def __init__(self, decision: Decision) -> None:
        super().__init__(decision.message or f"Policy violation: {decision.reason}")
        self.decision = decision

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.decision,), self.__dict__
