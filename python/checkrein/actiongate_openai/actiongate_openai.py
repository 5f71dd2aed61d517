"""`ToolGate`: parses a tool call, asks every gate, runs the tool, writes the audit log."""

from __future__ import annotations

import dataclasses
import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from types import NoneType
from typing import Any, Literal

from checkrein._native import RunnerResult as GateResult
from checkrein._native import RunnerTool, ToolRunner, decide_together
from checkrein.actiongate import Engine as ActionEngine
from checkrein.actiongate import Gate, Policy
from checkrein.auditgate import AuditPolicy, Trail
from checkrein.auditgate import Engine as AuditEngine
from checkrein.budgetgate import Budget, Ledger
from checkrein.budgetgate import Engine as BudgetEngine
from checkrein.rulegate import Engine as RuleEngine
from checkrein.rulegate import Rule, Ruleset

__all__ = ["GateResult", "GatedToolRunner", "ToolGate", "ToolRegistration"]

logger = logging.getLogger("checkrein.actiongate_openai")

#: The trail of refusals that belong to no registered tool.
REFUSALS = Trail("actiongate_openai", "refusals")


@dataclass(frozen=True, slots=True)
class ToolRegistration:
    """A tool and the gates it must pass."""

    fn: Callable[..., Any]
    gate: Gate | None = None
    policy: Policy | None = None
    ledger: Ledger | None = None
    budget: Budget | None = None
    cost: Decimal | None = None
    rule: Rule | None = None
    ruleset: Ruleset | None = None
    trail: Trail | None = None
    audit_policy: AuditPolicy | None = None


class ToolGate(ToolRunner):
    """Runs tools whose gates all allow; a call that is refused consumes nothing.

    Refused calls name the first gate that blocks in the order actiongate, budgetgate, rulegate. An admission is
    recorded before the tool runs, and a tool that raises adds a second entry; `outcomes=True` adds one for tools
    that return, too.
    """

    __slots__ = ("_ag", "_audit", "_bg", "_outcomes", "_rg")

    def __init__(
        self,
        actiongate: ActionEngine | None = None,
        budgetgate: BudgetEngine | None = None,
        rulegate: RuleEngine | None = None,
        auditgate: AuditEngine | None = None,
        *,
        outcomes: bool = False,
    ) -> None:
        self._ag = actiongate
        self._bg = budgetgate
        self._rg = rulegate
        self._audit = auditgate
        self._outcomes = outcomes
        if auditgate is not None:
            self._set_refusals((auditgate, REFUSALS, None, False))

    def register(
        self,
        name: str,
        fn: Callable[..., Any],
        *,
        gate: Gate | None = None,
        policy: Policy | None = None,
        ledger: Ledger | None = None,
        budget: Budget | None = None,
        cost: Decimal | None = None,
        rule: Rule | None = None,
        ruleset: Ruleset | None = None,
        trail: Trail | None = None,
        audit_policy: AuditPolicy | None = None,
    ) -> None:
        """Register a tool under a name, in the place of one that had it before.

        Raises ValueError for a gate without its policy, its counterpart or its engine: a gate that was asked for
        must never be left out quietly.
        """
        made = ToolRegistration(fn, gate, policy, ledger, budget, cost, rule, ruleset, trail, audit_policy)
        self._refuse_incomplete(name, made)
        if not callable(fn):
            raise TypeError(f"Tool '{name}': fn must be callable, got {type(fn).__name__}")
        together = self._together(made)
        rate = (self._ag, gate, policy) if together and gate is not None else None
        spend = (self._bg, ledger, budget, cost) if together and ledger is not None else None
        rules = (self._rg, rule, ruleset, type(self._rg) is RuleEngine) if rule is not None else None
        audit = (self._audit, trail, audit_policy, self._outcomes) if trail is not None else None
        self._add(name, RunnerTool(made, fn, _is_async(fn), together, rate, spend, rules, audit))

    def _refuse_incomplete(self, name: str, made: ToolRegistration) -> None:
        pairs = [
            ("gate", made.gate is not None, "policy", made.policy is not None),
            (
                "ledger",
                made.ledger is not None,
                "budget and cost",
                not (made.budget is None or made.cost is None),
            ),
            ("rule", made.rule is not None, "ruleset", made.ruleset is not None),
            ("policy", made.policy is not None, "gate", made.gate is not None),
            ("budget", made.budget is not None, "ledger", made.ledger is not None),
            ("cost", made.cost is not None, "ledger", made.ledger is not None),
            ("ruleset", made.ruleset is not None, "rule", made.rule is not None),
            ("audit_policy", made.audit_policy is not None, "trail", made.trail is not None),
            ("gate", made.gate is not None, "an actiongate engine", self._ag is not None),
            ("ledger", made.ledger is not None, "a budgetgate engine", self._bg is not None),
            ("rule", made.rule is not None, "a rulegate engine", self._rg is not None),
            ("trail", made.trail is not None, "an auditgate engine", self._audit is not None),
        ]
        for given, is_given, needed, is_there in pairs:
            if is_given and not is_there:
                raise ValueError(f"Tool '{name}': {given} requires {needed}")

    def _together(self, made: ToolRegistration) -> bool:
        """Whether rate and budget can be decided in one native step."""
        action = self._ag if made.gate is not None else None
        budget = self._bg if made.ledger is not None else None
        # A subclass may have a `check` of its own, which must be heard.
        ours = type(action) in (NoneType, ActionEngine) and type(budget) in (NoneType, BudgetEngine)
        return ours and decide_together(action, budget)

    # Calls

    async def acall(self, name: str, arguments: Mapping[str, Any] | str) -> GateResult:
        """Run a tool like `call`, awaiting what it returns when that can be awaited."""
        admitted = self._admit(name, arguments)
        if isinstance(admitted, GateResult):
            return admitted
        try:
            value = admitted.function(**admitted.arguments)
            if inspect.isawaitable(value):
                value = await value
        except Exception as error:
            self._failed(admitted, error)
            raise
        return self._finished(name, admitted, value)

    def call_from_openai(self, tool_call: Any) -> GateResult:
        """Run the tool that a tool call of the Chat Completions or Responses API names.

        Takes the SDK's objects and plain dicts; raises ValueError for anything else.
        """
        return self.call(*_name_and_arguments(tool_call))

    async def acall_from_openai(self, tool_call: Any) -> GateResult:
        """Run the tool that a tool call names like `acall`."""
        return await self.acall(*_name_and_arguments(tool_call))

    def process_tool_calls(
        self, tool_calls: Sequence[Any], *, on_error: Literal["raise", "result"] = "raise"
    ) -> list[GateResult]:
        """Run tool calls in order and return their results.

        An exception carries the results so far as `gate_results`. With `on_error="result"` it becomes the result
        of its call (`blocked_by="execution"`), and the calls after it run.
        """
        results: list[GateResult] = []
        for tool_call in tool_calls:
            try:
                results.append(self.call_from_openai(tool_call))
            except Exception as error:
                results.append(_failure(tool_call, error, results, on_error))
        return results

    async def aprocess_tool_calls(
        self, tool_calls: Sequence[Any], *, on_error: Literal["raise", "result"] = "raise"
    ) -> list[GateResult]:
        """Run tool calls in order like `process_tool_calls`, awaiting each."""
        results: list[GateResult] = []
        for tool_call in tool_calls:
            try:
                results.append(await self.acall_from_openai(tool_call))
            except Exception as error:
                results.append(_failure(tool_call, error, results, on_error))
        return results

    # What the native half asks of this one

    def _audit_failed(self, error: BaseException) -> None:
        logger.warning("the audit log did not take an entry: %s", error)

    def _admit_apart(self, tool: ToolRegistration, arguments: dict[str, Any]) -> tuple[Any, ...]:
        """Decide where a store is the user's own: rules, then a reservation, then the rate.

        Returns who blocked, the message, the decisions of rate, budget and rules, and the open reservation.
        """
        rate = spend = rules = reservation = None
        if tool.rule is not None and self._rg is not None:
            rules = self._rg.check(tool.rule, tool.ruleset, kwargs=arguments)
            if not rules:
                return "rulegate", rules.message, None, None, rules, None
        if tool.ledger is not None and self._bg is not None and tool.cost is not None:
            reservation, spend = self._bg.reserve(tool.ledger, tool.cost, tool.budget)
            if not spend:
                return "budgetgate", spend.message, None, spend, rules, None
        if tool.gate is not None and self._ag is not None:
            try:
                rate = self._ag.check(tool.gate, tool.policy)
            except BaseException:
                self._settle_apart(tool, reservation, False)
                raise
            if not rate:
                self._settle_apart(tool, reservation, False)
                return "actiongate", rate.message, rate, spend, rules, None
        return None, None, rate, spend, rules, reservation

    def _settle_apart(self, tool: ToolRegistration, reservation: str | None, kept: bool) -> None:
        """Charge a reservation, or give it back; one that cannot be settled stays held."""
        if reservation is None or self._bg is None or tool.cost is None:
            return
        try:
            if kept:
                self._bg.commit(reservation, tool.cost)
            else:
                self._bg.release(reservation)
        except Exception as error:
            logger.warning("a reservation could not be settled and stays held: %s", error)


GatedToolRunner = ToolGate


def _is_async(fn: Callable[..., Any]) -> bool:
    while isinstance(fn, partial):
        fn = fn.func
    called = getattr(fn, "__call__", None)  # noqa: B004 - the method, to see whether it is async
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(called)


def _name_and_arguments(tool_call: Any) -> tuple[Any, Any]:
    """Return the name and the arguments of a tool call in any of its shapes."""
    if isinstance(tool_call, Mapping):
        inner = tool_call.get("function", tool_call)
        if isinstance(inner, Mapping) and "name" in inner and "arguments" in inner:
            return inner["name"], inner["arguments"]
    else:
        inner = getattr(tool_call, "function", None) or tool_call
        if hasattr(inner, "name") and hasattr(inner, "arguments"):
            return inner.name, inner.arguments
    raise ValueError(f"Unrecognized tool_call format: {type(tool_call)}")


def _failure(tool_call: Any, error: Exception, results: list[GateResult], on_error: str) -> GateResult:
    """Return the result of a call that raised, or raise it on with the results before it."""
    if on_error == "result":
        try:
            name = _name_and_arguments(tool_call)[0]
        except ValueError:
            name = "<unknown>"
        return GateResult(False, name, None, "execution", f"{type(error).__name__}: {error}")
    try:
        error.gate_results = results  # type: ignore[attr-defined]
    except Exception:
        logger.debug("%s takes no attribute; the results before it are lost", type(error).__name__)
    raise error


@dataclass(frozen=True)
class _ResultFields:
    allowed: bool
    tool_name: str
    result: Any = None
    blocked_by: str | None = None
    message: str | None = None
    decisions: dict[str, Any] = dataclasses.field(default_factory=dict)


for _attribute in ("__dataclass_fields__", "__dataclass_params__", "__match_args__"):
    setattr(GateResult, _attribute, getattr(_ResultFields, _attribute))
