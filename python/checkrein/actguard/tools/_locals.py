"""The parameters of a function, as a compiled wrapper sees them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from keyword import iskeyword
from types import FunctionType
from typing import Any

from checkrein._wrap import _PREFIX


def local_parameters(fn: Callable[..., Any]) -> list[str] | None:
    """Return the parameters that a compiled wrapper of `fn` has; `None` where it takes whatever comes."""
    if type(fn) is not FunctionType:
        return None
    code = fn.__code__
    count = code.co_argcount + code.co_kwonlyargcount
    count += bool(code.co_flags & inspect.CO_VARARGS) + bool(code.co_flags & inspect.CO_VARKEYWORDS)
    names = list(code.co_varnames[:count])
    writable = all(name.isidentifier() and not iskeyword(name) for name in names)
    # Names as the wrapper's own make it take whatever comes.
    return names if writable and not any(name.startswith(_PREFIX) for name in names) else None


def binding(fn: Callable[..., Any]) -> Callable[[tuple[Any, ...], dict[str, Any]], dict[str, Any]]:
    """Return what binds the arguments of a call to parameters, defaults included."""
    signature = inspect.signature(fn)

    def bind(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return bound.arguments

    return bind
