"""The threads in which timed tools run: a hung one is left behind, and another takes the next call."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, Final

from checkrein.actguard.core import inherit

MAX_IDLE: Final = 8
"""Threads kept for the next call."""
MAX_THREADS: Final = 256
"""Threads at once, hung ones included; beyond it calls wait for one, and their time counts."""

Work = tuple["Future[Any]", Callable[..., Any], tuple[Any, ...], dict[str, Any]]


class Pool(Executor):
    """An executor whose threads keep neither each other nor the end of the process waiting."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[Work] = deque()
        self._threads = 0
        self._idle = 0
        self._closed = False
        self._running: set[Future[Any]] = set()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run `fn` in a thread that is idle, or in a new one."""
        future: Future[Any] = Future()
        with self._changed:
            if self._closed:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self._waiting.append((future, fn, args, kwargs))
            if self._idle >= len(self._waiting):
                self._changed.notify()
            elif self._threads < MAX_THREADS:
                try:
                    self._start()
                except RuntimeError:
                    # No more threads to be had: one of ours will come, if there is any.
                    if not self._threads:
                        self._waiting.pop()
                        raise
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; with `wait`, wait for those that somebody still waits for, not for abandoned ones."""
        with self._changed:
            self._closed = True
            if cancel_futures:
                for future, *_ in self._waiting:
                    future.cancel()
                self._waiting.clear()
            self._changed.notify_all()
            if wait:
                self._changed.wait_for(lambda: not self._waiting and not self._running)

    def forget(self, future: Future[Any]) -> None:
        """Say that nobody waits for a call any more."""
        with self._changed:
            self._running.discard(future)
            self._changed.notify_all()

    def _start(self) -> None:
        thread = threading.Thread(target=self._work, name="actguard-timeout", daemon=True)
        before = getattr(inherit._submitting, "now", False)
        # The thread outlives the run that happens to need it: its calls are in a run, it is not.
        inherit._submitting.now = True
        try:
            thread.start()
        finally:
            inherit._submitting.now = before
        self._threads += 1

    def _work(self) -> None:
        while (work := self._next()) is not None:
            future, fn, args, kwargs = work
            del work
            # A call that was given up while it waited never starts.
            if future.set_running_or_notify_cancel():
                try:
                    result = fn(*args, **kwargs)
                except BaseException as error:
                    future.set_exception(error)
                    del error
                else:
                    future.set_result(result)
                    del result
            self.forget(future)
            del future, fn, args, kwargs

    def _next(self) -> Work | None:
        with self._changed:
            if not self._waiting and (self._idle >= MAX_IDLE or self._closed):
                self._threads -= 1
                return None
            self._idle += 1
            self._changed.wait_for(lambda: self._waiting or self._closed)
            self._idle -= 1
            if not self._waiting:
                self._threads -= 1
                return None
            work = self._waiting.popleft()
            self._running.add(work[0])
            return work
