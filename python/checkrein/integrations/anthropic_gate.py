"""The middleware of Anthropic's SDK that holds each attempt of a call before it is sent."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from anthropic import Middleware

from checkrein.integrations import transport
from checkrein.integrations.anthropic_messages import Endpoint, endpoint_of
from checkrein.integrations.metered import Attempt, engine_for

if TYPE_CHECKING:
    from checkrein.engine import Engine


class GateMiddleware(Middleware):
    """Holds the most that each attempt can cost, and settles it by what the reply says was used.

    It belongs last, next to the HTTP client: then it sees each request that is really sent, those of other
    middleware too. `checkrein.wrap(client)` puts it there, and keeps it there in every copy of the client.
    """

    def __init__(
        self, given: Callable[[], Engine | None] = lambda: None, *, provider: str = "anthropic"
    ) -> None:
        self._given = given
        self._provider = provider

    def handle(self, request: Any, call_next: Callable[[Any], Any]) -> Any:
        """Hold, send, settle."""
        engine = engine_for(self._given())
        endpoint = endpoint_of(request.method, str(request.url), _body(request), self._provider, engine)
        if endpoint is None:
            return call_next(request)
        attempts = _attempts(request, endpoint, engine)
        _admit_all(attempts)
        try:
            response = call_next(_bounded(request, endpoint, attempts[0]))
        except BaseException as error:
            for attempt in attempts:
                attempt.fail(_root(error))
            raise
        for attempt in attempts:
            _answered(endpoint, attempt, response)
        return response

    async def handle_async(self, request: Any, call_next: Callable[[Any], Any]) -> Any:
        """Do the same on an event loop."""
        engine = engine_for(self._given())
        endpoint = endpoint_of(request.method, str(request.url), _body(request), self._provider, engine)
        if endpoint is None:
            return await call_next(request)
        attempts = _attempts(request, endpoint, engine)
        await _aadmit_all(attempts)
        try:
            response = await call_next(_bounded(request, endpoint, attempts[0]))
        except BaseException as error:
            for attempt in attempts:
                await attempt.afail(_root(error))
            raise
        for attempt in attempts:
            await _aanswered(endpoint, attempt, response)
        return response


def _body(request: Any) -> Any:
    """Return what is sent: values, or the bytes that somebody made of them."""
    return request.json if request.json is not None else getattr(request.options, "content", None)


def _attempts(request: Any, endpoint: Endpoint, engine: Engine) -> list[Attempt]:
    call_id = request.options.idempotency_key or uuid.uuid4().hex
    return [Attempt(engine, asked, call_id, request.retries_taken + 1) for asked in endpoint.all_asked]


def _admit_all(attempts: Sequence[Attempt]) -> None:
    for number, attempt in enumerate(attempts):
        try:
            attempt.admit()
        except BaseException:
            for earlier in attempts[:number]:
                earlier.release()
            raise


async def _aadmit_all(attempts: Sequence[Attempt]) -> None:
    for number, attempt in enumerate(attempts):
        try:
            await attempt.aadmit()
        except BaseException:
            for earlier in attempts[:number]:
                await earlier.arelease()
            raise


def _bounded(request: Any, endpoint: Endpoint, attempt: Attempt) -> Any:
    """Send the maximum that was held for, and wait no longer than the policy says."""
    body, most = endpoint.maximum(request.json, attempt), attempt.timeout
    changed: dict[str, Any] = {} if body is None else {"body": body}
    if most is not None and not (isinstance(request.timeout, int | float) and request.timeout <= most):
        changed["timeout"] = most
    return request.copy(**changed) if changed else request


def _root(error: BaseException) -> BaseException:
    """Find what the HTTP client said: the SDK puts an error of its own before it."""
    return error.__cause__ if error.__cause__ is not None else error


def _answered(endpoint: Endpoint, attempt: Attempt, response: Any) -> None:
    http = getattr(response, "http_response", response)
    status = getattr(http, "status_code", None)
    if status is None:
        # Another middleware answered by itself after all, and what it sent before that nobody knows.
        attempt.settle_in_full()
    else:
        transport.received(endpoint, attempt, http)


async def _aanswered(endpoint: Endpoint, attempt: Attempt, response: Any) -> None:
    http = getattr(response, "http_response", response)
    status = getattr(http, "status_code", None)
    if status is None:
        await attempt.asettle_in_full()
    else:
        await transport.areceived(endpoint, attempt, http)
