"""What a client was configured with."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class ActGuardConfig:
    """The settings that transports and the event client read."""

    gateway_url: str | None = None
    api_key: str | None = None
    debug: bool = False
    event_mode: str = "verbose"
    flush_interval_ms: int = 1000
    max_batch_events: int = 100
    max_batch_bytes: int = 256_000
    max_queue_events: int = 10_000
    budget_timeout_s: float = 3.0
    budget_max_retries: int = 1
    event_timeout_s: float = 5.0
    event_max_retries: int = 8
    timeout_s: float = 5.0
    max_retries: int = 8
    backoff_base_ms: int = 200
    backoff_max_ms: int = 10_000
    plugins: list[str] | None = None
    plugin_config: dict[str, dict[str, object]] | None = None

    def __repr__(self) -> str:
        # A key in a log is a key that is gone.
        key = "None" if self.api_key is None else "'<redacted>'"
        return (
            f"ActGuardConfig(gateway_url={self.gateway_url!r}, api_key={key}, event_mode={self.event_mode!r})"
        )

    @property
    def events_enabled(self) -> bool:
        """Whether events have a way out."""
        return bool(self.api_key and self.gateway_url and self.event_mode != "off")
