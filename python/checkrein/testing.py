"""For users' own tests: a clock that is moved by hand, and assertions that say what was decided instead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from checkrein._native import Decision, FakeClock
from checkrein.errors import Denied, a_type

__all__ = ["FakeClock", "assert_allowed", "assert_denied"]


def assert_allowed(decision: Decision) -> Decision:
    """Fail unless the decision allows; return it."""
    if not isinstance(decision, Decision):
        raise TypeError(f"assert_allowed takes a Decision, not {a_type(decision)}")
    if not decision.allowed:
        raise AssertionError(f"`{decision.tool}` was refused: {decision}")
    return decision


def assert_denied(
    subject: Decision | Callable[..., Any], *args: Any, code: str | None = None, **kwargs: Any
) -> Decision:
    """Fail unless a decision refuses, or a call of `subject` with these arguments is refused; return the decision.

    With `code`, one of the reasons must have it.
    """
    if isinstance(subject, Decision):
        decision = subject
    else:
        try:
            result = subject(*args, **kwargs)
        except Denied as denied:
            decision = denied.decision
        else:
            if not isinstance(result, Decision):
                raise AssertionError("the call was allowed")
            decision = result
    if decision.allowed:
        raise AssertionError(f"`{decision.tool}` was allowed")
    codes = [reason.code for reason in decision.reasons]
    if code is not None and code not in codes:
        raise AssertionError(f"`{decision.tool}` was refused for {', '.join(codes)}, not for {code}")
    return decision
