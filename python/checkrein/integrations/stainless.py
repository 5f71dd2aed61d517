"""The SDKs that one generator makes, openai and anthropic: their one way out is `request`, and this is put around it.

A class of clients is instrumented by replacing its `request`, a single client by giving it a class of its own, which
its copies by `with_options` have too. Inside, every attempt of the SDK's retry loop is one of the metered call.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from checkrein.integrations import transport
from checkrein.integrations.limits import refuse_unmetered
from checkrein.integrations.metered import Asked, Attempt, Carrier, MeteredCall, current_call, engine_for
from checkrein.integrations.patches import Patches, inherited
from checkrein.integrations.responses import LookupCall

if TYPE_CHECKING:
    from checkrein.engine import Engine


class Endpoint(transport.Door, Protocol):
    """One kind of request of a dialect, as it was read."""

    asked: Asked | None
    """What the call is decided by; `None` for a request that only looks a reply up."""
    response_id: str | None
    """The reply that is looked up."""

    unbounded: str | None
    """What nobody can bound, and is refused where a limit counts; nothing is metered then."""

    def sent(self, options: Any, attempt: Attempt) -> Any:
        """Return the options of the request as they are sent, with the maximum of output that was held for."""


Dialect = Callable[[Any, Any], Endpoint | None]
"""Reads a request from its client and its options; `None` for one that is none of our business."""


def around(original: Callable[..., Any], dialect: Dialect, given: Callable[[], Engine | None]) -> Any:
    """Put the meter around `request` of a synchronous client class."""

    @functools.wraps(original)
    def request(self: Any, cast_to: Any, options: Any, *more: Any, **named: Any) -> Any:
        endpoint = None if _is_inside(self) else dialect(self, options)
        if endpoint is None:
            return original(self, cast_to, options, *more, **named)
        if endpoint.unbounded is not None:
            refuse_unmetered(engine_for(given()), endpoint.unbounded)
            return original(self, cast_to, options, *more, **named)
        transport.meter_client(self._client)
        if endpoint.asked is None:
            looking = LookupCall(endpoint.response_id or "", endpoint, self._client)
            return _inside(looking, original, self, cast_to, options, *more, **named)
        call = MeteredCall(engine_for(given()), endpoint.asked, endpoint, self._client)
        attempt = call.begin()
        try:
            prepared = _bounded(endpoint.sent(options, attempt), attempt)
            reply = _loose(_inside(call, original, self, cast_to, prepared, *more, **named))
        except BaseException as error:
            call.end(error)
            raise
        call.end(None)
        return reply

    return request


def aaround(original: Callable[..., Any], dialect: Dialect, given: Callable[[], Engine | None]) -> Any:
    """Put the meter around `request` of an asynchronous client class."""

    @functools.wraps(original)
    async def request(self: Any, cast_to: Any, options: Any, *more: Any, **named: Any) -> Any:
        endpoint = None if _is_inside(self) else dialect(self, options)
        if endpoint is None:
            return await original(self, cast_to, options, *more, **named)
        if endpoint.unbounded is not None:
            refuse_unmetered(engine_for(given()), endpoint.unbounded)
            return await original(self, cast_to, options, *more, **named)
        transport.meter_client(self._client)
        if endpoint.asked is None:
            looking = LookupCall(endpoint.response_id or "", endpoint, self._client)
            return await _ainside(looking, original, self, cast_to, options, *more, **named)
        call = MeteredCall(engine_for(given()), endpoint.asked, endpoint, self._client)
        attempt = await call.abegin()
        try:
            prepared = _bounded(endpoint.sent(options, attempt), attempt)
            reply = _loose(await _ainside(call, original, self, cast_to, prepared, *more, **named))
        except BaseException as error:
            await call.aend(error)
            raise
        await call.aend(None)
        return reply

    return request


def _is_inside(client: Any) -> bool:
    """Whether this client is making a metered call already: a client that is wrapped may be instrumented as well."""
    call = current_call.get()
    return call is not None and call.sender is client._client


def _inside(call: Any, original: Callable[..., Any], *args: Any, **named: Any) -> Any:
    token = current_call.set(call)
    try:
        return original(*args, **named)
    except Carrier as carrier:
        error = carrier.error
    finally:
        current_call.reset(token)
    raise error


async def _ainside(call: Any, original: Callable[..., Any], *args: Any, **named: Any) -> Any:
    token = current_call.set(call)
    try:
        return await original(*args, **named)
    except Carrier as carrier:
        error = carrier.error
    finally:
        current_call.reset(token)
    raise error


def _loose(reply: Any) -> Any:
    """Let a stream go as soon as nobody holds it: its iterator holds another one like it, where it would hold itself.

    Else one that is left early would stay open, with its hold, until the collector comes.
    """
    kind = type(reply)
    if kind.__name__ in ("Stream", "AsyncStream") and "__stream__" in kind.__dict__:
        other = copy.copy(reply)
        if other.__dict__.pop("_iterator", None) is not None:
            reply._iterator = other.__stream__()
    return reply


def _bounded(options: Any, attempt: Attempt) -> Any:
    """Let the SDK wait no longer than the policy says; a shorter wait of the caller's stays."""
    most, own = attempt.timeout, options.timeout
    if most is None or (isinstance(own, int | float) and own <= most):
        return options
    bounded = copy.copy(options)
    bounded.timeout = most
    return bounded


class Instrumented:
    """The `request` methods of an SDK's base classes, replaced until somebody puts them back."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._engine: Engine | None = None
        self._patches = Patches()

    def install(self, sync: type, asynchronous: type, engine: Engine | None) -> None:
        """Replace them; a second time only the engine changes."""
        self._engine = engine
        if self._patches:
            return
        for base, put in ((sync, around), (asynchronous, aaround)):
            self._patches.replace(
                base, "request", functools.partial(put, dialect=self._dialect, given=lambda: self._engine)
            )

    def meters(self) -> tuple[bool, Engine | None]:
        """Whether they are replaced, and for which engine."""
        return bool(self._patches), self._engine

    def remove(self) -> None:
        """Put them back."""
        self._patches.remove()
        self._engine = None


def wrap(client: Any, sync: type, asynchronous: type, dialect: Dialect, engine: Engine | None) -> Any:
    """Give a client a class of its own, which meters; its copies by `with_options` and `copy` are of that class."""
    own = type(client)
    if "_checkrein_wrapped" in own.__dict__:
        if own._checkrein_engine is engine:
            return client
        own = own.__mro__[1]
    put = aaround if isinstance(client, asynchronous) else around
    members = {
        "__module__": own.__module__,
        "__qualname__": own.__qualname__,
        "__doc__": own.__doc__,
        "_checkrein_wrapped": True,
        "_checkrein_engine": engine,
    }
    made: Any = type(own.__name__, (own,), members)
    made.request = put(inherited(made, "request"), dialect, lambda: engine)
    client.__class__ = made
    return client
