"""Opening a budget at the gateway, and settling it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from checkrein.actguard._monitoring import warn_monitoring_issue
from checkrein.actguard.core.budget_state import BudgetState, SharedBudgetState, UsageBreakdownEntry
from checkrein.actguard.costs import CuTariff
from checkrein.actguard.exceptions import (
    ActGuardPaymentRequired,
    ActGuardUsageError,
    BudgetExceededError,
    BudgetTransportError,
)

if TYPE_CHECKING:
    from checkrein.actguard.client import Client

TARIFF, RESERVE, SETTLE = "/api/v1/cu-tariff", "/api/v1/reserve", "/api/v1/settle"


@dataclass(frozen=True)
class Plan:
    """What a guard wants from the gateway."""

    client: Client | None
    run_id: str
    user_id: str | None
    cost_limit: int | None
    plan_key: str | None
    limited: bool
    fail_open: bool

    @property
    def reports(self) -> bool:
        """Whether there is a gateway to reserve at."""
        return self.client is not None and bool(self.client.api_key and self.client.gateway_url)


def may_wait(plan: Plan) -> bool:
    """Whether opening asks the gateway, so that it takes its time."""
    return plan.reports or plan.cost_limit is not None


def tariff(plan: Plan) -> CuTariff | None:
    """Return the tariff that a limit in compute units is counted by.

    Raises BudgetTransportError where it cannot be had, unless the guard is to go on without.
    """
    if plan.client is None:
        raise ActGuardUsageError(
            "budget_guard requires a Client for cost_limit, whose gateway has the tariff; "
            "token_limit and usd_limit need none.",
            code="usage.budget_guard_configuration",
        )
    try:
        return plan.client.get_cu_tariff()
    except Exception as error:
        _unreachable(plan, "tariff", TARIFF, error, limited=True)
        return None


def open_root(plan: Plan, root: SharedBudgetState) -> None:
    """Get the tariff if a limit needs it, and reserve at the gateway if there is one."""
    if plan.cost_limit is not None:
        _install(root, tariff(plan))
    if not plan.reports:
        return
    assert plan.client is not None
    try:
        answer: Any = plan.client.reserve_budget(
            run_id=plan.run_id, cost_limit=plan.cost_limit, plan_key=plan.plan_key, user_id=plan.user_id
        )
        _adopt(root, answer)
    except (ActGuardPaymentRequired, BudgetExceededError):
        raise
    except Exception as error:
        _unreachable(plan, "reserve", RESERVE, error, limited=plan.limited)
        return
    _limit_by(plan, root, answer)


def _adopt(root: SharedBudgetState, answer: Any) -> None:
    """Take over the reservation."""
    said: Mapping[str, Any] = answer if isinstance(answer, Mapping) else {"reserve_id": answer}
    reserve_id = said.get("reserve_id")
    if not isinstance(reserve_id, str) or not reserve_id:
        raise BudgetTransportError("Budget reserve response missing required 'reserve_id'.")
    root.reserve_id = reserve_id
    root.estimated_usd_micros = _count(said.get("estimated_usd_micros"))
    root.root_state.reserve_id = reserve_id


def _limit_by(plan: Plan, root: SharedBudgetState, answer: Any) -> None:
    """Take over the limit of the gateway; where the guard has one of its own, the smaller one counts."""
    said = answer.get("cost_limit") if isinstance(answer, Mapping) else None
    if said is None:
        return
    try:
        if type(said) is not int:
            error = BudgetTransportError(
                "Budget reserve response has a 'cost_limit' that is no whole number."
            )
            _unreachable(plan, "reserve", RESERVE, error, limited=True)
            return
        # Nothing, or less, is what is left: the first call is refused.
        limit = max(0, said)
        if plan.cost_limit is None:
            _install(root, tariff(plan))
            root.root_cost_limit = root.root_state.cost_limit = limit
        else:
            root.root_state.cost_limit = min(limit, plan.cost_limit)
    except BaseException:
        # A limit that nobody can count by is no limit: the guard is not entered, and nothing was used.
        settle_root(plan.client, root)
        raise


def _install(root: SharedBudgetState, found: CuTariff | None) -> None:
    if found is not None:
        root.install_tariff(found)


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _unreachable(plan: Plan, operation: str, path: str, error: Exception, *, limited: bool) -> None:
    """Warn, or raise where a limit was asked for and the guard is to be closed then."""
    if limited and not plan.fail_open:
        if not isinstance(error, BudgetTransportError):
            made = f"Budget API request failed at {path}: {type(error).__name__}"
            raise _closed(plan, BudgetTransportError(made, cause=error)) from error
        raise _closed(plan, error)
    warn_monitoring_issue(subsystem="budget", operation=operation, exc=error, path=path, stacklevel=5)


def _closed(plan: Plan, error: BudgetTransportError) -> BudgetTransportError:
    """Add to an error what else there is, for who meets this for the first time."""
    needs_none = "" if plan.reports else "; usd_limit= needs no gateway"
    error.message += (
        f' (the guard was not entered; Client(on_unreachable="open") goes on without a limit{needs_none})'
    )
    error.args = (error.message,)
    return error


def settle_root(client: Client | None, root: SharedBudgetState) -> None:
    """Tell the gateway what was used; a gateway that cannot be told is a warning, for it is used all the same."""
    state = root.root_state
    if client is None or root.reserve_id is None:
        return
    breakdown: list[Any] = root.usage_breakdown_payload() or _from_state(state)
    try:
        client.settle_budget(
            reserve_id=root.reserve_id,
            input_tokens=state.input_tokens,
            cached_input_tokens=state.cached_input_tokens,
            output_tokens=state.output_tokens,
            usage_breakdown=breakdown,
        )
    except (ActGuardPaymentRequired, BudgetExceededError):
        raise
    except Exception as error:
        warn_monitoring_issue(subsystem="budget", operation="settle", exc=error, path=SETTLE, stacklevel=5)


def _from_state(state: BudgetState) -> list[Any]:
    """Return what a program has written into the state itself, as one call."""
    if not (state.input_tokens or state.cached_input_tokens or state.output_tokens):
        return []
    entry = UsageBreakdownEntry(
        provider=state.provider or "none",
        provider_model_id=state.provider_model_id or "none",
        input_tokens=state.input_tokens,
        cached_input_tokens=state.cached_input_tokens,
        output_tokens=state.output_tokens,
        scope_name=state.scope_name,
    )
    return [entry.as_payload()]
