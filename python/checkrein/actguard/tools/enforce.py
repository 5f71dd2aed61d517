"""`enforce`: rules on the arguments of a call."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from inspect import Parameter
from typing import Any, TypeVar

from checkrein._wrap import wrap
from checkrein.actguard.exceptions import ActGuardUsageError, PolicyViolationError
from checkrein.actguard.tools import _facts, _observability
from checkrein.actguard.tools._locals import binding, local_parameters
from checkrein.actguard.tools._names import name_of
from checkrein.actguard.tools._refusals import mark_not_started
from checkrein.actguard.tools._scope import _scope_hash, _session_id
from checkrein.actguard.tools.rules import BlockRegex, RequireFact, Rule, Threshold

F = TypeVar("F", bound=Callable[..., Any])


def no_session() -> PolicyViolationError:
    """Return the error of a guard that needs a session and has none."""
    return PolicyViolationError(
        "NO_SESSION", "No active ActGuard session.", fix_hint="Wrap your agent loop with actguard.session()."
    )


def enforce(rules: Iterable[Rule]) -> Callable[[F], F]:
    """Decorator: check the arguments of each call by rules, in order; the first one that is broken raises.

    Needs a session. Raises ActGuardUsageError for something that is no rule, and for a rule that reads a parameter
    which the function does not have.
    """
    listed = tuple(rules)

    def decorate(function: F) -> F:
        _check_rules(listed, function)
        return _enforced(function, listed)  # type: ignore[no-any-return]

    return decorate


def _enforced(fn: Callable[..., Any], rules: tuple[Rule, ...]) -> Any:
    name, original = name_of(fn), inspect.unwrap(fn)
    checks = tuple(rule.check for rule in rules)

    def check(arguments: Mapping[str, Any]) -> None:
        try:
            session_id = _session_id.get()
            if session_id is None:
                raise no_session()
            scope_hash = _scope_hash.get()
            for ask in checks:
                ask(arguments, session_id, scope_hash)
        except PolicyViolationError as error:
            mark_not_started(error, original)
            _observability.emit_guard_blocked(name, "enforce", error)
            raise

    is_async = inspect.iscoroutinefunction(fn)
    call = "return await CALL" if is_async else "return CALL"
    local = local_parameters(fn)
    shown = list(inspect.signature(fn).parameters.values())
    plain = [p.name for p in shown if p.kind is not Parameter.VAR_KEYWORD]
    keywords = [p.name for p in shown if p.kind is Parameter.VAR_KEYWORD]
    if local is None or any(parameter.name not in local for parameter in shown):
        body = f"$check($bind(args, kwargs))\n{call}"
        bound = {"check": check, "bind": _flat(binding(fn), keywords)}
        return wrap(fn, body, bound, is_async=is_async, as_called=True)
    pairs = [f"{name!r}: {name}" for name in plain] + [f"**{name}" for name in keywords]
    asked = f"$check({{{', '.join(pairs)}}})"
    quick = _quick(rules, plain)
    names: dict[str, Any] = {
        "check": check,
        "session": _session_id.get,
        "scope": _scope_hash.get,
        "facts": _facts,
    }
    names |= {"text": str, "whole": int, "real": float}
    if quick is not None:
        asked = f"$now = $session()\nif not ($now is not None and {quick}):\n    {asked}"
        names |= {f"rule{number}": rule for number, rule in enumerate(rules)}
    return wrap(fn, f"{asked}\n{call}", names, is_async=is_async)


def _quick(rules: tuple[Rule, ...], parameters: list[str]) -> str | None:
    """An expression that is true of nearly every call that passes; where it is false the rules themselves are asked.

    `None` where rules are not ours, or read what is no single parameter.
    """
    conditions = []
    for number, rule in enumerate(rules):
        arg, name = getattr(rule, "arg", None), f"$rule{number}"
        if arg not in parameters:
            return None
        if type(rule) is RequireFact:
            key = f"($now, $scope(), {name}.kind, {arg})"
            known = f"$facts._FACTS.get({key}, 0.0) > $facts.time.time()"
            conditions.append(f"{arg}.__class__ is $text and {known}")
        elif type(rule) is Threshold:
            conditions.append(
                f"({arg}.__class__ is $whole or {arg}.__class__ is $real) and {arg} <= {name}.max"
            )
        elif type(rule) is BlockRegex:
            conditions.append(f"{arg}.__class__ is $text and {name}._re.search({arg}) is None")
        else:
            return None
    return " and ".join(conditions) or None


def _flat(
    bind: Callable[[tuple[Any, ...], dict[str, Any]], dict[str, Any]], keywords: list[str]
) -> Callable[[tuple[Any, ...], dict[str, Any]], dict[str, Any]]:
    """Give what `**kwargs` takes the names it was passed under: rules read arguments by name."""

    def bound(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        arguments = dict(bind(args, kwargs))
        for name in keywords:
            arguments.update(arguments.pop(name, {}))
        return arguments

    return bound


def _check_rules(rules: tuple[Rule, ...], fn: Callable[..., Any]) -> None:
    parameters = inspect.signature(fn).parameters
    open_ended = any(parameter.kind is Parameter.VAR_KEYWORD for parameter in parameters.values())
    for rule in rules:
        if not callable(getattr(rule, "check", None)) or isinstance(rule, type):
            raise _usage(f"enforce: {rule!r} is not a Rule")
        arg = getattr(rule, "arg", None)
        if isinstance(arg, str) and arg not in parameters and not open_ended:
            raise _usage(
                f"enforce: {type(rule).__name__}(arg={arg!r}) does not match a parameter of {name_of(fn)!r}. "
                f"Valid parameters: {list(parameters)}"
            )


def _usage(message: str) -> ActGuardUsageError:
    return ActGuardUsageError(
        message, code="usage.enforce_configuration", reason="enforce_configuration", retryable=False
    )
