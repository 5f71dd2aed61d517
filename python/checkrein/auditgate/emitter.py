"""`Emitter`, which hands every decision to its listeners."""

from checkrein._native import AuditEmitter as Emitter

__all__ = ["Emitter"]
