"""The gateway's budget interface: tariff, reservation, settlement."""

from __future__ import annotations

import json
import random
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Mapping
from typing import Any, Final

from checkrein.actguard._config import ActGuardConfig
from checkrein.actguard._monitoring import SSL_CERT_FIX_MESSAGE, _is_ssl_cert_error
from checkrein.actguard._redact import redact_text, redact_value
from checkrein.actguard.exceptions import (
    ActGuardPaymentRequired,
    BudgetExceededError,
    BudgetTransportError,
)
from checkrein.actguard.transport._urllib import read_body, start_debug_trace, urlopen

_FINAL: Final = frozenset({400, 401, 403, 422})
"""Answers that would be the same the next time."""

MAX_ERROR_BODY: Final = 64 * 1024


def backoff_s(config: ActGuardConfig, attempt: int) -> float:
    """Return how long to wait after the attempt of this number, counted from 0."""
    base = config.backoff_base_ms
    waits: float = min(base * 2**attempt + random.uniform(0, base), config.backoff_max_ms) / 1000
    return waits


class BudgetTransport:
    """Asks the gateway, within `budget_timeout_s` over all attempts."""

    def __init__(self, config: ActGuardConfig) -> None:
        self._config = config

    def get_public(self, *, path: str) -> Mapping[str, Any]:
        """Get what needs no key."""
        return self._request_json(method="GET", path=path, payload=None, require_auth=False)

    def post(self, *, path: str, payload: Mapping[str, Any]) -> Mapping[str, Any]:
        """Post JSON with the key."""
        return self._request_json(method="POST", path=path, payload=payload, require_auth=True)

    def _request_json(
        self, *, method: str, path: str, payload: Mapping[str, Any] | None, require_auth: bool
    ) -> Mapping[str, Any]:
        config = self._config
        if not config.gateway_url:
            raise BudgetTransportError("Client.gateway_url is required for budget reserve/settle APIs.")
        if require_auth and not config.api_key:
            raise BudgetTransportError("Client.api_key is required for budget reserve/settle APIs.")
        request = self._request(method, path, payload, require_auth=require_auth)
        attempts = max(0, int(config.budget_max_retries)) + 1
        deadline = time.monotonic() + config.budget_timeout_s
        cause: BaseException = TimeoutError("no time left")
        for attempt in range(attempts):
            left = deadline - time.monotonic()
            if attempt == 0:
                # It has it all, whatever a busy machine did since the clock was read.
                left = config.budget_timeout_s
            if left <= 0:
                break
            try:
                return self._once(request, left, deadline, attempt + 1, attempts)
            except Exception as error:
                cause = error
                final = _final_error(path, error)
            if final is not None:
                raise final from cause
            if attempt + 1 == attempts:
                break
            left = deadline - time.monotonic()
            if left <= 0:
                break
            time.sleep(min(backoff_s(config, attempt), left))
        raise BudgetTransportError(
            f"Budget API request failed at {path}: {type(cause).__name__}", cause=cause
        ) from cause

    def _request(
        self, method: str, path: str, payload: Mapping[str, Any] | None, *, require_auth: bool
    ) -> urllib.request.Request:
        config = self._config
        url = f"{(config.gateway_url or '').rstrip('/')}{path}"
        headers = {"Content-Type": "application/json"}
        if require_auth:
            headers["Authorization"] = f"Bearer {config.api_key}"
            # A repeated attempt is the same request: a gateway that reads this reserves or settles once.
            headers["Idempotency-Key"] = str(uuid.uuid4())
        try:
            body = None if payload is None else json.dumps(payload).encode()
            request = urllib.request.Request(url, data=body, headers=headers, method=method)
        except (TypeError, ValueError) as error:
            raise BudgetTransportError(
                f"Budget API request failed at {path}: {type(error).__name__}: {redact_text(str(error))}",
                cause=error,
            ) from error
        if request.type not in ("http", "https"):
            raise BudgetTransportError(f"Client.gateway_url is neither http nor https: {request.type!r}.")
        return request

    def _once(
        self, request: urllib.request.Request, left: float, deadline: float, attempt: int, attempts: int
    ) -> Mapping[str, Any]:
        trace = start_debug_trace(
            request=request,
            timeout=left,
            debug=self._config.debug,
            attempt=attempt,
            max_attempts=attempts,
        )
        try:
            with urlopen(request, timeout=left) as response:
                body = read_body(response, deadline=deadline)
                if trace is not None:
                    trace.log_success(response=response, body=body)
            if not body.strip():
                return {}
            answer = json.loads(body)
            return answer if isinstance(answer, dict) else {}
        except Exception as error:
            if trace is not None:
                trace.log_failure(exc=error)
            raise


def _final_error(path: str, error: Exception) -> Exception | None:
    """Return what to raise at once, or `None` where another attempt may help."""
    if isinstance(error, urllib.error.HTTPError):
        if error.code == 402:
            return _payment_required(path, error)
        if error.code == 409:
            return _budget_exceeded(path, error)
        if error.code in _FINAL:
            detail = _detail(_payload(error))
            said = f"status {error.code} at {path}" + (f": {detail}" if detail else ".")
            return BudgetTransportError(
                f"Budget API request failed with {said}", cause=error, status_code=error.code
            )
        error.close()
        return None
    if _is_ssl_cert_error(error):
        return BudgetTransportError(SSL_CERT_FIX_MESSAGE, cause=error)
    return None


def _payload(error: urllib.error.HTTPError) -> Any:
    """Return the body of an answer that is an error: JSON, text or nothing."""
    try:
        body = error.read(MAX_ERROR_BODY)
    except Exception:
        return None
    text = body.decode("utf-8", "replace").strip() if body else ""
    if not text:
        return None
    try:
        return json.loads(text)
    except ValueError:
        return text


def _detail(payload: Any) -> str | None:
    if isinstance(payload, Mapping):
        payload = _text(payload, "error", "message", "detail", "Message") or _as_json(payload)
    return redact_text(payload)[:500] if isinstance(payload, str) and payload else None


def _as_json(payload: Mapping[str, Any]) -> str:
    return json.dumps(redact_value(payload), separators=(",", ":"), sort_keys=True)


def _text(payload: Mapping[str, Any], *names: str) -> str | None:
    for name in names:
        value = payload.get(name)
        if isinstance(value, str) and value:
            return value
    return None


def _whole(payload: Mapping[str, Any], *names: str) -> int | None:
    for name in names:
        value = payload.get(name)
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    return None


def _payment_required(path: str, error: urllib.error.HTTPError) -> ActGuardPaymentRequired:
    payload = _payload(error)
    said: Mapping[str, Any] = payload if isinstance(payload, Mapping) else {}
    message = _text(said, "Message", "message", "detail", "error")
    if message is None and isinstance(payload, str | Mapping):
        message = (payload if isinstance(payload, str) else _as_json(payload))[:500]
    return ActGuardPaymentRequired(
        path=path,
        status=402,
        user_message=None if message is None else redact_text(message),
        current_balance=_whole(said, "CurrentBalance", "current_balance"),
        required_amount=_whole(said, "RequiredAmount", "required_amount"),
        shortfall=_whole(said, "Shortfall", "shortfall"),
        topup_url=_text(said, "TopupURL", "topup_url"),
        topup_session_id=_text(said, "TopupSessionID", "topup_session_id"),
        user_id=_text(said, "UserID", "user_id"),
        response_payload=dict(said) if isinstance(payload, Mapping) else None,
        cause=error,
    )


def _budget_exceeded(path: str, error: urllib.error.HTTPError) -> BudgetExceededError:
    payload = _payload(error)
    said: Mapping[str, Any] = payload if isinstance(payload, Mapping) else {}
    exceeded = BudgetExceededError(
        user_id=_text(said, "user_id"),
        tokens_used=_whole(said, "tokens_used") or 0,
        cost_used=_whole(said, "cost_used") or 0,
        cost_limit=_whole(said, "cost_limit"),
        limit_type="cost",
        origin="remote",
        path=path,
        status_code=409,
        cause=error,
    )
    detail = _detail(payload)
    if detail:
        exceeded.details["summary"] = detail
    return exceeded
