"""The rules of `enforce`, and what own ones derive from."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from checkrein.actguard.exceptions import PolicyViolationError
from checkrein.actguard.tools import _facts


class Rule(ABC):
    """A rule on the arguments of a call. A rule with an attribute `arg` names the parameter it reads."""

    @abstractmethod
    def check(self, arguments: Mapping[str, Any], session_id: str, scope_hash: str) -> None:
        """Raise PolicyViolationError unless the arguments may be passed."""


class RequireFact(Rule):
    """A value must have been seen in this session, by a read that `prove` watches; each one of a list, tuple or set."""

    def __init__(self, arg: str, kind: str, hint: str = "") -> None:
        self.arg = arg
        self.kind = kind
        self.hint = hint

    def check(self, arguments: Mapping[str, Any], session_id: str, scope_hash: str) -> None:
        """Raise PolicyViolationError MISSING_FACT for a value that was not seen."""
        value = arguments.get(self.arg)
        if value is None:
            return
        many = isinstance(value, (list, tuple, set, frozenset))
        for one in value if many else (value,):
            if not _facts.exists(session_id, scope_hash, self.kind, one):
                raise PolicyViolationError(
                    "MISSING_FACT",
                    f"Value {self.kind}='{one}' was not proven in this session.",
                    details={"kind": self.kind, "value": one if isinstance(one, str) else str(one)},
                    fix_hint=self.hint or f"Call a read tool to fetch '{self.kind}' first.",
                )


class Threshold(Rule):
    """A number must not be greater than `max`. What cannot be compared with it, and NaN, is."""

    def __init__(self, arg: str, max: float) -> None:
        self.arg = arg
        self.max = max

    def check(self, arguments: Mapping[str, Any], session_id: str, scope_hash: str) -> None:
        """Raise PolicyViolationError THRESHOLD_EXCEEDED for a greater number."""
        value = arguments.get(self.arg)
        if value is None:
            return
        try:
            passes = bool(value <= self.max)
        except Exception:
            passes = False
        if not passes:
            raise PolicyViolationError(
                "THRESHOLD_EXCEEDED",
                f"Argument '{self.arg}' value {value} exceeds maximum {self.max}.",
                details={"arg": self.arg, "value": value, "max": self.max},
                fix_hint=f"Use a value <= {self.max} for '{self.arg}'.",
            )


class BlockRegex(Rule):
    """A text must not match `pattern` anywhere."""

    def __init__(self, arg: str, pattern: str) -> None:
        self.arg = arg
        self.pattern = pattern
        self._re = re.compile(pattern)

    def check(self, arguments: Mapping[str, Any], session_id: str, scope_hash: str) -> None:
        """Raise PolicyViolationError PATTERN_BLOCKED for a text that matches."""
        value = arguments.get(self.arg)
        if value is None:
            return
        if self._re.search(value if value.__class__ is str else str(value)):
            raise PolicyViolationError(
                "PATTERN_BLOCKED",
                f"Argument '{self.arg}' value '{value}' matches blocked pattern '{self.pattern}'.",
                details={"arg": self.arg, "value": value, "pattern": self.pattern},
                fix_hint=f"Provide a value for '{self.arg}' that does not match '{self.pattern}'.",
            )
