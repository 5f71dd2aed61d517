"""Patches the provider SDKs: those that are imported now, and others when they are."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
import threading
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, Final

_PATCHES: Final = {
    "openai._base_client": ("checkrein.actguard.integrations.openai", "patch_openai"),
    "anthropic._base_client": ("checkrein.actguard.integrations.anthropic", "patch_anthropic"),
    "google.genai._api_client": ("checkrein.actguard.integrations.google", "patch_google"),
}


class _Watcher(importlib.abc.MetaPathFinder):
    """Patches an SDK right after the program imports it: nobody imports one for the sake of a budget."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Find the module as it would be found, with a loader that patches afterwards."""
        if fullname not in _PATCHES:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _patching(spec.loader, fullname)
        return spec


def _patching(loader: Any, name: str) -> Any:
    """Return the loader with an `exec_module` that patches when the module is there."""
    execute: Callable[[ModuleType], None] = loader.exec_module

    def exec_module(module: ModuleType) -> None:
        execute(module)
        _patch(name)

    loader.exec_module = exec_module
    return loader


def _patch(name: str) -> None:
    where, what = _PATCHES[name]
    getattr(importlib.import_module(where), what)()


_watching = threading.Lock()
_watcher: _Watcher | None = None


def ensure_patched() -> None:
    """Patch what is imported, and watch for what is not. Idempotent, and cheap."""
    global _watcher
    with _watching:
        if _watcher is None:
            _watcher = _Watcher()
            sys.meta_path.insert(0, _watcher)
    for name in _PATCHES:
        if name in sys.modules:
            _patch(name)


def patch_all() -> None:
    """Do the same, under its other name."""
    ensure_patched()


class IntegrationBootstrap:
    """Patches at the first guard of a client."""

    def ensure_patched(self) -> None:
        """Patch what is imported, and watch for what is not."""
        ensure_patched()
