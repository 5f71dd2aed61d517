"""The session that is active here, and the parameters that scopes name."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Mapping
from contextvars import ContextVar, Token
from typing import Any

from checkrein.actguard.exceptions import ScopeValidationError

GLOBAL = "global"
"""The hash of no scope."""

_session_id: ContextVar[str | None] = ContextVar("_session_id", default=None)
_scope_hash: ContextVar[str] = ContextVar("_scope_hash", default=GLOBAL)

Tokens = tuple[Token[str | None], Token[str]]


def hash_of(scope: Mapping[str, str]) -> str:
    """Return what stands for a scope in the keys of facts."""
    if not scope:
        return GLOBAL
    canonical = json.dumps(dict(scope), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()


def set_session(session_id: str, scope: Mapping[str, str]) -> Tokens:
    """Make a session the active one here; give what is returned to `reset_session`."""
    return _session_id.set(session_id), _scope_hash.set(hash_of(scope))


def reset_session(tokens: Tokens) -> None:
    """Make the session before the active one again."""
    try:
        _session_id.reset(tokens[0])
        _scope_hash.reset(tokens[1])
    except ValueError:
        # The block was entered in another context than it is left in, as a generator that another task finishes.
        _session_id.set(None)
        _scope_hash.set(GLOBAL)


def get_session_id() -> str | None:
    """Return the id of the active session, or `None`."""
    return _session_id.get()


def get_scope_hash() -> str:
    """Return the hash of the active session's scope."""
    return _scope_hash.get()


def validate_scope(fn: Callable[..., Any], arg_name: str) -> None:
    """Raise ScopeValidationError unless `fn` has this parameter."""
    valid = list(inspect.signature(fn).parameters)
    if arg_name not in valid:
        name = getattr(fn, "__qualname__", type(fn).__qualname__)
        raise ScopeValidationError(
            f"actguard: scope={arg_name!r} is not a parameter of {name!r}. Valid parameters: {valid}"
        )


def extract_arg(fn: Callable[..., Any], arg_name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return what a call passes for a parameter, or its default."""
    bound = inspect.signature(fn).bind(*args, **kwargs)
    bound.apply_defaults()
    return bound.arguments.get(arg_name)
