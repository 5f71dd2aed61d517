"""The policy file of the demo, and the hand that changes it while the agent works."""

from __future__ import annotations

import time
from importlib import resources
from pathlib import Path

import checkrein

FILE, STRICTER = "checkrein.toml", "stricter.toml"
OBSERVE, ENFORCE = 'mode = "observe"', 'mode = "enforce"'
NOBODY, FROZEN = "tools = []", 'tools = ["refund"]'
# What the stricter policy says instead: each is one line of the file.
TIGHTER = (
    ('limit = "0.05 usd"', 'limit = "0.03 usd"'),
    ("same_call = 3", "same_call = 2"),
    ('limit = "100.00 usd"', 'limit = "40.00 usd"'),
    ("max_calls = 20", "max_calls = 1"),
)
WATCH = "50ms"
PATIENCE_S = 30.0

Change = tuple[str, str]


class PolicyFile:
    """A copy of the demo's policy file, in its directory."""

    def __init__(self, directory: Path) -> None:
        """Copy the file into `directory`."""
        self.path = directory / FILE
        self.path.write_text(_text(), encoding="utf-8")

    def change(self, *changes: Change) -> None:
        """Replace lines of the file; each must be there once."""
        self._write(self.path, changes)

    def stricter(self) -> Path:
        """Write a stricter policy beside the file; returns its path."""
        path = self.path.with_name(STRICTER)
        self._write(path, TIGHTER)
        return path

    def _write(self, path: Path, changes: tuple[Change, ...]) -> None:
        text = self.path.read_text(encoding="utf-8")
        for old, new in changes:
            if text.count(old) != 1:
                raise ValueError(f"`{old}` is not there once")
            text = text.replace(old, new)
        # Whoever reads it meanwhile sees the one or the other, never half of it.
        unfinished = path.with_suffix(".new")
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(path)


def _text() -> str:
    return resources.files(__package__).joinpath(FILE).read_text(encoding="utf-8")


def wait_for_reload(engine: checkrein.Engine, before: str | None) -> None:
    """Wait until an engine that watches its file has taken over another one than `before`."""
    until = time.monotonic() + PATIENCE_S
    while engine.policy_digest == before:
        if time.monotonic() > until:
            raise RuntimeError(f"the policy file was not taken over within {PATIENCE_S:.0f} s")
        time.sleep(0.01)
