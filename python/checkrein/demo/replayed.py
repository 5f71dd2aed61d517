"""The third act of the demo: what a stricter policy would have made of the session that was recorded."""

from __future__ import annotations

from pathlib import Path

from checkrein.demo.command import MISSING, Answer, ask
from checkrein.demo.place import KEY, LEDGER
from checkrein.demo.policy import STRICTER, TIGHTER, PolicyFile
from checkrein.demo.timeline import Timeline

# So many of the decisions that differ are shown one by one; the JSON has all of them.
SHOWN = "1"


def play(directory: Path, policy: PolicyFile, timeline: Timeline | None) -> Answer | None:
    """Write the stricter policy and replay the exported ledger against it."""
    policy.stricter()
    width = 80 if timeline is None else timeline.width
    verified = ("--ledger", LEDGER, "--key", KEY)
    answer = ask(directory, "replay", "--policy", STRICTER, *verified, "--limit", SHOWN, width=width)
    if timeline is not None:
        timeline.note(STRICTER, ", ".join(new for _, new in TIGHTER))
        timeline.shell(answer.shell if answer else f"checkrein replay --policy {STRICTER}")
        timeline.quote(answer.text if answer else MISSING, without=["by tool"])
    return answer
