"""Taking turns on stores that are not ours: one record at a time per trail, whatever thread or loop asks."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import weakref
from collections import deque
from collections.abc import Hashable
from types import TracebackType


class LoopLock:
    """A lock to await that serves waiters of any event loop in order of arrival."""

    __slots__ = ("_guard", "_held", "_waiters")

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._held = False
        self._waiters: deque[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = deque()

    async def __aenter__(self) -> None:
        loop = asyncio.get_running_loop()
        with self._guard:
            if not self._held:
                self._held = True
                return
            turn: asyncio.Future[None] = loop.create_future()
            self._waiters.append((loop, turn))
        try:
            await turn
        except BaseException:
            with self._guard:
                handed_over = (loop, turn) not in self._waiters
                if not handed_over:
                    self._waiters.remove((loop, turn))
            if handed_over:
                self._release()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._release()

    def _release(self) -> None:
        with self._guard:
            while self._waiters:
                loop, turn = self._waiters.popleft()
                try:
                    loop.call_soon_threadsafe(_wake, turn)
                except RuntimeError:
                    continue  # that loop is closed, and its waiter with it
                return
            self._held = False


def _wake(turn: asyncio.Future[None]) -> None:
    if not turn.done():
        turn.set_result(None)


class TrailTurns:
    """The locks of one trail in one store, and the sequence number that comes next at the least."""

    __slots__ = ("awaited", "blocking", "next_sequence")

    def __init__(self) -> None:
        self.blocking = threading.RLock()
        self.awaited = LoopLock()
        self.next_sequence = 0


class StoreTurns:
    """What all engines on one store share about it."""

    __slots__ = ("_guard", "_trails")

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._trails: dict[Hashable, TrailTurns] = {}

    def of(self, trail: Hashable) -> TrailTurns:
        """Return the turns of one trail."""
        with self._guard:
            return self._trails.setdefault(trail, TrailTurns())

    def restart(self, trail: Hashable) -> None:
        """Let one trail begin at 0 again."""
        with self._guard:
            if trail in self._trails:
                self._trails[trail].next_sequence = 0

    def restart_all(self) -> None:
        """Let every trail begin at 0 again."""
        with self._guard:
            for turns in self._trails.values():
                turns.next_sequence = 0


_guard = threading.Lock()
_known: dict[int, tuple[weakref.ref[object], StoreTurns]] = {}


def turns_of(store: object) -> StoreTurns:
    """Return what is shared about `store`; a store without weak references gets its own each time."""
    with _guard:
        found = _known.get(id(store))
        if found is not None and found[0]() is store:
            return found[1]
        turns = StoreTurns()
        key = id(store)

        def forget(gone: weakref.ref[object]) -> None:
            if _known.get(key, (None,))[0] is gone:
                del _known[key]

        with contextlib.suppress(TypeError):
            _known[key] = (weakref.ref(store, forget), turns)
        return turns
