"""What was used, and what is held, in one scope and in the whole of a run's budget."""

from __future__ import annotations

import threading
import uuid
from collections import OrderedDict
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal

from checkrein.actguard.core.amounts import Amounts, Limits
from checkrein.actguard.core.room import Room
from checkrein.actguard.costs import CuTariff

ScopeKind = Literal["root", "nested"]

MAX_SEEN = 10_000
"""How many responses a budget remembers as counted."""


@dataclass(frozen=True)
class UsageBreakdownEntry:
    """One call of a model, or one cost of something else, as the gateway is told."""

    provider: str = ""
    provider_model_id: str = ""
    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    scope_name: str | None = None
    custom_cost_name: str | None = None
    custom_cost_cu: int | None = None

    def as_payload(self) -> dict[str, Any]:
        """Return it as it is sent."""
        said: dict[str, Any]
        if self.custom_cost_name is not None:
            said = {"type": "custom_cost", "name": self.custom_cost_name, "cost_cu": self.custom_cost_cu or 0}
        else:
            said = {
                "provider": self.provider,
                "provider_model_id": self.provider_model_id,
                "input_tokens": self.input_tokens,
                "cached_input_tokens": self.cached_input_tokens,
                "output_tokens": self.output_tokens,
            }
        if self.scope_name is not None:
            said["scope_name"] = self.scope_name
        return said


@dataclass(eq=False)
class SharedBudgetState:
    """What a run's budget counts over all its scopes, and what the gateway was told about it."""

    user_id: str | None
    run_id: str
    tenant_id: str = ""
    root_scope_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    root_scope_name: str | None = None
    root_cost_limit: int | None = None
    plan_key: str | None = None
    reserve_id: str | None = None
    tariff: CuTariff | None = None
    tariff_version: str | None = None
    registry_version: str | None = None
    cu_per_usd: int | None = None
    estimated_usd_micros: int | None = None
    provider: str = ""
    provider_model_id: str = ""
    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    tokens_used: int = 0
    cost_used: int = 0
    usd_spent: Decimal = Decimal(0)
    usage_breakdown: list[UsageBreakdownEntry] = field(default_factory=list, repr=False)
    token_limit: int | None = None
    usd_limit: float | None = None
    root_state: BudgetState | None = field(default=None, repr=False)
    room: Room = field(default_factory=Room, repr=False)
    opened: threading.Event = field(default_factory=threading.Event, repr=False)
    failure: BaseException | None = field(default=None, repr=False)
    _attachments: int = field(default=0, repr=False)
    _settled: bool = field(default=False, repr=False)
    _seen: OrderedDict[str, None] = field(default_factory=OrderedDict, repr=False)
    _expected: OrderedDict[str, None] = field(default_factory=OrderedDict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def attach(self) -> None:
        """Count one more guard that this budget is open for."""
        with self._lock:
            self._attachments += 1

    def detach(self) -> bool:
        """Count one guard less, and return whether it was the last."""
        with self._lock:
            self._attachments -= 1
            return self._attachments <= 0

    def mark_settled(self) -> bool:
        """Return whether it is this caller who settles: only the first one does."""
        with self._lock:
            if self._settled:
                return False
            self._settled = True
            return True

    def first_sight(self, response_id: str | None) -> bool:
        """Return whether a response was not counted yet. One without an id always counts."""
        if not response_id:
            return True
        with self._lock:
            if response_id in self._seen:
                return False
            self._seen[response_id] = None
            if len(self._seen) > MAX_SEEN:
                self._seen.popitem(last=False)
            return True

    def expect(self, response_id: str) -> None:
        """Remember a response that goes on, and whose usage is told later."""
        with self._lock:
            self._expected[response_id] = None
            if len(self._expected) > MAX_SEEN:
                self._expected.popitem(last=False)

    def was_expected(self, response_id: str) -> bool:
        """Whether a response is one of those."""
        with self._lock:
            return response_id in self._expected

    def install_tariff(self, tariff: CuTariff) -> None:
        """Price with this tariff from now on."""
        self.tariff = tariff
        self.tariff_version = tariff.tariff_version
        self.registry_version = tariff.registry_version
        self.cu_per_usd = tariff.cu_per_usd

    def record_usage(
        self,
        *,
        provider: str,
        provider_model_id: str,
        input_tokens: int,
        output_tokens: int,
        cached_input_tokens: int = 0,
        scope_name: str | None = None,
    ) -> None:
        """Count one call of a model."""
        usage: dict[str, Any] = {
            "provider": provider,
            "provider_model_id": provider_model_id,
            "input_tokens": max(0, input_tokens),
            "output_tokens": max(0, output_tokens),
            "cached_input_tokens": max(0, cached_input_tokens),
        }
        self.count(_amounts(self.tariff, None, **usage), **usage, scope_name=scope_name)

    def record_custom_cost(self, *, name: str, cost_cu: int, scope_name: str | None = None) -> None:
        """Count one cost of something else than a model."""
        self.count_custom(Amounts(0, cost_cu), name=name, scope_name=scope_name)

    def count(self, amounts: Amounts, *, scope_name: str | None = None, **usage: Any) -> None:
        """Count one call of a model whose cost is known."""
        with self._lock:
            _add(self, amounts, **usage)
            self.usage_breakdown.append(UsageBreakdownEntry(**usage, scope_name=scope_name))

    def count_custom(self, amounts: Amounts, *, name: str, scope_name: str | None) -> None:
        """Count a cost of something else than a model."""
        with self._lock:
            self.cost_used += amounts.cost
            self.usd_spent += amounts.usd
            if self.tariff is not None:
                entry = UsageBreakdownEntry(
                    scope_name=scope_name, custom_cost_name=name, custom_cost_cu=amounts.cost
                )
                self.usage_breakdown.append(entry)

    def usage_breakdown_payload(self) -> list[dict[str, Any]]:
        """Return every call and cost, in order, as they are sent."""
        with self._lock:
            return [entry.as_payload() for entry in self.usage_breakdown]


@dataclass(eq=False)
class BudgetState:
    """One scope: its limits, what was used in it, and what it is called."""

    user_id: str | None = None
    run_id: str = ""
    tenant_id: str = ""
    scope_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    scope_name: str | None = None
    scope_kind: ScopeKind = "root"
    parent_scope_id: str | None = None
    root_scope_id: str = ""
    cost_limit: int | None = None
    usd_limit: float | None = None
    usd_limit_micros: int | None = None
    plan_key: str | None = None
    reserve_id: str | None = None
    tariff: CuTariff | None = field(default=None, repr=False)
    tariff_version: str | None = None
    provider: str = ""
    provider_model_id: str = ""
    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    tokens_used: int = 0
    cost_used: int = 0
    shared_root: SharedBudgetState | None = field(default=None, repr=False)
    token_limit: int | None = None
    usd_spent: Decimal = Decimal(0)
    before: Amounts = field(default_factory=Amounts, repr=False)
    held: Amounts = field(default_factory=Amounts, repr=False)
    closed: bool = field(default=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def __post_init__(self) -> None:
        self.root_scope_id = self.root_scope_id or self.scope_id

    @property
    def limits(self) -> Limits:
        """The limits of this scope alone."""
        usd = None if self.usd_limit is None else Decimal(str(self.usd_limit))
        return Limits(self.token_limit, self.cost_limit, usd)

    @property
    def counted(self) -> Amounts:
        """What counts against the limits: what was used here, and before in the same run."""
        return self.before + Amounts(self.tokens_used, self.cost_used, self.usd_spent)

    def priced(self, *, usd: Decimal | None = None, **usage: Any) -> Amounts:
        """Return what a call counts as here."""
        return _amounts(self.tariff, usd, **usage)

    def record_usage(
        self,
        *,
        provider: str,
        provider_model_id: str,
        input_tokens: int,
        output_tokens: int,
        cached_input_tokens: int = 0,
    ) -> None:
        """Count one call of a model in this scope alone."""
        usage: dict[str, Any] = {
            "provider": provider,
            "provider_model_id": provider_model_id,
            "input_tokens": max(0, input_tokens),
            "output_tokens": max(0, output_tokens),
            "cached_input_tokens": max(0, cached_input_tokens),
        }
        self.count(self.priced(**usage), **usage)

    def record_custom_cost(self, *, name: str, cost_cu: int) -> None:
        """Count a cost of something else than a model in this scope alone."""
        self.count_custom(Amounts(0, cost_cu))

    def count(self, amounts: Amounts, **usage: Any) -> None:
        """Count one call of a model whose cost is known."""
        with self._lock:
            _add(self, amounts, **usage)

    def count_custom(self, amounts: Amounts) -> None:
        """Count a cost of something else than a model."""
        with self._lock:
            self.cost_used += amounts.cost
            self.usd_spent += amounts.usd

    def root_totals(self) -> tuple[int, int]:
        """Return tokens and CU of the whole run's budget."""
        root = self.shared_root or self
        return root.tokens_used, root.cost_used

    def scope_metadata(self) -> dict[str, Any]:
        """Return what events say about the scope."""
        said: dict[str, Any] = {
            "scope_id": self.scope_id,
            "scope_name": self.scope_name,
            "scope_kind": self.scope_kind,
            "parent_scope_id": self.parent_scope_id,
            "root_scope_id": self.root_scope_id,
        }
        if self.plan_key is not None:
            said["plan_key"] = self.plan_key
        return said


def _amounts(tariff: CuTariff | None, usd: Decimal | None, **usage: Any) -> Amounts:
    cost = 0 if tariff is None else tariff.llm_cost(**usage)
    return Amounts(usage["input_tokens"] + usage["output_tokens"], cost, usd or Decimal(0))


def _add(
    state: SharedBudgetState | BudgetState,
    amounts: Amounts,
    *,
    provider: str,
    provider_model_id: str,
    input_tokens: int,
    output_tokens: int,
    cached_input_tokens: int,
) -> None:
    state.provider = provider
    state.provider_model_id = provider_model_id
    state.input_tokens += input_tokens
    state.cached_input_tokens += cached_input_tokens
    state.output_tokens += output_tokens
    state.tokens_used += amounts.tokens
    state.cost_used += amounts.cost
    state.usd_spent += amounts.usd
