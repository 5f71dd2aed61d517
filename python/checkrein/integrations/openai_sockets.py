"""Sessions of openai over a websocket: nobody can bound them, so that they do not begin where a limit counts."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from checkrein.integrations.later import Watch
from checkrein.integrations.limits import refuse_unmetered
from checkrein.integrations.metered import engine_for

if TYPE_CHECKING:
    from checkrein.engine import Engine

MODULES: Final = tuple(
    f"openai.resources.{name}"
    for name in (
        "realtime.realtime",
        "realtime.translations.translations",
        "responses.responses",
        "live.live",
        "live.sideband",
        "live.forks",
        "beta.realtime.realtime",
        "beta.responses.responses",
    )
)
"""Where `connect` is. The SDK imports them when somebody asks a client for them."""

Meters = Callable[[Any], tuple[bool, "Engine | None"]]
"""Says of a client whether it is metered, and by which engine."""

Given = Callable[[], "Engine | None"]

_originals: list[tuple[type, str, Any]] = []
_meters: Meters | None = None


def install(meters: Meters) -> None:
    """Ask before sessions begin, now or when somebody imports where they do."""
    global _meters
    if _meters is not None:
        return
    _meters = meters
    for name in MODULES:
        if name in sys.modules:
            _put(name)
        else:
            _watch.add(name)


def remove() -> None:
    """Put back what was there."""
    global _meters
    _meters = None
    for name in MODULES:
        _watch.remove(name)
    while _originals:
        kind, name, original = _originals.pop()
        setattr(kind, name, original)


def _put(name: str) -> None:
    _watch.remove(name)
    for kind in list(vars(sys.modules[name]).values()):
        if not isinstance(kind, type) or kind.__module__ != name:
            continue
        _replace(kind, "connect", lambda resource: _engine_of(resource._client))
        if kind.__name__.endswith("ConnectionManager"):
            # It may be entered where another run is around it; and it connects again by itself.
            client = f"_{kind.__name__.lstrip('_')}__client"
            for method in ("__enter__", "__aenter__", "enter", "_connect_ws"):
                _replace(kind, method, functools.partial(_engine_of_manager, client))
        elif kind.__name__.endswith("Connection"):
            # A run may have begun, or been stopped, since it was opened.
            _replace(kind, "send", lambda connection: connection.__dict__.get("_checkrein_given"))


def _engine_of(client: object) -> Given | None:
    is_metered, engine = (False, None) if _meters is None else _meters(client)
    return (lambda: engine) if is_metered else None


def _engine_of_manager(name: str, manager: object) -> Given | None:
    return _engine_of(getattr(manager, name, None))


def _replace(kind: type, name: str, find: Callable[[Any], Given | None]) -> None:
    """Put the question before a method; what it opens knows whom to ask."""
    original = kind.__dict__.get(name)
    if original is None:
        return
    _originals.append((kind, name, original))
    if inspect.iscoroutinefunction(original):

        @functools.wraps(original)
        async def awaited(self: Any, *args: Any, **named: Any) -> Any:
            given = _refuse(find(self))
            return _known(await original(self, *args, **named), given)

        setattr(kind, name, awaited)
    else:

        @functools.wraps(original)
        def called(self: Any, *args: Any, **named: Any) -> Any:
            given = _refuse(find(self))
            return _known(original(self, *args, **named), given)

        setattr(kind, name, called)


def _refuse(given: Given | None) -> Given | None:
    if given is not None:
        refuse_unmetered(engine_for(given()), "a session over a websocket")
    return given


def _known(opened: Any, given: Given | None) -> Any:
    if given is not None and type(opened).__name__.endswith("Connection"):
        opened.__dict__["_checkrein_given"] = given
    return opened


_watch = Watch(_put)
