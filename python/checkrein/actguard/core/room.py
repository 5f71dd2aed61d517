"""Waiting until what other calls hold is settled."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any


class Room:
    """Wakes those who wait for room in a budget, threads and tasks alike."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._waiting: list[Callable[[], None]] = []
        self.calls: list[Any] = []

    def changed(self) -> None:
        """Wake everybody: something was settled."""
        with self.lock:
            waiting, self._waiting = self._waiting, []
        for wake in waiting:
            wake()

    def bell(self) -> threading.Event:
        """Return an event that is set at the next change. Call it with the lock held."""
        event = threading.Event()
        self._waiting.append(event.set)
        return event

    def future(self) -> asyncio.Future[None]:
        """Return a future of the running loop that is done at the next change. Call it with the lock held."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()

        def ring() -> None:
            if not future.done():
                future.set_result(None)

        def wake() -> None:
            # A loop that is closed has nobody left to wake.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(ring)

        self._waiting.append(wake)
        return future

    def leave(self, wake: Callable[[], None]) -> None:
        """Stop waiting."""
        with self.lock:
            if wake in self._waiting:
                self._waiting.remove(wake)
