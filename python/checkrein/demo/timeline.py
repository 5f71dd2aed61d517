"""What the demo prints: one aligned line per decision, its reasons below; colours only where they help."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Iterable
from typing import TextIO

COLOURS = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}
VERDICTS = {"allow": ("green", "✓", "+"), "block": ("red", "✗", "x"), "replay": ("cyan", "↺", "=")}
STEPS = {**VERDICTS, "killed": ("red", "✗", "x"), "started": ("green", "✓", "+")}
INDENT = " " * 20


class Timeline:
    """Writes the story of the demo to a stream."""

    def __init__(self, stream: TextIO | None = None) -> None:
        """Write to `stream` (standard output); colours appear only on a terminal that wants them."""
        self.stream = stream or sys.stdout
        terminal = self.stream.isatty() and os.environ.get("TERM") != "dumb"
        self.coloured = terminal and not os.environ.get("NO_COLOR")
        self.width = min(shutil.get_terminal_size((100, 24)).columns, 110) if terminal else 100
        try:
            "✗↺·…—".encode(self.stream.encoding or "ascii")
            self.plain = False
        except (UnicodeError, LookupError):
            self.plain = True

    def paint(self, text: str, *styles: str) -> str:
        """Return `text` in these styles, or as it is where there are no colours."""
        if not self.coloured or not text:
            return text
        return f"\x1b[{';'.join(COLOURS[style] for style in styles)}m{text}\x1b[0m"

    def line(self, text: str = "") -> None:
        """Write one line at once: the demo is watched while it runs."""
        if self.plain:
            text = text.translate({ord("·"): "-", ord("…"): "...", ord("—"): "-"})
        print(text, file=self.stream, flush=True)

    def title(self, title: str, details: Iterable[str]) -> None:
        """Write the head of the demo."""
        self.line(self.paint(title, "bold"))
        for detail in details:
            # Paths stay whole, so that they can be copied.
            for part in textwrap.wrap(detail, self.width, break_long_words=False):
                self.line(self.paint(part, "dim"))
        self.line()
        self.line(self.paint(f"{'time':>7}  {'verdict':9}  call", "dim"))

    def thought(self, text: str) -> None:
        """Write what the agent says before it acts."""
        self.line()
        for part in self._wrap(f"agent: {text}" if self.plain else f"agent: “{text}”"):
            self.line(INDENT + self.paint(part, "dim"))

    def decision(self, at: float, verdict: str, tool: str, arguments: Iterable[object]) -> None:
        """Write one decision about one call."""
        colour, sign, ascii_sign = VERDICTS[verdict]
        mark = f"{ascii_sign if self.plain else sign} {verdict:7}"
        call = f"{tool:10} {'  '.join(map(str, arguments))}"
        room = self.width - 20
        if len(call) > room:
            call = call[: room - 1] + "…"
        self.line(f"{at:6.1f}s  {self.paint(mark, colour, 'bold')}  {call}")

    def act(self, title: str) -> None:
        """Write the head of another part of the story."""
        self.line()
        self.line(self.paint(title, "bold"))

    def step(self, word: str, name: str, text: str) -> None:
        """Write one step of a story that has no clock."""
        colour, sign, ascii_sign = STEPS[word]
        mark = f"{ascii_sign if self.plain else sign} {word:7}"
        self.line(f"{'':7}  {self.paint(mark, colour, 'bold')}  {name:10} {text}")

    def reason(self, code: str, message: str) -> None:
        """Write one reason of a refusal."""
        head = f"{code}  "
        for number, part in enumerate(self._wrap(head + message)):
            if number == 0:
                part = self.paint(code, "red", "bold") + part[len(code) :]
            self.line(INDENT + part)

    def note(self, label: str, text: str, style: str = "dim") -> None:
        """Write something about the call above, with its label."""
        parts = self._wrap(text, len(label) + 2)
        for number, part in enumerate(parts):
            head = f"{label}: " if number == 0 else " " * (len(label) + 2)
            self.line(INDENT + self.paint(head + part, style))

    def meaning(self, text: str) -> None:
        """Write what the decision above means for a newcomer."""
        for part in self._wrap(text):
            self.line(INDENT + self.paint(part, "bold"))

    def _wrap(self, text: str, used: int = 0) -> list[str]:
        return textwrap.wrap(text, max(self.width - len(INDENT) - used, 30)) or [""]

    def summary(self, rows: Iterable[tuple[str, str, str]]) -> None:
        """Write the last table: (label, text, style) per row."""
        self.line()
        self.line(self.paint("summary", "bold"))
        for label, text, style in rows:
            for number, part in enumerate(textwrap.wrap(text, max(self.width - 14, 30)) or [""]):
                self.line(f"  {label if number == 0 else '':11} {self.paint(part, style) if style else part}")
