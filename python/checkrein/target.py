"""What is guarded: a callable of any kind, its name and its parameters."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from inspect import Parameter
from typing import Any, Final, Literal

from checkrein.errors import ConfigError, a_type

Kind = Literal["sync", "async", "generator", "async_generator"]

_GENERIC: Final = (Parameter("args", Parameter.VAR_POSITIONAL), Parameter("kwargs", Parameter.VAR_KEYWORD))


@dataclass(frozen=True, slots=True)
class Target:
    """A callable to be guarded."""

    function: Callable[..., Any]
    kind: Kind
    parameters: tuple[Parameter, ...]
    name: str
    module: str
    qualname: str
    namespace: dict[str, Any]
    injected: str | None = None
    """A parameter that the guard fills in; it is none of `parameters`."""

    @property
    def passed(self) -> tuple[Parameter, ...]:
        """The parameters with the injected one, in the order of the callable."""
        return self.parameters if self.injected is None else _parameters(self.function)

    def inject(self, name: str) -> Target:
        """Return the target with a parameter taken out of its signature.

        Raises ConfigError if it has no such parameter, or one that cannot be filled in.
        """
        self.require(name, "key_param")
        rest = tuple(parameter for parameter in self.parameters if parameter.name != name)
        found = self.parameters[self.names.index(name)]
        if found.kind in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD):
            raise ConfigError(f"key_param: `{name}` is no single parameter", "key_param", "name a plain one")
        return dataclasses.replace(self, parameters=rest, injected=name)

    @property
    def names(self) -> list[str]:
        """The names of the parameters, in order."""
        return [parameter.name for parameter in self.parameters]

    def require(self, name: str, what: str) -> str:
        """Return `name` if it is a parameter.

        Raises ConfigError naming the nearest parameter if it is not.
        """
        if name in self.names:
            return name
        near = difflib.get_close_matches(name, self.names, n=1)
        hint = (
            f"did you mean `{near[0]}`?" if near else f"the arguments are: {', '.join(self.names) or 'none'}"
        )
        raise ConfigError(f"{what}: `{self.name}` has no argument `{name[:60]}`", "unknown_argument", hint)


def inspect_target(function: object) -> Target:
    """Find out what kind of callable this is and which parameters it has.

    Raises ConfigError for what cannot be guarded, with the order of decorators if that is the reason.
    """
    if isinstance(function, (staticmethod, classmethod)):
        word = type(function).__name__
        raise ConfigError(
            f"the guard was applied to a {word} object",
            "decorator_order",
            f"write @{word} above the guard's line",
        )
    if isinstance(function, property):
        raise ConfigError(
            "the guard was applied to a property", "decorator_order", "guard the function below @property"
        )
    if inspect.isclass(function):
        raise ConfigError(
            f"`{function.__name__}` is a class", "target", "guard a function or one of its methods"
        )
    if not callable(function):
        raise ConfigError(f"{a_type(function)} cannot be called", "target", "guard a function")
    core: Any = function
    while isinstance(core, functools.partial):
        core = core.func
    qualname = getattr(core, "__qualname__", None) or type(core).__qualname__
    module = getattr(core, "__module__", None) or type(core).__module__ or "builtins"
    namespace = getattr(inspect.unwrap(core), "__globals__", None)
    if not isinstance(namespace, dict):
        namespace = vars(sys.modules[module]) if module in sys.modules else {}
    return Target(
        function=function,
        kind=kind_of(function),
        parameters=_parameters(function),
        name=qualname.rpartition("<locals>.")[2].replace("<lambda>", "lambda"),
        module=module,
        qualname=qualname,
        namespace=namespace,
    )


def kind_of(function: Callable[..., Any]) -> Kind:
    """Say how a callable runs, by its own code or by that of its `__call__`."""
    for candidate in (function, type(function).__call__):
        if inspect.iscoroutinefunction(candidate):
            return "async"
        if inspect.isasyncgenfunction(candidate):
            return "async_generator"
        if inspect.isgeneratorfunction(candidate):
            return "generator"
    return "sync"


def _parameters(function: Callable[..., Any]) -> tuple[Parameter, ...]:
    try:
        parameters = tuple(inspect.signature(function).parameters.values())
    except (ValueError, TypeError):
        # A function written in C that does not say what it takes.
        return _GENERIC
    # C functions may name parameters that no Python function can have.
    return parameters if all(parameter.name.isidentifier() for parameter in parameters) else _GENERIC
