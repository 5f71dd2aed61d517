"""Lets threads and thread pools that are started inside a run work in that run.

A new thread has an empty context, so without this a run would end at the edge of its thread. What is inherited is
looked up only where the thread has no run of its own, and never after the run has ended: there is no run of "the
process".
"""

from __future__ import annotations

import asyncio
import functools
import sys
import threading
from asyncio import _get_running_loop as get_running_loop
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from threading import get_ident
from typing import Any, Protocol

ExecutionKey = tuple[int, int | None]


def execution_key() -> ExecutionKey:
    """Return what identifies this path of execution: the thread, and the task if there is one."""
    loop = get_running_loop()
    task = None if loop is None else asyncio.current_task(loop)
    return (get_ident(), None if task is None else id(task))


def is_here(key: ExecutionKey) -> bool:
    """Whether a key is that of this path of execution."""
    if key[0] != get_ident():
        return False
    loop = get_running_loop()
    return key[1] is None if loop is None else key[1] == id(asyncio.current_task(loop))


class Source(Protocol):
    """What a thread inherits from the one that started it."""

    @property
    def ended(self) -> bool:
        """Whether it is over."""
        ...


_sources: dict[str, Callable[[], Source | None]] = {}
_for_task: ContextVar[dict[str, Source] | None] = ContextVar("_for_task", default=None)
_submitting = threading.local()
_installing = threading.Lock()
_installed = False
_covered: list[type] = []
"""Kinds of pools that hand runs on already; other layers may cover them as well."""


def inherit(kind: str, source: Callable[[], Source | None]) -> None:
    """Let threads inherit what `source` says is current where they are started."""
    _sources[kind] = source


def inherited(kind: str) -> Any:
    """Return what this thread was started with, unless it has ended, or `None`."""
    of_task = _for_task.get()
    if of_task is None:
        of_task = getattr(threading.current_thread(), "_actguard_inherited", None)
    found = of_task.get(kind) if of_task else None
    return None if found is None or found.ended else found


def install() -> None:
    """Begin to hand runs on. Idempotent; costs threads that are started outside runs one look each."""
    global _installed
    with _installing:
        if _installed:
            return
        threading.Thread.start = _starting(threading.Thread.start)  # type: ignore[method-assign]
        ThreadPoolExecutor.submit = _submit(ThreadPoolExecutor.submit)  # type: ignore[method-assign]
        _cover_pools()
        _installed = True


def _cover_pools() -> None:
    """Do the same for `multiprocessing.pool.ThreadPool`, if the program uses that: it is slow to import."""
    pools = sys.modules.get("multiprocessing.pool")
    pool = getattr(pools, "ThreadPool", None)
    if pool is None or pool in _covered:
        return
    _covered.append(pool)
    # Everything else that a pool can do goes through one of these.
    for name in ("apply_async", "_map_async", "imap", "imap_unordered"):
        setattr(pool, name, _handing_over(getattr(pool, name)))


def _handing_over(submit: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(submit)
    def submit_in_run(self: Any, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        current = _current()
        return submit(self, _task(func, current) if current else func, *args, **kwargs)

    return submit_in_run


def _is_pooled(thread: threading.Thread) -> bool:
    if getattr(getattr(thread, "_target", None), "__module__", "") != "multiprocessing.pool":
        return False
    _cover_pools()
    return True


def _current() -> dict[str, Source]:
    found = {kind: source() for kind, source in _sources.items()}
    return {kind: source for kind, source in found.items() if source is not None}


def _starting(start: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(start)
    def start_in_run(self: threading.Thread) -> None:
        # The threads of a pool outlive the run that happened to need one more: their tasks inherit, they do not.
        if not getattr(_submitting, "now", False) and not _is_pooled(self):
            current = _current()
            if current:
                self._actguard_inherited = current  # type: ignore[attr-defined]
        start(self)

    return start_in_run


def _submit(submit: Callable[..., Future[Any]]) -> Callable[..., Future[Any]]:
    @functools.wraps(submit)
    def submit_in_run(self: ThreadPoolExecutor, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        before = getattr(_submitting, "now", False)
        _submitting.now = True
        try:
            current = _current()
            return submit(self, _task(fn, current) if current else fn, *args, **kwargs)
        finally:
            _submitting.now = before

    return submit_in_run


def _task(fn: Callable[..., Any], current: dict[str, Source]) -> Callable[..., Any]:
    def task(*args: Any, **kwargs: Any) -> Any:
        token = _for_task.set(current)
        try:
            return fn(*args, **kwargs)
        finally:
            _for_task.reset(token)

    return task
