"""Cases of the unified API, and what they are compared with: a bare call, an empty decorator, four stacked guards."""

from __future__ import annotations

import functools
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from dropins import Prepared, _calling, async_tool, tool

WINDOW_NS = 2_000
"""A window so short that the calls of a tight loop leave at most sixteen in it; the engine's own clock."""

NATIVE_RULES = (
    "limit <= 100",
    "limit > 0",
    "user != ''",
    "size(text) < 200",
    "!text.contains('ssn')",
)
PYTHON_RULES: tuple[Callable[..., bool], ...] = (
    lambda limit: limit <= 100,
    lambda limit: limit > 0,
    lambda user: user != "",
    lambda text: len(text) < 200,
    lambda text: "ssn" not in text,
)


def _limit(max_calls: int = 64) -> Any:
    from checkrein import Rate

    return Rate(max_calls, window=f"{WINDOW_NS}ns")


def bare(_what: str) -> Prepared:
    """The function itself."""
    return Prepared(_calling(tool))


def bare_await(_what: str) -> Prepared:
    """The coroutine function itself."""
    return Prepared(_calling(async_tool), awaits=True)


def passed_through(_what: str) -> Prepared:
    """An empty decorator, as it is usually written."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        return wrapper

    return Prepared(_calling(decorate(tool)))


def guard(what: str) -> Prepared:
    """`engine.guard` with the gates that `what` names."""
    from checkrein import Budget, Engine

    engine = Engine()
    options: dict[str, Any] = {"rate": _limit()}
    if what == "keyed":
        options["key"] = "user"
    if what in ("budget", "python", "native", "audited"):
        options["budget"] = Budget("1000000000 usd", window="1h")
        options["cost"] = Decimal("0.01")
    if what in ("python", "audited"):
        options["rules"] = PYTHON_RULES
    if what == "native":
        options["rules"] = NATIVE_RULES
    decorated = engine.guard(**options)(async_tool if what == "async" else tool)
    if what == "audited":
        return _audited(decorated)
    return Prepared(_calling(decorated), awaits=what == "async")


def _audited(decorated: Callable[..., Any]) -> Prepared:
    """The unified guard inside our drop-in's `guard`, which writes the entry that the four stacked ones write too."""
    from checkrein import auditgate

    engine = auditgate.Engine()
    trail = auditgate.Trail("bench", "tool", "user:1")
    return Prepared(_calling(engine.guard(trail)(decorated)), clear=engine.clear_all)


MAKERS: dict[str, Callable[[str], Prepared]] = {
    "bare call": bare,
    "bare await": bare_await,
    "functools.wraps pass-through": passed_through,
    "guard": guard,
}
