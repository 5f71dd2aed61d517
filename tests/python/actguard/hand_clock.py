"""Time that is moved by hand: a clock, and threads that have started when they are asked to."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any


@dataclass
class Clock:
    """Stands still until a test moves it; called like `time.time`."""

    now: float = 1_000.0

    def __call__(self) -> float:
        return self.now


class Prompt(Executor):
    """An executor whose `submit` returns when the call is running, so that no time-out comes before its start."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run a call in a thread of its own."""
        future: Future[Any] = Future()
        running = threading.Event()

        def work() -> None:
            future.set_running_or_notify_cancel()
            running.set()
            try:
                future.set_result(fn(*args, **kwargs))
            except BaseException as error:
                future.set_exception(error)

        threading.Thread(target=work, daemon=True).start()
        assert running.wait(60)
        return future
