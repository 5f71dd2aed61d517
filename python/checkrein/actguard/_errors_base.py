"""The root of what this drop-in raises, and the families below it."""

from __future__ import annotations

import pickle
from typing import Any


class ActGuardError(Exception):
    """Everything the drop-in raises on its own account derives from this.

    `message`, `code`, `reason`, `details`, `cause`, `retryable`, `status_code`, `event_category`, `event_name`,
    `severity` and `outcome` are attributes; those that a class fixes are attributes of the class too.
    """

    message: str
    code: str = ""
    reason: str = ""
    retryable: bool | None = None
    event_category: str = ""
    event_name: str = ""
    severity: str = ""
    outcome: str = ""

    def __init__(
        self,
        message: str = "",
        *,
        code: str | None = None,
        reason: str | None = None,
        details: dict[str, Any] | None = None,
        cause: BaseException | None = None,
        retryable: bool | None = None,
        status_code: int | None = None,
        event_category: str | None = None,
        event_name: str | None = None,
        severity: str | None = None,
        outcome: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = type(self).code if code is None else code
        self.reason = type(self).reason if reason is None else reason
        self.details: dict[str, Any] = dict(details or {})
        self.cause = cause
        self.status_code = status_code
        given = {
            "retryable": retryable,
            "event_category": event_category,
            "event_name": event_name,
            "severity": severity,
            "outcome": outcome,
        }
        # What is not given stays an attribute of the class, so that a subclass can fix it.
        vars(self).update({name: value for name, value in given.items() if value is not None})

    @property
    def is_reportable(self) -> bool:
        """Whether the error has an event of its own."""
        return bool(self.event_category and self.event_name)

    def payload(self) -> dict[str, Any]:
        """Return what the error's event says: a copy of `details`."""
        return dict(self.details)

    def evidence(self) -> list[Any]:
        """Return what supports the error's event: nothing, unless a subclass has something."""
        return []

    def __reduce__(self) -> Any:
        # Constructors differ and take keywords, so the state travels instead. What cannot travel, as the socket
        # inside a cause, stays behind.
        state = {name: value for name, value in vars(self).items() if _can_travel(value)}
        return (_restored, (type(self), self.args, {**dict.fromkeys(vars(self)), **state}))


def _can_travel(value: object) -> bool:
    try:
        pickle.dumps(value)
    except Exception:
        return False
    return True


def _restored(kind: type[ActGuardError], args: tuple[Any, ...], state: dict[str, Any]) -> ActGuardError:
    error = kind.__new__(kind, *args)
    error.args = args
    vars(error).update(state)
    return error


class ActGuardToolError(ActGuardError):
    """A tool failed, or was not allowed to run."""

    def to_prompt(self) -> str:
        """Return what to tell the model."""
        hint = "You may try again later." if self.retryable else "Do not repeat this call."
        stop = "" if self.message.endswith((".", "!", "?")) else "."
        return f"BLOCKED [{(self.reason or type(self).__name__).upper()}]: {self.message}{stop} {hint}"


class ToolExecutionError(ActGuardToolError):
    """A tool ran and failed."""

    event_category = "tool"
    event_name = "failure"
    severity = "error"
    outcome = "failed"


class ToolGuardError(ActGuardToolError):
    """A guard did not let a tool or a call of a model run."""

    event_category = "guard"
    event_name = "blocked"
    severity = "error"
    outcome = "blocked"


class ActGuardRuntimeError(ActGuardError):
    """The runtime is not in the state that the call needs."""


class ActGuardRuntimeContextError(ActGuardRuntimeError):
    """A run or a budget is missing, or does not fit."""


class ActGuardUsageError(ActGuardError):
    """A mistake in how something is called or configured."""
