"""A guarded function gets its own arguments, whatever its parameters are called."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from checkrein import actiongate, auditgate, budgetgate, rulegate
from checkrein.actiongate_openai import GatedToolRunner

NAMES = ("d", "held", "value", "decision", "result", "admit", "check", "open", "settle", "function", "self")
GATE, LEDGER = actiongate.Gate("n", "a"), budgetgate.Ledger("n", "a")
RULE, TRAIL = rulegate.Rule("n", "a"), auditgate.Trail("n", "a")


def sync_tool(d, held, value, decision, result, admit, check, open, settle, function, self):  # type: ignore[no-untyped-def]
    """Return everything it was given."""
    return (d, held, value, decision, result, admit, check, open, settle, function, self)


async def async_tool(d, held, value, decision, result, admit, check, open, settle, function, self):  # type: ignore[no-untyped-def]
    """Return everything it was given."""
    return (d, held, value, decision, result, admit, check, open, settle, function, self)


def decorators(subclassed: bool) -> dict[str, Callable[[Any], Any]]:
    """Every decorator of the gates, of engines as they are or with a `check` of their own."""
    made: dict[str, Callable[[Any], Any]] = {}
    options: dict[Any, tuple[Any, ...]] = {
        actiongate: (GATE, actiongate.Policy(100)),
        budgetgate: (LEDGER, budgetgate.Budget(Decimal(100))),
        rulegate: (RULE, rulegate.Ruleset([lambda ctx: True])),
        auditgate: (TRAIL,),
    }
    for module, arguments in options.items():
        engine: Any = module.Engine
        if subclassed and module is not auditgate:
            own = {name: _forward(engine, name) for name in ("check", "async_check")}
            engine = type("Own", (engine,), own)
        made_engine = engine()
        for name in dir(made_engine):
            if "guard" not in name or name.startswith("_"):
                continue
            keywords: dict[str, Any] = {}
            if module is budgetgate:
                one = Decimal(1)
                bounded = {"estimate": one, "actual": lambda result: Decimal(1)}
                keywords = bounded if "bounded" in name else {"cost": one}
            made[f"{module.__name__}.{name}"] = getattr(made_engine, name)(*arguments, **keywords)
    return made


def _forward(engine: Any, name: str) -> Any:
    def own(self: Any, *args: Any, **kwargs: Any) -> Any:
        return getattr(engine, name)(self, *args, **kwargs)

    return own


@pytest.mark.parametrize("subclassed", [False, True])
def test_no_parameter_name_meets_a_name_of_the_wrapper(subclassed: bool) -> None:
    found = decorators(subclassed)
    assert len(found) >= 16
    for label, decorate in found.items():
        tool = async_tool if ".async_" in label else sync_tool
        for positional in (True, False):
            given = tuple(f"given as {name}" for name in NAMES)
            guarded = decorate(tool)
            got = guarded(*given) if positional else guarded(**dict(zip(NAMES, given, strict=True)))
            got = asyncio.run(got) if inspect.iscoroutine(got) else got
            got = got.unwrap() if "_result" in label else got
            assert got == given, label


def test_a_predicate_that_yields_has_not_answered() -> None:
    def generator(ctx: Any) -> Any:
        yield False

    async def async_generator(ctx: Any) -> Any:
        yield False

    for predicate in (generator, async_generator):
        decision = rulegate.Engine().check(RULE, rulegate.Ruleset([predicate]))
        assert decision.blocked
        assert "must not yield" in str(decision.message)


@pytest.mark.parametrize("depth", [1, 250, 500])
def test_a_predicate_cannot_change_what_runs_however_deep_it_reaches(depth: int) -> None:
    def reach(ctx: Any) -> bool:
        inner = ctx.kwargs["d"]
        while isinstance(inner[0], list):
            inner = inner[0]
        inner[0] = 666
        return True

    runner = GatedToolRunner(rulegate=rulegate.Engine())
    runner.register("t", lambda d: str(d), rule=RULE, ruleset=rulegate.Ruleset([reach]))
    nested = "[" * depth + "1" + "]" * depth
    assert runner.call("t", f'{{"d": {nested}}}').result == nested
