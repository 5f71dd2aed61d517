"""Sessions: where what was read is remembered for what is written."""

from __future__ import annotations

from types import TracebackType

from checkrein.actguard.exceptions import SessionUsageError
from checkrein.actguard.tools._scope import Tokens, reset_session, set_session


class GuardSession:
    """A session as a context manager, for `with` and `async with`. Sessions may be nested; the inner one counts."""

    def __init__(self, id: str, scope: dict[str, str] | None = None) -> None:
        self.id = id
        self.scope = dict(scope or {})
        for key, value in self.scope.items():
            if not isinstance(value, str):
                raise SessionUsageError(f"Scope values must be strings, got {type(value)} for key {key!r}")
        self._tokens: list[Tokens] = []

    def __enter__(self) -> GuardSession:
        self._tokens.append(set_session(self.id, self.scope))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        reset_session(self._tokens.pop())

    async def __aenter__(self) -> GuardSession:
        return self.__enter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        self.__exit__()


def session(id: str, scope: dict[str, str] | None = None) -> GuardSession:
    """Open a session: `prove` notes in it what a read returned, `enforce` looks there. Scope values are text.

    Raises SessionUsageError for a scope value that is no text.
    """
    return GuardSession(id, scope)
