"""How long entering the first budget of a process takes, and which SDKs that imports: `first_guard.py PACKAGE`."""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
import time

SDKS = ("openai", "anthropic", "google.genai")

if __name__ == "__main__":
    package = importlib.import_module(sys.argv[1])
    client = package.Client()
    with client.run():
        before = time.perf_counter()
        with client.budget_guard(user_id="u1"):
            taken = time.perf_counter() - before
    imported = [name for name in SDKS if name in sys.modules]
    installed = [name for name in SDKS if importlib.util.find_spec(name.partition(".")[0]) is not None]
    print(json.dumps({"ms": taken * 1000, "imported": imported, "installed": installed}))
