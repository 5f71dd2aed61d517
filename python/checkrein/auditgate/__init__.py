"""Audit log with hash chains: a drop-in for programs written for the `auditgate` package.

The names, signatures, messages and hashes are those of auditgate 0.3.0; what differs is in the
reference page of the drop-in modules.
"""

from checkrein.auditgate.core import (
    MISSING,
    AuditEntry,
    AuditError,
    AuditPolicy,
    Decision,
    IntegrityMode,
    Mode,
    Result,
    Severity,
    Status,
    StoreErrorMode,
    Trail,
    Verdict,
    compute_hash,
    verify_chain,
    wall_clock,
)
from checkrein.auditgate.emitter import Emitter
from checkrein.auditgate.engine import Engine
from checkrein.auditgate.files import FileStore
from checkrein.auditgate.store import AsyncMemoryStore, AsyncStore, MemoryStore, QueryFilter, Store

__version__ = "0.3.0"

__all__ = [
    "MISSING",
    "AsyncMemoryStore",
    "AsyncStore",
    "AuditEntry",
    "AuditError",
    "AuditPolicy",
    "Decision",
    "Emitter",
    "Engine",
    "FileStore",
    "IntegrityMode",
    "MemoryStore",
    "Mode",
    "QueryFilter",
    "Result",
    "Severity",
    "Status",
    "Store",
    "StoreErrorMode",
    "Trail",
    "Verdict",
    "compute_hash",
    "verify_chain",
    "wall_clock",
]
