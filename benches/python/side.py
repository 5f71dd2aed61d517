"""A worker process and the lines that go to and fro."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any


class Side:
    """One worker process."""

    def __init__(self, name: str, python: str) -> None:
        self.name = name
        worker = Path(__file__).with_name("worker.py")
        self.process = subprocess.Popen(
            [python, str(worker), name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        """Send a request and wait for its answer; a worker that has died answers with an error."""
        if self.process.stdin is None or self.process.stdout is None:
            return {"error": "no pipes"}
        try:
            self.process.stdin.write(json.dumps({"do": do, **request}) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            return {"error": f"the {self.name} process ended with status {self.process.wait()}"}
        reply: dict[str, Any] = json.loads(line)
        return reply

    def close(self) -> None:
        """End the process."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.process.wait()
