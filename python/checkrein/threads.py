"""Threads and thread pools that begin inside a run are inside it.

Tasks inherit the context they are made in; threads begin with an empty one (until Python 3.14 lets them inherit too),
and a call in one would slip out of the run's limits unseen. Entering the first run therefore puts a thin layer over
`threading.Thread.start` and `ThreadPoolExecutor.submit`, which carries the run along and nothing else.
"""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable
from typing import Any

_lock = threading.Lock()
_installed = False


def inherit() -> None:
    """Have threads and thread pools inherit the current run; once for a process."""
    global _installed
    if _installed:
        _inherit_in_pools()
        return
    with _lock:
        if not _installed:
            from concurrent.futures import ThreadPoolExecutor

            threading.Thread.start = _starting(threading.Thread.start)  # type: ignore[method-assign]
            ThreadPoolExecutor.submit = _submitting(ThreadPoolExecutor.submit)  # type: ignore[method-assign]
            _installed = True
    _inherit_in_pools()


def _inherit_in_pools() -> None:
    """Do the same for `multiprocessing.pool.ThreadPool`, once somebody has imported it."""
    pools: Any = sys.modules.get("multiprocessing.pool")
    if pools is None or hasattr(pools.ThreadPool, "_checkrein"):
        return
    with _lock:
        if not hasattr(pools.ThreadPool, "_checkrein"):
            for name in ("apply_async", "_map_async", "imap", "imap_unordered"):
                setattr(pools.ThreadPool, name, _pooling(getattr(pools.ThreadPool, name)))
            pools.ThreadPool._checkrein = True


def _carried() -> tuple[Any, Any] | None:
    """Return what a new thread has to take along; `None` outside every run."""
    from checkrein.acting import _NOBODY, actor
    from checkrein.scopes import current_scope

    current = current_scope()
    names = current._names if current is not None and current._names == actor() else actor()
    return None if current is None and names == _NOBODY else (current, names)


def _within(carried: tuple[Any, Any], call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    from checkrein.acting import _acting
    from checkrein.scopes import _current

    # A worker of a pool has work of several runs, one after the other: each leaves as it came.
    tokens = (_current.set(carried[0]), _acting.set(carried[1]))
    try:
        return call(*args, **kwargs)
    finally:
        _current.reset(tokens[0])
        _acting.reset(tokens[1])


def _starting(start: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(start)
    def begin(self: threading.Thread) -> None:
        _inherit_in_pools()
        carried = _carried()
        # A pool's own workers outlive the call that happened to start them: their work brings its run along.
        if carried is not None and not _is_pooled(self):
            self.run = functools.partial(_within, carried, self.run)  # type: ignore[method-assign]
        start(self)

    return begin


def _submitting(submit: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(submit)
    def hand_over(self: Any, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        carried = _carried()
        if carried is None:
            return submit(self, fn, *args, **kwargs)
        future = submit(self, _within, carried, fn, *args, **kwargs)
        add = future.add_done_callback
        # What is called when it is done belongs to the same run as what it waits for.
        future.add_done_callback = lambda call: add(functools.partial(_within, carried, call))
        return future

    return hand_over


def _pooling(hand: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(hand)
    def hand_over(self: Any, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        carried = _carried()
        call = func if carried is None else functools.partial(_within, carried, func)
        return hand(self, call, *args, **kwargs)

    return hand_over


def _is_pooled(thread: threading.Thread) -> bool:
    target = getattr(thread, "_target", None)
    # Worker loops of thread pools, of asyncio's default one too, and of our own timeouts.
    return getattr(target, "__module__", "") in (
        "concurrent.futures.thread",
        "multiprocessing.pool",
        "checkrein.deadline",
    )
