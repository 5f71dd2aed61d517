"""The modules that are compared: the published packages, or the drop-ins of the same names."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import sys
from types import ModuleType
from typing import Any


def load(side: str, name: str) -> ModuleType:
    """Import `name` from the published package (`side="published"`) or from Checkrein (`side="checkrein"`)."""
    if side == "checkrein":
        return importlib.import_module(f"checkrein.{name}")
    if name == "actiongate_openai":
        return _published_runner()
    return importlib.import_module(name)


def _published_runner() -> ModuleType:
    """Load the runner although its package fails at import: it exports a name that its module does not define."""
    package = importlib.util.find_spec("actiongate_openai")
    if package is None or not package.submodule_search_locations:
        raise ImportError("actiongate_openai is not installed")
    folder = package.submodule_search_locations[0]
    spec = importlib.util.spec_from_file_location(
        "published_runner", f"{folder}/actiongate_openai.py", submodule_search_locations=None
    )
    if spec is None or spec.loader is None:
        raise ImportError("actiongate_openai has no module of its own name")
    module = importlib.util.module_from_spec(spec)
    sys.modules["published_runner"] = module
    spec.loader.exec_module(module)
    if not hasattr(module, "GatedToolRunner"):
        module.GatedToolRunner = module.ToolGate  # type: ignore[attr-defined]
    return module


def versions(side: str) -> dict[str, str]:
    """The installed versions of what is measured."""
    names = ("actiongate", "budgetgate", "rulegate", "auditgate", "actiongate-openai", "actguard")
    if side == "checkrein":
        return {"checkrein": importlib.import_module("checkrein").__version__}
    return {name: importlib.metadata.version(name) for name in names}


def prefill(side: str, check: Any, store: Any, identity: Any, event: Any, events: int) -> None:
    """Put `events` events, one a second, into the window of an engine.

    Ours takes them one by one. The published stores need quadratic time for that, so their list is written
    directly: `event(ts)` makes one entry, and `check` is called once so that the list exists.
    """
    if side == "checkrein":
        for _ in range(events):
            check()
        return
    check()
    for name in getattr(type(store), "__slots__", ()):
        table = getattr(store, name)
        if isinstance(table, dict) and isinstance(table.get(identity), list):
            # The call above was at second 0.
            table[identity][:] = [event(second - events + 1) for second in range(events)]
            return
    raise RuntimeError("the published store keeps its events elsewhere")
