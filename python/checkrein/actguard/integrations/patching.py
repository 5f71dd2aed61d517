"""Puts the counting around the methods of SDK clients, once."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from checkrein.actguard.integrations import calls

Reads = Callable[[Any, Any, bool], Any]
"""Makes an endpoint of the options of a request and whether it is streamed; `None` for one that is not counted."""


def put(original: Callable[..., Any], reads: Reads) -> Any:
    """Return `request` of a synchronous client, counting."""

    @functools.wraps(original, assigned=("__doc__",), updated=())
    def request(self: Any, cast_to: Any, options: Any, *more: Any, **named: Any) -> Any:
        context = calls.active()
        endpoint = None if context is None else reads(self, options, bool(named.get("stream", False)))
        if context is None or endpoint is None:
            return original(self, cast_to, options, *more, **named)
        return calls.call(context, endpoint, lambda: original(self, cast_to, options, *more, **named))

    return marked(request)


def aput(original: Callable[..., Any], reads: Reads) -> Any:
    """Return `request` of an asynchronous client, counting."""

    @functools.wraps(original, assigned=("__doc__",), updated=())
    async def request(self: Any, cast_to: Any, options: Any, *more: Any, **named: Any) -> Any:
        context = calls.active()
        endpoint = None if context is None else reads(self, options, bool(named.get("stream", False)))
        if context is None or endpoint is None:
            return await original(self, cast_to, options, *more, **named)
        return await calls.acall(context, endpoint, lambda: original(self, cast_to, options, *more, **named))

    return marked(request)


def sent_body(options: Any) -> Any:
    """Return the body of a request as it is sent: what is given as `extra_body` counts as well."""
    body, more = getattr(options, "json_data", None), getattr(options, "extra_json", None)
    if not isinstance(more, Mapping):
        return body
    return {**(body if isinstance(body, Mapping) else {}), **more}


def marked(method: Any) -> Any:
    """Return a method that `is_marked` knows."""
    method.__actguard__ = True
    return method


def is_marked(method: Any) -> bool:
    """Whether a method counts already."""
    return getattr(method, "__actguard__", None) is True


def patch_clients(base: Any, reads: Reads) -> None:
    """Put the counting around both kinds of clients that a module of this generator has."""
    for name, wrapper in (("SyncAPIClient", put), ("AsyncAPIClient", aput)):
        client = getattr(base, name)
        if not is_marked(client.request):
            client.request = wrapper(client.request, reads)


def is_patched(base: Any) -> bool:
    """Whether the clients of a module count still: another library may have put back what it found."""
    return base is not None and all(
        is_marked(getattr(base, name).request) for name in ("SyncAPIClient", "AsyncAPIClient")
    )
