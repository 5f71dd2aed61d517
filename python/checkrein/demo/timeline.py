"""What the demo prints: one aligned line per decision, its reasons below; colours only where they help."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TextIO

from checkrein.demo.tools import dollars

COLOURS = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}
VERDICTS = {"allow": ("green", "✓", "+"), "block": ("red", "✗", "x"), "replay": ("cyan", "↺", "=")}
STEPS = {**VERDICTS, "killed": ("red", "✗", "x"), "started": ("green", "✓", "+")}
INDENT = " " * 11
CALL = 20


class Timeline:
    """Writes the story of the demo to a stream."""

    def __init__(self, stream: TextIO | None = None) -> None:
        """Write to `stream` (standard output); colours appear only on a terminal that wants them."""
        self.stream = stream or sys.stdout
        terminal = self.stream.isatty() and os.environ.get("TERM") != "dumb"
        self.coloured = terminal and not os.environ.get("NO_COLOR")
        self.width = min(shutil.get_terminal_size((80, 24)).columns, 100) if terminal else 80
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
            for part in textwrap.wrap(detail, self.width, break_long_words=False, break_on_hyphens=False):
                self.line(self.paint(part, "dim"))

    def head(self) -> None:
        """Write what the columns of decisions are."""
        self.line(self.paint(f"{'time':>7}  {'verdict':9}  call", "dim"))

    def thought(self, text: str) -> None:
        """Write what the agent says before it acts."""
        for part in self._wrap(f"agent: {text}" if self.plain else f"agent: “{text}”"):
            self.line(INDENT + self.paint(part, "dim"))

    @staticmethod
    def call_text(arguments: Mapping[str, Any]) -> str:
        """Write the arguments of a call for people: amounts in dollars, and nothing over several lines."""
        shown = (dollars(value) + " usd" if name == "cents" else value for name, value in arguments.items())
        return "  ".join(map(str, shown))

    def decision(self, at: float, verdict: str, tool: str, arguments: Mapping[str, Any]) -> None:
        """Write one decision about one call."""
        self._row(f"{at:6.1f}s", verdict, f"{tool:10} {self.call_text(arguments)}")

    def _row(self, time: str, word: str, call: str) -> None:
        colour, sign, ascii_sign = STEPS[word]
        mark = f"{ascii_sign if self.plain else sign} {word:7}"
        room = self.width - CALL
        if len(call) > room:
            # Room for the three characters that an ellipsis takes where there is no Unicode.
            call = call[: room - 3] + "…"
        self.line(f"{time:7}  {self.paint(mark, colour, 'bold')}  {call}")

    def act(self, title: str) -> None:
        """Write the head of another part of the story."""
        self.line()
        self.line(self.paint(title, "bold"))

    def step(self, word: str, name: str, text: str) -> None:
        """Write one step of a story that has no clock."""
        self._row("", word, f"{name:10} {text}")

    def diff(self, change: tuple[str, str]) -> None:
        """Write how one line of a file changed."""
        for sign, text, style in zip("-+", change, ("red", "green"), strict=True):
            self.line(INDENT + self.paint(f"{sign} {text}", style))

    def shell(self, command: str) -> None:
        """Write a command that is run."""
        self.line()
        for number, part in enumerate(textwrap.wrap(command, self.width - 4, break_on_hyphens=False)):
            self.line(self.paint(f"$ {part}" if number == 0 else f"    {part}", "cyan"))

    def quote(self, text: str, *, without: Sequence[str] = ()) -> None:
        """Write what a command printed, close together; blocks whose heads are in `without` are cut, which is shown."""
        for block in text.strip("\n").split("\n\n"):
            if block.splitlines()[0] in without:
                self.line(self.paint("[...]", "dim"))
                continue
            for part in block.splitlines():
                self.line(part)

    def reason(self, code: str, message: str) -> None:
        """Write one reason of a refusal."""
        head = f"{code}  "
        for number, part in enumerate(self._wrap(head + message)):
            if number == 0:
                part = self.paint(code, "red", "bold") + part[len(code) :]
            self.line(INDENT + part)

    def note(self, label: str, text: str, style: str = "dim") -> None:
        """Write something about the call above, with its label."""
        for part in self._wrap(f"{label}: {text}"):
            self.line(INDENT + self.paint(part, style))

    def meaning(self, text: str) -> None:
        """Write what the decision above means for a newcomer."""
        for part in self._wrap(text):
            self.line(INDENT + self.paint(part, "bold"))

    def _wrap(self, text: str) -> list[str]:
        return textwrap.wrap(text, max(self.width - len(INDENT), 30), break_on_hyphens=False) or [""]

    def summary(self, rows: Iterable[tuple[str, str, str]]) -> None:
        """Write the last table: (label, text, style) per row."""
        self.line()
        self.line(self.paint("summary", "bold"))
        for label, text, style in rows:
            for number, part in enumerate(textwrap.wrap(text, max(self.width - 14, 30)) or [""]):
                self.line(f"  {label if number == 0 else '':11} {self.paint(part, style) if style else part}")
