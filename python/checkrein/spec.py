"""What a guard is made of, as its user writes it: short texts and frozen objects, read strictly."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from checkrein import _native
from checkrein.errors import ConfigError, TimedOut, a_type
from checkrein.failures import FAIL_ON_DEFAULT, FailureKind

if TYPE_CHECKING:
    from checkrein.facts import Prove
    from checkrein.rules import ArgumentRule, RequireFact

Duration: TypeAlias = str | int | float | timedelta
"""A length of time: text such as `"2s"` or `"10 min"`, a number of seconds, or a `timedelta`."""

Key: TypeAlias = "str | Callable[..., Any] | PerRun | tuple[Key, ...]"
"""Whom a gate counts for: an argument, a path (`"user.id"`), a callable, CEL text, `PER_RUN` or a tuple of these."""

Quantity: TypeAlias = str | int | Decimal
"""An amount: text with its unit (`"0.30 usd"`), or an exact number in the unit of the budget. Never a float."""

Cost: TypeAlias = (
    Quantity | Callable[..., Any] | Sequence[Quantity] | Mapping[str, "Quantity | Callable[..., Any]"]
)
"""What a call costs: a quantity, a callable of the arguments, CEL text, or one of these for each unit."""

Reconcile: TypeAlias = Callable[[_native.Operation], Any]
"""Looks up what became of an operation in doubt; may be a coroutine function."""

Calendar: TypeAlias = Literal["day", "week", "month"]
Mode: TypeAlias = Literal["enforce", "observe"]

UNITS: Final = ("usd", "tokens", "calls", "cu")
FOREVER_NS: Final = 2**63 - 1


class _Inherited:
    """Stands for "the key of the guard", as opposed to no key at all."""

    def __repr__(self) -> str:
        return "INHERITED"


INHERITED: Final = _Inherited()


class PerRun:
    """Stands for the run that a call belongs to."""

    def __repr__(self) -> str:
        return "PER_RUN"


PER_RUN: Final = PerRun()
"""As a key: everything is counted once for each run, and once for all calls that belong to none."""


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of time: rolling when `span_ns` is set, a calendar period when `calendar` is, else all time."""

    span_ns: int | None = None
    calendar: Calendar | None = None
    tz: str = "UTC"

    def describe(self) -> str:
        """The window as it stands in the names of gates: equal windows have equal texts."""
        if self.calendar is not None:
            return f"/calendar {self.calendar} {self.tz}"
        if self.span_ns is None:
            return ""
        return f"/{_native.format_span(self.span_ns)}"


@dataclass(frozen=True)
class Rate:
    """At most `max_calls` calls in a window, and `cooldown` between two.

    `key` is whom the calls are counted for; left out, it is the guard's. A rate with a `name` is shared by all
    guards of the engine that name it.
    """

    max_calls: int
    window: Duration | None = None
    calendar: Calendar | None = None
    tz: str = "UTC"
    key: Key | _Inherited | None = INHERITED
    name: str | None = None
    cooldown: Duration | None = None

    def __post_init__(self) -> None:
        _whole("max_calls", self.max_calls, least=0)
        if self.window is None and self.calendar is None:
            raise ConfigError(
                "a rate needs a window", "rate_window", 'write `"10/min"` or Rate(10, window="1m")'
            )
        self.read_window()

    def read_window(self) -> Window:
        """The window, read."""
        return _window("rate", self.window, self.calendar, self.tz)


@dataclass(frozen=True)
class Budget:
    """At most `limit` of a unit in a window.

    A budget with a `name` is shared by all guards that name it and is one for everybody unless it has a `key` of its
    own; one without belongs to its guard and is counted by the guard's key. Several budgets are taken in one step.
    A `hard` budget refuses costs that are only estimated.
    """

    limit: str
    window: Duration | None = None
    calendar: Calendar | None = None
    tz: str = "UTC"
    key: Key | _Inherited | None = INHERITED
    name: str | None = None
    hard: bool = False
    cost: Cost | None = None
    actual: Callable[[Any], Any] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.limit, str):
            raise ConfigError(
                f"the limit of a budget is {a_type(self.limit)}",
                "budget_limit",
                'write it as text with its unit, as in `"50 usd"`',
            )
        _native.parse_quantity(self.limit)
        if self.name is not None and self.name.startswith("@"):
            raise ConfigError(
                f"a budget named `{_short(self.name)}`", "name", "names that begin with @ are those of runs"
            )
        self.read_window()

    def read_window(self) -> Window:
        """The window, read."""
        return _window("budget", self.window, self.calendar, self.tz)


@dataclass(frozen=True)
class Breaker:
    """Stops calls to a dependency after `max_fails` failures in a row, for `reset`; then `probes` calls may try.

    It is shared by name. The kinds of exceptions in `fail_on` count as failures, whatever is unknown says nothing. With
    `ignore_on` only its kinds say nothing too, and one in neither proves that the dependency is well, as a result does.
    `classify(exception)` is asked first: it returns `"failure"`, `"success"`, `"neutral"` or `"not_executed"`, or
    `None` to leave the answer to the kinds.
    """

    name: str | None = None
    max_fails: int = 5
    reset: Duration = "60s"
    probes: int = 1
    probe_lease: Duration = "60s"
    key: Key | None = None
    classify: Callable[[BaseException], str | None] | None = None
    fail_on: Collection[FailureKind | str] = FAIL_ON_DEFAULT
    ignore_on: Collection[FailureKind | str] | None = None

    def __post_init__(self) -> None:
        _whole("max_fails", self.max_fails, least=1)
        _whole("probes", self.probes, least=1)
        span_ns("reset", self.reset)
        span_ns("probe_lease", self.probe_lease)
        both = self.read_kinds()
        if both[1] is not None and both[0] & both[1]:
            kinds = ", ".join(sorted(both[0] & both[1]))
            raise ConfigError(
                f"fail_on and ignore_on both have {kinds}", "ignore_on", "keep each in one of them"
            )

    def read_kinds(self) -> tuple[frozenset[FailureKind], frozenset[FailureKind] | None]:
        """The kinds of failures that count, and those that say nothing, read."""
        ignored = None if self.ignore_on is None else _kinds("ignore_on", self.ignore_on)
        return _kinds("fail_on", self.fail_on), ignored


@dataclass(frozen=True)
class Rule:
    """A condition: a callable of the arguments that returns exactly `True` or `False`, or CEL text.

    `message` is shown to people and to the model when the rule says no.
    """

    check: Callable[..., Any] | str
    name: str | None = None
    message: str | None = None


@dataclass(frozen=True)
class Once:
    """At most one run for each key; the stored result answers repetitions.

    `key` names arguments, is a callable or CEL text, or `True` for all arguments. `exclude` names arguments that have
    no canonical form (`self`, handles); they are not part of what is compared. `codec` says how results are stored:
    `"json"` takes plain JSON values only, a pair `(dumps, loads)` anything that `dumps` turns into bytes or text and
    that `loads` makes a value of the same type from. Results are kept for `keep_result`, the key itself for `keep_key`
    after the operation ended, and for ever while its outcome is unknown.

    `reconcile` is asked with the `Operation` when a call finds its own key in doubt. It looks up what happened and
    returns `Done(result)`, `NotExecuted` (only if the earlier attempt can no longer take effect), or `None` when it
    still does not know. `key_param` names the parameter that gets the operation's idempotency key; callers do not pass
    it and do not see it in the signature.

    With `per_run` a key is another operation in every run, and one outside of all of them. `on_duplicate="raise"`
    refuses repetitions of an operation that is done with `AlreadyDone`, instead of returning its result.
    """

    key: Key | Literal[True] = True
    exclude: str | Sequence[str] = ()
    codec: Literal["json"] | tuple[Callable[[Any], bytes | str], Callable[[bytes], Any]] = "json"
    keep_result: Duration = "1d"
    keep_key: Duration = "400d"
    scope: str | None = None
    reconcile: Reconcile | None = None
    key_param: str | None = None
    per_run: bool = False
    on_duplicate: Literal["return", "raise"] = "return"

    def __post_init__(self) -> None:
        span_ns("keep_result", self.keep_result)
        span_ns("keep_key", self.keep_key)
        if self.on_duplicate not in ("return", "raise"):
            hint = 'use on_duplicate="return" or "raise"'
            raise ConfigError("on_duplicate is neither `return` nor `raise`", "on_duplicate", hint)
        pair = isinstance(self.codec, tuple) and len(self.codec) == 2 and all(map(callable, self.codec))
        if self.codec != "json" and not pair:
            raise ConfigError(
                "the codec of a once gate is neither `json` nor a pair of callables",
                "once_codec",
                'use codec="json" or codec=(dumps, loads)',
            )
        if self.reconcile is not None and not callable(self.reconcile):
            raise ConfigError(
                f"`reconcile` is {a_type(self.reconcile)}",
                "reconcile",
                "give a callable of the operation that says what became of it",
            )


@dataclass(slots=True)
class Gates:
    """Everything one guard was given, read but not yet bound to a signature."""

    rates: list[Rate] = field(default_factory=list)
    budgets: list[Budget] = field(default_factory=list)
    rules: list[Rule] = field(default_factory=list)
    cooldown_ns: int = 0
    attempts: int | None = None
    once: Once | None = None
    breaker: Breaker | None = None
    requires: list[RequireFact] = field(default_factory=list)
    checks: list[ArgumentRule] = field(default_factory=list)
    proves: list[Prove] = field(default_factory=list)


def span_ns(what: str, value: Duration, least: int = 0) -> int:
    """Read a length of time as nanoseconds.

    Raises ConfigError for anything that is none: negative, NaN, unknown units, other types.
    """
    hint = 'use text such as "2s", "10 min" or "1d", or a number of seconds'
    nanos: int | None = None
    if isinstance(value, str):
        nanos = _native.parse_span(value)
    elif isinstance(value, timedelta):
        nanos = (value.days * 86_400 + value.seconds) * 10**9 + value.microseconds * 1_000
    elif isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        nanos = value * 10**9 if isinstance(value, int) else round(value * 1e9)
    if nanos is None or not least <= nanos < FOREVER_NS:
        raise ConfigError(f"{what} is no usable length of time: `{_short(value)}`", "duration", hint)
    return nanos


_RATE = re.compile(r"(?P<count>\d{1,18})\s*(?:calls?\s*)?(?:/|\bper\s)\s*(?P<window>.+)", re.IGNORECASE)
_BUDGET = re.compile(r"(?P<limit>.+?)\s*(?:(?:/|\bper\s)\s*(?P<window>.+))?", re.IGNORECASE)
_CALENDAR = re.compile(r"calendar\s+(?P<period>day|week|month)(?:\s+(?:in\s+)?(?P<tz>\S+))?", re.IGNORECASE)
_BREAKER = re.compile(
    r"(?:(?P<name>[^:]+?)\s*:)?\s*(?P<fails>\d{1,9})\s*(?:failures?|fails?)?\s*(?:/|\bper\s)\s*(?P<reset>.+)",
    re.IGNORECASE,
)


def read_rate(text: object) -> Rate:
    """Read `"10/min"`, `"10 per 5 min"` or `"1000 per calendar day Europe/Berlin"`."""
    if isinstance(text, Rate):
        return text
    hint = 'write "10/min", "100 per 5 min", "1000 per calendar day UTC" or use checkrein.Rate(...)'
    match = _RATE.fullmatch(text.strip()) if isinstance(text, str) else None
    if match is None:
        raise ConfigError(f"`{_short(text)}` is no rate", "rate", hint)
    window, calendar, tz = _split_window(match["window"])
    return Rate(int(match["count"]), window=window, calendar=calendar, tz=tz)


def read_budget(text: object) -> Budget:
    """Read `"50 usd/day"`, `"200000 tokens"` (for ever) or `"50 usd per calendar day Europe/Berlin"`."""
    if isinstance(text, Budget):
        return text
    match = _BUDGET.fullmatch(text.strip()) if isinstance(text, str) else None
    if match is None:
        hint = 'write "50 usd/day" or use checkrein.Budget(limit="50 usd", window="1d"); money is text, never a float'
        raise ConfigError(f"`{_short(text)}` is no budget", "budget", hint)
    if match["window"] is None:
        return Budget(match["limit"])
    window, calendar, tz = _split_window(match["window"])
    return Budget(match["limit"], window=window, calendar=calendar, tz=tz)


def read_breaker(text: object) -> Breaker:
    """Read `"stripe: 3 failures/60s"`: open for 60 s after three failures in a row."""
    if isinstance(text, Breaker):
        return text
    match = _BREAKER.fullmatch(text.strip()) if isinstance(text, str) else None
    if match is None:
        hint = 'write "stripe: 3 failures/60s" or use checkrein.Breaker("stripe", max_fails=3, reset="60s")'
        raise ConfigError(f"`{_short(text)}` is no breaker", "breaker", hint)
    return Breaker(match["name"], max_fails=int(match["fails"]), reset=match["reset"])


def read_rule(rule: object) -> Rule:
    """Read a rule: a callable, CEL text or a `Rule`."""
    if isinstance(rule, Rule):
        return rule
    if isinstance(rule, str) or callable(rule):
        return Rule(rule)
    hint = "a rule is a callable of the arguments that returns True or False, or CEL text"
    raise ConfigError(f"`{_short(rule)}` is no rule", "rule", hint)


def read_once(once: object, exclude: tuple[str, ...], reconcile: Reconcile | None) -> Once:
    """Read `True`, argument names, a callable, CEL text or a `Once`."""
    if isinstance(once, Once):
        for name, value, own in (
            ("exclude", exclude, once.exclude),
            ("reconcile", reconcile, once.reconcile),
        ):
            if value and own:
                raise ConfigError(f"`{name}` is given twice", name, "give it to Once(...) or to the guard")
        return replace(once, exclude=exclude or once.exclude, reconcile=once.reconcile or reconcile)
    if isinstance(once, list):
        once = tuple(once)
    if once is True or isinstance(once, (str, tuple)) or callable(once):
        return Once(once, exclude=exclude, reconcile=reconcile)
    raise ConfigError(
        f"`{_short(once)}` is no once key", "once", "name an argument, or use once=True for all of them"
    )


def read_safe_errors(errors: object) -> tuple[type[Exception], ...]:
    """Read which exceptions mean that the function provably had no effect.

    Raises ConfigError for what would call an unknown outcome a clean one.
    """
    if errors is None:
        return ()
    kinds = errors if isinstance(errors, (list, tuple)) else (errors,)
    for kind in kinds:
        if not isinstance(kind, type) or not issubclass(kind, Exception):
            hint = "name classes of exceptions such as ConnectionRefusedError; a cancellation or Ctrl-C is never safe"
            raise ConfigError(f"`{_short(kind)}` in safe_errors is no Exception", "safe_errors", hint)
        if issubclass(TimedOut, kind):
            hint = "name the exceptions that are raised before anything was sent"
            raise ConfigError(f"{kind.__name__} in safe_errors covers unknown outcomes", "safe_errors", hint)
    return tuple(kinds)


def several(what: str, value: object, read: Callable[[object], Any]) -> list[Any]:
    """Read one of a thing or a list of them."""
    if value is None:
        return []
    items = list(value) if isinstance(value, (list, tuple)) else [value]
    if len(items) > 32:
        raise ConfigError(f"{len(items)} entries for `{what}`", "too_many", "at most 32 are allowed")
    return [read(item) for item in items]


def _kinds(what: str, kinds: object) -> frozenset[FailureKind]:
    hint = f"give a set of: {', '.join(FailureKind)}"
    if isinstance(kinds, (str, bytes)) or not isinstance(kinds, Collection):
        raise ConfigError(f"{what} is {a_type(kinds)}", what, hint)
    for kind in kinds:
        if not isinstance(kind, str) or kind not in frozenset(FailureKind):
            raise ConfigError(f"`{_short(kind)}` in {what} is no kind of failure", what, hint)
    return frozenset(map(FailureKind, kinds))


def _split_window(text: str) -> tuple[str | None, Calendar | None, str]:
    match = _CALENDAR.fullmatch(text.strip())
    if match is None:
        return text, None, "UTC"
    period: Any = match["period"].lower()
    return None, period, match["tz"] or "UTC"


def _window(what: str, window: Duration | None, calendar: Calendar | None, tz: str) -> Window:
    if calendar is not None:
        if window is not None:
            raise ConfigError(
                f"a {what} has a window and a calendar period", f"{what}_window", "give one of them"
            )
        if calendar not in ("day", "week", "month"):
            raise ConfigError(
                f"`{_short(calendar)}` is no calendar period", f"{what}_window", "use day, week or month"
            )
        return Window(calendar=calendar, tz=tz)
    return Window() if window is None else Window(span_ns(f"the window of a {what}", window, least=1))


def _whole(what: str, value: object, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 2**32:
        raise ConfigError(
            f"{what} is `{_short(value)}`", what, f"use a whole number from {least} to 4294967295"
        )


def _short(value: object) -> str:
    """A value for a message: escaped, and cut so that a hostile one cannot flood a log."""
    text = value if isinstance(value, str) else repr(value)
    text = text.encode("unicode_escape").decode("ascii")
    return text if len(text) <= 60 else text[:59] + "…"
