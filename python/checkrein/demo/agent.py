"""The agent of the demo: the real `openai` package and a plain tool loop."""

from __future__ import annotations

import inspect
import json
import time
from collections.abc import Callable, Mapping
from typing import Any

import openai

import checkrein

MODEL = "gpt-5"
MAX_TURNS = 40
# A refusal that says "not yet" for no longer than this is waited out before the model is asked again.
PATIENCE_S = 5.0
SENT_BACK = {"role", "content", "tool_calls"}
TYPES = {str: "string", int: "integer"}
INSTRUCTIONS = "You work for a shop's customer support. Refund and write what the ticket asks for."


class Watcher:
    """What the agent tells whoever watches it; this one does not care."""

    def thought(self, text: str) -> None:
        """Take what the model says before it acts."""

    def calling(self, tool: str, arguments: Mapping[str, Any]) -> None:
        """Take a call that is about to be made."""

    def answered(self, tool: str, answer: Mapping[str, Any]) -> None:
        """Take what is sent back to the model."""

    def waiting(self, seconds: float) -> None:
        """Take how long the agent waits because a refusal asked for it."""

    def paid(self, usage: Mapping[str, int], charged: checkrein.ModelSettlement) -> None:
        """Take what a call of the model used, and what that cost."""

    def penniless(self, decision: checkrein.Decision) -> None:
        """Take why the model cannot be called any more."""


class Agent:
    """Works on one task with the tools that it is given."""

    def __init__(
        self,
        base_url: str,
        tools: Mapping[str, Callable[..., Any]],
        watcher: Watcher,
        engine: checkrein.Engine | None = None,
    ) -> None:
        """Talk to the model at `base_url`; with an engine, as its policy file allows."""
        self.client = openai.OpenAI(base_url=base_url, api_key="no-key-needed", max_retries=0, timeout=30)
        self.tools = tools
        self.watcher = watcher
        self.engine = engine

    def work(self, task: str) -> str:
        """Work until the model calls no tool any more; returns its last words."""
        messages: list[Any] = [
            {"role": "system", "content": INSTRUCTIONS},
            {"role": "user", "content": task},
        ]
        schemas: list[Any] = [schema(name, tool) for name, tool in self.tools.items()]
        for _ in range(MAX_TURNS):
            try:
                message = self._ask({"model": MODEL, "messages": messages, "tools": schemas})
            except checkrein.Denied as denied:
                self.watcher.penniless(denied.decision)
                return ""
            messages.append(message.model_dump(include=SENT_BACK, exclude_none=True))
            self.watcher.thought(message.content or "")
            if not message.tool_calls:
                return message.content or ""
            pause = 0.0
            for call in message.tool_calls:
                if call.type != "function":
                    raise ValueError(f"unknown kind of tool call `{call.type}`")
                answer, retry_after = self._act(call.function.name, json.loads(call.function.arguments))
                messages.append({"role": "tool", "tool_call_id": call.id, "content": json.dumps(answer)})
                if retry_after is not None and retry_after <= PATIENCE_S:
                    pause = max(pause, retry_after)
            if pause:
                self.watcher.waiting(pause)
                time.sleep(pause)
        raise RuntimeError(f"the model did not come to an end in {MAX_TURNS} turns")

    def _ask(self, request: dict[str, Any]) -> Any:
        """Ask the model for its next message: held at the most it can cost, settled by what it reports."""
        if self.engine is None:
            return self.client.chat.completions.create(**request).choices[0].message
        with self.engine.model_call(request=request) as call:
            reply = self.client.chat.completions.create(**request, max_completion_tokens=call.max_output)
            charged = call.settle(reply)
        self.watcher.paid(reply.usage.model_dump(exclude_none=True), charged)
        return reply.choices[0].message

    def _act(self, name: str, arguments: dict[str, Any]) -> tuple[dict[str, Any], float | None]:
        """Call one tool; returns what the model is told, and when a refused call may be tried again."""
        self.watcher.calling(name, arguments)
        retry_after = None
        answer: dict[str, Any]
        try:
            answer = {"result": self.tools[name](**arguments)}
        except checkrein.Denied as denied:
            decision = denied.decision
            retry_after = decision.retry_after
            answer = {
                "refused": [reason.code for reason in decision.reasons],
                "message": decision.to_prompt(),
            }
        self.watcher.answered(name, answer)
        return answer, retry_after


def schema(name: str, tool: Callable[..., Any]) -> dict[str, Any]:
    """Describe a tool to the model; guarding kept its signature and docstring."""
    parameters = inspect.signature(tool, eval_str=True).parameters
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": inspect.getdoc(tool) or "",
            "parameters": {
                "type": "object",
                "properties": {name: {"type": TYPES[found.annotation]} for name, found in parameters.items()},
                "required": list(parameters),
                "additionalProperties": False,
            },
        },
    }
