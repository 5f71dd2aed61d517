"""How long entering the first budget of a process takes, and which SDKs that imports: `first_guard.py PACKAGE`."""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
import time

SDKS = ("openai", "anthropic", "google.genai")


def enter(package: str) -> float:
    """Seconds to enter a budget; in the unified API a run with one."""
    module = importlib.import_module(package)
    if package == "checkrein":
        before = time.perf_counter()
        with module.Engine().run(user="u1", budget="1 usd"):
            return time.perf_counter() - before
    client = module.Client()
    with client.run():
        before = time.perf_counter()
        with client.budget_guard(user_id="u1"):
            return time.perf_counter() - before


if __name__ == "__main__":
    taken = enter(sys.argv[1])
    imported = [name for name in SDKS if name in sys.modules]
    installed = [name for name in SDKS if importlib.util.find_spec(name.partition(".")[0]) is not None]
    print(json.dumps({"ms": taken * 1000, "imported": imported, "installed": installed}))
