"""Wrappers of guarded functions: real Python functions, compiled for the signature they wrap.

A wrapper that takes `*args, **kwargs` costs more than the decision it makes. One compiled for the wrapped signature
binds the arguments on the way, so that a call with wrong arguments is refused before anything is counted.
"""

from __future__ import annotations

import functools
import inspect
import keyword
import re
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any

_PREFIX = "_checkrein_"
_GENERIC = ("*args, **kwargs", "*args, **kwargs")


def wrap(
    function: Callable[..., Any],
    body: str,
    names: Mapping[str, Any],
    *,
    is_async: bool = False,
    as_called: bool = False,
) -> Any:
    """Compile a wrapper of `function`.

    `body` is the wrapper's code, one statement a line: `CALL` stands for the call of the wrapped function, `PASSED` for
    the arguments of that call, `$name` for each of `names` and for the body's own variables, so that they are never
    those of a parameter. With `as_called` the wrapper takes `args` and `kwargs` as they come.
    """
    parameters, arguments = _GENERIC if as_called else _signature(function)
    make = _factory(parameters, arguments, body, is_async, tuple(names))
    inner: FunctionType = make(function, *names.values())
    if isinstance(function, FunctionType):
        code = inner.__code__.replace(co_name=function.__name__, co_qualname=function.__qualname__)
        specific = parameters != _GENERIC[0]
        defaults = function.__defaults__ if specific else None
        inner = FunctionType(code, function.__globals__, function.__name__, defaults, inner.__closure__)
        if specific and function.__kwdefaults__:
            inner.__kwdefaults__ = dict(function.__kwdefaults__)
    return functools.update_wrapper(inner, function)


def _signature(function: Callable[..., Any]) -> tuple[str, str]:
    """The parameter list of the wrapper and the argument list of its call; generic where names cannot be written."""
    if type(function) is not FunctionType:
        return _GENERIC
    code = function.__code__
    names = code.co_varnames
    positional, keywords = code.co_argcount, code.co_kwonlyargcount
    plain, only = names[:positional], names[positional : positional + keywords]
    rest = list(names[positional + keywords :])
    parameters = [
        f"{name}={_PREFIX}default" if i >= positional - len(function.__defaults__ or ()) else name
        for i, name in enumerate(plain)
    ]
    if code.co_posonlyargcount:
        parameters.insert(code.co_posonlyargcount, "/")
    arguments = list(plain)
    used = [*plain, *only]
    if code.co_flags & inspect.CO_VARARGS:
        used.append(rest.pop(0))
        parameters.append(f"*{used[-1]}")
        arguments.append(f"*{used[-1]}")
    elif only:
        parameters.append("*")
    given = function.__kwdefaults__ or {}
    parameters += [f"{name}={_PREFIX}default" if name in given else name for name in only]
    arguments += [f"{name}={name}" for name in only]
    if code.co_flags & inspect.CO_VARKEYWORDS:
        used.append(rest.pop(0))
        parameters.append(f"**{used[-1]}")
        arguments.append(f"**{used[-1]}")
    if any(not name.isidentifier() or keyword.iskeyword(name) or name.startswith(_PREFIX) for name in used):
        return _GENERIC
    return ", ".join(parameters), ", ".join(arguments)


@functools.lru_cache(maxsize=512)
def _factory(
    parameters: str, arguments: str, body: str, is_async: bool, names: tuple[str, ...]
) -> Callable[..., FunctionType]:
    """The function that makes wrappers of one shape."""
    body = re.sub(r"\$(?=\w)", _PREFIX, body)
    body = body.replace("CALL", f"{_PREFIX}function({arguments})").replace("PASSED", arguments)
    lines = "\n".join(f"        {line}" for line in body.strip().splitlines())
    outer = ", ".join(_PREFIX + name for name in ("function", *names))
    define = "async def" if is_async else "def"
    source = (
        f"def make({outer}, {_PREFIX}default=None):\n"
        f"    {define} wrapper({parameters}):\n"
        f"{lines}\n"
        f"    return wrapper\n"
    )
    namespace: dict[str, Any] = {}
    exec(compile(source, "<checkrein guard>", "exec"), namespace)
    make: Callable[..., FunctionType] = namespace["make"]
    return make
