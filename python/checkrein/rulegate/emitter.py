"""Listeners of `checkrein.rulegate` decisions."""

from __future__ import annotations

from checkrein import _native


class Emitter(_native.ListenerList):
    """Calls its listeners in order of registration, on the deciding thread.

    Exceptions of listeners are counted in `error_count` and swallowed. One emitter may serve many engines.
    """

    __slots__ = ()
