"""Google's interactions, decisions and triggers: an HTTP layer of their own, refused where a limit counts."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from checkrein.integrations import limits
from checkrein.integrations.metered import engine_for

if TYPE_CHECKING:
    from checkrein.engine import Engine

_PAID: Final = {
    "CreateInteraction": "an interaction",
    "CreateDecision": "a decision",
    "CreateTrigger": "a trigger",
    "RunTrigger": "running a trigger",
}

_everywhere: Callable[[], Engine | None] | None = None


def watch(api: Any, engine: Engine | None) -> None:
    """Watch what goes out over the HTTP clients of one client."""
    _install()
    for name in ("_httpx_client", "_async_httpx_client"):
        client = getattr(api, name, None)
        if client is not None:
            client._checkrein_given = lambda: engine


def watch_all(given: Callable[[], Engine | None] | None) -> None:
    """Watch everything that goes out from now on, or stop that."""
    global _everywhere
    _everywhere = given
    if given is not None:
        _install()


def _install() -> None:
    """Put the watch around the methods that send; it does nothing for a client that nobody watches."""
    try:
        from google.genai._gaos.basesdk import AsyncBaseSDK, BaseSDK
    except ImportError:
        # Versions before these had no such layer.
        return
    for base, name, is_async in ((BaseSDK, "do_request", False), (AsyncBaseSDK, "do_request_async", True)):
        original = base.__dict__[name]
        if not hasattr(original, "_checkrein_watches"):
            watched = _awatching(original) if is_async else _watching(original)
            watched._checkrein_watches = True
            setattr(base, name, watched)


def _watching(original: Callable[..., Any]) -> Any:
    @functools.wraps(original)
    def do_request(self: Any, hook_ctx: Any, *args: Any, **named: Any) -> Any:
        _check(self.sdk_configuration.client, hook_ctx)
        return original(self, hook_ctx, *args, **named)

    return do_request


def _awatching(original: Callable[..., Any]) -> Any:
    @functools.wraps(original)
    async def do_request_async(self: Any, hook_ctx: Any, *args: Any, **named: Any) -> Any:
        _check(self.sdk_configuration.async_client, hook_ctx)
        return await original(self, hook_ctx, *args, **named)

    return do_request_async


def _check(client: Any, hook_ctx: Any) -> None:
    given = getattr(client, "_checkrein_given", None) or _everywhere
    what = _PAID.get(getattr(hook_ctx, "operation_id", ""))
    if given is not None and what is not None:
        limits.refuse_unmetered(engine_for(given()), what)
