"""The websockets of openai: what goes over them is no request with an end, and is refused where a limit counts."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from checkrein.integrations import limits
from checkrein.integrations.later import Watch
from checkrein.integrations.metered import engine_for

if TYPE_CHECKING:
    from checkrein.engine import Engine

Given = Callable[[], "Engine | None"]

MODULES: Final = tuple(
    f"openai.resources.{name}"
    for name in (
        "responses.responses",
        "beta.responses.responses",
        "realtime.realtime",
        "realtime.translations.translations",
        "beta.realtime.realtime",
        "live.live",
        "live.forks",
        "live.sideband",
    )
)
"""Where 2.x and 3.x keep what opens a websocket."""
_WHAT: Final = "a websocket"

_everywhere: Given | None = None


def install() -> None:
    """Ask before each of them opens, now or when somebody imports them; those of clients nobody meters just open."""
    for name in MODULES:
        if name in sys.modules:
            _put(name)
        else:
            _watch.add(name)


def watch_all(given: Given | None) -> None:
    """Ask for every client from now on, or only for those that are wrapped."""
    global _everywhere
    _everywhere = given
    if given is not None:
        install()


def remove() -> None:
    """Wait for no more of them; where somebody asks before they open, nothing is in the way of clients of nobody."""
    for name in MODULES:
        _watch.remove(name)


def _put(name: str) -> None:
    _watch.remove(name)
    for kind in list(vars(sys.modules[name]).values()):
        if not isinstance(kind, type) or kind.__module__ != name:
            continue
        if kind.__name__.endswith("ConnectionManager"):
            # It connects again through the second by itself.
            for method in ("__enter__", "__aenter__", "enter", "_connect_ws"):
                _replace(kind, method, functools.partial(_opening, f"_{kind.__name__.lstrip('_')}__client"))
        elif kind.__name__.endswith("Connection"):
            _replace(kind, "send", _sending)


def _replace(kind: type, name: str, around: Callable[[Any], Any]) -> None:
    original = kind.__dict__.get(name)
    if original is not None and not hasattr(original, "_checkrein_asks"):
        asking = around(original)
        asking._checkrein_asks = True
        setattr(kind, name, asking)


def _opening(client_name: str, original: Callable[..., Any]) -> Any:
    """Ask before a connection is opened, and let what is opened know who is asked."""
    if inspect.iscoroutinefunction(original):

        @functools.wraps(original)
        async def aopened(self: Any, *args: Any, **named: Any) -> Any:
            given = _given(getattr(self, client_name, None))
            _refuse(given)
            return _known(await original(self, *args, **named), given)

        return aopened

    @functools.wraps(original)
    def opened(self: Any, *args: Any, **named: Any) -> Any:
        given = _given(getattr(self, client_name, None))
        _refuse(given)
        return _known(original(self, *args, **named), given)

    return opened


def _sending(original: Callable[..., Any]) -> Any:
    """Ask before each event too: a run may have begun, or been stopped, since the connection was opened."""
    if inspect.iscoroutinefunction(original):

        @functools.wraps(original)
        async def asent(self: Any, *args: Any, **named: Any) -> Any:
            _refuse(self.__dict__.get("_checkrein_given"))
            return await original(self, *args, **named)

        return asent

    @functools.wraps(original)
    def sent(self: Any, *args: Any, **named: Any) -> Any:
        _refuse(self.__dict__.get("_checkrein_given"))
        return original(self, *args, **named)

    return sent


def _given(client: object) -> Given | None:
    """Return who says which engine decides about a client; nothing for one that nobody meters."""
    kind = type(client)
    if getattr(kind, "_checkrein_wrapped", False):
        engine: Engine | None = kind._checkrein_engine  # type: ignore[attr-defined]
        return lambda: engine
    return _everywhere


def _refuse(given: Given | None) -> None:
    if given is not None:
        limits.refuse_unmetered(engine_for(given()), _WHAT)


def _known(connection: Any, given: Given | None) -> Any:
    if given is not None and hasattr(connection, "__dict__"):
        connection.__dict__["_checkrein_given"] = given
    return connection


_watch = Watch(_put)
