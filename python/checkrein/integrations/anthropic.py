"""Anthropic's SDK: its own middleware where it has one, the meter around `request` where it has not."""

from __future__ import annotations

import copy as copies
import functools
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from checkrein.integrations import limits, stainless
from checkrein.integrations.anthropic_messages import Endpoint, endpoint_of
from checkrein.integrations.metered import engine_for
from checkrein.integrations.patches import Patches, inherited

if TYPE_CHECKING:
    from checkrein.engine import Engine

_log = logging.getLogger("checkrein")


def is_client(client: object) -> bool:
    """Whether this is a client of the SDK, of whatever cloud."""
    from anthropic._base_client import AsyncAPIClient, SyncAPIClient

    return isinstance(client, SyncAPIClient | AsyncAPIClient)


def wrap(client: Any, engine: Engine | None) -> Any:
    """Return a client like this one whose calls are held.

    Its own middleware stays, before ours: what it sends is what is held. Clients of versions without middleware
    are metered themselves.
    """
    if not hasattr(client, "with_middleware"):
        return stainless.wrap(client, *_bases(), _dialect(lambda: engine), engine)
    from checkrein.integrations.anthropic_gate import GateMiddleware

    gate = GateMiddleware(lambda: engine, provider=provider_of(client))
    others = [one for one in client.middleware if not isinstance(one, GateMiddleware)]
    # The copy of a client that is wrapped already would put the gate back that it had.
    plain = client.__dict__.get("_checkrein_copy", client.copy)
    wrapped = _keep(plain(middleware=[*others, gate]), gate)
    if len(others) == len(client.middleware) and not hasattr(client, "_checkrein_original"):
        _tell(client, engine)
    return wrapped


def _tell(client: Any, engine: Engine | None) -> None:
    """Let a client that stays without a gate say so once, when it makes a call where a limit counts."""
    from checkrein.integrations.anthropic_gate import GateMiddleware

    own = type(client)
    names = {"__module__": own.__module__, "__qualname__": own.__qualname__, "__doc__": own.__doc__}
    made: Any = type(own.__name__, (own,), {**names, "_checkrein_original": True})
    original = inherited(made, "request")

    @functools.wraps(original)
    def request(self: Any, *args: Any, **named: Any) -> Any:
        is_gated = _state.patches or any(isinstance(one, GateMiddleware) for one in self._middleware)
        if made._checkrein_original and not is_gated and limits._is_limited(engine_for(engine)):
            made._checkrein_original = False
            _log.warning("a client of anthropic is used past its limits: use what `checkrein.wrap` returned")
        return original(self, *args, **named)

    made.request = request
    client.__class__ = made


def _keep(client: Any, gate: Any) -> Any:
    """Keep the gate in what is copied of a client, and behind whatever is added to it."""
    original = client.copy

    @functools.wraps(original)
    def copy(*args: Any, **options: Any) -> Any:
        given = options.get("middleware", ())
        if given is None or isinstance(given, Sequence):
            others = given or () if "middleware" in options else client.middleware
            options["middleware"] = [*(one for one in others if one is not gate), gate]
        return _keep(original(*args, **options), gate)

    client._checkrein_copy = original
    client.copy = client.with_options = copy
    return client


def instrument(engine: Engine | None) -> None:
    """Hold the calls of every client, those that exist too; a second time only the engine changes."""
    sync, asynchronous = _bases()
    _state.engine = engine
    if not hasattr(sync, "_build_middleware_chain"):
        _state.older.install(sync, asynchronous, engine)
        return
    if _state.patches:
        return
    for base in (sync, asynchronous):
        _state.patches.replace(base, "request", functools.partial(_gated, given=lambda: _state.engine))


def uninstrument() -> None:
    """Put everything back that `instrument` replaced."""
    _state.older.remove()
    _state.patches.remove()
    _state.engine = None


def _gated(original: Callable[..., Any], given: Callable[[], Engine | None]) -> Any:
    """Put the gate behind the middleware of whatever client makes a request."""
    from checkrein.integrations.anthropic_gate import GateMiddleware

    @functools.wraps(original)
    def request(self: Any, *args: Any, **named: Any) -> Any:
        if not any(isinstance(one, GateMiddleware) for one in self._middleware):
            # The client itself stays as it is: only this request goes out through one more middleware.
            gated = copies.copy(self)
            gated._middleware = (*self._middleware, GateMiddleware(given, provider=provider_of(self)))
            gated._middleware_chain = gated._build_middleware_chain()
            self = gated
        return original(self, *args, **named)

    return request


def _dialect(given: Callable[[], Engine | None]) -> stainless.Dialect:
    """Make what reads the requests of a version without middleware, which have one hold each."""

    def read(client: Any, options: Any) -> Endpoint | None:
        body = getattr(options, "content", None)
        if body is None:
            body = {**(options.json_data or {}), **(getattr(options, "extra_json", None) or {})}
        engine = engine_for(given())
        endpoint = endpoint_of(options.method, str(options.url), body, provider_of(client), engine)
        if endpoint is not None and endpoint.is_batch:
            limits.refuse_unmetered(engine, "a batch, with a version of the SDK that has no middleware,")
            return None
        return endpoint

    return read


def _bases() -> tuple[type, type]:
    from anthropic._base_client import AsyncAPIClient, SyncAPIClient

    return SyncAPIClient, AsyncAPIClient


def provider_of(client: object) -> str:
    """Name whose prices a client's calls have."""
    names = [cls.__name__ for cls in type(client).__mro__]
    for part, provider in (("Bedrock", "aws"), ("Vertex", "google"), ("Foundry", "azure")):
        if any(part in name for name in names):
            return provider
    return "anthropic"


class _State:
    """What `instrument` replaced."""

    def __init__(self) -> None:
        self.engine: Engine | None = None
        self.patches = Patches()
        self.older = stainless.Instrumented(_dialect(lambda: self.engine))


_state = _State()
