"""The operation that runs now: what a function behind a once gate can ask about itself."""

from __future__ import annotations

from contextvars import ContextVar, Token
from weakref import ref

from checkrein._native import Operation, Permit
from checkrein.errors import CheckreinError

# Weak: a call that is interrupted before it can leave must end, and what it started may outlive it.
_running: ContextVar[ref[Permit]] = ContextVar("checkrein_operation")


def current_operation() -> Operation:
    """Return the operation of the innermost function with a once gate that runs in this context.

    Its `idempotency_key` is what to send along: the same for every attempt of the operation, in every process.

    Raises CheckreinError outside of such a function, in what it left running, and in threads without its context.
    """
    running = _running.get(None)
    permit = None if running is None else running()
    if permit is None:
        raise CheckreinError("no operation runs here (hint: call it in a function guarded with once=)")
    return permit.operation


def enter(permit: Permit) -> Token[ref[Permit]]:
    """Begin a call, in a wrapper."""
    return _running.set(ref(permit))


def enter_if_once(permit: Permit) -> Token[ref[Permit]] | None:
    """Begin a call whose once key is up to a policy file."""
    return enter(permit) if permit.once else None


def leave_if_once(token: Token[ref[Permit]] | None) -> None:
    """End such a call."""
    if token is not None:
        leave(token)


def leave(token: Token[ref[Permit]]) -> None:
    """End a call, in a wrapper."""
    # `contextlib.suppress` would cost as much as the rest of the call.
    try:  # noqa: SIM105
        _running.reset(token)
    except ValueError:  # A coroutine may be closed by somebody else's context, which never entered.
        pass
