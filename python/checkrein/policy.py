"""Watching a policy file: one that has changed takes over, a bad one is told and changes nothing."""

from __future__ import annotations

import logging
import os
import threading
import weakref
from typing import TYPE_CHECKING

from checkrein.errors import CheckreinError, ConfigError

if TYPE_CHECKING:
    from checkrein.engine import Engine

_log = logging.getLogger("checkrein")

_Look = tuple[int, int, int, int] | None
"""Device, file, size and time of a file; nothing when there is none."""


class _Watch:
    """Looks at the policy file of one engine, until the engine is gone."""

    def __init__(self, engine: Engine, every_s: float, loaded: _Look) -> None:
        self.engine = weakref.ref(engine)
        self.every_s = every_s
        self.loaded = loaded
        self.path = engine._policy

    def start(self) -> None:
        threading.Thread(target=self.run, name="checkrein-policy", daemon=True).start()

    def run(self) -> None:
        pause = threading.Event()
        before = self.loaded
        while not pause.wait(self.every_s):
            engine = self.engine()
            if engine is None:
                return
            if engine._policy != self.path:
                # Somebody took another file over: from now on it is the one to watch.
                self.path, self.loaded = engine._policy, None
            seen = look(self.path or "")
            # A file that somebody is still writing is not the same at two looks.
            if (
                seen != self.loaded
                and seen == before
                and _take_over(engine, self.path or "", gone=seen is None)
            ):
                self.loaded = seen
            before = seen
            del engine


_watches: weakref.WeakKeyDictionary[Engine, _Watch] = weakref.WeakKeyDictionary()


def watch_policy(engine: Engine, every_s: float, loaded: _Look) -> None:
    """Look at the policy file of an engine every so many seconds, until the engine is gone.

    `loaded` is what the file looked like when it was loaded, or before.
    """
    watch = _watches[engine] = _Watch(engine, every_s, loaded)
    watch.start()


def look(path: str) -> _Look:
    """Return what tells one content of a file from another."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


def _take_over(engine: Engine, path: str, *, gone: bool) -> bool:
    """Take a changed file over; returns whether there is nothing left to try again."""
    if gone:
        _log.error("the policy file `%s` is gone; the policy that was loaded goes on", path)
        return True
    try:
        engine.reload(path)
    except CheckreinError as error:
        _log.error("the policy file `%s` was not taken over, the old one goes on: %s", path, error)
        # What is wrong with the file stays wrong; that it could not be read, or the store not be had, may pass.
        return isinstance(error, ConfigError) and error.code != "policy_unreadable"
    _log.warning("the policy file `%s` was taken over: sha256 %s", path, engine.policy_digest)
    return True


def _after_fork() -> None:
    """Threads do not survive a fork; engines on a server do."""
    for engine, watch in list(_watches.items()):
        if engine._shared:
            watch.start()


os.register_at_fork(after_in_child=_after_fork)
