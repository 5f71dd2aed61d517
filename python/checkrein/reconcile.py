"""`reconcile=`: asks the outside world what became of an operation in doubt, and records the answer."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from checkrein import loops
from checkrein._native import Decision, Guard, Operation
from checkrein.errors import ConfigError, NotExecuted, a_type

if TYPE_CHECKING:
    from checkrein.engine import Engine
    from checkrein.spec import Reconcile

_log = logging.getLogger("checkrein")


@dataclass(frozen=True, slots=True)
class Done:
    """The answer of a reconcile hook: the operation happened, and `result` is what it returned."""

    result: Any = None


class _Value:
    """What a look-up found and no store keeps, for the call that asked; it looks like the permit of a repetition."""

    replayed = True
    args = None

    def __init__(self, value: Any) -> None:
        self._value = value

    def result(self) -> Any:
        """Return what was found."""
        return self._value


@dataclass(frozen=True, slots=True)
class _End:
    """What a hook says, as it is recorded; `value` is set where it cannot be stored."""

    state: str
    stored: bytes | None = None
    value: _Value | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """What came of a look-up.

    `operation` is the operation as it is now, which is still in doubt if somebody else's answer was recorded first;
    there is none if the hook does not know. `error` is what the hook raised, `value` a result that cannot be stored.
    """

    operation: Operation | None = None
    error: Exception | None = None
    value: _Value | None = None


class Reconciler:
    """Asks one guard's hook, one call for one key at a time in this process.

    Several processes may look the same operation up. Every answer is recorded for the run that was in doubt when the
    look-up began, so that at most one of them is taken and none can end a later run.
    """

    def __init__(self, engine: Engine, guard: Guard, hook: Reconcile) -> None:
        self.engine = engine
        self.guard = guard
        self.hook = hook
        self.is_async = inspect.iscoroutinefunction(hook) or inspect.iscoroutinefunction(type(hook).__call__)

    def admitter(
        self, admit: Callable[..., Any], *, is_async: bool, raises: bool, asks_later: bool
    ) -> Callable[..., Any]:
        """Wrap an admission that returns refusals: one in doubt is looked up, and asked once more.

        `asks_later`: the admission itself has to be awaited.
        """
        if self.is_async and not is_async:
            hint = "a function that is not async needs a hook that is not async either"
            raise ConfigError("`reconcile` is a coroutine function", "reconcile", hint)

        def refused(decision: Decision, error: Exception | None) -> Decision:
            if raises:
                raise decision._exception() from error
            return decision

        def ask(*slots: Any) -> Any:
            answer, error = admit(*slots), None
            if isinstance(answer, Decision) and (doubt := self.guard._doubt(answer, *slots)) is not None:
                found = self.look_up(doubt)
                error = found.error
                if found.value is not None:
                    return found.value
                answer = answer if found.operation is None else admit(*slots)
            return refused(answer, error) if isinstance(answer, Decision) else answer

        async def ask_async(*slots: Any) -> Any:
            answer, error = await admit(*slots) if asks_later else admit(*slots), None
            if isinstance(answer, Decision) and (doubt := self.guard._doubt(answer, *slots)) is not None:
                found = await self.look_up_async(doubt)
                error = found.error
                if found.value is not None:
                    return found.value
                if found.operation is not None:
                    answer = await admit(*slots) if asks_later else admit(*slots)
            return refused(answer, error) if isinstance(answer, Decision) else answer

        return ask_async if is_async else ask

    def look_up(self, doubt: Operation) -> Found:
        """Ask the hook about an operation and record its answer."""
        if not self.engine._begin_reconcile(doubt):
            return Found()
        try:
            end = self._read(self.hook(doubt))
            return (
                Found() if end is None else self._recorded(doubt, end, doubt._resolve(end.state, end.stored))
            )
        except Exception as error:
            return Found(error=self._failed(doubt, error))
        finally:
            self.engine._end_reconcile(doubt)

    async def look_up_async(self, doubt: Operation) -> Found:
        """Do the same for a coroutine; a hook that is not async runs in a thread, so that the loop goes on."""
        # Whoever awaits has asyncio already; nobody else pays for importing it.
        import asyncio

        if not self.engine._begin_reconcile(doubt):
            return Found()
        try:
            if self.is_async:
                answer = await self.hook(doubt)
            else:
                answer = await asyncio.to_thread(self.hook, doubt)
            end = self._read(answer)
            if end is None:
                return Found()
            if self.engine._waits:
                resolved = await loops.resolve(doubt, end.state, end.stored)
            else:
                resolved = doubt._resolve(end.state, end.stored)
            return self._recorded(doubt, end, resolved)
        except Exception as error:
            return Found(error=self._failed(doubt, error))
        finally:
            self.engine._end_reconcile(doubt)

    def _read(self, answer: object) -> _End | None:
        """Read what a hook returned; nothing if it does not know."""
        if answer is None:
            return None
        if isinstance(answer, Done):
            stored = self.guard._encode(answer.result)
            return _End("done", stored, _Value(answer.result) if stored is None else None)
        if answer is NotExecuted or isinstance(answer, NotExecuted):
            return _End("failed_clean")
        if isinstance(answer, Coroutine):
            answer.close()
        kind = a_type(answer)
        raise TypeError(f"a reconcile hook returns Done(result), NotExecuted or None, not {kind}")

    def _recorded(self, doubt: Operation, end: _End, resolved: Operation | None) -> Found:
        if resolved is None:
            return Found(doubt)
        if self.engine._listening:
            kept = end.stored is not None if end.state == "done" else None
            self.engine._ended(self.guard.tool, end.state, kept)
        return Found(resolved, value=end.value)

    def _failed(self, doubt: Operation, error: Exception) -> Exception:
        _log.error(
            "the reconcile hook of `%s` failed; %r stays in doubt", self.guard.tool, doubt, exc_info=error
        )
        return error
