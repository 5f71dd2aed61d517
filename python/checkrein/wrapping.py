"""The wrappers: real Python functions, compiled for the signature of what they guard.

A generic `*args, **kwargs` wrapper costs more than the decision itself, and schema builders, debuggers and picklers
do not like one. So a factory is written as text, compiled, and the function it makes is given the name, the
defaults and the globals of the guarded function; what it needs of Checkrein reaches it as closure cells.
"""

from __future__ import annotations

import functools
import inspect
import linecache
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import Parameter, Signature
from types import FunctionType
from typing import Any

from checkrein._native import Decision
from checkrein.target import Target


@dataclass(frozen=True, slots=True)
class Shape:
    """Everything that changes the text of a wrapper."""

    slots: tuple[str, ...]
    copies: bool
    settles: bool
    once: bool
    returns_refusals: bool
    waits: bool
    ends_later: bool
    timed: bool


def wrapper(target: Target, shape: Shape, handles: dict[str, Any], title: str) -> Callable[..., Any]:
    """Compile the wrapper of `target`.

    `handles` holds what the text names: `admit`, `timed` where there is a timeout, and `enter`, `leave` and `done`.
    """
    names = _Names({parameter.name for parameter in target.passed})
    lines = _TEMPLATES[target.kind](_Text(target, shape, names))
    cells = {names.of("fn"): target.function, names.of("Decision"): Decision, names.of("base"): BaseException}
    cells |= {names.of(name): value for name, value in handles.items()}
    cells |= {names.of("stop"): StopAsyncIteration, names.of("exit"): GeneratorExit}
    source = "\n".join(
        [
            f"def {names.of('factory')}({', '.join(cells)}):",
            *(f"    {line}" for line in lines),
            f"    return {names.of('call')}",
            "",
        ]
    )
    filename = f"<checkrein guard of {target.module}.{title}>"
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    scope: dict[str, Any] = {}
    exec(compile(source, filename, "exec", dont_inherit=True), scope)
    made: FunctionType = scope[names.of("factory")](**cells)
    return _dress(made, target)


def _dress(made: FunctionType, target: Target) -> Callable[..., Any]:
    """Give the compiled function the looks, the defaults and the globals of the guarded one."""
    positional = [
        p for p in target.parameters if p.kind in (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    ]
    defaults = tuple(p.default for p in positional if p.default is not Parameter.empty)
    keyword = {
        p.name: p.default
        for p in target.parameters
        if p.kind is Parameter.KEYWORD_ONLY and p.default is not Parameter.empty
    }
    short = target.qualname.rpartition(".")[2]
    call = FunctionType(made.__code__, target.namespace, short, defaults or None, made.__closure__)
    call.__kwdefaults__ = keyword or None
    call.__qualname__ = target.qualname
    call.__module__ = target.module
    functools.update_wrapper(call, target.function)
    if target.injected is not None:
        # Whoever builds a schema must not offer what callers do not pass; `__wrapped__` still shows it.
        returns = inspect.signature(target.function).return_annotation
        call.__signature__ = Signature(target.parameters, return_annotation=returns)  # type: ignore[attr-defined]
        hints = dict(call.__annotations__)
        hints.pop(target.injected, None)
        call.__annotations__ = hints
    # What tracebacks and profilers print is in the code object.
    call.__code__ = call.__code__.replace(co_name=short, co_qualname=target.qualname)
    return call


class _Names:
    """Names for the wrapper's own variables that no parameter has."""

    def __init__(self, taken: set[str]) -> None:
        self.prefix = "_checkrein_"
        while any(name.startswith(self.prefix) for name in taken):
            self.prefix += "_"

    def of(self, name: str) -> str:
        return self.prefix + name


class _Text:
    """Pieces of a wrapper's text."""

    def __init__(self, target: Target, shape: Shape, names: _Names) -> None:
        self.shape = shape
        self.of = names.of
        self.signature = _signature(target.parameters)
        self.call = ", ".join(_passed(parameter) for parameter in target.passed)
        self.injected = target.injected
        self.slots = ", ".join(shape.slots)

    def admit(self, waiting: str) -> list[str]:
        """Decide, take over copies, and leave early with a refusal or a stored result."""
        shape, of = self.shape, self.of
        asked = f"{waiting if shape.waits else ''}{of('admit')}({self.slots})"
        plain = not shape.settles and not shape.copies and not shape.returns_refusals
        if plain:
            return [asked]
        taken = of("permit")
        lines = [f"{taken} = {asked}"]
        if shape.returns_refusals:
            lines += [f"if {taken}.__class__ is {of('Decision')}:", f"    return {taken}"]
        if shape.once:
            lines += [f"if {taken}.replayed:", f"    return {taken}.result()"]
        if shape.copies:
            copies = f"{taken}.args" if shape.settles else taken
            lines += [f"if {copies} is not None:", f"    ({self.slots},) = {copies}"]
        return lines

    def run(self, waiting: str) -> str:
        """Call what is guarded."""
        of = self.of
        if not self.shape.timed:
            return f"{waiting}{of('fn')}({self.call})"
        permit = of("permit") if self.shape.settles else "None"
        call = f", {self.call}" if self.call else ""
        return f"{waiting}{of('timed')}({permit}, {of('fn')}{call})"

    def body(self, waiting: str) -> list[str]:
        """Decide, run, settle."""
        of, lines = self.of, self.admit(waiting)
        if not self.shape.settles:
            return [*lines, f"return {self.run(waiting)}"]
        permit, result = of("permit"), of("result")
        run = [
            "try:",
            f"    {result} = {self.run(waiting)}",
            f"except {of('base')} as {of('error')}:",
            f"    {permit}.failed({of('error')})",
            "    raise",
        ]
        if self.shape.once:
            if self.injected is not None:
                lines.append(f"{self.injected} = {permit}.idempotency_key")
            token = of("token")
            lines.append(f"{token} = {of('enter')}({permit})")
            run = ["try:", *_indent(run), "finally:", f"    {of('leave')}({token})"]
        ended = (
            f"await {of('done')}({permit}, {result})" if self.shape.ends_later else f"{permit}.done({result})"
        )
        return [*lines, *run, f"return {ended}"]


def _sync(text: _Text) -> list[str]:
    return [f"def {text.of('call')}({text.signature}):", *_indent(text.body(""))]


def _async(text: _Text) -> list[str]:
    return [f"async def {text.of('call')}({text.signature}):", *_indent(text.body("await "))]


def _generator(text: _Text) -> list[str]:
    of, lines = text.of, text.admit("")
    head = f"def {of('call')}({text.signature}):"
    run = f"yield from {of('fn')}({text.call})"
    if not text.shape.settles:
        return [head, *_indent([*lines, f"return (yield from {of('fn')}({text.call}))"])]
    permit, result = of("permit"), of("result")
    body = [
        *lines,
        "try:",
        f"    {result} = {run}",
        f"except {of('exit')}:",
        f"    {permit}.closed()",
        "    raise",
        f"except {of('base')} as {of('error')}:",
        f"    {permit}.failed({of('error')})",
        "    raise",
        f"return {permit}.done({result})",
    ]
    return [head, *_indent(body)]


def _async_generator(text: _Text) -> list[str]:
    """Delegate as `yield from` does, which async generators do not have."""
    of = text.of
    inner, value, sent, error = of("inner"), of("value"), of("sent"), of("error")
    drive = [
        f"{inner} = {of('fn')}({text.call})",
        "try:",
        f"    {value} = await {inner}.__anext__()",
        "    while True:",
        "        try:",
        f"            {sent} = yield {value}",
        f"        except {of('exit')}:",
        f"            await {inner}.aclose()",
        "            raise",
        f"        except {of('base')} as {error}:",
        f"            {value} = await {inner}.athrow({error})",
        "        else:",
        f"            {value} = await {inner}.asend({sent})",
        f"except {of('stop')}:",
        "    pass",
    ]
    if text.shape.settles:
        permit = of("permit")
        drive = [
            "try:",
            *_indent(drive),
            f"except {of('exit')}:",
            f"    {permit}.closed()",
            "    raise",
            f"except {of('base')} as {error}:",
            f"    {permit}.failed({error})",
            "    raise",
            f"await {of('done')}({permit}, None)" if text.shape.ends_later else f"{permit}.done(None)",
        ]
    return [f"async def {of('call')}({text.signature}):", *_indent([*text.admit("await "), *drive])]


_TEMPLATES: dict[str, Callable[[_Text], list[str]]] = {
    "sync": _sync,
    "async": _async,
    "generator": _generator,
    "async_generator": _async_generator,
}


def _indent(lines: list[str]) -> list[str]:
    return [f"    {line}" for line in lines]


def _signature(parameters: Sequence[Parameter]) -> str:
    """The parameters without defaults: those are given to the function object itself."""
    parts: list[str] = []
    kinds = [parameter.kind for parameter in parameters]
    for position, parameter in enumerate(parameters):
        kind = parameter.kind
        if kind is Parameter.KEYWORD_ONLY and Parameter.VAR_POSITIONAL not in kinds and "*" not in parts:
            parts.append("*")
        stars = "*" if kind is Parameter.VAR_POSITIONAL else "**" if kind is Parameter.VAR_KEYWORD else ""
        parts.append(f"{stars}{parameter.name}")
        last = position + 1 == len(parameters) or kinds[position + 1] is not Parameter.POSITIONAL_ONLY
        if kind is Parameter.POSITIONAL_ONLY and last:
            parts.append("/")
    return ", ".join(parts)


def _passed(parameter: Parameter) -> str:
    name = parameter.name
    if parameter.kind is Parameter.VAR_POSITIONAL:
        return f"*{name}"
    if parameter.kind is Parameter.VAR_KEYWORD:
        return f"**{name}"
    return f"{name}={name}" if parameter.kind is Parameter.KEYWORD_ONLY else name
