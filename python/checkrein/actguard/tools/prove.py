"""`prove`: notes what a read returned, for the rules of writes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, TypeVar

from checkrein._wrap import wrap
from checkrein.actguard.exceptions import ActGuardUsageError, PolicyViolationError
from checkrein.actguard.tools import _facts, _observability
from checkrein.actguard.tools._names import name_of
from checkrein.actguard.tools._scope import get_scope_hash, get_session_id
from checkrein.actguard.tools.enforce import no_session

F = TypeVar("F", bound=Callable[..., Any])
Extract = str | Callable[[Any], Any]

_MANY: Final = (list, tuple, set, frozenset)
_MISSING: Final = object()


def prove(
    kind: str, extract: Extract, ttl: float = 300, max_items: int = 200, on_too_many: str = "block"
) -> Callable[[F], F]:
    """Decorator: note values of what a read returns as facts of the session, for `ttl` seconds.

    `extract` names a key or an attribute of each item, or is a function of the whole result. Lists, tuples, sets and
    what generators yield are items; anything else is one. More than `max_items` values raise PolicyViolationError
    TOO_MANY_RESULTS and note nothing, or only the first ones are noted with `on_too_many="truncate"`. A call outside a
    session raises NO_SESSION before the read runs. Raises ActGuardUsageError for what cannot work.
    """
    _check(kind, extract, ttl, max_items, on_too_many)

    def decorate(function: F) -> F:
        return _Prover(function, kind, extract, ttl, max_items, on_too_many == "block").wrapper()  # type: ignore[no-any-return]

    return decorate


class _Prover:
    def __init__(
        self, fn: Callable[..., Any], kind: str, extract: Extract, ttl: float, max_items: int, blocks: bool
    ) -> None:
        self.fn = fn
        self.name = name_of(fn)
        self.kind = kind
        self.extract = extract
        self.ttl = ttl
        self.max_items = max_items
        self.blocks = blocks

    def wrapper(self) -> Any:
        names = {"open": self.open, "prove": self.prove}
        is_async = inspect.iscoroutinefunction(self.fn)
        call = "await CALL" if is_async else "CALL"
        return wrap(self.fn, f"$session = $open()\nreturn $prove({call}, $session)", names, is_async=is_async)

    def open(self) -> tuple[str, str]:
        """Return the active session; raises PolicyViolationError NO_SESSION."""
        session_id = get_session_id()
        if session_id is None:
            raise self._told(no_session())
        return session_id, get_scope_hash()

    def prove(self, result: Any, session: tuple[str, str]) -> Any:
        """Note what a result proves; return the result."""
        if result is None:
            return result
        if inspect.isgenerator(result) and isinstance(self.extract, str):
            return self._streamed(result, session)
        values = list(self._values(result))
        if len(values) > self.max_items:
            if self.blocks:
                raise self._told(self._too_many(len(values)))
            values = values[: self.max_items]
        for value in values:
            _facts.mint(*session, self.kind, value, self.ttl)
        return result

    def _streamed(self, result: Iterator[Any], session: tuple[str, str]) -> Iterator[Any]:
        """Note what a generator yields as it is taken: it can be read only once."""
        noted = 0
        for item in result:
            for value in self._of_item(item):
                if noted >= self.max_items:
                    if self.blocks:
                        raise self._told(self._too_many(noted + 1))
                    continue
                noted += 1
                _facts.mint(*session, self.kind, value, self.ttl)
            yield item

    def _values(self, result: Any) -> Iterable[Any]:
        if not isinstance(self.extract, str):
            found = self.extract(result)
            if found is None:
                return []
            return list(found) if isinstance(found, _MANY) or inspect.isgenerator(found) else [found]
        # A named tuple with the field is one item.
        many = isinstance(result, _MANY) and not (isinstance(result, tuple) and hasattr(result, self.extract))
        items = result if many else (result,)
        return [value for item in items for value in self._of_item(item)]

    def _of_item(self, item: Any) -> list[Any]:
        name = self.extract
        assert isinstance(name, str)
        try:
            value = item[name]
        except Exception:
            value = getattr(item, name, _MISSING)
        return [] if value is _MISSING or value is None else [value]

    def _too_many(self, count: int) -> PolicyViolationError:
        return PolicyViolationError(
            "TOO_MANY_RESULTS",
            f"Tool returned {count} items for kind='{self.kind}', exceeding max_items={self.max_items}.",
            details={"kind": self.kind, "count": count, "max_items": self.max_items},
            fix_hint=f"Narrow your query to return at most {self.max_items} results.",
        )

    def _told(self, error: PolicyViolationError) -> PolicyViolationError:
        _observability.emit_guard_blocked(self.name, "prove", error)
        return error


def _check(kind: object, extract: object, ttl: Any, max_items: Any, on_too_many: object) -> None:
    if not isinstance(kind, str) or not kind:
        raise _usage(f"prove: kind must be a non-empty string, got {kind!r}")
    if not isinstance(extract, str) and not callable(extract):
        raise _usage("prove: extract must be the name of a key or attribute, or a function of the result")
    if isinstance(ttl, bool) or not isinstance(ttl, (int, float)) or not ttl > 0:
        raise _usage(f"prove: ttl must be a number > 0, got {ttl!r}")
    if isinstance(max_items, bool) or not isinstance(max_items, int) or max_items < 0:
        raise _usage(f"prove: max_items must be an integer >= 0, got {max_items!r}")
    if on_too_many not in ("block", "truncate"):
        raise _usage(f"prove: on_too_many must be 'block' or 'truncate', got {on_too_many!r}")


def _usage(message: str) -> ActGuardUsageError:
    return ActGuardUsageError(
        message, code="usage.prove_configuration", reason="prove_configuration", retryable=False
    )
