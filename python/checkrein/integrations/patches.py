"""Methods of an SDK's classes that are replaced for a while, although others may replace them as well."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any


class _Switch:
    """Whether the methods that were replaced together still do more than the ones they replaced."""

    on = True


class Patches:
    """Replaced methods, until somebody removes them."""

    def __init__(self) -> None:
        self._made: list[tuple[Any, str, Any, Any]] = []
        self._switch = _Switch()

    def __bool__(self) -> bool:
        return bool(self._made)

    def replace(self, kind: Any, name: str, put: Callable[[Any], Any]) -> None:
        """Replace a method of a class by what is put around it."""
        original = kind.__dict__[name]
        ours = _switched(original, put(original), self._switch)
        self._made.append((kind, name, original, ours))
        setattr(kind, name, ours)

    def remove(self) -> None:
        """Put back what was there; what somebody else has replaced since stays, and ours does nothing inside it."""
        self._switch.on = False
        self._switch = _Switch()
        while self._made:
            kind, name, original, ours = self._made.pop()
            if kind.__dict__.get(name) is ours:
                setattr(kind, name, original)


def inherited(made: Any, name: str) -> Any:
    """Return the method of the base of a class, as it is when it is called: somebody may replace it until then."""
    base = made.__mro__[1]

    @functools.wraps(getattr(base, name))
    def method(self: Any, *args: Any, **named: Any) -> Any:
        return getattr(super(made, self), name)(*args, **named)

    return method


def _switched(original: Any, ours: Any, switch: _Switch) -> Any:
    if inspect.iscoroutinefunction(original):

        @functools.wraps(original)
        async def awaited(*args: Any, **named: Any) -> Any:
            return await (ours if switch.on else original)(*args, **named)

        return awaited

    @functools.wraps(original)
    def called(*args: Any, **named: Any) -> Any:
        return (ours if switch.on else original)(*args, **named)

    return called
