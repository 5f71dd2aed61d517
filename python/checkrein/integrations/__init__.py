"""Budgets over the SDKs of providers: `wrap` meters one client, `instrument` all of a process, before each call."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final, TypeVar

from checkrein.errors import ConfigError, a_type
from checkrein.integrations.later import Watch

if TYPE_CHECKING:
    from checkrein.engine import Engine

__all__ = ["instrument", "uninstrument", "wrap"]

Client = TypeVar("Client")

SDKS: Final = {
    "openai": "checkrein.integrations.openai",
    "anthropic": "checkrein.integrations.anthropic",
    "google.genai": "checkrein.integrations.google",
}
"""The packages that are known, and the module that knows each of them.

Such a module has `is_client(value)`, `wrap(client, engine)`, `instrument(engine)` and `uninstrument()`, and is imported
when its package is there.
"""

_wanted: dict[str, Engine | None] = {}
"""The packages that are to be instrumented, with the engine that was given."""


def wrap(client: Client, engine: Engine | None = None) -> Client:
    """Put budgets before every call that a provider's client makes; returns the client to use.

    Each call holds the most that it can cost before it is sent, in every limit of the current run or scope, and is
    settled at what the provider says it used. One that does not fit raises `BudgetExceeded`, and nothing is sent.
    Copies of the client by `with_options` are wrapped as well. A second `wrap` changes nothing but the engine.

    client: a client of the `openai`, `anthropic` or `google-genai` package, synchronous or not. One of `anthropic`
        stays as it is, and a copy of it with one more middleware is returned; the others are returned themselves.
    engine: the engine that decides outside of a run; `checkrein.default_engine` where none is given.

    Raises ConfigError for what is no such client.
    """
    for name, module in SDKS.items():
        if name in sys.modules:
            door = importlib.import_module(module)
            if door.is_client(client):
                wrapped: Client = door.wrap(client, engine)
                return wrapped
    hint = f"give a client of {' or '.join(f'`{name}`' for name in SDKS)}"
    raise ConfigError(f"{a_type(client)} is no client of a known SDK", "wrap", hint)


def instrument(*sdks: str, engine: Engine | None = None) -> None:
    """Put budgets before the calls of all clients in this process, those that exist too, until `uninstrument`.

    sdks: the packages that are meant, as they are imported: `"openai"`, `"anthropic"`, `"google.genai"`; all that are
        known where none is named. Nothing is imported: a package that is not there yet is instrumented when somebody
        imports it.
    engine: the engine that decides outside of a run; `checkrein.default_engine` where none is given.

    Raises ConfigError for a package that is not known.
    """
    for name in _named(sdks):
        _wanted[name] = engine
        if name in sys.modules:
            _door(name).instrument(engine)
        else:
            _watch.add(name)


def uninstrument(*sdks: str) -> None:
    """Undo `instrument` for the packages named, or for all. Clients that were wrapped stay wrapped."""
    for name in _named(sdks):
        if name in _wanted:
            del _wanted[name]
            _watch.remove(name)
            if name in sys.modules:
                _door(name).uninstrument()


def _named(sdks: Iterable[str]) -> list[str]:
    names = list(sdks) or list(SDKS)
    for name in names:
        if name not in SDKS:
            hint = f"known are {', '.join(f'`{known}`' for known in SDKS)}"
            raise ConfigError(f"`{name}` is no known SDK", "instrument", hint)
    return names


def _door(name: str) -> Any:
    return importlib.import_module(SDKS[name])


def _came(name: str) -> None:
    """A package that was waited for is imported."""
    if name in _wanted:
        _watch.remove(name)
        _door(name).instrument(_wanted[name])


_watch = Watch(_came)
