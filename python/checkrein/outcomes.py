"""What an exception of a tool says about the tool's effect and about the dependency behind it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from checkrein.errors import NotExecuted, TimedOut
from checkrein.failures import FAIL_ON_DEFAULT, FailureKind, failure_kind

_log = logging.getLogger("checkrein")

WORDS: Final = frozenset({"success", "failure", "neutral", "not_executed"})


def classifier(
    hook: Callable[[BaseException], str | None] | None,
    safe: tuple[type[Exception], ...] = (),
    fail_on: frozenset[FailureKind] = FAIL_ON_DEFAULT,
    ignore_on: frozenset[FailureKind] | None = None,
    refused: Callable[[BaseException], bool] | None = None,
) -> Callable[[BaseException], str]:
    """Make the function that the native code asks: the user's hook first, then the built-in list.

    It answers `success`, `failure`, `neutral`, `not_executed`, `unreachable` (not executed because the dependency is
    down) or `timed_out`. What is one of the `safe` exceptions was not executed, whatever it says of the dependency;
    neither was what another guard of the same function `refused`.
    """
    builtin = _default if (fail_on, ignore_on) == (FAIL_ON_DEFAULT, None) else _builtin(fail_on, ignore_on)
    ask = builtin if hook is None else _asking(hook, builtin)
    if not safe and refused is None:
        return ask

    def ask_safe(error: BaseException) -> str:
        if refused is not None and refused(error):
            return "not_executed"
        word = ask(error)
        if not isinstance(error, safe):
            return word
        return "unreachable" if word in ("failure", "unreachable") else "not_executed"

    return ask_safe


def _asking(
    hook: Callable[[BaseException], str | None], builtin: Callable[[BaseException], str]
) -> Callable[[BaseException], str]:

    def ask(error: BaseException) -> str:
        try:
            word = hook(error)
        except Exception:
            _log.exception("the classify hook failed; the built-in classification is used")
            return builtin(error)
        if word is None:
            return builtin(error)
        if not isinstance(word, str) or word not in WORDS:
            _log.error("the classify hook returned %r, not one of %s", word, ", ".join(sorted(WORDS)))
            return builtin(error)
        return word

    return ask


def classify(error: BaseException) -> str:
    """Classify an exception by what is known of it; an unknown one says nothing about the dependency."""
    return _default(error)


def _builtin(
    fail_on: frozenset[FailureKind], ignore_on: frozenset[FailureKind] | None
) -> Callable[[BaseException], str]:
    """Make the classification by kinds.

    `fail_on` are failures, `ignore_on` says nothing; a kind in neither proves that the dependency is well. Without
    `ignore_on` there is no such kind.
    """

    def ask(error: BaseException) -> str:
        kind = failure_kind(error)
        if isinstance(error, NotExecuted):
            return "unreachable" if kind in fail_on else "not_executed"
        if isinstance(error, TimedOut):
            # Of a call that may still run nobody knows more than that it is late.
            return "timed_out" if kind in fail_on else "neutral"
        if kind in fail_on:
            return "failure"
        if ignore_on is None or kind in ignore_on or kind is FailureKind.UNKNOWN:
            return "neutral"
        return "success"

    return ask


_default: Final = _builtin(FAIL_ON_DEFAULT, None)
