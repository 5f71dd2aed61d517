"""Whether a limit counts here, for calls that nobody can bound before they are made."""

from __future__ import annotations

from dataclasses import astuple
from typing import TYPE_CHECKING

import checkrein
from checkrein import _native
from checkrein.errors import BudgetExceeded, Frozen

if TYPE_CHECKING:
    from checkrein.engine import Engine


def refuse_unmetered(engine: Engine, what: str) -> None:
    """Refuse a call without a bound where a limit counts, and any in a run that was stopped.

    Raises BudgetExceeded with the code `unknown_price`, and Frozen.
    """
    scope = checkrein.current_scope()
    why = None if scope is None else scope._closed()
    if why is not None:
        raise Frozen(_native.frozen_decision(what, why))
    if not _is_limited(engine):
        return
    text = f"what {what} costs cannot be bounded before it is made, and a limit counts here"
    reason = _native.Reason._restore(("unknown_price", "budget", "model", ("never", 0), ("text", [], text)))
    raise BudgetExceeded(_native.Decision._restore(what, "block", (reason,), (), "D0"))


def _is_limited(engine: Engine) -> bool:
    """Whether a budget counts: one of a policy file, or of a run or scope around the caller."""
    if engine._policy is not None:
        return True
    scope = checkrein.current_scope()
    while scope is not None:
        if any(limit is not None for limit in astuple(scope.limits)):
            return True
        scope = scope.parent
    return False
