"""Several guards on one function, one above the other: which of them refused, and what each is called."""

from __future__ import annotations

from collections.abc import Callable
from types import CodeType, TracebackType
from typing import TYPE_CHECKING, Any, Final

from checkrein.errors import Denied, TimedOut

if TYPE_CHECKING:
    from checkrein.engine import Engine
    from checkrein.guard import Handle

# Between the frames of two wrappers only these of ours may stand.
_BETWEEN: Final = frozenset(
    {"checkrein.loops", "checkrein.wait", "checkrein.reconcile", "checkrein.deadline"}
)


def handles_below(function: object) -> tuple[Handle, ...]:
    """Return the handles of the guards that a function consists of, the outermost first.

    It ends at whatever is no guard: a decorator of somebody else in between may do anything.
    """
    from checkrein.guard import Handle

    found: list[Handle] = []
    while True:
        handle = getattr(function, "checkrein", None)
        # `functools.wraps` copies the attribute to wrappers that are not ours.
        if not isinstance(handle, Handle) or handle._code is None:
            return tuple(found)
        if getattr(function, "__code__", None) is not handle._code:
            return tuple(found)
        found.append(handle)
        function = getattr(function, "__wrapped__", None)


def refusals_of(below: tuple[Handle, ...]) -> Callable[[BaseException], bool] | None:
    """Make what says of an exception whether one of these guards refused the call, so that the function never began.

    A refusal that the function itself met, of its own guard even, is none of these: what it had done by then is done.
    """
    codes = [handle._code for handle in below]
    if not codes:
        return None

    def refused(error: BaseException) -> bool:
        if not isinstance(error, Denied) or isinstance(error, TimedOut):
            return False
        return _ends_in(codes, error.__traceback__)

    return refused


def _ends_in(codes: list[CodeType | None], traceback: TracebackType | None) -> bool:
    """Whether a traceback goes from the outer wrapper through these, each of them once, and ends there."""
    passed = 0
    traceback = None if traceback is None else traceback.tb_next
    while traceback is not None:
        frame = traceback.tb_frame
        if passed < len(codes) and frame.f_code is codes[passed]:
            passed += 1
        elif frame.f_globals.get("__name__") not in _BETWEEN:
            return False
        traceback = traceback.tb_next
    return passed > 0


def name_above(engine: Engine, below: tuple[Handle, ...], describe: Callable[[str], Any]) -> tuple[str, Any]:
    """Name a guard after the guards below it, and describe it: it counts on no record of theirs.

    The name is theirs unless a gate of theirs would get the same one; then it is numbered. That depends on nothing but
    the function's own decorators, so that records that outlive the process keep their names.
    """
    taken = {gate for handle in below if handle.engine is engine for gate in handle.policy}
    base, number = below[-1].name, 1
    while True:
        name = base if number == 1 else f"{base}#{number}"
        made = describe(name)
        # Rules keep nothing, and gates that the user named are shared on purpose.
        counting = (
            gate for gate in made[0].gates if gate["kind"] != "rule" and gate["name"] not in made[0].shared
        )
        if not taken.intersection((gate["kind"], gate["name"]) for gate in counting):
            return name, made
        number += 1
