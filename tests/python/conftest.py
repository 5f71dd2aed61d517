"""Says which checkrein the tests run against, and refuses the source tree when the wheel was asked for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from redis_servers import own_redis_server, redis_cluster, redis_server

import checkrein

__all__ = ["own_redis_server", "redis_cluster", "redis_server"]

SOURCE_TREE = Path(__file__).resolve().parents[2] / "python"


def pytest_report_header() -> str:
    """Name the package under test."""
    return f"checkrein: {Path(checkrein.__file__).parent}"


def pytest_configure() -> None:
    """End the run when `make test` would be testing sources instead of the wheel it built."""
    if os.environ.get("CHECKREIN_TEST_INSTALLED") and Path(checkrein.__file__).is_relative_to(SOURCE_TREE):
        pytest.exit(f"checkrein was imported from the source tree ({checkrein.__file__})", returncode=4)
