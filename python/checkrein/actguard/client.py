"""The client: where runs and budgets come from, and how the gateway is reached."""

from __future__ import annotations

import base64
import binascii
import json
import os
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final, Literal

from checkrein.actguard._config import ActGuardConfig
from checkrein.actguard._debug import ensure_actguard_debug_handler
from checkrein.actguard._redact import redact_text
from checkrein.actguard.budget import BudgetGuard
from checkrein.actguard.core.runtime import ClientRunContext
from checkrein.actguard.costs import CuTariff
from checkrein.actguard.events.client import EventClient
from checkrein.actguard.exceptions import ActGuardUsageError, BudgetTransportError
from checkrein.actguard.integrations.manager import IntegrationBootstrap
from checkrein.actguard.transport.budget_api import BudgetTransport

DEFAULT_GATEWAY_URL: Final = "https://api.actguard.ai"

OnUnreachable = Literal["closed", "open"]

_FROM_FILE: Final = (
    "api_key",
    "gateway_url",
    "debug",
    "event_mode",
    "flush_interval_ms",
    "max_batch_events",
    "max_batch_bytes",
    "max_queue_events",
    "timeout_s",
    "max_retries",
    "budget_timeout_s",
    "budget_max_retries",
    "event_timeout_s",
    "event_max_retries",
    "backoff_base_ms",
    "backoff_max_ms",
    "on_unreachable",
)


class Client:
    """Makes runs and budgets, and talks to the gateway.

    api_key: without one, budgets are local and no events are sent.
    gateway_url: where the gateway is; redirections are not followed, because they would take the key along.
    debug: print every request and answer to stderr, without secrets.
    event_mode: "verbose", "significant" or "off".
    timeout_s, max_retries: for both of the two below that are not given.
    budget_timeout_s, budget_max_retries: for tariff, reservation and settlement; the time is for all attempts together.
    event_timeout_s, event_max_retries: for batches of events; the time is for each attempt.
    on_unreachable: what a guard with a limit does when the gateway does not answer: "closed" raises
        BudgetTransportError, "open" warns and goes on without what the gateway would have said.
    """

    def __init__(
        self,
        *,
        api_key: str | None = None,
        gateway_url: str | None = None,
        debug: bool = False,
        event_mode: str = "verbose",
        flush_interval_ms: int = 1000,
        max_batch_events: int = 100,
        max_batch_bytes: int = 256_000,
        max_queue_events: int = 10_000,
        timeout_s: float | None = None,
        max_retries: int | None = None,
        budget_timeout_s: float | None = None,
        budget_max_retries: int | None = None,
        event_timeout_s: float | None = None,
        event_max_retries: int | None = None,
        backoff_base_ms: int = 200,
        backoff_max_ms: int = 10_000,
        on_unreachable: OnUnreachable = "closed",
    ) -> None:
        if on_unreachable not in ("closed", "open"):
            raise ActGuardUsageError(
                'on_unreachable must be "closed" or "open".', code="usage.client_configuration"
            )
        self.api_key = api_key
        self.gateway_url = (DEFAULT_GATEWAY_URL if gateway_url is None else gateway_url).rstrip("/")
        self.debug = debug
        self.event_mode = event_mode
        self.flush_interval_ms = flush_interval_ms
        self.max_batch_events = max_batch_events
        self.max_batch_bytes = max_batch_bytes
        self.max_queue_events = max_queue_events
        self.budget_timeout_s = _first(budget_timeout_s, timeout_s, 3.0)
        self.budget_max_retries = _first(budget_max_retries, max_retries, 1)
        self.event_timeout_s = _first(event_timeout_s, timeout_s, 5.0)
        self.event_max_retries = _first(event_max_retries, max_retries, 8)
        self.timeout_s = _first(timeout_s, self.event_timeout_s, 5.0)
        self.max_retries = _first(max_retries, self.event_max_retries, 8)
        self.backoff_base_ms = backoff_base_ms
        self.backoff_max_ms = backoff_max_ms
        self.on_unreachable = on_unreachable
        self._config = ActGuardConfig(
            gateway_url=self.gateway_url,
            api_key=api_key,
            debug=debug,
            event_mode=event_mode,
            flush_interval_ms=flush_interval_ms,
            max_batch_events=max_batch_events,
            max_batch_bytes=max_batch_bytes,
            max_queue_events=max_queue_events,
            budget_timeout_s=self.budget_timeout_s,
            budget_max_retries=self.budget_max_retries,
            event_timeout_s=self.event_timeout_s,
            event_max_retries=self.event_max_retries,
            timeout_s=self.timeout_s,
            max_retries=self.max_retries,
            backoff_base_ms=backoff_base_ms,
            backoff_max_ms=backoff_max_ms,
        )
        if debug:
            ensure_actguard_debug_handler()
        self._event_client: EventClient | None = (
            EventClient(self._config) if self._config.events_enabled else None
        )
        self._budget_transport = BudgetTransport(self._config)
        self._integration_bootstrap = IntegrationBootstrap()
        self._cu_tariff_cache: CuTariff | None = None

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Client:
        """Make a client from a JSON file with the names of the parameters; other members are ignored."""
        with open(path, encoding="utf-8") as opened:
            return cls._from_mapping(json.load(opened))

    @classmethod
    def from_env(cls) -> Client:
        """Make a client from ACTGUARD_CONFIG: base64 of such a JSON object, or the path of a file with one."""
        given = os.environ.get("ACTGUARD_CONFIG")
        if not given:
            return cls()
        try:
            settings = json.loads(base64.b64decode(given, validate=True))
        except (binascii.Error, ValueError):
            return cls.from_file(given)
        return cls._from_mapping(settings)

    @classmethod
    def _from_mapping(cls, settings: Any) -> Client:
        if not isinstance(settings, Mapping):
            raise ActGuardUsageError(
                "The client configuration must be a JSON object.", code="usage.client_configuration"
            )
        return cls(**{name: settings[name] for name in _FROM_FILE if settings.get(name) is not None})

    @property
    def event_client(self) -> EventClient | None:
        """What sends events; `None` without a key, with `event_mode="off"` and after `close()`."""
        return self._event_client

    @property
    def reporting_config(self) -> ActGuardConfig:
        """The settings of transports and events."""
        return self._config

    def __repr__(self) -> str:
        key = "with a key" if self.api_key else "without a key"
        return f"<Client {redact_text(self.gateway_url)!r} {key} on_unreachable={self.on_unreachable!r}>"

    def run(self, user_id: str | None = None, run_id: str | None = None) -> ClientRunContext:
        """Return a run, for `with` or `async with`."""
        return ClientRunContext(client=self, user_id=user_id, run_id=run_id)

    def budget_guard(
        self,
        *,
        user_id: str | None = None,
        name: str | None = None,
        cost_limit: int | None = None,
        run_id: str | None = None,
        plan_key: str | None = None,
        token_limit: int | None = None,
        usd_limit: float | Decimal | None = None,
        on_unreachable: OnUnreachable | None = None,
    ) -> BudgetGuard:
        """Return a budget inside a run, for `with` or `async with`; see BudgetGuard."""
        return BudgetGuard(
            client=self,
            user_id=user_id,
            name=name,
            cost_limit=cost_limit,
            run_id=run_id,
            plan_key=plan_key,
            token_limit=token_limit,
            usd_limit=usd_limit,
            on_unreachable=on_unreachable,
        )

    def prepare_budget_scope(self) -> None:
        """Let the provider SDKs that are imported, or will be, count in budgets."""
        self._integration_bootstrap.ensure_patched()

    def get_cu_tariff(self, *, force_refresh: bool = False) -> CuTariff:
        """Return the gateway's tariff, asked once in the life of the client.

        Raises BudgetTransportError, or ValueError for an answer that is no tariff.
        """
        if self._cu_tariff_cache is None or force_refresh:
            answer = self._budget_transport.get_public(path="/api/v1/cu-tariff")
            self._cu_tariff_cache = CuTariff.from_payload(answer)
        return self._cu_tariff_cache

    def reserve_budget(
        self,
        *,
        run_id: str,
        cost_limit: int | None = None,
        plan_key: str | None = None,
        user_id: str | None = None,
    ) -> Mapping[str, Any]:
        """Reserve a budget at the gateway, and return its answer.

        Raises BudgetTransportError, ActGuardPaymentRequired and, where the gateway says that it is spent,
        BudgetExceededError.
        """
        payload: dict[str, Any] = {"run_id": run_id}
        optional = {"cost_limit": cost_limit, "plan_key": plan_key, "user_id": user_id}
        payload.update({name: value for name, value in optional.items() if value not in (None, "")})
        answer = self._budget_transport.post(path="/api/v1/reserve", payload=payload)
        reserve_id = answer.get("reserve_id")
        if not isinstance(reserve_id, str) or not reserve_id:
            raise BudgetTransportError("Budget reserve response missing required 'reserve_id'.")
        return {"status": "reserved", **answer}

    def settle_budget(
        self,
        *,
        reserve_id: str,
        input_tokens: int,
        cached_input_tokens: int,
        output_tokens: int,
        usage_breakdown: list[Mapping[str, object]],
        cache_write_tokens_5m: int | None = None,
        cache_write_tokens_1h: int | None = None,
        web_search_count: int | None = None,
        reasoning_effort: str | None = None,
    ) -> Mapping[str, Any]:
        """Tell the gateway what a reservation was used for, and return its answer; raises as `reserve_budget` does."""
        payload: dict[str, Any] = {
            "reserve_id": reserve_id,
            "input_tokens": input_tokens,
            "cached_input_tokens": cached_input_tokens,
            "output_tokens": output_tokens,
            "usage_breakdown": list(usage_breakdown),
        }
        optional = {
            "cache_write_tokens_5m": cache_write_tokens_5m,
            "cache_write_tokens_1h": cache_write_tokens_1h,
            "web_search_count": web_search_count,
            "reasoning_effort": reasoning_effort,
        }
        payload.update({name: value for name, value in optional.items() if value is not None})
        return self._budget_transport.post(path="/api/v1/settle", payload=payload)

    def close(self) -> None:
        """Send what events are waiting, and stop. What is not closed sends them when the program ends."""
        events, self._event_client = self._event_client, None
        if events is not None:
            events.close(wait=True)


def _first(*given: Any) -> Any:
    return next(value for value in given if value is not None)
