"""Google's SDK: every attempt of `google-genai` goes through one method of its HTTP layer, and is held there."""

from __future__ import annotations

import dataclasses
import functools
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from checkrein.errors import ConfigError, NotExecuted
from checkrein.integrations import limits
from checkrein.integrations.google_content import Endpoint, endpoint_of
from checkrein.integrations.metered import Attempt, engine_for
from checkrein.integrations.patches import Patches, inherited
from checkrein.integrations.streams import Meter

if TYPE_CHECKING:
    from checkrein.engine import Engine

Given = Callable[[], "Engine | None"]

_held: ContextVar[bool] = ContextVar("checkrein_google_held", default=False)
"""An attempt is held already: a client that is wrapped may be instrumented as well."""


def is_client(client: object) -> bool:
    """Whether this is a client of the SDK, or the asynchronous half of one."""
    from google.genai.client import AsyncClient, Client

    return isinstance(client, Client | AsyncClient)


def wrap(client: Any, engine: Engine | None) -> Any:
    """Hold the calls of a client from now on, those of its `aio`, `chats` and everything else it hands out too."""
    from checkrein.integrations import google_interactions

    api = client._api_client
    own = type(api)
    if "_checkrein_wrapped" in own.__dict__:
        own = own.__mro__[1]
    _check(own)
    names = {"__module__": own.__module__, "__qualname__": own.__qualname__, "_checkrein_wrapped": True}
    made: Any = type(own.__name__, (own,), names)
    for name, put in _PATCHES.items():
        setattr(made, name, put(inherited(made, name), lambda: engine))
    api.__class__ = made
    google_interactions.watch(api, engine)
    return client


def instrument(engine: Engine | None) -> None:
    """Hold the calls of every client, those that exist too; a second time only the engine changes."""
    from google.genai._api_client import BaseApiClient

    from checkrein.integrations import google_interactions

    _check(BaseApiClient)
    _state.engine = engine
    if _state.patches:
        return
    for name, put in _PATCHES.items():
        _state.patches.replace(BaseApiClient, name, functools.partial(put, given=lambda: _state.engine))
    google_interactions.watch_all(lambda: _state.engine)


def _check(base: type) -> None:
    """Raise where the methods that send are not those that are known: nothing would be held."""
    missing = [name for name in _PATCHES if not hasattr(base, name)]
    if missing:
        from google.genai import version

        hint = "take version 3 of it, or put `engine.model_call` around your own calls"
        text = f"google-genai {version.__version__} has no `{missing[0]}`, and its calls cannot be held"
        raise ConfigError(text, "sdk_version", hint)


def uninstrument() -> None:
    """Put everything back that `instrument` replaced."""
    from checkrein.integrations import google_interactions

    _state.patches.remove()
    google_interactions.watch_all(None)
    _state.engine = None


class _State:
    """What `instrument` replaced."""

    def __init__(self) -> None:
        self.engine: Engine | None = None
        self.patches = Patches()


_state = _State()


def _sending(original: Callable[..., Any], given: Given) -> Any:
    """Put the meter around the one method that sends an attempt."""

    @functools.wraps(original)
    def send(self: Any, http_request: Any, stream: bool = False, **more: Any) -> Any:
        engine = engine_for(given())
        endpoint = None if _held.get() else _read(http_request, engine)
        if endpoint is None:
            return original(self, http_request, stream, **more)
        attempts = _attempts(endpoint, http_request, engine)
        for number, attempt in enumerate(attempts):
            try:
                attempt.admit()
            except BaseException:
                for earlier in attempts[:number]:
                    earlier.release()
                raise
        token = _held.set(True)
        try:
            response = original(self, _bounded(http_request, endpoint, attempts), stream, **more)
        except BaseException as error:
            for attempt in attempts:
                _failed(attempt, _of(getattr(self, "_httpx_client", None), error))
            raise
        finally:
            _held.reset(token)
        for attempt in attempts:
            meter = _received(endpoint, attempt, response, stream)
            if meter is not None:
                meter.end()
        return response

    return send


def _asending(original: Callable[..., Any], given: Given) -> Any:
    """Put the meter around its asynchronous twin."""

    @functools.wraps(original)
    async def send(self: Any, http_request: Any, stream: bool = False, **more: Any) -> Any:
        engine = engine_for(given())
        endpoint = None if _held.get() else _read(http_request, engine)
        if endpoint is None:
            return await original(self, http_request, stream, **more)
        attempts = _attempts(endpoint, http_request, engine)
        for number, attempt in enumerate(attempts):
            try:
                await attempt.aadmit()
            except BaseException:
                for earlier in attempts[:number]:
                    await earlier.arelease()
                raise
        # The SDK's own second try over aiohttp would send twice on one hold: only tries that are seen are made.
        named = {**more, "implicit_retry": False} if "implicit_retry" in _parameters(original) else more
        token = _held.set(True)
        try:
            response = await original(self, _bounded(http_request, endpoint, attempts), stream, **named)
        except BaseException as error:
            for attempt in attempts:
                await _afailed(attempt, _of(getattr(self, "_async_httpx_client", None), error))
            raise
        finally:
            _held.reset(token)
        for attempt in attempts:
            meter = _received(endpoint, attempt, response, stream)
            if meter is not None:
                await meter.aend()
        return response

    return send


def _connecting(original: Callable[..., Any], given: Given) -> Any:
    """Refuse what streams both ways for as long as it likes, where a limit counts."""

    @functools.wraps(original)
    def address(self: Any, *args: Any, **named: Any) -> Any:
        limits.refuse_unmetered(engine_for(given()), "a live session")
        return original(self, *args, **named)

    return address


_PATCHES: Final[dict[str, Callable[..., Any]]] = {
    "_request_once": _sending,
    "_async_request_once": _asending,
    "_websocket_base_url": _connecting,
}


@functools.lru_cache(maxsize=8)
def _parameters(function: Callable[..., Any]) -> frozenset[str]:
    import inspect

    return frozenset(inspect.signature(function).parameters)


def _read(http_request: Any, engine: Engine) -> Endpoint | None:
    return endpoint_of(http_request.method, http_request.url, http_request.data, engine)


def _attempts(endpoint: Endpoint, http_request: Any, engine: Engine) -> list[Attempt]:
    """Prepare the holds of an attempt; the SDK sends the same request again when it tries again."""
    call_id, number = getattr(http_request, "_checkrein_call", None) or (uuid.uuid4().hex, 0)
    http_request._checkrein_call = (call_id, number + 1)
    return [Attempt(engine, asked, call_id, number + 1) for asked in endpoint.all_asked]


def _bounded(http_request: Any, endpoint: Endpoint, attempts: Sequence[Attempt]) -> Any:
    """Send the maximum that was held for, and wait no longer than the policy says."""
    own, most = http_request.timeout, attempts[0].timeout
    timeout = most if most is not None and (own is None or own > most) else own
    data = endpoint.bounded(http_request.data, attempts)
    return dataclasses.replace(http_request, data=data, timeout=timeout)


def _of(client: Any, error: BaseException) -> BaseException:
    """Say of an error whether the HTTP client was closed already: then nothing was sent."""
    is_closed = isinstance(error, RuntimeError) and getattr(client, "is_closed", False)
    return NotExecuted("the client is closed") if is_closed else error


def _status(error: BaseException) -> int | None:
    from google.genai.errors import APIError

    return error.code if isinstance(error, APIError) and isinstance(error.code, int) else None


def _failed(attempt: Attempt, error: BaseException) -> None:
    status = _status(error)
    if status is None:
        attempt.fail(error)
    else:
        attempt.refuse(status)


async def _afailed(attempt: Attempt, error: BaseException) -> None:
    status = _status(error)
    if status is None:
        await attempt.afail(error)
    else:
        await attempt.arefuse(status)


def _received(endpoint: Endpoint, attempt: Attempt, response: Any, stream: bool) -> Meter | None:
    """Return what ends an attempt whose reply is there; a stream gets a class that ends it when it is read."""
    reading = endpoint.reading(attempt)
    meter = Meter(attempt, reading)
    if stream:
        response.__class__ = _metered(type(response))
        response._checkrein_meter = meter
        return None
    whole: Sequence[Any] = response.response_stream or ()
    if not endpoint.is_batch and whole:
        reading.feed(whole[0].encode() if isinstance(whole[0], str) else whole[0])
    return meter


_shapes: dict[type, type] = {}


def _metered(base: Any) -> type:
    """Return the class of a streamed reply that tells its meter what is read of it."""
    found = _shapes.get(base)
    if found is not None:
        return found

    class Metered(base):  # type: ignore[misc]
        """A reply that comes in chunks, whatever brings them: httpx, httpx2, requests or aiohttp."""

        _checkrein_meter: Meter

        def segments(self) -> Iterator[Any]:
            meter, chunks = self._checkrein_meter, super().segments()
            try:
                for chunk in chunks:
                    meter.reading.chunk(chunk)  # type: ignore[attr-defined]
                    yield chunk
                    if meter.reading.reply is None and meter.is_spent():
                        raise meter.refusal()
            finally:
                chunks.close()
                meter.end()

        def __aiter__(self) -> AsyncIterator[Any]:
            # The base keeps its iterator, which keeps it. Such a circle is left to the collector, and what is open
            # then is closed side by side, each part in the way of another.
            return self.async_segments()

        async def async_segments(self) -> AsyncIterator[Any]:
            meter, chunks = self._checkrein_meter, super().async_segments()
            try:
                async for chunk in chunks:
                    meter.reading.chunk(chunk)  # type: ignore[attr-defined]
                    yield chunk
                    if meter.reading.reply is None and meter.is_spent():
                        raise meter.refusal()
            finally:
                await chunks.aclose()
                await meter.aend()

        def __del__(self) -> None:
            self._checkrein_meter.forget()

    Metered.__name__, Metered.__qualname__, Metered.__module__ = (
        base.__name__,
        base.__qualname__,
        base.__module__,
    )
    _shapes[base] = Metered
    return Metered
