"""Rules on the arguments of a call: facts they must be, limits they must keep, patterns they must not have."""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from checkrein.errors import ConfigError, a_type
from checkrein.spec import Rule, read_rule

__all__ = ["ArgumentRule", "BlockRegex", "RequireFact", "Threshold"]

MAX_TEXTS: Final = 10_000
"""So many texts of one argument are looked at; one that has more is refused."""


@dataclass(frozen=True)
class RequireFact:
    """The values of an argument must be facts of a kind: values that a read has shown in this run or session.

    `arg` is an argument or a path into one (`"order.id"`). Of a list, tuple or set every item must be one; at most 32
    different values. Values keep their types: `True`, `1` and `"1"` are three. `None` and what is left out are refused
    unless the argument is `optional`. `hint` tells people and the model what to do: `"call list_orders first"`.
    """

    arg: str
    kind: str
    hint: str = ""
    optional: bool = False

    def __post_init__(self) -> None:
        check_kind(self.kind)
        if not isinstance(self.hint, str) or len(self.hint) > 1_000:
            raise ConfigError(
                "the hint is no text of at most 1,000 characters", "hint", "say what to do first"
            )


class ArgumentRule(ABC):
    """A rule on the value of one argument; derive from it for rules of your own.

    `arg` is an argument or a path into one; `None` and what is left out are refused unless it is `optional`. Whatever
    `passes` raises, and anything that is not exactly `True` or `False`, refuses the call too.
    """

    arg: str
    optional: bool = False

    @abstractmethod
    def passes(self, value: Any) -> bool:
        """Whether a value is admitted. It gets a copy of lists and dicts."""

    @property
    def message(self) -> str:
        """The rule in words, for people and for the model."""
        return f"`{self.arg}` must pass {type(self).__name__}"

    def bound(self, path: tuple[str, ...]) -> Callable[[Any], bool]:
        """Make what is asked with the argument that the path starts from."""
        passes, optional = self.passes, self.optional
        if not path and not optional:
            return lambda value: False if value is None else passes(value)

        def ask(value: Any) -> bool:
            for name in path:
                if value is None:
                    break
                value = value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)
            return optional if value is None else passes(value)

        return ask


@dataclass(frozen=True)
class Threshold(ArgumentRule):
    """A number must be at most `max`, and at least `min` if there is one. NaN, texts and booleans are none."""

    arg: str
    max: int | float | Decimal | None = None
    min: int | float | Decimal | None = None
    optional: bool = False

    def __post_init__(self) -> None:
        if self.max is None and self.min is None:
            raise ConfigError(
                "a threshold without a limit", "threshold", 'say which: Threshold("amount", 100)'
            )
        for bound in (self.max, self.min):
            if bound is not None and not (_is_number(bound) and math.isfinite(bound)):
                raise ConfigError(
                    f"the limit of a threshold is {a_type(bound)}", "threshold", "give a number"
                )

    def bound(self, path: tuple[str, ...]) -> Callable[[Any], bool]:
        """Make what is asked; the usual numbers are compared at once."""
        ask = super().bound(path)
        if path:
            return ask
        low = self.min
        high = math.inf if self.max is None else self.max

        def at_most(value: Any) -> bool:
            if value.__class__ is int or value.__class__ is float:
                return value <= high
            return ask(value)

        if low is None:
            return at_most

        def between(value: Any) -> bool:
            # Exactly these: a boolean is none of them, and no comparison with NaN holds.
            if value.__class__ is int or value.__class__ is float:
                return low <= value <= high
            return ask(value)

        return between

    def passes(self, value: Any) -> bool:
        """Whether it is a number within the limits."""
        if not _is_number(value) or (value.is_nan() if isinstance(value, Decimal) else value != value):
            return False
        return (self.max is None or value <= self.max) and (self.min is None or value >= self.min)

    @property
    def message(self) -> str:
        """The limits in words."""
        words = [f"at most {self.max}"] if self.max is not None else []
        words += [f"at least {self.min}"] if self.min is not None else []
        return f"`{self.arg}` must be a number of {' and '.join(words)}"


@dataclass(frozen=True)
class BlockRegex(ArgumentRule):
    """No text in the argument may have a match of the pattern: not the text itself, and none inside lists and dicts.

    What is no text is looked at as Python writes it.
    """

    arg: str
    pattern: str | re.Pattern[str]
    optional: bool = False

    def __post_init__(self) -> None:
        try:
            compiled = re.compile(self.pattern)
        except (re.error, TypeError) as error:
            raise ConfigError(
                f"the pattern for `{self.arg}`: {error}", "pattern", "see the `re` module"
            ) from error
        if not isinstance(compiled.pattern, str):
            raise ConfigError(f"the pattern for `{self.arg}` is one of bytes", "pattern", "give a text")
        object.__setattr__(self, "_search", compiled.search)

    def bound(self, path: tuple[str, ...]) -> Callable[[Any], bool]:
        """Make what is asked; a text is searched at once."""
        ask = super().bound(path)
        search: Callable[[str], object] = self._search  # type: ignore[attr-defined]

        def search_text(value: Any) -> bool:
            try:
                return search(value) is None
            except TypeError:  # What is no text takes the long way.
                return ask(value)

        return ask if path else search_text

    def passes(self, value: Any) -> bool:
        """Whether no text in it matches."""
        search: Callable[[str], object] = self._search  # type: ignore[attr-defined]
        return not any(search(text) for text in _texts(value))

    @property
    def message(self) -> str:
        """That something is blocked; the pattern is its author's."""
        return f"`{self.arg}` has something that is blocked"


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float, Decimal)) and not isinstance(value, bool)


def _texts(value: Any) -> Iterator[str]:
    """Every text in a value, keys of dicts included."""
    left = [value]
    for _ in range(MAX_TEXTS):
        if not left:
            return
        value = left.pop()
        if isinstance(value, Mapping):
            left.extend(value.keys())
            left.extend(value.values())
        elif isinstance(value, (list, tuple, set, frozenset)):
            left.extend(value)
        else:
            yield value if isinstance(value, str) else str(value)
    if left:
        raise ValueError("the argument has too many parts")


def check_kind(kind: object) -> None:
    """Refuse what is no kind of a fact."""
    if not isinstance(kind, str) or not kind.strip() or len(kind) > 200:
        raise ConfigError("a kind of facts is no text of 1 to 200 characters", "kind", 'name it: "order"')


def read_enforce(value: object, facts: object) -> tuple[list[RequireFact], list[ArgumentRule], list[Rule]]:
    """Read `enforce=` and `facts=`: rules of every kind, and arguments with their kinds of facts.

    Raises ConfigError for whatever is none.
    """
    requires: list[RequireFact] = []
    checks: list[ArgumentRule] = []
    rules: list[Rule] = []
    for rule in _several(value):
        if isinstance(rule, RequireFact):
            requires.append(rule)
        elif isinstance(rule, ArgumentRule):
            checks.append(rule)
        elif isinstance(rule, type):
            raise ConfigError(f"`{rule.__name__}` is a class", "rule", "give an object of it")
        else:
            rules.append(read_rule(rule))
    if isinstance(facts, Mapping):
        requires += [RequireFact(arg, kind) for arg, kind in facts.items()]
    else:
        for fact in _several(facts):
            if not isinstance(fact, RequireFact):
                hint = 'write facts={"order_id": "order"} or RequireFact("order_id", "order")'
                raise ConfigError(f"{a_type(fact)} in facts", "facts", hint)
            requires.append(fact)
    if len(requires) + len(checks) + len(rules) > 32:
        raise ConfigError("more than 32 rules", "too_many", "at most 32 are allowed")
    return requires, checks, rules


def _several(value: object) -> Sequence[Any]:
    if value is None:
        return ()
    return value if isinstance(value, (list, tuple)) else (value,)
