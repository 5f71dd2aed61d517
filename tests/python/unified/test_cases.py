"""The corpus of admission cases, through the Python door, on every store."""

from __future__ import annotations

import json
from inspect import Parameter, Signature
from pathlib import Path
from typing import Any

import pytest

import checkrein
from checkrein.testing import FakeClock

CASES = Path(__file__).parents[2] / "cases" / "admission"
START = 1_795_219_200  # 2026-11-21 00:00 UTC, so that calendar days begin with the cases


def load() -> list[Any]:
    """Every case of every file."""
    return [
        pytest.param(case, id=f"{path.stem}: {case['name']}")
        for path in sorted(CASES.glob("*.json"))
        for case in json.loads(path.read_text())
    ]


def tool_of(case: dict[str, Any]) -> Any:
    """A function with the arguments of the case."""

    def tool(*args: object, **kwargs: object) -> None: ...

    names = case["arguments"]
    tool.__signature__ = Signature([Parameter(name, Parameter.POSITIONAL_OR_KEYWORD) for name in names])  # type: ignore[attr-defined]
    return tool


def guard_of(engine: checkrein.Engine, case: dict[str, Any]) -> checkrein.Handle:
    """The guard of the case."""
    policy = dict(case["policy"])
    budgets = policy.get("budget")
    if budgets is not None:
        budgets = budgets if isinstance(budgets, list) else [budgets]
        policy["budget"] = [checkrein.Budget(**b) if isinstance(b, dict) else b for b in budgets]
    if policy.pop("holds", False):
        policy["actual"] = lambda result: result
    if policy.get("cost") in case["arguments"]:
        policy["cost"] = Argument(policy["cost"])
    if isinstance(policy.get("key"), list):
        policy["key"] = tuple(policy["key"])
    return checkrein.handle(engine.guard(name="tool", **policy)(tool_of(case)))


class Argument:
    """A cost that is the value of an argument, whatever it is."""

    def __init__(self, name: str) -> None:
        self.__signature__ = Signature([Parameter(name, Parameter.POSITIONAL_OR_KEYWORD)])

    def __call__(self, value: object) -> object:
        return value


def said(decision: checkrein.Decision) -> list[list[object]]:
    """Reasons as the cases write them."""
    return [
        [r.code, "never" if r.final else "unknown" if r.retry_after is None else r.retry_after]
        for r in decision.reasons
    ]


def end(permit: Any, how: Any) -> None:
    """End an admitted call; those without anything to settle have no permit."""
    if permit is None or isinstance(permit, tuple):
        return
    errors = {
        "not_executed": checkrein.NotExecuted("x"),
        "failure": ConnectionError(),
        "unknown": ValueError(),
    }
    if isinstance(how, dict):
        permit.done(how["done"])
    else:
        permit.failed(errors[how])


@pytest.mark.parametrize("case", load())
def test_case(case: dict[str, Any], place: dict[str, Any]) -> None:
    clock = FakeClock(START)
    engine = checkrein.Engine(clock=clock, **place)
    handle = guard_of(engine, case)
    admit = handle.guard._admitter()
    opened: dict[str, Any] = {}
    for step in case["steps"]:
        clock.set(START)
        clock.advance(step["at"])
        how = step.get("ends", {"done": None})
        if "end" in step:
            end(opened.pop(step["end"]), how)
            continue
        if "resolve" in step:
            assert engine.resolve("tool", *step["resolve"])
            continue
        slots = [step["call"][name] for name in handle._slots]
        expected = step["expect"]
        if isinstance(expected, list):
            for _ in range(2):
                with pytest.raises(checkrein.Denied) as denied:
                    admit(*slots)
                assert said(denied.value.decision) == expected, step
                assert handle.guard.peek(*slots) == denied.value.decision
            continue
        permit = admit(*slots)
        if isinstance(expected, dict):
            assert permit.result() == expected["replay"], step
        elif "open" in step:
            opened[step["open"]] = permit
        else:
            assert expected == "allow"
            end(permit, how)
