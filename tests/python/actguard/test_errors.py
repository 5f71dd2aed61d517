"""Everything that is raised: pickled, told to a model, and its fields."""

from __future__ import annotations

import inspect
import pickle
import threading
from typing import Any

import pytest

from checkrein import actguard
from checkrein.actguard import exceptions

ARGUMENTS: dict[str, Any] = {
    "func_name": "f",
    "scope_value": "a",
    "max_calls": 1,
    "period": 60,
    "retry_after": 12.34,
    "dependency_name": "d",
    "reset_at": 1.0,
    "run_id": "r",
    "tool_name": "t",
    "limit": 1,
    "used": 2,
    "timeout_s": 1.5,
    "key": "k",
    "last_error_type": ValueError,
    "code": "MISSING_FACT",
    "message": "m",
    "user_id": "u",
    "tokens_used": 3,
    "path": "/p",
    "subsystem": "budget",
    "operation": "reserve",
    "failure_kind": "timeout",
}
CLASSES = sorted(
    {
        found
        for found in vars(exceptions).values()
        if inspect.isclass(found) and issubclass(found, exceptions.ActGuardError)
    },
    key=lambda found: found.__name__,
)


def made(kind: type[exceptions.ActGuardError]) -> exceptions.ActGuardError:
    needed = [
        name
        for name, parameter in inspect.signature(kind).parameters.items()
        if parameter.default is inspect.Parameter.empty
    ]
    return kind(**{name: ARGUMENTS[name] for name in needed})


@pytest.mark.parametrize("kind", CLASSES)
def test_every_error_travels(kind: type[exceptions.ActGuardError]) -> None:
    error = made(kind)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert str(copy) == str(error)
    assert (copy.code, copy.reason, copy.details) == (error.code, error.reason, error.details)
    assert vars(copy).keys() == vars(error).keys()
    assert kind.__module__ == "checkrein.actguard.exceptions"


def test_a_cause_that_cannot_travel_stays_behind() -> None:
    class Local(Exception):
        """Nobody can import it."""

    error = exceptions.BudgetTransportError("m", cause=Local(threading.Lock()))
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.cause) == ("m", None)


def test_every_refusal_has_something_to_tell_the_model() -> None:
    for kind in CLASSES:
        if issubclass(kind, exceptions.ActGuardToolError):
            assert made(kind).to_prompt().startswith("BLOCKED")  # type: ignore[attr-defined]
    session = exceptions.PolicyViolationError("NO_SESSION", "m")
    assert "actguard.session()" in session.to_prompt()
    fact = exceptions.PolicyViolationError("MISSING_FACT", "m", {"kind": "k", "value": "v"}, "look first")
    assert "k='v'" in fact.to_prompt()
    assert fact.to_prompt().endswith("Fix: look first")
    other = exceptions.PolicyViolationError("X", "m", fix_hint="h")
    assert other.to_prompt() == "BLOCKED [X]: m. Fix: h"


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"cost_used": 4, "cost_limit": 1}, "Cost limit exceeded for user 'u': 4 / 1 CU used"),
        ({"limit_type": "token", "token_limit": 2}, "Token limit exceeded for user 'u': 3 / 2 tokens used"),
        (
            {"limit_type": "usd", "usd_used": 0.00001, "usd_limit": 0.000005},
            "USD limit exceeded for user 'u': $0.000010 / $0.000005 used",
        ),
        (
            {"origin": "remote", "path": "/api/v1/reserve", "status_code": 409},
            "Budget exceeded for user 'u' at /api/v1/reserve (status 409).",
        ),
    ],
)
def test_a_spent_budget_says_which(more: dict[str, Any], text: str) -> None:
    error = actguard.BudgetExceededError(user_id="u", tokens_used=3, **more)
    assert str(error) == text
    assert len(error.payload()) == 14


def test_names_of_earlier_releases_are_the_same_classes() -> None:
    assert exceptions.GuardError is exceptions.PolicyViolationError
    assert exceptions.ActGuardViolation is exceptions.ToolGuardError
    assert exceptions.NestedRunContextError is exceptions.NestedRuntimeContextError
    assert exceptions.BudgetPaymentRequiredError is exceptions.ActGuardPaymentRequired
