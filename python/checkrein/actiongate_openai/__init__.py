"""Gates around the tool calls of an OpenAI-style agent loop: a drop-in for `actiongate_openai`.

The published package 0.2.0 cannot be imported; this one offers the class under both names its documents use.
"""

from checkrein.actiongate_openai.actiongate_openai import (
    GatedToolRunner,
    GateResult,
    ToolGate,
    ToolRegistration,
)

__version__ = "0.2.0"

__all__ = ["GateResult", "GatedToolRunner", "ToolGate", "ToolRegistration"]
