"""Runs the demo: the agent observed, controlled, killed, replayed, and given a budget; and proves what happened."""

from __future__ import annotations

import json
import logging
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from checkrein.demo import replayed
from checkrein.demo.budgeted import play as play_budgeted
from checkrein.demo.crash import play
from checkrein.demo.enforced import Enforced
from checkrein.demo.observed import Observed
from checkrein.demo.policy import ENFORCE, OBSERVE, PolicyFile
from checkrein.demo.story import Story
from checkrein.demo.timeline import Timeline

PAUSE_S = 0.9


class Show:
    """Plays the acts one after the other, and tells what it sees as text or as JSON."""

    def __init__(self, *, fast: bool, json_output: bool, interactive: bool, json_lines: bool = False) -> None:
        """Show at a pace for people unless `fast`; print one JSON document instead if `json_output`.

        With `json_lines` it is an event on each line, and the summary on the last.
        """
        self.json_lines = json_lines
        self.fast = fast
        self.timeline = None if json_output else Timeline()
        self.interactive = interactive and not json_output and sys.stdin.isatty() and sys.stdout.isatty()

    def run(self, keep: Path | None) -> int:
        """Show everything once; returns the exit code."""
        # The demo tells itself what the engine would write to the log.
        logging.getLogger("checkrein").addHandler(logging.NullHandler())
        with workspace(keep) as directory:
            story = self._play(directory)
            self._finish(story)
            if self.timeline is not None and not self.interactive and keep is None:
                print("\nIts files are removed now; `--keep DIRECTORY` leaves them.")
            if self.interactive and keep is None:
                with suppress(EOFError):
                    input(f"\nThe files are in {directory}. Press Enter to remove them. ")
        return 0 if story.verdict.valid and story.crash.good and story.budgeted.good else 1

    def _play(self, directory: Path) -> Story:
        policy = PolicyFile(directory)
        self._title(policy.path)
        observed = Observed(directory, policy.path)
        self._act("First act: one policy file, which observes and lets everything pass")
        observed.play(self.timeline)
        policy.change((OBSERVE, ENFORCE))
        self._act("Second act: the same session, with one line of the file changed")
        if self.timeline is not None:
            self.timeline.diff((OBSERVE, ENFORCE))
            self.timeline.head()
        enforced = Enforced(directory, policy, self.timeline, self._pause)
        enforced.work()
        crash = play(directory, self.timeline, self._pause)
        self._act("Third act: what would a stricter policy have made of the second?")
        replay = (
            replayed.play(directory, policy, self.timeline) if crash.ledger["valid"] is not False else None
        )
        budgeted = play_budgeted(self.timeline, self._pause)
        return Story(observed, enforced, crash, replay, enforced.trail.verify(), budgeted)

    def _act(self, title: str) -> None:
        if self.timeline is not None:
            self._pause()
            self.timeline.act(title)

    def _title(self, policy: Path) -> None:
        if self.timeline is None:
            return
        self.timeline.title(
            "Checkrein demo: a support agent that misbehaves, and what its tools let it do",
            [
                "The model is a script, answering as gpt-5; the agent is the `openai` package.",
                "Refunds go to a database, mails to a spool; nothing leaves this machine.",
                f"The policy: {policy}",
            ],
        )

    def _pause(self) -> None:
        if self.timeline is not None and not self.fast:
            time.sleep(PAUSE_S)

    def _finish(self, story: Story) -> None:
        """Show or print what it came to."""
        if self.timeline is not None:
            self.timeline.summary(story.rows())
            self.timeline.line()
            self.timeline.line(
                "Next: the quick start in README.md, and `checkrein explain cooldown` for a code."
            )
            return
        events, summary = story.enforced.events, story.to_dict()
        if self.json_lines:
            print(*(json.dumps(line) for line in [*events, {"summary": summary}]), sep="\n")
            return
        json.dump({"events": events, "summary": summary}, sys.stdout, indent=2)
        print()


@contextmanager
def workspace(keep: Path | None) -> Iterator[Path]:
    """Make the directory of the demo's files: `keep`, or a temporary one that goes with the demo."""
    if keep is not None:
        keep.mkdir(parents=True)
        yield keep
        return
    with tempfile.TemporaryDirectory(prefix="checkrein-demo-") as directory:
        yield Path(directory)
