"""Sessions of openai over a websocket: nobody can bound them, so that they do not begin where a limit counts."""

from __future__ import annotations

import functools
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

_originals: list[tuple[Any, Any]] = []
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
        resource, original = _originals.pop()
        resource.connect = original


def _put(name: str) -> None:
    _watch.remove(name)
    for resource in list(vars(sys.modules[name]).values()):
        if isinstance(resource, type) and resource.__module__ == name and "connect" in resource.__dict__:
            original = resource.__dict__["connect"]
            _originals.append((resource, original))
            resource.connect = _asking(original)  # type: ignore[attr-defined]


def _asking(original: Callable[..., Any]) -> Any:

    @functools.wraps(original)
    def connect(self: Any, *args: Any, **named: Any) -> Any:
        is_metered, engine = (False, None) if _meters is None else _meters(self._client)
        if is_metered:
            refuse_unmetered(engine_for(engine), "a session over a websocket")
        return original(self, *args, **named)

    return connect


_watch = Watch(_put)
