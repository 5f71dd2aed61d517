"""The exceptions of the unified API: one per family of reason codes, all of them picklable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from checkrein._native import Decision

__all__ = [
    "AlreadyDone",
    "ApprovalRequired",
    "AttemptsExceeded",
    "BudgetExceeded",
    "CapacityExceeded",
    "CheckreinError",
    "CircuitOpen",
    "ConfigError",
    "Denied",
    "ForkedError",
    "Frozen",
    "InDoubt",
    "InProgress",
    "InvalidAction",
    "KeyReused",
    "LedgerError",
    "LoopDetected",
    "MissingFact",
    "NotExecuted",
    "NotProved",
    "OutcomeNotRecorded",
    "PermitError",
    "PolicyError",
    "PolicyFileError",
    "RateLimited",
    "ResultPruned",
    "RuleViolated",
    "SecretUnavailable",
    "StoreError",
    "TimedOut",
    "ToolChanged",
    "UnknownTool",
]


def a_type(value: object) -> str:
    """Return the name of a value's type with its article, for messages."""
    name = type(value).__name__
    return f"an {name}" if name.lower().startswith(("a", "e", "i", "o")) else f"a {name}"


class CheckreinError(Exception):
    """Everything Checkrein raises on its own account derives from this."""


class Denied(CheckreinError):
    """The action was not admitted, and nothing was consumed.

    Its only argument is the decision. The native code raises it, so that it has no `__init__` of its own: a refusal
    costs one allocation of an exception, and texts are made when somebody reads them.
    """

    @property
    def decision(self) -> Decision:
        """Every reason why not, and when to ask again."""
        decision: Decision = self.args[0]
        return decision

    @property
    def code(self) -> str:
        """The stable code of the first reason, as in `rate_limited`."""
        return (self.decision.code if self.args else None) or "denied"

    @property
    def retry_after(self) -> float | None:
        """Seconds until the same call may pass, or `None` when that is unknown or never."""
        return self.decision.retry_after

    def to_prompt(self) -> str:
        """What to tell the model: no secrets and no argument values."""
        return self.decision.to_prompt()

    def __str__(self) -> str:
        if not self.args:
            return "denied"
        return str(self.args[0])


class RateLimited(Denied):
    """The calls of a window are used up, or the last call was a moment ago."""


class BudgetExceeded(Denied):
    """The cost does not fit what is left of a budget, or is not known."""


class RuleViolated(Denied):
    """A rule refuses the arguments, or could not be evaluated."""


class MissingFact(Denied):
    """A required value has not been read in this run."""


class CircuitOpen(Denied):
    """The dependency has failed too often."""


class AttemptsExceeded(Denied):
    """All attempts are used up."""


class InProgress(Denied):
    """The same operation is running now."""


class KeyReused(Denied):
    """The once key was used for another request."""


class InDoubt(Denied):
    """The outcome of an earlier run of the operation is unknown."""


class ResultPruned(Denied):
    """The operation is done, but its result is no longer kept."""


class AlreadyDone(Denied):
    """The operation is done, and its guard refuses repetitions instead of answering them."""


class ApprovalRequired(Denied):
    """A person has to approve the action, or did not."""


class UnknownTool(Denied):
    """No policy covers the tool."""


class ToolChanged(Denied):
    """The tool's definition is not the one that was pinned."""


class LoopDetected(Denied):
    """The same call with the same arguments, again and again."""


class TimedOut(Denied, TimeoutError):
    """The call took longer than `timeout`; whether it had its effect is unknown."""


class SecretUnavailable(Denied):
    """A credential cannot be had."""


class PolicyError(Denied):
    """The policy cannot be used."""


class InvalidAction(Denied):
    """The action is malformed: a key it does not have, an amount that is none, something too large."""


class Frozen(Denied):
    """A kill switch is set."""


class StoreError(Denied):
    """The store cannot answer."""


class LedgerError(Denied):
    """The ledger cannot be written."""


class CapacityExceeded(Denied):
    """No room for another key."""


class NotExecuted(CheckreinError):
    """Raised by a tool to say that it provably had no effect.

    What was held for the call is given back, and a `once` key may run again.
    """


class OutcomeNotRecorded(CheckreinError):
    """The function ran and returned, but its outcome could not be committed.

    What it did is done; `result` is what it returned. A `once` key stays in doubt until somebody says so:
    `engine.resolve(..., "done", error.result)`. `code` says why: `permit_finished` (its lease ended while it ran) or
    `store_error`.
    """

    def __init__(self, message: str, code: str = "store_error", result: Any = None) -> None:
        super().__init__(message, code, result)

    @property
    def code(self) -> str:
        """The stable code of the reason."""
        return str(self.args[1])

    @property
    def result(self) -> Any:
        """What the function returned."""
        return self.args[2]

    def __str__(self) -> str:
        # The result is never printed: it may hold what does not belong into a log.
        return str(self.args[0])

    def __repr__(self) -> str:
        return f"OutcomeNotRecorded({self.args[0]!r}, {self.args[1]!r})"


class NotProved(CheckreinError):
    """The function ran and returned, but what its result shows was not recorded as facts.

    `code` says why: `too_many_results` or `not_provable`. `result` is what it returned.
    """

    def __init__(self, message: str, code: str = "not_provable", result: Any = None) -> None:
        super().__init__(message, code, result)

    @property
    def code(self) -> str:
        """The stable code of the reason."""
        return str(self.args[1])

    @property
    def result(self) -> Any:
        """What the function returned."""
        return self.args[2]

    def to_prompt(self) -> str:
        """What to tell the model: no secrets and no values."""
        if self.code == "too_many_results":
            return "The call returned too many results to work with. Ask for fewer, with a narrower search."
        return "What this call returned cannot be used by other tools. Tell the user."

    def __str__(self) -> str:
        # The result is never printed: it may hold what does not belong into a log.
        return str(self.args[0])

    def __repr__(self) -> str:
        return f"NotProved({self.args[0]!r}, {self.args[1]!r})"


class ForkedError(CheckreinError):
    """An engine was used in a forked child of the process that made it.

    Going on would give every child the whole limit once more. Make the engine after the fork.
    """

    code: Final = "forked"


class PermitError(CheckreinError):
    """A permit or hold was finished twice, or too late."""

    code: Final = "permit_finished"


class ConfigError(CheckreinError, ValueError):
    """A guard, gate or engine was described in a way that cannot work.

    `code` is stable; `hint` says what to do about it.
    """

    def __init__(self, message: str, code: str = "config", hint: str | None = None) -> None:
        super().__init__(message, code, hint)

    @property
    def code(self) -> str:
        """The stable code of the mistake."""
        return str(self.args[1])

    @property
    def hint(self) -> str | None:
        """What to do about it."""
        hint: str | None = self.args[2]
        return hint

    def __str__(self) -> str:
        hint = f" (hint: {self.hint})" if self.hint else ""
        return f"{self.args[0]}{hint}"


class PolicyFileError(ConfigError):
    """A policy file cannot be used. As text it is the whole report: every problem with its place and what to do.

    `code` is that of the first problem.
    """

    def __init__(self, report: str, code: str, problems: Sequence[Mapping[str, Any]] = ()) -> None:
        super().__init__(report, code)
        self.problems = tuple(dict(problem) for problem in problems)
        """Every problem: `code`, `message`, `hint`, `line` and `column`."""

    def __reduce__(self) -> Any:
        return (type(self), (self.args[0], self.code, self.problems))
