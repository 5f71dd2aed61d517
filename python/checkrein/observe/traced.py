"""Puts a span around guarded functions, also those that were made before, and takes it away again.

A wrapper calls its function through a cell of its closure. Whoever is not traced runs exactly what it ran before.
"""

from __future__ import annotations

import functools
import logging
import re
import time
from collections.abc import AsyncGenerator, Callable, Generator
from types import CellType, FunctionType
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import context, trace
from opentelemetry.trace import Span

from checkrein.guard import Handle
from checkrein.stacking import handles_below

if TYPE_CHECKING:
    from checkrein.engine import Engine

_log = logging.getLogger("checkrein")
_FUNCTION: Final = re.compile(r"_checkrein__*fn")

Start = Callable[[str], Span]
End = Callable[[Span, str, float, BaseException | None], None]


class Tracing:
    """The spans of the guarded functions of one engine."""

    def __init__(self, engine: Engine, start: Start, end: End) -> None:
        self._engine = engine
        self._start = start
        self._end = end
        engine._dress_guards(self._dress)

    def remove(self) -> None:
        """Give every function back as it was."""
        for guarded in self._engine._undress_guards():
            cell = _cell(guarded)
            if cell is not None:
                cell.cell_contents = getattr(cell.cell_contents, "__checkrein_traced__", cell.cell_contents)

    def _dress(self, guarded: FunctionType) -> None:
        cell = _cell(guarded)
        handle = getattr(guarded, "checkrein", None)
        if cell is None or not isinstance(handle, Handle):
            return
        function = cell.cell_contents
        # Of guards above each other the lowest one runs the function; the others find out by the frames between them
        # which of them refused, so that nothing may stand there.
        if hasattr(function, "__checkrein_traced__") or handles_below(function):
            return
        made = _KINDS[handle._target.kind](function, _Spans(handle.name, self._start, self._end))
        made.__checkrein_traced__ = function
        cell.cell_contents = made


class _Spans:
    """Begins and ends the spans of one tool; what goes wrong there is not the tool's."""

    def __init__(self, tool: str, start: Start, end: End) -> None:
        self.tool = tool
        self._start = start
        self._end = end

    def begin(self, *, current: bool) -> tuple[Span | None, Any, float]:
        """Begin one; `current` is for what runs in one go."""
        try:
            span = self._start(self.tool)
            token = context.attach(trace.set_span_in_context(span)) if current else None
        except Exception:
            _log.exception("no span for `%s`", self.tool)
            return None, None, 0.0
        return span, token, time.perf_counter()

    def end(self, begun: tuple[Span | None, Any, float], error: BaseException | None) -> None:
        """End it."""
        span, token, began = begun
        if span is None:
            return
        try:
            if token is not None:
                context.detach(token)
            self._end(span, self.tool, time.perf_counter() - began, error)
        except Exception:
            _log.exception("the span of `%s` was not ended", self.tool)


def _sync(function: Callable[..., Any], spans: _Spans) -> Any:
    @functools.wraps(function)
    def traced(*args: Any, **kwargs: Any) -> Any:
        begun = spans.begin(current=True)
        try:
            result = function(*args, **kwargs)
        except BaseException as error:
            spans.end(begun, error)
            raise
        spans.end(begun, None)
        return result

    return traced


def _async(function: Callable[..., Any], spans: _Spans) -> Any:
    @functools.wraps(function)
    async def traced(*args: Any, **kwargs: Any) -> Any:
        begun = spans.begin(current=True)
        try:
            result = await function(*args, **kwargs)
        except BaseException as error:
            spans.end(begun, error)
            raise
        spans.end(begun, None)
        return result

    return traced


def _generator(function: Callable[..., Any], spans: _Spans) -> Any:
    @functools.wraps(function)
    def traced(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        # Not current: between two values whoever consumes them runs.
        begun = spans.begin(current=False)
        try:
            result = yield from function(*args, **kwargs)
        except GeneratorExit:
            spans.end(begun, None)
            raise
        except BaseException as error:
            spans.end(begun, error)
            raise
        spans.end(begun, None)
        return result

    return traced


def _async_generator(function: Callable[..., Any], spans: _Spans) -> Any:
    @functools.wraps(function)
    def traced(*args: Any, **kwargs: Any) -> _AsyncValues:
        return _AsyncValues(function(*args, **kwargs), spans)

    return traced


class _AsyncValues:
    """An asynchronous generator, as the wrapper of a guard drives it."""

    def __init__(self, inner: AsyncGenerator[Any, Any], spans: _Spans) -> None:
        self._inner = inner
        self._spans = spans
        self._begun: tuple[Span | None, Any, float] | None = None

    async def __anext__(self) -> Any:
        if self._begun is None:
            self._begun = self._spans.begin(current=False)
        return await self._step(self._inner.__anext__())

    async def asend(self, value: Any) -> Any:
        return await self._step(self._inner.asend(value))

    async def athrow(self, error: BaseException) -> Any:
        return await self._step(self._inner.athrow(error))

    async def aclose(self) -> None:
        try:
            await self._inner.aclose()
        except BaseException as error:
            self._end(error)
            raise
        self._end(None)

    async def _step(self, step: Any) -> Any:
        try:
            return await step
        except StopAsyncIteration:
            self._end(None)
            raise
        except BaseException as error:
            self._end(error)
            raise

    def _end(self, error: BaseException | None) -> None:
        begun, self._begun = self._begun, (None, None, 0.0)
        if begun is not None:
            self._spans.end(begun, error)


_KINDS: Final = {
    "sync": _sync,
    "async": _async,
    "generator": _generator,
    "async_generator": _async_generator,
}


def _cell(guarded: FunctionType) -> CellType | None:
    """Return the cell through which a wrapper calls its function."""
    closure = guarded.__closure__ or ()
    for name, cell in zip(guarded.__code__.co_freevars, closure, strict=True):
        if _FUNCTION.fullmatch(name):
            return cell
    return None
