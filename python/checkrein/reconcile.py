"""`reconcile=`: asks the outside world what became of an operation in doubt, and records the answer."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from checkrein._native import Decision, Guard, Operation
from checkrein.errors import ConfigError, NotExecuted

if TYPE_CHECKING:
    from checkrein.engine import Engine
    from checkrein.spec import Reconcile

_log = logging.getLogger("checkrein")


@dataclass(frozen=True, slots=True)
class Done:
    """The answer of a reconcile hook: the operation happened, and `result` is what it returned."""

    result: Any = None


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
                found, error = self.look_up(doubt)
                answer = answer if found is None else admit(*slots)
            return refused(answer, error) if isinstance(answer, Decision) else answer

        async def ask_async(*slots: Any) -> Any:
            answer, error = await admit(*slots) if asks_later else admit(*slots), None
            if isinstance(answer, Decision) and (doubt := self.guard._doubt(answer, *slots)) is not None:
                found, error = await self.look_up_async(doubt)
                if found is not None:
                    answer = await admit(*slots) if asks_later else admit(*slots)
            return refused(answer, error) if isinstance(answer, Decision) else answer

        return ask_async if is_async else ask

    def look_up(self, doubt: Operation) -> tuple[Operation | None, Exception | None]:
        """Ask the hook about an operation and record its answer.

        Returns the operation as it is now, which is still in doubt if somebody else's answer was recorded first, or
        nothing if the hook does not know; and what the hook raised.
        """
        if not self.engine._begin_reconcile(doubt):
            return None, None
        try:
            return self._record(doubt, self.hook(doubt)), None
        except Exception as error:
            return None, self._failed(doubt, error)
        finally:
            self.engine._end_reconcile(doubt)

    async def look_up_async(self, doubt: Operation) -> tuple[Operation | None, Exception | None]:
        """Do the same for a coroutine; a hook that is not async runs in a thread, so that the loop goes on."""
        # Whoever awaits has asyncio already; nobody else pays for importing it.
        import asyncio

        if not self.engine._begin_reconcile(doubt):
            return None, None
        try:
            if self.is_async:
                answer = await self.hook(doubt)
            else:
                answer = await asyncio.to_thread(self.hook, doubt)
            return self._record(doubt, answer), None
        except Exception as error:
            return None, self._failed(doubt, error)
        finally:
            self.engine._end_reconcile(doubt)

    def _record(self, doubt: Operation, answer: object) -> Operation | None:
        if answer is None:
            return None
        if isinstance(answer, Done):
            stored = self.guard._encode(answer.result)
            resolved = doubt._resolve("done", stored)
        elif answer is NotExecuted or isinstance(answer, NotExecuted):
            stored, resolved = None, doubt._resolve("failed_clean", None)
        else:
            if isinstance(answer, Coroutine):
                answer.close()
            kind = type(answer).__name__
            raise TypeError(f"a reconcile hook returns Done(result), NotExecuted or None, not a {kind}")
        if resolved is not None and self.engine._listening:
            kept = stored is not None if resolved.state == "done" else None
            self.engine._ended(self.guard.tool, resolved.state, kept)
        return doubt if resolved is None else resolved

    def _failed(self, doubt: Operation, error: Exception) -> Exception:
        _log.error(
            "the reconcile hook of `%s` failed; %r stays in doubt", self.guard.tool, doubt, exc_info=error
        )
        return error
