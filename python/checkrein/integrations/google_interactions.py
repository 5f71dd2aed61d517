"""Google's interactions, which have an HTTP layer of their own beside that of content: metered there, or refused."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from checkrein.integrations import limits, transport
from checkrein.integrations.google_replies import InteractionReading
from checkrein.integrations.metered import Asked, Attempt, Carrier, MeteredCall, current_call, engine_for

if TYPE_CHECKING:
    from checkrein.engine import Engine

_CREATE: Final = "CreateInteraction"
# What costs, and nobody can say how much before it is done.
_UNBOUNDED: Final = {
    "CreateDecision": "a decision",
    "CreateTrigger": "a trigger",
    "RunTrigger": "running a trigger",
}
_ELSEWHERE: Final = ("agent", "background", "environment", "continuation_token")
"""Members of a request whose work goes on where nobody sees it, or went on before."""
_TEXTS: Final = {"user_input": "message", "model_output": "message", "function_result": "tool_result"}
"""Steps that are nothing but what they contain, in the words of others."""

_everywhere: Callable[[], Engine | None] | None = None


class Endpoint:
    """A request that makes an interaction with a model."""

    response_id: str | None = None

    def __init__(self, body: Mapping[str, Any]) -> None:
        model = str(body.get("model") or "").rpartition("/")[2]
        self.asked = Asked(json.dumps(_as_others_say(body, model)), model=model, provider="google")

    def whole(self, attempt: Attempt, body: bytes) -> InteractionReading:
        """Read a reply that is there."""
        reading = self.reading(attempt, "application/json")
        reading.feed(body)
        reading.rest()
        return reading

    def reading(self, attempt: Attempt, content_type: str) -> InteractionReading:
        """Begin to read one that comes in pieces."""
        return InteractionReading(attempt.max_output, is_stream="text/event-stream" in content_type)


def _as_others_say(body: Mapping[str, Any], model: str) -> dict[str, Any]:
    """Say a request in words that are read: what it refers to, and which of its parts are text."""
    said = {**body, "model": model}
    if said.pop("previous_interaction_id", None) is not None:
        said["previous_response_id"] = "an interaction"
    steps = said.get("input")
    if isinstance(steps, list):
        said["input"] = [_step(step) for step in steps]
    return said


def _step(step: object) -> object:
    kind = step.get("type") if isinstance(step, Mapping) else None
    return {**step, "type": _TEXTS[kind]} if isinstance(step, Mapping) and kind in _TEXTS else step


def watch(api: Any, engine: Engine | None) -> None:
    """Meter what goes out over the HTTP clients of one client."""
    _install()
    for name in ("_httpx_client", "_async_httpx_client"):
        client = getattr(api, name, None)
        if client is not None:
            client._checkrein_given = lambda: engine


def watch_all(given: Callable[[], Engine | None] | None) -> None:
    """Meter everything that goes out from now on, or stop that."""
    global _everywhere
    _everywhere = given
    if given is not None:
        _install()


def _install() -> None:
    """Put the meter around the methods that send; it does nothing for a client that nobody watches."""
    try:
        from google.genai._gaos.basesdk import AsyncBaseSDK, BaseSDK
    except ImportError:
        # Versions before these had no such layer.
        return
    for base, name, around in (
        (BaseSDK, "do_request", _around),
        (AsyncBaseSDK, "do_request_async", _aaround),
    ):
        original = base.__dict__[name]
        if not hasattr(original, "_checkrein_meters"):
            metered = around(original)
            metered._checkrein_meters = True
            setattr(base, name, metered)


def _around(original: Callable[..., Any]) -> Any:
    @functools.wraps(original)
    def do_request(self: Any, hook_ctx: Any, request: Any, *args: Any, **named: Any) -> Any:
        client = self.sdk_configuration.client
        call = _call(client, hook_ctx, request)
        if call is None:
            return original(self, hook_ctx, request, *args, **named)
        transport.meter_client(client)
        attempt = call.begin()
        token = current_call.set(call)
        try:
            response = original(self, hook_ctx, _bounded(request, attempt), *args, **named)
        except BaseException as error:
            call.end(error)
            if isinstance(error, Carrier):
                raise error.error from None
            raise
        finally:
            current_call.reset(token)
        call.end(None)
        return response

    return do_request


def _aaround(original: Callable[..., Any]) -> Any:
    @functools.wraps(original)
    async def do_request_async(self: Any, hook_ctx: Any, request: Any, *args: Any, **named: Any) -> Any:
        client = self.sdk_configuration.async_client
        call = _call(client, hook_ctx, request)
        if call is None:
            return await original(self, hook_ctx, request, *args, **named)
        transport.meter_client(client)
        attempt = await call.abegin()
        token = current_call.set(call)
        try:
            response = await original(self, hook_ctx, _bounded(request, attempt), *args, **named)
        except BaseException as error:
            await call.aend(error)
            if isinstance(error, Carrier):
                raise error.error from None
            raise
        finally:
            current_call.reset(token)
        await call.aend(None)
        return response

    return do_request_async


def _call(client: Any, hook_ctx: Any, request: Any) -> MeteredCall | None:
    """Read a request; nothing for one that nobody watches, or that costs nothing."""
    given = getattr(client, "_checkrein_given", None) or _everywhere
    operation = getattr(hook_ctx, "operation_id", "")
    if given is None or (operation != _CREATE and operation not in _UNBOUNDED):
        return None
    engine = engine_for(given())
    if operation != _CREATE:
        limits.refuse_unmetered(engine, _UNBOUNDED[operation])
        return None
    body = json.loads(request.content)
    if any(body.get(name) for name in _ELSEWHERE):
        limits.refuse_unmetered(
            engine, "an interaction with an agent, or one that goes on in the background,"
        )
        return None
    endpoint = Endpoint(body)
    return MeteredCall(engine, endpoint.asked, endpoint, client)


def _bounded(request: Any, attempt: Attempt) -> Any:
    """Send the maximum that was held for, where the caller set none."""
    body, most = json.loads(request.content), attempt.max_output
    config = body.get("generation_config") or {}
    if most is None or config.get("max_output_tokens") is not None:
        return request
    body["generation_config"] = {**config, "max_output_tokens": most}
    headers = request.headers.copy()
    # The new content has a length of its own.
    headers.pop("content-length", None)
    return type(request)(
        request.method,
        request.url,
        headers=headers,
        content=json.dumps(body).encode(),
        extensions=request.extensions,
    )
