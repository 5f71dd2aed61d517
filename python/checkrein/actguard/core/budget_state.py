"""What was used, and what is held, in one scope and in the whole of a run's budget."""

from __future__ import annotations

import os
import threading
import uuid
from collections import OrderedDict
from decimal import Decimal
from typing import Any, Final, Literal

from checkrein.actguard.core.amounts import ZERO, Amounts, Limits
from checkrein.actguard.core.meter import LocalTally, Meter, Usage, UsageBreakdownEntry
from checkrein.actguard.core.room import Room
from checkrein.actguard.costs import CuTariff

__all__ = ["BudgetState", "LocalTally", "SharedBudgetState", "Usage", "UsageBreakdownEntry"]

ScopeKind = Literal["root", "nested"]

MAX_SEEN: Final = 10_000
"""How many responses a budget remembers as counted."""


class BudgetState(Meter):
    """One scope: its limits, what was used in it, and what it is called."""

    def __init__(
        self,
        user_id: str | None = None,
        run_id: str = "",
        tenant_id: str = "",
        scope_id: str | None = None,
        scope_name: str | None = None,
        scope_kind: ScopeKind = "root",
        parent_scope_id: str | None = None,
        root_scope_id: str = "",
        cost_limit: int | None = None,
        usd_limit: float | Decimal | None = None,
        usd_limit_micros: int | None = None,
        plan_key: str | None = None,
        reserve_id: str | None = None,
        tariff: CuTariff | None = None,
        tariff_version: str | None = None,
        shared_root: SharedBudgetState | None = None,
        token_limit: int | None = None,
        before: Amounts | None = None,
    ) -> None:
        super().__init__()
        self.user_id = user_id
        self.run_id = run_id
        self.tenant_id = tenant_id
        self.scope_id = scope_id or str(uuid.uuid4())
        self.scope_name = scope_name
        self.scope_kind = scope_kind
        self.parent_scope_id = parent_scope_id
        self.root_scope_id = root_scope_id or self.scope_id
        self.cost_limit = cost_limit
        self.usd_limit = usd_limit
        self.usd_limit_micros = usd_limit_micros
        self.plan_key = plan_key
        self.reserve_id = reserve_id
        self.tariff = tariff
        self.tariff_version = tariff_version
        self.shared_root = shared_root
        self.token_limit = token_limit
        self.before = before or Amounts()
        self.held = Amounts()
        self.closed = False
        self._lock = threading.RLock() if shared_root is None else shared_root.room.lock

    def __repr__(self) -> str:
        return f"<budget scope {self.scope_name or self.scope_id!r}: {self.tokens_used} tokens, {self.cost_used} CU>"

    # Programs read these, and write into them.

    @property
    def provider(self) -> str:
        """The provider of the latest call."""
        return self._folded()._provider

    @provider.setter
    def provider(self, value: str) -> None:
        self._folded()._provider = value

    @property
    def provider_model_id(self) -> str:
        """The model of the latest call."""
        return self._folded()._model

    @provider_model_id.setter
    def provider_model_id(self, value: str) -> None:
        self._folded()._model = value

    @property
    def input_tokens(self) -> int:
        """Tokens that went in, cached ones too."""
        return self._folded()._input

    @input_tokens.setter
    def input_tokens(self, value: int) -> None:
        self._folded()._input = value

    @property
    def cached_input_tokens(self) -> int:
        """Tokens of those that were read from a cache."""
        return self._folded()._cached

    @cached_input_tokens.setter
    def cached_input_tokens(self, value: int) -> None:
        self._folded()._cached = value

    @property
    def output_tokens(self) -> int:
        """Tokens that came back."""
        return self._folded()._output

    @output_tokens.setter
    def output_tokens(self, value: int) -> None:
        self._folded()._output = value

    def _folded(self) -> BudgetState:
        if self._folded_to < len(self.log):
            self._fold()
        return self

    @property
    def limits(self) -> Limits:
        """The limits of this scope alone."""
        usd = None if self.usd_limit is None else Decimal(str(self.usd_limit))
        return Limits(self.token_limit, self.cost_limit, usd)

    @property
    def counted(self) -> Amounts:
        """What counts against the limits: what was used here, and before in the same run."""
        # Pricing takes time, and only a limit in dollars needs it.
        usd = ZERO if self.usd_limit is None else self.usd_spent
        return self.before + Amounts(self.tokens_used, self.cost_used, usd)

    def whole(self) -> Amounts:
        """Return everything that was used, here and before in the same run."""
        return self.before + Amounts(self.tokens_used, self.cost_used, self.usd_spent)

    def spent_unit(self) -> str | None:
        """Return the unit in which nothing is left, as "cost", "usd" or "token", or `None`."""
        limit = self.cost_limit
        if limit is not None and self.cost_used + self.before.cost >= limit:
            return "cost"
        limit = self.token_limit
        if limit is not None and self.tokens_used + self.before.tokens >= limit:
            return "token"
        if self.usd_limit is not None and self.counted.usd >= Decimal(str(self.usd_limit)):
            return "usd"
        return None

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
        counts = max(0, input_tokens), max(0, cached_input_tokens), max(0, output_tokens)
        cost = 0 if self.tariff is None else self.tariff.cost_of(provider, provider_model_id, *counts)
        with self._lock:
            usage = (provider, provider_model_id, *counts, cost, self.scope_name, None, None)
            self.take(usage, counts[0] + counts[2], cost)

    def record_custom_cost(self, *, name: str, cost_cu: int) -> None:
        """Count a cost of something else than a model in this scope alone."""
        with self._lock:
            self.take(("", "", 0, 0, 0, cost_cu, self.scope_name, ZERO, name), 0, cost_cu)

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


class SharedBudgetState:
    """What a run's budget is over all its scopes: its root scope, and what the gateway is told about it."""

    def __init__(
        self,
        user_id: str | None,
        run_id: str,
        tenant_id: str = "",
        root_scope_name: str | None = None,
        root_cost_limit: int | None = None,
        plan_key: str | None = None,
        token_limit: int | None = None,
        usd_limit: float | Decimal | None = None,
        before: Amounts | None = None,
        room: Room | None = None,
    ) -> None:
        self.pid = os.getpid()
        self.user_id = user_id
        self.run_id = run_id
        self.tenant_id = tenant_id
        self.root_scope_id = str(uuid.uuid4())
        self.root_scope_name = root_scope_name
        self.root_cost_limit = root_cost_limit
        self.plan_key = plan_key
        self.token_limit = token_limit
        self.usd_limit = usd_limit
        self.reserve_id: str | None = None
        self.tariff: CuTariff | None = None
        self.tariff_version: str | None = None
        self.registry_version: str | None = None
        self.cu_per_usd: int | None = None
        self.estimated_usd_micros: int | None = None
        # Budgets that hold together are held under one lock.
        self.room = room or Room()
        self.opened = threading.Event()
        self.failure: BaseException | None = None
        self._attachments = 0
        self._settled = False
        self._seen: OrderedDict[str, None] = OrderedDict()
        self._expected: dict[str, Any] = {}
        self._lock = threading.RLock()
        self.root_state = BudgetState(
            user_id=user_id,
            run_id=run_id,
            tenant_id=tenant_id,
            scope_id=self.root_scope_id,
            scope_name=root_scope_name,
            cost_limit=root_cost_limit,
            token_limit=token_limit,
            usd_limit=usd_limit,
            plan_key=plan_key,
            shared_root=self,
            before=before,
        )

    @property
    def tokens_used(self) -> int:
        """Input and output tokens."""
        return self.root_state.tokens_used

    @property
    def cost_used(self) -> int:
        """Compute units."""
        return self.root_state.cost_used

    @property
    def usd_spent(self) -> Decimal:
        """US dollars by the price book."""
        return self.root_state.usd_spent

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
            was, self._settled = self._settled, True
            return not was

    def first_sight(self, response_id: str | None) -> bool:
        """Return whether a response was not counted yet. One without an id always counts."""
        if not response_id:
            return True
        with self._lock:
            return remember(self._seen, response_id)

    def expect(self, response_id: str, held: Any) -> None:
        """Remember the hold of a response that goes on, and whose usage is told later."""
        with self._lock:
            before = self._expected.pop(response_id, None)
            self._expected[response_id] = held
            if before is None and len(self._expected) > MAX_SEEN:
                before = self._expected.pop(next(iter(self._expected)))
        if before is not None:
            before.settle_in_full()

    def looked_up(self, response_id: str) -> Any:
        """Return the hold of such a response, once; `None` for another one."""
        with self._lock:
            return self._expected.pop(response_id, None)

    def count_expected(self) -> None:
        """Count what responses that nobody has looked up hold: the budget ends, and they were begun."""
        with self._lock:
            expected, self._expected = list(self._expected.values()), {}
        for held in expected:
            held.settle_in_full()

    def install_tariff(self, tariff: CuTariff) -> None:
        """Price with this tariff from now on."""
        self.tariff = self.root_state.tariff = tariff
        self.tariff_version = self.root_state.tariff_version = tariff.tariff_version
        self.registry_version = tariff.registry_version
        self.cu_per_usd = tariff.cu_per_usd

    def usage_breakdown_payload(self) -> list[dict[str, Any]]:
        """Return every call and cost, in order, as they are sent."""
        with self.room.lock:
            log = list(self.root_state.log)
        # A cost of something else has no compute units where no tariff says how many.
        has_units = self.tariff is not None
        return [
            UsageBreakdownEntry(*usage[:5], usage[6], usage[8], usage[5]).as_payload()
            for usage in log
            if has_units or usage[8] is None
        ]


def remember(known: OrderedDict[str, None], response_id: str) -> bool:
    """Keep an id among the latest, and return whether it is new."""
    is_new = response_id not in known
    known[response_id] = None
    if len(known) > MAX_SEEN:
        known.popitem(last=False)
    return is_new
