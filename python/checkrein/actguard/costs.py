"""The tariff of compute units (CU): what a call of a model costs in the gateway's own unit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_RATES = ("input_cu_per_1k", "input_cu_per_1m", "output_cu_per_1k", "cached_cu_per_1k")


@dataclass(frozen=True)
class LLMCostRates:
    """CU for a thousand tokens, or for a million where `input_cu_per_1m` is set."""

    input_cu_per_1k: int | None
    input_cu_per_1m: int | None
    output_cu_per_1k: int
    cached_cu_per_1k: int

    def cost(self, *, input_tokens: int, output_tokens: int, cached_input_tokens: int = 0) -> int:
        """Return the CU of one call. Each part is rounded up by itself, and cached tokens are charged besides."""
        return self.of(input_tokens, cached_input_tokens, output_tokens)

    def of(self, input_tokens: int, cached_tokens: int, output_tokens: int) -> int:
        """Return the same; what is negative is nothing."""
        rate, per = self.input_cu_per_1k or 0, 1_000
        if self.input_cu_per_1m is not None:
            rate, per = self.input_cu_per_1m, 1_000_000
        cost = -(-input_tokens * rate // per) if input_tokens > 0 else 0
        if output_tokens > 0:
            cost += -(-output_tokens * self.output_cu_per_1k // 1_000)
        if cached_tokens > 0:
            cost += -(-cached_tokens * self.cached_cu_per_1k // 1_000)
        return cost


@dataclass(frozen=True)
class PartialLLMCostRates:
    """The rates of one model; what is not set is the default's."""

    input_cu_per_1k: int | None = None
    input_cu_per_1m: int | None = None
    output_cu_per_1k: int | None = None
    cached_cu_per_1k: int | None = None

    def resolve(self, fallback: LLMCostRates) -> LLMCostRates:
        """Return the whole rates."""
        own_input = self.input_cu_per_1k is not None or self.input_cu_per_1m is not None
        chosen: PartialLLMCostRates | LLMCostRates = self if own_input else fallback
        return LLMCostRates(
            input_cu_per_1k=chosen.input_cu_per_1k,
            input_cu_per_1m=chosen.input_cu_per_1m,
            output_cu_per_1k=_or(self.output_cu_per_1k, fallback.output_cu_per_1k),
            cached_cu_per_1k=_or(self.cached_cu_per_1k, fallback.cached_cu_per_1k),
        )


@dataclass(frozen=True)
class CuTariff:
    """What the gateway charges, as it answers `GET /api/v1/cu-tariff`."""

    tariff_version: str
    cu_per_usd: int
    registry_version: str
    llm_default: LLMCostRates
    llm_provider_model_overrides: dict[str, dict[str, PartialLLMCostRates]] = field(default_factory=dict)
    tools: dict[str, int] = field(default_factory=dict)

    @classmethod
    def from_payload(cls, payload: Mapping[str, Any]) -> CuTariff:
        """Read the gateway's answer; raises ValueError for one that is no tariff."""
        payload = _mapping(payload, "CU tariff response must be a mapping.")
        llm = _mapping(payload.get("llm"), "CU tariff response missing 'llm' mapping.")
        default = _mapping(llm.get("default"), "CU tariff response missing 'llm.default' mapping.")
        rates = {name: _rate(default.get(name), name) for name in _RATES if name != "input_cu_per_1m"}
        providers, tools = llm.get("providers"), payload.get("tools")
        return cls(
            tariff_version=_text(payload, "tariff_version"),
            cu_per_usd=_rate(payload.get("cu_per_usd"), "cu_per_usd"),
            registry_version=_text(payload, "registry_version"),
            llm_default=LLMCostRates(input_cu_per_1m=None, **rates),
            llm_provider_model_overrides={
                str(name): _models(provider, f"llm.providers.{name}")
                for name, provider in _mapping(
                    {} if providers is None else providers, _no_mapping("llm.providers")
                ).items()
            },
            tools={
                str(name): _rate(cost, f"tools.{name}")
                for name, cost in _mapping({} if tools is None else tools, _no_mapping("tools")).items()
            },
        )

    def llm_rates(self, *, provider: str | None = None, provider_model_id: str | None = None) -> LLMCostRates:
        """Return the rates of a model: its own by exact name, the default otherwise."""
        own = self.llm_provider_model_overrides.get(provider or "", {}).get(provider_model_id or "")
        return self.llm_default if own is None else own.resolve(self.llm_default)

    def cost_of(
        self, provider: str, model: str, input_tokens: int, cached_tokens: int, output_tokens: int
    ) -> int:
        """Return the CU of one call, as `llm_cost` does."""
        of_provider = self.llm_provider_model_overrides.get(provider)
        if of_provider is None or model not in of_provider:
            rates = self.llm_default
        else:
            rates = of_provider[model].resolve(self.llm_default)
        return rates.of(input_tokens, cached_tokens, output_tokens)

    def llm_cost(
        self,
        *,
        provider: str | None = None,
        provider_model_id: str | None = None,
        input_tokens: int,
        output_tokens: int,
        cached_input_tokens: int = 0,
    ) -> int:
        """Return the CU of one call of a model."""
        return self.cost_of(
            provider or "", provider_model_id or "", input_tokens, cached_input_tokens, output_tokens
        )

    def tool_cost(self, tool_name: str) -> int:
        """Return the CU of one call of a tool; 0 for one that the tariff does not name."""
        return self.tools.get(tool_name, 0)


def _or(own: int | None, fallback: int) -> int:
    return fallback if own is None else own


def _no_mapping(label: str) -> str:
    return f"CU tariff response field '{label}' must be a mapping."


def _mapping(value: Any, message: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(message)
    return value


def _text(payload: Mapping[str, Any], name: str) -> str:
    value = payload.get(name)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"CU tariff response missing valid '{name}'.")
    return value


def _rate(value: Any, label: str) -> int:
    whole = None
    if isinstance(value, bool):
        pass
    elif isinstance(value, int):
        whole = value
    elif isinstance(value, float) and value.is_integer():
        whole = int(value)
    elif isinstance(value, str):
        try:
            whole = int(value)
        except ValueError:
            whole = None
    if whole is None:
        raise ValueError(f"CU tariff response field '{label}' must be an integer.")
    if whole < 0:
        raise ValueError(f"CU tariff response field '{label}' must be non-negative.")
    return whole


def _models(provider: Any, label: str) -> dict[str, PartialLLMCostRates]:
    models = _mapping(provider, _no_mapping(label)).get("models")
    named = _mapping({} if models is None else models, _no_mapping(f"{label}.models"))
    return {str(name): _partial(rates, f"{label}.models.{name}") for name, rates in named.items()}


def _partial(rates: Any, label: str) -> PartialLLMCostRates:
    given = _mapping(rates, _no_mapping(label))
    if given.get("input_cu_per_1k") is not None and given.get("input_cu_per_1m") is not None:
        raise ValueError(
            f"CU tariff response field '{label}' cannot define both 'input_cu_per_1k' and 'input_cu_per_1m'."
        )
    return PartialLLMCostRates(
        **{name: _rate(given[name], f"{label}.{name}") for name in _RATES if given.get(name) is not None}
    )
