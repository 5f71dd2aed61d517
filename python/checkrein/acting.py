"""Who acts: the principal, user, agent, run and session behind a call, for the ledger and for a policy file's gates."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from checkrein.errors import ConfigError

_NOBODY = ("", "", "", "", "")
_acting: ContextVar[tuple[str, str, str, str, str]] = ContextVar("checkrein_acting", default=_NOBODY)


def actor() -> tuple[str, str, str, str, str]:
    """Return principal, user, agent, run and session of this context; empty where nobody said."""
    return _acting.get()


@contextmanager
def acting(
    *,
    principal: str | None = None,
    user: str | None = None,
    agent: str | None = None,
    run: str | None = None,
    session: str | None = None,
) -> Iterator[None]:
    """Say on whose behalf calls inside the `with` block are made; what is left out stays as it was outside.

    It is written into the ledger of an engine that keeps one, and read by the gates of a policy file as `action.user`,
    `action.run` and so on. Gates in the code do not read it.
    """
    given = (principal, user, agent, run, session)
    for name, value in zip(("principal", "user", "agent", "run", "session"), given, strict=True):
        if value is not None and (not isinstance(value, str) or len(value) > 1_000):
            raise ConfigError(
                f"`{name}` is no text of at most 1,000 characters", "acting", "give a name or an id"
            )
    before = _acting.get()
    merged = tuple(old if new is None else new for old, new in zip(before, given, strict=True))
    token = _acting.set(merged)  # type: ignore[arg-type]
    try:
        yield
    finally:
        _acting.reset(token)
