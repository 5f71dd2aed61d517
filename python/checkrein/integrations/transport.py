"""The HTTP clients of SDKs: what they send inside a metered call is an attempt of it, in httpx and httpx2 alike."""

from __future__ import annotations

import functools
import inspect
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any, Protocol

from checkrein.integrations.metered import Attempt, Carrier, MeteredCall, current_call
from checkrein.integrations.streams import AsyncBody, Meter, Reading, SyncBody, shaped


class Door(Protocol):
    """What an integration reads out of the replies of one call."""

    def whole(self, attempt: Attempt, body: bytes) -> Reading:
        """Read a reply that is there."""

    def reading(self, attempt: Attempt, content_type: str) -> Reading:
        """Begin to read one that comes in pieces."""


_lock = threading.Lock()


def meter_client(client: Any) -> None:
    """Let an HTTP client ask the metered call of its context before it sends; outside of one nothing changes."""
    if "_checkrein_send" in client.__dict__:
        return
    is_async = inspect.iscoroutinefunction(type(client).send)
    with _lock:
        # Two threads may make its first call: asked twice, it would take two holds for one attempt.
        if "_checkrein_send" in client.__dict__:
            return
        # The client must not hold itself: some SDKs close theirs when the last reference goes.
        own = client.__dict__.get("send")
        client.send = functools.partial(_asend if is_async else _send, weakref.ref(client), own)
        client._checkrein_send = True


def _of_client(reference: Callable[[], Any], own: Any) -> tuple[Any, MeteredCall | None]:
    client = reference()
    send = own if own is not None else functools.partial(type(client).send, client)
    call = current_call.get()
    # What a closed client raises was never sent; what another client sends is no attempt of this call.
    if call is None or call.sender is not client or client.is_closed:
        return send, None
    return send, call


def _send(reference: Callable[[], Any], own: Any, request: Any, **options: Any) -> Any:
    send, call = _of_client(reference, own)
    if call is None:
        return send(request, **options)
    attempt = call.attempt()
    try:
        response = send(request, **options)
    except BaseException as error:
        attempt.fail(error)
        raise
    try:
        received(call.door, attempt, response)
    except Exception as error:
        response.close()
        raise Carrier(error) from None
    return response


async def _asend(reference: Callable[[], Any], own: Any, request: Any, **options: Any) -> Any:
    send, call = _of_client(reference, own)
    if call is None:
        return await send(request, **options)
    attempt = await call.aattempt()
    try:
        response = await send(request, **options)
    except BaseException as error:
        await attempt.afail(error)
        raise
    try:
        await areceived(call.door, attempt, response)
    except Exception as error:
        await response.aclose()
        raise Carrier(error) from None
    return response


def _comes_later(response: Any) -> bool:
    return response.status_code < 300 and not hasattr(response, "_content")


def received(door: Door, attempt: Attempt, response: Any) -> None:
    """End an attempt by a reply that is there, or put its body under a meter."""
    _received(door, attempt, response, SyncBody)


async def areceived(door: Door, attempt: Attempt, response: Any) -> None:
    """Do the same on an event loop."""
    if not attempt.waits or _comes_later(response):
        _received(door, attempt, response, AsyncBody)
    elif response.status_code >= 300:
        await attempt.arefuse(response.status_code)
    else:
        await Meter(attempt, _whole(door, attempt, response)).aend()


def _received(door: Door, attempt: Attempt, response: Any, body: type[SyncBody | AsyncBody]) -> None:
    if response.status_code >= 300:
        attempt.refuse(response.status_code)
        return
    if not _comes_later(response):
        Meter(attempt, _whole(door, attempt, response)).end()
        return
    reading = door.reading(attempt, response.headers.get("content-type", ""))
    library = sys.modules[type(response).__mro__[-2].__module__.partition(".")[0]]
    base = library.SyncByteStream if body is SyncBody else library.AsyncByteStream
    response.stream = shaped(body, base)(response.stream, Meter(attempt, reading), _decoder(response))


def _whole(door: Door, attempt: Attempt, response: Any) -> Reading:
    """Read a reply that is there already: streams are too, where something in between has collected them."""
    kind = response.headers.get("content-type", "")
    if not kind.lower().startswith("text/event-stream"):
        return door.whole(attempt, response.content)
    reading = door.reading(attempt, kind)
    response._content = b"".join([*reading.feed(response.content), reading.rest()])
    return reading


def _decoder(response: Any) -> Plain | None:
    """Take over the decoding of a compressed body: its reader gets it plain."""
    if not response.headers.get("content-encoding"):
        return None
    decoder = response._get_content_decoder()
    # What the reader asks now finds no encoding any more.
    del response._decoder
    del response.headers["content-encoding"]
    return Plain(decoder)


class Plain:
    """Decodes a compressed body."""

    def __init__(self, decoder: Any) -> None:
        self._decoder = decoder

    def decode(self, data: bytes) -> bytes:
        """Return what more of the body says."""
        return _joined(self._decoder.decode(data))

    def flush(self) -> bytes:
        """Return what its end says."""
        return _joined(self._decoder.flush())


def _joined(plain: Any) -> bytes:
    # httpx gives bytes, httpx2 pieces of them.
    return plain if isinstance(plain, bytes) else b"".join(plain)
