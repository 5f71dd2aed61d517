"""`tool`: any mix of guards on one function, decided together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from typing import Any, TypeVar, overload

from checkrein.actguard.tools import _modules
from checkrein.actguard.tools._gates import Gates, guard
from checkrein.actguard.tools._names import name_of

F = TypeVar("F", bound=Callable[..., Any])
S = TypeVar("S")
Options = Mapping[str, Any]


@overload
def tool(
    fn: F,
    *,
    rate_limit: Options | None = None,
    circuit_breaker: Options | None = None,
    max_attempts: Options | None = None,
    timeout: float | None = None,
    timeout_executor: Executor | None = None,
    idempotent: Options | None = None,
    policy: Any = None,
) -> F: ...
@overload
def tool(
    fn: None = None,
    *,
    rate_limit: Options | None = None,
    circuit_breaker: Options | None = None,
    max_attempts: Options | None = None,
    timeout: float | None = None,
    timeout_executor: Executor | None = None,
    idempotent: Options | None = None,
    policy: Any = None,
) -> Callable[[F], F]: ...
def tool(
    fn: Callable[..., Any] | None = None,
    *,
    rate_limit: Options | None = None,
    circuit_breaker: Options | None = None,
    max_attempts: Options | None = None,
    timeout: float | None = None,
    timeout_executor: Executor | None = None,
    idempotent: Options | None = None,
    policy: Any = None,
) -> Any:
    """Guard a tool. Each option holds the arguments of the decorator of its name; `timeout` is in seconds.

    The guards are asked in the order idempotent, max_attempts, rate_limit, circuit_breaker; a call that one of them
    refuses has used up nothing of the others. Exceptions of the tool are reported and raised unchanged. `policy` is
    accepted and ignored.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        once = None if idempotent is None else _spec("idempotent", _modules.idempotent.spec, idempotent)
        rate = None if rate_limit is None else _spec("rate_limit", _modules.rate_limit.spec, rate_limit)
        gates = Gates(
            once=once and _modules.idempotent.checked(once, function),
            attempts=None
            if max_attempts is None
            else _spec("max_attempts", _modules.max_attempts.spec, max_attempts),
            rate=rate and _modules.rate_limit.checked(rate, function),
            breaker=None
            if circuit_breaker is None
            else _spec("circuit_breaker", _modules.circuit_breaker.spec, circuit_breaker),
        )
        inner = function
        if timeout is not None:
            inner = _modules.timeout.timeout(timeout, executor=timeout_executor)(function)
        return guard(inner, gates, tool_name=name_of(function))

    return decorate if fn is None else decorate(fn)


def _spec(name: str, make: Callable[..., S], options: Options) -> S:
    """Make what a guard was told; an option that it does not have is an error in the name of its decorator."""
    try:
        return make(**options)
    except TypeError as error:
        raise TypeError(str(error).replace("spec()", f"{name}()")) from None
