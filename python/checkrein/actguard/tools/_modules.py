"""The modules of the decorators, which share their names: `from tools import timeout` may be either."""

from __future__ import annotations

import importlib

circuit_breaker = importlib.import_module("checkrein.actguard.tools.circuit_breaker")
idempotent = importlib.import_module("checkrein.actguard.tools.idempotent")
max_attempts = importlib.import_module("checkrein.actguard.tools.max_attempts")
rate_limit = importlib.import_module("checkrein.actguard.tools.rate_limit")
timeout = importlib.import_module("checkrein.actguard.tools.timeout")
