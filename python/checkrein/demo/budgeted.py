"""The last act of the demo: no policy file, only a run with a budget around the `openai` package."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import openai

import checkrein
from checkrein.demo import server
from checkrein.demo.agent import MODEL
from checkrein.demo.timeline import Timeline

USER = "maria"
BUDGET = "0.005"
RESERVE_OUTPUT = 200
MAX_CALLS = 20
QUESTION = "Tell the customer what happened to her two charges, in two sentences."
ANSWER = (
    "Dear Maria, the second charge of 49.00 USD was a duplicate, and we have refunded it to your card. "
    "It arrives within five working days; please write to us again if it does not."
)


@dataclass
class Budgeted:
    """What was asked, answered, charged and refused."""

    budget: str = BUDGET
    answers: list[str] = field(default_factory=list)
    usages: list[dict[str, int]] = field(default_factory=list)
    spent: list[str] = field(default_factory=list)
    remaining: str = BUDGET
    refused: dict[str, Any] | None = None
    requests: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return vars(self).copy()

    def row(self) -> str:
        """Say it in one line."""
        asked = f"{len(self.answers)} streamed answers for {self.spent[-1] if self.spent else '0'} usd"
        return f"{asked} of {self.budget}; the next: not sent"

    @property
    def good(self) -> bool:
        """Whether the budget held, and what it refused never left."""
        return self.refused is not None and self.requests == len(self.answers) > 0


def play(timeline: Timeline | None, pause: Callable[[], None]) -> Budgeted:
    """Ask for streamed answers until the run's budget does not pay for another; shows it on `timeline`."""
    story = Budgeted()
    pause()
    if timeline is not None:
        timeline.act("Fourth act: no file, a run with a budget around the `openai` package")
        timeline.note("the code", f'with checkrein.run(user="{USER}", budget="${BUDGET}"):')

    def model(messages: list[dict[str, Any]]) -> dict[str, Any]:
        story.requests += 1
        return {"content": ANSWER}

    engine = checkrein.Engine(name="budgeted")
    engine.on_event(lambda event: _heard(story, event))
    with (
        server.serve(model) as url,
        openai.OpenAI(base_url=url, api_key="no-key-needed", max_retries=0, timeout=30) as client,
        engine.run(user=USER, budget=f"${BUDGET}", reserve_output=RESERVE_OUTPUT) as run,
    ):
        checkrein.wrap(client, engine)
        while len(story.answers) < MAX_CALLS:
            pause()
            try:
                answer = _ask(client)
            except checkrein.BudgetExceeded as refusal:
                story.refused = refusal.decision.to_dict()
                if timeline is not None:
                    _show_refusal(timeline, refusal.decision, story)
                break
            story.answers.append(answer)
            story.spent.append(f"{run.spent.usd.normalize():f}")
            story.remaining = f"{(run.remaining.usd or Decimal(0)).normalize():f}"
            if timeline is not None:
                timeline.step("allow", MODEL, f"streamed: {answer}")
                timeline.note("the run", f"{story.spent[-1]} usd spent, {story.remaining} of {BUDGET} left")
    return story


def _ask(client: openai.OpenAI) -> str:
    """Ask for an answer in pieces, as any program does; nobody asks for its usage."""
    pieces = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": QUESTION}], stream=True
    )
    return "".join(piece.choices[0].delta.content or "" for piece in pieces)


def _heard(story: Budgeted, event: checkrein.Event) -> None:
    if event.name == "hold.settled":
        story.usages.append(dict(event.detail["usage"]))


def _show_refusal(timeline: Timeline, decision: checkrein.Decision, story: Budgeted) -> None:
    timeline.step("block", MODEL, f"streamed: {QUESTION}")
    for reason in decision.reasons:
        timeline.reason(reason.code, reason.message)
    timeline.meaning(f"Cut before it is spent: the model's server saw {story.requests} requests.")
