"""`timeout=`: bounds how long a caller waits, and records what comes later."""

from __future__ import annotations

import contextvars
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Final

from checkrein import _native
from checkrein.errors import NotExecuted, TimedOut

_log = logging.getLogger("checkrein")

MAX_IDLE: Final = 8
"""Worker threads kept for the next call."""
MAX_THREADS: Final = 256
"""Worker threads at once, hung ones included; beyond it a call is not started."""


@dataclass(frozen=True, slots=True)
class TimeoutWorkers:
    """The threads behind `timeout=` of functions that are not async.

    `running` have a caller that waits, `hung` have one that gave up, `idle` wait for work. `abandoned` counts the
    calls that ever outlived their callers' patience, `not_started` those that were never begun because of it.
    """

    running: int
    hung: int
    idle: int
    abandoned: int
    not_started: int


def timeout_workers() -> TimeoutWorkers:
    """Return how many threads `timeout=` keeps in this process, and how many of them hang."""
    return _workers.status()


Tell = Callable[[str, str, dict[str, Any]], None]
"""Announces an event of a tool: its name, the tool, and what else is to say."""


def _tell_nobody(name: str, tool: str, detail: dict[str, Any]) -> None:
    pass


def timed(
    tool: str, seconds: float, *, is_async: bool, fails: bool = True, tell: Tell = _tell_nobody
) -> Callable[..., Any]:
    """Make what a wrapper calls instead of its function: `timed(permit, function, *args, **kwargs)`.

    `fails` says whether a breaker counts the end of the time as a failure.
    """

    def expired(permit: Any, started: bool = True) -> TimedOut:
        if permit is not None and started:
            permit.in_doubt(fails)
        elif permit is not None:
            permit.not_started()
        return TimedOut(_native.timeout_decision(tool, seconds))

    def run(permit: Any, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        call = _Call(permit, function, args, kwargs, lambda late: tell("outcome.late", tool, late))
        _workers.start(call)
        try:
            in_time = call.ended.wait(seconds)
        except BaseException:  # Ctrl-C: the worker goes on without us
            call.abandon(lambda started: permit is not None and expired(permit, started))
            raise
        if not in_time:
            error: list[TimedOut] = []
            if call.abandon(lambda started: error.append(expired(permit, started))):
                tell("outcome.timed_out", tool, {"seconds": seconds, "started": call.started})
                raise error[0]
        return call.outcome()

    async def run_async(permit: Any, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        # Whoever awaits has asyncio already; nobody else pays for importing it.
        import asyncio

        try:
            async with asyncio.timeout(seconds) as scope:
                return await function(*args, **kwargs)
        except TimeoutError as error:
            if not scope.expired():
                raise
            refusal = expired(permit)
            tell("outcome.timed_out", tool, {"seconds": seconds, "started": True})
            raise refusal from error

    return run_async if is_async else run


def timed_by_file(
    tool: str, own: float | None, *, is_async: bool, fails: bool = True, tell: Tell = _tell_nobody
) -> Callable[..., Any]:
    """Make the same for a function whose timeout a policy file may set or change: the shorter one counts."""
    made: dict[float, Callable[..., Any]] = {}

    def of(permit: Any) -> Callable[..., Any] | None:
        filed = permit.timeout_s
        seconds = own if filed is None else filed if own is None else min(own, filed)
        if seconds is None:
            return None
        if seconds not in made:
            made[seconds] = timed(tool, seconds, is_async=is_async, fails=fails, tell=tell)
        return made[seconds]

    def run(permit: Any, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        bounded = of(permit)
        return function(*args, **kwargs) if bounded is None else bounded(permit, function, *args, **kwargs)

    async def run_async(permit: Any, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        bounded = of(permit)
        if bounded is None:
            return await function(*args, **kwargs)
        return await bounded(permit, function, *args, **kwargs)

    return run_async if is_async else run


class _Call:
    """One call on its way through a worker thread."""

    def __init__(
        self,
        permit: Any,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        tell: Callable[[dict[str, Any]], None],
    ) -> None:
        self.permit = permit
        self.tell = tell
        self.work = (function, args, kwargs)
        self.context = contextvars.copy_context()
        self.ended = threading.Event()
        self.lock = threading.Lock()
        self.started = False
        self.abandoned = False
        self.result: Any = None
        self.error: BaseException | None = None

    def run(self) -> None:
        """Run in the worker unless the caller is gone; if it went meanwhile, record the late outcome."""
        function, args, kwargs = self.work
        with self.lock:
            if self.abandoned:
                return
            self.started = True
        try:
            result, error = self.context.run(function, *args, **kwargs), None
        except BaseException as raised:
            result, error = None, raised
        with self.lock:
            self.result, self.error = result, error
            self.ended.set()
            late = self.abandoned
        if late:
            # On behalf of whoever called.
            self.context.run(self._end_late, result, error)

    def _end_late(self, result: Any, error: BaseException | None) -> None:
        try:
            if self.permit is not None and error is None:
                self.permit.done(result)
            elif self.permit is not None:
                self.permit.late_failed(error)
        finally:
            self.tell({"error": None if error is None else type(error).__qualname__})

    def abandon(self, first: Callable[[bool], object]) -> bool:
        """Leave the call to its worker unless it has just ended; `first` runs before a late outcome can.

        `first` is told whether the function was begun; if it was not, it never will be.
        """
        with self.lock:
            if self.ended.is_set():
                return False
            self.abandoned = True
            _workers.note_abandoned(self.started)
            first(self.started)
            return True

    def outcome(self) -> Any:
        """Return or raise what the function did."""
        error, self.error = self.error, None
        if error is None:
            return self.result
        try:
            raise error
        finally:
            del error  # no cycle through the traceback's frame


class _Workers:
    """Daemon threads: a hung one is left behind, and another takes the next call."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.idle: list[SimpleQueue[_Call | None]] = []
        self.count = 0
        self.hung = 0
        self.abandoned = 0
        self.not_started = 0

    def start(self, call: _Call) -> None:
        """Give the call to an idle worker or to a new one."""
        with self.lock:
            if self.idle:
                inbox = self.idle.pop()
            else:
                if self.count >= MAX_THREADS:
                    raise NotExecuted(
                        f"{MAX_THREADS} calls with a timeout are running or hung; this one was not started"
                    )
                self.count += 1
                inbox = SimpleQueue()
                thread = threading.Thread(
                    target=self._work, args=(inbox,), name="checkrein-timeout", daemon=True
                )
                try:
                    thread.start()
                except RuntimeError as error:
                    self.count -= 1
                    raise NotExecuted(f"no thread for a call with a timeout: {error}") from error
        inbox.put(call)

    def status(self) -> TimeoutWorkers:
        """Count them."""
        with self.lock:
            running = self.count - self.hung - len(self.idle)
            return TimeoutWorkers(running, self.hung, len(self.idle), self.abandoned, self.not_started)

    def note_abandoned(self, started: bool) -> None:
        """Count a call whose caller gave up."""
        with self.lock:
            self.abandoned += 1
            self.hung += started
            self.not_started += not started

    def _work(self, inbox: SimpleQueue[_Call | None]) -> None:
        while (call := inbox.get()) is not None:
            try:
                call.run()
            except BaseException:  # Ctrl-C or exit in a hook of a late outcome: nobody is there to hear of it
                _log.exception("the late outcome of a call was not recorded")
            was_hung = call.started and call.abandoned
            del call
            with self.lock:
                self.hung -= was_hung
                if len(self.idle) >= MAX_IDLE:
                    self.count -= 1
                    return
                self.idle.append(inbox)


_workers = _Workers()


def _forget_workers() -> None:
    """In a forked child the threads are gone."""
    global _workers
    _workers = _Workers()
