"""Numbers for instances, so that each has windows of its own and none inherits those of a dead one."""

from __future__ import annotations

import itertools
import weakref
from typing import Any

_numbers: dict[int, tuple[int, Any]] = {}
_next = itertools.count(1).__next__

SHARED = 0
"""The number of instances that cannot be told apart for long: those nobody can refer to weakly."""


def number_of(instance: object) -> int:
    """Return the number of an instance, the same as long as it lives."""
    identity = id(instance)
    found = _numbers.get(identity)
    if found is not None:
        return found[0]
    try:
        # The entry goes with the instance, before its place in memory can be another's.
        reference = weakref.ref(instance, lambda _: _numbers.pop(identity, None))
    except TypeError:
        return SHARED
    return _numbers.setdefault(identity, (_next(), reference))[0]
