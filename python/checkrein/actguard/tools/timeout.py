"""`timeout`: bounds how long a caller waits for a tool."""

from __future__ import annotations

import contextvars
import inspect
import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, TypeVar

from checkrein._wrap import wrap
from checkrein.actguard.core import inherit
from checkrein.actguard.core.run_context import get_run_state
from checkrein.actguard.exceptions import TimeoutUsageError, ToolTimeoutError
from checkrein.actguard.tools import _observability
from checkrein.actguard.tools._names import name_of
from checkrein.actguard.tools._pool import Pool
from checkrein.actguard.tools._refusals import mark_not_started

log = logging.getLogger("actguard.tools.timeout")

F = TypeVar("F", bound=Callable[..., Any])

_executor: Pool | None = None
_executor_lock = threading.Lock()


def _get_executor() -> Pool:
    """Return the shared pool, made at its first use."""
    global _executor
    with _executor_lock:
        if _executor is None:
            _executor = Pool()
        return _executor


def shutdown(wait: bool = True) -> None:
    """Close the shared pool of timed tools; the next one makes a new pool. Tools that hang are not waited for."""
    global _executor
    with _executor_lock:
        pool, _executor = _executor, None
    if pool is not None:
        pool.shutdown(wait=wait)


def timeout(seconds: float, executor: Executor | None = None) -> Callable[[F], F]:
    """Decorator: raise ToolTimeoutError when a tool takes longer than `seconds`.

    An async tool is cancelled. A sync one runs in a thread of `executor`, or of a shared pool in which hung tools hold
    up nobody; waiting for a thread counts, and a call that never got one does not start later. What runs cannot be
    stopped: it goes on, and what it did is unknown. Raises TimeoutUsageError for generator functions and for a time
    that is none.
    """
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not seconds >= 0:
        raise TimeoutUsageError(f"@timeout: seconds must be a number >= 0, got {seconds!r}")

    def decorate(function: F) -> F:
        return _timed(function, seconds, executor)  # type: ignore[no-any-return]

    return decorate


def _timed(fn: Callable[..., Any], seconds: float, executor: Executor | None) -> Any:
    name, original = name_of(fn), inspect.unwrap(fn)
    if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
        raise TimeoutUsageError(f"@timeout does not support generator functions: {name}")

    def expired(how: str, started: bool) -> ToolTimeoutError:
        state = get_run_state()
        run_id = None if state is None else state.run_id
        log.warning("actguard timeout %s tool=%s timeout_s=%s run_id=%s", how, name, seconds, run_id)
        error = ToolTimeoutError(name, seconds, run_id)
        if not started:
            mark_not_started(error, original)
        _observability.emit_guard_intervention(name, "timeout", extra={"timeout_s": seconds})
        return error

    def run(*args: Any, **kwargs: Any) -> Any:
        pool = _get_executor() if executor is None else executor
        context = contextvars.copy_context()
        inherited = inherit._current()
        if inherited:
            # What this thread inherited is not in its context; the tool's thread needs it, too.
            context.run(inherit._for_task.set, inherited)
        future = pool.submit(context.run, fn, *args, **kwargs)
        result = _wait(pool, future, seconds, expired)
        if inspect.isgenerator(result) or inspect.isasyncgen(result):
            raise TimeoutUsageError(f"@timeout: tool '{name}' returned a generator; streaming not supported")
        return result

    async def run_async(*args: Any, **kwargs: Any) -> Any:
        # Whoever awaits has asyncio already; nobody else pays for importing it.
        import asyncio

        try:
            async with asyncio.timeout(seconds) as scope:
                result = await fn(*args, **kwargs)
        except TimeoutError as error:
            if not scope.expired():
                raise
            raise expired("async_cancelled", started=True) from error
        return result

    if inspect.iscoroutinefunction(fn):
        return wrap(fn, "return await $run(PASSED)", {"run": run_async}, is_async=True)
    return wrap(fn, "return $run(PASSED)", {"run": run})


def _wait(
    pool: Executor, future: Future[Any], seconds: float, expired: Callable[[str, bool], ToolTimeoutError]
) -> Any:
    try:
        return future.result(seconds)
    except TimeoutError:
        if future.done() and not future.cancelled():
            # The tool's own error, or it has just ended.
            return future.result()
        started = not future.cancel()
        if isinstance(pool, Pool):
            pool.forget(future)
        raise expired("sync_zombie_detached" if started else "sync_not_started", started) from None
    except BaseException:
        # Ctrl-C: what has not started never will.
        future.cancel()
        if isinstance(pool, Pool):
            pool.forget(future)
        raise


def _after_fork() -> None:
    """In a forked child the threads are gone."""
    global _executor, _executor_lock
    _executor, _executor_lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
