"""Adds up what calls of models and other things use."""

from __future__ import annotations

import threading
from decimal import Decimal
from typing import Any, NamedTuple

from checkrein.actguard.core.amounts import ZERO

Usage = tuple[str, str, int, int, int, int, str | None, Decimal | None, str | None]
"""One call of a model, or a cost of something else, as it is kept.

Its provider and model; input, cached and output tokens; its cost in compute units of the innermost scope's tariff; the
name of that scope; US dollars by the price book, where somebody has asked it already; the name of a cost of something
else.

A plain tuple: runs keep one for each call, and the garbage collector does not look at those twice.
"""


class UsageBreakdownEntry(NamedTuple):
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


class Meter:
    """Adds up calls: at once what a limit needs at every call, the rest when somebody looks."""

    def __init__(self) -> None:
        self.tokens_used = 0
        self.cost_used = 0
        self.log: list[Usage] = []
        self._folded_to = 0
        self._provider = ""
        self._model = ""
        self._input = 0
        self._cached = 0
        self._output = 0
        self._priced_to = 0
        self._usd = ZERO
        self._lock = threading.RLock()

    def take(self, usage: Usage, tokens: int, cost: int) -> None:
        """Add one call. With the lock held."""
        self.tokens_used += tokens
        self.cost_used += cost
        self.log.append(usage)

    def _fold(self) -> None:
        with self._lock:
            for provider, model, given, cached, output, _, _, _, custom in self.log[self._folded_to :]:
                if custom is None:
                    self._provider, self._model = provider, model
                    self._input += given
                    self._cached += cached
                    self._output += output
            self._folded_to = len(self.log)

    @property
    def usd_spent(self) -> Decimal:
        """What the calls cost in US dollars, by the price book."""
        if self._priced_to < len(self.log):
            # Imported here: prices are only loaded by programs that look at them.
            from checkrein.actguard.integrations.pricing import of_tokens

            with self._lock:
                for usage in self.log[self._priced_to :]:
                    usd = usage[7]
                    self._usd += of_tokens(*usage[:5]) or ZERO if usd is None else usd
                self._priced_to = len(self.log)
        return self._usd


class LocalTally:
    """What was used on the one path of execution that entered a guard."""

    def __init__(self) -> None:
        self.log: list[Usage] = []

    @property
    def tokens_used(self) -> int:
        """Input and output tokens."""
        return sum(usage[2] + usage[4] for usage in self.log)

    @property
    def cost_used(self) -> int:
        """Compute units."""
        return sum(usage[5] for usage in self.log)

    @property
    def usd_spent(self) -> Decimal:
        """US dollars, by the price book."""
        meter = Meter()
        meter.log = self.log
        return meter.usd_spent
