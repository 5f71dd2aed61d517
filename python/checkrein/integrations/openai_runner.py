"""The tool runner of openai 3.x: it hides what ends it, and a refusal of ours has to reach whoever runs it."""

from __future__ import annotations

import functools
import sys
from collections.abc import AsyncGenerator, Callable, Generator
from typing import Any, Final

from checkrein.errors import CheckreinError
from checkrein.integrations.later import Watch

MODULE: Final = "openai.lib.responses_tool_runner"
_DEPTH: Final = 8
"""So many errors back a refusal is looked for: the runner raises one of its own for it, sometimes two."""

_originals: list[tuple[Any, Any]] = []
_wanted = False


def install() -> None:
    """Let refusals through, now or when somebody imports the runner."""
    global _wanted
    if _wanted:
        return
    _wanted = True
    if MODULE in sys.modules:
        _put(MODULE)
    else:
        _watch.add(MODULE)


def remove() -> None:
    """Put back what was there."""
    global _wanted
    _wanted = False
    _watch.remove(MODULE)
    while _originals:
        runner, original = _originals.pop()
        runner.iterate = original


def _put(name: str) -> None:
    _watch.remove(name)
    module = sys.modules[name]
    for class_name, around in (("ResponsesToolRunner", _around), ("AsyncResponsesToolRunner", _aaround)):
        runner: Any = getattr(module, class_name, None)
        original = getattr(runner, "__dict__", {}).get("iterate")
        if original is not None:
            _originals.append((runner, original))
            runner.iterate = around(original, module.ToolRunnerError)


def _around(original: Callable[..., Any], hides: type[Exception]) -> Any:

    @functools.wraps(original)
    def iterate(*args: Any, **named: Any) -> Generator[Any, Any, Any]:
        try:
            return (yield from original(*args, **named))
        except hides as error:
            hidden = _hidden(error)
            if hidden is None:
                raise
        raise hidden

    return iterate


def _aaround(original: Callable[..., Any], hides: type[Exception]) -> Any:

    @functools.wraps(original)
    async def iterate(*args: Any, **named: Any) -> AsyncGenerator[Any, None]:
        turns = original(*args, **named)
        try:
            async for turn in turns:
                yield turn
            return
        except hides as error:
            hidden = _hidden(error)
            if hidden is None:
                raise
        finally:
            await turns.aclose()
        raise hidden

    return iterate


def _hidden(error: BaseException) -> CheckreinError | None:
    """Return the refusal that an error of the runner stands for."""
    at: BaseException | None = error
    for _ in range(_DEPTH):
        at = None if at is None else at.__context__
        if isinstance(at, CheckreinError):
            return at
    return None


_watch = Watch(_put)
