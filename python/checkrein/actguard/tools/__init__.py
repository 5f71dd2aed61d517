"""The guards of tools."""

from __future__ import annotations

from checkrein.actguard.tools.circuit_breaker import (
    FAIL_ON_DEFAULT,
    FAIL_ON_INFRA_ONLY,
    FAIL_ON_STRICT,
    IGNORE_ON_DEFAULT,
    FailureKind,
    circuit_breaker,
)
from checkrein.actguard.tools.enforce import enforce
from checkrein.actguard.tools.idempotent import idempotent
from checkrein.actguard.tools.max_attempts import max_attempts
from checkrein.actguard.tools.prove import prove
from checkrein.actguard.tools.rate_limit import rate_limit
from checkrein.actguard.tools.rules import BlockRegex, RequireFact, Rule, Threshold
from checkrein.actguard.tools.timeout import shutdown, timeout
from checkrein.actguard.tools.tool import tool

__all__ = [
    "FAIL_ON_DEFAULT",
    "FAIL_ON_INFRA_ONLY",
    "FAIL_ON_STRICT",
    "IGNORE_ON_DEFAULT",
    "BlockRegex",
    "FailureKind",
    "RequireFact",
    "Rule",
    "Threshold",
    "circuit_breaker",
    "enforce",
    "idempotent",
    "max_attempts",
    "prove",
    "rate_limit",
    "shutdown",
    "timeout",
    "tool",
]
