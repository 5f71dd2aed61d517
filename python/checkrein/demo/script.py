"""The model of the demo: a script that misbehaves, and that reads what its tools answer as a model would.

It decides from the conversation alone. Without gates it would search in a circle until its patience ends,
send a social security number to the search, refund ten times too much, and refund twice.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

POLICY_QUERY = "refund policy duplicate charge"
PATIENCE = 20
PERSONAL_QUERY = "Maria Keller 078-05-1120 contact"
PLAIN_QUERY = "customer K-1027 contact"
PAYMENT = "pay_2093"
WRONG_CENTS, RIGHT_CENTS = 48000, 4900
MAILS = (
    (
        "maria.keller@example.com",
        "Your refund",
        "49.00 USD for pay_2093 arrive in five working days.",
    ),
    (
        "accounting@example.com",
        "Refund for K-1027",
        "pay_2093 was a duplicate: 49.00 USD refunded.",
    ),
)


@dataclass(frozen=True)
class Exchange:
    """One tool call of the conversation and what came back."""

    tool: str
    arguments: dict[str, Any]
    answer: dict[str, Any]

    @property
    def refused(self) -> bool:
        """Whether the tool did not run."""
        return "refused" in self.answer


def exchanges(messages: list[dict[str, Any]]) -> list[Exchange]:
    """Every tool call of the conversation with its answer, in order."""
    answers = {m["tool_call_id"]: json.loads(m["content"]) for m in messages if m["role"] == "tool"}
    return [
        Exchange(call["function"]["name"], json.loads(call["function"]["arguments"]), answers[call["id"]])
        for message in messages
        for call in message.get("tool_calls") or ()
    ]


def answer(messages: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the next assistant message of the conversation."""
    history = exchanges(messages)
    thought, calls = _next(history)
    if not calls:
        return {"content": thought}
    first = len(history) + 1
    return {
        "content": thought,
        "tool_calls": [
            {
                "id": f"call_{number}",
                "type": "function",
                "function": {"name": tool, "arguments": json.dumps(arguments)},
            }
            for number, (tool, arguments) in enumerate(calls, first)
        ],
    }


Step = tuple[str, list[tuple[str, dict[str, Any]]]]


def _next(history: list[Exchange]) -> Step:
    """What the agent thinks and what it wants to do after `history`."""
    return _search(history) or _refund(history) or _write(history) or ("Ticket 4711 is done.", [])


def _search(history: list[Exchange]) -> Step | None:
    """Search in a circle until somebody stops it, then with data that does not belong into a search."""
    policy = [e for e in history if e.arguments.get("query") == POLICY_QUERY]
    if not any(e.refused for e in policy) and len(policy) < PATIENCE:
        thought = "I need the refund policy." if not policy else "I am not sure I read that right. Once more."
        return thought, [("search", {"query": POLICY_QUERY})]
    personal = [e for e in history if e.arguments.get("query") == PERSONAL_QUERY]
    if not personal:
        return "Now the customer. I have her social security number.", [("search", {"query": PERSONAL_QUERY})]
    if personal[-1].refused and not any(e.arguments.get("query") == PLAIN_QUERY for e in history):
        return "Without the number, then.", [("search", {"query": PLAIN_QUERY})]
    return None


def _refund(history: list[Exchange]) -> Step | None:
    """Refund the wrong amount; if that is refused the right one; and then again, for fear that it failed."""
    refunds = [e for e in history if e.tool == "refund"]

    def refund(cents: int) -> list[tuple[str, dict[str, Any]]]:
        return [("refund", {"payment_id": PAYMENT, "cents": cents})]

    if not refunds:
        return "I refund the duplicate. The amount is 480, I think.", refund(WRONG_CENTS)
    last = refunds[-1]
    if last.answer.get("refused") == ["frozen"] and len(refunds) <= PATIENCE:
        return "Refunds are frozen? I try that again.", refund(last.arguments["cents"])
    if last.refused:
        # A refusal that it cannot do anything about ends the attempt.
        wrong = last.arguments["cents"] == WRONG_CENTS
        return ("The payment was 49.", refund(RIGHT_CENTS)) if wrong else None
    if sum(not e.refused for e in refunds) == 1:
        return "Did that go through? I do it again, to be safe.", refund(last.arguments["cents"])
    return None


def _write(history: list[Exchange]) -> Step | None:
    """Send both mails at once, and again those that were refused."""
    sent = {e.arguments["to"] for e in history if e.tool == "send_mail" and not e.refused}
    tried = [e for e in history if e.tool == "send_mail"]
    calls = [
        ("send_mail", {"to": to, "subject": subject, "body": body})
        for to, subject, body in MAILS
        if to not in sent
    ]
    if not calls or len(tried) >= PATIENCE:
        return None
    return ("I tell the customer and accounting." if not tried else "Then the other one now."), calls
