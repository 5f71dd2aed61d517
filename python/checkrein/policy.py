"""Watching a policy file: one that has changed takes over, a bad one is told and changes nothing."""

from __future__ import annotations

import logging
import os
import threading
import weakref
from typing import TYPE_CHECKING

from checkrein.errors import CheckreinError

if TYPE_CHECKING:
    from checkrein.engine import Engine

_log = logging.getLogger("checkrein")

_Look = tuple[int, int, int, int] | None
"""Device, file, size and time of a file; nothing when there is none."""


def watch_policy(engine: Engine, path: str, every_s: float, loaded: _Look) -> None:
    """Look at the policy file of an engine every so many seconds, until the engine is gone.

    `loaded` is what the file looked like when it was loaded, or before.
    """
    thread = threading.Thread(
        target=_watch, args=(weakref.ref(engine), path, every_s, loaded), name="checkrein-policy", daemon=True
    )
    thread.start()


def look(path: str) -> _Look:
    """Return what tells one content of a file from another."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


def _watch(engine: weakref.ref[Engine], path: str, every_s: float, loaded: _Look) -> None:
    pause = threading.Event()
    before = loaded
    while not pause.wait(every_s):
        alive = engine()
        if alive is None:
            return
        seen = look(path)
        # A file that somebody is still writing is not the same at two looks.
        if seen != loaded and seen == before:
            _take_over(alive, path, gone=seen is None)
            loaded = seen
        before = seen
        del alive


def _take_over(engine: Engine, path: str, *, gone: bool) -> None:
    if gone:
        _log.error("the policy file `%s` is gone; the policy that was loaded goes on", path)
        return
    try:
        engine.reload(path)
    except CheckreinError as error:
        _log.error("the policy file `%s` was not taken over, the old one goes on: %s", path, error)
    else:
        _log.warning("the policy file `%s` was taken over: sha256 %s", path, engine.policy_digest)
