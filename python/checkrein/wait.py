"""`on_block="wait"`: sleep until a refusal may be over, ask again, give up at the deadline."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from checkrein._native import Decision

if TYPE_CHECKING:
    from checkrein.engine import Engine

FIRST_POLL_S: Final = 0.01
"""The first pause before a refusal whose end nobody knows is looked at again; it doubles."""
LAST_POLL_S: Final = 1.0
JITTER: Final = 0.05
"""Waiters for the same instant come back spread over this part of their pause, at most 50 ms."""


def admitter(
    engine: Engine, admit: Callable[..., Any], deadline_s: float, *, is_async: bool, asks_async: bool = False
) -> Callable[..., Any]:
    """Wrap an admission that returns refusals into one that waits for them to end, then raises.

    `asks_async`: the admission itself has to be awaited.
    """

    def pause(decision: Decision, attempt: int, until: float) -> float:
        seconds = _pause(decision, attempt, until - engine.now())
        if seconds is None:
            raise decision._exception()
        return seconds

    def wait(*slots: Any) -> Any:
        until, attempt = engine.now() + deadline_s, 0
        while isinstance(answer := admit(*slots), Decision):
            seconds = pause(answer, attempt, until)
            # time.sleep releases the interpreter and lets Ctrl-C through.
            time.sleep(_real(engine, seconds))
            attempt += 1
        return answer

    async def wait_async(*slots: Any) -> Any:
        # Whoever awaits has asyncio already; nobody else pays for importing it.
        import asyncio

        until, attempt = engine.now() + deadline_s, 0
        while isinstance(answer := await admit(*slots) if asks_async else admit(*slots), Decision):
            seconds = pause(answer, attempt, until)
            await asyncio.sleep(_real(engine, seconds))
            attempt += 1
        return answer

    return wait_async if is_async else wait


def _pause(decision: Decision, attempt: int, left: float) -> float | None:
    """Seconds to sleep; `None` when waiting cannot help within the time that is left."""
    if decision.final or left <= 0:
        return None
    retry = decision.retry_after
    if retry is None:
        return float(min(FIRST_POLL_S * 2 ** min(attempt, 10), LAST_POLL_S, left))
    if retry > left:
        return None
    return min(retry + random.uniform(0.0, min(retry * JITTER, 0.05)), max(left, retry))


def _real(engine: Engine, seconds: float) -> float:
    """Let a fake clock sleep for us: it moves on at once, and nobody really waits."""
    clock = engine.clock
    if clock is None:
        return seconds
    # Round up to the clock's nanoseconds, so that the time waited for has really come.
    clock.advance(seconds + 1e-9)
    return min(seconds, 0.001)
