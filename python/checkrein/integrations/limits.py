"""Whether a limit counts here, for calls that nobody can bound before they are made."""

from __future__ import annotations

from typing import TYPE_CHECKING

import checkrein
from checkrein.errors import BudgetExceeded

if TYPE_CHECKING:
    from checkrein.engine import Engine


def is_limited(engine: Engine) -> bool:
    """Whether a budget counts here: one of a policy file, or of a run or scope around the caller."""
    if engine._policy is not None:
        return True
    current = getattr(checkrein, "current_scope", None)
    scope = None if current is None else current()
    while scope is not None:
        if scope.limits:
            return True
        scope = scope.parent
    return False


def refuse_unmetered(engine: Engine, what: str) -> None:
    """Raise BudgetExceeded, with the code `unknown_price`, for a call without a bound where a limit counts."""
    if not is_limited(engine):
        return
    from checkrein._native import Decision, Reason

    text = f"what {what} costs cannot be bounded before it is made, and a limit counts here"
    reason = Reason._restore(("unknown_price", "budget", "model", ("never", 0), ("text", [], text)))
    raise BudgetExceeded(Decision._restore(what, "block", (reason,), (), "D0"))
