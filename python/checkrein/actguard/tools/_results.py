"""What is kept of a call under its idempotency key, and what a second call gets of it."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from typing import Any, Final

from checkrein.actguard.tools._refusals import Refusals

_CONTAINERS: Final = (list, dict, set, tuple, bytearray)


class _Spent:
    """Stands for a result that can be used up only once: a generator, an iterator, a coroutine."""


SPENT: Final = _Spent()


def keep(result: Any) -> Any:
    """Return what to keep of a result: a copy of containers, so that who got it cannot change it for others."""
    if isinstance(result, Iterator) or inspect.isasyncgen(result) or inspect.isawaitable(result):
        return SPENT
    return _copy(result)


def again(kept: Any, key: str, refusals: Refusals) -> Any:
    """Return the kept result to another call, reported; raises DuplicateIdempotencyKey if it is spent."""
    if kept is SPENT:
        raise refusals.duplicate(key)
    refusals.intervened()
    return _copy(kept)


def same(stored: tuple[Any, ...], given: tuple[Any, ...]) -> bool:
    """Whether two calls with one key have the same arguments.

    Objects without an equality of their own say nothing: contexts and clients are often made anew for each call.
    """
    return len(stored) == len(given) and all(
        _equal(one, other) for one, other in zip(stored, given, strict=True)
    )


def snapshot(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the arguments of a call as they are now, whatever the tool does to them."""
    return tuple(_copy(argument) for argument in arguments)


def _equal(one: Any, other: Any) -> bool:
    if one is other:
        return True
    if _is_opaque(one) and _is_opaque(other):
        return type(one) is type(other)
    try:
        return bool(one == other)
    except Exception:
        # Arrays and the like compare element by element.
        return repr(one) == repr(other)


def _copy(value: Any) -> Any:
    if not isinstance(value, _CONTAINERS):
        return value
    try:
        return copy.deepcopy(value)
    except Exception:
        # Something in it cannot be copied: better the same object than none.
        return value


def _is_opaque(value: object) -> bool:
    equality: Any = type(value).__eq__
    return equality is object.__eq__
