"""The options of a guard, as a type: what `Engine.guard` and `checkrein.tool` take."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Literal, ParamSpec, Protocol, TypeAlias, TypedDict, TypeVar, overload

from checkrein._native import Decision
from checkrein.facts import Prove
from checkrein.rules import ArgumentRule, RequireFact
from checkrein.spec import Breaker, Budget, Cost, Duration, Key, Mode, Once, Rate, Reconcile, Rule

P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Any])

Enforced: TypeAlias = RequireFact | ArgumentRule | Rule | str | Callable[..., Any]
"""What `enforce` takes: a fact that is needed, a rule on an argument, or any other rule."""


class GuardOptions(TypedDict, total=False):
    """Everything but `on_block`, which changes the type of what is guarded."""

    rate: str | Rate | Sequence[str | Rate] | None
    cooldown: Duration | None
    budget: str | Budget | Sequence[str | Budget] | None
    cost: Cost | None
    actual: Callable[[Any], Any] | None
    rules: Callable[..., Any] | str | Rule | Sequence[Callable[..., Any] | str | Rule] | None
    enforce: Enforced | Sequence[Enforced] | None
    facts: Mapping[str, str] | RequireFact | Sequence[RequireFact] | None
    proves: Mapping[str, str | Callable[[Any], Any]] | Prove | Sequence[Prove] | None
    attempts: int | None
    once: Key | Sequence[str] | Literal[True] | Once | None
    exclude: str | Sequence[str]
    reconcile: Reconcile | None
    safe_errors: type[Exception] | Sequence[type[Exception]] | None
    breaker: str | Breaker | None
    timeout: Duration | None
    key: Key | None
    tenant: Key | None
    name: str | None
    mode: Mode
    deadline: Duration | None
    on_store_error: Literal["closed", "open"]


class Keeping(Protocol):
    """A decorator that leaves the type of a function as it is."""

    def __call__(self, function: F, /) -> F:
        """Guard a function."""


class Returning(Protocol):
    """A decorator of functions that return their decision when they are refused."""

    @overload
    def __call__(
        self, function: Callable[P, Coroutine[Any, Any, R]], /
    ) -> Callable[P, Coroutine[Any, Any, R | Decision]]: ...

    @overload
    def __call__(self, function: Callable[P, R], /) -> Callable[P, R | Decision]: ...
