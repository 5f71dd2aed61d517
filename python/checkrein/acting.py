"""Who acts: the principal, user, agent, run and session behind a call, for the ledger and for a policy file's gates."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from checkrein.errors import ConfigError

Names = tuple[str, str, str, str, str]

_NOBODY: Names = ("", "", "", "", "")
_acting: ContextVar[Names] = ContextVar("checkrein_acting", default=_NOBODY)


class ScopeNames(tuple[str, str, str, str, str]):
    """The names that a run, session or scope gives its context; they count until it ends."""

    outside: Names
    """The names around it."""
    is_over: Callable[[], bool]
    """Whether it ended in another context, so that nobody could take the names back here."""

    @classmethod
    def inside(cls, names: Names, outside: Names, is_over: Callable[[], bool]) -> ScopeNames:
        """Put names into the place of those around them."""
        made = cls(names)
        made.outside, made.is_over = outside, is_over
        return made


def actor() -> Names:
    """Return principal, user, agent, run and session of this context; empty where nobody said."""
    names = _acting.get()
    while type(names) is ScopeNames and names.is_over():
        names = names.outside
    return names


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
    `action.run` and so on. Of the gates in the code only facts and what counts per run read it.
    """
    given = (principal, user, agent, run, session)
    for name, value in zip(("principal", "user", "agent", "run", "session"), given, strict=True):
        if value is not None and (not isinstance(value, str) or len(value) > 1_000):
            raise ConfigError(
                f"`{name}` is no text of at most 1,000 characters", "acting", "give a name or an id"
            )
    before = actor()
    merged = tuple(old if new is None else new for old, new in zip(before, given, strict=True))
    token = _acting.set(merged)  # type: ignore[arg-type]
    try:
        yield
    finally:
        _acting.reset(token)
