"""Where events go: a file of JSON lines, OpenTelemetry. Nothing here is imported by anything else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from checkrein.observe.jsonl import JsonlSink

if TYPE_CHECKING:
    from checkrein.engine import Engine
    from checkrein.observe.telemetry import Telemetry

__all__ = ["JsonlSink", "otel"]


def otel(
    engine: Engine | None = None, *, tracer_provider: Any = None, meter_provider: Any = None
) -> Telemetry:
    """Have an engine make OpenTelemetry spans and metrics of its calls, until `remove()` of what is returned.

    engine: `checkrein.default_engine` without it.
    tracer_provider, meter_provider: OpenTelemetry's global ones without them.

    Needs the package `opentelemetry-api`, and raises ConfigError without it.
    """
    import checkrein
    from checkrein.errors import ConfigError

    try:
        from checkrein.observe.telemetry import Telemetry
    except ImportError as error:
        hint = "install it: pip install opentelemetry-api opentelemetry-sdk"
        raise ConfigError("opentelemetry is not installed", "opentelemetry", hint) from error
    return Telemetry(engine or checkrein.default_engine, tracer_provider, meter_provider)
