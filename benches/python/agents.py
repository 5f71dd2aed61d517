"""Cases of guards of tools and of budgets: the published actguard, our drop-in of it, and the unified API.

The clock of the rate limits is injected as in `dropins`: one second a call. The unified guards have the engine's own.
"""

from __future__ import annotations

import importlib
import itertools
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from dropins import ENDLESS, Prepared

TARIFF = {
    "tariff_version": "1",
    "cu_per_usd": 1000,
    "registry_version": "1",
    "llm": {"default": {"input_cu_per_1k": 3, "output_cu_per_1k": 15, "cached_cu_per_1k": 1}},
}


def search(user: str, text: str, limit: int = 10) -> None:
    """Do nothing, with the signature of a tool."""


def pay(user: str, text: str, *, idempotency_key: str) -> None:
    """Do nothing, with the signature of a tool that must not run twice."""


def edit(order_id: str, amount: int = 1, text: str = "abc") -> None:
    """Do nothing, with the signature of a tool that writes."""


def _package(side: str) -> Any:
    name = "actguard" if side == "published" else "checkrein.actguard"
    # By name from the table of modules: the packages shadow their modules with decorators of the same names.
    importlib.import_module(f"{name}.tools.rate_limit")
    return importlib.import_module(name)


def _module(side: str, name: str) -> Any:
    package = "actguard" if side == "published" else "checkrein.actguard"
    importlib.import_module(f"{package}.{name}")
    return sys.modules[f"{package}.{name}"]


def _tick(side: str) -> None:
    """Give the rate limits of a side a clock of which each reading is a second later."""
    _module(side, "tools.rate_limit").time = SimpleNamespace(time=itertools.count(1_000_000).__next__)


def _keys() -> Callable[[], str]:
    return map(str, itertools.count()).__next__


def _in_run(module: Any, call: Callable[[], Any]) -> Prepared:
    """Run the case inside a run; a new one for each round, so that its keys do not pile up."""
    stack = ExitStack()
    client = module.Client()

    def clear() -> None:
        stack.close()
        stack.enter_context(client.run())

    return Prepared(call, clear=clear, end=stack.close)


def _in_unified_run(engine: Any, call: Callable[[], Any]) -> Prepared:
    stack = ExitStack()

    def clear() -> None:
        stack.close()
        stack.enter_context(engine.run(user="u1"))

    return Prepared(call, clear=clear, end=stack.close)


def rate_limit(side: str, what: str, events: int) -> Prepared:
    """`rate_limit`, with or without a scope, with so many events in the window."""
    if side == "unified":
        from checkrein import Engine

        scope = "user" if what == "scoped" else None
        limited = Engine().rate_limit(64, "2000ns", scope)(search)
        return Prepared(lambda: limited("u1", "hello", limit=5))
    module = _package(side)
    _tick(side)
    options = {"scope": "user"} if what == "scoped" else {}
    limited = module.rate_limit(max_calls=ENDLESS, period=events + 0.5, **options)(search)

    def call() -> Any:
        return limited("u1", "hello", limit=5)

    for _ in range(events):
        call()
    return Prepared(call)


def tool(side: str, what: str, events: int) -> Prepared:
    """`tool` with an idempotency key, attempts, a rate for each user and a breaker; every call has a new key."""
    key = _keys()
    if side == "unified":
        from checkrein import Breaker, Engine, Once, Rate

        engine = Engine()
        guarded = engine.guard(
            once=Once("idempotency_key", keep_result="1s", keep_key="1s"),
            attempts=ENDLESS,
            rate=Rate(64, window="2000ns", key="user"),
            breaker=Breaker("bank"),
        )(pay)
        return _in_unified_run(engine, lambda: guarded("u1", "hello", idempotency_key=key()))
    module = _package(side)
    _tick(side)
    guarded = module.tool(
        idempotent={},
        max_attempts={"calls": ENDLESS},
        rate_limit={"max_calls": ENDLESS, "period": events + 0.5, "scope": "user"},
        circuit_breaker={"name": "bank"},
    )(pay)
    return _in_run(module, lambda: guarded("u1", "hello", idempotency_key=key()))


def idempotent(side: str, what: str, _events: int) -> Prepared:
    """`idempotent` with a new key for each call."""
    key = _keys()
    if side == "unified":
        from checkrein import Engine

        engine = Engine()
        once = engine.idempotent("idempotency_key", ttl="1s")(pay)
        return _in_unified_run(engine, lambda: once("u1", "hello", idempotency_key=key()))
    module = _package(side)
    once = module.idempotent(pay)
    return _in_run(module, lambda: once("u1", "hello", idempotency_key=key()))


def max_attempts(side: str, what: str, _events: int) -> Prepared:
    """`max_attempts`."""
    if side == "unified":
        from checkrein import Engine

        engine = Engine()
        tried = engine.max_attempts(ENDLESS)(search)
        return _in_unified_run(engine, lambda: tried("u1", "hello", limit=5))
    module = _package(side)
    limited = module.max_attempts(calls=ENDLESS)(search)
    return _in_run(module, lambda: limited("u1", "hello", limit=5))


def circuit_breaker(side: str, what: str, _events: int) -> Prepared:
    """`circuit_breaker`, closed."""
    if side == "unified":
        from checkrein import Engine

        engine = Engine()
        guarded = engine.circuit_breaker("bank")(search)
    else:
        guarded = _package(side).circuit_breaker(name="bank")(search)
    return Prepared(lambda: guarded("u1", "hello", limit=5))


def enforce(side: str, what: str, _events: int) -> Prepared:
    """`enforce` with a fact that was proved, or with that, a threshold and a pattern; in a session with a scope."""
    if side == "unified":
        return _unified_enforce(what)
    module = _package(side)
    rules: list[Any] = [module.RequireFact("order_id", "order_id")]
    if what == "three rules":
        rules += [module.Threshold("amount", 10), module.BlockRegex("text", r"\.\.")]
    enforced = module.enforce(rules)(edit)

    @module.prove("order_id", "id", ttl=10_000)  # type: ignore[untyped-decorator]
    def read() -> dict[str, str]:
        return {"id": "o1"}

    session = module.session("s", {"user": "u1"})
    stack = ExitStack()

    def clear() -> None:
        stack.close()
        stack.enter_context(session)
        read()

    return Prepared(lambda: enforced("o1", 5, "hello"), clear=clear, end=stack.close)


def _unified_enforce(what: str) -> Prepared:
    from checkrein import BlockRegex, Engine, RequireFact, Threshold

    engine = Engine()
    rules: list[Any] = [RequireFact("order_id", "order_id")]
    if what == "three rules":
        rules += [Threshold("amount", 10), BlockRegex("text", r"\.\.")]
    enforced = engine.enforce(rules)(edit)

    @engine.prove("order_id", "id")
    def read() -> dict[str, str]:
        return {"id": "o1"}

    stack = ExitStack()

    def clear() -> None:
        stack.close()
        stack.enter_context(engine.session("s", user="u1"))
        read()

    return Prepared(lambda: enforced("o1", 5, "hello"), clear=clear, end=stack.close)


def usage(side: str, what: str, _events: int) -> Prepared:
    """What a reply of a model costs a budget: its usage recorded, and the limits asked."""
    if side == "unified":
        from checkrein import Engine

        engine = Engine()
        reply = {"usage": {"prompt_tokens": 1000, "completion_tokens": 200, "total_tokens": 1200}}
        outer = ExitStack()

        def enter() -> None:
            outer.close()
            outer.enter_context(engine.run(user="u1", budget="1000000000 usd"))

        return Prepared(
            lambda: engine.record_usage(reply, model="gpt-5.4", provider="openai"),
            clear=enter,
            end=outer.close,
        )
    module = _package(side)
    budgets, costs = _module(side, "core.budget_context"), _module(side, "costs")
    tariff = costs.CuTariff.from_payload(TARIFF)
    client = module.Client()
    client.get_cu_tariff = lambda **_options: tariff
    stack = ExitStack()

    def clear() -> None:
        stack.close()
        stack.enter_context(client.run())
        stack.enter_context(client.budget_guard(user_id="u1", cost_limit=10**12))

    def call() -> None:
        budgets.record_usage(
            provider="openai",
            provider_model_id="gpt-5.4",
            input_tokens=1000,
            output_tokens=200,
            cached_input_tokens=0,
        )
        if budgets.check_budget_limits() is not None:
            raise RuntimeError("the budget is spent")

    return Prepared(call, clear=clear, end=stack.close)


@dataclass(frozen=True)
class Case:
    """One row: what runs on which sides, and how many times faster than the published package ours should be."""

    name: str
    make: Callable[[str, str, int], Prepared]
    what: str = ""
    size: int = 0
    goal: float | None = None
    sides: tuple[str, ...] = ("checkrein", "unified")


def all_cases() -> Iterator[Case]:
    """Every case; the unified API is in those that it has in the same shape."""
    ours = ("checkrein",)
    yield Case("rate_limit, no scope", rate_limit, "plain", 10, 4.0)
    yield Case("rate_limit, scope", rate_limit, "scoped", 10, 20.0)
    yield Case("rate_limit, scope", rate_limit, "scoped", 10_000, 100.0, ours)
    yield Case("tool(idempotent, attempts, rate, breaker)", tool, "", 10, 15.0)
    yield Case("idempotent, new key", idempotent, goal=4.0)
    yield Case("max_attempts", max_attempts)
    yield Case("circuit_breaker, closed", circuit_breaker)
    yield Case("enforce, one fact", enforce, "one fact", goal=6.0)
    yield Case("enforce, fact, threshold, pattern", enforce, "three rules", goal=6.0)
    yield Case("usage of a reply recorded, limits asked", usage, goal=5.0)
