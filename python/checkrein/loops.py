"""Decisions on an event loop: the store's thread commits them, a pipe wakes the loop, and nobody blocks it."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import count
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

from checkrein._native import Bell, Guard, Operation, Permit, Ticket

if TYPE_CHECKING:
    import asyncio

ENDING: Final = 2.0
"""So much longer than for an admission a coroutine waits for the record of an outcome, as a thread does."""


class _Desk:
    """The waits of one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.bell = Bell()
        reader, writer = self.bell.filenos()
        os.set_blocking(reader, False)
        os.set_blocking(writer, False)
        self.numbers = count()
        self.waits: dict[int, asyncio.Future[None]] = {}
        # The loop holds the desk through this, and lets go of it when it is closed.
        loop.add_reader(reader, self._rung)

    def _rung(self) -> None:
        for number in self.bell.take():
            future = self.waits.pop(number, None)
            if future is not None and not future.done():
                future.set_result(None)

    async def wait(self, loop: asyncio.AbstractEventLoop, number: int, patience_s: float) -> None:
        """Wait until the bell rings with a number, but not for ever."""
        future = self.waits[number]
        timer = loop.call_later(patience_s, _give_up, future)
        try:
            await future
        finally:
            timer.cancel()
            self.waits.pop(number, None)


def _give_up(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


_desks: WeakKeyDictionary[asyncio.AbstractEventLoop, _Desk] = WeakKeyDictionary()


def _begin() -> tuple[asyncio.AbstractEventLoop, _Desk, int]:
    # Whoever awaits has asyncio already; nobody else pays for importing it.
    import asyncio

    loop = asyncio.get_running_loop()
    desk = _desks.get(loop)
    if desk is None:
        desk = _desks[loop] = _Desk(loop)
    number = next(desk.numbers)
    desk.waits[number] = loop.create_future()
    return loop, desk, number


def admitter(guard: Guard) -> Callable[..., Any]:
    """Make the admission that coroutines await where a decision waits for a disk.

    A store that does not answer in time counts as gone, and what comes late is given back. A caller that is cancelled
    meanwhile leaves nothing behind: what was admitted for it is given back.
    """

    patience_s = guard._patience_s

    async def admit(*slots: Any) -> Any:
        loop, desk, number = _begin()
        answer: Any = None
        try:
            answer = guard._submit(desk.bell, number, *slots)
            if answer.__class__ is not Ticket:
                return answer
            await desk.wait(loop, number, patience_s)
        except BaseException:
            if answer.__class__ is Ticket:
                answer.abandon()
            raise
        finally:
            desk.waits.pop(number, None)
        return answer.answer()

    return admit


async def resolve(doubt: Operation, state: str, stored: bytes | None) -> Operation | None:
    """Record what became of an operation; returns it as it is now, or nothing if its run was not in doubt any more."""
    loop, desk, number = _begin()
    try:
        resolving = doubt._resolve_later(desk.bell, number, state, stored)
        # The answer is about one run: it is as true when whoever waits for its record is cancelled.
        await desk.wait(loop, number, ENDING * doubt._patience_s)
        return resolving.answer()
    finally:
        desk.waits.pop(number, None)


async def done(permit: Permit, result: Any) -> Any:
    """End a call that returned; returns its result when that is on the disk."""
    loop, desk, number = _begin()
    try:
        ending = permit._done_later(desk.bell, number, result)
        if ending.waits:
            # The tool ran: what a cancellation interrupts here is only the wait for its record.
            await desk.wait(loop, number, ENDING * permit._patience_s)
        return ending.answer()
    finally:
        desk.waits.pop(number, None)
