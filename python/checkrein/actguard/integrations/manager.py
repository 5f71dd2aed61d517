"""Patches the provider SDKs: those that are imported now, and others when they are."""

from __future__ import annotations

import importlib
import sys
from typing import Final

from checkrein.integrations import later

_PATCHES: Final = {
    "openai._base_client": ("checkrein.actguard.integrations.openai", "patch_openai"),
    "anthropic._base_client": ("checkrein.actguard.integrations.anthropic", "patch_anthropic"),
    "google.genai._api_client": ("checkrein.actguard.integrations.google", "patch_google"),
}


def _patch(name: str) -> None:
    where, what = _PATCHES[name]
    getattr(importlib.import_module(where), what)()


_watch: Final = later.Watch(_patch)


def ensure_patched() -> None:
    """Patch what is imported, and watch for what is not: nobody imports an SDK for the sake of a budget."""
    for name in _PATCHES:
        if name in sys.modules:
            _patch(name)
        else:
            _watch.add(name)


def patch_all() -> None:
    """Do the same, under its other name."""
    ensure_patched()


class IntegrationBootstrap:
    """Patches at the first guard of a client."""

    def ensure_patched(self) -> None:
        """Patch what is imported, and watch for what is not."""
        ensure_patched()
