"""From what a user wrote (names, paths, callables, CEL) to sources the native guard reads for each call."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from inspect import Parameter
from types import MappingProxyType
from typing import Any, Final

from checkrein import _native
from checkrein.acting import actor
from checkrein.errors import ConfigError, a_type
from checkrein.spec import UNITS, PerRun, Rule
from checkrein.target import Target, kind_of

Source = tuple[Any, ...]
NOTHING: Final[Source] = ("nothing",)

_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")
_QUANTITY = re.compile(r"\s*-?\$?\s*-?[\d.]+(?:[eE][+-]?\d+)?(?:[\s_]+[A-Za-z$]+)?\s*")
_CONTEXT_NAMES: Final = frozenset({"ctx", "context", "action"})


class Context:
    """The call as one object, for rules, keys and costs that have a parameter named `ctx`, `context` or `action`."""

    __slots__ = ("arguments", "tool")

    def __init__(self, tool: str, arguments: Mapping[str, Any]) -> None:
        self.tool = tool
        self.arguments = arguments

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    def __repr__(self) -> str:
        return f"<Context of `{self.tool}`: {', '.join(self.arguments)}>"


class Binder:
    """Binds sources to the parameters of one target, and remembers which of them are read."""

    def __init__(self, target: Target, tool: str) -> None:
        self.target = target
        self.tool = tool
        self.slots: list[str] = []
        self.copies = False

    def slot(self, name: str) -> int:
        """The slot of a parameter, given one at its first use."""
        if name not in self.slots:
            self.slots.append(name)
        return self.slots.index(name)

    def key(self, key: object, what: str) -> Source:
        """Bind a key: a name, a path, a callable, CEL text, `PER_RUN` or a tuple of these."""
        if isinstance(key, PerRun):
            return ("run", actor)
        if isinstance(key, tuple):
            if not 1 <= len(key) <= 8 or any(isinstance(part, tuple) for part in key):
                raise ConfigError(
                    f"{what} has {len(key)} parts", "key", "give one to eight names, paths or callables"
                )
            return ("parts", tuple(self.key(part, what) for part in key))
        if callable(key):
            return ("call", self.call(key, what), label_of(key))
        if not isinstance(key, str):
            hint = "name an argument, or give a callable, CEL text or a tuple of these"
            raise ConfigError(f"{what} is {a_type(key)}", "key", hint)
        if _PATH.fullmatch(key):
            root, *path = key.split(".")
            if root in self.target.names:
                if not path:
                    return ("slot", self.slot(root), key)
                self.copies = True
                return ("path", self.slot(root), tuple(path), key)
            if not path:
                self.target.require(root, what)
        return self.expression(key, what)

    def cost(self, cost: object, unit: str, what: str) -> Source | int:
        """Bind what a call costs in one unit: a fixed amount in 10^-12 of it, or a source."""
        if isinstance(cost, Mapping):
            unknown = [word for word in cost if word not in UNITS]
            if unknown:
                raise ConfigError(
                    f"{what}: `{unknown[0]!s:.40}` is no unit", "cost", f"use {', '.join(UNITS)}"
                )
            return self.cost(cost.get(unit), unit, what)
        if isinstance(cost, (list, tuple)):
            fitting = [part for part in cost if isinstance(part, str) and _unit_of(part) == unit]
            return self.cost(fitting[0] if fitting else None, unit, what)
        if cost is None:
            if unit == "calls":
                return 10**12
            raise ConfigError(
                f"{what}: no cost in {unit}", "cost", f'give cost="1 {unit}" or a callable of the arguments'
            )
        if isinstance(cost, float):
            raise ConfigError(
                f"{what} is a float", "float_money", f'write it exactly: cost="0.30 {unit}" or a Decimal'
            )
        if isinstance(cost, str) and cost in self.target.names:
            # A bare name is the argument's value in the budget's unit, as it is for keys: never nano-dollars.
            self.copies = True
            return ("call", (_itself, (self.slot(cost),), (), None), cost)
        if isinstance(cost, str) and not _QUANTITY.fullmatch(cost):
            return self.expression(cost, what)
        if callable(cost):
            return ("call", self.call(cost, what), label_of(cost))
        if isinstance(cost, bool) or not isinstance(cost, (str, int, Decimal)):
            raise ConfigError(f"{what} is {a_type(cost)}", "cost", f'use text such as "0.30 {unit}"')
        return fixed_amount(cost, unit)

    def rule(self, rule: Rule, number: int) -> tuple[Source, str, str]:
        """Bind a rule: what to ask, its words, and the name of its gate."""
        check = rule.check
        if isinstance(check, str):
            name = rule.name or check
            return self.expression(check, f"rule {number}"), rule.message or name, name
        name = rule.name or label_of(check)
        if name in ("<lambda>", "lambda"):
            name = f"rule {number}"
        return ("call", self.call(check, f"rule `{name}`"), name), rule.message or name, name

    def argument(self, name: str, what: str) -> tuple[int, tuple[str, ...]]:
        """Bind an argument or a path into one: its slot, and the members or attributes that lead on from there.

        A name that only `**kwargs` can have is a member of those. Raises ConfigError for any other name.
        """
        if not isinstance(name, str) or not _PATH.fullmatch(name):
            raise ConfigError(
                f"{what}: `{name!s:.60}` is no argument",
                "unknown_argument",
                "name an argument or a path into one",
            )
        self.copies = True
        root, *path = name.split(".")
        if root in self.target.names:
            return self.slot(root), tuple(path)
        for parameter in self.target.parameters:
            if parameter.kind is Parameter.VAR_KEYWORD:
                return self.slot(parameter.name), (root, *path)
        self.target.require(root, what)
        raise AssertionError("a name that is no parameter was found")  # pragma: no cover

    def expression(self, text: str, what: str) -> Source:
        """Bind CEL text over the arguments, by their names or as members of `args`."""
        names = self.target.names
        variables = [*names, *(f"args.{name}" for name in names if "args" not in names)]
        compiled = _native.Expression(text, variables, what)
        self.copies = True
        slots = tuple(
            (position, self.slot(variables[position].removeprefix("args."))) for position in compiled.reads
        )
        return ("cel", compiled, slots, text)

    def call(self, function: Callable[..., Any], what: str) -> Source:
        """Bind a callable by the names of its parameters: they are arguments of the target, or one context."""
        if kind_of(function) != "sync":
            hint = "decisions are taken without awaiting; use an ordinary function"
            raise ConfigError(f"{what} is a coroutine or generator function", "rule_async", hint)
        try:
            parameters = list(inspect.signature(function).parameters.values())
        except (ValueError, TypeError):
            hint = "wrap it in a lambda that names the arguments it wants"
            raise ConfigError(f"{what} does not say which arguments it takes", "signature", hint) from None
        self.copies = True
        if len(parameters) == 1 and self._is_context(parameters[0]):
            for name in self.target.names:
                self.slot(name)
            return (function, (), (), self._context)
        positional: list[int] = []
        keywords: list[tuple[str, int]] = []
        # Behind a parameter that was left at its default, only keywords are unambiguous.
        by_keyword = False
        for parameter in parameters:
            name, kind = parameter.name, parameter.kind
            if kind is Parameter.VAR_KEYWORD:
                keywords += self._others(
                    {word for word, _ in keywords} | {self.slots[slot] for slot in positional}
                )
            elif kind is Parameter.VAR_POSITIONAL:
                positional += [slot for other, slot in self._others(set()) if slot not in positional]
            elif name in self.target.names:
                if by_keyword or kind is Parameter.KEYWORD_ONLY:
                    keywords.append((name, self.slot(name)))
                else:
                    positional.append(self.slot(name))
            elif parameter.default is Parameter.empty:
                self.target.require(name, what)
            else:
                by_keyword = True
        return (function, tuple(positional), tuple(keywords), None)

    def _others(self, taken: set[str]) -> list[tuple[str, int]]:
        return [(name, self.slot(name)) for name in self.target.names if name not in taken]

    def _is_context(self, parameter: Parameter) -> bool:
        if parameter.name in self.target.names:
            return False
        annotation = parameter.annotation
        return (
            parameter.name in _CONTEXT_NAMES
            or annotation is Context
            or annotation in ("Context", "checkrein.Context")
        )

    def _context(self, values: tuple[Any, ...]) -> Context:
        return Context(self.tool, MappingProxyType(dict(zip(self.slots, values, strict=True))))


def _itself(value: object) -> object:
    return value


def fixed_amount(amount: object, unit: str) -> int:
    """An amount in 10^-12 of its unit.

    Raises ConfigError for floats, negative and malformed amounts and other units.
    """
    text = f"{amount:f}" if isinstance(amount, Decimal) else str(amount).strip()
    if re.fullmatch(r"-?[\d.]+", text):
        text = f"{text} {unit}"
    pico, found = _native.parse_quantity(text)
    if found != unit:
        raise ConfigError(
            f"an amount of {found} where {unit} are counted",
            "cost",
            f'write it as "{text.split()[0]} {unit}"',
        )
    return pico


def label_of(key: object) -> str:
    """What a key or callable is called in names of gates and messages."""
    if isinstance(key, tuple):
        return ",".join(label_of(part) for part in key)
    if isinstance(key, str):
        return key
    if isinstance(key, PerRun):
        return "run"
    return str(getattr(key, "__name__", type(key).__name__))


def _unit_of(text: str) -> str | None:
    try:
        return str(_native.parse_quantity(text)[1])
    except ConfigError:
        return None
