"""Streamed replies: read as their SDK hands them out, and counted once however they end."""

from __future__ import annotations

import inspect
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

if TYPE_CHECKING:
    from checkrein.actguard.integrations.accounting import CallHold
    from checkrein.actguard.integrations.usage import UsageInfo


class Reading(Protocol):
    """What a dialect reads out of the pieces of a stream."""

    final: bool
    """Whether what was reported is the last word, although pieces may follow."""
    last: Any
    """The piece that reported, for the price book."""

    def feed(self, piece: Any) -> bool:
        """Take a piece; returns whether whoever reads the stream gets it."""

    def info(self) -> UsageInfo | None:
        """Return what was reported so far."""

    def estimate(self) -> UsageInfo:
        """Return what a stream that ends without a report has used, as far as one can tell."""


class _Stream:
    """What both kinds share. Whatever is not about reading is the SDK's own stream."""

    def __init__(self, inner: Any, held: CallHold, reading: Reading) -> None:
        self._inner = inner
        self._held = held
        self._reading = reading

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in ("_inner", "_held", "_reading"):
            raise AttributeError(name)
        return getattr(self._inner, name)

    def _take(self, piece: Any) -> bool:
        shown = self._reading.feed(piece)
        if self._reading.final:
            self._settle()
        return shown

    def _settle(self) -> None:
        info = self._reading.info()
        if info is None or (self._held.holds and not info.tokens):
            self._held.settle(self._reading.estimate())
        else:
            self._held.settle(info, self._reading.last)

    def __del__(self) -> None:
        held = self.__dict__.get("_held")
        if held is not None and held.is_open:
            self._settle()


class SyncStream(_Stream):
    """A stream that a thread reads: `for`, `next()`, `with`, `close()`."""

    def __init__(self, inner: Any, held: CallHold, reading: Reading) -> None:
        super().__init__(inner, held, reading)
        self._pieces = iter(inner)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        while True:
            try:
                piece = next(self._pieces)
            except BaseException:
                self._settle()
                raise
            if self._take(piece):
                return piece

    def __enter__(self) -> Self:
        enter = getattr(self._inner, "__enter__", None)
        if callable(enter):
            enter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Any:
        leave = getattr(self._inner, "__exit__", None)
        try:
            return leave(kind, error, trace) if callable(leave) else None
        finally:
            self._settle()

    def close(self) -> None:
        """Close the stream; what came of it is counted."""
        try:
            close = getattr(self._inner, "close", None)
            if callable(close):
                close()
        finally:
            self._settle()


class AsyncStream(_Stream):
    """A stream that a coroutine reads: `async for`, `anext()`, `async with`, `close()`."""

    def __init__(self, inner: Any, held: CallHold, reading: Reading) -> None:
        super().__init__(inner, held, reading)
        self._pieces = aiter(inner)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        while True:
            try:
                piece = await anext(self._pieces)
            except BaseException:
                self._settle()
                raise
            if self._take(piece):
                return piece

    async def __aenter__(self) -> Self:
        enter = getattr(self._inner, "__aenter__", None)
        if callable(enter):
            await enter()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Any:
        leave = getattr(self._inner, "__aexit__", None)
        try:
            return await leave(kind, error, trace) if callable(leave) else None
        finally:
            self._settle()

    async def close(self) -> None:
        """Close the stream; what came of it is counted."""
        try:
            close = getattr(self._inner, "close", None) or getattr(self._inner, "aclose", None)
            if callable(close):
                closing = close()
                if inspect.isawaitable(closing):
                    await closing
        finally:
            self._settle()

    aclose = close


def said(value: Any, depth: int = 0) -> int:
    """Return how many bytes of text a piece of an answer carries."""
    if isinstance(value, str):
        return len(value.encode("utf-8", "surrogatepass"))
    if depth > 6 or value is None or isinstance(value, int | float | bool | bytes):
        return 0
    if isinstance(value, dict):
        silent = ("role", "type", "id", "index", "name", "model", "finish_reason", "object")
        return sum(said(item, depth + 1) for name, item in value.items() if name not in silent)
    if isinstance(value, list | tuple):
        return sum(said(item, depth + 1) for item in value)
    return said(getattr(value, "__dict__", None), depth + 1)


def compatible(kind: type[SyncStream] | type[AsyncStream], inner: Any, state: Any, reading: Any) -> Any:
    """Return a stream around `inner` that counts in one scope only, as programs make them by hand."""
    # Imported here: holds know streams.
    from checkrein.actguard.core.budget_context import BudgetExecutionContext
    from checkrein.actguard.integrations.accounting import CallHold

    context = BudgetExecutionContext(state.shared_root, (state,))
    return kind(inner, CallHold(context, reading.request), reading)
